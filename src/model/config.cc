#include "model/config.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/mapped_file.h"

namespace videre {
namespace {

constexpr size_t kMaxConfigBytes = 16u << 20;
constexpr int64_t kMaxDim =
    1 << 24;  // larger sizes overflow products long before any real model has them

// One JSON object with its name, so that errors can say `llm_config.hidden_size`.
class Reader {
 public:
  Reader(const json::value* object, std::string name) : object_(object), name_(std::move(name)) {}

  bool has(std::string_view key) const { return find({key}) != nullptr; }
  const json::value* find(std::initializer_list<std::string_view> keys) const {
    if (!object_) return nullptr;
    for (const std::string_view key : keys) {
      const json::value* value = json_find(*object_, key);
      if (value && !value->is_null()) return value;
    }
    return nullptr;
  }
  std::string path(std::string_view key) const {
    return name_.empty() ? std::string(key) : name_ + "." + std::string(key);
  }

  std::optional<int64_t> integer(std::initializer_list<std::string_view> keys, int64_t low,
                                 int64_t high) {
    const json::value* value = find(keys);
    if (!value) return std::nullopt;
    const auto number = json_number(*value);
    if (!number || *number != std::floor(*number) || *number < static_cast<double>(low) ||
        *number > static_cast<double>(high)) {
      fail("{} is {}; a whole number from {} to {} is expected", path(*keys.begin()),
           to_json(*value), low, high);
      return std::nullopt;
    }
    return static_cast<int64_t>(*number);
  }
  int required(std::initializer_list<std::string_view> keys, int64_t low = 1,
               int64_t high = kMaxDim) {
    const auto value = integer(keys, low, high);
    if (!value) fail("config.json lacks {}", path(*keys.begin()));
    return static_cast<int>(value.value_or(low));
  }
  std::optional<double> number(std::initializer_list<std::string_view> keys) {
    const json::value* value = find(keys);
    if (!value) return std::nullopt;
    const auto number = json_number(*value);
    if (!number) fail("{} is {}; a number is expected", path(*keys.begin()), to_json(*value));
    return number;
  }
  bool boolean(std::string_view key, bool fallback) {
    const json::value* value = find({key});
    if (!value) return fallback;
    if (!value->is_bool()) {
      fail("{} is {}; true or false is expected", path(key), to_json(*value));
      return fallback;
    }
    return value->get_bool();
  }
  std::string text(std::initializer_list<std::string_view> keys, std::string fallback) {
    const json::value* value = find(keys);
    if (!value) return fallback;
    if (!value->is_string()) {
      fail("{} is {}; a string is expected", path(*keys.begin()), to_json(*value));
      return fallback;
    }
    return std::string(value->get_string());
  }
  Reader child(std::initializer_list<std::string_view> keys) const {
    const json::value* value = find(keys);
    Reader reader(value && value->is_object() ? value : nullptr, path(*keys.begin()));
    reader.error_ = error_;
    return reader;
  }
  explicit operator bool() const { return object_ != nullptr; }

  template <typename... Args>
  void fail(fmt::format_string<Args...> format, Args&&... args) {
    if (!*error_) *error_ = invalid_model(format, std::forward<Args>(args)...);
  }
  const std::optional<Error>& error() const { return *error_; }

