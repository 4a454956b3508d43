#include "media/video_ffmpeg.h"

#include "base/error.h"
#include "media/video.h"

#ifdef VIDERE_HAVE_FFMPEG

#include <dlfcn.h>

#include <algorithm>
#include <cmath>
#include <cstring>

extern "C" {
#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
}

namespace videre {
namespace {

constexpr int kIoBufferBytes = 1 << 16;
constexpr int kDecoderThreads = 2;
constexpr int kMaxStreams = 256;
// What OpenCV allows before it gives a clip up.
constexpr int kMaxErrorsInARow = 4096;
// Containers that hold their media themselves. Playlists (hls, dash, concat) and image sequences,
// which name other files, stay out.
constexpr char kDemuxers[] =
    "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,asf,ogg,gif,"
    "ivf,h264,hevc,m4v,mpegvideo,mjpeg,yuv4mpegpipe,obu,av1,apng";

// clang-format off
#define VIDERE_FFMPEG_FUNCTIONS(X)                        \
  X(avformat, avformat_alloc_context)                     \
  X(avformat, avformat_open_input)                        \
  X(avformat, avformat_find_stream_info)                  \
  X(avformat, avformat_close_input)                       \
  X(avformat, avio_alloc_context)                         \
  X(avformat, avio_context_free)                          \
  X(avformat, av_read_frame)                              \
  X(avformat, avformat_version)                           \
  X(avcodec, avcodec_find_decoder)                        \
  X(avcodec, avcodec_alloc_context3)                      \
  X(avcodec, avcodec_free_context)                        \
  X(avcodec, avcodec_parameters_to_context)               \
  X(avcodec, avcodec_open2)                               \
  X(avcodec, avcodec_send_packet)                         \
  X(avcodec, avcodec_receive_frame)                       \
  X(avcodec, av_packet_alloc)                             \
  X(avcodec, av_packet_free)                              \
  X(avcodec, av_packet_unref)                             \
  X(avutil, av_frame_alloc)                               \
  X(avutil, av_frame_free)                                \
  X(avutil, av_frame_get_side_data)                       \
  X(avutil, av_malloc)                                    \
  X(avutil, av_free)                                      \
  X(avutil, av_freep)                                     \
  X(avutil, av_dict_set)                                  \
  X(avutil, av_dict_free)                                 \
  X(avutil, av_display_rotation_get)                      \
  X(avutil, av_log_set_level)                             \
  X(avutil, av_frame_unref)                               \
  X(swscale, sws_getContext)                              \
  X(swscale, sws_freeContext)                             \
  X(swscale, sws_scale)                                   \
  X(swscale, sws_getCoefficients)                         \
  X(swscale, sws_setColorspaceDetails)
// clang-format on

struct Libraries {
#define VIDERE_DECLARE(library, name) decltype(&::name) name = nullptr;
  VIDERE_FFMPEG_FUNCTIONS(VIDERE_DECLARE)
#undef VIDERE_DECLARE
#if LIBAVFORMAT_VERSION_MAJOR < 61
  decltype(&::av_stream_get_side_data) av_stream_get_side_data = nullptr;
#endif
  bool ready = false;
  std::string text;  // versions, or what is missing

