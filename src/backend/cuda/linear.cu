// Linear: out = x W^T + bias. Chooses the kernel: few rows of bf16 read the weight once at the
// memory's speed (linear_row.cu, linear_stream.cu, linear_decode.cu), many run on tensor cores
// through cuBLASLt or linear_gemm.cu.
// What those do not take (float activations, float32 and float16 weights, odd strides) runs in
// float here.
#include <algorithm>

#include "backend/cuda/cublas_lt.h"
#include "backend/cuda/cuda_backend.h"
#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kTile = 64, kDepth = 16;

__device__ __forceinline__ float weight_at(const LinearArgs& p, Stored stored, int64_t row,
                                           int64_t k) {
  const uint8_t* data = p.weight + row * p.weight_stride;
  switch (stored) {
    case Stored::kF32: {
      const uint8_t* from = data + 4 * k;
      if (reinterpret_cast<uintptr_t>(from) % 4 == 0) return *reinterpret_cast<const float*>(from);
      return load_unaligned_float(from);
    }
    case Stored::kBF16:
    case Stored::kF16: {
      const uint8_t* from = data + 2 * k;
      const uint16_t bits = reinterpret_cast<uintptr_t>(from) % 2 == 0
                                ? *reinterpret_cast<const uint16_t*>(from)
                                : load_unaligned_half(from);
      return stored == Stored::kBF16 ? float_of(BF16{bits}) : half_bits_to_float(bits);
    }
    case Stored::kFp8:
      return e4m3_of(data[k]);
    case Stored::kNvfp4: {
      const uint32_t code = data[k / 2] >> (k % 2 * 4);
      const float scale = e4m3_of(p.block_scales[row * p.block_scale_stride + k / 16]);
      return __uint_as_float((code & 7) << 22 | (code & 8) << 28) * 0x1p126f * scale;
    }
  }
  return 0;
}

// Any types, strides and addresses: a block of 256 threads makes a tile of 64 rows by 64 columns, a
// thread 4 by 4 of it in float, from 16 columns of x and W at a time in shared memory. Bound by
// float operations.
template <typename T>
__global__ void __launch_bounds__(256) plain_kernel(LinearArgs p, Stored stored) {
  __shared__ float xs[kDepth][kTile + 4];
  __shared__ float ws[kDepth][kTile + 4];
  const int64_t first_column = static_cast<int64_t>(blockIdx.x) * kTile;
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * kTile;
  const int tx = threadIdx.x % 16, ty = threadIdx.x / 16;
  float sums[4][4] = {};
  for (int64_t k0 = 0; k0 < p.k; k0 += kDepth) {
    __syncthreads();
    for (int i = 0; i < 4; ++i) {
      const int line = ty + 16 * i;
      const int64_t k = k0 + tx, row = first_row + line, column = first_column + line;
      xs[tx][line] = row < p.rows && k < p.k
                         ? float_of(static_cast<const T*>(p.x)[row * p.x_stride + k])
                         : 0.0f;
      ws[tx][line] = column < p.n && k < p.k ? weight_at(p, stored, column, k) : 0.0f;
    }
    __syncthreads();
    for (int k = 0; k < kDepth; ++k) {
      float a[4], b[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        a[i] = xs[k][ty * 4 + i];
        b[i] = ws[k][tx + 16 * i];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) sums[i][j] += a[i] * b[j];
      }
    }
  }
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    const int64_t column = first_column + tx + 16 * j;
    if (column >= p.n) continue;
    const float scale = column_scale(p, column), bias = column_bias(p, column);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int64_t row = first_row + ty * 4 + i;
      if (row < p.rows) store_out<T>(p, row, column, sums[i][j] * scale + bias);
    }
  }
}

Stored stored_of(const Weight& weight) {
  switch (weight.format) {
    case WeightFormat::kFp8:
      return Stored::kFp8;
    case WeightFormat::kNvfp4:
      return Stored::kNvfp4;
    case WeightFormat::kPlain:
      break;
  }
  return weight.data.dtype() == DType::kBF16  ? Stored::kBF16
         : weight.data.dtype() == DType::kF16 ? Stored::kF16
                                              : Stored::kF32;
}

LinearArgs args_of(const View& out, const View& x, const Weight& weight, bool relu2) {
  LinearArgs args{};
  args.relu2 = relu2;
  args.x = x.raw();
  args.x_stride = x.stride(0);
  args.weight = static_cast<const uint8_t*>(weight.data.raw());
  args.weight_stride =
      weight.data.stride(0) * static_cast<int64_t>(dtype_size(weight.data.dtype()));
  args.scale = 1.0f;
  if (weight.format == WeightFormat::kNvfp4) {
    args.block_scales = static_cast<const uint8_t*>(weight.scales.raw());
    args.block_scale_stride = weight.scales.stride(0);
    args.scale = weight.global_scale;
  } else if (weight.format == WeightFormat::kFp8) {
    args.scales = static_cast<const float*>(weight.scales.raw());
    args.scale_per_row = weight.scales.numel() > 1;
  }
  if (!weight.bias.empty()) args.bias = reader(weight.bias);
  args.out = out.raw();
  args.out_stride = out.stride(0);
  args.out_is_float = out.dtype() == DType::kF32;
  args.rows = x.dim(0);
  args.n = weight.num_rows();
  args.k = weight.num_columns();
  return args;
}

