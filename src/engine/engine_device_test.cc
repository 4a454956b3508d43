// The engine's loop on every device: long random runs against the same requests alone on the CPU,
// memory against its plan, and devices that fail. The emulated device runs the CUDA backend's
// kernels on the host, slowly; a card runs everything at full length.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "backend/cpu/cpu_backend.h"
#include "engine/engine_parts.h"
#include "engine/prepare.h"
#include "model/testing.h"

namespace videre {
namespace {

using std::chrono::milliseconds;

EngineOptions small_options() {
  EngineOptions options;
  options.model = std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint";
  options.dtype = "float32";
  options.device = "cpu";
  options.max_model_len = 300;
  options.max_num_seqs = 6;
  options.max_num_batched_tokens = 64;
  options.block_size = 4;
  options.num_threads = 2;
  options.media_threads = 1;
  options.max_logprobs = -1;
  return options;
}

std::unique_ptr<Backend> make_device(const std::string& name) {
#if defined(VIDERE_TEST_EMULATED)
  if (name == "emulated") return make_emulated_backend();
#endif
  if (name == "cuda") return std::move(make_cuda_backend().value());
  return make_cpu_backend({.num_threads = 2});
}

std::vector<std::string> devices_here() {
  std::vector<std::string> names{"cpu"};
#if defined(VIDERE_TEST_EMULATED)
  names.emplace_back("emulated");
#endif
  names.emplace_back("cuda");
  return names;
}

// KV memory in bytes for `tokens` tokens of the small model.
EngineParts make_parts(EngineOptions options, const std::string& device, int64_t kv_tokens) {
  if (kv_tokens > 0) {
    const auto loaded = load_model(options, {}, make_device("cpu"));
    options.kv_cache_memory_bytes = kv_tokens * plan_memory(*loaded, options)->kv_bytes_per_token;
  }
  auto parts = make_engine_parts(options, {}, make_device(device));
  VIDERE_CHECK(parts.ok()) << parts.error().message;
  return std::move(*parts);
}

std::vector<int32_t> common_ids(int64_t count) {
  std::mt19937 random(7);
  std::vector<int32_t> ids(count);
  for (int32_t& id : ids) id = 20 + static_cast<int32_t>(random() % 1400);
  return ids;
}

Request ids_request(std::vector<int32_t> ids, int64_t max_tokens) {
  Request request;
  request.prompt_token_ids = std::move(ids);
  request.sampling.max_tokens = max_tokens;
  request.sampling.temperature = 0;
  request.sampling.ignore_eos = true;
  return request;
}

// Noise in each part of a picture, another for each seed; frames come in pairs, so that a clip that
// keeps half of its rows keeps every other frame, whatever rounding does.
std::shared_ptr<const RgbFrames> noise_frames(int num_frames, int height, int width,
                                              uint32_t seed) {
  auto frames = std::make_shared<RgbFrames>();
  frames->num_frames = num_frames;
  frames->height = height;
  frames->width = width;
  frames->fps = 2;
  for (int i = 0; i < num_frames; ++i) {
    frames->frames_indices.push_back(i);
    std::mt19937 random(seed * 100 + i / 2);
    for (int at = 0; at < height * width * 3; ++at) {
      frames->rgb.push_back(static_cast<uint8_t>(random()));
    }
  }
  return frames;
}

Request media_request(bool video, uint32_t seed, int64_t max_tokens) {
  Request request = ids_request({}, max_tokens);
  request.prompt_token_ids.reset();
  ContentPart text, media;
  text.text = "What is this?";
  media.kind = video ? ContentPart::Kind::kVideo : ContentPart::Kind::kImage;
  media.media.frames = video ? noise_frames(6, 64, 64, seed) : noise_frames(1, 128, 128, seed);
  ChatMessage message;
  message.role = "user";
  message.content = {media, text};
  request.messages = {message};
  if (video) request.processor.video_pruning_rate = 0.5;
  return request;
}

// The loop by hand, one request's tokens beside the other's.
class Machine {
 public:
  struct Asked {
    std::shared_ptr<RequestState> state;
    std::vector<std::vector<SampledToken>> tokens;  // of each choice
    std::vector<FinishReason> reasons;
    bool disturbed = false;
    std::optional<Error> error;
  };

