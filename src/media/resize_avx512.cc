// Resize with AVX-512 VBMI and VNNI. A weight is split into three signed bytes, so that vpdpbusd
// adds four exact products a lane straight from the pixels' bytes; the three sums are put together
// at the end, all modulo 2^32. Only plain functions here: a template instantiated with these flags
// could be linked into other files.
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 about its own intrinsics
#endif
#include <immintrin.h>

#include "media/resize_kernels.h"

namespace videre::internal {
namespace {

constexpr int kLanes = 16;      // outputs a horizontal block
constexpr int kBlockHead = 64;  // bytes: where the taps of a block's outputs lie
constexpr int kGroup = 192;     // bytes of weights for four taps of a block

struct Digits {  // weight = high * 65536 + middle * 256 + low
  int8_t low, middle, high;
};

Digits digits_of(int32_t weight) {
  Digits digits;
  digits.low = static_cast<int8_t>(weight);
  weight = (weight - digits.low) >> 8;
  digits.middle = static_cast<int8_t>(weight);
  digits.high = static_cast<int8_t>((weight - digits.middle) >> 8);
  return digits;
}

__m512i load(const void* p) { return _mm512_loadu_si512(p); }

__m512i finish(__m512i high, __m512i middle, __m512i low) {
  const __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(high, 8), middle);
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(upper, 8), low);
  return _mm512_srai_epi32(_mm512_add_epi32(sum, _mm512_set1_epi32(kRoundHalf)), kWeightBits);
}

// 64 pixels of each colour out of 192 bytes. Byte i of colour c lies at 3 * i + c: the first 128
// bytes are picked from two registers, what lies beyond from the third.
void split(const uint8_t* rgb, int width, uint8_t* const planes[3]) {
  alignas(64) uint8_t first[3][64], second[3][64];
  __mmask64 beyond[3];
#pragma GCC unroll 4
  for (int c = 0; c < 3; ++c) {
    beyond[c] = 0;
    for (int i = 0; i < 64; ++i) {
      const int at = 3 * i + c;
      first[c][i] = static_cast<uint8_t>(at & 127);
      second[c][i] = static_cast<uint8_t>(at & 63);
      if (at >= 128) beyond[c] |= __mmask64{1} << i;
    }
  }
  int x = 0;
  for (; x + 64 <= width; x += 64) {
    const uint8_t* from = rgb + 3 * static_cast<size_t>(x);
    const __m512i a = load(from), b = load(from + 64), d = load(from + 128);
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) {
      const __m512i near = _mm512_permutex2var_epi8(a, load(first[c]), b);
      _mm512_storeu_si512(planes[c] + x,
                          _mm512_mask_permutexvar_epi8(near, beyond[c], load(second[c]), d));
    }
  }
  for (; x < width; ++x) {
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) planes[c][x] = rgb[3 * static_cast<size_t>(x) + c];
  }
}

// How the taps of a block are fetched: from one register, from two, or by gathering.
enum class Reach { kOneRegister, kTwoRegisters, kFar };

Reach reach_of(const ResizeAxis& axis) {
  const double span = (kLanes - 1.0) * axis.in / axis.out + 1 + 4;  // bytes
  return span <= 64 ? Reach::kOneRegister : span <= 128 ? Reach::kTwoRegisters : Reach::kFar;
}

size_t horizontal_bytes(const ResizeAxis& axis) {
  const size_t blocks = (axis.out + kLanes - 1) / kLanes;
  return blocks * (kBlockHead + static_cast<size_t>(axis.taps) / 4 * kGroup);
}

// A block: 64 bytes of places (one a tap, or an offset a lane for gathering), then for each four
// taps their high, middle and low digits.
void pack_horizontal(const ResizeAxis& axis, void* packed) {
  auto* to = static_cast<uint8_t*>(packed);
  const bool far = reach_of(axis) == Reach::kFar;
  for (int begin = 0; begin < axis.out; begin += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int o = begin + lane < axis.out ? begin + lane : axis.out - 1;
      const int place = axis.first[o] - axis.first[begin];
      if (far) {
        reinterpret_cast<int32_t*>(to)[lane] = place;
      } else {
        for (int t = 0; t < 4; ++t) to[4 * lane + t] = static_cast<uint8_t>(place + t);
      }
    }
    to += kBlockHead;
    for (int t = 0; t < axis.taps; t += 4, to += kGroup) {
      for (int lane = 0; lane < kLanes && begin + lane < axis.out; ++lane) {
        const int32_t* weights = axis.weights + static_cast<size_t>(begin + lane) * axis.taps + t;
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const Digits digits = digits_of(weights[i]);
          to[4 * lane + i] = static_cast<uint8_t>(digits.high);
          to[4 * lane + i + 64] = static_cast<uint8_t>(digits.middle);
          to[4 * lane + i + 128] = static_cast<uint8_t>(digits.low);
        }
      }
    }
  }
}

