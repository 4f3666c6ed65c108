// The forward pass of Qwen2, Qwen2-MoE, Qwen3, Qwen3-MoE and the text model of Qwen2-VL in float32, over a few tokens, on one or
// several sides in step with each other: a source, what it was converted to, the source in
// another reading. Weights come from the stored files a tile at a time (products.h); only one
// layer's activations are in memory. Equal weights and configs give equal bits.
// Written from transformers' modeling_qwen2.py, modeling_qwen2_moe.py, modeling_qwen3.py,
// modeling_qwen3_moe.py and modeling_qwen2_vl.py. (For text alone the three rope axes of the last are one.)
#pragma once

#include <set>
#include <string>
#include <vector>

#include "verify/forward_config.h"
#include "verify/products.h"

namespace q2c {

using Tokens = std::vector<uint32_t>;

struct ForwardSide {
  const Model* model = nullptr;
  std::vector<Tokens> sequences;  // each attends to itself only; the first is what sides are compared on
  std::string reading;            // layout in which to read GPTQ linears instead of the model's own; or empty
};

// What is told of the pass while it runs. Vectors are by side; all sides take every step.
class ForwardWatch {
 public:
  ForwardWatch() = default;
  ForwardWatch(const ForwardWatch&) = delete;
  ForwardWatch& operator=(const ForwardWatch&) = delete;
  virtual ~ForwardWatch() = default;
  // A quantised linear, by canonical name, is about to be multiplied: its task may be given a
  // check. Side 0 and 1 are in it as they are in the pass.
  virtual void Begin(const std::string& /*linear*/, LinearTask* /*task*/) {}
  struct Step {
    std::string name;  // of the tensor or module it stands for: "model.layers.0.self_attn.q_proj"
    std::vector<const Rows*> in;
    std::vector<const Rows*> out;
    std::vector<uint64_t> first_rows;  // how many leading rows belong to the first sequence
    const LinearTask* task = nullptr;  // of a linear
  };
  // A step was taken. An error ends the pass.
  virtual Status Took(const Step& /*step*/) { return {}; }
  // The residual stream after `layer` layers; after the last one normalised.
  virtual Status State(uint64_t /*layer*/, const std::vector<const Rows*>& /*states*/) { return {}; }
};

struct ForwardResult {
  std::vector<Rows> logits;            // by side, all sequences behind each other; empty for a class without a head
  uint64_t experts = 0;                // of all layers together, and how many the first side's tokens reached
  uint64_t experts_reached = 0;
};

// Errors: kNotRun "forward" where the pass does not know the model; kUsage for token ids beyond
// the vocabulary; those of reading.
Result<ForwardResult> RunForward(const std::vector<ForwardSide>& sides, const RunOptions& options, ForwardWatch* watch);

// "9707,11,1879". Errors: kUsage.
Result<Tokens> ParseTokens(const std::string& text);
// `count` ids spread evenly over the vocabulary.
Tokens SpreadTokens(uint64_t vocabulary, uint64_t count);

}  // namespace q2c
