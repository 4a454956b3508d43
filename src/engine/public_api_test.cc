// What front ends other than the server ask of an engine, through include/videre alone.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "videre/engine.h"

namespace videre {
namespace {

std::unique_ptr<Engine> load() {
  EngineOptions options;
  options.model = VIDERE_TEST_DATA "/tiny-b/checkpoint";
  options.max_model_len = 2048;
  options.num_threads = 1;
  auto engine = Engine::load(options);
  EXPECT_TRUE(engine.ok()) << engine.error().message;
  return std::move(*engine);
}

Request clip_request(std::shared_ptr<const RgbFrames> frames) {
  Request request;
  request.prompt = "<video> What happens?";
  ContentPart part;
  part.kind = ContentPart::Kind::kVideo;
  part.media.frames = std::move(frames);
  request.media = {part};
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 5;
  request.sampling.ignore_eos = true;
  return request;
}

TEST(PublicApi, BorrowedFramesAreReadInPlaceAndLetGo) {
  const auto engine = load();
  auto owned = std::make_shared<RgbFrames>();
  owned->num_frames = 2;
  owned->height = 30;
  owned->width = 40;
  owned->fps = 2;
  owned->frames_indices = {0, 1};
  for (int i = 0; i < 2 * 30 * 40 * 3; ++i) owned->rgb.push_back(static_cast<uint8_t>(i * 7));
  auto pixels = std::make_shared<std::vector<uint8_t>>(owned->rgb);
  const std::weak_ptr<std::vector<uint8_t>> gone = pixels;
  auto borrowed = std::make_shared<RgbFrames>(*owned);
  borrowed->rgb.clear();
  borrowed->borrowed = {pixels, pixels->data()};
  EXPECT_EQ(borrowed->pixels().data(), pixels->data());

  const auto ids_of = [&](std::shared_ptr<const RgbFrames> frames) {
    const auto generation = engine->submit(clip_request(std::move(frames)));
    EXPECT_TRUE(generation.ok());
    const auto choices = read_all(**generation);
    EXPECT_TRUE(choices.ok()) << choices.error().message;
    EXPECT_THAT((*generation)->prompt_token_ids(),
                ::testing::SizeIs(static_cast<size_t>((*generation)->usage().prompt_tokens)));
    return choices->at(0).token_ids;
  };
  EXPECT_EQ(ids_of(borrowed), ids_of(owned));
  borrowed->borrowed.reset();
  pixels.reset();
  EXPECT_TRUE(gone.expired());

  auto missing = std::make_shared<RgbFrames>(*owned);
  missing->rgb.clear();  // neither owned nor borrowed
  const auto generation = engine->submit(clip_request(missing));
  ASSERT_TRUE(generation.ok());
  const auto refused = read_all(**generation);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kInvalidArgument);
}

TEST(PublicApi, ReadAllGathersEveryChoice) {
  const auto engine = load();
  Request request;
  request.prompt = "Hello";
  request.sampling.n = 3;
  request.sampling.seed = 1;
  request.sampling.max_tokens = 7;
  request.sampling.num_logprobs = 0;
  request.sampling.ignore_eos = true;
  const auto generation = engine->submit(request);
  ASSERT_TRUE(generation.ok());
  const auto choices = read_all(**generation);
  ASSERT_TRUE(choices.ok());
  ASSERT_EQ(choices->size(), 3u);
  for (int i = 0; i < 3; ++i) {
    const OutputDelta& choice = (*choices)[static_cast<size_t>(i)];
    EXPECT_EQ(choice.index, i);
    EXPECT_EQ(choice.token_ids.size(), 7u);
    EXPECT_EQ(choice.logprobs.size(), 7u);
    EXPECT_EQ(choice.finish_reason, FinishReason::kLength);
  }
}

TEST(PublicApi, EmptiedCachesForgetMedia) {
  const auto engine = load();
  Request request = clip_request(nullptr);
  request.prompt = "<image>";
  request.media[0].kind = ContentPart::Kind::kImage;
  request.media[0].media.uuid = "one";
  auto picture = std::make_shared<RgbFrames>();
  picture->num_frames = 1;
  picture->height = picture->width = 8;
  picture->rgb.assign(8 * 8 * 3, 50);
  const auto ask = [&](std::shared_ptr<const RgbFrames> frames) {
    request.media[0].media.frames = std::move(frames);
    const auto generation = engine->submit(request);
    return generation.ok() && read_all(**generation).ok();
  };
  EXPECT_TRUE(ask(picture));
  EXPECT_TRUE(ask(nullptr));  // known by its uuid
  const int64_t hits = engine->stats().encoder_cache_hits;
  EXPECT_GE(hits, 1);
  engine->reset_mm_cache();
  EXPECT_FALSE(ask(nullptr));
  EXPECT_TRUE(ask(picture));
  EXPECT_EQ(engine->stats().encoder_cache_hits, hits);  // its rows were forgotten too
}

TEST(PublicApi, SamplingDefaultsAndSpecialTokens) {
  const auto engine = load();
  const SamplingParams defaults = engine->default_sampling();
  EXPECT_FALSE(defaults.temperature.has_value());  // the checkpoint's file names only tokens
  const auto ids = engine->tokenize("Hello", true);
  EXPECT_EQ(engine->detokenize(ids), "<s>Hello");
  EXPECT_EQ(engine->detokenize(ids, true), "Hello");
}

}  // namespace
}  // namespace videre
