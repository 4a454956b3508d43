// The Mamba-2 mixer of a decode step in one kernel: convolution, scan and gated norm of one row a
// sequence. Bound by reading and writing the state once, 10.5 MB a layer and sequence in float32;
// with few sequences by the kernel's start, one round of loads and one exchange between the blocks
// of a group.
#include <utility>

#include "backend/cuda/rowwise.h"
#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kMostWarps = 8;
constexpr int kChannels = 2;  // a thread convolves
constexpr int kTaps = 4;
constexpr int kAtOnce = 5;                    // channels of a group's norm a thread
constexpr int kMostBlocks = 16;               // of a cluster
constexpr int64_t kMostStateBytes = 6 << 20;  // of a step's sequences

/// How a state row of kState elements S lies in a warp: lanes hold 16 bytes each, and kRows rows.
template <typename S, int kState>
struct RowsOf {
  static constexpr int kCount = kLaneElements<S>;
  static constexpr int kLanes = kState / kCount, kSideBySide = kWarp / kLanes;
  static constexpr int kRows = sizeof(S) == 4 ? 10 : 5, kOfWarp = kRows * kSideBySide;
};

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
  int heads, head_dim, group_heads;
  float dt_min, dt_max, eps;
  // Where blocks do not meet in clusters:
  float* gated;        // [rows, heads * head_dim] before the norm
  float* squares;      // [rows, heads]
  uint32_t* arrivals;  // [rows, groups], zeros
};

/// What lies in shared memory, in floats: the group's B and C and the head's x after the
/// convolution, and what warps and blocks tell each other.
template <int kState>
struct Layout {
  static constexpr int kX = 2 * kState;  // B and C first: read 16 bytes at a time
  static constexpr int kWarps = kWarp * kMostWarps * kChannels;
  static constexpr int kStep = kWarps + kMostWarps;  // delta and decay
  static constexpr int kBlocks = kStep + 2;
  static constexpr int kFlag = kBlocks + 2 * kMostBlocks;  // two of 8 bytes
  static constexpr int kSize = kFlag + 4;
};

/// Elements of a parameter as they lie in memory: their conversion would wait for them, and is put
/// off until everything has been asked for.
__device__ __forceinline__ uint32_t fetch(const FloatReader& from, int64_t at) {
  const bool wide = from.dtype == DType::kF32;
  const char* const p = static_cast<const char*>(from.data) + at * (wide ? 4 : 2);
  if (wide) return *reinterpret_cast<const uint32_t*>(p);
  return *reinterpret_cast<const uint16_t*>(p);
}
__device__ __forceinline__ float value_of(const FloatReader& from, uint32_t bits) {
  if (from.dtype == DType::kF32) return __uint_as_float(bits);
  return from.dtype == DType::kBF16 ? bf16_low(bits)
                                    : half_bits_to_float(static_cast<uint16_t>(bits));
}
/// Four at a multiple of four.
__device__ __forceinline__ uint4 fetch_four(const FloatReader& from, int64_t at) {
  const bool wide = from.dtype == DType::kF32;
  const char* const p = static_cast<const char*>(from.data) + at * (wide ? 4 : 2);
  uint4 bits = make_uint4(0, 0, 0, 0);
  if (wide) {
    bits = *reinterpret_cast<const uint4*>(p);
  } else {
    const uint2 half = *reinterpret_cast<const uint2*>(p);
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

/// Sums v[0], ..., v[kRows - 1] each over kLanes neighbours, adding lanes as update_row does; a
/// lane gets the sum of row `row_of_lane`. At each step a lane gives half of its sums away.
template <int kLanes, int kRows>
__device__ __forceinline__ float sum_rows(float (&v)[kRows], int lane) {
  int count = kRows;
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    const bool high = (lane & mask) != 0;
#pragma unroll
    for (int i = 0; 2 * i < count; ++i) {
      if (2 * i + 1 < count) {
        const float keep = high ? v[2 * i + 1] : v[2 * i], give = high ? v[2 * i] : v[2 * i + 1];
        v[i] = keep + __shfl_xor_sync(kAllLanes, give, mask);
      } else {
        v[i] = v[2 * i] + __shfl_xor_sync(kAllLanes, v[2 * i], mask);
      }
    }
    count = (count + 1) / 2;
  }
  return v[0];
}
/// Which row's sum the lane gets, or kRows where another lane has the same.
template <int kLanes, int kRows>
__device__ __forceinline__ int row_of_lane(int lane) {
  int row = 0, place = 1;
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    if ((lane & mask) != 0) row += place;
    place *= 2;
  }
  return min(row, kRows);
}

