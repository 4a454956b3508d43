// Filters, after Jinja2's documentation; tojson as transformers defines it.
#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "text/jinja_interpreter.h"
#include "text/python_text.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

// What the filter works on, as text.
#define VIDERE_TEXT(name, value) VIDERE_ASSIGN_OR_RETURN(const std::string name, in.text_of(value))

Result<bool> flag(const Value* value, bool otherwise) { return value ? truthy(*value) : otherwise; }

Result<int64_t> integer(const Value* value, int64_t otherwise, const char* what) {
  return value ? as_index(*value, what) : Result<int64_t>(otherwise);
}

// "a.b.0" looked up step by step; an undefined step takes `otherwise` when there is one.
class AttributeGetter {
 public:
  static Result<AttributeGetter> make(Interpreter& in, const Value* attribute) {
    AttributeGetter out;
    if (!attribute || attribute->is_none()) return out;
    if (!attribute->is_string()) {
      out.path_.push_back(*attribute);
      return out;
    }
    for (const std::string_view part : python::split(attribute->as_string(), ".", -1, false)) {
      const bool digits =
          !part.empty() && part.size() < 10 &&
          std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
      out.path_.push_back(digits ? Value(std::stoi(std::string(part))) : in.string(part));
    }
    return out;
  }
  Result<Value> get(Interpreter& in, Value value, const Value* otherwise = nullptr) const {
    for (const Value& part : path_) {
      VIDERE_ASSIGN_OR_RETURN(value, in.item(value, part));
      if (otherwise && value.is_undefined()) value = *otherwise;
    }
    return value;
  }

 private:
  std::vector<Value> path_;
};

Value folded(Interpreter& in, const Value& value, bool case_sensitive) {
  return value.is_string() && !case_sensitive ? in.string(python::lower(value.as_string())) : value;
}

// Items with what they are ordered by.
struct Keyed {
  Value key, item;
};

Result<std::vector<Keyed>> keyed_items(Interpreter& in, const Value& input, const Value* attribute,
                                       bool case_sensitive) {
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(input));
  VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, attribute));
  std::vector<Keyed> out;
  for (const Value& item : items) {
    VIDERE_ASSIGN_OR_RETURN(const Value key, getter.get(in, item));
    VIDERE_RETURN_IF_ERROR(in.charge(64));
    out.push_back({folded(in, key, case_sensitive), item});
  }
  return out;
}

// Stable; an error when two keys have no order. `equal_first` as Python compares lists: equal keys
// need no order.
Status sort_keyed(Interpreter& in, std::vector<Keyed>& items, bool reverse,
                  bool equal_first = false) {
  std::optional<Error> failed;
  const auto less = [&](const Keyed& a, const Keyed& b) {
    if (failed || (equal_first && in.equal(a.key, b.key))) return false;
    auto result = in.compare(Operator::kLess, a.key, b.key);
    if (result.ok()) return *result;
    failed = result.error();
    return false;
  };
  if (reverse) {
    std::stable_sort(items.begin(), items.end(),
                     [&](const Keyed& a, const Keyed& b) { return less(b, a); });
  } else {
    std::stable_sort(items.begin(), items.end(), less);
  }
  if (failed) return *failed;
  return in.charge(items.size() * 64);
}

Result<Value> abs_(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("abs"));
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  if (value.is_float()) return Value(std::abs(value.as_double()));
  if (!value.is_int())
    return invalid_argument("", "abs: a value of type {} has none", value.type_name());
  if (value.as_int() >= 0) return Value(value.as_int());
  return in.binary(Operator::kSubtract, Value(0), value);
}

Result<Value> attr(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("attr", {"name"}));
  if (!given[0] || !given[0]->is_string())
    return invalid_argument("", "attr needs an attribute's name");
  if (value.as_dict()) {  // its keys are no attributes
    const MethodFunction method = find_method(value, given[0]->as_string());
    if (!method) return Value(Undefined{given[0]->text_ref(), value.type_name()});
  }
  return in.attribute(value, given[0]->text_ref());
}

