#include "media/http_client.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/vector_body.hpp>
#include <cerrno>
#include <cstdlib>
#include <memory>

#include "base/error.h"

namespace videre {
namespace {

namespace http = boost::beast::http;
using Clock = HttpLimits::Clock;

constexpr int kPollSliceMs = 50;  // how soon a cancellation is seen
constexpr size_t kReadBytes = 1 << 16;
constexpr uint32_t kMaxHeaderBytes = 64 << 10;

HttpFailure permanent(std::string message) {
  return {Error{ErrorCode::kInvalidArgument, std::move(message), ""}, false};
}
HttpFailure transient(std::string message) {
  return {Error{ErrorCode::kInvalidArgument, std::move(message), ""}, true};
}
HttpFailure cancelled() {
  return {Error{ErrorCode::kCancelled, "the request was cancelled", ""}, false};
}

/// A connected socket with deadlines; read and write throw HttpFailure, caught in http_get.
class Socket {
 public:
  explicit Socket(const HttpLimits& limits) : limits_(limits) {}
  ~Socket() {
    if (fd_ >= 0) ::close(fd_);
  }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;

  void connect(const IpAddress& address, uint16_t port) {
    sockaddr_storage storage{};
    socklen_t length = 0;
    if (address.is_ipv6) {
      auto& v6 = reinterpret_cast<sockaddr_in6&>(storage);
      v6.sin6_family = AF_INET6;
      v6.sin6_port = htons(port);
      std::copy_n(address.bytes.begin(), 16, v6.sin6_addr.s6_addr);
      length = sizeof(v6);
    } else {
      auto& v4 = reinterpret_cast<sockaddr_in&>(storage);
      v4.sin_family = AF_INET;
      v4.sin_port = htons(port);
      std::copy_n(address.bytes.begin(), 4, reinterpret_cast<uint8_t*>(&v4.sin_addr));
      length = sizeof(v4);
    }
    fd_ = ::socket(storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP);
    if (fd_ < 0) throw transient("no socket could be opened");
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&storage), length) == 0) return;
    if (errno != EINPROGRESS) throw transient("the host refused the connection");
    wait(POLLOUT, std::min(limits_.connect_deadline, limits_.deadline),
         "no connection to the host within the time allowed");
    int error = 0;
    socklen_t error_length = sizeof(error);
    ::getsockopt(fd_, SOL_SOCKET, SO_ERROR, &error, &error_length);
    if (error != 0) throw transient("the host refused the connection or cannot be reached");
  }

  /// Some bytes, or 0 at the end.
  size_t read_some(uint8_t* out, size_t size) {
    const auto stall =
        Clock::now() + std::chrono::milliseconds(static_cast<int64_t>(limits_.stall_s * 1000));
    for (;;) {
      const ssize_t got = ::recv(fd_, out, size, 0);
      if (got >= 0) return static_cast<size_t>(got);
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) throw transient("the host broke the connection");
      wait(POLLIN, std::min(limits_.deadline, stall), "the host did not answer in time");
    }
  }

  void write_all(const uint8_t* data, size_t size) {
    while (size > 0) {
      const ssize_t sent = ::send(fd_, data, size, MSG_NOSIGNAL);
      if (sent >= 0) {
        data += sent;
        size -= static_cast<size_t>(sent);
        continue;
      }
      if (errno == EINTR) continue;
      if (errno != EAGAIN && errno != EWOULDBLOCK) throw transient("the host broke the connection");
      wait(POLLOUT, limits_.deadline, "the host did not take the request in time");
    }
  }

 private:
  void wait(short events, Clock::time_point until, const char* late) {
    for (;;) {
      if (limits_.cancel && limits_.cancel->load(std::memory_order_relaxed)) throw cancelled();
      const auto left =
          std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
      if (left <= 0) throw transient(late);
      pollfd entry{fd_, events, 0};
      const int ready =
          ::poll(&entry, 1, static_cast<int>(std::min<int64_t>(left + 1, kPollSliceMs)));
      if (ready > 0) return;
      if (ready < 0 && errno != EINTR) throw transient("waiting for the host failed");
    }
  }

  const HttpLimits& limits_;
  int fd_ = -1;
};

