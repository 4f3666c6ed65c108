// All or nothing: what lies at and beside OUT after every way a run can end.
#include "convert/staging.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <functional>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;
using test::Names;
using Strings = std::vector<std::string>;

class StagingTest : public testing::Test {
 protected:
  StagingTest() { test::WriteWhole(in_ + "/config.json", "{}"); }

  Result<Staging> Begin(Overwrite overwrite = Overwrite::kRefuse) const { return Staging::Begin(out_, in_, overwrite); }
  static void Fill(const Staging& staging, const std::string& content) {
    for (const char* name : {"config.json", "model.safetensors"}) Must(WriteFile(staging.dir(), name, AsBytes(content)));
  }
  std::string OutContent() const { return test::ReadWhole(out_ + "/config.json") + test::ReadWhole(out_ + "/model.safetensors"); }
  void MakeOld() const {
    test::WriteWhole(out_ + "/config.json", "old");
    test::WriteWhole(out_ + "/model.safetensors", "old");
  }
  // Runs the function in a child that dies by SIGKILL at its end, without a destructor.
  static void Killed(const std::function<void()>& work) {
    const pid_t child = ::fork();
    if (child == 0) {
      try {
        work();
      } catch (...) {
        ::_exit(9);
      }
      ::raise(SIGKILL);
    }
    int state = 0;
    ASSERT_EQ(::waitpid(child, &state, 0), child);
    ASSERT_TRUE(WIFSIGNALED(state)) << "the child failed before it was killed";
  }

  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
  const std::string out_ = folder_ / "out";
  const std::string root_ = folder_ / ".out.qwen2-convert";
};

TEST_F(StagingTest, NothingIsLeftWithoutCommit) {
  {
    const Staging staging = Must(Begin());
    Fill(staging, "new");
    EXPECT_FALSE(test::Exists(out_));
    EXPECT_EQ(Names(root_ + "/new"), (Strings{"config.json", "model.safetensors"}));
  }
  EXPECT_EQ(Names(folder_.path()), Strings{"in"});
}

TEST_F(StagingTest, CommitMakesOut) {
  Staging staging = Must(Begin());
  EXPECT_FALSE(staging.in_place());
  Fill(staging, "new");
  Must(staging.Commit());
  EXPECT_EQ(OutContent(), "newnew");
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
}

TEST_F(StagingTest, CommitOutlivesTheObject) {
  {
    Staging first = Must(Begin());
    Staging staging = std::move(first);
    Fill(staging, "new");
    Must(staging.Commit());
  }
  EXPECT_EQ(OutContent(), "newnew");
}

TEST_F(StagingTest, EmptyOutIsTakenAndGivenBack) {
  std::filesystem::create_directory(out_);
  {
    const Staging staging = Must(Begin());
    Fill(staging, "new");
  }
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
  EXPECT_TRUE(Names(out_).empty());
  Staging staging = Must(Begin());
  Fill(staging, "new");
  Must(staging.Commit());
  EXPECT_EQ(OutContent(), "newnew");
}

TEST_F(StagingTest, FullOutIsReplacedOnlyByForce) {
  MakeOld();
  ExpectError(Begin(), Code::kUsage, "output-exists", {"--force"});
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
  test::WriteWhole(out_ + "/extra", "x");
  {
    const Staging staging = Must(Begin(Overwrite::kReplace));
    Fill(staging, "new");
    EXPECT_EQ(OutContent(), "oldold");
  }
  EXPECT_EQ(OutContent(), "oldold");
  Staging staging = Must(Begin(Overwrite::kReplace));
  Fill(staging, "new");
  Must(staging.Commit());
  EXPECT_EQ(OutContent(), "newnew");
  EXPECT_FALSE(test::Exists(out_ + "/extra"));
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
}

TEST_F(StagingTest, OutThatAppearsMeanwhileIsNotTouched) {
  Staging staging = Must(Begin());
  Fill(staging, "new");
  MakeOld();
  ExpectError(staging.Commit(), Code::kUsage, "output-exists");
  EXPECT_EQ(OutContent(), "oldold");
}

