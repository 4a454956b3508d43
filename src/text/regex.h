// Regular expressions of tokenizer.json on PCRE2's JIT. The files mean Oniguruma's Ruby syntax;
// what reads differently there is translated, what cannot be is refused.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "videre/result.h"

namespace videre {

struct RegexMatch {
  size_t begin = 0, end = 0;
};

/// PCRE2's working memory; one thread at a time, any regex.
class RegexScratch {
 public:
  RegexScratch();
  ~RegexScratch();
  RegexScratch(const RegexScratch&) = delete;
  RegexScratch& operator=(const RegexScratch&) = delete;

  struct Parts;
  Parts& parts() { return *parts_; }

 private:
  std::unique_ptr<Parts> parts_;
};

/// Immutable; any thread may match, each with a scratch of its own.
class Regex {
 public:
  enum class Outcome { kMatch, kNone, kOverLimit };

  /// `what` names the pattern's place in errors.
  static Result<Regex> oniguruma(std::string_view pattern, std::string_view what);
  /// Matches `text` itself.
  static Result<Regex> literal(std::string_view text, std::string_view what);
  /// A pattern of our own, in PCRE2's syntax; aborts when it is wrong.
  static Regex built_in(std::string_view pattern);

  ~Regex();
  Regex(Regex&& other) noexcept;
  Regex& operator=(Regex&& other) noexcept;

  /// The first match at or after `from` in `text`, which must be valid UTF-8.
  Outcome find(std::string_view text, size_t from, RegexScratch& scratch, RegexMatch& match) const;

 private:
  explicit Regex(void* code) : code_(code) {}
  static Result<Regex> compile(const std::string& pattern, std::string_view what);
  void* code_ = nullptr;
};

/// The pattern in PCRE2's syntax.
Result<std::string> translate_oniguruma(std::string_view pattern, std::string_view what);

}  // namespace videre
