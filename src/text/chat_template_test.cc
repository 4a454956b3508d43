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

// Local time of cases.json's "now", "2025-07-26T14:05:09".
std::time_t time_of(const std::string& text) {
  std::tm local{};
  EXPECT_NE(strptime(text.c_str(), "%Y-%m-%dT%H:%M:%S", &local), nullptr) << text;
  local.tm_isdst = -1;
  return std::mktime(&local);
}

// One case of cases.json: what Jinja2 printed, or that it refused.
void check_case(const json::value& row, const std::string& source, const json::object& variables,
                std::time_t now) {
  const json::value* expected = json_find(row, "output");
  auto chat_template = ChatTemplate::parse(source, "case");
  Result<std::string> rendered = std::string();
  if (chat_template.ok()) {
    rendered = chat_template->render(variables, TemplateLimits(), now);
  } else {
    rendered = chat_template.error();
  }
  if (expected) {
    ASSERT_TRUE(rendered.ok()) << source << "\n" << rendered.error().message;
    EXPECT_EQ(*rendered, std::string(expected->as_string())) << source;
  } else {
    EXPECT_FALSE(rendered.ok()) << source << "\nprinted: " << *rendered << "\nbut Jinja2 says "
                                << row.at("error").as_string();
  }
}

TEST(ChatTemplate, PrintsWhatJinja2Prints) {
  const json::value cases = read_json(kTests + "/jinja/cases.json");
  const std::time_t now = time_of(std::string(cases.at("now").as_string()));
  for (const auto& row : cases.at("small").as_array()) {
    check_case(row, std::string(row.at("template").as_string()), cases.at("variables").as_object(),
               now);
  }
}

TEST(ChatTemplate, RendersWholeTemplatesLikeJinja2) {
  const json::value cases = read_json(kTests + "/jinja/cases.json");
  const json::value conversations = read_json(kTests + "/jinja/conversations.json");
  const std::time_t now = time_of(std::string(cases.at("now").as_string()));
  for (const auto& row : cases.at("whole").as_array()) {
    const std::string file(row.at("file").as_string()),
        conversation(row.at("conversation").as_string());
    SCOPED_TRACE(file + " over " + conversation);
    auto source = read_text_file(kTests + "/jinja/templates/" + file, 1 << 20);
    ASSERT_TRUE(source.ok());
    json::object variables = conversations.at(conversation).as_object();
    variables.emplace("bos_token", "<s>");
    variables.emplace("eos_token", "</s>");
    check_case(row, *source, variables, now);
  }
}

}  // namespace
}  // namespace videre
