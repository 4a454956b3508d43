// Keyword arguments of videre.LLM as the command line's flags: one vocabulary for all front ends.
#pragma once

#include <string>
#include <vector>

#include "videre/engine.h"

namespace videre {

/// "--max-model-len=32768" and the like. Errors have the flag's name as `param`.
Result<EngineOptions> options_from_words(const std::vector<std::string>& words);

/// All names that `options_from_words` knows, with underscores for dashes.
std::vector<std::string> option_names();

}  // namespace videre
