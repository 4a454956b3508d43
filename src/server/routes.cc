#include "server/routes.h"

#include <strings.h>
#include <sys/random.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "server/sse.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

// Bodies from here on are parsed apart from the io thread, where others stream: 100 MiB of picture
// or clip take some 0.3 s.
constexpr size_t kLargeBody = 256u << 10;

int64_t unix_time_s() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string random_hex() {
  uint64_t words[2] = {};
  if (getrandom(words, sizeof words, 0) != static_cast<ssize_t>(sizeof words)) {
    static std::atomic<uint64_t> counter{0};
    words[0] = static_cast<uint64_t>(Clock::now().time_since_epoch().count());
    words[1] = ++counter;
  }
  return fmt::format("{:016x}{:016x}", words[0], words[1]);
}

// Ids go into logs, headers and metric labels: anything else could be an injection.
bool valid_request_id(std::string_view id) {
  return !id.empty() && id.size() <= 128 && std::all_of(id.begin(), id.end(), [](unsigned char c) {
    return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '.' ||
           c == '_' || c == ':' || c == '-';
  });
}

bool is_json_type(std::string_view type) {
  type = type.substr(0, type.find(';'));
  while (!type.empty() && (type.back() == ' ' || type.back() == '\t')) type.remove_suffix(1);
  constexpr std::string_view kJson = "application/json";
  return type.size() == kJson.size() && strncasecmp(type.data(), kJson.data(), kJson.size()) == 0;
}

HttpOutput json_output(int status, std::string body) {
  HttpOutput out;
  out.status = status;
  out.headers.emplace_back("Content-Type", "application/json");
  out.data = std::move(body);
  out.finished = true;
  return out;
}

HttpOutput error_output(const ErrorBody& body) { return json_output(body.status, body.json); }
HttpOutput error_output(const Error& error) { return error_output(error_body(error)); }

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string join(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
  return out;
}

// A name in a message: at most 200 bytes of what came in.
std::string quoted(std::string_view text) { return fmt::format("`{}`", text.substr(0, 200)); }

// A field's path as a log line may show it: "messages.3.x" as "messages.N.x", no control bytes.
std::string log_name(std::string_view path) {
  std::string out;
  for (size_t start = 0; start <= path.size();) {
    const size_t end = std::min(path.find('.', start), path.size());
    std::string part(path.substr(start, end - start));
    if (!part.empty() && part.find_first_not_of("0123456789") == part.npos) part = "N";
    for (char& c : part) {
      if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
    }
    out += (start > 0 ? "." : "") + part;
    start = end + 1;
  }
  return out;
}

}  // namespace

// One chat answer, plain or streamed. The head of a stream leaves with the first output, so that a
// failure before it (a picture that cannot be fetched) keeps its own status; only a long silence
// sends the head early, with a comment that keeps proxies from closing.
class ChatResponder : public Responder {
 public:
  ChatResponder(Routes& routes, std::shared_ptr<Generation> generation, ChatAnswerOptions options,
                bool stream, int num_choices,
                std::vector<std::pair<std::string, std::string>> headers, Clock::time_point arrival)
      : routes_(routes),
        start_(arrival),
        generation_(std::move(generation)),
        stream_(stream),
        headers_(std::move(headers)),
        events_(options, num_choices),
        answer_(std::move(options), num_choices),
        num_choices_(num_choices),
        last_token_(num_choices, start_) {
    ++routes_.num_active_;
  }

  ~ChatResponder() override {
    // The client went away: nobody reads the rest.
    if (!ended_) generation_->cancel();
    --routes_.num_active_;
  }

  void poll(HttpOutput& out) override {
    if (ended_) return;
    auto deltas = generation_->read(std::chrono::milliseconds(0));
    if (!deltas.ok()) return fail(deltas.error(), out);
    const Usage usage = generation_->usage();
    for (OutputDelta& delta : *deltas) {
      observe(delta);
      if (delta.finish_reason == FinishReason::kError) {
        return fail(internal_error("the engine failed this request"), out);
      }
      if (stream_) {
        events_.append(out.data, delta, usage);
      } else {
        answer_.add(std::move(delta));
      }
    }
    const bool done = generation_->done();
    // A drain that ran out of time is an error to whoever was reading.
    if (done && aborted_) {
      return fail(make_error(ErrorCode::kUnavailable, "",
                             "the request was aborted: the server is shutting down; try again"),
                  out);
    }
    if (stream_ && out.status == 0 && (done || !out.data.empty())) begin_stream(out);
    if (!done) return;
    if (stream_) {
      events_.append_end(out.data, usage);
      out.finished = true;
    } else {
      finish_plain(out, json_output(200, answer_.to_json(usage)));
    }
    end(usage);
    routes_.metrics_.count_http(Handler::kChatCompletions, "POST", 200);
  }

