#include "server/json_fields.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace videre {
namespace {

constexpr double kTwo63 = 9223372036854775808.0;

std::optional<int64_t> whole(double number) {
  if (!(number >= -kTwo63 && number < kTwo63) || number != std::floor(number)) return std::nullopt;
  return static_cast<int64_t>(number);
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

std::optional<double> number_of_text(std::string_view text) {
  text = trimmed(text);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || !std::isfinite(number)) {
    return std::nullopt;
  }
  return number;
}

std::string range_text(const NumberRange& range) {
  if (std::isinf(range.high))
    return fmt::format("{} {}", range.open_low ? "above" : "at least", range.low);
  return fmt::format("{}{}, {}{}", range.open_low ? '(' : '[', range.low, range.high,
                     range.open_high ? ')' : ']');
}

}  // namespace

std::string shown(const json::value& value) {
  if (value.is_array()) return fmt::format("a list of {}", value.get_array().size());
  if (value.is_object()) return "an object";
  std::string text;
  if (value.is_string()) {
    // Cut before it is quoted: the string may be a picture.
    const std::string_view whole_text = value.get_string();
    text = to_json(json::value(json::string(whole_text.substr(0, 100))));
  } else {
    text = to_json(value);
  }
  if (text.size() <= 80) return text;
  size_t cut = 77;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xC0) == 0x80) --cut;
  return text.substr(0, cut) + "...";
}

std::string shape_param(const std::string& name) {
  return name.rfind("--", 0) == 0 ? name : "body." + name;
}

std::optional<int64_t> lenient_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double()) return whole(value.get_double());
  if (value.is_string()) {
    const std::string_view text = trimmed(std::string_view(value.get_string()));
    int64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (error == std::errc() && end == text.data() + text.size()) return number;
    if (error == std::errc::result_out_of_range) return std::nullopt;
    if (const auto real = number_of_text(text)) return whole(*real);
  }
  return std::nullopt;  // a uint64 that is no int64 does not fit
}

std::optional<double> lenient_number(const json::value& value) {
  if (value.is_string()) return number_of_text(value.get_string());
  if (!value.is_number()) return std::nullopt;
  const double number = *json_number(value);
  if (!std::isfinite(number)) return std::nullopt;
  return number;
}

std::optional<bool> lenient_bool(const json::value& value) {
  if (value.is_bool()) return value.get_bool();
  if (const auto number = lenient_integer(value); number && (*number == 0 || *number == 1)) {
    return *number == 1;
  }
  if (value.is_string()) {
    const std::string_view text = value.get_string();
    if (text == "true" || text == "True") return true;
    if (text == "false" || text == "False") return false;
  }
  return std::nullopt;
}

const json::value* JsonFields::find(std::string_view key) {
  known_.emplace(key);
  const json::value* value = object_.if_contains(key);
  return value && !value->is_null() ? value : nullptr;
}

void JsonFields::accept(std::initializer_list<std::string_view> keys) {
  for (const std::string_view key : keys) known_.emplace(key);
}

std::string JsonFields::name(std::string_view key) const {
  return path_.empty() ? std::string(key) : fmt::format("{}.{}", path_, key);
}

void JsonFields::fail(Error error) {
  if (status_.ok()) status_ = std::move(error);
}

void JsonFields::fail_type(std::string_view key, std::string_view expected,
                           const json::value& seen) {
  fail(invalid_argument(shape_param(name(key)), "{} is {}; expected {}", name(key), shown(seen),
                        expected));
}

void JsonFields::integer(std::string_view key, std::optional<int64_t>& out, int64_t low,
                         int64_t high) {
  const json::value* value = find(key);
  if (!value) return;
  const auto number = lenient_integer(*value);
  if (!number) return fail_type(key, "a whole number of 64 bits", *value);
  if (*number < low || *number > high) {
    return fail(invalid_argument(
        name(key), "{} is {}; expected {}", name(key), *number,
        high == INT64_MAX ? fmt::format("at least {}", low) : fmt::format("{} to {}", low, high)));
  }
  out = *number;
}

void JsonFields::integer(std::string_view key, int64_t& out, int64_t low, int64_t high) {
  std::optional<int64_t> number;
  integer(key, number, low, high);
  if (number) out = *number;
}