TEST_F(StagingTest, EmptyOutThatFillsMeanwhileIsNotTouched) {
  std::filesystem::create_directory(out_);
  Staging staging = Must(Begin());
  Fill(staging, "new");
  MakeOld();
  ExpectError(staging.Commit(), Code::kUsage, "output-exists");
  EXPECT_EQ(OutContent(), "oldold");
}

TEST_F(StagingTest, ForcedReplacementThatFailsKeepsTheOldFolder) {
  MakeOld();
  {
    Staging staging = Must(Begin(Overwrite::kReplace));
    // Somebody clears the hidden folder away: neither the swap nor the second rename can work.
    std::filesystem::remove_all(root_ + "/new");
    EXPECT_FALSE(staging.Commit().ok());
  }
  ASSERT_TRUE(test::Exists(out_)) << "the folder that should have been replaced is gone";
  EXPECT_EQ(OutContent(), "oldold");
}

TEST_F(StagingTest, StaleStagingOfAKilledRunIsCleared) {
  for (const bool out_exists : {false, true}) {
    if (out_exists) MakeOld();
    Killed([&] {
      const Staging staging = Must(Begin(Overwrite::kReplace));
      Fill(staging, "half");
      test::WriteWhole(root_ + "/new/leftover", "x");
      ::raise(SIGKILL);
    });
    ASSERT_TRUE(test::Exists(root_ + "/new/leftover"));
    EXPECT_EQ(test::Exists(out_), out_exists);
    Staging staging = Must(Begin(Overwrite::kReplace));
    EXPECT_TRUE(Names(root_ + "/new").empty());
    Fill(staging, "new");
    Must(staging.Commit());
    EXPECT_EQ(OutContent(), "newnew");
    EXPECT_EQ(Names(out_), (Strings{"config.json", "model.safetensors"}));
    EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
  }
}

TEST_F(StagingTest, RunThatHoldsTheLockIsLeftAlone) {
  int ready[2];
  int done[2];
  ASSERT_EQ(::pipe(ready), 0);
  ASSERT_EQ(::pipe(done), 0);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ready[0]);
    ::close(done[1]);  // so that the child ends if the test does
    char c = 'n';
    {
      Result<Staging> staging = Begin();
      if (staging.ok() && WriteFile(staging.value().dir(), "config.json", AsBytes(std::string_view("theirs"))).ok()) c = 'y';
      (void)!::write(ready[1], &c, 1);
      (void)!::read(done[0], &c, 1);
    }
    ::_exit(0);
  }
  char c = 0;
  ASSERT_EQ(::read(ready[0], &c, 1), 1);
  ASSERT_EQ(c, 'y');
  ExpectError(Begin(), Code::kTryAgain, "locked");
  ExpectError(Begin(Overwrite::kReplace), Code::kTryAgain, "locked");
  EXPECT_EQ(test::ReadWhole(root_ + "/new/config.json"), "theirs");
  EXPECT_EQ(Names(root_), (Strings{"lock", "new"}));
  ASSERT_EQ(::write(done[1], &c, 1), 1);
  ASSERT_EQ(::waitpid(child, nullptr, 0), child);
  Must(Begin());
  for (const int fd : {ready[0], ready[1], done[0], done[1]}) ::close(fd);
}

TEST_F(StagingTest, InterruptedReplacementGivesTheOldFolderBack) {
  // As if killed between the two renames of a file system that cannot swap.
  test::WriteWhole(root_ + "/old/config.json", "old");
  test::WriteWhole(root_ + "/old/model.safetensors", "old");
  test::WriteWhole(root_ + "/new/config.json", "new");
  ExpectError(Begin(Overwrite::kReplace), Code::kTryAgain, "recovered", {"run again"});
  EXPECT_EQ(OutContent(), "oldold");
  Staging staging = Must(Begin(Overwrite::kReplace));
  Fill(staging, "new");
  Must(staging.Commit());
  EXPECT_EQ(OutContent(), "newnew");
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
}

