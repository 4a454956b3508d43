#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "server/json_fields.h"
#include "server/openai_types.h"

namespace videre {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

constexpr const char* kMessages = R"("messages":[{"role":"user","content":"hi"}])";

std::string with(const std::string& fields) {
  return fmt::format("{{{}{}{}}}", kMessages, fields.empty() ? "" : ",", fields);
}

ChatRequest parsed(const std::string& body, const ChatParseOptions& options = {}) {
  auto result = parse_chat_request(std::string_view(body), options);
  EXPECT_TRUE(result.ok()) << body << ": " << (result.ok() ? "" : result.error().message);
  return result.ok() ? std::move(*result) : ChatRequest{};
}

Error error_of(const std::string& body, const ChatParseOptions& options = {}) {
  auto result = parse_chat_request(std::string_view(body), options);
  EXPECT_FALSE(result.ok()) << body;
  return result.ok() ? Error{} : result.error();
}

TEST(ChatRequest, DefaultsOfTheSmallestBody) {
  const ChatRequest chat = parsed(with(""));
  EXPECT_EQ(chat.model, "");
  EXPECT_FALSE(chat.stream || chat.include_usage || chat.logprobs || chat.return_token_ids);
  EXPECT_TRUE(chat.ignored.empty());
  const Request& request = chat.request;
  ASSERT_EQ(request.messages.size(), 1u);
  EXPECT_EQ(request.messages[0].role, "user");
  EXPECT_TRUE(request.messages[0].content_is_string);
  ASSERT_EQ(request.messages[0].content.size(), 1u);
  EXPECT_EQ(request.messages[0].content[0].text, "hi");
  EXPECT_TRUE(request.add_generation_prompt);
  EXPECT_FALSE(request.add_special_tokens || request.continue_final_message);
  const SamplingParams& sampling = request.sampling;
  EXPECT_EQ(sampling.n, 1);
  EXPECT_FALSE(sampling.temperature || sampling.top_p || sampling.top_k || sampling.min_p ||
               sampling.repetition_penalty || sampling.max_tokens || sampling.seed);
  EXPECT_EQ(sampling.num_logprobs, -1);
  EXPECT_TRUE(sampling.skip_special_tokens);
}

TEST(ChatRequest, EveryFieldReachesTheRequest) {
  const ChatRequest chat = parsed(with(R"(
      "model":"m","request_id":"r-1","stream":true,
      "stream_options":{"include_usage":true,"continuous_usage_stats":true},
      "n":3,"temperature":0.5,"top_p":0.9,"top_k":40,"min_p":0.05,"repetition_penalty":1.1,
      "presence_penalty":-0.5,"frequency_penalty":1.5,"max_tokens":7,"min_tokens":2,"seed":-9,
      "stop":["a","b"],"stop_token_ids":[5,6],"include_stop_str_in_output":true,"ignore_eos":true,
      "skip_special_tokens":false,"logprobs":true,"top_logprobs":4,
      "logit_bias":{"3":1.5,"9":-200},"allowed_token_ids":[1,2,3],"bad_words":["x"],
      "chat_template_kwargs":{"enable_thinking":false},"reasoning_effort":"low",
      "add_special_tokens":true,"cache_salt":"s",
      "return_token_ids":true,"return_tokens_as_token_ids":true,
      "mm_processor_kwargs":{"max_num_tiles":6,"video_pruning_rate":0.5},
      "media_io_kwargs":{"video":{"fps":2,"num_frames":16,"video_backend":"opencv",
                                  "frames_indices":[0,3],"total_num_frames":9,"duration":1.5,
                                  "do_sample_frames":true,"max_duration":60,"frame_recovery":true},
                         "image":{"rgba_background_color":[1,2,255],"exif_transpose":false}})"));
  EXPECT_EQ(chat.model, "m");
  EXPECT_EQ(chat.request_id, "r-1");
  EXPECT_TRUE(chat.stream && chat.include_usage && chat.continuous_usage && chat.logprobs);
  EXPECT_TRUE(chat.return_token_ids && chat.return_tokens_as_token_ids);
  EXPECT_TRUE(chat.ignored.empty()) << chat.ignored[0];
  const SamplingParams& s = chat.request.sampling;
  EXPECT_EQ(s.n, 3);
  EXPECT_EQ(s.temperature, 0.5);
  EXPECT_EQ(s.top_p, 0.9);
  EXPECT_EQ(s.top_k, 40);
  EXPECT_EQ(s.min_p, 0.05);
  EXPECT_EQ(s.repetition_penalty, 1.1);
  EXPECT_EQ(s.presence_penalty, -0.5);
  EXPECT_EQ(s.frequency_penalty, 1.5);
  EXPECT_EQ(s.max_tokens, 7);
  EXPECT_EQ(s.min_tokens, 2);
  EXPECT_EQ(s.seed, -9);
  EXPECT_THAT(s.stop, ElementsAre("a", "b"));
  EXPECT_THAT(s.stop_token_ids, ElementsAre(5, 6));
  EXPECT_TRUE(s.include_stop_str_in_output && s.ignore_eos && !s.skip_special_tokens);
  EXPECT_EQ(s.num_logprobs, 4);
  EXPECT_THAT(s.logit_bias,
              ElementsAre(std::pair<int64_t, double>(3, 1.5), std::pair<int64_t, double>(9, -100)));
  EXPECT_THAT(s.allowed_token_ids, ElementsAre(1, 2, 3));
  EXPECT_THAT(s.bad_words, ElementsAre("x"));
  const Request& request = chat.request;
  EXPECT_EQ(request.chat_template_kwargs_json,
            R"({"reasoning_effort":"low","enable_thinking":false})");
  EXPECT_TRUE(request.add_special_tokens);
  EXPECT_EQ(request.cache_salt, "s");
  EXPECT_EQ(request.processor.max_num_tiles, 6);
  EXPECT_EQ(request.processor.video_pruning_rate, 0.5);
  const MediaIoOptions& io = request.media_io;
  EXPECT_EQ(io.fps, 2);
  EXPECT_EQ(io.num_frames, 16);
  EXPECT_EQ(io.video_backend, "opencv");
  EXPECT_THAT(*io.frames_indices, ElementsAre(0, 3));
  EXPECT_EQ(io.total_num_frames, 9);
  EXPECT_EQ(io.duration_s, 1.5);
  EXPECT_EQ(io.do_sample_frames, true);
  EXPECT_EQ(io.max_duration_s, 60);
  EXPECT_EQ(io.frame_recovery, true);
  EXPECT_THAT(*io.rgba_background_color, ElementsAre(1, 2, 255));
  EXPECT_EQ(io.exif_transpose, false);
}

TEST(ChatRequest, LenientWhereOtherServersAre) {
  EXPECT_EQ(parsed(with(R"("max_tokens":"12")")).request.sampling.max_tokens, 12);
  EXPECT_EQ(parsed(with(R"("max_tokens":12.0)")).request.sampling.max_tokens, 12);
  EXPECT_EQ(parsed(with(R"("temperature":"0.25")")).request.sampling.temperature, 0.25);
  EXPECT_EQ(parsed(with(R"("temperature":1)")).request.sampling.temperature, 1.0);
  EXPECT_TRUE(parsed(with(R"("stream":1)")).stream);
  EXPECT_TRUE(parsed(with(R"("stream":"true")")).stream);
  EXPECT_EQ(parsed(with(R"("max_tokens":null,"stop":null,"tools":null,"logit_bias":null)"))
                .request.sampling.max_tokens,
            std::nullopt);
  EXPECT_THAT(parsed(with(R"("stop":"x")")).request.sampling.stop, ElementsAre("x"));
  // max_completion_tokens wins; -1 is no seed; a bare stream_options asks for usage.
  EXPECT_EQ(parsed(with(R"("max_completion_tokens":3,"max_tokens":9)")).request.sampling.max_tokens,
            3);
  EXPECT_EQ(parsed(with(R"("seed":-1)")).request.sampling.seed, std::nullopt);
  EXPECT_TRUE(parsed(with(R"("stream":true,"stream_options":{})")).include_usage);
  EXPECT_FALSE(
      parsed(with(R"("stream":true,"stream_options":{"include_usage":false})")).include_usage);
}

// A wrong type in any field is 400 with the field's path under "body".
TEST(ChatRequest, WrongTypesNameTheirField) {
  const std::vector<std::pair<std::string, std::vector<const char*>>> cases = {
      {"model", {"5", "[]", "{}", "true"}},
      {"request_id", {"5", "{}"}},
      {"stream", {"5", "\"maybe\"", "[]", "0.5"}},
      {"n", {"\"x\"", "1.5", "[]", "true", "1e300"}},
      {"temperature", {"\"hot\"", "[]", "{}", "true", "NaN", "Infinity", "-Infinity", "\"nan\""}},
      {"top_p", {"\"x\"", "[1]", "false"}},
      {"top_k", {"1.25", "\"\"", "{}", "99999999999999999999"}},
      {"min_p", {"\"x\"", "[]"}},
      {"repetition_penalty", {"\"x\"", "Infinity"}},
      {"presence_penalty", {"\"x\"", "[]"}},
      {"frequency_penalty", {"\"x\"", "{}"}},
      {"max_tokens", {"\"x\"", "1.5", "[]", "18446744073709551615"}},
      {"max_completion_tokens", {"\"x\"", "{}"}},
      {"min_tokens", {"\"x\"", "[]"}},
      {"seed", {"\"x\"", "0.5", "9223372036854775808"}},
      {"stop", {"5", "{}", "[1]", "[[\"a\"]]"}},
      {"stop_token_ids", {"5", "\"7\"", "[\"x\"]", "[1.5]", "{}"}},
      {"include_stop_str_in_output", {"\"x\"", "[]", "2"}},
      {"ignore_eos", {"\"x\"", "[]"}},
      {"skip_special_tokens", {"\"x\"", "{}"}},
      {"bad_words", {"\"x\"", "[1]", "{}"}},
      {"allowed_token_ids", {"1", "[\"x\"]", "{}"}},
      {"logit_bias", {"5", "[]", "\"x\""}},
      {"logprobs", {"5", "\"x\"", "[]"}},
      {"top_logprobs", {"\"x\"", "1.5", "[]"}},
      {"chat_template", {"5", "[]"}},
      {"chat_template_kwargs", {"5", "[]", "\"x\""}},
      {"reasoning_effort", {"5", "[]"}},
      {"documents", {"5", "{}"}},
      {"add_generation_prompt", {"\"x\"", "[]"}},
      {"continue_final_message", {"\"x\"", "[]"}},
      {"add_special_tokens", {"\"x\"", "{}"}},
      {"tools", {"5", "{}", "\"x\""}},
      {"tool_choice", {"5", "[]"}},
      {"priority", {"\"x\"", "0.5"}},
      {"cache_salt", {"5", "[]"}},
      {"return_token_ids", {"\"x\""}},
      {"return_tokens_as_token_ids", {"[]"}},
      {"response_format", {"5", "[]", "{}", "{\"type\":5}"}},
      {"use_beam_search", {"\"x\"", "[]"}},
      {"echo", {"\"x\""}},
      {"mm_processor_kwargs", {"5", "[]", "\"x\""}},
      {"media_io_kwargs", {"5", "[]"}},
      {"user", {"5", "[]"}},
      {"service_tier", {"5"}},
      {"store", {"\"x\"", "[]"}},
      {"parallel_tool_calls", {"\"x\""}},
      {"include_reasoning", {"[]"}},
      {"spaces_between_special_tokens", {"{}"}},
      {"length_penalty", {"\"x\""}},
      {"best_of", {"\"x\""}},
      {"metadata", {"5", "[]"}},
      {"vllm_xargs", {"5"}},
  };
  for (const auto& [key, values] : cases) {
    for (const char* value : values) {
      const Error error = error_of(with(fmt::format("\"{}\":{}", key, value)));
      EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << key << " " << value;
      EXPECT_EQ(error.param, "body." + key) << value;
      EXPECT_THAT(error.message, HasSubstr(key)) << value;
      EXPECT_THAT(error.message, HasSubstr("expected")) << value;
      EXPECT_EQ(error_body(error).status, 400);
      EXPECT_THAT(error_body(error).json, HasSubstr(R"("type":"Bad Request")"));
    }
  }
  // Fields inside objects.
  const std::vector<std::pair<std::string, const char*>> nested = {
      {"body.stream_options", R"("stream":true,"stream_options":5)"},
      {"body.stream_options.include_usage",
       R"("stream":true,"stream_options":{"include_usage":"x"})"},
      {"body.stream_options.include_obfuscation",
       R"("stream":true,"stream_options":{"include_obfuscation":7})"},
      {"body.mm_processor_kwargs.max_num_tiles", R"("mm_processor_kwargs":{"max_num_tiles":"x"})"},
      {"body.mm_processor_kwargs.max_num_tiles", R"("mm_processor_kwargs":{"max_num_tiles":1.5})"},
      {"body.mm_processor_kwargs.video_pruning_rate",
       R"("mm_processor_kwargs":{"video_pruning_rate":[]})"},
      {"body.media_io_kwargs.video", R"("media_io_kwargs":{"video":5})"},
      {"body.media_io_kwargs.image", R"("media_io_kwargs":{"image":[]})"},
      {"body.media_io_kwargs.video.fps", R"("media_io_kwargs":{"video":{"fps":"x"}})"},
      {"body.media_io_kwargs.video.num_frames",
       R"("media_io_kwargs":{"video":{"num_frames":1.5}})"},
      {"body.media_io_kwargs.video.video_backend",
       R"("media_io_kwargs":{"video":{"video_backend":5}})"},
      {"body.media_io_kwargs.video.frames_indices",
       R"("media_io_kwargs":{"video":{"frames_indices":["x"]}})"},
      {"body.media_io_kwargs.video.duration", R"("media_io_kwargs":{"video":{"duration":[]}})"},
      {"body.media_io_kwargs.image.rgba_background_color",
       R"("media_io_kwargs":{"image":{"rgba_background_color":"white"}})"},
      {"body.media_io_kwargs.image.exif_transpose",
       R"("media_io_kwargs":{"image":{"exif_transpose":"x"}})"},
      {"body.tools.0.function.name", R"("tools":[{"type":"function"}])"},
      {"body.tools.0.function.name", R"("tools":[5])"},
  };
  for (const auto& [param, fields] : nested) {
    const Error error = error_of(with(fields));
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << fields;
    EXPECT_EQ(error.param, param) << fields << " " << error.message;
  }
}

// A value of the right type that cannot be used: 400 with the field alone as param.
TEST(ChatRequest, RangesNameTheirField) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"n", R"("n":0)"},
      {"n", R"("n":-1)"},
      {"n", R"("n":129)"},
      {"n", R"("n":2,"temperature":0)"},
      {"temperature", R"("temperature":-0.1)"},
      {"temperature", R"("temperature":101)"},
      {"top_p", R"("top_p":0)"},
      {"top_p", R"("top_p":1.01)"},
      {"top_k", R"("top_k":-2)"},
      {"min_p", R"("min_p":-0.1)"},
      {"min_p", R"("min_p":1.1)"},
      {"repetition_penalty", R"("repetition_penalty":0)"},
      {"presence_penalty", R"("presence_penalty":2.1)"},
      {"frequency_penalty", R"("frequency_penalty":-2.1)"},
      {"max_tokens", R"("max_tokens":0)"},
      {"max_tokens", R"("max_tokens":-5)"},
      {"max_completion_tokens", R"("max_completion_tokens":0)"},
      {"min_tokens", R"("min_tokens":-1)"},
      {"min_tokens", R"("min_tokens":5,"max_tokens":4)"},
      {"stop", R"("stop":"")"},
      {"stop", R"("stop":["a",""])"},
      {"stop", fmt::format(R"("stop":"{}")", std::string(4097, 'x'))},
      {"stop_token_ids", R"("stop_token_ids":[-1])"},
      {"stop_token_ids", R"("stop_token_ids":[3000000000])"},
      {"allowed_token_ids", R"("allowed_token_ids":[])"},
      {"bad_words", R"("bad_words":[""])"},
      {"logit_bias", R"("logit_bias":{"x":1})"},
      {"logit_bias", R"("logit_bias":{"-1":1})"},
      {"logit_bias", R"("logit_bias":{"1":"x"})"},
      {"logit_bias", R"("logit_bias":{"1":NaN})"},
      {"top_logprobs", R"("top_logprobs":2)"},
      {"top_logprobs", R"("logprobs":true,"top_logprobs":21)"},
      {"top_logprobs", R"("logprobs":true,"top_logprobs":-1)"},
      {"top_logprobs", R"("logprobs":true,"top_logprobs":-2)"},
      {"stream_options", R"("stream_options":{"include_usage":true})"},
      {"priority", R"("priority":1)"},
      {"cache_salt", R"("cache_salt":"")"},
      {"chat_template", R"("chat_template":"{{ x }}")"},
      {"chat_template", R"("chat_template_kwargs":{"chat_template":"{{ x }}"})"},
      {"continue_final_message", R"("continue_final_message":true)"},
      {"tool_choice", R"("tool_choice":"auto")"},
      {"tool_choice", R"("tool_choice":"sometimes")"},
      {"tool_choice", R"("tools":[{"type":"function","function":{"name":"f"}}])"},
      {"tool_choice",
       R"("tools":[{"function":{"name":"f"}}],"tool_choice":{"function":{"name":"g"}})"},
      {"tool_choice", R"("tools":[{"function":{"name":"f"}}],"tool_choice":{"function":{}})"},
      {"tools.0.type", R"("tools":[{"type":"code","function":{"name":"f"}}])"},
      {"mm_processor_kwargs.max_num_tiles", R"("mm_processor_kwargs":{"max_num_tiles":0})"},
      {"mm_processor_kwargs.max_num_tiles", R"("mm_processor_kwargs":{"max_num_tiles":65})"},
      {"mm_processor_kwargs.video_pruning_rate",
       R"("mm_processor_kwargs":{"video_pruning_rate":1})"},
      {"mm_processor_kwargs.video_pruning_rate",
       R"("mm_processor_kwargs":{"video_pruning_rate":-0.5})"},
      {"mm_processor_kwargs.use_thumbnail", R"("mm_processor_kwargs":{"use_thumbnail":false})"},
      {"media_io_kwargs.video.video_backend",
       R"("media_io_kwargs":{"video":{"video_backend":"magic"}})"},
      {"media_io_kwargs.video.num_frames", R"("media_io_kwargs":{"video":{"num_frames":-2}})"},
      {"media_io_kwargs.image.rgba_background_color",
       R"("media_io_kwargs":{"image":{"rgba_background_color":[1,2]}})"},
      {"media_io_kwargs.image.rgba_background_color",
       R"("media_io_kwargs":{"image":{"rgba_background_color":[1,2,256]}})"},
  };
  for (const auto& [param, fields] : cases) {
    const Error error = error_of(with(fields));
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << fields;
    EXPECT_EQ(error.param, param) << fields << ": " << error.message;
    const ErrorBody body = error_body(error);
    EXPECT_EQ(body.status, 400);
    EXPECT_THAT(body.json, HasSubstr(R"("type":"BadRequestError")"));
  }
}

