#include "media/fetch.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <system_error>
#include <thread>

#include "base/error.h"
#include "base/log.h"
#include "media/data_url.h"
#include "media/http_client.h"
#include "media/local_file.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kRetryGrowth = 4;  // of time-out and pause, a try

Clock::duration seconds(double s) {
  return std::chrono::duration_cast<Clock::duration>(
      std::chrono::duration<double>(std::clamp(s, 0.0, 1e6)));
}

Error cancelled() { return make_error(ErrorCode::kCancelled, "", "the request was cancelled"); }
bool is_set(const std::atomic<bool>* cancel) {
  return cancel && cancel->load(std::memory_order_relaxed);
}

Result<std::vector<IpAddress>> resolve_by_system(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* list = nullptr;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &list) != 0) {
    return invalid_argument("", "the URL's host name could not be resolved");
  }
  std::vector<IpAddress> addresses;
  for (const addrinfo* entry = list; entry; entry = entry->ai_next) {
    IpAddress address;
    if (entry->ai_family == AF_INET) {
      const auto* v4 = reinterpret_cast<const sockaddr_in*>(entry->ai_addr);
      std::memcpy(address.bytes.data(), &v4->sin_addr, 4);
    } else if (entry->ai_family == AF_INET6) {
      address.is_ipv6 = true;
      const auto* v6 = reinterpret_cast<const sockaddr_in6*>(entry->ai_addr);
      std::memcpy(address.bytes.data(), &v6->sin6_addr, 16);
    } else {
      continue;
    }
    addresses.push_back(address);
  }
  ::freeaddrinfo(list);
  return addresses;
}

std::string normalised_domain(std::string_view name) {
  if (name.ends_with('.')) name.remove_suffix(1);
  std::string result(name);
  for (char& c : result) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + 32);
  }
  return result;
}

/// A look-up on a thread of its own, since the system's has no deadline. The thread outlives a
/// caller that gave up, and ends with the look-up.
class Lookup {
 public:
  static Result<std::vector<IpAddress>> run(const Resolver& resolver, const std::string& host,
                                            Clock::time_point deadline,
                                            const std::atomic<bool>* cancel) {
    auto state = std::make_shared<State>();
    try {
      std::thread([state, resolver, host] {
        auto answer = resolver(host);
        const std::lock_guard guard(state->mutex);
        state->answer = std::move(answer);
        state->done.notify_all();
      }).detach();
    } catch (const std::system_error&) {
      return internal_error("no thread could be started to resolve the URL's host name");
    }
    std::unique_lock lock(state->mutex);
    while (!state->answer) {
      if (is_set(cancel)) return cancelled();
      if (Clock::now() >= deadline) {
        return invalid_argument("", "the URL's host name could not be resolved in time");
      }
      state->done.wait_until(lock,
                             std::min(deadline, Clock::now() + std::chrono::milliseconds(50)));
    }
    return std::move(*state->answer);
  }

 private:
  struct State {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<std::vector<IpAddress>>> answer;
  };
};

class UrlFetcher : public Fetcher {
 public:
  UrlFetcher(FetchOptions options, Resolver resolver)
      : options_(std::move(options)), resolver_(std::move(resolver)) {
    for (std::string& domain : options_.allowed_media_domains) domain = normalised_domain(domain);
  }

  Result<MediaBytes> fetch(const std::string& url, MediaKind kind,
                           const std::atomic<bool>* cancel) override {
    const bool video = kind == MediaKind::kVideo;
    const int64_t max_bytes = video ? options_.max_video_bytes : options_.max_image_bytes;
    const std::string scheme = url_scheme(std::string_view(url).substr(0, 16));
    if (scheme == "data") return parse_data_url(url, max_bytes, video);
    if (static_cast<int64_t>(url.size()) > options_.max_url_bytes) {
      return make_error(ErrorCode::kTooLarge, "", "the URL has {} bytes; at most {} are taken",
                        url.size(), options_.max_url_bytes);
    }
    if (scheme == "file") {
      return read_file_url(url, options_.allowed_local_media_path, max_bytes);
    }
    VIDERE_ASSIGN_OR_RETURN(const Url parsed, parse_http_url(url));
    return fetch_http(parsed, video ? options_.video_timeout_s : options_.image_timeout_s,
                      max_bytes, cancel);
  }

 private:
  /// Tries, and tries again after failures that may pass.
  Result<MediaBytes> fetch_http(const Url& url, double timeout_s, int64_t max_bytes,
                                const std::atomic<bool>* cancel) {
    const auto end = Clock::now() + seconds(options_.total_timeout_s);
    double pause_s = options_.retry_pause_s;
    for (int attempt = 0;; ++attempt) {
      HttpLimits limits;
      limits.deadline = std::min(end, Clock::now() + seconds(timeout_s));
      limits.max_body_bytes = max_bytes;
      limits.cancel = cancel;
      auto outcome = follow(url, limits);
      if (!outcome.failure) return MediaBytes(std::move(outcome.response.body));
      const HttpFailure& failure = *outcome.failure;
      const auto resume = Clock::now() + seconds(pause_s);
      if (!failure.transient || attempt >= options_.max_retries || resume >= end) {
        return failure.error;
      }
      while (Clock::now() < resume) {
        if (is_set(cancel)) return cancelled();
        std::this_thread::sleep_until(
            std::min(resume, Clock::now() + std::chrono::milliseconds(50)));
      }
      timeout_s *= kRetryGrowth;
      pause_s *= kRetryGrowth;
    }
  }

