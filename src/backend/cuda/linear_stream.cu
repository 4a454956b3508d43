// Linear for 2 to 128 rows of bf16 x by bf16 weights on Hopper: the weight is streamed once, at the
// memory's speed, whatever the number of rows.
//
// A block stays alone on its multiprocessor. One thread of it fetches: boxes of kTile weight rows
// by 64 columns and of x's rows by the same columns, by the tensor copy engine, into a ring of
// stages that fills most of shared memory, the first ones before the kernel that writes x is done.
// A warpgroup for each 64 rows of x multiplies them, x as operand A and the weight as B, straight
// out of shared memory; rows that x lacks are whatever lies there, and nobody takes their sums.
// With few weight rows kSplit blocks, a cluster, share a tile's columns and add up 8 columns of
// outputs in turn through each other's shared memory, in order. So a row's bits follow from n and k
// alone. Bound by the weight's bytes; each block also reads all of x, from L2.
#include "backend/cuda/linear.h"

#if defined(VIDERE_CUDA_EMULATED)

namespace videre::cuda {

bool run_stream(const LinearArgs&, const DeviceInfo&, Launcher&) { return false; }

}  // namespace videre::cuda

#else

#include <cuda.h>

#include <algorithm>

#include "backend/cuda/warpgroup.h"

namespace videre::cuda {
namespace {

constexpr int kColumns = 64, kRowBytes = 2 * kColumns;  // of a stage; what the copy engine swizzles
constexpr int kGroupRows = 64;                          // of x, a warpgroup's
constexpr int kMostStages = 24;
constexpr int kStageBudget = 200 << 10;

/// Floats from row to row of what one block of a cluster is sent by another: the eights of a tile's
/// columns that it adds up, and eight more against meetings in a bank.
constexpr int exchange_pitch(int tile, int split) { return (tile / 8 + split - 1) / split * 8 + 8; }

struct StreamArgs {
  LinearArgs linear;
  int num_tiles, num_stages;
  int x_rows;      // that are fetched: a multiple of 8
  bool plain_out;  // no bias, and columns in pairs that lie at multiples of their size
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

#define VIDERE_D4(i) \
  "+f"(d[4 * (i)]), "+f"(d[4 * (i) + 1]), "+f"(d[4 * (i) + 2]), "+f"(d[4 * (i) + 3])
#define VIDERE_D8(i) VIDERE_D4(2 * (i)), VIDERE_D4(2 * (i) + 1)

/// D [64, N] += X [64, 16] W^T with W [N, 16], both in shared memory by descriptor.
template <int kN>
__device__ void multiply(float (&d)[kN / 2], uint64_t x, uint64_t w);
template <>
__device__ __forceinline__ void multiply<80>(float (&d)[40], uint64_t x, uint64_t w) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n80k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
      "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39}, "
      "%40, %41, 1, 1, 1, 0, 0;"
      : VIDERE_D8(0), VIDERE_D8(1), VIDERE_D8(2), VIDERE_D8(3), VIDERE_D8(4)
      : "l"(x), "l"(w));
}
template <>
__device__ __forceinline__ void multiply<88>(float (&d)[44], uint64_t x, uint64_t w) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n88k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
      "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
      "%41, %42, %43}, %44, %45, 1, 1, 1, 0, 0;"
      : VIDERE_D8(0), VIDERE_D8(1), VIDERE_D8(2), VIDERE_D8(3), VIDERE_D8(4), VIDERE_D4(10)
      : "l"(x), "l"(w));
}
template <>
__device__ __forceinline__ void multiply<112>(float (&d)[56], uint64_t x, uint64_t w) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n112k16.f32.bf16.bf16 {%0, %1, %2, %3, %4, %5, %6, "
      "%7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, %22, %23, "
      "%24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, "
      "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55}, %56, "
      "%57, 1, 1, 1, 0, 0;"
      : VIDERE_D8(0), VIDERE_D8(1), VIDERE_D8(2), VIDERE_D8(3), VIDERE_D8(4), VIDERE_D8(5),
        VIDERE_D8(6)
      : "l"(x), "l"(w));
}

#undef VIDERE_D8
#undef VIDERE_D4

