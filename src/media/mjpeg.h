// One Motion-JPEG frame to RGB as FFmpeg, and so OpenCV, decodes it: libjpeg reads the
// coefficients, then FFmpeg's integer inverse DCT and colour conversion (yuv.h) are applied. Still
// pictures are image.h's, which follows Pillow instead; the two differ by a level here and there.
#pragma once

#include <cstdint>
#include <span>

#include "media/frame_reader.h"

namespace videre {

struct MjpegHeader {
  int width = 0, height = 0;
  bool exact = false;  // decode_mjpeg gives OpenCV's very bytes
};

/// Reads up to the frame header. Errors: no JPEG frame in these bytes.
Result<MjpegHeader> read_mjpeg_header(std::span<const uint8_t> bytes);

/// A frame without Huffman tables gets the standard ones, as AVI files expect.
Result<Image> decode_mjpeg(std::span<const uint8_t> bytes, const ClipLimits& limits);

}  // namespace videre
