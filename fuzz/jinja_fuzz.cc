// Any bytes as a chat template: text or an error, within small limits. The input is the template,
// then byte 0xFF and JSON variables; without them a conversation stands in.
#include <algorithm>
#include <cstdlib>

#include "text/chat_template.h"
#include "text/utf8.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const auto standing_in = videre::parse_json(
      R"({"messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "Hé 日"},
          {"role": "user", "content": [{"type": "text", "text": "t"}, {"type": "image"}]}],
          "tools": [{"type": "function", "function": {"name": "f", "parameters": {"x": [1, 2.5, null]}}}],
          "add_generation_prompt": true, "bos_token": "<s>", "n": 7, "s": "a b", "l": [3, 1, 2]})",
      "variables");
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(input.find('\xFF'), size);
  const auto chat_template = videre::ChatTemplate::parse(input.substr(0, cut), "fuzz");
  if (!chat_template.ok()) return 0;
  videre::json::object variables = standing_in->as_object();
  if (cut < size) {
    const auto given = videre::parse_json(input.substr(cut + 1), "variables");
    if (given.ok() && given->is_object()) variables = given->get_object();
  }
  videre::TemplateLimits limits;
  limits.max_steps = 20'000;
  limits.max_output_bytes = 1 << 16;
  limits.max_memory_bytes = 4 << 20;
  const auto rendered = chat_template->render(variables, limits, 1'750'000'000);
  const std::string& text = rendered.ok() ? *rendered : rendered.error().message;
  if (!videre::is_valid_utf8(text)) std::abort();
  if (rendered.ok() && text.size() > limits.max_output_bytes) std::abort();
  return 0;
}
