#include "cli/flags.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "server/openai_types.h"

namespace videre {
namespace {

const std::vector<std::string> kJsonFlags = {
    "--media-io-kwargs", "--mm-processor-kwargs", "--limit-mm-per-prompt",
    "--override-generation-config", "--default-chat-template-kwargs"};

bool is_json_flag(const std::string& name) {
  return std::find(kJsonFlags.begin(), kJsonFlags.end(), name) != kJsonFlags.end();
}

json::value value_of_text(const std::string& text) {
  auto parsed = parse_json(text, "a flag's value");
  return parsed.ok() ? std::move(*parsed) : json::value(json::string(text));
}

// Deep merge: later keys win, maps are joined.
void merge_json(json::value& into, const json::value& from) {
  if (!into.is_object() || !from.is_object()) {
    into = from;
    return;
  }
  for (const auto& [key, value] : from.get_object()) merge_json(into.get_object()[key], value);
}

Status set_dotted(json::value& root, std::string path, const std::string& text) {
  bool append = false;
  if (!path.empty() && path.back() == '+') {
    append = true;
    path.pop_back();
  }
  json::value* at = &root;
  size_t start = 0;
  for (int depth = 0;; ++depth) {
    const size_t dot = path.find('.', start);
    const std::string key = path.substr(start, dot - start);
    if (key.empty() || depth > 16) {
      return invalid_argument("", "--...{} is no path of keys like --media-io-kwargs.video.fps",
                              path);
    }
    if (!at->is_object()) *at = json::object();
    at = &at->get_object()[key];
    if (dot == path.npos) break;
    start = dot + 1;
  }
  if (append) {
    if (!at->is_array()) *at = json::array();
    at->get_array().push_back(value_of_text(text));
  } else {
    *at = value_of_text(text);
  }
  return {};
}

Status parse_limits(const std::string& text, std::map<std::string, int>& out) {
  const std::string flag = "--limit-mm-per-prompt";
  json::value value = value_of_text(text);
  if (value.is_string()) {  // image=16,video=1
    json::object object;
    size_t start = 0;
    while (start < text.size()) {
      const size_t comma = std::min(text.find(',', start), text.size());
      const std::string piece = text.substr(start, comma - start);
      const size_t equals = piece.find('=');
      if (equals == piece.npos) {
        return invalid_argument(flag, "{} is not JSON; expected {{\"image\": 16, \"video\": 1}}",
                                text);
      }
      object[piece.substr(0, equals)] = value_of_text(piece.substr(equals + 1));
      start = comma + 1;
    }
    value = std::move(object);
  }
  if (!value.is_object()) {
    return invalid_argument(flag, "{} is no JSON object; expected {{\"image\": 16}}", text);
  }
  for (const auto& [key, item] : value.get_object()) {
    const json::value* count = item.is_object() ? json_find(item, "count") : &item;
    const auto number = count ? json_number(*count) : std::optional<double>(999);
    if (!number || !(*number >= 0 && *number <= 1e6) || *number != std::floor(*number)) {
      return invalid_argument(flag, "the limit of {} is no count from 0", std::string(key));
    }
    if (key != "image" && key != "video" && key != "audio") {
      return invalid_argument(flag, "{} is no modality; expected image or video", std::string(key));
    }
    if (key != "audio") out[std::string(key)] = static_cast<int>(*number);
  }
  return {};
}

// Known to the engine that users come from, without meaning here. The number of values: 0 a
// switch (with its --no- twin), 1 one, 2 any number.
struct IgnoredFlag {
  const char* name;
  int values;
};
constexpr IgnoredFlag kIgnored[] = {
    {"enable-prefix-caching", 0},
    {"enforce-eager", 0},
    {"skip-mm-profiling", 0},
    {"disable-fastapi-docs", 0},
    {"disable-uvicorn-access-log", 0},
    {"disable-frontend-multiprocessing", 0},
    {"headless", 0},
    {"disable-log-requests", 0},
    {"enable-log-outputs", 0},
    {"enable-server-load-tracking", 0},
    {"enable-tokenizer-info-endpoint", 0},
    {"log-error-stack", 0},
    {"disable-hybrid-kv-cache-manager", 0},
    {"enable-per-request-metrics", 0},
    {"interleave-mm-strings", 0},
    {"enable-log-deltas", 0},
    {"disable-access-log-for-endpoints", 1},
    {"linear-backend", 1},
    {"mm-encoder-attn-backend", 1},
    {"mm-encoder-attn-dtype", 1},
    {"mm-tensor-ipc", 1},
    {"mm-ipc-gpu-memory-gb", 1},
    {"fingerprint-mode", 1},
    {"fingerprint-value", 1},
    {"mm-processor-cache-type", 1},
    {"mm-encoder-tp-mode", 1},
    {"mamba-cache-dtype", 1},
    {"mamba-cache-mode", 1},
    {"mamba-block-size", 1},
    {"stream-interval", 1},
    {"performance-mode", 1},
    {"max-log-len", 1},
    {"structured-outputs-config", 1},
    {"guided-decoding-backend", 1},
    {"tokenizer-revision", 1},
    {"tokenizer-mode", 1},
    {"load-format", 1},
    {"uvicorn-log-level", 1},
    {"log-config-file", 1},
    {"middleware", 1},
    {"tool-server", 1},
    {"api-server-count", 1},
    {"distributed-executor-backend", 1},
    {"swap-space", 1},
    {"cpu-offload-gb", 1},
    {"attention-backend", 1},
    {"compilation-config", 1},
    {"max-seq-len-to-capture", 1},
    {"logprobs-mode", 1},
    {"scheduling-policy", 1},
    {"kv-events-config", 1},
    {"reasoning-parser", 1},
    {"reasoning-parser-plugin", 1},
    {"tool-parser-plugin", 1},
    {"enable-mm-embeds", 0},
    {"hf-config-path", 1},
    {"code-revision", 1},
    {"enable-ssl-refresh", 0},
    {"max-parallel-loading-workers", 1},
    {"disable-custom-all-reduce", 0},
    {"enable-expert-parallel", 0},
    {"data-parallel-backend", 1},
    {"ssl-ciphers", 1},
};
// Known, and refused: to ignore them would change what the user gets.
constexpr IgnoredFlag kRefused[] = {
    {"uds", 1},          {"api-key", 2},       {"ssl-keyfile", 1},        {"ssl-certfile", 1},
    {"ssl-ca-certs", 1}, {"ssl-cert-reqs", 1}, {"kv-transfer-config", 1}, {"speculative-config", 1},
    {"enable-lora", 0},  {"lora-modules", 2},  {"hf-overrides", 1},       {"root-path", 1},
};

void add_known(CLI::App& app, const IgnoredFlag& flag, bool refused) {
  const std::string name = flag.name;
  const auto act = [name, refused] {
    if (refused) {
      throw CLI::ValidationError("--" + name, "is known but not supported by this version");
    }
    log_warning("--{} has no effect here and is ignored", name);
  };
  if (flag.values == 0) {
    app.add_flag_function("--" + name + ",--no-" + name, [act](int64_t) { act(); })->group("");
    return;
  }
  auto* option = app.add_option_function<std::vector<std::string>>(
      "--" + name, [act](const std::vector<std::string>&) { act(); });
  option->group("");
  if (flag.values == 1) option->allow_extra_args(false);
}

}  // namespace

std::string environment(const char* name) {
  const std::string text = name;
  if (text.rfind("VLLM_", 0) == 0) {
    if (const char* own = std::getenv(("VIDERE_" + text.substr(5)).c_str())) return own;
  }
  const char* value = std::getenv(name);
  return value ? value : "";
}

int report(const Error& error) {
  fmt::print(stderr, "videre: error: {}{}{}\n", error.param, error.param.empty() ? "" : ": ",
             error.message);
  return error_status(error.code).exit_code;
}

Result<int64_t> parse_size(const std::string& text, const std::string& flag) {
  if (text == "auto") return int64_t{-1};
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  double scale = 1;
  bool good = error == std::errc() && std::isfinite(number) && end - rest <= 1;
  if (good && rest != end) {
    const size_t lower = std::string("kmgt").find(*rest);
    const size_t upper = std::string("KMGT").find(*rest);
    good = lower != std::string::npos || upper != std::string::npos;
    scale = lower != std::string::npos ? std::pow(1000.0, static_cast<double>(lower + 1))
                                       : std::pow(1024.0, static_cast<double>(upper + 1));
  }
  number *= scale;
  if (!good || number < -1 || number > 9e15 || std::abs(number - std::round(number)) > 1e-6) {
    return invalid_argument(flag,
                            "{} is no size; expected a whole number such as 131072, 128K "
                            "(times 1024) or 131k (times 1000)",
                            text);
  }
  return static_cast<int64_t>(std::llround(number));
}

Result<std::vector<std::string>> normalize_arguments(const std::vector<std::string>& arguments) {
  std::vector<std::string> out;
  std::map<std::string, json::value> gathered;
  std::optional<size_t> config_at;
  std::vector<std::string> from_config;
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string word = arguments[i];
    if (word == "--") {
      out.insert(out.end(), arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
      break;
    }
    if (word == "-tp" || word == "-dp" || word == "-pp") {
      word = word == "-tp"   ? "--tensor-parallel-size"
             : word == "-dp" ? "--data-parallel-size"
                             : "--pipeline-parallel-size";
    }
    if (word.rfind("--", 0) != 0) {
      out.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    std::string name = word.substr(0, equals);
    std::optional<std::string> value;
    if (equals != word.npos) value = word.substr(equals + 1);
    const size_t dot = name.find('.');
    const std::string tail = dot == name.npos ? "" : name.substr(dot + 1);
    name = name.substr(0, dot);
    std::replace(name.begin() + 2, name.end(), '_', '-');
    const auto take_value = [&]() -> Status {
      if (value) return {};
      if (i + 1 >= arguments.size()) {
        return invalid_argument(name, "a value is missing after {}", word);
      }
      value = arguments[++i];
      return {};
    };
    if (name == "--config") {
      if (config_at) return invalid_argument("--config", "given twice; expected one file");
      VIDERE_RETURN_IF_ERROR(take_value());
      const std::string extension = std::filesystem::path(*value).extension().string();
      if (extension != ".yaml" && extension != ".yml") {
        return invalid_argument("--config", "{} is no .yaml or .yml file", *value);
      }
      auto text = read_text_file(*value, 1u << 20);
      if (!text.ok()) return invalid_argument("--config", "{}", text.error().message);
      VIDERE_ASSIGN_OR_RETURN(auto words, yaml_arguments(*text, *value));
      VIDERE_ASSIGN_OR_RETURN(from_config, normalize_arguments(words));
      config_at = out.size();
    } else if (is_json_flag(name)) {
      VIDERE_RETURN_IF_ERROR(take_value());
      json::value& root = gathered.try_emplace(name, json::object()).first->second;
      if (!tail.empty()) {
        VIDERE_RETURN_IF_ERROR(set_dotted(root, tail, *value));
      } else {
        const json::value given = value_of_text(*value);
        if (given.is_object()) {
          merge_json(root, given);
        } else {  // an error, but the flag's own check says it better
          out.push_back(name);
          out.push_back(*value);
          gathered.erase(name);
        }
      }
    } else {
      if (!tail.empty()) name += "." + tail;
      out.push_back(value ? name + "=" + *value : name);
    }
  }
  // The file's flags come first, so that the user's own win; a flag that both give is kept once.
  if (!from_config.empty()) {
    const auto given = [&out](const std::string& name) {
      return std::any_of(out.begin(), out.end(), [&name](const std::string& word) {
        return word == name || word.rfind(name + "=", 0) == 0;
      });
    };
    std::vector<std::string> kept;
    for (size_t i = 0; i < from_config.size();) {
      const std::string name = from_config[i].substr(0, from_config[i].find('='));
      size_t end = i + 1;
      while (end < from_config.size() && from_config[end].rfind("--", 0) != 0) ++end;
      if (is_json_flag(name) && end == i + 2) {
        json::value merged = value_of_text(from_config[i + 1]);
        if (auto own = gathered.find(name); own != gathered.end()) merge_json(merged, own->second);
        gathered[name] = std::move(merged);
      } else if (!given(name)) {
        kept.insert(kept.end(), from_config.begin() + static_cast<std::ptrdiff_t>(i),
                    from_config.begin() + static_cast<std::ptrdiff_t>(end));
      }
      i = end;
    }
    // Before the flags but after a positional model, whose place is first.
    size_t at = 0;
    while (at < out.size() && at < *config_at && out[at].rfind("-", 0) != 0) ++at;
    out.insert(out.begin() + static_cast<std::ptrdiff_t>(at), kept.begin(), kept.end());
  }
  for (const auto& [name, value] : gathered) {
    out.push_back(name);
    out.push_back(to_json(value));
  }
  return out;
}

void add_engine_flags(CLI::App& app, EngineFlags& flags) {
  EngineOptions& engine = flags.engine;
  const char* group = "Model";
  app.add_option("MODEL", flags.model_positional,
                 "folder of a checkpoint, or org/name in the hub cache")
      ->group(group);
  app.add_option("--model", flags.model_flag, "the same as a flag")->group(group);
  app.add_option("--revision", engine.revision, "branch or commit in the hub cache")->group(group);
  app.add_option("--download-dir", engine.download_dir, "folder of the hub cache")->group(group);
  app.add_option("--tokenizer", engine.tokenizer, "folder of tokenizer files")->group(group);
  app.add_option("--chat-template", engine.chat_template, "file or text of a Jinja template")
      ->group(group);
  app.add_option("--chat-template-content-format", engine.chat_template_content_format,
                 "auto, string or openai")
      ->check(CLI::IsMember({"auto", "string", "openai"}))
      ->group(group);
  app.add_option("--dtype", engine.dtype, "auto, bfloat16 or float32")->group(group);
  app.add_option("--quantization,-q", engine.quantization,
                 "modelopt or modelopt_fp4; found in the checkpoint when not given")
      ->group(group);
  app.add_option("--generation-config", engine.generation_config,
                 "auto, vllm (neutral defaults), or a folder")
      ->group(group);
  app.add_option("--override-generation-config", engine.override_generation_config_json,
                 "JSON of sampling defaults")
      ->group(group);
  app.add_flag("--trust-remote-code,!--no-trust-remote-code", flags.trust_remote_code,
               "accepted; no code of a checkpoint is ever run")
      ->group(group);

  group = "Device and memory";
  app.add_option("--device", engine.device, "auto, cpu or cuda")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->group(group);
  app.add_option("--max-model-len", flags.max_model_len,
                 "tokens of prompt and answer; 32K = 32768; -1 or auto = what fits")
      ->group(group);
  app.add_option("--max-num-seqs", flags.max_num_seqs, "sequences that run at once")
      ->check(CLI::Range(int64_t{1}, int64_t{65536}))
      ->group(group);
  app.add_option("--max-num-batched-tokens", flags.max_num_batched_tokens, "tokens a step")
      ->group(group);
  app.add_option("--gpu-memory-utilization", engine.gpu_memory_utilization,
                 "share of the device's memory")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  app.add_option("--kv-cache-memory-bytes", flags.kv_cache_memory_bytes, "bytes of KV cache")
      ->group(group);
  app.add_option("--kv-cache-dtype", engine.kv_cache_dtype, "auto, bfloat16 or fp8")->group(group);
  app.add_option("--mamba-ssm-cache-dtype", engine.mamba_ssm_cache_dtype, "auto means float32")
      ->group(group);
  app.add_option("--block-size", engine.block_size, "tokens a KV block")
      ->check(CLI::Range(0, 65536))
      ->group(group);
  app.add_option("--num-threads", engine.num_threads, "compute threads; 0 = one a core")
      ->check(CLI::Range(0, 4096))
      ->group(group);
  app.add_flag("--enable-chunked-prefill,!--no-enable-chunked-prefill",
               engine.enable_chunked_prefill, "cut long prompts over steps")
      ->group(group);
  app.add_flag("--async-scheduling,!--no-async-scheduling", engine.async_scheduling,
               "launch a step before the last one's tokens are read")
      ->group(group);
  app.add_option("--max-waiting-requests", engine.max_waiting_requests,
                 "queue length; beyond it requests get 429")
      ->check(CLI::Range(0, 1 << 24))
      ->group(group);
  app.add_option("--seed", engine.seed, "of sampling without a seed of its own")->group(group);
  app.add_option("--max-logprobs", engine.max_logprobs, "-1 = no limit")
      ->check(CLI::Range(-1, 1 << 24))
      ->group(group);
  app.add_option("--tensor-parallel-size", flags.tensor_parallel_size, "1 for now")->group(group);
  app.add_option("--data-parallel-size", flags.data_parallel_size, "1 for now")->group(group);
  app.add_option("--pipeline-parallel-size", flags.pipeline_parallel_size, "1")->group(group);

  group = "Pictures and video";
  app.add_option("--media-io-kwargs", flags.media_io_kwargs,
                 "JSON, or dotted: --media-io-kwargs.video.fps 2")
      ->group(group);
  app.add_option("--mm-processor-kwargs", flags.mm_processor_kwargs,
                 "JSON: max_num_tiles, video_pruning_rate")
      ->group(group);
  app.add_option("--limit-mm-per-prompt", flags.limit_mm_per_prompt,
                 "JSON: {\"image\": 16, \"video\": 1}")
      ->group(group);
  app.add_option("--video-pruning-rate", engine.video_pruning_rate,
                 "share of video tokens dropped (EVS); 0 = off")
      ->group(group);
  app.add_option("--video-prompt-style", engine.video_prompt_style,
                 "text around frames: vb, vx or trtllm")
      ->check(CLI::IsMember({"vb", "vx", "trtllm"}))
      ->group(group);
  app.add_option("--allowed-local-media-path", engine.allowed_local_media_path,
                 "file:// URLs must lie in this folder")
      ->group(group);
  app.add_option("--allowed-media-domains", engine.allowed_media_domains,
                 "hosts that media may come from")
      ->group(group);
  app.add_flag("--allow-private-media-hosts,!--no-allow-private-media-hosts",
               engine.allow_private_media_hosts, "fetch from private addresses too")
      ->group(group);
  app.add_option("--mm-processor-cache-gb", engine.mm_processor_cache_gb,
                 "cache of prepared media, GiB")
      ->check(CLI::Range(0.0, 1e6))
      ->group(group);
  app.add_option("--media-threads", engine.media_threads, "threads that decode")
      ->check(CLI::Range(1, 1024))
      ->group(group);
  app.add_flag("--language-model-only,!--no-language-model-only", engine.language_model_only,
               "no pictures, no video, no vision tower")
      ->group(group);
}

void add_ignored_flags(CLI::App& app) {
  for (const IgnoredFlag& flag : kIgnored) add_known(app, flag, false);
  for (const IgnoredFlag& flag : kRefused) add_known(app, flag, true);
}

Status resolve_engine_flags(EngineFlags& flags) {
  EngineOptions& engine = flags.engine;
  engine.model = flags.model_positional.empty() ? flags.model_flag : flags.model_positional;
  const std::pair<const char*, int64_t> parallel[] = {
      {"--tensor-parallel-size", flags.tensor_parallel_size},
      {"--data-parallel-size", flags.data_parallel_size},
      {"--pipeline-parallel-size", flags.pipeline_parallel_size}};
  for (const auto& [name, size] : parallel) {
    if (size == 1) continue;
    return invalid_argument(name, "{} is not supported: this version runs on one device; use 1",
                            size);
  }
  if (!flags.max_model_len.empty()) {
    VIDERE_ASSIGN_OR_RETURN(const int64_t length,
                            parse_size(flags.max_model_len, "--max-model-len"));
    if (length == 0)
      return invalid_argument("--max-model-len", "0 leaves no room; expected 1 or more");
    engine.max_model_len = length;
  }
  if (flags.max_num_seqs > 0) engine.max_num_seqs = static_cast<int>(flags.max_num_seqs);
  if (!flags.max_num_batched_tokens.empty()) {
    VIDERE_ASSIGN_OR_RETURN(const int64_t count,
                            parse_size(flags.max_num_batched_tokens, "--max-num-batched-tokens"));
    if (count < 1 || count > INT32_MAX) {
      return invalid_argument("--max-num-batched-tokens", "{} is out of range; expected 1 to {}",
                              count, INT32_MAX);
    }
    engine.max_num_batched_tokens = static_cast<int>(count);
  }
  if (!flags.kv_cache_memory_bytes.empty()) {
    VIDERE_ASSIGN_OR_RETURN(engine.kv_cache_memory_bytes,
                            parse_size(flags.kv_cache_memory_bytes, "--kv-cache-memory-bytes"));
  }
  if (!(engine.video_pruning_rate >= 0 && engine.video_pruning_rate < 1)) {
    return invalid_argument("--video-pruning-rate",
                            "{} is out of range; expected 0 up to, not "
                            "with, 1",
                            engine.video_pruning_rate);
  }
  if (!flags.media_io_kwargs.empty()) {
    VIDERE_ASSIGN_OR_RETURN(auto value, parse_json(flags.media_io_kwargs, "--media-io-kwargs"));
    std::vector<std::string> ignored;
    VIDERE_ASSIGN_OR_RETURN(engine.media_io, parse_media_io(value, "--media-io-kwargs", &ignored));
    for (const std::string& name : ignored) log_warning("{} has no effect here", name);
  }
  if (!flags.mm_processor_kwargs.empty()) {
    VIDERE_ASSIGN_OR_RETURN(auto value,
                            parse_json(flags.mm_processor_kwargs, "--mm-processor-kwargs"));
    VIDERE_ASSIGN_OR_RETURN(engine.processor, parse_processor(value, "--mm-processor-kwargs"));
  }
  if (!flags.limit_mm_per_prompt.empty()) {
    VIDERE_RETURN_IF_ERROR(parse_limits(flags.limit_mm_per_prompt, engine.limit_mm_per_prompt));
  }
  if (!engine.allowed_local_media_path.empty() &&
      !std::filesystem::is_directory(engine.allowed_local_media_path)) {
    return invalid_argument("--allowed-local-media-path", "{} is no folder",
                            engine.allowed_local_media_path);
  }
  const std::string backend = environment("VLLM_VIDEO_LOADER_BACKEND");
  if (!backend.empty()) {
    if (backend != "opencv" && backend != "opencv_dynamic" && backend != "nemotron_vl") {
      return invalid_argument("VLLM_VIDEO_LOADER_BACKEND",
                              "{} is no video loader; expected opencv, opencv_dynamic or "
                              "nemotron_vl",
                              backend);
    }
    if (!engine.media_io.video_backend) engine.media_io.video_backend = backend;
  }
  const std::string threads = environment("VLLM_MEDIA_LOADING_THREAD_COUNT");
  if (!threads.empty()) {
    int count = 0;
    const auto [end, error] =
        std::from_chars(threads.data(), threads.data() + threads.size(), count);
    if (error != std::errc() || end != threads.data() + threads.size() || count < 1 ||
        count > 1024) {
      return invalid_argument("VLLM_MEDIA_LOADING_THREAD_COUNT", "{} is no count of 1 to 1024",
                              threads);
    }
    engine.media_threads = count;
  }
  std::string level = environment("VLLM_LOGGING_LEVEL");
  std::transform(level.begin(), level.end(), level.begin(), ::toupper);
  if (level == "DEBUG") set_log_level(LogLevel::kDebug);
  if (level == "WARNING") set_log_level(LogLevel::kWarning);
  if (level == "ERROR" || level == "CRITICAL") set_log_level(LogLevel::kError);
  return {};
}

int run_app(CLI::App& app, const std::vector<std::string>& arguments,
            const std::function<int()>& body) {
  auto words = normalize_arguments(arguments);
  if (!words.ok()) {
    report(words.error());
    return 2;
  }
  try {
    std::reverse(words->begin(), words->end());  // CLI11 takes its vector from the back
    app.parse(*words);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    fmt::print(stderr, "{}: error: {}\nsee {} --help\n", app.get_name(), error.what(),
               app.get_name());
    return 2;
  }
  return body();
}

}  // namespace videre
