// A matrix of the checkpoint in its storage format, as stored: nothing is unpacked. Backends read
// it.
#pragma once

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace videre {

enum class WeightFormat {
  kPlain,  // bf16, fp16 or fp32 [N, K]
  kFp8,    // e4m3 [N, K], `scales` fp32 [1] or [N]
  kNvfp4,  // e2m1 pairs, uint8 [N, K/2], low nibble = even k; `scales` e4m3 [N, K/16];
           // `global_scale`
};

/// Along which axis tensor parallelism cuts a weight. `kRows` cuts outputs (then no reduction),
/// `kColumns` cuts inputs (then an all-reduce follows).
enum class SplitAxis { kNone, kRows, kColumns };

/// y[n] = sum_k W[n, k] x[k] + bias[n]
struct Weight {
  WeightFormat format = WeightFormat::kPlain;
  ConstView data;
  ConstView scales;
  float global_scale = 1.0f;  // NVFP4 weight_scale_2
  float input_scale = 0.0f;   // calibrated activation scale; 0 when the file has none
  ConstView bias;             // [N], any float type; empty when there is none
  SplitAxis split = SplitAxis::kNone;
  std::vector<int64_t>
      sections;      // kRows: sizes along N that are cut one by one (in_proj: z, x, B, C, dt)
  std::string name;  // the checkpoint's module name

  int64_t num_rows() const { return data.dim(0); }
  int64_t num_columns() const {
    return format == WeightFormat::kNvfp4 ? data.dim(1) * 2 : data.dim(1);
  }
  bool empty() const { return data.empty(); }
};

constexpr const char* weight_format_name(WeightFormat format) {
  switch (format) {
    case WeightFormat::kPlain:
      return "plain";
    case WeightFormat::kFp8:
      return "fp8";
    case WeightFormat::kNvfp4:
      return "nvfp4";
  }
  return "?";
}

}  // namespace videre