 private:
  const json::value* object_;
  std::string name_;
  std::shared_ptr<std::optional<Error>> error_ =
      std::make_shared<std::optional<Error>>();  // the first one
};

std::vector<LayerKind> read_pattern(Reader& llm) {
  std::string pattern = llm.text({"hybrid_override_pattern"}, "");
  if (pattern.empty()) {
    const json::value* list = llm.find({"layers_block_type", "layer_types"});
    if (list && list->is_array()) {
      for (const json::value& item : list->get_array()) {
        const std::string_view kind = item.is_string() ? std::string_view(item.get_string()) : "";
        if (kind == "mamba" || kind == "linear_attention")
          pattern += 'M';
        else if (kind == "attention" || kind == "full_attention")
          pattern += '*';
        else if (kind == "mlp")
          pattern += '-';
        else if (kind == "moe")
          pattern += 'E';
        else
          llm.fail("{} holds {}; mamba, attention or mlp is expected",
                   llm.path("layers_block_type"), to_json(item));
      }
    }
  }
  if (pattern.empty()) llm.fail("config.json lacks {}", llm.path("hybrid_override_pattern"));
  if (pattern.size() > 4096)
    llm.fail("{} has {} blocks", llm.path("hybrid_override_pattern"), pattern.size());
  std::vector<LayerKind> kinds;
  for (const char c : pattern) {
    switch (c) {
      case 'M':
        kinds.push_back(LayerKind::kMamba2);
        break;
      case '*':
        kinds.push_back(LayerKind::kAttention);
        break;
      case '-':
        kinds.push_back(LayerKind::kMlp);
        break;
      case 'E':
        llm.fail("{} has a mixture-of-experts block (E); only M, * and - blocks run here",
                 llm.path("hybrid_override_pattern"));
        return {};
      default:
        llm.fail("{} has the block '{}'; M, * and - are known", llm.path("hybrid_override_pattern"),
                 c);
        return {};
    }
  }
  if (const auto count = llm.integer({"num_hidden_layers"}, 1, 4096);
      count && *count != static_cast<int64_t>(kinds.size())) {
    llm.fail("{} is {} but the pattern \"{}\" has {} blocks", llm.path("num_hidden_layers"), *count,
             pattern, kinds.size());
  }
  return kinds;
}

// Widths of the MLP blocks: one number, or a list with one for each MLP block or for each block.
// Where a checkpoint has tensors, these rule.
std::vector<int> read_intermediate_sizes(Reader& llm, const std::vector<LayerKind>& kinds) {
  const json::value* value = llm.find({"intermediate_size"});
  const auto count = static_cast<size_t>(std::count(kinds.begin(), kinds.end(), LayerKind::kMlp));
  if (!value) return {};
  if (!value->is_array()) {
    const auto width = llm.integer({"intermediate_size"}, 1, kMaxDim);
    return std::vector<int>(count, static_cast<int>(width.value_or(1)));
  }
  const json::array& list = value->get_array();
  std::vector<int> widths;
  bool good = list.size() == count || list.size() == kinds.size();
  for (size_t i = 0; good && i < list.size(); ++i) {
    if (list.size() != count && kinds[i] != LayerKind::kMlp) continue;
    const auto width = json_number(list[i]);
    good = width && *width >= 1 && *width <= kMaxDim && *width == std::floor(*width);
    if (good) widths.push_back(static_cast<int>(*width));
  }
  if (!good) {
    llm.fail("{} is {}; a whole number, or one for each of the {} MLP blocks, is expected",
             llm.path("intermediate_size"), to_json(*value).substr(0, 80), count);
  }
  return widths;
}

void refuse(Reader& reader, std::string_view key, std::string_view why) {
  const json::value* value = reader.find({key});
  if (!value || (value->is_bool() && !value->get_bool())) return;
  if (value->is_array() && value->get_array().empty()) return;
  if (value->is_object() && value->get_object().empty()) return;
  reader.fail("{} is set: {}", reader.path(key), why);
}

LanguageConfig read_language(Reader& llm) {
  LanguageConfig out;
  if (!llm) {
    llm.fail("config.json has neither llm_config nor text_config");
    return out;
  }
  for (const std::string_view field :
       {"n_routed_experts", "num_experts", "moe_intermediate_size", "num_experts_per_tok"}) {
    if (const json::value* value = llm.find({field});
        value && json_number(*value).value_or(0) > 0) {
      llm.fail("{} gives away a mixture-of-experts model; only the dense 12B family runs here",
               llm.path(field));
      return out;
    }
  }
  refuse(llm, "sliding_window", "attention over a window is not part of this family");
  out.layer_kinds = read_pattern(llm);
  out.intermediate_sizes = read_intermediate_sizes(llm, out.layer_kinds);
  out.hidden_size = llm.required({"hidden_size"});
  out.vocab_size = llm.required({"vocab_size"});
  out.num_attention_heads = llm.required({"num_attention_heads"});
  out.num_key_value_heads = llm.required({"num_key_value_heads"});
  out.head_dim = llm.required({"head_dim", "attention_head_dim"}, 1, 1024);
  out.mamba_num_heads = llm.required({"mamba_num_heads"});
  out.mamba_head_dim = llm.required({"mamba_head_dim"}, 1, 4096);
  out.ssm_state_size =
      llm.required({"ssm_state_size", "mamba_state_dim", "mamba_d_state"}, 1, 4096);
  out.n_groups = llm.required({"n_groups", "mamba_n_groups", "mamba_num_groups"});
  out.conv_kernel = llm.required({"conv_kernel", "mamba_d_conv"}, 1, 64);
  out.chunk_size =
      static_cast<int>(llm.integer({"chunk_size", "mamba_chunk_size"}, 1, 4096).value_or(128));
  out.layer_norm_epsilon = static_cast<float>(
      llm.number({"layer_norm_epsilon", "rms_norm_eps", "norm_eps"}).value_or(1e-5));
  out.residual_in_fp32 = llm.boolean("residual_in_fp32", false);
  out.tie_word_embeddings = llm.boolean("tie_word_embeddings", false);
  out.use_conv_bias =
      llm.boolean(llm.has("use_conv_bias") ? "use_conv_bias" : "mamba_conv_bias", true);
  out.max_position_embeddings =
      llm.integer({"max_position_embeddings"}, 1, int64_t{1} << 40).value_or(131072);
  out.mamba_ssm_cache_dtype = llm.text({"mamba_ssm_cache_dtype"}, "");
  if (const json::value* limit = llm.find({"time_step_limit", "mamba_dt_limit"})) {
    const bool pair = limit->is_array() && limit->get_array().size() == 2;
    const auto low = pair ? json_number(limit->get_array()[0]) : std::nullopt;
    const auto high = pair ? json_number(limit->get_array()[1]) : std::nullopt;
    if (!low || !high || !(*low <= *high)) {
      llm.fail("{} is {}; two rising numbers are expected", llm.path("time_step_limit"),
               to_json(*limit));
    } else {
      out.time_step_min = static_cast<float>(*low);
      out.time_step_max = static_cast<float>(*high);
    }
  }
  if (const std::string act = llm.text({"mamba_hidden_act"}, "silu");
      act != "silu" && act != "swish") {
    llm.fail("{} is \"{}\"; silu is expected", llm.path("mamba_hidden_act"), act);
  }
  if (const std::string act = llm.text({"mlp_hidden_act"}, "relu2"); act != "relu2") {
    llm.fail("{} is \"{}\"; relu2 is expected", llm.path("mlp_hidden_act"), act);
  }
  if (llm.error()) return out;
  if (out.num_attention_heads % out.num_key_value_heads != 0) {
    llm.fail("{} query heads do not divide among {} KV heads", out.num_attention_heads,
             out.num_key_value_heads);
  } else if (out.mamba_num_heads % out.n_groups != 0) {
    llm.fail("{} Mamba heads do not divide among {} groups", out.mamba_num_heads, out.n_groups);
  } else if (int64_t{out.mamba_num_heads} * out.mamba_head_dim > kMaxDim ||
             int64_t{out.num_attention_heads} * out.head_dim > kMaxDim ||
             int64_t{out.n_groups} * out.ssm_state_size > kMaxDim) {
    llm.fail("the head counts and sizes of {} multiply to more than {}", llm.path("*"), kMaxDim);
  }
  return out;
}

struct TowerSize {
  std::string_view name;
  int width, blocks, heads, mlp;
};
constexpr TowerSize kTowers[] = {
    {"vit_small", 384, 12, 6, 1536},
    {"vit_base", 768, 12, 12, 3072},
    {"vit_large", 1024, 24, 16, 4096},
    {"vit_huge", 1280, 32, 16, 5120},
};

// Class tokens, one a teacher of the tower's training, and registers up to a round number; 0 when
// nothing is said of them.
int read_prefix_tokens(Reader& vision, Reader& args) {
  const json::value* teachers = args.find({"teachers"});
  auto classes = vision.integer({"num_cls_tokens"}, 0, 1 << 16);
  if (!classes && !(teachers && teachers->is_array())) return 0;
  if (!classes && args.boolean("cls_token_per_teacher", true)) {
    std::set<std::string> names;
    for (const json::value& teacher : teachers->get_array()) {
      const json::value* name = json_find(teacher, "name");
      if (name && name->is_string()) names.emplace(name->get_string());
    }
    classes = static_cast<int64_t>(names.size());
  }
  const int64_t num_classes = classes.value_or(1);
  auto registers = vision.integer({"num_registers"}, 0, 1 << 16);
  if (!registers) {
    const int64_t multiple = args.integer({"register_multiple"}, 0, 1 << 16).value_or(0);
    registers = multiple > 0 ? multiple - num_classes % multiple : 0;
  }
  return static_cast<int>(num_classes + *registers);
}

VisionConfig read_vision(Reader& vision) {
  VisionConfig out;
  if (!vision) {
    vision.fail("config.json has no vision_config");
    return out;
  }
  Reader args = vision.child({"args"});
  for (const std::string_view field :
       {"feature_normalizer_config", "inter_feature_normalizer_config", "vitdet_window_size"}) {
    refuse(vision, field, "this tower variant is not part of the family");
  }
  for (const std::string_view field :
       {"min_num_patches", "max_num_patches", "video_temporal_patch_size"}) {
    if (args.has(field) || vision.has(field)) {
      vision.fail(
          "{} gives away the Omni tower (dynamic resolution, temporal patches); only the 12B "
          "family runs here",
          args.path(field));
    }
  }
  const std::string name = args.text({"model"}, "");
  const auto table =
      std::find_if(std::begin(kTowers), std::end(kTowers), [&](const TowerSize& tower) {
        return name == tower.name || name == std::string(tower.name) + "_patch16_224";
      });
  const bool known = table != std::end(kTowers);
  const auto field = [&](std::initializer_list<std::string_view> keys, int from_table) {
    const auto value = vision.integer(keys, 1, kMaxDim);
    if (!value && !known) {
      vision.fail("vision_config gives neither {} nor a known args.model (\"{}\")",
                  vision.path(*keys.begin()), name);
    }
    return static_cast<int>(value.value_or(known ? from_table : 1));
  };
  out.hidden_size = field({"hidden_size"}, known ? table->width : 0);
  out.num_layers = field({"num_hidden_layers"}, known ? table->blocks : 0);
  out.num_heads = field({"num_attention_heads"}, known ? table->heads : 0);
  if (const auto ratio = vision.number({"mlp_ratio"}); ratio && !vision.has("intermediate_size")) {
    if (!(*ratio >= 0.01 && *ratio <= 64)) {
      vision.fail("vision_config.mlp_ratio is {}; from 0.01 to 64 is expected", *ratio);
    } else {
      out.intermediate_size = static_cast<int>(*ratio * out.hidden_size);
    }
  } else {
    out.intermediate_size = field({"intermediate_size"}, known ? table->mlp : 0);
  }
  out.patch_size = static_cast<int>(vision.integer({"patch_size"}, 1, 256).value_or(16));
  out.layer_norm_eps = static_cast<float>(vision.number({"layer_norm_eps"}).value_or(1e-6));
  out.model_norm = args.boolean("model_norm", false);
  out.num_prefix_tokens = read_prefix_tokens(vision, args);
  auto side = vision.integer({"max_img_size"}, 1, 1 << 16);
  if (!side) side = args.integer({"cpe_max_size"}, 1, 1 << 16);
  if (!side) side = vision.integer({"max_resolution"}, 1, 1 << 16);
  out.position_grid = static_cast<int>(side.value_or(2048) / out.patch_size);
  if (!vision.error() && out.hidden_size % out.num_heads != 0) {
    vision.fail("vision width {} does not divide among {} heads", out.hidden_size, out.num_heads);
  }
  if (!vision.error() && out.position_grid < 1)
    vision.fail("the position grid of vision_config is empty");
  return out;
}

void read_triplet(Reader& reader, std::string_view key, std::array<float, 3>& out, bool& present) {
  const json::value* value = reader.find({key});
  if (!value) return;
  if (!value->is_array() || value->get_array().size() != 3) {
    reader.fail("{} is {}; three numbers are expected", reader.path(key), to_json(*value));
    return;
  }
  for (int i = 0; i < 3; ++i) {
    const auto number = json_number(value->get_array()[i]);
    if (!number || !std::isfinite(*number)) {
      reader.fail("{} is {}; three numbers are expected", reader.path(key), to_json(*value));
      return;
    }
    out[i] = static_cast<float>(*number);
  }
  present = true;
}

void read_token_ids(Reader& reader, std::string_view key, std::set<int32_t>& out) {
  const json::value* value = reader.find({key});
  if (!value) return;
  const auto add = [&](const json::value& item) {
    const auto number = json_number(item);
    if (number && *number >= 0 && *number < kMaxDim && *number == std::floor(*number)) {
      out.insert(static_cast<int32_t>(*number));
    } else {
      reader.fail("{} is {}; token ids are expected", reader.path(key), to_json(*value));
    }
  };
  if (value->is_array()) {
    for (const json::value& item : value->get_array()) add(item);
  } else {
    add(*value);
  }
}

void read_strings(const json::value* value, std::vector<std::string>& out) {
  if (!value || !value->is_array()) return;
  for (const json::value& item : value->get_array()) {
    if (item.is_string()) out.emplace_back(item.get_string());
  }
}

std::string upper(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](unsigned char c) { return std::toupper(c); });
  return text;
}

