// Any bytes as tokenizer.json, and any text through what loads: ids exist, decoding whole and token
// by token agree. The input is the file, then byte 0xFF, then the text.
#include <algorithm>
#include <cstdlib>

#include "text/detokenizer.h"
#include "text/tokenizer.h"

namespace {

void check(const videre::Tokenizer& tokenizer, std::string_view text) {
  for (const bool specials : {false, true}) {
    const auto ids = tokenizer.encode(text, specials);
    for (const int32_t id : ids) {
      if (id < 0 || id >= tokenizer.vocab_size()) std::abort();
    }
    const std::string whole = tokenizer.decode(ids, specials);
    if (!videre::is_valid_utf8(whole)) std::abort();
    videre::Detokenizer detokenizer(tokenizer, specials);
    std::string pieces;
    for (const int32_t id : ids) pieces += detokenizer.push(id);
    pieces += detokenizer.flush();
    if (pieces != whole) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = std::min(input.find('\xFF'), size);
  const auto tokenizer = videre::Tokenizer::parse(input.substr(0, cut), "");
  if (!tokenizer.ok()) return 0;
  check(**tokenizer, input.substr(std::min(cut + 1, size)));
  check(**tokenizer, "Hello, world! <image> \xC3\xA9\xE6\x97\xA5 12  \n\n don't");
  return 0;
}
