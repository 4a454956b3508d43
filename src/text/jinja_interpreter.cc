#include "text/jinja_interpreter.h"

#include <algorithm>
#include <cmath>

#include "text/jinja_functions.h"
#include "text/python_text.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

// Python's str of a type, for "'x object' has no attribute".
std::string owner_text(const char* owner) {
  return std::string(owner) == "NoneType" ? "None" : std::string(owner) + " object";
}

// start, stop and step of a slice over `length` items, as Python clamps them.
struct SliceBounds {
  int64_t begin, end, step;
};

Result<SliceBounds> clamp_slice(int64_t length, const Value* begin, const Value* end,
                                const Value* step) {
  const auto given = [](const Value* value) { return value && !value->is_none(); };
  int64_t by = 1;
  if (given(step)) {
    VIDERE_ASSIGN_OR_RETURN(by, as_index(*step, "a slice's step"));
    if (by == 0) return invalid_argument("", "a slice's step is zero");
  }
  const int64_t low = by < 0 ? -1 : 0, high = by < 0 ? length - 1 : length;
  const auto bound = [&](const Value* value, int64_t otherwise) -> Result<int64_t> {
    if (!given(value)) return otherwise;
    VIDERE_ASSIGN_OR_RETURN(int64_t at, as_index(*value, "a slice's bound"));
    if (at < 0) at += length;
    return std::clamp(at, low, high);
  };
  VIDERE_ASSIGN_OR_RETURN(const int64_t from, bound(begin, by < 0 ? high : low));
  VIDERE_ASSIGN_OR_RETURN(const int64_t to, bound(end, by < 0 ? low : high));
  return SliceBounds{from, to, by};
}

// Byte offsets of all characters, and the size at the end.
std::vector<size_t> character_offsets(const std::string& text) {
  std::vector<size_t> offsets;
  for (size_t at = 0; at < text.size();) {
    offsets.push_back(at);
    next_code_point(text, at);
  }
  offsets.push_back(text.size());
  return offsets;
}

struct Method final : Function {
  Method(Value of, TextRef named, MethodFunction does)
      : self(std::move(of)), name(std::move(named)), function(does) {}
  const char* type_name() const override { return "builtin_function_or_method"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override {
    return function(in, self, arguments);
  }
  Value self;
  TextRef name;
  MethodFunction function;
};

// A macro, or the body of a call block.
struct Macro final : Function {
  Macro(const MacroDefinition& of, Scope* in) : definition(&of), closure(in) {}
  const char* type_name() const override { return "Macro"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override;
  Value attribute(Interpreter& in, const TextRef& name) override;
  std::string name(Interpreter& in) const {
    return definition->name == Names::kNoName ? "caller" : in.name_text(definition->name)->value;
  }

  const MacroDefinition* definition;
  Scope* closure;  // where it was defined
};

Result<Value> Macro::call(Interpreter& in, Arguments& arguments) {
  const auto& parameters = definition->parameters;
  const size_t num_positional = arguments.positional.size();
  if (num_positional > parameters.size() && !definition->uses_varargs) {
    return invalid_argument("", "macro \"{}\" takes at most {} arguments; {} were given", name(in),
                            parameters.size(), num_positional);
  }
  Scope* scope = in.new_scope(closure);
  const auto take_keyword = [&](const std::string& name) -> std::optional<Value> {
    auto& keyword = arguments.keyword;
    const auto found = std::find_if(keyword.begin(), keyword.end(),
                                    [&](const auto& item) { return item.first->value == name; });
    if (found == keyword.end()) return std::nullopt;
    Value value = std::move(found->second);
    keyword.erase(found);
    return value;
  };
  bool has_own_caller = false;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const TextRef& parameter = in.name_text(parameters[i].name);
    has_own_caller = has_own_caller || parameter->value == "caller";
    std::optional<Value> value;
    if (i < num_positional) {
      value = arguments.positional[i];
    } else {
      value = take_keyword(parameter->value);
    }
    if (!value && parameters[i].default_value) {
      VIDERE_ASSIGN_OR_RETURN(value, in.evaluate_in(*parameters[i].default_value, scope));
    }
    if (!value) value = Undefined{parameter, nullptr};
    scope->variables.emplace_back(parameters[i].name, std::move(*value));
  }
  const auto set_special = [&](const char* name, Value value) {
    scope->variables.emplace_back(in.name_id(name), std::move(value));
  };
  if (definition->uses_caller && !has_own_caller) {
    auto caller = take_keyword("caller");
    set_special("caller",
                caller ? *caller : Value(Undefined{in.name_text(in.name_id("caller")), nullptr}));
  }
  if (definition->uses_kwargs) {
    Dict* kwargs = in.heap().make<Dict>();
    for (auto& [name, value] : arguments.keyword) kwargs->set(name, std::move(value));
    set_special("kwargs", kwargs);
  } else if (!arguments.keyword.empty()) {
    return invalid_argument("", "macro \"{}\" takes no argument named \"{}\"", name(in),
                            arguments.keyword.front().first->value);
  }
  if (definition->uses_varargs) {
    std::vector<Value> rest;
    for (size_t i = parameters.size(); i < num_positional; ++i)
      rest.push_back(arguments.positional[i]);
    set_special("varargs", in.list(std::move(rest), List::Flavor::kTuple));
  }
  return in.run_macro(*definition, scope);
}

Value Macro::attribute(Interpreter& in, const TextRef& attribute) {
  if (attribute->value == "name") return in.string(name(in));
  if (attribute->value == "arguments") {
    std::vector<Value> names;
    for (const auto& parameter : definition->parameters)
      names.push_back(in.name_text(parameter.name));
    return in.list(std::move(names), List::Flavor::kTuple);
  }
  if (attribute->value == "catch_kwargs") return definition->uses_kwargs;
  if (attribute->value == "catch_varargs") return definition->uses_varargs;
  if (attribute->value == "caller") return definition->uses_caller;
  return Undefined{attribute, type_name()};
}

}  // namespace

