// The likeliest tokens of a row of logits, by one block, without sorting the row: tokens fall into
// bins by how far they lie below the largest, the bin where the wanted count or mass is reached is
// narrowed down until its tokens fit into shared memory, and only those are sorted. Counts and
// masses are sums of integers, so that results do not depend on the order in which threads come.
// For sample.cu alone.
#pragma once

#include "backend/cuda/kernel.h"

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)

namespace videre::cuda {
namespace {

using Ranked = unsigned long long;  // a logit and its token as one number: likelier ones, then
                                    // lower ids, are larger

constexpr int kBins = 2048, kListMax = 2048;
constexpr float kBinsPerUnit = 64;  // bins of 1/64: the last one begins 32 below the largest logit
constexpr int kNearBins =
    768;  // most rows are cut within 12 of it; what lies beyond need not be counted

// Bits that order as the floats do; equals, zeros of both signs among them, are equal.
__device__ __forceinline__ uint32_t ordered(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float unordered(uint32_t key) {
  return __uint_as_float((key & 0x80000000u) != 0 ? key & 0x7fffffffu : ~key);
}
__device__ __forceinline__ Ranked ranked(float logit, int token) {
  return static_cast<Ranked>(ordered(logit)) << 32 | ~static_cast<uint32_t>(token);
}
__device__ __forceinline__ int token_of(Ranked value) {
  return static_cast<int>(~static_cast<uint32_t>(value));
}
__device__ __forceinline__ float logit_of(Ranked value) {
  return unordered(static_cast<uint32_t>(value >> 32));
}

// e^x for x <= 0, to about 1e-7 relative and 0 below -87.3: the CPU's own, so that cuts fall alike.
__device__ __forceinline__ float exp_below_one(float x) {
  if (!(x >= -87.3f)) return 0.0f;
  const float shifted = x * 1.44269504f + 12582912.0f, whole = shifted - 12582912.0f;
  const float r = (x - whole * 0.693359375f) - whole * -2.12194440e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * __int_as_float((static_cast<int>(whole) + 127) << 23);
}

struct SelectMemory {
  uint32_t counts[kBins];
  uint32_t deficits[kBins];  // of mass, see `add_to_bin`
  Ranked list[kListMax];
  double sums[kWarp];
  Ranked ends[2][kWarp];
  double held;
  int found;
  uint32_t num_listed;
};

/// A row of logits: values are x * scale. `max` is the largest of them.
struct LogitRow {
  const float* x;
  int n;
  float scale, max;
  float deficit_scale;  // a power of two with n * deficit_scale / 64 < 2^32

  // Calls fn(value, token) for all of them, spread over the block, and after() from whole warps
  // after every few.
  template <typename Fn, typename After>
  __device__ __forceinline__ void each(Fn&& fn, After&& after) const {
    const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
    const int head = min(n, static_cast<int>((16 - reinterpret_cast<uintptr_t>(x) % 16) % 16 / 4));
    const int vectors = (n - head) / 4, tail = head + 4 * vectors;
    const float4* four = reinterpret_cast<const float4*>(x + head);
    for (int i = thread; i - thread % kWarp < vectors; i += 2 * threads) {
      const bool first = i < vectors, second = i + threads < vectors;
      float4 a = {}, b = {};
      if (first) a = four[i];
      if (second) b = four[i + threads];
      const float v[8] = {a.x, a.y, a.z, a.w, b.x, b.y, b.z, b.w};
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        if (j < 4 ? first : second) {
          fn(__fmul_rn(v[j], scale), head + 4 * (j < 4 ? i : i + threads) + j % 4);
        }
      }
      after();
    }
    for (int i = thread; i < head + n - tail; i += threads) {
      const int token = i < head ? i : tail + i - head;
      fn(__fmul_rn(x[token], scale), token);
    }
  }
  template <typename Fn>
  __device__ __forceinline__ void each(Fn&& fn) const {
    each(fn, [] {});
  }
};

/// Which tokens are still in: those not below `floor`, and within min-p.
struct Survivors {
  float floor = -INFINITY;  // logit, with the last token of it that stays
  int floor_token = 0x7fffffff;
  float min_p = 0;
  float surely_in = 0, surely_out = 0;  // distances from the largest logit around -log(min_p)

  __device__ __forceinline__ bool has(float logit, int token, float max) const {
    if (!(logit > floor || (logit == floor && token <= floor_token))) return false;
    if (!(min_p > 0)) return true;
    const float distance = max - logit;
    if (distance < surely_in) return true;
    return distance < surely_out && exp_below_one(logit - max) >= min_p;
  }
};

__device__ __forceinline__ float bin_position(float logit, float max) {
  return fminf((max - logit) * kBinsPerUnit, static_cast<float>(kBins - 1));
}

// A bin's tokens weigh nearly the same: e^(-bin / 64) less a deficit of at most 1/64 of it, which
// is summed in integers. The last bin has no mass: its tokens hold less than 1e-8 together.
__device__ __forceinline__ void add_to_bin(SelectMemory& memory, int bin, float position, bool mass,
                                           const LogitRow& row) {
  atomicAdd(&memory.counts[bin], 1u);
  if (!mass) return;
  const float y = (position - floorf(position)) / kBinsPerUnit;
  const float deficit = y * (1.0f - y * (0.5f - y * (1.0f / 6)));  // 1 - e^-y
  const auto units = static_cast<uint32_t>(__float2int_rn(deficit * row.deficit_scale));
  if (units != 0) atomicAdd(&memory.deficits[bin], units);
}

__device__ __forceinline__ double block_sum_double(double value, double* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) value += __shfl_xor_sync(kAllLanes, value, step);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  double total = 0;
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) total += shared[warp];
  __syncthreads();
  return total;
}

