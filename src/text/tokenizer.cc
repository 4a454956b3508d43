#include "text/tokenizer.h"

#include <algorithm>
#include <atomic>
#include <boost/json/monotonic_resource.hpp>
#include <boost/json/parser.hpp>
#include <charconv>
#include <deque>
#include <filesystem>
#include <mutex>
#include <unordered_map>

#include "base/error.h"
#include "base/log.h"
#include "base/mapped_file.h"
#include "text/added_tokens.h"
#include "text/bpe.h"
#include "text/pre_tokenizer.h"
#include "text/utf8.h"

namespace videre {
namespace {

constexpr size_t kMaxFileBytes = 64u << 20;  // the largest public vocabularies take about 35 MB
constexpr int64_t kMaxId = 1 << 22;
constexpr size_t kMaxAddedBytes = 1024;  // bounds the walk at each position of the text
constexpr size_t kMaxReplacementBytes = 64;

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

std::string shown(const json::value* value) {
  if (!value) return "missing";
  return repair_utf8(to_json(*value).substr(0, 60));
}

// A DOM in one arena: 800k small strings of a vocabulary are dear one by one.
Result<json::value> parse_file(std::string_view text, const char* what,
                               json::monotonic_resource& memory) {
  if (text.size() > kMaxFileBytes) {
    return invalid_model("{} is {} bytes; at most {} are read", what, text.size(), kMaxFileBytes);
  }
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  json::parse_options options;
  options.max_depth = 32;
  json::parser parser({}, options);
  parser.reset(&memory);
  boost::system::error_code error;
  const size_t used = parser.write(text.data(), text.size(), error);
  if (error) return invalid_model("{} is not valid JSON near byte {}", what, used);
  return parser.release();
}

// The normalisers that need no Unicode tables.
struct NormalizerStep {
  bool prepend = false;
  std::string from, to;
};

class Normalizer {
 public:
  static Result<Normalizer> read(const json::value* value) {
    Normalizer out;
    if (value && !value->is_null()) VIDERE_RETURN_IF_ERROR(out.add(*value));
    return out;
  }
  bool empty() const { return steps_.empty(); }

  std::string apply(std::string_view text) const {
    std::string out(text);
    for (const NormalizerStep& step : steps_) {
      if (step.prepend) {
        if (!out.empty()) out.insert(0, step.to);
        continue;
      }
      std::string replaced;
      size_t done = 0;
      for (size_t at; (at = out.find(step.from, done)) != out.npos; done = at + step.from.size()) {
        replaced.append(out, done, at - done).append(step.to);
      }
      replaced.append(out, done);
      out = std::move(replaced);
    }
    return out;
  }

