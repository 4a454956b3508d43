// Sampling: which tokens stay, how often each is drawn, what is reported, and that nothing but
// (seed, position) decides.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <set>

#include "backend/testing.h"

namespace videre::testing {
namespace {

class Sampling : public ::testing::TestWithParam<std::string> {
 protected:
  Sampling() : be_(make_backend(GetParam())) {}

  /// Samples one row per entry of `rows`, whose `row` is set here; all rows hold `logits`.
  std::vector<SampledToken> sample(const std::vector<float>& logits, std::vector<SampleRow> rows) {
    const auto vocab = static_cast<int64_t>(logits.size());
    if (logits_.empty() || logits_.shape()[0] < std::ssize(rows) || logits_.shape()[1] != vocab) {
      logits_ = be_->allocate(DType::kF32, Shape{std::ssize(rows), vocab});
    }
    const View view = logits_.view().rows(0, std::ssize(rows));
    for (size_t i = 0; i < rows.size(); ++i) {
      be_->upload(view[static_cast<int64_t>(i)], logits.data());
      rows[i].row = static_cast<int32_t>(i);
    }
    Tensor last = be_->allocate(DType::kI32, Shape{1});
    std::vector<SampledToken> out(rows.size());
    be_->sample(view, view, rows, last, out);
    be_->wait(be_->submit());
    return out;
  }
  SampledToken one(const std::vector<float>& logits, const SampleRow& row) {
    return sample(logits, {row})[0];
  }
  /// How often each token is drawn at `count` positions.
  std::map<int32_t, int> histogram(const std::vector<float>& logits, SampleRow row, int count) {
    std::vector<SampleRow> rows(count, row);
    for (int i = 0; i < count; ++i) rows[i].position = i;
    std::map<int32_t, int> counts;
    for (const SampledToken& token : sample(logits, rows)) ++counts[token.token];
    return counts;
  }
  /// Frequencies against exact probabilities: each within 5 standard deviations, and their sum of
  /// squared errors within what chance allows.
  void expect_frequencies(const std::map<int32_t, int>& counts, const std::vector<double>& p,
                          int count) {
    double chi = 0;
    int cells = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      const auto found = counts.find(static_cast<int32_t>(i));
      const int got = found == counts.end() ? 0 : found->second;
      if (p[i] == 0) {
        EXPECT_EQ(got, 0) << "token " << i << " was dropped";
        continue;
      }
      const double expected = p[i] * count;
      EXPECT_LE(std::abs(got - expected), 5 * std::sqrt(expected * (1 - p[i])) + 1)
          << "token " << i;
      chi += (got - expected) * (got - expected) / expected;
      ++cells;
    }
    const double freedom = cells - 1;
    EXPECT_LE(chi, freedom + 5 * std::sqrt(2 * freedom) + 1);
  }

  /// How many draws a statistic takes: where kernels run thread by thread on the host, fewer.
  static int draws(int count) { return GetParam() == "emulated" ? count / 20 : count; }

  std::unique_ptr<Backend> be_;
  Tensor logits_;
};

std::vector<double> softmax(const std::vector<float>& logits, double temperature) {
  const double max = *std::max_element(logits.begin(), logits.end());
  std::vector<double> p;
  double sum = 0;
  for (const float l : logits) sum += p.emplace_back(std::exp((l - max) / temperature));
  for (double& value : p) value /= sum;
  return p;
}

// The stages as they are written down: min-p, top-k, top-p, renormalised.
std::vector<double> filtered(const std::vector<float>& logits, const SampleRow& row) {
  std::vector<double> p = softmax(logits, row.temperature);
  std::vector<size_t> order(p.size());  // likeliest first, of equal ones the lower id
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return p[a] > p[b]; });
  const auto normalise = [&] {
    const double sum = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& value : p) value /= sum;
  };
  const double max = p[order[0]];
  for (double& value : p) {
    if (value < row.min_p * max * (1 - 1e-9)) value = 0;
  }
  if (row.top_k > 0 && row.top_k < static_cast<int>(p.size())) {
    const double lowest = p[order[row.top_k - 1]];
    for (double& value : p) {
      if (value < lowest) value = 0;
    }
  }
  normalise();
  double above = 0;
  const std::vector<double> before = p;
  for (const size_t i : order) {
    if (above >= row.top_p - 1e-9 && i != order[0]) p[i] = 0;
    above += before[i];
  }
  normalise();
  return p;
}

