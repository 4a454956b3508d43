// Norms and pointwise ops. All are bound by bytes, at decode by latency: every element is read
// once, in 16-byte loads that are all issued before the first is needed, and a row's sums are taken
// from registers. Parameters are read before the previous kernel has ended. What is unaligned,
// oddly strided or of mixed dtypes takes the kernels that end in _any, an element at a time.
#include "backend/cuda/rowwise.h"

namespace videre::cuda {
namespace {

constexpr int kNormThreads = 512;  // at most, a block's

enum class Norm { kRms, kLayer, kGated };

struct NormTask {
  const void* x;
  void* residual;    // null: nothing is added
  const void* gate;  // kGated's z
  void* out;
  int64_t x_stride, residual_stride, gate_stride, out_stride;  // elements from row to row
  FloatReader weight, bias;
  int width, num_groups;  // what is normalised by itself: each group of `width` channels of a row
  float eps;
};

// What the gate does to y.
__device__ __forceinline__ float gated(float y, float z) {
  return y * __fdividef(z, 1.0f + expf(-z));
}

// A block for each group of a row, a thread for kVectors times 16 bytes, side by side with its
// neighbours'. Sums go through registers and one exchange in shared memory (two for the mean and
// the squares around it).
template <typename T, Norm kNorm, bool kAdd, int kVectors>
__global__ void __launch_bounds__(kNormThreads) norm_kernel(NormTask task) {
  constexpr int kCount = kPack<T>;
  __shared__ float sums[2][32];
  let_next_start();  // most often a linear, which can fetch its weights
  const int64_t row = kNorm == Norm::kGated ? blockIdx.x / task.num_groups : blockIdx.x;
  const int64_t first =
      kNorm == Norm::kGated ? static_cast<int64_t>(blockIdx.x % task.num_groups) * task.width : 0;
  const int vectors = task.width / kCount;
  const T* x = static_cast<const T*>(task.x) + row * task.x_stride + first;
  T* residual = static_cast<T*>(task.residual) + row * task.residual_stride;
  const T* gate = static_cast<const T*>(task.gate) + row * task.gate_stride + first;
  T* out = static_cast<T*>(task.out) + row * task.out_stride + first;

  float weight[kVectors][kCount], bias[kVectors][kCount];
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = static_cast<int>(threadIdx.x + i * blockDim.x);
    if (at >= vectors) continue;
    load_parameters<kCount>(task.weight, first + at * kCount, weight[i]);
    if constexpr (kNorm == Norm::kLayer) load_parameters<kCount>(task.bias, at * kCount, bias[i]);
  }
  wait_for_previous();
  uint4 x_bits[kVectors] = {}, other_bits[kVectors] = {};
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = static_cast<int>(threadIdx.x + i * blockDim.x);
    if (at >= vectors) continue;
    x_bits[i] = reinterpret_cast<const uint4*>(x)[at];
    if constexpr (kAdd) other_bits[i] = reinterpret_cast<const uint4*>(residual)[at];
    if constexpr (kNorm == Norm::kGated) other_bits[i] = reinterpret_cast<const uint4*>(gate)[at];
  }

  float v[kVectors][kCount];
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    unpack<T>(x_bits[i], v[i]);
    if constexpr (kAdd || kNorm == Norm::kGated) {
      float other[kCount];
      unpack<T>(other_bits[i], other);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        v[i][j] = kAdd ? other[j] + v[i][j] : gated(v[i][j], other[j]);
      }
    }
    if constexpr (kAdd) {
      const int at = static_cast<int>(threadIdx.x + i * blockDim.x);
      const uint4 rounded_sum = pack<T>(v[i]);
      if (at < vectors) reinterpret_cast<uint4*>(residual)[at] = rounded_sum;
      unpack<T>(rounded_sum, v[i]);  // the norm reads what the residual holds
    }
#pragma unroll
    for (int j = 0; j < kCount; ++j) sum += kNorm == Norm::kLayer ? v[i][j] : v[i][j] * v[i][j];
  }
  sum = block_sum(sum, sums[0]);
  float mean = 0;
  if constexpr (kNorm == Norm::kLayer) {
    mean = sum / static_cast<float>(task.width);
    sum = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (static_cast<int>(threadIdx.x + i * blockDim.x) >= vectors) continue;
#pragma unroll
      for (int j = 0; j < kCount; ++j) sum += (v[i][j] - mean) * (v[i][j] - mean);
    }
    sum = block_sum(sum, sums[1]);
  }
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(task.width) + task.eps);
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    const int at = static_cast<int>(threadIdx.x + i * blockDim.x);
    if (at >= vectors) continue;
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      v[i][j] = (v[i][j] - mean) * factor * weight[i][j];
      if constexpr (kNorm == Norm::kLayer) v[i][j] += bias[i][j];
    }
    reinterpret_cast<uint4*>(out)[at] = pack<T>(v[i]);
  }
}

