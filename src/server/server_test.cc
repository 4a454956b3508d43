// The whole life of `serve`, in a child process: ports, exit codes, signals, drain.
#include "server/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/error.h"
#include "base/log.h"
#include "server/fake_engine.h"
#include "server/test_client.h"

namespace videre {
namespace {

using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr const char* kBody = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";

int free_port() {
  class NoApp : public HttpApp {
    std::unique_ptr<Responder> handle(HttpRequest, std::function<void()>) override {
      return make_responder({});
    }
    void refuse(int, const std::string&, HttpOutput&) override {}
  } app;
  return (*HttpServer::bind("127.0.0.1", 0, {}, &app))->port();
}

// A server in a process of its own. Its engine answers "tick" every 50 ms, `num_ticks` times.
class Child {
 public:
  Child(ServerOptions options, int num_ticks, const EngineLoader& load = {}) {
    port_ = options.port = options.port ? options.port : free_port();
    options.host = "127.0.0.1";
    options.engine.model = "m";
    pid_ = fork();
    if (pid_ != 0) return;
    set_log_level(LogLevel::kOff);
    const EngineLoader fake = [num_ticks](const EngineOptions&, const LoadProgress& progress) {
      progress("weights", 1);
      auto engine = std::make_unique<FakeEngine>();
      auto* made = engine.get();
      made->on_submit = [made, num_ticks](FakeGeneration&) {
        const auto generation = made->generation(made->num_submitted() - 1);
        std::thread([generation, num_ticks] {
          for (int i = 0; i < num_ticks; ++i) {
            generation->push("tick");
            std::this_thread::sleep_for(milliseconds(50));
          }
          generation->finish();
        }).detach();
      };
      return Result<std::unique_ptr<Engine>>(std::move(engine));
    };
    _exit(serve_main(options, load ? load : fake));
  }
  ~Child() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  int port() const { return port_; }
  void signal(int number) const { kill(pid_, number); }
  /// Exit code, or -1 when it has not ended in time.
  int wait(int timeout_ms = 8000) {
    int status = 0;
    const bool ended =
        eventually([&] { return waitpid(pid_, &status, WNOHANG) == pid_; }, timeout_ms);
    if (!ended) return -1;
    pid_ = 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status);
  }
  int status_of(const char* path) const {
    TestClient client(port_);
    client.send_request("GET", path);
    return client.read_answer(1000).status;
  }
  bool ready() const {
    return eventually([&] { return status_of("/health") == 200; });
  }

 private:
  pid_t pid_ = 0;
  int port_ = 0;
};

TEST(Serve, StopsCleanlyOnSigtermAndSigint) {
  for (const int number : {SIGTERM, SIGINT}) {
    Child child({}, 1);
    ASSERT_TRUE(child.ready());
    TestClient client(child.port());
    client.send_request("POST", "/v1/chat/completions", kBody);
    EXPECT_THAT(client.read_answer().body, HasSubstr("tick"));
    TestClient models(child.port());
    models.send_request("GET", "/v1/models");
    EXPECT_THAT(models.read_answer().body, HasSubstr(R"("id":"m")"));  // the model's own name
    child.signal(number);
    EXPECT_EQ(child.wait(), 0);
  }
}

TEST(Serve, WithoutATimeoutRunningStreamsEndWithAnError) {
  Child child({}, 1000);
  ASSERT_TRUE(child.ready());
  TestClient client(child.port());
  client.send_request("POST", "/v1/chat/completions", kBody);
  ASSERT_TRUE(client.read_until("tick"));
  child.signal(SIGTERM);
  const ClientAnswer answer = client.read_answer();
  EXPECT_THAT(answer.body, HasSubstr("shutting down"));
  EXPECT_THAT(answer.body, testing::EndsWith("data: [DONE]\n\n"));
  EXPECT_EQ(child.wait(), 0);
}

TEST(Serve, DrainLetsRunningRequestsEndAndTakesNoNewOnes) {
  ServerOptions options;
  options.shutdown_timeout_s = 20;
  Child child(options, 20);
  ASSERT_TRUE(child.ready());
  TestClient client(child.port());
  client.send_request("POST", "/v1/chat/completions", kBody);
  ASSERT_TRUE(client.read_until("tick"));
  child.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return child.status_of("/health") == 503; }));
  TestClient late(child.port());
  late.send_request("POST", "/v1/chat/completions", kBody);
  const ClientAnswer refused = late.read_answer();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(refused.header("retry-after"), "1");
  EXPECT_EQ(refused.header("connection"), "close");
  const ClientAnswer answer = client.read_answer();
  EXPECT_EQ(events_of(answer.body).size(), 23u);  // role, 20 ticks, finish, [DONE]
  EXPECT_EQ(child.wait(), 0);
}

