// Attention of many query rows, paged or dense: tiles of rows against runs of 64 keys with an
// online softmax, all products on tensor cores (FlashAttention-2's shape, arXiv 2307.08691). Bound
// by operations: the products, and the exponentials beside them.
#include <algorithm>

#include "backend/cuda/attention.h"
#include "base/check.h"

namespace videre::cuda {
namespace {

constexpr int kKeys = 64;      // of a run
constexpr int kWarpRows = 32;  // two 16-row tiles: each fragment of K and V serves both
constexpr int kWarps = 4, kThreads = kWarps * kWarp;
constexpr int kStages = 2;

template <typename C, int kHeadDim>
struct Tiling {
  static constexpr bool kCodes = sizeof(C) == 1;
  static constexpr int kRows = kWarps * kWarpRows;
  static constexpr int kChunks = kHeadDim * static_cast<int>(sizeof(C)) / 16,
                       kQueryChunks = kHeadDim / 8;
  using Rows = SharedRows<kChunks>;
  using QueryRows = SharedRows<kQueryChunks>;
  static constexpr int kPartBytes = kKeys * Rows::kPitch * 16;
  static constexpr int kQueryBytes = kRows * QueryRows::kPitch * 16;
  static constexpr int kSharedBytes = kQueryBytes + kStages * 2 * kPartBytes;
};

// A block: the rows (token, head of the group) of one tile of a sequence's tokens against one KV
// head; a warp has 32 of the rows, all keys of a run and all dims. Queries stay in shared memory,
// later the results on their way out; K and V come in runs through the block table, one run ahead.
// Sums, scores and weights live in registers.
template <typename C, int kHeadDim>
__global__ void __launch_bounds__(kThreads, 2)
    prefill_kernel(AttentionArgs args, int tokens_a_tile) {
  using Tiles = Tiling<C, kHeadDim>;
  using Rows = typename Tiles::Rows;
  using QueryRows = typename Tiles::QueryRows;
  constexpr int kChunks = Tiles::kChunks, kQueryChunks = Tiles::kQueryChunks;
  constexpr int kDimTiles = kHeadDim / 16, kKeyTiles = kKeys / 8;
  __shared__ uint32_t key_units[2][kKeys];  // where the rows of a run lie in the cache, in 16 bytes
  VIDERE_DYNAMIC_SHARED(shared);
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp, g = lane / 4,
            t = lane % 4;
  const int group = args.group;
  const int head_dim = args.head_dim;
  const unsigned row_bytes = head_dim * sizeof(C), block_size = args.block_size;
  char* const queries = shared;
  char* const stages = shared + Tiles::kQueryBytes;

  const PromptTile tile = prompt_tile<kThreads>(args, tokens_a_tile);
  if (tile.rows == 0) {
    wait_for_previous();
    return;
  }
  const int seq = tile.seq, t0 = tile.t0, rows = tile.rows;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int num_keys = tile.num_keys, all_see = tile.all_see;
  const int num_runs = (num_keys + kKeys - 1) / kKeys;

  // Rows past the last key repeat the first one, which all rows see: masked, but never another's
  // data.
  const auto look_up = [&](int j) {
    if (thread >= kKeys) return;
    const unsigned position = j * kKeys + thread < num_keys ? j * kKeys + thread : 0;
    const unsigned block = position / block_size, row = position - block * block_size;
    key_units[j % 2][thread] = args.block_of(seq, block) * args.block_units +
                               kv_head * args.head_units + row * args.row_units;
  };
  const auto fetch = [&](int j) {
    char* const keys = stages + j % kStages * 2 * Tiles::kPartBytes;
#pragma unroll
    for (unsigned i = 0; i < (kKeys * kChunks + kThreads - 1) / kThreads; ++i) {
      const unsigned at = i * kThreads + threadIdx.x, row = at / kChunks, chunk = at % kChunks;
      if ((kKeys * kChunks) % kThreads != 0 && at >= kKeys * kChunks) break;
      const bool valid = chunk * 16 < row_bytes;
      const int64_t from = int64_t{key_units[j % 2][row]} * 16 + (valid ? chunk * 16 : 0);
      char* const to = keys + Rows::at(row, chunk) * 16;
      copy_async16(to, static_cast<const char*>(args.k) + from, valid);
      copy_async16(to + Tiles::kPartBytes, static_cast<const char*>(args.v) + from, valid);
    }
  };
  look_up(0);
  if (num_runs > 1) look_up(1);
  wait_for_previous();
  let_next_start();
  const auto query_row = [&](int r) {
    return static_cast<const BF16*>(args.q) + args.q_at(seq, t0 + r / group) +
           (int64_t{kv_head} * group + r % group) * head_dim;
  };
  if constexpr (Tiles::kCodes) {
    // A lane's 4 codes of a key are 4 dims in a row: pairs of each 16 dims are laid so that its
    // query values match.
    for (int at = thread; at < Tiles::kRows * kHeadDim / 16; at += kThreads) {
      const int r = at / (kHeadDim / 16), d = at % (kHeadDim / 16);
      uint4 x = make_uint4(0, 0, 0, 0), y = x;
      if (r < rows && 16 * d < head_dim) {
        x = *reinterpret_cast<const uint4*>(query_row(r) + 16 * d);
        y = *reinterpret_cast<const uint4*>(query_row(r) + 16 * d + 8);
      }
      const auto half = [](uint32_t pair) { return pack_half(bf16_low(pair), bf16_high(pair)); };
      *reinterpret_cast<uint4*>(queries + QueryRows::at(r, 2 * d) * 16) =
          make_uint4(half(x.x), half(x.z), half(y.x), half(y.z));
      *reinterpret_cast<uint4*>(queries + QueryRows::at(r, 2 * d + 1) * 16) =
          make_uint4(half(x.y), half(x.w), half(y.y), half(y.w));
    }
  } else {
    for (int at = thread; at < Tiles::kRows * kQueryChunks; at += kThreads) {
      const int r = at / kQueryChunks, chunk = at % kQueryChunks;
      const bool valid = r < rows && chunk * 8 < head_dim;
      const BF16* const from = valid ? query_row(r) + chunk * 8 : static_cast<const BF16*>(args.q);
      copy_async16(queries + QueryRows::at(r, chunk) * 16, from, valid);
    }
  }
  __syncthreads();
  fetch(0);
  commit_copies();

  float out[2][2 * kDimTiles][4] = {};
  float row_max[2][2], row_sum[2][2] = {};
  for (int m = 0; m < 2; ++m) row_max[m][0] = row_max[m][1] = -INFINITY;
  for (int j = 0; j < num_runs; ++j) {
    wait_copies<0>();
    __syncthreads();
    if (j + 1 < num_runs) fetch(j + 1);
    commit_copies();
    if (j + 2 < num_runs) look_up(j + 2);
    if (warp * kWarpRows >= rows) continue;  // a tile's end: what has no rows only copies
    const char* const keys = stages + j % kStages * 2 * Tiles::kPartBytes;
    const char* const values = keys + Tiles::kPartBytes;

    float scores[2][kKeyTiles][4] = {};
#pragma unroll
    for (int d = 0; d < kDimTiles; ++d) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        ldmatrix4(
            a[m],
            queries + QueryRows::at(warp * kWarpRows + m * 16 + lane % 16, 2 * d + lane / 16) * 16);
      }
      if constexpr (Tiles::kCodes) {
#pragma unroll
        for (int k = 0; k < kKeyTiles; k += 4) {
          uint32_t codes[4];
          ldmatrix4(codes, keys + Rows::at(k * 8 + lane, d) * 16);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const uint32_t b[2] = {e4m3_pair_to_half(codes[i] & 0xffff),
                                   e4m3_pair_to_half(codes[i] >> 16)};
            for (int m = 0; m < 2; ++m) mma_f16(scores[m][k + i], a[m], b);
          }
        }
      } else {
#pragma unroll
        for (int k = 0; k < kKeyTiles; k += 2) {
          uint32_t b[4];
          ldmatrix4(b,
                    keys + Rows::at(k * 8 + lane % 8 + lane / 16 * 8, 2 * d + lane / 8 % 2) * 16);
          const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
          for (int m = 0; m < 2; ++m) {
            mma_bf16(scores[m][k], a[m], b0);
            mma_bf16(scores[m][k + 1], a[m], b1);
          }
        }
      }
    }
    if (j * kKeys + kKeys > all_see) {
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int row = warp * kWarpRows + m * 16 + i * 8 + g;
          const int sees = (args.causal ? all_see + row / group : num_keys) - j * kKeys - 2 * t;
#pragma unroll
          for (int k = 0; k < kKeyTiles; ++k) {
            if (k * 8 >= sees) scores[m][k][2 * i] = -INFINITY;
            if (k * 8 + 1 >= sees) scores[m][k][2 * i + 1] = -INFINITY;
          }
        }
      }
    }
    float shrink[2][2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        float top = row_max[m][i];
#pragma unroll
        for (int k = 0; k < kKeyTiles; ++k) {
          top = fmaxf(top, fmaxf(scores[m][k][2 * i], scores[m][k][2 * i + 1]));
        }
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        // A row's first run holds keys that it sees, so its largest score is finite from then on.
        shrink[m][i] = fast_exp2((row_max[m][i] - top) * args.score_scale);
        row_max[m][i] = top;
        const float base = top * args.score_scale;
        float sum = row_sum[m][i] * shrink[m][i];
#pragma unroll
        for (int k = 0; k < kKeyTiles; ++k) {
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float& score = scores[m][k][2 * i + c];
            score = fast_exp2(score * args.score_scale - base);
            sum += score;
          }
        }
        row_sum[m][i] = sum;
      }
    }
    const bool same =
        shrink[0][0] == 1 && shrink[0][1] == 1 && shrink[1][0] == 1 && shrink[1][1] == 1;
    if (!__all_sync(kAllLanes, same)) {  // rare after the first runs
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int d = 0; d < 2 * kDimTiles; ++d) {
          for (int i = 0; i < 4; ++i) out[m][d][i] *= shrink[m][i / 2];
        }
      }
    }
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
      uint32_t a[2][4];
