// The engine's loop without its thread: takes prepared requests, steps, and hands out tokens. One
// thread at a time; statistics may be read from any.
#pragma once

#include <deque>
#include <memory>
#include <mutex>

#include "engine/model_runner.h"
#include "engine/scheduler.h"

namespace videre {

struct CoreOptions {
  SchedulerOptions scheduler;
  int64_t num_blocks = 0, num_slots = 0;  // the padding ones included
  int block_size = 16;
  int64_t encoder_rows = 0;
  bool async_scheduling = true;  // launch a step before the values of the one before are read
};

class EngineCore {
 public:
  EngineCore(const CoreOptions& options, Runner* runner);

  /// A request whose prompt and sampling are set. Returns its choices.
  std::vector<std::shared_ptr<Sequence>> add(const std::shared_ptr<RequestState>& request);
  /// One step. False when there was nothing to do.
  bool step();
  bool idle() const { return scheduler_.idle() && in_flight_.empty(); }
  void forget_idle_media() { encoder_.forget_idle(); }
  /// Ends every request: with kAbort, or as failed when `error` is given.
  void abort_all(const Error* error);

  EngineStats stats() const;

 private:
  void drop_stopped();
  void collect();
  void accept(const std::shared_ptr<Sequence>& sequence, SampledToken token);
  void finish(const std::shared_ptr<Sequence>& sequence, FinishReason reason);
  void fail(const std::shared_ptr<Sequence>& sequence, const Error& error);
  void update_stats();

  CoreOptions options_;
  Runner* runner_;
  SequenceCache cache_;
  EncoderCache encoder_;
  Scheduler scheduler_;
  std::deque<StepPlan> in_flight_;
  uint64_t next_id_ = 0;
  EngineStats counts_;  // engine thread's
  mutable std::mutex stats_mutex_;
  EngineStats stats_;  // what others read
};

}  // namespace videre
