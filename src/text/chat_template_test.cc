#include "text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <thread>

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

// The sentence that ends a rendering over `variables`.
std::string refusal(const std::string& source, const TemplateLimits& limits = {}) {
  auto chat_template = ChatTemplate::parse(source, "t");
  if (!chat_template.ok()) return chat_template.error().message;
  auto rendered = chat_template->render({{"text", "x"}, {"list", {1, 2}}}, limits);
  return rendered.ok() ? "printed " + rendered->substr(0, 100) : rendered.error().message;
}

TEST(ChatTemplate, ErrorsNameTheLineAndWhatWasWrong) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{{ nosuch.field }}", "chat template \"t\", line 2: \"nosuch\" is undefined"},
      {"\n\n{% for x in 5 %}{% endfor %}", "line 3: a value of type int cannot be iterated over"},
      {"{{ 'a' + 1 }}", "line 1: values of types str and int have no \"+\""},
      {"{{ {}.a.b }}", "\"dict object\" has no attribute \"a\""},
      {"{% if x %}\n{% for y in z %}\n{% endif %}", "line 3: the tag \"endif\" where \"endfor\""},
      {"{% if x %}\n", "line 1: the block is not closed by \"endif\""},
      {"x\n{{ a | nosuch }}", "line 2: there is no filter \"nosuch\""},
      {"{% include 'x' %}", "line 1: the tag \"include\" is not supported"},
      {"{{ raise_exception('roles must alternate') }}",
       "the chat template refuses the request: roles must alternate"},
      {"{{ \"open", "line 1: a string is not closed"},
      {"\n{{ x", "line 2: the tag {{ is not closed by }}"},
      {"{% set text.x = 1 %}", "cannot set \"text.x\": \"text\" is no namespace"},
      {"{{ (1 ] }}", "\"]\" closes no \"[\""},
      {"{{ 99999999999999999999 }}", "an integer has more than 64 bits"},
      {"{{ 10 ** 40 }}", "an integer goes over 127 bits"},
  };
  for (const auto& [source, sentence] : cases)
    EXPECT_THAT(refusal(source), testing::HasSubstr(sentence)) << source;
}