Result<Value> batch(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("batch", {"linecount", "fill_with"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t count, integer(given[0], 0, "batch"));
  if (count < 1) return invalid_argument("", "batch needs a line length of at least 1");
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  std::vector<Value> out, line;
  for (const Value& item : items) {
    line.push_back(item);
    if (static_cast<int64_t>(line.size()) == count) out.push_back(in.list(std::exchange(line, {})));
  }
  if (!line.empty()) {
    if (given[1] && !given[1]->is_none()) {
      VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(count) * sizeof(Value)));
      line.resize(static_cast<size_t>(count), *given[1]);
    }
    out.push_back(in.list(std::move(line)));
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

Result<Value> slice(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("slice", {"slices", "fill_with"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t slices, integer(given[0], 0, "slice"));
  if (slices < 1) return invalid_argument("", "slice needs at least 1 slice");
  VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(slices) * 128));
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  const size_t n = static_cast<size_t>(slices), each = items.size() / n, more = items.size() % n;
  std::vector<Value> out;
  size_t at = 0;
  for (size_t i = 0; i < n; ++i) {
    const size_t end = at + each + (i < more ? 1 : 0);
    std::vector<Value> part(items.begin() + static_cast<ptrdiff_t>(at),
                            items.begin() + static_cast<ptrdiff_t>(end));
    if (given[1] && !given[1]->is_none() && i >= more) part.push_back(*given[1]);
    out.push_back(in.list(std::move(part)));
    at = end;
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

Result<Value> capitalize(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("capitalize"));
  VIDERE_TEXT(text, value);
  return in.string(python::capitalize(text));
}

Result<Value> center(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("center", {"width"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t width, integer(given[0], 80, "center"));
  VIDERE_TEXT(text, value);
  Arguments to_method;
  to_method.positional.emplace_back(static_cast<Int>(width));
  const Value self = in.string(text);
  return find_method(self, "center")(in, self, to_method);
}

Result<Value> count(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("length"));
  if (value.is_string()) {
    VIDERE_RETURN_IF_ERROR(in.charge(value.as_string().size()));
    return Value(static_cast<Int>(count_code_points(value.as_string())));
  }
  const List* list = value.as_list();
  if (list && list->flavor != List::Flavor::kIterator)
    return Value(static_cast<Int>(list->items.size()));
  if (const Dict* dict = value.as_dict()) return Value(static_cast<Int>(dict->items.size()));
  if (value.is_undefined()) return Value(0);
  return invalid_argument("", "length: a value of type {} has none", value.type_name());
}

Result<Value> default_(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("default", {"default_value", "boolean"}));
  VIDERE_ASSIGN_OR_RETURN(const bool boolean, flag(given[1], false));
  if (!value.is_undefined() && !(boolean && !truthy(value))) return value;
  return given[0] ? *given[0] : in.string(std::string());
}

Result<Value> dictsort(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("dictsort", {"case_sensitive", "by", "reverse"}));
  VIDERE_ASSIGN_OR_RETURN(const bool case_sensitive, flag(given[0], false));
  VIDERE_ASSIGN_OR_RETURN(const bool reverse, flag(given[2], false));
  const std::string by = given[1] && given[1]->is_string() ? given[1]->as_string() : "key";
  if (by != "key" && by != "value")
    return invalid_argument("", "dictsort sorts by \"key\" or \"value\", not \"{}\"", by);
  const Dict* dict = value.as_dict();
  if (!dict) return invalid_argument("", "dictsort needs a dict; it got {}", value.type_name());
  std::vector<Keyed> items;
  for (const auto& [key, item] : dict->items) {
    items.push_back({folded(in, by == "key" ? key : item, case_sensitive),
                     in.list({key, item}, List::Flavor::kTuple)});
  }
  VIDERE_RETURN_IF_ERROR(sort_keyed(in, items, reverse));
  std::vector<Value> out;
  for (Keyed& item : items) out.push_back(std::move(item.item));
  return in.list(std::move(out));
}

Result<Value> escape(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("escape"));
  if (value.is_markup()) return value;
  VIDERE_TEXT(text, value);
  return in.string(python::escape_html(text), true);
}

Result<Value> force_escape(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("forceescape"));
  VIDERE_TEXT(text, value);
  return in.string(python::escape_html(text), true);
}

Result<Value> first(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("first"));
  if (List* list = value.as_list()) {  // takes one item of an iterator only
    if (list->next >= list->items.size()) return Value();
    const Value& item = list->items[list->next];
    if (list->flavor == List::Flavor::kIterator) ++list->next;
    return item;
  }
  if (value.is_string()) {
    return value.as_string().empty() ? Result<Value>(Value()) : in.item(value, Value(0));
  }
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  return items.empty() ? Value() : items.front();
}

