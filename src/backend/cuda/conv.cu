// Depthwise causal convolution with SiLU over a flat batch. All three kernels are bound by bytes: a
// row is read once (its three rows of history come from registers, or from a cache at a tile's
// start) and written once.
#include <utility>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kVector = 8;   // channels a thread of the fast kernels: 16 bytes of BF16
constexpr int kHistory = 3;  // ... and their taps less one
constexpr int kThreads = 128;
constexpr int kTileRows = 32;  // rows a thread walks: 3 rows read twice in 32
constexpr int kAhead = 4;
constexpr int kShort = 8;  // sequences up to this length are no work for tiles

struct ConvArgs {
  const void* x;
  void* out;
  int64_t x_stride, out_stride;  // elements from row to row
  FloatReader weight, bias;      // [channels, taps] with `weight_stride`; bias.data may be null
  int64_t weight_stride;
  void* state;
  DType state_dtype;
  int64_t slot_stride, row_stride;
  int channels, taps;
};

__device__ __forceinline__ void store_state(const ConvArgs& args, int64_t offset, float value) {
  if (args.state_dtype == DType::kF32) {
    static_cast<float*>(args.state)[offset] = value;
  } else {
    static_cast<BF16*>(args.state)[offset] = bf16_of(value);
  }
}

/// Any number of taps, any alignment: a thread takes one channel of one sequence, and reads each
/// row as often as there are taps.
template <typename T>
__global__ void conv_any(ConvArgs args, StepView step) {
  wait_for_previous();
  let_next_start();
  const int channel = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x), seq = blockIdx.y;
  const int64_t first = step.cu_seqlens[seq], length = step.cu_seqlens[seq + 1] - first;
  if (channel >= args.channels || length <= 0) return;
  const T* x = static_cast<const T*>(args.x) + first * args.x_stride + channel;
  T* out = static_cast<T*>(args.out) + first * args.out_stride + channel;
  const int64_t history = args.taps - 1;
  const int32_t read = step.read_slots[seq];
  const FloatReader state{args.state, args.state_dtype};
  const auto raw = [&](int64_t t) {  // the channel's input at row t; negative rows lie in the state
    if (t >= 0) return float_of(x[t * args.x_stride]);
    if (read == kNoSlot) return 0.0f;
    return state[read * args.slot_stride + (t + history) * args.row_stride + channel];
  };
  for (int64_t t = 0; t < length; ++t) {
    float sum = args.bias.data != nullptr ? args.bias[channel] : 0.0f;
    for (int64_t j = 0; j <= history; ++j) {
      sum = fmaf(raw(t - history + j), args.weight[channel * args.weight_stride + j], sum);
    }
    out[t * args.out_stride] = silu_of<T>(sum);
  }
  // Rising rows: where the slot is the one that was read, a row is overwritten after its last use.
  const auto keep = [&](int64_t t, int32_t slot) {
    for (int64_t j = 0; j < history; ++j) {
      store_state(args, slot * args.slot_stride + j * args.row_stride + channel,
                  raw(t - history + 1 + j));
    }
  };
  for (int emit = first_emit(step, seq); emit < step.num_emits && step.emit_seqs[emit] == seq;
       ++emit) {
    keep(step.emit_rows[emit], step.emit_slots[emit]);
  }
  keep(length - 1, step.write_slots[seq]);
}

// --- Four taps, eight channels a thread ---

struct Channels {
  float v[kVector];
};

__device__ __forceinline__ Channels zeros() { return Channels{}; }
__device__ __forceinline__ Channels channels_of(uint4 raw) {
  return Channels{{bf16_low(raw.x), bf16_high(raw.x), bf16_low(raw.y), bf16_high(raw.y),
                   bf16_low(raw.z), bf16_high(raw.z), bf16_low(raw.w), bf16_high(raw.w)}};
}
__device__ __forceinline__ Channels channels_of(const Channels& c) { return c; }
__device__ __forceinline__ Channels load(const BF16* p) {
  return channels_of(*reinterpret_cast<const uint4*>(p));
}
__device__ __forceinline__ Channels load(const float* p) {
  const float4 a = reinterpret_cast<const float4*>(p)[0], b = reinterpret_cast<const float4*>(p)[1];
  return Channels{{a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w}};
}
// A row's channels as they come from memory.
template <typename T>
using Row = std::conditional_t<std::is_same_v<T, BF16>, uint4, Channels>;
__device__ __forceinline__ uint4 fetch_row(const BF16* p) {
  return *reinterpret_cast<const uint4*>(p);
}
__device__ __forceinline__ Channels fetch_row(const float* p) { return load(p); }
__device__ __forceinline__ Channels load(const FloatReader& from, int64_t at) {
  if (from.dtype == DType::kBF16) return load(static_cast<const BF16*>(from.data) + at);
  if (from.dtype == DType::kF32) return load(static_cast<const float*>(from.data) + at);
  Channels out;
  for (int i = 0; i < kVector; ++i) out.v[i] = from[at + i];
  return out;
}
__device__ __forceinline__ void store(BF16* p, const Channels& c) {
  *reinterpret_cast<uint4*>(p) = make_uint4(pack_bf16(c.v[0], c.v[1]), pack_bf16(c.v[2], c.v[3]),
                                            pack_bf16(c.v[4], c.v[5]), pack_bf16(c.v[6], c.v[7]));
}
__device__ __forceinline__ void store(float* p, const Channels& c) {
  reinterpret_cast<float4*>(p)[0] = make_float4(c.v[0], c.v[1], c.v[2], c.v[3]);
  reinterpret_cast<float4*>(p)[1] = make_float4(c.v[4], c.v[5], c.v[6], c.v[7]);
}

