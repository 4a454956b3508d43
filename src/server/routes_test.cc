// Endpoints over real sockets, with an engine whose every piece of output the test decides.
#include "server/routes.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "server/fake_engine.h"
#include "server/test_client.h"

namespace videre {
namespace {

using std::chrono::milliseconds;
using testing::EndsWith;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr const char* kHi = R"({"messages":[{"role":"user","content":"hi"}]})";
constexpr const char* kHiStream = R"({"stream":true,"messages":[{"role":"user","content":"hi"}]})";

class RoutesTest : public testing::Test {
 protected:
  void SetUp() override { start({}); }
  void start(RoutesOptions options, bool ready = true) {
    if (server_) server_->stop(milliseconds(0));
    options.served_model_names = {"vision", "alias"};
    routes_ = std::make_unique<Routes>(std::move(options));
    HttpLimits limits;
    limits.keep_alive_interval = milliseconds(200);
    auto bound = HttpServer::bind("127.0.0.1", 0, limits, routes_.get());
    ASSERT_TRUE(bound.ok());
    server_ = std::move(*bound);
    server_->start();
    if (ready) routes_->set_engine(&engine_);
  }
  void TearDown() override {
    server_->stop(milliseconds(0));
    EXPECT_EQ(routes_->num_active(), 0);
    EXPECT_EQ(engine_.books().live, 0);
  }
  ClientAnswer ask(std::string_view method, std::string_view path, std::string_view body = "",
                   std::string_view headers = "") {
    TestClient client(server_->port());
    client.send_request(method, path, body, headers);
    return client.read_answer();
  }
  // An engine that answers every request at once.
  void answer_with(std::vector<std::string> pieces) {
    engine_.on_submit = [pieces](FakeGeneration& generation) {
      for (int i = 0; i < generation.request.sampling.n; ++i) {
        for (const std::string& piece : pieces) generation.push(piece, i);
        generation.finish(i);
      }
    };
  }

