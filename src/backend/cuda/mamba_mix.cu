// The Mamba-2 mixer of a decode step in one kernel: convolution, scan and gated norm of one row a
// sequence. Bound by reading and writing the state once, 10.5 MB a layer and sequence in float32;
// with few sequences by the kernel's start, one round of loads and one exchange between the blocks
// of a group.
#include <utility>

#include "backend/cuda/rowwise.h"
#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kMostWarps = 16;
constexpr int kRows = 5;      // state rows a lane holds 16 bytes of
constexpr int kChannels = 2;  // a thread convolves
constexpr int kTaps = 4;
constexpr int kAtOnce = 3;       // channels of a group's norm a thread
constexpr int kMostBlocks = 16;  // of a cluster

struct MixArgs {
  const void *z, *xbc, *dt;  // rows of T, strides in elements
  void* out;
  int64_t z_stride, xbc_stride, dt_stride, out_stride;
  FloatReader conv_weight, conv_bias;  // [channels, 4]; [channels] or null
  FloatReader dt_bias, a, d, norm;
  void* conv_state;  // [slots, 3, channels]
  DType conv_dtype;
  int64_t conv_slot_stride, conv_row_stride;
  void* state;  // [slots, heads, head_dim, n_state]; a head's part is dense
  int64_t slot_stride, head_stride;
  int heads, head_dim, n_state, group_heads;
  float dt_min, dt_max, eps;
  // Where blocks do not meet in clusters:
  float* gated;        // [rows, heads * head_dim] before the norm
  float* squares;      // [rows, heads]
  uint32_t* arrivals;  // [rows, groups], zeros
};

/// What lies in shared memory, in floats: the head's x, then the group's B and C after the
/// convolution, then what warps and blocks tell each other.
struct MixLayout {
  int x, warps, blocks, flag, size;  // `flag`: two of 8 bytes
};
__host__ __device__ inline MixLayout layout_of(int head_dim, int n_state) {
  MixLayout layout;
  layout.x = 2 * n_state;  // B and C first: read 16 bytes at a time
  layout.warps = layout.x + head_dim;
  layout.blocks = layout.warps + kMostWarps;
  layout.flag = (layout.blocks + 2 * kMostBlocks + 1) / 2 * 2;
  layout.size = layout.flag + 4;
  return layout;
}

/// Elements of a parameter as they lie in memory: their conversion would wait for them, and is put
/// off until everything has been asked for.
__device__ __forceinline__ uint32_t fetch(const FloatReader& from, int64_t at) {
  if (from.dtype == DType::kF32) return static_cast<const uint32_t*>(from.data)[at];
  return static_cast<const uint16_t*>(from.data)[at];
}
__device__ __forceinline__ float value_of(const FloatReader& from, uint32_t bits) {
  if (from.dtype == DType::kF32) return __uint_as_float(bits);
  return from.dtype == DType::kBF16 ? bf16_low(bits)
                                    : half_bits_to_float(static_cast<uint16_t>(bits));
}
/// Four at a multiple of four.
__device__ __forceinline__ uint4 fetch_four(const FloatReader& from, int64_t at) {
  uint4 bits = make_uint4(0, 0, 0, 0);
  if (from.dtype == DType::kF32) {
    bits = *reinterpret_cast<const uint4*>(static_cast<const float*>(from.data) + at);
  } else {
    const uint2 half = *reinterpret_cast<const uint2*>(static_cast<const BF16*>(from.data) + at);
    bits.x = half.x, bits.y = half.y;
  }
  return bits;
}
__device__ __forceinline__ void values_of(const FloatReader& from, const uint4& bits,
                                          float (&v)[4]) {
  if (from.dtype == DType::kF32) {
    v[0] = __uint_as_float(bits.x), v[1] = __uint_as_float(bits.y);
    v[2] = __uint_as_float(bits.z), v[3] = __uint_as_float(bits.w);
  } else {
    v[0] = value_of(from, bits.x & 0xffff), v[1] = value_of(from, bits.x >> 16);
    v[2] = value_of(from, bits.y & 0xffff), v[3] = value_of(from, bits.y >> 16);
  }
}

