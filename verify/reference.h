// What a stored linear means, read straight off each layout's description, bit by bit.
// It shares no arithmetic with formats/layouts: its purpose is to disagree with a codec
// that is wrong. Adding a layout here = one row in reference.cc.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "formats/checkpoint.h"

namespace q2c {

// One linear of a checkpoint, to be read through its layout's description. The functions here
// read whole ones; LinearTiles knows those that are stored together.
struct StoredLinear {
  const Checkpoint* checkpoint = nullptr;
  std::string name;    // as in that checkpoint
  std::string layout;  // "gptq-v1"
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t group_size = 0;
  uint64_t bits = 0;  // 0: dense
  // A linear that is stored together with others: its outputs begin there, and so many there are.
  uint64_t first_output = 0;
  uint64_t stored_outputs = 0;  // 0: out_features
};

// The suffixes of the tensors that a layout consists of, those that may be absent too; none
// for a layout without a description.
std::span<const std::string_view> ReferenceParts(std::string_view layout);

// Some inputs of some outputs. Any borders will do; reading is cheapest where the tile is as
// wide as the tensor.
struct ReferenceTile {
  uint64_t first_input = 0;
  uint64_t inputs = 0;
  uint64_t first_output = 0;
  uint64_t outputs = 0;
};

// Code (k, n) at [(k - first_input) * outputs + (n - first_output)], unsigned in every layout.
Status ReferenceCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
// The same of a dense layout: its weights, widened.
Status ReferenceWeights(const StoredLinear& linear, const ReferenceTile& tile, std::vector<float>* weights);

// Where a layout stores offsets −scale·zero and none of the zero points that the codes can
// have is near one (or the scale is not a number).
inline constexpr uint16_t kNoZero = 0xFFFF;

// Of a range of outputs, in rows of that many.
struct ReferenceParameters {
  std::vector<uint16_t> zeros;       // [groups, outputs], the true zero points; of an offset the nearest whole one
  std::vector<uint32_t> scales;      // [groups, outputs], as float32 bit patterns
  std::vector<uint32_t> offsets;     // likewise, as stored; empty where the layout has zero points
  std::vector<int64_t> group_index;  // [in_features]
  Dtype scale_dtype = Dtype::kF16;
  Dtype offset_dtype = Dtype::kF16;
};
Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear, uint64_t first_output, uint64_t outputs);
Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear);  // of all

// Bits of a float tensor widened to float32, in order.
Result<std::vector<uint32_t>> WidenedBits(const Checkpoint& checkpoint, const TensorInfo& tensor);

}  // namespace q2c
