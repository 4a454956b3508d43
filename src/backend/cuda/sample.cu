#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {

void CudaBackend::do_edit_logits(View ,std::span<const LogitEdit> ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_penalize(View ,std::span<const PenaltyRow> ) { VIDERE_CHECK(false) << "pending"; }
void CudaBackend::do_sample(View ,ConstView ,std::span<const SampleRow> ,View ,std::span<SampledToken> ) { VIDERE_CHECK(false) << "pending"; }

}  // namespace videre::cuda
