#include "weights/hub.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

bool path_exists(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

fs::path cache_root(const std::string& download_dir) {
  if (!download_dir.empty()) return download_dir;
  if (const auto hub = environment("HF_HUB_CACHE"); !hub.empty()) return hub;
  if (const auto home = environment("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const auto cache = environment("XDG_CACHE_HOME"); !cache.empty())
    return fs::path(cache) / "huggingface/hub";
  return fs::path(environment("HOME")) / ".cache/huggingface/hub";
}

bool is_commit(const std::string& text) {
  return text.size() == 40 && text.find_first_not_of("0123456789abcdef") == text.npos;
}

// A plain path component: letters, digits and "._-", not only dots.
bool is_component(std::string_view text) {
  if (text.empty() || text.size() > 128 || text.find_first_not_of('.') == text.npos) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || c == '.' || c == '_' || c == '-';
  });
}

// The released model goes by several names; see docs/model.md#names.
std::vector<std::string> spellings(const std::string& id) {
  std::vector<std::string> ids{id};
  struct Family {
    std::array<const char*, 3> names;
  };
  constexpr std::array<Family, 3> kFamilies{{
      {{"nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-BF16", "nvidia/Nemotron-Nano-12B-v2-VL-BF16",
        "nvidia/Nemotron-Nano-VL-12B-V2-BF16"}},
      {{"nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-FP8", "nvidia/Nemotron-Nano-12B-v2-VL-FP8",
        "nvidia/Nemotron-Nano-VL-12B-V2-FP8"}},
      {{"nvidia/NVIDIA-Nemotron-Nano-12B-v2-VL-NVFP4-QAD", "nvidia/Nemotron-Nano-12B-v2-VL-FP4-QAD",
        "nvidia/Nemotron-Nano-VL-12B-V2-FP4-QAD"}},
  }};
  for (const Family& family : kFamilies) {
    if (std::find(family.names.begin(), family.names.end(), id) == family.names.end()) continue;
    for (const char* name : family.names) {
      if (id != name) ids.emplace_back(name);
    }
  }
  return ids;
}

// The one snapshot of a repository folder that `revision` names, if it is there.
std::optional<fs::path> find_snapshot(const fs::path& repository, const std::string& revision) {
  const fs::path snapshots = repository / "snapshots";
  if (is_commit(revision)) {
    if (path_exists(snapshots / revision)) return snapshots / revision;
    return std::nullopt;
  }
  if (auto commit = read_text_file((repository / "refs" / revision).string(), 4096); commit.ok()) {
    std::string text = *commit;
    text.erase(text.find_last_not_of(" \r\n\t") + 1);
    if (is_commit(text) && path_exists(snapshots / text)) return snapshots / text;
  }
  std::vector<fs::path> found;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(snapshots, ignored)) {
    if (is_commit(entry.path().filename().string())) found.push_back(entry.path());
  }
  if (found.size() != 1) return std::nullopt;
  log_warning("{} has no ref {}; its only snapshot is used", repository.string(), revision);
  return found[0];
}

// Every shard that the index names must be there.
Status check_complete(const fs::path& snapshot) {
  if (!path_exists(snapshot / "config.json")) {
    return make_error(ErrorCode::kNotFound, "model",
                      "{} has no config.json; download the model again", snapshot.string());
  }
  const fs::path index = snapshot / "model.safetensors.index.json";
  if (!path_exists(index)) return {};
  VIDERE_ASSIGN_OR_RETURN(const std::string text, read_text_file(index.string(), 100u << 20));
  VIDERE_ASSIGN_OR_RETURN(const json::value parsed, parse_json(text, index.string()));
  std::vector<std::string> missing;
  if (const json::value* map = json_find(parsed, "weight_map"); map && map->is_object()) {
    for (const auto& [name, file] : map->get_object()) {
      if (!file.is_string()) continue;
      const std::string shard(file.get_string());
      if (!path_exists(snapshot / shard) &&
          std::find(missing.begin(), missing.end(), shard) == missing.end()) {
        missing.push_back(shard);
      }
    }
  }
  if (missing.empty()) return {};
  return make_error(ErrorCode::kNotFound, "model", "{} lacks {}; download the model again",
                    snapshot.string(), fmt::join(missing, ", "));
}

}  // namespace

Result<std::string> resolve_model(const std::string& model, const std::string& revision,
                                  const std::string& download_dir) {
  if (path_exists(fs::path(model) / "config.json")) return model;
  std::error_code ignored;
  if (fs::is_directory(model, ignored)) {
    return make_error(ErrorCode::kNotFound, "model",
                      "folder {} has no config.json; it is no checkpoint", model);
  }
  const size_t slash = model.find('/');
  if (slash == model.npos || !is_component(model.substr(0, slash)) ||
      !is_component(model.substr(slash + 1))) {
    return make_error(ErrorCode::kNotFound, "model",
                      "{} is neither a folder with config.json nor a name org/model", model);
  }
  const std::string wanted = revision.empty() ? "main" : revision;
  if (!is_component(wanted))
    return invalid_argument("revision", "{} is not a revision's name", wanted);
  const fs::path root = cache_root(download_dir);
  for (const std::string& id : spellings(model)) {
    std::string folder = "models--" + id;
    folder.replace(folder.find('/'), 1, "--");
    const auto snapshot = find_snapshot(root / folder, wanted);
    if (!snapshot) continue;
    VIDERE_RETURN_IF_ERROR(check_complete(*snapshot));
    if (id != model) log_info("{} is not in the hub cache; its other name {} is", model, id);
    return snapshot->string();
  }
  std::string folder = "models--" + model;
  folder.replace(folder.find('/'), 1, "--");
  return make_error(ErrorCode::kNotFound, "model",
                    "{} is neither a folder nor in the hub cache (looked in {}). Videre downloads "
                    "nothing itself: "
                    "fetch it with `hf download {}`, or give the folder's path.",
                    model, (root / folder).string(), model);
}

}  // namespace videre
