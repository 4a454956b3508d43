#include "model/quantize_checkpoint.h"

#include <gtest/gtest.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <thread>

#include "backend/backend.h"
#include "base/json.h"
#include "model/config.h"
#include "model/nemotron_vl.h"
#include "weights/checkpoint.h"
#include "weights/safetensors_layout.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

const std::string kSet = std::string(VIDERE_TEST_DATA) + "/tiny-b/";

class QuantizeCheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::temp_directory_path() / ("videre_quantize_" + std::to_string(::getpid()) + "_" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
    out_ = (folder_ / "out").string();
  }
  void TearDown() override {
    ::umount2(folder_.c_str(), MNT_DETACH);  // where a test mounted a small disk
    fs::remove_all(folder_);
  }

  std::vector<std::string> left_over() const {
    std::vector<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }
  std::string text(const std::string& path) const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }
  std::string error_of(const std::string& source, const QuantizeOptions& options = {}) {
    auto report = quantize_checkpoint(source, out_, options);
    EXPECT_FALSE(report.ok());
    return report.ok() ? "" : report.error().message;
  }

  fs::path folder_;
  std::string out_;
};

// The calibration that the reference set's input scales tell.
ActivationAmax amax_of(const Checkpoint& reference, float full) {
  ActivationAmax amax;
  const std::string end = ".input_scale";
  for (const auto& [name, tensor] : reference.tensors()) {
    if (!name.ends_with(end)) continue;
    amax.inputs[name.substr(0, name.size() - end.size())] =
        reference.floats(name, 1).value()[0] * full;
  }
  return amax;
}

int64_t ulps(float a, float b) {
  int32_t x, y;
  std::memcpy(&x, &a, 4);
  std::memcpy(&y, &b, 4);
  return std::abs(int64_t{x} - y);
}

void expect_same(const std::string& ours, const std::string& reference) {
  auto a = Checkpoint::open(ours), b = Checkpoint::open(reference);
  ASSERT_TRUE(a.ok()) << a.error().message;
  ASSERT_TRUE(b.ok());
  ASSERT_EQ((*a)->tensors().size(), (*b)->tensors().size());
  for (const auto& [name, tensor] : (*b)->tensors()) {
    ASSERT_TRUE((*a)->contains(name)) << name;
    const ConstView got = (*a)->tensors().at(name).view, expected = tensor.view;
    ASSERT_EQ(got.dtype(), expected.dtype()) << name;
    ASSERT_EQ(got.shape(), expected.shape()) << name;
    if (expected.dtype() == DType::kF32 && expected.numel() == 1) {
      const float x = (*a)->floats(name, 1).value()[0], y = (*b)->floats(name, 1).value()[0];
      EXPECT_LE(ulps(x, y), 1) << name << ": " << x << " vs " << y;
    } else {
      EXPECT_EQ(std::memcmp(got.raw(), expected.raw(), got.size_bytes()), 0) << name;
    }
  }
  // Headers too: the same places, the same order.
  const std::string kFile = "/model.safetensors";
  const auto size = [](const std::string& path) { return fs::file_size(path); };
  EXPECT_EQ(size(ours + kFile), size(reference + kFile));
}

TEST_F(QuantizeCheckpointTest, MakesTheReferenceSets) {
  for (const auto format : {QuantFormat::kFp8, QuantFormat::kNvfp4}) {
    const bool fp8 = format == QuantFormat::kFp8;
    const std::string reference = kSet + (fp8 ? "checkpoint-fp8" : "checkpoint-nvfp4");
    QuantizeOptions options;
    options.format = format;
    options.amax = amax_of(**Checkpoint::open(reference), fp8 ? 448.0f : 6 * 448.0f);
    for (const int threads : {1, 3}) {
      options.num_threads = threads;
      int64_t last = 0, all = 0;
      auto report =
          quantize_checkpoint(kSet + "checkpoint", out_, options, [&](int64_t done, int64_t total) {
            EXPECT_GE(done, last);
            last = done;
            all = total;
          });
      ASSERT_TRUE(report.ok()) << report.error().message;
      EXPECT_EQ(last, all);
      EXPECT_EQ(report->num_modules, 24);
      EXPECT_EQ(report->num_static_inputs, 24);
      EXPECT_EQ(report->num_kept_modules, 0);
      expect_same(out_, reference);
      EXPECT_EQ(left_over(), std::vector<std::string>{"out"});
      for (const char* name :
           {"tokenizer.json", "chat_template.jinja", "preprocessor_config.json"}) {
        EXPECT_EQ(text(out_ + "/" + name), text(kSet + "checkpoint/" + name)) << name;
      }
      // Both files declare the same, and the model loads without a word.
      auto config = load_config(out_);
      ASSERT_TRUE(config.ok()) << config.error().message;
      EXPECT_EQ(config->quant_algo, fp8 ? "FP8" : "NVFP4");
      EXPECT_TRUE(config->excluded_from_quantization("vision_model.radio_model.model.blocks.0"));
      EXPECT_TRUE(config->excluded_from_quantization("lm_head"));
      EXPECT_TRUE(parse_json(text(out_ + "/hf_quant_config.json"), "hf").ok());
      EXPECT_NE(text(out_ + "/config.json").find("Infinity\n"), std::string::npos);
      const auto backend = make_cpu_backend();
      EXPECT_TRUE(NemotronVl::load(out_, *config, *backend, DType::kF32, false).ok());
      fs::remove_all(out_);
    }
  }
}

