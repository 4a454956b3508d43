// What every clip format offers: its size, count and rate, then its frames one after another.
// The formats are y4m.h, avi.h, video_ffmpeg.h and the animations of video.cc.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

#include "media/image.h"

namespace videre {

struct ClipInfo {
  int width = 0, height = 0;  // px, as shown (after rotation)
  int64_t num_frames = 0;     // as the container says; fewer may be readable
  double fps = 0;             // 0: unknown
};

/// Bounds that hold while a clip is opened and read.
struct ClipLimits {
  int64_t max_frame_pixels = 67'000'000;
  int max_frame_side_px = 8192;
  std::chrono::steady_clock::time_point deadline;
  const std::atomic<bool>* cancel = nullptr;  // may be null

  bool cancelled() const { return cancel && cancel->load(std::memory_order_relaxed); }
  bool late() const { return std::chrono::steady_clock::now() > deadline; }
  bool allows(int64_t width, int64_t height) const {
    return width > 0 && height > 0 && width <= max_frame_side_px && height <= max_frame_side_px &&
           width * height <= max_frame_pixels;
  }
};

/// The error of a frame that `allows` refuses.
Error frame_too_large(int64_t width, int64_t height, const ClipLimits& limits);

class FrameReader {
 public:
  virtual ~FrameReader() = default;
  virtual const ClipInfo& info() const = 0;
  /// Moves on to the next frame that decodes; false at the end of what can be read.
  virtual Result<bool> grab() = 0;
  /// The grabbed frame as RGB. An error means that this frame alone is unreadable.
  virtual Result<Image> retrieve() = 0;
};

}  // namespace videre
