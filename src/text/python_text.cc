#include "text/python_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "text/regex.h"
#include "text/utf8.h"

namespace videre::python {
namespace {

struct CaseRange {
  char32_t first, last;
  int step;
  int distance;
};
struct CaseSpecial {
  char32_t character;
  const char *upper, *lower, *title;  // null: the tables say it
};
#include "text/unicode_case.inc"

enum class Case { kUpper, kLower, kTitle };

template <size_t N>
const CaseRange* find_range(const CaseRange (&table)[N], char32_t c) {
  const CaseRange* range = std::lower_bound(
      table, table + N, c, [](const CaseRange& row, char32_t at) { return row.last < at; });
  if (range == table + N || c < range->first || (c - range->first) % range->step != 0)
    return nullptr;
  return range;
}

void append_mapped(std::string& out, char32_t c, Case to) {
  if (c < 0x80) {
    const bool is_lower = c >= 'a' && c <= 'z', is_upper = c >= 'A' && c <= 'Z';
    if (to == Case::kLower ? is_upper : is_lower) c ^= 0x20;
    out += static_cast<char>(c);
    return;
  }
  const auto* special =
      std::lower_bound(std::begin(kSpecial), std::end(kSpecial), c,
                       [](const CaseSpecial& row, char32_t at) { return row.character < at; });
  if (special != std::end(kSpecial) && special->character == c) {
    const char* text = to == Case::kUpper   ? special->upper
                       : to == Case::kLower ? special->lower
                                            : special->title;
    if (text) {
      out += text;
      return;
    }
  }
  const CaseRange* range = nullptr;
  if (to == Case::kTitle) range = find_range(kTitle, c);
  if (!range) range = to == Case::kLower ? find_range(kLower, c) : find_range(kUpper, c);
  append_utf8(out, range ? c + range->distance : c);
}

// Whether `pattern` is found in `text`.
bool found(const Regex& pattern, std::string_view text) {
  static thread_local RegexScratch scratch;
  RegexMatch match;
  return pattern.find(text, 0, scratch, match) == Regex::Outcome::kMatch;
}

bool has_property(char32_t c, const Regex& one_character) {
  std::string text;
  append_utf8(text, c);
  return found(one_character, text);
}

bool is_cased(char32_t c) {
  if (c < 0x80) return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  static const Regex pattern = Regex::built_in("[\\p{Lowercase}\\p{Uppercase}\\p{Lt}]");
  return has_property(c, pattern);
}

// Greek capital sigma at `at`: final form when a cased letter comes before and none after, marks
// and the like aside. The look back is bounded; words are shorter.
bool is_final_sigma(std::string_view text, size_t at) {
  static const Regex before =
      Regex::built_in("\\p{Cased}(?:(?!\\p{Cased})\\p{Case_Ignorable})*\\z");
  static const Regex after = Regex::built_in("\\A\\p{Case_Ignorable}*\\p{Cased}");
  size_t begin = at > 256 ? at - 256 : 0;
  while (begin < at && (text[begin] & 0xC0) == 0x80) ++begin;
  size_t end = std::min(text.size(), at + 258);
  while (end < text.size() && (text[end] & 0xC0) == 0x80) ++end;
  return found(before, text.substr(begin, at - begin)) &&
         !found(after, text.substr(at + 2, end - at - 2));
}

void append_lower(std::string& out, std::string_view text, size_t at, char32_t c) {
  if (c == 0x3A3) {
    append_utf8(out, is_final_sigma(text, at) ? 0x3C2 : 0x3C3);
  } else {
    append_mapped(out, c, Case::kLower);
  }
}

bool all_have(std::string_view text, const char* pattern_text) {
  const Regex pattern = Regex::built_in(pattern_text);
  return !text.empty() && !found(pattern, text);
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

// Start of the character that ends before `at`.
size_t previous(std::string_view text, size_t at) {
  do {
    --at;
  } while (at > 0 && (text[at] & 0xC0) == 0x80);
  return at;
}

}  // namespace

bool is_space(char32_t c) {
  return (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_word(char32_t c) {
  if (c < 0x80)
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
  static const Regex pattern = Regex::built_in("[\\p{L}\\p{N}]");
  return has_property(c, pattern);
}

std::string upper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();)
    append_mapped(out, next_code_point(text, at), Case::kUpper);
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    append_lower(out, text, begin, c);
  }
  return out;
}

std::string title(std::string_view text) {
  std::string out;
  bool in_word = false;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (in_word) {
      append_lower(out, text, begin, c);
    } else {
      append_mapped(out, c, Case::kTitle);
    }
    in_word = is_cased(c);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (begin == 0) {
      append_mapped(out, c, Case::kTitle);
    } else {
      append_lower(out, text, begin, c);
    }
  }
  return out;
}

