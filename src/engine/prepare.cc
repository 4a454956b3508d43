#include "engine/prepare.h"

#include <xxhash.h>

#include <algorithm>
#include <cstdlib>
#include <random>

#include "base/error.h"
#include "base/log.h"
#include "media/frame_sampling.h"

namespace videre {
namespace {

constexpr int64_t kDefaultNumFrames = 32;  // of the loader when neither side names one
constexpr int64_t kMaxFrames = 2048;
constexpr size_t kLongestTokenBytes = 256;  // more bytes than this a token: no need to count them

std::string hash_hex(uint64_t seed, std::span<const uint8_t> bytes, const std::string& options) {
  XXH3_state_t* state = XXH3_createState();
  XXH3_128bits_reset_withSeed(state, seed);
  XXH3_128bits_update(state, options.data(), options.size());
  const uint64_t size = bytes.size();
  XXH3_128bits_update(state, &size, sizeof(size));
  XXH3_128bits_update(state, bytes.data(), bytes.size());
  const XXH128_hash_t hash = XXH3_128bits_digest(state);
  XXH3_freeState(state);
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

// The request's words over the server's. Giving one of fps and num_frames drops the server's other.
MediaIoOptions merge(MediaIoOptions base, const MediaIoOptions& over) {
  if (over.fps || over.num_frames) {
    base.fps = over.fps;
    base.num_frames = over.num_frames;
  }
  const auto take = [](auto& to, const auto& from) {
    if (from) to = from;
  };
  take(base.video_backend, over.video_backend);
  take(base.max_duration_s, over.max_duration_s);
  take(base.frame_recovery, over.frame_recovery);
  take(base.frames_indices, over.frames_indices);
  take(base.total_num_frames, over.total_num_frames);
  take(base.duration_s, over.duration_s);
  take(base.do_sample_frames, over.do_sample_frames);
  take(base.rgba_background_color, over.rgba_background_color);
  take(base.exif_transpose, over.exif_transpose);
  return base;
}

ImageOptions image_options(const MediaIoOptions& io, int64_t max_pixels) {
  ImageOptions out;
  if (io.rgba_background_color) out.rgba_background_color = *io.rgba_background_color;
  out.exif_transpose = io.exif_transpose.value_or(true);
  out.max_pixels = max_pixels;
  return out;
}

VideoOptions video_options(const MediaIoOptions& io, const ImageOptions& image, int tile_size,
                           int64_t max_frames) {
  VideoOptions out;
  out.fps = io.fps.value_or(-1);
  out.num_frames = io.num_frames.value_or(kDefaultNumFrames);
  if (io.video_backend) out.backend = *io.video_backend;
  if (io.max_duration_s) out.max_duration_s = *io.max_duration_s;
  out.frame_recovery = io.frame_recovery.value_or(false);
  out.frames_indices = io.frames_indices;
  out.total_num_frames = io.total_num_frames;
  out.duration = io.duration_s;
  out.do_sample_frames = io.do_sample_frames;
  out.tile_size = tile_size;
  out.max_frames = max_frames;
  out.image = image;
  return out;
}

std::string describe(const MediaIoOptions& io) {
  std::string out;
  const auto add = [&](const char* name, const auto& value) {
    if (value) out += fmt::format("{}={};", name, *value);
  };
  add("fps", io.fps);
  add("n", io.num_frames);
  add("backend", io.video_backend);
  add("max_s", io.max_duration_s);
  add("recover", io.frame_recovery);
  add("total", io.total_num_frames);
  add("dur", io.duration_s);
  add("sample", io.do_sample_frames);
  add("exif", io.exif_transpose);
  if (io.frames_indices) {
    for (const int64_t index : *io.frames_indices) out += fmt::format("{},", index);
  }
  if (io.rgba_background_color) {
    for (const uint8_t part : *io.rgba_background_color) out += fmt::format("{},", part);
  }
  return out;
}

int64_t media_bytes(const PreparedMedia& media) {
  return static_cast<int64_t>(media.tiles->data.size()) +
         static_cast<int64_t>(media.frames_indices.size() * 16) + 512;
}

int64_t max_image_pixels() {
  for (const char* name : {"VIDERE_MAX_IMAGE_PIXELS", "VLLM_MAX_IMAGE_PIXELS"}) {
    const char* text = std::getenv(name);
    if (!text || !*text) continue;
    char* end = nullptr;
    const long long value = std::strtoll(text, &end, 10);
    if (*end == '\0' && value >= 0) return value == 0 ? INT64_MAX : value;
    log_warning("{} is \"{}\"; a number of pixels is expected; the default holds", name, text);
  }
  return ImageOptions().max_pixels;
}

const char* kind_name(ContentPart::Kind kind) {
  return kind == ContentPart::Kind::kVideo ? "video" : "image";
}

}  // namespace

// --- TaskPool ------------------------------------------------------------------------------------

TaskPool::TaskPool(int num_threads) {
  for (int i = 0; i < std::max(1, num_threads); ++i) threads_.emplace_back([this] { work(); });
}

TaskPool::~TaskPool() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void TaskPool::post(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
  }
  wake_.notify_one();
}

void TaskPool::work() {
  for (;;) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return stop_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      task = std::move(tasks_.front());
      tasks_.pop_front();
    }
    task();
  }
}