Status Arguments::bind_to(std::string_view what, std::span<const char* const> names,
                          const Value** out) const {
  if (positional.size() > names.size()) {
    return invalid_argument("", "{} takes at most {} arguments; {} were given", what, names.size(),
                            positional.size());
  }
  for (size_t i = 0; i < positional.size(); ++i) out[i] = &positional[i];
  for (const auto& [name, value] : keyword) {
    const auto found = std::find(names.begin(), names.end(), name->value);
    if (found == names.end())
      return invalid_argument("", "{} takes no argument named \"{}\"", what, name->value);
    const size_t at = static_cast<size_t>(found - names.begin());
    if (out[at]) return invalid_argument("", "{} was given \"{}\" twice", what, name->value);
    out[at] = &value;
  }
  return {};
}

Value Function::attribute(Interpreter&, const TextRef& name) {
  return Undefined{name, type_name()};
}

class Interpreter::DepthGuard {
 public:
  explicit DepthGuard(Interpreter& in) : in_(in) { ++in_.depth_; }
  ~DepthGuard() { --in_.depth_; }
  bool too_deep() const { return in_.depth_ > in_.limits_.max_depth; }

 private:
  Interpreter& in_;
};

Interpreter::Interpreter(const Template& source, const TemplateLimits& limits,
                         std::optional<std::time_t> now)
    : template_(source),
      limits_(limits),
      now_(now.value_or(std::time(nullptr))),
      heap_(limits.max_memory_bytes),
      work_{limits.max_steps} {}

Result<std::string> Interpreter::run(const json::object& variables) {
  scope_ = new_scope(nullptr);
  define_globals();
  scope_ = new_scope(scope_);
  for (const auto& [key, value] : variables) {
    const Names::Id name = name_id({key.data(), key.size()});
    if (name != Names::kNoName) set_variable(name, heap_.from_json(value));
  }
  scope_ = new_scope(scope_);
  std::string out;
  out_ = &out;
  const auto result = execute(template_.body);
  if (result.ok()) return out;
  const std::string& message = result.error().message;
  if (refused_) {
    return invalid_argument("messages", "the chat template refuses the request: {}", message);
  }
  return invalid_argument("messages", "chat template \"{}\", line {}: {}", template_.name, line_,
                          message);
}

Status Interpreter::step() {
  if (!work_.spend(1)) {
    return invalid_argument("", "it was stopped after {} steps", limits_.max_steps);
  }
  if (heap_.over_limit()) {
    return invalid_argument("", "it was stopped at {} bytes of memory", limits_.max_memory_bytes);
  }
  return {};
}

Status Interpreter::charge(size_t bytes) {
  work_.spend(bytes / 64);
  return step();
}

Status Interpreter::room(size_t bytes) const {
  if (bytes <= heap_.budget().left()) return {};
  return invalid_argument("", "a result of {} bytes would go over {} bytes of memory", bytes,
                          limits_.max_memory_bytes);
}

Value Interpreter::string(std::string text, bool markup) {
  work_.spend(text.size() / 64);
  return heap_.string(std::move(text), markup);
}

Value Interpreter::list(std::vector<Value> items, List::Flavor flavor) {
  work_.spend(items.size() / 8);
  return heap_.list(std::move(items), flavor);
}

