// A checkpoint in bfloat16 (or float16, float32) to a new folder in ModelOpt's FP8 or NVFP4 layout,
// shard by shard: memory holds a few megabytes a thread, whatever the checkpoint's size. Which
// numbers activations take is the caller's to know (engine/calibrate.h).
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "videre/result.h"
#include "weights/model_files.h"

namespace videre {

enum class QuantFormat { kFp8, kNvfp4 };

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
