#include "cli/speed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "server/fake_engine.h"

namespace videre {
namespace {

using testing::AllOf;
using testing::Each;
using testing::Ge;
using testing::HasSubstr;
using testing::Lt;

// Ids below 10 are special, 10 and 11 are "<" and a part of a character, the rest are letters.
class TestEngine : public FakeEngine {
 public:
  TestEngine() { info_.vocab_size = 64; }
  const ModelInfo& info() const override { return info_; }
  std::string detokenize(const std::vector<int32_t>& ids, bool) const override {
    std::string out;
    for (const int32_t id : ids) {
      if (id < 10) continue;
      out += id == 10   ? "<"
             : id == 11 ? "\xef\xbf\xbd"
                        : std::string(1, static_cast<char>('A' + id - 12));
    }
    return out;
  }

 private:
  ModelInfo info_;
};

TEST(Percentile, GoesStraightBetweenNeighbours) {
  EXPECT_EQ(percentile({}, 50), 0);
  EXPECT_EQ(percentile({7}, 99), 7);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 0), 1);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 50), 2.5);
  EXPECT_EQ(percentile({4, 1, 3, 2}, 100), 4);
  EXPECT_DOUBLE_EQ(percentile({10, 20, 30, 40, 50}, 90), 46);
}

TEST(ImageSize, IsWidthThenHeight) {
  SpeedLoad load;
  ASSERT_TRUE(parse_image_size("1024x768", load).ok());
  EXPECT_EQ(load.image_width, 1024);
  EXPECT_EQ(load.image_height, 768);
  for (const char* bad : {"", "x", "5", "5x", "x5", "0x5", "5x0", "-5x5", "5x5x5", "5 x 5",
                          "99999x5", "5x99999", "99999999999x5"}) {
    const Status status = parse_image_size(bad, load);
    ASSERT_FALSE(status.ok()) << bad;
    EXPECT_THAT(status.error().message, HasSubstr("WIDTHxHEIGHT"));
  }
}

TEST(RandomRequests, AreAsLongAsAskedAndHaveNoSpecialTokens) {
  const TestEngine engine;
  SpeedLoad load;
  load.input_len = 200;
  load.output_len = 5;
  const auto requests = random_requests(engine, load, 3, 1);
  ASSERT_EQ(requests.size(), 3u);
  for (const Request& request : requests) {
    ASSERT_TRUE(request.prompt_token_ids);
    EXPECT_EQ(request.prompt_token_ids->size(), 200u);
    EXPECT_THAT(*request.prompt_token_ids, Each(AllOf(Ge(10), Lt(64))));
    EXPECT_EQ(request.sampling.temperature, 0);
    EXPECT_EQ(request.sampling.max_tokens, 5);
    EXPECT_TRUE(request.sampling.ignore_eos);
  }
  EXPECT_NE(requests[0].prompt_token_ids, requests[1].prompt_token_ids);
  EXPECT_EQ(requests[1].prompt_token_ids, random_requests(engine, load, 2, 1)[1].prompt_token_ids);
  EXPECT_NE(requests[0].prompt_token_ids, random_requests(engine, load, 1, 2)[0].prompt_token_ids);
}

