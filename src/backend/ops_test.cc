// Norms, pointwise ops, vision ops and row picking against plain loops in double, on every
// instruction set and in both activation dtypes.
#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <memory>

#include "backend/testing.h"

namespace videre::testing {
namespace {

struct OpsParam {
  std::string device;
  DType dtype;
  bool aligned;  // rows start at multiples of 16 bytes where their width allows
};

class Ops : public ::testing::TestWithParam<OpsParam> {
 protected:
  Ops() : be_(make_backend(GetParam().device)) {}
  DType dtype() const { return GetParam().dtype; }
  Island island(DType dtype, Shape shape, const std::vector<float>& values) const {
    return Island(dtype, shape, values, GetParam().aligned);
  }
  Island random(Shape shape, uint32_t seed, float scale = 1) const {
    return island(dtype(), shape, random_values(shape.numel(), seed, scale));
  }
  void expect(const Island& got, const std::vector<double>& expected, const std::string& what) {
    expect_near(got.values(), expected, dtype(), 2e-6, 2e-6, what);
    EXPECT_TRUE(got.untouched_around()) << what;
  }
  static double rounded(double value, DType dtype) {
    const auto narrow = static_cast<float>(value);
    return dtype == DType::kBF16 ? to_float(to_bf16(narrow)) : narrow;
  }

  std::unique_ptr<Backend> be_;
};

const std::vector<Shape> kShapes = {Shape{0, 5},    Shape{1, 1},    Shape{3, 2},    Shape{2, 15},
                                    Shape{5, 16},   Shape{7, 17},   Shape{2, 33},   Shape{1, 64},
                                    Shape{9, 80},   Shape{3, 257},  Shape{70, 300}, Shape{2, 5120},
                                    Shape{3, 2056}, Shape{1, 8200}, Shape{1, 40000}};

std::vector<double> normed(const std::vector<float>& x, const std::vector<float>& weight,
                           double eps) {
  std::vector<double> out(x.size());
  const size_t width = weight.size();
  for (size_t row = 0; row * width < x.size(); ++row) {
    double squares = 0;
    for (size_t i = 0; i < width; ++i) squares += double{x[row * width + i]} * x[row * width + i];
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (size_t i = 0; i < width; ++i) {
      out[row * width + i] = x[row * width + i] * factor * weight[i];
    }
  }
  return out;
}

std::vector<double> layer_normed(const std::vector<float>& x, const std::vector<float>& weight,
                                 const std::vector<float>& bias, double eps) {
  std::vector<double> out(x.size());
  const size_t width = weight.size();
  for (size_t row = 0; row * width < x.size(); ++row) {
    double mean = 0, squares = 0;
    for (size_t i = 0; i < width; ++i) mean += x[row * width + i] / static_cast<double>(width);
    for (size_t i = 0; i < width; ++i) squares += std::pow(x[row * width + i] - mean, 2);
    const double factor = 1 / std::sqrt(squares / static_cast<double>(width) + eps);
    for (size_t i = 0; i < width; ++i) {
      out[row * width + i] = (x[row * width + i] - mean) * factor * weight[i] + bias[i];
    }
  }
  return out;
}

// What the residual becomes: the sum, rounded to its dtype.
std::vector<float> sums(const Island& residual, const Island& x) {
  std::vector<float> a = residual.values();
  const std::vector<float> b = x.values();
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] += b[i];
    if (residual.view().dtype() == DType::kBF16) a[i] = to_float(to_bf16(a[i]));
  }
  return a;
}

