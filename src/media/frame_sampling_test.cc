#include "media/frame_sampling.h"

#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <iterator>

namespace videre {
namespace {

using Indices = std::vector<int64_t>;

TEST(FrameSampling, EqualsTheReferenceLoader) {
  std::ifstream file(VIDERE_TEST_DATA "/tiny-b/golden.json");
  const std::string text((std::istreambuf_iterator<char>(file)), {});
  const auto golden = boost::json::parse(text);
  const int64_t total = golden.at("video").at("frames").as_int64();
  const double fps0 = golden.at("video").at("fps").to_number<double>();
  ASSERT_FALSE(golden.at("video_sampling").as_array().empty());
  for (const auto& row : golden.at("video_sampling").as_array()) {
    Indices expected;
    for (const auto& index : row.at("indices").as_array()) expected.push_back(index.as_int64());
    EXPECT_EQ(sample_opencv(total, fps0, row.at("fps").to_number<double>(),
                            row.at("num_frames").to_number<int64_t>()),
              expected)
        << boost::json::serialize(row);
  }
}

TEST(FrameSampling, FollowsTheRulesAtTheEdges) {
  EXPECT_EQ(sample_opencv(300, 30, -1, 8), (Indices{0, 42, 85, 128, 170, 213, 256, 299}));
  EXPECT_EQ(sample_opencv(100, 30, -1, 3), (Indices{0, 49, 99}));
  EXPECT_EQ(sample_opencv(1800, 30, 2, 128).size(), 120u);
  EXPECT_EQ(sample_opencv(1800, 30, 2, 128)[118], 1783);
  EXPECT_EQ(sample_opencv(18000, 30, 2, 128).size(), 128u);
  EXPECT_EQ(sample_opencv(12, 30, 2, 128), (Indices{0}));  // 0.4 s
  EXPECT_EQ(sample_opencv(3, 30, -1, 0), (Indices{0, 1, 2}));
  EXPECT_EQ(sample_opencv(3, 0, 2, 8), (Indices{0}));  // no rate, no duration
  EXPECT_EQ(sample_opencv(1, 1e9, 1e300, -1), (Indices{0}));
  EXPECT_EQ(count_opencv(int64_t{1} << 60, 1e-300, 1e300, 7), 7);
}

TEST(FrameSampling, DynamicFollowsTheClock) {
  EXPECT_EQ(sample_opencv_dynamic(40, 10, 2, 300), (Indices{0, 5, 10, 15, 20, 25, 30, 35}));
  EXPECT_EQ(sample_opencv_dynamic(40, 10, -1, 300).size(), 8u);             // 2 a second
  EXPECT_EQ(sample_opencv_dynamic(4, 10, 30, 300), (Indices{0, 1, 2, 3}));  // no doubles
  EXPECT_EQ(sample_opencv_dynamic(40, 10, 2, 2), (Indices{0, 14, 27, 39}));
  EXPECT_EQ(sample_opencv_dynamic(3, 30, 2, 300), (Indices{0}));
  EXPECT_EQ(sample_opencv_dynamic(5, 0.001, 2, 10), (Indices{0, 1, 2, 3, 4}));
  for (const double fps : {0.1, 2.0, 7.0, 1000.0}) {
    EXPECT_LE(static_cast<int64_t>(sample_opencv_dynamic(900, 30, fps, 20).size()),
              bound_opencv_dynamic(900, 30, fps, 20));
  }
}

TEST(FrameSampling, TimesUseWholeMilliseconds) {
  const Indices indices = {0, 1, 1800};
  EXPECT_EQ(frame_timestamps(indices, 30), (std::vector<double>{0, 0.033, 59.4}));
  EXPECT_EQ(frame_timestamps(indices, 29.97)[2], 59.4);
  EXPECT_EQ(frame_timestamps(indices, 24)[1], 0.041);
  EXPECT_EQ(frame_timestamps(indices, 0.5)[1], 2.0);
  EXPECT_EQ(frame_timestamps(indices, 2000)[2], 0.0);
  EXPECT_EQ(frame_timestamps(indices, 0)[2], 0.0);
}

}  // namespace
}  // namespace videre
