#include "prompt/prompt.h"

#include <algorithm>

#include "base/error.h"
#include "base/json.h"

namespace videre {
namespace {

constexpr const char* kVideoLine = "This is a video:\n";  // before a clip, in TensorRT-LLM's style

// Text of a message as one string.
std::string joined_text(const ChatMessage& message, const char* separator) {
  std::string text;
  bool first = true;
  for (const ContentPart& part : message.content) {
    if (part.kind != ContentPart::Kind::kText) continue;
    if (!first) text += separator;
    first = false;
    text += part.text;
  }
  return text;
}

json::value content_value(const ChatMessage& message, const std::string& format,
                          const PromptTags& tags) {
  // Tool results, and whole messages as strings, are joined by newlines; a template that walks
  // parts puts nothing between them.
  const char* separator = format == "string" || message.role == "tool" ? "\n" : "";
  const bool printed_as_is = message.role == "assistant" || message.role == "tool";
  if (format == "string") {
    // Media tags go where a list-walking template would put them: before the message's text.
    std::string text;
    for (const ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::kImage) text += tags.image + "\n";
      if (part.kind == ContentPart::Kind::kVideo) text += tags.video + "\n";
    }
    return json::string(text + joined_text(message, separator));
  }
  if (printed_as_is || (message.content_is_string && format != "openai"))
    return json::string(joined_text(message, separator));
  json::array parts;
  for (const ContentPart& part : message.content) {
    switch (part.kind) {
      case ContentPart::Kind::kText:
        parts.push_back(json::object{{"type", "text"}, {"text", part.text}});
        break;
      case ContentPart::Kind::kImage:
        parts.push_back(json::object{{"type", "image"}});
        break;
      case ContentPart::Kind::kVideo:
        parts.push_back(json::object{{"type", "video"}});
        break;
    }
  }
  return parts;
}

Result<json::object> message_value(const ChatMessage& message, size_t index,
                                   const std::string& format, const PromptTags& tags) {
  json::object out;
  out["role"] = message.role;
  out["content"] = content_value(message, format, tags);
  if (!message.name.empty()) out["name"] = message.name;
  if (!message.tool_call_id.empty()) out["tool_call_id"] = message.tool_call_id;
  if (!message.reasoning.empty()) {
    out["reasoning"] = message.reasoning;
    out["reasoning_content"] = message.reasoning;
  }
  if (message.tool_calls.empty()) return out;
  json::array calls;
  for (const ToolCall& call : message.tool_calls) {
    json::object function;
    function["name"] = call.name;
    auto arguments =
        parse_json(call.arguments_json.empty() ? "{}" : call.arguments_json, "tool call arguments");
    if (!arguments.ok()) {
      return invalid_argument("messages",
                              "messages[{}]: the arguments of tool call \"{}\" are not valid JSON",
                              index, call.name);
    }
    function["arguments"] = std::move(*arguments);
    calls.push_back({{"id", call.id}, {"type", "function"}, {"function", std::move(function)}});
  }
  out["tool_calls"] = std::move(calls);
  return out;
}

// Where the next placeholder of either kind starts.
struct Placeholder {
  size_t at = std::string::npos;
  ContentPart::Kind kind = ContentPart::Kind::kImage;
  size_t length = 0;
};

Placeholder find_placeholder(const std::string& text, size_t from, const PromptConfig& config) {
  const size_t image = text.find(config.image_token, from),
               video = text.find(config.video_token, from);
  if (image == std::string::npos && video == std::string::npos) return {};
  if (image < video) return {image, ContentPart::Kind::kImage, config.image_token.size()};
  return {video, ContentPart::Kind::kVideo, config.video_token.size()};
}

// "Frame 3 sampled at 1.00 seconds: ", or without a time when the rate is unknown.
std::string frame_label(size_t frame, double timestamp, bool timed, VideoPromptStyle style) {
  const char* lead = style == VideoPromptStyle::kVx && frame > 0 ? "\n" : "";
  if (!timed) return fmt::format("{}Frame {}: ", lead, frame + 1);
  return fmt::format("{}Frame {} sampled at {:.2f} seconds: ", lead, frame + 1, timestamp);
}

void label_frames(MediaSpan& span, const Tokenizer& tokenizer, const PromptConfig& config) {
  const bool timed = span.media.fps > 0 && !span.media.timestamps.empty();
  const int num_frames = span.media.tiles->num_tiles;
  for (int i = 0; i < num_frames; ++i) {
    const std::string label =
        frame_label(i, timed ? span.media.timestamps[i] : 0.0, timed, config.video_style);
    std::vector<int32_t> ids;
    if (i == 0 && config.video_style == VideoPromptStyle::kTrtllm)
      ids = tokenizer.encode(kVideoLine, false);
    const auto tail = tokenizer.encode(label, false);  // each piece is tokenized alone
    ids.insert(ids.end(), tail.begin(), tail.end());
    span.frame_labels.push_back(std::move(ids));
  }
}

}  // namespace