struct Taps {
  Channels weight[kHistory + 1], bias;
};
__device__ __forceinline__ Taps load_taps(const ConvArgs& args, int channel) {
  Taps taps;
#pragma unroll
  for (int part = 0; part <= kHistory; ++part) {  // memory has [channel][tap]
    const Channels c = load(args.weight, int64_t{channel} * (kHistory + 1) + part * kVector);
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      const int at = part * kVector + i;
      taps.weight[at % (kHistory + 1)].v[at / (kHistory + 1)] = c.v[i];
    }
  }
  taps.bias = args.bias.data != nullptr ? load(args.bias, channel) : zeros();
  return taps;
}
template <typename T>
__device__ __forceinline__ void convolve(T* out, const Taps& taps, const Channels& a,
                                         const Channels& b, const Channels& c, const Channels& d) {
  T result[kVector];
#pragma unroll
  for (int i = 0; i < kVector; ++i) {
    float sum = fmaf(a.v[i], taps.weight[0].v[i], taps.bias.v[i]);
    sum = fmaf(b.v[i], taps.weight[1].v[i], sum);
    sum = fmaf(c.v[i], taps.weight[2].v[i], sum);
    result[i] = silu_of<T>(fmaf(d.v[i], taps.weight[3].v[i], sum));
  }
  if constexpr (std::is_same_v<T, BF16>) {
    uint32_t words[kVector / 2];
#pragma unroll
    for (int i = 0; i < kVector / 2; ++i) {
      words[i] = result[2 * i].bits | static_cast<uint32_t>(result[2 * i + 1].bits) << 16;
    }
    *reinterpret_cast<uint4*>(out) = make_uint4(words[0], words[1], words[2], words[3]);
  } else {
    Channels values;
#pragma unroll
    for (int i = 0; i < kVector; ++i) values.v[i] = result[i];
    store(out, values);
  }
}

__device__ __forceinline__ Channels load_state(const ConvArgs& args, int32_t slot, int row,
                                               int channel) {
  if (slot == kNoSlot) return zeros();
  return load(FloatReader{args.state, args.state_dtype},
              slot * args.slot_stride + row * args.row_stride + channel);
}
__device__ __forceinline__ void keep_state(const ConvArgs& args, int32_t slot, int channel,
                                           const Channels& a, const Channels& b,
                                           const Channels& c) {
  const int64_t at = slot * args.slot_stride + channel;
  if (args.state_dtype == DType::kF32) {
    float* state = static_cast<float*>(args.state) + at;
    store(state, a), store(state + args.row_stride, b), store(state + 2 * args.row_stride, c);
  } else {
    BF16* state = static_cast<BF16*>(args.state) + at;
    store(state, a), store(state + args.row_stride, b), store(state + 2 * args.row_stride, c);
  }
}

/// A thread takes eight channels of one sequence: the rows of one of at most `limit` rows, and the
/// state of all. In decode this is the only kernel; longer sequences have their rows done by
/// `conv_tiles`, which must be through first: it reads the state that this one may overwrite. The
/// old state and the taps are fetched before the kernel before is through: that one is a linear or
/// conv_tiles, and neither writes them; do_causal_conv does not overlap two runs on one state.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    conv_sequences(ConvArgs args, StepView step, int limit) {
  const int channel = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * kVector;
  const int seq = blockIdx.y;
  const int64_t first = step.cu_seqlens[seq];
  const int length = static_cast<int>(step.cu_seqlens[seq + 1] - first);
  const bool idle = channel >= args.channels || length <= 0;
  Channels old[kHistory] = {};
  Taps taps = {};
  if (!idle) {
    const int32_t read = step.read_slots[seq];
#pragma unroll
    for (int j = 0; j < kHistory; ++j) old[j] = load_state(args, read, j, channel);
    if (length <= limit) taps = load_taps(args, channel);
  }
  wait_for_previous();
  let_next_start();
  if (idle) return;
  const T* x = static_cast<const T*>(args.x) + first * args.x_stride + channel;
  T* out = static_cast<T*>(args.out) + first * args.out_stride + channel;
  const auto keep = [&](int64_t t, int32_t slot) {  // the state after row t
    const Channels c = load(x + t * args.x_stride);
    const Channels b = t >= 1 ? load(x + (t - 1) * args.x_stride) : old[2];
    const Channels a = t >= 2 ? load(x + (t - 2) * args.x_stride) : t == 1 ? old[2] : old[1];
    keep_state(args, slot, channel, a, b, c);
  };
  const int32_t write = step.write_slots[seq];
  Channels a = old[0], b = old[1], c = old[2];
  if (length <= limit) {
    for (int64_t t = 0; t < length; ++t) {
      const Channels d = load(x + t * args.x_stride);
      convolve(out + t * args.out_stride, taps, a, b, c, d);
      a = b, b = c, c = d;
    }
  }
  for (int emit = step.num_emits > 0 ? first_emit(step, seq) : 0;
       emit < step.num_emits && step.emit_seqs[emit] == seq; ++emit) {
    keep(step.emit_rows[emit], step.emit_slots[emit]);
  }
  if (length <= limit) {
    keep_state(args, write, channel, a, b, c);
  } else {
    keep(length - 1, write);
  }
}

