#include "weights/checkpoint.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <set>

#include "base/error.h"
#include "base/json.h"
#include "base/log.h"

namespace videre {
namespace {

constexpr size_t kMaxIndexBytes = 100u << 20;
constexpr const char* kIndexName = "model.safetensors.index.json";

// Names that other tools write and this model does not use; docs/model.md#tensors.
bool ignorable(std::string_view name) {
  constexpr std::array kParts = {"summary_idxs",
                                 "input_conditioner.",
                                 "video_embedder.",
                                 "feature_normalizer.",
                                 "adaptors.",
                                 ".head.",
                                 "input_scale",
                                 "weight_scale",
                                 "k_scale",
                                 "v_scale",
                                 ".ls1",
                                 ".ls2",
                                 "radio_model.model.norm."};
  return std::any_of(kParts.begin(), kParts.end(), [&](std::string_view part) {
    return name.find(part) != std::string_view::npos;
  });
}

// File names of the shards, from the index; entries may not leave the folder.
Result<std::map<std::string, std::string>> read_index(const ModelFiles& model) {
  const std::string path = model.path() + "/" + kIndexName;
  VIDERE_ASSIGN_OR_RETURN(const std::string text, model.text(kIndexName, kMaxIndexBytes));
  auto parsed = parse_json(text, path);
  if (!parsed.ok()) return invalid_model("{}", parsed.error().message);
  const json::value* map = json_find(*parsed, "weight_map");
  if (!map || !map->is_object() || map->get_object().empty()) {
    return invalid_model("{} has no \"weight_map\" object", path);
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, file] : map->get_object()) {
    if (!file.is_string())
      return invalid_model("{}: the entry of {} is no file name", path, std::string_view(name));
    const std::string shard(file.get_string());
    if (shard.empty() || shard.find('/') != shard.npos || shard[0] == '.') {
      return invalid_model("{}: \"{}\" is not a plain file name in the checkpoint's folder", path,
                           shard);
    }
    files[std::string(name)] = shard;
  }
  return files;
}

// Place of the first NaN among e4m3 codes, or -1. Hundreds of megabytes of scales are looked
// through while a model loads: eight at a time, 0x7f + 1 reaching the top bit.
int64_t find_nan(const uint8_t* codes, int64_t count) {
  constexpr int64_t kBlock = 4096;
  for (int64_t at = 0; at < count; at += kBlock) {
    const int64_t end = std::min(count, at + kBlock);
    uint64_t found = 0;
    int64_t i = at;
    for (; i + 8 <= end; i += 8) {
      uint64_t word;
      std::memcpy(&word, codes + i, 8);
      found |= (word & 0x7f7f7f7f7f7f7f7f) + 0x0101010101010101;
    }
    if ((found & 0x8080808080808080) != 0) i = at;
    for (; i < end; ++i) {
      if ((codes[i] & 0x7f) == 0x7f) return i;
    }
  }
  return -1;
}

template <typename Element>
Element load_at(const void* data, int64_t index) {
  Element value;
  std::memcpy(&value, static_cast<const char*>(data) + index * sizeof(Element), sizeof(Element));
  return value;
}

}  // namespace

std::string Checkpoint::canonical_name(const std::string& name) {
  for (const std::string_view head :
       {"model.language_model.", "model.vision_model.", "model.mlp1."}) {
    if (name.starts_with(head)) return name.substr(6);
  }
  return name;
}

Result<std::unique_ptr<Checkpoint>> Checkpoint::open(const ModelFiles& files) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  std::map<std::string, std::string> index;  // tensor -> shard
  std::set<std::string> shards;
  if (files.contains(kIndexName)) {
    VIDERE_ASSIGN_OR_RETURN(index, read_index(files));
    for (const auto& [name, shard] : index) shards.insert(shard);
    std::vector<std::string> missing;
    for (const std::string& shard : shards) {
      if (!files.contains(shard)) missing.push_back(shard);
    }
    if (!missing.empty()) {
      return invalid_model("{} lacks {} of {} shards: {}. Download the checkpoint again.",
                           files.path(), missing.size(), shards.size(), fmt::join(missing, ", "));
    }
  } else if (files.contains("model.safetensors")) {
    shards.insert("model.safetensors");
  } else {
    return invalid_model(
        "{} holds neither model.safetensors nor model.safetensors.index.json; without weights it "
        "runs with --load-format dummy only (random ones, for measuring speed)",
        files.path());
  }
  for (const std::string& shard : shards) {
    VIDERE_ASSIGN_OR_RETURN(auto file, files.map(shard));
    VIDERE_ASSIGN_OR_RETURN(auto tensors, read_safetensors(*file));
    for (auto& [name, tensor] : tensors) {
      const auto [position, fresh] =
          checkpoint->tensors_.emplace(canonical_name(name), std::move(tensor));
      if (!fresh)
        return invalid_model("tensor {} is in {} and in {}", name, position->second.file,
                             file->path());
    }
    checkpoint->files_.push_back(std::move(file));
  }
  for (const auto& [name, shard] : index) {
    if (!checkpoint->contains(canonical_name(name))) {
      return invalid_model("the index names tensor {} in {}, but no shard holds it", name, shard);
    }
  }
  return checkpoint;
}

std::unique_ptr<Checkpoint> Checkpoint::of_tensors(std::map<std::string, StoredTensor> tensors,
                                                   std::shared_ptr<const void> owner) {
  std::unique_ptr<Checkpoint> checkpoint(new Checkpoint);
  checkpoint->tensors_ = std::move(tensors);
  checkpoint->owner_ = std::move(owner);
  return checkpoint;
}

