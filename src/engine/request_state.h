// What a request's threads share: the request and its prompt, the channel on which the engine
// thread hands tokens to the reader, and the flags by which the reader stops the work.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "backend/sampling.h"
#include "prompt/prompt.h"
#include "videre/engine.h"

namespace videre {

/// Sampling parameters with every default filled in.
struct ResolvedSampling {
  float temperature = 1, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int64_t max_tokens = 0, min_tokens = 0;
  uint64_t seed = 0;  // of choice 0; choice i uses seed + i
  int32_t num_logprobs = -1;
  std::vector<int32_t> eos_ids;  // end without being shown; empty with ignore_eos
  int32_t primary_eos_id = -1;   // the one whose stop_reason is null
  std::vector<int32_t> stop_token_ids;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;
  std::vector<std::vector<int32_t>> bad_words;  // as token ids

  bool has_penalties() const {
    return repetition_penalty != 1 || presence_penalty != 0 || frequency_penalty != 0;
  }
  /// Whether the next step needs the values of tokens sampled before, not only their number.
  bool needs_token_values() const { return has_penalties() || !bad_words.empty(); }
};

struct TokenEvent {
  int index = 0;  // of the choice
  SampledToken token;
  FinishReason finish_reason = FinishReason::kNone;
  std::optional<int32_t> stop_token_id;  // for kStop on a token other than the primary EOS
};

class RequestState {
 public:
  explicit RequestState(Request request)
      : request(std::move(request)),
        stopped_(new std::atomic<bool>[std::max(1, this->request.sampling.n)] {}) {}

  const Request request;
  // Written by the preparation pool, read by the engine thread afterwards.
  std::shared_ptr<const Prompt> prompt;
  ResolvedSampling sampling;

  // Reader's side.
  void set_listener(std::function<void()> listener);
  /// Waits up to `timeout` for something, then takes everything. False once the request has failed
  /// and its events are taken: `error` says why.
  bool take(std::vector<TokenEvent>& events, std::chrono::milliseconds timeout, Error& error);
  std::shared_ptr<const Prompt> taken_prompt() const;
  /// The reader needs no more of this choice (a stop string), or of any (cancel).
  void stop_choice(int index) { stopped_[index].store(true, std::memory_order_release); }
  void cancel() { cancelled_.store(true, std::memory_order_release); }

  // Engine's side.
  bool choice_stopped(int index) const { return stopped_[index].load(std::memory_order_acquire); }
  bool cancelled() const { return cancelled_.load(std::memory_order_acquire); }
  const std::atomic<bool>* cancel_flag() const { return &cancelled_; }
  void publish_prompt();
  void push(TokenEvent event);
  void fail(Error error);

 private:
  void notify();

  std::unique_ptr<std::atomic<bool>[]> stopped_;  // [n]
  std::atomic<bool> cancelled_{false};
  mutable std::mutex mutex_;
  std::condition_variable arrived_;
  std::vector<TokenEvent> events_;
  std::shared_ptr<const Prompt> published_prompt_;
  std::optional<Error> error_;
  std::function<void()> listener_;
};

}  // namespace videre
