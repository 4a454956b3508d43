#include "weights/quantize_body.h"

namespace videre {

const QuantizeKernels& avx512_quantize_kernels() {
  static constexpr QuantizeKernels kKernels = make_quantize_kernels("avx512");
  return kKernels;
}

}  // namespace videre
