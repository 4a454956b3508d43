#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>

#include "base/error.h"
#include "server/openai_types.h"
#include "server/test_client.h"

namespace videre {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

ChatAnswerOptions options() {
  ChatAnswerOptions options;
  options.id = "chatcmpl-1";
  options.model = "m";
  options.created_s = 1700000000;
  return options;
}

OutputDelta text_delta(int index, std::string text, int num_tokens = 1) {
  OutputDelta delta;
  delta.index = index;
  delta.text = std::move(text);
  delta.token_ids.assign(num_tokens, 5);
  return delta;
}

OutputDelta end_delta(int index, FinishReason reason, std::string text = "") {
  OutputDelta delta;
  delta.index = index;
  delta.text = std::move(text);
  delta.finish_reason = reason;
  return delta;
}

Usage usage() {
  return {.prompt_tokens = 10, .completion_tokens = 3, .text_tokens = 4, .image_tokens = 6};
}

std::string chunk(const std::string& choice, const std::string& more = "") {
  return R"({"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"m",)"
         R"("choices":[)" +
         choice + "]" + more + "}";
}
std::string role_chunk(int index) {
  return chunk(
      fmt::format(R"({{"index":{},"delta":{{"role":"assistant","content":""}},"logprobs":null,)"
                  R"("finish_reason":null}})",
                  index));
}
std::string text_chunk(int index, const std::string& text) {
  return chunk(fmt::format(R"({{"index":{},"delta":{{"content":"{}"}},"logprobs":null,)"
                           R"("finish_reason":null,"token_ids":null}})",
                           index, text));
}

TEST(ChatAnswer, GoldenObject) {
  ChatAnswer answer(options(), 1);
  answer.add(text_delta(0, "Hel"));
  answer.add(text_delta(0, "lo"));
  answer.add(end_delta(0, FinishReason::kStop, " \"\xC3\xA9\"\n"));
  EXPECT_EQ(answer.to_json(usage()),
            R"({"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"m",)"
            R"("choices":[{"index":0,"message":{"role":"assistant","content":"Hello \")"
            "\xC3\xA9"
            R"(\"\n","refusal":null,"annotations":null,"audio":null,"function_call":null,)"
            R"("tool_calls":[],"reasoning_content":null},"logprobs":null,"finish_reason":"stop",)"
            R"("stop_reason":null,"token_ids":null}],"service_tier":null,)"
            R"("system_fingerprint":null,"usage":{"prompt_tokens":10,"total_tokens":13,)"
            R"("completion_tokens":3,"prompt_tokens_details":null},"prompt_logprobs":null,)"
            R"("prompt_token_ids":null,"kv_transfer_params":null})");
}

TEST(ChatAnswer, ChoicesStopReasonsAndDetails) {
  ChatAnswerOptions with = options();
  with.return_token_ids = true;
  with.prompt_tokens_details = true;
  ChatAnswer answer(with, 3);
  answer.add(text_delta(1, "b"));
  answer.add(text_delta(0, "a", 2));
  OutputDelta by_id = end_delta(0, FinishReason::kStop);
  by_id.stop_reason = 42;
  answer.add(by_id);
  OutputDelta by_text = end_delta(1, FinishReason::kStop);
  by_text.stop_reason = std::string("END");
  answer.add(by_text);
  answer.add(end_delta(2, FinishReason::kLength));
  const std::string json = answer.to_json(usage());
  EXPECT_THAT(json, HasSubstr(R"("stop_reason":42,"token_ids":[5,5])"));
  EXPECT_THAT(json, HasSubstr(R"("stop_reason":"END","token_ids":[5])"));
  EXPECT_THAT(json, HasSubstr(R"("finish_reason":"length","stop_reason":null,"token_ids":[])"));
  EXPECT_THAT(json, HasSubstr(R"("prompt_tokens_details":{"cached_tokens":0,"multimodal_tokens":)"
                              R"({"image":6,"video":0},"text_tokens":4,"image_tokens":6,)"
                              R"("video_tokens":0})"));
}

TEST(ChatAnswer, Logprobs) {
  ChatAnswerOptions with = options();
  with.logprobs = true;
  OutputDelta delta = text_delta(0, "x");
  TokenLogprob token{.token_id = 9, .text = "\xE2\x82", .logprob = -0.5f, .rank = 1};
  token.top.push_back({.token_id = 9, .text = "\xE2\x82", .logprob = -0.5f, .rank = 1});
  token.top.push_back(
      {.token_id = 4, .text = "b", .logprob = -std::numeric_limits<float>::infinity(), .rank = 2});
  delta.logprobs.push_back(token);
  ChatAnswer answer(with, 1);
  answer.add(delta);
  answer.add(end_delta(0, FinishReason::kStop));
  // Half a character: U+FFFD as text, its true bytes beside it.
  EXPECT_THAT(answer.to_json({}),
              HasSubstr("\"logprobs\":{\"content\":[{\"token\":\"\xEF\xBF\xBD\xEF\xBF\xBD\","
                        "\"logprob\":-0.5,\"bytes\":[226,130],\"top_logprobs\":[{\"token\":"
                        "\"\xEF\xBF\xBD\xEF\xBF\xBD\",\"logprob\":-0.5,\"bytes\":[226,130]},"
                        "{\"token\":\"b\",\"logprob\":-9999.0,\"bytes\":[98]}]}]}"));
  with.return_tokens_as_token_ids = true;
  ChatAnswer as_ids(with, 1);
  as_ids.add(delta);
  EXPECT_THAT(as_ids.to_json({}), HasSubstr(R"("token":"token_id:9")"));

  ChatStream stream(with, 1);
  std::string out;
  OutputDelta held = delta;
  held.text.clear();  // text may come later than its token
  stream.append(out, held, {});
  EXPECT_THAT(out, HasSubstr(R"("delta":{"content":""},"logprobs":{"content":[{"token":)"));
}

