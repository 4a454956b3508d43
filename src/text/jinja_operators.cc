// Arithmetic as Python has it, on the values of templates.
#include <algorithm>
#include <cmath>

#include "text/jinja_interpreter.h"
#include "text/python_text.h"

namespace videre::jinja {
namespace {

Error no_operator(std::string_view op, const Value& a, const Value& b) {
  if (a.is_undefined()) return Interpreter::undefined_error(a);
  if (b.is_undefined()) return Interpreter::undefined_error(b);
  return invalid_argument("", "values of types {} and {} have no \"{}\"", a.type_name(),
                          b.type_name(), op);
}

Error too_large() { return invalid_argument("", "an integer goes over 127 bits"); }

Result<Value> int_power(Int base, Int exponent) {
  Int result = 1;
  while (exponent > 0) {
    if ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) return too_large();
    exponent >>= 1;
    if (exponent > 0 && __builtin_mul_overflow(base, base, &base)) return too_large();
  }
  return Value(result);
}

Result<Value> add(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) {
    Int sum;
    if (__builtin_add_overflow(a.as_int(), b.as_int(), &sum)) return too_large();
    return Value(sum);
  }
  if (a.is_number() && b.is_number()) return Value(a.as_double() + b.as_double());
  if (a.is_string() && b.is_string()) {
    VIDERE_RETURN_IF_ERROR(in.room(a.as_string().size() + b.as_string().size()));
    const bool markup = a.is_markup() || b.is_markup();
    const auto side = [&](const Value& value) {
      return markup && !value.is_markup() ? python::escape_html(value.as_string())
                                          : value.as_string();
    };
    return in.string(side(a) + side(b), markup);
  }
  const List *x = a.as_list(), *y = b.as_list();
  if (x && y && x->flavor == y->flavor && (x->is_list() || x->is_tuple())) {
    VIDERE_RETURN_IF_ERROR(in.room((x->items.size() + y->items.size()) * sizeof(Value)));
    std::vector<Value> items = x->items;
    items.insert(items.end(), y->items.begin(), y->items.end());
    return in.list(std::move(items), x->flavor);
  }
  return no_operator("+", a, b);
}

Result<Value> repeat(Interpreter& in, const Value& sequence, Int times) {
  if (times < 0) times = 0;
  if (sequence.is_string()) {
    const std::string& text = sequence.as_string();
    Int size;
    if (__builtin_mul_overflow(times, static_cast<Int>(text.size()), &size)) return too_large();
    if (size == 0) return in.string(std::string());
    VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(std::min<Int>(size, INT64_MAX))));
    std::string out;
    out.reserve(static_cast<size_t>(size));
    for (Int i = 0; i < times; ++i) out += text;
    return in.string(std::move(out), sequence.is_markup());
  }
  const List* list = sequence.as_list();
  Int size;
  if (__builtin_mul_overflow(times, static_cast<Int>(list->items.size() * sizeof(Value)), &size))
    return too_large();
  VIDERE_RETURN_IF_ERROR(in.room(static_cast<size_t>(std::min<Int>(size, INT64_MAX))));
  std::vector<Value> out;
  if (size > 0) {
    for (Int i = 0; i < times; ++i) out.insert(out.end(), list->items.begin(), list->items.end());
  }
  return in.list(std::move(out), list->flavor);
}

Result<Value> multiply(Interpreter& in, const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) {
    Int product;
    if (__builtin_mul_overflow(a.as_int(), b.as_int(), &product)) return too_large();
    return Value(product);
  }
  if (a.is_number() && b.is_number()) return Value(a.as_double() * b.as_double());
  const auto repeats = [](const Value& value) {
    const List* list = value.as_list();
    return value.is_string() || (list && (list->is_list() || list->is_tuple()));
  };
  if (repeats(a) && b.is_int()) return repeat(in, a, b.as_int());
  if (repeats(b) && a.is_int()) return repeat(in, b, a.as_int());
  return no_operator("*", a, b);
}

Result<Value> floor_divide(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) {
    if (b.as_int() == -1) {
      Int negative;
      if (__builtin_sub_overflow(Int{0}, a.as_int(), &negative)) return too_large();
      return Value(negative);
    }
    const Int quotient = a.as_int() / b.as_int(), rest = a.as_int() % b.as_int();
    return Value(rest != 0 && (rest < 0) != (b.as_int() < 0) ? quotient - 1 : quotient);
  }
  return Value(std::floor(a.as_double() / b.as_double()));
}

Result<Value> modulo(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int()) {
    if (b.as_int() == -1) return Value(0);
    const Int rest = a.as_int() % b.as_int();
    return Value(rest != 0 && (rest < 0) != (b.as_int() < 0) ? rest + b.as_int() : rest);
  }
  const double by = b.as_double();
  double rest = std::fmod(a.as_double(), by);
  if (rest != 0 && (rest < 0) != (by < 0)) rest += by;
  if (rest == 0) rest = std::copysign(0.0, by);
  return Value(rest);
}

Result<Value> power(const Value& a, const Value& b) {
  if (a.is_int() && b.is_int() && b.as_int() >= 0) return int_power(a.as_int(), b.as_int());
  const double base = a.as_double(), exponent = b.as_double();
  if (base == 0 && exponent < 0) return invalid_argument("", "zero to a negative power");
  if (base < 0 && std::floor(exponent) != exponent)
    return invalid_argument("", "a fractional power of a negative number");
  const double result = std::pow(base, exponent);
  if (std::isinf(result) && std::isfinite(base) && std::isfinite(exponent))
    return invalid_argument("", "a power goes beyond all floats");
  return Value(result);
}

}  // namespace

Result<Value> Interpreter::binary(Operator op, const Value& a, const Value& b) {
  const bool numbers = a.is_number() && b.is_number();
  const bool by_zero = numbers && b.as_double() == 0;
  switch (op) {
    case Operator::kAdd:
      return add(*this, a, b);
    case Operator::kSubtract:
      if (a.is_int() && b.is_int()) {
        Int difference;
        if (__builtin_sub_overflow(a.as_int(), b.as_int(), &difference)) return too_large();
        return Value(difference);
      }
      if (numbers) return Value(a.as_double() - b.as_double());
      return no_operator("-", a, b);
    case Operator::kMultiply:
      return multiply(*this, a, b);
    case Operator::kDivide:
      if (!numbers) return no_operator("/", a, b);
      if (by_zero) return invalid_argument("", "division by zero");
      return Value(a.as_double() / b.as_double());
    case Operator::kFloorDivide:
      if (!numbers) return no_operator("//", a, b);
      if (by_zero) return invalid_argument("", "division by zero");
      return floor_divide(a, b);
    case Operator::kModulo:
      if (a.is_string()) {
        VIDERE_ASSIGN_OR_RETURN(std::string text, format_percent(*this, a.as_string(), b));
        return string(std::move(text));
      }
      if (!numbers) return no_operator("%", a, b);
      if (by_zero) return invalid_argument("", "division by zero");
      return modulo(a, b);
    case Operator::kPower:
      if (!numbers) return no_operator("**", a, b);
      return power(a, b);
    default:
      return internal_error("chat template: a comparison among the arithmetic operators");
  }
}

Result<int64_t> as_index(const Value& value, std::string_view what) {
  if (value.is_undefined()) return Interpreter::undefined_error(value);
  if (!value.is_int())
    return invalid_argument("", "{} is of type {}; expected an integer", what, value.type_name());
  // Beyond these no list or string reaches.
  const Int limit = Int{1} << 62;
  return static_cast<int64_t>(std::clamp(value.as_int(), -limit, limit));
}

}  // namespace videre::jinja
