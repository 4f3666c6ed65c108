// One model from plan to verified commit: the only file that joins convert/ and verify/.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert/execute.h"
#include "convert/plan.h"
#include "convert/progress.h"
#include "convert/staging.h"
#include "verify/proof.h"
#include "verify/readback.h"

namespace q2c {

// Each includes the ones before it.
enum class VerifyLevel { kNone, kHash, kExact, kForward };
std::string_view NameOf(VerifyLevel level);

struct JobOptions {
  std::string in;
  std::string out;
  std::vector<std::string> targets;
  std::vector<std::string> drop;
  std::vector<std::string> only;   // repairs; empty: all
  std::vector<std::string> skip;   // repairs
  std::optional<ZeroConvention> zeros;
  std::optional<uint64_t> shard_bytes;
  std::optional<uint64_t> group_size;
  std::optional<uint64_t> pad_intermediate;
  std::optional<std::string> layout;
  bool allow_rounding = false;
  bool text_only = false;
  bool generic = false;            // take a model whose architecture is not known as it is
  Links links = Links::kRefuse;
  Untouched untouched = Untouched::kShare;
  Overwrite overwrite = Overwrite::kRefuse;
  uint64_t attempt = 0;            // behind the name of the staging folder, unless 0
  VerifyLevel verify = VerifyLevel::kForward;
  bool verify_given = false;       // the user named the level: it must be possible
  Tokens tokens;                   // of the forward pass; empty: `spread_tokens` over the vocabulary
  uint64_t spread_tokens = 16;
  ReadFrom verify_read = ReadFrom::kCache;
  std::string report;              // where to write the report, or empty
  std::string sign;                // a private key, or empty
  std::string passphrase;          // of the key
  bool provenance = false;         // say where the output comes from, in a file of its own
  bool card = false;               // say how the output was made, for people
  std::string archive;             // the output as one file as well, or empty
  bool undo = false;               // keep a record from which the input can be restored
  bool timings = false;            // tell where the time went
  bool keep_failed = false;        // leave the staging folder where the verification failed
  unsigned jobs = 1;
  Progress::Show progress = Progress::Show::kAuto;
  const std::atomic<int>* stop = nullptr;
  std::string test_damage;         // "TENSOR:BIT", in builds for tests: flipped between writing and verifying
};

// What the plan needs, kept together: each member points into the one before.
struct PlannedJob {
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Model> model;
  Plan plan;
  std::string forward_not_run;  // why there can be no forward pass
};
// Reads and plans; writes nothing.
Result<PlannedJob> PlanJob(const JobOptions& options);

struct JobReport {
  uint64_t bytes = 0;
  size_t files = 0;
  std::string verified;            // a sentence
  std::vector<Error> findings;     // what verification found wrong: not empty, there is no output
  std::optional<Compared> compared;
  std::optional<ForwardReport> forward;
  std::optional<Fingerprint> fingerprint;  // of what was written, from level exact on
  double seconds = 0;
  bool in_place = false;
  bool found_equal = false;        // with kKeepEqual: OUT was there already, and equal
  std::string kept;                // the staging folder, with keep_failed
  std::vector<ManifestFile> written;
  std::optional<ManifestFile> archive;
};
// The whole of it as a document (verify/report.md), and what is told of it on a terminal.
Json ReportDocument(const PlannedJob& planned, const JobOptions& options, const JobReport& report);
std::string ReportText(const JobOptions& options, const JobReport& report);

// Writes, verifies, commits. On any error or finding there is no output.
Result<JobReport> RunJob(const PlannedJob& planned, const JobOptions& options);

}  // namespace q2c
