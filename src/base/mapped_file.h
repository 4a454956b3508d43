// A file's bytes, read-only and mapped; and small files read whole.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "videre/result.h"

namespace videre {

class MappedFile {
 public:
  /// Errors: kNotFound, or kInvalidModel for what is no regular file.
  static Result<std::shared_ptr<MappedFile>> open(const std::string& path);
  /// Bytes that live elsewhere for the program's whole life (an embedded checkpoint).
  static std::shared_ptr<MappedFile> borrow(std::span<const uint8_t> bytes, std::string path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const uint8_t> bytes() const { return bytes_; }
  const std::string& path() const { return path_; }

 private:
  MappedFile() = default;
  std::span<const uint8_t> bytes_;
  std::string path_;
  bool mapped_ = false;
};

/// Lets go of pages inside [data, data + size) of a mapping, which come back when they are read:
/// what passes through once need not stay in this process's memory.
void drop_pages(const void* data, size_t size);

/// Whole text of a file of at most `max_bytes`.
Result<std::string> read_text_file(const std::string& path, size_t max_bytes);

}  // namespace videre
