// Which frames of a clip are looked at, and the times printed for them, exactly as the `opencv` and
// `opencv_dynamic` loaders of today's serving stack choose them. Pure arithmetic: decoding is
// video.h's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace videre {

/// Ascending indices into [0, total). `total` > 0. `fps0` is the clip's rate (<= 0: unknown, its
/// duration counts as 0), `fps` and `num_frames` the caller's wishes (<= 0: no limit from it).
std::vector<int64_t> sample_opencv(int64_t total, double fps0, double fps, int64_t num_frames);

/// At `fps` (<= 0: 2) up to `max_duration_s`, spread evenly over longer clips.
std::vector<int64_t> sample_opencv_dynamic(int64_t total, double fps0, double fps,
                                           double max_duration_s);

/// Upper bound of how many indices the two above return, without building them.
int64_t count_opencv(int64_t total, double fps0, double fps, int64_t num_frames);
int64_t bound_opencv_dynamic(int64_t total, double fps0, double fps, double max_duration_s);

/// Seconds of each index: the frame time is cut to whole milliseconds first, so at 30 fps frame
/// 1800 is 59.40 s. A rate that is unknown (<= 0) or above 1000 gives zeros.
std::vector<double> frame_timestamps(std::span<const int64_t> indices, double fps);

}  // namespace videre
