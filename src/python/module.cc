// The native half of the Python package: engine, requests and media as thin objects. What scripts
// see is in python/videre. The GIL is let go during all work, and no thread of the engine takes it.
#include <malloc.h>
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <condition_variable>
#include <cstring>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "python/options.h"
#include "python/reader.h"
#include "server/openai_types.h"

namespace nb = nanobind;

namespace videre {
namespace {

using Array = nb::ndarray<nb::ro>;

// --- Errors --------------------------------------------------------------------------------------

const char* code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return "invalid_argument";
    case ErrorCode::kNotFound:
      return "not_found";
    case ErrorCode::kForbidden:
      return "forbidden";
    case ErrorCode::kTooLarge:
      return "too_large";
    case ErrorCode::kOverloaded:
      return "overloaded";
    case ErrorCode::kUnavailable:
      return "unavailable";
    case ErrorCode::kInvalidModel:
      return "invalid_model";
    case ErrorCode::kOutOfMemory:
      return "out_of_memory";
    case ErrorCode::kUnsupported:
      return "unsupported";
    case ErrorCode::kCancelled:
      return "cancelled";
    case ErrorCode::kInternal:
      return "internal";
  }
  return "internal";
}

nb::object python_error(const Error& error) {
  return nb::module_::import_("videre._errors")
      .attr("make_error")(code_name(error.code), error.message, error.param);
}

[[noreturn]] void raise(const Error& error) {
  const nb::object exception = python_error(error);
  PyErr_SetObject(exception.type().ptr(), exception.ptr());
  throw nb::python_error();
}

template <typename T>
T value_or_raise(Result<T> result) {
  if (!result.ok()) raise(result.error());
  return std::move(result).value();
}

