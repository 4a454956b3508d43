#include "cli/flags.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "server/openai_types.h"
#include "weights/model_files.h"

namespace videre {
namespace {

Status parse_limits(const std::string& text, std::map<std::string, int>& out) {
  const std::string flag = "--limit-mm-per-prompt";
  const auto value_of = [](const std::string& word) {
    auto parsed = parse_json(word, "the limit");
    return parsed.ok() ? std::move(*parsed) : json::value(json::string(word));
  };
  json::value value = value_of(text);
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
      object[piece.substr(0, equals)] = value_of(piece.substr(equals + 1));
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

// "--name VALUE   what it does": twins as --[no-]name, no ranges, descriptions in one column.
class HelpFormatter : public CLI::Formatter {
 public:
  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string help = CLI::Formatter::make_help(app, name, mode);
    for (size_t at; (at = help.find("\n\n\n")) != help.npos;) help.erase(at, 1);
    return help;
  }

  std::string make_group(std::string group, bool positional,
                         std::vector<const CLI::Option*> options) const override {
    std::string out = (positional ? "\nArguments" : "\n" + group) + ":\n";
    for (const CLI::Option* option : options) {
      const std::string name = positional ? option->get_name(true, false) : flag_name(*option);
      const char* gap = name.size() > kColumn - 4 ? "\n" : "";
      out += fmt::format("  {:<{}}{}{:{}}{}\n", name, kColumn - 2, gap, "", *gap ? kColumn : 0,
                         option->get_description());
    }
    return out;
  }

 private:
  static constexpr size_t kColumn = 38;

  static std::string flag_name(const CLI::Option& option) {
    const std::string& first = option.get_lnames().at(0);
    const auto& names = option.get_lnames();
    const bool twin = std::find(names.begin(), names.end(), "no-" + first) != names.end();
    std::string out = option.get_snames().empty() ? "" : "-" + option.get_snames()[0] + ", ";
    out += (twin ? "--[no-]" : "--") + first;
    if (option.get_expected_max() == 0) return out;
    const std::string type = option.get_type_name();
    out += type.find("INT") < 2 ? " N" : type.rfind("FLOAT", 0) == 0 ? " X" : " VALUE";
    if (option.get_expected_max() > 1 && option.get_allow_extra_args()) out += " ...";
    return out;
  }
};

}  // namespace

std::string environment(const char* name) {
  const std::string text = name;
  if (text.rfind("VLLM_", 0) == 0) {
    if (const char* own = std::getenv(("VIDERE_" + text.substr(5)).c_str())) return own;
  }
  const char* value = std::getenv(name);
  return value ? value : "";
}

Result<std::optional<double>> environment_number(const char* name, double low, double high) {
  const std::string text = environment(name);
  if (text.empty()) return std::optional<double>();
  double number = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, number);
  if (error != std::errc() || rest != end || !(number >= low && number <= high)) {
    return invalid_argument(name, "{} is no number from {} to {}", text, low, high);
  }
  return std::optional<double>(number);
}

LogLevel log_level(std::string name, LogLevel fallback) {
  std::transform(name.begin(), name.end(), name.begin(), ::tolower);
  if (name == "debug" || name == "trace") return LogLevel::kDebug;
  if (name == "info") return LogLevel::kInfo;
  if (name == "warning" || name == "warn") return LogLevel::kWarning;
  if (name == "error" || name == "critical") return LogLevel::kError;
  return fallback;
}

LogLevel environment_log_level(LogLevel fallback) {
  return log_level(environment("VLLM_LOGGING_LEVEL"), fallback);
}

std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = 2 + word.size() / 8;  // slips of typing, not other words
  for (const std::string& candidate : candidates) {
    // Edits with neighbours swapped as one: three rows of the usual table.
    std::vector<size_t> before, last, row(candidate.size() + 1);
    for (size_t j = 0; j < row.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= word.size(); ++i) {
      before = std::move(last);
      last = row;
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        row[j] = std::min(
            {last[j] + 1, row[j - 1] + 1, last[j - 1] + (word[i - 1] != candidate[j - 1])});
        if (i > 1 && j > 1 && word[i - 1] == candidate[j - 2] && word[i - 2] == candidate[j - 1]) {
          row[j] = std::min(row[j], before[j - 2] + 1);
        }
      }
    }
    if (row.back() < best_distance || (best.empty() && row.back() == best_distance)) {
      best_distance = row.back();
      best = candidate;
    }
  }
  if (best.empty() && word.size() > 4) {  // or the beginning of one name
    for (const std::string& candidate : candidates) {
      if (candidate.rfind(word, 0) == 0) return candidate;
    }
  }
  return best;
}