void JsonFields::integer(std::string_view key, int& out, int64_t low, int64_t high) {
  std::optional<int64_t> number;
  integer(key, number, std::max<int64_t>(low, INT32_MIN), std::min<int64_t>(high, INT32_MAX));
  if (number) out = static_cast<int>(*number);
}

void JsonFields::number(std::string_view key, std::optional<double>& out,
                        const NumberRange& range) {
  const json::value* value = find(key);
  if (!value) return;
  const auto number = lenient_number(*value);
  if (!number) return fail_type(key, "a finite number", *value);
  const bool below = range.open_low ? *number <= range.low : *number < range.low;
  const bool above = range.open_high ? *number >= range.high : *number > range.high;
  if (below || above) {
    return fail(invalid_argument(name(key), "{} is {}; expected {}", name(key), *number,
                                 range_text(range)));
  }
  out = *number;
}

void JsonFields::number(std::string_view key, double& out, const NumberRange& range) {
  std::optional<double> value;
  number(key, value, range);
  if (value) out = *value;
}

void JsonFields::boolean(std::string_view key, std::optional<bool>& out) {
  const json::value* value = find(key);
  if (!value) return;
  out = lenient_bool(*value);
  if (!out) fail_type(key, "true or false", *value);
}

void JsonFields::boolean(std::string_view key, bool& out) {
  std::optional<bool> value;
  boolean(key, value);
  if (value) out = *value;
}

void JsonFields::string(std::string_view key, std::string& out, size_t max_bytes) {
  const json::value* value = find(key);
  if (!value) return;
  if (!value->is_string()) return fail_type(key, "a string", *value);
  if (value->get_string().size() > max_bytes) {
    return fail(invalid_argument(name(key), "{} is {} bytes long; at most {} are taken", name(key),
                                 value->get_string().size(), max_bytes));
  }
  out.assign(value->get_string().data(), value->get_string().size());
}

void JsonFields::strings(std::string_view key, std::vector<std::string>& out, size_t max_count,
                         size_t max_bytes_each, bool one_allowed) {
  const json::value* value = find(key);
  if (!value) return;
  json::array one;
  const json::array* list = value->if_array();
  if (!list && one_allowed && value->is_string()) {
    one.push_back(*value);
    list = &one;
  }
  if (!list)
    return fail_type(key, one_allowed ? "a string or a list of strings" : "a list of strings",
                     *value);
  if (list->size() > max_count) {
    return fail(invalid_argument(name(key), "{} has {} entries; at most {} are taken", name(key),
                                 list->size(), max_count));
  }
  for (const json::value& item : *list) {
    if (!item.is_string()) return fail_type(key, "only strings in the list", item);
    const std::string_view text = item.get_string();
    if (text.empty() || text.size() > max_bytes_each) {
      return fail(invalid_argument(name(key), "an entry of {} is {} bytes long; expected 1 to {}",
                                   name(key), text.size(), max_bytes_each));
    }
    out.emplace_back(text);
  }
}

void JsonFields::integers(std::string_view key, std::vector<int64_t>& out, size_t max_count,
                          int64_t low, int64_t high) {
  const json::value* value = find(key);
  if (!value) return;
  const json::array* list = value->if_array();
  if (!list) return fail_type(key, "a list of whole numbers", *value);
  if (list->size() > max_count) {
    return fail(invalid_argument(name(key), "{} has {} entries; at most {} are taken", name(key),
                                 list->size(), max_count));
  }
  for (const json::value& item : *list) {
    const auto number = lenient_integer(item);
    if (!number) return fail_type(key, "only whole numbers in the list", item);
    if (*number < low || *number > high) {
      return fail(invalid_argument(name(key), "{} holds {}; expected {} to {}", name(key), *number,
                                   low, high));
    }
    out.push_back(*number);
  }
}

void JsonFields::collect_ignored(std::vector<std::string>& out) const {
  for (const auto& member : object_) {
    if (out.size() >= 20) return;
    if (known_.count(std::string_view(member.key())) == 0) {
      out.push_back(name(std::string_view(member.key()).substr(0, 64)));
    }
  }
}

}  // namespace videre