TEST_P(Ops, RmsNorm) {
  uint32_t seed = 1;
  for (const Shape& shape : kShapes) {
    const DType weight_dtype = shape[0] % 2 ? DType::kBF16 : DType::kF32;
    const Tensor weight = random_tensor(weight_dtype, Shape{shape[1]}, ++seed);
    const Island x = random(shape, ++seed, 3), out = random(shape, ++seed);
    be_->rms_norm({out.view()}, x, weight, 1e-5f);
    expect(out, normed(x.values(), values_of(weight), 1e-5), shape.to_string());

    const Island residual = random(shape, ++seed, 3);
    const std::vector<float> sum = sums(residual, x);
    be_->add_rms_norm({out.view()}, residual, x, weight, 1e-5f);
    EXPECT_EQ(residual.values(), sum);
    expect(out, normed(sum, values_of(weight), 1e-5), "added " + shape.to_string());
    EXPECT_TRUE(residual.untouched_around());
  }
}

TEST_P(Ops, ResidualInFloat) {
  const Island residual = island(DType::kF32, Shape{4, 100}, random_values(400, 1));
  const Island x = random(Shape{4, 100}, 2, 1e-3f), out = random(Shape{4, 100}, 3);
  const Tensor weight = random_tensor(DType::kF32, Shape{100}, 4);
  const std::vector<float> sum = sums(residual, x);
  be_->add_rms_norm({out.view()}, residual, x, weight, 1e-5f);
  EXPECT_EQ(residual.values(), sum);
  expect(out, normed(sum, values_of(weight), 1e-5), "float residual");
}

TEST_P(Ops, LayerNorm) {
  uint32_t seed = 100;
  for (const Shape& shape : kShapes) {
    if (shape[1] == 1) continue;  // no variance: 0 times a large factor
    const Tensor weight = random_tensor(DType::kBF16, Shape{shape[1]}, ++seed);
    const Tensor bias = random_tensor(DType::kF32, Shape{shape[1]}, ++seed);
    const Island x = random(shape, ++seed, 2), out = random(shape, ++seed);
    be_->layer_norm({out.view()}, x, weight, bias, 1e-6f);
    expect_near(out.values(), layer_normed(x.values(), values_of(weight), values_of(bias), 1e-6),
                dtype(), 1e-5, 1e-5, shape.to_string());
    EXPECT_TRUE(out.untouched_around());

    const Island residual = random(shape, ++seed, 2);
    const std::vector<float> sum = sums(residual, x);
    be_->add_layer_norm({out.view()}, residual, x, weight, bias, 1e-6f);
    EXPECT_EQ(residual.values(), sum);
    expect_near(out.values(), layer_normed(sum, values_of(weight), values_of(bias), 1e-6), dtype(),
                1e-5, 1e-5, "added " + shape.to_string());
  }
}

TEST_P(Ops, GatedRmsNorm) {
  uint32_t seed = 200;
  for (const auto& [shape, group] : std::vector<std::pair<Shape, int>>{{{0, 8}, 8},
                                                                       {{1, 1}, 1},
                                                                       {{3, 24}, 8},
                                                                       {{5, 48}, 16},
                                                                       {{2, 96}, 48},
                                                                       {{4, 51}, 17},
                                                                       {{2, 300}, 30},
                                                                       {{3, 1280}, 160},
                                                                       {{2, 2560}, 1280}}) {
    const Tensor weight = random_tensor(DType::kBF16, Shape{shape[1]}, ++seed);
    const Island y = random(shape, ++seed, 2), z = random(shape, ++seed, 4);
    const Island out = random(shape, ++seed);
    be_->gated_rms_norm({out.view()}, y, z, weight, group, 1e-5f);
    const std::vector<float> ys = y.values(), zs = z.values(), w = values_of(weight);
    std::vector<double> expected(ys.size());
    for (size_t first = 0; first < ys.size(); first += group) {
      double squares = 0;
      for (size_t i = first; i < first + group; ++i) {
        expected[i] = ys[i] * (zs[i] / (1 + std::exp(-double{zs[i]})));
        squares += expected[i] * expected[i];
      }
      for (size_t i = first; i < first + group; ++i) {
        expected[i] *= w[i % shape[1]] / std::sqrt(squares / group + 1e-5);
      }
    }
    expect(out, expected, shape.to_string());
  }
}