TEST_P(Sampling, GreedyTakesTheLowestOfEquals) {
  for (const int vocab : {1, 2, 5, 16, 17, 100, 131072}) {
    std::vector<float> logits = random_values(vocab, vocab);
    EXPECT_EQ(one(logits, {}).token,
              std::max_element(logits.begin(), logits.end()) - logits.begin());
    if (vocab < 5) continue;
    const float top = *std::max_element(logits.begin(), logits.end()) + 1;
    for (const int where : {vocab - 1, vocab / 2, 1}) {
      logits[where] = top;
      EXPECT_EQ(one(logits, {}).token, where);
    }
  }
  // Filters do not touch greedy rows, nor do other rows.
  const std::vector<float> logits{1, 3, 3, 2};
  EXPECT_EQ(one(logits, {.top_k = 1, .top_p = 0.1f, .min_p = 1}).token, 1);
}

TEST_P(Sampling, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits{0.5f, -1,   2,  0.1f, 1.9f, -3, 0,    1,   -0.5f,
                                  0.7f, 1.2f, -2, 0.3f, 0.3f, -8, 1.5f, 0.9f};
  const int kCount = draws(60000);
  for (const float temperature : {1.0f, 0.5f, 2.0f}) {
    expect_frequencies(histogram(logits, {.temperature = temperature, .seed = 11}, kCount),
                       softmax(logits, temperature), kCount);
  }
}

TEST_P(Sampling, FrequenciesOfALargeFlatVocabulary) {
  // 4096 equal tokens: every lane and block of the noise takes part alike.
  const std::vector<float> logits(4096, 1.0f);
  const int kCount = draws(40000);
  const auto counts = histogram(logits, {.temperature = 1, .seed = 5}, kCount);
  double chi = 0;
  for (int i = 0; i < 4096; ++i) {
    const double got = counts.count(i) ? counts.at(i) : 0, expected = kCount / 4096.0;
    chi += (got - expected) * (got - expected) / expected;
  }
  EXPECT_NEAR(chi, 4095, 5 * std::sqrt(2 * 4095.0));
}

TEST_P(Sampling, UnlikelyTokensAreDrawnAsRarely) {
  // 2000 tokens that share 1 % against one of 99 %.
  std::vector<float> logits(2001, std::log(0.01f / 2000));
  logits[1000] = std::log(0.99f);
  const int kCount = draws(60000);
  const auto counts = histogram(logits, {.temperature = 1, .seed = 3}, kCount);
  const double rare = kCount - counts.at(1000);
  EXPECT_NEAR(rare, 0.01 * kCount, 5 * std::sqrt(0.01 * kCount));
}

TEST_P(Sampling, FiltersKeepExactlyTheirTokens) {
  const std::vector<float> logits{2, 1.5f, 1.5f, 1.5f, 1, 0.5f, 0.5f, 0, -1, -2, 1.25f, 0.75f};
  const int kCount = draws(20000);
  for (const SampleRow& row : {SampleRow{.temperature = 1, .top_k = 1},
                               {.temperature = 1, .top_k = 2},
                               {.temperature = 1, .top_k = 4},
                               {.temperature = 1, .top_k = 11},
                               {.temperature = 1, .top_k = 12},
                               {.temperature = 1, .top_k = 500},
                               {.temperature = 1, .top_p = 0.5f},
                               {.temperature = 1, .top_p = 0.01f},
                               {.temperature = 1, .top_p = 0.95f},
                               {.temperature = 0.7f, .min_p = 0.3f},
                               {.temperature = 1, .min_p = 1},
                               {.temperature = 1, .min_p = 0.01f},
                               {.temperature = 1.3f, .top_k = 7, .top_p = 0.8f},
                               {.temperature = 1.3f, .top_k = 7, .top_p = 0.8f, .min_p = 0.25f},
                               {.temperature = 1, .top_k = 6, .top_p = 0.999f, .min_p = 0.05f}}) {
    SCOPED_TRACE("top_k " + std::to_string(row.top_k) + ", top_p " + std::to_string(row.top_p) +
                 ", min_p " + std::to_string(row.min_p));
    expect_frequencies(histogram(logits, row, kCount), filtered(logits, row), kCount);
  }
}

