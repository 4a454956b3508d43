#include "tensor/tensor.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <new>

namespace videre {

std::string Shape::to_string() const {
  return fmt::format("[{}]", fmt::join(dims_.begin(), dims_.begin() + rank_, ", "));
}

Tensor make_host_tensor(DType dtype, Shape shape) {
  constexpr std::align_val_t kAlignment{64};  // one cache line, one AVX-512 register
  const size_t bytes = static_cast<size_t>(shape.numel()) * dtype_size(dtype);
  void* memory = ::operator new(std::max<size_t>(bytes, 1), kAlignment);
  return Tensor(View(memory, dtype, shape), std::shared_ptr<void>(memory, [](void* p) {
                  ::operator delete(p, std::align_val_t{64});
                }));
}

}  // namespace videre
