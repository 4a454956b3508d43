// config.json and its companions as typed structs. Refuses early, by the name of the field, what
// cannot run.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "videre/result.h"
#include "weights/model_files.h"

namespace videre {

enum class LayerKind { kMamba2, kAttention, kMlp };

struct LanguageConfig {
  std::vector<LayerKind> layer_kinds;  // hybrid_override_pattern: M, *, -
  int hidden_size = 0, vocab_size = 0;
  std::vector<int> intermediate_sizes;  // one an MLP block; empty when the file does not say
  int num_attention_heads = 0, num_key_value_heads = 0, head_dim = 0;
  int mamba_num_heads = 0, mamba_head_dim = 0, ssm_state_size = 0, n_groups = 0, conv_kernel = 0,
      chunk_size = 128;
  float time_step_min = 0,
        time_step_max = std::numeric_limits<float>::infinity();  // time_step_limit
  float layer_norm_epsilon = 1e-5f;
  bool residual_in_fp32 = false, tie_word_embeddings = false, use_conv_bias = true;
  int64_t max_position_embeddings = 131072;
  std::string mamba_ssm_cache_dtype;  // "" when the file does not say

  int num_layers() const { return static_cast<int>(layer_kinds.size()); }
  int count(LayerKind kind) const;
  int d_inner() const { return mamba_num_heads * mamba_head_dim; }
  int conv_dim() const { return d_inner() + 2 * n_groups * ssm_state_size; }
  int in_proj_rows() const { return d_inner() + conv_dim() + mamba_num_heads; }
  int norm_group() const { return d_inner() / n_groups; }
};

struct VisionConfig {
  int hidden_size = 0, num_layers = 0, num_heads = 0, intermediate_size = 0, patch_size = 16;
  int position_grid =
      0;  // side of the stored position table, in patches (cpe_max_size / patch_size)
  int num_prefix_tokens = 0;  // class tokens and registers; 0 when the file does not say
  float layer_norm_eps = 1e-6f;
  bool model_norm = false;
  bool align_corners = false;
};

struct Config {
  LanguageConfig llm;
  VisionConfig vision;
  int force_image_size = 512, patch_size = 16;
  int shuffle_factor = 2;  // round(1 / downsample_ratio)
  bool ps_v1 = false;
  int projector_hidden_size = 0;
  std::array<float, 3> norm_mean{}, norm_std{};
  int max_num_tiles = 12;
  bool use_thumbnail = true;
  int32_t img_context_token_id = -1, video_context_token_id = -1;
  std::string img_context_token = "<image>", img_start_token = "<img>", img_end_token = "</img>",
              video_context_token = "<video>";
  int64_t max_model_len = 131072;  // min of the wrapper's and the language model's
  int32_t bos_token_id = 1;
  std::set<int32_t> eos_token_ids;  // union of every eos found; the first of llm_config is primary
  int32_t primary_eos_id = -1;
  // generation_config.json; unset when absent
  struct Generation {
    std::optional<double> temperature, top_p, min_p, repetition_penalty;
    std::optional<int64_t> top_k, max_new_tokens;
  } generation;
  // Quantisation as declared; which tensors really are is decided by the tensors.
  std::string quant_algo;  // "", FP8, NVFP4, MIXED_PRECISION
  std::string kv_cache_quant_algo;
  std::vector<std::string> quant_exclude;

  int patches_per_side() const { return force_image_size / patch_size; }
  int tokens_per_tile() const {
    const int side = patches_per_side() / shuffle_factor;
    return side * side;
  }
  bool excluded_from_quantization(const std::string& module) const;
};

/// Reads config.json, generation_config.json, preprocessor_config.json and hf_quant_config.json.
Result<Config> load_config(const ModelFiles& files);
/// The same from texts; companions may be "".
Result<Config> parse_config(std::string_view config_json, std::string_view generation_json,
                            std::string_view preprocessor_json, std::string_view hf_quant_json);

}  // namespace videre