/// A block takes one head of one sequence: a warp kRows state rows (of 16-bit states twice that), a
/// lane 16 bytes of each; a thread convolves up to two of the head's channels and its group's B and
/// C, which the group's other blocks do as well. What one exchange of a group's blocks then tells:
/// the sum of squares to norm by, and that everybody has read B's and C's old taps, so that one
/// block may overwrite them. With kCluster the group is a cluster, and each block norms its own
/// head; else heads wait in `gated`, and the block that comes last norms the group.
///
/// State, taps and parameters are fetched before the kernel before is through, as in scan_rows and
/// conv_sequences, and for the same reasons. Sequences of more rows than one (kOne false) are
/// right, not fast.
template <typename T, typename S, bool kCluster, bool kOne>
__device__ __forceinline__ void mix(const MixArgs& args, const StepView& step, int log2_lanes,
                                    int32_t read, int first, int num_rows, char* memory) {
  constexpr int kCount = kLaneElements<S>;
  const int length = kOne ? 1 : num_rows;
  float* const shared = reinterpret_cast<float*>(memory);
  const MixLayout layout = layout_of(args.head_dim, args.n_state);
  const int lanes = 1 << log2_lanes, at_once = kWarp >> log2_lanes;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp, warp = thread / kWarp, mine = lane & (lanes - 1);
  const int p0 = warp * kRows * at_once + (lane >> log2_lanes);
  const int rows = (args.head_dim - p0 + at_once - 1) / at_once;  // kRows at most are taken
  const int head = blockIdx.x, seq = blockIdx.y;
  const int group = head / args.group_heads, rank = head - group * args.group_heads;
  [[maybe_unused]] Mailbox* const mails = reinterpret_cast<Mailbox*>(shared + layout.flag);
  if constexpr (kCluster) open_mailboxes(mails);
  const int32_t write = step.write_slots[seq];
  const uint32_t position = static_cast<uint32_t>(step.context_lens[seq]);

  const int row_step = at_once * args.n_state;  // from one of a lane's rows to its next
  const int place0 = p0 * args.n_state + mine * kCount;
  S* const states = static_cast<S*>(args.state) + head * args.head_stride + place0;
  uint4 raw[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    raw[r] = make_uint4(0, 0, 0, 0);
    if (r < rows && read != kNoSlot) {
      raw[r] = load_stream16(states + read * args.slot_stride + r * row_step);
    }
  }

  // The thread's channels: `at` in shared memory, `channel` in the convolution; B, C, then x.
  const int num_channels = 2 * args.n_state + args.head_dim, inner = args.heads * args.head_dim;
  const int bc = args.heads / args.group_heads * args.n_state;
  const auto channel_of = [&](int at) {
    if (at >= layout.x) return head * args.head_dim + at - layout.x;
    return inner + group * args.n_state + (at < args.n_state ? at : bc + at - args.n_state);
  };
  const FloatReader old_taps{args.conv_state, args.conv_dtype};
  uint4 weight[kChannels] = {};
  uint32_t bias[kChannels] = {}, history[kChannels][kTaps - 1] = {};
  const auto fetch_weights = [&] {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int at = thread + i * threads, channel = channel_of(at);
      if (at >= num_channels) continue;
      weight[i] = fetch_four(args.conv_weight, int64_t{channel} * kTaps);
      if (args.conv_bias.data != nullptr) bias[i] = fetch(args.conv_bias, channel);
    }
  };
  fetch_weights();
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int at = thread + i * threads;
    if (at >= num_channels || read == kNoSlot) continue;
    const int64_t from = read * args.conv_slot_stride + channel_of(at);
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      history[i][j] = fetch(old_taps, from + j * args.conv_row_stride);
    }
  }
  const uint32_t dt_bias = fetch(args.dt_bias, head), a = fetch(args.a, head);
  const uint32_t d_bits = fetch(args.d, head);
  // A lane of `mine` < rows answers for one of the rows: its y, gate and norm.
  const bool answers = mine < min(rows, kRows);
  const int p = p0 + mine * at_once, my_channel = head * args.head_dim + p;
  const uint32_t norm_weight = kCluster && answers ? fetch(args.norm, my_channel) : 0;
  wait_for_previous();

  float taps[kChannels][kTaps - 1];
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) taps[i][j] = value_of(old_taps, history[i][j]);
  }
  const float d = value_of(args.d, d_bits);
  [[maybe_unused]] float many[kRows][kCount];  // the state between the rows of a longer sequence
