// Decoding: one query row a sequence against its whole cache, bound by the bytes of K and V. All
// (row, KV head, run of keys) tiles of the batch lie in one line that is cut into equal parts, one
// a block, so that every multiprocessor reads as much whatever the lengths are; what a cut leaves
// in pieces a second kernel puts together, in order.
#include "backend/cuda/attention.h"
#include "base/check.h"

namespace videre::cuda {
namespace {

constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kStages = 3;
constexpr int kMaxGroup = 16;
constexpr int kLeastTiles =
    2;  // of a block: fewer pieces to put together where there is little to read

struct DecodeArgs {
  AttentionArgs in;
  float* pieces =
      nullptr;  // [blocks, 2, group, head_dim + 2]: sums of values, largest score, sum of weights
  int num_blocks = 0;
};

/// Tile sizes of a cache format: a warp takes kStepKeys keys at a time and a block's tile is the
/// step of its warps.
template <typename C, int kHeadDim>
struct Tiling {
  static constexpr bool kCodes = sizeof(C) == 1;
  static constexpr int kKeyTiles = kCodes ? 2 : 1;  // of 16 keys
  static constexpr int kStepKeys = 16 * kKeyTiles;
  static constexpr int kTileKeys = kWarps * kStepKeys;
  static constexpr int kChunks =
      kHeadDim * static_cast<int>(sizeof(C)) / 16;  // 16-byte pieces of a row
  using Rows = SharedRows<kChunks>;
  static constexpr int kPartBytes =
      kStepKeys * Rows::kPitch * 16;  // keys, or values, of a warp's step
  static constexpr int kWarpBytes = kStages * 2 * kPartBytes;
  static constexpr int kSharedBytes = kWarps * kWarpBytes;
  // Floats of a head's sums on their way between warps: 4 more, and lanes that write 8 dims of 4
  // heads meet no bank twice.
  static constexpr int out_pitch(int group) {
    return group * (kHeadDim + 4) * static_cast<int>(sizeof(float)) <= 2 * kPartBytes ? kHeadDim + 4
                                                                                      : kHeadDim;
  }
  static_assert(kMaxGroup * kHeadDim * static_cast<int>(sizeof(float)) <= 2 * kPartBytes);
};

// Where in the line of tiles something stands.
struct Place {
  int seq, rows, context;  // a sequence with its rows of this step and the tokens before them
  int row, head, tile;
  int keys, tiles;  // that `row` sees

