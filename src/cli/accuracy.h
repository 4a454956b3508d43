// An evaluation set through the real engine: questions with media and the answer that is right,
// scored task by task. How sets are laid out and scored: docs/accuracy.md.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/json.h"
#include "cli/request_folder.h"

namespace videre {

/// How an answer is compared with the right one.
struct AnswerCheck {
  enum class Kind {
    kExact,   // the same text
    kLines,   // the same text; also the share of equal lines and of characters
    kWithin,  // a number within 5 %; also within 5 % of `scale`, and the same text
    kTimes,   // the same text around times ("1.50 seconds") that are at most 0.5 s off
    kThink,   // reasoning up to </think>, then the same text
    kTool,    // the same calls inside <TOOLCALL>[...]</TOOLCALL>
  };
  Kind kind = Kind::kExact;
  std::string truth;
  double scale = 0;
};

/// Figures of one answer, 0 to 1; "right" is always among them.
std::map<std::string, double> score_answer(const AnswerCheck& check, const std::string& answer);

struct EvaluationSample {
  std::string task, where;
  Request request;
  AnswerCheck check;
};

/// Samples of a set's files; entries without "check" (calibration requests) are left out. Errors
/// name file and line.
Result<std::vector<EvaluationSample>> evaluation_samples(std::vector<StoredRequest> stored,
                                                         const std::string& param);

struct TaskScores {
  int64_t count = 0;
  std::map<std::string, double> sums;  // of figures
  double percent(const std::string& figure) const {
    const auto found = sums.find(figure);
    return count == 0 || found == sums.end() ? 0 : 100 * found->second / static_cast<double>(count);
  }
};

struct EvaluationAnswer {
  const EvaluationSample* sample = nullptr;
  std::string text;
  bool right = false;
};

struct Evaluation {
  std::map<std::string, TaskScores> tasks;
  std::vector<EvaluationAnswer> answers;  // in the samples' order
  int64_t prompt_tokens = 0, completion_tokens = 0;
  double load_s = 0, run_s = 0;
  /// Mean over tasks of the share that is right, percent; over those in `only` where it is given.
  double mean(const std::vector<std::string>& only = {}) const;
};

/// Loads the model and answers every sample greedily, many at once. Requests keep their own
/// max_tokens, else get 320. `samples` must outlive the result. Errors: as Engine::load; a sample's
/// own error names it.
Result<Evaluation> evaluate(const EngineOptions& options,
                            const std::vector<EvaluationSample>& samples,
                            const LoadProgress& load_progress,
                            const std::function<void(int64_t done, int64_t all)>& progress,
                            const std::atomic<bool>* cancel);

/// Least figures that were promised ({"tasks": {"read_line": {"right": 97}}, "mean": 95, "cost":
/// {"fp8": 0.3}}) against a report of `videre bench accuracy --json`: a sentence for each miss.
/// Variants that were not run, and tasks left out by --tasks, are not asked for.
Result<std::vector<std::string>> missed_expectations(const json::value& expected,
                                                     const json::value& report);

}  // namespace videre
