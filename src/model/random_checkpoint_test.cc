// Random weights have the tensors of the reference sets in every format, values that a model lives
// on, and the same bytes each time; what is written of them opens as a checkpoint.
#include "model/random_checkpoint.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <set>

#include "model/testing.h"

namespace videre::testing {
namespace {

namespace fs = std::filesystem;

const std::string kSet = std::string(VIDERE_TEST_DATA) + "/tiny-b/";
const char* const kFormats[] = {"checkpoint", "checkpoint-fp8", "checkpoint-nvfp4"};

Config config_of(const std::string& format) { return load_config(kSet + format).value(); }

std::unique_ptr<Checkpoint> make(const Config& config) {
  auto made = random_checkpoint(config);
  VIDERE_CHECK(made.ok()) << made.error().message;
  return std::move(made).value();
}

double std_of_weight(const Checkpoint& checkpoint, const std::string& module) {
  const ConstView codes = checkpoint.tensor(module + ".weight").value();
  const auto* bytes = codes.data<uint8_t>();
  std::vector<float> values;
  if (codes.dtype() == DType::kF8E4M3) {
    const float scale = checkpoint.floats(module + ".weight_scale", 1).value()[0];
    for (int64_t i = 0; i < codes.numel(); ++i) values.push_back(scale * e4m3_to_float(bytes[i]));
  } else if (codes.dtype() == DType::kU8) {
    const ConstView scales = checkpoint.tensor(module + ".weight_scale").value();
    const float scale = checkpoint.floats(module + ".weight_scale_2", 1).value()[0];
    for (int64_t i = 0; i < codes.numel(); ++i) {
      const float block = scale * e4m3_to_float(scales.data<uint8_t>()[i / 8]);
      values.push_back(block * e2m1_to_float(bytes[i]));
      values.push_back(block * e2m1_to_float(bytes[i] >> 4));
    }
  } else {
    values = values_of(codes);
  }
  for (const float value : values) VIDERE_CHECK(std::isfinite(value)) << module;
  return std_of(values);
}

TEST(RandomCheckpoint, HasTheTensorsOfTheReferenceSets) {
  for (const std::string format : kFormats) {
    const auto reference = Checkpoint::open(kSet + format).value();
    std::map<std::string, TensorEntry> layout;
    auto tensors = checkpoint_layout(config_of(format)).value();
    for (LayoutTensor& tensor : tensors) {
      const std::string name = tensor.entry.name;
      ASSERT_TRUE(layout.emplace(name, std::move(tensor.entry)).second) << name;
    }
    for (const auto& [name, stored] : reference->tensors()) {
      if (name.ends_with("summary_idxs")) continue;  // which exports drop, and no one reads
      ASSERT_TRUE(layout.count(name)) << format << " " << name;
      EXPECT_EQ(layout[name].dtype, stored.view.dtype()) << format << " " << name;
      EXPECT_EQ(layout[name].shape, stored.view.shape()) << format << " " << name;
    }
    EXPECT_EQ(layout.size() + 1, reference->tensors().size()) << format;
  }
}

TEST(RandomCheckpoint, ValuesAreOfTheirKind) {
  const auto checkpoint = make(config_of("checkpoint"));
  const std::string block = "language_model.backbone.layers.0.";
  const auto a_log = checkpoint->floats(block + "mixer.A_log", 12).value();
  for (const float a : a_log) {
    EXPECT_TRUE(a >= 0 && a <= std::log(16.0f)) << a;
  }
  const auto biases = checkpoint->floats(block + "mixer.dt_bias", 12).value();
  for (const float bias : biases) {
    const float dt = std::log1p(std::exp(bias));
    EXPECT_TRUE(dt > 0.00099f && dt < 0.101f) << dt;
  }
  double mean = 0;
  const auto norm = checkpoint->floats(block + "norm.weight", 96).value();
  for (const float value : norm) mean += value / 96;
  EXPECT_NEAR(mean, 1, 0.05);
  EXPECT_NEAR(std_of(norm), 0.1, 0.03);
  const auto conv = checkpoint->floats(block + "mixer.conv1d.weight", 704 * 4).value();
  EXPECT_LE(*std::max_element(conv.begin(), conv.end()), 0.5f);
  EXPECT_NEAR(std_of(conv), 0.5 / std::sqrt(3), 0.02);
  const auto table = checkpoint->floats("language_model.backbone.embeddings.weight", 1536 * 96);
  EXPECT_NEAR(std_of(*table), 0.02, 0.0005);
  const auto zeros = std::count(table->begin(), table->end(), 0.0f);
  EXPECT_LT(zeros, 10);
}

TEST(RandomCheckpoint, SpreadIsTheSameInEveryFormat) {
  for (const std::string format : kFormats) {
    const auto checkpoint = make(config_of(format));
    const std::string block = "language_model.backbone.layers.";
    for (const char* module : {"0.mixer.in_proj", "1.mixer.down_proj", "2.mixer.q_proj"}) {
      EXPECT_NEAR(std_of_weight(*checkpoint, block + module), 0.02, 0.0005) << format << module;
    }
  }
}

TEST(RandomCheckpoint, IsTheSameEachTime) {
  for (const std::string format : kFormats) {
    const auto a = make(config_of(format)), b = make(config_of(format));
    for (const auto& [name, tensor] : a->tensors()) {
      const ConstView other = b->tensors().at(name).view;
      EXPECT_EQ(std::memcmp(tensor.view.raw(), other.raw(), other.size_bytes()), 0) << name;
    }
  }
}

TEST(RandomCheckpoint, RunsInEveryFormat) {
  for (const std::string format : kFormats) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      const auto be = make_backend(isas().back());
      const Config config = config_of(format);
      // The folder needs no weights: none is read.
      const auto loaded =
          NemotronVl::load(ModelFiles("/nowhere"), config, *be, dtype, false, LoadFormat::kDummy);
      ASSERT_TRUE(loaded.ok()) << loaded.error().message;
      const NemotronVl& model = **loaded;
      EXPECT_TRUE(model.has_vision());
      EXPECT_EQ(model.checkpoint().unused(), std::vector<std::string>()) << format;
      const auto real = NemotronVl::load(ModelFiles(kSet + format), config, *be, dtype, false);
      EXPECT_EQ(model.num_parameters(), (*real)->num_parameters()) << format;
      EXPECT_EQ(model.weight_bytes(), (*real)->weight_bytes()) << format;
      Sequences sequences(*be, model.language(), dtype, 1, 400,
                          {.kv_dtype = dtype, .conv_dtype = dtype});
      std::vector<int32_t> ids;
      for (int i = 0; i < 100; ++i) ids.push_back((i * 37 + 5) % config.llm.vocab_size);
      const auto logits = sequences.step({{0, ids}})[0];
      for (const float value : logits) ASSERT_TRUE(std::isfinite(value)) << format;
      EXPECT_GT(std_of(logits), 0.05) << format;  // alive
      EXPECT_LT(std_of(logits), 10) << format;
      // Rows differ: the blocks mix tokens in.
      const auto row = [&](int64_t i) {
        const auto first = logits.begin() + i * config.llm.vocab_size;
        return std::max_element(first, first + config.llm.vocab_size) - first;
      };
      std::set<int64_t> choices;
      for (int64_t i = 0; i < 100; ++i) choices.insert(row(i));
      EXPECT_GT(choices.size(), 20u) << format;
    }
  }
}

