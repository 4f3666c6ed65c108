#include "verify/reference.h"

#include <algorithm>
#include <array>
#include <bit>

#include "formats/base/half.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

// Where a code or a zero field lies, layout by layout (see formats/layouts/*.md).
struct Description {
  std::string_view layout;
  // Added to a stored zero field, then taken modulo 2^bits.
  uint32_t zero_offset;
};
constexpr std::array kDescriptions = {
    Description{"gptq-v1", 1},
    Description{"gptq-v2", 0},
};

Result<const Description*> Describe(const StoredLinear& linear) {
  const auto found = std::ranges::find(kDescriptions, linear.layout, &Description::layout);
  if (found == kDescriptions.end()) return MakeError(Code::kNotRun, "layout", "layout '{}' has no reference description", Escape(linear.layout));
  return &*found;
}

Result<const TensorInfo*> Part(const StoredLinear& linear, std::string_view suffix) {
  const std::string name = fmt::format("{}.{}", linear.name, suffix);
  const TensorInfo* tensor = linear.checkpoint->Find(name);
  if (tensor == nullptr) return Malformed("tensor-missing", "tensor '{}' is missing", Escape(name));
  return tensor;
}

}  // namespace

Status ReferenceCodes(const StoredLinear& linear, uint64_t first_input, uint64_t inputs, std::vector<uint8_t>* codes) {
  QC_TRY(Describe(linear));
  QC_ASSIGN(const TensorInfo* qweight, Part(linear, "qweight"));
  const uint64_t outputs = linear.out_features;
  const uint64_t bits = linear.bits;
  const Shape expected = {linear.in_features * bits / 32, outputs};
  if (qweight->shape != expected) return Malformed("quant-shape", "tensor '{}': shape {}, expected {}", Escape(qweight->name), ShapeText(qweight->shape), ShapeText(expected));
  // Column n is a bit stream down the rows; 32 inputs begin and end on a word.
  const uint64_t first_row = first_input * bits / 32;
  const uint64_t rows = inputs * bits / 32;
  std::vector<std::byte> bytes(4 * rows * outputs);
  QC_TRY(linear.checkpoint->Read(*qweight, 4 * first_row * outputs, bytes));
  codes->resize(inputs * outputs);
  const auto mask = static_cast<uint32_t>((1U << bits) - 1);
  for (uint64_t k = 0; k < inputs; ++k) {
    const uint64_t bit = k * bits;
    const std::byte* low = bytes.data() + 4 * (bit / 32) * outputs;
    const auto shift = static_cast<uint32_t>(bit % 32);
    uint8_t* out = codes->data() + k * outputs;
    if (shift + bits <= 32) {
      for (uint64_t n = 0; n < outputs; ++n) out[n] = static_cast<uint8_t>((Load<uint32_t>(low + 4 * n) >> shift) & mask);
    } else {
      const std::byte* high = low + 4 * outputs;
      for (uint64_t n = 0; n < outputs; ++n) {
        const uint64_t both = uint64_t{Load<uint32_t>(low + 4 * n)} | uint64_t{Load<uint32_t>(high + 4 * n)} << 32U;
        out[n] = static_cast<uint8_t>((both >> shift) & mask);
      }
    }
  }
  return {};
}

Result<ReferenceParameters> ReferenceParametersOf(const StoredLinear& linear) {
  QC_ASSIGN(const Description* description, Describe(linear));
  QC_ASSIGN(const TensorInfo* qzeros, Part(linear, "qzeros"));
  QC_ASSIGN(const TensorInfo* scales, Part(linear, "scales"));
  ReferenceParameters parameters;
  const uint64_t outputs = linear.out_features;
  const uint64_t groups = CeilDiv(linear.in_features, linear.group_size);
  if (scales->shape != Shape{groups, outputs} || qzeros->shape != Shape{groups, outputs * linear.bits / 32}) {
    return Malformed("quant-shape", "linear '{}': scales {} and qzeros {}, expected {} groups of {} outputs", Escape(linear.name), ShapeText(scales->shape), ShapeText(qzeros->shape), groups, outputs);
  }
  QC_ASSIGN(parameters.scales, WidenedBits(*linear.checkpoint, *scales));
  QC_ASSIGN(const std::vector<std::byte> fields, linear.checkpoint->ReadWhole(*qzeros));
  parameters.zeros.resize(groups * outputs);
  const uint64_t row_bits = outputs * linear.bits;
  for (uint64_t g = 0; g < groups; ++g) {
    for (uint64_t n = 0; n < outputs; ++n) {
      uint32_t field = 0;
      for (uint64_t b = 0; b < linear.bits; ++b) {
        const uint64_t at = g * row_bits + n * linear.bits + b;
        const auto byte = std::to_integer<uint32_t>(fields[at / 8]);
        field |= ((byte >> (at % 8)) & 1U) << b;
      }
      parameters.zeros[g * outputs + n] = static_cast<uint16_t>((field + description->zero_offset) % (1U << linear.bits));
    }
  }
  parameters.group_index.resize(linear.in_features);
  const TensorInfo* g_idx = linear.checkpoint->Find(linear.name + ".g_idx");
  if (g_idx == nullptr) {
    for (uint64_t k = 0; k < linear.in_features; ++k) parameters.group_index[k] = static_cast<int64_t>(k / linear.group_size);
  } else {
    QC_ASSIGN(const std::vector<std::byte> bytes, linear.checkpoint->ReadWhole(*g_idx));
    if (g_idx->dtype != Dtype::kI32 || bytes.size() != 4 * linear.in_features) return Malformed("quant-shape", "tensor '{}': expected one int32 an input", Escape(g_idx->name));
    for (uint64_t k = 0; k < linear.in_features; ++k) parameters.group_index[k] = Load<int32_t>(bytes.data() + 4 * k);
  }
  return parameters;
}

Result<std::vector<uint32_t>> WidenedBits(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  QC_ASSIGN(const std::vector<std::byte> bytes, checkpoint.ReadWhole(tensor));
  if (tensor.dtype == Dtype::kF32) return WordsFrom<uint32_t>(bytes);
  if (tensor.dtype != Dtype::kF16 && tensor.dtype != Dtype::kBF16) {
    return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected a float", Escape(tensor.name), NameOf(tensor.dtype));
  }
  std::vector<uint32_t> out(bytes.size() / 2);
  for (size_t i = 0; i < out.size(); ++i) {
    const auto half = Load<uint16_t>(bytes.data() + 2 * i);
    out[i] = std::bit_cast<uint32_t>(tensor.dtype == Dtype::kF16 ? HalfToFloat(half) : BfloatToFloat(half));
  }
  return out;
}

}  // namespace q2c
