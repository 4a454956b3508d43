#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "engine/fake_runner.h"

namespace videre {
namespace {

constexpr int kTokensPerTile = 4;
constexpr int32_t kImageId = kFakeVocab + 1, kImageStart = kFakeVocab + 2,
                  kImageEnd = kFakeVocab + 3;

PromptConfig prompt_config() {
  PromptConfig config;
  config.tokens_per_tile = kTokensPerTile;
  config.image_token_id = kImageId;
  config.image_start_id = kImageStart;
  config.image_end_id = kImageEnd;
  return config;
}

struct EngineShape {
  int64_t num_blocks = 40, num_slots = 9, encoder_rows = 64, max_model_len = 96;
  int64_t budget = 24, max_seqs = 8, chunk_size = 4;
  int block_size = 4, max_tiles = 3;
  bool async = true, chunked = true;
};

CoreOptions core_options(const EngineShape& setup) {
  CoreOptions options;
  options.scheduler.max_num_batched_tokens = setup.budget;
  options.scheduler.max_num_seqs = setup.max_seqs;
  options.scheduler.max_model_len = setup.max_model_len;
  options.scheduler.chunk_size = setup.chunk_size;
  options.scheduler.enable_chunked_prefill = setup.chunked;
  options.scheduler.max_tiles_per_step = setup.max_tiles;
  options.scheduler.prompt = prompt_config();
  options.num_blocks = setup.num_blocks;
  options.num_slots = setup.num_slots;
  options.block_size = setup.block_size;
  options.encoder_rows = setup.encoder_rows;
  options.async_scheduling = setup.async;
  return options;
}

struct Harness {
  explicit Harness(const EngineShape& setup)
      : setup(setup),
        runner(setup.num_blocks, setup.block_size, setup.num_slots, setup.encoder_rows,
               kTokensPerTile),
        core(core_options(setup), &runner) {}

  void run(int most_steps = 100000) {
    for (int i = 0; i < most_steps && !core.idle(); ++i) {
      ASSERT_TRUE(core.step()) << "nothing to do, but not idle: the loop hangs";
      drain();
    }
    ASSERT_TRUE(core.idle());
    drain();
  }
  void drain() {
    for (const auto& request : requests) {
      std::vector<TokenEvent> events;
      Error error;
      if (!request->take(events, std::chrono::milliseconds(0), error)) failed.insert(request);
      for (const TokenEvent& event : events) {
        auto& choice = outputs[{request, event.index}];
        EXPECT_EQ(choice.reason, FinishReason::kNone) << "an event after the end";
        if (event.finish_reason != FinishReason::kAbort) choice.tokens.push_back(event.token.token);
        choice.reason = event.finish_reason;
      }
    }
  }
  void expect_books_balanced() {
    const EngineStats stats = core.stats();
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_EQ(stats.state_slots_used, 0);
    EXPECT_EQ(stats.num_running, 0);
    EXPECT_EQ(stats.num_waiting, 0);
  }

