#include "text/jinja_functions.h"

#include <algorithm>

namespace videre::jinja {

struct RaiseException {
  static Result<Value> raise(Interpreter& in, Arguments& arguments) {
    VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("raise_exception", {"message"}));
    std::string message;
    if (given[0]) {
      VIDERE_ASSIGN_OR_RETURN(message, in.text_of(*given[0]));
    }
    in.refused_ = true;
    return invalid_argument("", "{}", message.substr(0, 2000));
  }
};

namespace {

constexpr int64_t kMaxRange = 100'000;  // Jinja2's sandbox has the same
constexpr size_t kMaxTimeFormat = 1000;

// A method of a helper object, bound to it.
template <typename Owner>
struct Bound final : Function {
  using Does = Result<Value> (*)(Owner&, Interpreter&, Arguments&);
  Bound(Owner* of, Does does) : owner(of), function(does) {}
  const char* type_name() const override { return "method"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override {
    return function(*owner, in, arguments);
  }
  Owner* owner;
  Does function;
};

template <typename Owner>
Value bind_method(Interpreter& in, Owner* owner, typename Bound<Owner>::Does does) {
  return static_cast<Callable*>(in.heap().make<Bound<Owner>>(owner, does));
}

Value number(size_t value) { return static_cast<Int>(value); }

struct Cycler final : Function {
  const char* type_name() const override { return "Cycler"; }
  Result<Value> call(Interpreter&, Arguments&) override {
    return invalid_argument("", "a cycler is no function; call its next()");
  }
  Value attribute(Interpreter& in, const TextRef& name) override {
    if (name->value == "current") return items[at];
    if (name->value == "next") {
      return bind_method<Cycler>(in, this, [](Cycler& self, Interpreter&, Arguments& arguments) {
        if (Status status = arguments.none("next"); !status.ok())
          return Result<Value>(status.error());
        Value value = self.items[self.at];
        self.at = (self.at + 1) % self.items.size();
        return Result<Value>(std::move(value));
      });
    }
    if (name->value == "reset") {
      return bind_method<Cycler>(in, this, [](Cycler& self, Interpreter&, Arguments&) {
        self.at = 0;
        return Result<Value>(None{});
      });
    }
    return Undefined{name, type_name()};
  }
  std::vector<Value> items;
  size_t at = 0;
};

struct Joiner final : Function {
  const char* type_name() const override { return "Joiner"; }
  Result<Value> call(Interpreter& in, Arguments& arguments) override {
    VIDERE_RETURN_IF_ERROR(arguments.none("joiner"));
    if (used) return separator;
    used = true;
    return in.string(std::string());
  }
  Value separator;
  bool used = false;
};

Result<Value> make_cycler(Interpreter& in, Arguments& arguments) {
  if (arguments.positional.empty()) return invalid_argument("", "cycler needs at least one item");
  auto* cycler = in.heap().make<Cycler>();
  cycler->items = arguments.positional;
  return Value(static_cast<Callable*>(cycler));
}

Result<Value> make_joiner(Interpreter& in, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("joiner", {"sep"}));
  auto* joiner = in.heap().make<Joiner>();
  joiner->separator = given[0] ? *given[0] : in.string(std::string(", "));
  return Value(static_cast<Callable*>(joiner));
}

Result<Value> range(Interpreter& in, Arguments& arguments) {
  const auto& given = arguments.positional;
  if (given.empty() || given.size() > 3 || !arguments.keyword.empty())
    return invalid_argument("", "range takes one to three integers");
  int64_t bounds[3] = {0, 0, 1};
  for (size_t i = 0; i < given.size(); ++i) {
    VIDERE_ASSIGN_OR_RETURN(bounds[given.size() == 1 ? 1 : i], as_index(given[i], "range"));
  }
  const auto [begin, end, step] = bounds;
  if (step == 0) return invalid_argument("", "range's step is zero");
  const Int distance = step > 0 ? Int{end} - begin : Int{begin} - end;
  const Int by = step > 0 ? Int{step} : -Int{step};
  const Int count = distance > 0 ? (distance + by - 1) / by : 0;
  if (count > kMaxRange)
    return invalid_argument("", "range has {} items; at most {} are allowed", int_text(count),
                            kMaxRange);
  VIDERE_RETURN_IF_ERROR(in.charge(static_cast<size_t>(count) * 8));
  std::vector<Value> items;
  for (Int i = 0; i < count; ++i) items.emplace_back(Int{begin} + i * step);
  List* list = in.heap().list(std::move(items), List::Flavor::kRange);
  list->label = step == 1 ? fmt::format("range({}, {})", begin, end)
                          : fmt::format("range({}, {}, {})", begin, end, step);
  return Value(list);
}

// What dict() and namespace() share: a mapping or pairs, then names.
Status fill(Interpreter& in, Arguments& arguments, const char* what, Dict& out) {
  if (arguments.positional.size() > 1)
    return invalid_argument("", "{} takes at most one positional argument", what);
  if (!arguments.positional.empty()) {
    const Value& source = arguments.positional[0];
    if (const Dict* dict = source.as_dict()) {
      for (const auto& [key, value] : dict->items) out.set(key, value);
    } else {
      VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> pairs, in.items_of(source));
      for (const Value& pair : pairs) {
        VIDERE_ASSIGN_OR_RETURN(const std::vector<Value> parts, in.items_of(pair));
        if (parts.size() != 2 || !out.set(parts[0], parts[1]))
          return invalid_argument("", "{} needs pairs of a key and a value", what);
      }
    }
  }
  for (const auto& [name, value] : arguments.keyword) out.set(name, value);
  in.heap().charge_items(2 * out.items.size());
  return in.charge(out.items.size() * 16);
}

