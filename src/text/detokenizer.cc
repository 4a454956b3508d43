#include "text/detokenizer.h"

namespace videre {

std::string Detokenizer::push(int32_t id) {
  if (skip_special_tokens_ && tokenizer_->is_special(id)) return {};
  return stream_.push(tokenizer_->token_bytes(id));
}

std::string Detokenizer::flush() { return stream_.flush(); }

StopStrings::StopStrings(std::vector<std::string> stop, bool include_in_output)
    : stop_(std::move(stop)), include_in_output_(include_in_output) {
  for (const std::string& text : stop_) {
    Watch watch;
    watch.failure.resize(text.size());
    for (size_t i = 1, k = 0; i < text.size(); ++i) {
      while (k > 0 && text[i] != text[k]) k = watch.failure[k - 1];
      if (text[i] == text[k]) ++k;
      watch.failure[i] = static_cast<uint32_t>(k);
    }
    watches_.push_back(std::move(watch));
  }
}

std::string StopStrings::push(std::string_view text, bool search) {
  if (matched_) return {};
  std::string shown = std::move(held_);
  held_.clear();
  const size_t old = shown.size();
  shown += text;
  size_t may_match = 0;
  for (size_t i = 0; i < stop_.size(); ++i) {
    const std::string& stop = stop_[i];
    Watch& watch = watches_[i];
    if (stop.empty()) continue;
    for (size_t at = 0; at < text.size(); ++at) {
      while (watch.state > 0 && (watch.state == stop.size() || stop[watch.state] != text[at]))
        watch.state = watch.failure[watch.state - 1];
      if (stop[watch.state] == text[at]) ++watch.state;
      if (watch.state == stop.size() && search) {
        matched_ = i;
        const size_t end = old + at + 1;
        shown.resize(include_in_output_ ? end : end - stop.size());
        return shown;
      }
    }
    const size_t spelled =
        watch.state == stop.size() ? watch.failure[watch.state - 1] : watch.state;
    may_match = std::max(may_match, spelled);
  }
  if (!include_in_output_) {
    held_ = shown.substr(shown.size() - may_match);
    shown.resize(shown.size() - may_match);
  }
  return shown;
}

std::string StopStrings::flush() {
  std::string shown = std::move(held_);
  held_.clear();
  return shown;
}

}  // namespace videre
