#include "base/json.h"

#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/parser.hpp>
#include <boost/json/serialize.hpp>
#include <charconv>
#include <cmath>
#include <limits>

#include "base/error.h"

namespace videre {
namespace {

// Quotes bare Infinity, -Infinity and NaN outside strings. Returns false when there were none.
bool quote_non_finite(std::string_view text, std::string& out) {
  if (text.find("Infinity") == text.npos && text.find("NaN") == text.npos) return false;
  out.reserve(text.size() + 16);
  bool in_string = false;
  for (size_t i = 0; i < text.size();) {
    const char c = text[i];
    if (in_string) {
      out += c;
      if (c == '\\' && i + 1 < text.size()) out += text[++i];
      if (c == '"') in_string = false;
      ++i;
      continue;
    }
    bool replaced = false;
    for (std::string_view word : {"-Infinity", "Infinity", "NaN"}) {
      if (text.substr(i, word.size()) == word) {
        out.append("\"").append(word).append("\"");
        i += word.size();
        replaced = true;
        break;
      }
    }
    if (replaced) continue;
    if (c == '"') in_string = true;
    out += c;
    ++i;
  }
  return true;
}

void append_string(std::string& out, std::string_view text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          out += fmt::format("\\u{:04x}", static_cast<unsigned>(c));
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

void append(std::string& out, const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      out += "null";
      break;
    case json::kind::bool_:
      out += value.get_bool() ? "true" : "false";
      break;
    case json::kind::int64:
      out += std::to_string(value.get_int64());
      break;
    case json::kind::uint64:
      out += std::to_string(value.get_uint64());
      break;
    case json::kind::double_: {
      const double number = value.get_double();
      if (!std::isfinite(number)) {
        out += "null";
        break;
      }
      char buffer[32];
      const auto end = std::to_chars(buffer, buffer + sizeof buffer, number).ptr;
      out.append(buffer, end);
      if (std::string_view(buffer, end - buffer).find_first_of(".e") == std::string_view::npos)
        out += ".0";
      break;
    }
    case json::kind::string:
      append_string(out, value.get_string());
      break;
    case json::kind::array: {
      out += '[';
      bool first = true;
      for (const auto& item : value.get_array()) {
        if (!first) out += ',';
        first = false;
        append(out, item);
      }
      out += ']';
      break;
    }
    case json::kind::object: {
      out += '{';
      bool first = true;
      for (const auto& [key, item] : value.get_object()) {
        if (!first) out += ',';
        first = false;
        append_string(out, key);
        out += ':';
        append(out, item);
      }
      out += '}';
      break;
    }
  }
}

}  // namespace

Result<json::value> parse_json(std::string_view text, std::string_view what,
                               const JsonOptions& options) {
  if (text.size() > options.max_size_bytes) {
    return make_error(ErrorCode::kTooLarge, "", "{} is {} bytes; at most {} are read", what,
                      text.size(), options.max_size_bytes);
  }
  if (text.substr(0, 3) == "\xEF\xBB\xBF") text.remove_prefix(3);
  std::string quoted;
  const std::string_view source = quote_non_finite(text, quoted) ? std::string_view(quoted) : text;
  json::parse_options parse_options;
  parse_options.max_depth = options.max_depth;
  json::parser parser({}, parse_options);
  boost::system::error_code error;
  size_t used = parser.write(source.data(), source.size(), error);
  if (error) {
    return invalid_argument("", "{} is not valid JSON: {} near byte {}", what, error.message(),
                            used);
  }
  return parser.release();
}

std::string to_json(const json::value& value) {
  std::string out;
  append(out, value);
  return out;
}

std::optional<double> json_number(const json::value& value) {
  switch (value.kind()) {
    case json::kind::int64:
      return static_cast<double>(value.get_int64());
    case json::kind::uint64:
      return static_cast<double>(value.get_uint64());
    case json::kind::double_:
      return value.get_double();
    case json::kind::string: {
      const std::string_view text = value.get_string();
      if (text == "Infinity") return std::numeric_limits<double>::infinity();
      if (text == "-Infinity") return -std::numeric_limits<double>::infinity();
      if (text == "NaN") return std::numeric_limits<double>::quiet_NaN();
      return std::nullopt;
    }
    case json::kind::object:  // {"__float__": "Infinity"}
      if (const json::value* inner = json_find(value, "__float__")) return json_number(*inner);
      return std::nullopt;
    default:
      return std::nullopt;
  }
}

const json::value* json_find(const json::value& value, std::string_view key) {
  return value.is_object() ? value.get_object().if_contains(key) : nullptr;
}

}  // namespace videre
