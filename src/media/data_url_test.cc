#include "media/data_url.h"

#include <gtest/gtest.h>

namespace videre {
namespace {

std::string decoded(std::string_view text, int64_t max_bytes = 1000) {
  const auto bytes = decode_base64(text, max_bytes);
  return bytes.ok() ? std::string(bytes->begin(), bytes->end()) : "error";
}

TEST(Base64, DecodesWithAndWithoutPadding) {
  EXPECT_EQ(decoded(""), "");
  EXPECT_EQ(decoded("TQ=="), "M");
  EXPECT_EQ(decoded("TQ"), "M");
  EXPECT_EQ(decoded("TWE="), "Ma");
  EXPECT_EQ(decoded("TWE"), "Ma");
  EXPECT_EQ(decoded("TWFu"), "Man");
  EXPECT_EQ(decoded(" T W\r\nF\tu "), "Man");
  EXPECT_EQ(decoded("TQ= =\n"), "M");
}

TEST(Base64, RefusesEverythingElse) {
  for (const char* text : {"T", "TWFuT", "TQ=", "TQ===", "=", "TWFu=", "TQ==TQ==", "TW-u", "TW_u",
                           "TWF\x80", "TW%3D", "TWFu,TWFu", "TQ=A"}) {
    EXPECT_EQ(decoded(text), "error") << text;
  }
  EXPECT_EQ(decoded(std::string_view("TW\0u", 4)), "error");
}

TEST(Base64, StopsAtTheLimit) {
  EXPECT_EQ(decoded("TWFu", 3), "Man");
  EXPECT_EQ(decoded("TWFu", 2), "error");
  EXPECT_EQ(decoded("TWFuTQ", 3), "error");
  EXPECT_EQ(decode_base64("TWFu", 2).error().code, ErrorCode::kTooLarge);
  EXPECT_EQ(decoded("TWFu", -1), "error");
}

TEST(DataUrl, TakesBase64Only) {
  const auto media = parse_data_url("data:image/PNG;base64,TWFu", 100, false);
  ASSERT_TRUE(media.ok());
  EXPECT_EQ(media->mime, "image/png");
  EXPECT_EQ(media->bytes().size(), 3u);
  EXPECT_TRUE(parse_data_url("DATA:;BASE64,TWFu", 100, false).ok());
  EXPECT_TRUE(parse_data_url("data:image/png;charset=x;base64,TWFu", 100, false).ok());
  for (const char* url : {"data:", "data:image/png;base64", "data:image/png,TWFu", "data:,TWFu",
                          "data:image/png;base64,", "data:image/png;base64,?", "data:base64,TWFu",
                          "data:image/png;base64;x,TWFu"}) {
    EXPECT_FALSE(parse_data_url(url, 100, false).ok()) << url;
  }
}

TEST(DataUrl, KeepsAListOfFramesUndecoded) {
  const auto list = parse_data_url("data:video/jpeg;base64,TWFu,TWFu", 100, true);
  ASSERT_TRUE(list.ok());
  EXPECT_EQ(list->mime, "video/jpeg");
  EXPECT_EQ(list->bytes().size(), 9u);
  EXPECT_FALSE(parse_data_url("data:video/jpeg;base64,TWFu,TWFu", 100, false).ok());
  EXPECT_EQ(parse_data_url("data:video/jpeg;base64,TWFuTWFu", 5, true).error().code,
            ErrorCode::kTooLarge);
}

}  // namespace
}  // namespace videre
