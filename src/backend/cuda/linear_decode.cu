// Linear for up to 64 rows of x: each byte of the weight is read once, at the memory's speed.
//
// Tensor cores multiply 16 weight rows (their operand A) by 8 rows of x at a time. Weights go from
// global memory straight to registers: columns are permuted within both operands alike, so that a
// lane holds 16 contiguous bytes of a weight row and four lanes 64, two such pieces one after the
// other. kAhead of these chunks are in flight in each lane, 64 KB or more in a multiprocessor, and
// the first ones are asked for before the kernel that writes x is done. x comes through shared
// memory, in stages that all warps walk together, three in a ring. A block makes 16 * kWarpsN
// weight rows; its kWarpsK warps a row group take turns at chunks of k, and `splits` blocks share a
// tile's k when tiles are few: they leave their parts in scratch, and the last to come adds them in
// order. So a row's bits follow from the shapes alone, not from the other rows. Bound by the
// weight's bytes.
#include <algorithm>

#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kRing = 3;

template <Stored kStored, int kTokenTiles, int kWarpsN, int kWarpsK, int kAhead>
struct DecodeShape {
  static constexpr int kElements = kStored == Stored::kBF16  ? 8
                                   : kStored == Stored::kFp8 ? 16
                                                             : 32;  // of 16 bytes
  static constexpr int kPieces = kStored == Stored::kNvfp4 ? 1 : 2;
  static constexpr int kChunk = 4 * kElements * kPieces;  // columns that a warp takes at a time
  static constexpr int kStage = kChunk * kWarpsK * kAhead;
  // Rows of x lie apart so that 8 lanes, two rows of four, read 16 bytes each from all banks.
  static constexpr int kPitch = 2 * kStage + (kStored == Stored::kBF16 ? 64 : 16);
  static constexpr int kTileN = 16 * kWarpsN, kTokens = 8 * kTokenTiles;
  static constexpr int kThreads = kWarp * kWarpsN * kWarpsK;
  static constexpr int kSumPitch = kTileN + 4;

  static int shared_bytes(int64_t rows) {
    const int lines = kTokenTiles == 1 ? static_cast<int>(rows) : kTokens;
    return std::max(kRing * lines * kPitch, kWarpsK * kTokens * kSumPitch * 4);
  }
};

// What a lane holds of a chunk: pieces of rows g and g + 8, and an NVFP4 piece's two scales of
// each.
template <int kPieces>
struct Chunk {
  uint4 pieces[kPieces][2];
  uint32_t scales;
};

