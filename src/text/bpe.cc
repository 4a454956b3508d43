#include "text/bpe.h"

#include <algorithm>
#include <cstring>
#include <queue>

#include "base/error.h"
#include "text/utf8.h"

namespace videre {
namespace {

constexpr int64_t kMaxId = 1 << 22;       // bounds the id table; vocabularies have up to 300k
constexpr size_t kShortPiece = 40;        // symbols; above it a heap beats scanning for the minimum
constexpr size_t kCacheSlots = 1u << 12;  // 280 KB a thread

uint64_t mix(uint64_t a, uint64_t b) {
  const auto product = static_cast<unsigned __int128>(a) * b;
  return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
}

// Tells apart all texts of one length up to 8 bytes; loads of fixed size, since a variable memcpy
// is a call.
uint64_t short_word(const char* p, size_t length) {
  uint64_t word = 0;
  if (length == 8) {
    std::memcpy(&word, p, 8);
  } else if (length >= 4) {
    uint32_t low, high;
    std::memcpy(&low, p, 4);
    std::memcpy(&high, p + length - 4, 4);
    word = static_cast<uint64_t>(high) << 32 | low;
  } else if (length > 0) {
    const auto byte = [&](size_t at) { return static_cast<uint64_t>(static_cast<uint8_t>(p[at])); };
    word = byte(0) | byte(length / 2) << 8 | byte(length - 1) << 16;
  }
  return word;
}

struct Hashed {
  uint64_t word;  // short_word up to 8 bytes, the hash beyond
  uint64_t hash;
};

Hashed hash_bytes(std::string_view bytes) {
  const char* p = bytes.data();
  size_t left = bytes.size();
  uint64_t hash = 0x9E3779B97F4A7C15u ^ left;
  for (; left > 8; left -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    hash = mix(hash ^ word, 0xA0761D6478BD642Fu);
  }
  const uint64_t word = short_word(p, left);
  hash = mix(hash ^ word, 0xE7037ED1A0B428DBu);
  return {bytes.size() <= 8 ? word : hash, hash};
}

size_t table_size(size_t count) {
  size_t size = 16;
  while (size < count * 2) size *= 2;
  return size;
}

// The printable character of each byte: itself where it prints, else 256, 257, ... in byte order.
struct Alphabet {
  std::array<char32_t, 256> of_byte;
  std::array<int16_t, 324> of_character;  // -1: not of the alphabet

  constexpr Alphabet() : of_byte(), of_character() {
    for (int16_t& byte : of_character) byte = -1;
    char32_t next = 256;
    for (int byte = 0; byte < 256; ++byte) {
      const bool prints =
          (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
      of_byte[byte] = prints ? byte : next++;
      of_character[of_byte[byte]] = static_cast<int16_t>(byte);
    }
  }
};
constexpr Alphabet kAlphabet;

// Appends the bytes of `token`; false, with nothing appended, when it is not of the alphabet.
bool append_decoded(std::string& out, std::string_view token) {
  const size_t before = out.size();
  for (size_t at = 0; at < token.size(); ++at) {
    const auto lead = static_cast<uint8_t>(token[at]);
    size_t character = lead;
    if (lead >= 0x80) {  // all of the alphabet beyond ASCII takes two bytes
      const bool two = (lead & 0xE0) == 0xC0 && at + 1 < token.size();
      character = two ? (lead & 0x1Fu) << 6 | (static_cast<uint8_t>(token[++at]) & 0x3Fu) : ~0u;
    }
    if (character >= kAlphabet.of_character.size() || kAlphabet.of_character[character] < 0) {
      out.resize(before);
      return false;
    }
    out += static_cast<char>(kAlphabet.of_character[character]);
  }
  return true;
}

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }

Result<bool> read_flag(const json::value& model, const char* name) {
  const json::value* value = json_find(model, name);
  if (!value || value->is_null()) return false;
  if (!value->is_bool()) {
    return invalid_model("tokenizer.json: model.{} is {}; expected true or false", name,
                         to_json(*value).substr(0, 60));
  }
  return value->get_bool();
}

}  // namespace

std::optional<std::string> byte_level_decode(std::string_view token) {
  std::string bytes;
  if (!append_decoded(bytes, token)) return std::nullopt;
  return bytes;
}

std::string byte_level_encode(std::string_view bytes) {
  std::string token;
  for (const char byte : bytes) append_utf8(token, kAlphabet.of_byte[static_cast<uint8_t>(byte)]);
  return token;
}

Result<Bpe> Bpe::read(const json::value& model) {
  if (!model.is_object()) return invalid_model("tokenizer.json has no object \"model\"");
  if (const json::value* type = json_find(model, "type"); type && *type != "BPE") {
    return invalid_model("tokenizer.json: model.type is {}; Videre reads \"BPE\"",
                         to_json(*type).substr(0, 60));
  }
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    const json::value* value = json_find(model, name);
    if (value && !value->is_null() && *value != "")
      return invalid_model("tokenizer.json: model.{} is set; a byte-level BPE has none", name);
  }
  if (const json::value* dropout = json_find(model, "dropout");
      dropout && !dropout->is_null() && json_number(*dropout) != 0.0) {
    return invalid_model("tokenizer.json: model.dropout is {}; expected null for inference",
                         to_json(*dropout).substr(0, 60));
  }
  Bpe bpe;
  VIDERE_ASSIGN_OR_RETURN(bpe.ignore_merges_, read_flag(model, "ignore_merges"));
  VIDERE_ASSIGN_OR_RETURN(bpe.byte_fallback_, read_flag(model, "byte_fallback"));
  VIDERE_ASSIGN_OR_RETURN(bpe.fuse_unk_, read_flag(model, "fuse_unk"));

