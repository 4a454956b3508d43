// PBM, PGM and PPM by hand, plain (P1 to P3) and binary (P4 to P6), up to 16 bits a sample.
#include <cmath>
#include <cstring>

#include "media/image_codecs.h"

namespace videre::internal {
namespace {

bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Reads numbers between white space and # comments.
class Scanner {
 public:
  explicit Scanner(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  // The next number, or nothing at the end, at a stray character or past ten digits.
  std::optional<int64_t> number() {
    skip_blank();
    int64_t value = 0;
    int num_digits = 0;
    for (; at_ < bytes_.size() && bytes_[at_] >= '0' && bytes_[at_] <= '9'; ++at_, ++num_digits) {
      if (num_digits == 10) return std::nullopt;
      value = value * 10 + (bytes_[at_] - '0');
    }
    if (num_digits == 0) return std::nullopt;
    return value;
  }

  // A digit of a plain bitmap, which may stand without space around it.
  std::optional<int> bit() {
    skip_blank();
    if (at_ >= bytes_.size() || (bytes_[at_] != '0' && bytes_[at_] != '1')) return std::nullopt;
    return bytes_[at_++] - '0';
  }

  bool at_end() {
    skip_blank();
    return at_ >= bytes_.size();
  }

  // What follows the header and the one white space that ends it.
  std::span<const uint8_t> raster() const {
    return bytes_.subspan(std::min(bytes_.size(), at_ + 1));
  }

 private:
  void skip_blank() {
    while (at_ < bytes_.size()) {
      if (bytes_[at_] == '#') {
        while (at_ < bytes_.size() && bytes_[at_] != '\n' && bytes_[at_] != '\r') ++at_;
      } else if (is_space(bytes_[at_])) {
        ++at_;
      } else {
        return;
      }
    }
  }

  std::span<const uint8_t> bytes_;
  size_t at_ = 2;  // behind the magic
};

}  // namespace

Result<Picture> decode_ppm(std::span<const uint8_t> bytes, const ImageOptions& options) {
  Scanner scanner(bytes);
  const int kind = bytes[1] - '0';
  const bool plain = kind <= 3, bitmap = kind == 1 || kind == 4, color = kind == 3 || kind == 6;
  const auto width = scanner.number();
  const auto height = scanner.number();
  const auto max_value = bitmap ? std::optional<int64_t>(1) : scanner.number();
  if (!width || !height || !max_value) {
    return scanner.at_end() ? truncated_image("PPM") : corrupt_image("PPM");
  }
  VIDERE_RETURN_IF_ERROR(check_image_size("PPM", *width, *height, options));
  if (*max_value < 1 || *max_value > 65535) {
    return invalid_argument(
        "", "failed to load image: the PPM file's greatest value is {}; it must be 1 to 65535",
        *max_value);
  }

  const int num_channels = color ? 3 : 1;
  const int sample_bytes = *max_value > 255 ? 2 : 1;
  const size_t num_samples = static_cast<size_t>(*width) * *height * num_channels;
  const auto raster = scanner.raster();
  const size_t bitmap_row_bytes = static_cast<size_t>(*width + 7) / 8;
  const size_t need = plain       ? num_samples  // a digit each at the very least
                      : kind == 4 ? bitmap_row_bytes * *height
                                  : num_samples * sample_bytes;
  if (raster.size() < need) return truncated_image("PPM");

  // Gray of more than 8 bits becomes 0..65535 in Pillow and is then clipped, not scaled, to a byte.
  const double scale_to = sample_bytes == 2 && !color ? 65535.0 : 255.0;
  std::vector<uint8_t> to_byte(static_cast<size_t>(*max_value) + 1);
  for (size_t v = 0; v < to_byte.size(); ++v) {
    const double scaled = static_cast<double>(v) / static_cast<double>(*max_value) * scale_to;
    to_byte[v] = clip_255(static_cast<int64_t>(std::nearbyint(scaled)));
  }

  Picture picture;
  picture.image = make_image(static_cast<int>(*width), static_cast<int>(*height));
  uint8_t* out = picture.image.rgb.data();
  for (size_t i = 0; i < num_samples; ++i) {
    uint8_t byte = 0;
    if (kind == 4) {
      const size_t x = i % *width, y = i / *width;
      byte = raster[y * bitmap_row_bytes + x / 8] >> (7 - x % 8) & 1 ? 0 : 255;
    } else if (kind == 1) {
      const auto bit = scanner.bit();
      if (!bit) return scanner.at_end() ? truncated_image("PPM") : corrupt_image("PPM");
      byte = *bit ? 0 : 255;
    } else if (plain) {
      const auto value = scanner.number();
      if (!value && scanner.at_end()) return truncated_image("PPM");
      if (!value || *value > *max_value) return corrupt_image("PPM");
      byte = to_byte[static_cast<size_t>(*value)];
    } else {
      const size_t value = sample_bytes == 1
                               ? raster[i]
                               : static_cast<size_t>(raster[2 * i]) << 8 | raster[2 * i + 1];
      byte = value < to_byte.size() ? to_byte[value] : 255;
    }
    if (color) {
      out[i] = byte;
    } else {
      std::memset(out + 3 * i, byte, 3);
    }
  }
  return picture;
}

}  // namespace videre::internal
