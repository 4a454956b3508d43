// The hybrid language model: the loop over blocks, each one mixer (Mamba-2, attention or MLP)
// between a norm and the residual. Written once for all devices; see docs/model.md.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "model/config.h"
#include "weights/checkpoint.h"

namespace videre {

struct Mamba2Weights {
  Weight in_proj;                    // [z | x | B | C | dt, hidden]
  ConstView conv_weight, conv_bias;  // [conv_dim, K], [conv_dim]
  Tensor a, d, dt_bias;              // [heads] float; a = -exp(A_log)
  ConstView norm;                    // [d_inner]
  Weight out_proj;
};

struct AttentionWeights {
  Weight q_proj, k_proj, v_proj, o_proj;
  float k_scale = 1, v_scale = 1;  // of an fp8 cache
};

struct MlpWeights {
  Weight up_proj, down_proj;
};

struct LayerWeights {
  LayerKind kind = LayerKind::kMlp;
  ConstView norm;  // [hidden]
  Mamba2Weights mamba2;
  AttentionWeights attention;
  MlpWeights mlp;
};

/// What sequences keep between steps, over all layers. Block 0 and slot 0 belong to padding.
struct LanguageCaches {
  std::vector<Tensor> k, v;  // per attention layer [blocks, kv_heads, block_size, head_dim]
  std::vector<Tensor> conv,
      ssm;             // per Mamba layer [slots, K-1, conv_dim], [slots, heads, head_dim, state]
  Tensor last_tokens;  // [slots] int32: the token last sampled for the sequence in that slot
};

struct CacheOptions {
  int64_t num_blocks = 0, num_slots = 0;  // the padding ones included
  int block_size = 16;
  DType kv_dtype = DType::kBF16, conv_dtype = DType::kBF16, ssm_dtype = DType::kF32;
};

/// Scratch of one step, allocated once for the largest. A block is one mixer, so what the three
/// kinds keep lies in the same memory.
struct LanguageWorkspace {
  Tensor residual, delta, normed;  // [tokens, hidden]
  Tensor mixer;                    // what the views below share, unless it was given
  View projected;                  // [tokens, in_proj_rows]
  View conv_out;                   // [tokens, conv_dim]
  View mixed, gated;               // [tokens, d_inner]
  View q, attended;                // [tokens, heads * head_dim]
  View k, v;                       // [tokens, kv_heads * head_dim]
  View activated;                  // [tokens, widest intermediate]
  Tensor last_hidden;              // [rows, hidden]
};

/// What a step feeds in; int32 arrays on the device, padded to step.num_tokens.
struct LanguageInput {
  ConstView token_ids;     // [tokens]; negative: -1 - slot, the token last sampled there
  ConstView media_rows;    // [tokens]; row of `media_arena` that replaces the text row, or -1
  ConstView media_arena;   // [rows, hidden]
  bool has_media = false;  // of the bucket: whether the merge runs at all
};

class LanguageModel {
 public:
  /// Takes views into `checkpoint`, which must outlive the model.
  static Result<LanguageModel> load(const Checkpoint& checkpoint, const LanguageConfig& config,
                                    Backend& backend);

  /// Runs all layers over the flat batch and leaves the final-normed rows in `ws.normed`
  /// [num_tokens, hidden]. Allocates nothing and waits for nothing; no branch depends on values.
  void forward(Backend& be, const StepView& step, const LanguageInput& input,
               LanguageCaches& caches, LanguageWorkspace& ws) const;
  /// logits [n, vocab] float of the rows of `ws.normed` named by `rows` [n] int32 (-1: padding).
  void logits(Backend& be, ConstView rows, LanguageWorkspace& ws, View out) const;
  /// Head over given rows [n, hidden].
  void head(Backend& be, ConstView hidden, View out) const;

  LanguageCaches make_caches(Backend& be, const CacheOptions& options) const;
  /// The mixers' part in `mixer` of at least mixer_bytes, else in memory of its own.
  LanguageWorkspace make_workspace(Backend& be, DType dtype, int64_t max_tokens,
                                   int64_t max_logit_rows, View mixer = {}) const;
  int64_t mixer_bytes(DType dtype, int64_t max_tokens) const;
  int64_t kv_bytes_per_token(DType kv_dtype) const;
  int64_t state_bytes_per_slot(DType conv_dtype, DType ssm_dtype) const;
  /// What `make_workspace` allocates, the mixers' part included.
  int64_t workspace_bytes(DType dtype, int64_t max_tokens, int64_t max_logit_rows) const;
  const LanguageConfig& config() const { return config_; }

 private:
  void mamba2(Backend& be, const StepView& step, const Mamba2Weights& weights, View conv_state,
              View ssm_state, LanguageWorkspace& ws) const;
  void attention(Backend& be, const StepView& step, const AttentionWeights& weights, View k_cache,
                 View v_cache, LanguageWorkspace& ws) const;
  void mlp(Backend& be, int64_t num_tokens, const MlpWeights& weights, LanguageWorkspace& ws) const;

  /// Columns of the mixers' shared scratch: as many as the widest kind needs.
  int64_t mixer_columns() const;
  int64_t widest_mlp() const;

  LanguageConfig config_;
  ConstView embeddings_;  // [vocab, hidden]
  std::vector<LayerWeights> layers_;
  ConstView final_norm_;
  Weight lm_head_;
};

}  // namespace videre