void check_signals() {
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// Runs `work` on a thread of its own, so that Ctrl-C is answered at once: the thread then finishes
// by itself and its result is dropped.
template <typename T>
T interruptible(std::function<Result<T>()> work) {
  struct Shared {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<T>> result;
  };
  auto shared = std::make_shared<Shared>();
  {
    const nb::gil_scoped_release free;
    std::thread([shared, work = std::move(work)] {
      auto result = work();
      const std::lock_guard lock(shared->mutex);
      shared->result.emplace(std::move(result));
      shared->done.notify_all();
    }).detach();
  }
  for (;;) {
    bool ready;
    {
      const nb::gil_scoped_release free;
      std::unique_lock lock(shared->mutex);
      ready = shared->done.wait_for(lock, std::chrono::milliseconds(50),
                                    [&] { return shared->result.has_value(); });
    }
    if (ready) return value_or_raise(std::move(*shared->result));
    check_signals();
  }
}

// --- Media ---------------------------------------------------------------------------------------

// Arrays whose pixels the engine has read. Its threads drop them here, without the GIL; Python's
// main thread, or the next call that holds it, lets them go.
class Dropped {
 public:
  void add(Array* array) {
    bool first;
    {
      const std::lock_guard lock(mutex_);
      first = arrays_.empty();
      arrays_.push_back(array);
    }
    if (first && Py_IsInitialized()) Py_AddPendingCall(&clear_pending, this);
  }
  void clear() {
    std::vector<Array*> arrays;
    {
      const std::lock_guard lock(mutex_);
      arrays.swap(arrays_);
    }
    for (Array* array : arrays) delete array;
  }

 private:
  static int clear_pending(void* self) {
    static_cast<Dropped*>(self)->clear();
    return 0;
  }

  std::mutex mutex_;
  std::vector<Array*> arrays_;
};

Dropped& dropped() {
  static auto* const all = new Dropped;  // engine threads may outlive static objects
  return *all;
}

struct Media {
  ContentPart part;
};

std::string shape_of(const Array& array) {
  std::string out = "(";
  for (size_t i = 0; i < array.ndim(); ++i) {
    out += fmt::format("{}{}", i ? ", " : "", array.shape(i));
  }
  return out + (array.ndim() == 1 ? ",)" : ")");
}

std::string dtype_of(const Array& array) {
  const auto dtype = array.dtype();
  const char* kind = "bits";
  switch (static_cast<nb::dlpack::dtype_code>(dtype.code)) {
    case nb::dlpack::dtype_code::Int:
      kind = "int";
      break;
    case nb::dlpack::dtype_code::UInt:
      kind = "uint";
      break;
    case nb::dlpack::dtype_code::Float:
      kind = "float";
      break;
    case nb::dlpack::dtype_code::Bfloat:
      kind = "bfloat";
      break;
    case nb::dlpack::dtype_code::Complex:
      kind = "complex";
      break;
    case nb::dlpack::dtype_code::Bool:
      return "bool";
    default:
      break;
  }
  return fmt::format("{}{}", kind, static_cast<int>(dtype.bits));
}

// Where pixels lie: bytes from `data`, strides in elements of one byte.
struct Layout {
  const uint8_t* data;
  int64_t num_frames, height, width;
  int64_t frame_stride, row_stride, column_stride, channel_stride;

  bool contiguous() const {
    return channel_stride == 1 && column_stride == 3 && row_stride == width * 3 &&
           (num_frames == 1 || frame_stride == height * width * 3);
  }
  void copy_to(uint8_t* out) const {
    for (int64_t f = 0; f < num_frames; ++f) {
      for (int64_t y = 0; y < height; ++y) {
        const uint8_t* row = data + f * frame_stride + y * row_stride;
        if (column_stride == 3 && channel_stride == 1) {
          std::memcpy(out, row, static_cast<size_t>(width) * 3);
          out += width * 3;
          continue;
        }
        for (int64_t x = 0; x < width; ++x) {
          for (int64_t c = 0; c < 3; ++c) *out++ = row[x * column_stride + c * channel_stride];
        }
      }
    }
  }
};

constexpr int64_t kMaxSide = 65500;

// [.., H, W, 3] or [.., 3, H, W]; a clip has frames in front.
Result<Layout> layout_of(const Array& array, bool clip) {
  const char* what = clip ? "video" : "image";
  if (array.device_type() != nb::device::cpu::value) {
    return invalid_argument(what, "{}: the array lies on another device; move it to the CPU first",
                            what);
  }
  if (array.dtype() != nb::dtype<uint8_t>()) {
    return invalid_argument(what, "{}: the array's dtype is {}; expected uint8, 0 to 255", what,
                            dtype_of(array));
  }
  const size_t ndim = clip ? 4 : 3;
  const auto refuse = [&] {
    return invalid_argument(what, "{}: the array's shape is {}; expected {}", what, shape_of(array),
                            clip ? "[frames, height, width, 3] or [frames, 3, height, width]"
                                 : "[height, width, 3] or [3, height, width]");
  };
  if (array.ndim() != ndim) return refuse();
  const size_t f = clip ? 1 : 0;  // first of the picture's own axes
  const bool last = array.shape(f + 2) == 3, first = array.shape(f) == 3;
  if (!last && !first) return refuse();
  const size_t h = last ? f : f + 1, w = h + 1, c = last ? f + 2 : f;
  Layout out{static_cast<const uint8_t*>(array.data()),
             clip ? static_cast<int64_t>(array.shape(0)) : 1,
             static_cast<int64_t>(array.shape(h)),
             static_cast<int64_t>(array.shape(w)),
             clip ? array.stride(0) : 0,
             array.stride(h),
             array.stride(w),
             array.stride(c)};
  if (out.num_frames < 1 || out.height < 1 || out.width < 1 || out.height > kMaxSide ||
      out.width > kMaxSide) {
    return refuse();
  }
  return out;
}

Array array_of(nb::handle object, const char* what) {
  Array array;
  if (!nb::try_cast<Array>(object, array, false)) {
    raise(invalid_argument(what,
                           "{}: an object of type {} is no array; expected uint8 pixels as a numpy "
                           "array, a tensor on the CPU, or a PIL image",
                           what, nb::cast<std::string>(nb::str(object.type().attr("__name__")))));
  }
  return array;
}

// One array is borrowed as it is when its pixels lie in order, else copied once.
void set_pixels(RgbFrames& frames, nb::handle object, bool clip,
                const std::optional<std::vector<int64_t>>& size) {
  const char* what = clip ? "video" : "image";
  Array array = array_of(object, what);
  Layout layout;
  if (size) {  // bytes of a picture, as PIL gives them
    layout = {static_cast<const uint8_t*>(array.data()),
              1,
              size->at(0),
              size->at(1),
              0,
              size->at(1) * 3,
              3,
              1};
    if (static_cast<int64_t>(array.nbytes()) != size->at(0) * size->at(1) * 3) {
      raise(invalid_argument(what, "{}: {} bytes of pixels; expected {} x {} x 3", what,
                             array.nbytes(), size->at(0), size->at(1)));
    }
  } else {
    layout = value_or_raise(layout_of(array, clip));
  }
  frames.num_frames = layout.num_frames;
  frames.height = static_cast<int>(layout.height);
  frames.width = static_cast<int>(layout.width);
  if (layout.contiguous()) {
    auto* kept = new Array(std::move(array));
    frames.borrowed = {layout.data, [kept](const uint8_t*) { dropped().add(kept); }};
    return;
  }
  const nb::gil_scoped_release free;
  frames.rgb.resize(static_cast<size_t>(layout.num_frames * layout.height * layout.width * 3));
  layout.copy_to(frames.rgb.data());
}

// A clip as a list of pictures, each an array or (bytes, height, width).
void gather_pixels(RgbFrames& frames, const nb::sequence& list) {
  const size_t count = nb::len(list);
  if (count == 0) raise(invalid_argument("video", "video: the clip has no frames"));
  for (size_t i = 0; i < count; ++i) {
    RgbFrames one;
    nb::object item = list[i];
    if (nb::isinstance<nb::tuple>(item)) {
      set_pixels(one, item[0], false,
                 std::vector{nb::cast<int64_t>(item[1]), nb::cast<int64_t>(item[2])});
    } else {
      set_pixels(one, item, false, std::nullopt);
    }
    if (i == 0) {
      frames.height = one.height;
      frames.width = one.width;
      frames.rgb.reserve(count * one.pixels().size());
    } else if (one.height != frames.height || one.width != frames.width) {
      raise(invalid_argument("video",
                             "video: frame {} is {} x {} and frame 0 is {} x {}; all frames of a "
                             "clip must have one size",
                             i, one.width, one.height, frames.width, frames.height));
    }
    const auto pixels = one.pixels();
    frames.rgb.insert(frames.rgb.end(), pixels.begin(), pixels.end());
  }
  frames.num_frames = static_cast<int64_t>(count);
}

Media image_media(nb::handle object, std::optional<std::vector<int64_t>> size, std::string uuid) {
  dropped().clear();
  auto frames = std::make_shared<RgbFrames>();
  set_pixels(*frames, object, false, size);
  Media media;
  media.part.kind = ContentPart::Kind::kImage;
  media.part.media.frames = std::move(frames);
  media.part.media.uuid = std::move(uuid);
  return media;
}

Media video_media(nb::handle object, std::vector<int64_t> frames_indices, double fps,
                  std::optional<double> duration_s, std::optional<int64_t> total_num_frames,
                  std::string uuid) {
  dropped().clear();
  auto frames = std::make_shared<RgbFrames>();
  if (nb::isinstance<nb::list>(object) || nb::isinstance<nb::tuple>(object)) {
    gather_pixels(*frames, nb::cast<nb::sequence>(object));
  } else {
    set_pixels(*frames, object, true, std::nullopt);
  }
  frames->fps = fps;
  frames->frames_indices = std::move(frames_indices);
  frames->duration_s = duration_s;
  frames->total_num_frames = total_num_frames;
  Media media;
  media.part.kind = ContentPart::Kind::kVideo;
  media.part.media.frames = std::move(frames);
  media.part.media.uuid = std::move(uuid);
  return media;
}

ContentPart::Kind kind_of(const std::string& kind) {
  return kind == "video" ? ContentPart::Kind::kVideo : ContentPart::Kind::kImage;
}

Media url_media(const std::string& kind, std::string url, std::string uuid) {
  Media media;
  media.part.kind = kind_of(kind);
  media.part.media.url = std::move(url);
  media.part.media.uuid = std::move(uuid);
  return media;
}

Media bytes_media(const std::string& kind, const nb::bytes& bytes, std::string uuid) {
  Media media = url_media(kind, "", std::move(uuid));
  const auto* begin = static_cast<const uint8_t*>(bytes.data());
  media.part.media.bytes = std::make_shared<std::vector<uint8_t>>(begin, begin + bytes.size());
  return media;
}

// What an item takes until its request ends, about: its pixels and the tiles made of them.
int64_t held_bytes(const Media& media) {
  constexpr int64_t kTile = 512 * 512 * 3, kTiles = 13, kFramesByUrl = 128;
  const MediaItem& item = media.part.media;
  int64_t num_tiles = media.part.kind == ContentPart::Kind::kVideo ? kFramesByUrl : kTiles;
  int64_t bytes = item.bytes ? static_cast<int64_t>(item.bytes->size()) : 0;
  if (item.frames) {
    bytes = static_cast<int64_t>(item.frames->pixels().size());
    if (media.part.kind == ContentPart::Kind::kVideo) num_tiles = item.frames->num_frames;
  }
  return bytes + num_tiles * kTile;
}

// --- Requests ------------------------------------------------------------------------------------

struct PreparedRequest {
  Request request;
  int64_t held_bytes = 0;
};

// Fields of the protocol that mean nothing here are named once a process, as the server does.
void warn_ignored(const std::vector<std::string>& names) {
  static std::mutex mutex;
  static std::set<std::string> said;
  const std::lock_guard lock(mutex);
  for (const std::string& name : names) {
    if (said.size() < 1000 && said.insert(name).second) {
      log_warning("{} has no effect here and is ignored", name);
    }
  }
}

Result<ChatRequest> parse_body(const std::string& body) {
  ChatParseOptions options;
  options.allow_placeholders = true;
  options.trust_request_chat_template = true;
  options.allow_auto_tool_choice = true;
  options.max_logprobs = -1;
  auto parsed = parse_chat_request(body, options);
  if (parsed.ok()) warn_ignored(parsed->ignored);
  return parsed;
}

// A chat body as the server takes it. With a prompt, `messages` is empty and media belong to the
// prompt's placeholders; else they belong to the parts of `messages` that bring none, in order.
PreparedRequest make_request(const std::string& body, std::optional<std::string> prompt,
                             std::optional<std::vector<int32_t>> prompt_token_ids,
                             const std::vector<Media*>& media) {
  ChatRequest parsed = value_or_raise([&] {
    const nb::gil_scoped_release free;
    return parse_body(body);
  }());
  PreparedRequest out{std::move(parsed.request)};
  Request& request = out.request;
  for (const Media* item : media) out.held_bytes += held_bytes(*item);
  if (prompt || prompt_token_ids) {
    request.prompt = std::move(prompt);
    request.prompt_token_ids = std::move(prompt_token_ids);
    for (const Media* item : media) request.media.push_back(item->part);
    return out;
  }
  if (request.messages.empty()) {
    raise(invalid_argument("messages", "messages is empty; expected at least one message"));
  }
  size_t next = 0;
  for (ChatMessage& message : request.messages) {
    for (ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::kText || !part.media.placeholder()) continue;
      if (next == media.size()) continue;  // the engine says what is missing
      part.media = media[next++]->part.media;
    }
  }
  return out;
}

