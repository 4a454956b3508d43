#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_causal_conv(View ,ConstView ,ConstView ,ConstView ,View ,const StepView& ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
