#include "media/tiles.h"

#include <gtest/gtest.h>

#include "media/image.h"
#include "media/media_test_util.h"
#include "media/resize.h"

namespace videre {
namespace {

using testing::crc32_of;
using testing::read_test_file;
using testing::read_test_json;

// [tiles, S, S, 3], as the reference stores them.
std::vector<uint8_t> interleaved(const PixelTiles& tiles) {
  std::vector<uint8_t> out(tiles.data.size());
  const size_t plane = static_cast<size_t>(tiles.tile_size) * tiles.tile_size;
  for (int n = 0; n < tiles.num_tiles; ++n) {
    for (size_t i = 0; i < plane; ++i) {
      for (size_t c = 0; c < 3; ++c) {
        out[(n * plane + i) * 3 + c] = tiles.data[(3 * n + c) * plane + i];
      }
    }
  }
  return out;
}

Grid grid_of(int width, int height, int max_num_tiles, int tile_size = 512) {
  return choose_grid(width, height, {.tile_size = tile_size, .max_num_tiles = max_num_tiles});
}

TEST(Tiles, GridsOfTheReference) {
  int num_rows = 0;
  const auto grid_512 = read_test_json("media_image/tiles.json");
  for (const auto& row : grid_512.at("grid_512").as_array()) {
    const auto at = [&](int i) { return row.at(i).to_number<int>(); };
    EXPECT_EQ(grid_of(at(0), at(1), at(2)), (Grid{at(3), at(4)})) << boost::json::serialize(row);
    ++num_rows;
  }
  EXPECT_EQ(num_rows, 60);
  const auto resize_grid = read_test_json("tiny-b/golden.json");
  for (const auto& row : resize_grid.at("resize_grid").as_array()) {
    EXPECT_EQ(grid_of(row.at("w").to_number<int>(), row.at("h").to_number<int>(),
                      row.at("max_num_tiles").to_number<int>(), 128),
              (Grid{row.at("grid").at(0).to_number<int>(), row.at("grid").at(1).to_number<int>()}))
        << boost::json::serialize(row);
  }
}

TEST(Tiles, GridsAtTheEdges) {
  EXPECT_EQ(grid_of(724, 724, 12), (Grid{1, 1}));  // below half of four tiles' pixels
  EXPECT_EQ(grid_of(725, 725, 12), (Grid{2, 2}));
  EXPECT_EQ(grid_of(1086, 1086, 12), (Grid{2, 2}));
  EXPECT_EQ(grid_of(1254, 1254, 12), (Grid{3, 3}));
  EXPECT_EQ(grid_of(481, 202, 12), (Grid{5, 2}));
  EXPECT_EQ(grid_of(1178, 1779, 12), (Grid{2, 3}));
  EXPECT_EQ(grid_of(2048, 1536, 12), (Grid{4, 3}));
  EXPECT_EQ(grid_of(3000, 1000, 12), (Grid{6, 2}));
  EXPECT_EQ(grid_of(4000, 300, 12), (Grid{12, 1}));
  EXPECT_EQ(grid_of(1, 65500, 12), (Grid{1, 12}));
  EXPECT_EQ(grid_of(3000, 1000, 0), (Grid{1, 1}));
  EXPECT_EQ(grid_of(3000, 1000, -5), (Grid{1, 1}));
}

TEST(Tiles, PixelsOfTheReference) {
  const auto tiles = read_test_json("media_image/tiles.json");
  for (const auto& row : tiles.at("tiles").as_array()) {
    SCOPED_TRACE(boost::json::serialize(row));
    const std::string file = row.at("file").as_string().c_str();
    const auto image = decode_image(read_test_file("tiny-b/media/" + file), {});
    ASSERT_TRUE(image.ok());
    const PixelTiles tiles =
        make_tiles(*image, {.tile_size = row.at("tile_size").to_number<int>(),
                            .max_num_tiles = row.at("max_num_tiles").to_number<int>()});
    EXPECT_EQ(tiles.num_tiles, row.at("shape").at(0).as_int64());
    EXPECT_EQ(crc32_of(interleaved(tiles)), row.at("crc32").to_number<uint32_t>());
  }
}

TEST(Tiles, CountsAndMeansOfTheReference) {
  const auto images = read_test_json("tiny-b/golden.json");
  for (const auto& row : images.at("images").as_array()) {
    const std::string file = row.at("file").as_string().c_str();
    if (file == "page.png") continue;  // not kept here
    SCOPED_TRACE(boost::json::serialize(row));
    const auto image = decode_image(read_test_file("tiny-b/media/" + file), {});
    ASSERT_TRUE(image.ok());
    const PixelTiles tiles = make_tiles(
        *image, {.tile_size = 128, .max_num_tiles = row.at("max_num_tiles").to_number<int>()});
    EXPECT_EQ(tiles.num_tiles, row.at("tiles").as_int64());
    const size_t plane = 128 * 128;
    for (size_t c = 0; c < 3; ++c) {
      double sum = 0;
      for (int n = 0; n < tiles.num_tiles; ++n) {
        for (size_t i = 0; i < plane; ++i) sum += tiles.data[(3 * n + c) * plane + i];
      }
      EXPECT_NEAR(sum / static_cast<double>(plane * tiles.num_tiles),
                  row.at("mean").at(c).to_number<double>(), 1e-3);
    }
  }
}

TEST(Tiles, ThumbnailOnlyBesideOtherTiles) {
  Image image{40, 20, std::vector<uint8_t>(40 * 20 * 3, 9)};
  EXPECT_EQ(make_tiles(image, {.tile_size = 8, .max_num_tiles = 2}).num_tiles, 3);
  EXPECT_EQ(
      make_tiles(image, {.tile_size = 8, .max_num_tiles = 2, .use_thumbnail = false}).num_tiles, 2);
  EXPECT_EQ(make_tiles(image, {.tile_size = 8, .max_num_tiles = 1}).num_tiles, 1);
}

TEST(Tiles, FramesAreAppended) {
  const auto image = decode_image(read_test_file("tiny-b/media/tiny.png"), {});
  ASSERT_TRUE(image.ok());
  PixelTiles tiles;
  tiles.tile_size = 32;
  append_frame_tile(tiles, *image);
  append_frame_tile(tiles, *image);
  ASSERT_EQ(tiles.num_tiles, 2);
  ASSERT_EQ(tiles.data.size(), 2u * 3 * 32 * 32);
  const Image resized = resize_bicubic(*image, 32, 32);
  const std::vector<uint8_t> both = interleaved(tiles);
  const std::vector<uint8_t> first(both.begin(), both.begin() + 3 * 32 * 32);
  const std::vector<uint8_t> second(both.begin() + 3 * 32 * 32, both.end());
  EXPECT_EQ(first, resized.rgb);
  EXPECT_EQ(second, resized.rgb);
}

}  // namespace
}  // namespace videre
