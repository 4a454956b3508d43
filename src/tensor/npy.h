// Arrays as numpy's .npy files: dumps out, tiles and pixels in. Host memory only.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "tensor/tensor.h"
#include "videre/result.h"

namespace videre {

/// Writes a host view, strides followed, as a C-ordered array. bfloat16, float16 and float8 are
/// widened to float32; other dtypes are written as they are. The file appears whole or not at all.
Status write_npy(const std::string& path, ConstView view);

/// The .npy text of a host view: header and data.
std::string to_npy(ConstView view);

/// Reads float32, uint8, int32 or int64 of up to four dims, C order. Errors: kNotFound, and
/// kInvalidArgument with what was seen and expected.
Result<Tensor> read_npy(const std::string& path);
/// The same from bytes; `what` names them in errors.
Result<Tensor> parse_npy(std::span<const uint8_t> bytes, std::string_view what);

}  // namespace videre
