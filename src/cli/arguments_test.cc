#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "base/json.h"
#include "cli/flags.h"

namespace videre {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Words = std::vector<std::string>;

Words normalized(const Words& words) {
  auto out = normalize_arguments(words);
  EXPECT_TRUE(out.ok()) << out.error().message;
  return out.ok() ? *out : Words{};
}

Error refused(const Words& words) {
  auto out = normalize_arguments(words);
  EXPECT_FALSE(out.ok());
  return out.ok() ? Error{} : out.error();
}

class ConfigFile {
 public:
  explicit ConfigFile(const std::string& text, const std::string& extension = ".yaml")
      : path_(testing::TempDir() + "videre_flags_" + std::to_string(getpid()) + extension) {
    std::ofstream(path_) << text;
  }
  ~ConfigFile() { std::remove(path_.c_str()); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

TEST(Arguments, UnderscoresAreDashesInNamesOnly) {
  EXPECT_THAT(normalized({"my_model", "--max_model_len", "32_K", "--served_model_name=a_b"}),
              ElementsAre("my_model", "--max-model-len", "32_K", "--served-model-name=a_b"));
}

TEST(Arguments, ShortParallelFlagsAndEmptyValues) {
  EXPECT_THAT(normalized({"-tp", "1", "-dp", "2", "-pp", "3", "--tokenizer="}),
              ElementsAre("--tensor-parallel-size", "1", "--data-parallel-size", "2",
                          "--pipeline-parallel-size", "3", "--tokenizer", ""));
}

TEST(Arguments, DottedKeysBuildJson) {
  EXPECT_THAT(
      normalized({"--media-io-kwargs.video.fps", "2", "m", "--media_io_kwargs.video.num_frames=128",
                  "--media-io-kwargs.image.rgba_background_color+", "1,2",
                  "--media-io-kwargs.image.rgba_background_color+", "3"}),
      ElementsAre("m", "--media-io-kwargs",
                  R"({"video":{"fps":2,"num_frames":128},"image":)"
                  R"({"rgba_background_color":[1,2,3]}})"));
}

TEST(Arguments, DottedKeysMergeIntoJsonAndLaterOnesWin) {
  EXPECT_THAT(normalized({"--media-io-kwargs", R"({"video": {"fps": 2, "num_frames": 8}})",
                          "--media-io-kwargs.video.fps", "4"}),
              ElementsAre("--media-io-kwargs", R"({"video":{"fps":4,"num_frames":8}})"));
}

TEST(Arguments, DottedValuesAreJsonWhereTheyCanBe) {
  EXPECT_THAT(normalized({"--media-io-kwargs.video.video_backend", "opencv",
                          "--media-io-kwargs.video.frame_recovery", "true"}),
              ElementsAre("--media-io-kwargs",
                          R"({"video":{"video_backend":"opencv","frame_recovery":true}})"));
}

TEST(Arguments, BadJsonIsLeftToTheFlagsOwnCheck) {
  EXPECT_THAT(normalized({"--media-io-kwargs", "{broken"}),
              ElementsAre("--media-io-kwargs", "{broken"));
  EXPECT_THAT(normalized({"--limit-mm-per-prompt", "image=2,video=1"}),
              ElementsAre("--limit-mm-per-prompt", "image=2,video=1"));
}

TEST(Arguments, BrokenPathsAndMissingValuesAreRefused) {
  EXPECT_THAT(refused({"--media-io-kwargs.video..fps", "2"}).message, HasSubstr("no path of keys"));
  std::string deep = "--media-io-kwargs";
  for (int i = 0; i < 40; ++i) deep += ".a";
  EXPECT_THAT(refused({deep, "2"}).message, HasSubstr("no path of keys"));
  EXPECT_THAT(refused({"--media-io-kwargs"}).message, HasSubstr("a value is missing"));
  EXPECT_THAT(refused({"--config"}).message, HasSubstr("a value is missing"));
}

TEST(Arguments, WordsAfterTheMarkerAreUntouchedAndStayLast) {
  EXPECT_THAT(normalized({"--media-io-kwargs.video.fps", "2", "--", "--my_question"}),
              ElementsAre("--media-io-kwargs", R"({"video":{"fps":2}})", "--", "--my_question"));
}

TEST(Config, FlagsOfTheFileComeInAndTypedOnesWin) {
  const ConfigFile file(R"(
# what the server uses
model: org/name
port: 5566
trust-remote-code: true
enable_chunked_prefill: false   # omitted
enforce-eager: true
served-model-name: [a, "b c"]
allowed-media-domains:
  - one.example
  - two.example
media-io-kwargs:
  video:
    fps: 2
    num_frames: 128
max-model-len: 32K
seed: null
)");
  EXPECT_THAT(
      normalized({"--config", file.path(), "MODEL", "--port", "1", "--no-enforce-eager",
                  "--media-io-kwargs.video.fps", "4"}),
      ElementsAre("MODEL", "--port", "1", "--no-enforce-eager", "--model=org/name",
                  "--trust-remote-code", "--served-model-name", "a", "b c",
                  "--allowed-media-domains", "one.example", "two.example", "--max-model-len=32K",
                  "--media-io-kwargs", R"({"video":{"fps":4,"num_frames":128}})"));
}

TEST(Config, ShortNameCountsAsTyped) {
  const ConfigFile file("quantization: modelopt\n");
  EXPECT_THAT(normalized({"-q", "modelopt_fp4", "--config=" + file.path()}),
              ElementsAre("-q", "modelopt_fp4"));
}

TEST(Config, ValuesThatLookLikeFlagsStayValues) {
  const ConfigFile file("system: \"--odd\"\n");
  EXPECT_THAT(normalized({"--config", file.path()}), ElementsAre("--system=--odd"));
}

TEST(Config, FilesThatCannotBeRead) {
  EXPECT_THAT(refused({"--config", "/nowhere/flags.yaml"}).message, HasSubstr("cannot open"));
  EXPECT_THAT(refused({"--config", "flags.json"}).message, HasSubstr("no .yaml or .yml"));
  const ConfigFile itself("config: other.yaml\n");
  EXPECT_THAT(refused({"--config", itself.path()}).message, HasSubstr("may not name another"));
  EXPECT_THAT(refused({"--config", itself.path(), "--config", itself.path()}).message,
              HasSubstr("given twice"));
  const ConfigFile list("media-io-kwargs: [1, 2]\n", ".yml");
  EXPECT_THAT(refused({"--config", list.path()}).message, HasSubstr("expected one JSON value"));
}

std::string flags_of(const std::string& text) {
  auto flags = yaml_flags(text, "f.yaml");
  if (!flags.ok()) return "error: " + flags.error().message;
  std::string out;
  for (const FlagWords& flag : *flags) {
    out += flag.name;
    for (const std::string& value : flag.values) out += "|" + value;
    out += "\n";
  }
  return out;
}

TEST(Yaml, Scalars) {
  EXPECT_EQ(flags_of("a: 'it''s'\nb: \"x\\ty\"\nc: plain # comment\nd: it's # comment\ne: a#b\n"),
            "--a|it's\n--b|x\ty\n--c|plain\n--d|it's\n--e|a#b\n");
  EXPECT_EQ(flags_of("a: 0.75\nb: 131072\nc: 32K\nd: -1\ne: ~\nf: yes\ng: Off\nh: a:b\n"),
            "--a|0.75\n--b|131072\n--c|32K\n--d|-1\n--f\n--h|a:b\n");
}

TEST(Yaml, Collections) {
  EXPECT_EQ(flags_of("---\na: {\"x\": 1}\nb: [one, 'two, 2']\nc:\n- 1\n- \"#\"\nd: x\n"),
            "--a|{\"x\":1}\n--b|one|two, 2\n--c|1|#\n--d|x\n");
  EXPECT_EQ(flags_of("a:\r\n  b:\r\n    c: 1\r\n  d: [1]\r\n"),
            "--a|{\"b\":{\"c\":1},\"d\":[1]}\n");
  EXPECT_EQ(flags_of(""), "");
  EXPECT_EQ(flags_of("# nothing\n"), "");
}

TEST(Yaml, WhatIsNotReadIsRefusedByLine) {
  EXPECT_THAT(flags_of("a: 1\nb\n"), HasSubstr("f.yaml line 2 is no \"key: value\""));
  EXPECT_THAT(flags_of("a: 1\na: 2\n"), HasSubstr("line 2 gives a a second time"));
  EXPECT_THAT(flags_of("a: |\n  text\n"), HasSubstr("YAML feature"));
  EXPECT_THAT(flags_of("a: &anchor 1\n"), HasSubstr("YAML feature"));
  EXPECT_THAT(flags_of("a: 'open\n"), HasSubstr("open quote"));
  EXPECT_THAT(flags_of("a: {x\n"), HasSubstr("no JSON"));
  EXPECT_THAT(flags_of("\ta: 1\n"), HasSubstr("tab"));
  EXPECT_THAT(flags_of("a: 1\n  b: 2\n"), HasSubstr("line 2 is indented unlike"));
  EXPECT_THAT(flags_of("- 1\n- 2\n"), HasSubstr("no map of flags"));
  EXPECT_THAT(flags_of("a:\n  - b: 1\n"), HasSubstr("map inside a list"));
  std::string deep;
  for (int i = 0; i < 40; ++i) deep += std::string(i, ' ') + "a:\n";
  EXPECT_THAT(flags_of(deep), HasSubstr("nested too deeply"));
}

TEST(Sizes, SuffixesAndPlainNumbers) {
  const std::pair<const char*, int64_t> good[] = {
      {"1", 1},        {"131072", 131072},      {"1k", 1000},
      {"1K", 1024},    {"25.6k", 25600},        {"32K", 32768},
      {"1M", 1 << 20}, {"1m", 1000000},         {"2G", 2LL << 30},
      {"0.5K", 512},   {"1.1t", 1100000000000}, {"-1", -1},
      {"auto", -1},    {"1e5", 100000},         {"0", 0}};
  for (const auto& [text, size] : good) {
    auto parsed = parse_size(text, "--f");
    ASSERT_TRUE(parsed.ok()) << text;
    EXPECT_EQ(*parsed, size) << text;
  }
  for (const char* text : {"", "k", "1.5", "25.6K", "1kk", "1 k", "-2", "-1k", "nan", "inf", "1P",
                           "99999T", "+1", "0x10", "1,000"}) {
    auto parsed = parse_size(text, "--f");
    ASSERT_FALSE(parsed.ok()) << text;
    EXPECT_EQ(parsed.error().param, "--f");
    EXPECT_THAT(parsed.error().message, HasSubstr("is no size"));
  }
}

}  // namespace
}  // namespace videre
