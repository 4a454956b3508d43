// What commands read: stdin, request files, and media named on the command line.
#pragma once

#include <string>

#include "videre/engine.h"

namespace videre {

/// A file or pipe to its end; "-" is stdin. Errors name `what`.
Result<std::string> read_input(const std::string& path, const std::string& what);

/// A chat-completions body out of a file ("-" is stdin). `placeholders` takes media parts without a
/// URL, good for rendering the template only.
Result<Request> read_request(const std::string& path, bool placeholders);

/// The file:// URL of an existing file; http(s):, data: and file: URLs pass as they are. Errors
/// name `flag`.
Result<std::string> media_url(const std::string& file_or_url, const std::string& flag);

}  // namespace videre
