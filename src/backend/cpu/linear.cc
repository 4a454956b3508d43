// Linear: out = x W^T + bias from weights as they lie in the file: dot products of rows, which are
// dense in both. A few rows of x read the weight once, straight from the file; more rows dequantise
// a part of 32 weight rows, which stays in the second-level cache while every row of x passes. No
// unpacked copy outlives such a part. Pointers may have any alignment.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {
namespace {

// Weight rows of a task.
constexpr int64_t kColumns = 128;
// Up to here the weight is read as stored, again for each tile of rows.
constexpr int64_t kDirectRows = 12;
// Rows of x that pass one dequantised part: their sums stay near.
constexpr int64_t kBlockRows = 768;

// A weight's rows as raw bytes.
struct WeightRows {
  const char* data;
  int64_t row_bytes;
  const uint8_t* scales;  // NVFP4 blocks
  int64_t scale_row_bytes;
  RowFormat format;
  bool exact_in_bf16;

  const char* row(int64_t n) const { return data + n * row_bytes; }
  const uint8_t* scales_of(int64_t n) const {
    return scales == nullptr ? nullptr : scales + n * scale_row_bytes;
  }
};

WeightRows rows_of(const Weight& weight) {
  WeightRows rows{};
  rows.data = static_cast<const char*>(weight.data.raw());
  rows.row_bytes = weight.data.stride(0) * static_cast<int64_t>(dtype_size(weight.data.dtype()));
  rows.exact_in_bf16 = true;
  switch (weight.format) {
    case WeightFormat::kPlain:
      rows.format = weight.data.dtype() == DType::kF32    ? RowFormat::kF32
                    : weight.data.dtype() == DType::kBF16 ? RowFormat::kBF16
                                                          : RowFormat::kF16;
      rows.exact_in_bf16 = rows.format == RowFormat::kBF16;
      break;
    case WeightFormat::kFp8:
      rows.format = RowFormat::kE4M3;
      break;
    case WeightFormat::kNvfp4:
      rows.format = RowFormat::kNvfp4;
      rows.scales = static_cast<const uint8_t*>(weight.scales.raw());
      rows.scale_row_bytes = weight.scales.stride(0);
      break;
  }
  return rows;
}

float load_float(ConstView view, int64_t i) {
  const char* p =
      static_cast<const char*>(view.raw()) + i * static_cast<int64_t>(dtype_size(view.dtype()));
  if (view.dtype() == DType::kF32) {
    float value;
    std::memcpy(&value, p, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, p, 2);
  return view.dtype() == DType::kBF16 ? to_float(BF16{bits}) : half_to_float(bits);
}

// What happens to a sum before it is rounded: whole-row scale, then bias.
struct Epilogue {
  const Weight& weight;
  float scale(int64_t n) const {
    if (weight.format == WeightFormat::kNvfp4) return weight.global_scale;
    if (weight.format == WeightFormat::kPlain) return 1.0f;
    return load_float(weight.scales, weight.scales.numel() == 1 ? 0 : n);
  }
  float bias(int64_t n) const { return weight.bias.empty() ? 0.0f : load_float(weight.bias, n); }
};

}  // namespace

void CpuBackend::do_linear(View out, const Operand& operand, const Weight& weight) {
  const WeightRows rows = rows_of(weight);
  if (kernels_.dot_bf16 != nullptr && operand.data.dtype() == DType::kBF16 && rows.exact_in_bf16) {
    run_linear<uint16_t>(out, operand.data, weight);
  } else {
    run_linear<float>(out, operand.data, weight);
  }
}

// T is what products read: float, or the bits of bf16.
template <typename T>
void CpuBackend::run_linear(View out, ConstView x, const Weight& weight) {
  constexpr bool kBf16 = std::is_same_v<T, uint16_t>;
  constexpr int64_t kPart = kDotBytes / static_cast<int64_t>(sizeof(T));
  const int64_t m = x.dim(0), k = x.dim(1), n = weight.num_rows();
  const WeightRows rows = rows_of(weight);
  const Epilogue epilogue{weight};
  const bool readable = kBf16 || rows.format == RowFormat::kBF16 || rows.format == RowFormat::kF32;
  const bool direct = m <= kDirectRows && readable;
  const int64_t tile = kBf16 ? kernels_.dot_bf16_tile_rows : kernels_.dot_tile_rows;
  const int64_t num_blocks = (m + kBlockRows - 1) / kBlockRows;
  const int64_t block_rows = (m + num_blocks - 1) / num_blocks;

  for (int64_t m0 = 0; m0 < m; m0 += block_rows) {
    const int64_t mb = std::min(block_rows, m - m0);
    DotTask<T> shared_task{};
    shared_task.out_row = kColumns;
    shared_task.x = reinterpret_cast<const T*>(row_at(x, m0));
    shared_task.x_row = x.stride(0);
    const bool spread = direct && kBf16 && rows.format == RowFormat::kNvfp4;
    if (spread || (!kBf16 && x.dtype() != DType::kF32)) {
      constexpr int64_t kRowMultiple = 128;
      const int64_t row = (k + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
      T* copy = reinterpret_cast<T*>(scratch(shared(), mb * row));
      pool_.parallel_for(mb, row_grain(k), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          if constexpr (kBf16) {
            kernels_.spread_columns(copy + i * row, shared_task.x + i * shared_task.x_row, k);
          } else {
            kernels_.widen(copy + i * row, row_at(x, m0 + i), x.dtype(), k);
          }
        }
      });
      shared_task.x = copy;
      shared_task.x_row = row;
    }
    const auto dot = [&](const DotTask<T>& task) {
      if constexpr (kBf16) {
        kernels_.dot_bf16(task);
      } else {
        kernels_.dot(task);
      }
    };

    pool_.parallel_for(
        (n + kColumns - 1) / kColumns, 1, [&](int64_t begin, int64_t end, int worker) {
          float* sums = scratch(worker, mb * kColumns + kColumns * (kDotBytes + 64) / 4);
          T* part = reinterpret_cast<T*>(sums + mb * kColumns);
          for (int64_t group = begin; group < end; ++group) {
            const int64_t n0 = group * kColumns, count = std::min(kColumns, n - n0);
            DotTask<T> task = shared_task;
            task.out = sums;
            task.n = count;
            if (direct) {
              task.m = mb;
              task.weight = rows.row(n0);
              task.weight_row = rows.row_bytes;
              task.scales = rows.scales_of(n0);
              task.scales_row = rows.scale_row_bytes;
              task.format = rows.format;
              task.streamed = true;
              task.k = k;
              dot(task);
            } else {
              task.weight = reinterpret_cast<const char*>(part);
              task.weight_row = kDotBytes + 64;
              task.format = kBf16 ? RowFormat::kBF16 : RowFormat::kF32;
              for (int64_t k0 = 0; k0 < k; k0 += kPart) {
                task.k = std::min(kPart, k - k0);
                task.accumulate = k0 > 0;
                for (int64_t j = 0; j < count; ++j) {
                  if constexpr (kBf16) {
                    kernels_.dequantize_bf16(part + j * (kPart + 64 / (int64_t)sizeof(T)),
                                             rows.row(n0 + j), rows.scales_of(n0 + j), rows.format,
                                             k0, task.k);
                  } else {
                    kernels_.dequantize(part + j * (kPart + 64 / (int64_t)sizeof(T)),
                                        rows.row(n0 + j), rows.scales_of(n0 + j), rows.format, k0,
                                        task.k);
                  }
                }
                for (int64_t i = 0; i < mb; i += tile) {
                  task.m = std::min(tile, mb - i);
                  task.x = shared_task.x + i * shared_task.x_row + k0;
                  task.out = sums + i * kColumns;
                  dot(task);
                }
              }
            }
            float scales[kColumns], biases[kColumns];
            for (int64_t j = 0; j < count; ++j) {
              scales[j] = epilogue.scale(n0 + j);
              biases[j] = epilogue.bias(n0 + j);
            }
            for (int64_t i = 0; i < mb; ++i) {
              float line[kColumns];
              for (int64_t j = 0; j < count; ++j) {
                line[j] = sums[i * kColumns + j] * scales[j] + biases[j];
              }
              char* to = row_at(out, m0 + i) + n0 * static_cast<int64_t>(dtype_size(out.dtype()));
              kernels_.narrow(to, line, out.dtype(), count);
            }
          }
        });
  }
}

}  // namespace videre::cpu
