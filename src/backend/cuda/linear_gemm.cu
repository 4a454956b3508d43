// Linear for many rows of bf16, where cuBLASLt is not there or does not read the weight's format.
//
// A block of 8 warps makes 128 rows by 128 columns of out, a warp 64 by 32 of them, from 64 columns
// of x and W at a time: both lie in shared memory as lines of 128 bytes whose 16-byte pieces are
// permuted by line, so that ldmatrix meets no bank twice; three stages. Blocks that run together
// share rows and columns in L2. 8- and 4-bit weights come through registers, where they turn into
// bf16 exactly. Bound by tensor-core operations.
#include <algorithm>

#include "backend/cuda/linear.h"

namespace videre::cuda {
namespace {

constexpr int kTile = 128, kTileK = 64, kStages = 3, kThreads = 256;
constexpr int kGroup = 16;  // row tiles that walk along n together
constexpr int kLine = 2 * kTileK, kOperandBytes = kTile * kLine, kStageBytes = 2 * kOperandBytes;
constexpr int kSumPitch = kTile + 8;
constexpr int kSharedBytes = kStages * kStageBytes;
static_assert(kTile * kSumPitch * 4 <= kSharedBytes);

// Where piece `piece` of line `line` lies.
__device__ __forceinline__ int piece_at(int line, int piece) {
  return line * kLine + (piece ^ line % 8) * 16;
}

// A stage of 8- or 4-bit weights on its way through a thread's registers.
template <Stored kStored>
struct Raw {
  static constexpr int kElements = kStored == Stored::kFp8 ? 16 : 32;  // of 16 bytes
  static constexpr int kInLine = kTileK / kElements;                   // pieces of a line
  static constexpr int kCount = kTile * kInLine / kThreads;            // pieces of a thread
  uint4 pieces[kCount];
  uint32_t scales[kCount];
};

template <Stored kStored>
__device__ __forceinline__ void load_raw(const LinearArgs& p, int64_t first_column, int64_t k0,
                                         Raw<kStored>& raw) {
  using R = Raw<kStored>;
#pragma unroll
  for (int i = 0; i < R::kCount; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int64_t column = min(first_column + at / R::kInLine, p.n - 1);
    const int64_t k = k0 + at % R::kInLine * R::kElements;
    raw.pieces[i] = make_uint4(0, 0, 0, 0);
    raw.scales[i] = 0;
    if (k >= p.k) continue;
    raw.pieces[i] = *reinterpret_cast<const uint4*>(p.weight + column * p.weight_stride +
                                                    k * 16 / R::kElements);
    if constexpr (kStored == Stored::kNvfp4) {
      raw.scales[i] = *reinterpret_cast<const uint16_t*>(p.block_scales +
                                                         column * p.block_scale_stride + k / 16);
    }
  }
}

template <Stored kStored>
__device__ __forceinline__ void store_raw(const Raw<kStored>& raw, char* lines) {
  using R = Raw<kStored>;
#pragma unroll
  for (int i = 0; i < R::kCount; ++i) {
    const int at = static_cast<int>(threadIdx.x) + i * kThreads;
    const int line = at / R::kInLine, first = at % R::kInLine * (R::kElements / 8);
    const uint32_t words[4] = {raw.pieces[i].x, raw.pieces[i].y, raw.pieces[i].z, raw.pieces[i].w};
#pragma unroll
    for (int h = 0; h < R::kElements / 8; ++h) {
      uint32_t pairs[4];
      if constexpr (kStored == Stored::kFp8) {
        uint32_t two[2];
        unpack_fp8(words[2 * h], two);
        pairs[0] = two[0], pairs[1] = two[1];
        unpack_fp8(words[2 * h + 1], two);
        pairs[2] = two[0], pairs[3] = two[1];
      } else {
        const float2 scales = unpack_e4m3(static_cast<uint16_t>(raw.scales[i]));
        unpack_e2m1(words[h], h < 2 ? scales.x : scales.y, pairs);
      }
      *reinterpret_cast<uint4*>(lines + piece_at(line, first + h)) =
          make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
    }
  }
}

template <Stored kStored>
__global__ void __launch_bounds__(kThreads, 2)
    gemm_kernel(LinearArgs p, int row_tiles, int column_tiles) {
  constexpr bool kRaw = kStored != Stored::kBF16;
  VIDERE_DYNAMIC_SHARED(shared);
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int warp_m = warp / 4 * 64, warp_n = warp % 4 * 32;

  const int group = static_cast<int>(blockIdx.x) / (kGroup * column_tiles);
  const int in_group = static_cast<int>(blockIdx.x) % (kGroup * column_tiles);
  const int height = min(kGroup, row_tiles - group * kGroup);
  const int64_t first_row = static_cast<int64_t>(group * kGroup + in_group % height) * kTile;
  const int64_t first_column = static_cast<int64_t>(in_group / height) * kTile;

  // A thread copies the same piece of every 32nd line.
  const int copy_line = thread / 8, copy_piece = thread % 8;
  const auto copy_lines = [&](char* to, const uint8_t* from, int64_t stride, int64_t first,
                              int64_t count, int64_t k0) {
    const int64_t k = k0 + 8 * copy_piece;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int line = copy_line + 32 * i;
      const int64_t row = min(first + line, count - 1);
      copy_async16(to + piece_at(line, copy_piece), from + row * stride + (k < p.k ? 2 * k : 0),
                   k < p.k);
    }
  };
  const auto copy_x = [&](int stage) {
    copy_lines(shared + stage % kStages * kStageBytes, static_cast<const uint8_t*>(p.x),
               2 * p.x_stride, first_row, p.rows, static_cast<int64_t>(stage) * kTileK);
  };
  const auto weight_lines = [&](int stage) {
    return shared + stage % kStages * kStageBytes + kOperandBytes;
  };
  const auto copy_weight = [&](int stage) {
    copy_lines(weight_lines(stage), p.weight, p.weight_stride, first_column, p.n,
               static_cast<int64_t>(stage) * kTileK);
  };