Result<std::string> Interpreter::text_of(const Value& value) {
  std::string text;
  const size_t limit = heap_.budget().left();
  append_str(text, value, limit);
  VIDERE_RETURN_IF_ERROR(room(text.size()));
  VIDERE_RETURN_IF_ERROR(charge(text.size()));
  return text;
}

Error Interpreter::undefined_error(const Value& value) {
  const Undefined& undefined = value.undefined();
  const std::string name = undefined.name ? undefined.name->value : "the value";
  if (!undefined.name) return invalid_argument("", "the value is undefined");
  if (!undefined.owner) return invalid_argument("", "\"{}\" is undefined", name);
  return invalid_argument("", "\"{}\" has no attribute \"{}\"", owner_text(undefined.owner), name);
}

Result<std::vector<Value>> Interpreter::items_of(const Value& value) {
  std::vector<Value> items;
  if (List* list = value.as_list()) {
    VIDERE_RETURN_IF_ERROR(charge(list->items.size() * 8));
    if (list->flavor != List::Flavor::kIterator) return list->items;
    items.assign(list->items.begin() + static_cast<ptrdiff_t>(list->next), list->items.end());
    list->next = list->items.size();
    return items;
  }
  if (const Dict* dict = value.as_dict()) {
    VIDERE_RETURN_IF_ERROR(charge(dict->items.size() * 8));
    for (const auto& [key, item] : dict->items) items.push_back(key);
    return items;
  }
  if (value.is_string()) {
    const std::string& text = value.as_string();
    VIDERE_RETURN_IF_ERROR(charge(text.size() * 64));
    VIDERE_RETURN_IF_ERROR(room(text.size() * 128));
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      next_code_point(text, at);
      items.push_back(heap_.string(text.substr(begin, at - begin)));
    }
    return items;
  }
  if (value.is_undefined()) return items;
  return invalid_argument("", "a value of type {} cannot be iterated over", value.type_name());
}

Result<Value> Interpreter::attribute(const Value& object, const TextRef& name) {
  if (object.is_undefined()) return undefined_error(object);
  if (const MethodFunction method = find_method(object, name->value)) {
    Function* bound = heap_.make<Method>(object, name, method);
    return Value(bound);
  }
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(name)) return *found;
  } else if (const Namespace* space = object.as_namespace()) {
    if (const Value* found = space->attributes.find(name)) return *found;
  } else if (Callable* callable = object.as_callable()) {
    return static_cast<Function*>(callable)->attribute(*this, name);
  }
  return Value(Undefined{name, object.type_name()});
}

Result<Value> Interpreter::item(const Value& object, const Value& key) {
  if (object.is_undefined()) return undefined_error(object);
  if (const Dict* dict = object.as_dict()) {
    if (const Value* found = dict->find(key)) return *found;
  } else if (key.is_int()) {
    const List* list = object.as_list();
    const bool indexable =
        list && (list->is_list() || list->is_tuple() || list->flavor == List::Flavor::kRange);
    Int at = key.as_int();
    if (indexable) {
      const Int size = static_cast<Int>(list->items.size());
      if (at < 0) at += size;
      if (at >= 0 && at < size) return list->items[static_cast<size_t>(at)];
    } else if (object.is_string()) {
      const std::string& text = object.as_string();
      VIDERE_RETURN_IF_ERROR(charge(text.size()));
      const Int size = static_cast<Int>(count_code_points(text));
      if (at < 0) at += size;
      if (at >= 0 && at < size) {
        const size_t begin = python::byte_offset(text, static_cast<size_t>(at));
        size_t end = begin;
        next_code_point(text, end);
        return string(text.substr(begin, end - begin));
      }
    }
  }
  if (key.is_string()) {
    // Python's obj[key] failed: an attribute of that name serves, but for a dict's own keys.
    if (const MethodFunction method = find_method(object, key.as_string())) {
      Function* bound = heap_.make<Method>(object, key.text_ref(), method);
      return Value(bound);
    }
    if (!object.as_dict()) return attribute(object, key.text_ref());
    return Value(Undefined{key.text_ref(), object.type_name()});
  }
  VIDERE_ASSIGN_OR_RETURN(std::string shown, text_of(key));
  return Value(Undefined{string(std::move(shown)).text_ref(), object.type_name()});
}