class Stream {
 public:
  virtual ~Stream() = default;
  virtual size_t read_some(uint8_t* out, size_t size) = 0;
  virtual void write_all(const uint8_t* data, size_t size) = 0;
};

class PlainStream : public Stream {
 public:
  explicit PlainStream(Socket& socket) : socket_(socket) {}
  size_t read_some(uint8_t* out, size_t size) override { return socket_.read_some(out, size); }
  void write_all(const uint8_t* data, size_t size) override { socket_.write_all(data, size); }

 private:
  Socket& socket_;
};

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* p) const {
    Free(p);
  }
};
using SslContext = std::unique_ptr<SSL_CTX, Deleter<SSL_CTX_free>>;
using Ssl = std::unique_ptr<SSL, Deleter<SSL_free>>;

/// Trust store and settings, read once; null when OpenSSL cannot be set up.
SSL_CTX* client_context() {
  static const SslContext kContext = [] {
    SslContext context(SSL_CTX_new(TLS_client_method()));
    if (!context) return context;
    SSL_CTX_set_min_proto_version(context.get(), TLS1_2_VERSION);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_default_verify_paths(context.get());  // honours SSL_CERT_FILE and SSL_CERT_DIR
    // A static OpenSSL may have been configured for another system's folders.
    for (const char* file :
         {"/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt"}) {
      if (!std::getenv("SSL_CERT_FILE") && ::access(file, R_OK) == 0) {
        SSL_CTX_load_verify_locations(context.get(), file, nullptr);
      }
    }
    ERR_clear_error();
    return context;
  }();
  return kContext.get();
}

/// TLS over memory buffers, so that all socket I/O keeps its deadlines and raises no SIGPIPE.
class TlsStream : public Stream {
 public:
  TlsStream(Socket& socket, const Url& url) : socket_(socket) {
    SSL_CTX* context = client_context();
    if (context) ssl_.reset(SSL_new(context));
    in_ = BIO_new(BIO_s_mem());
    out_ = BIO_new(BIO_s_mem());
    if (!ssl_ || !in_ || !out_) {
      BIO_free(in_);
      BIO_free(out_);
      throw permanent("TLS could not be set up");
    }
    SSL_set_bio(ssl_.get(), in_, out_);  // owns both from here
    X509_VERIFY_PARAM* verify = SSL_get0_param(ssl_.get());
    X509_VERIFY_PARAM_set_hostflags(verify, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    const bool numeric = parse_ip(url.host).has_value();
    const int named = numeric ? X509_VERIFY_PARAM_set1_ip_asc(verify, url.host.c_str())
                              : X509_VERIFY_PARAM_set1_host(verify, url.host.c_str(), 0);
    if (!numeric) SSL_set_tlsext_host_name(ssl_.get(), url.host.c_str());
    if (named != 1) throw permanent("TLS could not be set up for this host name");
    run([&] { return SSL_connect(ssl_.get()); });
  }

  size_t read_some(uint8_t* out, size_t size) override {
    return run([&] { return SSL_read(ssl_.get(), out, static_cast<int>(size)); });
  }
  void write_all(const uint8_t* data, size_t size) override {
    run([&] { return SSL_write(ssl_.get(), data, static_cast<int>(size)); });
  }

 private:
  /// Repeats `call` while it wants bytes; 0 at the end of the connection.
  template <typename Call>
  size_t run(Call call) {
    for (;;) {
      ERR_clear_error();
      const int done = call();
      const int error = SSL_get_error(ssl_.get(), done);
      flush();
      if (done > 0) return static_cast<size_t>(done);
      if (error == SSL_ERROR_ZERO_RETURN) return 0;
      if (error != SSL_ERROR_WANT_READ) {
        if (SSL_get_verify_result(ssl_.get()) != X509_V_OK) {
          throw permanent(
              "the host's certificate is not valid for it, or its issuer is not trusted");
        }
        throw transient("the TLS connection to the host failed");
      }
      uint8_t buffer[kReadBytes / 4];
      const size_t got = socket_.read_some(buffer, sizeof(buffer));
      if (got == 0) throw transient("the host closed the connection");  // without TLS's own goodbye
      BIO_write(in_, buffer, static_cast<int>(got));
    }
  }

  void flush() {
    uint8_t buffer[kReadBytes / 4];
    int got = 0;
    while ((got = BIO_read(out_, buffer, sizeof(buffer))) > 0) {
      socket_.write_all(buffer, static_cast<size_t>(got));
    }
  }

  Socket& socket_;
  Ssl ssl_;
  BIO* in_ = nullptr;
  BIO* out_ = nullptr;
};

std::string request_text(const Url& url) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: videre/" VIDERE_VERSION
                     "\r\nAccept: */*\r\nAccept-Encoding: identity\r\nConnection: close\r\n\r\n",
                     url.target, url.authority());
}

