// A parsed template. Immutable; renderings of any number of threads share it.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "text/jinja_value.h"

namespace videre::jinja {

class Interpreter;
struct Arguments;

using FilterFunction = Result<Value> (*)(Interpreter&, const Value& input, Arguments& arguments);
using TestFunction = Result<bool> (*)(Interpreter&, const Value& input, Arguments& arguments);
/// Null when there is none of that name.
FilterFunction find_filter(std::string_view name);
TestFunction find_test(std::string_view name);

/// Names of one template, so that variables are looked up by number.
class Names {
 public:
  using Id = uint32_t;
  static constexpr Id kNoName = ~Id{0};
  Id intern(std::string_view name);
  Id find(std::string_view name) const;  // kNoName when the template never says it
  const TextRef& text(Id id) const { return texts_[id]; }

 private:
  std::vector<TextRef> texts_;
  std::unordered_map<std::string, Id> ids_;
};

enum class Operator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Argument {
  enum class Kind { kPositional, kKeyword, kList, kDict } kind = Kind::kPositional;
  Names::Id name = Names::kNoName;  // kKeyword
  ExpressionPtr value;
};

struct Expression {
  enum class Kind {
    kConstant,     // constant
    kName,         // name
    kFilterInput,  // what a filter block or a filtered set captured
    kList,         // parts
    kTuple,        // parts
    kDict,         // parts: key, value, key, value, ...
    kAttribute,    // parts[0] . name
    kItem,         // parts[0] [ parts[1] ]
    kSlice,        // parts[0] [ parts[1] : parts[2] : parts[3] ], null where left out
    kCall,         // parts[0] ( arguments )
    kFilter,       // parts[0] | filter ( arguments )
    kTest,         // parts[0] is test ( arguments )
    kNot,
    kNegate,
    kPlus,
    kAnd,
    kOr,
    kBinary,              // parts[0] operators[0] parts[1]
    kCompare,             // parts[0] operators[0] parts[1] operators[1] parts[2] ...
    kConcat,              // parts, joined as text
    kConditional,         // parts: test, then, otherwise (may be null)
    kNamespaceAttribute,  // target of set: name . attribute
  };
  Kind kind = Kind::kConstant;
  int line = 0;
  int depth = 1;  // of the tree below
  Value constant;
  Names::Id name = Names::kNoName;
  Names::Id attribute = Names::kNoName;
  std::vector<ExpressionPtr> parts;
  std::vector<Operator> operators;
  std::vector<Argument> arguments;
  FilterFunction filter = nullptr;
  TestFunction test = nullptr;
};

struct Statement;
using Body = std::vector<Statement>;

struct MacroDefinition {
  Names::Id name = Names::kNoName;  // kNoName: a call block's caller
  struct Parameter {
    Names::Id name;
    ExpressionPtr default_value;  // may be null
  };
  std::vector<Parameter> parameters;
  Body body;
  bool uses_caller = false, uses_varargs = false, uses_kwargs = false;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // value
    kIf,        // branches, otherwise
    kFor,       // target, value, filter; body, otherwise
    kSet,       // target = value
    kSetBlock,  // target = body, through `filter` when there is one
    kMacro,     // macro
    kCall,      // value is the call, macro the caller
    kFilter,    // body through `filter`
    kWith,      // targets = values; body
    kScope,     // body, as it is
    kBreak,
    kContinue,
  };
  Kind kind = Kind::kText;
  int line = 0;
  TextRef text;
  ExpressionPtr target, value, filter;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> assignments;
  Body body, otherwise;
  bool uses_loop = false;  // kFor: the body says `loop`
  std::unique_ptr<MacroDefinition> macro;
};

class Template {
 public:
  /// Errors say the line and what was wrong.
  static Result<std::shared_ptr<const Template>> parse(std::string_view source, std::string name);

  std::string name, source;
  Names names;
  Body body;
};

}  // namespace videre::jinja
