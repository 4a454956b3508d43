#include "media/resize.h"

#include <gtest/gtest.h>

#include <random>

#include "media/resize_kernels.h"

namespace videre {
namespace {

// One gray row as a picture, resized in one direction or the other.
std::vector<int> resize_row(const std::vector<uint8_t>& row, int out, bool vertical,
                            const internal::ResizeKernels& kernels) {
  Image image;
  image.width = vertical ? 1 : static_cast<int>(row.size());
  image.height = vertical ? static_cast<int>(row.size()) : 1;
  for (const uint8_t value : row) image.rgb.insert(image.rgb.end(), 3, value);
  const Image result =
      internal::resize_bicubic(image, vertical ? 1 : out, vertical ? out : 1, kernels);
  std::vector<int> values;
  for (int i = 0; i < out; ++i) values.push_back(result.rgb[3 * i + i % 3]);
  return values;
}

std::vector<const internal::ResizeKernels*> all_kernels() {
  std::vector<const internal::ResizeKernels*> all;
  for (auto* kernels = internal::resize_kernels(); *kernels; ++kernels) all.push_back(*kernels);
  return all;
}

Image noise(int width, int height, unsigned seed) {
  std::mt19937 random(seed);
  Image image;
  image.width = width;
  image.height = height;
  image.rgb.resize(3 * static_cast<size_t>(width) * height);
  // Mostly extremes: they overshoot, so that clamping is exercised.
  for (uint8_t& value : image.rgb) {
    const unsigned r = random();
    value = r & 1 ? (r & 2 ? 255 : 0) : r >> 8;
  }
  return image;
}

TEST(Resize, PillowRows) {
  const std::vector<uint8_t> edge = {0, 0, 0, 0, 255, 255, 255, 255};
  const std::vector<uint8_t> four = {10, 20, 200, 40};
  const std::vector<uint8_t> ten = {0, 64, 128, 255, 32, 16, 8, 4, 250, 251};
  for (const auto* kernels : all_kernels()) {
    for (const bool vertical : {false, true}) {
      SCOPED_TRACE(std::string(kernels->name) + (vertical ? " vertical" : " horizontal"));
      EXPECT_EQ(resize_row(edge, 4, vertical, *kernels), (std::vector<int>{0, 17, 238, 255}));
      EXPECT_EQ(resize_row(edge, 3, vertical, *kernels), (std::vector<int>{0, 127, 255}));
      EXPECT_EQ(resize_row(four, 8, vertical, *kernels),
                (std::vector<int>{9, 8, 5, 61, 175, 177, 74, 26}));
      EXPECT_EQ(resize_row(ten, 6, vertical, *kernels),
                (std::vector<int>{21, 153, 124, 0, 56, 255}));
    }
  }
}

TEST(Resize, EqualSizesCopy) {
  const Image image = noise(37, 21, 1);
  EXPECT_EQ(resize_bicubic(image, 37, 21).rgb, image.rgb);
}

// Every instruction set against the plain loops, at ratios that take each of their branches.
TEST(Resize, KernelsAgree) {
  std::mt19937 random(7);
  const auto check = [](int width, int height, int out_width, int out_height) {
    const Image image = noise(width, height, width * 31 + height);
    const Image expected =
        internal::resize_bicubic(image, out_width, out_height, internal::kPlainResize);
    for (const auto* kernels : all_kernels()) {
      const Image result = internal::resize_bicubic(image, out_width, out_height, *kernels);
      ASSERT_EQ(result.rgb, expected.rgb) << kernels->name << ' ' << width << 'x' << height
                                          << " -> " << out_width << 'x' << out_height;
    }
  };
  for (int i = 0; i < 300; ++i) {
    const auto size = [&](int limit) { return 1 + static_cast<int>(random() % limit); };
    check(size(200), size(60), size(200), size(60));
  }
  for (const int width : {1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 500, 1000, 2047, 4100}) {
    for (const int out : {1, 16, 31, 64, 128, 200, 512}) check(width, 3, out, 5);
    check(3, width, 5, 128);
  }
}

TEST(Resize, TilesAreTheMosaicCut) {
  const Image image = noise(101, 67, 3);
  for (const int tile : {1, 8, 33, 64}) {
    const int columns = 3, rows = 2;
    std::vector<uint8_t> tiles(static_cast<size_t>(columns) * rows * 3 * tile * tile);
    resize_to_tiles(image, columns, rows, tile, tiles.data());
    const Image mosaic = resize_bicubic(image, columns * tile, rows * tile);
    size_t i = 0;
    for (int n = 0; n < columns * rows; ++n) {
      for (int c = 0; c < 3; ++c) {
        for (int y = 0; y < tile; ++y) {
          for (int x = 0; x < tile; ++x, ++i) {
            const size_t at = static_cast<size_t>(n / columns * tile + y) * columns * tile +
                              n % columns * tile + x;
            ASSERT_EQ(tiles[i], mosaic.rgb[3 * at + c]) << tile << ' ' << n << ' ' << c;
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace videre
