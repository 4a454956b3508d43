// Linear for one row of bf16 x by bf16 weights: a decode step of one stream, where nothing counts
// but the weight's bytes.
//
// Two blocks a multiprocessor stay for the whole weight and take a run of its rows each, kOutputs
// at a time: 256 threads lie side by side on a row, 4 KB next to each other in memory, and ask for
// the next piece of all kOutputs rows before they multiply the one that came. That is 190 KB under
// way in a multiprocessor, long runs, and no start and end but the kernel's own. Products and sums
// are in float, on the plain units, which have time to spare; x, at most 40 KB, comes from L1. The
// first pieces are asked for before the kernel that writes x is done. Bound by the weight's bytes.
#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp, kOutputs = 4, kBlocks = 2;

__device__ __forceinline__ float dot(const uint4& w, const uint4& x, float sum) {
  const uint32_t a[4] = {w.x, w.y, w.z, w.w}, b[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(bf16_low(a[i]), bf16_low(b[i]), sum);
    sum = fmaf(bf16_high(a[i]), bf16_high(b[i]), sum);
  }
  return sum;
}

// kPieces of 16 bytes of each row are a thread's at a time.
template <int kPieces>
__global__ void __launch_bounds__(kThreads, kBlocks) row_kernel(LinearArgs p) {
  __shared__ float warp_sums[2][kWarps][kOutputs];
  const int thread = threadIdx.x, warp = thread / kWarp, lane = thread % kWarp;
  const int pieces = static_cast<int>(p.k / 8);  // of a row
  const int turns = (pieces + kThreads * kPieces - 1) / (kThreads * kPieces);
  const int64_t groups = (p.n + kOutputs - 1) / kOutputs;
  const int64_t begin = groups * blockIdx.x / gridDim.x,
                end = groups * (blockIdx.x + 1) / gridDim.x;
  let_next_start();

  uint4 ahead[kOutputs][kPieces];
  const auto load = [&](int64_t group, int turn) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int piece = (turn * kPieces + i) * kThreads + thread;
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {  // past the last row it is read again, for nobody
        const int64_t row = min(group * kOutputs + o, p.n - 1);
        ahead[o][i] = piece < pieces
                          ? load_weight16(p.weight + row * p.weight_stride + 16 * int64_t{piece})
                          : make_uint4(0, 0, 0, 0);
      }
    }
  };
  if (begin < end) load(begin, 0);
  wait_for_previous();

  float sums[kOutputs] = {};
  int half = 0;
  for (int64_t group = begin; group < end; ++group) {
    for (int turn = 0; turn < turns; ++turn) {
      uint4 now[kOutputs][kPieces];
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) now[o][i] = ahead[o][i];
      }
      if (turn + 1 < turns) {
        load(group, turn + 1);
      } else if (group + 1 < end) {
        load(group + 1, 0);
      }
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int piece = (turn * kPieces + i) * kThreads + thread;
        const uint4 x =
            piece < pieces ? static_cast<const uint4*>(p.x)[piece] : make_uint4(0, 0, 0, 0);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[o] = dot(now[o][i], x, sums[o]);
      }
    }
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const float sum = warp_sum(sums[o]);
      if (lane == 0) warp_sums[half][warp][o] = sum;
      sums[o] = 0;
    }
    __syncthreads();  // one a group: the other half is free by the next
    const int64_t column = group * kOutputs + thread;
    if (thread < kOutputs && column < p.n) {
      float sum = 0;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += warp_sums[half][w][thread];
      store_out<BF16>(p, 0, column, sum * column_scale(p, column) + column_bias(p, column));
    }
    half ^= 1;
  }
}

}  // namespace

void run_row(const LinearArgs& args, int num_multiprocessors, Launcher& launcher) {
  // The number of pieces at a time that leaves fewer threads without one at a row's end.
  const auto read = [&](int64_t pieces) {
    return ceil_div(args.k / 8, pieces * kThreads) * pieces;
  };
  launcher(read(2) < read(3) ? row_kernel<2> : row_kernel<3>,
           {.grid = dim3(kBlocks * num_multiprocessors), .block = dim3(kThreads), .overlap = true},
           args);
}

}  // namespace videre::cuda
