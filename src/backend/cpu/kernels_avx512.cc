// The kernels for AVX-512, and with AVX512-BF16 the bf16 products: vdpbf16ps multiplies pairs of
// bf16 and adds both to a float lane.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // GCC 12 about its own intrinsics
#include <immintrin.h>

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

// 32 E4M3 codes as bf16: normal codes by shifting exponent and mantissa into place, the eight
// subnormals by a table.
VIDERE_INLINE __m512i e4m3_to_bf16(__m256i codes) {
  alignas(64) static constexpr uint16_t kSubnormals[32] = {
      0, 0x3b00, 0x3b80, 0x3bc0, 0x3c00, 0x3c20, 0x3c40, 0x3c60,  // m * 2^-9
  };
  const __m512i wide = _mm512_cvtepu8_epi16(codes);
  const __m512i magnitude = _mm512_and_si512(wide, _mm512_set1_epi16(0x7f));
  const __m512i sign = _mm512_slli_epi16(_mm512_and_si512(wide, _mm512_set1_epi16(0x80)), 8);
  const __m512i normal =
      _mm512_add_epi16(_mm512_slli_epi16(magnitude, 4), _mm512_set1_epi16(0x3c00));
  const __mmask32 small = _mm512_testn_epi16_mask(wide, _mm512_set1_epi16(0x78));
  const __mmask32 nan = _mm512_cmpeq_epi16_mask(magnitude, _mm512_set1_epi16(0x7f));
  __m512i value = _mm512_mask_permutexvar_epi16(normal, small, magnitude, load_bits(kSubnormals));
  value = _mm512_mask_mov_epi16(value, nan, _mm512_set1_epi16(0x7fc0));
  return _mm512_or_si512(value, sign);
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
    for (int64_t k = 0; k < n; k += 32) {
      const __mmask32 part = n - k < 32 ? (1u << (n - k)) - 1 : ~0u;
      const __m256i codes = _mm256_maskz_loadu_epi8(part, (const char*)row + k0 + k);
      _mm512_mask_storeu_epi16(dst + k, part, e4m3_to_bf16(codes));
    }
    return;
  }
  // NVFP4: code times block scale has at most 6 significant bits, exact in bf16.
  for (int64_t k = 0; k < n; k += 16) {
    const int64_t count = n - k < 16 ? n - k : 16;
    float values[16];
    dequantize(values, row, scales, RowFormat::kNvfp4, k0 + k, count);
    for (int64_t i = 0; i < count; ++i) dst[k + i] = (uint16_t)(float_to_bits(values[i]) >> 16);
  }
}

template <int kRows>
VIDERE_INLINE void bf16_tile(int64_t pairs, const uint16_t* x, int64_t x_row, const uint32_t* panel,
                             float* c) {
  __m512 acc[kRows][2];
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) acc[r][0] = acc[r][1] = _mm512_setzero_ps();
  for (int64_t i = 0; i < pairs; ++i) {
    const __m512bh b0 = (__m512bh)load_bits(panel + i * kPanelColumns);
    const __m512bh b1 = (__m512bh)load_bits(panel + i * kPanelColumns + 16);
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      __builtin_memcpy(&pair, x + r * x_row + 2 * i, 4);
      const __m512bh a = (__m512bh)_mm512_set1_epi32(pair);
      acc[r][0] = _mm512_dpbf16_ps(acc[r][0], a, b0);
      acc[r][1] = _mm512_dpbf16_ps(acc[r][1], a, b1);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kRows; ++r) {
    _mm512_storeu_ps(c + r * kPanelColumns, acc[r][0]);
    _mm512_storeu_ps(c + r * kPanelColumns + 16, acc[r][1]);
  }
}

void gemm_bf16(int64_t m, int64_t pairs, const uint16_t* x, int64_t x_row, const uint32_t* panel,
               float* c) {
  int64_t i = 0;
  for (; i + 12 <= m; i += 12) {
    bf16_tile<12>(pairs, x + i * x_row, x_row, panel, c + i * kPanelColumns);
  }
  for (; i + 4 <= m; i += 4) {
    bf16_tile<4>(pairs, x + i * x_row, x_row, panel, c + i * kPanelColumns);
  }
  for (; i < m; ++i) bf16_tile<1>(pairs, x + i * x_row, x_row, panel, c + i * kPanelColumns);
}

