// Pixels to patches, tokens of the tower, pixel shuffle, and EVS dissimilarity; attention of the
// tower is in attention.cu. All are bound by bytes: 16 a load and a store in the model's own
// layouts.
#include <array>

#include "backend/cuda/rowwise.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 256;

int block_of(int64_t items) {
  return static_cast<int>(std::min<int64_t>(kThreads, ceil_div(items, kWarp) * kWarp));
}

// -------------------------------------------------------------------------------------------------
// pixels

struct PixelTask {
  AnyRows out;
  const uint8_t* rgb;
  RowMap rgb_map;
  int height, width;
  int64_t num_items;  // pixels, or sixteens of them
  float mean[3], std[3];
};

// The 256 values of each channel: no arithmetic is left a pixel. Rounded as on the CPU.
__device__ __forceinline__ void fill_table(float (&table)[3][256], const PixelTask& task) {
  for (int i = static_cast<int>(threadIdx.x); i < 3 * 256; i += static_cast<int>(blockDim.x)) {
    const int channel = i / 256;
    table[channel][i % 256] =
        (static_cast<float>(i % 256) / 255.0f - task.mean[channel]) / task.std[channel];
  }
  __syncthreads();
}

// A thread takes 16 pixels of a row; kWhole false: one.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads) normalize_kernel(PixelTask task) {
  __shared__ float table[3][256];
  fill_table(table, task);
  wait_for_previous();
  let_next_start();
  const int64_t item = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (item >= task.num_items) return;
  constexpr int kPixels = kWhole ? 16 : 1;
  const int64_t row_items = task.width / kPixels;
  const auto row = static_cast<uint32_t>(item / row_items);
  const int64_t column = item % row_items * kPixels;
  const float* values = table[row / static_cast<uint32_t>(task.height) % 3];
  const uint8_t* from = task.rgb + task.rgb_map.offset(row) + column;
  T* to = static_cast<T*>(task.out.data) + task.out.map.offset(row) + column;
  if constexpr (kWhole) {
    const uint4 bytes = *reinterpret_cast<const uint4*>(from);
    const uint32_t words[4] = {bytes.x, bytes.y, bytes.z, bytes.w};
    constexpr int kCount = kPack<T>;
#pragma unroll
    for (int i = 0; i < 16 / kCount; ++i) {
      float v[kCount];
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const int at = i * kCount + j;
        v[j] = values[words[at / 4] >> at % 4 * 8 & 0xff];
      }
      reinterpret_cast<uint4*>(to)[i] = pack<T>(v);
    }
  } else {
    *to = rounded<T>(values[*from]);
  }
}

// -------------------------------------------------------------------------------------------------
// runs of rows

// A row of patches is made of 3 p runs of p pixels, channel by channel.
struct PatchRuns {
  int patch, patch_rows, patch_cols, height;
  int64_t run_words;
  __device__ __forceinline__ void operator()(uint32_t out_row, uint32_t run, uint32_t& row,
                                             int64_t& column) const {
    const uint32_t col = out_row % patch_cols, rest = out_row / patch_cols;
    const uint32_t tile = rest / patch_rows, channel = run / patch;
    row = (tile * 3 + channel) * height + rest % patch_rows * patch + run % patch;
    column = col * run_words;
  }
};

// A row of shuffled tokens is made of factor^2 whole rows.
struct ShuffleRuns {
  int rows, cols, factor, transposed;
  __device__ __forceinline__ void operator()(uint32_t out_row, uint32_t run, uint32_t& row,
                                             int64_t& column) const {
    const uint32_t out_rows = rows / factor, out_cols = cols / factor;
    const uint32_t tile = out_row / (out_rows * out_cols), token = out_row % (out_rows * out_cols);
    const uint32_t i = transposed != 0 ? token % out_rows : token / out_cols;
    const uint32_t j = transposed != 0 ? token / out_rows : token % out_cols;
    row = tile * rows * cols + (i * factor + run / factor) * cols + j * factor + run % factor;
    column = 0;
  }
};

// A block for each row of `out`; strides and sizes in units of `Word`.
template <typename Word, typename Runs>
__global__ void __launch_bounds__(kThreads)
    runs_kernel(Word* out, RowMap out_map, const Word* src, RowMap src_map, Runs runs,
                uint32_t row_words, uint32_t run_words) {
  wait_for_previous();
  let_next_start();
  out += out_map.offset(blockIdx.x);
  for (uint32_t at = threadIdx.x; at < row_words; at += blockDim.x) {
    uint32_t row;
    int64_t column;
    runs(blockIdx.x, at / run_words, row, column);
    out[at] = src[src_map.offset(row) + column + at % run_words];
  }
}

// -------------------------------------------------------------------------------------------------
// tokens

struct AssembleTask {
  AnyRows out, patches, positions, prefix;
  uint32_t tokens, num_prefix;
  int64_t width;
};

