// VIDERE_CHECK: promises that only a bug can break. Prints both values and aborts.
// What the world can cause is a Result instead (videre/result.h).
#pragma once

#include <sstream>

namespace videre::internal {

[[noreturn]] void check_failed(const char* file, int line, const std::string& message);

class CheckStream {
 public:
  CheckStream(const char* file, int line, const char* expression) : file_(file), line_(line) {
    stream_ << "check failed: " << expression << ' ';
  }
  [[noreturn]] ~CheckStream() { check_failed(file_, line_, stream_.str()); }
  template <typename T>
  CheckStream& operator<<(const T& value) {
    stream_ << value;
    return *this;
  }

 private:
  const char* file_;
  int line_;
  std::ostringstream stream_;
};

}  // namespace videre::internal

#define VIDERE_CHECK(condition) \
  while (!(condition)) ::videre::internal::CheckStream(__FILE__, __LINE__, #condition)
#define VIDERE_CHECK_OP_(a, op, b)                                       \
  while (!((a)op(b)))                                                    \
  ::videre::internal::CheckStream(__FILE__, __LINE__, #a " " #op " " #b) \
      << "(" << (a) << " vs " << (b) << ") "
#define VIDERE_CHECK_EQ(a, b) VIDERE_CHECK_OP_(a, ==, b)
#define VIDERE_CHECK_NE(a, b) VIDERE_CHECK_OP_(a, !=, b)
#define VIDERE_CHECK_LE(a, b) VIDERE_CHECK_OP_(a, <=, b)
#define VIDERE_CHECK_LT(a, b) VIDERE_CHECK_OP_(a, <, b)
#define VIDERE_CHECK_GE(a, b) VIDERE_CHECK_OP_(a, >=, b)
#define VIDERE_CHECK_GT(a, b) VIDERE_CHECK_OP_(a, >, b)

#ifdef NDEBUG
#define VIDERE_DCHECK(condition) \
  while (false && (condition)) ::videre::internal::CheckStream(__FILE__, __LINE__, "")
#else
#define VIDERE_DCHECK(condition) VIDERE_CHECK(condition)
#endif