  void idle(HttpOutput& out) override {
    if (!stream_ || ended_ || any_token_) return;
    if (out.status == 0) begin_stream(out);
    append_sse_ping(out.data);
  }

 private:
  void begin_stream(HttpOutput& out) {
    out.status = 200;
    out.streaming = true;
    out.headers = headers_;
    out.headers.emplace_back("Content-Type", "text/event-stream; charset=utf-8");
    out.headers.emplace_back("Cache-Control", "no-cache");
    out.headers.emplace_back("X-Accel-Buffering", "no");
  }

  void finish_plain(HttpOutput& out, HttpOutput whole) {
    whole.headers.insert(whole.headers.begin(), headers_.begin(), headers_.end());
    out = std::move(whole);
  }

  void fail(const Error& error, HttpOutput& out) {
    if (error.code == ErrorCode::kInternal) log_error("request failed: {}", error.message);
    generation_->cancel();
    ended_ = true;
    int status = 200;
    if (out.status != 0) {  // the stream has begun
      ChatStream::append_error(out.data, error);
    } else {
      out.data.clear();
      const ErrorBody body = error_body(error);
      status = body.status;
      finish_plain(out, error_output(body));
      if (status == 429 || status == 503) out.headers.emplace_back("Retry-After", "1");
    }
    out.finished = true;
    routes_.metrics_.count_http(Handler::kChatCompletions, "POST", status);
  }

  void observe(const OutputDelta& delta) {
    if (delta.finish_reason == FinishReason::kAbort) aborted_ = true;
    if (delta.index < 0 || delta.index >= num_choices_ || delta.token_ids.empty()) return;
    const auto now = Clock::now();
    if (!any_token_) {
      any_token_ = true;
      first_token_ = now;
      routes_.metrics_.time_to_first_token_s.observe(seconds_since(start_));
    } else if (last_token_[delta.index] != start_) {
      routes_.metrics_.inter_token_s.observe(
          std::chrono::duration<double>(now - last_token_[delta.index]).count());
    }
    last_token_[delta.index] = now;
  }

  void end(const Usage& usage) {
    ended_ = true;
    Metrics& metrics = routes_.metrics_;
    metrics.e2e_latency_s.observe(seconds_since(start_));
    metrics.request_prompt_tokens.observe(static_cast<double>(usage.prompt_tokens));
    metrics.request_generation_tokens.observe(static_cast<double>(usage.completion_tokens));
    metrics.request_params_n.observe(num_choices_);
    if (any_token_ && usage.completion_tokens > 1) {
      metrics.time_per_output_token_s.observe(seconds_since(first_token_) /
                                              static_cast<double>(usage.completion_tokens - 1));
    }
  }

  Routes& routes_;
  const Clock::time_point start_;
  std::shared_ptr<Generation> generation_;
  const bool stream_;
  std::vector<std::pair<std::string, std::string>> headers_;
  ChatStream events_;
  ChatAnswer answer_;
  const int num_choices_;
  std::vector<Clock::time_point> last_token_;  // a choice; start_ before its first
  Clock::time_point first_token_;
  bool any_token_ = false, aborted_ = false, ended_ = false;
};

// A chat request on its way from bytes to ChatRequest.
struct ChatJob {
  HttpRequest request;
  std::function<void()> wake;
  Clock::time_point arrival = Clock::now();
  std::optional<Result<ChatRequest>> parsed;
  std::atomic<bool> done{false};  // `parsed` may be read
};

