// Attention over pages and over whole tiles, and what writes the pages, key by key in double on
// every device: odd sizes, block edges, mixed steps, padding, fp8 caches, the aligned layouts that
// the model uses and others.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>

#include "backend/testing.h"

namespace videre::testing {
namespace {

struct Shapes {
  int heads, kv_heads, head_dim, block_size;
  DType cache = DType::kF32;
};
struct Piece {
  int length, context;
};

// Lengths past a tile of rows and a run of keys; contexts that end inside a block.
const std::vector<Piece> kMixed{{70, 0}, {1, 130}, {0, 0}, {1, 0}, {9, 61}, {3, 64}};
// One row each: contexts at the edges of blocks and tiles of keys.
const std::vector<Piece> kDecode{{1, 15}, {1, 0},  {1, 16}, {1, 63},  {1, 64}, {0, 0},
                                 {1, 65}, {1, 31}, {1, 1},  {1, 127}, {1, 300}};
const std::vector<Piece> kPrefill{{130, 7}, {5, 0}, {26, 128}, {64, 64}};

// Enough rows for kernels of long steps.
const std::vector<Piece> kLong{{150, 7}, {5, 0}, {26, 128}, {1, 300}, {64, 64}, {41, 260}};

class Attention : public ::testing::TestWithParam<std::pair<std::string, DType>> {
 protected:
  Attention() : be_(make_backend(GetParam().first)) {}
  DType dtype() const { return GetParam().second; }
  bool on_cuda() const { return GetParam().first == "emulated" || GetParam().first == "cuda"; }

  // Of many layouts and shapes to be tried; elsewhere one way serves all.
  bool has_fast_ways() const { return on_cuda() && dtype() == DType::kBF16; }
  // On tensor cores the weights of values are rounded to 16 bits: values are normal, so an error of
  // half a bfloat16 step in each shows in the third digit at most.
  double tolerance(bool aligned, DType cache) const {
    const bool rounded =
        has_fast_ways() && aligned && (cache == DType::kBF16 || cache == DType::kF8E4M3);
    return rounded ? 6e-3 : 1e-5;
  }

  // Appends and attends one step of `pieces`; `aligned` puts rows where the model puts them.
  // `pad_seqs` follow.
  void check(const Shapes& shape, const std::vector<Piece>& pieces, bool aligned, int pad_rows,
             int pad_seqs, uint32_t seed);

  std::unique_ptr<Backend> be_;
};

// A view that owns its memory: an island, or contiguous.
class Rows {
 public:
  Rows(DType dtype, Shape shape, const std::vector<float>& values, bool aligned)
      : aligned_(aligned), island_(dtype, shape, values) {
    if (aligned) tensor_ = make_tensor(dtype, shape, values);
  }
  View view() const { return aligned_ ? tensor_.view() : island_.view(); }
  operator View() const { return view(); }       // NOLINT
  operator ConstView() const { return view(); }  // NOLINT
  std::vector<float> values() const { return values_of(view()); }
  bool untouched_around() const { return aligned_ || island_.untouched_around(); }