Result<Value> Interpreter::slice(const Value& object, const Value* begin, const Value* end,
                                 const Value* step) {
  if (object.is_undefined()) return undefined_error(object);
  const auto clamp = [&](size_t length) {
    return clamp_slice(static_cast<int64_t>(length), begin, end, step);
  };
  const auto inside = [](const SliceBounds& bounds, int64_t at) {
    return bounds.step > 0 ? at < bounds.end : at > bounds.end;
  };
  if (object.is_string()) {
    const std::string& text = object.as_string();
    VIDERE_RETURN_IF_ERROR(charge(text.size()));
    const bool ascii = python::is_ascii(text);
    const std::vector<size_t> offsets = ascii ? std::vector<size_t>() : character_offsets(text);
    VIDERE_ASSIGN_OR_RETURN(const SliceBounds bounds,
                            clamp(ascii ? text.size() : offsets.size() - 1));
    std::string out;
    for (int64_t at = bounds.begin; inside(bounds, at); at += bounds.step) {
      const auto i = static_cast<size_t>(at);
      if (ascii) {
        out += text[i];
      } else {
        out.append(text, offsets[i], offsets[i + 1] - offsets[i]);
      }
    }
    return string(std::move(out));
  }
  const List* from = object.as_list();
  if (!from || !(from->is_list() || from->is_tuple() || from->flavor == List::Flavor::kRange))
    return invalid_argument("", "a value of type {} cannot be sliced", object.type_name());
  VIDERE_ASSIGN_OR_RETURN(const SliceBounds bounds, clamp(from->items.size()));
  std::vector<Value> out;
  for (int64_t at = bounds.begin; inside(bounds, at); at += bounds.step)
    out.push_back(from->items[static_cast<size_t>(at)]);
  return list(std::move(out), from->is_tuple() ? List::Flavor::kTuple : List::Flavor::kList);
}

Result<bool> Interpreter::contains(const Value& container, const Value& item) {
  if (container.is_string()) {
    if (!item.is_string()) {
      return invalid_argument("", "\"in\" looks for a value of type {} in a string",
                              item.type_name());
    }
    VIDERE_RETURN_IF_ERROR(charge(container.as_string().size()));
    return container.as_string().find(item.as_string()) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) {
    if (!hashable(item))
      return invalid_argument("", "a value of type {} is no dict's key", item.type_name());
    return dict->find(item) != nullptr;
  }
  VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(container));
  return std::any_of(items.begin(), items.end(),
                     [&](const Value& other) { return equal(item, other); });
}

Result<Value> Interpreter::call(const Value& callee, Arguments& arguments) {
  if (callee.is_undefined()) return undefined_error(callee);
  auto* function = static_cast<Function*>(callee.as_callable());
  if (!function)
    return invalid_argument("", "a value of type {} cannot be called", callee.type_name());
  DepthGuard guard(*this);
  if (guard.too_deep()) return invalid_argument("", "calls nest too deep");
  VIDERE_RETURN_IF_ERROR(step());
  return function->call(*this, arguments);
}

Result<Value> Interpreter::apply(FilterFunction filter, const Value& input, Arguments& arguments) {
  DepthGuard guard(*this);
  if (guard.too_deep()) return invalid_argument("", "filters nest too deep");
  VIDERE_RETURN_IF_ERROR(charge(64 * (1 + arguments.positional.size())));
  return filter(*this, input, arguments);
}

Result<bool> Interpreter::compare(Operator op, const Value& a, const Value& b) {
  switch (op) {
    case Operator::kEqual:
      return equal(a, b);
    case Operator::kNotEqual:
      return !equal(a, b);
    case Operator::kIn:
      return contains(b, a);
    case Operator::kNotIn: {
      VIDERE_ASSIGN_OR_RETURN(const bool in, contains(b, a));
      return !in;
    }
    default:
      break;
  }
  if (a.is_undefined()) return undefined_error(a);
  if (b.is_undefined()) return undefined_error(b);
  const auto order = jinja::compare(a, b, work_);
  if (!order) {
    VIDERE_RETURN_IF_ERROR(step());
    return invalid_argument("", "values of types {} and {} have no order", a.type_name(),
                            b.type_name());
  }
  switch (op) {
    case Operator::kLess:
      return *order == -1;
    case Operator::kLessEqual:
      return *order == -1 || *order == 0;
    case Operator::kGreater:
      return *order == 1;
    default:
      return *order == 1 || *order == 0;
  }
}

Result<Value> Interpreter::run_macro(const MacroDefinition& macro, Scope* scope) {
  Scope* const outer = scope_;
  scope_ = scope;
  auto result = capture(macro.body, nullptr);
  scope_ = outer;
  release(scope);
  return result;
}

Scope* Interpreter::new_scope(Scope* parent) {
  Scope* scope = nullptr;
  if (free_scopes_.empty()) {
    scope = heap_.make<Scope>();
  } else {
    scope = free_scopes_.back();
    free_scopes_.pop_back();
  }
  scope->parent = parent;
  return scope;
}

