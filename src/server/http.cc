// g++ 12 takes a coroutine frame's own operator delete for a mismatch of aligned_alloc.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmismatched-new-delete"
#endif

#include "server/http.h"

#include <strings.h>

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ip/v6_only.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/string_body.hpp>
#include <condition_variable>
#include <mutex>
#include <set>
#include <thread>

#include "base/error.h"
#include "base/log.h"

namespace videre {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = beast::http;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;
using Parser = http::request_parser<http::string_body>;

constexpr size_t kReadAhead = 64u << 10;  // pipelined bytes kept while an answer is written
constexpr size_t kReadPiece = 256u << 10;
constexpr auto kRefusalTime = std::chrono::seconds(5);

const char* reason_phrase(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 204:
      return "No Content";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 413:
      return "Content Too Large";
    case 422:
      return "Unprocessable Content";
    case 429:
      return "Too Many Requests";
    case 431:
      return "Request Header Fields Too Large";
    case 500:
      return "Internal Server Error";
    case 501:
      return "Not Implemented";
    case 503:
      return "Service Unavailable";
    default:
      return "Status";
  }
}

// A header's value must not start another header.
std::string one_line(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return out;
}

std::string too_long(const HttpLimits& limits) {
  return fmt::format("the request body is longer than {} bytes; send large media by URL",
                     limits.body_bytes);
}

class ValueResponder : public Responder {
 public:
  explicit ValueResponder(HttpOutput output) : output_(std::move(output)) {}
  void poll(HttpOutput& out) override {
    out = std::move(output_);
    out.finished = true;
  }

 private:
  HttpOutput output_;
};

class Server;

// One connection. Everything runs on the io thread; `wake` is the only way in from outside.
class Session : public std::enable_shared_from_this<Session> {
 public:
  Session(tcp::socket socket, Server& server);
  ~Session();

  asio::awaitable<void> run();
  void close();
  void close_if_idle() {
    if (!answering_) close();
  }

 private:
  enum class Next { kAgain, kClose };

  asio::awaitable<bool> read_request(HttpRequest& request, bool& http_10, bool& keep_alive);
  asio::awaitable<Next> answer(HttpRequest request, bool http_10, bool keep_alive);
  asio::awaitable<void> refuse(int status, std::string message);
  asio::awaitable<bool> write(const std::string& bytes);
  asio::awaitable<void> watch(uint64_t epoch);
  std::function<void()> make_wake();
  static std::string head_text(const HttpOutput& out, bool http_10, bool keep_alive);

  Server& server_;
  beast::tcp_stream stream_;
  beast::flat_buffer buffer_;
  asio::steady_timer signal_;  // cancelled to say: something is ready, or the client has gone
  bool woken_ = false, gone_ = false, answering_ = false;
  uint64_t epoch_ = 0;  // which answer a watcher belongs to
};

class Server : public HttpServer {
 public:
  Server(const HttpLimits& limits, HttpApp* app) : limits_(limits), app_(app), acceptor_(io_) {}
  ~Server() override { stop(std::chrono::milliseconds(0)); }

