// The engine: preparation pool, one thread that steps, and the doors for all others.

#include "videre/engine.h"

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "engine/engine_core.h"
#include "engine/engine_parts.h"
#include "engine/generation.h"
#include "engine/prepare.h"

namespace videre {
namespace {

constexpr int kWaitingPerSeq = 4;  // --max-waiting-requests by default, times max_num_seqs

class EngineImpl final : public Engine {
 public:
  EngineImpl(EngineParts parts, const EngineOptions& options)
      : options_(options),
        parts_(std::move(parts)),
        preparer_(parts_.loaded, options, parts_.plan.max_model_len, parts_.encoder_rows, &pool(),
                  make_fetcher(fetch_options(options))) {
    max_waiting_ = options.max_waiting_requests > 0
                       ? options.max_waiting_requests
                       : static_cast<int>(kWaitingPerSeq * parts_.plan.max_num_seqs);
    thread_ = std::thread([this] { run(); });
  }
  ~EngineImpl() override {
    shutdown(std::chrono::milliseconds(0));
    pool_.reset();  // its tasks use what follows
  }

  Result<std::shared_ptr<Generation>> submit(Request request) override;
  Result<PromptPlan> plan(const Request& request, bool template_only) override;

  std::vector<int32_t> tokenize(const std::string& text, bool add_special_tokens) const override {
    return parts_.loaded.tokenizer->encode(text, add_special_tokens);
  }
  std::string detokenize(const std::vector<int32_t>& token_ids,
                         bool skip_special_tokens) const override {
    return parts_.loaded.tokenizer->decode(token_ids, skip_special_tokens);
  }
  SamplingParams default_sampling() const override {
    const Config::Generation& generation = parts_.loaded.config.generation;
    SamplingParams out;
    out.temperature = generation.temperature;
    out.top_p = generation.top_p;
    out.top_k = generation.top_k;
    out.min_p = generation.min_p;
    out.repetition_penalty = generation.repetition_penalty;
    out.max_tokens = generation.max_new_tokens;
    return out;
  }
  const ModelInfo& info() const override { return parts_.loaded.info; }
  const MemoryPlan& memory_plan() const override { return parts_.plan; }
  EngineStats stats() const override {
    EngineStats stats = parts_.core->stats();
    stats.device_memory_change =
        parts_.loaded.backend->memory().changed;  // may be asked from any thread
    const std::lock_guard lock(mutex_);
    stats.num_preparing = num_preparing_;
    stats.num_waiting += static_cast<int64_t>(incoming_.size());
    stats.finished_abort += num_aborted_early_;
    stats.finished_error += num_failed_early_;
    return stats;
  }
  bool healthy() const override { return healthy_; }
  void reset_mm_cache() override {
    preparer_.reset_cache();
    forget_media_ = true;
  }
  void shutdown(std::chrono::milliseconds timeout) override;

 private:
  TaskPool& pool() {
    if (!pool_) pool_ = std::make_unique<TaskPool>(options_.media_threads);
    return *pool_;
  }
  static Error failed() {
    return internal_error("the engine has failed and ended its requests; its log says why");
  }
  void prepare(const std::shared_ptr<RequestState>& request);
  void run();

  EngineOptions options_;
  EngineParts parts_;
  std::unique_ptr<TaskPool> pool_;
  Preparer preparer_;
  int max_waiting_ = 0;

