// Efficient Video Sampling: which vision rows of a clip stay. Frames arrive in slices; a running
// top set of projected rows is kept, never all frames. Maths: docs/model.md#evs.
#pragma once

#include <cstdint>
#include <vector>

#include "backend/backend.h"

namespace videre {

/// Device memory that clips use one after another.
struct EvsWorkspace {
  Tensor previous;   // [tokens, hidden] last frame of the slice before
  Tensor scores;     // [slice frames, tokens] float
  Tensor row_index;  // [most rows kept] int32, for gather_rows
};
EvsWorkspace make_evs_workspace(Backend& be, int tokens_per_frame, int64_t hidden_size, DType dtype,
                                int64_t max_frames_per_slice, int64_t max_kept);
int64_t evs_workspace_bytes(int tokens_per_frame, int64_t hidden_size, DType dtype,
                            int64_t max_frames_per_slice, int64_t max_kept);

/// Chooses as many of frames * tokens rows as `kept` [num_kept, hidden] has: highest dissimilarity
/// to the same position one frame earlier; the first frame counts as 255; equal values keep the
/// lower index. One instance a clip, one thread. The workspace is its own until `finish`.
class EvsSelector {
 public:
  EvsSelector(Backend& be, const EvsWorkspace& workspace, View kept, int64_t num_frames,
              int tokens_per_frame, EvsArithmetic arithmetic);

  /// Projected rows [frames * tokens, hidden] of the next frames, in order. Those chosen so far lie
  /// in `kept`, wherever there was room.
  void add_frames(ConstView rows);
  /// After the last frame. Row i of the kept ones, in (frame, position) order, lies at
  /// kept[order[i]].
  std::vector<int32_t> finish();

  const std::vector<int64_t>& rows_per_frame() const {
    return rows_per_frame_;
  }  // valid after finish
  const std::vector<float>& dissimilarities() const {
    return dissimilarities_;
  }  // [frames * tokens], so far
  std::vector<uint8_t> mask() const;  // [frames * tokens], after finish

 private:
  struct Candidate {
    float dissimilarity;
    int64_t index;  // frame * tokens_per_frame + position
    int32_t row;    // where in `rows_` it lies
  };
  Backend& be_;
  const EvsWorkspace& ws_;
  View rows_;  // [num_kept, hidden]
  int64_t num_frames_, tokens_per_frame_, num_kept_, frames_seen_ = 0;
  EvsArithmetic arithmetic_;
  std::vector<Candidate> kept_;
  std::vector<int32_t> free_rows_;
  std::vector<float> dissimilarities_;
  std::vector<int64_t> rows_per_frame_;
};

}  // namespace videre
