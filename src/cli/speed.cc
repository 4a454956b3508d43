#include "cli/speed.h"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <mutex>
#include <random>

#include "base/error.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

double seconds(Clock::duration time) { return std::chrono::duration<double>(time).count(); }

// With `plain`, those of printable ASCII without "<", which survive the way through text.
std::vector<int32_t> random_ids(const Engine& engine, int64_t count, bool plain,
                                std::mt19937_64& random) {
  const auto vocabulary = static_cast<uint64_t>(std::max(1, engine.info().vocab_size));
  std::vector<int32_t> ids;
  ids.reserve(static_cast<size_t>(count));
  for (int64_t tries = 0; static_cast<int64_t>(ids.size()) < count; ++tries) {
    const auto id = static_cast<int32_t>(random() % vocabulary);
    const std::string text = engine.detokenize({id}, true);
    const bool good = !text.empty() && (!plain || std::all_of(text.begin(), text.end(), [](char c) {
      return c >= ' ' && c <= '~' && c != '<';
    }));
    if (good || tries > 1000 + 100 * count) ids.push_back(id);
  }
  return ids;
}

MediaItem random_frames(const SpeedLoad& load, int64_t num_frames, bool clip,
                        std::mt19937_64& random) {
  auto frames = std::make_shared<RgbFrames>();
  frames->num_frames = num_frames;
  frames->height = load.image_height;
  frames->width = load.image_width;
  frames->rgb.resize(static_cast<size_t>(num_frames) * static_cast<size_t>(load.image_height) *
                     static_cast<size_t>(load.image_width) * 3);
  uint64_t state = random() | 1;
  for (size_t i = 0; i < frames->rgb.size(); ++i) {
    if (i % 8 == 0) {  // xorshift
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
    }
    frames->rgb[i] = static_cast<uint8_t>(state >> (8 * (i % 8)));
  }
  if (clip) {
    frames->fps = 2;
    for (int64_t i = 0; i < num_frames; ++i) frames->frames_indices.push_back(i);
  }
  MediaItem item;
  item.frames = std::move(frames);
  return item;
}

// Which generations may have something to read.
struct Signal {
  std::mutex mutex;
  std::condition_variable wake;
  std::vector<size_t> readable;

  void raise(size_t index) {
    {
      const std::lock_guard lock(mutex);
      readable.push_back(index);
    }
    wake.notify_one();
  }
};

}  // namespace

Status parse_image_size(const std::string& text, SpeedLoad& load) {
  const char* end = text.data() + text.size();
  const auto width = std::from_chars(text.data(), end, load.image_width);
  const bool cross = width.ec == std::errc() && width.ptr != end && *width.ptr == 'x';
  const auto height = std::from_chars(cross ? width.ptr + 1 : end, end, load.image_height);
  constexpr int kMax = 16384;
  if (!cross || height.ec != std::errc() || height.ptr != end || load.image_width < 1 ||
      load.image_height < 1 || load.image_width > kMax || load.image_height > kMax) {
    return invalid_argument("--image-size", "{} is no size; expected WIDTHxHEIGHT, 1x1 to {}x{}",
                            text, kMax, kMax);
  }
  return {};
}

std::vector<Request> random_requests(const Engine& engine, const SpeedLoad& load, int64_t count,
                                     uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<Request> requests(static_cast<size_t>(count));
  for (Request& request : requests) {
    const bool media = load.num_images + load.num_videos > 0;
    std::vector<int32_t> ids = random_ids(engine, load.input_len, media, random);
    if (!media) {
      request.prompt_token_ids = std::move(ids);
    } else {
      std::string text;
      const auto add = [&](ContentPart::Kind kind, int64_t num_frames) {
        const bool clip = kind == ContentPart::Kind::kVideo;
        ContentPart part;
        part.kind = kind;
        part.media = random_frames(load, num_frames, clip, random);
        request.media.push_back(std::move(part));
        text += clip ? "<video>" : "<image>";
      };
      for (int i = 0; i < load.num_images; ++i) add(ContentPart::Kind::kImage, 1);
      for (int i = 0; i < load.num_videos; ++i) add(ContentPart::Kind::kVideo, load.num_frames);
      // Neighbours may come back as other ids; the length stays near.
      request.prompt = text + "\n" + engine.detokenize(ids, true);
    }
    request.sampling.temperature = 0;
    request.sampling.ignore_eos = true;
    request.sampling.max_tokens = load.output_len;
  }
  return requests;
}

Result<BatchTimes> run_batch(Engine& engine, std::vector<Request> requests,
                             const std::function<void(int64_t done)>& progress,
                             const std::atomic<bool>* cancel) {
  const auto signal = std::make_shared<Signal>();
  std::vector<std::shared_ptr<Generation>> generations(requests.size());
  std::vector<Clock::time_point> submitted(requests.size());
  BatchTimes times;
  times.requests.resize(requests.size());
  const auto start = Clock::now();
  for (size_t i = 0; i < requests.size(); ++i) {
    submitted[i] = Clock::now();
    VIDERE_ASSIGN_OR_RETURN(generations[i], engine.submit(std::move(requests[i])));
    generations[i]->set_listener([signal, i] { signal->raise(i); });
    signal->raise(i);  // it may have come before the listener
  }
  size_t num_done = 0;
  std::vector<size_t> readable;
  while (num_done < generations.size()) {
    readable.clear();
    {
      std::unique_lock lock(signal->mutex);
      signal->wake.wait_for(lock, std::chrono::milliseconds(100),
                            [&] { return !signal->readable.empty(); });
      readable.swap(signal->readable);
    }
    if (cancel && *cancel) return make_error(ErrorCode::kCancelled, "", "stopped");
    for (const size_t i : readable) {
      if (!generations[i]) continue;
      VIDERE_ASSIGN_OR_RETURN(const auto deltas,
                              generations[i]->read(std::chrono::milliseconds(0)));
      if (deltas.empty()) continue;
      if (deltas.back().finish_reason == FinishReason::kAbort) {
        return make_error(ErrorCode::kCancelled, "", "request {} was ended before its last token",
                          i);
      }
      RequestTimes& request = times.requests[i];
      request.last_s = seconds(Clock::now() - submitted[i]);
      if (request.first_s == 0) request.first_s = request.last_s;
      if (!generations[i]->done()) continue;
      request.usage = generations[i]->usage();
      generations[i].reset();
      ++num_done;
      if (progress) progress(static_cast<int64_t>(num_done));
    }
  }
  times.total_s = seconds(Clock::now() - start);
  return times;
}

double percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double at = percent / 100 * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(std::floor(at));
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (at - static_cast<double>(below)) * (values[above] - values[below]);
}

}  // namespace videre
