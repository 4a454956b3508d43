#include "media/avi.h"

#include <algorithm>

#include "base/error.h"
#include "media/mjpeg.h"

namespace videre {
namespace {

constexpr size_t kMaxFrames = 16'000'000;  // 24 h at 185 a second
constexpr int kMaxListDepth = 8;

constexpr uint32_t fourcc(const char (&text)[5]) {
  return static_cast<uint32_t>(static_cast<uint8_t>(text[0])) |
         static_cast<uint32_t>(static_cast<uint8_t>(text[1])) << 8 |
         static_cast<uint32_t>(static_cast<uint8_t>(text[2])) << 16 |
         static_cast<uint32_t>(static_cast<uint8_t>(text[3])) << 24;
}

constexpr uint32_t kMjpegCodecs[] = {fourcc("MJPG"), fourcc("mjpg"), fourcc("JPEG"), fourcc("jpeg"),
                                     fourcc("dmb1"), fourcc("AVRn"), fourcc("MJPA")};

class AviParser {
 public:
  explicit AviParser(std::span<const uint8_t> bytes) : bytes_(bytes) {}

  Result<AviClip> parse() {
    uint64_t at = 0;
    while (has(at, 12)) {  // RIFF 'AVI ', then RIFF 'AVIX' parts
      if (u32(at) != fourcc("RIFF")) break;
      const uint64_t end = list_end(at);
      walk(at + 12, end, 0, false);
      at = end + (end & 1);
    }
    if (stream_ < 0) {
      return invalid_argument("", "could not open video stream: the AVI file describes no video");
    }
    if (too_many_) {
      return make_error(ErrorCode::kTooLarge, "", "the AVI file holds more than {} frames",
                        kMaxFrames);
    }
    if (clip_.info.num_frames == 0) {
      clip_.info.num_frames = static_cast<int64_t>(clip_.frames.size());
    }
    return std::move(clip_);
  }

 private:
  bool has(uint64_t at, uint64_t count) const {
    return at <= bytes_.size() && count <= bytes_.size() - at;
  }
  uint32_t u32(uint64_t at) const {
    const uint8_t* p = bytes_.data() + at;
    return static_cast<uint32_t>(p[0]) | static_cast<uint32_t>(p[1]) << 8 |
           static_cast<uint32_t>(p[2]) << 16 | static_cast<uint32_t>(p[3]) << 24;
  }

  /// End of the list at `at`. A writer that was cut off leaves a size of 0 or of all ones: then the
  /// list runs to the file's end.
  uint64_t list_end(uint64_t at) const {
    const uint64_t size = u32(at + 4);
    const uint64_t end = at + 8 + size;
    return size < 4 || end > bytes_.size() ? bytes_.size() : end;
  }

  bool is_stream_chunk(uint32_t id) const {
    const auto digit = [](uint32_t c) { return c >= '0' && c <= '9'; };
    if (!digit(id & 0xff) || !digit(id >> 8 & 0xff)) return false;
    const uint32_t kind = id >> 16;
    return kind == ('d' | 'c' << 8) || kind == ('d' | 'b' << 8) || kind == ('w' | 'b' << 8) ||
           kind == ('t' | 'x' << 8) || kind == ('p' | 'c' << 8);
  }

  /// Known at this place in a file that is not damaged.
  bool is_chunk(uint32_t id, bool in_movi) const {
    if (id == fourcc("LIST") || id == fourcc("JUNK")) return true;
    if (!in_movi) return true;  // headers hold anything; their sizes are trusted within the list
    return is_stream_chunk(id) || (id & 0xffff) == ('i' | 'x' << 8) || id == fourcc("idx1");
  }

  void walk(uint64_t at, uint64_t end, int depth, bool in_movi) {
    while (at + 8 <= end && !too_many_) {
      const uint32_t id = u32(at);
      if (!is_chunk(id, in_movi)) {
        at = resync(at + 1, end);
        continue;
      }
      if (id == fourcc("LIST") && has(at, 12)) {
        const uint32_t kind = u32(at + 8);
        const uint64_t inner_end = std::min(list_end(at), end);
        if (depth < kMaxListDepth && kind != fourcc("INFO")) {
          walk(at + 12, inner_end, depth + 1, in_movi || kind == fourcc("movi"));
        }
        at = inner_end + (inner_end & 1);
        continue;
      }
      const uint64_t size = u32(at + 4);
      const uint64_t data = at + 8;
      if (in_movi) {
        add_frame(id, data, size);
      } else {
        read_header(id, data, std::min<uint64_t>(size, end - data));
      }
      at = data + size + (size & 1);
    }
  }

  /// The next place that looks like a video chunk of a size the list can hold.
  uint64_t resync(uint64_t at, uint64_t end) const {
    for (; at + 8 <= end; ++at) {
      if (is_stream_chunk(u32(at)) && at + 8 + u32(at + 4) <= end) return at;
    }
    return end;
  }

