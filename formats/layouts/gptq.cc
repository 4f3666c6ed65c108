#include "formats/layouts/gptq.h"

#include "formats/base/text.h"
#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {
namespace {

Shape QweightShape(const QuantShape& s) { return {s.in_features * s.bits / 32, s.out_features}; }
Shape QzerosShape(const QuantShape& s) { return {s.groups, s.out_features * s.bits / 32}; }
Shape ScalesShape(const QuantShape& s) { return {s.groups, s.out_features}; }
Shape GroupIndexShape(const QuantShape& s) { return {s.in_features}; }

Grid QweightGrid(const QuantShape& s, uint64_t) { return {{Axis::kInputs, 32, s.bits}, {Axis::kOutputs, 1, 4}}; }
Grid QzerosGrid(const QuantShape& s, uint64_t) { return {{Axis::kGroups, 1, 1}, {Axis::kOutputs, 32, uint64_t{4} * s.bits}}; }
Grid ScalesGrid(const QuantShape&, uint64_t bytes) { return {{Axis::kGroups, 1, 1}, {Axis::kOutputs, 1, bytes}}; }
Grid GroupIndexGrid(const QuantShape&, uint64_t) { return {{Axis::kInputs, 1, 1}, {}}; }

// qweight is the canonical stream with its words laid out [words, out] instead of [out, words]:
// a transpose of 32-bit words, whatever the number of bits.
Status DecodeQweight(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->codes.resize(bytes.size() / 4);
  Transpose(bytes.data(), std::as_writable_bytes(std::span(linear->codes)).data(), s.WordsPerRow(), s.out_features, 4);
  return {};
}
Status EncodeQweight(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  Transpose(AsBytes(linear.codes).data(), out.data(), s.out_features, s.WordsPerRow(), 4);
  return {};
}

// v1 stores zero − 1 and v2 the zero itself. A v1 field of all ones means 0, as AutoGPTQ's own
// loader reads it (masked).
template <uint32_t kMinus>
Status DecodeQzeros(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const uint64_t row = s.out_features * s.bits / 8;
  linear->zeros.resize(s.groups * s.out_features);
  for (uint64_t g = 0; g < s.groups; ++g) UnpackFields(bytes.data() + g * row, 1, s.out_features, s.bits, kMinus, linear->zeros.data() + g * s.out_features);
  return {};
}
template <uint32_t kMinus>
Status EncodeQzeros(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const uint64_t row = s.out_features * s.bits / 8;
  for (uint64_t g = 0; g < s.groups; ++g) PackFields(linear.zeros.data() + g * s.out_features, s.out_features, s.bits, 0U - kMinus, out.data() + g * row, 1);
  return {};
}

Status DecodeScales(ByteView bytes, QuantLinear* linear) {
  linear->scales.assign(bytes.begin(), bytes.end());
  return {};
}
Status EncodeScales(const QuantLinear& linear, MutableBytes out) {
  std::copy(linear.scales.begin(), linear.scales.end(), out.begin());
  return {};
}

Status DecodeGroupIndex(ByteView bytes, QuantLinear* linear) {
  linear->group_index = WordsFrom<int32_t>(bytes);
  for (size_t k = 0; k < linear->group_index.size(); ++k) {
    const int32_t group = linear->group_index[k];
    if (group < 0 || static_cast<uint64_t>(group) >= linear->shape.groups) {
      return Malformed("quant-value", "g_idx of input {} is {}, expected 0 … {}", k, group, linear->shape.groups - 1);
    }
  }
  return {};
}
Status EncodeGroupIndex(const QuantLinear& linear, MutableBytes out) {
  const ByteView bytes = AsBytes(linear.group_index);
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return {};
}

constexpr PartCodec kQweightPart = {"qweight", kCodes, "words-by-input", Dtype::kI32, QweightShape, QweightGrid, DecodeQweight, EncodeQweight};
constexpr PartCodec kScalesPart = {"scales", kScales, "scales-by-group", std::nullopt, ScalesShape, ScalesGrid, DecodeScales, EncodeScales};
constexpr PartCodec kGroupIndexPart = {"g_idx", kGroupIndex, "group-index", Dtype::kI32, GroupIndexShape, GroupIndexGrid, DecodeGroupIndex, EncodeGroupIndex};

}  // namespace

const std::array<PartCodec, 4> kGptqV1Parts = {{
    kQweightPart, {"qzeros", kZeros, "zeros-minus-one", Dtype::kI32, QzerosShape, QzerosGrid, DecodeQzeros<1>, EncodeQzeros<1>}, kScalesPart, kGroupIndexPart}};
const std::array<PartCodec, 4> kGptqV2Parts = {{
    kQweightPart, {"qzeros", kZeros, "zeros-plain", Dtype::kI32, QzerosShape, QzerosGrid, DecodeQzeros<0>, EncodeQzeros<0>}, kScalesPart, kGroupIndexPart}};

std::vector<uint16_t> ReadZeroFields(ByteView qzeros, const QuantShape& s) {
  QuantLinear linear;
  linear.shape = s;
  (void)DecodeQzeros<0>(qzeros, &linear);  // every field is a value: nothing can fail
  return std::move(linear.zeros);
}

