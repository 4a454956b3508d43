#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_linear(View ,const Operand& ,const Weight& ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