__device__ __forceinline__ Ranked block_max_ranked(Ranked value, Ranked* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Ranked other = __shfl_xor_sync(kAllLanes, value, step);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = value;
  __syncthreads();
  for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) {
    value = shared[warp] > value ? shared[warp] : value;
  }
  __syncthreads();
  return value;
}

// The first i of `count` at which held + weight(0) + ... + weight(i) reaches `target`; the last
// that weighs anything when rounding keeps the sum below it. memory.found and memory.held (what
// stands before it) tell.
template <typename Weight>
__device__ void first_reaching(SelectMemory& memory, int count, double held, double target,
                               Weight&& weight) {
  const int each = static_cast<int>(ceil_div(count, blockDim.x));
  const int begin = min(count, static_cast<int>(threadIdx.x) * each),
            end = min(count, begin + each);
  double own = 0;
  int last = -1;
  for (int i = begin; i < end; ++i) {
    const double w = weight(i);
    own += w;
    if (w > 0) last = i;
  }
  const int lane = static_cast<int>(threadIdx.x) % kWarp,
            warp = static_cast<int>(threadIdx.x) / kWarp;
  double inclusive = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const double other = __shfl_up_sync(kAllLanes, inclusive, step);
    if (lane >= step) inclusive += other;
  }
  double before = __shfl_up_sync(kAllLanes, inclusive, 1);
  if (lane == 0) before = 0;
  if (lane == kWarp - 1) memory.sums[warp] = inclusive;
  if (threadIdx.x == 0) memory.found = -1;
  __syncthreads();
  double base = held;
  for (int i = 0; i < warp; ++i) base += memory.sums[i];
  before += base, inclusive += base;
  if (last >= 0) atomicMax(&memory.found, last);  // for when none reaches it
  __syncthreads();
  const int fallback = memory.found;
  __syncthreads();
  if (before < target && inclusive >= target && last >= 0) {
    double sum = before;
    for (int i = begin; i < end; ++i) {
      const double w = weight(i);
      if (sum + w >= target || i == last) {
        memory.found = i, memory.held = sum;
        break;
      }
      sum += w;
    }
  } else if (begin <= fallback && fallback < end && inclusive < target) {
    double sum = before;
    for (int i = begin; i < fallback; ++i) sum += weight(i);
    memory.held = sum;
  }
  __syncthreads();
}

__device__ __forceinline__ void clear_bins(SelectMemory& memory) {
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += static_cast<int>(blockDim.x)) {
    memory.counts[i] = memory.deficits[i] = 0;
  }
  __syncthreads();
}

__device__ __forceinline__ double mass_of(const SelectMemory& memory, const LogitRow& row, int i,
                                          int bin) {
  if (bin == kBins - 1) return 0;
  return exp(-static_cast<double>(bin) / kBinsPerUnit) *
         (memory.counts[i] - static_cast<double>(memory.deficits[i]) / row.deficit_scale);
}

__device__ __forceinline__ double total_mass(SelectMemory& memory, const LogitRow& row) {
  double own = 0;
  for (int i = static_cast<int>(threadIdx.x); i < kBins; i += static_cast<int>(blockDim.x)) {
    if (memory.counts[i] != 0) own += mass_of(memory, row, i, i);
  }
  return block_sum_double(own, memory.sums);
}

// How many tokens lie in the bins up to `bin`.
__device__ __forceinline__ int64_t count_up_to(SelectMemory& memory, int bin) {
  double own = 0;
  for (int i = static_cast<int>(threadIdx.x); i <= bin; i += static_cast<int>(blockDim.x))
    own += memory.counts[i];
  return static_cast<int64_t>(block_sum_double(own, memory.sums));
}

// Survivors into bins; those from bin `reach` on are only summed: returns their mass, as this
// thread sees it.
__device__ __forceinline__ double fill_bins(SelectMemory& memory, const LogitRow& row,
                                            const Survivors& in, bool mass, int reach) {
  clear_bins(memory);
  float beyond = 0;
  row.each([&](float logit, int token) {
    if (!in.has(logit, token, row.max)) return;
    const float position = bin_position(logit, row.max);
    const int bin = static_cast<int>(position);
    if (bin < reach) {
      add_to_bin(memory, bin, position, mass && bin < kBins - 1, row);
    } else {
      beyond += fast_exp(logit - row.max);
    }
  });
  __syncthreads();
  return beyond;
}

