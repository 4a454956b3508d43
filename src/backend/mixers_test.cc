// Convolution and scan over batches of sequences, token by token in double, on every
// instruction set: any cut, odd sizes, padding, slots read and written apart, emitted states.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>

#include "backend/state_rounding.h"
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

// Nothing but single rows: a step that devices may launch otherwise.
bool one_row_each(const std::vector<Seq>& seqs) {
  return std::all_of(seqs.begin(), seqs.end(), [](const Seq& seq) { return seq.length <= 1; });
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
    const int pad = one_row_each(seqs) ? 2 : 3;
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
                     step.view(pad, one_row_each(seqs) ? 0 : 2));
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

struct ScanShape {
  int heads, head_dim, groups, n_state, chunk;
  DType state_dtype = DType::kF32;
  float dt_min = 0, dt_max = INFINITY;
};

class Scan : public Mixers {
 protected:
  // A device may take products of factors rounded to BF16 where rows are aligned: each term of a
  // sum is then off by up to 2^-7 in y (two roundings) and 2^-8 in the state.
  void check(const ScanShape& shape, const std::vector<Seq>& seqs, bool aligned, uint32_t seed) {
    const auto [heads, head_dim, groups, n_state, chunk, state_dtype, dt_min, dt_max] = shape;
    const bool rounds = aligned && be_->name() != "cpu" && dtype() == DType::kBF16;
    const bool decode = one_row_each(seqs);
    StepArrays step = arrays(seqs);
    const int rows = step.num_rows(), pad = 2, all = rows + pad;
    const auto random = [&](int64_t width, float scale) {
      return Rows(dtype(), Shape{all, width}, ++seed, aligned, scale);
    };
    const Rows x = random(heads * head_dim, 1), b = random(groups * n_state, 0.5f);
    const Rows c = random(groups * n_state, 0.5f), dt = random(heads, 1.5f);
    const Rows y = random(heads * head_dim, 1);
    const Tensor dt_bias = random_tensor(DType::kF32, Shape{heads}, ++seed);
    const Tensor d = random_tensor(DType::kBF16, Shape{heads}, ++seed);
    std::vector<float> a_values;
    for (int h = 0; h < heads; ++h) a_values.push_back(-0.05f * static_cast<float>(1 + h * h));
    const Tensor a = make_tensor(DType::kF32, Shape{heads}, a_values);
    Tensor state = random_tensor(state_dtype, Shape{kSlots, heads, head_dim, n_state}, ++seed);
    const std::vector<float> stored = values_of(state);
    const std::vector<float> biases = values_of(dt_bias), skips = values_of(d);
    const std::vector<float> xs = x.values(), bs = b.values(), cs = c.values(), dts = dt.values();
    const int64_t size = int64_t{heads} * head_dim * n_state;
    // With each sum the sum of its terms' magnitudes.
    std::vector<double> states(stored.begin(), stored.end()), state_masses(stored.size(), 0.0);
    std::vector<double> expected, masses;
    int first = 0;
    for (const Seq& seq : seqs) {
      std::vector<double> s(size, 0.0), mass(size, 0.0);
      if (seq.read != kNoSlot) {
        std::copy_n(stored.begin() + seq.read * size, size, s.begin());
        for (int64_t i = 0; i < size; ++i) mass[i] = std::abs(s[i]);
      }
      for (int t = 0; t < seq.length; ++t) {
        const int row = first + t;
        for (int h = 0; h < heads; ++h) {
          const int group = h / (heads / groups);
          const double raw = double{dts[row * heads + h]} + biases[h];
          double delta = raw > 20 ? raw : std::log1p(std::exp(raw));
          delta = std::min<double>(std::max<double>(delta, dt_min), dt_max);
          const double decay = std::exp(delta * a_values[h]);
          for (int p = 0; p < head_dim; ++p) {
            const double value = xs[(row * heads + h) * head_dim + p];
            double sum = 0, sum_mass = 0;
            for (int n = 0; n < n_state; ++n) {
              const int64_t at = (int64_t{h} * head_dim + p) * n_state + n;
              const double term = delta * value * bs[(row * groups + group) * n_state + n];
              const double factor = cs[(row * groups + group) * n_state + n];
              s[at] = decay * s[at] + term;
              mass[at] = decay * mass[at] + std::abs(term);
              sum += s[at] * factor;
              sum_mass += mass[at] * std::abs(factor);
            }
            expected.push_back(sum + skips[h] * value);
            masses.push_back(sum_mass);
          }
        }
        const auto keep = [&](int32_t slot) {
          std::copy(s.begin(), s.end(), states.begin() + slot * size);
          std::copy(mass.begin(), mass.end(), state_masses.begin() + slot * size);
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
    be_->ssm_scan(y, in, state, step.view(pad, decode ? 0 : 1));
    const std::string what = std::to_string(heads) + " heads of " + std::to_string(head_dim);
    expect_within(y.values(), expected, masses, dtype() == DType::kBF16 ? 0x1p-8 : 0,
                  rounds && !decode ? 0x1p-7 : 0, what);
    EXPECT_TRUE(y.untouched_around()) << what;
    const double step_size =  // rounding at random is off by up to a whole step
        state_dtype == DType::kBF16  ? 0x1p-7
        : state_dtype == DType::kF16 ? 0x1p-10
                                     : 0;
    expect_within(values_of(state), states, state_masses, step_size, rounds && !decode ? 0x1p-8 : 0,
                  what + ", state");
  }

 private:
  static void expect_within(const std::vector<float>& got, const std::vector<double>& expected,
                            const std::vector<double>& masses, double rounding, double a_term,
                            const std::string& what) {
    double squares = 0;
    for (size_t i = 0; i < expected.size(); ++i) {
      const double allowed = 2e-5 + (2e-5 + rounding) * std::abs(expected[i]) + a_term * masses[i];
      const double error = std::abs(got[i] - expected[i]);
      ASSERT_TRUE(error <= allowed) << what << ": element " << i << " is " << got[i]
                                    << ", expected " << expected[i] << " within " << allowed;
      squares += error * error / (allowed * allowed);
    }
    if (a_term > 0) {  // the worst case is far away
      EXPECT_LT(std::sqrt(squares / static_cast<double>(expected.size())), 0.3) << what;
    }
  }
};

TEST_P(Scan, MatchesTheRecurrenceInAnyStep) {
  uint32_t seed = 50;
  for (const ScanShape& shape :
       {ScanShape{4, 8, 2, 16, 8}, ScanShape{6, 5, 3, 7, 16}, ScanShape{12, 16, 1, 64, 64},
        ScanShape{1, 1, 1, 1, 4}, ScanShape{10, 80, 1, 128, 128},
        ScanShape{4, 8, 2, 16, 8, DType::kBF16}, ScanShape{6, 5, 3, 7, 16, DType::kF16},
        ScanShape{4, 8, 2, 16, 8, DType::kF32, 0.3f, 0.9f}}) {
    check(shape, sequences(), false, seed += 20);
    check(shape, decoding(), false, seed += 20);
  }
}

TEST_P(Scan, AlignedRowsTakeTheModelsPath) {
  uint32_t seed = 900;
  for (const ScanShape& shape :
       {ScanShape{2, 80, 1, 128, 128}, ScanShape{4, 32, 2, 64, 128}, ScanShape{2, 88, 2, 32, 16},
        ScanShape{2, 40, 1, 128, 48, DType::kBF16}, ScanShape{2, 16, 2, 64, 256, DType::kF16},
        ScanShape{2, 8, 1, 128, 64, DType::kF32, 0.3f, 0.9f}}) {
    for (const auto& seqs : {sequences(), decoding(), long_pieces()}) {
      check(shape, seqs, true, seed += 20);
    }
  }
}

// Many pieces after one another, the first and the last of one row, with states kept on the way.
TEST_P(Scan, LongPromptsMatchTheRecurrence) {
  if (GetParam().first == "emulated" && dtype() == DType::kF32) return;  // slow, and row by row
  const std::vector<Seq> seqs{{520, 127, 2, 2, {{0, 7}, {1, 8}, {64, 9}, {300, 10}, {519, 11}}},
                              {3, 0, kNoSlot, 1, {}},
                              {257, 0, kNoSlot, 3, {{255, 12}, {256, 13}}}};
  check({2, 80, 1, 128, 128}, seqs, true, 1500);
  check({1, 168, 1, 64, 64, DType::kBF16}, seqs, true, 1520);
  check({4, 32, 2, 64, 100, DType::kF16}, seqs, true, 1540);
}

// Where a prompt is cut between chunks, no bit changes; alone or among others, no bit changes.
TEST_P(Scan, BitsDoNotDependOnCutsAtChunksNorOnCompany) {
  struct Case {
    int heads, head_dim, n_state, chunk, length;
    std::vector<std::vector<int>> cuts;
  };
  const int groups = 2;
  const bool emulated = GetParam().first == "emulated";
  const int most_others = emulated ? 1 : 3;
  for (const Case& test :
       {Case{emulated ? 2 : 8, 20, 32, 16, 100, {{16}, {48, 64}, {16, 32, 48, 64, 80, 96}}},
        Case{2, 24, 64, 96, 193, {{96}, {96, 192}}}, Case{2, 80, 128, 128, 130, {{128}}}}) {
    if (emulated && test.n_state == 128 && dtype() == DType::kF32) continue;
    const auto& [heads, head_dim, n_state, chunk, length, all_cuts] = test;
    const int64_t width = int64_t{heads} * head_dim, bc = int64_t{groups} * n_state;
    const Tensor x = random_tensor(dtype(), Shape{length, width}, 1);
    const Tensor b = random_tensor(dtype(), Shape{length, bc}, 2);
    const Tensor c = random_tensor(dtype(), Shape{length, bc}, 3);
    const Tensor dt = random_tensor(dtype(), Shape{length, heads}, 4);
    const Tensor dt_bias = random_tensor(DType::kF32, Shape{heads}, 5);
    const Tensor d = random_tensor(DType::kF32, Shape{heads}, 6);
    const Tensor a = make_tensor(DType::kF32, Shape{heads}, std::vector<float>(heads, -0.7f));
    // Runs rows [begin, end) as part of a step with `others` more copies of them; returns y.
    const auto run = [&, test_chunk = chunk](View state, int begin, int end, int others) {
      const int count = end - begin;
      std::vector<Tensor> stacked;
      SsmInputs in;
      in.dt_bias = dt_bias, in.a = a, in.d = d, in.num_groups = groups, in.chunk_size = test_chunk;
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
    const Shape state_shape{6, heads, head_dim, n_state};
    Tensor whole_state = be_->allocate(DType::kF32, state_shape);
    const std::vector<float> whole = run(whole_state, 0, length, 0);
    const auto state_of = [](const Tensor& state) { return values_of(state.view()[1]); };
    for (const int others : {0, most_others}) {
      for (const std::vector<int>& cuts : all_cuts) {
        Tensor state = be_->allocate(DType::kF32, state_shape);
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
}

// Steps much smaller than a 16-bit state can tell apart still add up, and the coin falls alike in
// any slot.
TEST_P(Scan, SixteenBitStatesDoNotDrift) {
  const int heads = 2, head_dim = 8, tokens = GetParam().first == "emulated" ? 100 : 400;
  for (const auto& [state_dtype, n_state, increment] : {std::tuple{DType::kBF16, 64, 0x1p-9f},
                                                        {DType::kBF16, 6, 0x1p-9f},
                                                        {DType::kF16, 64, 0x1p-12f}}) {
    const Tensor x = make_tensor(dtype(), Shape{1, heads * head_dim},
                                 std::vector<float>(heads * head_dim, increment));
    const Tensor b = make_tensor(dtype(), Shape{1, n_state}, std::vector<float>(n_state, 1));
    const Tensor dt = make_tensor(dtype(), Shape{1, heads}, std::vector<float>(heads, 0));
    const Tensor zeros = make_tensor(DType::kF32, Shape{heads}, std::vector<float>(heads, 0));
    SsmInputs in{x.view(), b.view(), b.view(), dt.view(), zeros, zeros, zeros};
    in.num_groups = 1, in.chunk_size = 128, in.dt_min = 1, in.dt_max = 1;  // dt is 1
    const Shape shape{3, heads, head_dim, n_state};
    Tensor state = make_tensor(state_dtype, shape, std::vector<float>(shape.numel(), 1));
    const Tensor y = be_->allocate(dtype(), Shape{1, heads * head_dim});
    for (const int slot : {1, 2}) {
      for (int t = 0; t < tokens; ++t) {
        StepArrays step;
        step.add(1, t, slot, slot);
        be_->ssm_scan(y, in, state, step.view());
      }
    }
    const std::vector<float> values = values_of(state.view()[1]);
    // Nothing else rounds here, so every device must have thrown the same coins.
    std::vector<float> expected(values.size(), 1);
    const uint32_t size = static_cast<uint32_t>(head_dim * n_state);
    for (int t = 0; t < tokens; ++t) {
      for (uint32_t i = 0; i < expected.size(); ++i) {
        const uint32_t at = i % size;
        const uint32_t pair = rounding_noise(rounding_seed(i / size, t), at / 2);
        const uint32_t noise = at % 2 == 0 ? pair & 0xffffu : pair >> 16;
        const float next = expected[i] + increment;
        expected[i] = state_dtype == DType::kBF16 ? to_float(BF16{noisy_bf16(next, noise)})
                                                  : half_to_float(noisy_half(next, noise));
      }
    }
    EXPECT_EQ(values, expected);
    double mean = 0;
    for (const float value : values) mean += value / static_cast<double>(values.size());
    EXPECT_NEAR(mean, 1 + tokens * increment, 0.1 * tokens * increment);
    EXPECT_GT(*std::max_element(values.begin(), values.end()),
              *std::min_element(values.begin(), values.end()));
    EXPECT_EQ(values_of(state.view()[2]), values);
  }
}

struct MixShape {
  int heads, head_dim, groups, n_state;
  DType state_dtype = DType::kF32, conv_dtype = DType::kBF16;
  int taps = 4;
  float dt_min = 0, dt_max = INFINITY;
};

// The whole mixer, held against the CPU's three ops, and its states against the device's own.
class Mix : public Mixers {
 protected:
  struct States {
    Tensor conv, ssm;
  };

  void check(const MixShape& shape, const std::vector<Seq>& seqs, int num_steps, uint32_t seed) {
    const auto [heads, head_dim, groups, n_state, state_dtype, conv_dtype, taps, dt_min, dt_max] =
        shape;
    const int64_t inner = int64_t{heads} * head_dim, bc = int64_t{groups} * n_state;
    const int64_t channels = inner + 2 * bc, width = inner + channels + heads;
    const std::string what = std::to_string(heads) + " heads of " + std::to_string(head_dim) +
                             ", state " + std::to_string(n_state) + " " +
                             std::string(dtype_name(state_dtype)) + ", " +
                             std::to_string(seqs.size()) + " sequences";
    const std::unique_ptr<Backend> cpu = make_cpu_backend({.num_threads = 1});
    const Tensor weight = random_tensor(DType::kBF16, Shape{channels, taps}, ++seed, 0.5f);
    const Tensor bias = random_tensor(DType::kBF16, Shape{channels}, ++seed, 0.5f);
    const Tensor dt_bias = random_tensor(DType::kF32, Shape{heads}, ++seed);
    const Tensor d = random_tensor(DType::kBF16, Shape{heads}, ++seed);
    const Tensor norm = random_tensor(DType::kBF16, Shape{inner}, ++seed);
    std::vector<float> a_values;
    for (int h = 0; h < heads; ++h) a_values.push_back(-0.05f * static_cast<float>(1 + h % 7));
    const Tensor a = make_tensor(DType::kF32, Shape{heads}, a_values);
    const bool with_bias = seed % 2 == 0;

    const Tensor conv = random_tensor(conv_dtype, Shape{kSlots, taps - 1, channels}, ++seed);
    const Tensor ssm =
        random_tensor(state_dtype, Shape{kSlots, heads, head_dim, n_state}, ++seed, 0.5f);
    const auto states = [&] {
      return States{make_tensor(conv_dtype, conv.view().shape(), values_of(conv)),
                    make_tensor(state_dtype, ssm.view().shape(), values_of(ssm))};
    };
    States mine = states(), apart = states(), expected = states();
    std::vector<Seq> now = seqs;
    for (int i = 0; i < num_steps; ++i) {
      StepArrays arrays_of_step = arrays(now);
      const int rows = arrays_of_step.num_rows();
      // Pads up to as many rows as sequences, where there are no more.
      const int pad = std::max(0, static_cast<int>(now.size()) - rows);
      const StepView step = arrays_of_step.view(pad);
      const Tensor projected = random_tensor(dtype(), Shape{rows + pad, width}, ++seed);
      Mamba2Inputs in;
      in.z = projected.view().columns(0, inner);
      in.xbc = projected.view().columns(inner, inner + channels);
      in.dt = projected.view().columns(inner + channels, width);
      in.conv_weight = weight, in.dt_bias = dt_bias, in.a = a, in.d = d, in.norm = norm;
      if (with_bias) in.conv_bias = bias;
      in.num_groups = groups, in.chunk_size = 128;
      in.norm_group = static_cast<int>(inner / groups);
      in.dt_min = dt_min, in.dt_max = dt_max, in.eps = 1e-5f;
      const auto fresh = [&](int64_t columns) {
        return make_host_tensor(dtype(), Shape{rows + pad, columns});
      };
      const Island out(dtype(), Shape{rows + pad, inner});
      const Tensor conv_out = fresh(channels), y = fresh(inner);
      be_->mamba2_mix({out}, in, mine.conv, mine.ssm, conv_out, y, step);

      const auto three_ops = [&](Backend& be, const States& to) {
        const Tensor convolved = fresh(channels), scanned = fresh(inner), normed = fresh(inner);
        be.causal_conv(convolved, in.xbc, in.conv_weight, in.conv_bias, to.conv, step);
        SsmInputs scan{convolved.view().columns(0, inner),
                       convolved.view().columns(inner, inner + bc),
                       convolved.view().columns(inner + bc, channels),
                       in.dt,
                       in.dt_bias,
                       in.a,
                       in.d};
        scan.num_groups = groups, scan.chunk_size = in.chunk_size;
        scan.dt_min = dt_min, scan.dt_max = dt_max;
        be.ssm_scan(scanned, scan, to.ssm, step);
        be.gated_rms_norm({normed}, scanned, in.z, in.norm, in.norm_group, in.eps);
        std::vector<float> values = values_of(normed);
        values.resize(rows * inner);
        return values;
      };
      const std::vector<float> from_cpu = three_ops(*cpu, expected);
      const std::vector<float> from_ops = three_ops(*be_, apart);
      std::vector<float> got = out.values();
      got.resize(rows * inner);
      // Roundings to T on the way may fall to the other side.
      const double relative = dtype() == DType::kBF16 ? 0x1p-7 : 1e-4;
      const double loose = state_dtype == DType::kF32 ? 1 : 8;
      double squares = 0, differences = 0;
      for (size_t j = 0; j < got.size(); ++j) {
        ASSERT_NEAR(got[j], from_ops[j], 1e-4 + relative * std::abs(from_ops[j])) << what << j;
        if (rows > static_cast<int>(now.size())) continue;  // by products of rounded factors
        ASSERT_NEAR(got[j], from_cpu[j],
                    4 * loose * relative * (0.5 + std::abs(double{from_cpu[j]})))
            << what << ", element " << j;
        squares += double{from_cpu[j]} * from_cpu[j];
        differences += (double{got[j]} - from_cpu[j]) * (double{got[j]} - from_cpu[j]);
      }
      EXPECT_LE(std::sqrt(differences), loose * 0.5 * relative * std::sqrt(squares)) << what;
      EXPECT_TRUE(out.untouched_around()) << what;
      EXPECT_EQ(values_of(mine.conv), values_of(apart.conv)) << what << ", step " << i;
      EXPECT_EQ(values_of(mine.ssm), values_of(apart.ssm)) << what << ", step " << i;
      EXPECT_EQ(values_of(mine.conv), values_of(expected.conv)) << what << ", step " << i;
      for (Seq& seq : now) {  // goes on from where it was kept
        if (seq.length > 0) seq.context += seq.length, seq.read = seq.write;
      }
    }
  }
};

// Fewer sequences than devices may take another way for.
std::vector<Seq> few() { return {{1, 12, 2, 2, {}}, {0, 0, 0, 0, {}}, {1, 0, kNoSlot, 1, {}}}; }
// As many rows as sequences, and yet not one each.
std::vector<Seq> odd_steps() {
  return {{3, 5, 2, 2, {}}, {0, 0, 0, 0, {}},       {0, 0, 0, 0, {}},
          {1, 7, 3, 4, {}}, {2, 0, kNoSlot, 1, {}}, {0, 0, 0, 0, {}}};
}
std::vector<Seq> odd_and_few() {
  return {{4, 5, 2, 3, {}}, {0, 0, 0, 0, {}}, {0, 0, 0, 0, {}}, {0, 0, 0, 0, {}}};
}
std::vector<Seq> without_emits(std::vector<Seq> seqs) {
  for (Seq& seq : seqs) seq.emits.clear();
  return seqs;
}

TEST_P(Mix, IsTheThreeOpsInAnyStep) {
  uint32_t seed = 2000;
  for (const MixShape& shape :
       {MixShape{4, 8, 2, 64}, MixShape{16, 8, 1, 64, DType::kF32, DType::kF32},
        MixShape{6, 5, 3, 7}, MixShape{6, 24, 3, 64, DType::kF32, DType::kBF16, 4, 0.3f, 0.9f},
        MixShape{6, 13, 3, 64, DType::kBF16}, MixShape{4, 21, 2, 128, DType::kF16},
        MixShape{4, 8, 2, 64, DType::kF32, DType::kBF16, 3}, MixShape{40, 4, 1, 64},
        MixShape{4, 8, 2, 32}}) {
    for (const auto& seqs :
         {without_emits(decoding()), few(), odd_steps(), odd_and_few(), decoding()}) {
      if (be_->name() != "cpu") check(shape, seqs, seqs.size() > 4 ? 1 : 2, seed += 100);
    }
    if (shape.n_state != 64 || shape.groups == 1) check(shape, sequences(), 1, seed += 100);
  }
}

TEST_P(Mix, FullHeads) {
  if (be_->name() == "cpu") return;  // is the three ops
  uint32_t seed = 9000;
  for (const MixShape& shape :
       {MixShape{4, 80, 2, 128}, MixShape{4, 80, 2, 128, DType::kBF16}, MixShape{2, 168, 1, 128}}) {
    for (const auto& seqs : {without_emits(decoding()), few(), odd_and_few()}) {
      check(shape, seqs, 2, seed += 100);
    }
  }
}

// The bits of a request do not depend on its company, nor on the way that blocks meet.
TEST_P(Mix, BitsDoNotDependOnCompany) {
  constexpr int kHeads = 8, kDim = 20, kGroups = 2, kState = 64;
  const int64_t inner = kHeads * kDim, bc = kGroups * kState, channels = inner + 2 * bc;
  const Tensor projected = random_tensor(dtype(), Shape{1, inner + channels + kHeads}, 1);
  const Tensor weight = random_tensor(DType::kBF16, Shape{channels, 4}, 2);
  const Tensor floats = random_tensor(DType::kF32, Shape{kHeads}, 3);
  const Tensor a = make_tensor(DType::kF32, Shape{kHeads}, std::vector<float>(kHeads, -0.5f));
  const Tensor norm = random_tensor(DType::kBF16, Shape{inner}, 4);
  std::vector<float> alone, alone_state;
  for (const int count : {1, 3, 4, 5, 9}) {
    std::vector<float> stacked;
    StepArrays step;
    for (int i = 0; i < count; ++i) {
      const std::vector<float> row = values_of(projected);
      stacked.insert(stacked.end(), row.begin(), row.end());
      step.add(1, 40, 1 + i, 1 + i);
    }
    const Tensor rows = make_tensor(dtype(), Shape{count, projected.view().dim(1)}, stacked);
    Tensor conv = make_tensor(DType::kBF16, Shape{kSlots, 3, channels},
                              std::vector<float>(kSlots * 3 * channels, 0.25f));
    Tensor ssm = make_tensor(DType::kBF16, Shape{kSlots, kHeads, kDim, kState},
                             std::vector<float>(kSlots * inner * kState, 0.5f));
    Mamba2Inputs in;
    in.z = rows.view().columns(0, inner);
    in.xbc = rows.view().columns(inner, inner + channels);
    in.dt = rows.view().columns(inner + channels, rows.view().dim(1));
    in.conv_weight = weight, in.dt_bias = floats, in.a = a, in.d = floats, in.norm = norm;
    in.num_groups = kGroups, in.chunk_size = 128, in.norm_group = static_cast<int>(inner / kGroups);
    in.dt_max = INFINITY, in.eps = 1e-5f;
    const Tensor out = make_host_tensor(dtype(), Shape{count, inner});
    const Tensor y = make_host_tensor(dtype(), Shape{count, inner});
    const Tensor conv_out = make_host_tensor(dtype(), Shape{count, channels});
    be_->mamba2_mix({out}, in, conv, ssm, conv_out, y, step.view());
    for (int i = 0; i < count; ++i) {
      const std::vector<float> got = values_of(out.view().rows(i, i + 1));
      const std::vector<float> state = values_of(ssm.view()[1 + i]);
      if (alone.empty()) alone = got, alone_state = state;
      EXPECT_EQ(got, alone) << i << " of " << count;
      EXPECT_EQ(state, alone_state) << i << " of " << count;
    }
  }
}

TEST(StateRounding, FallsOnTheTwoNeighboursInProportion) {
  for (const float value : {1.0f, 1.001f, -3.14159f, 6.1e-5f, 6.0e-5f, -3.3e-6f, 5e-8f, 1e-9f,
                            65503.0f, 70000.0f, 1e-30f, 0.0f, -0.0f}) {
    for (const bool half : {false, true}) {
      const auto rounded = [&](uint32_t noise) {
        return half ? half_to_float(noisy_half(value, noise))
                    : to_float(BF16{noisy_bf16(value, noise)});
      };
      double mean = 0;
      const float down = rounded(0), up = rounded(0xffff);
      for (uint32_t noise = 0; noise < 0x10000; ++noise) {
        const float got = rounded(noise);
        ASSERT_TRUE(got == down || got == up) << value;
        mean += got / 65536.0;
      }
      const double target = half ? std::min(value, 65504.0f) : value;
      const double gap = std::abs(double{up} - down);
      EXPECT_NEAR(mean, target, std::max(gap, half ? 0x1p-24 : 0) * 0x1p-12) << value << half;
      EXPECT_LE(std::abs(down), std::abs(target)) << value;
    }
  }
  EXPECT_TRUE(std::isnan(half_to_float(noisy_half(NAN, 0xffff))));
  EXPECT_TRUE(std::isnan(to_float(BF16{noisy_bf16(NAN, 0xffff)})));
  EXPECT_TRUE(std::isinf(to_float(BF16{noisy_bf16(-INFINITY, 0xffff)})));
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
INSTANTIATE_TEST_SUITE_P(All, Convolution, ::testing::ValuesIn(params()), param_name);
INSTANTIATE_TEST_SUITE_P(All, Scan, ::testing::ValuesIn(params()), param_name);
INSTANTIATE_TEST_SUITE_P(All, Mix, ::testing::ValuesIn(params()), param_name);

}  // namespace
}  // namespace videre::testing
