// Any bytes as Y4M or Motion-JPEG AVI, through the readers that need no FFmpeg.
#include <cstdlib>

#include "media/avi.h"
#include "media/y4m.h"

namespace {

void read(videre::FrameReader& reader) {
  for (int i = 0; i < 4; ++i) {
    const auto grabbed = reader.grab();
    if (!grabbed.ok() || !*grabbed) return;
    const auto frame = reader.retrieve();
    if (!frame.ok()) continue;
    if (frame->rgb.size() != size_t{3} * frame->width * frame->height) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const uint8_t> bytes(data, size);
  videre::ClipLimits limits;
  limits.max_frame_pixels = 1 << 14;
  limits.deadline = std::chrono::steady_clock::time_point::max();
  const auto y4m = videre::open_y4m(bytes, limits);
  if (y4m.ok()) read(**y4m);
  const auto avi = videre::open_avi(bytes, limits);
  if (avi.ok()) read(**avi);
  return 0;
}
