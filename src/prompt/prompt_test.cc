#include "prompt/prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/json.h"
#include "base/mapped_file.h"
#include "media/frame_sampling.h"

namespace videre {
namespace {

constexpr int kTokensPerTile = 16;  // of tests/tiny-b

json::value read_json(const std::string& path) {
  auto text = read_text_file(path, 64 << 20);
  EXPECT_TRUE(text.ok()) << path;
  return parse_json(*text, path).value();
}

// [5, [7, 3]] is 5 7 7 7.
std::vector<int32_t> unpack(const json::value& list) {
  std::vector<int32_t> ids;
  for (const json::value& item : list.as_array()) {
    if (item.is_array()) {
      ids.insert(ids.end(), item.at(1).to_number<size_t>(), item.at(0).to_number<int32_t>());
    } else {
      ids.push_back(item.to_number<int32_t>());
    }
  }
  return ids;
}

PreparedMedia picture(int num_tiles) {
  PreparedMedia media;
  auto tiles = std::make_shared<PixelTiles>();
  tiles->num_tiles = num_tiles;
  media.tiles = tiles;
  return media;
}

PreparedMedia clip(std::vector<int64_t> indices, double fps, double rate) {
  PreparedMedia media = picture(static_cast<int>(indices.size()));
  media.kind = ContentPart::Kind::kVideo;
  media.timestamps = frame_timestamps(indices, fps);
  media.frames_indices = std::move(indices);
  media.fps = fps;
  media.pruning_rate = rate;
  return media;
}

ContentPart text_part(const std::string& text) { return {ContentPart::Kind::kText, text, {}}; }
ContentPart media_part(ContentPart::Kind kind) { return {kind, "", {}}; }

class PromptTest : public ::testing::Test {
 protected:
  PromptTest() {
    const std::string folder = std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint";
    tokenizer_ = Tokenizer::load(folder).value();
    template_ = std::make_unique<ChatTemplate>(ChatTemplate::load(folder).value());
    config_.tokens_per_tile = kTokensPerTile;
    config_.image_token_id = *tokenizer_->token_id("<image>");
    config_.image_start_id = *tokenizer_->token_id("<img>");
    config_.image_end_id = *tokenizer_->token_id("</img>");
    vllm_ = read_json(std::string(VIDERE_TEST_DATA) + "/prompt/vllm.json");
  }

