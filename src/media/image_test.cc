#include "media/image.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "media/exif.h"
#include "media/media_test_util.h"

namespace videre {
namespace {

using testing::base64;
using testing::crc32_of;
using testing::expect_clean;
using ::testing::HasSubstr;
using testing::read_test_file;
using testing::read_test_json;
using Bytes = std::vector<uint8_t>;

Bytes bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

void put_u32(Bytes& bytes, size_t at, uint32_t value, bool big_endian) {
  for (int i = 0; i < 4; ++i) {
    bytes[at + i] = static_cast<uint8_t>(value >> 8 * (big_endian ? 3 - i : i));
  }
}

// A small picture of each kind, by name.
std::vector<std::pair<std::string, Bytes>> pictures() {
  std::vector<std::pair<std::string, Bytes>> all;
  for (const char* file : {"media_image/pillow.json", "media_image/vllm.json"}) {
    const auto golden = read_test_json(file);
    for (const auto& row : golden.at("pictures").as_array()) {
      all.emplace_back(row.at("name").as_string().c_str(), base64(row.at("file_base64")));
    }
  }
  return all;
}

Bytes picture(const std::string& name) {
  for (const auto& [have, bytes] : pictures()) {
    if (have == name) return bytes;
  }
  ADD_FAILURE() << name;
  return {};
}

TEST(Image, EqualsPillow) {
  const auto golden = read_test_json("media_image/pillow.json");
  for (const auto& row : golden.at("pictures").as_array()) {
    SCOPED_TRACE(row.at("name").as_string().c_str());
    const auto image = decode_image(base64(row.at("file_base64")), {});
    ASSERT_TRUE(image.ok()) << image.error().message;
    EXPECT_EQ(image->width, row.at("size").at(0).as_int64());
    EXPECT_EQ(image->height, row.at("size").at(1).as_int64());
    EXPECT_EQ(crc32_of(image->rgb), row.at("rgb_crc32").to_number<uint32_t>());
  }
}

TEST(Image, ModesEqualTodaysServingStack) {
  const auto golden = read_test_json("media_image/vllm.json");
  for (const auto& row : golden.at("pictures").as_array()) {
    SCOPED_TRACE(row.at("name").as_string().c_str());
    ImageOptions options;
    if (const auto* background = row.as_object().if_contains("background")) {
      for (int c = 0; c < 3; ++c) {
        options.rgba_background_color[c] = background->at(c).to_number<uint8_t>();
      }
    }
    const auto image = decode_image(base64(row.at("file_base64")), options);
    ASSERT_TRUE(image.ok()) << image.error().message;
    EXPECT_EQ(image->width, row.at("size").at(0).as_int64());
    EXPECT_EQ(image->height, row.at("size").at(1).as_int64());
    EXPECT_EQ(image->rgb, base64(row.at("rgb_base64")));
  }
}

TEST(Image, WholePicturesEqualTodaysServingStack) {
  const auto golden = read_test_json("media_image/tiles.json");
  for (const auto& row : golden.at("decoded").as_array()) {
    const std::string file = row.at("file").as_string().c_str();
    const auto image = decode_image(read_test_file("tiny-b/media/" + file), {});
    ASSERT_TRUE(image.ok()) << file;
    EXPECT_EQ(image->width, row.at("size").at(0).as_int64());
    EXPECT_EQ(image->height, row.at("size").at(1).as_int64());
    EXPECT_EQ(testing::sha256_of(image->rgb), row.at("sha256").as_string().c_str()) << file;
  }
}

TEST(Image, OrientationCanBeLeftAlone) {
  ImageOptions options;
  options.exif_transpose = false;
  const auto image = decode_image(picture("JPEG RGB, exif 6"), options);
  ASSERT_TRUE(image.ok());
  EXPECT_EQ(image->width, 23);
  EXPECT_EQ(image->height, 17);
}

// A file cut anywhere is refused, or is whole as far as its pixels go.
TEST(Image, TruncationsAtEveryByte) {
  for (const auto& [name, bytes] : pictures()) {
    const auto whole = decode_image(bytes, {});
    ASSERT_TRUE(whole.ok());
    size_t num_refused = 0;
    for (size_t size = 0; size < bytes.size(); ++size) {
      // On the heap at its exact size, so that a sanitizer sees reads past the end.
      const Bytes cut(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size));
      const auto image = decode_image(cut, {});
      if (image.ok()) {
        // A cut may take the orientation's block with it, never pixels.
        EXPECT_EQ(image->rgb.size(), whole->rgb.size()) << name << " at " << size;
        if (image->width == whole->width && name.find("exif") == name.npos) {
          EXPECT_EQ(image->rgb, whole->rgb) << name << " at " << size;
        }
      } else {
        ++num_refused;
        expect_clean(image.error());
      }
    }
    EXPECT_GT(num_refused, bytes.size() / 2) << name;
  }
}

// Every byte of every file replaced by a few others: an answer or a clean refusal, nothing else.
TEST(Image, DamageAtEveryByte) {
  ImageOptions options;
  options.max_pixels = 1 << 20;  // damaged sizes are common; those below this are really decoded
  for (const auto& [name, bytes] : pictures()) {
    SCOPED_TRACE(name);
    for (size_t at = 0; at < bytes.size(); ++at) {
      for (const uint8_t value : {uint8_t{0}, uint8_t{255}, static_cast<uint8_t>(bytes[at] ^ 1),
                                  static_cast<uint8_t>(bytes[at] ^ 128)}) {
        Bytes damaged = bytes;
        damaged[at] = value;
        const auto image = decode_image(damaged, options);
        if (image.ok()) {
          ASSERT_EQ(image->rgb.size(), 3u * image->width * image->height);
        } else {
          expect_clean(image.error());
        }
      }
    }
  }
}

TEST(Image, RefusesBombsBeforeTakingMemory) {
  const auto expect_too_large = [](const Bytes& bytes, const char* what) {
    const auto image = decode_image(bytes, {});
    ASSERT_FALSE(image.ok()) << what;
    EXPECT_EQ(image.error().code, ErrorCode::kTooLarge) << image.error().message;
    expect_clean(image.error());
  };
  Bytes png = picture("PNG RGB");
  put_u32(png, 16, 60000, true);
  put_u32(png, 20, 60000, true);
  put_u32(png, 29, static_cast<uint32_t>(crc32(0, png.data() + 12, 17)), true);
  expect_too_large(png, "PNG");
  Bytes bmp = picture("BMP RGB");
  put_u32(bmp, 18, 60000, false);
  put_u32(bmp, 22, 60000, false);
  expect_too_large(bmp, "BMP");
  put_u32(bmp, 22, 0x80000001, false);  // top down, -(2^31 - 1) rows
  expect_too_large(bmp, "BMP");
  Bytes jpeg = picture("JPEG L");
  for (size_t at = 0; at + 9 < jpeg.size(); ++at) {
    if (jpeg[at] == 0xff && jpeg[at + 1] == 0xc0) {
      for (const int i : {5, 7}) jpeg[at + i] = 0xf0;
      break;
    }
  }
  expect_too_large(jpeg, "JPEG");
  Bytes gif = picture("GIF P16, interlace 0");
  for (const int i : {7, 9}) gif[i] = 0xf0;
  expect_too_large(gif, "GIF");
  expect_too_large(bytes_of("P6 60000 60000 255\nabc"), "PPM");
  expect_too_large(bytes_of("P6 9999999999 1 255\nabc"), "PPM");
  expect_too_large(bytes_of("P5 65501 1 255\nabc"), "PPM");
  Bytes tiff = picture("TIFF RGB");
  const uint32_t directory = tiff[4];
  for (const uint32_t entry : {0u, 1u}) {  // width and height
    put_u32(tiff, directory + 2 + 12 * entry + 8, 60000, false);
  }
  expect_too_large(tiff, "TIFF");
  Bytes webp = picture("WEBP RGBA, quality 60");
  for (int i = 24; i < 30; ++i) webp[i] = 0xff;  // canvas of the VP8X chunk, 2^24 a side
  const auto image = decode_image(webp, {});
  ASSERT_FALSE(image.ok());
  expect_clean(image.error());

  ImageOptions small;
  small.max_pixels = 23 * 17 - 1;
  EXPECT_EQ(decode_image(picture("PNG RGB"), small).error().code, ErrorCode::kTooLarge);
  small.max_pixels = 23 * 17;
  EXPECT_TRUE(decode_image(picture("PNG RGB"), small).ok());
}

TEST(Image, RefusesWhatIsNoPicture) {
  const auto message = [](const Bytes& bytes) {
    const auto image = decode_image(bytes, {});
    EXPECT_FALSE(image.ok());
    if (image.ok()) return std::string();
    expect_clean(image.error());
    EXPECT_THAT(image.error().message, HasSubstr("failed to load image"));
    return image.error().message;
  };
  EXPECT_THAT(message({}), HasSubstr("empty"));
  EXPECT_THAT(message(bytes_of("hello")), HasSubstr("5 bytes"));
  EXPECT_THAT(message(bytes_of("%PDF-1.7")), HasSubstr("PDF"));
  EXPECT_THAT(message(bytes_of("<?xml?><svg width='1'/>")), HasSubstr("SVG"));
  EXPECT_THAT(message({0, 0, 0, 12, 'j', 'P', ' ', ' ', 13, 10}), HasSubstr("JPEG 2000"));
  EXPECT_THAT(message(bytes_of("....ftypavif")), HasSubstr("AVIF"));
  EXPECT_THAT(message(bytes_of("....ftypheic")), HasSubstr("HEIC"));
  EXPECT_THAT(message(bytes_of("....ftypisom")), HasSubstr("video"));
  EXPECT_THAT(message(bytes_of("P6 0 5 255\n")), HasSubstr("0x5"));
  EXPECT_THAT(message(bytes_of("P6 2 2 70000\n            ")), HasSubstr("70000"));
  EXPECT_THAT(message(bytes_of("P3 1 1 255 1 2")), HasSubstr("ends before"));
  Bytes png = picture("PNG RGB");
  put_u32(png, 16, 0, true);
  put_u32(png, 29, static_cast<uint32_t>(crc32(0, png.data() + 12, 17)), true);
  message(png);
  Bytes bmp = picture("BMP RGB");
  put_u32(bmp, 18, 0, false);
  EXPECT_THAT(message(bmp), HasSubstr("0x17"));
}

TEST(Image, ThinPicturesWork) {
  for (const char* header : {"P5 1 1 255\n", "P5 1 4000 255\n", "P5 4000 1 255\n"}) {
    Bytes bytes = bytes_of(header);
    bytes.resize(bytes.size() + 4000, 77);
    const auto image = decode_image(bytes, {});
    ASSERT_TRUE(image.ok());
    EXPECT_EQ(image->rgb[0], 77);
  }
}

TEST(Exif, ReadsEitherByteOrderAndShrugsAtDamage) {
  const Bytes little = {'I', 'I', 42, 0, 8, 0, 0, 0, 1, 0, 0x12, 1, 3, 0, 1, 0, 0, 0, 7, 0, 0, 0};
  const Bytes big = {'M', 'M', 0, 42, 0, 0, 0, 8, 0, 1, 1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6, 0, 0};
  EXPECT_EQ(exif_orientation(little), 7);
  EXPECT_EQ(exif_orientation(big), 6);
  Bytes prefixed = bytes_of(std::string_view("Exif\0\0", 6));
  prefixed.insert(prefixed.end(), little.begin(), little.end());
  EXPECT_EQ(exif_orientation(prefixed), 7);
  for (size_t size = 0; size < little.size() - 4; ++size) {
    const Bytes cut(little.begin(), little.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(exif_orientation(cut), std::nullopt) << size;
  }
  Bytes far = little;
  put_u32(far, 4, 0xfffffff0, false);
  EXPECT_EQ(exif_orientation(far), std::nullopt);
  EXPECT_EQ(xmp_orientation(bytes_of("<x tiff:Orientation=\"8\"/>")), 8);
  EXPECT_EQ(xmp_orientation(bytes_of("<tiff:Orientation>3</tiff:Orientation>")), 3);
  EXPECT_EQ(xmp_orientation(bytes_of("tiff:Orientation=")), std::nullopt);
}

}  // namespace
}  // namespace videre
