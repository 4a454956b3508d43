// Sampling parameters to what a backend applies to rows of logits: edits, penalties, then the draw.
// The order of the stages is that of docs/model.md#sampling.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"
#include "engine/scheduler.h"
#include "model/config.h"
#include "text/tokenizer.h"

namespace videre {

/// Fills in what the request leaves open from the checkpoint's generation config, and checks
/// ranges. `num_prompt` tokens are taken of `max_model_len`. Errors name the field.
Result<ResolvedSampling> resolve_sampling(const SamplingParams& params, const Config& config,
                                          const Tokenizer& tokenizer, int64_t num_prompt,
                                          int64_t max_model_len, uint64_t engine_seed);
/// The part of it that needs no prompt, for refusing early.
Status check_sampling(const SamplingParams& params, int vocab_size, int max_logprobs);

/// One step's sampling, for the rows of logits in the order of `sequences`.
struct SamplingBatch {
  std::vector<LogitEdit> edits;
  std::vector<PenaltyRow> penalties;
  std::vector<SampleRow> rows;
  bool keep_raw = false;  // logprobs are wanted of rows that get edited
};
void build_sampling(const std::vector<std::shared_ptr<Sequence>>& sequences, int vocab_size,
                    SamplingBatch& out);

/// Counts `token` (of the prompt, or newly sampled) for the sequence's penalties.
void count_for_penalties(Sequence& sequence, int32_t token, bool output);

}  // namespace videre