 private:
  Status add(const json::value& value) {
    const json::value* type = json_find(value, "type");
    const json::value* list = json_find(value, "normalizers");
    if (steps_.size() >= 16) return invalid_model("tokenizer.json: normalizer has over 16 steps");
    if (type && *type == "Sequence" && list && list->is_array()) {
      for (const json::value& step : list->get_array()) VIDERE_RETURN_IF_ERROR(add(step));
      return {};
    }
    const json::value* pattern = json_find(value, "pattern");
    const json::value* from = pattern ? json_find(*pattern, "String") : nullptr;
    const json::value* to = json_find(value, "content");
    const json::value* prefix = json_find(value, "prepend");
    if (type && *type == "Replace" && from && from->is_string() && !from->get_string().empty() &&
        to && to->is_string() && to->get_string().size() <= kMaxReplacementBytes) {
      steps_.push_back({false, std::string(from->get_string()), std::string(to->get_string())});
      return {};
    }
    if (type && *type == "Prepend" && prefix && prefix->is_string() &&
        prefix->get_string().size() <= kMaxReplacementBytes) {
      steps_.push_back({true, {}, std::string(prefix->get_string())});
      return {};
    }
    return invalid_model(
        "tokenizer.json: normalizer {} is not supported; expected null, or Replace of a plain "
        "string, Prepend or a Sequence of them",
        shown(type));
  }
  std::vector<NormalizerStep> steps_;
};

// Whether the decoder is ByteLevel's; `byte_fallback` tells if <0xAB> tokens stand for bytes.
Status read_decoder(const json::value* value, bool& byte_fallback) {
  const json::value* type = value ? json_find(*value, "type") : nullptr;
  if (type && *type == "ByteLevel") return {};
  const json::value* list = value ? json_find(*value, "decoders") : nullptr;
  bool byte_level = false;
  if (type && *type == "Sequence" && list && list->is_array()) {
    for (const json::value& step : list->get_array()) {
      const json::value* kind = json_find(step, "type");
      if (kind && *kind == "ByteLevel") {
        byte_level = true;
      } else if (kind && *kind == "ByteFallback") {
        byte_fallback = true;
      } else if (!kind || *kind != "Fuse") {
        return invalid_model(
            "tokenizer.json: decoder step {} is not supported; expected ByteLevel, ByteFallback or "
            "Fuse",
            shown(kind));
      }
    }
    if (byte_level) return {};
  }
  return invalid_model("tokenizer.json: decoder is {}; expected ByteLevel", shown(type));
}

// The ids that a template puts around one sequence.
struct Template {
  std::vector<int32_t> before, after;
};

Status read_post_processor(const json::value* value, Template& out) {
  if (!value || value->is_null()) return {};
  const json::value* type = json_find(*value, "type");
  if (type && *type == "ByteLevel") return {};  // moves offsets only
  if (type && *type == "Sequence") {
    const json::value* list = json_find(*value, "processors");
    if (!list || !list->is_array() || list->get_array().size() > 16) {
      return invalid_model("tokenizer.json: post_processor Sequence has no list \"processors\"");
    }
    for (const json::value& step : list->get_array())
      VIDERE_RETURN_IF_ERROR(read_post_processor(&step, out));
    return {};
  }
  if (!type || *type != "TemplateProcessing") {
    return invalid_model(
        "tokenizer.json: post_processor {} is not supported; expected TemplateProcessing or "
        "ByteLevel",
        shown(type));
  }
  const json::value* single = json_find(*value, "single");
  if (!single || !single->is_array() || single->get_array().size() > 64) {
    return invalid_model("tokenizer.json: post_processor.single is {}; expected a list",
                         shown(single));
  }
  bool behind = false;
  for (const json::value& item : single->get_array()) {
    if (json_find(item, "Sequence")) {
      if (behind) return invalid_model("tokenizer.json: post_processor.single has two sequences");
      behind = true;
      continue;
    }
    const json::value* token = json_find(item, "SpecialToken");
    const json::value* name = token ? json_find(*token, "id") : nullptr;
    const json::value* tokens = json_find(*value, "special_tokens");
    const json::value* entry = name && name->is_string() && tokens
                                   ? json_find(*tokens, view(name->get_string()))
                                   : nullptr;
    const json::value* ids = entry ? json_find(*entry, "ids") : nullptr;
    if (!ids || !ids->is_array() || ids->get_array().size() > 64) {
      return invalid_model("tokenizer.json: post_processor names no ids for {}", shown(name));
    }
    for (const json::value& id : ids->get_array()) {
      if (!id.is_int64() || id.get_int64() < 0 || id.get_int64() >= kMaxId)
        return invalid_model("tokenizer.json: post_processor has the id {}", shown(&id));
      (behind ? out.after : out.before).push_back(static_cast<int32_t>(id.get_int64()));
    }
  }
  if (!behind) return invalid_model("tokenizer.json: post_processor.single has no sequence");
  return {};
}

Result<AddedToken> read_added_token(const json::value& value, std::optional<int64_t> id) {
  AddedToken token;
  const json::value* content = json_find(value, "content");
  if (const json::value* field = json_find(value, "id"); field && field->is_int64())
    id = field->get_int64();
  if (!content || !content->is_string() || !id || *id < 0 || *id >= kMaxId) {
    return invalid_model(
        "tokenizer.json: the added token {} is wrong; expected \"content\" and an \"id\" below {}",
        shown(&value), kMaxId);
  }
  token.id = static_cast<int32_t>(*id);
  token.content = std::string(content->get_string());
  if (token.content.size() > kMaxAddedBytes) {
    return invalid_model("tokenizer.json: added token {} is {} bytes long; at most {} are read",
                         token.id, token.content.size(), kMaxAddedBytes);
  }
  const auto flag = [&](const char* name, bool otherwise) {
    const json::value* field = json_find(value, name);
    return field && field->is_bool() ? field->get_bool() : otherwise;
  };
  token.special = flag("special", false);
  token.single_word = flag("single_word", false);
  token.lstrip = flag("lstrip", false);
  token.rstrip = flag("rstrip", false);
  token.normalized = flag("normalized", !token.special);
  return token;
}

// A token named by a config: text, or an object with its "content".
const json::string* named_content(const json::value& value) {
  if (value.is_object()) {
    const json::value* content = json_find(value, "content");
    return content ? content->if_string() : nullptr;
  }
  return value.if_string();
}

constexpr const char* kNames[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};

}  // namespace

struct Tokenizer::Impl {
  struct Scratch {
    RegexScratch regex;
    Bpe::Scratch bpe;
    std::vector<AddedTokenSplitter::Piece> raw_pieces, pieces;
  };

