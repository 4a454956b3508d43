// The kernels of kernels.h in vector extensions. Included once by each of kernels_plain.cc,
// kernels_avx2.cc and kernels_avx512.cc, which compile it for their instruction set; nothing else
// includes it. No inline function of another header is called here (see simd.h).
#pragma once

#include <cmath>

#include "backend/cpu/kernels.h"
#include "backend/cpu/simd.h"

namespace videre::cpu {
namespace {  // NOLINT: see simd.h

// Rows of the register tile: 12 x 2 accumulators of 32 registers, else 6 x 2 of 16.
#if defined(__AVX512F__)
constexpr int kTileRows = 12;
constexpr int kDotTileRows = 6, kDotColumns = 4;
#else
constexpr int kTileRows = 6;
constexpr int kDotTileRows = 4, kDotColumns = 2;
#endif

// --- Conversions ---

VIDERE_INLINE float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}
VIDERE_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

VIDERE_INLINE float half_bits_to_float(uint32_t half) {
  const uint32_t sign = (half & 0x8000) << 16, exponent = (half >> 10) & 31, mantissa = half & 1023;
  if (exponent == 0) return bits_to_float(sign | float_to_bits((float)mantissa * 0x1p-24f));
  if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
  return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
}

// Nearest, ties to even; overflow gives infinity.
VIDERE_INLINE uint16_t float_to_half_bits(float value) {
  const uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000u) return (uint16_t)(sign | 0x7e00);
  if (magnitude >= 0x477ff000u) return (uint16_t)(sign | 0x7c00);
  if (magnitude < 0x38800000u) {  // subnormal: adding 0.5 rounds at 2^-24
    const uint32_t shifted = float_to_bits(bits_to_float(magnitude) + 0.5f);
    return (uint16_t)(sign | (shifted - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfff + ((magnitude >> 13) & 1);
  return (uint16_t)(sign | ((rounded - 0x38000000u) >> 13));
}

// E4M3 codes of a vector to float. Exponent and mantissa move into place; subnormals get a leading
// one that is then subtracted, since products of subnormal floats are slow.
VIDERE_INLINE VF e4m3_vector(VU code) {
  const VU magnitude = code & 0x7f;
  const VU small = (VU)(magnitude < 8);
  const VU bits = (magnitude << 20) + (120u << 23) + (small & (1u << 23));
  const VF value = (VF)bits - (VF)(small & 0x3c800000u);  // 2^-6
  const VU nan = (VU)(magnitude == 0x7f) & 0x7fc00000u;
  return (VF)((VU)value | nan | ((code & 0x80) << 24));
}
VIDERE_INLINE VF load_e4m3(const uint8_t* p) {
  VB bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  return e4m3_vector(widen_bytes(bytes));
}
VIDERE_INLINE float e4m3_scalar(uint8_t code) {
  const uint32_t magnitude = code & 0x7f, sign = (uint32_t)(code & 0x80) << 24;
  if (magnitude == 0x7f) return bits_to_float(sign | 0x7fc00000u);
  const float value =
      magnitude < 8 ? (float)magnitude * 0x1p-9f : bits_to_float((magnitude << 20) + (120u << 23));
  return bits_to_float(sign | float_to_bits(value));
}

// Nearest, ties to even, saturating at 448; NaN gives 0x7f.
VIDERE_INLINE uint8_t to_e4m3(float value) {
  const uint32_t bits = float_to_bits(value), sign = (bits >> 24) & 0x80;
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return (uint8_t)(sign | 0x7e);  // 448 and beyond
  if (magnitude < 0x3c800000u) {  // below 2^-6: adding 2^14 rounds at 2^-9
    const uint32_t shifted = float_to_bits(bits_to_float(magnitude) + 16384.0f);
    return (uint8_t)(sign | (shifted - 0x46800000u));
  }
  const uint32_t rounded = magnitude + 0x7ffff + ((magnitude >> 20) & 1);
  const uint32_t code = (rounded - 0x3c000000u) >> 20;
  return (uint8_t)(sign | (code > 0x7e ? 0x7e : code));
}

void widen(float* dst, const void* src, DType dtype, int64_t n) {
  int64_t i = 0;
  switch (dtype) {
    case DType::kF32:
      __builtin_memcpy(dst, src, (size_t)n * 4);
      return;
    case DType::kBF16: {
      const char* p = (const char*)src;
      for (; i + kLanes <= n; i += kLanes) store(dst + i, load_bf16(p + 2 * i));
      for (; i < n; ++i) {
        uint16_t half;
        __builtin_memcpy(&half, p + 2 * i, 2);
        dst[i] = bits_to_float((uint32_t)half << 16);
      }
      return;
    }
    case DType::kF16: {
      const char* p = (const char*)src;
      for (; i < n; ++i) {
        uint16_t half;
        __builtin_memcpy(&half, p + 2 * i, 2);
        dst[i] = half_bits_to_float(half);
      }
      return;
    }
    case DType::kF8E4M3: {
      const uint8_t* p = (const uint8_t*)src;
      for (; i + kLanes <= n; i += kLanes) store(dst + i, load_e4m3(p + i));
      for (; i < n; ++i) dst[i] = e4m3_scalar(p[i]);
      return;
    }
    case DType::kU8: {
      const uint8_t* p = (const uint8_t*)src;
      for (; i < n; ++i) dst[i] = (float)p[i];
      return;
    }
    case DType::kF64: {
      for (; i < n; ++i) {
        double value;
        __builtin_memcpy(&value, (const char*)src + 8 * i, 8);
        dst[i] = (float)value;
      }
      return;
    }
    default:
      __builtin_trap();  // the public half lets no other dtype through
  }
}

void narrow(void* dst, const float* src, DType dtype, int64_t n) {
  int64_t i = 0;
  char* p = (char*)dst;
  switch (dtype) {
    case DType::kF32:
      __builtin_memcpy(dst, src, (size_t)n * 4);
      return;
    case DType::kBF16:
      for (; i + kLanes <= n; i += kLanes) store_bf16(p + 2 * i, load(src + i));
      if (i < n) {
        const VH half = round_bf16(load_part(src + i, n - i));
        __builtin_memcpy(p + 2 * i, &half, (size_t)(n - i) * 2);
      }
      return;
    case DType::kF16:
      for (; i < n; ++i) {
        const uint16_t half = float_to_half_bits(src[i]);
        __builtin_memcpy(p + 2 * i, &half, 2);
      }
      return;
    case DType::kF8E4M3:
      for (; i < n; ++i) p[i] = (char)to_e4m3(src[i]);
      return;
    default:
      __builtin_trap();
  }
}

// --- Rows ---

#define VIDERE_LAMBDA __attribute__((always_inline, unused))
// body(i, load, store) over whole vectors and the part at the end.
#define VIDERE_FOR_ROW(n, ...)                                                               \
  {                                                                                          \
    int64_t i = 0;                                                                           \
    for (; i + kLanes <= (n); i += kLanes) {                                                 \
      const auto get = [&](const float* p) VIDERE_LAMBDA { return load(p + i); };            \
      const auto put = [&](float* p, VF v) VIDERE_LAMBDA { store(p + i, v); };               \
      __VA_ARGS__                                                                            \
    }                                                                                        \
    if (i < (n)) {                                                                           \
      const int64_t rest = (n) - i;                                                          \
      const auto get = [&](const float* p) VIDERE_LAMBDA { return load_part(p + i, rest); }; \
      const auto put = [&](float* p, VF v) VIDERE_LAMBDA { store_part(p + i, v, rest); };    \
      __VA_ARGS__                                                                            \
    }                                                                                        \
  }

void rms_norm(float* x, const float* weight, int64_t n, float eps) {
  VF squares{};
  VIDERE_FOR_ROW(n, (void)put; const VF v = get(x); squares += v * v;)
  const float factor = 1.0f / __builtin_sqrtf(sum(squares) / (float)n + eps);
  VIDERE_FOR_ROW(n, put(x, get(x) * factor * get(weight));)
}

void layer_norm(float* x, const float* weight, const float* bias, int64_t n, float eps) {
  VF total{};
  VIDERE_FOR_ROW(n, (void)put; total += get(x);)
  const float mean = sum(total) / (float)n;
  VF squares{};
  int64_t j = 0;
  for (; j + kLanes <= n; j += kLanes) {
    const VF v = load(x + j) - mean;
    squares += v * v;
  }
  float variance = sum(squares);
  for (; j < n; ++j) variance += (x[j] - mean) * (x[j] - mean);
  const float factor = 1.0f / __builtin_sqrtf(variance / (float)n + eps);
  VIDERE_FOR_ROW(n, put(x, (get(x) - mean) * factor * get(weight) + get(bias));)
}

void gated(float* y, const float* z, int64_t n) {
  VIDERE_FOR_ROW(n, put(y, get(y) * vsilu(get(z)));)
}
void add(float* x, const float* y, int64_t n) { VIDERE_FOR_ROW(n, put(x, get(x) + get(y));) }
void multiply(float* x, const float* y, int64_t n) { VIDERE_FOR_ROW(n, put(x, get(x) * get(y));) }
void scale(float* x, float factor, int64_t n) { VIDERE_FOR_ROW(n, put(x, get(x) * factor);) }
void relu2(float* x, int64_t n) {
  // The comparison is this way round so that NaN stays NaN.
  VIDERE_FOR_ROW(n, const VF v = get(x); const VF r = v < VF{} ? VF{} : v; put(x, r * r);)
}
void gelu(float* x, int64_t n) {
  VIDERE_FOR_ROW(n, const VF v = get(x); put(x, 0.5f * v * (1.0f + verf(v * 0.70710678f)));)
}
void silu(float* x, int64_t n) { VIDERE_FOR_ROW(n, put(x, vsilu(get(x)));) }
void fma(float* acc, const float* x, const float* y, int64_t n) {
  VIDERE_FOR_ROW(n, put(acc, get(acc) + get(x) * get(y));)
}

float inner(const float* x, const float* y, int64_t n) {
  VF total{};
  VIDERE_FOR_ROW(n, (void)put; total += get(x) * get(y);)
  return sum(total);
}

float exp_sum(float* x, const float* from, float max, int64_t n) {
  VF total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = vexp(load(from + i) - max);
    store(x + i, v);
    total += v;
  }
  float result = sum(total);
  if (i < n) {
    const VF v = vexp(load_part(from + i, n - i, -__builtin_inff()) - max);
    store_part(x + i, v, n - i);
    result += sum(v);  // lanes of the fill are 0
  }
  return result;
}

float softmax_block(float* x, int64_t n, float factor, float* running_max, float* running_sum) {
  const float lowest = -__builtin_inff();
  VF top = splat(0) + lowest;
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    const VF v = load(x + i) * factor;
    store(x + i, v);
    top = max(top, v);
  }
  float new_max = max_of(top);
  for (; i < n; ++i) {
    x[i] *= factor;
    new_max = x[i] > new_max ? x[i] : new_max;
  }
  new_max = *running_max > new_max ? *running_max : new_max;
  if (!(new_max > lowest)) {  // nothing to see yet
    for (i = 0; i < n; ++i) x[i] = 0;
    return 1.0f;
  }
  const float correction = *running_max > lowest ? __builtin_expf(*running_max - new_max) : 0.0f;
  *running_sum = *running_sum * correction + exp_sum(x, x, new_max, n);
  *running_max = new_max;
  return correction;
}

// --- Logits ---

// The largest of values that `value(i, n)` gives, n of them from i on, the rest -infinity.
template <typename Value>
VIDERE_INLINE int64_t argmax_of(int64_t n, Value value) {
  VI lane;
  for (int j = 0; j < kLanes; ++j) lane[j] = j;
  const float lowest = -__builtin_inff();
  VF best = splat(0) + lowest;
  VI where{};  // vocabularies stay far below 2^31
  for (int64_t i = 0; i < n; i += kLanes) {
    const VF v = value(i, n - i < kLanes ? n - i : kLanes);
    const VI better = v > best;
    best = better ? v : best;
    where = better ? lane + (int32_t)i : where;
  }
  float top = lowest;
  int64_t index = 0;
  for (int j = 0; j < kLanes; ++j) {
    if (best[j] > top || (best[j] == top && top > lowest && where[j] < index)) {
      top = best[j];
      index = where[j];
    }
  }
  return index;
}

int64_t argmax(const float* x, int64_t n) {
  return argmax_of(n, [&](int64_t i, int64_t count) VIDERE_LAMBDA {
    return count == kLanes ? load(x + i) : load_part(x + i, count, -__builtin_inff());
  });
}

int64_t count_greater(const float* x, float than, int64_t n) {
  VI total{};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) total -= load(x + i) > than;
  int64_t count = 0;
  for (int j = 0; j < kLanes; ++j) count += total[j];
  for (; i < n; ++i) count += x[i] > than;
  return count;
}

