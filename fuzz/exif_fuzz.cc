// Any bytes as an EXIF block or XMP packet; whatever they say, turning keeps every pixel.
#include <cstdlib>

#include "media/exif.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto exif = videre::exif_orientation({data, size});
  const auto xmp = videre::xmp_orientation({data, size});
  videre::Image image{3, 2, std::vector<uint8_t>(18)};
  videre::apply_orientation(image, exif ? *exif : xmp.value_or(0));
  if (image.width * image.height != 6 || image.rgb.size() != 18) std::abort();
  return 0;
}