int report(const Error& error) {
  fmt::print(stderr, "videre: error: {}{}{}\n", error.param, error.param.empty() ? "" : ": ",
             error.message);
  return error_status(error.code).exit_code;
}

void add_engine_flags(CLI::App& app, EngineFlags& flags, ModelArgument model) {
  EngineOptions& engine = flags.engine;
  const char* group = "Model";
  const bool positional = model == ModelArgument::kPositional;
  if (positional) {
    app.add_option("MODEL", flags.model_positional,
                   "folder of a checkpoint, or org/name in the hub cache; built-in when not given");
  }
  app.add_option(
         "--model", flags.model_flag,
         positional
             ? "the same as a flag; MODEL wins"
             : "folder of a checkpoint, or org/name in the hub cache; built-in when not given")
      ->group(group);
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
  app.add_option(
         "--load-format", engine.load_format,
         "auto and safetensors read the weights; dummy takes random ones of the config's sizes")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}))
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
  app.add_option("--kv-cache-dtype", engine.kv_cache_dtype, "auto, bfloat16, float32 or fp8")
      ->group(group);
  app.add_option("--mamba-ssm-cache-dtype", engine.mamba_ssm_cache_dtype,
                 "float32 (auto), bfloat16 or float16")
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
  app.add_flag("--enforce-eager,!--no-enforce-eager", engine.enforce_eager,
               "CUDA: never record decode steps into graphs")
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

Status resolve_engine_flags(EngineFlags& flags) {
  EngineOptions& engine = flags.engine;
  engine.model = flags.model_positional.empty() ? flags.model_flag : flags.model_positional;
  if (engine.model.empty() && !builtin_model().files.empty()) engine.model = kBuiltinModel;
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
    if (*engine.kv_cache_memory_bytes < 1) {
      return invalid_argument("--kv-cache-memory-bytes", "{} is out of range; expected 1 or more",
                              flags.kv_cache_memory_bytes);
    }
  }
  if (!(engine.gpu_memory_utilization > 0)) {
    return invalid_argument("--gpu-memory-utilization", "{} is out of range; expected above 0 to 1",
                            engine.gpu_memory_utilization);
  }
  if (!(engine.video_pruning_rate >= 0 && engine.video_pruning_rate < 1)) {
    return invalid_argument("--video-pruning-rate",
                            "{} is out of range; expected 0 or more, and less than 1",
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
  VIDERE_ASSIGN_OR_RETURN(const auto threads,
                          environment_number("VLLM_MEDIA_LOADING_THREAD_COUNT", 1, 1024));
  if (threads) engine.media_threads = static_cast<int>(*threads);
  return {};
}

int run_app(CLI::App& app, const std::vector<std::string>& arguments,
            const std::function<int()>& body) {
  const auto fail = [&app](const std::string& message) {
    fmt::print(stderr, "{}: error: {}\n{} --help lists the flags\n", app.get_name(), message,
               app.get_name());
    return 2;
  };
  app.formatter(std::make_shared<HelpFormatter>());
  app.get_help_ptr()->description("this text");
  auto words = normalize_arguments(arguments);
  if (!words.ok()) return fail(words.error().param + ": " + words.error().message);
  for (const std::string& word : *words) {
    if (word == "--") break;
    if (word.rfind("--", 0) != 0) continue;
    const std::string name = word.substr(0, word.find('='));
    if (app.get_option_no_throw(name)) continue;
    std::vector<std::string> names;
    for (const CLI::Option* option : app.get_options()) {
      for (const std::string& long_name : option->get_lnames()) names.push_back("--" + long_name);
    }
    const std::string near = nearest_name(name, names);
    return fail(near.empty()
                    ? fmt::format("{} is no flag of this command", name)
                    : fmt::format("{} is no flag of this command; did you mean {}?", name, near));
  }
  for (CLI::Option* option : app.get_options()) {  // a value given twice: the last one counts
    if (option->get_expected_max() == 1) {
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
  }
  try {
    std::reverse(words->begin(), words->end());  // CLI11 takes its vector from the back
    app.parse(*words);
  } catch (const CLI::Success& help) {
    return app.exit(help);  // prints the help
  } catch (const CLI::ParseError& error) {
    return fail(error.what());
  }
  return body();
}

}  // namespace videre
