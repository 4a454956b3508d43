// Any bytes as an animated GIF or WebP: every frame has the size that was announced.
#include <cstdlib>

#include "media/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  videre::ImageOptions options;
  options.max_pixels = 1 << 14;
  const std::span<const uint8_t> bytes(data, size);
  const auto info = videre::read_animation_info(bytes, options);
  if (info.ok() && info->durations_ms.size() != static_cast<size_t>(info->num_frames)) std::abort();
  (void)videre::decode_animation(bytes, options, [&](int64_t i, const videre::Image& frame) {
    if (info.ok() && (frame.width != info->width || frame.height != info->height)) std::abort();
    if (frame.rgb.size() != size_t{3} * frame.width * frame.height) std::abort();
    return i < 8;
  });
  return 0;
}