  __device__ __forceinline__ void enter_row(int tile_keys) {
    keys = context + row + 1;
    tiles = (keys + tile_keys - 1) / tile_keys;
  }
  __device__ __forceinline__ void enter_sequence(const AttentionArgs& args, int tile_keys) {
    rows = args.rows_of(seq);
    context = args.context_of(seq);
    row = head = tile = 0;
    enter_row(tile_keys);
  }
  __device__ __forceinline__ void advance(const AttentionArgs& args, int tile_keys) {
    if (++tile < tiles) return;
    tile = 0;
    if (++head < args.num_kv_heads) return;
    head = 0;
    if (++row < rows) return enter_row(tile_keys);
    do {
      if (++seq >= args.num_seqs) return;
    } while (!args.takes(args.rows_of(seq)));
    enter_sequence(args, tile_keys);
  }
};

__device__ __forceinline__ int tiles_of_row(const AttentionArgs& args, int context, int row,
                                            int tile_keys) {
  return args.num_kv_heads * ((context + row + tile_keys) / tile_keys);
}
__device__ __forceinline__ int tiles_of_sequence(const AttentionArgs& args, int seq,
                                                 int tile_keys) {
  const int rows = args.rows_of(seq);
  if (!args.takes(rows)) return 0;
  const int context = args.context_of(seq);
  int tiles = 0;
  for (int row = 0; row < rows; ++row) tiles += tiles_of_row(args, context, row, tile_keys);
  return tiles;
}

// How `total` tiles are cut: part i of `parts` begins at total * i / parts.
struct Cut {
  int total, parts;
  __device__ __forceinline__ Cut(int tiles, int num_blocks)
      : total(tiles), parts(min(num_blocks, (tiles + kLeastTiles - 1) / kLeastTiles)) {}
  __device__ __forceinline__ int begin(int part) const {
    return static_cast<int>(int64_t{total} * part / parts);
  }
  __device__ __forceinline__ int part_of(int tile) const {
    return static_cast<int>(((int64_t{tile} + 1) * parts - 1) / total);
  }
};

// A block walks its part of the line; each of its 4 warps works alone on a quarter of every tile's
// keys, with its own three stages of copies in flight (16 KiB a warp, 128 KiB a multiprocessor).
// Keys fill the 16-row side of the products and the heads of the group the 8-column side: S^T = K
// Q^T, then O^T = V^T P^T, so that 5 heads fill 5 of 8 columns instead of 5 of 16 rows. Where a row
// ends, the warps' sums meet in shared memory.
template <typename C, int kHeadDim, int kHeadTiles>
__global__ void __launch_bounds__(kThreads, 2) decode_kernel(DecodeArgs args) {
  using Tiles = Tiling<C, kHeadDim>;
  using Rows = typename Tiles::Rows;
  constexpr int kDimTiles = kHeadDim / 16, kKeyTiles = Tiles::kKeyTiles,
                kTileKeys = Tiles::kTileKeys;
  constexpr int kStepKeys = Tiles::kStepKeys, kChunks = Tiles::kChunks;
  __shared__ int warp_sums[kWarps], found[2];
  __shared__ float maxima[kWarps][kMaxGroup][2];  // largest scores, sums of weights
  VIDERE_DYNAMIC_SHARED(shared);
  const AttentionArgs& in = args.in;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp, g = lane / 4,
            t = lane % 4;
  const int group = in.group, head_dim = in.head_dim;
  const unsigned row_bytes = head_dim * sizeof(C);
  char* const stages = shared + warp * Tiles::kWarpBytes;
  const auto count = [&](int seq) { return tiles_of_sequence(in, seq, kTileKeys); };
  const SeqRun run = sum_sequences<kThreads>(in.num_seqs, count, warp_sums);
  const Cut cut(run.total, args.num_blocks);
  const int block = static_cast<int>(blockIdx.x);
  if (block >= cut.parts) {
    wait_for_previous();
    return;
  }
  const int begin = cut.begin(block), num_steps = cut.begin(block + 1) - begin;
  const int2 start = find_sequence(run, begin, count, found);
  Place here;
  here.seq = start.x;
  here.enter_sequence(in, kTileKeys);
  int rest = start.y;
  while (rest >= here.tiles * in.num_kv_heads) {
    rest -= here.tiles * in.num_kv_heads;
    ++here.row;
    here.enter_row(kTileKeys);
  }
  here.head = rest / here.tiles;
  here.tile = rest % here.tiles;

  // The copies run ahead of `here`. A lane knows where one key of the step lies and looks for it a
  // step early; past the row's last key it takes that again: masked, but never another's data.
  Place ahead = here;
  bool waited = false;
  uint32_t ahead_block = 0, ahead_row = 0;
  const auto look_up = [&] {
    const int key =
        min(ahead.tile * kTileKeys + warp * kStepKeys + lane % kStepKeys, ahead.keys - 1);
    const uint32_t position = key, block_size = in.block_size, block = position / block_size;
    ahead_block = in.block_of(ahead.seq, block);
    ahead_row = position - block * block_size;
  };
  const auto fetch = [&](int stage) {
    // Keys of this step are being appended; older ones were there before.
    if (!waited && (ahead.tile + 1) * kTileKeys > ahead.context) {
      wait_for_previous();
      waited = true;
    }
    if (ahead.tile * kTileKeys + warp * kStepKeys < ahead.keys) {
      const uint32_t units =
          ahead_block * in.block_units + ahead.head * in.head_units + ahead_row * in.row_units;
      char* const keys = stages + stage * 2 * Tiles::kPartBytes;
#pragma unroll
      for (unsigned i = 0; i < kStepKeys * kChunks / kWarp; ++i) {
        const unsigned index = i * kWarp + threadIdx.x % kWarp, row = index / kChunks,
                       chunk = index % kChunks;
        const bool valid = chunk * 16 < row_bytes;
        const int64_t from = int64_t{__shfl_sync(kAllLanes, units, static_cast<int>(row))} * 16 +
                             (valid ? chunk * 16 : 0);
        char* const to = keys + Rows::at(row, chunk) * 16;
        copy_async16(to, static_cast<const char*>(in.k) + from, valid);
        copy_async16(to + Tiles::kPartBytes, static_cast<const char*>(in.v) + from, valid);
      }
    }
    ahead.advance(in, kTileKeys);
  };
  look_up();
  for (int i = 0; i < kStages - 1; ++i) {
    if (i < num_steps) {
      fetch(i);
      if (i + 1 < num_steps) look_up();
    }
    commit_copies();
  }
  if (!waited) wait_for_previous();
  waited = true;
  let_next_start();

  uint32_t q[kHeadTiles][kDimTiles][2];
  float out[kHeadTiles][kDimTiles][4], row_max[kHeadTiles][2], row_sum[kHeadTiles][2];
  bool from_start = false, first_piece = true;
  for (int step = 0; step < num_steps; ++step) {
    wait_copies<kStages - 2>();
    __syncwarp();
    const int next = step + kStages - 1;
    if (next < num_steps) {
      fetch(next % kStages);
      if (next + 1 < num_steps) look_up();
    }
    commit_copies();

    if (step == 0 || here.tile == 0) {
      from_start = here.tile == 0;
#pragma unroll
      for (int h = 0; h < kHeadTiles; ++h) {
        const int head = h * 8 + g;
        const BF16* const row = static_cast<const BF16*>(in.q) + in.q_at(here.seq, here.row) +
                                (int64_t{here.head} * group + head) * head_dim;
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
          uint32_t low = 0, high = 0;
          if constexpr (Tiles::kCodes) {  // a lane's 4 codes of a key are 4 dims in a row: q's
                                          // follow them
            const int dim = 16 * d + 4 * t;
            if (head < group && dim < head_dim) {
              const uint2 four = *reinterpret_cast<const uint2*>(row + dim);
              low = pack_half(bf16_low(four.x), bf16_high(four.x));
              high = pack_half(bf16_low(four.y), bf16_high(four.y));
            }
          } else {
            const int dim = 16 * d + 2 * t;
            if (head < group && dim < head_dim) low = *reinterpret_cast<const uint32_t*>(row + dim);
            if (head < group && dim + 8 < head_dim)
              high = *reinterpret_cast<const uint32_t*>(row + dim + 8);
          }
          q[h][d][0] = low;
          q[h][d][1] = high;
          for (int i = 0; i < 4; ++i) out[h][d][i] = 0;
        }
        row_max[h][0] = row_max[h][1] = -INFINITY;
        row_sum[h][0] = row_sum[h][1] = 0;
      }
    }

    const int k0 = here.tile * kTileKeys + warp * kStepKeys;
    if (k0 < here.keys) {
      const char* const keys = stages + step % kStages * 2 * Tiles::kPartBytes;
      const char* const values = keys + Tiles::kPartBytes;
      // Scores: rows are keys g and g + 8 of a key tile, columns heads 2t and 2t + 1. Two sums, so
      // that products need not wait for each other.
      float scores[kKeyTiles][kHeadTiles][2][4] = {};
#pragma unroll
      for (int k = 0; k < kKeyTiles; ++k) {
        const int key = k * 16 + lane % 16;
        if constexpr (Tiles::kCodes) {
#pragma unroll
          for (int d = 0; d < kDimTiles; d += 2) {
            uint32_t codes[4];
            ldmatrix4(codes, keys + Rows::at(key, d + lane / 16) * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const uint32_t a[4] = {e4m3_pair_to_half(codes[2 * i] & 0xffff),
                                     e4m3_pair_to_half(codes[2 * i + 1] & 0xffff),
                                     e4m3_pair_to_half(codes[2 * i] >> 16),
                                     e4m3_pair_to_half(codes[2 * i + 1] >> 16)};
#pragma unroll
              for (int h = 0; h < kHeadTiles; ++h) mma_f16(scores[k][h][i], a, q[h][d + i]);
            }
          }
        } else {
#pragma unroll
          for (int d = 0; d < kDimTiles; ++d) {
            uint32_t a[4];
            ldmatrix4(a, keys + Rows::at(key, 2 * d + lane / 16) * 16);
#pragma unroll
            for (int h = 0; h < kHeadTiles; ++h) mma_bf16(scores[k][h][d % 2], a, q[h][d]);
          }
        }
      }
      uint32_t weights[kKeyTiles][kHeadTiles]
                      [2];  // heads by keys, as the second product wants them
#pragma unroll
      for (int h = 0; h < kHeadTiles; ++h) {
        float top[2] = {row_max[h][0], row_max[h][1]};
#pragma unroll
        for (int k = 0; k < kKeyTiles; ++k) {
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int key = k0 + k * 16 + g + i / 2 * 8;
            float& score = scores[k][h][0][i];
            score = (score + scores[k][h][1][i]) * in.score_scale;
            if (key >= here.keys) score = -INFINITY;
            top[i % 2] = fmaxf(top[i % 2], score);
          }
        }
        bool same = true;
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          for (int mask = 4; mask < kWarp; mask *= 2) {
            top[i] = fmaxf(top[i], __shfl_xor_sync(kAllLanes, top[i], mask));
          }
          same = same && top[i] == row_max[h][i];
        }
        if (!__all_sync(kAllLanes, same)) {
          const float shrink[2] = {fast_exp2(row_max[h][0] - top[0]),
                                   fast_exp2(row_max[h][1] - top[1])};
          for (int i = 0; i < 2; ++i) row_sum[h][i] *= shrink[i], row_max[h][i] = top[i];
#pragma unroll
          for (int d = 0; d < kDimTiles; ++d) {
            for (int i = 0; i < 4; ++i) out[h][d][i] *= shrink[i % 2];
          }
        }
#pragma unroll
        for (int k = 0; k < kKeyTiles; ++k) {
          float p[4];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            p[i] = fast_exp2(scores[k][h][0][i] - top[i % 2]);
            row_sum[h][i % 2] += p[i];
          }
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            weights[k][h][i] = transpose8x8(Tiles::kCodes ? pack_half(p[2 * i], p[2 * i + 1])
                                                          : pack_bf16(p[2 * i], p[2 * i + 1]));
          }
        }
      }
      // Sums of values: rows are dims, columns heads. Of codes a lane has pairs of dims, so row g
      // of a tile is its dim 2g and row g + 8 its dim 2g + 1.
