// Depthwise causal convolution with SiLU over a flat batch of sequences. A task is a run of
// channels of one sequence: it keeps its own history, so read and write slot may be the same.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {

void CpuBackend::do_causal_conv(View out, ConstView x, ConstView weight, ConstView bias, View state,
                                const StepView& step) {
  const int64_t channels = x.dim(1), taps = weight.dim(1), history = taps - 1;
  constexpr int64_t kChannels = 512;  // a ring of rows of this width stays in the nearest cache
  const int64_t runs = (channels + kChannels - 1) / kChannels;
  float* w = scratch(shared(), channels * taps + pad_up(channels));  // [taps, channels]
  float* b = w + channels * taps;
  {
    const int64_t size = static_cast<int64_t>(dtype_size(weight.dtype()));
    for (int64_t c = 0; c < channels; ++c) {
      const char* row = static_cast<const char*>(weight.raw()) + c * weight.stride(0) * size;
      for (int64_t j = 0; j < taps; ++j) {
        kernels_.widen(w + j * channels + c, row + j * size, weight.dtype(), 1);
      }
    }
    if (bias.empty()) {
      std::memset(b, 0, channels * sizeof(float));
    } else {
      widen(b, bias);
    }
  }
  const int64_t state_size = static_cast<int64_t>(dtype_size(state.dtype()));
  const auto state_at = [&](int64_t slot, int64_t row, int64_t channel) {
    return static_cast<char*>(state.raw()) +
           (slot * state.stride(0) + row * state.stride(1) + channel) * state_size;
  };

  pool_.parallel_for(step.num_seqs * runs, 1, [&](int64_t begin, int64_t end, int worker) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t seq = task / runs, c0 = task % runs * kChannels;
      const int64_t count = std::min(kChannels, channels - c0);
      const int64_t first = step.cu_seqlens[seq], length = step.cu_seqlens[seq + 1] - first;
      if (length <= 0) continue;
      float* ring = scratch(worker, (taps + 1) * kChannels);  // row t at slot (t + history) % taps
      float* line = ring + taps * kChannels;
      const auto slot_of = [&](int64_t t) { return ring + (t + history) % taps * kChannels; };
      const int32_t read = step.read_slots[seq];
      for (int64_t t = -history; t < 0; ++t) {
        if (read == kNoSlot) {
          std::memset(slot_of(t), 0, count * sizeof(float));
        } else {
          kernels_.widen(slot_of(t), state_at(read, t + history, c0), state.dtype(), count);
        }
      }
      // The rows up to and with t become the state in `slot`, oldest first.
      const auto keep = [&](int64_t t, int32_t slot) {
        for (int64_t j = 0; j < history; ++j) {
          kernels_.narrow(state_at(slot, j, c0), slot_of(t - history + 1 + j), state.dtype(),
                          count);
        }
      };
      int emit = 0;
      while (emit < step.num_emits && step.emit_seqs[emit] < seq) ++emit;
      const int64_t out_size = static_cast<int64_t>(dtype_size(out.dtype()));
      const int64_t in_size = static_cast<int64_t>(dtype_size(x.dtype()));
      for (int64_t t = 0; t < length; ++t) {
        kernels_.widen(slot_of(t), row_at(x, first + t) + c0 * in_size, x.dtype(), count);
        std::memcpy(line, b + c0, count * sizeof(float));
        for (int64_t j = 0; j < taps; ++j) {
          kernels_.fma(line, slot_of(t - history + j), w + j * channels + c0, count);
        }
        kernels_.silu(line, count);
        kernels_.narrow(row_at(out, first + t) + c0 * out_size, line, out.dtype(), count);
        for (; emit < step.num_emits && step.emit_seqs[emit] == seq && step.emit_rows[emit] == t;
             ++emit) {
          keep(t, step.emit_slots[emit]);
        }
      }
      keep(length - 1, step.write_slots[seq]);
    }
  });
}

}  // namespace videre::cpu
