// Linear for up to 64 rows of x: each byte of the weight is read once, at the memory's speed.
//
// Tensor cores multiply 16 weight rows (their operand A) by 8 rows of x at a time. Weights go from
// global memory straight to registers: columns are permuted within both operands alike, so that a
// lane holds 16 contiguous bytes of a weight row and four lanes 64, two such pieces one after the
// other. kAhead of these chunks are in flight in each lane, 64 KB or more in a multiprocessor, and
// the first ones are asked for before the kernel that writes x is done.
//
// Up to 8 rows of x come through L1 to registers, and 8 warps share the columns of a tile, so that
// runs of memory are long and no warp waits for another before the tile's end: at a barrier the
// slowest of all loads counts. More rows come through shared memory, in stages that all warps walk
// together, three in a ring.
//
// A tile is 16 * kRowTiles * kWarpsN weight rows; kWarpsK warps of each take turns at chunks of k.
// The stages of all tiles are one line that is cut into pieces, one for each block that can run at
// once: one tile's last products run while the next one's weights are under way. With many tiles
// the pieces are whole ones. With few, cuts go through tiles: their blocks leave their sums in
// scratch and a second kernel adds them in order. So a row's bits follow from the shapes alone,
// not from the other rows.
// Bound by the weight's bytes.
#include <algorithm>

#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kRing = 3;

template <Stored kStored, int kTokenTiles_, int kRowTiles_, int kWarpsN_, int kWarpsK, int kAhead>
struct DecodeShape {
  static constexpr int kTokenTiles = kTokenTiles_, kRowTiles = kRowTiles_, kWarpsN = kWarpsN_;
  static constexpr int kElements = kStored == Stored::kBF16  ? 8
                                   : kStored == Stored::kFp8 ? 16
                                                             : 32;  // of 16 bytes
  static constexpr int kPieces = kStored == Stored::kNvfp4 ? 1 : 2;
  static constexpr int kChunk = 4 * kElements * kPieces;  // columns that a warp takes at a time
  static constexpr int kStage = kChunk * kWarpsK * kAhead;
  // Rows of x lie apart so that 8 lanes, two rows of four, read 16 bytes each from all banks.
  static constexpr int kPitch = 2 * kStage + (kStored == Stored::kBF16 ? 64 : 16);
  static constexpr int kTileN = 16 * kRowTiles * kWarpsN, kTokens = 8 * kTokenTiles;
  static constexpr int kThreads = kWarp * kWarpsN * kWarpsK;
  // Up to 8 rows of x go from L1 to registers, and no warp waits for another within a tile.
  static constexpr bool kStaged = kTokenTiles > 1;
  static constexpr int kBlocks =  // on a multiprocessor
      kStaged                                      ? (kRowTiles > 1 ? 1 : 2)
      : kRowTiles == 1 && kStored == Stored::kBF16 ? 3
                                                   : 2;
  // Sums of a tile, four a lane.
  static constexpr int kFragments = kWarpsN * kRowTiles * kTokenTiles * kWarp;

  static constexpr int kStageBytes = kStaged ? kTokens * kPitch : 0;
  // Where warps' sums meet: twice, so that one barrier a tile is enough.
  static constexpr int kMetBytes = (kWarpsK - 1) * kFragments * 16;
  static constexpr int kSharedBytes = kRing * kStageBytes + 2 * kMetBytes;
};

// How the line of stages is cut: into pieces of whole tiles or of single stages, of which the first
// `extra` blocks have one more than the others.
struct Cut {
  int stages;  // of a tile
  int piece;   // stages of a piece
  int each, extra;

  __device__ __forceinline__ int begin_of(int block) const {
    return (block * each + min(block, extra)) * piece;
  }
  __device__ __forceinline__ int block_at(int stage) const {
    const int at = stage / piece, longer = extra * (each + 1);
    return at < longer ? at / (each + 1) : extra + (at - longer) / each;
  }
  // Where a block leaves its sums of the tile that begins at `first`: it has at most two such
  // tiles, the one where it begins and the one where it ends.
  __device__ __forceinline__ int slot_of(int block, int first) const {
    return 2 * block + (begin_of(block) >= first ? 0 : 1);
  }
};

