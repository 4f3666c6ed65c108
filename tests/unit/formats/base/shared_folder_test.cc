// What several processes do in one folder.
#include "formats/base/shared_folder.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;
using Strings = std::vector<std::string>;

class SharedFolder : public testing::Test {
 protected:
  const test::TempFolder folder_;
  const Dir dir_ = Must(Dir::Open(folder_.path()));

  Strings Lines(uint64_t* offset, uint64_t* torn, uint64_t limit = 1000) const {
    Strings lines;
    *torn = Must(VisitLines(Must(InputFile::Open(dir_, "log")), offset, limit, [&](std::string_view line) {
      lines.emplace_back(line);
      return Status();
    }));
    return lines;
  }
};

TEST_F(SharedFolder, OnlyOneCreates) {
  EXPECT_TRUE(Must(CreateExclusively(dir_, "a", AsBytes("first"))));
  EXPECT_FALSE(Must(CreateExclusively(dir_, "a", AsBytes("second"))));
  EXPECT_EQ(test::ReadWhole(folder_ / "a"), "first");
  std::filesystem::create_symlink("nowhere", folder_ / "link");
  EXPECT_FALSE(Must(CreateExclusively(dir_, "link", AsBytes("x"))));
  EXPECT_FALSE(test::Exists(folder_ / "nowhere"));
  EXPECT_FALSE(CreateExclusively(dir_, "no/such", AsBytes("x")).ok());
}

TEST_F(SharedFolder, TouchSetsTheTimeToNow) {
  EXPECT_FALSE(Must(Touch(dir_, "a")));
  EXPECT_FALSE(test::Exists(folder_ / "a"));
  test::WriteWhole(folder_ / "a", "");
  test::WriteWhole(folder_ / "b", "");
  const timespec old[2] = {{1000, 0}, {1000, 0}};
  ASSERT_EQ(::utimensat(AT_FDCWD, (folder_ / "a").c_str(), old, 0), 0);
  EXPECT_EQ(Must(dir_.StatOf("a"))->modified_ns, int64_t{1000} * 1000000000);
  EXPECT_TRUE(Must(Touch(dir_, "a")));
  EXPECT_GE(Must(dir_.StatOf("a"))->modified_ns, Must(dir_.StatOf("b"))->modified_ns);
  EXPECT_FALSE(Must(dir_.StatOf("c")).has_value());
}

TEST_F(SharedFolder, PathsStayBelow) {
  Must(MakeBelow(dir_, "a/b/c"));
  Must(MakeBelow(dir_, "a/b/c"));
  EXPECT_EQ(Must(OpenBelow(dir_, "a/b/c")).path(), folder_ / "a/b/c");
  EXPECT_EQ(Must(OpenBelow(dir_, ".")).path(), folder_.path());
  for (const char* path : {"..", "a/..", "a//b", "/a", "a/", "", "a/./b"}) ExpectError(MakeBelow(dir_, path), Code::kUsage, "path");
  EXPECT_FALSE(OpenBelow(dir_, "a/x").ok());
  std::filesystem::create_directory_symlink("/", folder_ / "a/out");
  EXPECT_FALSE(OpenBelow(dir_, "a/out").ok());
  EXPECT_FALSE(MakeBelow(dir_, "a/out/tmp").ok());
}

TEST_F(SharedFolder, LogsAreFollowed) {
  const AppendFile log = Must(AppendFile::Create(dir_, "log"));
  EXPECT_FALSE(AppendFile::Create(dir_, "log").ok());
  uint64_t offset = 0;
  uint64_t torn = 0;
  Must(log.Append("one\ntw"));
  EXPECT_EQ(Lines(&offset, &torn), Strings{"one"});
  EXPECT_EQ(torn, 2U);
  EXPECT_EQ(Lines(&offset, &torn), Strings());
  Must(log.Append("o\n\nfour\n"));
  EXPECT_EQ(Lines(&offset, &torn), (Strings{"two", "", "four"}));
  EXPECT_EQ(torn, 0U);
  // a line longer than the pieces in which files are read
  const std::string text(700'000, 'x');
  Must(log.Append(text + "\nend\n"));
  EXPECT_EQ(Lines(&offset, &torn, 1'000'000), (Strings{text, "end"}));
  offset = 0;
  ExpectError(VisitLines(Must(InputFile::Open(dir_, "log")), &offset, 1000, [](std::string_view) { return Status(); }), Code::kMalformed, "line", {"longer than 1000"});
}

TEST_F(SharedFolder, ALogThatVanishedIsAnError) {
  const AppendFile log = Must(AppendFile::Create(dir_, "log"));
  Must(log.Append("one\n"));
  std::filesystem::remove(folder_ / "log");
  ExpectError(log.Append("two\n"), Code::kIo, "vanished", {"log"});
}

}  // namespace
}  // namespace q2c
