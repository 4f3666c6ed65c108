// What the configs say about the quantisation. The tensors decide; this is the claim
// that they are held against, and the source of the keys that only a config knows.
#pragma once

#include <optional>
#include <string>

#include "formats/checkpoint.h"

namespace q2c {

struct QuantConfig {
  Json json;          // all keys: quantization_config of config.json, then quantize_config.json
  std::string where;  // for messages
  std::string quant_method;
  std::optional<uint32_t> bits;
  std::optional<int64_t> group_size;  // -1: one group
  std::optional<bool> sym;
  std::optional<bool> desc_act;
  std::string checkpoint_format;  // "gptq", "gptq_v2", ... lower case; empty if not said
  bool per_module = false;        // GPTQModel's `dynamic`: linears may differ
};

// Nothing if no file says anything. Errors: kMalformed "quant-config" for a key of the wrong
// kind or range, "config-disagree" if two files contradict each other; kRefused "quant-bits".
Result<std::optional<QuantConfig>> ReadQuantConfig(const Checkpoint& checkpoint);

}  // namespace q2c