  const json::value* vocab = json_find(model, "vocab");
  if (!vocab || !vocab->is_object())
    return invalid_model("tokenizer.json: model.vocab is no object from token to id");
  const json::value* merges = json_find(model, "merges");
  if (!merges || !merges->is_array())
    return invalid_model("tokenizer.json: model.merges is no list of pairs");
  VIDERE_RETURN_IF_ERROR(bpe.read_vocab(vocab->get_object()));
  VIDERE_RETURN_IF_ERROR(bpe.read_merges(merges->get_array()));

  std::optional<int32_t> unk_id;
  if (const json::value* unk = json_find(model, "unk_token"); unk && !unk->is_null()) {
    if (unk->is_string()) unk_id = bpe.id_of_entry(view(unk->get_string()));
    if (!unk_id) {
      return invalid_model("tokenizer.json: model.unk_token is {}, which is not in model.vocab",
                           to_json(*unk).substr(0, 60));
    }
  }
  bpe.read_alphabet(unk_id);
  return bpe;
}

Status Bpe::read_vocab(const json::object& vocab) {
  by_bytes_.assign(table_size(vocab.size()), {});
  tokens_.reserve(std::min<size_t>(vocab.size(), kMaxId));
  for (const auto& [key, value] : vocab) {
    const auto* id = value.if_int64();
    if (!id || *id < 0 || *id >= kMaxId) {
      return invalid_model("tokenizer.json: model.vocab gives {} the id {}; expected 0 to {}",
                           to_json(json::string(key)).substr(0, 80), to_json(value).substr(0, 40),
                           kMaxId - 1);
    }
    if (*id >= static_cast<int64_t>(tokens_.size())) tokens_.resize(*id + 1);
    Token& token = tokens_[*id];
    if (token.present) {
      return invalid_model("tokenizer.json: model.vocab gives two tokens the id {}", *id);
    }
    const std::string_view entry(key.data(), key.size());
    token.begin = static_cast<uint32_t>(text_.size());
    token.present = true;
    const bool spelled = append_decoded(text_, entry);
    if (!spelled) {
      text_ += entry;
      unspelled_.emplace(entry, static_cast<int32_t>(*id));
    }
    token.length = static_cast<uint32_t>(text_.size() - token.begin);
    if (!spelled) continue;
    const Hashed hashed = hash_bytes(std::string_view(text_).substr(token.begin));
    size_t slot = hashed.hash;
    while (by_bytes_[slot &= by_bytes_.size() - 1].id >= 0) ++slot;
    by_bytes_[slot] = {hashed.word, token.length, static_cast<int32_t>(*id)};
  }
  return {};
}

