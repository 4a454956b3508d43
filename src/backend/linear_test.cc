// Linear in every weight format against sums in double, on every instruction set.
#include <gtest/gtest.h>

#include <memory>
#include <random>

#include "backend/testing.h"

namespace videre::testing {
namespace {

enum class Stored { kF32, kBF16, kF16, kFp8, kFp8Rows, kNvfp4 };
constexpr const char* kNames[] = {"f32", "bf16", "f16", "fp8", "fp8_rows", "nvfp4"};

// Where a test weight begins, behind an address that malloc gives: a file's may be odd; a card's
// fast ways want 16 bytes.
constexpr size_t kOdd = 1, kAligned = 16;

// A weight as a file would hold it and its values.
struct StoredWeight {
  std::vector<uint8_t> bytes, scale_bytes;
  std::vector<double> values;  // [n, k]
  Tensor bias;
  Weight weight;

  StoredWeight(Stored stored, int64_t n, int64_t k, bool with_bias, uint32_t seed,
               size_t begin = kOdd) {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int> any(0, 255);
    const std::vector<float> random = random_values(n * k, seed, 0.5f);
    values.resize(n * k);
    const auto put = [](std::vector<uint8_t>& to, const void* from, size_t size) {
      const auto* p = static_cast<const uint8_t*>(from);
      to.insert(to.end(), p, p + size);
    };
    bytes.resize(begin);
    scale_bytes.resize(begin);
    DType dtype = DType::kF32;
    Shape scale_shape{1};
    if (stored == Stored::kNvfp4) {
      weight.format = WeightFormat::kNvfp4;
      weight.global_scale = 0.03125f * 1.1f;
      dtype = DType::kU8;
      for (int64_t i = 0; i < n * k / 2; ++i) bytes.push_back(static_cast<uint8_t>(any(generator)));
      scale_shape = Shape{n, k / 16};
      for (int64_t i = 0; i < n * k / 16; ++i) {
        // All finite codes of positive sign, subnormals among them.
        scale_bytes.push_back(static_cast<uint8_t>(any(generator) % 0x7f));
      }
      for (int64_t i = 0; i < n * k; ++i) {
        const uint8_t pair = bytes[begin + i / 2];
        const float code = e2m1_to_float(i % 2 ? pair >> 4 : pair & 15);
        values[i] = double{code} * e4m3_to_float(scale_bytes[begin + i / 16]) * weight.global_scale;
      }
    } else if (stored == Stored::kFp8 || stored == Stored::kFp8Rows) {
      weight.format = WeightFormat::kFp8;
      dtype = DType::kF8E4M3;
      const int64_t count = stored == Stored::kFp8 ? 1 : n;
      scale_shape = Shape{count};
      std::vector<float> scales(count);
      for (int64_t i = 0; i < count; ++i) scales[i] = 0.01f + 0.002f * static_cast<float>(i % 7);
      put(scale_bytes, scales.data(), 4 * count);
      for (int64_t i = 0; i < n * k; ++i) {
        uint8_t code = static_cast<uint8_t>(any(generator));
        if ((code & 0x7f) == 0x7f) code ^= 1;  // no NaN
        bytes.push_back(code);
        values[i] = double{e4m3_to_float(code)} * scales[count == 1 ? 0 : i / k];
      }
    } else {
      dtype = stored == Stored::kF32    ? DType::kF32
              : stored == Stored::kBF16 ? DType::kBF16
                                        : DType::kF16;
      const Tensor rounded = make_tensor(dtype, Shape{n, k}, random);
      put(bytes, rounded.view().raw(), rounded.size_bytes());
      const std::vector<float> as_floats = values_of(rounded);
      values.assign(as_floats.begin(), as_floats.end());
    }
    weight.data =
        ConstView(bytes.data() + begin, dtype, Shape{n, stored == Stored::kNvfp4 ? k / 2 : k});
    if (weight.format != WeightFormat::kPlain) {
      weight.scales =
          ConstView(scale_bytes.data() + begin,
                    stored == Stored::kNvfp4 ? DType::kF8E4M3 : DType::kF32, scale_shape);
    }
    if (with_bias) {
      bias = random_tensor(seed % 2 ? DType::kBF16 : DType::kF32, Shape{n}, seed + 1, 2.0f);
      weight.bias = bias;
    }
  }
};

struct Param {
  std::string isa;
  DType dtype;
  Stored stored;
};

class Linear : public ::testing::TestWithParam<Param> {
 protected:
  void check(int64_t m, int64_t n, int64_t k, bool bias, DType out_dtype, int num_threads = 2) {
    const auto& [isa, dtype, stored] = GetParam();
    SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    const auto be = make_backend(isa, num_threads);
    const StoredWeight w(stored, n, k, bias, static_cast<uint32_t>(m * 31 + n * 7 + k));
    const Island x(dtype, Shape{m, k}, random_values(m * k, static_cast<uint32_t>(m + n + k)));
    const Island out(out_dtype, Shape{m, n});
    be->linear(out, {x.view()}, w.weight);
    expect_product(out.values(), x.values(), w, m, n, k, out_dtype);
    EXPECT_TRUE(out.untouched_around());
  }