// What a lane holds of a chunk: pieces of rows g and g + 8 of each 16, and an NVFP4 piece's two
// scales of each.
template <int kPieces, int kRowTiles>
struct Chunk {
  uint4 pieces[kPieces][kRowTiles][2];
  uint32_t scales[kRowTiles];
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

// Writes out what `fragment` of a tile holds: sums of two weight rows and two rows of x.
template <int kTokenTiles, int kRowTiles, int kWarpsN>
__device__ __forceinline__ void store_fragment(const LinearArgs& p, int tile, int fragment,
                                               const float4& sum) {
  const int g = fragment % kWarp / 4, t = fragment % 4;
  const int token = fragment / kWarp % kTokenTiles * 8 + 2 * t;
  const int64_t first = static_cast<int64_t>(tile) * (16 * kRowTiles * kWarpsN) +
                        fragment / (kWarp * kTokenTiles) * 16 + g;
  const float values[4] = {sum.x, sum.y, sum.z, sum.w};
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t column = first + 8 * half;
    if (column >= p.n || token >= p.rows) continue;
    const float scale = column_scale(p, column), bias = column_bias(p, column);
    store_out<BF16>(p, token, column, values[2 * half] * scale + bias);
    if (token + 1 < p.rows) {
      store_out<BF16>(p, token + 1, column, values[2 * half + 1] * scale + bias);
    }
  }
}

// Adds the parts of tiles that a cut goes through, in the order of their blocks. A thread makes a
// fragment. Bound by latency: the parts come from L2.
template <int kTokenTiles, int kRowTiles, int kWarpsN>
__global__ void __launch_bounds__(256)
    add_parts_kernel(LinearArgs p, Cut cut, const float4* parts) {
  constexpr int kFragments = kWarpsN * kRowTiles * kTokenTiles * kWarp;
  const int index = static_cast<int>(blockIdx.x * 256 + threadIdx.x);
  const int tile = index / kFragments, fragment = index % kFragments;
  const int first = tile * cut.stages;
  const int first_block = cut.block_at(first), last_block = cut.block_at(first + cut.stages - 1);
  wait_for_previous();
  let_next_start();
  if (static_cast<int64_t>(tile) * (16 * kRowTiles * kWarpsN) >= p.n) return;
  if (first_block == last_block || fragment / kWarp % kTokenTiles * 8 >= p.rows) return;
  float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 4
  for (int block = first_block; block <= last_block; ++block) {
    const float4 part =
        parts[static_cast<int64_t>(cut.slot_of(block, first)) * kFragments + fragment];
    sum = make_float4(sum.x + part.x, sum.y + part.y, sum.z + part.z, sum.w + part.w);
  }
  store_fragment<kTokenTiles, kRowTiles, kWarpsN>(p, tile, fragment, sum);
}

template <Stored kStored, int kTokenTiles, int kRowTiles, int kWarpsN, int kWarpsK, int kAhead>
__global__ void __launch_bounds__(
    DecodeShape<kStored, kTokenTiles, kRowTiles, kWarpsN, kWarpsK, kAhead>::kThreads,
    DecodeShape<kStored, kTokenTiles, kRowTiles, kWarpsN, kWarpsK, kAhead>::kBlocks)
    decode_kernel(LinearArgs p, Cut cut, float4* parts) {
  using Shape = DecodeShape<kStored, kTokenTiles, kRowTiles, kWarpsN, kWarpsK, kAhead>;
  VIDERE_DYNAMIC_SHARED(shared);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, g = lane / 4, t = lane % 4;
  const int warp_n = warp % kWarpsN, warp_k = warp / kWarpsN;
  const int block = static_cast<int>(blockIdx.x);
  const int k = static_cast<int>(p.k), rows = static_cast<int>(p.rows);
  const int begin = cut.begin_of(block), count = cut.begin_of(block + 1) - begin;
  int tile = begin / cut.stages, stage = begin % cut.stages;

  // Where this lane's rows of a tile begin. Past the last weight row the last one is read again;
  // its sums go nowhere.
  const uint8_t* weight[kRowTiles][2];
  const uint8_t* block_scales[kRowTiles][2];
  const auto go_to = [&](int to) {
#pragma unroll
    for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int64_t row = min(
            static_cast<int64_t>(to) * Shape::kTileN + 16 * (warp_n * kRowTiles + m) + g + 8 * half,
            p.n - 1);
        weight[m][half] = p.weight + row * p.weight_stride + 16 * t;
        if constexpr (kStored == Stored::kNvfp4) {
          block_scales[m][half] = p.block_scales + row * p.block_scale_stride + 2 * t;
        }
      }
    }
  };
  const auto load = [&](Chunk<Shape::kPieces, kRowTiles>& to, int at_stage, int d) {
    const int chunk = (at_stage * kAhead + d) * kWarpsK + warp_k;
#pragma unroll
    for (int q = 0; q < Shape::kPieces; ++q) {
      const bool valid = chunk * Shape::kChunk + (4 * q + t) * Shape::kElements < k;
      const int64_t at = (static_cast<int64_t>(chunk) * Shape::kPieces + q) * 64;
#pragma unroll
      for (int m = 0; m < kRowTiles; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          to.pieces[q][m][half] =
              valid ? load_once16(weight[m][half] + at) : make_uint4(0, 0, 0, 0);
        }
        if constexpr (kStored == Stored::kNvfp4) {
          const int64_t from = static_cast<int64_t>(chunk) * (Shape::kChunk / 16);
          to.scales[m] = 0;
          if (valid) {
            to.scales[m] = *reinterpret_cast<const uint16_t*>(block_scales[m][0] + from) |
                           *reinterpret_cast<const uint16_t*>(block_scales[m][1] + from) << 16;
          }
        }
      }
    }
  };
  Chunk<Shape::kPieces, kRowTiles> ahead[kAhead];
  go_to(tile);
