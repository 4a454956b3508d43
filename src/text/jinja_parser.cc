// Tokens to a template's tree, with Jinja2's grammar and its precedences.
#include <algorithm>

#include "base/error.h"
#include "text/jinja_ast.h"
#include "text/jinja_lexer.h"
#include "text/utf8.h"

namespace videre::jinja {
namespace {

constexpr size_t kMaxSourceBytes = 4 << 20;
constexpr int kMaxNesting = 100;  // of brackets, unary operators and blocks
constexpr int kMaxDepth = 400;    // of an expression's tree; bounds recursion over it

using Kind = Expression::Kind;

struct OperatorToken {
  std::string_view text;
  Operator op;
};
constexpr OperatorToken kSums[] = {{"+", Operator::kAdd}, {"-", Operator::kSubtract}};
constexpr OperatorToken kProducts[] = {{"*", Operator::kMultiply},
                                       {"/", Operator::kDivide},
                                       {"//", Operator::kFloorDivide},
                                       {"%", Operator::kModulo}};
constexpr OperatorToken kPowers[] = {{"**", Operator::kPower}};
constexpr OperatorToken kComparisons[] = {
    {"==", Operator::kEqual},     {"!=", Operator::kNotEqual}, {"<", Operator::kLess},
    {"<=", Operator::kLessEqual}, {">", Operator::kGreater},   {">=", Operator::kGreaterEqual}};

std::string described(const Token& token) {
  switch (token.kind) {
    case Token::Kind::kText:
      return "text";
    case Token::Kind::kPrintBegin:
      return "\"{{\"";
    case Token::Kind::kPrintEnd:
      return "\"}}\"";
    case Token::Kind::kBlockBegin:
      return "\"{%\"";
    case Token::Kind::kBlockEnd:
      return "\"%}\"";
    case Token::Kind::kEnd:
      return "the end of the template";
    default:
      return "\"" + repair_utf8(std::string_view(token.text).substr(0, 60)) + "\"";
  }
}

class Parser {
 public:
  Parser(std::vector<Token> tokens, Template& out) : tokens_(std::move(tokens)), out_(out) {}

  Status run() {
    VIDERE_ASSIGN_OR_RETURN(out_.body, body({}));
    if (peek().kind != Token::Kind::kEnd)
      return fail("a tag \"{}\" that closes no block", peek(1).text);
    return {};
  }

 private:
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
  }
  const Token& take() { return tokens_[at_ < tokens_.size() - 1 ? at_++ : at_]; }
  bool take_if(std::string_view op) {
    if (!peek().is(op)) return false;
    take();
    return true;
  }
  bool take_name_if(std::string_view name) {
    if (!peek().is_name(name)) return false;
    take();
    return true;
  }
  template <typename... Args>
  Error fail(fmt::format_string<Args...> format, Args&&... args) const {
    return invalid_argument("", "line {}: {}", peek().line,
                            fmt::format(format, std::forward<Args>(args)...));
  }
  Status expect(std::string_view op) {
    if (!take_if(op)) return fail("{} where \"{}\" was expected", described(peek()), op);
    return {};
  }
  Status expect_kind(Token::Kind kind, const char* what) {
    if (peek().kind != kind) return fail("{} where {} was expected", described(peek()), what);
    take();
    return {};
  }
  Result<Names::Id> expect_name(const char* what) {
    if (peek().kind != Token::Kind::kName)
      return fail("{} where {} was expected", described(peek()), what);
    return out_.names.intern(take().text);
  }

  struct Nested {
    explicit Nested(int& depth) : depth_(depth) { ++depth_; }
    ~Nested() { --depth_; }
    int& depth_;
  };
  Status check_nesting() const {
    if (nesting_ > kMaxNesting) return fail("more than {} levels of nesting", kMaxNesting);
    return {};
  }

  // --- expressions ---

