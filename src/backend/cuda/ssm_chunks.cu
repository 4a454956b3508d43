// The Mamba-2 scan in pieces of 64 rows on the tensor cores, for BF16 activations. A block takes a
// head (two slices of 40 of its columns, four warps each) of one sequence from its first row to its
// last, with the state in registers: nothing but x, B, C, dt and y passes through memory, there is
// no scratch, and sequences of any lengths side by side need no plan. Bound by operations, about 70
// thousand a row and head.
//
// Per piece, with a the running sum of dt A and rows i, j of it:
//   G[i, j] = C_i . B_j
//   Y       = exp(a_i) (C S0) + (G exp(a_i - a_j) dt_j, j <= i) X + D X
//   S1      = exp(a_last) S0 + (B exp(a_last - a_j) dt_j)^T X
// Products take bfloat16 and sum in float; so G's factors, S0 and B's factors are rounded to
// bfloat16 where they enter one. Decays, sums and the state itself stay float. Pieces end at
// absolute multiples of chunk_size and every 64 rows from there: a prompt cut at such a place gives
// the same bits.
#include <algorithm>

#include "backend/cuda/ssm.h"

namespace videre::cuda {
namespace {

constexpr int kPiece = 64;  // rows
constexpr int kTiles = 5;   // 8-column tiles of a slice
constexpr int kSlice = 8 * kTiles;
constexpr int kSliceWarps = 4;  // each takes 16 rows of Y, and a quarter of the state's n
constexpr int kSliceThreads = kSliceWarps * kWarp;

// Per row of a piece; a in units of log 2, as a pair of floats that sum to it.
struct alignas(16) Decays {
  float a_high[kPiece], a_low[kPiece], dt[kPiece];
  float grown[kPiece];  // exp(a_i)
  float tail[kPiece];   // exp(a_last - a_j) dt_j, 0 past the last row
  float total;          // exp(a_last)
};

template <int kN, int kSlices>
struct Shared {
  static constexpr int kPitch =
      kN + 8;  // 16 bytes more: eight rows of ldmatrix lie in different banks
  struct Stage {
    alignas(16) BF16 b[kPiece][kPitch];
    alignas(16) BF16 c[kPiece][kPitch];
    alignas(16) BF16 x[kSlices][kPiece][kSlice];  // 80-byte rows: no two of eight in one bank
  };
  Stage stages[2];
  Decays decays[2];
  alignas(16) BF16 state[kSlices][kN][kSlice];  // S0 for the products
  uint32_t long_seqs[kSlices * kSliceWarps];
};

__device__ __forceinline__ uint32_t pair_at(const void* p) {
  return *static_cast<const uint32_t*>(p);
}
__device__ __forceinline__ void set_pair(void* p, uint32_t pair) {
  *static_cast<uint32_t*>(p) = pair;
}
__device__ __forceinline__ float2 floats_at(const float* p) {
  return *reinterpret_cast<const float2*>(p);
}

struct Piece {
  int64_t row = 0;  // of the flat batch
  int count = 0;
};

template <int kN, int kSlices>
class Scan {
  using Memory = Shared<kN, kSlices>;
  static constexpr int kMTiles =
      kN / 16 / kSliceWarps;  // 16-row tiles of the state that a warp has

