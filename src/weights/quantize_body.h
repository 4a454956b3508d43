// The loops of quantize.h for the including file's instruction set: GCC's and clang's vector
// extension, one register wide.
#pragma once

#include <cstring>

#include "weights/quantize.h"

// Every function that passes vectors is inlined: their calling convention does not matter.
#pragma GCC diagnostic ignored "-Wpsabi"

namespace videre {
namespace {  // NOLINT: files of different instruction sets may not share inline functions

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif
constexpr int kVectors = kNvfp4Block / kLanes;  // of a block

typedef float VF __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VU __attribute__((vector_size(kLanes * 4)));
typedef int32_t VI __attribute__((vector_size(kLanes * 4)));
typedef uint64_t VL __attribute__((vector_size(kLanes * 4)));  // half as many, twice as wide
typedef uint16_t VH __attribute__((vector_size(kLanes * 2)));
typedef uint8_t VB __attribute__((vector_size(kLanes)));
typedef uint8_t VN __attribute__((vector_size(kLanes / 2)));

#define VIDERE_INLINE inline __attribute__((always_inline))

VIDERE_INLINE VF splat(float x) { return x - VF{}; }

VIDERE_INLINE VF load(const void* src, DType dtype, int64_t i) {
  VF out;
  if (dtype == DType::kF32) {
    std::memcpy(&out, static_cast<const float*>(src) + i, sizeof out);
    return out;
  }
  VH half;
  std::memcpy(&half, static_cast<const uint16_t*>(src) + i, sizeof half);
  const VU wide = __builtin_convertvector(half, VU);
  if (dtype == DType::kBF16) return (VF)(wide << 16);
  const VU magnitude = wide & 0x7fff, sign = (wide & 0x8000) << 16;
  const VU infinite = (VU)(magnitude >= 0x7c00) & (112u << 23);
  const VU normal = (magnitude << 13) + (112u << 23) + infinite;
  const VU subnormal = (VU)(__builtin_convertvector((VI)magnitude, VF) * 0x1p-24f);
  const VU is_small = (VU)(magnitude < 0x400);
  return (VF)((subnormal & is_small) | (normal & ~is_small) | sign);
}
// The last n < kLanes elements, zeros behind them.
VIDERE_INLINE VF load_part(const void* src, DType dtype, int64_t i, int64_t n) {
  uint8_t buffer[kLanes * 4] = {};
  const size_t size = dtype == DType::kF32 ? 4 : 2;
  std::memcpy(buffer, static_cast<const uint8_t*>(src) + i * size, n * size);
  return load(buffer, dtype, 0);
}

// Nearest code, ties to even, saturating; NaN keeps its code. Below 2^-6 codes are steps of 2^-9,
// which is one unit in the last place of 2^14.
VIDERE_INLINE VU e4m3_codes(VF x) {
  const VU bits = (VU)x, magnitude = bits & 0x7fffffffu;
  const VU small = (VU)((VF)magnitude + 16384.0f) - 0x46800000u;
  const VU large = ((magnitude + 0x7ffffu + ((magnitude >> 20) & 1)) >> 20) - (120u << 3);
  const VU is_small = (VU)((VF)magnitude < 0x1p-6f);
  VU code = (small & is_small) | (large & ~is_small);
  const VU over = (VU)(code > 0x7e);
  code = (code & ~over) | (0x7e & over);
  const VU nan = (VU)(magnitude > 0x7f800000u);
  code = (code & ~nan) | (0x7f & nan);
  return code | ((bits >> 24) & 0x80);
}
VIDERE_INLINE VF e4m3_values(VU code) {
  const VU magnitude = code & 0x7f;
  const VU normal = (magnitude + (120u << 3)) << 20;
  const VF subnormal = __builtin_convertvector((VI)magnitude, VF) * 0x1p-9f;
  const VU is_small = (VU)(magnitude < 8);
  return (VF)(((VU)subnormal & is_small) | (normal & ~is_small) | ((code & 0x80) << 24));
}

VIDERE_INLINE VU e2m1_codes(VF x) {
  const VU sign = (VU)x >> 31;
  const VF m = (VF)((VU)x & 0x7fffffffu);
  // A true comparison is -1. Ties go to the even code.
  const VI steps = (m > 0.25f) + (m >= 0.75f) + (m > 1.25f) + (m >= 1.75f) + (m > 2.5f) +
                   (m >= 3.5f) + (m > 5.0f);
  return (VU)-steps | (sign << 3);
}
VIDERE_INLINE VF e2m1_values(VU code) {
  // 0, 0.5, 1, 1.5, 2, 3, 4, 6: one bit of mantissa.
  const VU m = code & 7, exponent = m >> 1, mantissa = m & 1;
  const VU normal = ((exponent + 126) << 23) | (mantissa << 22);
  const VU is_small = (VU)(m < 2);
  const VF half = __builtin_convertvector((VI)m, VF) * 0.5f;
  return (VF)(((VU)half & is_small) | (normal & ~is_small) | ((code & 8) << 28));
}

VIDERE_INLINE VU larger_of(VU a, VU b) {
  const VU mask = (VU)(a > b);
  return (a & mask) | (b & ~mask);
}
VIDERE_INLINE float float_of(uint32_t bits) {
  float out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
// Magnitudes order as their bits do; NaN lies above infinity.
VIDERE_INLINE uint32_t largest(VU v) {
#if defined(__AVX512F__)
  v = larger_of(
      v, __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7));
  v = larger_of(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3));
  v = larger_of(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1));
#elif defined(__AVX2__)
  v = larger_of(v, __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3));
  v = larger_of(v, __builtin_shufflevector(v, v, 2, 3, 0, 1, 2, 3, 0, 1));