// Declared quantisation: `quantization_config` of config.json (top or inside llm_config), else
// hf_quant_config.json.
void read_quantization(Reader& top, Reader& llm, Reader& hf, Config& out) {
  Reader inside = top.child({"quantization_config"});
  if (!inside) inside = llm.child({"quantization_config"});
  Reader outside = hf.child({"quantization"});
  std::string declared[2];
  if (inside) {
    declared[0] = upper(inside.text({"quant_algo"}, ""));
    if (declared[0].empty()) {
      declared[0] = inside.text({"quant_method"}, "") == "modelopt_fp4" ? "NVFP4" : "FP8";
    }
    read_strings(inside.find({"ignore", "exclude_modules"}), out.quant_exclude);
    if (Reader scheme = inside.child({"kv_cache_scheme"}); scheme) {
      if (scheme.integer({"num_bits"}, 1, 64) == 8) out.kv_cache_quant_algo = "FP8";
    }
    if (inside.has("kv_cache_quant_algo"))
      out.kv_cache_quant_algo = upper(inside.text({"kv_cache_quant_algo"}, ""));
  }
  if (outside) {
    declared[1] = upper(outside.text({"quant_algo"}, ""));
    if (!inside) {
      read_strings(outside.find({"exclude_modules"}), out.quant_exclude);
      out.kv_cache_quant_algo = upper(outside.text({"kv_cache_quant_algo"}, ""));
    }
  }
  if (!declared[0].empty() && !declared[1].empty() && declared[0] != declared[1]) {
    top.fail(
        "config.json declares quant_algo {} and hf_quant_config.json {}; which one holds is "
        "unknown",
        declared[0], declared[1]);
  }
  out.quant_algo = declared[0].empty() ? declared[1] : declared[0];
  constexpr std::string_view kKnown[] = {
      "", "FP8", "NVFP4", "W4A16_NVFP4", "FP8_PER_CHANNEL_PER_TOKEN", "MIXED_PRECISION"};
  if (std::find(std::begin(kKnown), std::end(kKnown), out.quant_algo) == std::end(kKnown)) {
    top.fail("quant_algo {} is not read; FP8, NVFP4 and MIXED_PRECISION are", out.quant_algo);
  }
  if (!out.kv_cache_quant_algo.empty() && out.kv_cache_quant_algo != "FP8") {
    top.fail("kv_cache_quant_algo {} is not read; FP8 is", out.kv_cache_quant_algo);
  }
}