TEST_P(Sampling, EdgesOfTopP) {
  // Four equal tokens: half of the mass is two of them, the lower ids.
  const auto kept = [&](float top_p) {
    std::set<int32_t> tokens;
    for (const auto& [token, count] :
         histogram({1, 1, 1, 1}, {.temperature = 1, .top_p = top_p}, 400)) {
      tokens.insert(token);
    }
    return tokens;
  };
  EXPECT_EQ(kept(0.5f), (std::set<int32_t>{0, 1}));
  EXPECT_EQ(kept(0.51f), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(kept(1e-6f), (std::set<int32_t>{0}));
  EXPECT_EQ(kept(0.75f), (std::set<int32_t>{0, 1, 2}));
  EXPECT_EQ(kept(1.0f), (std::set<int32_t>{0, 1, 2, 3}));
  // Equal logits beyond the k-th stay.
  EXPECT_EQ(histogram({1, 1, 1, 0}, {.temperature = 1, .top_k = 2}, 400).size(), 3u);
}

TEST_P(Sampling, FiltersOverALargeVocabulary) {
  // Against a full sort, by where the cut falls: every token that may be drawn is drawn or not.
  const int vocab = GetParam() == "emulated" ? 10000 : 50000;
  const int num_drawn = GetParam() == "emulated" ? 60 : 300;
  const std::vector<float> logits = random_values(vocab, 9, 2);
  for (const SampleRow& row :
       {SampleRow{.temperature = 1, .top_k = 3},
        {.temperature = 1, .top_k = 700},
        {.temperature = 1, .top_k = vocab / 5 * 3},
        {.temperature = 1, .top_p = 0.3f},
        {.temperature = 3, .top_p = 0.9f},
        {.temperature = 1, .min_p = 0.02f},
        {.temperature = 0.5f, .top_k = 50, .top_p = 0.9f, .min_p = 0.001f}}) {
    const std::vector<double> p = filtered(logits, row);
    const auto counts = histogram(logits, row, num_drawn);
    double mass = 0;
    for (const auto& [token, count] : counts) {
      EXPECT_GT(p[token], 0) << token;
      mass += p[token];
    }
    // A wrong cut that kept too little would draw few tokens again and again.
    const auto allowed = p.size() - std::count(p.begin(), p.end(), 0.0);
    if (allowed > 2000) {
      EXPECT_GT(std::ssize(counts), num_drawn / 2);
    }
    EXPECT_GT(mass, 0);
  }
}

TEST_P(Sampling, OnlySeedAndPositionDecide) {
  const std::vector<float> logits = random_values(1000, 4);
  const SampleRow row{.temperature = 1, .seed = 42, .position = 7};
  const int32_t token = one(logits, row).token;
  std::vector<SampleRow> many(50, SampleRow{.temperature = 1});
  for (size_t i = 0; i < many.size(); ++i) many[i].seed = i;
  many[31] = row;
  many[12].temperature = 0;
  many[13].top_k = 1;
  EXPECT_EQ(sample(logits, many)[31].token, token);
  // Other seeds and positions decide anew.
  std::set<int32_t> by_seed, by_position;
  for (uint64_t i = 0; i < 60; ++i) {
    by_seed.insert(one(logits, {.temperature = 1, .seed = i, .position = 7}).token);
    by_position.insert(one(logits, {.temperature = 1, .seed = 42, .position = i}).token);
  }
  EXPECT_GT(by_seed.size(), 40u);
  EXPECT_GT(by_position.size(), 40u);
}

// Every instruction set draws the same tokens, so that a seed means the same on every machine.
TEST(SamplingAcrossMachines, SameTokens) {
  const int vocab = 1003;
  const std::vector<float> logits = random_values(vocab, 8, 2);
  std::vector<std::vector<int32_t>> drawn;
  for (const std::string& isa : devices()) {
    const auto be = make_backend(isa);
    const Tensor view = make_tensor(DType::kF32, Shape{1, vocab}, logits);
    Tensor last = be->allocate(DType::kI32, Shape{1});
    std::vector<int32_t> tokens;
    for (uint64_t i = 0; i < 500; ++i) {
      const SampleRow row{.temperature = 0.9f, .top_p = 0.95f, .seed = i * i, .position = i};
      SampledToken out;
      be->sample(view, view, {&row, 1}, last, {&out, 1});
      be->wait(be->submit());
      tokens.push_back(out.token);
    }
    drawn.push_back(tokens);
  }
  for (const auto& tokens : drawn) EXPECT_EQ(tokens, drawn[0]);
}

// One row of a whole vocabulary at a time, which a card spreads over many blocks.
TEST(SamplingAcrossMachines, LongRowsAlone) {
  const int vocab = 50003;
  const std::vector<float> logits = random_values(vocab, 12, 3);
  std::vector<std::vector<int32_t>> drawn;
  for (const std::string& device : devices()) {
    const auto be = make_backend(device);
    const Tensor view = make_tensor(DType::kF32, Shape{1, vocab}, logits);
    Tensor last = be->allocate(DType::kI32, Shape{1});
    drawn.emplace_back();
    for (uint64_t i = 0; i < 12; ++i) {
      const float temperature = i < 8 ? 1.0f + static_cast<float>(i) : 0.0f;
      const SampleRow row{.temperature = temperature, .seed = i, .position = 3};
      SampledToken out;
      be->sample(view, view, {&row, 1}, last, {&out, 1});
      be->wait(be->submit());
      drawn.back().push_back(out.token);
    }
  }
  for (const auto& tokens : drawn) EXPECT_EQ(tokens, drawn[0]);
}

// Rows that are hard to cut: equals by the thousand, spans of many or few binary orders, dropped
// tokens. All devices find the same tokens, ranks and likeliest tokens, rows with all kinds of
// parameters in one batch.
TEST(SamplingAcrossMachines, HardRows) {
  const int vocab = 3 * 2048 + 7;
  const std::vector<float> normal = random_values(vocab, 8, 2);
  const auto made = [&](auto&& of) {
    std::vector<float> out(vocab);
    for (int i = 0; i < vocab; ++i) out[i] = of(i);
    return out;
  };
  const std::vector<std::vector<float>> all{
      normal,
      made([](int) { return 1.5f; }),
      made([&](int i) { return std::round(normal[i]); }),
      made([&](int i) { return i % 3 == 0 ? -INFINITY : std::round(4 * normal[i]) / 4; }),
      made([&](int i) { return 1e-6f * normal[i]; }),
      made([&](int i) { return i == 99 ? 60.0f : normal[i]; }),
      made([&](int i) { return i < 5000 ? (i % 2 ? -0.0f : 0.0f) : -1.0f; }),
      made([&](int i) { return 1e-30f * std::exp2(std::abs(normal[i] * 10)) * (i % 2 ? 1 : -1); }),
      made([&](int i) { return i == 5000 ? 3.0f : -INFINITY; }),
  };
  std::vector<SampleRow> rows;
  for (int i = 0; i < static_cast<int>(all.size()); ++i) {
    for (const SampleRow& row :
         {SampleRow{.num_logprobs = 3},
          {.temperature = 1, .num_logprobs = 0},
          {.temperature = 0.7f, .top_k = 40},
          {.temperature = 1, .top_k = 5000, .num_logprobs = 1000},
          {.temperature = 1, .top_p = 0.9f},
          {.temperature = 2, .top_p = 0.2f},
          {.temperature = 1, .top_k = 4000, .top_p = 0.99f},
          {.temperature = 1.5f, .top_k = 3000, .top_p = 0.5f, .min_p = 0.01f},
          {.temperature = 0.9f, .min_p = 0.2f, .num_logprobs = 2500}}) {
      rows.push_back(row);
      rows.back().row = i;
      rows.back().slot = static_cast<int32_t>(rows.size());
      rows.back().seed = 77 * rows.size();
      rows.back().position = rows.size() % 5;
    }
  }
  std::reverse(rows.begin(), rows.end());
  std::vector<SampledToken> expected;
  for (const std::string& device : devices()) {
    SCOPED_TRACE(device);
    const auto be = make_backend(device);
    const auto count = static_cast<int64_t>(all.size());
    Tensor logits = be->allocate(DType::kF32, Shape{count, vocab + 3});
    for (int64_t i = 0; i < count; ++i) {
      be->upload(logits.view()[i].slice(0, 1, vocab + 1), all[i].data());
    }
    const View view = logits.view().columns(1, vocab + 1);  // rows that start anywhere
    Tensor last = be->allocate(DType::kI32, Shape{std::ssize(rows) + 1});
    std::vector<SampledToken> out(rows.size());
    be->sample(view, view, rows, last, out);
    be->wait(be->submit());
    const std::vector<float> written = values_of(last);
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(written[rows[i].slot], out[i].token) << i;
      if (expected.empty()) continue;
      EXPECT_EQ(out[i].token, expected[i].token) << i;
      EXPECT_EQ(out[i].rank, expected[i].rank) << i;
      EXPECT_NEAR(out[i].logprob, expected[i].logprob, 1e-5) << i;
      ASSERT_EQ(out[i].top_logprobs.size(), expected[i].top_logprobs.size()) << i;
      for (size_t j = 0; j < out[i].top_logprobs.size(); ++j) {
        const auto [token, logprob] = out[i].top_logprobs[j];
        ASSERT_EQ(token, expected[i].top_logprobs[j].first) << i << ' ' << j;
        const float other = expected[i].top_logprobs[j].second;
        ASSERT_TRUE(logprob == other || std::abs(logprob - other) < 1e-5f) << i << ' ' << j;
      }
    }
    if (expected.empty()) expected = out;
  }
}

