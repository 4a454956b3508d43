// Any bytes as a chat request: a Request within its limits, or an error whose body is short, valid
// JSON with a status.
#include <cstdlib>

#include "server/openai_types.h"

namespace {

void require(bool good) {
  if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace videre;
  if (size == 0) return 0;
  ChatParseOptions options;
  options.allow_placeholders = data[0] & 1;
  options.trust_request_chat_template = data[0] & 2;
  options.allow_auto_tool_choice = data[0] & 4;
  if (data[0] & 8) options.default_chat_template_kwargs_json = R"({"a":1})";
  if (data[0] & 16) options.max_logprobs = -1;
  const std::string_view body(reinterpret_cast<const char*>(data) + 1, size - 1);

  const auto chat = parse_chat_request(body, options);
  if (!chat.ok()) {
    const ErrorBody error = error_body(chat.error());
    require(error.status == 400 || error.status == 501);
    require(!chat.error().message.empty() && error.json.size() < 16384);
    const auto parsed = parse_json(error.json, "the error");
    require(parsed.ok());
    require(parsed->at("error").at("code").as_int64() == error.status);
    return 0;
  }
  const SamplingParams& sampling = chat->request.sampling;
  require(sampling.n >= 1 && sampling.n <= options.max_n);
  require(!sampling.temperature || (*sampling.temperature >= 0 && *sampling.temperature <= 100));
  require(!sampling.max_tokens || *sampling.max_tokens >= 1);
  require(sampling.num_logprobs >= -1 && chat->ignored.size() <= 8192);
  for (const ChatMessage& message : chat->request.messages) require(!message.role.empty());

  // Answers made from whatever text came in are JSON as well.
  ChatAnswerOptions answer_options;
  answer_options.id = chat->request_id;
  answer_options.model = chat->model;
  answer_options.logprobs = answer_options.return_token_ids = true;
  OutputDelta delta;
  delta.text = chat->model;
  delta.logprobs.push_back({.token_id = 1, .text = std::string(body.substr(0, 64)), .logprob = -1});
  delta.finish_reason = FinishReason::kStop;
  ChatAnswer answer(answer_options, 1);
  answer.add(delta);
  require(parse_json(answer.to_json({}), "the answer").ok());
  std::string events;
  ChatStream stream(answer_options, 1);
  stream.append(events, delta, {});
  stream.append_end(events, {});
  require(events.substr(events.size() - 16) == "\n\ndata: [DONE]\n\n");
  return 0;
}
