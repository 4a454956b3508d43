#include "weights/safetensors.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/json.h"

namespace videre {
namespace {

constexpr uint64_t kMaxHeaderBytes = 100u << 20;  // the format's own limit

std::optional<DType> parse_dtype(std::string_view name) {
  constexpr std::pair<std::string_view, DType> kNames[] = {
      {"F64", DType::kF64},   {"F32", DType::kF32}, {"F16", DType::kF16},
      {"BF16", DType::kBF16}, {"I64", DType::kI64}, {"F8_E4M3", DType::kF8E4M3},
      {"I32", DType::kI32},   {"U8", DType::kU8},   {"I8", DType::kI8},
      {"BOOL", DType::kBool},
  };
  for (const auto& [key, dtype] : kNames) {
    if (key == name) return dtype;
  }
  return std::nullopt;
}

struct Range {
  uint64_t begin, end;
  std::string name;
};

}  // namespace

Result<std::map<std::string, StoredTensor>> read_safetensors(const MappedFile& file) {
  const auto bytes = file.bytes();
  if (bytes.size() < 8) {
    return invalid_model("{} is {} bytes; a safetensors file starts with an 8-byte header length",
                         file.path(), bytes.size());
  }
  uint64_t header_size = 0;
  std::memcpy(&header_size, bytes.data(), 8);
  if (header_size > kMaxHeaderBytes || header_size > bytes.size() - 8) {
    return invalid_model(
        "{}: the header claims {} bytes, the file has {}; it is truncated or no safetensors file",
        file.path(), header_size, bytes.size() - 8);
  }
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + 8, header_size);
  auto parsed = parse_json(header, file.path() + " (header)",
                           {.max_depth = 8, .max_size_bytes = kMaxHeaderBytes});
  if (!parsed.ok()) return invalid_model("{}", parsed.error().message);
  if (!parsed->is_object()) return invalid_model("{}: the header is no JSON object", file.path());

  const uint8_t* data = bytes.data() + 8 + header_size;
  const uint64_t data_size = bytes.size() - 8 - header_size;
  std::map<std::string, StoredTensor> tensors;
  std::vector<Range> ranges;
  for (const auto& [key, entry] : parsed->get_object()) {
    const std::string name(key);
    if (name == "__metadata__") continue;
    const json::value* dtype_value = json_find(entry, "dtype");
    const json::value* shape_value = json_find(entry, "shape");
    const json::value* offsets_value = json_find(entry, "data_offsets");
    if (!dtype_value || !dtype_value->is_string() || !shape_value || !shape_value->is_array() ||
        !offsets_value || !offsets_value->is_array() || offsets_value->get_array().size() != 2) {
      return invalid_model(
          "{}: tensor {} needs \"dtype\", \"shape\" and \"data_offsets\" of two numbers",
          file.path(), name);
    }
    const auto dtype = parse_dtype(dtype_value->get_string());
    if (!dtype) {
      return invalid_model("{}: tensor {} has dtype {}, which is not read", file.path(), name,
                           std::string_view(dtype_value->get_string()));
    }
    const auto& dims = shape_value->get_array();
    if (dims.size() > kMaxRank) {
      return invalid_model("{}: tensor {} has {} dims; at most {} are read", file.path(), name,
                           dims.size(), kMaxRank);
    }
    Shape shape;
    uint64_t count = 1;
    bool dims_ok = true;
    std::vector<int64_t> sizes;
    for (const auto& dim : dims) {
      dims_ok = dims_ok && dim.is_int64() && dim.get_int64() >= 0;
      if (!dims_ok) break;
      sizes.push_back(dim.get_int64());
      dims_ok = !__builtin_mul_overflow(count, static_cast<uint64_t>(dim.get_int64()), &count) &&
                count <= data_size;
      if (!dims_ok) break;
    }
    if (!dims_ok) {
      return invalid_model(
          "{}: tensor {} has shape {}, which does not fit the file's {} data bytes", file.path(),
          name, to_json(*shape_value), data_size);
    }
    switch (sizes.size()) {
      case 1:
        shape = {sizes[0]};
        break;
      case 2:
        shape = {sizes[0], sizes[1]};
        break;
      case 3:
        shape = {sizes[0], sizes[1], sizes[2]};
        break;
      case 4:
        shape = {sizes[0], sizes[1], sizes[2], sizes[3]};
        break;
      default:
        break;
    }
    const auto& offsets = offsets_value->get_array();
    if (!offsets[0].is_int64() || !offsets[1].is_int64() || offsets[0].get_int64() < 0 ||
        offsets[1].get_int64() < offsets[0].get_int64() ||
        static_cast<uint64_t>(offsets[1].get_int64()) > data_size) {
      return invalid_model(
          "{}: tensor {} lies at {} of {} data bytes; the file is truncated or its header is wrong",
          file.path(), name, to_json(*offsets_value), data_size);
    }
    const uint64_t begin = offsets[0].get_int64(), end = offsets[1].get_int64();
    if (end - begin != count * dtype_size(*dtype)) {
      return invalid_model("{}: tensor {} of {} {} needs {} bytes but its offsets span {}",
                           file.path(), name, dtype_name(*dtype), shape.to_string(),
                           count * dtype_size(*dtype), end - begin);
    }
    if (!tensors.emplace(name, StoredTensor{ConstView(data + begin, *dtype, shape), file.path()})
             .second) {
      return invalid_model("{}: tensor {} is listed twice", file.path(), name);
    }
    ranges.push_back({begin, end, name});
  }
  std::sort(ranges.begin(), ranges.end(), [](const Range& a, const Range& b) {
    return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
  });
  uint64_t covered = 0;
  for (const Range& range : ranges) {
    if (range.begin != covered) {
      return invalid_model(
          "{}: tensor {} starts at byte {}, where {} was expected; tensors overlap or leave a hole",
          file.path(), range.name, range.begin, covered);
    }
    covered = range.end;
  }
  if (covered != data_size) {
    return invalid_model("{}: tensors cover {} of {} data bytes", file.path(), covered, data_size);
  }
  return tensors;
}

}  // namespace videre
