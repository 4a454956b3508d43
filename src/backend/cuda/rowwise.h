// What kernels that go row by row share: where a row of a view starts, and 16 bytes of an
// activation or a parameter as floats.
#pragma once

#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

/// Offsets, in elements, of the rows of a view of up to four dims.
struct RowMap {
  int64_t strides[3] = {};         // of the outer dims, the innermost last
  uint32_t inner = 0, middle = 0;  // their sizes; inner 0: all rows lie strides[2] apart
#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  __device__ __forceinline__ int64_t offset(uint32_t row) const {
    if (inner == 0) return row * strides[2];
    const uint32_t rest = row / inner;
    return row % inner * strides[2] + rest % middle * strides[1] + rest / middle * strides[0];
  }
#endif
};

inline RowMap row_map(const ConstView& view) {
  RowMap map;
  if (const int64_t stride = row_stride(view); stride >= 0) {
    map.strides[2] = stride;
    return map;
  }
  const int rank = view.rank();
  map.strides[2] = view.stride(rank - 2);
  map.inner = static_cast<uint32_t>(view.dim(rank - 2));
  map.strides[1] = view.stride(rank - 3);
  map.middle = static_cast<uint32_t>(view.dim(rank - 3));
  if (rank == 4) map.strides[0] = view.stride(0);
  return map;
}

/// A map of elements of `size` bytes in words of `word` bytes.
inline RowMap in_words(RowMap map, int64_t size, int64_t word) {
  for (int64_t& stride : map.strides) stride = stride * size / word;
  return map;
}

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
/// Calls fn with a value of the widest word in which runs of `run_bytes` of both views' rows can be
/// moved.
template <typename Fn>
void with_word(const ConstView& a, const ConstView& b, int64_t run_bytes, Fn&& fn) {
  const auto fits = [&](int bytes) {
    return run_bytes % bytes == 0 && aligned_rows(a, bytes) && aligned_rows(b, bytes);
  };
  if (fits(16)) return fn(uint4{});
  if (fits(4)) return fn(uint32_t{});
  if (fits(2)) return fn(uint16_t{});
  fn(uint8_t{});
}
#endif

/// Rows of any float dtype, an element at a time: for what the fast kernels do not take.
struct AnyRows {
  void* data = nullptr;
  DType dtype = DType::kF32;
  RowMap map;
#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  __device__ __forceinline__ float get(uint32_t row, int64_t i) const {
    return FloatReader{data, dtype}[map.offset(row) + i];
  }
  __device__ __forceinline__ void put(uint32_t row, int64_t i, float value) const {
    const int64_t at = map.offset(row) + i;
    if (dtype == DType::kF32) {
      static_cast<float*>(data)[at] = value;
    } else if (dtype == DType::kBF16) {
      static_cast<BF16*>(data)[at] = bf16_of(value);
    } else {
      static_cast<uint16_t*>(data)[at] = float_to_half_bits(value);
    }
  }
#endif
};
inline AnyRows any_rows(const ConstView& view) {
  return AnyRows{const_cast<void*>(view.raw()), view.dtype(), row_map(view)};
}

/// Whether a parameter vector can be read in whole 16 bytes.
inline bool aligned_parameter(const ConstView& view) {
  return reinterpret_cast<uintptr_t>(view.raw()) % 16 == 0;
}

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

template <typename T>
constexpr int kPack = 16 / static_cast<int>(sizeof(T));  // elements in 16 bytes

template <typename T>
__device__ __forceinline__ void unpack(const uint4& bits, float (&v)[kPack<T>]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if constexpr (std::is_same_v<T, BF16>) {
      v[2 * i] = bf16_low(words[i]);
      v[2 * i + 1] = bf16_high(words[i]);
    } else {
      v[i] = __uint_as_float(words[i]);
    }
  }
}

template <typename T>
__device__ __forceinline__ uint4 pack(const float (&v)[kPack<T>]) {
  if constexpr (std::is_same_v<T, BF16>) {
    return make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]),
                      pack_bf16(v[6], v[7]));
  } else {
    return make_uint4(__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]),
                      __float_as_uint(v[3]));
  }
}

/// kCount (4 or 8) elements of an aligned parameter from a multiple of kCount on.
template <int kCount>
__device__ __forceinline__ void load_parameters(const FloatReader& from, int64_t at,
                                                float (&v)[kCount]) {
  if (from.dtype == DType::kF32) {
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
      const float4 four =
          *reinterpret_cast<const float4*>(static_cast<const float*>(from.data) + at + i);
      v[i] = four.x, v[i + 1] = four.y, v[i + 2] = four.z, v[i + 3] = four.w;
    }
    return;
  }
  uint32_t words[kCount / 2];
  const auto* source = static_cast<const uint16_t*>(from.data) + at;
  if constexpr (kCount == 8) {
    const uint4 bits = *reinterpret_cast<const uint4*>(source);
    words[0] = bits.x, words[1] = bits.y, words[2] = bits.z, words[3] = bits.w;
  } else {
    const uint2 bits = *reinterpret_cast<const uint2*>(source);
    words[0] = bits.x, words[1] = bits.y;
  }
  if (from.dtype == DType::kBF16) {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i)
      v[2 * i] = bf16_low(words[i]), v[2 * i + 1] = bf16_high(words[i]);
  } else {
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) {
      v[2 * i] = half_bits_to_float(static_cast<uint16_t>(words[i] & 0xffff));
      v[2 * i + 1] = half_bits_to_float(static_cast<uint16_t>(words[i] >> 16));
    }
  }
}

#endif

}  // namespace videre::cuda
