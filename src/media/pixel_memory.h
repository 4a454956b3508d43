// Memory for many pixels. Buffers of megabytes come fresh from the kernel each time, and its small
// pages cost more than decoding into them: large pages are asked for before the first touch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace videre {

/// Makes `pixels` `size` bytes long; new bytes are zeros.
void resize_pixels(std::vector<uint8_t>& pixels, size_t size);

}  // namespace videre
