// What many logs together say, in whatever order they are read.
#include "convert/zoo_journal.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;
using State = UnitState::State;

ZooRecord Record(ZooEvent event, uint64_t fence, const std::string& unit = "unit") {
  ZooRecord record;
  record.event = event;
  record.unit = unit;
  record.model = "org/model";
  record.fence = fence;
  return record;
}

UnitState Fold(std::vector<ZooRecord> records) {
  UnitState state;
  for (const ZooRecord& record : records) state.Add(record);
  return state;
}

TEST(ZooRecordTest, IsReadAsItWasWritten) {
  ZooRecord record = Record(ZooEvent::kFailed, 3);
  record.time = 1234567890.125;
  record.worker = "host-1-2";
  record.code = Code::kMalformed;
  record.id = "shape";
  record.message = "tensor \"x\":\n\x1b[31m";
  record.bytes = UINT64_MAX;
  record.seconds = 0.25;
  record.cpu_seconds = 0.5;
  record.peak_memory = 7;
  const std::string line = ToJson(record).Dump(-1);
  EXPECT_EQ(line.find('\n'), std::string::npos);
  const ZooRecord read = Must(ParseZooRecord(line));
  EXPECT_EQ(ToJson(read).Dump(-1), line);
  EXPECT_EQ(read.message, record.message);
  EXPECT_EQ(read.bytes, UINT64_MAX);
  EXPECT_EQ(read.time, record.time);
  for (const char* bad : {"", "{}", "[]", "{\"event\":\"done\",\"unit\":\"u\"}", "{\"event\":\"eaten\",\"unit\":\"u\",\"fence\":1}", "{\"event\":\"done\",\"unit\":\"u\",\"fence\":0}", "{\"event\":\"done\",\"fence\":1}"}) {
    EXPECT_FALSE(ParseZooRecord(bad).ok()) << bad;
  }
}

TEST(UnitStateTest, ByHand) {
  EXPECT_EQ(Fold({}).state(), State::kOpen);
  EXPECT_EQ(Fold({Record(ZooEvent::kGivenBack, 1)}).state(), State::kOpen);
  EXPECT_EQ(Fold({Record(ZooEvent::kTryAgain, 1), Record(ZooEvent::kTryAgain, 2)}).state(), State::kOpen);
  EXPECT_EQ(Fold({Record(ZooEvent::kTryAgain, 1), Record(ZooEvent::kTryAgain, 2)}).attempts(), 2U);
  EXPECT_EQ(Fold({Record(ZooEvent::kFailed, 1)}).state(), State::kFailed);
  // A zombie may finish what its successor failed at.
  EXPECT_EQ(Fold({Record(ZooEvent::kDone, 1), Record(ZooEvent::kFailed, 2)}).state(), State::kDone);
  EXPECT_EQ(Fold({Record(ZooEvent::kFailed, 1), Record(ZooEvent::kDone, 2)}).state(), State::kDone);
  EXPECT_EQ(Fold({Record(ZooEvent::kFailed, 1), Record(ZooEvent::kReopened, 2)}).state(), State::kOpen);
  EXPECT_EQ(Fold({Record(ZooEvent::kDone, 1), Record(ZooEvent::kReopened, 2)}).state(), State::kOpen);
  EXPECT_EQ(Fold({Record(ZooEvent::kTryAgain, 1), Record(ZooEvent::kFailed, 2), Record(ZooEvent::kReopened, 3), Record(ZooEvent::kTryAgain, 4)}).attempts(), 1U);
  EXPECT_EQ(Fold({Record(ZooEvent::kGivenBack, 5)}).fence, 5U);
  EXPECT_EQ(Fold({Record(ZooEvent::kGivenBack, 5)}).records, 1U);
}