struct AnyNormTask {
  AnyRows x, other, out;  // other: the residual, or the gate
  FloatReader weight, bias;
  int64_t group;
  uint32_t num_groups;
  float eps;
  Norm norm;
  bool add;
};

// A block for each group of a row; elements are read again in each pass.
__global__ void norm_any(AnyNormTask task) {
  __shared__ float sums[2][32];
  let_next_start();
  wait_for_previous();
  const uint32_t row = blockIdx.x / task.num_groups;
  const int64_t first = blockIdx.x % task.num_groups * task.group, end = first + task.group;
  const auto value = [&](int64_t i) {
    if (task.add) return task.other.get(row, i);
    const float x = task.x.get(row, i);
    return task.norm == Norm::kGated ? gated(x, task.other.get(row, i)) : x;
  };
  float sum = 0;
  for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
    if (task.add) task.other.put(row, i, task.other.get(row, i) + task.x.get(row, i));
    const float v = value(i);
    sum += task.norm == Norm::kLayer ? v : v * v;
  }
  sum = block_sum(sum, sums[0]);
  float mean = 0;
  if (task.norm == Norm::kLayer) {
    mean = sum / static_cast<float>(task.group);
    sum = 0;
    for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
      sum += (value(i) - mean) * (value(i) - mean);
    }
    sum = block_sum(sum, sums[1]);
  }
  const float factor = 1.0f / sqrtf(sum / static_cast<float>(task.group) + task.eps);
  for (int64_t i = first + threadIdx.x; i < end; i += blockDim.x) {
    const float bias = task.norm == Norm::kLayer ? task.bias[i] : 0.0f;
    task.out.put(row, i, (value(i) - mean) * factor * task.weight[i] + bias);
  }
}

struct NormCall {
  Norm norm;
  View out;
  View residual;  // empty: nothing is added
  ConstView x, gate, weight, bias;
  int64_t group;
  float eps;
};

int block_of(int64_t items) {
  return static_cast<int>(
      std::min<int64_t>(1024, ceil_div(std::max<int64_t>(items, 1), kWarp) * kWarp));
}

// Calls launch(kernel, shape, task).
template <typename Launch>
void norm(const NormCall& call, Launch&& launch) {
  const bool adds = !call.residual.empty();
  const int64_t groups = call.x.dim(-1) / call.group;
  const DType dtype = call.x.dtype();
  const int count = 16 / static_cast<int>(dtype_size(dtype));
  const int64_t vectors = call.group / count;
  bool fast =
      call.group % count == 0 && vectors <= 4 * kNormThreads && aligned_parameter(call.weight);
  fast = fast && (call.bias.empty() || aligned_parameter(call.bias));
  for (const ConstView& view : {ConstView(call.out), ConstView(call.residual), call.x, call.gate}) {
    if (view.empty()) continue;
    fast = fast && view.dtype() == dtype && aligned_rows(view, 16) && row_stride(view) >= 0;
  }
  LaunchShape shape{dim3(num_rows(call.x) * groups), dim3(1), 0, true};
  if (!fast) {
    const AnyNormTask task{any_rows(call.x),
                           any_rows(adds ? ConstView(call.residual) : call.gate),
                           any_rows(call.out),
                           reader(call.weight),
                           reader(call.bias),
                           call.group,
                           static_cast<uint32_t>(groups),
                           call.eps,
                           call.norm,
                           adds};
    shape.block = dim3(block_of(std::min<int64_t>(call.group, 256)));
    return launch(norm_any, shape, task);
  }
  const auto stride = [](const ConstView& view) { return view.empty() ? 0 : row_stride(view); };
  const NormTask task{call.x.raw(),
                      call.residual.raw(),
                      call.gate.raw(),
                      call.out.raw(),
                      stride(call.x),
                      stride(call.residual),
                      stride(call.gate),
                      stride(call.out),
                      reader(call.weight),
                      reader(call.bias),
                      static_cast<int>(call.group),
                      static_cast<int>(groups),
                      call.eps};
  const auto pick = [&](auto type, auto vectors_each) {
    using T = decltype(type);
    constexpr int kVectors = decltype(vectors_each)::value;
    shape.block = dim3(block_of(ceil_div(vectors, kVectors)));
    switch (call.norm) {
      case Norm::kRms:
        return adds ? launch(norm_kernel<T, Norm::kRms, true, kVectors>, shape, task)
                    : launch(norm_kernel<T, Norm::kRms, false, kVectors>, shape, task);
      case Norm::kLayer:
        return adds ? launch(norm_kernel<T, Norm::kLayer, true, kVectors>, shape, task)
                    : launch(norm_kernel<T, Norm::kLayer, false, kVectors>, shape, task);
      case Norm::kGated:
        return launch(norm_kernel<T, Norm::kGated, false, kVectors>, shape, task);
    }
  };
  if (dtype == DType::kF32) {
    pick(0.0f, std::integral_constant<int, 4>());
  } else if (vectors <= 256) {
    pick(BF16{}, std::integral_constant<int, 1>());
  } else if (vectors <= 2 * kNormThreads) {
    pick(BF16{}, std::integral_constant<int, 2>());
  } else {
    pick(BF16{}, std::integral_constant<int, 4>());
  }
}