// Whether 16-byte pieces of x, of W and of its scales lie where tensor-core kernels load them.
bool in_pieces(Stored stored, const LinearArgs& args) {
  const auto multiple = [](const void* address, int64_t stride, int64_t bytes) {
    return reinterpret_cast<uintptr_t>(address) % bytes == 0 && stride % bytes == 0;
  };
  const int64_t piece = stored == Stored::kBF16 ? 8 : stored == Stored::kFp8 ? 16 : 32;
  if (stored == Stored::kF16 || stored == Stored::kF32 || args.k == 0 || args.k % piece != 0)
    return false;
  if (stored == Stored::kNvfp4 && !multiple(args.block_scales, args.block_scale_stride, 2))
    return false;
  return multiple(args.x, 2 * args.x_stride, 16) && multiple(args.weight, args.weight_stride, 16);
}

LinearArgs rows_of(LinearArgs args, int64_t begin, int64_t end) {
  args.x = static_cast<const BF16*>(args.x) + begin * args.x_stride;
  args.out = static_cast<char*>(args.out) + begin * args.out_stride * (args.out_is_float ? 4 : 2);
  args.rows = end - begin;
  return args;
}

enum class Way { kDecode, kLibrary, kGemm };

constexpr int64_t kMaxDecodeWeights = int64_t{1} << 36;  // its counts are ints

// Rows of bf16 weights from which the library reads them faster than linear_decode.cu: measured on
// an H200, where at 16 rows both take the same 60 us for 20480 x 5120, and at 32 the library 59 to
// its 68.
constexpr int64_t kLibraryRows = 12;

// For bf16 rows and weights in whole pieces. While rows are few the weight's bytes are all that
// counts; so they are for 8- and 4-bit weights a second or third time, against a tile of 128 rows
// that is half empty. cuBLASLt wants bf16 weights, aligned rows of out and a bias of out's type.
Way choose(Stored stored, const LinearArgs& args, bool has_library) {
  if (args.n * args.k > kMaxDecodeWeights) return Way::kGemm;
  const int64_t library_rows = has_library && stored == Stored::kBF16 ? kLibraryRows : kDecodeRows;
  if (args.rows <= library_rows) return Way::kDecode;
  const int64_t out_bytes = args.out_is_float ? 4 : 2;
  const DType out_dtype = args.out_is_float ? DType::kF32 : DType::kBF16;
  if (has_library && stored == Stored::kBF16 && reinterpret_cast<uintptr_t>(args.out) % 16 == 0 &&
      args.out_stride * out_bytes % 16 == 0 &&
      (args.bias.data == nullptr || args.bias.dtype == out_dtype)) {
    return Way::kLibrary;
  }
  return args.rows <= 3 * kDecodeRows ? Way::kDecode : Way::kGemm;
}

}  // namespace

void CudaBackend::do_linear(View out, const Operand& x, const Weight& weight) {
  run_linear(out, x, weight, false);
}

void CudaBackend::do_linear_relu2(View out, const Operand& x, const Weight& weight) {
  run_linear(out, x, weight, true);
}

void CudaBackend::run_linear(View out, const Operand& x, const Weight& weight, bool relu2) {
  const Stored stored = stored_of(weight);
  const LinearArgs args = args_of(out, x.data, weight, relu2);
  if (x.data.dtype() == DType::kBF16 && in_pieces(stored, args)) {
    if (stored == Stored::kBF16 && args.rows == 1)
      return run_row(args, info_.num_multiprocessors, launcher_);
    if (stored == Stored::kBF16 && run_stream(args, info_, launcher_)) return;
    switch (choose(stored, args, cublas_ != nullptr)) {
      case Way::kDecode: {
        // Cards whose blocks have 99 KB of shared memory hold 32 rows of x.
        const int64_t most = info_.shared_bytes_per_block >= 110 << 10 ? kDecodeRows : 32;
        const int64_t slice_rows = ceil_div(args.rows, ceil_div(args.rows, most));
        for (int64_t row = 0; row < args.rows; row += slice_rows) {
          const LinearArgs slice = rows_of(args, row, std::min(args.rows, row + slice_rows));
          const DecodePlan plan =
              plan_decode(stored, slice.rows, args.n, args.k, info_.num_multiprocessors);
          void* parts = plan.part_bytes > 0 ? scratch(plan.part_bytes) : nullptr;
          run_decode(plan, stored, slice, parts, launcher_);
        }
        break;
      }
      case Way::kLibrary:
        if (cublas_->matmul(args.out, out.dtype(), args.out_stride, args.x, args.x_stride,
                            args.weight, args.weight_stride / 2, args.bias.data, args.rows, args.n,
                            args.k, launcher_)) {
          if (relu2) do_relu2({out}, out);
          break;
        }
        [[fallthrough]];
      case Way::kGemm:
        run_gemm(stored, args, launcher_);
    }
    return;
  }
  with_type(x.data.dtype(), [&]<typename T>(T) {
    constexpr int64_t kMaxRows = int64_t{65535} * kTile;  // of a grid
    VIDERE_CHECK_LE(args.rows, kMaxRows) << weight.name;
    run(plain_kernel<T>,
        {.grid = dim3(ceil_div(args.n, kTile), ceil_div(args.rows, kTile)), .block = dim3(256)},
        args, stored);
  });
}

}  // namespace videre::cuda
