// A checkpoint understood: every tensor assigned to a place in an architecture, every
// linear with its layout and shape. Reads headers, group maps and zero fields, and a
// sample of the codes where these alone do not settle the zero-point convention.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/architecture.h"
#include "formats/checkpoint.h"
#include "formats/layouts/layout.h"
#include "formats/quant_config.h"
#include "formats/zero_evidence.h"

namespace q2c {

// Index of a tensor in Checkpoint::tensors().
using TensorIndex = size_t;

struct Linear {
  ExpectedLinear expected;
  std::map<std::string, TensorIndex, std::less<>> parts;  // by suffix: "qweight", "bias", "weight", …
  OutputRange rows;                          // of what the parts hold, where that is more than this linear
  const Layout* layout = nullptr;            // null: a float linear
  QuantTraits traits;                        // of a quantised one
  ZeroSample zeros;
  uint64_t wrapped_zeros = 0;                // v1 fields of all ones
  // Those of them that lie above another one in their word, which may have overwritten them.
  struct Field {
    uint64_t group = 0;
    uint64_t output = 0;
  };
  std::vector<Field> lost_zeros;             // the first 64
  uint64_t lost_zero_count = 0;

  bool quantised() const { return layout != nullptr; }
  // Outputs of the parts, and their shape.
  uint64_t StoredOutputs() const { return rows.IsPart() ? rows.of : expected.out_features; }
  QuantShape StoredShape() const {
    QuantShape shape = traits.shape;
    if (rows.IsPart()) shape.out_features = rows.of;
    return shape;
  }
  std::optional<TensorIndex> Part(std::string_view suffix) const;
};

struct ModelOptions {
  std::vector<std::string> drop;                // globs of tensor names to leave out
  std::optional<ZeroConvention> zeros;          // said by the user; overrides the evidence
  bool text_only = false;                       // leave out a vision tower
  Defects* defects = nullptr;                   // where to put what is wrong, to go on after it; what is broken is left out of the model
  bool generic = false;                         // take a model whose architecture is not known as it is
  unsigned jobs = 1;                            // threads that look at the data

  Status Keep(Error error) const { return KeepOrFail(defects, std::move(error)); }
  Status Keep(Status status) const { return KeepOrFail(defects, std::move(status)); }
};

struct Model {
  const Checkpoint* checkpoint = nullptr;
  Architecture architecture;
  std::string class_name;
  Json config;                                        // config.json in the words of `architecture`
  std::vector<ConfigChange> config_changes;           // what that took
  std::vector<Note> notes;
  Skeleton skeleton;
  std::optional<QuantConfig> quant;
  std::vector<std::vector<Place>> places;             // by TensorIndex; empty: dropped
  std::map<std::string, TensorIndex> tensors;         // canonical name -> tensor, those of no linear
  std::map<std::string, Linear> linears;              // by canonical name
  std::vector<TensorIndex> derived;                   // buffers such as rotary_emb.inv_freq
  std::vector<std::pair<TensorIndex, std::string>> dropped;  // by the user's globs: tensor, glob
  std::vector<TensorIndex> vision;                    // left out with text_only
  bool text_only = false;
  bool tied = false;                                  // tie_word_embeddings in effect
  ZeroVerdict zero_verdict;
  bool zero_label_wrong = false;                      // the config names the other convention

  const TensorInfo& info(TensorIndex index) const { return checkpoint->tensors()[index]; }
  bool AnyQuantised() const;
};

// What the class is, in words: "LlamaForCausalLM, which is not known and taken as it is".
std::string ClassText(const Model& model);

// Errors: kMalformed for anything missing, superfluous in part, of a wrong shape or value;
// kRefused for unknown architectures, layouts, tensors ("tensor-unknown") and for zero points
// whose convention cannot be decided ("zeros-undecided").
Result<Model> UnderstandModel(const Checkpoint& checkpoint, const ModelOptions& options);

// A linear, or a tile of it, in the canonical form; only the parts that carry one of
// `components` are read.
Result<QuantLinear> DecodeLinear(const Model& model, const Linear& linear, uint8_t components);
Result<QuantLinear> DecodeLinear(const Model& model, const Linear& linear, uint8_t components, const Tile& tile);

// The largest absolute value of a float tensor and how many elements are not zero.
struct Magnitude {
  uint64_t nonzero = 0;
  double largest = 0;  // infinite, too, for NaN
  bool nan = false;
  std::string LargestText() const { return nan ? "NaN" : fmt::format("{:.3g}", largest); }
};
Result<Magnitude> MeasureTensor(const Checkpoint& checkpoint, const TensorInfo& tensor);

}  // namespace q2c
