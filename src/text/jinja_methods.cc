// Methods of strings, lists and dicts. Lists and dicts may be changed: all values live in one
// rendering only.
#include <algorithm>
#include <unordered_map>

#include "text/jinja_interpreter.h"
#include "text/python_text.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

using Args = Arguments;
using Method = MethodFunction;
using Methods = std::unordered_map<std::string_view, MethodFunction>;

Result<std::string_view> text_argument(const Value* value, const char* what) {
  if (!value || !value->is_string()) {
    return invalid_argument("", "{} needs a string; it got {}", what,
                            value ? value->type_name() : "nothing");
  }
  return std::string_view(value->as_string());
}

Result<int64_t> integer(const Value* value, int64_t otherwise, const char* what) {
  return value && !value->is_none() ? as_index(*value, what) : Result<int64_t>(otherwise);
}

// --- str ---

template <std::string (*Map)(std::string_view)>
Result<Value> mapped(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("the method"));
  return in.string(Map(self.as_string()));
}

template <bool (*Holds)(std::string_view)>
Result<Value> asked(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("the method"));
  VIDERE_RETURN_IF_ERROR(in.charge(self.as_string().size() * 8));
  return Value(Holds(self.as_string()));
}

bool all_space(std::string_view text) {
  return !text.empty() && python::strip(text, std::nullopt, true, false).empty();
}

template <bool kLeft, bool kRight>
Result<Value> strip(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("strip", {"chars"}));
  std::optional<std::string_view> chars;
  if (given[0] && !given[0]->is_none()) {
    VIDERE_ASSIGN_OR_RETURN(chars, text_argument(given[0], "strip"));
  }
  return in.string(python::strip(self.as_string(), chars, kLeft, kRight));
}

Value text_list(Interpreter& in, const std::vector<std::string_view>& parts,
                List::Flavor flavor = List::Flavor::kList) {
  std::vector<Value> items;
  for (const std::string_view part : parts) items.push_back(in.string(part));
  return in.list(std::move(items), flavor);
}

template <bool kFromRight>
Result<Value> split(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("split", {"sep", "maxsplit"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t max_splits, integer(given[1], -1, "split's maxsplit"));
  const std::string& text = self.as_string();
  VIDERE_RETURN_IF_ERROR(in.room(text.size() * 64));
  VIDERE_RETURN_IF_ERROR(in.charge(text.size()));
  if (!given[0] || given[0]->is_none())
    return text_list(in, python::split_space(text, max_splits, kFromRight));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view separator, text_argument(given[0], "split"));
  if (separator.empty()) return invalid_argument("", "split needs a separator that is not empty");
  return text_list(in, python::split(text, separator, max_splits, kFromRight));
}

Result<Value> split_lines(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("splitlines", {"keepends"}));
  return text_list(in, python::split_lines(self.as_string(), given[0] && truthy(*given[0])));
}

