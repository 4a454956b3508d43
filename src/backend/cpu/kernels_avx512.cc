// The kernels for AVX-512, and with AVX512-BF16 the bf16 products: vdpbf16ps multiplies pairs of
// bf16 and adds both to a float lane.
#include "backend/cpu/kernels_body.h"

namespace videre::cpu {
namespace {

VIDERE_INLINE __m512i load_bits(const void* p) { return _mm512_loadu_si512(p); }

// 16 x 16 transpose of 32-bit elements, rows and columns below 16 by masks.
VIDERE_INLINE void transpose_16(char* dst, int64_t dst_row, const char* src, int64_t src_row,
                                int64_t rows, int64_t columns) {
  const __mmask16 in = (__mmask16)((1u << columns) - 1), out = (__mmask16)((1u << rows) - 1);
  __m512i a[16], b[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    a[i] = i < rows ? _mm512_maskz_loadu_epi32(in, src + 4 * i * src_row) : _mm512_setzero_si512();
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) {
    b[2 * i] = _mm512_unpacklo_epi32(a[2 * i], a[2 * i + 1]);
    b[2 * i + 1] = _mm512_unpackhi_epi32(a[2 * i], a[2 * i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    a[4 * i + 0] = _mm512_unpacklo_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 1] = _mm512_unpackhi_epi64(b[4 * i], b[4 * i + 2]);
    a[4 * i + 2] = _mm512_unpacklo_epi64(b[4 * i + 1], b[4 * i + 3]);
    a[4 * i + 3] = _mm512_unpackhi_epi64(b[4 * i + 1], b[4 * i + 3]);
  }
  // a[4 g + j] holds column 4 q + j of rows 4 g .. 4 g + 3 in its quarter q.
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    b[j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    b[4 + j] = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xdd);
    b[8 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    b[12 + j] = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xdd);
  }
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    a[j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0x88);
    a[8 + j] = _mm512_shuffle_i32x4(b[j], b[8 + j], 0xdd);
    a[4 + j] = _mm512_shuffle_i32x4(b[4 + j], b[12 + j], 0x88);
    a[12 + j] = _mm512_shuffle_i32x4(b[4 + j], b[12 + j], 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) {
    if (i < columns) _mm512_mask_storeu_epi32(dst + 4 * i * dst_row, out, a[i]);
  }
}

void transpose(void* dst, int64_t dst_row, const void* src, int64_t src_row, int64_t rows,
               int64_t columns) {
  for (int64_t r = 0; r < rows; r += 16) {
    const int64_t nr = rows - r < 16 ? rows - r : 16;
    for (int64_t c = 0; c < columns; c += 16) {
      const int64_t nc = columns - c < 16 ? columns - c : 16;
      transpose_16((char*)dst + 4 * (c * dst_row + r), dst_row,
                   (const char*)src + 4 * (r * src_row + c), src_row, nr, nc);
    }
  }
}

// --- bf16 ---

// All 128 magnitudes of E4M3 as bf16, high and low bytes apart: a lookup of 7 bits ignores the
// sign.
struct E4m3Tables {
  alignas(64) uint8_t high[128];
  alignas(64) uint8_t low[128];
};
constexpr E4m3Tables make_e4m3_tables() {
  E4m3Tables tables{};
  for (int code = 0; code < 128; ++code) {
    int exponent = code >> 3, mantissa = code & 7, bits = 0;
    if (code == 127) {
      bits = 0x7fc0;
    } else if (exponent > 0) {
      bits = ((exponent + 120) << 7) | (mantissa << 4);
    } else if (mantissa > 0) {  // mantissa * 2^-9, normalised
      exponent = 121;
      while (mantissa < 8) {
        mantissa *= 2;
        --exponent;
      }
      bits = (exponent << 7) | ((mantissa & 7) << 4);
    }
    tables.high[code] = (uint8_t)(bits >> 8);
    tables.low[code] = (uint8_t)(bits & 0xff);
  }
  return tables;
}
constexpr E4m3Tables kE4m3 = make_e4m3_tables();

struct E4m3Lookup {
  __m512i high0, high1, low0, low1, order;
};
VIDERE_INLINE E4m3Lookup load_e4m3_lookup() {
  return {load_bits(kE4m3.high), load_bits(kE4m3.high + 64), load_bits(kE4m3.low),
          load_bits(kE4m3.low + 64), _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7)};
}
// 64 codes as bf16: the first 32 in `first`, the others in `second`.
VIDERE_INLINE void e4m3_to_bf16(const E4m3Lookup& lookup, __m512i codes, __m512i& first,
                                __m512i& second) {
  // So that interleaving bytes within quarters gives all of them in order.
  const __m512i spread = _mm512_permutexvar_epi64(lookup.order, codes);
  const __m512i high = _mm512_permutex2var_epi8(lookup.high0, spread, lookup.high1);
  const __m512i low = _mm512_permutex2var_epi8(lookup.low0, spread, lookup.low1);
  constexpr int kOrAnd = 0xf8;  // a | (b & c)
  const __m512i with_sign =
      _mm512_ternarylogic_epi32(high, spread, _mm512_set1_epi8((char)0x80), kOrAnd);
  first = _mm512_unpacklo_epi8(low, with_sign);
  second = _mm512_unpackhi_epi8(low, with_sign);
}

alignas(64) constexpr uint16_t kE2m1AsBf16[32] = {
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,  // 0 .5 1 1.5 2 3 4 6
    0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
    0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0,  // again: an index has 5 bits
    0x8000, 0xbf00, 0xbf80, 0xbfc0, 0xc000, 0xc040, 0xc080, 0xc0c0,
};
// 16 bytes of two codes as 32 bf16, low nibble first.
VIDERE_INLINE __m512i e2m1_to_bf16(__m128i bytes, __m512i table) {
  const __m512i wide = _mm512_cvtepu8_epi32(bytes);
  return _mm512_permutexvar_epi16(_mm512_or_si512(wide, _mm512_slli_epi32(wide, 12)), table);
}

void dequantize_bf16(uint16_t* dst, const void* row, const uint8_t* scales, RowFormat format,
                     int64_t k0, int64_t n) {
  if (format == RowFormat::kBF16) {
    __builtin_memcpy(dst, (const char*)row + 2 * k0, (size_t)n * 2);
    return;
  }
  if (format == RowFormat::kE4M3) {
    const E4m3Lookup lookup = load_e4m3_lookup();
    for (int64_t k = 0; k < n; k += 64) {
      const int64_t rest = n - k;
      const __mmask64 part = rest < 64 ? ((uint64_t)1 << rest) - 1 : ~(uint64_t)0;
      __m512i first, second;
      e4m3_to_bf16(lookup, _mm512_maskz_loadu_epi8(part, (const char*)row + k0 + k), first, second);
      _mm512_mask_storeu_epi16(dst + k, (__mmask32)part, first);
      _mm512_mask_storeu_epi16(dst + k + 32, (__mmask32)(part >> 32), second);
    }
    return;
  }
  // NVFP4: a code times its block's scale has at most 6 significant bits, exact in bf16.
  const __m512i table = load_bits(kE2m1AsBf16);
  for (int64_t k = 0; k < n; k += 32) {
    const int64_t blocks = n - k < 32 ? 1 : 2;
    const __mmask16 bytes = blocks == 1 ? (__mmask16)0xff : (__mmask16)0xffff;
    const __m512i codes =
        e2m1_to_bf16(_mm_maskz_loadu_epi8(bytes, (const char*)row + (k0 + k) / 2), table);
    const uint8_t* scale = scales + (k0 + k) / 16;
    const __m512 low = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(codes)), 16));
    const __m512 high = _mm512_castsi512_ps(
        _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(codes, 1)), 16));
    const __m512bh values =
        _mm512_cvtne2ps_pbh(_mm512_mul_ps(high, _mm512_set1_ps(e4m3_scalar(scale[blocks - 1]))),
                            _mm512_mul_ps(low, _mm512_set1_ps(e4m3_scalar(scale[0]))));
    _mm512_mask_storeu_epi16(dst + k, blocks == 1 ? 0xffffu : ~0u, (__m512i)values);
  }
}