// kRows weight rows times kM inputs, lanes along K. Bound by reading the weight: 4 rows make 4
// streams for the prefetchers and enough independent sums.
template <RowFormat kFormat, int kRows, int kM>
VIDERE_INLINE void gemv_tile(float* out, int64_t out_row, const char* weight, int64_t row_bytes,
                             const uint8_t* scales, int64_t scale_row_bytes, const uint16_t* x,
                             int64_t x_row, int64_t k) {
  __m512 acc[kRows][kM];
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) acc[r][m] = _mm512_setzero_ps();
  }
  const __m512i table = load_bits(kE2m1AsBf16);
  // 256 elements share a load of block scales in NVFP4.
  constexpr int64_t kStride = kFormat == RowFormat::kNvfp4 ? 256 : 32;
  for (int64_t k0 = 0; k0 < k; k0 += kStride) {
    __m512 block[kRows];
    if constexpr (kFormat == RowFormat::kNvfp4) {
      const int64_t left = (k - k0) / 16;
      const __mmask16 part = left < 16 ? (__mmask16)((1u << left) - 1) : (__mmask16)0xffff;
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const __m128i codes = _mm_maskz_loadu_epi8(part, scales + r * scale_row_bytes + k0 / 16);
        block[r] = (__m512)e4m3_vector((VU)_mm512_cvtepu8_epi32(codes));
      }
    }
    for (int64_t i = k0, step = 0; i < k0 + kStride && i < k; i += 32, ++step) {
      const __mmask32 part = k - i < 32 ? (1u << (k - i)) - 1 : ~0u;
      __m512bh input[kM];
#pragma GCC unroll 4
      for (int m = 0; m < kM; ++m) {
        input[m] = (__m512bh)_mm512_maskz_loadu_epi16(part, x + m * x_row + i);
      }
#pragma GCC unroll 4
      for (int r = 0; r < kRows; ++r) {
        const char* row = weight + r * row_bytes;
        __m512i w;
        if constexpr (kFormat == RowFormat::kBF16) {
          w = _mm512_maskz_loadu_epi16(part, row + 2 * i);
          _mm_prefetch(row + 2 * i + 1024, _MM_HINT_T0);
        } else if constexpr (kFormat == RowFormat::kE4M3) {
          w = e4m3_to_bf16(_mm256_maskz_loadu_epi8(part, row + i));
          _mm_prefetch(row + i + 1024, _MM_HINT_T0);
        } else {
          const __mmask16 bytes = k - i < 32 ? (__mmask16)0xff : (__mmask16)0xffff;
          w = e2m1_to_bf16(_mm_maskz_loadu_epi8(bytes, row + i / 2), table);
          _mm_prefetch(row + i / 2 + 1024, _MM_HINT_T0);
        }
        if constexpr (kFormat == RowFormat::kNvfp4) {
          // Lanes 0-7 belong to one block of 16, lanes 8-15 to the next.
          const __m512i pick =
              _mm512_add_epi32(_mm512_set1_epi32((int)(2 * step)),
                               _mm512_set_epi32(1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0));
          const __m512 factor = _mm512_permutexvar_ps(pick, block[r]);
#pragma GCC unroll 4
          for (int m = 0; m < kM; ++m) {
            const __m512 products = _mm512_dpbf16_ps(_mm512_setzero_ps(), (__m512bh)w, input[m]);
            acc[r][m] = _mm512_fmadd_ps(products, factor, acc[r][m]);
          }
        } else {
#pragma GCC unroll 4
          for (int m = 0; m < kM; ++m) {
            acc[r][m] = _mm512_dpbf16_ps(acc[r][m], (__m512bh)w, input[m]);
          }
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
    for (int m = 0; m < kM; ++m) out[m * out_row + r] = sum((VF)acc[r][m]);
  }
}

template <RowFormat kFormat, int kM>
VIDERE_INLINE void gemv_rows(float* out, int64_t out_row, const char* weight, int64_t row_bytes,
                             const uint8_t* scales, int64_t scale_row_bytes, int64_t rows,
                             const uint16_t* x, int64_t x_row, int64_t k) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    gemv_tile<kFormat, 4, kM>(out + r, out_row, weight + r * row_bytes, row_bytes,
                              scales + r * scale_row_bytes, scale_row_bytes, x, x_row, k);
  }
  for (; r < rows; ++r) {
    gemv_tile<kFormat, 1, kM>(out + r, out_row, weight + r * row_bytes, row_bytes,
                              scales + r * scale_row_bytes, scale_row_bytes, x, x_row, k);
  }
}

template <RowFormat kFormat>
void gemv_format(float* out, int64_t out_row, const char* weight, int64_t row_bytes,
                 const uint8_t* scales, int64_t scale_row_bytes, int64_t rows, const uint16_t* x,
                 int64_t x_row, int64_t m, int64_t k) {
  // Four rows at a time go through all inputs, so that the weight comes from memory once.
  for (int64_t r = 0; r < rows; r += 4) {
    const int64_t count = rows - r < 4 ? rows - r : 4;
    const char* w = weight + r * row_bytes;
    const uint8_t* s = scales + r * scale_row_bytes;
    int64_t i = 0;
    for (; i + 4 <= m; i += 4) {
      gemv_rows<kFormat, 4>(out + i * out_row + r, out_row, w, row_bytes, s, scale_row_bytes, count,
                            x + i * x_row, x_row, k);
    }
    for (; i < m; ++i) {
      gemv_rows<kFormat, 1>(out + i * out_row + r, out_row, w, row_bytes, s, scale_row_bytes, count,
                            x + i * x_row, x_row, k);
    }
  }
}

void gemv_bf16(float* out, int64_t out_row, const void* weight, int64_t row_bytes,
               const uint8_t* scales, int64_t scale_row_bytes, RowFormat format, int64_t rows,
               const uint16_t* x, int64_t x_row, int64_t m, int64_t k) {
  const auto call = [&](auto kernel) {
    kernel(out, out_row, (const char*)weight, row_bytes, scales, scale_row_bytes, rows, x, x_row, m,
           k);
  };
  if (format == RowFormat::kBF16) return call(gemv_format<RowFormat::kBF16>);
  if (format == RowFormat::kE4M3) return call(gemv_format<RowFormat::kE4M3>);
  call(gemv_format<RowFormat::kNvfp4>);
}

constexpr Kernels make_bf16_kernels() {
  Kernels kernels = make_kernels("avx512_bf16");
  kernels.dequantize_bf16 = dequantize_bf16;
  kernels.gemm_bf16 = gemm_bf16;
  kernels.gemv_bf16 = gemv_bf16;
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
