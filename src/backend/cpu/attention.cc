// Attention as tiles of query rows against runs of keys with an online softmax, in float: of pages
// for the language model, of whole tiles for the vision tower. Query heads that share a KV head
// share its tile, so a run of the cache is widened once for all of them.
#include <algorithm>
#include <cstring>
#include <limits>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {
namespace {

constexpr int64_t kKeys = 64;      // keys at a time: K and V of 128 floats fill 64 KiB
constexpr int64_t kTileRows = 48;  // query rows (token, head) of a tile: 4 register tiles

// Scratch of one tile.
struct Tile {
  float* q;       // [rows, dp]
  float* out;     // [rows, dp], not yet divided
  float* scores;  // [rows, kKeys]
  float* keys;    // [kKeys, dp]
  float* keys_t;  // [head_dim, kKeys]
  float* values;  // [kKeys, dp]
  float* max;     // [rows]
  float* sum;     // [rows]
  int64_t dp;

  static int64_t floats(int64_t rows, int64_t dp) {
    return rows * (2 * dp + kKeys + 2) + kKeys * 3 * dp;
  }
  Tile(float* memory, int64_t rows, int64_t padded) : dp(padded) {
    const auto take = [&](int64_t floats) {
      float* part = memory;
      memory += floats;
      return part;
    };
    q = take(rows * dp);
    out = take(rows * dp);
    scores = take(rows * kKeys);
    keys = take(kKeys * dp);
    keys_t = take(kKeys * dp);
    values = take(kKeys * dp);
    max = take(rows);
    sum = take(rows);
  }
  void start(int64_t rows) {
    std::memset(out, 0, rows * dp * sizeof(float));
    std::fill(max, max + rows, -std::numeric_limits<float>::infinity());
    std::fill(sum, sum + rows, 0.0f);
  }
};

void fetch(const char* from, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) __builtin_prefetch(from + i, 0, 3);
}

// Scores of all rows against `count` keys, which are turned so that a vector holds many of them.
void score_many(const Kernels& kernels, Tile& tile, int64_t rows, int64_t count, int64_t head_dim) {
  const int64_t padded = pad_up(count);
  kernels.transpose(tile.keys_t, kKeys, tile.keys, tile.dp, count, head_dim);
  for (int64_t i = count; i < padded; ++i) {
    for (int64_t k = 0; k < head_dim; ++k) tile.keys_t[k * kKeys + i] = 0;
  }
  kernels.gemm(rows, padded, head_dim, tile.q, tile.dp, 1, tile.keys_t, kKeys, tile.scores, kKeys,
               false);
}

// Takes `count` scored keys, of which row r sees the first visible(r). The pads of `values` are
// zero.
template <typename Visible>
void take_keys(const Kernels& kernels, Tile& tile, int64_t rows, int64_t count, float scale,
               Visible&& visible) {
  for (int64_t r = 0; r < rows; ++r) {
    float* scores = tile.scores + r * kKeys;
    const int64_t seen = std::clamp<int64_t>(visible(r), 0, count);
    const float correction =
        seen == 0 ? 1.0f : kernels.softmax_block(scores, seen, scale, &tile.max[r], &tile.sum[r]);
    std::fill(scores + seen, scores + count, 0.0f);
    if (correction != 1.0f) kernels.scale(tile.out + r * tile.dp, correction, tile.dp);
  }
  kernels.gemm(rows, tile.dp, count, tile.scores, kKeys, 1, tile.values, tile.dp, tile.out, tile.dp,
               true);
}

}  // namespace

