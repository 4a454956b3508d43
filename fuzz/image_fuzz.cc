// Any bytes as a picture, each format told apart by its first bytes: whole pixels or an error.
#include <cstdlib>

#include "media/image.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  videre::ImageOptions options;
  options.max_pixels = 1 << 16;  // damaged headers ask for more than cases should take time
  const auto image = videre::decode_image({data, size}, options);
  if (image.ok() && image->rgb.size() != size_t{3} * image->width * image->height) std::abort();
  if (!image.ok() && image.error().message.empty()) std::abort();
  return 0;
}
