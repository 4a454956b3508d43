// The functions and helper objects that every template sees.
#pragma once

#include <span>

#include "text/jinja_interpreter.h"

namespace videre::jinja {

/// `loop` of a for block.
struct Loop final : Function {
  const char* type_name() const override { return "LoopContext"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override;
  Value attribute(Interpreter& in, const TextRef& name) override;

  std::vector<Value> items;  // empty once the loop has ended
  size_t index = 0, length = 0;
  std::vector<Value> last_changed;
  bool has_changed = false;
};

using GlobalFunction = Result<Value> (*)(Interpreter&, Arguments&);

struct BuiltIn final : Function {
  BuiltIn(const char* named, GlobalFunction does) : name(named), function(does) {}
  const char* type_name() const override { return "function"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override {
    return function(in, arguments);
  }
  const char* name;
  GlobalFunction function;
};

struct Global {
  const char* name;
  GlobalFunction function;
};
std::span<const Global> globals();

}  // namespace videre::jinja
