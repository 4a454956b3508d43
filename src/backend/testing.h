// For tests: a step's index arrays built piece by piece, and tensors filled and read as floats.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace videre {
std::unique_ptr<Backend> make_emulated_backend();
}

namespace videre::testing {

/// Instruction sets that this machine has, worst first. make_cpu_backend falls back when asked for
/// one that it lacks, so duplicates are left out.
inline std::vector<std::string> isas() {
  std::vector<std::string> names{"plain"};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) names.push_back("avx2");
  if (__builtin_cpu_supports("avx512vbmi")) names.push_back("avx512");
  if (__builtin_cpu_supports("avx512bf16")) names.push_back("avx512_bf16");
#endif
  return names;
}

inline bool has_card() {
  static const bool found = make_cuda_backend().ok();
  return found;
}

/// Devices that ops are held against: the CPU's instruction sets, and CUDA on a card or emulated.
inline std::vector<std::string> devices() {
  std::vector<std::string> names = isas();
#if defined(VIDERE_TEST_EMULATED)
  names.emplace_back("emulated");
#elif defined(VIDERE_TEST_CUDA)
  if (has_card()) names.emplace_back("cuda");
#endif
  return names;
}
inline std::unique_ptr<Backend> make_backend(const std::string& device, int num_threads = 2) {
#if defined(VIDERE_TEST_EMULATED)
  if (device == "emulated") return make_emulated_backend();
#elif defined(VIDERE_TEST_CUDA)
  if (device == "cuda") return std::move(make_cuda_backend({.synchronous = true}).value());
#endif
  return make_cpu_backend({.num_threads = num_threads, .isa = device});
}

/// One step of several sequences, in host memory.
class StepArrays {
 public:
  explicit StepArrays(int max_blocks = 1) : max_blocks_(max_blocks) {}

  void add(int length, int context, int32_t read_slot, int32_t write_slot,
           const std::vector<int32_t>& blocks = {}) {
    cu_seqlens_.push_back(cu_seqlens_.back() + length);
    context_lens_.push_back(context);
    read_slots_.push_back(read_slot);
    write_slots_.push_back(write_slot);
    block_tables_.resize(context_lens_.size() * max_blocks_, 0);
    std::copy(blocks.begin(), blocks.end(), block_tables_.end() - max_blocks_);
  }
  void emit(int seq, int row, int32_t slot) {
    emit_seqs_.push_back(seq);
    emit_rows_.push_back(row);
    emit_slots_.push_back(slot);
  }
  int num_rows() const { return cu_seqlens_.back(); }

  /// Valid until the next change; `pad_seqs` empty sequences and `pad_rows` rows come behind.
  StepView view(int pad_rows = 0, int pad_seqs = 0) {
    for (int i = 0; i < pad_seqs; ++i) add(0, 0, kPadSlot, kPadSlot);
    StepView step;
    step.num_tokens = num_rows() + pad_rows;
    step.num_seqs = static_cast<int>(context_lens_.size());
    step.cu_seqlens = cu_seqlens_.data();
    step.context_lens = context_lens_.data();
    step.read_slots = read_slots_.data();
    step.write_slots = write_slots_.data();
    step.block_tables = block_tables_.data();
    step.max_blocks = max_blocks_;
    step.num_emits = static_cast<int>(emit_seqs_.size());
    step.emit_seqs = emit_seqs_.data();
    step.emit_rows = emit_rows_.data();
    step.emit_slots = emit_slots_.data();
    return step;
  }

 private:
  int max_blocks_;
  std::vector<int32_t> cu_seqlens_{0}, context_lens_, read_slots_, write_slots_, block_tables_;
  std::vector<int32_t> emit_seqs_, emit_rows_, emit_slots_;
};

/// Element of a host view as a float.
inline float get(ConstView view, int64_t offset) {
  switch (view.dtype()) {
    case DType::kBF16:
      return to_float(view.data<BF16>()[offset]);
    case DType::kF16:
      return half_to_float(view.data<uint16_t>()[offset]);
    case DType::kF8E4M3:
      return e4m3_to_float(view.data<uint8_t>()[offset]);
    case DType::kU8:
      return view.data<uint8_t>()[offset];
    case DType::kI32:
      return static_cast<float>(view.data<int32_t>()[offset]);
    case DType::kI64:
      return static_cast<float>(view.data<int64_t>()[offset]);
    default:
      break;
  }
  float value;  // a checkpoint's tensors may lie at any address
  std::memcpy(&value, static_cast<const char*>(view.raw()) + 4 * offset, 4);
  return value;
}

/// All elements of a host view, in order, strides followed.
inline std::vector<float> values_of(ConstView view) {
  std::vector<float> out(view.numel());
  for (int64_t i = 0; i < view.numel(); ++i) {
    int64_t rest = i, offset = 0;
    for (int axis = view.rank() - 1; axis >= 0; --axis) {
      offset += rest % view.dim(axis) * view.stride(axis);
      rest /= view.dim(axis);
    }
    out[i] = get(view, offset);
  }
  return out;
}

