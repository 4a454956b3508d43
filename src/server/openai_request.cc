// Chat bodies to Request: messages and parts, media and template options, sampling, validation.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "server/json_fields.h"
#include "server/openai_types.h"

namespace videre {
namespace {

constexpr size_t kMaxMessages = 4096, kMaxParts = 1024, kMaxText = 8u << 20, kMaxUrl = 8u << 10;
constexpr size_t kMaxTools = 128, kMaxToolJson = 1u << 20, kMaxName = 1024;
constexpr double kInfinity = std::numeric_limits<double>::infinity();
// A data: URL's limit is the body's own.
constexpr size_t kMaxDataUrl = std::numeric_limits<size_t>::max();

class ChatParser {
 public:
  ChatParser(const ChatParseOptions& options, ChatRequest& out)
      : options_(options), out_(out), request_(out.request) {}

  Status parse(const json::object& body);

 private:
  Status parse_message(const json::value& value, size_t index);
  Status parse_content(const json::value& value, const std::string& path, ChatMessage& message);
  Status parse_part(const json::value& value, const std::string& path, ChatMessage& message);
  Status parse_url(const json::value& value, const std::string& path, MediaItem& media);
  Status parse_tool_calls(const json::value& value, const std::string& path, ChatMessage& message);
  Status parse_tools(JsonFields& fields);
  Status parse_template(JsonFields& fields);
  Status parse_sampling(JsonFields& fields);
  Status parse_logprobs(JsonFields& fields);
  Status parse_logit_bias(const json::value& value);
  Status refuse_unsupported(JsonFields& fields);
  Status check_without_effect(JsonFields& fields);
  Status count_media() const;

