// Any bytes as a .safetensors file: an answer or an error, and every view inside the bytes.
#include <cstdlib>

#include "weights/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = videre::MappedFile::borrow({data, size}, "fuzz");
  const auto tensors = videre::read_safetensors(*file);
  if (!tensors.ok()) return 0;
  for (const auto& [name, tensor] : *tensors) {
    const auto* begin = tensor.view.data<uint8_t>();
    if (begin < data || begin + tensor.view.size_bytes() > data + size) std::abort();
  }
  return 0;
}