int64_t Checkpoint::size_bytes() const {
  int64_t total = 0;
  if (files_.empty()) {
    for (const auto& [name, tensor] : tensors_) {
      total += static_cast<int64_t>(tensor.view.size_bytes());
    }
  }
  for (const auto& file : files_) total += static_cast<int64_t>(file->bytes().size());
  return total;
}

Result<ConstView> Checkpoint::tensor(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) return invalid_model("the checkpoint has no tensor {}", name);
  used_[name] = true;
  return found->second.view;
}

Result<ConstView> Checkpoint::tensor(const std::string& name, const Shape& shape) const {
  VIDERE_ASSIGN_OR_RETURN(const ConstView view, tensor(name));
  if (view.shape() != shape) {
    return invalid_model("tensor {} has shape {}; the config asks for {}", name,
                         view.shape().to_string(), shape.to_string());
  }
  return view;
}

Result<std::vector<float>> Checkpoint::floats(const std::string& name, int64_t count) const {
  VIDERE_ASSIGN_OR_RETURN(const ConstView view, tensor(name));
  if (view.numel() != count) {
    return invalid_model("tensor {} has shape {}; {} values are expected", name,
                         view.shape().to_string(), count);
  }
  std::vector<float> values(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    switch (view.dtype()) {
      case DType::kF32:
        values[i] = load_at<float>(view.raw(), i);
        break;
      case DType::kF64:
        values[i] = static_cast<float>(load_at<double>(view.raw(), i));
        break;
      case DType::kBF16:
        values[i] = to_float(load_at<BF16>(view.raw(), i));
        break;
      case DType::kF16:
        values[i] = half_to_float(load_at<uint16_t>(view.raw(), i));
        break;
      default:
        return invalid_model("tensor {} has dtype {}; a float type is expected", name,
                             dtype_name(view.dtype()));
    }
    if (!std::isfinite(values[i]))
      return invalid_model("tensor {} holds {} at {}", name, values[i], i);
  }
  return values;
}

Result<Weight> Checkpoint::linear(const std::string& module, int64_t rows, int64_t columns) const {
  Weight weight;
  weight.name = module;
  VIDERE_ASSIGN_OR_RETURN(weight.data, tensor(module + ".weight"));
  const DType dtype = weight.data.dtype();
  const std::string scale_name = module + ".weight_scale";
  Shape expected{rows, columns};

  const auto positive_scale = [&](const std::string& name) -> Result<float> {
    VIDERE_ASSIGN_OR_RETURN(const auto values, floats(name, 1));
    if (values[0] < 0)
      return invalid_model("tensor {} is {}; a scale is not negative", name, values[0]);
    return values[0];
  };
  if (dtype == DType::kF8E4M3) {
    weight.format = WeightFormat::kFp8;
    VIDERE_ASSIGN_OR_RETURN(weight.scales, tensor(scale_name));
    const int64_t count = weight.scales.numel();
    if (weight.scales.dtype() != DType::kF32 || (count != 1 && count != rows)) {
      return invalid_model("tensor {} is {} {}; FP8 needs float32, one value or {}", scale_name,
                           dtype_name(weight.scales.dtype()), weight.scales.shape().to_string(),
                           rows);
    }
    VIDERE_ASSIGN_OR_RETURN(const auto values, floats(scale_name, count));
    for (const float value : values) {
      if (value < 0)
        return invalid_model("tensor {} holds {}; a scale is not negative", scale_name, value);
    }
    weight.scales = ConstView(weight.scales.raw(), DType::kF32, Shape{count});
  } else if (dtype == DType::kU8) {
    weight.format = WeightFormat::kNvfp4;
    if (columns % 16 != 0) {
      return invalid_model("{} has {} columns; NVFP4 works in blocks of 16", module, columns);
    }
    expected = Shape{rows, columns / 2};
    VIDERE_ASSIGN_OR_RETURN(weight.scales, tensor(scale_name, Shape{rows, columns / 16}));
    if (weight.scales.dtype() != DType::kF8E4M3) {
      return invalid_model("tensor {} is {}; NVFP4 block scales are float8_e4m3fn", scale_name,
                           dtype_name(weight.scales.dtype()));
    }
    if (const int64_t i = find_nan(weight.scales.data<uint8_t>(), weight.scales.numel()); i >= 0) {
      return invalid_model("tensor {} holds NaN at {}", scale_name, i);
    }
    VIDERE_ASSIGN_OR_RETURN(weight.global_scale, positive_scale(module + ".weight_scale_2"));
  } else if (dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32) {
    if (contains(scale_name))
      log_debug("{} is {}; its leftover scales are not used", module, dtype_name(dtype));
  } else {
    return invalid_model("tensor {}.weight is {}; a linear is bf16, fp16, fp32, FP8 or NVFP4",
                         module, dtype_name(dtype));
  }
  if (weight.data.shape() != expected) {
    return invalid_model("tensor {}.weight has shape {}; the config asks for {}", module,
                         weight.data.shape().to_string(), expected.to_string());
  }
  if (weight.format != WeightFormat::kPlain && contains(module + ".input_scale")) {
    VIDERE_ASSIGN_OR_RETURN(weight.input_scale, positive_scale(module + ".input_scale"));
  }
  if (contains(module + ".bias")) {
    VIDERE_ASSIGN_OR_RETURN(weight.bias, tensor(module + ".bias", Shape{rows}));
  }
  return weight;
}

std::vector<std::string> Checkpoint::unused() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) {
    if (used_.count(name) == 0 && !ignorable(name)) names.push_back(name);
  }
  return names;
}

}  // namespace videre
