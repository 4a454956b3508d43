// Any bytes as a .npy file: an answer or an error; what is read and written again reads alike.
#include <cstdlib>
#include <cstring>

#include "tensor/npy.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto array = videre::parse_npy({data, size}, "fuzz");
  if (!array.ok()) return 0;
  const std::string text = videre::to_npy(*array);
  const auto again =
      videre::parse_npy({reinterpret_cast<const uint8_t*>(text.data()), text.size()}, "fuzz");
  if (!again.ok() || !(again->shape() == array->shape()) ||
      std::memcmp(again->view().raw(), array->view().raw(), array->size_bytes()) != 0) {
    std::abort();
  }
  return 0;
}
