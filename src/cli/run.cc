// `videre run`: one question about pictures and clips, answered in the terminal as tokens come.
#include <unistd.h>

#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <cstdio>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "cli/input.h"
#include "cli/progress.h"
#include "server/openai_types.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

struct RunFlags {
  EngineFlags engine;
  std::vector<std::string> images, videos;
  std::string question, system;
  bool think = false, no_think = false, json = false;
  SamplingParams sampling;
};

// The first Ctrl-C asks the generation to stop; the second, or one before it runs, ends at once.
std::atomic<int> interrupts{0};
std::atomic<bool> generating{false};
static_assert(std::atomic<int>::is_always_lock_free && std::atomic<bool>::is_always_lock_free);

void on_interrupt(int) {
  if (interrupts.fetch_add(1) > 0 || !generating) _exit(130);
}

void watch_interrupts() {
  struct sigaction action{};
  action.sa_handler = on_interrupt;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
}

void add_run_flags(CLI::App& app, RunFlags& flags) {
  app.add_option("QUESTION", flags.question, "the question; - or nothing reads it from stdin");
  const char* group = "Question";
  app.add_option("--image", flags.images, "picture: a file, or a URL; once for each picture")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--video", flags.videos, "clip: a file, or a URL; once for each clip")
      ->allow_extra_args(false)
      ->group(group);
  app.add_option("--system", flags.system, "system message")->group(group);
  app.add_flag("--think", flags.think, "reason before answering")->group(group);
  app.add_flag("--no-think", flags.no_think, "answer at once")->group(group);
  app.add_flag("--json", flags.json, "one JSON object instead of text")->group(group);

  group = "Sampling";
  SamplingParams& sampling = flags.sampling;
  app.add_option("--max-tokens", sampling.max_tokens, "tokens of the answer at most")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->group(group);
  app.add_option("--min-tokens", sampling.min_tokens, "tokens of the answer at least")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40))
      ->group(group);
  app.add_option("--temperature", sampling.temperature, "0 always takes the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->group(group);
  app.add_option("--top-p", sampling.top_p, "share of probability to sample from")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  app.add_option("--top-k", sampling.top_k, "number of tokens to sample from; 0 = all")
      ->check(CLI::Range(int64_t{-1}, int64_t{1} << 40))
      ->group(group);
  app.add_option("--min-p", sampling.min_p, "least probability, relative to the likeliest token")
      ->check(CLI::Range(0.0, 1.0))
      ->group(group);
  app.add_option("--repetition-penalty", sampling.repetition_penalty,
                 "above 1 avoids what was said")
      ->check(CLI::Range(0.01, 100.0))
      ->group(group);
  app.add_option("--presence-penalty", sampling.presence_penalty, "-2 to 2")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(group);
  app.add_option("--frequency-penalty", sampling.frequency_penalty, "-2 to 2")
      ->check(CLI::Range(-2.0, 2.0))
      ->group(group);
  app.add_option("--stop", sampling.stop, "text that ends the answer; may be repeated")
      ->allow_extra_args(false)
      ->group(group);
  app.add_flag("--ignore-eos", sampling.ignore_eos, "go on to --max-tokens")->group(group);
}

// Media first, as the model's prompt has them; the switch words are the chat template's own.
Result<Request> make_request(const RunFlags& flags) {
  Request request;
  request.sampling = flags.sampling;
  const auto text_message = [](const char* role, std::string text) {
    ChatMessage message;
    message.role = role;
    message.content_is_string = true;
    message.content.push_back({ContentPart::Kind::kText, std::move(text), {}});
    return message;
  };
  const std::string system = flags.system + (flags.think      ? "/think"
                                             : flags.no_think ? "/no_think"
                                                              : "");
  if (!system.empty()) request.messages.push_back(text_message("system", system));

  std::string question = flags.question;
  if (question == "-" || (question.empty() && !isatty(STDIN_FILENO))) {
    VIDERE_ASSIGN_OR_RETURN(question, read_input("-", "stdin"));
    while (!question.empty() && (question.back() == '\n' || question.back() == '\r')) {
      question.pop_back();
    }
  }
  if (question.empty()) {
    return invalid_argument("QUESTION", "there is no question; give one in quotes, or on stdin");
  }
  ChatMessage user = text_message("user", std::move(question));
  std::vector<ContentPart> media;
  const auto add = [&](ContentPart::Kind kind, const std::vector<std::string>& names,
                       const char* flag) -> Status {
    for (const std::string& name : names) {
      ContentPart part;
      part.kind = kind;
      VIDERE_ASSIGN_OR_RETURN(part.media.url, media_url(name, flag));
      media.push_back(std::move(part));
    }
    return {};
  };
  VIDERE_RETURN_IF_ERROR(add(ContentPart::Kind::kImage, flags.images, "--image"));
  VIDERE_RETURN_IF_ERROR(add(ContentPart::Kind::kVideo, flags.videos, "--video"));
  if (!media.empty()) {
    user.content_is_string = false;
    user.content.insert(user.content.begin(), media.begin(), media.end());
  }
  request.messages.push_back(std::move(user));
  return request;
}