  explicit Machine(EngineParts made)
      : parts(std::move(made)),
        pool_(1),
        preparer_(parts.loaded, small_options(), parts.plan.max_model_len, parts.encoder_rows,
                  &pool_, make_fetcher(FetchOptions())) {}

  Asked& ask(const Request& request) {
    auto state = std::make_shared<RequestState>(request);
    auto prompt = preparer_.prepare(state->request, nullptr);
    VIDERE_CHECK(prompt.ok()) << prompt.error().message;
    state->prompt = std::move(*prompt);
    auto sampling =
        resolve_sampling(request.sampling, parts.loaded.config, *parts.loaded.tokenizer,
                         state->prompt->usage.prompt_tokens, parts.plan.max_model_len, 0);
    VIDERE_CHECK(sampling.ok()) << sampling.error().message;
    state->sampling = std::move(*sampling);
    parts.core->add(state);
    auto& asked = *asked_.emplace_back(std::make_unique<Asked>());
    asked.state = std::move(state);
    asked.tokens.resize(request.sampling.n);
    asked.reasons.resize(request.sampling.n, FinishReason::kNone);
    return asked;
  }
  void step() {
    const bool worked = parts.core->step();
    ASSERT_TRUE(worked || parts.core->idle()) << "nothing to do, but not idle";
    for (const auto& asked : asked_) {
      std::vector<TokenEvent> events;
      Error error;
      if (!asked->state->take(events, milliseconds(0), error)) asked->error = error;
      for (TokenEvent& event : events) {
        EXPECT_EQ(asked->reasons[event.index], FinishReason::kNone) << "an event after the end";
        asked->reasons[event.index] = event.finish_reason;
        if (event.finish_reason != FinishReason::kAbort) {
          asked->tokens[event.index].push_back(std::move(event.token));
        }
      }
    }
  }
  /// The request alone, to its end.
  const Asked& run(const Request& request) {
    Asked& asked = ask(request);
    while (!parts.core->idle() && !::testing::Test::HasFatalFailure()) step();
    EXPECT_FALSE(asked.error) << asked.error->message;
    return asked;
  }
  const std::vector<std::unique_ptr<Asked>>& asked() const { return asked_; }

  EngineParts parts;

