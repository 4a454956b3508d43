// Picture files to 8-bit RGB: JPEG, PNG, WebP, GIF, BMP, TIFF, PPM, told apart by content. Pixels
// are those of Pillow's decoders; EXIF orientation is applied, transparency is composited, colour
// profiles are ignored. Size limits hold before anything is allocated. Clips are video.h's, sizes
// and tiles are tiles.h's.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "videre/result.h"

namespace videre {

struct Image {
  int width = 0, height = 0;  // px
  std::vector<uint8_t> rgb;   // [height, width, 3]
};

struct ImageOptions {
  std::array<uint8_t, 3> rgba_background_color{255, 255, 255};
  bool exif_transpose = true;
  int64_t max_pixels = 178'956'970;  // Pillow's own limit
  int max_side_px = 65'500;
};

/// Decodes a picture of any known format; of an animation its first frame. Thread-safe.
/// Errors: kTooLarge past the limits of `options`; kInvalidArgument for anything that is not a
/// whole picture. No sentence holds text or addresses of a decoding library.
Result<Image> decode_image(std::span<const uint8_t> bytes, const ImageOptions& options);

/// A JPEG alone. A frame of Motion JPEG without Huffman tables gets the standard ones.
Result<Image> decode_jpeg(std::span<const uint8_t> bytes, const ImageOptions& options);

struct AnimationInfo {
  int width = 0, height = 0;  // px of the canvas
  int64_t num_frames = 0;
  std::vector<int> durations_ms;  // [num_frames]; 0 where the file says nothing
};

/// Whether the bytes begin like a GIF or a WebP, the formats that can move.
bool may_be_animation(std::span<const uint8_t> bytes);

/// Reads a GIF or WebP up to its last frame header without decoding pixels. A still picture is an
/// animation of one frame.
Result<AnimationInfo> read_animation_info(std::span<const uint8_t> bytes,
                                          const ImageOptions& options);

/// Calls `visit` with each composed frame in order until it returns false. The image lives for the
/// call only. An error after some frames means that the file breaks there.
Status decode_animation(std::span<const uint8_t> bytes, const ImageOptions& options,
                        const std::function<bool(int64_t frame_idx, const Image& frame)>& visit);

}  // namespace videre