TEST(ChatRequest, KnownButUnsupportedIs501) {
  for (const char* fields :
       {R"("response_format":{"type":"json_object"})", R"("guided_json":{})",
        R"("structured_outputs":{"regex":"a"})", R"("prompt_logprobs":1)",
        R"("use_beam_search":true)", R"("echo":true)", R"("thinking_token_budget":10)"}) {
    const Error error = error_of(with(fields));
    EXPECT_EQ(error.code, ErrorCode::kUnsupported) << fields;
    EXPECT_EQ(error_body(error).status, 501);
  }
  for (const char* fields : {R"("response_format":{"type":"text"})", R"("prompt_logprobs":0)",
                             R"("echo":false)", R"("logits_processors":[])"}) {
    parsed(with(fields));
  }
}

TEST(ChatRequest, BodiesThatAreNoJsonObject) {
  for (const char* body : {"", "{", "[", "null", "5", "[]", "\"x\"", "{\"messages\":}", "{} x",
                           "{\"a\":\"\xff\"}", "{'a':1}", "\xEF\xBB\xBF"}) {
    const Error error = error_of(body);
    EXPECT_EQ(error.param, std::string_view(body) == "{}" ? "body.messages" : "body") << body;
    EXPECT_EQ(error_body(error).status, 400);
  }
  EXPECT_EQ(error_of("{}").param, "body.messages");
  EXPECT_EQ(error_of(R"({"messages":null})").param, "body.messages");
  EXPECT_EQ(error_of(R"({"messages":5})").param, "body.messages");
  EXPECT_EQ(error_of(R"({"messages":[]})").param, "messages");
  const std::string deep = with("\"x\":" + std::string(100, '[') + std::string(100, ']'));
  EXPECT_EQ(error_of(deep).param, "body");
}

