#include "text/utf8.h"

#include <cstring>

namespace videre {
namespace {

enum class Found { kCharacter, kBroken, kCut };

struct Sequence {
  Found found;
  size_t length;  // bytes of the character, of the broken sequence, or until the text's end
};

Sequence read_sequence(const uint8_t* p, size_t size) {
  const uint8_t lead = p[0];
  if (lead < 0x80) return {Found::kCharacter, 1};
  size_t more = 0;
  uint8_t low = 0x80, high = 0xBF;  // of the second byte; the lead may narrow it
  if (lead >= 0xC2 && lead <= 0xDF) {
    more = 1;
  } else if (lead >= 0xE0 && lead <= 0xEF) {
    more = 2;
    if (lead == 0xE0) low = 0xA0;
    if (lead == 0xED) high = 0x9F;
  } else if (lead >= 0xF0 && lead <= 0xF4) {
    more = 3;
    if (lead == 0xF0) low = 0x90;
    if (lead == 0xF4) high = 0x8F;
  } else {
    return {Found::kBroken, 1};
  }
  for (size_t k = 1; k <= more; ++k) {
    if (k == size) return {Found::kCut, k};
    if (p[k] < low || p[k] > high) return {Found::kBroken, k};
    low = 0x80;
    high = 0xBF;
  }
  return {Found::kCharacter, more + 1};
}

const uint8_t* bytes_of(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

// Appends `text` repaired; stops before a cut character at the end and returns where.
size_t append_repaired(std::string& out, std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const size_t valid = valid_utf8_length(text.substr(at));
    out.append(text, at, valid);
    at += valid;
    if (at == text.size()) break;
    const Sequence bad = read_sequence(bytes_of(text) + at, text.size() - at);
    if (bad.found == Found::kCut) return at;
    out += kReplacementCharacter;
    at += bad.length;
  }
  return at;
}

}  // namespace

size_t valid_utf8_length(std::string_view text) {
  const uint8_t* p = bytes_of(text);
  size_t at = 0;
  while (at < text.size()) {
    if (p[at] < 0x80) {
      uint64_t word;
      while (at + 8 <= text.size()) {
        std::memcpy(&word, p + at, 8);
        if (word & 0x8080808080808080u) break;
        at += 8;
      }
      while (at < text.size() && p[at] < 0x80) ++at;
      continue;
    }
    const Sequence sequence = read_sequence(p + at, text.size() - at);
    if (sequence.found != Found::kCharacter) return at;
    at += sequence.length;
  }
  return at;
}

std::string repair_utf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  if (append_repaired(out, text) < text.size()) out += kReplacementCharacter;
  return out;
}

char32_t next_code_point(std::string_view text, size_t& at) {
  const uint8_t* p = bytes_of(text) + at;
  const char32_t lead = p[0];
  if (lead < 0x80) {
    at += 1;
    return lead;
  }
  if (lead < 0xE0) {
    at += 2;
    return (lead & 0x1F) << 6 | (p[1] & 0x3Fu);
  }
  if (lead < 0xF0) {
    at += 3;
    return (lead & 0x0F) << 12 | (p[1] & 0x3Fu) << 6 | (p[2] & 0x3Fu);
  }
  at += 4;
  return (lead & 0x07) << 18 | (p[1] & 0x3Fu) << 12 | (p[2] & 0x3Fu) << 6 | (p[3] & 0x3Fu);
}

void append_utf8(std::string& out, char32_t c) {
  const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t count_code_points(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (c & 0xC0) != 0x80;
  return count;
}

std::string Utf8Stream::push(std::string_view bytes) {
  std::string out;
  if (held_.empty()) {
    const size_t used = append_repaired(out, bytes);
    held_.assign(bytes, used);
    return out;
  }
  held_ += bytes;
  const size_t used = append_repaired(out, held_);
  held_.erase(0, used);
  return out;
}

std::string Utf8Stream::flush() {
  if (held_.empty()) return {};
  held_.clear();
  return std::string(kReplacementCharacter);
}

}  // namespace videre
