// What the attention kernels share: one struct of arguments for paged and dense keys, and how
// blocks find their part of a batch on the device. attention.cu checks and chooses;
// attention_plain.cu computes anything in float, attention_decode.cu, attention_prefill.cu and
// attention_hopper.cu are the fast ways of bfloat16.
#pragma once

#include "backend/cuda/kernel.h"
#include "backend/cuda/launcher.h"

namespace videre::cuda {

/// Keys and values [blocks, kv_heads, block_size, head_dim] behind block tables; or, without tables
/// (`block_tables` and `cu_seqlens` null), one block of `block_size` rows a sequence, all of them
/// queries too.
struct AttentionArgs {
  const void* q = nullptr;
  void* out = nullptr;
  const void* k = nullptr;
  const void* v = nullptr;
  // In elements. Query row t of sequence s is at (cu_seqlens[s] + t) * q_row, without cu_seqlens at
  // s * q_seq + t * q_row.
  int64_t q_row = 0, q_seq = 0, out_row = 0, out_seq = 0;
  int64_t k_block = 0, k_head = 0, k_row = 0, v_block = 0, v_head = 0, v_row = 0;
  DType cache_dtype = DType::kF32;
  // The same of keys and values alike, in units of 16 bytes, for the fast ways.
  uint32_t block_units = 0, head_units = 0, row_units = 0;

  const int32_t* cu_seqlens = nullptr;
  const int32_t* context_lens = nullptr;
  const int32_t* block_tables = nullptr;
  int num_seqs = 0, num_tokens = 0, max_blocks = 0, block_size = 1;

