#include "server/http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <mutex>

#include "server/test_client.h"

namespace videre {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

// What a test feeds to the one answer it looks at.
struct Script {
  std::mutex mutex;
  HttpOutput ready;
  std::function<void()> wake;
  std::atomic<int> polls{0}, idles{0}, alive{0};
  bool endless = false;

  void push(const std::string& data, bool finished = false) {
    std::function<void()> call;
    {
      std::lock_guard lock(mutex);
      ready.status = 200;
      ready.streaming = true;
      ready.data += data;
      ready.finished = finished;
      call = wake;
    }
    if (call) call();
  }
};

class ScriptResponder : public Responder {
 public:
  explicit ScriptResponder(Script& script) : script_(script) { ++script_.alive; }
  ~ScriptResponder() override { --script_.alive; }
  void poll(HttpOutput& out) override {
    ++script_.polls;
    std::function<void()> again;
    {
      std::lock_guard lock(script_.mutex);
      if (script_.ready.status) out.status = script_.ready.status;
      out.streaming = true;
      out.data += std::exchange(script_.ready.data, "");
      out.finished = script_.ready.finished;
      if (script_.endless) {
        out.status = 200;
        out.data += std::string(64 << 10, 'x');
        again = script_.wake;
      }
    }
    if (again) again();
  }
  void idle(HttpOutput& out) override {
    ++script_.idles;
    out.status = 200;
    out.data += ": ping\n\n";
  }

 private:
  Script& script_;
};

class EchoApp : public HttpApp {
 public:
  std::unique_ptr<Responder> handle(HttpRequest request, std::function<void()> wake) override {
    ++num_requests;
    if (request.path == "/script") {
      std::lock_guard lock(script.mutex);
      script.wake = std::move(wake);
      return std::make_unique<ScriptResponder>(script);
    }
    HttpOutput out;
    out.status = 200;
    out.finished = true;
    out.headers.emplace_back("X-Echo", request.header("x-say"));
    out.close = request.path == "/close";
    out.data = fmt::format(
        "{} {} {} {}", request.method, request.path, request.query,
        request.body.size() > 100 ? fmt::format("{}", request.body.size()) : request.body);
    return make_responder(std::move(out));
  }
  void refuse(int status, const std::string& message, HttpOutput& out) override {
    out.status = status;
    out.finished = true;
    out.data = message;
  }

  Script script;
  std::atomic<int> num_requests{0};
};

class HttpTest : public testing::Test {
 protected:
  void start(const HttpLimits& limits = {}) {
    auto bound = HttpServer::bind("127.0.0.1", 0, limits, &app_);
    ASSERT_TRUE(bound.ok()) << bound.error().message;
    server_ = std::move(*bound);
    server_->start();
    port_ = server_->port();
  }
  void TearDown() override {
    if (!server_) return;
    server_->stop(milliseconds(0));
    EXPECT_EQ(server_->num_connections(), 0);
    EXPECT_EQ(app_.script.alive, 0);
  }

  EchoApp app_;
  std::unique_ptr<HttpServer> server_;
  int port_ = 0;
};

TEST_F(HttpTest, KeepsAliveAndAnswersPipelinedRequestsInOrder) {
  start();
  TestClient client(port_);
  std::string burst;
  for (int i = 0; i < 50; ++i) {
    burst += fmt::format("POST /{} HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{:02}", i, i);
  }
  ASSERT_TRUE(client.send(burst));
  for (int i = 0; i < 50; ++i) {
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, 200);
    EXPECT_EQ(answer.body, fmt::format("POST /{}  {:02}", i, i));
    EXPECT_EQ(answer.header("connection"), "keep-alive");
  }
  ASSERT_TRUE(client.send_request("GET", "/a?b=c?d"));
  EXPECT_EQ(client.read_answer().body, "GET /a b=c?d ");
  EXPECT_EQ(server_->num_connections(), 1);
}

TEST_F(HttpTest, PipelinedBehindAStream) {
  start();
  TestClient client(port_);
  client.send_request("GET", "/script");
  ASSERT_TRUE(eventually([&] { return app_.script.alive == 1; }));
  client.send_request("GET", "/next");
  app_.script.push("one ");
  ASSERT_TRUE(client.read_until("one "));
  app_.script.push("two", true);
  EXPECT_EQ(client.read_answer().body, "one two");
  EXPECT_EQ(client.read_answer().body, "GET /next  ");
}

