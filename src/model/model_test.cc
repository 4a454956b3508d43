// The towers against the reference's outputs, stage by stage, on every instruction set and in both
// dtypes. More reference sets join by VIDERE_FIXTURES=folder:folder.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "model/testing.h"

namespace videre::testing {
namespace {

struct Case {
  std::string folder, isa;
  DType dtype;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& folder : reference_folders()) {
    for (const std::string& isa : devices()) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) all.push_back({folder, isa, dtype});
    }
  }
  return all;
}

class Reference : public ::testing::TestWithParam<Case> {
 protected:
  Reference()
      : set_(GetParam().folder),
        be_(make_backend(GetParam().isa)),
        dtype_(GetParam().dtype),
        model_(set_.load(*be_, dtype_)) {}

  ReferenceSet set_;
  std::unique_ptr<Backend> be_;
  DType dtype_;
  std::unique_ptr<NemotronVl> model_;
};

TEST_P(Reference, Vision) {
  const Tensor stored_rgb = set_.copy("vision.rgb");
  const ConstView rgb = stored_rgb;
  const int64_t tiles = rgb.dim(0), tokens = model_->config().tokens_per_tile();
  VisionWorkspace ws = model_->vision().make_workspace(*be_, tiles, static_cast<int>(rgb.dim(2)),
                                                       static_cast<int>(rgb.dim(3)));
  Tensor out = be_->allocate(dtype_, Shape{tiles * tokens, model_->config().llm.hidden_size});
  Recorder recorder(*be_);
  model_->vision().encode_tiles(*be_, rgb, ws, out);

  // The set keeps the first tiles of some stages only.
  const auto check = [&](const std::string& observed, const std::string& stored) {
    std::vector<float> got = recorder[observed];
    const std::vector<float> expected = set_.values(stored);
    ASSERT_GE(got.size(), expected.size()) << observed;
    got.resize(expected.size());
    expect_close(got, expected, dtype_, observed);
  };
  check("vision.patch_embeddings", "vision.patch_embeddings_0");
  check("vision.features", "vision.features");
  check("vision.pixel_shuffled", "vision.pixel_shuffled_0");
  check("vision.projected", "vision.projected");
}

TEST_P(Reference, VisionAloneOrInABatch) {
  const Tensor stored_rgb = set_.copy("vision.rgb");
  const ConstView rgb = stored_rgb;
  const int64_t tiles = rgb.dim(0), tokens = model_->config().tokens_per_tile();
  const int64_t hidden = model_->config().llm.hidden_size;
  const int side = static_cast<int>(rgb.dim(2));
  VisionWorkspace all = model_->vision().make_workspace(*be_, tiles, side, side);
  VisionWorkspace one = model_->vision().make_workspace(*be_, 1, side, side);
  Tensor together = be_->allocate(dtype_, Shape{tiles * tokens, hidden});
  Tensor alone = be_->allocate(dtype_, Shape{tokens, hidden});
  model_->vision().encode_tiles(*be_, rgb, all, together);
  for (int64_t i = 0; i < tiles; ++i) {
    model_->vision().encode_tiles(*be_, rgb.rows(i, i + 1), one, alone);
    const auto expected = values_of(together.view().rows(i * tokens, (i + 1) * tokens));
    if (be_->name() == "cpu") {
      EXPECT_EQ(values_of(alone), expected) << "tile " << i;
    } else {  // few rows and many take different kernels there
      EXPECT_GT(cosine(values_of(alone), expected), 0.9999) << "tile " << i;
    }
  }
}

TEST_P(Reference, RectangularInputs) {
  int checked = 0;
  for (const std::string& name : set_.names("vision.rect_")) {
    if (!name.ends_with(".pixels")) continue;
    const std::string stem = "vision.rect_" + name.substr(0, name.size() - 7);
    const ConstView stored = set_.view(stem + ".pixels");
    const Tensor pixels = make_tensor(dtype_, stored.shape(), values_of(stored));
    VisionWorkspace ws = model_->vision().make_workspace(*be_, 1, static_cast<int>(stored.dim(2)),
                                                         static_cast<int>(stored.dim(3)));
    const View features = model_->vision().encode(*be_, pixels, ws);
    expect_close(values_of(features), set_.values(stem + ".features"), dtype_, stem);
    ++checked;
  }
  EXPECT_GE(checked, 2);
}

TEST_P(Reference, HiddenAfterEveryLayer) {
  Sequences sequences(*be_, model_->language(), dtype_);
  Recorder recorder(*be_);
  sequences.step({{0, set_.ids("llm.ids_64")}});
  const int layers = model_->config().llm.num_layers();
  for (int i = 0; i <= layers; ++i) {
    expect_close(recorder["llm.hidden." + std::to_string(i)],
                 set_.values("llm.hidden_64_" + std::to_string(i)), dtype_,
                 "llm.hidden." + std::to_string(i));
  }
}

