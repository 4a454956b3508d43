#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_ssm_scan(View ,const SsmInputs& ,View ,const StepView& ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
