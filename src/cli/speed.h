// Loads of random requests, and how long an engine takes over them: what `videre bench latency`,
// `throughput` and `startup` measure.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "videre/engine.h"

namespace videre {

/// What each request brings. Pixels are random too, so that no cache of media ever answers.
struct SpeedLoad {
  int64_t input_len = 32, output_len = 128;  // tokens of text; tokens generated, whatever they are
  int num_images = 0, image_width = 512, image_height = 512;
  int num_videos = 0, num_frames = 16;  // frames of the picture's size, two a second
};

/// "1024x768", width first.
Status parse_image_size(const std::string& text, SpeedLoad& load);

/// `count` different requests: text without special tokens, greedy, and past the end-of-text token.
/// The same seed makes the same requests; media are handed over decoded.
std::vector<Request> random_requests(const Engine& engine, const SpeedLoad& load, int64_t count,
                                     uint64_t seed);

/// Seconds since the request was submitted.
struct RequestTimes {
  double first_s = 0, last_s = 0;  // first and last token
  Usage usage;
};

struct BatchTimes {
  double total_s = 0;  // from the first submission to the last token
  std::vector<RequestTimes> requests;
};

/// Submits all at once and reads them in the calling thread. `progress` gets the number that are
/// done. The first request that fails ends the run, as does `cancel` (kCancelled).
Result<BatchTimes> run_batch(Engine& engine, std::vector<Request> requests,
                             const std::function<void(int64_t done)>& progress,
                             const std::atomic<bool>* cancel);

/// Value below which `percent` of the values lie, between neighbours by straight line. 0 of none.
double percentile(std::vector<double> values, double percent);

}  // namespace videre
