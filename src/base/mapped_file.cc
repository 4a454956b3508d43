#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "base/error.h"

namespace videre {
namespace {

// Opens a regular file for reading; `size` receives its length.
Result<int> open_regular(const std::string& path, int64_t& size) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const ErrorCode code =
        errno == ENOENT || errno == ENOTDIR ? ErrorCode::kNotFound : ErrorCode::kInvalidModel;
    return make_error(code, "", "cannot open {}: {}", path, std::strerror(errno));
  }
  struct stat info{};
  if (::fstat(fd, &info) != 0 || !S_ISREG(info.st_mode)) {
    ::close(fd);
    return invalid_model("{} is not a regular file", path);
  }
  size = info.st_size;
  return fd;
}

}  // namespace

Result<std::shared_ptr<MappedFile>> MappedFile::open(const std::string& path) {
  int64_t size = 0;
  VIDERE_ASSIGN_OR_RETURN(const int fd, open_regular(path, size));
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  if (size > 0) {
    void* memory = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, fd, 0);
    if (memory == MAP_FAILED) {
      const int error = errno;
      ::close(fd);
      return invalid_model("cannot map {} ({} bytes): {}", path, size, std::strerror(error));
    }
    file->bytes_ = {static_cast<const uint8_t*>(memory), static_cast<size_t>(size)};
    file->mapped_ = true;
  }
  ::close(fd);
  return file;
}

std::shared_ptr<MappedFile> MappedFile::borrow(std::span<const uint8_t> bytes, std::string path) {
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->bytes_ = bytes;
  file->path_ = std::move(path);
  return file;
}

MappedFile::~MappedFile() {
  if (mapped_) ::munmap(const_cast<uint8_t*>(bytes_.data()), bytes_.size());
}

void drop_pages(const void* data, size_t size) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t begin = (address + page - 1) / page * page, end = (address + size) / page * page;
  if (begin < end) ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_DONTNEED);
}

Result<std::string> read_text_file(const std::string& path, size_t max_bytes) {
  int64_t size = 0;
  VIDERE_ASSIGN_OR_RETURN(const int fd, open_regular(path, size));
  if (static_cast<uint64_t>(size) > max_bytes) {
    ::close(fd);
    return make_error(ErrorCode::kTooLarge, "", "{} is {} bytes; at most {} are read", path, size,
                      max_bytes);
  }
  std::string text(static_cast<size_t>(size), '\0');
  size_t used = 0;
  while (used < text.size()) {
    const ssize_t got = ::read(fd, text.data() + used, text.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) break;
    used += static_cast<size_t>(got);
  }
  ::close(fd);
  if (used != text.size())
    return invalid_model("{} ended after {} of {} bytes", path, used, text.size());
  return text;
}

}  // namespace videre
