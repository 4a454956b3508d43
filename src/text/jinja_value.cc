#include "text/jinja_value.h"

#include <algorithm>
#include <cmath>
#include <compare>

#include "base/error.h"
#include "text/python_text.h"

namespace videre::jinja {
namespace {

constexpr int kMaxDepth = 100;     // of values inside values
constexpr size_t kSmallDict = 12;  // up to here a scan is as fast as the index
constexpr size_t kNotHashable = ~size_t{0};
constexpr int64_t kMaxKeyWork = 1000;

// Both sides of a look-up have been hashed within kMaxKeyWork.
bool equal_keys(const Value& a, const Value& b) {
  Work work{4 * kMaxKeyWork};
  return equal(a, b, work);
}

size_t combine(size_t seed, size_t more) {
  return (seed ^ more) * 0x9E3779B97F4A7C15u + (seed >> 29);
}

// Equal values have equal hashes: 1, 1.0 and True are the same key.
size_t hash_of(const Value& value, Work& work) {
  if (!work.spend(1)) return kNotHashable;
  if (value.is_string()) return std::hash<std::string>()(value.as_string()) & ~size_t{1};
  if (value.is_int())
    return std::hash<int64_t>()(static_cast<int64_t>(value.as_int())) & ~size_t{1};
  if (value.is_float()) {
    const double number = value.as_double();
    if (std::floor(number) == number && std::abs(number) < 1e18)
      return std::hash<int64_t>()(static_cast<int64_t>(number)) & ~size_t{1};
    return std::hash<double>()(number) & ~size_t{1};
  }
  if (value.is_none() || value.is_undefined()) return 2;
  if (const List* list = value.as_list(); list && list->is_tuple()) {
    size_t hash = 4;
    for (const Value& item : list->items) {
      const size_t more = hash_of(item, work);
      if (more == kNotHashable) return kNotHashable;
      hash = combine(hash, more);
    }
    return hash & ~size_t{1};
  }
  if (value.as_callable()) return std::hash<const void*>()(value.as_callable()) & ~size_t{1};
  if (value.as_namespace()) return std::hash<const void*>()(value.as_namespace()) & ~size_t{1};
  return kNotHashable;
}

size_t hash_of(const Value& value) {
  Work work{kMaxKeyWork};
  return hash_of(value, work);
}

std::optional<int> order(double a, double b) {
  if (a < b) return -1;
  if (a > b) return 1;
  return a == b ? 0 : 2;  // NaN: neither below, equal nor above
}

void append_sequence(std::string& out, const char* open, const char* close, const List& list,
                     size_t max_size, int depth) {
  out += open;
  for (size_t i = 0; i < list.items.size() && out.size() <= max_size; ++i) {
    if (i > 0) out += ", ";
    append_repr(out, list.items[i], max_size, depth + 1);
  }
  if (list.is_tuple() && list.items.size() == 1) out += ',';
  out += close;
}

void append_dict(std::string& out, const Dict& dict, size_t max_size, int depth) {
  out += '{';
  bool first = true;
  for (const auto& [key, value] : dict.items) {
    if (out.size() > max_size) break;
    if (!first) out += ", ";
    first = false;
    append_repr(out, key, max_size, depth + 1);
    out += ": ";
    append_repr(out, value, max_size, depth + 1);
  }
  out += '}';
}

}  // namespace

const char* List::type_name() const {
  switch (flavor) {
    case Flavor::kList:
      return "list";
    case Flavor::kTuple:
      return "tuple";
    case Flavor::kIterator:
      return "generator";
    case Flavor::kRange:
      return "range";
    case Flavor::kKeys:
      return "dict_keys";
    case Flavor::kValues:
      return "dict_values";
    case Flavor::kItems:
      return "dict_items";
  }
  return "list";
}

const char* Value::type_name() const {
  if (is_undefined()) return "Undefined";
  if (is_none()) return "NoneType";
  if (is_bool()) return "bool";
  if (is_int()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (as_list()) return as_list()->type_name();
  if (as_dict()) return "dict";
  if (as_namespace()) return "Namespace";
  return as_callable()->type_name();
}

size_t Dict::index_of(const Value& key) const {
  if (items.size() <= kSmallDict) {
    for (size_t i = 0; i < items.size(); ++i) {
      if (equal_keys(items[i].first, key)) return i;
    }
    return items.size();
  }
  const auto [begin, end] = index_.equal_range(hash_of(key));
  for (auto it = begin; it != end; ++it) {
    if (equal_keys(items[it->second].first, key)) return it->second;
  }
  return items.size();
}

void Dict::reindex() {
  index_.clear();
  if (items.size() <= kSmallDict) return;
  for (size_t i = 0; i < items.size(); ++i) index_.emplace(hash_of(items[i].first), i);
}

const Value* Dict::find(const Value& key) const {
  const size_t at = index_of(key);
  return at < items.size() ? &items[at].second : nullptr;
}

Value* Dict::find(const Value& key) { return const_cast<Value*>(std::as_const(*this).find(key)); }

Value* Dict::set(const Value& key, Value value) {
  const size_t hash = hash_of(key);
  if (hash == kNotHashable) return nullptr;
  if (Value* found = find(key)) {
    *found = std::move(value);
    return found;
  }
  items.emplace_back(key, std::move(value));
  if (items.size() == kSmallDict + 1) {
    reindex();
  } else if (items.size() > kSmallDict) {
    index_.emplace(hash, items.size() - 1);
  }
  return &items.back().second;
}

bool Dict::erase(const Value& key) {
  const size_t at = index_of(key);
  if (at == items.size()) return false;
  items.erase(items.begin() + static_cast<ptrdiff_t>(at));
  reindex();
  return true;
}

List* Heap::list(std::vector<Value> items, List::Flavor flavor) {
  List* list = make<List>(flavor);
  charge_items(items.size());
  list->items = std::move(items);
  return list;
}

Value Heap::from_json(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return None{};
    case json::kind::bool_:
      return value.get_bool();
    case json::kind::int64:
      return static_cast<Int>(value.get_int64());
    case json::kind::uint64:
      return static_cast<Int>(value.get_uint64());
    case json::kind::double_:
      return value.get_double();
    case json::kind::string:
      return string(std::string(value.get_string()));
    case json::kind::array: {
      std::vector<Value> items;
      items.reserve(value.get_array().size());
      for (const json::value& item : value.get_array()) items.push_back(from_json(item));
      return list(std::move(items));
    }
    case json::kind::object: {
      Dict* dict = make<Dict>();
      charge_items(2 * value.get_object().size());
      for (const auto& [key, item] : value.get_object())
        dict->set(string(std::string(key)), from_json(item));
      return dict;
    }
  }
  return None{};
}

bool truthy(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_int()) return value.as_int() != 0;
  if (value.is_float()) return value.as_double() != 0;
  if (value.is_string()) return !value.as_string().empty();
  if (const List* list = value.as_list())
    return list->flavor == List::Flavor::kIterator || !list->items.empty();
  if (const Dict* dict = value.as_dict()) return !dict->items.empty();
  return true;
}

