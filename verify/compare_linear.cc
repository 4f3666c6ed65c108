#include <algorithm>
#include <cstring>

#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/reference.h"

namespace q2c {
namespace {

constexpr uint64_t kTileCodes = 1U << 22U;
constexpr uint64_t kTileWeights = 1U << 20U;       // floats are four times as large
constexpr uint64_t kStripParameters = 400'000;     // of each side
constexpr uint64_t kStripOutputs = 1024;
constexpr uint64_t kInputUnit = 640;               // whole words, blocks and squares in every layout

// What of the output was read and does not make sense was written wrongly.
Status Written(Status status, const ManifestLinear& linear) {
  if (status.ok() || status.error().code != Code::kMalformed) return status;
  return Mismatch("exact-linear", "linear '{}' was not written as '{}': {}", Escape(linear.name), Escape(linear.layout), status.error().message);
}

// Weights of one input as their source has them: scale · code + offset, exact in a double.
struct Row {
  std::vector<double> scales;
  std::vector<double> offsets;
};

class Comparison {
 public:
  Comparison(const Checkpoint& source, const Checkpoint& output, const ManifestLinear& linear, const CompareOptions& options, Measure* measure)
      : claim_(linear), options_(options), measure_(measure), rounded_(linear.exactness == "rounded"),
        source_{&source, linear.source, linear.source_layout, linear.in_features, linear.out_features, linear.source_group_size, linear.source_bits},
        output_{&output, linear.name, linear.layout, linear.in_features, linear.out_features, linear.bits == 0 ? linear.source_group_size : linear.group_size, linear.bits} {}

  Status Run() {
    const bool sizes = claim_.source_bits > 0 && claim_.source_bits <= 8 && claim_.bits <= 8 && claim_.source_group_size > 0 && claim_.out_features > 0 && claim_.in_features > 0;
    if (!sizes || (!Dense() && (claim_.group_size == 0 || (claim_.source_group_size % claim_.group_size != 0)))) {
      return Mismatch("exact-linear", "linear '{}' has no sensible shape in the manifest", Escape(claim_.name));
    }
    if (!rounded_ && claim_.exactness != "same-codes" && claim_.exactness != "same-values") {
      return Mismatch("exact-linear", "linear '{}' is said to be '{}', which means nothing", Escape(claim_.name), Escape(claim_.exactness));
    }
    const uint64_t groups = CeilDiv(claim_.in_features, std::min(claim_.source_group_size, output_.group_size));
    const uint64_t strip = std::clamp<uint64_t>(kStripParameters / groups, 1, kStripOutputs);
    for (uint64_t first = 0; StoresOffsets(claim_.source_layout) && first < claim_.out_features; first += strip) {
      QC_ASSIGN(a_, ReferenceParametersOf(source_, first, std::min(strip, claim_.out_features - first)));
      for (size_t i = 0; i < a_.offsets.size(); ++i) whole_zeros_ = whole_zeros_ && Reproduces(i);
    }
    for (uint64_t first = 0; first < claim_.out_features; first += strip) QC_TRY(RunStrip(first, std::min(strip, claim_.out_features - first)));
    return {};
  }

 private:
  bool Dense() const { return claim_.bits == 0; }

  Status RunStrip(uint64_t first_output, uint64_t outputs) {
    first_ = first_output;
    outputs_ = outputs;
    QC_ASSIGN(a_, ReferenceParametersOf(source_, first_output, outputs));
    QC_TRY(CheckSource());
    if (!Dense()) {
      Result<ReferenceParameters> written = ReferenceParametersOf(output_, first_output, outputs);
      if (!written.ok()) return Written(std::move(written).TakeError(), claim_);
      b_ = std::move(written).value();
      QC_TRY(MapGroups());
      QC_TRY(CompareParameters());
    }
    const uint64_t most = (Dense() ? kTileWeights : kTileCodes) / outputs;
    const uint64_t inputs = std::max<uint64_t>(1, most / kInputUnit) * kInputUnit;
    for (uint64_t k = 0; k < claim_.in_features; k += inputs) {
      if (options_.check_stop) QC_TRY(options_.check_stop());
      const ReferenceTile tile = {k, std::min(inputs, claim_.in_features - k), first_output, outputs};
      QC_TRY(Dense() ? CompareWeights(tile) : CompareCodes(tile));
      const uint64_t bits = !Dense() ? claim_.bits : claim_.layout == "dense-fp32" ? 32 : 16;
      if (options_.progress) options_.progress(tile.inputs * outputs * bits / 8);
    }
    return {};
  }

