// --restore: the original files of an output that was written with --undo.
#pragma once

#include <atomic>
#include <string>

#include "convert/progress.h"
#include "convert/staging.h"

namespace q2c {

struct RestoreOptions {
  std::string out;       // the output of a conversion; only read
  std::string original;  // appears with all files of the conversion's input, or not at all
  Links links = Links::kRefuse;
  Overwrite overwrite = Overwrite::kRefuse;
  unsigned jobs = 1;
  const std::atomic<int>* stop = nullptr;
  Progress::Show progress = Progress::Show::kAuto;
};

struct RestoreReport {
  size_t files = 0;
  uint64_t bytes = 0;
  double seconds = 0;
};

// Holds `out` against its undo record, makes the files, holds their SHA-256 against those of the
// input, commits. Errors: kRefused "undo-missing", "undo-version"; kMalformed "undo-damaged",
// "undo-changed" (a file of `out` is not what was written); kFindings "undo-differs"; those of Staging.
Result<RestoreReport> Restore(const RestoreOptions& options);

}  // namespace q2c
