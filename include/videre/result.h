// Result<T>: a value, or an error with a code and a sentence for the person who caused it.
// The lowest header of all. Exceptions do not cross the library's edge.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <variant>

namespace videre {

/// What went wrong, in the terms of whoever must act on it. One table (`error_status`) maps these
/// to HTTP statuses and process exit codes.
enum class ErrorCode {
  kInvalidArgument,  ///< The request or flag is wrong; repeating it will fail again.
  kNotFound,         ///< No such model, route or file.
  kForbidden,        ///< Outside the allowed root, or an address that may not be fetched.
  kTooLarge,         ///< Over a stated limit of bytes, pixels, frames or tokens.
  kOverloaded,       ///< The queue is full; try again later.
  kUnavailable,      ///< Loading, draining, or the engine is dead.
  kInvalidModel,     ///< The checkpoint cannot be used.
  kOutOfMemory,      ///< The memory plan does not fit the device.
  kUnsupported,      ///< Known, but not implemented here.
  kCancelled,        ///< The caller asked to stop.
  kInternal,         ///< A fault of Videre's; the sentence says where.
};

/// `message` says what was seen, what was expected and what to do. It holds no stack, no address
/// and no text of a decoding library. `param` names the field or flag at fault, or is empty.
struct Error {
  ErrorCode code = ErrorCode::kInternal;
  std::string message;
  std::string param;
};

struct ErrorStatus {
  int http_status;
  int exit_code;     // 1 runtime, 2 usage, 3 model, 4 memory
  const char* type;  // the OpenAI-style error type
};

/// HTTP status, exit code and type of an error code.
ErrorStatus error_status(ErrorCode code);

/// Either a T or an Error. Check `ok()` before `value()`.
template <typename T>
class [[nodiscard]] Result {
 public:
  Result(T value)
      : state_(std::in_place_index<0>, std::move(value)) {}  // NOLINT: implicit by design
  Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}  // NOLINT

  bool ok() const { return state_.index() == 0; }
  explicit operator bool() const { return ok(); }
  T& value() & { return std::get<0>(state_); }
  const T& value() const& { return std::get<0>(state_); }
  T&& value() && { return std::get<0>(std::move(state_)); }
  T& operator*() & { return value(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(*this).value(); }
  T* operator->() { return &value(); }
  const T* operator->() const { return &value(); }
  const Error& error() const { return std::get<1>(state_); }

 private:
  std::variant<T, Error> state_;
};

template <>
class [[nodiscard]] Result<void> {
 public:
  Result() = default;
  Result(Error error) : error_(std::move(error)) {}  // NOLINT: implicit by design
  bool ok() const { return !error_; }
  explicit operator bool() const { return ok(); }
  const Error& error() const { return *error_; }

 private:
  std::optional<Error> error_;
};

using Status = Result<void>;

}  // namespace videre

/// Returns the error of `expr` (a Result) from the enclosing function, or goes on.
#define VIDERE_RETURN_IF_ERROR(expr)                                  \
  do {                                                                \
    if (auto status_ = (expr); !status_.ok()) return status_.error(); \
  } while (0)

#define VIDERE_CONCAT_INNER_(a, b) a##b
#define VIDERE_CONCAT_(a, b) VIDERE_CONCAT_INNER_(a, b)

/// `VIDERE_ASSIGN_OR_RETURN(auto x, f());` declares x from a Result, or returns its error.
#define VIDERE_ASSIGN_OR_RETURN(decl, expr)                                                      \
  auto VIDERE_CONCAT_(result_, __LINE__) = (expr);                                               \
  if (!VIDERE_CONCAT_(result_, __LINE__).ok()) return VIDERE_CONCAT_(result_, __LINE__).error(); \
  decl = std::move(VIDERE_CONCAT_(result_, __LINE__)).value()