TEST(RandomRequests, BringDifferentMediaForEachPlaceholder) {
  const TestEngine engine;
  SpeedLoad load;
  load.num_images = 2;
  load.num_videos = 1;
  load.num_frames = 3;
  load.image_width = 5;
  load.image_height = 4;
  const auto requests = random_requests(engine, load, 2, 1);
  const Request& request = requests[0];
  ASSERT_TRUE(request.prompt);
  EXPECT_EQ(request.prompt->rfind("<image><image><video>\n", 0), 0u);
  EXPECT_EQ(request.prompt->find('<', 16), std::string::npos) << *request.prompt;
  ASSERT_EQ(request.media.size(), 3u);
  const RgbFrames& picture = *request.media[0].media.frames;
  EXPECT_EQ(picture.pixels().size(), 5u * 4 * 3);
  EXPECT_EQ(picture.width, 5);
  const RgbFrames& clip = *request.media[2].media.frames;
  EXPECT_EQ(request.media[2].kind, ContentPart::Kind::kVideo);
  EXPECT_EQ(clip.pixels().size(), 3u * 5 * 4 * 3);
  EXPECT_EQ(clip.frames_indices, (std::vector<int64_t>{0, 1, 2}));
  EXPECT_EQ(clip.fps, 2);
  EXPECT_NE(picture.rgb, request.media[1].media.frames->rgb);
  EXPECT_NE(picture.rgb, requests[1].media[0].media.frames->rgb);
}

TEST(RunBatch, TimesEachRequestWhenItsTokensCome) {
  TestEngine engine;
  std::thread pusher([&] {
    const auto one = engine.generation(0), two = engine.generation(1);
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    one->push("a");
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    two->push("a");
    two->finish();
    std::this_thread::sleep_for(std::chrono::milliseconds(30));
    one->push("b");
    one->finish();
  });
  std::vector<int64_t> done;
  const auto times = run_batch(
      engine, random_requests(engine, {}, 2, 1), [&](int64_t count) { done.push_back(count); },
      nullptr);
  pusher.join();
  ASSERT_TRUE(times.ok()) << times.error().message;
  const auto& requests = times->requests;
  EXPECT_GE(requests[0].first_s, 0.03);
  EXPECT_GE(requests[1].first_s, requests[0].first_s + 0.02);
  EXPECT_GE(requests[0].last_s, requests[0].first_s + 0.05);
  EXPECT_GE(times->total_s, requests[0].last_s);
  EXPECT_EQ(requests[0].usage.completion_tokens, 2);
  EXPECT_EQ(requests[1].usage.completion_tokens, 1);
  EXPECT_EQ(done, (std::vector<int64_t>{1, 2}));
}

TEST(RunBatch, TakesWhatCameBeforeItListened) {
  TestEngine engine;
  engine.on_submit = [](FakeGeneration& generation) {
    generation.push("a");
    generation.finish();
  };
  const auto times = run_batch(engine, random_requests(engine, {}, 50, 1), {}, nullptr);
  ASSERT_TRUE(times.ok());
  for (const RequestTimes& request : times->requests) EXPECT_GT(request.first_s, 0);
}

TEST(RunBatch, EndsWithTheFirstErrorAndLeavesNothing) {
  TestEngine engine;
  engine.on_submit = [&](FakeGeneration& generation) {
    if (engine.num_submitted() == 2) generation.fail({ErrorCode::kTooLarge, "too long", ""});
  };
  auto times = run_batch(engine, random_requests(engine, {}, 3, 1), {}, nullptr);
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().message, "too long");

  engine.on_submit = [](FakeGeneration& generation) { generation.cancel(); };
  times = run_batch(engine, random_requests(engine, {}, 1, 1), {}, nullptr);
  ASSERT_FALSE(times.ok());
  EXPECT_THAT(times.error().message, HasSubstr("ended before its last token"));

  engine.on_submit = nullptr;
  engine.submit_error = Error{ErrorCode::kOverloaded, "full", ""};
  EXPECT_EQ(run_batch(engine, random_requests(engine, {}, 1, 1), {}, nullptr).error().message,
            "full");
}

TEST(RunBatch, StopsWhenAsked) {
  TestEngine engine;
  std::atomic<bool> cancel{false};
  std::thread stopper([&] {
    engine.generation(0);
    cancel = true;
  });
  const auto times = run_batch(engine, random_requests(engine, {}, 1, 1), {}, &cancel);
  stopper.join();
  ASSERT_FALSE(times.ok());
  EXPECT_EQ(times.error().code, ErrorCode::kCancelled);
}

}  // namespace
}  // namespace videre
