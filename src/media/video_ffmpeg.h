// Clips through FFmpeg's libraries (H.264, HEVC, VP8/9, AV1, MPEG-4, …), opened at run time so that
// the program needs none of them to start. Only the major versions that the program was compiled
// against are taken. Nothing but the given bytes is read: no files, no network, no playlists.
#pragma once

#include <cstdint>
#include <memory>
#include <span>

#include "media/frame_reader.h"

namespace videre {

/// `bytes` and what `limits` points to must outlive the reader. Size, count, rate, order and pixels
/// are those of OpenCV's VideoCapture on the same bytes. Errors: kUnsupported without FFmpeg.
Result<std::unique_ptr<FrameReader>> open_ffmpeg(std::span<const uint8_t> bytes,
                                                 const ClipLimits& limits);

}  // namespace videre