  int num_kv_heads = 1, group = 1, head_dim = 1;  // `group` query heads read one KV head
  bool causal = true;
  float score_scale = 1, value_scale = 1;
  // Sequences of fewer or more rows than these are left to another kernel.
  int min_rows = 1, max_rows = 0x7fffffff;

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  __device__ __forceinline__ int rows_of(int seq) const {
    return cu_seqlens == nullptr ? block_size : cu_seqlens[seq + 1] - cu_seqlens[seq];
  }
  __device__ __forceinline__ bool takes(int rows) const {
    return rows >= min_rows && rows <= max_rows;
  }
  __device__ __forceinline__ int context_of(int seq) const {
    return cu_seqlens == nullptr ? 0 : context_lens[seq];
  }
  __device__ __forceinline__ int64_t q_at(int seq, int row) const {
    return cu_seqlens == nullptr ? seq * q_seq + row * q_row
                                 : (int64_t{cu_seqlens[seq]} + row) * q_row;
  }
  __device__ __forceinline__ int64_t out_at(int seq, int row) const {
    return cu_seqlens == nullptr ? seq * out_seq + row * out_row
                                 : (int64_t{cu_seqlens[seq]} + row) * out_row;
  }
  __device__ __forceinline__ int block_of(int seq, int index) const {
    return block_tables == nullptr ? seq : block_tables[int64_t{seq} * max_blocks + index];
  }
#endif
};

/// Tiles of so many tokens that the sequences of a step can have at most, of those that `args`
/// takes.
inline int64_t most_tiles(const AttentionArgs& args, int tokens_a_tile) {
  const int64_t tokens = args.num_tokens;
  const int64_t sequences =
      tokens / args.min_rows < args.num_seqs ? tokens / args.min_rows : args.num_seqs;
  return tokens / tokens_a_tile + sequences > 0 ? tokens / tokens_a_tile + sequences : 1;
}

constexpr float kLog2e = 1.4426950408889634f;

// Each queues its kernels.
void plain_attention(const AttentionArgs& args, DType dtype, const DeviceInfo& device,
                     Launcher& launcher);
bool prefill_takes(const AttentionArgs& args);
void prefill_attention(const AttentionArgs& args, Launcher& launcher);
/// Rows of a step from which Hopper's way pays: its runs are longer and a multiprocessor has one
/// block.
constexpr int kHopperRows = 256;
bool hopper_takes(const AttentionArgs& args, const DeviceInfo& device);
void hopper_attention(const AttentionArgs& args, Launcher& launcher);
bool decode_takes(const AttentionArgs& args);
int64_t decode_scratch_bytes(const AttentionArgs& args, const DeviceInfo& device);
void decode_attention(const AttentionArgs& args, void* scratch, const DeviceInfo& device,
                      Launcher& launcher);

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

/// A thread's run of sequences [first, last): what `count` sums to before it, in it and over all.
struct SeqRun {
  int first, last, before, own, total;
};
/// By all kThreads threads of a block; `shared` holds kThreads / 32 ints.
template <int kThreads, typename Count>
__device__ __forceinline__ SeqRun sum_sequences(int num_seqs, Count&& count, int* shared) {
  const int thread = threadIdx.x, lane = thread % kWarp, warp = thread / kWarp;
  const int run = (num_seqs + kThreads - 1) / kThreads;
  SeqRun out;
  out.first = min(thread * run, num_seqs);
  out.last = min(out.first + run, num_seqs);
  out.own = 0;
  for (int seq = out.first; seq < out.last; ++seq) out.own += count(seq);
  int sum = out.own;
  for (int step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  if (lane == kWarp - 1) shared[warp] = sum;
  __syncthreads();
  out.before = sum - out.own;
  out.total = 0;
  for (int i = 0; i < kThreads / kWarp; ++i) {
    if (i < warp) out.before += shared[i];
    out.total += shared[i];
  }
  __syncthreads();
  return out;
}
/// The sequence in which `index` (of all counts, one after another) lies, and where in it: {seq,
/// rest}. `index` < total; `shared` holds 2 ints.
template <typename Count>
__device__ __forceinline__ int2 find_sequence(const SeqRun& run, int index, Count&& count,
                                              int* shared) {
  if (index >= run.before && index < run.before + run.own) {
    int rest = index - run.before, seq = run.first;
    for (int here = count(seq); rest >= here; here = count(++seq)) rest -= here;
    shared[0] = seq;
    shared[1] = rest;
  }
  __syncthreads();
  return make_int2(shared[0], shared[1]);
}

/// What a block of a prompt's attention has: some tokens of a sequence, by the heads of one KV
/// head.
struct PromptTile {
  int seq, t0, rows;  // tokens of the sequence from t0 on, a row for each of the group's heads
  int num_keys;       // that any row sees
  int all_see;        // that every row sees
};
/// The block's tile, of all that `args` takes; no rows where there are fewer tiles than blocks. The
/// ends of prompts come first: they see most keys.
template <int kThreads>
__device__ __forceinline__ PromptTile prompt_tile(const AttentionArgs& args, int tokens_a_tile) {
  __shared__ int warp_sums[kThreads / kWarp], found[2];
  const auto tiles_of = [&](int s) {
    const int rows = args.rows_of(s);
    return args.takes(rows) ? (rows + tokens_a_tile - 1) / tokens_a_tile : 0;
  };
  const SeqRun run = sum_sequences<kThreads>(args.num_seqs, tiles_of, warp_sums);
  const int index = run.total - 1 - static_cast<int>(blockIdx.x);
  PromptTile tile{};
  if (index < 0) return tile;
  const int2 place = find_sequence(run, index, tiles_of, found);
  tile.seq = place.x;
  tile.t0 = place.y * tokens_a_tile;
  const int length = args.rows_of(tile.seq), context = args.context_of(tile.seq),
            tokens = min(tokens_a_tile, length - tile.t0);
  tile.rows = tokens * args.group;
  tile.num_keys = args.causal ? context + tile.t0 + tokens : length;
  tile.all_see = args.causal ? context + tile.t0 + 1 : tile.num_keys;
  return tile;
}

/// 16-byte chunk `chunk` of row `row` in shared memory whose rows are kChunks chunks long: laid so
/// that 8 rows' same chunk, and 8 chunks of a row, lie in different banks. In chunks.
template <int kChunks>
struct SharedRows {
  static constexpr int kPitch = kChunks % 8 == 0 ? kChunks : kChunks | 1;
  __device__ static __forceinline__ int at(int row, int chunk) {
    return row * kPitch + (kChunks % 8 == 0 ? chunk ^ (row & 7) : chunk);
  }
};

#endif

}  // namespace videre::cuda
