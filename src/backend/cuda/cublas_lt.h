// cuBLASLt, opened at run time where the machine has it: large products of linear.cu. Without it
// own kernels serve.
#pragma once

#include <cstdint>
#include <memory>

#include "backend/cuda/launcher.h"

namespace videre::cuda {

class CublasLt {
 public:
  /// Null when the library is not there; `workspace` is device memory that lasts.
  static std::unique_ptr<CublasLt> open(void* workspace, int64_t workspace_bytes);
  virtual ~CublasLt() = default;
  /// out [rows, n] (bf16 or float, row stride ldo) = x [rows, k] (bf16, row stride ldx) w [n, k]^T
  /// (bf16, row stride ldw) + bias [n] (of out's type; may be null). All at multiples of 16 bytes.
  /// Summed in float, rounded once. May be recorded; a rehearsal runs each new one. False when the
  /// library has no way for these; nothing is queued then.
  virtual bool matmul(void* out, DType out_dtype, int64_t ldo, const void* x, int64_t ldx,
                      const void* w, int64_t ldw, const void* bias, int64_t rows, int64_t n,
                      int64_t k, Launcher& launcher) = 0;

  static constexpr int64_t kWorkspaceBytes = 64 << 20;
};

}  // namespace videre::cuda