  FakeEngine engine_;
  std::unique_ptr<Routes> routes_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(RoutesTest, PlainAnswer) {
  answer_with({"Hel", "lo \xC3\xA9"});
  const ClientAnswer answer =
      ask("POST", "/v1/chat/completions", kHi, "X-Request-Id: my-id.1:2_3\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.header("content-type"), "application/json");
  EXPECT_EQ(answer.header("x-request-id"), "my-id.1:2_3");
  EXPECT_THAT(answer.body,
              StartsWith(R"({"id":"chatcmpl-my-id.1:2_3","object":"chat.completion")"));
  EXPECT_THAT(answer.body, HasSubstr("\"content\":\"Hello \xC3\xA9\""));
  EXPECT_THAT(answer.body, HasSubstr(R"("model":"vision")"));
  EXPECT_THAT(answer.body, HasSubstr(R"("usage":{"prompt_tokens":11,"total_tokens":13,)"
                                     R"("completion_tokens":2,)"));
  EXPECT_EQ(engine_.generation(0)->request.messages.at(0).content.at(0).text, "hi");
}

TEST_F(RoutesTest, StreamWaitsForTheFirstOutputThenFollowsIt) {
  TestClient client(server_->port());
  client.send_request("POST", "/v1/chat/completions",
                      R"({"stream":true,"stream_options":{"include_usage":true},)"
                      R"("model":"alias","messages":[{"role":"user","content":"hi"}]})");
  const auto generation = engine_.generation(0);
  ASSERT_TRUE(generation);
  EXPECT_FALSE(client.read_until("HTTP", 100));  // nothing before the first output
  generation->push("Hi");
  ASSERT_TRUE(client.read_until(R"("content":"Hi")"));
  EXPECT_THAT(client.buffer(), StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(client.buffer(), HasSubstr("Content-Type: text/event-stream; charset=utf-8\r\n"));
  EXPECT_THAT(client.buffer(), HasSubstr("Cache-Control: no-cache\r\n"));
  EXPECT_THAT(client.buffer(), HasSubstr("X-Accel-Buffering: no\r\n"));
  generation->push(" there");
  ASSERT_TRUE(client.read_until(R"("content":" there")"));
  EXPECT_THAT(client.buffer(), Not(HasSubstr("[DONE]")));
  generation->finish();
  const ClientAnswer answer = client.read_answer();
  const auto events = events_of(answer.body);
  ASSERT_EQ(events.size(), 6u);
  EXPECT_THAT(events[0], HasSubstr(R"("delta":{"role":"assistant","content":""})"));
  EXPECT_THAT(events[3], HasSubstr(R"("finish_reason":"stop")"));
  EXPECT_THAT(events[4], HasSubstr(R"("choices":[],"usage":{"prompt_tokens":11)"));
  EXPECT_EQ(events[5], "[DONE]");
  for (int i = 0; i < 5; ++i) EXPECT_THAT(events[i], HasSubstr(R"("model":"alias")"));
  client.send_request("GET", "/health");  // the connection lives on
  EXPECT_EQ(client.read_answer().status, 200);
}

TEST_F(RoutesTest, SeveralChoices) {
  answer_with({"a", "b"});
  const char* body = R"({"n":3,"messages":[{"role":"user","content":"hi"}]})";
  const ClientAnswer answer = ask("POST", "/v1/chat/completions", body);
  for (int i = 0; i < 3; ++i) {
    EXPECT_THAT(
        answer.body,
        HasSubstr(fmt::format(R"({{"index":{},"message":{{"role":"assistant","content":"ab")", i)));
  }
  EXPECT_THAT(answer.body, HasSubstr(R"("completion_tokens":6)"));
}

TEST_F(RoutesTest, ErrorsBeforeTheFirstOutputKeepTheirStatus) {
  const Error bad_picture =
      make_error(ErrorCode::kInvalidArgument, "messages.0.content.0", "the picture cannot be read");
  for (const char* body : {kHi, kHiStream}) {
    const size_t index = engine_.num_submitted();
    TestClient client(server_->port());
    client.send_request("POST", "/v1/chat/completions", body);
    engine_.generation(index)->fail(bad_picture);
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, 400);
    EXPECT_EQ(answer.header("content-type"), "application/json");
    EXPECT_EQ(answer.body, R"({"error":{"message":"the picture cannot be read",)"
                           R"("type":"BadRequestError","param":"messages.0.content.0",)"
                           R"("code":400}})");
    EXPECT_NE(answer.header("x-request-id"), "");
    client.send_request("GET", "/health");
    EXPECT_EQ(client.read_answer().status, 200);
  }
}

TEST_F(RoutesTest, ErrorsAfterTheFirstOutputAreEvents) {
  TestClient client(server_->port());
  client.send_request("POST", "/v1/chat/completions", kHiStream);
  engine_.generation(0)->push("Hi");
  ASSERT_TRUE(client.read_until("\"Hi\""));
  engine_.generation(0)->fail(internal_error("a secret"));
  const ClientAnswer answer = client.read_answer();
  EXPECT_EQ(answer.status, 200);
  const auto events = events_of(answer.body);
  ASSERT_EQ(events.size(), 4u);
  EXPECT_EQ(events[2], R"({"error":{"message":"Internal server error",)"
                       R"("type":"InternalServerError","param":null,"code":500}})");
  EXPECT_EQ(events[3], "[DONE]");
}

TEST_F(RoutesTest, OneFailedRequestIs500AndEndsAlone) {
  engine_.on_submit = [](FakeGeneration& generation) {
    generation.push("x");
    generation.finish(0, FinishReason::kError);
  };
  EXPECT_EQ(ask("POST", "/v1/chat/completions", kHi).status, 500);
  EXPECT_EQ(ask("POST", "/v1/chat/completions", kHiStream).status, 500);
  answer_with({"fine"});
  EXPECT_EQ(ask("POST", "/v1/chat/completions", kHi).status, 200);
}

TEST_F(RoutesTest, AbortsAreErrorsToWhoeverReads) {
  for (const bool stream : {false, true}) {  // before any output: a real status
    const size_t index = engine_.num_submitted();
    TestClient client(server_->port());
    client.send_request("POST", "/v1/chat/completions", stream ? kHiStream : kHi);
    engine_.generation(index)->cancel();
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, 503);
    EXPECT_EQ(answer.header("retry-after"), "1");
    EXPECT_THAT(answer.body, HasSubstr(R"("type":"ServiceUnavailable")"));
  }
  const size_t index = engine_.num_submitted();
  TestClient client(server_->port());
  client.send_request("POST", "/v1/chat/completions", kHiStream);
  engine_.generation(index)->push("Hi");
  ASSERT_TRUE(client.read_until("\"Hi\""));
  engine_.generation(index)->cancel();
  const ClientAnswer answer = client.read_answer();
  EXPECT_THAT(answer.body, HasSubstr(R"(data: {"error":{"message":"the request was aborted)"));
  EXPECT_THAT(answer.body, EndsWith("data: [DONE]\n\n"));
}

TEST_F(RoutesTest, AClientThatGoesCancels) {
  for (int i = 0; i < 8; ++i) {
    TestClient client(server_->port());
    client.send_request("POST", "/v1/chat/completions", i % 2 ? kHiStream : kHi);
    const auto generation = engine_.generation(i);
    ASSERT_TRUE(generation);
    if (i >= 4) {
      generation->push("text");
      if (i % 2) {
        ASSERT_TRUE(client.read_until("text"));
      }
    }
    if (i % 4 < 2) {
      client.close();
    } else {
      client.reset();
    }
    EXPECT_TRUE(eventually([&] { return generation->cancelled(); })) << i;
    EXPECT_TRUE(eventually([&] { return routes_->num_active() == 0; }));
  }
  EXPECT_EQ(engine_.books().live, 0);
  EXPECT_EQ(engine_.books().aborted, 8);
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
}

TEST_F(RoutesTest, ASlowReaderDoesNotDrainTheEngine) {
  TestClient client(server_->port(), 4096);
  client.send_request("POST", "/v1/chat/completions", kHiStream);
  const auto generation = engine_.generation(0);
  ASSERT_TRUE(generation);
  const std::string piece(32 << 10, 'x');
  int pushed = 0;
  for (; pushed < 1000; ++pushed) generation->push(piece);
  std::this_thread::sleep_for(milliseconds(100));
  const int reads = generation->num_reads;
  std::this_thread::sleep_for(milliseconds(50));
  EXPECT_EQ(generation->num_reads, reads);  // waits for the socket, then goes on where it was
  generation->finish();
  const ClientAnswer answer = client.read_answer(20000);
  EXPECT_THAT(answer.body, EndsWith("data: [DONE]\n\n"));
  EXPECT_GT(answer.body.size(), piece.size() * 1000);
}

TEST_F(RoutesTest, PingsWhileNothingHasComeYet) {
  TestClient client(server_->port());
  client.send_request("POST", "/v1/chat/completions", kHiStream);
  ASSERT_TRUE(client.read_until(": ping\n\n"));
  engine_.generation(0)->push("x");
  engine_.generation(0)->finish();
  const auto events = events_of(client.read_answer().body);
  EXPECT_EQ(events.size(), 4u);
}

TEST_F(RoutesTest, ContentTypes) {
  answer_with({"x"});
  for (const char* good : {"application/json", "Application/JSON",
                           "application/json; charset=utf-8", "application/json ;charset=utf-8"}) {
    TestClient client(server_->port());
    client.send(
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: {}\r\n"
                    "Content-Length: {}\r\n\r\n{}",
                    good, strlen(kHi), kHi));
    EXPECT_EQ(client.read_answer().status, 200) << good;
  }
  for (const char* bad : {"text/plain", "application/x-www-form-urlencoded", "application/jsonx",
                          "multipart/form-data; boundary=application/json"}) {
    TestClient client(server_->port());
    client.send(
        fmt::format("POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Type: {}\r\n"
                    "Content-Length: {}\r\n\r\n{}",
                    bad, strlen(kHi), kHi));
    const ClientAnswer answer = client.read_answer();
    EXPECT_EQ(answer.status, 400) << bad;
    EXPECT_THAT(answer.body, HasSubstr(R"("type":"Bad Request")"));
  }
  TestClient client(server_->port());
  client.send("POST /v1/chat/completions HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(client.read_answer().status, 400);
}

// Bodies that are parsed apart answer, fail and are left as small ones.
TEST_F(RoutesTest, LargeBodies) {
  const std::string picture(1 << 20, 'A');
  const auto body = [&](const std::string& fields) {
    return R"({"messages":[{"role":"user","content":[{"image_url":"data:image/png;base64,)" +
           picture + "\"}]}]" + fields + "}";
  };
  answer_with({"seen"});
  TestClient client(server_->port());
  client.send_request("POST", "/v1/chat/completions", body(""), "X-Request-Id: large\r\n");
  client.send_request("GET", "/health");  // pipelined behind it
  ClientAnswer answer = client.read_answer();
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body, HasSubstr("chatcmpl-large"));
  EXPECT_EQ(client.read_answer().status, 200);
  EXPECT_EQ(engine_.generation(0)->request.messages[0].content[0].media.url.size(),
            picture.size() + 22);
  answer = ask("POST", "/v1/chat/completions", body(R"(,"n":0)"),
               "X-Request-Id: wrong\r\nOrigin: http://a.example\r\n");
  EXPECT_EQ(answer.status, 400);
  EXPECT_EQ(answer.header("x-request-id"), "wrong");
  EXPECT_EQ(answer.header("access-control-allow-origin"), "*");
  EXPECT_THAT(ask("POST", "/v1/chat/completions", body(R"(,"stream":true)")).body,
              EndsWith("data: [DONE]\n\n"));
  for (int i = 0; i < 20; ++i) {
    TestClient gone(server_->port());
    gone.send_request("POST", "/v1/chat/completions", body(""));
    gone.reset();
  }
  EXPECT_TRUE(eventually([&] { return server_->num_connections() <= 1; }));
  EXPECT_THAT(ask("GET", "/metrics").body,
              HasSubstr(R"(handler="/v1/chat/completions",method="POST",status="4xx"} 1.0)"));
}

TEST_F(RoutesTest, RequestIds) {
  answer_with({"x"});
  const auto id_of = [this](const std::string& header, const std::string& field) {
    const ClientAnswer answer =
        ask("POST", "/v1/chat/completions",
            fmt::format(R"({{{}"messages":[{{"role":"user","content":"hi"}}]}})", field),
            header.empty() ? "" : fmt::format("X-Request-Id: {}\r\n", header));
    EXPECT_THAT(answer.body, HasSubstr("chatcmpl-" + answer.header("x-request-id")));
    return answer.header("x-request-id");
  };
  EXPECT_EQ(id_of("a-b", ""), "a-b");
  EXPECT_EQ(id_of("a-b", R"("request_id":"c",)"), "a-b");
  EXPECT_EQ(id_of("", R"("request_id":"c.d",)"), "c.d");
  EXPECT_EQ(id_of("", "").size(), 32u);
  EXPECT_EQ(id_of("not good", "").size(), 32u);
  EXPECT_EQ(id_of(std::string(129, 'a'), "").size(), 32u);
  EXPECT_EQ(id_of("", R"("request_id":"a\nb",)").size(), 32u);
  EXPECT_NE(id_of("", ""), id_of("", ""));
}

TEST_F(RoutesTest, Models) {
  const ClientAnswer answer = ask("GET", "/v1/models");
  EXPECT_EQ(answer.status, 200);
  EXPECT_THAT(answer.body,
              StartsWith(R"({"object":"list","data":[{"id":"vision","object":"model","created":)"));
  EXPECT_THAT(answer.body, HasSubstr(R"("owned_by":"videre","root":"vision","parent":null,)"
                                     R"("max_model_len":4096,"permission":[{"id":"modelperm-)"));
  EXPECT_THAT(answer.body, HasSubstr(R"({"id":"alias")"));
  const ClientAnswer unknown =
      ask("POST", "/v1/chat/completions",
          R"({"model":"other","messages":[{"role":"user","content":""}]})");
  EXPECT_EQ(unknown.status, 404);
  EXPECT_EQ(unknown.body, R"({"error":{"message":"The model `other` does not exist; this server )"
                          R"(has `vision`","type":"NotFoundError","param":"model","code":404}})");
  answer_with({"x"});
  for (const char* model : {R"("vision")", R"("alias")", R"("")", "null"}) {
    EXPECT_EQ(
        ask("POST", "/v1/chat/completions",
            fmt::format(R"({{"model":{},"messages":[{{"role":"user","content":""}}]}})", model))
            .status,
        200);
  }
}