void Interpreter::release(Scope* scope) {
  if (scope->captured) return;
  scope->variables.clear();
  free_scopes_.push_back(scope);
}

// --- expressions ---

Result<Value> Interpreter::evaluate_in(const Expression& expression, Scope* scope) {
  Scope* const outer = scope_;
  scope_ = scope;
  auto result = evaluate(expression);
  scope_ = outer;
  return result;
}

Result<Value> Interpreter::evaluate(const Expression& expression) {
  if (expression.kind == Expression::Kind::kConstant) return expression.constant;
  DepthGuard guard(*this);
  if (guard.too_deep()) return invalid_argument("", "expressions and calls nest too deep");
  VIDERE_RETURN_IF_ERROR(step());
  line_ = expression.line;
  return evaluate_node(expression);
}

Result<Value> Interpreter::evaluate_node(const Expression& expression) {
  using Kind = Expression::Kind;
  const auto& parts = expression.parts;
  switch (expression.kind) {
    case Kind::kConstant:
      return expression.constant;
    case Kind::kName:
      return evaluate_name(expression);
    case Kind::kFilterInput:
      return filter_input_;
    case Kind::kList:
    case Kind::kTuple: {
      VIDERE_ASSIGN_OR_RETURN(std::vector<Value> items, evaluate_all(parts));
      return list(std::move(items),
                  expression.kind == Kind::kList ? List::Flavor::kList : List::Flavor::kTuple);
    }
    case Kind::kDict:
      return evaluate_dict(expression);
    case Kind::kAttribute: {
      VIDERE_ASSIGN_OR_RETURN(const Value object, evaluate(*parts[0]));
      return attribute(object, name_text(expression.name));
    }
    case Kind::kItem: {
      VIDERE_ASSIGN_OR_RETURN(const Value object, evaluate(*parts[0]));
      VIDERE_ASSIGN_OR_RETURN(const Value key, evaluate(*parts[1]));
      return item(object, key);
    }
    case Kind::kSlice: {
      VIDERE_ASSIGN_OR_RETURN(const Value object, evaluate(*parts[0]));
      std::array<Value, 3> bounds;
      std::array<const Value*, 3> given{};
      for (size_t i = 0; i < 3; ++i) {
        if (!parts[i + 1]) continue;
        VIDERE_ASSIGN_OR_RETURN(bounds[i], evaluate(*parts[i + 1]));
        given[i] = &bounds[i];
      }
      return slice(object, given[0], given[1], given[2]);
    }
    case Kind::kCall: {
      VIDERE_ASSIGN_OR_RETURN(const Value callee, evaluate(*parts[0]));
      VIDERE_ASSIGN_OR_RETURN(Arguments arguments, evaluate_arguments(expression));
      line_ = expression.line;
      return call(callee, arguments);
    }
    case Kind::kFilter: {
      VIDERE_ASSIGN_OR_RETURN(const Value input, evaluate(*parts[0]));
      VIDERE_ASSIGN_OR_RETURN(Arguments arguments, evaluate_arguments(expression));
      line_ = expression.line;
      if (!expression.filter) {
        return invalid_argument("", "there is no filter \"{}\"", name_text(expression.name)->value);
      }
      return expression.filter(*this, input, arguments);
    }
    case Kind::kTest: {
      VIDERE_ASSIGN_OR_RETURN(const Value input, evaluate(*parts[0]));
      VIDERE_ASSIGN_OR_RETURN(Arguments arguments, evaluate_arguments(expression));
      line_ = expression.line;
      if (!expression.test) {
        return invalid_argument("", "there is no test \"{}\"", name_text(expression.name)->value);
      }
      VIDERE_ASSIGN_OR_RETURN(const bool holds, expression.test(*this, input, arguments));
      return Value(holds);
    }
    case Kind::kNot: {
      VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*parts[0]));
      return Value(!truthy(value));
    }
    case Kind::kNegate: {
      VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*parts[0]));
      return negate(value);
    }
    case Kind::kPlus: {
      VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*parts[0]));
      if (value.is_undefined()) return undefined_error(value);
      if (!value.is_number())
        return invalid_argument("", "a value of type {} has no sign", value.type_name());
      return value.is_float() ? value : Value(value.as_int());
    }
    case Kind::kAnd:
    case Kind::kOr: {
      VIDERE_ASSIGN_OR_RETURN(Value left, evaluate(*parts[0]));
      if (truthy(left) == (expression.kind == Kind::kOr)) return left;
      return evaluate(*parts[1]);
    }
    case Kind::kBinary: {
      VIDERE_ASSIGN_OR_RETURN(const Value left, evaluate(*parts[0]));
      VIDERE_ASSIGN_OR_RETURN(const Value right, evaluate(*parts[1]));
      line_ = expression.line;
      return binary(expression.operators[0], left, right);
    }
    case Kind::kCompare:
      return evaluate_compare(expression);
    case Kind::kConcat:
      return evaluate_concat(expression);
    case Kind::kConditional: {
      VIDERE_ASSIGN_OR_RETURN(const Value test, evaluate(*parts[0]));
      if (truthy(test)) return evaluate(*parts[1]);
      return parts[2] ? evaluate(*parts[2]) : Result<Value>(Value());
    }
    case Kind::kNamespaceAttribute:
      break;
  }
  return internal_error("chat template: an expression of an unknown kind");
}

