#include "engine/dump.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <map>
#include <regex>

#include "base/error.h"
#include "engine/engine_parts.h"
#include "engine/prepare.h"
#include "tensor/npy.h"

namespace videre {
namespace {

constexpr int64_t kLogitRows = 16;  // of the prompt's end, without all_logits
constexpr int64_t kHeadRows = 64;   // at once
constexpr int64_t kRgbTiles = 8;    // at once

// What was observed under one name, in host memory; pieces follow each other along dim 0.
struct Captured {
  DType dtype = DType::kF32;
  Shape shape;
  std::vector<char> bytes;

  size_t row_bytes() const { return shape[0] == 0 ? 0 : bytes.size() / shape[0]; }
  void keep_rows(int64_t begin, int64_t end) {
    const size_t row = row_bytes();
    bytes = std::vector<char>(bytes.begin() + begin * row, bytes.begin() + end * row);
    shape[0] = end - begin;
  }
};

class Capture {
 public:
  Capture(Backend& backend, const std::regex& wanted) : backend_(backend), wanted_(wanted) {}

  bool wants(const std::string& name) const { return std::regex_search(name, wanted_); }
  /// Captured whether the expression wants it or not.
  void also(std::string name) { also_ = std::move(name); }
  void observe(std::string_view view_name, ConstView view) {
    const std::string name(view_name);
    if (name == also_ || wants(name)) add(name, view);
  }
  void add(const std::string& name, ConstView view) {
    Captured& out = tensors_[name];
    const size_t before = out.bytes.size();
    if (before == 0) {
      out.dtype = view.dtype();
      out.shape = view.shape();
    } else {
      out.shape[0] += view.dim(0);
    }
    out.bytes.resize(before + view.size_bytes());
    // Rows of a strided view one after another.
    if (view.contiguous()) {
      backend_.download(out.bytes.data() + before, view);
      return;
    }
    const size_t row_bytes = view.size_bytes() / view.dim(0);
    for (int64_t i = 0; i < view.dim(0); ++i) {
      backend_.download(out.bytes.data() + before + i * row_bytes, view[i]);
    }
  }
  template <typename T>
  void add_host(const std::string& name, const std::vector<T>& values, DType dtype) {
    if (!wants(name)) return;
    Captured out{dtype, Shape{static_cast<int64_t>(values.size())}, {}};
    out.bytes.resize(values.size() * sizeof(T));
    if (!values.empty()) std::memcpy(out.bytes.data(), values.data(), out.bytes.size());
    tensors_[name] = std::move(out);
  }
  std::map<std::string, Captured>& tensors() { return tensors_; }

