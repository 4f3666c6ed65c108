// The logical fingerprint of a checkpoint: what its weights are, whatever the packing, the
// files and the spelling of names. Two digests, defined in fingerprint.md: `qlf1` of the
// decoded content (codes, zero points, scales), `values` of the dequantised weights.
#pragma once

#include <array>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "formats/model.h"
#include "verify/products.h"

namespace q2c {

struct TensorFingerprint {
  std::string name;  // canonical; of a matrix without ".weight"
  std::string values;
  std::string qlf1;
};

struct Fingerprint {
  std::string values;  // SHA-256, in hexadecimal, as all of them
  std::string qlf1;
  std::vector<TensorFingerprint> tensors;  // sorted by name

  const TensorFingerprint* Find(std::string_view name) const;
};

// Takes the fingerprint of a model, on its own or on the tiles of a pass that reads the same
// linears anyway.
class FingerprintPass {
 public:
  explicit FingerprintPass(const Model& model);

  // Has the side watched, if it is a matrix of the model that nobody watches yet. The task must
  // run, and before Finish. The pass must outlive it.
  void Watch(LinearTask::Side* side);
  // Reads what was not watched. Errors: those of reading.
  Result<Fingerprint> Finish(const RunOptions& options);

 private:
  using Digest = std::array<uint8_t, 16>;
  struct Matrix {
    StoredLinear stored;
    bool taken = false;
    std::string map = "trivial";   // of inputs to groups
    std::string parameters;        // "zeros", "offsets"; "floats" of one that is not quantised
    std::vector<Digest> decoded;   // by panel
    std::vector<Digest> weights;
  };
  class Strip;

  void WatchMatrix(Matrix* matrix, LinearTask::Side* side);
  Result<std::vector<TensorFingerprint>> Others() const;

  const Model& model_;
  std::map<std::string, Matrix> matrices_;                // by canonical name
  std::map<std::string, Matrix*> by_stored_name_;
};

// All of it at once.
Result<Fingerprint> FingerprintOf(const Model& model, const RunOptions& options);

}  // namespace q2c
