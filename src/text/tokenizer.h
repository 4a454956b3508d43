// Text to ids and back, as tokenizer.json of a byte-level BPE says. Ids and special tokens come
// from the checkpoint's files only. Characters split over tokens are detokenizer.h's concern.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "videre/result.h"

namespace videre {

/// Immutable after loading; every method may be called from any thread.
class Tokenizer {
 public:
  /// Reads tokenizer.json and, where present, tokenizer_config.json and special_tokens_map.json.
  /// Errors: kNotFound without tokenizer.json; kInvalidModel names the field that cannot be used.
  static Result<std::unique_ptr<Tokenizer>> load(const std::string& folder);
  /// The same from texts; the last two may be empty.
  static Result<std::unique_ptr<Tokenizer>> parse(std::string_view tokenizer_json,
                                                  std::string_view tokenizer_config_json,
                                                  std::string_view special_tokens_map_json = {});
  ~Tokenizer();

  /// Ids of `text`. Bytes that are no UTF-8 count as U+FFFD, one for each maximal broken sequence.
  /// `add_special_tokens` applies the file's template (a BOS in front, usually).
  std::vector<int32_t> encode(std::string_view text, bool add_special_tokens) const;
  /// Text of `ids`; broken UTF-8 becomes U+FFFD, unknown ids nothing.
  std::string decode(std::span<const int32_t> ids, bool skip_special_tokens) const;

  /// The token's raw bytes, which may be part of a character; empty for unknown ids.
  std::string_view token_bytes(int32_t id) const;
  bool is_special(int32_t id) const;
  /// Id of a token by the text it stands for ("<image>", " the"), whether added or in the
  /// vocabulary.
  std::optional<int32_t> token_id(std::string_view token) const;

  const std::string& bos_token() const;  ///< "" when the files name none
  const std::string& eos_token() const;
  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  /// The named special tokens of tokenizer_config.json ("bos_token", "pad_token", ...), which chat
  /// templates may use as variables.
  const std::vector<std::pair<std::string, std::string>>& named_tokens() const;
  /// One more than the largest id.
  int vocab_size() const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace videre
