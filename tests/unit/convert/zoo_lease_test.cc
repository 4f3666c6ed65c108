// Who may hold a lease when: worked through by hand, with times set from outside.
#include "convert/zoo_lease.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "formats/base/system.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;
using Beat = LeaseFolder::Beat;

class ZooLease : public testing::Test {
 protected:
  const test::TempFolder folder_;
  const std::string path_ = folder_ / "leases";
  ProcessName Elsewhere(const std::string& host) const {
    ProcessName name = ThisProcess();
    name.host = host;
    name.boot = "boot-of-" + host;
    return name;
  }
  LeaseFolder Open(const ProcessName& self) const { return Must(LeaseFolder::Open(path_, self, 60)); }
  // Puts the file's time so many seconds away from the folder's clock.
  void Age(const std::string& name, int64_t seconds) const {
    struct stat info {};
    ASSERT_EQ(::stat((path_ + "/clock").c_str(), &info), 0);
    const timespec times[2] = {{info.st_mtim.tv_sec - seconds, 0}, {info.st_mtim.tv_sec - seconds, 0}};
    ASSERT_EQ(::utimensat(AT_FDCWD, (path_ + "/" + name).c_str(), times, 0), 0);
  }
};

TEST_F(ZooLease, OneHolderAtATime) {
  LeaseFolder a = Open(Elsewhere("a"));
  LeaseFolder b = Open(Elsewhere("b"));
  const std::optional<Lease> lease = Must(a.Take("unit", 0));
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(lease->fence, 1U);
  EXPECT_FALSE(Must(b.Take("unit", 0)).has_value());
  EXPECT_FALSE(Must(a.Take("unit", 0)).has_value()) << "a worker must not take its own lease twice";
  EXPECT_EQ(Must(b.Take("other", 0))->fence, 1U);
  EXPECT_EQ(Must(a.Renew(*lease)), Beat::kHeld);
  Must(a.Release(*lease));
  EXPECT_EQ(Must(b.Take("unit", 1))->fence, 2U) << "the fence rises above what the journals have seen";
}

TEST_F(ZooLease, AStaleLeaseIsTakenOverWithAHigherFence) {
  LeaseFolder a = Open(Elsewhere("a"));
  LeaseFolder b = Open(Elsewhere("b"));
  const Lease first = *Must(a.Take("unit", 0));
  Age("unit.1", 59);
  EXPECT_FALSE(Must(b.Take("unit", 0)).has_value());
  Age("unit.1", 61);
  const std::optional<Lease> second = Must(b.Take("unit", 0));
  ASSERT_TRUE(second.has_value());
  EXPECT_EQ(second->fence, 2U);
  // the first holder, back from its sleep
  EXPECT_EQ(Must(a.Renew(first)), Beat::kLost);
  EXPECT_EQ(Must(b.Renew(*second)), Beat::kHeld);
  EXPECT_FALSE(Must(a.Take("unit", 0)).has_value());
  Must(b.Release(*second));
  EXPECT_EQ(test::Names(path_), std::vector<std::string>{"clock"});
  EXPECT_EQ(Must(a.Renew(first)), Beat::kMissing) << "only the journals can tell what became of it";
}

TEST_F(ZooLease, TheServersClockCountsAndNotOurs) {
  LeaseFolder a = Open(Elsewhere("a"));
  LeaseFolder b = Open(Elsewhere("b"));
  Must(a.Take("unit", 0));
  // a time that no heartbeat can have set: the server's clock was put back, or somebody touched it
  Age("unit.1", -59);
  EXPECT_FALSE(Must(b.Take("unit", 0)).has_value());
  Age("unit.1", -100000);
  EXPECT_TRUE(Must(b.Take("unit", 0)).has_value());
}

