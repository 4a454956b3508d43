// Hopper's products by warpgroups of 128 threads, A and B out of shared memory, asynchronous:
// wrappers, and their twins on the host, which compute at once. Only machine code for sm_90a has
// them; elsewhere the bodies are empty, and launchers ask `has_warpgroup_products` first.
#pragma once

#include "backend/cuda/kernel.h"

namespace videre::cuda {

/// Rows of 16-bit elements in shared memory as cores of 8 rows by 16 bytes, 128 bytes in one piece
/// each: what lies `leading` bytes on is the next 8 along k, `stride` bytes on the next 8 along the
/// other axis.
struct CoreMatrix {
#if defined(VIDERE_CUDA_EMULATED)
  const char* at;
  uint32_t leading, stride;

  CoreMatrix(const char* start, uint32_t leading_bytes, uint32_t stride_bytes)
      : at(start), leading(leading_bytes), stride(stride_bytes) {}
  CoreMatrix operator+(int bytes) const { return {at + bytes, leading, stride}; }
#elif defined(__CUDACC__)
  uint64_t descriptor;

  __device__ __forceinline__ explicit CoreMatrix(uint64_t value) : descriptor(value) {}
  __device__ __forceinline__ CoreMatrix(const char* start, uint32_t leading, uint32_t stride)
      : descriptor(shared_address(start) >> 4 | static_cast<uint64_t>(leading >> 4) << 16 |
                   static_cast<uint64_t>(stride >> 4) << 32) {}
  __device__ __forceinline__ CoreMatrix operator+(int bytes) const {
    return CoreMatrix(descriptor + (bytes >> 4));
  }
#endif
};

/// False in machine code for other cards: a kernel that returns at once then leaves nothing behind.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
constexpr bool kWarpgroupProducts = true;
#else
constexpr bool kWarpgroupProducts = false;
#endif

#if defined(VIDERE_CUDA_EMULATED)

inline bool has_warpgroup_products(int major) { return major == 9; }

inline void share_with_products() {}
inline void begin_products() {}
inline void commit_products() {}
template <int kPending>
void wait_products() {}
inline void finish(float) {}

/// D [64, N] (+)= A [64, 16] B^T with B [N, 16], both with k in the cores' rows; a lane's D is that
/// of mma_bf16 for its warp's 16 rows, N tile by tile.
template <int kN>
void multiply_shared(float (&d)[kN / 8][4], CoreMatrix a, CoreMatrix b, bool accumulate) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4, warp = threadIdx.x / 32 % 4;
  const auto element = [](CoreMatrix m, int row, int k) {
    return to_float(*reinterpret_cast<const BF16*>(m.at + k / 8 * m.leading + row / 8 * m.stride +
                                                   row % 8 * 16 + k % 8 * 2));
  };
  for (int tile = 0; tile < kN / 8; ++tile) {
    for (int i = 0; i < 4; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += element(a, warp * 16 + g + i / 2 * 8, k) * element(b, tile * 8 + 2 * t + i % 2, k);
      }
      d[tile][i] = (accumulate ? d[tile][i] : 0.0f) + sum;
    }
  }
}
/// D [64, N] += A [64, 16] B with A in registers, as mma_bf16 has it, and B [16, N] with N in the
/// cores' rows.
template <int kN>
void multiply_registers(float (&d)[kN / 8][4], const uint32_t (&a)[4], CoreMatrix b) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4;
  uint32_t left[32 * 4];
  std::memcpy(left, emulated_exchange(0xffffffffu, a), sizeof(left));
  emulated_warp_barrier(0xffffffffu);
  for (int tile = 0; tile < kN / 8; ++tile) {
    for (int i = 0; i < 4; ++i) {
      const int column = tile * 8 + 2 * t + i % 2;
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        const uint32_t pair = left[4 * (g * 4 + k % 8 / 2) + i / 2 + (k >= 8 ? 2 : 0)];
        sum += std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u) *
               to_float(*reinterpret_cast<const BF16*>(
                   b.at + k / 8 * b.leading + column / 8 * b.stride + k % 8 * 16 + column % 8 * 2));
      }
      d[tile][i] += sum;
    }
  }
}

