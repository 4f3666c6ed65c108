// The proof of a conversion: every weight compared (compare.h) and a forward pass of both
// sides, on the same tiles. And the forward pass of one checkpoint alone.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "formats/manifest.h"
#include "verify/compare.h"
#include "verify/fingerprint.h"
#include "verify/forward.h"

namespace q2c {

// How far two sides are apart in one state of the residual stream, or in the logits.
struct Distance {
  double largest_value = 0;  // of the source
  double largest_error = 0;
  double mean_error = 0;
};

// How likely a real text is to the model: right and wrong readings of the weights differ in it.
struct TextScore {
  std::string vocabulary;    // whose text it is; "--tokens" for the user's own
  uint64_t tokens = 0;
  double loss = 0;           // mean negative log-likelihood of each token after the first
  std::string other_reading;  // "gptq-v2": the other convention of zero points, where that is contested
  double other_loss = 0;
  uint64_t vocabulary_size = 0;
  // Do the two say which reading is right? Only of a model that knows the text at all: one that
  // guesses has a loss of about ln(vocabulary) either way (random weights, another tokenizer), and
  // which of two guesses is luckier says nothing.
  bool decides() const { return std::abs(loss - other_loss) > kDecisive && std::min(loss, other_loss) < std::log(static_cast<double>(vocabulary_size)) - kBelowGuessing; }
  static constexpr double kDecisive = 0.05;
  static constexpr double kBelowGuessing = 1;  // e times as likely as a guess; over the bundled texts of 64 tokens chance strays by about a tenth of it
};

struct ForwardReport {
  Tokens tokens;
  bool equal = false;             // every state and logit, bit by bit
  bool reordered = false;         // the output adds up in another order, so its logits may differ by rounding
  std::string first_difference;   // "layer 1, model.layers.1.mlp.up_proj", of what was meant to be equal
  std::vector<Distance> states;   // [layers + 1], the last one normalised; none for one side alone
  Distance logits;
  double divergence = 0;          // mean Kullback-Leibler divergence of the next token
  uint64_t same_top = 0;          // tokens with the same likeliest next token
  std::optional<TextScore> text;
  uint64_t experts = 0;           // 0: it has none
  uint64_t experts_reached = 0;
};

struct ProofOptions {
  bool forward = true;
  Tokens tokens;               // empty: `spread` ids spread over the vocabulary
  uint64_t spread = 16;
  bool contested = false;      // score the text under the other convention of zero points as well
  RunOptions run;
};

struct Proof {
  Compared compared;
  std::optional<ForwardReport> forward;
  std::optional<Fingerprint> fingerprint;  // of what was written; none where there are findings
  std::vector<Error> findings;  // kFindings each; none: proven
};

// Errors: those of reading the source, of running and of a check that cannot be run; whatever is
// wrong with the output is a finding.
Result<Proof> Prove(const Model& source, const Checkpoint& output, const Manifest& manifest, const ProofOptions& options);

// A forward pass of two models, which need not be equal. Errors: those of RunForward;
// kFindings where they have no layers in common or a result is not finite.
Result<ForwardReport> CompareForward(const Model& a, const Model& b, const ProofOptions& options);

// One checkpoint alone.
struct Observation {
  ForwardReport report;
  std::vector<Rows> states;  // [layers + 1] of [tokens][hidden]
  Rows logits;               // [tokens][vocabulary]; empty for a class without a head
};
// Errors: kFindings "forward-not-finite"; those of RunForward.
Result<Observation> Observe(const Model& model, const ProofOptions& options);

}  // namespace q2c
