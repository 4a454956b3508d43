// What a backend needs to turn rows of logits into tokens. Built by engine/sampler.h from each
// request's parameters; the order of the stages is the sampler's business.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace videre {

/// logits[row, token] += value, or = value when `set`.
struct LogitEdit {
  int32_t row = 0;
  int32_t token = 0;
  float value = 0;
  bool set = false;
};

struct TokenCount {
  int32_t token = 0;
  int32_t output_count = 0;  // occurrences in the output; 0 when the token is only in the prompt
};

/// Repetition first (l > 0 ? l / r : l * r over all `tokens`), then frequency and presence over
/// output counts.
struct PenaltyRow {
  int32_t row = 0;
  float repetition = 1, frequency = 0, presence = 0;
  std::span<const TokenCount> tokens;
};

/// temperature 0 is greedy (ties: lowest id). The random number is a pure function of (seed,
/// position), so that batching, preemption and chunk sizes never change a seeded result.
struct SampleRow {
  int32_t row = 0;
  int32_t slot = 0;  // last_tokens[slot] receives the token
  float temperature = 0;
  int32_t top_k = 0;  // 0 = off
  float top_p = 1, min_p = 0;
  uint64_t seed = 0;
  uint64_t position = 0;
  int32_t num_logprobs = -1;  // -1 none, 0 the sampled token's alone, n the top n too
};

struct SampledToken {
  int32_t token = 0;
  float logprob = 0;                                    // log softmax of the raw logits
  int32_t rank = 0;                                     // 1 + number of strictly greater raw logits
  std::vector<std::pair<int32_t, float>> top_logprobs;  // by rank
};

}  // namespace videre
