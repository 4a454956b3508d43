#include "base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

namespace videre {
namespace {

TEST(ThreadPool, EveryPartRunsOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    for (const int64_t n : {0, 1, 2, 7, 100, 1000}) {
      for (const int64_t grain : {1, 3, 64, 5000}) {
        std::vector<std::atomic<int>> visits(n);
        pool.parallel_for(n, grain, [&](int64_t begin, int64_t end, int worker) {
          EXPECT_LE(end - begin, grain);
          EXPECT_GE(worker, 0);
          EXPECT_LT(worker, pool.num_threads());
          for (int64_t i = begin; i < end; ++i) ++visits[i];
        });
        for (const auto& count : visits) ASSERT_EQ(count, 1);
      }
    }
  }
}

// More threads than cores, loops in quick succession: late workers must not disturb later loops,
// and what a loop wrote is seen after it.
TEST(ThreadPool, ManyLoopsInARow) {
  ThreadPool pool(6);
  int64_t sum = 0;
  for (int loop = 0; loop < 20000; ++loop) {
    const int64_t n = loop % 13;
    int64_t parts[13] = {};
    pool.parallel_for(n, 1, [&](int64_t begin, int64_t, int) { parts[begin] = begin + loop; });
    for (int64_t i = 0; i < n; ++i) ASSERT_EQ(parts[i], i + loop);
    sum += n;
  }
  EXPECT_GT(sum, 0);
}

// A worker runs one part at a time: scratch by worker needs no lock.
TEST(ThreadPool, AWorkerIsOneThread) {
  ThreadPool pool(4);
  std::vector<std::atomic<bool>> busy(4);
  for (int loop = 0; loop < 2000; ++loop) {
    pool.parallel_for(16, 1, [&](int64_t, int64_t, int worker) {
      EXPECT_FALSE(busy[worker].exchange(true));
      busy[worker] = false;
    });
  }
}

}  // namespace
}  // namespace videre
