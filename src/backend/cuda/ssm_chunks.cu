// The Mamba-2 scan in pieces of 64 rows on the tensor cores, for BF16 activations. A block takes a
// head of one sequence from its first row to its last: nothing but x, B, C, dt and y passes through
// memory, there is no scratch, and sequences of any lengths side by side need no plan. Each of its
// columns' warps keeps 16 columns of the state in registers, as the accumulators of one product and
// the operand of the next; the other warps work one piece ahead: they fetch, and make what all
// columns of a head share. Bound by what the warps issue, and by shared memory.
//
// Per piece, with a the running sum of dt A and rows i, j of it:
//   M[i, j] = (C_i . B_j) exp(a_i - a_j) dt_j, j <= i
//   Y^T     = (S0^T C^T) exp(a_i) + X^T M^T + D X^T
//   S1^T    = exp(a_last) S0^T + (X exp(a_last - a_j) dt_j)^T B
// Products take bfloat16 and sum in float; so M, S0 and X's factors are rounded to bfloat16 where
// they enter one. Decays, sums and the state itself stay float. Pieces end at absolute multiples of
// chunk_size and every 64 rows from there: a prompt cut at such a place gives the same bits. Cards
// with less shared memory take pieces of 32 rows.
#include <algorithm>

#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kColumns = 16;  // of a warp
constexpr int kAhead = 3;     // warps that work a piece ahead: two fetch, the last makes decays
constexpr int kStages = 3;    // a piece in use, the next for M, and one on its way

/// A block's sizes: kN state rows, kWarps times 16 columns of a head, kPiece rows at a time.
template <int kN, int kWarps, int kPiece>
struct Sizes {
  static constexpr int kThreads = (kWarps + kAhead) * kWarp;
  static constexpr int kRowTiles = kPiece / 16;
  static constexpr int kWidth = kWarps * kColumns;
  // Rows are 16 bytes longer than a multiple of 32: eight of them lie in different banks.
  struct Stage {
    alignas(16) BF16 b[kPiece][kN + 8];
    alignas(16) BF16 c[kPiece][kN + 8];
    alignas(16) BF16 x[kPiece][kWidth + 8];
  };
  // Per row of a piece; a in units of log 2, as a pair of floats that sum to it.
  struct alignas(16) Decays {
    float a_high[kPiece], a_low[kPiece], dt[kPiece];
    float grown[kPiece];  // exp(a_i)
    float tail[kPiece];   // exp(a_last - a_j) dt_j, 0 past the last row
    float total;          // exp(a_last)
  };
  struct Shared {
    Stage stages[kStages];
    Decays decays[kStages];
    alignas(16) BF16 m[2][kPiece][kPiece + 8];
    uint32_t long_seqs[kWarps + kAhead];
  };
};

__device__ __forceinline__ void set_pair(void* p, uint32_t pair) {
  *static_cast<uint32_t*>(p) = pair;
}
__device__ __forceinline__ float2 floats_at(const float* p) {
  return *reinterpret_cast<const float2*>(p);
}
__device__ __forceinline__ uint32_t scaled_pair(uint32_t pair, float2 by) {
  return pack_bf16(bf16_low(pair) * by.x, bf16_high(pair) * by.y);
}

struct Piece {
  int64_t row = 0;  // of the flat batch
  int count = 0;
};

template <int kN, int kWarps, int kPiece>
class Scan {
  using Block = Sizes<kN, kWarps, kPiece>;
  using Decays = typename Block::Decays;
  static constexpr int kRowTiles = Block::kRowTiles, kNTiles = kN / 8;

 public:
  __device__ Scan(const ScanArgs& args, const StepView& step, typename Block::Shared& shared)
      : args_(args), step_(step), shared_(shared) {
    const int blocks = (args.head_dim + Block::kWidth - 1) / Block::kWidth;
    head_ = static_cast<int>(blockIdx.x) / blocks;
    block_p_ = static_cast<int>(blockIdx.x) % blocks * Block::kWidth;
    lane_ = static_cast<int>(threadIdx.x) % kWarp;
    warp_ = static_cast<int>(threadIdx.x) / kWarp;
    g_ = lane_ / 4, t_ = lane_ % 4;
    dt_bias_ = args.dt_bias[head_];
    a_ = args.a[head_];
    d_ = args.d[head_];
  }

