#include "cli/accuracy.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace videre {
namespace {

namespace fs = std::filesystem;

using Kind = AnswerCheck::Kind;

std::map<std::string, double> score(Kind kind, const std::string& truth, const std::string& answer,
                                    double scale = 0) {
  return score_answer({kind, truth, scale}, answer);
}
bool right(Kind kind, const std::string& truth, const std::string& answer) {
  return score(kind, truth, answer).at("right") == 1;
}

TEST(ScoreTest, ExactIsExact) {
  EXPECT_TRUE(right(Kind::kExact, "Sam Klein", "Sam Klein"));
  EXPECT_FALSE(right(Kind::kExact, "Sam Klein", "sam klein"));
  EXPECT_FALSE(right(Kind::kExact, "Sam Klein", "Sam Klein "));
  EXPECT_FALSE(right(Kind::kExact, "Sam Klein", ""));
}

TEST(ScoreTest, LinesCountLinesAndCharacters) {
  auto got = score(Kind::kLines, "one\ntwo\nthree", "one\ntwo\nthree");
  EXPECT_EQ(got, (std::map<std::string, double>{{"right", 1}, {"lines", 1}, {"characters", 1}}));
  got = score(Kind::kLines, "one\ntwo\nthree", "one\ntwu\nthree");  // one edit of 13 characters
  EXPECT_EQ(got["right"], 0);
  EXPECT_DOUBLE_EQ(got["lines"], 2.0 / 3);
  EXPECT_DOUBLE_EQ(got["characters"], 1 - 1.0 / 13);
  got = score(Kind::kLines, "one\ntwo\nthree", "one");
  EXPECT_DOUBLE_EQ(got["lines"], 1.0 / 3);
  EXPECT_DOUBLE_EQ(got["characters"], 1 - 10.0 / 13);
  EXPECT_EQ(score(Kind::kLines, "ab", "a very long answer")["characters"], 0);  // never below
  EXPECT_DOUBLE_EQ(score(Kind::kLines, "größe", "grösse")["characters"], 1 - 2.0 / 5);
}

TEST(ScoreTest, ValuesMayBeFivePercentOff) {
  EXPECT_TRUE(right(Kind::kWithin, "200", "200"));
  EXPECT_TRUE(right(Kind::kWithin, "200", "210"));
  EXPECT_TRUE(right(Kind::kWithin, "200", " 190.0\n"));
  EXPECT_FALSE(right(Kind::kWithin, "200", "211"));
  EXPECT_FALSE(right(Kind::kWithin, "200", "about 200"));
  EXPECT_FALSE(right(Kind::kWithin, "200", ""));
  EXPECT_FALSE(right(Kind::kWithin, "4", std::string(100, '4')));
  const auto got = score(Kind::kWithin, "10", "14", 100);
  EXPECT_EQ(got.at("right"), 0);
  EXPECT_EQ(got.at("of_largest"), 1);
  EXPECT_EQ(got.at("exact"), 0);
}

TEST(ScoreTest, TimesMayBeHalfASecondOff) {
  const std::string truth = "alpha at 0.40 seconds and beta at 12.00 seconds.";
  EXPECT_TRUE(right(Kind::kTimes, truth, truth));
  EXPECT_TRUE(right(Kind::kTimes, truth, "alpha at 0.90 seconds and beta at 11.50 seconds."));
  EXPECT_FALSE(right(Kind::kTimes, truth, "alpha at 0.91 seconds and beta at 12.00 seconds."));
  EXPECT_FALSE(right(Kind::kTimes, truth, "alpha at 0.40 seconds and betas at 12.00 seconds."));
  EXPECT_FALSE(right(Kind::kTimes, truth, "alpha at 0.40 seconds."));
  EXPECT_FALSE(right(Kind::kTimes, truth, "alpha at 4 seconds and beta at 12.00 seconds."));
  EXPECT_TRUE(right(Kind::kTimes, "alpha, beta", "alpha, beta"));
  EXPECT_FALSE(right(Kind::kTimes, "alpha, beta", "alpha, gamma"));
}

TEST(ScoreTest, ThoughtEndsBeforeTheAnswer) {
  const std::string truth = "The sum is 7.";
  auto got = score(Kind::kThink, truth, "3 + 4 = 7\n</think>\nThe sum is 7.");
  EXPECT_EQ(got, (std::map<std::string, double>{{"right", 1}, {"well_formed", 1}}));
  got = score(Kind::kThink, truth, "3 + 4 = 8\n</think>\nThe sum is 8.");
  EXPECT_EQ(got, (std::map<std::string, double>{{"right", 0}, {"well_formed", 1}}));
  got = score(Kind::kThink, truth, "The sum is 7.");
  EXPECT_EQ(got, (std::map<std::string, double>{{"right", 0}, {"well_formed", 0}}));
  got = score(Kind::kThink, truth, "a\n</think>\nb</think>");
  EXPECT_EQ(got["well_formed"], 0);
}

TEST(ScoreTest, ToolCallsAreComparedAsValues) {
  const std::string truth =
      R"(<TOOLCALL>[{"name": "add", "arguments": {"a": 1, "b": "x"}}]</TOOLCALL>)";
  EXPECT_TRUE(right(Kind::kTool, truth, truth));
  EXPECT_TRUE(right(Kind::kTool, truth,
                    R"(<TOOLCALL>[{"arguments":{"b":"x","a":1.0},"name":"add"}]</TOOLCALL>)"));
  for (const char* wrong :
       {R"(<TOOLCALL>[{"name": "add", "arguments": {"a": 2, "b": "x"}}]</TOOLCALL>)",
        R"(<TOOLCALL>[{"name": "add", "arguments": {"a": 1}}]</TOOLCALL>)",
        R"(<TOOLCALL>[{"name": "sum", "arguments": {"a": 1, "b": "x"}}]</TOOLCALL>)"}) {
    const auto got = score(Kind::kTool, truth, wrong);
    EXPECT_EQ(got.at("valid"), 1) << wrong;
    EXPECT_EQ(got.at("right"), 0) << wrong;
  }
  for (const char* broken :
       {"", "<TOOLCALL>[", "<TOOLCALL>]</TOOLCALL>", "<TOOLCALL>[]</TOOLCALL>",
        R"(<TOOLCALL>[{"name": "add"}]</TOOLCALL>)", R"(<TOOLCALL>[{"name": "add",]</TOOLCALL>)",
        R"(<TOOLCALL>[{"name": "add", "arguments": [1]}]</TOOLCALL>)",
        R"(<TOOLCALL>[{"name": "add", "arguments": {}, "id": 1}]</TOOLCALL>)",
        R"(x<TOOLCALL>[{"name": "add", "arguments": {}}]</TOOLCALL>)"}) {
    EXPECT_EQ(score(Kind::kTool, truth, broken).at("valid"), 0) << broken;
  }
}

class RequestFolderTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("videre_requests_" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name) << text;
  }
  std::string error() {
    auto read = read_request_folder(folder_.string(), "--set");
    if (read.ok()) {
      auto samples = evaluation_samples(std::move(*read), "--set");
      return samples.ok() ? "" : samples.error().message;
    }
    return read.error().message;
  }

  fs::path folder_;
};

