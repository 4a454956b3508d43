#include "engine/loaded_model.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <string>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "engine/activation_probe.h"
#include "weights/model_files.h"

namespace videre {
namespace {

constexpr size_t kMaxTemplateBytes = 4u << 20;
constexpr size_t kMaxTokenizerBytes = 256u << 20;
constexpr int kDefaultBlockSize = 16;  // tokens; CPU: one block's keys fill a few cache lines
constexpr int kCudaBlockSize = 64;     // half a tile of keys; short block tables at 128k
constexpr int64_t kDefaultBatchedTokens = 2048;
constexpr int64_t kCudaBatchedTokens = 8192;  // what vLLM takes on cards of this size
// Of the CUDA backend: ops' scratch, recorded steps, what the driver keeps for kernels. Held to by
// the warm-up.
constexpr int64_t kDeviceScratchBytes = int64_t{1} << 30;
constexpr int64_t kDefaultSeqs = 256;
constexpr int64_t kMaxTilesPerStep = 16;  // bounds the tower's scratch

Result<DType> choose_dtype(const std::string& name) {
  if (name == "auto" || name == "bfloat16") return DType::kBF16;
  if (name == "float32" || name == "float") return DType::kF32;
  if (name == "half" || name == "float16") {
    return invalid_argument("--dtype",
                            "--dtype {}: this model's squared ReLU overflows half "
                            "precision; use bfloat16 or float32",
                            name);
  }
  return invalid_argument("--dtype", "--dtype {}: auto, bfloat16 or float32 is expected", name);
}

Status check_quantization(const std::string& flag, const Config& config) {
  if (flag.empty()) return {};
  const std::string& algo = config.quant_algo;
  if (flag != "modelopt" && flag != "modelopt_fp4") {
    return invalid_argument("--quantization",
                            "--quantization {}: modelopt (FP8) or modelopt_fp4 (NVFP4) is expected",
                            flag);
  }
  const bool fp4 = flag == "modelopt_fp4";
  const bool agrees = algo == "MIXED_PRECISION" || (fp4 ? algo == "NVFP4" : algo == "FP8");
  if (agrees) return {};
  return invalid_argument("--quantization",
                          "--quantization {} was given, but the checkpoint is {}; leave the flag "
                          "out, it is read from the checkpoint",
                          flag, algo.empty() ? "not quantised" : algo);
}

Status read_generation(const std::string& text, const std::string& name,
                       Config::Generation& generation) {
  VIDERE_ASSIGN_OR_RETURN(const json::value value, parse_json(text, name));
  if (!value.is_object()) return invalid_argument(name, "{} is no JSON object", name);
  const auto number = [&](const char* key, std::optional<double>& out) {
    const json::value* member = json_find(value, key);
    if (member && !member->is_null()) out = json_number(*member);
  };
  const auto integer = [&](const char* key, std::optional<int64_t>& out) {
    std::optional<double> read;
    number(key, read);
    if (read) out = static_cast<int64_t>(*read);
  };
  number("temperature", generation.temperature);
  number("top_p", generation.top_p);
  number("min_p", generation.min_p);
  number("repetition_penalty", generation.repetition_penalty);
  integer("top_k", generation.top_k);
  integer("max_new_tokens", generation.max_new_tokens);
  return {};
}

Status apply_generation_flags(const EngineOptions& options, Config& config) {
  if (options.generation_config == "vllm") {
    config.generation = {};
  } else if (options.generation_config != "auto" && !options.generation_config.empty()) {
    config.generation = {};
    const auto path = std::filesystem::path(options.generation_config) / "generation_config.json";
    VIDERE_ASSIGN_OR_RETURN(const std::string text,
                            read_text_file(path.string(), kMaxTemplateBytes));
    VIDERE_RETURN_IF_ERROR(read_generation(text, "--generation-config", config.generation));
  }
  if (options.override_generation_config_json.empty()) return {};
  return read_generation(options.override_generation_config_json, "--override-generation-config",
                         config.generation);
}

Result<ChatTemplate> embedded_template(const ModelFiles& files) {
  const char* name = "chat_template.jinja";
  VIDERE_ASSIGN_OR_RETURN(const std::string text, files.text(name, kMaxTemplateBytes));
  return ChatTemplate::parse(text, name);
}

Result<std::unique_ptr<ChatTemplate>> load_template(const EngineOptions& options,
                                                    const ModelFiles& files) {
  const std::string& given = options.chat_template;
  if (!given.empty()) {
    std::string text = given;
    if (given.find_first_of("{}\n") == std::string::npos) {
      auto read = read_text_file(given, kMaxTemplateBytes);
      if (!read.ok()) {
        return invalid_argument("--chat-template",
                                "--chat-template {}: no such file, and no template text either",
                                given);
      }
      text = std::move(*read);
    }
    VIDERE_ASSIGN_OR_RETURN(ChatTemplate parsed, ChatTemplate::parse(text, "--chat-template"));
    return std::make_unique<ChatTemplate>(std::move(parsed));
  }
  auto loaded = files.embedded() ? embedded_template(files) : ChatTemplate::load(files.path());
  if (loaded.ok()) return std::make_unique<ChatTemplate>(std::move(*loaded));
  if (loaded.error().code != ErrorCode::kNotFound) {
    return invalid_model("{}", loaded.error().message);
  }
  log_warning("the model has no chat template: requests with messages will be refused");
  return std::unique_ptr<ChatTemplate>();
}

Result<int32_t> require_token(const Tokenizer& tokenizer, const std::string& text) {
  const auto id = tokenizer.token_id(text);
  if (!id) return invalid_model("tokenizer.json has no token \"{}\", which pictures need", text);
  return *id;
}

Result<PromptConfig> make_prompt_config(const Config& config, const Tokenizer& tokenizer,
                                        const std::string& style) {
  PromptConfig out;
  out.tile_size = config.force_image_size;
  out.tokens_per_tile = config.tokens_per_tile();
  out.max_num_tiles = config.max_num_tiles;
  out.use_thumbnail = config.use_thumbnail;
  out.image_token = config.img_context_token;
  out.image_start = config.img_start_token;
  out.image_end = config.img_end_token;
  out.video_token = config.video_context_token;
  VIDERE_ASSIGN_OR_RETURN(out.image_start_id, require_token(tokenizer, out.image_start));
  VIDERE_ASSIGN_OR_RETURN(out.image_end_id, require_token(tokenizer, out.image_end));
  VIDERE_ASSIGN_OR_RETURN(const int32_t image, require_token(tokenizer, out.image_token));
  out.image_token_id = config.img_context_token_id >= 0 ? config.img_context_token_id : image;
  if (out.image_token_id != image) {
    return invalid_model("img_context_token_id is {}, but \"{}\" is token {} of tokenizer.json",
                         out.image_token_id, out.image_token, image);
  }
  if (style == "vb") {
    out.video_style = VideoPromptStyle::kVb;
  } else if (style == "vx") {
    out.video_style = VideoPromptStyle::kVx;
  } else if (style == "trtllm") {
    out.video_style = VideoPromptStyle::kTrtllm;
  } else {
    return invalid_argument("--video-prompt-style",
                            "--video-prompt-style {}: vb, vx or trtllm is expected", style);
  }
  return out;
}

// "auto" takes the first card that can be used; a build without CUDA is not worth a word.
Result<std::unique_ptr<Backend>> make_backend(const EngineOptions& options) {
  const std::string& device = options.device;
  if (device != "auto" && device != "cpu" && device != "cuda") {
    return invalid_argument("--device", "--device {}: auto, cpu or cuda is expected", device);
  }
  if (device != "cpu") {
    CudaOptions cuda;
    cuda.use_graphs = !options.enforce_eager;
    auto backend = make_cuda_backend(cuda);
    if (backend.ok() || device == "cuda") return backend;
    if (cuda_in_this_build()) {
      log_info("no GPU: {}; running on the CPU", backend.error().message);
    }
  }
  CpuOptions cpu;
  cpu.num_threads = options.num_threads;
  return make_cpu_backend(cpu);
}

// What this process may use: free memory of the machine, or of its control group.
int64_t memory_available() {
  int64_t available = INT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, unit; meminfo >> key;) {
    int64_t value = 0;
    meminfo >> value;
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") available = value * 1024;
  }
  int64_t limit = 0, used = 0;
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit &&
      std::ifstream("/sys/fs/cgroup/memory.current") >> used) {
    available = std::min(available, std::max<int64_t>(0, limit - used));
  }
  return available == INT64_MAX ? int64_t{4} << 30 : available;
}