TEST_F(RoutesTest, SmallEndpointsAndUnknownOnes) {
  EXPECT_EQ(ask("GET", "/health").status, 200);
  EXPECT_EQ(ask("GET", "/health").body, "");
  EXPECT_EQ(ask("GET", "/ping").status, 200);
  EXPECT_EQ(ask("POST", "/ping").status, 200);
  EXPECT_EQ(ask("GET", "/version").body,
            R"({"version":")" VIDERE_VERSION R"(","engine":"videre"})");
  const ClientAnswer nowhere = ask("GET", "/v1/nothing");
  EXPECT_EQ(nowhere.status, 404);
  EXPECT_THAT(nowhere.body, HasSubstr(R"("type":"NotFoundError")"));
  EXPECT_THAT(nowhere.body, HasSubstr(R"("detail":"Not Found")"));
  for (const char* path : {"/v1/embeddings", "/v1/completions", "/", "/v1/models/vision"}) {
    EXPECT_EQ(ask("POST", path, "{}").status, 404) << path;
  }
  for (const auto& [method, path] :
       std::vector<std::pair<const char*, const char*>>{{"GET", "/v1/chat/completions"},
                                                        {"POST", "/v1/models"},
                                                        {"POST", "/health"},
                                                        {"DELETE", "/version"},
                                                        {"PUT", "/metrics"}}) {
    const ClientAnswer answer = ask(method, path);
    EXPECT_EQ(answer.status, 405) << path;
    EXPECT_NE(answer.header("allow"), "");
    EXPECT_THAT(answer.body, HasSubstr(R"("detail":"Method Not Allowed")"));
  }
}

