// JPEG through libjpeg-turbo with its defaults (accurate inverse DCT, smooth chroma), which are
// Pillow's. libjpeg leaves errors by longjmp, so each call into it stands in a member function that
// holds no object with a destructor.
#include <algorithm>
#include <csetjmp>
#include <cstdio>  // jpeglib.h needs it
#include <cstring>

// clang-format off
#include <jpeglib.h>
#include <jerror.h>
// clang-format on

#include "media/exif.h"
#include "media/image_codecs.h"

namespace videre::internal {
namespace {

// A progressive picture has some ten scans; each further one costs a pass over all coefficients.
constexpr int kMaxScans = 100;
// Coefficients of a progressive picture at the pixel limit, four components.
constexpr long kMaxDecoderBytes = 1'600'000'000;
constexpr int kExifMarker = JPEG_APP0 + 1;

struct JpegErrors {
  jpeg_error_mgr manager;
  jmp_buf on_error;
  bool truncated = false;
  bool out_of_memory = false;
};

[[noreturn]] void leave(j_common_ptr info) {
  auto* errors = reinterpret_cast<JpegErrors*>(info->err);
  const int code = info->err->msg_code;
  if (code == JERR_OUT_OF_MEMORY || code == JERR_NO_BACKING_STORE) errors->out_of_memory = true;
  if (code == JERR_INPUT_EOF || code == JERR_INPUT_EMPTY) errors->truncated = true;
  longjmp(errors->on_error, 1);
}

void note_warning(j_common_ptr info, int level) {
  if (level >= 0) return;
  // libjpeg would fill up with gray; a picture that ends early is refused instead. Other oddities
  // (stray bytes, a damaged segment) are shown as they come, as Pillow does.
  if (info->err->msg_code == JWRN_JPEG_EOF) {
    reinterpret_cast<JpegErrors*>(info->err)->truncated = true;
    leave(info);
  }
}

void say_nothing(j_common_ptr) {}

void limit_scans(j_common_ptr info) {
  if (reinterpret_cast<j_decompress_ptr>(info)->input_scan_number > kMaxScans) leave(info);
}

class JpegDecoder {
 public:
  JpegDecoder() {
    info_.err = jpeg_std_error(&errors_.manager);
    errors_.manager.error_exit = leave;
    errors_.manager.emit_message = note_warning;
    errors_.manager.output_message = say_nothing;
    progress_.progress_monitor = limit_scans;
  }
  ~JpegDecoder() {
    if (created_) jpeg_destroy_decompress(&info_);
  }
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;

  bool read_header(std::span<const uint8_t> bytes) {
    if (setjmp(errors_.on_error)) return false;
    jpeg_create_decompress(&info_);
    created_ = true;
    info_.progress = &progress_;
    info_.mem->max_memory_to_use = kMaxDecoderBytes;
    jpeg_mem_src(&info_, bytes.data(), bytes.size());
    jpeg_save_markers(&info_, kExifMarker, 0xffff);
    return jpeg_read_header(&info_, TRUE) == JPEG_HEADER_OK;
  }

  // Motion JPEG without Huffman tables: libjpeg-turbo puts the standard ones in.
  bool start() {
    if (setjmp(errors_.on_error)) return false;
    info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : JCS_RGB;
    return jpeg_start_decompress(&info_) == TRUE;
  }

  // Reads up to `num_rows` <= kRowsPerCall rows of `row_bytes` each; the number read, 0 on failure.
  int read_rows(uint8_t* out, int64_t row_bytes, const int num_rows) {
    if (setjmp(errors_.on_error)) return 0;
    JSAMPROW rows[kRowsPerCall];
    for (int i = 0; i < num_rows; ++i) rows[i] = out + i * row_bytes;
    return static_cast<int>(jpeg_read_scanlines(&info_, rows, static_cast<JDIMENSION>(num_rows)));
  }

  const jpeg_decompress_struct& info() const { return info_; }

  Error error() const {
    if (errors_.out_of_memory) {
      return make_error(ErrorCode::kTooLarge, "",
                        "failed to load image: the JPEG file needs more memory to decode than is "
                        "allowed; resize it, or save it as a baseline JPEG");
    }
    return errors_.truncated ? truncated_image("JPEG") : corrupt_image("JPEG");
  }

  static constexpr int kRowsPerCall = 16;

 private:
  jpeg_decompress_struct info_{};
  jpeg_progress_mgr progress_{};
  JpegErrors errors_{};
  bool created_ = false;
};

int stored_orientation(const jpeg_decompress_struct& info) {
  constexpr std::string_view kExif("Exif\0\0", 6);
  constexpr std::string_view kXmp("http://ns.adobe.com/xap/1.0/\0", 29);
  std::optional<int> exif, xmp;
  for (auto* marker = info.marker_list; marker; marker = marker->next) {
    const std::span<const uint8_t> data(marker->data, marker->data_length);
    const std::string_view text(reinterpret_cast<const char*>(data.data()), data.size());
    if (!exif && text.starts_with(kExif)) exif = exif_orientation(data);
    if (!xmp && text.starts_with(kXmp)) xmp = xmp_orientation(data.subspan(kXmp.size()));
  }
  return exif ? *exif : xmp.value_or(1);
}

}  // namespace

Result<Picture> decode_jpeg_picture(std::span<const uint8_t> bytes, const ImageOptions& options) {
  JpegDecoder decoder;
  if (!decoder.read_header(bytes)) return decoder.error();
  const auto& info = decoder.info();
  VIDERE_RETURN_IF_ERROR(check_image_size("JPEG", info.image_width, info.image_height, options));
  if (info.data_precision != 8) {
    return unsupported_image(fmt::format("a JPEG with {} bits a sample", info.data_precision));
  }
  if (info.num_components != 1 && info.num_components != 3 && info.num_components != 4) {
    return unsupported_image(fmt::format("a JPEG with {} components", info.num_components));
  }
  Picture picture;
  picture.orientation = stored_orientation(info);
  if (!decoder.start()) return decoder.error();

  const int width = static_cast<int>(info.image_width);
  const int height = static_cast<int>(info.image_height);
  picture.image = make_image(width, height);
  const int64_t row_bytes = int64_t{3} * width;
  uint8_t* out = picture.image.rgb.data();
  if (info.num_components != 4) {
    for (int y = 0; y < height;) {
      const int num_read = decoder.read_rows(out + y * row_bytes, row_bytes,
                                             std::min(height - y, JpegDecoder::kRowsPerCall));
      if (num_read <= 0) return decoder.error();
      y += num_read;
    }
    return picture;
  }
  // CMYK in JPEG is stored inverted (Adobe's habit); Pillow takes that for granted.
  std::vector<uint8_t> row(static_cast<size_t>(width) * 4);
  for (int y = 0; y < height; ++y) {
    if (decoder.read_rows(row.data(), static_cast<int64_t>(row.size()), 1) != 1) {
      return decoder.error();
    }
    for (auto& ink : row) ink = static_cast<uint8_t>(255 - ink);
    for (int x = 0; x < width; ++x) cmyk_to_rgb(&row[4 * static_cast<size_t>(x)], out + 3 * x);
    out += row_bytes;
  }
  return picture;
}

}  // namespace videre::internal
