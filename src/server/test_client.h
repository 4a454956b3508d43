// A blocking HTTP client on a bare socket, for tests that must send what a polite client would not.
#pragma once

#include <arpa/inet.h>
#include <dirent.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

namespace videre {

struct ClientAnswer {
  int status = 0;                              // 0: no answer came
  std::map<std::string, std::string> headers;  // names in lower case
  std::string body;                            // chunks joined

  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? "" : found->second;
  }
};

class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer_bytes = 0) {
    fd_ = socket(AF_INET, SOCK_STREAM, 0);
    if (receive_buffer_bytes > 0) {
      setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
    }
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
    const int on = 1;
    setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  }
  ~TestClient() { close(); }
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  bool connected() const { return connected_; }
  void close() {
    if (fd_ >= 0) ::close(fd_);
    fd_ = -1;
  }
  /// Closes so that the other side sees a reset.
  void reset() {
    const linger hard{1, 0};
    setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
    close();
  }

  bool send(std::string_view bytes) {
    while (!bytes.empty()) {
      const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (n <= 0) return false;
      bytes.remove_prefix(static_cast<size_t>(n));
    }
    return true;
  }
  bool send_request(std::string_view method, std::string_view path, std::string_view body = "",
                    std::string_view more_headers = "") {
    std::string text =
        fmt::format("{} {} HTTP/1.1\r\nHost: test\r\n{}", method, path, more_headers);
    if (method == "POST") {
      text += fmt::format("Content-Type: application/json\r\nContent-Length: {}\r\n", body.size());
    }
    text += "\r\n";
    return send(text.append(body));
  }

  /// Reads until `text` is there; false when the connection ends or `timeout_ms` pass before.
  bool read_until(std::string_view text, int timeout_ms = 5000) {
    const auto end = deadline(timeout_ms);
    while (buffer_.find(text) == std::string::npos) {
      if (!read_some(end)) return false;
    }
    return true;
  }
  /// One whole answer; what follows it stays for the next call.
  ClientAnswer read_answer(int timeout_ms = 5000) {
    const auto end = deadline(timeout_ms);
    ClientAnswer answer;
    size_t head_end;
    while ((head_end = buffer_.find("\r\n\r\n")) == std::string::npos) {
      if (!read_some(end)) return answer;
    }
    const std::string head = buffer_.substr(0, head_end + 2);
    buffer_.erase(0, head_end + 4);
    for (size_t at = head.find("\r\n") + 2; at < head.size();) {
      const size_t line_end = head.find("\r\n", at);
      const std::string line = head.substr(at, line_end - at);
      std::string name = line.substr(0, line.find(':'));
      for (char& c : name) c = static_cast<char>(tolower(c));
      answer.headers[name] = line.substr(line.find(':') + 2);
      at = line_end + 2;
    }
    const int status = atoi(head.c_str() + 9);
    if (answer.header("transfer-encoding") == "chunked") {
      for (;;) {
        size_t line_end;
        while ((line_end = buffer_.find("\r\n")) == std::string::npos) {
          if (!read_some(end)) return answer;
        }
        const size_t size = strtoul(buffer_.c_str(), nullptr, 16);
        while (buffer_.size() < line_end + 2 + size + 2) {
          if (!read_some(end)) return answer;
        }
        answer.body += buffer_.substr(line_end + 2, size);
        buffer_.erase(0, line_end + 2 + size + 2);
        if (size == 0) break;
      }
    } else if (!answer.header("content-length").empty()) {
      const size_t size = strtoul(answer.header("content-length").c_str(), nullptr, 10);
      while (buffer_.size() < size) {
        if (!read_some(end)) return answer;
      }
      answer.body = buffer_.substr(0, size);
      buffer_.erase(0, size);
    } else if (status >= 200) {  // until the connection ends
      while (read_some(end)) {
      }
      answer.body = std::exchange(buffer_, "");
    }
    answer.status = status;
    return answer;
  }
  /// True when the other side closes (or resets) within the time.
  bool closed_by_peer(int timeout_ms = 5000) {
    const auto end = deadline(timeout_ms);
    while (read_some(end)) {
    }
    return ended_;
  }
  const std::string& buffer() const { return buffer_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  static Time deadline(int timeout_ms) {
    return std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  }
  bool read_some(Time end) {
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(
        end - std::chrono::steady_clock::now());
    pollfd wait{fd_, POLLIN, 0};
    if (left.count() <= 0 || poll(&wait, 1, static_cast<int>(left.count())) <= 0) return false;
    char bytes[16384];
    const ssize_t n = recv(fd_, bytes, sizeof bytes, 0);
    if (n <= 0) {
      ended_ = true;
      return false;
    }
    buffer_.append(bytes, static_cast<size_t>(n));
    return true;
  }

  int fd_ = -1;
  bool connected_ = false, ended_ = false;
  std::string buffer_;
};

inline int count_entries(const char* folder) {
  int count = 0;
  if (DIR* dir = opendir(folder)) {
    while (const dirent* entry = readdir(dir)) count += entry->d_name[0] != '.';
    closedir(dir);
  }
  return count;
}
inline int num_threads() { return count_entries("/proc/self/task"); }
inline int num_files() { return count_entries("/proc/self/fd"); }

/// Waits for `condition`; false after `timeout_ms`.
template <typename Condition>
bool eventually(Condition condition, int timeout_ms = 5000) {
  for (int i = 0; i < timeout_ms / 2; ++i) {
    if (condition()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return condition();
}

/// The JSON payloads of an event stream, without "data: ".
inline std::vector<std::string> events_of(std::string_view stream) {
  std::vector<std::string> events;
  while (!stream.empty()) {
    const size_t end = stream.find("\n\n");
    const std::string_view event = stream.substr(0, end);
    if (event.substr(0, 6) == "data: ") events.emplace_back(event.substr(6));
    if (end == stream.npos) break;
    stream.remove_prefix(end + 2);
  }
  return events;
}

}  // namespace videre