 public:
  __device__ Scan(const ScanArgs& args, const StepView& step, Memory& shared)
      : args_(args), step_(step), shared_(shared) {
    const int blocks = (args.head_dim + kSlices * kSlice - 1) / (kSlices * kSlice);
    head_ = static_cast<int>(blockIdx.x) / blocks;
    block_p_ = static_cast<int>(blockIdx.x) % blocks * kSlices * kSlice;
    thread_ = static_cast<int>(threadIdx.x);
    lane_ = thread_ % kWarp;
    slice_ = thread_ / kSliceThreads;
    warp_ = thread_ / kWarp % kSliceWarps;
    g_ = lane_ / 4, t_ = lane_ % 4;
    p0_ = block_p_ + slice_ * kSlice;
    // Causal tiles make the last rows' warp work most: the slices' warps of one scheduler balance.
    row_tile_ = slice_ % 2 == 0 ? warp_ : kSliceWarps - 1 - warp_;
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
    int emit = step_.num_emits > 0 ? first_emit(step_, seq) : 0;
    load_state(step_.read_slots[seq]);
    Piece piece = piece_at(0);
    fetch(piece, 0);
    if (thread_ < kWarp) {
      float raw[2];
      fetch_steps(raw, piece);
      prepare(raw, piece, shared_.decays[0]);
    }
    store_operand();
    int done = 0, stage = 0;
    while (piece.count > 0) {
      const Piece next = piece_at(done + piece.count);
      fetch(next, stage ^ 1);
      float next_steps[2];
      if (thread_ < kWarp) fetch_steps(next_steps, next);
      wait_copies<1>();
      __syncthreads();
      const auto emits_here = [&] {
        return emit < step_.num_emits && step_.emit_seqs[emit] == seq &&
               step_.emit_rows[emit] < done + piece.count;
      };
      if (piece.count == 1) {
        if (args_.state_dtype == DType::kF32) {
          one_row<kLaneElements<float>>(piece, stage);
        } else {
          one_row<kLaneElements<Half>>(piece, stage);
        }
        for (; emits_here(); ++emit) {
          write_state(step_.emit_slots[emit], context + step_.emit_rows[emit]);
        }
      } else {
        if (row_tile_ * 16 < piece.count) outputs(piece, stage);
        for (; emits_here(); ++emit) {
          const int row = step_.emit_rows[emit];
          write_advanced(step_.emit_slots[emit], context + row, row - done, piece, stage);
        }
        advance(piece, stage);
      }
      if (thread_ < kWarp) prepare(next_steps, next, shared_.decays[stage ^ 1]);
      __syncthreads();  // S0 and this stage are read no more
      store_operand();
      done += piece.count;
      piece = next;
      stage ^= 1;
    }
    write_state(step_.write_slots[seq], context + length - 1);
    wait_copies<0>();
  }

 private:
  // --- Memory to shared memory ---

  __device__ void fetch(const Piece& piece, int stage) {
    auto& to = shared_.stages[stage];
    constexpr int kThreads = kSlices * kSliceThreads;
    if (piece.count > 0) {
      constexpr int kParts = kN / 8;
      const int64_t group = int64_t{head_ / args_.group_heads} * args_.n_state;
      const BF16* b = static_cast<const BF16*>(args_.b) + piece.row * args_.b_stride + group;
      const BF16* c = static_cast<const BF16*>(args_.c) + piece.row * args_.c_stride + group;
      for (int i = thread_; i < kPiece * kParts; i += kThreads) {
        const int row = i / kParts, n = i % kParts * 8;
        const bool valid = row < piece.count && n < args_.n_state;
        copy_async16(&to.b[row][n], valid ? b + row * args_.b_stride + n : b, valid);
        copy_async16(&to.c[row][n], valid ? c + row * args_.c_stride + n : c, valid);
      }
      const BF16* x = static_cast<const BF16*>(args_.x) + piece.row * args_.x_stride +
                      int64_t{head_} * args_.head_dim;
      constexpr int kXParts = kSlices * kTiles;
      for (int i = thread_; i < kPiece * kXParts; i += kThreads) {
        const int row = i / kXParts, part = i % kXParts, p = block_p_ + part * 8;
        const bool valid = row < piece.count && p < args_.head_dim;
        copy_async16(&to.x[part / kTiles][row][part % kTiles * 8],
                     valid ? x + row * args_.x_stride + p : x, valid);
      }
    }
    commit_copies();
  }

  // Of the rows lane and lane + 32.
  __device__ void fetch_steps(float (&raw)[2], const Piece& piece) {
    const BF16* dt = static_cast<const BF16*>(args_.dt) + piece.row * args_.dt_stride + head_;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = lane_ + half * kWarp;
      raw[half] = row < piece.count ? float_of(dt[row * args_.dt_stride]) : 0.0f;
    }
  }
  /// By the block's first warp. Sums in double: differences of large sums must keep their bits.
  __device__ void prepare(const float (&raw)[2], const Piece& piece, Decays& out) {
    if (piece.count == 0) return;
    double before = 0, sum[2];
    float dt[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
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
    for (int half = 0; half < 2; ++half) {
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

  // --- The state: state_[m][tile][i] is row n_at(m, i), column p0_ + 8 tile + 2 t_ + i % 2 ---

  __device__ int n_at(int m, int i) const { return (warp_ * kMTiles + m) * 16 + g_ + i / 2 * 8; }
  template <typename Fn>
  __device__ void each_element(Fn&& fn) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) fn(state_[m][tile][i], n_at(m, i), tile * 8 + 2 * t_ + i % 2);
      }
    }
  }
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
  __device__ bool inside(int n, int p) const { return n < args_.n_state && p < args_.head_dim; }