Result<Value> Interpreter::evaluate_name(const Expression& expression) {
  if (const Value* found = find_variable(expression.name)) return *found;
  return Value(Undefined{name_text(expression.name), nullptr});
}

Result<Value> Interpreter::evaluate_concat(const Expression& expression) {
  std::string out;
  for (const ExpressionPtr& part : expression.parts) {
    VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*part));
    append_str(out, value, heap_.budget().left());
    VIDERE_RETURN_IF_ERROR(room(out.size()));
  }
  return string(std::move(out));
}

Result<Value> Interpreter::evaluate_dict(const Expression& expression) {
  Dict* dict = heap_.make<Dict>();
  for (size_t i = 0; i < expression.parts.size(); i += 2) {
    VIDERE_ASSIGN_OR_RETURN(const Value key, evaluate(*expression.parts[i]));
    VIDERE_ASSIGN_OR_RETURN(Value value, evaluate(*expression.parts[i + 1]));
    heap_.charge_items(2);
    if (!dict->set(key, std::move(value)))
      return invalid_argument("", "a value of type {} is no dict's key", key.type_name());
  }
  return Value(dict);
}

Result<Value> Interpreter::evaluate_compare(const Expression& expression) {
  VIDERE_ASSIGN_OR_RETURN(Value left, evaluate(*expression.parts[0]));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    VIDERE_ASSIGN_OR_RETURN(Value right, evaluate(*expression.parts[i + 1]));
    line_ = expression.line;
    VIDERE_ASSIGN_OR_RETURN(const bool holds, compare(expression.operators[i], left, right));
    if (!holds) return Value(false);
    left = std::move(right);
  }
  return Value(true);
}

Result<std::vector<Value>> Interpreter::evaluate_all(const std::vector<ExpressionPtr>& parts) {
  std::vector<Value> values;
  values.reserve(parts.size());
  for (const ExpressionPtr& part : parts) {
    VIDERE_ASSIGN_OR_RETURN(Value value, evaluate(*part));
    values.push_back(std::move(value));
  }
  return values;
}

Result<Arguments> Interpreter::evaluate_arguments(const Expression& expression) {
  Arguments out;
  for (const Argument& argument : expression.arguments) {
    VIDERE_ASSIGN_OR_RETURN(Value value, evaluate(*argument.value));
    switch (argument.kind) {
      case Argument::Kind::kPositional:
        out.positional.push_back(std::move(value));
        break;
      case Argument::Kind::kKeyword:
        out.keyword.emplace_back(name_text(argument.name), std::move(value));
        break;
      case Argument::Kind::kList: {
        VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> items, items_of(value));
        out.positional.insert(out.positional.end(), items.begin(), items.end());
        break;
      }
      case Argument::Kind::kDict: {
        const Dict* dict = value.as_dict();
        if (!dict) return invalid_argument("", "** needs a dict; it got {}", value.type_name());
        for (const auto& [key, item] : dict->items) {
          if (!key.is_string()) return invalid_argument("", "** met a key that is no string");
          out.keyword.emplace_back(key.text_ref(), item);
        }
        break;
      }
    }
  }
  return out;
}

Result<Value> Interpreter::negate(const Value& value) {
  if (value.is_undefined()) return undefined_error(value);
  if (value.is_float()) return Value(-value.as_double());
  if (!value.is_int())
    return invalid_argument("", "a value of type {} has no sign", value.type_name());
  return binary(Operator::kSubtract, Value(0), value);
}

// --- statements ---

Status Interpreter::emit(std::string_view text) {
  if (out_->size() + text.size() > limits_.max_output_bytes) {
    return invalid_argument("", "its output went over {} bytes", limits_.max_output_bytes);
  }
  out_->append(text);
  work_.spend(text.size() / 64);
  return {};
}

Status Interpreter::print(const Value& value) {
  if (value.is_string()) return emit(value.as_string());
  VIDERE_ASSIGN_OR_RETURN(const std::string text, text_of(value));
  return emit(text);
}

