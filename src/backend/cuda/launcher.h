// The way to the device: one stream, in call order. Every kernel, copy and replayed step goes
// through here, which keeps the driver's queue from filling up, waits after each where that was
// asked for, and queues nothing once the device has failed. Waiting ends with a step's time.
#pragma once

#include <unordered_set>
#include <utility>

#include "backend/cuda/runtime.h"

namespace videre::cuda {

class Launcher {
 public:
  /// `synchronous`: each piece of work has ended when its call returns. A wait of more than
  /// `step_timeout_ms` is a failure; 0 waits for ever.
  Launcher(bool synchronous, int64_t step_timeout_ms);
  ~Launcher();
  Launcher(const Launcher&) = delete;
  Launcher& operator=(const Launcher&) = delete;

  Stream stream() const { return stream_; }

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  /// Queues a kernel.
  template <typename... P, typename... A>
  void operator()(void (*kernel)(P...), const LaunchShape& shape, A&&... args) {
    if (!rehearsing_) {
      queue([&] { launch(kernel, shape, stream_, std::forward<A>(args)...); });
    } else if (loaded_.insert(reinterpret_cast<const void*>(kernel)).second && healthy()) {
      load_kernel(kernel);
    }
  }
#endif
  /// Queues what `call()` puts on the stream, one piece of work; `always`: in a rehearsal too.
  template <typename Call>
  void queue(Call&& call, bool always = false) {
    if ((rehearsing_ && !always) || !may_queue()) return;
    call();
    if (synchronous_) drain();
  }
  void copy(void* dst, const void* src, int64_t bytes) {
    queue([&] { copy_async(dst, src, bytes, stream_); });
  }

  /// `event` is recorded where the next piece of work begins.
  void mark_next(Event event) { next_mark_ = event, has_next_mark_ = true; }
  /// Blocks until `event` has passed, the device has failed, or a step's time is over, which is a
  /// failure too.
  void wait_for(Event event);
  /// The same for all that is queued.
  void drain();

  /// In a rehearsal kernels are loaded, not launched, and nothing else is queued.
  void set_rehearsing(bool rehearsing) { rehearsing_ = rehearsing; }
  bool rehearsing() const { return rehearsing_; }
  /// What is queued from here on is recorded instead, as one piece of work.
  void start_recording();
  Graph finish_recording();

 private:
  bool may_queue();

  Stream stream_;
  bool synchronous_, recording_ = false, rehearsing_ = false, has_next_mark_ = false;
  int64_t step_timeout_ms_;
  // The queue is finite, and a launch into a full one waits for ever when the device hangs: no more
  // is queued than fits.
  static constexpr uint64_t kMarkEvery = 128;
  uint64_t num_queued_ = 0;
  std::unordered_set<const void*> loaded_;  // kernels, by rehearsals
  Event marks_[2], drained_, next_mark_{};
};

}  // namespace videre::cuda
