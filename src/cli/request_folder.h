// Folders of requests: chat-completions bodies in .json files, or one a line in .jsonl files, with
// their media beside them. For calibration and for evaluation.
#pragma once

#include <string>
#include <vector>

#include "base/json.h"
#include "videre/engine.h"
#include "weights/model_files.h"

namespace videre {

struct StoredRequest {
  std::string where;  // "page.json", "read_line.jsonl:7"
  json::value entry;  // the whole line: the body, or an object with a member "request"
  Request request;
};

/// All requests of the files in `folder` (or of those that the binary carries), by name. Media URLs
/// without a scheme are files beside them. `param` is the flag to blame. Errors: kInvalidArgument
/// names file and line.
Result<std::vector<StoredRequest>> read_request_folder(const ModelFiles& folder,
                                                       const std::string& param);

/// What static scales are taken from: the folder's calibration.jsonl, else all its requests.
Result<std::vector<Request>> read_calibration(const ModelFiles& folder, const std::string& param);
inline constexpr const char* kCalibrationName = "calibration.jsonl";

/// Those of one file's text; `folder` is where its media lie.
Result<std::vector<StoredRequest>> parse_requests(const std::string& text, const std::string& name,
                                                  const std::string& folder,
                                                  const std::string& param);

}  // namespace videre
