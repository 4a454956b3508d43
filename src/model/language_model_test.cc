// The same tokens give the same logits, however a prompt is cut and whatever else runs in the step.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <random>

#include "model/testing.h"

namespace videre::testing {
namespace {

class SamePrompt : public ::testing::TestWithParam<std::pair<std::string, std::string>> {
 protected:
  SamePrompt()
      : set_(GetParam().first),
        be_(make_backend(GetParam().second)),
        model_(set_.load(*be_, DType::kF32)),
        sequences_(*be_, model_->language(), DType::kF32),
        prompt_(set_.ids("llm.ids_300")),
        whole_(sequences_.step({{0, prompt_}})[0]),
        vocab_(model_->config().llm.vocab_size) {
    sequences_.reset();
  }

  std::vector<int32_t> part(int begin, int end) const {
    return {prompt_.begin() + begin, prompt_.begin() + end};
  }
  std::vector<int32_t> other_prompt(int length, uint32_t seed) const {
    std::mt19937 generator(seed);
    std::uniform_int_distribution<int32_t> any(0, static_cast<int32_t>(vocab_) - 1);
    std::vector<int32_t> ids(length);
    for (int32_t& id : ids) id = any(generator);
    return ids;
  }
  /// Logits of the prompt's rows from `begin` on, against those of the prompt in one piece.
  void expect_same(const std::vector<float>& logits, int begin, const std::string& what) const {
    const auto first = whole_.begin() + begin * vocab_;
    const std::vector<float> expected(first, first + std::ssize(logits));
    ASSERT_LE(max_error(logits, expected), tolerance::kSamePrompt) << what;
  }
  int length() const { return static_cast<int>(prompt_.size()); }