 private:
  TaskPool pool_;
  Preparer preparer_;
  std::vector<std::unique_ptr<Asked>> asked_;
};

// Log-probabilities of the whole vocabulary after the prompt.
std::vector<float> logprobs_after(Machine& machine, const std::vector<int32_t>& ids) {
  Request request = ids_request(ids, 1);
  request.sampling.num_logprobs = machine.parts.loaded.info.vocab_size;
  const SampledToken& token = machine.run(request).tokens.at(0).at(0);
  std::vector<float> out(machine.parts.loaded.info.vocab_size, NAN);
  for (const auto& [id, logprob] : token.top_logprobs) out.at(id) = logprob;
  return out;
}

struct Run {
  std::string device, dtype;
};

class EngineOnDevice : public ::testing::TestWithParam<Run> {
 protected:
  void SetUp() override {
    if (GetParam().device == "cuda" && !testing::has_card()) GTEST_SKIP() << "no card";
  }
  static bool emulated() { return GetParam().device == "emulated"; }
};

// Admissions, cancellations, stops and preemptions in random order under too little memory, many
// lengths, forks, pictures and a clip: whoever runs to its end has the tokens it has alone on the
// CPU, as far as those were decided, and afterwards the device computes what a fresh one does.
TEST_P(EngineOnDevice, LongRandomRuns) {
  const auto& [device, dtype] = GetParam();
  const int num_steps = emulated() ? 16 : device == "cpu" ? 400 : 2000;
  EngineOptions options = small_options();
  options.dtype = dtype;
  options.pad_steps = true;
  if (emulated()) {
    options.max_num_batched_tokens = 16;
    options.max_num_seqs = 3;
  }
  constexpr int64_t kKvTokens = 308;  // one longest sequence and a little more
  Machine machine(make_parts(options, device, kKvTokens));
  const std::vector<int32_t> ids = common_ids(200);
  const int64_t longest = emulated() ? 20 : std::ssize(ids);

  std::mt19937_64 random(11);
  const auto pick = [&](int64_t low, int64_t high) {
    return low + static_cast<int64_t>(random() % static_cast<uint64_t>(high - low + 1));
  };
  std::vector<Request> requests;
  std::vector<bool> compared;  // whether its tokens can be known
  int64_t length = 0;
  for (int steps = 0; steps < num_steps || !machine.parts.core->idle(); ++steps) {
    ASSERT_LT(steps, 20 * num_steps) << "the loop hangs";
    const EngineStats stats = machine.parts.core->stats();
    if (steps < num_steps && stats.num_running + stats.num_waiting < 10 && pick(0, 2) == 0) {
      const int64_t max_tokens = pick(1, emulated() ? 4 : 24);
      length = length % longest + 1;  // all lengths in turn
      Request request = ids_request({ids.begin(), ids.begin() + length}, max_tokens);
      bool known = true;
      switch (pick(0, 9)) {
        case 0:
          request.sampling.n = static_cast<int>(pick(2, 4));
          request.sampling.temperature = 1;
          known = false;
          break;
        case 1:
          request.sampling.temperature = 0.8;
          request.sampling.top_p = 0.9;
          request.sampling.num_logprobs = 3;
          known = false;
          break;
        case 2:
          request.sampling.presence_penalty = 0.5;
          request.sampling.logit_bias = {{ids[0], 1.0}};
          known = false;
          break;
        case 3:
          request = media_request(false, static_cast<uint32_t>(pick(0, 5)), max_tokens);
          break;
        case 4:
          request = media_request(true, static_cast<uint32_t>(pick(0, 3)), max_tokens);
          break;
        default:
          break;
      }
      requests.push_back(request);
      compared.push_back(known);
      machine.ask(request);
    }
    if (!machine.asked().empty() && pick(0, 25) == 0) {
      auto& asked = *machine.asked()[pick(0, std::ssize(machine.asked()) - 1)];
      asked.disturbed = true;
      if (pick(0, 1)) {
        asked.state->cancel();
      } else {
        asked.state->stop_choice(0);
      }
    }
    machine.step();
    if (HasFatalFailure()) return;
  }
  if (!emulated()) {
    EXPECT_GT(machine.parts.core->stats().num_preemptions, 0) << "memory is not short any more";
  }
  EXPECT_EQ(machine.parts.core->stats().kv_blocks_used, 0);
  EXPECT_EQ(machine.parts.core->stats().state_slots_used, 0);
  EXPECT_TRUE(machine.parts.loaded.backend->health().ok());
  if (device != "cpu") {
    EXPECT_EQ(machine.parts.loaded.backend->memory().changed, 0) << "allocated after ready";
  }

  Machine alone(make_parts(options, "cpu", 0));
  const double noise =
      (dtype == "float32" ? tolerance::kGreedyMarginFloat32 : tolerance::kGreedyMarginBFloat16) *
      1.36;  // the standard deviation of this model's logits
  int64_t num_requests = 0, num_tokens = 0, num_all = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const Machine::Asked& got = *machine.asked()[i];
    ASSERT_FALSE(got.error) << got.error->message;
    if (got.disturbed) continue;
    EXPECT_THAT(got.reasons, ::testing::Each(FinishReason::kLength));
    for (const auto& choice : got.tokens) {
      EXPECT_EQ(std::ssize(choice), *requests[i].sampling.max_tokens) << "request " << i;
    }
    if (!compared[i]) continue;
    Request request = requests[i];
    request.sampling.num_logprobs = 2;
    const auto& want = alone.run(request).tokens.at(0);
    num_all += std::ssize(want);
    ++num_requests;
    for (size_t t = 0; t < want.size() && t < got.tokens[0].size(); ++t) {
      const bool decided = want[t].top_logprobs[0].second - want[t].top_logprobs[1].second >= noise;
      if (!decided && got.tokens[0][t].token != want[t].token) break;
      ASSERT_EQ(got.tokens[0][t].token, want[t].token)
          << "token " << t << " of request " << i << ", of "
          << got.state->prompt->usage.prompt_tokens << " tokens";
      ++num_tokens;
    }
  }
  fmt::print("{} requests, {} steps, {} preemptions; {} of {} tokens of {} requests compared\n",
             requests.size(), machine.parts.core->stats().num_steps,
             machine.parts.core->stats().num_preemptions, num_tokens, num_all, num_requests);
  EXPECT_GT(num_requests, emulated() ? 2 : num_steps / 20);
  EXPECT_GT(num_tokens, dtype == "float32" ? num_all * 9 / 10 : num_all / 2);

