#include "media/frame_sampling.h"

#include <algorithm>
#include <cmath>

namespace videre {
namespace {

constexpr double kMaxCount = 9.0e15;  // exactly representable, far above any real clip

int64_t floor_count(double value) {
  return static_cast<int64_t>(std::clamp(std::floor(value), 0.0, kMaxCount));
}

/// numpy's linspace: element i is i * step + start, the last one forced to `stop`.
double linspace(double stop, int64_t count, int64_t i) {
  if (count < 2) return 0;
  if (i == count - 1) return stop;
  return static_cast<double>(i) * (stop / static_cast<double>(count - 1));
}

std::vector<int64_t> every_frame(int64_t total) {
  std::vector<int64_t> indices(static_cast<size_t>(total));
  for (int64_t i = 0; i < total; ++i) indices[static_cast<size_t>(i)] = i;
  return indices;
}

int64_t clamp_index(double position, int64_t last) {
  return static_cast<int64_t>(std::clamp(std::ceil(position), 0.0, static_cast<double>(last)));
}

double dynamic_duration(int64_t total, double fps0) {
  return fps0 > 0 ? static_cast<double>(total) / fps0 : 0;
}

}  // namespace

int64_t count_opencv(int64_t total, double fps0, double fps, int64_t num_frames) {
  const double duration = fps0 > 0 ? static_cast<double>(total) / fps0 : 0;
  int64_t count = total;
  if (num_frames > 0) count = std::min(num_frames, total);
  if (fps > 0) count = std::min(count, floor_count(duration * fps));
  return std::max<int64_t>(1, count);
}

std::vector<int64_t> sample_opencv(int64_t total, double fps0, double fps, int64_t num_frames) {
  const int64_t count = count_opencv(total, fps0, fps, num_frames);
  if (count >= total) return every_frame(total);
  std::vector<int64_t> indices;
  indices.reserve(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    indices.push_back(static_cast<int64_t>(linspace(static_cast<double>(total - 1), count, i)));
  }
  return indices;
}

int64_t bound_opencv_dynamic(int64_t total, double fps0, double fps, double max_duration_s) {
  if (fps <= 0) fps = 2;
  const double duration = dynamic_duration(total, fps0);
  return std::max<int64_t>(1,
                           std::min(total, floor_count(std::min(duration, max_duration_s) * fps)));
}

std::vector<int64_t> sample_opencv_dynamic(int64_t total, double fps0, double fps,
                                           double max_duration_s) {
  if (fps <= 0) fps = 2;
  const int64_t last = total - 1;
  const double duration = dynamic_duration(total, fps0);
  std::vector<int64_t> indices;
  const auto add = [&](int64_t index) {  // positions ascend, so the set needs no sorting
    if (indices.empty() || indices.back() < index) indices.push_back(index);
  };
  if (duration <= max_duration_s) {
    const int64_t count = floor_count(duration * fps);
    for (int64_t i = 0; i < count && (indices.empty() || indices.back() < last); ++i) {
      add(clamp_index(static_cast<double>(i) * fps0 / fps, last));
    }
  } else {
    const int64_t count = floor_count(max_duration_s * fps);
    if (count >= total) return every_frame(total);
    for (int64_t i = 0; i < count; ++i) add(clamp_index(linspace(duration, count, i) * fps0, last));
  }
  if (indices.empty()) indices.push_back(0);  // shorter than one period: its first frame
  return indices;
}

std::vector<double> frame_timestamps(std::span<const int64_t> indices, double fps) {
  const double period_ms = fps > 0 ? std::min(std::trunc(1000.0 / fps), kMaxCount) : 0;
  std::vector<double> seconds;
  seconds.reserve(indices.size());
  for (const int64_t index : indices) {
    seconds.push_back(static_cast<double>(index) * period_ms / 1000.0);
  }
  return seconds;
}

}  // namespace videre
