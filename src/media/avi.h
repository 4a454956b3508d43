// Motion-JPEG in AVI, without FFmpeg: finds the video chunks by walking the `movi` lists of every
// RIFF part (OpenDML), so that a missing, broken or lying index does not matter, and goes on after
// damage by looking for the next chunk. Other codecs in AVI are kUnsupported and left to FFmpeg.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "media/frame_reader.h"

namespace videre {

struct AviChunk {
  uint64_t offset = 0;  // of the data, bytes from the file's start
  uint64_t size = 0;    // cut at the file's end
};

struct AviClip {
  ClipInfo info;
  uint32_t codec = 0;            // four characters, first one lowest
  std::vector<AviChunk> frames;  // of the first video stream, empty chunks left out
};

bool is_avi(std::span<const uint8_t> bytes);

Result<AviClip> parse_avi(std::span<const uint8_t> bytes);

/// `bytes` must outlive the reader. `exact`, if given, says whether frames equal OpenCV's.
Result<std::unique_ptr<FrameReader>> open_avi(std::span<const uint8_t> bytes,
                                              const ClipLimits& limits, bool* exact = nullptr);

}  // namespace videre