// 2.7 GB of addresses over a pool ten times smaller.
TEST(RandomCheckpoint, LargeTablesHaveNoEqualRows) {
  Config config = config_of("checkpoint");
  config.llm.vocab_size = 132096;
  config.llm.hidden_size = 5120;
  const auto checkpoint = make(config);
  const ConstView table =
      checkpoint->tensor("language_model.lm_head.weight", {132096, 5120}).value();
  std::set<std::string> rows;
  for (int64_t i = 0; i < table.dim(0); ++i) {
    rows.emplace(static_cast<const char*>(table[i].raw()), 32);
  }
  EXPECT_EQ(std::ssize(rows), table.dim(0));
}

TEST(RandomCheckpoint, WritesWhatOpens) {
  const fs::path folder =
      fs::temp_directory_path() / ("videre_random_" + std::to_string(::getpid()));
  fs::create_directories(folder);
  for (const std::string format : kFormats) {
    for (const int64_t shard_bytes : {int64_t{100} << 10, int64_t{1} << 40}) {
      const auto made = make(config_of(format));
      const fs::path path = folder / (format + std::to_string(shard_bytes));
      auto out = OutputFolder::create(path.string(), made->size_bytes()).value();
      int64_t last = 0;
      const Status written =
          write_checkpoint(*made, *out, shard_bytes, [&](int64_t done, int64_t all) {
            EXPECT_GT(done, last);
            EXPECT_EQ(all, made->size_bytes());
            last = done;
          });
      ASSERT_TRUE(written.ok()) << written.error().message;
      ASSERT_TRUE(out->commit().ok());
      EXPECT_EQ(last, made->size_bytes());
      EXPECT_EQ(fs::exists(path / "model.safetensors"), shard_bytes > made->size_bytes());
      const auto opened = Checkpoint::open(path.string());
      ASSERT_TRUE(opened.ok()) << opened.error().message;
      ASSERT_EQ((*opened)->tensors().size(), made->tensors().size());
      for (const auto& [name, tensor] : made->tensors()) {
        const ConstView got = (*opened)->tensor(name, tensor.view.shape()).value();
        EXPECT_EQ(got.dtype(), tensor.view.dtype()) << name;
        EXPECT_EQ(std::memcmp(got.raw(), tensor.view.raw(), got.size_bytes()), 0) << name;
      }
    }
  }
  fs::remove_all(folder);
}

