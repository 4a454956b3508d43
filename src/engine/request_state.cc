#include "engine/request_state.h"

namespace videre {

void RequestState::set_listener(std::function<void()> listener) {
  bool ready;
  {
    std::lock_guard lock(mutex_);
    listener_ = std::move(listener);
    ready = listener_ && (!events_.empty() || error_);
  }
  if (ready) notify();
}

bool RequestState::take(std::vector<TokenEvent>& events, std::chrono::milliseconds timeout,
                        Error& error) {
  std::unique_lock lock(mutex_);
  const auto ready = [&] { return !events_.empty() || error_.has_value(); };
  if (timeout.count() > 0) arrived_.wait_for(lock, timeout, ready);
  events.swap(events_);
  events_.clear();
  if (!events.empty() || !error_) return true;
  error = *error_;
  return false;
}

std::shared_ptr<const Prompt> RequestState::taken_prompt() const {
  std::lock_guard lock(mutex_);
  return published_prompt_;
}

void RequestState::publish_prompt() {
  std::lock_guard lock(mutex_);
  published_prompt_ = prompt;
}

void RequestState::push(TokenEvent event) {
  {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  notify();
}

void RequestState::fail(Error error) {
  {
    std::lock_guard lock(mutex_);
    if (error_) return;
    error_ = std::move(error);
  }
  notify();
}

void RequestState::notify() {
  arrived_.notify_all();
  std::function<void()> listener;
  {
    std::lock_guard lock(mutex_);
    listener = listener_;
  }
  if (listener) listener();
}

}  // namespace videre
