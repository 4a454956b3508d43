#include "cli/accuracy.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <optional>
#include <regex>
#include <thread>

#include "base/error.h"

namespace videre {
namespace {

constexpr int64_t kMaxTokens = 320;  // of an answer whose request does not say
constexpr int kTogether = 32;        // requests in flight

std::u32string characters(const std::string& text) {
  std::u32string out;  // broken UTF-8 counts a byte as a character
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const size_t size = byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
    char32_t c = byte;
    for (size_t k = 1; k < size && i + k < text.size(); ++k) {
      c = c << 8 | static_cast<unsigned char>(text[i + k]);
    }
    out += c;
    i += size;
  }
  return out;
}

// Edits between two strings.
size_t distance(const std::u32string& a, const std::u32string& b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t before = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t changed = before + (a[i - 1] != b[j - 1]);
      before = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, changed});
    }
  }
  return row.back();
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  size_t begin = 0;
  for (;;) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    if (end == text.npos) return lines;
    begin = end + 1;
  }
}

std::optional<double> number_of(const std::string& text) {
  static const std::regex kNumber(R"(\s*(-?\d+(\.\d+)?)\s*)");
  std::smatch found;
  if (text.size() > 64 || !std::regex_match(text, found, kNumber)) return std::nullopt;
  return std::strtod(found[1].str().c_str(), nullptr);
}

// The text without its times, and the times.
std::pair<std::string, std::vector<double>> with_times(const std::string& text) {
  static const std::regex kTime(R"((\d{1,9}\.\d\d) seconds)");
  std::vector<double> times;
  std::string rest;
  auto last = text.begin();
  for (std::sregex_iterator it(text.begin(), text.end(), kTime), end; it != end; ++it) {
    rest.append(last, text.begin() + it->position());
    last = text.begin() + it->position() + it->length();
    times.push_back(std::strtod((*it)[1].str().c_str(), nullptr));
  }
  rest.append(last, text.end());
  return {rest, times};
}

// The calls of a well-formed answer.
std::optional<json::value> tool_calls(const std::string& text) {
  constexpr std::string_view kBegin = "<TOOLCALL>[", kEnd = "]</TOOLCALL>";
  if (!text.starts_with(kBegin) || !text.ends_with(kEnd) ||
      text.size() < kBegin.size() + kEnd.size()) {
    return std::nullopt;
  }
  const size_t head = kBegin.size() - 1, tail = kEnd.size() - 1;
  auto calls = parse_json(std::string_view(text).substr(head, text.size() - head - tail), "calls");
  if (!calls.ok() || !calls->is_array() || calls->get_array().empty()) return std::nullopt;
  for (const json::value& call : calls->get_array()) {
    const json::value* name = json_find(call, "name");
    const json::value* arguments = json_find(call, "arguments");
    if (!name || !name->is_string() || !arguments || !arguments->is_object() ||
        call.get_object().size() != 2) {
      return std::nullopt;
    }
  }
  return std::move(*calls);
}

// Numbers by value, objects in any order.
bool same(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return json_number(a) == json_number(b);
  if (a.kind() != b.kind()) return false;
  if (a.is_array()) {
    const auto &x = a.get_array(), &y = b.get_array();
    return std::equal(x.begin(), x.end(), y.begin(), y.end(), same);
  }
  if (!a.is_object()) return a == b;
  if (a.get_object().size() != b.get_object().size()) return false;
  return std::all_of(a.get_object().begin(), a.get_object().end(), [&](const auto& member) {
    const json::value* other = json_find(b, member.key());
    return other && same(member.value(), *other);
  });
}

Result<AnswerCheck> read_check(const json::value& value) {
  AnswerCheck out;
  const json::value* kind = json_find(value, "kind");
  const json::value* truth = json_find(value, "truth");
  if (!kind || !kind->is_string() || !truth || !truth->is_string()) {
    return invalid_argument("", "\"check\" needs \"kind\" and \"truth\", two strings");
  }
  constexpr std::pair<std::string_view, AnswerCheck::Kind> kKinds[] = {
      {"exact", AnswerCheck::Kind::kExact},   {"lines", AnswerCheck::Kind::kLines},
      {"within", AnswerCheck::Kind::kWithin}, {"times", AnswerCheck::Kind::kTimes},
      {"think", AnswerCheck::Kind::kThink},   {"tool", AnswerCheck::Kind::kTool}};
  const std::string_view name = kind->get_string();
  const auto found = std::find_if(std::begin(kKinds), std::end(kKinds),
                                  [&](const auto& item) { return item.first == name; });
  if (found == std::end(kKinds)) {
    return invalid_argument("",
                            "\"kind\" is \"{}\"; exact, lines, within, times, think or tool "
                            "is expected",
                            name);
  }
  out.kind = found->second;
  out.truth = std::string(truth->get_string());
  if (const json::value* scale = json_find(value, "scale")) {
    out.scale = json_number(*scale).value_or(0);
  }
  if (out.kind == AnswerCheck::Kind::kWithin && !number_of(out.truth)) {
    return invalid_argument("", "\"truth\" is \"{}\"; a number is expected", out.truth);
  }
  return out;
}

}  // namespace

