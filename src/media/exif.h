// Which way up a picture was taken: the orientation of an EXIF block or an XMP packet, and turning
// pixels accordingly. Everything else in EXIF is left alone; what cannot be read counts as absent.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "media/image.h"

namespace videre {

/// Orientation of an EXIF block (TIFF header first, with or without "Exif\0\0" before it), as
/// stored; nothing when it has none or is broken.
std::optional<int> exif_orientation(std::span<const uint8_t> block);

/// Orientation of an XMP packet, which Pillow asks when EXIF says nothing.
std::optional<int> xmp_orientation(std::span<const uint8_t> packet);

/// Turns and mirrors by EXIF orientation 2..8; any other value changes nothing.
void apply_orientation(Image& image, int orientation);

}  // namespace videre
