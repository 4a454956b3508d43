// What the kernels of linear take: out [rows, n] = x [rows, k] W^T * scale + bias, as pointers and
// sizes. linear.cu chooses among them; linear_decode.cu serves few rows, linear_gemm.cu many.
#pragma once

#include <cstdint>

#include "backend/cuda/launcher.h"

namespace videre::cuda {

/// How a weight's rows are stored; the first is what tensor cores read as it lies.
enum class Stored { kBF16, kFp8, kNvfp4, kF16, kF32 };

struct LinearArgs {
  const void* x;
  int64_t x_stride;  // elements between rows, as everywhere here but for weights
  const uint8_t* weight;
  int64_t weight_stride;        // bytes
  const uint8_t* block_scales;  // NVFP4: e4m3, one for 16 elements
  int64_t block_scale_stride;   // bytes
  const float* scales;          // FP8: of rows, or one; at any address
  bool scale_per_row;
  float scale;  // of everything
  FloatReader bias;
  void* out;
  int64_t out_stride;
  bool out_is_float;
  bool relu2;  // out = relu(what else it would be, rounded)^2
  int64_t rows, n, k;
};

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

/// Checkpoints put nothing at the addresses that its type would want.
__device__ __forceinline__ float load_unaligned_float(const void* address) {
  const uint8_t* p = static_cast<const uint8_t*>(address);
  return __uint_as_float(static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
                         static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24);
}
__device__ __forceinline__ uint16_t load_unaligned_half(const void* address) {
  const uint8_t* p = static_cast<const uint8_t*>(address);
  return static_cast<uint16_t>(p[0] | p[1] << 8);
}

__device__ __forceinline__ float relu2_of(float value) {
  value = value < 0.0f ? 0.0f : value;  // this way round NaN stays NaN
  return value * value;
}
/// What all sums of column `column` are multiplied by before the bias is added.
__device__ __forceinline__ float column_scale(const LinearArgs& p, int64_t column) {
  if (p.scales == nullptr) return p.scale;
  return load_unaligned_float(p.scales + (p.scale_per_row ? column : 0));
}
__device__ __forceinline__ float column_bias(const LinearArgs& p, int64_t column) {
  return p.bias.data == nullptr ? 0.0f : p.bias[column];
}
template <typename T>
__device__ __forceinline__ void store_out(const LinearArgs& p, int64_t row, int64_t column,
                                          float value) {
  const int64_t at = row * p.out_stride + column;
  if (p.out_is_float && !std::is_same_v<T, float>) {
    static_cast<float*>(p.out)[at] = value;
  } else {
    static_cast<T*>(p.out)[at] =
        rounded<T>(p.relu2 ? relu2_of(float_of(rounded<T>(value))) : value);
  }
}

/// Eight e2m1 codes of one word, times their block's scale, to four pairs of bf16: all exact.
__device__ __forceinline__ void unpack_e2m1(uint32_t codes, float scale, uint32_t (&pairs)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    float values[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      // Exponent and mantissa moved to a float's, whose subnormals count alike; 2^126 makes up for
      // the bias.
      const uint32_t code = codes >> (8 * i + 4 * j);
      values[j] = __uint_as_float((code & 7) << 22 | (code & 8) << 28) * 0x1p126f * scale;
    }
    pairs[i] = pack_bf16(values[0], values[1]);
  }
}
/// Four e4m3 codes to two pairs of bf16: exact.
__device__ __forceinline__ void unpack_fp8(uint32_t codes, uint32_t (&pairs)[2]) {
  const float2 low = unpack_e4m3(static_cast<uint16_t>(codes & 0xffff));
  const float2 high = unpack_e4m3(static_cast<uint16_t>(codes >> 16));
  pairs[0] = pack_bf16(low.x, low.y);
  pairs[1] = pack_bf16(high.x, high.y);
}
__device__ __forceinline__ float e4m3_of(uint8_t code) { return unpack_e4m3(code).x; }

#endif

/// Few rows of bf16 by weights in kBF16, kFp8 or kNvfp4, read once at the memory's speed.
struct DecodePlan {
  int64_t stages;       // steps of a tile's k
  int64_t piece;        // steps that stay together: one, or a tile's
  int64_t blocks;       // that share the pieces of all tiles:
  int64_t each, extra;  // so many each, and one more for the first `extra`
  int64_t part_bytes;   // of scratch
};
constexpr int64_t kDecodeRows = 64;
DecodePlan plan_decode(Stored stored, int64_t rows, int64_t n, int64_t k, int num_multiprocessors);
/// `parts` is scratch.
void run_decode(const DecodePlan& plan, Stored stored, const LinearArgs& args, void* parts,
                Launcher& launcher);

/// One row of bf16 by bf16 weights.
void run_row(const LinearArgs& args, int num_multiprocessors, Launcher& launcher);

/// Up to kStreamRows rows of bf16 by bf16 weights; false where the card or its driver cannot.
constexpr int64_t kStreamRows = 128;
bool run_stream(const LinearArgs& args, const DeviceInfo& device, Launcher& launcher);

/// Many rows of bf16 by weights in kBF16, kFp8 or kNvfp4, on tensor cores.
void run_gemm(Stored stored, const LinearArgs& args, Launcher& launcher);

}  // namespace videre::cuda