TEST(ChatRequest, MessagesOfWrongShape) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"body.messages.0", "5"},
      {"body.messages.0.role", R"({"content":"x"})"},
      {"body.messages.0.role", R"({"role":5,"content":"x"})"},
      {"body.messages.0.role", R"({"role":"","content":"x"})"},
      {"body.messages.0.content", R"({"role":"user"})"},
      {"body.messages.0.content", R"({"role":"user","content":5})"},
      {"body.messages.0.content", R"({"role":"user","content":{"type":"text"}})"},
      {"body.messages.0.content.0", R"({"role":"user","content":[5]})"},
      {"body.messages.0.content.0.type", R"({"role":"user","content":[{}]})"},
      {"body.messages.0.content.0.type", R"({"role":"user","content":[{"type":5}]})"},
      {"messages.0.content.0.type", R"({"role":"user","content":[{"type":"poem"}]})"},
      {"messages.0.content.0.type", R"({"role":"user","content":[{"type":"video","text":null}]})"},
      {"messages.0.content.0.type", R"({"role":"user","content":[{"type":"input_audio"}]})"},
      {"body.messages.0.content.0.text", R"({"role":"user","content":[{"type":"text","text":5}]})"},
      {"body.messages.0.content.0.image_url",
       R"({"role":"user","content":[{"type":"image_url"}]})"},
      {"body.messages.0.content.0.image_url.url",
       R"({"role":"user","content":[{"type":"image_url","image_url":5}]})"},
      {"body.messages.0.content.0.image_url.url",
       R"({"role":"user","content":[{"type":"image_url","image_url":{}}]})"},
      {"body.messages.0.content.0.video_url.url",
       R"({"role":"user","content":[{"type":"video_url","video_url":{"url":[]}}]})"},
      {"messages.0.content.0.image_url",
       R"({"role":"user","content":[{"type":"image_url","image_url":{"url":""}}]})"},
      {"messages.0.content.0.image_url",
       R"({"role":"user","content":[{"type":"image_url","image_url":{"url":"a\u0000b"}}]})"},
      {"messages.0.content.0.image_url",
       fmt::format(R"({{"role":"user","content":[{{"image_url":"http://{}"}}]}})",
                   std::string(9000, 'x'))},
      {"body.messages.0.content.0.uuid",
       R"({"role":"user","content":[{"image_url":"http://x/","uuid":5}]})"},
      {"body.messages.0.content.0.image_url.uuid",
       R"({"role":"user","content":[{"image_url":{"url":"http://x/","uuid":[]}}]})"},
      {"body.messages.0.name", R"({"role":"user","content":"x","name":5})"},
      {"body.messages.0.tool_calls", R"({"role":"assistant","tool_calls":5})"},
      {"body.messages.0.tool_calls.0.function", R"({"role":"assistant","tool_calls":[5]})"},
      {"body.messages.0.tool_calls.0.function.name",
       R"({"role":"assistant","tool_calls":[{"function":{}}]})"},
      {"messages.0.tool_calls.0.function.arguments",
       R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"{"}}]})"},
      {"messages.0.tool_calls.0.function.arguments",
       R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":"[1]"}}]})"},
      {"body.messages.0.tool_calls.0.function.arguments",
       R"({"role":"assistant","tool_calls":[{"function":{"name":"f","arguments":5}}]})"},
  };
  for (const auto& [param, message] : cases) {
    const Error error = error_of(fmt::format(R"({{"messages":[{}]}})", message));
    EXPECT_EQ(error.code, ErrorCode::kInvalidArgument) << message;
    EXPECT_EQ(error.param, param) << message << ": " << error.message;
    EXPECT_LE(error.message.size(), 400u);
  }
}

