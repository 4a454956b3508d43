// What the server adds to a request's first token: from the client's send to the first chunk with
// text, over loopback on a kept connection, with an engine that answers at once. The target is 1 ms
// for an ordinary request. `p50_ms` and `p99_ms` are over all iterations. Arguments: KiB of picture
// in the body (as a data: URL), and how many other streams get 50 tokens a second meanwhile.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "server/fake_engine.h"
#include "server/routes.h"
#include "server/test_client.h"

namespace videre {
namespace {

using Clock = std::chrono::steady_clock;

std::string chat_body(int picture_kib, const char* text) {
  std::string picture;
  if (picture_kib > 0) {
    const std::string base64(static_cast<size_t>(picture_kib) * 1024 / 3 * 4, 'A');
    picture =
        R"({"type":"image_url","image_url":{"url":"data:image/png;base64,)" + base64 + R"("}},)";
  }
  return R"({"model":"m","stream":true,"max_tokens":64,"temperature":0,"messages":[)"
         R"({"role":"system","content":"/no_think"},{"role":"user","content":[)" +
         picture + R"({"type":"text","text":")" + text + R"("}]}]})";
}

void first_token(benchmark::State& state) {
  set_log_level(LogLevel::kOff);
  FakeEngine engine;
  engine.on_submit = [](FakeGeneration& generation) {
    if (generation.request.messages.back().content.back().text == "background") return;
    generation.push("token");
    generation.finish();
  };
  RoutesOptions options;
  options.served_model_names = {"m"};
  Routes routes(options);
  auto bound = HttpServer::bind("127.0.0.1", 0, {}, &routes);
  if (!bound.ok()) return state.SkipWithError(bound.error().message.c_str());
  const std::unique_ptr<HttpServer> server = std::move(*bound);
  server->start();
  routes.set_engine(&engine);

  const auto num_streams = static_cast<size_t>(state.range(1));
  std::vector<std::unique_ptr<TestClient>> readers;
  std::vector<std::shared_ptr<FakeGeneration>> streams;
  for (size_t i = 0; i < num_streams; ++i) {
    readers.push_back(std::make_unique<TestClient>(server->port()));
    readers.back()->send_request("POST", "/v1/chat/completions", chat_body(0, "background"));
    streams.push_back(engine.generation(i));
  }
  std::atomic<bool> over{false};
  std::thread feeder([&] {
    while (!over) {
      for (const auto& stream : streams) stream->push(" word");
      for (const auto& reader : readers) reader->read_until("\n\n", 1);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });

  const std::string body = chat_body(static_cast<int>(state.range(0)), "What is shown?");
  TestClient client(server->port());
  std::vector<double> times_ms;
  for (auto _ : state) {
    const auto start = Clock::now();
    client.send_request("POST", "/v1/chat/completions", body);
    if (!client.read_until("\"content\":\"token\"")) return state.SkipWithError("no answer");
    times_ms.push_back(std::chrono::duration<double, std::milli>(Clock::now() - start).count());
    state.PauseTiming();
    client.read_answer();
    engine.forget();
    state.ResumeTiming();
  }
  over = true;
  feeder.join();
  std::sort(times_ms.begin(), times_ms.end());
  state.counters["p50_ms"] = times_ms[times_ms.size() / 2];
  state.counters["p99_ms"] = times_ms[times_ms.size() * 99 / 100];
  server->stop(std::chrono::milliseconds(0));
}
BENCHMARK(first_token)
    ->ArgNames({"picture_kib", "other_streams"})
    ->Args({0, 0})
    ->Args({0, 64})
    ->Args({200, 0})
    ->Args({4096, 0})
    ->Args({32768, 0})
    ->UseRealTime()
    ->Unit(benchmark::kMillisecond);

void parse_chat(benchmark::State& state) {
  const std::string body = chat_body(static_cast<int>(state.range(0)), "What is shown?");
  for (auto _ : state) {
    auto parsed = parse_chat_request(std::string_view(body), {});
    benchmark::DoNotOptimize(parsed);
  }
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * body.size()));
}
BENCHMARK(parse_chat)->ArgName("picture_kib")->Arg(0)->Arg(200)->Arg(4096)->Arg(32768);

}  // namespace
}  // namespace videre

BENCHMARK_MAIN();