  explicit Impl(Bpe bpe_in, PreTokenizer pre_tokenizer_in, Normalizer normalizer_in)
      : bpe(std::move(bpe_in)),
        pre_tokenizer(std::move(pre_tokenizer_in)),
        normalizer(std::move(normalizer_in)) {}

  Status add_token(AddedToken token) {
    if (added.contains(token.content)) return {};
    const auto in_vocab = bpe.id_of_entry(token.content);
    if (in_vocab && *in_vocab != token.id) {
      return invalid_model(
          "tokenizer.json: added token \"{}\" has the id {}, but model.vocab gives it {}",
          token.content, token.id, *in_vocab);
    }
    reserve(token.id);
    Entry& entry = entries[token.id];
    if (entry.is_added) {
      return invalid_model("tokenizer.json: two added tokens have the id {}", token.id);
    }
    entry.is_added = true;
    entry.special = token.special;
    if (!in_vocab) {
      if (!entry.bytes.empty()) {
        return invalid_model(
            "tokenizer.json: added token \"{}\" has the id {} of another token of model.vocab",
            token.content, token.id);
      }
      texts.push_back(byte_level_decode(token.content).value_or(token.content));
      entry.bytes = texts.back();
    }
    added.emplace(token.content, token.id);
    if (token.normalized && !normalizer.empty()) {
      token.content = normalizer.apply(token.content);
      in_normalized.add(token);
    } else {
      (token.normalized ? in_normalized : in_raw).add(token);
    }
    return {};
  }

  void reserve(int32_t id) {
    if (id >= static_cast<int32_t>(entries.size())) entries.resize(id + 1);
  }

  std::unique_ptr<Scratch> take_scratch() {
    std::lock_guard lock(mutex);
    if (idle.empty()) return std::make_unique<Scratch>();
    auto scratch = std::move(idle.back());
    idle.pop_back();
    return scratch;
  }
  void give_back(std::unique_ptr<Scratch> scratch) {
    std::lock_guard lock(mutex);
    idle.push_back(std::move(scratch));
  }

  void encode_span(std::string_view text, Scratch& scratch, std::vector<int32_t>& out) {
    const bool complete = pre_tokenizer.run(
        text, scratch.regex, [&](std::string_view piece) { bpe.encode(piece, scratch.bpe, out); });
    if (!complete && !warned.test_and_set()) {
      log_warning(
          "tokenizer: the pre-tokenizer's pattern went over its match limit; the rest of that text "
          "was not cut into words, so its ids differ from the reference's");
    }
  }

  struct Entry {
    std::string_view bytes;
    bool special = false;
    bool is_added = false;
  };

  Bpe bpe;
  PreTokenizer pre_tokenizer;
  Normalizer normalizer;
  AddedTokenSplitter in_raw, in_normalized;
  std::unordered_map<std::string, int32_t> added;  // by content
  std::vector<Entry> entries;                      // by id
  std::deque<std::string> texts;                   // what entries outside the vocabulary point at
  Template around;
  std::string bos, eos;
  std::vector<std::pair<std::string, std::string>> named;

