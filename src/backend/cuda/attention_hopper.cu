// Prefill on Hopper: attention_prefill.cu's work by its warpgroup products, which run beside the
// softmax: while a run's weights are made, the scores of the next are computed and the values of
// the last summed.
#include "backend/cuda/attention.h"
#include "backend/cuda/warpgroup.h"

namespace videre::cuda {
namespace {

constexpr int kWarpgroups = 2, kThreads = kWarpgroups * 128, kRows = kWarpgroups * 64;
constexpr int kKeys = 128;                             // of a run
constexpr int kHeadDim = 128, kPieces = kHeadDim / 8;  // a row is two panels, 16 pieces of 16 bytes
constexpr int kQueryPanel = kRows * 128, kKeyPanel = kKeys * 128;
constexpr int kQueryBytes = 2 * kQueryPanel, kRunBytes = 2 * kKeyPanel;
constexpr int kSharedBytes = kQueryBytes + 4 * kRunBytes + 1024;
constexpr int kCopyRows = kThreads / kPieces;  // at once; a thread stays with one piece of a row
static_assert(kCopyRows % 8 == 0);

// A block: 128 rows (token, head of the group) of one tile of a sequence's tokens against one KV
// head, 64 rows a warpgroup, in runs of 128 keys. Keys are copied two runs ahead, values one; one
// barrier a run. Bound by the products; one block a multiprocessor.
__global__ void __launch_bounds__(kThreads, 1)
    hopper_kernel(AttentionArgs args, int tokens_a_tile) {
  if constexpr (!kWarpgroupProducts) return;
  constexpr int kTiles = kKeys / 8;
  static_assert(kTiles == kHeadDim / 8);
  __shared__ uint32_t key_units[4][kKeys];  // where the rows of a run lie in the cache, in 16 bytes
  VIDERE_DYNAMIC_SHARED(shared);
  const int thread = threadIdx.x, lane = thread % kWarp, g = lane / 4, t = lane % 4;
  const int warp_row = thread / kWarp * 16,
            group_row = __shfl_sync(kAllLanes, thread / 128, 0) * 64;
  const int group = args.group, head_dim = args.head_dim;
  const unsigned block_size = args.block_size;
  char* const queries = panel_start(shared);
  char* const keys = queries + kQueryBytes;  // two runs
  char* const values = keys + 2 * kRunBytes;

  const PromptTile tile = prompt_tile<kThreads>(args, tokens_a_tile);
  if (tile.rows == 0) {
    wait_for_previous();
    return;
  }
  const int seq = tile.seq, t0 = tile.t0, rows = tile.rows;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int num_keys = tile.num_keys, all_see = tile.all_see;
  const int num_runs = (num_keys + kKeys - 1) / kKeys;

  // Where a thread's key of a run lies; its block's number is asked for a turn before it is needed.
  // Rows past the last key repeat the first one, which all rows see: masked, but never another's
  // data.
  int block_number = 0;
  uint32_t inside_block = 0;
  const auto look_up = [&](int j) {
    if (thread >= kKeys || j >= num_runs) return;
    const unsigned position = j * kKeys + thread < num_keys ? j * kKeys + thread : 0;
    const unsigned block = position / block_size;
    block_number = args.block_of(seq, block);
    inside_block = kv_head * args.head_units + (position - block * block_size) * args.row_units;
  };
  const auto note_units = [&](int j) {
    if (thread < kKeys) key_units[j % 4][thread] = block_number * args.block_units + inside_block;
  };
  const int piece = thread % kPieces, copy_row = thread / kPieces;
  const bool valid = piece * 8 < head_dim;
  const int piece_bytes = valid ? piece * 16 : 0;
  const int copy_at = PanelMatrix::at(copy_row, piece, kKeyPanel);
  const auto fetch = [&](char* to, const char* piece_of_first, int j) {
    if (j >= num_runs) return;
    const uint32_t* const units = key_units[j % 4] + copy_row;
    to += j % 2 * kRunBytes + copy_at;
#pragma unroll
    for (int n = 0; n < kKeys; n += kCopyRows) {
      copy_async16(to + n * 128, piece_of_first + uint64_t{units[n]} * 16, valid);
    }
  };
  const char* const k_piece = static_cast<const char*>(args.k) + piece_bytes;
  const char* const v_piece = static_cast<const char*>(args.v) + piece_bytes;
  for (int j = 0; j < 3; ++j) {
    look_up(j);
    note_units(j);
  }
  look_up(3);
  wait_for_previous();
  let_next_start();
  __syncthreads();
  for (int row = copy_row; row < kRows; row += kCopyRows) {
    const int r = min(row, rows - 1);
    const BF16* const from = static_cast<const BF16*>(args.q) + args.q_at(seq, t0 + r / group) +
                             (int64_t{kv_head} * group + r % group) * head_dim;
    copy_async16(queries + PanelMatrix::at(row, piece, kQueryPanel),
                 reinterpret_cast<const char*>(from) + piece_bytes, valid);
  }
  fetch(keys, k_piece, 0);
  commit_copies();
  fetch(keys, k_piece, 1);
  fetch(values, v_piece, 0);
  commit_copies();

  float scores[kTiles][4], out[kTiles][4] = {};
  uint32_t weights[kKeys / 16][4];
  float row_max[2] = {-INFINITY, -INFINITY}, row_sum[2] = {}, shrink[2];
  const auto score = [&](int j) {
    const PanelMatrix a(queries + group_row * 128, kQueryPanel);
    const PanelMatrix b(keys + j % 2 * kRunBytes, kKeyPanel);
#pragma unroll
    for (int d = 0; d < kHeadDim / 16; ++d) {
      multiply_shared(scores, a + (d / 4 * kQueryPanel + d % 4 * 32),
                      b + (d / 4 * kKeyPanel + d % 4 * 32), d > 0);
    }
    commit_products();
  };
  const auto sum_values = [&](int j) {
    const PanelMatrix b(values + j % 2 * kRunBytes, kKeyPanel);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) multiply_registers(out, weights[k], b + k * 16 * 128);
    commit_products();
  };
  // Scores of run j become weights, in place; `shrink` is what sums so far are to be multiplied by.
  const auto weigh = [&](int j) {
    if (j * kKeys + kKeys > all_see) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int row = warp_row + i * 8 + g;
        const int sees = (args.causal ? all_see + row / group : num_keys) - j * kKeys - 2 * t;
#pragma unroll
        for (int k = 0; k < kTiles; ++k) {
          if (k * 8 >= sees) scores[k][2 * i] = -INFINITY;
          if (k * 8 + 1 >= sees) scores[k][2 * i + 1] = -INFINITY;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float top = row_max[i];
#pragma unroll
      for (int k = 0; k < kTiles; ++k)
        top = fmaxf(top, fmaxf(scores[k][2 * i], scores[k][2 * i + 1]));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
      top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
      shrink[i] = fast_exp2((row_max[i] - top) * args.score_scale);
      row_max[i] = top;
      const float base = top * args.score_scale;
      float sum = row_sum[i] * shrink[i];
#pragma unroll
      for (int k = 0; k < kTiles; ++k) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          float& x = scores[k][2 * i + c];
          x = fast_exp2(x * args.score_scale - base);
          sum += x;
        }
      }
      row_sum[i] = sum;
    }
  };
  const auto pack = [&] {
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float* const pair = &scores[2 * k + i / 2][2 * (i % 2)];
        weights[k][i] = pack_bf16(pair[0], pair[1]);
      }
    }
  };

  // All come here once a run: copies of the last turn are there, and nobody reads what the next
  // will overwrite.
  const auto turn = [&] {
    wait_copies<0>();
    share_with_products();
    __syncthreads();
  };
  const auto fetch_next = [&](int j) {
    fetch(keys, k_piece, j + 2);
    fetch(values, v_piece, j + 1);
    commit_copies();
    note_units(j + 3);
    look_up(j + 4);
  };
  wait_copies<1>();
  share_with_products();
  __syncthreads();
  if (group_row >= rows) {  // at a tile's end a warpgroup may have no rows: it only copies
    for (int j = 0; j + 1 < num_runs; ++j) {
      turn();
      fetch_next(j);
    }
    turn();
  } else {
    begin_products();
    score(0);
    wait_products<0>();
    weigh(0);
    pack();
    int j = 0;
    for (; j + 1 < num_runs; ++j) {
      turn();
      begin_products();
      score(j + 1);
      sum_values(j);
      fetch_next(j);
      wait_products<1>();
      weigh(j + 1);
      finish(row_sum[0] + row_sum[1]);
      wait_products<0>();
      if (!__all_sync(kAllLanes, shrink[0] == 1 && shrink[1] == 1)) {  // rare after the first runs
#pragma unroll
        for (int d = 0; d < kTiles; ++d) {
          for (int i = 0; i < 4; ++i) out[d][i] *= shrink[i / 2];
        }
      }
      pack();
    }
    turn();
    begin_products();
    sum_values(j);
    wait_products<0>();
  }

  // Results leave through the place of the queries, 16 bytes at a time.
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    float sum = row_sum[i];
    sum += __shfl_xor_sync(kAllLanes, sum, 1);
    sum += __shfl_xor_sync(kAllLanes, sum, 2);
    const float factor = args.value_scale / sum;