#pragma unroll
      for (int m = 0; m < 2; ++m) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const float* const pair = &scores[m][2 * k + i / 2][2 * (i % 2)];
          a[m][i] = Tiles::kCodes ? pack_half(pair[0], pair[1]) : pack_bf16(pair[0], pair[1]);
        }
      }
      const int key = k * 16 + lane % 16;
      if constexpr (Tiles::kCodes) {
#pragma unroll
        for (int d = 0; d < kDimTiles; d += 2) {
          uint32_t codes[4];
          ldmatrix4_transposed(codes, values + Rows::at(key, d + lane / 16) * 16);
#pragma unroll
          for (int i = 0; i < 2; ++i) {  // even dims of the 16 in one tile, odd ones in the next
            const uint32_t low = __byte_perm(codes[2 * i], 0, 0x3120);
            const uint32_t high = __byte_perm(codes[2 * i + 1], 0, 0x3120);
            const uint32_t even[2] = {e4m3_pair_to_half(low & 0xffff),
                                      e4m3_pair_to_half(high & 0xffff)};
            const uint32_t odd[2] = {e4m3_pair_to_half(low >> 16), e4m3_pair_to_half(high >> 16)};
            for (int m = 0; m < 2; ++m) {
              mma_f16(out[m][2 * (d + i)], a[m], even);
              mma_f16(out[m][2 * (d + i) + 1], a[m], odd);
            }
          }
        }
      } else {
#pragma unroll
        for (int d = 0; d < kDimTiles; ++d) {
          uint32_t b[4];
          ldmatrix4_transposed(b, values + Rows::at(key, 2 * d + lane / 16) * 16);
          const uint32_t b0[2] = {b[0], b[1]}, b1[2] = {b[2], b[3]};
          for (int m = 0; m < 2; ++m) {
            mma_bf16(out[m][2 * d], a[m], b0);
            mma_bf16(out[m][2 * d + 1], a[m], b1);
          }
        }
      }
    }
  }

  // Results leave through the place of the warp's own queries, 16 bytes at a time.
  __syncwarp();
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float sum = row_sum[m][i];
      sum += __shfl_xor_sync(kAllLanes, sum, 1);
      sum += __shfl_xor_sync(kAllLanes, sum, 2);
      const float factor = args.value_scale / sum;
      const int r = warp * kWarpRows + m * 16 + i * 8 + g;
