// Attention's ops: what they are given becomes AttentionArgs, and the fast kernels get what they
// can take.
#include "backend/cuda/attention.h"
#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {
namespace {

// Sequences of up to so many rows are decoded row by row in steps that also hold longer ones: their
// cache is read once a row, by the whole card, where a tile of rows would read it once through few
// multiprocessors.
constexpr int kDecodeRows = 4;
constexpr int kAppendThreads = 128;

struct AppendArgs {
  const void* k;
  const void* v;
  int64_t k_row, v_row;  // elements
  void* k_cache;
  void* v_cache;
  int64_t k_block, k_head, k_line, v_block, v_head, v_line;
  DType cache_dtype;
  const int32_t* cu_seqlens;
  const int32_t* context_lens;
  const int32_t* block_tables;
  int num_seqs, max_blocks, block_size, num_kv_heads, head_dim;
  float k_inverse, v_inverse;  // 1 / scale of an fp8 cache
};

__device__ __forceinline__ void store(void* to, int64_t i, float value, DType dtype) {
  if (dtype == DType::kF32) static_cast<float*>(to)[i] = value;
  if (dtype == DType::kBF16) static_cast<BF16*>(to)[i] = bf16_of(value);
  if (dtype == DType::kF16) static_cast<uint16_t*>(to)[i] = float_to_half_bits(value);
  if (dtype == DType::kF8E4M3)
    static_cast<uint8_t*>(to)[i] = static_cast<uint8_t>(pack_e4m3(value, 0.0f));
}

// A block: one row of the batch, keys and values; it looks for its sequence 32 at a time. kFast: 8
// values of bfloat16 a thread into a bfloat16 or fp8 cache, all aligned; otherwise one by one.
// Bound by bytes, or by the launch.
template <typename T, bool kFast>
__global__ void __launch_bounds__(kAppendThreads) append_kernel(AppendArgs args) {
  const int row = static_cast<int>(blockIdx.x), thread = threadIdx.x, lane = thread % kWarp;
  // The sequence that holds the row is the last that begins at it or before: empty ones begin where
  // the next does.
  int first = 0, last = args.num_seqs;  // among [first, last)
  if (row < args.num_seqs && args.cu_seqlens[row] == row && args.cu_seqlens[row + 1] == row + 1) {
    first = row, last = row + 1;  // decoding: row i is sequence i
  }
  while (last - first > 1) {
    const int stride = (last - first + kWarp - 1) / kWarp, seq = first + lane * stride;
    const bool before = seq < last && args.cu_seqlens[seq] <= row;
    const int lanes = __popc(__ballot_sync(kAllLanes, before));
    first += (lanes > 0 ? lanes - 1 : 0) * stride;
    last = min(last, first + stride);
  }
  const int begin = args.cu_seqlens[first], seq = first;
  const bool padding = row >= args.cu_seqlens[args.num_seqs];
  let_next_start();
  wait_for_previous();
  if (padding) return;
  const int position = args.context_lens[seq] + row - begin;
  const int64_t block =
      args.block_tables[int64_t{seq} * args.max_blocks + position / args.block_size];
  const int line = position % args.block_size;
  const int width = args.num_kv_heads * args.head_dim;
  if constexpr (kFast) {
    for (int i = thread; i < 2 * (width / 8); i += kAppendThreads) {
      const bool is_v = i >= width / 8;
      const int at = (is_v ? i - width / 8 : i) * 8, head = at / args.head_dim,
                d = at % args.head_dim;
      const BF16* const from = is_v ? static_cast<const BF16*>(args.v) + row * args.v_row
                                    : static_cast<const BF16*>(args.k) + row * args.k_row;
      const uint4 x = *reinterpret_cast<const uint4*>(from + at);
      const int64_t to = is_v ? block * args.v_block + head * args.v_head + line * args.v_line + d
                              : block * args.k_block + head * args.k_head + line * args.k_line + d;
      void* const cache = is_v ? args.v_cache : args.k_cache;
      if (args.cache_dtype == DType::kBF16) {
        *reinterpret_cast<uint4*>(static_cast<BF16*>(cache) + to) = x;
      } else {
        const float inverse = is_v ? args.v_inverse : args.k_inverse;
        const auto two = [&](uint32_t pair) -> uint32_t {
          return pack_e4m3(bf16_low(pair) * inverse, bf16_high(pair) * inverse);
        };
        *reinterpret_cast<uint2*>(static_cast<uint8_t*>(cache) + to) =
            make_uint2(two(x.x) | two(x.y) << 16, two(x.z) | two(x.w) << 16);
      }
    }
  } else {
    for (int i = thread; i < width; i += kAppendThreads) {
      const int head = i / args.head_dim, d = i % args.head_dim;
      const float k = float_of(static_cast<const T*>(args.k)[row * args.k_row + i]);
      const float v = float_of(static_cast<const T*>(args.v)[row * args.v_row + i]);
      store(args.k_cache, block * args.k_block + head * args.k_head + line * args.k_line + d,
            k * args.k_inverse, args.cache_dtype);
      store(args.v_cache, block * args.v_block + head * args.v_head + line * args.v_line + d,
            v * args.v_inverse, args.cache_dtype);
    }
  }
}

// Whether rows of `head_dim` elements that lie `strides` elements apart are whole aligned runs of
// 16 bytes.
bool whole_chunks(const void* data, DType dtype, int64_t head_dim,
                  std::initializer_list<int64_t> strides) {
  const int64_t size = static_cast<int64_t>(dtype_size(dtype));
  bool whole = reinterpret_cast<uintptr_t>(data) % 16 == 0 && head_dim * size % 16 == 0;
  for (const int64_t stride : strides) whole = whole && stride * size % 16 == 0;
  return whole;
}

// Fills in the 16-byte units; false when the fast kernels cannot read or write what they are given.
bool fast_takes(AttentionArgs& args, DType dtype, int64_t num_blocks) {
  if (dtype != DType::kBF16) return false;
  if (args.cache_dtype != DType::kBF16 && args.cache_dtype != DType::kF8E4M3) return false;
  if (args.k_block != args.v_block || args.k_head != args.v_head || args.k_row != args.v_row)
    return false;
  if (!whole_chunks(args.q, dtype, args.head_dim, {args.q_row, args.q_seq}) ||
      !whole_chunks(args.out, dtype, args.head_dim, {args.out_row, args.out_seq}) ||
      !whole_chunks(args.k, args.cache_dtype, args.head_dim,
                    {args.k_block, args.k_head, args.k_row}) ||
      !whole_chunks(args.v, args.cache_dtype, args.head_dim, {})) {
    return false;
  }
  const int64_t unit = 16 / static_cast<int64_t>(dtype_size(args.cache_dtype));
  if ((num_blocks * args.k_block + args.num_kv_heads * args.k_head + args.block_size * args.k_row) /
          unit >
      0xffffffff) {
    return false;
  }
  args.block_units = static_cast<uint32_t>(args.k_block / unit);
  args.head_units = static_cast<uint32_t>(args.k_head / unit);
  args.row_units = static_cast<uint32_t>(args.k_row / unit);
  return true;
}

}  // namespace