TEST_F(RoutesTest, BadBodiesOverHttp) {
  const std::vector<std::pair<int, std::string>> cases = {
      {400, ""},
      {400, "{"},
      {400, "[]"},
      {400, "{}"},
      {400, "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}"},
      {400, R"({"messages":[{"role":"user","content":"x"}],"temperature":"hot"})"},
      {501, R"({"messages":[{"role":"user","content":"x"}],"echo":true})"},
  };
  for (const auto& [status, body] : cases) {
    const ClientAnswer answer = ask("POST", "/v1/chat/completions", body);
    EXPECT_EQ(answer.status, status) << body;
    EXPECT_THAT(answer.body, HasSubstr(fmt::format(R"("code":{}}}}})", status)));
    EXPECT_NE(answer.header("x-request-id"), "");
  }
  EXPECT_EQ(engine_.num_submitted(), 0u);
  // The server's own refusals have the same shape.
  TestClient client(server_->port());
  client.send("nonsense\r\n\r\n");
  EXPECT_THAT(client.read_answer().body, HasSubstr(R"("type":"BadRequestError")"));
}

TEST_F(RoutesTest, OverloadedAndTooLongAreSaid) {
  engine_.submit_error = make_error(ErrorCode::kOverloaded, "", "64 requests wait already");
  const ClientAnswer full = ask("POST", "/v1/chat/completions", kHi);
  EXPECT_EQ(full.status, 429);
  EXPECT_EQ(full.header("retry-after"), "1");
  EXPECT_THAT(full.body, HasSubstr(R"("type":"RateLimitError")"));
  engine_.submit_error =
      make_error(ErrorCode::kTooLarge, "input_tokens", "maximum context length is 10 tokens");
  const ClientAnswer longer = ask("POST", "/v1/chat/completions", kHi);
  EXPECT_EQ(longer.status, 400);
  EXPECT_THAT(longer.body, HasSubstr("maximum context length is"));
  engine_.submit_error = make_error(ErrorCode::kNotFound, "messages", "no such thing");
  EXPECT_EQ(ask("POST", "/v1/chat/completions", kHi).status, 404);
}