  Libraries() {
    struct Wanted {
      const char* name;
      int major;
      void* handle;
    };
    // Those the others need come first.
    Wanted wanted[] = {{"avutil", LIBAVUTIL_VERSION_MAJOR, nullptr},
                       {"swscale", LIBSWSCALE_VERSION_MAJOR, nullptr},
                       {"avcodec", LIBAVCODEC_VERSION_MAJOR, nullptr},
                       {"avformat", LIBAVFORMAT_VERSION_MAJOR, nullptr}};
    for (Wanted& library : wanted) {
      const std::string file = fmt::format("lib{}.so.{}", library.name, library.major);
      library.handle = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (!library.handle) {
        text = fmt::format(
            "{} is not installed, so only Y4M, Motion-JPEG AVI, animated GIF and WebP clips and "
            "lists of JPEG frames are read; for other clips install FFmpeg's libraries (package "
            "libavformat{} and what it needs)",
            file, LIBAVFORMAT_VERSION_MAJOR);
        return;
      }
    }
    const auto find = [&](const char* library, const char* symbol) -> void* {
      for (const Wanted& have : wanted) {
        if (std::strcmp(have.name, library) == 0) return ::dlsym(have.handle, symbol);
      }
      return nullptr;
    };
#define VIDERE_LOAD(library, name)                                                 \
  this->name = reinterpret_cast<decltype(&::name)>(find(#library, #name));         \
  if (!this->name) {                                                               \
    text = "the installed FFmpeg libraries lack " #name "; install complete ones"; \
    return;                                                                        \
  }
    VIDERE_FFMPEG_FUNCTIONS(VIDERE_LOAD)
#if LIBAVFORMAT_VERSION_MAJOR < 61
    VIDERE_LOAD(avformat, av_stream_get_side_data)
#endif
#undef VIDERE_LOAD
    av_log_set_level(AV_LOG_QUIET);  // its texts may quote the input, and say nothing to a user
    const unsigned version = avformat_version();
    text = fmt::format("libavformat {}.{}.{}", version >> 16, version >> 8 & 0xff, version & 0xff);
    ready = true;
  }
};

const Libraries& libraries() {
  static const Libraries kLibraries;
  return kLibraries;
}

/// The clip's bytes as FFmpeg's only input.
struct MemoryInput {
  std::span<const uint8_t> bytes;
  int64_t at = 0;

  static int read(void* self, uint8_t* out, int count) {
    auto& input = *static_cast<MemoryInput*>(self);
    const int64_t left = static_cast<int64_t>(input.bytes.size()) - input.at;
    if (left <= 0) return AVERROR_EOF;
    const int64_t take = std::min<int64_t>(left, count);
    std::memcpy(out, input.bytes.data() + input.at, static_cast<size_t>(take));
    input.at += take;
    return static_cast<int>(take);
  }
  static int64_t seek(void* self, int64_t offset, int whence) {
    auto& input = *static_cast<MemoryInput*>(self);
    const auto size = static_cast<int64_t>(input.bytes.size());
    if (whence & AVSEEK_SIZE) return size;
    int64_t base = 0;
    if ((whence & 3) == SEEK_CUR) base = input.at;
    if ((whence & 3) == SEEK_END) base = size;
    int64_t target = 0;
    if (__builtin_add_overflow(base, offset, &target) || target < 0) return AVERROR(EINVAL);
    input.at = std::min(target, size);
    return input.at;
  }
};

int refuse_open(AVFormatContext*, AVIOContext**, const char*, int, AVDictionary**) {
  return AVERROR(EACCES);
}

int interrupted(void* limits) {
  const auto& bound = *static_cast<const ClipLimits*>(limits);
  return bound.cancelled() || bound.late();
}

void rotate(Image& image, int quarter_turns) {
  const int width = image.width, height = image.height;
  if (quarter_turns == 2) {
    Image turned{width, height, std::vector<uint8_t>(image.rgb.size())};
    const size_t pixels = image.rgb.size() / 3;
    for (size_t i = 0; i < pixels; ++i) {
      std::memcpy(&turned.rgb[3 * i], &image.rgb[3 * (pixels - 1 - i)], 3);
    }
    image = std::move(turned);
    return;
  }
  if (quarter_turns != 1 && quarter_turns != 3) return;
  Image turned{height, width, std::vector<uint8_t>(image.rgb.size())};
  for (int y = 0; y < width; ++y) {
    for (int x = 0; x < height; ++x) {
      const int from_x = quarter_turns == 1 ? y : width - 1 - y;
      const int from_y = quarter_turns == 1 ? height - 1 - x : x;
      std::memcpy(&turned.rgb[3 * (static_cast<size_t>(y) * static_cast<size_t>(height) +
                                   static_cast<size_t>(x))],
                  &image.rgb[3 * (static_cast<size_t>(from_y) * static_cast<size_t>(width) +
                                  static_cast<size_t>(from_x))],
                  3);
    }
  }
  image = std::move(turned);
}

class FfmpegReader : public FrameReader {
 public:
  FfmpegReader(std::span<const uint8_t> bytes, const ClipLimits& limits)
      : ff_(libraries()), input_{bytes}, limits_(limits) {}

  ~FfmpegReader() override {
    ff_.av_frame_free(&frame_);
    ff_.av_packet_free(&packet_);
    ff_.avcodec_free_context(&codec_);
    if (format_) ff_.avformat_close_input(&format_);
    if (io_) {
      ff_.av_freep(&io_->buffer);
      ff_.avio_context_free(&io_);
    }
    ff_.sws_freeContext(scaler_);
  }

  Status open() {
    format_ = ff_.avformat_alloc_context();
    auto* buffer = static_cast<uint8_t*>(ff_.av_malloc(kIoBufferBytes));
    if (buffer) {
      io_ = ff_.avio_alloc_context(buffer, kIoBufferBytes, 0, &input_, MemoryInput::read, nullptr,
                                   MemoryInput::seek);
      if (!io_) ff_.av_free(buffer);
    }
    packet_ = ff_.av_packet_alloc();
    frame_ = ff_.av_frame_alloc();
    if (!format_ || !io_ || !packet_ || !frame_) return internal_error("no memory for FFmpeg");
    format_->pb = io_;
    format_->flags |= AVFMT_FLAG_CUSTOM_IO;
    format_->io_open = refuse_open;
    format_->interrupt_callback = {interrupted, &limits_};
    format_->max_streams = kMaxStreams;
    AVDictionary* options = nullptr;
    ff_.av_dict_set(&options, "format_whitelist", kDemuxers, 0);
    ff_.av_dict_set(&options, "protocol_whitelist", "", 0);
    // On failure this frees the context, though not the input.
    const int opened = ff_.avformat_open_input(&format_, "", nullptr, &options);
    ff_.av_dict_free(&options);
    if (opened < 0 || ff_.avformat_find_stream_info(format_, nullptr) < 0) return not_a_video();
    VIDERE_RETURN_IF_ERROR(open_decoder());
    describe();
    return {};
  }

  const ClipInfo& info() const override { return info_; }

  Result<bool> grab() override {
    ff_.av_frame_unref(frame_);
    int errors = 0;
    while (errors < kMaxErrorsInARow && !interrupted(&limits_)) {
      const int got = ff_.avcodec_receive_frame(codec_, frame_);
      if (got >= 0) return true;
      if (got == AVERROR_EOF) return false;
      if (got != AVERROR(EAGAIN)) {
        ++errors;
        continue;
      }
      if (!feed()) ++errors;
    }
    return false;
  }

  Result<Image> retrieve() override {
    if (!limits_.allows(frame_->width, frame_->height)) {
      return frame_too_large(frame_->width, frame_->height, limits_);
    }
    if (!prepare_scaler()) {
      return invalid_argument(
          "", "a frame of the clip has a pixel format that cannot be converted to RGB");
    }
    // The SIMD converters write whole blocks, so rows are padded as OpenCV's are.
    const int stride = (frame_->width * 3 + 63) / 64 * 64 + 64;
    const size_t needed = static_cast<size_t>(stride) * static_cast<size_t>(frame_->height) + 64;
    if (bgr_.size() < needed + 64) bgr_.resize(needed + 64);
    auto* aligned = reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(bgr_.data()) + 63) &
                                               ~uintptr_t{63});
    uint8_t* planes[4] = {aligned, nullptr, nullptr, nullptr};
    const int strides[4] = {stride, 0, 0, 0};
    ff_.sws_scale(scaler_, frame_->data, frame_->linesize, 0, frame_->height, planes, strides);
    Image image{frame_->width, frame_->height,
                std::vector<uint8_t>(static_cast<size_t>(frame_->width) *
                                     static_cast<size_t>(frame_->height) * 3)};
    uint8_t* out = image.rgb.data();
    for (int y = 0; y < frame_->height; ++y) {
      const uint8_t* row = aligned + static_cast<int64_t>(y) * stride;
      for (int x = 0; x < frame_->width; ++x, out += 3, row += 3) {
        out[0] = row[2];
        out[1] = row[1];
        out[2] = row[0];
      }
    }
    rotate(image, quarter_turns_);
    return image;
  }