__device__ __forceinline__ uint32_t word_of(const uint4& v, int i) {
  return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// Elements 8h .. 8h+7 of a piece as four pairs of bf16.
template <Stored kStored>
__device__ __forceinline__ void unpack(const uint4& piece, int h, uint32_t scales,
                                       uint32_t (&pairs)[4]) {
  if constexpr (kStored == Stored::kBF16) {
    pairs[0] = piece.x, pairs[1] = piece.y, pairs[2] = piece.z, pairs[3] = piece.w;
  } else if constexpr (kStored == Stored::kFp8) {
    uint32_t two[2];
    unpack_fp8(word_of(piece, 2 * h), two);
    pairs[0] = two[0], pairs[1] = two[1];
    unpack_fp8(word_of(piece, 2 * h + 1), two);
    pairs[2] = two[0], pairs[3] = two[1];
  } else {
    const float2 both = unpack_e4m3(static_cast<uint16_t>(scales));
    unpack_e2m1(word_of(piece, h), h < 2 ? both.x : both.y, pairs);
  }
}

template <Stored kStored, int kTokenTiles, int kWarpsN, int kWarpsK, int kAhead>
__global__ void __launch_bounds__(kWarp* kWarpsN* kWarpsK, kWarpsN* kWarpsK > 8 ? 1 : 2)
    decode_kernel(LinearArgs p, int chunks_a_split, float* parts, uint32_t* arrivals) {
  using Shape = DecodeShape<kStored, kTokenTiles, kWarpsN, kWarpsK, kAhead>;
  VIDERE_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int warp_n = warp % kWarpsN, warp_k = warp / kWarpsN;
  const int tile = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.x);
  const int splits = static_cast<int>(gridDim.x);
  const int k = static_cast<int>(p.k), rows = static_cast<int>(p.rows);
  const int chunks = (k + Shape::kChunk - 1) / Shape::kChunk;
  const int begin = min(chunks_a_split * split, chunks), end = min(begin + chunks_a_split, chunks);

  // Past the last weight row the last one is read again; its sums go nowhere.
  const int64_t first_row = static_cast<int64_t>(tile) * Shape::kTileN + 16 * warp_n;
  const int64_t row_low = min(first_row + g, p.n - 1), row_high = min(first_row + g + 8, p.n - 1);
  const uint8_t* const weight[2] = {p.weight + row_low * p.weight_stride + 16 * t,
                                    p.weight + row_high * p.weight_stride + 16 * t};
  const auto load = [&](Chunk<Shape::kPieces>& to, int chunk) {
#pragma unroll
    for (int q = 0; q < Shape::kPieces; ++q) {
      const bool valid = chunk < end && chunk * Shape::kChunk + (4 * q + t) * Shape::kElements < k;
      const int64_t at = (static_cast<int64_t>(chunk) * Shape::kPieces + q) * 64;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        to.pieces[q][half] = valid ? load_once16(weight[half] + at) : make_uint4(0, 0, 0, 0);
      }
      if constexpr (kStored == Stored::kNvfp4) {
        const int64_t block = chunk * (Shape::kChunk / 16) + 2 * t;
        to.scales = 0;
        if (valid) {
          const uint8_t* from = p.block_scales + block;
          to.scales = *reinterpret_cast<const uint16_t*>(from + row_low * p.block_scale_stride) |
                      *reinterpret_cast<const uint16_t*>(from + row_high * p.block_scale_stride)
                          << 16;
        }
      }
    }
  };
  Chunk<Shape::kPieces> ahead[kAhead];
#pragma unroll
  for (int d = 0; d < kAhead; ++d) load(ahead[d], begin + d * kWarpsK + warp_k);

  wait_for_previous();
  let_next_start();

  const int lines = kTokenTiles == 1 ? rows : Shape::kTokens;
  const int stage_bytes = lines * Shape::kPitch;
  const int last_k = min(k, end * Shape::kChunk);
  const auto copy_stage = [&](int stage) {
    constexpr int kCopies = Shape::kStage / 8;  // of a row
    char* to = shared + stage % kRing * stage_bytes;
    const int first = (begin + stage * kAhead * kWarpsK) * Shape::kChunk;
    const BF16* x = static_cast<const BF16*>(p.x);
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * kCopies; i += Shape::kThreads) {
      const int row = i / kCopies, column = first + i % kCopies * 8;
      const bool valid = column < last_k;
      copy_async16(to + row * Shape::kPitch + i % kCopies * 16,
                   x + row * p.x_stride + (valid ? column : 0), valid);
    }
  };
  const int stages = (end - begin + kWarpsK * kAhead - 1) / (kWarpsK * kAhead);
  for (int stage = 0; stage < 2; ++stage) {
    if (stage < stages) copy_stage(stage);
    commit_copies();
  }

  float sums[kTokenTiles][4] = {};
  const int line = kTokenTiles == 1 ? min(g, rows - 1) : g;
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<1>();
    __syncthreads();
    if (stage + 2 < stages) copy_stage(stage + 2);
    commit_copies();
    const char* xs = shared + stage % kRing * stage_bytes + line * Shape::kPitch +
                     2 * (warp_k * Shape::kChunk + t * Shape::kElements);
