// The public half of Backend: every op checks its shapes and dtypes here, once for all devices, and
// hands on only when there is something to do. Fused ops compose plain ones unless a device has its
// own.
#include "backend/backend.h"

namespace videre {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

// An activation: float32 or bfloat16, with the last dim dense.
void check_activation(const ConstView& view, const char* what) {
  VIDERE_CHECK(view.dtype() == DType::kF32 || view.dtype() == DType::kBF16)
      << what << " is " << dtype_name(view.dtype());
  VIDERE_CHECK(view.rank() >= 1 && (view.stride(-1) == 1 || view.dim(-1) <= 1))
      << what << " is strided in its last dim";
}

// A parameter vector of `width` elements, dense.
void check_parameter(const ConstView& view, int64_t width, const char* what) {
  VIDERE_CHECK(is_float(view.dtype())) << what << " is " << dtype_name(view.dtype());
  VIDERE_CHECK_EQ(view.numel(), width) << what;
  VIDERE_CHECK(view.contiguous()) << what;
}

void check_index(const ConstView& view, int64_t count, const char* what) {
  VIDERE_CHECK_EQ(view.dtype(), DType::kI32) << what;
  VIDERE_CHECK_EQ(view.shape(), Shape{count}) << what;
  VIDERE_CHECK(view.contiguous()) << what;
}

void check_pair(const ConstView& out, const ConstView& x, const char* op) {
  check_activation(out, op);
  check_activation(x, op);
  VIDERE_CHECK_EQ(out.shape(), x.shape()) << op;
}

void check_operand(const Operand& out, const ConstView& x, const char* op) {
  VIDERE_CHECK(out.layout == OperandLayout::kRows) << op;
  check_pair(out.data, x, op);
}

void check_logits(const ConstView& logits) {
  VIDERE_CHECK_EQ(logits.dtype(), DType::kF32);
  VIDERE_CHECK_EQ(logits.rank(), 2);
  VIDERE_CHECK_EQ(logits.stride(1), 1);
}

bool nothing_in(const ConstView& view) { return view.numel() == 0; }

}  // namespace

void Backend::copy(View dst, ConstView src) {
  VIDERE_CHECK_EQ(dst.shape(), src.shape());
  VIDERE_CHECK(dst.dtype() == src.dtype() || (is_float(dst.dtype()) && is_float(src.dtype())))
      << dtype_name(src.dtype()) << " to " << dtype_name(dst.dtype());
  if (nothing_in(src)) return;
  VIDERE_CHECK(src.dim(-1) == 1 || (src.stride(-1) == 1 && dst.stride(-1) == 1));
  do_copy(dst, src);
}

void Backend::check_linear(View out, const Operand& x, const Weight& weight) const {
  VIDERE_CHECK(x.layout == OperandLayout::kRows) << weight.name;
  check_activation(x.data, "linear x");
  check_activation(out, "linear out");
  VIDERE_CHECK(out.dtype() == DType::kF32 || out.dtype() == x.data.dtype()) << weight.name;
  VIDERE_CHECK_EQ(weight.data.rank(), 2) << weight.name;
  VIDERE_CHECK_EQ(weight.data.stride(1), 1) << weight.name;
  const int64_t rows = x.data.dim(0), n = weight.num_rows(), k = weight.num_columns();
  VIDERE_CHECK_EQ(x.data.shape(), (Shape{rows, k})) << weight.name;
  VIDERE_CHECK_EQ(out.shape(), (Shape{rows, n})) << weight.name;
  switch (weight.format) {
    case WeightFormat::kPlain:
      VIDERE_CHECK(is_float(weight.data.dtype())) << weight.name;
      break;
    case WeightFormat::kFp8:
      VIDERE_CHECK_EQ(weight.data.dtype(), DType::kF8E4M3) << weight.name;
      VIDERE_CHECK_EQ(weight.scales.dtype(), DType::kF32) << weight.name;
      VIDERE_CHECK(weight.scales.numel() == 1 || weight.scales.numel() == n) << weight.name;
      break;
    case WeightFormat::kNvfp4:
      VIDERE_CHECK_EQ(weight.data.dtype(), DType::kU8) << weight.name;
      VIDERE_CHECK_EQ(weight.scales.dtype(), DType::kF8E4M3) << weight.name;
      VIDERE_CHECK_EQ(k % 16, 0) << weight.name;
      VIDERE_CHECK_EQ(weight.scales.shape(), (Shape{n, k / 16})) << weight.name;
      break;
  }
  if (!weight.bias.empty()) check_parameter(weight.bias, n, "linear bias");
}