  Status open(const std::string& host, int port) {
    error_code error;
    tcp::endpoint endpoint(tcp::v6(), static_cast<unsigned short>(port));
    const bool any = host.empty() || host == "::";
    if (!any) {
      tcp::resolver resolver(io_);
      const auto found =
          resolver.resolve(host, std::to_string(port), tcp::resolver::passive, error);
      if (error || found.empty()) {
        return invalid_argument("--host", "host {} cannot be resolved: {}", host, error.message());
      }
      endpoint = found.begin()->endpoint();
    }
    acceptor_.open(endpoint.protocol(), error);
    if (error && any) {  // no IPv6 on this machine
      endpoint = tcp::endpoint(tcp::v4(), static_cast<unsigned short>(port));
      acceptor_.open(endpoint.protocol(), error);
    }
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error && any && endpoint.protocol() == tcp::v6()) {
      acceptor_.set_option(asio::ip::v6_only(false), error);
    }
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(asio::socket_base::max_listen_connections, error);
    if (error) {
      return make_error(ErrorCode::kUnavailable, "--port",
                        "port {} of {} cannot be opened: {}; stop what uses it, or choose another "
                        "with --port",
                        port, any ? "all interfaces" : host, error.message());
    }
    port_ = acceptor_.local_endpoint(error).port();
    return {};
  }

  int port() const override { return port_; }
  int num_connections() const override { return num_connections_.load(); }

  void start() override {
    asio::co_spawn(io_, accept(), asio::detached);
    thread_ = std::thread([this] { io_.run(); });
  }

  void stop(std::chrono::milliseconds grace) override {
    if (stopped_.exchange(true)) return;
    if (!thread_.joinable()) return;
    asio::post(io_, [this] {
      stopping_ = true;
      error_code ignored;
      acceptor_.close(ignored);
      for (Session* session : std::set<Session*>(sessions_)) session->close_if_idle();
    });
    const auto deadline = Clock::now() + grace;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_until(lock, deadline, [this] { return num_connections_ == 0; });
    }
    asio::post(io_, [this] {
      for (Session* session : std::set<Session*>(sessions_)) session->close();
    });
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, std::chrono::seconds(2), [this] { return num_connections_ == 0; });
    }
    io_.stop();
    thread_.join();
  }

  asio::io_context& io() { return io_; }
  const HttpLimits& limits() const { return limits_; }
  HttpApp& app() { return *app_; }
  bool stopping() const { return stopping_; }

  void add(Session* session) {
    sessions_.insert(session);
    ++num_connections_;
  }
  void remove(Session* session) {
    sessions_.erase(session);
    {
      std::lock_guard lock(mutex_);
      --num_connections_;
    }
    changed_.notify_all();
  }

 private:
  asio::awaitable<void> accept() {
    asio::steady_timer pause(io_);
    while (acceptor_.is_open()) {
      error_code error;
      tcp::socket socket(io_);
      co_await acceptor_.async_accept(socket, asio::redirect_error(asio::use_awaitable, error));
      if (error == asio::error::operation_aborted) co_return;
      if (error) {  // out of descriptors: wait for some to come back
        pause.expires_after(std::chrono::milliseconds(50));
        co_await pause.async_wait(asio::redirect_error(asio::use_awaitable, error));
        continue;
      }
      if (num_connections_ >= limits_.connections) continue;  // destroying the socket closes it
      socket.set_option(tcp::no_delay(true), error);
      auto session = std::make_shared<Session>(std::move(socket), *this);
      asio::co_spawn(
          io_, [session]() -> asio::awaitable<void> { return session->run(); }, asio::detached);
    }
  }

  const HttpLimits limits_;
  HttpApp* app_;
  // Before io_, whose destructor drops the sessions that are left, and they call remove().
  std::set<Session*> sessions_;
  std::atomic<int> num_connections_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  asio::io_context io_{1};
  tcp::acceptor acceptor_;
  int port_ = 0;
  std::thread thread_;
  std::atomic<bool> stopped_{false};
  bool stopping_ = false;  // io thread
};

Session::Session(tcp::socket socket, Server& server)
    : server_(server), stream_(std::move(socket)), signal_(server.io()) {
  server_.add(this);
}

Session::~Session() { server_.remove(this); }

void Session::close() {
  gone_ = true;
  error_code ignored;
  stream_.socket().shutdown(tcp::socket::shutdown_both, ignored);
  stream_.close();
  signal_.cancel();
}

std::function<void()> Session::make_wake() {
  return [weak = weak_from_this(), &io = server_.io()] {
    // The server outlives every engine that may call: see serve's order of destruction.
    asio::post(io, [weak] {
      if (auto self = weak.lock()) {
        self->woken_ = true;
        self->signal_.cancel();
      }
    });
  };
}

asio::awaitable<bool> Session::write(const std::string& bytes) {
  error_code error;
  // Each 64 KiB must leave within the stall time, so that a slow but living reader of a long answer
  // is not cut.
  for (size_t at = 0; at < bytes.size();) {
    const size_t piece = std::min<size_t>(bytes.size() - at, 64u << 10);
    stream_.expires_after(server_.limits().write_stall);
    at += co_await asio::async_write(stream_, asio::buffer(bytes.data() + at, piece),
                                     asio::redirect_error(asio::use_awaitable, error));
    if (error) co_return false;
  }
  co_return true;
}

