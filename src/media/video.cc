#include "media/video.h"

#include <algorithm>
#include <cmath>
#include <new>
#include <string_view>

#include "base/error.h"
#include "base/log.h"
#include "media/avi.h"
#include "media/data_url.h"
#include "media/frame_reader.h"
#include "media/frame_sampling.h"
#include "media/video_ffmpeg.h"
#include "media/y4m.h"

namespace videre {

Error frame_too_large(int64_t width, int64_t height, const ClipLimits& limits) {
  return make_error(
      ErrorCode::kTooLarge, "",
      "the video's frames are {}x{} px; expected at least 1x1, at most {} px a side and "
      "{} pixels. Resize the clip",
      width, height, limits.max_frame_side_px, limits.max_frame_pixels);
}

namespace {

constexpr std::string_view kFrameListMime = "video/jpeg";

/// Takes the frames that are wanted, in ascending order, out of the ones offered.
class FrameCollector {
 public:
  FrameCollector(std::vector<int64_t> wanted, const VideoOptions& options,
                 const VideoProgress& progress, SampledVideo& video)
      : wanted_(std::move(wanted)),
        recover_(options.frame_recovery),
        progress_(progress),
        video_(video) {
    video_.frames.tile_size = options.tile_size;
    video_.frames.data.reserve(wanted_.size() * 3 * static_cast<size_t>(options.tile_size) *
                               static_cast<size_t>(options.tile_size));
  }

  bool done() const { return next_ == wanted_.size() && !(recover_ && lost_); }

  /// Whether frame `index` is to be decoded. Call once a frame, in order.
  bool wants(int64_t index) {
    if (next_ < wanted_.size() && wanted_[next_] == index) {
      ++next_;
      lost_ = false;  // an earlier loss can no longer be made good
      return true;
    }
    return recover_ && lost_;
  }

  void take(int64_t index, const Image& frame) {
    lost_ = false;
    append_frame_tile(video_.frames, frame);
    video_.frames_indices.push_back(index);
    if (progress_) {
      progress_(static_cast<int64_t>(video_.frames_indices.size()),
                static_cast<int64_t>(wanted_.size()));
    }
  }

  void lose(Error why) {
    lost_ = true;
    last_error_ = std::move(why);
  }

  Status finish() const {
    if (video_.frames_indices.empty()) {
      if (last_error_) return *last_error_;
      return invalid_argument("", "the video holds no frame that can be decoded");
    }
    if (video_.frames_indices.size() < wanted_.size()) {
      log_warning("video: {} of {} frames could be decoded", video_.frames_indices.size(),
                  wanted_.size());
    }
    return {};
  }