int64_t num_kept_rows(int64_t num_frames, int tokens_per_frame, double pruning_rate) {
  if (pruning_rate <= 0) return num_frames * tokens_per_frame;
  // Double arithmetic in exactly this order, truncated: docs/model.md#evs.
  const double kept = static_cast<double>(tokens_per_frame) * static_cast<double>(num_frames) *
                      (1.0 - pruning_rate);
  return std::min(std::max<int64_t>(tokens_per_frame, static_cast<int64_t>(kept)),
                  num_frames * tokens_per_frame);
}

std::vector<int32_t> layout_video_span(const MediaSpan& span,
                                       const std::vector<int64_t>& rows_per_frame,
                                       const PromptConfig& config) {
  std::vector<int32_t> ids;
  ids.reserve(span.length);
  for (size_t i = 0; i < span.frame_labels.size(); ++i) {
    ids.insert(ids.end(), span.frame_labels[i].begin(), span.frame_labels[i].end());
    ids.push_back(config.image_start_id);
    ids.insert(ids.end(), rows_per_frame[i], config.image_token_id);
    ids.push_back(config.image_end_id);
  }
  return ids;
}

Result<std::string> render_messages(const Request& request, const ChatTemplate& chat_template,
                                    const Tokenizer& tokenizer, const std::string& content_format,
                                    const PromptTags& tags) {
  json::object variables;
  // Request kwargs first, so that they cannot replace what the engine sets below.
  if (!request.chat_template_kwargs_json.empty()) {
    VIDERE_ASSIGN_OR_RETURN(json::value kwargs,
                            parse_json(request.chat_template_kwargs_json, "chat_template_kwargs"));
    if (!kwargs.is_object())
      return invalid_argument("chat_template_kwargs", "chat_template_kwargs is no JSON object");
    variables = std::move(kwargs.get_object());
  }
  json::array messages;
  for (size_t i = 0; i < request.messages.size(); ++i) {
    VIDERE_ASSIGN_OR_RETURN(json::object message,
                            message_value(request.messages[i], i, content_format, tags));
    messages.push_back(std::move(message));
  }
  variables["messages"] = std::move(messages);
  if (!request.tools_json.empty()) {
    VIDERE_ASSIGN_OR_RETURN(json::value tools, parse_json(request.tools_json, "tools"));
    variables["tools"] = std::move(tools);
  }
  // As in transformers, absent lists are None, which is not undefined: templates ask either way.
  variables.emplace("tools", nullptr);
  variables.emplace("documents", nullptr);
  for (const auto& [name, text] : tokenizer.named_tokens()) variables.emplace(name, text);
  variables["add_generation_prompt"] = request.add_generation_prompt;
  variables["bos_token"] = tokenizer.bos_token();
  variables["eos_token"] = tokenizer.eos_token();
  VIDERE_ASSIGN_OR_RETURN(std::string rendered, chat_template.render(variables));
  if (request.continue_final_message && !request.messages.empty()) {
    // The prompt ends with the last message's own text: what the template printed after it is cut.
    std::string last = joined_text(request.messages.back(), content_format == "string" ? "\n" : "");
    last.erase(last.find_last_not_of(" \t\r\n") + 1);
    const size_t at = last.empty() ? std::string::npos : rendered.rfind(last);
    if (at == std::string::npos) {
      return invalid_argument(
          "continue_final_message",
          "continue_final_message: the chat template does not print the last message as it is");
    }
    rendered.resize(at + last.size());
  }
  return rendered;
}

