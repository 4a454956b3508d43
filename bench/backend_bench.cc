// The CPU backend's ops at the 12B model's sizes: checked first, then timed. Each line prints GB/s
// or GFLOP/s and its share of what this machine reaches in the same run: a register-only loop of
// bf16 (or float) products on all threads, and reading a large array with all threads.
// --threads=N takes fewer threads; --isa=NAME other kernels than the best; --clock=cpu counts
// processor time, for a machine that others share (with --threads=1, since threads that wait for
// each other spin).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "backend/backend.h"
#include "base/thread_pool.h"

#if defined(__x86_64__)
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12 about its own intrinsics
#include <immintrin.h>
#endif

namespace videre {
namespace {

// --- What the machine reaches ---

struct Settings {
  int num_threads = 0;
  bool cpu_clock = false;
  std::string isa;
};
Settings& settings() {
  static Settings settings;
  return settings;
}

double now() {
  timespec time{};
  clock_gettime(settings().cpu_clock ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

double best_seconds(int repeats, const std::function<void()>& work) {
  double best = 1e30;
  for (int i = 0; i < repeats; ++i) {
    const double start = now();
    work();
    best = std::min(best, now() - start);
  }
  return best;
}

#if defined(__x86_64__)
// 24 independent sums, as many as the register tiles have.
__attribute__((target("avx512f,avx512bf16"), noinline)) float bf16_loop(int64_t rounds) {
  __m512 sums[24];
  for (int i = 0; i < 24; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  __m512i bits = _mm512_set1_epi32(0x3f803f80);
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(bits));
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) {
      sums[i] = _mm512_dpbf16_ps(sums[i], (__m512bh)bits, (__m512bh)bits);
    }
  }
  for (int i = 1; i < 24; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return _mm512_cvtss_f32(sums[0]);
}
__attribute__((target("avx512f"), noinline)) float float_loop(int64_t rounds) {
  __m512 sums[24];
  for (int i = 0; i < 24; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  __m512 factor = _mm512_set1_ps(1e-3f);
  for (int64_t round = 0; round < rounds; ++round) {
    asm volatile("" : "+v"(factor));
#pragma GCC unroll 24
    for (int i = 0; i < 24; ++i) sums[i] = _mm512_fmadd_ps(factor, factor, sums[i]);
  }
  for (int i = 1; i < 24; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return _mm512_cvtss_f32(sums[0]);
}
__attribute__((target("avx512f"), noinline)) int64_t read_all(const char* p, int64_t size) {
  __m512i sums[4] = {};
  for (int64_t i = 0; i + 256 <= size; i += 256) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sums[j] = _mm512_xor_si512(sums[j], _mm512_loadu_si512(p + i + 64 * j));
    }
    _mm_prefetch(p + i + 4096, _MM_HINT_T0);
    _mm_prefetch(p + i + 4096 + 64, _MM_HINT_T0);
    _mm_prefetch(p + i + 4096 + 128, _MM_HINT_T0);
    _mm_prefetch(p + i + 4096 + 192, _MM_HINT_T0);
  }
  const __m512i all =
      _mm512_xor_si512(_mm512_xor_si512(sums[0], sums[1]), _mm512_xor_si512(sums[2], sums[3]));
  return _mm512_reduce_add_epi64(all);
}
bool has_avx512() { return __builtin_cpu_supports("avx512f"); }
bool has_bf16() { return __builtin_cpu_supports("avx512bf16"); }
#else
bool has_avx512() { return false; }
bool has_bf16() { return false; }
#endif

struct Machine {
  int num_threads = 0;
  double bf16_flops = 0, float_flops = 0;  // a second, all threads
  double bytes = 0;                        // read a second, all threads

  static const Machine& get() {
    static const Machine machine = measure();
    return machine;
  }
  static Machine measure() {
    Machine machine;
    ThreadPool pool(settings().num_threads);
    machine.num_threads = pool.num_threads();
#if defined(__x86_64__)
    const auto flops = [&](float (*loop)(int64_t), double a_round) {
      constexpr int64_t kRounds = 2'000'000;
      const double seconds = best_seconds(7, [&] {
        pool.parallel_for(pool.num_threads(), 1,
                          [&](int64_t, int64_t, int) { benchmark::DoNotOptimize(loop(kRounds)); });
      });
      return kRounds * a_round * pool.num_threads() / seconds;
    };
    if (has_bf16()) machine.bf16_flops = flops(bf16_loop, 24 * 64.0);
    if (has_avx512()) machine.float_flops = flops(float_loop, 24 * 32.0);
    if (has_avx512()) {
      constexpr int64_t kSize = int64_t{1} << 30, kPart = int64_t{1} << 22;
      const auto be = make_cpu_backend({.num_threads = settings().num_threads});
      const Tensor array = be->allocate(DType::kU8, Shape{kSize});
      std::memset(array.view().raw(), 1, kSize);
      const double seconds = best_seconds(7, [&] {
        pool.parallel_for(kSize / kPart, 1, [&](int64_t begin, int64_t end, int) {
          for (int64_t i = begin; i < end; ++i) {
            benchmark::DoNotOptimize(read_all(array.view().data<char>() + i * kPart, kPart));
          }
        });
      });
      machine.bytes = kSize / seconds;
    }
#endif
    std::printf(
        "machine: %d threads, %.0f GFLOP/s in bf16 products, %.0f in float, %.1f GB/s read\n",
        machine.num_threads, machine.bf16_flops / 1e9, machine.float_flops / 1e9,
        machine.bytes / 1e9);
    return machine;
  }
};

Backend& backend() {
  static const std::unique_ptr<Backend> be =
      make_cpu_backend({.num_threads = settings().num_threads, .isa = settings().isa});
  return *be;
}

// Runs `work` for as long as the bench asks, then notes what one run moves or computes.
template <typename Work>
void run(benchmark::State& state, double bytes, double flops, double peak_flops, Work&& work) {
  double seconds = 0;
  for (auto _ : state) {
    const double start = now();
    work();
    state.SetIterationTime(now() - start);
    seconds += now() - start;
  }
  const double a_run = seconds / static_cast<double>(state.iterations());
  if (bytes > 0) {
    state.counters["GB/s"] = bytes / a_run / 1e9;
    state.counters["of_read"] = bytes / a_run / Machine::get().bytes;
  }
  if (flops > 0) {
    state.counters["GFLOP/s"] = flops / a_run / 1e9;
    state.counters["of_peak"] = flops / a_run / peak_flops;
  }
}

// Fills with small bf16 or float values; fast, since arrays here are large.
void fill(View view, uint32_t seed) {
  uint32_t state = seed * 2654435761u + 1;
  const auto next = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<float>(static_cast<int32_t>(state) >> 16) / 65536.0f;
  };
  for (int64_t i = 0; i < view.numel(); ++i) {
    if (view.dtype() == DType::kBF16) {
      view.data<BF16>()[i] = to_bf16(next());
    } else if (view.dtype() == DType::kF32) {
      view.data<float>()[i] = next();
    } else {
      view.data<uint8_t>()[i] =
          static_cast<uint8_t>(((state = state * 1664525u + 1013904223u) >> 24) & 0x77);  // no NaN
    }
  }
}

double value_at(ConstView view, int64_t i) {
  return view.dtype() == DType::kBF16 ? to_float(view.data<BF16>()[i]) : view.data<float>()[i];
}

// --- Linear ---

struct LinearCase {
  Tensor x, out, data, scales;
  Weight weight;
  double weight_bytes = 0;

