#include "model/evs.h"

#include <algorithm>
#include <numeric>

namespace videre {

EvsWorkspace make_evs_workspace(Backend& be, int tokens_per_frame, int64_t hidden_size, DType dtype,
                                int64_t max_frames_per_slice, int64_t max_kept) {
  EvsWorkspace ws;
  ws.previous = be.allocate(dtype, Shape{tokens_per_frame, hidden_size});
  ws.scores = be.allocate(DType::kF32, Shape{max_frames_per_slice, tokens_per_frame});
  ws.row_index = be.allocate(DType::kI32, Shape{max_kept});
  return ws;
}

int64_t evs_workspace_bytes(int tokens_per_frame, int64_t hidden_size, DType dtype,
                            int64_t max_frames_per_slice, int64_t max_kept) {
  return tokens_per_frame * hidden_size * static_cast<int64_t>(dtype_size(dtype)) +
         4 * (max_frames_per_slice * tokens_per_frame + max_kept);
}

EvsSelector::EvsSelector(Backend& be, const EvsWorkspace& workspace, View kept, int64_t num_frames,
                         int tokens_per_frame, EvsArithmetic arithmetic)
    : be_(be),
      ws_(workspace),
      rows_(kept),
      num_frames_(num_frames),
      tokens_per_frame_(tokens_per_frame),
      num_kept_(kept.dim(0)),
      arithmetic_(arithmetic) {
  VIDERE_CHECK_LE(num_kept_, num_frames * tokens_per_frame);
  VIDERE_CHECK_LE(num_kept_, ws_.row_index.view().numel());
  free_rows_.resize(num_kept_);
  std::iota(free_rows_.rbegin(), free_rows_.rend(), 0);  // low rows are taken first
  dissimilarities_.reserve(num_frames * tokens_per_frame);
}

void EvsSelector::add_frames(ConstView rows) {
  const int64_t count = rows.dim(0), frames = count / tokens_per_frame_;
  VIDERE_CHECK_EQ(frames * tokens_per_frame_, count);
  VIDERE_CHECK_LE(frames_seen_ + frames, num_frames_);
  const View scores = ws_.scores.view().rows(0, frames);
  be_.frame_dissimilarity(scores, rows, frames_seen_ == 0 ? ConstView() : ConstView(ws_.previous),
                          static_cast<int>(tokens_per_frame_), arithmetic_);
  std::vector<float> values(count);
  be_.download(values.data(), scores);
  be_.copy(ws_.previous, rows.rows(count - tokens_per_frame_, count));
  dissimilarities_.insert(dissimilarities_.end(), values.begin(), values.end());

  // Who of (kept so far + this slice) stays. Equal values keep the lower index, so the order is
  // total and the running set equals the set chosen over all frames at once.
  const int64_t first = frames_seen_ * tokens_per_frame_;
  std::vector<Candidate> candidates = kept_;
  for (int64_t i = 0; i < count; ++i) candidates.push_back({values[i], first + i, -1});
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.dissimilarity != b.dissimilarity ? a.dissimilarity > b.dissimilarity
                                              : a.index < b.index;
  };
  if (static_cast<int64_t>(candidates.size()) > num_kept_) {
    std::nth_element(candidates.begin(), candidates.begin() + num_kept_, candidates.end(), before);
    for (auto it = candidates.begin() + num_kept_; it != candidates.end(); ++it) {
      if (it->row >= 0) free_rows_.push_back(it->row);
    }
    candidates.resize(num_kept_);
  }
  // Newcomers that stay are copied into free rows: gather_rows writes row i from index[i].
  std::vector<int32_t> index(num_kept_, -1);
  for (Candidate& candidate : candidates) {
    if (candidate.row >= 0) continue;
    candidate.row = free_rows_.back();
    free_rows_.pop_back();
    index[candidate.row] = static_cast<int32_t>(candidate.index - first);
  }
  const View row_index = ws_.row_index.view().rows(0, num_kept_);
  be_.upload(row_index, index.data());
  be_.gather_rows(rows_, rows, row_index);
  kept_ = std::move(candidates);
  frames_seen_ += frames;
}

std::vector<int32_t> EvsSelector::finish() {
  VIDERE_CHECK_EQ(frames_seen_, num_frames_);
  VIDERE_CHECK_EQ(static_cast<int64_t>(kept_.size()), num_kept_);
  std::sort(kept_.begin(), kept_.end(),
            [](const Candidate& a, const Candidate& b) { return a.index < b.index; });
  rows_per_frame_.assign(num_frames_, 0);
  std::vector<int32_t> order;
  for (const Candidate& candidate : kept_) {
    ++rows_per_frame_[candidate.index / tokens_per_frame_];
    order.push_back(candidate.row);
  }
  return order;
}

std::vector<uint8_t> EvsSelector::mask() const {
  std::vector<uint8_t> mask(num_frames_ * tokens_per_frame_, 0);
  for (const Candidate& candidate : kept_) mask[candidate.index] = 1;
  return mask;
}

}  // namespace videre
