#include "engine/generation.h"

#include <algorithm>
#include <iterator>

#include "text/detokenizer.h"

namespace videre {
namespace {

struct Choice {
  Choice(const Tokenizer& tokenizer, const SamplingParams& params)
      : detokenizer(tokenizer, params.skip_special_tokens),
        stops(params.stop, params.include_stop_str_in_output) {}
  Detokenizer detokenizer;
  StopStrings stops;
  int64_t num_tokens = 0;
  bool done = false;
};

class EngineGeneration final : public Generation {
 public:
  EngineGeneration(std::shared_ptr<RequestState> state, std::shared_ptr<const Tokenizer> tokenizer)
      : state_(std::move(state)), tokenizer_(std::move(tokenizer)) {
    const SamplingParams& params = state_->request.sampling;
    for (int i = 0; i < params.n; ++i) choices_.emplace_back(*tokenizer_, params);
  }
  ~EngineGeneration() override {
    state_->set_listener(nullptr);
    if (!done()) state_->cancel();
  }

  Result<std::vector<OutputDelta>> read(std::chrono::milliseconds timeout) override {
    std::vector<TokenEvent> events;
    Error error;
    if (!state_->take(events, timeout, error)) {
      failed_ = true;
      return error;
    }
    if (const auto prompt = state_->taken_prompt()) prompt_ = prompt;
    std::vector<OutputDelta> deltas;
    for (TokenEvent& event : events) {
      Choice& choice = choices_[event.index];
      if (!choice.done) deltas.push_back(advance(choice, event));
    }
    return deltas;
  }

  bool done() const override {
    return failed_ || std::all_of(choices_.begin(), choices_.end(),
                                  [](const Choice& choice) { return choice.done; });
  }
  void set_listener(std::function<void()> on_readable) override {
    state_->set_listener(std::move(on_readable));
  }
  void cancel() override { state_->cancel(); }

  Usage usage() const override {
    Usage usage;
    if (prompt_) usage = prompt_->usage;
    usage.completion_tokens = 0;
    for (const Choice& choice : choices_) usage.completion_tokens += choice.num_tokens;
    return usage;
  }
  const std::string& rendered_prompt() const override {
    static const std::string kNone;
    return prompt_ ? prompt_->rendered : kNone;
  }
  const std::vector<int32_t>& prompt_token_ids() const override {
    static const std::vector<int32_t> kNone;
    return prompt_ ? prompt_->token_ids : kNone;
  }

 private:
  OutputDelta advance(Choice& choice, TokenEvent& event) {
    const SamplingParams& params = state_->request.sampling;
    OutputDelta delta;
    delta.index = event.index;
    delta.finish_reason = event.finish_reason;
    if (event.finish_reason == FinishReason::kAbort) {
      delta.text = choice.stops.push(choice.detokenizer.flush(), false) + choice.stops.flush();
      choice.done = true;
      return delta;
    }
    ++choice.num_tokens;
    delta.token_ids.push_back(event.token.token);
    if (params.num_logprobs >= 0) delta.logprobs.push_back(describe(event.token));

    // EOS is never shown; the token of a stop_token_id only on request.
    const bool stop_token = event.finish_reason == FinishReason::kStop;
    const bool shown =
        !stop_token || (params.include_stop_str_in_output && event.stop_token_id.has_value());
    std::string text;
    if (shown) text = choice.detokenizer.push(event.token.token);
    const bool ends = event.finish_reason != FinishReason::kNone;
    if (ends) text += choice.detokenizer.flush();
    delta.text = choice.stops.push(text, shown && choice.num_tokens > params.min_tokens);
    if (choice.stops.matched()) {
      delta.finish_reason = FinishReason::kStop;
      delta.stop_reason = choice.stops.matched_text();
      choice.done = true;
      if (!ends) state_->stop_choice(event.index);
      return delta;
    }
    if (ends) {
      delta.text += choice.stops.flush();
      if (event.stop_token_id) delta.stop_reason = *event.stop_token_id;
      choice.done = true;
    }
    return delta;
  }

  TokenLogprob describe(const SampledToken& token) const {
    TokenLogprob out{token.token,
                     std::string(tokenizer_->token_bytes(token.token)),
                     token.logprob,
                     token.rank,
                     {}};
    int32_t rank = 0;
    for (const auto& [id, logprob] : token.top_logprobs) {
      out.top.push_back({id, std::string(tokenizer_->token_bytes(id)), logprob, ++rank, {}});
    }
    return out;
  }

  std::shared_ptr<RequestState> state_;
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::vector<Choice> choices_;
  std::shared_ptr<const Prompt> prompt_;
  bool failed_ = false;
};

}  // namespace

Result<std::vector<OutputDelta>> read_all(Generation& generation) {
  std::vector<OutputDelta> choices;
  const auto append = [](auto& to, auto& from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  while (!generation.done()) {
    VIDERE_ASSIGN_OR_RETURN(auto deltas, generation.read(std::chrono::seconds(1)));
    for (OutputDelta& delta : deltas) {
      const auto index = static_cast<size_t>(delta.index);
      while (choices.size() <= index) {
        choices.emplace_back();
        choices.back().index = static_cast<int>(choices.size()) - 1;
      }
      OutputDelta& choice = choices[index];
      choice.text += delta.text;
      append(choice.token_ids, delta.token_ids);
      append(choice.logprobs, delta.logprobs);
      choice.finish_reason = delta.finish_reason;
      choice.stop_reason = std::move(delta.stop_reason);
    }
  }
  return choices;
}

std::shared_ptr<Generation> make_generation(std::shared_ptr<RequestState> state,
                                            std::shared_ptr<const Tokenizer> tokenizer) {
  return std::make_shared<EngineGeneration>(std::move(state), std::move(tokenizer));
}

}  // namespace videre
