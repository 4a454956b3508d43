#include "media/data_url.h"

#include <algorithm>
#include <array>

#include "base/error.h"

namespace videre {
namespace {

constexpr uint8_t kBad = 255, kSpace = 254, kPad = 253;

constexpr std::array<uint8_t, 256> make_table() {
  std::array<uint8_t, 256> table{};
  for (auto& entry : table) entry = kBad;
  constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (uint8_t i = 0; i < 64; ++i) table[static_cast<uint8_t>(kAlphabet[i])] = i;
  for (const char c : {' ', '\t', '\n', '\r', '\f', '\v'}) table[static_cast<uint8_t>(c)] = kSpace;
  table['='] = kPad;
  return table;
}
constexpr std::array<uint8_t, 256> kTable = make_table();

Error too_large(int64_t max_bytes) {
  return make_error(ErrorCode::kTooLarge, "",
                    "the data URL holds more than {} bytes; send a smaller file", max_bytes);
}

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lowered(std::string_view text) {
  std::string result(text);
  std::transform(result.begin(), result.end(), result.begin(), lower);
  return result;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && text.front() == ' ') text.remove_prefix(1);
  while (!text.empty() && text.back() == ' ') text.remove_suffix(1);
  return text;
}

}  // namespace

Result<std::vector<uint8_t>> decode_base64(std::string_view text, int64_t max_bytes) {
  std::vector<uint8_t> bytes;
  const auto limit = static_cast<uint64_t>(std::max<int64_t>(0, max_bytes));
  bytes.reserve(std::min<uint64_t>(text.size() / 4 * 3 + 3, limit));
  uint32_t bits = 0;
  int num_symbols = 0;  // of the group of four under way
  int num_pads = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const uint8_t symbol = kTable[static_cast<uint8_t>(text[i])];
    if (symbol < 64 && num_pads == 0) {
      bits = bits << 6 | symbol;
      if (++num_symbols < 4) continue;
      num_symbols = 0;
      if (bytes.size() + 3 > limit) return too_large(max_bytes);
      bytes.push_back(static_cast<uint8_t>(bits >> 16));
      bytes.push_back(static_cast<uint8_t>(bits >> 8));
      bytes.push_back(static_cast<uint8_t>(bits));
    } else if (symbol == kPad) {
      ++num_pads;
    } else if (symbol != kSpace) {
      return invalid_argument(
          "", "the data URL is not base64: character {} of its data is not in the alphabet{}", i,
          num_pads ? " or follows the padding" : "");
    }
  }
  if (num_symbols == 1 || (num_pads > 0 && num_symbols + num_pads != 4)) {
    return invalid_argument("", "the data URL's base64 stops in the middle of a group of four");
  }
  if (num_symbols >= 2) {
    bits <<= 6 * (4 - num_symbols);
    bytes.push_back(static_cast<uint8_t>(bits >> 16));
    if (num_symbols == 3) bytes.push_back(static_cast<uint8_t>(bits >> 8));
    if (bytes.size() > limit) return too_large(max_bytes);
  }
  return bytes;
}

Result<MediaBytes> parse_data_url(std::string_view url, int64_t max_bytes, bool keep_frame_list) {
  constexpr std::string_view kScheme = "data:";
  const size_t comma = url.find(',');
  if (comma == std::string_view::npos) {
    return invalid_argument("", "the data URL has no comma; expected data:TYPE;base64,DATA");
  }
  const std::string_view header = url.substr(kScheme.size(), comma - kScheme.size());
  const std::string_view data = url.substr(comma + 1);
  const size_t last = header.rfind(';');
  if (last == std::string_view::npos || lowered(trimmed(header.substr(last + 1))) != "base64") {
    return invalid_argument("", "the data URL is not base64; expected data:TYPE;base64,DATA");
  }
  const std::string mime = lowered(trimmed(header.substr(0, header.find(';'))));
  if (keep_frame_list && mime == "video/jpeg") {
    if (data.size() / 4 * 3 > static_cast<uint64_t>(std::max<int64_t>(0, max_bytes))) {
      return too_large(max_bytes);
    }
    return MediaBytes(std::vector<uint8_t>(data.begin(), data.end()), mime);
  }
  VIDERE_ASSIGN_OR_RETURN(std::vector<uint8_t> bytes, decode_base64(data, max_bytes));
  if (bytes.empty()) return invalid_argument("", "the data URL holds no data");
  return MediaBytes(std::move(bytes), mime.substr(0, 100));
}

}  // namespace videre
