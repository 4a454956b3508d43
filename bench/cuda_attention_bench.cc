// Attention on a card, at the 12B model's sizes (40 query heads over 8 KV heads of 128; the tower's
// 16 of 80): checked against sums in double on a sample of rows, then timed as recorded steps of
// many calls whose block tables move over a cache that L2 cannot hold. Prints GB/s of cache where
// that bounds, TFLOP/s (of what is not masked) where operations do. decode/CACHE/SEQUENCES/CONTEXT,
// prefill/CACHE/SEQUENCES/ROWS/CONTEXT (mma/...: without Hopper's products), append/CACHE/ROWS,
// mixed/DECODING/ROWS/CONTEXT, tiles/TILES.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/cuda/attention.h"
#include "cuda_bench.h"

namespace videre {
namespace {

constexpr int kHeads = 40, kKvHeads = 8, kHeadDim = 128, kBlockSize = 16;
constexpr int64_t kNumBlocks = 24 << 10;  // 0.8 GB of keys and as much of values in bfloat16

/// Normal values on the card, the same ones again after some megabytes.
Tensor random_rows(DType dtype, Shape shape) {
  auto& be = card();
  Tensor out = be.allocate(dtype, shape);
  const int64_t size = static_cast<int64_t>(dtype_size(dtype)), total = shape.numel();
  const int64_t count = std::min<int64_t>(total, (8 << 20) - 1000);
  std::mt19937 generator(static_cast<uint32_t>(total));
  std::normal_distribution<float> normal(0, 1);
  std::vector<uint8_t> bytes(count * size);
  for (int64_t i = 0; i < count; ++i) {
    const float value = normal(generator);
    if (dtype == DType::kBF16) {
      const BF16 bits = to_bf16(value);
      std::memcpy(&bytes[2 * i], &bits, 2);
    } else {
      bytes[i] = float_to_e4m3(value * 10);
    }
  }
  for (int64_t at = 0; at < total; at += count) {
    const int64_t part = std::min(count, total - at);
    be.upload(View(static_cast<char*>(out.view().raw()) + at * size, dtype, Shape{part}),
              bytes.data());
    be.wait(be.submit());
  }
  return out;
}

struct Cache {
  Tensor k, v;
};
const Cache& cache_of(DType dtype) {
  const auto make = [](DType type) {
    const Shape shape{kNumBlocks, kKvHeads, kBlockSize, kHeadDim};
    return Cache{random_rows(type, shape), random_rows(type, shape)};
  };
  static const Cache bf16 = make(DType::kBF16), fp8 = make(DType::kF8E4M3);
  return dtype == DType::kBF16 ? bf16 : fp8;
}

float value_at(const std::vector<uint8_t>& bytes, int64_t i, DType dtype) {
  if (dtype == DType::kF8E4M3) return e4m3_to_float(bytes[i]);
  BF16 bits;
  std::memcpy(&bits, &bytes[2 * i], 2);
  return to_float(bits);
}
struct Piece {
  int length, context;
};

// A step of `pieces`, several times over with block tables that name other blocks.
struct Case {
  DType cache_dtype;
  std::vector<Piece> pieces;
  AttentionParams params{kHeads, kKvHeads, kHeadDim, 0.08838835f};
  Tensor q, k, v, out, lengths, contexts;
  std::vector<Tensor> tables;
  std::vector<std::vector<int32_t>> host_tables;
  StepView step;
  double bytes = 0, operations = 0;  // of the cache read, of products

