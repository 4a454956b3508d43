// Rows of edited logits to tokens: temperature, min-p, top-k, top-p, then a draw by exponential
// noise, a pure function of (seed, position, token). The largest logit of every row is found by
// several blocks a row, which is all that greedy rows need; rows that draw then take one block each
// (sample_select.h), rows that want logprobs another. Only tokens, logprobs and ranks go to the
// host. Bound by reading the logits: from memory once, then from L2.
//
// The noise, exponentials and the order of equals are the CPU's, so a seed draws the same token on
// both, unless two tokens' scores or a cut's two sides differ by less than a float's rounding.
#include <algorithm>
#include <cmath>

#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/sample_select.h"

namespace videre::cuda {
namespace {

constexpr int kPartThreads = 256, kMaxParts = 64, kRowThreads = 1024;
constexpr int kMostTop =
    1024;  // likeliest tokens that the device gives; for more the row goes to the host
constexpr int64_t kTokensEach = 16;  // of a row for each thread of its block, up to kRowThreads

struct DrawRow {
  int32_t row, slot;
  float scale;    // 1 / temperature; 0 is greedy
  int32_t top_k;  // 0: off
  float top_p, min_p;
  uint32_t key_low, key_high;  // of the noise
  int32_t num_top;             // likeliest tokens to give; -1: no logprob at all
  int32_t first_top;           // where they go
  int32_t is_plain;            // drawn from all tokens
};
struct DrawResult {
  int32_t token;
  float logprob;
  int32_t rank;
  int32_t num_top;
};
struct TopToken {
  int32_t token;
  float logprob;
};

struct Logits {
  const float* data;
  int64_t stride;
  int n;
  __device__ __forceinline__ const float* row(int i) const { return data + i * stride; }
};

// Natural logarithm of a positive normal number, to about 1e-7 relative: 2 atanh of the mantissa,
// as the CPU's.
__device__ __forceinline__ float log_of(float x) {
  const int exponent = (__float_as_int(x) - 0x3f3504f3) >> 23;  // mantissa in [sqrt(1/2), sqrt(2))
  const float f = __int_as_float(__float_as_int(x) - (exponent << 23)) - 1.0f;
  const float s = f / (f + 2.0f), s2 = s * s;
  float p = 2.0f / 9;
  p = p * s2 + 2.0f / 7;
  p = p * s2 + 2.0f / 5;
  p = p * s2 + 2.0f / 3;
  p = p * s2 * s + 2.0f * s;
  return static_cast<float>(exponent) * 0.69314718f + p;
}

// The best of logit - log(e) over tokens, e exponential noise made of (key, token): a draw from
// their softmax.
struct Draw {
  uint32_t key_low, key_high;
  float best = -INFINITY, bound = -INFINITY;  // bound: the warp's best as of its last `share`
  int token = 0;

