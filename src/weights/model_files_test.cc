#include "weights/model_files.h"

#include <gtest/gtest.h>

#include <cstring>

#include "weights/checkpoint.h"

namespace videre {
namespace {

const std::string kFolder = std::string(VIDERE_TEST_DATA) + "/tiny-b/checkpoint";

// tests/tiny-b/checkpoint once more, as a binary would carry it.
class Embedded {
 public:
  Embedded() {
    names_ = ModelFiles(kFolder).names().value();
    for (const std::string& name : names_) {
      files_.push_back(ModelFiles(kFolder).map(name).value());
    }
    for (size_t i = 0; i < names_.size(); ++i) {
      table_.push_back({names_[i].c_str(), files_[i]->bytes()});
    }
  }
  ModelFiles files() const { return ModelFiles(EmbeddedModel{"small", table_}); }

 private:
  std::vector<std::string> names_;
  std::vector<std::shared_ptr<MappedFile>> files_;
  std::vector<EmbeddedFile> table_;
};

TEST(ModelFilesTest, EmbeddedFilesReadLikeAFolder) {
  const Embedded embedded;
  const ModelFiles files = embedded.files(), folder(kFolder);
  EXPECT_TRUE(files.embedded());
  EXPECT_EQ(files.names().value(), folder.names().value());
  EXPECT_EQ(files.text("config.json", 1 << 20).value(),
            folder.text("config.json", 1 << 20).value());
  EXPECT_FALSE(files.contains("other"));
  EXPECT_EQ(files.map("other").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(files.text("other", 10).error().code, ErrorCode::kNotFound);
  EXPECT_EQ(files.text("config.json", 10).error().code, ErrorCode::kTooLarge);
  auto a = Checkpoint::open(files), b = Checkpoint::open(folder);
  ASSERT_TRUE(a.ok() && b.ok());
  ASSERT_EQ((*a)->tensors().size(), (*b)->tensors().size());
  for (const auto& [name, tensor] : (*a)->tensors()) {
    const ConstView other = (*b)->tensors().at(name).view;
    EXPECT_EQ(std::memcmp(tensor.view.raw(), other.raw(), other.size_bytes()), 0) << name;
  }
}

TEST(ModelFilesTest, TheBuiltInModelHasANameOrAReason) {
  const EmbeddedModel builtin = builtin_model();
  for (const char* name : {"", "builtin"}) {
    auto files = open_model(name, "", "");
    if (builtin.files.empty()) {
      EXPECT_EQ(files.error().code, *name ? ErrorCode::kNotFound : ErrorCode::kInvalidArgument);
      EXPECT_NE(files.error().message.find("built without one"), std::string::npos);
    } else {
      ASSERT_TRUE(files.ok());
      EXPECT_TRUE(files->contains("config.json"));
      EXPECT_TRUE(Checkpoint::open(*files).ok());
      for (const EmbeddedFile& file : builtin.files) {  // mapped in place, ready for any load
        EXPECT_EQ(reinterpret_cast<uintptr_t>(file.bytes.data()) % 4096, 0u) << file.name;
      }
    }
  }
  EXPECT_EQ(open_model(kFolder, "", "")->path(), kFolder);
  EXPECT_EQ(open_model("/nowhere", "", "").error().code, ErrorCode::kNotFound);
  EXPECT_EQ(ModelFiles("/nowhere").names().error().code, ErrorCode::kNotFound);
}

}  // namespace
}  // namespace videre
