// What kernels are written with: types, conversions, warp exchanges, copies and tensor-core
// products, and `launch`. Compiled by nvcc these are the GPU's own instructions; compiled by the
// host's compiler (VIDERE_CUDA_EMULATED, emulator.h) the same kernels run on a CPU, thread by
// thread, so that tests and sanitizers reach them on machines without a card. A kernel uses nothing
// that is not here.
//
// Kernels take raw pointers and sizes; they see neither Tensor nor Config.
#pragma once

#include <cstdint>
#include <type_traits>
#include <utility>

#include "tensor/dtype.h"

#if defined(VIDERE_CUDA_EMULATED)
#include "backend/cuda/emulator.h"
#else
#include <cuda_runtime.h>
#endif

namespace videre::cuda {

#if defined(VIDERE_CUDA_EMULATED)
using Stream = int;
#else
using Stream = cudaStream_t;
#endif

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

/// How a kernel is launched. `overlap`: it may start while the kernel before it in the stream still
/// runs, and calls `wait_for_previous` before it reads what that one writes (weights may be fetched
/// earlier). Only for kernels that call it on every path.
struct LaunchShape {
  dim3 grid, block;
  int shared_bytes = 0;  // dynamic shared memory
  bool overlap = false;
  int cluster = 1;  // blocks along x that run together, where `cluster_fits`
};

void report_cuda_error(int error, const char* what, const char* file, int line);

#if defined(VIDERE_CUDA_EMULATED)

// ---------------------------------------------------------------------------------------- emulated

template <typename... P, typename... A>
void launch(void (*kernel)(P...), const LaunchShape& shape, Stream, A&&... args) {
  emulate(
      shape.grid, shape.block, shape.shared_bytes, [&] { kernel(static_cast<P>(args)...); },
      shape.cluster);
}

template <typename... P>
bool cluster_fits(void (*)(P...), const LaunchShape& shape) {
  return shape.cluster <= 16;
}

template <typename... P>
void load_kernel(void (*)(P...)) {}

inline void wait_for_previous() {}
inline void let_next_start() {}

/// Adds one behind all that this thread, or another before a barrier, has written: who sees the
/// count, and calls __threadfence, sees that too. Gives the count before.
inline uint32_t count_behind(uint32_t* count) { return (*count)++; }

/// What the blocks of a cluster send each other: floats into dynamic shared memory. All threads
/// open two boxes at their start, for rounds by turns, and await everybody's before anything is
/// sent. In each round a thread says how many floats will come, and all await them.
struct Mailbox {
  uint64_t bits;
};
inline void open_mailboxes(Mailbox*) {}
inline void await_mailboxes() { emulated_cluster_barrier(); }
inline void expect_mail(Mailbox*, int) {}
/// `own` and `box`: where the place and the box lie in this block; `rank`: the block that gets it.
inline void send_to_block(float* own, Mailbox*, int rank, float value) {
  *static_cast<float*>(emulated_of_block(own, rank)) = value;
}
/// `parity`: of how often this box was awaited before.
inline void await_mail(Mailbox*, int) { emulated_cluster_barrier(); }

inline uint32_t pack_bf16(float low, float high) {
  return to_bf16(low).bits | static_cast<uint32_t>(to_bf16(high).bits) << 16;
}
inline BF16 bf16_of(float value) { return to_bf16(value); }
/// Two e4m3 codes (low byte first) of values already divided by their scale; saturates at 448.
inline uint16_t pack_e4m3(float low, float high) {
  return static_cast<uint16_t>(float_to_e4m3(low) | float_to_e4m3(high) << 8);
}
inline float2 unpack_e4m3(uint16_t codes) {
  return float2{e4m3_to_float(codes & 0xff), e4m3_to_float(codes >> 8)};
}
inline float half_bits_to_float(uint16_t bits) { return half_to_float(bits); }
inline uint16_t float_to_half_bits(float value) {
  const _Float16 half = static_cast<_Float16>(value);
  return std::bit_cast<uint16_t>(half);
}
inline float fast_exp(float x) { return std::exp(x); }
inline float fast_exp2(float x) { return std::exp2(x); }

/// D += A B of 16x8x16 tiles, bf16 in, float out; fragments as PTX lays them out:
///   a[0] (g, 2t..), a[1] (g+8, 2t..), a[2] (g, 2t+8..), a[3] (g+8, 2t+8..); b[0] (2t.., g), b[1]
///   (2t+8.., g); d[0], d[1] (g, 2t..), d[2], d[3] (g+8, 2t..), with g = lane / 4, t = lane % 4.
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated_mma_bf16(d, a, b);
}
/// The same with half-precision inputs.
inline void mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  emulated_mma_f16(d, a, b);
}
/// Lanes hold an 8x8 matrix of 16-bit elements, lane (g, t) those at (g, 2t), (g, 2t+1); gives its
/// transpose.
inline uint32_t transpose8x8(uint32_t pair) { return emulated_transpose8x8(pair); }
/// Two floats as half precision, cut off at its largest value.
inline uint32_t pack_half(float low, float high) {
  const auto part = [](float v) {
    return static_cast<_Float16>(std::clamp(v, -65504.0f, 65504.0f));
  };
  return std::bit_cast<uint16_t>(part(low)) | uint32_t{std::bit_cast<uint16_t>(part(high))} << 16;
}
/// Two e4m3 codes (low byte first) as a pair of half precision: exact.
inline uint32_t e4m3_pair_to_half(uint16_t codes) {
  return pack_half(e4m3_to_float(codes & 0xff), e4m3_to_float(codes >> 8));
}
/// Four 8x8 matrices of 16-bit elements from shared memory: lane i names row i % 8 of matrix i / 8
/// (16 bytes); lane gets elements (g, 2t), (g, 2t+1) of each, or of its transpose.
inline void ldmatrix4(uint32_t (&r)[4], const void* row) { emulated_ldmatrix4(r, row, false); }
inline void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) {
  emulated_ldmatrix4(r, row, true);
}

