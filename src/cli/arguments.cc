// Words of a command line before CLI11 sees them: spelling, dotted JSON keys, --config.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "cli/flags.h"

namespace videre {
namespace {

// Flags whose value is JSON, which dotted keys may build piece by piece.
const std::vector<std::string> kJsonFlags = {"--media-io-kwargs",
                                             "--mm-processor-kwargs",
                                             "--limit-mm-per-prompt",
                                             "--override-generation-config",
                                             "--default-chat-template-kwargs",
                                             "--compilation-config",
                                             "--structured-outputs-config",
                                             "--speculative-config",
                                             "--kv-transfer-config",
                                             "--kv-events-config",
                                             "--hf-overrides"};
constexpr int kMaxKeyDepth = 16;

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

// --flag.a.b VALUE sets a key; --flag.a.b+ V1,V2 appends to a list.
Status set_dotted(json::value& root, const std::string& flag, const std::string& tail,
                  const std::string& text) {
  const bool append = tail.back() == '+';
  const std::string path = tail.substr(0, tail.size() - append);
  json::value* at = &root;
  size_t start = 0;
  for (int depth = 0;; ++depth) {
    const size_t dot = path.find('.', start);
    const std::string key = path.substr(start, dot == path.npos ? path.npos : dot - start);
    if (key.empty() || depth > kMaxKeyDepth) {
      return invalid_argument(
          flag, "{} is no path of keys; expected one like --media-io-kwargs.video.fps",
          flag + "." + tail);
    }
    if (!at->is_object()) *at = json::object();
    at = &at->get_object()[key];
    if (dot == path.npos) break;
    start = dot + 1;
  }
  if (!append) {
    *at = value_of_text(text);
    return {};
  }
  if (!at->is_array()) *at = json::array();
  for (size_t from = 0; from <= text.size();) {
    const size_t comma = std::min(text.find(',', from), text.size());
    at->get_array().push_back(value_of_text(text.substr(from, comma - from)));
    from = comma + 1;
  }
  return {};
}

struct FlagName {
  std::string base;  // "--media-io-kwargs", dashes for underscores
  std::string tail;  // "video.fps", as typed
};

FlagName split_name(const std::string& name) {
  const size_t dot = name.find('.');
  FlagName out{name.substr(0, dot), dot == name.npos ? "" : name.substr(dot + 1)};
  std::replace(out.base.begin() + 2, out.base.end(), '_', '-');
  return out;
}

// One name for a flag's spellings: "--no-x=..." and "--x" are the same flag.
std::string canonical(const std::string& word) {
  std::string name = word.substr(0, word.find('='));
  if (name == "-q") return "--quantization";
  if (name.rfind("--no-", 0) == 0) name.erase(2, 3);
  return name;
}

class Normalizer {
 public:
  Result<std::vector<std::string>> run(const std::vector<std::string>& arguments);

 private:
  Status read_config(const std::string& path);
  Status merge_config();
  Status add_json(const FlagName& name, const std::string& text);