TEST(ChatRequest, PartsInAllTheirForms) {
  const ChatRequest chat = parsed(R"({"messages":[
      {"role":"developer","content":"be brief"},
      {"role":"user","content":["bare",
        {"type":"text","text":"t"},{"type":"input_text","text":"i"},{"text":"no type"},
        {"type":"refusal","refusal":"r"},{"type":"text","text":null},
        {"type":"image_url","image_url":{"url":"http://h/a.png","detail":"high"},"uuid":"u1"},
        {"image_url":"data:image/png;base64,AA=="},
        {"type":"input_image","image_url":"http://h/b.png"},
        {"type":"video_url","video_url":{"url":"file:///c.mp4","uuid":"u2"}},
        {"type":"image_url","image_url":null,"uuid":"u3"},
        {"type":"image_url","image_url":{"uuid":"u4"}}]},
      {"role":"assistant","content":null,"reasoning_content":"why",
       "tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"a\": 1}"}},
                     {"function":{"name":"g","arguments":{"b":[2]}}},
                     {"function":{"name":"h","arguments":""}}]},
      {"role":"tool","tool_call_id":"c1","content":"42"},
      {"role":"user","name":"bob","content":"go on"}]})");
  const auto& messages = chat.request.messages;
  ASSERT_EQ(messages.size(), 5u);
  EXPECT_EQ(messages[0].role, "system");
  const auto& parts = messages[1].content;
  ASSERT_EQ(parts.size(), 11u);
  EXPECT_FALSE(messages[1].content_is_string);
  EXPECT_EQ(parts[0].text, "bare");
  EXPECT_EQ(parts[1].text, "t");
  EXPECT_EQ(parts[2].text, "i");
  EXPECT_EQ(parts[3].text, "no type");
  EXPECT_EQ(parts[4].text, "r");
  EXPECT_EQ(parts[5].kind, ContentPart::Kind::kImage);
  EXPECT_EQ(parts[5].media.url, "http://h/a.png");
  EXPECT_EQ(parts[5].media.uuid, "u1");
  EXPECT_EQ(parts[6].media.url, "data:image/png;base64,AA==");
  EXPECT_EQ(parts[7].media.url, "http://h/b.png");
  EXPECT_EQ(parts[8].kind, ContentPart::Kind::kVideo);
  EXPECT_EQ(parts[8].media.url, "file:///c.mp4");
  EXPECT_EQ(parts[8].media.uuid, "u2");
  EXPECT_EQ(parts[9].media.uuid, "u3");  // without a URL: known from before
  EXPECT_TRUE(parts[9].media.placeholder() && parts[10].media.placeholder());
  EXPECT_EQ(parts[10].media.uuid, "u4");
  EXPECT_TRUE(messages[2].content.empty());
  EXPECT_EQ(messages[2].reasoning, "why");
  ASSERT_EQ(messages[2].tool_calls.size(), 3u);
  EXPECT_EQ(messages[2].tool_calls[0].id, "c1");
  EXPECT_EQ(messages[2].tool_calls[0].arguments_json, R"({"a":1})");
  EXPECT_EQ(messages[2].tool_calls[1].arguments_json, R"({"b":[2]})");
  EXPECT_EQ(messages[2].tool_calls[2].arguments_json, "{}");
  EXPECT_EQ(messages[3].tool_call_id, "c1");
  EXPECT_EQ(messages[4].name, "bob");
  EXPECT_THAT(chat.ignored, ElementsAre("messages.1.content.5 (no text)"));
}

