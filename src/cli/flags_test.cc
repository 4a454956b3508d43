#include "cli/flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdlib>

#include "weights/model_files.h"

namespace videre {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }

 private:
  const char* name_;
};

// One run of a command with the engine's flags.
struct Parsed {
  int code = -1;
  bool ran = false;
  std::string out, err;
  EngineFlags flags;
  Status status;
};

Parsed run(const std::vector<std::string>& words,
           ModelArgument model = ModelArgument::kPositional) {
  Parsed result;
  CLI::App app("About.", "videre test");
  add_engine_flags(app, result.flags, model);
  std::vector<std::string> names;
  app.add_option("--served-model-name", names, "names");
  add_foreign_flags(app);
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  result.code = run_app(app, words, [&] {
    result.ran = true;
    result.status = resolve_engine_flags(result.flags);
    return 0;
  });
  result.out = testing::internal::GetCapturedStdout();
  result.err = testing::internal::GetCapturedStderr();
  return result;
}

Error error_of(const std::vector<std::string>& words) {
  const Parsed result = run(words);
  EXPECT_TRUE(result.ran) << result.err;
  EXPECT_FALSE(result.status.ok());
  return result.status.ok() ? Error{} : result.status.error();
}

TEST(Flags, TheGuidesCommandLine) {
  const Parsed result =
      run({"--model", "org/name", "--trust-remote-code", "--media-io-kwargs",
           R"({"video": {"fps": 2, "num_frames": 128} })", "--max-model-len", "131072",
           "--data-parallel-size", "1", "--allowed-local-media-path", "/", "--video-pruning-rate",
           "0.75", "--served-model-name", "org/name"});
  ASSERT_TRUE(result.ran) << result.err;
  ASSERT_TRUE(result.status.ok()) << result.status.error().message;
  const EngineOptions& engine = result.flags.engine;
  EXPECT_EQ(engine.model, "org/name");
  EXPECT_EQ(engine.media_io.fps, 2.0);
  EXPECT_EQ(engine.media_io.num_frames, 128);
  EXPECT_EQ(engine.max_model_len, 131072);
  EXPECT_EQ(engine.allowed_local_media_path, "/");
  EXPECT_EQ(engine.video_pruning_rate, 0.75);
  EXPECT_EQ(result.err, "");
}

TEST(Flags, TheAnnouncementsCommandLines) {
  Parsed result =
      run({"org/name", "--trust-remote-code", "--dtype", "bfloat16", "--video-pruning-rate", "0"});
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.flags.engine.dtype, "bfloat16");
  result = run({"org/name", "--trust-remote-code", "--quantization", "modelopt_fp4"});
  ASSERT_TRUE(result.status.ok());
  EXPECT_EQ(result.flags.engine.quantization, "modelopt_fp4");
  result = run({"org/name", "-q", "modelopt"});
  EXPECT_EQ(result.flags.engine.quantization, "modelopt");
}

TEST(Flags, PositionalModelWins) {
  EXPECT_EQ(run({"--model", "b", "a"}).flags.engine.model, "a");
  EXPECT_EQ(run({"--model", "b"}).flags.engine.model, "b");
  EXPECT_EQ(run({}).flags.engine.model, builtin_model().files.empty() ? "" : kBuiltinModel);
  const Parsed question = run({"a"}, ModelArgument::kFlagOnly);
  EXPECT_EQ(question.code, 2);
}

TEST(Flags, LaterValueWinsAndNegativeValuesAreValues) {
  const Parsed result = run({"m", "--max-model-len", "1K", "--max-model-len", "-1", "--dtype",
                             "auto", "--dtype=float32"});
  ASSERT_TRUE(result.ran) << result.err;
  EXPECT_EQ(result.flags.engine.max_model_len, -1);
  EXPECT_EQ(result.flags.engine.dtype, "float32");
}

TEST(Flags, TwinsSwitchOnAndOff) {
  EXPECT_TRUE(run({"m"}).flags.engine.enable_chunked_prefill);
  EXPECT_FALSE(run({"m", "--no-enable-chunked-prefill"}).flags.engine.enable_chunked_prefill);
  EXPECT_TRUE(run({"m", "--no-enable-chunked-prefill", "--enable-chunked-prefill"})
                  .flags.engine.enable_chunked_prefill);
  EXPECT_FALSE(run({"m", "--no-async-scheduling"}).flags.engine.async_scheduling);
}