#pragma unroll
  for (int d = 0; d < kAhead; ++d) load(ahead[d], stage, d);

  wait_for_previous();
  let_next_start();

  const BF16* const x = static_cast<const BF16*>(p.x);
  const auto copy_stage = [&](int turn, int at_stage) {
    constexpr int kCopies = Shape::kStage / 8;  // of a row
    char* to = shared + turn % kRing * Shape::kStageBytes;
#pragma unroll 1
    for (int i = static_cast<int>(threadIdx.x); i < rows * kCopies; i += Shape::kThreads) {
      const int row = i / kCopies, column = at_stage * Shape::kStage + i % kCopies * 8;
      const bool valid = column < k;
      copy_async16(to + row * Shape::kPitch + i % kCopies * 16,
                   x + row * p.x_stride + (valid ? column : 0), valid);
    }
  };
  // x of a chunk as this lane multiplies it, when it is not staged: row g, past the last one zeros.
  constexpr int kPieces = Shape::kPieces, kHalves = Shape::kElements / 8;
  using Direct = uint4[kPieces][kHalves];
  const auto load_x = [&](Direct& to, int at_stage, int d) {
    const int chunk = (at_stage * kAhead + d) * kWarpsK + warp_k;
#pragma unroll
    for (int q = 0; q < kPieces; ++q) {
      const int column = chunk * Shape::kChunk + (4 * q + t) * Shape::kElements;
      const bool valid = g < rows && column < k;
#pragma unroll
      for (int h = 0; h < kHalves; ++h) {
        to[q][h] = make_uint4(0, 0, 0, 0);
        if (valid) {
          to[q][h] = *reinterpret_cast<const uint4*>(x + g * p.x_stride + column + 8 * h);
        }
      }
    }
  };
  const auto after = [&](int at_stage) { return at_stage + 1 == cut.stages ? 0 : at_stage + 1; };
  int copied = stage;
  Direct direct[Shape::kStaged ? 1 : 2];
  if constexpr (Shape::kStaged) {
    copy_stage(0, stage);
    commit_copies();
    copied = after(stage);
    if (count > 1) copy_stage(1, copied);
    commit_copies();
  } else {
    static_assert(kAhead % 2 == 0);
    load_x(direct[0], stage, 0);
  }

  float sums[kRowTiles][kTokenTiles][4] = {};
  for (int i = 0; i < count; ++i) {
    if constexpr (Shape::kStaged) {
      wait_copies<1>();
      __syncthreads();
      copied = after(copied);
      if (i + 2 < count) copy_stage(i + 2, copied);
      commit_copies();
    }
    const bool more = i + 1 < count;
    const int next = after(stage);
    if (more && next == 0) go_to(tile + 1);
    const char* xs = shared + i % kRing * Shape::kStageBytes + g * Shape::kPitch +
                     2 * (warp_k * Shape::kChunk + t * Shape::kElements);
#pragma unroll
    for (int d = 0; d < kAhead; ++d) {
      if constexpr (!Shape::kStaged) {
        if (d + 1 < kAhead) {
          load_x(direct[(d + 1) % 2], stage, d + 1);
        } else if (more) {
          load_x(direct[(d + 1) % 2], next, 0);
        }
      }
      if (((stage * kAhead + d) * kWarpsK + warp_k) * Shape::kChunk < k) {
#pragma unroll
        for (int q = 0; q < kPieces; ++q) {
#pragma unroll
          for (int h = 0; h < kHalves; ++h) {
            uint32_t a[kRowTiles][2][4];
#pragma unroll
            for (int m = 0; m < kRowTiles; ++m) {
              uint32_t low[4], high[4];
              unpack<kStored>(ahead[d].pieces[q][m][0], h, ahead[d].scales[m], low);
              unpack<kStored>(ahead[d].pieces[q][m][1], h, ahead[d].scales[m] >> 16, high);
#pragma unroll
              for (int half = 0; half < 2; ++half) {
                a[m][half][0] = low[2 * half], a[m][half][1] = high[2 * half];
                a[m][half][2] = low[2 * half + 1], a[m][half][3] = high[2 * half + 1];
              }
            }
#pragma unroll
            for (int j = 0; j < kTokenTiles; ++j) {
              uint4 b;
              if constexpr (Shape::kStaged) {
                b = *reinterpret_cast<const uint4*>(
                    xs + 8 * j * Shape::kPitch +
                    2 * (d * kWarpsK * Shape::kChunk + 4 * q * Shape::kElements + 8 * h));
              } else {
                b = direct[d % 2][q][h];
              }
#pragma unroll
              for (int m = 0; m < kRowTiles; ++m) {
                mma_bf16(sums[m][j], a[m][0], {b.x, b.y});
                mma_bf16(sums[m][j], a[m][1], {b.z, b.w});
              }
            }
          }
        }
      }
      if (more) load(ahead[d], next, d);
    }
    stage = next;
    if (more && next != 0) continue;

    // The tile ends here, or this block's part of it.
    const int first = tile * cut.stages;
    const bool whole = cut.piece > 1 || cut.block_at(first) == cut.block_at(first + cut.stages - 1);
    const bool mine = warp_k == 0;  // to write out
    if constexpr (kWarpsK > 1) {
      float4* met = reinterpret_cast<float4*>(shared + kRing * Shape::kStageBytes +
                                              tile % 2 * Shape::kMetBytes) +
                    lane;
#pragma unroll
      for (int w = 1; w < kWarpsK; ++w) {
#pragma unroll
        for (int f = 0; f < kRowTiles * kTokenTiles; ++f) {
          const float* s = sums[f / kTokenTiles][f % kTokenTiles];
          if (warp_k == w) {
            met[((w - 1) * kWarpsN + warp_n) * kRowTiles * kTokenTiles * kWarp + f * kWarp] =
                make_float4(s[0], s[1], s[2], s[3]);
          }
        }
      }
      __syncthreads();
      if (mine) {
#pragma unroll
        for (int w = 1; w < kWarpsK; ++w) {
#pragma unroll
          for (int f = 0; f < kRowTiles * kTokenTiles; ++f) {
            float* s = sums[f / kTokenTiles][f % kTokenTiles];
            const float4 more_sums =
                met[((w - 1) * kWarpsN + warp_n) * kRowTiles * kTokenTiles * kWarp + f * kWarp];
            s[0] += more_sums.x, s[1] += more_sums.y, s[2] += more_sums.z, s[3] += more_sums.w;
          }
        }
      }
    }
    if (mine) {
      float4* const part =
          parts + static_cast<int64_t>(cut.slot_of(block, first)) * Shape::kFragments;
#pragma unroll
      for (int f = 0; f < kRowTiles * kTokenTiles; ++f) {
        const int fragment = (warp_n * kRowTiles * kTokenTiles + f) * kWarp + lane;
        const float* values = sums[f / kTokenTiles][f % kTokenTiles];
        const float4 sum = make_float4(values[0], values[1], values[2], values[3]);
        if (whole) {
          store_fragment<kTokenTiles, kRowTiles, kWarpsN>(p, tile, fragment, sum);
        } else if (f % kTokenTiles * 8 < rows) {
          part[fragment] = sum;
        }
      }
    }
#pragma unroll
    for (int f = 0; f < kRowTiles * kTokenTiles; ++f) {
#pragma unroll
      for (int c = 0; c < 4; ++c) sums[f / kTokenTiles][f % kTokenTiles][c] = 0;
    }
    ++tile;
  }
}

