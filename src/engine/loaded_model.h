// A checkpoint made ready to run: config, device, both towers, tokenizer and template; and the plan
// of the memory that running takes.
#pragma once

#include <memory>
#include <string>

#include "backend/backend.h"
#include "engine/model_runner.h"
#include "model/nemotron_vl.h"
#include "prompt/prompt.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "videre/engine.h"

namespace videre {

struct LoadedModel {
  Config config;
  std::unique_ptr<Backend> backend;
  std::unique_ptr<LinearProbe> activation_simulator;  // with quantized_activations
  std::unique_ptr<NemotronVl> model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null when the checkpoint has none
  PromptConfig prompt_config;
  ModelInfo info;
};

/// Resolves `options.model` and reads everything. Weights are mapped, so this is quick on the CPU.
/// `backend` is what it runs on; null makes the one that `options.device` names.
Result<LoadedModel> load_model(const EngineOptions& options, const LoadProgress& progress = {},
                               std::unique_ptr<Backend> backend = nullptr);

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const ModelFiles& files);

/// How much of each kind of memory a run with `options` takes, within `available_bytes` of the
/// device (0: asks the machine). Errors: kOutOfMemory says what does not fit and which flag lowers
/// it; kInvalidArgument for a max_model_len over the config's limit.
Result<MemoryPlan> plan_memory(const LoadedModel& loaded, const EngineOptions& options,
                               int64_t available_bytes = 0);

/// Dtypes and block size of the caches; counts are the plan's.
Result<CacheOptions> cache_options(const LoadedModel& loaded, const EngineOptions& options);
/// The sizes of a runner that keeps to `plan`; the tower encodes as many tiles in one step as make
/// a step's tokens, within bounds.
RunnerOptions runner_options(const LoadedModel& loaded, const MemoryPlan& plan,
                             const CacheOptions& cache);

}  // namespace videre
