// The OpenAI protocol's bodies: chat requests to Request, and what the engine gives back to JSON,
// a field at a time. No sockets and no engine here.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "videre/engine.h"

namespace videre {

struct ChatParseOptions {
  /// Takes {"type": "image"} and {"type": "video"} parts without media: rendering a template only.
  bool allow_placeholders = false;
  bool trust_request_chat_template = false;
  /// tool_choice "auto" is the default once tools are given; a server refuses it unless it was
  /// started for it.
  bool allow_auto_tool_choice = false;
  bool exclude_tools_when_tool_choice_none = false;
  int max_logprobs = 20;  // -1 = no cap
  int64_t max_n = 128;
  std::map<std::string, int> limit_mm_per_prompt;  // unset: 999 of a kind
  std::string default_chat_template_kwargs_json;   // request's keys win
};

struct ChatRequest {
  Request request;
  std::string model;       // "" = the default
  std::string request_id;  // as the body has it, unchecked
  bool stream = false, include_usage = false, continuous_usage = false;
  bool logprobs = false;
  bool return_token_ids = false, return_tokens_as_token_ids = false;
  std::vector<std::string> ignored;  // names of fields without effect, for one warning
};

/// Parses and checks the body of POST /v1/chat/completions. Errors of JSON type and shape have a
/// `param` that starts with "body"; errors of meaning name the field alone.
Result<ChatRequest> parse_chat_request(std::string_view body, const ChatParseOptions& options);
Result<ChatRequest> parse_chat_request(const json::value& body, const ChatParseOptions& options);

/// media_io_kwargs and mm_processor_kwargs, as in a request or in the server's flags. `param` is
/// the name to blame.
Result<MediaIoOptions> parse_media_io(const json::value& value, std::string_view param,
                                      std::vector<std::string>* ignored);
Result<ProcessorOptions> parse_processor(const json::value& value, std::string_view param);

/// {"error": {message, type, param, code}}; the HTTP status is `code`.
struct ErrorBody {
  int status;
  std::string json;
};
ErrorBody error_body(const Error& error);
ErrorBody error_body(int status, std::string_view type, std::string_view message,
                     std::string_view param = {});

/// What all parts of one answer share.
struct ChatAnswerOptions {
  std::string id, model;
  int64_t created_s = 0;
  bool logprobs = false, return_token_ids = false, return_tokens_as_token_ids = false;
  bool include_usage = false, continuous_usage = false;
  bool prompt_tokens_details = false;
  std::string role = "assistant";
};

/// Gathers one request's pieces into the object of a plain answer.
class ChatAnswer {
 public:
  ChatAnswer(ChatAnswerOptions options, int num_choices);
  void add(OutputDelta delta);
  std::string to_json(const Usage& usage) const;

 private:
  ChatAnswerOptions options_;
  std::vector<OutputDelta> choices_;
};

/// Turns one request's pieces into server-sent events: role, deltas, finish, usage, [DONE].
class ChatStream {
 public:
  ChatStream(ChatAnswerOptions options, int num_choices);
  void append(std::string& out, const OutputDelta& delta, const Usage& usage);
  /// The usage chunk when asked for, then [DONE].
  void append_end(std::string& out, const Usage& usage);
  /// An error event, then [DONE].
  static void append_error(std::string& out, const Error& error);

 private:
  void append_chunk(std::string& out, json::object choice, const Usage* usage) const;

  ChatAnswerOptions options_;
  bool started_ = false;
  std::vector<int64_t> completion_tokens_;  // a choice
};

/// "stop", "length", ... or null.
json::value finish_reason_json(FinishReason reason);
json::object usage_json(const Usage& usage, bool with_details);

}  // namespace videre
