// What the benches of the CUDA backend share: the card, steps recorded and timed, the program.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <vector>

#include "backend/cuda/cuda_backend.h"

namespace videre {

/// The first card; ends the program with a sentence where there is none.
inline cuda::CudaBackend& card() {
  static const std::unique_ptr<Backend> be = [] {
    Result<std::unique_ptr<Backend>> made = make_cuda_backend({});
    if (!made.ok()) {
      std::fprintf(stderr, "%s\n", made.error().message.c_str());
      std::exit(1);
    }
    return std::move(*made);
  }();
  return static_cast<cuda::CudaBackend&>(*be);
}

inline std::vector<uint8_t> bytes_of(ConstView view) {
  std::vector<uint8_t> out(view.size_bytes());
  card().download(out.data(), view);
  return out;
}

inline double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

inline uint64_t last_key = 0;  // of recorded steps: one counter for all kinds of calls

/// Times `call(i)`, `calls` of them recorded as one step: the best seconds a call, or nothing when
/// the card fails, which `state` is told.
template <typename Call>
std::optional<double> measure(benchmark::State& state, int calls, Call&& call) {
  auto& be = card();
  const uint64_t key = ++last_key;
  const auto calls_in_a_row = [&] {
    for (int i = 0; i < calls; ++i) call(i);
  };
  calls_in_a_row();  // scratch grows and kernels load where nothing records
  be.record_step(key, calls_in_a_row);
  const auto step = [&] {
    be.run_step(key, calls_in_a_row);
    be.wait(be.submit());
  };
  for (int i = 0; i < 3; ++i) step();
  if (!be.health().ok()) {
    state.SkipWithError("the card failed");
    return std::nullopt;
  }
  double best = 1e30;
  for (auto _ : state) {
    const auto start = std::chrono::steady_clock::now();
    step();
    const double seconds = seconds_since(start) / calls;
    best = std::min(best, seconds);
    state.SetIterationTime(seconds);
  }
  return best;
}

inline int run_benchmarks(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace videre
