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
  bool as_it_is = false;  // of an architecture that is not known: of any type, and perhaps no matrix although it looks like one
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
  std::string bias_key = {};  // of the config, which declares a bias or not, where there is one
  // Of a linear whose inputs are products of the outputs of others, channel by channel, and go
  // nowhere else: these others, and the key of the config that says how many channels there are.
  std::vector<std::string> fed_by = {};
  std::string channels_key = {};
};

// Outputs of a stored linear, which are rows of its weight. Older families store some linears
// as one: c_attn holds the outputs of q_proj, k_proj and v_proj behind each other.
struct OutputRange {
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t of = 0;  // outputs that are stored; 0: the range is all there is

  bool IsPart() const { return of != 0; }
};

// Where a tensor of a file belongs.
struct Place {
  std::string name;  // canonical
  OutputRange rows;
};

// Everything one model must hold, by name.
struct Skeleton {
  std::map<std::string, ExpectedTensor, std::less<>> tensors;
  std::map<std::string, ExpectedLinear, std::less<>> linears;
  // Names of another family for the same, without their last part: "transformer.h.{layer}.attn.c_attn".
  std::map<std::string, std::vector<Place>, std::less<>> names;
  uint64_t layers = 0;

  // Is it a tensor of two dimensions, such as an embedding?
  bool IsMatrix(std::string_view tensor) const {
    const auto found = tensors.find(tensor);
    return found != tensors.end() && found->second.shape.size() == 2 && !found->second.as_it_is;
  }
};

// What becomes of one key of config.json.
struct ConfigChange {
  std::string key;
  std::optional<Json> before;
  std::optional<Json> after;
  std::string reason;
};

// A config in the words of the architecture that the model is read as.
struct TranslatedConfig {
  Json config;
  std::vector<ConfigChange> changes;
  std::vector<std::pair<std::string, std::string>> notes;  // id, message
};

struct Architecture {
  std::string model_type;
  Json definition;  // with what it extends merged in

  // Made from the tensors of a checkpoint (generic_architecture.h): nothing is known but these.
  bool IsGeneric() const { return definition.Find("generic") != nullptr; }
  // The model classes this family has ("Qwen2ForCausalLM"), the usual one first.
  std::vector<std::string> Classes() const;

  // Expands the definition with the sizes of a config.
  // Errors: kMalformed "config-size" for sizes that are absent, absurd or contradict each other;
  // kRefused "architecture-class" for a class the family does not have.
  Result<Skeleton> Expand(const Json& config, const std::string& class_name) const;

  // The config of a family that is read as another one ("qwen" as "qwen2"), or whose text model
  // has a config of its own inside (it is lifted out); of all others as it is.
  // Errors: kRefused "architecture" for what the other cannot say; kMalformed "config-size".
  Result<TranslatedConfig> Translate(const Json& config) const;

  // Where the tensor belongs: one place, several for a linear that this architecture keeps
  // apart, none if no way leads to a known name.
  std::vector<Place> Places(const Skeleton& skeleton, const std::string& name) const;
  // The name as this architecture writes it: wrappers such as "module." or a doubled
  // "model." removed, a missing "model." added, names of GGUF translated. Nothing if no way leads to a known name.
  std::optional<std::string> CanonicalName(const Skeleton& skeleton, const std::string& name) const;
  // The name of a canonical tensor in a GGUF file; slices of stacked experts as containers/gguf
  // names them. Nothing if GGUF has no place for it.
  std::optional<std::string> GgufName(const std::string& canonical) const;
  // Has it a vision tower, and is this canonical name in it?
  bool HasVision() const { return definition.Find("vision") != nullptr; }
  bool IsVision(std::string_view canonical) const { return HasVision() && canonical.starts_with(definition.Find("vision")->text()); }
  // What loaders call the module of a canonical linear: its name, and where newer ones nest it, that name too.
  std::vector<std::string> ModuleNames(const std::string& canonical) const;
  // A buffer that belongs in no checkpoint, such as rotary_emb.inv_freq.
  bool IsDerived(std::string_view name) const;
};

// Splits "model.layers.0.mlp.up_proj.qweight" into linear and part.
std::pair<std::string, std::string> SplitPart(const std::string& tensor);

// Can a tensor of this name be a part of a linear?
bool IsLinearPart(std::string_view suffix);
// "model.layers.7.mlp.up_proj" -> the end of "model.layers.7", the block that is repeated; 0 if there is none.
size_t EndOfBlock(std::string_view name);

std::vector<std::string> KnownArchitectures();
// Errors: kRefused "architecture" with the list of those that are known.
Result<Architecture> FindArchitecture(const std::string& model_type);

}  // namespace q2c
