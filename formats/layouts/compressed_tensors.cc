#include "formats/layouts/compressed_tensors.h"

#include <algorithm>

#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {

Shape ScalesByOutputShape(const QuantShape& s) { return {s.out_features, s.groups}; }
Grid ScalesByOutputGrid(const QuantShape&, uint64_t bytes) { return {{Axis::kOutputs, 1, 1}, {Axis::kGroups, 1, bytes}}; }
Status DecodeScalesByOutput(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->scales.resize(bytes.size());
  Transpose(bytes.data(), linear->scales.data(), s.out_features, s.groups, InfoOf(linear->scale_dtype).bits / 8);
  return {};
}
Status EncodeScalesByOutput(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  Transpose(linear.scales.data(), out.data(), s.groups, s.out_features, InfoOf(linear.scale_dtype).bits / 8);
  return {};
}

Shape WordsByOutputShape(const QuantShape& s) { return {s.out_features, s.WordsPerRow()}; }
Grid WordsByOutputGrid(const QuantShape& s, uint64_t) { return {{Axis::kOutputs, 1, 1}, {Axis::kInputs, 32, uint64_t{4} * s.bits}}; }
Status DecodeWordsByOutput(ByteView bytes, QuantLinear* linear) {
  linear->codes = WordsFrom<uint32_t>(bytes);
  return {};
}
Status EncodeWordsByOutput(const QuantLinear& linear, MutableBytes out) {
  std::ranges::copy(AsBytes(linear.codes), out.begin());
  return {};
}

namespace {

constexpr uint64_t kPaddedPerWord = 10;  // codes of 3 bits in a word of the 2025 form

// Zero points are packed along the outputs: column g is the stream of group g.
template <bool kPadded>
Shape ZerosShape(const QuantShape& s) {
  return {kPadded ? CeilDiv(s.out_features, kPaddedPerWord) : CeilDiv(s.out_features * s.bits, uint64_t{32}), s.groups};
}
Grid ZerosGrid(const QuantShape& s, uint64_t) { return {{Axis::kOutputs, 32, s.bits}, {}}; }
Status DecodeZeros(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->zeros.resize(s.groups * s.out_features);
  for (uint64_t g = 0; g < s.groups; ++g) UnpackFields(bytes.data() + 4 * g, s.groups, s.out_features, s.bits, 0, linear->zeros.data() + g * s.out_features);
  return {};
}
Status EncodeZeros(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  for (uint64_t g = 0; g < s.groups; ++g) PackFields(linear.zeros.data() + g * s.out_features, s.out_features, s.bits, 0, out.data() + 4 * g, s.groups);
  return {};
}
bool HasZeros(const QuantTraits& traits) { return !traits.symmetric; }


Grid PaddedZerosGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, kPaddedPerWord, 1}, {}}; }
Status DecodePaddedZeros(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->zeros.resize(s.groups * s.out_features);
  for (uint64_t g = 0; g < s.groups; ++g) {
    for (uint64_t n = 0; n < s.out_features; ++n) {
      const auto word = Load<uint32_t>(bytes.data() + 4 * (n / kPaddedPerWord * s.groups + g));
      linear->zeros[g * s.out_features + n] = static_cast<uint16_t>((word >> (n % kPaddedPerWord * s.bits)) & s.MaxCode());
    }
  }
  return {};
}
Status EncodePaddedZeros(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  std::ranges::fill(out, std::byte{0});
  for (uint64_t g = 0; g < s.groups; ++g) {
    for (uint64_t n = 0; n < s.out_features; ++n) {
      std::byte* at = out.data() + 4 * (n / kPaddedPerWord * s.groups + g);
      Store(at, Load<uint32_t>(at) | static_cast<uint32_t>(linear.zeros[g * s.out_features + n]) << (n % kPaddedPerWord * s.bits));
    }
  }
  return {};
}
Shape PaddedCodesShape(const QuantShape& s) { return {s.out_features, CeilDiv(s.in_features, kPaddedPerWord)}; }
Grid PaddedCodesGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, 1, 1}, {Axis::kInputs, kPaddedPerWord, 4}}; }
Status DecodePaddedCodes(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const uint64_t words = CeilDiv(s.in_features, kPaddedPerWord);
  linear->codes.resize(s.out_features * s.WordsPerRow());
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t k = 0; k < s.in_features; ++k) {
      row[k] = static_cast<uint8_t>((Load<uint32_t>(bytes.data() + 4 * (n * words + k / kPaddedPerWord)) >> (k % kPaddedPerWord * s.bits)) & s.MaxCode());
    }
    PackRow(row.data(), n, linear);
  }
  return {};
}
Status EncodePaddedCodes(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const uint64_t words = CeilDiv(s.in_features, kPaddedPerWord);
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    UnpackRow(linear, n, row.data());
    for (uint64_t w = 0; w < words; ++w) {
      uint32_t word = 0;
      for (uint64_t k = w * kPaddedPerWord; k < std::min(s.in_features, (w + 1) * kPaddedPerWord); ++k) word |= static_cast<uint32_t>(row[k]) << (k % kPaddedPerWord * s.bits);
      Store(out.data() + 4 * (n * words + w), word);
    }
  }
  return {};
}

