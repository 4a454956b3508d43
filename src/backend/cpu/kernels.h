// The inner loops of the CPU backend, once for each instruction set: plain x86-64 (or any CPU),
// AVX2 and AVX-512. They see raw pointers only; the ops in this folder cut the work and call them.
// All arithmetic is in float. "Padded" counts are multiples of kPad, with room behind them.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace videre::cpu {

constexpr int64_t kPad = 16;  // floats in the widest register

constexpr int64_t pad_up(int64_t n) { return (n + kPad - 1) / kPad * kPad; }

/// One row of a weight as stored. `scales` are NVFP4's block scales, else null.
enum class RowFormat { kF32, kBF16, kF16, kE4M3, kNvfp4 };

/// Products of rows of x with rows of a weight. Each value is summed in one register, lane by lane,
/// and its lanes are added after every kDotBytes of x: a row's bits depend on neither m nor n, and
/// a caller may cut k at multiples of that.
template <typename T>
struct DotTask {
  float* out;
  int64_t out_row;  // floats from row to row
  bool accumulate;  // add to what `out` holds
  const T* x;
  int64_t x_row, m;
  const char* weight;  // element 0 of the first row
  int64_t weight_row;  // bytes from row to row
  const uint8_t* scales;
  int64_t scales_row;
  RowFormat format;
  bool streamed;  // the weight comes from memory, not from a cache
  int64_t n, k;
};
constexpr int64_t kDotBytes = 4096;  // a few rows of it stay in the nearest cache

struct Kernels {
  const char* isa;

  // Conversions between storage and float, n elements, any alignment.
  void (*widen)(float* dst, const void* src, DType dtype, int64_t n);
  void (*narrow)(void* dst, const float* src, DType dtype, int64_t n);

  // Rows of n floats, in place.
  void (*rms_norm)(float* x, const float* weight, int64_t n, float eps);
  void (*layer_norm)(float* x, const float* weight, const float* bias, int64_t n, float eps);
  void (*gated)(float* y, const float* z, int64_t n);  // y *= silu(z)
  void (*add)(float* x, const float* y, int64_t n);
  void (*multiply)(float* x, const float* y, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*relu2)(float* x, int64_t n);
  void (*gelu)(float* x, int64_t n);
  void (*silu)(float* x, int64_t n);
  void (*fma)(float* acc, const float* x, const float* y, int64_t n);  // acc += x * y
  float (*inner)(const float* x, const float* y, int64_t n);

  /// Online softmax of one row of scores: x = exp(x * scale - m), where m = max(*max, row max).
  /// Updates *max and *sum and returns what earlier results must be multiplied with.
  float (*softmax_block)(float* x, int64_t n, float scale, float* max, float* sum);
  /// x[i] = exp(x[i] - max); returns the sum.
  float (*exp_sum)(float* x, const float* from, float max, int64_t n);

  // Logits. NaN loses every comparison.
  int64_t (*argmax)(const float* x, int64_t n);  // lowest index of the largest; 0 when none is
  int64_t (*count_greater)(const float* x, float than, int64_t n);
  /// argmax of x[i] - log(e_i), e_i exponential noise made of (key, i): a draw from softmax(x).
  int64_t (*gumbel_argmax)(const float* x, int64_t n, uint64_t key);

  /// C[m, n] (+)= sum_k A[m, k] B[k, n] with A at a[m * a_row + k * a_col]; n is padded.
  /// k ascends in one accumulator, so a row's bits do not depend on m.
  void (*gemm)(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
               const float* b, int64_t b_row, float* c, int64_t c_row, bool accumulate);
  /// dst[c * dst_row + r] = src[r * src_row + c], 32-bit elements.
  void (*transpose)(void* dst, int64_t dst_row, const void* src, int64_t src_row, int64_t rows,
                    int64_t columns);

  // Weights: elements [k0, k0 + n) of a row; k0 is a multiple of 16. Scales of whole rows and
  // global scales are left to the caller.
  void (*dequantize)(float* dst, const void* row, const uint8_t* scales, RowFormat format,
                     int64_t k0, int64_t n);
  /// out[i, j] (+)= x row i . weight row j, for kF32 and kBF16 weights.
  void (*dot)(const DotTask<float>& task);
  int64_t dot_tile_rows;  // rows of x that share a pass over the weight

  // The same with bf16 pairs through vdpbf16ps; null where the machine or the build has none.
  void (*dequantize_bf16)(uint16_t* dst, const void* row, const uint8_t* scales, RowFormat format,
                          int64_t k0, int64_t n);
  /// For kBF16, kE4M3 and kNvfp4 weights. kNvfp4 wants x in the order of `spread_columns`, whose
  /// rows are a multiple of 128 long.
  void (*dot_bf16)(const DotTask<uint16_t>& task);
  void (*spread_columns)(uint16_t* dst, const uint16_t* x, int64_t n);
  int64_t dot_bf16_tile_rows;

  /// One token of the scan of one head: state [head_dim, n_state] = decay * state + (dt x) B,
  /// y = state C + d x.
  void (*ssm_token)(float* y, float* state, const float* x, const float* b, const float* c,
                    float decay, float dt, float d, int64_t head_dim, int64_t n_state);
  /// out[j, i] = g[j, i] exp(a_i - a_j) dt_j for i >= j, else 0; rows of `row` floats. a is given
  /// as a + a_low: floats alone would lose the small differences of large sums.
  void (*ssm_decay)(float* out, const float* g, const float* a, const float* a_low, const float* dt,
                    int64_t n, int64_t row);
};

const Kernels& plain_kernels();
#if defined(__x86_64__)
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();       // float products
const Kernels& avx512_bf16_kernels();  // bf16 products too
#endif

}  // namespace videre::cpu
