#include "text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>

namespace videre {
namespace {

const std::string kTinyB = std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint";

TEST(Detokenizer, GivesWholeCharactersThatSumUpToDecode) {
  auto loaded = Tokenizer::load(kTinyB);
  ASSERT_TRUE(loaded.ok());
  const Tokenizer& tokenizer = **loaded;
  std::mt19937 random(2);
  for (int round = 0; round < 3000; ++round) {
    std::vector<int32_t> ids;
    if (round % 2 == 0) {  // real text, cut anywhere
      ids = tokenizer.encode(
          "Größe 日本語 👩‍👩‍👧‍👦 🏳️‍🌈 naïve मा", false);
      ids.resize(random() % (ids.size() + 1));
    } else {  // any bytes, specials and unknown ids among them
      for (int i = 0; i < 20; ++i)
        ids.push_back(static_cast<int32_t>(random() % (tokenizer.vocab_size() + 5)) - 2);
    }
    for (const bool skip : {false, true}) {
      Detokenizer detokenizer(tokenizer, skip);
      std::string out;
      for (const int32_t id : ids) {
        const std::string piece = detokenizer.push(id);
        ASSERT_TRUE(is_valid_utf8(piece));
        out += piece;
      }
      out += detokenizer.flush();
      ASSERT_EQ(out, tokenizer.decode(ids, skip));
    }
  }
}

TEST(Detokenizer, HoldsAnUnfinishedCharacter) {
  auto loaded = Tokenizer::load(kTinyB);
  ASSERT_TRUE(loaded.ok());
  const auto ids = (*loaded)->encode("日", false);
  ASSERT_GT(ids.size(), 1u);
  Detokenizer detokenizer(**loaded, true);
  EXPECT_EQ(detokenizer.push(ids[0]), "");
  EXPECT_EQ(detokenizer.flush(), "\uFFFD");
  EXPECT_EQ(detokenizer.flush(), "");
}

// What the pushes and the flush show.
std::string shown(StopStrings& stops, const std::vector<std::string>& pieces, bool search = true) {
  std::string out;
  for (const std::string& piece : pieces) out += stops.push(piece, search);
  return out + stops.flush();
}

TEST(StopStrings, CutsAtTheMatch) {
  StopStrings excluded({"stop"}, false);
  EXPECT_EQ(shown(excluded, {"please s", "to", "p now", " more"}), "please ");
  EXPECT_EQ(excluded.matched(), 0u);
  EXPECT_EQ(excluded.matched_text(), "stop");
  StopStrings included({"stop"}, true);
  EXPECT_EQ(shown(included, {"please s", "to", "p now", " more"}), "please stop");
}

TEST(StopStrings, HoldsBackWhatMayBecomeOne) {
  StopStrings stops({"abcd", "xyz"}, false);
  EXPECT_EQ(stops.push("12ab", true), "12");
  EXPECT_EQ(stops.push("c", true), "");
  EXPECT_EQ(stops.push("x", true), "abc");
  EXPECT_EQ(stops.push("y", true), "");
  EXPECT_EQ(stops.push("!", true), "xy!");
  EXPECT_EQ(stops.push("aab", true), "a");
  EXPECT_EQ(stops.flush(), "ab");
  EXPECT_FALSE(stops.matched());
}

TEST(StopStrings, TriesTheListInOrderWithinAToken) {
  StopStrings stops({"later", "now"}, false);
  EXPECT_EQ(shown(stops, {"now or later"}), "now or ");
  EXPECT_EQ(stops.matched(), 0u);
  StopStrings by_token({"later", "now"}, false);
  EXPECT_EQ(shown(by_token, {"now", " or later"}), "");
  EXPECT_EQ(by_token.matched(), 1u);
}

TEST(StopStrings, DoesNotMatchBeforeMinTokens) {
  StopStrings stops({"ab"}, false);
  EXPECT_EQ(stops.push("ab", false), "ab");
  EXPECT_EQ(stops.push("a", false), "");
  EXPECT_EQ(stops.push("b!", true), "");  // it ends in searched text
  EXPECT_EQ(stops.matched(), 0u);
}

// The plain rule: within each pushed text plus what came before, the first listed string that ends
// in it; the text is cut at its first occurrence.
TEST(StopStrings, AgreesWithThePlainRule) {
  std::mt19937 random(3);
  for (int round = 0; round < 20000; ++round) {
    const auto word = [&](size_t most) {
      std::string out;
      for (size_t i = 1 + random() % most; i > 0; --i) out += static_cast<char>('a' + random() % 2);
      return out;
    };
    std::vector<std::string> list;
    for (size_t i = random() % 3; i < 3; ++i) list.push_back(word(4));
    const bool include = random() % 2, late = random() % 2;
    StopStrings stops(list, include);
    std::string text, out, expected;
    std::optional<size_t> matched;
    for (int i = 0; i < 8; ++i) {
      const std::string piece = word(3);
      const bool search = !late || i > 3;
      out += stops.push(piece, search);
      if (matched) continue;
      text += piece;
      for (size_t k = 0; k < list.size() && search && !matched; ++k) {
        const size_t window = piece.size() + list[k].size() - 1;
        const size_t at = text.find(list[k], text.size() > window ? text.size() - window : 0);
        if (at == std::string::npos) continue;
        matched = k;
        expected = text.substr(0, include ? at + list[k].size() : at);
      }
    }
    out += stops.flush();
    ASSERT_EQ(stops.matched(), matched);
    ASSERT_EQ(out, matched ? expected : text);
  }
}

}  // namespace
}  // namespace videre