// A block for each token of a tile: prefix rows as they are, patches with their positions added.
// kWhole: 16 bytes a thread and turn.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kThreads) assemble_kernel(AssembleTask task) {
  wait_for_previous();
  let_next_start();
  const uint32_t tile = blockIdx.x / task.tokens, token = blockIdx.x % task.tokens;
  const bool is_patch = token >= task.num_prefix;
  const uint32_t patch = token - task.num_prefix;
  const uint32_t patch_row = is_patch ? tile * (task.tokens - task.num_prefix) + patch : 0;
  const AnyRows& rows = is_patch ? task.positions : task.prefix;
  const int64_t parameter = rows.map.offset(is_patch ? patch : token);
  const FloatReader parameters{rows.data, rows.dtype};
  if constexpr (kWhole) {
    constexpr int kCount = kPack<T>;
    const auto* from = reinterpret_cast<const uint4*>(static_cast<const T*>(task.patches.data) +
                                                      task.patches.map.offset(patch_row));
    auto* to =
        reinterpret_cast<uint4*>(static_cast<T*>(task.out.data) + task.out.map.offset(blockIdx.x));
    for (int i = static_cast<int>(threadIdx.x); i < task.width / kCount;
         i += static_cast<int>(blockDim.x)) {
      float v[kCount], x[kCount] = {};
      load_parameters<kCount>(parameters, parameter + static_cast<int64_t>(i) * kCount, v);
      if (is_patch) unpack<T>(from[i], x);
#pragma unroll
      for (int j = 0; j < kCount; ++j) v[j] = is_patch ? x[j] + v[j] : v[j];
      to[i] = pack<T>(v);
    }
  } else {
    for (int64_t i = threadIdx.x; i < task.width; i += blockDim.x) {
      const float v = parameters[parameter + i];
      task.out.put(blockIdx.x, i, is_patch ? task.patches.get(patch_row, i) + v : v);
    }
  }
}

// -------------------------------------------------------------------------------------------------
// EVS

struct DissimilarityTask {
  float* out;
  AnyRows rows, previous;
  uint32_t tokens;
  int64_t width;
};

__device__ __forceinline__ float to_bf16_and_back(float v) { return float_of(bf16_of(v)); }

constexpr int kEvsThreads = 128;

// A block for each row and the one before it in time. kWhole: both are rows of T in 16-byte words.
template <typename T, bool kWhole>
__global__ void __launch_bounds__(kEvsThreads)
    dissimilarity_kernel(DissimilarityTask task, bool in_bf16) {
  __shared__ float sums[3][32];
  __shared__ double totals[32];
  wait_for_previous();
  let_next_start();
  const uint32_t row = blockIdx.x;
  const bool first = row < task.tokens;
  const AnyRows& before_rows = first ? task.previous : task.rows;
  if (before_rows.data == nullptr) {
    if (threadIdx.x == 0)
      task.out[row] = 255.0f;  // the first frame ranks before any cosine distance
    return;
  }
  const uint32_t before_row = first ? row : row - task.tokens;
  const auto each = [&](auto&& fn) {
    if constexpr (kWhole) {
      constexpr int kCount = kPack<T>;
      const auto* now = reinterpret_cast<const uint4*>(static_cast<const T*>(task.rows.data) +
                                                       task.rows.map.offset(row));
      const auto* before = reinterpret_cast<const uint4*>(static_cast<const T*>(before_rows.data) +
                                                          before_rows.map.offset(before_row));
      for (int i = static_cast<int>(threadIdx.x); i < task.width / kCount;
           i += static_cast<int>(blockDim.x)) {
        float a[kCount], b[kCount];
        unpack<T>(now[i], a);
        unpack<T>(before[i], b);
#pragma unroll
        for (int j = 0; j < kCount; ++j) fn(a[j], b[j]);
      }
    } else {
      for (int64_t i = threadIdx.x; i < task.width; i += blockDim.x) {
        fn(task.rows.get(row, i), before_rows.get(before_row, i));
      }
    }
  };
  float aa = 0, bb = 0, ab = 0;
  each([&](float a, float b) {
    aa += a * a;
    bb += b * b;
    ab += a * b;
  });
  constexpr float kSmallestNorm = 1e-8f;
  float norm_a = sqrtf(block_sum(aa, sums[0])), norm_b = sqrtf(block_sum(bb, sums[1]));
  float result;
  if (!in_bf16) {
    norm_a = fmaxf(norm_a, kSmallestNorm);
    norm_b = fmaxf(norm_b, kSmallestNorm);
    result = 1.0f - block_sum(ab, sums[2]) / (norm_a * norm_b);
  } else {
    norm_a = fmaxf(to_bf16_and_back(norm_a), kSmallestNorm);
    norm_b = fmaxf(to_bf16_and_back(norm_b), kSmallestNorm);
    // In double the sum is exact, whatever its order; the CPU's is in float, one after another.
    double total = 0;
    each([&](float a, float b) {
      total += to_bf16_and_back(to_bf16_and_back(a / norm_a) * to_bf16_and_back(b / norm_b));
    });
    for (int step = kWarp / 2; step > 0; step /= 2)
      total += __shfl_xor_sync(kAllLanes, total, step);
    if (threadIdx.x % kWarp == 0) totals[threadIdx.x / kWarp] = total;
    __syncthreads();
    total = 0;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / kWarp; ++warp) total += totals[warp];
    result = to_bf16_and_back(1.0f - to_bf16_and_back(static_cast<float>(total)));
  }
  if (threadIdx.x == 0) task.out[row] = result;
}

}  // namespace

