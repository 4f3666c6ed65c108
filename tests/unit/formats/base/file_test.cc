// The door to the disk: what it refuses to open, replace or follow.
#include "formats/base/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/base/system.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

unsigned ModeOf(const std::string& path) {
  struct stat info {};
  EXPECT_EQ(::stat(path.c_str(), &info), 0) << path;
  return info.st_mode & 07777U;
}

class File : public testing::Test {
 protected:
  const test::TempFolder folder_;
  const Dir dir_ = Must(Dir::Open(folder_.path()));
  std::string At(const std::string& name) const { return folder_ / name; }
};

TEST_F(File, OutputFileNeverReplaces) {
  test::WriteWhole(At("there"), "old");
  ExpectError(OutputFile::Create(dir_, "there"), Code::kIo, "io", {"there"});
  EXPECT_EQ(test::ReadWhole(At("there")), "old");
  std::filesystem::create_symlink("nowhere", At("link"));
  EXPECT_FALSE(OutputFile::Create(dir_, "link").ok());
  EXPECT_FALSE(test::Exists(At("nowhere")));
  EXPECT_FALSE(OutputFile::Create(dir_, "no/such").ok());
}

TEST_F(File, OutputFileWritesAtOffsets) {
  const OutputFile file = Must(OutputFile::Create(dir_, "f"));
  Must(file.Preallocate(10));
  EXPECT_EQ(test::ReadWhole(At("f")), std::string(10, '\0'));
  Must(file.WriteAt(4, AsBytes(std::string_view("wxyz"))));
  Must(file.WriteAt(0, AsBytes(std::string_view("ab"))));
  Must(file.Sync());
  EXPECT_EQ(test::ReadWhole(At("f")), std::string("ab\0\0wxyz\0\0", 10));
  Must(file.WriteAt(0, {}));
}

TEST_F(File, ModesFollowUmask) {
  const mode_t before = ::umask(0027);
  const OutputFile file = Must(OutputFile::Create(dir_, "f"));
  Must(dir_.MakeDir("d"));
  ::umask(before);
  EXPECT_EQ(ModeOf(At("f")), 0640U);
  EXPECT_EQ(ModeOf(At("d")), 0750U);
  Must(file.SetExecutable());
  EXPECT_EQ(ModeOf(At("f")), 0750U);  // executable for whoever may read
}

TEST_F(File, InputFileTakesRegularFilesOnly) {
  test::WriteWhole(At("f"), "text");
  EXPECT_EQ(Must(Must(InputFile::Open(dir_, "f")).ReadAll(4)), "text");
  ExpectError(InputFile::Open(dir_, "absent"), Code::kMalformed, "file-missing", {"absent"});
  ASSERT_EQ(::mkfifo(At("fifo").c_str(), 0600), 0);
  ExpectError(InputFile::Open(dir_, "fifo"), Code::kMalformed, "file-kind", {"a named pipe"});  // and does not wait for a writer
  ExpectError(InputFile::Open(dir_, "fifo", Links::kFollow), Code::kMalformed, "file-kind");
  std::filesystem::create_directory(At("d"));
  ExpectError(InputFile::Open(dir_, "d"), Code::kMalformed, "file-kind", {"a folder"});
}

TEST_F(File, InputFileFollowsLinksOnlyIfAsked) {
  test::WriteWhole(At("f"), "text");
  std::filesystem::create_symlink("f", At("link"));
  std::filesystem::create_symlink("round", At("round"));
  ExpectError(InputFile::Open(dir_, "link"), Code::kMalformed, "link-outside", {"link"});
  EXPECT_EQ(Must(Must(InputFile::Open(dir_, "link", Links::kFollow)).ReadAll(4)), "text");
  ExpectError(InputFile::Open(dir_, "round", Links::kFollow), Code::kMalformed, "link-outside");
}

TEST_F(File, ReadingPastTheEnd) {
  test::WriteWhole(At("f"), "0123456789");
  const InputFile file = Must(InputFile::Open(dir_, "f"));
  std::array<std::byte, 4> part{};
  Must(file.ReadAt(6, part));
  EXPECT_EQ(static_cast<char>(part[3]), '9');
  ExpectError(file.ReadAt(7, part), Code::kTryAgain, "changed-during-read");
  ExpectError(file.ReadAll(9), Code::kMalformed, "file-size", {"10"});
  Must(file.ReadAll(10));
}

