#include "media/fetch.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <thread>

namespace videre {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// Key and self-signed certificate for "localhost", trusted by this process through SSL_CERT_FILE.
struct Certificate {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* x509 = X509_new();
  std::string path =
      testing::TempDir() + "videre_fetch_test_" + std::to_string(::getpid()) + ".pem";

  Certificate() {
    ASN1_INTEGER_set(X509_get_serialNumber(x509), 1);
    X509_set_version(x509, 2);
    X509_gmtime_adj(X509_getm_notBefore(x509), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x509), 3600);
    X509_set_pubkey(x509, key);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(x509), "CN", MBSTRING_ASC,
                               reinterpret_cast<const uint8_t*>("localhost"), -1, -1, 0);
    X509_set_issuer_name(x509, X509_get_subject_name(x509));
    X509_EXTENSION* names =
        X509V3_EXT_conf_nid(nullptr, nullptr, NID_subject_alt_name, "DNS:localhost");
    X509_add_ext(x509, names, -1);
    X509_EXTENSION_free(names);
    X509_sign(x509, key, EVP_sha256());
    FILE* file = std::fopen(path.c_str(), "w");
    PEM_write_X509(file, x509);
    std::fclose(file);
    ::setenv("SSL_CERT_FILE", path.c_str(), 1);  // before the client's first TLS connection
  }
  ~Certificate() {
    X509_free(x509);
    EVP_PKEY_free(key);
    ::unlink(path.c_str());
  }
};
const Certificate kCertificate;

/// Answers each connection on a loopback port with the bytes `reply` makes of the request target.
class LoopbackServer {
 public:
  using Reply = std::function<std::string(const std::string& target)>;

  explicit LoopbackServer(Reply reply, bool tls = false) : reply_(std::move(reply)) {
    if (tls) {
      context_ = SSL_CTX_new(TLS_server_method());
      SSL_CTX_use_certificate(context_, kCertificate.x509);
      SSL_CTX_use_PrivateKey(context_, kCertificate.key);
    }
    listener_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof(address);
    ::bind(listener_, reinterpret_cast<sockaddr*>(&address), length);
    ::listen(listener_, 16);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port = ntohs(address.sin_port);
    thread_ = std::thread([this] { serve(); });
  }
  ~LoopbackServer() {
    stop_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    thread_.join();
    ::close(listener_);
    SSL_CTX_free(context_);
  }
  std::string url(const std::string& target, const std::string& host = "127.0.0.1") const {
    return std::string(context_ ? "https" : "http") + "://" + host + ":" + std::to_string(port) +
           target;
  }

  uint16_t port = 0;
  std::atomic<int> num_requests{0};
  std::string last_request;

 private:
  void serve() {
    while (!stop_) {
      const int fd = ::accept(listener_, nullptr, nullptr);
      if (fd < 0) continue;
      const timeval patience{2, 0};
      ::setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
      ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
      SSL* ssl = context_ ? SSL_new(context_) : nullptr;
      if (ssl) SSL_set_fd(ssl, fd);
      if (!ssl || SSL_accept(ssl) == 1) answer(fd, ssl);
      if (ssl) SSL_shutdown(ssl);
      SSL_free(ssl);
      ::close(fd);
    }
  }
  void answer(int fd, SSL* ssl) {
    std::string request;
    char buffer[4096];
    while (request.find("\r\n\r\n") == std::string::npos) {
      const auto got =
          ssl ? SSL_read(ssl, buffer, sizeof(buffer)) : ::recv(fd, buffer, sizeof(buffer), 0);
      if (got <= 0) return;
      request.append(buffer, static_cast<size_t>(got));
    }
    last_request = request;
    ++num_requests;
    const size_t start = request.find(' ') + 1;
    const std::string answer = reply_(request.substr(start, request.find(' ', start) - start));
    for (size_t sent = 0; sent < answer.size() && !stop_;) {
      const auto n =
          ssl ? SSL_write(ssl, answer.data() + sent, static_cast<int>(answer.size() - sent))
              : ::send(fd, answer.data() + sent, answer.size() - sent, MSG_NOSIGNAL);
      if (n <= 0) return;
      sent += static_cast<size_t>(n);
    }
  }

