// Both towers behind one type: what a checkpoint folder becomes.
#pragma once

#include <memory>

#include "model/language_model.h"
#include "model/vision_encoder.h"

namespace videre {

/// Where the weights come from: the folder's files, or chance (model/random_checkpoint.h).
enum class LoadFormat { kSafetensors, kDummy };

class NemotronVl {
 public:
  /// Owns the checkpoint's mapping. `dtype` is the activation dtype (float32 or bfloat16).
  static Result<std::unique_ptr<NemotronVl>> load(
      const ModelFiles& files, const Config& config, Backend& backend, DType dtype,
      bool language_model_only, LoadFormat load_format = LoadFormat::kSafetensors);

  const Config& config() const { return config_; }
  DType dtype() const { return dtype_; }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  const LanguageModel& language() const { return *language_; }
  bool has_vision() const { return vision_ != nullptr; }
  VisionEncoder& vision() const { return *vision_; }
  EvsArithmetic evs_arithmetic() const {
    return dtype_ == DType::kBF16 ? EvsArithmetic::kBFloat16 : EvsArithmetic::kFloat32;
  }
  int64_t num_parameters() const { return num_parameters_; }
  int64_t weight_bytes() const { return weight_bytes_; }
  int64_t vision_weight_bytes() const { return vision_weight_bytes_; }

 private:
  Config config_;
  DType dtype_ = DType::kBF16;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<LanguageModel> language_;
  std::unique_ptr<VisionEncoder> vision_;
  int64_t num_parameters_ = 0, weight_bytes_ = 0, vision_weight_bytes_ = 0;
};

}  // namespace videre