Result<Value> last(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("last"));
  const List* list = value.as_list();
  if (list && list->flavor == List::Flavor::kIterator)
    return invalid_argument("", "last: an iterator cannot be reversed; make a list of it first");
  if (value.is_string()) {
    return value.as_string().empty() ? Result<Value>(Value()) : in.item(value, Value(-1));
  }
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  return items.empty() ? Value() : items.back();
}

// The number a text spells, as Python's float() reads it.
std::optional<double> parse_float(const std::string& text) {
  std::string digits(python::strip(text, std::nullopt, true, true));
  const std::string folded = python::lower(digits);
  const std::string_view unsigned_text =
      std::string_view(folded).substr(!folded.empty() && (folded[0] == '-' || folded[0] == '+'));
  if (unsigned_text != "inf" && unsigned_text != "infinity" && unsigned_text != "nan" &&
      folded.find_first_not_of("0123456789+-.e_") != folded.npos)
    return std::nullopt;
  for (size_t i = 0; i < digits.size(); ++i) {  // one underscore between digits
    if (digits[i] != '_') continue;
    const bool between = i > 0 && i + 1 < digits.size() && std::isdigit(digits[i - 1]) &&
                         std::isdigit(digits[i + 1]);
    if (!between) return std::nullopt;
  }
  std::erase(digits, '_');
  if (digits.empty()) return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(digits.c_str(), &end);
  if (end != digits.c_str() + digits.size()) return std::nullopt;
  return number;
}

Result<Value> float_(Interpreter& in, const Value& value, Arguments& arguments) {
  (void)in;
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("float", {"default"}));
  if (value.is_number()) return Value(value.as_double());
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  if (value.is_string()) {
    if (const auto number = parse_float(value.as_string())) return Value(*number);
  }
  return given[0] ? *given[0] : Value(0.0);
}

// Python's int(text, base); nothing when it raises ValueError.
Result<std::optional<Int>> parse_int(const std::string& text, int64_t base) {
  std::string_view digits = python::strip(text, std::nullopt, true, true);
  bool negative = false;
  if (!digits.empty() && (digits[0] == '-' || digits[0] == '+')) {
    negative = digits[0] == '-';
    digits.remove_prefix(1);
  }
  const auto has_prefix = [&](char letter) {
    return digits.size() > 2 && digits[0] == '0' && (digits[1] | 0x20) == letter;
  };
  if ((base == 16 && has_prefix('x')) || (base == 8 && has_prefix('o')) ||
      (base == 2 && has_prefix('b'))) {
    digits.remove_prefix(2);
    if (digits[0] == '_') digits.remove_prefix(1);
  }
  if (digits.empty()) return std::optional<Int>();
  Int value = 0;
  bool after_digit = false;
  for (const char c : digits) {
    if (c == '_' && after_digit) {
      after_digit = false;
      continue;
    }
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'a' && c <= 'z' ? c - 'a' + 10
                      : c >= 'A' && c <= 'Z' ? c - 'A' + 10
                                             : 99;
    if (digit >= base) return std::optional<Int>();
    if (__builtin_mul_overflow(value, static_cast<Int>(base), &value) ||
        __builtin_add_overflow(value, static_cast<Int>(digit), &value))
      return invalid_argument("", "int: the number goes over 127 bits");
    after_digit = true;
  }
  if (!after_digit) return std::optional<Int>();
  return std::optional<Int>(negative ? -value : value);
}

Result<std::optional<Int>> truncated(double number) {
  if (std::isnan(number)) return std::optional<Int>();
  if (std::abs(number) >= 1.7e38) {
    if (std::isinf(number)) return std::optional<Int>();
    return invalid_argument("", "int: the number goes over 127 bits");
  }
  return std::optional<Int>(static_cast<Int>(number));
}