  Reply reply_;
  int listener_ = -1;
  SSL_CTX* context_ = nullptr;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

std::string ok(const std::string& body) {
  return "HTTP/1.1 200 OK\r\nContent-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}
std::string redirect(const std::string& to, int status = 302) {
  return "HTTP/1.1 " + std::to_string(status) + " Moved\r\nLocation: " + to +
         "\r\nContent-Length: 0\r\n\r\n";
}

FetchOptions local_options() {
  FetchOptions options;
  options.allow_private_hosts = true;
  options.image_timeout_s = 2;
  options.retry_pause_s = 0.01;
  return options;
}

Resolver resolver_to(std::vector<std::string> addresses) {
  return [addresses](const std::string&) -> Result<std::vector<IpAddress>> {
    std::vector<IpAddress> result;
    for (const auto& address : addresses) result.push_back(*parse_ip(address));
    return result;
  };
}

std::string text_of(const Result<MediaBytes>& media) {
  if (!media.ok()) return "error: " + media.error().message;
  return std::string(media->bytes().begin(), media->bytes().end());
}

Result<MediaBytes> get(const FetchOptions& options, const std::string& url) {
  return make_fetcher(options, resolver_to({"127.0.0.1"}))->fetch(url, MediaKind::kImage, nullptr);
}

TEST(Fetch, ReadsBodiesOfEveryFraming) {
  LoopbackServer server([](const std::string& target) -> std::string {
    if (target == "/chunked") {
      return "HTTP/1.1 200 OK\r\nTransfer-Encoding: "
             "chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    }
    if (target == "/close") return "HTTP/1.0 200 OK\r\n\r\nuntil the end";
    if (target == "/interim") return "HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + ok("real");
    return ok(std::string(300'000, 'x'));
  });
  EXPECT_EQ(text_of(get(local_options(), server.url("/chunked"))), "abcde");
  EXPECT_EQ(text_of(get(local_options(), server.url("/close"))), "until the end");
  EXPECT_EQ(text_of(get(local_options(), server.url("/interim"))), "real");
  EXPECT_EQ(text_of(get(local_options(), server.url("/big"))).size(), 300'000u);
  EXPECT_EQ(server.last_request.find("Cookie"), std::string::npos);
  EXPECT_EQ(server.last_request.find("Authorization"), std::string::npos);
  EXPECT_NE(server.last_request.find("Host: 127.0.0.1:"), std::string::npos);
}

TEST(Fetch, StopsAtTheSizeLimit) {
  LoopbackServer server([](const std::string& target) -> std::string {
    if (target == "/said") return "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nx";
    if (target == "/chunked") {
      return "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\n" +
             std::string(4096, 'x') + "\r\n0\r\n\r\n";
    }
    return "HTTP/1.0 200 OK\r\n\r\n" + std::string(1 << 20, 'x');
  });
  FetchOptions options = local_options();
  options.max_image_bytes = 1000;
  for (const char* target : {"/said", "/chunked", "/close"}) {
    const auto media = get(options, server.url(target));
    ASSERT_FALSE(media.ok()) << target;
    EXPECT_EQ(media.error().code, ErrorCode::kTooLarge) << target;
  }
  EXPECT_EQ(server.num_requests, 3);  // not tried again
}

TEST(Fetch, RetriesWhatMayPass) {
  int failures = 2;
  LoopbackServer server([&](const std::string& target) -> std::string {
    if (target == "/missing") return "HTTP/1.1 404 No\r\nContent-Length: 11\r\n\r\nsecret text";
    if (target == "/broken") return "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc";
    if (failures-- > 0) return "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
    return ok("at last");
  });
  EXPECT_EQ(text_of(get(local_options(), server.url("/"))), "at last");
  EXPECT_EQ(server.num_requests, 3);
  const auto missing = get(local_options(), server.url("/missing"));
  EXPECT_EQ(server.num_requests, 4);
  ASSERT_FALSE(missing.ok());
  EXPECT_NE(missing.error().message.find("404"), std::string::npos);
  EXPECT_EQ(missing.error().message.find("secret"), std::string::npos);
  FetchOptions options = local_options();
  options.max_retries = 1;
  EXPECT_FALSE(get(options, server.url("/broken")).ok());
  EXPECT_EQ(server.num_requests, 6);
}

TEST(Fetch, RefusesAnswersThatAreNotHttp) {
  LoopbackServer server([](const std::string& target) -> std::string {
    if (target == "/junk") return "SSH-2.0-x\r\n\r\n";
    if (target == "/headers")
      return "HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'y') + "\r\n\r\n";
    if (target == "/empty") return ok("");
    return "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n";
  });
  for (const char* target : {"/junk", "/headers", "/empty", "/negative"}) {
    EXPECT_FALSE(get(local_options(), server.url(target)).ok()) << target;
  }
}

TEST(Fetch, GivesUpInTimeAndOnCancel) {
  LoopbackServer server([](const std::string&) -> std::string {
    std::this_thread::sleep_for(700ms);
    return "";
  });
  FetchOptions options = local_options();
  options.image_timeout_s = 0.1;
  options.max_retries = 0;
  auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(get(options, server.url("/")).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 500ms);
  options.image_timeout_s = 30;
  std::atomic<bool> cancel{false};
  std::thread canceller([&] {
    std::this_thread::sleep_for(100ms);
    cancel = true;
  });
  begin = std::chrono::steady_clock::now();
  const auto media = make_fetcher(options)->fetch(server.url("/"), MediaKind::kVideo, &cancel);
  canceller.join();
  ASSERT_FALSE(media.ok());
  EXPECT_EQ(media.error().code, ErrorCode::kCancelled);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 1s);
}

TEST(Fetch, BoundsTheTimeOfLookUps) {
  FetchOptions options = local_options();
  options.image_timeout_s = 0.1;
  options.max_retries = 0;
  auto fetcher = make_fetcher(options, [](const std::string&) -> Result<std::vector<IpAddress>> {
    std::this_thread::sleep_for(600ms);
    return std::vector<IpAddress>{};
  });
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(fetcher->fetch("http://slow.example/", MediaKind::kImage, nullptr).ok());
  EXPECT_LT(std::chrono::steady_clock::now() - begin, 400ms);
}

TEST(Fetch, FollowsRedirectsWithinTheRules) {
  LoopbackServer server([](const std::string& target) -> std::string {
    if (target == "/done") return ok("arrived");
    if (target == "/loop") return redirect("/loop");
    if (target == "/file") return redirect("file:///etc/passwd");
    if (target == "/at") return redirect("http://a@b/");
    if (target == "/permanent") return redirect("done", 308);
    if (target == "/none") return "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\n";
    return redirect("/done");
  });
  EXPECT_EQ(text_of(get(local_options(), server.url("/start"))), "arrived");
  EXPECT_EQ(text_of(get(local_options(), server.url("/permanent"))), "arrived");
  for (const char* target : {"/loop", "/file", "/at", "/none"}) {
    EXPECT_FALSE(get(local_options(), server.url(target)).ok()) << target;
  }
  FetchOptions options = local_options();
  options.allow_redirects = false;
  const auto refused = get(options, server.url("/start"));
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.error().code, ErrorCode::kForbidden);
}

TEST(Fetch, RefusesPrivateAddresses) {
  LoopbackServer server([](const std::string&) { return ok("inside"); });
  const std::string port = ":" + std::to_string(server.port) + "/";
  for (const char* host :
       {"127.0.0.1", "localhost", "LOCALHOST.", "127.1", "0x7f000001", "2130706433", "0177.0.0.1",
        "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "[::]", "169.254.169.254",
        "metadata.google.internal", "10.0.0.1", "good.example@127.0.0.1",
        "good.example\\@127.0.0.1"}) {
    const auto media =
        make_fetcher(FetchOptions{}, resolver_to({"127.0.0.1"}))
            ->fetch(std::string("http://") + host + port, MediaKind::kImage, nullptr);
    ASSERT_FALSE(media.ok()) << host;
    EXPECT_EQ(text_of(media).find("inside"), std::string::npos);
  }
  // A name with one public and one private address, as in DNS rebinding.
  EXPECT_FALSE(make_fetcher(FetchOptions{}, resolver_to({"93.184.216.34", "127.0.0.1"}))
                   ->fetch("http://mixed.example" + port, MediaKind::kImage, nullptr)
                   .ok());
  EXPECT_EQ(server.num_requests, 0);
}

TEST(Fetch, ChecksEveryHopAndDialsWhatItChecked) {
  int num_lookups = 0;
  LoopbackServer server([](const std::string&) { return ok("here"); });
  // The second look-up would be a different address; there must be no second look-up.
  Resolver rebinding = [&](const std::string&) -> Result<std::vector<IpAddress>> {
    return std::vector<IpAddress>{*parse_ip(num_lookups++ == 0 ? "127.0.0.1" : "10.255.255.1")};
  };
  const auto media = make_fetcher(local_options(), rebinding)
                         ->fetch(server.url("/", "name.example"), MediaKind::kImage, nullptr);
  EXPECT_EQ(text_of(media), "here");
  EXPECT_EQ(num_lookups, 1);
}

TEST(Fetch, HoldsToTheListOfDomains) {
  LoopbackServer server([](const std::string& target) -> std::string {
    return target == "/away" ? redirect("http://other.example/") : ok("listed");
  });
  FetchOptions options = local_options();
  options.allowed_media_domains = {"Good.Example."};
  EXPECT_EQ(text_of(get(options, server.url("/", "GOOD.example."))), "listed");
  for (const std::string& url :
       {server.url("/", "other.example"), server.url("/", "sub.good.example"),
        server.url("/", "good.example.evil.example"), server.url("/away", "good.example")}) {
    const auto media = get(options, url);
    ASSERT_FALSE(media.ok()) << url;
    EXPECT_EQ(media.error().code, ErrorCode::kForbidden) << url;
  }
}

TEST(Fetch, ChecksCertificates) {
  LoopbackServer server(
      [](const std::string& target) -> std::string {
        return target == "/down" ? redirect("http://localhost/") : ok("over TLS");
      },
      true);
  EXPECT_EQ(text_of(get(local_options(), server.url("/", "localhost"))), "over TLS");
  const auto wrong_name = get(local_options(), server.url("/", "other.example"));
  ASSERT_FALSE(wrong_name.ok());
  EXPECT_NE(wrong_name.error().message.find("certificate"), std::string::npos);
  EXPECT_FALSE(get(local_options(), server.url("/", "127.0.0.1")).ok());
  EXPECT_EQ(get(local_options(), server.url("/down", "localhost")).error().code,
            ErrorCode::kForbidden);
}

TEST(Fetch, RefusesOtherSchemesAndLongUrls) {
  for (const std::string& url :
       {std::string("ftp://example.com/x"), std::string("gopher://x"), std::string("/etc/passwd"),
        std::string(""), "http://example.com/" + std::string(9000, 'x')}) {
    EXPECT_FALSE(get(FetchOptions{}, url).ok());
  }
  EXPECT_EQ(text_of(get(FetchOptions{}, "data:image/png;base64,TWFu")), "Man");
}

class FileUrl : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/videre_file_url_XXXXXX";
    base_ = fs::canonical(::mkdtemp(name));
    fs::create_directories(base_ / "root/sub");
    fs::create_directories(base_ / "root-evil");
    for (const char* file : {"root/a.png", "root/sub/b c.png", "outside.png", "root-evil/x.png"}) {
      std::ofstream(base_ / file) << file;
    }
    std::ofstream(base_ / "root/empty.png");
    fs::create_symlink(base_ / "outside.png", base_ / "root/out.png");
    fs::create_symlink("../outside.png", base_ / "root/out2.png");
    fs::create_symlink(base_ / "root/a.png", base_ / "root/in.png");
    fs::create_symlink(base_, base_ / "root/up");
    fs::create_symlink("loop", base_ / "root/loop");
    fs::create_symlink(base_ / "root", base_ / "link");
    fs::create_symlink(base_ / "root/a.png", base_ / "into.png");
    ::mkfifo((base_ / "root/fifo").c_str(), 0600);
  }
  void TearDown() override { fs::remove_all(base_); }

  Result<MediaBytes> open(const std::string& url, const std::string& root = "root") {
    FetchOptions options;
    options.allowed_local_media_path = root.empty()     ? ""
                                       : root[0] == '/' ? root
                                                        : (base_ / root).string();
    options.max_image_bytes = 1000;
    return make_fetcher(options)->fetch(url, MediaKind::kImage, nullptr);
  }
  std::string path(const std::string& below) { return base_.string() + "/" + below; }

  fs::path base_;
};

TEST_F(FileUrl, ReadsFilesBelowTheRoot) {
  EXPECT_EQ(text_of(open("file://" + path("root/a.png"))), "root/a.png");
  EXPECT_EQ(text_of(open("FILE://LocalHost" + path("root/a.png"))), "root/a.png");
  EXPECT_EQ(text_of(open("file://" + path("root/sub/b%20c.png"))), "root/sub/b c.png");
  EXPECT_EQ(text_of(open("file://" + path("root/sub/../a.png"))), "root/a.png");
  EXPECT_EQ(text_of(open("file://" + path("root/in.png"))), "root/a.png");
  EXPECT_EQ(text_of(open("file://" + path("into.png"))), "root/a.png");  // resolves to inside
  EXPECT_EQ(text_of(open("file://" + path("root/a.png"), "link")), "root/a.png");
  EXPECT_EQ(text_of(open("file://" + path("link/a.png"), "link")), "root/a.png");
  EXPECT_EQ(text_of(open("file://" + path("outside.png"), "/")), "outside.png");
}

TEST_F(FileUrl, RefusesEverythingElse) {
  const std::string root = path("root");
  for (const std::string& url : {"file://" + path("outside.png"),
                                 "file://" + root + "/../outside.png",
                                 "file://" + root + "/%2e%2e/outside.png",
                                 "file://" + root + "/..%2foutside.png",
                                 "file://" + root + "/sub/../../outside.png",
                                 "file://" + root + "/out.png",
                                 "file://" + root + "/out2.png",
                                 "file://" + root + "/up/outside.png",
                                 "file://" + path("root-evil/x.png"),
                                 "file://" + root,
                                 "file://" + root + "/",
                                 "file://" + root + "/.",
                                 "file://" + root + "/sub",
                                 "file://" + root + "/fifo",
                                 "file://" + root + "/loop",
                                 "file://" + root + "/missing.png",
                                 "file://" + root + "/empty.png",
                                 "file://" + root + "/a.png/",
                                 "file://" + root + "/a.png%00.jpg",
                                 "file://" + root + "/a.png%",
                                 "file://host" + root + "/a.png",
                                 "file:" + root + "/a.png",
                                 std::string("file://"),
                                 std::string("file:///"),
                                 std::string("file:///etc/passwd"),
                                 std::string("file:///proc/self/environ"),
                                 "file://" + root + "/" + std::string(5000, 'x')}) {
    const auto media = open(url);
    ASSERT_FALSE(media.ok()) << url;
    EXPECT_EQ(media.error().message.find(base_.string()), std::string::npos) << "echoes a path";
  }
  // Inside, a missing file is said to be missing; outside, it looks like one that exists.
  EXPECT_EQ(open("file://" + root + "/missing.png").error().code, ErrorCode::kInvalidArgument);
  const auto there = open("file://" + path("outside.png"));
  const auto not_there = open("file://" + path("nowhere.png"));
  EXPECT_EQ(there.error().code, ErrorCode::kForbidden);
  EXPECT_EQ(not_there.error().code, ErrorCode::kForbidden);
  EXPECT_EQ(there.error().message, not_there.error().message);
  EXPECT_FALSE(open("file://" + root + "/a.png", "").ok());
  for (const char* special :
       {"file:///proc/self/environ", "file:///proc/self/root/proc/version", "file:///dev/zero",
        "file:///dev/stdin", "file:///sys/kernel/notes"}) {
    EXPECT_FALSE(open(special, "/").ok()) << special;
  }
}

TEST_F(FileUrl, HoldsToTheSizeLimit) {
  std::ofstream(base_ / "root/big.png") << std::string(1001, 'x');
  EXPECT_EQ(open("file://" + path("root/big.png")).error().code, ErrorCode::kTooLarge);
}

TEST_F(FileUrl, ChecksTheRootAtTheStart) {
  EXPECT_TRUE(check_local_media_root("").ok());
  EXPECT_TRUE(check_local_media_root(path("root")).ok());
  EXPECT_FALSE(check_local_media_root(path("outside.png")).ok());
  EXPECT_FALSE(check_local_media_root(path("missing")).ok());
}

TEST(FetchOptionsTest, ReadsTheEnvironment) {
  ::setenv("VLLM_IMAGE_FETCH_TIMEOUT", "7", 1);
  ::setenv("VLLM_VIDEO_FETCH_TIMEOUT", "8", 1);
  ::setenv("VIDERE_VIDEO_FETCH_TIMEOUT", "9.5", 1);
  ::setenv("VLLM_MEDIA_FETCH_MAX_RETRIES", "nonsense", 1);
  ::setenv("VLLM_MEDIA_URL_ALLOW_REDIRECTS", "0", 1);
  const FetchOptions options = FetchOptions::from_environment();
  for (const char* name :
       {"VLLM_IMAGE_FETCH_TIMEOUT", "VLLM_VIDEO_FETCH_TIMEOUT", "VIDERE_VIDEO_FETCH_TIMEOUT",
        "VLLM_MEDIA_FETCH_MAX_RETRIES", "VLLM_MEDIA_URL_ALLOW_REDIRECTS"}) {
    ::unsetenv(name);
  }
  EXPECT_EQ(options.image_timeout_s, 7);
  EXPECT_EQ(options.video_timeout_s, 9.5);
  EXPECT_EQ(options.max_retries, 3);
  EXPECT_FALSE(options.allow_redirects);
}

}  // namespace
}  // namespace videre
