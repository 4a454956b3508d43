// TIFF through libtiff: its first page, strips or tiles, with the sample layouts that Pillow knows
// and Pillow's way to 8-bit RGB. libtiff decompresses; samples are interpreted here, except YCbCr
// outside JPEG, which libtiff's own RGBA reader converts.
#include <tiffio.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "media/exif.h"
#include "media/image_codecs.h"

// JBIG-KIT, which libtiff's archive wants, is not linked: its licence (GPL) does not go into this
// binary. These stand in for it, so that JBIG TIFFs fail to decode and others do not notice. They
// live in this file because whoever links libtiff for it links them too.
extern "C" {

void jbg_dec_init(void*) {}
int jbg_dec_in(void*, unsigned char*, size_t, size_t*) { return 1 << 4; }  // not "ok", not "end"
unsigned char* jbg_dec_getimage(const void*, int) { return nullptr; }
long jbg_dec_getsize(const void*) { return 0; }
void jbg_dec_free(void*) {}
void jbg_newlen(unsigned char*, size_t) {}
const char* jbg_strerror(int) { return "JBIG is not supported"; }
void jbg_enc_init(void*, unsigned long, unsigned long, int, unsigned char**,
                  void (*)(unsigned char*, size_t, void*), void*) {}
void jbg_enc_out(void*) {}
void jbg_enc_free(void*) {}

}  // extern "C"

namespace videre::internal {
namespace {

// One strip or row of tiles, all its planes; single allocations of libtiff likewise.
constexpr int64_t kMaxBandBytes = int64_t{1} << 30;
constexpr int kMaxSamples = 6;  // as Pillow

// The file in memory, as libtiff's callbacks see it.
struct MemoryFile {
  std::span<const uint8_t> bytes;
  uint64_t at = 0;

