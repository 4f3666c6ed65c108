#include "formats/layouts/marlin.h"

#include <algorithm>

#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {
namespace {

// A row holds 16 inputs, blocks of 64 outputs side by side, 128 words each.
constexpr uint64_t kRowInputs = 16;
constexpr uint64_t kBlockOutputs = 64;
constexpr uint64_t kBlockWords = 128;

// Word and shift of code (k, n) inside the block of 16 inputs by 64 outputs.
struct Place {
  uint64_t word;
  uint32_t shift;
};
Place PlaceOf(uint64_t k, uint64_t n) {
  const uint64_t lane = n % 8 * 4 + k % 8 / 2;
  const uint64_t nibble = k % 2 * 4 + n / 8 % 2 * 2 + k / 8 % 2;
  return {lane * 4 + n / 16 % 4, static_cast<uint32_t>(4 * nibble)};
}

Shape CodesShape(const QuantShape& s) { return {s.in_features / kRowInputs, 2 * s.out_features}; }
Grid CodesGrid(const QuantShape&, uint64_t) { return {{Axis::kInputs, kRowInputs, 1}, {Axis::kOutputs, kBlockOutputs, 4 * kBlockWords}}; }

// Calls visit(byte of the word in the part, shift, input, output) for every code.
template <typename Visit>
void ForEachCode(const QuantShape& s, const Visit& visit) {
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t k = 0; k < s.in_features; ++k) {
      const auto [word, shift] = PlaceOf(k % kRowInputs, n % kBlockOutputs);
      visit(4 * (k / kRowInputs * 2 * s.out_features + n / kBlockOutputs * kBlockWords + word), shift, k, n);
    }
  }
}

Status DecodeCodes(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->codes.assign(s.out_features * s.WordsPerRow(), 0);
  ForEachCode(s, [&](uint64_t at, uint32_t shift, uint64_t k, uint64_t n) {
    linear->codes[n * s.WordsPerRow() + k / 8] |= ((Load<uint32_t>(bytes.data() + at) >> shift) & 0xFU) << (4 * (k % 8));
  });
  return {};
}
Status EncodeCodes(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  std::ranges::fill(out, std::byte{0});
  ForEachCode(s, [&](uint64_t at, uint32_t shift, uint64_t k, uint64_t n) {
    const uint32_t code = (linear.codes[n * s.WordsPerRow() + k / 8] >> (4 * (k % 8))) & 0xFU;
    Store(out.data() + at, Load<uint32_t>(out.data() + at) | code << shift);
  });
  return {};
}

// The output whose scale stands at position i of a row. One group is ordered in blocks of 32,
// several in blocks of 64.
uint64_t ScaleOutput(uint64_t i, bool one_group) {
  constexpr std::array<uint64_t, 8> kOffsets = {0, 1, 8, 9, 16, 17, 24, 25};
  if (one_group) return i / 32 * 32 + i % 32 / 8 * 2 + kOffsets[i % 8];
  return i / 64 * 64 + i % 64 / 8 + i % 8 * 8;
}
Shape ScalesShape(const QuantShape& s) { return {s.groups, s.out_features}; }
Grid ScalesGrid(const QuantShape&, uint64_t) { return {{Axis::kGroups, 1, 1}, {Axis::kOutputs, kBlockOutputs, 2 * kBlockOutputs}}; }
Status DecodeScales(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->scale_dtype = Dtype::kF16;
  linear->scales.resize(bytes.size());
  for (uint64_t g = 0; g < s.groups; ++g) {
    for (uint64_t i = 0; i < s.out_features; ++i) {
      Store(linear->scales.data() + 2 * (g * s.out_features + ScaleOutput(i, s.groups == 1)), Load<uint16_t>(bytes.data() + 2 * (g * s.out_features + i)));
    }
  }
  return {};
}
Status EncodeScales(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const std::vector<std::byte> scales = ScalesAs(linear, Dtype::kF16);
  for (uint64_t g = 0; g < s.groups; ++g) {
    for (uint64_t i = 0; i < s.out_features; ++i) {
      Store(out.data() + 2 * (g * s.out_features + i), Load<uint16_t>(scales.data() + 2 * (g * s.out_features + ScaleOutput(i, s.groups == 1))));
    }
  }
  return {};
}

}  // namespace

const std::array<PartCodec, 2> kMarlinParts = {{
    {"B", kCodes, "marlin-tiles", Dtype::kI32, CodesShape, CodesGrid, DecodeCodes, EncodeCodes},
    {"s", kScales, "marlin-scales", Dtype::kF16, ScalesShape, ScalesGrid, DecodeScales, EncodeScales}}};

std::optional<std::string> MarlinRefuses(const QuantTraits& traits) {
  const QuantShape& s = traits.shape;
  if (!traits.symmetric) return "its zero points are not all 8, and Marlin stores none";
  if (s.in_features % 128 != 0 || s.out_features % 256 != 0) return fmt::format("Marlin needs inputs in multiples of 128 and outputs of 256, not {} and {}", s.in_features, s.out_features);
  return std::nullopt;
}

std::optional<std::string> MarlinRounds(const QuantLinear& linear) { return ScalesRound(linear, Dtype::kF16); }

Result<std::optional<QuantShape>> DetectMarlin(const std::string& name, uint64_t in_features, uint64_t out_features,
                                               std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* codes = FindPart(parts, "B");
  const TensorInfo* scales = FindPart(parts, "s");
  if (codes == nullptr) return std::optional<QuantShape>();
  if (scales == nullptr || scales->shape.size() != 2 || scales->shape[0] == 0) return Malformed("quant-part", "linear '{}': 's' is missing or has no two dimensions; layout 'marlin'", Escape(name));
  if (in_features % kRowInputs != 0 || out_features % kBlockOutputs != 0) return WrongShape(*codes, {in_features / kRowInputs, 2 * out_features}, "inputs in multiples of 16, outputs of 64", "marlin");
  const QuantShape shape = ShapeOf(in_features, out_features, scales->shape[0], 4);
  QC_TRY(CheckParts(name, parts, kMarlinParts, shape, "marlin"));
  return std::optional<QuantShape>(shape);
}

std::optional<LinearSizes> MarlinSizes(std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* codes = FindMatrix(parts, "B");
  const TensorInfo* scales = FindMatrix(parts, "s");
  if (codes == nullptr || scales == nullptr || codes->dtype != Dtype::kI32 || codes->shape[1] != 2 * scales->shape[1]) return std::nullopt;
  return LinearSizes{codes->shape[0] * kRowInputs, scales->shape[1]};
}

}  // namespace q2c
