#include "cli/input.h"

#include <cstdio>
#include <filesystem>

#include "base/error.h"
#include "base/mapped_file.h"
#include "server/openai_types.h"

namespace videre {
namespace {

constexpr size_t kMaxInputBytes = 1u << 30;  // data: URLs may be long

}  // namespace

Result<std::string> read_stdin() {
  std::string text;
  char buffer[1 << 16];
  for (size_t count; (count = std::fread(buffer, 1, sizeof buffer, stdin)) > 0;) {
    text.append(buffer, count);
    if (text.size() > kMaxInputBytes) {
      return make_error(ErrorCode::kTooLarge, "stdin", "more than {} bytes came in",
                        kMaxInputBytes);
    }
  }
  return text;
}

Result<Request> read_request(const std::string& path, bool placeholders) {
  auto text = path == "-" ? read_stdin() : read_text_file(path, kMaxInputBytes);
  if (!text.ok()) return invalid_argument("--request", "{}", text.error().message);
  ChatParseOptions options;
  options.allow_placeholders = placeholders;
  options.trust_request_chat_template = true;  // whoever runs this owns both
  options.allow_auto_tool_choice = true;
  options.max_logprobs = -1;
  auto parsed = parse_chat_request(*text, options);
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
