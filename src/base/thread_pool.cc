#include "base/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <chrono>

namespace videre {
namespace {

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

int cpus_allowed() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) == 0) return std::max(1, CPU_COUNT(&mask));
  return std::max(1u, std::thread::hardware_concurrency());
}

constexpr auto kSpin = std::chrono::microseconds(50);
constexpr int kPausesBetweenClockReads = 64;

// True when `value` has left `old` before the spin time is over.
template <typename T>
bool spin_while_equal(const std::atomic<T>& value, T old) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesBetweenClockReads; ++i) {
      if (value.load(std::memory_order_acquire) != old) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return false;
}

}  // namespace

ThreadPool::ThreadPool(int num_threads)
    : num_threads_(num_threads > 0 ? num_threads : cpus_allowed()) {
  for (int worker = 1; worker < num_threads_; ++worker) {
    threads_.emplace_back([this, worker] { main_of(worker); });
  }
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  epoch_.fetch_add(1);
  epoch_.notify_all();
  threads_.clear();
}

void ThreadPool::work(int worker) {
  for (;;) {
    const int64_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
    if (begin >= n_) return;
    call_(body_, begin, std::min(begin + grain_, n_), worker);
  }
}

void ThreadPool::run(int64_t n, int64_t grain, void* body, Call call) {
  n_ = n;
  grain_ = grain;
  body_ = body;
  call_ = call;
  next_.store(0, std::memory_order_relaxed);
  gate_.store(kOpen, std::memory_order_release);
  epoch_.fetch_add(1);  // seq_cst, so that a sleeper either sees it or is seen in sleepers_
  if (sleepers_.load() > 0) epoch_.notify_all();
  work(0);
  // All parts are handed out: nobody enters any more, and those inside finish theirs.
  uint32_t inside = gate_.fetch_and(~kOpen, std::memory_order_acq_rel) & ~kOpen;
  while (inside > 0) {
    if (!spin_while_equal(gate_, inside)) std::this_thread::yield();
    inside = gate_.load(std::memory_order_acquire);
  }
}

// Joins the open loop, whichever it is.
bool ThreadPool::enter() {
  uint32_t gate = gate_.load(std::memory_order_relaxed);
  while (gate & kOpen) {
    if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire,
                                    std::memory_order_relaxed)) {
      return true;
    }
  }
  return false;
}

void ThreadPool::main_of(int worker) {
  uint32_t seen = 0;
  for (;;) {
    if (!spin_while_equal(epoch_, seen)) {
      sleepers_.fetch_add(1);
      epoch_.wait(seen);
      sleepers_.fetch_sub(1);
    }
    seen = epoch_.load(std::memory_order_acquire);
    if (stop_.load()) return;
    if (!enter()) continue;
    work(worker);
    gate_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace videre
