// For tests: a reference set (checkpoint and golden outputs), and sequences that run through a
// model step by step as the engine would run them.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "backend/testing.h"
#include "base/json.h"
#include "base/mapped_file.h"
#include "model/evs.h"
#include "model/nemotron_vl.h"
#include "model/tolerances.h"

namespace videre::testing {

/// tests/tiny-b, and the folders in VIDERE_FIXTURES (colon-separated), laid out alike.
inline std::vector<std::string> reference_folders() {
  std::vector<std::string> folders{std::string(VIDERE_TEST_DATA) + "/tiny-b"};
  const char* more = std::getenv("VIDERE_FIXTURES");
  std::string rest = more == nullptr ? "" : more;
  while (!rest.empty()) {
    const size_t colon = rest.find(':');
    if (colon != 0) folders.push_back(rest.substr(0, colon));
    rest = colon == rest.npos ? "" : rest.substr(colon + 1);
  }
  return folders;
}

inline std::string name_of(const std::string& folder) {
  std::string name = std::filesystem::path(folder).filename().string();
  for (char& c : name) c = std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  return name;
}

class ReferenceSet {
 public:
  explicit ReferenceSet(const std::string& folder) : folder_(folder) {
    file_ = MappedFile::open(folder + "/golden.safetensors").value();
    tensors_ = read_safetensors(*file_).value();
    json_ = parse_json(read_text_file(folder + "/golden.json", 64u << 20).value(), "golden.json")
                .value();
  }

  bool has(const std::string& name) const { return tensors_.count(name) != 0; }
  ConstView view(const std::string& name) const {
    VIDERE_CHECK(has(name)) << name;
    return tensors_.at(name).view;
  }
  /// The same in memory of its own, where every device can read it.
  Tensor copy(const std::string& name) const {
    return make_tensor(view(name).dtype(), view(name).shape(), values(name));
  }
  std::vector<float> values(const std::string& name) const { return values_of(view(name)); }
  std::vector<int32_t> ids(const std::string& name) const {
    std::vector<int32_t> ids;
    for (const float id : values(name)) ids.push_back(static_cast<int32_t>(id));
    return ids;
  }
  /// Names that begin so, without the beginning.
  std::vector<std::string> names(const std::string& prefix) const {
    std::vector<std::string> found;
    for (const auto& [name, tensor] : tensors_) {
      if (name.starts_with(prefix)) found.push_back(name.substr(prefix.size()));
    }
    return found;
  }
  const json::value& json() const { return json_; }

  std::unique_ptr<NemotronVl> load(Backend& be, DType dtype,
                                   const std::string& checkpoint = "checkpoint") const {
    const std::string folder = folder_ + "/" + checkpoint;
    auto config = load_config(folder);
    VIDERE_CHECK(config.ok()) << config.error().message;
    auto model = NemotronVl::load(folder, *config, be, dtype, false);
    VIDERE_CHECK(model.ok()) << model.error().message;
    return std::move(model).value();
  }

 private:
  std::string folder_;
  std::shared_ptr<MappedFile> file_;
  std::map<std::string, StoredTensor> tensors_;
  json::value json_;
};

inline double std_of(const std::vector<float>& values) {
  double sum = 0, squares = 0;
  for (const float v : values) sum += v;
  const double mean = sum / static_cast<double>(values.size());
  for (const float v : values) squares += (v - mean) * (v - mean);
  return std::sqrt(squares / static_cast<double>(values.size()));
}

/// Largest difference over the reference's standard deviation; infinite when one is NaN.
inline double max_error(const std::vector<float>& got, const std::vector<float>& expected) {
  VIDERE_CHECK_EQ(got.size(), expected.size());
  double worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double difference = std::abs(double{got[i]} - expected[i]);
    if (!(difference <= worst)) worst = std::isnan(difference) ? INFINITY : difference;
  }
  return worst / std_of(expected);
}

inline double cosine(const std::vector<float>& a, const std::vector<float>& b) {
  VIDERE_CHECK_EQ(a.size(), b.size());
  double ab = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    ab += double{a[i]} * b[i];
    aa += double{a[i]} * a[i];
    bb += double{b[i]} * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

inline double relative_error(const std::vector<float>& got, const std::vector<float>& expected) {
  VIDERE_CHECK_EQ(got.size(), expected.size());
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += (double{got[i]} - expected[i]) * (double{got[i]} - expected[i]);
    norm += double{expected[i]} * expected[i];
  }
  return std::sqrt(difference / norm);
}

/// A tensor of an activation dtype against the float32 reference, by that dtype's tolerance.
inline void expect_close(const std::vector<float>& got, const std::vector<float>& expected,
                         DType dtype, const std::string& what) {
  ASSERT_EQ(got.size(), expected.size()) << what;
  if (dtype == DType::kF32) {
    EXPECT_LE(max_error(got, expected), tolerance::kFloat32) << what;
  } else {
    EXPECT_GT(cosine(got, expected), tolerance::kBFloat16Cosine) << what;
  }
}

/// Observed tensors by name; the last of a name wins.
class Recorder {
 public:
  explicit Recorder(Backend& be) : be_(be) {
    be.set_observer([this](std::string_view name, ConstView view) {
      tensors_[std::string(name)] = values_of(view);
    });
  }
  ~Recorder() { be_.set_observer({}); }
  const std::vector<float>& operator[](const std::string& name) {
    EXPECT_TRUE(tensors_.count(name)) << name << " was not observed";
    return tensors_[name];
  }