int64_t gumbel_argmax(const float* x, int64_t n, uint64_t key) {
  const uint32_t low = (uint32_t)key, high = (uint32_t)(key >> 32);
  VU lane;
  for (int j = 0; j < kLanes; ++j) lane[j] = (uint32_t)j;
  return argmax_of(n, [&](int64_t i, int64_t count) VIDERE_LAMBDA {
    VU h = (lane + (uint32_t)i) * 0x9e3779b1u + low;
    h = (h ^ (h >> 16)) * 0x21f0aaadu;
    h = (h ^ (h >> 15)) * 0xd35a2d97u;
    h = (h ^ (h >> 15) ^ high) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h ^= h >> 16;
    // e = -log(1 - u), fine-grained near 0, where unlikely tokens win.
    VF u = (__builtin_convertvector(h, VF) + 0.5f) * 0x1p-32f;
    u = min(u, splat(1 - 0x1p-24f));
    const VF rest = 1.0f - u, taken = 1.0f - rest;
    const VF e = taken > 0.0f ? -vlog(rest) * (u / taken) : u;
    const VF v = count == kLanes ? load(x + i) : load_part(x + i, count, -__builtin_inff());
    return v - vlog(e);
  });
}

// --- Products ---

template <int kRows, int kVectors>
VIDERE_INLINE void gemm_tile(int64_t k, const float* a, int64_t a_row, int64_t a_col,
                             const float* b, int64_t b_row, float* c, int64_t c_row,
                             bool accumulate) {
  VF acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      acc[r][v] = accumulate ? load(c + r * c_row + v * kLanes) : VF{};
    }
  }
  for (int64_t i = 0; i < k; ++i) {
    VF right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + i * b_row + v * kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      const VF left = splat(a[r * a_row + i * a_col]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) acc[r][v] += left * right[v];
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) store(c + r * c_row + v * kLanes, acc[r][v]);
  }
}

