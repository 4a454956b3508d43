#include "text/tokenizer.h"

#include <gtest/gtest.h>

#include "base/json.h"
#include "base/mapped_file.h"

namespace videre {
namespace {

const std::string kTinyB = std::string(VIDERE_TEST_DATA) + "/tiny-b";

json::value read_json(const std::string& path) {
  auto text = read_text_file(path, 64 << 20);
  EXPECT_TRUE(text.ok()) << path;
  auto value = parse_json(*text, path);
  EXPECT_TRUE(value.ok()) << path;
  return *value;
}

std::vector<int32_t> ids_of(const json::value& list) {
  std::vector<int32_t> ids;
  for (const auto& id : list.as_array()) ids.push_back(static_cast<int32_t>(id.as_int64()));
  return ids;
}

TEST(Tokenizer, GivesTheReferenceIds) {
  auto tokenizer = Tokenizer::load(kTinyB + "/checkpoint");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.error().message;
  const json::value golden = read_json(kTinyB + "/golden.json");
  for (const auto& row : golden.at("tokenizer").as_array()) {
    const std::string text(row.at("text").as_string());
    EXPECT_EQ((*tokenizer)->encode(text, false), ids_of(row.at("ids"))) << text;
    EXPECT_EQ((*tokenizer)->decode(ids_of(row.at("ids")), false), row.at("decoded").as_string());
  }
  for (const auto& row : golden.at("chat").as_array()) {
    EXPECT_EQ((*tokenizer)->encode(std::string(row.at("rendered").as_string()), false),
              ids_of(row.at("ids")));
  }
}

}  // namespace
}  // namespace videre
