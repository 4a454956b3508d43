// An engine without a model, for tests and the bench: the caller pushes each piece of output itself
// (or through `on_submit`), and the books show what was left behind.
#pragma once

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "videre/engine.h"

namespace videre {

struct FakeBooks {
  std::atomic<int64_t> live{0}, aborted{0}, generated{0};
};

class FakeGeneration : public Generation {
 public:
  FakeGeneration(Request asked, std::shared_ptr<FakeBooks> books)
      : request(std::move(asked)), books_(std::move(books)), finished_(request.sampling.n) {
    ++books_->live;
  }
  ~FakeGeneration() override {
    if (!closed_) --books_->live;
  }

  /// Text as one piece with `num_tokens` token ids.
  void push(std::string text, int index = 0, int num_tokens = 1) {
    OutputDelta delta;
    delta.index = index;
    delta.text = std::move(text);
    delta.token_ids.assign(num_tokens, 7);
    push(std::move(delta));
  }
  void finish(int index = 0, FinishReason reason = FinishReason::kStop) {
    OutputDelta delta;
    delta.index = index;
    delta.finish_reason = reason;
    push(std::move(delta));
  }
  void push(OutputDelta delta) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      add(std::move(delta));
    }
    wake();
  }
  void fail(Error error) {
    {
      std::lock_guard lock(mutex_);
      if (closed_) return;
      error_ = std::move(error);
      close();
    }
    wake();
  }

  bool cancelled() const {
    std::lock_guard lock(mutex_);
    return cancelled_;
  }

  Result<std::vector<OutputDelta>> read(std::chrono::milliseconds timeout) override {
    std::unique_lock lock(mutex_);
    if (timeout.count() > 0 && ready_.empty() && !error_) {
      changed_.wait_for(lock, timeout, [this] { return !ready_.empty() || error_; });
    }
    if (error_) return *error_;
    ++num_reads;
    return std::exchange(ready_, {});
  }
  bool done() const override {
    std::lock_guard lock(mutex_);
    return closed_ && ready_.empty();
  }
  void set_listener(std::function<void()> on_readable) override {
    {
      std::lock_guard lock(mutex_);
      listener_ = std::move(on_readable);
    }
    wake();
  }
  void cancel() override {
    {
      std::lock_guard lock(mutex_);
      cancelled_ = true;
      if (closed_) return;
      for (size_t i = 0; i < finished_.size(); ++i) {
        if (finished_[i]) continue;
        OutputDelta delta;
        delta.index = static_cast<int>(i);
        delta.finish_reason = FinishReason::kAbort;
        add(std::move(delta));
      }
      ++books_->aborted;
    }
    wake();
  }
  Usage usage() const override {
    std::lock_guard lock(mutex_);
    return usage_;
  }
  const std::string& rendered_prompt() const override { return rendered_; }
  const std::vector<int32_t>& prompt_token_ids() const override { return prompt_ids_; }

  void set_usage(const Usage& usage) {
    std::lock_guard lock(mutex_);
    usage_ = usage;
  }

  const Request request;
  std::atomic<int> num_reads{0};

 private:
  void add(OutputDelta delta) {
    usage_.completion_tokens += static_cast<int64_t>(delta.token_ids.size());
    books_->generated += static_cast<int64_t>(delta.token_ids.size());
    if (delta.finish_reason != FinishReason::kNone) finished_.at(delta.index) = true;
    ready_.push_back(std::move(delta));
    if (std::find(finished_.begin(), finished_.end(), false) == finished_.end()) close();
    changed_.notify_all();
  }
  void close() {
    closed_ = true;
    --books_->live;
    changed_.notify_all();
  }
  void wake() {
    std::function<void()> listener;
    {
      std::lock_guard lock(mutex_);
      listener = listener_;
    }
    if (listener) listener();
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::shared_ptr<FakeBooks> books_;
  std::vector<OutputDelta> ready_;
  std::vector<bool> finished_;
  std::optional<Error> error_;
  std::function<void()> listener_;
  bool closed_ = false, cancelled_ = false;
  Usage usage_{.prompt_tokens = 11, .text_tokens = 11};
  std::string rendered_ = "rendered";
  std::vector<int32_t> prompt_ids_;
};

class FakeEngine : public Engine {
 public:
  FakeEngine() {
    info_.name = "fake";
    info_.max_model_len = 4096;
    info_.device = "cpu";
    plan_.block_size = 16;
    plan_.num_kv_blocks = 100;
  }
  ~FakeEngine() override { shutdown(std::chrono::milliseconds(0)); }

  /// Runs inside submit, on the caller's thread.
  std::function<void(FakeGeneration&)> on_submit;
  std::optional<Error> submit_error;
  std::atomic<bool> is_healthy{true};

  /// The `index`th request; waits up to 5 s for it, then null.
  std::shared_ptr<FakeGeneration> generation(size_t index) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, std::chrono::seconds(5), [&] { return generations_.size() > index; });
    return generations_.size() > index ? generations_[index] : nullptr;
  }
  size_t num_submitted() const {
    std::lock_guard lock(mutex_);
    return generations_.size();
  }
  /// Lets go of finished requests, so that a long run does not keep them.
  void forget() {
    std::lock_guard lock(mutex_);
    generations_.clear();
  }
  FakeBooks& books() { return *books_; }

  Result<std::shared_ptr<Generation>> submit(Request request) override {
    if (submit_error) return *submit_error;
    auto made = std::make_shared<FakeGeneration>(std::move(request), books_);
    {
      std::lock_guard lock(mutex_);
      generations_.push_back(made);
    }
    changed_.notify_all();
    if (on_submit) on_submit(*made);
    return std::shared_ptr<Generation>(std::move(made));
  }
  Result<PromptPlan> plan(const Request&, bool) override { return PromptPlan{}; }
  std::vector<int32_t> tokenize(const std::string&, bool) const override { return {}; }
  std::string detokenize(const std::vector<int32_t>&, bool) const override { return ""; }
  SamplingParams default_sampling() const override { return {}; }
  void reset_mm_cache() override {}
  const ModelInfo& info() const override { return info_; }
  const MemoryPlan& memory_plan() const override { return plan_; }
  EngineStats stats() const override {
    EngineStats stats;
    stats.num_running = books_->live;
    stats.kv_blocks_used = books_->live;
    stats.kv_blocks_total = 100;
    stats.state_slots_used = books_->live;
    stats.state_slots_total = 10;
    stats.generation_tokens = books_->generated;
    stats.finished_abort = books_->aborted;
    return stats;
  }
  bool healthy() const override { return is_healthy; }
  void shutdown(std::chrono::milliseconds timeout) override {
    const auto end = std::chrono::steady_clock::now() + timeout;
    while (books_->live > 0 && std::chrono::steady_clock::now() < end) {
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    std::vector<std::shared_ptr<FakeGeneration>> left;
    {
      std::lock_guard lock(mutex_);
      left = generations_;
    }
    for (const auto& generation : left) generation->cancel();
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::shared_ptr<FakeGeneration>> generations_;
  std::shared_ptr<FakeBooks> books_ = std::make_shared<FakeBooks>();
  ModelInfo info_;
  MemoryPlan plan_;
};

}  // namespace videre