struct BinCut {
  int bin;              // where the target is reached; -1 when there are no survivors
  double held, target;  // what the bins before it hold
  int64_t count;        // survivors in the bins up to it
};

// The bin in which the likeliest survivors reach `wanted` in number, or with `mass` that share of
// all their mass.
__device__ BinCut find_bin(SelectMemory& memory, const LogitRow& row, const Survivors& in,
                           bool mass, double wanted) {
  BinCut cut{};
  for (int reach = kNearBins;; reach = kBins) {
    const double beyond = fill_bins(memory, row, in, mass, reach);
    double near;
    cut.target = wanted;
    if (mass) {
      near = total_mass(memory, row);
      cut.target *= near + block_sum_double(beyond, memory.sums);
    } else {
      near = static_cast<double>(count_up_to(memory, reach - 1));
    }
    if (near >= cut.target || reach == kBins) break;
  }
  first_reaching(memory, kBins, 0, cut.target, [&](int i) {
    if (memory.counts[i] == 0) return 0.0;
    return mass ? mass_of(memory, row, i, i) : static_cast<double>(memory.counts[i]);
  });
  cut.bin = memory.found;
  cut.held = memory.held;
  cut.count = count_up_to(memory, cut.bin);
  return cut;
}

// Survivors of bins [first, last] that rank within [low, high], sorted, into memory.list; they must
// fit.
__device__ void collect(SelectMemory& memory, const LogitRow& row, const Survivors& in, int first,
                        int last, Ranked low, Ranked high) {
  if (threadIdx.x == 0) memory.num_listed = 0;
  __syncthreads();
  row.each([&](float logit, int token) {
    if (!in.has(logit, token, row.max)) return;
    const int bin = static_cast<int>(bin_position(logit, row.max));
    if (bin < first || bin > last) return;
    const Ranked value = ranked(logit, token);
    if (value < low || value > high) return;
    const uint32_t at = atomicAdd(&memory.num_listed, 1u);
    if (at < kListMax) memory.list[at] = value;
  });
  __syncthreads();
  const int count = min(static_cast<int>(memory.num_listed), kListMax);
  int size = 1;
  while (size < count) size *= 2;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  for (int i = count + thread; i < size; i += threads) memory.list[i] = 0;
  __syncthreads();
  for (int run = 2; run <= size; run *= 2) {  // bitonic, largest first
    for (int step = run / 2; step > 0; step /= 2) {
      for (int pair = thread; pair < size / 2; pair += threads) {
        const int i = 2 * pair - pair % step, j = i + step;
        const Ranked a = memory.list[i], b = memory.list[j];
        if ((a < b) == ((i & run) == 0)) memory.list[i] = b, memory.list[j] = a;
      }
      __syncthreads();
    }
  }
}

// Narrows down where the weights of the tokens of `bin`, likeliest first, reach `target`, and
// returns the token that does; `held` is what the bins before it weigh. With `mass` a token weighs
// e^(logit - max), else 1.
__device__ Ranked narrow_down(SelectMemory& memory, const LogitRow& row, const Survivors& in,
                              int bin, double held, double target, bool mass) {
  Ranked low = 0, high = ~Ranked{0};
  uint32_t count = memory.counts[bin];
  for (bool first = true; count > kListMax; first = false) {
    if (first) {
      Ranked lowest = ~Ranked{0}, highest = 0;
      row.each([&](float logit, int token) {
        if (!in.has(logit, token, row.max) || static_cast<int>(bin_position(logit, row.max)) != bin)
          return;
        const Ranked value = ranked(logit, token);
        lowest = value < lowest ? value : lowest;
        highest = value > highest ? value : highest;
      });
      high = block_max_ranked(highest, memory.ends[0]);
      low = ~block_max_ranked(~lowest, memory.ends[1]);
    }
    int shift = 0;
    while ((high - low) >> shift >= kBins) ++shift;
    clear_bins(memory);
    row.each([&](float logit, int token) {
      if (!in.has(logit, token, row.max)) return;
      const float position = bin_position(logit, row.max);
      const Ranked value = ranked(logit, token);
      if (static_cast<int>(position) != bin || value < low || value > high) return;
      add_to_bin(memory, static_cast<int>((high - value) >> shift), position, mass, row);
    });
    __syncthreads();
    first_reaching(memory, kBins, held, target, [&](int i) {
      return mass ? (memory.counts[i] == 0 ? 0 : mass_of(memory, row, i, bin))
                  : static_cast<double>(memory.counts[i]);
    });
    const auto part = static_cast<Ranked>(memory.found);
    held = memory.held;
    count = memory.counts[memory.found];
    high -= part << shift;
    const Ranked size = (Ranked{1} << shift) - 1;
    if (high - low > size) low = high - size;
    __syncthreads();
  }
  collect(memory, row, in, bin, bin, low, high);
  first_reaching(memory, static_cast<int>(memory.num_listed), held, target, [&](int i) {
    return mass ? static_cast<double>(exp_below_one(logit_of(memory.list[i]) - row.max)) : 1.0;
  });
  const Ranked cut = memory.list[memory.found];
  __syncthreads();
  return cut;
}

}  // namespace
}  // namespace videre::cuda

#endif