TEST_F(RequestFolderTest, ReadsBodiesAndLines) {
  write("page one.png", "x");
  write("b.json", R"({"messages": [{"role": "user", "content": [
      {"type": "image_url", "image_url": {"url": "page one.png"}},
      {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
      {"type": "text", "text": "read"}]}], "max_tokens": 3})");
  write(
      "a.jsonl",
      R"({"task": "t", "request": {"messages": [{"role": "user", "content": "hi"}]}, "check": {"kind": "exact", "truth": "ho"}})"
      "\n\n"
      R"({"messages": [{"role": "user", "content": "alone"}]})");
  write("notes.txt", "not read");
  auto read = read_request_folder(folder_.string(), "--set");
  ASSERT_TRUE(read.ok()) << read.error().message;
  ASSERT_EQ(read->size(), 3u);
  EXPECT_EQ((*read)[0].where, "a.jsonl:1");
  EXPECT_EQ((*read)[1].where, "a.jsonl:3");
  EXPECT_EQ((*read)[2].where, "b.json");
  const auto& parts = (*read)[2].request.messages.at(0).content;
  EXPECT_EQ(parts.at(0).media.url, "file://" + folder_.string() + "/page%20one.png");
  EXPECT_EQ(parts.at(1).media.url, "data:image/png;base64,AA==");
  EXPECT_EQ((*read)[2].request.sampling.max_tokens, 3);

  auto samples = evaluation_samples(std::move(*read), "--set");
  ASSERT_TRUE(samples.ok()) << samples.error().message;
  ASSERT_EQ(samples->size(), 1u);  // what has a check
  EXPECT_EQ((*samples)[0].task, "t");
  EXPECT_EQ((*samples)[0].check.truth, "ho");

  EXPECT_EQ(read_calibration(folder_.string(), "--calibration")->size(), 3u);
  write("calibration.jsonl", R"({"messages": [{"role": "user", "content": "scales"}]})");
  EXPECT_EQ(read_calibration(folder_.string(), "--calibration")->size(), 1u);
}