VIDERE_INLINE __mmask32 words_before(int64_t n) {
  return n >= 32 ? ~(__mmask32)0 : n <= 0 ? 0 : ((__mmask32)1 << n) - 1;
}

// Sums of the lanes of four vectors, each by the same tree.
VIDERE_INLINE __m128 sums_of(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
  const __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
  const __m512 quarters = _mm512_add_ps((__m512)_mm512_unpacklo_pd((__m512d)ab, (__m512d)cd),
                                        (__m512)_mm512_unpackhi_pd((__m512d)ab, (__m512d)cd));
  const __m256 halves =
      _mm256_add_ps(_mm512_castps512_ps256(quarters), _mm512_extractf32x8_ps(quarters, 1));
  return _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
}

// Of each 128 columns those with k % 4 = 0, then 1, 2 and 3: where the nibbles of a weight's 16-bit
// words lie. Zeros fill up the last 128.
void spread_columns(uint16_t* dst, const uint16_t* x, int64_t n) {
  __m512i index[4];  // within two vectors, twice
  for (int v = 0; v < 4; ++v) {
    alignas(64) uint16_t from[32];
    for (int i = 0; i < 32; ++i) from[i] = (uint16_t)(4 * (i % 16) + v);
    index[v] = load_bits(from);
  }
  for (int64_t k = 0; k < n; k += 128) {
    __m512i in[4];
    for (int i = 0; i < 4; ++i) {
      in[i] = _mm512_maskz_loadu_epi16(words_before(n - k - 32 * i), x + k + 32 * i);
    }
    for (int v = 0; v < 4; ++v) {
      const __m512i low = _mm512_permutex2var_epi16(in[0], index[v], in[1]);
      const __m512i high = _mm512_permutex2var_epi16(in[2], index[v], in[3]);
      _mm512_storeu_si512(dst + k + 32 * v,
                          _mm512_inserti64x4(low, _mm512_castsi512_si256(high), 1));
    }
  }
}

