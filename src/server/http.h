// HTTP/1.1 on sockets: reads requests under limits of size and time, hands them to an HttpApp, and
// writes what it answers, whole or piece by piece with back-pressure. Knows no JSON and no routes;
// Beast and Asio stay inside http.cc.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "videre/result.h"

namespace videre {

struct HttpRequest {
  std::string method;  // upper case, as sent
  std::string path;    // of the target, before '?'; not percent-decoded
  std::string query;
  std::vector<std::pair<std::string, std::string>> headers;
  std::string body;

  /// First header of that name (any case), or "".
  std::string_view header(std::string_view name) const;
};

/// What a responder has ready. The head counts once `status` is set; with `streaming` the body goes
/// out in pieces until `finished`, else it goes out whole, with its length, when `finished`.
struct HttpOutput {
  int status = 0;
  bool streaming = false;
  bool finished = false;
  bool close = false;  // ends the connection after this answer
  std::vector<std::pair<std::string, std::string>> headers;
  std::string data;  // taken away at each poll
};

/// One answer in the making. Every call comes from the io thread and must not block. Destroyed when
/// it has finished, or early when the client has gone: the destructor then stops the work.
class Responder {
 public:
  virtual ~Responder() = default;
  /// Adds what has become ready. Called at first, and after each `wake` once the client has taken
  /// the piece before.
  virtual void poll(HttpOutput& out) = 0;
  /// Called after `HttpLimits::keep_alive_interval` without anything ready.
  virtual void idle(HttpOutput& out) { (void)out; }
};

class HttpApp {
 public:
  virtual ~HttpApp() = default;
  /// `wake` may be called from any thread, also after the responder is gone.
  virtual std::unique_ptr<Responder> handle(HttpRequest request, std::function<void()> wake) = 0;
  /// Fills an answer to what never became a request: bad framing, sizes.
  virtual void refuse(int status, const std::string& message, HttpOutput& out) = 0;
};

struct HttpLimits {
  uint64_t body_bytes = 256u << 20;
  uint32_t header_bytes = 64u << 10;
  int header_count = 256;
  int connections = 4096;
  std::chrono::milliseconds keep_alive{5000};  // idle connections close after this
  std::chrono::milliseconds header_time{10000};
  std::chrono::milliseconds body_idle{15000};
  std::chrono::milliseconds body_time{60000};  // and on top one second for each 256 KiB received
  std::chrono::milliseconds write_stall{60000};
  std::chrono::milliseconds keep_alive_interval{15000};
};

/// An app that answers from a value already made.
std::unique_ptr<Responder> make_responder(HttpOutput output);

class HttpServer {
 public:
  /// Binds and listens at once, so that a busy port fails before a model loads (kUnavailable).
  /// `app` must outlive the server. `host` "" means all interfaces; `port` 0 picks a free one.
  static Result<std::unique_ptr<HttpServer>> bind(const std::string& host, int port,
                                                  const HttpLimits& limits, HttpApp* app);
  virtual ~HttpServer() = default;  // as stop(0)

  virtual int port() const = 0;
  /// Starts the io thread.
  virtual void start() = 0;
  /// Takes no new connections, closes idle ones, gives answers under way `grace` to finish, then
  /// cuts what is left. Blocks; harmless when repeated.
  virtual void stop(std::chrono::milliseconds grace) = 0;
  virtual int num_connections() const = 0;
};

}  // namespace videre