 private:
  std::vector<int64_t> wanted_;  // ascending
  size_t next_ = 0;              // of wanted_, not yet passed
  bool recover_;
  bool lost_ = false;  // the last wanted frame was unreadable
  const VideoProgress& progress_;
  SampledVideo& video_;
  std::optional<Error> last_error_;
};

Status check_limits(const ClipLimits& limits, const VideoOptions& options,
                    const SampledVideo& video) {
  if (limits.cancelled()) return make_error(ErrorCode::kCancelled, "", "the request was cancelled");
  if (limits.late()) {
    return make_error(
        ErrorCode::kTooLarge, "",
        "decoding the video took more than {} s ({} frames were done); send a shorter or "
        "smaller clip, or raise --video-decode-timeout",
        options.decode_timeout_s, video.frames_indices.size());
  }
  return {};
}

bool is_dynamic(const VideoOptions& options) { return options.backend == "opencv_dynamic"; }

Status check_options(const VideoOptions& options) {
  if (!is_dynamic(options) && options.backend != "opencv" && options.backend != "nemotron_vl") {
    return invalid_argument(
        "video_backend", "video_backend is \"{}\"; expected opencv, nemotron_vl or opencv_dynamic",
        options.backend.substr(0, 100));
  }
  if (!std::isfinite(options.fps)) {
    return invalid_argument("fps", "fps must be a finite number");
  }
  if (!(options.max_duration_s > 0)) {
    return invalid_argument("max_duration", "max_duration is {}; expected seconds above 0",
                            options.max_duration_s);
  }
  return {};
}

/// Chooses frames from what the container says and fills the metadata.
Result<std::vector<int64_t>> choose_frames(const ClipInfo& info, const VideoOptions& options,
                                           SampledVideo& video) {
  if (info.num_frames <= 0) {
    return invalid_argument("", "could not open video stream: the clip holds no frames");
  }
  const int64_t total = info.num_frames;
  video.total_num_frames = total;
  video.fps = info.fps;
  video.duration = info.fps > 0 ? static_cast<double>(total) / info.fps : 0;
  video.width = info.width;
  video.height = info.height;
  if (!(video.duration <= options.max_container_duration_s)) {
    return make_error(ErrorCode::kTooLarge, "",
                      "the video says it lasts {:.0f} s; at most {:.0f} s are taken",
                      video.duration, options.max_container_duration_s);
  }
  const bool dynamic = is_dynamic(options);
  const int64_t count =
      dynamic ? bound_opencv_dynamic(total, info.fps, options.fps, options.max_duration_s)
              : count_opencv(total, info.fps, options.fps, options.num_frames);
  if (count > options.max_frames) {
    return make_error(
        ErrorCode::kTooLarge, "num_frames",
        "{} frames of the video would be taken; at most {} may be. Set num_frames or a "
        "lower fps in media_io_kwargs",
        count, options.max_frames);
  }
  std::vector<int64_t> indices =
      dynamic ? sample_opencv_dynamic(total, info.fps, options.fps, options.max_duration_s)
              : sample_opencv(total, info.fps, options.fps, options.num_frames);
  video.backend = dynamic ? "opencv_dynamic" : "opencv";
  video.do_sample_frames = static_cast<int64_t>(indices.size()) == total;
  return indices;
}

Result<SampledVideo> read_frames(FrameReader& reader, const VideoOptions& options,
                                 const ClipLimits& limits, const VideoProgress& progress) {
  SampledVideo video;
  VIDERE_ASSIGN_OR_RETURN(std::vector<int64_t> wanted,
                          choose_frames(reader.info(), options, video));
  FrameCollector collector(std::move(wanted), options, progress, video);
  for (int64_t index = 0; !collector.done(); ++index) {
    VIDERE_ASSIGN_OR_RETURN(const bool grabbed, reader.grab());
    VIDERE_RETURN_IF_ERROR(check_limits(limits, options, video));
    if (!grabbed) break;
    if (!collector.wants(index)) continue;
    auto frame = reader.retrieve();
    if (frame.ok()) {
      collector.take(index, *frame);
    } else {
      collector.lose(frame.error());
    }
  }
  VIDERE_RETURN_IF_ERROR(collector.finish());
  return video;
}

Result<SampledVideo> read_animation(std::span<const uint8_t> bytes, const VideoOptions& options,
                                    const ClipLimits& limits, const VideoProgress& progress) {
  ImageOptions image = options.image;
  image.max_pixels = std::min(image.max_pixels, limits.max_frame_pixels);
  image.max_side_px = std::min(image.max_side_px, limits.max_frame_side_px);
  VIDERE_ASSIGN_OR_RETURN(const AnimationInfo info, read_animation_info(bytes, image));
  int64_t total_ms = 0;
  for (const int duration : info.durations_ms) total_ms += duration;
  // Frames without times run at 10 a second, as browsers show them.
  const double fps =
      total_ms > 0 ? 1000.0 * static_cast<double>(info.num_frames) / static_cast<double>(total_ms)
                   : 10.0;
  SampledVideo video;
  VIDERE_ASSIGN_OR_RETURN(
      std::vector<int64_t> wanted,
      choose_frames({info.width, info.height, info.num_frames, fps}, options, video));
  FrameCollector collector(std::move(wanted), options, progress, video);
  Status stopped;
  const Status decoded = decode_animation(bytes, image, [&](int64_t index, const Image& frame) {
    stopped = check_limits(limits, options, video);
    if (!stopped.ok()) return false;
    if (collector.wants(index)) collector.take(index, frame);
    return !collector.done();
  });
  VIDERE_RETURN_IF_ERROR(stopped);
  if (!decoded.ok()) collector.lose(decoded.error());
  VIDERE_RETURN_IF_ERROR(collector.finish());
  return video;
}

/// How many frames of a client's list are taken: the first `num_frames`, or all for -1.
Result<int64_t> count_list(int64_t sent, const VideoOptions& options) {
  if (options.num_frames == 0 || options.num_frames < -1) {
    return invalid_argument(
        "num_frames",
        "num_frames is {}; for a list of JPEG frames it must be above 0, or -1 for "
        "all",
        options.num_frames);
  }
  const int64_t count = options.num_frames == -1 ? sent : std::min(options.num_frames, sent);
  if (count > options.max_frames) {
    return make_error(ErrorCode::kTooLarge, "num_frames",
                      "the list holds {} JPEG frames; at most {} may be taken", count,
                      options.max_frames);
  }
  return count;
}

Status describe_list(int64_t count, const VideoOptions& options, SampledVideo& video) {
  video.backend = "jpeg_sequence";
  video.fps = options.fps > 0 ? options.fps : 1;
  video.total_num_frames = options.total_num_frames.value_or(count);
  if (video.total_num_frames < count) {
    return invalid_argument("total_num_frames",
                            "total_num_frames is {}; it must be at least the {} frames sent",
                            video.total_num_frames, count);
  }
  video.duration = options.duration.value_or(static_cast<double>(count) / video.fps);
  if (!std::isfinite(video.duration) || video.duration < 0) {
    return invalid_argument("duration", "duration must be a number of seconds, 0 or above");
  }
  video.do_sample_frames = options.do_sample_frames.value_or(false);
  if (!options.frames_indices) {
    for (int64_t i = 0; i < count; ++i) video.frames_indices.push_back(i);
    return {};
  }
  const std::vector<int64_t>& indices = *options.frames_indices;
  if (static_cast<int64_t>(indices.size()) != count) {
    return invalid_argument(
        "frames_indices",
        "frames_indices has {} entries; expected one for each of the {} frames sent",
        indices.size(), count);
  }
  for (const int64_t index : indices) {
    if (index < 0) {
      return invalid_argument("frames_indices", "frames_indices holds {}; expected 0 or above",
                              index);
    }
  }
  video.frames_indices = indices;
  return {};
}

Result<SampledVideo> read_frame_list(std::string_view list, const VideoOptions& options,
                                     const ClipLimits& limits, const VideoProgress& progress) {
  const int64_t sent = 1 + std::count(list.begin(), list.end(), ',');
  VIDERE_ASSIGN_OR_RETURN(const int64_t count, count_list(sent, options));
  SampledVideo video;
  VIDERE_RETURN_IF_ERROR(describe_list(count, options, video));
  video.frames.tile_size = options.tile_size;
  ImageOptions image = options.image;
  image.max_pixels = std::min(image.max_pixels, limits.max_frame_pixels);
  image.max_side_px = std::min(image.max_side_px, limits.max_frame_side_px);
  for (int64_t i = 0; i < count; ++i) {
    VIDERE_RETURN_IF_ERROR(check_limits(limits, options, video));
    const size_t end = std::min(list.find(','), list.size());
    VIDERE_ASSIGN_OR_RETURN(const std::vector<uint8_t> bytes,
                            decode_base64(list.substr(0, end), static_cast<int64_t>(list.size())));
    list.remove_prefix(std::min(end + 1, list.size()));
    const auto frame = decode_image(bytes, image);
    if (!frame.ok()) {
      return make_error(frame.error().code, "", "frame {} of the list: {}", i + 1,
                        frame.error().message);
    }
    if (i == 0) {
      video.width = frame->width;
      video.height = frame->height;
    } else if (frame->width != video.width || frame->height != video.height) {
      return invalid_argument(
          "",
          "frame {} of the list is {}x{} px and the first is {}x{}; all must have "
          "one size",
          i + 1, frame->width, frame->height, video.width, video.height);
    }
    append_frame_tile(video.frames, *frame);
    if (progress) progress(i + 1, count);
  }
  return video;
}

/// The built-in readers where they give OpenCV's bytes or FFmpeg is missing; else FFmpeg.
Result<std::unique_ptr<FrameReader>> open_clip(std::span<const uint8_t> bytes,
                                               const ClipLimits& limits) {
  const bool y4m = is_y4m(bytes);
  if (!y4m && !is_avi(bytes)) return open_ffmpeg(bytes, limits);
  bool exact = false;
  auto own = y4m ? open_y4m(bytes, limits, &exact) : open_avi(bytes, limits, &exact);
  if ((own.ok() && exact) || !ffmpeg_available(nullptr)) return own;
  auto other = open_ffmpeg(bytes, limits);
  return other.ok() ? std::move(other) : std::move(own);
}

Result<SampledVideo> decode_clip(const MediaBytes& media, const VideoOptions& options,
                                 const std::atomic<bool>* cancel, const VideoProgress& progress) {
  VIDERE_RETURN_IF_ERROR(check_options(options));
  ClipLimits limits;
  limits.max_frame_pixels = options.max_frame_pixels;
  limits.max_frame_side_px = options.max_frame_side_px;
  limits.cancel = cancel;
  limits.deadline = std::chrono::steady_clock::now() +
                    std::chrono::milliseconds(static_cast<int64_t>(
                        std::clamp(options.decode_timeout_s, 0.0, 1e6) * 1000));
  const std::span<const uint8_t> bytes = media.bytes();
  if (media.mime == kFrameListMime) {
    return read_frame_list({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, options,
                           limits, progress);
  }
  if (bytes.empty()) return invalid_argument("", "the video is empty");
  if (may_be_animation(bytes)) return read_animation(bytes, options, limits, progress);
  auto reader = open_clip(bytes, limits);
  if (!reader.ok()) {
    Error error = reader.error();  // bad media is the request's fault, never "not implemented"
    if (error.code == ErrorCode::kUnsupported) error.code = ErrorCode::kInvalidArgument;
    return error;
  }
  return read_frames(**reader, options, limits, progress);
}

}  // namespace

Result<SampledVideo> decode_video(const MediaBytes& media, const VideoOptions& options,
                                  const std::atomic<bool>* cancel, const VideoProgress& progress) {
  try {
    return decode_clip(media, options, cancel, progress);
  } catch (const std::bad_alloc&) {
    return make_error(ErrorCode::kTooLarge, "",
                      "there is not enough memory to decode the video; send a smaller one");
  }
}

}  // namespace videre