// --- Engine --------------------------------------------------------------------------------------

// An engine, and the process that made it: after a fork its threads are gone in the child.
class PythonEngine {
 public:
  explicit PythonEngine(const std::vector<std::string>& words)
      : options_(value_or_raise(options_from_words(words))),
        engine_(interruptible<std::shared_ptr<Engine>>(
            [options = options_]() -> Result<std::shared_ptr<Engine>> {
              VIDERE_ASSIGN_OR_RETURN(auto engine, Engine::load(options));
              return std::shared_ptr<Engine>(std::move(engine));
            })),
        pid_(getpid()) {}
  ~PythonEngine() { close(); }

  void close() {
    std::shared_ptr<Engine> engine;
    {
      const std::lock_guard lock(mutex_);
      engine.swap(engine_);
    }
    if (!engine) return;
    if (getpid() != pid_) {
      new std::shared_ptr<Engine>(std::move(engine));  // never freed: nothing there may be touched
      return;
    }
    {
      const nb::gil_scoped_release free;
      engine->shutdown(std::chrono::milliseconds(0));
      engine.reset();
#ifdef __GLIBC__
      ::malloc_trim(0);  // what the engine's threads had freed goes back to the system
#endif
    }
    dropped().clear();
  }
  bool closed() const {
    const std::lock_guard lock(mutex_);
    return !engine_;
  }
  bool foreign() const { return getpid() != pid_; }