  LinearCase(int64_t m, int64_t n, int64_t k, WeightFormat format, DType dtype = DType::kBF16) {
    Backend& be = backend();
    x = be.allocate(dtype, Shape{m, k});
    out = be.allocate(dtype, Shape{m, n});
    fill(x, 1);
    weight.format = format;
    switch (format) {
      case WeightFormat::kPlain:
        data = be.allocate(DType::kBF16, Shape{n, k});
        break;
      case WeightFormat::kFp8:
        data = be.allocate(DType::kF8E4M3, Shape{n, k});
        scales = be.allocate(DType::kF32, Shape{1});
        scales.view().data<float>()[0] = 0.01f;
        break;
      case WeightFormat::kNvfp4:
        data = be.allocate(DType::kU8, Shape{n, k / 2});
        scales = be.allocate(DType::kF8E4M3, Shape{n, k / 16});
        fill(scales, 3);
        weight.global_scale = 0.01f;
        break;
    }
    fill(data, 2);
    weight.data = data;
    if (!scales.empty()) weight.scales = scales;
    weight_bytes = static_cast<double>(data.size_bytes());
    if (format == WeightFormat::kNvfp4) weight_bytes += static_cast<double>(scales.size_bytes());
  }
  double weight_at(int64_t n, int64_t c) const {
    const int64_t k = weight.num_columns();
    switch (weight.format) {
      case WeightFormat::kPlain:
        return value_at(data, n * k + c);
      case WeightFormat::kFp8:
        return e4m3_to_float(data.view().data<uint8_t>()[n * k + c]) * 0.01;
      default: {
        const uint8_t pair = data.view().data<uint8_t>()[(n * k + c) / 2];
        return double{e2m1_to_float(c % 2 ? pair >> 4 : pair & 15)} *
               e4m3_to_float(scales.view().data<uint8_t>()[(n * k + c) / 16]) * 0.01;
      }
    }
  }
  // A sample of outputs against sums in double.
  bool right() const {
    backend().linear(out, {x.view()}, weight);
    const int64_t m = x.shape()[0], n = weight.num_rows(), k = weight.num_columns();
    for (int64_t sample = 0; sample < 97; ++sample) {
      const int64_t i = sample * 7919 % m, j = sample * 104729 % n;
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < k; ++c) {
        const double product = value_at(x, i * k + c) * weight_at(j, c);
        sum += product;
        magnitude += std::abs(product);
      }
      if (std::abs(value_at(out, i * n + j) - sum) > 1e-5 * magnitude + 0.01 * std::abs(sum)) {
        return false;
      }
    }
    return true;
  }
};

void linear(benchmark::State& state, WeightFormat format, DType dtype, int64_t m, int64_t n,
            int64_t k) {
  const LinearCase c(m, n, k, format, dtype);
  if (!c.right()) return state.SkipWithError("wrong result");
  const Machine& machine = Machine::get();
  const double flops = 2.0 * static_cast<double>(m * n * k);
  const bool bf16 = dtype == DType::kBF16 && machine.bf16_flops > 0;
  run(state, m <= 8 ? c.weight_bytes : 0, m > 1 ? flops : 0,
      bf16 ? machine.bf16_flops : machine.float_flops,
      [&] { backend().linear(c.out, {c.x.view()}, c.weight); });
}

constexpr auto kPlain = WeightFormat::kPlain;
constexpr auto kFp8 = WeightFormat::kFp8;
constexpr auto kNvfp4 = WeightFormat::kNvfp4;
#define VIDERE_LINEAR(name, format, dtype, m, n, k)       \
  BENCHMARK_CAPTURE(linear, name, format, dtype, m, n, k) \
      ->UseManualTime()                                   \
      ->Unit(benchmark::kMillisecond)
VIDERE_LINEAR(bf16_1x20480x5120, kPlain, DType::kBF16, 1, 20480, 5120);
VIDERE_LINEAR(fp8_1x20480x5120, kFp8, DType::kBF16, 1, 20480, 5120);
VIDERE_LINEAR(nvfp4_1x20480x5120, kNvfp4, DType::kBF16, 1, 20480, 5120);
VIDERE_LINEAR(bf16_4x20480x5120, kPlain, DType::kBF16, 4, 20480, 5120);
VIDERE_LINEAR(fp8_4x20480x5120, kFp8, DType::kBF16, 4, 20480, 5120);
VIDERE_LINEAR(nvfp4_4x20480x5120, kNvfp4, DType::kBF16, 4, 20480, 5120);
VIDERE_LINEAR(bf16_8x20480x5120, kPlain, DType::kBF16, 8, 20480, 5120);
VIDERE_LINEAR(bf16_16x5120x5120, kPlain, DType::kBF16, 16, 5120, 5120);
VIDERE_LINEAR(bf16_64x5120x5120, kPlain, DType::kBF16, 64, 5120, 5120);
VIDERE_LINEAR(bf16_512x5120x5120, kPlain, DType::kBF16, 512, 5120, 5120);
VIDERE_LINEAR(fp8_512x5120x5120, kFp8, DType::kBF16, 512, 5120, 5120);
VIDERE_LINEAR(nvfp4_512x5120x5120, kNvfp4, DType::kBF16, 512, 5120, 5120);
VIDERE_LINEAR(tower_bf16_1040x5120x1280, kPlain, DType::kBF16, 1040, 5120, 1280);
VIDERE_LINEAR(float32_1x20480x5120, kPlain, DType::kF32, 1, 20480, 5120);
VIDERE_LINEAR(float32_512x5120x5120, kPlain, DType::kF32, 512, 5120, 5120);

// --- Sequence mixers, at the 12B's sizes ---

constexpr int64_t kMambaHeads = 128, kMambaHeadDim = 80, kGroups = 8, kState = 128, kChunk = 128;

struct Step {
  std::vector<int32_t> cu_seqlens{0}, contexts, read, write, tables;
  StepView view;
  Step(int seqs, int length, int context, int blocks_each) {
    for (int i = 0; i < seqs; ++i) {
      cu_seqlens.push_back(cu_seqlens.back() + length);
      contexts.push_back(context);
      read.push_back(1 + i);
      write.push_back(1 + i);
      for (int b = 0; b < blocks_each; ++b) tables.push_back(1 + i * blocks_each + b);
    }
    view.num_tokens = seqs * length;
    view.num_seqs = seqs;
    view.cu_seqlens = cu_seqlens.data();
    view.context_lens = contexts.data();
    view.read_slots = read.data();
    view.write_slots = write.data();
    view.block_tables = tables.data();
    view.max_blocks = blocks_each;
  }
};

// `length` tokens of `seqs` sequences. Checked against the recurrence, whose state it must reach.
void ssm_scan(benchmark::State& state, int seqs, int length) {
  Backend& be = backend();
  const int64_t tokens = int64_t{seqs} * length, d = kMambaHeads * kMambaHeadDim;
  const int64_t bc = kGroups * kState;
  Tensor x = be.allocate(DType::kBF16, Shape{tokens, d + 2 * bc + kMambaHeads});
  Tensor y = be.allocate(DType::kBF16, Shape{tokens, d});
  Tensor ssm = be.allocate(DType::kF32, Shape{1 + seqs, kMambaHeads, kMambaHeadDim, kState});
  fill(x, 1);
  SsmInputs in;
  const View all = x;
  in.x = all.columns(0, d);
  in.b = all.columns(d, d + bc);
  in.c = all.columns(d + bc, d + 2 * bc);
  in.dt = all.columns(d + 2 * bc, d + 2 * bc + kMambaHeads);
  Tensor floats = be.allocate(DType::kF32, Shape{3, kMambaHeads});
  for (int64_t h = 0; h < kMambaHeads; ++h) {
    floats.view().data<float>()[h] = -2.0f;
    floats.view().data<float>()[kMambaHeads + h] = -0.1f * static_cast<float>(1 + h);
    floats.view().data<float>()[2 * kMambaHeads + h] = 1.0f;
  }
  in.dt_bias = floats.view()[0], in.a = floats.view()[1], in.d = floats.view()[2];
  in.num_groups = kGroups, in.chunk_size = kChunk;
  in.dt_max = INFINITY;
  const Step step(seqs, length, 0, 1);
  be.zero(ssm);
  be.ssm_scan(y, in, ssm, step.view);
  for (const int64_t head : {int64_t{0}, int64_t{77}}) {
    std::vector<double> s(kMambaHeadDim * kState, 0.0);
    const int64_t group = head / (kMambaHeads / kGroups);
    double worst = 0;
    for (int64_t t = 0; t < length; ++t) {
      const BF16* row = x.view().data<BF16>() + t * x.shape()[1];
      const double dt = std::log1p(std::exp(to_float(row[d + 2 * bc + head]) - 2.0));
      const double decay = std::exp(-0.1 * static_cast<double>(1 + head) * dt);
      for (int64_t p = 0; p < kMambaHeadDim; ++p) {
        const double value = to_float(row[head * kMambaHeadDim + p]);
        double sum = value;
        for (int64_t n = 0; n < kState; ++n) {
          double& cell = s[p * kState + n];
          cell = decay * cell + dt * value * to_float(row[d + group * kState + n]);
          sum += cell * to_float(row[d + bc + group * kState + n]);
        }
        const double got = value_at(y, t * d + head * kMambaHeadDim + p);
        worst = std::max(worst, std::abs(got - sum) - 0.01 * std::abs(sum));
      }
    }
    if (!(worst < 1e-3)) return state.SkipWithError("wrong result");
  }
  const double state_bytes = 2.0 * seqs * static_cast<double>(d * kState * 4);  // read and written
  const double chunk_flops = 2.0 * kChunk *
                             (static_cast<double>(kGroups * kChunk * kState) +
                              static_cast<double>(d) * (kChunk + 2 * kState));
  run(state, length == 1 ? state_bytes : 0,
      length == 1 ? 0 : chunk_flops * static_cast<double>(tokens) / kChunk,
      Machine::get().float_flops, [&] { be.ssm_scan(y, in, ssm, step.view); });
}
BENCHMARK_CAPTURE(ssm_scan, decode_1, 1, 1)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ssm_scan, decode_8, 8, 1)->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(ssm_scan, prefill_512, 1, 512)->UseManualTime()->Unit(benchmark::kMillisecond);

