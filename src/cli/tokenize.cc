// `videre tokenize` and `videre detokenize`: the tokenizer alone, without the model's weights.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <cstdio>
#include <sstream>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "engine/loaded_model.h"
#include "text/tokenizer.h"

namespace videre {
namespace {

struct TokenizerFlags {
  std::string model, revision, download_dir;
  bool json = false;
};

void add_tokenizer_flags(CLI::App& app, TokenizerFlags& flags, const char* json_help) {
  app.add_option("MODEL", flags.model,
                 "folder of a checkpoint, or org/name in the hub cache; the built-in one when not "
                 "given");
  app.add_flag("--json", flags.json, json_help);
  app.add_option("--revision", flags.revision, "branch or commit in the hub cache");
  app.add_option("--download-dir", flags.download_dir, "folder of the hub cache");
}

Result<std::unique_ptr<Tokenizer>> open_tokenizer(const TokenizerFlags& flags) {
  VIDERE_ASSIGN_OR_RETURN(const ModelFiles files,
                          open_model(flags.model, flags.revision, flags.download_dir));
  return load_tokenizer(files);
}

json::array ids_json(const std::vector<int32_t>& ids) {
  json::array out;
  for (const int32_t id : ids) out.push_back(id);
  return out;
}

Result<std::vector<int32_t>> ids_of(const json::value& value, int vocab_size) {
  if (!value.is_array()) {
    return invalid_argument("stdin", "{} is no list of token ids", to_json(value).substr(0, 80));
  }
  std::vector<int32_t> out;
  for (const json::value& item : value.get_array()) {
    if (!item.is_int64() || item.get_int64() < 0 || item.get_int64() >= vocab_size) {
      return invalid_argument("stdin", "{} is no token id; expected a whole number from 0 to {}",
                              to_json(item).substr(0, 80), vocab_size - 1);
    }
    out.push_back(static_cast<int32_t>(item.get_int64()));
  }
  return out;
}

// Ids between blanks, or as a JSON list.
std::string json_list(const std::string& text) {
  if (text.find('[') != text.npos) return text;
  std::string list;
  std::istringstream words(text);
  for (std::string word; words >> word;) list += (list.empty() ? "" : ",") + word;
  return "[" + list + "]";
}

Status tokenize(const TokenizerFlags& flags) {
  VIDERE_ASSIGN_OR_RETURN(const auto tokenizer, open_tokenizer(flags));
  VIDERE_ASSIGN_OR_RETURN(const std::string input, read_input("-", "stdin"));
  if (!flags.json) {
    fmt::print("{}\n", fmt::join(tokenizer->encode(input, false), " "));
    return {};
  }
  VIDERE_ASSIGN_OR_RETURN(const json::value texts, parse_json(input, "stdin"));
  if (!texts.is_array()) return invalid_argument("stdin", "expected a JSON list of strings");
  json::array out;
  for (const json::value& text : texts.get_array()) {
    if (!text.is_string()) {
      return invalid_argument("stdin", "{} is no string; expected a JSON list of strings",
                              to_json(text).substr(0, 80));
    }
    out.push_back(ids_json(tokenizer->encode(std::string(text.get_string()), false)));
  }
  fmt::print("{}\n", to_json(out));
  return {};
}

Status detokenize(const TokenizerFlags& flags) {
  VIDERE_ASSIGN_OR_RETURN(const auto tokenizer, open_tokenizer(flags));
  VIDERE_ASSIGN_OR_RETURN(const std::string input, read_input("-", "stdin"));
  VIDERE_ASSIGN_OR_RETURN(const json::value lists,
                          parse_json(flags.json ? input : json_list(input), "stdin"));
  if (!flags.json) {
    VIDERE_ASSIGN_OR_RETURN(const auto ids, ids_of(lists, tokenizer->vocab_size()));
    fmt::print("{}\n", tokenizer->decode(ids, false));
    return {};
  }
  if (!lists.is_array()) return invalid_argument("stdin", "expected a JSON list of lists of ids");
  json::array out;
  for (const json::value& list : lists.get_array()) {
    VIDERE_ASSIGN_OR_RETURN(const auto ids, ids_of(list, tokenizer->vocab_size()));
    out.push_back(json::string(tokenizer->decode(ids, false)));
  }
  fmt::print("{}\n", to_json(out));
  return {};
}

int run_tokenizer_command(const char* name, const char* summary, const char* json_help,
                          Status (*body)(const TokenizerFlags&),
                          const std::vector<std::string>& arguments) {
  CLI::App app(summary, name);
  TokenizerFlags flags;
  add_tokenizer_flags(app, flags, json_help);
  return run_app(app, arguments, [&] {
    set_log_level(environment_log_level(LogLevel::kWarning));
    const Status done = body(flags);
    return done.ok() ? 0 : report(done.error());
  });
}

}  // namespace

int tokenize_command(const std::vector<std::string>& arguments) {
  return run_tokenizer_command(
      "videre tokenize", "Text on stdin to token ids; no special tokens are added.",
      "a JSON list of strings to a JSON list of lists of ids", tokenize, arguments);
}

int detokenize_command(const std::vector<std::string>& arguments) {
  return run_tokenizer_command("videre detokenize", "Token ids on stdin to text.",
                               "a JSON list of lists of ids to a JSON list of strings", detokenize,
                               arguments);
}

}  // namespace videre
