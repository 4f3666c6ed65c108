// The canonical quantised linear: the one form that every layout decodes to and encodes from.
//
//   weight(n, k) = scale(g, n) · (code(n, k) − zero(g, n)),   g = group_index(k)
//
// n counts outputs, k inputs, g groups. Shapes, row-major:
//   codes        [out_features] rows of in_features · bits / 32 words: one little-endian bit
//                stream along the inputs, code k in bits [k·bits, (k+1)·bits) of its row
//   zeros        [groups, out_features], the true zero point (never minus one), 0 … 2^bits − 1
//   scales       [groups, out_features], the stored bit patterns, in `scale_dtype`
//   group_index  [in_features]
#pragma once

#include <cstdint>
#include <vector>

#include "formats/tensor.h"

namespace q2c {

struct QuantShape {
  uint64_t in_features = 0;
  uint64_t out_features = 0;
  uint64_t groups = 0;
  uint64_t group_size = 0;  // inputs a group; in_features where the config says -1
  uint32_t bits = 0;

  uint64_t MaxCode() const { return (uint64_t{1} << bits) - 1; }
  uint64_t MidCode() const { return uint64_t{1} << (bits - 1); }  // the zero point of a symmetric linear
  uint64_t WordsPerRow() const { return in_features * bits / 32; }
  friend bool operator==(const QuantShape&, const QuantShape&) = default;
};

struct QuantLinear {
  QuantShape shape;
  std::vector<uint32_t> codes;
  std::vector<uint16_t> zeros;
  Dtype scale_dtype = Dtype::kF16;
  std::vector<std::byte> scales;
  std::vector<int32_t> group_index;
};

// Is every input in the group its position says?
inline bool IsTrivial(const std::vector<int32_t>& group_index, uint64_t group_size) {
  for (size_t k = 0; k < group_index.size(); ++k) {
    if (group_index[k] < 0 || static_cast<uint64_t>(group_index[k]) != k / group_size) return false;
  }
  return true;
}

}  // namespace q2c
