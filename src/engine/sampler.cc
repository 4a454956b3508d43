#include "engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "base/error.h"

namespace videre {
namespace {

constexpr double kGreedyBelow = 1e-5;        // temperature
constexpr double kLowestTemperature = 0.01;  // of what is not greedy
constexpr double kMaxTemperature = 100;
constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

Status check_range(const char* name, double value, double low, double high, bool open_low = false) {
  if (std::isfinite(value) && value <= high && (open_low ? value > low : value >= low)) return {};
  return invalid_argument(name, "{} is {}; it must lie in {}{}, {}]", name, value,
                          open_low ? '(' : '[', low, high);
}

// Word and " word", as they may follow other text.
std::vector<std::vector<int32_t>> bad_word_ids(const std::vector<std::string>& words,
                                               const Tokenizer& tokenizer) {
  std::vector<std::vector<int32_t>> ids;
  for (const std::string& word : words) {
    const size_t first = word.find_first_not_of(' ');
    const std::string bare = first == std::string::npos ? word : word.substr(first);
    for (const std::string& text : {bare, " " + bare}) {
      auto tokens = tokenizer.encode(text, false);
      if (!tokens.empty() && std::find(ids.begin(), ids.end(), tokens) == ids.end()) {
        ids.push_back(std::move(tokens));
      }
    }
  }
  return ids;
}

bool ends_with(const std::vector<int32_t>& tokens, int64_t num_prompt,
               const std::vector<int32_t>& word) {
  const int64_t before = static_cast<int64_t>(word.size()) - 1;
  if (static_cast<int64_t>(tokens.size()) - num_prompt < before) return false;
  return std::equal(word.begin(), word.end() - 1, tokens.end() - before);
}

}  // namespace

Status check_sampling(const SamplingParams& params, int vocab_size, int max_logprobs) {
  if (params.n < 1) return invalid_argument("n", "n is {}; at least 1 is expected", params.n);
  if (params.temperature) {
    VIDERE_RETURN_IF_ERROR(check_range("temperature", *params.temperature, 0, kMaxTemperature));
  }
  if (params.top_p) VIDERE_RETURN_IF_ERROR(check_range("top_p", *params.top_p, 0, 1, true));
  if (params.min_p) VIDERE_RETURN_IF_ERROR(check_range("min_p", *params.min_p, 0, 1));
  if (params.top_k && *params.top_k < -1) {
    return invalid_argument("top_k", "top_k is {}; 0 or -1 (off) or at least 1 is expected",
                            *params.top_k);
  }
  if (params.repetition_penalty) {
    VIDERE_RETURN_IF_ERROR(check_range("repetition_penalty", *params.repetition_penalty, 0,
                                       std::numeric_limits<float>::max(), true));
  }
  VIDERE_RETURN_IF_ERROR(check_range("presence_penalty", params.presence_penalty, -2, 2));
  VIDERE_RETURN_IF_ERROR(check_range("frequency_penalty", params.frequency_penalty, -2, 2));
  if (params.max_tokens && *params.max_tokens < 1) {
    return invalid_argument("max_tokens", "max_tokens is {}; at least 1 is expected",
                            *params.max_tokens);
  }
  if (params.min_tokens < 0 || (params.max_tokens && params.min_tokens > *params.max_tokens)) {
    return invalid_argument("min_tokens", "min_tokens is {}; 0 up to max_tokens is expected",
                            params.min_tokens);
  }
  if (params.num_logprobs < -1 || (max_logprobs >= 0 && params.num_logprobs > max_logprobs)) {
    return invalid_argument("top_logprobs",
                            "top_logprobs is {}; at most {} are given (--max-logprobs)",
                            params.num_logprobs, max_logprobs);
  }
  const auto check_token = [&](const char* name, int64_t id) -> Status {
    if (id >= 0 && id < vocab_size) return {};
    return invalid_argument(name, "{} names token {}; ids are 0 to {}", name, id, vocab_size - 1);
  };
  for (const auto& [id, bias] : params.logit_bias) {
    VIDERE_RETURN_IF_ERROR(check_token("logit_bias", id));
  }
  for (const int64_t id : params.allowed_token_ids) {
    VIDERE_RETURN_IF_ERROR(check_token("allowed_token_ids", id));
  }
  for (const int64_t id : params.stop_token_ids) {
    VIDERE_RETURN_IF_ERROR(check_token("stop_token_ids", id));
  }
  for (const std::string& stop : params.stop) {
    if (stop.empty()) return invalid_argument("stop", "stop holds an empty string");
  }
  for (const std::string& word : params.bad_words) {
    if (word.empty()) return invalid_argument("bad_words", "bad_words holds an empty string");
  }
  return {};
}

Result<ResolvedSampling> resolve_sampling(const SamplingParams& params, const Config& config,
                                          const Tokenizer& tokenizer, int64_t num_prompt,
                                          int64_t max_model_len, uint64_t engine_seed) {
  const Config::Generation& defaults = config.generation;
  ResolvedSampling out;
  const double temperature = params.temperature.value_or(defaults.temperature.value_or(1.0));
  out.temperature = temperature < kGreedyBelow
                        ? 0.0f
                        : static_cast<float>(std::max(temperature, kLowestTemperature));
  out.top_p = static_cast<float>(params.top_p.value_or(defaults.top_p.value_or(1.0)));
  out.min_p = static_cast<float>(params.min_p.value_or(defaults.min_p.value_or(0.0)));
  const int64_t top_k = params.top_k.value_or(defaults.top_k.value_or(0));
  out.top_k = top_k <= 0 || top_k >= config.llm.vocab_size ? 0 : static_cast<int32_t>(top_k);
  out.repetition_penalty = static_cast<float>(
      params.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0)));
  out.presence_penalty = static_cast<float>(params.presence_penalty);
  out.frequency_penalty = static_cast<float>(params.frequency_penalty);
  const int64_t room = max_model_len - num_prompt;
  out.max_tokens =
      std::min(room, params.max_tokens.value_or(defaults.max_new_tokens.value_or(room)));
  out.min_tokens = params.min_tokens;
  if (params.n > 1 && out.temperature == 0) {
    return invalid_argument("n",
                            "n is {}; at temperature 0 all choices would be the same, so n "
                            "must be 1",
                            params.n);
  }
  if (params.seed && *params.seed != -1) {
    out.seed = static_cast<uint64_t>(*params.seed);
  } else {
    static thread_local std::mt19937_64 generator{std::random_device{}() ^ engine_seed};
    out.seed = generator();
  }
  out.num_logprobs =
      static_cast<int32_t>(std::min<int64_t>(params.num_logprobs, config.llm.vocab_size));
  out.primary_eos_id = config.primary_eos_id;
  if (!params.ignore_eos)
    out.eos_ids.assign(config.eos_token_ids.begin(), config.eos_token_ids.end());
  for (const int64_t id : params.stop_token_ids)
    out.stop_token_ids.push_back(static_cast<int32_t>(id));
  for (const auto& [id, bias] : params.logit_bias) {
    out.logit_bias.emplace_back(static_cast<int32_t>(id),
                                static_cast<float>(std::clamp(bias, -100.0, 100.0)));
  }
  for (const int64_t id : params.allowed_token_ids) {
    out.allowed_token_ids.push_back(static_cast<int32_t>(id));
  }
  std::sort(out.allowed_token_ids.begin(), out.allowed_token_ids.end());
  out.bad_words = bad_word_ids(params.bad_words, tokenizer);
  return out;
}