bool hashable(const Value& value) { return hash_of(value) != kNotHashable; }

bool equal(const Value& a, const Value& b, Work& work, int depth) {
  if (depth > kMaxDepth || !work.spend(1)) return false;
  if (a.is_int() && b.is_int()) return a.as_int() == b.as_int();
  if (a.is_number() && b.is_number()) return a.as_double() == b.as_double();
  if (a.is_string() && b.is_string()) {
    if (a.as_string().size() != b.as_string().size()) return false;
    work.spend(a.as_string().size() / 64);
    return a.as_string() == b.as_string();
  }
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (const List *x = a.as_list(), *y = b.as_list(); x && y) {
    if (x == y) return true;
    const bool comparable = x->flavor == y->flavor &&
                            (x->is_list() || x->is_tuple() || x->flavor == List::Flavor::kRange);
    if (!comparable || x->items.size() != y->items.size()) return false;
    for (size_t i = 0; i < x->items.size(); ++i) {
      if (!equal(x->items[i], y->items[i], work, depth + 1)) return false;
    }
    return true;
  }
  if (const Dict *x = a.as_dict(), *y = b.as_dict(); x && y) {
    if (x == y) return true;
    if (x->items.size() != y->items.size()) return false;
    for (const auto& [key, value] : x->items) {
      const Value* other = y->find(key);
      if (!other || !equal(value, *other, work, depth + 1)) return false;
    }
    return true;
  }
  if (a.as_namespace() || b.as_namespace()) return a.as_namespace() == b.as_namespace();
  if (a.as_callable() || b.as_callable()) return a.as_callable() == b.as_callable();
  return false;
}

std::optional<int> compare(const Value& a, const Value& b, Work& work, int depth) {
  if (depth > kMaxDepth || !work.spend(1)) return std::nullopt;
  if (a.is_int() && b.is_int()) {
    return a.as_int() < b.as_int() ? -1 : a.as_int() > b.as_int() ? 1 : 0;
  }
  if (a.is_number() && b.is_number()) return order(a.as_double(), b.as_double());
  if (a.is_string() && b.is_string()) {
    const int result = a.as_string().compare(b.as_string());  // bytes order as code points do
    return result < 0 ? -1 : result > 0 ? 1 : 0;
  }
  const List *x = a.as_list(), *y = b.as_list();
  if (!x || !y || x->flavor != y->flavor || !(x->is_list() || x->is_tuple())) return std::nullopt;
  for (size_t i = 0; i < x->items.size() && i < y->items.size(); ++i) {
    if (!equal(x->items[i], y->items[i], work, depth + 1))
      return compare(x->items[i], y->items[i], work, depth + 1);
  }
  return x->items.size() < y->items.size() ? -1 : x->items.size() > y->items.size() ? 1 : 0;
}