template <int kValue>
struct Int {
  static constexpr int value = kValue;
};

template <int kVectors>
VIDERE_INLINE void gemm_strip(int64_t m, int64_t k, const float* a, int64_t a_row, int64_t a_col,
                              const float* b, int64_t b_row, float* c, int64_t c_row,
                              bool accumulate) {
  int64_t i = 0;
  for (; i + kTileRows <= m; i += kTileRows) {
    gemm_tile<kTileRows, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row, c + i * c_row, c_row,
                                   accumulate);
  }
  const auto rest = [&](auto rows) VIDERE_LAMBDA {
    gemm_tile<decltype(rows)::value, kVectors>(k, a + i * a_row, a_row, a_col, b, b_row,
                                               c + i * c_row, c_row, accumulate);
    i += decltype(rows)::value;
  };
  if constexpr (kTileRows > 8) {
    if (m - i >= 8) rest(Int<8>());
  }
  switch (m - i) {
    case 7:
      rest(Int<4>());
      [[fallthrough]];
    case 3:
      rest(Int<3>());
      break;
    case 6:
      rest(Int<3>());
      rest(Int<3>());
      break;
    case 5:
      rest(Int<5>());
      break;
    case 4:
      rest(Int<4>());
      break;
    case 2:
      rest(Int<2>());
      break;
    case 1:
      rest(Int<1>());
      break;
    default:
      break;
  }
}

