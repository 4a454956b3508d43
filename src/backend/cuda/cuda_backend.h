// The backend on one NVIDIA GPU. All work goes to one stream in call order; nothing waits for the
// host but `download` and `wait`. The ops live by family in norm.cu, linear.cu, conv.cu, ssm.cu,
// attention.cu, vision.cu, rows.cu and sample.cu, as the CPU's do; kernel.h says what kernels are
// written with.
#pragma once

#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "backend/backend.h"
#include "backend/cuda/launcher.h"

namespace videre::cuda {

class CublasLt;  // cublas_lt.h

class CudaBackend final : public Backend {
 public:
  CudaBackend(const CudaOptions& options, DeviceInfo info);
  ~CudaBackend() override;

  std::string_view name() const override { return "cuda"; }
  const DeviceInfo& info() const { return info_; }
  Launcher& launcher() { return launcher_; }
  /// Up to how many sequences' mixers meet in clusters of blocks; the others through memory. For
  /// benches and tests.
  int clustered_seqs() const { return clustered_seqs_; }
  void set_clustered_seqs(int most) { clustered_seqs_ = most; }

  Tensor allocate(DType dtype, Shape shape) override;
  ConstView adopt(ConstView host) override;
  void upload(View dst, const void* src) override;
  void download(void* dst, ConstView src) override;
  void zero(View x) override;
  void rehearse(const std::function<void()>& ops) override;
  void run_step(uint64_t key, const std::function<void()>& ops) override;
  void record_step(uint64_t key, const std::function<void()>& ops) override;
  uint64_t submit() override;
  void wait(uint64_t ticket) override;
  Status health() const override;
  DeviceMemory memory() const override;
  void finish_loading() override;

 protected:
  void do_copy(View dst, ConstView src) override;
  void do_linear(View out, const Operand& x, const Weight& weight) override;
  void do_linear_relu2(View out, const Operand& x, const Weight& weight) override;
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
  void do_mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state, View ssm_state,
                     View conv_out, View y, const StepView& step) override;
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
  void run_linear(View out, const Operand& x, const Weight& weight, bool relu2);
  /// Device memory of one op: its content lasts until the next op takes scratch. 256-byte aligned.
  /// Grows only before finish_loading (a warm-up of the largest sizes comes first).
  void* scratch(int64_t bytes);
  /// Zeros that kernels count in and leave as zeros. Grows as scratch does.
  uint32_t* counters(int64_t count);
  /// A small host array on the device, for kernels of this step; from the ring of the step's turn.
  const void* staged(const void* host, int64_t bytes);
  template <typename T>
  const T* staged(std::span<const T> host) {
    return static_cast<const T*>(staged(host.data(), static_cast<int64_t>(host.size_bytes())));
  }
  /// Device results that the host wants: `bytes` from `device` lie in the returned pinned memory
  /// once the next ticket is done; `then` runs inside `wait` of that ticket.
  void fetch(const void* device, int64_t bytes, std::function<void(const void* host)> then);
#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  /// Queues a kernel.
  template <typename... P, typename... A>
  void run(void (*kernel)(P...), const LaunchShape& shape, A&&... args) {
    launcher_(kernel, shape, std::forward<A>(args)...);
  }
#endif

  /// Host and device memory for what a step sends and fetches; turns are reused when their step is
  /// done.
  struct Turn {
    char* pinned = nullptr;
    char* device = nullptr;
    int64_t used = 0;
    Event begun{}, done{};
    uint64_t ticket = 0;    // 0: never submitted
    bool replayed = false;  // its step was, when it was submitted
    struct Fetch {
      const char* host;
      std::function<void(const void*)> then;
    };
    std::vector<Fetch> fetches;
    std::vector<void*> extra_pinned, extra_device;  // what did not fit
  };
  static constexpr int kTurns = 3;
  static constexpr int64_t kTurnBytes = 8 << 20;

  class Loader;

  Turn& turn() { return turns_[current_]; }
  int64_t take(Turn& turn, int64_t bytes);
  void finish_turn(Turn& turn);
  /// Of a turn whose work has ended.
  void time_turn(const Turn& turn);
  /// Pinned memory that copies from and to memory of the host's go through: for such copies the
  /// driver itself would wait, and without an end on a device that hangs.
  char* bounce();
  static constexpr int64_t kBounceBytes = 4 << 20;
  /// Host to device, the slow way.
  void copy_in_pieces(void* device, const void* host, int64_t bytes);

  DeviceInfo info_;
  bool synchronous_ = false, use_graphs_ = true, loaded_ = false;
  Launcher launcher_;
  int64_t allocated_bytes_ = 0, weight_bytes_ = 0, scratch_bytes_ = 0, scratch_held_ = 0;
  void* scratch_ = nullptr;
  uint32_t* counters_ = nullptr;
  int64_t num_counters_ = 0;
  int clustered_seqs_ = 4;
  std::vector<void*> adopted_;  // weights, and scratch that recorded steps still use
  Turn turns_[kTurns];
  int current_ = 0;
  uint64_t last_ticket_ = 0;
  char* bounce_ = nullptr;
  std::unordered_map<uint64_t, Graph> graphs_;
  bool replayed_ = false;  // in this turn
  // Of replayed steps that came right after another one: what they took, and how long before each
  // the device had nothing to do.
  int64_t num_timed_ = 0;
  double timed_ms_ = 0, idle_ms_ = 0;
  int64_t free_when_loaded_ = 0, loaded_tensor_bytes_ = 0;
  // States that the last run of these ops wrote: one that comes again at once may not be fetched
  // early.
  const void *last_conv_ = nullptr, *last_scan_ = nullptr;
  std::unique_ptr<CublasLt> cublas_;
  std::unique_ptr<Loader> loader_;  // while weights are adopted
};

/// Address of row `i` of a view of [..., width], counted over all outer dims, as two numbers a
/// kernel can use when the outer dims can be walked with one stride (contiguous but for the last);
/// -1 when they cannot.
inline int64_t row_stride(const ConstView& view) {
  if (view.rank() <= 1) return view.numel();
  int64_t stride = view.stride(view.rank() - 2);
  for (int axis = view.rank() - 3; axis >= 0; --axis) {
    if (view.dim(axis) != 1 && view.stride(axis) != view.stride(axis + 1) * view.dim(axis + 1))
      return -1;
  }
  return stride;
}
/// Whether every row of `view` starts at a multiple of `bytes` and holds whole ones.
inline bool aligned_rows(const ConstView& view, int bytes) {
  const int64_t size = static_cast<int64_t>(dtype_size(view.dtype()));
  if (reinterpret_cast<uintptr_t>(view.raw()) % bytes != 0 || view.dim(-1) * size % bytes != 0)
    return false;
  for (int axis = 0; axis < view.rank() - 1; ++axis) {
    if (view.dim(axis) > 1 && view.stride(axis) * size % bytes != 0) return false;
  }
  return true;
}
inline FloatReader reader(const ConstView& view) { return FloatReader{view.raw(), view.dtype()}; }

/// Calls fn with a value of the activation type, float or BF16.
template <typename Fn>
void with_type(DType dtype, Fn&& fn) {
  if (dtype == DType::kBF16) {
    fn(BF16{});
  } else {
    fn(0.0f);
  }
}

}  // namespace videre::cuda