class ParseThread {
 public:
  explicit ParseThread(const ChatParseOptions& options)
      : options_(options), thread_([this] { run(); }) {}
  ~ParseThread() {
    {
      std::lock_guard lock(mutex_);
      over_ = true;
    }
    changed_.notify_all();
    thread_.join();
  }
  void add(std::shared_ptr<ChatJob> job) {
    {
      std::lock_guard lock(mutex_);
      jobs_.push_back(std::move(job));
    }
    changed_.notify_all();
  }

 private:
  void run() {
    for (;;) {
      std::shared_ptr<ChatJob> job;
      {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return over_ || !jobs_.empty(); });
        if (over_) return;
        job = std::move(jobs_.front());
        jobs_.pop_front();
      }
      if (job.use_count() == 1) continue;  // the client has gone
      job->parsed = parse_chat_request(std::string_view(job->request.body), options_);
      job->request.body = {};
      const auto wake = job->wake;
      job->done = true;  // from here on the io thread has the job
      wake();
    }
  }

  const ChatParseOptions& options_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::shared_ptr<ChatJob>> jobs_;
  bool over_ = false;
  std::thread thread_;
};

// Waits for the parse thread, then is what a small body would have been at once.
class ParsingResponder : public Responder {
 public:
  ParsingResponder(Routes& routes, std::shared_ptr<ChatJob> job)
      : routes_(routes), job_(std::move(job)) {}

  void poll(HttpOutput& out) override {
    if (!chat_) {
      if (!job_->done) return;
      HttpOutput refused;
      chat_ = routes_.start_chat(*job_, refused);
      if (!chat_) {
        routes_.finish(job_->request, Handler::kChatCompletions, refused);
        out = std::move(refused);
        return;
      }
    }
    chat_->poll(out);
  }
  void idle(HttpOutput& out) override {
    if (chat_) chat_->idle(out);
  }

 private:
  Routes& routes_;
  std::shared_ptr<ChatJob> job_;
  std::unique_ptr<Responder> chat_;
};

Routes::Routes(RoutesOptions options)
    : options_(std::move(options)),
      parse_thread_(std::make_unique<ParseThread>(options_.parse)),
      start_time_s_(unix_time_s()) {}

Routes::~Routes() = default;

void Routes::set_engine(Engine* engine) {
  engine_ = engine;
  state_ = ServerState::kReady;
}

bool Routes::refuse_by_state(HttpOutput& out) const {
  const Engine* engine = engine_;
  const ServerState state = state_;
  if (state == ServerState::kReady && engine && engine->healthy()) return false;
  if (state == ServerState::kReady) {
    out = error_output(error_body(500, "InternalServerError",
                                  "the engine has failed; the server must be started again"));
    return true;
  }
  out = error_output(make_error(ErrorCode::kUnavailable, "", "{}; try again later",
                                state == ServerState::kDraining ? "the server is shutting down"
                                                                : "the model is still loading"));
  out.headers.emplace_back("Retry-After", "1");
  out.close = state == ServerState::kDraining;
  return true;
}

HttpOutput Routes::health() const {
  const Engine* engine = engine_;
  HttpOutput out;
  if (state_ == ServerState::kReady && engine && engine->healthy()) {
    out.status = 200;
    out.finished = true;
    return out;
  }
  const ServerState state = state_;
  const char* status = state == ServerState::kDraining  ? "draining"
                       : state == ServerState::kLoading ? "loading"
                                                        : "dead";
  return json_output(503, fmt::format("{{\"status\":\"{}\"}}", status));
}

HttpOutput Routes::models() const {
  const Engine* engine = engine_;
  json::array cards;
  for (const std::string& name : options_.served_model_names) {
    json::object permission{{"id", "modelperm-" + random_hex()},
                            {"object", "model_permission"},
                            {"created", start_time_s_},
                            {"allow_create_engine", false},
                            {"allow_sampling", true},
                            {"allow_logprobs", true},
                            {"allow_search_indices", false},
                            {"allow_view", true},
                            {"allow_fine_tuning", false},
                            {"organization", "*"},
                            {"group", nullptr},
                            {"is_blocking", false}};
    json::array permissions;
    permissions.push_back(std::move(permission));
    json::object card;
    card["id"] = name;
    card["object"] = "model";
    card["created"] = start_time_s_;
    card["owned_by"] = "videre";
    card["root"] = name;
    card["parent"] = nullptr;
    card["max_model_len"] = engine->info().max_model_len;
    card["permission"] = std::move(permissions);
    cards.push_back(std::move(card));
  }
  json::object body;
  body["object"] = "list";
  body["data"] = std::move(cards);
  return json_output(200, to_json(body));
}

