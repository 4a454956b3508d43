// The kernels for AVX2 with FMA.
#include "backend/cpu/kernels_body.h"

namespace videre::cpu {

const Kernels& avx2_kernels() {
  static constexpr Kernels kKernels = make_kernels("avx2");
  return kKernels;
}

}  // namespace videre::cpu