  __device__ void run(int seq) {
    const int64_t first = step_.cu_seqlens[seq];
    const int length = static_cast<int>(step_.cu_seqlens[seq + 1] - first);
    const int32_t context = step_.context_lens[seq];
    const auto piece_at = [&](int done) {
      Piece piece{first + done, 0};
      if (done < length) {
        const int offset = (context + done) % args_.chunk;
        piece.count = min(min(length - done, args_.chunk - offset), kPiece - offset % kPiece);
      }
      return piece;
    };
    const bool ahead = warp_ >= kWarps, has_steps = warp_ == kWarps + kAhead - 1;
    const bool has_columns = !ahead && block_p_ + warp_ * kColumns < args_.head_dim;
    int emit = step_.num_emits > 0 ? first_emit(step_, seq) : 0;
    Piece piece = piece_at(0), next = piece_at(piece.count);
    if (ahead) {
      if (!has_steps) fetch(piece, 0), fetch(next, 1);
      if (has_steps) {
        float raw[2];
        fetch_steps(raw, piece);
        prepare(raw, piece, shared_.decays[0]);
        fetch_steps(raw, next);
        prepare(raw, next, shared_.decays[1]);
      }
      wait_copies<0>();
    } else {
      load_state(step_.read_slots[seq]);
    }
    __syncthreads();
    if (ahead) make_m(piece, 0, 0);
    __syncthreads();
    int done = 0, stage = 0, parity = 0;
    while (piece.count > 0) {
      const int stage1 = stage + 1 < kStages ? stage + 1 : 0;
      const Piece after = piece_at(done + piece.count + next.count);
      const auto emits_here = [&] {
        return emit < step_.num_emits && step_.emit_seqs[emit] == seq &&
               step_.emit_rows[emit] < done + piece.count;
      };
      if (ahead) {
        const int stage2 = stage1 + 1 < kStages ? stage1 + 1 : 0;
        float raw[2];
        if (has_steps) {
          fetch_steps(raw, after);
        } else {
          fetch(after, stage2);
        }
        if (next.count > 1) make_m(next, stage1, parity ^ 1);
        if (has_steps) prepare(raw, after, shared_.decays[stage2]);
        wait_copies<0>();
      } else if (piece.count > 1 && has_columns) {
        uint32_t x[kRowTiles][4];
        load_columns(x, stage);
        outputs(x, piece, stage, parity);
        for (; emits_here(); ++emit) {
          const int row = step_.emit_rows[emit];
          write_advanced(step_.emit_slots[emit], context + row, row - done, stage);
        }
        advance(x, stage);
      }
      if (piece.count == 1) {
        if (args_.state_dtype == DType::kF32) {
          one_row<kLaneElements<float>>(piece, stage);
        } else {
          one_row<kLaneElements<Half>>(piece, stage);
        }
        for (; emits_here(); ++emit) {
          if (!ahead) write_state(step_.emit_slots[emit], context + step_.emit_rows[emit]);
        }
      }
      __syncthreads();  // the next piece is there whole, and this stage is read no more
      done += piece.count;
      piece = next, next = after;
      stage = stage1;
      parity ^= 1;
    }
    if (!ahead) write_state(step_.write_slots[seq], context + length - 1);
  }

 private:
  // --- The warps ahead: memory to shared memory, decays, M ---

  /// kPiece rows of `width` columns from `column` on, of which those before `end` are there.
  template <int kWidth, int kPitch>
  __device__ void fetch_rows(BF16 (*to)[kPitch], const void* from, int64_t stride, int64_t column,
                             int width, const Piece& piece) {
    constexpr int kParts = kWidth / 8, kRows = (kAhead - 1) * kWarp / kParts;  // at once
    const int thread = static_cast<int>(threadIdx.x) - kWarps * kWarp;
    const int row0 = thread / kParts, part = thread % kParts;
    const BF16* at =
        static_cast<const BF16*>(from) + (piece.row + row0) * stride + column + part * 8;
    if (row0 >= kRows) return;
#pragma unroll
    for (int i = 0; i < (kPiece + kRows - 1) / kRows; ++i) {
      const int row = row0 + i * kRows;
      if (kPiece % kRows != 0 && row >= kPiece) break;
      const bool valid = row < piece.count && part * 8 < width;
      copy_async16(&to[row][part * 8], at, valid);  // not read where it is not valid
      at += kRows * stride;
    }
  }
  __device__ void fetch(const Piece& piece, int stage) {
    if (piece.count > 0) {
      auto& to = shared_.stages[stage];
      const int64_t group = int64_t{head_ / args_.group_heads} * args_.n_state;
      fetch_rows<kN>(to.b, args_.b, args_.b_stride, group, args_.n_state, piece);
      fetch_rows<kN>(to.c, args_.c, args_.c_stride, group, args_.n_state, piece);
      fetch_rows<Block::kWidth>(to.x, args_.x, args_.x_stride,
                                int64_t{head_} * args_.head_dim + block_p_,
                                args_.head_dim - block_p_, piece);
    }
    commit_copies();
  }

