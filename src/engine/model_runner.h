// A planned step on the device: encodes media, fills the step's index arrays, runs the model, and
// samples. Tokens come back one step later, so that the device never waits for the host.
#pragma once

#include <deque>
#include <memory>
#include <vector>

#include "engine/sampler.h"
#include "engine/scheduler.h"
#include "model/nemotron_vl.h"

namespace videre {

/// What the engine's loop needs of a device and a model; a fake one drives its tests.
class Runner {
 public:
  virtual ~Runner() = default;
  /// Queues the step's work. Media items of the plan are ready when this returns.
  virtual void launch(const StepPlan& plan) = 0;
  /// Waits for the oldest launched step: its tokens, in the order of `sampled_sequences`.
  virtual std::vector<SampledToken> collect() = 0;
};

struct RunnerOptions {
  CacheOptions cache;
  int64_t max_num_batched_tokens = 2048, max_num_seqs = 256, max_model_len = 131072;
  int64_t encoder_rows = 0;  // of the arena
  int max_tiles = 8;         // encoded at once
  /// Steps of decode tokens alone are padded to a few sizes and recorded by the device.
  bool pad_steps = false;
};

/// What a runner allocates besides KV blocks, state slots and encoder rows: workspaces, logits, a
/// step's arrays.
int64_t runner_bytes(const NemotronVl& model, const RunnerOptions& options);

class ModelRunner final : public Runner {
 public:
  ModelRunner(Backend& backend, const NemotronVl& model, const RunnerOptions& options);

  /// Rehearses steps of every kind and size, runs one of each kind over padding and records all
  /// sizes of decode steps: what the device loads, sizes or records on first use is there before
  /// the first request.
  void warm_up();

  void launch(const StepPlan& plan) override;
  std::vector<SampledToken> collect() override;

 private:
  /// The index arrays of one step, and where they lie together: one piece to send, whose layout
  /// depends on the step's sizes alone.
  struct StepArrays {
    std::vector<int32_t> token_ids, media_rows, cu_seqlens, context_lens, read_slots, write_slots,
        block_tables, logit_rows, emit_seqs, emit_rows, emit_slots;
    std::vector<int32_t> packed;  // all but the block tables
  };
  struct Launched {
    uint64_t ticket = 0;
    std::vector<SampledToken> tokens;
  };

  void encode(const EncodeSlice& slice);
  void fill_arrays(const StepPlan& plan);
  /// How the arrays become a step: as it is; padded to a size that may be recorded; rehearsed or
  /// recorded, not run.
  enum class StepWay { kPlain, kPadded, kRehearse, kRecord };
  View run_arrays(int64_t num_logits, bool has_media, StepWay way);
  void warm_up_step(int64_t num_seqs, int64_t length, StepWay way);
  void warm_up_vision();
  void warm_up_sampling();
  void run_rows(const StepPlan& plan, Launched& launched);
  void copy_block(const BlockCopy& copy);

  Backend& be_;
  const NemotronVl& model_;
  RunnerOptions options_;
  LanguageCaches caches_;
  Tensor scratch_;  // the mixers' and the tower's: the device runs one after the other
  LanguageWorkspace workspace_;
  VisionWorkspace vision_workspace_;
  EvsWorkspace evs_workspace_;
  Tensor arena_;                // [encoder_rows, hidden]
  Tensor slice_rgb_;            // [max_tiles, 3, S, S]
  Tensor slice_rows_;           // [max_tiles * tokens, hidden], of clips that EVS thins out
  Tensor logits_, raw_logits_;  // [max_num_seqs, vocab]
  StepArrays arrays_;
  Tensor device_arrays_, device_tables_;  // what a step reads of them; tables are as wide as the
                                          // longest sequence, whatever is sent of them
  SamplingBatch sampling_;
  std::deque<Launched> launched_;
};

}  // namespace videre