  std::mutex mutex;
  std::vector<std::unique_ptr<Scratch>> idle;
  std::atomic_flag warned = ATOMIC_FLAG_INIT;
};

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::load(const std::string& folder) {
  const auto read_optional = [&](const char* name) -> Result<std::string> {
    const std::string path = folder + "/" + name;
    std::error_code ignored;
    if (!std::filesystem::exists(path, ignored)) return std::string();
    return read_text_file(path, kMaxFileBytes);
  };
  VIDERE_ASSIGN_OR_RETURN(const std::string config, read_optional("tokenizer_config.json"));
  VIDERE_ASSIGN_OR_RETURN(const std::string map, read_optional("special_tokens_map.json"));
  VIDERE_ASSIGN_OR_RETURN(const auto file, MappedFile::open(folder + "/tokenizer.json"));
  const auto bytes = file->bytes();
  return parse({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, config, map);
}

Result<std::unique_ptr<Tokenizer>> Tokenizer::parse(std::string_view tokenizer_json,
                                                    std::string_view tokenizer_config_json,
                                                    std::string_view special_tokens_map_json) {
  json::monotonic_resource memory(1 << 20);
  VIDERE_ASSIGN_OR_RETURN(const json::value file,
                          parse_file(tokenizer_json, "tokenizer.json", memory));
  const json::value* model = json_find(file, "model");
  const json::value* pre = json_find(file, "pre_tokenizer");
  if (!model || !pre) {
    return invalid_model(
        "tokenizer.json lacks \"{}\"; expected a byte-level BPE in the fast "
        "tokenizers' format",
        model ? "pre_tokenizer" : "model");
  }
  VIDERE_ASSIGN_OR_RETURN(PreTokenizer pre_tokenizer, PreTokenizer::read(*pre));
  VIDERE_ASSIGN_OR_RETURN(Normalizer normalizer, Normalizer::read(json_find(file, "normalizer")));
  bool byte_fallback = false;
  VIDERE_RETURN_IF_ERROR(read_decoder(json_find(file, "decoder"), byte_fallback));
  Template around;
  VIDERE_RETURN_IF_ERROR(read_post_processor(json_find(file, "post_processor"), around));
  VIDERE_ASSIGN_OR_RETURN(Bpe bpe, Bpe::read(*model));

  auto impl =
      std::make_unique<Impl>(std::move(bpe), std::move(pre_tokenizer), std::move(normalizer));
  impl->around = std::move(around);
  impl->entries.resize(impl->bpe.vocab_size());
  for (int32_t id = 0; id < impl->bpe.vocab_size(); ++id)
    impl->entries[id].bytes = impl->bpe.bytes_of(id);
  if (byte_fallback) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto id = impl->bpe.id_of_entry(fmt::format("<0x{:02X}>", byte));
      if (!id) continue;
      impl->texts.emplace_back(1, static_cast<char>(byte));
      impl->entries[*id].bytes = impl->texts.back();
    }
  }

  if (const json::value* list = json_find(file, "added_tokens"); list && !list->is_null()) {
    if (!list->is_array())
      return invalid_model("tokenizer.json: added_tokens is {}; expected a list", shown(list));
    for (const json::value& value : list->get_array()) {
      VIDERE_ASSIGN_OR_RETURN(AddedToken token, read_added_token(value, std::nullopt));
      VIDERE_RETURN_IF_ERROR(impl->add_token(std::move(token)));
    }
  }