 private:
  bool aligned_;
  Island island_;
  Tensor tensor_;
};

void Attention::check(const Shapes& shape, const std::vector<Piece>& pieces, bool aligned,
                      int pad_rows, int pad_seqs, uint32_t seed) {
  const auto [heads, kv_heads, head_dim, block_size, cache_dtype] = shape;
  const std::string what = std::to_string(heads) + " heads of " + std::to_string(head_dim) +
                           " over " + std::to_string(kv_heads) + ", blocks of " +
                           std::to_string(block_size) + ", " +
                           std::string(dtype_name(cache_dtype)) + (aligned ? ", aligned" : "");
  int longest = 1;
  for (const Piece& piece : pieces) longest = std::max(longest, piece.length + piece.context);
  const int max_blocks = (longest + block_size - 1) / block_size;
  const int num_blocks = 1 + max_blocks * static_cast<int>(pieces.size());
  AttentionParams params{heads, kv_heads, head_dim, 0.3f};
  const bool scaled = cache_dtype == DType::kF8E4M3;
  if (scaled) params.k_scale = 0.02f, params.v_scale = 0.03f;
  StepArrays step(max_blocks);
  std::vector<std::vector<int32_t>> tables;
  std::vector<int32_t> order(num_blocks - 1);
  for (int i = 0; i < num_blocks - 1; ++i) order[i] = 1 + i;
  std::shuffle(order.begin(), order.end(), std::mt19937(seed));
  for (size_t i = 0; i < pieces.size(); ++i) {
    tables.emplace_back(order.begin() + i * max_blocks, order.begin() + (i + 1) * max_blocks);
    // Past its last block a table may hold anything.
    std::vector<int32_t> given = tables[i];
    const int used = (pieces[i].length + pieces[i].context + block_size - 1) / block_size;
    std::fill(given.begin() + used, given.end(), 0x7fffffff);
    step.add(pieces[i].length, pieces[i].context, kNoSlot, 0, given);
  }
  const int rows = step.num_rows(), all = rows + pad_rows;
  const auto random = [&](int64_t width) {
    return Rows(dtype(), Shape{all, width}, random_values(all * width, ++seed), aligned);
  };
  const Rows q = random(int64_t{heads} * head_dim), k = random(int64_t{kv_heads} * head_dim);
  const Rows v = random(int64_t{kv_heads} * head_dim);
  const Rows out(dtype(), Shape{all, int64_t{heads} * head_dim},
                 std::vector<float>(int64_t{all} * heads * head_dim, 7), aligned);
  const Shape cache_shape{num_blocks, kv_heads, block_size, head_dim};
  Tensor k_cache = random_tensor(cache_dtype, cache_shape, ++seed, scaled ? 1 / params.k_scale : 1);
  Tensor v_cache = random_tensor(cache_dtype, cache_shape, ++seed, scaled ? 1 / params.v_scale : 1);
  const auto at = [&](int seq, int position, int head, int i) {
    const int64_t block = tables[seq][position / block_size];
    return ((block * kv_heads + head) * block_size + position % block_size) * head_dim + i;
  };
  // What nobody may read is no number.
  std::vector<float> old_k = values_of(k_cache), old_v = values_of(v_cache);
  std::vector<bool> named(old_k.size(), false);
  for (size_t seq = 0; seq < pieces.size(); ++seq) {
    for (int position = 0; position < pieces[seq].length + pieces[seq].context; ++position) {
      for (int head = 0; head < kv_heads; ++head) {
        std::fill_n(named.begin() + at(static_cast<int>(seq), position, head, 0), head_dim, true);
      }
    }
  }
  for (size_t i = 0; i < named.size(); ++i) {
    if (!named[i]) old_k[i] = old_v[i] = NAN;
  }
  k_cache = make_tensor(cache_dtype, cache_shape, old_k);
  v_cache = make_tensor(cache_dtype, cache_shape, old_v);
  const std::vector<float> ks = k.values(), vs = v.values(), qs = q.values();
  be_->append_kv(k_cache, v_cache, k, v, params, step.view(pad_rows, pad_seqs));
  const std::vector<float> new_k = values_of(k_cache), new_v = values_of(v_cache);

  // The caches hold the new rows, rounded to their dtype, and nothing else changed.
  std::vector<float> expected_k = old_k, expected_v = old_v;
  int first = 0;
  for (size_t seq = 0; seq < pieces.size(); ++seq) {
    for (int t = 0; t < pieces[seq].length; ++t) {
      for (int head = 0; head < kv_heads; ++head) {
        for (int i = 0; i < head_dim; ++i) {
          const int64_t source = (int64_t{first + t} * kv_heads + head) * head_dim + i;
          const int64_t to = at(static_cast<int>(seq), pieces[seq].context + t, head, i);
          const auto stored = [&](float value, float scale) {
            const float divided = scaled ? value * (1.0f / scale) : value;
            return values_of(make_tensor(cache_dtype, Shape{1}, {divided}))[0];
          };
          expected_k[to] = stored(ks[source], params.k_scale);
          expected_v[to] = stored(vs[source], params.v_scale);
        }
      }
    }
    first += pieces[seq].length;
  }
  for (size_t i = 0; i < named.size(); ++i) {
    if (named[i]) {
      ASSERT_EQ(new_k[i], expected_k[i]) << what << ": key element " << i;
      ASSERT_EQ(new_v[i], expected_v[i]) << what << ": value element " << i;
    } else {
      ASSERT_TRUE(std::isnan(new_k[i]) && std::isnan(new_v[i])) << what << ": element " << i;
    }
  }

  be_->paged_attention(out, q, k_cache, v_cache, params, step.view(pad_rows, 0));
  const double k_scale = scaled ? params.k_scale : 1, v_scale = scaled ? params.v_scale : 1;
  std::vector<double> expected;
  first = 0;
  for (size_t seq = 0; seq < pieces.size(); ++seq) {
    for (int t = 0; t < pieces[seq].length; ++t) {
      for (int head = 0; head < heads; ++head) {
        const int kv_head = head / (heads / kv_heads), keys = pieces[seq].context + t + 1;
        std::vector<double> p(keys);
        double max = -INFINITY, sum = 0;
        for (int key = 0; key < keys; ++key) {
          double score = 0;
          for (int i = 0; i < head_dim; ++i) {
            score += double{qs[(int64_t{first + t} * heads + head) * head_dim + i]} *
                     new_k[at(static_cast<int>(seq), key, kv_head, i)];
          }
          p[key] = score * k_scale * params.scale;
          max = std::max(max, p[key]);
        }
        for (double& value : p) sum += value = std::exp(value - max);
        for (int i = 0; i < head_dim; ++i) {
          double value = 0;
          for (int key = 0; key < keys; ++key) {
            value += p[key] * new_v[at(static_cast<int>(seq), key, kv_head, i)];
          }
          expected.push_back(value / sum * v_scale);
        }
      }
    }
    first += pieces[seq].length;
  }
  std::vector<float> values = out.values();
  values.resize(expected.size());
  const double allowed = tolerance(aligned, cache_dtype);
  expect_near(values, expected, dtype(), allowed, allowed, what);
  EXPECT_TRUE(out.untouched_around()) << what;
}

TEST_P(Attention, PagesInAnyLayout) {
  uint32_t seed = 90;
  for (const Shapes& shape :
       {Shapes{4, 2, 8, 4}, Shapes{6, 3, 32, 16}, Shapes{5, 1, 7, 3}, Shapes{1, 1, 1, 1},
        Shapes{40, 8, 128, 16, DType::kBF16}, Shapes{4, 4, 20, 16, DType::kBF16},
        Shapes{4, 2, 16, 8, DType::kF8E4M3}, Shapes{3, 3, 9, 5, DType::kF16}}) {
    if (on_cuda() && shape.heads == 40) continue;  // the next test has it aligned
    check(shape, kMixed, false, 2, 1, seed += 20);
  }
}

TEST_P(Attention, MixedStepsInTheModelsLayout) {
  uint32_t seed = 300;
  for (const Shapes& shape :
       {Shapes{10, 2, 128, 16, DType::kBF16}, Shapes{4, 2, 64, 16, DType::kBF16},
        Shapes{8, 1, 40, 3, DType::kBF16}, Shapes{5, 1, 80, 32, DType::kBF16},
        Shapes{10, 2, 128, 16, DType::kF8E4M3}, Shapes{4, 4, 64, 5, DType::kF8E4M3},
        Shapes{2, 1, 96, 16, DType::kF8E4M3}, Shapes{4, 2, 64, 16, DType::kF32},
        Shapes{2, 2, 136, 16, DType::kBF16}, Shapes{20, 1, 16, 16, DType::kBF16}}) {
    check(shape, kMixed, true, 2, 1, seed += 20);
    if (!has_fast_ways()) return;
  }
  check({5, 1, 128, 16, DType::kBF16}, kPrefill, true, 3, 0, 600);
  check({5, 1, 128, 16, DType::kF8E4M3}, kPrefill, true, 0, 2, 620);
  check({16, 1, 64, 16, DType::kBF16}, kPrefill, true, 0, 0, 640);
  check({5, 1, 128, 16, DType::kBF16}, kLong, true, 1, 1, 660);
  check({2, 2, 96, 7, DType::kBF16}, kLong, true, 0, 0, 680);
  check({3, 1, 80, 16, DType::kBF16}, kLong, true, 0, 0, 690);
  check({1, 1, 104, 16, DType::kBF16}, {{263, 700}}, true, 0, 0, 695);
}

TEST_P(Attention, DecodeSteps) {
  uint32_t seed = 700;
  for (const Shapes& shape :
       {Shapes{10, 2, 128, 16, DType::kBF16}, Shapes{1, 1, 64, 16, DType::kBF16},
        Shapes{8, 1, 128, 7, DType::kBF16}, Shapes{16, 1, 128, 16, DType::kBF16},
        Shapes{4, 1, 24, 1, DType::kBF16}, Shapes{10, 2, 128, 16, DType::kF8E4M3},
        Shapes{12, 1, 64, 16, DType::kF8E4M3}, Shapes{2, 1, 48, 64, DType::kF8E4M3},
        Shapes{4, 2, 64, 16, DType::kF32}}) {
    check(shape, kDecode, true, 1, 1, seed += 20);  // as many rows as sequences
    if (!has_fast_ways()) return;
  }
  // One sequence, cut among all multiprocessors; and as many rows as sequences that are not one
  // each.
  check({5, 1, 128, 16, DType::kBF16}, {{1, 1300}}, true, 0, 0, 900);
  check({5, 1, 128, 16, DType::kF8E4M3}, {{1, 1300}}, true, 0, 0, 920);
  check({5, 1, 128, 16, DType::kBF16}, {{6, 100}, {0, 0}, {1, 33}, {0, 0}}, true, 1, 4, 940);
}

TEST_P(Attention, RandomSteps) {
  if (!has_fast_ways()) return;  // one way for all steps
  std::mt19937 random(7);
  const auto pick = [&](const std::vector<int>& from) { return from[random() % from.size()]; };
  for (uint32_t round = 0; round < 16; ++round) {
    const int kv_heads = pick({1, 2, 3}), head_dim = pick({16, 64, 128});
    const DType cache = round % 3 == 0 ? DType::kF8E4M3 : DType::kBF16;
    const Shapes shape{kv_heads * pick({1, 2, 4, 5, 8}), kv_heads, head_dim, pick({1, 8, 16, 17}),
                       cache};
    std::vector<Piece> pieces;
    for (int left = 1 + pick({0, 1, 3, 8}); left > 0; --left) {
      const int length = round % 2 == 0 ? pick({0, 1, 1, 1}) : pick({0, 1, 1, 2, 4, 5, 30});
      pieces.push_back({length, pick({0, 1, 15, 16, 63, 100, 190})});
    }
    pieces.push_back({1, pick({0, 500})});
    check(shape, pieces, true, pick({0, 3}), pick({0, 2}), 2000 + 10 * round);
  }
}

TEST_P(Attention, OfTiles) {
  uint32_t seed = 150;
  for (const auto& [tiles, tokens, heads, head_dim, aligned] : {std::tuple{1, 1, 1, 1, false},
                                                                {2, 74, 4, 16, false},
                                                                {1, 200, 2, 80, false},
                                                                {3, 49, 3, 7, false},
                                                                {0, 5, 1, 4, false},
                                                                {2, 74, 4, 16, true},
                                                                {2, 200, 2, 80, true},
                                                                {3, 64, 2, 64, true},
                                                                {1, 130, 1, 128, true},
                                                                {2, 133, 1, 128, true},
                                                                {1, 97, 1, 72, true},
                                                                {1, 1, 2, 80, true}}) {
    const int width = heads * head_dim;
    const Rows qkv(dtype(), Shape{tiles, tokens, 3 * width},
                   random_values(int64_t{tiles} * tokens * 3 * width, ++seed), aligned);
    const Rows out(dtype(), Shape{tiles, tokens, width},
                   std::vector<float>(int64_t{tiles} * tokens * width, 7), aligned);
    be_->full_attention(out, qkv, heads, 0.25f);
    const std::vector<float> in = qkv.values();
    const auto part = [&](int tile, int token, int which, int head, int i) -> double {
      return in[(int64_t{tile} * tokens + token) * 3 * width + which * width + head * head_dim + i];
    };
    std::vector<double> expected;
    for (int tile = 0; tile < tiles; ++tile) {
      for (int t = 0; t < tokens; ++t) {
        for (int head = 0; head < heads; ++head) {
          std::vector<double> p(tokens);
          double max = -INFINITY, sum = 0;
          for (int key = 0; key < tokens; ++key) {
            for (int i = 0; i < head_dim; ++i) {
              p[key] += part(tile, t, 0, head, i) * part(tile, key, 1, head, i) * 0.25;
            }
            max = std::max(max, p[key]);
          }
          for (double& value : p) sum += value = std::exp(value - max);
          for (int i = 0; i < head_dim; ++i) {
            double value = 0;
            for (int key = 0; key < tokens; ++key) value += p[key] * part(tile, key, 2, head, i);
            expected.push_back(value / sum);
          }
        }
      }
    }
    const double allowed = tolerance(aligned, dtype());
    expect_near(out.values(), expected, dtype(), allowed, allowed,
                std::to_string(tokens) + " tokens");
    EXPECT_TRUE(out.untouched_around());
  }
}

// A row of attention has the same bits in any cut and any company. On CUDA pieces of a few rows are
// another kernel's, whose sums depend on what else the step reads.
TEST_P(Attention, BitsDoNotDependOnCuts) {
  const int heads = 6, kv_heads = 2, head_dim = 24, block_size = 16, length = 150;
  const AttentionParams params{heads, kv_heads, head_dim, 0.2f};
  const Tensor q = random_tensor(dtype(), Shape{length, heads * head_dim}, 1);
  const Tensor k = random_tensor(dtype(), Shape{length, kv_heads * head_dim}, 2);
  const Tensor v = random_tensor(dtype(), Shape{length, kv_heads * head_dim}, 3);
  const std::vector<int32_t> blocks{5, 3, 9, 1, 7, 2, 10, 4, 6, 8};
  const auto run = [&](int cut) {
    const Shape shape{11, kv_heads, block_size, head_dim};
    Tensor k_cache = be_->allocate(dtype(), shape), v_cache = be_->allocate(dtype(), shape);
    Tensor out = be_->allocate(dtype(), Shape{length, heads * head_dim});
    for (int begin = 0; begin < length; begin += cut) {
      const int end = std::min(length, begin + cut);
      StepArrays step(10);
      step.add(end - begin, begin, kNoSlot, 0, blocks);
      be_->append_kv(k_cache, v_cache, k.view().rows(begin, end), v.view().rows(begin, end), params,
                     step.view());
      be_->paged_attention(out.view().rows(begin, end), q.view().rows(begin, end), k_cache, v_cache,
                           params, step.view());
    }
    return values_of(out);
  };
  const std::vector<float> whole = run(length);
  for (const int cut : {5, 16, 63, 64, 65}) EXPECT_EQ(run(cut), whole) << "pieces of " << cut;
  if (has_fast_ways()) {
    for (const int cut : {1, 2}) {
      expect_near(run(cut), std::vector<double>(whole.begin(), whole.end()), dtype(), 6e-3, 6e-3,
                  "short pieces");
    }
    EXPECT_EQ(run(2), run(2));  // the same step gives the same bits
  } else {
    EXPECT_EQ(run(2), whole);
  }
}

std::vector<std::pair<std::string, DType>> params() {
  std::vector<std::pair<std::string, DType>> all;
  for (const std::string& device : devices()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) all.emplace_back(device, dtype);
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, Attention, ::testing::ValuesIn(params()), [](const auto& info) {
  return info.param.first + (info.param.second == DType::kF32 ? "_float32" : "_bfloat16");
});

}  // namespace
}  // namespace videre::testing
