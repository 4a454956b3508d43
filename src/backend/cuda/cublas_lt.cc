#include "backend/cuda/cublas_lt.h"

namespace videre::cuda {

std::unique_ptr<CublasLt> CublasLt::open(void*, int64_t) { return nullptr; }

}  // namespace videre::cuda
