// Runs requests through the engine and keeps how large activations get: the static scales of
// quantised checkpoints.
#pragma once

#include <atomic>
#include <functional>
#include <vector>

#include "model/quantize_checkpoint.h"
#include "videre/engine.h"

namespace videre {

struct Calibration {
  ActivationAmax amax;
  int64_t num_requests = 0, num_prompt_tokens = 0, num_generated = 0;
};

/// Requests that set no max_tokens generate 32. Blocks. `progress` gets requests, done and in all.
/// Errors: as Engine::load; a request's own error names its place in `requests`; kInvalidModel when
/// activations are no numbers; kCancelled.
Result<Calibration> calibrate(const EngineOptions& options, const std::vector<Request>& requests,
                              const LoadProgress& load_progress = {},
                              const std::function<void(int64_t done, int64_t all)>& progress = {},
                              const std::atomic<bool>* cancel = nullptr);

}  // namespace videre
