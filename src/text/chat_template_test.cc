#include "text/chat_template.h"

#include <gtest/gtest.h>

#include "base/mapped_file.h"

namespace videre {
namespace {

const std::string kTests = VIDERE_TEST_DATA;

json::value read_json(const std::string& path) {
  auto text = read_text_file(path, 64 << 20);
  EXPECT_TRUE(text.ok()) << path;
  auto value = parse_json(*text, path);
  EXPECT_TRUE(value.ok()) << path;
  return *value;
}

TEST(ChatTemplate, RendersTheReferenceConversations) {
  auto chat_template = ChatTemplate::load(kTests + "/tiny-b/checkpoint");
  ASSERT_TRUE(chat_template.ok()) << chat_template.error().message;
  const json::value golden = read_json(kTests + "/tiny-b/golden.json");
  for (const auto& row : golden.at("chat").as_array()) {
    json::object variables = row.get_object();  // messages, tools, add_generation_prompt
    const std::string expected(variables.at("rendered").as_string());
    variables.erase("rendered");
    variables.erase("ids");
    if (!variables.contains("add_generation_prompt")) variables["add_generation_prompt"] = true;
    variables["bos_token"] = "<s>";
    variables["eos_token"] = "<SPECIAL_12>";
    auto rendered = chat_template->render(variables);
    ASSERT_TRUE(rendered.ok()) << rendered.error().message;
    EXPECT_EQ(*rendered, expected);
  }
}

}  // namespace
}  // namespace videre
