// Runs a parsed template over JSON variables, within limits. One object renders once; the first
// error ends it, so scopes are not put back on the way out.
#pragma once

#include <array>
#include <ctime>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "text/chat_template.h"
#include "text/jinja_ast.h"

namespace videre::jinja {

/// Evaluated arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<TextRef, Value>> keyword;

  /// The arguments by the parameters' names, null where not given. Errors: too many, or unknown.
  template <size_t N>
  Result<std::array<const Value*, N>> bind(std::string_view what,
                                           const char* const (&names)[N]) const {
    std::array<const Value*, N> out{};
    VIDERE_RETURN_IF_ERROR(bind_to(what, {names, N}, out.data()));
    return out;
  }
  /// No arguments at all.
  Status none(std::string_view what) const { return bind_to(what, {}, nullptr); }

 private:
  Status bind_to(std::string_view what, std::span<const char* const> names,
                 const Value** out) const;
};

/// A function, method, macro or helper object.
struct Function : Callable {
  virtual Result<Value> call(Interpreter& in, Arguments& arguments) = 0;
  /// Undefined when there is no such attribute.
  virtual Value attribute(Interpreter& in, const TextRef& name);
};

struct Scope final : Object {
  const char* type_name() const override { return "scope"; }
  Scope* parent = nullptr;
  std::vector<std::pair<Names::Id, Value>> variables;
  bool captured = false;  // a macro refers to it: it may not be used again
};

class Interpreter {
 public:
  Interpreter(const Template& source, const TemplateLimits& limits, std::optional<std::time_t> now);

  Result<std::string> run(const json::object& variables);

  // For filters, tests, methods and functions.
  Heap& heap() { return heap_; }
  std::time_t now() const { return now_; }
  /// Counts work on `bytes` bytes (or as many items) as steps.
  Status charge(size_t bytes);
  /// Whether a result of `bytes` bytes may be made.
  Status room(size_t bytes) const;
  Value string(std::string text, bool markup = false);
  Value string(std::string_view text) { return string(std::string(text)); }
  Value list(std::vector<Value> items, List::Flavor flavor = List::Flavor::kList);

  /// str().
  Result<std::string> text_of(const Value& value);
  /// What iterating gives; empties an iterator.
  Result<std::vector<Value>> items_of(const Value& value);
  Result<Value> attribute(const Value& object, const TextRef& name);
  Result<Value> item(const Value& object, const Value& key);
  Result<Value> slice(const Value& object, const Value* begin, const Value* end, const Value* step);
  Result<bool> contains(const Value& container, const Value& item);
  Result<Value> call(const Value& callee, Arguments& arguments);
  Result<Value> binary(Operator op, const Value& a, const Value& b);
  Result<bool> compare(Operator op, const Value& a, const Value& b);
  bool equal(const Value& a, const Value& b) { return jinja::equal(a, b, work_); }
  /// A filter by way of another; they nest as calls do.
  Result<Value> apply(FilterFunction filter, const Value& input, Arguments& arguments);
  /// "'x' is undefined", as an error.
  static Error undefined_error(const Value& value);

  /// Runs a macro's body in `scope` and gives what it prints.
  Result<Value> run_macro(const MacroDefinition& macro, Scope* scope);
  Scope* new_scope(Scope* parent);
  void release(Scope* scope);
  Names::Id name_id(std::string_view name) const { return template_.names.find(name); }
  const TextRef& name_text(Names::Id id) const { return template_.names.text(id); }
  Result<Value> evaluate(const Expression& expression);
  Result<Value> evaluate_in(const Expression& expression, Scope* scope);

 private:
  enum class Flow { kNext, kBreak, kContinue };
  class DepthGuard;

  Status step();
  Result<Value> evaluate_node(const Expression& expression);
  Result<Value> evaluate_name(const Expression& expression);
  Result<Value> evaluate_concat(const Expression& expression);
  Result<Value> evaluate_dict(const Expression& expression);
  Result<Value> evaluate_compare(const Expression& expression);
  Result<std::vector<Value>> evaluate_all(const std::vector<ExpressionPtr>& parts);
  Result<Arguments> evaluate_arguments(const Expression& expression);
  Result<Value> negate(const Value& value);

  Result<Flow> execute(const Body& body);
  Result<Flow> execute_statement(const Statement& statement);
  Result<Flow> execute_if(const Statement& statement);
  Result<Flow> execute_for(const Statement& statement);
  Result<bool> keeps(const Statement& loop, const Value& item);
  Result<Flow> execute_in_scope(const Body& body);
  Status execute_with(const Statement& statement);
  Status execute_call(const Statement& statement);
  Result<Value> capture(const Body& body, const Expression* filter);
  Status define_macro(const Statement& statement);
  Status print(const Value& value);
  Status emit(std::string_view text);

  Status assign(const Expression& target, Value value);
  void set_variable(Names::Id name, Value value);
  const Value* find_variable(Names::Id name) const;
  void define_globals();

  const Template& template_;
  TemplateLimits limits_;
  std::time_t now_;
  Heap heap_;
  Scope* scope_ = nullptr;
  std::vector<Scope*> free_scopes_;
  std::string* out_ = nullptr;
  Value filter_input_;
  Work work_;
  int depth_ = 0;
  int line_ = 0;          // of what was evaluated last
  bool refused_ = false;  // raise_exception was called

  friend struct RaiseException;
};

/// Methods of str, list and dict by name; null when the type has none of that name.
using MethodFunction = Result<Value> (*)(Interpreter&, const Value& self, Arguments& arguments);
MethodFunction find_method(const Value& self, std::string_view name);

/// "%s" % value, as the format filter and the operator do it.
Result<std::string> format_percent(Interpreter& in, std::string_view format, const Value& value);
/// str.format.
Result<std::string> format_braces(Interpreter& in, std::string_view format,
                                  const Arguments& arguments);

/// Python's integer of a value, for arguments that must be one.
Result<int64_t> as_index(const Value& value, std::string_view what);

}  // namespace videre::jinja
