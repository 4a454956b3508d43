#include "text/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace videre {
namespace {

struct Case {
  std::string bytes, repaired;
};

// Unicode's own examples of maximal broken sequences, and ends that are cut.
const Case kCases[] = {
    {"plain", "plain"},
    {"caf\xC3\xA9 \xE6\x97\xA5 \xF0\x9F\x91\xA9", "caf\xC3\xA9 \xE6\x97\xA5 \xF0\x9F\x91\xA9"},
    {"\x80", "�"},
    {"a\xC0\xAF"
     "b",
     "a��b"},
    {"\xE0\x80\x80", "���"},
    {"\xED\xA0\x80", "���"},  // a surrogate
    {"\xF4\x90\x80\x80", "����"},
    {"\xF0\x9F\x91", "�"},
    {"\xF0\x9F\x91z", "�z"},
    {"\xE6\x97", "�"},
    {"\xC3", "�"},
    {"\xF1\x80\x80\xE1\x80\xC2"
     "b\x80",
     "���b�"},
    {"\xFF\xFE", "��"},
};

TEST(Utf8, RepairsMaximalBrokenSequences) {
  for (const Case& row : kCases) {
    EXPECT_EQ(repair_utf8(row.bytes), row.repaired);
    EXPECT_EQ(is_valid_utf8(row.bytes), row.bytes == row.repaired);
    EXPECT_TRUE(is_valid_utf8(row.repaired));
  }
}

TEST(Utf8, StreamsEqualTheWholeWhereverTheyAreCut) {
  std::mt19937 random(1);
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (int i = 0; i < 12; ++i) {
      const Case& row = kCases[random() % std::size(kCases)];
      bytes += row.bytes.substr(0, random() % (row.bytes.size() + 1));
    }
    Utf8Stream stream;
    std::string out;
    for (size_t at = 0; at < bytes.size();) {
      const size_t length = 1 + random() % 4;
      const std::string piece = stream.push(std::string_view(bytes).substr(at, length));
      EXPECT_TRUE(is_valid_utf8(piece));
      out += piece;
      at += length;
    }
    out += stream.flush();
    ASSERT_EQ(out, repair_utf8(bytes));
  }
}

TEST(Utf8, WalksAndAppendsEveryCharacter) {
  for (char32_t c = 1; c < 0x110000; c += c < 0x3000 ? 1 : 17) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    append_utf8(text, c);
    size_t at = 0;
    ASSERT_EQ(next_code_point(text, at), c);
    ASSERT_EQ(at, text.size());
    ASSERT_TRUE(is_valid_utf8(text));
    ASSERT_EQ(count_code_points(text + text), 2u);
  }
}

}  // namespace
}  // namespace videre
