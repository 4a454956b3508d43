// `videre serve`: flags and environment to ServerOptions; the rest is server.h's.
#include <CLI/App.hpp>
#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>

#include "base/error.h"
#include "base/json.h"
#include "cli/commands.h"
#include "cli/flags.h"
#include "server/server.h"

namespace videre {
namespace {

struct ServeFlags {
  EngineFlags engine;
  ServerOptions server;
  std::string allowed_origins, allowed_methods, allowed_headers;
  std::string tool_call_parser, uvicorn_log_level;
  bool enable_auto_tool_choice = false, disable_log_stats = false;
};

void add_server_flags(CLI::App& app, ServeFlags& flags) {
  RoutesOptions& routes = flags.server.routes;
  HttpLimits& limits = flags.server.limits;
  const char* group = "Server";
  app.add_option("--host", flags.server.host, "address to listen on; all when not given")
      ->group(group);
  app.add_option("--port", flags.server.port, "8000 when not given; 0 picks a free one")
      ->check(CLI::Range(0, 65535))
      ->group(group);
  app.add_option("--served-model-name", routes.served_model_names,
                 "names that requests may use; the first is reported")
      ->group(group);
  app.add_option("--shutdown-timeout", flags.server.shutdown_timeout_s,
                 "seconds that running requests may go on after SIGTERM")
      ->check(CLI::Range(0.0, 86400.0))
      ->group(group);
  app.add_flag("--enable-log-requests,!--no-enable-log-requests", routes.log_requests,
               "one log line a request")
      ->group(group);
  app.add_flag("--disable-log-stats,!--no-disable-log-stats", flags.disable_log_stats,
               "no periodic log line")
      ->group(group);
  app.add_option("--uvicorn-log-level", flags.uvicorn_log_level, "debug, info, warning or error")
      ->group(group);
  app.add_option("--allowed-origins", flags.allowed_origins, "CORS: JSON list")->group(group);
  app.add_option("--allowed-methods", flags.allowed_methods, "CORS: JSON list")->group(group);
  app.add_option("--allowed-headers", flags.allowed_headers, "CORS: JSON list")->group(group);
  app.add_flag("--allow-credentials,!--no-allow-credentials", routes.allow_credentials, "CORS")
      ->group(group);
  app.add_option("--h11-max-incomplete-event-size", limits.header_bytes,
                 "bytes that a request's headers may take")
      ->check(CLI::Range(1024u, 64u << 20))
      ->group(group);
  app.add_option("--h11-max-header-count", limits.header_count, "headers that a request may have")
      ->check(CLI::Range(1, 65536))
      ->group(group);

  group = "Protocol";
  app.add_option("--response-role", routes.response_role,
                 "role of answers; assistant when not "
                 "given")
      ->group(group);
  app.add_flag("--enable-prompt-tokens-details,!--no-enable-prompt-tokens-details",
               routes.enable_prompt_tokens_details, "usage tells text, picture and video tokens")
      ->group(group);
  app.add_flag("--enable-force-include-usage,!--no-enable-force-include-usage",
               routes.force_include_usage, "usage on every stream")
      ->group(group);
  app.add_flag("--return-tokens-as-token-ids,!--no-return-tokens-as-token-ids",
               routes.return_tokens_as_token_ids, "tokens in logprobs as token_id:N")
      ->group(group);
  app.add_option("--default-chat-template-kwargs", routes.parse.default_chat_template_kwargs_json,
                 "JSON; a request's keys win")
      ->group(group);
  app.add_flag("--trust-request-chat-template,!--no-trust-request-chat-template",
               routes.parse.trust_request_chat_template, "requests may bring their own template")
      ->group(group);
  app.add_flag("--enable-auto-tool-choice,!--no-enable-auto-tool-choice",
               flags.enable_auto_tool_choice, "tools without tool_choice are shown to the model")
      ->group(group);
  app.add_option("--tool-call-parser", flags.tool_call_parser,
                 "nemotron_json; calls come as text for now")
      ->group(group);
  app.add_flag("--exclude-tools-when-tool-choice-none,!--no-exclude-tools-when-tool-choice-none",
               routes.parse.exclude_tools_when_tool_choice_none,
               "tool_choice none keeps tools out of the prompt")
      ->group(group);
}

Status parse_string_list(const std::string& text, const char* flag, std::vector<std::string>& out) {
  if (text.empty()) return {};
  auto value = parse_json(text, flag);
  bool good = value.ok() && value->is_array();
  std::vector<std::string> list;
  for (size_t i = 0; good && i < value->get_array().size(); ++i) {
    const json::value& item = value->get_array()[i];
    good = item.is_string();
    if (good) list.emplace_back(item.get_string());
  }
  if (!good) return invalid_argument(flag, "{} is no JSON list of strings like [\"*\"]", text);
  out = std::move(list);
  return {};
}

Status resolve(ServeFlags& flags) {
  VIDERE_RETURN_IF_ERROR(resolve_engine_flags(flags.engine));
  ServerOptions& server = flags.server;
  RoutesOptions& routes = server.routes;
  server.engine = flags.engine.engine;
  if (server.engine.model.empty()) {
    return invalid_argument("MODEL",
                            "no model is given; name a checkpoint's folder, or org/name in "
                            "the hub cache");
  }
  if (!environment("VLLM_API_KEY").empty()) {
    return invalid_argument(
        "VLLM_API_KEY",
        "this version checks no API keys, so the server would "
        "be open to all; unset it and bind --host 127.0.0.1 behind a proxy that "
        "checks them");
  }
  VIDERE_RETURN_IF_ERROR(
      parse_string_list(flags.allowed_origins, "--allowed-origins", routes.allowed_origins));
  VIDERE_RETURN_IF_ERROR(
      parse_string_list(flags.allowed_methods, "--allowed-methods", routes.allowed_methods));
  VIDERE_RETURN_IF_ERROR(
      parse_string_list(flags.allowed_headers, "--allowed-headers", routes.allowed_headers));
  const std::string& template_kwargs = routes.parse.default_chat_template_kwargs_json;
  if (!template_kwargs.empty()) {
    const auto value = parse_json(template_kwargs, "the value");
    if (!value.ok() || !value->is_object()) {
      return invalid_argument("--default-chat-template-kwargs", "{} is no JSON object",
                              template_kwargs);
    }
  }
  if (!flags.tool_call_parser.empty() && flags.tool_call_parser != "nemotron_json" &&
      flags.tool_call_parser != "nemotron_nano_v2") {
    return invalid_argument("--tool-call-parser", "{} is not known; expected nemotron_json",
                            flags.tool_call_parser);
  }
  if (flags.enable_auto_tool_choice) {
    if (flags.tool_call_parser.empty()) {
      return invalid_argument("--enable-auto-tool-choice",
                              "--tool-call-parser is missing; add --tool-call-parser "
                              "nemotron_json");
    }
    log_warning("--tool-call-parser: this version leaves tool calls in the answer's text");
  }
  routes.parse.allow_auto_tool_choice = flags.enable_auto_tool_choice;

  VIDERE_ASSIGN_OR_RETURN(const auto keep_alive,
                          environment_number("VLLM_HTTP_TIMEOUT_KEEP_ALIVE", 0, 86400));
  if (keep_alive) {
    server.limits.keep_alive = std::chrono::milliseconds(std::llround(*keep_alive * 1000));
  }
  VIDERE_ASSIGN_OR_RETURN(const auto interval,
                          environment_number("VLLM_LOG_STATS_INTERVAL", 0, 1e6));
  if (interval) server.log_stats_interval_s = *interval;
  if (flags.disable_log_stats) server.log_stats_interval_s = 0;

  std::error_code unreadable;
  const std::string& root = server.engine.allowed_local_media_path;
  if (!root.empty() && std::filesystem::canonical(root, unreadable) == "/") {
    log_warning("--allowed-local-media-path is /: requests can read every file this process can");
  }
  if (server.host != "127.0.0.1" && server.host != "localhost" && server.host != "::1") {
    log_warning(
        "whoever reaches {} may use the server: it checks no keys; --host 127.0.0.1 keeps "
        "it to this machine",
        server.host.empty() ? "any address of this machine" : server.host);
  }
  return {};
}

}  // namespace

int serve_command(const std::vector<std::string>& arguments) {
  CLI::App app("Answers the OpenAI protocol over HTTP until SIGTERM or Ctrl-C.", "videre serve");
  app.footer(
      "--config FILE.yaml reads flags from a file; those typed win. --flag_name is "
      "--flag-name.\nEnvironment: VLLM_VIDEO_LOADER_BACKEND, VLLM_IMAGE_FETCH_TIMEOUT, "
      "VLLM_VIDEO_FETCH_TIMEOUT,\nVLLM_MEDIA_FETCH_MAX_RETRIES, "
      "VLLM_MEDIA_URL_ALLOW_REDIRECTS, VLLM_MEDIA_LOADING_THREAD_COUNT,\n"
      "VLLM_HTTP_TIMEOUT_KEEP_ALIVE, VLLM_LOG_STATS_INTERVAL, VLLM_LOGGING_LEVEL; each has a "
      "VIDERE_ twin that wins.");
  ServeFlags flags;
  add_engine_flags(app, flags.engine, ModelArgument::kPositional);
  add_server_flags(app, flags);
  add_foreign_flags(app);
  set_log_level(environment_log_level(LogLevel::kInfo));
  return run_app(app, arguments, [&] {
    if (!flags.uvicorn_log_level.empty()) {
      set_log_level(log_level(flags.uvicorn_log_level, LogLevel::kInfo));
    }
    const Status resolved = resolve(flags);
    if (!resolved.ok()) {
      report(resolved.error());
      return 2;
    }
    return serve_main(flags.server);
  });
}

}  // namespace videre
