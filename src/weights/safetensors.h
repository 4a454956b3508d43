// Reads one .safetensors file and trusts nothing in it. Bytes stay in the mapping.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "base/mapped_file.h"
#include "tensor/tensor.h"
#include "videre/result.h"

namespace videre {

struct StoredTensor {
  ConstView view;    // into the mapping; may be unaligned
  std::string file;  // which shard, for messages
};

/// Views into `file`, by name. Checks: header size and JSON, known dtypes, dims and their product,
/// byte ranges inside the file, no overlap and no holes, each size equal to dims times element.
/// Rank above 4 is refused.
Result<std::map<std::string, StoredTensor>> read_safetensors(const MappedFile& file);

}  // namespace videre
