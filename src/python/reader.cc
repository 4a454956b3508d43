#include "python/reader.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <iterator>
#include <mutex>
#include <system_error>
#include <utility>

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

template <typename T>
void move_to_end(std::vector<T>& to, std::vector<T>& from) {
  if (to.empty()) {
    to.swap(from);
  } else {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  }
}

}  // namespace

struct Reader::Signal {
  Signal() : fd(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (fd < 0) throw std::system_error(errno, std::generic_category(), "eventfd");
  }
  ~Signal() { close(fd); }

  void mark(int64_t tag) {
    bool first;
    {
      const std::lock_guard lock(mutex);
      first = readable.empty();
      readable.push_back(tag);
    }
    if (first) {
      const uint64_t one = 1;
      [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof(one));
    }
  }
  std::vector<int64_t> take() {
    const std::lock_guard lock(mutex);
    uint64_t count;
    [[maybe_unused]] const ssize_t got = ::read(fd, &count, sizeof(count));
    return std::exchange(readable, {});
  }

  const int fd;
  std::mutex mutex;
  std::vector<int64_t> readable;
};

Reader::Reader() : signal_(std::make_shared<Signal>()) {}
Reader::~Reader() = default;

int Reader::fd() const { return signal_->fd; }

void Reader::wait(std::chrono::milliseconds timeout) const {
  pollfd item{signal_->fd, POLLIN, 0};
  ::poll(&item, 1, static_cast<int>(std::clamp<int64_t>(timeout.count(), 0, 1 << 30)));
}

void Reader::add(int64_t tag, std::shared_ptr<Generation> generation, int num_choices,
                 bool stream) {
  Entry entry;
  entry.generation = std::move(generation);
  entry.marked = std::make_shared<std::atomic<bool>>(false);
  entry.choices.resize(static_cast<size_t>(num_choices));
  for (int i = 0; i < num_choices; ++i) entry.choices[static_cast<size_t>(i)].output.index = i;
  entry.stream = stream;
  entry.submitted = Clock::now();
  const auto listener = [signal = signal_, marked = entry.marked, tag] {
    if (!marked->exchange(true)) signal->mark(tag);
  };
  Generation* raw = entry.generation.get();
  entries_.insert_or_assign(tag, std::move(entry));
  raw->set_listener(listener);
}

std::vector<ReadEvent> Reader::poll() {
  std::vector<ReadEvent> events;
  for (const int64_t tag : signal_->take()) {
    const auto found = entries_.find(tag);
    if (found == entries_.end()) continue;
    found->second.marked->store(false);  // before reading, so that what comes now marks it again
    read(tag, found->second, events);
    if (!events.empty() && events.back().tag == tag &&
        (events.back().finished || events.back().error)) {
      entries_.erase(found);
    }
  }
  return events;
}

void Reader::read(int64_t tag, Entry& entry, std::vector<ReadEvent>& events) {
  auto deltas = entry.generation->read(std::chrono::milliseconds(0));
  ReadEvent event;
  event.tag = tag;
  if (!deltas.ok()) {
    event.error = deltas.error();
    events.push_back(std::move(event));
    return;
  }
  if (deltas->empty()) return;
  if (entry.first_token == Clock::time_point()) entry.first_token = Clock::now();
  for (OutputDelta& delta : *deltas) {
    ReadChoice& choice = entry.choices.at(static_cast<size_t>(delta.index));
    OutputDelta& output = choice.output;
    output.text += delta.text;
    for (const TokenLogprob& logprob : delta.logprobs) choice.cumulative_logprob += logprob.logprob;
    move_to_end(output.token_ids, delta.token_ids);
    move_to_end(output.logprobs, delta.logprobs);
    output.finish_reason = delta.finish_reason;
    output.stop_reason = std::move(delta.stop_reason);
  }
  event.finished = entry.generation->done();
  if (!event.finished && !entry.stream) return;
  event.generation = entry.generation;
  event.submitted = entry.submitted;
  event.first_token = entry.first_token;
  if (event.finished && !entry.stream) {
    event.choices = std::move(entry.choices);
  } else {
    for (ReadChoice& choice : entry.choices) {
      OutputDelta& output = choice.output;
      if (output.token_ids.empty() && output.text.empty() &&
          output.finish_reason == FinishReason::kNone) {
        continue;
      }
      event.choices.push_back(choice);
      const int index = output.index;
      output = {};
      output.index = index;
    }
  }
  events.push_back(std::move(event));
}

}  // namespace videre