  // By one warp, of the rows lane and lane + 32.
  __device__ void fetch_steps(float (&raw)[2], const Piece& piece) {
    const BF16* dt = static_cast<const BF16*>(args_.dt) + piece.row * args_.dt_stride + head_;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane_ + half * kWarp;
      raw[half] = row < piece.count ? float_of(dt[row * args_.dt_stride]) : 0.0f;
    }
  }
  /// Sums in double: differences of large sums must keep their bits.
  __device__ void prepare(const float (&raw)[2], const Piece& piece, Decays& out) {
    if (piece.count == 0) return;
    double before = 0, sum[2];
    float dt[2];
#pragma unroll
    for (int half = 0; half < kPiece / kWarp; ++half) {
      dt[half] = lane_ + half * kWarp < piece.count ? step_size(args_, raw[half] + dt_bias_) : 0.0f;
      double value = double{dt[half]} * (double{a_} * 1.4426950408889634);
      for (int step = 1; step < kWarp; step *= 2) {
        const double other = __shfl_up_sync(kAllLanes, value, step);
        if (lane_ >= step) value += other;
      }
      sum[half] = before + value;
      before = __shfl_sync(kAllLanes, sum[half], kWarp - 1);
    }
    const double last = before;  // rows past the end have dt 0
    const float last_high = static_cast<float>(last),
                last_low = static_cast<float>(last - last_high);
#pragma unroll
    for (int half = 0; half < kPiece / kWarp; ++half) {
      const int row = lane_ + half * kWarp;
      const float high = static_cast<float>(sum[half]), low = static_cast<float>(sum[half] - high);
      out.a_high[row] = high;
      out.a_low[row] = low;
      out.dt[row] = dt[half];
      out.grown[row] = fast_exp2(high) * (1.0f + 0.69314718f * low);
      out.tail[row] = fast_exp2((last_high - high) + (last_low - low)) * dt[half];
    }
    if (lane_ == 0) out.total = fast_exp2(last_high) * (1.0f + 0.69314718f * last_low);
  }

  /// Longer rows of tiles for the first warps, which also fetch, the rest for the last, which has
  /// the decays too.
  __device__ void make_m(const Piece& piece, int stage, int parity) {
    if (piece.count == 0) return;
    const int mine = warp_ - kWarps;
    if (kRowTiles == 4) {
      if (mine == 0) m_rows<kRowTiles - 1>(stage, parity);
      if (mine == 1) m_rows<kRowTiles - 2>(stage, parity);
    }
    if (mine == kAhead - 1) m_rows<0>(stage, parity);
    if (mine == (kRowTiles == 4 ? kAhead - 1 : 0)) m_rows<1>(stage, parity);
  }
  template <int kTile>
  __device__ void m_rows(int stage, int parity) {
    const auto& in = shared_.stages[stage];
    const Decays& decays = shared_.decays[stage];
    float sums[kTile + 1][2][4] = {};
#pragma unroll
    for (int n = 0; n < kN; n += 16) {
      uint32_t c[4];
      ldmatrix4(c, &in.c[kTile * 16 + lane_ % 16][n + lane_ / 16 * 8]);
#pragma unroll
      for (int block = 0; block <= kTile; ++block) {
        uint32_t r[4];
        ldmatrix4(r, &in.b[block * 16 + lane_ / 16 * 8 + lane_ % 8][n + lane_ / 8 % 2 * 8]);
        mma_bf16(sums[block][0], c, {r[0], r[1]});
        mma_bf16(sums[block][1], c, {r[2], r[3]});
      }
    }
    const int i0 = kTile * 16 + g_, i1 = i0 + 8;
    const float high0 = decays.a_high[i0], low0 = decays.a_low[i0];
    const float high1 = decays.a_high[i1], low1 = decays.a_low[i1];
#pragma unroll
    for (int block = 0; block <= kTile; ++block) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const int j = block * 16 + part * 8 + 2 * t_;
        const float2 high = floats_at(&decays.a_high[j]), low = floats_at(&decays.a_low[j]);
        const float2 dt = floats_at(&decays.dt[j]);
        const float(&v)[4] = sums[block][part];
        const auto pair = [&](int i, float high_i, float low_i, float v0, float v1) {
          float m0 = v0 * (fast_exp2((high_i - high.x) + (low_i - low.x)) * dt.x);
          float m1 = v1 * (fast_exp2((high_i - high.y) + (low_i - low.y)) * dt.y);
          if (block == kTile) m0 = j <= i ? m0 : 0.0f, m1 = j + 1 <= i ? m1 : 0.0f;
          set_pair(&shared_.m[parity][i][j], pack_bf16(m0, m1));
        };
        pair(i0, high0, low0, v[0], v[1]);
        pair(i1, high1, low1, v[2], v[3]);
      }
    }
  }

  // --- The state: state_[tile][i] is row n_at(tile) + i % 2, column p_at(i) ---

  __device__ int n_at(int tile) const { return tile * 8 + 2 * t_; }
  __device__ int p_at(int i) const { return block_p_ + warp_ * kColumns + g_ + i / 2 * 8; }
  __device__ bool inside(int n, int p) const { return n < args_.n_state && p < args_.head_dim; }
  /// fn(the head's state in `slot`), as a pointer to what is stored.
  template <typename Fn>
  __device__ void with_state(int32_t slot, Fn&& fn) const {
    const int64_t at = slot * args_.slot_stride + head_ * args_.head_stride;
    if (args_.state_dtype == DType::kF32) {
      fn(static_cast<float*>(args_.state) + at);
    } else if (args_.state_dtype == DType::kBF16) {
      fn(static_cast<BF16*>(args_.state) + at);
    } else {
      fn(static_cast<Half*>(args_.state) + at);
    }
  }
  __device__ void load_state(int32_t slot) {
    with_state(slot, [&](const auto* from) {
      using S = std::remove_cv_t<std::remove_reference_t<decltype(*from)>>;
      struct alignas(2 * sizeof(S)) Pair {
        S low, high;
      };
#pragma unroll
      for (int tile = 0; tile < kNTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; i += 2) {
          const int n = n_at(tile), p = p_at(i);
          state_[tile][i] = state_[tile][i + 1] = 0.0f;
          if (slot == kNoSlot || !inside(n, p)) continue;
          const Pair pair = *reinterpret_cast<const Pair*>(from + p * args_.n_state + n);
          state_[tile][i] = float_of(pair.low), state_[tile][i + 1] = float_of(pair.high);
        }
      }
    });
  }
  __device__ void write_state(int32_t slot, int position) {
#pragma unroll
    for (int tile = 0; tile < kNTiles; ++tile) write_tile(slot, position, tile, state_[tile]);
  }
  __device__ void write_tile(int32_t slot, int position, int tile, const float (&values)[4]) {
    const uint32_t seed = rounding_seed(head_, static_cast<uint32_t>(position));
    with_state(slot, [&](auto* to) {
      using S = std::remove_reference_t<decltype(*to)>;
      struct alignas(2 * sizeof(S)) Pair {
        S low, high;
      };
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const int n = n_at(tile), p = p_at(i);
        if (!inside(n, p)) continue;
        const auto at = static_cast<uint32_t>(p * args_.n_state + n);
        uint32_t noise = 0;
        if constexpr (!std::is_same_v<S, float>) noise = rounding_noise(seed, at / 2);
        *reinterpret_cast<Pair*>(to + at) =
            Pair{stored<S>(values[i], noise & 0xffffu), stored<S>(values[i + 1], noise >> 16)};
      }
    });
  }

  // --- A warp's columns ---

  /// X^T of the warp's columns: x[k] is the operand for rows 16 k on.
  __device__ void load_columns(uint32_t (&x)[kRowTiles][4], int stage) const {
#pragma unroll
    for (int k = 0; k < kRowTiles; ++k) load_columns(x[k], stage, k);
  }
  __device__ void load_columns(uint32_t (&x)[4], int stage, int k) const {
    ldmatrix4_transposed(x, &shared_.stages[stage].x[k * 16 + lane_ / 16 * 8 + lane_ % 8]
                                                    [warp_ * kColumns + lane_ / 8 % 2 * 8]);
  }

  __device__ void outputs(const uint32_t (&x)[kRowTiles][4], const Piece& piece, int stage,
                          int parity) {
    const auto& in = shared_.stages[stage];
    const Decays& decays = shared_.decays[stage];
    float y[2 * kRowTiles][4] = {};
#pragma unroll
    for (int k = 0; k < kN / 16; ++k) {
      const float(&s0)[4] = state_[2 * k];
      const float(&s1)[4] = state_[2 * k + 1];
      const uint32_t s[4] = {pack_bf16(s0[0], s0[1]), pack_bf16(s0[2], s0[3]),
                             pack_bf16(s1[0], s1[1]), pack_bf16(s1[2], s1[3])};
#pragma unroll
      for (int i = 0; i < kRowTiles; ++i) {
        uint32_t r[4];
        ldmatrix4(r, &in.c[i * 16 + lane_ / 16 * 8 + lane_ % 8][k * 16 + lane_ / 8 % 2 * 8]);
        mma_bf16(y[2 * i], s, {r[0], r[1]});
        mma_bf16(y[2 * i + 1], s, {r[2], r[3]});
      }
    }
#pragma unroll
    for (int tile = 0; tile < 2 * kRowTiles; ++tile) {
      const float2 grown = floats_at(&decays.grown[tile * 8 + 2 * t_]);
      const uint32_t x0 = x[tile / 2][tile % 2 * 2], x1 = x[tile / 2][tile % 2 * 2 + 1];
      y[tile][0] = fmaf(y[tile][0], grown.x, d_ * bf16_low(x0));
      y[tile][1] = fmaf(y[tile][1], grown.y, d_ * bf16_high(x0));
      y[tile][2] = fmaf(y[tile][2], grown.x, d_ * bf16_low(x1));
      y[tile][3] = fmaf(y[tile][3], grown.y, d_ * bf16_high(x1));
    }
#pragma unroll
    for (int k = 0; k < kRowTiles; ++k) {
#pragma unroll
      for (int i = k; i < kRowTiles; ++i) {
        uint32_t r[4];
        ldmatrix4(
            r, &shared_.m[parity][i * 16 + lane_ / 16 * 8 + lane_ % 8][k * 16 + lane_ / 8 % 2 * 8]);
        mma_bf16(y[2 * i], x[k], {r[0], r[1]});
        mma_bf16(y[2 * i + 1], x[k], {r[2], r[3]});
      }
    }
    // Turned, and changed with the neighbour so that four lanes store 32 bytes of a row.
    const bool odd = t_ % 2 != 0;
    const int column = warp_ * kColumns + (odd ? 6 : 0) + 2 * t_;
    const bool here = block_p_ + column < args_.head_dim;
    BF16* out = static_cast<BF16*>(args_.y) + (piece.row + g_) * args_.y_stride +
                int64_t{head_} * args_.head_dim + block_p_ + column;
#pragma unroll
    for (int tile = 0; tile < 2 * kRowTiles; ++tile) {
      const uint32_t low = transpose8x8(pack_bf16(y[tile][0], y[tile][1]));
      const uint32_t high = transpose8x8(pack_bf16(y[tile][2], y[tile][3]));
      const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? low : high, 1);
      if (here && tile * 8 + g_ < piece.count) {
        *reinterpret_cast<uint2*>(out) = odd ? make_uint2(other, high) : make_uint2(low, other);
      }
      out += 8 * args_.y_stride;
    }
  }

  /// The state at the piece's end. Spends x.
  __device__ void advance(uint32_t (&x)[kRowTiles][4], int stage) {
    const Decays& decays = shared_.decays[stage];
    const float total = decays.total;
#pragma unroll
    for (int tile = 0; tile < kNTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) state_[tile][i] *= total;
    }
