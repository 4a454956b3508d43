// PNG through libpng, unpacked by hand from the stored samples so that each colour type ends where
// Pillow's conversion to RGB ends: 16-bit gray is clipped at 255, other 16-bit samples keep their
// upper byte, transparency other than a transparent colour of RGB is composited. libpng leaves
// errors by longjmp: each call stands in a member function that holds no object with a destructor.
#include <png.h>

#include <csetjmp>
#include <cstring>

#include "media/exif.h"
#include "media/image_codecs.h"

namespace videre::internal {
namespace {

constexpr png_alloc_size_t kMaxChunkBytes = 8u << 20;

class PngDecoder {
 public:
  explicit PngDecoder(std::span<const uint8_t> bytes) : rest_(bytes) {}
  ~PngDecoder() {
    if (png_) png_destroy_read_struct(&png_, &info_, nullptr);
  }
  PngDecoder(const PngDecoder&) = delete;
  PngDecoder& operator=(const PngDecoder&) = delete;

  bool read_header() {
    png_ = png_create_read_struct(PNG_LIBPNG_VER_STRING, this, fail, ignore_warning);
    if (!png_) return false;
    if (setjmp(on_error_)) return false;
    info_ = png_create_info_struct(png_);
    if (!info_) return false;
    png_set_read_fn(png_, this, read);
    // The limits proper are checked afterwards, with a sentence of their own.
    png_set_user_limits(png_, 0x7fffffff, 0x7fffffff);
    png_set_chunk_malloc_max(png_, kMaxChunkBytes);
    // Colour profiles, texts and the like are skipped; EXIF is looked for by scan_chunks.
    png_set_keep_unknown_chunks(png_, PNG_HANDLE_CHUNK_NEVER, nullptr, -1);
    png_read_info(png_, info_);
    width = png_get_image_width(png_, info_);
    height = png_get_image_height(png_, info_);
    color_type = png_get_color_type(png_, info_);
    bit_depth = png_get_bit_depth(png_, info_);
    interlaced = png_get_interlace_type(png_, info_) != PNG_INTERLACE_NONE;
    return true;
  }

  // Bytes a row will have, after one sample a byte, or two for 16-bit gray. 0 on failure.
  size_t start() {
    if (setjmp(on_error_)) return 0;
    if (bit_depth < 8) png_set_packing(png_);
    if (bit_depth == 16 && color_type != PNG_COLOR_TYPE_GRAY) png_set_strip_16(png_);
    if (interlaced) png_set_interlace_handling(png_);
    png_read_update_info(png_, info_);
    return png_get_rowbytes(png_, info_);
  }

  void read_palette(Palette& palette, bool& transparent) const {
    png_colorp colors = nullptr;
    int num_colors = 0;
    png_get_PLTE(png_, info_, &colors, &num_colors);
    for (int i = 0; i < num_colors && i < 256; ++i) {
      palette.entries[i] = {colors[i].red, colors[i].green, colors[i].blue, 255};
    }
    png_bytep alphas = nullptr;
    int num_alphas = 0;
    if (png_get_tRNS(png_, info_, &alphas, &num_alphas, nullptr) & PNG_INFO_tRNS) {
      transparent = true;
      for (int i = 0; i < num_alphas && i < 256; ++i) palette.entries[i][3] = alphas[i];
    }
  }

  std::optional<unsigned> transparent_gray() const {
    png_color_16p color = nullptr;
    png_bytep alphas = nullptr;
    int num_alphas = 0;
    if (!(png_get_tRNS(png_, info_, &alphas, &num_alphas, &color) & PNG_INFO_tRNS) || !color) {
      return std::nullopt;
    }
    return color->gray;
  }

  bool read_row(uint8_t* out) {
    if (setjmp(on_error_)) return false;
    png_read_row(png_, out, nullptr);
    return true;
  }

  bool read_all(uint8_t** rows) {
    if (setjmp(on_error_)) return false;
    png_read_image(png_, rows);
    return true;
  }

  Error error() const { return truncated_ ? truncated_image("PNG") : corrupt_image("PNG"); }

  png_uint_32 width = 0, height = 0;
  int color_type = 0, bit_depth = 0;
  bool interlaced = false;

 private:
  static void read(png_structp png, png_bytep out, size_t num_bytes) {
    auto* self = static_cast<PngDecoder*>(png_get_io_ptr(png));
    if (num_bytes > self->rest_.size()) {
      self->truncated_ = true;
      longjmp(self->on_error_, 1);
    }
    std::memcpy(out, self->rest_.data(), num_bytes);
    self->rest_ = self->rest_.subspan(num_bytes);
  }
  [[noreturn]] static void fail(png_structp png, png_const_charp) {
    longjmp(static_cast<PngDecoder*>(png_get_error_ptr(png))->on_error_, 1);
  }
  static void ignore_warning(png_structp, png_const_charp) {}