TEST(ChatTemplate, StopsAtItsLimits) {
  TemplateLimits limits;
  limits.max_steps = 200'000;
  limits.max_output_bytes = 100'000;
  limits.max_memory_bytes = 10 << 20;
  const auto repeat = [](const char* piece, int times) {
    std::string out;
    for (int i = 0; i < times; ++i) out += piece;
    return out;
  };
  const std::pair<std::string, const char*> cases[] = {
      {"{% set r = range(999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}", "steps"},
      {"{% for a in range(9999) %}{{ 'x' * 100 }}{% endfor %}", "output went over"},
      {"{{ 'x' * 99999999999 }}", "memory"},
      {"{{ ['x'] * 99999999999 }}", "memory"},
      {"{{ 'x' * (2 ** 100) }}", "memory"},
      {"{{ ('x' * 9999).replace('', 'y' * 9999) }}", "memory"},
      {"{{ ('xy' * 9999) | replace('x', 'y' * 9999) }}", "memory"},
      {"{{ (['x'] * 9999) | join('y' * 9999) }}", "memory"},
      {"{{ 'x'.center(9999999999) }}", "memory"},
      {"{{ '%9999999d' % 5 }}", "width is over"},
      {"{{ '{:9999999}'.format(5) }}", "width is over"},
      {"{{ '%.999f' % 5 }}", "precision is over"},
      {"{{ 'a\nb' | indent(9999999999) }}", "memory"},
      {"{{ [1] | slice(9999999999) | list }}", "memory"},
      {"{{ [1] | batch(9999999999, 0) | list }}", "memory"},
      {"{{ range(100001) }}", "at most 100000"},
      {"{{ [1] | tojson(indent=99999) }}", "at most 1000"},
      {"{% set s = namespace(t='x') %}{% for i in range(60) %}{% set s.t = s.t + s.t %}{% endfor "
       "%}",
       "memory"},
      {"{% set s = namespace(t=[]) %}{% for i in range(99) %}{% set s.t = [s.t, s.t] %}{% endfor %}"
       "{% set q = namespace(t=[]) %}{% for i in range(99) %}{% set q.t = [q.t, q.t] %}{% endfor %}"
       "{{ s.t == q.t }}",
       "steps"},
      {"{% set s = namespace(t=[]) %}{% for i in range(99) %}{% set s.t = [s.t, s.t] %}{% endfor %}"
       "{{ s.t }}",
       "memory"},
      {"{% set s = namespace(t=()) %}{% for i in range(99) %}{% set s.t = (s.t, s.t) %}{% endfor %}"
       "{{ {s.t: 1} }}",
       "no dict's key"},
      {"{% set l = [] %}{{ l.append(l) }}{{ l }}{{ l == [l] }}{{ l | tojson }}", "nest too deep"},
      {"{% set l = [] %}{% for i in range(99999) %}{{ l.append([]) }}{% endfor %}", "memory"},
      {"{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "nest too deep"},
      {"{% macro m(x) %}{% for i in [1] %}{% if x %}{{ m(x ~ x) }}{% endif %}{% endfor %}"
       "{% endmacro %}{{ m('x') }}",
       ""},
      {"{{ ['x'] | map(" + repeat("'map', ", 5000) + "'upper') | list }}", "stopped after"},
      {repeat("{% if 1 %}", 500) + repeat("{% endif %}", 500), "levels of nesting"},
      {"{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}", "levels of nesting"},
      {"{{ " + repeat("[", 5000) + "1" + repeat("]", 5000) + " }}", "levels of nesting"},
      {"{{ " + repeat("not ", 5000) + "1 }}", "levels of nesting"},
      {"{{ " + repeat("-", 5000) + "1 }}", "levels of nesting"},
      {"{{ 1" + repeat(" if 1 else 1", 5000) + " }}", "levels of nesting"},
      {"{{ 1" + repeat(" + 1", 5000) + " }}", "chained parts"},
      {"{{ x" + repeat(".x", 5000) + " }}", "chained parts"},
      {"{{ x" + repeat("|upper", 5000) + " }}", "chained parts"},
      {"{{ x" + repeat("()", 5000) + " }}", "chained parts"},
      {std::string(5 << 20, ' '), "at most"},
      {"\xff", "UTF-8"},
  };
  for (const auto& [source, sentence] : cases) {
    const std::string message = refusal(source, limits);
    EXPECT_THAT(message, testing::Not(testing::StartsWith("printed"))) << source.substr(0, 200);
    EXPECT_THAT(message, testing::HasSubstr(sentence)) << source.substr(0, 200);
  }
}

TEST(ChatTemplate, OneCanBeUsedByManyThreads) {
  auto source = read_text_file(kTests + "/jinja/templates/qwen_thinking.jinja", 1 << 20);
  auto parsed = ChatTemplate::parse(*source, "qwen");
  ASSERT_TRUE(parsed.ok());
  const ChatTemplate chat_template = std::move(*parsed);
  const json::value conversations = read_json(kTests + "/jinja/conversations.json");
  const json::object& variables = conversations.at("tools").as_object();
  const std::string expected = *chat_template.render(variables);
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 50; ++i) wrong += *chat_template.render(variables) != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

class ChatTemplateFolder : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "/chat_template_" +
              testing::UnitTest::GetInstance()->current_test_info()->name();
    std::filesystem::create_directories(folder_ + "/additional_chat_templates");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + "/" + name) << text;
  }
  std::string rendered(const json::object& variables = {}) {
    auto chat_template = ChatTemplate::load(folder_);
    if (!chat_template.ok()) return chat_template.error().message;
    return *chat_template->render(variables);
  }
  std::string folder_;
};

TEST_F(ChatTemplateFolder, TakesTheFileBeforeTheConfigs) {
  EXPECT_EQ(ChatTemplate::load(folder_).error().code, ErrorCode::kNotFound);
  write("tokenizer_config.json", R"({"chat_template": "from tokenizer_config"})");
  EXPECT_EQ(rendered(), "from tokenizer_config");
  write("chat_template.json", R"({"chat_template": "from json"})");
  EXPECT_EQ(rendered(), "from json");
  write("chat_template.jinja", "from jinja\n");
  EXPECT_EQ(rendered(), "from jinja");
  write("additional_chat_templates/tool_use.jinja", "with tools");
  EXPECT_EQ(rendered({{"tools", nullptr}}), "from jinja");
  EXPECT_EQ(rendered({{"tools", json::array()}}), "with tools");
}

TEST_F(ChatTemplateFolder, ChoosesFromAListByName) {
  write(
      "tokenizer_config.json",
      R"({"chat_template": [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]})");
  EXPECT_EQ(rendered(), "D");
  EXPECT_EQ(rendered({{"tools", {1}}}), "T");
  write("tokenizer_config.json", R"({"chat_template": [{"name": "other", "template": "O"}]})");
  EXPECT_THAT(rendered(), testing::HasSubstr("named \"default\""));
  write("tokenizer_config.json", R"({"chat_template": 5})");
  EXPECT_THAT(rendered(), testing::HasSubstr("neither text nor a list"));
  write("tokenizer_config.json", R"({"chat_template": "{% if %}"})");
  EXPECT_EQ(ChatTemplate::load(folder_).error().code, ErrorCode::kInvalidModel);
}

}  // namespace
}  // namespace videre
