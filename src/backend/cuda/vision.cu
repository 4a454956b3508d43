#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_normalize_pixels(View ,ConstView ,std::array<float, 3> ,std::array<float, 3> ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_patchify(View ,ConstView ,int ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_assemble_tokens(View ,ConstView ,ConstView ,ConstView ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_pixel_shuffle(View ,ConstView ,int ,int ,int ,bool ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_frame_dissimilarity(View ,ConstView ,ConstView ,int ,EvsArithmetic ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