void CudaBackend::do_normalize_pixels(View out, ConstView rgb, std::array<float, 3> mean,
                                      std::array<float, 3> std) {
  const bool whole = aligned_rows(out, 16) && aligned_rows(rgb, 16);
  PixelTask task{any_rows(out),
                 rgb.data<uint8_t>(),
                 row_map(rgb),
                 static_cast<int>(out.dim(2)),
                 static_cast<int>(out.dim(3)),
                 out.numel() / (whole ? 16 : 1),
                 {},
                 {}};
  std::copy(mean.begin(), mean.end(), task.mean);
  std::copy(std.begin(), std.end(), task.std);
  const LaunchShape shape{dim3(ceil_div(task.num_items, kThreads)), dim3(kThreads), 0, true};
  with_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    run(whole ? normalize_kernel<T, true> : normalize_kernel<T, false>, shape, task);
  });
}

void CudaBackend::do_patchify(View out, ConstView pixels, int patch_size) {
  const int64_t size = static_cast<int64_t>(dtype_size(out.dtype())), run_bytes = patch_size * size;
  with_word(out, pixels, run_bytes, [&](auto word) {
    using Word = decltype(word);
    const int64_t bytes = sizeof(Word);
    const PatchRuns runs{patch_size, static_cast<int>(pixels.dim(2) / patch_size),
                         static_cast<int>(pixels.dim(3) / patch_size),
                         static_cast<int>(pixels.dim(2)), run_bytes / bytes};
    const int64_t row_words = out.dim(2) * size / bytes;
    const LaunchShape shape{dim3(num_rows(out)), dim3(block_of(row_words)), 0, true};
    run(runs_kernel<Word, PatchRuns>, shape, static_cast<Word*>(out.raw()),
        in_words(row_map(out), size, bytes), static_cast<const Word*>(pixels.raw()),
        in_words(row_map(pixels), size, bytes), runs, row_words, run_bytes / bytes);
  });
}

void CudaBackend::do_assemble_tokens(View out, ConstView patches, ConstView positions,
                                     ConstView prefix) {
  const AssembleTask task{any_rows(out),
                          any_rows(patches),
                          any_rows(positions),
                          any_rows(prefix),
                          static_cast<uint32_t>(out.dim(1)),
                          static_cast<uint32_t>(out.dim(1) - patches.dim(1)),
                          out.dim(2)};
  const bool whole = out.dtype() == patches.dtype() && aligned_rows(out, 16) &&
                     aligned_rows(patches, 16) && aligned_rows(positions, 16) &&
                     aligned_rows(prefix, 16);
  const LaunchShape shape{
      dim3(num_rows(out)),
      dim3(block_of(whole ? out.dim(2) * static_cast<int64_t>(dtype_size(out.dtype())) / 16
                          : out.dim(2))),
      0, true};
  with_type(out.dtype(), [&](auto type) {
    using T = decltype(type);
    run(whole ? assemble_kernel<T, true> : assemble_kernel<T, false>, shape, task);
  });
}

void CudaBackend::do_pixel_shuffle(View out, ConstView x, int rows, int cols, int factor,
                                   bool transposed) {
  const int64_t size = static_cast<int64_t>(dtype_size(out.dtype())), run_bytes = x.dim(2) * size;
  with_word(out, x, run_bytes, [&](auto word) {
    using Word = decltype(word);
    const int64_t bytes = sizeof(Word), row_words = out.dim(2) * size / bytes;
    const ShuffleRuns runs{rows, cols, factor, transposed ? 1 : 0};
    const LaunchShape shape{dim3(num_rows(out)), dim3(block_of(row_words)), 0, true};
    run(runs_kernel<Word, ShuffleRuns>, shape, static_cast<Word*>(out.raw()),
        in_words(row_map(out), size, bytes), static_cast<const Word*>(x.raw()),
        in_words(row_map(x), size, bytes), runs, row_words, run_bytes / bytes);
  });
}

void CudaBackend::do_frame_dissimilarity(View out, ConstView rows, ConstView previous,
                                         int tokens_per_frame, EvsArithmetic arithmetic) {
  const DissimilarityTask task{out.data<float>(), any_rows(rows),
                               previous.empty() ? AnyRows{} : any_rows(previous),
                               static_cast<uint32_t>(tokens_per_frame), rows.dim(1)};
  const bool whole =
      aligned_rows(rows, 16) &&
      (previous.empty() || (previous.dtype() == rows.dtype() && aligned_rows(previous, 16)));
  const LaunchShape shape{dim3(num_rows(rows)), dim3(kEvsThreads), 0, true};
  with_type(rows.dtype(), [&](auto type) {
    using T = decltype(type);
    run(whole ? dissimilarity_kernel<T, true> : dissimilarity_kernel<T, false>, shape, task,
        arithmetic == EvsArithmetic::kBFloat16);
  });
}

}  // namespace videre::cuda