Result<Value> int_(Interpreter& in, const Value& value, Arguments& arguments) {
  (void)in;
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("int", {"default", "base"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t base, integer(given[1], 10, "int's base"));
  if (base < 2 || base > 36)
    return invalid_argument("", "int: the base is {}; expected 2 to 36", base);
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  std::optional<Int> number;
  if (value.is_int()) {
    number = value.as_int();
  } else if (value.is_float()) {
    VIDERE_ASSIGN_OR_RETURN(number, truncated(value.as_double()));
  } else if (value.is_string()) {
    VIDERE_ASSIGN_OR_RETURN(number, parse_int(value.as_string(), base));
    if (!number) {
      if (const auto parsed = parse_float(value.as_string())) {
        VIDERE_ASSIGN_OR_RETURN(number, truncated(*parsed));
      }
    }
  }
  if (number) return Value(*number);
  return given[0] ? *given[0] : Value(0);
}

Result<Value> format(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_TEXT(text, value);
  if (!arguments.positional.empty() && !arguments.keyword.empty())
    return invalid_argument("", "format takes positional or named arguments, not both");
  Value values;
  if (arguments.keyword.empty()) {
    values = in.list(arguments.positional, List::Flavor::kTuple);
  } else {
    Dict* dict = in.heap().make<Dict>();
    for (const auto& [name, item] : arguments.keyword) dict->set(name, item);
    values = dict;
  }
  VIDERE_ASSIGN_OR_RETURN(std::string out, format_percent(in, text, values));
  return in.string(std::move(out));
}

Result<Value> groupby(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("groupby", {"attribute", "default", "case_sensitive"}));
  VIDERE_ASSIGN_OR_RETURN(const bool case_sensitive, flag(given[2], false));
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, given[0]));
  std::vector<Keyed> keyed;
  for (const Value& item : items) {
    VIDERE_ASSIGN_OR_RETURN(const Value key, getter.get(in, item, given[1]));
    keyed.push_back({folded(in, key, case_sensitive), in.list({key, item}, List::Flavor::kTuple)});
  }
  VIDERE_RETURN_IF_ERROR(sort_keyed(in, keyed, false));
  std::vector<Value> out;
  for (size_t begin = 0; begin < keyed.size();) {
    size_t end = begin;
    std::vector<Value> group;
    for (; end < keyed.size() && in.equal(keyed[end].key, keyed[begin].key); ++end)
      group.push_back(keyed[end].item.as_list()->items[1]);
    out.push_back(in.list({keyed[begin].item.as_list()->items[0], in.list(std::move(group))},
                          List::Flavor::kTuple));
    begin = end;
  }
  return in.list(std::move(out));
}

Result<Value> indent(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("indent", {"width", "first", "blank"}));
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  if (!value.is_string())
    return invalid_argument("", "indent needs a string; it got {}", value.type_name());
  VIDERE_ASSIGN_OR_RETURN(const bool indent_first, flag(given[1], false));
  VIDERE_ASSIGN_OR_RETURN(const bool indent_blank, flag(given[2], false));
  std::string by;
  if (given[0] && given[0]->is_string()) {
    by = given[0]->as_string();
  } else {
    VIDERE_ASSIGN_OR_RETURN(const int64_t width, integer(given[0], 4, "indent's width"));
    VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(std::max<int64_t>(width, 0))));
    by.assign(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
  }
  const std::string& text = value.as_string();
  const std::string with_end = text + "\n";
  const auto lines = python::split_lines(with_end, false);
  VIDERE_RETURN_IF_ERROR(in.room(text.size() + by.size() * lines.size()));
  std::string out = indent_first ? by : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      out += '\n';
      if (indent_blank || !lines[i].empty()) out += by;
    }
    out += lines[i];
  }
  return in.string(std::move(out), value.is_markup());
}

Result<Value> items(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("items"));
  std::vector<Value> out;
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->items)
      out.push_back(in.list({key, item}, List::Flavor::kTuple));
  } else if (!value.is_undefined()) {
    return invalid_argument("", "items needs a dict; it got {}", value.type_name());
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

Result<Value> join(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("join", {"d", "attribute"}));
  std::string separator;
  if (given[0]) {
    VIDERE_ASSIGN_OR_RETURN(separator, in.text_of(*given[0]));
  }
  VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, given[1]));
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> parts, in.items_of(value));
  std::string out;
  for (size_t i = 0; i < parts.size(); ++i) {
    VIDERE_ASSIGN_OR_RETURN(const Value part, getter.get(in, parts[i]));
    if (i > 0) out += separator;
    append_str(out, part, in.heap().budget().left());
    VIDERE_RETURN_IF_ERROR(in.room(out.size()));
  }
  return in.string(std::move(out));
}

Result<Value> list(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("list"));
  VIDERE_ASSIGN_OR_RETURN(std::vector<Value> items, in.items_of(value));
  return in.list(std::move(items));
}

