// A pool for loops of equal work: one caller at a time, no allocation a loop. Workers spin about
// 50 us after a loop, since the next op is near, then sleep in a futex. A loop waits for workers
// that have joined it, never for one that the system has not woken yet: on a busy machine the
// caller then does the work alone.
#pragma once

#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace videre {

class ThreadPool {
 public:
  /// `num_threads` counts the caller; 0 means one for each CPU of the process's affinity mask.
  explicit ThreadPool(int num_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return num_threads_; }

  /// Calls fn(begin, end, worker) over parts of [0, n), each at most `grain` long, until all are
  /// done. Parts are handed out in order to whichever thread is free; `worker` is below
  /// num_threads(). Not reentrant: fn may not start a loop on the same pool.
  template <typename Fn>
  void parallel_for(int64_t n, int64_t grain, Fn&& fn) {
    if (n <= 0) return;
    if (grain < 1) grain = 1;
    if (num_threads_ == 1 || n <= grain) {
      for (int64_t begin = 0; begin < n; begin += grain) {
        fn(begin, begin + grain < n ? begin + grain : n, 0);
      }
      return;
    }
    using Body = std::remove_reference_t<Fn>;
    run(n, grain, const_cast<void*>(static_cast<const void*>(&fn)),
        [](void* body, int64_t begin, int64_t end, int worker) {
          (*static_cast<Body*>(body))(begin, end, worker);
        });
  }

 private:
  using Call = void (*)(void* body, int64_t begin, int64_t end, int worker);
  void run(int64_t n, int64_t grain, void* body, Call call);
  void work(int worker);
  bool enter();
  void main_of(int worker);

  int num_threads_ = 1;
  // The loop at hand; written while the gate is closed and nobody is inside.
  int64_t n_ = 0, grain_ = 1;
  void* body_ = nullptr;
  Call call_ = nullptr;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};  // rises with each loop
  alignas(64) std::atomic<uint32_t> gate_{0};   // workers inside the loop, and kOpen
  static constexpr uint32_t kOpen = 1u << 31;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stop_{false};
  std::vector<std::jthread> threads_;
};

}  // namespace videre
