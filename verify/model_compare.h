// Are two checkpoints the same model, whatever their layouts, files and makers? Weights by
// fingerprint, and where these differ by distance; what the configs make of the model after the
// loader's defaults; tokenizer; chat template.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "verify/fingerprint.h"
#include "verify/proof.h"

namespace q2c {

enum class Likeness {
  kSameCodes,   // equal qlf1
  kSameValues,  // equal values
  kRounded,     // close: relative error (root mean square) up to kRoundedLimit
  kDifferent,
  kOnlyA,
  kOnlyB,
};
std::string_view NameOf(Likeness likeness);
// Above what a rounding to bfloat16 or to blocks of 8 bits does, below what other weights are.
inline constexpr double kRoundedLimit = 0.01;

struct TensorLikeness {
  std::string name;       // as in the fingerprint
  bool linear = false;    // else an embedding or a vector
  Likeness likeness = Likeness::kSameCodes;
  // Of the weights as a loader computes them. Not 0 for equal codes or values where one side stores
  // offsets −scale·zero, rounded, for the zero points of the other (fingerprint.md).
  double largest_error = 0;
  double mean_error = 0;
  double relative_rms = 0;
};

// One thing that configs, tokenizers or templates say differently.
struct Difference {
  std::string key;
  std::string a;  // as text; empty: not there
  std::string b;
};

struct ModelComparison {
  Fingerprint a;
  Fingerprint b;
  std::vector<TensorLikeness> tensors;  // all of both sides, by name
  std::vector<Difference> config;       // what the loader would compute with
  std::vector<Difference> tokenizer;
  std::vector<Difference> chat_template;
  std::optional<ForwardReport> forward;  // where weights differ and a pass over both is possible
  std::string forward_not_run;           // why it is not

  bool WeightsMatch() const;
  bool AllMatch() const { return WeightsMatch() && config.empty() && tokenizer.empty() && chat_template.empty(); }
};

// Errors: those of reading and of running.
Result<ModelComparison> CompareModels(const Model& a, const Model& b, const ProofOptions& options);

// What a loader computes with, its defaults included: name, value as text.
std::vector<std::pair<std::string, std::string>> EffectiveConfig(const Model& model);

// Differences of the tokenizers and of the chat templates.
struct TokenizerDifferences {
  std::vector<Difference> tokenizer;
  std::vector<Difference> chat_template;
};
Result<TokenizerDifferences> CompareTokenizers(const Model& a, const Model& b);

Json ComparisonJson(const ModelComparison& comparison);
std::string ComparisonText(const ModelComparison& comparison, bool weights_only);

}  // namespace q2c