#pragma unroll
      for (int k = 0; k < kKeyTiles; ++k) {
        if constexpr (Tiles::kCodes) {
          const int key = k * 16 + lane % 16;
#pragma unroll
          for (int d = 0; d < kDimTiles; d += 2) {
            uint32_t codes[4];
            ldmatrix4_transposed(codes, values + Rows::at(key, d + lane / 16) * 16);
#pragma unroll
            for (int i = 0; i < 2; ++i) {
              const uint32_t low = __byte_perm(codes[2 * i], 0, 0x3120);
              const uint32_t high = __byte_perm(codes[2 * i + 1], 0, 0x3120);
              const uint32_t a[4] = {e4m3_pair_to_half(low & 0xffff), e4m3_pair_to_half(low >> 16),
                                     e4m3_pair_to_half(high & 0xffff),
                                     e4m3_pair_to_half(high >> 16)};
#pragma unroll
              for (int h = 0; h < kHeadTiles; ++h) mma_f16(out[h][d + i], a, weights[k][h]);
            }
          }
        } else {
          const int key = k * 16 + lane % 8 + lane / 16 * 8;
#pragma unroll
          for (int d = 0; d < kDimTiles; ++d) {
            uint32_t a[4];
            ldmatrix4_transposed(a, values + Rows::at(key, 2 * d + lane / 8 % 2) * 16);
#pragma unroll
            for (int h = 0; h < kHeadTiles; ++h) mma_bf16(out[h][d], a, weights[k][h]);
          }
        }
      }
    }

    if (here.tile == here.tiles - 1 || step == num_steps - 1) {
      // Sums pass through the stage just read, which is filled again after the last barrier.
      const int pitch = Tiles::out_pitch(group), stage_at = step % kStages * 2 * Tiles::kPartBytes;
      float* const sums = reinterpret_cast<float*>(stages + stage_at);
      __syncwarp();
#pragma unroll
      for (int h = 0; h < kHeadTiles; ++h) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float sum = row_sum[h][i];
          for (int mask = 4; mask < kWarp; mask *= 2) sum += __shfl_xor_sync(kAllLanes, sum, mask);
          const int head = h * 8 + 2 * t + i;
          if (head >= group) continue;
          if (g == 0) {
            maxima[warp][head][0] = row_max[h][i];
            maxima[warp][head][1] = sum;
          }
#pragma unroll
          for (int d = 0; d < kDimTiles; ++d) {
            float* const to = sums + head * pitch + 16 * d;
            to[Tiles::kCodes ? 2 * g : g] = out[h][d][i];
            to[Tiles::kCodes ? 2 * g + 1 : g + 8] = out[h][d][i + 2];
          }
        }
      }
      __syncthreads();
      const bool whole = from_start && here.tile == here.tiles - 1;
      for (int i = thread; i < group * head_dim; i += kThreads) {
        const int head = i / head_dim, d = i % head_dim;
        float top = -INFINITY, sum = 0, value = 0;
        for (int w = 0; w < kWarps; ++w) top = fmaxf(top, maxima[w][head][0]);
        for (int w = 0; w < kWarps; ++w) {
          const float weight = fast_exp2(maxima[w][head][0] - top);
          sum += weight * maxima[w][head][1];
          const char* const theirs = shared + w * Tiles::kWarpBytes + stage_at;
          value += weight * reinterpret_cast<const float*>(theirs)[head * pitch + d];
        }
        if (whole) {
          static_cast<BF16*>(in.out)[in.out_at(here.seq, here.row) +
                                     (int64_t{here.head} * group + head) * head_dim + d] =
              bf16_of(value * (in.value_scale / sum));
        } else {
          float* const piece =
              args.pieces + (int64_t{block} * 2 + (first_piece ? 0 : 1)) * group * (head_dim + 2) +
              head * (head_dim + 2);
          piece[2 + d] = value;
          if (d == 0) piece[0] = top, piece[1] = sum;
        }
      }
      first_piece = false;
      __syncthreads();
    }
    here.advance(in, kTileKeys);
  }
}