std::string int_text(Int value) {
  if (value >= 0) return fmt::format("{}", static_cast<unsigned __int128>(value));
  return "-" + fmt::format("{}", -static_cast<unsigned __int128>(value));
}

void append_str(std::string& out, const Value& value, size_t max_size) {
  if (value.is_string()) {
    out += value.as_string();
  } else if (!value.is_undefined()) {
    append_repr(out, value, max_size);
  }
}

void append_repr(std::string& out, const Value& value, size_t max_size, int depth) {
  if (depth > kMaxDepth) {
    out += "...";
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (value.is_none()) {
    out += "None";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "True" : "False";
  } else if (value.is_int()) {
    out += int_text(value.as_int());
  } else if (value.is_float()) {
    out += python::repr(value.as_double());
  } else if (value.is_string()) {
    out += value.is_markup() ? "Markup(" + python::repr(value.as_string()) + ")"
                             : python::repr(value.as_string());
  } else if (const List* list = value.as_list()) {
    switch (list->flavor) {
      case List::Flavor::kList:
        append_sequence(out, "[", "]", *list, max_size, depth);
        break;
      case List::Flavor::kTuple:
        append_sequence(out, "(", ")", *list, max_size, depth);
        break;
      case List::Flavor::kIterator:
        out += "<generator>";
        break;
      case List::Flavor::kRange:
        out += list->label;
        break;
      default:
        out += list->type_name();
        append_sequence(out, "([", "])", *list, max_size, depth);
    }
  } else if (const Dict* dict = value.as_dict()) {
    append_dict(out, *dict, max_size, depth);
  } else if (const Namespace* space = value.as_namespace()) {
    out += "<Namespace ";
    append_dict(out, space->attributes, max_size, depth);
    out += '>';
  } else {
    out += fmt::format("<{}>", value.type_name());
  }
}

Status append_json(std::string& out, const Value& value, const JsonStyle& style, size_t max_size,
                   int level) {
  if (level > kMaxDepth) return invalid_argument("", "tojson: values nest too deep");
  if (out.size() > max_size) return invalid_argument("", "tojson: the result is too long");
  const auto new_line = [&](int at) {
    if (!style.indent) return;
    out += '\n';
    for (int i = 0; i < at; ++i) out += *style.indent;
  };
  if (value.is_none()) {
    out += "null";
  } else if (value.is_bool()) {
    out += value.as_bool() ? "true" : "false";
  } else if (value.is_int()) {
    out += int_text(value.as_int());
  } else if (value.is_float()) {
    const double number = value.as_double();
    out += std::isnan(number)   ? "NaN"
           : std::isinf(number) ? (number < 0 ? "-Infinity" : "Infinity")
                                : python::repr(number);
  } else if (value.is_string()) {
    python::append_json_string(out, value.as_string(), style.ascii_only);
  } else if (const List* list = value.as_list(); list && (list->is_list() || list->is_tuple())) {
    out += '[';
    for (size_t i = 0; i < list->items.size(); ++i) {
      if (i > 0) out += style.item_separator;
      new_line(level + 1);
      VIDERE_RETURN_IF_ERROR(append_json(out, list->items[i], style, max_size, level + 1));
    }
    if (!list->items.empty()) new_line(level);
    out += ']';
  } else if (const Dict* dict = value.as_dict()) {
    std::vector<const std::pair<Value, Value>*> items;
    for (const auto& item : dict->items) items.push_back(&item);
    if (style.sort_keys) {
      Work work{INT64_MAX};  // keys are small
      bool ordered = true;
      std::stable_sort(items.begin(), items.end(), [&](const auto* a, const auto* b) {
        const auto result = compare(a->first, b->first, work);
        ordered = ordered && result;
        return result && *result < 0;
      });
      if (!ordered) return invalid_argument("", "tojson: sort_keys met keys of different types");
    }
    out += '{';
    bool first = true;
    for (const auto* item : items) {
      if (!first) out += style.item_separator;
      first = false;
      new_line(level + 1);
      const Value& key = item->first;
      if (key.is_string()) {
        python::append_json_string(out, key.as_string(), style.ascii_only);
      } else if (key.is_none() || key.is_number()) {
        out += '"';
        VIDERE_RETURN_IF_ERROR(append_json(out, key, style, max_size, level + 1));
        out += '"';
      } else {
        return invalid_argument(
            "", "tojson: a key is of type {}; expected a string, number or None", key.type_name());
      }
      out += style.key_separator;
      VIDERE_RETURN_IF_ERROR(append_json(out, item->second, style, max_size, level + 1));
    }
    if (!items.empty()) new_line(level);
    out += '}';
  } else {
    return invalid_argument("", "tojson: a value of type {} has no JSON form", value.type_name());
  }
  return {};
}

}  // namespace videre::jinja
