// "%s" % x and "{}".format(x): Python's two ways of filling texts in.
#include <algorithm>
#include <cctype>
#include <cmath>

#include "text/jinja_interpreter.h"
#include "text/python_text.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000;
constexpr int kMaxPrecision = 500;

struct Spec {
  std::string fill = " ";
  char align = 0;  // < > ^ =
  char sign = '-';
  bool alternate = false, zero = false;
  char grouping = 0;
  int64_t width = 0;
  int precision = -1;
  char type = 0;
};

std::string padded(const std::string& text, const Spec& spec, char default_align) {
  const auto length = static_cast<int64_t>(count_code_points(text));
  if (spec.width <= length) return text;
  const int64_t pad = spec.width - length;
  const char align = spec.align ? spec.align : default_align;
  size_t sign = 0;
  if (align == '=') {
    sign = !text.empty() && (text[0] == '-' || text[0] == '+' || text[0] == ' ') ? 1 : 0;
    if (text.size() > sign + 1 && text[sign] == '0' && std::isalpha(text[sign + 1])) sign += 2;
  }
  const int64_t left = align == '<' ? 0 : align == '^' ? pad / 2 : pad;
  std::string out = text.substr(0, sign);
  for (int64_t i = 0; i < left; ++i) out += spec.fill;
  out += text.substr(sign);
  for (int64_t i = left; i < pad; ++i) out += spec.fill;
  return out;
}

std::string grouped(std::string digits, char separator) {
  size_t end = digits.find_first_not_of("0123456789");
  if (end == digits.npos) end = digits.size();
  for (size_t at = end; at > 3; at -= 3) digits.insert(at - 3, 1, separator);
  return digits;
}

std::string digits_in_base(unsigned __int128 value, unsigned base) {
  std::string out;
  do {
    out += "0123456789abcdef"[static_cast<size_t>(value % base)];
    value /= base;
  } while (value != 0);
  std::reverse(out.begin(), out.end());
  return out;
}

std::string with_sign(bool negative, const std::string& digits, const Spec& spec) {
  if (negative) return "-" + digits;
  return (spec.sign == '+' ? "+" : spec.sign == ' ' ? " " : "") + digits;
}

std::string format_int(Int value, const Spec& spec) {
  const auto magnitude =
      value < 0 ? -static_cast<unsigned __int128>(value) : static_cast<unsigned __int128>(value);
  std::string digits;
  switch (spec.type) {
    case 'x':
    case 'X':
      digits = digits_in_base(magnitude, 16);
      if (spec.type == 'X') digits = python::upper(digits);
      if (spec.alternate) digits = (spec.type == 'X' ? "0X" : "0x") + digits;
      break;
    case 'o':
      digits = (spec.alternate ? "0o" : "") + digits_in_base(magnitude, 8);
      break;
    case 'b':
      digits = (spec.alternate ? "0b" : "") + digits_in_base(magnitude, 2);
      break;
    default:
      digits = digits_in_base(magnitude, 10);
      if (spec.grouping) digits = grouped(digits, spec.grouping);
  }
  return with_sign(value < 0, digits, spec);
}

std::string format_float(double value, const Spec& spec) {
  const bool negative = std::signbit(value) && !std::isnan(value);
  const double magnitude = std::abs(value);
  const int precision = spec.precision < 0 ? 6 : spec.precision;
  std::string digits;
  if (!std::isfinite(value)) {
    digits = std::isnan(value) ? "nan" : "inf";
    if (std::isupper(static_cast<unsigned char>(spec.type))) digits = python::upper(digits);
    return with_sign(negative, digits, spec);
  }
  char buffer[1024];
  const char* alternate = spec.alternate ? "#" : "";
  std::string pattern = std::string("%") + alternate + ".*";
  switch (spec.type) {
    case 'e':
    case 'E':
    case 'f':
    case 'F':
    case 'g':
    case 'G':
      pattern += spec.type;
      std::snprintf(buffer, sizeof buffer, pattern.c_str(),
                    precision == 0 && (spec.type | 0x20) == 'g' ? 1 : precision, magnitude);
      digits = buffer;
      break;
    case '%':
      std::snprintf(buffer, sizeof buffer, "%.*f%%", precision, magnitude * 100);
      digits = buffer;
      break;
    default:
      if (spec.precision < 0) {
        digits = python::repr(magnitude);
      } else {
        std::snprintf(buffer, sizeof buffer, "%.*g", std::max(precision, 1), magnitude);
        digits = buffer;
        if (digits.find_first_of(".e") == digits.npos) digits += ".0";
      }
  }
  if (spec.grouping) digits = grouped(digits, spec.grouping);
  return with_sign(negative, digits, spec);
}

