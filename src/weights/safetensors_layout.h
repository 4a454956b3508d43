// Where each tensor of a new .safetensors file lies, and the header that says so. The file is
// written at these places in any order.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace videre {

struct TensorEntry {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

class SafetensorsLayout {
 public:
  /// Wide dtypes first, then by name, as the reference library sorts: every tensor is aligned.
  explicit SafetensorsLayout(std::vector<TensorEntry> tensors);

  /// The file's beginning: length and JSON, padded to 8 bytes.
  const std::string& header() const { return header_; }
  /// From the file's start. The name must be there.
  int64_t offset(const std::string& name) const;
  int64_t file_bytes() const { return static_cast<int64_t>(header_.size()) + data_bytes_; }
  /// Without the header.
  int64_t data_bytes() const { return data_bytes_; }

 private:
  std::string header_;
  std::map<std::string, int64_t> offsets_;  // from the first data byte
  int64_t data_bytes_ = 0;
};

/// The text of model.safetensors.index.json: which shard holds each tensor.
std::string safetensors_index(const std::map<std::string, std::string>& shard_of,
                              int64_t data_bytes);

}  // namespace videre