std::string human(int64_t bytes) {
  if (bytes >= int64_t{1} << 30)
    return fmt::format("{:.2f} GiB", static_cast<double>(bytes) / (1 << 30));
  return fmt::format("{:.2f} MiB", static_cast<double>(bytes) / (1 << 20));
}

Result<LoadFormat> choose_load_format(const std::string& name) {
  if (name == "auto" || name == "safetensors") return LoadFormat::kSafetensors;
  if (name == "dummy") return LoadFormat::kDummy;
  return invalid_argument("--load-format",
                          "--load-format {}: auto, safetensors or dummy is expected", name);
}

Result<DType> choose_cache_dtype(const std::string& flag, const char* name, DType automatic) {
  if (flag == "auto") return automatic;
  if (flag == "bfloat16") return DType::kBF16;
  if (flag == "float32") return DType::kF32;
  if (flag == "float16" && std::string_view(name) == "--mamba-ssm-cache-dtype") return DType::kF16;
  if (flag == "fp8" || flag == "fp8_e4m3") return DType::kF8E4M3;
  return invalid_argument(name, "{} {}: auto, bfloat16, float32 or fp8 is expected", name, flag);
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const ModelFiles& files) {
  if (!files.embedded()) return Tokenizer::load(files.path());
  VIDERE_ASSIGN_OR_RETURN(const std::string main, files.text("tokenizer.json", kMaxTokenizerBytes));
  std::string config;
  if (files.contains("tokenizer_config.json")) {
    VIDERE_ASSIGN_OR_RETURN(config, files.text("tokenizer_config.json", kMaxTokenizerBytes));
  }
  return Tokenizer::parse(main, config);
}