// The true sizes, [out_features, in_features].
Shape SizesShape(const QuantShape&) { return {2}; }
Grid WholeGrid(const QuantShape&, uint64_t) { return {}; }
Status DecodeSizes(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const auto outputs = Load<uint64_t>(bytes.data());
  const auto inputs = Load<uint64_t>(bytes.data() + 8);
  if (outputs == s.out_features && inputs == s.in_features) return {};
  return Malformed("quant-value", "it says {} outputs and {} inputs, expected {} and {}", outputs, inputs, s.out_features, s.in_features);
}
Status EncodeSizes(const QuantLinear& linear, MutableBytes out) {
  Store(out.data(), linear.shape.out_features);
  Store(out.data() + 8, linear.shape.in_features);
  return {};
}

constexpr PartCodec kScalePart = {"weight_scale", kScales, "scales-by-output", std::nullopt, ScalesByOutputShape, ScalesByOutputGrid, DecodeScalesByOutput, EncodeScalesByOutput};
constexpr PartCodec kSizesPart = {"weight_shape", kSizes, "sizes", Dtype::kI64, SizesShape, WholeGrid, DecodeSizes, EncodeSizes};
constexpr std::array<std::string_view, 1> kZeroPoint = {"weight_zero_point"};

Result<std::optional<QuantShape>> Detect(bool padded, const std::string& name, uint64_t in_features, uint64_t out_features, std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  const TensorInfo* packed = FindPart(parts, "weight_packed");
  const TensorInfo* scale = FindPart(parts, "weight_scale");
  if (packed == nullptr) return std::optional<QuantShape>();
  constexpr std::string_view kLayout = "compressed-tensors";
  if (FindPart(parts, "weight_g_idx") != nullptr) {
    return Refused("layout", "linear '{}': it has weight_g_idx (actorder 'group'), which compressed-tensors has withdrawn and this version does not read", Escape(name));
  }
  if (scale == nullptr) return Malformed("quant-part", "linear '{}': 'weight_scale' is missing; layout '{}'", Escape(name), kLayout);
  if (packed->shape.size() != 2 || scale->shape.size() != 2 || scale->shape[1] == 0) {
    const TensorInfo* odd = packed->shape.size() != 2 ? packed : scale;
    return Malformed("quant-shape", "tensor '{}': shape {}, expected two dimensions; layout '{}'", Escape(odd->name), ShapeText(odd->shape), kLayout);
  }
  const uint64_t words = packed->shape[1];
  // 32 inputs take four words either way: 4 bits, unless the config says 3.
  const bool ten = words == CeilDiv(in_features, kPaddedPerWord) && words * 32 != in_features * 3 && (words * 32 != in_features * 4 || hints.bits == 3U);
  if (ten != padded) return std::optional<QuantShape>();
  if (ten && in_features % 32 != 0) return Malformed("quant-shape", "linear '{}': {} inputs of 3 bits, expected a multiple of 32; layout '{}'", Escape(name), in_features, kLayout);
  const uint64_t bits = ten ? 3 : words * 32 % in_features == 0 ? words * 32 / in_features : 0;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return WrongShape(*packed, {out_features, in_features / 8}, fmt::format("{} outputs by {} inputs at 4 bits; 2, 3 and 8 bits are read as well", out_features, in_features), kLayout);
  }
  const QuantShape shape = ShapeOf(in_features, out_features, scale->shape[1], static_cast<uint32_t>(bits));
  QC_TRY(CheckParts(name, parts, padded ? kCompressedTensors2025Parts : kCompressedTensorsParts, shape, kLayout, kZeroPoint));
  return std::optional<QuantShape>(shape);
}

}  // namespace

const std::array<PartCodec, 4> kCompressedTensorsParts = {{
    {"weight_packed", kCodes, "words-by-output", Dtype::kI32, WordsByOutputShape, WordsByOutputGrid, DecodeWordsByOutput, EncodeWordsByOutput},
    kScalePart,
    {"weight_zero_point", kZeros, "zeros-by-output", Dtype::kI32, ZerosShape<false>, ZerosGrid, DecodeZeros, EncodeZeros, HasZeros},
    kSizesPart}};
const std::array<PartCodec, 4> kCompressedTensors2025Parts = {{
    {"weight_packed", kCodes, "ten-a-word-by-output", Dtype::kI32, PaddedCodesShape, PaddedCodesGrid, DecodePaddedCodes, EncodePaddedCodes},
    kScalePart,
    {"weight_zero_point", kZeros, "zeros-ten-a-word", Dtype::kI32, ZerosShape<true>, PaddedZerosGrid, DecodePaddedZeros, EncodePaddedZeros, HasZeros},
    kSizesPart}};

Result<std::optional<QuantShape>> DetectCompressedTensors(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                          std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return Detect(false, name, in_features, out_features, parts, hints);
}
Result<std::optional<QuantShape>> DetectCompressedTensors2025(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                              std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return Detect(true, name, in_features, out_features, parts, hints);
}

// (Ten codes a word leave the number of inputs open: they are read only where it is known.)
std::optional<LinearSizes> CompressedTensorsSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return SizesByOutput(FindMatrix(parts, "weight_packed"), FindMatrix(parts, "weight_scale"), hints);
}

}  // namespace q2c
