#include "weights/checkpoint.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>

#include "weights/hub.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

// A folder of its own for each test, gone afterwards.
class CheckpointTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ =
        fs::temp_directory_path() / ("videre_checkpoint_" + std::to_string(::getpid()) + "_" +
                                     testing::UnitTest::GetInstance()->current_test_info()->name());
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }

  void write(const std::string& name, const std::string& bytes) {
    fs::create_directories((folder_ / name).parent_path());
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }
  static std::string safetensors(const std::string& header, const std::string& data) {
    uint64_t size = header.size();
    std::string out(8, '\0');
    std::memcpy(out.data(), &size, 8);
    return out + header + data;
  }
  void write_tensors(const std::string& header, const std::string& data) {
    write("model.safetensors", safetensors(header, data));
  }
  std::string open_error() {
    auto checkpoint = Checkpoint::open(folder_.string());
    return checkpoint.ok() ? "" : checkpoint.error().message;
  }
  std::string linear_error(const std::string& module, int64_t rows, int64_t columns) {
    auto checkpoint = Checkpoint::open(folder_.string());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    if (!checkpoint.ok()) return "";
    auto weight = (*checkpoint)->linear(module, rows, columns);
    return weight.ok() ? "" : weight.error().message;
  }
  static std::string floats(std::initializer_list<float> values) {
    std::string bytes(values.size() * 4, '\0');
    std::memcpy(bytes.data(), values.begin(), bytes.size());
    return bytes;
  }

  fs::path folder_;
};

TEST_F(CheckpointTest, OpensTheReferenceSets) {
  for (const char* name : {"checkpoint", "checkpoint-fp8", "checkpoint-nvfp4"}) {
    auto checkpoint = Checkpoint::open(std::string(VIDERE_TEST_DATA) + "/tiny-b/" + name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
    auto weight = (*checkpoint)->linear("language_model.backbone.layers.1.mixer.up_proj", 256, 96);
    ASSERT_TRUE(weight.ok()) << weight.error().message;
    const WeightFormat expected = std::string(name) == "checkpoint"       ? WeightFormat::kPlain
                                  : std::string(name) == "checkpoint-fp8" ? WeightFormat::kFp8
                                                                          : WeightFormat::kNvfp4;
    EXPECT_EQ(weight->format, expected);
    EXPECT_EQ(weight->num_rows(), 256);
    EXPECT_EQ(weight->num_columns(), 96);
    if (expected != WeightFormat::kPlain) {
      EXPECT_GT(weight->input_scale, 0);
    }
  }
}

TEST_F(CheckpointTest, ReadsShardsByTheirIndex) {
  write("model-00001-of-00002.safetensors",
        safetensors(R"({"model.mlp1.0.weight":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})",
                    floats({1, 2})));
  write("model-00002-of-00002.safetensors",
        safetensors(R"({"b":{"dtype":"F32","shape":[],"data_offsets":[0,4]}})", floats({3})));
  write(
      "model.safetensors.index.json",
      R"({"metadata":{"total_size":12},"weight_map":{"model.mlp1.0.weight":"model-00001-of-00002.safetensors",
            "b":"model-00002-of-00002.safetensors"}})");
  auto checkpoint = Checkpoint::open(folder_.string());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.error().message;
  EXPECT_TRUE((*checkpoint)->contains("mlp1.0.weight"));  // the leading "model." is gone
  EXPECT_EQ((*checkpoint)->floats("b", 1).value()[0], 3.0f);
  EXPECT_EQ((*checkpoint)->unused(), std::vector<std::string>{"mlp1.0.weight"});

  fs::remove(folder_ / "model-00002-of-00002.safetensors");
  EXPECT_NE(open_error().find("lacks 1 of 2 shards: model-00002-of-00002.safetensors"),
            std::string::npos);
}

