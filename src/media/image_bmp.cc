// BMP by hand: 1, 4, 8, 16, 24 and 32 bits, run lengths, bit fields, either row order, OS/2
// headers.
#include <bit>
#include <cstring>

#include "media/image_codecs.h"

namespace videre::internal {
namespace {

constexpr size_t kFileHeaderBytes = 14;
enum Compression : uint32_t { kRaw = 0, kRle8 = 1, kRle4 = 2, kBitFields = 3, kJpeg = 4, kPng = 5 };

struct Header {
  int64_t width = 0, height = 0;
  bool top_down = false;
  int bits = 0;  // a pixel
  uint32_t compression = kRaw;
  uint32_t masks[4] = {};  // red, green, blue, alpha; of 16 and 32 bits
  size_t pixels_at = 0;    // offset in the file
  Palette palette;
};

uint32_t little_endian(const uint8_t* p, int num_bytes) {
  uint32_t value = 0;
  for (int i = 0; i < num_bytes; ++i) value |= static_cast<uint32_t>(p[i]) << (8 * i);
  return value;
}

Result<Header> read_header(std::span<const uint8_t> bytes) {
  if (bytes.size() < kFileHeaderBytes + 12) return truncated_image("BMP");
  const uint8_t* info = bytes.data() + kFileHeaderBytes;
  const size_t info_bytes = little_endian(info, 4);
  if (info_bytes != 12 && info_bytes != 40 && info_bytes != 52 && info_bytes != 56 &&
      info_bytes != 64 && info_bytes != 108 && info_bytes != 124) {
    return unsupported_image(fmt::format("a BMP with a header of {} bytes", info_bytes));
  }
  if (bytes.size() < kFileHeaderBytes + info_bytes) return truncated_image("BMP");
  Header header;
  size_t num_colors = 0;
  const bool core = info_bytes == 12;
  if (core) {
    header.width = little_endian(info + 4, 2);
    header.height = little_endian(info + 6, 2);
    header.bits = static_cast<int>(little_endian(info + 10, 2));
  } else {
    header.width = static_cast<int32_t>(little_endian(info + 4, 4));
    header.height = static_cast<int32_t>(little_endian(info + 8, 4));
    header.top_down = header.height < 0;
    if (header.top_down) header.height = -header.height;
    header.bits = static_cast<int>(little_endian(info + 14, 2));
    header.compression = little_endian(info + 16, 4);
    num_colors = little_endian(info + 32, 4);
  }
  if (header.bits != 1 && header.bits != 4 && header.bits != 8 && header.bits != 16 &&
      header.bits != 24 && header.bits != 32) {
    return unsupported_image(fmt::format("a BMP with {} bits a pixel", header.bits));
  }
  const bool fits = header.compression == kRaw ||
                    (header.compression == kRle8 && header.bits == 8) ||
                    (header.compression == kRle4 && header.bits == 4) ||
                    (header.compression == kBitFields && header.bits >= 16);
  if (!fits) {
    return unsupported_image(fmt::format("a BMP with compression {} at {} bits a pixel",
                                         header.compression, header.bits));
  }

  size_t at = kFileHeaderBytes + info_bytes;
  if (header.compression == kBitFields) {
    // Headers of 40 bytes have the masks behind them, and no alpha.
    const size_t masks_at = info_bytes >= 52 ? kFileHeaderBytes + 40 : at;
    const int num_masks = info_bytes >= 56 ? 4 : 3;
    if (bytes.size() < masks_at + 4 * static_cast<size_t>(num_masks)) return truncated_image("BMP");
    for (int i = 0; i < num_masks; ++i) {
      header.masks[i] = little_endian(bytes.data() + masks_at + 4 * i, 4);
    }
    if (info_bytes < 52) at += 12;
  }
  const auto& masks = header.masks;
  if (header.bits == 16 && header.compression == kRaw) {
    header.masks[0] = 0x7c00, header.masks[1] = 0x3e0, header.masks[2] = 0x1f;
  } else if (header.bits == 32 && header.compression == kRaw) {
    header.masks[0] = 0xff0000, header.masks[1] = 0xff00, header.masks[2] = 0xff;
  } else if (header.bits == 32 && !masks[0] && !masks[1] && !masks[2] && !masks[3]) {
    header.masks[0] = 0xff0000, header.masks[1] = 0xff00, header.masks[2] = 0xff;
    header.masks[3] = 0xff000000;
  }

  header.pixels_at = little_endian(bytes.data() + 10, 4);
  if (header.bits <= 8) {
    const size_t entry_bytes = core ? 3 : 4;
    if (num_colors == 0) num_colors = size_t{1} << header.bits;
    // Some writers count the palette out of the offset; Pillow forgives them too.
    if (header.pixels_at == at) header.pixels_at += num_colors * entry_bytes;
    for (size_t i = 0; i < std::min<size_t>(num_colors, 256); ++i) {
      const size_t entry = at + i * entry_bytes;
      if (entry + 3 > bytes.size()) break;
      header.palette.entries[i] = {bytes[entry + 2], bytes[entry + 1], bytes[entry], 255};
    }
  }
  if (header.pixels_at == 0) header.pixels_at = at;
  return header;
}

// Palette indices of a run-length coded picture, [height, width] from the bottom row up. Pixels
// that the code leaps over stay 0.
Status read_runs(std::span<const uint8_t> code, const Header& header, std::vector<uint8_t>& out) {
  const bool rle4 = header.compression == kRle4;
  const int64_t width = header.width, height = header.height;
  int64_t x = 0, y = 0;
  size_t at = 0;
  const auto put = [&](uint8_t index) {
    if (x < width && y < height) out[static_cast<size_t>(y * width + x)] = index;
    ++x;
  };
  while (y < height) {
    if (code.size() - at < 2) {
      // Only the end-of-picture mark is missing when the last row is full.
      if (y == height - 1 && x >= width) return {};
      return truncated_image("BMP");
    }
    const int count = code[at], value = code[at + 1];
    at += 2;
    if (count > 0) {
      for (int i = 0; i < count; ++i) {
        put(static_cast<uint8_t>(!rle4 ? value : i % 2 == 0 ? value >> 4 : value & 15));
      }
    } else if (value == 0) {
      x = 0;
      ++y;
    } else if (value == 1) {
      return {};
    } else if (value == 2) {
      if (code.size() - at < 2) return truncated_image("BMP");
      x += code[at];
      y += code[at + 1];
      at += 2;
    } else {
      const size_t num_bytes = rle4 ? (value + 1) / 2 : value;
      if (code.size() - at < num_bytes) return truncated_image("BMP");
      for (int i = 0; i < value; ++i) {
        const int byte = code[at + (rle4 ? i / 2 : i)];
        put(static_cast<uint8_t>(!rle4 ? byte : i % 2 == 0 ? byte >> 4 : byte & 15));
      }
      at += num_bytes + num_bytes % 2;
      at = std::min(at, code.size());
    }
  }
  return {};
}

// Value of the bits under a mask, stretched to 0..255.
uint8_t field(uint32_t pixel, uint32_t mask) {
  if (mask == 0) return 0;
  const int shift = std::countr_zero(mask);
  const uint64_t value = (pixel & mask) >> shift;
  return static_cast<uint8_t>(value * 255 / (mask >> shift));
}

void convert_row(const Header& header, const uint8_t* row, const ImageOptions& options,
                 uint8_t* out) {
  for (int64_t x = 0; x < header.width; ++x, out += 3) {
    if (header.bits <= 8) {
      const int shift = 8 - header.bits - static_cast<int>(x * header.bits % 8);
      const int index = (row[x * header.bits / 8] >> shift) & ((1 << header.bits) - 1);
      std::memcpy(out, header.palette.entries[index].data(), 3);
    } else if (header.bits == 24) {
      out[0] = row[3 * x + 2], out[1] = row[3 * x + 1], out[2] = row[3 * x];
    } else {
      const uint32_t pixel = little_endian(row + x * header.bits / 8, header.bits / 8);
      for (int c = 0; c < 3; ++c) out[c] = field(pixel, header.masks[c]);
      if (header.masks[3]) {
        composite(out, field(pixel, header.masks[3]), options.rgba_background_color, out);
      }
    }
  }
}

}  // namespace

Result<Picture> decode_bmp(std::span<const uint8_t> bytes, const ImageOptions& options) {
  VIDERE_ASSIGN_OR_RETURN(const Header header, read_header(bytes));
  VIDERE_RETURN_IF_ERROR(check_image_size("BMP", header.width, header.height, options));
  if (header.pixels_at > bytes.size()) return truncated_image("BMP");
  const auto pixels = bytes.subspan(header.pixels_at);
  const bool runs = header.compression == kRle4 || header.compression == kRle8;
  const size_t row_bytes = static_cast<size_t>((header.width * header.bits + 31) / 32) * 4;
  // The padding of the last row may be missing.
  const size_t last_row_bytes = static_cast<size_t>((header.width * header.bits + 7) / 8);
  if (!runs && pixels.size() < row_bytes * (header.height - 1) + last_row_bytes) {
    return truncated_image("BMP");
  }
  Picture picture;
  picture.image = make_image(static_cast<int>(header.width), static_cast<int>(header.height));
  std::vector<uint8_t> indices(runs ? picture.image.rgb.size() / 3 : 0);
  if (runs) VIDERE_RETURN_IF_ERROR(read_runs(pixels, header, indices));
  for (int64_t i = 0; i < header.height; ++i) {
    const int64_t y = header.top_down ? i : header.height - 1 - i;
    uint8_t* out = picture.image.rgb.data() + 3 * y * header.width;
    if (!runs) {
      convert_row(header, pixels.data() + static_cast<size_t>(i) * row_bytes, options, out);
      continue;
    }
    const uint8_t* row = indices.data() + i * header.width;
    for (int64_t x = 0; x < header.width; ++x) {
      std::memcpy(out + 3 * x, header.palette.entries[row[x]].data(), 3);
    }
  }
  return picture;
}

}  // namespace videre::internal
