#include "weights/quantize.h"

#include "base/check.h"
#include "weights/quantize_body.h"

namespace videre {

#if defined(__x86_64__)
const QuantizeKernels& avx2_quantize_kernels();
const QuantizeKernels& avx512_quantize_kernels();
#endif

const QuantizeKernels& quantize_kernels(std::string_view isa) {
  static constexpr QuantizeKernels kPlain = make_quantize_kernels("plain");
  VIDERE_CHECK(isa.empty() || isa == "plain" || isa == "avx2" || isa == "avx512") << isa;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if ((isa.empty() || isa == "avx512") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni") &&
      __builtin_cpu_supports("avx512vbmi")) {
    return avx512_quantize_kernels();
  }
  if ((isa.empty() || isa == "avx2") && __builtin_cpu_supports("avx2") &&
      __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
    return avx2_quantize_kernels();
  }
#endif
  return kPlain;
}

}  // namespace videre
