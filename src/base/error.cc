#include "base/error.h"

namespace videre {

ErrorStatus error_status(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return {400, 2, "BadRequestError"};
    case ErrorCode::kNotFound:
      return {404, 3, "NotFoundError"};
    case ErrorCode::kForbidden:
      return {400, 2, "BadRequestError"};
    case ErrorCode::kTooLarge:
      return {400, 2, "BadRequestError"};
    case ErrorCode::kOverloaded:
      return {429, 1, "RateLimitError"};
    case ErrorCode::kUnavailable:
      return {503, 1, "ServiceUnavailable"};
    case ErrorCode::kInvalidModel:
      return {500, 3, "InternalServerError"};
    case ErrorCode::kOutOfMemory:
      return {500, 4, "InternalServerError"};
    case ErrorCode::kUnsupported:
      return {501, 2, "NotImplementedError"};
    case ErrorCode::kCancelled:
      return {499, 130, "RequestCancelled"};
    case ErrorCode::kInternal:
      return {500, 1, "InternalServerError"};
  }
  return {500, 1, "InternalServerError"};
}

}  // namespace videre
