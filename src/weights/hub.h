// Finds a model on this machine: a folder, or org/name in the Hugging Face hub cache. Downloads
// nothing.
#pragma once

#include <string>

#include "videre/result.h"

namespace videre {

/// The folder that holds config.json. `revision` "" means main; `download_dir` "" means the cache
/// named by HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME or HOME, in that order. Released repositories are
/// also found under their other spellings. Errors: kNotFound says where it looked and how to fetch
/// the model; an incomplete snapshot lists what is missing.
Result<std::string> resolve_model(const std::string& model, const std::string& revision,
                                  const std::string& download_dir);

}  // namespace videre