  std::shared_ptr<Engine> get() const {
    if (foreign()) {
      raise(make_error(ErrorCode::kUnavailable, "",
                       "this LLM was made before the process forked, and its threads stayed "
                       "behind; make one after the fork"));
    }
    const std::lock_guard lock(mutex_);
    if (!engine_) raise(make_error(ErrorCode::kUnavailable, "", "this LLM is closed"));
    return engine_;
  }
  const EngineOptions& options() const { return options_; }

 private:
  EngineOptions options_;
  mutable std::mutex mutex_;
  std::shared_ptr<Engine> engine_;
  pid_t pid_;
};

// False when the engine's queue is full: try again when something has finished.
bool submit(PythonEngine& self, PreparedRequest& prepared, Reader& reader, int64_t tag,
            bool stream) {
  dropped().clear();
  const auto engine = self.get();
  const int num_choices = std::max(1, prepared.request.sampling.n);
  std::optional<Error> error;
  {
    const nb::gil_scoped_release free;
    auto generation = engine->submit(prepared.request);
    if (generation.ok()) {
      reader.add(tag, std::move(*generation), num_choices, stream);
    } else {
      error = generation.error();
    }
  }
  if (!error) {
    prepared.request = {};
    return true;
  }
  if (error->code == ErrorCode::kOverloaded) return false;
  raise(*error);
}

