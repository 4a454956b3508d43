// The kernels for any CPU: vectors of four floats, which the compiler maps to SSE2 or plain code.
#include "backend/cpu/kernels_body.h"

namespace videre::cpu {

const Kernels& plain_kernels() {
  static constexpr Kernels kKernels = make_kernels("plain");
  return kKernels;
}

}  // namespace videre::cpu
