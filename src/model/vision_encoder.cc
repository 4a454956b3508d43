#include "model/vision_encoder.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "base/error.h"

namespace videre {
namespace {

constexpr const char* kTower = "vision_model.radio_model.model.";

Result<ConstView> load_tensor(const Checkpoint& checkpoint, const std::string& name, Shape shape,
                              Backend& backend) {
  VIDERE_ASSIGN_OR_RETURN(const ConstView view, checkpoint.tensor(name, shape));
  return backend.adopt(view);
}

Result<Weight> load_linear(const Checkpoint& checkpoint, const std::string& module, int64_t rows,
                           int64_t columns, Backend& backend) {
  VIDERE_ASSIGN_OR_RETURN(Weight weight, checkpoint.linear(module, rows, columns));
  weight.data = backend.adopt(weight.data);
  if (!weight.scales.empty()) weight.scales = backend.adopt(weight.scales);
  if (!weight.bias.empty()) weight.bias = backend.adopt(weight.bias);
  return weight;
}

// LayerScale counts only when the file has one that is not all ones.
Result<ConstView> load_layer_scale(const Checkpoint& checkpoint, const std::string& prefix,
                                   int64_t width, Backend& backend) {
  for (const std::string& name : {prefix + ".gamma", prefix + ".lambda1", prefix}) {
    if (!checkpoint.contains(name)) continue;
    VIDERE_ASSIGN_OR_RETURN(const auto values, checkpoint.floats(name, width));
    if (std::all_of(values.begin(), values.end(), [](float value) { return value == 1.0f; }))
      return ConstView();
    return load_tensor(checkpoint, name, Shape{width}, backend);
  }
  return ConstView();
}

}  // namespace

Result<VisionEncoder> VisionEncoder::load(const Checkpoint& checkpoint, const Config& config,
                                          Backend& backend, DType dtype) {
  VisionEncoder tower;
  tower.config_ = config;
  tower.dtype_ = dtype;
  const VisionConfig& vision = config.vision;
  const int64_t width = vision.hidden_size, mlp = vision.intermediate_size;
  const std::string generator = std::string(kTower) + "patch_generator.";
  VIDERE_ASSIGN_OR_RETURN(tower.patch_embedder_,
                          load_linear(checkpoint, generator + "embedder", width,
                                      3 * int64_t{vision.patch_size} * vision.patch_size, backend));
  const int64_t grid = vision.position_grid;
  VIDERE_ASSIGN_OR_RETURN(const ConstView table,
                          checkpoint.tensor(generator + "pos_embed", Shape{1, grid * grid, width}));
  tower.position_table_ = table.reshape(Shape{grid * grid, width});
  VIDERE_ASSIGN_OR_RETURN(tower.prefix_, checkpoint.tensor(generator + "cls_token.token"));
  if (tower.prefix_.rank() != 2 || tower.prefix_.dim(1) != width) {
    return invalid_model("tensor {}cls_token.token has shape {}; [prefix rows, {}] is expected",
                         generator, tower.prefix_.shape().to_string(), width);
  }
  tower.prefix_ = backend.adopt(tower.prefix_);
  for (int i = 0; i < vision.num_layers; ++i) {
    const std::string prefix = std::string(kTower) + "blocks." + std::to_string(i) + ".";
    VisionBlockWeights block;
    VIDERE_ASSIGN_OR_RETURN(block.norm1_weight, load_tensor(checkpoint, prefix + "norm1.weight",
                                                            Shape{width}, backend));
    VIDERE_ASSIGN_OR_RETURN(block.norm1_bias,
                            load_tensor(checkpoint, prefix + "norm1.bias", Shape{width}, backend));
    VIDERE_ASSIGN_OR_RETURN(block.norm2_weight, load_tensor(checkpoint, prefix + "norm2.weight",
                                                            Shape{width}, backend));
    VIDERE_ASSIGN_OR_RETURN(block.norm2_bias,
                            load_tensor(checkpoint, prefix + "norm2.bias", Shape{width}, backend));
    VIDERE_ASSIGN_OR_RETURN(
        block.qkv, load_linear(checkpoint, prefix + "attn.qkv", 3 * width, width, backend));
    VIDERE_ASSIGN_OR_RETURN(block.proj,
                            load_linear(checkpoint, prefix + "attn.proj", width, width, backend));
    VIDERE_ASSIGN_OR_RETURN(block.fc1,
                            load_linear(checkpoint, prefix + "mlp.fc1", mlp, width, backend));
    VIDERE_ASSIGN_OR_RETURN(block.fc2,
                            load_linear(checkpoint, prefix + "mlp.fc2", width, mlp, backend));
    for (const Weight* linear : {&block.qkv, &block.proj, &block.fc1, &block.fc2}) {
      if (linear->bias.empty())
        return invalid_model("the checkpoint has no tensor {}.bias", linear->name);
    }
    VIDERE_ASSIGN_OR_RETURN(block.ls1,
                            load_layer_scale(checkpoint, prefix + "ls1", width, backend));
    VIDERE_ASSIGN_OR_RETURN(block.ls2,
                            load_layer_scale(checkpoint, prefix + "ls2", width, backend));
    tower.blocks_.push_back(std::move(block));
  }
  if (vision.model_norm) {
    VIDERE_ASSIGN_OR_RETURN(
        tower.final_norm_weight_,
        load_tensor(checkpoint, std::string(kTower) + "norm.weight", Shape{width}, backend));
    VIDERE_ASSIGN_OR_RETURN(
        tower.final_norm_bias_,
        load_tensor(checkpoint, std::string(kTower) + "norm.bias", Shape{width}, backend));
  }
  const int64_t shuffled = width * config.shuffle_factor * config.shuffle_factor;
  if (checkpoint.contains("mlp1.0.bias")) {
    return invalid_model(
        "tensor mlp1.0.bias makes the projector's norm a LayerNorm; this family has an RMSNorm");
  }
  VIDERE_ASSIGN_OR_RETURN(tower.projector_norm_,
                          load_tensor(checkpoint, "mlp1.0.weight", Shape{shuffled}, backend));
  VIDERE_ASSIGN_OR_RETURN(
      tower.projector_up_,
      load_linear(checkpoint, "mlp1.1", config.projector_hidden_size, shuffled, backend));
  VIDERE_ASSIGN_OR_RETURN(tower.projector_down_,
                          load_linear(checkpoint, "mlp1.3", config.llm.hidden_size,
                                      config.projector_hidden_size, backend));
  return tower;
}

ConstView VisionEncoder::positions_for(Backend& be, int rows, int cols) {
  auto& cached = positions_[{rows, cols}];
  if (cached) return *cached;
  // The stored G x G table, resized (bilinear) to the longer side squared, then cropped:
  // docs/model.md#positions.
  const int grid = config_.vision.position_grid;
  const int64_t width = position_table_.dim(1);
  const int side = std::max(rows, cols);
  const auto table_row = [&](int r, int c, std::vector<float>& out) {
    const char* raw = static_cast<const char*>(position_table_.raw());
    const int64_t first = (int64_t{r} * grid + c) * width;
    for (int64_t e = 0; e < width; ++e) {
      if (position_table_.dtype() == DType::kF32) {
        std::memcpy(&out[e], raw + (first + e) * 4, 4);
      } else {
        uint16_t bits;
        std::memcpy(&bits, raw + (first + e) * 2, 2);
        out[e] =
            position_table_.dtype() == DType::kBF16 ? to_float(BF16{bits}) : half_to_float(bits);
      }
    }
  };
  struct Tap {
    int low, high;
    float weight;  // of `high`
  };
  const auto tap = [&](int at) -> Tap {
    if (side == grid) return {at, at, 0.0f};
    float source;
    if (config_.vision.align_corners) {
      source = side > 1 ? static_cast<float>(at) * static_cast<float>(grid - 1) /
                              static_cast<float>(side - 1)
                        : 0.0f;
    } else {
      source = std::max(0.0f, (static_cast<float>(at) + 0.5f) *
                                      (static_cast<float>(grid) / static_cast<float>(side)) -
                                  0.5f);
    }
    const int low = std::min(static_cast<int>(source), grid - 1);
    return {low, std::min(low + 1, grid - 1), source - static_cast<float>(low)};
  };
  std::vector<float> a(width), b(width), c(width), d(width),
      host(static_cast<size_t>(rows) * cols * width);
  for (int r = 0; r < rows; ++r) {
    const Tap y = tap(r);
    for (int col = 0; col < cols; ++col) {
      const Tap x = tap(col);
      table_row(y.low, x.low, a);
      table_row(y.low, x.high, b);
      table_row(y.high, x.low, c);
      table_row(y.high, x.high, d);
      float* out = &host[(static_cast<size_t>(r) * cols + col) * width];
      for (int64_t e = 0; e < width; ++e) {
        out[e] = (1 - y.weight) * ((1 - x.weight) * a[e] + x.weight * b[e]) +
                 y.weight * ((1 - x.weight) * c[e] + x.weight * d[e]);
      }
    }
  }
  const Shape shape{int64_t{rows} * cols, width};
  cached = std::make_shared<Tensor>(be.allocate(dtype_, shape));
  if (dtype_ == DType::kF32) {
    be.upload(*cached, host.data());
  } else {
    std::vector<BF16> rounded(host.size());
    std::transform(host.begin(), host.end(), rounded.begin(), to_bf16);
    be.upload(*cached, rounded.data());
  }
  return *cached;
}

int64_t VisionEncoder::place(VisionWorkspace& ws, int height, int width, void* start) const {
  constexpr int64_t kAlignElements = 128;  // 256 bytes and more
  const int patch = config_.patch_size, f = config_.shuffle_factor;
  ws.rows = height / patch;
  ws.cols = width / patch;
  const int64_t patches = int64_t{ws.rows} * ws.cols, tokens = patches + num_prefix();
  const int64_t e = config_.vision.hidden_size, mlp = config_.vision.intermediate_size;
  int64_t used = 0;
  const auto make = [&](Shape shape) {
    const int64_t offset = used * static_cast<int64_t>(dtype_size(dtype_));
    used += (shape.numel() + kAlignElements - 1) / kAlignElements * kAlignElements;
    return View(start == nullptr ? nullptr : static_cast<char*>(start) + offset, dtype_, shape);
  };
  const int64_t n = ws.max_tiles;
  ws.pixels = make({n, 3, height, width});
  ws.patches = make({n, patches, 3 * int64_t{patch} * patch});
  ws.embedded = make({n, patches, e});
  for (View* view : {&ws.residual, &ws.normed, &ws.delta}) *view = make({n, tokens, e});
  ws.qkv = make({n, tokens, 3 * e});
  for (View* view : {&ws.hidden, &ws.activated}) *view = make({n, tokens, mlp});
  if (ws.rows % f == 0 && ws.cols % f == 0) {
    const int64_t shuffled = patches / (f * f);
    for (View* view : {&ws.shuffled, &ws.shuffled_normed}) *view = make({n, shuffled, e * f * f});
    for (View* view : {&ws.up, &ws.up_activated}) {
      *view = make({n, shuffled, config_.projector_hidden_size});
    }
  }
  return used;
}

VisionWorkspace VisionEncoder::make_workspace(Backend& be, int64_t max_tiles, int height, int width,
                                              View scratch) {
  VisionWorkspace ws;
  ws.max_tiles = max_tiles;
  if (scratch.empty()) {
    ws.scratch = be.allocate(dtype_, Shape{place(ws, height, width, nullptr)});
    scratch = ws.scratch;
  }
  place(ws, height, width, scratch.raw());
  ws.positions = positions_for(be, ws.rows, ws.cols);
  return ws;
}

View VisionEncoder::encode(Backend& be, ConstView pixels, VisionWorkspace& ws) const {
  const int64_t n = pixels.dim(0), patches = int64_t{ws.rows} * ws.cols,
                tokens = patches + num_prefix();
  const int64_t e = config_.vision.hidden_size, mlp = config_.vision.intermediate_size;
  const auto flat = [&](const View& all) {  // [n, rows, width] as [n * rows, width]
    return View(all.raw(), all.dtype(), Shape{n * all.dim(1), all.dim(2)});
  };
  const View residual = ws.residual.rows(0, n);
  const View residual_rows = flat(ws.residual), normed = flat(ws.normed), delta = flat(ws.delta);
  be.patchify(ws.patches.rows(0, n), pixels, config_.patch_size);
  be.linear(flat(ws.embedded), {flat(ws.patches)}, patch_embedder_);
  be.assemble_tokens(residual, ws.embedded.rows(0, n), ws.positions, prefix_);
  if (be.observing()) be.observe("vision.patch_embeddings", residual);

  const float eps = config_.vision.layer_norm_eps;
  const float scale = 1.0f / std::sqrt(static_cast<float>(e / config_.vision.num_heads));
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const VisionBlockWeights& block = blocks_[i];
    if (i == 0)
      be.layer_norm({normed}, residual_rows, block.norm1_weight, block.norm1_bias, eps);
    else
      be.add_layer_norm({normed}, residual_rows, delta, block.norm1_weight, block.norm1_bias, eps);
    be.linear(flat(ws.qkv), {normed}, block.qkv);
    // The attention output reuses `normed`, which the projection has read.
    be.full_attention(View(normed.raw(), dtype_, Shape{n, tokens, e}), ws.qkv.rows(0, n),
                      config_.vision.num_heads, scale);
    be.linear(delta, {normed}, block.proj);
    if (!block.ls1.empty()) be.scale_columns(delta, block.ls1);
    be.add_layer_norm({normed}, residual_rows, delta, block.norm2_weight, block.norm2_bias, eps);
    be.linear(View(ws.hidden.raw(), dtype_, Shape{n * tokens, mlp}), {normed}, block.fc1);
    be.gelu({flat(ws.activated)}, flat(ws.hidden));
    be.linear(delta, {flat(ws.activated)}, block.fc2);
    if (!block.ls2.empty()) be.scale_columns(delta, block.ls2);
  }
  if (!blocks_.empty()) be.add(residual_rows, delta);
  if (!final_norm_weight_.empty()) {
    be.layer_norm({normed}, residual_rows, final_norm_weight_, final_norm_bias_, eps);
    be.copy(residual_rows, normed);
  }
  const View features = residual.slice(1, num_prefix(), tokens);
  if (be.observing()) be.observe("vision.features", features);
  return features;
}