#else
  v = larger_of(v, __builtin_shufflevector(v, v, 2, 3, 0, 1));
#endif
  return v[0] > v[1] ? v[0] : v[1];
}

template <DType dtype>
float amax_of(const void* src, int64_t n) {
  VU most = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes)
    most = larger_of(most, (VU)load(src, dtype, i) & 0x7fffffffu);
  if (i < n) most = larger_of(most, (VU)load_part(src, dtype, i, n - i) & 0x7fffffffu);
  return float_of(largest(most));
}

template <DType dtype>
void e4m3_of(uint8_t* out, const void* src, int64_t n, float scale) {
  const VF divisor = splat(scale);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VB codes = __builtin_convertvector(e4m3_codes(load(src, dtype, i) / divisor), VB);
    std::memcpy(out + i, &codes, sizeof codes);
  }
  if (i < n) {
    const VF x = load_part(src, dtype, i, n - i) / divisor;
    const VB codes = __builtin_convertvector(e4m3_codes(x), VB);
    std::memcpy(out + i, &codes, n - i);
  }
}

struct Block {
  VF x[kVectors];
  uint8_t scale;  // e4m3
  float divisor;  // what values are divided by; 0: all codes are 0
};

template <DType dtype>
VIDERE_INLINE Block load_block(const void* src, int64_t i, float global_scale) {
  Block block;
  VU most = {};
  for (int k = 0; k < kVectors; ++k) {
    block.x[k] = load(src, dtype, i + k * kLanes);
    most = larger_of(most, (VU)block.x[k] & 0x7fffffffu);
  }
  const float amax = float_of(largest(most));
  const VU code = e4m3_codes(splat(amax == 0 ? 1.0f : amax / (kE2m1Max * global_scale)));
  block.scale = static_cast<uint8_t>(code[0]);
  block.divisor = e4m3_values(code)[0] * global_scale;
  return block;
}

template <DType dtype>
void nvfp4_of(uint8_t* codes, uint8_t* scales, const void* src, int64_t n, float global_scale) {
  for (int64_t i = 0; i < n; i += kNvfp4Block) {
    const Block block = load_block<dtype>(src, i, global_scale);
    scales[i / kNvfp4Block] = block.scale;
    const VF divisor = splat(block.divisor);
    for (int k = 0; k < kVectors; ++k) {
      const VU code = block.divisor == 0 ? VU{} : e2m1_codes(block.x[k] / divisor);
      const VL pair = (VL)code;  // the even code below the odd one
      const VN packed = __builtin_convertvector((pair | (pair >> 28)) & 0xff, VN);
      std::memcpy(codes + (i + k * kLanes) / 2, &packed, sizeof packed);
    }
  }
}

void through_e4m3_of(float* out, const float* src, int64_t n, float scale) {
  const VF divisor = splat(scale);
  for (int64_t i = 0; i < n; i += kLanes) {
    const int64_t count = n - i < kLanes ? n - i : kLanes;
    const VF x =
        count == kLanes ? load(src, DType::kF32, i) : load_part(src, DType::kF32, i, count);
    const VF y = e4m3_values(e4m3_codes(x / divisor)) * divisor;
    std::memcpy(out + i, &y, count * sizeof(float));
  }
}

void through_nvfp4_of(float* out, const float* src, int64_t n, float global_scale) {
  for (int64_t i = 0; i < n; i += kNvfp4Block) {
    const Block block = load_block<DType::kF32>(src, i, global_scale);
    const VF divisor = splat(block.divisor);
    for (int k = 0; k < kVectors; ++k) {
      const VF y =
          block.divisor == 0 ? VF{} : e2m1_values(e2m1_codes(block.x[k] / divisor)) * divisor;
      std::memcpy(out + i + k * kLanes, &y, sizeof y);
    }
  }
}

// One dtype's loop by a run-time dtype.
float amax_any(const void* src, DType dtype, int64_t n) {
  switch (dtype) {
    case DType::kF32:
      return amax_of<DType::kF32>(src, n);
    case DType::kF16:
      return amax_of<DType::kF16>(src, n);
    default:
      return amax_of<DType::kBF16>(src, n);
  }
}
void e4m3_any(uint8_t* out, const void* src, DType dtype, int64_t n, float scale) {
  switch (dtype) {
    case DType::kF32:
      return e4m3_of<DType::kF32>(out, src, n, scale);
    case DType::kF16:
      return e4m3_of<DType::kF16>(out, src, n, scale);
    default:
      return e4m3_of<DType::kBF16>(out, src, n, scale);
  }
}
void nvfp4_any(uint8_t* codes, uint8_t* scales, const void* src, DType dtype, int64_t n,
               float global_scale) {
  switch (dtype) {
    case DType::kF32:
      return nvfp4_of<DType::kF32>(codes, scales, src, n, global_scale);
    case DType::kF16:
      return nvfp4_of<DType::kF16>(codes, scales, src, n, global_scale);
    default:
      return nvfp4_of<DType::kBF16>(codes, scales, src, n, global_scale);
  }
}

constexpr QuantizeKernels make_quantize_kernels(const char* isa) {
  return {isa, amax_any, e4m3_any, nvfp4_any, through_e4m3_of, through_nvfp4_of};
}

}  // namespace
}  // namespace videre