std::string cut(const std::string& text, int precision) {
  if (precision < 0) return text;
  return text.substr(0, python::byte_offset(text, static_cast<size_t>(precision)));
}

Result<int64_t> read_number(std::string_view text, size_t& at, const char* what) {
  int64_t value = 0;
  while (at < text.size() && text[at] >= '0' && text[at] <= '9') {
    value = value * 10 + (text[at++] - '0');
    if (value > kMaxWidth) return invalid_argument("", "a format's {} is over {}", what, kMaxWidth);
  }
  return value;
}

// [[fill]align][sign][#][0][width][grouping][.precision][type]
Result<Spec> read_spec(std::string_view text) {
  Spec spec;
  size_t at = 0;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!text.empty()) {
    size_t after_fill = 0;
    next_code_point(text, after_fill);
    if (after_fill < text.size() && is_align(text[after_fill])) {
      spec.fill = text.substr(0, after_fill);
      spec.align = text[after_fill];
      at = after_fill + 1;
    } else if (is_align(text[0])) {
      spec.align = text[0];
      at = 1;
    }
  }
  const auto take = [&](char c) {
    if (at >= text.size() || text[at] != c) return false;
    ++at;
    return true;
  };
  for (const char sign : {'+', '-', ' '}) {
    if (take(sign)) {
      spec.sign = sign;
      break;
    }
  }
  spec.alternate = take('#');
  if (take('0') && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
    spec.zero = true;
  }
  VIDERE_ASSIGN_OR_RETURN(spec.width, read_number(text, at, "width"));
  for (const char grouping : {',', '_'}) {
    if (take(grouping)) spec.grouping = grouping;
  }
  if (take('.')) {
    VIDERE_ASSIGN_OR_RETURN(const int64_t precision, read_number(text, at, "precision"));
    if (precision > kMaxPrecision)
      return invalid_argument("", "a format's precision is over {}", kMaxPrecision);
    spec.precision = static_cast<int>(precision);
  }
  if (at < text.size()) spec.type = text[at++];
  if (at < text.size()) return invalid_argument("", "the format \"{}\" is not understood", text);
  return spec;
}

Result<std::string> format_value(Interpreter& in, const Value& value, std::string_view spec_text) {
  VIDERE_ASSIGN_OR_RETURN(Spec spec, read_spec(spec_text));
  const auto wrong = [&] {
    return invalid_argument("", "the format \"{}\" does not fit a value of type {}", spec_text,
                            value.type_name());
  };
  constexpr std::string_view kFloatTypes = "eEfFgG%";
  const bool float_type = spec.type && kFloatTypes.find(spec.type) != kFloatTypes.npos;
  if (value.is_bool() && spec_text.empty()) return in.text_of(value);
  if (value.is_float() || (value.is_int() && float_type)) {
    if (spec.type && !float_type) return wrong();
    return padded(format_float(value.as_double(), spec), spec, '>');
  }
  if (value.is_int()) {
    constexpr std::string_view kIntTypes = "dxXobn";
    if (spec.type == 'c' && value.as_int() >= 0 && value.as_int() < 0xD800) {
      std::string character;
      append_utf8(character, static_cast<char32_t>(value.as_int()));
      return padded(character, spec, '<');
    }
    if ((spec.type && kIntTypes.find(spec.type) == kIntTypes.npos) || spec.precision >= 0)
      return wrong();
    return padded(format_int(value.as_int(), spec), spec, '>');
  }
  if (value.is_string()) {
    if ((spec.type && spec.type != 's') || (spec.align == '=' && !spec.zero)) return wrong();
    if (spec.zero) spec.align = '<';
    return padded(cut(value.as_string(), spec.precision), spec, '<');
  }
  if (!spec_text.empty()) return wrong();
  return in.text_of(value);
}

// The value a replacement field names: "0", "name", "name.attribute", "0[key]".
class FieldReader {
 public:
  FieldReader(Interpreter& in, const Arguments& arguments) : in_(in), arguments_(arguments) {}

