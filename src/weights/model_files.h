// The files of one checkpoint by name: a folder's, or those that this binary carries. Everything
// that reads a checkpoint reads it through here.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "videre/result.h"

namespace videre {

/// One file of the built-in model; bytes live as long as the program.
struct EmbeddedFile {
  const char* name;
  std::span<const uint8_t> bytes;
};
struct EmbeddedModel {
  const char* name;  // of the model, "" when the binary carries none
  std::span<const EmbeddedFile> files;
};
/// Made by cmake/builtin_model.cmake: the model, and the questions that measure it.
EmbeddedModel builtin_model();
EmbeddedModel builtin_evaluation();

/// The name that stands for the built-in model wherever a model is named; "" does too.
inline constexpr const char* kBuiltinModel = "builtin";

/// Copies are cheap. A folder is read when asked, not before.
class ModelFiles {
 public:
  ModelFiles(std::string folder) : path_(std::move(folder)) {}  // NOLINT: a folder's name will do
  ModelFiles(const char* folder) : path_(folder) {}             // NOLINT
  explicit ModelFiles(const EmbeddedModel& model)
      : path_(model.name), files_(model.files), embedded_(true) {}

  /// The folder, or the built-in model's name; for messages too.
  const std::string& path() const { return path_; }
  bool embedded() const { return embedded_; }
  bool contains(const std::string& name) const;
  /// Names of the files, sorted; folders inside are left out. Errors: kNotFound.
  Result<std::vector<std::string>> names() const;
  /// The file's bytes, not copied. Errors: kNotFound.
  Result<std::shared_ptr<MappedFile>> map(const std::string& name) const;
  /// The file's text. Errors: kNotFound; kTooLarge beyond `max_bytes`.
  Result<std::string> text(const std::string& name, size_t max_bytes) const;

 private:
  const EmbeddedFile* find(const std::string& name) const;

  std::string path_;
  std::span<const EmbeddedFile> files_;
  bool embedded_ = false;
};

/// The files that `model` names: "" and "builtin" the built-in ones, else as `resolve_model`.
/// Errors: kNotFound, also when this binary carries no model.
Result<ModelFiles> open_model(const std::string& model, const std::string& revision,
                              const std::string& download_dir);

}  // namespace videre
