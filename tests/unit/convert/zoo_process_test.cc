// Children: what they say, how they end, and that they do not outlive their parent.
#include "convert/zoo_process.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <map>

#include "convert/zoo_model.h"
#include "formats/base/system.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::Must;

std::map<uint64_t, Children::Ended> WaitForAll(Children* children) {
  std::map<uint64_t, Children::Ended> all;
  while (children->count() > 0) {
    for (Children::Ended& ended : children->Wait(1000)) all[ended.id] = std::move(ended);
  }
  return all;
}

// Crashes on purpose leave no core files.
void Crash(int number) {
  const rlimit none{0, 0};
  ::setrlimit(RLIMIT_CORE, &none);
  ::signal(number, SIG_DFL);
  ::raise(number);
}

TEST(ChildrenTest, EachSaysWhatItDid) {
  Children children;
  const std::string large(300'000, 'x');  // more than a pipe holds
  const uint64_t a = Must(children.Start([] { return std::string("a"); }));
  const uint64_t b = Must(children.Start([&] { return large; }));
  const uint64_t c = Must(children.Start([] { return std::string(); }));
  EXPECT_EQ(children.count(), 3U);
  const auto ended = WaitForAll(&children);
  EXPECT_EQ(ended.at(a).text, "a");
  EXPECT_EQ(ended.at(b).text, large);
  EXPECT_EQ(ended.at(c).text, "");
  EXPECT_EQ(ended.at(a).signal, 0);
  EXPECT_GT(ended.at(b).peak_memory, 1U << 20);
}

TEST(ChildrenTest, ACrashIsAnOutcomeOfOneChildOnly) {
  Children children;
  const uint64_t crash = Must(children.Start([] { return Crash(SIGSEGV), std::string("never said"); }));
  const uint64_t thrown = Must(children.Start([]() -> std::string { throw std::bad_alloc(); }));
  const uint64_t killed = Must(children.Start([] { return Crash(SIGKILL), std::string(); }));
  const uint64_t fine = Must(children.Start([] { return std::string("fine"); }));
  const auto ended = WaitForAll(&children);
  EXPECT_EQ(ended.at(fine).text, "fine");
  // Whether it is worth another attempt: killed, perhaps for want of memory, is; a crash of ours is not.
  EXPECT_EQ(OutcomeOf(ended.at(crash)).event, ZooEvent::kFailed);
  EXPECT_EQ(OutcomeOf(ended.at(crash)).code, Code::kInternal);
  EXPECT_EQ(OutcomeOf(ended.at(thrown)).event, ZooEvent::kFailed);
  EXPECT_EQ(OutcomeOf(ended.at(killed)).event, ZooEvent::kTryAgain);
  EXPECT_EQ(OutcomeOf(ended.at(killed)).id, "killed");
}

TEST(ChildrenTest, TheyIgnoreTheTerminalAndEndByTerminate) {
  Children children;
  const uint64_t id = Must(children.Start([] { return ::pause(), std::string(); }));
  children.Signal(id, SIGINT);
  children.Signal(id, SIGHUP);
  EXPECT_TRUE(children.Wait(200).empty());
  children.Signal(id, SIGTERM);
  const auto ended = WaitForAll(&children);
  EXPECT_EQ(ended.at(id).signal, SIGTERM);
  EXPECT_EQ(OutcomeOf(ended.at(id)).event, ZooEvent::kGivenBack);
}

TEST(ChildrenTest, TheyDieWithTheirParent) {
  // The grandchild holds the writing end of the pipe for as long as it lives.
  int ends[2] = {};
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t parent = ::fork();
  if (parent == 0) {
    ::close(ends[0]);
    Children children;
    const Result<uint64_t> started = children.Start([&] {
      while (::write(ends[1], "x", 1) == 1) ::pause();
      return std::string();
    });
    (void)started;
    for (;;) ::pause();
  }
  ::close(ends[1]);
  char byte = 0;
  ASSERT_EQ(::read(ends[0], &byte, 1), 1) << "the grandchild did not start";
  ::kill(parent, SIGKILL);
  ::waitpid(parent, nullptr, 0);
  EXPECT_EQ(::read(ends[0], &byte, 1), 0) << "end of file: nobody holds the other end";
  ::close(ends[0]);
}

TEST(ProcessNameTest, IsReadAsItWasWritten) {
  const ProcessName self = ThisProcess();
  EXPECT_EQ(self.pid, static_cast<uint64_t>(::getpid()));
  EXPECT_FALSE(self.boot.empty());
  EXPECT_GT(self.started, 0U);
  EXPECT_EQ(ParseProcessName(self.ToJson()), self);
  EXPECT_FALSE(ParseProcessName(Json::Object()).has_value());
  EXPECT_FALSE(ParseProcessName(Json::String("x")).has_value());
  EXPECT_GT(os::FreeMemory(), 1U << 20);
}

TEST(ModelTest, SmallModelsShareALargeOneTakesAll) {
  ZooModel model;
  model.bytes = 1;
  EXPECT_EQ(ThreadsFor(model, 8), 1U);
  EXPECT_LT(MemoryFor(model), 64U << 20);
  model.bytes = uint64_t{5} << 30;
  EXPECT_EQ(ThreadsFor(model, 8), 8U);
  EXPECT_EQ(ThreadsFor(model, 1), 1U);
  EXPECT_EQ(MemoryFor(model), 512U << 20);
}

}  // namespace
}  // namespace q2c
