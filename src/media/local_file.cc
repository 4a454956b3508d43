#include "media/local_file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "media/url.h"

namespace videre {
namespace {

constexpr int64_t kMapFromBytes = int64_t{64} << 20;

class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  int get() const { return fd_; }

 private:
  int fd_;
};

Error not_readable() {
  return invalid_argument("", "the file:// URL names no file that can be read");
}
Error outside() {
  return make_error(ErrorCode::kForbidden, "",
                    "the file:// URL names a file outside --allowed-local-media-path");
}

std::optional<std::string> resolved(const std::string& path) {
  char* text = ::realpath(path.c_str(), nullptr);
  if (!text) return std::nullopt;
  std::string result(text);
  std::free(text);
  return result;
}

/// Path of the URL, percent-decoded. Only this machine's files: no host, or localhost.
Result<std::string> url_path(std::string_view url) {
  url.remove_prefix(std::min(url.size(), url.find(':') + 1));
  if (!url.starts_with("//")) {
    return invalid_argument("", "the file URL must look like file:///path");
  }
  url.remove_prefix(2);
  const size_t slash = url.find('/');
  std::string host(url.substr(0, slash));
  std::transform(host.begin(), host.end(), host.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (slash == std::string_view::npos || (!host.empty() && host != "localhost")) {
    return invalid_argument("",
                            "the file URL names a host; expected file:///path or "
                            "file://localhost/path");
  }
  VIDERE_ASSIGN_OR_RETURN(std::string path, percent_decode(url.substr(slash)));
  if (path.size() >= PATH_MAX) return not_readable();
  return path;
}

/// Whether `path`, which does not resolve, would lie below the folder by its text alone.
bool lies_below(const std::string& path, const std::string& root, const std::string& real_root) {
  const std::string plain = std::filesystem::path(path).lexically_normal().string();
  for (const std::string& folder : {root, real_root}) {
    std::string prefix = std::filesystem::path(folder + "/").lexically_normal().string();
    if (plain.starts_with(prefix)) return true;
  }
  return false;
}

/// Opens `relative` below `root` one part at a time, following no link: `relative` comes from
/// realpath, so a link on the way was put there since, and is refused.
Descriptor open_beneath(const std::string& root, std::string_view relative) {
  Descriptor at(::open(root.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  while (at.get() >= 0) {
    const size_t slash = relative.find('/');
    const std::string part(relative.substr(0, slash));
    if (part.empty() || part == "." || part == "..") return Descriptor();
    if (slash == std::string_view::npos) {
      return Descriptor(::openat(at.get(), part.c_str(),
                                 O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC));
    }
    at =
        Descriptor(::openat(at.get(), part.c_str(), O_PATH | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC));
    relative.remove_prefix(slash + 1);
  }
  return Descriptor();
}

bool on_kernel_filesystem(int fd) {
  struct statfs info{};
  if (::fstatfs(fd, &info) != 0) return true;
  return info.f_type == PROC_SUPER_MAGIC || info.f_type == SYSFS_MAGIC ||
         info.f_type == DEBUGFS_MAGIC || info.f_type == TRACEFS_MAGIC ||
         info.f_type == CGROUP_SUPER_MAGIC || info.f_type == CGROUP2_SUPER_MAGIC;
}

Result<MediaBytes> read_all(int fd, size_t size) {
  std::vector<uint8_t> bytes(size);
  size_t done = 0;
  while (done < size) {
    const ssize_t got = ::read(fd, bytes.data() + done, size - done);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      return invalid_argument("", "the file of the file:// URL changed while it was read");
    done += static_cast<size_t>(got);
  }
  return MediaBytes(std::move(bytes));
}

Result<MediaBytes> map_all(int fd, size_t size) {
  void* data = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (data == MAP_FAILED) return not_readable();
  std::shared_ptr<const void> owner(
      data, [size](const void* p) { ::munmap(const_cast<void*>(p), size); });
  return MediaBytes(std::move(owner), {static_cast<const uint8_t*>(data), size});
}

}  // namespace

Result<MediaBytes> read_file_url(const std::string& url, const std::string& root,
                                 int64_t max_bytes) {
  if (root.empty()) {
    return make_error(
        ErrorCode::kForbidden, "",
        "file:// URLs are refused; start with --allowed-local-media-path DIR to allow "
        "files below DIR");
  }
  VIDERE_ASSIGN_OR_RETURN(const std::string path, url_path(url));
  const auto real_root = resolved(root);
  if (!real_root)
    return make_error(ErrorCode::kForbidden, "",
                      "the folder of --allowed-local-media-path is gone");
  const auto real_path = resolved(path);
  // Of a file outside nobody learns whether it exists.
  if (!real_path) return lies_below(path, root, *real_root) ? not_readable() : outside();
  const std::string prefix = *real_root == "/" ? "/" : *real_root + "/";
  if (!real_path->starts_with(prefix) || real_path->size() == prefix.size()) return outside();
  const Descriptor file =
      open_beneath(*real_root, std::string_view(*real_path).substr(prefix.size()));
  struct stat info{};
  if (file.get() < 0 || ::fstat(file.get(), &info) != 0) return not_readable();
  if (!S_ISREG(info.st_mode) || on_kernel_filesystem(file.get())) {
    return invalid_argument("", "the file:// URL names something that is not a regular file");
  }
  if (info.st_size == 0) return invalid_argument("", "the file of the file:// URL is empty");
  if (info.st_size > max_bytes) {
    return make_error(ErrorCode::kTooLarge, "",
                      "the file of the file:// URL has {} bytes; at most {} are taken",
                      static_cast<int64_t>(info.st_size), max_bytes);
  }
  const auto size = static_cast<size_t>(info.st_size);
  return info.st_size <= kMapFromBytes ? read_all(file.get(), size) : map_all(file.get(), size);
}

}  // namespace videre