void CpuBackend::do_append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                              const AttentionParams& params, const StepView& step) {
  const int64_t block_size = k_cache.dim(2), head_dim = params.head_dim;
  const int64_t cache_size = static_cast<int64_t>(dtype_size(k_cache.dtype()));
  const int64_t size = static_cast<int64_t>(dtype_size(k.dtype()));
  const bool scaled = k_cache.dtype() == DType::kF8E4M3;
  pool_.parallel_for(step.num_seqs, 1, [&](int64_t begin, int64_t end, int worker) {
    float* line = scratch(worker, pad_up(head_dim));
    for (int64_t seq = begin; seq < end; ++seq) {
      const int64_t first = step.cu_seqlens[seq], length = step.cu_seqlens[seq + 1] - first;
      for (int64_t t = 0; t < length; ++t) {
        const int64_t position = step.context_lens[seq] + t;
        const int64_t block = step.block_tables[seq * step.max_blocks + position / block_size];
        for (int head = 0; head < params.num_kv_heads; ++head) {
          const auto put = [&](View cache, ConstView from, float scale) {
            kernels_.widen(line, row_at(from, first + t) + head * head_dim * size, from.dtype(),
                           head_dim);
            if (scaled) kernels_.scale(line, 1.0f / scale, head_dim);
            char* to = static_cast<char*>(cache.raw()) +
                       (block * cache.stride(0) + head * cache.stride(1) +
                        position % block_size * cache.stride(2)) *
                           cache_size;
            kernels_.narrow(to, line, cache.dtype(), head_dim);
          };
          put(k_cache, k, params.k_scale);
          put(v_cache, v, params.v_scale);
        }
      }
    }
  });
}

void CpuBackend::do_paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                                    const AttentionParams& params, const StepView& step) {
  const int64_t block_size = k_cache.dim(2), head_dim = params.head_dim, dp = pad_up(head_dim);
  const int64_t group = params.num_heads / params.num_kv_heads;
  const int64_t tokens_a_tile = std::max<int64_t>(1, kTileRows / group);
  const int64_t max_rows = tokens_a_tile * group;
  const int64_t cache_size = static_cast<int64_t>(dtype_size(k_cache.dtype()));
  const int64_t q_size = static_cast<int64_t>(dtype_size(q.dtype()));
  const int64_t out_size = static_cast<int64_t>(dtype_size(out.dtype()));
  const bool scaled = k_cache.dtype() == DType::kF8E4M3;
  const float score_scale = params.scale * (scaled ? params.k_scale : 1.0f);
  const float value_scale = scaled ? params.v_scale : 1.0f;

  // A sequence has ceil(length / tile) tiles; tasks are found by walking the lengths, which costs
  // less than it would to store them.
  int64_t num_tiles = 0;
  for (int seq = 0; seq < step.num_seqs; ++seq) {
    const int64_t length = step.cu_seqlens[seq + 1] - step.cu_seqlens[seq];
    num_tiles += (length + tokens_a_tile - 1) / tokens_a_tile;
  }
  const int64_t kv_heads = params.num_kv_heads;
  pool_.parallel_for(num_tiles * kv_heads, 1, [&](int64_t begin, int64_t end, int worker) {
    Tile tile(scratch(worker, Tile::floats(max_rows, dp)), max_rows, dp);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t kv_head = task % kv_heads;
      int64_t index = task / kv_heads, seq = 0, length = 0;
      for (;; ++seq) {
        length = step.cu_seqlens[seq + 1] - step.cu_seqlens[seq];
        const int64_t tiles = (length + tokens_a_tile - 1) / tokens_a_tile;
        if (index < tiles) break;
        index -= tiles;
      }
      const int64_t t0 = index * tokens_a_tile, tokens = std::min(tokens_a_tile, length - t0);
      const int64_t row0 = step.cu_seqlens[seq] + t0, rows = tokens * group;
      const int64_t context = step.context_lens[seq] + t0;  // keys before the tile's first token
      const int32_t* table = step.block_tables + seq * step.max_blocks;
      tile.start(rows);
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t head = kv_head * group + r % group;
        kernels_.widen(tile.q + r * dp, row_at(q, row0 + r / group) + head * head_dim * q_size,
                       q.dtype(), head_dim);
      }
      const int64_t num_keys = context + tokens;
      const auto cached = [&](const ConstView& cache, int64_t at) {
        return static_cast<const char*>(cache.raw()) +
               (table[at / block_size] * cache.stride(0) + kv_head * cache.stride(1) +
                at % block_size * cache.stride(2)) *
                   cache_size;
      };
      for (int64_t k0 = 0; k0 < num_keys; k0 += kKeys) {
        const int64_t count = std::min(kKeys, num_keys - k0);
        if (length == 1 && !scaled && k_cache.dtype() != DType::kF16) {
          // Decoding: too few rows to turn keys for; products of whole rows, straight from the
          // cache.
          DotTask<float> dot{};
          dot.out_row = kKeys;
          dot.x = tile.q;
          dot.x_row = dp;
          dot.m = rows;
          dot.weight_row = k_cache.stride(2) * cache_size;
          dot.format = k_cache.dtype() == DType::kBF16 ? RowFormat::kBF16 : RowFormat::kF32;
          dot.k = head_dim;
          for (int64_t at = k0; at < k0 + count; at += dot.n) {
            dot.n = std::min(block_size - at % block_size, k0 + count - at);
            dot.out = tile.scores + (at - k0);
            dot.weight = cached(k_cache, at);
            if (at + 2 * block_size <
                num_keys) {  // blocks lie apart: nothing else fetches the next ones
              fetch(cached(k_cache, at + 2 * block_size), dot.n * dot.weight_row);
              fetch(cached(v_cache, at + 2 * block_size), dot.n * dot.weight_row);
            }
            kernels_.dot(dot);
          }
        } else {
          for (int64_t i = 0; i < count; ++i) {
            kernels_.widen(tile.keys + i * dp, cached(k_cache, k0 + i), k_cache.dtype(), head_dim);
          }
          score_many(kernels_, tile, rows, count, head_dim);
        }
        for (int64_t i = 0; i < count; ++i) {
          kernels_.widen(tile.values + i * dp, cached(v_cache, k0 + i), v_cache.dtype(), head_dim);
          std::fill(tile.values + i * dp + head_dim, tile.values + (i + 1) * dp, 0.0f);
        }
        take_keys(kernels_, tile, rows, count, score_scale,
                  [&](int64_t r) { return context + r / group + 1 - k0; });
      }
      for (int64_t r = 0; r < rows; ++r) {
        const int64_t head = kv_head * group + r % group;
        kernels_.scale(tile.out + r * dp, value_scale / tile.sum[r], head_dim);
        kernels_.narrow(row_at(out, row0 + r / group) + head * head_dim * out_size,
                        tile.out + r * dp, out.dtype(), head_dim);
      }
    }
  });
}