std::map<std::string, double> score_answer(const AnswerCheck& check, const std::string& answer) {
  std::map<std::string, double> out;
  const auto set = [&](const char* figure, bool good) { out[figure] = good ? 1 : 0; };
  const std::string& truth = check.truth;
  set("right", answer == truth);
  switch (check.kind) {
    case AnswerCheck::Kind::kExact:
      break;
    case AnswerCheck::Kind::kLines: {
      const auto got = lines_of(answer), expected = lines_of(truth);
      double equal = 0;
      for (size_t i = 0; i < std::min(got.size(), expected.size()); ++i) {
        equal += got[i] == expected[i];
      }
      out["lines"] = equal / static_cast<double>(expected.size());
      const auto a = characters(answer), b = characters(truth);
      const double edits = static_cast<double>(distance(a, b));
      out["characters"] =
          std::max(0.0, 1 - edits / static_cast<double>(std::max<size_t>(1, b.size())));
      break;
    }
    case AnswerCheck::Kind::kWithin: {
      const double expected = *number_of(truth);
      const auto got = number_of(answer);
      set("exact", answer == truth);
      set("right", got && std::fabs(*got - expected) <= 0.05 * std::fabs(expected) + 1e-9);
      set("of_largest", got && std::fabs(*got - expected) <= 0.05 * check.scale);
      break;
    }
    case AnswerCheck::Kind::kTimes: {
      const auto [got, times] = with_times(answer);
      const auto [expected, seconds] = with_times(truth);
      set("right", got == expected &&
                       std::equal(times.begin(), times.end(), seconds.begin(), seconds.end(),
                                  [](double a, double b) { return std::fabs(a - b) <= 0.5; }));
      break;
    }
    case AnswerCheck::Kind::kThink: {
      constexpr std::string_view kMark = "</think>\n";
      const size_t mark = answer.find(kMark);
      const std::string rest = mark == answer.npos ? "" : answer.substr(mark + kMark.size());
      set("well_formed", mark != answer.npos && rest.find("</think>") == rest.npos);
      set("right", mark != answer.npos && rest == truth);
      break;
    }
    case AnswerCheck::Kind::kTool: {
      const auto got = tool_calls(answer), expected = tool_calls(truth);
      set("valid", got.has_value());
      set("right", got && expected && same(*got, *expected));
      break;
    }
  }
  return out;
}

Result<std::vector<EvaluationSample>> evaluation_samples(std::vector<StoredRequest> stored,
                                                         const std::string& param) {
  std::vector<EvaluationSample> samples;
  for (StoredRequest& item : stored) {
    const json::value* check = json_find(item.entry, "check");
    const json::value* task = json_find(item.entry, "task");
    if (!check) continue;
    auto parsed = read_check(*check);
    if (!parsed.ok()) return invalid_argument(param, "{}: {}", item.where, parsed.error().message);
    if (!task || !task->is_string() || task->get_string().empty()) {
      return invalid_argument(param, "{}: \"task\" names no task", item.where);
    }
    samples.push_back(
        {std::string(task->get_string()), item.where, std::move(item.request), std::move(*parsed)});
  }
  return samples;
}

double Evaluation::mean(const std::vector<std::string>& only) const {
  double sum = 0, count = 0;
  for (const auto& [name, scores] : tasks) {
    if (!only.empty() && std::find(only.begin(), only.end(), name) == only.end()) continue;
    sum += scores.percent("right");
    ++count;
  }
  return count == 0 ? 0 : sum / count;
}

