#if defined(VIDERE_CUDA_EMULATED)
#undef _FORTIFY_SOURCE  // its longjmp refuses to leave a fiber
#include "backend/cuda/emulator.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <memory>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace videre::cuda {

EmulatedThread* emulated_thread = nullptr;
EmulatedGrid emulated_grid;

namespace {

constexpr size_t kStackBytes = 256 * 1024;
constexpr int kMaxThreads = 1024;            // a block's
constexpr int kMaxFibers = 8 * kMaxThreads;  // a cluster's

enum class State { kReady, kAtBlockBarrier, kAtClusterBarrier, kAtWarpBarrier, kDone };

struct Fiber {
  EmulatedThread thread;
  State state = State::kDone;
  uint32_t lanes = 0;  // of the warp barrier it waits at
  unsigned turn = 0;   // exchanges so far, for the buffer's half
  bool started = false;
  jmp_buf here;
  ucontext_t begin;
};

struct Warp {
  uint32_t words[2][32 * 4];
};

// One at a time in a process: kernels run on the thread that launches them.
std::vector<Fiber> fibers;
std::vector<Warp> warps;
std::vector<char> shared_memory;
char* stacks = nullptr;
int running = 0, block_threads = 0, num_threads = 0;  // the last: of a cluster
int64_t block_shared = 0;                             // bytes
jmp_buf scheduler;
const std::function<void()>* kernel_body = nullptr;

void fiber_main() {
  (*kernel_body)();
  fibers[running].state = State::kDone;
  _longjmp(scheduler, 1);
}

// Back to the scheduler until it picks this fiber again.
void pause(State state) {
  Fiber& fiber = fibers[running];
  fiber.state = state;
  if (_setjmp(fiber.here) == 0) _longjmp(scheduler, 1);
}

void resume(int index) {
  Fiber& fiber = fibers[index];
  running = index;
  emulated_thread = &fiber.thread;
  fiber.state = State::kReady;
  if (_setjmp(scheduler) != 0) return;
  if (fiber.started) _longjmp(fiber.here, 1);
  fiber.started = true;
  setcontext(&fiber.begin);
}

// Opens the barriers whose threads have all come; a thread that has ended counts as there.
void open_barriers() {
  const auto open = [](int begin, int end, State barrier) {
    for (int i = begin; i < end; ++i) {
      if (fibers[i].state != barrier && fibers[i].state != State::kDone) return;
    }
    for (int i = begin; i < end; ++i) {
      if (fibers[i].state == barrier) fibers[i].state = State::kReady;
    }
  };
  for (int first = 0; first < num_threads; first += block_threads) {
    open(first, first + block_threads, State::kAtBlockBarrier);
  }
  open(0, num_threads, State::kAtClusterBarrier);
  for (int first = 0; first < num_threads; first += 32) {
    const int count = std::min(32, num_threads - first);
    for (int lane = 0; lane < count; ++lane) {
      if (fibers[first + lane].state != State::kAtWarpBarrier) continue;
      const uint32_t lanes = fibers[first + lane].lanes;
      bool there = true;
      for (int other = 0; other < count; ++other) {
        const Fiber& fiber = fibers[first + other];
        if ((lanes >> other & 1) == 0 || fiber.state == State::kDone) continue;
        there = there && fiber.state == State::kAtWarpBarrier && fiber.lanes == lanes;
      }
      if (!there) continue;
      for (int other = 0; other < count; ++other) {
        Fiber& fiber = fibers[first + other];
        if ((lanes >> other & 1) != 0 && fiber.state == State::kAtWarpBarrier) {
          fiber.state = State::kReady;
        }
      }
    }
  }
}

void run_cluster() {
  for (int i = 0; i < num_threads; ++i) {
    Fiber& fiber = fibers[i];
    fiber.state = State::kReady;
    fiber.started = false;
    fiber.turn = 0;
    getcontext(&fiber.begin);
    fiber.begin.uc_stack.ss_sp = stacks + i * kStackBytes;
    fiber.begin.uc_stack.ss_size = kStackBytes;
    fiber.begin.uc_link = nullptr;
    makecontext(&fiber.begin, fiber_main, 0);
  }
  for (bool falling = false;; falling = !falling) {
    int ran = 0, done = 0;
    for (int i = 0; i < num_threads; ++i) {
      const int index = falling ? num_threads - 1 - i : i;
      if (fibers[index].state == State::kReady) {
        resume(index);
        ++ran;
      }
      done += fibers[index].state == State::kDone ? 1 : 0;
    }
    if (done == num_threads) return;
    open_barriers();
    if (ran == 0) {
      bool stuck = true;
      for (int i = 0; i < num_threads; ++i) stuck = stuck && fibers[i].state != State::kReady;
      VIDERE_CHECK(!stuck) << "a kernel's threads wait at different barriers";
    }
  }
}

}  // namespace

