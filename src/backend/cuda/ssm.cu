// The Mamba-2 scan, row by row: the recurrence with the state in registers. One row a sequence
// (decode) is bound by reading and writing the state once; many rows run at the speed of the chain,
// and are left to ssm_chunks.cu where that can take them.
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kWarps = 8;       // of scan_rows
constexpr int kRows = 5;        // state rows a lane holds 16 bytes of: 20 KiB in flight a block
constexpr int kPlainWarps = 4;  // of scan_any

/// A block takes kWarps * kRows * (32 / lanes) rows of one head of one sequence of at most `limit`
/// rows; `lanes` neighbours hold a state row, 16 bytes each; for the model's 80 x 128 float32 that
/// is half a head.
///
/// The state is fetched before the kernel before is through. That is sound as long as the last
/// writer of this layer's state is not that kernel: it is this op's last run, and causal_conv at
/// least comes between; and as long as every kernel waits for the one before it before it lets the
/// next one start, so that only one can be unfinished when this one begins.
template <typename T, typename S>
__global__ void __launch_bounds__(kWarps* kWarp)
    scan_rows(ScanArgs args, StepView step, int lanes, int limit) {
  constexpr int kCount = kLaneElements<S>;
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int at_once = kWarp / lanes;  // rows a warp holds side by side
  const int rows_a_block = kWarps * kRows * at_once;
  const int parts = (args.head_dim + rows_a_block - 1) / rows_a_block;
  const int head = static_cast<int>(blockIdx.x) / parts, seq = blockIdx.y;
  const int p0 =
      static_cast<int>(blockIdx.x) % parts * rows_a_block + warp * kRows * at_once + lane / lanes;
  const int n0 = lane % lanes * kCount;
  const int64_t first = step.cu_seqlens[seq];
  const int length = static_cast<int>(step.cu_seqlens[seq + 1] - first);
  const bool idle = length <= 0 || length > limit;
  float s[kRows][kCount] = {};
  float dt_bias = 0, a = 0, d = 0;
  if (!idle) {
    const int32_t read = step.read_slots[seq];
    if (read != kNoSlot) {
      const S* from = static_cast<const S*>(args.state) + read * args.slot_stride +
                      head * args.head_stride + n0;
      uint4 raw[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int p = p0 + r * at_once;
        raw[r] = p < args.head_dim ? load_stream16(from + int64_t{p} * args.n_state)
                                   : make_uint4(0, 0, 0, 0);
      }
#pragma unroll
      for (int r = 0; r < kRows; ++r) unpack<S>(s[r], raw[r]);
    }
    dt_bias = args.dt_bias[head], a = args.a[head], d = args.d[head];
  }
  wait_for_previous();
  let_next_start();
  if (idle) return;

  const int mine = lane % lanes;  // whose x this lane fetches and whose y it stores
  const int my_p = p0 + mine * at_once;
  const bool has_row = mine < kRows && my_p < args.head_dim;
  const int64_t bc = int64_t{head / args.group_heads} * args.n_state + n0;
  const T* x =
      static_cast<const T*>(args.x) + first * args.x_stride + int64_t{head} * args.head_dim + my_p;
  const T* b = static_cast<const T*>(args.b) + first * args.b_stride + bc;
  const T* c = static_cast<const T*>(args.c) + first * args.c_stride + bc;
  const T* dt = static_cast<const T*>(args.dt) + first * args.dt_stride + head;
  T* y = static_cast<T*>(args.y) + first * args.y_stride + int64_t{head} * args.head_dim + my_p;
  const uint32_t position = static_cast<uint32_t>(step.context_lens[seq]);
  const auto keep = [&](int32_t slot, int t) {
    S* to = static_cast<S*>(args.state) + slot * args.slot_stride + head * args.head_stride;
    const uint32_t seed = rounding_seed(head, position + t);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const int p = p0 + r * at_once;
      const uint32_t at = static_cast<uint32_t>(p) * args.n_state + n0;
      if (p < args.head_dim) store_stream16(to + at, pack<S>(s[r], at, seed));
    }
  };
  int emit = step.num_emits > 0 ? first_emit(step, seq) : 0;
  for (int t = 0; t < length; ++t) {
    float b_row[kCount], c_row[kCount];
    load_elements(b_row, b + t * args.b_stride);
    load_elements(c_row, c + t * args.c_stride);
    const float my_x = has_row ? float_of(x[t * args.x_stride]) : 0.0f;
    const float delta = step_size(args, float_of(dt[t * args.dt_stride]) + dt_bias);
    const float decay = expf(delta * a);
    float my_y = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float value = __shfl_sync(kAllLanes, my_x, lane - mine + r);
      const float sum = fmaf(d, value, update_row(s[r], decay, delta * value, b_row, c_row, lanes));
      if (mine == r) my_y = sum;
    }
    if (has_row) y[t * args.y_stride] = rounded<T>(my_y);
    for (; emit < step.num_emits && step.emit_seqs[emit] == seq && step.emit_rows[emit] == t;
         ++emit) {
      keep(step.emit_slots[emit], t);
    }
  }
  keep(step.write_slots[seq], length - 1);
}