void CudaBackend::do_append_kv(View k_cache, View v_cache, ConstView k, ConstView v,
                               const AttentionParams& params, const StepView& step) {
  AppendArgs args{};
  args.k = k.raw(), args.v = v.raw();
  args.k_row = k.stride(0), args.v_row = v.stride(0);
  args.k_cache = k_cache.raw(), args.v_cache = v_cache.raw();
  args.k_block = k_cache.stride(0), args.k_head = k_cache.stride(1),
  args.k_line = k_cache.stride(2);
  args.v_block = v_cache.stride(0), args.v_head = v_cache.stride(1),
  args.v_line = v_cache.stride(2);
  args.cache_dtype = k_cache.dtype();
  args.cu_seqlens = step.cu_seqlens, args.context_lens = step.context_lens,
  args.block_tables = step.block_tables;
  args.num_seqs = step.num_seqs, args.max_blocks = step.max_blocks,
  args.block_size = static_cast<int>(k_cache.dim(2));
  args.num_kv_heads = params.num_kv_heads, args.head_dim = params.head_dim;
  const bool scaled = args.cache_dtype == DType::kF8E4M3;
  args.k_inverse = scaled ? 1.0f / params.k_scale : 1.0f;
  args.v_inverse = scaled ? 1.0f / params.v_scale : 1.0f;
  LaunchShape shape;
  shape.grid = dim3(step.num_tokens);
  shape.block = dim3(kAppendThreads);
  shape.overlap = true;
  const bool fast =
      k.dtype() == DType::kBF16 && (args.cache_dtype == DType::kBF16 || scaled) &&
      args.head_dim % 8 == 0 && whole_chunks(k.raw(), k.dtype(), 8, {args.k_row}) &&
      whole_chunks(v.raw(), v.dtype(), 8, {args.v_row}) &&
      whole_chunks(k_cache.raw(), DType::kBF16, 8, {args.k_block, args.k_head, args.k_line}) &&
      whole_chunks(v_cache.raw(), DType::kBF16, 8, {args.v_block, args.v_head, args.v_line});
  if (fast) {
    run(append_kernel<BF16, true>, shape, args);
  } else {
    run(k.dtype() == DType::kBF16 ? append_kernel<BF16, false> : append_kernel<float, false>, shape,
        args);
  }
}