  static tmsize_t read(thandle_t handle, void* out, tmsize_t num_bytes) {
    auto* self = static_cast<MemoryFile*>(handle);
    if (num_bytes <= 0 || self->at >= self->bytes.size()) return 0;
    const size_t n =
        std::min<uint64_t>(static_cast<uint64_t>(num_bytes), self->bytes.size() - self->at);
    std::memcpy(out, self->bytes.data() + self->at, n);
    self->at += n;
    return static_cast<tmsize_t>(n);
  }
  static tmsize_t write(thandle_t, void*, tmsize_t) { return 0; }
  static toff_t seek(thandle_t handle, toff_t offset, int whence) {
    auto* self = static_cast<MemoryFile*>(handle);
    const uint64_t base = whence == SEEK_CUR   ? self->at
                          : whence == SEEK_END ? self->bytes.size()
                                               : 0;
    self->at = base + offset;
    return self->at;
  }
  static int close(thandle_t) { return 0; }
  static toff_t size(thandle_t handle) { return static_cast<MemoryFile*>(handle)->bytes.size(); }
};

int keep_quiet(TIFF*, void*, const char*, const char*, va_list) { return 1; }

struct TiffCloser {
  void operator()(TIFF* tiff) const { TIFFClose(tiff); }
};
using Tiff = std::unique_ptr<TIFF, TiffCloser>;

Tiff open_tiff(MemoryFile& file) {
  TIFFOpenOptions* options = TIFFOpenOptionsAlloc();
  if (!options) return nullptr;
  TIFFOpenOptionsSetErrorHandlerExtR(options, keep_quiet, nullptr);
  TIFFOpenOptionsSetWarningHandlerExtR(options, keep_quiet, nullptr);
  TIFFOpenOptionsSetMaxSingleMemAlloc(options, kMaxBandBytes);
  // m: no memory mapping, all reads go through the bounded callbacks.
  Tiff tiff(TIFFClientOpenExt("", "rm", &file, MemoryFile::read, MemoryFile::write,
                              MemoryFile::seek, MemoryFile::close, MemoryFile::size, nullptr,
                              nullptr, options));
  TIFFOpenOptionsFree(options);
  return tiff;
}

enum class Alpha { kNone, kPremultiplied, kStraight };

struct Layout {
  uint32_t width = 0, height = 0;
  int photometric = PHOTOMETRIC_MINISWHITE;
  int bits = 1, num_samples = 1, sample_format = SAMPLEFORMAT_UINT;
  bool separate = false;  // a plane a sample
  int num_colors = 1;     // samples that make the colour
  Alpha alpha = Alpha::kNone;
};

int field_u16(TIFF* tiff, uint32_t tag) {
  uint16_t value = 0;
  TIFFGetFieldDefaulted(tiff, tag, &value);
  return value;
}

Result<Layout> read_layout(TIFF* tiff, const ImageOptions& options) {
  Layout layout;
  TIFFGetField(tiff, TIFFTAG_IMAGEWIDTH, &layout.width);
  TIFFGetField(tiff, TIFFTAG_IMAGELENGTH, &layout.height);
  VIDERE_RETURN_IF_ERROR(check_image_size("TIFF", layout.width, layout.height, options));
  uint16_t photometric = PHOTOMETRIC_MINISWHITE;
  TIFFGetField(tiff, TIFFTAG_PHOTOMETRIC, &photometric);
  layout.photometric = photometric;
  layout.bits = field_u16(tiff, TIFFTAG_BITSPERSAMPLE);
  layout.num_samples = field_u16(tiff, TIFFTAG_SAMPLESPERPIXEL);
  layout.sample_format = field_u16(tiff, TIFFTAG_SAMPLEFORMAT);
  layout.separate = field_u16(tiff, TIFFTAG_PLANARCONFIG) == PLANARCONFIG_SEPARATE;
  if (field_u16(tiff, TIFFTAG_COMPRESSION) == COMPRESSION_OJPEG) {
    layout.photometric = PHOTOMETRIC_YCBCR;
  }

  const int bits = layout.bits;
  bool known = layout.sample_format == SAMPLEFORMAT_UINT;
  switch (layout.photometric) {
    case PHOTOMETRIC_MINISWHITE:
    case PHOTOMETRIC_MINISBLACK:
      known = (known && (bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 16)) ||
              (layout.sample_format == SAMPLEFORMAT_INT && (bits == 8 || bits == 16)) ||
              (bits == 32 && layout.sample_format <= SAMPLEFORMAT_IEEEFP);
      break;
    case PHOTOMETRIC_PALETTE:
      known = known && (bits == 1 || bits == 2 || bits == 4 || bits == 8);
      break;
    case PHOTOMETRIC_RGB:
    case PHOTOMETRIC_YCBCR:
      layout.num_colors = 3;
      known = known && (bits == 8 || (bits == 16 && layout.photometric == PHOTOMETRIC_RGB));
      break;
    case PHOTOMETRIC_SEPARATED:
      layout.num_colors = 4;
      known = known && (bits == 8 || bits == 16);
      break;
    default:
      known = false;
  }
  if (layout.num_samples < layout.num_colors || layout.num_samples > kMaxSamples ||
      (bits < 8 && layout.num_samples > 1 && !layout.separate)) {
    known = false;
  }
  if (!known) {
    return unsupported_image(fmt::format(
        "a TIFF of this layout (photometric {}, {} samples of {} bits, sample format {})",
        layout.photometric, layout.num_samples, bits, layout.sample_format));
  }
  if (layout.num_samples > layout.num_colors && layout.photometric != PHOTOMETRIC_SEPARATED) {
    uint16_t num_extra = 0;
    const uint16_t* extra = nullptr;
    const bool stated =
        TIFFGetField(tiff, TIFFTAG_EXTRASAMPLES, &num_extra, &extra) && num_extra > 0;
    const int first = stated ? extra[0] : EXTRASAMPLE_UNASSALPHA;
    if (first == EXTRASAMPLE_ASSOCALPHA) layout.alpha = Alpha::kPremultiplied;
    if (first == EXTRASAMPLE_UNASSALPHA) layout.alpha = Alpha::kStraight;
  }
  return layout;
}

// Reads bands: as many whole rows as a strip or a row of tiles holds.
class BandReader {
 public:
  BandReader(TIFF* tiff, const Layout& layout) : tiff_(tiff), layout_(layout) {}