std::vector<const ContentPart*> media_parts(const Request& request) {
  std::vector<const ContentPart*> parts;
  for (const ChatMessage& message : request.messages) {
    for (const ContentPart& part : message.content) {
      if (part.kind != ContentPart::Kind::kText) parts.push_back(&part);
    }
  }
  for (const ContentPart& part : request.media) parts.push_back(&part);
  return parts;
}

Result<Prompt> build_prompt(std::string rendered, std::vector<PreparedMedia> media,
                            const Tokenizer& tokenizer, const PromptConfig& config,
                            bool add_special_tokens) {
  // Media of each kind are taken in order of appearance.
  std::vector<size_t> waiting[2];
  for (size_t i = 0; i < media.size(); ++i) {
    waiting[media[i].kind == ContentPart::Kind::kVideo].push_back(i);
  }
  size_t found[2] = {0, 0};
  for (size_t from = 0;;) {
    const Placeholder next = find_placeholder(rendered, from, config);
    if (next.at == std::string::npos) break;
    ++found[next.kind == ContentPart::Kind::kVideo];
    from = next.at + next.length;
  }
  for (const bool video : {false, true}) {
    if (found[video] == waiting[video].size()) continue;
    return invalid_argument(
        "messages",
        "the prompt has {} {} placeholder{} but the request brings {}: each needs one item; "
        "write the tag in the text only where an item belongs",
        found[video], video ? config.video_token : config.image_token, found[video] == 1 ? "" : "s",
        waiting[video].size());
  }

  Prompt prompt;
  size_t taken[2] = {0, 0}, from = 0;
  bool first_piece = true;
  const auto add_text = [&](std::string_view text) {
    const bool specials =
        first_piece && add_special_tokens && !text.starts_with(tokenizer.bos_token());
    first_piece = false;
    const auto ids = tokenizer.encode(text, specials);
    prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
  };
  while (true) {
    const Placeholder next = find_placeholder(rendered, from, config);
    const std::string_view piece = std::string_view(rendered).substr(
        from, next.at == std::string::npos ? std::string::npos : next.at - from);
    if (!piece.empty() || (first_piece && add_special_tokens)) add_text(piece);
    if (next.at == std::string::npos) break;
    from = next.at + next.length;

    const bool video = next.kind == ContentPart::Kind::kVideo;
    MediaSpan span;
    span.media = std::move(media[waiting[video][taken[video]++]]);
    span.begin = static_cast<int64_t>(prompt.token_ids.size());
    const int64_t num_tiles = span.media.tiles->num_tiles;
    if (video) {
      span.num_rows = num_kept_rows(num_tiles, config.tokens_per_tile, span.media.pruning_rate);
      label_frames(span, tokenizer, config);
      std::vector<int64_t> rows(num_tiles,
                                span.media.pruning_rate > 0 ? 0 : config.tokens_per_tile);
      if (span.media.pruning_rate > 0) rows[0] = span.num_rows;
      int64_t length = span.num_rows + 2 * num_tiles;
      for (const auto& label : span.frame_labels) length += static_cast<int64_t>(label.size());
      span.length = length;
      const auto ids = layout_video_span(span, rows, config);
      prompt.token_ids.insert(prompt.token_ids.end(), ids.begin(), ids.end());
      prompt.usage.video_tokens += length;
    } else {
      span.num_rows = num_tiles * config.tokens_per_tile;
      span.length = span.num_rows + 2;
      prompt.token_ids.push_back(config.image_start_id);
      prompt.token_ids.insert(prompt.token_ids.end(), span.num_rows, config.image_token_id);
      prompt.token_ids.push_back(config.image_end_id);
      prompt.usage.image_tokens += span.length;
    }
    prompt.media.push_back(std::move(span));
  }
  prompt.rendered = std::move(rendered);
  prompt.usage.prompt_tokens = static_cast<int64_t>(prompt.token_ids.size());
  prompt.usage.text_tokens =
      prompt.usage.prompt_tokens - prompt.usage.image_tokens - prompt.usage.video_tokens;
  return prompt;
}

}  // namespace videre