// kM rows of x against kN rows of the weight over at most kDotBytes of x. A weight that is streamed
// comes from memory, kN rows at a time: `kAhead` bytes of each are fetched before their use, and
// past the rows' ends those that come next.
template <RowFormat kFormat, int kM, int kN, int64_t kAhead>
VIDERE_INLINE void bf16_dot_tile(const DotTask<uint16_t>& task, int64_t i, int64_t j, int64_t k0,
                                 int64_t k) {
  const uint16_t* x = task.x + i * task.x_row + k0;
  const char* weight = task.weight + j * task.weight_row;
  const auto fetch = [&](int64_t byte, int64_t row_bytes) VIDERE_LAMBDA {
    if constexpr (kAhead > 0) {
      byte += kAhead;
      if (byte >= row_bytes) byte += kN * task.weight_row - row_bytes;
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) {
        _mm_prefetch(weight + c * task.weight_row + byte, _MM_HINT_T0);
      }
    }
  };
  __m512 acc[kM][kN];
#pragma GCC unroll 8
  for (int r = 0; r < kM; ++r) {
#pragma GCC unroll 8
    for (int c = 0; c < kN; ++c) acc[r][c] = _mm512_setzero_ps();
  }
  const auto step = [&](const __m512i(&w)[kN], const uint16_t* from, __mmask32 part) VIDERE_LAMBDA {
#pragma GCC unroll 8
    for (int r = 0; r < kM; ++r) {
      const __m512bh v = (__m512bh)_mm512_maskz_loadu_epi16(part, from + r * task.x_row);
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) acc[r][c] = _mm512_dpbf16_ps(acc[r][c], v, (__m512bh)w[c]);
    }
  };

  if constexpr (kFormat == RowFormat::kBF16) {
    const auto steps = [&](int64_t at, __mmask32 part) VIDERE_LAMBDA {
      __m512i w[kN];
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) {
        w[c] = _mm512_maskz_loadu_epi16(part, weight + c * task.weight_row + (k0 + at) * 2);
      }
      step(w, x + at, part);
    };
    int64_t at = 0;
    for (; at + 32 <= k; at += 32) {
      fetch((k0 + at) * 2, task.k * 2);
      steps(at, ~(__mmask32)0);
    }
    if (at < k) steps(at, words_before(k - at));
  } else if constexpr (kFormat == RowFormat::kE4M3) {
    const E4m3Lookup lookup = load_e4m3_lookup();
    const auto steps = [&](int64_t at, __mmask64 part) VIDERE_LAMBDA {
      __m512i first[kN], second[kN];
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) {
        e4m3_to_bf16(lookup, _mm512_maskz_loadu_epi8(part, weight + c * task.weight_row + k0 + at),
                     first[c], second[c]);
      }
      step(first, x + at, (__mmask32)part);
      step(second, x + at + 32, (__mmask32)(part >> 32));
    };
    int64_t at = 0;
    for (; at + 64 <= k; at += 64) {
      fetch(k0 + at, task.k);
      steps(at, ~(__mmask64)0);
    }
    if (at < k) steps(at, ((__mmask64)1 << (k - at)) - 1);
  } else {
    // 64 bytes hold 128 columns; a lookup takes the low 5 bits of each word, and its table repeats.
    const __m512i table = load_bits(kE2m1AsBf16);
    // Lanes 2 b and 2 b + 1 of a vector belong to block b.
    const __m512i pairs = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    // Scales of up to 16 blocks from `at` on; 0 for those past the end.
    const auto scales_at = [&](int64_t at, __m512(&block)[kN]) VIDERE_LAMBDA {
      const int64_t count = (k - at) / 16;
      const __mmask16 part = count >= 16 ? (__mmask16)0xffff : (__mmask16)((1u << count) - 1);
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) {
        const __m128i codes =
            _mm_maskz_loadu_epi8(part, task.scales + (j + c) * task.scales_row + (k0 + at) / 16);
        block[c] = (__m512)e4m3_vector((VU)_mm512_cvtepu8_epi32(codes));
      }
    };
    const auto steps = [&](int64_t at, int half, __mmask64 part,
                           const __m512(&block)[kN]) VIDERE_LAMBDA {
      const __m512i pick = _mm512_add_epi32(pairs, _mm512_set1_epi32(8 * half));
#pragma GCC unroll 8
      for (int c = 0; c < kN; ++c) {
        const __m512i words =
            _mm512_maskz_loadu_epi8(part, weight + c * task.weight_row + (k0 + at) / 2);
        const __m512 factor = _mm512_permutexvar_ps(pick, block[c]);
        __m512i w[4];
#pragma GCC unroll 4
        for (int v = 0; v < 4; ++v) {
          w[v] = _mm512_permutexvar_epi16(v == 0 ? words : _mm512_srli_epi16(words, 4 * v), table);
        }
#pragma GCC unroll 8
        for (int r = 0; r < kM; ++r) {
          __m512 products = _mm512_setzero_ps();
#pragma GCC unroll 4
          for (int v = 0; v < 4; ++v) {
            products = _mm512_dpbf16_ps(products, (__m512bh)w[v],
                                        (__m512bh)load_bits(x + r * task.x_row + at + 32 * v));
          }
          acc[r][c] = _mm512_fmadd_ps(products, factor, acc[r][c]);
        }
      }
    };
    int64_t at = 0;
    for (; at + 256 <= k; at += 256) {
      fetch((k0 + at) / 2, task.k / 2);
      fetch((k0 + at) / 2 + 64, task.k / 2);
      __m512 block[kN];
      scales_at(at, block);
      steps(at, 0, ~(__mmask64)0, block);
      steps(at + 128, 1, ~(__mmask64)0, block);
    }
    if (at < k) {
      __m512 block[kN];
      scales_at(at, block);
      for (int half = 0; at < k; at += 128, ++half) {
        const int64_t bytes = (k - at) / 2;
        steps(at, half, bytes >= 64 ? ~(__mmask64)0 : ((__mmask64)1 << bytes) - 1, block);
      }
    }
  }

  const bool accumulate = task.accumulate || k0 > 0;
  const __m512 none = _mm512_setzero_ps();
