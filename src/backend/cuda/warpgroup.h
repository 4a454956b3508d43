// Hopper's products by warpgroups of 128 threads, A and B out of shared memory, asynchronous:
// wrappers, and their twins on the host, which compute at once. Only machine code for sm_90a has
// them; elsewhere the bodies are empty, and launchers ask `has_warpgroup_products` first.
#pragma once

#include "backend/cuda/kernel.h"

namespace videre::cuda {

/// A matrix of 16-bit elements in shared memory, in panels of 64 columns: a row of a panel is 128
/// bytes, whose 16-byte pieces are exchanged by the row's lowest three bits, so that neither rows
/// nor columns of pieces meet in a bank. Panels lie `panel_bytes` apart and begin at multiples of
/// 1024 bytes.
struct PanelMatrix {
  /// Byte of a row's piece of 8 columns.
  __device__ static __forceinline__ int at(int row, int piece, int panel_bytes) {
    return piece / 8 * panel_bytes + row * 128 + ((piece ^ row) & 7) * 16;
  }

#if defined(VIDERE_CUDA_EMULATED)
  const char* start;
  int panel_bytes;

  PanelMatrix(const char* first, int bytes_a_panel) : start(first), panel_bytes(bytes_a_panel) {}
  PanelMatrix operator+(int bytes) const { return {start + bytes, panel_bytes}; }
  float element(int row, int column) const {
    uintptr_t byte = reinterpret_cast<uintptr_t>(start) + column / 64 * panel_bytes + row * 128 +
                     column % 64 * 2;
    byte ^= (byte >> 7 & 7) << 4;
    return to_float(*reinterpret_cast<const BF16*>(byte));
  }
#elif defined(__CUDACC__)
  uint64_t descriptor;  // address, bytes between panels, bytes between 8 rows; 128-byte exchange

  __device__ __forceinline__ explicit PanelMatrix(uint64_t value) : descriptor(value) {}
  __device__ __forceinline__ PanelMatrix(const char* first, int panel_bytes)
      : descriptor(shared_address(first) >> 4 | static_cast<uint64_t>(panel_bytes >> 4) << 16 |
                   uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62) {}
  __device__ __forceinline__ PanelMatrix operator+(int bytes) const {
    return PanelMatrix(descriptor + (bytes >> 4));
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

/// From a byte of shared memory to the next that panels may begin at.
inline char* panel_start(char* shared) {
  return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(shared) + 1023) / 1024 * 1024);
}

/// D [64, 128] (+)= A [64, 16] B^T with B [128, 16], 16 columns of both from where they start; a
/// lane's D is that of mma_bf16 for its warp's 16 rows, 8 columns by 8.
inline void multiply_shared(float (&d)[16][4], PanelMatrix a, PanelMatrix b, bool accumulate) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4, warp = threadIdx.x / 32 % 4;
  for (int tile = 0; tile < 16; ++tile) {
    for (int i = 0; i < 4; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        sum += a.element(warp * 16 + g + i / 2 * 8, k) * b.element(tile * 8 + 2 * t + i % 2, k);
      }
      d[tile][i] = (accumulate ? d[tile][i] : 0.0f) + sum;
    }
  }
}
/// D [64, 128] += A [64, 16] B with A in registers, as mma_bf16 has it, and B [16, 128].
inline void multiply_registers(float (&d)[16][4], const uint32_t (&a)[4], PanelMatrix b) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4;
  uint32_t left[32 * 4];
  std::memcpy(left, emulated_exchange(0xffffffffu, a), sizeof(left));
  emulated_warp_barrier(0xffffffffu);
  for (int tile = 0; tile < 16; ++tile) {
    for (int i = 0; i < 4; ++i) {
      float sum = 0;
      for (int k = 0; k < 16; ++k) {
        const uint32_t pair = left[4 * (g * 4 + k % 8 / 2) + i / 2 + (k >= 8 ? 2 : 0)];
        sum += std::bit_cast<float>(k % 2 == 0 ? pair << 16 : pair & 0xffff0000u) *
               b.element(k, tile * 8 + 2 * t + i % 2);
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
#define VIDERE_WARPGROUP(...) __VA_ARGS__
#else
#define VIDERE_WARPGROUP(...)
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

__device__ __forceinline__ char* panel_start(char* shared) {
  return shared + (-shared_address(shared) & 1023);
}

__device__ __forceinline__ void multiply_shared(float (&d)[16][4], PanelMatrix a, PanelMatrix b,
                                                bool accumulate) {
  VIDERE_WARPGROUP(asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %66, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "
      "%45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, "
      "%63}, %64, %65, p, 1, 1, 0, 0;}" : VIDERE_D4(0),
      VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5), VIDERE_D4(6),
      VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9), VIDERE_D4(10), VIDERE_D4(11), VIDERE_D4(12),
      VIDERE_D4(13), VIDERE_D4(14), VIDERE_D4(15) : "l"(a.descriptor), "l"(b.descriptor),
      "r"(static_cast<int>(accumulate))));
}
__device__ __forceinline__ void multiply_registers(float (&d)[16][4], const uint32_t (&a)[4],
                                                   PanelMatrix b) {
  VIDERE_WARPGROUP(asm volatile(
      "{.reg .pred p; setp.ne.b32 p, %69, 0; "
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, "
      "%9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, "
      "%27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, "
      "%45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, "
      "%63}, {%64, %65, %66, %67}, %68, "
      "p, 1, 1, 1;}" : VIDERE_D4(0),
      VIDERE_D4(1), VIDERE_D4(2), VIDERE_D4(3), VIDERE_D4(4), VIDERE_D4(5), VIDERE_D4(6),
      VIDERE_D4(7), VIDERE_D4(8), VIDERE_D4(9), VIDERE_D4(10), VIDERE_D4(11), VIDERE_D4(12),
      VIDERE_D4(13), VIDERE_D4(14), VIDERE_D4(15) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]),
      "l"(b.descriptor), "r"(1)));
}

#undef VIDERE_D4
#undef VIDERE_WARPGROUP

#endif

}  // namespace videre::cuda