void TaskPool::for_each(int count, const std::function<void(int)>& fn) {
  struct Shared {
    std::function<void(int)> fn;
    int count;
    std::atomic<int> next{0};
    std::mutex mutex;
    std::condition_variable all_done;
    int num_done = 0;
    void run() {
      for (int i; (i = next.fetch_add(1)) < count;) {
        fn(i);
        const std::lock_guard lock(mutex);
        if (++num_done == count) all_done.notify_all();
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->fn = fn;
  shared->count = count;
  for (int i = 1; i < count; ++i) post([shared] { shared->run(); });
  shared->run();  // whatever no thread was free for
  std::unique_lock lock(shared->mutex);
  shared->all_done.wait(lock, [&] { return shared->num_done == shared->count; });
}

// --- Preparer ------------------------------------------------------------------------------------

Preparer::Preparer(const LoadedModel& loaded, const EngineOptions& options, int64_t max_model_len,
                   int64_t max_item_rows, TaskPool* pool, std::unique_ptr<Fetcher> fetcher)
    : loaded_(loaded),
      options_(options),
      max_model_len_(max_model_len),
      max_item_rows_(max_item_rows),
      pool_(pool),
      fetcher_(std::move(fetcher)),
      max_image_pixels_(max_image_pixels()) {
  std::random_device random;
  hash_seed_ = (static_cast<uint64_t>(random()) << 32) | random();
}

Status Preparer::check(const Request& request, bool template_only) const {
  const int num_prompts = static_cast<int>(!request.messages.empty()) +
                          static_cast<int>(request.prompt.has_value()) +
                          static_cast<int>(request.prompt_token_ids.has_value());
  if (num_prompts != 1) {
    return invalid_argument("messages",
                            "a request needs messages, a prompt or prompt_token_ids, "
                            "exactly one of them; this one has {}",
                            num_prompts);
  }
  if (request.add_generation_prompt && request.continue_final_message) {
    return invalid_argument("continue_final_message",
                            "continue_final_message and add_generation_prompt exclude each other");
  }
  const int vocab = loaded_.info.vocab_size;
  if (request.prompt_token_ids) {
    if (request.prompt_token_ids->empty()) return invalid_argument("prompt", "the prompt is empty");
    for (const int32_t id : *request.prompt_token_ids) {
      if (id < 0 || id >= vocab) {
        return invalid_argument("prompt", "the prompt holds token {}; ids are 0 to {}", id,
                                vocab - 1);
      }
    }
  }
  if (!template_only) {
    VIDERE_RETURN_IF_ERROR(check_sampling(request.sampling, vocab, options_.max_logprobs));
  }
  if (request.priority != 0) {
    return invalid_argument("priority",
                            "priority is {}; this server takes requests first come, "
                            "first served, so it must be 0",
                            request.priority);
  }
  const auto& rate = request.processor.video_pruning_rate;
  if (rate && !(*rate >= 0 && *rate < 1)) {
    return invalid_argument("mm_processor_kwargs.video_pruning_rate",
                            "video_pruning_rate is {}; it must lie in [0, 1)", *rate);
  }
  const auto& tiles = request.processor.max_num_tiles;
  if (tiles && (*tiles < 1 || *tiles > 64)) {
    return invalid_argument("mm_processor_kwargs.max_num_tiles",
                            "max_num_tiles is {}; it must lie in 1 to 64", *tiles);
  }
  std::map<std::string, int> counts;
  for (const ContentPart* part : media_parts(request)) {
    ++counts[kind_name(part->kind)];
    if (part->media.placeholder() && part->media.uuid.empty() && !template_only) {
      return invalid_argument("messages", "a part of type \"{}\" brings no {}; give a URL",
                              kind_name(part->kind), kind_name(part->kind));
    }
  }
  for (const auto& [kind, count] : counts) {
    const auto limit = options_.limit_mm_per_prompt.find(kind);
    const int most = options_.language_model_only                  ? 0
                     : limit != options_.limit_mm_per_prompt.end() ? limit->second
                                                                   : INT32_MAX;
    if (count > most && !template_only) {
      return invalid_argument("messages",
                              "the request has {} {} item{}; at most {} may be provided "
                              "(--limit-mm-per-prompt)",
                              count, kind, count == 1 ? "" : "s", most);
    }
  }
  return {};
}

Result<std::string> Preparer::render(const Request& request) const {
  if (request.prompt) return *request.prompt;
  const PromptTags tags{loaded_.prompt_config.image_token, loaded_.prompt_config.video_token};
  if (!request.chat_template.empty()) {
    VIDERE_ASSIGN_OR_RETURN(const ChatTemplate own,
                            ChatTemplate::parse(request.chat_template, "chat_template"));
    return render_messages(request, own, *loaded_.tokenizer, options_.chat_template_content_format,
                           tags);
  }
  if (!loaded_.chat_template) {
    return invalid_argument("messages",
                            "the model has no chat template; start with "
                            "--chat-template FILE");
  }
  return render_messages(request, *loaded_.chat_template, *loaded_.tokenizer,
                         options_.chat_template_content_format, tags);
}

Result<std::shared_ptr<const Prompt>> Preparer::prepare(const Request& request,
                                                        const std::atomic<bool>* cancel) {
  VIDERE_RETURN_IF_ERROR(check(request, false));
  auto prompt = std::make_shared<Prompt>();
  if (request.prompt_token_ids) {
    prompt->token_ids = *request.prompt_token_ids;
    prompt->usage.prompt_tokens = static_cast<int64_t>(prompt->token_ids.size());
    prompt->usage.text_tokens = prompt->usage.prompt_tokens;
    if (std::count(prompt->token_ids.begin(), prompt->token_ids.end(),
                   loaded_.prompt_config.image_token_id) > 0) {
      return invalid_argument("prompt",
                              "the prompt holds the image token's id, for which it brings "
                              "no picture; send messages or a text prompt with media");
    }
    VIDERE_RETURN_IF_ERROR(check_length(request, *prompt));
    return std::shared_ptr<const Prompt>(std::move(prompt));
  }
  // The text first: it is cheap, and its mistakes need no media to show.
  VIDERE_ASSIGN_OR_RETURN(std::string rendered, render(request));
  if (rendered.size() > static_cast<size_t>(max_model_len_) * kLongestTokenBytes) {
    return invalid_argument("input_text",
                            "this model's maximum context length is {} tokens, but the prompt has "
                            "{} characters; shorten it",
                            max_model_len_, rendered.size());
  }
  const std::vector<const ContentPart*> parts = media_parts(request);
  std::vector<PreparedMedia> media(parts.size());
  std::vector<Status> results(parts.size());
  pool_->for_each(static_cast<int>(parts.size()), [&](int i) {
    auto prepared = prepare_media(request, *parts[i], cancel);
    if (prepared.ok()) {
      media[i] = std::move(*prepared);
      return;
    }
    Error error = prepared.error();
    if (error.param.empty()) error.param = fmt::format("{}_url", kind_name(parts[i]->kind));
    if (parts.size() > 1) {
      error.message = fmt::format("item {} of {}: {}", i + 1, parts.size(), error.message);
    }
    results[i] = std::move(error);
  });
  for (const Status& result : results) VIDERE_RETURN_IF_ERROR(result);
  if (cancel && cancel->load()) return make_error(ErrorCode::kCancelled, "", "cancelled");
  VIDERE_ASSIGN_OR_RETURN(*prompt,
                          build_prompt(std::move(rendered), std::move(media), *loaded_.tokenizer,
                                       loaded_.prompt_config, request.add_special_tokens));
  VIDERE_RETURN_IF_ERROR(check_length(request, *prompt));
  return std::shared_ptr<const Prompt>(std::move(prompt));
}

Status Preparer::check_length(const Request& request, const Prompt& prompt) const {
  const Usage& usage = prompt.usage;
  if (usage.prompt_tokens == 0) return invalid_argument("messages", "the prompt is empty");
  const int64_t wanted = request.sampling.max_tokens.value_or(0);
  if (usage.text_tokens + wanted > max_model_len_) {
    return invalid_argument(
        "input_tokens",
        "this model's maximum context length is {} tokens; {} output tokens "
        "were requested and the prompt contains at least {} input tokens, {} in "
        "all; shorten the prompt or ask for fewer",
        max_model_len_, wanted, usage.text_tokens, usage.text_tokens + wanted);
  }
  for (const MediaSpan& span : prompt.media) {
    if (span.num_rows <= max_item_rows_ || usage.prompt_tokens >= max_model_len_) continue;
    return invalid_argument("messages",
                            "one {} makes {} tokens; the encoder cache holds {} "
                            "(--encoder-cache-gb)",
                            kind_name(span.media.kind), span.num_rows, max_item_rows_);
  }
  if (usage.prompt_tokens < max_model_len_) return {};
  return invalid_argument(
      "input_tokens",
      "this model's maximum context length is {} tokens, but the prompt has {} input tokens, "
      "multimodal tokens counted ({} text, {} image, {} video), which leaves no room for an "
      "answer; "
      "shorten it, lower max_num_tiles or num_frames, or raise video_pruning_rate",
      max_model_len_, usage.prompt_tokens, usage.text_tokens, usage.image_tokens,
      usage.video_tokens);
}

Result<PreparedMedia> Preparer::prepare_media(const Request& request, const ContentPart& part,
                                              const std::atomic<bool>* cancel) {
  const bool video = part.kind == ContentPart::Kind::kVideo;
  const MediaItem& item = part.media;
  const std::string options = fmt::format(
      "{}|{}|{}|{}|", kind_name(part.kind), request.cache_salt,
      describe(merge(options_.media_io, request.media_io)),
      video
          ? 0
          : request.processor.max_num_tiles.value_or(options_.processor.max_num_tiles.value_or(0)));
  const auto finished = [&](PreparedMedia media, const std::string& key) {
    media.pruning_rate =
        video ? request.processor.video_pruning_rate.value_or(
                    options_.processor.video_pruning_rate.value_or(options_.video_pruning_rate))
              : 0.0;
    media.content_key = fmt::format("{}|{}", key, media.pruning_rate);
    return media;
  };
  PreparedMedia media;
  std::string key;
  if (!item.uuid.empty()) {
    // A key of the caller's own choice: its bytes may be left out once they are known.
    key = hash_hex(hash_seed_,
                   std::span(reinterpret_cast<const uint8_t*>(item.uuid.data()), item.uuid.size()),
                   "uuid|" + options);
    if (find_cached(key, media)) return finished(std::move(media), key);
    if (item.placeholder()) {
      return invalid_argument("messages",
                              "uuid \"{}\" is not known here (any more); send the {} with it",
                              item.uuid, kind_name(part.kind));
    }
  }
  if (item.frames) {
    const RgbFrames& frames = *item.frames;
    if (key.empty()) {
      std::string shape = fmt::format("frames|{}x{}x{}|{}|", frames.num_frames, frames.height,
                                      frames.width, frames.fps);
      for (const int64_t index : frames.frames_indices) shape += fmt::format("{},", index);
      key = hash_hex(hash_seed_, frames.pixels(), options + shape);
      if (find_cached(key, media)) return finished(std::move(media), key);
    }
    VIDERE_ASSIGN_OR_RETURN(media, from_frames(request, part));
  } else {
    MediaBytes bytes;
    if (item.bytes) {
      bytes = MediaBytes(item.bytes, *item.bytes);
    } else {
      VIDERE_ASSIGN_OR_RETURN(
          bytes, fetcher_->fetch(item.url, video ? MediaKind::kVideo : MediaKind::kImage, cancel));
    }
    if (key.empty()) {
      key = hash_hex(hash_seed_, bytes.bytes(), options + bytes.mime);
      if (find_cached(key, media)) return finished(std::move(media), key);
    }
    VIDERE_ASSIGN_OR_RETURN(media, decode(request, part, bytes, cancel));
  }
  keep_cached(key, media);
  return finished(std::move(media), key);
}

Result<PreparedMedia> Preparer::decode(const Request& request, const ContentPart& part,
                                       const MediaBytes& bytes,
                                       const std::atomic<bool>* cancel) const {
  const MediaIoOptions io = merge(options_.media_io, request.media_io);
  const ImageOptions image = image_options(io, max_image_pixels_);
  const PromptConfig& config = loaded_.prompt_config;
  PreparedMedia media;
  media.kind = part.kind;
  if (part.kind == ContentPart::Kind::kImage) {
    VIDERE_ASSIGN_OR_RETURN(const Image decoded, decode_image(bytes.bytes(), image));
    TileOptions tiles;
    tiles.tile_size = config.tile_size;
    tiles.max_num_tiles = request.processor.max_num_tiles.value_or(
        options_.processor.max_num_tiles.value_or(config.max_num_tiles));
    tiles.use_thumbnail = config.use_thumbnail;
    media.width = decoded.width;
    media.height = decoded.height;
    media.grid = choose_grid(decoded.width, decoded.height, tiles);
    media.tiles = std::make_shared<PixelTiles>(make_tiles(decoded, tiles));
    return media;
  }
  const int64_t max_frames = std::min(kMaxFrames, std::max<int64_t>(1, max_model_len_));
  VIDERE_ASSIGN_OR_RETURN(
      SampledVideo decoded,
      decode_video(bytes, video_options(io, image, config.tile_size, max_frames), cancel, {}));
  media.width = decoded.width;
  media.height = decoded.height;
  media.tiles = std::make_shared<PixelTiles>(std::move(decoded.frames));
  media.frames_indices = std::move(decoded.frames_indices);
  media.timestamps = frame_timestamps(media.frames_indices, decoded.fps);
  media.fps = decoded.fps;
  media.duration_s = decoded.duration;
  return media;
}

Result<PreparedMedia> Preparer::from_frames(const Request& request, const ContentPart& part) const {
  const RgbFrames& frames = *part.media.frames;
  const bool video = part.kind == ContentPart::Kind::kVideo;
  const int64_t pixels = int64_t{frames.height} * frames.width;
  const std::span<const uint8_t> rgb = frames.pixels();
  if (frames.num_frames < 1 || frames.height < 1 || frames.width < 1 ||
      frames.num_frames > kMaxFrames || pixels > max_image_pixels_ ||
      static_cast<int64_t>(rgb.size()) != frames.num_frames * pixels * 3) {
    return invalid_argument("multi_modal_data",
                            "decoded frames are {} x {} x {} x 3 with {} bytes; sizes must agree",
                            frames.num_frames, frames.height, frames.width, rgb.size());
  }
  if (video && static_cast<int64_t>(frames.frames_indices.size()) != frames.num_frames) {
    return invalid_argument("multi_modal_data",
                            "a clip of {} frames has {} frames_indices; one a frame is expected",
                            frames.num_frames, frames.frames_indices.size());
  }
  if (!video && frames.num_frames != 1) {
    return invalid_argument("multi_modal_data", "a picture has {} frames; one is expected",
                            frames.num_frames);
  }
  const PromptConfig& config = loaded_.prompt_config;
  PreparedMedia media;
  media.kind = part.kind;
  media.width = frames.width;
  media.height = frames.height;
  PixelTiles tiles;
  tiles.tile_size = config.tile_size;
  for (int64_t i = 0; i < frames.num_frames; ++i) {
    Image image;
    image.width = frames.width;
    image.height = frames.height;
    image.rgb.assign(rgb.begin() + i * pixels * 3, rgb.begin() + (i + 1) * pixels * 3);
    if (video) {
      append_frame_tile(tiles, image);
      continue;
    }
    TileOptions options{config.tile_size,
                        request.processor.max_num_tiles.value_or(
                            options_.processor.max_num_tiles.value_or(config.max_num_tiles)),
                        config.use_thumbnail};
    media.grid = choose_grid(image.width, image.height, options);
    tiles = make_tiles(image, options);
  }
  media.tiles = std::make_shared<PixelTiles>(std::move(tiles));
  if (video) {
    media.frames_indices = frames.frames_indices;
    media.fps = frames.fps;
    media.timestamps = frame_timestamps(media.frames_indices, frames.fps);
    media.duration_s = frames.duration_s.value_or(0);
  }
  return media;
}

bool Preparer::find_cached(const std::string& key, PreparedMedia& media) {
  const std::lock_guard lock(cache_mutex_);
  const auto found = cache_.find(key);
  if (found == cache_.end()) return false;
  oldest_first_.splice(oldest_first_.end(), oldest_first_, found->second.place);
  media = found->second.media;
  return true;
}

void Preparer::reset_cache() {
  const std::lock_guard lock(cache_mutex_);
  cache_.clear();
  oldest_first_.clear();
  cache_bytes_ = 0;
}

void Preparer::keep_cached(const std::string& key, const PreparedMedia& media) {
  const int64_t room = static_cast<int64_t>(options_.mm_processor_cache_gb * (1 << 30));
  const int64_t bytes = media_bytes(media);
  const std::lock_guard lock(cache_mutex_);
  if (bytes > room || cache_.count(key)) return;
  while (cache_bytes_ + bytes > room) {
    const auto oldest = cache_.find(oldest_first_.front());
    cache_bytes_ -= media_bytes(oldest->second.media);
    cache_.erase(oldest);
    oldest_first_.pop_front();
  }
  cache_.emplace(key, Cached{media, oldest_first_.insert(oldest_first_.end(), key)});
  cache_bytes_ += bytes;
}

}  // namespace videre