Result<Value> lower(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("lower"));
  VIDERE_TEXT(text, value);
  return in.string(python::lower(text));
}

Result<Value> upper(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("upper"));
  VIDERE_TEXT(text, value);
  return in.string(python::upper(text));
}

Result<Value> title(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("title"));
  VIDERE_TEXT(text, value);
  // Words begin after white space and after -({[<; str.title would also break at apostrophes.
  std::string out;
  size_t word = 0;
  const auto flush = [&](size_t end) {
    if (end == word) return;
    const std::string_view part = std::string_view(text).substr(word, end - word);
    size_t head = 0;
    next_code_point(part, head);
    out += python::upper(part.substr(0, head));
    out += python::lower(part.substr(head));
  };
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t c = next_code_point(text, at);
    if (!python::is_space(c) && c != '-' && c != '(' && c != '{' && c != '[' && c != '<') continue;
    flush(begin);
    out.append(text, begin, at - begin);
    word = at;
  }
  flush(text.size());
  return in.string(std::move(out));
}

Result<Value> map(Interpreter& in, const Value& value, Arguments& arguments) {
  std::vector<Value> items, out;
  if (truthy(value)) {  // None gives nothing, here and in select
    VIDERE_ASSIGN_OR_RETURN(items, in.items_of(value));
  }
  if (arguments.positional.empty()) {
    VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("map", {"attribute", "default"}));
    if (!given[0]) return invalid_argument("", "map needs a filter's name or an attribute");
    VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, given[0]));
    for (const Value& item : items) {
      VIDERE_ASSIGN_OR_RETURN(Value mapped, getter.get(in, item, given[1]));
      VIDERE_RETURN_IF_ERROR(in.charge(64));
      out.push_back(std::move(mapped));
    }
    return in.list(std::move(out), List::Flavor::kIterator);
  }
  const Value name = arguments.positional[0];
  const FilterFunction filter = name.is_string() ? find_filter(name.as_string()) : nullptr;
  if (!filter) {
    VIDERE_TEXT(shown, name);
    return invalid_argument("", "map: there is no filter \"{}\"", shown);
  }
  arguments.positional.erase(arguments.positional.begin());
  for (const Value& item : items) {
    Arguments again = arguments;
    VIDERE_ASSIGN_OR_RETURN(Value mapped, in.apply(filter, item, again));
    out.push_back(std::move(mapped));
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

Result<Value> choose(Interpreter& in, const Value& value, Arguments& arguments, bool keep,
                     bool by_attribute) {
  std::vector<Value> items;
  if (truthy(value)) {
    VIDERE_ASSIGN_OR_RETURN(items, in.items_of(value));
  }
  AttributeGetter getter;
  if (by_attribute) {
    if (arguments.positional.empty())
      return invalid_argument("", "selectattr and rejectattr need an attribute's name");
    VIDERE_ASSIGN_OR_RETURN(getter, AttributeGetter::make(in, &arguments.positional[0]));
    arguments.positional.erase(arguments.positional.begin());
  }
  TestFunction test = nullptr;
  if (!arguments.positional.empty()) {
    const Value name = arguments.positional[0];
    test = name.is_string() ? find_test(name.as_string()) : nullptr;
    if (!test) {
      VIDERE_TEXT(shown, name);
      return invalid_argument("", "select: there is no test \"{}\"", shown);
    }
    arguments.positional.erase(arguments.positional.begin());
  }
  std::vector<Value> out;
  for (const Value& item : items) {
    VIDERE_RETURN_IF_ERROR(in.charge(64));
    VIDERE_ASSIGN_OR_RETURN(const Value looked_at, getter.get(in, item));
    bool holds = truthy(looked_at);
    if (test) {
      Arguments again = arguments;
      VIDERE_ASSIGN_OR_RETURN(holds, test(in, looked_at, again));
    }
    if (holds == keep) out.push_back(item);
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

Result<Value> select(Interpreter& in, const Value& value, Arguments& arguments) {
  return choose(in, value, arguments, true, false);
}
Result<Value> reject(Interpreter& in, const Value& value, Arguments& arguments) {
  return choose(in, value, arguments, false, false);
}
Result<Value> selectattr(Interpreter& in, const Value& value, Arguments& arguments) {
  return choose(in, value, arguments, true, true);
}
Result<Value> rejectattr(Interpreter& in, const Value& value, Arguments& arguments) {
  return choose(in, value, arguments, false, true);
}

Result<Value> extreme(Interpreter& in, const Value& value, Arguments& arguments, bool largest) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind(largest ? "max" : "min", {"case_sensitive", "attribute"}));
  VIDERE_ASSIGN_OR_RETURN(const bool case_sensitive, flag(given[0], false));
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Keyed> items,
                          keyed_items(in, value, given[1], case_sensitive));
  if (items.empty()) return Value();
  const Keyed* best = &items[0];
  for (const Keyed& item : items) {
    VIDERE_ASSIGN_OR_RETURN(
        const bool better,
        in.compare(largest ? Operator::kGreater : Operator::kLess, item.key, best->key));
    if (better) best = &item;
  }
  return best->item;
}
Result<Value> max(Interpreter& in, const Value& value, Arguments& arguments) {
  return extreme(in, value, arguments, true);
}
Result<Value> min(Interpreter& in, const Value& value, Arguments& arguments) {
  return extreme(in, value, arguments, false);
}