#pragma unroll
    for (int k = 0; k < kRowTiles; ++k) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        x[k][i] = scaled_pair(x[k][i], floats_at(&decays.tail[k * 16 + i / 2 * 8 + 2 * t_]));
      }
#pragma unroll
      for (int n = 0; n < kN / 16; ++n)
        add_rows(state_[2 * n], state_[2 * n + 1], x[k], stage, k, n);
    }
  }
  /// Two tiles of sums, of rows 16 n on of the state: plus x times rows 16 k on of B.
  __device__ void add_rows(float (&low)[4], float (&high)[4], const uint32_t (&x)[4], int stage,
                           int k, int n) const {
    uint32_t r[4];
    ldmatrix4_transposed(r, &shared_.stages[stage].b[k * 16 + lane_ % 16][n * 16 + lane_ / 16 * 8]);
    mma_bf16(low, x, {r[0], r[1]});
    mma_bf16(high, x, {r[2], r[3]});
  }
  /// Writes the state after row `last` of the piece; the one in registers stays.
  __device__ void write_advanced(int32_t slot, int position, int last, int stage) {
    const Decays& decays = shared_.decays[stage];
    const float high = decays.a_high[last], low = decays.a_low[last];
    const float grown = decays.grown[last];
    const auto factor = [&](int j) {
      const float decay =
          fast_exp2((high - decays.a_high[j]) + (low - decays.a_low[j])) * decays.dt[j];
      return j <= last ? decay : 0.0f;
    };
#pragma unroll
    for (int n = 0; n < kN / 16; ++n) {
      float sums[2][4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        sums[0][i] = state_[2 * n][i] * grown, sums[1][i] = state_[2 * n + 1][i] * grown;
      }
#pragma unroll 1
      for (int k = 0; k * 16 <= last; ++k) {
        uint32_t x[4];
        load_columns(x, stage, k);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int j = k * 16 + i / 2 * 8 + 2 * t_;
          x[i] = scaled_pair(x[i], make_float2(factor(j), factor(j + 1)));
        }
        add_rows(sums[0], sums[1], x, stage, k, n);
      }
      write_tile(slot, position, 2 * n, sums[0]);
      write_tile(slot, position, 2 * n + 1, sums[1]);
    }
  }

  /// A piece of one row takes the recurrence, with the same bits as scan_rows: the state goes
  /// through this stage's shared memory, laid out as state rows, as many warps' at once as fit.
  template <int kCount>
  __device__ void one_row(const Piece& piece, int stage) {
    constexpr int kFit = static_cast<int>(sizeof(typename Block::Stage) / sizeof(float)) / kN;
    constexpr int kAtOnce = kFit / kColumns < kWarps ? kFit / kColumns : kWarps;
    static_assert(kAtOnce > 0);
    float(*rows)[kN] = reinterpret_cast<float(*)[kN]>(&shared_.stages[stage]);
    const int lanes = args_.n_state / kCount, at_once = kWarp / lanes;
    const int n0 = lane_ % lanes * kCount;
    const int64_t group = int64_t{head_ / args_.group_heads} * args_.n_state + n0;
    float b[kCount], c[kCount];
    load_elements(b, static_cast<const BF16*>(args_.b) + piece.row * args_.b_stride + group);
    load_elements(c, static_cast<const BF16*>(args_.c) + piece.row * args_.c_stride + group);
    const float delta = step_size(
        args_, float_of(static_cast<const BF16*>(args_.dt)[piece.row * args_.dt_stride + head_]) +
                   dt_bias_);
    const float decay = expf(delta * a_);
    for (int first = 0; first < kWarps; first += kAtOnce) {
      const int columns = min(kAtOnce, kWarps - first) * kColumns;
      const bool mine = warp_ >= first && warp_ < min(first + kAtOnce, kWarps);
      const auto each_pair = [&](auto&& fn) {
        if (!mine) return;
#pragma unroll
        for (int tile = 0; tile < kNTiles; ++tile) {
#pragma unroll
          for (int i = 0; i < 4; i += 2) {
            const int row = (warp_ - first) * kColumns + g_ + i / 2 * 8;
            fn(state_[tile][i], state_[tile][i + 1],
               *reinterpret_cast<float2*>(&rows[row][n_at(tile)]));
          }
        }
      };
      each_pair([](float low, float high, float2& at) { at = make_float2(low, high); });
      __syncthreads();
      for (int base = warp_ * at_once; base < columns; base += (kWarps + kAhead) * at_once) {
        const int column = base + lane_ / lanes, p = block_p_ + first * kColumns + column;
        const bool here = column < columns && p < args_.head_dim;
        const int64_t channel = int64_t{head_} * args_.head_dim + p;
        float* row = &rows[here ? column : 0][n0];
        float s[kCount];
#pragma unroll
        for (int i = 0; i < kCount; ++i) s[i] = here ? row[i] : 0.0f;
        const float x =
            here ? float_of(static_cast<const BF16*>(args_.x)[piece.row * args_.x_stride + channel])
                 : 0.0f;
        const float sum = fmaf(d_, x, update_row(s, decay, delta * x, b, c, lanes));
        if (!here) continue;
#pragma unroll
        for (int i = 0; i < kCount; ++i) row[i] = s[i];
        if (lane_ % lanes == 0) {
          static_cast<BF16*>(args_.y)[piece.row * args_.y_stride + channel] = bf16_of(sum);
        }
      }
      __syncthreads();
      each_pair([](float& low, float& high, const float2& at) { low = at.x, high = at.y; });
      if (first + kAtOnce < kWarps) __syncthreads();
    }
  }

  const ScanArgs& args_;
  const StepView& step_;
  typename Block::Shared& shared_;
  int head_, block_p_, lane_, warp_, g_, t_;
  float dt_bias_, a_, d_;
  float state_[kNTiles][4];
};