  Result<Value> value(std::string_view field) {
    const size_t end = std::min(field.find_first_of(".["), field.size());
    const std::string_view name = field.substr(0, end);
    VIDERE_ASSIGN_OR_RETURN(Value value, first(name));
    for (size_t at = end; at < field.size();) {
      if (field[at] == '.') {
        const size_t stop = std::min(field.find_first_of(".[", at + 1), field.size());
        const std::string_view part = field.substr(at + 1, stop - at - 1);
        VIDERE_ASSIGN_OR_RETURN(value, in_.attribute(value, in_.string(part).text_ref()));
        at = stop;
      } else {
        const size_t stop = field.find(']', at);
        if (field[at] != '[' || stop == field.npos)
          return invalid_argument("", "format: the field \"{}\" is not understood", field);
        const std::string_view part = field.substr(at + 1, stop - at - 1);
        VIDERE_ASSIGN_OR_RETURN(value, in_.item(value, key(part)));
        at = stop + 1;
      }
    }
    return value;
  }

 private:
  static bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 9 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
  }
  Value key(std::string_view part) {
    return is_number(part) ? Value(std::stoi(std::string(part))) : in_.string(part);
  }
  Result<Value> first(std::string_view name) {
    if (name.empty() || is_number(name)) {
      (name.empty() ? automatic_ : numbered_) = true;
      if (automatic_ && numbered_)
        return invalid_argument("", "format: numbered and unnumbered fields are mixed");
      const size_t at = name.empty() ? next_++ : static_cast<size_t>(std::stoi(std::string(name)));
      if (at >= arguments_.positional.size())
        return invalid_argument("", "format: argument {} was not given", at);
      return arguments_.positional[at];
    }
    for (const auto& [keyword, value] : arguments_.keyword) {
      if (keyword->value == name) return value;
    }
    return invalid_argument("", "format: argument \"{}\" was not given", name);
  }

  Interpreter& in_;
  const Arguments& arguments_;
  size_t next_ = 0;
  bool automatic_ = false, numbered_ = false;
};

}  // namespace

Result<std::string> format_braces(Interpreter& in, std::string_view format,
                                  const Arguments& arguments) {
  FieldReader fields(in, arguments);
  std::string out;
  for (size_t at = 0; at < format.size();) {
    const char c = format[at];
    if (c != '{' && c != '}') {
      out += c;
      ++at;
      continue;
    }
    if (at + 1 < format.size() && format[at + 1] == c) {
      out += c;
      at += 2;
      continue;
    }
    const size_t end = c == '{' ? format.find('}', at) : format.npos;
    if (end == format.npos) return invalid_argument("", "format: a single \"{}\" in the text", c);
    std::string_view field = format.substr(at + 1, end - at - 1), spec;
    if (field.find('{') != field.npos)
      return invalid_argument("", "format: fields inside fields are not supported");
    if (const size_t colon = field.find(':'); colon != field.npos) {
      spec = field.substr(colon + 1);
      field = field.substr(0, colon);
    }
    char conversion = 0;
    if (field.size() >= 2 && field[field.size() - 2] == '!') {
      conversion = field.back();
      field.remove_suffix(2);
    }
    VIDERE_ASSIGN_OR_RETURN(Value value, fields.value(field));
    if (conversion == 'r') {
      std::string text;
      append_repr(text, value, in.heap().budget().left());
      value = in.string(std::move(text));
    } else if (conversion == 's') {
      VIDERE_ASSIGN_OR_RETURN(std::string text, in.text_of(value));
      value = in.string(std::move(text));
    } else if (conversion != 0) {
      return invalid_argument("", "format: the conversion \"!{}\" is not supported", conversion);
    }
    VIDERE_ASSIGN_OR_RETURN(const std::string text, format_value(in, value, spec));
    out += text;
    VIDERE_RETURN_IF_ERROR(in.room(out.size()));
    at = end + 1;
  }
  return out;
}

