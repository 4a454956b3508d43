#include "media/mjpeg.h"

#include <jpeglib.h>

#include <csetjmp>
#include <cstdio>
#include <vector>

#include "base/error.h"
#include "media/yuv.h"

namespace videre {
namespace {

// A hostile progressive file can hold thousands of scans over one large frame.
constexpr int kMaxScans = 100;

struct JpegErrors {
  jpeg_error_mgr base;  // first, so that libjpeg's pointer is ours
  std::jmp_buf on_error;
};

[[noreturn]] void leave(j_common_ptr info) {
  std::longjmp(reinterpret_cast<JpegErrors*>(info->err)->on_error, 1);
}
void swallow_message(j_common_ptr /*info*/) {}
void limit_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) leave(info);
}

// Owns the decompressor; `jpeg_destroy_decompress` is safe after any longjmp.
class Decompressor {
 public:
  Decompressor() {
    info_.err = jpeg_std_error(&errors_.base);
    errors_.base.error_exit = leave;
    errors_.base.output_message = swallow_message;
    progress_.progress_monitor = limit_scans;
  }
  ~Decompressor() { jpeg_destroy_decompress(&info_); }
  Decompressor(const Decompressor&) = delete;
  Decompressor& operator=(const Decompressor&) = delete;

  // The two functions that libjpeg leaves by longjmp hold no objects with destructors.
  bool read_header(std::span<const uint8_t> bytes) {
    if (setjmp(errors_.on_error)) return false;
    jpeg_create_decompress(&info_);
    info_.progress = &progress_;
    jpeg_mem_src(&info_, bytes.data(), bytes.size());
    return jpeg_read_header(&info_, TRUE) == JPEG_HEADER_OK;
  }
  jvirt_barray_ptr* read_coefficients() {
    if (setjmp(errors_.on_error)) return nullptr;
    return jpeg_read_coefficients(&info_);
  }
  /// Row of blocks, or null.
  JBLOCKROW block_row(jvirt_barray_ptr array, JDIMENSION row) {
    if (setjmp(errors_.on_error)) return nullptr;
    return info_.mem->access_virt_barray(reinterpret_cast<j_common_ptr>(&info_), array, row, 1,
                                         FALSE)[0];
  }
  jpeg_decompress_struct& info() { return info_; }

 private:
  jpeg_decompress_struct info_{};
  JpegErrors errors_{};
  jpeg_progress_mgr progress_{};
};

// FFmpeg's "simple" 8x8 inverse DCT: 14-bit cosines, rows cut to 16 bits after a shift of 11,
// columns after 20. Its level shift of 128 rides in the DC coefficient (128 * 8).
constexpr int kW1 = 22725, kW2 = 21407, kW3 = 19266, kW4 = 16383, kW5 = 12873, kW6 = 8867,
              kW7 = 4520;
constexpr int kRowShift = 11, kColumnShift = 20, kDcShift = 3;

struct Butterfly {
  uint32_t a[4], b[4];  // unsigned: hostile coefficients wrap, as they do in the reference
};

Butterfly transform(const int16_t* x, int stride, uint32_t start) {
  const auto at = [&](int i) { return static_cast<uint32_t>(static_cast<int>(x[i * stride])); };
  const uint32_t x1 = at(1), x2 = at(2), x3 = at(3), x4 = at(4), x5 = at(5), x6 = at(6), x7 = at(7);
  return {{start + kW2 * x2 + kW4 * x4 + kW6 * x6, start + kW6 * x2 - kW4 * x4 - kW2 * x6,
           start - kW6 * x2 - kW4 * x4 + kW2 * x6, start - kW2 * x2 + kW4 * x4 - kW6 * x6},
          {kW1 * x1 + kW3 * x3 + kW5 * x5 + kW7 * x7, kW3 * x1 - kW7 * x3 - kW1 * x5 - kW5 * x7,
           kW5 * x1 - kW1 * x3 + kW7 * x5 + kW3 * x7, kW7 * x1 - kW5 * x3 + kW3 * x5 - kW1 * x7}};
}

void inverse_row(int16_t* row) {
  if (!(row[1] | row[2] | row[3] | row[4] | row[5] | row[6] | row[7])) {
    const auto flat = static_cast<int16_t>(static_cast<uint16_t>(row[0]) << kDcShift);
    for (int i = 0; i < 8; ++i) row[i] = flat;
    return;
  }
  const Butterfly t = transform(
      row, 1, static_cast<uint32_t>(kW4 * static_cast<int>(row[0]) + (1 << (kRowShift - 1))));
  for (int i = 0; i < 4; ++i) {
    row[i] = static_cast<int16_t>(static_cast<int32_t>(t.a[i] + t.b[i]) >> kRowShift);
    row[7 - i] = static_cast<int16_t>(static_cast<int32_t>(t.a[i] - t.b[i]) >> kRowShift);
  }
}