  json::value config, map;
  if (!tokenizer_config_json.empty()) {
    VIDERE_ASSIGN_OR_RETURN(config,
                            parse_file(tokenizer_config_json, "tokenizer_config.json", memory));
  }
  if (!special_tokens_map_json.empty()) {
    VIDERE_ASSIGN_OR_RETURN(map,
                            parse_file(special_tokens_map_json, "special_tokens_map.json", memory));
  }
  if (const json::value* more = json_find(config, "added_tokens_decoder");
      more && more->is_object()) {
    for (const auto& [key, value] : more->get_object()) {
      int64_t id = -1;
      const char* end = key.data() + key.size();
      if (std::from_chars(key.data(), end, id).ptr != end) id = -1;
      VIDERE_ASSIGN_OR_RETURN(AddedToken token, read_added_token(value, id));
      VIDERE_RETURN_IF_ERROR(impl->add_token(std::move(token)));
    }
  }
  // Named tokens count as special even where the file does not list them as added.
  const auto name_special = [&](std::string_view content) -> Status {
    const auto id = impl->bpe.id_of_entry(content);
    if (!id || impl->added.contains(std::string(content))) return {};
    AddedToken token;
    token.id = *id;
    token.content = content;
    token.special = true;
    token.normalized = false;
    if (content.size() > kMaxAddedBytes) return {};
    return impl->add_token(std::move(token));
  };
  for (const char* name : kNames) {
    const json::value* value = json_find(config, name);
    if (!value || value->is_null()) value = json_find(map, name);
    const json::string* content = value ? named_content(*value) : nullptr;
    if (!content) continue;
    VIDERE_RETURN_IF_ERROR(name_special(view(*content)));
    impl->named.emplace_back(name, *content);
    if (name == std::string_view("bos_token")) impl->bos = *content;
    if (name == std::string_view("eos_token")) impl->eos = *content;
  }
  for (const json::value* source : {&config, &map}) {
    const json::value* more = json_find(*source, "additional_special_tokens");
    if (!more || !more->is_array()) continue;
    for (const json::value& value : more->get_array()) {
      if (const json::string* content = named_content(value))
        VIDERE_RETURN_IF_ERROR(name_special(view(*content)));
    }
  }
  for (const auto* ids : {&impl->around.before, &impl->around.after}) {
    for (const int32_t id : *ids) {
      if (id >= static_cast<int32_t>(impl->entries.size()))
        return invalid_model("tokenizer.json: post_processor has the id {}, which no token has",
                             id);
    }
  }
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(impl)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  Impl& impl = *impl_;
  std::string repaired;
  if (!is_valid_utf8(text)) {
    repaired = repair_utf8(text);
    text = repaired;
  }
  std::vector<int32_t> out;
  if (add_special_tokens) out = impl.around.before;
  auto scratch = impl.take_scratch();
  scratch->raw_pieces.clear();
  impl.in_raw.split(text, scratch->regex, scratch->raw_pieces);
  for (const auto& raw : scratch->raw_pieces) {
    if (raw.id >= 0) {
      out.push_back(raw.id);
      continue;
    }
    std::string normalized;
    std::string_view span = raw.text;
    if (!impl.normalizer.empty()) {
      normalized = impl.normalizer.apply(span);
      span = normalized;
    }
    if (impl.in_normalized.empty()) {
      impl.encode_span(span, *scratch, out);
      continue;
    }
    scratch->pieces.clear();
    impl.in_normalized.split(span, scratch->regex, scratch->pieces);
    for (const auto& piece : scratch->pieces) {
      if (piece.id >= 0) {
        out.push_back(piece.id);
      } else {
        impl.encode_span(piece.text, *scratch, out);
      }
    }
  }
  impl.give_back(std::move(scratch));
  if (add_special_tokens) out.insert(out.end(), impl.around.after.begin(), impl.around.after.end());
  return out;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (skip_special_tokens && is_special(id)) continue;
    bytes += token_bytes(id);
  }
  return is_valid_utf8(bytes) ? bytes : repair_utf8(bytes);
}

std::string_view Tokenizer::token_bytes(int32_t id) const {
  return id >= 0 && id < vocab_size() ? impl_->entries[id].bytes : std::string_view();
}

bool Tokenizer::is_special(int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->entries[id].special;
}

std::optional<int32_t> Tokenizer::token_id(std::string_view token) const {
  if (const auto found = impl_->added.find(std::string(token)); found != impl_->added.end())
    return found->second;
  return impl_->bpe.id_of_bytes(token);
}

const std::string& Tokenizer::bos_token() const { return impl_->bos; }
const std::string& Tokenizer::eos_token() const { return impl_->eos; }

std::optional<int32_t> Tokenizer::bos_id() const {
  return impl_->bos.empty() ? std::nullopt : token_id(impl_->bos);
}
std::optional<int32_t> Tokenizer::eos_id() const {
  return impl_->eos.empty() ? std::nullopt : token_id(impl_->eos);
}

const std::vector<std::pair<std::string, std::string>>& Tokenizer::named_tokens() const {
  return impl_->named;
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->entries.size()); }

}  // namespace videre
