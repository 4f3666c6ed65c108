#include "verify/linear_tiles.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/base/text.h"
#include "verify/rounding.h"

namespace q2c {
namespace {

constexpr uint64_t kTileCodes = 1U << 20U;
constexpr uint64_t kTileWeights = 1U << 18U;  // floats are four times as large
constexpr uint64_t kStripParameters = 400'000;
constexpr uint64_t kStripOutputs = 512;

// Float matrices by dtype: dense, or in blocks of 32.
struct FloatLayout {
  Dtype dtype;
  std::string_view layout;
  uint64_t bits;
};
constexpr std::array<FloatLayout, 6> kFloatLayouts = {{{Dtype::kF16, "dense-fp16", 0}, {Dtype::kBF16, "dense-bf16", 0}, {Dtype::kF32, "dense-fp32", 0},
                                                       {Dtype::kQ4_0, "gguf-q4_0", 4}, {Dtype::kQ4_1, "gguf-q4_1", 4}, {Dtype::kQ8_0, "gguf-q8_0", 8}}};

// [rows][width] -> the given columns of each row.
template <typename T>
void TakeColumns(const std::vector<uint32_t>& columns, uint64_t width, std::vector<T>* values) {
  std::vector<T> taken;
  taken.reserve(values->size() / width * columns.size());
  for (auto row = values->begin(); row != values->end(); row += static_cast<std::ptrdiff_t>(width)) {
    for (const uint32_t column : columns) taken.push_back(row[column]);
  }
  *values = std::move(taken);
}

template <typename T>
void TakeRows(const std::vector<uint32_t>& rows, uint64_t width, std::vector<T>* values) {
  std::vector<T> taken;
  taken.reserve(rows.size() * width);
  for (const uint32_t row : rows) taken.insert(taken.end(), values->begin() + static_cast<std::ptrdiff_t>(row * width), values->begin() + static_cast<std::ptrdiff_t>((row + 1) * width));
  *values = std::move(taken);
}

StoredLinear StoredFloats(const Model& model, TensorIndex weight, uint64_t in_features, uint64_t out_features) {
  const TensorInfo& info = model.info(weight);
  const FloatLayout& layout = *std::ranges::find(kFloatLayouts, info.dtype, &FloatLayout::dtype);  // the model holds no other dtypes
  return {model.checkpoint, SplitPart(info.name).first, std::string(layout.layout), in_features, out_features, InfoOf(info.dtype).block, layout.bits, 0, 0};
}

}  // namespace

StoredLinear Stored(const Model& model, const Linear& linear) {
  StoredLinear stored;
  if (!linear.quantised()) {
    stored = StoredFloats(model, *linear.Part("weight"), linear.expected.in_features, linear.expected.out_features);
    stored.first_output = linear.rows.first;
    stored.stored_outputs = linear.rows.of;
    return stored;
  }
  const QuantShape& shape = linear.traits.shape;
  const TensorInfo& first = model.info(linear.parts.at(std::string(linear.layout->parts.front().suffix)));
  return {model.checkpoint, SplitPart(first.name).first, std::string(linear.layout->name), shape.in_features, shape.out_features, shape.group_size, shape.bits, linear.rows.first, linear.rows.of};
}

StoredLinear StoredMatrix(const Model& model, TensorIndex weight) {
  const Shape& shape = model.info(weight).shape;
  return StoredFloats(model, weight, shape[1], shape[0]);
}

uint64_t StripOutputs(uint64_t groups) {
  const uint64_t most = std::min(kStripParameters / groups, kStripOutputs);
  return std::max<uint64_t>(1, CeilDiv(most, kPanelOutputs)) * kPanelOutputs;
}

uint64_t TileInputs(uint64_t outputs, bool dense) { return std::max<uint64_t>(1, (dense ? kTileWeights : kTileCodes) / outputs / kInputUnit) * kInputUnit; }

bool LinearTiles::Reproduces(size_t i) const {
  if (parameters_.zeros[i] == kNoZero) return false;
  const double product = -NumberOf(parameters_.scales[i]) * parameters_.zeros[i];
  return RoundedTo(product, parameters_.offset_dtype) == NumberOf(parameters_.offsets[i]);
}

Status LinearTiles::Prepare() {
  whole_zeros_ = true;
  if (dense()) return {};
  const uint64_t strip = StripOutputs(groups());
  for (uint64_t first = 0; first < linear_.out_features; first += strip) {
    QC_TRY(ReadParameters(first, std::min(strip, linear_.out_features - first)));
    if (parameters_.offsets.empty()) return {};
    for (size_t i = 0; i < parameters_.offsets.size(); ++i) whole_zeros_ = whole_zeros_ && Reproduces(i);
  }
  return {};
}

// Those of the file, before any view.
Status LinearTiles::ReadParameters(uint64_t first_output, uint64_t outputs) {
  QC_ASSIGN(parameters_, ReferenceParametersOf(stored_, linear_.first_output + first_output, outputs));
  const auto groups = static_cast<int64_t>(parameters_.scales.size() / outputs);
  for (size_t k = 0; k < parameters_.group_index.size(); ++k) {
    const int64_t group = parameters_.group_index[k];
    if (group < 0 || group >= groups) return Malformed("quant-group", "linear '{}': input {} is in group {}, expected 0 to {}", Escape(linear_.name), k, group, groups - 1);
  }
  return {};
}

Status LinearTiles::ReadStrip(uint64_t first_output, uint64_t outputs) {
  tile_ = {0, 0, first_output, outputs};
  if (dense()) return {};
  const bool reorders = !view_.outputs.empty();
  QC_TRY(ReadParameters(first_output, reorders ? linear_.out_features : outputs));
  if (reorders) {
    TakeColumns(view_.outputs, linear_.out_features, &parameters_.zeros);
    TakeColumns(view_.outputs, linear_.out_features, &parameters_.scales);
    TakeColumns(view_.outputs, linear_.out_features, &parameters_.offsets);
  }
  if (!view_.inputs.empty()) TakeRows(view_.inputs, 1, &parameters_.group_index);
  return {};
}

Status LinearTiles::ReadTile(uint64_t first_input, uint64_t inputs) {
  tile_.first_input = first_input;
  tile_.inputs = inputs;
  ReferenceTile stored = tile_;
  stored.first_output += linear_.first_output;
  if (!view_.inputs.empty()) stored.inputs = linear_.in_features;
  if (!view_.outputs.empty()) stored.outputs = linear_.out_features;
  const auto renumber = [&](auto* values) {
    if (!view_.outputs.empty()) TakeColumns(view_.outputs, stored.outputs, values);
    if (!view_.inputs.empty()) TakeRows(view_.inputs, tile_.outputs, values);
  };
  if (dense()) {
    QC_TRY(ReferenceWeights(stored_, stored, &weights_));
    renumber(&weights_);
    return {};
  }
  QC_TRY(ReferenceCodes(stored_, stored, &codes_));
  renumber(&codes_);
  return {};
}

void LinearTiles::FillPanel(uint64_t column, uint64_t first, uint64_t inputs, float* panel, bool stored_offsets) const {
  const uint64_t outputs = tile_.outputs;
  const uint64_t count = std::min(kPanelOutputs, outputs - column);
  if (dense()) {
    for (uint64_t k = 0; k < inputs; ++k) {
      const float* in = weights_.data() + (first + k) * outputs + column;
      float* out = panel + k * kPanelOutputs;
      for (uint64_t n = 0; n < count; ++n) out[n] = in[n] + 0.0F;
      std::fill(out + count, out + kPanelOutputs, 0.0F);
    }
    return;
  }
  const bool zeros = whole_zeros_ && !(stored_offsets && !parameters_.offsets.empty());
  std::array<float, kPanelOutputs> scales = {};
  std::array<float, kPanelOutputs> others = {};  // zero points or offsets
  std::array<uint8_t, kPanelOutputs> narrow = {};
  for (uint64_t k = 0; k < inputs; ++k) {
    const uint64_t input = tile_.first_input + first + k;
    if (k == 0 || parameters_.group_index[input] != parameters_.group_index[input - 1]) {
      const uint64_t at = GroupOf(input) * outputs + column;
      for (uint64_t n = 0; n < count; ++n) {
        scales[n] = std::bit_cast<float>(parameters_.scales[at + n]);
        others[n] = zeros ? static_cast<float>(parameters_.zeros[at + n]) : std::bit_cast<float>(parameters_.offsets[at + n]);
      }
    }
    const uint8_t* codes = codes_.data() + (first + k) * outputs + column;
    if (count < kPanelOutputs) {
      std::copy_n(codes, count, narrow.data());
      codes = narrow.data();
    }
    (zeros ? Dequantise : DequantiseOffsets)(codes, scales.data(), others.data(), panel + k * kPanelOutputs);
  }
}

}  // namespace q2c
