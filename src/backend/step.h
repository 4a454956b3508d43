// Index arrays of one step, as the ops read them: which rows of the flat batch belong to which
// sequence, and where that sequence's memory is. The engine fills fixed buffers once a step; layers
// only read.
#pragma once

#include <cstdint>

namespace videre {

constexpr int32_t kNoSlot = -1;  // read_slots: start from an empty state
constexpr int32_t kPadSlot =
    0;  // state slot and KV block 0 belong to padding rows; nothing reads them back

/// Pointers lie in device memory. `num_tokens` and `num_seqs` are the padded sizes of the step's
/// bucket: rows past cu_seqlens[num_seqs] are padding and may be computed or skipped, their results
/// are never read. A padding sequence has length 0 (equal neighbours in cu_seqlens).
struct StepView {
  int num_tokens = 0;
  int num_seqs = 0;
  const int32_t* cu_seqlens =
      nullptr;  // [num_seqs + 1] first row of each sequence in the flat batch
  const int32_t* context_lens =
      nullptr;  // [num_seqs] tokens before this step: absolute position of the first row
  const int32_t* read_slots = nullptr;    // [num_seqs] Mamba state read; kNoSlot starts from zeros
  const int32_t* write_slots = nullptr;   // [num_seqs] Mamba state after the last row goes here
  const int32_t* block_tables = nullptr;  // [num_seqs, max_blocks] KV blocks in order of position
  int max_blocks = 0;
  // No slot that a sequence reads is written by another of the same step, nor twice.
  // Extra states to keep (prefix cache, n > 1, rollback): the state after row `emit_rows[i]` of
  // sequence `emit_seqs[i]` (rows counted from the sequence's first row of this step) goes to slot
  // `emit_slots[i]`. Sorted by sequence, then row.
  int num_emits = 0;
  const int32_t* emit_seqs = nullptr;
  const int32_t* emit_rows = nullptr;
  const int32_t* emit_slots = nullptr;
};

}  // namespace videre
