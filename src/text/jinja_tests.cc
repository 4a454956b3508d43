// Tests: what follows `is`.
#include <unordered_map>

#include "text/jinja_interpreter.h"
#include "text/python_text.h"

namespace videre::jinja {
namespace {

using Args = Arguments;

// A test that takes no argument and asks of the value alone.
template <bool (*Holds)(const Value&)>
Result<bool> plain(Interpreter&, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("the test"));
  return Holds(value);
}

bool is_defined(const Value& value) { return !value.is_undefined(); }
bool is_undefined(const Value& value) { return value.is_undefined(); }
bool is_none(const Value& value) { return value.is_none(); }
bool is_boolean(const Value& value) { return value.is_bool(); }
bool is_true(const Value& value) { return value.is_bool() && value.as_bool(); }
bool is_false(const Value& value) { return value.is_bool() && !value.as_bool(); }
bool is_integer(const Value& value) { return value.is_int() && !value.is_bool(); }
bool is_float(const Value& value) { return value.is_float(); }
bool is_number(const Value& value) { return value.is_number(); }
bool is_string(const Value& value) { return value.is_string(); }
bool is_mapping(const Value& value) { return value.as_dict() != nullptr; }
bool is_callable(const Value& value) { return value.as_callable() || value.is_undefined(); }
bool is_escaped(const Value& value) { return value.is_markup(); }
bool is_iterable(const Value& value) {
  return value.is_string() || value.as_list() || value.as_dict() || value.is_undefined();
}
bool is_sequence(const Value& value) {
  const List* list = value.as_list();
  return value.is_string() || value.as_dict() ||
         (list && (list->is_list() || list->is_tuple() || list->flavor == List::Flavor::kRange));
}

Result<bool> is_lower(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("lower"));
  VIDERE_ASSIGN_OR_RETURN(const std::string text, in.text_of(value));
  return python::is_lower(text);
}
Result<bool> is_upper(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("upper"));
  VIDERE_ASSIGN_OR_RETURN(const std::string text, in.text_of(value));
  return python::is_upper(text);
}

template <Operator kOperator>
Result<bool> compares(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("the test", {"other"}));
  if (!given[0]) return invalid_argument("", "the test needs a value to compare with");
  return in.compare(kOperator, value, *given[0]);
}

Result<bool> remainder_is(Interpreter& in, const Value& value, const Value& by, int expected) {
  VIDERE_ASSIGN_OR_RETURN(const Value rest, in.binary(Operator::kModulo, value, by));
  return in.equal(rest, Value(expected));
}
Result<bool> is_even(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("even"));
  return remainder_is(in, value, Value(2), 0);
}
Result<bool> is_odd(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("odd"));
  return remainder_is(in, value, Value(2), 1);
}
Result<bool> is_divisible(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("divisibleby", {"num"}));
  if (!given[0]) return invalid_argument("", "divisibleby needs a number");
  return remainder_is(in, value, *given[0], 0);
}

// Python's `is`: the same object; small values that print alike are one.
Result<bool> is_same(Interpreter& in, const Value& value, Args& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("sameas", {"other"}));
  if (!given[0]) return invalid_argument("", "sameas needs a value");
  const Value& other = *given[0];
  if (value.is_bool() != other.is_bool() || value.is_float() != other.is_float()) return false;
  if (value.as_list() || value.as_dict())
    return value.as_list() == other.as_list() && value.as_dict() == other.as_dict();
  return in.equal(value, other);
}

Result<bool> is_filter(Interpreter&, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("filter"));
  return value.is_string() && find_filter(value.as_string()) != nullptr;
}
Result<bool> is_test(Interpreter&, const Value& value, Args& arguments) {
  VIDERE_RETURN_IF_ERROR(arguments.none("test"));
  return value.is_string() && find_test(value.as_string()) != nullptr;
}

}  // namespace

TestFunction find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, TestFunction> kTests = {
      {"boolean", plain<is_boolean>},
      {"callable", plain<is_callable>},
      {"defined", plain<is_defined>},
      {"divisibleby", is_divisible},
      {"escaped", plain<is_escaped>},
      {"even", is_even},
      {"false", plain<is_false>},
      {"filter", is_filter},
      {"float", plain<is_float>},
      {"in", compares<Operator::kIn>},
      {"integer", plain<is_integer>},
      {"iterable", plain<is_iterable>},
      {"lower", is_lower},
      {"mapping", plain<is_mapping>},
      {"none", plain<is_none>},
      {"number", plain<is_number>},
      {"odd", is_odd},
      {"sameas", is_same},
      {"sequence", plain<is_sequence>},
      {"string", plain<is_string>},
      {"test", is_test},
      {"true", plain<is_true>},
      {"undefined", plain<is_undefined>},
      {"upper", is_upper},
      {"==", compares<Operator::kEqual>},
      {"eq", compares<Operator::kEqual>},
      {"equalto", compares<Operator::kEqual>},
      {"!=", compares<Operator::kNotEqual>},
      {"ne", compares<Operator::kNotEqual>},
      {">", compares<Operator::kGreater>},
      {"gt", compares<Operator::kGreater>},
      {"greaterthan", compares<Operator::kGreater>},
      {">=", compares<Operator::kGreaterEqual>},
      {"ge", compares<Operator::kGreaterEqual>},
      {"<", compares<Operator::kLess>},
      {"lt", compares<Operator::kLess>},
      {"lessthan", compares<Operator::kLess>},
      {"<=", compares<Operator::kLessEqual>},
      {"le", compares<Operator::kLessEqual>},
  };
  const auto found = kTests.find(name);
  return found == kTests.end() ? nullptr : found->second;
}

}  // namespace videre::jinja