template <bool kFromRight>
Result<Value> partition(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("partition", {"sep"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view separator, text_argument(given[0], "partition"));
  if (separator.empty()) return invalid_argument("", "partition needs a separator");
  const std::string_view text = self.as_string();
  const size_t at = kFromRight ? text.rfind(separator) : text.find(separator);
  if (at == text.npos) {
    return text_list(in,
                     kFromRight ? std::vector<std::string_view>{"", "", text}
                                : std::vector<std::string_view>{text, "", ""},
                     List::Flavor::kTuple);
  }
  return text_list(in, {text.substr(0, at), separator, text.substr(at + separator.size())},
                   List::Flavor::kTuple);
}

// The part of `text` that optional start and end positions leave, and where it begins.
struct Window {
  std::string_view text;
  int64_t begin;  // in characters
  bool valid;     // start is not behind the end
};
Result<Window> window(const std::string& text, const Value* start, const Value* end) {
  const bool whole = (!start || start->is_none()) && (!end || end->is_none());
  if (whole) return Window{text, 0, true};
  const auto length = static_cast<int64_t>(count_code_points(text));
  VIDERE_ASSIGN_OR_RETURN(int64_t from, integer(start, 0, "a start"));
  VIDERE_ASSIGN_OR_RETURN(int64_t to, integer(end, length, "an end"));
  if (from < 0) from = std::max<int64_t>(from + length, 0);
  if (to < 0) to = std::max<int64_t>(to + length, 0);
  to = std::min(to, length);
  if (from > to) return Window{{}, from, false};
  const size_t a = python::byte_offset(text, static_cast<size_t>(from));
  const size_t b = python::byte_offset(text, static_cast<size_t>(to));
  return Window{std::string_view(text).substr(a, b - a), from, true};
}

template <bool kEnd>
Result<Value> starts_or_ends(Interpreter&, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind(kEnd ? "endswith" : "startswith",
                                                           {"prefix", "start", "end"}));
  VIDERE_ASSIGN_OR_RETURN(const Window view, window(self.as_string(), given[1], given[2]));
  const auto fits = [&](std::string_view part) {
    return view.valid && (kEnd ? view.text.ends_with(part) : view.text.starts_with(part));
  };
  const List* several = given[0] ? given[0]->as_list() : nullptr;
  if (several && several->is_tuple()) {
    for (const Value& item : several->items) {
      VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(&item, "startswith"));
      if (fits(part)) return Value(true);
    }
    return Value(false);
  }
  VIDERE_ASSIGN_OR_RETURN(const std::string_view part,
                          text_argument(given[0], kEnd ? "endswith" : "startswith"));
  return Value(fits(part));
}

template <bool kFromRight, bool kMustBeThere>
Result<Value> find(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("find", {"sub", "start", "end"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(given[0], "find"));
  VIDERE_RETURN_IF_ERROR(in.charge(self.as_string().size()));
  VIDERE_ASSIGN_OR_RETURN(const Window view, window(self.as_string(), given[1], given[2]));
  const size_t at = !view.valid  ? view.text.npos
                    : kFromRight ? view.text.rfind(part)
                                 : view.text.find(part);
  if (at != view.text.npos)
    return Value(static_cast<Int>(view.begin + count_code_points(view.text.substr(0, at))));
  if (kMustBeThere) return invalid_argument("", "index: the substring is not there");
  return Value(-1);
}

Result<Value> count_text(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("count", {"sub", "start", "end"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(given[0], "count"));
  VIDERE_RETURN_IF_ERROR(in.charge(self.as_string().size()));
  VIDERE_ASSIGN_OR_RETURN(const Window view, window(self.as_string(), given[1], given[2]));
  if (!view.valid) return Value(0);
  if (part.empty()) return Value(static_cast<Int>(count_code_points(view.text) + 1));
  Int count = 0;
  for (size_t at = 0; (at = view.text.find(part, at)) != view.text.npos; at += part.size()) ++count;
  return Value(count);
}

Result<Value> replace(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("replace", {"old", "new", "count"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view old_text, text_argument(given[0], "replace"));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view new_text, text_argument(given[1], "replace"));
  VIDERE_ASSIGN_OR_RETURN(int64_t left, integer(given[2], -1, "replace's count"));
  const std::string& text = self.as_string();
  VIDERE_RETURN_IF_ERROR(in.charge(text.size()));
  const size_t limit = in.heap().budget().left();
  std::string out;
  size_t done = 0;
  if (old_text.empty()) {  // before every character, and at the end
    for (size_t at = 0; left != 0; --left) {
      out += new_text;
      if (at == text.size()) break;
      next_code_point(text, at);
      out.append(text, done, at - done);
      done = at;
      if (out.size() > limit) return in.room(out.size()).error();
    }
  } else {
    for (size_t at; left != 0 && (at = text.find(old_text, done)) != text.npos; --left) {
      out.append(text, done, at - done).append(new_text);
      done = at + old_text.size();
      if (out.size() > limit) return in.room(out.size()).error();
    }
  }
  out.append(text, done);
  return in.string(std::move(out));
}

Result<Value> join(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("join", {"iterable"}));
  if (!given[0]) return invalid_argument("", "join needs what to join");
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> parts, in.items_of(*given[0]));
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (i > 0) out += self.as_string();
    VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(&parts[i], "join"));
    out += part;
    VIDERE_RETURN_IF_ERROR(in.room(out.size()));
  }
  return in.string(std::move(out));
}

