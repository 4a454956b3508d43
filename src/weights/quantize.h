// Numbers to FP8 (E4M3) and NVFP4 (E2M1 in blocks of 16 with E4M3 scales), as ModelOpt rounds them;
// formats in docs/model.md. Plain loops over raw memory, compiled for each instruction set.
#pragma once

#include <cstdint>
#include <string_view>

#include "tensor/dtype.h"

namespace videre {

inline constexpr int kNvfp4Block = 16;
inline constexpr float kE4m3Max = 448.0f, kE2m1Max = 6.0f;

/// Sources are float32, bfloat16 or float16, any alignment.
struct QuantizeKernels {
  const char* isa;
  /// Largest magnitude; infinite or NaN when a value is.
  float (*amax)(const void* src, DType dtype, int64_t n);
  /// out[i] = e4m3(src[i] / scale), saturating.
  void (*to_e4m3)(uint8_t* out, const void* src, DType dtype, int64_t n, float scale);
  /// Blocks of 16 along n (a multiple of 16): scales[b] = e4m3(amax(block) / (6 * global_scale)), 1
  /// for a block of zeros; codes [n / 2] hold e2m1(src / (scale * global_scale)), low nibble first.
  void (*to_nvfp4)(uint8_t* codes, uint8_t* scales, const void* src, DType dtype, int64_t n,
                   float global_scale);
  /// out[i] = what a tensor core would read after quantising src[i] so, in float: a simulation of
  /// 8-bit (`to_e4m3`) and 4-bit (`to_nvfp4`, 0 where a block's scale rounds to 0) activations.
  void (*through_e4m3)(float* out, const float* src, int64_t n, float scale);
  void (*through_nvfp4)(float* out, const float* src, int64_t n, float global_scale);
};

/// The best that this machine has; "plain", "avx2" and "avx512" name one, for tests.
const QuantizeKernels& quantize_kernels(std::string_view isa = {});

}  // namespace videre