/// A contiguous host tensor of `values`, rounded to `dtype`.
inline Tensor make_tensor(DType dtype, Shape shape, const std::vector<float>& values) {
  VIDERE_CHECK_EQ(static_cast<size_t>(shape.numel()), values.size());
  Tensor tensor = make_host_tensor(dtype, shape);
  for (size_t i = 0; i < values.size(); ++i) {
    switch (dtype) {
      case DType::kF32:
        tensor.view().data<float>()[i] = values[i];
        break;
      case DType::kBF16:
        tensor.view().data<BF16>()[i] = to_bf16(values[i]);
        break;
      case DType::kF16:
        tensor.view().data<_Float16>()[i] = static_cast<_Float16>(values[i]);
        break;
      case DType::kF8E4M3:
        tensor.view().data<uint8_t>()[i] = float_to_e4m3(values[i]);
        break;
      case DType::kU8:
        tensor.view().data<uint8_t>()[i] = static_cast<uint8_t>(values[i]);
        break;
      case DType::kI32:
        tensor.view().data<int32_t>()[i] = static_cast<int32_t>(values[i]);
        break;
      default:
        VIDERE_CHECK(false) << dtype_name(dtype);
    }
  }
  return tensor;
}

inline std::vector<float> random_values(int64_t count, uint32_t seed, float scale = 1) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> out(count);
  for (float& value : out) value = normal(generator);
  return out;
}

inline Tensor random_tensor(DType dtype, Shape shape, uint32_t seed, float scale = 1) {
  return make_tensor(dtype, shape, random_values(shape.numel(), seed, scale));
}

/// A view of `shape` inside a larger tensor: rows lie apart, nothing is aligned unless asked for
/// (rows of 16 elements or multiples then start at whole cache lines), and what is around it must
/// stay as it is.
class Island {
 public:
  Island(DType dtype, Shape shape, const std::vector<float>& values, bool aligned = false)
      : shape_(shape), before_(aligned ? 16 : 3), behind_(aligned ? 16 : 5) {
    Shape outer = shape;
    outer[shape.rank() - 1] += before_ + behind_;
    if (shape.rank() > 1) outer[0] += 1;
    tensor_ = make_host_tensor(dtype, outer);
    std::memset(tensor_.view().raw(), kFill, tensor_.size_bytes());
    const std::vector<float> rounded = values_of(make_tensor(dtype, shape, values));
    for (int64_t i = 0; i < shape.numel(); ++i) set(i, rounded[i]);
  }
  Island(DType dtype, Shape shape) : Island(dtype, shape, std::vector<float>(shape.numel(), 7)) {}

  View view() const {
    View all = tensor_;
    if (shape_.rank() > 1) all = all.rows(0, shape_[0]);
    return all.columns(before_, before_ + shape_[shape_.rank() - 1]);
  }
  operator View() const { return view(); }       // NOLINT
  operator ConstView() const { return view(); }  // NOLINT
  std::vector<float> values() const { return values_of(view()); }
  /// True when no byte outside of the view has changed.
  bool untouched_around() const {
    std::vector<bool> inside(tensor_.size_bytes(), false);
    const size_t size = dtype_size(view().dtype());
    for (int64_t i = 0; i < shape_.numel(); ++i) {
      std::fill_n(inside.begin() + static_cast<int64_t>(offset(i) * size), size, true);
    }
    const auto* bytes = tensor_.view().data<uint8_t>();
    for (size_t i = 0; i < inside.size(); ++i) {
      if (!inside[i] && bytes[i] != kFill) return false;
    }
    return true;
  }

 private:
  static constexpr uint8_t kFill = 0xc3;

  size_t offset(int64_t i) const {
    const View part = view();
    int64_t at = before_;
    for (int axis = part.rank() - 1; axis >= 0; --axis) {
      at += i % part.dim(axis) * part.stride(axis);
      i /= part.dim(axis);
    }
    return static_cast<size_t>(at);
  }
  void set(int64_t i, float value) {
    const Tensor one = make_tensor(tensor_.view().dtype(), Shape{1}, {value});
    const size_t size = dtype_size(tensor_.view().dtype());
    std::memcpy(tensor_.view().data<uint8_t>() + offset(i) * size, one.view().raw(), size);
  }

  Shape shape_;
  int64_t before_, behind_;
  Tensor tensor_;
};

/// Every value within `absolute` + `relative` of the expected one, the roundings of `dtype` added.
inline void expect_near(const std::vector<float>& got, const std::vector<double>& expected,
                        DType dtype, double relative, double absolute, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  const double rounding = dtype == DType::kBF16 ? 0x1p-8 : dtype == DType::kF8E4M3 ? 0x1p-4 : 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double allowed = absolute + (relative + rounding) * std::abs(expected[i]);
    ASSERT_TRUE(std::abs(got[i] - expected[i]) <= allowed)
        << what << ": element " << i << " is " << got[i] << ", expected " << expected[i];
  }
}

}  // namespace videre::testing