void Routes::add_common_headers(const HttpRequest& request, const std::string& request_id,
                                HttpOutput& out) const {
  out.headers.emplace_back("X-Request-Id", request_id);
  const std::string_view origin = request.header("Origin");
  if (origin.empty()) return;
  const auto& origins = options_.allowed_origins;
  const bool any = std::find(origins.begin(), origins.end(), "*") != origins.end();
  if (!any && std::find(origins.begin(), origins.end(), origin) == origins.end()) return;
  out.headers.emplace_back("Access-Control-Allow-Origin", any && !options_.allow_credentials
                                                              ? std::string("*")
                                                              : std::string(origin));
  if (!any || options_.allow_credentials) out.headers.emplace_back("Vary", "Origin");
  if (options_.allow_credentials) {
    out.headers.emplace_back("Access-Control-Allow-Credentials", "true");
  }
}

HttpOutput Routes::preflight(const HttpRequest& request) const {
  HttpOutput out;
  out.status = 200;
  out.finished = true;
  const auto all = [](const std::vector<std::string>& list) {
    return std::find(list.begin(), list.end(), "*") != list.end();
  };
  out.headers.emplace_back("Access-Control-Allow-Methods",
                           all(options_.allowed_methods)
                               ? "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
                               : join(options_.allowed_methods));
  const std::string_view asked = request.header("Access-Control-Request-Headers");
  out.headers.emplace_back("Access-Control-Allow-Headers",
                           all(options_.allowed_headers)
                               ? std::string(asked.empty() ? "*" : asked.substr(0, 1024))
                               : join(options_.allowed_headers));
  out.headers.emplace_back("Access-Control-Max-Age", "600");
  return out;
}

// Each name is warned of once in a server's life, and no more names than a log can bear.
void Routes::warn_ignored(const std::vector<std::string>& names) {
  std::vector<std::string> fresh;
  for (const std::string& name : names) {
    if (warned_.size() >= 1000) break;
    if (auto [at, added] = warned_.insert(log_name(name)); added) fresh.push_back(*at);
  }
  if (!fresh.empty()) {
    log_warning("request fields without effect here (said once): {}", join(fresh));
  }
}

std::unique_ptr<Responder> Routes::chat(HttpRequest& request, std::function<void()> wake,
                                        HttpOutput& refused) {
  if (refuse_by_state(refused)) return nullptr;
  if (!is_json_type(request.header("Content-Type"))) {
    refused = error_output(
        error_body(400, "Bad Request", "Content-Type is not application/json; send JSON", "body"));
    return nullptr;
  }
  auto job = std::make_shared<ChatJob>();
  job->wake = std::move(wake);
  if (request.body.size() >= kLargeBody) {
    job->request = std::move(request);
    parse_thread_->add(job);
    return std::make_unique<ParsingResponder>(*this, std::move(job));
  }
  job->parsed = parse_chat_request(std::string_view(request.body), options_.parse);
  job->request = std::move(request);
  auto responder = start_chat(*job, refused);
  if (!responder) request = std::move(job->request);
  return responder;
}