Result<LoadedModel> load_model(const EngineOptions& options, const LoadProgress& progress,
                               std::unique_ptr<Backend> backend) {
  const auto report = [&](const char* stage, double fraction) {
    if (progress) progress(stage, fraction);
  };
  LoadedModel out;
  VIDERE_ASSIGN_OR_RETURN(const DType dtype, choose_dtype(options.dtype));
  // A card takes half a second to open, words a while to read: beside each other.
  std::future<Result<std::unique_ptr<Backend>>> opening;
  out.backend = std::move(backend);
  if (!out.backend) opening = std::async(std::launch::async, make_backend, std::cref(options));
  VIDERE_ASSIGN_OR_RETURN(const ModelFiles files,
                          open_model(options.model, options.revision, options.download_dir));
  report("config", 0);
  VIDERE_ASSIGN_OR_RETURN(out.config, load_config(files));
  VIDERE_RETURN_IF_ERROR(check_quantization(options.quantization, out.config));
  VIDERE_RETURN_IF_ERROR(apply_generation_flags(options, out.config));
  const ModelFiles text_files = options.tokenizer.empty() ? files : ModelFiles(options.tokenizer);
  report("tokenizer", 0.1);
  std::future<Result<std::unique_ptr<Tokenizer>>> reading =
      std::async(std::launch::async, load_tokenizer, std::cref(text_files));
  VIDERE_ASSIGN_OR_RETURN(out.chat_template, load_template(options, text_files));
  if (!out.backend) {
    VIDERE_ASSIGN_OR_RETURN(out.backend, opening.get());
  }
  log_debug("start: the device is open");
  if (options.quantized_activations) {
    out.activation_simulator = make_activation_simulator(*out.backend);
    out.backend->set_linear_probe(out.activation_simulator.get());
  }
  report("weights", 0.3);
  VIDERE_ASSIGN_OR_RETURN(const LoadFormat load_format, choose_load_format(options.load_format));
  VIDERE_ASSIGN_OR_RETURN(out.model, NemotronVl::load(files, out.config, *out.backend, dtype,
                                                      options.language_model_only, load_format));
  log_debug("start: the weights are queued");
  VIDERE_ASSIGN_OR_RETURN(out.tokenizer, reading.get());
  log_debug("start: the tokenizer is read");
  out.config = out.model->config();
  if (const auto eos = out.tokenizer->eos_id()) out.config.eos_token_ids.insert(*eos);
  VIDERE_ASSIGN_OR_RETURN(out.prompt_config, make_prompt_config(out.config, *out.tokenizer,
                                                                options.video_prompt_style));
  out.info.name = options.model.empty() ? kBuiltinModel : options.model;
  out.info.path = files.path();
  out.info.max_model_len = out.config.max_model_len;
  out.info.dtype = std::string(dtype_name(dtype));
  out.info.quantization = out.config.quant_algo;
  out.info.device = std::string(out.backend->name());
  out.info.num_parameters = out.model->num_parameters();
  out.info.vocab_size = out.config.llm.vocab_size;
  report("weights", 1);
  return out;
}

