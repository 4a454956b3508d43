// Short makers for Error values: `return invalid_argument("temperature", "temperature is {}; ...",
// t);`
#pragma once

#include <fmt/format.h>

#include "videre/result.h"

namespace videre {

template <typename... Args>
Error make_error(ErrorCode code, std::string param, fmt::format_string<Args...> format,
                 Args&&... args) {
  return Error{code, fmt::format(format, std::forward<Args>(args)...), std::move(param)};
}

/// `param` is the field or flag at fault, "" when there is none.
template <typename... Args>
Error invalid_argument(std::string param, fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kInvalidArgument, std::move(param), format,
                    std::forward<Args>(args)...);
}

template <typename... Args>
Error invalid_model(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kInvalidModel, "", format, std::forward<Args>(args)...);
}

template <typename... Args>
Error internal_error(fmt::format_string<Args...> format, Args&&... args) {
  return make_error(ErrorCode::kInternal, "", format, std::forward<Args>(args)...);
}

}  // namespace videre