TEST_F(QuantizeCheckpointTest, ShardsStayShards) {
  // The same checkpoint in two files, one of its names with a leading "model.".
  const auto file = MappedFile::open(kSet + "checkpoint/model.safetensors").value();
  const auto tensors = read_safetensors(*file).value();
  const std::string source = (folder_ / "source").string();
  fs::create_directories(source);
  for (const char* name : {"config.json", "tokenizer.json"}) {
    fs::copy_file(kSet + "checkpoint/" + name, source + "/" + name);
  }
  std::ofstream(source + "/pytorch_model.bin") << "large";
  std::string map;
  for (int part = 0; part < 2; ++part) {
    const std::string shard = "model-0000" + std::to_string(part + 1) + "-of-00002.safetensors";
    std::vector<TensorEntry> entries;
    std::string data;
    std::map<std::string, ConstView> views;
    int i = 0;
    for (const auto& [name, tensor] : tensors) {
      if (i++ % 2 != part) continue;
      const std::string stored = name.starts_with("language_model.") ? "model." + name : name;
      entries.push_back({stored, tensor.view.dtype(), tensor.view.shape()});
      views[stored] = tensor.view;
      map += (map.empty() ? "\"" : ",\"") + stored + "\":\"" + shard + "\"";
    }
    const SafetensorsLayout layout(entries);
    std::string bytes(layout.file_bytes(), '\0');
    std::memcpy(bytes.data(), layout.header().data(), layout.header().size());
    for (const auto& [name, view] : views) {
      std::memcpy(bytes.data() + layout.offset(name), view.raw(), view.size_bytes());
    }
    std::ofstream(source + "/" + shard, std::ios::binary) << bytes;
  }
  std::ofstream(source + "/model.safetensors.index.json") << "{\"weight_map\":{" << map << "}}";

  QuantizeOptions options;
  options.kv_cache_fp8 = true;
  options.exclude = {"*layers.0.*", "backbone.layers.1.mixer.up_proj"};
  const std::string attention = "language_model.backbone.layers.2.mixer.";
  options.amax.keys[attention + "k_proj"] = 896;  // twice what fits
  options.amax.values[attention + "v_proj"] = 3;
  auto report = quantize_checkpoint(source, out_, options);
  ASSERT_TRUE(report.ok()) << report.error().message;
  EXPECT_EQ(report->num_kept_modules, 3);
  EXPECT_EQ(report->num_modules, 21);
  EXPECT_EQ(report->num_static_inputs, 0);
  EXPECT_FALSE(fs::exists(out_ + "/pytorch_model.bin"));
  auto got = Checkpoint::open(out_);  // which checks the new index against the new shards
  ASSERT_TRUE(got.ok()) << got.error().message;
  const Checkpoint& checkpoint = **got;
  EXPECT_EQ(
      checkpoint.tensors().at("language_model.backbone.layers.0.mixer.in_proj.weight").view.dtype(),
      DType::kBF16);
  EXPECT_EQ(
      checkpoint.tensors().at("language_model.backbone.layers.1.mixer.up_proj.weight").view.dtype(),
      DType::kBF16);
  EXPECT_EQ(checkpoint.tensors()
                .at("language_model.backbone.layers.1.mixer.down_proj.weight")
                .view.dtype(),
            DType::kF8E4M3);
  EXPECT_FALSE(checkpoint.contains(attention + "q_proj.input_scale"));
  EXPECT_EQ(checkpoint.floats(attention + "k_proj.k_scale", 1).value()[0], 2.0f);
  EXPECT_EQ(checkpoint.floats(attention + "v_proj.v_scale", 1).value()[0], 1.0f);
  auto config = load_config(out_);
  ASSERT_TRUE(config.ok());
  EXPECT_EQ(config->kv_cache_quant_algo, "FP8");
  EXPECT_TRUE(config->excluded_from_quantization("language_model.backbone.layers.0.mixer.in_proj"));
}