void emulate(dim3 grid, dim3 block, int shared_bytes, const std::function<void()>& body,
             int cluster) {
  block_threads = static_cast<int>(block.x * block.y * block.z);
  num_threads = block_threads * cluster;
  VIDERE_CHECK(block_threads >= 1 && block_threads <= kMaxThreads) << block_threads;
  VIDERE_CHECK(cluster == 1 || (cluster <= 16 && block_threads % 32 == 0)) << cluster;
  VIDERE_CHECK_LE(num_threads, kMaxFibers);
  VIDERE_CHECK_EQ(grid.x % cluster, 0u);
  VIDERE_CHECK_LE(shared_bytes, 227 * 1024);
  if (stacks == nullptr) {
    void* memory = mmap(nullptr, kStackBytes * kMaxFibers, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    VIDERE_CHECK(memory != MAP_FAILED) << "no memory for the emulator's stacks";
    stacks = static_cast<char*>(memory);
  }
  if (static_cast<int>(fibers.size()) < num_threads) {
    fibers.resize(num_threads);
    warps.resize((num_threads + 31) / 32);
  }
  block_shared = (int64_t{shared_bytes} + 127) / 128 * 128;
  shared_memory.assign(block_shared * cluster + 128, static_cast<char>(0xa5));
  kernel_body = &body;
  emulated_grid = {grid, block};
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; x += cluster) {
        for (int i = 0; i < num_threads; ++i) {
          const unsigned t = static_cast<unsigned>(i % block_threads);
          fibers[i].thread.block = dim3(x + i / block_threads, y, z);
          fibers[i].thread.thread =
              dim3(t % block.x, t / block.x % block.y, t / (block.x * block.y));
        }
        run_cluster();
      }
    }
  }
}

char* emulated_shared() {
  char* start = shared_memory.data();
  return start + (128 - reinterpret_cast<uintptr_t>(start) % 128) % 128 +
         running / block_threads * block_shared;
}

void* emulated_of_block(void* own, int rank) {
  return static_cast<char*>(own) + (rank - running / block_threads) * block_shared;
}

void emulated_block_barrier() { pause(State::kAtBlockBarrier); }

void emulated_cluster_barrier() { pause(State::kAtClusterBarrier); }

void emulated_warp_barrier(uint32_t lanes) {
  fibers[running].lanes = lanes;
  pause(State::kAtWarpBarrier);
}

int emulated_lane() { return running % 32; }

const uint32_t* emulated_exchange(uint32_t lanes, const uint32_t (&words)[4]) {
  Fiber& fiber = fibers[running];
  uint32_t* half = warps[running / 32].words[fiber.turn++ % 2];
  std::memcpy(half + 4 * (running % 32), words, sizeof(words));
  emulated_warp_barrier(lanes);
  return half;
}

namespace {

float bf16_part(uint32_t word, int which) {
  return std::bit_cast<float>(which == 0 ? word << 16 : word & 0xffff0000u);
}
float f16_part(uint32_t word, int which) {
  return half_to_float(static_cast<uint16_t>(word >> (16 * which)));
}

template <float kPart(uint32_t, int)>
void mma_16bit(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4;
  uint32_t left[32 * 4];
  std::memcpy(left, emulated_exchange(0xffffffffu, a), sizeof(left));
  const uint32_t both[4] = {b[0], b[1], 0, 0};
  const uint32_t* right = emulated_exchange(0xffffffffu, both);
  for (int i = 0; i < 4; ++i) {
    const int row = g + (i / 2) * 8, column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const int word = (row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0);
      const uint32_t x = left[4 * (row % 8 * 4 + k % 8 / 2) + word];
      const uint32_t y = right[4 * (column * 4 + k % 8 / 2) + (k >= 8 ? 1 : 0)];
      sum += kPart(x, k % 2) * kPart(y, k % 2);
    }
    d[i] += sum;
  }
}

}  // namespace

void emulated_mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_16bit<bf16_part>(d, a, b);
}
void emulated_mma_f16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  mma_16bit<f16_part>(d, a, b);
}

uint32_t emulated_transpose8x8(uint32_t pair) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4;
  const uint32_t words[4] = {pair, 0, 0, 0};
  const uint32_t* all = emulated_exchange(0xffffffffu, words);
  const auto element = [&](int i, int j) {
    return all[4 * (4 * i + j / 2)] >> (16 * (j % 2)) & 0xffff;
  };
  return element(2 * t, g) | element(2 * t + 1, g) << 16;
}

void emulated_ldmatrix4(uint32_t (&r)[4], const void* row, bool transposed) {
  const int lane = emulated_lane(), g = lane / 4, t = lane % 4;
  VIDERE_CHECK_EQ(reinterpret_cast<uintptr_t>(row) % 16, 0u);
  uint32_t words[4] = {};
  std::memcpy(words, &row, sizeof(row));
  const uint32_t* all = emulated_exchange(0xffffffffu, words);
  for (int matrix = 0; matrix < 4; ++matrix) {
    const auto element = [&](int i, int j) {
      const uint16_t* from;
      std::memcpy(&from, all + 4 * (8 * matrix + i), sizeof(from));
      return static_cast<uint32_t>(from[j]);
    };
    r[matrix] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16
                           : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
  }
  emulated_warp_barrier(0xffffffffu);  // no lane may overwrite what another still reads
}

void emulated_copy16(void* shared, const void* global, bool valid) {
  VIDERE_CHECK_EQ(reinterpret_cast<uintptr_t>(shared) % 16, 0u);
  if (!valid) {
    std::memset(shared, 0, 16);
    return;
  }
  VIDERE_CHECK_EQ(reinterpret_cast<uintptr_t>(global) % 16, 0u);
  std::memcpy(shared, global, 16);
}

}  // namespace videre::cuda
#endif
