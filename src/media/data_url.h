// data: URLs and their base64. What the bytes mean is left to the decoders.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "media/media_bytes.h"
#include "videre/result.h"

namespace videre {

/// Standard alphabet; white space is skipped and missing padding forgiven; anything else is an
/// error, as is more than `max_bytes` of result.
Result<std::vector<uint8_t>> decode_base64(std::string_view text, int64_t max_bytes);

/// `url` starts with "data:" in any case. Only `;base64`. With `keep_frame_list` a video/jpeg list
/// is not decoded yet (MediaBytes::mime): its frames are decode_base64's, one by one.
Result<MediaBytes> parse_data_url(std::string_view url, int64_t max_bytes, bool keep_frame_list);

}  // namespace videre