TEST_F(QuantizeCheckpointTest, RefusesWhatCannotBe) {
  EXPECT_NE(error_of(kSet + "checkpoint-fp8").find("quantised already (FP8)"), std::string::npos);
  EXPECT_NE(error_of("/nowhere").find("/nowhere"), std::string::npos);
  QuantizeOptions options;
  options.exclude = {"*layers.77*"};
  EXPECT_NE(error_of(kSet + "checkpoint", options).find("matches no linear"), std::string::npos);
  options.exclude = {"*"};
  EXPECT_NE(error_of(kSet + "checkpoint", options).find("no linear left"), std::string::npos);
  EXPECT_TRUE(left_over().empty());

  fs::create_directories(out_);
  EXPECT_NE(error_of(kSet + "checkpoint").find("exists already"), std::string::npos);
  EXPECT_TRUE(fs::is_empty(out_));
  fs::remove_all(out_);
  out_ = (folder_ / "no" / "such").string();
  EXPECT_NE(error_of(kSet + "checkpoint").find("there is no folder"), std::string::npos);
  out_ = (folder_ / "out").string();

  // Tensors that are quantised, though the config does not say so; and weights that are no numbers.
  const std::string source = (folder_ / "source").string();
  fs::create_directories(source);
  fs::copy_file(kSet + "checkpoint/config.json", source + "/config.json");
  fs::copy_file(kSet + "checkpoint-nvfp4/model.safetensors", source + "/model.safetensors");
  EXPECT_NE(error_of(source).find("is uint8: it is quantised already"), std::string::npos);
  fs::remove(source + "/model.safetensors");
  std::string bytes = text(kSet + "checkpoint/model.safetensors");
  {
    const auto file = MappedFile::open(kSet + "checkpoint/model.safetensors").value();
    const auto tensors = read_safetensors(*file).value();
    const ConstView view = tensors.at("language_model.backbone.layers.9.mixer.up_proj.weight").view;
    const size_t at = view.data<uint8_t>() - file->bytes().data();
    bytes[at + 501] = '\x7f';
    bytes[at + 500] = '\xc0';
  }
  std::ofstream(source + "/model.safetensors", std::ios::binary) << bytes;
  EXPECT_NE(error_of(source).find("layers.9.mixer.up_proj.weight holds nan"), std::string::npos);
  fs::remove_all(source);
  EXPECT_TRUE(left_over().empty());
}

TEST_F(QuantizeCheckpointTest, StopsWithoutATrace) {
  std::atomic<bool> cancel{false};
  QuantizeOptions options;
  options.cancel = &cancel;
  auto report = quantize_checkpoint(kSet + "checkpoint", out_, options,
                                    [&](int64_t done, int64_t all) { cancel = done > all / 2; });
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kCancelled);
  EXPECT_TRUE(left_over().empty());
}

TEST_F(QuantizeCheckpointTest, AKillLeavesNothing) {
  const pid_t child = ::fork();
  if (child == 0) {  // dies in the middle of the weights
    (void)quantize_checkpoint(kSet + "checkpoint", out_, {.num_threads = 1},
                              [](int64_t done, int64_t all) {
                                if (done > all / 2) ::kill(::getpid(), SIGKILL);
                              });
    ::_exit(0);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
  EXPECT_FALSE(fs::exists(out_));
  // Where files need names from the start, the next run clears them away.
  EXPECT_TRUE(quantize_checkpoint(kSet + "checkpoint", out_, {}).ok());
  EXPECT_EQ(left_over(), std::vector<std::string>{"out"});
}

TEST_F(QuantizeCheckpointTest, AFullDiskIsSaidBeforeAndDuring) {
  if (::mount("none", folder_.c_str(), "tmpfs", 0, "size=1m") != 0) {
    GTEST_SKIP() << "a small disk cannot be mounted here";
  }
  EXPECT_NE(error_of(kSet + "checkpoint").find("GB free; make room"), std::string::npos);
  EXPECT_TRUE(left_over().empty());
  ASSERT_EQ(::mount("none", folder_.c_str(), "tmpfs", MS_REMOUNT, "size=2m"), 0);
  // Room at the start, which someone else takes.
  std::string taken;
  QuantizeOptions options;
  auto report = quantize_checkpoint(kSet + "checkpoint", out_, options, [&](int64_t, int64_t) {
    if (!taken.empty()) return;
    taken = (folder_ / "taken").string();
    std::ofstream(taken) << std::string(1 << 20, 'x');
  });
  ASSERT_FALSE(report.ok());
  EXPECT_EQ(report.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(report.error().message.find("No space left"), std::string::npos);
  EXPECT_EQ(left_over(), std::vector<std::string>{"taken"});
}

}  // namespace
}  // namespace videre
