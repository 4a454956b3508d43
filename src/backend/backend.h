// Backend: all that a device must do, on one page. The public half checks shapes and dtypes once
// and calls the virtual half; a fused op starts as a composition of plain ones (backend.cc), so
// that a new device is right first and fast one override at a time. Ops know nothing of the model;
// `T` below is the activation dtype, float32 or bfloat16: arithmetic is in float, results are
// rounded once to T.
//
// One thread at a time may call a backend. Ops on one backend run in call order; results may be
// read after `wait`. Nothing here allocates but `allocate` and `adopt`.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "backend/sampling.h"
#include "backend/step.h"
#include "tensor/tensor.h"
#include "videre/result.h"
#include "weights/weight.h"

namespace videre {

/// What a linear reads: rows in the format that its weight wants. The op before it writes this
/// format, and linears that read the same input share it. Today `data` is [rows, K] of T; scaled 8-
/// and 4-bit inputs use `scales` and other layouts.
enum class OperandLayout { kRows };
struct Operand {
  View data;
  View scales;
  OperandLayout layout = OperandLayout::kRows;
};

struct AttentionParams {
  int num_heads = 0, num_kv_heads = 0, head_dim = 0;
  float scale = 0;
  float k_scale = 1, v_scale = 1;  // of an fp8 cache: stored = value / scale
};

/// Inputs of the Mamba-2 scan, all slices of one projection. See docs/model.md#mamba-2.
struct SsmInputs {
  ConstView x;        // [tokens, heads * head_dim] after the convolution
  ConstView b, c;     // [tokens, groups * state]
  ConstView dt;       // [tokens, heads] before bias and softplus
  ConstView dt_bias;  // [heads] float
  ConstView a;        // [heads] float, -exp(A_log)
  ConstView d;        // [heads] float
  int num_groups = 0, chunk_size = 0;
  float dt_min = 0, dt_max = 0;  // clamp after softplus; dt_max is usually infinity
};

/// A Mamba-2 mixer between its two linears: slices of the projection, and parameters. See
/// docs/model.md#mamba-2.
struct Mamba2Inputs {
  ConstView z;                    // [tokens, heads * head_dim], the gate
  ConstView xbc;                  // [tokens, x | B | C] before the convolution
  ConstView dt;                   // [tokens, heads] before bias and softplus
  ConstView conv_weight;          // [channels of xbc, taps]
  ConstView conv_bias;            // [channels] or empty
  ConstView dt_bias, a, d, norm;  // as in SsmInputs; norm [heads * head_dim]
  int num_groups = 0, chunk_size = 0, norm_group = 0;
  float dt_min = 0, dt_max = 0, eps = 0;
};

/// How dissimilarities are rounded. kBFloat16 rounds where vLLM's bf16 tensors do, so that ties
/// fall alike.
enum class EvsArithmetic { kFloat32, kBFloat16 };

/// Stands around every linear: to learn what activations measure, or to try what a format would do
/// to them. On the backend's thread; the backend may be used, but not for a linear. Fused ops come
/// apart.
class LinearProbe {
 public:
  virtual ~LinearProbe() = default;
  /// What the linear is to read: `x` itself, or other rows of the same shape.
  virtual Operand before(const Operand& x, const Weight& weight) = 0;
  virtual void after(ConstView out, const Weight& weight) = 0;
};

using Observer = std::function<void(std::string_view name, ConstView view)>;

/// What a device holds, in bytes; `total` and `free` are 0 where memory is the host's.
struct DeviceMemory {
  int64_t total = 0, free = 0;
  int64_t weights = 0, tensors = 0, scratch = 0;  // adopted, allocated, and the backend's own
  // Since finish_loading: what the driver had taken by then for kernels and recorded steps, and how
  // many bytes of free memory have gone since; other programs' count too.
  int64_t driver = 0, changed = 0;
};

class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;
  /// Ok, or the failure after which this device computes nothing more: ops return at once, results
  /// are void.
  virtual Status health() const { return {}; }
  /// Once loading has finished, any thread may ask.
  virtual DeviceMemory memory() const { return {}; }
  /// Everything is allocated and warm: from here on the device's memory stays as it is.
  virtual void finish_loading() {}

  // Memory. `allocate` gives zeros; large host tensors are backed by pages only when touched.
  virtual Tensor allocate(DType dtype, Shape shape) = 0;
  /// Makes a mapped host tensor readable by ops: itself on the CPU, a copy owned by the backend
  /// elsewhere.
  virtual ConstView adopt(ConstView host) = 0;
  /// From dense rows; those of dst may be strided.
  virtual void upload(View dst, const void* src) = 0;
  virtual void download(void* dst, ConstView src) = 0;  // waits
  virtual void zero(View x) = 0;
  void copy(View dst,
            ConstView src);  // same shape; dtypes may differ; dims but the last may be strided

