// Stands for backend/cuda where the build has none.
#include "backend/backend.h"
#include "base/error.h"

namespace videre {

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions&) {
  return make_error(ErrorCode::kInvalidArgument, "--device",
                    "this build of Videre has no CUDA in it; build it with `cmake --preset cuda`, "
                    "or run on the CPU with "
                    "--device cpu");
}

bool cuda_in_this_build() { return false; }

}  // namespace videre
