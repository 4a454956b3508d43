// `videre bench accuracy`: the evaluation set through the engine, task by task; and what formats,
// dtypes and pruning rates cost.
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "base/error.h"
#include "cli/accuracy.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/progress.h"
#include "engine/calibrate.h"
#include "model/config.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

constexpr const char* kVariants[] = {"float32", "fp8", "fp8-weights", "nvfp4", "nvfp4-w4a4"};

struct AccuracyFlags {
  EngineFlags engine;
  std::string set, tasks, compare, calibration, expect, answers;
  int64_t samples = 0, show = 0;
  bool json = false;
};

std::atomic<bool> stopped{false};

std::vector<std::string> words_of(const std::string& list) {
  std::vector<std::string> words;
  std::istringstream in(list);
  for (std::string word; std::getline(in, word, ',');) {
    if (!word.empty()) words.push_back(word);
  }
  return words;
}

// A folder that goes away with the object.
class TemporaryFolder {
 public:
  Status make() {
    std::string name = (fs::temp_directory_path() / "videre-bench-XXXXXX").string();
    if (!::mkdtemp(name.data())) {
      return make_error(ErrorCode::kUnavailable, "", "no temporary folder can be made at {}", name);
    }
    path_ = name;
    return {};
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    if (!path_.empty()) fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// The set named by a flag, else the one beside the model, else the one in the binary.
Result<ModelFiles> find_set(const AccuracyFlags& flags) {
  if (!flags.set.empty()) return ModelFiles(flags.set);
  const std::string& model = flags.engine.engine.model;
  std::error_code ignored;
  if (!model.empty() && model != kBuiltinModel) {
    fs::path beside = fs::absolute(model).lexically_normal();
    if (!beside.has_filename()) beside = beside.parent_path();
    beside += "-eval";
    if (fs::is_directory(beside, ignored)) return ModelFiles(beside.string());
  }
  if (!builtin_evaluation().files.empty()) return ModelFiles(builtin_evaluation());
  return invalid_argument("--set",
                          "there is no evaluation set: this binary carries none; name a "
                          "folder of .jsonl files (docs/accuracy.md)");
}

Result<std::vector<EvaluationSample>> choose(std::vector<EvaluationSample> all,
                                             const AccuracyFlags& flags) {
  const std::vector<std::string> wanted = words_of(flags.tasks);
  std::map<std::string, int64_t> counts;
  std::vector<EvaluationSample> out;
  for (EvaluationSample& sample : all) {
    int64_t& count = counts[sample.task];
    const bool in =
        wanted.empty() || std::find(wanted.begin(), wanted.end(), sample.task) != wanted.end();
    ++count;
    if (in && (flags.samples == 0 || count <= flags.samples)) out.push_back(std::move(sample));
  }
  for (const std::string& task : wanted) {
    if (counts.count(task)) continue;
    std::vector<std::string> names;
    for (const auto& [name, count] : counts) names.push_back(name);
    return invalid_argument("--tasks", "the set has no task {}; it has {}", task,
                            fmt::join(names, ", "));
  }
  return out;
}

bool has_clip(const EvaluationSample& sample) {
  for (const ChatMessage& message : sample.request.messages) {
    for (const ContentPart& part : message.content) {
      if (part.kind == ContentPart::Kind::kVideo) return true;
    }
  }
  return false;
}

double rounded(double value) { return std::round(value * 100) / 100; }

json::object evaluation_json(const Evaluation& result) {
  json::object out, tasks;
  for (const auto& [name, scores] : result.tasks) {
    json::object& task = tasks[name].emplace_object();
    task["count"] = scores.count;
    for (const auto& [figure, sum] : scores.sums) task[figure] = rounded(scores.percent(figure));
  }
  out["mean"] = rounded(result.mean());
  out["tasks"] = std::move(tasks);
  out["prompt_tokens"] = result.prompt_tokens;
  out["completion_tokens"] = result.completion_tokens;
  out["load_s"] = rounded(result.load_s);
  out["run_s"] = rounded(result.run_s);
  return out;
}

void print_tasks(const Evaluation& result) {
  fmt::print("{:<16}{:>8}{:>10}\n", "task", "samples", "right");
  for (const auto& [name, scores] : result.tasks) {
    std::string others;
    for (const auto& [figure, sum] : scores.sums) {
      if (figure == "right") continue;
      others += fmt::format("   {} {:.1f} %", figure, scores.percent(figure));
    }
    fmt::print("{:<16}{:>8}{:>8.1f} %{}\n", name, scores.count, scores.percent("right"), others);
  }
  fmt::print("{:<16}{:>8}{:>8.1f} %\n", "mean", result.answers.size(), result.mean());
}

void show_wrong(const Evaluation& result, int64_t most) {
  std::map<std::string, int64_t> shown;
  for (const EvaluationAnswer& answer : result.answers) {
    if (answer.right || ++shown[answer.sample->task] > most) continue;
    fmt::print("  {} ({}): {}\n      expected {}\n", answer.sample->task, answer.sample->where,
               to_json(json::string(answer.text)),
               to_json(json::string(answer.sample->check.truth)));
  }
}

// A line an answer, behind those of earlier variants.
Status write_answers(const Evaluation& result, const std::string& variant, const std::string& path,
                     bool first) {
  std::ofstream out(path, first ? std::ios::trunc : std::ios::app);
  for (const EvaluationAnswer& answer : result.answers) {
    json::object line;
    line["variant"] = variant;
    line["task"] = answer.sample->task;
    line["where"] = answer.sample->where;
    line["right"] = answer.right;
    line["answer"] = json::string(answer.text);
    line["truth"] = json::string(answer.sample->check.truth);
    out << to_json(line) << '\n';
  }
  out.flush();
  if (!out) {
    return make_error(ErrorCode::kUnavailable, "--answers", "{} cannot be written", path);
  }
  return {};
}

// One run of `videre bench accuracy`: the model itself, then its variants.
class Bench {
 public:
  explicit Bench(AccuracyFlags& flags)
      : flags_(flags),
        options_(flags.engine.engine),
        progress_(flags.json ? Progress::Lines::kOnTerminalOnly : Progress::Lines::kEverywhere) {}

  /// True when every expectation is met.
  Result<bool> run();

 private:
  Status plan_variants();
  Result<Evaluation> measure(const std::string& name, const EngineOptions& options,
                             const std::vector<EvaluationSample>& samples);
  Result<json::object> measure_variant(const std::string& name);
  /// The quantised checkpoint, made once.
  Result<std::string> quantized(QuantFormat format);

  AccuracyFlags& flags_;
  EngineOptions options_;
  Progress progress_;
  std::optional<ModelFiles> set_;
  std::vector<EvaluationSample> samples_, clips_;
  std::vector<std::string> variants_;
  Evaluation base_;
  TemporaryFolder temporary_;
  std::optional<ActivationAmax> amax_;
};

Status Bench::plan_variants() {
  variants_ = words_of(flags_.compare);
  if (variants_ == std::vector<std::string>{"all"}) {
    variants_.assign(std::begin(kVariants), std::end(kVariants));
    if (!clips_.empty()) variants_.insert(variants_.end(), {"evs-0.5", "evs-0.75"});
  }
  for (const std::string& name : variants_) {
    const bool known =
        std::find(std::begin(kVariants), std::end(kVariants), name) != std::end(kVariants);
    if (known) continue;
    double rate = -1;
    if (name.starts_with("evs-")) {
      char* end = nullptr;
      rate = std::strtod(name.c_str() + 4, &end);
      if (*end != 0 || end == name.c_str() + 4) rate = -1;
    }
    if (!(rate >= 0 && rate < 1)) {
      return invalid_argument("--compare", "{} is not known; all, {} or evs-RATE is expected", name,
                              fmt::join(kVariants, ", "));
    }
    if (clips_.empty()) return invalid_argument("--compare", "{}: no sample has a clip", name);
  }
  return {};
}

Result<Evaluation> Bench::measure(const std::string& name, const EngineOptions& options,
                                  const std::vector<EvaluationSample>& samples) {
  auto result = evaluate(
      options, samples, progress_.loader(),
      [&](int64_t done, int64_t all) {
        progress_.show("asking (" + name + ")",
                       static_cast<double>(done) / static_cast<double>(all));
      },
      &stopped);
  progress_.clear();
  if (result.ok() && !flags_.answers.empty()) {
    VIDERE_RETURN_IF_ERROR(write_answers(*result, name, flags_.answers, base_.answers.empty()));
  }
  return result;
}

Result<std::string> Bench::quantized(QuantFormat format) {
  if (temporary_.path().empty()) VIDERE_RETURN_IF_ERROR(temporary_.make());
  const std::string path = temporary_.path() + (format == QuantFormat::kFp8 ? "/fp8" : "/nvfp4");
  if (fs::exists(path)) return path;
  if (!amax_) {
    // Those of a flag, else the set's, else those that the built-in model brings.
    std::optional<ModelFiles> from;
    if (!flags_.calibration.empty()) {
      from.emplace(flags_.calibration);
    } else if (set_->contains(kCalibrationName)) {
      from = set_;
    } else if (options_.model == kBuiltinModel && !builtin_evaluation().files.empty()) {
      from.emplace(builtin_evaluation());
    } else {
      return invalid_argument("--calibration",
                              "the set has no {}; name a folder of requests that scales are taken "
                              "from",
                              kCalibrationName);
    }
    VIDERE_ASSIGN_OR_RETURN(const std::vector<Request> requests,
                            read_calibration(*from, "--calibration"));
    EngineOptions options = options_;
    options.max_num_seqs.reset();
    VIDERE_ASSIGN_OR_RETURN(
        const Calibration calibration,
        calibrate(
            options, requests, progress_.loader(),
            [&](int64_t done, int64_t all) {
              progress_.show("calibrating", static_cast<double>(done) / static_cast<double>(all));
            },
            &stopped));
    amax_ = calibration.amax;
  }
  QuantizeOptions quantize;
  quantize.format = format;
  quantize.amax = *amax_;
  quantize.num_threads = options_.num_threads;
  quantize.cancel = &stopped;
  VIDERE_ASSIGN_OR_RETURN(const ModelFiles source,
                          open_model(options_.model, options_.revision, options_.download_dir));
  const auto made = quantize_checkpoint(source, path, quantize, [&](int64_t done, int64_t all) {
    progress_.show("quantising", static_cast<double>(done) / static_cast<double>(all));
  });
  if (!made.ok()) return made.error();
  return path;
}

Result<json::object> Bench::measure_variant(const std::string& name) {
  EngineOptions options = options_;
  const bool clips = name.starts_with("evs-");
  if (clips) {
    options.video_pruning_rate = std::strtod(name.c_str() + 4, nullptr);
  } else if (name == "float32") {
    options.dtype = "float32";
  } else {
    const bool fp8 = name.starts_with("fp8");
    VIDERE_ASSIGN_OR_RETURN(options.model,
                            quantized(fp8 ? QuantFormat::kFp8 : QuantFormat::kNvfp4));
    options.quantized_activations = name == "fp8" || name == "nvfp4-w4a4";
  }
  VIDERE_ASSIGN_OR_RETURN(const Evaluation result,
                          measure(name, options, clips ? clips_ : samples_));
  // The same samples before: of a task with and without clips, those that have some.
  double before = 0, count = 0;
  if (clips) {
    std::map<std::string, TaskScores> tasks;
    for (const EvaluationAnswer& answer : base_.answers) {
      if (!has_clip(*answer.sample)) continue;
      TaskScores& scores = tasks[answer.sample->task];
      ++scores.count;
      scores.sums["right"] += answer.right;
    }
    for (const auto& [task, scores] : tasks) before += scores.percent("right"), ++count;
    before /= count;
  } else {
    before = base_.mean();
  }
  json::object out = evaluation_json(result);
  out["base"] = rounded(before);
  out["cost"] = rounded(before - result.mean());
  if (!flags_.json) {
    fmt::print("{:<16}{:>8}{:>8.1f} %{:>+10.2f}   of {:.1f} %{}\n", name, result.answers.size(),
               result.mean(), before - result.mean(), before, clips ? ", samples with clips" : "");
    std::fflush(stdout);
  }
  return out;
}

Result<bool> Bench::run() {
  VIDERE_ASSIGN_OR_RETURN(set_, find_set(flags_));
  VIDERE_ASSIGN_OR_RETURN(auto stored, read_request_folder(*set_, "--set"));
  VIDERE_ASSIGN_OR_RETURN(auto all, evaluation_samples(std::move(stored), "--set"));
  VIDERE_ASSIGN_OR_RETURN(samples_, choose(std::move(all), flags_));
  if (samples_.empty()) return invalid_argument("--set", "{} holds no sample", set_->path());
  std::copy_if(samples_.begin(), samples_.end(), std::back_inserter(clips_), has_clip);
  VIDERE_RETURN_IF_ERROR(plan_variants());

  VIDERE_ASSIGN_OR_RETURN(
      base_, measure(options_.dtype == "auto" ? "bfloat16" : options_.dtype, options_, samples_));
  json::object report = evaluation_json(base_);
  report["model"] = options_.model;
  report["set"] = set_->path();
  if (!flags_.tasks.empty()) report["selection"] = flags_.tasks;
  if (!flags_.json) {
    print_tasks(base_);
    show_wrong(base_, flags_.show);
    fmt::print("{} prompt tokens, {} generated in {:.1f} s\n", base_.prompt_tokens,
               base_.completion_tokens, base_.run_s);
    if (!variants_.empty()) {
      fmt::print("\n{:<16}{:>8}{:>10}{:>10}\n", "variant", "samples", "mean", "cost");
    }
    std::fflush(stdout);
  }
  json::object variants;
  for (const std::string& name : variants_) {
    VIDERE_ASSIGN_OR_RETURN(variants[name], measure_variant(name));
  }
  if (!variants_.empty()) report["variants"] = std::move(variants);

  std::vector<std::string> missed;
  if (!flags_.expect.empty()) {
    auto text = read_text_file(flags_.expect, 1 << 20);
    if (!text.ok()) return invalid_argument("--expect", "{}", text.error().message);
    VIDERE_ASSIGN_OR_RETURN(const json::value expected, parse_json(*text, flags_.expect));
    VIDERE_ASSIGN_OR_RETURN(missed, missed_expectations(expected, json::value(report)));
    json::array& list = report["missed"].emplace_array();
    for (const std::string& line : missed) list.push_back(json::string(line));
  }
  if (flags_.json) fmt::print("{}\n", to_json(report));
  for (const std::string& line : missed) fmt::print(stderr, "missed: {}\n", line);
  return missed.empty();
}

int accuracy_command(const std::vector<std::string>& arguments) {
  CLI::App app(
      "Asks the evaluation set, greedily and many at once, and prints the share of right answers.",
      "videre bench accuracy");
  app.footer(
      "Variants of --compare: float32; fp8 (weights and activations), fp8-weights; nvfp4 (weights "
      "only),\nnvfp4-w4a4; evs-RATE (clips pruned). Quantised checkpoints are made in a temporary "
      "folder, scales from the\nset's calibration requests. Exit code 1 when --expect is not "
      "met. docs/accuracy.md tells more.");
  AccuracyFlags flags;
  const char* group = "Evaluation";
  app.add_option("--set", flags.set,
                 "folder of .jsonl files; MODEL-eval or the built-in set when not given")
      ->group(group);
  app.add_option("--tasks", flags.tasks, "names, separated by commas; all when not given")
      ->group(group);
  app.add_option("--samples", flags.samples, "the first N of each task; 0 = all")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(group);
  app.add_option("--compare", flags.compare, "variants, separated by commas; or all")->group(group);
  app.add_option("--calibration", flags.calibration,
                 "folder of requests that static scales are taken from")
      ->group(group);
  app.add_option("--expect", flags.expect, "JSON file of least figures")->group(group);
  app.add_option("--show", flags.show, "wrong answers to print, a task each")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(group);
  app.add_option("--answers", flags.answers,
                 "writes every answer, variants' too, to this .jsonl file")
      ->group(group);
  app.add_flag("--json", flags.json, "one JSON object instead of tables")->group(group);
  flags.engine.engine.allowed_local_media_path = "/";
  flags.engine.engine.allow_private_media_hosts = true;
  add_engine_flags(app, flags.engine, ModelArgument::kPositional);
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    const Status resolved = resolve_engine_flags(flags.engine);
    if (!resolved.ok()) return report(resolved.error());
    struct sigaction action{};
    action.sa_handler = [](int) { stopped = true; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second one ends at once
    for (const int signal : {SIGINT, SIGTERM}) sigaction(signal, &action, nullptr);
    const auto good = Bench(flags).run();
    if (!good.ok()) return report(good.error());
    return *good ? 0 : 1;
  });
}

}  // namespace