void Backend::linear(View out, const Operand& x, const Weight& weight) {
  check_linear(out, x, weight);
  if (nothing_in(out)) return;
  if (!linear_probe_) return do_linear(out, x, weight);
  do_linear(out, linear_probe_->before(x, weight), weight);
  linear_probe_->after(out, weight);
}

void Backend::linear_relu2(View out, const Operand& x, const Weight& weight) {
  if (linear_probe_) {
    linear(out, x, weight);
    return relu2({out}, out);
  }
  check_linear(out, x, weight);
  VIDERE_CHECK_EQ(out.dtype(), x.data.dtype()) << weight.name;
  if (!nothing_in(out)) do_linear_relu2(out, x, weight);
}

void Backend::do_linear_relu2(View out, const Operand& x, const Weight& weight) {
  do_linear(out, x, weight);
  do_relu2({out}, out);
}

void Backend::rms_norm(Operand out, ConstView x, ConstView weight, float eps) {
  check_operand(out, x, "rms_norm");
  check_parameter(weight, x.dim(-1), "rms_norm weight");
  if (!nothing_in(x)) do_rms_norm(out, x, weight, eps);
}

void Backend::add_rms_norm(Operand out, View residual, ConstView x, ConstView weight, float eps) {
  check_operand(out, x, "add_rms_norm");
  check_pair(residual, x, "add_rms_norm residual");
  check_parameter(weight, x.dim(-1), "add_rms_norm weight");
  if (!nothing_in(x)) do_add_rms_norm(out, residual, x, weight, eps);
}

void Backend::do_add_rms_norm(Operand out, View residual, ConstView x, ConstView weight,
                              float eps) {
  do_add(residual, x);
  do_rms_norm(out, residual, weight, eps);
}

void Backend::layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias, float eps) {
  check_operand(out, x, "layer_norm");
  check_parameter(weight, x.dim(-1), "layer_norm weight");
  check_parameter(bias, x.dim(-1), "layer_norm bias");
  if (!nothing_in(x)) do_layer_norm(out, x, weight, bias, eps);
}

void Backend::add_layer_norm(Operand out, View residual, ConstView x, ConstView weight,
                             ConstView bias, float eps) {
  check_operand(out, x, "add_layer_norm");
  check_pair(residual, x, "add_layer_norm residual");
  check_parameter(weight, x.dim(-1), "add_layer_norm weight");
  check_parameter(bias, x.dim(-1), "add_layer_norm bias");
  if (!nothing_in(x)) do_add_layer_norm(out, residual, x, weight, bias, eps);
}

void Backend::do_add_layer_norm(Operand out, View residual, ConstView x, ConstView weight,
                                ConstView bias, float eps) {
  do_add(residual, x);
  do_layer_norm(out, residual, weight, bias, eps);
}

namespace {

void check_gated(const Operand& out, const ConstView& y, const ConstView& z,
                 const ConstView& weight, int group_size) {
  check_operand(out, y, "gated_rms_norm");
  check_pair(y, z, "gated_rms_norm z");
  check_parameter(weight, y.dim(-1), "gated_rms_norm weight");
  VIDERE_CHECK(group_size > 0 && y.dim(-1) % group_size == 0) << group_size;
}

}  // namespace

void Backend::gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight,
                             int group_size, float eps) {
  check_gated(out, y, z, weight, group_size);
  if (!nothing_in(y)) do_gated_rms_norm(out, y, z, weight, group_size, eps);
}

void Backend::add(View x, ConstView y) {
  check_pair(x, y, "add");
  if (!nothing_in(x)) do_add(x, y);
}

void Backend::scale_columns(View x, ConstView gamma) {
  check_activation(x, "scale_columns");
  check_parameter(gamma, x.dim(-1), "scale_columns gamma");
  if (!nothing_in(x)) do_scale_columns(x, gamma);
}

void Backend::relu2(Operand out, ConstView x) {
  check_operand(out, x, "relu2");
  if (!nothing_in(x)) do_relu2(out, x);
}

void Backend::gelu(Operand out, ConstView x) {
  check_operand(out, x, "gelu");
  if (!nothing_in(x)) do_gelu(out, x);
}

