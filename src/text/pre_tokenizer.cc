#include "text/pre_tokenizer.h"

#include <algorithm>
#include <string>

#include "base/error.h"

namespace videre {
namespace {

constexpr size_t kMaxSteps = 32;
// ByteLevel's own pattern, GPT-2's.
constexpr std::string_view kByteLevelPattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

struct Span {
  size_t begin, end;
  bool is_match;
};

// Matches and what lies between them; false when the pattern went over its limit.
bool find_spans(const Regex& pattern, std::string_view text, RegexScratch& scratch,
                const std::function<void(Span)>& sink) {
  size_t done = 0, from = 0;
  bool complete = true;
  while (from <= text.size()) {
    RegexMatch match;
    const auto outcome = pattern.find(text, from, scratch, match);
    complete = outcome != Regex::Outcome::kOverLimit;
    if (outcome != Regex::Outcome::kMatch) break;
    if (match.begin == match.end) {  // cuts nothing off; look behind the next character
      from = match.end + 1;
      while (from < text.size() && (text[from] & 0xC0) == 0x80) ++from;
      if (match.begin > done) sink({done, match.begin, false});
      done = match.begin;
      continue;
    }
    if (match.begin > done) sink({done, match.begin, false});
    sink({match.begin, match.end, true});
    done = from = match.end;
  }
  if (done < text.size()) sink({done, text.size(), false});
  return complete;
}

Result<bool> read_flag(const json::value& step, const char* name, bool otherwise) {
  const json::value* value = json_find(step, name);
  if (!value) return otherwise;
  if (!value->is_bool()) {
    return invalid_model("tokenizer.json: pre_tokenizer's {} is {}; expected true or false", name,
                         to_json(*value).substr(0, 60));
  }
  return value->get_bool();
}

std::string text_of(const json::value* value) {
  return value && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

Result<PreTokenizer> PreTokenizer::read(const json::value& pre_tokenizer) {
  PreTokenizer out;
  bool byte_level = false;
  VIDERE_RETURN_IF_ERROR(out.read_step(pre_tokenizer, byte_level));
  if (!byte_level) {
    return invalid_model(
        "tokenizer.json: pre_tokenizer has no step ByteLevel; Videre reads byte-level BPE only");
  }
  return out;
}

Status PreTokenizer::read_step(const json::value& value, bool& byte_level) {
  const std::string type = text_of(json_find(value, "type"));
  if (steps_.size() >= kMaxSteps)
    return invalid_model("tokenizer.json: pre_tokenizer has more than {} steps", kMaxSteps);
  if (byte_level) {
    return invalid_model("tokenizer.json: pre_tokenizer has a step \"{}\" after ByteLevel", type);
  }
  if (type == "Sequence") {
    const json::value* list = json_find(value, "pretokenizers");
    if (!list || !list->is_array())
      return invalid_model("tokenizer.json: a pre_tokenizer Sequence lacks \"pretokenizers\"");
    for (const json::value& step : list->get_array())
      VIDERE_RETURN_IF_ERROR(read_step(step, byte_level));
    return {};
  }
  Step step;
  if (type == "Split") {
    const json::value* pattern = json_find(value, "pattern");
    const json::value* regex = pattern ? json_find(*pattern, "Regex") : nullptr;
    const json::value* literal = pattern ? json_find(*pattern, "String") : nullptr;
    constexpr const char* kWhat = "tokenizer.json: the pattern of pre_tokenizer Split";
    if (regex && regex->is_string()) {
      VIDERE_ASSIGN_OR_RETURN(Regex compiled, Regex::oniguruma(text_of(regex), kWhat));
      step.pattern.push_back(std::move(compiled));
    } else if (literal && literal->is_string()) {
      VIDERE_ASSIGN_OR_RETURN(Regex compiled, Regex::literal(text_of(literal), kWhat));
      step.pattern.push_back(std::move(compiled));
    } else {
      return invalid_model("{} is neither Regex nor String", kWhat);
    }
    const std::string behavior = text_of(json_find(value, "behavior"));
    if (behavior == "Isolated") {
      step.behavior = Behavior::kIsolated;
    } else if (behavior == "Removed") {
      step.behavior = Behavior::kRemoved;
    } else if (behavior == "MergedWithPrevious") {
      step.behavior = Behavior::kMergedWithPrevious;
    } else if (behavior == "MergedWithNext") {
      step.behavior = Behavior::kMergedWithNext;
    } else if (behavior == "Contiguous") {
      step.behavior = Behavior::kContiguous;
    } else {
      return invalid_model("tokenizer.json: pre_tokenizer Split has the unknown behavior \"{}\"",
                           behavior);
    }
    VIDERE_ASSIGN_OR_RETURN(step.invert, read_flag(value, "invert", false));
  } else if (type == "Digits") {
    VIDERE_ASSIGN_OR_RETURN(const bool single, read_flag(value, "individual_digits", false));
    step.pattern.push_back(Regex::built_in(single ? "\\p{N}" : "\\p{N}+"));
  } else if (type == "ByteLevel") {
    byte_level = true;
    VIDERE_ASSIGN_OR_RETURN(step.add_prefix_space, read_flag(value, "add_prefix_space", true));
    VIDERE_ASSIGN_OR_RETURN(const bool use_regex, read_flag(value, "use_regex", true));
    if (use_regex) {
      VIDERE_ASSIGN_OR_RETURN(Regex compiled, Regex::oniguruma(kByteLevelPattern, "ByteLevel"));
      step.pattern.push_back(std::move(compiled));
    }
    if (!use_regex && !step.add_prefix_space) return {};
  } else {
    return invalid_model(
        "tokenizer.json: pre_tokenizer \"{}\" is not supported; expected Split, Digits, ByteLevel "
        "or a Sequence of them",
        type);
  }
  steps_.push_back(std::move(step));
  return {};
}

bool PreTokenizer::run(std::string_view text, RegexScratch& scratch, const Sink& sink) const {
  return run_from(0, text, scratch, sink);
}

bool PreTokenizer::run_from(size_t index, std::string_view text, RegexScratch& scratch,
                            const Sink& sink) const {
  if (text.empty()) return true;
  if (index == steps_.size()) {
    sink(text);
    return true;
  }
  const Step& step = steps_[index];
  std::string prefixed;
  if (step.add_prefix_space && !text.starts_with(' ')) {
    prefixed.append(" ").append(text);
    text = prefixed;
  }
  bool complete = true;
  const auto pass_on = [&](size_t begin, size_t end) {
    complete &= run_from(index + 1, text.substr(begin, end - begin), scratch, sink);
  };
  if (step.pattern.empty()) {
    pass_on(0, text.size());
    return complete;
  }
  const Regex& pattern = step.pattern.front();
  if (step.behavior == Behavior::kIsolated) {
    return find_spans(pattern, text, scratch,
                      [&](Span span) {
                        if (index + 1 == steps_.size()) {
                          sink(text.substr(span.begin, span.end - span.begin));
                        } else {
                          pass_on(span.begin, span.end);
                        }
                      }) &&
           complete;
  }

  std::vector<Span> spans;
  complete &= find_spans(pattern, text, scratch, [&](Span span) {
    span.is_match ^= step.invert;
    spans.push_back(span);
  });
  if (step.behavior == Behavior::kMergedWithNext) std::reverse(spans.begin(), spans.end());
  std::vector<Span> merged;
  bool previous = false;
  for (const Span& span : spans) {
    bool join = false;
    switch (step.behavior) {
      case Behavior::kRemoved:
        if (span.is_match) continue;
        break;
      case Behavior::kMergedWithPrevious:
      case Behavior::kMergedWithNext:
        join = span.is_match && !previous;
        break;
      case Behavior::kContiguous:
        join = span.is_match == previous;
        break;
      case Behavior::kIsolated:
        break;
    }
    previous = span.is_match;
    if (join && !merged.empty()) {
      merged.back().begin = std::min(merged.back().begin, span.begin);
      merged.back().end = std::max(merged.back().end, span.end);
    } else {
      merged.push_back(span);
    }
  }
  if (step.behavior == Behavior::kMergedWithNext) std::reverse(merged.begin(), merged.end());
  for (const Span& span : merged) pass_on(span.begin, span.end);
  return complete;
}

}  // namespace videre
