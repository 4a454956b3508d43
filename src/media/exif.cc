#include "media/exif.h"

#include <algorithm>
#include <cstring>
#include <string_view>

namespace videre {
namespace {

constexpr uint16_t kOrientationTag = 0x0112;

// A TIFF structure in either byte order; reads past its end give nothing.
class TiffBlock {
 public:
  TiffBlock(std::span<const uint8_t> bytes, bool big_endian)
      : bytes_(bytes), big_endian_(big_endian) {}

  std::optional<uint32_t> read(size_t offset, int num_bytes) const {
    if (offset > bytes_.size() || bytes_.size() - offset < static_cast<size_t>(num_bytes)) {
      return std::nullopt;
    }
    uint32_t value = 0;
    for (int i = 0; i < num_bytes; ++i) {
      const int shift = 8 * (big_endian_ ? num_bytes - 1 - i : i);
      value |= static_cast<uint32_t>(bytes_[offset + i]) << shift;
    }
    return value;
  }

 private:
  std::span<const uint8_t> bytes_;
  bool big_endian_;
};

struct Rgb {
  uint8_t r, g, b;
};

// Writes out[y][x] = in at (origin + x * step_x + y * step_y), in pixels.
void gather(const Image& in, Image& out, int64_t origin, int64_t step_x, int64_t step_y) {
  const auto* src = in.rgb.data();
  auto* dst = out.rgb.data();
  // Blocks keep both sides in cache when rows become columns.
  constexpr int kBlock = 32;
  for (int y0 = 0; y0 < out.height; y0 += kBlock) {
    for (int x0 = 0; x0 < out.width; x0 += kBlock) {
      const int y1 = std::min(out.height, y0 + kBlock), x1 = std::min(out.width, x0 + kBlock);
      for (int y = y0; y < y1; ++y) {
        for (int x = x0; x < x1; ++x) {
          std::memcpy(dst + 3 * (static_cast<int64_t>(y) * out.width + x),
                      src + 3 * (origin + x * step_x + y * step_y), sizeof(Rgb));
        }
      }
    }
  }
}

}  // namespace

std::optional<int> exif_orientation(std::span<const uint8_t> block) {
  constexpr std::string_view kPrefix("Exif\0\0", 6);
  while (block.size() >= kPrefix.size() &&
         std::memcmp(block.data(), kPrefix.data(), kPrefix.size()) == 0) {
    block = block.subspan(kPrefix.size());
  }
  if (block.size() < 8) return std::nullopt;
  const bool big_endian = block[0] == 'M' && block[1] == 'M';
  if (!big_endian && !(block[0] == 'I' && block[1] == 'I')) return std::nullopt;
  const TiffBlock tiff(block, big_endian);
  if (tiff.read(2, 2) != 42) return std::nullopt;
  const auto directory = tiff.read(4, 4);
  const auto num_entries = tiff.read(*directory, 2);
  if (!num_entries) return std::nullopt;
  std::optional<int> orientation;  // the last entry of several wins, as in Pillow
  for (uint32_t i = 0; i < *num_entries; ++i) {
    const size_t entry = static_cast<size_t>(*directory) + 2 + 12 * static_cast<size_t>(i);
    const auto tag = tiff.read(entry, 2);
    const auto type = tiff.read(entry + 2, 2);
    const auto count = tiff.read(entry + 4, 4);
    if (!tag || !type || !count) break;
    if (*tag != kOrientationTag || *count < 1) continue;
    // BYTE, SHORT, LONG; the field stands at the left of the four value bytes.
    const int num_bytes = *type == 1 ? 1 : *type == 3 ? 2 : *type == 4 ? 4 : 0;
    if (num_bytes == 0) continue;
    const auto value = tiff.read(entry + 8, num_bytes);
    if (value) orientation = *value <= 8 ? static_cast<int>(*value) : 0;
  }
  return orientation;
}

std::optional<int> xmp_orientation(std::span<const uint8_t> packet) {
  const std::string_view text(reinterpret_cast<const char*>(packet.data()), packet.size());
  constexpr std::string_view kName = "tiff:Orientation";
  for (size_t at = text.find(kName); at != text.npos; at = text.find(kName, at + 1)) {
    std::string_view rest = text.substr(at + kName.size());
    if (rest.starts_with("=\"")) {
      rest.remove_prefix(2);
    } else if (rest.starts_with(">")) {
      rest.remove_prefix(1);
    } else {
      continue;
    }
    if (!rest.empty() && rest[0] >= '0' && rest[0] <= '9') return rest[0] - '0';
  }
  return std::nullopt;
}

void apply_orientation(Image& image, int orientation) {
  if (orientation < 2 || orientation > 8) return;
  const int64_t w = image.width, h = image.height;
  Image out;
  const bool swaps = orientation >= 5;
  out.width = swaps ? image.height : image.width;
  out.height = swaps ? image.width : image.height;
  out.rgb.resize(image.rgb.size());
  switch (orientation) {
    case 2:  // mirrored
      gather(image, out, w - 1, -1, w);
      break;
    case 3:  // upside down
      gather(image, out, w * h - 1, -1, -w);
      break;
    case 4:  // flipped
      gather(image, out, w * (h - 1), 1, -w);
      break;
    case 5:  // transposed
      gather(image, out, 0, w, 1);
      break;
    case 6:  // to be turned clockwise
      gather(image, out, w * (h - 1), -w, 1);
      break;
    case 7:  // transposed along the other diagonal
      gather(image, out, w * h - 1, -w, -1);
      break;
    default:  // to be turned anticlockwise
      gather(image, out, w - 1, w, -1);
      break;
  }
  image = std::move(out);
}

}  // namespace videre