/// 16 bytes from global to shared memory, later; `valid` false writes zeros. Both 16-byte aligned.
inline void copy_async16(void* shared, const void* global, bool valid = true) {
  emulated_copy16(shared, global, valid);
}
inline void commit_copies() {}
template <int kPending>
void wait_copies() {}

/// 16 bytes that are read once: past L1. In order with the barriers and waits around it.
inline uint4 load_once16(const void* global) { return *static_cast<const uint4*>(global); }
/// 16 bytes that nothing writes, read once; the compiler may move it, not past barriers and waits.
inline uint4 load_weight16(const void* global) { return *static_cast<const uint4*>(global); }
/// 16 bytes of memory that this kernel also writes: read once, written once a step.
inline uint4 load_stream16(const void* global) { return *static_cast<const uint4*>(global); }
inline void store_stream16(void* global, uint4 value) { *static_cast<uint4*>(global) = value; }

#define VIDERE_DYNAMIC_SHARED(name) char* const name = ::videre::cuda::emulated_shared()

#elif defined(__CUDACC__)

// --------------------------------------------------------------------------------------------- GPU

inline cudaLaunchAttribute cluster_attribute(int blocks) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = static_cast<unsigned>(blocks);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  return attribute;
}

/// Whether the card can run one cluster of this shape; also prepares the kernel for it. Not cheap.
template <typename... P>
bool cluster_fits(void (*kernel)(P...), const LaunchShape& shape) {
  if (shape.cluster > 8 &&
      cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                           cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  cudaLaunchAttribute attribute = cluster_attribute(shape.cluster);
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel, &config) != cudaSuccess) {
    cudaGetLastError();
    return false;
  }
  return clusters > 0;
}

template <typename... P, typename... A>
void launch(void (*kernel)(P...), const LaunchShape& shape, Stream stream, A&&... args) {
  if (shape.shared_bytes >
      40 * 1024) {  // with what the kernel declares itself, more than the 48 KiB that need no leave
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                             cudaFuncAttributeMaxDynamicSharedMemorySize, shape.shared_bytes);
    if (error != cudaSuccess) report_cuda_error(error, "cudaFuncSetAttribute", __FILE__, __LINE__);
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream;
  cudaLaunchAttribute attributes[2] = {};
  config.attrs = attributes;
  if (shape.overlap) {
    cudaLaunchAttribute& attribute = attributes[config.numAttrs++];
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
  }
  if (shape.cluster > 1) attributes[config.numAttrs++] = cluster_attribute(shape.cluster);
  const cudaError_t error = cudaLaunchKernelEx(&config, kernel, static_cast<P>(args)...);
  if (error != cudaSuccess) report_cuda_error(error, "cudaLaunchKernelEx", __FILE__, __LINE__);
}

