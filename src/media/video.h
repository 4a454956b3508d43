// A clip's bytes to sampled frames with their places and times: finds the reader for the format,
// chooses frames (frame_sampling.h), decodes in order from the first frame and resizes each kept
// frame to a tile at once, so that full-size frames never pile up. Bytes are fetch.h's business.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "media/image.h"
#include "media/media_bytes.h"
#include "media/tiles.h"

namespace videre {

/// The first block has the words of `media_io_kwargs.video`; the rest are the server's limits.
struct VideoOptions {
  double fps = -1;                 // <= 0: not limited by rate
  int64_t num_frames = 32;         // <= 0: all
  std::string backend = "opencv";  // or "nemotron_vl" (the same) or "opencv_dynamic"
  double max_duration_s = 300;     // opencv_dynamic only
  bool frame_recovery = false;     // take the next readable frame for an unreadable one
  // For lists of JPEG frames (data:video/jpeg) that a client sampled itself: what it knows of the
  // clip they came from.
  std::optional<std::vector<int64_t>> frames_indices;
  std::optional<int64_t> total_num_frames;
  std::optional<double> duration;
  std::optional<bool> do_sample_frames;

  int tile_size = 512;  // px
  int64_t max_frames = 2048;
  int64_t max_frame_pixels = 67'000'000;
  int max_frame_side_px = 8192;
  double max_container_duration_s = 86400;
  double decode_timeout_s = 60;
  ImageOptions image;  // of JPEG lists, GIF and WebP
};

struct SampledVideo {
  PixelTiles frames;                    // [kept frames, 3, S, S]
  std::vector<int64_t> frames_indices;  // in the source, of the kept frames
  double fps = 0;                       // of the source; 0: unknown
  int64_t total_num_frames = 0;
  double duration = 0;  // seconds
  bool do_sample_frames = false;
  std::string backend;
  int width = 0, height = 0;  // px of the source, as shown
};

/// Called after each kept frame, from the decoding thread.
using VideoProgress = std::function<void(int64_t decoded, int64_t wanted)>;

/// Blocks until decoded; thread-safe. Unreadable frames are left out with a warning. Errors:
/// kCancelled once `cancel` (may be null) is set; kTooLarge past a limit; kInvalidArgument when no
/// frame can be read or an option is wrong (`param` names it).
Result<SampledVideo> decode_video(const MediaBytes& media, const VideoOptions& options,
                                  const std::atomic<bool>* cancel, const VideoProgress& progress);

/// Whether FFmpeg can be used; the version found, or the reason and what to install. Opens the
/// libraries on the first call. Thread-safe.
bool ffmpeg_available(std::string* version_or_reason);

}  // namespace videre
