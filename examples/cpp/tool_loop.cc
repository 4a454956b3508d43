// The model calls a function until it can answer: tool_loop [MODEL]
#include <regex>

#include "example.h"

namespace {

constexpr const char* kTools = R"([{"type": "function", "function": {
  "name": "add", "description": "Adds two numbers.", "parameters": {"type": "object",
  "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}}}])";

// <TOOLCALL>[{"name": "add", "arguments": {"a": 17, "b": 25}}]</TOOLCALL>, enough for one function.
std::optional<std::pair<double, double>> call_of_add(const std::string& text) {
  static const std::regex kCall(
      "<TOOLCALL>\\s*\\[\\s*\\{\\s*\"name\":\\s*\"add\",\\s*\"arguments\":\\s*\\{"
      "\\s*\"a\":\\s*(-?[\\d.]+),\\s*\"b\":\\s*(-?[\\d.]+)\\s*\\}");
  std::smatch match;
  if (!std::regex_search(text, match, kCall)) return {};
  return std::pair(std::stod(match[1]), std::stod(match[2]));
}

}  // namespace

int main(int argc, char** argv) {
  videre::EngineOptions options;
  if (argc > 1) options.model = argv[1];
  options.max_model_len = 8192;
  const auto engine = or_exit(videre::Engine::load(options));

  videre::Request request;
  request.messages = {message("user", {text_part("What is 17 plus 25?")})};
  request.tools_json = kTools;
  request.sampling.temperature = 0;
  request.sampling.max_tokens = 64;
  request.sampling.skip_special_tokens = false;  // the tags of a call are special tokens
  std::string text;
  for (int round = 0; round < 4; ++round) {
    text = answer(*engine, request);
    const auto call = call_of_add(text);
    if (!call) break;
    const std::string a = std::to_string(call->first), b = std::to_string(call->second);
    const std::string sum = std::to_string(call->first + call->second);
    std::cout << "add(" << a << ", " << b << ") = " << sum << '\n';
    videre::ChatMessage asked = message("assistant", {text_part("")});
    asked.tool_calls = {{"", "add", "{\"a\": " + a + ", \"b\": " + b + "}"}};
    request.messages.push_back(asked);
    request.messages.push_back(message("tool", {text_part("{\"sum\": " + sum + "}")}));
  }
  std::cout << text << '\n';
}