void build_sampling(const std::vector<std::shared_ptr<Sequence>>& sequences, int vocab_size,
                    SamplingBatch& out) {
  out.edits.clear();
  out.penalties.clear();
  out.rows.clear();
  out.keep_raw = false;
  for (size_t i = 0; i < sequences.size(); ++i) {
    Sequence& sequence = *sequences[i];
    const ResolvedSampling& sampling = sequence.sampling();
    const int32_t row = static_cast<int32_t>(i);
    const size_t edits_before = out.edits.size();
    // The token at hand is already counted as pending.
    const int64_t position = sequence.num_outputs() - 1;
    const auto ban = [&](int32_t token) {
      out.edits.push_back({row, token, kMinusInfinity, true});
    };
    if (!sampling.allowed_token_ids.empty()) {
      auto allowed = sampling.allowed_token_ids.begin();
      for (int32_t token = 0; token < vocab_size; ++token) {
        while (allowed != sampling.allowed_token_ids.end() && *allowed < token) ++allowed;
        if (allowed == sampling.allowed_token_ids.end() || *allowed != token) ban(token);
      }
    }
    for (const auto& word : sampling.bad_words) {
      if (ends_with(sequence.tokens, sequence.num_prompt, word)) ban(word.back());
    }
    if (position < sampling.min_tokens) {
      for (const int32_t token : sampling.eos_ids) ban(token);
      for (const int32_t token : sampling.stop_token_ids) ban(token);
    }
    for (const auto& [token, bias] : sampling.logit_bias) {
      out.edits.push_back({row, token, bias, false});
    }
    if (sampling.has_penalties()) {
      out.penalties.push_back({row, sampling.repetition_penalty, sampling.frequency_penalty,
                               sampling.presence_penalty, sequence.penalty_tokens});
    }
    if (sampling.num_logprobs >= 0 &&
        (out.edits.size() > edits_before || sampling.has_penalties())) {
      out.keep_raw = true;
    }
    SampleRow sample;
    sample.row = row;
    sample.slot = sequence.memory.slot;
    sample.temperature = sampling.temperature;
    sample.top_k = sampling.top_k;
    sample.top_p = sampling.top_p;
    sample.min_p = sampling.min_p;
    sample.seed = sequence.seed();
    sample.position = static_cast<uint64_t>(position);
    sample.num_logprobs = sampling.num_logprobs;
    out.rows.push_back(sample);
  }
}

void count_for_penalties(Sequence& sequence, int32_t token, bool output) {
  const auto [found, added] = sequence.penalty_index.try_emplace(
      token, static_cast<int32_t>(sequence.penalty_tokens.size()));
  if (added) sequence.penalty_tokens.push_back({token, 0});
  if (output) ++sequence.penalty_tokens[found->second].output_count;
}

}  // namespace videre