Result<Value> replace(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("replace", {"old", "new", "count"}));
  if (!given[0] || !given[1])
    return invalid_argument("", "replace needs what to look for and what to put there");
  VIDERE_TEXT(text, value);
  Arguments to_method;
  for (size_t i = 0; i < 2; ++i) {
    VIDERE_TEXT(part, *given[i]);
    to_method.positional.push_back(in.string(part));
  }
  if (given[2] && !given[2]->is_none()) to_method.positional.push_back(*given[2]);
  const Value self = in.string(text);
  return find_method(self, "replace")(in, self, to_method);
}

Result<Value> reverse(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("reverse"));
  if (value.is_string()) {
    const Value step(-1);
    return in.slice(value, nullptr, nullptr, &step);
  }
  VIDERE_ASSIGN_OR_RETURN(std::vector<Value> items, in.items_of(value));
  std::reverse(items.begin(), items.end());
  return in.list(std::move(items), List::Flavor::kIterator);
}

// Half to even on the exact binary value, as Python's round.
double round_to(double value, int64_t digits) {
  if (digits > 300 || !std::isfinite(value)) return value;
  if (digits < -308) return 0.0;
  if (digits >= 0) return std::strtod(fmt::format("{:.{}f}", value, digits).c_str(), nullptr);
  const double unit = std::pow(10.0, static_cast<double>(-digits));
  return std::nearbyint(value / unit) * unit;
}

Result<Value> round_(Interpreter& in, const Value& value, Arguments& arguments) {
  (void)in;
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("round", {"precision", "method"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t digits, integer(given[0], 0, "round's precision"));
  const std::string method = given[1] && given[1]->is_string() ? given[1]->as_string() : "common";
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  if (!value.is_number())
    return invalid_argument("", "round: a value of type {} is no number", value.type_name());
  if (method == "common") {
    if (value.is_int()) {
      if (digits >= 0) return Value(value.as_int());
      if (digits < -37) return Value(0);
      Int unit = 1;
      for (int64_t i = digits; i < 0; ++i) unit *= 10;
      Int rest = value.as_int() % unit;
      if (rest < 0) rest += unit;
      const Int below = value.as_int() - rest;
      const bool up = rest * 2 > unit || (rest * 2 == unit && below / unit % 2 != 0);
      return Value(up ? below + unit : below);
    }
    return Value(round_to(value.as_double(), digits));
  }
  if (method != "ceil" && method != "floor")
    return invalid_argument("", "round's method is \"{}\"; expected common, ceil or floor", method);
  const double unit = std::pow(10.0, static_cast<double>(digits)),
               scaled = value.as_double() * unit;
  return Value((method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / unit);
}

Result<Value> safe(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("safe"));
  VIDERE_TEXT(text, value);
  return in.string(text, true);
}

Result<Value> sort(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("sort", {"reverse", "case_sensitive", "attribute"}));
  VIDERE_ASSIGN_OR_RETURN(const bool reversed, flag(given[0], false));
  VIDERE_ASSIGN_OR_RETURN(const bool case_sensitive, flag(given[1], false));
  std::vector<Keyed> items;
  if (given[2] && given[2]->is_string() && given[2]->as_string().find(',') != std::string::npos) {
    // Several attributes: their values in order, as one list.
    VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> plain, in.items_of(value));
    for (const Value& item : plain) items.push_back({in.list({}), item});
    for (const std::string_view name : python::split(given[2]->as_string(), ",", -1, false)) {
      const Value attribute = in.string(name);
      VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, &attribute));
      for (Keyed& item : items) {
        VIDERE_ASSIGN_OR_RETURN(const Value key, getter.get(in, item.item));
        VIDERE_RETURN_IF_ERROR(in.charge(64));
        item.key.as_list()->items.push_back(folded(in, key, case_sensitive));
      }
    }
  } else {
    VIDERE_ASSIGN_OR_RETURN(items, keyed_items(in, value, given[2], case_sensitive));
  }
  VIDERE_RETURN_IF_ERROR(sort_keyed(in, items, reversed, true));
  std::vector<Value> out;
  for (Keyed& item : items) out.push_back(std::move(item.item));
  return in.list(std::move(out));
}