template <Reach kReach>
void horizontal_blocks(const ResizeAxis& axis, const uint8_t* packed,
                       const uint8_t* const planes[3], uint8_t* const out[3]) {
  for (int begin = 0; begin < axis.out; begin += kLanes) {
    const int base = axis.first[begin];
    const __m512i places = load(packed);
    packed += kBlockHead;
    __m512i high[3] = {}, middle[3] = {}, low[3] = {};
    for (int t = 0; t < axis.taps; t += 4, packed += kGroup) {
      const __m512i weight_high = load(packed), weight_middle = load(packed + 64),
                    weight_low = load(packed + 128);
#pragma GCC unroll 4
      for (int c = 0; c < 3; ++c) {
        const uint8_t* from = planes[c] + base + t;
        __m512i taps;  // four bytes a lane
        if constexpr (kReach == Reach::kOneRegister) {
          taps = _mm512_permutexvar_epi8(places, load(from));
        } else if constexpr (kReach == Reach::kTwoRegisters) {
          taps = _mm512_permutex2var_epi8(load(from), places, load(from + 64));
        } else {
          taps = _mm512_i32gather_epi32(places, from, 1);
        }
        high[c] = _mm512_dpbusd_epi32(high[c], taps, weight_high);
        middle[c] = _mm512_dpbusd_epi32(middle[c], taps, weight_middle);
        low[c] = _mm512_dpbusd_epi32(low[c], taps, weight_low);
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) {
      const __m512i sums =
          _mm512_max_epi32(finish(high[c], middle[c], low[c]), _mm512_setzero_si512());
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out[c] + begin), _mm512_cvtusepi32_epi8(sums));
    }
  }
}

void horizontal(const ResizeAxis& axis, const void* packed, const uint8_t* const planes[3],
                uint8_t* const out[3]) {
  const auto* blocks = static_cast<const uint8_t*>(packed);
  switch (reach_of(axis)) {
    case Reach::kOneRegister:
      return horizontal_blocks<Reach::kOneRegister>(axis, blocks, planes, out);
    case Reach::kTwoRegisters:
      return horizontal_blocks<Reach::kTwoRegisters>(axis, blocks, planes, out);
    case Reach::kFar:
      return horizontal_blocks<Reach::kFar>(axis, blocks, planes, out);
  }
}

size_t vertical_bytes(const ResizeAxis& axis) {
  return static_cast<size_t>(axis.out) * axis.taps / 4 * 12;
}

// For each four taps their high, middle and low digits.
void pack_vertical(const ResizeAxis& axis, void* packed) {
  auto* to = static_cast<int8_t*>(packed);
  const size_t count = static_cast<size_t>(axis.out) * axis.taps;
  for (size_t i = 0; i < count; i += 4, to += 12) {
    for (int t = 0; t < 4; ++t) {
      const Digits digits = digits_of(axis.weights[i + t]);
      to[t] = digits.high;
      to[t + 4] = digits.middle;
      to[t + 8] = digits.low;
    }
  }
}

// 64 columns at a time; two rounds of interleaving bring four rows' bytes into one lane.
template <bool kFourTaps>
void vertical_row(int taps_given, const int32_t* weights, const uint8_t* const* rows, int count,
                  uint8_t* out) {
  const int num_taps = kFourTaps ? 4 : taps_given;
  for (int x = 0; x < count; x += 64) {
    __m512i high[4] = {}, middle[4] = {}, low[4] = {};
    const int32_t* weight = weights;
    for (int t = 0; t < num_taps; t += 4, weight += 3) {
      const __m512i a = load(rows[t] + x), b = load(rows[t + 1] + x);
      const __m512i c = load(rows[t + 2] + x), d = load(rows[t + 3] + x);
      const __m512i ab_low = _mm512_unpacklo_epi8(a, b), ab_high = _mm512_unpackhi_epi8(a, b);
      const __m512i cd_low = _mm512_unpacklo_epi8(c, d), cd_high = _mm512_unpackhi_epi8(c, d);
      const __m512i taps[4] = {
          _mm512_unpacklo_epi16(ab_low, cd_low), _mm512_unpackhi_epi16(ab_low, cd_low),
          _mm512_unpacklo_epi16(ab_high, cd_high), _mm512_unpackhi_epi16(ab_high, cd_high)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        high[i] = _mm512_dpbusd_epi32(high[i], taps[i], _mm512_set1_epi32(weight[0]));
        middle[i] = _mm512_dpbusd_epi32(middle[i], taps[i], _mm512_set1_epi32(weight[1]));
        low[i] = _mm512_dpbusd_epi32(low[i], taps[i], _mm512_set1_epi32(weight[2]));
      }
    }
    __m512i sums[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) sums[i] = finish(high[i], middle[i], low[i]);
    const __m512i bytes = _mm512_packus_epi16(_mm512_packs_epi32(sums[0], sums[1]),
                                              _mm512_packs_epi32(sums[2], sums[3]));
    const int left = count - x;
    const __mmask64 mask = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
    _mm512_mask_storeu_epi8(out + x, mask, bytes);
  }
}

void vertical(const ResizeAxis& axis, const void* packed, int o, const uint8_t* const* rows,
              int count, uint8_t* out) {
  const auto* weights =
      static_cast<const int32_t*>(packed) + static_cast<size_t>(o) * axis.taps / 4 * 3;
  if (axis.taps == 4) {  // every enlargement
    vertical_row<true>(4, weights, rows, count, out);
  } else {
    vertical_row<false>(axis.taps, weights, rows, count, out);
  }
}

}  // namespace

const ResizeKernels kAvx512Resize = {"avx512",   split,          horizontal_bytes, pack_horizontal,
                                     horizontal, vertical_bytes, pack_vertical,    vertical};

}  // namespace videre::internal
