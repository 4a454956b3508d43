#include "text/chat_template.h"

#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"
#include "text/jinja_interpreter.h"

namespace videre {
namespace {

constexpr size_t kMaxTemplateBytes = 4 << 20;
constexpr size_t kMaxConfigBytes = 64 << 20;

using TemplatePtr = std::shared_ptr<const jinja::Template>;

// The text of `name` in `folder`, or nothing.
Result<std::optional<std::string>> read_optional(const std::string& folder, const char* name,
                                                 size_t max_bytes) {
  const std::string path = folder + "/" + name;
  std::error_code ignored;
  if (!std::filesystem::exists(path, ignored)) return std::optional<std::string>();
  VIDERE_ASSIGN_OR_RETURN(std::string text, read_text_file(path, max_bytes));
  return std::optional<std::string>(std::move(text));
}

Result<TemplatePtr> parse_file(std::string_view text, const std::string& name) {
  auto parsed = jinja::Template::parse(text, name);
  if (parsed.ok()) return std::move(parsed).value();
  return invalid_model("{}", parsed.error().message);
}

// A template by name out of [{"name": ..., "template": ...}, ...].
const json::string* named_template(const json::array& list, std::string_view name) {
  for (const json::value& entry : list) {
    const json::value* entry_name = json_find(entry, "name");
    const json::value* text = json_find(entry, "template");
    if (entry_name && entry_name->is_string() && entry_name->get_string() == name && text)
      return text->if_string();
  }
  return nullptr;
}

}  // namespace

Result<ChatTemplate> ChatTemplate::parse(std::string_view text, std::string name) {
  VIDERE_ASSIGN_OR_RETURN(TemplatePtr parsed, jinja::Template::parse(text, std::move(name)));
  return ChatTemplate(std::move(parsed));
}

Result<ChatTemplate> ChatTemplate::load(const std::string& folder) {
  VIDERE_ASSIGN_OR_RETURN(const auto file,
                          read_optional(folder, "chat_template.jinja", kMaxTemplateBytes));
  if (file) {
    VIDERE_ASSIGN_OR_RETURN(TemplatePtr parsed, parse_file(*file, "chat_template.jinja"));
    ChatTemplate out(std::move(parsed));
    constexpr const char* kToolUse = "additional_chat_templates/tool_use.jinja";
    VIDERE_ASSIGN_OR_RETURN(const auto tools, read_optional(folder, kToolUse, kMaxTemplateBytes));
    if (tools) {
      VIDERE_ASSIGN_OR_RETURN(out.tool_use_, parse_file(*tools, kToolUse));
    }
    return out;
  }
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    VIDERE_ASSIGN_OR_RETURN(const auto text, read_optional(folder, name, kMaxConfigBytes));
    if (!text) continue;
    VIDERE_ASSIGN_OR_RETURN(const json::value config, parse_json(*text, name));
    const json::value* found = json_find(config, "chat_template");
    if (!found || found->is_null()) continue;
    if (const json::string* source = found->if_string()) {
      VIDERE_ASSIGN_OR_RETURN(TemplatePtr parsed, parse_file(*source, name));
      return ChatTemplate(std::move(parsed));
    }
    const json::array* list = found->if_array();
    const json::string* main = list ? named_template(*list, "default") : nullptr;
    if (!main) {
      return invalid_model(
          "{}: chat_template is neither text nor a list with a template named \"default\"", name);
    }
    VIDERE_ASSIGN_OR_RETURN(TemplatePtr parsed, parse_file(*main, name));
    ChatTemplate out(std::move(parsed));
    if (const json::string* tools = named_template(*list, "tool_use")) {
      VIDERE_ASSIGN_OR_RETURN(out.tool_use_, parse_file(*tools, std::string(name) + " (tool_use)"));
    }
    return out;
  }
  return make_error(ErrorCode::kNotFound, "",
                    "{} has no chat template; expected chat_template.jinja, chat_template.json or "
                    "the key chat_template of tokenizer_config.json. Give one with --chat-template",
                    folder);
}

Result<std::string> ChatTemplate::render(const json::object& variables) const {
  return render(variables, TemplateLimits());
}

Result<std::string> ChatTemplate::render(const json::object& variables,
                                         const TemplateLimits& limits,
                                         std::optional<std::time_t> now) const {
  const json::value* tools = variables.if_contains("tools");
  const bool with_tools = tool_use_ && tools && !tools->is_null();
  return jinja::Interpreter(with_tools ? *tool_use_ : *main_, limits, now).run(variables);
}

const std::string& ChatTemplate::source() const { return main_->source; }

}  // namespace videre
