// Reads the fields of one JSON object from outside, leniently as the protocol's other servers do:
// numeric strings are numbers, whole floats are integers, null is absent; all else of a wrong type
// or range is an error that names the field. What was never asked for is reported as ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "base/json.h"
#include "videre/result.h"

namespace videre {

/// A value as text for an error message: at most 80 bytes of it, cut between characters.
std::string shown(const json::value& value);

/// `param` of an error of type or shape: "body.temperature"; the names of flags stay as they are.
std::string shape_param(const std::string& name);

/// Whole number out of a JSON value; nothing when it is none, or does not fit.
std::optional<int64_t> lenient_integer(const json::value& value);
/// Finite number out of a JSON value.
std::optional<double> lenient_number(const json::value& value);
std::optional<bool> lenient_bool(const json::value& value);

struct NumberRange {
  double low, high;
  bool open_low = false;   // low itself is refused
  bool open_high = false;  // high itself is refused
};

/// Getters leave `out` alone when the field is absent or null, and keep the first error.
class JsonFields {
 public:
  /// `path` is "" for the body itself; else "messages.0", and errors name "messages.0.key".
  JsonFields(const json::object& object, std::string path)
      : object_(object), path_(std::move(path)) {}

  /// The member, or null when absent or JSON null. Marks it as known.
  const json::value* find(std::string_view key);
  /// Marks names that are accepted without effect.
  void accept(std::initializer_list<std::string_view> keys);

  void integer(std::string_view key, int64_t& out, int64_t low, int64_t high);
  void integer(std::string_view key, int& out, int64_t low, int64_t high);
  void integer(std::string_view key, std::optional<int64_t>& out, int64_t low, int64_t high);
  void number(std::string_view key, double& out, const NumberRange& range);
  void number(std::string_view key, std::optional<double>& out, const NumberRange& range);
  void boolean(std::string_view key, bool& out);
  void boolean(std::string_view key, std::optional<bool>& out);
  void string(std::string_view key, std::string& out, size_t max_bytes);
  /// Lists of at most `max_count`; a single value is a list of one for `strings`.
  void strings(std::string_view key, std::vector<std::string>& out, size_t max_count,
               size_t max_bytes_each, bool one_allowed);
  void integers(std::string_view key, std::vector<int64_t>& out, size_t max_count, int64_t low,
                int64_t high);

  /// "messages.0.key"
  std::string name(std::string_view key) const;
  /// An error of type and shape ("body." before the name); only the first is kept.
  void fail_type(std::string_view key, std::string_view expected, const json::value& seen);
  void fail(Error error);
  bool ok() const { return status_.ok(); }
  const Status& status() const { return status_; }
  /// Appends the dotted names of members that nobody asked for.
  void collect_ignored(std::vector<std::string>& out) const;

 private:
  const json::object& object_;
  std::string path_;
  std::set<std::string, std::less<>> known_;
  Status status_;
};

}  // namespace videre