TEST_F(File, ChangesWhileOpenAreNoticed) {
  const auto old = std::filesystem::file_time_type::clock::now() - std::chrono::hours(1);
  const auto fresh = [&](const std::string& name) {
    test::WriteWhole(At(name), "0123");
    std::filesystem::last_write_time(At(name), old);
    return Must(InputFile::Open(dir_, name));
  };
  const InputFile same = fresh("same");
  Must(same.CheckUnchanged());
  std::filesystem::permissions(At("same"), std::filesystem::perms::owner_read);  // not the content
  std::filesystem::create_hard_link(At("same"), At("again"));
  Must(same.CheckUnchanged());
  const InputFile written = fresh("written");
  test::WriteWhole(At("written"), "4567");
  ExpectError(written.CheckUnchanged(), Code::kTryAgain, "changed-during-read", {"written"});
  const InputFile shorter = fresh("shorter");
  std::filesystem::resize_file(At("shorter"), 2);
  ExpectError(shorter.CheckUnchanged(), Code::kTryAgain, "changed-during-read");
}

TEST_F(File, RenameNeverReplacesUnlessTold) {
  test::WriteWhole(At("a/f"), "a");
  test::WriteWhole(At("b/f"), "b");
  std::filesystem::create_directory(At("empty"));
  ExpectError(dir_.Rename("a", dir_, "b", Dir::Move::kNoReplace), Code::kUsage, "output-exists", {"b"});
  ExpectError(dir_.Rename("a", dir_, "empty", Dir::Move::kNoReplace), Code::kUsage, "output-exists");
  ExpectError(dir_.Rename("a", dir_, "b", Dir::Move::kReplace), Code::kUsage, "output-exists");
  EXPECT_EQ(test::ReadWhole(At("b/f")), "b");
  Must(dir_.Rename("a", dir_, "empty", Dir::Move::kReplace));
  EXPECT_EQ(test::ReadWhole(At("empty/f")), "a");
  const Dir inner = Must(dir_.OpenDir("b"));
  Must(dir_.Rename("empty", inner, "moved", Dir::Move::kNoReplace));
  EXPECT_EQ(test::ReadWhole(At("b/moved/f")), "a");
  EXPECT_FALSE(dir_.Rename("absent", dir_, "x", Dir::Move::kNoReplace).ok());
  EXPECT_FALSE(std::filesystem::exists(At("x")));
}

TEST_F(File, RenameOfAFileNeverReplacesEither) {
  test::WriteWhole(At("f"), "f");
  test::WriteWhole(At("g"), "g");
  std::filesystem::create_symlink("nowhere", At("dangling"));
  for (const char* taken : {"g", "dangling"}) ExpectError(dir_.Rename("f", dir_, taken, Dir::Move::kNoReplace), Code::kUsage, "output-exists", {taken});
  EXPECT_EQ(test::ReadWhole(At("g")), "g");
  Must(dir_.Rename("f", dir_, "h", Dir::Move::kNoReplace));
  EXPECT_EQ(test::ReadWhole(At("h")), "f");
  EXPECT_FALSE(std::filesystem::exists(At("f")));
}

TEST_F(File, ExchangeSwapsOrTouchesNothing) {
  test::WriteWhole(At("a/f"), "a");
  test::WriteWhole(At("b/f"), "b");
  EXPECT_EQ(dir_.Rename("a", dir_, "b", Dir::Move::kExchange).ok(), os::kCanExchange);
  EXPECT_EQ(test::ReadWhole(At("b/f")), os::kCanExchange ? "a" : "b");
  EXPECT_EQ(test::ReadWhole(At("a/f")), os::kCanExchange ? "b" : "a");
  EXPECT_FALSE(dir_.Rename("b", dir_, "absent", Dir::Move::kExchange).ok());
}