Result<Value> string(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("string"));
  if (value.is_string()) return value;
  VIDERE_ASSIGN_OR_RETURN(std::string text, in.text_of(value));
  return in.string(std::move(text));
}

Result<Value> sum(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("sum", {"attribute", "start"}));
  VIDERE_ASSIGN_OR_RETURN(const AttributeGetter getter, AttributeGetter::make(in, given[0]));
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, in.items_of(value));
  Value total = given[1] ? *given[1] : Value(0);
  if (total.is_string()) return invalid_argument("", "sum adds numbers; use join for strings");
  for (const Value& item : items) {
    VIDERE_ASSIGN_OR_RETURN(const Value part, getter.get(in, item));
    VIDERE_ASSIGN_OR_RETURN(total, in.binary(Operator::kAdd, total, part));
    VIDERE_RETURN_IF_ERROR(in.charge(64));
  }
  return total;
}

Result<Value> tojson(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("tojson", {"ensure_ascii", "indent",
                                                                      "separators", "sort_keys"}));
  JsonStyle style;
  VIDERE_ASSIGN_OR_RETURN(style.ascii_only, flag(given[0], false));
  VIDERE_ASSIGN_OR_RETURN(style.sort_keys, flag(given[3], false));
  if (given[1] && !given[1]->is_none()) {
    style.item_separator = ",";
    if (given[1]->is_string()) {
      style.indent = given[1]->as_string();
    } else {
      VIDERE_ASSIGN_OR_RETURN(const int64_t width, as_index(*given[1], "tojson's indent"));
      if (width > 1000) return invalid_argument("", "tojson's indent is {}; at most 1000", width);
      style.indent = std::string(static_cast<size_t>(std::max<int64_t>(width, 0)), ' ');
    }
  }
  if (given[2] && !given[2]->is_none()) {
    const List* pair = given[2]->as_list();
    if (!pair || pair->items.size() != 2 || !pair->items[0].is_string() ||
        !pair->items[1].is_string())
      return invalid_argument("", "tojson's separators are a pair of strings");
    style.item_separator = pair->items[0].as_string();
    style.key_separator = pair->items[1].as_string();
  }
  std::string out;
  VIDERE_RETURN_IF_ERROR(append_json(out, value, style, in.heap().budget().left()));
  VIDERE_RETURN_IF_ERROR(in.charge(out.size()));
  return in.string(std::move(out));
}

Result<Value> trim(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("trim", {"chars"}));
  VIDERE_TEXT(text, value);
  std::optional<std::string_view> chars;
  if (given[0] && given[0]->is_string()) chars = given[0]->as_string();
  return in.string(python::strip(text, chars, true, true));
}

Result<Value> truncate(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("truncate", {"length", "killwords", "end", "leeway"}));
  VIDERE_ASSIGN_OR_RETURN(const int64_t length, integer(given[0], 255, "truncate's length"));
  VIDERE_ASSIGN_OR_RETURN(const bool kill_words, flag(given[1], false));
  VIDERE_ASSIGN_OR_RETURN(const int64_t leeway, integer(given[3], 5, "truncate's leeway"));
  const std::string end = given[2] && given[2]->is_string() ? given[2]->as_string() : "...";
  const auto end_size = static_cast<int64_t>(count_code_points(end));
  if (length < end_size || leeway < 0)
    return invalid_argument("", "truncate: the length is shorter than what marks the end");
  Arguments no_arguments;
  VIDERE_ASSIGN_OR_RETURN(const Value size, count(in, value, no_arguments));
  if (size.as_int() <= Int{length} + leeway) return value;  // short lists pass, too
  if (!value.is_string())
    return invalid_argument("", "truncate needs a string; it got {}", value.type_name());
  const std::string& text = value.as_string();
  std::string_view cut = std::string_view(text).substr(
      0, python::byte_offset(text, static_cast<size_t>(length - end_size)));
  if (!kill_words) cut = cut.substr(0, cut.rfind(' '));
  return in.string(std::string(cut) + end);
}

