#include "engine/engine_parts.h"

namespace videre {

Result<EngineParts> make_engine_parts(const EngineOptions& options, const LoadProgress& progress) {
  EngineParts parts;
  VIDERE_ASSIGN_OR_RETURN(parts.loaded, load_model(options, progress));
  VIDERE_ASSIGN_OR_RETURN(parts.plan, plan_memory(parts.loaded, options));
  const MemoryPlan& plan = parts.plan;
  const Config& config = parts.loaded.config;
  parts.loaded.info.max_model_len = plan.max_model_len;

  RunnerOptions runner;
  VIDERE_ASSIGN_OR_RETURN(runner.cache, cache_options(parts.loaded, options));
  runner.cache.num_blocks = plan.num_kv_blocks + 1;
  runner.cache.num_slots = plan.num_state_slots + 1;
  runner.max_num_batched_tokens = plan.max_num_batched_tokens;
  runner.max_num_seqs = plan.max_num_seqs;
  runner.max_model_len = plan.max_model_len;
  runner.max_tiles = tiles_per_step(config, plan);
  parts.encoder_rows =
      plan.encoder_cache /
      (config.llm.hidden_size * static_cast<int64_t>(dtype_size(parts.loaded.model->dtype())));
  runner.encoder_rows = parts.encoder_rows;
  const bool on_device = parts.loaded.backend->memory().total > 0;
  runner.pad_steps = options.pad_steps || (on_device && !options.enforce_eager);
  auto model_runner =
      std::make_unique<ModelRunner>(*parts.loaded.backend, *parts.loaded.model, runner);
  if (on_device) {
    if (progress) progress("warm-up", 0);
    model_runner->warm_up();
    parts.loaded.backend->finish_loading();
    VIDERE_RETURN_IF_ERROR(parts.loaded.backend->health());
    if (progress) progress("warm-up", 1);
  }
  parts.runner = std::move(model_runner);

  CoreOptions core;
  core.scheduler.max_num_batched_tokens = plan.max_num_batched_tokens;
  core.scheduler.max_num_seqs = plan.max_num_seqs;
  core.scheduler.max_model_len = plan.max_model_len;
  core.scheduler.chunk_size = config.llm.chunk_size;
  core.scheduler.enable_chunked_prefill = options.enable_chunked_prefill;
  core.scheduler.max_tiles_per_step = runner.max_tiles;
  core.scheduler.prompt = parts.loaded.prompt_config;
  core.num_blocks = runner.cache.num_blocks;
  core.num_slots = runner.cache.num_slots;
  core.block_size = runner.cache.block_size;
  core.encoder_rows = runner.encoder_rows;
  core.async_scheduling = options.async_scheduling;
  parts.core = std::make_unique<EngineCore>(core, parts.runner.get());
  return parts;
}

FetchOptions fetch_options(const EngineOptions& options) {
  FetchOptions out = FetchOptions::from_environment();
  out.allowed_local_media_path = options.allowed_local_media_path;
  out.allowed_media_domains = options.allowed_media_domains;
  out.allow_private_hosts = options.allow_private_media_hosts;
  return out;
}

}  // namespace videre
