#include "media/pixel_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace videre {

void resize_pixels(std::vector<uint8_t>& pixels, size_t size) {
#if defined(__linux__)
  constexpr size_t kLargePage = size_t{2} << 20;  // bytes
  if (size > pixels.capacity() && size >= 2 * kLargePage) {
    pixels.reserve(size);
    const auto begin = reinterpret_cast<uintptr_t>(pixels.data() + pixels.size());
    const auto end = reinterpret_cast<uintptr_t>(pixels.data()) + size;
    const uintptr_t first = (begin + kLargePage - 1) / kLargePage * kLargePage;
    const uintptr_t last = end / kLargePage * kLargePage;
    // Advice only: without large pages the small ones do.
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#endif
  pixels.resize(size);
}

}  // namespace videre
