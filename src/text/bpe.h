// The vocabulary and merges of a byte-level BPE: bytes of one piece of text to ids. Tokens are kept
// as the bytes they stand for; the printable alphabet of tokenizer.json is left behind at loading.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/json.h"

namespace videre {

/// Bytes of `token` when all its characters are of the byte-level alphabet.
std::optional<std::string> byte_level_decode(std::string_view token);

/// `bytes` in the byte-level alphabet, as vocabularies spell them.
std::string byte_level_encode(std::string_view bytes);

/// Immutable once read.
class Bpe {
 public:
  /// From the "model" object of tokenizer.json. Errors: kInvalidModel names the field.
  static Result<Bpe> read(const json::value& model);

  /// Per-thread working memory, with results of earlier pieces.
  struct Scratch {
    struct Remembered {
      std::array<char, 31> piece;
      uint8_t length = 0;
      uint8_t num_ids = 0;
      std::array<int32_t, 8> ids;
    };
    std::vector<Remembered> cache;
    std::vector<int32_t> ids;
    std::vector<uint32_t> ranks;
  };

  /// Appends the ids of `piece`.
  void encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const;

  std::optional<int32_t> id_of_bytes(std::string_view bytes) const;
  /// By the vocabulary's own spelling, in the byte-level alphabet or not.
  std::optional<int32_t> id_of_entry(std::string_view entry) const;
  /// Bytes a token stands for; the entry itself where it is not of the alphabet.
  std::string_view bytes_of(int32_t id) const {
    if (id < 0 || id >= vocab_size()) return {};
    return {text_.data() + tokens_[id].begin, tokens_[id].length};
  }
  int vocab_size() const { return static_cast<int>(tokens_.size()); }

 private:
  struct Merge {
    uint64_t pair;  // left id << 32 | right id; kNoPair where empty
    uint32_t rank;
    int32_t id;
  };
  static constexpr uint64_t kNoPair = ~uint64_t{0};
  static constexpr uint32_t kNoRank = ~uint32_t{0};

  Status read_vocab(const json::object& vocab);
  Status read_merges(const json::array& merges);
  void read_alphabet(std::optional<int32_t> unk_id);
  const Merge* find_merge(int32_t left, int32_t right) const;
  void insert_merge(int32_t left, int32_t right, uint32_t rank, int32_t id);
  void first_symbols(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_short(Scratch& scratch) const;
  void merge_long(std::vector<int32_t>& ids) const;

  bool ignore_merges_ = false, byte_fallback_ = false, fuse_unk_ = false;

  // Tokens of up to 8 bytes are found without touching their text.
  struct Slot {
    uint64_t word = 0;  // the bytes, or their hash when longer
    uint32_t length = 0;
    int32_t id = -1;  // -1: empty
  };
  struct Token {
    uint32_t begin = 0, length = 0;  // in text_
    bool present = false;
  };
  std::string text_;
  std::vector<Token> tokens_;                           // by id
  std::vector<Slot> by_bytes_;                          // open addressing over the bytes' hash
  std::unordered_map<std::string, int32_t> unspelled_;  // entries outside the alphabet
  std::vector<Merge> merges_;                           // open addressing over the pair

  // What one byte becomes before merging: its own token, else its UTF-8's fallback tokens, else
  // unk.
  struct Symbols {
    enum class Kind : uint8_t { kToken, kFallback, kUnknown, kDropped } kind = Kind::kDropped;
    uint8_t count = 0;
    std::array<int32_t, 2> ids{};
  };
  std::array<Symbols, 256> alphabet_;
  bool full_alphabet_ = true;
};

}  // namespace videre