// `length` tokens of `seqs` sequences, each after `context` others.
void paged_attention(benchmark::State& state, int seqs, int length, int context) {
  Backend& be = backend();
  const AttentionParams params{40, 8, 128, 0.0883883f};
  constexpr int kBlock = 16;
  const int blocks = (context + length + kBlock - 1) / kBlock;
  const Shape shape{1 + int64_t{seqs} * blocks, 8, kBlock, 128};
  Tensor k = be.allocate(DType::kBF16, shape), v = be.allocate(DType::kBF16, shape);
  Tensor q = be.allocate(DType::kBF16, Shape{int64_t{seqs} * length, 40 * 128});
  Tensor out = be.allocate(DType::kBF16, q.shape());
  fill(k, 1);
  fill(v, 2);
  fill(q, 3);
  const Step step(seqs, length, context, blocks);
  be.paged_attention(out, q, k, v, params, step.view);
  const int64_t row = int64_t{seqs} * length - 1, head = 23, kv_head = head / 5;
  std::vector<double> p(context + length);
  double sum = 0;
  const auto at = [&](int key) {
    const int64_t block = step.tables[(seqs - 1) * blocks + key / kBlock];
    return ((block * 8 + kv_head) * kBlock + key % kBlock) * 128;
  };
  for (int key = 0; key < context + length; ++key) {
    double score = 0;
    for (int i = 0; i < 128; ++i) {
      score += value_at(q, (row * 40 + head) * 128 + i) * value_at(k, at(key) + i);
    }
    sum += p[key] = std::exp(score * params.scale);
  }
  for (int i = 0; i < 128; ++i) {
    double value = 0;
    for (int key = 0; key < context + length; ++key) value += p[key] * value_at(v, at(key) + i);
    if (std::abs(value / sum - value_at(out, (row * 40 + head) * 128 + i)) > 0.01) {
      return state.SkipWithError("wrong result");
    }
  }
  const double cache_bytes = 2.0 * seqs * (context + length) * 8 * 128 * 2;
  const double flops = 4.0 * seqs * length * 40 * 128 * (context + length / 2.0);
  run(state, length == 1 ? cache_bytes : 0, length == 1 ? 0 : flops, Machine::get().float_flops,
      [&] { be.paged_attention(out, q, k, v, params, step.view); });
}
BENCHMARK_CAPTURE(paged_attention, decode_1_of_8192, 1, 1, 8192)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(paged_attention, decode_8_of_2048, 8, 1, 2048)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(paged_attention, prefill_512_after_2048, 1, 512, 2048)
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

