#include "media/image.h"

#include <cstring>
#include <new>
#include <string_view>

#include "media/exif.h"
#include "media/image_codecs.h"
#include "media/pixel_memory.h"

namespace videre {
namespace internal {

Error truncated_image(std::string_view format) {
  return invalid_argument(
      "",
      "failed to load image: the {} file ends before its last pixel; it was cut "
      "off on the way, send the whole file",
      format);
}

Error corrupt_image(std::string_view format) {
  return invalid_argument(
      "",
      "failed to load image: the {} file is damaged and cannot be decoded; open "
      "it in a viewer and save it again",
      format);
}

Error unsupported_image(std::string_view what) {
  return invalid_argument(
      "", "failed to load image: {} cannot be read here; convert it to PNG, JPEG or WebP", what);
}

Status check_image_size(std::string_view format, int64_t width, int64_t height,
                        const ImageOptions& options) {
  if (width < 1 || height < 1) {
    return invalid_argument(
        "", "failed to load image: the {} file says {}x{} px; a picture has at least 1x1 px",
        format, width, height);
  }
  if (width > options.max_side_px || height > options.max_side_px) {
    return make_error(ErrorCode::kTooLarge, "",
                      "failed to load image: the {} file is {}x{} px; a side may be {} px at most, "
                      "resize it",
                      format, width, height, options.max_side_px);
  }
  if (width * height > options.max_pixels) {
    return make_error(ErrorCode::kTooLarge, "",
                      "failed to load image: the {} file is {}x{} px, {} in all; at most {} are "
                      "accepted, resize it",
                      format, width, height, width * height, options.max_pixels);
  }
  return {};
}

Image make_image(int width, int height) {
  Image image;
  image.width = width;
  image.height = height;
  resize_pixels(image.rgb, static_cast<size_t>(width) * height * 3);
  return image;
}

void composite_row(const uint8_t* rgba, int width, const std::array<uint8_t, 3>& background,
                   uint8_t* out) {
  for (int x = 0; x < width; ++x) composite(rgba + 4 * x, rgba[4 * x + 3], background, out + 3 * x);
}

}  // namespace internal

namespace {

using internal::Picture;
using Bytes = std::span<const uint8_t>;

bool has_at(Bytes bytes, size_t offset, std::string_view magic) {
  return bytes.size() >= offset + magic.size() &&
         std::memcmp(bytes.data() + offset, magic.data(), magic.size()) == 0;
}

bool is_gif(Bytes bytes) { return has_at(bytes, 0, "GIF87a") || has_at(bytes, 0, "GIF89a"); }
bool is_webp(Bytes bytes) { return has_at(bytes, 0, "RIFF") && has_at(bytes, 8, "WEBP"); }
bool is_jpeg(Bytes bytes) { return has_at(bytes, 0, "\xff\xd8\xff"); }

bool is_tiff(Bytes bytes) {
  using std::string_view;
  return has_at(bytes, 0, string_view("II*\0", 4)) || has_at(bytes, 0, string_view("MM\0*", 4)) ||
         has_at(bytes, 0, string_view("II+\0", 4)) || has_at(bytes, 0, string_view("MM\0+", 4));
}

bool is_ppm(Bytes bytes) {
  return bytes.size() >= 3 && bytes[0] == 'P' && bytes[1] >= '1' && bytes[1] <= '6' &&
         (bytes[2] == '#' || (bytes[2] >= '\t' && bytes[2] <= '\r') || bytes[2] == ' ');
}

// Formats that people send and that are not decoded, by name.
const char* known_foreign_format(Bytes bytes) {
  using std::string_view;
  if (has_at(bytes, 0, string_view("\0\0\0\x0cjP  ", 8)) || has_at(bytes, 0, "\xff\x4f\xff\x51")) {
    return "a JPEG 2000 picture";
  }
  if (has_at(bytes, 0, string_view("\0\0\0\x0cJXL ", 8)) || has_at(bytes, 0, "\xff\x0a")) {
    return "a JPEG XL picture";
  }
  if (has_at(bytes, 4, "ftyp")) {
    for (const char* brand : {"avif", "avis"}) {
      if (has_at(bytes, 8, brand)) return "an AVIF picture";
    }
    for (const char* brand : {"heic", "heix", "hevc", "hevx", "heim", "heis", "mif1", "msf1"}) {
      if (has_at(bytes, 8, brand)) return "a HEIC picture";
    }
    return "a video (MP4 or a relative, where a picture is expected)";
  }
  if (has_at(bytes, 0, "%PDF")) return "a PDF document";
  if (has_at(bytes, 0, "8BPS")) return "a Photoshop file";
  if (has_at(bytes, 0, string_view("\0\0\1\0", 4))) return "an icon file";
  if (has_at(bytes, 0, "\x1a\x45\xdf\xa3")) return "a video (WebM, where a picture is expected)";
  const string_view text(reinterpret_cast<const char*>(bytes.data()),
                         std::min<size_t>(bytes.size(), 1024));
  if (text.find("<svg") != text.npos) return "an SVG drawing";
  return nullptr;
}

Result<Picture> decode_picture(Bytes bytes, const ImageOptions& options) {
  if (bytes.empty()) {
    return invalid_argument("", "failed to load image: it is empty; send the bytes of a picture");
  }
  if (is_jpeg(bytes)) return internal::decode_jpeg_picture(bytes, options);
  if (has_at(bytes, 0, "\x89PNG\r\n\x1a\n")) return internal::decode_png(bytes, options);
  if (is_webp(bytes)) return internal::decode_webp(bytes, options);
  if (is_gif(bytes)) return internal::decode_gif(bytes, options);
  if (has_at(bytes, 0, "BM")) return internal::decode_bmp(bytes, options);
  if (is_tiff(bytes)) return internal::decode_tiff(bytes, options);
  if (is_ppm(bytes)) return internal::decode_ppm(bytes, options);
  if (const char* name = known_foreign_format(bytes)) return internal::unsupported_image(name);
  return invalid_argument("",
                          "failed to load image: these {} bytes begin like no known picture; send "
                          "JPEG, PNG, WebP, GIF, BMP, TIFF or PPM",
                          bytes.size());
}

// Runs a decoder; memory that the machine refuses becomes an error of the picture.
template <typename Decode>
auto within_memory(Decode decode) -> decltype(decode()) {
  try {
    return decode();
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kTooLarge, "",
                      "failed to load image: there is not enough memory to decode it; send a "
                      "smaller one");
  }
}

Result<Image> finish(Result<Picture> picture, const ImageOptions& options) {
  if (!picture.ok()) return picture.error();
  if (options.exif_transpose) apply_orientation(picture->image, picture->orientation);
  return std::move(picture->image);
}

Error not_an_animation() {
  return invalid_argument("", "failed to load animation: the bytes are neither GIF nor WebP");
}

}  // namespace

