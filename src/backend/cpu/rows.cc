// Rows picked by index, and the edits of logits that come before sampling.
#include <cstring>

#include "backend/cpu/cpu_backend.h"

namespace videre::cpu {
namespace {

// One row from `from` to `to`, of whatever dtypes.
void move_row(const Kernels& kernels, char* to, DType to_dtype, const char* from, DType from_dtype,
              int64_t width, float* line) {
  if (to_dtype == from_dtype) {
    std::memcpy(to, from, static_cast<size_t>(width) * dtype_size(to_dtype));
    return;
  }
  kernels.widen(line, from, from_dtype, width);
  kernels.narrow(to, line, to_dtype, width);
}

}  // namespace

void CpuBackend::do_embed(View out, ConstView table, ConstView token_ids, ConstView last_tokens) {
  const int64_t width = out.dim(1);
  const int32_t* ids = token_ids.data<int32_t>();
  const int32_t* last = last_tokens.data<int32_t>();
  pool_.parallel_for(out.dim(0), row_grain(width), [&](int64_t begin, int64_t end, int worker) {
    float* line = scratch(worker, pad_up(width));
    for (int64_t i = begin; i < end; ++i) {
      int64_t id = ids[i];
      if (id < 0) {
        const int64_t slot = -1 - id;
        VIDERE_CHECK_LT(slot, last_tokens.dim(0)) << "row " << i << " names no slot";
        id = last[slot];
      }
      VIDERE_CHECK(id >= 0 && id < table.dim(0)) << "row " << i << " has token id " << id;
      move_row(kernels_, row_at(out, i), out.dtype(), row_at(table, id), table.dtype(), width,
               line);
    }
  });
}

void CpuBackend::do_gather_rows(View out, ConstView src, ConstView rows) {
  const int64_t width = out.dim(1);
  const int32_t* index = rows.data<int32_t>();
  pool_.parallel_for(out.dim(0), row_grain(width), [&](int64_t begin, int64_t end, int worker) {
    float* line = scratch(worker, pad_up(width));
    for (int64_t i = begin; i < end; ++i) {
      if (index[i] < 0) continue;
      VIDERE_CHECK_LT(index[i], src.dim(0)) << "row " << i;
      move_row(kernels_, row_at(out, i), out.dtype(), row_at(src, index[i]), src.dtype(), width,
               line);
    }
  });
}

void CpuBackend::do_edit_logits(View logits, std::span<const LogitEdit> edits) {
  for (const LogitEdit& edit : edits) {
    float& logit = reinterpret_cast<float*>(row_at(logits, edit.row))[edit.token];
    logit = edit.set ? edit.value : logit + edit.value;
  }
}

void CpuBackend::do_penalize(View logits, std::span<const PenaltyRow> rows) {
  pool_.parallel_for(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const PenaltyRow& row = rows[i];
      float* values = reinterpret_cast<float*>(row_at(logits, row.row));
      for (const TokenCount& token : row.tokens) {
        float& logit = values[token.token];
        logit = logit > 0 ? logit / row.repetition : logit * row.repetition;
        logit -= row.frequency * static_cast<float>(token.output_count);
        if (token.output_count > 0) logit -= row.presence;
      }
    }
  });
}

}  // namespace videre::cpu
