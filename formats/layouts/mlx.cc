#include "formats/layouts/mlx.h"

#include "formats/layouts/compressed_tensors.h"
#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {
namespace {

// biases holds −scale · zero, [out, groups], so that weight = scale · code + bias.
Status DecodeBiases(ByteView bytes, QuantLinear* linear) {
  std::vector<std::byte> by_group(bytes.size());
  Transpose(bytes.data(), by_group.data(), linear->shape.out_features, linear->shape.groups, InfoOf(linear->scale_dtype).bits / 8);
  ZerosFromOffsets(by_group, linear->scale_dtype, linear);
  return {};
}
Status EncodeBiases(const QuantLinear& linear, MutableBytes out) {
  std::vector<std::byte> by_group(out.size());
  QC_TRY(OffsetsFromZeros(linear, linear.scale_dtype, by_group));
  Transpose(by_group.data(), out.data(), linear.shape.groups, linear.shape.out_features, InfoOf(linear.scale_dtype).bits / 8);
  return {};
}

}  // namespace

const std::array<PartCodec, 3> kMlxParts = {{
    {"weight", kCodes, "words-by-output", Dtype::kU32, WordsByOutputShape, WordsByOutputGrid, DecodeWordsByOutput, EncodeWordsByOutput},
    {"scales", kScales, "scales-by-output", std::nullopt, ScalesByOutputShape, ScalesByOutputGrid, DecodeScalesByOutput, EncodeScalesByOutput},
    {"biases", kZeros | kScales | kFromScales, "offsets-by-output", std::nullopt, ScalesByOutputShape, ScalesByOutputGrid, DecodeBiases, EncodeBiases}}};

std::optional<std::string> MlxRefuses(const QuantTraits& traits) {
  if (traits.shape.in_features % 32 == 0 && traits.shape.out_features % 32 == 0) return std::nullopt;
  return fmt::format("MLX needs inputs and outputs in multiples of 32, not {} and {}", traits.shape.in_features, traits.shape.out_features);
}

std::optional<std::string> MlxRounds(const QuantLinear& linear) { return OffsetsRound(linear, linear.scale_dtype); }

Result<std::optional<QuantShape>> DetectMlx(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* weight = FindPart(parts, "weight");
  const TensorInfo* scales = FindPart(parts, "scales");
  if (weight == nullptr || weight->dtype != Dtype::kU32) return std::optional<QuantShape>();
  if (scales == nullptr || scales->shape.size() != 2 || scales->shape[1] == 0) return Malformed("quant-part", "linear '{}': 'scales' is missing or has no two dimensions; layout 'mlx'", Escape(name));
  const uint64_t bits = weight->shape.size() == 2 && weight->shape[1] * 32 % in_features == 0 ? weight->shape[1] * 32 / in_features : 0;
  if (bits == 5 || bits == 6) return Refused("quant-bits", "linear '{}': {} bits, which this version does not read", Escape(name), bits);
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) return WrongShape(*weight, {out_features, in_features / 8}, fmt::format("{} outputs by {} inputs at 4 bits", out_features, in_features), "mlx");
  const QuantShape shape = ShapeOf(in_features, out_features, scales->shape[1], static_cast<uint32_t>(bits));
  QC_TRY(CheckParts(name, parts, kMlxParts, shape, "mlx"));
  return std::optional<QuantShape>(shape);
}

std::optional<LinearSizes> MlxSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  const TensorInfo* weight = FindMatrix(parts, "weight");
  if (weight == nullptr || weight->dtype != Dtype::kU32) return std::nullopt;
  return SizesByOutput(weight, FindMatrix(parts, "scales"), hints);
}

}  // namespace q2c