namespace {

void check_conv(const ConstView& out, const ConstView& x, const ConstView& weight,
                const ConstView& bias, const ConstView& state, const StepView& step) {
  check_pair(out, x, "causal_conv");
  const int64_t channels = x.dim(1);
  VIDERE_CHECK_EQ(x.dim(0), step.num_tokens);
  VIDERE_CHECK(is_float(weight.dtype()));
  VIDERE_CHECK_EQ(weight.rank(), 2);
  VIDERE_CHECK_EQ(weight.dim(0), channels);
  VIDERE_CHECK_GE(weight.dim(1), 1);
  if (!bias.empty()) check_parameter(bias, channels, "causal_conv bias");
  check_activation(state, "conv_state");
  VIDERE_CHECK_EQ(state.shape(), (Shape{state.dim(0), weight.dim(1) - 1, channels}));
}

void check_scan(const ConstView& y, const SsmInputs& in, const ConstView& state,
                const StepView& step) {
  check_pair(y, in.x, "ssm_scan");
  check_activation(in.b, "ssm_scan B");
  check_activation(in.c, "ssm_scan C");
  check_activation(in.dt, "ssm_scan dt");
  VIDERE_CHECK_EQ(state.rank(), 4);
  VIDERE_CHECK(is_float(state.dtype())) << "ssm_state is " << dtype_name(state.dtype());
  VIDERE_CHECK(state.stride(3) == 1 || state.dim(3) <= 1) << "ssm_state is strided in its last dim";
  VIDERE_CHECK_EQ(state.stride(2), state.dim(3));
  const int64_t tokens = step.num_tokens, heads = state.dim(1), head_dim = state.dim(2);
  VIDERE_CHECK(in.num_groups > 0 && heads % in.num_groups == 0) << in.num_groups;
  VIDERE_CHECK_GT(in.chunk_size, 0);
  VIDERE_CHECK_EQ(y.shape(), (Shape{tokens, heads * head_dim}));
  VIDERE_CHECK_EQ(in.b.shape(), (Shape{tokens, in.num_groups * state.dim(3)}));
  VIDERE_CHECK_EQ(in.c.shape(), in.b.shape());
  VIDERE_CHECK_EQ(in.dt.shape(), (Shape{tokens, heads}));
  check_parameter(in.dt_bias, heads, "dt_bias");
  check_parameter(in.a, heads, "A");
  check_parameter(in.d, heads, "D");
}

/// What the scan reads once the convolution is done.
SsmInputs scan_of(const Mamba2Inputs& in, const View& conv_out, const View& state) {
  const int64_t inner = state.dim(1) * state.dim(2), bc = in.num_groups * state.dim(3);
  VIDERE_CHECK_EQ(conv_out.dim(1), inner + 2 * bc);
  SsmInputs scan;
  scan.x = conv_out.columns(0, inner);
  scan.b = conv_out.columns(inner, inner + bc);
  scan.c = conv_out.columns(inner + bc, inner + 2 * bc);
  scan.dt = in.dt;
  scan.dt_bias = in.dt_bias, scan.a = in.a, scan.d = in.d;
  scan.num_groups = in.num_groups, scan.chunk_size = in.chunk_size;
  scan.dt_min = in.dt_min, scan.dt_max = in.dt_max;
  return scan;
}

}  // namespace

void Backend::causal_conv(View out, ConstView x, ConstView weight, ConstView bias, View state,
                          const StepView& step) {
  check_conv(out, x, weight, bias, state, step);
  if (!nothing_in(x)) do_causal_conv(out, x, weight, bias, state, step);
}

void Backend::ssm_scan(View y, const SsmInputs& in, View state, const StepView& step) {
  check_scan(y, in, state, step);
  if (!nothing_in(y)) do_ssm_scan(y, in, state, step);
}

void Backend::mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state, View ssm_state,
                         View conv_out, View y, const StepView& step) {
  check_conv(conv_out, in.xbc, in.conv_weight, in.conv_bias, conv_state, step);
  VIDERE_CHECK_EQ(ssm_state.rank(), 4);
  check_scan(y, scan_of(in, conv_out, ssm_state), ssm_state, step);
  check_gated(out, y, in.z, in.norm, in.norm_group);
  if (!nothing_in(y)) do_mamba2_mix(out, in, conv_state, ssm_state, conv_out, y, step);
}

void Backend::do_mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state, View ssm_state,
                            View conv_out, View y, const StepView& step) {
  do_causal_conv(conv_out, in.xbc, in.conv_weight, in.conv_bias, conv_state, step);
  do_ssm_scan(y, scan_of(in, conv_out, ssm_state), ssm_state, step);
  do_gated_rms_norm(out, y, in.z, in.norm, in.norm_group, in.eps);
}

