// Rows of edited logits to tokens: temperature, min-p, top-k, top-p, then a draw by exponential
// noise that is a pure function of (seed, position, token). Rows run in parallel; each does a few
// passes over its vocabulary and sorts nothing longer than it must.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {
namespace {

constexpr float kDropped = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  float weight;
  int32_t token;
};
// Likeliest first; of equal ones the lower id.
bool before(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

uint64_t mix(uint64_t x) {  // splitmix64
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

// e[i] = exp(x[i] - max) and their sum, which floats alone would not carry over a vocabulary.
double exp_all(const Kernels& kernels, float* e, const float* x, float max, int64_t n) {
  constexpr int64_t kBlock = 4096;
  double sum = 0;
  for (int64_t i = 0; i < n; i += kBlock) {
    sum += kernels.exp_sum(e + i, x + i, max, std::min(kBlock, n - i));
  }
  return sum;
}

// The k-th largest of x, -infinity when there are fewer. `buffer` holds n floats.
float kth_largest(const float* x, int64_t n, int64_t k, float* buffer) {
  const int64_t capacity = std::min(n, std::max<int64_t>(2 * k, 1024));
  float lowest = kDropped;
  int64_t count = 0;
  const auto shrink = [&] {
    std::nth_element(buffer, buffer + k - 1, buffer + count, std::greater<float>());
    lowest = buffer[k - 1];
    count = k;
  };
  for (int64_t i = 0; i < n; ++i) {
    if (!(x[i] > lowest)) continue;
    buffer[count++] = x[i];
    if (count == capacity && count > k) shrink();
  }
  if (count < k) return kDropped;
  shrink();
  return lowest;
}

// The `wanted` likeliest tokens of x, in order, into `buffer` (n candidates); returns how many.
int64_t likeliest(const float* x, int64_t n, int64_t wanted, Candidate* buffer) {
  wanted = std::min(wanted, n);
  if (wanted <= 0) return 0;
  const int64_t capacity = std::min(n, std::max<int64_t>(2 * wanted, 1024));
  float lowest = kDropped;
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) {
    // Equal to the lowest kept, a later id comes after it.
    if (count >= wanted ? !(x[i] > lowest) : x[i] != x[i]) continue;
    buffer[count++] = {x[i], 0, static_cast<int32_t>(i)};
    if (count == capacity && count > wanted) {
      std::nth_element(buffer, buffer + wanted - 1, buffer + count, before);
      count = wanted;
      lowest = buffer[wanted - 1].logit;
    }
  }
  const int64_t found = std::min(count, wanted);
  std::partial_sort(buffer, buffer + found, buffer + count, before);
  return found;
}

// Drops from x what min-p, top-k and top-p leave out. `e` and `candidates` hold n entries.
void drop_unlikely(const Kernels& kernels, float* x, int64_t n, float max, const SampleRow& row,
                   float* e, Candidate* candidates) {
  if (row.min_p > 0) {
    kernels.exp_sum(e, x, max, n);
    for (int64_t i = 0; i < n; ++i) {
      if (!(e[i] >= row.min_p)) x[i] = kDropped;
    }
  }
  if (row.top_k > 0 && row.top_k < n) {
    const float lowest = kth_largest(x, n, row.top_k, e);
    for (int64_t i = 0; i < n; ++i) {
      if (!(x[i] >= lowest)) x[i] = kDropped;
    }
  }
  if (row.top_p < 1) {
    // A token stays when the likelier ones hold less than top_p. Tokens below `floor` hold less
    // than 1 - top_p together, so that only the others need an order.
    const double sum = exp_all(kernels, e, x, max, n), wanted = row.top_p * sum;
    const auto floor =
        static_cast<float>(0.5 * std::max(0.0, sum - wanted) / static_cast<double>(n));
    int64_t low = 0, high = 0;
    for (int64_t i = 0; i < n; ++i) {
      if (e[i] > floor) candidates[high++] = {x[i], e[i], static_cast<int32_t>(i)};
    }
    // Halves around the cut: candidates before `low` stay, those from `high` on go.
    double held = 0;
    while (high - low > 1) {
      const int64_t middle = low + (high - low) / 2;
      std::nth_element(candidates + low, candidates + middle, candidates + high, before);
      double upper = 0;
      for (int64_t i = low; i < middle; ++i) upper += candidates[i].weight;
      if (held + upper >= wanted) {
        high = middle;
      } else {
        held += upper;
        low = middle;
      }
    }
    const Candidate last = candidates[low];
    for (int64_t i = 0; i < n; ++i) {
      if (!(x[i] > last.logit || (x[i] == last.logit && i <= last.token))) x[i] = kDropped;
    }
  }
}

}  // namespace

void CpuBackend::do_sample(View logits, ConstView raw_logits, std::span<const SampleRow> rows,
                           View last_tokens, std::span<SampledToken> out) {
  const int64_t n = logits.dim(1);
  static_assert(sizeof(Candidate) == 3 * sizeof(float));
  pool_.parallel_for(std::ssize(rows), 1, [&](int64_t begin, int64_t end, int worker) {
    float* x = scratch(worker, 5 * pad_up(n));
    float* e = x + pad_up(n);
    Candidate* candidates = reinterpret_cast<Candidate*>(e + pad_up(n));
    for (int64_t r = begin; r < end; ++r) {
      const SampleRow& row = rows[r];
      const float* edited = reinterpret_cast<const float*>(row_at(logits, row.row));
      SampledToken& result = out[r];
      int64_t token = kernels_.argmax(edited, n);
      if (row.temperature > 0 && std::isfinite(edited[token])) {
        std::memcpy(x, edited, n * sizeof(float));
        kernels_.scale(x, 1.0f / row.temperature, n);
        drop_unlikely(kernels_, x, n, x[token], row, e, candidates);
        token = kernels_.gumbel_argmax(x, n, mix(mix(row.seed) + row.position));
      }
      result.token = static_cast<int32_t>(token);
      last_tokens.data<int32_t>()[row.slot] = result.token;

      result.logprob = 0;
      result.rank = 0;
      result.top_logprobs.clear();
      if (row.num_logprobs < 0) continue;
      const float* raw = reinterpret_cast<const float*>(row_at(raw_logits, row.row));
      const float max = raw[kernels_.argmax(raw, n)];
      const auto log_sum = static_cast<float>(std::log(exp_all(kernels_, e, raw, max, n)));
      result.logprob = raw[token] - max - log_sum;
      result.rank = static_cast<int32_t>(1 + kernels_.count_greater(raw, raw[token], n));
      const int64_t found = likeliest(raw, n, row.num_logprobs, candidates);
      for (int64_t i = 0; i < found; ++i) {
        result.top_logprobs.emplace_back(candidates[i].token, candidates[i].logit - max - log_sum);
      }
    }
  });
}

}  // namespace videre::cpu
