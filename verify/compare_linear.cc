#include <algorithm>
#include <cstring>

#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/reference.h"

namespace q2c {
namespace {

// Weights of one input as their source has them: scale · code + offset, exact in a double.
struct Row {
  std::vector<double> scales;
  std::vector<double> offsets;
};

class LinearComparison final : public TileCheck {
 public:
  LinearComparison(const ManifestLinear& linear, Measure* measure) : claim_(linear), measure_(measure), rounded_(linear.exactness == "rounded") {}

  Status Strip(const LinearTiles& source, const LinearTiles& output) override {
    source_ = &source;
    output_ = &output;
    first_ = source.tile().first_output;
    outputs_ = source.tile().outputs;
    QC_TRY(CheckSource());
    if (Dense()) return {};
    QC_TRY(MapGroups());
    return CompareParameters();
  }

  Status Tile(const LinearTiles&, const LinearTiles&) override { return Dense() ? CompareWeights() : CompareCodes(); }

 private:
  bool Dense() const { return claim_.bits == 0; }
  const ReferenceParameters& A() const { return source_->parameters(); }
  const ReferenceParameters& B() const { return output_->parameters(); }

  // A stored offset must speak of a zero point where the output stores zero points or products
  // with them.
  Status CheckSource() const {
    if (Dense() || StoresOffsets(claim_.layout)) return {};  // the offsets themselves count
    for (size_t i = 0; i < A().offsets.size(); ++i) {
      if (A().zeros[i] != kNoZero && (rounded_ || Reproduces(i))) continue;
      return Mismatch("exact-linear", "linear '{}': the offset of group {}, output {}, {} with scale {}, is no whole zero point, but was written as one", Escape(claim_.source),
                      i / outputs_, first_ + i % outputs_, NumberOf(A().offsets[i]), NumberOf(A().scales[i]));
    }
    return {};
  }

  static bool StoresOffsets(std::string_view layout) { return layout == "mlx" || layout == "gguf-q4_1" || layout == "awq-gemv-fast"; }
  bool Reproduces(size_t i) const { return source_->Reproduces(i); }

