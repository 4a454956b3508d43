#include "media/y4m.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string_view>

#include "base/error.h"
#include "media/yuv.h"

namespace videre {
namespace {

constexpr std::string_view kMagic = "YUV4MPEG2 ";
constexpr std::string_view kFrameMagic = "FRAME";
constexpr size_t kMaxHeaderBytes = 4096;

struct Layout {
  YuvFrame frame;  // planes null until a frame is read
  bool gray = false;
  double fps = 25;  // what FFmpeg takes for an unknown rate
  int64_t plane_bytes[3] = {};
  int64_t frame_bytes = 0;
};

/// The line at `at` without its newline, or nothing when there is none within the limit.
std::optional<std::string_view> line_at(std::span<const uint8_t> bytes, size_t at) {
  if (at >= bytes.size()) return std::nullopt;
  const std::string_view rest(reinterpret_cast<const char*>(bytes.data()) + at,
                              std::min(bytes.size() - at, kMaxHeaderBytes));
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos) return std::nullopt;
  return rest.substr(0, end);
}

bool parse_number(std::string_view text, int64_t& value) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  return error == std::errc() && end == text.data() + text.size();
}

bool parse_rate(std::string_view text, double& fps) {
  const size_t colon = text.find(':');
  int64_t num = 0, den = 0;
  if (colon == std::string_view::npos || !parse_number(text.substr(0, colon), num) ||
      !parse_number(text.substr(colon + 1), den)) {
    return false;
  }
  if (num > 0 && den > 0) fps = static_cast<double>(num) / static_cast<double>(den);
  return true;
}

bool parse_colour_space(std::string_view name, Layout& layout) {
  struct Known {
    std::string_view name;
    int shift_x, shift_y;
  };
  static constexpr Known kKnown[] = {{"420", 1, 1},      {"420jpeg", 1, 1}, {"420mpeg2", 1, 1},
                                     {"420paldv", 1, 1}, {"422", 1, 0},     {"444", 0, 0},
                                     {"411", 2, 0},      {"mono", 0, 0}};
  for (const Known& known : kKnown) {
    if (known.name != name) continue;
    layout.frame.chroma_shift_x = known.shift_x;
    layout.frame.chroma_shift_y = known.shift_y;
    layout.gray = name == "mono";
    return true;
  }
  return false;
}

Result<Layout> parse_header(std::string_view line, const ClipLimits& limits) {
  Layout layout;
  int64_t width = 0, height = 0;
  line.remove_prefix(kMagic.size());
  while (!line.empty()) {
    const size_t space = std::min(line.find(' '), line.size());
    const std::string_view word = line.substr(0, space);
    line.remove_prefix(std::min(space + 1, line.size()));
    if (word.empty()) continue;
    const std::string_view value = word.substr(1);
    const auto bad = [&] {  // the field's own bytes are not quoted: they may be anything
      return invalid_argument(
          "",
          "the {} field of the Y4M header cannot be read; expected W, H and F like W640 H480 F30:1",
          word[0]);
    };
    switch (word[0]) {
      case 'W':
        if (!parse_number(value, width)) return bad();
        break;
      case 'H':
        if (!parse_number(value, height)) return bad();
        break;
      case 'F':
        if (!parse_rate(value, layout.fps)) return bad();
        break;
      case 'C':
        if (!parse_colour_space(value, layout)) {
          return make_error(ErrorCode::kUnsupported, "",
                            "the Y4M clip's colour space is not read here; expected 8-bit 420, "
                            "422, 444, 411 or mono");
        }
        break;
      case 'X':
        if (value == "COLORRANGE=FULL") layout.frame.full_range = true;
        break;
      default:
        break;  // interlacing and aspect do not change the samples
    }
  }
  if (width <= 0 || height <= 0) {
    return invalid_argument("", "the Y4M header gives no size; expected W and H above 0");
  }
  if (!limits.allows(width, height)) return frame_too_large(width, height, limits);
  layout.frame.width = static_cast<int>(width);
  layout.frame.height = static_cast<int>(height);
  const auto cover = [](int64_t length, int shift) { return (length + (1 << shift) - 1) >> shift; };
  const int64_t chroma_width = cover(width, layout.frame.chroma_shift_x);
  layout.frame.strides[0] = width;
  layout.frame.strides[1] = layout.frame.strides[2] = chroma_width;
  layout.plane_bytes[0] = width * height;
  if (!layout.gray) {
    layout.plane_bytes[1] = layout.plane_bytes[2] =
        chroma_width * cover(height, layout.frame.chroma_shift_y);
  }
  for (const int64_t bytes : layout.plane_bytes) layout.frame_bytes += bytes;
  return layout;
}

class Y4mReader : public FrameReader {
 public:
  Y4mReader(std::span<const uint8_t> bytes, size_t first_frame, const Layout& layout)
      : bytes_(bytes), next_(first_frame), layout_(layout) {
    info_.width = layout.frame.width;
    info_.height = layout.frame.height;
    info_.fps = layout.fps;
    // As FFmpeg counts: every frame is taken to have the bare header "FRAME\n".
    const auto packet = static_cast<double>(layout.frame_bytes + 6);
    info_.num_frames =
        static_cast<int64_t>(static_cast<double>(bytes.size() - first_frame) / packet);
  }

  const ClipInfo& info() const override { return info_; }

  Result<bool> grab() override {
    const auto line = line_at(bytes_, next_);
    if (!line || !line->starts_with(kFrameMagic)) return false;
    const size_t data = next_ + line->size() + 1;
    if (bytes_.size() - data < static_cast<size_t>(layout_.frame_bytes)) return false;
    data_ = data;
    next_ = data + static_cast<size_t>(layout_.frame_bytes);
    return true;
  }

  Result<Image> retrieve() override {
    YuvFrame frame = layout_.frame;
    const uint8_t* plane = bytes_.data() + data_;
    for (int i = 0; i < (layout_.gray ? 1 : 3); ++i) {
      frame.planes[i] = plane;
      plane += layout_.plane_bytes[i];
    }
    return yuv_to_rgb(frame);
  }

 private:
  std::span<const uint8_t> bytes_;
  size_t next_;      // of the next frame's header
  size_t data_ = 0;  // of the grabbed frame's samples
  Layout layout_;
  ClipInfo info_;
};

}  // namespace

bool is_y4m(std::span<const uint8_t> bytes) {
  return bytes.size() >= kMagic.size() && std::equal(kMagic.begin(), kMagic.end(), bytes.begin());
}

Result<std::unique_ptr<FrameReader>> open_y4m(std::span<const uint8_t> bytes,
                                              const ClipLimits& limits, bool* exact) {
  const auto line = line_at(bytes, 0);
  if (!is_y4m(bytes) || !line) {
    return invalid_argument("", "the Y4M clip has no complete header line");
  }
  VIDERE_ASSIGN_OR_RETURN(const Layout layout, parse_header(*line, limits));
  if (exact) {
    YuvFrame probe = layout.frame;
    if (!layout.gray) probe.planes[1] = bytes.data();
    *exact = yuv_is_exact(probe);
  }
  return std::unique_ptr<FrameReader>(std::make_unique<Y4mReader>(bytes, line->size() + 1, layout));
}

}  // namespace videre