  std::span<const uint8_t> rest_;
  png_structp png_ = nullptr;
  png_infop info_ = nullptr;
  jmp_buf on_error_;
  bool truncated_ = false;
};

// EXIF (eXIf) or else XMP (an uncompressed iTXt), wherever in the file they stand.
int stored_orientation(std::span<const uint8_t> bytes) {
  constexpr std::string_view kXmp("XML:com.adobe.xmp\0\0", 19);
  std::optional<int> exif, xmp;
  size_t at = 8;
  while (bytes.size() - at >= 12) {
    const uint8_t* head = bytes.data() + at;
    const size_t length =
        static_cast<size_t>(head[0]) << 24 | head[1] << 16 | head[2] << 8 | head[3];
    if (length > bytes.size() - at - 12) break;
    const auto data = bytes.subspan(at + 8, length);
    const std::string_view type(reinterpret_cast<const char*>(head) + 4, 4);
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    if (type == "eXIf") exif = exif_orientation(data);
    if (type == "iTXt" && text.starts_with(kXmp)) xmp = xmp_orientation(data);
    if (type == "IEND") break;
    at += 12 + length;
  }
  return exif ? *exif : xmp.value_or(1);
}

// Stored rows to RGB, chosen once for a picture.
class RowConverter {
 public:
  RowConverter(const PngDecoder& png, const ImageOptions& options)
      : color_type_(png.color_type),
        bit_depth_(png.bit_depth),
        width_(static_cast<int>(png.width)),
        background_(options.rgba_background_color) {
    if (color_type_ == PNG_COLOR_TYPE_PALETTE) {
      bool transparent = false;
      png.read_palette(palette_, transparent);
      for (auto& entry : palette_.entries) {
        composite(entry.data(), transparent ? entry[3] : 255, background_, entry.data());
      }
    } else if (color_type_ == PNG_COLOR_TYPE_GRAY) {
      // Pillow compares the stored value's low byte with the pixel after it became a byte; of one
      // bit it makes 0 or 255 first.
      transparent_gray_ = png.transparent_gray();
      if (transparent_gray_) {
        transparent_gray_ =
            bit_depth_ == 1 ? (*transparent_gray_ ? 255u : 0u) : (*transparent_gray_ & 255u);
      }
    }
  }

  bool is_rgb() const { return color_type_ == PNG_COLOR_TYPE_RGB; }

  void convert(const uint8_t* row, uint8_t* out) const {
    switch (color_type_) {
      case PNG_COLOR_TYPE_RGB:
        std::memcpy(out, row, static_cast<size_t>(width_) * 3);
        break;
      case PNG_COLOR_TYPE_RGB_ALPHA:
        composite_row(row, width_, background_, out);
        break;
      case PNG_COLOR_TYPE_PALETTE:
        for (int x = 0; x < width_; ++x)
          std::memcpy(out + 3 * x, palette_.entries[row[x]].data(), 3);
        break;
      case PNG_COLOR_TYPE_GRAY_ALPHA:
        for (int x = 0; x < width_; ++x) {
          const uint8_t rgb[3] = {row[2 * x], row[2 * x], row[2 * x]};
          composite(rgb, row[2 * x + 1], background_, out + 3 * x);
        }
        break;
      default:
        for (int x = 0; x < width_; ++x) {
          const uint8_t gray = gray_at(row, x);
          if (transparent_gray_ == gray) {
            std::memcpy(out + 3 * x, background_.data(), 3);
          } else {
            std::memset(out + 3 * x, gray, 3);
          }
        }
    }
  }

 private:
  uint8_t gray_at(const uint8_t* row, int x) const {
    if (bit_depth_ == 16) return row[2 * x] ? 255 : row[2 * x + 1];
    return static_cast<uint8_t>(row[x] * (255 / ((1 << bit_depth_) - 1)));
  }

  int color_type_, bit_depth_, width_;
  std::array<uint8_t, 3> background_;
  Palette palette_;
  std::optional<unsigned> transparent_gray_;
};

}  // namespace

Result<Picture> decode_png(std::span<const uint8_t> bytes, const ImageOptions& options) {
  PngDecoder png(bytes);
  if (!png.read_header()) return png.error();
  VIDERE_RETURN_IF_ERROR(check_image_size("PNG", png.width, png.height, options));
  const RowConverter converter(png, options);
  const size_t row_bytes = png.start();
  if (row_bytes == 0) return png.error();

  Picture picture;
  picture.orientation = stored_orientation(bytes);
  picture.image = make_image(static_cast<int>(png.width), static_cast<int>(png.height));
  uint8_t* out = picture.image.rgb.data();
  const size_t out_row_bytes = static_cast<size_t>(png.width) * 3;
  // The passes of an interlaced picture fill one buffer: the picture itself if it is RGB already.
  const bool in_place = converter.is_rgb() && row_bytes == out_row_bytes;
  std::vector<uint8_t> stored(in_place ? 0 : row_bytes * (png.interlaced ? png.height : 1));
  if (png.interlaced) {
    uint8_t* first = in_place ? out : stored.data();
    std::vector<uint8_t*> rows(png.height);
    for (size_t y = 0; y < rows.size(); ++y) rows[y] = first + y * row_bytes;
    if (!png.read_all(rows.data())) return png.error();
    for (size_t y = 0; !in_place && y < rows.size(); ++y) {
      converter.convert(rows[y], out + y * out_row_bytes);
    }
    return picture;
  }
  for (size_t y = 0; y < png.height; ++y) {
    uint8_t* row = out + y * out_row_bytes;
    if (!png.read_row(in_place ? row : stored.data())) return png.error();
    if (!in_place) converter.convert(stored.data(), row);
  }
  return picture;
}

}  // namespace videre::internal