std::string Session::head_text(const HttpOutput& out, bool http_10, bool keep_alive) {
  std::string head = fmt::format("HTTP/1.1 {} {}\r\n", out.status, reason_phrase(out.status));
  for (const auto& [name, value] : out.headers) {
    head += fmt::format("{}: {}\r\n", name, one_line(value));
  }
  if (!out.streaming) {
    head += fmt::format("Content-Length: {}\r\n", out.data.size());
  } else if (!http_10) {
    head += "Transfer-Encoding: chunked\r\n";
  }
  head += keep_alive ? "Connection: keep-alive\r\n\r\n" : "Connection: close\r\n\r\n";
  return head;
}

asio::awaitable<void> Session::refuse(int status, std::string message) {
  HttpOutput out;
  server_.app().refuse(status, message, out);
  out.streaming = false;
  std::string text = head_text(out, false, false);
  text += out.data;
  if (co_await write(text)) {
    // Reads what the client still sends: closing on unread bytes would reset the connection and
    // could destroy the answer on its way. Clients write a whole body before they read.
    error_code error;
    stream_.socket().shutdown(tcp::socket::shutdown_send, error);
    std::string sink(kReadPiece, '\0');
    const auto deadline = Clock::now() + kRefusalTime;
    while (Clock::now() < deadline) {
      stream_.expires_after(std::chrono::milliseconds(500));
      co_await stream_.async_read_some(asio::buffer(sink),
                                       asio::redirect_error(asio::use_awaitable, error));
      if (error) break;
    }
  }
  close();
}

asio::awaitable<bool> Session::read_request(HttpRequest& request, bool& http_10, bool& keep_alive) {
  const HttpLimits& limits = server_.limits();
  error_code error;
  // Waits for the first byte for as long as an idle connection may stay.
  if (buffer_.size() == 0) {
    stream_.expires_after(limits.keep_alive);
    const size_t n = co_await stream_.async_read_some(
        buffer_.prepare(16u << 10), asio::redirect_error(asio::use_awaitable, error));
    if (error) {
      close();
      co_return false;
    }
    buffer_.commit(n);
  }
  Parser parser;
  parser.header_limit(limits.header_bytes);
  parser.body_limit(limits.body_bytes);
  parser.eager(false);
  stream_.expires_after(limits.header_time);
  co_await http::async_read_header(stream_, buffer_, parser,
                                   asio::redirect_error(asio::use_awaitable, error));
  if (error == http::error::header_limit || error == http::error::buffer_overflow) {
    co_await refuse(
        431, fmt::format("the request's headers are longer than {} bytes", limits.header_bytes));
    co_return false;
  }
  if (error == http::error::body_limit) {
    co_await refuse(413, too_long(limits));
    co_return false;
  }
  if (error) {
    if (error.category() == http::make_error_code(http::error::bad_method).category() &&
        error != http::error::end_of_stream && error != http::error::partial_message) {
      co_await refuse(400, fmt::format("this is not an HTTP/1.1 request: {}", error.message()));
    }
    close();
    co_return false;
  }
  int num_headers = 0;
  for (const auto& field : parser.get()) {
    request.headers.emplace_back(std::string(field.name_string()), std::string(field.value()));
    ++num_headers;
  }
  if (num_headers > limits.header_count) {
    co_await refuse(431, fmt::format("the request has {} headers; at most {} are read", num_headers,
                                     limits.header_count));
    co_return false;
  }
  http_10 = parser.get().version() < 11;
  keep_alive = parser.keep_alive();
  request.method = std::string(parser.get().method_string());
  const std::string_view target = parser.get().target();
  const size_t question = target.find('?');
  request.path = std::string(target.substr(0, question));
  if (question != target.npos) request.query = std::string(target.substr(question + 1));

  if (!parser.is_done() &&
      strcasecmp(std::string(request.header("Expect")).c_str(), "100-continue") == 0) {
    const std::string go_on = "HTTP/1.1 100 Continue\r\n\r\n";
    if (!co_await write(go_on)) {
      close();
      co_return false;
    }
  }
  parser.eager(true);
  auto deadline = Clock::now() + limits.body_time;
  const auto start = Clock::now();
  size_t received = 0;
  while (!parser.is_done()) {
    deadline =
        start + limits.body_time + std::chrono::milliseconds(received / ((256u << 10) / 1000));
    stream_.expires_at(std::min(deadline, Clock::now() + limits.body_idle));
    received += co_await http::async_read_some(stream_, buffer_, parser,
                                               asio::redirect_error(asio::use_awaitable, error));
    if (error == http::error::body_limit) {
      co_await refuse(413, too_long(limits));
      co_return false;
    }
    if (error) {  // cut short, too slow, or malformed chunks
      if (error != beast::error::timeout && error != http::error::partial_message &&
          error.category() == http::make_error_code(http::error::bad_method).category()) {
        co_await refuse(400, fmt::format("the request body is malformed: {}", error.message()));
      }
      close();
      co_return false;
    }
  }
  request.body = std::move(parser.get().body());
  co_return true;
}