  Case(DType dtype, std::vector<Piece> pieces_) : cache_dtype(dtype), pieces(std::move(pieces_)) {
    auto& be = card();
    std::vector<int32_t> ends{0}, context;
    int longest = 0;
    double keys = 0;
    for (const Piece& piece : pieces) {
      ends.push_back(ends.back() + piece.length);
      context.push_back(piece.context);
      longest = std::max(longest, piece.length + piece.context);
      keys += piece.length + piece.context;
      operations +=
          4.0 * kHeads * kHeadDim * piece.length * (piece.context + (piece.length + 1) / 2.0);
    }
    if (dtype == DType::kF8E4M3) params.k_scale = params.v_scale = 0.1f;
    bytes = keys * 2 * kKvHeads * kHeadDim * static_cast<double>(dtype_size(dtype));
    step.num_tokens = ends.back();
    step.num_seqs = static_cast<int>(pieces.size());
    step.max_blocks = (longest + kBlockSize - 1) / kBlockSize;
    const auto upload = [&](const std::vector<int32_t>& values) {
      Tensor tensor = be.allocate(DType::kI32, Shape{static_cast<int64_t>(values.size())});
      be.upload(tensor, values.data());
      be.wait(be.submit());
      return tensor;
    };
    lengths = upload(ends);
    contexts = upload(context);
    step.cu_seqlens = lengths.view().data<int32_t>();
    step.context_lens = contexts.view().data<int32_t>();
    const int copies = static_cast<int>(std::clamp(4e8 / bytes, 1.0, 60.0));
    std::vector<int32_t> order(kNumBlocks - 1);
    for (int64_t i = 0; i < kNumBlocks - 1; ++i) order[i] = static_cast<int32_t>(i + 1);
    std::shuffle(order.begin(), order.end(), std::mt19937(5));
    size_t at = 0;
    for (int copy = 0; copy < copies; ++copy) {
      std::vector<int32_t> table;
      for (int64_t i = 0; i < int64_t{step.num_seqs} * step.max_blocks; ++i) {
        table.push_back(order[at++ % order.size()]);
      }
      tables.push_back(upload(table));
      host_tables.push_back(table);
    }
    q = random_rows(DType::kBF16, Shape{step.num_tokens, kHeads * kHeadDim});
    k = random_rows(DType::kBF16, Shape{step.num_tokens, kKvHeads * kHeadDim});
    v = random_rows(DType::kBF16, Shape{step.num_tokens, kKvHeads * kHeadDim});
    out = be.allocate(DType::kBF16, Shape{step.num_tokens, kHeads * kHeadDim});
  }
  StepView view(int i) const {
    StepView with = step;
    with.block_tables = tables[i % tables.size()].view().data<int32_t>();
    return with;
  }
  void attend(int i) {
    const Cache& cache = cache_of(cache_dtype);
    card().paged_attention(out, q, cache.k, cache.v, params, view(i));
  }
  // By the kernel that is not Hopper's.
  void attend_plainly(int i) {
    const Cache& cache = cache_of(cache_dtype);
    const StepView with = view(i);
    cuda::AttentionArgs args;
    args.q = q.view().raw(), args.out = out.view().raw();
    args.k = cache.k.view().raw(), args.v = cache.v.view().raw();
    args.q_row = args.out_row = kHeads * kHeadDim;
    args.cache_dtype = cache_dtype;
    args.row_units = kHeadDim * static_cast<uint32_t>(dtype_size(cache_dtype)) / 16;
    args.head_units = args.row_units * kBlockSize;
    args.block_units = args.head_units * kKvHeads;
    args.cu_seqlens = with.cu_seqlens, args.context_lens = with.context_lens;
    args.block_tables = with.block_tables;
    args.num_seqs = with.num_seqs, args.num_tokens = with.num_tokens,
    args.max_blocks = with.max_blocks;
    args.block_size = kBlockSize, args.num_kv_heads = kKvHeads, args.group = kHeads / kKvHeads;
    args.head_dim = kHeadDim;
    args.score_scale = params.scale * params.k_scale, args.value_scale = params.v_scale;
    cuda::prefill_attention(args, card().launcher());
  }
  void append(int i) {
    const Cache& cache = cache_of(cache_dtype);
    card().append_kv(cache.k, cache.v, k, v, params, view(i));
  }

