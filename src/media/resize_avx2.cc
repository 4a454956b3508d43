// Resize with AVX2. A weight is split as high * 2^11 + low, both 16-bit, so that vpmaddwd adds two
// exact products a lane; the halves are put together at the end, all modulo 2^32. Only plain
// functions here: a template instantiated with these flags could be linked into other files.
#include <immintrin.h>

#include "media/resize_kernels.h"

namespace videre::internal {
namespace {

constexpr int kLanes = 8;       // outputs a horizontal block
constexpr int kLowBits = 11;    // of a weight in its low half
constexpr int kBlockHead = 32;  // bytes: where the taps of a block's outputs lie
constexpr int kGroup = 128;     // bytes of weights for four taps of a block

int32_t low_half(int32_t weight) { return weight & ((1 << kLowBits) - 1); }
int32_t high_half(int32_t weight) { return weight >> kLowBits; }

uint32_t pair(int32_t first, int32_t second) {
  return (static_cast<uint32_t>(first) & 0xffff) | static_cast<uint32_t>(second) << 16;
}

__m256i load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
__m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }

// (high * 2^11 + low + half) >> 22, not yet clamped.
__m256i finish(__m256i high, __m256i low) {
  const __m256i sum = _mm256_add_epi32(_mm256_slli_epi32(high, kLowBits), low);
  return _mm256_srai_epi32(_mm256_add_epi32(sum, _mm256_set1_epi32(kRoundHalf)), kWeightBits);
}

// 16 pixels of one colour out of 48 bytes: each shuffle takes what one load holds of it.
__m128i pick(const __m128i in[3], const __m128i shuffles[3]) {
  return _mm_or_si128(
      _mm_or_si128(_mm_shuffle_epi8(in[0], shuffles[0]), _mm_shuffle_epi8(in[1], shuffles[1])),
      _mm_shuffle_epi8(in[2], shuffles[2]));
}

void split(const uint8_t* rgb, int width, uint8_t* const planes[3]) {
  alignas(16) uint8_t table[3][3][16];
#pragma GCC unroll 4
  for (int c = 0; c < 3; ++c) {
    for (int part = 0; part < 3; ++part) {
      for (int i = 0; i < 16; ++i) {
        const int at = 3 * i + c - 16 * part;
        table[c][part][i] = at >= 0 && at < 16 ? static_cast<uint8_t>(at) : 0x80;
      }
    }
  }
  __m128i shuffles[3][3];
#pragma GCC unroll 4
  for (int c = 0; c < 3; ++c) {
    for (int part = 0; part < 3; ++part) shuffles[c][part] = load_128(table[c][part]);
  }
  int x = 0;
  for (; x + 16 <= width; x += 16) {
    const uint8_t* from = rgb + 3 * static_cast<size_t>(x);
    const __m128i in[3] = {load_128(from), load_128(from + 16), load_128(from + 32)};
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(planes[c] + x), pick(in, shuffles[c]));
    }
  }
  for (; x < width; ++x) {
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) planes[c][x] = rgb[3 * static_cast<size_t>(x) + c];
  }
}

// Whether four neighbouring outputs find four taps each within 16 bytes.
bool is_narrow(const ResizeAxis& axis) { return 3.0 * axis.in / axis.out + 1 + 4 <= 16; }

int block_first(const ResizeAxis& axis, int o) {
  return axis.first[o < axis.out ? o : axis.out - 1];
}

size_t horizontal_bytes(const ResizeAxis& axis) {
  const size_t blocks = (axis.out + kLanes - 1) / kLanes;
  return blocks * (kBlockHead + static_cast<size_t>(axis.taps) / 4 * kGroup);
}

// A block: 32 bytes of places (shuffle bytes, or an offset a lane for gathering), then for each
// four taps the high and low halves of weights 0 and 2, then those of 1 and 3.
void pack_horizontal(const ResizeAxis& axis, void* packed) {
  auto* to = static_cast<uint8_t*>(packed);
  for (int begin = 0; begin < axis.out; begin += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int first = block_first(axis, begin + lane);
      if (is_narrow(axis)) {
        const int base = block_first(axis, begin + lane / 4 * 4);
        for (int t = 0; t < 4; ++t) to[4 * lane + t] = static_cast<uint8_t>(first - base + t);
      } else {
        reinterpret_cast<int32_t*>(to)[lane] = first - axis.first[begin];
      }
    }
    to += kBlockHead;
    for (int t = 0; t < axis.taps; t += 4, to += kGroup) {
      auto* words = reinterpret_cast<uint32_t*>(to);
      for (int lane = 0; lane < kLanes && begin + lane < axis.out; ++lane) {
        const int32_t* w = axis.weights + static_cast<size_t>(begin + lane) * axis.taps + t;
        words[lane] = pair(high_half(w[0]), high_half(w[2]));
        words[lane + 8] = pair(low_half(w[0]), low_half(w[2]));
        words[lane + 16] = pair(high_half(w[1]), high_half(w[3]));
        words[lane + 24] = pair(low_half(w[1]), low_half(w[3]));
      }
    }
  }
}