  const std::vector<int32_t> probe(ids.begin(), ids.begin() + longest);
  const std::vector<float> used = logprobs_after(machine, probe);
  Machine fresh(make_parts(options, device, kKvTokens));
  const std::vector<float> expected = logprobs_after(fresh, probe);
  if (dtype == "float32") {
    EXPECT_LE(testing::max_error(used, expected), tolerance::kFloat32);
  } else {
    EXPECT_GT(testing::cosine(used, expected), tolerance::kBFloat16Cosine);
  }
}

// All that the runner allocates is in the plan, and after ready nothing more is allocated.
TEST_P(EngineOnDevice, MemoryIsAsPlanned) {
  const auto& [device, dtype] = GetParam();
  if (device == "cpu") GTEST_SKIP() << "the host's memory is not counted";
  if (emulated() && dtype == "float32") GTEST_SKIP() << "seconds, for the same books";
  EngineOptions options = small_options();
  options.dtype = dtype;
  options.max_num_batched_tokens = emulated() ? 16 : 512;
  options.max_num_seqs = emulated() ? 3 : 6;
  int64_t parameters = 0;  // of Mamba layers, which are computed at load
  {
    const auto loaded = load_model(options, {}, make_device(device));
    ASSERT_TRUE(loaded.ok()) << loaded.error().message;
    parameters = loaded->backend->memory().tensors;
  }
  Machine machine(make_parts(options, device, 0));
  const MemoryPlan& plan = machine.parts.plan;
  const DeviceMemory memory = machine.parts.loaded.backend->memory();
  EXPECT_LE(memory.weights, plan.weights + plan.vision_weights);
  EXPECT_EQ(memory.tensors - parameters,
            plan.kv_cache + plan.state_slots + plan.activations + plan.encoder_cache);
  EXPECT_LE(memory.scratch + memory.driver, plan.device_scratch);
  fmt::print("scratch {} and driver {} of {} bytes planned\n", memory.scratch, memory.driver,
             plan.device_scratch);
  machine.run(media_request(false, 1, 3));
  machine.run(media_request(true, 1, 3));
  Request sampled = ids_request(common_ids(emulated() ? 20 : 200), 3);
  sampled.sampling.n = 3;
  sampled.sampling.temperature = 0.7;
  sampled.sampling.top_k = 20;
  sampled.sampling.num_logprobs = 5;
  sampled.sampling.presence_penalty = 1;
  machine.run(sampled);
  EXPECT_EQ(machine.parts.loaded.backend->memory().changed, 0);
}

INSTANTIATE_TEST_SUITE_P(Devices, EngineOnDevice, ::testing::ValuesIn([] {
                           std::vector<Run> runs;
                           for (const std::string& device : devices_here()) {
                             for (const char* dtype : {"float32", "bfloat16"})
                               runs.push_back({device, dtype});
                           }
                           return runs;
                         }()),
                         [](const auto& info) {
                           return info.param.device + "_" + info.param.dtype;
                         });

// --- Faults ------------------------------------------------------------------------------------

// A device that computes until it is told to fail, or to hang until its watchdog says so.
class FailingBackend final : public cpu::CpuBackend {
 public:
  struct Switch {
    std::atomic<bool> broken{false}, hangs{false};
  };
  explicit FailingBackend(std::shared_ptr<Switch> control)
      : CpuBackend({.num_threads = 2}), control_(std::move(control)) {}

