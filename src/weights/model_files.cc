#include "weights/model_files.h"

#include <algorithm>
#include <filesystem>

#include "base/error.h"
#include "weights/hub.h"

namespace videre {

namespace fs = std::filesystem;

const EmbeddedFile* ModelFiles::find(const std::string& name) const {
  for (const EmbeddedFile& file : files_) {
    if (name == file.name) return &file;
  }
  return nullptr;
}

bool ModelFiles::contains(const std::string& name) const {
  std::error_code ignored;
  return embedded_ ? find(name) != nullptr : fs::exists(fs::path(path_) / name, ignored);
}

Result<std::vector<std::string>> ModelFiles::names() const {
  std::vector<std::string> names;
  for (const EmbeddedFile& file : files_) names.emplace_back(file.name);
  if (!embedded_) {
    std::error_code failed;
    for (const auto& entry : fs::directory_iterator(path_, failed)) {
      std::error_code ignored;
      if (entry.is_regular_file(ignored)) names.push_back(entry.path().filename().string());
    }
    if (failed) {
      return make_error(ErrorCode::kNotFound, "model", "folder {} cannot be read: {}", path_,
                        failed.message());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

Result<std::shared_ptr<MappedFile>> ModelFiles::map(const std::string& name) const {
  if (!embedded_) return MappedFile::open((fs::path(path_) / name).string());
  const EmbeddedFile* file = find(name);
  if (!file) {
    return make_error(ErrorCode::kNotFound, "model", "the built-in model {} has no file {}", path_,
                      name);
  }
  return MappedFile::borrow(file->bytes, path_ + "/" + name);
}

Result<std::string> ModelFiles::text(const std::string& name, size_t max_bytes) const {
  if (!embedded_) return read_text_file((fs::path(path_) / name).string(), max_bytes);
  VIDERE_ASSIGN_OR_RETURN(const auto file, map(name));
  if (file->bytes().size() > max_bytes) {
    return make_error(ErrorCode::kTooLarge, "", "{} is {} bytes; at most {} are read", file->path(),
                      file->bytes().size(), max_bytes);
  }
  return std::string(file->bytes().begin(), file->bytes().end());
}

Result<ModelFiles> open_model(const std::string& model, const std::string& revision,
                              const std::string& download_dir) {
  if (!model.empty() && model != kBuiltinModel) {
    VIDERE_ASSIGN_OR_RETURN(std::string folder, resolve_model(model, revision, download_dir));
    return ModelFiles(std::move(folder));
  }
  const EmbeddedModel builtin = builtin_model();
  if (builtin.files.empty()) {
    return make_error(model.empty() ? ErrorCode::kInvalidArgument : ErrorCode::kNotFound, "model",
                      "no model is given, and this binary was built without one "
                      "(VIDERE_BUILTIN_MODEL); name a checkpoint's folder, or org/name in the hub "
                      "cache");
  }
  return ModelFiles(builtin);
}

}  // namespace videre