  /// One try: the URL and every redirect after it, each checked from scratch.
  HttpOutcome follow(Url url, HttpLimits limits) {
    for (int hop = 0;; ++hop) {
      auto addresses = allowed_addresses(url, limits);
      if (!addresses.ok()) return failed(addresses.error());
      HttpOutcome outcome;
      for (const IpAddress& address : *addresses) {
        limits.connect_deadline = Clock::now() + seconds(options_.connect_timeout_s);
        outcome = http_get(url, address, limits);
        if (!outcome.failure || !outcome.failure->transient) break;
        if (Clock::now() >= limits.deadline) break;
      }
      if (outcome.failure) return outcome;
      const HttpResponse& response = outcome.response;
      if (response.status == 200) {
        if (response.body.empty())
          return failed(invalid_argument("", "the URL answered with no data"));
        return outcome;
      }
      if (response.location.empty()) return failed_status(response.status);
      auto next = next_hop(url, response.location, hop);
      if (!next.ok()) return failed(next.error());
      url = std::move(next).value();
    }
  }

  static HttpOutcome failed(Error error, bool transient = false) {
    HttpOutcome outcome;
    outcome.failure = HttpFailure{std::move(error), transient};
    return outcome;
  }
  static HttpOutcome failed_status(int status) {
    return failed(invalid_argument("", "the URL answered with status {}; expected 200", status),
                  status >= 500 && status < 600);
  }

  Result<Url> next_hop(const Url& from, const std::string& location, int hop) const {
    if (!options_.allow_redirects) {
      return make_error(ErrorCode::kForbidden, "", "the URL redirects, which this server refuses");
    }
    if (hop >= options_.max_redirects) {
      return invalid_argument("", "the URL redirects more than {} times", options_.max_redirects);
    }
    if (static_cast<int64_t>(location.size()) > options_.max_url_bytes) {
      return invalid_argument("", "the URL redirects to one that is too long");
    }
    VIDERE_ASSIGN_OR_RETURN(Url next, resolve_redirect(from, location));
    if (from.scheme == "https" && next.scheme == "http") {
      return make_error(ErrorCode::kForbidden, "",
                        "the URL redirects from https to http, which is refused");
    }
    return next;
  }

  /// The addresses of the URL's host; an error when the host, or any address of it, may not be
  /// reached. (Any, not all: a name that mixes public and private addresses is an attack.)
  Result<std::vector<IpAddress>> allowed_addresses(const Url& url, const HttpLimits& limits) const {
    const auto& domains = options_.allowed_media_domains;
    if (!domains.empty() && std::find(domains.begin(), domains.end(), url.host) == domains.end()) {
      return make_error(ErrorCode::kForbidden, "",
                        "the URL's host is not among --allowed-media-domains");
    }
    const auto refused = [] {
      return make_error(
          ErrorCode::kForbidden, "",
          "the URL's host has a private or reserved address; fetching from those is off "
          "unless the server runs with --allow-private-media-hosts");
    };
    if (!options_.allow_private_hosts && is_metadata_host(url.host)) return refused();
    std::vector<IpAddress> addresses;
    if (const auto literal = parse_ip(url.host)) {
      addresses.push_back(*literal);
    } else {
      VIDERE_ASSIGN_OR_RETURN(addresses,
                              Lookup::run(resolver_, url.host, limits.deadline, limits.cancel));
    }
    if (addresses.empty()) return invalid_argument("", "the URL's host name has no address");
    if (!options_.allow_private_hosts &&
        !std::all_of(addresses.begin(), addresses.end(), is_public_address)) {
      return refused();
    }
    return addresses;
  }

  FetchOptions options_;
  Resolver resolver_;
};

/// Value of VIDERE_<name>, else of VLLM_<name>, else null; `used` names the one found.
const char* environment(const std::string& name, std::string& used) {
  for (const char* prefix : {"VIDERE_", "VLLM_"}) {
    used = prefix + name;
    if (const char* value = std::getenv(used.c_str()); value && *value) return value;
  }
  return nullptr;
}

template <typename T>
void read_number(const std::string& name, T lowest, T highest, T& out) {
  std::string used;
  const char* text = environment(name, used);
  if (!text) return;
  T value{};
  const char* end = text + std::strlen(text);
  const auto [stop, error] = std::from_chars(text, end, value);
  if (error != std::errc() || stop != end || !(value >= lowest && value <= highest)) {
    log_warning("{} is \"{}\"; expected a number from {} to {}; {} is used", used,
                std::string_view(text).substr(0, 40), lowest, highest, out);
    return;
  }
  out = value;
}

}  // namespace

FetchOptions FetchOptions::from_environment() {
  FetchOptions options;
  read_number("IMAGE_FETCH_TIMEOUT", 0.001, 86400.0, options.image_timeout_s);
  read_number("VIDEO_FETCH_TIMEOUT", 0.001, 86400.0, options.video_timeout_s);
  read_number("MEDIA_FETCH_MAX_RETRIES", 0, 100, options.max_retries);
  int allow = options.allow_redirects;
  read_number("MEDIA_URL_ALLOW_REDIRECTS", 0, 1, allow);
  options.allow_redirects = allow != 0;
  return options;
}

std::unique_ptr<Fetcher> make_fetcher(FetchOptions options) {
  return make_fetcher(std::move(options), resolve_by_system);
}

std::unique_ptr<Fetcher> make_fetcher(FetchOptions options, Resolver resolver) {
  return std::make_unique<UrlFetcher>(std::move(options), std::move(resolver));
}

Status check_local_media_root(const std::string& path) {
  if (path.empty()) return {};
  struct stat info{};
  if (::stat(path.c_str(), &info) != 0 || !S_ISDIR(info.st_mode)) {
    return invalid_argument(
        "--allowed-local-media-path",
        "--allowed-local-media-path is {}, which is no folder; name an existing one", path);
  }
  return {};
}

}  // namespace videre
