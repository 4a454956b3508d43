// Results to JSON. Key order and nulls follow what clients of this protocol have seen so far.
#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "server/openai_types.h"
#include "server/sse.h"

namespace videre {
namespace {

constexpr size_t kMaxErrorText = 1000;  // bytes of a message: input is never echoed at length

std::string cut(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  size_t end = max_bytes - 3;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return std::string(text.substr(0, end)) + "...";
}

// Bytes that are no whole UTF-8 characters become U+FFFD in text; `bytes` keeps the truth.
std::string valid_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    size_t length = lead < 0x80                   ? 1
                    : lead >= 0xC2 && lead < 0xE0 ? 2
                    : lead >= 0xE0 && lead < 0xF0 ? 3
                    : lead >= 0xF0 && lead < 0xF5 ? 4
                                                  : 0;
    bool good = length != 0 && i + length <= text.size();
    for (size_t k = 1; good && k < length; ++k) {
      good = (static_cast<unsigned char>(text[i + k]) & 0xC0) == 0x80;
    }
    if (good && length == 3) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      good = !(lead == 0xE0 && second < 0xA0) && !(lead == 0xED && second >= 0xA0);
    } else if (good && length == 4) {
      const auto second = static_cast<unsigned char>(text[i + 1]);
      good = !(lead == 0xF0 && second < 0x90) && !(lead == 0xF4 && second >= 0x90);
    }
    if (good) {
      out.append(text.substr(i, length));
      i += length;
    } else {
      out += "\xEF\xBF\xBD";
      ++i;
    }
  }
  return out;
}

json::object token_json(const TokenLogprob& token, const ChatAnswerOptions& options) {
  json::object out;
  out["token"] = options.return_tokens_as_token_ids ? fmt::format("token_id:{}", token.token_id)
                                                    : valid_utf8(token.text);
  // -inf (a masked token) and NaN have no JSON; clients expect this floor.
  out["logprob"] = std::isnan(token.logprob) ? -9999.0 : std::max(token.logprob, -9999.0f);
  json::array bytes;
  for (const char c : token.text) bytes.push_back(static_cast<unsigned char>(c));
  out["bytes"] = std::move(bytes);
  return out;
}

json::value logprobs_json(const std::vector<TokenLogprob>& logprobs,
                          const ChatAnswerOptions& options) {
  if (!options.logprobs) return nullptr;
  json::array content;
  for (const TokenLogprob& token : logprobs) {
    json::object entry = token_json(token, options);
    json::array top;
    for (const TokenLogprob& other : token.top) top.push_back(token_json(other, options));
    entry["top_logprobs"] = std::move(top);
    content.push_back(std::move(entry));
  }
  return json::object{{"content", std::move(content)}};
}

json::value stop_reason_json(const OutputDelta& delta) {
  if (const auto* id = std::get_if<int32_t>(&delta.stop_reason)) return *id;
  if (const auto* text = std::get_if<std::string>(&delta.stop_reason)) return json::string(*text);
  return nullptr;
}

json::value token_ids_json(const OutputDelta& delta, const ChatAnswerOptions& options) {
  if (!options.return_token_ids) return nullptr;
  return json::array(delta.token_ids.begin(), delta.token_ids.end());
}

const char* type_of_status(int status) {
  switch (status) {
    case 401:
      return "AuthenticationError";
    case 404:
    case 405:
      return "NotFoundError";
    case 413:
      return "PayloadTooLarge";
    case 429:
      return "RateLimitError";
    case 503:
      return "ServiceUnavailable";
    default:
      return status >= 500 ? "InternalServerError" : "BadRequestError";
  }
}

}  // namespace

json::value finish_reason_json(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return nullptr;
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kAbort:
      return "abort";
    case FinishReason::kError:
      return "error";
  }
  return nullptr;
}

json::object usage_json(const Usage& usage, bool with_details) {
  json::object out;
  out["prompt_tokens"] = usage.prompt_tokens;
  out["total_tokens"] = usage.total_tokens();
  out["completion_tokens"] = usage.completion_tokens;
  if (with_details) {
    out["prompt_tokens_details"] =
        json::object{{"cached_tokens", usage.cached_tokens},
                     {"multimodal_tokens",
                      json::object{{"image", usage.image_tokens}, {"video", usage.video_tokens}}},
                     {"text_tokens", usage.text_tokens},
                     {"image_tokens", usage.image_tokens},
                     {"video_tokens", usage.video_tokens}};
  } else {
    out["prompt_tokens_details"] = nullptr;
  }
  return out;
}

ErrorBody error_body(int status, std::string_view type, std::string_view message,
                     std::string_view param) {
  json::object error;
  error["message"] = valid_utf8(cut(message, kMaxErrorText));
  error["type"] = type.empty() ? std::string_view(type_of_status(status)) : type;
  if (param.empty()) {
    error["param"] = nullptr;
  } else {
    error["param"] = valid_utf8(cut(param, 200));
  }
  error["code"] = status;
  json::object body;
  body["error"] = std::move(error);
  // What other servers of this protocol send for routes that do not exist.
  if (status == 404 && param.empty()) body["detail"] = "Not Found";
  if (status == 405) body["detail"] = "Method Not Allowed";
  return {status, to_json(body)};
}