  ExpressionPtr node(Kind kind) const {
    auto out = std::make_unique<Expression>();
    out->kind = kind;
    out->line = peek().line;
    return out;
  }
  // Adds a child (or null) and keeps the tree's depth.
  Status adopt(Expression& parent, ExpressionPtr child) {
    if (child) parent.depth = std::max(parent.depth, child->depth + 1);
    if (parent.depth > kMaxDepth)
      return fail("an expression of more than {} chained parts", kMaxDepth);
    parent.parts.push_back(std::move(child));
    return {};
  }
  ExpressionPtr constant(Value value) const {
    ExpressionPtr out = node(Kind::kConstant);
    out->constant = std::move(value);
    return out;
  }

  Result<ExpressionPtr> expression(bool with_conditional = true) {
    return with_conditional ? conditional() : disjunction();
  }

  Result<ExpressionPtr> conditional() {
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr value, disjunction());
    while (peek().is_name("if")) {
      ExpressionPtr out = node(Kind::kConditional);
      take();
      ++soft_;
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr test, disjunction());
      ExpressionPtr otherwise;
      if (take_name_if("else")) {
        VIDERE_ASSIGN_OR_RETURN(otherwise, conditional());
      }
      --soft_;
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(test)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(value)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(otherwise)));
      value = std::move(out);
    }
    return value;
  }

  Result<ExpressionPtr> disjunction() {
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr left, conjunction());
    while (peek().is_name("or")) {
      ExpressionPtr out = node(Kind::kOr);
      take();
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr right, conjunction());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(left)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(right)));
      left = std::move(out);
    }
    return left;
  }

  Result<ExpressionPtr> conjunction() {
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr left, negation());
    while (peek().is_name("and")) {
      ExpressionPtr out = node(Kind::kAnd);
      take();
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr right, negation());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(left)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(right)));
      left = std::move(out);
    }
    return left;
  }

  Result<ExpressionPtr> negation() {
    if (!peek().is_name("not")) return comparison();
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    ExpressionPtr out = node(Kind::kNot);
    take();
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr inner, negation());
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(inner)));
    return out;
  }

  std::optional<Operator> take_comparison() {
    for (const auto& [text, op] : kComparisons) {
      if (take_if(text)) return op;
    }
    if (take_name_if("in")) return Operator::kIn;
    if (peek().is_name("not") && peek(1).is_name("in")) {
      take();
      take();
      return Operator::kNotIn;
    }
    return std::nullopt;
  }

  Result<ExpressionPtr> comparison() {
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr first, sum());
    ExpressionPtr out = node(Kind::kCompare);
    while (const auto op = take_comparison()) {
      if (out->parts.empty()) VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(first)));
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr next, sum());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(next)));
      out->operators.push_back(*op);
    }
    return out->parts.empty() ? std::move(first) : std::move(out);
  }

  // Left-associative operators of one level.
  template <size_t N, typename Next>
  Result<ExpressionPtr> binary(const OperatorToken (&operators)[N], Next next) {
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr left, next());
    while (true) {
      const auto* found = std::find_if(std::begin(operators), std::end(operators),
                                       [&](const OperatorToken& op) { return peek().is(op.text); });
      if (found == std::end(operators)) return left;
      ExpressionPtr out = node(Kind::kBinary);
      out->operators.push_back(found->op);
      take();
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr right, next());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(left)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(right)));
      left = std::move(out);
    }
  }

  Result<ExpressionPtr> sum() {
    return binary(kSums, [&] { return concatenation(); });
  }

  Result<ExpressionPtr> concatenation() {
    VIDERE_ASSIGN_OR_RETURN(ExpressionPtr first, product());
    if (!peek().is("~")) return first;
    ExpressionPtr out = node(Kind::kConcat);
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(first)));
    while (take_if("~")) {
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr next, product());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(next)));
    }
    return out;
  }

  Result<ExpressionPtr> product() {
    return binary(kProducts, [&] { return power(); });
  }
  Result<ExpressionPtr> power() {
    return binary(kPowers, [&] { return unary(true); });
  }

  Result<ExpressionPtr> unary(bool with_filter) {
    ExpressionPtr value;
    if (peek().is("-") || peek().is("+")) {
      Nested nested(nesting_);
      VIDERE_RETURN_IF_ERROR(check_nesting());
      value = node(peek().is("-") ? Kind::kNegate : Kind::kPlus);
      take();
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr inner, unary(false));
      VIDERE_RETURN_IF_ERROR(adopt(*value, std::move(inner)));
    } else {
      VIDERE_ASSIGN_OR_RETURN(value, primary());
    }
    VIDERE_ASSIGN_OR_RETURN(value, postfix(std::move(value)));
    if (!with_filter) return value;
    return filters(std::move(value));
  }

  Result<ExpressionPtr> primary() {
    const Token& token = peek();
    switch (token.kind) {
      case Token::Kind::kName: {
        ExpressionPtr out;
        if (token.text == "true" || token.text == "True") {
          out = constant(true);
        } else if (token.text == "false" || token.text == "False") {
          out = constant(false);
        } else if (token.text == "none" || token.text == "None") {
          out = constant(None{});
        } else {
          out = node(Kind::kName);
          out->name = out_.names.intern(token.text);
          note_use(token.text);
        }
        take();
        return out;
      }
      case Token::Kind::kString: {
        ExpressionPtr out = node(Kind::kConstant);
        std::string text;
        while (peek().kind == Token::Kind::kString) text += take().text;
        out->constant = std::make_shared<const Text>(std::move(text));
        return out;
      }
      case Token::Kind::kInteger: {
        ExpressionPtr out = constant(token.integer);
        take();
        return out;
      }
      case Token::Kind::kFloat: {
        ExpressionPtr out = constant(token.number);
        take();
        return out;
      }
      case Token::Kind::kOperator:
        if (token.text == "(") {
          take();
          VIDERE_ASSIGN_OR_RETURN(ExpressionPtr inner, tuple(true, true));
          VIDERE_RETURN_IF_ERROR(expect(")"));
          return inner;
        }
        if (token.text == "[") return list();
        if (token.text == "{") return dict();
        [[fallthrough]];
      default:
        return fail("{} where a value was expected", described(token));
    }
  }

  Result<ExpressionPtr> list() {
    ExpressionPtr out = node(Kind::kList);
    take();
    while (!peek().is("]")) {
      if (!out->parts.empty()) VIDERE_RETURN_IF_ERROR(expect(","));
      if (peek().is("]")) break;
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr item, expression());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(item)));
    }
    VIDERE_RETURN_IF_ERROR(expect("]"));
    return out;
  }

  Result<ExpressionPtr> dict() {
    ExpressionPtr out = node(Kind::kDict);
    take();
    while (!peek().is("}")) {
      if (!out->parts.empty()) VIDERE_RETURN_IF_ERROR(expect(","));
      if (peek().is("}")) break;
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr key, expression());
      VIDERE_RETURN_IF_ERROR(expect(":"));
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr value, expression());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(key)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(value)));
    }
    VIDERE_RETURN_IF_ERROR(expect("}"));
    return out;
  }

  bool ends_tuple() const {
    const Token& token = peek();
    return token.kind == Token::Kind::kPrintEnd || token.kind == Token::Kind::kBlockEnd ||
           token.is(")");
  }

  // One expression, or several with commas between them.
  Result<ExpressionPtr> tuple(bool with_conditional, bool may_be_empty) {
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    ExpressionPtr out = node(Kind::kTuple);
    bool comma = false;
    while (true) {
      if (comma || !out->parts.empty()) {
        if (!peek().is(",")) break;
        take();
        comma = true;
      }
      if (ends_tuple()) break;
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr item, expression(with_conditional));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(item)));
    }
    if (!comma && out->parts.size() == 1) return std::move(out->parts[0]);
    if (out->parts.empty() && !may_be_empty)
      return fail("{} where a value was expected", described(peek()));
    return out;
  }

  Result<ExpressionPtr> postfix(ExpressionPtr value) {
    while (true) {
      if (peek().is(".") || peek().is("[")) {
        VIDERE_ASSIGN_OR_RETURN(value, subscript(std::move(value)));
      } else if (peek().is("(")) {
        VIDERE_ASSIGN_OR_RETURN(value, call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  Result<ExpressionPtr> filters(ExpressionPtr value) {
    while (true) {
      if (peek().is("|")) {
        take();
        VIDERE_ASSIGN_OR_RETURN(value, one_filter(std::move(value)));
      } else if (peek().is_name("is")) {
        VIDERE_ASSIGN_OR_RETURN(value, one_test(std::move(value)));
      } else if (peek().is("(")) {
        VIDERE_ASSIGN_OR_RETURN(value, call(std::move(value)));
      } else {
        return value;
      }
    }
  }

  Result<ExpressionPtr> subscript(ExpressionPtr object) {
    if (take_if(".")) {
      const Token& token = peek();
      ExpressionPtr out = node(Kind::kAttribute);
      if (token.kind == Token::Kind::kName) {
        out->name = out_.names.intern(token.text);
        take();
        VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(object)));
        return out;
      }
      if (token.kind != Token::Kind::kInteger)
        return fail("{} where a name or number was expected after \".\"", described(token));
      out->kind = Kind::kItem;
      ExpressionPtr index = constant(token.integer);
      take();
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(object)));
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(index)));
      return out;
    }
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    ExpressionPtr out = node(Kind::kItem);
    take();
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(object)));
    ExpressionPtr index;
    if (!peek().is(":")) {
      VIDERE_ASSIGN_OR_RETURN(index, expression());
    }
    if (peek().is(":")) {
      out->kind = Kind::kSlice;
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(index)));
      for (int part = 1; part < 3; ++part) {
        ExpressionPtr bound;
        if (take_if(":") && !peek().is(":") && !peek().is("]")) {
          VIDERE_ASSIGN_OR_RETURN(bound, expression());
        }
        VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(bound)));
      }
    } else if (peek().is(",")) {
      ExpressionPtr key = node(Kind::kTuple);
      VIDERE_RETURN_IF_ERROR(adopt(*key, std::move(index)));
      while (take_if(",")) {
        if (peek().is("]")) break;
        VIDERE_ASSIGN_OR_RETURN(ExpressionPtr part, expression());
        VIDERE_RETURN_IF_ERROR(adopt(*key, std::move(part)));
      }
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(key)));
    } else {
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(index)));
    }
    VIDERE_RETURN_IF_ERROR(expect("]"));
    return out;
  }

  Status arguments(Expression& out) {
    VIDERE_RETURN_IF_ERROR(expect("("));
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    bool keyword = false;
    while (!peek().is(")")) {
      if (!out.arguments.empty()) VIDERE_RETURN_IF_ERROR(expect(","));
      if (peek().is(")")) break;
      Argument argument;
      if (take_if("**")) {
        argument.kind = Argument::Kind::kDict;
        keyword = true;
      } else if (take_if("*")) {
        argument.kind = Argument::Kind::kList;
      } else if (peek().kind == Token::Kind::kName && peek(1).is("=")) {
        argument.kind = Argument::Kind::kKeyword;
        argument.name = out_.names.intern(take().text);
        take();
        keyword = true;
      } else if (keyword) {
        return fail("a positional argument after one with a name");
      }
      VIDERE_ASSIGN_OR_RETURN(argument.value, expression());
      out.depth = std::max(out.depth, argument.value->depth + 1);
      if (out.depth > kMaxDepth)
        return fail("an expression of more than {} chained parts", kMaxDepth);
      out.arguments.push_back(std::move(argument));
    }
    return expect(")");
  }

  Result<ExpressionPtr> call(ExpressionPtr callee) {
    ExpressionPtr out = node(Kind::kCall);
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(callee)));
    VIDERE_RETURN_IF_ERROR(arguments(*out));
    return out;
  }

  Result<std::string> dotted_name(const char* what) {
    if (peek().kind != Token::Kind::kName)
      return fail("{} where {} was expected", described(peek()), what);
    std::string name = take().text;
    while (peek().is(".") && peek(1).kind == Token::Kind::kName) {
      take();
      name += "." + take().text;
    }
    return name;
  }

  Result<ExpressionPtr> one_filter(ExpressionPtr input) {
    ExpressionPtr out = node(Kind::kFilter);
    VIDERE_ASSIGN_OR_RETURN(const std::string name, dotted_name("a filter's name"));
    out->name = out_.names.intern(name);
    out->filter = find_filter(name);
    if (!out->filter && soft_ == 0) return fail("there is no filter \"{}\"", name);
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(input)));
    if (peek().is("(")) VIDERE_RETURN_IF_ERROR(arguments(*out));
    return out;
  }

  Result<ExpressionPtr> one_test(ExpressionPtr input) {
    take();
    ExpressionPtr negated;
    if (peek().is_name("not")) {
      negated = node(Kind::kNot);
      take();
    }
    ExpressionPtr out = node(Kind::kTest);
    VIDERE_ASSIGN_OR_RETURN(const std::string name, dotted_name("a test's name"));
    out->name = out_.names.intern(name);
    out->test = find_test(name);
    if (!out->test && soft_ == 0) return fail("there is no test \"{}\"", name);
    VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(input)));
    const Token& next = peek();
    if (next.is("(")) {
      VIDERE_RETURN_IF_ERROR(arguments(*out));
    } else if ((next.kind == Token::Kind::kName && !next.is_name("else") && !next.is_name("or") &&
                !next.is_name("and")) ||
               next.kind == Token::Kind::kString || next.kind == Token::Kind::kInteger ||
               next.kind == Token::Kind::kFloat || next.is("[") || next.is("{")) {
      if (next.is_name("is")) return fail("tests cannot be chained with \"is\"");
      // Jinja2 would read `x is defined if y` as a test of the variable "if": nobody means that.
      if (!next.is_name("if")) {
        Argument argument;
        VIDERE_ASSIGN_OR_RETURN(argument.value, primary());
        VIDERE_ASSIGN_OR_RETURN(argument.value, postfix(std::move(argument.value)));
        out->depth = std::max(out->depth, argument.value->depth + 1);
        out->arguments.push_back(std::move(argument));
      }
    }
    if (!negated) return out;
    VIDERE_RETURN_IF_ERROR(adopt(*negated, std::move(out)));
    return negated;
  }

  // Names to assign to: a, (a, b), or namespace.attribute where allowed.
  Result<ExpressionPtr> target(bool with_namespace) {
    if (with_namespace && peek().kind == Token::Kind::kName && peek(1).is(".")) {
      ExpressionPtr out = node(Kind::kNamespaceAttribute);
      out->name = out_.names.intern(take().text);
      take();
      VIDERE_ASSIGN_OR_RETURN(out->attribute, expect_name("an attribute's name"));
      return out;
    }
    ExpressionPtr out = node(Kind::kTuple);
    bool comma = false;
    do {
      if (comma && (peek().is_name("in") || peek().is(")") || peek().is("=") ||
                    peek().kind == Token::Kind::kBlockEnd))
        break;
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr item, one_target());
      VIDERE_RETURN_IF_ERROR(adopt(*out, std::move(item)));
      comma = comma || peek().is(",");
    } while (take_if(","));
    if (!comma) return std::move(out->parts[0]);
    return out;
  }

  Result<ExpressionPtr> one_target() {
    if (take_if("(")) {
      Nested nested(nesting_);
      VIDERE_RETURN_IF_ERROR(check_nesting());
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr inner, target(false));
      VIDERE_RETURN_IF_ERROR(expect(")"));
      return inner;
    }
    static constexpr std::string_view kConstants[] = {"true",  "True", "false",
                                                      "False", "none", "None"};
    for (const std::string_view name : kConstants) {
      if (peek().is_name(name)) return fail("cannot assign to {}", described(peek()));
    }
    ExpressionPtr out = node(Kind::kName);
    VIDERE_ASSIGN_OR_RETURN(out->name, expect_name("a name to assign to"));
    return out;
  }

  // --- statements ---

  // Whether a `{% name` of the list comes next.
  bool at_tag(std::initializer_list<std::string_view> names) const {
    return peek().kind == Token::Kind::kBlockBegin &&
           std::any_of(names.begin(), names.end(),
                       [&](std::string_view name) { return peek(1).is_name(name); });
  }
  Status end_tag() { return expect_kind(Token::Kind::kBlockEnd, "\"%}\""); }
  // Takes `{% name %}`, with `begun` the line of the block it closes.
  Status close_tag(std::string_view name, int begun) {
    if (!at_tag({name})) {
      if (peek().kind == Token::Kind::kEnd)
        return invalid_argument("", "line {}: the block is not closed by \"{}\"", begun, name);
      return fail("the tag \"{}\" where \"{}\" was expected for the block of line {}", peek(1).text,
                  name, begun);
    }
    take();
    take();
    return end_tag();
  }

  // Statements up to a tag of `ends`, or any other tag that ends a block.
  Result<Body> body(std::initializer_list<std::string_view> ends) {
    Nested nested(nesting_);
    VIDERE_RETURN_IF_ERROR(check_nesting());
    Body out;
    while (peek().kind != Token::Kind::kEnd) {
      Statement statement;
      statement.line = peek().line;
      if (peek().kind == Token::Kind::kText) {
        statement.kind = Statement::Kind::kText;
        statement.text = std::make_shared<const Text>(take().text);
      } else if (peek().kind == Token::Kind::kPrintBegin) {
        take();
        statement.kind = Statement::Kind::kPrint;
        VIDERE_ASSIGN_OR_RETURN(statement.value, tuple(true, false));
        VIDERE_RETURN_IF_ERROR(expect_kind(Token::Kind::kPrintEnd, "\"}}\""));
      } else {
        if (at_tag(ends) || peek(1).text.starts_with("end") || at_tag({"else", "elif"})) break;
        take();
        VIDERE_RETURN_IF_ERROR(tag(statement));
      }
      out.push_back(std::move(statement));
    }
    return out;
  }

  Status tag(Statement& out) {
    if (peek().kind != Token::Kind::kName)
      return fail("{} where a tag's name was expected", described(peek()));
    const std::string name = take().text;
    if (name == "if") return if_tag(out);
    if (name == "for") return for_tag(out);
    if (name == "set") return set_tag(out);
    if (name == "macro") return macro_tag(out);
    if (name == "call") return call_tag(out);
    if (name == "filter") return filter_tag(out);
    if (name == "with") return with_tag(out);
    if (name == "generation") {  // marks what the model wrote; prints as it is
      out.kind = Statement::Kind::kScope;
      VIDERE_RETURN_IF_ERROR(end_tag());
      VIDERE_ASSIGN_OR_RETURN(out.body, body({"endgeneration"}));
      return close_tag("endgeneration", out.line);
    }
    if (name == "break" || name == "continue") {
      out.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      if (loops_ == 0) return fail("\"{}\" outside of a loop", name);
      return end_tag();
    }
    return fail(
        "the tag \"{}\" is not supported; chat templates may use if, for, set, macro, call, "
        "filter, with, raw, generation, break and continue",
        name);
  }

  Status if_tag(Statement& out) {
    out.kind = Statement::Kind::kIf;
    ++soft_;
    while (true) {
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr test, tuple(false, false));
      VIDERE_RETURN_IF_ERROR(end_tag());
      VIDERE_ASSIGN_OR_RETURN(Body then, body({"elif", "else", "endif"}));
      out.branches.emplace_back(std::move(test), std::move(then));
      if (!at_tag({"elif"})) break;
      take();
      take();
    }
    if (at_tag({"else"})) {
      take();
      take();
      VIDERE_RETURN_IF_ERROR(end_tag());
      VIDERE_ASSIGN_OR_RETURN(out.otherwise, body({"endif"}));
    }
    --soft_;
    return close_tag("endif", out.line);
  }

  Status for_tag(Statement& out) {
    out.kind = Statement::Kind::kFor;
    VIDERE_ASSIGN_OR_RETURN(out.target, target(false));
    if (!take_name_if("in")) return fail("{} where \"in\" was expected", described(peek()));
    VIDERE_ASSIGN_OR_RETURN(out.value, tuple(false, false));
    if (take_name_if("if")) {
      VIDERE_ASSIGN_OR_RETURN(out.filter, expression());
    }
    if (peek().is_name("recursive")) return fail("recursive loops are not supported");
    VIDERE_RETURN_IF_ERROR(end_tag());
    ++loops_;
    const int loop_uses = loop_uses_;
    VIDERE_ASSIGN_OR_RETURN(out.body, body({"else", "endfor"}));
    out.uses_loop = loop_uses_ > loop_uses;
    --loops_;
    if (at_tag({"else"})) {
      take();
      take();
      VIDERE_RETURN_IF_ERROR(end_tag());
      VIDERE_ASSIGN_OR_RETURN(out.otherwise, body({"endfor"}));
    }
    return close_tag("endfor", out.line);
  }

  Status set_tag(Statement& out) {
    VIDERE_ASSIGN_OR_RETURN(out.target, target(true));
    if (take_if("=")) {
      out.kind = Statement::Kind::kSet;
      VIDERE_ASSIGN_OR_RETURN(out.value, tuple(true, false));
      return end_tag();
    }
    out.kind = Statement::Kind::kSetBlock;
    if (peek().is("|")) {
      VIDERE_ASSIGN_OR_RETURN(out.filter, filters(node(Kind::kFilterInput)));
    }
    VIDERE_RETURN_IF_ERROR(end_tag());
    VIDERE_ASSIGN_OR_RETURN(out.body, body({"endset"}));
    return close_tag("endset", out.line);
  }

  Status signature(MacroDefinition& macro) {
    VIDERE_RETURN_IF_ERROR(expect("("));
    while (!peek().is(")")) {
      if (!macro.parameters.empty()) VIDERE_RETURN_IF_ERROR(expect(","));
      if (peek().is(")")) break;
      MacroDefinition::Parameter parameter;
      VIDERE_ASSIGN_OR_RETURN(parameter.name, expect_name("a parameter's name"));
      if (take_if("=")) {
        VIDERE_ASSIGN_OR_RETURN(parameter.default_value, expression());
      } else if (!macro.parameters.empty() && macro.parameters.back().default_value) {
        return fail("a parameter without a default after one with a default");
      }
      macro.parameters.push_back(std::move(parameter));
    }
    return expect(")");
  }

  // Body of a macro or call block up to `end`; notes which special names it uses.
  Status macro_body(MacroDefinition& macro, std::string_view end, int begun) {
    MacroDefinition* const outer_macro = macro_;
    const int outer_loops = loops_;
    macro_ = &macro;
    loops_ = 0;
    auto parsed = body({end});
    macro_ = outer_macro;
    loops_ = outer_loops;
    if (!parsed.ok()) return parsed.error();
    macro.body = std::move(*parsed);
    if (macro_) {  // as Jinja2 has it, what an inner macro uses the outer one takes too
      macro_->uses_caller |= macro.uses_caller;
      macro_->uses_varargs |= macro.uses_varargs;
      macro_->uses_kwargs |= macro.uses_kwargs;
    }
    return close_tag(end, begun);
  }

  void note_use(std::string_view name) {
    if (name == "loop") ++loop_uses_;
    if (!macro_) return;
    if (name == "caller") macro_->uses_caller = true;
    if (name == "varargs") macro_->uses_varargs = true;
    if (name == "kwargs") macro_->uses_kwargs = true;
  }

  Status macro_tag(Statement& out) {
    out.kind = Statement::Kind::kMacro;
    out.macro = std::make_unique<MacroDefinition>();
    VIDERE_ASSIGN_OR_RETURN(out.macro->name, expect_name("a macro's name"));
    VIDERE_RETURN_IF_ERROR(signature(*out.macro));
    VIDERE_RETURN_IF_ERROR(end_tag());
    return macro_body(*out.macro, "endmacro", out.line);
  }

  Status call_tag(Statement& out) {
    out.kind = Statement::Kind::kCall;
    out.macro = std::make_unique<MacroDefinition>();
    if (peek().is("(")) VIDERE_RETURN_IF_ERROR(signature(*out.macro));
    VIDERE_ASSIGN_OR_RETURN(out.value, expression());
    if (out.value->kind != Kind::kCall) return fail("the tag \"call\" needs a macro's call");
    VIDERE_RETURN_IF_ERROR(end_tag());
    return macro_body(*out.macro, "endcall", out.line);
  }

  Status filter_tag(Statement& out) {
    out.kind = Statement::Kind::kFilter;
    VIDERE_ASSIGN_OR_RETURN(out.filter, one_filter(node(Kind::kFilterInput)));
    VIDERE_ASSIGN_OR_RETURN(out.filter, filters(std::move(out.filter)));
    VIDERE_RETURN_IF_ERROR(end_tag());
    VIDERE_ASSIGN_OR_RETURN(out.body, body({"endfilter"}));
    return close_tag("endfilter", out.line);
  }

  Status with_tag(Statement& out) {
    out.kind = Statement::Kind::kWith;
    while (peek().kind != Token::Kind::kBlockEnd) {
      if (!out.assignments.empty()) VIDERE_RETURN_IF_ERROR(expect(","));
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr name, one_target());
      VIDERE_RETURN_IF_ERROR(expect("="));
      VIDERE_ASSIGN_OR_RETURN(ExpressionPtr value, expression());
      out.assignments.emplace_back(std::move(name), std::move(value));
    }
    VIDERE_RETURN_IF_ERROR(end_tag());
    VIDERE_ASSIGN_OR_RETURN(out.body, body({"endwith"}));
    return close_tag("endwith", out.line);
  }

  std::vector<Token> tokens_;
  Template& out_;
  size_t at_ = 0;
  int nesting_ = 0;
  int loops_ = 0, loop_uses_ = 0;
  int soft_ = 0;  // inside a condition: unknown filters and tests are errors only when reached
  MacroDefinition* macro_ = nullptr;
};

}  // namespace

