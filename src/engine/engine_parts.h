// What runs behind the engine's doors, wired together: model, runner and loop for one set of
// options. The engine gives them a thread; dumps drive them by hand.
#pragma once

#include <memory>

#include "engine/engine_core.h"
#include "engine/loaded_model.h"
#include "media/fetch.h"

namespace videre {

/// Members are destroyed in reverse: the loop before the runner before the model.
struct EngineParts {
  LoadedModel loaded;
  MemoryPlan plan;
  int64_t encoder_rows = 0;  // the most that one picture or clip may have
  std::unique_ptr<ModelRunner> runner;
  std::unique_ptr<EngineCore> core;
};

/// `backend`: as `load_model` takes it.
Result<EngineParts> make_engine_parts(const EngineOptions& options,
                                      const LoadProgress& progress = {},
                                      std::unique_ptr<Backend> backend = nullptr);

/// The engine around them; `options` are those that they were made with.
std::unique_ptr<Engine> make_engine(EngineParts parts, const EngineOptions& options);

/// What may be fetched, from the options and the environment.
FetchOptions fetch_options(const EngineOptions& options);

}  // namespace videre
