// Convolution and scan over batches of sequences, token by token in double, on every
// instruction set: any cut, odd sizes, padding, slots read and written apart, emitted states.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>

#include "backend/testing.h"

namespace videre::testing {
namespace {

struct Seq {
  int length, context;
  int32_t read, write;
  std::vector<std::pair<int, int32_t>> emits;  // row, slot
};

// A step of everything at once: fresh and going on, long and short, in place and to another slot.
std::vector<Seq> sequences() {
  return {{37, 0, kNoSlot, 1, {{0, 7}, {7, 8}, {36, 9}}},
          {1, 12, 2, 2, {}},
          {0, 0, 0, 0, {}},
          {1, 8, 3, 4, {{0, 10}}},
          {1, 0, kNoSlot, 6, {}},
          {16, 5, 5, 5, {{2, 11}, {3, 12}}},
          {2, 7, 13, 13, {}}};
}

class Mixers : public ::testing::TestWithParam<std::pair<std::string, DType>> {
 protected:
  static constexpr int kSlots = 16;
  Mixers() : be_(make_backend(GetParam().first)) {}
  DType dtype() const { return GetParam().second; }

  static StepArrays arrays(const std::vector<Seq>& seqs, int max_blocks = 1) {
    StepArrays step(max_blocks);
    for (size_t i = 0; i < seqs.size(); ++i) {
      step.add(seqs[i].length, seqs[i].context, seqs[i].read, seqs[i].write);
      for (const auto& [row, slot] : seqs[i].emits) step.emit(static_cast<int>(i), row, slot);
    }
    return step;
  }
  // Rows [begin, begin + count) of `got` against `expected`.
  template <typename Out>
  void expect_rows(const Out& got, const std::vector<double>& expected, int rows, double tolerance,
                   const std::string& what) {
    std::vector<float> values = got.values();
    const size_t count = static_cast<size_t>(rows) * got.view().dim(1);
    values.resize(count);
    expect_near(values, std::vector<double>(expected.begin(), expected.begin() + count), dtype(),
                tolerance, tolerance, what);
    EXPECT_TRUE(got.untouched_around()) << what;
  }

  std::unique_ptr<Backend> be_;
};

// Rows for an op: an island, or a view whose rows start at multiples of 16 bytes, as the model's
// do.
class Rows {
 public:
  Rows(DType dtype, Shape shape, uint32_t seed, bool aligned, float scale = 1)
      : aligned_(aligned), width_(shape[1]), island_(dtype, shape) {
    const std::vector<float> values = random_values(shape.numel(), seed, scale);
    if (!aligned) {
      island_ = Island(dtype, shape, values);
      return;
    }
    std::vector<float> wide(shape[0] * (width_ + 16), -77.0f);
    for (int64_t i = 0; i < shape.numel(); ++i) {
      wide[i / width_ * (width_ + 16) + 8 + i % width_] = values[i];
    }
    tensor_ = make_tensor(dtype, Shape{shape[0], width_ + 16}, wide);
  }
  View view() const { return aligned_ ? tensor_.view().columns(8, 8 + width_) : island_.view(); }
  operator View() const { return view(); }       // NOLINT
  operator ConstView() const { return view(); }  // NOLINT
  std::vector<float> values() const { return values_of(view()); }
  bool untouched_around() const {
    if (!aligned_) return island_.untouched_around();
    for (const float value : values_of(tensor_.view().columns(0, 8))) {
      if (value != -77.0f) return false;
    }
    for (const float value : values_of(tensor_.view().columns(8 + width_, 16 + width_))) {
      if (value != -77.0f) return false;
    }
    return true;
  }

