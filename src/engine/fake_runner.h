// A device and model for tests: every sequence's next token is a hash of all tokens and media rows
// before it, kept the way real memory is kept, in slots, blocks and an arena. Whatever the
// scheduler does wrong with them changes the tokens or trips a check.
#pragma once

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "engine/engine_core.h"

namespace videre {

inline uint64_t mix(uint64_t state, uint64_t value) {
  state ^= value + 0x9e3779b97f4a7c15ull + (state << 6) + (state >> 2);
  state *= 0xbf58476d1ce4e5b9ull;
  return state ^ (state >> 29);
}

constexpr int32_t kFakeVocab = 50;
constexpr uint64_t kEmptyState = 1;

inline int32_t fake_token(uint64_t state, uint64_t seed, uint64_t position) {
  return static_cast<int32_t>(mix(mix(state, seed), position) % kFakeVocab);
}
/// What a media row looks like to the model.
inline uint64_t fake_row(const std::string& key, int64_t row) {
  return mix(std::hash<std::string>()(key), static_cast<uint64_t>(row)) | (1ull << 63);
}
/// Kept rows of each frame of a pruned clip: all of the first, the rest spread by a hash.
inline std::vector<int64_t> fake_rows_per_frame(const EncodedItem& item, int tokens_per_tile) {
  std::vector<int64_t> rows(item.num_tiles, item.pruned ? 0 : tokens_per_tile);
  if (!item.pruned) return rows;
  int64_t left = item.num_rows;
  for (int round = 0; left > 0; ++round) {
    for (int i = 0; i < item.num_tiles && left > 0; ++i) {
      if (rows[i] >= tokens_per_tile) continue;
      const bool takes = i == 0 || mix(std::hash<std::string>()(item.key), i * 31 + round) % 2;
      rows[i] += takes;
      left -= takes;
    }
  }
  return rows;
}

class FakeRunner final : public Runner {
 public:
  FakeRunner(int64_t num_blocks, int block_size, int64_t num_slots, int64_t encoder_rows,
             int tokens_per_tile)
      : block_size_(block_size),
        tokens_per_tile_(tokens_per_tile),
        kv_(num_blocks * block_size, 0),
        states_(num_slots, 0),
        last_tokens_(num_slots, -1),
        arena_(encoder_rows, 0) {}

  int64_t num_launched = 0, most_tokens = 0;
  bool poison_next = false;  // the next sampled token is not a number

  void launch(const StepPlan& plan) override {
    ++num_launched;
    most_tokens = std::max(most_tokens, plan.num_tokens);
    for (const EncodeSlice& slice : plan.encodes) {
      EncodedItem& item = *slice.item;
      EXPECT_FALSE(item.ready);
      if (slice.end < item.num_tiles) continue;
      item.rows_per_frame = fake_rows_per_frame(item, tokens_per_tile_);
      if (item.pruned) {  // rows that are chosen lie in any order
        item.order.resize(item.num_rows);
        std::iota(item.order.rbegin(), item.order.rend(), 0);
      }
      for (int32_t row = 0; row < item.num_rows; ++row) {
        arena_.at(item.row_begin + item.row(row)) = fake_row(item.key, row);
      }
      item.ready = true;
    }
    std::set<int32_t> slots;
    std::vector<SampledToken> tokens;
    std::vector<std::pair<int32_t, uint64_t>> emitted;
    for (const BatchRow& row : plan.rows) {
      Sequence& sequence = *row.sequence;
      const int32_t slot = sequence.memory.slot;
      EXPECT_TRUE(slots.insert(slot).second) << "slot " << slot << " twice in a step";
      EXPECT_GT(slot, 0);
      uint64_t state = row.begin == 0 ? kEmptyState : states_.at(slot);
      // The blocks must hold exactly what the state has seen.
      uint64_t seen = kEmptyState;
      for (int64_t at = 0; at < row.begin; ++at) seen = mix(seen, kv_.at(place(sequence, at)));
      EXPECT_EQ(seen, state) << "blocks and state differ at " << row.begin;
      for (int64_t at = row.begin; at < row.begin + row.count; ++at) {
        uint64_t value = at < static_cast<int64_t>(sequence.tokens.size())
                             ? static_cast<uint64_t>(sequence.tokens[at])
                             : static_cast<uint64_t>(last_tokens_.at(slot));
        for (const SpanProgress& progress : sequence.spans) {
          const int64_t offset = at - progress.span->begin;
          if (offset < 0 || offset >= progress.span->length) continue;
          const int32_t media_row = progress.row_of.at(offset);
          if (media_row < 0) continue;
          EXPECT_TRUE(progress.item->ready);
          value = arena_.at(progress.item->row_begin + media_row);
        }
        kv_.at(place(sequence, at)) = value;
        state = mix(state, value);
      }
      states_.at(slot) = state;
      for (const auto& fork : row.forks) emitted.emplace_back(fork->memory.slot, state);
      if (!row.sample) continue;
      const auto sample = [&](const Sequence& to) {
        SampledToken token;
        token.token = fake_token(state, to.seed(), static_cast<uint64_t>(to.num_outputs() - 1));
        if (poison_next) token.token = -1;
        poison_next = false;
        last_tokens_.at(to.memory.slot) = token.token;
        tokens.push_back(token);
      };
      sample(sequence);
      for (const auto& fork : row.forks) sample(*fork);
    }
    for (const auto& [slot, state] : emitted) states_.at(slot) = state;
    for (const BlockCopy& copy : plan.block_copies) {
      std::copy_n(kv_.begin() + copy.from * block_size_, block_size_,
                  kv_.begin() + copy.to * block_size_);
    }
    launched_.push_back(std::move(tokens));
  }

  std::vector<SampledToken> collect() override {
    std::vector<SampledToken> tokens = std::move(launched_.front());
    launched_.pop_front();
    return tokens;
  }

 private:
  int64_t place(const Sequence& sequence, int64_t at) const {
    const int32_t block = sequence.memory.blocks.at(at / block_size_);
    EXPECT_GT(block, 0);
    return block * block_size_ + at % block_size_;
  }

  int block_size_, tokens_per_tile_;
  std::vector<uint64_t> kv_, states_;
  std::vector<int32_t> last_tokens_;
  std::vector<uint64_t> arena_;
  std::deque<std::vector<SampledToken>> launched_;
};

}  // namespace videre
