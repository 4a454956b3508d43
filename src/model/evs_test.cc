#include "model/evs.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "model/testing.h"

namespace videre::testing {
namespace {

// Runs a clip's rows [frames * tokens, hidden] in slices of the given frame counts.
EvsSelector select(Backend& be, ConstView rows, int tokens, int64_t kept,
                   const std::vector<int64_t>& slices, EvsArithmetic arithmetic,
                   std::vector<float>* out_rows = nullptr) {
  const int64_t frames = rows.dim(0) / tokens, hidden = rows.dim(1);
  const EvsWorkspace workspace = make_evs_workspace(
      be, tokens, hidden, rows.dtype(), *std::max_element(slices.begin(), slices.end()), kept);
  Tensor kept_rows = be.allocate(rows.dtype(), Shape{kept, hidden});
  EvsSelector selector(be, workspace, kept_rows, frames, tokens, arithmetic);
  int64_t done = 0;
  for (const int64_t count : slices) {
    selector.add_frames(rows.rows(done * tokens, (done + count) * tokens));
    done += count;
  }
  const std::vector<int32_t> order = selector.finish();
  if (out_rows != nullptr) {
    out_rows->clear();
    for (const int32_t row : order) {
      const std::vector<float> values = values_of(kept_rows.view().rows(row, row + 1));
      out_rows->insert(out_rows->end(), values.begin(), values.end());
    }
  }
  return selector;
}

// All ways to cut `frames` into slices, or the first of them by bits when there are too many.
std::vector<std::vector<int64_t>> splits(int64_t frames) {
  std::vector<std::vector<int64_t>> all;
  for (int64_t cuts = 0; cuts < int64_t{1} << (std::min<int64_t>(frames, 9) - 1); ++cuts) {
    std::vector<int64_t> slices{1};
    for (int64_t i = 1; i < frames; ++i) {
      if (i < 9 && (cuts >> (i - 1)) & 1) {
        slices.push_back(1);
      } else {
        ++slices.back();
      }
    }
    all.push_back(slices);
  }
  return all;
}

TEST(Evs, EqualsTheReferenceInEverySplit) {
  for (const std::string& folder : reference_folders()) {
    const ReferenceSet set(folder);
    const auto be = make_cpu_backend();
    const ConstView projected = set.view("vision.projected");
    const int64_t frames = projected.dim(0), hidden = projected.dim(2);
    const int tokens = static_cast<int>(projected.dim(1));
    const Tensor rows =
        make_tensor(DType::kF32, Shape{frames * tokens, hidden}, values_of(projected));
    int checked = 0;
    for (const std::string& rate : set.names("evs.mask_")) {
      const double gap =
          *json_number(*json_find(*json_find(set.json(), "evs.min_gap_at_cut"), rate));
      if (gap <= tolerance::kEvsGap) continue;  // rounding may choose either row
      const std::vector<float> stored = set.values("evs.mask_" + rate);
      const std::vector<uint8_t> mask(stored.begin(), stored.end());
      const auto kept = std::accumulate(mask.begin(), mask.end(), int64_t{0});
      for (const auto& slices : splits(frames)) {
        std::vector<float> out;
        const EvsSelector selector =
            select(*be, rows, tokens, kept, slices, EvsArithmetic::kFloat32, &out);
        ASSERT_EQ(selector.mask(), mask) << "rate " << rate;
        const auto& counts = json_find(set.json(), "evs.tokens_per_frame_" + rate)->as_array();
        ASSERT_EQ(counts.size(), selector.rows_per_frame().size());
        for (size_t i = 0; i < counts.size(); ++i) {
          EXPECT_EQ(selector.rows_per_frame()[i], static_cast<int64_t>(*json_number(counts[i])));
        }
        const std::vector<float> expected = set.values("evs.dissimilarity_fp32");
        ASSERT_EQ(selector.dissimilarities().size(), expected.size());
        for (size_t i = 0; i < expected.size(); ++i) {
          EXPECT_NEAR(selector.dissimilarities()[i], expected[i], tolerance::kEvsGap) << i;
        }
        std::vector<float> chosen;
        const std::vector<float> all = values_of(rows);
        for (size_t i = 0; i < mask.size(); ++i) {
          if (mask[i]) chosen.insert(chosen.end(), &all[i * hidden], &all[i * hidden] + hidden);
        }
        ASSERT_EQ(out, chosen) << "rate " << rate;
      }
      ++checked;
    }
    EXPECT_GE(checked, 3);
  }
}

// A still scene: in bfloat16 nearly all dissimilarities tie, and the lower index wins.
TEST(Evs, TiesKeepTheLowerIndex) {
  const auto be = make_cpu_backend();
  constexpr int kFrames = 6, kTokens = 5, kHidden = 24;
  for (const EvsArithmetic arithmetic : {EvsArithmetic::kFloat32, EvsArithmetic::kBFloat16}) {
    const std::vector<float> frame = random_values(kTokens * kHidden, 5);
    std::vector<float> values;
    for (int i = 0; i < kFrames; ++i) values.insert(values.end(), frame.begin(), frame.end());
    // One token of frame 4 changes.
    for (int i = 0; i < kHidden; ++i)
      values[(4 * kTokens + 2) * kHidden + i] *= i % 2 ? 1.0f : -1.0f;
    const Tensor rows = make_tensor(DType::kBF16, Shape{kFrames * kTokens, kHidden}, values);
    for (const auto& slices : splits(kFrames)) {
      const EvsSelector selector = select(*be, rows, kTokens, 9, slices, arithmetic);
      std::vector<int64_t> order(kFrames * kTokens);
      std::iota(order.begin(), order.end(), 0);
      const auto& d = selector.dissimilarities();
      std::stable_sort(order.begin(), order.end(),
                       [&](int64_t a, int64_t b) { return d[a] > d[b]; });
      std::vector<uint8_t> expected(order.size(), 0);
      for (int i = 0; i < 9; ++i) expected[order[i]] = 1;
      EXPECT_EQ(selector.mask(), expected);
      EXPECT_EQ(selector.mask()[4 * kTokens + 2], 1);
      EXPECT_EQ(selector.rows_per_frame()[0], kTokens);
    }
  }
}

TEST(Evs, KeepsAllOrTheFirstFrame) {
  const auto be = make_cpu_backend();
  const Tensor rows = random_tensor(DType::kF32, Shape{4 * 3, 8}, 9);
  std::vector<float> out;
  select(*be, rows, 3, 12, {1, 3}, EvsArithmetic::kFloat32, &out);
  EXPECT_EQ(out, values_of(rows));
  select(*be, rows, 3, 3, {2, 2}, EvsArithmetic::kFloat32, &out);
  EXPECT_EQ(out, values_of(rows.view().rows(0, 3)));
}

}  // namespace
}  // namespace videre::testing