TEST_P(Ops, Pointwise) {
  uint32_t seed = 300;
  for (const Shape& shape : kShapes) {
    const Island x = random(shape, ++seed, 3), y = random(shape, ++seed), out = random(shape, 1);
    const std::vector<float> xs = x.values();
    std::vector<double> squares, gelus;
    for (const float v : xs) {
      squares.push_back(v > 0 ? double{v} * v : 0);
      gelus.push_back(0.5 * v * (1 + std::erf(v / std::sqrt(2.0))));
    }
    be_->relu2({out.view()}, x);
    expect(out, squares, "relu2 " + shape.to_string());
    be_->gelu({out.view()}, x);
    expect(out, gelus, "gelu " + shape.to_string());

    const Tensor gamma = random_tensor(DType::kBF16, Shape{shape[1]}, ++seed);
    const std::vector<float> gammas = values_of(gamma);
    std::vector<double> scaled;
    for (size_t i = 0; i < xs.size(); ++i) {
      scaled.push_back(double{xs[i]} * gammas[i % shape[1]]);
    }
    const Island product = island(dtype(), shape, xs);
    be_->scale_columns(product, gamma);
    expect(product, scaled, "scale_columns " + shape.to_string());

    const std::vector<float> sum = sums(x, y);
    be_->add(x, y);
    EXPECT_EQ(x.values(), sum);
    EXPECT_TRUE(x.untouched_around());
  }
}

TEST_P(Ops, PointwiseOverManyBlocks) {
  for (const Shape& shape : {Shape{37, 8200}, Shape{1, 300000}}) {
    const Island x = random(shape, 1, 3), y = random(shape, 2), out = random(shape, 3);
    const Tensor gamma = random_tensor(DType::kF32, Shape{shape[1]}, 4);
    const std::vector<float> xs = x.values(), gammas = values_of(gamma), sum = sums(x, y);
    be_->relu2({out.view()}, x);
    std::vector<double> expected;
    for (const float v : xs) expected.push_back(v > 0 ? double{v} * v : 0);
    expect(out, expected, "relu2");
    be_->copy(out, x);
    EXPECT_EQ(out.values(), xs);
    be_->scale_columns(out, gamma);
    for (size_t i = 0; i < xs.size(); ++i) expected[i] = double{xs[i]} * gammas[i % shape[1]];
    expect(out, expected, "scale_columns");
    be_->add(x, y);
    EXPECT_EQ(x.values(), sum);
  }
}

TEST_P(Ops, PointwiseAtTheEdges) {
  const float inf = INFINITY;
  const std::vector<float> values{0.0f, -0.0f, 1e-30f, -1e-30f, 30, -30, 100, -100, 1e18f, inf, -5};
  const int64_t n = std::ssize(values);
  const Island x = island(dtype(), Shape{1, n}, values), out = random(Shape{1, n}, 1);
  be_->gelu({out.view()}, x);
  std::vector<float> got = out.values();
  EXPECT_EQ(got[0], 0);
  EXPECT_EQ(got[5], 0);
  EXPECT_EQ(got[6], 100);
  EXPECT_EQ(got[9], inf);
  EXPECT_NEAR(got[10], -1.4333e-6, 5e-7);
  be_->relu2({out.view()}, x);
  EXPECT_EQ(out.values()[7], 0);
  EXPECT_EQ(out.values()[9], inf);
  const Island nan(dtype(), Shape{1, 3}, {NAN, 1, -1}), squared(dtype(), Shape{1, 3});
  be_->relu2({squared.view()}, nan);
  EXPECT_TRUE(std::isnan(squared.values()[0]));  // a broken row shows
}

