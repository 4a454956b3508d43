// `videre bench latency`, `throughput` and `startup`: random requests through the engine in this
// process, or in fresh ones. Definitions are those of `vllm bench`, where it has them.
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <numeric>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "cli/speed.h"

extern char** environ;

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

struct SpeedFlags {
  EngineFlags engine;
  SpeedLoad load;
  std::string image_size;
  int64_t batch_size = 8, num_iters_warmup = 10, num_iters = 30, num_prompts = 1000;
  bool json = false, once = false;
};

std::atomic<bool> stopped{false};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A point of the clock that all processes of the machine share.
double clock_seconds() {
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

double rounded(double value) { return std::round(value * 1e6) / 1e6; }

double mean(const std::vector<double>& values) {
  if (values.empty()) return 0;
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

json::array array_of(const std::vector<double>& values) {
  json::array out;
  for (const double value : values) out.push_back(rounded(value));
  return out;
}

// Of times in seconds, in milliseconds.
json::object milliseconds(const std::vector<double>& values) {
  json::object out;
  out["mean"] = rounded(1e3 * mean(values));
  out["median"] = rounded(1e3 * percentile(values, 50));
  out["p99"] = rounded(1e3 * percentile(values, 99));
  return out;
}

// Numbers of many requests, and what becomes of them.
struct Tokens {
  std::vector<double> first, each;  // seconds to the first token; a token after it
  int64_t prompt = 0, image = 0, video = 0, output = 0;

  void add(const BatchTimes& times) {
    for (const RequestTimes& request : times.requests) {
      const int64_t count = request.usage.completion_tokens;
      first.push_back(request.first_s);
      if (count > 1)
        each.push_back((request.last_s - request.first_s) / static_cast<double>(count - 1));
      prompt += request.usage.prompt_tokens;
      image += request.usage.image_tokens;
      video += request.usage.video_tokens;
      output += count;
    }
  }
};

json::object report_of(const Engine& engine, const SpeedFlags& flags, double load_s) {
  json::object out;
  out["model"] = engine.info().name;
  out["device"] = engine.info().device;
  out["dtype"] = engine.info().dtype;
  out["quantization"] = engine.info().quantization;
  out["input_len"] = flags.load.input_len;
  out["output_len"] = flags.load.output_len;
  out["load_s"] = rounded(load_s);
  out["device_memory_change"] = engine.stats().device_memory_change;
  return out;
}

void add_tokens(json::object& report, const Tokens& tokens) {
  report["prompt_tokens"] = tokens.prompt;
  report["image_tokens"] = tokens.image;
  report["video_tokens"] = tokens.video;
  report["output_tokens"] = tokens.output;
  report["ttft_ms"] = milliseconds(tokens.first);
  report["tpot_ms"] = milliseconds(tokens.each);
}

std::string line_of(const char* name, const std::vector<double>& values) {
  return fmt::format("{:<24}mean {:>10.3f} ms   median {:>10.3f}   p99 {:>10.3f}\n", name,
                     1e3 * mean(values), 1e3 * percentile(values, 50),
                     1e3 * percentile(values, 99));
}

std::string what_of(const SpeedLoad& load) {
  std::string out = fmt::format("{} tokens in", load.input_len);
  if (load.num_images > 0) {
    out +=
        fmt::format(", {} pictures of {}x{}", load.num_images, load.image_width, load.image_height);
  }
  if (load.num_videos > 0) {
    out += fmt::format(", {} clips of {} frames of {}x{}", load.num_videos, load.num_frames,
                       load.image_width, load.image_height);
  }
  return out + fmt::format(", {} out", load.output_len);
}

Result<std::unique_ptr<Engine>> load_engine(SpeedFlags& flags, int64_t at_once,
                                            Progress& progress) {
  EngineOptions& options = flags.engine.engine;
  options.max_waiting_requests =
      static_cast<int>(std::max<int64_t>(options.max_waiting_requests, at_once));
  auto engine = Engine::load(options, progress.loader());
  progress.clear();
  return engine;
}

// What a GPU's free memory has lost since ready: nothing is what the plan promises.
std::string device_memory_line(const Engine& engine) {
  if (engine.info().device == "cpu") return "";
  return fmt::format("after ready, device memory changed by {} bytes\n",
                     engine.stats().device_memory_change);
}

// --- Latency -------------------------------------------------------------------------------------

Result<int> latency(SpeedFlags& flags) {
  Progress progress(flags.json ? Progress::Lines::kOnTerminalOnly : Progress::Lines::kEverywhere);
  const auto start = Clock::now();
  VIDERE_ASSIGN_OR_RETURN(const auto engine, load_engine(flags, flags.batch_size, progress));
  const double load_s = seconds_since(start);
  Tokens tokens;
  std::vector<double> latencies;
  const int64_t all = flags.num_iters_warmup + flags.num_iters;
  for (int64_t i = 0; i < all; ++i) {
    const bool warm = i >= flags.num_iters_warmup;
    progress.show(warm ? "measuring" : "warming up",
                  static_cast<double>(i) / static_cast<double>(all));
    auto requests = random_requests(*engine, flags.load, flags.batch_size,
                                    flags.engine.engine.seed + static_cast<uint64_t>(i));
    VIDERE_ASSIGN_OR_RETURN(const BatchTimes times,
                            run_batch(*engine, std::move(requests), {}, &stopped));
    if (!warm) continue;
    latencies.push_back(times.total_s);
    tokens.add(times);
  }
  progress.clear();
  const double total_s = std::accumulate(latencies.begin(), latencies.end(), 0.0);
  const double rate = static_cast<double>(tokens.output) / total_s;
  const double each_s = mean(tokens.each);
  const double stream = each_s > 0 ? 1 / each_s : 0;
  constexpr int kPercents[] = {10, 25, 50, 75, 90, 99};
  if (flags.json) {
    json::object report = report_of(*engine, flags, load_s);
    report["batch_size"] = flags.batch_size;
    report["num_iters_warmup"] = flags.num_iters_warmup;
    report["num_iters"] = flags.num_iters;
    report["avg_latency"] = rounded(mean(latencies));
    json::object& percentiles = report["percentiles"].emplace_object();
    for (const int percent : kPercents) {
      percentiles[std::to_string(percent)] = rounded(percentile(latencies, percent));
    }
    report["latencies"] = array_of(latencies);
    add_tokens(report, tokens);
    report["output_tokens_per_second"] = rounded(rate);
    report["output_tokens_per_second_of_a_stream"] = rounded(stream);
    fmt::print("{}\n", to_json(report));
    return 0;
  }
  fmt::print("{} ({}, {}): {} at once, {}; {} times after {} to warm up\n", engine->info().name,
             engine->info().dtype, engine->info().device, flags.batch_size, what_of(flags.load),
             flags.num_iters, flags.num_iters_warmup);
  fmt::print("{:<24}mean {:>10.3f} ms  ", "whole batch", 1e3 * mean(latencies));
  for (const int percent : kPercents)
    fmt::print(" p{} {:.3f}", percent, 1e3 * percentile(latencies, percent));
  fmt::print("\n{}{}{:<24}{:.1f} a second, {:.1f} in one stream\n",
             line_of("first token", tokens.first), line_of("a token after it", tokens.each),
             "tokens generated", rate, stream);
  fmt::print("{}", device_memory_line(*engine));
  return 0;
}

// --- Throughput ----------------------------------------------------------------------------------

Result<int> throughput(SpeedFlags& flags) {
  Progress progress(flags.json ? Progress::Lines::kOnTerminalOnly : Progress::Lines::kEverywhere);
  const auto start = Clock::now();
  VIDERE_ASSIGN_OR_RETURN(const auto engine, load_engine(flags, flags.num_prompts, progress));
  const double load_s = seconds_since(start);
  auto requests = random_requests(*engine, flags.load, flags.num_prompts, flags.engine.engine.seed);
  VIDERE_ASSIGN_OR_RETURN(
      const BatchTimes times,
      run_batch(
          *engine, std::move(requests),
          [&](int64_t done) {
            progress.show("measuring",
                          static_cast<double>(done) / static_cast<double>(flags.num_prompts));
          },
          &stopped));
  progress.clear();
  Tokens tokens;
  tokens.add(times);
  const auto rate = [&](int64_t count) { return static_cast<double>(count) / times.total_s; };
  const int64_t images = flags.num_prompts * flags.load.num_images;
  // A frame stands for half a second.
  const double video_s =
      static_cast<double>(flags.num_prompts * flags.load.num_videos * flags.load.num_frames) / 2;
  if (flags.json) {
    json::object report = report_of(*engine, flags, load_s);
    report["num_requests"] = flags.num_prompts;
    report["elapsed_time"] = rounded(times.total_s);
    report["total_num_tokens"] = tokens.prompt + tokens.output;
    add_tokens(report, tokens);
    report["requests_per_second"] = rounded(rate(flags.num_prompts));
    report["tokens_per_second"] = rounded(rate(tokens.prompt + tokens.output));
    report["output_tokens_per_second"] = rounded(rate(tokens.output));
    report["images_per_second"] = rounded(rate(images));
    report["video_seconds_per_second"] = rounded(video_s / times.total_s);
    fmt::print("{}\n", to_json(report));
    return 0;
  }
  fmt::print("{} ({}, {}): {} requests, {}, in {:.2f} s\n", engine->info().name,
             engine->info().dtype, engine->info().device, flags.num_prompts, what_of(flags.load),
             times.total_s);
  fmt::print("a second: {:.2f} requests, {:.1f} tokens in and out, {:.1f} tokens out",
             rate(flags.num_prompts), rate(tokens.prompt + tokens.output), rate(tokens.output));
  if (images > 0) fmt::print(", {:.2f} pictures", rate(images));
  if (video_s > 0) fmt::print(", {:.2f} s of video", video_s / times.total_s);
  fmt::print("\n{}", device_memory_line(*engine));
  return 0;
}

// --- Start ---------------------------------------------------------------------------------------

// In a process of its own: loads, asks once, and says when it was ready and had the first token.
Result<int> startup_once(SpeedFlags& flags) {
  Progress progress(Progress::Lines::kOnTerminalOnly);
  VIDERE_ASSIGN_OR_RETURN(const auto engine, load_engine(flags, 1, progress));
  json::object out;
  out["ready"] = clock_seconds();
  auto requests = random_requests(*engine, flags.load, 1, flags.engine.engine.seed);
  const double asked = clock_seconds();
  VIDERE_ASSIGN_OR_RETURN(const BatchTimes times,
                          run_batch(*engine, std::move(requests), {}, &stopped));
  out["first_token"] = asked + times.requests[0].first_s;
  out["report"] = report_of(*engine, flags, 0);
  fmt::print("{}\n", to_json(out));
  std::fflush(stdout);
  return 0;
}

struct Start {
  double ready_s = 0, first_token_s = 0;
  json::object report;
};

Result<Start> start_once(const std::vector<std::string>& words) {
  const auto broken = [](const char* what) {
    return make_error(ErrorCode::kUnavailable, "", "{}: {}", what, std::strerror(errno));
  };
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return broken("no pipe can be made");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  pid_t child = 0;
  const double started = clock_seconds();
  errno = ::posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  ::close(ends[1]);
  if (errno != 0) {
    ::close(ends[0]);
    return broken("this program cannot be started again");
  }
  std::string text;
  char buffer[4096];
  for (ssize_t got; (got = ::read(ends[0], buffer, sizeof(buffer))) != 0;) {
    if (got > 0) text.append(buffer, static_cast<size_t>(got));
    if (got < 0 && errno != EINTR) break;
    if (stopped) ::kill(child, SIGTERM);
  }
  ::close(ends[0]);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  if (stopped) return make_error(ErrorCode::kCancelled, "", "stopped");
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
    return make_error(ErrorCode::kInvalidModel, "",
                      "the started process has failed; its own words are above");
  }
  VIDERE_ASSIGN_OR_RETURN(const json::value said, parse_json(text, "the started process's answer"));
  const json::value* ready = json_find(said, "ready");
  const json::value* first = json_find(said, "first_token");
  const json::value* report = json_find(said, "report");
  if (!ready || !first || !report || !report->is_object()) {
    return internal_error("the started process has said something else: {}", text);
  }
  return Start{json_number(*ready).value_or(0) - started, json_number(*first).value_or(0) - started,
               report->get_object()};
}

Result<int> startup(SpeedFlags& flags, const std::vector<std::string>& arguments) {
  if (flags.once) return startup_once(flags);
  std::vector<std::string> words = program_words();
  words.insert(words.end(), {"bench", "startup", "--once"});
  words.insert(words.end(), arguments.begin(), arguments.end());
  Progress progress(flags.json ? Progress::Lines::kOnTerminalOnly : Progress::Lines::kEverywhere);
  std::vector<double> ready, first;
  json::object report;
  for (int64_t i = 0; i < flags.num_iters; ++i) {
    progress.show("starting", static_cast<double>(i) / static_cast<double>(flags.num_iters));
    VIDERE_ASSIGN_OR_RETURN(Start start, start_once(words));
    ready.push_back(start.ready_s);
    first.push_back(start.first_token_s);
    report = std::move(start.report);
  }
  progress.clear();
  if (flags.json) {
    report.erase("load_s");
    report["num_iters"] = flags.num_iters;
    for (const auto& [name, values] : {std::pair{"ready", &ready}, {"first_token", &first}}) {
      json::object& times = report[name].emplace_object();
      times["median"] = rounded(percentile(*values, 50));
      times["min"] = rounded(percentile(*values, 0));
      times["max"] = rounded(percentile(*values, 100));
      times["values"] = array_of(*values);
    }
    fmt::print("{}\n", to_json(report));
    return 0;
  }
  fmt::print("process start to ready        median {:.3f} s, {:.3f} to {:.3f}, {} starts\n",
             percentile(ready, 50), percentile(ready, 0), percentile(ready, 100), flags.num_iters);
  fmt::print("process start to first token  median {:.3f} s, {:.3f} to {:.3f}; {}\n",
             percentile(first, 50), percentile(first, 0), percentile(first, 100),
             what_of(flags.load));
  return 0;
}

// --- Flags ---------------------------------------------------------------------------------------

enum class Kind { kLatency, kThroughput, kStartup };

void add_speed_flags(CLI::App& app, SpeedFlags& flags, Kind kind) {
  const char* group = "Load";
  SpeedLoad& load = flags.load;
  const auto count = [&](const char* name, auto& value, int64_t least, int64_t most,
                         const char* what) {
    app.add_option(name, value, fmt::format("{}; {} when not given", what, value))
        ->check(CLI::Range(least, most))
        ->group(group);
  };
  constexpr int64_t kMany = int64_t{1} << 24;
  if (kind == Kind::kThroughput) {
    load.input_len = 1024;
    count("--num-prompts", flags.num_prompts, 1, kMany, "requests, all at once");
  }
  if (kind == Kind::kLatency) count("--batch-size", flags.batch_size, 1, 65536, "requests at once");
  count("--input-len", load.input_len, 1, kMany, "tokens of each request's text, random");
  if (kind != Kind::kStartup) {
    count("--output-len", load.output_len, 1, kMany,
          "tokens that each generates, past any end of text");
  }
  count("--num-images", load.num_images, 0, 1000, "random pictures in each, handed over decoded");
  count("--num-videos", load.num_videos, 0, 1000, "random clips in each, handed over decoded");
  count("--num-frames", load.num_frames, 1, 100000, "frames of a clip, two a second");
  app.add_option("--image-size", flags.image_size,
                 "pixels of pictures and frames; 512x512 when not given")
      ->group(group);
  group = "Measurement";
  if (kind == Kind::kLatency) {
    count("--num-iters-warmup", flags.num_iters_warmup, 0, kMany, "batches that are not measured");
    count("--num-iters", flags.num_iters, 1, kMany, "batches that are");
  }
  if (kind == Kind::kStartup) {
    flags.num_iters = 5;
    count("--num-iters", flags.num_iters, 1, kMany, "processes started, one after another");
    app.add_flag("--once", flags.once)->group("");
  }
  app.add_flag("--json", flags.json, "one JSON object instead of lines")->group(group);
}

int speed_command(const char* name, const char* what, const char* footer, Kind kind,
                  const std::vector<std::string>& arguments) {
  CLI::App app(what, std::string("videre bench ") + name);
  app.footer(footer);
  SpeedFlags flags;
  add_speed_flags(app, flags, kind);
  if (kind == Kind::kStartup) flags.load.output_len = 1;
  add_engine_flags(app, flags.engine, ModelArgument::kPositional);
  add_foreign_flags(app);
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    Status status = resolve_engine_flags(flags.engine);
    if (status.ok() && !flags.image_size.empty())
      status = parse_image_size(flags.image_size, flags.load);
    if (!status.ok()) return report(status.error());
    struct sigaction action{};
    action.sa_handler = [](int) { stopped = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second one ends at once
    for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
    const auto code = kind == Kind::kLatency      ? latency(flags)
                      : kind == Kind::kThroughput ? throughput(flags)
                                                  : startup(flags, arguments);
    return code.ok() ? *code : report(code.error());
  });
}

}  // namespace

int bench_latency_command(const std::vector<std::string>& arguments) {
  return speed_command(
      "latency", "Times batches of random requests, one batch after another.",
      "A batch's time is from its first submission to its last token. First token: from a "
      "request's\nsubmission. The engine is in this process: no HTTP.",
      Kind::kLatency, arguments);
}

int bench_throughput_command(const std::vector<std::string>& arguments) {
  return speed_command(
      "throughput", "Runs many random requests at once and counts what is done in a second.",
      "The time is from the first submission to the last token; media are prepared inside it. "
      "The engine\nis in this process: no HTTP.",
      Kind::kThroughput, arguments);
}

int bench_startup_command(const std::vector<std::string>& arguments) {
  return speed_command(
      "startup", "Starts this program afresh and times it until ready and until a first token.",
      "Weight files are read from the page cache after the first start; its time is among "
      "--json's values.",
      Kind::kStartup, arguments);
}

}  // namespace videre