TEST(ChatRequest, UnknownFieldsAreNamedNotRefused) {
  const ChatRequest chat = parsed(
      R"({"messages":[{"role":"user","content":[{"type":"text","text":"x","colour":"red"}],"mood":1}],
          "shape":{"a":1},"media_io_kwargs":{"video":{"speed":1}},
          "stream":true,"stream_options":{"pace":2}})");
  EXPECT_THAT(chat.ignored, testing::UnorderedElementsAre(
                                "messages.0.content.0.colour", "messages.0.mood", "shape",
                                "media_io_kwargs.video.speed", "stream_options.pace"));
  // However many there are, the list stays short.
  std::string many;
  for (int i = 0; i < 1000; ++i) many += fmt::format("{}\"x{}\":0", i ? "," : "", i);
  EXPECT_LE(parsed(with(many)).ignored.size(), 20u);
}

TEST(ChatRequest, MediaAreCounted) {
  ChatParseOptions options;
  options.limit_mm_per_prompt = {{"image", 1}, {"video", 0}};
  const auto body = [](const char* kind, int count) {
    std::string parts;
    for (int i = 0; i < count; ++i) {
      parts += fmt::format(R"({}{{"type":"{}_url","{}_url":{{"url":"http://h/x"}}}})", i ? "," : "",
                           kind, kind);
    }
    return fmt::format(R"({{"messages":[{{"role":"user","content":[{}]}}]}})", parts);
  };
  parsed(body("image", 1), options);
  EXPECT_THAT(error_of(body("image", 2), options).message, HasSubstr("at most 1 image(s)"));
  EXPECT_THAT(error_of(body("video", 1), options).message, HasSubstr("at most 0 video(s)"));
  parsed(body("image", 999));
  EXPECT_EQ(error_of(body("image", 1000)).param, "messages");
}