/// Any size and alignment: a warp takes one state row of one head of one sequence, which lies in
/// shared memory.
template <typename T, typename S>
__global__ void scan_any(ScanArgs args, StepView step) {
  VIDERE_DYNAMIC_SHARED(shared);
  wait_for_previous();
  let_next_start();
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int parts = (args.head_dim + kPlainWarps - 1) / kPlainWarps;
  const int head = static_cast<int>(blockIdx.x) / parts, seq = blockIdx.y;
  const int p = static_cast<int>(blockIdx.x) % parts * kPlainWarps + warp;
  const int64_t first = step.cu_seqlens[seq];
  const int length = static_cast<int>(step.cu_seqlens[seq + 1] - first);
  if (length <= 0 || p >= args.head_dim) return;
  float* s = reinterpret_cast<float*>(shared) + int64_t{warp} * args.n_state;
  const int32_t read = step.read_slots[seq];
  const S* from = static_cast<const S*>(args.state) + read * args.slot_stride +
                  head * args.head_stride + int64_t{p} * args.n_state;
  for (int n = lane; n < args.n_state; n += kWarp)
    s[n] = read == kNoSlot ? 0.0f : float_of(from[n]);
  const float dt_bias = args.dt_bias[head], a = args.a[head], d = args.d[head];
  const int64_t channel = int64_t{head} * args.head_dim + p;
  const int64_t bc = int64_t{head / args.group_heads} * args.n_state;
  const uint32_t position = static_cast<uint32_t>(step.context_lens[seq]);
  const auto keep = [&](int32_t slot, int t) {
    S* to = static_cast<S*>(args.state) + slot * args.slot_stride + head * args.head_stride;
    const uint32_t seed = rounding_seed(head, position + t);
    for (int n = lane; n < args.n_state; n += kWarp) {
      store_element(to, static_cast<uint32_t>(p) * args.n_state + n, s[n], seed);
    }
  };
  int emit = step.num_emits > 0 ? first_emit(step, seq) : 0;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t row = first + t;
    const T* b = static_cast<const T*>(args.b) + row * args.b_stride + bc;
    const T* c = static_cast<const T*>(args.c) + row * args.c_stride + bc;
    const float x = float_of(static_cast<const T*>(args.x)[row * args.x_stride + channel]);
    const float delta = step_size(
        args, float_of(static_cast<const T*>(args.dt)[row * args.dt_stride + head]) + dt_bias);
    const float decay = expf(delta * a), dt_x = delta * x;
    float sum = 0;
    for (int n = lane; n < args.n_state; n += kWarp) {
      s[n] = fmaf(s[n], decay, dt_x * float_of(b[n]));
      sum = fmaf(s[n], float_of(c[n]), sum);
    }
    sum = warp_sum(sum);
    if (lane == 0)
      static_cast<T*>(args.y)[row * args.y_stride + channel] = rounded<T>(fmaf(d, x, sum));
    for (; emit < step.num_emits && step.emit_seqs[emit] == seq && step.emit_rows[emit] == t;
         ++emit) {
      keep(step.emit_slots[emit], static_cast<int>(t));
    }
  }
  keep(step.write_slots[seq], length - 1);
}