Result<Value> make_dict(Interpreter& in, Arguments& arguments) {
  Dict* dict = in.heap().make<Dict>();
  VIDERE_RETURN_IF_ERROR(fill(in, arguments, "dict", *dict));
  return Value(dict);
}

Result<Value> make_namespace(Interpreter& in, Arguments& arguments) {
  auto* space = in.heap().make<Namespace>();
  VIDERE_RETURN_IF_ERROR(fill(in, arguments, "namespace", space->attributes));
  return Value(space);
}

// datetime.now().strftime: local time without a zone.
Result<Value> strftime_now(Interpreter& in, Arguments& arguments) {
  VIDERE_ASSIGN_OR_RETURN(const auto given, arguments.bind("strftime_now", {"format"}));
  if (!given[0] || !given[0]->is_string())
    return invalid_argument("", "strftime_now needs a format, such as \"%Y-%m-%d\"");
  const std::string& text = given[0]->as_string();
  if (text.size() > kMaxTimeFormat || text.find('\0') != text.npos) {
    return invalid_argument("", "strftime_now's format is longer than {} bytes or has a zero byte",
                            kMaxTimeFormat);
  }
  std::string format = "x";  // so that an empty result differs from one that does not fit
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 1 < text.size()) {
      const char c = text[++i];
      if (c == 'f') {
        format += "000000";
      } else if (c == ':' || c == 'z' || c == 'Z') {
        if (c == ':' && i + 1 < text.size() && text[i + 1] == 'z') ++i;
      } else {
        // A width of many digits would let strftime pad without end.
        if (c >= '0' && c <= '9') return invalid_argument("", "strftime_now takes no widths");
        format += '%';
        format += c;
        if ((c == '-' || c == '_' || c == '^' || c == '#') && i + 1 < text.size()) {
          if (text[i + 1] >= '0' && text[i + 1] <= '9')
            return invalid_argument("", "strftime_now takes no widths");
          format += text[++i];
        }
      }
    } else {
      format += text[i];
    }
  }
  const std::time_t now = in.now();
  std::tm local{};
  if (!localtime_r(&now, &local)) return invalid_argument("", "strftime_now: the clock is off");
  std::string out(64 * kMaxTimeFormat, '\0');
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  if (out.empty()) return invalid_argument("", "strftime_now's result is too long");
  return in.string(out.substr(1));
}

constexpr Global kGlobals[] = {
    {"range", range},
    {"dict", make_dict},
    {"namespace", make_namespace},
    {"joiner", make_joiner},
    {"cycler", make_cycler},
    {"raise_exception", RaiseException::raise},
    {"strftime_now", strftime_now},
};

Result<Value> cycle(Loop& loop, Interpreter&, Arguments& arguments) {
  if (arguments.positional.empty())
    return invalid_argument("", "loop.cycle needs at least one item");
  return arguments.positional[loop.index % arguments.positional.size()];
}

Result<Value> changed(Loop& loop, Interpreter& in, Arguments& arguments) {
  const auto& given = arguments.positional;
  const bool same =
      loop.has_changed &&
      std::equal(given.begin(), given.end(), loop.last_changed.begin(), loop.last_changed.end(),
                 [&](const Value& a, const Value& b) { return in.equal(a, b); });
  loop.last_changed = given;
  loop.has_changed = true;
  return Value(!same);
}

}  // namespace

std::span<const Global> globals() { return kGlobals; }

Result<Value> Loop::call(Interpreter&, Arguments&) {
  return invalid_argument("", "recursive loops are not supported");
}

Value Loop::attribute(Interpreter& in, const TextRef& name) {
  const std::string& text = name->value;
  if (text == "index") return number(index + 1);
  if (text == "index0") return number(index);
  if (text == "revindex") return number(length - index);
  if (text == "revindex0") return number(length - index - 1);
  if (text == "first") return index == 0;
  if (text == "last") return index + 1 == length;
  if (text == "length") return number(length);
  if (text == "depth") return number(1);
  if (text == "depth0") return number(0);
  if (text == "previtem")
    return index > 0 && index <= items.size() ? items[index - 1]
                                              : Value(Undefined{name, type_name()});
  if (text == "nextitem")
    return index + 1 < items.size() ? items[index + 1] : Value(Undefined{name, type_name()});
  if (text == "cycle") return bind_method<Loop>(in, this, cycle);
  if (text == "changed") return bind_method<Loop>(in, this, changed);
  return Undefined{name, type_name()};
}

}  // namespace videre::jinja