  __device__ __forceinline__ void share() { bound = warp_max(best); }
  __device__ __forceinline__ void take(float logit, int candidate) {
    uint32_t h = static_cast<uint32_t>(candidate) * 0x9e3779b1u + key_low;
    h = (h ^ (h >> 16)) * 0x21f0aaadu;
    h = (h ^ (h >> 15)) * 0xd35a2d97u;
    h = (h ^ (h >> 15) ^ key_high) * 0x85ebca6bu;
    h = (h ^ (h >> 13)) * 0xc2b2ae35u;
    h ^= h >> 16;
    const float u = fminf((static_cast<float>(h) + 0.5f) * 0x1p-32f, 1 - 0x1p-24f);
    // e = -log(1 - u) >= u, so most tokens need no logarithm to lose.
    if (u * 0.999f >= fast_exp(logit - bound)) return;
    const float rest = 1.0f - u,
                taken = 1.0f - rest;  // fine-grained near 0, where unlikely tokens win
    const float e = taken > 0.0f ? -log_of(rest) * (u / taken) : u;
    const float score = logit - log_of(e);
    if (!(score > best || (score == best && candidate < token))) return;
    best = score, token = candidate;
  }
};

// Block (row, part): the largest logit of a part of a row, or the draw from it where the row is
// drawn from whole. NaN loses; when there is nothing above -infinity the first token stands in.
__global__ void __launch_bounds__(kPartThreads)
    largest_kernel(Logits logits, const DrawRow* rows, Ranked* largest) {
  __shared__ Ranked shared[kWarp];
  wait_for_previous();
  let_next_start();
  const int parts = static_cast<int>(gridDim.y);
  const int each = static_cast<int>(ceil_div(ceil_div(logits.n, parts), 4) * 4);
  const int begin = min(logits.n, static_cast<int>(blockIdx.y) * each);
  const DrawRow task = rows[blockIdx.x];
  const bool plain = task.is_plain != 0;
  const LogitRow part{logits.row(task.row) + begin, min(each, logits.n - begin),
                      plain ? task.scale : 1.0f, 0, 0};
  Draw draw{task.key_low, task.key_high};
  if (plain) {
    part.each([&](float logit, int at) { draw.take(logit, begin + at); }, [&] { draw.share(); });
  } else {
    part.each([&](float logit, int at) {
      if (logit > draw.best ||
          (logit == draw.best && begin + at < draw.token && logit > -INFINITY)) {
        draw.best = logit, draw.token = begin + at;
      }
    });
  }
  const Ranked value = block_max_ranked(ranked(draw.best, draw.token), shared);
  if (threadIdx.x == 0) largest[static_cast<int64_t>(blockIdx.x) * parts + blockIdx.y] = value;
}

// A warp for each row: ends batches of greedy and plainly drawn rows.
__global__ void finish_kernel(const DrawRow* rows, int num_rows, const Ranked* largest, int parts,
                              int32_t* last_tokens, DrawResult* results) {
  wait_for_previous();
  let_next_start();
  const int row = static_cast<int>((blockIdx.x * blockDim.x + threadIdx.x) / kWarp);
  if (row >= num_rows) return;
  Ranked best = 0;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < parts; i += kWarp) {
    const Ranked value = largest[static_cast<int64_t>(row) * parts + i];
    best = value > best ? value : best;
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const Ranked other = __shfl_xor_sync(kAllLanes, best, step);
    best = other > best ? other : best;
  }
  if (threadIdx.x % kWarp != 0) return;
  results[row] = {token_of(best), 0, 0, 0};
  last_tokens[rows[row].slot] = token_of(best);
}

// Token of one row that is not greedy, by the whole block.
__device__ int draw_token(SelectMemory& memory, const LogitRow& row, const DrawRow& task,
                          int likeliest) {
  Survivors in;
  if (task.min_p > 0) {
    in.min_p = task.min_p;
    const float distance = -logf(task.min_p);
    in.surely_in = distance - 1e-3f, in.surely_out = distance + 1e-3f;
  }
  Draw draw{task.key_low, task.key_high};
  draw.take(row.max, likeliest);
  draw.share();
  int top_k = task.top_k;
  bool listed = false;
  int kept = 0;  // of the list
  while (top_k > 0 || task.top_p < 1) {
    const bool by_mass = top_k == 0;
    const BinCut cut = find_bin(memory, row, in, by_mass, by_mass ? task.top_p : top_k);
    if (cut.bin < 0) break;               // nothing but NaN
    if (!by_mass && cut.count < top_k) {  // fewer than k are left
      top_k = 0;
      continue;
    }
    if (cut.count > kListMax) {
      const Ranked last = narrow_down(memory, row, in, cut.bin, cut.held, cut.target, by_mass);
      in.floor = logit_of(last);
      in.floor_token = by_mass ? token_of(last) : 0x7fffffff;  // equals of the k-th stay
      if (by_mass) break;
      top_k = 0;
      continue;
    }
    // All that may be drawn fits into the list.
    collect(memory, row, in, 0, cut.bin, 0, ~Ranked{0});
    listed = true;
    kept = static_cast<int>(memory.num_listed);
    if (!by_mass) {
      const float lowest = logit_of(memory.list[top_k - 1]);
      double own = 0;
      for (int i = static_cast<int>(threadIdx.x); i < kept; i += static_cast<int>(blockDim.x)) {
        own += logit_of(memory.list[i]) >= lowest ? 1.0 : 0.0;
      }
      kept = static_cast<int>(block_sum_double(own, memory.sums));
    }
    if (task.top_p < 1) {
      const auto weight = [&](int i) {
        return static_cast<double>(exp_below_one(logit_of(memory.list[i]) - row.max));
      };
      double wanted = cut.target;
      if (!by_mass) {
        double own = 0;
        for (int i = static_cast<int>(threadIdx.x); i < kept; i += static_cast<int>(blockDim.x))
          own += weight(i);
        wanted = task.top_p * block_sum_double(own, memory.sums);
      }
      first_reaching(memory, kept, 0, wanted, weight);
      kept = memory.found + 1;
    }
    break;
  }
  if (listed) {
    for (int i = static_cast<int>(threadIdx.x); i < kept; i += static_cast<int>(blockDim.x)) {
      draw.take(logit_of(memory.list[i]), token_of(memory.list[i]));
    }
  } else {
    row.each(
        [&](float logit, int token) {
          if (in.has(logit, token, row.max)) draw.take(logit, token);
        },
        [&] { draw.share(); });
  }
  return token_of(block_max_ranked(ranked(draw.best, draw.token), memory.ends[0]));
}

// A block for each row.
__global__ void __launch_bounds__(kRowThreads)
    draw_kernel(Logits logits, const DrawRow* rows, const Ranked* largest, int parts,
                float deficit_scale, int32_t* last_tokens, DrawResult* results) {
  __shared__ SelectMemory memory;
  wait_for_previous();
  let_next_start();
  const DrawRow task = rows[blockIdx.x];
  const int thread = static_cast<int>(threadIdx.x);
  Ranked best = 0;
  for (int i = thread; i < parts; i += static_cast<int>(blockDim.x)) {
    const Ranked value = largest[static_cast<int64_t>(blockIdx.x) * parts + i];
    best = value > best ? value : best;
  }
  best = block_max_ranked(best, memory.ends[0]);
  int token = token_of(best);
  if (task.scale > 0 && task.is_plain == 0 && fabsf(logit_of(best)) < INFINITY) {
    const LogitRow row{logits.row(task.row), logits.n, task.scale,
                       __fmul_rn(logit_of(best), task.scale), deficit_scale};
    token = draw_token(memory, row, task, token);
  }
  if (thread != 0) return;
  results[blockIdx.x] = {token, 0, 0, 0};
  last_tokens[task.slot] = token;
}

// A block for each row: log softmax of the sampled token, its rank, and the likeliest tokens.
__global__ void __launch_bounds__(kRowThreads)
    logprob_kernel(Logits raw, const DrawRow* rows, DrawResult* results, TopToken* top) {
  __shared__ SelectMemory memory;
  wait_for_previous();
  let_next_start();
  const DrawRow task = rows[blockIdx.x];
  if (task.num_top < 0) return;
  const int thread = static_cast<int>(threadIdx.x), threads = static_cast<int>(blockDim.x);
  LogitRow row{raw.row(task.row), raw.n, 1.0f, 0, 0};
  float most = -INFINITY;
  int where = 0;
  row.each([&](float logit, int token) {
    if (logit > most) most = logit, where = token;
  });
  row.max = row.x[token_of(block_max_ranked(ranked(most, where), memory.ends[0]))];
  const int token = results[blockIdx.x].token;
  const float own_logit = row.x[token];
  float own_sum = 0;
  int own_greater = 0;
  row.each([&](float logit, int) {
    own_sum += exp_below_one(logit - row.max);
    own_greater += logit > own_logit ? 1 : 0;
  });
  const double sum = block_sum_double(own_sum, memory.sums);
  const double greater = block_sum_double(own_greater, memory.sums);
  const auto log_sum = static_cast<float>(log(sum));

  int found = 0;
  if (task.num_top > 0) {
    Survivors in;
    const BinCut cut = find_bin(memory, row, in, false, task.num_top);
    if (cut.bin >= 0) {
      Ranked low = 0;
      if (cut.count > kListMax)
        low = narrow_down(memory, row, in, cut.bin, cut.held, cut.target, false);
      collect(memory, row, in, 0, cut.bin, low, ~Ranked{0});
      found = min(task.num_top, static_cast<int>(memory.num_listed));
      for (int i = thread; i < found; i += threads) {
        top[task.first_top + i] = {token_of(memory.list[i]),
                                   logit_of(memory.list[i]) - row.max - log_sum};
      }
    }
  }
  if (thread != 0) return;
  results[blockIdx.x] = {token, own_logit - row.max - log_sum, 1 + static_cast<int>(greater),
                         found};
}

uint64_t mix(uint64_t x) {  // splitmix64, as the CPU's
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// The likeliest tokens of a whole row on the host: for clients who ask for (nearly) the vocabulary.
void sort_on_host(const float* raw, int64_t n, int32_t wanted, SampledToken& result) {
  std::vector<int32_t> order;
  for (int64_t i = 0; i < n; ++i) {
    if (raw[i] == raw[i]) order.push_back(static_cast<int32_t>(i));
  }
  const size_t found = std::min<size_t>(wanted, order.size());
  std::partial_sort(order.begin(), order.begin() + found, order.end(), [&](int32_t a, int32_t b) {
    return raw[a] != raw[b] ? raw[a] > raw[b] : a < b;
  });
  if (found == 0) return;
  const float max = raw[order[0]];
  double sum = 0;
  for (const int32_t token : order) sum += std::exp(raw[token] - max);
  const auto log_sum = static_cast<float>(std::log(sum));
  for (size_t i = 0; i < found; ++i)
    result.top_logprobs.emplace_back(order[i], raw[order[i]] - max - log_sum);
}

}  // namespace

void CudaBackend::do_sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows,
                            View last_tokens, std::span<SampledToken> out) {
  const auto num_rows = std::ssize(rows);
  const int64_t n = logits.dim(1);
  std::vector<DrawRow> tasks;
  tasks.reserve(num_rows);
  bool cuts = false, logprobs = false;
  int32_t num_top = 0;
  for (const SampleRow& row : rows) {
    const uint64_t key = mix(mix(row.seed) + row.position);
    DrawRow task{row.row,
                 row.slot,
                 row.temperature > 0 ? 1.0f / row.temperature : 0,
                 std::max(row.top_k, 0),
                 row.top_p,
                 row.min_p,
                 static_cast<uint32_t>(key),
                 static_cast<uint32_t>(key >> 32),
                 row.num_logprobs,
                 num_top,
                 0};
    if (task.top_k >= n) task.top_k = 0;
    task.is_plain =
        task.scale > 0 && task.top_k == 0 && !(task.top_p < 1) && !(task.min_p > 0) ? 1 : 0;
    if (task.num_top > kMostTop) task.num_top = 0;  // see sort_on_host
    num_top += std::max(task.num_top, 0);
    cuts = cuts || (task.scale > 0 && task.is_plain == 0);
    logprobs = logprobs || task.num_top >= 0;
    tasks.push_back(task);
  }
  const auto* staged_rows = staged(std::span<const DrawRow>(tasks));

  // Enough parts to fill the card, each of a few thousand logits at least.
  const int64_t blocks = int64_t{8} * info_.num_multiprocessors;
  const auto parts = static_cast<int>(
      std::clamp<int64_t>(std::min(blocks / num_rows, n / (8 * kPartThreads)), 1, kMaxParts));
  const int64_t largest_bytes =
      ceil_div(num_rows * parts * static_cast<int64_t>(sizeof(Ranked)), 16) * 16;
  const int64_t result_bytes = num_rows * static_cast<int64_t>(sizeof(DrawResult)) +
                               num_top * static_cast<int64_t>(sizeof(TopToken));
  char* memory = static_cast<char*>(scratch(largest_bytes + result_bytes));
  auto* largest = reinterpret_cast<Ranked*>(memory);
  auto* results = reinterpret_cast<DrawResult*>(memory + largest_bytes);
  auto* top = reinterpret_cast<TopToken*>(results + num_rows);
  auto* last = last_tokens.data<int32_t>();

  const Logits edited{logits.data<float>(), logits.stride(0), static_cast<int>(n)};
  const int part_threads = static_cast<int>(
      std::clamp<int64_t>(ceil_div(n, kTokensEach * kWarp) * kWarp, kWarp, kPartThreads));
  run(largest_kernel, {dim3(num_rows, parts), dim3(part_threads), 0, true}, edited, staged_rows,
      largest);
  // Two blocks fit on a multiprocessor when there are rows for them.
  const int most_threads = num_rows <= info_.num_multiprocessors ? kRowThreads : kRowThreads / 2;
  const int threads = static_cast<int>(
      std::clamp<int64_t>(ceil_div(n, kTokensEach * kWarp) * kWarp, kWarp, most_threads));
  if (!cuts) {
    run(finish_kernel, {dim3(ceil_div(num_rows, 4)), dim3(4 * kWarp), 0, true}, staged_rows,
        static_cast<int>(num_rows), largest, parts, last, results);
  } else {
    // The largest power of two with n * scale / 64 < 2^32, but no finer than floats are.
    float deficit_scale = 0x1p28f;
    while (static_cast<double>(deficit_scale) * static_cast<double>(n) >= 0x1p38)
      deficit_scale /= 2;
    run(draw_kernel, {dim3(num_rows), dim3(threads), 0, true}, edited, staged_rows, largest, parts,
        deficit_scale, last, results);
  }
  if (logprobs) {
    const Logits raw{raw_logits.data<float>(), raw_logits.stride(0), static_cast<int>(n)};
    run(logprob_kernel, {dim3(num_rows), dim3(threads), 0, true}, raw, staged_rows, results, top);
  }

  fetch(results, result_bytes, [out, tasks = std::move(tasks)](const void* host) {
    const auto* from = static_cast<const DrawResult*>(host);
    const auto* likeliest = reinterpret_cast<const TopToken*>(from + tasks.size());
    for (size_t i = 0; i < tasks.size(); ++i) {
      SampledToken& token = out[i];
      token.token = from[i].token;
      token.logprob = from[i].logprob;
      token.rank = from[i].rank;
      token.top_logprobs.clear();
      for (int32_t j = 0; j < from[i].num_top; ++j) {
        const TopToken& one = likeliest[tasks[i].first_top + j];
        token.top_logprobs.emplace_back(one.token, one.logprob);
      }
    }
  });
  for (int64_t i = 0; i < num_rows; ++i) {
    const int32_t wanted = rows[i].num_logprobs;
    if (wanted <= kMostTop) continue;
    fetch(raw_logits.data<float>() + rows[i].row * raw_logits.stride(0),
          n * static_cast<int64_t>(sizeof(float)), [n, wanted, result = &out[i]](const void* host) {
            sort_on_host(static_cast<const float*>(host), n, wanted, *result);
          });
  }
}

}  // namespace videre::cuda
