#include "base/output_folder.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/error.h"

namespace videre {
namespace {

namespace fs = std::filesystem;

constexpr const char* kFlag = "DST";  // what the commands call it

Error disk_error(const std::string& what, int error) {
  return make_error(ErrorCode::kUnavailable, kFlag, "{}: {}", what, std::strerror(error));
}

}  // namespace

OutputFile::~OutputFile() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

Status OutputFile::write_at(int64_t offset, std::span<const uint8_t> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::pwrite(descriptor_, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return disk_error("cannot write " + name_, errno);
    if (written == 0) return disk_error("cannot write " + name_, ENOSPC);
    bytes = bytes.subspan(static_cast<size_t>(written));
    offset += written;
  }
  return {};
}

Result<std::unique_ptr<OutputFolder>> OutputFolder::create(const std::string& path,
                                                           int64_t size_bytes, bool unnamed_files) {
  std::unique_ptr<OutputFolder> out(new OutputFolder);
  fs::path full = fs::absolute(path).lexically_normal();
  if (!full.has_filename()) full = full.parent_path();
  out->path_ = full.string();
  out->parent_ = full.parent_path().string();
  out->name_ = full.filename().string();
  std::error_code failed;
  if (fs::exists(fs::symlink_status(full, failed))) {
    return invalid_argument(kFlag, "{} exists already; remove it, or name a new folder", path);
  }
  if (!fs::is_directory(out->parent_, failed)) {
    return invalid_argument(kFlag, "{} cannot be made: there is no folder {}", path, out->parent_);
  }
  struct statvfs room{};
  if (::statvfs(out->parent_.c_str(), &room) == 0) {
    const double free_bytes =
        static_cast<double>(room.f_bavail) * static_cast<double>(room.f_frsize);
    if (free_bytes < static_cast<double>(size_bytes)) {
      return make_error(ErrorCode::kUnavailable, kFlag,
                        "{} needs {:.2f} GB, and {} has {:.2f} GB free; make room, or name a "
                        "folder on another disk",
                        path, static_cast<double>(size_bytes) / 1e9, out->parent_,
                        free_bytes / 1e9);
    }
  }
  const int probe =
      unnamed_files ? ::open(out->parent_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644) : -1;
  if (probe >= 0) {
    ::close(probe);
    return out;
  }
  const bool unknown_here = !unnamed_files || errno == EOPNOTSUPP || errno == EISDIR ||
                            errno == ENOENT || errno == EINVAL;
  if (!unknown_here) {
    return make_error(ErrorCode::kInvalidArgument, kFlag, "{} cannot be made: {}", path,
                      std::strerror(errno));
  }
  // The lock tells a folder in the making from one that a killed process left behind.
  out->partial_ = out->path_ + ".partial";
  if (::mkdir(out->partial_.c_str(), 0755) != 0 && errno != EEXIST) {
    return make_error(ErrorCode::kInvalidArgument, kFlag, "{} cannot be made: {}", out->partial_,
                      std::strerror(errno));
  }
  out->partial_lock_ = ::open(out->partial_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (out->partial_lock_ < 0 || ::flock(out->partial_lock_, LOCK_EX | LOCK_NB) != 0) {
    out->partial_.clear();
    return make_error(ErrorCode::kUnavailable, kFlag, "{}.partial is in use by another process",
                      path);
  }
  for (const auto& entry : fs::directory_iterator(out->partial_, failed)) {
    fs::remove_all(entry.path(), failed);
  }
  return out;
}

OutputFolder::~OutputFolder() {
  files_.clear();
  std::error_code ignored;
  if (!partial_.empty()) fs::remove_all(partial_, ignored);
  if (partial_lock_ >= 0) ::close(partial_lock_);
}

Result<OutputFile*> OutputFolder::add_file(const std::string& name) {
  const int descriptor =
      partial_.empty()
          ? ::open(parent_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0644)
          : ::open((partial_ + "/" + name).c_str(), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor < 0) return disk_error("cannot make " + name, errno);
  files_.push_back(std::make_unique<OutputFile>(descriptor, name));
  return files_.back().get();
}

Status OutputFolder::write_file(const std::string& name, std::string_view text) {
  VIDERE_ASSIGN_OR_RETURN(OutputFile * file, add_file(name));
  return file->write_at(0, {reinterpret_cast<const uint8_t*>(text.data()), text.size()});
}

Status OutputFolder::commit() {
  std::string made = partial_;
  if (made.empty()) {
    made = parent_ + "/." + name_ + ".XXXXXX";
    if (!::mkdtemp(made.data())) return disk_error("cannot make a folder in " + parent_, errno);
    const mode_t mask = ::umask(0);
    ::umask(mask);
    ::chmod(made.c_str(), 0777 & ~mask);
    for (const auto& file : files_) {
      const std::string from = "/proc/self/fd/" + std::to_string(file->descriptor());
      const std::string to = made + "/" + file->name();
      if (::linkat(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), AT_SYMLINK_FOLLOW) != 0) {
        const int error = errno;
        std::error_code ignored;
        fs::remove_all(made, ignored);
        return disk_error("cannot name " + file->name(), error);
      }
    }
  }
  if (::renameat2(AT_FDCWD, made.c_str(), AT_FDCWD, path_.c_str(), RENAME_NOREPLACE) != 0) {
    int error = errno;
    // Some file systems know only the plain call, which takes an empty folder's place at most.
    if (error == EINVAL && ::rename(made.c_str(), path_.c_str()) == 0) error = 0;
    if (error != 0) {
      std::error_code ignored;
      fs::remove_all(made, ignored);
      return disk_error("cannot name the folder " + path_, error);
    }
  }
  partial_.clear();
  files_.clear();
  return {};
}

}  // namespace videre