Result<MemoryPlan> plan_memory(const LoadedModel& loaded, const EngineOptions& options,
                               int64_t available_bytes) {
  const NemotronVl& model = *loaded.model;
  const LanguageModel& language = model.language();
  const DeviceMemory device = loaded.backend->memory();
  const bool on_device = device.total > 0;
  int64_t available = available_bytes > 0 ? available_bytes : memory_available();
  if (on_device) {
    // The share that was asked for, less what others hold of the card and what is loaded already.
    const auto limit =
        static_cast<int64_t>(static_cast<double>(device.total) * options.gpu_memory_utilization);
    available =
        std::min(limit, device.free) - device.weights - device.tensors - kDeviceScratchBytes;
  }
  VIDERE_ASSIGN_OR_RETURN(const CacheOptions cache, cache_options(loaded, options));

  MemoryPlan plan;
  plan.block_size = cache.block_size;
  plan.weights = model.weight_bytes();
  plan.device_scratch = on_device ? kDeviceScratchBytes : 0;
  plan.vision_weights = model.has_vision() ? model.vision_weight_bytes() : 0;
  plan.kv_bytes_per_token = language.kv_bytes_per_token(cache.kv_dtype);
  plan.state_bytes_per_slot = language.state_bytes_per_slot(cache.conv_dtype, cache.ssm_dtype);

  const int64_t limit = loaded.config.max_model_len;
  plan.max_model_len = options.max_model_len.value_or(limit);
  const char* long_allowed = std::getenv("VLLM_ALLOW_LONG_MAX_MODEL_LEN");
  if (plan.max_model_len > limit && !(long_allowed && std::string(long_allowed) == "1")) {
    return invalid_argument("--max-model-len",
                            "--max-model-len {} is over the model's own limit of {} tokens",
                            plan.max_model_len, limit);
  }
  const bool largest = plan.max_model_len == -1;
  if (largest) plan.max_model_len = limit;
  if (plan.max_model_len < 1) {
    return invalid_argument("--max-model-len",
                            "--max-model-len {}: at least 1, or -1 for the "
                            "largest that fits, is expected",
                            plan.max_model_len);
  }
  if (options.max_num_seqs && *options.max_num_seqs < 1) {
    return invalid_argument("--max-num-seqs", "--max-num-seqs {}: at least 1 is expected",
                            *options.max_num_seqs);
  }
  if (options.max_num_batched_tokens && *options.max_num_batched_tokens < 1) {
    return invalid_argument("--max-num-batched-tokens",
                            "--max-num-batched-tokens {}: at least 1 is expected",
                            *options.max_num_batched_tokens);
  }

  // States first: half of what is free at most; fewer sequences where nobody asked for a number.
  const int64_t room = std::max<int64_t>(0, on_device ? available : available - available / 10);
  plan.max_num_seqs = options.max_num_seqs.value_or(kDefaultSeqs);
  if (!options.max_num_seqs) {
    const int64_t most = room / 2 / std::max<int64_t>(1, plan.state_bytes_per_slot) - 1;
    plan.max_num_seqs = std::clamp<int64_t>(most, 1, plan.max_num_seqs);
  }
  plan.max_num_batched_tokens = options.max_num_batched_tokens.value_or(
      on_device ? kCudaBatchedTokens : kDefaultBatchedTokens);
  if (!options.enable_chunked_prefill) {
    plan.max_num_batched_tokens = std::max(plan.max_num_batched_tokens, plan.max_model_len);
  }
  // Every running sequence may need one token a step.
  plan.max_num_seqs = std::min(plan.max_num_seqs, plan.max_num_batched_tokens);
  plan.num_state_slots = plan.max_num_seqs;
  plan.state_slots = (plan.num_state_slots + 1) * plan.state_bytes_per_slot;
  if (model.has_vision()) {
    // No legal prompt has more rows than the context has tokens.
    const int64_t row_bytes =
        loaded.config.llm.hidden_size * static_cast<int64_t>(dtype_size(model.dtype()));
    plan.encoder_cache = plan.max_model_len * row_bytes;
    if (options.encoder_cache_gb > 0) {
      plan.encoder_cache =
          static_cast<int64_t>(options.encoder_cache_gb * (1 << 30)) / row_bytes * row_bytes;
    }
  }
  plan.activations = runner_bytes(model, runner_options(loaded, plan, cache));

  // KV: what was asked for, else room for every sequence at full length within half of the rest.
  const int64_t block_bytes = std::max<int64_t>(1, plan.kv_bytes_per_token * plan.block_size);
  const auto blocks_for = [&](int64_t tokens) {
    return (tokens + plan.block_size - 1) / plan.block_size;
  };
  const int64_t rest = room - plan.state_slots - plan.activations - plan.encoder_cache;
  if (options.kv_cache_memory_bytes) {
    plan.num_kv_blocks = *options.kv_cache_memory_bytes / block_bytes;
  } else {
    plan.num_kv_blocks = std::min(plan.max_num_seqs * blocks_for(plan.max_model_len),
                                  std::max<int64_t>(0, rest) / (on_device ? 1 : 2) / block_bytes);
    if (plan.num_kv_blocks < blocks_for(plan.max_model_len) && rest > 0) {
      plan.num_kv_blocks = std::min(blocks_for(plan.max_model_len), rest / block_bytes);
    }
  }
  plan.num_kv_blocks = std::min<int64_t>(plan.num_kv_blocks, INT32_MAX - 1);
  if (largest) {
    plan.max_model_len = std::min(plan.max_model_len, plan.num_kv_blocks * plan.block_size);
    plan.activations = runner_bytes(model, runner_options(loaded, plan, cache));
  }
  if (plan.num_kv_blocks < blocks_for(plan.max_model_len) || plan.max_model_len < 1) {
    return make_error(
        ErrorCode::kOutOfMemory, "--max-model-len",
        "one sequence of {} tokens needs {} of KV cache, and {} are there for it (free memory {}; "
        "state slots take {}, activations {}, encoder cache {}); lower --max-model-len, or "
        "--max-num-seqs or --max-num-batched-tokens",
        plan.max_model_len, human(plan.max_model_len * plan.kv_bytes_per_token),
        human(plan.num_kv_blocks * block_bytes), human(available), human(plan.state_slots),
        human(plan.activations), human(plan.encoder_cache));
  }
  plan.kv_cache = (plan.num_kv_blocks + 1) * block_bytes;
  return plan;
}

