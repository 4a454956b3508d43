// Values of the Jinja interpreter: Python's, as far as templates see them. Strings are shared and
// immutable; containers and callables belong to the heap of one rendering and die with it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include "base/json.h"

namespace videre::jinja {

using Int = __int128;  // what JSON's 64 bits, signed or not, are computed in; beyond is an error

/// Bytes alive in one rendering.
struct Budget {
  size_t limit = 0, used = 0;
  size_t left() const { return used < limit ? limit - used : 0; }
};

/// A string's text. `markup` marks what `safe` and `escape` return: `+` escapes the other side.
struct Text {
  explicit Text(std::string text, Budget* owner = nullptr, bool is_markup = false)
      : value(std::move(text)), markup(is_markup), budget(owner) {
    if (budget) budget->used += cost();
  }
  ~Text() {
    if (budget) budget->used -= cost();
  }
  Text(const Text&) = delete;
  Text& operator=(const Text&) = delete;

  const std::string value;
  const bool markup;

 private:
  size_t cost() const { return value.size() + 64; }
  Budget* budget;
};
using TextRef = std::shared_ptr<const Text>;

class Value;

/// Base of what lives on a heap.
struct Object {
  virtual ~Object() = default;
  virtual const char* type_name() const = 0;
};

struct List;
struct Dict;
struct Namespace;

/// Anything that can be called or has attributes of its own; see jinja_interpreter.h.
struct Callable : Object {};

struct Undefined {
  TextRef name;                 // of the variable, attribute or key; may be null
  const char* owner = nullptr;  // type that lacks it; null for a variable
};
struct None {};

class Value {
 public:
  Value() = default;                                 // undefined, without a name
  Value(Undefined value) : v_(std::move(value)) {}   // NOLINT: implicit by design, as all below
  Value(None value) : v_(value) {}                   // NOLINT
  Value(bool value) : v_(value) {}                   // NOLINT
  Value(int value) : v_(static_cast<Int>(value)) {}  // NOLINT
  Value(Int value) : v_(value) {}                    // NOLINT
  Value(double value) : v_(value) {}                 // NOLINT
  Value(TextRef value) : v_(std::move(value)) {}     // NOLINT
  Value(List* value) : v_(value) {}                  // NOLINT
  Value(Dict* value) : v_(value) {}                  // NOLINT
  Value(Namespace* value) : v_(value) {}             // NOLINT
  Value(Callable* value) : v_(value) {}              // NOLINT
  Value(const char*) = delete;

  bool is_undefined() const { return std::holds_alternative<Undefined>(v_); }
  bool is_none() const { return std::holds_alternative<None>(v_); }
  bool is_bool() const { return std::holds_alternative<bool>(v_); }
  bool is_string() const { return std::holds_alternative<TextRef>(v_); }
  bool is_float() const { return std::holds_alternative<double>(v_); }
  /// Python's int, which bool is too.
  bool is_int() const { return std::holds_alternative<Int>(v_) || is_bool(); }
  bool is_number() const { return is_int() || is_float(); }

  bool as_bool() const { return std::get<bool>(v_); }
  Int as_int() const { return is_bool() ? Int{as_bool()} : std::get<Int>(v_); }
  double as_double() const {
    return is_float() ? std::get<double>(v_) : static_cast<double>(as_int());
  }
  const std::string& as_string() const { return std::get<TextRef>(v_)->value; }
  bool is_markup() const { return is_string() && std::get<TextRef>(v_)->markup; }
  const TextRef& text_ref() const { return std::get<TextRef>(v_); }
  List* as_list() const { return get<List*>(); }
  Dict* as_dict() const { return get<Dict*>(); }
  Namespace* as_namespace() const { return get<Namespace*>(); }
  Callable* as_callable() const { return get<Callable*>(); }
  const Undefined& undefined() const { return std::get<Undefined>(v_); }

  /// Python's name of the type.
  const char* type_name() const;

