// A checkpoint's chat template: Jinja text that turns messages into the prompt's text, executed as
// transformers does it, within limits.
#pragma once

#include <ctime>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/json.h"

namespace videre {

namespace jinja {
class Template;
}

/// What one rendering may use before it ends with an error.
struct TemplateLimits {
  int64_t max_steps = 20'000'000;  ///< expressions and statements evaluated, and bytes / 64
  size_t max_output_bytes = 64u << 20;
  size_t max_memory_bytes = 512u << 20;  ///< live strings, and all containers made
  int max_depth = 800;                   ///< nested expressions, blocks and macro calls together
};

/// Immutable; copies share the parsed template; any thread may render.
class ChatTemplate {
 public:
  /// `name` stands in errors. Errors: kInvalidArgument with the line and what was wrong.
  static Result<ChatTemplate> parse(std::string_view text, std::string name);
  /// chat_template.jinja, else chat_template.json, else the key of tokenizer_config.json (text, or
  /// a list of named templates). A template named "tool_use" serves requests with tools. Errors:
  /// kNotFound when there is none.
  static Result<ChatTemplate> load(const std::string& folder);

  /// Errors: kInvalidArgument for what the template refuses (raise_exception), for faults in it and
  /// for limits; the sentence names template and line.
  Result<std::string> render(const json::object& variables) const;
  /// `now` replaces the clock of strftime_now.
  Result<std::string> render(const json::object& variables, const TemplateLimits& limits,
                             std::optional<std::time_t> now = {}) const;

  /// The template's text (the default one).
  const std::string& source() const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Template> main) : main_(std::move(main)) {}
  std::shared_ptr<const jinja::Template> main_, tool_use_;
};

}  // namespace videre