template <bool kNarrow>
void horizontal_blocks(const ResizeAxis& axis, const uint8_t* packed,
                       const uint8_t* const planes[3], uint8_t* const out[3]) {
  const __m256i even = _mm256_set1_epi32(0x00ff00ff);
  for (int begin = 0; begin < axis.out; begin += kLanes) {
    const int base = axis.first[begin];
    const int upper = block_first(axis, begin + 4);
    const __m256i places = load(packed);
    packed += kBlockHead;
    __m256i high[3] = {}, low[3] = {};
    for (int t = 0; t < axis.taps; t += 4, packed += kGroup) {
      const __m256i high_02 = load(packed), low_02 = load(packed + 32);
      const __m256i high_13 = load(packed + 64), low_13 = load(packed + 96);
#pragma GCC unroll 4
      for (int c = 0; c < 3; ++c) {
        __m256i taps;  // four bytes a lane
        if constexpr (kNarrow) {
          const __m256i windows =
              _mm256_inserti128_si256(_mm256_castsi128_si256(load_128(planes[c] + base + t)),
                                      load_128(planes[c] + upper + t), 1);
          taps = _mm256_shuffle_epi8(windows, places);
        } else {
          taps =
              _mm256_i32gather_epi32(reinterpret_cast<const int*>(planes[c] + base + t), places, 1);
        }
        const __m256i taps_02 = _mm256_and_si256(taps, even);
        const __m256i taps_13 = _mm256_srli_epi16(taps, 8);
        high[c] = _mm256_add_epi32(high[c], _mm256_add_epi32(_mm256_madd_epi16(taps_02, high_02),
                                                             _mm256_madd_epi16(taps_13, high_13)));
        low[c] = _mm256_add_epi32(low[c], _mm256_add_epi32(_mm256_madd_epi16(taps_02, low_02),
                                                           _mm256_madd_epi16(taps_13, low_13)));
      }
    }
#pragma GCC unroll 4
    for (int c = 0; c < 3; ++c) {
      const __m256i sums = finish(high[c], low[c]);
      const __m128i words =
          _mm_packs_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(out[c] + begin), _mm_packus_epi16(words, words));
    }
  }
}

void horizontal(const ResizeAxis& axis, const void* packed, const uint8_t* const planes[3],
                uint8_t* const out[3]) {
  const auto* blocks = static_cast<const uint8_t*>(packed);
  if (is_narrow(axis)) {
    horizontal_blocks<true>(axis, blocks, planes, out);
  } else {
    horizontal_blocks<false>(axis, blocks, planes, out);
  }
}

size_t vertical_bytes(const ResizeAxis& axis) {
  return static_cast<size_t>(axis.out) * axis.taps * sizeof(uint32_t);
}

// For each two taps their high halves, then their low ones.
void pack_vertical(const ResizeAxis& axis, void* packed) {
  auto* to = static_cast<uint32_t*>(packed);
  const size_t count = static_cast<size_t>(axis.out) * axis.taps;
  for (size_t i = 0; i < count; i += 2, to += 2) {
    const int32_t* w = axis.weights + i;
    to[0] = pair(high_half(w[0]), high_half(w[1]));
    to[1] = pair(low_half(w[0]), low_half(w[1]));
  }
}

// 32 columns at a time, two rows interleaved to 16-bit pairs.
void vertical(const ResizeAxis& axis, const void* packed, int o, const uint8_t* const* rows,
              int count, uint8_t* out) {
  const auto* weights = static_cast<const uint32_t*>(packed) + static_cast<size_t>(o) * axis.taps;
  const __m256i zero = _mm256_setzero_si256();
  for (int x = 0; x < count; x += 32) {
    __m256i high[4] = {}, low[4] = {};
    for (int t = 0; t < axis.taps; t += 2) {
      const __m256i weight_high = _mm256_set1_epi32(static_cast<int>(weights[t]));
      const __m256i weight_low = _mm256_set1_epi32(static_cast<int>(weights[t + 1]));
      const __m256i a = load(rows[t] + x), b = load(rows[t + 1] + x);
      const __m256i ab_low = _mm256_unpacklo_epi8(a, b), ab_high = _mm256_unpackhi_epi8(a, b);
      const __m256i pairs[4] = {
          _mm256_unpacklo_epi8(ab_low, zero), _mm256_unpackhi_epi8(ab_low, zero),
          _mm256_unpacklo_epi8(ab_high, zero), _mm256_unpackhi_epi8(ab_high, zero)};
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        // The interleaving puts a and b into neighbouring bytes, so that widening gives (a, b).
        high[i] = _mm256_add_epi32(high[i], _mm256_madd_epi16(pairs[i], weight_high));
        low[i] = _mm256_add_epi32(low[i], _mm256_madd_epi16(pairs[i], weight_low));
      }
    }
    const __m256i words_low = _mm256_packs_epi32(finish(high[0], low[0]), finish(high[1], low[1]));
    const __m256i words_high = _mm256_packs_epi32(finish(high[2], low[2]), finish(high[3], low[3]));
    const __m256i bytes = _mm256_packus_epi16(words_low, words_high);
    if (count - x >= 32) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), bytes);
    } else {
      alignas(32) uint8_t tail[32];
      _mm256_store_si256(reinterpret_cast<__m256i*>(tail), bytes);
      __builtin_memcpy(out + x, tail, count - x);
    }
  }
}

}  // namespace

const ResizeKernels kAvx2Resize = {"avx2",     split,          horizontal_bytes, pack_horizontal,
                                   horizontal, vertical_bytes, pack_vertical,    vertical};

}  // namespace videre::internal