TEST_F(StagingTest, FinishedReplacementIsTidiedUp) {
  // Killed after the second rename: OUT is the new one.
  test::WriteWhole(root_ + "/old/config.json", "old");
  MakeOld();
  {
    const Staging staging = Must(Begin(Overwrite::kReplace));
    EXPECT_EQ(Names(root_), (Strings{"lock", "new"}));
  }
  EXPECT_EQ(OutContent(), "oldold");
}

TEST_F(StagingTest, HiddenFolderThatIsNotOursIsLeftAlone) {
  test::WriteWhole(root_ + "/diary.txt", "mine");
  ExpectError(Begin(), Code::kUsage, "output-staging", {"diary.txt"});
  EXPECT_EQ(Names(root_), Strings{"diary.txt"});
  std::filesystem::remove_all(root_);
  std::filesystem::create_directory_symlink(in_, root_);
  EXPECT_FALSE(Begin().ok());
  EXPECT_EQ(Names(in_), Strings{"config.json"});
}

TEST_F(StagingTest, PlacesThatCannotBeOut) {
  std::filesystem::create_directory_symlink(in_, folder_ / "to-in");
  std::filesystem::create_directory(folder_ / "other");
  std::filesystem::create_directory_symlink(folder_ / "other", folder_ / "link");
  test::WriteWhole(folder_ / "file", "x");
  const auto begin = [&](const std::string& out) { return Staging::Begin(out, in_, Overwrite::kReplace); };
  ExpectError(begin(in_), Code::kUsage, "output-input");
  ExpectError(begin(in_ + "/"), Code::kUsage, "output-input");
  ExpectError(begin(in_ + "/out"), Code::kUsage, "output-input");
  ExpectError(begin((folder_ / "to-in") + "/out"), Code::kUsage, "output-input");  // through a link
  ExpectError(begin(folder_.path()), Code::kUsage, "output-input");
  ExpectError(begin(folder_ / "x/../in"), Code::kUsage, "output-input");
  ExpectError(begin(folder_ / "link"), Code::kUsage, "output-link");
  ExpectError(begin(folder_ / "file"), Code::kUsage, "output-file");
  ExpectError(begin(folder_ / "absent/out"), Code::kUsage, "no-folder");
  ExpectError(begin("/"), Code::kUsage, "output-path");
  EXPECT_EQ(Names(in_), Strings{"config.json"});
  EXPECT_TRUE(Names(folder_ / "other").empty());
  EXPECT_EQ(Names(folder_.path()), (Strings{"file", "in", "link", "other", "to-in"}));
  // A neighbour whose name only begins alike is no trouble.
  Must(begin(in_ + "2"));
}

