#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_copy(View ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_embed(View ,ConstView ,ConstView ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_gather_rows(View ,ConstView ,ConstView ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