  mutable std::mutex mutex_;
  std::condition_variable wake_;                         // of the engine thread
  std::condition_variable settled_;                      // for shutdown: work has ended
  std::vector<std::shared_ptr<RequestState>> incoming_;  // prepared
  std::vector<std::weak_ptr<RequestState>> preparing_;
  int num_preparing_ = 0;
  int64_t num_aborted_early_ = 0, num_failed_early_ = 0;
  bool accepting_ = true, stop_ = false, busy_ = false;
  std::atomic<bool> healthy_{true}, forget_media_{false};
  std::mutex shutdown_mutex_;
  std::thread thread_;
};

Result<std::shared_ptr<Generation>> EngineImpl::submit(Request request) {
  VIDERE_RETURN_IF_ERROR(preparer_.check(request, false));
  auto state = std::make_shared<RequestState>(std::move(request));
  {
    const std::lock_guard lock(mutex_);
    if (!accepting_ || !healthy_) {
      return make_error(ErrorCode::kUnavailable, "", "the engine {}",
                        healthy_ ? "is shutting down" : "has failed; restart it");
    }
    const int64_t waiting =
        num_preparing_ + static_cast<int64_t>(incoming_.size()) + parts_.core->stats().num_waiting;
    if (waiting >= max_waiting_) {
      return make_error(ErrorCode::kOverloaded, "",
                        "{} requests wait already, the most that may (--max-waiting-requests); try "
                        "again later",
                        waiting);
    }
    ++num_preparing_;
    std::erase_if(preparing_, [](const auto& other) { return other.expired(); });
    preparing_.push_back(state);
  }
  auto generation = make_generation(state, parts_.loaded.tokenizer);
  pool().post([this, state] { prepare(state); });
  return generation;
}

// On the preparation pool: from request to prompt, then over to the engine thread.
void EngineImpl::prepare(const std::shared_ptr<RequestState>& request) {
  Status status;
  if (request->cancelled()) {
    status = make_error(ErrorCode::kCancelled, "", "the request was cancelled");
  } else {
    auto prompt = preparer_.prepare(request->request, request->cancel_flag());
    if (prompt.ok()) {
      request->prompt = std::move(*prompt);
      auto sampling = resolve_sampling(
          request->request.sampling, parts_.loaded.config, *parts_.loaded.tokenizer,
          request->prompt->usage.prompt_tokens, parts_.plan.max_model_len, options_.seed);
      if (sampling.ok())
        request->sampling = std::move(*sampling);
      else
        status = sampling.error();
    } else {
      status = prompt.error();
    }
  }
  if (status.ok()) request->publish_prompt();
  {
    const std::lock_guard lock(mutex_);
    if (status.ok() && !healthy_) status = failed();  // nobody steps any more
    --num_preparing_;
    if (status.ok()) {
      incoming_.push_back(request);
    } else {
      ++(status.error().code == ErrorCode::kCancelled ? num_aborted_early_ : num_failed_early_);
    }
  }
  if (!status.ok()) request->fail(status.error());
  wake_.notify_one();
  settled_.notify_all();
}

// The engine thread: one step after another while there is work.
void EngineImpl::run() {
  EngineCore& core = *parts_.core;
  std::vector<std::shared_ptr<RequestState>> taken;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      busy_ = !core.idle();
      if (!busy_) {
        settled_.notify_all();
        wake_.wait(lock, [&] { return stop_ || !incoming_.empty(); });
      }
      if (stop_) break;
      taken.swap(incoming_);
      busy_ = true;
      for (const auto& request : taken) core.add(request);  // counted before the lock is left
    }
    taken.clear();
    if (forget_media_.exchange(false)) core.forget_idle_media();
    try {
      core.step();
    } catch (const std::exception& fault) {
      // Memory ran out, or a device fault: nothing of the device's state can be trusted any more.
      healthy_ = false;
      log_error("the engine has failed: {}", fault.what());
      const Error error = failed();
      core.abort_all(&error);
      const std::lock_guard lock(mutex_);
      for (const auto& request : incoming_) request->fail(error);
      incoming_.clear();
      accepting_ = busy_ = false;
      settled_.notify_all();
      return;
    }
  }
  core.abort_all(nullptr);
  const std::lock_guard lock(mutex_);
  for (const auto& request : incoming_) {
    for (int i = 0; i < request->request.sampling.n; ++i) {
      request->push({i, {}, FinishReason::kAbort, std::nullopt});
    }
  }
  incoming_.clear();
  busy_ = false;
  settled_.notify_all();
}

void EngineImpl::shutdown(std::chrono::milliseconds timeout) {
  const std::lock_guard once(shutdown_mutex_);
  {
    std::unique_lock lock(mutex_);
    accepting_ = false;
    if (timeout.count() > 0) {
      settled_.wait_for(lock, timeout,
                        [&] { return num_preparing_ == 0 && incoming_.empty() && !busy_; });
    }
    stop_ = true;
    for (const auto& waiting : preparing_) {
      if (const auto request = waiting.lock()) request->cancel();
    }
  }
  wake_.notify_all();
  if (thread_.joinable()) thread_.join();
  // What is still being prepared gives up at its next look at the flag.
  std::unique_lock lock(mutex_);
  settled_.wait(lock, [&] { return num_preparing_ == 0; });
  for (const auto& request : incoming_) {
    request->fail(make_error(ErrorCode::kUnavailable, "", "the engine is shutting down"));
  }
  incoming_.clear();
}

Result<PromptPlan> EngineImpl::plan(const Request& request, bool template_only) {
  PromptPlan out;
  VIDERE_RETURN_IF_ERROR(preparer_.check(request, template_only));
  if (template_only) {
    VIDERE_ASSIGN_OR_RETURN(out.rendered, preparer_.render(request));
    out.prompt_ids = parts_.loaded.tokenizer->encode(out.rendered, request.add_special_tokens);
    out.usage.text_tokens = out.usage.prompt_tokens = static_cast<int64_t>(out.prompt_ids.size());
    return out;
  }
  VIDERE_ASSIGN_OR_RETURN(const auto prompt, preparer_.prepare(request, nullptr));
  out.rendered = prompt->rendered;
  out.prompt_ids = prompt->token_ids;
  out.usage = prompt->usage;
  for (const MediaSpan& span : prompt->media) {
    const PreparedMedia& media = span.media;
    if (media.kind == ContentPart::Kind::kImage) {
      out.images.push_back({media.width, media.height, media.grid.columns, media.grid.rows,
                            media.tiles->num_tiles, span.num_rows});
      continue;
    }
    const int64_t all =
        int64_t{media.tiles->num_tiles} * parts_.loaded.prompt_config.tokens_per_tile;
    out.videos.push_back({media.frames_indices, media.timestamps, span.num_rows,
                          all - span.num_rows, media.fps, media.duration_s});
  }
  return out;
}

}  // namespace

Result<std::unique_ptr<Engine>> Engine::load(const EngineOptions& options,
                                             const LoadProgress& progress) {
  VIDERE_RETURN_IF_ERROR(check_local_media_root(options.allowed_local_media_path));
  VIDERE_ASSIGN_OR_RETURN(EngineParts parts, make_engine_parts(options, progress));
  return make_engine(std::move(parts), options);
}

std::unique_ptr<Engine> make_engine(EngineParts parts, const EngineOptions& options) {
  return std::make_unique<EngineImpl>(std::move(parts), options);
}

const char* version() { return VIDERE_VERSION; }

}  // namespace videre
