// Copies with a change of dtype, and rows picked by index. Bound by bytes: the same dtype travels
// in the widest words that addresses and sizes allow, 16 bytes in the model's own layouts.
#include "backend/cuda/rowwise.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 256, kInFlight = 4;

// Strides and sizes in units of `Word`.
struct CopyTask {
  void* dst;
  const void* src;
  RowMap dst_map, src_map;
  int64_t num_words, row_words;
};

// Threads walk over the words in strides of the grid, kInFlight of them at a time.
template <typename Word>
__global__ void __launch_bounds__(kThreads) copy_kernel(CopyTask task) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  wait_for_previous();
  let_next_start();
  for (int64_t begin = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
       begin < task.num_words; begin += kInFlight * step) {
    Word words[kInFlight];
    int64_t to[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * step;
      if (at >= task.num_words) continue;
      int64_t from = to[i] = at;
      if (task.row_words != task.num_words) {
        const auto row = static_cast<uint32_t>(at / task.row_words);
        const int64_t column = at - row * task.row_words;
        to[i] = task.dst_map.offset(row) + column;
        from = task.src_map.offset(row) + column;
      }
      words[i] = static_cast<const Word*>(task.src)[from];
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      if (begin + i * step < task.num_words) static_cast<Word*>(task.dst)[to[i]] = words[i];
    }
  }
}

__global__ void convert_kernel(AnyRows dst, AnyRows src, int64_t width, int64_t num_elements) {
  wait_for_previous();
  let_next_start();
  for (int64_t at = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; at < num_elements;
       at += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const auto row = static_cast<uint32_t>(at / width);
    dst.put(row, at % width, src.get(row, at % width));
  }
}

// Which row of the source goes to row `i`, or -1 for none.
struct RowPick {
  const int32_t* index;
  const int32_t* last_tokens;  // null: an index below 0 names no row; else slot -1 - index holds it
  int64_t num_slots, num_rows;

#if defined(__CUDACC__) || defined(VIDERE_CUDA_EMULATED)
  __device__ __forceinline__ int64_t operator()(uint32_t i) const {
    int64_t row = index[i];
    if (row < 0 && last_tokens != nullptr) {
      const int64_t slot = -1 - row;
      row = slot < num_slots ? last_tokens[slot] : -1;
    }
    return row < num_rows ? row : -1;  // past the end: a broken index must not read elsewhere
  }
#endif
};

// A block for each row of `dst`; strides and sizes in units of `Word`.
template <typename Word>
__global__ void __launch_bounds__(kThreads)
    pick_kernel(Word* dst, int64_t dst_stride, const Word* src, int64_t src_stride,
                int64_t row_words, RowPick pick) {
  let_next_start();
  wait_for_previous();
  const int64_t row = pick(blockIdx.x);
  if (row < 0) return;
  dst += blockIdx.x * dst_stride;
  src += row * src_stride;
  for (int64_t begin = threadIdx.x; begin < row_words; begin += kInFlight * blockDim.x) {
    Word words[kInFlight];
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * blockDim.x;
      if (at < row_words) words[i] = src[at];
    }
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) {
      const int64_t at = begin + i * blockDim.x;
      if (at < row_words) dst[at] = words[i];
    }
  }
}

__global__ void pick_any(AnyRows dst, AnyRows src, int64_t width, RowPick pick) {
  wait_for_previous();
  let_next_start();
  const int64_t row = pick(blockIdx.x);
  if (row < 0) return;
  for (int64_t i = threadIdx.x; i < width; i += blockDim.x) {
    dst.put(blockIdx.x, i, src.get(static_cast<uint32_t>(row), i));
  }
}

template <typename Launch>
void pick_rows(View out, ConstView src, const RowPick& pick, Launch&& launch) {
  const int64_t width = out.dim(1), size = static_cast<int64_t>(dtype_size(out.dtype()));
  const auto rows = out.dim(0);
  if (out.dtype() != src.dtype()) {
    return launch(
        pick_any,
        LaunchShape{dim3(rows), dim3(std::min<int64_t>(kThreads, ceil_div(width, kWarp) * kWarp)),
                    0, true},
        any_rows(out), any_rows(src), width, pick);
  }
  with_word(out, src, width * size, [&](auto word) {
    using Word = decltype(word);
    const int64_t words = width * size / static_cast<int64_t>(sizeof(Word));
    const auto stride = [&](const ConstView& view) {
      return view.stride(0) * size / static_cast<int64_t>(sizeof(Word));
    };
    const LaunchShape shape{
        dim3(rows), dim3(std::min<int64_t>(kThreads, ceil_div(words, kWarp) * kWarp)), 0, true};
    launch(pick_kernel<Word>, shape, static_cast<Word*>(out.raw()), stride(out),
           static_cast<const Word*>(src.raw()), stride(src), words, pick);
  });
}

}  // namespace

void CudaBackend::do_copy(View dst, ConstView src) {
  const int64_t most_blocks = int64_t{8} * info_.num_multiprocessors;
  if (dst.dtype() != src.dtype()) {
    const LaunchShape shape{dim3(std::min(most_blocks, ceil_div(src.numel(), kThreads))),
                            dim3(kThreads), 0, true};
    return run(convert_kernel, shape, any_rows(dst), any_rows(src), src.dim(-1), src.numel());
  }
  const int64_t size = static_cast<int64_t>(dtype_size(src.dtype()));
  with_word(dst, src, src.dim(-1) * size, [&](auto word) {
    using Word = decltype(word);
    const int64_t bytes = sizeof(Word), words = src.numel() * size / bytes;
    const bool dense = dst.contiguous() && src.contiguous();
    const CopyTask task{dst.raw(),
                        src.raw(),
                        in_words(row_map(dst), size, bytes),
                        in_words(row_map(src), size, bytes),
                        words,
                        dense ? words : src.dim(-1) * size / bytes};
    const LaunchShape shape{dim3(std::min(most_blocks, ceil_div(words, kThreads))), dim3(kThreads),
                            0, true};
    run(copy_kernel<Word>, shape, task);
  });
}

void CudaBackend::do_embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens) {
  pick_rows(
      out, table,
      {token_ids.data<int32_t>(), last_tokens.data<int32_t>(), last_tokens.dim(0), table.dim(0)},
      [&](auto... args) { run(args...); });
}

void CudaBackend::do_gather_rows(View out, ConstView src, ConstView rows) {
  pick_rows(out, src, {rows.data<int32_t>(), nullptr, 0, src.dim(0)},
            [&](auto... args) { run(args...); });
}

}  // namespace videre::cuda