std::optional<std::string> GptqV2Refuses(const QuantTraits& traits) {
  const QuantShape& s = traits.shape;
  if (s.in_features % 32 == 0 && s.out_features % 32 == 0) return std::nullopt;
  return fmt::format("GPTQ needs inputs and outputs in multiples of 32, not {} and {}", s.in_features, s.out_features);
}

std::optional<std::string> GptqV1Refuses(const QuantTraits& traits) {
  if (std::optional<std::string> why = GptqV2Refuses(traits)) return why;
  if (traits.has_zero_0) return "it has zero points of 0, which GPTQ v1 cannot hold (it stores zero - 1)";
  return std::nullopt;
}

Result<std::optional<QuantShape>> DetectGptq(const std::string& name, uint64_t in_features, uint64_t out_features,
                                             std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* qweight = FindPart(parts, "qweight");
  const TensorInfo* qzeros = FindPart(parts, "qzeros");
  const TensorInfo* scales = FindPart(parts, "scales");
  const TensorInfo* g_idx = FindPart(parts, "g_idx");
  if (qweight == nullptr && qzeros == nullptr && scales == nullptr && g_idx == nullptr) return std::optional<QuantShape>();

  // qweight, qzeros and scales go together; g_idx alone may be absent.
  const auto present = [](const TensorInfo* part) { return part == nullptr ? "missing" : "present"; };
  if (qweight == nullptr || qzeros == nullptr || scales == nullptr) {
    return Malformed("quant-part", "linear '{}': qweight {}, qzeros {}, scales {}; expected all three", Escape(name), present(qweight), present(qzeros), present(scales));
  }
  const auto wrong = [](const TensorInfo& part, const Shape& expected, std::string_view why) { return WrongShape(part, expected, why, "gptq"); };
  for (const TensorInfo* part : {qweight, qzeros, g_idx}) {
    if (part == nullptr) continue;
    // AutoGPTQ and its relatives store int32; a g_idx of int64 was written by some hand-made tools.
    if (part->dtype != Dtype::kI32) {
      return Malformed("quant-dtype", "tensor '{}': dtype {}, expected I32; layout 'gptq'", Escape(part->name), NameOf(part->dtype));
    }
  }
  if (!IsFloat16Or32(scales->dtype)) {
    return Malformed("quant-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32; layout 'gptq'", Escape(scales->name), NameOf(scales->dtype));
  }
  if (qweight->shape.size() != 2 || qzeros->shape.size() != 2 || scales->shape.size() != 2) {
    const TensorInfo* odd = qweight->shape.size() != 2 ? qweight : qzeros->shape.size() != 2 ? qzeros : scales;
    return Malformed("quant-shape", "tensor '{}': shape {}, expected two dimensions; layout 'gptq'", Escape(odd->name), ShapeText(odd->shape));
  }
  QuantShape s;
  s.in_features = in_features;
  s.out_features = out_features;
  if (qweight->shape[1] != out_features || qweight->shape[0] == 0 || qweight->shape[0] * 32 % in_features != 0) {
    return wrong(*qweight, {in_features / 8, out_features}, fmt::format("{} inputs at 4 bits by {} outputs", in_features, out_features));
  }
  const uint64_t bits = qweight->shape[0] * 32 / in_features;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return wrong(*qweight, {in_features / 8, out_features}, fmt::format("{} inputs at 2, 3, 4 or 8 bits; this would be {}", in_features, bits));
  }
  s.bits = static_cast<uint32_t>(bits);
  s.groups = scales->shape[0];
  if (scales->shape[1] != out_features || s.groups == 0 || s.groups > in_features) {
    return wrong(*scales, {s.groups, out_features}, fmt::format("groups by {} outputs", out_features));
  }
  s.group_size = CeilDiv(in_features, s.groups);
  if (out_features * bits % 32 != 0 || qzeros->shape != QzerosShape(s)) {
    return wrong(*qzeros, QzerosShape(s), fmt::format("{} outputs, {} bits a code; '{}' has {} groups", out_features, bits, Escape(scales->name), s.groups));
  }
  if (g_idx != nullptr && g_idx->shape != GroupIndexShape(s)) return wrong(*g_idx, GroupIndexShape(s), "one entry an input");
  return std::optional<QuantShape>(s);
}

// Outputs are the columns; the zero fields of a group then show the bits, and these the inputs.
std::optional<LinearSizes> GptqSizes(std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* qweight = FindMatrix(parts, "qweight");
  const TensorInfo* qzeros = FindMatrix(parts, "qzeros");
  const TensorInfo* scales = FindMatrix(parts, "scales");
  if (qweight == nullptr || qzeros == nullptr || scales == nullptr || qweight->shape[1] != scales->shape[1]) return std::nullopt;
  const uint64_t out_features = scales->shape[1];
  const uint64_t bits = qzeros->shape[1] * 32 / out_features;
  if (bits == 0) return std::nullopt;
  return LinearSizes{qweight->shape[0] * 32 / bits, out_features};
}

}  // namespace q2c