Result<std::string> format_percent(Interpreter& in, std::string_view format, const Value& value) {
  const List* list = value.as_list();
  const List* tuple = list && list->is_tuple() ? list : nullptr;
  const Dict* dict = value.as_dict();
  size_t next = 0;
  bool named = false;
  const auto take = [&]() -> Result<Value> {
    if (tuple) {
      if (next < tuple->items.size()) return tuple->items[next++];
    } else if (next++ == 0) {
      return value;
    }
    return invalid_argument("", "\"%\" has too few values for its format");
  };
  std::string out;
  for (size_t at = 0; at < format.size();) {
    if (format[at] != '%') {
      out += format[at++];
      continue;
    }
    ++at;
    Spec spec;
    std::optional<Value> item;
    if (at < format.size() && format[at] == '(') {
      const size_t end = format.find(')', at);
      if (end == format.npos || !dict)
        return invalid_argument("", "\"%(name)\" needs a closed name and a dict");
      VIDERE_ASSIGN_OR_RETURN(item, in.item(value, in.string(format.substr(at + 1, end - at - 1))));
      if (item->is_undefined()) return Interpreter::undefined_error(*item);
      named = true;
      at = end + 1;
    }
    bool left = false;
    for (; at < format.size(); ++at) {
      if (format[at] == '-') {
        left = true;
      } else if (format[at] == '+' || format[at] == ' ') {
        if (spec.sign != '+') spec.sign = format[at];
      } else if (format[at] == '#') {
        spec.alternate = true;
      } else if (format[at] == '0') {
        spec.zero = true;
      } else {
        break;
      }
    }
    const auto starred = [&](const char* what) -> Result<int64_t> {
      if (at >= format.size() || format[at] != '*') return read_number(format, at, what);
      ++at;
      VIDERE_ASSIGN_OR_RETURN(const Value given, take());
      VIDERE_ASSIGN_OR_RETURN(const int64_t number, as_index(given, what));
      if (number > kMaxWidth)
        return invalid_argument("", "a format's {} is over {}", what, kMaxWidth);
      return number;
    };
    VIDERE_ASSIGN_OR_RETURN(spec.width, starred("width"));
    if (spec.width < 0) {
      left = true;
      spec.width = spec.width < -kMaxWidth ? kMaxWidth : -spec.width;
    }
    if (at < format.size() && format[at] == '.') {
      ++at;
      VIDERE_ASSIGN_OR_RETURN(const int64_t precision, starred("precision"));
      if (precision > kMaxPrecision)
        return invalid_argument("", "a format's precision is over {}", kMaxPrecision);
      spec.precision = static_cast<int>(std::max<int64_t>(precision, 0));
    }
    if (at == format.size()) return invalid_argument("", "a \"%\" format ends early");
    const char type = format[at++];
    if (type == '%') {
      out += '%';
      continue;
    }
    if (!item) {
      VIDERE_ASSIGN_OR_RETURN(item, take());
    }
    spec.align = left ? '<' : '>';
    std::string text;
    switch (type) {
      case 's': {
        VIDERE_ASSIGN_OR_RETURN(text, in.text_of(*item));
        text = cut(text, spec.precision);
        break;
      }
      case 'r':
        append_repr(text, *item, in.heap().budget().left());
        text = cut(text, spec.precision);
        break;
      case 'c':
        if (item->is_string() && count_code_points(item->as_string()) == 1) {
          text = item->as_string();
        } else if (item->is_int() && item->as_int() >= 0 && item->as_int() < 0xD800) {
          append_utf8(text, static_cast<char32_t>(item->as_int()));
        } else {
          return invalid_argument("", "\"%c\" needs one character");
        }
        break;
      case 'd':
      case 'i':
      case 'u':
      case 'x':
      case 'X':
      case 'o': {
        const bool whole = type == 'd' || type == 'i' || type == 'u';
        if (!item->is_int() && !(whole && item->is_float() && std::abs(item->as_double()) < 1e18)) {
          return invalid_argument("", "\"%{}\" needs a number; it got {}", type, item->type_name());
        }
        spec.type = whole ? 'd' : type;
        text =
            format_int(item->is_int() ? item->as_int() : static_cast<Int>(item->as_double()), spec);
        if (spec.precision > 0) {
          const size_t sign = text[0] == '-' || text[0] == '+' || text[0] == ' ';
          const auto digits = static_cast<int>(text.size() - sign);
          if (digits < spec.precision)
            text.insert(sign, static_cast<size_t>(spec.precision - digits), '0');
        }
        break;
      }
      case 'e':
      case 'E':
      case 'f':
      case 'F':
      case 'g':
      case 'G':
        if (!item->is_number())
          return invalid_argument("", "\"%{}\" needs a number; it got {}", type, item->type_name());
        spec.type = type;
        text = format_float(item->as_double(), spec);
        break;
      default:
        return invalid_argument("", "the format \"%{}\" is not supported", repair_utf8({&type, 1}));
    }
    const bool number = type != 's' && type != 'r' && type != 'c';
    if (spec.zero && number && !left) {
      spec.fill = "0";
      spec.align = '=';
    }
    out += padded(text, spec, '>');
    VIDERE_RETURN_IF_ERROR(in.room(out.size()));
  }
  if (tuple ? next < tuple->items.size() : (next == 0 && !named && !dict && !list))
    return invalid_argument("", "\"%\" has more values than its format takes");
  return out;
}

}  // namespace videre::jinja
