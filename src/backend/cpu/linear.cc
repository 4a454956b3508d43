// Linear: out = x W^T + bias from weights as they lie in the file. Few rows read each weight row
// once and dot it with all inputs; more rows dequantise and interleave 32 weight rows into a panel
// that stays in the second-level cache while every input row passes. No unpacked copy outlives a
// panel. Pointers may have any alignment.
#include <algorithm>
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {
namespace {

// Up to here dot products beat packing a panel (measured on Sapphire Rapids, N = K = 5120).
constexpr int64_t kDotRows = 8;
// Input rows that pass one panel: their outputs and inputs stay near.
constexpr int64_t kBlockRows = 512;
// Elements of one row that a panel's packing holds at a time: 32 rows of them fit the first-level
// cache.
constexpr int64_t kPackColumns = 256;

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
  const ConstView x = operand.data;
  const int64_t m = x.dim(0), k = x.dim(1), n = weight.num_rows();
  if (m == 0 || n == 0) return;
  const WeightRows rows = rows_of(weight);
  const Epilogue epilogue{weight};
  const bool bf16 =
      kernels_.gemm_bf16 != nullptr && x.dtype() == DType::kBF16 && rows.exact_in_bf16;
  const int64_t element = bf16 ? 2 : 4;
  // Pairs of bf16 need an even row; a row of its own otherwise, with a zero behind.
  const int64_t k_even = k + (k & 1);
  const bool in_place = x.dtype() == (bf16 ? DType::kBF16 : DType::kF32) && (!bf16 || k == k_even);

  const auto finish = [&](const float* sums, int64_t sums_row, int64_t first_row, int64_t num_rows,
                          int64_t first_column, int64_t count, const float* scales,
                          const float* biases) {
    for (int64_t i = 0; i < num_rows; ++i) {
      float line[kPanelColumns];
      for (int64_t j = 0; j < count; ++j) {
        line[j] = sums[i * sums_row + j] * scales[j] + biases[j];
      }
      char* to =
          row_at(out, first_row + i) + first_column * static_cast<int64_t>(dtype_size(out.dtype()));
      kernels_.narrow(to, line, out.dtype(), count);
    }
  };

  for (int64_t m0 = 0; m0 < m; m0 += kBlockRows) {
    const int64_t mb = std::min(kBlockRows, m - m0);
    const char* input = row_at(x, m0);
    int64_t input_row = x.stride(0);
    if (!in_place) {
      input_row = bf16 ? k_even : pad_up(k);
      char* copy = reinterpret_cast<char*>(scratch(shared(), (mb * input_row * element + 3) / 4));
      pool_.parallel_for(mb, row_grain(k), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          char* to = copy + i * input_row * element;
          if (bf16) {
            std::memcpy(to, row_at(x, m0 + i), k * 2);
            std::memset(to + k * 2, 0, (k_even - k) * 2);
          } else {
            kernels_.widen(reinterpret_cast<float*>(to), row_at(x, m0 + i), x.dtype(), k);
          }
        }
      });
      input = copy;
    }
    const int64_t num_panels = (n + kPanelColumns - 1) / kPanelColumns;

    if (m <= kDotRows) {
      pool_.parallel_for(num_panels, 2, [&](int64_t begin, int64_t end, int worker) {
        float* sums = scratch(worker, kDotRows * kPanelColumns + pad_up(k));
        float* row = sums + kDotRows * kPanelColumns;
        for (int64_t panel = begin; panel < end; ++panel) {
          const int64_t n0 = panel * kPanelColumns, count = std::min(kPanelColumns, n - n0);
          float scales[kPanelColumns], biases[kPanelColumns];
          for (int64_t j = 0; j < count; ++j) {
            scales[j] = epilogue.scale(n0 + j);
            biases[j] = epilogue.bias(n0 + j);
          }
          if (bf16) {
            kernels_.gemv_bf16(sums, kPanelColumns, rows.row(n0), rows.row_bytes,
                               rows.scales_of(n0), rows.scale_row_bytes, rows.format, count,
                               reinterpret_cast<const uint16_t*>(input), input_row, mb, k);
          } else {
            for (int64_t j = 0; j < count; ++j) {
              float dots[kDotRows];
              kernels_.dequantize(row, rows.row(n0 + j), rows.scales_of(n0 + j), rows.format, 0, k);
              kernels_.dot_rows(dots, row, reinterpret_cast<const float*>(input), input_row, mb, k);
              for (int64_t i = 0; i < mb; ++i) sums[i * kPanelColumns + j] = dots[i];
            }
          }
          finish(sums, kPanelColumns, m0, mb, n0, count, scales, biases);
        }
      });
      continue;
    }

    // One panel: [k or pairs][32] of 32-bit elements.
    const int64_t depth = bf16 ? k_even / 2 : k;
    pool_.parallel_for(num_panels, 1, [&](int64_t begin, int64_t end, int worker) {
      const int64_t panel_floats = depth * kPanelColumns, sums_floats = mb * kPanelColumns;
      const int64_t pack_row = kPackColumns;
      float* panel = scratch(worker, panel_floats + sums_floats + kPanelColumns * pack_row);
      float* sums = panel + panel_floats;
      float* pack = sums + sums_floats;
      for (int64_t p = begin; p < end; ++p) {
        const int64_t n0 = p * kPanelColumns, count = std::min(kPanelColumns, n - n0);
        float scales[kPanelColumns], biases[kPanelColumns];
        for (int64_t j = 0; j < count; ++j) {
          scales[j] = epilogue.scale(n0 + j);
          biases[j] = epilogue.bias(n0 + j);
        }
        // Rows past n stay zero: their sums are computed and dropped.
        if (count < kPanelColumns) std::memset(pack, 0, kPanelColumns * pack_row * 4);
        for (int64_t k0 = 0; k0 < k; k0 += kPackColumns) {
          const int64_t width = std::min(kPackColumns, k - k0);
          for (int64_t j = 0; j < count; ++j) {
            if (bf16) {
              uint16_t* to = reinterpret_cast<uint16_t*>(pack + j * pack_row);
              kernels_.dequantize_bf16(to, rows.row(n0 + j), rows.scales_of(n0 + j), rows.format,
                                       k0, width);
              if (width & 1) to[width] = 0;
            } else {
              kernels_.dequantize(pack + j * pack_row, rows.row(n0 + j), rows.scales_of(n0 + j),
                                  rows.format, k0, width);
            }
          }
          const int64_t d0 = bf16 ? k0 / 2 : k0, columns = bf16 ? (width + 1) / 2 : width;
          kernels_.transpose(panel + d0 * kPanelColumns, kPanelColumns, pack, pack_row,
                             kPanelColumns, columns);
        }
        if (bf16) {
          kernels_.gemm_bf16(mb, depth, reinterpret_cast<const uint16_t*>(input), input_row,
                             reinterpret_cast<const uint32_t*>(panel), sums);
        } else {
          kernels_.gemm(mb, kPanelColumns, depth, reinterpret_cast<const float*>(input), input_row,
                        1, panel, kPanelColumns, sums, kPanelColumns, false);
        }
        finish(sums, kPanelColumns, m0, mb, n0, count, scales, biases);
      }
    });
  }
}

}  // namespace videre::cpu
