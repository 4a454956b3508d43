// Endpoints to engine calls: who answers which path, request ids, CORS, error bodies, and the two
// chat answers, plain and streamed. No sockets: http.h calls in, the engine's listener wakes.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "server/http.h"
#include "server/metrics.h"
#include "server/openai_types.h"
#include "videre/engine.h"

namespace videre {

struct RoutesOptions {
  std::vector<std::string> served_model_names;  // the first is reported
  ChatParseOptions parse;
  std::string response_role = "assistant";
  bool enable_prompt_tokens_details = false;
  bool force_include_usage = false;
  bool return_tokens_as_token_ids = false;
  bool log_requests = false;
  std::vector<std::string> allowed_origins = {"*"}, allowed_methods = {"*"},
                           allowed_headers = {"*"};
  bool allow_credentials = false;
};

struct ChatJob;
class ParseThread;

enum class ServerState { kLoading, kReady, kDraining };

/// Called on the io thread; `set_engine` and `set_state` from any.
class Routes : public HttpApp {
 public:
  explicit Routes(RoutesOptions options);
  ~Routes() override;

  /// From here on requests are taken. The engine must outlive the routes' last responder.
  void set_engine(Engine* engine);
  void set_state(ServerState state) { state_ = state; }

  std::unique_ptr<Responder> handle(HttpRequest request, std::function<void()> wake) override;
  void refuse(int status, const std::string& message, HttpOutput& out) override;

  const RoutesOptions& options() const { return options_; }
  Metrics& metrics() { return metrics_; }
  int num_active() const { return num_active_; }

 private:
  friend class ChatResponder;
  friend class ParsingResponder;

  HttpOutput health() const;
  HttpOutput models() const;
  HttpOutput preflight(const HttpRequest& request) const;
  /// An answer in the making, which takes the request; or null, and `refused` says why.
  std::unique_ptr<Responder> chat(HttpRequest& request, std::function<void()> wake,
                                  HttpOutput& refused);
  std::unique_ptr<Responder> start_chat(ChatJob& job, HttpOutput& refused);
  /// Counts an answer that is whole, and gives it the headers that all have.
  void finish(const HttpRequest& request, std::optional<Handler> counted, HttpOutput& out);
  void warn_ignored(const std::vector<std::string>& names);
  void add_common_headers(const HttpRequest& request, const std::string& request_id,
                          HttpOutput& out) const;
  /// Nothing when a request may be taken now.
  bool refuse_by_state(HttpOutput& out) const;

  RoutesOptions options_;
  Metrics metrics_;
  std::unique_ptr<ParseThread> parse_thread_;
  std::atomic<Engine*> engine_{nullptr};
  std::atomic<ServerState> state_{ServerState::kLoading};
  std::atomic<int> num_active_{0};  // chat answers in the making
  std::set<std::string> warned_;    // io thread
  int64_t start_time_s_;
};

}  // namespace videre