 private:
  Error not_a_video() const {
    if (limits_.cancelled())
      return make_error(ErrorCode::kCancelled, "", "the request was cancelled");
    if (limits_.late()) {
      return make_error(ErrorCode::kTooLarge, "",
                        "the video could not be opened in the time allowed");
    }
    return invalid_argument("",
                            "could not open video stream: the bytes are no clip of a known format");
  }

  Status open_decoder() {
    stream_ = -1;
    for (unsigned i = 0; i < format_->nb_streams; ++i) {
      if (format_->streams[i]->codecpar->codec_type == AVMEDIA_TYPE_VIDEO) {
        stream_ = static_cast<int>(i);
        break;
      }
    }
    if (stream_ < 0) {
      return invalid_argument("", "could not open video stream: the file holds no video");
    }
    const AVCodecParameters* parameters = format_->streams[stream_]->codecpar;
    if (!limits_.allows(parameters->width, parameters->height)) {
      if (parameters->width > 0 && parameters->height > 0) {
        return frame_too_large(parameters->width, parameters->height, limits_);
      }
      return invalid_argument("", "could not open video stream: the frame size is not known");
    }
    const AVCodec* decoder = ff_.avcodec_find_decoder(parameters->codec_id);
    if (!decoder) {
      return make_error(ErrorCode::kInvalidArgument, "",
                        "could not open video stream: the installed FFmpeg has no decoder for it");
    }
    codec_ = ff_.avcodec_alloc_context3(decoder);
    if (!codec_ || ff_.avcodec_parameters_to_context(codec_, parameters) < 0) {
      return internal_error("no memory for FFmpeg's decoder");
    }
    codec_->thread_count = kDecoderThreads;
    codec_->max_pixels = limits_.max_frame_pixels;
    if (ff_.avcodec_open2(codec_, decoder, nullptr) < 0) {
      return invalid_argument("", "could not open video stream: its decoder refuses it");
    }
    return {};
  }