#elif defined(__CUDACC__)

#if defined(VIDERE_HOPPER_KERNELS)
inline bool has_warpgroup_products(int major) { return major == 9; }
#else
inline bool has_warpgroup_products(int) { return false; }
#endif

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define VIDERE_WARPGROUP(statement) statement
#else
#define VIDERE_WARPGROUP(statement)
#endif

/// What this thread wrote or copied to shared memory shows to products issued after the next
/// barrier.
__device__ __forceinline__ void share_with_products() {
  VIDERE_WARPGROUP(asm volatile("fence.proxy.async.shared::cta;" :: : "memory"));
}
/// Before the first product of a group: its registers are as they are now.
__device__ __forceinline__ void begin_products() {
  VIDERE_WARPGROUP(asm volatile("wgmma.fence.sync.aligned;" :: : "memory"));
}
__device__ __forceinline__ void commit_products() {
  VIDERE_WARPGROUP(asm volatile("wgmma.commit_group.sync.aligned;" :: : "memory"));
}
/// Until no more than kPending groups run.
template <int kPending>
__device__ __forceinline__ void wait_products() {
  VIDERE_WARPGROUP(asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory"));
}

/// What computes `x`, which is never negative, stays before the waits that follow: the assembler
/// moves them up past arithmetic that needs nothing of theirs, and nothing would run beside the
/// products.
__device__ __forceinline__ void finish(float x) {
  if (x < 0) asm volatile("nanosleep.u32 20;" ::: "memory");
}

#define VIDERE_D4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])

template <int kN>
__device__ __forceinline__ void multiply_shared(float (&d)[kN / 8][4], CoreMatrix a, CoreMatrix b,
                                                bool accumulate) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static_assert(kN == 64 || kN == 96 || kN == 128);
  if constexpr (kN == 64) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %34, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, "
        "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, %32, %33, p, 1, 1, 0, 0;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7)
        : "l"(a.descriptor), "l"(b.descriptor), "r"(static_cast<int>(accumulate)));
  }
  if constexpr (kN == 96) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %50, 0; "
        "wgmma.mma_async.sync.aligned.m64n96k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, "
        "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47}, %48, %49, p, 1, 1, 0, "
        "0;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9), VIDERE_D4(10), VIDERE_D4(11)
        : "l"(a.descriptor), "l"(b.descriptor), "r"(static_cast<int>(accumulate)));
  }
  if constexpr (kN == 128) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %66, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, "
        "%5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
        "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, "
        "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, %64, %65, "
        "p, 1, 1, 0, 0;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9), VIDERE_D4(10), VIDERE_D4(11),
          VIDERE_D4(12), VIDERE_D4(13), VIDERE_D4(14), VIDERE_D4(15)
        : "l"(a.descriptor), "l"(b.descriptor), "r"(static_cast<int>(accumulate)));
  }
#endif
}

template <int kN>
__device__ __forceinline__ void multiply_registers(float (&d)[kN / 8][4], const uint32_t (&a)[4],
                                                   CoreMatrix b) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  static_assert(kN == 64 || kN == 80 || kN == 128);
  if constexpr (kN == 64) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %37, 0; "
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, "
        "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, "
        "p, 1, 1, 1;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(1));
  }
  if constexpr (kN == 80) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %45, 0; "
        "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, "
        "%6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, "
        "%37, %38, %39}, {%40, %41, %42, %43}, %44, p, 1, 1, 1;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(1));
  }
  if constexpr (kN == 128) {
    asm volatile(
        "{.reg .pred p; setp.ne.b32 p, %69, 0; "
        "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, "
        "%5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, "
        "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
        "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, "
        "%51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, {%64, %65, "
        "%66, %67}, %68, p, 1, 1, 1;}"
        : VIDERE_D4(0), VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5),
          VIDERE_D4(6), VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9), VIDERE_D4(10), VIDERE_D4(11),
          VIDERE_D4(12), VIDERE_D4(13), VIDERE_D4(14), VIDERE_D4(15)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.descriptor), "r"(1));
  }
#endif
}

#undef VIDERE_D4
#undef VIDERE_WARPGROUP

#endif

}  // namespace videre::cuda