enum class Side { kLeft, kRight, kBoth };

// Padding on the named side(s).
template <Side kSide>
Result<Value> justify(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("center", {"width", "fillchar"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t width, integer(given[0], 0, "a width"));
  std::string_view fill = " ";
  if (given[1]) {
    VIDERE_ASSIGN_OR_RETURN(fill, text_argument(given[1], "a fill character"));
  }
  if (count_code_points(fill) != 1)
    return invalid_argument("", "a fill is one character, not {}", count_code_points(fill));
  const std::string& text = self.as_string();
  const auto length = static_cast<int64_t>(count_code_points(text));
  if (width <= length) return in.string(text);
  const int64_t pad = width - length;
  VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(std::min<int64_t>(width, INT64_MAX / 8)) * 4));
  const int64_t left = kSide == Side::kLeft    ? pad
                       : kSide == Side::kRight ? 0
                                               : pad / 2 + (pad & width & 1);
  std::string out;
  for (int64_t i = 0; i < left; ++i) out += fill;
  out += text;
  for (int64_t i = left; i < pad; ++i) out += fill;
  return in.string(std::move(out));
}

Result<Value> zfill(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("zfill", {"width"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t width, integer(given[0], 0, "zfill"));
  const std::string& text = self.as_string();
  const auto length = static_cast<int64_t>(count_code_points(text));
  if (width <= length) return in.string(text);
  VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(width)));
  const bool sign = text.starts_with('-') || text.starts_with('+');
  return in.string(text.substr(0, sign) + std::string(static_cast<size_t>(width - length), '0') +
                   text.substr(sign));
}

Result<Value> remove_prefix(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("removeprefix", {"prefix"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(given[0], "removeprefix"));
  std::string_view text = self.as_string();
  if (text.starts_with(part)) text.remove_prefix(part.size());
  return in.string(text);
}

Result<Value> remove_suffix(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("removesuffix", {"suffix"}));
  VIDERE_ASSIGN_OR_RETURN(const std::string_view part, text_argument(given[0], "removesuffix"));
  std::string_view text = self.as_string();
  if (text.ends_with(part)) text.remove_suffix(part.size());
  return in.string(text);
}

Result<Value> format(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(std::string out, format_braces(in, self.as_string(), arguments));
  return in.string(std::move(out));
}

// --- list and tuple ---

Result<Value> append(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("append", {"object"}));
  if (!given[0]) return invalid_argument("", "append needs a value");
  in.heap().charge_items(1);
  self.as_list()->items.push_back(*given[0]);
  return Value(None{});
}

Result<Value> extend(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("extend", {"iterable"}));
  if (!given[0]) return invalid_argument("", "extend needs a list");
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> more, in.items_of(*given[0]));
  VIDERE_RETURN_IF_ERROR(in.room(more.size() * sizeof(Value)));
  in.heap().charge_items(more.size());
  auto& items = self.as_list()->items;
  items.insert(items.end(), more.begin(), more.end());
  return Value(None{});
}

Result<Value> insert(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("insert", {"index", "object"}));
  if (!given[0] || !given[1]) return invalid_argument("", "insert needs an index and a value");
  VIDERE_ASSIGN_OR_RETURN(int64_t at, as_index(*given[0], "insert"));
  auto& items = self.as_list()->items;
  const auto size = static_cast<int64_t>(items.size());
  if (at < 0) at += size;
  at = std::clamp<int64_t>(at, 0, size);
  in.heap().charge_items(1);
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 8));
  items.insert(items.begin() + at, *given[1]);
  return Value(None{});
}