Names::Id Names::intern(std::string_view name) {
  const auto [found, added] = ids_.try_emplace(std::string(name), static_cast<Id>(texts_.size()));
  if (added) texts_.push_back(std::make_shared<const Text>(std::string(name)));
  return found->second;
}

Names::Id Names::find(std::string_view name) const {
  const auto found = ids_.find(std::string(name));
  return found == ids_.end() ? kNoName : found->second;
}

Result<std::shared_ptr<const Template>> Template::parse(std::string_view source, std::string name) {
  const auto failed = [&](const Error& error) {
    return invalid_argument("chat_template", "chat template \"{}\", {}", name, error.message);
  };
  if (source.size() > kMaxSourceBytes) {
    return failed(invalid_argument("", "line 1: {} bytes long; at most {} are read", source.size(),
                                   kMaxSourceBytes));
  }
  if (!is_valid_utf8(source)) return failed(invalid_argument("", "line 1: it is not valid UTF-8"));
  auto tokens = tokenize(source);
  if (!tokens.ok()) return failed(tokens.error());
  auto out = std::make_shared<Template>();
  out->name = name;
  out->source = source;
  if (Status status = Parser(std::move(*tokens), *out).run(); !status.ok())
    return failed(status.error());
  return std::shared_ptr<const Template>(std::move(out));
}

}  // namespace videre::jinja
