#include "cli/request_folder.h"

#include <algorithm>
#include <filesystem>
#include <iterator>

#include "base/error.h"
#include "cli/input.h"
#include "server/openai_types.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxFileBytes = 1u << 30;

bool has_scheme(std::string_view url) {
  const size_t colon = url.find(':');
  return colon != url.npos && url.find('/') >= colon;
}

// "page.png" in a message's part becomes the file:// URL of folder/page.png.
Status resolve_media(json::value& body, const std::string& folder, const std::string& param) {
  json::object* object = body.if_object();
  json::value* messages = object ? object->if_contains("messages") : nullptr;
  if (!messages || !messages->is_array()) return {};  // the parser will say what is wrong
  for (json::value& message : messages->get_array()) {
    json::value* content =
        message.is_object() ? message.get_object().if_contains("content") : nullptr;
    if (!content || !content->is_array()) continue;
    for (json::value& part : content->get_array()) {
      if (!part.is_object()) continue;
      for (const char* key : {"image_url", "video_url"}) {
        json::value* url = part.get_object().if_contains(key);
        if (url && url->is_object()) url = url->get_object().if_contains("url");
        if (!url || !url->is_string() || has_scheme(url->get_string())) continue;
        const fs::path file = fs::path(folder) / std::string_view(url->get_string());
        VIDERE_ASSIGN_OR_RETURN(const std::string full, media_url(file.string(), param));
        *url = json::string(full);
      }
    }
  }
  return {};
}

}  // namespace

Result<std::vector<StoredRequest>> parse_requests(const std::string& text, const std::string& name,
                                                  const std::string& folder,
                                                  const std::string& param) {
  ChatParseOptions options;
  options.trust_request_chat_template = true;
  options.allow_auto_tool_choice = true;
  options.max_logprobs = -1;
  std::vector<StoredRequest> out;
  const bool lines = name.ends_with(".jsonl");
  size_t begin = 0, number = 0;
  while (begin < text.size()) {
    const size_t end = lines ? std::min(text.find('\n', begin), text.size()) : text.size();
    const std::string_view line = std::string_view(text).substr(begin, end - begin);
    begin = end + 1;
    ++number;
    if (line.find_first_not_of(" \t\r\n") == line.npos) continue;
    StoredRequest stored;
    stored.where = lines ? fmt::format("{}:{}", name, number) : name;
    auto parsed = parse_json(line, stored.where);
    if (!parsed.ok()) return invalid_argument(param, "{}", parsed.error().message);
    stored.entry = std::move(*parsed);
    json::value* inside =
        stored.entry.is_object() ? stored.entry.get_object().if_contains("request") : nullptr;
    json::value& body = inside ? *inside : stored.entry;
    const auto wrong = [&](const Error& error) {
      return invalid_argument(param, "{}: {}{}{}", stored.where, error.param,
                              error.param.empty() ? "" : ": ", error.message);
    };
    const Status resolved = resolve_media(body, folder, param);
    if (!resolved.ok()) return wrong(resolved.error());
    auto request = parse_chat_request(body, options);
    if (!request.ok()) return wrong(request.error());
    stored.request = std::move(request->request);
    out.push_back(std::move(stored));
  }
  return out;
}

Result<std::vector<StoredRequest>> read_request_folder(const ModelFiles& folder,
                                                       const std::string& param) {
  auto names = folder.names();
  if (!names.ok()) return invalid_argument(param, "{}", names.error().message);
  std::vector<StoredRequest> out;
  for (const std::string& name : *names) {
    if (!name.ends_with(".json") && !name.ends_with(".jsonl")) continue;
    auto text = folder.text(name, kMaxFileBytes);
    if (!text.ok()) return invalid_argument(param, "{}", text.error().message);
    VIDERE_ASSIGN_OR_RETURN(auto requests, parse_requests(*text, name, folder.path(), param));
    std::move(requests.begin(), requests.end(), std::back_inserter(out));
  }
  if (out.empty()) {
    return invalid_argument(param,
                            "folder {} holds no request; chat-completions bodies are expected, "
                            "one a .json file or a line of .jsonl files, media beside them",
                            folder.path());
  }
  return out;
}

Result<std::vector<Request>> read_calibration(const ModelFiles& folder, const std::string& param) {
  std::vector<StoredRequest> stored;
  if (folder.contains(kCalibrationName)) {
    auto text = folder.text(kCalibrationName, kMaxFileBytes);
    if (!text.ok()) return invalid_argument(param, "{}", text.error().message);
    VIDERE_ASSIGN_OR_RETURN(stored, parse_requests(*text, kCalibrationName, folder.path(), param));
  } else {
    VIDERE_ASSIGN_OR_RETURN(stored, read_request_folder(folder, param));
  }
  std::vector<Request> requests;
  for (StoredRequest& item : stored) requests.push_back(std::move(item.request));
  return requests;
}

}  // namespace videre
