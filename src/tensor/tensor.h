// Tensor owns memory, View borrows it: pointer, dtype, dims, strides. Neither computes.
#pragma once

#include <array>
#include <concepts>
#include <functional>
#include <initializer_list>
#include <memory>
#include <ostream>
#include <span>
#include <string>
#include <vector>

#include "base/check.h"
#include "tensor/dtype.h"

namespace videre {

constexpr int kMaxRank = 4;

/// Up to four dims, outermost first.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    VIDERE_CHECK_LE(dims.size(), static_cast<size_t>(kMaxRank));
    for (const int64_t dim : dims) dims_[rank_++] = dim;
  }
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[i]; }
  int64_t& operator[](int i) { return dims_[i]; }
  int64_t numel() const {
    int64_t product = 1;
    for (int i = 0; i < rank_; ++i) product *= dims_[i];
    return product;
  }
  bool operator==(const Shape& other) const {
    if (rank_ != other.rank_) return false;
    for (int i = 0; i < rank_; ++i) {
      if (dims_[i] != other.dims_[i]) return false;
    }
    return true;
  }
  std::string to_string() const;  // "[2, 3]"

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// For VIDERE_CHECK_EQ, which prints both sides.
inline std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.to_string();
}
inline std::ostream& operator<<(std::ostream& out, DType dtype) { return out << dtype_name(dtype); }

/// A borrowed tensor; Pointer is `void*` or `const void*`. Strides count elements; the last is 1.
template <typename Pointer>
class BasicView {
 public:
  BasicView() = default;
  BasicView(Pointer data, DType dtype, Shape shape) : data_(data), dtype_(dtype), shape_(shape) {
    int64_t stride = 1;
    for (int i = shape.rank() - 1; i >= 0; --i) {
      strides_[i] = stride;
      stride *= shape[i];
    }
  }
  // A View reads as a ConstView.
  template <typename Other>
    requires std::convertible_to<Other, Pointer>
  BasicView(const BasicView<Other>& other)  // NOLINT: implicit by design
      : data_(other.raw()),
        dtype_(other.dtype()),
        shape_(other.shape()),
        strides_(other.strides()) {}

  bool empty() const { return data_ == nullptr; }
  Pointer raw() const { return data_; }
  DType dtype() const { return dtype_; }
  const Shape& shape() const { return shape_; }
  const std::array<int64_t, kMaxRank>& strides() const { return strides_; }
  int rank() const { return shape_.rank(); }
  int64_t dim(int i) const { return shape_[i < 0 ? i + rank() : i]; }
  int64_t stride(int i) const { return strides_[i < 0 ? i + rank() : i]; }
  int64_t numel() const { return shape_.numel(); }
  size_t size_bytes() const { return static_cast<size_t>(numel()) * dtype_size(dtype_); }
  bool contiguous() const {
    int64_t stride = 1;
    for (int i = rank() - 1; i >= 0; --i) {
      if (shape_[i] != 1 && strides_[i] != stride) return false;
      stride *= shape_[i];
    }
    return true;
  }

  template <typename T>
  auto* data() const {
    using Element = std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const T, T>;
    return static_cast<Element*>(data_);
  }

  /// Part [begin, end) of dim `axis`.
  BasicView slice(int axis, int64_t begin, int64_t end) const {
    VIDERE_DCHECK(begin >= 0 && begin <= end && end <= dim(axis));
    BasicView out = *this;
    out.data_ = offset(begin * stride(axis));
    out.shape_[axis < 0 ? axis + rank() : axis] = end - begin;
    return out;
  }
  BasicView rows(int64_t begin, int64_t end) const { return slice(0, begin, end); }
  BasicView columns(int64_t begin, int64_t end) const { return slice(-1, begin, end); }
  /// Item `i` of dim 0, which goes away.
  BasicView operator[](int64_t i) const {
    BasicView out;
    out.data_ = offset(i * strides_[0]);
    out.dtype_ = dtype_;
    for (int axis = 1; axis < rank(); ++axis) {
      Shape grown = out.shape_;
      out.shape_ = push(grown, shape_[axis]);
      out.strides_[axis - 1] = strides_[axis];
    }
    return out;
  }
  /// Same elements, other dims; contiguous views only.
  BasicView reshape(Shape shape) const {
    VIDERE_CHECK(contiguous()) << "reshape of a strided view " << shape_.to_string();
    VIDERE_CHECK_EQ(shape.numel(), numel());
    return BasicView(data_, dtype_, shape);
  }

 private:
  static Shape push(const Shape& shape, int64_t dim) {
    switch (shape.rank()) {
      case 0:
        return Shape{dim};
      case 1:
        return Shape{shape[0], dim};
      case 2:
        return Shape{shape[0], shape[1], dim};
      default:
        return Shape{shape[0], shape[1], shape[2], dim};
    }
  }
  Pointer offset(int64_t elements) const {
    using Byte =
        std::conditional_t<std::is_const_v<std::remove_pointer_t<Pointer>>, const char, char>;
    return static_cast<Byte*>(data_) + elements * static_cast<int64_t>(dtype_size(dtype_));
  }

  Pointer data_ = nullptr;
  DType dtype_ = DType::kF32;
  Shape shape_;
  std::array<int64_t, kMaxRank> strides_{};
};

using View = BasicView<void*>;
using ConstView = BasicView<const void*>;

/// Rows of a view of [..., width], counted over all outer dims.
inline int64_t num_rows(const ConstView& view) {
  return view.rank() == 0 || view.dim(-1) == 0 ? 0 : view.numel() / view.dim(-1);
}

/// Owns device or host memory through the deleter that its maker gave it. Movable only.
class Tensor {
 public:
  Tensor() = default;
  Tensor(View view, std::shared_ptr<void> owner) : view_(view), owner_(std::move(owner)) {}
  Tensor(Tensor&&) = default;
  Tensor& operator=(Tensor&&) = default;

  bool empty() const { return view_.empty(); }
  View view() const { return view_; }
  operator View() const { return view_; }       // NOLINT: a Tensor is passed where a View is read
  operator ConstView() const { return view_; }  // NOLINT
  const Shape& shape() const { return view_.shape(); }
  size_t size_bytes() const { return view_.size_bytes(); }

 private:
  View view_;
  std::shared_ptr<void> owner_;
};

/// Host memory, 64-byte aligned, not initialised.
Tensor make_host_tensor(DType dtype, Shape shape);

}  // namespace videre