void gemm(int64_t m, int64_t n, int64_t k, const float* a, int64_t a_row, int64_t a_col,
          const float* b, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
  int64_t j = 0;
  for (; j + 2 * kLanes <= n; j += 2 * kLanes) {
    gemm_strip<2>(m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, accumulate);
  }
  for (; j < n; j += kLanes) {
    gemm_strip<1>(m, k, a, a_row, a_col, b + j, b_row, c + j, c_row, accumulate);
  }
}

#if defined(__AVX512F__)
void transpose(void* dst, int64_t dst_row, const void* src, int64_t src_row, int64_t rows,
               int64_t columns);  // kernels_avx512.cc
#else
void transpose(void* dst, int64_t dst_row, const void* src, int64_t src_row, int64_t rows,
               int64_t columns) {
  const char* from = (const char*)src;
  char* to = (char*)dst;
  constexpr int64_t kBlock = 16;  // source lines at a time: each is read whole
  for (int64_t r0 = 0; r0 < rows; r0 += kBlock) {
    const int64_t r1 = r0 + kBlock < rows ? r0 + kBlock : rows;
    for (int64_t c = 0; c < columns; ++c) {
      for (int64_t r = r0; r < r1; ++r) {
        __builtin_memcpy(to + 4 * (c * dst_row + r), from + 4 * (r * src_row + c), 4);
      }
    }
  }
}
#endif