Result<Interpreter::Flow> Interpreter::execute(const Body& body) {
  DepthGuard guard(*this);
  if (guard.too_deep()) return invalid_argument("", "blocks and calls nest too deep");
  for (const Statement& statement : body) {
    if (statement.kind == Statement::Kind::kText) {
      VIDERE_RETURN_IF_ERROR(emit(statement.text->value));
      continue;
    }
    line_ = statement.line;
    VIDERE_RETURN_IF_ERROR(step());
    VIDERE_ASSIGN_OR_RETURN(const Flow flow, execute_statement(statement));
    if (flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::execute_statement(const Statement& statement) {
  switch (statement.kind) {
    case Statement::Kind::kText:
      break;
    case Statement::Kind::kPrint: {
      VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*statement.value));
      VIDERE_RETURN_IF_ERROR(print(value));
      break;
    }
    case Statement::Kind::kIf:
      return execute_if(statement);
    case Statement::Kind::kFor:
      return execute_for(statement);
    case Statement::Kind::kSet: {
      VIDERE_ASSIGN_OR_RETURN(Value value, evaluate(*statement.value));
      VIDERE_RETURN_IF_ERROR(assign(*statement.target, std::move(value)));
      break;
    }
    case Statement::Kind::kSetBlock: {
      VIDERE_ASSIGN_OR_RETURN(Value value, capture(statement.body, statement.filter.get()));
      VIDERE_RETURN_IF_ERROR(assign(*statement.target, std::move(value)));
      break;
    }
    case Statement::Kind::kMacro:
      VIDERE_RETURN_IF_ERROR(define_macro(statement));
      break;
    case Statement::Kind::kCall:
      VIDERE_RETURN_IF_ERROR(execute_call(statement));
      break;
    case Statement::Kind::kFilter: {
      VIDERE_ASSIGN_OR_RETURN(const Value value, capture(statement.body, statement.filter.get()));
      VIDERE_RETURN_IF_ERROR(print(value));
      break;
    }
    case Statement::Kind::kWith:
      VIDERE_RETURN_IF_ERROR(execute_with(statement));
      break;
    case Statement::Kind::kScope:
      return execute_in_scope(statement.body);
    case Statement::Kind::kBreak:
      return Flow::kBreak;
    case Statement::Kind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

Result<Interpreter::Flow> Interpreter::execute_if(const Statement& statement) {
  for (const auto& [test, body] : statement.branches) {
    VIDERE_ASSIGN_OR_RETURN(const Value value, evaluate(*test));
    if (truthy(value)) return execute(body);
  }
  return execute(statement.otherwise);
}

// Whether the loop's own filter lets `item` pass.
Result<bool> Interpreter::keeps(const Statement& loop, const Value& item) {
  if (!loop.filter) return true;
  Scope* const outer = scope_;
  scope_ = new_scope(outer);
  VIDERE_RETURN_IF_ERROR(assign(*loop.target, item));
  VIDERE_ASSIGN_OR_RETURN(const Value test, evaluate(*loop.filter));
  release(scope_);
  scope_ = outer;
  return truthy(test);
}

Result<Interpreter::Flow> Interpreter::execute_for(const Statement& statement) {
  VIDERE_ASSIGN_OR_RETURN(const Value iterable, evaluate(*statement.value));
  VIDERE_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(iterable));
  Scope* const outer = scope_;
  Loop* loop = nullptr;
  if (statement.uses_loop) {
    std::vector<Value> kept;  // loop.length and the like count what passes
    for (Value& item : items) {
      VIDERE_ASSIGN_OR_RETURN(const bool passes, keeps(statement, item));
      if (passes) kept.push_back(std::move(item));
    }
    items.clear();
    loop = heap_.make<Loop>();
    loop->length = kept.size();
    loop->items = std::move(kept);
  }
  const Names::Id loop_name = loop ? name_id("loop") : Names::kNoName;
  size_t num_run = 0;
  for (const Value& item : loop ? loop->items : items) {
    if (!loop) {
      VIDERE_ASSIGN_OR_RETURN(const bool passes, keeps(statement, item));
      if (!passes) continue;
    }
    scope_ = new_scope(outer);
    if (loop) {
      loop->index = num_run;
      set_variable(loop_name, static_cast<Callable*>(loop));
    }
    ++num_run;
    VIDERE_RETURN_IF_ERROR(step());
    VIDERE_RETURN_IF_ERROR(assign(*statement.target, item));
    VIDERE_ASSIGN_OR_RETURN(const Flow flow, execute(statement.body));
    release(scope_);
    scope_ = outer;
    if (flow == Flow::kBreak) break;
  }
  if (loop) loop->items = {};  // the heap keeps the object to the end, but not what it went over
  if (num_run > 0) return Flow::kNext;
  return execute_in_scope(statement.otherwise);
}

Result<Interpreter::Flow> Interpreter::execute_in_scope(const Body& body) {
  Scope* const outer = scope_;
  scope_ = new_scope(outer);
  auto flow = execute(body);
  release(scope_);
  scope_ = outer;
  return flow;
}

Status Interpreter::execute_with(const Statement& statement) {
  Scope* const outer = scope_;
  Scope* const inner = new_scope(outer);
  for (const auto& [name, expression] : statement.assignments) {
    VIDERE_ASSIGN_OR_RETURN(Value value, evaluate(*expression));  // sees the outer names only
    scope_ = inner;
    VIDERE_RETURN_IF_ERROR(assign(*name, std::move(value)));
    scope_ = outer;
  }
  scope_ = inner;
  VIDERE_RETURN_IF_ERROR(execute(statement.body));
  scope_ = outer;
  release(inner);
  return {};
}

Result<Value> Interpreter::capture(const Body& body, const Expression* filter) {
  std::string text;
  std::string* const outer = out_;
  out_ = &text;
  auto flow = execute_in_scope(body);
  out_ = outer;
  if (!flow.ok()) return flow.error();
  Value value = string(std::move(text));
  if (!filter) return value;
  std::swap(filter_input_, value);
  auto filtered = evaluate(*filter);
  std::swap(filter_input_, value);
  return filtered;
}

Status Interpreter::define_macro(const Statement& statement) {
  for (Scope* scope = scope_; scope && !scope->captured; scope = scope->parent)
    scope->captured = true;
  Function* macro = heap_.make<Macro>(*statement.macro, scope_);
  set_variable(statement.macro->name, static_cast<Callable*>(macro));
  return {};
}

Status Interpreter::execute_call(const Statement& statement) {
  const Expression& call_expression = *statement.value;
  VIDERE_ASSIGN_OR_RETURN(const Value callee, evaluate(*call_expression.parts[0]));
  VIDERE_ASSIGN_OR_RETURN(Arguments arguments, evaluate_arguments(call_expression));
  for (Scope* scope = scope_; scope && !scope->captured; scope = scope->parent)
    scope->captured = true;
  Function* caller = heap_.make<Macro>(*statement.macro, scope_);
  arguments.keyword.emplace_back(std::make_shared<const Text>("caller"),
                                 static_cast<Callable*>(caller));
  VIDERE_ASSIGN_OR_RETURN(const Value value, call(callee, arguments));
  return print(value);
}

// --- variables ---

const Value* Interpreter::find_variable(Names::Id name) const {
  for (const Scope* scope = scope_; scope; scope = scope->parent) {
    for (const auto& [id, value] : scope->variables) {
      if (id == name) return &value;
    }
  }
  return nullptr;
}

void Interpreter::set_variable(Names::Id name, Value value) {
  for (auto& [id, old] : scope_->variables) {
    if (id == name) {
      old = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name, std::move(value));
  heap_.charge_items(1);
}

Status Interpreter::assign(const Expression& target, Value value) {
  switch (target.kind) {
    case Expression::Kind::kName:
      set_variable(target.name, std::move(value));
      return {};
    case Expression::Kind::kNamespaceAttribute: {
      const Value* found = find_variable(target.name);
      Namespace* space = found ? found->as_namespace() : nullptr;
      if (!space) {
        return invalid_argument("", "cannot set \"{}.{}\": \"{}\" is no namespace",
                                name_text(target.name)->value, name_text(target.attribute)->value,
                                name_text(target.name)->value);
      }
      heap_.charge_items(2);
      space->attributes.set(name_text(target.attribute), std::move(value));
      return {};
    }
    default:
      break;
  }
  VIDERE_ASSIGN_OR_RETURN(std::vector<Value> items, items_of(value));
  if (items.size() != target.parts.size()) {
    return invalid_argument("", "{} values cannot be unpacked into {} names", items.size(),
                            target.parts.size());
  }
  for (size_t i = 0; i < items.size(); ++i)
    VIDERE_RETURN_IF_ERROR(assign(*target.parts[i], std::move(items[i])));
  return {};
}

void Interpreter::define_globals() {
  for (const auto& global : globals()) {
    const Names::Id name = name_id(global.name);
    if (name == Names::kNoName) continue;
    set_variable(name, static_cast<Callable*>(heap_.make<BuiltIn>(global.name, global.function)));
  }
}

}  // namespace videre::jinja