nb::object text_of(const std::string& bytes) {
  return nb::steal(
      PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace"));
}

nb::list ids_of(const std::vector<int32_t>& ids) {
  nb::list out;
  for (const int32_t id : ids) out.append(id);
  return out;
}

nb::object finish_reason_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kNone:
      return nb::none();
    case FinishReason::kStop:
      return nb::str("stop");
    case FinishReason::kLength:
      return nb::str("length");
    case FinishReason::kAbort:
      return nb::str("abort");
    case FinishReason::kError:
      return nb::str("error");
  }
  return nb::none();
}

// (token_id, logprob, rank, text) each: the sampled token first, then the top ones.
nb::list logprobs_of(const std::vector<TokenLogprob>& logprobs) {
  nb::list out;
  for (const TokenLogprob& token : logprobs) {
    nb::list row;
    row.append(nb::make_tuple(token.token_id, token.logprob, token.rank, text_of(token.text)));
    for (const TokenLogprob& other : token.top) {
      if (other.token_id == token.token_id) continue;
      row.append(nb::make_tuple(other.token_id, other.logprob, other.rank, text_of(other.text)));
    }
    out.append(row);
  }
  return out;
}

// (index, text, token_ids, cumulative_logprob, logprobs, finish_reason, stop_reason)
nb::tuple choice_of(const ReadChoice& choice, bool with_logprobs) {
  const OutputDelta& output = choice.output;
  nb::object stop_reason = nb::none();
  if (const auto* id = std::get_if<int32_t>(&output.stop_reason)) stop_reason = nb::int_(*id);
  if (const auto* text = std::get_if<std::string>(&output.stop_reason))
    stop_reason = text_of(*text);
  return nb::make_tuple(
      output.index, text_of(output.text), ids_of(output.token_ids),
      with_logprobs ? nb::object(nb::float_(choice.cumulative_logprob)) : nb::object(nb::none()),
      with_logprobs ? nb::object(logprobs_of(output.logprobs)) : nb::object(nb::none()),
      finish_reason_of(output.finish_reason), stop_reason);
}