  void add_frame(uint32_t id, uint64_t data, uint64_t size) {
    const uint32_t kind = id >> 16;
    if (stream_ < 0 || !is_stream_chunk(id) ||
        (kind != ('d' | 'c' << 8) && kind != ('d' | 'b' << 8))) {
      return;
    }
    const int stream =
        static_cast<int>((id & 0xff) - '0') * 10 + static_cast<int>((id >> 8 & 0xff) - '0');
    size = std::min<uint64_t>(size, bytes_.size() - std::min<uint64_t>(data, bytes_.size()));
    if (stream != stream_ || size == 0) return;  // an empty chunk repeats the last picture
    if (clip_.frames.size() >= kMaxFrames) {
      too_many_ = true;
      return;
    }
    clip_.frames.push_back({data, size});
  }

  void read_header(uint32_t id, uint64_t data, uint64_t size) {
    if (id == fourcc("avih") && size >= 4) {
      frame_period_us_ = u32(data);
    } else if (id == fourcc("strh")) {
      ++num_streams_;
      in_video_stream_ = size >= 36 && u32(data) == fourcc("vids") && stream_ < 0;
      if (!in_video_stream_) return;
      stream_ = num_streams_ - 1;
      uint32_t scale = u32(data + 20), rate = u32(data + 24);
      if (scale == 0 || rate == 0) {  // as FFmpeg mends it
        scale = frame_period_us_ ? frame_period_us_ : 1;
        rate = frame_period_us_ ? 1'000'000 : 25;
      }
      clip_.info.fps = static_cast<double>(rate) / scale;
      clip_.info.num_frames = u32(data + 32);
    } else if (id == fourcc("strf") && in_video_stream_ && size >= 20) {
      in_video_stream_ = false;
      clip_.info.width = static_cast<int>(std::min<uint32_t>(u32(data + 4), 1u << 30));
      const auto height =
          static_cast<int32_t>(u32(data + 8));  // negative: top-down, no matter here
      clip_.info.height =
          static_cast<int>(std::min<int64_t>(height < 0 ? -int64_t{height} : height, 1 << 30));
      clip_.codec = u32(data + 16);
    }
  }

  std::span<const uint8_t> bytes_;
  AviClip clip_;
  int num_streams_ = 0;
  int stream_ = -1;  // the first video stream
  bool in_video_stream_ = false;
  bool too_many_ = false;
  uint32_t frame_period_us_ = 0;
};

class AviReader : public FrameReader {
 public:
  AviReader(std::span<const uint8_t> bytes, AviClip clip, const ClipLimits& limits)
      : bytes_(bytes), clip_(std::move(clip)), limits_(limits) {}

  const ClipInfo& info() const override { return clip_.info; }

  Result<bool> grab() override {
    while (next_ < clip_.frames.size()) {
      frame_ = clip_.frames[next_++];
      // Counted like FFmpeg's decoder does: chunks without a JPEG give no frame.
      if (read_mjpeg_header(data()).ok()) return true;
      if (limits_.cancelled() || limits_.late()) return false;  // the caller's check names it
    }
    return false;
  }

  Result<Image> retrieve() override { return decode_mjpeg(data(), limits_); }

 private:
  std::span<const uint8_t> data() const { return bytes_.subspan(frame_.offset, frame_.size); }

  std::span<const uint8_t> bytes_;
  AviClip clip_;
  ClipLimits limits_;
  size_t next_ = 0;
  AviChunk frame_;
};

}  // namespace

bool is_avi(std::span<const uint8_t> bytes) {
  static constexpr char kRiff[] = "RIFF", kAvi[] = "AVI ";
  return bytes.size() >= 12 && std::equal(kRiff, kRiff + 4, bytes.begin()) &&
         std::equal(kAvi, kAvi + 4, bytes.begin() + 8);
}

Result<AviClip> parse_avi(std::span<const uint8_t> bytes) {
  if (!is_avi(bytes)) return invalid_argument("", "the clip is not an AVI file");
  return AviParser(bytes).parse();
}

Result<std::unique_ptr<FrameReader>> open_avi(std::span<const uint8_t> bytes,
                                              const ClipLimits& limits, bool* exact) {
  VIDERE_ASSIGN_OR_RETURN(AviClip clip, parse_avi(bytes));
  if (std::find(std::begin(kMjpegCodecs), std::end(kMjpegCodecs), clip.codec) ==
      std::end(kMjpegCodecs)) {
    return make_error(ErrorCode::kUnsupported, "",
                      "the AVI file's codec is not Motion JPEG, the only one read without FFmpeg");
  }
  for (const AviChunk& chunk : clip.frames) {  // the first readable frame gives the true size
    const auto header = read_mjpeg_header(bytes.subspan(chunk.offset, chunk.size));
    if (!header.ok()) {
      if (limits.cancelled() || limits.late()) break;
      continue;
    }
    if (exact) *exact = header->exact && header->height * 4 >= clip.info.height * 3;
    clip.info.width = header->width;
    clip.info.height = header->height;
    break;
  }
  if (!limits.allows(clip.info.width, clip.info.height)) {
    return frame_too_large(clip.info.width, clip.info.height, limits);
  }
  return std::unique_ptr<FrameReader>(std::make_unique<AviReader>(bytes, std::move(clip), limits));
}

}  // namespace videre