TEST_P(Sampling, LogprobsAndRanksOfTheRawLogits) {
  const int vocab = 333;
  std::vector<float> raw = random_values(vocab, 2, 2);
  raw[40] = raw[41] = raw[300] = 9;  // equal at the top
  std::vector<float> edited = raw;
  edited[7] = 50;
  Tensor logits = make_tensor(DType::kF32, Shape{1, vocab}, edited);
  Tensor raw_logits = make_tensor(DType::kF32, Shape{1, vocab}, raw);
  Tensor last = be_->allocate(DType::kI32, Shape{4});
  const std::vector<double> p = softmax(raw, 1);
  for (const int wanted : {-1, 0, 1, 2, 5, 332, 333, 1000}) {
    const SampleRow row{.slot = 2, .num_logprobs = wanted};
    std::vector<SampledToken> out(1);
    out[0].top_logprobs.resize(3);  // what an earlier step left
    be_->sample(logits, raw_logits, {&row, 1}, last, out);
    be_->wait(be_->submit());
    EXPECT_EQ(out[0].token, 7);
    EXPECT_EQ(values_of(last), (std::vector<float>{0, 0, 7, 0}));
    if (wanted < 0) {
      EXPECT_TRUE(out[0].top_logprobs.empty());
      continue;
    }
    EXPECT_NEAR(out[0].logprob, std::log(p[7]), 1e-5);
    EXPECT_EQ(out[0].rank,
              1 + std::count_if(raw.begin(), raw.end(), [&](float v) { return v > raw[7]; }));
    const size_t count = std::min(wanted, vocab);
    ASSERT_EQ(out[0].top_logprobs.size(), count);
    std::vector<int32_t> order(vocab);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(),
                     [&](int32_t a, int32_t b) { return raw[a] > raw[b]; });
    for (size_t i = 0; i < count; ++i) {
      EXPECT_EQ(out[0].top_logprobs[i].first, order[i]);
      EXPECT_NEAR(out[0].top_logprobs[i].second, std::log(p[order[i]]), 1e-5);
    }
  }
}