  Status open() {
    const int samples_a_plane = layout_.separate ? 1 : layout_.num_samples;
    const int64_t pixel_bits = int64_t{layout_.bits} * samples_a_plane;
    num_planes_ = layout_.separate ? layout_.num_samples : 1;
    row_bytes_ = (layout_.width * pixel_bits + 7) / 8;
    tiled_ = TIFFIsTiled(tiff_);
    if (tiled_) {
      TIFFGetField(tiff_, TIFFTAG_TILEWIDTH, &tile_width_);
      TIFFGetField(tiff_, TIFFTAG_TILELENGTH, &band_rows_);
      if (tile_width_ == 0 || band_rows_ == 0 || tile_width_ % 8 != 0) return corrupt_image("TIFF");
      tile_row_bytes_ = tile_width_ * pixel_bits / 8;
      tiles_across_ = (layout_.width + tile_width_ - 1) / tile_width_;
      if (tile_row_bytes_ > kMaxBandBytes / band_rows_) return too_large();
      if (static_cast<int64_t>(TIFFTileSize64(tiff_)) != tile_row_bytes_ * band_rows_) {
        return corrupt_image("TIFF");
      }
      tile_.resize(static_cast<size_t>(tile_row_bytes_) * band_rows_);
    } else {
      TIFFGetFieldDefaulted(tiff_, TIFFTAG_ROWSPERSTRIP, &band_rows_);
      if (band_rows_ == 0) return corrupt_image("TIFF");
      if (static_cast<int64_t>(TIFFScanlineSize64(tiff_)) != row_bytes_)
        return corrupt_image("TIFF");
    }
    band_rows_ = std::min(band_rows_, layout_.height);
    if (row_bytes_ * band_rows_ > kMaxBandBytes / num_planes_) return too_large();
    band_.resize(static_cast<size_t>(row_bytes_) * band_rows_ * num_planes_);
    return {};
  }

  uint32_t band_rows() const { return band_rows_; }

  // Reads the rows from y0, a multiple of band_rows(), on.
  Status read(uint32_t y0) {
    const uint32_t num_rows = std::min(band_rows_, layout_.height - y0);
    for (int plane = 0; plane < num_planes_; ++plane) {
      const auto sample = static_cast<uint16_t>(plane);
      uint8_t* out = plane_at(plane);
      if (!tiled_) {
        const tmsize_t want = static_cast<tmsize_t>(row_bytes_) * num_rows;
        const auto strip = TIFFComputeStrip(tiff_, y0, sample);
        if (TIFFReadEncodedStrip(tiff_, strip, out, want) != want) return corrupt_image("TIFF");
        continue;
      }
      for (uint32_t t = 0; t < tiles_across_; ++t) {
        const auto tile = TIFFComputeTile(tiff_, t * tile_width_, y0, 0, sample);
        const auto want = static_cast<tmsize_t>(tile_.size());
        if (TIFFReadEncodedTile(tiff_, tile, tile_.data(), want) != want) {
          return corrupt_image("TIFF");
        }
        const int64_t left = t * tile_row_bytes_;
        const int64_t num_bytes = std::min(tile_row_bytes_, row_bytes_ - left);
        for (uint32_t y = 0; y < num_rows; ++y) {
          std::memcpy(out + y * row_bytes_ + left, tile_.data() + y * tile_row_bytes_,
                      static_cast<size_t>(num_bytes));
        }
      }
    }
    return {};
  }

  // Sample s of row `y` of the band as stored: its first byte, and samples from one to the next.
  const uint8_t* samples(int s, uint32_t y) {
    if (layout_.separate) return plane_at(s) + y * row_bytes_;
    return plane_at(0) + y * row_bytes_ + s * layout_.bits / 8;
  }
  int step() const { return layout_.separate ? 1 : layout_.num_samples; }

 private:
  static Error too_large() {
    return make_error(
        ErrorCode::kTooLarge, "",
        "failed to load image: a strip or tile row of the TIFF file takes more than {} "
        "bytes; save it with smaller strips",
        kMaxBandBytes);
  }