  // Every input must have a group, and a stored offset must speak of a zero point where the
  // output stores zero points or products with them.
  Status CheckSource() const {
    const auto groups = static_cast<int64_t>(a_.scales.size() / outputs_);
    for (size_t k = 0; k < a_.group_index.size(); ++k) {
      if (a_.group_index[k] < 0 || a_.group_index[k] >= groups) {
        return Malformed("quant-group", "linear '{}': input {} is in group {}, expected 0 to {}", Escape(claim_.source), k, a_.group_index[k], groups - 1);
      }
    }
    if (Dense() || StoresOffsets(claim_.layout)) return {};  // the offsets themselves count
    for (size_t i = 0; i < a_.offsets.size(); ++i) {
      if (a_.zeros[i] != kNoZero && (rounded_ || Reproduces(i))) continue;
      return Mismatch("exact-linear", "linear '{}': the offset of group {}, output {}, {} with scale {}, is no whole zero point, but was written as one", Escape(claim_.source),
                      i / outputs_, first_ + i % outputs_, NumberOf(a_.offsets[i]), NumberOf(a_.scales[i]));
    }
    return {};
  }

  static bool StoresOffsets(std::string_view layout) { return layout == "mlx" || layout == "gguf-q4_1" || layout == "awq-gemv-fast"; }
  bool Reproduces(size_t i) const {
    if (a_.zeros[i] == kNoZero) return false;
    const double product = -NumberOf(a_.scales[i]) * a_.zeros[i];
    return RoundedTo(product, a_.offset_dtype) == NumberOf(a_.offsets[i]);
  }

  // The source's group behind each group of the output, which every input must confirm.
  Status MapGroups() {
    const uint64_t size = claim_.group_size;
    const bool same = size == claim_.source_group_size;
    group_of_.resize(b_.scales.size() / outputs_);
    for (size_t h = 0; h < group_of_.size(); ++h) group_of_[h] = same ? h : static_cast<uint64_t>(a_.group_index[h * size]);
    for (uint64_t k = 0; k < claim_.in_features; ++k) {
      const int64_t from = a_.group_index[k];
      const int64_t to = b_.group_index[k];
      if (same ? to == from : to == static_cast<int64_t>(k / size) && group_of_[k / size] == static_cast<uint64_t>(from)) continue;
      return Mismatch("exact-linear", "linear '{}': input {} is in group {} in the source (groups of {}) and {} in what was written (groups of {})", Escape(claim_.name), k, from,
                      claim_.source_group_size, to, size);
    }
    return {};
  }

  template <typename T>
  Error Differ(std::string_view what, size_t at, T x, T y) const {
    return Mismatch("exact-linear", "linear '{}': {} of group {}, output {} is {} in the source and {} in what was written", Escape(claim_.name), what, at / outputs_, first_ + at % outputs_, x, y);
  }

  // Scales, and zero points or offsets, group by group of the output. Leaves in steps_ what is
  // between the zero points of both sides and must therefore be between their codes.
  Status CompareParameters() {
    steps_.assign(b_.scales.size(), 0);
    any_step_ = false;
    for (size_t j = 0; j < b_.scales.size(); ++j) {
      const size_t i = group_of_[j / outputs_] * outputs_ + j % outputs_;
      if (a_.scales[i] != b_.scales[j]) {
        const double rounded = RoundedTo(NumberOf(a_.scales[i]), b_.scale_dtype);
        if (!rounded_ || !std::isfinite(rounded) || FloatBits(rounded) != b_.scales[j]) return Differ("scale (float32 bits)", j, a_.scales[i], b_.scales[j]);
      }
      if (!b_.offsets.empty()) {
        QC_TRY(CompareOffset(i, j));
      } else if (a_.zeros[i] != b_.zeros[j]) {
        // Where the scale is zero an offset does not tell the zero point.
        const bool untold = !a_.offsets.empty() && NumberOf(a_.scales[i]) == 0;
        if (claim_.exactness == "same-codes") {
          if (untold) continue;
          return Differ("zero point", j, a_.zeros[i], b_.zeros[j]);
        }
        steps_[j] = static_cast<int16_t>(int{b_.zeros[j]} - int{a_.zeros[i]});
        any_step_ = true;
      }
    }
    return {};
  }