void CudaBackend::do_paged_attention(View out, ConstView q, ConstView k_cache, ConstView v_cache,
                                     const AttentionParams& params, const StepView& step) {
  AttentionArgs args;
  args.q = q.raw(), args.out = out.raw(), args.k = k_cache.raw(), args.v = v_cache.raw();
  args.q_row = q.stride(0), args.out_row = out.stride(0);
  args.k_block = k_cache.stride(0), args.k_head = k_cache.stride(1), args.k_row = k_cache.stride(2);
  args.v_block = v_cache.stride(0), args.v_head = v_cache.stride(1), args.v_row = v_cache.stride(2);
  args.cache_dtype = k_cache.dtype();
  args.cu_seqlens = step.cu_seqlens, args.context_lens = step.context_lens,
  args.block_tables = step.block_tables;
  args.num_seqs = step.num_seqs, args.num_tokens = step.num_tokens;
  args.max_blocks = step.max_blocks, args.block_size = static_cast<int>(k_cache.dim(2));
  args.num_kv_heads = params.num_kv_heads, args.group = params.num_heads / params.num_kv_heads;
  args.head_dim = params.head_dim;
  const bool scaled = args.cache_dtype == DType::kF8E4M3;
  args.score_scale = params.scale * (scaled ? params.k_scale : 1.0f);
  args.value_scale = scaled ? params.v_scale : 1.0f;

  if (!fast_takes(args, q.dtype(), k_cache.dim(0)) || !decode_takes(args) || !prefill_takes(args)) {
    plain_attention(args, q.dtype(), info_, launcher_);
  } else {
    // As many rows as sequences: nearly always one each. Where not, rows are decoded one by one all
    // the same.
    AttentionArgs decode = args, prefill = args;
    const bool decode_only = step.num_tokens <= step.num_seqs;
    if (!decode_only) {
      decode.max_rows = kDecodeRows;
      prefill.min_rows = kDecodeRows + 1;
    }
    decode_attention(decode, scratch(decode_scratch_bytes(args, info_)), info_, launcher_);
    if (!decode_only) {
      hopper_takes(prefill, info_) ? hopper_attention(prefill, launcher_)
                                   : prefill_attention(prefill, launcher_);
    }
  }
}

void CudaBackend::do_full_attention(View out, ConstView qkv, int num_heads, float scale) {
  const int64_t width = qkv.dim(2) / 3;
  const int64_t size = static_cast<int64_t>(dtype_size(qkv.dtype()));
  AttentionArgs args;
  args.q = qkv.raw(), args.out = out.raw();
  args.k = static_cast<const char*>(qkv.raw()) + width * size;
  args.v = static_cast<const char*>(qkv.raw()) + 2 * width * size;
  args.cache_dtype = qkv.dtype();
  args.head_dim = static_cast<int>(width / num_heads);
  args.q_seq = args.k_block = args.v_block = qkv.stride(0);
  args.q_row = args.k_row = args.v_row = qkv.stride(1);
  args.k_head = args.v_head = args.head_dim;
  args.out_seq = out.stride(0), args.out_row = out.stride(1);
  args.num_seqs = static_cast<int>(qkv.dim(0)), args.block_size = static_cast<int>(qkv.dim(1));
  args.num_tokens = args.num_seqs * args.block_size;
  args.num_kv_heads = num_heads;
  args.causal = false;
  args.score_scale = scale;
  if (out.dtype() == qkv.dtype() && fast_takes(args, qkv.dtype(), qkv.dim(0)) &&
      prefill_takes(args)) {
    prefill_attention(args, launcher_);
  } else {
    plain_attention(args, qkv.dtype(), info_, launcher_);
  }
}

}  // namespace videre::cuda