// One tile of the tower.
void full_attention(benchmark::State& state) {
  Backend& be = backend();
  constexpr int64_t kTokens = 1040, kHeads = 16, kHeadDim = 80, kWidth = kHeads * kHeadDim;
  Tensor qkv = be.allocate(DType::kBF16, Shape{1, kTokens, 3 * kWidth});
  Tensor out = be.allocate(DType::kBF16, Shape{1, kTokens, kWidth});
  fill(qkv, 1);
  be.full_attention(out, qkv, kHeads, 0.1118f);
  const int64_t token = 1039, head = 9;
  std::vector<double> p(kTokens);
  double sum = 0;
  for (int64_t key = 0; key < kTokens; ++key) {
    double score = 0;
    for (int64_t i = 0; i < kHeadDim; ++i) {
      score += value_at(qkv, token * 3 * kWidth + head * kHeadDim + i) *
               value_at(qkv, (key * 3 + 1) * kWidth + head * kHeadDim + i);
    }
    sum += p[key] = std::exp(score * 0.1118);
  }
  for (int64_t i = 0; i < kHeadDim; ++i) {
    double value = 0;
    for (int64_t key = 0; key < kTokens; ++key) {
      value += p[key] * value_at(qkv, (key * 3 + 2) * kWidth + head * kHeadDim + i);
    }
    if (std::abs(value / sum - value_at(out, token * kWidth + head * kHeadDim + i)) > 0.01) {
      return state.SkipWithError("wrong result");
    }
  }
  run(state, 0, 4.0 * kTokens * kTokens * kWidth, Machine::get().float_flops,
      [&] { be.full_attention(out, qkv, kHeads, 0.1118f); });
}
BENCHMARK(full_attention)->UseManualTime()->Unit(benchmark::kMillisecond);