#pragma unroll 1
  for (int t = 0; t < length; ++t) {
    const int64_t row = int64_t{first} + t;
    const bool last_row = t == length - 1;
    float fresh[kChannels] = {};
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int at = thread + i * threads;
      if (at < num_channels) {
        fresh[i] =
            float_of(static_cast<const T*>(args.xbc)[row * args.xbc_stride + channel_of(at)]);
      }
    }
    const float z =
        answers ? float_of(static_cast<const T*>(args.z)[row * args.z_stride + my_channel]) : 0.0f;
    const float dt = float_of(static_cast<const T*>(args.dt)[row * args.dt_stride + head]);
    if (t == 0) let_next_start();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int at = thread + i * threads;
      float w[kTaps];
      values_of(args.conv_weight, weight[i], w);
      float sum = fmaf(taps[i][0], w[0], value_of(args.conv_bias, bias[i]));
      sum = fmaf(taps[i][1], w[1], sum);
      sum = fmaf(taps[i][2], w[2], sum);
      const T value = silu_of<T>(fmaf(fresh[i], w[3], sum));
      if (at < num_channels) shared[at] = float_of(value);
      taps[i][0] = taps[i][1], taps[i][1] = taps[i][2], taps[i][2] = fresh[i];
    }
    const float delta = step_size(dt + value_of(args.dt_bias, dt_bias), args.dt_min, args.dt_max);
    const float decay = expf(delta * value_of(args.a, a));
    const uint32_t seed = rounding_seed(head, position + t);
    __syncthreads();

    float b[kCount], c[kCount];
    load_elements(b, shared + mine * kCount);
    load_elements(c, shared + args.n_state + mine * kCount);
    const float my_x = answers ? shared[layout.x + p] : 0.0f;
    float my_y = 0;
    if constexpr (kOne) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        float s[kCount];
        unpack<S>(s, raw[r]);
        const float x = __shfl_sync(kAllLanes, my_x, lane - mine + r);
        const float y = fmaf(d, x, update_row(s, decay, delta * x, b, c, lanes));
        if (mine == r) my_y = y;
        raw[r] = pack<S>(s, static_cast<uint32_t>(place0 + r * row_step), seed);
      }
    } else {
      if (t == 0) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) unpack<S>(many[r], raw[r]);
      }