/// Rows of 128 bytes whose pieces are exchanged within each eight, from a multiple of 1024 on.
__device__ __forceinline__ uint64_t descriptor(uint32_t address) {
  return address >> 4 | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 | uint64_t{1} << 62;
}
__device__ __forceinline__ void init_barrier(uint32_t barrier, int arrivals) {
  asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void expect_bytes(uint32_t barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void await(uint32_t barrier, uint32_t parity) {
  asm volatile(
      "{.reg .pred done; again: mbarrier.try_wait.parity.shared.b64 done, [%0], %1; "
      "@!done bra again;}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}
constexpr uint64_t kEvictFirst = 0x12f0000000000000, kEvictLast = 0x14f0000000000000;
__device__ __forceinline__ void fetch_box(uint32_t to, const CUtensorMap& map, int column, int row,
                                          uint32_t barrier, uint64_t policy) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
      "l"(&map), "r"(column), "r"(row), "r"(barrier), "l"(policy)
      : "memory");
}
__device__ __forceinline__ void cluster_barrier() {
  asm volatile("barrier.cluster.arrive.aligned; barrier.cluster.wait.aligned;" ::: "memory");
}

// Two neighbours of a row where neither bias nor odd addresses are; the weight has no scale.
__device__ __forceinline__ void store_pair(const LinearArgs& p, int64_t at, float first,
                                           float second) {
  if (p.out_is_float) {
    *reinterpret_cast<float2*>(static_cast<float*>(p.out) + at) = make_float2(first, second);
    return;
  }
  uint32_t pair = pack_bf16(first, second);
  if (p.relu2) pair = pack_bf16(relu2_of(bf16_low(pair)), relu2_of(bf16_high(pair)));
  *reinterpret_cast<uint32_t*>(static_cast<BF16*>(p.out) + at) = pair;
}
// The same anywhere.
__device__ __noinline__ void store_any(const LinearArgs& p, int row, int64_t column, float first,
                                       float second) {
  if (column < p.n) store_out<BF16>(p, row, column, first + column_bias(p, column));
  if (column + 1 < p.n) store_out<BF16>(p, row, column + 1, second + column_bias(p, column + 1));
}

#endif

template <int kN, int kPerTile, int kGroups, int kSplit>
__global__ void __launch_bounds__(kGroups * 128 + kWarp, 1)
    stream_kernel(const __grid_constant__ CUtensorMap weights,
                  const __grid_constant__ CUtensorMap x, StreamArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr int kTile = kN * kPerTile, kWeightBytes = kTile * kRowBytes;
  const LinearArgs& p = args.linear;
  const int stage_bytes = kWeightBytes + args.x_rows * kRowBytes, num_stages = args.num_stages;
  VIDERE_DYNAMIC_SHARED(shared);
  __shared__ uint64_t barriers[2 * kMostStages];
  const uint32_t stages = shared_address(panel_start(shared));
  const auto full = [&](int stage) { return shared_address(&barriers[2 * stage]); };
  const auto empty = [&](int stage) { return shared_address(&barriers[2 * stage + 1]); };
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  let_next_start();
  if (threadIdx.x == 0) {
    for (int i = 0; i < num_stages; ++i) {
      init_barrier(full(i), 1);
      init_barrier(empty(i), kGroups);
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
  const int part = static_cast<int>(blockIdx.x) % kSplit;
  const int all_steps = static_cast<int>((p.k + kColumns - 1) / kColumns);
  const int first_step = all_steps * part / kSplit,
            num_steps = all_steps * (part + 1) / kSplit - first_step;
  const int first_tile = static_cast<int>(blockIdx.x) / kSplit,
            tile_stride = static_cast<int>(gridDim.x) / kSplit;

  if (warp == kGroups * 4) {
    if (lane == 0) {
      const auto fetch_weights = [&](int stage, int tile, int step) {
        expect_bytes(full(stage), stage_bytes);
        fetch_box(stages + stage * stage_bytes, weights, (first_step + step) * kColumns,
                  tile * kTile, full(stage), kEvictFirst);
      };
      const auto fetch_x = [&](int stage, int step) {
        fetch_box(stages + stage * stage_bytes + kWeightBytes, x, (first_step + step) * kColumns, 0,
                  full(stage), kEvictLast);
      };
      const int early = min(num_stages, num_steps);
      for (int step = 0; step < early; ++step) fetch_weights(step, first_tile, step);
      wait_for_previous();
      for (int step = 0; step < early; ++step) fetch_x(step, step);
      int stage = early % num_stages;
      int64_t fetched = early;
      uint32_t parity = 0;
      for (int tile = first_tile; tile < args.num_tiles; tile += tile_stride) {
        for (int step = tile == first_tile ? early : 0; step < num_steps; ++step) {
          if (fetched >= num_stages) await(empty(stage), parity);
          ++fetched;
          fetch_weights(stage, tile, step);
          fetch_x(stage, step);
          if (++stage == num_stages) {
            stage = 0;
            if (fetched > num_stages) parity ^= 1;
          }
        }
      }
    }
    __syncwarp();
    if (kSplit > 1) {
      cluster_barrier();
      cluster_barrier();
    }
    return;
  }

  const int group = warp / 4, first_row = group * kGroupRows + warp % 4 * 16 + lane / 4;
  int stage = 0;
  uint32_t parity = 0;
  for (int tile = first_tile; tile < args.num_tiles; tile += tile_stride) {
    float sums[kPerTile][kN / 2];  // in eights of columns: two of row g, two of row g + 8
#pragma unroll
    for (int j = 0; j < kPerTile; ++j) {
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) sums[j][i] = 0;
    }
    int last = -1;
    for (int step = 0; step < num_steps; ++step) {
      await(full(stage), parity);
      const uint32_t start = stages + stage * stage_bytes;
      const uint64_t w = descriptor(start),
                     rows = descriptor(start + kWeightBytes + group * kGroupRows * kRowBytes);
      begin_products();
#pragma unroll
      for (int k = 0; k < kColumns / 16; ++k) {
#pragma unroll
        for (int j = 0; j < kPerTile; ++j) {
          multiply<kN>(sums[j], rows + 2 * k, w + j * (kN * kRowBytes / 16) + 2 * k);
        }
      }
      commit_products();
      if (last >= 0) {
        wait_products<1>();
        if (threadIdx.x % 128 == 0) arrive(empty(last));
      }
      last = stage;
      if (++stage == num_stages) {
        stage = 0;
        parity ^= 1;
      }
    }
    wait_products<0>();
#pragma unroll
    for (int j = 0; j < kPerTile; ++j) {
#pragma unroll
      for (int i = 0; i < kN / 2; ++i) asm volatile("" : "+f"(sums[j][i]));
    }
    if (last >= 0 && threadIdx.x % 128 == 0) arrive(empty(last));

    constexpr int kEights = kTile / 8;
    if constexpr (kSplit > 1) {  // one tile a cluster, and all stages are done with
      constexpr int kPitch = exchange_pitch(kTile, kSplit);
      const uint32_t slot_bytes = args.x_rows * kPitch * 4;
      const auto place = [&](int from, int row, int eight) {
        return stages + from * slot_bytes + (row * kPitch + eight / kSplit * 8 + lane % 4 * 2) * 4;
      };
      cluster_barrier();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + 8 * half;
        if (row >= p.rows) continue;
#pragma unroll
        for (int eight = 0; eight < kEights; ++eight) {
          if (eight % kSplit == part) continue;
          const float* values = &sums[eight * 8 / kN][eight * 8 % kN / 2 + 2 * half];
          asm volatile(
              "{.reg .u32 to; mapa.shared::cluster.u32 to, %0, %1; "
              "st.shared::cluster.v2.f32 [to], {%2, %3};}" ::"r"(place(part, row, eight)),
              "r"(eight % kSplit), "f"(values[0]), "f"(values[1])
              : "memory");
        }
      }
      cluster_barrier();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = first_row + 8 * half;
        if (row >= p.rows) continue;
#pragma unroll
        for (int eight = 0; eight < kEights; ++eight) {
          if (eight % kSplit != part) continue;
          float* const values = &sums[eight * 8 / kN][eight * 8 % kN / 2 + 2 * half];
          float2 sum = make_float2(0, 0);
#pragma unroll
          for (int from = 0; from < kSplit; ++from) {
            float2 value = make_float2(values[0], values[1]);
            if (from != part) {
              asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];"
                           : "=f"(value.x), "=f"(value.y)
                           : "r"(place(from, row, eight))
                           : "memory");
            }
            sum.x += value.x, sum.y += value.y;
          }
          values[0] = sum.x, values[1] = sum.y;
        }
      }
    }
    const int first_column = tile * kTile + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + 8 * half;
      if (row >= p.rows) continue;
#pragma unroll
      for (int eight = 0; eight < kEights; ++eight) {
        if (kSplit > 1 && eight % kSplit != part) continue;
        const float* values = &sums[eight * 8 / kN][eight * 8 % kN / 2 + 2 * half];
        const int column = first_column + eight * 8;
        if (!args.plain_out) {
          store_any(p, row, column, values[0], values[1]);
        } else if (column < p.n) {
          store_pair(p, row * p.out_stride + column, values[0], values[1]);
        }
      }
    }
  }