TEST(Serve, ASecondSignalEndsAtOnce) {
  ServerOptions options;
  options.shutdown_timeout_s = 100;
  Child child(options, 10000);
  ASSERT_TRUE(child.ready());
  TestClient client(child.port());
  client.send_request("POST", "/v1/chat/completions", kBody);
  ASSERT_TRUE(client.read_until("tick"));
  child.signal(SIGTERM);
  ASSERT_TRUE(eventually([&] { return child.status_of("/health") == 503; }));
  child.signal(SIGINT);
  EXPECT_EQ(child.wait(2000), 130);
}

TEST(Serve, LoadingAnswers503AndCanBeLeft) {
  Child child({}, 1,
              [](const EngineOptions&, const LoadProgress&) -> Result<std::unique_ptr<Engine>> {
                std::this_thread::sleep_for(std::chrono::seconds(60));
                return Error{};
              });
  ASSERT_TRUE(eventually([&] { return child.status_of("/version") == 200; }));
  EXPECT_EQ(child.status_of("/health"), 503);
  child.signal(SIGTERM);
  EXPECT_EQ(child.wait(2000), 143);
}

TEST(Serve, ExitCodes) {
  const auto fails = [](ErrorCode code) {
    return [code](const EngineOptions&, const LoadProgress&) -> Result<std::unique_ptr<Engine>> {
      return make_error(code, "", "no");
    };
  };
  EXPECT_EQ(Child({}, 1, fails(ErrorCode::kNotFound)).wait(), 3);
  EXPECT_EQ(Child({}, 1, fails(ErrorCode::kInvalidModel)).wait(), 3);
  EXPECT_EQ(Child({}, 1, fails(ErrorCode::kOutOfMemory)).wait(), 4);
  EXPECT_EQ(Child({}, 1, fails(ErrorCode::kInvalidArgument)).wait(), 2);
  Child first({}, 1);
  ASSERT_TRUE(first.ready());
  ServerOptions busy;
  busy.port = first.port();
  Child second(busy, 1,
               [](const EngineOptions&, const LoadProgress&) -> Result<std::unique_ptr<Engine>> {
                 _exit(99);  // the port is tried before the model loads
               });
  EXPECT_EQ(second.wait(), 5);
}

TEST(Serve, ADeadEngineEndsTheServer) {
  Child child({}, 1, [](const EngineOptions&, const LoadProgress&) {
    auto engine = std::make_unique<FakeEngine>();
    auto* made = engine.get();
    made->on_submit = [made](FakeGeneration& generation) {
      made->is_healthy = false;
      generation.fail(internal_error("the device is gone"));
    };
    return Result<std::unique_ptr<Engine>>(std::move(engine));
  });
  ASSERT_TRUE(child.ready());
  TestClient client(child.port());
  client.send_request("POST", "/v1/chat/completions", kBody);
  EXPECT_EQ(client.read_answer().status, 500);
  EXPECT_EQ(child.wait(5000), 1);
}

TEST(Serve, PlanReadsWell) {
  MemoryPlan plan;
  plan.weights = int64_t{3} << 30;
  plan.kv_cache = 5 << 20;
  plan.block_size = 16;
  EXPECT_THAT(describe(plan), HasSubstr("language weights  3.00 GiB"));
  EXPECT_THAT(describe(plan), HasSubstr("5.0 MiB (0 blocks of 16 tokens"));
}

}  // namespace
}  // namespace videre