TEST_P(Sampling, MaskedAndBrokenRows) {
  const float inf = INFINITY;
  EXPECT_EQ(one({-inf, -inf, 0, -inf}, {.temperature = 1}).token, 2);
  EXPECT_EQ(one({-inf, -inf, 0, -inf}, {.temperature = 1, .top_p = 0.5f, .min_p = 0.1f}).token, 2);
  EXPECT_EQ(histogram({-inf, 1, -inf, 1}, {.temperature = 1, .top_k = 3}, 200).size(), 2u);
  // Nothing to choose, or nonsense: some token of the vocabulary, and no endless loop.
  for (const std::vector<float>& logits :
       {std::vector<float>{-inf, -inf}, {NAN, NAN}, {inf, 0}, {NAN, 1}, {-inf, NAN}}) {
    for (const SampleRow& row :
         {SampleRow{},
          {.temperature = 1},
          {.temperature = 1, .top_k = 1, .top_p = 0.5f, .min_p = 0.5f, .num_logprobs = 2}}) {
      const int32_t token = one(logits, row).token;
      EXPECT_TRUE(token == 0 || token == 1);
    }
  }
  EXPECT_EQ(one({NAN, 1}, {}).token, 1);
  // Extreme temperatures.
  EXPECT_EQ(one({1, 5, 2}, {.temperature = 0.01f}).token, 1);
  EXPECT_EQ(histogram({1, 5, 2}, {.temperature = 100}, 300).size(), 3u);
}

