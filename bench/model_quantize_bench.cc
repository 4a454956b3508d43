// Quantising: the kernels on one core over a matrix that fits no cache, as bytes of bfloat16 read a
// second; and a whole checkpoint, folder to folder, on all cores and through the page cache.
// `of_read` is the share of what one core reaches when it only reads.
#include <benchmark/benchmark.h>
#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "base/check.h"
#include "model/quantize_checkpoint.h"
#include "weights/quantize.h"
#include "weights/safetensors_layout.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kRows = 8192, kColumns = 5120;

const std::vector<uint16_t>& matrix() {
  static const std::vector<uint16_t> values = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 0.02f);
    std::vector<uint16_t> out(kRows * kColumns);
    for (uint16_t& value : out) value = to_bf16(normal(random)).bits;
    return out;
  }();
  return values;
}

double read_gb_per_s = 0;  // by BM_Read, which runs first

void report(benchmark::State& state) {
  const auto bytes = static_cast<double>(state.iterations()) * 2 * kRows * kColumns;
  state.SetBytesProcessed(static_cast<int64_t>(bytes));
  state.counters["of_read"] =
      benchmark::Counter(bytes / 1e9 / std::max(read_gb_per_s, 1e-9), benchmark::Counter::kIsRate);
}

void BM_Read(benchmark::State& state) {
  const auto* words = reinterpret_cast<const uint64_t*>(matrix().data());
  const int64_t count = kRows * kColumns / 4;
  double seconds = 0;
  for (auto _ : state) {
    const std::clock_t start = std::clock();  // as Google Benchmark counts rates
    uint64_t sums[8] = {};
    for (int64_t i = 0; i < count; i += 8) {
      for (int k = 0; k < 8; ++k) sums[k] += words[i + k];
    }
    benchmark::DoNotOptimize(sums);
    seconds += static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
  }
  read_gb_per_s =
      static_cast<double>(state.iterations()) * 8e-9 * static_cast<double>(count) / seconds;
  state.SetBytesProcessed(state.iterations() * count * 8);
}
BENCHMARK(BM_Read)->Unit(benchmark::kMillisecond);

const char* kIsas[] = {"plain", "avx2", "avx512"};

void BM_Amax(benchmark::State& state) {
  const QuantizeKernels& kernels = quantize_kernels(kIsas[state.range(0)]);
  state.SetLabel(kernels.isa);
  for (auto _ : state) {
    benchmark::DoNotOptimize(kernels.amax(matrix().data(), DType::kBF16, kRows * kColumns));
  }
  report(state);
}
BENCHMARK(BM_Amax)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

void BM_Fp8(benchmark::State& state) {
  const QuantizeKernels& kernels = quantize_kernels(kIsas[state.range(0)]);
  state.SetLabel(kernels.isa);
  std::vector<uint8_t> codes(kRows * kColumns);
  for (auto _ : state) {
    kernels.to_e4m3(codes.data(), matrix().data(), DType::kBF16, kRows * kColumns, 3e-4f);
    benchmark::ClobberMemory();
  }
  report(state);
}
BENCHMARK(BM_Fp8)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

void BM_Nvfp4(benchmark::State& state) {
  const QuantizeKernels& kernels = quantize_kernels(kIsas[state.range(0)]);
  state.SetLabel(kernels.isa);
  std::vector<uint8_t> codes(kRows * kColumns / 2), scales(kRows * kColumns / 16);
  for (auto _ : state) {
    kernels.to_nvfp4(codes.data(), scales.data(), matrix().data(), DType::kBF16, kRows * kColumns,
                     5e-5f);
    benchmark::ClobberMemory();
  }
  report(state);
}
BENCHMARK(BM_Nvfp4)->DenseRange(0, 2)->Unit(benchmark::kMillisecond);

// A checkpoint of eight such matrices: 671 MB.
void BM_Checkpoint(benchmark::State& state) {
  const fs::path folder =
      fs::temp_directory_path() / ("videre_bench_" + std::to_string(::getpid()));
  fs::create_directories(folder / "source");
  const auto config = ModelFiles(builtin_model()).text("config.json", 1 << 20);
  if (!config.ok()) return state.SkipWithError("this build carries no model");
  std::ofstream(folder / "source" / "config.json") << *config;
  std::vector<TensorEntry> entries;
  for (int i = 0; i < 8; ++i) {
    entries.push_back(
        {"language_model.backbone.layers." + std::to_string(i) + ".mixer.up_proj.weight",
         DType::kBF16,
         {kRows, kColumns}});
  }
  const SafetensorsLayout layout(entries);
  {
    std::ofstream out(folder / "source" / "model.safetensors", std::ios::binary);
    out << layout.header();
    for (int i = 0; i < 8; ++i) {
      out.write(reinterpret_cast<const char*>(matrix().data()), 2 * kRows * kColumns);
    }
  }
  QuantizeOptions options;
  options.format = state.range(0) == 0 ? QuantFormat::kFp8 : QuantFormat::kNvfp4;
  state.SetLabel(state.range(0) == 0 ? "fp8" : "nvfp4");
  const std::string source = (folder / "source").string(), out = (folder / "out").string();
  for (auto _ : state) {
    const auto made = quantize_checkpoint(source, out, options);
    VIDERE_CHECK(made.ok()) << made.error().message;
    state.PauseTiming();
    fs::remove_all(out);
    state.ResumeTiming();
  }
  state.SetBytesProcessed(state.iterations() * layout.data_bytes());
  fs::remove_all(folder);
}
BENCHMARK(BM_Checkpoint)->DenseRange(0, 1)->Unit(benchmark::kMillisecond)->UseRealTime();

}  // namespace
}  // namespace videre

BENCHMARK_MAIN();