 private:
  Backend& be_;
  std::map<std::string, std::vector<float>> tensors_;
};

/// Tokens of one sequence in a step.
struct Piece {
  int seq;
  std::vector<int32_t> ids;
};
struct StepOptions {
  int pad_rows = 0, pad_seqs = 0;
  struct Emit {
    int piece, row, to_seq;
  };
  std::vector<Emit> emits;                                // sorted by piece, then row
  std::vector<std::pair<int, std::vector<float>>> media;  // row of the batch, its embedding
};

/// Sequences over one model's caches, a slot and a run of blocks each.
class Sequences {
 public:
  Sequences(Backend& be, const LanguageModel& model, DType dtype, int num_sequences = 8,
            int max_length = 400,
            CacheOptions caches = {.kv_dtype = DType::kF32, .conv_dtype = DType::kF32})
      : be_(be), model_(model), dtype_(dtype), lengths_(num_sequences, 0) {
    blocks_each_ = (max_length + caches.block_size - 1) / caches.block_size;
    caches.num_blocks = 1 + int64_t{blocks_each_} * num_sequences;
    caches.num_slots = 1 + num_sequences;
    caches_ = model.make_caches(be, caches);
    ws_ = model.make_workspace(be, dtype, max_rows_, max_rows_);
  }

  void reset() { std::fill(lengths_.begin(), lengths_.end(), 0); }
  int length(int seq) const { return lengths_[seq]; }
  /// The token that an id of -1 - slot(seq) stands for.
  void set_last_token(int seq, int32_t token) {
    caches_.last_tokens.view().data<int32_t>()[slot(seq)] = token;
  }
  static int32_t slot(int seq) { return 1 + seq; }
  /// Makes `to` a copy of `from` at `length` tokens, whose states were emitted to it.
  void fork(int from, int to, int length) {
    lengths_[to] = length;
    for (const auto* caches : {&caches_.k, &caches_.v}) {
      for (const Tensor& cache : *caches) {
        const View all = cache;
        for (int i = 0; i < blocks_each_; ++i) be_.copy(all[block(to, i)], all[block(from, i)]);
      }
    }
  }

  /// Runs one step and returns the logits of every row of each piece, [rows * vocab].
  std::vector<std::vector<float>> step(const std::vector<Piece>& pieces,
                                       const StepOptions& options = {}) {
    StepArrays arrays(blocks_each_);
    std::vector<int32_t> ids;
    for (const Piece& piece : pieces) {
      std::vector<int32_t> blocks;
      for (int i = 0; i < blocks_each_; ++i) blocks.push_back(block(piece.seq, i));
      const int context = lengths_[piece.seq];
      arrays.add(static_cast<int>(piece.ids.size()), context,
                 context == 0 ? kNoSlot : slot(piece.seq), slot(piece.seq), blocks);
      ids.insert(ids.end(), piece.ids.begin(), piece.ids.end());
      lengths_[piece.seq] += static_cast<int>(piece.ids.size());
    }
    for (const auto& emit : options.emits) arrays.emit(emit.piece, emit.row, slot(emit.to_seq));
    const int rows = arrays.num_rows();
    const StepView step = arrays.view(options.pad_rows, options.pad_seqs);
    VIDERE_CHECK_LE(step.num_tokens, max_rows_);
    ids.resize(step.num_tokens, 0);

    LanguageInput input;
    const View id_view(ids.data(), DType::kI32, Shape{step.num_tokens});
    input.token_ids = id_view;
    std::vector<int32_t> media_rows(step.num_tokens, -1);
    std::vector<float> arena;
    for (const auto& [row, embedding] : options.media) {
      media_rows[row] = static_cast<int32_t>(arena.size() / embedding.size());
      arena.insert(arena.end(), embedding.begin(), embedding.end());
    }
    Tensor arena_tensor;
    if (!options.media.empty()) {
      arena_tensor =
          make_tensor(dtype_, Shape{std::ssize(options.media), model_.config().hidden_size}, arena);
      input.media_arena = arena_tensor;
      input.media_rows = View(media_rows.data(), DType::kI32, Shape{step.num_tokens});
      input.has_media = true;
    }
    model_.forward(be_, step, input, caches_, ws_);

    std::vector<int32_t> all(rows);
    for (int i = 0; i < rows; ++i) all[i] = i;
    const int vocab = model_.config().vocab_size;
    Tensor out = make_host_tensor(DType::kF32, Shape{rows, vocab});
    model_.logits(be_, View(all.data(), DType::kI32, Shape{rows}), ws_, out);
    std::vector<std::vector<float>> result;
    int row = 0;
    for (const Piece& piece : pieces) {
      const int count = static_cast<int>(piece.ids.size());
      result.push_back(values_of(out.view().rows(row, row + count)));
      row += count;
    }
    return result;
  }

 private:
  int32_t block(int seq, int i) const {
    // Not in order, so that nothing depends on neighbouring blocks.
    return 1 + seq * blocks_each_ + (i * 7 + 3) % blocks_each_;
  }

  Backend& be_;
  const LanguageModel& model_;
  DType dtype_;
  std::vector<int> lengths_;
  int blocks_each_ = 0;
  int max_rows_ = 512;
  LanguageCaches caches_;
  LanguageWorkspace ws_;
};

}  // namespace videre::testing
