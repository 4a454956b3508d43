#include "engine/engine_core.h"

#include <algorithm>

#include "base/error.h"

namespace videre {
namespace {

bool contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

}  // namespace

EngineCore::EngineCore(const CoreOptions& options, Runner* runner)
    : options_(options),
      runner_(runner),
      cache_(options.num_blocks, options.block_size, options.num_slots),
      encoder_(options.encoder_rows),
      scheduler_(options.scheduler, &cache_, &encoder_) {
  update_stats();
}

std::vector<std::shared_ptr<Sequence>> EngineCore::add(
    const std::shared_ptr<RequestState>& request) {
  const Prompt& prompt = *request->prompt;
  counts_.prompt_tokens += prompt.usage.prompt_tokens;
  std::vector<std::shared_ptr<Sequence>> choices;
  for (int index = 0; index < request->request.sampling.n; ++index) {
    auto sequence = std::make_shared<Sequence>();
    sequence->request = request;
    sequence->index = index;
    sequence->id = next_id_++;
    sequence->tokens = prompt.token_ids;
    sequence->num_prompt = static_cast<int64_t>(prompt.token_ids.size());
    for (const MediaSpan& span : prompt.media) sequence->spans.push_back({&span, nullptr, {}});
    if (request->sampling.has_penalties()) {
      for (const int32_t token : prompt.token_ids) count_for_penalties(*sequence, token, false);
    }
    scheduler_.add(sequence);
    choices.push_back(std::move(sequence));
  }
  return choices;
}

bool EngineCore::step() {
  drop_stopped();
  if (scheduler_.needs_token_values()) {
    while (!in_flight_.empty()) collect();
  }
  const int64_t preemptions = scheduler_.num_preemptions();
  StepPlan plan = scheduler_.plan();
  const bool launched = !plan.empty(), waiting = !in_flight_.empty();
  if (launched) {
    runner_->launch(plan);
    in_flight_.push_back(std::move(plan));
    ++counts_.num_steps;
  }
  // The device runs this step while the values of the one before are read.
  const size_t depth = options_.async_scheduling && launched ? 1 : 0;
  while (in_flight_.size() > depth) collect();
  update_stats();
  // A plan may only have taken memory away, for the next one to use.
  return launched || waiting || scheduler_.num_preemptions() > preemptions;
}

void EngineCore::drop_stopped() {
  for (const auto& sequence : scheduler_.sequences()) {
    if (sequence->request->cancelled()) {
      sequence->request->push({sequence->index, {}, FinishReason::kAbort, std::nullopt});
      finish(sequence, FinishReason::kAbort);
    } else if (sequence->request->choice_stopped(sequence->index)) {
      finish(sequence, FinishReason::kStop);  // the reader has said so itself
    }
  }
}

void EngineCore::collect() {
  const StepPlan plan = std::move(in_flight_.front());
  in_flight_.pop_front();
  std::vector<SampledToken> tokens = runner_->collect();
  const auto sequences = sampled_sequences(plan);
  VIDERE_CHECK_EQ(tokens.size(), sequences.size());
  for (size_t i = 0; i < sequences.size(); ++i) accept(sequences[i], std::move(tokens[i]));
}

// A token's value has arrived: it may end its sequence. What comes after that is not read.
void EngineCore::accept(const std::shared_ptr<Sequence>& sequence, SampledToken token) {
  --sequence->num_pending;
  if (sequence->finished) return;
  if (token.token < 0) {
    fail(sequence, internal_error("the model's output is not a number; the request was ended"));
    return;
  }
  const ResolvedSampling& sampling = sequence->sampling();
  const int32_t id = token.token;
  sequence->tokens.push_back(id);
  if (sampling.has_penalties()) count_for_penalties(*sequence, id, true);
  ++counts_.generation_tokens;
  const int64_t length = static_cast<int64_t>(sequence->tokens.size());
  const int64_t num_outputs = length - sequence->num_prompt;
  TokenEvent event{sequence->index, std::move(token), FinishReason::kNone, std::nullopt};
  if (num_outputs >= sampling.min_tokens) {
    if (contains(sampling.eos_ids, id)) {
      event.finish_reason = FinishReason::kStop;
      if (id != sampling.primary_eos_id) event.stop_token_id = id;
    } else if (contains(sampling.stop_token_ids, id)) {
      event.finish_reason = FinishReason::kStop;
      event.stop_token_id = id;
    }
  }
  if (event.finish_reason == FinishReason::kNone &&
      (num_outputs >= sampling.max_tokens || length >= options_.scheduler.max_model_len)) {
    event.finish_reason = FinishReason::kLength;
  }
  const FinishReason reason = event.finish_reason;
  // Memory first: whoever reads the last token finds it given back.
  if (reason != FinishReason::kNone) {
    finish(sequence, reason);
    update_stats();
  }
  sequence->request->push(std::move(event));
}

void EngineCore::finish(const std::shared_ptr<Sequence>& sequence, FinishReason reason) {
  scheduler_.finish(sequence);
  switch (reason) {
    case FinishReason::kStop:
      ++counts_.finished_stop;
      break;
    case FinishReason::kLength:
      ++counts_.finished_length;
      break;
    case FinishReason::kError:
      ++counts_.finished_error;
      break;
    default:
      ++counts_.finished_abort;
  }
}

void EngineCore::fail(const std::shared_ptr<Sequence>& sequence, const Error& error) {
  const auto request = sequence->request;
  for (const auto& other : scheduler_.sequences()) {
    if (other->request == request) finish(other, FinishReason::kError);
  }
  update_stats();
  request->fail(error);
}

void EngineCore::abort_all(const Error* error) {
  for (const auto& sequence : scheduler_.sequences()) {
    if (sequence->finished) continue;
    if (error) {
      fail(sequence, *error);
      continue;
    }
    finish(sequence, FinishReason::kAbort);
    sequence->request->push({sequence->index, {}, FinishReason::kAbort, std::nullopt});
  }
  update_stats();
}

void EngineCore::update_stats() {
  counts_.num_running = scheduler_.num_running();
  counts_.num_waiting = scheduler_.num_waiting();
  counts_.num_preemptions = scheduler_.num_preemptions();
  counts_.kv_blocks_total = cache_.blocks().num_total();
  counts_.kv_blocks_used = counts_.kv_blocks_total - cache_.blocks().num_free();
  counts_.state_slots_total = cache_.slots().num_total();
  counts_.state_slots_used = counts_.state_slots_total - cache_.slots().num_free();
  counts_.encoder_cache_queries = encoder_.num_queries();
  counts_.encoder_cache_hits = encoder_.num_hits();
  const std::lock_guard lock(stats_mutex_);
  stats_ = counts_;
}

EngineStats EngineCore::stats() const {
  const std::lock_guard lock(stats_mutex_);
  return stats_;
}

}  // namespace videre