ErrorBody error_body(const Error& error) {
  const ErrorStatus status = error_status(error.code);
  if (error.code == ErrorCode::kInternal || error.code == ErrorCode::kInvalidModel) {
    return error_body(500, "InternalServerError", "Internal server error", "");
  }
  const bool shape =
      error.code == ErrorCode::kInvalidArgument && error.param.substr(0, 4) == "body";
  return error_body(status.http_status, shape ? "Bad Request" : status.type, error.message,
                    error.param);
}

ChatAnswer::ChatAnswer(ChatAnswerOptions options, int num_choices)
    : options_(std::move(options)), choices_(num_choices) {}

void ChatAnswer::add(OutputDelta delta) {
  if (delta.index < 0 || delta.index >= static_cast<int>(choices_.size())) return;
  OutputDelta& choice = choices_[delta.index];
  choice.text += delta.text;
  choice.token_ids.insert(choice.token_ids.end(), delta.token_ids.begin(), delta.token_ids.end());
  std::move(delta.logprobs.begin(), delta.logprobs.end(), std::back_inserter(choice.logprobs));
  if (delta.finish_reason != FinishReason::kNone) {
    choice.finish_reason = delta.finish_reason;
    choice.stop_reason = std::move(delta.stop_reason);
  }
}

std::string ChatAnswer::to_json(const Usage& usage) const {
  json::array choices;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const OutputDelta& choice = choices_[i];
    json::object message;
    message["role"] = options_.role;
    message["content"] = choice.text;
    message["refusal"] = nullptr;
    message["annotations"] = nullptr;
    message["audio"] = nullptr;
    message["function_call"] = nullptr;
    message["tool_calls"] = json::array();
    message["reasoning_content"] = nullptr;
    json::object entry;
    entry["index"] = i;
    entry["message"] = std::move(message);
    entry["logprobs"] = logprobs_json(choice.logprobs, options_);
    entry["finish_reason"] = finish_reason_json(choice.finish_reason);
    entry["stop_reason"] = stop_reason_json(choice);
    entry["token_ids"] = token_ids_json(choice, options_);
    choices.push_back(std::move(entry));
  }
  json::object body;
  body["id"] = options_.id;
  body["object"] = "chat.completion";
  body["created"] = options_.created_s;
  body["model"] = options_.model;
  body["choices"] = std::move(choices);
  body["service_tier"] = nullptr;
  body["system_fingerprint"] = nullptr;
  body["usage"] = usage_json(usage, options_.prompt_tokens_details);
  body["prompt_logprobs"] = nullptr;
  body["prompt_token_ids"] = nullptr;
  body["kv_transfer_params"] = nullptr;
  return videre::to_json(body);
}

ChatStream::ChatStream(ChatAnswerOptions options, int num_choices)
    : options_(std::move(options)), completion_tokens_(num_choices) {}

void ChatStream::append_chunk(std::string& out, json::object choice, const Usage* usage) const {
  json::object chunk;
  chunk["id"] = options_.id;
  chunk["object"] = "chat.completion.chunk";
  chunk["created"] = options_.created_s;
  chunk["model"] = options_.model;
  chunk["choices"] = choice.empty() ? json::array() : json::array{std::move(choice)};
  if (usage) {
    json::object counts = usage_json(*usage, options_.prompt_tokens_details);
    if (counts["prompt_tokens_details"].is_null()) counts.erase("prompt_tokens_details");
    chunk["usage"] = std::move(counts);
  }
  append_sse(out, to_json(chunk));
}

void ChatStream::append(std::string& out, const OutputDelta& delta, const Usage& usage) {
  if (delta.index < 0 || delta.index >= static_cast<int>(completion_tokens_.size())) return;
  Usage running = usage;
  const Usage* shown_usage = options_.continuous_usage ? &running : nullptr;
  running.completion_tokens = completion_tokens_[delta.index];
  if (!started_) {  // the first output of any choice brings the role chunks of all
    started_ = true;
    for (size_t i = 0; i < completion_tokens_.size(); ++i) {
      json::object choice;
      choice["index"] = i;
      choice["delta"] = json::object{{"role", options_.role}, {"content", ""}};
      choice["logprobs"] = nullptr;
      choice["finish_reason"] = nullptr;
      append_chunk(out, std::move(choice), shown_usage);
    }
  }
  completion_tokens_[delta.index] += static_cast<int64_t>(delta.token_ids.size());
  running.completion_tokens = completion_tokens_[delta.index];
  const bool last = delta.finish_reason != FinishReason::kNone;
  const bool has_ids = options_.return_token_ids && !delta.token_ids.empty();
  const bool has_logprobs = options_.logprobs && !delta.logprobs.empty();
  if (delta.text.empty() && !last && !has_ids && !has_logprobs) return;
  json::object content;
  if (!delta.text.empty() || !last) content["content"] = delta.text;
  json::object choice;
  choice["index"] = delta.index;
  choice["delta"] = std::move(content);
  choice["logprobs"] = has_logprobs ? logprobs_json(delta.logprobs, options_) : nullptr;
  choice["finish_reason"] = finish_reason_json(delta.finish_reason);
  if (last) choice["stop_reason"] = stop_reason_json(delta);
  choice["token_ids"] = token_ids_json(delta, options_);
  append_chunk(out, std::move(choice), shown_usage);
}

void ChatStream::append_end(std::string& out, const Usage& usage) {
  if (options_.include_usage) append_chunk(out, {}, &usage);
  append_sse_done(out);
}

void ChatStream::append_error(std::string& out, const Error& error) {
  append_sse(out, error_body(error).json);
  append_sse_done(out);
}

}  // namespace videre
