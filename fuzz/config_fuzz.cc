// Any text as config.json and as its companions.
#include "model/config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const size_t half = text.find('\n');
  const std::string_view first = text.substr(0, half);
  const std::string_view second = half == text.npos ? std::string_view() : text.substr(half + 1);
  (void)videre::parse_config(first, second, second, second);
  return 0;
}
