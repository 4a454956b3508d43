// A request to its prompt: fetches and decodes media under limits, side by side, cuts them into
// tiles, renders the template, tokenizes and expands. Prepared media are kept by content, so that a
// picture asked about again is not decoded again.
#pragma once

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "engine/loaded_model.h"
#include "engine/sampler.h"
#include "media/fetch.h"

namespace videre {

/// Threads that run tasks in order of arrival.
class TaskPool {
 public:
  explicit TaskPool(int num_threads);
  /// Runs what is queued, then ends.
  ~TaskPool();

  void post(std::function<void()> task);
  /// fn(0) … fn(count - 1), on the caller and on whatever threads are free; returns when all ended.
  /// May be called from within a task.
  void for_each(int count, const std::function<void(int)>& fn);

 private:
  void work();

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<std::function<void()>> tasks_;
  bool stop_ = false;
  std::vector<std::thread> threads_;
};

/// Thread-safe.
class Preparer {
 public:
  /// `loaded` and `pool` must outlive it.
  Preparer(const LoadedModel& loaded, const EngineOptions& options, int64_t max_model_len,
           int64_t max_item_rows, TaskPool* pool, std::unique_ptr<Fetcher> fetcher);

  /// Blocks. `cancel` may be null. Errors: kCancelled; kInvalidArgument and the like name the
  /// field.
  Result<std::shared_ptr<const Prompt>> prepare(const Request& request,
                                                const std::atomic<bool>* cancel);
  /// The request's text with placeholders as they are.
  Result<std::string> render(const Request& request) const;
  /// Forgets all prepared media.
  void reset_cache();
  /// What can be refused without looking at media.
  Status check(const Request& request, bool template_only) const;

 private:
  Result<PreparedMedia> prepare_media(const Request& request, const ContentPart& part,
                                      const std::atomic<bool>* cancel);
  Result<PreparedMedia> decode(const Request& request, const ContentPart& part,
                               const MediaBytes& bytes, const std::atomic<bool>* cancel) const;
  Result<PreparedMedia> from_frames(const Request& request, const ContentPart& part) const;
  Status check_length(const Request& request, const Prompt& prompt) const;

  bool find_cached(const std::string& key, PreparedMedia& media);
  void keep_cached(const std::string& key, const PreparedMedia& media);

  const LoadedModel& loaded_;
  EngineOptions options_;
  int64_t max_model_len_, max_item_rows_;
  TaskPool* pool_;
  std::unique_ptr<Fetcher> fetcher_;
  int64_t max_image_pixels_;
  uint64_t hash_seed_;  // of this process, so that nobody can prepare a collision

  std::mutex cache_mutex_;
  struct Cached {
    PreparedMedia media;
    std::list<std::string>::iterator place;
  };
  std::map<std::string, Cached> cache_;
  std::list<std::string> oldest_first_;
  int64_t cache_bytes_ = 0;
};

}  // namespace videre
