#include "server/metrics.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

namespace videre {
namespace {

// Bucket ends that published dashboards are drawn for.
constexpr double kFirstToken[] = {.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                                  1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
constexpr double kBetweenTokens[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                                     .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
constexpr double kWholeRequest[] = {.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                    30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};
constexpr double kTokens[] = {1,    2,    5,    10,    20,    50,    100,    200,   500,
                              1000, 2000, 5000, 10000, 20000, 50000, 100000, 200000};
constexpr double kChoices[] = {1, 2, 5, 10, 20};

std::string number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return fmt::format("{:.1f}", value);
  return fmt::format("{}", value);
}

// A label's value: the text format escapes these three.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    if (c == '\n') {
      out += "\\n";
    } else {
      out += c;
    }
  }
  return out;
}

class Page {
 public:
  explicit Page(std::string labels) : labels_(std::move(labels)) {}
  void head(const std::string& name, const char* type, const char* help) {
    out_ += fmt::format("# HELP {} {}\n# TYPE {} {}\n", name, help, name, type);
  }
  void line(const std::string& name, double value, const std::string& more = "") {
    out_ += fmt::format("{}{{{}{}{}}} {}\n", name, labels_, more.empty() ? "" : ",", more,
                        number(value));
  }
  void gauge(const char* name, const char* help, double value) {
    head(name, "gauge", help);
    line(name, value);
  }
  void counter(const char* name, const char* help, double value) {
    head(name, "counter", help);
    line(name, value);
  }
  void histogram(const char* name, const char* help, const Histogram& histogram) {
    head(name, "histogram", help);
    histogram.append(out_, name, labels_);
  }
  void plain(const char* name, const char* type, const char* help, double value) {
    head(name, type, help);
    out_ += fmt::format("{} {}\n", name, number(value));
  }
  std::string& out() { return out_; }

 private:
  std::string labels_, out_;
};

int64_t resident_bytes() {
  long long pages = 0, resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%lld %lld", &pages, &resident) != 2) resident = 0;
    std::fclose(file);
  }
  return resident * sysconf(_SC_PAGESIZE);
}

int num_open_files() {
  int count = 0;
  if (DIR* dir = opendir("/proc/self/fd")) {
    while (const dirent* entry = readdir(dir)) count += entry->d_name[0] != '.';
    closedir(dir);
    --count;  // the directory itself
  }
  return count;
}

double share(int64_t used, int64_t total) {
  return total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0;
}

void append_engine(Page& page, const Engine& engine) {
  const EngineStats stats = engine.stats();
  const MemoryPlan& plan = engine.memory_plan();
  page.gauge("vllm:num_requests_running", "Requests in the running batch.", stats.num_running);
  page.gauge("vllm:num_requests_waiting", "Requests queued or being prepared.",
             stats.num_waiting + stats.num_preparing);
  const double kv = share(stats.kv_blocks_used, stats.kv_blocks_total);
  const double slots = share(stats.state_slots_used, stats.state_slots_total);
  page.gauge("vllm:kv_cache_usage_perc",
             "Used share of attention blocks or state slots, whichever is fuller.",
             std::max(kv, slots));
  page.gauge("vllm:gpu_cache_usage_perc", "Older name of vllm:kv_cache_usage_perc.",
             std::max(kv, slots));
  page.head("vllm:engine_sleep_state", "gauge", "The engine never sleeps.");
  page.line("vllm:engine_sleep_state", 1, "sleep_state=\"awake\"");
  page.counter("vllm:prefix_cache_queries_total", "Prompt tokens asked of the prefix cache.", 0);
  page.counter("vllm:prefix_cache_hits_total", "Prompt tokens served by the prefix cache.", 0);
  page.counter("vllm:mm_cache_queries_total", "Media items asked of the encoder cache.",
               stats.encoder_cache_queries);
  page.counter("vllm:mm_cache_hits_total", "Media items served by the encoder cache.",
               stats.encoder_cache_hits);
  page.counter("vllm:num_preemptions_total", "Sequences preempted.", stats.num_preemptions);
  page.counter("vllm:prompt_tokens_total", "Prompt tokens, media included.", stats.prompt_tokens);
  page.counter("vllm:generation_tokens_total", "Tokens generated.", stats.generation_tokens);
  page.head("vllm:request_success_total", "counter", "Choices that ended, by reason.");
  const std::pair<const char*, int64_t> ends[] = {{"stop", stats.finished_stop},
                                                  {"length", stats.finished_length},
                                                  {"abort", stats.finished_abort},
                                                  {"error", stats.finished_error},
                                                  {"repetition", 0}};
  for (const auto& [reason, count] : ends) {
    page.line("vllm:request_success_total", static_cast<double>(count),
              fmt::format("finished_reason=\"{}\"", reason));
  }
  page.head("videre_kv_blocks", "gauge", "Blocks of the attention cache.");
  page.line("videre_kv_blocks", stats.kv_blocks_used, "state=\"used\"");
  page.line("videre_kv_blocks", stats.kv_blocks_total, "state=\"total\"");
  page.head("videre_state_slots", "gauge", "Mamba state slots.");
  page.line("videre_state_slots", stats.state_slots_used, "state=\"used\"");
  page.line("videre_state_slots", stats.state_slots_total, "state=\"total\"");
  page.counter("videre_steps_total", "Engine steps.", stats.num_steps);
  page.head("vllm:cache_config_info", "gauge", "Cache settings.");
  page.out() += fmt::format(
      "vllm:cache_config_info{{engine=\"0\",block_size=\"{}\",num_gpu_blocks=\"{}\","
      "enable_prefix_caching=\"False\",mamba_cache_mode=\"none\",cache_dtype=\"auto\"}} 1.0\n",
      plan.block_size, plan.num_kv_blocks);
  page.head("videre_build_info", "gauge", "Version and model format.");
  page.out() += fmt::format(
      "videre_build_info{{version=\"{}\",quantization=\"{}\",device=\"{}\"}} 1.0\n", VIDERE_VERSION,
      escaped(engine.info().quantization), escaped(engine.info().device));
}

}  // namespace

