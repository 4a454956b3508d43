// file:// URLs: which file one names, whether it lies inside the allowed folder, and its bytes.
#pragma once

#include <cstdint>
#include <string>

#include "media/media_bytes.h"
#include "videre/result.h"

namespace videre {

/// Reads the regular file that `url` ("file://…") names if, with every link resolved, it lies below
/// `root`. Files up to 64 MiB are read; larger ones are mapped, and must not shrink meanwhile.
/// Errors never quote the resolved path.
Result<MediaBytes> read_file_url(const std::string& url, const std::string& root,
                                 int64_t max_bytes);

}  // namespace videre