Status Bpe::read_merges(const json::array& merges) {
  merges_.assign(table_size(merges.size()), {kNoPair, kNoRank, -1});
  std::string joined;
  uint32_t rank = 0;
  for (const json::value& merge : merges) {
    std::string_view left, right;
    if (const auto* line = merge.if_string()) {
      const std::string_view text = view(*line);
      if (text.starts_with("#version")) continue;
      const size_t space = text.find(' ');
      if (space != text.npos && text.find(' ', space + 1) == text.npos) {
        left = text.substr(0, space);
        right = text.substr(space + 1);
      }
    } else if (const auto* pair = merge.if_array();
               pair && pair->size() == 2 && (*pair)[0].is_string() && (*pair)[1].is_string()) {
      left = view((*pair)[0].get_string());
      right = view((*pair)[1].get_string());
    }
    if (left.empty() || right.empty()) {
      return invalid_model("tokenizer.json: merge {} is {}; expected \"left right\" or a pair",
                           rank, to_json(merge).substr(0, 80));
    }
    std::optional<int32_t> left_id, right_id, joined_id;
    joined.clear();
    const bool spelled = append_decoded(joined, left);
    const size_t cut = joined.size();
    if (spelled && append_decoded(joined, right)) {
      const std::string_view bytes = joined;
      left_id = id_of_bytes(bytes.substr(0, cut));
      right_id = id_of_bytes(bytes.substr(cut));
      joined_id = id_of_bytes(bytes);
    } else {
      left_id = id_of_entry(left);
      right_id = id_of_entry(right);
      joined_id = id_of_entry(std::string(left).append(right));
    }
    if (!left_id || !right_id || !joined_id) {
      return invalid_model("tokenizer.json: merge {} is {}, but model.vocab lacks {}", rank,
                           to_json(merge).substr(0, 80),
                           !left_id    ? "its left side"
                           : !right_id ? "its right side"
                                       : "its result");
    }
    insert_merge(*left_id, *right_id, rank++, *joined_id);
  }
  return {};
}

void Bpe::read_alphabet(std::optional<int32_t> unk_id) {
  for (int byte = 0; byte < 256; ++byte) {
    Symbols& symbols = alphabet_[byte];
    const char raw = static_cast<char>(byte);
    if (const auto id = id_of_bytes({&raw, 1})) {
      symbols = {Symbols::Kind::kToken, 1, {*id, 0}};
      continue;
    }
    full_alphabet_ = false;
    std::string character;
    append_utf8(character, kAlphabet.of_byte[byte]);
    if (byte_fallback_) {
      for (const char c : character) {
        const auto id = id_of_entry(fmt::format("<0x{:02X}>", static_cast<uint8_t>(c)));
        if (!id) break;
        symbols.ids[symbols.count++] = *id;
      }
      if (symbols.count == character.size()) {
        symbols.kind = Symbols::Kind::kFallback;
        continue;
      }
    }
    symbols = {unk_id ? Symbols::Kind::kUnknown : Symbols::Kind::kDropped, 1, {unk_id.value_or(0)}};
  }
}

std::optional<int32_t> Bpe::id_of_bytes(std::string_view bytes) const {
  const Hashed hashed = hash_bytes(bytes);
  for (size_t at = hashed.hash;; ++at) {
    const Slot& slot = by_bytes_[at &= by_bytes_.size() - 1];
    if (slot.id < 0) return std::nullopt;
    if (slot.word == hashed.word && slot.length == bytes.size() &&
        (bytes.size() <= 8 || bytes_of(slot.id) == bytes))
      return slot.id;
  }
}

std::optional<int32_t> Bpe::id_of_entry(std::string_view entry) const {
  std::string bytes;
  if (is_valid_utf8(entry) && append_decoded(bytes, entry)) return id_of_bytes(bytes);
  const auto found = unspelled_.find(std::string(entry));
  if (found == unspelled_.end()) return std::nullopt;
  return found->second;
}

const Bpe::Merge* Bpe::find_merge(int32_t left, int32_t right) const {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  for (size_t slot = mix(pair, 0x9E3779B97F4A7C15u);; ++slot) {
    const Merge& merge = merges_[slot &= merges_.size() - 1];
    if (merge.pair == pair) return &merge;
    if (merge.pair == kNoPair) return nullptr;
  }
}

void Bpe::insert_merge(int32_t left, int32_t right, uint32_t rank, int32_t id) {
  const uint64_t pair = static_cast<uint64_t>(left) << 32 | static_cast<uint32_t>(right);
  size_t slot = mix(pair, 0x9E3779B97F4A7C15u);
  while (merges_[slot &= merges_.size() - 1].pair != kNoPair && merges_[slot].pair != pair) ++slot;
  merges_[slot] = {pair, rank, id};  // a pair listed twice counts at its later place
}

void Bpe::first_symbols(std::string_view piece, std::vector<int32_t>& ids) const {
  ids.clear();
  if (full_alphabet_) {
    for (const char c : piece) ids.push_back(alphabet_[static_cast<uint8_t>(c)].ids[0]);
    return;
  }
  bool pending = false;  // an unknown waits for its place until a known symbol comes, as in the
  int32_t unknown = 0;   // reference: fallback bytes overtake it
  for (const char c : piece) {
    const Symbols& symbols = alphabet_[static_cast<uint8_t>(c)];
    switch (symbols.kind) {
      case Symbols::Kind::kToken:
        if (pending) ids.push_back(unknown);
        pending = false;
        ids.push_back(symbols.ids[0]);
        break;
      case Symbols::Kind::kFallback:
        ids.insert(ids.end(), symbols.ids.begin(), symbols.ids.begin() + symbols.count);
        break;
      case Symbols::Kind::kUnknown:
        if (pending && !fuse_unk_) ids.push_back(unknown);
        pending = true;
        unknown = symbols.ids[0];
        break;
      case Symbols::Kind::kDropped:
        break;
    }
  }
  if (pending) ids.push_back(unknown);
}