TEST_P(Ops, CopyBetweenDtypes) {
  for (const DType from : {DType::kF32, DType::kBF16, DType::kF16}) {
    for (const DType to : {DType::kF32, DType::kBF16, DType::kF16}) {
      const Island x = island(from, Shape{3, 2, 37}, random_values(3 * 2 * 37, 5));
      const Island out = island(to, Shape{3, 2, 37}, std::vector<float>(3 * 2 * 37));
      be_->copy(out, x);
      EXPECT_EQ(out.values(), values_of(make_tensor(to, Shape{3, 2, 37}, x.values())));
      EXPECT_TRUE(out.untouched_around());
    }
  }
  // What only moves: codes and bytes too, and outer dims that no single stride walks.
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF8E4M3, DType::kU8, DType::kI32}) {
    std::vector<float> values(4 * 3 * 5 * 32);
    for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i % 13);
    const Island x = island(dtype, Shape{4, 3, 5, 32}, values);
    const Island out = island(dtype, Shape{4, 3, 5, 32}, std::vector<float>(values.size()));
    be_->copy(out, x);
    EXPECT_EQ(out.values(), values);
    const View part = x.view().slice(1, 1, 3).slice(2, 0, 4);
    const Island small = island(dtype, Shape{4, 2, 4, 32}, std::vector<float>(4 * 2 * 4 * 32));
    be_->copy(small, part);
    EXPECT_EQ(small.values(), values_of(part));
    EXPECT_TRUE(small.untouched_around());
  }
}

TEST_P(Ops, ZeroUploadDownload) {
  const Island x = random(Shape{5, 19}, 3);
  be_->zero(x);
  EXPECT_EQ(x.values(), std::vector<float>(5 * 19, 0.0f));
  EXPECT_TRUE(x.untouched_around());
  const Island strided = random(Shape{4, 9}, 4);
  Tensor dense = be_->allocate(dtype(), Shape{4, 9});
  EXPECT_EQ(values_of(dense), std::vector<float>(36, 0.0f));
  be_->download(dense.view().raw(), strided);
  EXPECT_EQ(values_of(dense), strided.values());
  Tensor again = be_->allocate(dtype(), Shape{4, 9});
  be_->upload(again, dense.view().raw());
  EXPECT_EQ(values_of(again), strided.values());
  be_->zero(strided);
  be_->upload(strided, dense.view().raw());
  EXPECT_EQ(strided.values(), values_of(again));
  EXPECT_TRUE(strided.untouched_around());
  // Past a megabyte memory comes in pages of its own.
  const Tensor large = be_->allocate(DType::kF32, Shape{600, 1000});
  EXPECT_EQ(values_of(large.view().rows(599, 600)), std::vector<float>(1000, 0.0f));
}

TEST_P(Ops, NormalizePixels) {
  const std::array<float, 3> mean{0.48f, 0.45f, 0.4f}, std{0.26f, 0.27f, 0.28f};
  for (const int width : {21, 48}) {
    const Shape shape{2, 3, 9, width};
    std::vector<float> bytes(shape.numel());
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<float>(i * 37 % 256);
    const Island rgb = island(DType::kU8, shape, bytes), out = random(shape, 1);
    be_->normalize_pixels(out, rgb, mean, std);
    std::vector<double> expected;
    for (size_t i = 0; i < bytes.size(); ++i) {
      const size_t channel = i / (9 * width) % 3;
      expected.push_back((bytes[i] / 255.0 - mean[channel]) / std[channel]);
    }
    expect(out, expected, "normalize_pixels");
  }
}

TEST_P(Ops, Patchify) {
  for (const auto& [height, width, p] :
       {std::tuple{4, 4, 4}, {6, 10, 2}, {32, 16, 16}, {16, 48, 8}}) {
    const Island pixels = random(Shape{2, 3, height, width}, 7);
    const int rows = height / p, cols = width / p;
    const Island out = random(Shape{2, rows * cols, 3 * p * p}, 8);
    be_->patchify(out, pixels, p);
    const std::vector<float> from = pixels.values(), got = out.values();
    size_t at = 0;
    for (int tile = 0; tile < 2; ++tile) {
      for (int row = 0; row < rows; ++row) {
        for (int col = 0; col < cols; ++col) {
          for (int channel = 0; channel < 3; ++channel) {
            for (int y = 0; y < p; ++y) {
              for (int x = 0; x < p; ++x) {
                const int source =
                    ((tile * 3 + channel) * height + row * p + y) * width + col * p + x;
                ASSERT_EQ(got[at++], from[source]);
              }
            }
          }
        }
      }
    }
    EXPECT_TRUE(out.untouched_around());
  }
}

