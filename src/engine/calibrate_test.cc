#include "engine/calibrate.h"

#include <gtest/gtest.h>

#include <cmath>

#include "engine/activation_probe.h"
#include "model/testing.h"
#include "weights/quantize.h"

namespace videre {
namespace {

using testing::ReferenceSet;

const std::string kSet = std::string(VIDERE_TEST_DATA) + "/tiny-b";

EngineOptions options_for(const std::string& checkpoint) {
  EngineOptions options;
  options.model = kSet + "/" + checkpoint;
  options.dtype = "float32";
  options.max_model_len = 1024;
  options.num_threads = 1;
  options.allowed_local_media_path = kSet;
  return options;
}

Request with_ids(std::vector<int32_t> ids) {
  Request request;
  request.prompt_token_ids = std::move(ids);
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 1;
  return request;
}

TEST(CalibrateTest, TellsTheReferenceScales) {
  const ReferenceSet set(kSet);
  auto got = calibrate(options_for("checkpoint"), {with_ids(set.ids("quant.ids"))});
  ASSERT_TRUE(got.ok()) << got.error().message;
  EXPECT_EQ(got->num_prompt_tokens, 96);
  auto reference = Checkpoint::open(kSet + "/checkpoint-fp8");
  ASSERT_TRUE(reference.ok());
  ASSERT_EQ(got->amax.inputs.size(), 24u);
  for (const auto& [module, most] : got->amax.inputs) {
    const float scale = (*reference)->floats(module + ".input_scale", 1).value()[0];
    EXPECT_NEAR(most / kE4m3Max / scale, 1, 1e-4) << module;
  }
}

TEST(CalibrateTest, SeesEveryRequestAndEveryStep) {
  const ReferenceSet set(kSet);
  const std::vector<int32_t> ids = set.ids("quant.ids");
  const auto amax_of = [&](const std::vector<Request>& requests) {
    auto got = calibrate(options_for("checkpoint"), requests);
    EXPECT_TRUE(got.ok()) << got.error().message;
    return got.ok() ? got->amax : ActivationAmax();
  };
  const std::vector<int32_t> head(ids.begin(), ids.begin() + 40), tail(ids.begin() + 40, ids.end());
  const ActivationAmax a = amax_of({with_ids(head)}), b = amax_of({with_ids(tail)});
  std::vector<Request> many(11, with_ids(head));  // more than run together
  many.push_back(with_ids(tail));
  int64_t last = -1;
  auto both = calibrate(options_for("checkpoint"), many, {}, [&](int64_t done, int64_t all) {
    EXPECT_GE(done, last);
    EXPECT_EQ(all, 12);
    last = done;
  });
  ASSERT_TRUE(both.ok()) << both.error().message;
  EXPECT_EQ(last, 12);
  EXPECT_EQ(both->num_requests, 12);
  EXPECT_EQ(both->amax.keys.size(), 2u);
  EXPECT_EQ(both->amax.values.size(), 2u);
  for (const auto& [name, most] : both->amax.inputs) {
    EXPECT_NEAR(most / std::max(a.inputs.at(name), b.inputs.at(name)), 1, 1e-5) << name;
  }
  for (const auto& [name, most] : both->amax.keys) {
    EXPECT_NEAR(most / std::max(a.keys.at(name), b.keys.at(name)), 1, 1e-5) << name;
  }
  // Generated tokens count: some module sees something larger than in the prompt.
  Request longer = with_ids(head);
  longer.sampling.max_tokens = 64;
  longer.sampling.ignore_eos = true;
  const ActivationAmax c = amax_of({longer});
  int larger = 0;
  for (const auto& [name, most] : c.inputs) {
    EXPECT_GE(most, a.inputs.at(name) * (1 - 1e-5f)) << name;
    larger += most > a.inputs.at(name) * (1 + 1e-5f);
  }
  EXPECT_GT(larger, 0);
}

TEST(CalibrateTest, RefusesWhatItCannotUse) {
  EXPECT_EQ(calibrate(options_for("checkpoint"), {}).error().code, ErrorCode::kInvalidArgument);
  Request good = with_ids({20, 21, 22}), bad = with_ids({20, 21, 22});
  bad.sampling.temperature = -1;
  auto got = calibrate(options_for("checkpoint"), {good, bad});
  ASSERT_FALSE(got.ok());
  EXPECT_NE(got.error().message.find("calibration request 2 of 2"), std::string::npos);
  EXPECT_EQ(got.error().param, "temperature");
  std::atomic<bool> cancel{true};
  EXPECT_EQ(calibrate(options_for("checkpoint"), {good}, {}, {}, &cancel).error().code,
            ErrorCode::kCancelled);
}

// Activations through FP8 and NVFP4 give the logits that the reference computed so.
TEST(ActivationSimulatorTest, GivesTheReferenceLogits) {
  const ReferenceSet set(kSet);
  const auto file =
      MappedFile::open(std::string(VIDERE_TEST_DATA) + "/quantize/activations.safetensors").value();
  const auto tensors = read_safetensors(*file).value();
  const auto be = make_cpu_backend();
  const auto simulator = make_activation_simulator(*be);
  for (const auto& [format, name] :
       {std::pair("fp8", "quant.fp8.logits_w8a8"), std::pair("nvfp4", "quant.nvfp4.logits_w4a4")}) {
    const auto model = set.load(*be, DType::kF32, std::string("checkpoint-") + format);
    testing::Sequences sequences(*be, model->language(), DType::kF32);
    be->set_linear_probe(simulator.get());
    const auto logits = sequences.step({{0, set.ids("quant.ids")}})[0];
    be->set_linear_probe(nullptr);
    const auto expected = testing::values_of(tensors.at(name).view);
    const std::vector<float> last(logits.end() - std::ssize(expected), logits.end());
    // Without the simulation they differ by 10 % and 32 %. Sums in another order may round one
    // activation to the next code now and then.
    EXPECT_LE(testing::relative_error(last, expected), 0.02) << format;
  }
}

TEST(ActivationSimulatorTest, RunsBehindTheEnginesDoors) {
  const ReferenceSet set(kSet);
  std::vector<std::string> texts;
  for (const bool simulated : {false, true}) {
    EngineOptions options = options_for("checkpoint-nvfp4");
    options.quantized_activations = simulated;
    auto engine = Engine::load(options);
    ASSERT_TRUE(engine.ok()) << engine.error().message;
    Request request = with_ids(set.ids("quant.ids"));
    request.sampling.max_tokens = 24;
    request.sampling.ignore_eos = true;
    auto generation = (*engine)->submit(request);
    ASSERT_TRUE(generation.ok()) << generation.error().message;
    std::string text;
    while (!(*generation)->done()) {
      auto deltas = (*generation)->read(std::chrono::milliseconds(10000));
      ASSERT_TRUE(deltas.ok() && !deltas->empty());
      for (const OutputDelta& delta : *deltas) text += delta.text;
    }
    texts.push_back(text);
  }
  EXPECT_NE(texts[0], texts[1]);  // 4 bits do change what a random model says
}

}  // namespace
}  // namespace videre
