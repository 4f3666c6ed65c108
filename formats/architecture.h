// An architecture: which tensors a model of one family consists of. Read from
// architectures/*.json, which is compiled in; a new family is a new file there.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/tensor.h"

namespace q2c {

// A tensor that is no linear: embedding, norm.
struct ExpectedTensor {
  std::string name;
  Shape shape;
};

// y = x·Wᵀ (+ bias); W is [out_features, in_features].
struct ExpectedLinear {
  std::string name;  // without ".weight"
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  bool bias = false;          // the architecture declares one
  bool router = false;        // stays float in every layout
  bool in_block = false;      // inside a decoder layer: where GPTQ loaders replace linears
  std::string tied_to;        // name of the embedding it may share its weight with, or empty
};

// Everything one model must hold, by name.
struct Skeleton {
  std::map<std::string, ExpectedTensor, std::less<>> tensors;
  std::map<std::string, ExpectedLinear, std::less<>> linears;
  uint64_t layers = 0;

  // Is it a tensor of two dimensions, such as an embedding?
  bool IsMatrix(std::string_view tensor) const {
    const auto found = tensors.find(tensor);
    return found != tensors.end() && found->second.shape.size() == 2;
  }
};

struct Architecture {
  std::string model_type;
  Json definition;  // with what it extends merged in

  // The model classes this family has ("Qwen2ForCausalLM"), the usual one first.
  std::vector<std::string> Classes() const;

  // Expands the definition with the sizes of a config.
  // Errors: kMalformed "config-size" for sizes that are absent, absurd or contradict each other;
  // kRefused "architecture-class" for a class the family does not have.
  Result<Skeleton> Expand(const Json& config, const std::string& class_name) const;

  // The name as this architecture writes it: wrappers such as "module." or a doubled
  // "model." removed, a missing "model." added, names of GGUF translated. Nothing if no way leads to a known name.
  std::optional<std::string> CanonicalName(const Skeleton& skeleton, const std::string& name) const;
  // The name of a canonical tensor in a GGUF file; slices of stacked experts as containers/gguf
  // names them. Nothing if GGUF has no place for it.
  std::optional<std::string> GgufName(const std::string& canonical) const;
  // A buffer that belongs in no checkpoint, such as rotary_emb.inv_freq.
  bool IsDerived(std::string_view name) const;
};

// Splits "model.layers.0.mlp.up_proj.qweight" into linear and part.
std::pair<std::string, std::string> SplitPart(const std::string& tensor);

std::vector<std::string> KnownArchitectures();
// Errors: kRefused "architecture" with the list of those that are known.
Result<Architecture> FindArchitecture(const std::string& model_type);

}  // namespace q2c