TEST(ChatStream, GoldenOrder) {
  ChatStream stream(options(), 1);
  std::string out;
  stream.append(out, text_delta(0, "Hi"), usage());
  stream.append(out, text_delta(0, ""), usage());  // nothing to show: no chunk
  stream.append(out, text_delta(0, "\xF0\x9F\x98\x80"), usage());
  OutputDelta end = end_delta(0, FinishReason::kStop, "!");
  end.stop_reason = std::string("STOP");
  stream.append(out, end, usage());
  stream.append_end(out, usage());
  EXPECT_EQ(out.substr(0, 6), "data: ");
  EXPECT_EQ(out.substr(out.size() - 16), "\n\ndata: [DONE]\n\n");
  EXPECT_THAT(events_of(out),
              ElementsAre(role_chunk(0), text_chunk(0, "Hi"), text_chunk(0, "\xF0\x9F\x98\x80"),
                          chunk(R"({"index":0,"delta":{"content":"!"},"logprobs":null,)"
                                R"("finish_reason":"stop","stop_reason":"STOP",)"
                                R"("token_ids":null})"),
                          "[DONE]"));
}

TEST(ChatStream, ChoicesInterleave) {
  ChatStream stream(options(), 2);
  std::string out;
  stream.append(out, text_delta(1, "b"), usage());
  stream.append(out, text_delta(0, "a"), usage());
  stream.append(out, end_delta(1, FinishReason::kLength), usage());
  stream.append(out, text_delta(0, "c"), usage());
  stream.append(out, end_delta(0, FinishReason::kStop), usage());
  stream.append_end(out, usage());
  const auto end = [](int index, const char* reason) {
    return chunk(fmt::format(R"({{"index":{},"delta":{{}},"logprobs":null,"finish_reason":"{}",)"
                             R"("stop_reason":null,"token_ids":null}})",
                             index, reason));
  };
  EXPECT_THAT(events_of(out),
              ElementsAre(role_chunk(0), role_chunk(1), text_chunk(1, "b"), text_chunk(0, "a"),
                          end(1, "length"), text_chunk(0, "c"), end(0, "stop"), "[DONE]"));
}

TEST(ChatStream, UsageChunkAndRunningUsage) {
  ChatAnswerOptions with = options();
  with.include_usage = true;
  ChatStream stream(with, 1);
  std::string out;
  stream.append(out, text_delta(0, "a"), usage());
  stream.append(out, end_delta(0, FinishReason::kStop), usage());
  stream.append_end(out, usage());
  auto events = events_of(out);
  ASSERT_EQ(events.size(), 5u);
  EXPECT_EQ(events[3], chunk("", R"(,"usage":{"prompt_tokens":10,"total_tokens":13,)"
                                 R"("completion_tokens":3})"));
  EXPECT_THAT(events[1], testing::Not(HasSubstr("usage")));

  with.continuous_usage = true;
  ChatStream running(with, 1);
  out.clear();
  running.append(out, text_delta(0, "a", 2), usage());
  events = events_of(out);
  EXPECT_THAT(events[0], HasSubstr(R"("total_tokens":10,"completion_tokens":0)"));
  EXPECT_THAT(events[1], HasSubstr(R"("total_tokens":12,"completion_tokens":2)"));
}

TEST(ChatStream, TokenIdsBeforeTheirText) {
  ChatAnswerOptions with = options();
  with.return_token_ids = true;
  ChatStream stream(with, 1);
  std::string out;
  stream.append(out, text_delta(0, "", 2), usage());
  EXPECT_THAT(events_of(out)[1], HasSubstr(R"("delta":{"content":""},"logprobs":null,)"
                                           R"("finish_reason":null,"token_ids":[5,5])"));
}

TEST(ErrorBody, Shapes) {
  EXPECT_EQ(error_body(invalid_argument("temperature", "temperature is 9")).json,
            R"({"error":{"message":"temperature is 9","type":"BadRequestError",)"
            R"("param":"temperature","code":400}})");
  EXPECT_EQ(error_body(invalid_argument("body.stop", "stop is 5")).json,
            R"({"error":{"message":"stop is 5","type":"Bad Request","param":"body.stop",)"
            R"("code":400}})");
  EXPECT_EQ(error_body(make_error(ErrorCode::kOverloaded, "", "full")).json,
            R"({"error":{"message":"full","type":"RateLimitError","param":null,"code":429}})");
  EXPECT_EQ(error_body(404, "", "there is no /x").json,
            R"({"error":{"message":"there is no /x","type":"NotFoundError","param":null,)"
            R"("code":404},"detail":"Not Found"})");
  // Faults of ours say nothing of the inside.
  EXPECT_EQ(error_body(internal_error("secret /path 0x1234")).json,
            R"({"error":{"message":"Internal server error","type":"InternalServerError",)"
            R"("param":null,"code":500}})");
}

TEST(ErrorBody, LongAndBrokenTextStaysShortAndValid) {
  std::string text = "\xff\xfe";
  for (int i = 0; i < 5000; ++i) text += "\xC3\xA9";
  const ErrorBody body = error_body(invalid_argument(text, "{}", text));
  EXPECT_LE(body.json.size(), 1400u);
  EXPECT_TRUE(parse_json(body.json, "it").ok());  // valid UTF-8 among others
}

}  // namespace
}  // namespace videre