TEST(ChatRequest, ToolsAndTemplates) {
  ChatParseOptions options;
  const char* tools =
      R"("tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])";
  EXPECT_EQ(parsed(with(fmt::format(R"({},"tool_choice":"none")", tools))).request.tools_json,
            R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])");
  options.exclude_tools_when_tool_choice_none = true;
  EXPECT_EQ(
      parsed(with(fmt::format(R"({},"tool_choice":"none")", tools)), options).request.tools_json,
      "");
  options.allow_auto_tool_choice = true;
  EXPECT_NE(parsed(with(tools), options).request.tools_json, "");
  EXPECT_EQ(error_of(with(fmt::format(R"({},"tool_choice":"required")", tools))).code,
            ErrorCode::kUnsupported);

  options.trust_request_chat_template = true;
  options.default_chat_template_kwargs_json = R"({"a":1,"b":2})";
  const ChatRequest chat =
      parsed(with(R"("chat_template":"T","chat_template_kwargs":{"b":3})"), options);
  EXPECT_EQ(chat.request.chat_template, "T");
  EXPECT_EQ(chat.request.chat_template_kwargs_json, R"({"a":1,"b":3})");
  EXPECT_TRUE(parsed(with(R"("continue_final_message":true,"add_generation_prompt":false)"))
                  .request.continue_final_message);

  options.allow_placeholders = true;
  const ChatRequest bare = parsed(
      R"({"messages":[{"role":"user","content":[{"type":"video","text":null},{"type":"image"}]}]})",
      options);
  EXPECT_TRUE(bare.request.messages[0].content[0].media.placeholder());
  EXPECT_EQ(bare.request.messages[0].content[1].kind, ContentPart::Kind::kImage);
}

