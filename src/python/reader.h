// Many running requests read by one thread: listeners mark what is readable and raise an event
// file descriptor, which a thread can wait on and an event loop can watch. Knows no Python.
#pragma once

#include <atomic>
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "videre/engine.h"

namespace videre {

/// One choice's text and tokens: since the last event when streaming, else all.
struct ReadChoice {
  OutputDelta output;  // its `finish_reason` is kNone while more will come
  double cumulative_logprob = 0;
};

struct ReadEvent {
  int64_t tag = 0;
  std::optional<Error> error;  // the request has failed; nothing else is set
  bool finished = false;
  std::vector<ReadChoice> choices;
  std::shared_ptr<const Generation> generation;  // its prompt and usage are known
  std::chrono::steady_clock::time_point submitted, first_token;
};

/// One thread at a time, but for what listeners do.
class Reader {
 public:
  /// Throws std::system_error when the process has no file descriptor left.
  Reader();
  /// Cancels what is still running.
  ~Reader();
  Reader(const Reader&) = delete;
  Reader& operator=(const Reader&) = delete;

  /// Takes over a request that was just submitted. `tag` is the caller's name for it.
  void add(int64_t tag, std::shared_ptr<Generation> generation, int num_choices, bool stream);
  /// Ends a request; no event follows.
  void cancel(int64_t tag) { entries_.erase(tag); }
  void cancel_all() { entries_.clear(); }
  size_t num_running() const { return entries_.size(); }

  /// Readable when `poll` has something.
  int fd() const;
  /// Waits for that; returns early on a signal.
  void wait(std::chrono::milliseconds timeout) const;
  /// What has come since the last time.
  std::vector<ReadEvent> poll();

 private:
  struct Signal;  // outlives the reader in its listeners
  struct Entry {
    std::shared_ptr<Generation> generation;
    std::shared_ptr<std::atomic<bool>> marked;
    std::vector<ReadChoice> choices;
    bool stream = false;
    std::chrono::steady_clock::time_point submitted, first_token;
  };

  void read(int64_t tag, Entry& entry, std::vector<ReadEvent>& events);

  std::shared_ptr<Signal> signal_;
  std::map<int64_t, Entry> entries_;
};

}  // namespace videre