#pragma GCC unroll 8
  for (int r = 0; r < kM; ++r) {
    const __m128 sums =
        sums_of(acc[r][0], kN > 1 ? acc[r][kN > 1 ? 1 : 0] : none,
                kN > 2 ? acc[r][kN > 2 ? 2 : 0] : none, kN > 3 ? acc[r][kN > 3 ? 3 : 0] : none);
    float* out = task.out + (i + r) * task.out_row + j;
    const __mmask8 part = (__mmask8)((1 << kN) - 1);
    const __m128 before = accumulate ? _mm_maskz_loadu_ps(part, out) : _mm_setzero_ps();
    _mm_mask_storeu_ps(out, part, _mm_add_ps(before, sums));
  }
}

constexpr int kBf16TileRows = 6;

// All rows of x against kN columns, in tiles of up to six rows.
template <RowFormat kFormat, int kN, int64_t kAhead>
void bf16_columns(const DotTask<uint16_t>& task, int64_t j) {
  constexpr int64_t kPart = kDotBytes / 2;
  if constexpr (kFormat == RowFormat::kNvfp4 && kAhead > 0) {
    // Block scales of the next rows: too short for the machine's own prefetchers to see.
    const uint8_t* next = task.scales + (j + kN) * task.scales_row;
    for (int64_t byte = 0; byte < kN * task.scales_row; byte += 64) {
      _mm_prefetch((const char*)next + byte, _MM_HINT_T0);
    }
  }
  for (int64_t k0 = 0; k0 < task.k; k0 += kPart) {
    const int64_t k = task.k - k0 < kPart ? task.k - k0 : kPart;
    for (int64_t i = 0; i < task.m; i += kBf16TileRows) {
      switch (task.m - i) {
        case 1:
          bf16_dot_tile<kFormat, 1, kN, kAhead>(task, i, j, k0, k);
          break;
        case 2:
          bf16_dot_tile<kFormat, 2, kN, kAhead>(task, i, j, k0, k);
          break;
        case 3:
          bf16_dot_tile<kFormat, 3, kN, kAhead>(task, i, j, k0, k);
          break;
        case 4:
          bf16_dot_tile<kFormat, 4, kN, kAhead>(task, i, j, k0, k);
          break;
        case 5:
          bf16_dot_tile<kFormat, 5, kN, kAhead>(task, i, j, k0, k);
          break;
        default:
          bf16_dot_tile<kFormat, kBf16TileRows, kN, kAhead>(task, i, j, k0, k);
      }
    }
  }
}

