#include "tensor/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cstdlib>

namespace videre {

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims_.begin(), dims_.begin() + rank_, ", "));
}

Tensor make_host_tensor(DType dtype, Shape shape) {
  constexpr size_t kAlignment = 64;  // one cache line, one AVX-512 register
  const size_t bytes = static_cast<size_t>(shape.numel()) * dtype_size(dtype);
  const size_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  void* memory = std::aligned_alloc(kAlignment, std::max(padded, kAlignment));
  VIDERE_CHECK(memory != nullptr) << "no memory for " << bytes << " bytes";
  return Tensor(View(memory, dtype, shape), std::shared_ptr<void>(memory, std::free));
}

}  // namespace videre