TEST_F(CheckpointTest, RefusesAnIndexThatLeavesTheFolder) {
  for (const char* file : {"../model.safetensors", "/etc/passwd", "", ".hidden"}) {
    write("model.safetensors.index.json", std::string(R"({"weight_map":{"a":")") + file + "\"}}");
    EXPECT_NE(open_error().find("not a plain file name"), std::string::npos) << file;
  }
  write("model.safetensors.index.json", R"({"weight_map":[]})");
  EXPECT_NE(open_error().find("weight_map"), std::string::npos);
}

TEST_F(CheckpointTest, RefusesLyingHeaders) {
  const struct {
    const char* header;
    size_t data;
    const char* says;
  } kCases[] = {
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}})", 8, "truncated"},
      {R"({"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}})", 8, "needs 16 bytes"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "does not fit"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", 4,
       "does not fit"},
      {R"({"a":{"dtype":"F32","shape":[1,1,1,1,1],"data_offsets":[0,4]}})", 4, "at most 4"},
      {R"({"a":{"dtype":"Q4","shape":[1],"data_offsets":[0,4]}})", 4, "dtype Q4"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "header is wrong"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", 4, "needs \"dtype\""},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
       4, "overlap"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", 8, "hole"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 8, "cover 4 of 8"},
      {R"([1])", 0, "no JSON object"},
      {R"({"a":)", 0, "not valid JSON"},
  };
  for (const auto& item : kCases) {
    write_tensors(item.header, std::string(item.data, '\0'));
    EXPECT_NE(open_error().find(item.says), std::string::npos)
        << item.header << " -> " << open_error();
  }
  write("model.safetensors", "abc");
  EXPECT_NE(open_error().find("3 bytes"), std::string::npos);
  write("model.safetensors", std::string(8, '\xff'));
  EXPECT_NE(open_error().find("truncated"), std::string::npos);
}

TEST_F(CheckpointTest, RefusesBadScalesAndShapes) {
  const char* kFp8 =
      R"({"x.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]},"x.weight_scale":{"dtype":"F32","shape":[],"data_offsets":[4,8]}})";
  write_tensors(kFp8, std::string(4, '\0') + floats({0.5f}));
  EXPECT_EQ(linear_error("x", 2, 2), "");
  EXPECT_NE(linear_error("x", 2, 3).find("[2, 2]; the config asks for [2, 3]"), std::string::npos);
  write_tensors(kFp8, std::string(4, '\0') + floats({NAN}));
  EXPECT_NE(linear_error("x", 2, 2).find("nan"), std::string::npos);
  write_tensors(kFp8, std::string(4, '\0') + floats({-1.0f}));
  EXPECT_NE(linear_error("x", 2, 2).find("not negative"), std::string::npos);

  write_tensors(R"({"x.weight":{"dtype":"F8_E4M3","shape":[2,2],"data_offsets":[0,4]}})",
                std::string(4, '\0'));
  EXPECT_NE(linear_error("x", 2, 2).find("no tensor x.weight_scale"), std::string::npos);

  const char* kNvfp4 =
      R"({"x.weight":{"dtype":"U8","shape":[1,8],"data_offsets":[0,8]},"x.weight_scale":{"dtype":"F8_E4M3","shape":[1,1],"data_offsets":[8,9]},"x.weight_scale_2":{"dtype":"F32","shape":[],"data_offsets":[9,13]}})";
  write_tensors(kNvfp4, std::string(8, '\0') + "\x38" + floats({1.0f}));
  EXPECT_EQ(linear_error("x", 1, 16), "");
  write_tensors(kNvfp4, std::string(8, '\0') + "\x7f" + floats({1.0f}));
  EXPECT_NE(linear_error("x", 1, 16).find("holds NaN"), std::string::npos);
  EXPECT_NE(linear_error("x", 1, 17).find("blocks of 16"), std::string::npos);

  write_tensors(R"({"x.weight":{"dtype":"I64","shape":[1,1],"data_offsets":[0,8]}})",
                std::string(8, '\0'));
  EXPECT_NE(linear_error("x", 1, 1).find("int64"), std::string::npos);
}