namespace {

void check_caches(const ConstView& k_cache, const ConstView& v_cache,
                  const AttentionParams& params) {
  VIDERE_CHECK(is_float(k_cache.dtype()) || k_cache.dtype() == DType::kF8E4M3)
      << dtype_name(k_cache.dtype());
  VIDERE_CHECK_EQ(k_cache.dtype(), v_cache.dtype());
  VIDERE_CHECK_EQ(k_cache.shape(),
                  (Shape{k_cache.dim(0), params.num_kv_heads, k_cache.dim(2), params.head_dim}));
  VIDERE_CHECK_EQ(k_cache.shape(), v_cache.shape());
  VIDERE_CHECK(k_cache.stride(3) == 1 && v_cache.stride(3) == 1);
}

}  // namespace

void Backend::append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                        const AttentionParams& params, const StepView& step) {
  check_caches(k_cache, v_cache, params);
  check_pair(k, v, "append_kv");
  VIDERE_CHECK_EQ(k.shape(),
                  (Shape{step.num_tokens, int64_t{params.num_kv_heads} * params.head_dim}));
  if (!nothing_in(k)) do_append_kv(k_cache, v_cache, k, v, params, step);
}

void Backend::paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                              const AttentionParams& params, const StepView& step) {
  check_caches(k_cache, v_cache, params);
  check_pair(out, q, "paged_attention");
  VIDERE_CHECK_EQ(q.shape(), (Shape{step.num_tokens, int64_t{params.num_heads} * params.head_dim}));
  VIDERE_CHECK_EQ(params.num_heads % params.num_kv_heads, 0);
  if (!nothing_in(q)) do_paged_attention(out, q, k_cache, v_cache, params, step);
}

void Backend::normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                               std::array<float, 3> std) {
  check_activation(out, "normalize_pixels");
  VIDERE_CHECK_EQ(rgb.dtype(), DType::kU8);
  VIDERE_CHECK_EQ(out.rank(), 4);
  VIDERE_CHECK_EQ(out.dim(1), 3);
  VIDERE_CHECK_EQ(out.shape(), rgb.shape());
  VIDERE_CHECK(rgb.stride(3) == 1 || rgb.dim(3) <= 1);
  if (!nothing_in(out)) do_normalize_pixels(out, rgb, mean, std);
}

void Backend::patchify(View out, ConstView pixels, int patch_size) {
  check_activation(out, "patchify");
  check_activation(pixels, "patchify pixels");
  VIDERE_CHECK_EQ(out.dtype(), pixels.dtype());
  VIDERE_CHECK_EQ(pixels.rank(), 4);
  VIDERE_CHECK(patch_size > 0 && pixels.dim(2) % patch_size == 0 && pixels.dim(3) % patch_size == 0)
      << pixels.shape().to_string() << " in patches of " << patch_size;
  const int64_t patches = pixels.dim(2) / patch_size * (pixels.dim(3) / patch_size);
  VIDERE_CHECK_EQ(pixels.dim(1), 3);
  VIDERE_CHECK_EQ(out.shape(),
                  (Shape{pixels.dim(0), patches, 3 * int64_t{patch_size} * patch_size}));
  if (!nothing_in(out)) do_patchify(out, pixels, patch_size);
}

void Backend::assemble_tokens(View out, ConstView patches, ConstView positions, ConstView prefix) {
  check_activation(out, "assemble_tokens");
  check_activation(patches, "assemble_tokens patches");
  VIDERE_CHECK(is_float(positions.dtype()) && is_float(prefix.dtype()));
  VIDERE_CHECK_EQ(patches.rank(), 3);
  VIDERE_CHECK_EQ(positions.shape(), (Shape{patches.dim(1), patches.dim(2)}));
  VIDERE_CHECK_EQ(prefix.shape(), (Shape{prefix.dim(0), patches.dim(2)}));
  VIDERE_CHECK_EQ(out.shape(),
                  (Shape{patches.dim(0), prefix.dim(0) + patches.dim(1), patches.dim(2)}));
  if (!nothing_in(out)) do_assemble_tokens(out, patches, positions, prefix);
}

void Backend::full_attention(View out, ConstView qkv, int num_heads, float scale) {
  check_activation(out, "full_attention");
  check_activation(qkv, "full_attention qkv");
  VIDERE_CHECK_EQ(qkv.rank(), 3);
  const int64_t width = qkv.dim(2) / 3;
  VIDERE_CHECK_EQ(qkv.dim(2), 3 * width);
  VIDERE_CHECK(num_heads > 0 && width % num_heads == 0) << width << " in " << num_heads << " heads";
  VIDERE_CHECK_EQ(out.shape(), (Shape{qkv.dim(0), qkv.dim(1), width}));
  if (!nothing_in(out)) do_full_attention(out, qkv, num_heads, scale);
}