nb::object seconds_of(std::chrono::steady_clock::time_point time) {
  return nb::float_(std::chrono::duration<double>(time.time_since_epoch()).count());
}

// (tag, error, finished, choices, generation, submitted_s, first_token_s)
nb::tuple event_of(ReadEvent& event) {
  if (event.error) {
    return nb::make_tuple(event.tag, python_error(*event.error), true, nb::none(), nb::none(),
                          nb::none(), nb::none());
  }
  nb::list choices;
  for (const ReadChoice& choice : event.choices) {
    choices.append(choice_of(choice, !choice.output.logprobs.empty()));
  }
  return nb::make_tuple(event.tag, nb::none(), event.finished, choices,
                        std::const_pointer_cast<Generation>(event.generation),
                        seconds_of(event.submitted), seconds_of(event.first_token));
}

nb::list poll_events(Reader& reader) {
  std::vector<ReadEvent> events;
  {
    const nb::gil_scoped_release free;
    events = reader.poll();
  }
  dropped().clear();
  nb::list out;
  for (ReadEvent& event : events) out.append(event_of(event));
  return out;
}

nb::list wait_events(Reader& reader, double timeout_s) {
  {
    const nb::gil_scoped_release free;
    reader.wait(std::chrono::milliseconds(static_cast<int64_t>(timeout_s * 1000)));
  }
  check_signals();
  return poll_events(reader);
}

// --- Facts ---------------------------------------------------------------------------------------

nb::dict usage_of(const Usage& usage) {
  nb::dict out;
  out["prompt_tokens"] = usage.prompt_tokens;
  out["completion_tokens"] = usage.completion_tokens;
  out["text_tokens"] = usage.text_tokens;
  out["image_tokens"] = usage.image_tokens;
  out["video_tokens"] = usage.video_tokens;
  out["cached_tokens"] = usage.cached_tokens;
  return out;
}

nb::dict plan_request(PythonEngine& self, const PreparedRequest& prepared, bool template_only) {
  const auto engine = self.get();
  const PromptPlan plan =
      interruptible<PromptPlan>([engine, request = prepared.request, template_only] {
        return engine->plan(request, template_only);
      });
  dropped().clear();
  nb::dict out;
  out["prompt"] = text_of(plan.rendered);
  out["prompt_token_ids"] = ids_of(plan.prompt_ids);
  out["usage"] = usage_of(plan.usage);
  nb::list images, videos;
  for (const PromptPlan::Image& image : plan.images) {
    nb::dict item;
    item["width"] = image.width;
    item["height"] = image.height;
    item["columns"] = image.columns;
    item["rows"] = image.rows;
    item["tiles"] = image.tiles;
    item["tokens"] = image.tokens;
    images.append(item);
  }
  for (const PromptPlan::Video& video : plan.videos) {
    nb::dict item;
    item["frames_indices"] = video.frames_indices;
    item["timestamps"] = video.timestamps;
    item["tokens"] = video.tokens;
    item["pruned_tokens"] = video.pruned_tokens;
    item["fps"] = video.fps;
    item["duration"] = video.duration_s;
    videos.append(item);
  }
  out["images"] = images;
  out["videos"] = videos;
  out["max_tokens"] = prepared.request.sampling.max_tokens;
  out["n"] = prepared.request.sampling.n;
  return out;
}