TEST_P(Reference, LogitsOfEveryPrompt) {
  Sequences sequences(*be_, model_->language(), dtype_);
  int checked = 0;
  for (const std::string& length : set_.names("llm.logits_")) {
    sequences.reset();
    const auto logits = sequences.step({{0, set_.ids("llm.ids_" + length)}})[0];
    const std::vector<float> expected = set_.values("llm.logits_" + length);
    ASSERT_GE(logits.size(), expected.size());
    const std::vector<float> last(logits.end() - std::ssize(expected), logits.end());
    expect_close(last, expected, dtype_, "prompt of " + length);
    ++checked;
  }
  EXPECT_GE(checked, 4);
}

TEST_P(Reference, GreedyTokens) {
  Sequences sequences(*be_, model_->language(), dtype_);
  const size_t vocab = model_->config().llm.vocab_size;
  const double std = json_number(*json_find(set_.json(), "logit_std")).value();
  const double clear = std * (dtype_ == DType::kF32 ? tolerance::kGreedyMarginFloat32
                                                    : tolerance::kGreedyMarginBFloat16);
  int compared = 0;
  const bool emulated = GetParam().isa == "emulated";  // a thread at a time: a few tokens must do
  for (const std::string& length : set_.names("llm.ids_")) {
    if (emulated && length != "64") continue;
    const auto& greedy = json_find(set_.json(), "llm.greedy_" + length)->as_array();
    const auto& margins = json_find(set_.json(), "llm.margin_" + length)->as_array();
    sequences.reset();
    std::vector<int32_t> next = set_.ids("llm.ids_" + length);
    for (size_t i = 0; i < (emulated ? 3 : greedy.size()); ++i) {
      const auto logits = sequences.step({{0, next}})[0];
      const auto last = logits.end() - static_cast<int64_t>(vocab);
      const auto token = static_cast<int32_t>(std::max_element(last, logits.end()) - last);
      const auto expected = static_cast<int32_t>(*json_number(greedy[i]));
      if (*json_number(margins[i]) > clear) {
        EXPECT_EQ(token, expected) << "prompt of " << length << ", token " << i;
        ++compared;
      }
      // The reference's token goes on, named by its slot as the engine names it.
      sequences.set_last_token(0, expected);
      next = {-1 - Sequences::slot(0)};
    }
  }
  EXPECT_GE(compared, emulated ? 2 : 30);
}

INSTANTIATE_TEST_SUITE_P(Sets, Reference, ::testing::ValuesIn(cases()), [](const auto& info) {
  return name_of(info.param.folder) + "_" + info.param.isa + "_" +
         (info.param.dtype == DType::kF32 ? "float32" : "bfloat16");
});

// Weight formats: float32 activations against the reference's dequantised weights.
class Quantized : public ::testing::TestWithParam<std::pair<std::string, std::string>> {};

TEST_P(Quantized, LogitsWeightOnly) {
  const auto& [folder, isa] = GetParam();
  const ReferenceSet set(folder);
  const auto be = make_backend(isa);
  for (const std::string format : {"fp8", "nvfp4"}) {
    const auto model = set.load(*be, DType::kF32, "checkpoint-" + format);
    Sequences sequences(*be, model->language(), DType::kF32);
    const auto logits = sequences.step({{0, set.ids("quant.ids")}})[0];
    const auto expected = set.values("quant." + format + ".logits_weight_only");
    const std::vector<float> last(logits.end() - std::ssize(expected), logits.end());
    EXPECT_LE(relative_error(last, expected), tolerance::kQuantizedRelative) << format;
    // The order of sums is all that differs, as with plain weights.
    EXPECT_LE(max_error(last, expected), tolerance::kFloat32) << format;

    const auto bf16 = set.load(*be, DType::kBF16, "checkpoint-" + format);
    Sequences rounded(*be, bf16->language(), DType::kBF16);
    const auto rounded_logits = rounded.step({{0, set.ids("quant.ids")}})[0];
    const std::vector<float> rounded_last(rounded_logits.end() - std::ssize(expected),
                                          rounded_logits.end());
    EXPECT_GT(cosine(rounded_last, expected), tolerance::kBFloat16Cosine) << format;
  }
}

std::vector<std::pair<std::string, std::string>> quantized_cases() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const std::string& folder : reference_folders()) {
    for (const std::string& isa : devices()) all.emplace_back(folder, isa);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Sets, Quantized, ::testing::ValuesIn(quantized_cases()),
                         [](const auto& info) {
                           return name_of(info.param.first) + "_" + info.param.second;
                         });

TEST(ReferenceSets, MoreByEnvironment) {
  if (std::getenv("VIDERE_FIXTURES") == nullptr) {
    GTEST_SKIP() << "VIDERE_FIXTURES is not set: only tests/tiny-b was compared";
  }
}

}  // namespace
}  // namespace videre::testing
