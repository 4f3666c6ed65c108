// One model from plan to verified commit: the only file that joins convert/ and verify/.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert/plan.h"
#include "convert/progress.h"
#include "convert/staging.h"
#include "verify/readback.h"

namespace q2c {

enum class VerifyLevel { kNone, kHash, kExact };
std::string_view NameOf(VerifyLevel level);

struct JobOptions {
  std::string in;
  std::string out;
  std::vector<std::string> targets;
  std::vector<std::string> drop;
  std::optional<ZeroConvention> zeros;
  std::optional<uint64_t> shard_bytes;
  std::optional<std::string> layout;
  bool allow_rounding = false;
  Links links = Links::kRefuse;
  Overwrite overwrite = Overwrite::kRefuse;
  VerifyLevel verify = VerifyLevel::kExact;
  ReadFrom verify_read = ReadFrom::kCache;
  unsigned jobs = 1;
  Progress::Show progress = Progress::Show::kAuto;
  const std::atomic<int>* stop = nullptr;
};

// What the plan needs, kept together: each member points into the one before.
struct PlannedJob {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;
  Plan plan;
};
// Reads and plans; writes nothing.
Result<PlannedJob> PlanJob(const JobOptions& options);

// What rounding did, measured over every value that was rounded.
struct Rounding {
  uint64_t values = 0;
  double largest_error = 0;
  double relative_rms = 0;  // root of (sum of squared errors / sum of squared values)
};

struct JobReport {
  uint64_t bytes = 0;
  size_t files = 0;
  std::string verified;  // a sentence
  std::optional<Rounding> rounding;  // with --verify=exact, where anything was rounded
  double seconds = 0;
  bool in_place = false;
};
// Writes, verifies, commits. On any error there is no output.
Result<JobReport> RunJob(const PlannedJob& planned, const JobOptions& options);

}  // namespace q2c