/// Grid: heads (times blocks a head), and sequences as they come: block y takes every gridDim.y-th
/// one that has two rows or more.
template <int kN, int kWarps, int kPiece>
__global__ void __launch_bounds__(Sizes<kN, kWarps, kPiece>::kThreads, 1)
    scan_chunks(ScanArgs args, StepView step) {
  using Block = Sizes<kN, kWarps, kPiece>;
  VIDERE_DYNAMIC_SHARED(memory);
  wait_for_previous();
  let_next_start();
  auto& shared = *reinterpret_cast<typename Block::Shared*>(memory);
  Scan<kN, kWarps, kPiece> scan(args, step, shared);
  unsigned found = 0;
  for (int base = 0; base < step.num_seqs; base += Block::kThreads) {
    __syncthreads();
    const int candidate = base + static_cast<int>(threadIdx.x);
    const bool is_long = candidate < step.num_seqs &&
                         step.cu_seqlens[candidate + 1] - step.cu_seqlens[candidate] >= 2;
    const uint32_t ballot = __ballot_sync(kAllLanes, is_long);
    if (threadIdx.x % kWarp == 0) shared.long_seqs[threadIdx.x / kWarp] = ballot;
    __syncthreads();
    for (int warp = 0; warp < Block::kThreads / kWarp; ++warp) {
      for (uint32_t rest = shared.long_seqs[warp]; rest != 0; rest &= rest - 1) {
        if (found++ % gridDim.y != blockIdx.y) continue;
        __syncthreads();
        scan.run(base + warp * kWarp + __ffs(static_cast<int>(rest)) - 1);
      }
    }
  }
}