TEST(UnitStateTest, TheOrderDoesNotMatter) {
  std::vector<ZooRecord> records = {Record(ZooEvent::kTryAgain, 1), Record(ZooEvent::kFailed, 2), Record(ZooEvent::kReopened, 3), Record(ZooEvent::kTryAgain, 4), Record(ZooEvent::kDone, 5)};
  const auto by_fence = [](const ZooRecord& a, const ZooRecord& b) { return a.fence < b.fence; };
  do {
    const UnitState state = Fold(records);
    EXPECT_EQ(state.state(), State::kDone);
    EXPECT_EQ(state.attempts(), 1U);
    EXPECT_EQ(state.fence, 5U);
  } while (std::ranges::next_permutation(records, by_fence).found);
}

class ZooHistoryTest : public testing::Test {
 protected:
  const test::TempFolder folder_;
  Dir Open() const { return Must(Dir::Open(folder_.path())); }
  ProcessName Worker(uint64_t pid) const { return {"host", "boot", "space", pid, 5}; }
};

TEST_F(ZooHistoryTest, FollowsAllWorkers) {
  ZooJournal a(Open(), Worker(1));
  ZooJournal b(Open(), Worker(2));
  ZooHistory history(Open());
  Must(history.Refresh());
  EXPECT_EQ(history.Of("unit").state(), State::kOpen);
  Must(a.Append(Record(ZooEvent::kTryAgain, 1)));
  Must(b.Append(Record(ZooEvent::kDone, 2)));
  int seen = 0;
  Must(history.Refresh([&](const ZooRecord&) { ++seen; }));
  EXPECT_EQ(seen, 2);
  EXPECT_EQ(history.Of("unit").state(), State::kDone);
  Must(a.Append(Record(ZooEvent::kFailed, 1, "other")));
  Must(history.Refresh([&](const ZooRecord& record) {
    ++seen;
    EXPECT_EQ(record.unit, "other");
  }));
  EXPECT_EQ(seen, 3);
  EXPECT_TRUE(history.complaints().empty());
  EXPECT_EQ(test::Names(folder_.path()), (std::vector<std::string>{"host-1-5.jsonl", "host-2-5.jsonl"}));
}

TEST_F(ZooHistoryTest, ATornLastLineIsNotThereYet) {
  ZooJournal a(Open(), Worker(1));
  Must(a.Append(Record(ZooEvent::kDone, 1)));
  const std::string path = folder_ / "host-1-5.jsonl";
  const std::string whole = test::ReadWhole(path);
  for (size_t cut = 0; cut < whole.size(); ++cut) {
    test::WriteWhole(path, whole.substr(0, cut));
    ZooHistory history(Open());
    Must(history.Refresh());
    EXPECT_EQ(history.Of("unit").state(), State::kOpen) << cut;
    EXPECT_TRUE(history.complaints().empty()) << cut;
    test::WriteWhole(path, whole);
    Must(history.Refresh());
    EXPECT_EQ(history.Of("unit").state(), State::kDone) << cut;
  }
}

TEST_F(ZooHistoryTest, OtherLinesAreSkippedWithAWord) {
  test::WriteWhole(folder_ / "x.jsonl", "{\"format\":\"qwen2-zoo-journal\",\"version\":\"1.7\"}\n\x01garbage\n" + ToJson(Record(ZooEvent::kDone, 1)).Dump(-1) + "\n");
  ZooHistory history(Open());
  Must(history.Refresh());
  EXPECT_EQ(history.Of("unit").state(), State::kDone);
  ASSERT_EQ(history.complaints().size(), 1U);
  EXPECT_NE(history.complaints()[0].find("\\x01garbage"), std::string::npos);
  test::WriteWhole(folder_ / "y.jsonl", "{\"format\":\"qwen2-zoo-journal\",\"version\":\"2.0\"}\n");
  ZooHistory later(Open());
  ExpectError(later.Refresh(), Code::kRefused, "journal-version", {"y.jsonl", "2.0"});
}

}  // namespace
}  // namespace q2c