void Backend::pixel_shuffle(View out, ConstView x, int rows, int cols, int factor,
                            bool transposed) {
  check_activation(out, "pixel_shuffle");
  check_activation(x, "pixel_shuffle x");
  VIDERE_CHECK_EQ(out.dtype(), x.dtype());
  VIDERE_CHECK(factor > 0 && rows % factor == 0 && cols % factor == 0)
      << rows << " x " << cols << " by " << factor;
  VIDERE_CHECK_EQ(x.shape(), (Shape{x.dim(0), int64_t{rows} * cols, x.dim(2)}));
  const int64_t merged = int64_t{factor} * factor;
  VIDERE_CHECK_EQ(out.shape(), (Shape{x.dim(0), x.dim(1) / merged, merged * x.dim(2)}));
  if (!nothing_in(out)) do_pixel_shuffle(out, x, rows, cols, factor, transposed);
}

void Backend::frame_dissimilarity(View out, ConstView rows, ConstView previous,
                                  int tokens_per_frame, EvsArithmetic arithmetic) {
  VIDERE_CHECK_EQ(out.dtype(), DType::kF32);
  VIDERE_CHECK(out.contiguous());
  check_activation(rows, "frame_dissimilarity");
  VIDERE_CHECK_EQ(rows.rank(), 2);
  VIDERE_CHECK(tokens_per_frame > 0 && rows.dim(0) % tokens_per_frame == 0) << tokens_per_frame;
  VIDERE_CHECK_EQ(out.numel(), rows.dim(0));
  if (!previous.empty()) {
    check_activation(previous, "frame_dissimilarity previous");
    VIDERE_CHECK_EQ(previous.shape(), (Shape{tokens_per_frame, rows.dim(1)}));
  }
  if (!nothing_in(rows)) do_frame_dissimilarity(out, rows, previous, tokens_per_frame, arithmetic);
}

void Backend::embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens) {
  check_activation(out, "embed");
  VIDERE_CHECK(is_float(table.dtype())) << dtype_name(table.dtype());
  VIDERE_CHECK_EQ(out.shape(), (Shape{out.dim(0), table.dim(1)}));
  check_index(token_ids, out.dim(0), "token_ids");
  check_index(last_tokens, last_tokens.dim(0), "last_tokens");
  if (!nothing_in(out)) do_embed(out, table, token_ids, last_tokens);
}

void Backend::gather_rows(View out, ConstView src, ConstView rows) {
  check_activation(out, "gather_rows");
  check_activation(src, "gather_rows src");
  VIDERE_CHECK_EQ(src.rank(), 2);
  VIDERE_CHECK_EQ(out.shape(), (Shape{out.dim(0), src.dim(1)}));
  check_index(rows, out.dim(0), "gather_rows rows");
  if (!nothing_in(out)) do_gather_rows(out, src, rows);
}

void Backend::edit_logits(View logits, std::span<const LogitEdit> edits) {
  check_logits(logits);
  for (const LogitEdit& edit : edits) {
    VIDERE_CHECK(edit.row >= 0 && edit.row < logits.dim(0)) << edit.row;
    VIDERE_CHECK(edit.token >= 0 && edit.token < logits.dim(1)) << edit.token;
  }
  if (!edits.empty()) do_edit_logits(logits, edits);
}

void Backend::penalize(View logits, std::span<const PenaltyRow> rows) {
  check_logits(logits);
  for (const PenaltyRow& row : rows) {
    VIDERE_CHECK(row.row >= 0 && row.row < logits.dim(0)) << row.row;
    for (const TokenCount& count : row.tokens) {
      VIDERE_CHECK(count.token >= 0 && count.token < logits.dim(1)) << count.token;
    }
  }
  if (!rows.empty()) do_penalize(logits, rows);
}

void Backend::sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows,
                     View last_tokens, std::span<SampledToken> out) {
  check_logits(logits);
  check_logits(raw_logits);
  VIDERE_CHECK_EQ(logits.shape(), raw_logits.shape());
  VIDERE_CHECK_GT(logits.dim(1), 0);
  VIDERE_CHECK_EQ(rows.size(), out.size());
  check_index(last_tokens, last_tokens.dim(0), "last_tokens");
  for (const SampleRow& row : rows) {
    VIDERE_CHECK(row.row >= 0 && row.row < logits.dim(0)) << row.row;
    VIDERE_CHECK(row.slot >= 0 && row.slot < last_tokens.dim(0)) << row.slot;
  }
  if (!rows.empty()) do_sample(logits, raw_logits, rows, last_tokens, out);
}

}  // namespace videre
