// Linear on a card, at the 12B model's sizes: checked against sums in double first, then timed as
// recorded steps of many calls over weights that L2 cannot hold. Prints GB/s of weights for few
// rows, TFLOP/s for many. Names are KIND/rows/n/k: `linear` is what the backend chooses, `library`
// is cuBLASLt, `gemm` the own kernel for many rows.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/cublas_lt.h"
#include "backend/cuda/linear.h"
#include "cuda_bench.h"

namespace videre {
namespace {

// Random bits on the card, of which all weights are views: bf16 between 2^-7 and 1 of both signs,
// or bytes that are no e4m3 NaN.
View pool(bool bf16) {
  const auto make = [](bool words, int64_t bytes) {
    Tensor all = card().allocate(DType::kU8, Shape{bytes});
    std::vector<uint32_t> block(16 << 20);
    std::minstd_rand random(words ? 1 : 2);
    for (uint32_t& word : block) {
      const uint32_t bits = static_cast<uint32_t>(random()) << 8 ^ static_cast<uint32_t>(random());
      word = words ? (bits & 0x80ff80ffu) | 0x3c003c00u : bits & 0xb7b7b7b7u;
    }
    const int64_t block_bytes = static_cast<int64_t>(4 * block.size());
    for (int64_t at = 0; at < bytes; at += block_bytes) {
      // Another start each time, so that no two blocks are the same.
      const int64_t begin = at / block_bytes * 4096 % (block_bytes / 2);
      const int64_t count = std::min(block_bytes - begin, bytes - at);
      card().upload(all.view().rows(at, at + count), reinterpret_cast<char*>(block.data()) + begin);
      at -= block_bytes - count;
    }
    card().wait(card().submit());
    return all;
  };
  static const Tensor words = make(true, int64_t{2900} << 20),
                      bytes = make(false, int64_t{640} << 20);
  return bf16 ? words : bytes;
}
View pool(bool bf16, int64_t offset, DType dtype, Shape shape) {
  const View all = pool(bf16);
  return View(static_cast<char*>(all.raw()) + offset, dtype, shape);
}

struct Case {
  int64_t rows, n, k;
  WeightFormat format;
  DType out_dtype;
  Tensor scale;
  std::vector<Weight> weights;
  Tensor x, out;
  double weight_bytes = 0;

  Case(int64_t rows_, int64_t n_, int64_t k_, WeightFormat format_)
      : rows(rows_), n(n_), k(k_), format(format_) {
    auto& be = card();
    out_dtype = n > 100'000 ? DType::kF32 : DType::kBF16;
    x = be.allocate(DType::kBF16, Shape{rows, k});
    out = be.allocate(out_dtype, Shape{rows, n});
    be.copy(x, pool(true, 1 << 20, DType::kBF16, Shape{rows, k}));
    scale = be.allocate(DType::kF32, Shape{1});
    const float value = 0.01f;
    be.upload(scale, &value);
    const int64_t bytes = format == WeightFormat::kPlain ? 2 * n * k
                          : format == WeightFormat::kFp8 ? n * k
                                                         : n * k / 2;
    const int64_t scale_bytes = format == WeightFormat::kNvfp4 ? n * k / 16 : 0;
    weight_bytes = static_cast<double>(bytes + scale_bytes);
    const int64_t copies = std::max<int64_t>(2, cuda::ceil_div(400'000'000, bytes));
    for (int64_t i = 0; i < copies; ++i) {
      Weight weight;
      weight.format = format;
      const int64_t at = i * (bytes + scale_bytes);
      if (format == WeightFormat::kPlain) {
        weight.data = pool(true, at, DType::kBF16, Shape{n, k});
      } else if (format == WeightFormat::kFp8) {
        weight.data = pool(false, at, DType::kF8E4M3, Shape{n, k});
        weight.scales = scale;
      } else {
        weight.data = pool(false, at, DType::kU8, Shape{n, k / 2});
        weight.scales = pool(false, at + bytes, DType::kF8E4M3, Shape{n, k / 16});
        weight.global_scale = 0.01f;
      }
      weights.push_back(weight);
    }
  }