TEST_F(RoutesTest, Cors) {
  ClientAnswer answer = ask("GET", "/health", "", "Origin: http://a.example\r\n");
  EXPECT_EQ(answer.header("access-control-allow-origin"), "*");
  answer = ask("OPTIONS", "/v1/chat/completions", "",
               "Origin: http://a.example\r\nAccess-Control-Request-Method: POST\r\n"
               "Access-Control-Request-Headers: authorization,content-type\r\n");
  EXPECT_EQ(answer.status, 200);
  EXPECT_EQ(answer.header("access-control-allow-origin"), "*");
  EXPECT_THAT(answer.header("access-control-allow-methods"), HasSubstr("POST"));
  EXPECT_EQ(answer.header("access-control-allow-headers"), "authorization,content-type");
  EXPECT_EQ(ask("GET", "/health").header("access-control-allow-origin"), "");

  RoutesOptions options;
  options.allowed_origins = {"http://a.example"};
  options.allowed_methods = {"GET", "POST"};
  options.allowed_headers = {"x-one"};
  options.allow_credentials = true;
  start(options);
  answer = ask("GET", "/health", "", "Origin: http://a.example\r\n");
  EXPECT_EQ(answer.header("access-control-allow-origin"), "http://a.example");
  EXPECT_EQ(answer.header("access-control-allow-credentials"), "true");
  EXPECT_EQ(answer.header("vary"), "Origin");
  answer = ask("GET", "/health", "", "Origin: http://b.example\r\n");
  EXPECT_EQ(answer.header("access-control-allow-origin"), "");
  answer = ask("OPTIONS", "/x", "",
               "Origin: http://a.example\r\nAccess-Control-Request-Method: PUT\r\n");
  EXPECT_EQ(answer.header("access-control-allow-methods"), "GET, POST");
  EXPECT_EQ(answer.header("access-control-allow-headers"), "x-one");
}