std::string swapcase(std::string_view text) {
  static const Regex upper_case = Regex::built_in("\\p{Uppercase}");
  static const Regex lower_case = Regex::built_in("\\p{Lowercase}");
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (has_property(c, upper_case)) {
      append_lower(out, text, begin, c);
    } else if (has_property(c, lower_case)) {
      append_mapped(out, c, Case::kUpper);
    } else {
      append_utf8(out, c);
    }
  }
  return out;
}

bool is_alpha(std::string_view text) { return all_have(text, "\\P{L}"); }
bool is_alnum(std::string_view text) { return all_have(text, "[^\\p{L}\\p{N}]"); }
bool is_decimal(std::string_view text) { return all_have(text, "\\P{Nd}"); }
bool is_digit(std::string_view text) {
  return all_have(text,
                  "[^\\p{Nd}\\x{b2}\\x{b3}\\x{b9}\\x{2070}\\x{2074}-\\x{2079}\\x{2080}-\\x{2089}"
                  "\\x{2460}-\\x{2468}\\x{2474}-\\x{247c}\\x{2488}-\\x{2490}]");
}
bool is_numeric(std::string_view text) { return all_have(text, "\\P{N}"); }
bool is_lower(std::string_view text) {
  static const Regex has = Regex::built_in("\\p{Lowercase}");
  static const Regex lacks = Regex::built_in("[\\p{Uppercase}\\p{Lt}]");
  return found(has, text) && !found(lacks, text);
}
bool is_upper(std::string_view text) {
  static const Regex has = Regex::built_in("\\p{Uppercase}");
  static const Regex lacks = Regex::built_in("[\\p{Lowercase}\\p{Lt}]");
  return found(has, text) && !found(lacks, text);
}
bool is_title(std::string_view text) {
  static const Regex has = Regex::built_in("[\\p{Uppercase}\\p{Lt}]");
  static const Regex lacks = Regex::built_in(
      "[\\p{Uppercase}\\p{Lowercase}\\p{Lt}][\\p{Uppercase}\\p{Lt}]|"
      "(?<![\\p{Uppercase}\\p{Lowercase}\\p{Lt}])\\p{Lowercase}");
  return found(has, text) && !found(lacks, text);
}

std::string_view strip(std::string_view text, std::optional<std::string_view> chars, bool left,
                       bool right) {
  const auto goes = [&](char32_t c) {
    if (!chars) return is_space(c);
    for (size_t at = 0; at < chars->size();) {
      if (next_code_point(*chars, at) == c) return true;
    }
    return false;
  };
  while (left && !text.empty()) {
    size_t at = 0;
    if (!goes(next_code_point(text, at))) break;
    text.remove_prefix(at);
  }
  while (right && !text.empty()) {
    const size_t start = previous(text, text.size());
    size_t at = start;
    if (!goes(next_code_point(text, at))) break;
    text = text.substr(0, start);
  }
  return text;
}

