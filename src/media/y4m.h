// YUV4MPEG2 clips: a text header, then raw 8-bit planes a frame. 4:2:0 in its variants, 4:2:2,
// 4:4:4, 4:1:1 and gray; colours as yuv.h says (BT.601, limited range unless XCOLORRANGE=FULL).
// Deeper samples are kUnsupported and left to FFmpeg.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "media/frame_reader.h"

namespace videre {

bool is_y4m(std::span<const uint8_t> bytes);

/// `bytes` must outlive the reader. The frame count is what the bytes hold, rounded to whole
/// frames. `exact`, if given, says whether frames equal OpenCV's (yuv.h).
Result<std::unique_ptr<FrameReader>> open_y4m(std::span<const uint8_t> bytes,
                                              const ClipLimits& limits, bool* exact = nullptr);

}  // namespace videre