  // Steps. `run_step` runs `ops` now, or replays what was recorded for `key`; `submit` marks the
  // end of the work queued so far and `wait` blocks until that is done.
  virtual void run_step(uint64_t key, const std::function<void()>& ops) { (void)key, ops(); }
  /// Loads, chooses and grows what `ops` would on first use, and computes nothing; the ops' results
  /// are void. Does nothing where there is nothing of the kind.
  virtual void rehearse(const std::function<void()>& ops) { (void)ops; }
  /// Records `ops`, which have run before or were rehearsed, without running them. Does nothing
  /// where nothing is recorded.
  virtual void record_step(uint64_t key, const std::function<void()>& ops) { (void)key, (void)ops; }
  virtual uint64_t submit() { return 0; }
  virtual void wait(uint64_t ticket) { (void)ticket; }

  // Linear algebra.
  /// out [rows, N] = x [rows, K] W^T + bias. out is T or float32 (logits). On the CPU a row's bits
  /// do not depend on the other rows (but for bfloat16 by NVFP4, which has two ways: up to 12 rows
  /// and more).
  void linear(View out, const Operand& x, const Weight& weight);
  /// out [rows, N] = relu(linear)^2, rounded to T after the linear and after the square, as the two
  /// ops do.
  void linear_relu2(View out, const Operand& x, const Weight& weight);
  /// Sum over all devices of a tensor-parallel group; the identity on one.
  virtual void all_reduce(View x) { (void)x; }

