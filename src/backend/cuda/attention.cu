#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_append_kv(View ,View ,ConstView ,ConstView ,const AttentionParams& ,const StepView& ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_paged_attention(View ,ConstView ,ConstView ,ConstView ,const AttentionParams& ,const StepView& ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_full_attention(View ,ConstView ,int ,float ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