Result<Value> pop_item(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("pop", {"index"}));
  VIDERE_ASSIGN_OR_RETURN(int64_t at, integer(given[0], -1, "pop"));
  auto& items = self.as_list()->items;
  const auto size = static_cast<int64_t>(items.size());
  if (at < 0) at += size;
  if (at < 0 || at >= size) return invalid_argument("", "pop: the index is out of range");
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 8));
  Value value = items[static_cast<size_t>(at)];
  items.erase(items.begin() + at);
  return value;
}

Result<Value> clear_list(Interpreter&, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("clear"));
  self.as_list()->items.clear();
  return Value(None{});
}

Result<Value> reverse_list(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("reverse"));
  auto& items = self.as_list()->items;
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 8));
  std::reverse(items.begin(), items.end());
  return Value(None{});
}

Result<Value> copy_list(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("copy"));
  return in.list(self.as_list()->items);
}

Result<Value> index_item(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("index", {"value"}));
  const auto& items = self.as_list()->items;
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 8));
  for (size_t i = 0; given[0] && i < items.size(); ++i) {
    if (in.equal(items[i], *given[0])) return Value(static_cast<Int>(i));
  }
  return invalid_argument("", "index: the value is not in the list");
}

Result<Value> count_item(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("count", {"value"}));
  const auto& items = self.as_list()->items;
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 8));
  if (!given[0]) return invalid_argument("", "count needs a value");
  return Value(static_cast<Int>(std::count_if(
      items.begin(), items.end(), [&](const Value& item) { return in.equal(item, *given[0]); })));
}

// --- dict ---

Result<Value> get(Interpreter& in, const Value& self, Args& arguments) {
  (void)in;
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("get", {"key", "default"}));
  if (!given[0]) return invalid_argument("", "get needs a key");
  if (const Value* found = std::as_const(*self.as_dict()).find(*given[0])) return *found;
  return given[1] ? *given[1] : Value(None{});
}

template <List::Flavor kFlavor>
Result<Value> view(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("the method"));
  std::vector<Value> out;
  const auto& items = self.as_dict()->items;
  VIDERE_RETURN_IF_ERROR(in.charge(items.size() * 16));
  for (const auto& [key, value] : items) {
    if (kFlavor == List::Flavor::kKeys) out.push_back(key);
    if (kFlavor == List::Flavor::kValues) out.push_back(value);
    if (kFlavor == List::Flavor::kItems) out.push_back(in.list({key, value}, List::Flavor::kTuple));
  }
  return in.list(std::move(out), kFlavor);
}

Result<Value> pop_key(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("pop", {"key", "default"}));
  if (!given[0]) return invalid_argument("", "pop needs a key");
  Dict* dict = self.as_dict();
  VIDERE_RETURN_IF_ERROR(in.charge(dict->items.size() * 64));
  if (const Value* found = dict->find(*given[0])) {
    Value value = *found;
    dict->erase(*given[0]);
    return value;
  }
  if (!given[1]) return invalid_argument("", "pop: the key is not in the dict");
  return *given[1];
}

Result<Value> update(Interpreter& in, const Value& self, Args& arguments) {
  Dict* dict = self.as_dict();
  if (arguments.positional.size() > 1)
    return invalid_argument("", "update takes at most one positional argument");
  if (!arguments.positional.empty()) {
    const Value source = arguments.positional[0];
    if (const Dict* other = source.as_dict()) {
      const auto items = other->items;  // it may be the same dict
      for (const auto& [key, value] : items) dict->set(key, value);
    } else {
      VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> pairs, in.items_of(source));
      for (const Value& pair : pairs) {
        VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> parts, in.items_of(pair));
        if (parts.size() != 2 || !dict->set(parts[0], parts[1]))
          return invalid_argument("", "update needs pairs of a key and a value");
      }
    }
  }
  for (const auto& [name, value] : arguments.keyword) dict->set(name, value);
  in.heap().charge_items(2 * dict->items.size());
  VIDERE_RETURN_IF_ERROR(in.charge(dict->items.size() * 16));
  return Value(None{});
}

