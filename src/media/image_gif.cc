// GIF through giflib: the first frame as Pillow shows it, and animations composed on their canvas
// with the disposal of each frame.
#include <gif_lib.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "media/image_codecs.h"

namespace videre::internal {
namespace {

struct GifCloser {
  void operator()(GifFileType* file) const {
    int ignored = 0;
    DGifCloseFile(file, &ignored);
  }
};

struct FrameHeader {
  int left = 0, top = 0, width = 0, height = 0;
  bool interlaced = false;
  int duration_ms = 0;
  int disposal = DISPOSAL_UNSPECIFIED;
  int transparent = NO_TRANSPARENT_COLOR;  // palette index
  Palette palette;
};

class GifReader {
 public:
  explicit GifReader(std::span<const uint8_t> bytes) : rest_(bytes) {
    int ignored = 0;
    file_.reset(DGifOpen(this, read, &ignored));
  }

  bool is_open() const { return file_ != nullptr; }
  int width() const { return file_->SWidth; }
  int height() const { return file_->SHeight; }

  // Moves to the next frame's pixels; false at the end of the file.
  Result<bool> next(FrameHeader& frame) {
    frame.duration_ms = 0;
    frame.disposal = DISPOSAL_UNSPECIFIED;
    frame.transparent = NO_TRANSPARENT_COLOR;
    while (true) {
      GifRecordType record;
      if (DGifGetRecordType(file_.get(), &record) == GIF_ERROR) return error();
      if (record == TERMINATE_RECORD_TYPE) return false;
      if (record == EXTENSION_RECORD_TYPE) {
        VIDERE_RETURN_IF_ERROR(read_extension(frame));
      } else if (record == IMAGE_DESC_RECORD_TYPE) {
        VIDERE_RETURN_IF_ERROR(read_descriptor(frame));
        return true;
      }
    }
  }

  // Palette indices of the frame reached, [height, width].
  Status read_indices(const FrameHeader& frame, std::vector<uint8_t>& indices) {
    indices.resize(static_cast<size_t>(frame.width) * frame.height);
    const int starts[] = {0, 4, 2, 1}, steps[] = {8, 8, 4, 2};
    const int num_passes = frame.interlaced ? 4 : 1;
    for (int pass = 0; pass < num_passes; ++pass) {
      const int step = frame.interlaced ? steps[pass] : 1;
      for (int y = frame.interlaced ? starts[pass] : 0; y < frame.height; y += step) {
        if (DGifGetLine(file_.get(), indices.data() + static_cast<size_t>(y) * frame.width,
                        frame.width) == GIF_ERROR) {
          return error();
        }
      }
    }
    return {};
  }

  Status skip_indices() {
    int code_size = 0;
    GifByteType* block = nullptr;
    if (DGifGetCode(file_.get(), &code_size, &block) == GIF_ERROR) return error();
    while (block) {
      if (DGifGetCodeNext(file_.get(), &block) == GIF_ERROR) return error();
    }
    return {};
  }

  Error error() const { return truncated_ ? truncated_image("GIF") : corrupt_image("GIF"); }

 private:
  static int read(GifFileType* file, GifByteType* out, int num_bytes) {
    auto* self = static_cast<GifReader*>(file->UserData);
    if (num_bytes < 0) return 0;
    const size_t num_read = std::min(self->rest_.size(), static_cast<size_t>(num_bytes));
    if (num_read < static_cast<size_t>(num_bytes)) self->truncated_ = true;
    std::memcpy(out, self->rest_.data(), num_read);
    self->rest_ = self->rest_.subspan(num_read);
    return static_cast<int>(num_read);
  }

  Status read_extension(FrameHeader& frame) {
    int code = 0;
    GifByteType* block = nullptr;  // length, then that many bytes
    if (DGifGetExtension(file_.get(), &code, &block) == GIF_ERROR) return error();
    while (block) {
      GraphicsControlBlock control;
      if (code == GRAPHICS_EXT_FUNC_CODE &&
          DGifExtensionToGCB(block[0], block + 1, &control) == GIF_OK) {
        frame.duration_ms = control.DelayTime * 10;
        frame.disposal = control.DisposalMode;
        frame.transparent = control.TransparentColor;
      }
      if (DGifGetExtensionNext(file_.get(), &block) == GIF_ERROR) return error();
    }
    return {};
  }

  Status read_descriptor(FrameHeader& frame) {
    if (DGifGetImageDesc(file_.get()) == GIF_ERROR) return error();
    const GifImageDesc& image = file_->Image;
    frame.left = image.Left;
    frame.top = image.Top;
    frame.width = image.Width;
    frame.height = image.Height;
    frame.interlaced = image.Interlace;
    const ColorMapObject* map = image.ColorMap ? image.ColorMap : file_->SColorMap;
    frame.palette = Palette();
    for (int i = 0; i < 256; ++i) {
      auto& entry = frame.palette.entries[i];
      const auto gray = static_cast<uint8_t>(i);
      if (!map) entry = {gray, gray, gray, 255};  // no palette at all: indices are gray values
      if (map && i < map->ColorCount) {
        entry = {map->Colors[i].Red, map->Colors[i].Green, map->Colors[i].Blue, 255};
      }
    }
    if (frame.transparent >= 0 && frame.transparent < 256) {
      frame.palette.entries[frame.transparent][3] = 0;
    }
    // giflib keeps a list of all frames that nobody reads here; long clips must not grow it.
    GifFreeSavedImages(file_.get());
    file_->SavedImages = nullptr;
    file_->ImageCount = 0;
    return {};
  }

