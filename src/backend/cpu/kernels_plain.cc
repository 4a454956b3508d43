// The kernels for the compiler's baseline: SSE2 on x86-64, NEON on Arm.
#include "backend/cpu/kernels_body.h"

namespace videre::cpu {

const Kernels& plain_kernels() {
  static constexpr Kernels kKernels = make_kernels("plain");
  return kKernels;
}

}  // namespace videre::cpu
