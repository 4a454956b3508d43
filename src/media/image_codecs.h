// What image.cc and the decoders of single formats share: size checks, error sentences,
// compositing. Private to image*.cc.
#pragma once

#include <array>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "media/image.h"

namespace videre::internal {

/// A decoded picture and the EXIF orientation still to be applied (nothing stored: 1).
struct Picture {
  Image image;
  int orientation = 1;
};

Result<Picture> decode_jpeg_picture(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_png(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_webp(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_gif(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_bmp(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_tiff(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<Picture> decode_ppm(std::span<const uint8_t> bytes, const ImageOptions& options);

using FrameVisitor = std::function<bool(int64_t frame_idx, const Image& frame)>;
Result<AnimationInfo> read_gif_info(std::span<const uint8_t> bytes, const ImageOptions& options);
Result<AnimationInfo> read_webp_info(std::span<const uint8_t> bytes, const ImageOptions& options);
Status decode_gif_frames(std::span<const uint8_t> bytes, const ImageOptions& options,
                         const FrameVisitor& visit);
Status decode_webp_frames(std::span<const uint8_t> bytes, const ImageOptions& options,
                          const FrameVisitor& visit);

/// "failed to load image: the `format` file ..." for data that ends early or makes no sense.
Error truncated_image(std::string_view format);
Error corrupt_image(std::string_view format);
/// "failed to load image: `what`; convert it to PNG, JPEG or WebP".
Error unsupported_image(std::string_view what);

/// Refuses empty pictures and those past the limits, before memory is taken for them.
Status check_image_size(std::string_view format, int64_t width, int64_t height,
                        const ImageOptions& options);

/// A black picture of a size that `check_image_size` has passed.
Image make_image(int width, int height);

/// round(a * b / 255), as Pillow computes it.
inline uint8_t scale_255(unsigned a, unsigned b) {
  const unsigned t = a * b + 128;
  return static_cast<uint8_t>(((t >> 8) + t) >> 8);
}

/// One pixel laid over the background with Pillow's rounding.
inline void composite(const uint8_t* rgb, unsigned alpha, const std::array<uint8_t, 3>& background,
                      uint8_t* out) {
  for (int c = 0; c < 3; ++c) {
    const unsigned t = background[c] * (255 - alpha) + rgb[c] * alpha + 128;
    out[c] = static_cast<uint8_t>(((t >> 8) + t) >> 8);
  }
}

/// A row of R G B A bytes over the background.
void composite_row(const uint8_t* rgba, int width, const std::array<uint8_t, 3>& background,
                   uint8_t* out);

/// One CMYK pixel (0: no ink) as Pillow shows it, without a profile.
inline void cmyk_to_rgb(const uint8_t* cmyk, uint8_t* out) {
  const int white = 255 - cmyk[3];
  for (int c = 0; c < 3; ++c) {
    out[c] = static_cast<uint8_t>(white - scale_255(cmyk[c], static_cast<unsigned>(white)));
  }
}

/// What remains when a 16-bit or wider gray value becomes a byte in Pillow: no scaling, a clip.
inline uint8_t clip_255(int64_t value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

/// Palette entries R G B A; what a file leaves out is opaque black.
struct Palette {
  std::array<std::array<uint8_t, 4>, 256> entries;
  Palette() { entries.fill({0, 0, 0, 255}); }
};

}  // namespace videre::internal