// --- Rows ---

void add_rms_norm(benchmark::State& state) {
  Backend& be = backend();
  Tensor x = be.allocate(DType::kBF16, Shape{512, 5120}),
         weight = be.allocate(DType::kBF16, {5120});
  Tensor residual = be.allocate(DType::kBF16, x.shape()),
         out = be.allocate(DType::kBF16, x.shape());
  fill(x, 1);
  fill(weight, 2);
  run(state, 4.0 * static_cast<double>(x.size_bytes()), 0, 0,
      [&] { be.add_rms_norm({out.view()}, residual, x, weight, 1e-5f); });
}
BENCHMARK(add_rms_norm)->UseManualTime()->Unit(benchmark::kMillisecond);

void gelu(benchmark::State& state) {
  Backend& be = backend();
  Tensor x = be.allocate(DType::kBF16, Shape{1040, 5120}),
         out = be.allocate(DType::kBF16, x.shape());
  fill(x, 1);
  run(state, 2.0 * static_cast<double>(x.size_bytes()), 0, 0, [&] { be.gelu({out.view()}, x); });
}
BENCHMARK(gelu)->UseManualTime()->Unit(benchmark::kMillisecond);

void causal_conv(benchmark::State& state) {
  Backend& be = backend();
  const int64_t channels = kMambaHeads * kMambaHeadDim + 2 * kGroups * kState;
  Tensor x = be.allocate(DType::kBF16, Shape{512, channels}),
         out = be.allocate(DType::kBF16, x.shape());
  Tensor weight = be.allocate(DType::kBF16, Shape{channels, 4});
  Tensor conv = be.allocate(DType::kBF16, Shape{2, 3, channels});
  fill(x, 1);
  fill(weight, 2);
  const Step step(1, 512, 0, 1);
  run(state, 2.0 * static_cast<double>(x.size_bytes()), 0, 0,
      [&] { be.causal_conv(out, x, weight, {}, conv, step.view); });
}
BENCHMARK(causal_conv)->UseManualTime()->Unit(benchmark::kMillisecond);

