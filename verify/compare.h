// The exact comparison: what was written is opened anew and every decoded code, true zero
// point, scale, group and every other tensor is held against the source. It takes from the
// conversion only the manifest's claim of what came from where, and checks that claim:
// every input tensor must be accounted for, and whatever was left out must be of no effect.
// What is said to be rounded must be the nearest there is, and the loss is measured.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "verify/fingerprint.h"
#include "verify/products.h"
#include "verify/rounding.h"

namespace q2c {

struct Compared {
  uint64_t linears = 0;
  uint64_t weights = 0;  // decoded and compared, one by one
  uint64_t tensors = 0;  // others, compared byte for byte or element by element
  uint64_t reordered = 0;  // of the linears: equal up to a permutation of the channels between gate/up and down
  uint64_t padded = 0;     // of the linears: with channels of zeros behind their own
  // Over all weights of linears, and elements of tensors, that are said to be rounded.
  uint64_t rounded_weights = 0;
  double largest_error = 0;
  double relative_rms = 0;  // root of (sum of squared errors / sum of squared weights)
};

// The comparison in pieces, so that the forward pass can run the linears in its own order.
class Comparison {
 public:
  // Checks the accounts. Errors: kFindings "exact-…".
  static Result<Comparison> Begin(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest);

  // The linear of the source, as a task that compares both sides; nothing if the manifest has
  // none under that name that begins with that output, or has it with other channels. Each linear once.
  std::optional<LinearTask> Take(const StoredLinear& linear);
  // Is what became of that linear said to be rounded?
  bool Rounds(const StoredLinear& linear) const;
  // Compares those that nobody took; `fingerprint`, if there is one, watches what was written.
  // Mismatches are added to `findings`; errors are those of reading.
  Status CompareRest(const RunOptions& options, FingerprintPass* fingerprint, std::vector<Error>* findings);
  // Every tensor that is no part of a linear. Errors: kFindings "exact-tensor".
  Status CompareOthers(const RunOptions& options);
  Compared Summary() const;

 private:
  struct Work {
    const ManifestLinear* claim = nullptr;
    ChannelView view;  // of the output
    std::map<uint64_t, Measure> strips;  // by their first output
    bool taken = false;
    bool Plain() const { return !claim->Padded() && claim->order_of.empty(); }
  };
  Status SetViews(const Manifest& manifest);
  LinearTask Task(Work* work);

  const Checkpoint* source_ = nullptr;
  const Checkpoint* output_ = nullptr;
  std::map<std::pair<std::string, uint64_t>, std::unique_ptr<Work>> work_;  // by name and first output in the source
  std::vector<const ManifestTensor*> others_;
  std::vector<Measure> other_measures_;
  Compared compared_;
};

// All of it. Errors: kFindings "exact-…", naming the tensor, the place and both values.
Result<Compared> CompareExact(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest, const RunOptions& options);

}  // namespace q2c
