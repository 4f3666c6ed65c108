// What happened to each model: one append-only log a worker, and what all of them together say.
// The format, and why the order of records in different logs does not matter, is in zoo.md.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "convert/zoo_process.h"
#include "formats/base/shared_folder.h"

namespace q2c {

enum class ZooEvent {
  kDone,       // the output is there, verified
  kFailed,     // for good: running again would end the same way, or was tried often enough
  kTryAgain,   // failed, but worth another attempt
  kGivenBack,  // stopped before the end, through no fault of the model
  kReopened,   // a user asked for another attempt
};
std::string_view NameOf(ZooEvent event);

struct ZooRecord {
  ZooEvent event = ZooEvent::kDone;
  std::string unit;
  std::string model;          // path below the root
  uint64_t fence = 0;
  double time = 0;            // seconds since 1970 by the worker's clock; for people only
  std::string worker;
  Code code = Code::kOk;      // of kFailed and kTryAgain
  std::string id;
  std::string message;
  bool found_equal = false;   // kDone: an equal output was there already
  uint64_t bytes = 0;         // read
  uint64_t output_bytes = 0;
  double seconds = 0;         // of the child
  double job_seconds = 0;     // of them, of what qwen2-convert would have done
  double cpu_seconds = 0;
  uint64_t peak_memory = 0;
  std::string exactness;
};
Json ToJson(const ZooRecord& record);
// Errors: kMalformed "journal".
Result<ZooRecord> ParseZooRecord(std::string_view line);

// The log of this worker: created with its first record, synced with each.
class ZooJournal {
 public:
  // `folder`: of all logs; it must exist.
  ZooJournal(Dir folder, const ProcessName& self) : folder_(std::move(folder)), self_(self) {}
  // Errors: by errno. After one, nothing more must be appended.
  Status Append(const ZooRecord& record);

 private:
  Dir folder_;
  ProcessName self_;
  std::optional<AppendFile> file_;
};

// What is known of one unit. It does not depend on the order in which records are read.
struct UnitState {
  enum class State { kOpen, kDone, kFailed };
  uint64_t fence = 0;     // highest recorded
  uint64_t records = 0;   // fences recorded; fewer than `fence`: some attempt ended without a word
  uint64_t done = 0;      // highest fence that was done, or 0
  uint64_t failed = 0;
  uint64_t reopened = 0;
  std::vector<uint64_t> tries;  // fences of kTryAgain
  std::chrono::steady_clock::time_point seen;  // when the latest of `tries` was read

  State state() const;
  uint64_t attempts() const;  // kTryAgain since it was reopened
  void Add(const ZooRecord& record);
};

// Follows the logs of all workers.
class ZooHistory {
 public:
  using Visitor = std::function<void(const ZooRecord& record)>;
  explicit ZooHistory(Dir folder) : folder_(std::move(folder)) {}
  // Reads what was added since. A last line without its end is not there yet; any other line
  // that is no record is skipped and reported once. `visit` sees each new record.
  Status Refresh(const Visitor& visit = nullptr);
  const UnitState& Of(const std::string& unit) const;
  const std::vector<std::string>& complaints() const { return complaints_; }

 private:
  Dir folder_;
  std::map<std::string, uint64_t> offsets_;  // by log
  std::unordered_map<std::string, UnitState> units_;
  std::vector<std::string> complaints_;
};

}  // namespace q2c
