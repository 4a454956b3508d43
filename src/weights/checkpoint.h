// All shards of a checkpoint as one map from name to tensor: mapped, not copied; and the linears in
// it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "weights/model_files.h"
#include "weights/safetensors.h"
#include "weights/weight.h"

namespace videre {

/// Thread-safe once loaded, but for the record of used names, which building a model writes.
class Checkpoint {
 public:
  /// `model.safetensors`, or the shards named by `model.safetensors.index.json`. Errors list
  /// missing shards, tensors that the index names but no shard holds, and duplicates.
  static Result<std::unique_ptr<Checkpoint>> open(const ModelFiles& files);

  /// Tensors in memory that `owner` keeps, by canonical names.
  static std::unique_ptr<Checkpoint> of_tensors(std::map<std::string, StoredTensor> tensors,
                                                std::shared_ptr<const void> owner);

  /// Re-saved files may carry a leading "model.", which is dropped here.
  static std::string canonical_name(const std::string& name);

  bool contains(const std::string& name) const { return tensors_.count(name) != 0; }
  const std::map<std::string, StoredTensor>& tensors() const { return tensors_; }
  int64_t size_bytes() const;

  /// The tensor, checked against `shape`; its name is marked as used.
  Result<ConstView> tensor(const std::string& name, const Shape& shape) const;
  /// The same for any shape.
  Result<ConstView> tensor(const std::string& name) const;
  /// Small parameters (A_log, D, dt_bias, scales) as floats.
  Result<std::vector<float>> floats(const std::string& name, int64_t count) const;

  /// Module `X` as a Weight [rows, columns], its format decided by the tensors present (X.weight,
  /// X.weight_scale, X.weight_scale_2, X.input_scale, X.bias). NaN, infinite or negative scales are
  /// refused.
  Result<Weight> linear(const std::string& module, int64_t rows, int64_t columns) const;

  /// Names never asked for, without those that are known to be ignorable.
  std::vector<std::string> unused() const;

 private:
  std::vector<std::shared_ptr<MappedFile>> files_;
  std::shared_ptr<const void> owner_;            // of tensors that no file holds
  std::map<std::string, StoredTensor> tensors_;  // names without a leading "model."
  mutable std::map<std::string, bool> used_;
};

}  // namespace videre