uint8_t clip(int32_t value) {
  return static_cast<uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

void inverse_column(const int16_t* column, uint8_t* out, int64_t stride) {
  const int rounded = column[0] + (1 << (kColumnShift - 1)) / kW4;
  const Butterfly t =
      transform(column, 8, static_cast<uint32_t>(kW4) * static_cast<uint32_t>(rounded));
  for (int i = 0; i < 4; ++i) {
    out[i * stride] = clip(static_cast<int32_t>(t.a[i] + t.b[i]) >> kColumnShift);
    out[(7 - i) * stride] = clip(static_cast<int32_t>(t.a[i] - t.b[i]) >> kColumnShift);
  }
}

void inverse_dct(const JCOEF* coefficients, const UINT16* quants, uint8_t* out, int64_t stride) {
  int16_t block[64];
  for (int i = 0; i < 64; ++i) {
    const int value = coefficients[i] * quants[i] + (i == 0 ? 128 * 8 : 0);
    block[i] = static_cast<int16_t>(i == 0 ? std::min(std::max(value, -32768), 32767) : value);
  }
  for (int row = 0; row < 8; ++row) inverse_row(block + 8 * row);
  for (int column = 0; column < 8; ++column) inverse_column(block + column, out + column, stride);
}

struct Plane {
  std::vector<uint8_t> samples;
  int64_t stride = 0;
};

bool decode_plane(Decompressor& jpeg, jvirt_barray_ptr array, const jpeg_component_info& component,
                  Plane& plane) {
  if (!component.quant_table) return false;
  plane.stride = static_cast<int64_t>(component.width_in_blocks) * 8;
  plane.samples.resize(static_cast<size_t>(plane.stride) * component.height_in_blocks * 8);
  for (JDIMENSION row = 0; row < component.height_in_blocks; ++row) {
    const JBLOCKROW blocks = jpeg.block_row(array, row);
    if (!blocks) return false;
    uint8_t* out = plane.samples.data() + static_cast<int64_t>(row) * 8 * plane.stride;
    for (JDIMENSION i = 0; i < component.width_in_blocks; ++i) {
      inverse_dct(blocks[i], component.quant_table->quantval, out + 8 * i, plane.stride);
    }
  }
  return true;
}

/// log2 of `largest / own`, or -1 when that is not 1, 2 or 4.
int shift_of(int largest, int own) {
  for (int shift = 0; shift <= 2; ++shift) {
    if (own << shift == largest) return shift;
  }
  return -1;
}

/// Fills the layout; false for what FFmpeg's planar path would not take either (CMYK, RGB, odd
/// sampling).
bool planar_layout(const jpeg_decompress_struct& info, YuvFrame& frame) {
  frame.width = static_cast<int>(info.image_width);
  frame.height = static_cast<int>(info.image_height);
  frame.full_range = true;
  frame.chroma_shift_x = frame.chroma_shift_y = 0;
  if (info.num_components == 1) return true;
  if (info.num_components != 3 || info.jpeg_color_space != JCS_YCbCr) return false;
  const jpeg_component_info* c = info.comp_info;
  if (c[0].h_samp_factor != info.max_h_samp_factor ||
      c[0].v_samp_factor != info.max_v_samp_factor || c[1].h_samp_factor != c[2].h_samp_factor ||
      c[1].v_samp_factor != c[2].v_samp_factor) {
    return false;
  }
  frame.chroma_shift_x = shift_of(c[0].h_samp_factor, c[1].h_samp_factor);
  frame.chroma_shift_y = shift_of(c[0].v_samp_factor, c[1].v_samp_factor);
  return frame.chroma_shift_x >= 0 && frame.chroma_shift_y >= 0;
}

Error no_jpeg() { return invalid_argument("", "a frame of the clip holds no readable JPEG"); }

}  // namespace

Result<MjpegHeader> read_mjpeg_header(std::span<const uint8_t> bytes) {
  Decompressor jpeg;
  if (!jpeg.read_header(bytes)) return no_jpeg();
  YuvFrame frame;
  const bool planar = planar_layout(jpeg.info(), frame);
  static constexpr uint8_t kSome = 0;
  if (jpeg.info().num_components > 1) frame.planes[1] = &kSome;
  return MjpegHeader{static_cast<int>(jpeg.info().image_width),
                     static_cast<int>(jpeg.info().image_height), planar && yuv_is_exact(frame)};
}

Result<Image> decode_mjpeg(std::span<const uint8_t> bytes, const ClipLimits& limits) {
  Decompressor jpeg;
  if (!jpeg.read_header(bytes)) return no_jpeg();
  jpeg_decompress_struct& info = jpeg.info();
  if (!limits.allows(info.image_width, info.image_height)) {
    return frame_too_large(info.image_width, info.image_height, limits);
  }
  YuvFrame frame;
  if (!planar_layout(info, frame)) {
    ImageOptions options;
    options.exif_transpose = false;
    return decode_jpeg(bytes, options);
  }
  jvirt_barray_ptr* arrays = jpeg.read_coefficients();
  if (!arrays) return no_jpeg();
  Plane planes[3];
  for (int i = 0; i < info.num_components; ++i) {
    if (!decode_plane(jpeg, arrays[i], info.comp_info[i], planes[i])) return no_jpeg();
    frame.planes[i] = planes[i].samples.data();
    frame.strides[i] = planes[i].stride;
  }
  return yuv_to_rgb(frame);
}

}  // namespace videre