  uint8_t* plane_at(int plane) {
    return band_.data() + static_cast<int64_t>(plane) * row_bytes_ * band_rows_;
  }

  TIFF* tiff_;
  const Layout& layout_;
  bool tiled_ = false;
  int num_planes_ = 1;
  int64_t row_bytes_ = 0, tile_row_bytes_ = 0;
  uint32_t band_rows_ = 0, tile_width_ = 0, tiles_across_ = 0;
  std::vector<uint8_t> band_, tile_;
};

template <typename T>
T load(const uint8_t* p) {
  T value;
  std::memcpy(&value, p, sizeof(T));
  return value;
}

// One sample as the byte Pillow makes of it: gray past 8 bits is clipped, colours keep the upper
// byte.
uint8_t sample_to_byte(const Layout& layout, const uint8_t* row, int64_t i) {
  const bool gray = layout.num_colors == 1;
  switch (layout.bits) {
    case 8:
      return row[i];
    case 16: {
      const auto value = load<uint16_t>(row + 2 * i);
      if (!gray) return static_cast<uint8_t>(value >> 8);
      return clip_255(layout.sample_format == SAMPLEFORMAT_INT ? static_cast<int16_t>(value)
                                                               : value);
    }
    case 32: {
      if (layout.sample_format != SAMPLEFORMAT_IEEEFP) return clip_255(load<int32_t>(row + 4 * i));
      const float value = load<float>(row + 4 * i);
      return value > 0 ? static_cast<uint8_t>(std::min(value, 255.0f)) : 0;
    }
    default: {
      const int shift = 8 - layout.bits - static_cast<int>(i * layout.bits % 8);
      const int value = (row[i * layout.bits / 8] >> shift) & ((1 << layout.bits) - 1);
      if (layout.photometric == PHOTOMETRIC_PALETTE) return static_cast<uint8_t>(value);
      return static_cast<uint8_t>(value * (255 / ((1 << layout.bits) - 1)));
    }
  }
}

uint8_t unpremultiply(uint8_t value, uint8_t alpha) {
  if (alpha == 0) return 0;
  return clip_255(value * 255 / alpha);
}

Result<Palette> read_palette(TIFF* tiff, const Layout& layout) {
  Palette palette;
  const uint16_t *red = nullptr, *green = nullptr, *blue = nullptr;
  if (layout.photometric != PHOTOMETRIC_PALETTE) return palette;
  if (!TIFFGetField(tiff, TIFFTAG_COLORMAP, &red, &green, &blue)) return corrupt_image("TIFF");
  for (int i = 0; i < 1 << layout.bits; ++i) {
    palette.entries[i] = {static_cast<uint8_t>(red[i] >> 8), static_cast<uint8_t>(green[i] >> 8),
                          static_cast<uint8_t>(blue[i] >> 8), 255};
  }
  return palette;
}

// `bytes` [num_colors + alpha][width] to RGB.
void convert_row(const Layout& layout, const Palette& palette, const ImageOptions& options,
                 const std::vector<std::vector<uint8_t>>& bytes, uint8_t* out) {
  for (uint32_t x = 0; x < layout.width; ++x, out += 3) {
    if (layout.num_colors == 4) {
      const uint8_t cmyk[4] = {bytes[0][x], bytes[1][x], bytes[2][x], bytes[3][x]};
      cmyk_to_rgb(cmyk, out);
      continue;
    }
    if (layout.num_colors == 3) {
      for (int c = 0; c < 3; ++c) out[c] = bytes[c][x];
    } else if (layout.photometric == PHOTOMETRIC_PALETTE) {
      std::memcpy(out, palette.entries[bytes[0][x]].data(), 3);
    } else {
      // White-is-zero is turned over up to 8 bits only, as in Pillow.
      const bool inverted = layout.photometric == PHOTOMETRIC_MINISWHITE && layout.bits <= 8;
      std::memset(out, inverted ? 255 - bytes[0][x] : bytes[0][x], 3);
    }
    if (layout.alpha != Alpha::kNone) {
      const uint8_t alpha = bytes[layout.num_colors][x];
      if (layout.alpha == Alpha::kPremultiplied) {
        for (int c = 0; c < 3; ++c) out[c] = unpremultiply(out[c], alpha);
      }
      composite(out, alpha, options.rgba_background_color, out);
    }
  }
}

// YCbCr that is not JPEG: libtiff converts, chroma subsampling included.
Status read_ycbcr(TIFF* tiff, Image& image) {
  TIFFSetField(tiff, TIFFTAG_ORIENTATION, ORIENTATION_TOPLEFT);  // turned later, as all formats
  std::vector<uint32_t> raster(static_cast<size_t>(image.width) * image.height);
  if (!TIFFReadRGBAImageOriented(tiff, static_cast<uint32_t>(image.width),
                                 static_cast<uint32_t>(image.height), raster.data(),
                                 ORIENTATION_TOPLEFT, 1)) {
    return corrupt_image("TIFF");
  }
  for (size_t i = 0; i < raster.size(); ++i) {
    image.rgb[3 * i] = TIFFGetR(raster[i]);
    image.rgb[3 * i + 1] = TIFFGetG(raster[i]);
    image.rgb[3 * i + 2] = TIFFGetB(raster[i]);
  }
  return {};
}

int stored_orientation(TIFF* tiff) {
  uint16_t orientation = 0;
  if (TIFFGetField(tiff, TIFFTAG_ORIENTATION, &orientation)) return orientation;
  uint32_t num_bytes = 0;
  const uint8_t* packet = nullptr;
  if (TIFFGetField(tiff, TIFFTAG_XMLPACKET, &num_bytes, &packet) && packet) {
    return xmp_orientation({packet, num_bytes}).value_or(1);
  }
  return 1;
}

}  // namespace

Result<Picture> decode_tiff(std::span<const uint8_t> bytes, const ImageOptions& options) {
  MemoryFile file{bytes};
  const Tiff tiff = open_tiff(file);
  if (!tiff) return corrupt_image("TIFF");
  VIDERE_ASSIGN_OR_RETURN(const Layout layout, read_layout(tiff.get(), options));
  Picture picture;
  picture.orientation = stored_orientation(tiff.get());
  picture.image = make_image(static_cast<int>(layout.width), static_cast<int>(layout.height));
  if (layout.photometric == PHOTOMETRIC_YCBCR) {
    const bool jpeg = field_u16(tiff.get(), TIFFTAG_COMPRESSION) == COMPRESSION_JPEG;
    if (!jpeg || layout.separate) {
      VIDERE_RETURN_IF_ERROR(read_ycbcr(tiff.get(), picture.image));
      return picture;
    }
    TIFFSetField(tiff.get(), TIFFTAG_JPEGCOLORMODE, JPEGCOLORMODE_RGB);
  }
  VIDERE_ASSIGN_OR_RETURN(const Palette palette, read_palette(tiff.get(), layout));
  BandReader reader(tiff.get(), layout);
  VIDERE_RETURN_IF_ERROR(reader.open());
  const int num_used = layout.num_colors + (layout.alpha != Alpha::kNone ? 1 : 0);
  std::vector<std::vector<uint8_t>> samples(num_used, std::vector<uint8_t>(layout.width));
  uint8_t* out = picture.image.rgb.data();
  for (uint32_t y0 = 0; y0 < layout.height; y0 += reader.band_rows()) {
    VIDERE_RETURN_IF_ERROR(reader.read(y0));
    const uint32_t num_rows = std::min(reader.band_rows(), layout.height - y0);
    for (uint32_t y = 0; y < num_rows; ++y, out += 3 * static_cast<size_t>(layout.width)) {
      for (int s = 0; s < num_used; ++s) {
        const uint8_t* row = reader.samples(s, y);
        for (uint32_t x = 0; x < layout.width; ++x) {
          samples[s][x] = sample_to_byte(layout, row, static_cast<int64_t>(x) * reader.step());
        }
      }
      convert_row(layout, palette, options, samples, out);
    }
  }
  return picture;
}

}  // namespace videre::internal
