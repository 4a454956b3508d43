#include "model/nemotron_vl.h"

#include "base/error.h"
#include "base/log.h"
#include "model/random_checkpoint.h"

namespace videre {

Result<std::unique_ptr<NemotronVl>> NemotronVl::load(const ModelFiles& files, const Config& config,
                                                     Backend& backend, DType dtype,
                                                     bool language_model_only,
                                                     LoadFormat load_format) {
  std::unique_ptr<NemotronVl> model(new NemotronVl);
  model->config_ = config;
  model->dtype_ = dtype;
  VIDERE_ASSIGN_OR_RETURN(model->checkpoint_, load_format == LoadFormat::kDummy
                                                  ? random_checkpoint(config)
                                                  : Checkpoint::open(files));
  const Checkpoint& checkpoint = *model->checkpoint_;
  const DeviceMemory device = backend.memory();
  if (device.total > 0 && checkpoint.size_bytes() > device.free) {
    return make_error(
        ErrorCode::kOutOfMemory, "--model",
        "the weights take {:.1f} GiB and the card has {:.1f} GiB free of {:.1f}; free it, take a "
        "quantised checkpoint (FP8, NVFP4), or run on the CPU with --device cpu",
        static_cast<double>(checkpoint.size_bytes()) / (1 << 30),
        static_cast<double>(device.free) / (1 << 30),
        static_cast<double>(device.total) / (1 << 30));
  }
  VIDERE_ASSIGN_OR_RETURN(LanguageModel language,
                          LanguageModel::load(checkpoint, config.llm, backend));
  model->config_.llm = language.config();
  model->language_ = std::make_unique<LanguageModel>(std::move(language));
  if (!language_model_only) {
    VIDERE_ASSIGN_OR_RETURN(VisionEncoder vision,
                            VisionEncoder::load(checkpoint, config, backend, dtype));
    model->vision_ = std::make_unique<VisionEncoder>(std::move(vision));
  }
  for (const int32_t id : {config.img_context_token_id}) {
    if (id >= model->config_.llm.vocab_size) {
      return invalid_model("img_context_token_id is {} but the vocabulary has {} rows", id,
                           model->config_.llm.vocab_size);
    }
  }
  for (const auto& [name, tensor] : checkpoint.tensors()) {
    const bool vision = name.starts_with("vision_model.") || name.starts_with("mlp1.");
    const int64_t bytes = static_cast<int64_t>(tensor.view.size_bytes());
    (vision ? model->vision_weight_bytes_ : model->weight_bytes_) += bytes;
    const bool is_scale = name.ends_with("_scale") || name.ends_with("_scale_2");
    if (name.find("summary_idxs") == name.npos && !is_scale) {
      model->num_parameters_ += tensor.view.numel() * (tensor.view.dtype() == DType::kU8 ? 2 : 1);
    }
    // Which modules are quantised is decided by the tensors; a file that declares otherwise is
    // worth a word.
    if (name.ends_with(".weight") &&
        (tensor.view.dtype() == DType::kF8E4M3 || tensor.view.dtype() == DType::kU8)) {
      const std::string module = name.substr(0, name.size() - 7);
      if (config.quant_algo.empty())
        log_warning("{} is quantised, though the config declares no quantisation", module);
      else if (config.excluded_from_quantization(module))
        log_warning("{} is quantised, though the config excludes it", module);
    }
  }
  VIDERE_RETURN_IF_ERROR(backend.health());
  if (!language_model_only) {
    const auto unknown = checkpoint.unused();
    for (size_t i = 0; i < unknown.size() && i < 20; ++i)
      log_warning("tensor {} is not used", unknown[i]);
    if (!unknown.empty()) log_warning("{} tensors of the checkpoint are not used", unknown.size());
  }
  return model;
}

}  // namespace videre