/// To the device, where a first launch would put it.
template <typename... P>
void load_kernel(void (*kernel)(P...)) {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, kernel);
  if (error != cudaSuccess) report_cuda_error(error, "cudaFuncGetAttributes", __FILE__, __LINE__);
}

__device__ __forceinline__ void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
__device__ __forceinline__ void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ __forceinline__ uint32_t count_behind(uint32_t* count) {
  uint32_t before;
  asm volatile("atom.global.add.release.gpu.u32 %0, [%1], 1;"
               : "=r"(before)
               : "l"(count)
               : "memory");
  return before;
}

struct Mailbox {
  uint64_t bits;
};
__device__ __forceinline__ uint32_t shared_address(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
__device__ __forceinline__ void open_mailboxes(Mailbox* boxes) {
#if __CUDA_ARCH__ >= 900
  if (threadIdx.x == 0) {
    asm volatile(
        "mbarrier.init.shared.b64 [%0], 1; mbarrier.init.shared.b64 [%0+8], 1; "
        "fence.mbarrier_init.release.cluster;" ::"r"(shared_address(boxes))
        : "memory");
  }
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void await_mailboxes() {
#if __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void expect_mail(Mailbox* box, int floats) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(shared_address(box)),
               "r"(4 * floats)
               : "memory");
#endif
}
__device__ __forceinline__ void send_to_block(float* own, Mailbox* box, int rank, float value) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .u32 to, box; mapa.shared::cluster.u32 to, %0, %2; mapa.shared::cluster.u32 box, %1, "
      "%2; st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [to], %3, [box];}" ::"r"(
          shared_address(own)),
      "r"(shared_address(box)), "r"(rank), "f"(value)
      : "memory");
#endif
}
__device__ __forceinline__ void await_mail(Mailbox* box, int parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{.reg .pred done; again: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 done, "
      "[%0], %1; @!done bra again;}" ::"r"(shared_address(box)),
      "r"(parity)
      : "memory");
#endif
}

__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
  uint32_t out;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
__device__ __forceinline__ BF16 bf16_of(float value) {
  uint16_t bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return BF16{bits};
}
#if __CUDA_ARCH__ >= 890 || !defined(__CUDA_ARCH__)
__device__ __forceinline__ uint16_t pack_e4m3(float low, float high) {
  uint16_t out;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(out) : "f"(high), "f"(low));
  return out;
}
__device__ __forceinline__ float2 unpack_e4m3(uint16_t codes) {
  uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(codes));
  float2 out;
  asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
      : "=f"(out.x), "=f"(out.y)
      : "r"(halves));
  return out;
}
#else
__device__ __forceinline__ float e4m3_value(uint32_t code) {
  const uint32_t exponent = (code >> 3) & 0xf, mantissa = code & 7;
  float magnitude = exponent == 0 ? mantissa * 0x1p-9f
                                  : __uint_as_float(((exponent + 120) << 23) | (mantissa << 20));
  if (exponent == 15 && mantissa == 7) magnitude = __uint_as_float(0x7fc00000u);
  return (code & 0x80) ? -magnitude : magnitude;
}
__device__ __forceinline__ uint32_t e4m3_code(float value) {
  if (value != value) return 0x7f;
  const uint32_t sign = (__float_as_uint(value) >> 24) & 0x80;
  const float magnitude = fminf(fabsf(value), 448.0f);
  if (magnitude < 0x1p-6f) return sign | __float2int_rn(magnitude * 512.0f);
  uint32_t bits = __float_as_uint(magnitude);
  bits += 0x7ffff + ((bits >> 20) & 1);
  return sign | ((bits >> 20) - (120 << 3));
}
__device__ __forceinline__ uint16_t pack_e4m3(float low, float high) {
  return static_cast<uint16_t>(e4m3_code(low) | e4m3_code(high) << 8);
}
__device__ __forceinline__ float2 unpack_e4m3(uint16_t codes) {
  return make_float2(e4m3_value(codes & 0xff), e4m3_value(codes >> 8));
}
#endif
__device__ __forceinline__ float half_bits_to_float(uint16_t bits) {
  float out;
  asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
  return out;
}
__device__ __forceinline__ uint16_t float_to_half_bits(float value) {
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}
__device__ __forceinline__ float fast_exp(float x) { return __expf(x); }
__device__ __forceinline__ float fast_exp2(float x) {
  float out;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(out) : "f"(x));
  return out;
}