TEST_F(HttpTest, ByteByByte) {
  start();
  TestClient client(port_);
  const std::string text =
      "POST /x HTTP/1.1\r\nHost: t\r\nX-Say: hello\r\nContent-Length: 5\r\n\r\nabcde";
  for (const char c : text) {
    client.send(std::string(1, c));
    std::this_thread::sleep_for(milliseconds(1));
  }
  const ClientAnswer answer = client.read_answer();
  EXPECT_EQ(answer.body, "POST /x  abcde");
  EXPECT_EQ(answer.header("x-echo"), "hello");
}

TEST_F(HttpTest, ChunkedBodyAndHttp10AndHead) {
  start();
  {
    TestClient client(port_);
    client.send(
        "POST /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n"
        "2\r\nde\r\n0\r\nTrailer: x\r\n\r\n");
    EXPECT_EQ(client.read_answer().body, "POST /x  abcde");
    client.send_request("HEAD", "/h");
    ASSERT_TRUE(client.read_until("\r\n\r\n"));
    EXPECT_THAT(client.buffer(), HasSubstr("Content-Length: 9\r\n"));
    EXPECT_THAT(client.buffer(), testing::EndsWith("\r\n\r\n"));
  }
  {
    TestClient client(port_);
    client.send("GET /old HTTP/1.0\r\n\r\n");
    EXPECT_EQ(client.read_answer().body, "GET /old  ");
    EXPECT_TRUE(client.closed_by_peer());
  }
  {
    TestClient client(port_);
    client.send("GET /script HTTP/1.0\r\n\r\n");
    ASSERT_TRUE(eventually([&] { return app_.script.alive == 1; }));
    app_.script.push("abc", true);
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.body, "abc");
    EXPECT_EQ(answer.header("transfer-encoding"), "");
  }
  {
    TestClient client(port_);
    client.send_request("GET", "/close");
    EXPECT_EQ(client.read_answer().header("connection"), "close");
    EXPECT_TRUE(client.closed_by_peer());
  }
}

TEST_F(HttpTest, HeaderValuesCannotStartHeaders) {
  start();
  TestClient client(port_);
  client.send("GET / HTTP/1.1\r\nHost: t\r\nX-Say: a\tb\r\n\r\n");
  EXPECT_EQ(client.read_answer().header("x-echo"), "a b");
}

TEST_F(HttpTest, ExpectContinue) {
  HttpLimits limits;
  limits.body_bytes = 1000;
  start(limits);
  TestClient client(port_);
  client.send("POST /x HTTP/1.1\r\nHost: t\r\nExpect: 100-Continue\r\nContent-Length: 3\r\n\r\n");
  EXPECT_EQ(client.read_answer().status, 100);
  client.send("abc");
  EXPECT_EQ(client.read_answer().body, "POST /x  abc");
  client.send(
      "POST /x HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 3000\r\n\r\n");
  EXPECT_EQ(client.read_answer().status, 413);
  EXPECT_TRUE(client.closed_by_peer());
}