  const int stages = static_cast<int>((p.k + kTileK - 1) / kTileK);
  Raw<kRaw ? kStored : Stored::kFp8> raw;
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < stages) {
      if constexpr (kRaw) {
        load_raw<kStored>(p, first_column, static_cast<int64_t>(stage) * kTileK, raw);
        store_raw<kStored>(raw, weight_lines(stage));
      } else {
        copy_weight(stage);
      }
      copy_x(stage);
    }
    commit_copies();
  }

  float sums[4][4][4] = {};
  for (int stage = 0; stage < stages; ++stage) {
    wait_copies<kStages - 2>();
    __syncthreads();
    const int next = stage + kStages - 1;
    if (next < stages) {
      if constexpr (kRaw) {
        load_raw<kStored>(p, first_column, static_cast<int64_t>(next) * kTileK, raw);
      } else {
        copy_weight(next);
      }
      copy_x(next);
    }
    commit_copies();
    // The lines that this lane names to ldmatrix: all 16 apart, so their pieces are permuted alike.
    const char* const xs = shared + stage % kStages * kStageBytes + (warp_m + lane % 16) * kLine;
    const char* const ws = weight_lines(stage) + (warp_n + lane / 16 * 8 + lane % 8) * kLine;
#pragma unroll
    for (int kk = 0; kk < kTileK / 16; ++kk) {
      uint32_t a[4][4], b[4][2];
      const char* const x_at = xs + ((2 * kk + lane / 16) ^ lane % 8) * 16;
#pragma unroll
      for (int i = 0; i < 4; ++i) ldmatrix4(a[i], x_at + 16 * i * kLine);
      const char* const w_at = ws + ((2 * kk + lane / 8 % 2) ^ lane % 8) * 16;
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        uint32_t four[4];
        ldmatrix4(four, w_at + 16 * j * kLine);
        b[2 * j][0] = four[0], b[2 * j][1] = four[1];
        b[2 * j + 1][0] = four[2], b[2 * j + 1][1] = four[3];
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
#pragma unroll
        for (int j = 0; j < 4; ++j) mma_bf16(sums[i][j], a[i], b[j]);
      }
    }
    if constexpr (kRaw) {
      if (next < stages) store_raw<kStored>(raw, weight_lines(next));
    }
  }

  // Through shared memory, so that rows of out are written in whole lines.
  wait_copies<0>();
  __syncthreads();
  float* const met = reinterpret_cast<float*>(shared);
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      float* to = met + (warp_m + 16 * i + g) * kSumPitch + warp_n + 8 * j + 2 * t;
      *reinterpret_cast<float2*>(to) = make_float2(sums[i][j][0], sums[i][j][1]);
      *reinterpret_cast<float2*>(to + 8 * kSumPitch) = make_float2(sums[i][j][2], sums[i][j][3]);
    }
  }
  __syncthreads();
  const int quad = thread % 32;
  const int64_t column = first_column + 4 * quad;
  float scales[4], biases[4];
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    scales[c] = column + c < p.n ? column_scale(p, column + c) : 0.0f;
    biases[c] = column + c < p.n ? column_bias(p, column + c) : 0.0f;
  }
  const bool whole =
      column + 4 <= p.n && p.out_stride % 4 == 0 && reinterpret_cast<uintptr_t>(p.out) % 16 == 0;
#pragma unroll 4
  for (int line = thread / 32; line < kTile; line += kThreads / 32) {
    const int64_t row = first_row + line;
    if (row >= p.rows) break;
    const float4 sum = *reinterpret_cast<const float4*>(met + line * kSumPitch + 4 * quad);
    float values[4] = {sum.x * scales[0] + biases[0], sum.y * scales[1] + biases[1],
                       sum.z * scales[2] + biases[2], sum.w * scales[3] + biases[3]};
    if (p.relu2) {
#pragma unroll
      for (float& value : values) value = relu2_of(float_of(bf16_of(value)));
    }
    const int64_t at = row * p.out_stride + column;
    if (whole && p.out_is_float) {
      *reinterpret_cast<float4*>(static_cast<float*>(p.out) + at) =
          make_float4(values[0], values[1], values[2], values[3]);
    } else if (whole) {
      *reinterpret_cast<uint2*>(static_cast<BF16*>(p.out) + at) =
          make_uint2(pack_bf16(values[0], values[1]), pack_bf16(values[2], values[3]));
    } else {
#pragma unroll
      for (int c = 0; c < 4; ++c) {
        if (column + c < p.n) store_out<BF16>(p, row, column + c, values[c]);
      }
    }
  }
}

template <Stored kStored>
void run_stored(const LinearArgs& args, Launcher& launcher) {
  const int row_tiles = static_cast<int>(ceil_div(args.rows, kTile));
  const int column_tiles = static_cast<int>(ceil_div(args.n, kTile));
  launcher(gemm_kernel<kStored>,
           {.grid = dim3(row_tiles * column_tiles),
            .block = dim3(kThreads),
            .shared_bytes = kSharedBytes},
           args, row_tiles, column_tiles);
}

}  // namespace

void run_gemm(Stored stored, const LinearArgs& args, Launcher& launcher) {
  switch (stored) {
    case Stored::kFp8:
      return run_stored<Stored::kFp8>(args, launcher);
    case Stored::kNvfp4:
      return run_stored<Stored::kNvfp4>(args, launcher);
    default:
      return run_stored<Stored::kBF16>(args, launcher);
  }
}

}  // namespace videre::cuda
