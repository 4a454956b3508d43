// Edits of logits that come before sampling: one thread an edit. The arrays travel to the device
// with the step.
#include <algorithm>
#include <cstring>
#include <vector>

#include "backend/cuda/cuda_backend.h"

namespace videre::cuda {
namespace {

constexpr int kThreads = 128;

__global__ void edit_kernel(float* logits, int64_t stride, const LogitEdit* edits,
                            int64_t num_edits) {
  wait_for_previous();
  let_next_start();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= num_edits) return;
  const LogitEdit edit = edits[i];
  float& logit = logits[edit.row * stride + edit.token];
  logit = edit.set ? edit.value : logit + edit.value;
}

struct Penalty {
  int32_t row;
  float repetition, frequency, presence;
  int64_t first, count;  // of the tokens
};

// Block (part, row).
__global__ void penalize_kernel(float* logits, int64_t stride, const Penalty* rows,
                                const TokenCount* tokens) {
  wait_for_previous();
  let_next_start();
  const Penalty row = rows[blockIdx.y];
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < row.count;
       i += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const TokenCount token = tokens[row.first + i];
    float& at = logits[row.row * stride + token.token];
    float logit = at;
    logit = logit > 0 ? logit / row.repetition : __fmul_rn(logit, row.repetition);
    logit = __fadd_rn(logit, -__fmul_rn(row.frequency, static_cast<float>(token.output_count)));
    if (token.output_count > 0) logit = __fadd_rn(logit, -row.presence);
    at = logit;
  }
}

// Takes edits into a round that names no logit twice: a later edit of the same logit is folded into
// the earlier one where that loses no rounding, else it waits in `rest` for the next round. `edits`
// are grouped by row.
void take_round(std::span<const LogitEdit> edits, std::vector<LogitEdit>& round,
                std::vector<LogitEdit>& rest) {
  // Where the round has a token's edit, -1 - place when others wait behind it. What an entry says
  // is checked against the round, so that none needs to be cleared.
  static thread_local std::vector<int64_t> places;
  round.clear();
  rest.clear();
  for (const LogitEdit& edit : edits) {
    if (std::ssize(places) <= edit.token) places.resize(edit.token + 1, 0);
    int64_t& entry = places[edit.token];
    const int64_t place = entry < 0 ? -1 - entry : entry;
    if (place >= std::ssize(round) || round[place].row != edit.row ||
        round[place].token != edit.token) {
      entry = std::ssize(round);
      round.push_back(edit);
      continue;
    }
    LogitEdit& earlier = round[place];
    if (entry < 0 || (!edit.set && !earlier.set)) {
      entry = -1 - place;
      rest.push_back(edit);
    } else if (edit.set) {
      earlier = edit;
    } else {
      earlier.value += edit.value;
    }
  }
}

}  // namespace

void CudaBackend::do_edit_logits(View logits, std::span<const LogitEdit> edits) {
  const auto by_row = [](const LogitEdit& a, const LogitEdit& b) { return a.row < b.row; };
  std::vector<LogitEdit> waiting(edits.begin(), edits.end()), round, rest;
  if (!std::is_sorted(waiting.begin(), waiting.end(), by_row)) {
    std::stable_sort(waiting.begin(), waiting.end(), by_row);
  }
  round.reserve(waiting.size());
  while (!waiting.empty()) {
    take_round(waiting, round, rest);
    const auto* staged_edits = staged(std::span<const LogitEdit>(round));
    run(edit_kernel, {dim3(ceil_div(std::ssize(round), kThreads)), dim3(kThreads), 0, true},
        logits.data<float>(), logits.stride(0), staged_edits, std::ssize(round));
    waiting.swap(rest);
  }
}

void CudaBackend::do_penalize(View logits, std::span<const PenaltyRow> rows) {
  // One array for both: the rows, then all their tokens.
  static_assert(sizeof(Penalty) % alignof(TokenCount) == 0 && sizeof(Penalty) == 32);
  int64_t num_tokens = 0, longest = 0;
  for (const PenaltyRow& row : rows) {
    num_tokens += std::ssize(row.tokens);
    longest = std::max<int64_t>(longest, std::ssize(row.tokens));
  }
  if (num_tokens == 0) return;
  std::vector<char> bytes(rows.size() * sizeof(Penalty) + num_tokens * sizeof(TokenCount));
  char* to = bytes.data();
  char* tokens = to + rows.size() * sizeof(Penalty);
  int64_t first = 0;
  for (const PenaltyRow& row : rows) {
    const Penalty penalty{row.row,      row.repetition, row.frequency,
                          row.presence, first,          std::ssize(row.tokens)};
    std::memcpy(to, &penalty, sizeof(penalty));
    to += sizeof(penalty);
    if (!row.tokens.empty())
      std::memcpy(tokens + first * sizeof(TokenCount), row.tokens.data(), row.tokens.size_bytes());
    first += penalty.count;
  }
  const auto* staged_bytes = staged(std::span<const char>(bytes));
  const auto* penalties = reinterpret_cast<const Penalty*>(staged_bytes);
  const auto* staged_tokens = reinterpret_cast<const TokenCount*>(penalties + rows.size());
  const int64_t parts = std::min<int64_t>(ceil_div(longest, kThreads), 64);
  constexpr int64_t kMostRows = 65535;  // of a grid's second dim
  for (int64_t begin = 0; begin < std::ssize(rows); begin += kMostRows) {
    run(penalize_kernel,
        {dim3(parts, std::min(kMostRows, std::ssize(rows) - begin)), dim3(kThreads), 0, true},
        logits.data<float>(), logits.stride(0), penalties + begin, staged_tokens);
  }
}

}  // namespace videre::cuda