Result<Value> set_default(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("setdefault", {"key", "default"}));
  if (!given[0] || !hashable(*given[0])) return invalid_argument("", "setdefault needs a key");
  Dict* dict = self.as_dict();
  if (const Value* found = dict->find(*given[0])) return *found;
  in.heap().charge_items(2);
  return *dict->set(*given[0], given[1] ? *given[1] : Value(None{}));
}

Result<Value> clear_dict(Interpreter&, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("clear"));
  *self.as_dict() = Dict();
  return Value(None{});
}

Result<Value> copy_dict(Interpreter& in, const Value& self, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("copy"));
  Dict* copy = in.heap().make<Dict>();
  in.heap().charge_items(2 * self.as_dict()->items.size());
  VIDERE_RETURN_IF_ERROR(in.charge(self.as_dict()->items.size() * 16));
  *copy = *self.as_dict();
  return Value(copy);
}

const Methods& text_methods() {
  static const Methods kMethods = {
      {"capitalize", mapped<python::capitalize>},
      {"casefold", mapped<python::lower>},
      {"center", justify<Side::kBoth>},
      {"count", count_text},
      {"endswith", starts_or_ends<true>},
      {"find", find<false, false>},
      {"format", format},
      {"index", find<false, true>},
      {"isalnum", asked<python::is_alnum>},
      {"isalpha", asked<python::is_alpha>},
      {"isascii", asked<python::is_ascii>},
      {"isdecimal", asked<python::is_decimal>},
      {"isdigit", asked<python::is_digit>},
      {"islower", asked<python::is_lower>},
      {"isnumeric", asked<python::is_numeric>},
      {"isspace", asked<all_space>},
      {"istitle", asked<python::is_title>},
      {"isupper", asked<python::is_upper>},
      {"join", join},
      {"ljust", justify<Side::kRight>},
      {"lower", mapped<python::lower>},
      {"lstrip", strip<true, false>},
      {"partition", partition<false>},
      {"removeprefix", remove_prefix},
      {"removesuffix", remove_suffix},
      {"replace", replace},
      {"rfind", find<true, false>},
      {"rindex", find<true, true>},
      {"rjust", justify<Side::kLeft>},
      {"rpartition", partition<true>},
      {"rsplit", split<true>},
      {"rstrip", strip<false, true>},
      {"split", split<false>},
      {"splitlines", split_lines},
      {"startswith", starts_or_ends<false>},
      {"strip", strip<true, true>},
      {"swapcase", mapped<python::swapcase>},
      {"title", mapped<python::title>},
      {"upper", mapped<python::upper>},
      {"zfill", zfill},
  };
  return kMethods;
}

const Methods& list_methods() {
  static const Methods kMethods = {
      {"append", append},    {"clear", clear_list}, {"copy", copy_list},
      {"count", count_item}, {"extend", extend},    {"index", index_item},
      {"insert", insert},    {"pop", pop_item},     {"reverse", reverse_list},
  };
  return kMethods;
}

const Methods& tuple_methods() {
  static const Methods kMethods = {{"count", count_item}, {"index", index_item}};
  return kMethods;
}

const Methods& dict_methods() {
  static const Methods kMethods = {
      {"clear", clear_dict},
      {"copy", copy_dict},
      {"get", get},
      {"items", view<List::Flavor::kItems>},
      {"keys", view<List::Flavor::kKeys>},
      {"pop", pop_key},
      {"setdefault", set_default},
      {"update", update},
      {"values", view<List::Flavor::kValues>},
  };
  return kMethods;
}

}  // namespace

MethodFunction find_method(const Value& self, std::string_view name) {
  const Methods* methods = nullptr;
  if (self.is_string()) {
    methods = &text_methods();
  } else if (self.as_dict()) {
    methods = &dict_methods();
  } else if (const List* list = self.as_list()) {
    if (list->is_list()) methods = &list_methods();
    if (list->is_tuple()) methods = &tuple_methods();
  }
  if (!methods) return nullptr;
  const auto found = methods->find(name);
  return found == methods->end() ? nullptr : found->second;
}

}  // namespace videre::jinja
