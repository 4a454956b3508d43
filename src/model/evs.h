// Efficient Video Sampling: which vision rows of a clip stay. Frames arrive in slices; a running
// top set of projected rows is kept, never all frames. Maths: docs/model.md#evs.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace videre {

/// Chooses `num_kept` of frames * tokens rows: highest dissimilarity to the same position one frame
/// earlier; the first frame counts as 255; equal values keep the lower index. One instance a clip,
/// one thread.
class EvsSelector {
 public:
  EvsSelector(Backend& be, int64_t num_frames, int tokens_per_frame, int64_t num_kept,
              int64_t hidden_size, DType dtype, EvsArithmetic arithmetic,
              int64_t max_frames_per_slice);

  /// Projected rows [frames * tokens, hidden] of the next frames, in order.
  void add_frames(ConstView rows);
  /// After the last frame: the kept rows, in (frame, position) order, into out [num_kept, hidden].
  void finish(View out);

  const std::vector<int64_t>& rows_per_frame() const {
    return rows_per_frame_;
  }  // valid after finish
  const std::vector<float>& dissimilarities() const {
    return dissimilarities_;
  }                                   // [frames * tokens], so far
  std::vector<uint8_t> mask() const;  // [frames * tokens], after finish

 private:
  struct Candidate {
    float dissimilarity;
    int64_t index;  // frame * tokens_per_frame + position
    int32_t row;    // where in `arena_` it lies
  };
  Backend& be_;
  int64_t num_frames_, tokens_per_frame_, num_kept_, frames_seen_ = 0;
  EvsArithmetic arithmetic_;
  Tensor arena_;      // [num_kept + slice rows, hidden]
  Tensor previous_;   // [tokens, hidden] last frame of the slice before
  Tensor scores_;     // [slice frames, tokens] float
  Tensor row_index_;  // int32 scratch for gather_rows
  std::vector<Candidate> kept_;
  std::vector<int32_t> free_rows_;
  std::vector<float> dissimilarities_;
  std::vector<int64_t> rows_per_frame_;
};

}  // namespace videre
