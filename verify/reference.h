// What a stored linear means, read straight off each layout's description, bit by bit.
// It shares no arithmetic with formats/layouts: its purpose is to disagree with a codec
// that is wrong. Adding a layout here = one row in reference.cc.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace q2c {

// One linear of a checkpoint, to be read through its layout's description.
struct StoredLinear {
  const Checkpoint* checkpoint = nullptr;
  std::string name;    // as in that checkpoint
  std::string layout;  // "gptq-v1"
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t group_size = 0;
  uint64_t bits = 0;
};

// Codes of inputs [first_input, first_input + inputs) for all outputs: code(k, n) at
// [(k - first_input) * out_features + n].
Status ReferenceCodes(const StoredLinear& linear, uint64_t first_input, uint64_t inputs, std::vector<uint8_t>* codes);
// Inputs that are read at once: a multiple of this.
inline constexpr uint64_t kReferenceInputs = 32;

struct ReferenceParameters {
  std::vector<uint16_t> zeros;       // [groups, out_features], the true zero points
  std::vector<uint32_t> scales;      // [groups, out_features], as float32 bit patterns
  std::vector<int64_t> group_index;  // [in_features]
};
Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear);

// Bits of a float tensor widened to float32, in order.
Result<std::vector<uint32_t>> WidenedBits(const Checkpoint& checkpoint, const TensorInfo& tensor);

}  // namespace q2c
