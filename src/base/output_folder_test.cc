#include "base/output_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>

namespace videre {
namespace {

namespace fs = std::filesystem;

// Both ways of making files.
class OutputFolderTest : public testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("videre_output_" + std::to_string(::getpid()) +
                                           (GetParam() ? "_unnamed" : "_named"));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  auto create(const std::string& name, int64_t size_bytes = 10) {
    return OutputFolder::create((folder_ / name).string(), size_bytes, GetParam());
  }
  size_t num_entries() const {
    return static_cast<size_t>(
        std::distance(fs::directory_iterator(folder_), fs::directory_iterator()));
  }
  std::string text(const fs::path& path) const {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), {}};
  }

  fs::path folder_;
};

TEST_P(OutputFolderTest, AppearsWhole) {
  for (const char* name : {"out", "other/"}) {
    auto out = create(name);
    ASSERT_TRUE(out.ok()) << out.error().message;
    ASSERT_TRUE((*out)->write_file("a.txt", "hello").ok());
    auto file = (*out)->add_file("b.bin");
    ASSERT_TRUE(file.ok());
    const uint8_t bytes[] = {1, 2, 3};
    ASSERT_TRUE((*file)->write_at(4, bytes).ok());
    ASSERT_TRUE((*file)->write_at(0, bytes).ok());
    EXPECT_FALSE(fs::exists(folder_ / name));
    ASSERT_TRUE((*out)->commit().ok());
    EXPECT_EQ(text(folder_ / name / "a.txt"), "hello");
    EXPECT_EQ(text(folder_ / name / "b.bin"), std::string("\1\2\3\0\1\2\3", 7));
    EXPECT_EQ(fs::status(folder_ / name).permissions() & fs::perms::others_read,
              fs::status(folder_).permissions() & fs::perms::others_read);
  }
  EXPECT_EQ(num_entries(), 2u);
}

TEST_P(OutputFolderTest, GoesWithoutATrace) {
  {
    auto out = create("out");
    ASSERT_TRUE(out.ok());
    ASSERT_TRUE((*out)->write_file("a.txt", "hello").ok());
  }
  EXPECT_EQ(num_entries(), 0u);
}

TEST_P(OutputFolderTest, ComesBackAfterAKill) {
  const pid_t child = ::fork();
  if (child == 0) {
    auto out = create("out");
    (void)(*out)->write_file("a.txt", "half");
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  if (GetParam()) {
    EXPECT_EQ(num_entries(), 0u);
  }
  auto out = create("out");
  ASSERT_TRUE(out.ok()) << out.error().message;
  ASSERT_TRUE((*out)->write_file("b.txt", "whole").ok());
  ASSERT_TRUE((*out)->commit().ok());
  EXPECT_FALSE(fs::exists(folder_ / "out" / "a.txt"));
  EXPECT_EQ(text(folder_ / "out" / "b.txt"), "whole");
  EXPECT_EQ(num_entries(), 1u);
}

TEST_P(OutputFolderTest, TwoAtOnceDoNotMix) {
  auto first = create("out");
  ASSERT_TRUE(first.ok());
  auto second = create("out");
  if (!GetParam()) {
    ASSERT_FALSE(second.ok());
    EXPECT_NE(second.error().message.find("in use"), std::string::npos);
    ASSERT_TRUE((*first)->write_file("a.txt", "1").ok());
    ASSERT_TRUE((*first)->commit().ok());
  } else {
    ASSERT_TRUE(second.ok());
    ASSERT_TRUE((*first)->write_file("a.txt", "1").ok());
    ASSERT_TRUE((*second)->write_file("a.txt", "2").ok());
    ASSERT_TRUE((*first)->commit().ok());
    EXPECT_FALSE((*second)->commit().ok());  // the name is taken by now
  }
  first = Error{};
  second = Error{};
  EXPECT_EQ(text(folder_ / "out" / "a.txt"), "1");
  EXPECT_EQ(num_entries(), 1u);
}

TEST_P(OutputFolderTest, RefusesTheImpossible) {
  fs::create_directories(folder_ / "there");
  EXPECT_NE(create("there").error().message.find("exists already"), std::string::npos);
  EXPECT_NE(create("no/folder").error().message.find("there is no folder"), std::string::npos);
  const auto large = create("large", int64_t{1} << 60);
  ASSERT_FALSE(large.ok());
  EXPECT_EQ(large.error().code, ErrorCode::kUnavailable);
  EXPECT_NE(large.error().message.find("GB free; make room"), std::string::npos);
  fs::create_symlink("nowhere", folder_ / "link");
  EXPECT_NE(create("link").error().message.find("exists already"), std::string::npos);
  EXPECT_EQ(num_entries(), 2u);
}

INSTANTIATE_TEST_SUITE_P(Ways, OutputFolderTest, testing::Bool(),
                         [](const auto& info) { return info.param ? "unnamed" : "named"; });

}  // namespace
}  // namespace videre
