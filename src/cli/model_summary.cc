#include "cli/model_summary.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <tuple>

namespace videre {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

// Scales and biases belong to their module's weight.
bool is_companion(const std::string& name) {
  for (const char* end : {".bias", "_scale", "_scale_2", ".k_scale", ".v_scale"}) {
    if (ends_with(name, end)) return true;
  }
  return false;
}

// "layers.12." becomes "layers.*." and 12; -1 when there is no such part.
int take_layer(std::string& name) {
  for (const char* word : {"layers.", "blocks."}) {
    const size_t at = name.find(word);
    if (at == name.npos) continue;
    const size_t begin = at + std::string_view(word).size();
    const size_t end = name.find('.', begin);
    int layer = -1;
    const char* last = name.data() + std::min(end, name.size());
    const auto [rest, error] = std::from_chars(name.data() + begin, last, layer);
    if (error != std::errc() || rest != last) continue;
    name.replace(begin, static_cast<size_t>(last - name.data()) - begin, "*");
    return layer;
  }
  return -1;
}

std::string precision_of(const Checkpoint& checkpoint, const std::string& name, DType dtype) {
  if (dtype == DType::kU8 && checkpoint.contains(name + "_scale_2")) return "nvfp4";
  if (dtype == DType::kF8E4M3) return "fp8";
  return std::string(dtype_name(dtype));
}

std::string human_count(int64_t count) {
  const auto value = static_cast<double>(count);
  if (value >= 1e9) return fmt::format("{:.2f} billion", value / 1e9);
  if (value >= 1e6) return fmt::format("{:.2f} million", value / 1e6);
  return fmt::format("{}", count);
}

std::string human_mib(int64_t bytes) {
  return fmt::format("{:.1f} MiB", static_cast<double>(bytes) / (1 << 20));
}

std::string pattern_of(const LanguageConfig& config) {
  std::string pattern;
  for (const LayerKind kind : config.layer_kinds) {
    pattern += kind == LayerKind::kMamba2 ? 'M' : kind == LayerKind::kAttention ? '*' : '-';
  }
  return pattern;
}

}  // namespace

std::string number_ranges(const std::vector<int>& numbers) {
  std::string out;
  for (size_t i = 0; i < numbers.size();) {
    size_t end = i;
    while (end + 1 < numbers.size() && numbers[end + 1] == numbers[end] + 1) ++end;
    if (!out.empty()) out += ',';
    out += std::to_string(numbers[i]);
    if (end > i) out += "-" + std::to_string(numbers[end]);
    i = end + 1;
  }
  return out;
}

ModelSummary summarize(const LoadedModel& loaded) {
  ModelSummary out;
  out.info = loaded.info;
  out.config = loaded.config;
  const Checkpoint& checkpoint = loaded.model->checkpoint();
  out.size_bytes = checkpoint.size_bytes();
  std::map<std::string, ModelSummary::Tensors> by_dtype;
  std::map<std::tuple<std::string, std::string, std::vector<int64_t>>, std::vector<int>> modules;
  for (const auto& [name, stored] : checkpoint.tensors()) {
    const ConstView& view = stored.view;
    const std::string dtype(dtype_name(view.dtype()));
    ModelSummary::Tensors& tensors = by_dtype[dtype];
    tensors.dtype = dtype;
    ++tensors.count;
    tensors.elements += view.numel();
    tensors.bytes += view.numel() * static_cast<int64_t>(dtype_size(view.dtype()));
    if (is_companion(name)) continue;
    std::string module = name;
    const int layer = take_layer(module);
    if (ends_with(module, ".weight")) module.resize(module.size() - 7);
    std::vector<int64_t> shape;
    for (int i = 0; i < view.rank(); ++i) shape.push_back(view.dim(i));
    std::vector<int>& layers =
        modules[{module, precision_of(checkpoint, name, view.dtype()), std::move(shape)}];
    if (layer >= 0) layers.push_back(layer);
  }
  for (auto& [dtype, tensors] : by_dtype) out.tensors.push_back(tensors);
  for (auto& [key, layers] : modules) {
    std::sort(layers.begin(), layers.end());
    out.modules.push_back(
        {std::get<0>(key), std::move(layers), std::get<1>(key), std::get<2>(key)});
  }
  return out;
}

