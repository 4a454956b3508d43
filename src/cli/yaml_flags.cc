// The part of YAML that files of flags use: maps and lists by indentation, scalars, quotes,
// comments, and flow values that are JSON. Anchors, tags, multi-line text and several documents are
// refused.
#include <algorithm>

#include "base/error.h"
#include "base/json.h"
#include "cli/flags.h"

namespace videre {
namespace {

struct Line {
  int number = 0;
  size_t indent = 0;
  std::string text;  // without indentation, comment and trailing blanks
};

// Cuts a comment: '#' at the start or after a blank, outside quotes. A quote opens where a value or
// an item may begin, so that "it's" is plain text.
std::string without_comment(const std::string& text) {
  char quote = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quote) {
      if (c == '\\' && quote == '"') ++i;
      if (c == quote) quote = 0;
    } else if ((c == '"' || c == '\'') &&
               (i == 0 || std::string_view(" [{,:").find(text[i - 1]) != std::string_view::npos)) {
      quote = c;
    } else if (c == '#' && (i == 0 || text[i - 1] == ' ' || text[i - 1] == '\t')) {
      return text.substr(0, i);
    }
  }
  return text;
}

class YamlReader {
 public:
  YamlReader(const std::string& text, const std::string& name) : name_(name) {
    size_t start = 0;
    for (int number = 1; start <= text.size(); ++number) {
      const size_t end = std::min(text.find('\n', start), text.size());
      std::string line = without_comment(text.substr(start, end - start));
      start = end + 1;
      while (!line.empty() && (line.back() == ' ' || line.back() == '\r' || line.back() == '\t')) {
        line.pop_back();
      }
      const size_t indent = line.find_first_not_of(' ');
      if (indent == line.npos || (lines_.empty() && line == "---")) continue;
      lines_.push_back({number, indent, line.substr(indent)});
    }
  }

  Result<json::value> read() {
    if (lines_.empty()) return json::value(json::object());
    for (at_ = 0; at_ < lines_.size(); ++at_) {
      if (lines_[at_].text[0] == '\t') return fail("is indented by a tab; YAML wants spaces");
    }
    at_ = 0;
    VIDERE_ASSIGN_OR_RETURN(json::value value, block(lines_[0].indent, 0));
    if (at_ < lines_.size()) return fail("is indented unlike the lines before it");
    return value;
  }

 private:
  Error fail(std::string_view why) const {
    const int number = at_ < lines_.size() ? lines_[at_].number : 0;
    return invalid_argument("--config", "{} line {} {}", name_, number, why);
  }

  Result<json::value> scalar(const std::string& text) const {
    if (text.empty() || text == "~" || text == "null") return json::value(nullptr);
    for (const char* yes : {"true", "True", "TRUE", "yes", "Yes", "on", "On"}) {
      if (text == yes) return json::value(true);
    }
    for (const char* no : {"false", "False", "FALSE", "no", "No", "off", "Off"}) {
      if (text == no) return json::value(false);
    }
    if (text[0] == '\'') {
      if (text.size() < 2 || text.back() != '\'') return fail("has an open quote");
      std::string out;
      for (size_t i = 1; i + 1 < text.size(); ++i) {
        out += text[i];
        if (text[i] == '\'' && text[i + 1] == '\'') ++i;
      }
      return json::value(json::string(out));
    }
    if (text[0] == '"' || text[0] == '{' || text[0] == '[') {
      auto parsed = parse_json(text, "the value");
      if (parsed.ok()) return std::move(*parsed);
      if (text[0] == '[' && text.back() == ']' &&
          text.find_first_of("[{", 1) == text.npos) {  // [a, b] without quotes
        json::array list;
        const std::string inside = text.substr(1, text.size() - 2);
        char quote = 0;
        std::string item;
        for (size_t i = 0; i <= inside.size(); ++i) {
          if (i < inside.size() && (quote || inside[i] != ',')) {
            if (!quote && (inside[i] == '"' || inside[i] == '\'')) {
              quote = inside[i];
            } else if (inside[i] == quote) {
              quote = 0;
            }
            item += inside[i];
            continue;
          }
          item.erase(0, std::min(item.find_first_not_of(' '), item.size()));
          while (!item.empty() && item.back() == ' ') item.pop_back();
          VIDERE_ASSIGN_OR_RETURN(json::value value, scalar(item));
          list.push_back(std::move(value));
          item.clear();
        }
        return json::value(std::move(list));
      }
      return fail("has a value that is no JSON");
    }
    if (std::string_view("&*!|>%@`").find(text[0]) != std::string_view::npos) {
      return fail("uses a YAML feature that is not read here; write the value plainly");
    }
    auto number = parse_json(text, "the value");
    if (number.ok() && number->is_number()) return std::move(*number);
    return json::value(json::string(text));
  }