// Sixteen rows of the whole vocabulary: greedy, then all filters and logprobs.
void sample(benchmark::State& state, SampleRow row) {
  Backend& be = backend();
  constexpr int64_t kRows = 16, kVocab = 131072;
  Tensor logits = be.allocate(DType::kF32, Shape{kRows, kVocab});
  fill(logits, 1);
  for (int64_t i = 0; i < logits.view().numel(); ++i) logits.view().data<float>()[i] *= 16;
  Tensor last = be.allocate(DType::kI32, Shape{kRows});
  std::vector<SampleRow> rows(kRows, row);
  for (int i = 0; i < kRows; ++i) rows[i].row = rows[i].slot = i;
  std::vector<SampledToken> out(kRows);
  run(state, static_cast<double>(logits.size_bytes()), 0, 0,
      [&] { be.sample(logits, logits, rows, last, out); });
}
BENCHMARK_CAPTURE(sample, greedy, SampleRow{})->UseManualTime()->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sample, temperature, SampleRow{.temperature = 1})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(
    sample, filters,
    SampleRow{.temperature = 1, .top_k = 50, .top_p = 0.9f, .min_p = 0.01f, .num_logprobs = 20})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);
BENCHMARK_CAPTURE(sample, top_p, SampleRow{.temperature = 1, .top_p = 0.95f})
    ->UseManualTime()
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  int kept = 1;
  for (int i = 1; i < argc; ++i) {
    const std::string_view arg = argv[i];
    if (arg.starts_with("--threads=")) {
      videre::settings().num_threads = std::atoi(argv[i] + 10);
    } else if (arg.starts_with("--isa=")) {
      videre::settings().isa = arg.substr(6);
    } else if (arg == "--clock=cpu") {
      videre::settings().cpu_clock = true;
    } else {
      argv[kept++] = argv[i];
    }
  }
  argc = kept;
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 2;
  videre::Machine::get();
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