std::string summary_text(const ModelSummary& summary) {
  const LanguageConfig& llm = summary.config.llm;
  const VisionConfig& vision = summary.config.vision;
  std::string out = fmt::format(
      "{}\n  folder            {}\n  parameters        {} ({})\n  checkpoint        {}\n"
      "  runs as           {} activations on {}{}\n",
      summary.info.name, summary.info.path, summary.info.num_parameters,
      human_count(summary.info.num_parameters), human_mib(summary.size_bytes), summary.info.dtype,
      summary.info.device,
      summary.info.quantization.empty() ? "" : ", weights " + summary.info.quantization);
  out += fmt::format(
      "  language model    {} layers {}\n"
      "                    {} Mamba-2, {} attention, {} MLP; hidden {}, vocabulary {}\n"
      "                    attention {} heads of {}, {} KV heads; Mamba {} heads of {}, state {}, "
      "{} groups\n"
      "                    context {} tokens\n",
      llm.num_layers(), pattern_of(llm), llm.count(LayerKind::kMamba2),
      llm.count(LayerKind::kAttention), llm.count(LayerKind::kMlp), llm.hidden_size, llm.vocab_size,
      llm.num_attention_heads, llm.head_dim, llm.num_key_value_heads, llm.mamba_num_heads,
      llm.mamba_head_dim, llm.ssm_state_size, llm.n_groups, summary.config.max_model_len);
  out += fmt::format(
      "  vision tower      {} layers, hidden {}, {} heads; tiles of {} px, patches of {} px, {} "
      "tokens a tile, {} tiles at most{}\n",
      vision.num_layers, vision.hidden_size, vision.num_heads, summary.config.force_image_size,
      summary.config.patch_size, summary.config.tokens_per_tile(), summary.config.max_num_tiles,
      summary.config.use_thumbnail ? " and a thumbnail" : "");
  out += "\ntensors\n";
  for (const ModelSummary::Tensors& tensors : summary.tensors) {
    out += fmt::format("  {:<16}{:>6} tensors {:>16} elements {:>14}\n", tensors.dtype,
                       tensors.count, tensors.elements, human_mib(tensors.bytes));
  }
  out += "\nprecision\n";
  for (const ModelSummary::Module& module : summary.modules) {
    out += fmt::format("  {:<10} {}{} [{}]\n", module.precision, module.name,
                       module.layers.empty() ? "" : " {" + number_ranges(module.layers) + "}",
                       fmt::join(module.shape, ", "));
  }
  return out;
}

json::object summary_json(const ModelSummary& summary) {
  const Config& config = summary.config;
  const LanguageConfig& llm = config.llm;
  json::object out;
  out["model"] = summary.info.name;
  out["path"] = summary.info.path;
  out["num_parameters"] = summary.info.num_parameters;
  out["size_bytes"] = summary.size_bytes;
  out["dtype"] = summary.info.dtype;
  out["quantization"] = summary.info.quantization;
  out["device"] = summary.info.device;
  out["config"] = json::object{
      {"max_model_len", config.max_model_len},
      {"language_model", json::object{{"pattern", pattern_of(llm)},
                                      {"num_mamba2_layers", llm.count(LayerKind::kMamba2)},
                                      {"num_attention_layers", llm.count(LayerKind::kAttention)},
                                      {"num_mlp_layers", llm.count(LayerKind::kMlp)},
                                      {"hidden_size", llm.hidden_size},
                                      {"vocab_size", llm.vocab_size},
                                      {"num_attention_heads", llm.num_attention_heads},
                                      {"num_key_value_heads", llm.num_key_value_heads},
                                      {"head_dim", llm.head_dim},
                                      {"mamba_num_heads", llm.mamba_num_heads},
                                      {"mamba_head_dim", llm.mamba_head_dim},
                                      {"ssm_state_size", llm.ssm_state_size},
                                      {"n_groups", llm.n_groups},
                                      {"conv_kernel", llm.conv_kernel},
                                      {"chunk_size", llm.chunk_size}}},
      {"vision", json::object{{"num_layers", config.vision.num_layers},
                              {"hidden_size", config.vision.hidden_size},
                              {"num_heads", config.vision.num_heads},
                              {"intermediate_size", config.vision.intermediate_size},
                              {"patch_size", config.patch_size},
                              {"tile_size", config.force_image_size},
                              {"tokens_per_tile", config.tokens_per_tile()},
                              {"max_num_tiles", config.max_num_tiles},
                              {"use_thumbnail", config.use_thumbnail}}}};
  json::array& tensors = out["tensors"].emplace_array();
  for (const ModelSummary::Tensors& item : summary.tensors) {
    tensors.push_back(json::object{{"dtype", item.dtype},
                                   {"count", item.count},
                                   {"elements", item.elements},
                                   {"bytes", item.bytes}});
  }
  json::array& modules = out["modules"].emplace_array();
  for (const ModelSummary::Module& item : summary.modules) {
    json::array shape;
    for (const int64_t dim : item.shape) shape.push_back(dim);
    modules.push_back(json::object{{"name", item.name},
                                   {"layers", number_ranges(item.layers)},
                                   {"precision", item.precision},
                                   {"shape", std::move(shape)}});
  }
  return out;
}

json::object plan_json(const MemoryPlan& plan) {
  return {{"total", plan.total()},
          {"weights", plan.weights},
          {"vision_weights", plan.vision_weights},
          {"kv_cache", plan.kv_cache},
          {"state_slots", plan.state_slots},
          {"activations", plan.activations},
          {"encoder_cache", plan.encoder_cache},
          {"device_scratch", plan.device_scratch},
          {"kv_bytes_per_token", plan.kv_bytes_per_token},
          {"state_bytes_per_slot", plan.state_bytes_per_slot},
          {"num_kv_blocks", plan.num_kv_blocks},
          {"num_state_slots", plan.num_state_slots},
          {"block_size", plan.block_size},
          {"max_model_len", plan.max_model_len},
          {"max_num_seqs", plan.max_num_seqs},
          {"max_num_batched_tokens", plan.max_num_batched_tokens}};
}

}  // namespace videre
