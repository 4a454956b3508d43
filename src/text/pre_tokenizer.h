// The steps that cut text into the pieces BPE works on, as "pre_tokenizer" of tokenizer.json lists
// them: splits by pattern, then ByteLevel.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "text/regex.h"

namespace videre {

/// Immutable once read.
class PreTokenizer {
 public:
  using Sink = std::function<void(std::string_view piece)>;

  /// Errors: kInvalidModel names a kind of step that Videre does not run, or a bad pattern.
  static Result<PreTokenizer> read(const json::value& pre_tokenizer);

  /// Calls `sink` for each piece of `text` (valid UTF-8), in order. A pattern that goes over its
  /// limit leaves the rest of the text in one piece and returns false.
  bool run(std::string_view text, RegexScratch& scratch, const Sink& sink) const;

 private:
  enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };
  struct Step {
    std::vector<Regex> pattern;  // one, or none for a prefix space alone
    Behavior behavior = Behavior::kIsolated;
    bool invert = false;
    bool add_prefix_space = false;
  };
  Status read_step(const json::value& value, bool& byte_level);
  bool run_from(size_t step, std::string_view text, RegexScratch& scratch, const Sink& sink) const;

  std::vector<Step> steps_;
};

}  // namespace videre
