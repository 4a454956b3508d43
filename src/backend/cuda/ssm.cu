// The Mamba-2 scan, row by row: the recurrence with the state in registers. One row a sequence
// (decode) is bound by reading and writing the state once; many rows run at the speed of the chain,
// and are left to ssm_chunks.cu where that can take them.
#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kWarps = 8;       // of scan_rows
constexpr int kRows = 5;        // state rows a lane holds 16 bytes of: 20 KiB in flight a block
constexpr int kPlainWarps = 4;  // of scan_any

/// A block takes kWarps * kRows * (32 / lanes) state rows of one head of one sequence of at most
/// `limit` rows; `lanes` neighbours hold a state row, 16 bytes each; for the model's 80 x 128
/// float32 that is half a head, and four blocks keep 80 KiB a multiprocessor in flight.
///
/// The state is fetched before the kernel before is through. That is sound as long as that kernel
/// does not write this layer's state (its last writer is this op's last run, and causal_conv at
/// least comes between; do_ssm_scan does not overlap two runs on one state), and as long as every
/// kernel waits for the one before it before it lets the next one start, so that only one can be
/// unfinished when this one begins.
template <typename T, typename S>
__global__ void __launch_bounds__(kWarps* kWarp, 4)
    scan_rows(ScanArgs args, StepView step, int log2_lanes, int limit) {
  constexpr int kCount = kLaneElements<S>;
  const int lanes = 1 << log2_lanes,
            at_once = kWarp >> log2_lanes;  // rows a warp holds side by side
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  const int mine = lane & (lanes - 1);  // of the lanes of a row
  const int p0 =
      ((static_cast<int>(blockIdx.x) * kWarps + warp) * kRows) * at_once + (lane >> log2_lanes);
  const int head = blockIdx.y, seq = blockIdx.z;
  const int64_t first = step.cu_seqlens[seq];
  const int length = static_cast<int>(step.cu_seqlens[seq + 1] - first);
  const bool idle = length <= 0 || length > limit;
  const int32_t read = idle ? kNoSlot : step.read_slots[seq];
  const int row_step = at_once * args.n_state;  // from one of a lane's rows to its next
  S* const states =
      static_cast<S*>(args.state) + head * args.head_stride + (p0 * args.n_state + mine * kCount);
  const S* const from = states + read * args.slot_stride;
  const int rows = min(kRows, (args.head_dim - p0 + at_once - 1) / at_once);
  uint4 raw[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    raw[r] = make_uint4(0, 0, 0, 0);
    if (r < rows && read != kNoSlot) raw[r] = load_stream16(from + r * row_step);
  }
  const float dt_bias = args.dt_bias[head], a = args.a[head], d = args.d[head];
  const int group = head / args.group_heads;
  wait_for_previous();
  let_next_start();
  if (idle) return;

  const uint32_t position = static_cast<uint32_t>(step.context_lens[seq]);
  const int emit = step.num_emits > 0 ? first_emit(step, seq) : 0;
  const bool emits = emit < step.num_emits && step.emit_seqs[emit] == seq;
  S* const to = states + step.write_slots[seq] * args.slot_stride;
  const auto place = [&](int r) {  // of a row's first element in its head
    return static_cast<uint32_t>(p0 * args.n_state + mine * kCount + r * row_step);
  };
  const int64_t bc = int64_t{group} * args.n_state + mine * kCount;
  const int64_t channel = int64_t{head} * args.head_dim + p0;
  const auto value_of = [](const void* rows_of_t, int64_t at) {
    return float_of(static_cast<const T*>(rows_of_t)[at]);
  };
  if (length == 1 && !emits) {
    float b[kCount], c[kCount];
    load_elements(b, static_cast<const T*>(args.b) + first * args.b_stride + bc);
    load_elements(c, static_cast<const T*>(args.c) + first * args.c_stride + bc);
    const float my_x =  // a lane fetches one row's x and stores one row's y
        mine < rows ? value_of(args.x, first * args.x_stride + channel + mine * at_once) : 0.0f;
    const float delta = step_size(args, value_of(args.dt, first * args.dt_stride + head) + dt_bias);
    const float decay = expf(delta * a);
    const uint32_t seed = rounding_seed(head, position);
    float my_y = 0;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float s[kCount];
      unpack<S>(s, raw[r]);
      const float x = __shfl_sync(kAllLanes, my_x, lane - mine + r);
      const float y = fmaf(d, x, update_row(s, decay, delta * x, b, c, lanes));
      if (mine == r) my_y = y;
      if (r < rows) store_stream16(to + r * row_step, pack<S>(s, place(r), seed));
    }
    if (mine < rows) {
      static_cast<T*>(args.y)[first * args.y_stride + channel + mine * at_once] = rounded<T>(my_y);
    }
    return;
  }
  // Many rows: one state row after the other, fetched again. All lanes go around, since they sum
  // together.