TEST_F(StagingTest, ModesFollowUmask) {
  const mode_t before = ::umask(0027);
  Staging staging = Must(Begin());
  Fill(staging, "new");
  Must(staging.Commit());
  ::umask(before);
  struct stat info {};
  ASSERT_EQ(::stat(out_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777U, 0750U);
}

TEST_F(StagingTest, AFileTakesItsPlaceInOneStep) {
  const auto begin = [&](Overwrite overwrite) { return Staging::Begin(out_, in_, overwrite, 0, Product::kFile); };
  const auto fill = [](const Staging& staging, const std::string& content) { Must(WriteFile(staging.dir(), staging.name(), AsBytes(content))); };
  Killed([&] { fill(Must(begin(Overwrite::kRefuse)), "half"); });
  EXPECT_FALSE(std::filesystem::exists(out_));
  {
    Staging staging = Must(begin(Overwrite::kRefuse));
    EXPECT_TRUE(Names(staging.dir().path()).empty());
    ExpectError(begin(Overwrite::kRefuse), Code::kTryAgain, "locked");
    fill(staging, "whole");
    test::WriteWhole(out_, "of another");  // since we looked
    ExpectError(staging.Commit(), Code::kUsage, "output-exists");
  }
  EXPECT_EQ(test::ReadWhole(out_), "of another");
  ExpectError(begin(Overwrite::kRefuse), Code::kUsage, "output-exists");
  {
    Staging staging = Must(begin(Overwrite::kReplace));
    fill(staging, "new");
  }
  EXPECT_EQ(test::ReadWhole(out_), "of another");
  Staging staging = Must(begin(Overwrite::kReplace));
  fill(staging, "new");
  Must(staging.Commit());
  EXPECT_EQ(test::ReadWhole(out_), "new");
  EXPECT_FALSE(std::filesystem::exists(root_));
  std::filesystem::create_directory(folder_ / "sub");
  ExpectError(Staging::Begin(folder_ / "sub", in_, Overwrite::kReplace, 0, Product::kFile), Code::kUsage, "output-file", {"is no file"});
}

TEST_F(StagingTest, AnOutputThatIsEqualMayStay) {
  const auto make = [&](const std::string& content) -> Result<bool> {
    Staging staging = Must(Begin(Overwrite::kKeepEqual));
    Fill(staging, content);
    QC_TRY(staging.Commit());
    return staging.found_equal();
  };
  EXPECT_FALSE(Must(make("new")));
  EXPECT_EQ(OutContent(), "newnew");
  EXPECT_TRUE(Must(make("new")));
  ExpectError(make("NEW"), Code::kFindings, "output-differs", {"'config.json' has other content", "stays as it is"});
  ExpectError(make("newer"), Code::kFindings, "output-differs", {"'config.json' has 3 bytes there, 5 here"});
  test::WriteWhole(out_ + "/zzz", "");
  ExpectError(make("new"), Code::kFindings, "output-differs", {"'zzz' does not belong there"});
  std::filesystem::remove(out_ + "/zzz");
  std::filesystem::remove(out_ + "/model.safetensors");
  ExpectError(make("new"), Code::kFindings, "output-differs", {"'model.safetensors' is missing there"});
  EXPECT_EQ(Names(out_), Strings{"config.json"});
  EXPECT_EQ(Names(folder_.path()), (Strings{"in", "out"}));
}

TEST_F(StagingTest, AttemptsDoNotMeetBeforeTheRename) {
  Staging zombie = Must(Staging::Begin(out_, in_, Overwrite::kKeepEqual, 1));
  Fill(zombie, "new");
  Staging successor = Must(Staging::Begin(out_, in_, Overwrite::kKeepEqual, 2));
  Fill(successor, "new");
  Staging third = Must(Staging::Begin(out_, in_, Overwrite::kKeepEqual, 3));
  Fill(third, "bad");
  ExpectError(Staging::Begin(out_, in_, Overwrite::kKeepEqual, 2), Code::kTryAgain, "locked");
  ExpectError(Staging::Clear(out_, 1), Code::kTryAgain, "locked");
  EXPECT_EQ(Names(folder_.path()), (Strings{".out.qwen2-convert.1", ".out.qwen2-convert.2", ".out.qwen2-convert.3", "in"}));
  Must(successor.Commit());
  EXPECT_FALSE(successor.found_equal());
  Must(zombie.Commit());
  EXPECT_TRUE(zombie.found_equal());
  ExpectError(third.Commit(), Code::kFindings, "output-differs");
  EXPECT_EQ(OutContent(), "newnew");
}

TEST_F(StagingTest, WhatAKilledAttemptLeftIsCleared) {
  Killed([&] {
    const Staging staging = Must(Staging::Begin(out_, in_, Overwrite::kKeepEqual, 7));
    Fill(staging, "half");
    ::raise(SIGKILL);  // while it is in scope
  });
  EXPECT_TRUE(test::Exists(root_ + ".7/new/config.json"));
  Must(Staging::Clear(out_, 6));
  EXPECT_TRUE(test::Exists(root_ + ".7"));
  Must(Staging::Clear(out_, 7));
  EXPECT_EQ(Names(folder_.path()), Strings{"in"});
}

}  // namespace
}  // namespace q2c
