// What is asked: a conversation (or a prompt) with its media, and how to sample. Plain values;
// copying a request is cheap but for text, since media bytes are shared.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace videre {

/// Frames that the caller already decoded: uint8 RGB, row-major.
struct RgbFrames {
  int64_t num_frames = 0;
  int height = 0, width = 0;
  std::vector<uint8_t> rgb;                 ///< [num_frames, height, width, 3]
  std::shared_ptr<const uint8_t> borrowed;  ///< the same in the caller's memory, when `rgb` is
                                            ///< empty; let go from any thread
  double fps = 0;                           ///< rate that `frames_indices` count in; videos only
  std::vector<int64_t> frames_indices;      ///< one a frame; videos only
  std::optional<double> duration_s;
  std::optional<int64_t> total_num_frames;

  std::span<const uint8_t> pixels() const {
    if (rgb.empty() && borrowed && num_frames > 0 && height > 0 && width > 0) {
      return {borrowed.get(), static_cast<size_t>(num_frames) * static_cast<size_t>(height) *
                                  static_cast<size_t>(width) * 3};
    }
    return rgb;
  }
};

/// One picture or clip: by URL (http, https, data, file), as an encoded file, or decoded. Exactly
/// one is set; none at all is a bare placeholder, good for rendering the template only.
struct MediaItem {
  std::string url;
  std::shared_ptr<const std::vector<uint8_t>> bytes;
  std::shared_ptr<const RgbFrames> frames;
  std::string uuid;  ///< the caller's cache key; scoped by cache_salt

  bool placeholder() const { return url.empty() && !bytes && !frames; }
};

struct ContentPart {
  enum class Kind { kText, kImage, kVideo };
  Kind kind = Kind::kText;
  std::string text;
  MediaItem media;
};

struct ToolCall {
  std::string id;
  std::string name;
  std::string arguments_json;  ///< a JSON object as text
};

struct ChatMessage {
  std::string role;
  std::vector<ContentPart> content;
  bool content_is_string = false;  ///< the client sent a plain string: `content` is one text part
  std::string name;
  std::string reasoning;
  std::vector<ToolCall> tool_calls;
  std::string tool_call_id;
};

/// How media are read (`media_io_kwargs`). Unset fields take the server's defaults; giving only one
/// of `fps` and `num_frames` drops the server's other one.
struct MediaIoOptions {
  std::optional<double> fps;
  std::optional<int64_t> num_frames;
  std::optional<std::string> video_backend;
  std::optional<double> max_duration_s;
  std::optional<bool> frame_recovery;
  std::optional<std::vector<int64_t>>
      frames_indices;  ///< data:video/jpeg lists only, as the next three
  std::optional<int64_t> total_num_frames;
  std::optional<double> duration_s;
  std::optional<bool> do_sample_frames;
  std::optional<std::array<uint8_t, 3>> rgba_background_color;
  std::optional<bool> exif_transpose;
};

/// How media become tokens (`mm_processor_kwargs`).
struct ProcessorOptions {
  std::optional<int> max_num_tiles;          ///< 1..64; pictures only
  std::optional<double> video_pruning_rate;  ///< [0, 1); 0 is off
};

/// Unset fields take the checkpoint's generation_config, else the defaults in brackets.
struct SamplingParams {
  int n = 1;
  std::optional<double> temperature;         ///< [1.0] below 1e-5 is greedy
  std::optional<double> top_p;               ///< [1.0]
  std::optional<int64_t> top_k;              ///< [0] 0 or -1 is off
  std::optional<double> min_p;               ///< [0.0]
  std::optional<double> repetition_penalty;  ///< [1.0]
  double presence_penalty = 0, frequency_penalty = 0;
  std::optional<int64_t> max_tokens;  ///< [all remaining context]
  int64_t min_tokens = 0;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  std::vector<int64_t> stop_token_ids;
  bool include_stop_str_in_output = false;
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  int64_t num_logprobs = -1;  ///< -1 none; 0 the sampled token's; n the top n too
  std::vector<std::pair<int64_t, double>> logit_bias;
  std::vector<int64_t> allowed_token_ids;  ///< empty = all
  std::vector<std::string> bad_words;
};

/// One request. The prompt is `messages`, or `prompt` (with `media` for its placeholders, in
/// order), or `prompt_token_ids`.
struct Request {
  std::vector<ChatMessage> messages;
  std::string tools_json;                 ///< JSON array as text, or ""
  std::string chat_template_kwargs_json;  ///< JSON object as text, or ""
  std::string chat_template;              ///< overrides the checkpoint's; front ends guard who may
  bool add_generation_prompt = true;
  bool continue_final_message = false;

  std::optional<std::string> prompt;
  std::vector<ContentPart> media;
  std::optional<std::vector<int32_t>> prompt_token_ids;
  bool add_special_tokens = false;

  MediaIoOptions media_io;
  ProcessorOptions processor;
  SamplingParams sampling;
  int priority = 0;
  std::string cache_salt;
};

}  // namespace videre