 private:
  Backend& backend_;
  const std::regex& wanted_;
  std::string also_;
  std::map<std::string, Captured> tensors_;
};

// Tiles straight into the tower; uint8 ones as the frames of a clip.
Status run_tiles(const DumpOptions& options, LoadedModel& loaded, Capture& capture) {
  VIDERE_ASSIGN_OR_RETURN(const Tensor array, read_npy(options.rgb_path));
  const Shape& shape = array.shape();
  const DType dtype = array.view().dtype();
  const Config& config = loaded.config;
  const int patch = config.patch_size;
  const bool bytes = dtype == DType::kU8;
  if ((!bytes && dtype != DType::kF32) || shape.rank() != 4 || shape[0] < 1 || shape[1] != 3 ||
      shape[2] < 1 || shape[3] < 1 || shape[2] % patch != 0 || shape[3] % patch != 0) {
    return invalid_argument("--rgb",
                            "--rgb {}: {} {} is no batch of tiles; uint8 [tiles, 3, {}, {}] or "
                            "float32 [tiles, 3, H, W] with H and W multiples of {} is expected",
                            options.rgb_path, dtype_name(dtype), shape.to_string(),
                            config.force_image_size, config.force_image_size, patch);
  }
  if (bytes && (shape[2] != config.force_image_size || shape[3] != config.force_image_size)) {
    return invalid_argument("--rgb", "--rgb {}: tiles are {} x {}; the model's are {} x {}",
                            options.rgb_path, shape[3], shape[2], config.force_image_size,
                            config.force_image_size);
  }
  if (!loaded.model->has_vision()) {
    return invalid_argument("--rgb",
                            "--rgb needs the vision tower, which --language-model-only "
                            "leaves out");
  }
  Backend& be = *loaded.backend;
  VisionEncoder& vision = loaded.model->vision();
  const int64_t num_tiles = shape[0], hidden = config.llm.hidden_size;
  VisionWorkspace ws = vision.make_workspace(
      be, std::min(num_tiles, kRgbTiles), static_cast<int>(shape[2]), static_cast<int>(shape[3]));
  const int f = config.shuffle_factor;
  const bool projects = ws.rows % f == 0 && ws.cols % f == 0;
  const int64_t tokens = projects ? int64_t{ws.rows} * ws.cols / (f * f) : 0;
  const Tensor input = be.allocate(dtype, Shape{ws.max_tiles, 3, shape[2], shape[3]});
  const Tensor rows = be.allocate(loaded.model->dtype(),
                                  Shape{std::max<int64_t>(1, ws.max_tiles * tokens), hidden});
  const double rate = options.engine.video_pruning_rate;
  std::unique_ptr<EvsSelector> selector;
  EvsWorkspace evs;
  Tensor kept;
  if (bytes) {
    const int64_t num_kept = num_kept_rows(num_tiles, static_cast<int>(tokens), rate);
    kept = be.allocate(loaded.model->dtype(), Shape{num_kept, hidden});
    evs = make_evs_workspace(be, static_cast<int>(tokens), hidden, loaded.model->dtype(),
                             ws.max_tiles, num_kept);
    selector = std::make_unique<EvsSelector>(be, evs, kept, num_tiles, static_cast<int>(tokens),
                                             loaded.model->evs_arithmetic());
  }
  const size_t tile_bytes = array.size_bytes() / num_tiles;
  for (int64_t begin = 0; begin < num_tiles; begin += ws.max_tiles) {
    const int64_t count = std::min(ws.max_tiles, num_tiles - begin);
    const View slice = input.view().rows(0, count), out = rows.view().rows(0, count * tokens);
    be.upload(slice, array.view().data<char>() + begin * tile_bytes);
    if (bytes) {
      vision.encode_tiles(be, slice, ws, out);
      selector->add_frames(out);
      continue;
    }
    const View pixels = ws.pixels.rows(0, count);
    be.copy(pixels, slice);
    be.observe("pixel_values", pixels);
    const View features = vision.encode(be, pixels, ws);
    if (projects) vision.project(be, features, ws, out);
  }
  if (selector) {
    selector->finish();
    capture.add_host("evs.dissimilarity", selector->dissimilarities(), DType::kF32);
    capture.add_host("evs.mask", selector->mask(), DType::kU8);
  }
  return {};
}

// A request or ids through the engine's own loop, one step after another.
Status run_prompt(const DumpOptions& options, const EngineOptions& engine, EngineParts& parts,
                  Capture& capture) {
  LoadedModel& loaded = parts.loaded;
  Backend& be = *loaded.backend;
  Request request;
  if (options.request) request = *options.request;
  SamplingParams& sampling = request.sampling;
  if (!sampling.temperature) sampling.temperature = 0;
  sampling.n = 1;
  sampling.max_tokens = options.max_tokens;
  auto prompt = std::make_shared<Prompt>();
  if (options.token_ids) {
    for (const int32_t id : *options.token_ids) {
      if (id < 0 || id >= loaded.info.vocab_size) {
        return invalid_argument("--ids", "--ids holds token {}; ids are 0 to {}", id,
                                loaded.info.vocab_size - 1);
      }
    }
    if (options.token_ids->empty()) return invalid_argument("--ids", "--ids holds no token");
    prompt->token_ids = *options.token_ids;
    prompt->usage.prompt_tokens = static_cast<int64_t>(prompt->token_ids.size());
    if (prompt->usage.prompt_tokens >= parts.plan.max_model_len) {
      return invalid_argument("--ids", "--ids holds {} tokens; the context has {}",
                              prompt->usage.prompt_tokens, parts.plan.max_model_len);
    }
  }
  auto state = std::make_shared<RequestState>(std::move(request));
  if (options.token_ids) {
    state->prompt = std::move(prompt);
  } else {
    TaskPool pool(engine.media_threads);
    Preparer preparer(loaded, engine, parts.plan.max_model_len, parts.encoder_rows, &pool,
                      make_fetcher(fetch_options(engine)));
    VIDERE_ASSIGN_OR_RETURN(state->prompt, preparer.prepare(state->request, nullptr));
  }
  const int64_t num_prompt = state->prompt->usage.prompt_tokens;
  VIDERE_ASSIGN_OR_RETURN(
      state->sampling, resolve_sampling(state->request.sampling, loaded.config, *loaded.tokenizer,
                                        num_prompt, parts.plan.max_model_len, engine.seed));

  const std::string final_norm = "llm.hidden." + std::to_string(loaded.config.llm.num_layers());
  const bool wants_logits = capture.wants("llm.logits");
  if (wants_logits) capture.also(final_norm);
  std::vector<int32_t> out_ids;
  const auto sequence = parts.core->add(state).front();
  while (!parts.core->idle()) {
    parts.core->step();
    std::vector<TokenEvent> events;
    Error error;
    if (!state->take(events, std::chrono::milliseconds(0), error)) return error;
    for (const TokenEvent& event : events) out_ids.push_back(event.token.token);
  }
  // The prompt as the model read it: clips are laid out once their rows are chosen.
  const std::vector<int32_t> prompt_ids(sequence->tokens.begin(),
                                        sequence->tokens.begin() + num_prompt);
  capture.add_host("prompt.ids", prompt_ids, DType::kI32);
  capture.add_host("out.ids", out_ids, DType::kI32);
  auto& tensors = capture.tensors();
  for (auto& [name, tensor] : tensors) {
    if (name.starts_with("llm.hidden.")) tensor.keep_rows(0, num_prompt);  // no decode steps
  }
  if (!wants_logits) return {};
  const Captured& normed = tensors.at(final_norm);
  const int64_t first = options.all_logits ? 0 : std::max<int64_t>(0, num_prompt - kLogitRows);
  const Tensor hidden = be.allocate(normed.dtype, Shape{kHeadRows, normed.shape[1]});
  const Tensor logits = be.allocate(DType::kF32, Shape{kHeadRows, loaded.info.vocab_size});
  for (int64_t begin = first; begin < num_prompt; begin += kHeadRows) {
    const int64_t count = std::min(kHeadRows, num_prompt - begin);
    const View rows = hidden.view().rows(0, count), out = logits.view().rows(0, count);
    be.upload(rows, normed.bytes.data() + begin * normed.row_bytes());
    loaded.model->language().head(be, rows, out);
    capture.add("llm.logits", out);
  }
  if (!capture.wants(final_norm)) tensors.erase(final_norm);
  return {};
}

}  // namespace

Result<std::vector<DumpedTensor>> dump_tensors(const DumpOptions& options,
                                               const LoadProgress& progress) {
  const int num_inputs = static_cast<int>(options.request.has_value()) +
                         static_cast<int>(options.token_ids.has_value()) +
                         static_cast<int>(!options.rgb_path.empty());
  if (num_inputs != 1) {
    return invalid_argument("--request", "one of --request, --ids and --rgb is expected; {} given",
                            num_inputs);
  }
  std::regex wanted;
  try {
    wanted = std::regex(options.observe, std::regex::ECMAScript | std::regex::optimize);
  } catch (const std::regex_error&) {
    return invalid_argument("--observe", "--observe \"{}\" is no regular expression",
                            options.observe);
  }
  std::error_code failed;
  std::filesystem::create_directories(options.out_dir, failed);
  if (failed || !std::filesystem::is_directory(options.out_dir)) {
    return invalid_argument("--out", "--out {}: the folder cannot be made", options.out_dir);
  }
  EngineOptions engine = options.engine;
  engine.async_scheduling = false;
  engine.pad_steps = false;
  engine.enforce_eager = true;
  engine.max_num_seqs = 1;
  VIDERE_ASSIGN_OR_RETURN(EngineParts parts, make_engine_parts(engine, progress));
  Capture capture(*parts.loaded.backend, wanted);
  parts.loaded.backend->set_observer(
      [&](std::string_view name, ConstView view) { capture.observe(name, view); });
  const Status ran = options.rgb_path.empty() ? run_prompt(options, engine, parts, capture)
                                              : run_tiles(options, parts.loaded, capture);
  parts.loaded.backend->set_observer({});
  VIDERE_RETURN_IF_ERROR(ran);

  std::vector<DumpedTensor> written;
  for (const auto& [name, tensor] : capture.tensors()) {
    DumpedTensor out;
    out.name = name;
    out.path = (std::filesystem::path(options.out_dir) / (name + ".npy")).string();
    out.dtype = std::string(dtype_name(tensor.dtype));
    for (int i = 0; i < tensor.shape.rank(); ++i) out.shape.push_back(tensor.shape[i]);
    VIDERE_RETURN_IF_ERROR(
        write_npy(out.path, ConstView(tensor.bytes.data(), tensor.dtype, tensor.shape)));
    written.push_back(std::move(out));
  }
  return written;
}

}  // namespace videre
