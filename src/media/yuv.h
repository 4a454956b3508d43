// 8-bit planar YUV to RGB with the arithmetic of FFmpeg's SIMD converters, which is what OpenCV's
// video frames go through: BT.601 coefficients whatever the size, 16-bit products cut to their
// upper half, each chroma sample repeated over its 2x2 (4:2:0) or 2x1 (4:2:2) pixels. 4:2:0 of
// even height, 4:2:2 and gray equal OpenCV's to the bit. Other layouts pass through a chroma filter
// there; here the nearest sample is taken, which shows at sharp coloured edges.
#pragma once

#include <cstdint>

#include "media/image.h"

namespace videre {

struct YuvFrame {
  const uint8_t* planes[3] = {};  // Y, U, V; U and V null for gray
  int64_t strides[3] = {};        // bytes
  int width = 0, height = 0;      // px
  int chroma_shift_x = 1;         // log2 of luma samples a chroma sample covers
  int chroma_shift_y = 1;
  bool full_range = false;  // 0..255 (JPEG); otherwise luma 16..235, chroma 16..240
};

/// Whether yuv_to_rgb gives OpenCV's very bytes for this layout.
bool yuv_is_exact(const YuvFrame& frame);

Image yuv_to_rgb(const YuvFrame& frame);

}  // namespace videre
