#include "tensor/npy.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"

namespace videre {
namespace {

constexpr std::string_view kMagic("\x93NUMPY", 6);
constexpr size_t kMaxHeaderBytes = 4096;       // numpy's own are below 200
constexpr int64_t kMaxDim = int64_t{1} << 40;  // far beyond any file

std::string_view descr_of(DType dtype) {
  switch (dtype) {
    case DType::kF64:
      return "<f8";
    case DType::kI32:
      return "<i4";
    case DType::kI64:
      return "<i8";
    case DType::kU8:
      return "|u1";
    case DType::kI8:
      return "|i1";
    case DType::kBool:
      return "|b1";
    case DType::kF32:
    case DType::kBF16:
    case DType::kF16:
    case DType::kF8E4M3:
      return "<f4";
  }
  return "?";
}

bool is_widened(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF8E4M3;
}

void append_row(std::string& out, const char* from, DType dtype, int64_t count, int64_t stride) {
  const auto size = static_cast<int64_t>(dtype_size(dtype));
  for (int64_t i = 0; i < count; ++i, from += stride * size) {
    if (!is_widened(dtype)) {
      out.append(from, size);
      continue;
    }
    uint16_t bits = 0;
    std::memcpy(&bits, from, size);
    const float value = dtype == DType::kBF16  ? to_float(BF16{bits})
                        : dtype == DType::kF16 ? half_to_float(bits)
                                               : e4m3_to_float(static_cast<uint8_t>(bits));
    out.append(reinterpret_cast<const char*>(&value), 4);
  }
}

// Python's dict literal, as far as a header needs it.
class HeaderReader {
 public:
  explicit HeaderReader(std::string_view text) : text_(text) {}