__device__ __forceinline__ void mma_bf16(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ void mma_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
__device__ __forceinline__ uint32_t transpose8x8(uint32_t pair) {
  uint32_t out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(pair));
  return out;
}
__device__ __forceinline__ uint32_t pack_half(float low, float high) {
  uint32_t out;
  low = fminf(fmaxf(low, -65504.0f), 65504.0f);
  high = fminf(fmaxf(high, -65504.0f), 65504.0f);
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
  return out;
}
__device__ __forceinline__ uint32_t e4m3_pair_to_half(uint16_t codes) {
  uint32_t out;
#if __CUDA_ARCH__ >= 890 || !defined(__CUDA_ARCH__)
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(out) : "h"(codes));
#else  // the bits moved into place, then 2^8 for the exponents' different biases; NaN comes out as
       // 480
  const uint32_t wide = (codes & 0xffu) << 8 | (codes & 0xff00u) << 16;
  const uint32_t bits = (wide & 0x80008000u) | ((wide >> 1) & 0x3f803f80u);
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(out) : "r"(bits), "r"(0x5c005c00u));
#endif
  return out;
}
__device__ __forceinline__ void ldmatrix4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void ldmatrix4_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void copy_async16(void* shared, const void* global, bool valid = true) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}
// Not `nc`: such loads the assembler moves behind wait_for_previous.
__device__ __forceinline__ uint4 load_once16(const void* global) {
  uint4 out;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(global)
               : "memory");
  return out;
}
__device__ __forceinline__ uint4 load_weight16(const void* global) {
  return __ldcs(static_cast<const uint4*>(global));
}
__device__ __forceinline__ uint4 load_stream16(const void* global) {
  uint4 out;
  asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(out.x), "=r"(out.y), "=r"(out.z), "=r"(out.w)
               : "l"(global)
               : "memory");
  return out;
}
__device__ __forceinline__ void store_stream16(void* global, uint4 value) {
  asm volatile("st.global.cs.v4.u32 [%0], {%1,%2,%3,%4};" ::"l"(global), "r"(value.x), "r"(value.y),
               "r"(value.z), "r"(value.w)
               : "memory");
}

#define VIDERE_DYNAMIC_SHARED(name) extern __shared__ __align__(128) char name[]

#endif

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

// -------------------------------------------------------------------------------------------- both

__device__ __forceinline__ float float_of(float value) { return value; }
__device__ __forceinline__ float float_of(BF16 value) {
  return __uint_as_float(static_cast<uint32_t>(value.bits) << 16);
}
__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}
/// The float rounded to T.
template <typename T>
__device__ __forceinline__ T rounded(float value) {
  if constexpr (std::is_same_v<T, BF16>) {
    return bf16_of(value);
  } else {
    return value;
  }
}

#endif

/// A parameter of any float dtype, read an element at a time; the branch is the same for all
/// threads.
struct FloatReader {
  const void* data = nullptr;
  DType dtype = DType::kF32;
#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  __device__ __forceinline__ float operator[](int64_t i) const {
    if (dtype == DType::kF32) return static_cast<const float*>(data)[i];
    const uint16_t bits = static_cast<const uint16_t*>(data)[i];
    return dtype == DType::kBF16 ? __uint_as_float(static_cast<uint32_t>(bits) << 16)
                                 : half_bits_to_float(bits);
  }
#endif
};

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

__device__ __forceinline__ float warp_sum(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  return value;
}
__device__ __forceinline__ float warp_max(float value) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
  }
  return value;
}
/// Over all threads of the block (a multiple of a warp, <= 1024), the same in each. `shared` holds
/// 32 floats, free to reuse after the next __syncthreads.
__device__ __forceinline__ float block_sum(float value, float* shared) {
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  value = warp_sum(value);
  if (lane == 0) shared[warp] = value;
  __syncthreads();
  value = lane < static_cast<int>(blockDim.x) / kWarp ? shared[lane] : 0.0f;
  return warp_sum(value);
}

#endif

constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace videre::cuda