TEST_P(Sampling, EditsAndPenalties) {
  Tensor logits = make_tensor(DType::kF32, Shape{2, 4}, {1, -2, 3, 4, 5, -6, 7, 8});
  const std::vector<LogitEdit> edits{
      {0, 1, 10, false}, {1, 3, -INFINITY, true}, {1, 3, 100, false}, {1, 0, 2, true}};
  be_->edit_logits(logits, edits);
  EXPECT_EQ(values_of(logits), (std::vector<float>{1, 8, 3, 4, 2, -6, 7, -INFINITY}));

  // Many of one logit, in an order that matters, rows mixed.
  logits = make_tensor(DType::kF32, Shape{2, 2}, {1e8f, 2, 3, 4});
  be_->edit_logits(logits, std::vector<LogitEdit>{{0, 0, 3, false},
                                                  {1, 0, 1, true},
                                                  {0, 0, 3, false},
                                                  {1, 0, 5, false},
                                                  {0, 1, 9, false},
                                                  {0, 1, 7, true},
                                                  {0, 0, 8, false},
                                                  {1, 1, 1, false},
                                                  {1, 1, 2, false},
                                                  {1, 1, 3, true},
                                                  {1, 1, 4, false}});
  EXPECT_EQ(values_of(logits), (std::vector<float>{1e8f + 3 + 3 + 8, 7, 6, 7}));

  logits = make_tensor(DType::kF32, Shape{2, 4}, {1, -2, 3, 4, 5, -6, 7, 8});
  const std::vector<TokenCount> first{{0, 0}, {1, 2}}, second{{1, 1}, {2, 3}};
  const std::vector<PenaltyRow> rows{{0, 2, 0.5f, 0.25f, first}, {1, 1, 1, 0, second}};
  be_->penalize(logits, rows);
  // Prompt tokens count for repetition alone.
  EXPECT_EQ(values_of(logits),
            (std::vector<float>{0.5f, -4 - 2 * 0.5f - 0.25f, 3, 4, 5, -7, 4, 8}));

  // Whole rows of them.
  const int vocab = 1001;
  const std::vector<float> values = random_values(2 * vocab, 3, 5);
  logits = make_tensor(DType::kF32, Shape{2, vocab}, values);
  std::vector<LogitEdit> many;
  std::vector<TokenCount> counts;
  for (int i = 0; i < vocab; ++i) {
    many.push_back({1, i, static_cast<float>(i), i % 2 == 0});
    counts.push_back({vocab - 1 - i, i % 4});
  }
  be_->edit_logits(logits, many);
  be_->penalize(logits, std::vector<PenaltyRow>{{0, 1.3f, 0.1f, 0.2f, counts}, {1, 1, 0, 0, {}}});
  const std::vector<float> got = values_of(logits);
  for (int i = 0; i < vocab; ++i) {
    EXPECT_EQ(got[vocab + i], i % 2 == 0 ? i : values[vocab + i] + i) << i;
    const int seen = (vocab - 1 - i) % 4;
    float logit = values[i] > 0 ? values[i] / 1.3f : values[i] * 1.3f;
    const float frequency = 0.1f * static_cast<float>(seen);
    logit = logit - frequency;
    EXPECT_EQ(got[i], seen > 0 ? logit - 0.2f : logit) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, Sampling, ::testing::ValuesIn(devices()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace videre::testing