#pragma unroll 1
      for (int r = 0; r < kRows; ++r) {
        const float x = __shfl_sync(kAllLanes, my_x, lane - mine + r);
        const float y = fmaf(d, x, update_row(many[r], decay, delta * x, b, c, lanes));
        if (mine == r) my_y = y;
      }
      if (last_row) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          raw[r] = pack<S>(many[r], static_cast<uint32_t>(place0 + r * row_step), seed);
        }
      }
    }
    const float y = float_of(rounded<T>(my_y));
    const float gated = answers ? y * __fdividef(z, 1.0f + expf(-z)) : 0.0f;
    const float square = warp_sum(gated * gated);
    if (lane == 0) shared[layout.warps + warp] = square;
    if (!kCluster && answers) args.gated[row * inner + my_channel] = gated;
    __syncthreads();

    const auto square_of_head = [&] {
      return warp_sum(lane < threads / kWarp ? shared[layout.warps + lane] : 0.0f);
    };
    const auto keep_state = [&] {
      if (!last_row) return;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < rows) store_stream16(states + write * args.slot_stride + r * row_step, raw[r]);
      }
    };
    const auto factor_of = [&](float my_square) {  // from each head's, a lane each
      const float sum = warp_sum(my_square);
      const auto width = static_cast<float>(args.group_heads * args.head_dim);
      return 1.0f / sqrtf(sum / width + args.eps);
    };
    bool owner;  // of B's and C's new taps
    if constexpr (kCluster) {
      // By turns: one block may be at the next row while another still awaits mail for this one.
      float* const blocks = shared + layout.blocks + t % 2 * kMostBlocks;
      Mailbox* const mail = mails + t % 2;
      if (t == 0) await_mailboxes();
      if (warp == 0) {
        const float sum = square_of_head();
        if (lane == 0) expect_mail(mail, args.group_heads);
        if (lane < args.group_heads) send_to_block(blocks + rank, mail, lane, sum);
      }
      keep_state();
      await_mail(mail, t / 2 % 2);
      const float factor = factor_of(lane < args.group_heads ? blocks[lane] : 0.0f);
      if (answers) {
        static_cast<T*>(args.out)[row * args.out_stride + my_channel] =
            rounded<T>(gated * factor * value_of(args.norm, norm_weight));
      }
      owner = rank == 0;
    } else {
      uint32_t* const flag = reinterpret_cast<uint32_t*>(shared + layout.flag);
      const int group_head = group * args.group_heads;
      float* const squares = args.squares + row * args.heads + group_head;
      if (warp == 0) {
        const float sum = square_of_head();
        if (lane == 0) {
          squares[rank] = sum;
          __threadfence();
          uint32_t* const arrivals = args.arrivals + row * (args.heads / args.group_heads) + group;
          const bool is_last =
              atomicAdd(arrivals, 1u) == static_cast<uint32_t>(args.group_heads - 1);
          *flag = is_last;
          if (is_last) __threadfence();
          if (is_last) *arrivals = 0;
        }
        __syncwarp();
      }
      keep_state();
      __syncthreads();
      owner = *flag != 0;
      if (owner) {
        const float my_square = lane < args.group_heads ? squares[lane] : 0.0f;
        const int begin = group_head * args.head_dim, count = args.group_heads * args.head_dim;
        const float* const values = args.gated + row * inner + begin;
        T* const out = static_cast<T*>(args.out) + row * args.out_stride + begin;
        for (int base = 0; base < count; base += kAtOnce * threads) {
          float value[kAtOnce] = {};
          uint32_t by[kAtOnce] = {};
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const int at = base + thread + i * threads;
            if (at < count) value[i] = values[at], by[i] = fetch(args.norm, begin + at);
          }
          const float factor = factor_of(my_square);
#pragma unroll
          for (int i = 0; i < kAtOnce; ++i) {
            const int at = base + thread + i * threads;
            if (at < count) out[at] = rounded<T>(value[i] * factor * value_of(args.norm, by[i]));
          }
        }
      }
    }
    if (!last_row) {
      fetch_weights();  // again, so that they need no registers before
      continue;
    }
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      const int at = thread + i * threads;
      if (at >= num_channels || (at < layout.x && !owner)) continue;
      const int64_t to = write * args.conv_slot_stride + channel_of(at);
#pragma unroll
      for (int j = 0; j < kTaps - 1; ++j) {
        const int64_t offset = to + j * args.conv_row_stride;
        if (args.conv_dtype == DType::kF32) {
          static_cast<float*>(args.conv_state)[offset] = taps[i][j];
        } else {
          static_cast<BF16*>(args.conv_state)[offset] = bf16_of(taps[i][j]);
        }
      }
    }
  }
}

template <typename T, typename S, bool kCluster>
__global__ void __launch_bounds__(kMostWarps* kWarp, 2)
    mix_kernel(MixArgs args, StepView step, int log2_lanes) {
  VIDERE_DYNAMIC_SHARED(memory);
  const int seq = blockIdx.y, first = step.cu_seqlens[seq];
  const int length = step.cu_seqlens[seq + 1] - first;
  const int32_t read = step.read_slots[seq];
  if (length <= 0) {
    wait_for_previous();
    let_next_start();
  } else if (length == 1) {
    mix<T, S, kCluster, true>(args, step, log2_lanes, read, first, length, memory);
  } else {
    mix<T, S, kCluster, false>(args, step, log2_lanes, read, first, length, memory);
  }
}

}  // namespace

uint32_t* CudaBackend::counters(int64_t count) {
  static constexpr int64_t kLeast = 1 << 14;
  if (count <= num_counters_) return counters_;
  if (counters_ != nullptr) adopted_.push_back(counters_);
  num_counters_ = std::max({count, 2 * num_counters_, kLeast});
  const int64_t bytes = num_counters_ * static_cast<int64_t>(sizeof(uint32_t));
  counters_ = static_cast<uint32_t*>(device_malloc(bytes));
  scratch_bytes_ += bytes;
  if (counters_ == nullptr) {
    report_cuda_error(2, "out of device memory for counters: cudaMalloc", __FILE__, __LINE__);
  } else {
    launcher_.queue([&] { set_async(counters_, 0, bytes, launcher_.stream()); }, true);
  }
  return counters_;
}