  /// Size, rate and count by OpenCV's rules.
  void describe() {
    AVStream* stream = format_->streams[stream_];
    const AVRational rate = stream->avg_frame_rate;
    const auto quotient = [](AVRational r) {
      return r.num == 0 || r.den == 0 ? 0.0 : static_cast<double>(r.num) / r.den;
    };
    info_.fps = quotient(rate);
    if (info_.fps <= 0) {
      const double period = quotient(stream->time_base);
      info_.fps = period > 0 ? 1 / period : 0;
    }
    double duration = static_cast<double>(format_->duration) / AV_TIME_BASE;
    if (format_->duration == AV_NOPTS_VALUE || duration < 1e-6) {
      duration = stream->duration == AV_NOPTS_VALUE
                     ? 0
                     : static_cast<double>(stream->duration) * quotient(stream->time_base);
    }
    info_.num_frames = stream->nb_frames;
    if (info_.num_frames == 0) {
      const double count = std::floor(duration * info_.fps + 0.5);
      info_.num_frames = count > 0 && count < 9e15 ? static_cast<int64_t>(count) : 0;
    }
    info_.width = codec_->width;
    info_.height = codec_->height;
    if (const int32_t* matrix = display_matrix(stream)) {
      const double angle = ff_.av_display_rotation_get(matrix);  // degrees, counter-clockwise
      if (std::isfinite(angle)) {
        const auto turns = static_cast<int>(std::lround(-angle));
        if (turns % 90 == 0) quarter_turns_ = ((turns / 90) % 4 + 4) % 4;
      }
    }
    if (quarter_turns_ % 2 == 1) std::swap(info_.width, info_.height);
  }

