#include "weights/quantize_body.h"

namespace videre {

const QuantizeKernels& avx2_quantize_kernels() {
  static constexpr QuantizeKernels kKernels = make_quantize_kernels("avx2");
  return kKernels;
}

}  // namespace videre