  std::span<const uint8_t> rest_;
  std::unique_ptr<GifFileType, GifCloser> file_;
  bool truncated_ = false;
};

// Opens, reads the first frame's header and settles the canvas: the screen, or larger when the
// first frame reaches past it (Pillow's rule).
Status open_gif(GifReader& reader, const ImageOptions& options, FrameHeader& frame, int& width,
                int& height) {
  if (!reader.is_open()) return reader.error();
  VIDERE_ASSIGN_OR_RETURN(const bool has_frame, reader.next(frame));
  if (!has_frame) return corrupt_image("GIF");
  width = std::max(reader.width(), frame.left + frame.width);
  height = std::max(reader.height(), frame.top + frame.height);
  return check_image_size("GIF", width, height, options);
}

// The pixels of a clip so far, R G B A.
class Canvas {
 public:
  Canvas(int width, int height)
      : width_(width), height_(height), rgba_(static_cast<size_t>(width) * height * 4) {}

  // What Pillow shows where the first frame leaves the canvas bare: the transparent entry, or the
  // palette's first.
  void fill(const FrameHeader& frame) {
    const auto& entry = frame.palette.entries[frame.transparent >= 0 ? frame.transparent : 0];
    for (size_t i = 0; i < rgba_.size(); i += 4) std::memcpy(&rgba_[i], entry.data(), 4);
  }

  void draw(const FrameHeader& frame, const std::vector<uint8_t>& indices) {
    if (frame.disposal == DISPOSE_PREVIOUS) saved_ = rgba_;
    const int x_end = std::min(frame.width, width_ - frame.left);
    const int y_end = std::min(frame.height, height_ - frame.top);
    for (int y = 0; y < y_end && x_end > 0; ++y) {
      const uint8_t* row = indices.data() + static_cast<size_t>(y) * frame.width;
      uint8_t* out = at(frame.left, frame.top + y);
      for (int x = 0; x < x_end; ++x) {
        if (row[x] != frame.transparent) {
          std::memcpy(out + 4 * x, frame.palette.entries[row[x]].data(), 4);
        }
      }
    }
  }

  void dispose(const FrameHeader& frame) {
    if (frame.disposal == DISPOSE_PREVIOUS) rgba_.swap(saved_);
    if (frame.disposal != DISPOSE_BACKGROUND) return;
    const int x_end = std::min(frame.width, width_ - frame.left);
    const int y_end = std::min(frame.height, height_ - frame.top);
    for (int y = 0; y < y_end && x_end > 0; ++y) {
      std::memset(at(frame.left, frame.top + y), 0, static_cast<size_t>(x_end) * 4);
    }
  }

  void show(const std::array<uint8_t, 3>& background, Image& image) const {
    for (int y = 0; y < height_; ++y) {
      const size_t row = static_cast<size_t>(y) * width_;
      composite_row(rgba_.data() + 4 * row, width_, background, image.rgb.data() + 3 * row);
    }
  }

 private:
  uint8_t* at(int x, int y) { return rgba_.data() + 4 * (static_cast<size_t>(y) * width_ + x); }

  int width_, height_;
  std::vector<uint8_t> rgba_, saved_;
};

}  // namespace

Result<AnimationInfo> read_gif_info(std::span<const uint8_t> bytes, const ImageOptions& options) {
  GifReader reader(bytes);
  FrameHeader frame;
  AnimationInfo info;
  VIDERE_RETURN_IF_ERROR(open_gif(reader, options, frame, info.width, info.height));
  // A clip that breaks off has the frames before the break, if any.
  while (reader.skip_indices().ok()) {
    info.durations_ms.push_back(frame.duration_ms);
    const auto more = reader.next(frame);
    if (!more.ok() || !*more) break;
  }
  info.num_frames = static_cast<int64_t>(info.durations_ms.size());
  if (info.num_frames == 0) return reader.error();
  return info;
}

Status decode_gif_frames(std::span<const uint8_t> bytes, const ImageOptions& options,
                         const FrameVisitor& visit) {
  GifReader reader(bytes);
  FrameHeader frame;
  int width = 0, height = 0;
  VIDERE_RETURN_IF_ERROR(open_gif(reader, options, frame, width, height));
  Canvas canvas(width, height);
  canvas.fill(frame);
  Image image = make_image(width, height);
  std::vector<uint8_t> indices;
  for (int64_t i = 0;; ++i) {
    // Clips may hold frames past the canvas; nothing of their size is taken before this check.
    VIDERE_RETURN_IF_ERROR(
        check_image_size("GIF", std::max(frame.width, 1), std::max(frame.height, 1), options));
    VIDERE_RETURN_IF_ERROR(reader.read_indices(frame, indices));
    canvas.draw(frame, indices);
    canvas.show(options.rgba_background_color, image);
    if (!visit(i, image)) return {};
    canvas.dispose(frame);
    VIDERE_ASSIGN_OR_RETURN(const bool more, reader.next(frame));
    if (!more) return {};
  }
}

Result<Picture> decode_gif(std::span<const uint8_t> bytes, const ImageOptions& options) {
  Picture picture;
  VIDERE_RETURN_IF_ERROR(decode_gif_frames(bytes, options, [&](int64_t, const Image& frame) {
    picture.image = frame;
    return false;
  }));
  return picture;
}

}  // namespace videre::internal