  __device__ void load_state(int32_t slot) {
    with_state(slot, [&](const auto* from) {
      each_element([&](float& value, int n, int column) {
        const int p = p0_ + column;
        value = slot != kNoSlot && inside(n, p) ? float_of(from[p * args_.n_state + n]) : 0.0f;
      });
    });
  }
  __device__ void write_state(int32_t slot, int position) {
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) write_rows(slot, position, m, state_[m]);
  }
  __device__ void write_rows(int32_t slot, int position, int m, const float (&values)[kTiles][4]) {
    const uint32_t seed = rounding_seed(head_, static_cast<uint32_t>(position));
    with_state(slot, [&](auto* to) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int n = n_at(m, i), p = p0_ + tile * 8 + 2 * t_ + i % 2;
          if (!inside(n, p)) continue;
          store_element(to, static_cast<uint32_t>(p * args_.n_state + n), values[tile][i], seed);
        }
      }
    });
  }
  __device__ void store_operand() {
    each_element([&](float& value, int n, int column) {
      if (column % 2 == 0) {  // the odd neighbour follows in the array
        set_pair(&shared_.state[slice_][n][column], pack_bf16(value, (&value)[1]));
      }
    });
  }

  // --- Fragments ---

  // b[tile]: rows k..k+15 (first half) and k+16..k+31 (second) of a [k, column] matrix of a slice.
  struct Columns {
    uint32_t b[2][kTiles][2];
  };
  __device__ void load_columns(Columns& out, const BF16 (*rows)[kSlice], int k) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
      for (int pair = 0; pair < kTiles / 2; ++pair) {
        uint32_t r[4];
        ldmatrix4_transposed(r, &rows[k + half * 16 + lane_ % 16][pair * 16 + lane_ / 16 * 8]);
        out.b[half][2 * pair][0] = r[0], out.b[half][2 * pair][1] = r[1];
        out.b[half][2 * pair + 1][0] = r[2], out.b[half][2 * pair + 1][1] = r[3];
      }
    }
    uint32_t r[4];
    ldmatrix4_transposed(r, &rows[k + lane_][kSlice - 8]);
    out.b[0][kTiles - 1][0] = r[0], out.b[0][kTiles - 1][1] = r[1];
    out.b[1][kTiles - 1][0] = r[2], out.b[1][kTiles - 1][1] = r[3];
  }

  /// Y of the warp's 16 rows.
  __device__ void outputs(const Piece& piece, int stage) {
    const auto& in = shared_.stages[stage];
    const Decays& decays = shared_.decays[stage];
    constexpr int kBlocks = kPiece / 16;
    float y[kTiles][4] = {}, g[kBlocks][2][4] = {};
#pragma unroll
    for (int k = 0; k < kN; k += 32) {
      Columns s;
      load_columns(s, shared_.state[slice_], k);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = k + half * 16;
        uint32_t c[4];
        ldmatrix4(c, &in.c[row_tile_ * 16 + lane_ % 16][n + lane_ / 16 * 8]);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma_bf16(y[tile], c, s.b[half][tile]);
#pragma unroll
        for (int j = 0; j < kBlocks; ++j) {
          if (j > row_tile_) continue;
          uint32_t r[4];
          ldmatrix4(r, &in.b[j * 16 + lane_ / 16 * 8 + lane_ % 8][n + lane_ / 8 % 2 * 8]);
          mma_bf16(g[j][0], c, {r[0], r[1]});
          mma_bf16(g[j][1], c, {r[2], r[3]});
        }
      }
    }
    const int i0 = row_tile_ * 16 + g_, i1 = i0 + 8;
    const float grown0 = decays.grown[i0], grown1 = decays.grown[i1];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      y[tile][0] *= grown0, y[tile][1] *= grown0;
      y[tile][2] *= grown1, y[tile][3] *= grown1;
    }
    const float high0 = decays.a_high[i0], low0 = decays.a_low[i0];
    const float high1 = decays.a_high[i1], low1 = decays.a_low[i1];
