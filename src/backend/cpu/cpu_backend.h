// The backend on the host's cores. One thread pool, one set of kernels chosen at run time, and
// scratch memory that grows to the largest step seen and stays. The ops live by family in norm.cc,
// linear.cc, conv.cc, ssm.cc, attention.cc, vision.cc, rows.cc and sample.cc.
#pragma once

#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"
#include "base/thread_pool.h"

namespace videre::cpu {

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options);

  std::string_view name() const override { return "cpu"; }
  const Kernels& kernels() const { return kernels_; }
  ThreadPool& pool() { return pool_; }

  Tensor allocate(DType dtype, Shape shape) override;
  ConstView adopt(ConstView host) override { return host; }
  void upload(View dst, const void* src) override;
  void download(void* dst, ConstView src) override;
  void zero(View x) override;

 protected:
  void do_copy(View dst, ConstView src) override;
  void do_linear(View out, const Operand& x, const Weight& weight) override;
  void do_rms_norm(Operand out, ConstView x, ConstView weight, float eps) override;
  void do_add_rms_norm(Operand out, View residual, ConstView x, ConstView weight,
                       float eps) override;
  void do_layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias,
                     float eps) override;
  void do_add_layer_norm(Operand out, View residual, ConstView x, ConstView weight, ConstView bias,
                         float eps) override;
  void do_gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight, int group_size,
                         float eps) override;
  void do_add(View x, ConstView y) override;
  void do_scale_columns(View x, ConstView gamma) override;
  void do_relu2(Operand out, ConstView x) override;
  void do_gelu(Operand out, ConstView x) override;
  void do_causal_conv(View out, ConstView x, ConstView weight, ConstView bias, View state,
                      const StepView& step) override;
  void do_ssm_scan(View y, const SsmInputs& in, View state, const StepView& step) override;
  void do_append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                    const AttentionParams& params, const StepView& step) override;
  void do_paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                          const AttentionParams& params, const StepView& step) override;
  void do_normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                           std::array<float, 3> std) override;
  void do_patchify(View out, ConstView pixels, int patch_size) override;
  void do_assemble_tokens(View out, ConstView patches, ConstView positions,
                          ConstView prefix) override;
  void do_full_attention(View out, ConstView qkv, int num_heads, float scale) override;
  void do_pixel_shuffle(View out, ConstView x, int rows, int cols, int factor,
                        bool transposed) override;
  void do_frame_dissimilarity(View out, ConstView rows, ConstView previous, int tokens_per_frame,
                              EvsArithmetic arithmetic) override;
  void do_embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens) override;
  void do_gather_rows(View out, ConstView src, ConstView rows) override;
  void do_edit_logits(View logits, std::span<const LogitEdit> edits) override;
  void do_penalize(View logits, std::span<const PenaltyRow> rows) override;
  void do_sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows,
                 View last_tokens, std::span<SampledToken> out) override;

 private:
  /// At least `floats` floats, 64-byte aligned, whose content lasts until the next call for the
  /// same owner: a worker inside a loop, or `shared()` outside of loops.
  float* scratch(int owner, int64_t floats);
  int shared() const { return pool_.num_threads(); }
  /// All elements of a contiguous view in float.
  void widen(float* dst, ConstView view);
  /// fn(row, floats) for each row of `x` widened to `floats`, with `extra` floats of room behind.
  template <typename Fn>
  void for_rows(ConstView x, int64_t extra, Fn&& fn);
  template <typename T>
  void run_linear(View out, ConstView x, const Weight& weight);

  const Kernels& kernels_;
  ThreadPool pool_;
  std::vector<Tensor> scratch_;  // one an owner
};

/// Address of row `i` of a view of [..., width], counted over all outer dims.
inline const char* row_at(const ConstView& view, int64_t i) {
  int64_t offset = 0;
  for (int axis = view.rank() - 2; axis >= 0; --axis) {
    offset += i % view.dim(axis) * view.stride(axis);
    i /= view.dim(axis);
  }
  return static_cast<const char*>(view.raw()) +
         offset * static_cast<int64_t>(dtype_size(view.dtype()));
}
inline char* row_at(const View& view, int64_t i) {
  return const_cast<char*>(row_at(ConstView(view), i));
}

/// Rows of about 16k elements together make a part worth handing to a thread.
inline int64_t row_grain(int64_t width) {
  constexpr int64_t kElements = 16384;
  return width >= kElements ? 1 : kElements / (width > 0 ? width : 1);
}

template <typename Fn>
void CpuBackend::for_rows(ConstView x, int64_t extra, Fn&& fn) {
  const int64_t width = x.dim(-1), padded = pad_up(width);
  pool_.parallel_for(num_rows(x), row_grain(width), [&](int64_t begin, int64_t end, int worker) {
    float* floats = scratch(worker, padded + extra);
    for (int64_t row = begin; row < end; ++row) {
      kernels_.widen(floats, row_at(x, row), x.dtype(), width);
      fn(row, floats);
    }
  });
}

}  // namespace videre::cpu