  // Norms and pointwise. Rows are [..., width]; weights any float dtype.
  void rms_norm(Operand out, ConstView x, ConstView weight, float eps);
  /// residual += x (rounded to its dtype), then out = rms_norm(residual).
  void add_rms_norm(Operand out, View residual, ConstView x, ConstView weight, float eps);
  void layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias, float eps);
  void add_layer_norm(Operand out, View residual, ConstView x, ConstView weight, ConstView bias,
                      float eps);
  /// v = y * silu(z); each run of `group_size` channels is normalised by its own mean square, times
  /// weight.
  void gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight, int group_size,
                      float eps);
  void add(View x, ConstView y);                // x += y
  void scale_columns(View x, ConstView gamma);  // x[i, j] *= gamma[j]  (LayerScale)
  void relu2(Operand out, ConstView x);         // relu(x)^2
  void gelu(Operand out, ConstView x);          // erf form

  // Sequence mixers over a flat batch [tokens, ...] of many sequences.
  /// Depthwise causal convolution over x [tokens, C] with weight [C, K], bias [C] or empty, then
  /// SiLU. state [slots, K-1, C] holds the raw inputs before the step's first row, oldest first.
  void causal_conv(View out, ConstView x, ConstView weight, ConstView bias, View state,
                   const StepView& step);
  /// y [tokens, heads*head_dim]; state [slots, heads, head_dim, state_size]. Long spans run in
  /// chunks cut at absolute multiples of chunk_size, so a prompt cut there gives the same bits as
  /// in one piece.
  void ssm_scan(View y, const SsmInputs& in, View state, const StepView& step);
  /// causal_conv of xbc, ssm_scan of its parts and dt, gated_rms_norm by z: out [tokens,
  /// heads*head_dim], rounded where the three ops round. conv_out [tokens, channels] and y (as out)
  /// are scratch: they may hold what the ops leave, or nothing. A composition on the CPU; CUDA has
  /// one kernel for steps of one row a sequence, and composes the others.
  void mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state, View ssm_state,
                  View conv_out, View y, const StepView& step);
  /// Writes k, v [tokens, kv_heads*head_dim] into caches [blocks, kv_heads, block_size, head_dim].
  void append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                 const AttentionParams& params, const StepView& step);
  /// Causal attention of q [tokens, heads*head_dim] over the caches, context and this step's rows
  /// alike. On the CPU a row's bits depend on neither the cut nor the company, but that a piece of
  /// one row sums in another order than longer ones.
  void paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                       const AttentionParams& params, const StepView& step);

  // Vision. `tiles` is the batch.
  /// out [tiles, 3, H, W] of T = (rgb / 255 - mean) / std, in float before the rounding.
  void normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                        std::array<float, 3> std);
  /// out [tiles, patches, 3*p*p], patch order row-major, values ordered (channel, y, x).
  void patchify(View out, ConstView pixels, int patch_size);
  /// out [tiles, prefix + patches, E]: prefix [prefix, E] rows as they are, then patches +
  /// positions [patches, E].
  void assemble_tokens(View out, ConstView patches, ConstView positions, ConstView prefix);
  /// Full attention within each tile: qkv [tiles, tokens, 3E] -> out [tiles, tokens, E].
  void full_attention(View out, ConstView qkv, int num_heads, float scale);
  /// x [tiles, rows*cols, E] (tiles may be strided) -> out [tiles, rows*cols/f^2, f*f*E];
  /// `transposed` is ps_version v1.
  void pixel_shuffle(View out, ConstView x, int rows, int cols, int factor, bool transposed);
  /// out [frames, tokens] float = 1 - cos(rows[f, t], row before it in time); rows [frames*tokens,
  /// H]. `previous` [tokens, H] is the frame before the first, or empty: then the first frame gets
  /// 255.
  void frame_dissimilarity(View out, ConstView rows, ConstView previous, int tokens_per_frame,
                           EvsArithmetic arithmetic);

  // Rows.
  /// out[i] = table[token_ids[i] >= 0 ? token_ids[i] : last_tokens[-1 - token_ids[i]]]; int32
  /// arrays on the device.
  void embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens);
  /// out[i] = src[rows[i]]; rows[i] < 0 leaves out[i] as it is (merging media rows, picking last
  /// rows).
  void gather_rows(View out, ConstView src, ConstView rows);

  // Sampling. logits [rows, vocab] float32.
  void edit_logits(View logits, std::span<const LogitEdit> edits);
  void penalize(View logits, std::span<const PenaltyRow> rows);
  /// raw_logits: the rows before any edit, for logprobs; may be `logits` itself when nothing was
  /// edited. last_tokens [slots] int32. `out` has one entry a row of `rows` and is valid after
  /// `wait`.
  void sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows, View last_tokens,
              std::span<SampledToken> out);

  /// Named tensors leave each layer when someone listens (`videre inspect dump`).
  void set_observer(Observer observer) { observer_ = std::move(observer); }
  bool observing() const { return static_cast<bool>(observer_); }
  void observe(std::string_view name, ConstView view) {
    if (observer_) observer_(name, view);
  }

  /// Must outlive its use; null takes it away.
  void set_linear_probe(LinearProbe* probe) { linear_probe_ = probe; }

 protected:
  virtual void do_copy(View dst, ConstView src) = 0;
  virtual void do_linear(View out, const Operand& x, const Weight& weight) = 0;
  virtual void do_linear_relu2(View out, const Operand& x, const Weight& weight);
  virtual void do_rms_norm(Operand out, ConstView x, ConstView weight, float eps) = 0;
  virtual void do_add_rms_norm(Operand out, View residual, ConstView x, ConstView weight,
                               float eps);
  virtual void do_layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias,
                             float eps) = 0;
  virtual void do_add_layer_norm(Operand out, View residual, ConstView x, ConstView weight,
                                 ConstView bias, float eps);
  virtual void do_gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight,
                                 int group_size, float eps) = 0;
  virtual void do_add(View x, ConstView y) = 0;
  virtual void do_scale_columns(View x, ConstView gamma) = 0;
  virtual void do_relu2(Operand out, ConstView x) = 0;
  virtual void do_gelu(Operand out, ConstView x) = 0;
  virtual void do_causal_conv(View out, ConstView x, ConstView weight, ConstView bias, View state,
                              const StepView& step) = 0;
  virtual void do_ssm_scan(View y, const SsmInputs& in, View state, const StepView& step) = 0;
  virtual void do_mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state, View ssm_state,
                             View conv_out, View y, const StepView& step);
  virtual void do_append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                            const AttentionParams& params, const StepView& step) = 0;
  virtual void do_paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                                  const AttentionParams& params, const StepView& step) = 0;
  virtual void do_normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                                   std::array<float, 3> std) = 0;
  virtual void do_patchify(View out, ConstView pixels, int patch_size) = 0;
  virtual void do_assemble_tokens(View out, ConstView patches, ConstView positions,
                                  ConstView prefix) = 0;
  virtual void do_full_attention(View out, ConstView qkv, int num_heads, float scale) = 0;
  virtual void do_pixel_shuffle(View out, ConstView x, int rows, int cols, int factor,
                                bool transposed) = 0;
  virtual void do_frame_dissimilarity(View out, ConstView rows, ConstView previous,
                                      int tokens_per_frame, EvsArithmetic arithmetic) = 0;
  virtual void do_embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens) = 0;
  virtual void do_gather_rows(View out, ConstView src, ConstView rows) = 0;
  virtual void do_edit_logits(View logits, std::span<const LogitEdit> edits) = 0;
  virtual void do_penalize(View logits, std::span<const PenaltyRow> rows) = 0;
  virtual void do_sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows,
                         View last_tokens, std::span<SampledToken> out) = 0;

 private:
  void check_linear(View out, const Operand& x, const Weight& weight) const;

  Observer observer_;
  LinearProbe* linear_probe_ = nullptr;
};

struct CpuOptions {
  int num_threads = 0;  // 0 = one a core
  /// "" is the best that the machine has; "plain", "avx2", "avx512" and "avx512_bf16" are for tests
  /// and benches.
  std::string_view isa;
};
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options = {});

struct CudaOptions {
  int device = 0;  // among those that CUDA_VISIBLE_DEVICES leaves
  bool use_graphs = true;
  bool synchronous =
      false;  // every op waits, and tensors lie where the host reads them too: for tests
  int64_t step_timeout_ms = 300000;  // a step that takes longer counts as hung; 0 waits for ever
};
/// Errors: kUnavailable when this build has no CUDA, or the machine no driver or card, and says
/// which.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options = {});
bool cuda_in_this_build();

}  // namespace videre
