// Vectors of float as wide as the including file's instruction set: GCC's vector extensions, so one
// text serves all. Everything sits in an unnamed namespace: files of different instruction sets
// must not share inline functions that the linker could take from the wrong one.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 about its own intrinsics
#endif
#include <immintrin.h>
#endif

namespace videre::cpu {
namespace {  // NOLINT: see above

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float VF __attribute__((vector_size(kLanes * 4)));
typedef int32_t VI __attribute__((vector_size(kLanes * 4)));
typedef uint32_t VU __attribute__((vector_size(kLanes * 4)));
typedef uint16_t VH __attribute__((vector_size(kLanes * 2)));
typedef uint8_t VB __attribute__((vector_size(kLanes)));

#define VIDERE_INLINE inline __attribute__((always_inline))

VIDERE_INLINE VF load(const float* p) {
  VF v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
VIDERE_INLINE void store(float* p, VF v) { __builtin_memcpy(p, &v, sizeof(v)); }
VIDERE_INLINE VF splat(float x) { return x - VF{}; }
VIDERE_INLINE VF max(VF a, VF b) { return a > b ? a : b; }
VIDERE_INLINE VF min(VF a, VF b) { return a < b ? a : b; }

// The first n < kLanes floats; the others are `fill`.
VIDERE_INLINE VF load_part(const float* p, int64_t n, float fill = 0) {
  float buffer[kLanes];
  for (int i = 0; i < kLanes; ++i) buffer[i] = fill;
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load(buffer);
}
VIDERE_INLINE void store_part(float* p, VF v, int64_t n) {
  float buffer[kLanes];
  store(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

// Sums by halves: the same tree at every call, so that a row's bits never depend on its neighbours.
typedef float V4 __attribute__((vector_size(16)));
VIDERE_INLINE float sum(VF v) {
#if defined(__AVX512F__)
  typedef float V8 __attribute__((vector_size(32)));
  const V8 eight = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7) +
                   __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  const V4 four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                  __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
#elif defined(__AVX2__)
  const V4 four =
      __builtin_shufflevector(v, v, 0, 1, 2, 3) + __builtin_shufflevector(v, v, 4, 5, 6, 7);
#else
  const V4 four = v;
#endif
  const V4 two = four + __builtin_shufflevector(four, four, 2, 3, 2, 3);
  return two[0] + two[1];
}
VIDERE_INLINE float max_of(VF v) {
  float buffer[kLanes];
  store(buffer, v);
  float result = buffer[0];
  for (int i = 1; i < kLanes; ++i) result = buffer[i] > result ? buffer[i] : result;
  return result;
}

// GCC 12 splits the 512-bit conversions between 16 and 32 bits in two; the intrinsics do not.
VIDERE_INLINE VU widen_bits(VH v) {
#if defined(__AVX512F__)
  return (VU)_mm512_cvtepu16_epi32((__m256i)v);
#else
  return __builtin_convertvector(v, VU);
#endif
}
VIDERE_INLINE VU widen_bytes(VB v) {
#if defined(__AVX512F__)
  return (VU)_mm512_cvtepu8_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, VU);
#endif
}
VIDERE_INLINE VH narrow_bits(VU v) {
#if defined(__AVX512F__)
  return (VH)_mm512_cvtepi32_epi16((__m512i)v);
#else
  return __builtin_convertvector(v, VH);
#endif
}

VIDERE_INLINE VF load_bf16(const void* p) {
  VH half;
  __builtin_memcpy(&half, p, sizeof(half));
  return (VF)(widen_bits(half) << 16);
}
// Nearest, ties to even; NaN stays NaN.
VIDERE_INLINE VH round_bf16(VF v) {
  const VU bits = (VU)v;
  const VU rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  const VU nan = (bits >> 16) | 0x40;
  const VU mask = (VU)((bits & 0x7fffffffu) > 0x7f800000u);
  return narrow_bits((rounded & ~mask) | (nan & mask));
}
VIDERE_INLINE void store_bf16(void* p, VF v) {
  const VH half = round_bf16(v);
  __builtin_memcpy(p, &half, sizeof(half));
}

// e^x to about 1e-7 relative; 0 below -87.3, NaN stays NaN. Cody-Waite and a polynomial of degree 6
// (Taylor's, good to 2^-27 on |r| <= ln2 / 2).
VIDERE_INLINE VF vexp(VF x) {
  const VF low = splat(-87.3f), high = splat(88.7f);
  const VI under = x < low;
  VF c = x > high ? high : x;
  c = c < low ? low : c;
  const VF magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const VF shifted = c * 1.44269504f + magic;
  const VF n = shifted - magic;
  const VF r = (c - n * 0.693359375f) - n * -2.12194440e-4f;
  VF p = splat(1.0f / 720);
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // 2^n in two factors: n may be 128.
  const VI exponent = (VI)shifted - (VI)magic;
  const VI half = exponent >> 1;
  const VF first = (VF)((half + 127) << 23), second = (VF)((exponent - half + 127) << 23);
  const VF result = p * first * second;
  return (VF)((VI)result & ~under);
}

// Natural logarithm of a positive normal number, to about 1e-7 relative: 2 atanh of the mantissa.
VIDERE_INLINE VF vlog(VF x) {
  const VI exponent = ((VI)x - 0x3f3504f3) >> 23;  // mantissa in [sqrt(1/2), sqrt(2))
  const VF f = (VF)((VI)x - (exponent << 23)) - 1.0f;
  const VF s = f / (f + 2.0f), s2 = s * s;
  VF p = splat(2.0f / 9);
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 * s + 2.0f * s;
  return __builtin_convertvector(exponent, VF) * 0.69314718f + p;
}

// erf after Abramowitz and Stegun 7.1.26: absolute error below 1.5e-7.
VIDERE_INLINE VF verf(VF x) {
  const VF sign = (VF)((VU)x & 0x80000000u);
  const VF a = (VF)((VU)x & 0x7fffffffu);
  const VF t = 1.0f / (a * 0.3275911f + 1.0f);
  VF p = splat(1.061405429f);
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const VF result = 1.0f - p * t * vexp(-(a * a));
  return (VF)((VU)result | (VU)sign);
}

VIDERE_INLINE VF vsilu(VF x) { return x / (1.0f + vexp(-x)); }

}  // namespace
}  // namespace videre::cpu
