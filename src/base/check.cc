#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace videre::internal {

void check_failed(const char* file, int line, const std::string& message) {
  std::fprintf(stderr, "%s:%d: %s\n", file, line, message.c_str());
  std::abort();
}

}  // namespace videre::internal
