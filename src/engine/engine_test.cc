// The whole engine on the small reference checkpoint: media files in, the reference's tokens out,
// however steps are cut, batched, padded and preempted; what it does with bad input and with
// requests that are given up. All but the ways that name a card run on the device that
// VIDERE_TEST_DEVICE names, by default the CPU.
#include "videre/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>

#include "engine/dump.h"
#include "engine/engine_parts.h"
#include "model/testing.h"
#include "tensor/npy.h"

namespace videre {
namespace {

using std::chrono::milliseconds;
using testing::ReferenceSet;

struct Answer {
  std::vector<int32_t> ids;
  std::string text;
  FinishReason reason = FinishReason::kNone;
  std::variant<std::monostate, int32_t, std::string> stop_reason;
  std::vector<TokenLogprob> logprobs;
};

struct Finished {
  std::vector<Answer> choices;
  Usage usage;
  std::optional<Error> error;
};

Finished read_to_end(Generation& generation, int n = 1) {
  Finished out;
  out.choices.resize(n);
  while (!generation.done()) {
    auto deltas = generation.read(milliseconds(60000));
    if (!deltas.ok()) {
      out.error = deltas.error();
      return out;
    }
    if (deltas->empty()) {
      out.error = Error{ErrorCode::kInternal, "nothing came for a minute", ""};
      return out;
    }
    for (const OutputDelta& delta : *deltas) {
      Answer& answer = out.choices[delta.index];
      EXPECT_EQ(answer.reason, FinishReason::kNone);
      answer.text += delta.text;
      answer.ids.insert(answer.ids.end(), delta.token_ids.begin(), delta.token_ids.end());
      answer.logprobs.insert(answer.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
      answer.reason = delta.finish_reason;
      if (delta.finish_reason != FinishReason::kNone) answer.stop_reason = delta.stop_reason;
    }
  }
  out.usage = generation.usage();
  return out;
}

Finished run(Engine& engine, Request request) {
  const int n = request.sampling.n;
  auto generation = engine.submit(std::move(request));
  if (!generation.ok()) return {{}, {}, generation.error()};
  return read_to_end(**generation, n);
}

// Of a request that must succeed.
std::vector<int32_t> ids_of(const Finished& finished) {
  EXPECT_FALSE(finished.error) << finished.error->message;
  return finished.error ? std::vector<int32_t>() : finished.choices[0].ids;
}

Request text_request(const std::string& text, int64_t max_tokens) {
  Request request;
  ChatMessage message;
  message.role = "user";
  ContentPart part;
  part.text = text;
  message.content = {part};
  message.content_is_string = true;
  request.messages = {message};
  request.sampling.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

ContentPart media_part(ContentPart::Kind kind, const std::string& url) {
  ContentPart part;
  part.kind = kind;
  part.media.url = url;
  return part;
}

class EngineTest : public ::testing::Test {
 protected:
  static std::string folder() {
    return std::filesystem::absolute(std::string(VIDERE_TEST_DATA) + "/tiny-b").lexically_normal();
  }
  static EngineOptions options(const std::string& checkpoint = "checkpoint") {
    EngineOptions options;
    options.model = folder() + "/" + checkpoint;
    const char* device = std::getenv("VIDERE_TEST_DEVICE");
    options.device = device ? device : "cpu";
    options.dtype = "float32";
    options.allowed_local_media_path = folder() + "/media";
    options.max_model_len = 1024;
    options.max_num_seqs = 8;
    options.num_threads = 2;
    options.media_threads = 2;
    return options;
  }
  static std::unique_ptr<Engine> load(const EngineOptions& options) {
    auto engine = Engine::load(options);
    EXPECT_TRUE(engine.ok()) << engine.error().message;
    return engine.ok() ? std::move(*engine) : nullptr;
  }
  static std::string url(const std::string& file) {
    return "file://" + folder() + "/media/" + file;
  }

  // The reference's request number `i`, from file to text.
  Request golden_request(const json::value& e2e) const {
    Request request = text_request(std::string(e2e.at("text").as_string()),
                                   static_cast<int64_t>(e2e.at("greedy").as_array().size()));
    const bool video = e2e.at("kind").as_string() == "video";
    auto& content = request.messages[0].content;
    request.messages[0].content_is_string = false;
    for (const json::value& file : e2e.at("files").as_array()) {
      content.insert(content.end() - 1,
                     media_part(video ? ContentPart::Kind::kVideo : ContentPart::Kind::kImage,
                                url(std::string(file.as_string()))));
    }
    ChatMessage system;
    system.role = "system";
    ContentPart off;
    off.text = "/no_think";
    system.content = {off};
    system.content_is_string = true;
    request.messages.insert(request.messages.begin(), system);
    if (video) {
      request.media_io.fps = json_number(e2e.at("fps"));
      request.media_io.num_frames = e2e.at("num_frames").to_number<int64_t>();
      request.processor.video_pruning_rate = json_number(e2e.at("video_pruning_rate"));
    } else {
      request.processor.max_num_tiles = e2e.at("max_num_tiles").to_number<int>();
    }
    return request;
  }
  const json::array& golden() const { return set_.json().at("e2e").as_array(); }
  static std::vector<int32_t> ints(const json::value& list) {
    std::vector<int32_t> out;
    for (const json::value& item : list.as_array()) out.push_back(item.to_number<int32_t>());
    return out;
  }
  // Equal up to where the reference itself was undecided.
  void expect_greedy(const json::value& e2e, const std::vector<int32_t>& ids,
                     double margin_std) const {
    const std::vector<int32_t> want = ints(e2e.at("greedy"));
    const double noise = margin_std * *json_number(set_.json().at("logit_std"));
    for (size_t i = 0; i < want.size(); ++i) {
      if (*json_number(e2e.at("margin").at(i)) < noise) return;
      ASSERT_LT(i, ids.size());
      ASSERT_EQ(ids[i], want[i]) << "token " << i << " of " << e2e.at("files");
    }
  }
  static void expect_all_given_back(const Engine& engine) {
    // The last memory is given back before the last token is handed out.
    const EngineStats stats = engine.stats();
    EXPECT_EQ(stats.kv_blocks_used, 0);
    EXPECT_EQ(stats.state_slots_used, 0);
    EXPECT_EQ(stats.num_running + stats.num_waiting + stats.num_preparing, 0);
  }

  ReferenceSet set_{folder()};
};

struct Way {
  const char* name;
  std::function<void(EngineOptions&)> change;
  double margin = 0;  // in standard deviations; 0: the dtype's
};

std::function<void(EngineOptions&)> on_card(std::function<void(EngineOptions&)> change) {
  return [change](EngineOptions& options) {
    options.device = "cuda";
    options.dtype = "bfloat16";
    change(options);
  };
}

// FP8 keys and values are off by up to 2^-4, a bfloat16 state by 2^-8 a step: margins in standard
// deviations.
constexpr double kFp8KvMargin = 0.3, k16BitStateMargin = 0.2;

class EngineWays : public EngineTest, public ::testing::WithParamInterface<Way> {};

// All reference requests at once, in every way of running steps.
TEST_P(EngineWays, GivesTheReferencesTokens) {
  EngineOptions options = EngineTest::options();
  options.max_waiting_requests = 20;
  GetParam().change(options);
  if (options.device == "cuda" && !testing::has_card()) GTEST_SKIP() << "no card";
  if (options.kv_cache_memory_bytes) {
    EngineOptions same = options;
    same.kv_cache_memory_bytes.reset();
    *options.kv_cache_memory_bytes *= load(same)->memory_plan().kv_bytes_per_token;
  }
  const auto engine = load(options);
  ASSERT_TRUE(engine);
  // Long answers beside them: when memory is short, someone has to give way.
  std::vector<std::shared_ptr<Generation>> generations, others;
  for (int i = 0; i < 3; ++i) others.push_back(engine->submit(text_request("Go on.", 200)).value());
  for (int round = 0; round < 2; ++round) {  // the second finds its media in the caches
    for (const json::value& e2e : golden()) {
      auto generation = engine->submit(golden_request(e2e));
      ASSERT_TRUE(generation.ok()) << generation.error().message;
      generations.push_back(*generation);
    }
  }
  const double margin = GetParam().margin > 0        ? GetParam().margin
                        : options.dtype == "float32" ? tolerance::kGreedyMarginFloat32
                                                     : tolerance::kGreedyMarginBFloat16;
  for (size_t i = 0; i < generations.size(); ++i) {
    const json::value& e2e = golden()[i % golden().size()];
    const Finished finished = read_to_end(*generations[i]);
    ASSERT_FALSE(finished.error) << finished.error->message;
    EXPECT_EQ(generations[i]->rendered_prompt(), e2e.at("rendered").as_string());
    EXPECT_EQ(finished.usage.prompt_tokens,
              static_cast<int64_t>(e2e.at("prompt_ids").as_array().size()));
    EXPECT_EQ(finished.usage.completion_tokens,
              static_cast<int64_t>(e2e.at("greedy").as_array().size()));
    EXPECT_EQ(finished.choices[0].reason, FinishReason::kLength);
    expect_greedy(e2e, finished.choices[0].ids, margin);
    if (finished.choices[0].ids == ints(e2e.at("greedy"))) {
      EXPECT_EQ(finished.choices[0].text, e2e.at("text_out").as_string());
    }
  }
  const auto whole = ids_of(read_to_end(*others[0]));
  EXPECT_EQ(whole.size(), 200u);
  for (int i = 1; i < 3; ++i) {
    const auto other = ids_of(read_to_end(*others[i]));
    EXPECT_EQ(other.size(), whole.size());
    if (engine->info().device ==
        "cpu") {  // elsewhere rows depend on their company, by float's rounding
      EXPECT_EQ(other, whole);
    }
  }
  expect_all_given_back(*engine);
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.num_preemptions > 0, std::string(GetParam().name).ends_with("ShortOfMemory"));
  EXPECT_EQ(stats.finished_length, static_cast<int64_t>(generations.size() + others.size()));
}

INSTANTIATE_TEST_SUITE_P(
    All, EngineWays,
    ::testing::Values(Way{"Plain", [](EngineOptions&) {}},
                      Way{"Depth0", [](EngineOptions& o) { o.async_scheduling = false; }},
                      Way{"Padded", [](EngineOptions& o) { o.pad_steps = true; }},
                      Way{"SmallBudget", [](EngineOptions& o) { o.max_num_batched_tokens = 37; }},
                      Way{"TinyBudget",
                          [](EngineOptions& o) {
                            o.max_num_batched_tokens = 3;
                            o.max_num_seqs = 3;
                            o.block_size = 1;
                          }},
                      Way{"WholePrompts",
                          [](EngineOptions& o) { o.enable_chunked_prefill = false; }},
                      Way{"OneByOne", [](EngineOptions& o) { o.max_num_seqs = 1; }},
                      Way{"ShortOfMemory",
                          [](EngineOptions& o) {
                            o.max_model_len = 300;
                            o.max_num_batched_tokens = 100;
                            o.block_size = 4;
                            // Blocks for one longest sequence and a little more, in bytes of this
                            o.kv_cache_memory_bytes = 308;  // tokens: the test knows their size
                          }},
                      Way{"BFloat16", [](EngineOptions& o) { o.dtype = "bfloat16"; }},
                      Way{"Fp8Kv",
                          [](EngineOptions& o) {
                            o.dtype = "bfloat16";
                            o.kv_cache_dtype = "fp8";
                          },
                          kFp8KvMargin},
                      Way{"BFloat16State",
                          [](EngineOptions& o) {
                            o.dtype = "bfloat16";
                            o.mamba_ssm_cache_dtype = "bfloat16";
                          },
                          k16BitStateMargin}),
    [](const auto& info) { return std::string(info.param.name); });

INSTANTIATE_TEST_SUITE_P(
    Card, EngineWays,
    ::testing::Values(
        Way{"Cuda", on_card([](EngineOptions&) {})},
        Way{"CudaFloat32", on_card([](EngineOptions& o) { o.dtype = "float32"; })},
        Way{"CudaEager", on_card([](EngineOptions& o) { o.enforce_eager = true; })},
        Way{"CudaSynchronousScheduling",
            on_card([](EngineOptions& o) { o.async_scheduling = false; })},
        Way{"CudaSmallBudget", on_card([](EngineOptions& o) {
              o.dtype = "float32";
              o.max_num_batched_tokens = 37;
            })},
        Way{"CudaShortOfMemory", on_card([](EngineOptions& o) {
              o.dtype = "float32";
              o.max_model_len = 300;
              o.max_num_batched_tokens = 100;
              o.block_size = 4;
              o.kv_cache_memory_bytes = 308;
            })},
        Way{"CudaFp8Kv", on_card([](EngineOptions& o) { o.kv_cache_dtype = "fp8"; }), kFp8KvMargin},
        Way{"CudaBf16State",
            on_card([](EngineOptions& o) { o.mamba_ssm_cache_dtype = "bfloat16"; }),
            k16BitStateMargin},
        Way{"CudaFp16State", on_card([](EngineOptions& o) { o.mamba_ssm_cache_dtype = "float16"; }),
            k16BitStateMargin}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(EngineTest, QuantisedCheckpointsAnswer) {
  for (const char* checkpoint : {"checkpoint-fp8", "checkpoint-nvfp4"}) {
    EngineOptions options = EngineTest::options(checkpoint);
    options.quantization =
        std::string(checkpoint) == "checkpoint-fp8" ? "modelopt" : "modelopt_fp4";
    const auto engine = load(options);
    ASSERT_TRUE(engine);
    const Finished finished = run(*engine, golden_request(golden()[0]));
    ASSERT_FALSE(finished.error) << finished.error->message;
    EXPECT_EQ(finished.choices[0].ids.size(), golden()[0].at("greedy").as_array().size());
    // A flag that contradicts the file is refused.
    options.quantization = options.quantization == "modelopt" ? "modelopt_fp4" : "modelopt";
    EXPECT_FALSE(Engine::load(options).ok());
  }
}

TEST_F(EngineTest, ThePlanIsWhatTheRunUses) {
  const auto engine = load(options());
  for (const json::value& e2e : golden()) {
    const auto plan = engine->plan(golden_request(e2e));
    ASSERT_TRUE(plan.ok()) << plan.error().message;
    EXPECT_EQ(plan->rendered, e2e.at("rendered").as_string());
    const std::vector<int32_t> want = ints(e2e.at("prompt_ids"));
    EXPECT_EQ(plan->usage.prompt_tokens, static_cast<int64_t>(want.size()));
    const Finished finished = run(*engine, golden_request(e2e));
    EXPECT_EQ(plan->usage.prompt_tokens, finished.usage.prompt_tokens);
    EXPECT_EQ(plan->usage.image_tokens, finished.usage.image_tokens);
    EXPECT_EQ(plan->usage.video_tokens, finished.usage.video_tokens);
    if (e2e.at("kind").as_string() == "image") {
      EXPECT_EQ(plan->prompt_ids, want);
    } else {
      ASSERT_EQ(plan->videos.size(), 1u);
      const std::vector<int32_t> indices = ints(e2e.at("indices"));
      EXPECT_THAT(plan->videos[0].frames_indices, ::testing::ElementsAreArray(indices));
      int64_t kept = 0;
      for (const int32_t rows : ints(e2e.at("tokens_per_frame"))) kept += rows;
      EXPECT_EQ(plan->videos[0].tokens, kept);
    }
  }
}

TEST_F(EngineTest, SeedsGiveTheSameChoicesInAnyCompany) {
  const auto engine = load(options());
  Request request = text_request("Tell me a story.", 20);
  request.sampling.temperature = 1.5;
  request.sampling.seed = 11;
  request.sampling.n = 4;
  const Finished together = run(*engine, request);
  ASSERT_FALSE(together.error) << together.error->message;
  request.sampling.n = 1;
  for (int i = 0; i < 4; ++i) {
    request.sampling.seed = 11 + i;
    const Finished alone = run(*engine, request);
    EXPECT_EQ(alone.choices[0].ids, together.choices[i].ids) << "choice " << i;
  }
  EXPECT_NE(together.choices[0].ids, together.choices[1].ids);
  EXPECT_EQ(together.usage.completion_tokens, 80);
  expect_all_given_back(*engine);
}

TEST_F(EngineTest, StopStringsEndWhereTheyStart) {
  const auto engine = load(options());
  const Finished whole = run(*engine, text_request("Count.", 40));
  const std::string& text = whole.choices[0].text;
  ASSERT_GT(text.size(), 20u);
  const std::string stop = text.substr(12, 4);
  Request request = text_request("Count.", 40);
  request.sampling.stop = {"never there", stop};
  const Finished cut = run(*engine, request);
  EXPECT_EQ(cut.choices[0].text, text.substr(0, text.find(stop)));
  EXPECT_EQ(cut.choices[0].reason, FinishReason::kStop);
  EXPECT_EQ(std::get<std::string>(cut.choices[0].stop_reason), stop);
  request.sampling.include_stop_str_in_output = true;
  EXPECT_EQ(run(*engine, request).choices[0].text, text.substr(0, text.find(stop) + 4));

  Request by_id = text_request("Count.", 40);
  by_id.sampling.stop_token_ids = {whole.choices[0].ids[5]};
  const Finished at_id = run(*engine, by_id);
  const auto first =
      std::find(whole.choices[0].ids.begin(), whole.choices[0].ids.end(), whole.choices[0].ids[5]);
  EXPECT_EQ(static_cast<int64_t>(at_id.choices[0].ids.size()),
            first - whole.choices[0].ids.begin() + 1);
  EXPECT_EQ(std::get<int32_t>(at_id.choices[0].stop_reason), whole.choices[0].ids[5]);
}

TEST_F(EngineTest, SamplingRules) {
  const auto engine = load(options());
  const Finished plain = run(*engine, text_request("Name a colour.", 12));
  const std::vector<int32_t>& ids = plain.choices[0].ids;
  Request request = text_request("Name a colour.", 12);
  request.sampling.num_logprobs = 3;
  const Finished logged = run(*engine, request);
  ASSERT_EQ(logged.choices[0].logprobs.size(), ids.size());
  for (size_t i = 0; i < ids.size(); ++i) {
    const TokenLogprob& logprob = logged.choices[0].logprobs[i];
    EXPECT_EQ(logprob.token_id, ids[i]);
    EXPECT_EQ(logprob.rank, 1);
    ASSERT_EQ(logprob.top.size(), 3u);
    EXPECT_EQ(logprob.top[0].token_id, ids[i]);
    EXPECT_GE(logprob.top[1].logprob, logprob.top[2].logprob);
    EXPECT_LE(logprob.top[0].logprob, 0);
  }
  request = text_request("Name a colour.", 12);
  request.sampling.logit_bias = {{ids[0], -100}};
  EXPECT_NE(ids_of(run(*engine, request)).at(0), ids[0]);
  request = text_request("Name a colour.", 12);
  request.sampling.allowed_token_ids = {70, 71, 72};
  for (const int32_t id : ids_of(run(*engine, request))) {
    EXPECT_TRUE(id >= 70 && id <= 72) << id;
  }
  // A ban on a whole word acts on its last token, once the others are there.
  for (const int32_t id : ids) {
    const std::string word = engine->detokenize({id});
    if (engine->tokenize(word, false) != std::vector<int32_t>{id}) continue;  // half a character
    request = text_request("Name a colour.", 12);
    request.sampling.bad_words = {word};
    const Finished banned = run(*engine, request);
    ASSERT_FALSE(banned.error) << banned.error->message;
    const std::vector<int32_t>& without = banned.choices[0].ids;
    EXPECT_EQ(std::count(without.begin(), without.end(), id), 0) << word;
    break;
  }
  // A penalty strong enough lets no token come twice.
  request = text_request("Name a colour.", 60);
  request.sampling.presence_penalty = 2;
  request.sampling.frequency_penalty = 2;
  request.sampling.repetition_penalty = 50;
  const auto spread = ids_of(run(*engine, request));
  EXPECT_EQ(std::set<int32_t>(spread.begin(), spread.end()).size(), spread.size());
}

TEST_F(EngineTest, GivenUpRequestsGiveEverythingBack) {
  const auto engine = load(options());
  for (int i = 0; i < 30; ++i) {
    auto generation = engine->submit(i % 2 ? golden_request(golden()[i % golden().size()])
                                           : text_request("Go on and on.", 900));
    ASSERT_TRUE(generation.ok());
    if (i % 3 == 0) {
      (*generation)->cancel();
      const Finished finished = read_to_end(**generation);
      EXPECT_TRUE(finished.error || finished.choices[0].reason == FinishReason::kAbort);
    } else if (i % 3 == 1) {
      (void)(*generation)->read(milliseconds(20));
    }  // else dropped at once
  }
  for (int i = 0; i < 500 && engine->stats().num_running + engine->stats().num_waiting +
                                     engine->stats().num_preparing >
                                 0;
       ++i) {
    std::this_thread::sleep_for(milliseconds(10));
  }
  expect_all_given_back(*engine);
  // And it still answers.
  const Finished after = run(*engine, golden_request(golden()[0]));
  ASSERT_FALSE(after.error);
  expect_greedy(golden()[0], after.choices[0].ids, tolerance::kGreedyMarginFloat32);
}

size_t count_entries(const char* folder) {
  size_t count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(folder)) ++count;
  return count;
}

TEST_F(EngineTest, StartAndStopLeaveNoThreadsAndFiles) {
  (void)load(options());  // whatever is made once
  const size_t threads = count_entries("/proc/self/task"), files = count_entries("/proc/self/fd");
  for (int i = 0; i < 3; ++i) {
    const auto engine = load(options());
    auto generation = engine->submit(text_request("Still running at the end.", 900));
    ASSERT_TRUE(generation.ok());
    (void)(*generation)->read(milliseconds(50));
  }
  EXPECT_EQ(count_entries("/proc/self/task"), threads);
  EXPECT_EQ(count_entries("/proc/self/fd"), files);
}

TEST_F(EngineTest, ShutdownWaitsForThoseThatRun) {
  const auto engine = load(options());
  auto generation = engine->submit(text_request("Almost done.", 50));
  ASSERT_TRUE(generation.ok());
  std::thread stopper([&] { engine->shutdown(milliseconds(20000)); });
  const Finished finished = read_to_end(**generation);
  stopper.join();
  ASSERT_FALSE(finished.error) << finished.error->message;
  EXPECT_EQ(finished.choices[0].reason, FinishReason::kLength);
  auto late = engine->submit(text_request("Too late.", 5));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code, ErrorCode::kUnavailable);
}

TEST_F(EngineTest, TheQueueHasAnEnd) {
  EngineOptions options = EngineTest::options();
  options.max_num_seqs = 1;
  options.max_waiting_requests = 2;
  const auto engine = load(options);
  std::vector<std::shared_ptr<Generation>> generations;
  bool refused = false;
  for (int i = 0; i < 50 && !refused; ++i) {
    auto generation = engine->submit(text_request("Wait.", 900));
    if (generation.ok()) {
      generations.push_back(*generation);
    } else {
      EXPECT_EQ(generation.error().code, ErrorCode::kOverloaded);
      refused = true;
    }
  }
  EXPECT_TRUE(refused);
  EXPECT_LE(generations.size(), 8u);
}

TEST_F(EngineTest, BadRequestsAreNamed) {
  const auto engine = load(options());
  const auto expect_error = [&](const Request& request, ErrorCode code, const std::string& part) {
    const Finished finished = run(*engine, request);
    ASSERT_TRUE(finished.error) << part;
    EXPECT_EQ(finished.error->code, code) << finished.error->message;
    EXPECT_THAT(finished.error->message, ::testing::HasSubstr(part));
  };
  Request request;
  expect_error(request, ErrorCode::kInvalidArgument, "messages");
  request = text_request("x", 5);
  request.sampling.temperature = -1;
  expect_error(request, ErrorCode::kInvalidArgument, "temperature is -1");
  request = text_request("x", 5);
  request.sampling.n = 2;
  expect_error(request, ErrorCode::kInvalidArgument, "n is 2");
  request = text_request("x", 5);
  request.sampling.logit_bias = {{1 << 20, 1}};
  expect_error(request, ErrorCode::kInvalidArgument, "1048576");
  std::string lengthy;
  for (int i = 0; i < 2000; ++i) lengthy += " word";
  expect_error(text_request(lengthy, 5), ErrorCode::kInvalidArgument,
               "maximum context length is 1024 tokens");
  expect_error(text_request("short", 2000), ErrorCode::kInvalidArgument,
               "maximum context length is 1024 tokens");
  expect_error(text_request("a picture: <image>", 5), ErrorCode::kInvalidArgument, "<image>");
  request = text_request("x", 5);
  request.messages[0].content.push_back(
      media_part(ContentPart::Kind::kImage, "file:///etc/passwd"));
  expect_error(request, ErrorCode::kForbidden, "");
  request.messages[0].content.back().media.url = url("missing.png");
  EXPECT_TRUE(run(*engine, request).error);
  request.messages[0].content.back().media.url = url("clip.avi");
  expect_error(request, ErrorCode::kInvalidArgument, "");
  request.messages[0].content.back().media.url = "";
  expect_error(request, ErrorCode::kInvalidArgument, "brings no image");
  request = text_request("x", 5);
  request.processor.video_pruning_rate = 1.0;
  expect_error(request, ErrorCode::kInvalidArgument, "video_pruning_rate is 1");
  request = text_request("x", 5);
  request.prompt_token_ids = std::vector<int32_t>{1, 2, 99999};
  request.messages.clear();
  expect_error(request, ErrorCode::kInvalidArgument, "token 99999");
  // After all that, memory is whole and answers are right.
  const Finished after = run(*engine, golden_request(golden()[1]));
  ASSERT_FALSE(after.error);
  expect_greedy(golden()[1], after.choices[0].ids, tolerance::kGreedyMarginFloat32);
  expect_all_given_back(*engine);
}

TEST_F(EngineTest, FlagsThatCannotHoldAreRefused) {
  const auto refuse = [](EngineOptions options, ErrorCode code, const std::string& part) {
    const auto engine = Engine::load(options);
    ASSERT_FALSE(engine.ok()) << part;
    EXPECT_EQ(engine.error().code, code) << engine.error().message;
    EXPECT_THAT(engine.error().message, ::testing::HasSubstr(part));
  };
  EngineOptions options = EngineTest::options();
  options.dtype = "float16";
  refuse(options, ErrorCode::kInvalidArgument, "float16");
  options = EngineTest::options();
  options.max_model_len = 1 << 30;
  refuse(options, ErrorCode::kInvalidArgument, "--max-model-len");
  options = EngineTest::options();
  options.kv_cache_memory_bytes = 1000;
  refuse(options, ErrorCode::kOutOfMemory, "--max-model-len");
  options = EngineTest::options();
  options.model = folder() + "/nowhere";
  refuse(options, ErrorCode::kNotFound, "nowhere");
  options = EngineTest::options();
  if (!testing::has_card()) {
    options.device = "cuda";
    refuse(options, cuda_in_this_build() ? ErrorCode::kUnavailable : ErrorCode::kInvalidArgument,
           "--device");
  }
  options = EngineTest::options();
  options.video_prompt_style = "new";
  refuse(options, ErrorCode::kInvalidArgument, "--video-prompt-style");
}

TEST_F(EngineTest, DecodedFramesAndFilesGiveTheSamePrompt) {
  const auto engine = load(options());
  // A clip of flat frames handed over decoded, with times of its own.
  auto frames = std::make_shared<RgbFrames>();
  frames->num_frames = 3;
  frames->height = 40;
  frames->width = 60;
  frames->fps = 2;
  frames->frames_indices = {0, 2, 5};
  frames->rgb.assign(3 * 40 * 60 * 3, 90);
  Request request = text_request("What happens?", 6);
  request.messages[0].content_is_string = false;
  ContentPart part;
  part.kind = ContentPart::Kind::kVideo;
  part.media.frames = frames;
  request.messages[0].content.insert(request.messages[0].content.begin(), part);
  const auto plan = engine->plan(request);
  ASSERT_TRUE(plan.ok()) << plan.error().message;
  EXPECT_THAT(plan->videos.at(0).timestamps, ::testing::ElementsAre(0.0, 1.0, 2.5));
  EXPECT_THAT(engine->detokenize(plan->prompt_ids),
              ::testing::HasSubstr("Frame 3 sampled at 2.50 seconds: "));
  EXPECT_FALSE(run(*engine, request).error);
  auto broken = std::make_shared<RgbFrames>(*frames);
  broken->frames_indices.pop_back();
  request.messages[0].content[0].media.frames = broken;
  EXPECT_TRUE(run(*engine, request).error);
}

TEST_F(EngineTest, UuidsStandForMediaThatAreKnown) {
  const auto engine = load(options());
  Request request = golden_request(golden()[0]);
  auto& media = request.messages[1].content[0].media;
  media.uuid = "picture-1";
  const Finished first = run(*engine, request);
  ASSERT_FALSE(first.error) << first.error->message;
  media.url.clear();
  const Finished second = run(*engine, request);
  ASSERT_FALSE(second.error) << second.error->message;
  EXPECT_EQ(second.choices[0].ids, first.choices[0].ids);
  request.cache_salt = "another tenant";
  EXPECT_TRUE(run(*engine, request).error);
}

TEST_F(EngineTest, DumpsEqualTheReference) {
  const std::string out = ::testing::TempDir() + "videre_dump_" + std::to_string(getpid());
  for (const json::value& e2e : golden()) {
    DumpOptions dump;
    dump.engine = options();
    dump.request = golden_request(e2e);
    dump.request->sampling.ignore_eos = false;
    dump.observe = "^(prompt.ids|llm.logits|out.ids|evs.mask)$";
    dump.out_dir = out;
    dump.max_tokens = static_cast<int64_t>(e2e.at("greedy").as_array().size());
    const auto written = dump_tensors(dump);
    ASSERT_TRUE(written.ok()) << written.error().message;
    const auto ids = testing::values_of(read_npy(out + "/prompt.ids.npy").value());
    EXPECT_THAT(ids, ::testing::ElementsAreArray(ints(e2e.at("prompt_ids"))));
    const Tensor logits = read_npy(out + "/llm.logits.npy").value();
    const ConstView rows = logits;
    EXPECT_EQ(rows.dim(0), 16);
    const auto want = set_.values(std::string(e2e.at("logits").as_string()));
    EXPECT_LE(testing::max_error(testing::values_of(rows.rows(15, 16)), want),
              1.5 * tolerance::kFloat32);
  }
  std::filesystem::remove_all(out);
}

}  // namespace
}  // namespace videre