Result<Evaluation> evaluate(const EngineOptions& options,
                            const std::vector<EvaluationSample>& samples,
                            const LoadProgress& load_progress,
                            const std::function<void(int64_t, int64_t)>& progress,
                            const std::atomic<bool>* cancel) {
  using Clock = std::chrono::steady_clock;
  const auto seconds = [](Clock::time_point from) {
    return std::chrono::duration<double>(Clock::now() - from).count();
  };
  EngineOptions engine_options = options;
  if (!engine_options.max_num_seqs) engine_options.max_num_seqs = kTogether;
  engine_options.max_waiting_requests = std::max(kTogether, options.max_waiting_requests);
  Evaluation out;
  auto start = Clock::now();
  VIDERE_ASSIGN_OR_RETURN(const auto engine, Engine::load(engine_options, load_progress));
  out.load_s = seconds(start);
  start = Clock::now();

  // As many readers as sequences: each asks, waits for the whole answer, and takes the next.
  out.answers.resize(samples.size());
  std::mutex mutex;
  std::atomic<size_t> next{0};
  int64_t done = 0;
  Status status;
  const auto ask = [&](size_t i) -> Status {
    const EvaluationSample& sample = samples[i];
    Request request = sample.request;
    request.sampling.n = 1;
    request.sampling.temperature = 0;
    if (!request.sampling.max_tokens) request.sampling.max_tokens = kMaxTokens;
    VIDERE_ASSIGN_OR_RETURN(const auto generation, engine->submit(std::move(request)));
    std::string text;
    while (!generation->done()) {
      if (cancel && *cancel) {
        generation->cancel();
        return make_error(ErrorCode::kCancelled, "", "stopped");
      }
      VIDERE_ASSIGN_OR_RETURN(const auto deltas, generation->read(std::chrono::milliseconds(100)));
      for (const OutputDelta& delta : deltas) text += delta.text;
    }
    const auto figures = score_answer(sample.check, text);
    const std::lock_guard lock(mutex);
    TaskScores& scores = out.tasks[sample.task];
    ++scores.count;
    for (const auto& [figure, value] : figures) scores.sums[figure] += value;
    out.answers[i] = {&sample, std::move(text), figures.at("right") == 1};
    const Usage usage = generation->usage();
    out.prompt_tokens += usage.prompt_tokens;
    out.completion_tokens += usage.completion_tokens;
    if (progress) progress(++done, std::ssize(samples));
    return {};
  };
  std::vector<std::jthread> readers;
  for (int t = 0; t < std::min<int>(kTogether, static_cast<int>(samples.size())); ++t) {
    readers.emplace_back([&] {
      for (size_t i; (i = next++) < samples.size();) {
        const Status asked = ask(i);
        if (asked.ok()) continue;
        next = samples.size();
        const std::lock_guard lock(mutex);
        if (status.ok()) {
          Error error = asked.error();
          error.message = fmt::format("{}: {}", samples[i].where, error.message);
          status = error;
        }
      }
    });
  }
  readers.clear();  // joins
  if (!status.ok()) return status.error();
  out.run_s = seconds(start);
  return out;
}

Result<std::vector<std::string>> missed_expectations(const json::value& expected,
                                                     const json::value& report) {
  std::vector<std::string> missed;
  Status wrong;
  const auto number = [&](const json::value& value, const std::string& name) {
    const auto read = json_number(value);
    if (!read && wrong.ok()) {
      wrong = invalid_argument("--expect", "{} is {}; a number is expected", name, to_json(value));
    }
    return read.value_or(0);
  };
  const auto object = [&](const char* key) -> const json::object& {
    static const json::object kNone;
    const json::value* value = json_find(expected, key);
    if (!value) return kNone;
    if (value->is_object()) return value->get_object();
    if (wrong.ok()) wrong = invalid_argument("--expect", "{} is no JSON object", key);
    return kNone;
  };
  if (!expected.is_object()) return invalid_argument("--expect", "the file holds no JSON object");
  for (const auto& [key, value] : expected.get_object()) {
    if (key != "tasks" && key != "mean" && key != "cost") {
      return invalid_argument("--expect", "{} is not known; tasks, mean and cost are",
                              std::string(key));
    }
  }
  for (const auto& [task, figures] : object("tasks")) {
    const json::value* tasks = json_find(report, "tasks");
    const json::value* got = tasks ? json_find(*tasks, task) : nullptr;
    if (!figures.is_object()) {
      return invalid_argument("--expect", "{} is no JSON object of figures", std::string(task));
    }
    if (!got) {
      if (json_find(report, "selection")) continue;  // others were chosen
      return invalid_argument("--expect", "the set has no task {}", std::string(task));
    }
    for (const auto& [figure, least] : figures.get_object()) {
      const std::string name = fmt::format("{} {}", std::string(task), std::string(figure));
      const json::value* value = json_find(*got, figure);
      if (!value) {
        return invalid_argument("--expect", "{}: the task has no such figure", name);
      }
      if (number(*value, name) < number(least, name)) {
        missed.push_back(fmt::format("{} is {:.1f} %, expected {:.1f} %", name,
                                     number(*value, name), number(least, name)));
      }
    }
  }
  if (const json::value* least = json_find(expected, "mean")) {
    const json::value* mean = json_find(report, "mean");
    if (mean && number(*mean, "mean") < number(*least, "mean")) {
      missed.push_back(fmt::format("the mean is {:.2f} %, expected {:.2f} %", number(*mean, "mean"),
                                   number(*least, "mean")));
    }
  }
  for (const auto& [variant, most] : object("cost")) {
    const json::value* variants = json_find(report, "variants");
    const json::value* got = variants ? json_find(*variants, variant) : nullptr;
    const json::value* cost = got ? json_find(*got, "cost") : nullptr;
    const std::string name(variant);
    if (cost && number(*cost, name) > number(most, name)) {
      missed.push_back(fmt::format("{} costs {:.2f} points, at most {:.2f} expected", name,
                                   number(*cost, name), number(most, name)));
    }
  }
  if (!wrong.ok()) return wrong.error();
  return missed;
}

}  // namespace videre
