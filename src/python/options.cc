#include "python/options.h"

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

#include "base/error.h"
#include "cli/flags.h"

namespace videre {
namespace {

void add_flags(CLI::App& app, EngineFlags& flags) {
  app.set_help_flag();
  add_engine_flags(app, flags, ModelArgument::kFlagOnly);
  add_foreign_flags(app);
  for (CLI::Option* option : app.get_options()) {
    if (option->get_expected_max() == 1) {
      option->multi_option_policy(CLI::MultiOptionPolicy::TakeLast);
    }
  }
}

}  // namespace

Result<EngineOptions> options_from_words(const std::vector<std::string>& words) {
  set_log_level(environment_log_level(LogLevel::kWarning));
  CLI::App app;
  EngineFlags flags;
  add_flags(app, flags);
  VIDERE_ASSIGN_OR_RETURN(auto normalized, normalize_arguments(words));
  try {
    std::reverse(normalized.begin(), normalized.end());  // CLI11 takes its vector from the back
    app.parse(normalized);
  } catch (const CLI::ParseError& error) {
    return make_error(ErrorCode::kInvalidArgument, "", "{}", error.what());
  }
  VIDERE_RETURN_IF_ERROR(resolve_engine_flags(flags));
  return std::move(flags.engine);
}

std::vector<std::string> option_names() {
  CLI::App app;
  EngineFlags flags;
  add_flags(app, flags);
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    for (std::string name : option->get_lnames()) {
      if (name.rfind("no-", 0) == 0) continue;
      std::replace(name.begin(), name.end(), '-', '_');
      names.push_back(std::move(name));
    }
  }
  return names;
}

}  // namespace videre