#pragma unroll
    for (int j32 = 0; j32 < kBlocks; j32 += 2) {
      if (j32 > row_tile_) continue;
      Columns x;
      load_columns(x, in.x[slice_], j32 * 16);
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int block = j32 + half;
        if (block > row_tile_) continue;
        uint32_t m[4];
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          const int j = block * 16 + part * 8 + 2 * t_;
          const float2 high = floats_at(&decays.a_high[j]);
          const float2 low = floats_at(&decays.a_low[j]);
          const float2 dt = floats_at(&decays.dt[j]);
          const auto factor = [&](int i, float high_i, float low_i, int at) {
            const float h = at == j ? high.x : high.y, l = at == j ? low.x : low.y;
            const float decay = fast_exp2((high_i - h) + (low_i - l)) * (at == j ? dt.x : dt.y);
            return at <= i ? decay : 0.0f;
          };
          const float(&v)[4] = g[block][part];
          m[2 * part] =
              pack_bf16(v[0] * factor(i0, high0, low0, j), v[1] * factor(i0, high0, low0, j + 1));
          m[2 * part + 1] =
              pack_bf16(v[2] * factor(i1, high1, low1, j), v[3] * factor(i1, high1, low1, j + 1));
        }
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) mma_bf16(y[tile], m, x.b[half][tile]);
      }
    }
#pragma unroll
    for (int which = 0; which < 2; ++which) {
      const int i = which == 0 ? i0 : i1;
      if (i >= piece.count) continue;
      BF16* out = static_cast<BF16*>(args_.y) + (piece.row + i) * args_.y_stride +
                  int64_t{head_} * args_.head_dim + p0_;
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        const int column = tile * 8 + 2 * t_;
        if (p0_ + column >= args_.head_dim) continue;
        const uint32_t x = pair_at(&in.x[slice_][i][column]);
        set_pair(out + column, pack_bf16(fmaf(d_, bf16_low(x), y[tile][2 * which]),
                                         fmaf(d_, bf16_high(x), y[tile][2 * which + 1])));
      }
    }
  }

  /// sums += B^T scaled by `tail` times X over the rows j..j+31, for the warp's tile m of the
  /// state.
  template <typename Tail>
  __device__ void add_rows(float (&sums)[kTiles][4], int m, int j, const Columns& x, int stage,
                           Tail&& tail) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t b[4];
      ldmatrix4_transposed(
          b, &shared_.stages[stage].b[j + half * 16 + lane_ / 16 * 8 + lane_ % 8]
                                     [(warp_ * kMTiles + m) * 16 + lane_ / 8 % 2 * 8]);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const float2 factor = tail(j + half * 16 + part * 8 + 2 * t_);
#pragma unroll
        for (int i = 2 * part; i < 2 * part + 2; ++i) {
          b[i] = pack_bf16(bf16_low(b[i]) * factor.x, bf16_high(b[i]) * factor.y);
        }
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) mma_bf16(sums[tile], b, x.b[half][tile]);
    }
  }
  __device__ void advance(const Piece& piece, int stage) {
    const Decays& decays = shared_.decays[stage];
    const float total = decays.total;
    each_element([&](float& value, int, int) { value *= total; });
#pragma unroll
    for (int j = 0; j < kPiece; j += 32) {
      if (j >= piece.count) continue;
      Columns x;
      load_columns(x, shared_.stages[stage].x[slice_], j);
#pragma unroll
      for (int m = 0; m < kMTiles; ++m) {
        add_rows(state_[m], m, j, x, stage, [&](int row) { return floats_at(&decays.tail[row]); });
      }
    }
  }
  /// Writes the state after row `last` of the piece; the one in registers stays.
  __device__ void write_advanced(int32_t slot, int position, int last, const Piece& piece,
                                 int stage) {
    const Decays& decays = shared_.decays[stage];
    const float high = decays.a_high[last], low = decays.a_low[last];
    const auto tail = [&](int row) {
      const auto factor = [&](int j) {
        const float decay =
            fast_exp2((high - decays.a_high[j]) + (low - decays.a_low[j])) * decays.dt[j];
        return j <= last ? decay : 0.0f;
      };
      return make_float2(factor(row), factor(row + 1));
    };
#pragma unroll
    for (int m = 0; m < kMTiles; ++m) {
      float sums[kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sums[tile][i] = state_[m][tile][i] * decays.grown[last];
      }
      for (int j = 0; j < piece.count; j += 32) {
        Columns x;
        load_columns(x, shared_.stages[stage].x[slice_], j);
        add_rows(sums, m, j, x, stage, tail);
      }
      write_rows(slot, position, m, sums);
    }
  }

  /// A piece of one row takes the recurrence, with the same bits as scan_rows: the state goes
  /// through this stage's shared memory, laid out as the state rows of a block of columns.
  template <int kCount>
  __device__ void one_row(const Piece& piece, int stage) {
    float(*rows)[kN] = reinterpret_cast<float(*)[kN]>(&shared_.stages[stage]);
    static_assert(sizeof(typename Memory::Stage) >= kSlices * kSlice * kN * sizeof(float));
    each_element(
        [&](float& value, int n, int column) { rows[slice_ * kSlice + column][n] = value; });
    __syncthreads();
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
    constexpr int kWarps = kSlices * kSliceWarps, kColumns = kSlices * kSlice;
    for (int base = thread_ / kWarp * at_once; base < kColumns; base += kWarps * at_once) {
      const int column = base + lane_ / lanes, p = block_p_ + column;
      const bool here = column < kColumns && p < args_.head_dim;
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
    each_element(
        [&](float& value, int n, int column) { value = rows[slice_ * kSlice + column][n]; });
  }

  const ScanArgs& args_;
  const StepView& step_;
  Memory& shared_;
  int head_, block_p_, p0_;
  int thread_, lane_, slice_, warp_, g_, t_, row_tile_;
  float dt_bias_, a_, d_;
  float state_[kMTiles][kTiles][4];
};