template <typename Fn>
void with_state_type(DType dtype, Fn&& fn) {
  if (dtype == DType::kBF16) {
    fn(BF16{});
  } else if (dtype == DType::kF16) {
    fn(Half{});
  } else {
    fn(0.0f);
  }
}

}  // namespace

void CudaBackend::do_ssm_scan(View y, const SsmInputs& in, View state, const StepView& step) {
  ScanArgs args = {};
  args.y = y.raw(), args.x = in.x.raw(), args.b = in.b.raw(), args.c = in.c.raw(),
  args.dt = in.dt.raw();
  args.y_stride = row_stride(y), args.x_stride = row_stride(in.x);
  args.b_stride = row_stride(in.b), args.c_stride = row_stride(in.c),
  args.dt_stride = row_stride(in.dt);
  args.dt_bias = reader(in.dt_bias), args.a = reader(in.a), args.d = reader(in.d);
  args.state = state.raw();
  args.slot_stride = state.stride(0), args.head_stride = state.stride(1);
  args.heads = static_cast<int>(state.dim(1)), args.head_dim = static_cast<int>(state.dim(2));
  args.n_state = static_cast<int>(state.dim(3)), args.group_heads = args.heads / in.num_groups;
  args.chunk = in.chunk_size, args.dt_min = in.dt_min, args.dt_max = in.dt_max;

  const int64_t state_size = static_cast<int64_t>(dtype_size(state.dtype()));
  const bool aligned_state = reinterpret_cast<uintptr_t>(state.raw()) % 16 == 0 &&
                             args.slot_stride * state_size % 16 == 0 &&
                             args.head_stride * state_size % 16 == 0;
  const int lanes = aligned_state && aligned_rows(in.b, 16) && aligned_rows(in.c, 16)
                        ? row_lanes(args.n_state, state_size)
                        : 0;
  const auto seqs = static_cast<unsigned>(step.num_seqs);
  LaunchShape shape;
  shape.overlap = true;
  // One row a sequence, or an odd step that looks so: then the rows' kernel takes what there is.
  const bool decode = step.num_tokens <= step.num_seqs;
  int limit = INT32_MAX;
  if (lanes > 0 && !decode && y.dtype() == DType::kBF16 && aligned_rows(in.x, 16) &&
      aligned_rows(y, 16)) {
    if (const ScanChunks scan_chunks = find_scan_chunks(args, state.dtype(), step, &shape)) {
      run(scan_chunks, shape, args, step);
      limit = 1;
    }
  }
  with_type(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    with_state_type(state.dtype(), [&](auto state_zero) {
      using S = decltype(state_zero);
      if (lanes > 0) {
        const int64_t parts = ceil_div(args.head_dim, int64_t{kWarps} * kRows * (kWarp / lanes));
        shape.grid = dim3(args.heads * parts, seqs);
        shape.block = dim3(kWarps * kWarp);
        shape.shared_bytes = 0;
        return run(scan_rows<T, S>, shape, args, step, lanes, limit);
      }
      shape.grid = dim3(args.heads * ceil_div(args.head_dim, kPlainWarps), seqs);
      shape.block = dim3(kPlainWarps * kWarp);
      shape.shared_bytes = kPlainWarps * args.n_state * static_cast<int>(sizeof(float));
      run(scan_any<T, S>, shape, args, step);
    });
  });
}

}  // namespace videre::cuda
