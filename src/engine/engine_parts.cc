#include "engine/engine_parts.h"

#include "base/log.h"

namespace videre {
namespace {

// What was planned beside what there is.
void log_memory(const MemoryPlan& plan, const DeviceMemory& memory) {
  log_debug(
      "device memory: weights {} of {} planned; tensors {} of {}; scratch {} and driver {} of {}",
      memory.weights, plan.weights + plan.vision_weights, memory.tensors,
      plan.kv_cache + plan.state_slots + plan.activations + plan.encoder_cache, memory.scratch,
      memory.driver, plan.device_scratch);
  log_debug("device memory besides weights and caches: {} bytes",
            memory.tensors - plan.kv_cache - plan.state_slots - plan.encoder_cache +
                memory.scratch + memory.driver);
  if (memory.scratch + memory.driver > plan.device_scratch) {
    log_warning(
        "the device's own memory is {} bytes more than planned; lower --gpu-memory-utilization "
        "if it runs out",
        memory.scratch + memory.driver - plan.device_scratch);
  }
}

}  // namespace

Result<EngineParts> make_engine_parts(const EngineOptions& options, const LoadProgress& progress,
                                      std::unique_ptr<Backend> backend) {
  EngineParts parts;
  VIDERE_ASSIGN_OR_RETURN(parts.loaded, load_model(options, progress, std::move(backend)));
  VIDERE_ASSIGN_OR_RETURN(parts.plan, plan_memory(parts.loaded, options));
  const MemoryPlan& plan = parts.plan;
  const Config& config = parts.loaded.config;
  parts.loaded.info.max_model_len = plan.max_model_len;

  VIDERE_ASSIGN_OR_RETURN(const CacheOptions cache, cache_options(parts.loaded, options));
  RunnerOptions runner = runner_options(parts.loaded, plan, cache);
  parts.encoder_rows = runner.encoder_rows;
  Backend& be = *parts.loaded.backend;
  const bool on_device = be.memory().total > 0;
  // A probe looks at each linear from the host, which is not recorded.
  const bool records = on_device && !options.enforce_eager && !options.quantized_activations;
  runner.pad_steps = options.pad_steps || records;
  auto model_runner = std::make_unique<ModelRunner>(be, *parts.loaded.model, runner);
  if (on_device) {
    if (progress) progress("warm-up", 0);
    log_debug("start: caches and workspaces are there");
    model_runner->warm_up();
    be.finish_loading();
    VIDERE_RETURN_IF_ERROR(be.health());
    log_debug("start: ready");
    log_memory(plan, be.memory());
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
