// Linear for one or two rows of bf16 x by bf16 weights: a decode step of one stream, where nothing
// counts but the weight's bytes.
//
// A warp makes kOutputs neighbouring outputs of each row: its lanes take 16 bytes each of a weight
// row, 512 next to each other, kAhead such pieces of each row under way while the ones before are
// multiplied; products and sums are in float, on the plain units, which have time to spare. x, at
// most 80 KB, comes from L1. The first pieces are asked for before the kernel that writes x is
// done. Longer runs in memory than linear_decode.cu's tiles of 16 rows, hence nearer to the
// memory's speed. Bound by the weight's bytes.
#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 256, kAhead = 4;

__device__ __forceinline__ float dot(const uint4& w, const uint4& x, float sum) {
  const uint32_t a[4] = {w.x, w.y, w.z, w.w}, b[4] = {x.x, x.y, x.z, x.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    sum = fmaf(bf16_low(a[i]), bf16_low(b[i]), sum);
    sum = fmaf(bf16_high(a[i]), bf16_high(b[i]), sum);
  }
  return sum;
}

template <int kRows, int kOutputs>
__global__ void __launch_bounds__(kThreads) row_kernel(LinearArgs p) {
  const int lane = threadIdx.x % kWarp;
  const int64_t first =
      (static_cast<int64_t>(blockIdx.x) * (kThreads / kWarp) + threadIdx.x / kWarp) * kOutputs;
  const int pieces = static_cast<int>(p.k / 8);
  const uint4* weight[kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {  // past the last row it is read again; nobody takes its sum
    weight[o] =
        reinterpret_cast<const uint4*>(p.weight + min(first + o, p.n - 1) * p.weight_stride);
  }
  uint4 ahead[kOutputs][kAhead];
  const auto load = [&](int at) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) {
        const int piece = at + a * kWarp;
        ahead[o][a] = piece < pieces ? load_once16(weight[o] + piece) : make_uint4(0, 0, 0, 0);
      }
    }
  };
  load(lane);
  wait_for_previous();
  let_next_start();

  float sums[kRows][kOutputs] = {};
  for (int at = lane; at < pieces; at += kAhead * kWarp) {
    uint4 now[kOutputs][kAhead];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int o = 0; o < kOutputs; ++o) now[o][a] = ahead[o][a];
    }
    if (at + kAhead * kWarp - lane < pieces) load(at + kAhead * kWarp);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      const int piece = at + a * kWarp;
      if (piece >= pieces) continue;
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const uint4 x = *reinterpret_cast<const uint4*>(static_cast<const BF16*>(p.x) +
                                                        r * p.x_stride + 8 * piece);
#pragma unroll
        for (int o = 0; o < kOutputs; ++o) sums[r][o] = dot(now[o][a], x, sums[r][o]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const float sum = warp_sum(sums[r][o]);
      const int64_t column = first + o;
      if (lane == 0 && column < p.n) {
        store_out<BF16>(p, r, column, sum * column_scale(p, column) + column_bias(p, column));
      }
    }
  }
}

template <int kRows>
void run_rows(const LinearArgs& args, int num_multiprocessors, Launcher& launcher) {
  // Two outputs a warp share x; with few outputs more warps count for more.
  const int outputs = args.n >= int64_t{16} * 2 * num_multiprocessors ? 2 : 1;
  const int64_t blocks = ceil_div(args.n, int64_t{kThreads / kWarp} * outputs);
  launcher(outputs == 2 ? row_kernel<kRows, 2> : row_kernel<kRows, 1>,
           {.grid = dim3(blocks), .block = dim3(kThreads), .overlap = true}, args);
}

}  // namespace

void run_row(const LinearArgs& args, int num_multiprocessors, Launcher& launcher) {
  if (args.rows == 1) return run_rows<1>(args, num_multiprocessors, launcher);
  run_rows<2>(args, num_multiprocessors, launcher);
}

}  // namespace videre::cuda
