#include "weights/safetensors_layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "base/json.h"

namespace videre {
namespace {

struct Name {
  DType dtype;
  const char* text;
};
// The format's names, in the order in which its library lays tensors out.
constexpr Name kNames[] = {{DType::kI64, "I64"},        {DType::kF64, "F64"},
                           {DType::kF32, "F32"},        {DType::kI32, "I32"},
                           {DType::kBF16, "BF16"},      {DType::kF16, "F16"},
                           {DType::kF8E4M3, "F8_E4M3"}, {DType::kI8, "I8"},
                           {DType::kU8, "U8"},          {DType::kBool, "BOOL"}};

int place_of(DType dtype) {
  const auto found = std::find_if(std::begin(kNames), std::end(kNames),
                                  [&](const Name& name) { return name.dtype == dtype; });
  VIDERE_CHECK(found != std::end(kNames)) << dtype_name(dtype);
  return static_cast<int>(found - std::begin(kNames));
}

}  // namespace

SafetensorsLayout::SafetensorsLayout(std::vector<TensorEntry> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorEntry& a, const TensorEntry& b) {
    const int place_a = place_of(a.dtype), place_b = place_of(b.dtype);
    return place_a != place_b ? place_a < place_b : a.name < b.name;
  });
  std::string text = R"({"__metadata__":{"format":"pt"})";
  for (const TensorEntry& tensor : tensors) {
    const int64_t size = tensor.shape.numel() * static_cast<int64_t>(dtype_size(tensor.dtype));
    std::vector<int64_t> dims;
    for (int i = 0; i < tensor.shape.rank(); ++i) dims.push_back(tensor.shape[i]);
    text += fmt::format(R"(,{}:{{"dtype":"{}","shape":[{}],"data_offsets":[{},{}]}})",
                        to_json(json::string(tensor.name)), kNames[place_of(tensor.dtype)].text,
                        fmt::join(dims, ","), data_bytes_, data_bytes_ + size);
    VIDERE_CHECK(offsets_.emplace(tensor.name, data_bytes_).second) << tensor.name;
    data_bytes_ += size;
  }
  text += '}';
  while (text.size() % 8 != 0) text += ' ';
  for (int i = 0; i < 8; ++i) header_ += static_cast<char>(text.size() >> (8 * i) & 0xff);
  header_ += text;
}

int64_t SafetensorsLayout::offset(const std::string& name) const {
  const auto found = offsets_.find(name);
  VIDERE_CHECK(found != offsets_.end()) << name;
  return static_cast<int64_t>(header_.size()) + found->second;
}

std::string safetensors_index(const std::map<std::string, std::string>& shard_of,
                              int64_t data_bytes) {
  std::string index = fmt::format(
      "{{\n  \"metadata\": {{\n    \"total_size\": {}\n  }},\n  \"weight_map\": {{", data_bytes);
  const char* comma = "";
  for (const auto& [name, shard] : shard_of) {
    index += fmt::format("{}\n    {}: {}", comma, to_json(json::string(name)),
                         to_json(json::string(shard)));
    comma = ",";
  }
  return index + "\n  }\n}\n";
}

}  // namespace videre