TEST(RandomCheckpoint, SaysWhatTheConfigLacks) {
  const auto error_of = [](const Config& config) {
    const auto layout = checkpoint_layout(config);
    return layout.ok() ? std::string() : layout.error().message;
  };
  Config config = config_of("checkpoint");
  config.llm.intermediate_sizes.clear();
  EXPECT_NE(error_of(config).find("intermediate_size"), std::string::npos);
  config = config_of("checkpoint");
  config.vision.num_prefix_tokens = 0;
  EXPECT_NE(error_of(config).find("num_cls_tokens"), std::string::npos);
  config = config_of("checkpoint-fp8");
  config.quant_algo = "MIXED_PRECISION";
  EXPECT_NE(error_of(config).find("MIXED_PRECISION"), std::string::npos);
  config = config_of("checkpoint");
  config.llm.hidden_size = config.llm.vocab_size = 1 << 24;  // more addresses than there are
  const auto made = random_checkpoint(config);
  ASSERT_FALSE(made.ok());
  EXPECT_EQ(made.error().code, ErrorCode::kOutOfMemory);
}

TEST(RandomCheckpoint, FollowsTheConfig) {
  Config config = config_of("checkpoint-nvfp4");
  config.kv_cache_quant_algo = "FP8";
  config.llm.tie_word_embeddings = true;
  config.llm.use_conv_bias = false;
  config.quant_exclude.emplace_back("*.layers.1.mixer.up_proj");
  const auto checkpoint = make(config);
  const std::string layers = "language_model.backbone.layers.";
  EXPECT_FALSE(checkpoint->contains("language_model.lm_head.weight"));
  EXPECT_FALSE(checkpoint->contains(layers + "0.mixer.conv1d.bias"));
  EXPECT_EQ(checkpoint->floats(layers + "2.mixer.k_proj.k_scale", 1).value()[0], 1);
  EXPECT_EQ(checkpoint->linear(layers + "1.mixer.up_proj", 256, 96).value().format,
            WeightFormat::kPlain);
  EXPECT_EQ(checkpoint->linear(layers + "1.mixer.down_proj", 96, 256).value().format,
            WeightFormat::kNvfp4);
}

}  // namespace
}  // namespace videre::testing