/// A block takes one head of one sequence: a warp kRows state rows (of 16-bit states at least twice
/// that), a lane 16 bytes of each; a thread convolves up to two of the head's channels and its
/// group's B and C, which the group's other blocks do as well. What one exchange of a group's
/// blocks then tells: the sum of squares to norm by, and that everybody has read B's and C's old
/// taps, so that one block may overwrite them. With kCluster the group is a cluster, and each block
/// norms its own head; else heads wait in `gated`, and the block that comes last norms the group.
///
/// With few sequences what a block costs is instructions, so sizes are constants, and what all
/// warps need one computes.
///
/// State, taps and parameters are fetched before the kernel before is through, as in scan_rows and
/// conv_sequences, and for the same reasons. Sequences of more rows than one (kOne false) are
/// right, not fast.
template <typename T, typename S, int kState, bool kCluster, bool kOne>
__device__ __forceinline__ void mix(const MixArgs& args, const StepView& step, int32_t read,
                                    int first, int num_rows, float* shared) {
  using Of = RowsOf<S, kState>;
  using At = Layout<kState>;
  constexpr int kCount = Of::kCount, kLanes = Of::kLanes, kRows = Of::kRows;
  constexpr int kRowStep = kWarp * kCount;  // from one of a lane's rows to its next
  const int length = kOne ? 1 : num_rows;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  const int lane = thread % kWarp, warp = thread / kWarp, mine = lane % kLanes;
  const int p0 = warp * Of::kOfWarp + lane / kLanes;
  // kRows at most are taken.
  const int rows = (args.head_dim - p0 + Of::kSideBySide - 1) / Of::kSideBySide;
  const int rank = blockIdx.x, group = blockIdx.y, groups = gridDim.y, seq = blockIdx.z;
  const int head = group * args.group_heads + rank;
  [[maybe_unused]] Mailbox* const mails = reinterpret_cast<Mailbox*>(shared + At::kFlag);
  if constexpr (kCluster) open_mailboxes(mails);
  const int32_t write = step.write_slots[seq];

  const int place0 = p0 * kState + mine * kCount;
  S* const states = static_cast<S*>(args.state) + head * args.head_stride + place0;
  uint4 raw[kRows];
  {
    const S* const from = states + read * args.slot_stride;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      raw[r] = make_uint4(0, 0, 0, 0);
      if (r < rows && read != kNoSlot) raw[r] = load_stream16(from + r * kRowStep);
    }
  }

  // The thread's channels: `at` in shared memory, `channel` in the convolution; B, C, then x.
  const int num_channels = 2 * kState + args.head_dim, inner = args.heads * args.head_dim;
  int channel[kChannels];  // -1: none
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    const int at = thread + i * threads;
    channel[i] = at < num_channels ? head * args.head_dim + at - At::kX : -1;
    if (at < At::kX) channel[i] = inner + group * kState + at;
    if (at >= kState && at < At::kX) channel[i] += (groups - 1) * kState;
  }
  const FloatReader old_taps{args.conv_state, args.conv_dtype};
  uint4 weight[kChannels] = {};
  uint32_t bias[kChannels] = {}, history[kChannels][kTaps - 1] = {};
  const auto fetch_weights = [&] {
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      if (channel[i] < 0) continue;
      weight[i] = fetch_four(args.conv_weight, int64_t{channel[i]} * kTaps);
      if (args.conv_bias.data != nullptr) bias[i] = fetch(args.conv_bias, channel[i]);
    }
  };
  fetch_weights();
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    if (channel[i] < 0 || read == kNoSlot) continue;
    const int64_t from = read * args.conv_slot_stride + channel[i];
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) {
      history[i][j] = fetch(old_taps, from + j * args.conv_row_stride);
    }
  }
  const uint32_t d_bits = fetch(args.d, head);
  // The last warp has the fewest channels, and computes the head's step.
  const bool steps = warp == threads / kWarp - 1;
  uint32_t dt_bias = 0, a = 0;
  if (steps) dt_bias = fetch(args.dt_bias, head), a = fetch(args.a, head);
  // A lane that gets a row's sum answers for it: its y, gate and norm.
  const int row_in_warp = row_of_lane<kLanes, kRows>(mine);
  const bool answers = row_in_warp < min(rows, kRows);
  const int p = p0 + row_in_warp * Of::kSideBySide, my_channel = head * args.head_dim + p;
  const uint32_t norm_weight = kCluster && answers ? fetch(args.norm, my_channel) : 0;
  wait_for_previous();

  float taps[kChannels][kTaps - 1] = {};