  Status CompareOffset(size_t i, size_t j) const {
    if (!a_.offsets.empty() && a_.offsets[i] == b_.offsets[j]) return {};
    if (a_.zeros[i] == kNoZero || (!rounded_ && !a_.offsets.empty() && !Reproduces(i))) return Differ("offset", j, NumberOf(a_.offsets[i]), NumberOf(b_.offsets[j]));
    // Of the scale as it was, or as it is now that it was rounded itself.
    double expected = 0;
    for (const uint32_t scale : {a_.scales[i], b_.scales[j]}) {
      const double product = -NumberOf(scale) * a_.zeros[i];
      expected = RoundedTo(product, b_.offset_dtype);
      // As numbers: the sign of a zero means nothing.
      if (std::isfinite(expected) && expected == NumberOf(b_.offsets[j]) && (rounded_ || expected == product)) return {};
    }
    return Mismatch("exact-linear", "linear '{}': offset of group {}, output {} is {}, expected {} for scale {} and zero point {}{}", Escape(claim_.name), j / outputs_, first_ + j % outputs_,
                    NumberOf(b_.offsets[j]), expected, NumberOf(a_.scales[i]), a_.zeros[i], rounded_ ? "" : ", exactly");
  }

  Status CompareCodes(const ReferenceTile& tile) {
    QC_TRY(ReferenceCodes(source_, tile, &x_));
    QC_TRY(Written(ReferenceCodes(output_, tile, &y_), claim_));
    if (any_step_ || x_ != y_) {
      for (uint64_t k = 0; k < tile.inputs; ++k) {
        const uint8_t* x = x_.data() + k * outputs_;
        const uint8_t* y = y_.data() + k * outputs_;
        const int16_t* step = steps_.data() + GroupOf(b_, tile.first_input + k) * outputs_;
        bool same = true;
        for (uint64_t n = 0; n < outputs_; ++n) same &= x[n] + step[n] == y[n];
        if (!same) return DifferentCode(tile, k);
      }
    }
    if (rounded_) MeasureCodes(tile);
    return {};
  }

  Error DifferentCode(const ReferenceTile& tile, uint64_t k) const {
    const uint64_t input = tile.first_input + k;
    uint64_t n = 0;
    const auto step = [&] { return int{steps_[GroupOf(b_, input) * outputs_ + n]}; };
    while (x_[k * outputs_ + n] + step() == y_[k * outputs_ + n]) ++n;
    const size_t at = k * outputs_ + n;
    if (step() == 0) {
      return Mismatch("exact-linear", "linear '{}': code of input {}, output {} is {} in the source and {} in what was written", Escape(claim_.name), input, first_ + n, x_[at], y_[at]);
    }
    const int zero = a_.zeros[GroupOf(a_, input) * outputs_ + n];
    return Mismatch("exact-linear", "linear '{}': code less zero point of input {}, output {} is {} in the source and {} in what was written", Escape(claim_.name), input, first_ + n, x_[at] - zero,
                    y_[at] - zero - step());
  }

  static uint64_t GroupOf(const ReferenceParameters& parameters, uint64_t input) { return static_cast<uint64_t>(parameters.group_index[input]); }

  bool Fills() const { return rounded_ || !a_.offsets.empty(); }

  // What the codes of one group are turned into. A source with an offset that is no product of
  // a whole zero point means its offsets, not zero points.
  void FillRow(const ReferenceParameters& p, uint64_t group, bool source, Row* row) const {
    row->scales.resize(outputs_);
    row->offsets.resize(outputs_);
    for (uint64_t n = 0; n < outputs_; ++n) {
      const size_t i = group * outputs_ + n;
      const bool stored = !p.offsets.empty() && (!source || !whole_zeros_);
      row->scales[n] = NumberOf(p.scales[i]);
      row->offsets[n] = stored ? NumberOf(p.offsets[i]) : -row->scales[n] * p.zeros[i];
    }
  }

