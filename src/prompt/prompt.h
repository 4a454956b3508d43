// Messages and media to token ids and spans. Only this layer knows placeholders: the rendered text
// is split at <image> and <video>, pieces are tokenized on their own, and each placeholder becomes
// its run of ids.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "media/tiles.h"
#include "media/video.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"
#include "videre/engine.h"

namespace videre {

/// How the text around video frames reads (docs/model.md#video-text).
enum class VideoPromptStyle { kVb, kVx, kTrtllm };

/// What the prompt layer must know of the model; filled from its config.
struct PromptConfig {
  int tile_size = 512;
  int tokens_per_tile = 256;
  int max_num_tiles = 12;
  bool use_thumbnail = true;
  int32_t image_token_id = 0;  // the repeated context id, <image>
  int32_t image_start_id = 0, image_end_id = 0;
  std::string image_token = "<image>", image_start = "<img>", image_end = "</img>",
              video_token = "<video>";
  VideoPromptStyle video_style = VideoPromptStyle::kVb;
};

/// One decoded picture or clip, ready for the tower.
struct PreparedMedia {
  ContentPart::Kind kind = ContentPart::Kind::kImage;
  std::shared_ptr<const PixelTiles>
      tiles;                            // pictures: mosaic tiles and thumbnail; clips: one a frame
  int width = 0, height = 0;            // of the source
  Grid grid;                            // pictures
  std::vector<int64_t> frames_indices;  // clips
  std::vector<double> timestamps;
  double fps = 0, duration_s = 0;
  double pruning_rate = 0;  // clips; 0 = off
  std::string content_key;  // hash over bytes and every option that changes the rows
};

/// A media item's place in the prompt.
struct MediaSpan {
  PreparedMedia media;
  int64_t begin = 0, length = 0;  // rows of the prompt, tags and labels included
  int64_t num_rows = 0;           // vision rows among them
  std::vector<std::vector<int32_t>>
      frame_labels;  // clips: ids before each frame's <img>; the first has the style's prefix
};

/// Immutable once made; the engine shares it.
struct Prompt {
  std::string rendered;
  std::vector<int32_t> token_ids;  // expanded; kept video rows all in the first frame
  std::vector<MediaSpan> media;    // in order of `begin`
  Usage usage;
};

/// Rows kept of `num_frames` frames at pruning rate q: max(tokens_per_frame, int(tokens * frames *
/// (1 - q))).
int64_t num_kept_rows(int64_t num_frames, int tokens_per_frame, double pruning_rate);

/// Ids of a clip's whole span for given kept rows a frame (their sum is `span.num_rows`).
std::vector<int32_t> layout_video_span(const MediaSpan& span,
                                       const std::vector<int64_t>& rows_per_frame,
                                       const PromptConfig& config);

struct PromptTags {
  std::string image = "<image>", video = "<video>";
};

/// The conversation through the template. `content_format` (--chat-template-content-format): "auto"
/// hands each message over as the client wrote it (a string, or a list of parts), "openai" always a
/// list, "string" always a string with the media tags in front. Assistant and tool content is
/// always a string: templates print it as it is.
Result<std::string> render_messages(const Request& request, const ChatTemplate& chat_template,
                                    const Tokenizer& tokenizer, const std::string& content_format,
                                    const PromptTags& tags = {});

/// All media parts of a request, in order of appearance.
std::vector<const ContentPart*> media_parts(const Request& request);

/// Splits `rendered` at placeholders and expands them with `media` (kinds taken in order of
/// appearance). Errors: the number of placeholders and of media items differ.
Result<Prompt> build_prompt(std::string rendered, std::vector<PreparedMedia> media,
                            const Tokenizer& tokenizer, const PromptConfig& config,
                            bool add_special_tokens);

}  // namespace videre