// -------------------------------------------------------------------------------------------------
// pointwise

enum class Pointwise { kRelu2, kGelu, kAdd, kScale };

// erf after Abramowitz and Stegun 7.1.26, as the CPU's: absolute error below 1.5e-7.
__device__ __forceinline__ float erf_near(float x) {
  const float a = fabsf(x), t = __fdividef(1.0f, a * 0.3275911f + 1.0f);
  float p = 1.061405429f;
  p = p * t - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  return copysignf(1.0f - p * t * fast_exp(-(a * a)), x);
}

template <Pointwise kOp>
__device__ __forceinline__ float pointwise(float x, float other) {
  if constexpr (kOp == Pointwise::kRelu2) {
    const float r = x < 0.0f ? 0.0f : x;  // this way round NaN stays NaN
    return r * r;
  } else if constexpr (kOp == Pointwise::kGelu) {
    return 0.5f * x * (1.0f + erf_near(x * 0.70710678f));
  } else if constexpr (kOp == Pointwise::kAdd) {
    return x + other;
  } else {
    return x * other;
  }
}

struct PointwiseTask {
  void* out;
  const void *x, *other;  // other: kAdd's second
  int64_t out_stride, x_stride, other_stride;
  FloatReader columns;  // kScale's factors
  int64_t num_vectors;  // of 16 bytes, in all
  int64_t row_vectors;  // a row's; all of them when rows follow each other
};

constexpr int kPointwiseThreads = 256, kInFlight = 4;

// Threads walk over the vectors in strides of the grid, kInFlight of them at a time.
template <typename T, Pointwise kOp>
__global__ void __launch_bounds__(kPointwiseThreads) pointwise_kernel(PointwiseTask task) {
  constexpr int kCount = kPack<T>;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  let_next_start();
  wait_for_previous();
  for (int64_t begin = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
       begin < task.num_vectors; begin += kInFlight * step) {
    uint4 x[kInFlight] = {}, other[kInFlight] = {};
    uint32_t row[kInFlight] = {}, column[kInFlight] = {};
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * step;
      if (at >= task.num_vectors) continue;
      row[i] = 0, column[i] = static_cast<uint32_t>(at);
      if (task.row_vectors != task.num_vectors) {
        row[i] = static_cast<uint32_t>(at) / static_cast<uint32_t>(task.row_vectors);
        column[i] = static_cast<uint32_t>(at) - row[i] * static_cast<uint32_t>(task.row_vectors);
      }
      x[i] = reinterpret_cast<const uint4*>(static_cast<const T*>(task.x) +
                                            row[i] * task.x_stride)[column[i]];
      if constexpr (kOp == Pointwise::kAdd) {
        other[i] = reinterpret_cast<const uint4*>(static_cast<const T*>(task.other) +
                                                  row[i] * task.other_stride)[column[i]];
      }
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (begin + i * step >= task.num_vectors) continue;
      float v[kCount], w[kCount] = {};
      unpack<T>(x[i], v);
      if constexpr (kOp == Pointwise::kAdd) unpack<T>(other[i], w);
      if constexpr (kOp == Pointwise::kScale) {
        load_parameters<kCount>(task.columns, static_cast<int64_t>(column[i]) * kCount, w);
      }
#pragma unroll
      for (int j = 0; j < kCount; ++j) v[j] = pointwise<kOp>(v[j], w[j]);
      reinterpret_cast<uint4*>(static_cast<T*>(task.out) + row[i] * task.out_stride)[column[i]] =
          pack<T>(v);
    }
  }
}

