// One HTTP/1.1 GET over TCP or TLS to an address that was already chosen and checked, under
// deadlines. Redirects, retries and address rules are fetch.h's.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "media/url.h"
#include "videre/result.h"

namespace videre {

struct HttpLimits {
  using Clock = std::chrono::steady_clock;
  Clock::time_point connect_deadline;  // name of the phase that ends when the socket is open
  Clock::time_point deadline;          // of everything
  int64_t max_body_bytes = 0;
  double stall_s = 10;                        // longest wait for the next bytes
  const std::atomic<bool>* cancel = nullptr;  // may be null
};

struct HttpResponse {
  int status = 0;
  std::string location;       // of a redirect, else ""
  std::vector<uint8_t> body;  // read for status 200 only
};

/// How a GET failed. `transient` failures (time, connection) are worth another try.
struct HttpFailure {
  Error error;
  bool transient = false;
};

/// Either a response or `failure`. Sends no credentials and no cookies; takes no compressed body.
struct HttpOutcome {
  HttpResponse response;
  std::optional<HttpFailure> failure;
};

/// Dials `address`, whatever `url.host` would resolve to; the host is used for the Host header, SNI
/// and the certificate check (system trust store, SSL_CERT_FILE and SSL_CERT_DIR).
HttpOutcome http_get(const Url& url, const IpAddress& address, const HttpLimits& limits);

}  // namespace videre
