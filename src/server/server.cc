#include "server/server.h"

#include <fmt/format.h>
#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "base/log.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

std::string human_bytes(int64_t bytes) {
  const double value = static_cast<double>(bytes);
  if (bytes >= int64_t{1} << 30) return fmt::format("{:.2f} GiB", value / (1 << 30));
  if (bytes >= 1 << 20) return fmt::format("{:.1f} MiB", value / (1 << 20));
  return fmt::format("{:.1f} KiB", value / 1024);
}

// SIGTERM and SIGINT, taken by one thread, so that a long load can be left at once.
class SignalWatch {
 public:
  SignalWatch() {
    sigemptyset(&set_);
    sigaddset(&set_, SIGTERM);
    sigaddset(&set_, SIGINT);
    pthread_sigmask(SIG_BLOCK, &set_, &before_);  // inherited by every later thread
    thread_ = std::thread([this] { run(); });
  }
  ~SignalWatch() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    thread_.join();
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }

  /// From here on the first signal asks for a drain instead of ending the process.
  void loaded() {
    std::lock_guard lock(mutex_);
    loaded_ = true;
  }
  /// True when a signal came within `timeout`.
  bool wait(std::chrono::milliseconds timeout) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, timeout, [this] { return stop_; });
  }

 private:
  void run() {
    for (;;) {
      const timespec tick{0, 100'000'000};
      const int signal = sigtimedwait(&set_, nullptr, &tick);
      std::lock_guard lock(mutex_);
      if (over_) return;
      if (signal <= 0) continue;
      if (!loaded_ || stop_) _exit(128 + signal);
      stop_ = true;
      changed_.notify_all();
    }
  }

  sigset_t set_, before_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool loaded_ = false, stop_ = false, over_ = false;
  std::thread thread_;
};

// The periodic line: what operators look for, only while something goes on.
class StatsLog {
 public:
  explicit StatsLog(double interval_s) : interval_s_(interval_s) {}

  void tick(const Engine& engine) {
    const double elapsed_s = std::chrono::duration<double>(Clock::now() - last_time_).count();
    if (interval_s_ <= 0 || elapsed_s < interval_s_) return;
    const EngineStats now = engine.stats();
    const double prompt = static_cast<double>(now.prompt_tokens - last_.prompt_tokens) / elapsed_s;
    const double generated =
        static_cast<double>(now.generation_tokens - last_.generation_tokens) / elapsed_s;
    if (now.num_running + now.num_waiting > 0 || prompt > 0 || generated > 0) {
      const auto percent = [](int64_t part, int64_t whole) {
        return whole > 0 ? 100.0 * static_cast<double>(part) / static_cast<double>(whole) : 0.0;
      };
      log_info(
          "Avg prompt throughput: {:.1f} tokens/s, Avg generation throughput: {:.1f} tokens/s, "
          "Running: {} reqs, Waiting: {} reqs, KV cache usage: {:.1f}%, State slots: {}/{}, "
          "Prefix cache hit rate: 0.0%, MM cache hit rate: {:.1f}%",
          prompt, generated, now.num_running, now.num_waiting + now.num_preparing,
          percent(now.kv_blocks_used, now.kv_blocks_total), now.state_slots_used,
          now.state_slots_total, percent(now.encoder_cache_hits, now.encoder_cache_queries));
    }
    last_ = now;
    last_time_ = Clock::now();
  }

 private:
  const double interval_s_;
  EngineStats last_;
  Clock::time_point last_time_ = Clock::now();
};

int fail(const Error& error) {
  log_error("{}{}{}", error.param, error.param.empty() ? "" : ": ", error.message);
  return error_status(error.code).exit_code;
}

}  // namespace

std::string describe(const MemoryPlan& plan) {
  return fmt::format(
      "memory plan: {} in all\n"
      "  language weights  {}\n"
      "  vision weights    {}\n"
      "  KV cache          {} ({} blocks of {} tokens, {} a token)\n"
      "  state slots       {} ({} slots, {} each)\n"
      "  activations       {}\n"
      "  encoder cache     {}\n"
      "  device scratch    {}\n"
      "  max model len {}, max sequences {}, max batched tokens {}",
      human_bytes(plan.total()), human_bytes(plan.weights), human_bytes(plan.vision_weights),
      human_bytes(plan.kv_cache), plan.num_kv_blocks, plan.block_size,
      human_bytes(plan.kv_bytes_per_token), human_bytes(plan.state_slots), plan.num_state_slots,
      human_bytes(plan.state_bytes_per_slot), human_bytes(plan.activations),
      human_bytes(plan.encoder_cache), human_bytes(plan.device_scratch), plan.max_model_len,
      plan.max_num_seqs, plan.max_num_batched_tokens);
}

int serve_main(ServerOptions options, const EngineLoader& load) {
  if (options.routes.served_model_names.empty()) {
    options.routes.served_model_names = {options.engine.model};
  }
  ChatParseOptions& parse = options.routes.parse;
  parse.max_logprobs = options.engine.max_logprobs;
  parse.limit_mm_per_prompt = options.engine.limit_mm_per_prompt;
  if (options.engine.language_model_only) parse.limit_mm_per_prompt = {{"image", 0}, {"video", 0}};

  SignalWatch signals;
  signal(SIGPIPE, SIG_IGN);
  Routes routes(options.routes);
  auto bound = HttpServer::bind(options.host, options.port, options.limits, &routes);
  if (!bound.ok()) {
    const int code = fail(bound.error());
    return bound.error().code == ErrorCode::kUnavailable ? 5 : code;
  }
  const std::unique_ptr<HttpServer> http = std::move(*bound);
  http->start();  // says "loading" until the engine is there

  std::string stage;
  auto next_report = Clock::now();
  auto loaded = load(options.engine, [&](const std::string& name, double fraction) {
    if (name == stage && Clock::now() < next_report && fraction < 1) return;
    stage = name;
    next_report = Clock::now() + std::chrono::seconds(2);
    log_info("loading: {} {:.0f} %", name, 100 * fraction);
  });
  if (!loaded.ok()) {
    http->stop(std::chrono::milliseconds(0));
    return fail(loaded.error());
  }
  // Declared after `http`, so destroyed before it: the engine's threads may wake connections.
  const std::unique_ptr<Engine> engine = std::move(*loaded);
  log_info("{}", describe(engine->memory_plan()));
  routes.set_engine(engine.get());
  signals.loaded();
  const bool any = options.host.empty() || options.host == "0.0.0.0" || options.host == "::";
  log_info("ready: model {} at http://{}:{}", options.routes.served_model_names.at(0),
           any ? "localhost" : options.host, http->port());

  StatsLog stats(options.log_stats_interval_s);
  bool dead = false;
  while (!signals.wait(std::chrono::milliseconds(500))) {
    stats.tick(*engine);
    if (!engine->healthy()) {
      log_error("the engine has failed; the server exits");
      dead = true;
      break;
    }
  }
  routes.set_state(ServerState::kDraining);
  if (!dead) log_info("stopping: {} requests running", routes.num_active());
  const auto timeout = std::chrono::milliseconds(
      static_cast<int64_t>(std::clamp(options.shutdown_timeout_s, 0.0, 86400.0) * 1000));
  engine->shutdown(dead ? std::chrono::milliseconds(0) : timeout);
  http->stop(std::chrono::milliseconds(2000));  // time for last events to leave
  if (dead) std::_Exit(1);  // at an orderly exit the driver of a failed device may wait for ever
  return 0;
}

}  // namespace videre