#pragma unroll
    for (int d = 0; d < kTiles; ++d) {
      const int row = warp_row + i * 8 + g;
      *reinterpret_cast<uint32_t*>(queries + PanelMatrix::at(row, d, kQueryPanel) + t * 4) =
          pack_bf16(out[d][2 * i] * factor, out[d][2 * i + 1] * factor);
    }
  }
  __syncthreads();
  for (int r = copy_row; r < rows && valid; r += kCopyRows) {
    BF16* const to = static_cast<BF16*>(args.out) + args.out_at(seq, t0 + r / group) +
                     (int64_t{kv_head} * group + r % group) * head_dim + piece * 8;
    *reinterpret_cast<uint4*>(to) =
        *reinterpret_cast<const uint4*>(queries + PanelMatrix::at(r, piece, kQueryPanel));
  }
}

}  // namespace

bool hopper_takes(const AttentionArgs& args, const DeviceInfo& device) {
  return has_warpgroup_products(device.major) && args.cache_dtype == DType::kBF16 &&
         prefill_takes(args) && args.head_dim > 80 && args.num_tokens >= kHopperRows;
}

void hopper_attention(const AttentionArgs& args, Launcher& launcher) {
  AttentionArgs scaled = args;
  scaled.score_scale *= kLog2e;
  const int tokens_a_tile = kRows / args.group;
  LaunchShape shape;
  shape.grid = dim3(most_tiles(args, tokens_a_tile), args.num_kv_heads);
  shape.block = dim3(kThreads);
  shape.shared_bytes = kSharedBytes;
  shape.overlap = true;
  launcher(hopper_kernel, shape, scaled, tokens_a_tile);
}

}  // namespace videre::cuda