std::vector<std::string_view> split_space(std::string_view text, int64_t max_splits,
                                          bool from_right) {
  std::vector<std::string_view> parts;
  const auto splits_left = [&] {
    return max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits;
  };
  while (true) {
    text = strip(text, std::nullopt, !from_right, from_right);
    if (text.empty()) break;
    if (!splits_left()) {
      parts.push_back(text);
      break;
    }
    if (from_right) {
      size_t begin = text.size();
      while (begin > 0) {
        const size_t start = previous(text, begin);
        size_t at = start;
        if (is_space(next_code_point(text, at))) break;
        begin = start;
      }
      parts.push_back(text.substr(begin));
      text = text.substr(0, begin);
    } else {
      size_t end = 0;
      while (end < text.size()) {
        size_t at = end;
        if (is_space(next_code_point(text, at))) break;
        end = at;
      }
      parts.push_back(text.substr(0, end));
      text.remove_prefix(end);
    }
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split(std::string_view text, std::string_view separator,
                                    int64_t max_splits, bool from_right) {
  std::vector<std::string_view> parts;
  while (max_splits < 0 || static_cast<int64_t>(parts.size()) < max_splits) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == text.npos) break;
    if (from_right) {
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    } else {
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
  }
  parts.push_back(text);
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(begin, (keep_ends ? at : end) - begin));
    begin = at;
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

bool is_ascii(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return (c & 0x80) == 0; });
}

size_t byte_offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) next_code_point(text, at);
  return at;
}

std::string repr(std::string_view text) {
  static const Regex not_printable = Regex::built_in("[\\p{C}\\p{Z}]");
  const char quote = text.find('\'') != text.npos && text.find('"') == text.npos ? '"' : '\'';
  std::string out(1, quote);
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (c >= ' ' && c < 0x7F) {
      out += static_cast<char>(c);
    } else if (c >= 0x80 && !has_property(c, not_printable)) {
      append_utf8(out, c);
    } else if (c <= 0xFF) {
      out += fmt::format("\\x{:02x}", static_cast<uint32_t>(c));
    } else if (c <= 0xFFFF) {
      out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
    } else {
      out += fmt::format("\\U{:08x}", static_cast<uint32_t>(c));
    }
  }
  return out + quote;
}

std::string repr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  // Shortest digits that read back equal; an exponent below 1e-4 and from 1e16 on.
  char buffer[40];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
  std::string_view text(buffer, end.ptr - buffer);
  const bool negative = text.starts_with('-');
  if (negative) text.remove_prefix(1);
  const size_t e = text.find('e');
  int exponent = 0;
  const char* digits_of_exponent = text.data() + e + 1 + (text[e + 1] == '+');
  std::from_chars(digits_of_exponent, text.data() + text.size(), exponent);
  std::string digits(text.substr(0, e));
  std::erase(digits, '.');
  std::string out = negative ? "-" : "";
  if (exponent < -4 || exponent >= 16) {
    out += digits[0];
    if (digits.size() > 1) out.append(".").append(digits, 1);
    return out + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0) return out + "0." + std::string(-exponent - 1, '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return out + digits + std::string(whole - digits.size(), '0') + ".0";
  return out + digits.substr(0, whole) + "." + digits.substr(whole);
}

void append_json_string(std::string& out, std::string_view text, bool ascii_only) {
  out += '"';
  for (size_t at = 0; at < text.size();) {
    const char32_t c = next_code_point(text, at);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\f':
        out += "\\f";
        break;
      case '\b':
        out += "\\b";
        break;
      default:
        if (c < ' ' || (ascii_only && c >= 0x80 && c <= 0xFFFF)) {
          out += fmt::format("\\u{:04x}", static_cast<uint32_t>(c));
        } else if (ascii_only && c > 0xFFFF) {
          const uint32_t v = c - 0x10000;
          out += fmt::format("\\u{:04x}\\u{:04x}", 0xD800 + (v >> 10), 0xDC00 + (v & 0x3FF));
        } else {
          append_utf8(out, c);
        }
    }
  }
  out += '"';
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

}  // namespace videre::python