TEST(Flags, ListsTakeSeveralWords) {
  const Parsed result = run({"m", "--allowed-media-domains", "a.example", "b.example", "--dtype",
                             "auto", "--allowed-media-domains", "c.example"});
  ASSERT_TRUE(result.ran) << result.err;
  EXPECT_THAT(result.flags.engine.allowed_media_domains,
              ElementsAre("a.example", "b.example", "c.example"));
}

TEST(Flags, SlipsGetTheNearestName) {
  const Parsed result = run({"m", "--max-modle-len", "5"});
  EXPECT_EQ(result.code, 2);
  EXPECT_FALSE(result.ran);
  EXPECT_THAT(result.err, HasSubstr("--max-modle-len is no flag of this command; did you mean "
                                    "--max-model-len?"));
  EXPECT_THAT(run({"m", "--served_model", "x"}).err, HasSubstr("did you mean --served-model-name"));
  EXPECT_THAT(run({"m", "--entirely-other"}).err, Not(HasSubstr("did you mean")));
  EXPECT_EQ(run({"m", "surplus"}).code, 2);
  EXPECT_EQ(run({"m", "-z"}).code, 2);
  EXPECT_EQ(run({"m", "--dtype"}).code, 2);
}

TEST(Flags, HelpIsGroupedAndComplete) {
  const Parsed result = run({"--help"});
  EXPECT_EQ(result.code, 0);
  EXPECT_FALSE(result.ran);
  for (const char* part : {"Model:", "Device and memory:", "Pictures and video:", "--max-model-len",
                           "--video-pruning-rate", "--media-io-kwargs"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
  EXPECT_THAT(result.out, Not(HasSubstr("--swap-space")));
}

TEST(Flags, ForeignFlagsWarnOrRefuse) {
  Parsed result = run({"m", "--skip-mm-profiling", "--swap-space", "4", "--no-enable-lora",
                       "--scheduling-policy", "fcfs"});
  EXPECT_TRUE(result.ran) << result.err;
  EXPECT_THAT(result.err, HasSubstr("--skip-mm-profiling has no effect here"));
  EXPECT_THAT(result.err, HasSubstr("--swap-space has no effect here"));
  EXPECT_THAT(result.err, Not(HasSubstr("scheduling-policy")));
  EXPECT_THAT(result.err, Not(HasSubstr("lora")));
  result = run({"m", "--api-key", "secret"});
  EXPECT_EQ(result.code, 2);
  EXPECT_FALSE(result.ran);
  EXPECT_THAT(result.err, HasSubstr("--api-key: this version checks no API keys"));
  EXPECT_EQ(run({"m", "--scheduling-policy", "priority"}).code, 2);
  EXPECT_EQ(run({"m", "--enable-lora"}).code, 2);
  EXPECT_TRUE(run({"m", "--compilation-config.level", "3"}).ran);
}

TEST(Flags, ValuesOutOfRangeNameTheFlag) {
  EXPECT_EQ(error_of({"m", "--data-parallel-size", "2"}).param, "--data-parallel-size");
  EXPECT_EQ(error_of({"m", "-tp", "0"}).param, "--tensor-parallel-size");
  EXPECT_EQ(error_of({"m", "--max-model-len", "0"}).param, "--max-model-len");
  EXPECT_EQ(error_of({"m", "--max-model-len", "12q"}).param, "--max-model-len");
  EXPECT_EQ(error_of({"m", "--max-num-batched-tokens", "-1"}).param, "--max-num-batched-tokens");
  EXPECT_EQ(error_of({"m", "--kv-cache-memory-bytes", "auto"}).param, "--kv-cache-memory-bytes");
  EXPECT_EQ(error_of({"m", "--gpu-memory-utilization", "0"}).param, "--gpu-memory-utilization");
  EXPECT_EQ(error_of({"m", "--video-pruning-rate", "1"}).param, "--video-pruning-rate");
  EXPECT_EQ(error_of({"m", "--video-pruning-rate", "nan"}).param, "--video-pruning-rate");
  EXPECT_EQ(error_of({"m", "--allowed-local-media-path", "/nowhere"}).param,
            "--allowed-local-media-path");
  EXPECT_THAT(error_of({"m", "--media-io-kwargs", "{"}).message, HasSubstr("--media-io-kwargs"));
  EXPECT_THAT(error_of({"m", "--media-io-kwargs.video.fps", "x"}).param,
              HasSubstr("--media-io-kwargs.video.fps"));
  EXPECT_THAT(error_of({"m", "--mm-processor-kwargs.max_num_tiles", "0"}).message,
              HasSubstr("max_num_tiles"));
  EXPECT_EQ(run({"m", "--max-num-seqs", "0"}).code, 2);
  EXPECT_EQ(run({"m", "--max-num-seqs", "many"}).code, 2);
  EXPECT_EQ(run({"m", "--device", "tpu"}).code, 2);
}

TEST(Flags, LimitsOfMedia) {
  const auto limits = [](const std::string& text) {
    return run({"m", "--limit-mm-per-prompt", text}).flags.engine.limit_mm_per_prompt;
  };
  const std::map<std::string, int> expected = {{"image", 16}, {"video", 1}};
  EXPECT_EQ(limits(R"({"image": 16, "video": 1})"), expected);
  EXPECT_EQ(limits("image=16,video=1"), expected);
  EXPECT_EQ(limits(R"({"image": 16, "video": {"count": 1, "num_frames": 128}, "audio": 0})"),
            expected);
  for (const char* bad : {"16", "[1]", "{", R"({"image": -1})", R"({"image": 1.5})",
                          R"({"picture": 1})", "image", "image=x"}) {
    EXPECT_EQ(error_of({"m", "--limit-mm-per-prompt", bad}).param, "--limit-mm-per-prompt") << bad;
  }
}

TEST(Flags, EnvironmentAndItsTwin) {
  {
    const Variable loader("VLLM_VIDEO_LOADER_BACKEND", "opencv");
    EXPECT_EQ(run({"m"}).flags.engine.media_io.video_backend, "opencv");
    const Variable own("VIDERE_VIDEO_LOADER_BACKEND", "opencv_dynamic");
    EXPECT_EQ(run({"m"}).flags.engine.media_io.video_backend, "opencv_dynamic");
    const Parsed flag = run({"m", "--media-io-kwargs.video.video_backend", "opencv"});
    EXPECT_EQ(flag.flags.engine.media_io.video_backend, "opencv");
  }
  {
    const Variable loader("VLLM_VIDEO_LOADER_BACKEND", "decord");
    EXPECT_EQ(error_of({"m"}).param, "VLLM_VIDEO_LOADER_BACKEND");
  }
  const Variable threads("VLLM_MEDIA_LOADING_THREAD_COUNT", "3");
  EXPECT_EQ(run({"m"}).flags.engine.media_threads, 3);
  const Variable bad("VIDERE_MEDIA_LOADING_THREAD_COUNT", "0");
  EXPECT_EQ(error_of({"m"}).param, "VLLM_MEDIA_LOADING_THREAD_COUNT");
}

TEST(Flags, LogLevels) {
  EXPECT_EQ(log_level("DEBUG", LogLevel::kInfo), LogLevel::kDebug);
  EXPECT_EQ(log_level("critical", LogLevel::kInfo), LogLevel::kError);
  EXPECT_EQ(log_level("", LogLevel::kWarning), LogLevel::kWarning);
}

TEST(NearestName, SlipsOfTyping) {
  const std::vector<std::string> names = {"serve", "run", "inspect", "tokenize", "detokenize"};
  EXPECT_EQ(nearest_name("sevre", names), "serve");
  EXPECT_EQ(nearest_name("rnu", names), "run");
  EXPECT_EQ(nearest_name("inspct", names), "inspect");
  EXPECT_EQ(nearest_name("tokenise", names), "tokenize");
  EXPECT_EQ(nearest_name("chat", names), "");
  EXPECT_EQ(nearest_name("", names), "");
}

}  // namespace
}  // namespace videre