#pragma unroll
    for (int d = 0; d < kAhead; ++d) {
      const int chunk = begin + (stage * kAhead + d) * kWarpsK + warp_k;
      if (chunk >= end) break;
#pragma unroll
      for (int q = 0; q < Shape::kPieces; ++q) {
#pragma unroll
        for (int h = 0; h < Shape::kElements / 8; ++h) {
          uint32_t low[4], high[4];
          unpack<kStored>(ahead[d].pieces[q][0], h, ahead[d].scales, low);
          unpack<kStored>(ahead[d].pieces[q][1], h, ahead[d].scales >> 16, high);
          const uint32_t a[2][4] = {{low[0], high[0], low[1], high[1]},
                                    {low[2], high[2], low[3], high[3]}};
#pragma unroll
          for (int j = 0; j < kTokenTiles; ++j) {
            const uint4 b = *reinterpret_cast<const uint4*>(
                xs + 8 * j * Shape::kPitch +
                2 * (d * kWarpsK * Shape::kChunk + 4 * q * Shape::kElements + 8 * h));
            mma_bf16(sums[j], a[0], {b.x, b.y});
            mma_bf16(sums[j], a[1], {b.z, b.w});
          }
        }
      }
      load(ahead[d], chunk + kAhead * kWarpsK);
    }
  }

  // The warps' sums meet in shared memory, [warp_k, token, column].
  wait_copies<0>();
  __syncthreads();
  float* const met = reinterpret_cast<float*>(shared);
#pragma unroll
  for (int j = 0; j < kTokenTiles; ++j) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = 8 * j + 2 * t + i % 2, column = 16 * warp_n + g + i / 2 * 8;
      met[(warp_k * Shape::kTokens + token) * Shape::kSumPitch + column] = sums[j][i];
    }
  }
  __syncthreads();
  constexpr int kQuads = Shape::kTileN / 4;
  const auto met_at = [&](int token, int quad) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll
    for (int w = 0; w < kWarpsK; ++w) {
      const float4 part = *reinterpret_cast<const float4*>(
          met + (w * Shape::kTokens + token) * Shape::kSumPitch + 4 * quad);
      sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    return sum;
  };
  const auto store = [&](int token, int quad, const float4& sum) {
    const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t column = static_cast<int64_t>(tile) * Shape::kTileN + 4 * quad + i;
      if (column < p.n)
        store_out<BF16>(p, token, column,
                        values[i] * column_scale(p, column) + column_bias(p, column));
    }
  };
  if (splits == 1) {
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * kQuads; i += Shape::kThreads) {
      store(i / kQuads, i % kQuads, met_at(i / kQuads, i % kQuads));
    }
    return;
  }

  __shared__ bool is_last;
  float4* const tile_parts =
      reinterpret_cast<float4*>(parts) + static_cast<int64_t>(tile) * splits * rows * kQuads;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * kQuads; i += Shape::kThreads) {
    tile_parts[static_cast<int64_t>(split) * rows * kQuads + i] = met_at(i / kQuads, i % kQuads);
  }
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    is_last = atomicAdd(arrivals + tile, 1u) == static_cast<uint32_t>(splits - 1);
    if (is_last) arrivals[tile] = 0;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < rows * kQuads; i += Shape::kThreads) {
    float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
    for (int s = 0; s < splits; ++s) {
      const float4 part = load_written16(tile_parts + static_cast<int64_t>(s) * rows * kQuads + i);
      sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
    }
    store(i / kQuads, i % kQuads, sum);
  }
}

template <Stored kStored, int kTokenTiles, int kWarpsN, int kWarpsK, int kAhead>
void run_as(const DecodePlan& plan, const LinearArgs& args, float* parts, uint32_t* arrivals,
            Stream stream) {
  using Shape = DecodeShape<kStored, kTokenTiles, kWarpsN, kWarpsK, kAhead>;
  launch(decode_kernel<kStored, kTokenTiles, kWarpsN, kWarpsK, kAhead>,
         {.grid = dim3(plan.splits, plan.tiles),
          .block = dim3(Shape::kThreads),
          .shared_bytes = Shape::shared_bytes(args.rows),
          .overlap = true},
         stream, args, static_cast<int>(ceil_div(ceil_div(args.k, Shape::kChunk), plan.splits)),
         parts, arrivals);
}

