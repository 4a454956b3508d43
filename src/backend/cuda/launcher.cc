#include "backend/cuda/launcher.h"

#include <chrono>
#include <thread>

namespace videre::cuda {

Launcher::Launcher(bool synchronous, int64_t step_timeout_ms)
    : stream_(make_stream()), synchronous_(synchronous), step_timeout_ms_(step_timeout_ms) {
  for (Event* event : {&marks_[0], &marks_[1], &drained_}) *event = make_event();
}

Launcher::~Launcher() {
  for (const Event event : {marks_[0], marks_[1], drained_}) destroy_event(event);
  destroy_stream(stream_);
}

bool Launcher::may_queue() {
  if (!recording_ && ++num_queued_ % kMarkEvery == 0) {
    const Event mark = marks_[num_queued_ / kMarkEvery % 2];
    wait_for(mark);
    record(mark, stream_);
  }
  if (!recording_ && has_next_mark_) {
    record(next_mark_, stream_);
    has_next_mark_ = false;
  }
  return healthy();
}

void Launcher::wait_for(Event event) {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (int64_t round = 0; !finished(event); ++round) {
    if (round < 2000) continue;  // a step takes milliseconds; the first moments are worth a core
    std::this_thread::sleep_for(std::chrono::microseconds(20));
    const auto waited =
        std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begin).count();
    if (step_timeout_ms_ > 0 && waited > step_timeout_ms_) {
      report_cuda_error(702, "a step that did not end in time: cudaEventQuery", __FILE__, __LINE__);
    }
  }
}

void Launcher::drain() {
  record(drained_, stream_);
  wait_for(drained_);
}

void Launcher::start_recording() {
  recording_ = true;
  begin_recording(stream_);
}

Graph Launcher::finish_recording() {
  recording_ = false;
  return end_recording(stream_);
}

}  // namespace videre::cuda
