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
// A tile of a linear, cut out along inputs or outputs, is a smaller linear of the same form.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "formats/base/half.h"
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
  uint64_t Weights() const { return in_features * out_features; }
  bool Ragged() const { return in_features % group_size != 0; }  // the last group is shorter
  friend bool operator==(const QuantShape&, const QuantShape&) = default;
};

struct QuantLinear {
  QuantShape shape;
  std::vector<uint32_t> codes;
  std::vector<uint16_t> zeros;
  Dtype scale_dtype = Dtype::kF16;
  std::vector<std::byte> scales;
  std::vector<int32_t> group_index;
  // Where the source stores offsets, weight = scale · code + offset, instead of zero points:
  std::vector<float> offsets;  // [groups, out_features]
  bool nearest_zeros = false;  // some offset is not what its zero point and scale come to, so offsets are meant, not zero points
  std::string no_zeros;        // the first offset that is near no zero point in range, in words

  float Scale(uint64_t group, uint64_t output) const { return ScaleAt(group * shape.out_features + output); }
  float ScaleAt(uint64_t i) const {
    if (scale_dtype == Dtype::kF32) return Load<float>(scales.data() + 4 * i);
    const auto bits = Load<uint16_t>(scales.data() + 2 * i);
    return scale_dtype == Dtype::kF16 ? HalfToFloat(bits) : BfloatToFloat(bits);
  }
};

// A rectangle of a linear.
struct Tile {
  uint64_t first_input = 0;
  uint64_t inputs = 0;
  uint64_t first_output = 0;
  uint64_t outputs = 0;
};

// Is every input in the group its position says?
inline bool IsTrivial(const std::vector<int32_t>& group_index, uint64_t group_size) {
  int32_t differing = 0;
  int32_t group = 0;
  for (size_t first = 0; first < group_index.size(); first += group_size, ++group) {
    const size_t end = std::min<size_t>(first + group_size, group_index.size());
    for (size_t k = first; k < end; ++k) differing |= group_index[k] ^ group;
  }
  return differing == 0;
}

// Splits every group into groups of `group_size`, which must divide the size there is: zeros
// and scales are repeated, no value changes. For a linear whose groups follow each other.
// A multiple of the size undoes that: groups are joined and take the zeros and scales of their first.
void SplitGroups(uint64_t group_size, QuantLinear* linear);

// Leaves the outputs [first, first + count) only.
void CutOutputs(uint64_t first, uint64_t count, QuantLinear* linear);

// Input k becomes what input order[k] was; the group map goes along. `order` is a permutation.
void ReorderInputs(const std::vector<uint32_t>& order, QuantLinear* linear);
// Output n becomes what output order[n] was.
void ReorderOutputs(const std::vector<uint32_t>& order, QuantLinear* linear);

// More inputs and outputs behind those that there are, with weights of zero. New inputs follow
// each other in groups of `group_size`. Those that complete the last group there was take its
// zero points as their codes, given in `last_zeros` for all outputs there were; everything else
// gets the middle code and a scale of 2^-10.
struct Padding {
  uint64_t first_input = 0;  // of this tile in the whole linear
  uint64_t all_inputs = 0;   // that the whole linear had before
  uint64_t inputs = 0;       // that the tile is to have
  uint64_t outputs = 0;
  uint64_t groups = 0;       // that the whole linear is to have
  uint64_t group_size = 0;
};
struct PaddedParts {  // which parts are to be filled in, even where the tile has none yet
  bool codes = true;
  bool zeros = true;
  bool scales = true;
  bool group_index = true;
};
void Pad(const Padding& padding, const PaddedParts& parts, const std::vector<uint16_t>& last_zeros, QuantLinear* linear);

// All codes of output n, one a byte. `codes` has in_features entries.
void UnpackRow(const QuantLinear& linear, uint64_t output, uint8_t* codes);
// The reverse: packs in_features codes into row n.
void PackRow(const uint8_t* codes, uint64_t output, QuantLinear* linear);

}  // namespace q2c
