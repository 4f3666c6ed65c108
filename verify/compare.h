// The exact comparison: what was written is opened anew and every decoded code, true zero
// point, scale, group and every other tensor is held against the source. It takes from the
// conversion only the manifest's claim of what came from where, and checks that claim:
// every input tensor must be accounted for, and whatever was left out must be of no effect.
// What is said to be rounded must be the nearest there is, and the loss is measured.
#pragma once

#include <functional>

#include "formats/checkpoint.h"
#include "formats/manifest.h"

namespace q2c {

struct CompareOptions {
  unsigned jobs = 1;
  std::function<Status()> check_stop;          // ends the comparison early
  std::function<void(uint64_t bytes)> progress;  // bytes of the output that were compared
};

struct Compared {
  uint64_t linears = 0;
  uint64_t weights = 0;  // decoded and compared, one by one
  uint64_t tensors = 0;  // others, compared byte for byte or element by element
  // Over all weights of linears, and elements of tensors, that are said to be rounded.
  uint64_t rounded_weights = 0;
  double largest_error = 0;
  double relative_rms = 0;  // root of (sum of squared errors / sum of squared weights)
};

// Errors: kFindings "exact-…", naming the tensor, the place and both values.
Result<Compared> CompareExact(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest, const CompareOptions& options);

}  // namespace q2c
