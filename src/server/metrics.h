// Counters and histograms that the server keeps, and the text that Prometheus reads, under the
// names of the engine that dashboards know. Engine gauges come from EngineStats at each scrape.
// Recording is lock-free and allocates nothing.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "videre/engine.h"

namespace videre {

/// Counts in fixed buckets. Any thread may observe.
class Histogram {
 public:
  static constexpr size_t kMaxBuckets = 32;
  /// `bounds` (ascending upper ends) must outlive the histogram.
  explicit Histogram(std::span<const double> bounds) : bounds_(bounds) {}
  void observe(double value);
  /// Appends the _bucket, _sum and _count lines of `name`.
  void append(std::string& out, const std::string& name, const std::string& labels) const;

 private:
  std::span<const double> bounds_;
  std::array<std::atomic<uint64_t>, kMaxBuckets + 1> counts_{};
  std::atomic<double> sum_{0};
};

enum class Handler { kChatCompletions, kModels, kOther, kCount };

class Metrics {
 public:
  Metrics();

  Histogram time_to_first_token_s, inter_token_s, time_per_output_token_s, e2e_latency_s;
  Histogram request_prompt_tokens, request_generation_tokens, request_params_n;

  void count_http(Handler handler, const std::string& method, int status);
  /// The whole page. `engine` may be null: then only the server's own figures appear.
  std::string text(const Engine* engine, const std::string& model_name, int num_in_flight) const;

 private:
  static constexpr int kNumMethods = 3, kNumClasses = 6;  // GET, POST, other; 0xx..5xx
  std::array<std::atomic<uint64_t>,
             static_cast<size_t>(Handler::kCount) * kNumMethods * kNumClasses>
      http_{};
  double start_time_s_;
};

}  // namespace videre