void CudaBackend::do_mamba2_mix(Operand out, const Mamba2Inputs& in, View conv_state,
                                View ssm_state, View conv_out, View y, const StepView& step) {
  MixArgs args = {};
  args.z = in.z.raw(), args.xbc = in.xbc.raw(), args.dt = in.dt.raw(), args.out = out.data.raw();
  args.z_stride = row_stride(in.z), args.xbc_stride = row_stride(in.xbc);
  args.dt_stride = row_stride(in.dt), args.out_stride = row_stride(out.data);
  args.conv_weight = reader(in.conv_weight);
  args.conv_bias = in.conv_bias.empty() ? FloatReader{} : reader(in.conv_bias);
  args.dt_bias = reader(in.dt_bias), args.a = reader(in.a), args.d = reader(in.d);
  args.norm = reader(in.norm);
  args.conv_state = conv_state.raw(), args.conv_dtype = conv_state.dtype();
  args.conv_slot_stride = conv_state.stride(0), args.conv_row_stride = conv_state.stride(1);
  args.state = ssm_state.raw();
  args.slot_stride = ssm_state.stride(0), args.head_stride = ssm_state.stride(1);
  args.heads = static_cast<int>(ssm_state.dim(1));
  args.head_dim = static_cast<int>(ssm_state.dim(2));
  args.n_state = static_cast<int>(ssm_state.dim(3));
  args.group_heads = args.heads / in.num_groups;
  args.dt_min = in.dt_min, args.dt_max = in.dt_max, args.eps = in.eps;

  const int lanes =
      aligned_rows(ssm_state, 16)
          ? row_lanes(args.n_state, static_cast<int64_t>(dtype_size(ssm_state.dtype())))
          : 0;
  const int64_t warps =
      lanes == 0 ? 0
                 : std::max(ceil_div(args.head_dim, int64_t{kRows} * (kWarp / lanes)),
                            ceil_div(2 * args.n_state + args.head_dim, kChannels * kWarp));
  const bool one_type = in.z.dtype() == y.dtype() && in.xbc.dtype() == y.dtype() &&
                        in.dt.dtype() == y.dtype() && out.data.dtype() == y.dtype() &&
                        conv_out.dtype() == y.dtype();
  // Steps of one row a sequence, or odd ones that look so. What emits states is composed.
  const bool fused = step.num_tokens <= step.num_seqs && step.num_emits == 0 && lanes > 0 &&
                     warps <= kMostWarps && one_type && args.group_heads <= kWarp &&
                     in.norm_group == args.group_heads * args.head_dim &&
                     in.conv_weight.dim(1) == kTaps && in.conv_weight.contiguous() &&
                     aligned_parameter(in.conv_weight);
  if (!fused) {
    return Backend::do_mamba2_mix(out, in, conv_state, ssm_state, conv_out, y, step);
  }
  LaunchShape shape;
  shape.grid = dim3(args.heads, step.num_seqs);
  shape.block = dim3(warps * kWarp);
  shape.shared_bytes =
      layout_of(args.head_dim, args.n_state).size * static_cast<int>(sizeof(float));
  const bool other_conv = std::exchange(last_conv_, conv_state.raw()) != conv_state.raw();
  const bool other_state = std::exchange(last_scan_, ssm_state.raw()) != ssm_state.raw();
  shape.overlap = other_conv && other_state;
  const int log2_lanes = lanes == 32 ? 5 : lanes == 16 ? 4 : 3;
  with_type(y.dtype(), [&](auto zero) {
    using T = decltype(zero);
    with_state_type(ssm_state.dtype(), [&](auto state_zero) {
      using S = decltype(state_zero);
      if (step.num_seqs <= clustered_seqs_ && info_.major >= 9 && args.group_heads <= kMostBlocks) {
        shape.cluster = args.group_heads;
        if (cluster_fits(mix_kernel<T, S, true>, shape)) {
          return run(mix_kernel<T, S, true>, shape, args, step, log2_lanes);
        }
        shape.cluster = 1;
      }
      const int64_t floats = int64_t{step.num_tokens} * args.heads;
      args.gated = static_cast<float*>(
          scratch((floats * args.head_dim + floats) * static_cast<int64_t>(sizeof(float))));
      args.squares = args.gated + floats * args.head_dim;
      args.arrivals = counters(int64_t{step.num_tokens} * in.num_groups);
      run(mix_kernel<T, S, false>, shape, args, step, log2_lanes);
    });
  });
}

}  // namespace videre::cuda
