#include "model/language_model.h"

#include <algorithm>
#include <cmath>
#include <string>

#include "base/error.h"

namespace videre {
namespace {

constexpr const char* kBackbone = "language_model.backbone.";
constexpr int64_t kAlignElements = 128;  // scratch tensors start at multiples of it

// Float parameters of a Mamba block on the device.
Result<Tensor> load_floats(const Checkpoint& checkpoint, const std::string& name, int64_t count,
                           Backend& backend, float (*map)(float)) {
  VIDERE_ASSIGN_OR_RETURN(std::vector<float> values, checkpoint.floats(name, count));
  for (float& value : values) value = map(value);
  Tensor tensor = backend.allocate(DType::kF32, Shape{count});
  backend.upload(tensor, values.data());
  return tensor;
}

// A projection, with its bytes where the backend reads them and the axis that tensor parallelism
// cuts.
Result<Weight> load_linear(const Checkpoint& checkpoint, const std::string& module, int64_t rows,
                           int64_t columns, SplitAxis split, Backend& backend) {
  VIDERE_ASSIGN_OR_RETURN(Weight weight, checkpoint.linear(module, rows, columns));
  weight.data = backend.adopt(weight.data);
  if (!weight.scales.empty()) weight.scales = backend.adopt(weight.scales);
  if (!weight.bias.empty()) weight.bias = backend.adopt(weight.bias);
  weight.split = split;
  return weight;
}

Result<float> load_kv_scale(const Checkpoint& checkpoint, const std::string& mixer, char which) {
  const std::string letter(1, which);
  for (const std::string& name : {mixer + letter + "_proj." + letter + "_scale",
                                  mixer + letter + "_scale", mixer + "attn." + letter + "_scale"}) {
    if (!checkpoint.contains(name)) continue;
    VIDERE_ASSIGN_OR_RETURN(const auto values, checkpoint.floats(name, 1));
    if (!(values[0] > 0))
      return invalid_model("tensor {} is {}; a positive scale is expected", name, values[0]);
    return values[0];
  }
  return 1.0f;
}

}  // namespace

Result<LanguageModel> LanguageModel::load(const Checkpoint& checkpoint,
                                          const LanguageConfig& config, Backend& backend) {
  LanguageModel model;
  model.config_ = config;
  const int64_t hidden = config.hidden_size;
  // The table's rows rule over vocab_size: padded checkpoints hold more.
  VIDERE_ASSIGN_OR_RETURN(const ConstView table,
                          checkpoint.tensor(std::string(kBackbone) + "embeddings.weight"));
  if (table.rank() != 2 || table.dim(1) != hidden) {
    return invalid_model("tensor {}embeddings.weight has shape {}; [vocab, {}] is expected",
                         kBackbone, table.shape().to_string(), hidden);
  }
  if (table.dim(0) < config.vocab_size) {
    return invalid_model("tensor {}embeddings.weight has {} rows; vocab_size is {}", kBackbone,
                         table.dim(0), config.vocab_size);
  }
  model.config_.vocab_size = static_cast<int>(table.dim(0));
  model.embeddings_ = backend.adopt(table);
  for (int i = 0; i < config.num_layers(); ++i) {
    LayerWeights layer;
    layer.kind = config.layer_kinds[i];
    const std::string prefix = std::string(kBackbone) + "layers." + std::to_string(i) + ".";
    const std::string mixer = prefix + "mixer.";
    VIDERE_ASSIGN_OR_RETURN(layer.norm, checkpoint.tensor(prefix + "norm.weight", Shape{hidden}));
    layer.norm = backend.adopt(layer.norm);
    switch (layer.kind) {
      case LayerKind::kMamba2: {
        Mamba2Weights& w = layer.mamba2;
        const int64_t heads = config.mamba_num_heads,
                      bc = int64_t{config.n_groups} * config.ssm_state_size;
        VIDERE_ASSIGN_OR_RETURN(
            w.in_proj, load_linear(checkpoint, mixer + "in_proj", config.in_proj_rows(), hidden,
                                   SplitAxis::kRows, backend));
        w.in_proj.sections = {config.d_inner(), config.d_inner(), bc, bc, heads};
        VIDERE_ASSIGN_OR_RETURN(w.conv_weight,
                                checkpoint.tensor(mixer + "conv1d.weight",
                                                  Shape{config.conv_dim(), 1, config.conv_kernel}));
        w.conv_weight =
            backend.adopt(w.conv_weight).reshape(Shape{config.conv_dim(), config.conv_kernel});
        if (config.use_conv_bias) {
          VIDERE_ASSIGN_OR_RETURN(
              w.conv_bias, checkpoint.tensor(mixer + "conv1d.bias", Shape{config.conv_dim()}));
          w.conv_bias = backend.adopt(w.conv_bias);
        }
        VIDERE_ASSIGN_OR_RETURN(w.a, load_floats(checkpoint, mixer + "A_log", heads, backend,
                                                 [](float a_log) { return -std::exp(a_log); }));
        VIDERE_ASSIGN_OR_RETURN(
            w.d, load_floats(checkpoint, mixer + "D", heads, backend, [](float d) { return d; }));
        VIDERE_ASSIGN_OR_RETURN(w.dt_bias, load_floats(checkpoint, mixer + "dt_bias", heads,
                                                       backend, [](float bias) { return bias; }));
        VIDERE_ASSIGN_OR_RETURN(w.norm,
                                checkpoint.tensor(mixer + "norm.weight", Shape{config.d_inner()}));
        w.norm = backend.adopt(w.norm);
        VIDERE_ASSIGN_OR_RETURN(
            w.out_proj, load_linear(checkpoint, mixer + "out_proj", hidden, config.d_inner(),
                                    SplitAxis::kColumns, backend));
        break;
      }
      case LayerKind::kAttention: {
        AttentionWeights& w = layer.attention;
        const int64_t q_rows = int64_t{config.num_attention_heads} * config.head_dim;
        const int64_t kv_rows = int64_t{config.num_key_value_heads} * config.head_dim;
        VIDERE_ASSIGN_OR_RETURN(w.q_proj, load_linear(checkpoint, mixer + "q_proj", q_rows, hidden,
                                                      SplitAxis::kRows, backend));
        VIDERE_ASSIGN_OR_RETURN(w.k_proj, load_linear(checkpoint, mixer + "k_proj", kv_rows, hidden,
                                                      SplitAxis::kRows, backend));
        VIDERE_ASSIGN_OR_RETURN(w.v_proj, load_linear(checkpoint, mixer + "v_proj", kv_rows, hidden,
                                                      SplitAxis::kRows, backend));
        VIDERE_ASSIGN_OR_RETURN(w.o_proj, load_linear(checkpoint, mixer + "o_proj", hidden, q_rows,
                                                      SplitAxis::kColumns, backend));
        VIDERE_ASSIGN_OR_RETURN(w.k_scale, load_kv_scale(checkpoint, mixer, 'k'));
        VIDERE_ASSIGN_OR_RETURN(w.v_scale, load_kv_scale(checkpoint, mixer, 'v'));
        break;
      }
      case LayerKind::kMlp: {
        // intermediate_size may differ by block: the tensor says.
        VIDERE_ASSIGN_OR_RETURN(const ConstView up, checkpoint.tensor(mixer + "up_proj.weight"));
        if (up.rank() != 2) {
          return invalid_model("tensor {}up_proj.weight has shape {}; two dims are expected", mixer,
                               up.shape().to_string());
        }
        VIDERE_ASSIGN_OR_RETURN(layer.mlp.up_proj,
                                load_linear(checkpoint, mixer + "up_proj", up.dim(0), hidden,
                                            SplitAxis::kRows, backend));
        VIDERE_ASSIGN_OR_RETURN(layer.mlp.down_proj,
                                load_linear(checkpoint, mixer + "down_proj", hidden, up.dim(0),
                                            SplitAxis::kColumns, backend));
        break;
      }
    }
    model.layers_.push_back(std::move(layer));
  }
  VIDERE_ASSIGN_OR_RETURN(
      model.final_norm_,
      checkpoint.tensor(std::string(kBackbone) + "norm_f.weight", Shape{hidden}));
  model.final_norm_ = backend.adopt(model.final_norm_);
  if (config.tie_word_embeddings) {
    model.lm_head_.data = model.embeddings_;
    model.lm_head_.name = "language_model.lm_head";
  } else {
    VIDERE_ASSIGN_OR_RETURN(
        model.lm_head_, load_linear(checkpoint, "language_model.lm_head", model.config_.vocab_size,
                                    hidden, SplitAxis::kRows, backend));
  }
  return model;
}

void LanguageModel::forward(Backend& be, const StepView& step, const LanguageInput& input,
                            LanguageCaches& caches, LanguageWorkspace& ws) const {
  const int64_t n = step.num_tokens;
  const View residual = ws.residual.view().rows(0, n), delta = ws.delta.view().rows(0, n);
  const View normed = ws.normed.view().rows(0, n);
  be.embed(residual, embeddings_, input.token_ids, caches.last_tokens);
  if (input.has_media) be.gather_rows(residual, input.media_arena, input.media_rows);
  if (be.observing()) be.observe("llm.hidden.0", residual);
  be.zero(delta);  // the first norm adds nothing
  size_t num_mamba = 0, num_attention = 0;
  for (int i = 0; i < config_.num_layers(); ++i) {
    const LayerWeights& layer = layers_[i];
    be.add_rms_norm({normed}, residual, delta, layer.norm, config_.layer_norm_epsilon);
    if (be.observing() && i > 0) be.observe("llm.hidden." + std::to_string(i), residual);
    switch (layer.kind) {  // each mixer reads normed and writes delta
      case LayerKind::kMamba2:
        mamba2(be, step, layer.mamba2, caches.conv[num_mamba], caches.ssm[num_mamba], ws);
        ++num_mamba;
        break;
      case LayerKind::kAttention:
        attention(be, step, layer.attention, caches.k[num_attention], caches.v[num_attention], ws);
        ++num_attention;
        break;
      case LayerKind::kMlp:
        mlp(be, n, layer.mlp, ws);
        break;
    }
  }
  be.add_rms_norm({normed}, residual, delta, final_norm_, config_.layer_norm_epsilon);
  if (be.observing()) be.observe("llm.hidden." + std::to_string(config_.num_layers()), normed);
}

void LanguageModel::mamba2(Backend& be, const StepView& step, const Mamba2Weights& weights,
                           View conv_state, View ssm_state, LanguageWorkspace& ws) const {
  const int64_t n = step.num_tokens, d = config_.d_inner(), conv = config_.conv_dim();
  const View projected = ws.projected.rows(0, n);  // [tokens, z | x | B | C | dt]
  const View conv_out = ws.conv_out.rows(0, n);    // [tokens, x | B | C]
  const View mixed = ws.mixed.rows(0, n), gated = ws.gated.rows(0, n);
  const View delta = ws.delta.view().rows(0, n);
  be.linear(projected, {ws.normed.view().rows(0, n)}, weights.in_proj);
  Mamba2Inputs in;
  in.z = projected.columns(0, d);
  in.xbc = projected.columns(d, d + conv);
  in.dt = projected.columns(d + conv, d + conv + config_.mamba_num_heads);
  in.conv_weight = weights.conv_weight;
  in.conv_bias = weights.conv_bias;
  in.dt_bias = weights.dt_bias;
  in.a = weights.a;
  in.d = weights.d;
  in.norm = weights.norm;
  in.num_groups = config_.n_groups;
  in.chunk_size = config_.chunk_size;
  in.norm_group = config_.norm_group();
  in.dt_min = config_.time_step_min;
  in.dt_max = config_.time_step_max;
  in.eps = config_.layer_norm_epsilon;
  be.mamba2_mix({gated}, in, conv_state, ssm_state, conv_out, mixed, step);
  be.linear(delta, {gated}, weights.out_proj);
  be.all_reduce(delta);
}

void LanguageModel::attention(Backend& be, const StepView& step, const AttentionWeights& weights,
                              View k_cache, View v_cache, LanguageWorkspace& ws) const {
  const int64_t n = step.num_tokens;
  const Operand normed{ws.normed.view().rows(0, n)};
  const View q = ws.q.rows(0, n), k = ws.k.rows(0, n), v = ws.v.rows(0, n);
  const View attended = ws.attended.rows(0, n), delta = ws.delta.view().rows(0, n);
  AttentionParams params;
  params.num_heads = config_.num_attention_heads;
  params.num_kv_heads = config_.num_key_value_heads;
  params.head_dim = config_.head_dim;
  params.scale = 1.0f / std::sqrt(static_cast<float>(config_.head_dim));
  params.k_scale = weights.k_scale;
  params.v_scale = weights.v_scale;
  be.linear(q, normed, weights.q_proj);
  be.linear(k, normed, weights.k_proj);
  be.linear(v, normed, weights.v_proj);
  be.append_kv(k_cache, v_cache, k, v, params, step);
  be.paged_attention(attended, q, k_cache, v_cache, params, step);
  be.linear(delta, {attended}, weights.o_proj);
  be.all_reduce(delta);
}

void LanguageModel::mlp(Backend& be, int64_t num_tokens, const MlpWeights& weights,
                        LanguageWorkspace& ws) const {
  const int64_t width = weights.up_proj.num_rows();
  // Blocks narrower than the widest use the front of the buffer as a dense [tokens, width].
  const View activated(ws.activated.raw(), ws.activated.dtype(), Shape{num_tokens, width});
  const View delta = ws.delta.view().rows(0, num_tokens);
  be.linear_relu2(activated, {ws.normed.view().rows(0, num_tokens)}, weights.up_proj);
  be.linear(delta, {activated}, weights.down_proj);
  be.all_reduce(delta);
}

void LanguageModel::logits(Backend& be, ConstView rows, LanguageWorkspace& ws, View out) const {
  const View picked = ws.last_hidden.view().rows(0, rows.dim(0));
  be.gather_rows(picked, ws.normed, rows);
  head(be, picked, out);
}

void LanguageModel::head(Backend& be, ConstView hidden, View out) const {
  // The head only reads its input; Operand is writable for the ops that produce it.
  const View readable(const_cast<void*>(hidden.raw()), hidden.dtype(), hidden.shape());
  be.linear(out, {readable}, lm_head_);
}

LanguageCaches LanguageModel::make_caches(Backend& be, const CacheOptions& options) const {
  LanguageCaches caches;
  for (const LayerKind kind : config_.layer_kinds) {
    if (kind == LayerKind::kAttention) {
      const Shape shape{options.num_blocks, config_.num_key_value_heads, options.block_size,
                        config_.head_dim};
      caches.k.push_back(be.allocate(options.kv_dtype, shape));
      caches.v.push_back(be.allocate(options.kv_dtype, shape));
    } else if (kind == LayerKind::kMamba2) {
      caches.conv.push_back(
          be.allocate(options.conv_dtype,
                      Shape{options.num_slots, config_.conv_kernel - 1, config_.conv_dim()}));
      caches.ssm.push_back(
          be.allocate(options.ssm_dtype, Shape{options.num_slots, config_.mamba_num_heads,
                                               config_.mamba_head_dim, config_.ssm_state_size}));
    }
  }
  caches.last_tokens = be.allocate(DType::kI32, Shape{options.num_slots});
  return caches;
}

LanguageWorkspace LanguageModel::make_workspace(Backend& be, DType dtype, int64_t max_tokens,
                                                int64_t max_logit_rows, View mixer) const {
  const int64_t q = int64_t{config_.num_attention_heads} * config_.head_dim;
  const int64_t kv = int64_t{config_.num_key_value_heads} * config_.head_dim;
  const auto rows = [&](int64_t width) { return be.allocate(dtype, Shape{max_tokens, width}); };
  LanguageWorkspace ws;
  ws.residual = be.allocate(config_.residual_in_fp32 ? DType::kF32 : dtype,
                            Shape{max_tokens, config_.hidden_size});
  ws.delta = rows(config_.hidden_size);
  ws.normed = rows(config_.hidden_size);
  if (mixer.empty()) {
    ws.mixer = be.allocate(DType::kU8, Shape{mixer_bytes(dtype, max_tokens)});
    mixer = ws.mixer;
  }
  char* const start = static_cast<char*>(mixer.raw());
  int64_t used = 0;
  const auto place = [&](int64_t width) {
    const View view(start + used * static_cast<int64_t>(dtype_size(dtype)), dtype,
                    Shape{max_tokens, width});
    used += (max_tokens * width + kAlignElements - 1) / kAlignElements * kAlignElements;
    return view;
  };
  ws.projected = place(config_.in_proj_rows());
  ws.conv_out = place(config_.conv_dim());
  ws.mixed = place(config_.d_inner());
  ws.gated = place(config_.d_inner());
  used = 0;
  ws.q = place(q);
  ws.attended = place(q);
  ws.k = place(kv);
  ws.v = place(kv);
  used = 0;
  ws.activated = place(widest_mlp());
  ws.last_hidden = be.allocate(dtype, Shape{max_logit_rows, config_.hidden_size});
  return ws;
}

int64_t LanguageModel::kv_bytes_per_token(DType kv_dtype) const {
  return 2 * int64_t{config_.count(LayerKind::kAttention)} * config_.num_key_value_heads *
         config_.head_dim * static_cast<int64_t>(dtype_size(kv_dtype));
}

int64_t LanguageModel::state_bytes_per_slot(DType conv_dtype, DType ssm_dtype) const {
  const int64_t conv = int64_t{config_.conv_kernel - 1} * config_.conv_dim() *
                       static_cast<int64_t>(dtype_size(conv_dtype));
  const int64_t ssm = int64_t{config_.d_inner()} * config_.ssm_state_size *
                      static_cast<int64_t>(dtype_size(ssm_dtype));
  return config_.count(LayerKind::kMamba2) * (conv + ssm);
}

int64_t LanguageModel::widest_mlp() const {
  int64_t widest = 1;
  for (const LayerWeights& layer : layers_) {
    if (layer.kind == LayerKind::kMlp) widest = std::max(widest, layer.mlp.up_proj.num_rows());
  }
  return widest;
}

int64_t LanguageModel::mixer_columns() const {
  const int64_t mamba2 =
      config_.in_proj_rows() + config_.conv_dim() + 2 * int64_t{config_.d_inner()};
  const int64_t attention =
      2 * int64_t{config_.num_attention_heads + config_.num_key_value_heads} * config_.head_dim;
  return std::max({mamba2, attention, widest_mlp()});
}

int64_t LanguageModel::mixer_bytes(DType dtype, int64_t max_tokens) const {
  return (max_tokens * mixer_columns() + 4 * kAlignElements) *
         static_cast<int64_t>(dtype_size(dtype));
}

int64_t LanguageModel::workspace_bytes(DType dtype, int64_t max_tokens,
                                       int64_t max_logit_rows) const {
  const int64_t size = static_cast<int64_t>(dtype_size(dtype));
  const int64_t residual = config_.residual_in_fp32 ? 4 : size;
  const int64_t a_token = config_.hidden_size * (residual + 2 * size);
  return max_tokens * a_token + max_logit_rows * config_.hidden_size * size +
         mixer_bytes(dtype, max_tokens);
}

}  // namespace videre