// What to do with the shape that serves so many rows. Wider tiles as rows grow, so that x, which
// every tile reads again from L2, stays an eighth to a third of the weight's bytes.
template <Stored kStored, typename Fn>
auto with_shape(int64_t rows, Fn&& fn) {
  constexpr int kFew = kStored == Stored::kBF16 ? 3 : 2;  // chunks ahead beside many sums
  const auto as = [&]<int kTokenTiles, int kRowTiles, int kWarpsN, int kWarpsK, int kAhead>() {
    return fn(DecodeShape<kStored, kTokenTiles, kRowTiles, kWarpsN, kWarpsK, kAhead>{},
              decode_kernel<kStored, kTokenTiles, kRowTiles, kWarpsN, kWarpsK, kAhead>);
  };
  if (rows <= 2) return as.template operator()<1, 1, 1, 8, 2>();
  if (rows <= 8) return as.template operator()<1, 2, 1, 8, 2>();
  if (rows <= 16) return as.template operator()<2, 1, 4, 2, 4>();
  if (rows <= 32) return as.template operator()<4, 1, 8, 1, kFew>();
  return as.template operator()<8, 2, 6, 1, kFew>();
}

template <Stored kStored>
DecodePlan plan_stored(int64_t rows, int64_t n, int64_t k, int num_multiprocessors) {
  return with_shape<kStored>(rows, [&](auto shape, auto) {
    using Shape = decltype(shape);
    const int64_t tiles = ceil_div(n, Shape::kTileN);
    const int64_t room = int64_t{Shape::kBlocks} * num_multiprocessors;
    DecodePlan plan{};
    plan.stages = ceil_div(k, Shape::kStage);
    // As many blocks as leave each the same, if that is fewer than there is room for.
    const auto even = [&](int64_t pieces) { return ceil_div(pieces, ceil_div(pieces, room)); };
    // A cut costs the second kernel, some two microseconds, so tiles stay whole where enough
    // blocks come of it: more where the warps of one wait for each other (measured on an H200).
    const bool whole = even(tiles) * 10 >= room * (Shape::kStaged ? 8 : 6);
    plan.piece = whole ? plan.stages : 1;
    const int64_t pieces = tiles * plan.stages / plan.piece;
    plan.blocks = even(pieces);
    plan.each = pieces / plan.blocks;
    plan.extra = pieces % plan.blocks;
    plan.part_bytes = whole ? 0 : 2 * plan.blocks * Shape::kFragments * 16;
    return plan;
  });
}

