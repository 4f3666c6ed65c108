// Carries out a plan: the only threaded file of the conversion. Workers take pieces of
// the output in order, read or make the bytes and write them at their planned offsets;
// the digests are taken in file order while the bytes pass. So the output does not
// depend on the number of workers, and memory does not grow with the model.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "convert/plan.h"
#include "convert/progress.h"
#include "formats/manifest.h"

namespace q2c {

// What becomes of a shard whose bytes stay the same. kShare: blocks are shared where the file system can, else copied.
enum class Untouched { kShare, kCopy, kReflink, kHardlink };

struct ExecuteOptions {
  unsigned jobs = 1;
  const std::atomic<int>* stop = nullptr;  // a signal number, once one has arrived
  Progress* progress = nullptr;
  Untouched untouched = Untouched::kShare;
};

struct Written {
  std::vector<ManifestFile> files;          // shards, then side files
  std::vector<std::string> tensor_digests;  // XXH3-128 by index into Plan::tensors
  std::vector<OutputFile> unsynced;          // everything written
};

// Writes shards and side files into the folder. Errors: by errno; kTryAgain if the input
// changes; kInterrupted and kTerminated; kRefused "reflink", "hardlink" where they were asked for and cannot be.
Result<Written> Execute(const Plan& plan, const Dir& out, const ExecuteOptions& options);

// The error a signal ends a run with, or ok.
Status CheckStop(const std::atomic<int>* stop);

}  // namespace q2c
