#include "verify/reference.h"

#include <algorithm>
#include <array>
#include <bit>

#include "formats/base/text.h"
#include "verify/reference_parts.h"

namespace q2c {
namespace {

constexpr auto kGptq = std::to_array<std::string_view>({"qweight", "qzeros", "scales", "g_idx"});
constexpr auto kCompressed = std::to_array<std::string_view>({"weight_packed", "weight_scale", "weight_zero_point", "weight_shape"});
constexpr auto kAwq = std::to_array<std::string_view>({"qweight", "qzeros", "scales"});
constexpr auto kMarlin = std::to_array<std::string_view>({"B", "s"});
constexpr auto kMlx = std::to_array<std::string_view>({"weight", "scales", "biases"});
constexpr auto kWeight = std::to_array<std::string_view>({"weight"});

// Where things lie, layout by layout.
struct Description {
  std::string_view layout;
  std::span<const std::string_view> parts;
  uint64_t bits = 0;  // the only width that it has; 0: several
  CodesFn codes = nullptr;
  ParametersFn parameters = nullptr;
  Dtype dense = Dtype::kF32;  // of a layout without codes
};
const std::array kDescriptions = {
    Description{"gptq-v1", kGptq, 0, GptqCodes, GptqV1Parameters},
    Description{"gptq-v2", kGptq, 0, GptqCodes, GptqV2Parameters},
    Description{"compressed-tensors", kCompressed, 0, CompressedCodes, CompressedParameters},
    Description{"compressed-tensors-2025", kCompressed, 0, PaddedCompressedCodes, PaddedCompressedParameters},
    Description{"awq-gemm", kAwq, 4, AwqGemmCodes, AwqGemmParameters},
    Description{"awq-gemv", kAwq, 4, AwqGemvCodes, AwqGemvParameters},
    Description{"awq-gemv-fast", kAwq, 4, AwqFastCodes, AwqFastParameters},
    Description{"marlin", kMarlin, 4, MarlinCodes, MarlinParameters},
    Description{"mlx", kMlx, 0, MlxCodes, MlxParameters},
    Description{"gguf-q4_0", kWeight, 4, Q4Codes, BlockParameters},
    Description{"gguf-q4_1", kWeight, 4, Q4Codes, BlockParameters},
    Description{"gguf-q8_0", kWeight, 8, Q8Codes, BlockParameters},
    Description{"dense-fp16", kWeight, 0, nullptr, nullptr, Dtype::kF16},
    Description{"dense-bf16", kWeight, 0, nullptr, nullptr, Dtype::kBF16},
    Description{"dense-fp32", kWeight, 0, nullptr, nullptr, Dtype::kF32},
};

const Description* FindDescription(std::string_view layout) {
  const auto found = std::ranges::find(kDescriptions, layout, &Description::layout);
  return found == kDescriptions.end() ? nullptr : &*found;
}

// The description of a linear whose numbers make sense to it.
Result<const Description*> Describe(const StoredLinear& linear, bool dense) {
  constexpr uint64_t kMost = uint64_t{1} << 32U;  // so that no product below overflows
  const Description* description = FindDescription(linear.layout);
  if (description == nullptr) return MakeError(Code::kNotRun, "layout", "layout '{}' has no reference description", Escape(linear.layout));
  const bool sizes = linear.in_features > 0 && linear.in_features <= kMost && linear.out_features > 0 && linear.out_features <= kMost;
  const bool width = dense ? linear.bits == 0 : linear.bits > 0 && linear.bits <= 8 && linear.group_size > 0 && linear.group_size <= kMost;
  const bool known = (description->codes == nullptr) == dense && (description->bits == 0 || description->bits == linear.bits);
  if (sizes && width && known) return description;
  return Malformed("quant-shape", "linear '{}': {} inputs, {} outputs, groups of {}, {} bits do not exist in layout '{}'", Escape(linear.name), linear.in_features, linear.out_features,
                   linear.group_size, linear.bits, linear.layout);
}

Status CheckTile(const StoredLinear& linear, const ReferenceTile& tile) {
  const auto within = [](uint64_t first, uint64_t count, uint64_t all) { return count > 0 && first < all && count <= all - first; };
  if (within(tile.first_input, tile.inputs, linear.in_features) && within(tile.first_output, tile.outputs, linear.out_features)) return {};
  return Internal("linear '{}': a tile lies outside of it", Escape(linear.name));
}

}  // namespace

std::span<const std::string_view> ReferenceParts(std::string_view layout) {
  const Description* description = FindDescription(layout);
  return description == nullptr ? std::span<const std::string_view>() : description->parts;
}

Status ReferenceCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  QC_ASSIGN(const Description* description, Describe(linear, false));
  QC_TRY(CheckTile(linear, tile));
  return description->codes(linear, tile, codes);
}

Status ReferenceWeights(const StoredLinear& linear, const ReferenceTile& tile, std::vector<float>* weights) {
  QC_ASSIGN(const Description* description, Describe(linear, true));
  QC_TRY(CheckTile(linear, tile));
  // GGUF writes [1, n] as [n].
  const TensorInfo* stored = FindPart(linear, "weight");
  const bool row = stored != nullptr && linear.out_features == 1 && stored->shape.size() == 1;
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "weight", {description->dense}, row ? Shape{linear.in_features} : Shape{linear.out_features, linear.in_features}));
  QC_ASSIGN(const std::vector<uint32_t> rows, ReadFloats(linear, *tensor, {tile.first_output, tile.outputs, tile.first_input, tile.inputs}));
  const std::vector<uint32_t> columns = Transposed(rows, tile.outputs, tile.inputs);
  weights->resize(columns.size());
  std::ranges::transform(columns, weights->begin(), [](uint32_t bits) { return std::bit_cast<float>(bits); });
  return {};
}

Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear, uint64_t first_output, uint64_t outputs) {
  QC_ASSIGN(const Description* description, Describe(linear, false));
  QC_TRY(CheckTile(linear, {0, linear.in_features, first_output, outputs}));
  ReferenceParameters parameters;
  QC_TRY(description->parameters(linear, {first_output, outputs}, &parameters));
  if (parameters.group_index.empty()) {
    parameters.group_index.resize(linear.in_features);
    for (uint64_t k = 0; k < linear.in_features; ++k) parameters.group_index[k] = static_cast<int64_t>(k / linear.group_size);
  }
  return parameters;
}

Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear) { return ReferenceParametersOf(linear, 0, linear.out_features); }

}  // namespace q2c