nb::dict info_of(const PythonEngine& self) {
  const auto engine = self.get();
  const ModelInfo& info = engine->info();
  nb::dict out;
  out["name"] = info.name;
  out["path"] = info.path;
  out["max_model_len"] = info.max_model_len;
  out["dtype"] = info.dtype;
  out["quantization"] = info.quantization;
  out["device"] = info.device;
  out["num_parameters"] = info.num_parameters;
  out["vocab_size"] = info.vocab_size;
  return out;
}

nb::dict memory_plan_of(const PythonEngine& self) {
  const auto engine = self.get();
  const MemoryPlan& plan = engine->memory_plan();
  nb::dict out;
  out["weights"] = plan.weights;
  out["vision_weights"] = plan.vision_weights;
  out["kv_cache"] = plan.kv_cache;
  out["state_slots"] = plan.state_slots;
  out["activations"] = plan.activations;
  out["encoder_cache"] = plan.encoder_cache;
  out["device_scratch"] = plan.device_scratch;
  out["total"] = plan.total();
  out["kv_bytes_per_token"] = plan.kv_bytes_per_token;
  out["state_bytes_per_slot"] = plan.state_bytes_per_slot;
  out["num_kv_blocks"] = plan.num_kv_blocks;
  out["num_state_slots"] = plan.num_state_slots;
  out["block_size"] = plan.block_size;
  out["max_model_len"] = plan.max_model_len;
  out["max_num_seqs"] = plan.max_num_seqs;
  out["max_num_batched_tokens"] = plan.max_num_batched_tokens;
  return out;
}

nb::dict stats_of(const PythonEngine& self) {
  const EngineStats stats = self.get()->stats();
  nb::dict out;
  out["num_running"] = stats.num_running;
  out["num_waiting"] = stats.num_waiting;
  out["num_preparing"] = stats.num_preparing;
  out["kv_blocks_used"] = stats.kv_blocks_used;
  out["kv_blocks_total"] = stats.kv_blocks_total;
  out["state_slots_used"] = stats.state_slots_used;
  out["state_slots_total"] = stats.state_slots_total;
  out["num_preemptions"] = stats.num_preemptions;
  out["prompt_tokens"] = stats.prompt_tokens;
  out["generation_tokens"] = stats.generation_tokens;
  out["num_steps"] = stats.num_steps;
  out["encoder_cache_queries"] = stats.encoder_cache_queries;
  out["encoder_cache_hits"] = stats.encoder_cache_hits;
  out["finished_stop"] = stats.finished_stop;
  out["finished_length"] = stats.finished_length;
  out["finished_abort"] = stats.finished_abort;
  out["finished_error"] = stats.finished_error;
  return out;
}

nb::dict default_sampling_of(const PythonEngine& self) {
  const SamplingParams params = self.get()->default_sampling();
  nb::dict out;
  const auto set = [&](const char* name, const auto& value) {
    if (value) out[name] = *value;
  };
  set("temperature", params.temperature);
  set("top_p", params.top_p);
  set("top_k", params.top_k);
  set("min_p", params.min_p);
  set("repetition_penalty", params.repetition_penalty);
  set("max_tokens", params.max_tokens);
  return out;
}

}  // namespace
}  // namespace videre

