// One output's ids to text, a token at a time: whole UTF-8 characters only, and nothing past a stop
// string.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "text/tokenizer.h"
#include "text/utf8.h"

namespace videre {

/// The concatenation of all that `push` and `flush` return equals `Tokenizer::decode` of the whole
/// sequence. One thread at a time; keeps a reference to the tokenizer.
class Detokenizer {
 public:
  Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  /// Text that is complete with this token; the start of an unfinished character is held.
  std::string push(int32_t id);
  /// U+FFFD for an unfinished character, if there is one.
  std::string flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  Utf8Stream stream_;
};

/// Watches one output's text for stop strings. Push the text of each token on its own, since the
/// strings are tried in list order within a token: the first in the list wins, not the leftmost.
class StopStrings {
 public:
  /// Empty strings never match. `include_in_output` keeps the matched string itself.
  StopStrings(std::vector<std::string> stop, bool include_in_output);

  /// Text that may be shown now. An end that may still become a stop string is held back. With
  /// `search` false (output count <= min_tokens) nothing matches that ends in this text. After a
  /// match the text is cut at its start (or end) and every later push returns "".
  std::string push(std::string_view text, bool search);
  /// What was held back, for an output that ended otherwise; "" after a match.
  std::string flush();

  /// Index of the matched string in the list.
  std::optional<size_t> matched() const { return matched_; }
  const std::string& matched_text() const { return stop_[*matched_]; }

 private:
  // Knuth-Morris-Pratt: `state` is how much of the string the text's end already spells.
  struct Watch {
    std::vector<uint32_t> failure;
    uint32_t state = 0;
  };
  std::vector<std::string> stop_;
  std::vector<Watch> watches_;
  bool include_in_output_;
  std::string held_;
  std::optional<size_t> matched_;
};

}  // namespace videre