TEST_F(RequestFolderTest, SaysWhatIsWrongAndWhere) {
  EXPECT_NE(error().find("holds no request"), std::string::npos);
  const std::pair<const char*, const char*> kCases[] = {
      {"{", "a.jsonl:1"},
      {R"({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "gone.png"}}]}]})",
       "gone.png is no file"},
      {R"({"messages": 3})", "messages"},
      {R"({"task": "t", "request": {"messages": [{"role": "user", "content": "hi"}]}, "check": {"kind": "maybe", "truth": ""}})",
       "maybe"},
      {R"({"task": "t", "request": {"messages": [{"role": "user", "content": "hi"}]}, "check": 1})",
       "needs \"kind\""},
      {R"({"request": {"messages": [{"role": "user", "content": "hi"}]}, "check": {"kind": "exact", "truth": ""}})",
       "names no task"},
      {R"({"task": "t", "request": {"messages": [{"role": "user", "content": "hi"}]}, "check": {"kind": "within", "truth": "x"}})",
       "a number is expected"}};
  for (const auto& [line, says] : kCases) {
    write("a.jsonl", line);
    const std::string message = error();
    EXPECT_NE(message.find(says), std::string::npos) << line << " -> " << message;
    EXPECT_NE(message.find("a.jsonl:1"), std::string::npos) << message;
  }
  fs::remove_all(folder_);
  EXPECT_NE(error().find("cannot be read"), std::string::npos);
}

std::vector<std::string> missed(const char* expected, const char* report) {
  auto got = missed_expectations(parse_json(expected, "expected").value(),
                                 parse_json(report, "report").value());
  if (!got.ok()) return {"error: " + got.error().message};
  return *got;
}

TEST(ExpectationTest, MissesAreSaid) {
  const char* report =
      R"({"tasks": {"line": {"right": 97.0, "count": 9}, "page": {"lines": 90.5}}, "mean": 93.0,
          "variants": {"fp8": {"cost": 0.4}}})";
  EXPECT_TRUE(
      missed(R"({"tasks": {"line": {"right": 97}}, "mean": 93, "cost": {"fp8": 0.4}})", report)
          .empty());
  EXPECT_EQ(missed(R"({"tasks": {"line": {"right": 98}, "page": {"lines": 95}}})", report),
            (std::vector<std::string>{"line right is 97.0 %, expected 98.0 %",
                                      "page lines is 90.5 %, expected 95.0 %"}));
  EXPECT_EQ(missed(R"({"mean": 93.1})", report).size(), 1u);
  EXPECT_EQ(missed(R"({"cost": {"fp8": 0.3}})", report).size(), 1u);
  EXPECT_TRUE(missed(R"({"cost": {"nvfp4": 1}})", report).empty());  // was not run
  // What cannot be looked up is no success.
  EXPECT_EQ(missed(R"({"tasks": {"lines": {"right": 1}}})", report),
            std::vector<std::string>{"error: the set has no task lines"});
  EXPECT_TRUE(
      missed(R"({"tasks": {"lines": {"right": 1}}})", R"({"tasks": {}, "selection": "page"})")
          .empty());
  for (const char* wrong :
       {"[]", R"({"task": {}})", R"({"tasks": {"line": {"wrong": 1}}})", R"({"mean": "high"})",
        R"({"tasks": {"line": 97}})", R"({"cost": 3})"}) {
    const auto got = missed(wrong, report);
    ASSERT_EQ(got.size(), 1u) << wrong;
    EXPECT_EQ(got[0].rfind("error: ", 0), 0u) << wrong << " -> " << got[0];
  }
}

// The small random checkpoint is never right; what counts is that all is asked, in parallel, and
// scored.
TEST(EvaluateTest, AsksEverySample) {
  EngineOptions options;
  options.model = std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint";
  options.max_model_len = 512;
  std::vector<StoredRequest> stored;
  std::string lines;
  for (int i = 0; i < 70; ++i) {
    lines += R"({"task": ")" + std::string(i % 2 ? "odd" : "even") +
             R"(", "request": {"messages": [{"role": "user", "content": "question )" +
             std::to_string(i) +
             R"("}], "max_tokens": 4}, "check": {"kind": "exact", "truth": ""}})" + "\n";
  }
  stored = parse_requests(lines, "a.jsonl", ".", "--set").value();
  const auto samples = evaluation_samples(std::move(stored), "--set").value();
  int64_t last = 0;
  auto got = evaluate(
      options, samples, {},
      [&](int64_t done, int64_t all) {
        EXPECT_EQ(done, last + 1);
        EXPECT_EQ(all, 70);
        last = done;
      },
      nullptr);
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(last, 70);
  EXPECT_EQ(got->tasks.at("odd").count, 35);
  EXPECT_EQ(got->tasks.at("even").count, 35);
  EXPECT_EQ(got->completion_tokens, 280);
  for (size_t i = 0; i < samples.size(); ++i) {
    EXPECT_EQ(got->answers[i].sample, &samples[i]);
    EXPECT_FALSE(got->answers[i].text.empty());
  }
  // The same again, one at a time.
  options.max_num_seqs = 1;
  auto alone = evaluate(options, samples, {}, {}, nullptr);
  ASSERT_TRUE(alone.ok()) << alone.error().message;
  int equal = 0;
  for (size_t i = 0; i < samples.size(); ++i) {
    equal += alone->answers[i].text == got->answers[i].text;
  }
  EXPECT_GE(equal, 65);  // bfloat16: a tie may fall otherwise in other company

  std::atomic<bool> cancel{true};
  EXPECT_EQ(evaluate(options, samples, {}, {}, &cancel).error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace videre
