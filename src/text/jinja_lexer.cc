#include "text/jinja_lexer.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/error.h"
#include "text/python_text.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

constexpr std::array<std::string_view, 26> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (c & 0x80) != 0;
}
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

int hex_value(char c) {
  if (is_digit(c)) return c - '0';
  c |= 0x20;
  return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

// Line ends become \n; one at the very end goes.
std::string normalize_lines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_lines(source)), source_(text_) {}

  Result<std::vector<Token>> run() {
    while (at_ < source_.size()) VIDERE_RETURN_IF_ERROR(template_part());
    add(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  Error fail(std::string message) const {
    return invalid_argument("", "line {}: {}", line_, message);
  }
  bool starts(std::string_view text, size_t ahead = 0) const {
    return at_ + ahead <= source_.size() && source_.substr(at_ + ahead).starts_with(text);
  }
  void add(Token::Kind kind, std::string_view text) {
    Token token;
    token.kind = kind;
    token.line = line_;
    token.text = text;
    tokens_.push_back(std::move(token));
  }
  void advance(size_t count) {
    line_ +=
        static_cast<int>(std::count(source_.begin() + static_cast<ptrdiff_t>(at_),
                                    source_.begin() + static_cast<ptrdiff_t>(at_ + count), '\n'));
    at_ += count;
  }
  // Bytes of white space from `from` on.
  size_t space_length(size_t from) const {
    const std::string_view rest = source_.substr(from);
    return rest.size() - python::strip(rest, std::nullopt, true, false).size();
  }

  // Text up to the next tag, and the tag's opening.
  Status template_part() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == source_.npos) {
        add(Token::Kind::kText, source_.substr(at_));
        advance(source_.size() - at_);
        return {};
      }
      const char next = tag + 1 < source_.size() ? source_[tag + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char sign = tag + 2 < source_.size() ? source_[tag + 2] : '\0';
    std::string_view text = source_.substr(at_, tag - at_);
    emit_text(text, sign, kind != '{');
    advance(tag - at_);
    const bool has_sign = sign == '-' || sign == '+';
    if (kind == '#') {
      advance(has_sign ? 3 : 2);
      return comment();
    }
    size_t raw_length = 0;
    if (kind == '%' && (raw_length = raw_tag_length("raw", false)) > 0) {
      advance(raw_length);
      return raw();
    }
    add(kind == '%' ? Token::Kind::kBlockBegin : Token::Kind::kPrintBegin, "");
    advance(has_sign ? 3 : 2);
    return inside_tag(kind == '%');
  }

  // Text before a tag: `-` strips it, and white space before a block goes when it starts the line.
  void emit_text(std::string_view text, char sign, bool may_strip_line) {
    if (sign == '-') {
      text = python::strip(text, std::nullopt, false, true);
    } else if (sign != '+' && may_strip_line) {
      const size_t line_begin = text.rfind('\n') + 1;  // npos + 1 is 0
      const bool starts_line = line_begin > 0 || at_line_start_;
      if (starts_line && python::strip(text.substr(line_begin), {}, true, false).empty())
        text = text.substr(0, line_begin);
    }
    if (!text.empty()) add(Token::Kind::kText, text);
  }

  // Length of a tag's end at `at_`, with the white space it takes; 0 when there is none.
  size_t end_length(std::string_view end, bool trims_line) const {
    const std::string minus = "-" + std::string(end), plus = "+" + std::string(end);
    if (trims_line && starts(plus)) return plus.size();
    if (starts(minus)) return minus.size() + space_length(at_ + minus.size());
    if (starts(end)) return end.size() + (trims_line && starts("\n", end.size()) ? 1 : 0);
    return 0;
  }
  void close(size_t length) {
    advance(length);
    at_line_start_ = source_[at_ - 1] == '\n';
  }

  Status comment() {
    const int begun = line_;
    while (at_ < source_.size()) {
      if (const size_t length = end_length("#}", true)) {
        close(length);
        return {};
      }
      advance(1);
    }
    line_ = begun;
    return fail("the comment {# is not closed by #}");
  }

  // Length of `{% name %}` at `at_`; 0 when something else stands there.
  size_t raw_tag_length(std::string_view name, bool trims_line) const {
    if (!starts("{%")) return 0;
    size_t at = at_ + 2;
    if (at < source_.size() && (source_[at] == '-' || source_[at] == '+')) ++at;
    at += space_length(at);
    if (!source_.substr(at).starts_with(name)) return 0;
    at += name.size();
    at += space_length(at);
    const std::string_view rest = source_.substr(at);
    if (rest.starts_with("-%}")) return at + 3 + space_length(at + 3) - at_;
    if (trims_line && rest.starts_with("+%}")) return at + 3 - at_;
    if (!rest.starts_with("%}")) return 0;
    return at + 2 + (trims_line && rest.substr(2).starts_with("\n") ? 1 : 0) - at_;
  }

  Status raw() {
    const int begun = line_;
    at_line_start_ = source_[at_ - 1] == '\n';
    const size_t begin = at_;
    for (size_t tag = at_; (tag = source_.find("{%", tag)) != source_.npos; tag += 2) {
      const size_t saved = at_;
      at_ = tag;
      const size_t length = raw_tag_length("endraw", true);
      at_ = saved;
      if (length == 0) continue;
      emit_text(source_.substr(begin, tag - begin), source_[tag + 2], true);
      advance(tag - begin);
      close(length);
      return {};
    }
    line_ = begun;
    return fail("the block \"raw\" is not closed by \"endraw\"");
  }

  Status inside_tag(bool block) {
    const int begun = line_;
    std::string open;  // brackets
    while (at_ < source_.size()) {
      if (open.empty()) {
        if (const size_t length = end_length(block ? "%}" : "}}", block)) {
          add(block ? Token::Kind::kBlockEnd : Token::Kind::kPrintEnd, "");
          close(length);
          return {};
        }
      }
      if (const size_t space = space_length(at_)) {
        advance(space);
        continue;
      }
      const char c = source_[at_];
      if (is_digit(c)) {
        VIDERE_RETURN_IF_ERROR(number());
      } else if (is_name_start(c)) {
        VIDERE_RETURN_IF_ERROR(name());
      } else if (c == '\'' || c == '"') {
        VIDERE_RETURN_IF_ERROR(string(c));
      } else {
        VIDERE_RETURN_IF_ERROR(op(open));
      }
    }
    line_ = begun;
    return fail(block ? "the tag {% is not closed by %}" : "the tag {{ is not closed by }}");
  }

  Error not_understood() const {
    size_t end = at_;
    next_code_point(source_, end);
    return fail(fmt::format("the character {} is not understood here",
                            python::repr(source_.substr(at_, end - at_))));
  }

  Status name() {
    size_t end = at_;
    while (end < source_.size() && is_name_part(source_[end])) {
      size_t next = end;
      if (!python::is_word(next_code_point(source_, next))) break;
      end = next;
    }
    if (end == at_) return not_understood();
    add(Token::Kind::kName, source_.substr(at_, end - at_));
    advance(end - at_);
    return {};
  }

  Status op(std::string& open) {
    const auto* found = std::find_if(kOperators.begin(), kOperators.end(),
                                     [&](std::string_view op) { return starts(op); });
    if (found == kOperators.end()) return not_understood();
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') {
      open += c;
    } else if (c == ')' || c == ']' || c == '}') {
      const char expected = c == ')' ? '(' : c == ']' ? '[' : '{';
      if (open.empty() || open.back() != expected)
        return fail(fmt::format("\"{}\" closes no \"{}\"", c, expected));
      open.pop_back();
    }
    add(Token::Kind::kOperator, *found);
    advance(found->size());
    return {};
  }

  // Digits with single underscores between them.
  size_t digits_end(size_t from, int base) const {
    size_t at = from;
    while (at < source_.size()) {
      const size_t digit = source_[at] == '_' ? at + 1 : at;
      if (at == from && digit != at) break;
      if (digit >= source_.size()) break;
      const int value = hex_value(source_[digit]);
      if (value < 0 || value >= base) break;
      at = digit + 1;
    }
    return at;
  }

  Status number() {
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    const size_t whole_end = digits_end(at_, 10);
    size_t end = whole_end;
    if (!after_dot) {
      if (end + 1 < source_.size() && source_[end] == '.' && is_digit(source_[end + 1]))
        end = digits_end(end + 1, 10);
      if (end < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
        size_t digits = end + 1;
        if (digits < source_.size() && (source_[digits] == '+' || source_[digits] == '-')) ++digits;
        if (digits < source_.size() && is_digit(source_[digits])) end = digits_end(digits, 10);
      }
    }
    if (end != whole_end) {
      std::string digits(source_.substr(at_, end - at_));
      std::erase(digits, '_');
      add(Token::Kind::kFloat, digits);
      tokens_.back().number = std::strtod(digits.c_str(), nullptr);
      advance(end - at_);
      return {};
    }
    int base = 10;
    size_t begin = at_;
    end = whole_end;
    const char letter = at_ + 1 < source_.size() ? static_cast<char>(source_[at_ + 1] | 0x20) : 0;
    if (source_[at_] == '0' && (letter == 'x' || letter == 'o' || letter == 'b')) {
      const int special = letter == 'x' ? 16 : letter == 'o' ? 8 : 2;
      size_t first = at_ + 2;
      if (first < source_.size() && source_[first] == '_') ++first;
      const size_t special_end = digits_end(first, special);
      if (special_end > first) {
        base = special;
        begin = first;
        end = special_end;
      }
    } else if (source_[at_] == '0') {
      end = at_ + 1;
      while (end < source_.size() && source_[end] == '0') ++end;
    }
    Int value = 0;
    for (size_t i = begin; i < end; ++i) {
      if (source_[i] == '_') continue;
      value = value * base + hex_value(source_[i]);
      if (value > static_cast<Int>(INT64_MAX)) return fail("an integer has more than 64 bits");
    }
    add(Token::Kind::kInteger, source_.substr(at_, end - at_));
    tokens_.back().integer = value;
    advance(end - at_);
    return {};
  }

  // Escapes as in Python's string literals; an unknown one keeps its backslash.
  Status string(char quote) {
    const int begun = line_;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) {
      line_ = begun;
      return fail("a string is not closed");
    }
    const std::string_view body = source_.substr(at_ + 1, end - at_ - 1);
    std::string value;
    for (size_t i = 0; i < body.size(); ++i) {
      if (body[i] != '\\') {
        value += body[i];
        continue;
      }
      const char c = body[++i];
      size_t digits = 0, max_digits = 0;
      int base = 16;
      switch (c) {
        case '\n':
          continue;
        case '\\':
        case '\'':
        case '"':
          value += c;
          continue;
        case 'a':
          value += '\a';
          continue;
        case 'b':
          value += '\b';
          continue;
        case 'f':
          value += '\f';
          continue;
        case 'n':
          value += '\n';
          continue;
        case 'r':
          value += '\r';
          continue;
        case 't':
          value += '\t';
          continue;
        case 'v':
          value += '\v';
          continue;
        case 'x':
          digits = max_digits = 2;
          break;
        case 'u':
          digits = max_digits = 4;
          break;
        case 'U':
          digits = max_digits = 8;
          break;
        default:
          if (c < '0' || c > '7') {
            value += '\\';
            value += c;
            continue;
          }
          base = 8;
          digits = 1;
          max_digits = 3;
          --i;  // the digit is part of the number
      }
      uint32_t code = 0;
      size_t count = 0;
      while (count < max_digits && i + 1 < body.size()) {
        const int digit = hex_value(body[i + 1]);
        if (digit < 0 || digit >= base) break;
        code = code * static_cast<uint32_t>(base) + static_cast<uint32_t>(digit);
        ++i;
        ++count;
      }
      if (count < digits || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF))
        return fail("a string has a broken escape");
      append_utf8(value, code);
    }
    add(Token::Kind::kString, value);
    advance(end + 1 - at_);
    return {};
  }

  std::string text_;
  std::string_view source_;
  size_t at_ = 0;
  int line_ = 1;
  bool at_line_start_ = true;  // whether what was last taken ended a line
  std::vector<Token> tokens_;
};

}  // namespace

Result<std::vector<Token>> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace videre::jinja