TEST_F(HttpTest, WhatIsNoRequestIsRefused) {
  HttpLimits limits;
  limits.body_bytes = 1000;
  limits.header_bytes = 8192;
  limits.header_count = 20;
  start(limits);
  std::string many;
  for (int i = 0; i < 30; ++i) many += fmt::format("X-{}: 1\r\n", i);
  const std::vector<std::pair<int, std::string>> cases = {
      {400, "nonsense\r\n\r\n"},
      {400, "GET /\r\n\r\n"},
      {400, "GET / HTTP/2.0\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\nNo colon\r\n\r\n"},
      {400, "GET / HTTP/1.1\r\n: empty\r\n\r\n"},
      {400, std::string("GET / HTTP/1.1\r\nX: a") + '\0' + "b\r\n\r\n"},
      {400, "POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"},
      {400, "POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n"},
      {400, "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"},
      {400, "POST / HTTP/1.1\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
      {400, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
      {400, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcde\r\n"},
      {413, "POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n"},
      {413, "POST / HTTP/1.1\r\nContent-Length: 99999999999999999\r\n\r\n"},
      {413, "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" +
                std::string(2000, 'x') + "\r\n0\r\n\r\n"},
      {431, "GET / HTTP/1.1\r\nX: " + std::string(9000, 'x') + "\r\n\r\n"},
      {431, "GET /" + std::string(9000, 'x') + " HTTP/1.1\r\n\r\n"},
      {431, "GET / HTTP/1.1\r\n" + many + "\r\n"},
  };
  for (const auto& [status, text] : cases) {
    TestClient client(port_);
    client.send(text);
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, status) << text.substr(0, 100);
    EXPECT_NE(answer.body, "");
    EXPECT_EQ(answer.header("connection"), "close");
    client.close();
  }
  EXPECT_EQ(app_.num_requests, 0);
  TestClient client(port_);  // and goes on
  client.send_request("GET", "/ok");
  EXPECT_EQ(client.read_answer().status, 200);
}

TEST_F(HttpTest, RefusalReachesAClientThatIsStillSending) {
  HttpLimits limits;
  limits.body_bytes = 1000;
  start(limits);
  TestClient client(port_);
  const size_t size = 30u << 20;
  client.send(fmt::format("POST / HTTP/1.1\r\nContent-Length: {}\r\n\r\n", size));
  EXPECT_TRUE(client.send(std::string(size, 'x')));
  EXPECT_EQ(client.read_answer().status, 413);
}

TEST_F(HttpTest, SlowAndIdleClientsAreClosed) {
  HttpLimits limits;
  limits.keep_alive = milliseconds(150);
  limits.header_time = milliseconds(150);
  limits.body_idle = milliseconds(150);
  start(limits);
  TestClient silent(port_), header(port_), body(port_), trickle(port_);
  header.send("GET / HTT");
  body.send("POST / HTTP/1.1\r\nContent-Length: 100\r\n\r\nabc");
  trickle.send("POST /t HTTP/1.1\r\nContent-Length: 8\r\n\r\n");
  for (int i = 0; i < 8; ++i) {  // slow, but always something
    std::this_thread::sleep_for(milliseconds(50));
    trickle.send("x");
  }
  EXPECT_EQ(trickle.read_answer().body, "POST /t  xxxxxxxx");
  EXPECT_TRUE(silent.closed_by_peer(1000));
  EXPECT_TRUE(header.closed_by_peer(1000));
  EXPECT_TRUE(body.closed_by_peer(1000));
  EXPECT_TRUE(trickle.closed_by_peer(1000));
  EXPECT_EQ(app_.num_requests, 1);
}

TEST_F(HttpTest, StreamsPieceByPieceAndPings) {
  HttpLimits limits;
  limits.keep_alive_interval = milliseconds(50);
  start(limits);
  TestClient client(port_);
  client.send_request("GET", "/script");
  ASSERT_TRUE(client.read_until(": ping\n\n"));
  app_.script.push("abc");
  ASSERT_TRUE(client.read_until("3\r\nabc\r\n"));
  app_.script.push("", true);
  EXPECT_THAT(client.read_answer().body, testing::EndsWith("abc"));
  client.send_request("GET", "/again");
  EXPECT_EQ(client.read_answer().status, 200);
}

TEST_F(HttpTest, AClientThatGoesEndsItsAnswer) {
  start();
  for (int i = 0; i < 20; ++i) {
    TestClient client(port_);
    client.send_request("GET", "/script");
    ASSERT_TRUE(eventually([&] { return app_.script.alive == 1; }));
    if (i % 2) {
      app_.script.push("some");
      ASSERT_TRUE(client.read_until("some"));
    }
    if (i % 4 < 2) {
      client.close();
    } else {
      client.reset();
    }
    EXPECT_TRUE(eventually([&] { return app_.script.alive == 0; }));
    app_.script.wake();  // a late wake finds nobody
  }
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
}

TEST_F(HttpTest, AReaderThatStopsHoldsTheWriterBackAndIsCut) {
  HttpLimits limits;
  limits.write_stall = milliseconds(300);
  start(limits);
  app_.script.endless = true;
  TestClient client(port_, 4096);
  client.send_request("GET", "/script");
  ASSERT_TRUE(eventually([&] { return app_.script.polls > 0; }));
  std::this_thread::sleep_for(milliseconds(150));
  const int polls = app_.script.polls;
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(app_.script.polls, polls);  // 64 KiB each: no more than the sockets hold
  EXPECT_LT(polls, 200);
  EXPECT_TRUE(eventually([&] { return app_.script.alive == 0; }));
}

TEST_F(HttpTest, StopGivesAnswersUnderWayTheirTime) {
  start();
  TestClient idle(port_), busy(port_);
  idle.send_request("GET", "/x");
  idle.read_answer();
  busy.send_request("GET", "/script");
  ASSERT_TRUE(eventually([&] { return app_.script.alive == 1; }));
  std::thread stopper([&] { server_->stop(milliseconds(5000)); });
  EXPECT_TRUE(idle.closed_by_peer());
  EXPECT_FALSE(TestClient(port_).connected());
  app_.script.push("last", true);
  const ClientAnswer answer = busy.read_answer();
  EXPECT_EQ(answer.body, "last");
  EXPECT_TRUE(busy.closed_by_peer());
  stopper.join();
}

TEST_F(HttpTest, StopCutsWhatDoesNotEnd) {
  start();
  TestClient busy(port_);
  busy.send_request("GET", "/script");
  ASSERT_TRUE(eventually([&] { return app_.script.alive == 1; }));
  const auto begin = std::chrono::steady_clock::now();
  server_->stop(milliseconds(100));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(1500));
  EXPECT_TRUE(busy.closed_by_peer());
}

TEST_F(HttpTest, ManyConnectionsLeaveNothingBehind) {
  start();
  {
    TestClient first(port_);
    first.send_request("GET", "/");
    first.read_answer();
  }
  ASSERT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
  const int files = num_files(), threads = num_threads();
  for (int round = 0; round < 3; ++round) {
    std::vector<std::unique_ptr<TestClient>> clients;
    for (int i = 0; i < 300; ++i) clients.push_back(std::make_unique<TestClient>(port_));
    for (auto& client : clients) client->send_request("GET", "/a");
    for (auto& client : clients) EXPECT_EQ(client->read_answer().status, 200);
    EXPECT_EQ(server_->num_connections(), 300);
    for (size_t i = 0; i < clients.size(); ++i) {
      if (i % 3 == 0) clients[i]->reset();
    }
  }
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
  EXPECT_TRUE(eventually([&] { return num_files() == files; }));
  EXPECT_EQ(num_threads(), threads);
}

TEST_F(HttpTest, NoMoreConnectionsThanAllowed) {
  HttpLimits limits;
  limits.connections = 2;
  start(limits);
  TestClient one(port_), two(port_);
  one.send_request("GET", "/");
  two.send_request("GET", "/");
  EXPECT_EQ(one.read_answer().status, 200);
  EXPECT_EQ(two.read_answer().status, 200);
  TestClient three(port_);
  EXPECT_TRUE(three.closed_by_peer(1000));
  one.close();
  ASSERT_TRUE(eventually([&] { return server_->num_connections() == 1; }));
  TestClient four(port_);
  four.send_request("GET", "/");
  EXPECT_EQ(four.read_answer().status, 200);
}

TEST_F(HttpTest, BindErrorsSayWhatToDo) {
  start();
  const auto busy = HttpServer::bind("127.0.0.1", port_, {}, &app_);
  ASSERT_FALSE(busy.ok());
  EXPECT_EQ(busy.error().code, ErrorCode::kUnavailable);
  EXPECT_THAT(busy.error().message, HasSubstr(fmt::format("port {}", port_)));
  EXPECT_FALSE(HttpServer::bind("", port_, {}, &app_).ok());
  const auto nowhere = HttpServer::bind("no.such.host.invalid", 0, {}, &app_);
  ASSERT_FALSE(nowhere.ok());
  EXPECT_EQ(nowhere.error().param, "--host");
  const auto any = HttpServer::bind("", 0, {}, &app_);
  ASSERT_TRUE(any.ok());
  (*any)->start();
  TestClient client((*any)->port());  // IPv4 reaches the dual-stack socket
  client.send_request("GET", "/");
  EXPECT_EQ(client.read_answer().status, 200);
}

}  // namespace
}  // namespace videre