void dequantize(float* dst, const void* row, const uint8_t* scales, RowFormat format, int64_t k0,
                int64_t n) {
  const char* bytes = (const char*)row;
  switch (format) {
    case RowFormat::kF32:
      return widen(dst, bytes + 4 * k0, DType::kF32, n);
    case RowFormat::kBF16:
      return widen(dst, bytes + 2 * k0, DType::kBF16, n);
    case RowFormat::kF16:
      return widen(dst, bytes + 2 * k0, DType::kF16, n);
    case RowFormat::kE4M3:
      return widen(dst, bytes + k0, DType::kF8E4M3, n);
    case RowFormat::kNvfp4: {
      // Twice the magnitude of each code, signed.
      static constexpr int8_t kDoubled[16] = {0, 1,  2,  3,  4,  6,  8,  12,
                                              0, -1, -2, -3, -4, -6, -8, -12};
      for (int64_t k = 0; k < n; k += 16) {
        const float half_scale = 0.5f * e4m3_scalar(scales[(k0 + k) / 16]);
        const uint8_t* codes = (const uint8_t*)row + (k0 + k) / 2;
        const int64_t count = n - k < 16 ? n - k : 16;
        for (int64_t i = 0; i < count; ++i) {
          const uint8_t code = (i & 1) ? codes[i / 2] >> 4 : codes[i / 2] & 15;
          dst[k + i] = (float)kDoubled[code] * half_scale;
        }
      }
      return;
    }
  }
}

// kM rows of x against kN rows of the weight over at most kDotBytes of x: kM + kN loads for kM * kN
// products, which the nearest cache feeds.
template <bool kBf16Weight, int kM, int kN>
VIDERE_INLINE void dot_tile(const DotTask<float>& task, int64_t i, int64_t j, int64_t k0,
                            int64_t k) {
  constexpr int64_t kSize = kBf16Weight ? 2 : 4;
  const float* x = task.x + i * task.x_row + k0;
  const char* weight = task.weight + j * task.weight_row + k0 * kSize;
  VF acc[kM][kN] = {};
  const auto step = [&](const VF(&w)[kN], auto get, int64_t at) VIDERE_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < kM; ++r) {
      const VF v = get(x + r * task.x_row + at);
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) acc[r][c] += v * w[c];
    }
  };
  int64_t at = 0;
  for (; at + kLanes <= k; at += kLanes) {
    VF w[kN];
#pragma GCC unroll 8
    for (int c = 0; c < kN; ++c) {
      const char* p = weight + c * task.weight_row + at * kSize;
      w[c] = kBf16Weight ? load_bf16(p) : load((const float*)p);
    }
    step(w, [](const float* p) VIDERE_LAMBDA { return load(p); }, at);
  }
  if (at < k) {
    const int64_t rest = k - at;
    VF w[kN];
    for (int c = 0; c < kN; ++c) {
      float values[kLanes] = {};
      widen(values, weight + c * task.weight_row + at * kSize,
            kBf16Weight ? DType::kBF16 : DType::kF32, rest);
      w[c] = load(values);
    }
    step(w, [&](const float* p) VIDERE_LAMBDA { return load_part(p, rest); }, at);
  }
  const bool accumulate = task.accumulate || k0 > 0;
#pragma GCC unroll 8
  for (int r = 0; r < kM; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kN; ++c) {
      float& out = task.out[(i + r) * task.out_row + j + c];
      out = accumulate ? out + sum(acc[r][c]) : sum(acc[r][c]);
    }
  }
}

