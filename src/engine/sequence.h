// One choice of one request on its way through the engine: its tokens, how far they are computed,
// its memory, and the media that its next rows need. Engine thread only; the scheduler
// and the steps in flight share it.
#pragma once

#include <memory>
#include <unordered_map>
#include <vector>

#include "engine/encoder_cache.h"
#include "engine/request_state.h"
#include "engine/sequence_cache.h"

namespace videre {

/// A media span of the prompt, and its rows once they are encoded.
struct SpanProgress {
  const MediaSpan* span = nullptr;
  EncodedItem* item = nullptr;  // held from before its first row is computed until after its last
  std::vector<int32_t> row_of;  // [span length] row in the item, -1 for text; set once laid out
};

struct Sequence {
  std::shared_ptr<RequestState> request;
  int index = 0;  // of the choice
  uint64_t id = 0;

  std::vector<int32_t> tokens;  // prompt, then every output whose value is known
  int64_t num_prompt = 0;
  int64_t num_computed = 0;  // tokens in memory, the launched step's included
  int64_t num_pending = 0;   // sampled in steps that have not been collected
  SequenceMemory memory;
  std::vector<SpanProgress> spans;
  bool finished = false;

  // Occurrences, for penalties; kept only when there are some.
  std::vector<TokenCount> penalty_tokens;
  std::unordered_map<int32_t, int32_t> penalty_index;  // token -> its place above

  const ResolvedSampling& sampling() const { return request->sampling; }
  int sampling_n() const { return request->request.sampling.n; }
  int64_t length() const { return static_cast<int64_t>(tokens.size()) + num_pending; }
  int64_t num_outputs() const { return length() - num_prompt; }
  uint64_t seed() const { return sampling().seed + static_cast<uint64_t>(index); }
};

/// Count-based ends: no further token may be sampled.
inline bool at_limit(const Sequence& sequence, int64_t max_model_len) {
  return sequence.num_outputs() >= sequence.sampling().max_tokens ||
         sequence.length() >= max_model_len;
}

}  // namespace videre
