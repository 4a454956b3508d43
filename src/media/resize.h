// Pillow's 8-bit bicubic resize, equal to it in every bit: horizontal pass into bytes, then
// vertical pass, antialiased, 22-bit fixed-point weights. (Pillow 13 takes the vertical pass first
// for some shapes; see tests/media_image/README.md.) Which size a picture gets is tiles.h's
// question.
#pragma once

#include <cstdint>

#include "media/image.h"

namespace videre {

/// Resizes to width x height (both > 0). Equal sizes copy. Thread-safe, one thread.
Image resize_bicubic(const Image& image, int width, int height);

/// As `resize_bicubic`, written as planar tiles: the resized picture, `columns * tile` wide and
/// `rows * tile` high, is cut row by row into `out` [rows * columns, 3, tile, tile].
void resize_to_tiles(const Image& image, int columns, int rows, int tile, uint8_t* out);

}  // namespace videre
