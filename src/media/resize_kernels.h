// The loops of resize.cc, one set for each instruction set, all with the same bits. Private to
// resize*.cc and their test. Rows are planar: one byte a pixel, R, G and B apart.
//
// Every buffer that a kernel reads or writes may be touched up to `kRowPadding` bytes past its end,
// `vertical`'s output excepted.
#pragma once

#include <cstddef>
#include <cstdint>

#include "media/image.h"

namespace videre::internal {

constexpr int kRowPadding = 256;  // bytes; plus the taps of the horizontal axis

/// Weights of one axis: output o is the sum over t of weights[o * taps + t] * in[first[o] + t].
struct ResizeAxis {
  int in = 0, out = 0;               // px
  int taps = 0;                      // a multiple of 4; short sums are filled up with zeros
  const int32_t* first = nullptr;    // [out], ascending
  const int32_t* weights = nullptr;  // [out, taps], 22 fraction bits
};

constexpr int kWeightBits = 22;
constexpr int32_t kRoundHalf = 1 << (kWeightBits - 1);

struct ResizeKernels {
  const char* name;
  void (*split)(const uint8_t* rgb, int width, uint8_t* const planes[3]);

  /// A kernel's own form of an axis: bytes needed, and the packing. The memory is zeroed and
  /// 64-byte aligned.
  size_t (*horizontal_bytes)(const ResizeAxis& axis);
  void (*pack_horizontal)(const ResizeAxis& axis, void* packed);
  void (*horizontal)(const ResizeAxis& axis, const void* packed, const uint8_t* const planes[3],
                     uint8_t* const out[3]);

  size_t (*vertical_bytes)(const ResizeAxis& axis);
  void (*pack_vertical)(const ResizeAxis& axis, void* packed);
  /// Output row `o`: out[x] from rows[t][x] of axis.taps rows, for x below `count`.
  void (*vertical)(const ResizeAxis& axis, const void* packed, int o, const uint8_t* const* rows,
                   int count, uint8_t* out);
};

extern const ResizeKernels kPlainResize;
extern const ResizeKernels kAvx2Resize;    // AVX2
extern const ResizeKernels kAvx512Resize;  // AVX-512 with VBMI and VNNI

/// The sets that this machine runs, plain first, fastest last; ends with null.
const ResizeKernels* const* resize_kernels();

/// resize.h's functions on a chosen set. Tiles need not be square:
/// out [rows, columns, 3, tile_height, tile_width].
void resize_planar(const Image& image, int columns, int rows, int tile_width, int tile_height,
                   const ResizeKernels& kernels, uint8_t* out);
Image resize_bicubic(const Image& image, int width, int height, const ResizeKernels& kernels);

}  // namespace videre::internal
