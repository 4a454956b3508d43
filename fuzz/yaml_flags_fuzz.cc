// Any text as a YAML file of flags: flags or an error; names are never empty.
#include <cstdlib>

#include "cli/flags.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto flags =
      videre::yaml_flags(std::string(reinterpret_cast<const char*>(data), size), "f.yaml");
  if (!flags.ok()) return flags.error().message.empty() ? std::abort(), 0 : 0;
  for (const videre::FlagWords& flag : *flags) {
    if (flag.name.size() <= 2) std::abort();
    for (const std::string& value : flag.values) (void)videre::parse_size(value, flag.name);
  }
  return 0;
}