// Streams and distances that read fastest on Zen 5: one row needs one or two streams to hide the
// latency of its sums, and several rows share four.
template <RowFormat kFormat>
void bf16_format(const DotTask<uint16_t>& task) {
  constexpr int kStreams = kFormat == RowFormat::kBF16 ? 1 : kFormat == RowFormat::kE4M3 ? 2 : 4;
  constexpr int64_t kAhead = 8192 / kStreams;
  int64_t j = 0;
  if (task.m == 1) {
    for (; j + kStreams <= task.n; j += kStreams) bf16_columns<kFormat, kStreams, kAhead>(task, j);
    for (; j < task.n; ++j) bf16_columns<kFormat, 1, kAhead>(task, j);
  } else if (task.streamed) {
    for (; j + 4 <= task.n; j += 4) bf16_columns<kFormat, 4, 1024>(task, j);
    for (; j < task.n; ++j) bf16_columns<kFormat, 1, kAhead>(task, j);
  } else {
    for (; j + 4 <= task.n; j += 4) bf16_columns<kFormat, 4, 0>(task, j);
    for (; j < task.n; ++j) bf16_columns<kFormat, 1, kAhead>(task, j);
  }
}

void dot_bf16(const DotTask<uint16_t>& task) {
  if (task.format == RowFormat::kBF16) return bf16_format<RowFormat::kBF16>(task);
  if (task.format == RowFormat::kE4M3) return bf16_format<RowFormat::kE4M3>(task);
  bf16_format<RowFormat::kNvfp4>(task);
}

constexpr Kernels make_bf16_kernels() {
  Kernels kernels = make_kernels("avx512_bf16");
  kernels.dequantize_bf16 = dequantize_bf16;
  kernels.spread_columns = spread_columns;
  kernels.dot_bf16 = dot_bf16;
  kernels.dot_bf16_tile_rows = kBf16TileRows;
  return kernels;
}

}  // namespace

const Kernels& avx512_kernels() {
  static constexpr Kernels kKernels = make_kernels("avx512");
  return kKernels;
}

const Kernels& avx512_bf16_kernels() {
  static constexpr Kernels kKernels = make_bf16_kernels();
  return kKernels;
}

}  // namespace videre::cpu
