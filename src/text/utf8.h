// UTF-8: checking, repairing and walking. "Broken" is as in Unicode's table 3-7; each maximal
// broken sequence becomes one U+FFFD, as Python's errors="replace" and Rust's from_utf8_lossy have
// it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace videre {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";

/// Length in bytes of the valid start of `text`.
size_t valid_utf8_length(std::string_view text);
inline bool is_valid_utf8(std::string_view text) { return valid_utf8_length(text) == text.size(); }

/// `text` with broken sequences replaced.
std::string repair_utf8(std::string_view text);

/// The character at `at` of valid UTF-8; moves `at` behind it.
char32_t next_code_point(std::string_view text, size_t& at);
void append_utf8(std::string& out, char32_t code_point);
/// Characters of valid UTF-8.
size_t count_code_points(std::string_view text);

/// Bytes in, whole characters out; repairs as `repair_utf8` of all bytes would.
class Utf8Stream {
 public:
  std::string push(std::string_view bytes);
  std::string flush();

 private:
  std::string held_;  // at most 3 bytes: a start that may still become a character
};

}  // namespace videre