Result<json::value> parse_companion(std::string_view text, const char* name) {
  if (text.empty()) return json::value(json::object());
  auto parsed = parse_json(text, name, {.max_depth = 64, .max_size_bytes = kMaxConfigBytes});
  if (!parsed.ok()) return invalid_model("{}", parsed.error().message);
  if (!parsed->is_object()) return invalid_model("{} is no JSON object", name);
  return parsed;
}

}  // namespace

int LanguageConfig::count(LayerKind kind) const {
  return static_cast<int>(std::count(layer_kinds.begin(), layer_kinds.end(), kind));
}

bool Config::excluded_from_quantization(const std::string& module) const {
  // Entries are names or globs, with or without "language_model."; a plain entry also covers what
  // lies under it.
  const auto matches = [](std::string_view pattern, std::string_view name) {
    size_t p = 0, n = 0, star = pattern.npos, mark = 0;
    while (n < name.size()) {
      if (p < pattern.size() && pattern[p] == '*') {
        star = p++;
        mark = n;
      } else if (p < pattern.size() && pattern[p] == name[n]) {
        ++p, ++n;
      } else if (star != pattern.npos) {
        p = star + 1;
        n = ++mark;
      } else {
        return false;
      }
    }
    while (p < pattern.size() && pattern[p] == '*') ++p;
    return p == pattern.size();
  };
  constexpr std::string_view kHead = "language_model.";
  const std::string_view full = module;
  const std::string_view bare = full.starts_with(kHead) ? full.substr(kHead.size()) : full;
  for (const std::string& entry : quant_exclude) {
    for (const std::string_view name : {full, bare}) {
      if (matches(entry, name) || matches(entry + ".*", name)) return true;
    }
  }
  return false;
}