 private:
  template <typename T>
  T get() const {
    const T* found = std::get_if<T>(&v_);
    return found ? *found : nullptr;
  }
  std::variant<Undefined, None, bool, Int, double, TextRef, List*, Dict*, Namespace*, Callable*> v_;
};

struct List final : Object {
  enum class Flavor { kList, kTuple, kIterator, kRange, kKeys, kValues, kItems };
  explicit List(Flavor of) : flavor(of) {}
  const char* type_name() const override;
  /// Changing and comparing as a list or tuple; the others are views.
  bool is_list() const { return flavor == Flavor::kList; }
  bool is_tuple() const { return flavor == Flavor::kTuple; }

  Flavor flavor;
  std::vector<Value> items;
  size_t next = 0;    // kIterator: items before it are used up
  std::string label;  // kRange: how it prints
};

/// Insertion order; keys are hashable values.
struct Dict final : Object {
  const char* type_name() const override { return "dict"; }
  const Value* find(const Value& key) const;
  Value* find(const Value& key);
  /// Null when the key cannot be hashed.
  Value* set(const Value& key, Value value);
  bool erase(const Value& key);

  std::vector<std::pair<Value, Value>> items;

 private:
  size_t index_of(const Value& key) const;  // items.size() when absent
  void reindex();
  std::unordered_multimap<size_t, size_t> index_;  // hash to position; only for large ones
};

struct Namespace final : Object {
  const char* type_name() const override { return "Namespace"; }
  Dict attributes;
};

/// Owns the containers of one rendering.
class Heap {
 public:
  explicit Heap(size_t limit_bytes) { budget_.limit = limit_bytes; }
  template <typename T, typename... Args>
  T* make(Args&&... args) {
    auto owned = std::make_unique<T>(std::forward<Args>(args)...);
    T* object = owned.get();
    budget_.used += sizeof(T) + 32;
    objects_.push_back(std::move(owned));
    return object;
  }
  List* list(std::vector<Value> items, List::Flavor flavor = List::Flavor::kList);
  Value string(std::string text, bool markup = false) {
    return std::make_shared<const Text>(std::move(text), &budget_, markup);
  }
  /// `count` more items in some container.
  void charge_items(size_t count) { budget_.used += count * sizeof(Value); }
  bool over_limit() const { return budget_.used > budget_.limit; }
  const Budget& budget() const { return budget_; }

  /// A JSON value with all it holds.
  Value from_json(const json::value& value);

 private:
  Budget budget_;  // outlives the objects, whose strings give back to it
  std::vector<std::unique_ptr<Object>> objects_;
};

/// What a rendering has spent, in steps. Values that share parts can be small to hold and endless
/// to walk, so walking them counts too.
struct Work {
  int64_t limit = 0, used = 0;
  /// False once the limit is passed.
  bool spend(size_t steps) { return (used += static_cast<int64_t>(steps)) <= limit; }
};

bool truthy(const Value& value);
/// Python's ==. What it says after `work` ran out means nothing.
bool equal(const Value& a, const Value& b, Work& work, int depth = 0);
/// -1, 0, 1, or 2 with a NaN; nothing where Python raises TypeError.
std::optional<int> compare(const Value& a, const Value& b, Work& work, int depth = 0);
/// Whether it may be a dict's key. Tuples may hold a thousand values in all.
bool hashable(const Value& value);

/// str() and repr(). Appended; output stops growing past `max_size`, and past a depth of 100.
void append_str(std::string& out, const Value& value, size_t max_size);
void append_repr(std::string& out, const Value& value, size_t max_size, int depth = 0);
std::string int_text(Int value);

struct JsonStyle {
  std::optional<std::string> indent;  // text of one level
  std::string item_separator = ", ", key_separator = ": ";
  bool ascii_only = false, sort_keys = false;
};
/// json.dumps. Errors name what JSON cannot hold.
Status append_json(std::string& out, const Value& value, const JsonStyle& style, size_t max_size,
                   int level = 0);

}  // namespace videre::jinja