// A block puts together the pieces of one sequence's rows for one KV head, or for one head of its
// group: warps take every fourth piece, lanes the dims.
__global__ void __launch_bounds__(kThreads)
    merge_kernel(DecodeArgs args, int tile_keys, int heads_a_block) {
  __shared__ int warp_sums[kWarps], found[2];
  __shared__ float tops[kWarps];
  VIDERE_DYNAMIC_SHARED(shared);
  const AttentionArgs& in = args.in;
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp,
            head_dim = in.head_dim;
  float* const sums = reinterpret_cast<float*>(shared);  // [warps, head_dim + 1]
  const int seq = static_cast<int>(blockIdx.x), blocks_a_group = in.group / heads_a_block;
  const int kv_head = static_cast<int>(blockIdx.y) / blocks_a_group;
  const int first_head = static_cast<int>(blockIdx.y) % blocks_a_group * heads_a_block;

  const auto count = [&](int s) { return tiles_of_sequence(in, s, tile_keys); };
  const SeqRun run = sum_sequences<kThreads>(in.num_seqs, count, warp_sums);
  if (seq >= run.first && seq < run.last) {
    int before = run.before;
    for (int s = run.first; s < seq; ++s) before += count(s);
    found[0] = before;
  }
  __syncthreads();
  int row_begin = found[0];
  const int rows = in.rows_of(seq), context = in.context_of(seq);
  let_next_start();
  wait_for_previous();
  if (!in.takes(rows)) return;
  const Cut cut(run.total, args.num_blocks);
  for (int row = 0; row < rows; ++row) {
    const int all_tiles = tiles_of_row(in, context, row, tile_keys),
              tiles = all_tiles / in.num_kv_heads;
    const int begin = row_begin + kv_head * tiles;
    row_begin += all_tiles;
    const int first = cut.part_of(begin), last = cut.part_of(begin + tiles - 1);
    if (first == last) continue;
    const int first_slot = 2 * first + (cut.begin(first) == begin ? 0 : 1);
    for (int head = first_head; head < first_head + heads_a_block; ++head) {
      const auto piece_of = [&](int part) {
        const int slot = part == first ? first_slot : 2 * part;
        return args.pieces + (int64_t{slot} * in.group + head) * (head_dim + 2);
      };
      float top = -INFINITY;
      for (int part = first + thread; part <= last; part += kThreads)
        top = fmaxf(top, piece_of(part)[0]);
      top = warp_max(top);
      __syncthreads();  // the last head's sums are read
      if (lane == 0) tops[warp] = top;
      __syncthreads();
      for (int w = 0; w < kWarps; ++w) top = fmaxf(top, tops[w]);
      for (int d0 = 0; d0 < head_dim; d0 += 4 * kWarp) {
        float value[4] = {}, sum = 0;
#pragma unroll 4
        for (int part = first + warp; part <= last; part += kWarps) {
          const float* const piece = piece_of(part);
          const float weight = fast_exp2(piece[0] - top);
          sum += weight * piece[1];
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const int d = d0 + i * kWarp + lane;
            if (d < head_dim) value[i] += weight * piece[2 + d];
          }
        }
        for (int i = 0; i < 4; ++i) {
          const int d = d0 + i * kWarp + lane;
          if (d < head_dim) sums[warp * (head_dim + 1) + d] = value[i];
        }
        if (lane == 0) sums[warp * (head_dim + 1) + head_dim] = sum;
      }
      __syncthreads();
      for (int d = thread; d < head_dim; d += kThreads) {
        float value = 0, sum = 0;
        for (int w = 0; w < kWarps; ++w) {
          value += sums[w * (head_dim + 1) + d];
          sum += sums[w * (head_dim + 1) + head_dim];
        }
        static_cast<BF16*>(
            in.out)[in.out_at(seq, row) + (int64_t{kv_head} * in.group + head) * head_dim + d] =
            bf16_of(value * (in.value_scale / sum));
      }
    }
  }
}