  struct Output {
    std::vector<int32_t> tokens;
    FinishReason reason = FinishReason::kNone;
  };
  EngineShape setup;
  FakeRunner runner;
  EngineCore core;
  std::vector<std::shared_ptr<RequestState>> requests;
  std::map<std::pair<std::shared_ptr<RequestState>, int>, Output> outputs;
  std::set<std::shared_ptr<RequestState>> failed;
};

struct MediaSpec {
  bool video = false;
  int num_tiles = 1;
  double rate = 0;
  std::string key;
};

// Text of `num_text` tokens with media in its middle.
std::shared_ptr<RequestState> make_request(int num_text, const std::vector<MediaSpec>& media,
                                           uint64_t seed, int64_t max_tokens, int n = 1,
                                           bool penalties = false) {
  Request request;
  request.sampling.n = n;
  auto state = std::make_shared<RequestState>(std::move(request));
  auto prompt = std::make_shared<Prompt>();
  std::mt19937_64 random(seed);
  const auto text = [&](int count) {
    for (int i = 0; i < count; ++i)
      prompt->token_ids.push_back(static_cast<int32_t>(random() % kFakeVocab));
  };
  text(num_text / 2);
  for (const MediaSpec& spec : media) {
    MediaSpan span;
    span.media.kind = spec.video ? ContentPart::Kind::kVideo : ContentPart::Kind::kImage;
    auto tiles = std::make_shared<PixelTiles>();
    tiles->num_tiles = spec.num_tiles;
    span.media.tiles = tiles;
    span.media.pruning_rate = spec.rate;
    span.media.content_key = spec.key;
    span.begin = static_cast<int64_t>(prompt->token_ids.size());
    span.num_rows = num_kept_rows(spec.num_tiles, kTokensPerTile, spec.video ? spec.rate : 0);
    if (spec.video) {
      for (int i = 0; i < spec.num_tiles; ++i) span.frame_labels.push_back({7, i});
      std::vector<int64_t> rows(spec.num_tiles, spec.rate > 0 ? 0 : kTokensPerTile);
      if (spec.rate > 0) rows[0] = span.num_rows;
      const auto ids = layout_video_span(span, rows, prompt_config());
      prompt->token_ids.insert(prompt->token_ids.end(), ids.begin(), ids.end());
    } else {
      prompt->token_ids.push_back(kImageStart);
      prompt->token_ids.insert(prompt->token_ids.end(), span.num_rows, kImageId);
      prompt->token_ids.push_back(kImageEnd);
    }
    span.length = static_cast<int64_t>(prompt->token_ids.size()) - span.begin;
    prompt->media.push_back(std::move(span));
  }
  text(num_text - num_text / 2);
  prompt->usage.prompt_tokens = static_cast<int64_t>(prompt->token_ids.size());
  state->prompt = prompt;
  state->sampling.max_tokens = max_tokens;
  state->sampling.seed = seed;
  if (penalties) state->sampling.presence_penalty = 0.5f;  // needs values before the next plan
  return state;
}

// The same tokens without any engine.
std::vector<int32_t> expected_tokens(const RequestState& request, int index, int64_t max_model_len,
                                     FinishReason* reason) {
  const Prompt& prompt = *request.prompt;
  std::vector<uint64_t> values;
  std::vector<int32_t> ids = prompt.token_ids;
  std::map<int64_t, uint64_t> rows;
  for (const MediaSpan& span : prompt.media) {
    EncodedItem item;
    item.key = span.media.content_key;
    item.num_tiles = span.media.tiles->num_tiles;
    item.num_rows = span.num_rows;
    item.pruned = span.media.pruning_rate > 0;
    if (span.media.kind == ContentPart::Kind::kVideo) {
      const auto laid_out =
          layout_video_span(span, fake_rows_per_frame(item, kTokensPerTile), prompt_config());
      std::copy(laid_out.begin(), laid_out.end(), ids.begin() + span.begin);
    }
    int64_t row = 0;
    for (int64_t at = span.begin; at < span.begin + span.length; ++at) {
      if (ids[at] == kImageId) rows[at] = fake_row(item.key, row++);
    }
    EXPECT_EQ(row, span.num_rows);
  }
  uint64_t state = kEmptyState;
  for (size_t at = 0; at < ids.size(); ++at) {
    state = mix(state, rows.count(at) ? rows[at] : static_cast<uint64_t>(ids[at]));
  }
  std::vector<int32_t> out;
  const ResolvedSampling& sampling = request.sampling;
  for (;;) {
    const int32_t token = fake_token(state, sampling.seed + index, out.size());
    out.push_back(token);
    state = mix(state, static_cast<uint64_t>(token));
    const auto in = [&](const std::vector<int32_t>& list) {
      return std::find(list.begin(), list.end(), token) != list.end();
    };
    if (static_cast<int64_t>(out.size()) >= sampling.min_tokens &&
        (in(sampling.eos_ids) || in(sampling.stop_token_ids))) {
      *reason = FinishReason::kStop;
      return out;
    }
    if (static_cast<int64_t>(out.size()) >= sampling.max_tokens ||
        static_cast<int64_t>(ids.size() + out.size()) >= max_model_len) {
      *reason = FinishReason::kLength;
      return out;
    }
  }
}

void expect_right(const Harness& harness, const std::shared_ptr<RequestState>& request) {
  for (int i = 0; i < request->request.sampling.n; ++i) {
    FinishReason reason = FinishReason::kNone;
    const auto want = expected_tokens(*request, i, harness.setup.max_model_len, &reason);
    const auto& got = harness.outputs.at({request, i});
    EXPECT_EQ(got.tokens, want);
    EXPECT_EQ(got.reason, reason);
  }
}

TEST(EngineCore, OneRequestAtEveryDepthAndBudget) {
  for (const bool async : {false, true}) {
    for (int64_t budget = 1; budget <= 20; ++budget) {
      EngineShape setup;
      setup.async = async;
      setup.budget = budget;
      setup.max_seqs = 1;
      Harness harness(setup);
      harness.requests.push_back(make_request(13, {{false, 3, 0, "a"}, {true, 4, 0.5, "b"}}, 5, 9));
      harness.core.add(harness.requests[0]);
      harness.run();
      expect_right(harness, harness.requests[0]);
      EXPECT_LE(harness.runner.most_tokens, budget);
      harness.expect_books_balanced();
    }
  }
}

TEST(EngineCore, StopTokensEndAndOverrunRowsAreNotRead) {
  for (const bool async : {false, true}) {
    EngineShape setup;
    setup.async = async;
    Harness harness(setup);
    for (int i = 0; i < 20; ++i) {
      auto request = make_request(5 + i, {}, 100 + i, 40);
      request->sampling.eos_ids = {3, 9};
      request->sampling.primary_eos_id = 3;
      request->sampling.stop_token_ids = {11, 12};
      request->sampling.min_tokens = i % 4;
      harness.requests.push_back(request);
      harness.core.add(request);
    }
    harness.run();
    for (const auto& request : harness.requests) expect_right(harness, request);
    harness.expect_books_balanced();
  }
}

TEST(EngineCore, ChoicesForkFromOnePrompt) {
  EngineShape setup;
  Harness harness(setup);
  harness.requests.push_back(make_request(18, {{true, 3, 0.25, "clip"}}, 77, 6, 4));
  harness.core.add(harness.requests[0]);
  harness.run();
  expect_right(harness, harness.requests[0]);
  // One prompt of 37 tokens in pieces of at most 24 and five more steps: nothing was done twice.
  EXPECT_LE(harness.runner.num_launched, 10);
  harness.expect_books_balanced();
}

TEST(EngineCore, DecodesGoOnWhileAClipIsEncoded) {
  EngineShape setup;
  setup.max_tiles = 1;
  Harness harness(setup);
  auto talker = make_request(4, {}, 1, 30);
  auto watcher = make_request(4, {{true, 8, 0, "long"}}, 2, 3);
  harness.requests = {talker, watcher};
  harness.core.add(talker);
  harness.core.step();
  harness.core.add(watcher);
  for (int i = 0; i < 8; ++i) harness.core.step();
  harness.drain();
  EXPECT_GE(harness.outputs[std::pair(talker, 0)].tokens.size(), 7u);
  harness.run();
  expect_right(harness, talker);
  expect_right(harness, watcher);
}

TEST(EngineCore, SameContentIsEncodedOnce) {
  Harness harness{EngineShape()};
  for (int i = 0; i < 6; ++i) {
    harness.requests.push_back(make_request(6, {{false, 2, 0, "same"}}, i, 3));
    harness.core.add(harness.requests.back());
  }
  harness.run();
  for (const auto& request : harness.requests) expect_right(harness, request);
  EXPECT_EQ(harness.core.stats().encoder_cache_queries, 6);
  EXPECT_EQ(harness.core.stats().encoder_cache_hits, 5);
}

TEST(EngineCore, AFailedTokenEndsItsRequestAlone) {
  Harness harness{EngineShape()};
  auto bad = make_request(6, {}, 1, 20, 2), good = make_request(7, {}, 2, 20);
  harness.requests = {bad, good};
  harness.core.add(bad);
  harness.core.step();
  harness.runner.poison_next = true;
  harness.core.step();
  harness.core.add(good);
  harness.run();
  EXPECT_EQ(harness.failed.count(bad), 1u);
  EXPECT_EQ(harness.failed.count(good), 0u);
  expect_right(harness, good);
  harness.expect_books_balanced();
}

// Arrivals, cancellations and stops in random orders under too little memory: every request that
// runs to its end gives the tokens it would give alone, and all memory comes back.
TEST(EngineCore, RandomOrdersOfEvents) {
  int64_t preemptions = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    std::mt19937_64 random(seed);
    const auto pick = [&](int64_t low, int64_t high) {
      return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
    };
    EngineShape setup;
    setup.async = pick(0, 1);
    setup.chunked = pick(0, 3) > 0;
    setup.budget = setup.chunked ? pick(1, 40) : setup.max_model_len;
    setup.block_size = static_cast<int>(pick(1, 7));
    const int64_t least = (setup.max_model_len + setup.block_size - 1) / setup.block_size;
    setup.num_blocks = 1 + least + pick(0, least);
    setup.max_seqs = std::min(setup.budget, pick(1, 8));
    setup.num_slots = 1 + pick(1, setup.max_seqs);
    setup.encoder_rows = pick(16, 48);
    setup.chunk_size = pick(1, 9);
    setup.max_tiles = static_cast<int>(pick(1, 4));
    Harness harness(setup);
    std::set<std::shared_ptr<RequestState>> disturbed;
    const int num_requests = static_cast<int>(pick(1, 12));
    int added = 0;
    for (int steps = 0; added < num_requests || !harness.core.idle(); ++steps) {
      ASSERT_LT(steps, 20000) << "seed " << seed << " hangs";
      if (added < num_requests && pick(0, 3) == 0) {
        std::vector<MediaSpec> media;
        for (int64_t i = pick(0, 2); i > 0; --i) {
          const bool video = pick(0, 1);
          media.push_back({video, static_cast<int>(pick(1, video ? 4 : 3)),
                           video ? pick(0, 3) * 0.25 : 0.0, ""});
          media.back().key = fmt::format("{}/{}/{}/{}", video, media.back().num_tiles,
                                         media.back().rate, pick(0, 2));
        }
        auto request = make_request(static_cast<int>(pick(1, 20)), media, random(), pick(1, 50),
                                    static_cast<int>(pick(0, 3) ? 1 : pick(2, 4)), pick(0, 4) == 0);
        if (pick(0, 1)) request->sampling.eos_ids = {static_cast<int32_t>(pick(0, kFakeVocab - 1))};
        request->sampling.min_tokens = pick(0, 3);
        harness.requests.push_back(request);
        harness.core.add(request);
        ++added;
      }
      if (!harness.requests.empty() && pick(0, 40) == 0) {
        const auto& request = harness.requests[pick(0, harness.requests.size() - 1)];
        disturbed.insert(request);
        if (pick(0, 1)) {
          request->cancel();
        } else {
          request->stop_choice(static_cast<int>(pick(0, request->request.sampling.n - 1)));
        }
      }
      const bool worked = harness.core.step();
      ASSERT_TRUE(worked || harness.core.idle()) << "seed " << seed << " hangs";
      harness.drain();
      EXPECT_LE(harness.runner.most_tokens, setup.budget);
    }
    for (const auto& request : harness.requests) {
      if (!disturbed.count(request)) expect_right(harness, request);
    }
    harness.expect_books_balanced();
    preemptions += harness.core.stats().num_preemptions;
    if (HasFailure()) FAIL() << "seed " << seed;
  }
  EXPECT_GT(preemptions, 100) << "the test is not short of memory any more";
}

}  // namespace
}  // namespace videre