  ReferenceSet set_;
  std::unique_ptr<Backend> be_;
  std::unique_ptr<NemotronVl> model_;
  Sequences sequences_;
  std::vector<int32_t> prompt_;
  std::vector<float> whole_;
  int64_t vocab_;
};

TEST_P(SamePrompt, CutAtEveryPosition) {
  const int chunk = model_->config().llm.chunk_size;
  // Every position with the best kernels; the others differ from them in no index.
  const int stride = GetParam().second == isas().back() ? 1 : 19;
  for (int cut = 1; cut < length(); ++cut) {
    if (cut % stride != 0 && cut % chunk != 0) continue;
    sequences_.reset();
    const auto first = sequences_.step({{0, part(0, cut)}})[0];
    const auto second = sequences_.step({{0, part(cut, length())}})[0];
    expect_same(first, 0, "before the cut at " + std::to_string(cut));
    expect_same(second, cut, "after the cut at " + std::to_string(cut));
    if (cut % chunk == 0) {
      // A cut between chunks of the scan changes no bit.
      EXPECT_TRUE(std::equal(first.begin(), first.end(), whole_.begin())) << cut;
      EXPECT_TRUE(std::equal(second.begin(), second.end(), whole_.begin() + cut * vocab_)) << cut;
    }
  }
}

TEST_P(SamePrompt, TokenByToken) {
  for (int i = 0; i < length(); ++i) {
    expect_same(sequences_.step({{0, part(i, i + 1)}})[0], i, "token " + std::to_string(i));
  }
}

TEST_P(SamePrompt, InPiecesOfEverySize) {
  for (const int size : {2, 3, 5, 8, 9, 12, 13, 17, 31, 33, 63, 64, 65, 127, 129}) {
    sequences_.reset();
    for (int begin = 0; begin < length(); begin += size) {
      const int end = std::min(length(), begin + size);
      expect_same(sequences_.step({{0, part(begin, end)}})[0], begin,
                  "pieces of " + std::to_string(size) + ", at " + std::to_string(begin));
    }
  }
}

TEST_P(SamePrompt, InCompany) {
  std::mt19937 generator(7);
  for (int round = 0; round < 4; ++round) {
    sequences_.reset();
    std::vector<std::vector<int32_t>> others;
    for (int seq = 1; seq < 6; ++seq) others.push_back(other_prompt(300, 10 * round + seq));
    int done = 0;
    while (done < length()) {
      const int mine =
          std::min<int>(length() - done, std::uniform_int_distribution<int>(1, 90)(generator));
      const int place = static_cast<int>(generator() % 6);
      std::vector<Piece> pieces;
      for (int seq = 1; seq < 6; ++seq) {
        if (static_cast<int>(pieces.size()) == place)
          pieces.push_back({0, part(done, done + mine)});
        const int at = sequences_.length(seq);
        const int count = std::min<int>(300 - at, seq % 2 ? 1 : static_cast<int>(generator() % 60));
        if (count == 0) continue;
        const auto begin = others[seq - 1].begin() + at;
        pieces.push_back({seq, {begin, begin + count}});
      }
      if (static_cast<int>(pieces.size()) <= place) pieces.push_back({0, part(done, done + mine)});
      StepOptions options;
      options.pad_rows = static_cast<int>(generator() % 20);
      options.pad_seqs = static_cast<int>(generator() % 4);
      const auto logits = sequences_.step(pieces, options);
      for (size_t i = 0; i < pieces.size(); ++i) {
        if (pieces[i].seq == 0) expect_same(logits[i], done, "at " + std::to_string(done));
      }
      done += mine;
    }
  }
}

TEST_P(SamePrompt, EmittedStates) {
  // The state after row r goes to another sequence's slot; that one goes on from there.
  const int chunk = model_->config().llm.chunk_size;
  for (const int start : {0, 1, chunk - 1, chunk}) {
    std::vector<int> rows{0, 1, 2, chunk - 2, chunk - 1, chunk, chunk + 5, 150};
    sequences_.reset();
    if (start > 0) sequences_.step({{0, part(0, start)}});
    StepOptions options;
    int to = 1;
    for (const int row : rows) {
      if (to < 8) options.emits.push_back({0, row, to++});
    }
    expect_same(sequences_.step({{0, part(start, length())}}, options)[0], start, "with emits");
    for (const auto& emit : options.emits) {
      const int kept = start + emit.row + 1;
      sequences_.fork(0, emit.to_seq, kept);
      expect_same(sequences_.step({{emit.to_seq, part(kept, length())}})[0], kept,
                  "from the state after " + std::to_string(kept) + " tokens");
    }
  }
}

TEST_P(SamePrompt, AgainAfterPreemptionGivesTheSameBits) {
  sequences_.step({{0, part(0, 100)}, {1, other_prompt(50, 3)}});
  sequences_.reset();
  EXPECT_EQ(sequences_.step({{0, prompt_}})[0], whole_);
}

TEST_P(SamePrompt, MediaRowsReplaceTextRows) {
  // Rows of the arena stand in for tokens: with the same embeddings, nothing changes.
  Recorder recorder(*be_);
  sequences_.step({{0, prompt_}});
  const std::vector<float> embedded = recorder["llm.hidden.0"];
  const int64_t hidden = model_->config().llm.hidden_size;
  sequences_.reset();
  StepOptions options;
  std::vector<int32_t> ids = prompt_;
  for (int row = 20; row < 120; row += 3) {
    options.media.emplace_back(row, std::vector<float>(embedded.begin() + row * hidden,
                                                       embedded.begin() + (row + 1) * hidden));
    ids[row] = 0;
  }
  options.pad_rows = 5;
  EXPECT_EQ(sequences_.step({{0, ids}}, options)[0], whole_);
}

std::vector<std::pair<std::string, std::string>> same_prompt_cases() {
  std::vector<std::pair<std::string, std::string>> all;
  for (const std::string& folder : reference_folders()) {
    for (const std::string& device : devices()) {
      if (device != "emulated") all.emplace_back(folder, device);  // minutes there
    }
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(Sets, SamePrompt, ::testing::ValuesIn(same_prompt_cases()),
                         [](const auto& info) {
                           return name_of(info.param.first) + "_" + info.param.second;
                         });

}  // namespace
}  // namespace videre::testing