 private:
  bool aligned_;
  int64_t width_;
  Island island_;
  Tensor tensor_;
};

// Steps of other kinds than `sequences`: one row each (decode), and long pieces past the edges of
// what a block of a kernel takes.
std::vector<Seq> decoding() {
  return {{1, 12, 2, 2, {}}, {1, 0, kNoSlot, 1, {}}, {1, 8, 3, 4, {{0, 10}}}, {1, 3, 5, 5, {}},
          {0, 0, 0, 0, {}},  {1, 127, 6, 6, {}},     {0, 0, 0, 0, {}}};
}
std::vector<Seq> long_pieces() {
  return {{1, 12, 2, 2, {}},
          {150, 0, kNoSlot, 1, {{0, 7}, {63, 8}, {149, 9}}},
          {9, 120, 3, 4, {{1, 10}}},
          {1, 0, kNoSlot, 6, {}},
          {70, 61, 5, 5, {{1, 11}, {66, 12}}},
          {2, 127, 13, 13, {}},
          {33, 95, 14, 15, {}}};
}

class Convolution : public Mixers {
 protected:
  void check(const std::vector<Seq>& seqs, int channels, int taps, DType state_dtype, bool aligned,
             uint32_t seed) {
    StepArrays step = arrays(seqs);
    const int rows = step.num_rows(), history = taps - 1;
    const int pad = seqs.size() == decoding().size() ? 2 : 3;
    const Rows x(dtype(), Shape{rows + pad, channels}, ++seed, aligned);
    const Rows out(dtype(), Shape{rows + pad, channels}, ++seed, aligned);
    const Tensor weight = random_tensor(DType::kBF16, Shape{channels, taps}, ++seed);
    const Tensor bias = random_tensor(DType::kF32, Shape{channels}, ++seed);
    const bool with_bias = seed % 2;
    Tensor state = random_tensor(state_dtype, Shape{kSlots, history, channels}, ++seed);
    std::vector<float> expected_state = values_of(state);
    const std::vector<float> before = expected_state, xs = x.values(), w = values_of(weight);
    const std::vector<float> biases = values_of(bias);
    std::vector<double> expected;
    const auto narrowed = [&](float v) {
      return state_dtype == DType::kBF16 ? to_float(to_bf16(v)) : v;
    };
    int first = 0;
    for (const Seq& seq : seqs) {
      const auto raw = [&](int t, int c) -> float {
        if (t >= 0) return xs[(first + t) * channels + c];
        if (seq.read == kNoSlot) return 0;
        return before[(seq.read * history + t + history) * channels + c];
      };
      const auto keep = [&](int t, int32_t slot) {
        for (int j = 0; j < history; ++j) {
          for (int c = 0; c < channels; ++c) {
            expected_state[(slot * history + j) * channels + c] =
                narrowed(raw(t - history + 1 + j, c));
          }
        }
      };
      for (int t = 0; t < seq.length; ++t) {
        for (int c = 0; c < channels; ++c) {
          double sum = with_bias ? biases[c] : 0;
          for (int j = 0; j < taps; ++j) sum += double{w[c * taps + j]} * raw(t - history + j, c);
          expected.push_back(sum / (1 + std::exp(-sum)));
        }
      }
      for (const auto& [row, slot] : seq.emits) keep(row, slot);
      if (seq.length > 0) keep(seq.length - 1, seq.write);
      first += seq.length;
    }
    be_->causal_conv(out, x, weight, with_bias ? ConstView(bias) : ConstView(), state,
                     step.view(pad, seqs.size() == decoding().size() ? 0 : 2));
    expect_rows(out, expected, rows, 2e-6, "conv of " + std::to_string(channels));
    EXPECT_EQ(values_of(state), expected_state) << channels;
  }
};

TEST_P(Convolution, MatchesTheSumInAnyStep) {
  uint32_t seed = 1;
  for (const auto& [channels, taps] :
       {std::pair{5, 4}, {16, 4}, {33, 2}, {7, 1}, {530, 4}, {20, 3}}) {
    for (const DType state_dtype : {DType::kF32, DType::kBF16}) {
      if (taps == 1 && state_dtype == DType::kBF16) continue;
      check(sequences(), channels, taps, state_dtype, false, seed += 10);
      check(decoding(), channels, taps, state_dtype, false, seed += 10);
    }
  }
}

TEST_P(Convolution, AlignedRowsTakeTheModelsPath) {
  uint32_t seed = 500;
  for (const DType state_dtype : {DType::kF32, DType::kBF16}) {
    for (const int channels : {8, 1032}) {
      for (const auto& seqs : {sequences(), decoding(), long_pieces()}) {
        check(seqs, channels, 4, state_dtype, true, seed += 10);
      }
    }
  }
}

struct Scan {
  int heads, head_dim, groups, n_state, chunk;
  DType state_dtype = DType::kF32;
  float dt_min = 0, dt_max = INFINITY;
};

TEST_P(Mixers, SsmScan) {
  uint32_t seed = 50;
  for (const Scan& scan :
       {Scan{4, 8, 2, 16, 8}, Scan{6, 5, 3, 7, 16}, Scan{12, 16, 1, 64, 64}, Scan{1, 1, 1, 1, 4},
        Scan{10, 80, 1, 128, 128}, Scan{4, 8, 2, 16, 8, DType::kBF16},
        Scan{4, 8, 2, 16, 8, DType::kF32, 0.3f, 0.9f}}) {
    const auto [heads, head_dim, groups, n_state, chunk, state_dtype, dt_min, dt_max] = scan;
    const std::vector<Seq> seqs = sequences();
    StepArrays step = arrays(seqs);
    const int rows = step.num_rows(), pad = 2, all = rows + pad;
    const auto random = [&](int64_t width, float scale) {
      return Island(dtype(), Shape{all, width}, random_values(all * width, ++seed, scale));
    };
    const Island x = random(heads * head_dim, 1), b = random(groups * n_state, 0.5f);
    const Island c = random(groups * n_state, 0.5f), dt = random(heads, 1.5f);
    const Island y(dtype(), Shape{all, heads * head_dim});
    const Tensor dt_bias = random_tensor(DType::kF32, Shape{heads}, ++seed);
    const Tensor d = random_tensor(DType::kF32, Shape{heads}, ++seed);
    std::vector<float> a_values;
    for (int h = 0; h < heads; ++h) a_values.push_back(-0.05f * static_cast<float>(1 + h * h));
    const Tensor a = make_tensor(DType::kF32, Shape{heads}, a_values);
    Tensor state = random_tensor(state_dtype, Shape{kSlots, heads, head_dim, n_state}, ++seed);
    const std::vector<float> stored = values_of(state);
    const std::vector<float> biases = values_of(dt_bias), skips = values_of(d);
    const std::vector<float> xs = x.values(), bs = b.values(), cs = c.values(), dts = dt.values();
    const int64_t size = int64_t{heads} * head_dim * n_state;
    std::vector<double> expected_state(stored.begin(), stored.end()), expected;
    int first = 0;
    for (const Seq& seq : seqs) {
      std::vector<double> s(size, 0.0);
      if (seq.read != kNoSlot) {
        std::copy_n(stored.begin() + seq.read * size, size, s.begin());
      }
      for (int t = 0; t < seq.length; ++t) {
        const int row = first + t;
        for (int h = 0; h < heads; ++h) {
          const int group = h / (heads / groups);
          const double raw = double{dts[row * heads + h]} + biases[h];
          double delta = raw > 20 ? raw : std::log1p(std::exp(raw));
          delta = std::min<double>(std::max<double>(delta, dt_min), dt_max);
          for (int p = 0; p < head_dim; ++p) {
            const double value = xs[(row * heads + h) * head_dim + p];
            double sum = 0;
            for (int n = 0; n < n_state; ++n) {
              double& cell = s[(int64_t{h} * head_dim + p) * n_state + n];
              cell = std::exp(delta * a_values[h]) * cell +
                     delta * value * bs[(row * groups + group) * n_state + n];
              sum += cell * cs[(row * groups + group) * n_state + n];
            }
            expected.push_back(sum + skips[h] * value);
          }
        }
        const auto keep = [&](int32_t slot) {
          std::copy(s.begin(), s.end(), expected_state.begin() + slot * size);
        };
        for (const auto& [at, slot] : seq.emits) {
          if (at == t) keep(slot);
        }
        if (t == seq.length - 1) keep(seq.write);
      }
      first += seq.length;
    }
    SsmInputs in{x.view(), b.view(), c.view(), dt.view(), dt_bias, a, d};
    in.num_groups = groups;
    in.chunk_size = chunk;
    in.dt_min = dt_min;
    in.dt_max = dt_max;
    be_->ssm_scan(y, in, state, step.view(pad, 1));
    const std::string what = std::to_string(heads) + " heads of " + std::to_string(head_dim);
    expect_rows(y, expected, rows, 2e-5, what);
    expect_near(values_of(state), expected_state, state_dtype, 2e-5, 2e-5, what + ", state");
  }
}

// Where a prompt is cut between chunks, no bit changes; alone or among others, no bit changes.
TEST_P(Mixers, SsmScanBitsDoNotDependOnCutsAtChunksNorOnCompany) {
  const int heads = 8, head_dim = 20, groups = 2, n_state = 32, chunk = 16, length = 100;
  const int64_t width = heads * head_dim, bc = groups * n_state;
  const Tensor x = random_tensor(dtype(), Shape{length, width}, 1);
  const Tensor b = random_tensor(dtype(), Shape{length, bc}, 2);
  const Tensor c = random_tensor(dtype(), Shape{length, bc}, 3);
  const Tensor dt = random_tensor(dtype(), Shape{length, heads}, 4);
  const Tensor dt_bias = random_tensor(DType::kF32, Shape{heads}, 5);
  const Tensor d = random_tensor(DType::kF32, Shape{heads}, 6);
  const Tensor a = make_tensor(DType::kF32, Shape{heads}, std::vector<float>(heads, -0.7f));
  // Runs rows [begin, end) as part of a step with `others` more copies of them; returns y.
  const auto run = [&](View state, int begin, int end, int others) {
    const int count = end - begin;
    std::vector<Tensor> stacked;
    SsmInputs in;
    in.dt_bias = dt_bias, in.a = a, in.d = d, in.num_groups = groups, in.chunk_size = chunk;
    in.dt_max = INFINITY;
    const auto stack = [&](const Tensor& rows) -> ConstView {
      std::vector<float> values;
      const std::vector<float> part = values_of(rows.view().rows(begin, end));
      for (int i = 0; i <= others; ++i) values.insert(values.end(), part.begin(), part.end());
      stacked.push_back(
          make_tensor(dtype(), Shape{count * (others + 1), rows.view().dim(1)}, values));
      return stacked.back();
    };
    in.x = stack(x), in.b = stack(b), in.c = stack(c), in.dt = stack(dt);
    StepArrays step;
    for (int i = 0; i < others; ++i) step.add(count, begin, kNoSlot, 2 + i);
    step.add(count, begin, begin == 0 ? kNoSlot : 1, 1);
    const Tensor y = be_->allocate(dtype(), Shape{count * (others + 1), width});
    be_->ssm_scan(y, in, state, step.view());
    return values_of(y.view().rows(count * others, count * (others + 1)));
  };
  Tensor whole_state = be_->allocate(DType::kF32, Shape{6, heads, head_dim, n_state});
  const std::vector<float> whole = run(whole_state, 0, length, 0);
  const auto state_of = [](const Tensor& state) { return values_of(state.view()[1]); };
  for (const int others : {0, 3}) {
    for (const std::vector<int>& cuts :
         {std::vector<int>{16}, {32}, {48, 64}, {96}, {16, 32, 48, 64, 80, 96}}) {
      Tensor state = be_->allocate(DType::kF32, Shape{6, heads, head_dim, n_state});
      std::vector<float> got;
      int begin = 0;
      for (size_t i = 0; i <= cuts.size(); ++i) {
        const int end = i < cuts.size() ? cuts[i] : length;
        const std::vector<float> part = run(state, begin, end, others);
        got.insert(got.end(), part.begin(), part.end());
        begin = end;
      }
      EXPECT_EQ(got, whole);
      EXPECT_EQ(state_of(state), state_of(whole_state));
    }
  }
}

std::vector<std::pair<std::string, DType>> params() {
  std::vector<std::pair<std::string, DType>> all;
  for (const std::string& isa : devices()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) all.emplace_back(isa, dtype);
  }
  return all;
}
std::string param_name(const ::testing::TestParamInfo<std::pair<std::string, DType>>& info) {
  return info.param.first + (info.param.second == DType::kF32 ? "_float32" : "_bfloat16");
}
INSTANTIATE_TEST_SUITE_P(All, Mixers, ::testing::ValuesIn(params()), param_name);
INSTANTIATE_TEST_SUITE_P(All, Convolution, ::testing::ValuesIn(params()), param_name);

}  // namespace
}  // namespace videre::testing