Result<Config> parse_config(std::string_view config_json, std::string_view generation_json,
                            std::string_view preprocessor_json, std::string_view hf_quant_json) {
  VIDERE_ASSIGN_OR_RETURN(const json::value config, parse_companion(config_json, "config.json"));
  VIDERE_ASSIGN_OR_RETURN(const json::value generation,
                          parse_companion(generation_json, "generation_config.json"));
  VIDERE_ASSIGN_OR_RETURN(const json::value preprocessor,
                          parse_companion(preprocessor_json, "preprocessor_config.json"));
  VIDERE_ASSIGN_OR_RETURN(const json::value hf_quant,
                          parse_companion(hf_quant_json, "hf_quant_config.json"));
  Config out;
  Reader top(&config, "");
  const json::value* names = top.find({"architectures"});
  std::vector<std::string> architectures;
  read_strings(names, architectures);
  if (std::find(architectures.begin(), architectures.end(), "NemotronH_Nano_VL_V2") ==
      architectures.end()) {
    return invalid_model("architectures is {}; Videre runs NemotronH_Nano_VL_V2",
                         names ? to_json(*names) : "missing");
  }
  for (const std::string_view field : {"sound_config", "audio_config", "sound_context_token_id"}) {
    if (top.has(field)) {
      return invalid_model(
          "{} gives away the Omni family; only the 12B vision-language family runs here", field);
    }
  }
  Reader llm = top.child({"llm_config", "text_config"});
  Reader vision = top.child({"vision_config"});
  out.llm = read_language(llm);
  out.vision = read_vision(vision);

  out.force_image_size = top.required({"force_image_size"}, 1, 8192);
  out.patch_size =
      static_cast<int>(top.integer({"patch_size"}, 1, 256).value_or(out.vision.patch_size));
  const double ratio = top.number({"downsample_ratio"}).value_or(0.5);
  out.shuffle_factor =
      ratio >= 1.0 / 64 && ratio <= 1 ? static_cast<int>(std::lround(1 / ratio)) : 0;
  if (out.shuffle_factor < 1 || out.shuffle_factor > 64)
    top.fail("downsample_ratio is {}; from 1/64 to 1 is expected", ratio);
  const std::string version = top.text({"ps_version"}, "v1");
  if (version != "v1" && version != "v2")
    top.fail("ps_version is \"{}\"; v1 or v2 is expected", version);
  out.ps_v1 = version == "v1";
  out.projector_hidden_size = top.required({"projector_hidden_size"});

  Reader pre(&preprocessor, "preprocessor_config.json");
  bool has_mean = false, has_std = false;
  for (Reader* reader : {&pre, &top}) {  // config.json wins
    read_triplet(*reader, "norm_mean", out.norm_mean, has_mean);
    read_triplet(*reader, "norm_std", out.norm_std, has_std);
  }
  if (!has_mean || !has_std) {
    log_warning("config.json gives no norm_mean or norm_std; CLIP's pixel statistics are used");
    out.norm_mean = {0.48145466f, 0.4578275f, 0.40821073f};
    out.norm_std = {0.26862954f, 0.26130258f, 0.27577711f};
  }
  for (const float value : out.norm_std) {
    if (!(value > 0)) top.fail("norm_std holds {}; positive numbers are expected", value);
  }
  auto tiles = pre.integer({"max_num_tiles"}, 1, 64);
  if (!tiles) tiles = top.integer({"max_num_tiles"}, 1, 64);
  out.max_num_tiles = static_cast<int>(tiles.value_or(12));
  out.use_thumbnail = pre.has("use_thumbnail") ? pre.boolean("use_thumbnail", true)
                                               : top.boolean("use_thumbnail", true);

  out.img_context_token_id =
      static_cast<int32_t>(top.integer({"img_context_token_id"}, 0, kMaxDim).value_or(-1));
  out.video_context_token_id =
      static_cast<int32_t>(top.integer({"video_context_token_id"}, 0, kMaxDim).value_or(-1));
  out.img_context_token = top.text({"img_context_token"}, out.img_context_token);
  out.img_start_token = top.text({"img_start_token"}, out.img_start_token);
  out.img_end_token = top.text({"img_end_token"}, out.img_end_token);
  out.video_context_token = top.text({"video_context_token"}, out.video_context_token);
  out.max_model_len = std::min(
      out.llm.max_position_embeddings,
      top.integer({"max_sequence_length"}, 1, int64_t{1} << 40).value_or(int64_t{1} << 40));

  Reader gen(&generation, "generation_config.json");
  out.bos_token_id = static_cast<int32_t>(llm.integer({"bos_token_id"}, 0, kMaxDim).value_or(1));
  std::set<int32_t> primary;
  read_token_ids(llm, "eos_token_id", primary);
  out.eos_token_ids = primary;
  read_token_ids(top, "eos_token_id", out.eos_token_ids);
  read_token_ids(gen, "eos_token_id", out.eos_token_ids);
  if (!primary.empty())
    out.primary_eos_id = *primary.begin();
  else if (!out.eos_token_ids.empty())
    out.primary_eos_id = *out.eos_token_ids.begin();
  out.generation.temperature = gen.number({"temperature"});
  out.generation.top_p = gen.number({"top_p"});
  out.generation.min_p = gen.number({"min_p"});
  out.generation.repetition_penalty = gen.number({"repetition_penalty"});
  out.generation.top_k = gen.integer({"top_k"}, -1, kMaxDim);
  out.generation.max_new_tokens = gen.integer({"max_new_tokens"}, 1, int64_t{1} << 40);

  Reader hf(&hf_quant, "hf_quant_config.json");
  read_quantization(top, llm, hf, out);

  for (const Reader* reader : {&llm, &vision, &top, &pre, &gen, &hf}) {
    if (reader->error()) return *reader->error();
  }
  if (out.patch_size != out.vision.patch_size ||
      out.force_image_size % (out.patch_size * out.shuffle_factor) != 0) {
    return invalid_model(
        "force_image_size {} with patch_size {} (vision_config: {}) and a shuffle of {} leaves no "
        "whole "
        "tokens",
        out.force_image_size, out.patch_size, out.vision.patch_size, out.shuffle_factor);
  }
  return out;
}

Result<Config> load_config(const ModelFiles& files) {
  VIDERE_ASSIGN_OR_RETURN(const std::string config, files.text("config.json", kMaxConfigBytes));
  std::string companions[3];
  const char* kNames[] = {"generation_config.json", "preprocessor_config.json",
                          "hf_quant_config.json"};
  for (int i = 0; i < 3; ++i) {
    auto text = files.text(kNames[i], kMaxConfigBytes);
    if (text.ok())
      companions[i] = std::move(*text);
    else if (text.error().code != ErrorCode::kNotFound)
      return text.error();
  }
  return parse_config(config, companions[0], companions[1], companions[2]);
}

}  // namespace videre