  // The same from weights and rows of x that begin at multiples of 16 bytes.
  void check_aligned(int64_t m, int64_t n, int64_t k, bool bias, DType out_dtype) {
    const auto& [isa, dtype, stored] = GetParam();
    SCOPED_TRACE(std::to_string(m) + " x " + std::to_string(n) + " x " + std::to_string(k));
    const auto be = make_backend(isa);
    const StoredWeight w(stored, n, k, bias, static_cast<uint32_t>(m * 31 + n * 7 + k), kAligned);
    const Tensor wide = random_tensor(dtype, Shape{m, 8 + (k + 7) / 8 * 8 + 16}, 5);
    const View x = wide.view().columns(8, 8 + k);
    const Island out(out_dtype, Shape{m, n});
    be->linear(out, {x}, w.weight);
    expect_product(out.values(), values_of(x), w, m, n, k, out_dtype);
    EXPECT_TRUE(out.untouched_around());
  }

  void expect_product(const std::vector<float>& got, const std::vector<float>& in,
                      const StoredWeight& w, int64_t m, int64_t n, int64_t k, DType out_dtype) {
    // A card's tensor cores cut bits off where floats would be rounded.
    const double relative = GetParam().isa == "cuda" ? 1e-5 : 1e-6;
    const std::vector<float> biases =
        w.weight.bias.empty() ? std::vector<float>(n, 0.0f) : values_of(w.bias);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0, magnitude = 0;
        for (int64_t c = 0; c < k; ++c) {
          const double product = in[i * k + c] * w.values[j * k + c];
          sum += product;
          magnitude += std::abs(product);
        }
        sum += biases[j];
        magnitude += std::abs(biases[j]);
        const double rounding = out_dtype == DType::kBF16 ? 0x1p-8 * std::abs(sum) : 0;
        ASSERT_LE(std::abs(got[i * n + j] - sum), relative * magnitude + rounding)
            << "row " << i << ", column " << j << ": " << got[i * n + j] << " for " << sum;
      }
    }
  }
};

TEST_P(Linear, OddSizes) {
  const bool blocks = GetParam().stored == Stored::kNvfp4;
  const auto fit = [&](int64_t k) { return blocks ? (k + 15) / 16 * 16 : k; };
  for (const int64_t m : {1, 2, 3, 4, 5, 7, 8, 9, 11, 12, 13, 24, 25}) {
    check(m, 33, fit(70), m % 2 == 0, GetParam().dtype);
  }
  for (const int64_t n : {1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 64, 67}) {
    check(1, n, fit(40), n % 2 == 0, DType::kF32);
    check(14, n, fit(40), n % 2 == 1, DType::kF32);
  }
  for (const int64_t k :
       {1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 255, 256, 257, 272, 511, 513, 1040}) {
    check(1, 6, fit(k), false, GetParam().dtype);
    check(6, 35, fit(k), true, GetParam().dtype);
    check(19, 35, fit(k), false, GetParam().dtype);
  }
}

TEST_P(Linear, PastBlockEdges) {
  check(1, 261, 4144, true, DType::kF32);
  check(17, 40, 4144, false, DType::kF32);
  check(530, 37, 64, true, GetParam().dtype);
  check(530, 37, 64, true, GetParam().dtype, 1);
}

TEST_P(Linear, Empty) {
  const auto be = make_backend(GetParam().isa);
  const StoredWeight w(GetParam().stored, 5, 32, true, 1);
  const Island x(GetParam().dtype, Shape{0, 32}), out(GetParam().dtype, Shape{0, 5});
  be->linear(out, {x.view()}, w.weight);
  EXPECT_TRUE(out.untouched_around());
}

// The fused op gives the bits of the two that it stands for.
TEST_P(Linear, SquaredRelu) {
  const auto be = make_backend(GetParam().isa);
  const DType dtype = GetParam().dtype;
  for (const int64_t m : {1, 2, 5, 20, 70}) {
    for (const int64_t k : {48, 272}) {
      const StoredWeight w(GetParam().stored, 45, k, m % 2 == 0, 3, kAligned);
      const Tensor x = random_tensor(dtype, Shape{m, k}, 4);
      const Island fused(dtype, Shape{m, 45}), apart(dtype, Shape{m, 45});
      be->linear_relu2(fused, {x}, w.weight);
      be->linear(apart, {x}, w.weight);
      be->relu2({apart.view()}, apart);
      EXPECT_EQ(fused.values(), apart.values()) << m << " rows of " << k;
      EXPECT_TRUE(fused.untouched_around());
    }
  }
}

