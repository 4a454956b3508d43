// Attention of any head size, dtype, alignment and grouping, in float: what the fast ways are held
// against, and what float32 models run.
#include "backend/cuda/attention.h"
#include "base/check.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTileRows = 16;  // query rows (token, head) a block; more when a group is larger
constexpr int kMaxKeys = 32;

struct Sizes {
  int tokens, rows, keys, pitch;  // of a tile; floats a row
  int shared_bytes() const {
    return static_cast<int>(sizeof(float)) *
           (2 * rows * pitch + 2 * keys * pitch + rows * (keys + 3));
  }
};

__device__ __forceinline__ float load(const void* data, int64_t i, DType dtype) {
  if (dtype == DType::kF8E4M3) return unpack_e4m3(static_cast<const uint8_t*>(data)[i]).x;
  return FloatReader{data, dtype}[i];
}

// A block: the rows (token, head of the group) of one tile of a sequence's tokens, against one KV
// head. Rows, keys, values, scores and sums lie in shared memory as floats; threads share out (row,
// key) and (row, dim) pairs. Bound by shared memory: two reads a product.
template <typename T>
__global__ void __launch_bounds__(kThreads) plain_kernel(AttentionArgs args, Sizes sizes) {
  __shared__ int warp_sums[kThreads / kWarp], found[2];
  VIDERE_DYNAMIC_SHARED(shared);
  const int thread = threadIdx.x, head_dim = args.head_dim, pitch = sizes.pitch;
  float* const q = reinterpret_cast<float*>(shared);
  float* const out = q + sizes.rows * pitch;
  float* const keys = out + sizes.rows * pitch;
  float* const values = keys + sizes.keys * pitch;
  float* const scores = values + sizes.keys * pitch;
  float* const row_max = scores + sizes.rows * sizes.keys;
  float* const row_sum = row_max + sizes.rows;
  float* const correction = row_sum + sizes.rows;

  wait_for_previous();
  let_next_start();
  const auto tiles_of = [&](int seq) {
    const int rows = args.rows_of(seq);
    return args.takes(rows) ? (rows + sizes.tokens - 1) / sizes.tokens : 0;
  };
  const SeqRun run = sum_sequences<kThreads>(args.num_seqs, tiles_of, warp_sums);
  const int index = static_cast<int>(blockIdx.x), kv_head = static_cast<int>(blockIdx.y);
  if (index >= run.total) return;
  const int2 place = find_sequence(run, index, tiles_of, found);
  const int seq = place.x, length = args.rows_of(seq), t0 = place.y * sizes.tokens;
  const int tokens = min(sizes.tokens, length - t0), rows = tokens * args.group;
  const int context = args.context_of(seq);
  const int num_keys = args.causal ? context + t0 + tokens : context + length;

  for (int i = thread; i < rows * head_dim; i += kThreads) {
    const int r = i / head_dim, d = i % head_dim, head = kv_head * args.group + r % args.group;
    q[r * pitch + d] = float_of(static_cast<const T*>(
        args.q)[args.q_at(seq, t0 + r / args.group) + int64_t{head} * head_dim + d]);
    out[r * pitch + d] = 0;
  }
  for (int r = thread; r < rows; r += kThreads) {
    row_max[r] = -INFINITY;
    row_sum[r] = 0;
  }
  for (int k0 = 0; k0 < num_keys; k0 += sizes.keys) {
    const int count = min(sizes.keys, num_keys - k0);
    __syncthreads();
    for (int i = thread; i < count * head_dim; i += kThreads) {
      const int key = i / head_dim, d = i % head_dim, position = k0 + key;
      const int64_t block = args.block_of(seq, position / args.block_size);
      const int64_t row = position % args.block_size;
      keys[key * pitch + d] =
          load(args.k, block * args.k_block + kv_head * args.k_head + row * args.k_row + d,
               args.cache_dtype);
      values[key * pitch + d] =
          load(args.v, block * args.v_block + kv_head * args.v_head + row * args.v_row + d,
               args.cache_dtype);
    }
    __syncthreads();
    for (int i = thread; i < rows * count; i += kThreads) {
      const int r = i / count, key = i % count;
      const int seen = args.causal ? context + t0 + r / args.group + 1 : num_keys;
      float sum = 0;
      for (int d = 0; d < head_dim; ++d) sum += q[r * pitch + d] * keys[key * pitch + d];
      scores[r * sizes.keys + key] = k0 + key < seen ? sum * args.score_scale : -INFINITY;
    }
    __syncthreads();
    for (int r = thread; r < rows; r += kThreads) {
      float* const line = scores + r * sizes.keys;
      float max = row_max[r];
      for (int key = 0; key < count; ++key) max = fmaxf(max, line[key]);
      correction[r] = max == -INFINITY ? 1.0f : fast_exp(row_max[r] - max);
      float sum = row_sum[r] * correction[r];
      for (int key = 0; key < count; ++key) {
        line[key] = max == -INFINITY ? 0.0f : fast_exp(line[key] - max);
        sum += line[key];
      }
      row_max[r] = max;
      row_sum[r] = sum;
    }
    __syncthreads();
    for (int i = thread; i < rows * head_dim; i += kThreads) {
      const int r = i / head_dim, d = i % head_dim;
      float sum = out[r * pitch + d] * correction[r];
      for (int key = 0; key < count; ++key)
        sum += scores[r * sizes.keys + key] * values[key * pitch + d];
      out[r * pitch + d] = sum;
    }
  }
  __syncthreads();
  for (int i = thread; i < rows * head_dim; i += kThreads) {
    const int r = i / head_dim, d = i % head_dim, head = kv_head * args.group + r % args.group;
    static_cast<T*>(
        args.out)[args.out_at(seq, t0 + r / args.group) + int64_t{head} * head_dim + d] =
        rounded<T>(out[r * pitch + d] * (args.value_scale / row_sum[r]));
  }
}

}  // namespace

void plain_attention(const AttentionArgs& args, DType dtype, const DeviceInfo& device,
                     Launcher& launcher) {
  Sizes sizes;
  sizes.tokens = args.group < kTileRows ? kTileRows / args.group : 1;
  sizes.rows = sizes.tokens * args.group;
  sizes.pitch = args.head_dim | 1;  // odd: threads of a warp read rows in different banks
  sizes.keys = kMaxKeys;
  while (sizes.keys > 1 && sizes.shared_bytes() > device.shared_bytes_per_block) sizes.keys /= 2;
  VIDERE_CHECK_LE(sizes.shared_bytes(), device.shared_bytes_per_block)
      << args.group << " query heads a KV head, each of " << args.head_dim;
  LaunchShape shape;
  shape.grid = dim3(most_tiles(args, sizes.tokens), args.num_kv_heads);
  shape.block = dim3(kThreads);
  shape.shared_bytes = sizes.shared_bytes();
  shape.overlap = true;
  launcher(dtype == DType::kBF16 ? plain_kernel<BF16> : plain_kernel<float>, shape, args, sizes);
}

}  // namespace videre::cuda