  // The source's group behind each group of the output, which every input must confirm.
  Status MapGroups() {
    const uint64_t size = claim_.group_size;
    const bool same = size == claim_.source_group_size;
    constexpr uint64_t kNone = UINT64_MAX;
    group_of_.assign(B().scales.size() / outputs_, kNone);
    for (size_t g = 0; same && g < group_of_.size(); ++g) group_of_[g] = g;
    for (uint64_t k = 0; k < claim_.in_features; ++k) {
      const int64_t from = A().group_index[k];
      const int64_t to = B().group_index[k];
      uint64_t& known = group_of_[static_cast<size_t>(to)];
      if (known == kNone) known = static_cast<uint64_t>(from);
      // Split groups follow each other; reordered channels have no place of their own to be held against.
      const bool placed = same ? to == from : !claim_.order_of.empty() || to == static_cast<int64_t>(k / size);
      if ((placed || claim_.Padded()) && known == static_cast<uint64_t>(from)) continue;
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
    steps_.assign(B().scales.size(), 0);
    any_step_ = false;
    for (size_t j = 0; j < B().scales.size(); ++j) {
      if (group_of_[j / outputs_] >= A().scales.size() / outputs_) continue;  // a group of padding, which has been seen to be zero
      const size_t i = group_of_[j / outputs_] * outputs_ + j % outputs_;
      if (A().scales[i] != B().scales[j]) {
        const double rounded = RoundedTo(NumberOf(A().scales[i]), B().scale_dtype);
        if (!rounded_ || !std::isfinite(rounded) || FloatBits(rounded) != B().scales[j]) return Differ("scale (float32 bits)", j, A().scales[i], B().scales[j]);
      }
      if (!B().offsets.empty()) {
        QC_TRY(CompareOffset(i, j));
      } else if (A().zeros[i] != B().zeros[j]) {
        // Where the scale is zero an offset does not tell the zero point.
        const bool untold = !A().offsets.empty() && NumberOf(A().scales[i]) == 0;
        if (claim_.exactness == "same-codes") {
          if (untold) continue;
          return Differ("zero point", j, A().zeros[i], B().zeros[j]);
        }
        steps_[j] = static_cast<int16_t>(int{B().zeros[j]} - int{A().zeros[i]});
        any_step_ = true;
      }
    }
    return {};
  }

  Status CompareOffset(size_t i, size_t j) const {
    if (!A().offsets.empty() && A().offsets[i] == B().offsets[j]) return {};
    if (A().zeros[i] == kNoZero || (!rounded_ && !A().offsets.empty() && !Reproduces(i))) return Differ("offset", j, NumberOf(A().offsets[i]), NumberOf(B().offsets[j]));
    // Of the scale as it was, or as it is now that it was rounded itself.
    double expected = 0;
    for (const uint32_t scale : {A().scales[i], B().scales[j]}) {
      const double product = -NumberOf(scale) * A().zeros[i];
      expected = RoundedTo(product, B().offset_dtype);
      // As numbers: the sign of a zero means nothing.
      if (std::isfinite(expected) && expected == NumberOf(B().offsets[j]) && (rounded_ || expected == product)) return {};
    }
    return Mismatch("exact-linear", "linear '{}': offset of group {}, output {} is {}, expected {} for scale {} and zero point {}{}", Escape(claim_.name), j / outputs_, first_ + j % outputs_,
                    NumberOf(B().offsets[j]), expected, NumberOf(A().scales[i]), A().zeros[i], rounded_ ? "" : ", exactly");
  }

  Status CompareCodes() {
    const ReferenceTile& tile = source_->tile();
    const std::vector<uint8_t>& before = source_->codes();
    const std::vector<uint8_t>& after = output_->codes();
    if (any_step_ || before != after) {
      for (uint64_t k = 0; k < tile.inputs; ++k) {
        const uint8_t* x = before.data() + k * outputs_;
        const uint8_t* y = after.data() + k * outputs_;
        const int16_t* step = steps_.data() + GroupOf(B(), tile.first_input + k) * outputs_;
        bool same = true;
        for (uint64_t n = 0; n < outputs_; ++n) same &= x[n] + step[n] == y[n];
        if (!same) return DifferentCode(tile, k);
      }
    }
    if (rounded_) MeasureCodes(tile);
    return {};
  }

  Error DifferentCode(const ReferenceTile& tile, uint64_t k) const {
    const std::vector<uint8_t>& before = source_->codes();
    const std::vector<uint8_t>& after = output_->codes();
    const uint64_t input = tile.first_input + k;
    uint64_t n = 0;
    const auto step = [&] { return int{steps_[GroupOf(B(), input) * outputs_ + n]}; };
    while (before[k * outputs_ + n] + step() == after[k * outputs_ + n]) ++n;
    const size_t at = k * outputs_ + n;
    if (step() == 0) {
      return Mismatch("exact-linear", "linear '{}': code of input {}, output {} is {} in the source and {} in what was written", Escape(claim_.name), input, first_ + n, before[at], after[at]);
    }
    const int zero = A().zeros[GroupOf(A(), input) * outputs_ + n];
    return Mismatch("exact-linear", "linear '{}': code less zero point of input {}, output {} is {} in the source and {} in what was written", Escape(claim_.name), input, first_ + n, before[at] - zero,
                    after[at] - zero - step());
  }

  static uint64_t GroupOf(const ReferenceParameters& parameters, uint64_t input) { return static_cast<uint64_t>(parameters.group_index[input]); }

  bool Fills() const { return rounded_ || !A().offsets.empty(); }

  // What the codes of one group are turned into. A source with an offset that is no product of
  // a whole zero point means its offsets, not zero points.
  void FillRow(const ReferenceParameters& p, uint64_t group, bool source, Row* row) const {
    row->scales.resize(outputs_);
    row->offsets.resize(outputs_);
    for (uint64_t n = 0; n < outputs_; ++n) {
      const size_t i = group * outputs_ + n;
      const bool stored = !p.offsets.empty() && (!source || !source_->whole_zeros());
      row->scales[n] = NumberOf(p.scales[i]);
      row->offsets[n] = stored ? NumberOf(p.offsets[i]) : -row->scales[n] * p.zeros[i];
    }
  }

  void MeasureCodes(const ReferenceTile& tile) {
    const std::vector<uint8_t>& before = source_->codes();
    const std::vector<uint8_t>& after = output_->codes();
    Row from;
    Row to;
    for (uint64_t k = 0; k < tile.inputs; ++k) {
      const uint64_t input = tile.first_input + k;
      if (k == 0 || A().group_index[input] != A().group_index[input - 1]) FillRow(A(), GroupOf(A(), input), true, &from);
      if (k == 0 || B().group_index[input] != B().group_index[input - 1]) FillRow(B(), GroupOf(B(), input), false, &to);
      const uint8_t* x = before.data() + k * outputs_;
      const uint8_t* y = after.data() + k * outputs_;
      Measure sum;
      for (uint64_t n = 0; n < outputs_; ++n) sum.Add(from.scales[n] * x[n] + from.offsets[n], to.scales[n] * y[n] + to.offsets[n]);
      measure_->Add(sum);
    }
  }

  // Dense: the product in float32, then one rounding.
  template <Dtype kDtype>
  Status CompareWeightsAs() {
    const ReferenceTile& tile = source_->tile();
    const std::vector<uint8_t>& before = source_->codes();
    const std::vector<float>& weights = output_->dense_weights();
    Row row;
    for (uint64_t k = 0; k < tile.inputs; ++k) {
      const uint64_t input = tile.first_input + k;
      const uint64_t group = GroupOf(A(), input);
      const uint8_t* x = before.data() + k * outputs_;
      const float* y = weights.data() + k * outputs_;
      const uint32_t* scales = A().scales.data() + group * outputs_;
      const uint16_t* zeros = A().zeros.data() + group * outputs_;
      if (Fills() && (k == 0 || A().group_index[input] != A().group_index[input - 1])) FillRow(A(), group, true, &row);
      for (uint64_t n = 0; n < outputs_; ++n) {
        const float product = source_->whole_zeros() ? std::bit_cast<float>(scales[n]) * static_cast<float>(int{x[n]} - int{zeros[n]}) : static_cast<float>(row.scales[n] * x[n] + row.offsets[n]);
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

  Status CompareWeights() {
    if (claim_.layout == "dense-fp16") return CompareWeightsAs<Dtype::kF16>();
    if (claim_.layout == "dense-bf16") return CompareWeightsAs<Dtype::kBF16>();
    return CompareWeightsAs<Dtype::kF32>();
  }

  const ManifestLinear& claim_;
  Measure* measure_;
  bool rounded_;
  // Of the strip of outputs at hand.
  const LinearTiles* source_ = nullptr;
  const LinearTiles* output_ = nullptr;
  uint64_t first_ = 0;
  uint64_t outputs_ = 0;
  std::vector<uint64_t> group_of_;
  std::vector<int16_t> steps_;  // [groups of the output, outputs_]
  bool any_step_ = false;
};

}  // namespace

Status CheckClaim(const ManifestLinear& claim) {
  const bool sizes = claim.source_bits > 0 && claim.source_bits <= 8 && claim.bits <= 8 && claim.source_group_size > 0 && claim.out_features > 0 && claim.in_features > 0;
  if (!sizes || (claim.bits != 0 && (claim.group_size == 0 || (claim.source_group_size % claim.group_size != 0 && !(claim.Padded() && claim.group_size == claim.OutputInputs()))))) {
    return Mismatch("exact-linear", "linear '{}' has no sensible shape in the manifest", Escape(claim.name));
  }
  if (claim.exactness != "rounded" && claim.exactness != "same-codes" && claim.exactness != "same-values") {
    return Mismatch("exact-linear", "linear '{}' is said to be '{}', which means nothing", Escape(claim.name), Escape(claim.exactness));
  }
  return {};
}

std::unique_ptr<TileCheck> CompareLinear(const ManifestLinear& claim, Measure* measure) { return std::make_unique<LinearComparison>(claim, measure); }

}  // namespace q2c
