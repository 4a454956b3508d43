#include "media/video.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "media/avi.h"
#include "media/frame_sampling.h"
#include "media/media_test_util.h"
#include "media/resize.h"
#include "media/video_ffmpeg.h"
#include "media/y4m.h"

namespace videre {
namespace {

using testing::crc32_of;
using testing::expect_clean;
using ::testing::HasSubstr;
using testing::read_test_file;
using testing::read_test_json;
using Bytes = std::vector<uint8_t>;
using Indices = std::vector<int64_t>;

ClipLimits no_limits() {
  ClipLimits limits;
  limits.deadline = std::chrono::steady_clock::now() + std::chrono::hours(1);
  return limits;
}

bool ends_with(const std::string& name, std::string_view tail) {
  return name.size() >= tail.size() && name.ends_with(tail);
}

// The readers of the program itself; FFmpeg's is asked for by name.
Result<std::unique_ptr<FrameReader>> open_own(const std::string& name, const Bytes& bytes,
                                              bool* exact) {
  return ends_with(name, ".y4m") ? open_y4m(bytes, no_limits(), exact)
                                 : open_avi(bytes, no_limits(), exact);
}

std::vector<Image> read_all(FrameReader& reader) {
  std::vector<Image> frames;
  while (true) {
    const auto grabbed = reader.grab();
    EXPECT_TRUE(grabbed.ok());
    if (!grabbed.ok() || !*grabbed) return frames;
    auto frame = reader.retrieve();
    EXPECT_TRUE(frame.ok());
    if (frame.ok()) frames.push_back(std::move(*frame));
  }
}

std::vector<uint32_t> crcs_of(const std::vector<Image>& frames) {
  std::vector<uint32_t> crcs;
  for (const Image& frame : frames) crcs.push_back(crc32_of(frame.rgb));
  return crcs;
}

template <typename T>
std::vector<T> list_of(const boost::json::value& array) {
  std::vector<T> list;
  for (const auto& entry : array.as_array()) list.push_back(entry.to_number<T>());
  return list;
}

void expect_info(const ClipInfo& info, const boost::json::value& golden) {
  EXPECT_EQ(info.num_frames, golden.at("num_frames").as_int64());
  EXPECT_DOUBLE_EQ(info.fps, golden.at("fps").to_number<double>());
  EXPECT_EQ(info.width, golden.at("width").as_int64());
  EXPECT_EQ(info.height, golden.at("height").as_int64());
}

MediaBytes media_of(Bytes bytes, std::string mime = "") {
  return MediaBytes(std::move(bytes), std::move(mime));
}

Result<SampledVideo> decode(Bytes bytes, VideoOptions options = {}, std::string mime = "") {
  options.tile_size = 32;
  return decode_video(media_of(std::move(bytes), std::move(mime)), options, nullptr, {});
}

VideoOptions options_of(const boost::json::value& words, const std::string& backend) {
  VideoOptions options;
  options.backend = backend;
  for (const auto& [key, value] : words.as_object()) {
    if (key == "fps") options.fps = value.to_number<double>();
    if (key == "num_frames") options.num_frames = value.to_number<int64_t>();
    if (key == "max_duration") options.max_duration_s = value.to_number<double>();
    if (key == "duration") options.duration = value.to_number<double>();
    if (key == "total_num_frames") options.total_num_frames = value.to_number<int64_t>();
    if (key == "frames_indices") options.frames_indices = list_of<int64_t>(value);
  }
  return options;
}

TEST(Video, EqualsOpenCv) {
  if (!ffmpeg_available(nullptr)) GTEST_SKIP() << "FFmpeg's libraries are not installed";
  const auto golden = read_test_json("media_video/golden.json");
  for (const auto& [key, clip] : golden.at("clips").as_object()) {
    const std::string name(key);
    if (name == "anim.gif") continue;  // read by the program's own code
    SCOPED_TRACE(name);
    const Bytes bytes = read_test_file("media_video/" + name);
    const auto reader = open_ffmpeg(bytes, no_limits());
    ASSERT_TRUE(reader.ok()) << reader.error().message;
    expect_info((*reader)->info(), clip);
    EXPECT_EQ(crcs_of(read_all(**reader)), list_of<uint32_t>(clip.at("crc32_rgb")));
  }
}

TEST(Video, OwnReadersEqualOpenCv) {
  const auto golden = read_test_json("media_video/golden.json");
  int num_exact = 0;
  for (const auto& [key, clip] : golden.at("clips").as_object()) {
    const std::string name(key);
    if (!ends_with(name, ".y4m") && !name.starts_with("mjpeg")) continue;
    SCOPED_TRACE(name);
    const Bytes bytes = read_test_file("media_video/" + name);
    bool exact = false;
    const auto reader = open_own(name, bytes, &exact);
    ASSERT_TRUE(reader.ok()) << reader.error().message;
    expect_info((*reader)->info(), clip);
    const std::vector<Image> frames = read_all(**reader);
    EXPECT_EQ(frames.size(), clip.at("crc32_rgb").as_array().size());
    if (!exact) continue;  // 4:4:4 passes a filter there
    ++num_exact;
    EXPECT_EQ(crcs_of(frames), list_of<uint32_t>(clip.at("crc32_rgb")));
  }
  EXPECT_EQ(num_exact, 5);
}

// Where the program's own pixels are not OpenCV's, they are close.
TEST(Video, OwnReaderOf444IsNear) {
  if (!ffmpeg_available(nullptr)) GTEST_SKIP() << "FFmpeg's libraries are not installed";
  const Bytes bytes = read_test_file("media_video/mjpeg_444.avi");
  const auto own = open_avi(bytes, no_limits());
  const auto other = open_ffmpeg(bytes, no_limits());
  ASSERT_TRUE(own.ok() && other.ok());
  const auto a = read_all(**own), b = read_all(**other);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    double sum = 0;
    for (size_t j = 0; j < a[i].rgb.size(); ++j) sum += std::abs(a[i].rgb[j] - b[i].rgb[j]);
    EXPECT_LT(sum / static_cast<double>(a[i].rgb.size()), 6) << i;
  }
}

TEST(Video, FramesOfTheReferenceClip) {
  const Bytes bytes = read_test_file("tiny-b/media/clip.avi");
  bool exact = false;
  const auto reader = open_avi(bytes, no_limits(), &exact);
  ASSERT_TRUE(reader.ok());
  EXPECT_TRUE(exact);
  const std::vector<Image> frames = read_all(**reader);
  ASSERT_EQ(frames.size(), 40u);
  const auto loader = read_test_json("media_video/loader.json");
  for (const auto& row : loader.at("clip").as_array()) {
    SCOPED_TRACE(boost::json::serialize(row));
    const VideoOptions options =
        options_of(row.at("options"), row.at("backend").as_string().c_str());
    const auto video = decode(bytes, options);
    ASSERT_TRUE(video.ok()) << video.error().message;
    EXPECT_EQ(video->frames_indices, list_of<int64_t>(row.at("frames_indices")));
    EXPECT_EQ(video->total_num_frames, 40);
    EXPECT_EQ(video->fps, 10);
    EXPECT_EQ(video->duration, row.at("duration").to_number<double>());
    EXPECT_EQ(video->do_sample_frames, row.at("do_sample_frames").as_bool());
    EXPECT_EQ(video->backend, row.at("metadata_backend").as_string().c_str());
    Bytes together;
    for (const int64_t i : video->frames_indices) {
      together.insert(together.end(), frames[i].rgb.begin(), frames[i].rgb.end());
    }
    EXPECT_EQ(testing::sha256_of(together), row.at("sha256").as_string().c_str());
  }
}

TEST(Video, TilesAreTheFramesResized) {
  const Bytes bytes = read_test_file("tiny-b/media/clip.avi");
  VideoOptions options;
  options.num_frames = 3;
  const auto video = decode(bytes, options);
  ASSERT_TRUE(video.ok());
  EXPECT_EQ(video->width, 160);
  EXPECT_EQ(video->height, 120);
  ASSERT_EQ(video->frames.num_tiles, 3);
  const auto reader = open_avi(bytes, no_limits());
  const std::vector<Image> frames = read_all(**reader);
  PixelTiles expected;
  expected.tile_size = 32;
  for (const int i : {0, 19, 39}) append_frame_tile(expected, frames[i]);
  EXPECT_EQ(video->frames.data, expected.data);
}

TEST(Video, TimesOfTheReference) {
  const auto loader = read_test_json("media_video/loader.json");
  for (const auto& row : loader.at("frame_times").as_array()) {
    const Indices indices = list_of<int64_t>(row.at("frames_indices"));
    const auto times = frame_timestamps(indices, row.at("fps").to_number<double>());
    ASSERT_EQ(times.size(), indices.size());
    for (size_t i = 0; i < times.size(); ++i) {
      EXPECT_EQ(fmt::format("{:.2f}", times[i]), row.at("times").at(i).as_string().c_str());
    }
  }
}

TEST(Video, Animations) {
  for (const char* name : {"anim.gif", "anim.webp"}) {
    SCOPED_TRACE(name);
    VideoOptions options;
    options.num_frames = -1;
    const auto video = decode(read_test_file(std::string("media_video/") + name), options);
    ASSERT_TRUE(video.ok()) << video.error().message;
    EXPECT_EQ(video->total_num_frames, 12);
    EXPECT_DOUBLE_EQ(video->fps, 10);
    EXPECT_EQ(video->frames.num_tiles, 12);
    EXPECT_EQ(video->width, 32);
    EXPECT_EQ(video->height, 24);
  }
  const auto golden = read_test_json("media_video/golden.json");
  std::vector<uint32_t> crcs;
  const Bytes gif = read_test_file("media_video/anim.gif");
  ASSERT_TRUE(decode_animation(gif, {}, [&](int64_t, const Image& frame) {
                crcs.push_back(crc32_of(frame.rgb));
                return true;
              }).ok());
  EXPECT_EQ(crcs, list_of<uint32_t>(golden.at("clips").at("anim.gif").at("crc32_rgb")));
}

TEST(Video, Av1) {
  if (!ffmpeg_available(nullptr)) GTEST_SKIP() << "FFmpeg's libraries are not installed";
  const auto video = decode(read_test_file("media_video/av1.mkv"));
  ASSERT_TRUE(video.ok()) << video.error().message;
  EXPECT_EQ(video->frames.num_tiles, 12);
}

// A list of `count` JPEG frames as a data: URL's bytes.
Bytes frame_list(int count) {
  const auto golden = read_test_json("media_image/pillow.json");
  std::string list;
  for (int i = 0; i < count; ++i) {
    const auto& row = golden.at("pictures").at(i % 5);  // one size, five ways to code it
    list += (i ? "," : "") + std::string(row.at("file_base64").as_string());
  }
  return {list.begin(), list.end()};
}

TEST(Video, ListsOfJpegFrames) {
  const auto loader = read_test_json("media_video/loader.json");
  for (const auto& row : loader.at("jpeg_sequence").as_array()) {
    SCOPED_TRACE(boost::json::serialize(row));
    const auto video = decode(frame_list(row.at("frames_sent").to_number<int>()),
                              options_of(row.at("options"), "nemotron_vl"), "video/jpeg");
    EXPECT_EQ(video.ok(), !row.as_object().contains("refused"));
    if (!video.ok()) {
      EXPECT_NE(video.error().param, "");
      expect_clean(video.error());
      continue;
    }
    EXPECT_EQ(video->total_num_frames, row.at("total_num_frames").as_int64());
    EXPECT_EQ(video->fps, row.at("fps").to_number<double>());
    EXPECT_EQ(video->duration, row.at("duration").to_number<double>());
    EXPECT_EQ(video->frames_indices, list_of<int64_t>(row.at("frames_indices")));
    EXPECT_EQ(video->do_sample_frames, row.at("do_sample_frames").as_bool());
    EXPECT_EQ(video->backend, "jpeg_sequence");
    EXPECT_EQ(video->frames.num_tiles, static_cast<int>(video->frames_indices.size()));
  }
}

TEST(Video, BadListsOfJpegFrames) {
  const auto message = [](Bytes list, VideoOptions options = {}) {
    const auto video = decode(std::move(list), options, "video/jpeg");
    EXPECT_FALSE(video.ok());
    if (video.ok()) return std::string();
    expect_clean(video.error());
    return video.error().message;
  };
  EXPECT_THAT(message({}), HasSubstr("frame 1 of the list"));
  Bytes list = frame_list(2);
  list.push_back(',');
  EXPECT_THAT(message(list), HasSubstr("frame 3 of the list"));
  list = frame_list(2);
  list[list.size() - 9] = '*';
  EXPECT_THAT(message(list), HasSubstr("base64"));
  // Another size: the picture that is turned.
  list = frame_list(2);
  const auto golden = read_test_json("media_image/pillow.json");
  const std::string turned(golden.at("pictures").at(7).at("file_base64").as_string());
  list.push_back(',');
  list.insert(list.end(), turned.begin(), turned.end());
  EXPECT_THAT(message(list), HasSubstr("17x23"));
  VideoOptions options;
  options.num_frames = -1;
  options.max_frames = 4;
  EXPECT_THAT(message(frame_list(5), options), HasSubstr("5 JPEG frames"));
  options.max_frame_side_px = 16;
  EXPECT_THAT(message(frame_list(1), options), HasSubstr("16 px"));
}

// The small clips cut at every byte: some frames, or a clean refusal.
TEST(Video, TruncationsAtEveryByte) {
  for (const char* name : {"anim.gif", "anim.webp", "h264.mp4", "vp9.webm", "av1.mkv"}) {
    SCOPED_TRACE(name);
    const Bytes bytes = read_test_file(std::string("media_video/") + name);
    const bool own = ends_with(name, ".gif") || ends_with(name, ".webp");
    if (!own && !ffmpeg_available(nullptr)) continue;
    for (size_t size = 0; size < bytes.size(); size += own ? 1 : 13) {
      const auto video = decode(Bytes(bytes.begin(), bytes.begin() + static_cast<long>(size)));
      if (!video.ok()) {
        expect_clean(video.error());
        continue;
      }
      EXPECT_GE(video->frames.num_tiles, 1);
      EXPECT_EQ(static_cast<size_t>(video->frames.num_tiles), video->frames_indices.size());
    }
  }
  for (const char* name : {"mjpeg_420.avi", "yuv420.y4m"}) {
    SCOPED_TRACE(name);
    const Bytes bytes = read_test_file(std::string("media_video/") + name);
    for (size_t size = 0; size < bytes.size(); size += size < 700 ? 1 : 97) {
      const Bytes cut(bytes.begin(), bytes.begin() + static_cast<long>(size));
      const auto reader = open_own(name, cut, nullptr);
      if (!reader.ok()) {
        if (reader.error().code != ErrorCode::kUnsupported) expect_clean(reader.error());
        continue;
      }
      while (true) {
        const auto grabbed = (*reader)->grab();
        if (!grabbed.ok() || !*grabbed) break;
        const auto frame = (*reader)->retrieve();
        if (!frame.ok()) expect_clean(frame.error());
      }
    }
  }
}

TEST(Video, DamageAtEveryByteOfTheHeaders) {
  for (const char* name : {"anim.gif", "anim.webp", "mjpeg_gray.avi", "gray.y4m", "h264.mp4"}) {
    SCOPED_TRACE(name);
    const Bytes bytes = read_test_file(std::string("media_video/") + name);
    if (ends_with(name, ".mp4") && !ffmpeg_available(nullptr)) continue;
    VideoOptions options;
    options.num_frames = 4;
    options.max_frame_pixels = 1 << 18;
    for (size_t at = 0; at < std::min<size_t>(bytes.size(), 600); ++at) {
      for (const uint8_t value : {uint8_t{0}, uint8_t{255}, static_cast<uint8_t>(bytes[at] ^ 1)}) {
        Bytes damaged = bytes;
        damaged[at] = value;
        const auto video = decode(std::move(damaged), options);
        if (!video.ok()) expect_clean(video.error());
      }
    }
  }
}

TEST(Video, RefusesTooMuch) {
  const auto error_of = [](Bytes bytes, VideoOptions options) {
    const auto video = decode(std::move(bytes), options);
    EXPECT_FALSE(video.ok());
    if (video.ok()) return Error{};
    expect_clean(video.error());
    return video.error();
  };
  const Bytes clip = read_test_file("tiny-b/media/clip.avi");
  VideoOptions options;
  options.num_frames = 0;
  options.max_frames = 39;
  EXPECT_EQ(error_of(clip, options).param, "num_frames");
  options = {};
  options.max_frame_pixels = 160 * 120 - 1;
  EXPECT_EQ(error_of(clip, options).code, ErrorCode::kTooLarge);
  options = {};
  options.max_frame_side_px = 159;
  EXPECT_EQ(error_of(clip, options).code, ErrorCode::kTooLarge);
  options = {};
  options.max_container_duration_s = 3.9;
  EXPECT_EQ(error_of(clip, options).code, ErrorCode::kTooLarge);
  options = {};
  options.decode_timeout_s = 0;
  EXPECT_EQ(error_of(clip, options).code, ErrorCode::kTooLarge);
  // A header that promises four billion frames, all of them wanted.
  Bytes lying = clip;
  const std::string_view text(reinterpret_cast<const char*>(lying.data()), lying.size());
  const size_t stream = text.find("strh") + 8;
  for (int i = 0; i < 4; ++i) lying[stream + 32 + i] = 0xff;
  options = {};
  options.num_frames = -1;
  options.max_container_duration_s = 1e12;
  EXPECT_EQ(error_of(lying, options).code, ErrorCode::kTooLarge);
  const std::string huge = "YUV4MPEG2 W100000 H100000 F10:1 C420\nFRAME\n";
  EXPECT_EQ(error_of({huge.begin(), huge.end()}, {}).code, ErrorCode::kTooLarge);
  for (const char* bad : {"YUV4MPEG2 W0 H4 F10:1\nFRAME\n", "YUV4MPEG2 W4 H-4\nFRAME\n",
                          "YUV4MPEG2 W4x H4\n", "YUV4MPEG2 W99999999999999999999 H4\n",
                          "YUV4MPEG2 W4 H4 F1\n", "YUV4MPEG2 W4 H4 F10:1 C420\n", "YUV4MPEG2 "}) {
    const std::string_view header(bad);
    error_of({header.begin(), header.end()}, {});
  }
  error_of({}, {});
  error_of({'h', 'e', 'l', 'l', 'o'}, {});
}

TEST(Video, RefusesOddOptionsByName) {
  const Bytes clip = read_test_file("tiny-b/media/clip.avi");
  const auto param_of = [&](VideoOptions options) {
    const auto video = decode(clip, options);
    return video.ok() ? std::string("accepted") : video.error().param;
  };
  VideoOptions options;
  options.backend = "torchcodec";
  EXPECT_EQ(param_of(options), "video_backend");
  options = {};
  options.fps = NAN;
  EXPECT_EQ(param_of(options), "fps");
  options = {};
  options.max_duration_s = 0;
  EXPECT_EQ(param_of(options), "max_duration");
}

// Frames in the middle destroyed: they are left out, or the next one is taken for them.
TEST(Video, UnreadableFrames) {
  Bytes clip = read_test_file("media_video/mjpeg_420.avi");
  const auto parsed = parse_avi(clip);
  ASSERT_TRUE(parsed.ok());
  ASSERT_EQ(parsed->frames.size(), 12u);
  for (const size_t i : {4u, 5u}) {  // the header stays, so the frame counts; its tables go
    const AviChunk& chunk = parsed->frames[i];
    const std::string_view text(reinterpret_cast<const char*>(clip.data()) + chunk.offset,
                                chunk.size);
    const size_t scan = text.find("\xff\xda");
    ASSERT_NE(scan, text.npos);
    clip[chunk.offset + scan + 1] = 0xd9;  // start of scan to end of picture
  }
  const auto reader = open_avi(clip, no_limits());
  ASSERT_TRUE(reader.ok());
  VideoOptions options;
  options.num_frames = -1;
  const auto video = decode(clip, options);
  ASSERT_TRUE(video.ok()) << video.error().message;
  EXPECT_LT(video->frames_indices.size(), 12u);
  EXPECT_EQ(static_cast<size_t>(video->frames.num_tiles), video->frames_indices.size());
}

TEST(Video, CancelAndProgress) {
  const Bytes bytes = read_test_file("tiny-b/media/clip.avi");
  std::atomic<bool> cancel{false};
  VideoOptions options;
  options.tile_size = 16;
  options.num_frames = 10;
  int64_t last = 0;
  const auto stopped =
      decode_video(media_of(bytes), options, &cancel, [&](int64_t done, int64_t wanted) {
        EXPECT_EQ(done, last + 1);
        EXPECT_EQ(wanted, 10);
        last = done;
        if (done == 3) cancel = true;
      });
  ASSERT_FALSE(stopped.ok());
  EXPECT_EQ(stopped.error().code, ErrorCode::kCancelled);
  EXPECT_EQ(last, 3);
}

}  // namespace
}  // namespace videre
