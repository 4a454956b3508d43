// JSON in and out, on Boost.JSON: what Python writes is read (bare Infinity, NaN), depth and size
// are bounded, numbers print by shortest round trip.
#pragma once

#include <boost/json/value.hpp>
#include <optional>
#include <string>
#include <string_view>

#include "videre/result.h"

namespace videre {

namespace json = boost::json;

struct JsonOptions {
  size_t max_depth = 64;
  size_t max_size_bytes = 256u << 20;
};

/// Parses one JSON value. Bare Infinity, -Infinity and NaN (as Python writes them) become the
/// strings "Infinity", "-Infinity", "NaN"; `json_number` reads them back as numbers. `what` names
/// the text in errors ("config.json", "request body").
Result<json::value> parse_json(std::string_view text, std::string_view what,
                               const JsonOptions& options = {});

/// Compact JSON, UTF-8 not escaped, numbers by std::to_chars.
std::string to_json(const json::value& value);

/// Number of a value: any JSON number, or the strings of `parse_json`; nothing for other kinds.
std::optional<double> json_number(const json::value& value);

/// Member `key` of an object, or null when `value` is no object or lacks it.
const json::value* json_find(const json::value& value, std::string_view key);

}  // namespace videre