template <Pointwise kOp>
__global__ void pointwise_any(AnyRows out, AnyRows x, AnyRows other, FloatReader columns,
                              int64_t width, int64_t num_elements) {
  let_next_start();
  wait_for_previous();
  for (int64_t at = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; at < num_elements;
       at += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const auto row = static_cast<uint32_t>(at / width);
    const int64_t i = at % width;
    float second = 0;
    if constexpr (kOp == Pointwise::kAdd) second = other.get(row, i);
    if constexpr (kOp == Pointwise::kScale) second = columns[i];
    out.put(row, i, pointwise<kOp>(x.get(row, i), second));
  }
}

// Calls launch(kernel, shape, arguments...).
template <Pointwise kOp, typename Launch>
void pointwise_op(View out, ConstView x, ConstView other, ConstView columns,
                  int num_multiprocessors, Launch&& launch) {
  const DType dtype = x.dtype();
  bool fast = columns.empty() || aligned_parameter(columns);
  bool dense = columns.empty();
  for (const ConstView& view : {ConstView(out), x, other}) {
    if (view.empty()) continue;
    fast = fast && view.dtype() == dtype && aligned_rows(view, 16) && row_stride(view) >= 0;
    dense = dense && view.contiguous();
  }
  const int64_t most_blocks = int64_t{8} * num_multiprocessors;
  const int64_t vectors = x.numel() / (16 / static_cast<int64_t>(dtype_size(dtype)));
  if (fast && vectors < int64_t{1} << 32) {
    const auto stride = [](const ConstView& view) { return view.empty() ? 0 : row_stride(view); };
    const PointwiseTask task{out.raw(),       x.raw(),   other.raw(),
                             stride(out),     stride(x), stride(other),
                             reader(columns), vectors,   dense ? vectors : vectors / num_rows(x)};
    const LaunchShape shape{dim3(std::min(most_blocks, ceil_div(vectors, kPointwiseThreads))),
                            dim3(kPointwiseThreads), 0, true};
    return with_type(
        dtype, [&](auto type) { launch(pointwise_kernel<decltype(type), kOp>, shape, task); });
  }
  const LaunchShape shape{
      dim3(std::min(most_blocks, ceil_div(x.numel(), kPointwiseThreads))),
      dim3(std::min<int64_t>(kPointwiseThreads, ceil_div(x.numel(), kWarp) * kWarp)), 0, true};
  launch(pointwise_any<kOp>, shape, any_rows(out), any_rows(x), any_rows(other), reader(columns),
         x.dim(-1), x.numel());
}

}  // namespace

void CudaBackend::do_rms_norm(Operand out, ConstView x, ConstView weight, float eps) {
  norm({Norm::kRms, out.data, {}, x, {}, weight, {}, x.dim(-1), eps},
       [&](auto... args) { run(args...); });
}

void CudaBackend::do_add_rms_norm(Operand out, View residual, ConstView x, ConstView weight,
                                  float eps) {
  norm({Norm::kRms, out.data, residual, x, {}, weight, {}, x.dim(-1), eps},
       [&](auto... args) { run(args...); });
}

void CudaBackend::do_layer_norm(Operand out, ConstView x, ConstView weight, ConstView bias,
                                float eps) {
  norm({Norm::kLayer, out.data, {}, x, {}, weight, bias, x.dim(-1), eps},
       [&](auto... args) { run(args...); });
}

void CudaBackend::do_add_layer_norm(Operand out, View residual, ConstView x, ConstView weight,
                                    ConstView bias, float eps) {
  norm({Norm::kLayer, out.data, residual, x, {}, weight, bias, x.dim(-1), eps},
       [&](auto... args) { run(args...); });
}

void CudaBackend::do_gated_rms_norm(Operand out, ConstView y, ConstView z, ConstView weight,
                                    int group_size, float eps) {
  norm({Norm::kGated, out.data, {}, y, z, weight, {}, group_size, eps},
       [&](auto... args) { run(args...); });
}

void CudaBackend::do_add(View x, ConstView y) {
  pointwise_op<Pointwise::kAdd>(x, x, y, {}, info_.num_multiprocessors,
                                [&](auto... args) { run(args...); });
}

void CudaBackend::do_scale_columns(View x, ConstView gamma) {
  pointwise_op<Pointwise::kScale>(x, x, {}, gamma, info_.num_multiprocessors,
                                  [&](auto... args) { run(args...); });
}

void CudaBackend::do_relu2(Operand out, ConstView x) {
  pointwise_op<Pointwise::kRelu2>(out.data, x, {}, {}, info_.num_multiprocessors,
                                  [&](auto... args) { run(args...); });
}

void CudaBackend::do_gelu(Operand out, ConstView x) {
  pointwise_op<Pointwise::kGelu>(out.data, x, {}, {}, info_.num_multiprocessors,
                                 [&](auto... args) { run(args...); });
}

}  // namespace videre::cuda
