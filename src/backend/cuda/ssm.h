// What the kernels of the Mamba-2 scan share: ssm.cu walks a sequence row by row (decode, float32,
// odd sizes), ssm_chunks.cu takes 64 rows at a time on the tensor cores.
#pragma once

#include "backend/cuda/kernel.h"
#include "backend/state_rounding.h"
#include "backend/step.h"

namespace videre::cuda {

struct ScanArgs {
  void* y;  // y, x, b, c, dt: rows of T, strides in elements
  const void *x, *b, *c, *dt;
  int64_t y_stride, x_stride, b_stride, c_stride, dt_stride;
  FloatReader dt_bias, a, d;  // [heads]
  void* state;                // [slots, heads, head_dim, n_state]; a head's part is dense
  DType state_dtype;
  int64_t slot_stride, head_stride;
  int heads, head_dim, n_state, group_heads, chunk;
  float dt_min, dt_max;
};

/// For lanes that hold 16 bytes each of a state row: how many lanes a row takes, or 0 where the
/// kernels that work so do not serve: rows must be a power of two of lanes, at least 8.
inline int row_lanes(int64_t n_state, int64_t state_size) {
  const int64_t lanes = n_state * state_size / 16;
  return lanes * 16 == n_state * state_size && (lanes == 8 || lanes == 16 || lanes == 32)
             ? static_cast<int>(lanes)
             : 0;
}

using ScanChunks = void (*)(ScanArgs, StepView);
/// The tensor-core kernel for BF16 activations and its launch, for sequences of two rows or more;
/// null when it has none for these sizes. Wants 16-byte rows and what `row_lanes` wants.
ScanChunks find_scan_chunks(const ScanArgs& args, const StepView& step, int most_shared_bytes,
                            LaunchShape* shape);

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

struct Half {
  uint16_t bits;
};

__device__ __forceinline__ float float_of(Half value) { return half_bits_to_float(value.bits); }
template <typename S>
__device__ __forceinline__ S stored(float value, uint32_t noise) {
  if constexpr (std::is_same_v<S, BF16>) {
    return BF16{noisy_bf16(value, noise)};
  } else if constexpr (std::is_same_v<S, Half>) {
    return Half{noisy_half(value, noise)};
  } else {
    return value;
  }
}
/// Element `at` of a head's state, of a thread that has it alone.
template <typename S>
__device__ __forceinline__ void store_element(S* state, uint32_t at, float value, uint32_t seed) {
  uint32_t noise = 0;
  if constexpr (!std::is_same_v<S, float>) {
    noise = rounding_noise(seed, at / 2);
    noise = at % 2 == 0 ? noise & 0xffffu : noise >> 16;
  }
  state[at] = stored<S>(value, noise);
}

/// 16 bytes of state.
template <typename S>
constexpr int kLaneElements = static_cast<int>(16 / sizeof(S));

template <typename S>
__device__ __forceinline__ void unpack(float (&v)[kLaneElements<S>], uint4 raw) {
  const uint32_t words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<S, float>) {
      v[i] = __uint_as_float(words[i]);
    } else if constexpr (std::is_same_v<S, BF16>) {
      v[2 * i] = bf16_low(words[i]), v[2 * i + 1] = bf16_high(words[i]);
    } else {
      v[2 * i] = half_bits_to_float(static_cast<uint16_t>(words[i]));
      v[2 * i + 1] = half_bits_to_float(static_cast<uint16_t>(words[i] >> 16));
    }
  }
}
/// `at`: the first element's place in its head.
template <typename S>
__device__ __forceinline__ uint4 pack(const float (&v)[kLaneElements<S>], uint32_t at,
                                      uint32_t seed) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<S, float>) {
      words[i] = __float_as_uint(v[i]);
    } else {
      const uint32_t noise = rounding_noise(seed, at / 2 + i);
      words[i] = stored<S>(v[2 * i], noise & 0xffffu).bits |
                 static_cast<uint32_t>(stored<S>(v[2 * i + 1], noise >> 16).bits) << 16;
    }
  }
  return make_uint4(words[0], words[1], words[2], words[3]);
}
/// 4 or 8 elements of a row; 8-byte aligned for BF16, 16 for float.
template <int kCount>
__device__ __forceinline__ void load_elements(float (&v)[kCount], const BF16* p) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const uint2 raw = *reinterpret_cast<const uint2*>(p + i);
    v[i] = bf16_low(raw.x), v[i + 1] = bf16_high(raw.x);
    v[i + 2] = bf16_low(raw.y), v[i + 3] = bf16_high(raw.y);
  }
}
template <int kCount>
__device__ __forceinline__ void load_elements(float (&v)[kCount], const float* p) {
#pragma unroll
  for (int i = 0; i < kCount; i += 4) {
    const float4 raw = *reinterpret_cast<const float4*>(p + i);
    v[i] = raw.x, v[i + 1] = raw.y, v[i + 2] = raw.z, v[i + 3] = raw.w;
  }
}

/// dt after bias, softplus and clamp.
__device__ __forceinline__ float step_size(float raw, float dt_min, float dt_max) {
  const float v = raw > 20.0f ? raw : log1pf(expf(raw));
  return fminf(fmaxf(v, dt_min), dt_max);
}
__device__ __forceinline__ float step_size(const ScanArgs& args, float raw) {
  return step_size(raw, args.dt_min, args.dt_max);
}
/// What the convolution makes of its sum.
template <typename T>
__device__ __forceinline__ T silu_of(float sum) {
  if constexpr (std::is_same_v<T, BF16>) {
    return bf16_of(__fdividef(sum, 1.0f + fast_exp(-sum)));
  } else {
    return sum / (1.0f + expf(-sum));
  }
}
/// One token of one state row that `lanes` neighbours hold: the row moves on; gives the sum of row
/// times c, in each. Both kernels take single tokens through here, so that they agree to the bit.
template <int kCount>
__device__ __forceinline__ float update_row(float (&s)[kCount], float decay, float dt_x,
                                            const float (&b)[kCount], const float (&c)[kCount],
                                            int lanes) {
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    s[i] = fmaf(s[i], decay, dt_x * b[i]);
    sum = fmaf(s[i], c[i], sum);
  }
#pragma unroll
  for (int step = kWarp / 2; step > 0;
       step /= 2) {  // no branch, so that several rows' sums interleave
    const float other = __shfl_xor_sync(kAllLanes, sum, step);
    sum += step < lanes ? other : 0.0f;
  }
  return sum;
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

/// First of the step's emits that belongs to `seq` or a later sequence.
__device__ __forceinline__ int first_emit(const StepView& step, int seq) {
  int low = 0, high = step.num_emits;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (step.emit_seqs[middle] < seq) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

#endif

}  // namespace videre::cuda
