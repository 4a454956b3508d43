#include "text/added_tokens.h"

#include <algorithm>

#include "text/utf8.h"

namespace videre {
namespace {

bool is_white_space(char32_t c) {
  return (c >= 9 && c <= 13) || c == ' ' || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Start of the white space that ends `text` just before `end`, but not below `floor`.
size_t space_before(std::string_view text, size_t floor, size_t end) {
  while (end > floor) {
    size_t start = end - 1;
    while (start > floor && (text[start] & 0xC0) == 0x80) --start;
    size_t at = start;
    if (!is_white_space(next_code_point(text, at))) break;
    end = start;
  }
  return end;
}

size_t space_after(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t at = begin;
    if (!is_white_space(next_code_point(text, at))) break;
    begin = at;
  }
  return begin;
}

std::string_view character_at(std::string_view text, size_t begin) {
  size_t end = begin;
  next_code_point(text, end);
  return text.substr(begin, end - begin);
}

// The character that ends before `end`.
std::string_view character_before(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (text[start] & 0xC0) == 0x80) --start;
  return text.substr(start, end - start);
}

}  // namespace

AddedTokenSplitter::AddedTokenSplitter()
    : nodes_(1),
      word_(Regex::built_in("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{200c}\\x{200d}]")) {}

uint32_t AddedTokenSplitter::child_of(uint32_t node, char byte) const {
  if (node == 0) return first_[static_cast<uint8_t>(byte)];
  for (uint32_t child = nodes_[node].child; child != 0; child = nodes_[child].sibling) {
    if (nodes_[child].byte == byte) return child;
  }
  return 0;
}

void AddedTokenSplitter::add(const AddedToken& token) {
  if (token.content.empty()) return;
  uint32_t node = 0;
  for (const char byte : token.content) {
    uint32_t child = child_of(node, byte);
    if (child == 0) {
      child = static_cast<uint32_t>(nodes_.size());
      if (node == 0) {
        nodes_.push_back({0, 0, -1, byte});
        first_[static_cast<uint8_t>(byte)] = child;
      } else {
        nodes_.push_back({0, nodes_[node].child, -1, byte});
        nodes_[node].child = child;
      }
    }
    node = child;
  }
  nodes_[node].token = static_cast<int32_t>(tokens_.size());
  tokens_.push_back({token.id, token.single_word, token.lstrip, token.rstrip});
}

void AddedTokenSplitter::split(std::string_view text, RegexScratch& scratch,
                               std::vector<Piece>& out) const {
  size_t done = 0;  // text before it is in `out`
  for (size_t at = 0; at < text.size();) {
    if (first_[static_cast<uint8_t>(text[at])] == 0) {
      ++at;
      continue;
    }
    int32_t found = -1;
    size_t end = at;
    uint32_t node = 0;
    for (size_t i = at; i < text.size() && (node = child_of(node, text[i])) != 0; ++i) {
      if (nodes_[node].token >= 0) {
        found = nodes_[node].token;
        end = i + 1;
      }
    }
    if (found < 0) {
      ++at;
      continue;
    }
    const Flags& token = tokens_[found];
    size_t begin = at, stop = end;
    at = end;  // even when the match is refused below, as in the reference
    if (token.single_word) {
      RegexMatch match;
      const bool touches = (begin > 0 && word_.find(character_before(text, begin), 0, scratch,
                                                    match) == Regex::Outcome::kMatch) ||
                           (end < text.size() && word_.find(character_at(text, end), 0, scratch,
                                                            match) == Regex::Outcome::kMatch);
      if (touches) continue;
    }
    if (token.lstrip) begin = space_before(text, std::min(done, begin), begin);
    if (token.rstrip) stop = space_after(text, stop);
    if (done < begin) out.push_back({-1, text.substr(done, begin - done)});
    out.push_back({token.id, text.substr(begin, stop - begin)});
    done = stop;
  }
  if (done < text.size()) out.push_back({-1, text.substr(done)});
}

}  // namespace videre