  void skip_spaces() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\n')) ++at_;
  }
  bool take(char c) {
    skip_spaces();
    if (at_ >= text_.size() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take_word(std::string_view word) {
    skip_spaces();
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }
  std::optional<std::string_view> string() {
    skip_spaces();
    const char quote = at_ < text_.size() ? text_[at_] : '\0';
    if (quote != '\'' && quote != '"') return std::nullopt;
    const size_t end = text_.find(quote, at_ + 1);
    if (end == text_.npos) return std::nullopt;
    const std::string_view found = text_.substr(at_ + 1, end - at_ - 1);
    at_ = end + 1;
    return found;
  }
  std::optional<int64_t> integer() {
    skip_spaces();
    const size_t first = at_;
    int64_t value = 0;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + (text_[at_++] - '0');
      if (value > kMaxDim) return std::nullopt;
    }
    if (at_ == first) return std::nullopt;
    return value;
  }
  bool done() {
    skip_spaces();
    return at_ == text_.size();
  }

 private:
  std::string_view text_;
  size_t at_ = 0;
};

struct Header {
  std::string descr;
  bool fortran_order = false;
  std::vector<int64_t> dims;
};

std::optional<Header> read_header(std::string_view text) {
  HeaderReader reader(text);
  Header header;
  bool has_descr = false, has_order = false, has_shape = false;
  if (!reader.take('{')) return std::nullopt;
  while (!reader.take('}')) {
    const auto key = reader.string();
    if (!key || !reader.take(':')) return std::nullopt;
    if (*key == "descr" && !has_descr) {
      const auto descr = reader.string();
      if (!descr) return std::nullopt;
      header.descr = *descr;
      has_descr = true;
    } else if (*key == "fortran_order" && !has_order) {
      header.fortran_order = reader.take_word("True");
      if (!header.fortran_order && !reader.take_word("False")) return std::nullopt;
      has_order = true;
    } else if (*key == "shape" && !has_shape) {
      if (!reader.take('(')) return std::nullopt;
      while (!reader.take(')')) {
        const auto dim = reader.integer();
        if (!dim) return std::nullopt;
        header.dims.push_back(*dim);
        if (reader.take(',')) continue;
        if (!reader.take(')')) return std::nullopt;
        break;
      }
      has_shape = true;
    } else {
      return std::nullopt;
    }
    if (reader.take(',')) continue;
    if (!reader.take('}')) return std::nullopt;
    break;
  }
  if (!has_descr || !has_order || !has_shape || !reader.done()) return std::nullopt;
  return header;
}

}  // namespace

std::string to_npy(ConstView view) {
  std::string shape;
  for (int axis = 0; axis < view.rank(); ++axis) shape += fmt::format("{}, ", view.dim(axis));
  if (view.rank() > 1) shape.resize(shape.size() - 2);
  if (view.rank() == 1) shape.resize(shape.size() - 1);  // (3,) is a tuple of one
  std::string header = fmt::format("{{'descr': '{}', 'fortran_order': False, 'shape': ({}), }}",
                                   descr_of(view.dtype()), shape);
  // Magic, version, length, header and a newline together fill whole blocks of 64.
  constexpr size_t kPrefix = 10, kBlock = 64;
  header.append(kBlock - 1 - (kPrefix + header.size()) % kBlock, ' ');
  header += '\n';
  std::string out(kMagic);
  out += '\x01';
  out += '\0';
  out += static_cast<char>(header.size() & 0xff);
  out += static_cast<char>(header.size() >> 8);
  out += header;

  const int64_t width = view.rank() == 0 ? 1 : view.dim(-1);
  const int64_t stride = view.rank() == 0 ? 1 : view.stride(-1);
  const int64_t rows = width == 0 ? 0 : view.numel() / width;
  out.reserve(out.size() +
              static_cast<size_t>(view.numel()) * std::max<size_t>(4, dtype_size(view.dtype())));
  for (int64_t row = 0; row < rows; ++row) {
    int64_t rest = row, offset = 0;
    for (int axis = view.rank() - 2; axis >= 0; --axis) {
      offset += rest % view.dim(axis) * view.stride(axis);
      rest /= view.dim(axis);
    }
    append_row(out,
               static_cast<const char*>(view.raw()) +
                   offset * static_cast<int64_t>(dtype_size(view.dtype())),
               view.dtype(), width, stride);
  }
  return out;
}

Status write_npy(const std::string& path, ConstView view) {
  const std::string text = to_npy(view), part = path + ".part";
  const auto failed = [&](const char* what) {
    std::remove(part.c_str());
    return make_error(ErrorCode::kInternal, "",
                      "cannot {} {}: {}; is there room, and may it be "
                      "written?",
                      what, path, std::strerror(errno));
  };
  std::FILE* file = std::fopen(part.c_str(), "wb");
  if (file == nullptr) return failed("write");
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  if ((std::fclose(file) != 0) || !written) return failed("write");
  if (std::rename(part.c_str(), path.c_str()) != 0) return failed("name");
  return {};
}

Result<Tensor> parse_npy(std::span<const uint8_t> bytes, std::string_view what) {
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!text.starts_with(kMagic) || text.size() < 10) {
    return invalid_argument("", "{} is no .npy file; write it with numpy.save", what);
  }
  const int version = bytes[6];
  if (version < 1 || version > 3) {
    return invalid_argument("", "{} is .npy of version {}; 1, 2 or 3 is expected", what, version);
  }
  size_t begin = 10, length = bytes[8] | bytes[9] << 8;
  if (version > 1) {
    if (bytes.size() < 12) return invalid_argument("", "{} ends inside its header", what);
    begin = 12;
    length |= static_cast<size_t>(bytes[10]) << 16 | static_cast<size_t>(bytes[11]) << 24;
  }
  if (length > kMaxHeaderBytes || bytes.size() - begin < length) {
    return invalid_argument("", "{} has a header of {} bytes; {} follow, and at most {} are read",
                            what, length, bytes.size() - begin, kMaxHeaderBytes);
  }
  const auto header = read_header(text.substr(begin, length));
  if (!header) {
    return invalid_argument("",
                            "{} has a header that numpy would not write; write it with "
                            "numpy.save",
                            what);
  }
  std::optional<DType> dtype;
  for (const DType known : {DType::kF32, DType::kU8, DType::kI32, DType::kI64}) {
    if (header->descr == descr_of(known)) dtype = known;
  }
  if (!dtype) {
    return invalid_argument("",
                            "{} holds '{}'; float32, uint8, int32 or int64 is expected: "
                            "convert it with astype",
                            what, header->descr.substr(0, 16));
  }
  if (header->dims.size() > kMaxRank) {
    return invalid_argument("", "{} has {} dims; at most {} are read", what, header->dims.size(),
                            kMaxRank);
  }
  if (header->fortran_order && header->dims.size() > 1) {
    return invalid_argument("", "{} is in Fortran order; write it with numpy.ascontiguousarray",
                            what);
  }
  const size_t held = bytes.size() - begin - length;
  const bool is_empty = std::count(header->dims.begin(), header->dims.end(), 0) > 0;
  const int64_t most = is_empty ? kMaxDim : static_cast<int64_t>(held / dtype_size(*dtype));
  int64_t elements = 1;  // of the dims that are not 0
  for (const int64_t dim : header->dims) {
    if (dim == 0) continue;
    if (elements > most / dim) elements = kMaxDim + 1;
    if (elements <= most) elements *= dim;
  }
  const size_t wanted = is_empty ? 0 : static_cast<size_t>(elements) * dtype_size(*dtype);
  if (elements > most || wanted != held) {
    return invalid_argument("",
                            "{} holds {} bytes of data, which is not what its shape needs; it "
                            "was cut or lengthened",
                            what, held);
  }
  // Shapes are made of a list of dims; there are five ranks.
  const auto& d = header->dims;
  const Shape shape = d.empty()       ? Shape{}
                      : d.size() == 1 ? Shape{d[0]}
                      : d.size() == 2 ? Shape{d[0], d[1]}
                      : d.size() == 3 ? Shape{d[0], d[1], d[2]}
                                      : Shape{d[0], d[1], d[2], d[3]};
  Tensor tensor = make_host_tensor(*dtype, shape);
  if (held > 0) std::memcpy(tensor.view().raw(), bytes.data() + begin + length, held);
  return tensor;
}

Result<Tensor> read_npy(const std::string& path) {
  auto file = MappedFile::open(path);
  if (!file.ok()) {
    return make_error(file.error().code == ErrorCode::kNotFound ? ErrorCode::kNotFound
                                                                : ErrorCode::kInvalidArgument,
                      "", "{}", file.error().message);
  }
  return parse_npy((*file)->bytes(), path);
}

}  // namespace videre
