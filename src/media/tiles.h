// A picture to square tiles: the grid whose shape is nearest, the whole picture resized to it and
// cut, and a thumbnail. A video frame is one tile. Values stay 8-bit RGB; mean and deviation are
// applied by the backend.
#pragma once

#include <cstdint>
#include <vector>

#include "media/image.h"

namespace videre {

struct Grid {
  int columns = 1, rows = 1;
  bool operator==(const Grid&) const = default;
};

struct TileOptions {
  int tile_size = 512;     // px
  int max_num_tiles = 12;  // of the grid; the thumbnail comes on top
  bool use_thumbnail = true;
};

/// The grid for a picture of width x height px (both > 0): nearest aspect ratio, the larger of
/// equal ones when the picture has the pixels for it. `max_num_tiles` below 1 acts as 1.
Grid choose_grid(int width, int height, const TileOptions& options);

struct PixelTiles {
  int num_tiles = 0;
  int tile_size = 0;          // S, px
  std::vector<uint8_t> data;  // [num_tiles, 3, S, S], R G B planes
};

/// Tiles of the grid row by row, then the thumbnail when the grid has more than one tile.
PixelTiles make_tiles(const Image& image, const TileOptions& options);

/// Appends a frame, resized to one tile. `tiles.tile_size` says how large.
void append_frame_tile(PixelTiles& tiles, const Image& frame);

}  // namespace videre
