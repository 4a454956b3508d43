// A new folder that appears whole or not at all: its files have no name until all of them are
// written, so a process that is killed leaves nothing behind. Where the file system cannot make
// such files, they lie in PATH.partial, which the next run for the same PATH clears away.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "videre/result.h"

namespace videre {

/// A file of an OutputFolder, of a size that is known from the start. Thread-safe.
class OutputFile {
 public:
  OutputFile(int descriptor, std::string name) : descriptor_(descriptor), name_(std::move(name)) {}
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Errors: kUnavailable says what the disk said.
  Status write_at(int64_t offset, std::span<const uint8_t> bytes);
  int descriptor() const { return descriptor_; }
  const std::string& name() const { return name_; }

 private:
  int descriptor_;
  std::string name_;
};

class OutputFolder {
 public:
  /// `path` may not exist, its parent must; `size_bytes` is what will be written. Errors:
  /// kInvalidArgument for the path, kUnavailable when the disk has too little room. Without
  /// `unnamed_files` it does as where they cannot be made, for tests.
  static Result<std::unique_ptr<OutputFolder>> create(const std::string& path, int64_t size_bytes,
                                                      bool unnamed_files = true);
  ~OutputFolder();
  OutputFolder(const OutputFolder&) = delete;
  OutputFolder& operator=(const OutputFolder&) = delete;

  /// A new file; lives as long as the folder object.
  Result<OutputFile*> add_file(const std::string& name);
  /// A file with this text.
  Status write_file(const std::string& name, std::string_view text);
  /// Gives all files their names and the folder its own.
  Status commit();

 private:
  OutputFolder() = default;
  std::string path_, parent_, name_;
  std::string partial_;  // of the fallback
  int partial_lock_ = -1;
  std::vector<std::unique_ptr<OutputFile>> files_;
};

}  // namespace videre
