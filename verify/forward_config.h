// What the forward pass needs of a config, with the defaults that transformers has for it.
#pragma once

#include <optional>
#include <vector>

#include "formats/model.h"

namespace q2c {

struct ForwardConfig {
  uint64_t layers = 0;
  uint64_t hidden = 0;    // width of the residual stream
  uint64_t heads = 0;
  uint64_t kv_heads = 0;
  uint64_t head_dim = 0;
  float norm_eps = 0;
  double rope_base = 0;
  std::vector<float> inverse_frequencies;  // [head_dim / 2], radians a position
  std::optional<double> dynamic_factor;    // the base grows for sequences longer than
  uint64_t max_positions = 0;              // these
  float rope_scale = 1;                    // of cosines and sines (yarn)
  std::vector<std::optional<uint64_t>> window;  // by layer: how many positions a token sees, itself included
  uint64_t experts_per_token = 0;
  bool normalise_experts = false;  // weights of the chosen experts sum up to 1

  // The inverse frequencies for a sequence of this length.
  std::vector<float> Frequencies(uint64_t length) const;
};

// kNotRun "forward" for a model of which only the tensors are known.
Status CanRunForward(const Model& model);
// Errors: kNotRun "forward" for such a model, for a rope or an activation that the pass does not know;
// kMalformed "config-…" for values that make no sense.
Result<ForwardConfig> ReadForwardConfig(const Model& model);

}  // namespace q2c
