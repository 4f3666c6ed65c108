// The manifest, qwen2-convert.manifest.json: what the output is meant to be, tensor by
// tensor, and where each came from. It holds no time, host, path or thread count, so equal
// runs give equal manifests. Its schema is manifest.schema.json. Verification reads it
// back and holds the files against it.
#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/tensor.h"

namespace q2c {

inline constexpr std::string_view kManifestName = "qwen2-convert.manifest.json";
inline constexpr std::string_view kSumsName = "SHA256SUMS";
inline constexpr std::string_view kSignatureName = "model.sig";                // formats/model_signature.h
inline constexpr std::string_view kProvenanceName = "provenance.intoto.json";  // convert/provenance.h
inline constexpr std::string_view kConversionName = "CONVERSION.md";            // convert/card.h
inline constexpr std::string_view kCardName = "card.yaml";                      // convert/card.h
inline constexpr std::string_view kUndoName = "qwen2-convert.undo.zst";

// verify/fingerprint.md; empty where nobody decoded what was written (--verify=hash).
struct ManifestDigests {
  std::string values;
  std::string qlf1;
};

// Rows of a tensor of the input that holds more, or outputs of such a linear.
struct ManifestRange {
  uint64_t first = 0;
  uint64_t of = 0;  // how many the input has; 0: it holds no more than the output
};

struct ManifestTensor {
  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
  std::string file;
  std::string xxh3;                  // XXH3-128 of the bytes
  std::vector<std::string> sources;  // names in the input; empty: made, not read
  std::string action;                // "copy", "zero-fill", "zeros-v2-to-v1", …
  std::string exactness;             // "same-bytes", "same-codes", "same-values", "rounded"
  ManifestRange source_rows = {};         // shape[0] of them; for a tensor that is no part of a linear in `linears`
};

struct ManifestDrop {
  std::string name;    // in the input
  std::string action;  // "zero-bias", "tied-head", "derived-buffer", "user", "text-only"
  std::string same_as;  // "tied-head": the input tensor it repeats
};

struct ManifestFile {
  std::string name;
  uint64_t bytes = 0;
  std::string sha256;
  std::string xxh3;         // of a shard: of its first head_bytes; its tensors have their own
  uint64_t head_bytes = 0;  // 0 for a file that is no shard
};

// How one quantised linear was stored in the input and is stored in the output.
struct ManifestLinear {
  std::string name;    // in the output
  std::string source;  // in the input
  std::string source_layout;
  std::string layout;
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t source_group_size = 0;
  uint64_t group_size = 0;  // in the output; divides the source's
  uint64_t source_bits = 0;
  uint64_t bits = 0;        // in the output; 0 where the weight is dense
  std::string exactness;    // "same-codes", "same-values", "rounded"
  ManifestRange source_outputs = {};  // out_features of them
  ManifestDigests fingerprint = {};  // in the output
  // Of the output, where channels of zeros are added; else 0, or the same.
  uint64_t padded_in_features = 0;
  uint64_t padded_out_features = 0;
  // The channels are in another order: sorted by the group that they belong to as inputs of this
  // linear of the input, those of one group as they were. Empty: as they were.
  std::string order_of = {};
  bool orders_inputs = false;  // they are inputs, or else outputs

  uint64_t OutputInputs() const { return std::max(in_features, padded_in_features); }
  uint64_t OutputOutputs() const { return std::max(out_features, padded_out_features); }
  bool Padded() const { return OutputInputs() > in_features || OutputOutputs() > out_features; }
};

struct Manifest {
  std::string tool_version;
  std::vector<std::string> targets;
  Json options;          // those that change content
  std::string verify;    // the level that was asked for
  std::string verify_read;
  std::string publish;   // "atomic-rename" or "in-place"
  ManifestDigests fingerprint;  // of the output
  Json config_edits;     // list of {file, key, before, after, reason}
  std::vector<ManifestFile> files;
  std::vector<ManifestLinear> linears;
  std::vector<ManifestTensor> tensors;
  std::vector<ManifestDrop> dropped;
};

std::string WriteManifest(const Manifest& manifest);
// Errors: kMalformed "manifest"; kRefused "manifest-version" for a major version that is not 1.
Result<Manifest> ReadManifest(std::string_view text);

}  // namespace q2c