Result<Value> unique(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given,
                          arguments.bind("unique", {"case_sensitive", "attribute"}));
  VIDERE_ASSIGN_OR_RETURN(const bool case_sensitive, flag(given[0], false));
  VIDERE_ASSIGN_OR_RETURN(std::vector<Keyed> items,
                          keyed_items(in, value, given[1], case_sensitive));
  Dict* seen = in.heap().make<Dict>();
  std::vector<Value> out;
  for (Keyed& item : items) {
    if (!hashable(item.key))
      return invalid_argument("", "unique: a value of type {} cannot be looked up",
                              item.key.type_name());
    if (seen->find(item.key)) continue;
    seen->set(item.key, true);
    in.heap().charge_items(2);
    out.push_back(std::move(item.item));
  }
  return in.list(std::move(out), List::Flavor::kIterator);
}

// In a path slashes stay; in a query spaces become plus signs.
std::string quoted_url(std::string_view text, bool path) {
  std::string out;
  for (const char c : text) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && path);
    if (c == ' ' && !path) {
      out += '+';
    } else if (plain) {
      out += c;
    } else {
      out += fmt::format("%{:02X}", static_cast<uint8_t>(c));
    }
  }
  return out;
}

Result<Value> urlencode(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("urlencode"));
  const bool pairs = value.as_dict() || value.as_list();
  if (!pairs) {
    VIDERE_TEXT(text, value);
    return in.string(quoted_url(text, true));
  }
  std::vector<Value> items;
  if (const Dict* dict = value.as_dict()) {
    for (const auto& [key, item] : dict->items)
      items.push_back(in.list({key, item}, List::Flavor::kTuple));
  } else {
    VIDERE_ASSIGN_OR_RETURN(items, in.items_of(value));
  }
  std::string out;
  for (const Value& item : items) {
    VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> pair, in.items_of(item));
    if (pair.size() != 2) return invalid_argument("", "urlencode needs pairs");
    VIDERE_TEXT(key, pair[0]);
    VIDERE_TEXT(part, pair[1]);
    if (!out.empty()) out += '&';
    out += quoted_url(key, false) + "=" + quoted_url(part, false);
  }
  return in.string(std::move(out));
}

Result<Value> wordcount(Interpreter& in, const Value& value, Arguments& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("wordcount"));
  VIDERE_TEXT(text, value);
  int words = 0;
  bool inside = false;
  for (size_t at = 0; at < text.size();) {
    const bool word = python::is_word(next_code_point(text, at));
    words += word && !inside;
    inside = word;
  }
  return Value(words);
}

#undef VIDERE_TEXT

}  // namespace

FilterFunction find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, FilterFunction> kFilters = {
      {"abs", abs_},
      {"attr", attr},
      {"batch", batch},
      {"capitalize", capitalize},
      {"center", center},
      {"count", count},
      {"d", default_},
      {"default", default_},
      {"dictsort", dictsort},
      {"e", escape},
      {"escape", escape},
      {"first", first},
      {"float", float_},
      {"forceescape", force_escape},
      {"format", format},
      {"groupby", groupby},
      {"indent", indent},
      {"int", int_},
      {"items", items},
      {"join", join},
      {"last", last},
      {"length", count},
      {"list", list},
      {"lower", lower},
      {"map", map},
      {"max", max},
      {"min", min},
      {"reject", reject},
      {"rejectattr", rejectattr},
      {"replace", replace},
      {"reverse", reverse},
      {"round", round_},
      {"safe", safe},
      {"select", select},
      {"selectattr", selectattr},
      {"slice", slice},
      {"sort", sort},
      {"string", string},
      {"sum", sum},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"unique", unique},
      {"upper", upper},
      {"urlencode", urlencode},
      {"wordcount", wordcount},
  };
  const auto found = kFilters.find(name);
  return found == kFilters.end() ? nullptr : found->second;
}

}  // namespace videre::jinja