#endif
}

using Encode = decltype(&cuTensorMapEncodeTiled);

// Null where the driver does not have it.
Encode encode_function() {
  static const Encode function = [] {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    const cudaError_t error = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found,
                                                               12000, cudaEnableDefault, &result);
    return error == cudaSuccess && result == cudaDriverEntryPointSuccess
               ? reinterpret_cast<Encode>(found)
               : nullptr;
  }();
  return function;
}

bool encode(CUtensorMap& map, const void* data, int64_t rows, int64_t columns, int64_t stride_bytes,
            int box_rows) {
  const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(stride_bytes)};
  const cuuint32_t box[2] = {kColumns, static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
  return encode_function()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data),
                           sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                           CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                           CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <int kN, int kPerTile, int kSplit>
bool run(const LinearArgs& args, int num_multiprocessors, Launcher& launcher) {
  constexpr int kTile = kN * kPerTile;
  const int groups = args.rows > kGroupRows ? 2 : 1;
  StreamArgs stream{args};
  stream.num_tiles = static_cast<int>(ceil_div(args.n, kTile));
  stream.x_rows = static_cast<int>(ceil_div(args.rows, 8) * 8);
  stream.plain_out = args.bias.data == nullptr && args.n % 2 == 0 && args.out_stride % 2 == 0 &&
                     reinterpret_cast<uintptr_t>(args.out) % (args.out_is_float ? 8 : 4) == 0;
  const int stage_bytes = (kTile + stream.x_rows) * kRowBytes;
  // Past the last stage: what products read of rows that x lacks, and the way to a multiple of
  // 1024.
  const int tail_bytes = (groups * kGroupRows - stream.x_rows) * kRowBytes + 1024;
  stream.num_stages = std::min(kMostStages, (kStageBudget - tail_bytes) / stage_bytes);
  const int exchange_bytes =
      kSplit > 1 ? kSplit * stream.x_rows * exchange_pitch(kTile, kSplit) * 4 : 0;
  CUtensorMap weights, x;
  if (!encode(weights, args.weight, args.n, args.k, args.weight_stride, kTile) ||
      !encode(x, args.x, args.rows, args.k, 2 * args.x_stride, stream.x_rows)) {
    return false;
  }
  const int blocks = std::min(stream.num_tiles, num_multiprocessors / kSplit) * kSplit;
  launcher(
      groups == 2 ? stream_kernel<kN, kPerTile, 2, kSplit> : stream_kernel<kN, kPerTile, 1, kSplit>,
      {.grid = dim3(blocks),
       .block = dim3(groups * 128 + kWarp),
       .shared_bytes =
           std::max(stream.num_stages * stage_bytes + tail_bytes, exchange_bytes + 1024),
       .overlap = true,
       .cluster = kSplit},
      weights, x, stream);
  return true;
}

}  // namespace

