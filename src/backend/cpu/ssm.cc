// Mamba-2 scan. A task is a few heads of one group of one sequence, which share the products of B
// and C. One row takes the recurrence; longer pieces take the chunked form as matrix products, cut
// at absolute multiples of chunk_size:
//   g[j, i] = B_j . C_i                               (shared by the heads)
//   Y^T     = exp(a_i) (S0 C^T) + X^T (g exp(a_i - a_j) dt_j, j <= i) + D X^T
//   S1      = exp(a_last) S0 + (X exp(a_last - a_j) dt_j)^T B
// with a the running sum of dt A inside the chunk; only differences <= 0 are exponentiated.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"
#include "backend/state_rounding.h"

namespace videre::cpu {
namespace {

constexpr int64_t kHeadsTogether = 4;  // 16 heads a group: 4 tasks share no g, yet fill 32 threads

// `n` elements of a 16-bit state from place `first` of their head on, rounded at random.
template <uint16_t (*kRound)(float, uint32_t)>
void narrow_at_random(uint16_t* to, const float* from, int64_t n, uint32_t first, uint32_t seed) {
  int64_t i = 0;
  if (first % 2 == 1 && n > 0) to[i++] = kRound(from[0], rounding_noise(seed, first / 2) >> 16);
  for (uint32_t pair = (first + 1) / 2; i + 2 <= n; i += 2, ++pair) {
    const uint32_t noise = rounding_noise(seed, pair);
    to[i] = kRound(from[i], noise & 0xffffu);
    to[i + 1] = kRound(from[i + 1], noise >> 16);
  }
  if (i < n) {
    to[i] = kRound(from[i], rounding_noise(seed, (first + static_cast<uint32_t>(i)) / 2) & 0xffffu);
  }
}

float softplus(float v) { return v > 20.0f ? v : std::log1p(std::exp(v)); }

}  // namespace

void CpuBackend::do_ssm_scan(View y, const SsmInputs& in, View state, const StepView& step) {
  const int64_t heads = state.dim(1), head_dim = state.dim(2), n_state = state.dim(3);
  const int64_t groups = in.num_groups, group_heads = heads / groups, q = in.chunk_size;
  const int64_t parts = (group_heads + kHeadsTogether - 1) / kHeadsTogether;
  const int64_t np = pad_up(n_state), pp = pad_up(head_dim), qp = pad_up(q);
  float* dt_bias = scratch(shared(), 3 * heads);
  float* a = dt_bias + heads;
  float* d = a + heads;
  widen(dt_bias, in.dt_bias);
  widen(a, in.a);
  widen(d, in.d);
  const bool float_state = state.dtype() == DType::kF32;
  const int64_t state_size = static_cast<int64_t>(dtype_size(state.dtype()));
  const auto state_at = [&](int64_t slot, int64_t head) {
    return static_cast<char*>(state.raw()) +
           (slot * state.stride(0) + head * state.stride(1)) * state_size;
  };
  const auto element = [](ConstView view, int64_t row, int64_t column) {
    return row_at(view, row) + column * static_cast<int64_t>(dtype_size(view.dtype()));
  };

  const int64_t tasks = step.num_seqs * groups * parts;
  pool_.parallel_for(tasks, 1, [&](int64_t begin, int64_t end, int worker) {
    float* memory = scratch(worker, 2 * q * np + np * qp + 2 * q * qp + q * pp + pp * qp +
                                        kHeadsTogether * pp * np + pp * np + 5 * qp + pp);
    const auto take = [&](int64_t floats) {
      float* part = memory;
      memory += floats;
      return part;
    };
    float* b = take(q * np);        // [rows, N]
    float* c = take(q * np);        // [rows, N]
    float* ct = take(np * qp);      // [N, rows]
    float* g = take(q * qp);        // [j, i]
    float* decayed = take(q * qp);  // [j, i]
    float* x = take(q * pp);        // [rows, P]
    float* yt = take(pp * qp);      // [P, rows]
    float* states = take(kHeadsTogether * pp * np);
    float* emitted = take(pp * np);
    float* dt = take(qp);
    float* a_high = take(qp);
    float* a_low = take(qp);
    float* grown = take(qp);
    float* line = take(qp + pp);
    const int64_t size = head_dim * n_state;

    // Padded rows [P, np] to and from the stored [P, N].
    const auto read_state = [&](float* to, int32_t slot, int64_t head) {
      for (int64_t p = 0; p < head_dim; ++p) {
        float* row = to + p * np;
        if (slot == kNoSlot) {
          std::memset(row, 0, np * sizeof(float));
        } else {
          kernels_.widen(row, state_at(slot, head) + p * n_state * state_size, state.dtype(),
                         n_state);
          std::fill(row + n_state, row + np, 0.0f);
        }
      }
    };
    // `position` is that of the last row in it.
    const auto write_state = [&](int32_t slot, int64_t head, const float* from, int64_t position) {
      const uint32_t seed =
          rounding_seed(static_cast<uint32_t>(head), static_cast<uint32_t>(position));
      for (int64_t p = 0; p < head_dim; ++p) {
        char* to = state_at(slot, head) + p * n_state * state_size;
        if (float_state) {
          std::memcpy(to, from + p * np, n_state * sizeof(float));
        } else {
          const auto narrow = state.dtype() == DType::kBF16 ? narrow_at_random<noisy_bf16>
                                                            : narrow_at_random<noisy_half>;
          narrow(reinterpret_cast<uint16_t*>(to), from + p * np, n_state,
                 static_cast<uint32_t>(p * n_state), seed);
        }
      }
    };

    for (int64_t task = begin; task < end; ++task) {
      const int64_t seq = task / (groups * parts), group = task / parts % groups;
      const int64_t head0 = group * group_heads + task % parts * kHeadsTogether;
      const int64_t count = std::min(kHeadsTogether, (group + 1) * group_heads - head0);
      const int64_t first = step.cu_seqlens[seq], length = step.cu_seqlens[seq + 1] - first;
      if (length <= 0) continue;
      const int32_t read = step.read_slots[seq], write = step.write_slots[seq];
      int emit = 0;
      while (emit < step.num_emits && step.emit_seqs[emit] < seq) ++emit;
      const auto emits_at = [&](int e, int64_t last) {
        return e < step.num_emits && step.emit_seqs[e] == seq && step.emit_rows[e] <= last;
      };
      const auto load_bc = [&](int64_t row, int64_t at) {
        kernels_.widen(b + at * np, element(in.b, row, group * n_state), in.b.dtype(), n_state);
        kernels_.widen(c + at * np, element(in.c, row, group * n_state), in.c.dtype(), n_state);
        std::fill(b + at * np + n_state, b + (at + 1) * np, 0.0f);
        std::fill(c + at * np + n_state, c + (at + 1) * np, 0.0f);
      };
      const auto step_size = [&](int64_t row, int64_t head) {
        float value;
        kernels_.widen(&value, element(in.dt, row, head), in.dt.dtype(), 1);
        return std::min(std::max(softplus(value + dt_bias[head]), in.dt_min), in.dt_max);
      };

      // Decode: straight on the stored state.
      if (length == 1 && float_state && !emits_at(emit, 0)) {
        load_bc(first, 0);
        for (int64_t head = head0; head < head0 + count; ++head) {
          float* s = reinterpret_cast<float*>(state_at(write, head));
          if (read == kNoSlot) {
            std::memset(s, 0, size * sizeof(float));
          } else if (read != write) {
            std::memcpy(s, state_at(read, head), size * sizeof(float));
          }
          kernels_.widen(x, element(in.x, first, head * head_dim), in.x.dtype(), head_dim);
          const float delta = step_size(first, head);
          kernels_.ssm_token(line, s, x, b, c, std::exp(delta * a[head]), delta, d[head], head_dim,
                             n_state);
          kernels_.narrow(const_cast<char*>(element(y, first, head * head_dim)), line, y.dtype(),
                          head_dim);
        }
        continue;
      }

      for (int64_t h = 0; h < count; ++h) read_state(states + h * pp * np, read, head0 + h);
      int64_t done = 0;
      while (done < length) {
        const int64_t position = step.context_lens[seq] + done;
        const int64_t n = std::min(length - done, q - position % q);
        const int64_t row0 = first + done, nn = pad_up(n);
        for (int64_t i = 0; i < n; ++i) load_bc(row0 + i, i);
        if (n > 1) {
          kernels_.transpose(ct, nn, c, np, n, n_state);
          for (int64_t k = 0; k < n_state; ++k) std::fill(ct + k * nn + n, ct + (k + 1) * nn, 0.0f);
          kernels_.gemm(n, nn, n_state, b, np, 1, ct, nn, g, nn, false);
        }
        for (int64_t h = 0; h < count; ++h) {
          const int64_t head = head0 + h;
          float* s = states + h * pp * np;
          double total = 0;
          for (int64_t i = 0; i < n; ++i) {
            kernels_.widen(x + i * pp, element(in.x, row0 + i, head * head_dim), in.x.dtype(),
                           head_dim);
            dt[i] = step_size(row0 + i, head);
            total += double{dt[i]} * a[head];
            a_high[i] = static_cast<float>(total);
            a_low[i] = static_cast<float>(total - a_high[i]);
          }
          if (n == 1) {
            // The same bits as a step of one token, whose state rows lie unpadded: pads are zeros.
            for (int64_t p = 0; p < head_dim; ++p) {
              kernels_.ssm_token(line + p, s + p * np, x + p, b, c, std::exp(dt[0] * a[head]),
                                 dt[0], d[head], 1, n_state);
            }
            kernels_.narrow(const_cast<char*>(element(y, row0, head * head_dim)), line, y.dtype(),
                            head_dim);
            for (int e = emit; emits_at(e, done); ++e) {
              write_state(step.emit_slots[e], head, s, position);
            }
            continue;
          }
          // The state after row `last` of this chunk.
          const auto advance = [&](float* to, int64_t last) {
            const float decay = std::exp(a_high[last]) * (1 + a_low[last]);
            for (int64_t p = 0; p < head_dim; ++p) {
              if (to != s) std::memcpy(to + p * np, s + p * np, np * sizeof(float));
              kernels_.scale(to + p * np, decay, np);
            }
            for (int64_t j = 0; j <= last; ++j) {
              const float factor =
                  std::exp((a_high[last] - a_high[j]) + (a_low[last] - a_low[j])) * dt[j];
              for (int64_t p = 0; p < head_dim; ++p) yt[j * pp + p] = x[j * pp + p] * factor;
            }
            kernels_.gemm(head_dim, np, last + 1, yt, 1, pp, b, np, to, np, true);
          };
          kernels_.ssm_decay(decayed, g, a_high, a_low, dt, n, nn);
          for (int64_t i = 0; i < n; ++i) {
            grown[i] = std::exp(a_high[i]) * (1 + a_low[i]);
          }
          std::fill(grown + n, grown + nn, 0.0f);
          kernels_.gemm(head_dim, nn, n_state, s, np, 1, ct, nn, yt, nn, false);
          for (int64_t p = 0; p < head_dim; ++p) kernels_.multiply(yt + p * nn, grown, nn);
          kernels_.gemm(head_dim, nn, n, x, 1, pp, decayed, nn, yt, nn, true);
          for (int64_t i = 0; i < n; ++i) {
            for (int64_t p = 0; p < head_dim; ++p) {
              line[p] = yt[p * nn + i] + d[head] * x[i * pp + p];
            }
            kernels_.narrow(const_cast<char*>(element(y, row0 + i, head * head_dim)), line,
                            y.dtype(), head_dim);
          }
          for (int e = emit; emits_at(e, done + n - 1); ++e) {
            advance(emitted, step.emit_rows[e] - done);
            write_state(step.emit_slots[e], head, emitted,
                        step.context_lens[seq] + step.emit_rows[e]);
          }
          advance(s, n - 1);
        }
        while (emits_at(emit, done + n - 1)) ++emit;
        done += n;
      }
      for (int64_t h = 0; h < count; ++h) {
        write_state(write, head0 + h, states + h * pp * np, step.context_lens[seq] + length - 1);
      }
    }
  });
}

}  // namespace videre::cpu