  const int32_t* display_matrix(const AVStream* stream) const {
    constexpr size_t kMatrixBytes = 9 * sizeof(int32_t);
#if LIBAVFORMAT_VERSION_MAJOR < 61
    size_t size = 0;
    const uint8_t* data = ff_.av_stream_get_side_data(stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
    return data && size >= kMatrixBytes ? reinterpret_cast<const int32_t*>(data) : nullptr;
#else
    for (int i = 0; i < stream->codecpar->nb_coded_side_data; ++i) {
      const AVPacketSideData& data = stream->codecpar->coded_side_data[i];
      if (data.type == AV_PKT_DATA_DISPLAYMATRIX && data.size >= kMatrixBytes) {
        return reinterpret_cast<const int32_t*>(data.data);
      }
    }
    return nullptr;
#endif
  }

  struct ScalerKey {
    int width = 0, height = 0, format = -1, colour_space = -1;
    bool full_range = false;
    bool operator==(const ScalerKey&) const = default;
  };

  /// Colours by the frame's own matrix and range where the clip states them, BT.601 otherwise, as
  /// OpenCV 5 does.
  bool prepare_scaler() {
    const ScalerKey key{
        frame_->width, frame_->height, frame_->format,
        frame_->colorspace == AVCOL_SPC_UNSPECIFIED ? SWS_CS_DEFAULT : frame_->colorspace,
        frame_->color_range == AVCOL_RANGE_JPEG};
    if (scaler_ && key == scaler_key_) return true;
    ff_.sws_freeContext(scaler_);
    scaler_ =
        ff_.sws_getContext(key.width, key.height, static_cast<AVPixelFormat>(key.format), key.width,
                           key.height, AV_PIX_FMT_BGR24, SWS_BICUBIC, nullptr, nullptr, nullptr);
    scaler_key_ = key;
    if (!scaler_) return false;
    const int* matrix = ff_.sws_getCoefficients(key.colour_space);
    constexpr int kUnit = 1 << 16;  // contrast and saturation
    ff_.sws_setColorspaceDetails(scaler_, matrix, key.full_range, matrix, 1, 0, kUnit, kUnit);
    return true;
  }

  /// Sends the stream's next packet, or the end of it. False when the decoder refused it.
  bool feed() {
    while (ff_.av_read_frame(format_, packet_) >= 0) {
      if (packet_->stream_index != stream_) {
        ff_.av_packet_unref(packet_);
        if (interrupted(&limits_)) return false;
        continue;
      }
      const int sent = ff_.avcodec_send_packet(codec_, packet_);
      ff_.av_packet_unref(packet_);
      return sent >= 0;
    }
    return ff_.avcodec_send_packet(codec_, nullptr) >= 0;  // drain
  }

  const Libraries& ff_;
  MemoryInput input_;
  ClipLimits limits_;
  ClipInfo info_;
  AVFormatContext* format_ = nullptr;
  AVIOContext* io_ = nullptr;
  AVCodecContext* codec_ = nullptr;
  AVPacket* packet_ = nullptr;
  AVFrame* frame_ = nullptr;
  SwsContext* scaler_ = nullptr;
  ScalerKey scaler_key_;
  std::vector<uint8_t> bgr_;  // [height, stride], one frame
  int stream_ = -1;
  int quarter_turns_ = 0;  // clockwise
};

}  // namespace

bool ffmpeg_available(std::string* version_or_reason) {
  if (version_or_reason) *version_or_reason = libraries().text;
  return libraries().ready;
}

Result<std::unique_ptr<FrameReader>> open_ffmpeg(std::span<const uint8_t> bytes,
                                                 const ClipLimits& limits) {
  if (!libraries().ready) {
    return make_error(ErrorCode::kUnsupported, "", "this clip needs FFmpeg: {}", libraries().text);
  }
  auto reader = std::make_unique<FfmpegReader>(bytes, limits);
  VIDERE_RETURN_IF_ERROR(reader->open());
  return std::unique_ptr<FrameReader>(std::move(reader));
}

}  // namespace videre

#else  // built without FFmpeg's headers

namespace videre {

constexpr char kReason[] =
    "this program was built without FFmpeg's headers, so only Y4M, Motion-JPEG AVI, animated GIF "
    "and "
    "WebP clips and lists of JPEG frames are read";

bool ffmpeg_available(std::string* version_or_reason) {
  if (version_or_reason) *version_or_reason = kReason;
  return false;
}

Result<std::unique_ptr<FrameReader>> open_ffmpeg(std::span<const uint8_t> /*bytes*/,
                                                 const ClipLimits& /*limits*/) {
  return make_error(ErrorCode::kUnsupported, "", "{}", kReason);
}

}  // namespace videre

#endif