int blocks_on(const DeviceInfo& device) { return 2 * device.num_multiprocessors; }

template <typename C, int kHeadDim, int kHeadTiles>
void queue(DecodeArgs& args, Launcher& launcher) {
  using Tiles = Tiling<C, kHeadDim>;
  const AttentionArgs& in = args.in;
  // No more blocks than the longest sequences that the tables can name give work to.
  const int64_t rows = std::min<int64_t>(in.num_tokens, int64_t{in.num_seqs} * in.max_rows);
  const int64_t tiles =
      rows * in.num_kv_heads * ceil_div(int64_t{in.max_blocks} * in.block_size, Tiles::kTileKeys);
  VIDERE_CHECK_LE(tiles, int64_t{0x7fffffff});
  args.num_blocks =
      static_cast<int>(std::min<int64_t>(args.num_blocks, ceil_div(tiles, kLeastTiles)));
  LaunchShape shape;
  shape.grid = dim3(args.num_blocks);
  shape.block = dim3(kThreads);
  shape.shared_bytes = Tiles::kSharedBytes;
  shape.overlap = true;
  launcher(decode_kernel<C, kHeadDim, kHeadTiles>, shape, args);

  const int heads_a_block = int64_t{in.num_seqs} * in.num_kv_heads < 256 ? 1 : in.group;
  shape.grid = dim3(in.num_seqs, in.num_kv_heads * (in.group / heads_a_block));
  shape.shared_bytes = kWarps * (in.head_dim + 1) * static_cast<int>(sizeof(float));
  launcher(merge_kernel, shape, args, Tiles::kTileKeys, heads_a_block);
}

template <typename C>
void queue(DecodeArgs& args, Launcher& launcher) {
  if (args.in.group > 8) {
    queue<C, 128, 2>(args, launcher);
  } else if (args.in.head_dim > 64) {
    queue<C, 128, 1>(args, launcher);
  } else {
    queue<C, 64, 1>(args, launcher);
  }
}

}  // namespace

bool decode_takes(const AttentionArgs& args) {
  return args.group <= kMaxGroup && args.head_dim <= 128;
}

int64_t decode_scratch_bytes(const AttentionArgs& args, const DeviceInfo& device) {
  return int64_t{blocks_on(device)} * 2 * args.group * (args.head_dim + 2) *
         static_cast<int64_t>(sizeof(float));
}

void decode_attention(const AttentionArgs& args, void* scratch, const DeviceInfo& device,
                      Launcher& launcher) {
  DecodeArgs decode{args, static_cast<float*>(scratch), blocks_on(device)};
  decode.in.score_scale *= kLog2e;
  args.cache_dtype == DType::kBF16 ? queue<BF16>(decode, launcher)
                                   : queue<uint8_t>(decode, launcher);
}

}  // namespace videre::cuda