struct Answer {
  std::string text;
  FinishReason finish_reason = FinishReason::kNone;
  Usage usage;
  double load_s = 0, first_token_s = 0, total_s = 0;  // the last two from the start of the request
  int64_t tokens_at_first = 0;                        // that came together with the first
};

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Waits for the answer; `print` shows text as it comes.
Result<Answer> generate(Engine& engine, Request request, bool print, Progress& progress) {
  Answer answer;
  const Clock::time_point start = Clock::now();
  VIDERE_ASSIGN_OR_RETURN(const auto generation, engine.submit(std::move(request)));
  generating = true;
  bool cancelled = false;
  while (!generation->done()) {
    if (interrupts > 0 && !cancelled) {
      generation->cancel();
      cancelled = true;
    }
    VIDERE_ASSIGN_OR_RETURN(const auto deltas, generation->read(std::chrono::milliseconds(50)));
    if (deltas.empty() && answer.first_token_s == 0) {
      const EngineStats stats = engine.stats();
      progress.show(stats.num_preparing > 0 ? "reading pictures and clips" : "reading the prompt");
    }
    const bool first = answer.first_token_s == 0;
    for (const OutputDelta& delta : deltas) {
      if (first) {
        answer.first_token_s = seconds_since(start);
        answer.tokens_at_first += static_cast<int64_t>(delta.token_ids.size());
      }
      progress.clear();
      answer.text += delta.text;
      if (print && !delta.text.empty()) {
        std::fwrite(delta.text.data(), 1, delta.text.size(), stdout);
        std::fflush(stdout);
      }
      if (delta.finish_reason != FinishReason::kNone) answer.finish_reason = delta.finish_reason;
    }
  }
  progress.clear();
  answer.usage = generation->usage();
  answer.total_s = seconds_since(start);
  return answer;
}

// Tokens a second once they come; of the whole request when they all came at once.
double decode_rate(const Answer& answer) {
  const int64_t later = answer.usage.completion_tokens - answer.tokens_at_first;
  const double time_s = later > 0 ? answer.total_s - answer.first_token_s : answer.total_s;
  const auto tokens = static_cast<double>(later > 0 ? later : answer.usage.completion_tokens);
  return time_s > 0 ? tokens / time_s : 0;
}

double rounded(double seconds) { return std::round(seconds * 1e4) / 1e4; }

std::string answer_json(const Answer& answer) {
  json::object out;
  out["text"] = json::string(answer.text);
  out["finish_reason"] = finish_reason_json(answer.finish_reason);
  out["usage"] = usage_json(answer.usage, true);
  out["timings"] = json::object{{"load_s", rounded(answer.load_s)},
                                {"first_token_s", rounded(answer.first_token_s)},
                                {"total_s", rounded(answer.total_s)},
                                {"tokens_per_s", rounded(decode_rate(answer))}};
  return to_json(out);
}

int run(RunFlags& flags) {
  EngineOptions& options = flags.engine.engine;
  const Clock::time_point start = Clock::now();
  const auto failed = [](const Error& error) { return report(error); };
  const Status resolved = resolve_engine_flags(flags.engine);
  if (!resolved.ok()) return failed(resolved.error());
  if (options.model.empty()) {  // a built-in model will be the default here
    return failed(invalid_argument("--model",
                                   "no model is given; add --model FOLDER, or --model "
                                   "org/name for one in the hub cache"));
  }
  if (flags.think && flags.no_think) {
    return failed(invalid_argument("--think", "--no-think is given too; choose one"));
  }
  if (!options.max_num_seqs) options.max_num_seqs = 1;
  auto request = make_request(flags);
  if (!request.ok()) return failed(request.error());

  watch_interrupts();
  Progress progress(flags.json ? Progress::Lines::kOnTerminalOnly : Progress::Lines::kEverywhere);
  auto engine = Engine::load(options, progress.loader());
  progress.clear();
  if (!engine.ok()) return failed(engine.error());
  const double load_s = seconds_since(start);

  auto answer = generate(**engine, std::move(*request), !flags.json, progress);
  progress.clear();
  if (!answer.ok()) {
    if (interrupts > 0) return 130;
    return failed(answer.error());
  }
  answer->load_s = load_s;
  if (flags.json) {
    fmt::print("{}\n", answer_json(*answer));
  } else {
    if (!answer->text.empty() && answer->text.back() != '\n') fmt::print("\n");
    std::fflush(stdout);
    progress.note(
        fmt::format("{} prompt tokens, {} generated; first after {:.2f} s, then {:.1f} tokens/s",
                    answer->usage.prompt_tokens, answer->usage.completion_tokens,
                    answer->first_token_s, decode_rate(*answer)));
  }
  std::fflush(stdout);
  return interrupts > 0 ? 130 : 0;
}

}  // namespace

int run_command(const std::vector<std::string>& arguments) {
  CLI::App app(
      "Answers one question about pictures and clips: videre run --model MODEL --image cat.jpg "
      "\"What is shown?\"",
      "videre run");
  app.footer(
      "Progress goes to stderr, the answer to stdout. Ctrl-C stops the answer, a second one "
      "at once.\n--config FILE.yaml reads flags from a file.");
  RunFlags flags;
  flags.engine.engine.allowed_local_media_path = "/";    // the user's own files,
  flags.engine.engine.allow_private_media_hosts = true;  // and network
  add_run_flags(app, flags);
  add_engine_flags(app, flags.engine, ModelArgument::kFlagOnly);
  add_foreign_flags(app);
  set_log_level(environment_log_level(LogLevel::kWarning));
  return run_app(app, arguments, [&] {
    if (app.count("--seed") > 0) {
      flags.sampling.seed = static_cast<int64_t>(flags.engine.engine.seed);
    }
    return run(flags);
  });
}

}  // namespace videre
