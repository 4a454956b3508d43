// Norms and pointwise ops: rows are widened to float, worked on in place, and rounded once.
#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {

void CpuBackend::do_rms_norm(Operand out, ConstView x, ConstView weight, float eps) {
  float* w = scratch(shared(), pad_up(weight.numel()));
  widen(w, weight);
  for_rows(x, 0, [&](int64_t row, float* v) {
    kernels_.rms_norm(v, w, x.dim(-1), eps);
    kernels_.narrow(row_at(out.data, row), v, out.data.dtype(), x.dim(-1));
  });
}

void CpuBackend::do_add_rms_norm(Operand out, View residual, ConstView x, ConstView weight,
                                 float eps) {
  const int64_t width = x.dim(-1);
  float* w = scratch(shared(), pad_up(width));
  widen(w, weight);
  for_rows(x, pad_up(width), [&](int64_t row, float* v) {
    float* r = v + pad_up(width);
    kernels_.widen(r, row_at(residual, row), residual.dtype(), width);
    kernels_.add(r, v, width);
    kernels_.narrow(row_at(residual, row), r, residual.dtype(), width);
    kernels_.widen(r, row_at(residual, row), residual.dtype(), width);  // the rounded sum
    kernels_.rms_norm(r, w, width, eps);
    kernels_.narrow(row_at(out.data, row), r, out.data.dtype(), width);
  });
}

void CpuBackend::do_layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias,
                               float eps) {
  const int64_t width = x.dim(-1);
  float* w = scratch(shared(), 2 * pad_up(width));
  float* b = w + pad_up(width);
  widen(w, weight);
  widen(b, bias);
  for_rows(x, 0, [&](int64_t row, float* v) {
    kernels_.layer_norm(v, w, b, width, eps);
    kernels_.narrow(row_at(out.data, row), v, out.data.dtype(), width);
  });
}

void CpuBackend::do_add_layer_norm(Operand out, View residual, ConstView x, ConstView weight,
                                   ConstView bias, float eps) {
  const int64_t width = x.dim(-1);
  float* w = scratch(shared(), 2 * pad_up(width));
  float* b = w + pad_up(width);
  widen(w, weight);
  widen(b, bias);
  for_rows(x, pad_up(width), [&](int64_t row, float* v) {
    float* r = v + pad_up(width);
    kernels_.widen(r, row_at(residual, row), residual.dtype(), width);
    kernels_.add(r, v, width);
    kernels_.narrow(row_at(residual, row), r, residual.dtype(), width);
    kernels_.widen(r, row_at(residual, row), residual.dtype(), width);  // the rounded sum
    kernels_.layer_norm(r, w, b, width, eps);
    kernels_.narrow(row_at(out.data, row), r, out.data.dtype(), width);
  });
}

void CpuBackend::do_gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight,
                                   int group_size, float eps) {
  const int64_t width = y.dim(-1);
  float* w = scratch(shared(), pad_up(width));
  widen(w, weight);
  for_rows(y, pad_up(width), [&](int64_t row, float* v) {
    float* gate = v + pad_up(width);
    kernels_.widen(gate, row_at(z, row), z.dtype(), width);
    kernels_.gated(v, gate, width);
    for (int64_t first = 0; first < width; first += group_size) {
      kernels_.rms_norm(v + first, w + first, group_size, eps);
    }
    kernels_.narrow(row_at(out.data, row), v, out.data.dtype(), width);
  });
}

void CpuBackend::do_add(View x, ConstView y) {
  const int64_t width = x.dim(-1);
  for_rows(x, pad_up(width), [&](int64_t row, float* v) {
    float* other = v + pad_up(width);
    kernels_.widen(other, row_at(y, row), y.dtype(), width);
    kernels_.add(v, other, width);
    kernels_.narrow(row_at(x, row), v, x.dtype(), width);
  });
}

void CpuBackend::do_scale_columns(View x, ConstView gamma) {
  const int64_t width = x.dim(-1);
  float* factors = scratch(shared(), pad_up(width));
  widen(factors, gamma);
  for_rows(x, 0, [&](int64_t row, float* v) {
    kernels_.multiply(v, factors, width);
    kernels_.narrow(row_at(x, row), v, x.dtype(), width);
  });
}

void CpuBackend::do_relu2(Operand out, ConstView x) {
  for_rows(x, 0, [&](int64_t row, float* v) {
    kernels_.relu2(v, x.dim(-1));
    kernels_.narrow(row_at(out.data, row), v, out.data.dtype(), x.dim(-1));
  });
}

void CpuBackend::do_gelu(Operand out, ConstView x) {
  for_rows(x, 0, [&](int64_t row, float* v) {
    kernels_.gelu(v, x.dim(-1));
    kernels_.narrow(row_at(out.data, row), v, out.data.dtype(), x.dim(-1));
  });
}

}  // namespace videre::cpu
