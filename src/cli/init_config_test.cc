// The tokenizer that init-config writes: the real one's ids where they are known, its counts of
// tokens for prompts where these are known, and text for every id.
#include <gtest/gtest.h>

#include <set>

#include "cli/made_up_tokenizer.h"
#include "text/tokenizer.h"

namespace videre {
namespace {

const Tokenizer& tokenizer() {
  static const auto kTokenizer =
      Tokenizer::parse(made_up_tokenizer_json(), made_up_tokenizer_config_json()).value();
  return *kTokenizer;
}

std::vector<int32_t> ids(const std::string& text) { return tokenizer().encode(text, false); }

TEST(MadeUpTokenizer, HasTheKnownIds) {
  const struct {
    const char* text;
    int32_t id;
  } kKnown[] = {{"<unk>", 0},          {"<s>", 1},           {"</s>", 2},
                {"[TOOL_CALLS]", 9},   {"\n", 1010},         {"<", 1060},
                {">", 1062},           {">\n", 1561},        {"video", 24073},
                {"Assistant", 102897}, {"<image>", 131072},  {"<img>", 131073},
                {"</img>", 131074},    {"<quad>", 131075},   {"</box>", 131080},
                {"<video>", 131081},   {"<SPECIAL_12>", 12}, {"<SPECIAL_999>", 999}};
  for (const auto& [text, id] : kKnown) {
    EXPECT_EQ(ids(text), std::vector<int32_t>{id}) << text;
    EXPECT_EQ(tokenizer().token_id(text), id) << text;
  }
  EXPECT_EQ(tokenizer().vocab_size(), 131082);
  EXPECT_EQ(tokenizer().bos_id(), 1);
  EXPECT_EQ(tokenizer().eos_id(), 12);
  EXPECT_EQ(ids("<SPECIAL_11>Assistant\n"), (std::vector<int32_t>{11, 102897, 1010}));
  EXPECT_EQ(tokenizer().encode("", true), std::vector<int32_t>{1});
}

TEST(MadeUpTokenizer, EveryIdIsItsOwnText) {
  std::set<std::string_view> texts;
  for (int32_t id = 0; id < tokenizer().vocab_size(); ++id) {
    const std::string_view text = tokenizer().token_bytes(id);
    EXPECT_FALSE(text.empty()) << id;
    EXPECT_TRUE(texts.insert(text).second) << id << " " << text;
    EXPECT_EQ(tokenizer().is_special(id), id < 1000 || id >= 131072) << id;
  }
}

TEST(MadeUpTokenizer, CountsAsTheRealOne) {
  // Numbers of the real checkpoint's prompts, less the rows of pictures and frames.
  const auto count = [](const std::string& text) { return std::ssize(ids(text)); };
  const std::string head = "<s><SPECIAL_10>System\n\n<SPECIAL_11>User\n";
  const std::string tail = "\n<SPECIAL_11>Assistant\n<think></think>";
  EXPECT_EQ(count("<think></think>"), 5);
  EXPECT_EQ(count("<think>\n"), 3);
  EXPECT_EQ(count(head) + count("\nDescribe the natural environment in the image." + tail), 24);
  EXPECT_EQ(count(head) + count("<image 1>") + count(" <image 2>") +
                count("\nDescribe the difference between the two images." + tail),
            34);
  EXPECT_EQ(count(head) + count("\nDescribe the natural environment in the video." + tail), 24);
  EXPECT_EQ(count("This is a video:\n"), 5);
  EXPECT_EQ(count("Frame 1 sampled at 0.00 seconds: "), 13);
  EXPECT_EQ(count("Frame 8 sampled at 10.50 seconds: "), 14);
}

TEST(MadeUpTokenizer, TextComesBack) {
  for (const std::string text :
       {"Describe the natural environment in the image.", "  indented\n\n\tcode() {\n}\n",
        "Grüße, 東京 and 🙂!", "xylophones QUIZZICAL 12345 zzzz", "<toolcall>[{\"a\": 1}]"}) {
    EXPECT_EQ(tokenizer().decode(ids(text), false), text);
  }
  // Words that nobody listed take few tokens, as real words do.
  EXPECT_LE(std::ssize(ids(" xylophones orchestrate magnificence")), 15);
}

}  // namespace
}  // namespace videre
