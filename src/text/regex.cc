#include "text/regex.h"

#include <algorithm>
#include <array>
#include <vector>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/check.h"
#include "base/error.h"
#include "text/utf8.h"

namespace videre {
namespace {

constexpr size_t kMaxPatternBytes = 16 << 10;
// One match of a sane pattern backtracks a few times a character; see Regex::find.
constexpr uint32_t kMatchLimit = 10'000'000;
constexpr uint32_t kDepthLimit = 100'000;
constexpr uint32_t kHeapLimitKib = 256 << 10;
constexpr size_t kJitStackBytes = 1 << 20;

// White_Space. PCRE2's own \s has U+180E too, which lost the property in Unicode 6.3.
constexpr const char* kSpace =
    "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}"
    "\\x{205f}\\x{3000}";
constexpr const char* kNotSpace =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}"
    "\\x{3001}-\\x{10ffff}";
constexpr const char* kWord = "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}";
// Oniguruma's \w outside a class looks Latin-1 up in a table that counts these as well.
constexpr const char* kMoreWord = "\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";

constexpr std::array kCategories = {"any", "c",  "cc", "cf", "cn", "co", "cs", "l",  "ll", "lm",
                                    "lo",  "lt", "lu", "m",  "mc", "me", "mn", "n",  "nd", "nl",
                                    "no",  "p",  "pc", "pd", "pe", "pf", "pi", "po", "ps", "s",
                                    "sc",  "sk", "sm", "so", "z",  "zl", "zp", "zs"};
constexpr std::array kBinaryProperties = {"alphabetic", "alpha",       "whitespace", "uppercase",
                                          "lowercase",  "ideographic", "emoji",      "math"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alpha(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

class Translator {
 public:
  Translator(std::string_view pattern, std::string_view what) : pattern_(pattern), what_(what) {}

  Result<std::string> run() {
    if (pattern_.size() > kMaxPatternBytes) {
      return invalid_model("{} is {} bytes long; at most {} are read", what_, pattern_.size(),
                           kMaxPatternBytes);
    }
    if (!is_valid_utf8(pattern_)) return invalid_model("{} is not valid UTF-8", what_);
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      switch (c) {
        case '\\':
          VIDERE_RETURN_IF_ERROR(escape(false));
          break;
        case '[':
          VIDERE_RETURN_IF_ERROR(character_class());
          break;
        case '(':
          VIDERE_RETURN_IF_ERROR(group());
          break;
        case ')':
          if (caseless_.size() > 1) caseless_.pop_back();
          copy(1);
          break;
        case '*':
        case '+':
        case '?':
          copy(1);
          if (peek() == '?' || peek() == '+') copy(1);
          break;
        case '{':
          VIDERE_RETURN_IF_ERROR(interval());
          break;
        case '^':
        case '$':
        case '.':
        case '|':
          copy(1);
          break;
        default:
          VIDERE_RETURN_IF_ERROR(literal());
      }
    }
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  bool starts(std::string_view text) const { return pattern_.substr(at_).starts_with(text); }
  void copy(size_t count) {
    out_ += pattern_.substr(at_, count);
    at_ += count;
  }
  Error refuse(std::string_view seen) const {
    return invalid_model(
        "{} uses {} at byte {}, which Videre does not run as the reference does; expected Tekken- "
        "or GPT-style patterns",
        what_, seen, at_);
  }

  // Folding pairs of letters into ligatures (ss to U+00DF) is Oniguruma's alone.
  Status literal() {
    const char c = pattern_[at_];
    if (caseless_.back()) {
      if (static_cast<unsigned char>(c) >= 0x80) return refuse("a letter outside ASCII under (?i)");
      const char a = c | 0x20, b = peek(1) | 0x20;
      if ((a == 's' && (b == 's' || b == 't')) || (a == 'f' && (b == 'f' || b == 'i' || b == 'l')))
        return refuse("letters that have a ligature under (?i)");
    }
    if (c == ']' || c == '}') out_ += '\\';
    copy(1);
    return {};
  }

  Status group() {
    bool caseless = caseless_.back();
    if (starts("(?:") || starts("(?=") || starts("(?!") || starts("(?>")) {
      copy(3);
    } else if (starts("(?<=") || starts("(?<!")) {
      copy(4);
    } else if (starts("(?i:")) {
      copy(4);
      caseless = true;
    } else if (starts("(?-i:")) {
      copy(5);
      caseless = false;
    } else if (starts("(?i)") && at_ == 0) {
      copy(4);  // later on it would bind the alternatives differently
      caseless_.back() = true;
      return {};
    } else if (starts("(?")) {
      return refuse(fmt::format("the group \"{}\"", pattern_.substr(at_, 4)));
    } else if (starts("(*")) {
      return refuse("\"(*\"");
    } else {
      copy(1);
    }
    caseless_.push_back(caseless);
    if (caseless_.size() > 200) return refuse("more than 200 nested groups");
    return {};
  }

  Status interval() {
    size_t end = at_ + 1;
    std::string low, high;
    bool comma = false;
    while (end < pattern_.size() && (is_digit(pattern_[end]) || (!comma && pattern_[end] == ','))) {
      if (pattern_[end] == ',') {
        comma = true;
      } else {
        (comma ? high : low) += pattern_[end];
      }
      ++end;
    }
    const bool valid = end < pattern_.size() && pattern_[end] == '}' && !(low + high).empty();
    if (!valid) {
      out_ += "\\{";
      ++at_;
      return {};
    }
    const char after = end + 1 < pattern_.size() ? pattern_[end + 1] : '\0';
    if (after == '+' || (after == '?' && !comma)) return refuse("a suffix of {n}");
    out_ += "{" + (low.empty() ? "0" : low) + (comma ? "," : "") + high + "}";
    at_ = end + 1;
    if (after == '?') copy(1);
    return {};
  }

  Status code_point(size_t digits_at, size_t max_digits, bool braced) {
    size_t end = digits_at;
    uint32_t value = 0;
    while (end < pattern_.size() && end < digits_at + max_digits) {
      const char c = pattern_[end];
      const int digit = is_digit(c) ? c - '0' : is_alpha(c) ? (c | 0x20) - 'a' + 10 : 99;
      if (digit > 15) break;
      value = value * 16 + static_cast<uint32_t>(digit);
      ++end;
    }
    const bool closed = !braced || (end < pattern_.size() && pattern_[end] == '}');
    if (end == digits_at || !closed || (!braced && end != digits_at + max_digits) ||
        value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
      return refuse("a character number that is none");
    if (!braced && max_digits == 2 && value > 0x7F) return refuse("a raw byte");
    if (caseless_.back() && value > 0x7F) return refuse("a letter outside ASCII under (?i)");
    out_ += fmt::format("\\x{{{:x}}}", value);
    at_ = end + (braced ? 1 : 0);
    return {};
  }

  Status property() {
    bool negated = peek(1) == 'P';
    if (peek(2) != '{') return refuse("a property without braces");
    const size_t end = pattern_.find('}', at_);
    if (end == pattern_.npos || end - at_ > 64) return refuse("a property without an end");
    std::string_view inside = pattern_.substr(at_ + 3, end - at_ - 3);
    if (inside.starts_with('^')) {
      negated = !negated;
      inside.remove_prefix(1);
    }
    std::string name, folded;
    for (const char c : inside) {
      if (!is_alpha(c) && !is_digit(c) && c != '_' && c != '-' && c != ' ')
        return refuse(fmt::format("the property \"{}\"", inside));
      if (c == '_' || c == '-' || c == ' ') continue;
      name += c;
      folded += static_cast<char>(is_alpha(c) ? c | 0x20 : c);
    }
    const bool cased = folded == "lu" || folded == "ll" || folded == "lt" ||
                       folded == "uppercase" || folded == "lowercase";
    if (caseless_.back() && cased) return refuse("a case property under (?i)");
    const auto among = [&](const auto& list) {
      return std::find(list.begin(), list.end(), folded) != list.end();
    };
    if (among(kCategories)) {
      name = folded;
      name[0] -= 'a' - 'A';
    } else if (!among(kBinaryProperties)) {
      name = "sc:" + name;  // PCRE2 alone would take script extensions
    }
    out_ += fmt::format("\\{}{{{}}}", negated ? 'P' : 'p', name);
    at_ = end + 1;
    return {};
  }

  Status escape(bool in_class) {
    const char c = peek(1);
    const auto emit = [&](std::string_view text) {
      out_ += text;
      at_ += 2;
      return Status();
    };
    const auto set = [&](std::string_view inside) {
      return emit(in_class ? std::string(inside) : fmt::format("[{}]", inside));
    };
    switch (c) {
      case 's':
        return set(kSpace);
      case 'S':
        return set(kNotSpace);
      case 'd':
        return emit("\\p{Nd}");
      case 'D':
        return emit("\\P{Nd}");
      case 'w':
        return set(in_class ? kWord : std::string(kWord) + kMoreWord);
      case 'W':
        if (in_class) return refuse("\\W inside a class");
        return emit(fmt::format("[^{}{}]", kWord, kMoreWord));
      case 'n':
        return emit("\\x{a}");
      case 'r':
        return emit("\\x{d}");
      case 't':
        return emit("\\x{9}");
      case 'f':
        return emit("\\x{c}");
      case 'v':
        return emit("\\x{b}");
      case 'a':
        return emit("\\x{7}");
      case 'e':
        return emit("\\x{1b}");
      case 'p':
      case 'P':
        return property();
      case 'u':
        return code_point(at_ + 2, 4, false);
      case 'x':
        if (peek(2) == '{') return code_point(at_ + 3, 8, true);
        return code_point(at_ + 2, 2, false);
      case 'A':
      case 'z':
        if (in_class) break;
        return emit(c == 'A' ? "\\A" : "\\z");
      case '\0':
        break;
      default:
        if (!is_alpha(c) && !is_digit(c) && static_cast<unsigned char>(c) < 0x80) {
          copy(2);
          return {};
        }
    }
    return refuse(fmt::format("the escape \"{}\"", repair_utf8(pattern_.substr(at_, 2))));
  }

  Status character_class() {
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') return refuse("an empty class");
    while (at_ < pattern_.size() && peek() != ']') {
      if (peek() == '\\') {
        VIDERE_RETURN_IF_ERROR(escape(true));
      } else if (peek() == '[') {
        return refuse("a class inside a class");
      } else if (starts("&&")) {
        return refuse("an intersection of classes");
      } else if (static_cast<unsigned char>(peek()) >= 0x80 && caseless_.back()) {
        return refuse("a letter outside ASCII under (?i)");
      } else {
        copy(1);
      }
    }
    if (at_ == pattern_.size()) return refuse("a class without an end");
    copy(1);
    return {};
  }

  std::string_view pattern_, what_;
  size_t at_ = 0;
  std::string out_;
  std::vector<bool> caseless_ = {false};  // one a group
};

pcre2_code* code_of(void* code) { return static_cast<pcre2_code*>(code); }

}  // namespace

struct RegexScratch::Parts {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = pcre2_jit_stack_create(32 << 10, kJitStackBytes, nullptr);
};

RegexScratch::RegexScratch() : parts_(std::make_unique<Parts>()) {
  VIDERE_CHECK(parts_->data && parts_->context) << "PCRE2 got no memory";
  pcre2_set_match_limit(parts_->context, kMatchLimit);
  pcre2_set_depth_limit(parts_->context, kDepthLimit);
  pcre2_set_heap_limit(parts_->context, kHeapLimitKib);
  if (parts_->stack) pcre2_jit_stack_assign(parts_->context, nullptr, parts_->stack);
}

RegexScratch::~RegexScratch() {
  pcre2_match_data_free(parts_->data);
  pcre2_match_context_free(parts_->context);
  pcre2_jit_stack_free(parts_->stack);
}

Result<std::string> translate_oniguruma(std::string_view pattern, std::string_view what) {
  return Translator(pattern, what).run();
}

Result<Regex> Regex::compile(const std::string& pattern, std::string_view what) {
  pcre2_compile_context* context = pcre2_compile_context_create(nullptr);
  pcre2_set_newline(context, PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, context);
  pcre2_compile_context_free(context);
  if (!code) {
    return invalid_model("{} is no valid regular expression (error {} at byte {} of \"{}\")", what,
                         error, offset, repair_utf8(std::string_view(pattern).substr(0, 200)));
  }
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // without it, find() is slower and equal
  return Regex(code);
}

Result<Regex> Regex::oniguruma(std::string_view pattern, std::string_view what) {
  VIDERE_ASSIGN_OR_RETURN(const std::string translated, translate_oniguruma(pattern, what));
  return compile(translated, what);
}

Result<Regex> Regex::literal(std::string_view text, std::string_view what) {
  if (text.size() > kMaxPatternBytes || !is_valid_utf8(text)) {
    return invalid_model("{} is {} bytes long; expected valid UTF-8 of at most {}", what,
                         text.size(), kMaxPatternBytes);
  }
  std::string pattern;
  for (const char c : text) {
    if (!is_alpha(c) && !is_digit(c) && static_cast<unsigned char>(c) < 0x80) {
      pattern += fmt::format("\\x{{{:x}}}", static_cast<unsigned>(c));
    } else {
      pattern += c;
    }
  }
  return compile(pattern, what);
}

Regex Regex::built_in(std::string_view pattern) {
  auto regex = compile(std::string(pattern), "built-in pattern");
  VIDERE_CHECK(regex.ok()) << pattern;
  return std::move(regex).value();
}

Regex::~Regex() { pcre2_code_free(code_of(code_)); }
Regex::Regex(Regex&& other) noexcept : code_(std::exchange(other.code_, nullptr)) {}
Regex& Regex::operator=(Regex&& other) noexcept {
  std::swap(code_, other.code_);
  return *this;
}

Regex::Outcome Regex::find(std::string_view text, size_t from, RegexScratch& scratch,
                           RegexMatch& match) const {
  auto& parts = scratch.parts();
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int rc = pcre2_match(code_of(code_), subject, text.size(), from, PCRE2_NO_UTF_CHECK, parts.data,
                       parts.context);
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
    rc = pcre2_match(code_of(code_), subject, text.size(), from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                     parts.data, parts.context);
  }
  if (rc == PCRE2_ERROR_NOMATCH) return Outcome::kNone;
  if (rc < 0) return Outcome::kOverLimit;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(parts.data);
  match = {offsets[0], offsets[1]};
  return Outcome::kMatch;
}

}  // namespace videre
