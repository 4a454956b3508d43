#include "engine/scheduler.h"

#include <algorithm>

namespace videre {

std::vector<std::shared_ptr<Sequence>> sampled_sequences(const StepPlan& plan) {
  std::vector<std::shared_ptr<Sequence>> sequences;
  for (const BatchRow& row : plan.rows) {
    if (!row.sample) continue;
    sequences.push_back(row.sequence);
    sequences.insert(sequences.end(), row.forks.begin(), row.forks.end());
  }
  return sequences;
}

StepPlan Scheduler::plan() {
  StepPlan plan;
  int64_t budget = options_.max_num_batched_tokens;
  for (const auto& sequence : running_) release_spans(*sequence, sequence->num_computed);

  bool preempted = false;
  for (size_t i = 0; i < running_.size() && budget > 0; ++i) {
    const std::shared_ptr<Sequence> sequence = running_[i];
    const int64_t want = wanted(*sequence, budget);
    if (want == 0) continue;
    // Those behind give way, the last admitted first, and at last the sequence itself.
    while (i < running_.size() && !cache_->grow(sequence->memory, sequence->num_computed + want)) {
      preempt_last();
      preempted = true;
    }
    if (i == running_.size()) break;
    schedule(sequence, want, plan);
    budget -= want;
  }

  // A step that had to take memory away admits nobody.
  for (size_t i = 0; !preempted && i < waiting_.size() && budget > 0;) {
    if (running_.size() + forked_.size() >= static_cast<size_t>(options_.max_num_seqs)) break;
    const std::shared_ptr<Sequence> sequence = waiting_[i];
    if (sequence->num_pending > 0) break;  // it was preempted; its last token is on the way
    if (waits_for_sibling(*sequence)) {
      ++i;
      continue;
    }
    const int64_t known = sequence->length();
    if (!options_.enable_chunked_prefill && known > budget) break;
    // The whole of it must fit now, so that long prompts do not push each other out half-way.
    if (cache_->blocks_for(known) > cache_->blocks().num_free()) break;
    if (!cache_->reserve(sequence->memory)) break;
    waiting_.erase(waiting_.begin() + static_cast<int64_t>(i));
    running_.push_back(sequence);
    const int64_t want = wanted(*sequence, budget);
    if (want == 0) continue;  // its media are not encoded yet
    VIDERE_CHECK(cache_->grow(sequence->memory, want));
    schedule(sequence, want, plan);
    budget -= want;
  }
  running_.insert(running_.end(), forked_.begin(), forked_.end());
  forked_.clear();
  plan.encodes = encoder_->next_slices(options_.max_tiles_per_step);
  return plan;
}

int64_t Scheduler::wanted(Sequence& sequence, int64_t budget) {
  if (at_limit(sequence, options_.max_model_len)) return 0;  // ends when its tokens are collected
  const int64_t missing = sequence.length() - sequence.num_computed;
  const int64_t offered = std::min(missing, budget);
  bool encoding = false;
  const int64_t want = limit_by_media(sequence, offered, encoding);
  if (want == missing || want == 0) return want;
  // A cut at a multiple of the scan's chunk changes no bit of the result. Before media that are
  // still being encoded there is time to wait for one; a budget is used up as it is.
  const int64_t end = sequence.num_computed + want;
  const int64_t aligned = end / options_.chunk_size * options_.chunk_size;
  if (aligned > sequence.num_computed) return aligned - sequence.num_computed;
  return encoding ? 0 : want;
}

// Asks for the rows of media that come next, and cuts `want` before those that are not there.
// `encoding`: the cut is before an item whose rows are on their way.
int64_t Scheduler::limit_by_media(Sequence& sequence, int64_t want, bool& encoding) {
  int64_t end = sequence.num_computed + want;
  const int64_t horizon = sequence.num_computed + 2 * options_.max_num_batched_tokens;
  for (SpanProgress& progress : sequence.spans) {
    const MediaSpan& span = *progress.span;
    if (span.begin + span.length <= sequence.num_computed) continue;
    if (span.begin >= horizon) break;
    if (!progress.item) progress.item = encoder_->hold(span);
    if (progress.item && progress.item->ready && progress.row_of.empty()) {
      lay_out(sequence, progress);
    }
    if (progress.row_of.empty() && span.begin < end) {
      end = span.begin;
      encoding = progress.item != nullptr;
    }
    // Sequences hold items in order only: then whoever holds one can use it up, and none of them
    // waits for another for ever.
    if (!progress.item) break;
  }
  return std::max<int64_t>(0, end - sequence.num_computed);
}

void Scheduler::lay_out(Sequence& sequence, SpanProgress& progress) const {
  const MediaSpan& span = *progress.span;
  if (span.media.kind == ContentPart::Kind::kVideo) {
    const std::vector<int32_t> ids =
        layout_video_span(span, progress.item->rows_per_frame, options_.prompt);
    VIDERE_CHECK_EQ(static_cast<int64_t>(ids.size()), span.length);
    std::copy(ids.begin(), ids.end(), sequence.tokens.begin() + span.begin);
  }
  progress.row_of.resize(span.length);
  int32_t row = 0;
  for (int64_t i = 0; i < span.length; ++i) {
    const bool media = sequence.tokens[span.begin + i] == options_.prompt.image_token_id;
    progress.row_of[i] = media ? progress.item->row(row++) : -1;
  }
  VIDERE_CHECK_EQ(row, span.num_rows);
}

void Scheduler::release_spans(Sequence& sequence, int64_t up_to) {
  for (SpanProgress& progress : sequence.spans) {
    if (!progress.item || progress.span->begin + progress.span->length > up_to) continue;
    encoder_->release(progress.item);
    progress.item = nullptr;
    progress.row_of = {};
  }
}

void Scheduler::preempt_last() {
  const std::shared_ptr<Sequence> victim = running_.back();
  running_.pop_back();
  release_spans(*victim, victim->num_prompt);
  cache_->release(victim->memory);
  victim->num_computed = 0;
  waiting_.push_front(victim);
  ++num_preemptions_;
}

// A choice that has computed nothing waits while another of its request computes the same prompt.
bool Scheduler::waits_for_sibling(const Sequence& sequence) const {
  if (sequence.sampling_n() == 1 || sequence.num_outputs() > 0) return false;
  return std::any_of(running_.begin(), running_.end(), [&](const auto& other) {
    return other->request == sequence.request && other->num_computed < other->num_prompt;
  });
}

void Scheduler::schedule(const std::shared_ptr<Sequence>& sequence, int64_t want, StepPlan& plan) {
  BatchRow row;
  row.sequence = sequence;
  row.begin = sequence->num_computed;
  row.count = want;
  sequence->num_computed += want;
  row.sample = sequence->num_computed == sequence->length();
  if (row.sample) {
    if (sequence->num_computed == sequence->num_prompt && sequence->sampling_n() > 1) {
      fork_siblings(row, plan);
    }
    ++sequence->num_pending;
  }
  plan.num_tokens += want;
  plan.rows.push_back(std::move(row));
}

// Choices that still wait take over the prompt's memory instead of computing it again. Those for
// which there is no room stay in the queue and compute it.
void Scheduler::fork_siblings(BatchRow& row, StepPlan& plan) {
  const Sequence& parent = *row.sequence;
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    const std::shared_ptr<Sequence> child = *it;
    const bool forks = child->request == parent.request && child->num_outputs() == 0;
    std::optional<BlockCopy> copy;
    if (!forks || running_.size() + forked_.size() >= static_cast<size_t>(options_.max_num_seqs) ||
        !cache_->fork(parent.memory, parent.num_prompt, child->memory, copy)) {
      ++it;
      continue;
    }
    it = waiting_.erase(it);
    if (copy) plan.block_copies.push_back(*copy);
    child->tokens = parent.tokens;  // clips are laid out by now
    child->num_computed = parent.num_prompt;
    child->num_pending = 1;
    forked_.push_back(child);
    row.forks.push_back(child);
  }
}

void Scheduler::finish(const std::shared_ptr<Sequence>& sequence) {
  VIDERE_CHECK(!sequence->finished);
  sequence->finished = true;
  release_spans(*sequence, sequence->num_prompt);
  if (std::erase(running_, sequence) == 0) std::erase(waiting_, sequence);
  cache_->release(sequence->memory);
}

std::vector<std::shared_ptr<Sequence>> Scheduler::sequences() const {
  std::vector<std::shared_ptr<Sequence>> all = running_;
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  return all;
}

bool Scheduler::needs_token_values() const {
  return std::any_of(running_.begin(), running_.end(), [](const auto& sequence) {
    return sequence->num_pending > 0 && sequence->sampling().needs_token_values();
  });
}

}  // namespace videre