  // A sample of outputs of the last call against sums in double.
  bool right(const Weight& weight) const {
    auto& be = card();
    const size_t out_size = dtype_size(out_dtype);
    for (int64_t sample = 0; sample < 23; ++sample) {
      const int64_t i = sample * 7919 % rows, j = (n - 1 - sample * 104729 % n) % n;
      const std::vector<uint8_t> x_row = bytes_of(x.view()[i]), w_row = bytes_of(weight.data[j]);
      std::vector<uint8_t> scale_row;
      if (format == WeightFormat::kNvfp4) scale_row = bytes_of(weight.scales[j]);
      double sum = 0, magnitude = 0;
      for (int64_t c = 0; c < k; ++c) {
        double w = 0;
        if (format == WeightFormat::kPlain) {
          w = to_float(reinterpret_cast<const BF16*>(w_row.data())[c]);
        } else if (format == WeightFormat::kFp8) {
          w = e4m3_to_float(w_row[c]) * double{0.01f};
        } else {
          const int code = c % 2 ? w_row[c / 2] >> 4 : w_row[c / 2] & 15;
          w = double{e2m1_to_float(static_cast<uint8_t>(code))} * e4m3_to_float(scale_row[c / 16]) *
              0.01f;
        }
        const double product = w * to_float(reinterpret_cast<const BF16*>(x_row.data())[c]);
        sum += product;
        magnitude += std::abs(product);
      }
      uint8_t got_bytes[4] = {};
      be.download(got_bytes, View(static_cast<char*>(out.view().raw()) + (i * n + j) * out_size,
                                  out_dtype, Shape{1}));
      float got;
      if (out_dtype == DType::kF32) {
        std::memcpy(&got, got_bytes, 4);
      } else {
        BF16 bits;
        std::memcpy(&bits, got_bytes, 2);
        got = to_float(bits);
      }
      if (!(std::abs(got - sum) <= 1e-5 * magnitude + 0.005 * std::abs(sum))) return false;
    }
    return true;
  }
};

// Times `call(weight)` over all copies, after a look at its result.
template <typename Call>
void time_weights(benchmark::State& state, Case& c, Call&& call) {
  call(c.weights[0]);
  if (!c.right(c.weights[0])) return state.SkipWithError("wrong result");
  // Some milliseconds a step, so that the host's share of it does not count.
  const int calls = std::clamp(static_cast<int>(16e9 / c.weight_bytes), c.rows > 256 ? 8 : 20,
                               c.rows > 256 ? 8 : 500);
  const auto seconds = measure(state, calls, [&](int i) { call(c.weights[i % c.weights.size()]); });
  if (!seconds) return;
  if (c.rows <= 128) state.counters["GB/s"] = c.weight_bytes / *seconds / 1e9;
  if (c.rows >= 16) {
    state.counters["TFLOP/s"] = 2.0 * static_cast<double>(c.rows * c.n * c.k) / *seconds / 1e12;
  }
}

cuda::LinearArgs args_of(const Case& c, const Weight& weight) {
  cuda::LinearArgs args{};
  args.x = c.x.view().raw();
  args.x_stride = c.k;
  args.weight = static_cast<const uint8_t*>(weight.data.raw());
  args.weight_stride = static_cast<int64_t>(weight.data.size_bytes()) / c.n;
  args.scale = 1;
  if (c.format == WeightFormat::kNvfp4) {
    args.block_scales = static_cast<const uint8_t*>(weight.scales.raw());
    args.block_scale_stride = c.k / 16;
    args.scale = weight.global_scale;
  } else if (c.format == WeightFormat::kFp8) {
    args.scales = static_cast<const float*>(weight.scales.raw());
  }
  args.out = c.out.view().raw();
  args.out_stride = c.n;
  args.out_is_float = c.out_dtype == DType::kF32;
  args.rows = c.rows;
  args.n = c.n;
  args.k = c.k;
  return args;
}
cuda::Stored stored_of(const Case& c) {
  return c.format == WeightFormat::kPlain ? cuda::Stored::kBF16
         : c.format == WeightFormat::kFp8 ? cuda::Stored::kFp8
                                          : cuda::Stored::kNvfp4;
}

void linear(benchmark::State& state, int64_t rows, int64_t n, int64_t k, WeightFormat format) {
  Case c(rows, n, k, format);
  time_weights(state, c, [&](const Weight& weight) { card().linear(c.out, {c.x.view()}, weight); });
}

void gemm(benchmark::State& state, int64_t rows, int64_t n, int64_t k, WeightFormat format) {
  Case c(rows, n, k, format);
  time_weights(state, c, [&](const Weight& weight) {
    cuda::run_gemm(stored_of(c), args_of(c, weight), card().launcher());
  });
}

void library(benchmark::State& state, int64_t rows, int64_t n, int64_t k, WeightFormat) {
  static const Tensor workspace =
      card().allocate(DType::kU8, Shape{cuda::CublasLt::kWorkspaceBytes});
  static const std::unique_ptr<cuda::CublasLt> cublas =
      cuda::CublasLt::open(workspace.view().raw(), cuda::CublasLt::kWorkspaceBytes);
  if (cublas == nullptr) return state.SkipWithError("no cuBLASLt here");
  Case c(rows, n, k, WeightFormat::kPlain);
  time_weights(state, c, [&](const Weight& weight) {
    cublas->matmul(c.out.view().raw(), c.out_dtype, n, c.x.view().raw(), k, weight.data.raw(), k,
                   nullptr, rows, n, k, card().launcher());
  });
}

struct Size {
  int64_t n, k;
};
// in_proj, out_proj, up, down, q and o, k and v, lm_head.
constexpr Size kSizes[] = {{22656, 5120}, {5120, 10240}, {20480, 5120}, {5120, 20480},
                           {5120, 5120},  {1024, 5120},  {132096, 5120}};

void register_all() {
  const auto name_of = [](const char* kind, int64_t rows, Size size) {
    return std::string(kind) + "/" + std::to_string(rows) + "/" + std::to_string(size.n) + "/" +
           std::to_string(size.k);
  };
  const auto timed = [](benchmark::internal::Benchmark* bench) {
    bench->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(10);
  };
  constexpr auto kPlain = WeightFormat::kPlain;
  for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64}) {
    for (const Size size : kSizes) {
      timed(benchmark::RegisterBenchmark(name_of("linear/bf16", rows, size).c_str(), linear, rows,
                                         size.n, size.k, kPlain));
    }
  }
  for (const auto& [name, format] : {std::pair{"linear/fp8", WeightFormat::kFp8},
                                     std::pair{"linear/nvfp4", WeightFormat::kNvfp4}}) {
    for (const int64_t rows : {1, 8, 32, 64, 2048}) {
      for (const Size size : {kSizes[2], kSizes[3]}) {
        timed(benchmark::RegisterBenchmark(name_of(name, rows, size).c_str(), linear, rows, size.n,
                                           size.k, format));
      }
    }
  }
  for (const int64_t rows : {16, 64, 96, 128, 192, 256, 512, 2048, 8192}) {
    for (const Size size : {kSizes[0], kSizes[1], kSizes[2], kSizes[3], kSizes[5]}) {
      timed(benchmark::RegisterBenchmark(name_of("library/bf16", rows, size).c_str(), library, rows,
                                         size.n, size.k, kPlain));
      if (rows < 96) continue;
      timed(benchmark::RegisterBenchmark(name_of("gemm/bf16", rows, size).c_str(), gemm, rows,
                                         size.n, size.k, kPlain));
    }
  }
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  videre::register_all();
  return videre::run_benchmarks(argc, argv);
}