  void MeasureCodes(const ReferenceTile& tile) {
    Row from;
    Row to;
    for (uint64_t k = 0; k < tile.inputs; ++k) {
      const uint64_t input = tile.first_input + k;
      if (k == 0 || a_.group_index[input] != a_.group_index[input - 1]) FillRow(a_, GroupOf(a_, input), true, &from);
      if (k == 0 || b_.group_index[input] != b_.group_index[input - 1]) FillRow(b_, GroupOf(b_, input), false, &to);
      const uint8_t* x = x_.data() + k * outputs_;
      const uint8_t* y = y_.data() + k * outputs_;
      Measure sum;
      for (uint64_t n = 0; n < outputs_; ++n) sum.Add(from.scales[n] * x[n] + from.offsets[n], to.scales[n] * y[n] + to.offsets[n]);
      measure_->Add(sum);
    }
  }

  // Dense: the product in float32, then one rounding.
  template <Dtype kDtype>
  Status CompareWeightsAs(const ReferenceTile& tile) {
    QC_TRY(ReferenceCodes(source_, tile, &x_));
    QC_TRY(Written(ReferenceWeights(output_, tile, &weights_), claim_));
    Row row;
    for (uint64_t k = 0; k < tile.inputs; ++k) {
      const uint64_t input = tile.first_input + k;
      const uint64_t group = GroupOf(a_, input);
      const uint8_t* x = x_.data() + k * outputs_;
      const float* y = weights_.data() + k * outputs_;
      const uint32_t* scales = a_.scales.data() + group * outputs_;
      const uint16_t* zeros = a_.zeros.data() + group * outputs_;
      if (Fills() && (k == 0 || a_.group_index[input] != a_.group_index[input - 1])) FillRow(a_, group, true, &row);
      for (uint64_t n = 0; n < outputs_; ++n) {
        const float product = whole_zeros_ ? std::bit_cast<float>(scales[n]) * static_cast<float>(int{x[n]} - int{zeros[n]}) : static_cast<float>(row.scales[n] * x[n] + row.offsets[n]);
        const double expected = rounded_ ? RoundedTo(product, kDtype) : product;
        const bool same = FloatBits(expected) == std::bit_cast<uint32_t>(y[n]) && (std::isfinite(expected) || !std::isfinite(product));
        if (!same && !(std::isnan(product) && std::isnan(y[n]))) {
          return Mismatch("exact-linear", "linear '{}': weight of input {}, output {} is {} in the source and {} in what was written{}", Escape(claim_.name), input, first_ + n, product, y[n],
                          rounded_ ? fmt::format(", expected {}", expected) : "");
        }
      }
      if (!rounded_) continue;
      Measure sum;
      for (uint64_t n = 0; n < outputs_; ++n) sum.Add(row.scales[n] * x[n] + row.offsets[n], y[n]);
      measure_->Add(sum);
    }
    return {};
  }

  Status CompareWeights(const ReferenceTile& tile) {
    if (claim_.layout == "dense-fp16") return CompareWeightsAs<Dtype::kF16>(tile);
    if (claim_.layout == "dense-bf16") return CompareWeightsAs<Dtype::kBF16>(tile);
    return CompareWeightsAs<Dtype::kF32>(tile);
  }

  const ManifestLinear& claim_;
  const CompareOptions& options_;
  Measure* measure_;
  bool rounded_;
  StoredLinear source_;
  StoredLinear output_;
  // Of the strip of outputs at hand.
  uint64_t first_ = 0;
  uint64_t outputs_ = 0;
  ReferenceParameters a_;
  ReferenceParameters b_;
  std::vector<uint64_t> group_of_;
  bool whole_zeros_ = true;     // every offset of the source, if it stores any, is that of a whole zero point
  std::vector<int16_t> steps_;  // [groups of the output, outputs_]
  bool any_step_ = false;
  std::vector<uint8_t> x_;
  std::vector<uint8_t> y_;
  std::vector<float> weights_;
};

}  // namespace

Status CompareLinear(const Checkpoint& source, const Checkpoint& output, const ManifestLinear& linear, const CompareOptions& options, Measure* measure) {
  return Comparison(source, output, linear, options, measure).Run();
}

}  // namespace q2c