Result<CacheOptions> cache_options(const LoadedModel& loaded, const EngineOptions& options) {
  CacheOptions out;
  const bool on_device = loaded.backend->memory().total > 0;
  out.block_size = options.block_size > 0 ? options.block_size
                   : on_device            ? kCudaBlockSize
                                          : kDefaultBlockSize;
  const DType dtype = loaded.model->dtype();
  out.conv_dtype = dtype;
  const DType own = loaded.config.kv_cache_quant_algo == "FP8" ? DType::kF8E4M3 : dtype;
  VIDERE_ASSIGN_OR_RETURN(out.kv_dtype,
                          choose_cache_dtype(options.kv_cache_dtype, "--kv-cache-dtype", own));
  const std::string& own_state = loaded.config.llm.mamba_ssm_cache_dtype;
  VIDERE_ASSIGN_OR_RETURN(
      out.ssm_dtype, choose_cache_dtype(options.mamba_ssm_cache_dtype, "--mamba-ssm-cache-dtype",
                                        own_state == "bfloat16"  ? DType::kBF16
                                        : own_state == "float16" ? DType::kF16
                                                                 : DType::kF32));
  return out;
}

RunnerOptions runner_options(const LoadedModel& loaded, const MemoryPlan& plan,
                             const CacheOptions& cache) {
  const Config& config = loaded.config;
  RunnerOptions out;
  out.cache = cache;
  out.cache.num_blocks = plan.num_kv_blocks + 1;
  out.cache.num_slots = plan.num_state_slots + 1;
  out.max_num_batched_tokens = plan.max_num_batched_tokens;
  out.max_num_seqs = plan.max_num_seqs;
  out.max_model_len = plan.max_model_len;
  const int64_t tiles = plan.max_num_batched_tokens / std::max(1, config.tokens_per_tile());
  out.max_tiles = static_cast<int>(std::clamp<int64_t>(tiles, 1, kMaxTilesPerStep));
  out.encoder_rows = plan.encoder_cache / (config.llm.hidden_size *
                                           static_cast<int64_t>(dtype_size(loaded.model->dtype())));
  return out;
}

}  // namespace videre
