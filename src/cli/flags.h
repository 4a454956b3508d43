// Command-line flags that every front end shares, and how words on the command line become them:
// underscores as dashes, dotted JSON keys, sizes like 32K, a YAML file of flags. Flags of the
// engine that users come from are known by name; those without meaning here give a warning.
#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

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
  std::string loader_backend;
  bool trust_remote_code = false;
  int verbosity = 0;
};

/// Adds the engine's flags to a command, in groups.
void add_engine_flags(CLI::App& app, EngineFlags& flags);
/// Accepts flags that have no effect here: one warning each.
void add_ignored_flags(CLI::App& app);
/// Fills `flags.engine` from what was typed and from the environment; checks what can be checked
/// without the model. An empty model is left for the caller to judge.
Status resolve_engine_flags(EngineFlags& flags);

/// argv as CLI11 reads it: `--foo_bar` to `--foo-bar`, `-tp` to its long form, dotted JSON keys
/// gathered into one value, `--config F.yaml` replaced by the flags it holds, placed before the
/// user's own.
Result<std::vector<std::string>> normalize_arguments(const std::vector<std::string>& arguments);
/// The flags in a YAML text (maps, lists and scalars by indentation; flow values as JSON).
Result<std::vector<std::string>> yaml_arguments(const std::string& text, const std::string& name);

/// "1k" = 1000, "1K" = 1024, "25.6k", "32K", "1M", "2G", "-1"; "auto" is -1.
Result<int64_t> parse_size(const std::string& text, const std::string& flag);

/// Environment `name`, with the VIDERE_ twin (VLLM_X -> VIDERE_X) first; "" when unset.
std::string environment(const char* name);

/// Prints "videre: error: ..." and gives the exit code.
int report(const Error& error);

/// Parses `arguments` into `app` and runs `body`. Help ends with 0, a wrong flag with 2.
int run_app(CLI::App& app, const std::vector<std::string>& arguments,
            const std::function<int()>& body);

}  // namespace videre