// Notices, while an answer is made, that the client has closed; keeps what it sends ahead.
asio::awaitable<void> Session::watch(uint64_t epoch) {
  auto self = shared_from_this();
  for (;;) {
    error_code error;
    co_await stream_.socket().async_wait(tcp::socket::wait_read,
                                         asio::redirect_error(asio::use_awaitable, error));
    if (epoch != epoch_ || error == asio::error::operation_aborted) co_return;
    if (buffer_.size() >= kReadAhead) co_return;
    if (!error) {
      stream_.socket().non_blocking(true, error);
      const size_t n = stream_.socket().read_some(buffer_.prepare(4096), error);
      buffer_.commit(n);
      if (error == asio::error::would_block || error == asio::error::try_again) continue;
    }
    if (error) {
      gone_ = true;
      signal_.cancel();
      co_return;
    }
  }
}

asio::awaitable<Session::Next> Session::answer(HttpRequest request, bool http_10, bool keep_alive) {
  const bool head_only = request.method == "HEAD";
  woken_ = false;
  std::unique_ptr<Responder> responder = server_.app().handle(std::move(request), make_wake());
  HttpOutput out;
  responder->poll(out);
  bool head_sent = false, watching = false;
  std::string text;
  for (;;) {
    const bool ready =
        out.status != 0 &&
        (out.streaming ? !out.data.empty() || out.finished || !head_sent : out.finished);
    if (ready) {
      if (server_.stopping() || out.close) keep_alive = false;
      if (out.streaming && http_10) keep_alive = false;
      text.clear();
      if (!head_sent) text = head_text(out, http_10, keep_alive);
      head_sent = true;
      if (!head_only) {
        const bool chunked = out.streaming && !http_10;
        if (chunked && !out.data.empty()) text += fmt::format("{:x}\r\n", out.data.size());
        text += out.data;
        if (chunked && !out.data.empty()) text += "\r\n";
        if (chunked && out.finished) text += "0\r\n\r\n";
      }
      out.data.clear();
      if (!co_await write(text)) co_return Next::kClose;
      if (out.finished) break;
    }
    if (gone_) co_return Next::kClose;
    if (!watching) {
      watching = true;
      asio::co_spawn(server_.io(), watch(epoch_), asio::detached);
    }
    bool idle = false;
    if (!woken_) {
      error_code error;
      signal_.expires_after(server_.limits().keep_alive_interval);
      co_await signal_.async_wait(asio::redirect_error(asio::use_awaitable, error));
      idle = !error && !woken_;
    }
    if (gone_) co_return Next::kClose;
    woken_ = false;
    responder->poll(out);
    if (idle && out.data.empty() && !out.finished) responder->idle(out);
  }
  co_return keep_alive ? Next::kAgain : Next::kClose;
}

asio::awaitable<void> Session::run() {
  auto self = shared_from_this();
  stream_.expires_never();
  while (!gone_ && !server_.stopping()) {
    HttpRequest request;
    bool http_10 = false, keep_alive = true;
    if (!co_await read_request(request, http_10, keep_alive)) co_return;
    answering_ = true;
    const Next next = co_await answer(std::move(request), http_10, keep_alive);
    answering_ = false;
    ++epoch_;
    if (gone_ || next == Next::kClose) break;
    stream_.cancel();  // the watcher
  }
  close();
}

}  // namespace

std::string_view HttpRequest::header(std::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key.size() == name.size() && strncasecmp(key.data(), name.data(), name.size()) == 0) {
      return value;
    }
  }
  return {};
}

std::unique_ptr<Responder> make_responder(HttpOutput output) {
  return std::make_unique<ValueResponder>(std::move(output));
}

Result<std::unique_ptr<HttpServer>> HttpServer::bind(const std::string& host, int port,
                                                     const HttpLimits& limits, HttpApp* app) {
  auto server = std::make_unique<Server>(limits, app);
  VIDERE_RETURN_IF_ERROR(server->open(host, port));
  return std::unique_ptr<HttpServer>(std::move(server));
}

}  // namespace videre