TEST_P(Ops, AssembleTokens) {
  for (const int width : {11, 24}) {
    const Island patches = random(Shape{3, 6, width}, 1);
    const Tensor positions = random_tensor(DType::kBF16, Shape{6, width}, 2);
    const Tensor prefix = random_tensor(DType::kF32, Shape{4, width}, 3);
    const Island out = random(Shape{3, 10, width}, 4);
    be_->assemble_tokens(out, patches, positions, prefix);
    std::vector<double> expected;
    const std::vector<float> p = patches.values(), t = values_of(positions), c = values_of(prefix);
    for (int tile = 0; tile < 3; ++tile) {
      expected.insert(expected.end(), c.begin(), c.end());
      for (int i = 0; i < 6 * width; ++i)
        expected.push_back(double{p[tile * 6 * width + i]} + t[i]);
    }
    expect(out, expected, "assemble_tokens");
  }
}

TEST_P(Ops, PixelShuffle) {
  for (const auto& [width, transposed] :
       {std::pair{5, false}, {5, true}, {6, true}, {16, false}, {32, true}}) {
    const int rows = 4, cols = 6, f = 2;
    const Island all = random(Shape{2, 3 + rows * cols, width}, 5);
    const View x = all.view().slice(1, 3, 3 + rows * cols);  // tiles lie apart
    const Island out = random(Shape{2, rows * cols / 4, 4 * width}, 6);
    be_->pixel_shuffle(out, x, rows, cols, f, transposed);
    const std::vector<float> from = values_of(x), got = out.values();
    for (int tile = 0; tile < 2; ++tile) {
      for (int i = 0; i < rows / f; ++i) {
        for (int j = 0; j < cols / f; ++j) {
          const int token = transposed ? j * (rows / f) + i : i * (cols / f) + j;
          for (int dy = 0; dy < f; ++dy) {
            for (int dx = 0; dx < f; ++dx) {
              for (int e = 0; e < width; ++e) {
                const int to = (tile * 6 + token) * 4 * width + (dy * f + dx) * width + e;
                const int source =
                    (tile * rows * cols + (i * f + dy) * cols + j * f + dx) * width + e;
                ASSERT_EQ(got[to], from[source]);
              }
            }
          }
        }
      }
    }
    EXPECT_TRUE(out.untouched_around());
  }
}