#pragma unroll 1
  for (int r = 0; r < kRows; ++r) {
    const bool here = r < rows;
    float s[kCount] = {};
    if (here && read != kNoSlot) unpack<S>(s, load_stream16(from + r * row_step));
    const auto keep = [&](S* slot, int t) {
      const uint4 packed = pack<S>(s, place(r), rounding_seed(head, position + t));
      if (here) store_stream16(slot + r * row_step, packed);
    };
    int next = emit;
#pragma unroll 1
    for (int t = 0; t < length; ++t) {
      const int64_t row = first + t;
      float b[kCount], c[kCount];
      load_elements(b, static_cast<const T*>(args.b) + row * args.b_stride + bc);
      load_elements(c, static_cast<const T*>(args.c) + row * args.c_stride + bc);
      const float x = here ? value_of(args.x, row * args.x_stride + channel + r * at_once) : 0.0f;
      const float delta = step_size(args, value_of(args.dt, row * args.dt_stride + head) + dt_bias);
      const float y = fmaf(d, x, update_row(s, expf(delta * a), delta * x, b, c, lanes));
      if (here && mine == 0) {
        static_cast<T*>(args.y)[row * args.y_stride + channel + r * at_once] = rounded<T>(y);
      }
      for (; next < step.num_emits && step.emit_seqs[next] == seq && step.emit_rows[next] == t;
           ++next) {
        keep(states + step.emit_slots[next] * args.slot_stride, t);
      }
    }
    keep(to, length - 1);
  }
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
  args.state_dtype = state.dtype();
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
  shape.overlap = std::exchange(last_scan_, state.raw()) != state.raw();
  // One row a sequence, or an odd step that looks so: then the rows' kernel takes what there is.
  const bool decode = step.num_tokens <= step.num_seqs;
  int limit = INT32_MAX;
  if (lanes > 0 && !decode && y.dtype() == DType::kBF16 && aligned_rows(in.x, 16) &&
      aligned_rows(y, 16)) {
    if (const ScanChunks scan_chunks =
            find_scan_chunks(args, step, info_.shared_bytes_per_block, &shape)) {
      run(scan_chunks, shape, args, step);
      limit = 1;
    }
  }
  with_type(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    with_state_type(state.dtype(), [&](auto state_zero) {
      using S = decltype(state_zero);
      if (lanes > 0) {
        const int64_t rows_a_block = int64_t{kWarps} * kRows * (kWarp / lanes);
        shape.grid = dim3(ceil_div(args.head_dim, rows_a_block), args.heads, seqs);
        shape.block = dim3(kWarps * kWarp);
        shape.shared_bytes = 0;
        return run(scan_rows<T, S>, shape, args, step,
                   lanes == 32   ? 5
                   : lanes == 16 ? 4
                                 : 3,
                   limit);
      }
      shape.grid = dim3(args.heads * ceil_div(args.head_dim, kPlainWarps), seqs);
      shape.block = dim3(kPlainWarps * kWarp);
      shape.shared_bytes = kPlainWarps * args.n_state * static_cast<int>(sizeof(float));
      run(scan_any<T, S>, shape, args, step);
    });
  });
}

}  // namespace videre::cuda
