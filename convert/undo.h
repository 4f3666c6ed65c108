// --undo: whether the input of a plan can be restored from its output, and the record with
// which it can (undo_record.h).
#pragma once

#include <atomic>

#include "convert/plan.h"
#include "convert/progress.h"
#include "convert/undo_record.h"
#include "formats/manifest.h"

namespace q2c {

// Before anything is written. Errors: kRefused "undo-container", "undo-rounded", "undo-cast",
// "undo-layout", "undo-files", "undo-size", naming what stands in the way.
Status CheckUndo(const Plan& plan);

struct UndoOptions {
  unsigned jobs = 1;
  const std::atomic<int>* stop = nullptr;
  Progress* progress = nullptr;
};

// Reads the whole input, makes each of its files again from what lies in `out`, and keeps what
// differs, so that the record is known to work before it is written. `written`: all files of
// `out` so far. Errors: kRefused "undo-size" where too much differs; kTryAgain if the input changes.
Result<UndoRecord> BuildUndo(const Plan& plan, const std::vector<ManifestFile>& written, const Dir& out, const UndoOptions& options);

// The largest record that a model of this size may have beside it.
uint64_t UndoBudget(uint64_t output_bytes);

}  // namespace q2c