bool run_stream(const LinearArgs& args, const DeviceInfo& device, Launcher& launcher) {
  if (args.rows > kStreamRows || !has_warpgroup_products(device.major) ||
      encode_function() == nullptr) {
    return false;
  }
  // The way in which the block with most to read has least. Splitting a tile needs room for all
  // clusters at once, and clusters of four leave multiprocessors unused when there are many.
  const int most = device.num_multiprocessors;
  struct Way {
    int tile, split;
    bool (*run)(const LinearArgs&, int, Launcher&);
  };
  constexpr Way kWays[] = {{176, 1, run<88, 2, 1>},  {160, 1, run<80, 2, 1>},
                           {112, 1, run<112, 1, 1>}, {80, 1, run<80, 1, 1>},
                           {80, 2, run<80, 1, 2>},   {80, 4, run<80, 1, 4>}};
  const Way* best = nullptr;
  int64_t least = 0;
  for (const Way& way : kWays) {
    const int64_t tiles = ceil_div(args.n, way.tile);
    if (way.split > 1 && tiles * way.split > (way.split == 2 ? most : most / 2)) continue;
    const int64_t share = ceil_div(tiles * way.split, most) * way.tile * (4 / way.split);
    if (best == nullptr || share < least) best = &way, least = share;
  }
  return best->run(args, most, launcher);
}

}  // namespace videre::cuda

#endif