#pragma unroll
      for (int d = 0; d < kDimTiles; ++d) {
        const float* const x = &out[m][2 * d][2 * i];
        const float* const y = &out[m][2 * d + 1][2 * i];
        if constexpr (Tiles::kCodes) {
          const uint2 four = make_uint2(pack_bf16(x[0] * factor, y[0] * factor),
                                        pack_bf16(x[1] * factor, y[1] * factor));
          *reinterpret_cast<uint2*>(queries + QueryRows::at(r, 2 * d + t / 2) * 16 + t % 2 * 8) =
              four;
        } else {
          *reinterpret_cast<uint32_t*>(queries + QueryRows::at(r, 2 * d) * 16 + t * 4) =
              pack_bf16(x[0] * factor, x[1] * factor);
          *reinterpret_cast<uint32_t*>(queries + QueryRows::at(r, 2 * d + 1) * 16 + t * 4) =
              pack_bf16(y[0] * factor, y[1] * factor);
        }
      }
    }
  }
  __syncwarp();
  for (int at = lane; at < kWarpRows * kQueryChunks; at += kWarp) {
    const int r = warp * kWarpRows + at / kQueryChunks, chunk = at % kQueryChunks;
    if (r >= rows || chunk * 8 >= head_dim) continue;
    BF16* const to = static_cast<BF16*>(args.out) + args.out_at(seq, t0 + r / group) +
                     (int64_t{kv_head} * group + r % group) * head_dim + chunk * 8;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(queries + QueryRows::at(r, chunk) * 16);
  }
}