void CpuBackend::do_full_attention(View out, ConstView qkv, int num_heads, float scale) {
  const int64_t tiles = qkv.dim(0), tokens = qkv.dim(1), width = qkv.dim(2) / 3;
  const int64_t head_dim = width / num_heads, dp = pad_up(head_dim);
  const int64_t runs = (tokens + kTileRows - 1) / kTileRows;
  const int64_t size = static_cast<int64_t>(dtype_size(qkv.dtype()));
  const int64_t out_size = static_cast<int64_t>(dtype_size(out.dtype()));
  pool_.parallel_for(tiles * num_heads * runs, 1, [&](int64_t begin, int64_t end, int worker) {
    Tile tile(scratch(worker, Tile::floats(kTileRows, dp)), kTileRows, dp);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t run = task % runs, head = task / runs % num_heads;
      const int64_t first = task / runs / num_heads * tokens;
      const int64_t t0 = run * kTileRows, rows = std::min(kTileRows, tokens - t0);
      const auto part = [&](int64_t token, int64_t which) {
        return row_at(qkv, first + token) + (which * width + head * head_dim) * size;
      };
      tile.start(rows);
      for (int64_t r = 0; r < rows; ++r) {
        kernels_.widen(tile.q + r * dp, part(t0 + r, 0), qkv.dtype(), head_dim);
      }
      for (int64_t k0 = 0; k0 < tokens; k0 += kKeys) {
        const int64_t count = std::min(kKeys, tokens - k0);
        for (int64_t i = 0; i < count; ++i) {
          kernels_.widen(tile.keys + i * dp, part(k0 + i, 1), qkv.dtype(), head_dim);
          kernels_.widen(tile.values + i * dp, part(k0 + i, 2), qkv.dtype(), head_dim);
          std::fill(tile.values + i * dp + head_dim, tile.values + (i + 1) * dp, 0.0f);
        }
        score_many(kernels_, tile, rows, count, head_dim);
        take_keys(kernels_, tile, rows, count, scale, [&](int64_t) { return count; });
      }
      for (int64_t r = 0; r < rows; ++r) {
        kernels_.scale(tile.out + r * dp, 1.0f / tile.sum[r], head_dim);
        kernels_.narrow(row_at(out, first + t0 + r) + head * head_dim * out_size, tile.out + r * dp,
                        out.dtype(), head_dim);
      }
    }
  });
}

}  // namespace videre::cpu
