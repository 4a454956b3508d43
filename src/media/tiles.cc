#include "media/tiles.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"
#include "media/pixel_memory.h"
#include "media/resize.h"

namespace videre {
namespace {

size_t tile_bytes(int tile_size) { return size_t{3} * tile_size * tile_size; }

}  // namespace

Grid choose_grid(int width, int height, const TileOptions& options) {
  VIDERE_CHECK(width > 0 && height > 0);
  const int limit = std::max(options.max_num_tiles, 1);
  const double ratio = static_cast<double>(width) / height;
  const double area = static_cast<double>(width) * height;
  const double tile_area = static_cast<double>(options.tile_size) * options.tile_size;
  Grid best;
  double best_difference = INFINITY;
  for (int tiles = 1; tiles <= limit; ++tiles) {
    for (int columns = 1; columns <= tiles; ++columns) {
      if (tiles % columns != 0) continue;
      const int rows = tiles / columns;
      const double difference = std::abs(ratio - static_cast<double>(columns) / rows);
      if (difference < best_difference ||
          (difference == best_difference && area > 0.5 * tile_area * tiles)) {
        best = {columns, rows};
        best_difference = difference;
      }
    }
  }
  return best;
}

PixelTiles make_tiles(const Image& image, const TileOptions& options) {
  const Grid grid = choose_grid(image.width, image.height, options);
  const int tiles = grid.columns * grid.rows;
  const bool thumbnail = options.use_thumbnail && tiles > 1;
  const size_t size = tile_bytes(options.tile_size);
  PixelTiles result;
  result.tile_size = options.tile_size;
  result.num_tiles = tiles + (thumbnail ? 1 : 0);
  resize_pixels(result.data, size * result.num_tiles);
  resize_to_tiles(image, grid.columns, grid.rows, options.tile_size, result.data.data());
  if (thumbnail) {
    resize_to_tiles(image, 1, 1, options.tile_size, result.data.data() + size * tiles);
  }
  return result;
}

void append_frame_tile(PixelTiles& tiles, const Image& frame) {
  const size_t size = tile_bytes(tiles.tile_size);
  tiles.data.resize(size * (tiles.num_tiles + 1));
  resize_to_tiles(frame, 1, 1, tiles.tile_size, tiles.data.data() + size * tiles.num_tiles);
  ++tiles.num_tiles;
}

}  // namespace videre