std::unique_ptr<Responder> Routes::start_chat(ChatJob& job, HttpOutput& refused) {
  const HttpRequest& request = job.request;
  Result<ChatRequest>& parsed = *job.parsed;
  if (refuse_by_state(refused)) return nullptr;
  if (!parsed.ok()) {
    refused = error_output(parsed.error());
    return nullptr;
  }
  const auto& names = options_.served_model_names;
  if (!parsed->model.empty() &&
      std::find(names.begin(), names.end(), parsed->model) == names.end()) {
    refused = error_output(make_error(ErrorCode::kNotFound, "model",
                                      "The model {} does not exist; this server has {}",
                                      quoted(parsed->model), quoted(names.at(0))));
    return nullptr;
  }
  warn_ignored(parsed->ignored);
  std::string request_id(request.header("X-Request-Id"));
  if (!valid_request_id(request_id)) request_id = parsed->request_id;
  if (!valid_request_id(request_id)) request_id = random_hex();
  if (options_.log_requests) {
    log_info("request {}: {} messages, stream {}", request_id, parsed->request.messages.size(),
             parsed->stream);
  }

  ChatAnswerOptions answer;
  answer.id = "chatcmpl-" + request_id;
  answer.model = parsed->model.empty() ? names.at(0) : parsed->model;
  answer.created_s = unix_time_s();
  answer.logprobs = parsed->logprobs;
  answer.return_token_ids = parsed->return_token_ids;
  answer.return_tokens_as_token_ids =
      parsed->return_tokens_as_token_ids || options_.return_tokens_as_token_ids;
  answer.include_usage = parsed->include_usage || options_.force_include_usage;
  answer.continuous_usage = parsed->continuous_usage || options_.force_include_usage;
  answer.prompt_tokens_details = options_.enable_prompt_tokens_details;
  answer.role = options_.response_role;
  const int num_choices = parsed->request.sampling.n;

  auto submitted = engine_.load()->submit(std::move(parsed->request));
  if (!submitted.ok()) {
    refused = error_output(submitted.error());
    if (refused.status == 429 || refused.status == 503) {
      refused.headers.emplace_back("Retry-After", "1");
    }
    return nullptr;
  }
  HttpOutput head;
  add_common_headers(request, request_id, head);
  auto responder =
      std::make_unique<ChatResponder>(*this, *submitted, std::move(answer), parsed->stream,
                                      num_choices, std::move(head.headers), job.arrival);
  (*submitted)->set_listener(std::move(job.wake));
  return responder;
}

std::unique_ptr<Responder> Routes::handle(HttpRequest request, std::function<void()> wake) {
  HttpOutput out;
  Handler handler = Handler::kOther;
  bool counted = true;
  const bool get = request.method == "GET";
  const auto wrong_method = [&](const char* allowed) {
    out = error_output(
        error_body(405, "",
                   fmt::format("{} is not a method of {}; use {}", request.method.substr(0, 32),
                               request.path.substr(0, 200), allowed)));
    out.headers.emplace_back("Allow", allowed);
  };
  if (request.method == "OPTIONS" && !request.header("Access-Control-Request-Method").empty()) {
    out = preflight(request);
  } else if (request.path == "/v1/chat/completions") {
    handler = Handler::kChatCompletions;
    if (request.method != "POST") {
      wrong_method("POST");
    } else if (auto responder = chat(request, std::move(wake), out)) {
      return responder;
    }
  } else if (request.path == "/v1/models") {
    handler = Handler::kModels;
    if (!get) {
      wrong_method("GET");
    } else if (!refuse_by_state(out)) {
      out = models();
    }
  } else if (request.path == "/health" || request.path == "/ping") {
    counted = false;
    if (get || (request.method == "POST" && request.path == "/ping")) {
      out = health();
    } else {
      wrong_method("GET");
    }
  } else if (request.path == "/version") {
    counted = false;
    if (get) {
      out = json_output(200, R"({"version":")" VIDERE_VERSION R"(","engine":"videre"})");
    } else {
      wrong_method("GET");
    }
  } else if (request.path == "/metrics") {
    counted = false;
    if (get) {
      out.status = 200;
      out.finished = true;
      out.headers.emplace_back("Content-Type", "text/plain; version=0.0.4; charset=utf-8");
      out.data = metrics_.text(engine_.load(), options_.served_model_names.at(0), num_active_);
    } else {
      wrong_method("GET");
    }
  } else {
    out = error_output(
        error_body(404, "", fmt::format("there is no {}", request.path.substr(0, 200))));
  }
  finish(request, counted ? std::optional(handler) : std::nullopt, out);
  return make_responder(std::move(out));
}

void Routes::finish(const HttpRequest& request, std::optional<Handler> counted, HttpOutput& out) {
  if (counted) metrics_.count_http(*counted, request.method, out.status);
  std::string request_id(request.header("X-Request-Id"));
  if (!valid_request_id(request_id)) request_id = random_hex();
  add_common_headers(request, request_id, out);
}

void Routes::refuse(int status, const std::string& message, HttpOutput& out) {
  out = error_output(error_body(status, "", message));
  metrics_.count_http(Handler::kOther, "", status);
}

}  // namespace videre