  // Splits "key: value"; false when the text is no pair.
  static bool split(const std::string& text, std::string& key, std::string& value) {
    const size_t colon = text.find(": ");
    if (colon != text.npos) {
      key = text.substr(0, colon);
      value = text.substr(text.find_first_not_of(' ', colon + 1));
    } else if (text.back() == ':') {
      key = text.substr(0, text.size() - 1);
      value.clear();
    } else {
      return false;
    }
    if (key.size() >= 2 && (key[0] == '"' || key[0] == '\'') && key.back() == key[0]) {
      key = key.substr(1, key.size() - 2);
    }
    return !key.empty();
  }

  Result<json::value> block(size_t indent, int depth) {
    if (depth > 16) return fail("is nested too deeply");
    const auto is_item = [](const std::string& text) {
      return text[0] == '-' && (text.size() == 1 || text[1] == ' ');
    };
    const bool list = is_item(lines_[at_].text);
    json::array items;
    json::object members;
    while (at_ < lines_.size() && lines_[at_].indent == indent) {
      const std::string text = lines_[at_].text;
      if (list) {
        if (!is_item(text)) break;
        const size_t start = text.find_first_not_of(' ', 1);
        const std::string rest = start == text.npos ? "" : text.substr(start);
        std::string key, value;
        if (rest.find_first_of("\"'{[") != 0 && !rest.empty() && split(rest, key, value)) {
          return fail("is a map inside a list; write it as JSON: {\"key\": value}");
        }
        VIDERE_ASSIGN_OR_RETURN(json::value item, scalar(rest));
        items.push_back(std::move(item));
        ++at_;
        continue;
      }
      std::string key, rest;
      if (!split(text, key, rest)) return fail("is no \"key: value\"");
      if (members.contains(key)) return fail(fmt::format("gives {} a second time", key));
      if (!rest.empty()) {
        VIDERE_ASSIGN_OR_RETURN(members[key], scalar(rest));
        ++at_;
        continue;
      }
      ++at_;
      const bool inner =
          at_ < lines_.size() && (lines_[at_].indent > indent ||
                                  (lines_[at_].indent == indent && is_item(lines_[at_].text)));
      if (inner) {
        VIDERE_ASSIGN_OR_RETURN(members[key], block(lines_[at_].indent, depth + 1));
      } else {
        members[key] = nullptr;
      }
    }
    if (list) return json::value(std::move(items));
    return json::value(std::move(members));
  }

  const std::string name_;
  std::vector<Line> lines_;
  size_t at_ = 0;
};

std::string word_of(const json::value& value) {
  return value.is_string() ? std::string(value.get_string()) : to_json(value);
}

}  // namespace

Result<std::vector<FlagWords>> yaml_flags(const std::string& text, const std::string& name) {
  VIDERE_ASSIGN_OR_RETURN(json::value root, YamlReader(text, name).read());
  if (!root.is_object()) {
    return invalid_argument("--config", "{} holds no map of flags at its top", name);
  }
  std::vector<FlagWords> out;
  for (const auto& [key, value] : root.get_object()) {
    if (value.is_null() || (value.is_bool() && !value.get_bool())) continue;
    FlagWords flag{"--" + std::string(key), {}};
    if (value.is_array()) {
      for (const json::value& item : value.get_array()) flag.values.push_back(word_of(item));
    } else if (!value.is_bool()) {
      flag.values.push_back(word_of(value));
    }
    out.push_back(std::move(flag));
  }
  return out;
}

}  // namespace videre