#pragma unroll
  for (int i = 0; i < kChannels; ++i) {
    if (channel[i] < 0) continue;
#pragma unroll
    for (int j = 0; j < kTaps - 1; ++j) taps[i][j] = value_of(old_taps, history[i][j]);
  }
  [[maybe_unused]] float many[kRows][kCount];  // the state between the rows of a longer sequence
#pragma unroll 1
  for (int t = 0; t < length; ++t) {
    const int64_t row = int64_t{first} + t;
    const bool last_row = t == length - 1;
    T fresh[kChannels] = {}, z = {}, dt = {};
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      if (channel[i] >= 0) {
        fresh[i] = static_cast<const T*>(args.xbc)[row * args.xbc_stride + channel[i]];
      }
    }
    if (steps) dt = static_cast<const T*>(args.dt)[row * args.dt_stride + head];
    if (answers) z = static_cast<const T*>(args.z)[row * args.z_stride + my_channel];
    if (t == 0) let_next_start();
#pragma unroll
    for (int i = 0; i < kChannels; ++i) {
      if (channel[i] < 0) continue;
      float w[kTaps];
      values_of(args.conv_weight, weight[i], w);
      float sum = fmaf(taps[i][0], w[0], value_of(args.conv_bias, bias[i]));
      sum = fmaf(taps[i][1], w[1], sum);
      sum = fmaf(taps[i][2], w[2], sum);
      const float x = float_of(fresh[i]);
      shared[thread + i * threads] = float_of(silu_of<T>(fmaf(x, w[3], sum)));
      taps[i][0] = taps[i][1], taps[i][1] = taps[i][2], taps[i][2] = x;
    }
    if (steps) {
      const float delta =
          step_size(float_of(dt) + value_of(args.dt_bias, dt_bias), args.dt_min, args.dt_max);
      const float decay = expf(delta * value_of(args.a, a));
      if (lane == 0) shared[At::kStep] = delta, shared[At::kStep + 1] = decay;
    }
    __syncthreads();

    const float delta = shared[At::kStep], decay = shared[At::kStep + 1];
    float b[kCount], c[kCount], sums[kRows];
    load_elements(b, shared + mine * kCount);
    load_elements(c, shared + kState + mine * kCount);
    // Positions count the rows before; the coin is that of the row whose state is kept.
    const uint32_t seed =
        sizeof(S) == 4 ? 0 : rounding_seed(head, static_cast<uint32_t>(step.context_lens[seq]) + t);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      float s[kCount];
      if (kOne || t == 0) {
        unpack<S>(s, raw[r]);
      } else {
#pragma unroll
        for (int i = 0; i < kCount; ++i) s[i] = many[r][i];
      }
      const float x = r < rows ? shared[At::kX + p0 + r * Of::kSideBySide] : 0.0f;
      const float dt_x = delta * x;
      sums[r] = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) {
        s[i] = fmaf(s[i], decay, dt_x * b[i]);
        sums[r] = fmaf(s[i], c[i], sums[r]);
      }
      if (kOne || last_row) raw[r] = pack<S>(s, static_cast<uint32_t>(place0 + r * kRowStep), seed);
      if constexpr (!kOne) {
#pragma unroll
        for (int i = 0; i < kCount; ++i) many[r][i] = s[i];
      }
    }
    const float sum = sum_rows<kLanes, kRows>(sums, lane);
    float gated = 0;
    if (answers) {
      const float y = fmaf(value_of(args.d, d_bits), shared[At::kX + p], sum), gate = float_of(z);
      gated = float_of(rounded<T>(y)) * __fdividef(gate, 1.0f + expf(-gate));
      if (!kCluster) args.gated[row * inner + my_channel] = gated;
    }
    const float square = warp_sum(gated * gated);
    if (lane == 0) shared[At::kWarps + warp] = square;
    __syncthreads();

    const auto square_of_head = [&] {  // the same in each of the first lanes
      float part = lane < threads / kWarp ? shared[At::kWarps + lane] : 0.0f;
#pragma unroll
      for (int mask = kMostWarps / 2; mask > 0; mask /= 2) {
        part += __shfl_xor_sync(kAllLanes, part, mask);
      }
      return __shfl_sync(kAllLanes, part, 0);
    };
    const auto keep_state = [&] {
      if (!last_row) return;
      S* const to = states + write * args.slot_stride;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r < rows) store_stream16(to + r * kRowStep, raw[r]);
      }
    };
    const auto factor_of = [&](float my_square) {  // from each head's, a lane each
      const float all = warp_sum(my_square);
      const auto width = static_cast<float>(args.group_heads * args.head_dim);
      return 1.0f / sqrtf(all / width + args.eps);
    };
    bool owner;  // of B's and C's new taps
    if constexpr (kCluster) {
      // By turns: one block may be at the next row while another still awaits mail for this one.
      float* const blocks = shared + At::kBlocks + t % 2 * kMostBlocks;
      Mailbox* const mail = mails + t % 2;
      if (t == 0) await_mailboxes();
      if (warp == 0) {
        const float part = square_of_head();
        if (lane == 0) expect_mail(mail, args.group_heads);
        if (lane < args.group_heads) send_to_block(blocks + rank, mail, lane, part);
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
      uint32_t* const flag = reinterpret_cast<uint32_t*>(shared + At::kFlag);
      const int group_head = group * args.group_heads;
      float* const squares = args.squares + row * args.heads + group_head;
      if (warp == 0) {
        const float part = square_of_head();
        if (lane == 0) {
          squares[rank] = part;
          uint32_t* const arrivals = args.arrivals + row * groups + group;
          const bool is_last =
              count_behind(arrivals) + 1 == static_cast<uint32_t>(args.group_heads);
          *flag = is_last;
          if (is_last) {
            __threadfence();
            *arrivals = 0;
          }
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
      if (channel[i] < 0 || (channel[i] >= inner && !owner)) continue;
      const int64_t to = write * args.conv_slot_stride + channel[i];
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

template <typename T, typename S, int kState, bool kCluster>
__global__ void __launch_bounds__(kMostWarps* kWarp, sizeof(S) == 4 ? 2 : 3)
    mix_kernel(MixArgs args, StepView step) {
  VIDERE_DYNAMIC_SHARED(memory);
  float* const shared = reinterpret_cast<float*>(memory);
  const int seq = blockIdx.z, first = step.cu_seqlens[seq];
  const int length = step.cu_seqlens[seq + 1] - first;
  const int32_t read = step.read_slots[seq];
  if (length <= 0) {
    wait_for_previous();
    let_next_start();
  } else if (length == 1) {
    mix<T, S, kState, kCluster, true>(args, step, read, first, length, shared);
  } else {
    mix<T, S, kState, kCluster, false>(args, step, read, first, length, shared);
  }
}

using Kernel = void (*)(MixArgs, StepView);
struct Kernels {
  Kernel clustered, through_memory;  // the first may be null
  int rows_of_warp, shared_bytes;
};
template <typename T, typename S, int kState>
Kernels kernels_of() {
  Kernel clustered = nullptr;
  if constexpr (std::is_same_v<T, BF16>) clustered = mix_kernel<T, S, kState, true>;
  return {clustered, mix_kernel<T, S, kState, false>, RowsOf<S, kState>::kOfWarp,
          Layout<kState>::kSize * static_cast<int>(sizeof(float))};
}
/// Those for these sizes and dtypes, or none.
Kernels find_kernels(DType dtype, DType state_dtype, int n_state) {
  Kernels found = {};
  with_type(dtype, [&](auto zero) {
    with_state_type(state_dtype, [&](auto state_zero) {
      using T = decltype(zero);
      using S = decltype(state_zero);
      if (n_state == 128) found = kernels_of<T, S, 128>();
      if (n_state == 64) found = kernels_of<T, S, 64>();
    });
  });
  return found;
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
  args.group_heads = args.heads / in.num_groups;
  args.dt_min = in.dt_min, args.dt_max = in.dt_max, args.eps = in.eps;

  const int n_state = static_cast<int>(ssm_state.dim(3));
  const Kernels kernels = find_kernels(y.dtype(), ssm_state.dtype(), n_state);
  const int64_t warps = kernels.rows_of_warp == 0
                            ? 0
                            : std::max(ceil_div(args.head_dim, kernels.rows_of_warp),
                                       ceil_div(2 * n_state + args.head_dim, kChannels * kWarp));
  const bool one_type = in.z.dtype() == y.dtype() && in.xbc.dtype() == y.dtype() &&
                        in.dt.dtype() == y.dtype() && out.data.dtype() == y.dtype() &&
                        conv_out.dtype() == y.dtype();
  // Steps of one row a sequence, or odd ones that look so. What emits states is composed, and so is
  // a step whose states take longer than the starts and ends of three kernels: those hold more of
  // them under way. On an H200 one float32 sequence of the 12B model takes 5.6 us a layer instead
  // of 6.9, and 32 take 120 instead of 92.
  const bool fused =
      step.num_tokens <= step.num_seqs && step.num_emits == 0 &&
      step.num_seqs * ssm_state[0].numel() * static_cast<int64_t>(dtype_size(ssm_state.dtype())) <=
          kMostStateBytes &&
      warps > 0 && warps <= kMostWarps && aligned_rows(ssm_state, 16) && one_type &&
      args.group_heads <= kWarp && in.norm_group == args.group_heads * args.head_dim &&
      in.conv_weight.dim(1) == kTaps && in.conv_weight.contiguous() &&
      aligned_parameter(in.conv_weight);
  if (!fused) {
    return Backend::do_mamba2_mix(out, in, conv_state, ssm_state, conv_out, y, step);
  }
  LaunchShape shape;
  shape.grid = dim3(args.group_heads, in.num_groups, step.num_seqs);
  shape.block = dim3(warps * kWarp);
  shape.shared_bytes = kernels.shared_bytes;
  const bool other_conv = std::exchange(last_conv_, conv_state.raw()) != conv_state.raw();
  const bool other_state = std::exchange(last_scan_, ssm_state.raw()) != ssm_state.raw();
  shape.overlap = other_conv && other_state;
  if (step.num_seqs <= clustered_seqs_ && info_.major >= 9 && kernels.clustered != nullptr &&
      args.group_heads <= kMostBlocks) {
    shape.cluster = args.group_heads;
    if (cluster_fits(kernels.clustered, shape)) return run(kernels.clustered, shape, args, step);
    shape.cluster = 1;
  }
  const int64_t heads = int64_t{step.num_tokens} * args.heads;
  args.gated = static_cast<float*>(
      scratch((heads * args.head_dim + heads) * static_cast<int64_t>(sizeof(float))));
  args.squares = args.gated + heads * args.head_dim;
  args.arrivals = counters(int64_t{step.num_tokens} * in.num_groups);
  run(kernels.through_memory, shape, args, step);
}

}  // namespace videre::cuda
