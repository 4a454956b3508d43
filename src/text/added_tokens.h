// Added tokens: found in the text before everything else, longest first.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "text/regex.h"

namespace videre {

struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;
  bool single_word = false;  ///< only where no letter touches it
  bool lstrip = false;       ///< takes the white space before it too
  bool rstrip = false;       ///< and after it
  bool normalized = true;    ///< looked for in the normalised text
};

/// Finds one set of tokens, leftmost and longest. Immutable once built.
class AddedTokenSplitter {
 public:
  struct Piece {
    int32_t id;  // -1: text between tokens
    std::string_view text;
  };

  AddedTokenSplitter();
  /// Empty content never matches. Kept by value.
  void add(const AddedToken& token);
  bool empty() const { return tokens_.empty(); }
  /// Appends the pieces of `text` to `out`.
  void split(std::string_view text, RegexScratch& scratch, std::vector<Piece>& out) const;

 private:
  struct Node {
    uint32_t child = 0, sibling = 0;  // 0: none
    int32_t token = -1;               // index into tokens_
    char byte = 0;
  };
  struct Flags {
    int32_t id;
    bool single_word, lstrip, rstrip;
  };
  uint32_t child_of(uint32_t node, char byte) const;

  std::vector<Node> nodes_;
  std::array<uint32_t, 256> first_{};  // children of the root
  std::vector<Flags> tokens_;
  Regex word_;  // a character of a word
};

}  // namespace videre