template <typename C, int kHeadDim>
void queue(const AttentionArgs& args, Launcher& launcher) {
  using Tiles = Tiling<C, kHeadDim>;
  const int tokens_a_tile = Tiles::kRows / args.group;
  LaunchShape shape;
  shape.grid = dim3(most_tiles(args, tokens_a_tile), args.num_kv_heads);
  shape.block = dim3(kThreads);
  shape.shared_bytes = Tiles::kSharedBytes;
  shape.overlap = true;
  launcher(prefill_kernel<C, kHeadDim>, shape, args, tokens_a_tile);
}

}  // namespace

bool prefill_takes(const AttentionArgs& args) {
  return args.group <= 64 && args.head_dim <= 128 && args.score_scale > 0;
}

void prefill_attention(const AttentionArgs& args, Launcher& launcher) {
  AttentionArgs scaled = args;
  scaled.score_scale *= kLog2e;
  if (args.cache_dtype == DType::kF8E4M3) {
    args.head_dim <= 64 ? queue<uint8_t, 64>(scaled, launcher)
                        : queue<uint8_t, 128>(scaled, launcher);
  } else if (args.head_dim <= 64) {
    queue<BF16, 64>(scaled, launcher);
  } else if (args.head_dim <= 80) {
    queue<BF16, 80>(scaled, launcher);
  } else {
    queue<BF16, 128>(scaled, launcher);
  }
}

}  // namespace videre::cuda