// All rows of x against kN columns, in tiles of up to kDotTileRows.
template <bool kBf16Weight, int kN>
void dot_columns(const DotTask<float>& task, int64_t j) {
  constexpr int64_t kPart = kDotBytes / 4;
  for (int64_t k0 = 0; k0 < task.k; k0 += kPart) {
    const int64_t k = task.k - k0 < kPart ? task.k - k0 : kPart;
    for (int64_t i = 0; i < task.m; i += kDotTileRows) {
      const int64_t left = task.m - i;
      if (left >= kDotTileRows) {
        dot_tile<kBf16Weight, kDotTileRows, kN>(task, i, j, k0, k);
      } else if (left == 1) {
        dot_tile<kBf16Weight, 1, kN>(task, i, j, k0, k);
      } else if (left == 2) {
        dot_tile<kBf16Weight, 2, kN>(task, i, j, k0, k);
      } else if (left == 3) {
        dot_tile<kBf16Weight, 3, kN>(task, i, j, k0, k);
      } else if (left == 4) {
        dot_tile<kBf16Weight, 4, kN>(task, i, j, k0, k);
      } else {
        dot_tile<kBf16Weight, 5, kN>(task, i, j, k0, k);
      }
    }
  }
}

template <bool kBf16Weight>
void dot_format(const DotTask<float>& task) {
  int64_t j = 0;
  for (; j + kDotColumns <= task.n; j += kDotColumns) {
    dot_columns<kBf16Weight, kDotColumns>(task, j);
  }
  for (; j < task.n; ++j) dot_columns<kBf16Weight, 1>(task, j);
}

void dot(const DotTask<float>& task) {
  if (task.format == RowFormat::kBF16) {
    dot_format<true>(task);
  } else {
    dot_format<false>(task);
  }
}

// --- Scan ---

void ssm_token(float* y, float* state, const float* x, const float* b, const float* c, float decay,
               float dt, float d, int64_t head_dim, int64_t n_state) {
  for (int64_t p = 0; p < head_dim; ++p) {
    float* row = state + p * n_state;
    const float input = dt * x[p];
    VF total{};
    VIDERE_FOR_ROW(n_state, const VF s = decay * get(row) + input * get(b); put(row, s);
                   total += s * get(c);)
    y[p] = sum(total) + d * x[p];
  }
}

void ssm_decay(float* out, const float* g, const float* a, const float* a_low, const float* dt,
               int64_t n, int64_t row) {
  for (int64_t j = 0; j < n; ++j) {
    float* to = out + j * row;
    const float* from = g + j * row;
    for (int64_t i = 0; i < j; ++i) to[i] = 0;
    const float high = a[j], low = a_low[j], dtj = dt[j];
    int64_t i = j;
    for (; i + kLanes <= n; i += kLanes) {
      const VF difference = (load(a + i) - high) + (load(a_low + i) - low);
      store(to + i, load(from + i) * vexp(difference) * dtj);
    }
    if (i < n) {
      const VF difference =
          (load_part(a + i, n - i, high) - high) + (load_part(a_low + i, n - i, low) - low);
      store_part(to + i, load_part(from + i, n - i) * vexp(difference) * dtj, n - i);
    }
    for (i = n; i < row; ++i) to[i] = 0;
  }
}

constexpr Kernels make_kernels(const char* isa) {
  Kernels kernels{};
  kernels.isa = isa;
  kernels.widen = widen;
  kernels.narrow = narrow;
  kernels.rms_norm = rms_norm;
  kernels.layer_norm = layer_norm;
  kernels.gated = gated;
  kernels.add = add;
  kernels.multiply = multiply;
  kernels.scale = scale;
  kernels.relu2 = relu2;
  kernels.gelu = gelu;
  kernels.silu = silu;
  kernels.fma = fma;
  kernels.inner = inner;
  kernels.softmax_block = softmax_block;
  kernels.exp_sum = exp_sum;
  kernels.argmax = argmax;
  kernels.count_greater = count_greater;
  kernels.gumbel_argmax = gumbel_argmax;
  kernels.gemm = gemm;
  kernels.transpose = transpose;
  kernels.dequantize = dequantize;
  kernels.dot = dot;
  kernels.dot_tile_rows = kDotTileRows;
  kernels.ssm_token = ssm_token;
  kernels.ssm_decay = ssm_decay;
  return kernels;
}

}  // namespace
}  // namespace videre::cpu