TEST_F(File, RemoveTreeTakesLinksNotTheirTargets) {
  test::WriteWhole(At("keep/f"), "kept");
  test::WriteWhole(At("tree/sub/f"), "x");
  std::filesystem::create_directory_symlink(At("keep"), At("tree/sub/link"));
  std::filesystem::create_directory_symlink(At("keep"), At("link"));
  Must(dir_.RemoveTree("tree"));
  Must(dir_.RemoveTree("link"));
  Must(dir_.RemoveTree("absent"));
  EXPECT_EQ(test::Names(folder_.path()), std::vector<std::string>{"keep"});
  EXPECT_EQ(test::ReadWhole(At("keep/f")), "kept");
}

TEST_F(File, FolderListing) {
  test::WriteWhole(At("b"), "");
  std::filesystem::create_directory(At("a"));
  std::filesystem::create_symlink("b", At("c"));
  ASSERT_EQ(::mkfifo(At("d").c_str(), 0600), 0);
  const std::vector<DirEntry> entries = Must(dir_.List());
  ASSERT_EQ(entries.size(), 4U);
  EXPECT_EQ(entries[0].name, "a");
  EXPECT_EQ(entries[0].kind, FileKind::kFolder);
  EXPECT_EQ(entries[1].kind, FileKind::kRegular);
  EXPECT_EQ(entries[2].kind, FileKind::kLink);
  EXPECT_EQ(entries[3].kind, FileKind::kOther);
  EXPECT_EQ(Must(dir_.ReadLink("c")), "b");
  EXPECT_TRUE(Must(dir_.Has("c")));
  EXPECT_FALSE(Must(dir_.Has("e")));
  EXPECT_FALSE(dir_.OpenDir("c").ok());
  ExpectError(Dir::Open(At("nowhere")), Code::kUsage, "no-folder");
  ExpectError(Dir::Open(At("b")), Code::kUsage, "no-folder");
  std::filesystem::create_directory_symlink("a", At("e"));
  ExpectError(Dir::Open(At("e"), Links::kRefuse), Code::kUsage, "no-folder");
  Must(Dir::Open(At("e")));
}

TEST_F(File, LockExcludesAnotherProcessAndDiesWithIt) {
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ready[0]);
    ::close(done[1]);  // so that the child ends if the test does
    const Result<FileLock> lock = FileLock::Take(dir_, "lock");
    char c = lock.ok() ? 'y' : 'n';
    (void)!::write(ready[1], &c, 1);
    (void)!::read(done[0], &c, 1);
    ::_exit(0);  // no destructor runs
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  ExpectError(FileLock::Take(dir_, "lock"), Code::kTryAgain, "locked", {"lock"});
  ASSERT_EQ(::write(done[1], &c, 1), 1);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  Must(FileLock::Take(dir_, "lock"));
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) ::close(fd);
}

TEST(Paths, Lexical) {
  EXPECT_EQ(AbsolutePath("/a/./b/../c/"), "/a/c");
  EXPECT_EQ(AbsolutePath("/"), "/");
  EXPECT_EQ(AbsolutePath("/a//b/."), "/a/b");
  EXPECT_EQ(AbsolutePath("x"), (std::filesystem::current_path() / "x").string());
  EXPECT_EQ(ParentPath("/a/b"), "/a");
  EXPECT_EQ(BaseName("/a/b"), "b");
  EXPECT_EQ(JoinPath("/a", "b"), "/a/b");
  EXPECT_EQ(RealPath("/no/such/path"), "");
}

TEST(Paths, IsInside) {
  EXPECT_TRUE(IsInside("/a/b", "/a"));
  EXPECT_TRUE(IsInside("/a", "/a"));
  EXPECT_TRUE(IsInside("/a", "/"));
  EXPECT_FALSE(IsInside("/ab", "/a"));
  EXPECT_FALSE(IsInside("/a", "/a/b"));
}

TEST(Paths, IsPlainFileName) {
  for (const char* good : {"a", ".a", "..a", "a b", "model-00001-of-00002.safetensors"}) EXPECT_TRUE(IsPlainFileName(good)) << good;
  for (const char* bad : {"", ".", "..", "a/b", "/a", "a\\b", "../a", "a/"}) EXPECT_FALSE(IsPlainFileName(bad)) << bad;
  EXPECT_FALSE(IsPlainFileName(std::string_view("a\0b", 3)));
}

}  // namespace
}  // namespace q2c