template <Stored kStored>
void run_stored(const DecodePlan& plan, const LinearArgs& args, void* parts, Launcher& launcher) {
  with_shape<kStored>(args.rows, [&](auto shape, auto kernel) {
    using Shape = decltype(shape);
    const Cut cut{static_cast<int>(plan.stages), static_cast<int>(plan.piece),
                  static_cast<int>(plan.each), static_cast<int>(plan.extra)};
    launcher(kernel,
             {.grid = dim3(plan.blocks),
              .block = dim3(Shape::kThreads),
              .shared_bytes = Shape::kSharedBytes,
              .overlap = true},
             args, cut, static_cast<float4*>(parts));
    if (plan.part_bytes == 0) return;
    const int64_t fragments = ceil_div(args.n, Shape::kTileN) * Shape::kFragments;
    launcher(add_parts_kernel<Shape::kTokenTiles, Shape::kRowTiles, Shape::kWarpsN>,
             {.grid = dim3(ceil_div(fragments, 256)), .block = dim3(256), .overlap = true}, args,
             cut, static_cast<const float4*>(parts));
  });
}

}  // namespace

DecodePlan plan_decode(Stored stored, int64_t rows, int64_t n, int64_t k, int num_multiprocessors) {
  switch (stored) {
    case Stored::kFp8:
      return plan_stored<Stored::kFp8>(rows, n, k, num_multiprocessors);
    case Stored::kNvfp4:
      return plan_stored<Stored::kNvfp4>(rows, n, k, num_multiprocessors);
    default:
      return plan_stored<Stored::kBF16>(rows, n, k, num_multiprocessors);
  }
}

void run_decode(const DecodePlan& plan, Stored stored, const LinearArgs& args, void* parts,
                Launcher& launcher) {
  switch (stored) {
    case Stored::kFp8:
      return run_stored<Stored::kFp8>(plan, args, parts, launcher);
    case Stored::kNvfp4:
      return run_stored<Stored::kNvfp4>(plan, args, parts, launcher);
    default:
      return run_stored<Stored::kBF16>(plan, args, parts, launcher);
  }
}

}  // namespace videre::cuda