template <Stored kStored>
void run_stored(const DecodePlan& plan, const LinearArgs& args, float* parts, uint32_t* arrivals,
                Stream stream) {
  constexpr int kFew =
      kStored == Stored::kBF16 ? 3 : 2;  // chunks ahead where registers hold many sums
  if (plan.token_tiles == 8)
    return run_as<kStored, 8, 16, 1, kFew>(plan, args, parts, arrivals, stream);
  if (plan.token_tiles == 4)
    return run_as<kStored, 4, 8, 1, kFew>(plan, args, parts, arrivals, stream);
  if (plan.token_tiles == 2)
    return run_as<kStored, 2, 4, 2, 4>(plan, args, parts, arrivals, stream);
  if (plan.warps_n == 4) return run_as<kStored, 1, 4, 2, 4>(plan, args, parts, arrivals, stream);
  run_as<kStored, 1, 1, 8, 4>(plan, args, parts, arrivals, stream);
}

}  // namespace

// Wider blocks as rows grow, so that x, which every tile reads again from L2, stays an eighth to a
// quarter of the weight's bytes. `splits` is what a small model of the card finds best: all
// multiprocessors busy and the last wave full, against parts that are written and added.
DecodePlan plan_decode(Stored stored, int64_t rows, int64_t n, int64_t k, int num_multiprocessors) {
  DecodePlan plan{};
  plan.token_tiles = rows <= 8 ? 1 : rows <= 16 ? 2 : rows <= 32 ? 4 : 8;
  plan.warps_n = rows <= 2 ? 1 : rows <= 16 ? 4 : rows <= 32 ? 8 : 16;
  const int warps_k = std::max(8 / plan.warps_n, 1);
  const int64_t tile_rows = 16 * plan.warps_n;
  plan.tiles = ceil_div(n, tile_rows);
  const int64_t chunks = ceil_div(k, stored == Stored::kBF16 ? 64 : 128);
  const double bytes_of_k = stored == Stored::kBF16 ? 2 : stored == Stored::kFp8 ? 1 : 0.5625;

  // Bytes and nanoseconds of one H200: 34 a multiprocessor, 64 at most for one block.
  const double slots = num_multiprocessors * (plan.token_tiles == 8 ? 1.0 : 2.0);
  const double all_rate = 34.0 * num_multiprocessors;
  const int64_t tokens = plan.token_tiles * 8;
  double best = 0;
  for (int splits = 1;
       splits <= 16 && splits * 2 * warps_k <= std::max<int64_t>(chunks, 2 * warps_k); ++splits) {
    const double units = static_cast<double>(plan.tiles) * splits, waves = units / slots;
    const double full =
        static_cast<double>(ceil_div(plan.tiles * splits, static_cast<int64_t>(slots)));
    const double passes = waves <= 1 ? 1 : waves + 0.4 * (full - waves);
    const double unit_bytes = static_cast<double>(tile_rows * k) * bytes_of_k / splits;
    const double rate = std::min(64.0, all_rate / std::min(units, slots));
    double time = passes * (unit_bytes / rate + 200);
    if (splits > 1) {
      time += 1000 + static_cast<double>(tile_rows * tokens * splits) * 4 / 100 +
              static_cast<double>(n * tokens * splits) * 8 / all_rate;
    }
    if (best == 0 || time < best) {
      best = time;
      plan.splits = splits;
    }
  }
  plan.splits =
      static_cast<int>(ceil_div(chunks, ceil_div(chunks, plan.splits)));  // none without a chunk
  plan.part_bytes = plan.splits == 1 ? 0 : plan.tiles * plan.splits * tile_rows * rows * 4;
  return plan;
}

void run_decode(const DecodePlan& plan, Stored stored, const LinearArgs& args, float* parts,
                uint32_t* arrivals, Stream stream) {
  switch (stored) {
    case Stored::kFp8:
      return run_stored<Stored::kFp8>(plan, args, parts, arrivals, stream);
    case Stored::kNvfp4:
      return run_stored<Stored::kNvfp4>(plan, args, parts, arrivals, stream);
    default:
      return run_stored<Stored::kBF16>(plan, args, parts, arrivals, stream);
  }
}

}  // namespace videre::cuda
