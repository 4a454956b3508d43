// A checkpoint in bfloat16 (or float16, float32) to a new folder in ModelOpt's FP8 or NVFP4 layout,
// shard by shard: memory holds a few megabytes a thread, whatever the checkpoint's size. Which
// numbers activations take is the caller's to know (engine/calibrate.h).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "videre/result.h"
#include "weights/model_files.h"
#include "weights/safetensors_layout.h"

namespace videre {

enum class QuantFormat { kFp8, kNvfp4 };

// ModelOpt's layout, for all that write it.

/// Whether `module` is one of the projections that are quantised when nothing excludes them.
bool is_mixer_linear(std::string_view module);
/// False when the format's blocks do not divide the columns; such a linear stays as it is.
bool can_quantize(QuantFormat format, int64_t columns);
/// The tensors that a linear `stem` of rows x columns becomes; `stem`.weight is the first.
std::vector<TensorEntry> quantized_entries(const std::string& stem, QuantFormat format,
                                           int64_t rows, int64_t columns);
/// Modules that are never quantised, as names and globs.
std::vector<std::string> always_excluded_modules();

/// What config.json and hf_quant_config.json tell of a quantised checkpoint.
struct QuantDeclaration {
  QuantFormat format = QuantFormat::kFp8;
  std::vector<std::string> exclude;
  bool kv_cache_fp8 = false;
  bool static_inputs = false;  // every quantised linear has an input_scale
};
/// `config_json`, an object that is not empty, with the declaration as one more member at its end.
std::string with_quantization(const std::string& config_json, const QuantDeclaration& declaration);
std::string hf_quant_config(const QuantDeclaration& declaration);

/// Largest magnitudes that calibration saw, by module ("language_model.backbone...q_proj").
struct ActivationAmax {
  std::map<std::string, float> inputs;        // of every linear
  std::map<std::string, float> keys, values;  // what k_proj and v_proj gave
};

struct QuantizeOptions {
  QuantFormat format = QuantFormat::kFp8;
  /// Names or globs, beside those that always stay: lm_head, vision_model*, mlp1*, conv1d.
  std::vector<std::string> exclude;
  bool kv_cache_fp8 = false;
  ActivationAmax amax;  // a module without an entry gets no input_scale: scaled at run time
  int num_threads = 0;
  const std::atomic<bool>* cancel = nullptr;
};

struct QuantizeReport {
  int64_t num_modules = 0, num_kept_modules = 0;  // quantised; linears that stay as they are
  int64_t num_static_inputs = 0;                  // modules with an input_scale
  int64_t source_bytes = 0, written_bytes = 0;    // of weights
};

/// `progress` gets bytes of the source's weights, done and in all. Errors: kInvalidArgument for a
/// wrong DST, a source that is quantised already, or a pattern that names no module;
/// kInvalidModel for what cannot be read; kUnavailable when the disk is full; kCancelled.
Result<QuantizeReport> quantize_checkpoint(
    const ModelFiles& source, const std::string& destination, const QuantizeOptions& options,
    const std::function<void(int64_t done, int64_t all)>& progress = {});

}  // namespace videre