NB_MODULE(_videre, m) {
  using namespace videre;        // NOLINT
  using namespace nb::literals;  // NOLINT
  nb::set_leak_warnings(false);  // objects that live until the interpreter ends are no fault

  nb::class_<Media>(m, "Media")
      .def_static("image", &image_media, "pixels"_a, "size"_a = nb::none(), "uuid"_a = "")
      .def_static("video", &video_media, "frames"_a, "frames_indices"_a, "fps"_a,
                  "duration"_a = nb::none(), "total_num_frames"_a = nb::none(), "uuid"_a = "")
      .def_static("url", &url_media, "kind"_a, "url"_a, "uuid"_a = "")
      .def_static("encoded", &bytes_media, "kind"_a, "data"_a, "uuid"_a = "")
      .def_prop_ro("held_bytes", &held_bytes)
      .def_prop_ro("borrowed", [](const Media& media) {
        const auto& frames = media.part.media.frames;
        return frames && frames->rgb.empty() && frames->borrowed != nullptr;
      });

  nb::class_<PreparedRequest>(m, "Request")
      .def_static("make", &make_request, "body"_a, "prompt"_a = nb::none(),
                  "prompt_token_ids"_a = nb::none(), "media"_a = std::vector<Media*>())
      .def_ro("held_bytes", &PreparedRequest::held_bytes);

  nb::class_<Generation>(m, "Generation")
      .def_prop_ro("prompt", [](const Generation& self) { return text_of(self.rendered_prompt()); })
      .def_prop_ro("prompt_token_ids",
                   [](const Generation& self) { return ids_of(self.prompt_token_ids()); })
      .def_prop_ro("num_cached_tokens",
                   [](const Generation& self) { return self.usage().cached_tokens; });

  nb::class_<Reader>(m, "Reader")
      .def(nb::init<>())
      .def("fileno", &Reader::fd)
      .def("wait", &wait_events, "timeout"_a)
      .def("poll", &poll_events)
      .def("cancel", &Reader::cancel, "tag"_a, nb::call_guard<nb::gil_scoped_release>())
      .def("cancel_all", &Reader::cancel_all, nb::call_guard<nb::gil_scoped_release>())
      .def("__len__", &Reader::num_running);

  nb::class_<PythonEngine>(m, "Engine")
      .def(nb::init<const std::vector<std::string>&>(), "words"_a)
      .def("close", &PythonEngine::close)
      .def_prop_ro("closed", &PythonEngine::closed)
      .def_prop_ro("foreign", &PythonEngine::foreign)
      .def("submit", &submit, "request"_a, "reader"_a, "tag"_a, "stream"_a)
      .def("plan", &plan_request, "request"_a, "template_only"_a = false)
      .def(
          "tokenize",
          [](const PythonEngine& self, const std::string& text, bool add_special_tokens) {
            const auto engine = self.get();
            std::vector<int32_t> ids;
            {
              const nb::gil_scoped_release free;
              ids = engine->tokenize(text, add_special_tokens);
            }
            return ids_of(ids);
          },
          "text"_a, "add_special_tokens"_a)
      .def(
          "detokenize",
          [](const PythonEngine& self, const std::vector<int32_t>& ids, bool skip) {
            return text_of(self.get()->detokenize(ids, skip));
          },
          "token_ids"_a, "skip_special_tokens"_a)
      .def("reset_mm_cache", [](const PythonEngine& self) { self.get()->reset_mm_cache(); })
      .def_prop_ro("info", &info_of)
      .def_prop_ro("memory_plan", &memory_plan_of)
      .def_prop_ro("stats", &stats_of)
      .def_prop_ro("default_sampling", &default_sampling_of)
      .def_prop_ro("chat_template_content_format", [](const PythonEngine& self) {
        return self.options().chat_template_content_format;
      });

  m.def("check_body", [](const std::string& body) { value_or_raise(parse_body(body)); }, "body"_a);
  m.def("option_names", &option_names);
  m.def("nearest_name", &nearest_name, "word"_a, "candidates"_a);
  m.def("main", &run_command_line, "argv"_a, "program"_a = std::vector<std::string>(),
        nb::call_guard<nb::gil_scoped_release>());
  m.attr("__version__") = version();
}
