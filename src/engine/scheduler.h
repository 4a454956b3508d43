// Who runs in this step, and how many tokens each: running sequences first, in order of admission,
// then waiting ones, first come first served, under one budget of tokens; KV blocks and state slots
// are reserved here, and the last admitted gives way when they run out. Advances by counts alone,
// so that a step can be planned before the tokens of the one before are known. No tensors.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "engine/sequence.h"

namespace videre {

struct SchedulerOptions {
  int64_t max_num_batched_tokens = 2048;
  int64_t max_num_seqs = 256;
  int64_t max_model_len = 131072;
  int64_t chunk_size =
      128;  // of the scan: prompts are cut at its multiples where the budget allows
  bool enable_chunked_prefill = true;
  int max_tiles_per_step = 8;
  PromptConfig prompt;
};

/// Tokens [begin, begin + count) of one sequence. `sample`: the last of them completes what is
/// known, so its logits give the next token; and those of `forks`, which start from the same state.
struct BatchRow {
  std::shared_ptr<Sequence> sequence;
  int64_t begin = 0, count = 0;
  bool sample = false;
  std::vector<std::shared_ptr<Sequence>> forks;
};

struct StepPlan {
  std::vector<EncodeSlice> encodes;  // before the rows
  std::vector<BatchRow> rows;
  std::vector<BlockCopy> block_copies;  // after the rows are computed, before the next step
  int64_t num_tokens = 0;

  bool empty() const { return rows.empty() && encodes.empty(); }
};

/// Whom a step gives a token: each sampled row's sequence, then its forks.
std::vector<std::shared_ptr<Sequence>> sampled_sequences(const StepPlan& plan);

class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, SequenceCache* cache, EncoderCache* encoder)
      : options_(options), cache_(cache), encoder_(encoder) {}

  void add(std::shared_ptr<Sequence> sequence) { waiting_.push_back(std::move(sequence)); }
  /// The next step. Marks what it plans as computed, and a token as pending where one is sampled.
  StepPlan plan();
  /// Takes the sequence out and gives its memory back; what steps in flight still write for it is
  /// never read.
  void finish(const std::shared_ptr<Sequence>& sequence);

  int64_t num_running() const { return static_cast<int64_t>(running_.size()); }
  int64_t num_waiting() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t num_preemptions() const { return num_preemptions_; }
  bool idle() const { return running_.empty() && waiting_.empty(); }
  /// Every sequence that has not finished, running ones first.
  std::vector<std::shared_ptr<Sequence>> sequences() const;
  /// Whether the next plan needs the values of tokens that are pending.
  bool needs_token_values() const;

 private:
  int64_t wanted(Sequence& sequence, int64_t budget);
  int64_t limit_by_media(Sequence& sequence, int64_t want, bool& encoding);
  void lay_out(Sequence& sequence, SpanProgress& progress) const;
  void release_spans(Sequence& sequence, int64_t up_to);
  void preempt_last();
  bool waits_for_sibling(const Sequence& sequence) const;
  void schedule(const std::shared_ptr<Sequence>& sequence, int64_t want, StepPlan& plan);
  void fork_siblings(BatchRow& row, StepPlan& plan);

  SchedulerOptions options_;
  SequenceCache* cache_;
  EncoderCache* encoder_;
  std::vector<std::shared_ptr<Sequence>> running_;  // in order of admission
  std::deque<std::shared_ptr<Sequence>> waiting_;
  std::vector<std::shared_ptr<Sequence>> forked_;  // in the plan being made; running after it
  int64_t num_preemptions_ = 0;
};

}  // namespace videre