TEST(ChatRequest, LimitsOfSize) {
  std::string list;
  for (int i = 0; i < 4097; ++i) list += std::string(i ? "," : "") + R"({"role":"a"})";
  EXPECT_EQ(error_of(fmt::format(R"({{"messages":[{}]}})", list)).param, "messages");
  const std::string text(9u << 20, 'x');
  EXPECT_EQ(
      error_of(fmt::format(R"({{"messages":[{{"role":"user","content":"{}"}}]}})", text)).param,
      "messages");
  // A data: URL may be as long as the body.
  const std::string url = "data:image/png;base64," + text;
  EXPECT_EQ(
      parsed(fmt::format(R"({{"messages":[{{"role":"user","content":[{{"image_url":"{}"}}]}}]}})",
                         url))
          .request.messages[0]
          .content[0]
          .media.url,
      url);
  // What a message echoes of it stays short.
  const Error error = error_of(with(fmt::format(R"("temperature":"{}")", text)));
  EXPECT_LE(error.message.size(), 200u);
}

TEST(MediaKwargs, FlagsAreNamedAsTyped) {
  const auto value = *parse_json(R"({"video":{"fps":"x"},"image":{"pace":1}})", "it");
  EXPECT_EQ(parse_media_io(value, "--media-io-kwargs", nullptr).error().param,
            "--media-io-kwargs.video.fps");
  EXPECT_EQ(parse_media_io(json::value(5), "--media-io-kwargs", nullptr).error().param,
            "--media-io-kwargs");
  EXPECT_EQ(parse_processor(json::value(5), "--mm-processor-kwargs").error().param,
            "--mm-processor-kwargs");
}

TEST(JsonFieldsShown, CutsBetweenCharacters) {
  std::string accents;
  for (int i = 0; i < 100; ++i) accents += "\xC3\xA9";
  const std::string text = shown(json::value(json::string(accents)));
  EXPECT_LE(text.size(), 80u);
  EXPECT_THAT(text, testing::EndsWith("..."));
  EXPECT_EQ((text.size() - 4) % 2, 0u) << text;  // a quote, whole accents, three points
  EXPECT_EQ(shown(json::value(json::array(3))), "a list of 3");
}

}  // namespace
}  // namespace videre