  std::vector<std::string> out_, after_marker_;
  std::map<std::string, json::value> json_;  // a flag's value so far
  std::vector<FlagWords> config_;
  bool config_given_ = false;
};

Status Normalizer::read_config(const std::string& path) {
  if (config_given_) return invalid_argument("--config", "given twice; expected one file");
  config_given_ = true;
  const std::string extension = std::filesystem::path(path).extension().string();
  if (extension != ".yaml" && extension != ".yml") {
    return invalid_argument("--config", "{} is no .yaml or .yml file", path);
  }
  auto text = read_text_file(path, 1u << 20);
  if (!text.ok()) return invalid_argument("--config", "{}", text.error().message);
  VIDERE_ASSIGN_OR_RETURN(config_, yaml_flags(*text, path));
  return {};
}

Status Normalizer::add_json(const FlagName& name, const std::string& text) {
  json::value& root = json_.try_emplace(name.base, json::object()).first->second;
  if (!name.tail.empty()) return set_dotted(root, name.base, name.tail, text);
  const json::value given = value_of_text(text);
  if (given.is_object()) {
    merge_json(root, given);
  } else {  // passed on as it is: the flag's own check says best what is wrong
    root = json::string(text);
  }
  return {};
}

// What the user typed wins: flag by flag, and key by key in JSON.
Status Normalizer::merge_config() {
  const std::map<std::string, json::value> typed = std::move(json_);
  json_.clear();
  for (const FlagWords& flag : config_) {
    const FlagName name = split_name(flag.name);
    if (name.base == "--config") {
      return invalid_argument("--config", "a file of flags may not name another one");
    }
    if (is_json_flag(name.base)) {
      if (flag.values.size() != 1) {
        return invalid_argument(name.base, "the file gives {} values; expected one JSON value",
                                flag.values.size());
      }
      VIDERE_RETURN_IF_ERROR(add_json(name, flag.values[0]));
      continue;
    }
    const std::string spelled = name.tail.empty() ? name.base : name.base + "." + name.tail;
    const bool given = std::any_of(out_.begin(), out_.end(), [&](const std::string& word) {
      return canonical(word) == canonical(spelled);
    });
    if (given) continue;
    if (flag.values.size() == 1 && !flag.values[0].empty()) {
      out_.push_back(spelled + "=" + flag.values[0]);
    } else {
      out_.push_back(spelled);
      out_.insert(out_.end(), flag.values.begin(), flag.values.end());
    }
  }
  for (const auto& [name, value] : typed) {
    auto [found, added] = json_.try_emplace(name, value);
    if (!added) merge_json(found->second, value);
  }
  return {};
}

Result<std::vector<std::string>> Normalizer::run(const std::vector<std::string>& arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    std::string word = arguments[i];
    if (word == "--") {
      after_marker_.assign(arguments.begin() + static_cast<std::ptrdiff_t>(i), arguments.end());
      break;
    }
    if (word == "-tp") word = "--tensor-parallel-size";
    if (word == "-dp") word = "--data-parallel-size";
    if (word == "-pp") word = "--pipeline-parallel-size";
    if (word.rfind("--", 0) != 0) {
      out_.push_back(word);
      continue;
    }
    const size_t equals = word.find('=');
    const FlagName name = split_name(word.substr(0, equals));
    std::optional<std::string> value;
    if (equals != word.npos) value = word.substr(equals + 1);
    if (name.base == "--config" || is_json_flag(name.base)) {
      if (!value) {
        if (i + 1 >= arguments.size()) {
          return invalid_argument(name.base, "a value is missing after {}", word);
        }
        value = arguments[++i];
      }
      VIDERE_RETURN_IF_ERROR(name.base == "--config" ? read_config(*value)
                                                     : add_json(name, *value));
      continue;
    }
    const std::string spelled = name.tail.empty() ? name.base : name.base + "." + name.tail;
    if (!value) {
      out_.push_back(spelled);
    } else if (value->empty()) {  // as two words, since CLI11 takes the next word for "--x="
      out_.push_back(spelled);
      out_.push_back("");
    } else {
      out_.push_back(spelled + "=" + *value);
    }
  }
  VIDERE_RETURN_IF_ERROR(merge_config());
  for (const auto& [name, value] : json_) {
    out_.push_back(name);
    out_.push_back(value.is_string() ? std::string(value.get_string()) : to_json(value));
  }
  out_.insert(out_.end(), after_marker_.begin(), after_marker_.end());
  return std::move(out_);
}

}  // namespace

Result<std::vector<std::string>> normalize_arguments(const std::vector<std::string>& arguments) {
  return Normalizer().run(arguments);
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
  const double rounding = std::max(1e-6, std::abs(number) * 4e-16);
  if (!good || number < -1 || number > 9e15 || std::abs(number - std::round(number)) > rounding) {
    return invalid_argument(flag,
                            "{} is no size; expected a whole number such as 131072, 128K "
                            "(times 1024) or 131k (times 1000)",
                            text);
  }
  return static_cast<int64_t>(std::llround(number));
}

}  // namespace videre