// A row's bits are the same alone and among others, so that batching never changes an answer.
TEST_P(Linear, RowsDoNotDependOnTheirNumber) {
  const auto& [isa, dtype, stored] = GetParam();
  const auto be = make_backend(isa);
  for (const int64_t k : {48, 320, 5136}) {
    if (isa == "emulated" && k > 1000) continue;  // 40 rows take seconds there
    const StoredWeight w(stored, 45, k, true, 3);
    const Tensor x = random_tensor(dtype, Shape{40, k}, 4);
    const Tensor all = be->allocate(DType::kF32, Shape{40, 45});
    be->linear(all, {x}, w.weight);
    for (const int64_t m : {1, 2, 3, 4, 5, 6, 8, 9, 13, 29}) {
      // Few rows apply a block's scale to sums of codes, more rows to the codes.
      if (isa == "avx512_bf16" && dtype == DType::kBF16 && stored == Stored::kNvfp4 && m <= 12) {
        continue;
      }
      const Tensor part = be->allocate(DType::kF32, Shape{m, 45});
      be->linear(part, {x.view().rows(7, 7 + m)}, w.weight);
      const auto got = values_of(part), expected = values_of(all.view().rows(7, 7 + m));
      if (be->name() == "cpu" || dtype == DType::kF32) {
        EXPECT_EQ(got, expected) << m << " rows of " << k;
        continue;
      }
      // A card has other kernels for one row, few and many: they sum in another order.
      for (size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], expected[i], 1e-3 * std::sqrt(static_cast<double>(k)))
            << m << " rows of " << k;
      }
    }
  }
}

TEST_P(Linear, AlignedSizes) {
  const int64_t piece = GetParam().stored == Stored::kNvfp4 ? 32
                        : GetParam().stored == Stored::kFp8 || GetParam().stored == Stored::kFp8Rows
                            ? 16
                            : 8;
  const auto fit = [&](int64_t k) { return (k + piece - 1) / piece * piece; };
  for (const int64_t m : {0, 1, 2, 3, 7, 8, 9, 16, 17, 32, 33, 64, 65, 130}) {
    check_aligned(m, 33, fit(72), m % 2 == 0, GetParam().dtype);
    check_aligned(m, 70, fit(200), m % 2 == 1, DType::kF32);
  }
  for (const int64_t n : {1, 2, 15, 16, 17, 63, 64, 65, 129, 257}) {
    for (const int64_t m : {1, 6, 14, 30}) check_aligned(m, n, fit(40), n % 2 == 0, DType::kF32);
  }
  for (const int64_t k : {1, 31, 32, 33, 63, 64, 65, 127, 128, 255, 256, 264, 511, 513, 1030}) {
    for (const int64_t m : {1, 11, 40}) check_aligned(m, 19, fit(k), true, GetParam().dtype);
  }
  check_aligned(193, 257, fit(136), true, GetParam().dtype);
  check_aligned(300, 40, fit(72), false, GetParam().dtype);
  check_aligned(2200, 9, fit(16), true, DType::kF32);
  check_aligned(1, 40, fit(8192), true, DType::kF32);
  if (GetParam().dtype == DType::kBF16 && GetParam().stored == Stored::kBF16) {
    for (const int64_t m : {1, 2}) check_aligned(m, (1 << 16) + 9, 40 * m, true, DType::kF32);
  }
  for (const int64_t m : {2, 3, 12, 20, 40}) check_aligned(m, 400, fit(1300), true, DType::kF32);
}

// On a card a row's bits follow from how many rows there are, in five steps, and from nothing else.
TEST_P(Linear, RowsDependOnTheirNumberInSteps) {
  const auto& [isa, dtype, stored] = GetParam();
  if (isa != "emulated" && isa != "cuda") return;
  const auto be = make_backend(isa);
  const int64_t k = 2048, n = 45;
  const StoredWeight w(stored, n, k, true, 3, kAligned);
  const Tensor x = random_tensor(dtype, Shape{64, k}, 4);
  const int64_t steps[] = {0, 1, 8, 16, 32, 64};
  for (int step = 1; step < 6; ++step) {
    const Tensor all = be->allocate(DType::kF32, Shape{steps[step], n});
    be->linear(all, {x.view().rows(0, steps[step])}, w.weight);
    for (const int64_t m : {steps[step - 1] + 1, steps[step] - 1}) {
      if (m <= steps[step - 1]) continue;
      const int64_t first = steps[step] - m;
      const Tensor part = be->allocate(DType::kF32, Shape{m, n});
      be->linear(part, {x.view().rows(first, first + m)}, w.weight);
      std::vector<float> got(m * n), expected(m * n);
      be->download(got.data(), part);
      be->download(expected.data(), all.view().rows(first, first + m));
      EXPECT_EQ(got, expected) << m << " of " << steps[step] << " rows";
    }
  }
}

std::vector<Param> params() {
  std::vector<Param> all;
  for (const std::string& isa : devices()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const Stored stored : {Stored::kF32, Stored::kBF16, Stored::kF16, Stored::kFp8,
                                  Stored::kFp8Rows, Stored::kNvfp4}) {
        all.push_back({isa, dtype, stored});
      }
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, Linear, ::testing::ValuesIn(params()), [](const auto& info) {
  return info.param.isa + "_" + (info.param.dtype == DType::kF32 ? "float32" : "bfloat16") + "_" +
         kNames[static_cast<int>(info.param.stored)];
});

}  // namespace
}  // namespace videre::testing