TEST_F(ZooLease, TheDeadOfThisMachineAreKnown) {
  const pid_t child = ::fork();
  if (child == 0) {
    LeaseFolder folder = LeaseFolder::Open(path_, ThisProcess(), 60).value();
    const bool taken = folder.Take("unit", 0).value().has_value();
    if (!taken) ::_exit(9);
    ::raise(SIGKILL);
  }
  int state = 0;
  ASSERT_EQ(::waitpid(child, &state, 0), child);
  ASSERT_TRUE(WIFSIGNALED(state));
  LeaseFolder stranger = Open(Elsewhere("b"));  // the same process, but the test's idea of who we are is in IsKnownDead
  const auto taken_over = Must(stranger.Take("unit", 0));
  ASSERT_EQ(taken_over.has_value(), os::kKnowsProcesses) << "at once, though fresh";
  if (taken_over.has_value()) {
    EXPECT_EQ(taken_over->fence, 2U);
  }
}

TEST_F(ZooLease, WhoeverHasThePidNowIsNotTheDeadHolder) {
  ProcessName self = ThisProcess();
  EXPECT_FALSE(IsKnownDead(self));
  self.started += 1;
  EXPECT_EQ(IsKnownDead(self), os::kKnowsProcesses);
  self.boot = "another boot";
  EXPECT_FALSE(IsKnownDead(self)) << "nothing is known of other machines";
  ProcessName in_container = ThisProcess();
  in_container.pid_space = "pid:[1]";
  in_container.started += 1;
  EXPECT_FALSE(IsKnownDead(in_container));
}

TEST_F(ZooLease, ALeaseThatSaysNothingIsJudgedByItsAge) {
  LeaseFolder b = Open(Elsewhere("b"));
  for (const char* content : {"", "{", "{\"holder\":3}", "null"}) {
    test::WriteWhole(path_ + "/unit.1", content);
    EXPECT_FALSE(Must(b.Take("unit", 0)).has_value()) << content;
    Age("unit.1", 61);
    const std::optional<Lease> lease = Must(b.Take("unit", 0));
    ASSERT_TRUE(lease.has_value()) << content;
    EXPECT_EQ(lease->fence, 2U);
    Must(b.Release(*lease));
  }
}

TEST_F(ZooLease, AFolderThatVanishedIsMadeAgain) {
  LeaseFolder a = Open(Elsewhere("a"));
  const Lease lease = *Must(a.Take("unit", 0));
  std::filesystem::remove_all(path_);
  EXPECT_EQ(Must(a.Renew(lease)), Beat::kMissing);
  EXPECT_TRUE(Must(a.Restore(lease)));
  EXPECT_EQ(Must(a.Renew(lease)), Beat::kHeld);
  EXPECT_EQ(Must(a.List()).size(), 1U);
  std::filesystem::remove_all(path_);
  EXPECT_TRUE(Must(a.Take("other", 0)).has_value());
  std::filesystem::remove_all(path_);
  std::filesystem::remove_all(folder_.path());
  EXPECT_FALSE(a.Take("third", 0).ok()) << "with the folder above gone, too, there is nothing to be done";
}

TEST_F(ZooLease, AFolderThatCannotBeUsedIsRefusedAtOnce) {
  EXPECT_FALSE(LeaseFolder::Open(folder_ / "no/such", ThisProcess(), 60).ok());
  test::WriteWhole(folder_ / "file", "");
  EXPECT_FALSE(LeaseFolder::Open(folder_ / "file", ThisProcess(), 60).ok());
}

TEST_F(ZooLease, Listed) {
  LeaseFolder a = Open(Elsewhere("a"));
  Must(a.Take("unit", 6));
  test::WriteWhole(path_ + "/something else", "");
  Age("unit.7", 30);
  const std::vector<HeldLease> list = Must(a.List());
  ASSERT_EQ(list.size(), 1U);
  EXPECT_EQ(list[0].lease.unit, "unit");
  EXPECT_EQ(list[0].lease.fence, 7U);
  EXPECT_EQ(list[0].holder->host, "a");
  EXPECT_NEAR(list[0].age_seconds, 30, 5);
}

}  // namespace
}  // namespace q2c
