#include "server/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <sstream>

#include "server/fake_engine.h"

namespace videre {
namespace {

// The text format, read strictly: names, labels, values, one TYPE before its samples.
struct Page {
  std::map<std::string, std::string> types;
  std::map<std::string, double> samples;  // "name{labels}"
};

Page read_page(const std::string& text) {
  Page page;
  std::istringstream lines(text);
  std::string line, current;
  EXPECT_THAT(text, testing::EndsWith("\n"));
  while (std::getline(lines, line)) {
    if (line.rfind("# HELP ", 0) == 0) continue;
    if (line.rfind("# TYPE ", 0) == 0) {
      std::istringstream words(line.substr(7));
      std::string type;
      words >> current >> type;
      EXPECT_TRUE(page.types.emplace(current, type).second) << "twice: " << line;
      continue;
    }
    const size_t space = line.rfind(' ');
    const std::string sample = line.substr(0, space);
    const std::string name = sample.substr(0, sample.find('{'));
    for (const char c : name) EXPECT_TRUE(isalnum(c) || c == '_' || c == ':') << line;
    EXPECT_EQ(name.rfind(current, 0), 0u) << line << " under " << current;
    char* end = nullptr;
    const double value = strtod(line.c_str() + space + 1, &end);
    EXPECT_EQ(*end, '\0') << line;
    EXPECT_TRUE(page.samples.emplace(sample, value).second) << "twice: " << line;
  }
  return page;
}

TEST(Metrics, PageHasTheGaugesOfTheEngine) {
  FakeEngine engine;
  Metrics metrics;
  std::vector<std::shared_ptr<Generation>> running;
  for (int i = 0; i < 5; ++i) running.push_back(*engine.submit({}));
  const Page page = read_page(metrics.text(&engine, "a\"b\\c\nd", 3));
  const std::string labels = R"({model_name="a\"b\\c\nd",engine="0"})";
  EXPECT_EQ(page.samples.at("vllm:num_requests_running" + labels), 5);
  EXPECT_EQ(page.samples.at("vllm:num_requests_waiting" + labels), 0);
  EXPECT_EQ(page.samples.at("vllm:kv_cache_usage_perc" + labels), 0.5);  // slots are fuller
  EXPECT_EQ(page.samples.at("videre_chat_requests_in_flight" + labels), 3);
  const std::string head = R"({model_name="a\"b\\c\nd",engine="0",)";
  EXPECT_EQ(page.samples.at("videre_kv_blocks" + head + R"(state="used"})"), 5);
  EXPECT_EQ(page.samples.at("videre_kv_blocks" + head + R"(state="total"})"), 100);
  EXPECT_EQ(page.samples.at("videre_state_slots" + head + R"(state="total"})"), 10);
  for (const char* reason : {"stop", "length", "abort", "error", "repetition"}) {
    EXPECT_EQ(page.samples.count("vllm:request_success_total" + head + "finished_reason=\"" +
                                 reason + "\"}"),
              1u);
  }
  for (const char* name : {"vllm:num_preemptions_total", "vllm:prompt_tokens_total",
                           "vllm:generation_tokens_total", "vllm:mm_cache_queries_total"}) {
    EXPECT_EQ(page.types.at(name), "counter");
  }
  EXPECT_GT(page.samples.at("process_resident_memory_bytes"), 1e6);
  EXPECT_GT(page.samples.at("process_open_fds"), 2);
  EXPECT_GT(page.samples.at("process_start_time_seconds"), 1.6e9);
}

TEST(Metrics, PageWithoutAnEngine) {
  Metrics metrics;
  const Page page = read_page(metrics.text(nullptr, "m", 0));
  EXPECT_EQ(page.types.count("vllm:num_requests_running"), 0u);
  EXPECT_EQ(page.types.count("vllm:e2e_request_latency_seconds"), 1u);
}

TEST(Metrics, HistogramsAreCumulative) {
  Metrics metrics;
  for (const double seconds : {0.001, 0.0011, 0.3, 9999.0}) {
    metrics.time_to_first_token_s.observe(seconds);
  }
  const Page page = read_page(metrics.text(nullptr, "m", 0));
  const auto bucket = [&](const char* end) {
    return page.samples.at(std::string("vllm:time_to_first_token_seconds_bucket{model_name=\"m\","
                                       "engine=\"0\",le=\"") +
                           end + "\"}");
  };
  EXPECT_EQ(bucket("0.001"), 1);  // an upper end belongs to its bucket
  EXPECT_EQ(bucket("0.005"), 2);
  EXPECT_EQ(bucket("0.25"), 2);
  EXPECT_EQ(bucket("0.5"), 3);
  EXPECT_EQ(bucket("2560.0"), 3);
  EXPECT_EQ(bucket("+Inf"), 4);
  const std::string labels = R"({model_name="m",engine="0"})";
  EXPECT_EQ(page.samples.at("vllm:time_to_first_token_seconds_count" + labels), 4);
  EXPECT_NEAR(page.samples.at("vllm:time_to_first_token_seconds_sum" + labels), 9999.3021, 1e-6);
}

TEST(Metrics, HttpRequestsByHandler) {
  Metrics metrics;
  metrics.count_http(Handler::kChatCompletions, "POST", 200);
  metrics.count_http(Handler::kChatCompletions, "POST", 204);
  metrics.count_http(Handler::kChatCompletions, "POST", 400);
  metrics.count_http(Handler::kModels, "GET", 200);
  metrics.count_http(Handler::kOther, "BREW", 404);
  metrics.count_http(Handler::kOther, "GET", 9999);
  const Page page = read_page(metrics.text(nullptr, "m", 0));
  const auto count = [&](const char* labels) {
    return page.samples.at(std::string("http_requests_total{handler=") + labels + "}");
  };
  EXPECT_EQ(count(R"("/v1/chat/completions",method="POST",status="2xx")"), 2);
  EXPECT_EQ(count(R"("/v1/chat/completions",method="POST",status="4xx")"), 1);
  EXPECT_EQ(count(R"("/v1/models",method="GET",status="2xx")"), 1);
  EXPECT_EQ(count(R"("none",method="other",status="4xx")"), 1);
}

}  // namespace
}  // namespace videre
