// Runs CUDA kernels on the host, for tests: every thread of a block is a fiber that runs until it
// meets a barrier or a warp exchange. Blocks run one after another; threads in rising and falling
// order by turns, so that a missing barrier shows. Stands in for the names of CUDA C++ that kernels
// use.
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __shared__ static
#define __align__(n) alignas(n)
#define __constant__ static

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3() = default;
  template <typename X, typename Y = unsigned, typename Z = unsigned>
  dim3(X x_, Y y_ = 1, Z z_ = 1)  // NOLINT: as CUDA's
      : x(static_cast<unsigned>(x_)), y(static_cast<unsigned>(y_)), z(static_cast<unsigned>(z_)) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(8) int2 {
  int x, y;
};
struct alignas(16) int4 {
  int x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline int2 make_int2(int x, int y) { return {x, y}; }

namespace videre::cuda {

struct EmulatedThread {
  dim3 thread, block;
};
struct EmulatedGrid {
  dim3 grid, block;
};
extern EmulatedThread* emulated_thread;  // the one that runs
extern EmulatedGrid emulated_grid;

/// Runs `body` once for every thread of the grid. `cluster` blocks along x run side by side: their
/// dynamic shared memory is each one's own, static variables are not.
void emulate(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& body,
             int cluster = 1);
char* emulated_shared();
void* emulated_of_block(void* own, int rank);  // the same place in another block of the cluster
void emulated_block_barrier();
void emulated_cluster_barrier();
void emulated_warp_barrier(uint32_t lanes);
int emulated_lane();
/// Puts 16 bytes down and waits for the warp's lanes in `lanes`; then `of(lane)` gives theirs.
const uint32_t* emulated_exchange(uint32_t lanes, const uint32_t (&words)[4]);

void emulated_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
void emulated_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
uint32_t emulated_transpose8x8(uint32_t pair);
void emulated_ldmatrix4(uint32_t (&r)[4], const void* row, bool transposed);
void emulated_copy16(void* shared, const void* global, bool valid);

template <typename T>
T emulated_shuffle(uint32_t lanes, T value, int source) {
  static_assert(sizeof(T) <= 16 && std::is_trivially_copyable_v<T>);
  uint32_t words[4] = {};
  std::memcpy(words, &value, sizeof(T));
  const uint32_t* all = emulated_exchange(lanes, words);
  if (source >= 0 && source < 32 && (lanes >> source & 1) != 0) {
    std::memcpy(static_cast<void*>(&value), all + 4 * source, sizeof(T));
  }
  return value;
}

}  // namespace videre::cuda

#define threadIdx (::videre::cuda::emulated_thread->thread)
#define blockIdx (::videre::cuda::emulated_thread->block)
#define blockDim (::videre::cuda::emulated_grid.block)
#define gridDim (::videre::cuda::emulated_grid.grid)

inline void __syncthreads() { ::videre::cuda::emulated_block_barrier(); }
inline void __syncwarp(unsigned lanes = 0xffffffffu) {
  ::videre::cuda::emulated_warp_barrier(lanes);
}
template <typename T>
T __shfl_sync(unsigned lanes, T value, int source) {
  return ::videre::cuda::emulated_shuffle(lanes, value, source & 31);
}
template <typename T>
T __shfl_xor_sync(unsigned lanes, T value, int mask) {
  return ::videre::cuda::emulated_shuffle(lanes, value, ::videre::cuda::emulated_lane() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned lanes, T value, unsigned delta) {
  return ::videre::cuda::emulated_shuffle(
      lanes, value, ::videre::cuda::emulated_lane() - static_cast<int>(delta));
}
inline void __threadfence() {}
inline unsigned __ballot_sync(unsigned lanes, int predicate) {
  const uint32_t words[4] = {predicate != 0 ? 1u : 0u, 0, 0, 0};
  const uint32_t* all = ::videre::cuda::emulated_exchange(lanes, words);
  unsigned out = 0;
  for (int i = 0; i < 32; ++i) {
    if ((lanes >> i & 1) != 0 && all[4 * i] != 0) out |= 1u << i;
  }
  return out;
}
inline int __all_sync(unsigned lanes, int predicate) {
  return __ballot_sync(lanes, predicate) == lanes;
}
template <typename T>
T atomicAdd(T* p, T value) {
  const T old = *p;
  *p = old + value;
  return old;
}
template <typename T>
T atomicMax(T* p, T value) {
  const T old = *p;
  *p = std::max(old, value);
  return old;
}
inline float __uint_as_float(unsigned v) { return std::bit_cast<float>(v); }
inline unsigned __float_as_uint(float v) { return std::bit_cast<unsigned>(v); }
inline float __int_as_float(int v) { return std::bit_cast<float>(v); }
inline int __float_as_int(float v) { return std::bit_cast<int>(v); }
inline int __popc(unsigned v) { return std::popcount(v); }
inline int __ffs(int v) { return v == 0 ? 0 : std::countr_zero(static_cast<unsigned>(v)) + 1; }
inline float __expf(float x) { return std::exp(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline int __float2int_rn(float x) { return static_cast<int>(std::nearbyint(x)); }
inline unsigned __byte_perm(unsigned x, unsigned y, unsigned selector) {
  const uint64_t bytes = uint64_t{y} << 32 | x;
  unsigned out = 0;
  for (int i = 0; i < 4; ++i) {
    out |= static_cast<unsigned>(bytes >> (8 * (selector >> (4 * i) & 7)) & 0xff) << (8 * i);
  }
  return out;
}
inline float __fmul_rn(float a, float b) {
  volatile float out = a * b;
  return out;
}
inline float __fadd_rn(float a, float b) {
  volatile float out = a + b;
  return out;
}
using std::max;
using std::min;
