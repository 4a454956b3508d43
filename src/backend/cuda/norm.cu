#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_rms_norm(Operand ,ConstView ,ConstView ,float ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_add_rms_norm(Operand ,View ,ConstView ,ConstView ,float ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_layer_norm(Operand ,ConstView ,ConstView ,ConstView ,float ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_add_layer_norm(Operand ,View ,ConstView ,ConstView ,ConstView ,float ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_gated_rms_norm(Operand ,ConstView ,ConstView ,ConstView ,int ,float ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_add(View ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_scale_columns(View ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_relu2(Operand ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_gelu(Operand ,ConstView ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