TEST_F(CheckpointTest, FindsNanAmongManyScales) {
  const int64_t rows = 131, blocks = 37;  // past a block of the search, and no whole words
  const int64_t codes = rows * blocks * 8, scales = rows * blocks;
  const std::string header = fmt::format(
      R"({{"x.weight":{{"dtype":"U8","shape":[{},{}],"data_offsets":[0,{}]}},)"
      R"("x.weight_scale":{{"dtype":"F8_E4M3","shape":[{},{}],"data_offsets":[{},{}]}},)"
      R"("x.weight_scale_2":{{"dtype":"F32","shape":[],"data_offsets":[{},{}]}}}})",
      rows, blocks * 8, codes, rows, blocks, codes, codes + scales, codes + scales,
      codes + scales + 4);
  for (const int64_t at : {int64_t{-1}, int64_t{0}, int64_t{7}, int64_t{8}, int64_t{4095},
                           int64_t{4096}, scales - 1}) {
    for (const char nan : {'\x7f', '\xff'}) {
      std::string data(codes + scales, '\x7e');  // the largest that is a number
      if (at >= 0) data[codes + at] = nan;
      write_tensors(header, data + floats({1.0f}));
      const std::string error = linear_error("x", rows, blocks * 16);
      EXPECT_EQ(error, at < 0 ? "" : fmt::format("tensor x.weight_scale holds NaN at {}", at));
    }
  }
}

// The first bytes cut at every length, and each byte of the header turned: an answer, never a
// crash.
TEST_F(CheckpointTest, SurvivesTruncationAndNoise) {
  const std::string header = R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  const std::string whole = safetensors(header, floats({1, 2}));
  for (size_t length = 0; length < whole.size(); ++length) {
    write("model.safetensors", whole.substr(0, length));
    EXPECT_NE(open_error(), "") << length;
  }
  for (size_t at = 0; at < 8 + header.size(); ++at) {
    for (const char noise : {'\0', '\x7f', '\xff', '9', '"', '{'}) {
      std::string turned = whole;
      turned[at] = noise;
      write("model.safetensors", turned);
      (void)open_error();
    }
  }
}

TEST_F(CheckpointTest, FindsModelsInTheHubCache) {
  const std::string commit(40, 'a');
  const fs::path repository = folder_ / "models--nvidia--Nemotron-Nano-12B-v2-VL-FP8";
  write(
      ("models--nvidia--Nemotron-Nano-12B-v2-VL-FP8/snapshots/" + commit + "/config.json").c_str(),
      "{}");
  write("models--nvidia--Nemotron-Nano-12B-v2-VL-FP8/refs/main", commit + "\n");
  const auto resolve = [&](const std::string& id, const std::string& revision = "") {
    return resolve_model(id, revision, folder_.string());
  };
  EXPECT_EQ(resolve("nvidia/Nemotron-Nano-12B-v2-VL-FP8").value(),
            (repository / "snapshots" / commit).string());
  EXPECT_TRUE(resolve("nvidia/Nemotron-Nano-VL-12B-V2-FP8").ok());  // the blog's spelling
  EXPECT_TRUE(resolve("nvidia/Nemotron-Nano-12B-v2-VL-FP8", commit).ok());
  EXPECT_TRUE(resolve((repository / "snapshots" / commit).string()).ok());
  for (const char* id : {"nvidia/other", "nobody", "../x/y", "a/../b", "a/b/c", "", "/"}) {
    EXPECT_EQ(resolve(id).error().code, ErrorCode::kNotFound) << id;
  }
  EXPECT_FALSE(resolve("nvidia/Nemotron-Nano-12B-v2-VL-FP8", "../../x").ok());

  write(("models--nvidia--Nemotron-Nano-12B-v2-VL-FP8/snapshots/" + commit +
         "/model.safetensors.index.json")
            .c_str(),
        R"({"weight_map":{"a":"model-1.safetensors","b":"model-1.safetensors"}})");
  EXPECT_NE(resolve("nvidia/Nemotron-Nano-12B-v2-VL-FP8")
                .error()
                .message.find("lacks model-1.safetensors;"),
            std::string::npos);
}

}  // namespace
}  // namespace videre