void Histogram::observe(double value) {
  const size_t bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
  counts_[bucket].fetch_add(1, std::memory_order_relaxed);
  double sum = sum_.load(std::memory_order_relaxed);
  while (!sum_.compare_exchange_weak(sum, sum + value, std::memory_order_relaxed)) {
  }
}

void Histogram::append(std::string& out, const std::string& name, const std::string& labels) const {
  uint64_t total = 0;
  for (size_t i = 0; i <= bounds_.size(); ++i) {
    total += counts_[i].load(std::memory_order_relaxed);
    const std::string end = i < bounds_.size() ? number(bounds_[i]) : "+Inf";
    out += fmt::format("{}_bucket{{{},le=\"{}\"}} {}\n", name, labels, end, number(total));
  }
  out += fmt::format("{}_sum{{{}}} {}\n", name, labels, number(sum_.load()));
  out += fmt::format("{}_count{{{}}} {}\n", name, labels, number(total));
}

Metrics::Metrics()
    : time_to_first_token_s(kFirstToken),
      inter_token_s(kBetweenTokens),
      time_per_output_token_s(kBetweenTokens),
      e2e_latency_s(kWholeRequest),
      request_prompt_tokens(kTokens),
      request_generation_tokens(kTokens),
      request_params_n(kChoices),
      start_time_s_(
          std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch())
              .count()) {}

void Metrics::count_http(Handler handler, const std::string& method, int status) {
  const int method_idx = method == "GET" ? 0 : method == "POST" ? 1 : 2;
  const int status_class = std::clamp(status / 100, 0, kNumClasses - 1);
  http_[(static_cast<size_t>(handler) * kNumMethods + method_idx) * kNumClasses + status_class]
      .fetch_add(1, std::memory_order_relaxed);
}

std::string Metrics::text(const Engine* engine, const std::string& model_name,
                          int num_in_flight) const {
  Page page(fmt::format("model_name=\"{}\",engine=\"0\"", escaped(model_name)));
  if (engine) append_engine(page, *engine);
  page.gauge("videre_chat_requests_in_flight", "Chat answers in the making.", num_in_flight);
  page.histogram("vllm:time_to_first_token_seconds", "Arrival to first token.",
                 time_to_first_token_s);
  page.histogram("vllm:inter_token_latency_seconds", "Between outputs of a choice.", inter_token_s);
  page.histogram("vllm:request_time_per_output_token_seconds",
                 "Decode time over its tokens, a request.", time_per_output_token_s);
  page.histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", e2e_latency_s);
  page.histogram("vllm:request_prompt_tokens", "Prompt tokens a request.", request_prompt_tokens);
  page.histogram("vllm:request_generation_tokens", "Tokens generated a request.",
                 request_generation_tokens);
  page.histogram("vllm:request_params_n", "Choices asked a request.", request_params_n);

  page.head("http_requests_total", "counter", "HTTP requests answered.");
  static constexpr const char* kHandlers[] = {"/v1/chat/completions", "/v1/models", "none"};
  static constexpr const char* kMethods[] = {"GET", "POST", "other"};
  for (size_t i = 0; i < http_.size(); ++i) {
    const uint64_t count = http_[i].load(std::memory_order_relaxed);
    if (count == 0) continue;
    page.out() += fmt::format(
        "http_requests_total{{handler=\"{}\",method=\"{}\",status=\"{}xx\"}} {}\n",
        kHandlers[i / (kNumMethods * kNumClasses)], kMethods[i / kNumClasses % kNumMethods],
        i % kNumClasses, number(static_cast<double>(count)));
  }
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const double cpu_s = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
                       (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
  page.plain("process_cpu_seconds_total", "counter", "CPU time.", cpu_s);
  page.plain("process_resident_memory_bytes", "gauge", "Resident memory.",
             static_cast<double>(resident_bytes()));
  page.plain("process_start_time_seconds", "gauge", "Start, Unix time.", start_time_s_);
  page.plain("process_open_fds", "gauge", "Open file descriptors.", num_open_files());
  return std::move(page.out());
}

}  // namespace videre