/// Grid: heads (times blocks a head), and sequences as they come: block y takes every gridDim.y-th
/// one that has two rows or more.
template <int kN, int kSlices>
__global__ void __launch_bounds__(kSlices* kSliceThreads)
    scan_chunks(ScanArgs args, StepView step) {
  VIDERE_DYNAMIC_SHARED(memory);
  wait_for_previous();
  let_next_start();
  auto& shared = *reinterpret_cast<Shared<kN, kSlices>*>(memory);
  Scan<kN, kSlices> scan(args, step, shared);
  constexpr int kThreads = kSlices * kSliceThreads;
  unsigned found = 0;
  for (int base = 0; base < step.num_seqs; base += kThreads) {
    __syncthreads();
    const int candidate = base + static_cast<int>(threadIdx.x);
    const bool is_long = candidate < step.num_seqs &&
                         step.cu_seqlens[candidate + 1] - step.cu_seqlens[candidate] >= 2;
    const uint32_t ballot = __ballot_sync(kAllLanes, is_long);
    if (threadIdx.x % kWarp == 0) shared.long_seqs[threadIdx.x / kWarp] = ballot;
    __syncthreads();
    for (int warp = 0; warp < kThreads / kWarp; ++warp) {
      for (uint32_t rest = shared.long_seqs[warp]; rest != 0; rest &= rest - 1) {
        if (found++ % gridDim.y != blockIdx.y) continue;
        __syncthreads();
        scan.run(base + warp * kWarp + __ffs(static_cast<int>(rest)) - 1);
      }
    }
  }
}

template <int kN, int kSlices>
ScanChunks prepared(const ScanArgs& args, const StepView& step, LaunchShape* shape) {
  // Sequences of two rows or more are fewer than both; eight at once fill any card, and blocks that
  // find none cost little.
  const int64_t sequences = std::min<int64_t>({step.num_seqs, ceil_div(step.num_tokens, 2), 8});
  shape->grid = dim3(args.heads * ceil_div(args.head_dim, kSlices * kSlice), sequences);
  shape->block = dim3(kSlices * kSliceThreads);
  shape->shared_bytes = static_cast<int>(sizeof(Shared<kN, kSlices>));
  return scan_chunks<kN, kSlices>;
}

}  // namespace

ScanChunks find_scan_chunks(const ScanArgs& args, const StepView& step, int most_shared_bytes,
                            LaunchShape* shape) {
  if (args.n_state > 128 || args.n_state % 8 != 0 || args.head_dim % 8 != 0) return nullptr;
  const auto fits = [&](size_t bytes) { return bytes <= static_cast<size_t>(most_shared_bytes); };
  if (args.n_state <= 64) {
    if (args.head_dim <= kSlice) {
      return fits(sizeof(Shared<64, 1>)) ? prepared<64, 1>(args, step, shape) : nullptr;
    }
    return fits(sizeof(Shared<64, 2>)) ? prepared<64, 2>(args, step, shape) : nullptr;
  }
  if (args.head_dim > kSlice && fits(sizeof(Shared<128, 2>)))
    return prepared<128, 2>(args, step, shape);
  return fits(sizeof(Shared<128, 1>)) ? prepared<128, 1>(args, step, shape) : nullptr;
}

}  // namespace videre::cuda
