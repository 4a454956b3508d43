// Command-line flags that every front end shares, and how words on the command line become them:
// underscores as dashes, dotted JSON keys, sizes like 32K, a YAML file of flags. Flags of the
// engine that users come from are known by name; those without meaning here give a warning.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "videre/engine.h"

namespace CLI {
class App;
}

namespace videre {

struct EngineFlags {
  EngineOptions engine;
  std::string model_positional, model_flag;
  // Flags with a form of their own, as typed.
  std::string max_model_len, max_num_batched_tokens, kv_cache_memory_bytes;
  std::string media_io_kwargs, mm_processor_kwargs, limit_mm_per_prompt;
  int64_t max_num_seqs = 0, tensor_parallel_size = 1, data_parallel_size = 1,
          pipeline_parallel_size = 1;
  bool trust_remote_code = false;
};

enum class ModelArgument { kPositional, kFlagOnly };

/// Adds the engine's flags to a command, in groups.
void add_engine_flags(CLI::App& app, EngineFlags& flags, ModelArgument model);
/// Accepts what other engines' command lines hold: flags without effect here give one warning each,
/// flags whose absence would change what the user gets are refused with a sentence.
void add_foreign_flags(CLI::App& app);
/// Fills `flags.engine` from what was typed and from the environment; checks what can be checked
/// without the model.
Status resolve_engine_flags(EngineFlags& flags);

struct FlagWords {
  std::string name;  // "--port"
  std::vector<std::string> values;
};

/// argv as CLI11 reads it: `--foo_bar` to `--foo-bar`, `-tp` to its long form, dotted JSON keys
/// gathered into one value, `--config F.yaml` replaced by those of its flags that the user did not
/// give.
Result<std::vector<std::string>> normalize_arguments(const std::vector<std::string>& arguments);
/// The flags in a YAML text (maps, lists and scalars by indentation; flow values as JSON).
Result<std::vector<FlagWords>> yaml_flags(const std::string& text, const std::string& name);

/// "1k" = 1000, "1K" = 1024, "25.6k", "32K", "1M", "2G", "-1"; "auto" is -1.
Result<int64_t> parse_size(const std::string& text, const std::string& flag);

/// Environment `name`, with the VIDERE_ twin (VLLM_X -> VIDERE_X) first; "" when unset.
std::string environment(const char* name);
/// A number of the environment within [low, high], or nothing when unset.
Result<std::optional<double>> environment_number(const char* name, double low, double high);
/// "debug", "info", "warning", "error", in any case; `fallback` for other names.
LogLevel log_level(std::string name, LogLevel fallback);
/// VLLM_LOGGING_LEVEL, else `fallback`.
LogLevel environment_log_level(LogLevel fallback);

/// The candidate that `word` is most likely a slip of; "" when none is near.
std::string nearest_name(const std::string& word, const std::vector<std::string>& candidates);

/// Prints "videre: error: ..." and gives the exit code.
int report(const Error& error);

/// Parses `arguments` into `app` and runs `body`. Help ends with 0, a wrong flag with 2.
int run_app(CLI::App& app, const std::vector<std::string>& arguments,
            const std::function<int()>& body);

}  // namespace videre