template <int kN, int kWarps, int kPiece>
ScanChunks prepared(const ScanArgs& args, const StepView& step, LaunchShape* shape) {
  using Block = Sizes<kN, kWarps, kPiece>;
  // Sequences of two rows or more are fewer than both; eight at once fill any card, and blocks that
  // find none cost little.
  const int64_t sequences = std::min<int64_t>({step.num_seqs, ceil_div(step.num_tokens, 2), 8});
  shape->grid = dim3(args.heads * ceil_div(args.head_dim, Block::kWidth), sequences);
  shape->block = dim3(Block::kThreads);
  shape->shared_bytes = static_cast<int>(sizeof(typename Block::Shared));
  return scan_chunks<kN, kWarps, kPiece>;
}

template <int kN, int kWarps>
ScanChunks fitting(const ScanArgs& args, const StepView& step, int most_shared_bytes,
                   LaunchShape* shape) {
  const auto fits = [&](size_t bytes) { return bytes <= static_cast<size_t>(most_shared_bytes); };
  if (fits(sizeof(typename Sizes<kN, kWarps, 64>::Shared))) {
    return prepared<kN, kWarps, 64>(args, step, shape);
  }
  if (fits(sizeof(typename Sizes<kN, kWarps, 32>::Shared))) {
    return prepared<kN, kWarps, 32>(args, step, shape);
  }
  return nullptr;
}

}  // namespace

ScanChunks find_scan_chunks(const ScanArgs& args, const StepView& step, int most_shared_bytes,
                            LaunchShape* shape) {
  if (args.n_state > 128 || args.n_state % 8 != 0 || args.head_dim % 8 != 0) return nullptr;
  if (args.n_state > 64) return fitting<128, 5>(args, step, most_shared_bytes, shape);
  if (args.head_dim > 32) return fitting<64, 5>(args, step, most_shared_bytes, shape);
  return fitting<64, 2>(args, step, most_shared_bytes, shape);
}

}  // namespace videre::cuda