// Lowest rank first, leftmost among equals; the minimum is found by scanning.
void Bpe::merge_short(Scratch& scratch) const {
  auto& ids = scratch.ids;
  auto& ranks = scratch.ranks;  // [i]: of the pair (i, i + 1)
  const auto rank_at = [&](size_t i) {
    const Merge* merge = i + 1 < ids.size() ? find_merge(ids[i], ids[i + 1]) : nullptr;
    return merge ? merge->rank : kNoRank;
  };
  ranks.resize(ids.size());
  for (size_t i = 0; i < ids.size(); ++i) ranks[i] = rank_at(i);
  while (ids.size() > 1) {
    const size_t best = std::min_element(ranks.begin(), ranks.end()) - ranks.begin();
    if (ranks[best] == kNoRank) return;
    ids[best] = find_merge(ids[best], ids[best + 1])->id;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(best) + 1);
    ranks.erase(ranks.begin() + static_cast<ptrdiff_t>(best) + 1);
    ranks[best] = rank_at(best);
    if (best > 0) ranks[best - 1] = rank_at(best - 1);
  }
}

// The same with a heap over a linked list: n log n.
void Bpe::merge_long(std::vector<int32_t>& ids) const {
  struct Link {
    uint32_t previous, next;
  };
  // Rank above position: one number orders candidates.
  const auto candidate = [](uint32_t rank, uint32_t at) {
    return static_cast<uint64_t>(rank) << 32 | at;
  };
  const uint32_t end = static_cast<uint32_t>(ids.size());
  std::vector<Link> links(end);
  std::vector<uint64_t> candidates;
  candidates.reserve(end);
  for (uint32_t i = 0; i < end; ++i) {
    links[i] = {i - 1, i + 1};
    const Merge* merge = i + 1 < end ? find_merge(ids[i], ids[i + 1]) : nullptr;
    if (merge) candidates.push_back(candidate(merge->rank, i));
  }
  std::priority_queue heap(std::greater<uint64_t>(), std::move(candidates));
  const auto offer = [&](uint32_t at) {
    if (at >= end || links[at].next >= end) return;
    if (const Merge* merge = find_merge(ids[at], ids[links[at].next]))
      heap.push(candidate(merge->rank, at));
  };
  while (!heap.empty()) {
    const uint64_t top = heap.top();
    heap.pop();
    const auto left = static_cast<uint32_t>(top), right = links[left].next;
    if (ids[left] < 0 || right >= end) continue;
    const Merge* merge = find_merge(ids[left], ids[right]);
    if (!merge || merge->rank != top >> 32) continue;  // a neighbour has merged meanwhile
    ids[left] = merge->id;
    ids[right] = -1;
    links[left].next = links[right].next;
    if (links[right].next < end) links[links[right].next].previous = left;
    offer(links[left].previous);
    offer(left);
  }
  std::erase(ids, -1);
}

void Bpe::encode(std::string_view piece, Scratch& scratch, std::vector<int32_t>& out) const {
  if (ignore_merges_) {
    if (const auto id = id_of_bytes(piece)) {
      out.push_back(*id);
      return;
    }
  }
  if (scratch.cache.empty()) scratch.cache.resize(kCacheSlots);
  Scratch::Remembered* slot = nullptr;
  if (piece.size() <= sizeof(Scratch::Remembered::piece)) {
    slot = &scratch.cache[hash_bytes(piece).hash & (kCacheSlots - 1)];
    if (std::string_view(slot->piece.data(), slot->length) == piece) {
      out.insert(out.end(), slot->ids.begin(), slot->ids.begin() + slot->num_ids);
      return;
    }
  }
  first_symbols(piece, scratch.ids);
  if (scratch.ids.size() <= kShortPiece) {
    merge_short(scratch);
  } else {
    merge_long(scratch.ids);
  }
  out.insert(out.end(), scratch.ids.begin(), scratch.ids.end());
  if (slot && scratch.ids.size() <= slot->ids.size()) {
    std::copy(piece.begin(), piece.end(), slot->piece.begin());
    slot->length = static_cast<uint8_t>(piece.size());
    slot->num_ids = static_cast<uint8_t>(scratch.ids.size());
    std::copy(scratch.ids.begin(), scratch.ids.end(), slot->ids.begin());
  }
}

}  // namespace videre