  Result<Prompt> build(const std::string& rendered, std::vector<PreparedMedia> media) const {
    return build_prompt(rendered, std::move(media), *tokenizer_, config_, false);
  }
  std::string render(const std::vector<ChatMessage>& messages, const std::string& format) const {
    Request request;
    request.messages = messages;
    const auto rendered = render_messages(request, *template_, *tokenizer_, format);
    EXPECT_TRUE(rendered.ok()) << rendered.error().message;
    return rendered.ok() ? *rendered : "";
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ChatTemplate> template_;
  PromptConfig config_;
  json::value vllm_;
};

TEST_F(PromptTest, RendersAsTodaysStackDoes) {
  const auto user = [](std::vector<ContentPart> parts) {
    ChatMessage message;
    message.role = "user";
    message.content = std::move(parts);
    return std::vector<ChatMessage>{message};
  };
  const ContentPart image = media_part(ContentPart::Kind::kImage),
                    video = media_part(ContentPart::Kind::kVideo);
  const std::vector<std::pair<std::string, std::vector<ChatMessage>>> cases = {
      {"image_first", user({image, text_part("What is shown?")})},
      {"text_first", user({text_part("What is shown?"), image})},
      {"two_images_between_texts",
       user({text_part("First:"), image, text_part("Second:"), image, text_part("Compare.")})},
      {"video", user({video, text_part("What happens?")})},
      {"video_and_image", user({video, image, text_part("What?")})},
      {"placeholder_typed_by_user", user({text_part("Look: <image> here"), image})},
      {"two_texts", user({text_part("One"), text_part("Two")})},
  };
  const json::value& want = vllm_.at("chat");
  for (const auto& [name, messages] : cases) {
    for (const char* format : {"auto", "openai"}) {
      EXPECT_EQ(render(messages, format), want.at(name).as_string()) << name;
    }
    // A tag that the user typed stands for itself; today's stack leaves it in its place too.
    const std::string forced = name + " (content format forced to string)";
    if (name == "placeholder_typed_by_user") continue;
    EXPECT_EQ(render(messages, "string"), want.at(forced).as_string()) << forced;
  }
  auto plain = user({text_part("Hello")});
  plain[0].content_is_string = true;
  for (const char* format : {"auto", "openai", "string"}) {
    EXPECT_EQ(render(plain, format), want.at("string_content").as_string());
  }
  ChatMessage system;
  system.role = "system";
  system.content = {text_part("/think")};
  system.content_is_string = true;
  plain.insert(plain.begin(), system);
  EXPECT_EQ(render(plain, "auto"), want.at("thinking").as_string());
}

TEST_F(PromptTest, AssistantTurnsAndToolResultsAreText) {
  ChatMessage user, assistant, tool;
  user.role = "user";
  user.content = {text_part("Weather?")};
  assistant.role = "assistant";
  assistant.content = {text_part("I shall look.")};
  assistant.tool_calls = {{"1", "weather", R"({"city": "Bonn"})"}};
  tool.role = "tool";
  tool.content = {text_part("12 degrees"), text_part("rain")};
  const std::string rendered = render({user, assistant, tool}, "auto");
  EXPECT_THAT(rendered, ::testing::HasSubstr("I shall look."));
  EXPECT_THAT(rendered, ::testing::HasSubstr(
                            R"(<TOOLCALL>[{"name": "weather", "arguments": {"city": "Bonn"}}])"));
  EXPECT_THAT(rendered, ::testing::HasSubstr("12 degrees\nrain"));
  Request request;
  request.messages = {user, assistant};
  request.messages[1].tool_calls[0].arguments_json = "{broken";
  const auto refused = render_messages(request, *template_, *tokenizer_, "auto");
  ASSERT_FALSE(refused.ok());
  EXPECT_THAT(refused.error().message, ::testing::HasSubstr("weather"));
}

TEST_F(PromptTest, ContinuesTheLastMessage) {
  ChatMessage user, assistant;
  user.role = "user";
  user.content = {text_part("Count.")};
  assistant.role = "assistant";
  assistant.content = {text_part("One, two,")};
  Request request;
  request.messages = {user, assistant};
  request.add_generation_prompt = false;
  request.continue_final_message = true;
  const auto rendered = render_messages(request, *template_, *tokenizer_, "auto");
  ASSERT_TRUE(rendered.ok()) << rendered.error().message;
  EXPECT_TRUE(rendered->ends_with("One, two,")) << *rendered;
}

TEST_F(PromptTest, KeptRows) {
  const json::value& table = vllm_.at("kept_tokens");
  const auto& sides = table.at("tokens_per_frame").as_array();
  const auto& rates = table.at("rates").as_array();
  const auto& frames = table.at("frames").as_array();
  for (size_t i = 0; i < sides.size(); ++i) {
    for (size_t j = 0; j < rates.size(); ++j) {
      for (size_t k = 0; k < frames.size(); ++k) {
        EXPECT_EQ(num_kept_rows(frames[k].to_number<int64_t>(), sides[i].to_number<int>(),
                                rates[j].to_number<double>()),
                  table.at("kept[tokens][rate][frames]").at(i).at(j).at(k).to_number<int64_t>())
            << sides[i] << " " << rates[j] << " " << frames[k];
      }
    }
  }
}

TEST_F(PromptTest, FrameLabels) {
  for (const json::value& item : vllm_.at("frame_labels").as_array()) {
    std::vector<int64_t> indices;
    for (const json::value& index : item.at("frames_indices").as_array()) {
      indices.push_back(index.to_number<int64_t>());
    }
    for (const bool newline : {true, false}) {
      config_.video_style = newline ? VideoPromptStyle::kVx : VideoPromptStyle::kVb;
      const auto prompt = build("<video>", {clip(indices, item.at("fps").to_number<double>(), 0)});
      ASSERT_TRUE(prompt.ok());
      std::string labels;
      for (const auto& ids : prompt->media[0].frame_labels)
        labels += tokenizer_->decode(ids, false);
      std::string want(item.at("text").as_string());
      if (!newline) std::erase(want, '\n');
      EXPECT_EQ(labels, want) << "fps " << item.at("fps");
    }
  }
}

TEST_F(PromptTest, PicturesAndClipsBecomeTheSameIds) {
  config_.video_style = VideoPromptStyle::kVx;
  for (const json::value& item : vllm_.at("several_images").as_array()) {
    std::vector<PreparedMedia> media;
    for (const json::value& tiles : item.at("tiles").as_array()) {
      media.push_back(picture(tiles.to_number<int>()));
    }
    const auto prompt = build(std::string(item.at("prompt").as_string()), media);
    ASSERT_TRUE(prompt.ok()) << prompt.error().message;
    EXPECT_EQ(prompt->token_ids, unpack(item.at("prompt_ids")));
    EXPECT_EQ(prompt->usage.prompt_tokens, std::ssize(prompt->token_ids));
    for (const MediaSpan& span : prompt->media) {
      EXPECT_EQ(span.num_rows, span.length - 2);
      EXPECT_EQ(prompt->token_ids[span.begin], config_.image_start_id);
      EXPECT_EQ(prompt->token_ids[span.begin + span.length - 1], config_.image_end_id);
    }
  }
  for (const json::value& item : vllm_.at("two_videos").as_array()) {
    std::vector<PreparedMedia> media;
    for (size_t i = 0; i < 2; ++i) {
      std::vector<int64_t> indices;
      for (const json::value& index : item.at("frames_indices").at(i).as_array()) {
        indices.push_back(index.to_number<int64_t>());
      }
      const json::value& rate = item.at("video_pruning_rate");
      media.push_back(clip(indices, item.at("fps").at(i).to_number<double>(),
                           rate.is_null() ? 0 : rate.to_number<double>()));
    }
    const auto prompt = build(std::string(item.at("prompt").as_string()), media);
    ASSERT_TRUE(prompt.ok()) << prompt.error().message;
    EXPECT_EQ(prompt->token_ids, unpack(item.at("prompt_ids")));
  }
}

TEST_F(PromptTest, SpansOnceTheKeptRowsAreKnown) {
  config_.video_style = VideoPromptStyle::kVx;
  for (const json::value& item : vllm_.at("span_with_known_counts").as_array()) {
    std::vector<int64_t> indices, rows;
    for (const json::value& index : item.at("frames_indices").as_array()) {
      indices.push_back(index.to_number<int64_t>());
    }
    for (const json::value& count : item.at("tokens_per_frame").as_array()) {
      rows.push_back(count.to_number<int64_t>());
    }
    const double fps = item.at("fps").is_null() ? 0 : item.at("fps").to_number<double>();
    const auto prompt = build("<video>", {clip(indices, fps, 0.5)});
    ASSERT_TRUE(prompt.ok());
    EXPECT_EQ(layout_video_span(prompt->media[0], rows, config_), unpack(item.at("ids")));
  }
}

TEST_F(PromptTest, LengthIsKnownBeforeTheLayoutIs) {
  config_.video_style = VideoPromptStyle::kTrtllm;
  const auto prompt = build("a <video> b", {clip({0, 15, 30, 45, 60}, 30, 0.6)});
  ASSERT_TRUE(prompt.ok());
  const MediaSpan& span = prompt->media[0];
  EXPECT_EQ(span.num_rows, num_kept_rows(5, kTokensPerTile, 0.6));
  for (const std::vector<int64_t>& rows :
       {std::vector<int64_t>{16, 16, 0, 0, 0}, {16, 4, 4, 4, 4}, {16, 0, 0, 0, 16}}) {
    EXPECT_EQ(std::ssize(layout_video_span(span, rows, config_)), span.length);
  }
  EXPECT_EQ(tokenizer_->decode(span.frame_labels[0], false),
            "This is a video:\nFrame 1 sampled at 0.00 seconds: ");
  EXPECT_EQ(prompt->usage.video_tokens, span.length);
}

TEST_F(PromptTest, PlaceholdersAndMediaMustAgree) {
  const auto refuse = [&](const std::string& text, std::vector<PreparedMedia> media) {
    const auto prompt = build(text, std::move(media));
    ASSERT_FALSE(prompt.ok()) << text;
    EXPECT_EQ(prompt.error().code, ErrorCode::kInvalidArgument);
  };
  refuse("no tag", {picture(1)});
  refuse("<image><image>", {picture(1)});
  refuse("<image>", {});
  refuse("<image>", {clip({0}, 1, 0)});
  refuse("<video><image>", {picture(1), picture(1)});
  EXPECT_TRUE(build("<video><image>", {picture(1), clip({0}, 1, 0)}).ok());
}

}  // namespace
}  // namespace videre