TEST_P(Ops, FrameDissimilarity) {
  for (const int width : {45, 48, 1288}) {
    const int tokens = 3, frames = 4;
    const Island rows = random(Shape{frames * tokens, width}, 1);
    const Island previous = random(Shape{tokens, width}, 2);
    const std::vector<float> now = rows.values(), before = previous.values();
    const auto row = [&](int frame, int token, int i) {
      return frame < 0 ? before[token * width + i] : now[(frame * tokens + token) * width + i];
    };
    for (const bool first : {true, false}) {
      Tensor out = be_->allocate(DType::kF32, Shape{frames, tokens});
      be_->frame_dissimilarity(out, rows, first ? ConstView() : ConstView(previous), tokens,
                               EvsArithmetic::kFloat32);
      std::vector<double> expected;
      for (int frame = 0; frame < frames; ++frame) {
        for (int token = 0; token < tokens; ++token) {
          double ab = 0, aa = 0, bb = 0;
          for (int i = 0; i < width; ++i) {
            ab += double{row(frame, token, i)} * row(frame - 1, token, i);
            aa += double{row(frame, token, i)} * row(frame, token, i);
            bb += double{row(frame - 1, token, i)} * row(frame - 1, token, i);
          }
          expected.push_back(first && frame == 0 ? 255 : 1 - ab / std::sqrt(aa * bb));
        }
      }
      expect_near(values_of(out), expected, DType::kF32, 0, 1e-6, "float32");

      // The same with every intermediate rounded to bfloat16.
      be_->frame_dissimilarity(out, rows, first ? ConstView() : ConstView(previous), tokens,
                               EvsArithmetic::kBFloat16);
      const auto bf16 = [](double v) { return rounded(v, DType::kBF16); };
      for (int frame = first ? 1 : 0; frame < frames; ++frame) {
        for (int token = 0; token < tokens; ++token) {
          double aa = 0, bb = 0, sum = 0;
          for (int i = 0; i < width; ++i) {
            aa += double{row(frame, token, i)} * row(frame, token, i);
            bb += double{row(frame - 1, token, i)} * row(frame - 1, token, i);
          }
          for (int i = 0; i < width; ++i) {
            const double a = bf16(row(frame, token, i) / bf16(std::sqrt(aa)));
            sum += bf16(a * bf16(row(frame - 1, token, i) / bf16(std::sqrt(bb))));
          }
          const float got = values_of(out)[frame * tokens + token];
          EXPECT_EQ(got, bf16(1 - bf16(sum))) << frame << ' ' << token;
        }
      }
    }
  }
  // A row of zeros has no direction: the smallest norm stands in.
  const Tensor zeros = be_->allocate(dtype(), Shape{2, 45});
  Tensor out = be_->allocate(DType::kF32, Shape{2, 1});
  be_->frame_dissimilarity(out, zeros, {}, 1, EvsArithmetic::kFloat32);
  EXPECT_EQ(values_of(out), (std::vector<float>{255, 1}));
}

TEST_P(Ops, EmbedAndGather) {
  for (const auto& [table_dtype, width] : {std::pair{DType::kF32, 33},
                                           {DType::kBF16, 33},
                                           {DType::kF16, 33},
                                           {DType::kF32, 64},
                                           {DType::kBF16, 64}}) {
    const Tensor table = random_tensor(table_dtype, Shape{20, width}, 1);
    const Tensor ids = make_tensor(DType::kI32, Shape{5}, {3, -1, 19, -3, 0});
    const Tensor last = make_tensor(DType::kI32, Shape{3}, {7, 8, 9});
    const Island out = random(Shape{5, width}, 2);
    be_->embed(out, table, ids, last);
    std::vector<float> expected;
    for (const int row : {3, 7, 19, 9, 0}) {
      const auto values = values_of(
          make_tensor(dtype(), Shape{1, width}, values_of(table.view().rows(row, row + 1))));
      expected.insert(expected.end(), values.begin(), values.end());
    }
    EXPECT_EQ(out.values(), expected);
    EXPECT_TRUE(out.untouched_around());
  }
  for (const int width : {21, 64, 9000}) {
    const Island src = random(Shape{6, width}, 3), out = random(Shape{4, width}, 4);
    const Tensor rows = make_tensor(DType::kI32, Shape{4}, {5, -1, 0, 5});
    const std::vector<float> before = out.values(), from = src.values();
    be_->gather_rows(out, src, rows);
    const std::vector<float> got = out.values();
    for (int i = 0; i < width; ++i) {
      EXPECT_EQ(got[i], from[5 * width + i]);
      EXPECT_EQ(got[width + i], before[width + i]);  // left as it was
      EXPECT_EQ(got[2 * width + i], from[i]);
      EXPECT_EQ(got[3 * width + i], from[5 * width + i]);
    }
    EXPECT_TRUE(out.untouched_around());
  }
}

std::vector<OpsParam> params() {
  std::vector<OpsParam> all;
  for (const std::string& device : devices()) {
    for (const DType dtype : {DType::kF32, DType::kBF16}) {
      for (const bool aligned : {false, true}) all.push_back({device, dtype, aligned});
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, Ops, ::testing::ValuesIn(params()), [](const auto& info) {
  return info.param.device + (info.param.dtype == DType::kF32 ? "_float32" : "_bfloat16") +
         (info.param.aligned ? "_aligned" : "");
});

}  // namespace
}  // namespace videre::testing
