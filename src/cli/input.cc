#include "cli/input.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "server/openai_types.h"

namespace videre {
namespace {

constexpr size_t kMaxInputBytes = 1u << 30;  // data: URLs may be long

}  // namespace

Result<std::string> read_input(const std::string& path, const std::string& what) {
  std::FILE* file = path == "-" ? stdin : std::fopen(path.c_str(), "rb");
  if (!file) return invalid_argument(what, "cannot open {}: {}", path, std::strerror(errno));
  std::string text;
  std::vector<char> buffer(1u << 16);
  for (size_t count; (count = std::fread(buffer.data(), 1, buffer.size(), file)) > 0;) {
    text.append(buffer.data(), count);
    if (text.size() > kMaxInputBytes) break;
  }
  const bool failed = std::ferror(file);
  if (file != stdin) std::fclose(file);
  if (failed) return invalid_argument(what, "{} cannot be read: is it a folder?", path);
  if (text.size() > kMaxInputBytes) {
    return make_error(ErrorCode::kTooLarge, what, "{} has more than {} bytes", path,
                      kMaxInputBytes);
  }
  return text;
}

Result<Request> read_request(const std::string& path, bool placeholders) {
  VIDERE_ASSIGN_OR_RETURN(const std::string text, read_input(path, "--request"));
  ChatParseOptions options;
  options.allow_placeholders = placeholders;
  options.trust_request_chat_template = true;  // whoever runs this owns both
  options.allow_auto_tool_choice = true;
  options.max_logprobs = -1;
  auto parsed = parse_chat_request(text, options);
  if (!parsed.ok()) {
    Error error = parsed.error();
    error.message = fmt::format("{}: {}", path, error.message);
    return error;
  }
  return std::move(parsed->request);
}

Result<std::string> media_url(const std::string& file_or_url, const std::string& flag) {
  for (const char* scheme : {"http://", "https://", "data:", "file://"}) {
    if (file_or_url.rfind(scheme, 0) == 0) return file_or_url;
  }
  std::error_code error;
  const std::filesystem::path path = std::filesystem::absolute(file_or_url, error);
  if (file_or_url.empty() || error || !std::filesystem::is_regular_file(path, error)) {
    return invalid_argument(flag,
                            "{} is no file; expected a file, or a URL of http(s):, data: or "
                            "file:",
                            file_or_url.empty() ? "\"\"" : file_or_url);
  }
  std::string url = "file://";
  for (const char c : path.string()) {
    const bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                       (c != 0 && std::string_view("/-._~").find(c) != std::string_view::npos);
    url += plain ? std::string(1, c) : fmt::format("%{:02X}", static_cast<unsigned char>(c));
  }
  return url;
}

}  // namespace videre