int bench_command(const std::vector<std::string>& arguments) {
  constexpr struct {
    const char* name;
    int (*run)(const std::vector<std::string>&);
    const char* what;
  } kBenches[] = {
      {"latency", bench_latency_command,
       "time of a batch of requests, of its first token, a token"},
      {"throughput", bench_throughput_command, "requests and tokens a second, many at once"},
      {"startup", bench_startup_command, "from a process's start to ready and to its first token"},
      {"accuracy", accuracy_command, "right answers, task by task; what formats and pruning cost"},
  };
  std::vector<std::string> names;
  for (const auto& bench : kBenches) {
    if (!arguments.empty() && arguments[0] == bench.name) {
      return bench.run({arguments.begin() + 1, arguments.end()});
    }
    names.push_back(bench.name);
  }
  const bool help = !arguments.empty() && (arguments[0] == "--help" || arguments[0] == "-h");
  if (!help && !arguments.empty()) {
    const std::string near = nearest_name(arguments[0], names);
    fmt::print(stderr, "videre bench: error: {} is no bench{}\n", arguments[0],
               near.empty() ? "" : "; did you mean " + near + "?");
  }
  std::FILE* out = help ? stdout : stderr;
  fmt::print(out, "usage: videre bench NAME [MODEL] [flags]\n\n");
  for (const auto& bench : kBenches) fmt::print(out, "  {:<12}{}\n", bench.name, bench.what);
  fmt::print(out, "\nvidere bench NAME --help lists the flags\n");
  return help ? 0 : 2;
}

}  // namespace videre