  const ChatParseOptions& options_;
  ChatRequest& out_;
  Request& request_;
  size_t text_bytes_ = 0;
};

Error wrong_type(const std::string& path, std::string_view expected, const json::value& seen) {
  return invalid_argument(shape_param(path), "{} is {}; expected {}", path, shown(seen), expected);
}

Status parse_uuid(const json::value* value, const std::string& path, MediaItem& media) {
  if (!value || value->is_null()) return {};
  if (!value->is_string() || value->get_string().size() > kMaxName) {
    return wrong_type(path + ".uuid", fmt::format("a string of at most {} bytes", kMaxName),
                      *value);
  }
  media.uuid = value->get_string();
  return {};
}

Status ChatParser::parse_url(const json::value& value, const std::string& path, MediaItem& media) {
  const json::value* url = &value;
  if (value.is_object()) {
    VIDERE_RETURN_IF_ERROR(parse_uuid(json_find(value, "uuid"), path, media));
    url = json_find(value, "url");
    if (!url || url->is_null()) {
      if (!media.uuid.empty()) return {};  // the item may still be cached
      return invalid_argument("body." + path + ".url",
                              "{}.url is missing; expected an http(s):, data: or file: URL", path);
    }
  }
  if (!url->is_string()) return wrong_type(path + ".url", "a URL as a string", *url);
  const std::string_view text = url->get_string();
  if (text.empty()) {
    return invalid_argument(path, "{}.url is empty; expected an http(s):, data: or file: URL",
                            path);
  }
  const bool data = text.substr(0, 5) == "data:";
  if (text.size() > (data ? kMaxDataUrl : kMaxUrl)) {
    return invalid_argument(path, "{}.url is {} bytes long; URLs other than data: may have {}",
                            path, text.size(), kMaxUrl);
  }
  if (text.find('\0') != text.npos) {
    return invalid_argument(path, "{}.url holds a zero byte, which no URL may", path);
  }
  media.url = text;
  return {};
}

Status ChatParser::parse_part(const json::value& value, const std::string& path,
                              ChatMessage& message) {
  ContentPart part;
  if (value.is_string()) {
    part.text = value.get_string();
    text_bytes_ += part.text.size();
    message.content.push_back(std::move(part));
    return {};
  }
  if (!value.is_object()) return wrong_type(path, "a content part (an object or a string)", value);
  JsonFields fields(value.get_object(), path);
  const json::value* type_value = fields.find("type");
  std::string type;
  if (type_value) {
    if (!type_value->is_string()) return wrong_type(path + ".type", "a string", *type_value);
    type = type_value->get_string();
  } else {
    for (const char* key : {"image_url", "video_url", "text", "refusal", "thinking"}) {
      if (value.get_object().contains(key)) {
        type = key;
        break;
      }
    }
    if (type.empty()) {
      return invalid_argument("body." + path + ".type",
                              "{}.type is missing; expected text, image_url or video_url", path);
    }
  }
  fields.accept({"detail", "cache_control", "annotations", "signature"});
  VIDERE_RETURN_IF_ERROR(parse_uuid(fields.find("uuid"), path, part.media));
  if (type == "text" || type == "input_text" || type == "output_text" || type == "refusal" ||
      type == "thinking") {
    const char* key = type == "refusal" ? "refusal" : type == "thinking" ? "thinking" : "text";
    const json::value* text = fields.find(key);
    if (!text) text = fields.find("text");
    if (!text) {  // null text is skipped, as other servers do
      out_.ignored.push_back(path + " (no text)");
      return {};
    }
    if (!text->is_string()) return wrong_type(fmt::format("{}.{}", path, key), "a string", *text);
    part.text = text->get_string();
    text_bytes_ += part.text.size();
  } else if (type == "image_url" || type == "input_image" || type == "video_url" ||
             type == "input_video") {
    const bool image = type == "image_url" || type == "input_image";
    const char* key = image ? "image_url" : "video_url";
    part.kind = image ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo;
    const json::value* url = fields.find(key);
    if (url) {
      VIDERE_RETURN_IF_ERROR(parse_url(*url, fmt::format("{}.{}", path, key), part.media));
    } else if (part.media.uuid.empty()) {  // else the item may still be cached
      return invalid_argument(fmt::format("body.{}.{}", path, key),
                              "{}.{} is missing; expected {{\"url\": ...}} of http(s):, data: or "
                              "file:",
                              path, key);
    }
  } else if (type == "image" || type == "video") {
    if (!options_.allow_placeholders) {
      return invalid_argument(path + ".type",
                              "{}.type is {}, which is a bare placeholder for templates; expected "
                              "{}_url with a URL",
                              path, type, type);
    }
    fields.accept({"text", "image", "video"});
    part.kind = type == "image" ? ContentPart::Kind::kImage : ContentPart::Kind::kVideo;
  } else if (type == "input_audio" || type == "audio_url") {
    return invalid_argument(path + ".type",
                            "{}.type is {}; this model takes text, pictures and video, no audio",
                            path, type);
  } else {
    return invalid_argument(path + ".type", "{}.type is {}; expected text, image_url or video_url",
                            path, shown(*fields.find("type")));
  }
  fields.collect_ignored(out_.ignored);
  message.content.push_back(std::move(part));
  return {};
}

Status ChatParser::parse_content(const json::value& value, const std::string& path,
                                 ChatMessage& message) {
  if (value.is_string()) {
    message.content_is_string = true;
    ContentPart part;
    part.text = value.get_string();
    text_bytes_ += part.text.size();
    message.content.push_back(std::move(part));
    return {};
  }
  if (!value.is_array()) return wrong_type(path, "a string or a list of content parts", value);
  const json::array& parts = value.get_array();
  if (parts.size() > kMaxParts) {
    return invalid_argument(path, "{} has {} parts; at most {} are taken", path, parts.size(),
                            kMaxParts);
  }
  for (size_t i = 0; i < parts.size(); ++i) {
    VIDERE_RETURN_IF_ERROR(parse_part(parts[i], fmt::format("{}.{}", path, i), message));
  }
  return {};
}

Status ChatParser::parse_tool_calls(const json::value& value, const std::string& path,
                                    ChatMessage& message) {
  if (!value.is_array()) return wrong_type(path, "a list of tool calls", value);
  const json::array& calls = value.get_array();
  if (calls.size() > kMaxTools) {
    return invalid_argument(path, "{} has {} calls; at most {} are taken", path, calls.size(),
                            kMaxTools);
  }
  for (size_t i = 0; i < calls.size(); ++i) {
    const std::string here = fmt::format("{}.{}", path, i);
    const json::value* function = json_find(calls[i], "function");
    if (!function || !function->is_object()) {
      return invalid_argument("body." + here + ".function",
                              "{}.function is missing; expected {{\"name\": ..., \"arguments\": "
                              "...}}",
                              here);
    }
    ToolCall call;
    const json::value* name = json_find(*function, "name");
    if (!name || !name->is_string() || name->get_string().empty()) {
      return invalid_argument("body." + here + ".function.name",
                              "{}.function.name is missing; expected the function's name", here);
    }
    call.name = name->get_string();
    if (const json::value* id = json_find(calls[i], "id"); id && id->is_string()) {
      call.id = id->get_string();
    }
    const json::value* arguments = json_find(*function, "arguments");
    call.arguments_json = "{}";
    if (arguments && arguments->is_object()) {
      call.arguments_json = to_json(*arguments);
    } else if (arguments && arguments->is_string()) {
      const std::string_view text = arguments->get_string();
      if (!text.empty()) {
        auto parsed = parse_json(text, here + ".function.arguments", {64, kMaxToolJson});
        if (!parsed.ok() || !parsed->is_object()) {
          return invalid_argument(here + ".function.arguments",
                                  "{}.function.arguments is not the text of a JSON object", here);
        }
        call.arguments_json = to_json(*parsed);
      }
    } else if (arguments && !arguments->is_null()) {
      return wrong_type(here + ".function.arguments", "a JSON object, or its text", *arguments);
    }
    text_bytes_ += call.arguments_json.size();
    message.tool_calls.push_back(std::move(call));
  }
  return {};
}

Status ChatParser::parse_message(const json::value& value, size_t index) {
  const std::string path = fmt::format("messages.{}", index);
  if (!value.is_object()) return wrong_type(path, "an object with role and content", value);
  JsonFields fields(value.get_object(), path);
  ChatMessage message;
  fields.string("role", message.role, kMaxName);
  fields.string("name", message.name, kMaxName);
  fields.string("tool_call_id", message.tool_call_id, kMaxName);
  fields.string("reasoning_content", message.reasoning, kMaxText);
  fields.string("reasoning", message.reasoning, kMaxText);
  text_bytes_ += message.reasoning.size();
  fields.accept({"refusal", "audio", "function_call", "annotations"});
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (message.role.empty()) {
    return invalid_argument("body." + path + ".role",
                            "{}.role is missing; expected system, user, assistant or tool", path);
  }
  if (message.role == "developer") {  // the template knows system only, and only as the first
    if (index == 0) {
      message.role = "system";
    } else {
      out_.ignored.push_back(path + " (a developer message after the first)");
    }
  }
  if (const json::value* content = fields.find("content")) {
    VIDERE_RETURN_IF_ERROR(parse_content(*content, path + ".content", message));
  } else if (message.role == "user" || message.role == "system") {
    return invalid_argument("body." + path + ".content",
                            "{}.content is missing; expected a string or a list of parts", path);
  }
  if (const json::value* calls = fields.find("tool_calls")) {
    VIDERE_RETURN_IF_ERROR(parse_tool_calls(*calls, path + ".tool_calls", message));
  }
  fields.collect_ignored(out_.ignored);
  if (text_bytes_ > kMaxText) {
    return invalid_argument("messages",
                            "the messages hold more than {} bytes of text; shorten them", kMaxText);
  }
  request_.messages.push_back(std::move(message));
  return {};
}

Status ChatParser::parse_tools(JsonFields& fields) {
  const json::value* tools = fields.find("tools");
  const json::value* choice = fields.find("tool_choice");
  size_t num_tools = 0;
  if (tools) {
    if (!tools->is_array()) return wrong_type("tools", "a list of tools", *tools);
    num_tools = tools->get_array().size();
    if (num_tools > kMaxTools) {
      return invalid_argument("tools", "tools has {} entries; at most {} are taken", num_tools,
                              kMaxTools);
    }
    for (size_t i = 0; i < num_tools; ++i) {
      const json::value& tool = tools->get_array()[i];
      const json::value* type = json_find(tool, "type");
      if (type && (!type->is_string() || type->get_string() != "function")) {
        return invalid_argument(fmt::format("tools.{}.type", i),
                                "tools.{}.type is {}; expected function", i, shown(*type));
      }
      const json::value* function = json_find(tool, "function");
      const json::value* name = function ? json_find(*function, "name") : nullptr;
      if (!name || !name->is_string() || name->get_string().empty()) {
        return invalid_argument(fmt::format("body.tools.{}.function.name", i),
                                "tools.{}.function.name is missing; expected the function's name",
                                i);
      }
    }
  }
  std::string mode = num_tools > 0 ? "auto" : "none";
  if (choice && choice->is_string()) {
    mode = choice->get_string();
    if (mode != "none" && mode != "auto" && mode != "required") {
      return invalid_argument("tool_choice",
                              "tool_choice is {}; expected none, auto, required, or an object that "
                              "names a function",
                              shown(*choice));
    }
    if (mode == "required" && tools && num_tools == 0) mode = "none";
    if (mode != "none" && num_tools == 0) {
      return invalid_argument("tool_choice", "tool_choice is {} but tools is empty; give tools",
                              mode);
    }
  } else if (choice) {
    if (!choice->is_object()) return wrong_type("tool_choice", "a string or an object", *choice);
    const json::value* function = json_find(*choice, "function");
    const json::value* name = function ? json_find(*function, "name") : nullptr;
    if (!name || !name->is_string() || name->get_string().empty()) {
      return invalid_argument("tool_choice",
                              "tool_choice.function.name is missing; expected a name out of tools");
    }
    bool found = false;
    for (size_t i = 0; i < num_tools && !found; ++i) {
      found = tools->get_array()[i].at("function").at("name") == *name;
    }
    if (!found) {
      return invalid_argument("tool_choice", "tool_choice names {}, which is not among tools",
                              shown(*name));
    }
    mode = "required";
  }
  if (mode == "auto" && !options_.allow_auto_tool_choice) {
    return invalid_argument("tool_choice",
                            "tool_choice \"auto\" needs a server started with "
                            "--enable-auto-tool-choice and --tool-call-parser; set tool_choice to "
                            "\"none\" to only show the tools to the model");
  }
  if (mode == "required" && !options_.allow_placeholders) {
    return make_error(ErrorCode::kUnsupported, "tool_choice",
                      "tool_choice that forces a call is not supported; use auto or none");
  }
  if (num_tools > 0 && !(mode == "none" && options_.exclude_tools_when_tool_choice_none)) {
    request_.tools_json = to_json(*tools);
    if (request_.tools_json.size() > kMaxToolJson) {
      return invalid_argument("tools", "tools is {} bytes of JSON; at most {} are taken",
                              request_.tools_json.size(), kMaxToolJson);
    }
  }
  return {};
}

Status ChatParser::parse_template(JsonFields& fields) {
  json::object merged;
  if (!options_.default_chat_template_kwargs_json.empty()) {
    VIDERE_ASSIGN_OR_RETURN(auto defaults, parse_json(options_.default_chat_template_kwargs_json,
                                                      "--default-chat-template-kwargs"));
    if (defaults.is_object()) merged = std::move(defaults.get_object());
  }
  if (const json::value* effort = fields.find("reasoning_effort")) {
    if (!effort->is_string()) return wrong_type("reasoning_effort", "a string", *effort);
    merged["reasoning_effort"] = *effort;
  }
  if (const json::value* documents = fields.find("documents")) {
    if (!documents->is_array()) return wrong_type("documents", "a list", *documents);
    merged["documents"] = *documents;
  }
  if (const json::value* kwargs = fields.find("chat_template_kwargs")) {
    if (!kwargs->is_object()) return wrong_type("chat_template_kwargs", "an object", *kwargs);
    for (const auto& [key, value] : kwargs->get_object()) merged[key] = value;
  }
  fields.string("chat_template", request_.chat_template, 1u << 20);
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (const json::value* inner = merged.if_contains("chat_template")) {
    if (!inner->is_string()) {
      return wrong_type("chat_template_kwargs.chat_template", "a string", *inner);
    }
    if (request_.chat_template.empty()) request_.chat_template = inner->get_string();
    merged.erase("chat_template");
  }
  if (!request_.chat_template.empty() && !options_.trust_request_chat_template) {
    return invalid_argument("chat_template",
                            "a request may bring its own chat_template only to a server started "
                            "with --trust-request-chat-template");
  }
  if (!merged.empty()) request_.chat_template_kwargs_json = to_json(merged);
  fields.boolean("add_generation_prompt", request_.add_generation_prompt);
  fields.boolean("continue_final_message", request_.continue_final_message);
  fields.boolean("add_special_tokens", request_.add_special_tokens);
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (request_.continue_final_message && request_.add_generation_prompt) {
    return invalid_argument("continue_final_message",
                            "continue_final_message and add_generation_prompt are both true; set "
                            "add_generation_prompt to false to continue the last message");
  }
  return {};
}

Status ChatParser::parse_logit_bias(const json::value& value) {
  if (!value.is_object()) {
    return wrong_type("logit_bias", "an object of token ids and numbers", value);
  }
  const json::object& map = value.get_object();
  if (map.size() > 4096) {
    return invalid_argument("logit_bias", "logit_bias has {} entries; at most 4096 are taken",
                            map.size());
  }
  for (const auto& [key, bias] : map) {
    int64_t id = -1;
    const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (error != std::errc() || end != key.data() + key.size() || id < 0 || id > INT32_MAX) {
      return invalid_argument("logit_bias", "logit_bias has the key {}; expected a token id",
                              shown(json::value(json::string(key))));
    }
    const auto number = lenient_number(bias);
    if (!number) {
      return invalid_argument("logit_bias", "logit_bias.{} is {}; expected a number", id,
                              shown(bias));
    }
    request_.sampling.logit_bias.emplace_back(id, std::clamp(*number, -100.0, 100.0));
  }
  return {};
}

Status ChatParser::parse_logprobs(JsonFields& fields) {
  std::optional<int64_t> top;
  fields.boolean("logprobs", out_.logprobs);
  fields.integer("top_logprobs", top, -1, INT32_MAX);
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (top.value_or(0) != 0 && !out_.logprobs) {
    return invalid_argument("top_logprobs", "top_logprobs is {} but logprobs is not true", *top);
  }
  if (top && options_.max_logprobs >= 0 && (*top > options_.max_logprobs || *top == -1)) {
    return invalid_argument("top_logprobs",
                            "top_logprobs is {}; this server gives at most {} (--max-logprobs)",
                            *top, options_.max_logprobs);
  }
  if (out_.logprobs) {
    request_.sampling.num_logprobs = !top ? 0 : *top == -1 ? INT32_MAX : *top;
  }
  return {};
}

Status ChatParser::parse_sampling(JsonFields& fields) {
  SamplingParams& sampling = request_.sampling;
  fields.integer("n", sampling.n, 1, options_.max_n);
  fields.number("temperature", sampling.temperature, {0, 100});
  fields.number("top_p", sampling.top_p, {0, 1, true});
  fields.integer("top_k", sampling.top_k, -1, INT64_MAX);
  fields.number("min_p", sampling.min_p, {0, 1});
  fields.number("repetition_penalty", sampling.repetition_penalty, {0, kInfinity, true});
  fields.number("presence_penalty", sampling.presence_penalty, {-2, 2});
  fields.number("frequency_penalty", sampling.frequency_penalty, {-2, 2});
  fields.integer("max_tokens", sampling.max_tokens, 1, INT64_MAX);
  fields.integer("max_completion_tokens", sampling.max_tokens, 1, INT64_MAX);
  fields.integer("min_tokens", sampling.min_tokens, 0, INT64_MAX);
  fields.integer("seed", sampling.seed, INT64_MIN, INT64_MAX);
  fields.strings("stop", sampling.stop, 64, 4096, true);
  fields.integers("stop_token_ids", sampling.stop_token_ids, 4096, 0, INT32_MAX);
  fields.boolean("include_stop_str_in_output", sampling.include_stop_str_in_output);
  fields.boolean("ignore_eos", sampling.ignore_eos);
  fields.boolean("skip_special_tokens", sampling.skip_special_tokens);
  fields.strings("bad_words", sampling.bad_words, 1000, 4096, false);
  const json::value* allowed = fields.find("allowed_token_ids");
  fields.integers("allowed_token_ids", sampling.allowed_token_ids, 1u << 20, 0, INT32_MAX);
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (allowed && sampling.allowed_token_ids.empty()) {
    return invalid_argument("allowed_token_ids",
                            "allowed_token_ids is empty; name at least one token, or leave it out");
  }
  if (sampling.seed == -1) sampling.seed.reset();
  if (const json::value* bias = fields.find("logit_bias")) {
    VIDERE_RETURN_IF_ERROR(parse_logit_bias(*bias));
  }
  if (sampling.max_tokens && sampling.min_tokens > *sampling.max_tokens) {
    return invalid_argument("min_tokens", "min_tokens is {}, more than max_tokens, which is {}",
                            sampling.min_tokens, *sampling.max_tokens);
  }
  if (sampling.n > 1 && sampling.temperature && *sampling.temperature < 1e-5) {
    return invalid_argument("n",
                            "n is {} at temperature {}: greedy choices would all be the same; "
                            "raise temperature, or set n to 1",
                            sampling.n, *sampling.temperature);
  }
  return parse_logprobs(fields);
}

// Fields that other servers act on and this one cannot: refused when they ask for something.
Status ChatParser::refuse_unsupported(JsonFields& fields) {
  const auto unsupported = [](std::string_view key) {
    return make_error(ErrorCode::kUnsupported, std::string(key),
                      "{} is not supported; leave it out", key);
  };
  if (const json::value* format = fields.find("response_format")) {
    const json::value* type = json_find(*format, "type");
    if (!type || !type->is_string()) {
      return wrong_type("response_format", "an object with a type", *format);
    }
    if (type->get_string() != "text") return unsupported("response_format");
  }
  for (const char* key :
       {"structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar",
        "structural_tag", "logits_processors", "prompt_logprobs", "truncate_prompt_tokens",
        "thinking_token_budget", "max_thinking_tokens", "repetition_detection",
        "kv_transfer_params", "logprob_token_ids"}) {
    const json::value* value = fields.find(key);
    if (value && !(key == std::string_view("prompt_logprobs") && lenient_integer(*value) == 0) &&
        !(value->is_array() && value->get_array().empty())) {
      return unsupported(key);
    }
  }
  for (const char* key : {"use_beam_search", "echo"}) {
    bool on = false;
    fields.boolean(key, on);
    VIDERE_RETURN_IF_ERROR(fields.status());
    if (on) return unsupported(key);
  }
  return check_without_effect(fields);
}

// Known fields that change nothing here; a wrong type in them is a client's mistake all the same.
Status ChatParser::check_without_effect(JsonFields& fields) {
  std::string text;
  for (const char* key :
       {"user", "service_tier", "guided_decoding_backend", "guided_whitespace_pattern"}) {
    fields.string(key, text, kMaxText);
  }
  bool flag = false;
  for (const char* key :
       {"store", "parallel_tool_calls", "include_reasoning", "spaces_between_special_tokens"}) {
    fields.boolean(key, flag);
  }
  double length_penalty = 0;
  fields.number("length_penalty", length_penalty, {-kInfinity, kInfinity});
  int64_t best_of = 0;
  fields.integer("best_of", best_of, 1, INT64_MAX);
  VIDERE_RETURN_IF_ERROR(fields.status());
  for (const char* key : {"metadata", "vllm_xargs"}) {
    const json::value* value = fields.find(key);
    if (value && !value->is_object()) return wrong_type(key, "an object", *value);
  }
  return {};
}

Status ChatParser::count_media() const {
  int64_t images = 0, videos = 0;
  for (const ChatMessage& message : request_.messages) {
    for (const ContentPart& part : message.content) {
      images += part.kind == ContentPart::Kind::kImage;
      videos += part.kind == ContentPart::Kind::kVideo;
    }
  }
  const auto check = [this](const char* kind, int64_t count, int limit) -> Status {
    const auto found = options_.limit_mm_per_prompt.find(kind);
    if (found != options_.limit_mm_per_prompt.end()) limit = found->second;
    if (count <= limit) return {};
    return invalid_argument("messages",
                            "the request has {} {}(s); at most {} {}(s) may be provided in one "
                            "prompt (--limit-mm-per-prompt)",
                            count, kind, limit, kind);
  };
  VIDERE_RETURN_IF_ERROR(check("image", images, 999));
  return check("video", videos, 999);
}

Status ChatParser::parse(const json::object& body) {
  JsonFields fields(body, "");
  const json::value* messages = fields.find("messages");
  if (!messages) {
    return invalid_argument("body.messages", "messages is missing; expected a list of messages");
  }
  if (!messages->is_array()) return wrong_type("messages", "a list of messages", *messages);
  const json::array& list = messages->get_array();
  if (list.empty() && !options_.allow_placeholders) {
    return invalid_argument("messages", "messages is empty; expected at least one message");
  }
  if (list.size() > kMaxMessages) {
    return invalid_argument("messages", "messages has {} entries; at most {} are taken",
                            list.size(), kMaxMessages);
  }
  for (size_t i = 0; i < list.size(); ++i) VIDERE_RETURN_IF_ERROR(parse_message(list[i], i));
  VIDERE_RETURN_IF_ERROR(count_media());

  fields.string("model", out_.model, 4096);
  fields.string("request_id", out_.request_id, 4096);
  fields.boolean("stream", out_.stream);
  fields.boolean("return_token_ids", out_.return_token_ids);
  fields.boolean("return_tokens_as_token_ids", out_.return_tokens_as_token_ids);
  fields.integer("priority", request_.priority, INT32_MIN, INT32_MAX);
  fields.string("cache_salt", request_.cache_salt, 1024);
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (request_.cache_salt.empty() && fields.find("cache_salt")) {
    return invalid_argument("cache_salt", "cache_salt is empty; expected text, or leave it out");
  }
  if (request_.priority != 0) {
    return invalid_argument("priority",
                            "priority is {} but the server schedules first come, first served; "
                            "leave it out",
                            request_.priority);
  }
  if (const json::value* stream_options = fields.find("stream_options")) {
    if (!stream_options->is_object()) {
      return wrong_type("stream_options", "an object", *stream_options);
    }
    if (!out_.stream) {
      return invalid_argument("stream_options",
                              "stream_options is given but stream is not true; set stream, or "
                              "leave it out");
    }
    JsonFields inner(stream_options->get_object(), "stream_options");
    // A bare {} asks for usage, as it did in earlier releases of other servers.
    out_.include_usage = stream_options->get_object().empty();
    inner.boolean("include_usage", out_.include_usage);
    inner.boolean("continuous_usage_stats", out_.continuous_usage);
    bool obfuscation = false;
    inner.boolean("include_obfuscation", obfuscation);
    VIDERE_RETURN_IF_ERROR(inner.status());
    out_.continuous_usage = out_.continuous_usage && out_.include_usage;
    inner.collect_ignored(out_.ignored);
  }
  VIDERE_RETURN_IF_ERROR(parse_tools(fields));
  VIDERE_RETURN_IF_ERROR(parse_template(fields));
  VIDERE_RETURN_IF_ERROR(parse_sampling(fields));
  VIDERE_RETURN_IF_ERROR(refuse_unsupported(fields));
  if (const json::value* media_io = fields.find("media_io_kwargs")) {
    VIDERE_ASSIGN_OR_RETURN(request_.media_io,
                            parse_media_io(*media_io, "media_io_kwargs", &out_.ignored));
  }
  if (const json::value* processor = fields.find("mm_processor_kwargs")) {
    VIDERE_ASSIGN_OR_RETURN(request_.processor, parse_processor(*processor, "mm_processor_kwargs"));
  }
  fields.collect_ignored(out_.ignored);
  return {};
}

Status parse_video_io(const json::value& value, const std::string& path, MediaIoOptions& out,
                      std::vector<std::string>* ignored) {
  if (!value.is_object()) return wrong_type(path, "an object", value);
  JsonFields fields(value.get_object(), path);
  fields.number("fps", out.fps, {-1, 1e6});
  fields.integer("num_frames", out.num_frames, -1, 1 << 20);
  fields.number("max_duration", out.max_duration_s, {0, 1e9});
  fields.boolean("frame_recovery", out.frame_recovery);
  fields.integer("total_num_frames", out.total_num_frames, 0, INT64_MAX);
  fields.number("duration", out.duration_s, {0, 1e9});
  fields.boolean("do_sample_frames", out.do_sample_frames);
  if (fields.find("frames_indices")) {
    out.frames_indices.emplace();
    fields.integers("frames_indices", *out.frames_indices, 1 << 16, 0, INT64_MAX);
  }
  if (fields.find("video_backend")) {
    out.video_backend.emplace();
    fields.string("video_backend", *out.video_backend, 64);
    if (fields.ok() && *out.video_backend != "opencv" && *out.video_backend != "opencv_dynamic" &&
        *out.video_backend != "nemotron_vl") {
      return invalid_argument(path + ".video_backend",
                              "{}.video_backend is {}; expected opencv, opencv_dynamic or "
                              "nemotron_vl",
                              path, shown(*fields.find("video_backend")));
    }
  }
  if (ignored) fields.collect_ignored(*ignored);
  return fields.status();
}

Status parse_image_io(const json::value& value, const std::string& path, MediaIoOptions& out,
                      std::vector<std::string>* ignored) {
  if (!value.is_object()) return wrong_type(path, "an object", value);
  JsonFields fields(value.get_object(), path);
  std::vector<int64_t> colour;
  fields.integers("rgba_background_color", colour, 3, 0, 255);
  fields.boolean("exif_transpose", out.exif_transpose);
  fields.accept({"image_mode"});
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (const json::value* seen = fields.find("rgba_background_color")) {
    if (colour.size() != 3) {
      return invalid_argument(path + ".rgba_background_color",
                              "{}.rgba_background_color is {}; expected 3 whole numbers of 0 to "
                              "255",
                              path, shown(*seen));
    }
    out.rgba_background_color = {static_cast<uint8_t>(colour[0]), static_cast<uint8_t>(colour[1]),
                                 static_cast<uint8_t>(colour[2])};
  }
  if (ignored) fields.collect_ignored(*ignored);
  return {};
}

}  // namespace

Result<MediaIoOptions> parse_media_io(const json::value& value, std::string_view param,
                                      std::vector<std::string>* ignored) {
  const std::string name(param);
  if (!value.is_object()) return wrong_type(name, "an object with video and image", value);
  JsonFields fields(value.get_object(), name);
  MediaIoOptions out;
  if (const json::value* video = fields.find("video")) {
    VIDERE_RETURN_IF_ERROR(parse_video_io(*video, name + ".video", out, ignored));
  }
  if (const json::value* image = fields.find("image")) {
    VIDERE_RETURN_IF_ERROR(parse_image_io(*image, name + ".image", out, ignored));
  }
  fields.accept({"audio"});
  if (ignored) fields.collect_ignored(*ignored);
  return out;
}

Result<ProcessorOptions> parse_processor(const json::value& value, std::string_view param) {
  const std::string name(param);
  if (!value.is_object()) return wrong_type(name, "an object", value);
  JsonFields fields(value.get_object(), name);
  ProcessorOptions out;
  std::optional<int64_t> max_num_tiles;
  fields.integer("max_num_tiles", max_num_tiles, 1, 64);
  fields.number("video_pruning_rate", out.video_pruning_rate, {0, 1, false, true});
  VIDERE_RETURN_IF_ERROR(fields.status());
  if (max_num_tiles) out.max_num_tiles = static_cast<int>(*max_num_tiles);
  std::vector<std::string> unknown;
  fields.collect_ignored(unknown);
  if (!unknown.empty()) {
    return invalid_argument(
        unknown[0], "{} is not known; expected max_num_tiles or video_pruning_rate", unknown[0]);
  }
  return out;
}

Result<ChatRequest> parse_chat_request(const json::value& body, const ChatParseOptions& options) {
  if (!body.is_object()) {
    return invalid_argument("body", "the request body is {}; expected a JSON object", shown(body));
  }
  ChatRequest out;
  VIDERE_RETURN_IF_ERROR(ChatParser(options, out).parse(body.get_object()));
  return out;
}

Result<ChatRequest> parse_chat_request(std::string_view body, const ChatParseOptions& options) {
  auto parsed = parse_json(body, "the request body");
  if (!parsed.ok()) {
    Error error = parsed.error();
    error.param = "body";
    return error;
  }
  return parse_chat_request(*parsed, options);
}

}  // namespace videre