Result<Image> decode_image(std::span<const uint8_t> bytes, const ImageOptions& options) {
  return within_memory([&] { return finish(decode_picture(bytes, options), options); });
}

Result<Image> decode_jpeg(std::span<const uint8_t> bytes, const ImageOptions& options) {
  return within_memory(
      [&] { return finish(internal::decode_jpeg_picture(bytes, options), options); });
}

bool may_be_animation(std::span<const uint8_t> bytes) { return is_gif(bytes) || is_webp(bytes); }

Result<AnimationInfo> read_animation_info(std::span<const uint8_t> bytes,
                                          const ImageOptions& options) {
  return within_memory([&]() -> Result<AnimationInfo> {
    if (is_gif(bytes)) return internal::read_gif_info(bytes, options);
    if (is_webp(bytes)) return internal::read_webp_info(bytes, options);
    return not_an_animation();
  });
}

Status decode_animation(std::span<const uint8_t> bytes, const ImageOptions& options,
                        const std::function<bool(int64_t frame_idx, const Image& frame)>& visit) {
  return within_memory([&]() -> Status {
    if (is_gif(bytes)) return internal::decode_gif_frames(bytes, options, visit);
    if (is_webp(bytes)) return internal::decode_webp_frames(bytes, options, visit);
    return not_an_animation();
  });
}

}  // namespace videre
