#include "weights/quantize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace videre {
namespace {

// Kernels that this machine runs, the plain ones first.
std::vector<const QuantizeKernels*> all_kernels() {
  std::vector<const QuantizeKernels*> out;
  for (const char* isa : {"plain", "avx2", "avx512"}) {
    const QuantizeKernels& kernels = quantize_kernels(isa);
    if (std::string_view(kernels.isa) == isa) out.push_back(&kernels);
  }
  return out;
}

// Every bfloat16 that is a number, as floats and in the given dtype.
std::vector<float> all_bfloat16() {
  std::vector<float> out;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(BF16{static_cast<uint16_t>(bits)});
    if (std::isfinite(value)) out.push_back(value);
  }
  return out;
}

std::vector<uint16_t> to_bits(const std::vector<float>& values) {
  std::vector<uint16_t> out;
  for (const float value : values) out.push_back(to_bf16(value).bits);
  return out;
}

TEST(QuantizeTest, E4m3IsTheNearestCode) {
  std::vector<float> values = all_bfloat16();
  std::mt19937 random(1);
  std::uniform_real_distribution<float> near(-500, 500), tiny(-0.02f, 0.02f);
  for (int i = 0; i < 100'001; ++i) values.push_back(i % 2 ? near(random) : tiny(random));
  for (int code = 0; code < 0x7e; ++code) {  // halfway between neighbours
    const float a = e4m3_to_float(static_cast<uint8_t>(code));
    const float b = e4m3_to_float(static_cast<uint8_t>(code + 1));
    for (const float x : {a, (a + b) / 2, std::nextafter((a + b) / 2, 0.0f),
                          std::nextafter((a + b) / 2, 1000.0f)}) {
      values.push_back(x);
      values.push_back(-x);
    }
  }
  values.insert(values.end(), {INFINITY, -INFINITY, NAN});
  const auto n = static_cast<int64_t>(values.size());
  for (const QuantizeKernels* kernels : all_kernels()) {
    for (const float scale : {1.0f, 0.37f, 3.1e-4f}) {
      std::vector<uint8_t> codes(values.size());
      kernels->to_e4m3(codes.data(), values.data(), DType::kF32, n, scale);
      std::vector<float> through(values.size());
      kernels->through_e4m3(through.data(), values.data(), n, scale);
      for (int64_t i = 0; i < n; ++i) {
        const uint8_t expected = float_to_e4m3(values[i] / scale);
        ASSERT_EQ(codes[i] & (std::isnan(values[i]) ? 0x7f : 0xff), expected)
            << kernels->isa << ": " << values[i] << " / " << scale;
        if (!std::isnan(values[i])) {
          ASSERT_EQ(through[i], e4m3_to_float(expected) * scale) << kernels->isa << values[i];
        }
      }
    }
  }
}

TEST(QuantizeTest, ReadsAllThreeDtypes) {
  std::vector<float> values = all_bfloat16();
  const std::vector<uint16_t> bfloats = to_bits(values);
  std::vector<uint16_t> halves;
  std::vector<float> half_values;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (!std::isfinite(half_to_float(static_cast<uint16_t>(bits)))) continue;
    halves.push_back(static_cast<uint16_t>(bits));
    half_values.push_back(half_to_float(static_cast<uint16_t>(bits)));
  }
  for (const QuantizeKernels* kernels : all_kernels()) {
    const auto codes_of = [&](const void* src, DType dtype, size_t n) {
      std::vector<uint8_t> codes(n);
      kernels->to_e4m3(codes.data(), src, dtype, static_cast<int64_t>(n), 0.1f);
      return codes;
    };
    EXPECT_EQ(codes_of(bfloats.data(), DType::kBF16, bfloats.size()),
              codes_of(values.data(), DType::kF32, values.size()));
    EXPECT_EQ(codes_of(halves.data(), DType::kF16, halves.size()),
              codes_of(half_values.data(), DType::kF32, half_values.size()));
    EXPECT_EQ(kernels->amax(halves.data(), DType::kF16, std::ssize(halves)), 65504.0f);
  }
}

TEST(QuantizeTest, AmaxSeesEveryPlaceAndWhatIsNoNumber) {
  for (const QuantizeKernels* kernels : all_kernels()) {
    for (int64_t n = 0; n < 70; ++n) {
      std::vector<uint16_t> values(n, to_bf16(0.5f).bits);
      EXPECT_EQ(kernels->amax(values.data(), DType::kBF16, n), n == 0 ? 0.0f : 0.5f);
      for (int64_t i = 0; i < n; ++i) {
        values[i] = to_bf16(-2.0f).bits;
        ASSERT_EQ(kernels->amax(values.data(), DType::kBF16, n), 2.0f) << n << " " << i;
        values[i] = to_bf16(NAN).bits;
        ASSERT_TRUE(std::isnan(kernels->amax(values.data(), DType::kBF16, n)));
        values[i] = to_bf16(0.5f).bits;
      }
    }
  }
}

TEST(QuantizeTest, Nvfp4FollowsTheFormat) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  std::vector<float> values;
  for (int block = 0; block < 3000; ++block) {
    const float spread = std::exp(normal(random) * 3);
    for (int i = 0; i < 16; ++i) values.push_back(to_float(to_bf16(normal(random) * spread)));
  }
  values.insert(values.end(), 16, 0.0f);                             // a block of zeros
  for (int i = 0; i < 16; ++i) values.push_back(i % 2 ? 1e-9f : 0);  // its scale rounds to zero
  for (int i = 0; i < 16; ++i) values.push_back(static_cast<float>(i) * 0.25f);  // ties
  const auto n = static_cast<int64_t>(values.size());
  float most = 0;
  for (const float value : values) most = std::max(most, std::fabs(value));
  for (const float global : {most / (6 * 448), 6.0f / (6 * 448)}) {
    std::vector<uint8_t> codes(n / 2), scales(n / 16);
    std::vector<float> through(n);
    for (const QuantizeKernels* kernels : all_kernels()) {
      kernels->to_nvfp4(codes.data(), scales.data(), values.data(), DType::kF32, n, global);
      kernels->through_nvfp4(through.data(), values.data(), n, global);
      for (int64_t b = 0; b < n / 16; ++b) {
        float block = 0;
        for (int i = 0; i < 16; ++i) block = std::max(block, std::fabs(values[b * 16 + i]));
        const uint8_t scale = block == 0 ? 0x38 : float_to_e4m3(block / (6 * global));
        ASSERT_EQ(scales[b], scale) << kernels->isa << " block " << b;
        const float divisor = e4m3_to_float(scale) * global;
        for (int i = 0; i < 16; ++i) {
          const int64_t at = b * 16 + i;
          const uint8_t code = codes[at / 2] >> (i % 2 * 4) & 15;
          const uint8_t expected = divisor == 0 ? 0 : float_to_e2m1(values[at] / divisor);
          ASSERT_EQ(code, expected) << kernels->isa << " " << values[at];
          ASSERT_EQ(through[at], e2m1_to_float(expected) * divisor) << kernels->isa;
        }
      }
    }
  }
}

}  // namespace
}  // namespace videre