  Status health() const override {
    if (!control_->broken) return {};
    return Error{ErrorCode::kUnavailable, "the device fell off the bus", ""};
  }
  void wait(uint64_t ticket) override {
    CpuBackend::wait(ticket);
    if (!control_->hangs) return;
    std::this_thread::sleep_for(milliseconds(200));
    control_->broken = true;
  }

 private:
  std::shared_ptr<Switch> control_;
};

class EngineFaults : public ::testing::TestWithParam<bool> {};

TEST_P(EngineFaults, EndEveryRequestAndNothingHangs) {
  const auto control = std::make_shared<FailingBackend::Switch>();
  EngineOptions options = small_options();
  options.max_waiting_requests = 100;
  auto parts = make_engine_parts(options, {}, std::make_unique<FailingBackend>(control));
  ASSERT_TRUE(parts.ok()) << parts.error().message;
  auto engine = make_engine(std::move(*parts), options);
  std::vector<std::shared_ptr<Generation>> generations;
  // Running, waiting and in preparation.
  for (int i = 0; i < 30; ++i) {
    Request request =
        i % 3 == 2 ? media_request(true, i, 200) : ids_request(common_ids(10 + i), 200);
    auto generation = engine->submit(std::move(request));
    ASSERT_TRUE(generation.ok()) << generation.error().message;
    generations.push_back(*generation);
  }
  const auto first = generations[0]->read(milliseconds(10000));
  ASSERT_TRUE(first.ok() && !first->empty());
  EXPECT_TRUE(engine->healthy());
  const auto start = std::chrono::steady_clock::now();
  (GetParam() ? control->hangs : control->broken) = true;
  int num_failed = 0;
  for (const auto& generation : generations) {
    while (!generation->done()) {
      const auto deltas = generation->read(milliseconds(10000));
      if (!deltas.ok()) {
        EXPECT_EQ(deltas.error().code, ErrorCode::kInternal);
        EXPECT_THAT(deltas.error().message, ::testing::HasSubstr("the engine has failed"));
        ++num_failed;
        break;
      }
      ASSERT_FALSE(deltas->empty()) << "a request of a failed engine never ends";
    }
  }
  EXPECT_GT(num_failed, 20);
  EXPECT_FALSE(engine->healthy());
  const auto late = engine->submit(ids_request(common_ids(5), 1));
  ASSERT_FALSE(late.ok());
  EXPECT_EQ(late.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(late.error().message, ::testing::HasSubstr("restart"));
  const EngineStats stats = engine->stats();
  EXPECT_EQ(stats.num_running + stats.num_waiting + stats.num_preparing, 0);
  engine->shutdown(milliseconds(20000));
  engine.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(10));
}

INSTANTIATE_TEST_SUITE_P(Device, EngineFaults, ::testing::Values(false, true),
                         [](const auto& info) { return info.param ? "Hangs" : "Fails"; });

}  // namespace
}  // namespace videre