TEST_F(RoutesTest, LoadingDrainingAndDead) {
  start({}, false);
  EXPECT_EQ(ask("GET", "/health").status, 503);
  EXPECT_EQ(ask("GET", "/health").body, R"({"status":"loading"})");
  EXPECT_EQ(ask("GET", "/version").status, 200);
  EXPECT_EQ(ask("GET", "/v1/models").status, 503);
  ClientAnswer answer = ask("POST", "/v1/chat/completions", kHi);
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.header("retry-after"), "1");
  EXPECT_THAT(ask("GET", "/metrics").body, HasSubstr("process_cpu_seconds_total"));

  routes_->set_engine(&engine_);
  EXPECT_EQ(ask("GET", "/health").status, 200);

  engine_.is_healthy = false;
  EXPECT_EQ(ask("GET", "/health").status, 503);
  EXPECT_EQ(ask("GET", "/health").body, R"({"status":"dead"})");
  EXPECT_EQ(ask("POST", "/v1/chat/completions", kHi).status, 500);

  engine_.is_healthy = true;
  routes_->set_state(ServerState::kDraining);
  EXPECT_EQ(ask("GET", "/health").body, R"({"status":"draining"})");
  answer = ask("POST", "/v1/chat/completions", kHi);
  EXPECT_EQ(answer.status, 503);
  EXPECT_EQ(answer.header("connection"), "close");
  EXPECT_EQ(answer.header("retry-after"), "1");
}

TEST_F(RoutesTest, ManyStreamsAtOnceLeaveNothing) {
  answer_with({"warm"});
  ask("POST", "/v1/chat/completions", kHi);
  ASSERT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
  engine_.on_submit = nullptr;
  const int files = num_files(), threads = num_threads();
  const size_t first = engine_.num_submitted();
  {
    std::vector<std::unique_ptr<TestClient>> clients;
    for (int i = 0; i < 200; ++i) {
      clients.push_back(std::make_unique<TestClient>(server_->port()));
      clients.back()->send_request("POST", "/v1/chat/completions", kHiStream);
    }
    std::vector<std::shared_ptr<FakeGeneration>> generations;
    for (int i = 0; i < 200; ++i) generations.push_back(engine_.generation(first + i));
    EXPECT_TRUE(eventually([&] { return routes_->num_active() == 200; }));
    for (int k = 0; k < 20; ++k) {
      for (auto& generation : generations) generation->push(fmt::format("<{}>", k));
    }
    for (int i = 0; i < 200; ++i) {
      if (i % 4 == 3) clients[i]->reset();
    }
    for (auto& generation : generations) generation->finish();
    for (int i = 0; i < 200; ++i) {
      if (i % 4 == 3) continue;
      std::string text;
      const ClientAnswer answer = clients[i]->read_answer();
      for (const std::string& event : events_of(answer.body)) {
        const auto parsed = parse_json(event, "event");
        if (!parsed.ok()) continue;
        const auto& choice = parsed->at("choices").at(0);
        if (const json::value* content = json_find(choice.at("delta"), "content")) {
          text += std::string_view(content->get_string());
        }
      }
      std::string expected;
      for (int k = 0; k < 20; ++k) expected += fmt::format("<{}>", k);
      EXPECT_EQ(text, expected);
    }
  }
  EXPECT_TRUE(eventually([&] { return server_->num_connections() == 0; }));
  EXPECT_TRUE(eventually([&] { return routes_->num_active() == 0; }));
  EXPECT_TRUE(eventually([&] { return num_files() == files; }));
  EXPECT_EQ(num_threads(), threads);
  EXPECT_EQ(engine_.books().live, 0);
}

}  // namespace
}  // namespace videre
