// Pixels to patches, tokens of the tower, pixel shuffle, and EVS dissimilarity.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {

void CpuBackend::do_normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                                     std::array<float, 3> std) {
  const int64_t height = out.dim(2), width = out.dim(3);
  // The 256 values of each channel: no arithmetic is left a pixel.
  float table[3][256];
  for (int channel = 0; channel < 3; ++channel) {
    for (int value = 0; value < 256; ++value) {
      table[channel][value] = (static_cast<float>(value) / 255.0f - mean[channel]) / std[channel];
    }
  }
  pool_.parallel_for(out.dim(0) * 3 * height, row_grain(width),
                     [&](int64_t begin, int64_t end, int worker) {
                       float* line = scratch(worker, pad_up(width));
                       for (int64_t row = begin; row < end; ++row) {
                         const float* values = table[row / height % 3];
                         const auto* from = reinterpret_cast<const uint8_t*>(row_at(rgb, row));
                         for (int64_t i = 0; i < width; ++i) line[i] = values[from[i]];
                         kernels_.narrow(row_at(out, row), line, out.dtype(), width);
                       }
                     });
}

void CpuBackend::do_patchify(View out, ConstView pixels, int patch_size) {
  const int64_t p = patch_size, rows = pixels.dim(2) / p, cols = pixels.dim(3) / p;
  const int64_t size = static_cast<int64_t>(dtype_size(pixels.dtype()));
  pool_.parallel_for(pixels.dim(0) * rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t tile = task / rows, r = task % rows;
      for (int64_t channel = 0; channel < 3; ++channel) {
        for (int64_t y = 0; y < p; ++y) {
          const char* from = row_at(pixels, (tile * 3 + channel) * pixels.dim(2) + r * p + y);
          for (int64_t c = 0; c < cols; ++c) {
            char* to =
                row_at(out, tile * rows * cols + r * cols + c) + (channel * p + y) * p * size;
            std::memcpy(to, from + c * p * size, p * size);
          }
        }
      }
    }
  });
}

void CpuBackend::do_assemble_tokens(View out, ConstView patches, ConstView positions,
                                    ConstView prefix) {
  const int64_t tokens = out.dim(1), width = out.dim(2), num_prefix = tokens - patches.dim(1);
  pool_.parallel_for(
      out.dim(0) * tokens, row_grain(width), [&](int64_t begin, int64_t end, int worker) {
        float* line = scratch(worker, 2 * pad_up(width));
        float* position = line + pad_up(width);
        for (int64_t row = begin; row < end; ++row) {
          const int64_t tile = row / tokens, token = row % tokens;
          if (token < num_prefix) {
            kernels_.widen(line, row_at(prefix, token), prefix.dtype(), width);
          } else {
            const int64_t patch = token - num_prefix;
            kernels_.widen(line, row_at(patches, tile * patches.dim(1) + patch), patches.dtype(),
                           width);
            kernels_.widen(position, row_at(positions, patch), positions.dtype(), width);
            kernels_.add(line, position, width);
          }
          kernels_.narrow(row_at(out, row), line, out.dtype(), width);
        }
      });
}

void CpuBackend::do_pixel_shuffle(View out, ConstView x, int rows, int cols, int factor,
                                  bool transposed) {
  const int64_t width = x.dim(2), f = factor, out_rows = rows / f, out_cols = cols / f;
  const int64_t bytes = width * static_cast<int64_t>(dtype_size(x.dtype()));
  pool_.parallel_for(x.dim(0) * out_rows * out_cols, row_grain(width * f * f),
                     [&](int64_t begin, int64_t end, int) {
                       for (int64_t row = begin; row < end; ++row) {
                         const int64_t tile = row / (out_rows * out_cols);
                         const int64_t token = row % (out_rows * out_cols);
                         const int64_t i = transposed ? token % out_rows : token / out_cols;
                         const int64_t j = transposed ? token / out_rows : token % out_cols;
                         char* to = row_at(out, row);
                         for (int64_t dy = 0; dy < f; ++dy) {
                           for (int64_t dx = 0; dx < f; ++dx, to += bytes) {
                             const int64_t from = (i * f + dy) * cols + j * f + dx;
                             std::memcpy(to, row_at(x, tile * x.dim(1) + from), bytes);
                           }
                         }
                       }
                     });
}

void CpuBackend::do_frame_dissimilarity(View out, ConstView rows, ConstView previous,
                                        int tokens_per_frame, EvsArithmetic arithmetic) {
  const int64_t width = rows.dim(-1), tokens = tokens_per_frame;
  constexpr float kFirstFrame = 255.0f;  // ranks before any cosine distance
  pool_.parallel_for(num_rows(rows), row_grain(width), [&](int64_t begin, int64_t end, int worker) {
    float* now = scratch(worker, 2 * pad_up(width));
    float* before = now + pad_up(width);
    for (int64_t row = begin; row < end; ++row) {
      float result = kFirstFrame;
      if (row >= tokens || !previous.empty()) {
        kernels_.widen(now, row_at(rows, row), rows.dtype(), width);
        if (row >= tokens) {
          kernels_.widen(before, row_at(rows, row - tokens), rows.dtype(), width);
        } else {
          kernels_.widen(before, row_at(previous, row), previous.dtype(), width);
        }
        constexpr float kSmallestNorm = 1e-8f;
        float norm_a = std::sqrt(kernels_.inner(now, now, width));
        float norm_b = std::sqrt(kernels_.inner(before, before, width));
        if (arithmetic == EvsArithmetic::kFloat32) {
          norm_a = std::max(norm_a, kSmallestNorm);
          norm_b = std::max(norm_b, kSmallestNorm);
          result = 1.0f - kernels_.inner(now, before, width) / (norm_a * norm_b);
        } else {
          const auto round = [](float v) { return to_float(to_bf16(v)); };
          norm_a = std::max(round(norm_a), kSmallestNorm);
          norm_b = std::max(round(norm_b), kSmallestNorm);
          float total = 0;
          for (int64_t i = 0; i < width; ++i) {
            total += round(round(now[i] / norm_a) * round(before[i] / norm_b));
          }
          result = round(1.0f - round(total));
        }
      }
      std::memcpy(static_cast<char*>(out.raw()) + row * sizeof(float), &result, sizeof(float));
    }
  });
}

}  // namespace videre::cpu