/// The rows of sequences of more than kShort rows. A block takes 1024 channels of kTileRows rows of
/// the flat batch; a thread walks down eight channels with the three rows before in registers, four
/// loads in flight.
template <typename T>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 2 ? 4 : 2)
    conv_tiles(ConvArgs args, StepView step) {
  __shared__ int first_seq;
  const int channel = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * kVector;
  const int begin = static_cast<int>(blockIdx.y) * kTileRows;
  for (int seq = static_cast<int>(threadIdx.x); seq < step.num_seqs; seq += kThreads) {
    if (step.cu_seqlens[seq] <= begin && begin < step.cu_seqlens[seq + 1]) first_seq = seq;
  }
  const int end = min(begin + kTileRows, step.cu_seqlens[step.num_seqs]);
  __syncthreads();
  if (begin >= end || channel >= args.channels) return;  // padding rows
  const Taps taps = load_taps(args, channel);
  wait_for_previous();
  let_next_start();
  const T* x = static_cast<const T*>(args.x) + channel;
  T* out = static_cast<T*>(args.out) + channel;
  int seq = first_seq, row = begin;
  while (row < end) {
    const int first = step.cu_seqlens[seq], behind = step.cu_seqlens[seq + 1];
    const int stop = min(behind, end);
    if (behind - first > kShort && row < stop) {
      const int32_t read = step.read_slots[seq];
      const auto before = [&](int back) {  // the row `back` rows up
        return row - back >= first ? load(x + int64_t{row - back} * args.x_stride)
                                   : load_state(args, read, row - first + kHistory - back, channel);
      };
      Channels a = before(3), b = before(2), c = before(1);
      Row<T> ahead[kAhead];
      const auto fetch = [&](int from) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (from + i < stop) ahead[i] = fetch_row(x + int64_t{from + i} * args.x_stride);
        }
      };
      fetch(row);
      while (row < stop) {
        Row<T> now[kAhead];
#pragma unroll
        for (int i = 0; i < kAhead; ++i) now[i] = ahead[i];
        fetch(row + kAhead);
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          if (row + i >= stop) break;
          const Channels d = channels_of(now[i]);
          convolve(out + int64_t{row + i} * args.out_stride, taps, a, b, c, d);
          a = b, b = c, c = d;
        }
        row += kAhead;
      }
    }
    row = stop;
    ++seq;
  }
}

}  // namespace

void CudaBackend::do_causal_conv(View out, ConstView x, ConstView weight, ConstView bias,
                                 View state, const StepView& step) {
  ConvArgs args = {};
  args.x = x.raw();
  args.out = out.raw();
  args.x_stride = row_stride(x);
  args.out_stride = row_stride(out);
  args.weight = reader(weight);
  args.weight_stride = weight.stride(0);
  args.bias = bias.empty() ? FloatReader{} : reader(bias);
  args.state = state.raw();
  args.state_dtype = state.dtype();
  args.slot_stride = state.stride(0);
  args.row_stride = state.stride(1);
  args.channels = static_cast<int>(x.dim(1));
  args.taps = static_cast<int>(weight.dim(1));
  const auto aligned16 = [](const ConstView& view) {
    return reinterpret_cast<uintptr_t>(view.raw()) % 16 == 0;
  };
  const bool fast = args.taps == kHistory + 1 && args.channels % kVector == 0 &&
                    aligned_rows(x, 16) && aligned_rows(out, 16) && weight.contiguous() &&
                    aligned16(weight) && (bias.empty() || aligned16(bias)) &&
                    aligned_rows(state, 16);
  with_type(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    const unsigned seqs = static_cast<unsigned>(step.num_seqs);
    LaunchShape shape;
    shape.block = dim3(kThreads);
    shape.overlap = std::exchange(last_conv_, state.raw()) != state.raw();
    if (!fast) {
      shape.grid = dim3(ceil_div(args.channels, kThreads), seqs);
      return run(conv_any<T>, shape, args, step);
    }
    const int64_t blocks = ceil_div(args.channels, kThreads * kVector);
    const bool decode = step.num_tokens <= step.num_seqs;  // bar odd steps, one row a sequence
    if (!decode) {
      shape.grid = dim3(blocks, ceil_div(step.num_tokens, kTileRows));
      run(conv_tiles<T>, shape, args, step);
    }
    shape.grid = dim3(blocks, seqs);
    run(conv_sequences<T>, shape, args, step, decode ? INT32_MAX : kShort);
  });
}

}  // namespace videre::cuda