bool is_redirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

/// Feeds bytes to the parser until the part `ready` names is there.
template <typename Parser, typename Ready>
void read_until(Stream& stream, Parser& parser, std::vector<uint8_t>& pending,
                const HttpLimits& limits, Ready ready) {
  while (!ready()) {
    boost::system::error_code error;
    size_t used = 0;
    if (!pending.empty()) used = parser.put(boost::asio::buffer(pending), error);
    pending.erase(pending.begin(), pending.begin() + static_cast<std::ptrdiff_t>(used));
    if (error == http::error::body_limit) {
      throw HttpFailure{
          make_error(ErrorCode::kTooLarge, "", "the file behind the URL is larger than {} bytes",
                     limits.max_body_bytes),
          false};
    }
    if (error && error != http::error::need_more) {
      throw permanent("the host's answer is no valid HTTP");
    }
    if (ready() || (used > 0 && !pending.empty())) continue;
    const size_t kept = pending.size();
    pending.resize(kept + kReadBytes);
    const size_t got = stream.read_some(pending.data() + kept, kReadBytes);
    pending.resize(kept + got);
    if (got > 0) continue;
    parser.put_eof(error);
    if (error) throw transient("the host closed the connection in the middle of its answer");
    if (!ready()) throw transient("the host closed the connection without an answer");
  }
}

HttpResponse exchange(Stream& stream, const Url& url, const HttpLimits& limits) {
  const std::string request = request_text(url);
  stream.write_all(reinterpret_cast<const uint8_t*>(request.data()), request.size());
  HttpResponse response;
  std::vector<uint8_t> pending;  // received, not yet parsed
  for (;;) {
    http::parser<false, http::vector_body<uint8_t>> parser;
    parser.header_limit(kMaxHeaderBytes);
    parser.body_limit(static_cast<uint64_t>(limits.max_body_bytes));
    parser.eager(true);
    read_until(stream, parser, pending, limits, [&] { return parser.is_header_done(); });
    response.status = parser.get().result_int();
    if (response.status >= 100 && response.status < 200) continue;  // interim; the real one follows
    if (is_redirect(response.status)) {
      response.location = std::string(parser.get()[http::field::location]);
    }
    if (response.status != 200) return response;
    read_until(stream, parser, pending, limits, [&] { return parser.is_done(); });
    response.body = std::move(parser.get().body());
    return response;
  }
}

}  // namespace

HttpOutcome http_get(const Url& url, const IpAddress& address, const HttpLimits& limits) {
  HttpOutcome outcome;
  try {
    Socket socket(limits);
    socket.connect(address, url.port);
    if (url.scheme == "https") {
      TlsStream stream(socket, url);
      outcome.response = exchange(stream, url, limits);
    } else {
      PlainStream stream(socket);
      outcome.response = exchange(stream, url, limits);
    }
  } catch (HttpFailure& failure) {
    outcome.failure = std::move(failure);
  } catch (const std::exception&) {  // memory, and what Beast may throw
    outcome.failure = permanent("the host's answer could not be read");
  }
  return outcome;
}

}  // namespace videre