void VisionEncoder::project(Backend& be, ConstView features, VisionWorkspace& ws, View out) const {
  const int64_t n = features.dim(0), tokens = ws.shuffled.dim(1);
  const auto flat = [&](const View& all) {
    return View(all.raw(), all.dtype(), Shape{n * all.dim(1), all.dim(2)});
  };
  be.pixel_shuffle(ws.shuffled.rows(0, n), features, ws.rows, ws.cols, config_.shuffle_factor,
                   config_.ps_v1);
  if (be.observing()) be.observe("vision.pixel_shuffled", ws.shuffled.rows(0, n));
  constexpr float kProjectorEps = 1e-5f;  // the family's projector norm, not the tower's
  be.rms_norm({flat(ws.shuffled_normed)}, flat(ws.shuffled), projector_norm_, kProjectorEps);
  be.linear(flat(ws.up), {flat(ws.shuffled_normed)}, projector_up_);
  be.relu2({flat(ws.up_activated)}, flat(ws.up));
  be.linear(out, {flat(ws.up_activated)}, projector_down_);
  if (be.observing())
    be.observe("vision.projected", View(out.raw(), out.dtype(), Shape{n, tokens, out.dim(1)}));
}

void VisionEncoder::encode_tiles(Backend& be, ConstView rgb, VisionWorkspace& ws, View out) const {
  const View pixels = ws.pixels.rows(0, rgb.dim(0));
  be.normalize_pixels(pixels, rgb, config_.norm_mean, config_.norm_std);
  if (be.observing()) be.observe("pixel_values", pixels);
  project(be, encode(be, pixels, ws), ws, out);
}

int64_t VisionEncoder::scratch_bytes(int64_t num_tiles) const {
  VisionWorkspace ws;
  ws.max_tiles = num_tiles;
  return place(ws, config_.force_image_size, config_.force_image_size, nullptr) *
         static_cast<int64_t>(dtype_size(dtype_));
}

int64_t VisionEncoder::workspace_bytes(int64_t num_tiles) const {
  const int64_t positions =
      int64_t{config_.patches_per_side()} * config_.patches_per_side() * config_.vision.hidden_size;
  return scratch_bytes(num_tiles) + positions * static_cast<int64_t>(dtype_size(dtype_));
}

}  // namespace videre