  // The last row of a few sequences, a few of its heads, after attend(0).
  bool right() const {
    const Cache& cache = cache_of(cache_dtype);
    const double k_scale = params.k_scale, v_scale = params.v_scale;
    const int64_t line = kBlockSize * kHeadDim;
    int first = 0;
    for (size_t seq = 0; seq < pieces.size(); first += pieces[seq++].length) {
      if (seq % 37 != 0 && seq + 1 != pieces.size()) continue;
      const int row = first + pieces[seq].length - 1,
                head = static_cast<int>(seq * 13 + 7) % kHeads;
      const int keys = pieces[seq].context + pieces[seq].length,
                kv_head = head / (kHeads / kKvHeads);
      const auto part = [&](const Tensor& rows) {
        const int64_t begin = head * kHeadDim;
        return bytes_of(rows.view()[row].columns(begin, begin + kHeadDim));
      };
      const std::vector<uint8_t> query = part(q), got = part(out);
      std::vector<double> scores, sums(kHeadDim, 0.0);
      std::vector<std::vector<uint8_t>> values;
      for (int key = 0; key < keys; key += kBlockSize) {
        const int64_t block = host_tables[0][seq * step.max_blocks + key / kBlockSize];
        const auto lines = [&](const Tensor& all) {
          return bytes_of(View(static_cast<char*>(all.view().raw()) +
                                   (block * kKvHeads + kv_head) * line * dtype_size(cache_dtype),
                               cache_dtype, Shape{line}));
        };
        const std::vector<uint8_t> keys_here = lines(cache.k);
        values.push_back(lines(cache.v));
        for (int i = 0; i < std::min(kBlockSize, keys - key); ++i) {
          double score = 0;
          for (int d = 0; d < kHeadDim; ++d) {
            score += double{value_at(query, d, DType::kBF16)} *
                     value_at(keys_here, i * kHeadDim + d, cache_dtype);
          }
          scores.push_back(score * k_scale * params.scale);
        }
      }
      const double top = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - top);
      for (int key = 0; key < keys; ++key) {
        for (int d = 0; d < kHeadDim; ++d) {
          sums[d] += scores[key] * value_at(values[key / kBlockSize],
                                            key % kBlockSize * kHeadDim + d, cache_dtype);
        }
      }
      for (int d = 0; d < kHeadDim; ++d) {
        const double expected = sums[d] / total * v_scale;
        if (!(std::abs(value_at(got, d, DType::kBF16) - expected) <=
              4e-3 + 8e-3 * std::abs(expected))) {
          std::fprintf(stderr, "sequence %zu, head %d, dim %d: %g, expected %g\n", seq, head, d,
                       value_at(got, d, DType::kBF16), expected);
          return false;
        }
      }
    }
    return true;
  }
};

void attention(benchmark::State& state, DType dtype, const std::vector<Piece>& pieces,
               bool plainly) {
  Case c(dtype, pieces);
  const auto attend = [&](int i) { plainly ? c.attend_plainly(i) : c.attend(i); };
  attend(0);
  if (!c.right()) return state.SkipWithError("wrong result");
  const int calls =
      static_cast<int>(std::clamp(4e-3 / (c.bytes / 4e12 + c.operations / 4e14), 4.0, 120.0));
  const auto seconds = measure(state, calls, attend);
  if (!seconds) return;
  state.counters["GB/s"] = c.bytes / *seconds / 1e9;
  state.counters["TFLOP/s"] = c.operations / *seconds / 1e12;
}

void append(benchmark::State& state, DType dtype, int rows, bool decoding) {
  std::vector<Piece> pieces(decoding ? rows : 1, {decoding ? 1 : rows, 512});
  Case c(dtype, pieces);
  const auto seconds = measure(state, 60, [&](int i) { c.append(i); });
  if (!seconds) return;
  state.counters["GB/s"] = rows * 2.0 * kKvHeads * kHeadDim *
                           (2.0 + static_cast<double>(dtype_size(dtype))) / *seconds / 1e9;
}

void tiles(benchmark::State& state, int count) {
  constexpr int kTokens = 1034, kTowerHeads = 16, kTowerDim = 80, kWidth = kTowerHeads * kTowerDim;
  const Tensor qkv = random_rows(DType::kBF16, Shape{count, kTokens, 3 * kWidth});
  const Tensor out = card().allocate(DType::kBF16, Shape{count, kTokens, kWidth});
  const auto seconds =
      measure(state, 20, [&](int) { card().full_attention(out, qkv, kTowerHeads, 0.1118034f); });
  if (!seconds) return;
  const std::vector<uint8_t> in = bytes_of(qkv.view()[count - 1]);
  const int token = kTokens - 1, head = 5;
  const auto part = [&](int row, int which, int d) -> double {
    return value_at(in, int64_t{row} * 3 * kWidth + which * kWidth + head * kTowerDim + d,
                    DType::kBF16);
  };
  std::vector<double> sums(kTowerDim, 0.0);
  double total = 0;
  for (int key = 0; key < kTokens; ++key) {
    double score = 0;
    for (int d = 0; d < kTowerDim; ++d) score += part(token, 0, d) * part(key, 1, d);
    const double weight = std::exp(score * 0.1118034 - 10);
    total += weight;
    for (int d = 0; d < kTowerDim; ++d) sums[d] += weight * part(key, 2, d);
  }
  const std::vector<uint8_t> got = bytes_of(out.view()[count - 1][token]);
  for (int d = 0; d < kTowerDim; ++d) {
    if (std::abs(value_at(got, head * kTowerDim + d, DType::kBF16) - sums[d] / total) > 5e-3) {
      return state.SkipWithError("wrong result");
    }
  }
  state.counters["TFLOP/s"] = 4.0 * kWidth * kTokens * kTokens * count / *seconds / 1e12;
}

void register_all() {
  const auto timed = [](benchmark::internal::Benchmark* bench) {
    bench->UseManualTime()->Unit(benchmark::kMicrosecond)->Iterations(10);
  };
  const auto add = [&](const std::string& name, DType dtype, const std::vector<Piece>& pieces) {
    timed(benchmark::RegisterBenchmark(name.c_str(), attention, dtype, pieces,
                                       name.rfind("mma/", 0) == 0));
  };
  for (const auto& [cache, dtype] :
       {std::pair{"bf16/", DType::kBF16}, std::pair{"fp8/", DType::kF8E4M3}}) {
    for (const auto& [sequences, context] : {std::pair{1, 256},
                                             {1, 2048},
                                             {1, 32768},
                                             {1, 131072},
                                             {8, 2048},
                                             {32, 2048},
                                             {128, 2048},
                                             {128, 100},
                                             {64, 1000}}) {
      std::vector<Piece> pieces(sequences, {1, context - 1});
      add("decode/" + std::string(cache) + std::to_string(sequences) + "/" +
              std::to_string(context),
          dtype, pieces);
    }
    for (const auto& [sequences, rows, context] : {std::tuple{1, 8192, 0},
                                                   {4, 8192, 0},
                                                   {1, 2048, 30720},
                                                   {1, 512, 7680},
                                                   {16, 512, 0},
                                                   {128, 64, 0}}) {
      std::vector<Piece> pieces(sequences, {rows, context});
      add("prefill/" + std::string(cache) + std::to_string(sequences) + "/" + std::to_string(rows) +
              "/" + std::to_string(context),
          dtype, pieces);
    }
    for (const int rows : {1, 128, 8192}) {
      timed(benchmark::RegisterBenchmark(
          ("append/" + std::string(cache) + std::to_string(rows)).c_str(), append, dtype, rows,
          rows < 1000));
    }
  }
  for (const int context : {0, 24576}) {
    add("mma/bf16/1/8192/" + std::to_string(context), DType::kBF16, {{8192, context}});
    add("prefill/bf16/1/8192/" + std::to_string(context) + "/again", DType::kBF16,
        {{8192, context}});
  }
  std::vector<Piece> lengths, mixed{{2048, 0}};
  for (int i = 0; i < 128; ++i) lengths.push_back({1, 100 + i * i / 4});
  for (int i = 0; i < 127; ++i) mixed.push_back({1, 2000});
  add("decode/bf16/uneven", DType::kBF16, lengths);
  add("mixed/127/2048/2000", DType::kBF16, mixed);
  for (const int count : {1, 4, 13}) {
    timed(benchmark::RegisterBenchmark(("tiles/" + std::to_string(count)).c_str(), tiles, count));
  }
}

}  // namespace
}  // namespace videre

int main(int argc, char** argv) {
  videre::register_all();
  return videre::run_benchmarks(argc, argv);
}
