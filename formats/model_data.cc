#include "formats/model_data.h"

#include <algorithm>

#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/layouts/gptq.h"

namespace q2c {
namespace {

// Samples codes in units of 32 inputs, which are whole words at every width.
Status SampleCodes(const Model& model, const Linear& linear, const std::vector<uint16_t>& fields, ZeroSample* sample) {
  constexpr uint64_t kUnits = 4;
  constexpr uint64_t kColumns = 2048;
  const QuantShape& s = linear.traits.shape;
  const TensorInfo& qweight = model.info(*linear.Part("qweight"));
  const uint64_t units = s.in_features / 32;
  if (units == 0) return {};
  std::vector<int32_t> group_index;
  if (linear.traits.act_order) {
    QC_ASSIGN(QuantLinear decoded, DecodeLinear(model, linear, kGroupIndex));
    group_index = std::move(decoded.group_index);
  }
  const uint64_t columns = std::min(kColumns, s.out_features);
  const uint64_t stored_columns = linear.StoredOutputs();
  const auto all_ones = static_cast<uint16_t>(s.MaxCode());
  std::vector<std::byte> rows(4 * columns * s.bits);
  double sum = 0;
  uint64_t count = 0;
  for (uint64_t i = 0; i < std::min(kUnits, units); ++i) {
    const uint64_t unit = i * units / std::min(kUnits, units);
    for (uint64_t r = 0; r < s.bits; ++r) {
      const uint64_t word = (unit * s.bits + r) * stored_columns + linear.rows.first;
      QC_TRY(model.checkpoint->Read(qweight, 4 * word, MutableBytes(rows).subspan(4 * columns * r, 4 * columns)));
    }
    for (uint64_t n = 0; n < columns; ++n) {
      uint64_t pending = 0;
      uint32_t have = 0;
      uint64_t r = 0;
      for (uint64_t j = 0; j < 32; ++j) {
        if (have < s.bits) {
          pending |= uint64_t{Load<uint32_t>(rows.data() + 4 * (r * columns + n))} << have;
          ++r;
          have += 32;
        }
        const auto code = static_cast<double>(pending & s.MaxCode());
        pending >>= s.bits;
        have -= s.bits;
        const uint64_t k = unit * 32 + j;
        const uint64_t group = group_index.empty() ? k / s.group_size : static_cast<uint64_t>(group_index[k]);
        const uint16_t field = fields[group * s.out_features + n];
        if (field == all_ones) continue;
        sum += code - field;
        ++count;
      }
    }
  }
  sample->codes = count;
  sample->mean = count == 0 ? 0 : sum / static_cast<double>(count);
  return {};
}

// The scales and what is computed from them, where they lie in tensors of their own. (Scales
// inside blocks are checked when the blocks are decoded.)
Status CheckScales(const Model& model, const TensorInfo& scales) {
  // An exponent of all ones is NaN or infinity.
  const uint32_t exponent = scales.dtype == Dtype::kF16 ? 0x7C00U : scales.dtype == Dtype::kBF16 ? 0x7F80U : 0x7F800000U;
  bool finite = true;
  QC_TRY(model.checkpoint->Stream(scales, [&](ByteView piece) -> Status {
    uint32_t bad = 0;
    if (scales.dtype == Dtype::kF32) {
      for (size_t i = 0; i + 4 <= piece.size(); i += 4) bad |= static_cast<uint32_t>((Load<uint32_t>(piece.data() + i) & exponent) == exponent);
    } else {
      for (size_t i = 0; i + 2 <= piece.size(); i += 2) bad |= static_cast<uint32_t>((Load<uint16_t>(piece.data() + i) & exponent) == exponent);
    }
    finite = finite && bad == 0;
    return {};
  }));
  if (finite) return {};
  return Malformed("scale-not-finite", "tensor '{}' holds NaN or infinity; the file is damaged or the quantisation failed", Escape(scales.name));
}

// AutoGPTQ subtracts 1 from a zero point of 0 in 32 bits and ORs the result into the word, so a
// field of all ones sets every field above it in the same word. Which of these were zeros of 0
// themselves cannot be told.
void FindLostZeros(const std::vector<uint16_t>& fields, Linear* linear) {
  constexpr size_t kMost = 64;
  const QuantShape& s = linear->traits.shape;
  const auto all_ones = static_cast<uint16_t>(s.MaxCode());
  const auto word_of = [&](uint64_t n) { return n * s.bits / 32; };
  for (uint64_t g = 0; g < s.groups; ++g) {
    const uint16_t* row = fields.data() + g * s.out_features;
    for (uint64_t n = 0; n < s.out_features;) {
      uint64_t end = n + 1;
      while (end < s.out_features && word_of(end) == word_of(n)) ++end;
      // Fields from the lowest of all ones up to the end of the word, if all of them are.
      uint64_t lowest = end;
      while (lowest > n && row[lowest - 1] == all_ones) --lowest;
      for (uint64_t lost = lowest + 1; lost < end; ++lost) {
        if (linear->lost_zero_count++ < kMost) linear->lost_zeros.push_back({g, lost});
      }
      n = end;
    }
  }
}

// The one field of a symmetric linear, as v1 or v2 stores it, where every word repeats it.
std::optional<uint16_t> SymmetricField(ByteView qzeros, const QuantShape& s) {
  if (32 % s.bits != 0 || qzeros.size() < 4) return std::nullopt;
  const uint32_t first = Load<uint32_t>(qzeros.data());
  const auto mask = static_cast<uint32_t>(s.MaxCode());
  const uint32_t field = first & mask;
  for (uint64_t bit = 0; bit < 32; bit += s.bits) {
    if (((first >> bit) & mask) != field) return std::nullopt;
  }
  if (field != s.MidCode() && field + 1 != s.MidCode()) return std::nullopt;
  uint32_t differs = 0;
  for (size_t i = 0; i + 4 <= qzeros.size(); i += 4) differs |= Load<uint32_t>(qzeros.data() + i) ^ first;
  return differs == 0 ? std::optional(static_cast<uint16_t>(field)) : std::nullopt;
}

Status SampleZeros(const Model& model, Linear* linear) {
  const QuantShape& s = linear->traits.shape;
  QC_ASSIGN(const std::vector<std::byte> qzeros, model.checkpoint->ReadWhole(model.info(*linear->Part("qzeros"))));
  if (const std::optional<uint16_t> field = SymmetricField(qzeros, s)) {
    linear->zeros = {*field, *field, 0, s.bits, 0, 0};
    return {};
  }
  QuantLinear stored;
  stored.shape = linear->StoredShape();
  stored.zeros = ReadZeroFields(qzeros, stored.shape);
  CutOutputs(linear->rows.first, s.out_features, &stored);
  const std::vector<uint16_t>& fields = stored.zeros;
  const auto [smallest, largest] = std::ranges::minmax_element(fields);
  linear->zeros = {*smallest, *largest, 0, s.bits, 0, 0};
  linear->zeros.all_ones = static_cast<uint64_t>(std::ranges::count(fields, static_cast<uint16_t>(s.MaxCode())));
  if (linear->zeros.all_ones > 0) FindLostZeros(fields, linear);
  const bool constant = *smallest == *largest && (*smallest == s.MidCode() || *smallest + 1U == s.MidCode());
  if (constant) return {};
  return SampleCodes(model, *linear, fields, &linear->zeros);
}

// Zero points of a linear that is not GPTQ.
Status ReadZeros(const Model& model, Linear* linear) {
  QuantTraits& traits = linear->traits;
  const auto carries = [&](const PartCodec& part, uint8_t components) { return (part.components & components) == components && linear->Part(part.suffix).has_value(); };
  const bool stored = std::ranges::any_of(linear->layout->parts, [&](const PartCodec& part) {
    const bool block = carries(part, kCodes) && !carries(part, kFromScales);  // Q4_0 and its like mean the middle
    return carries(part, kZeros) && !block;
  });
  if (!stored) {
    traits.symmetric = true;
    return {};
  }
  QC_ASSIGN(const QuantLinear decoded, DecodeLinear(model, *linear, kZeros));
  const auto [smallest, largest] = std::ranges::minmax_element(decoded.zeros);
  traits.symmetric = *smallest == *largest && *smallest == traits.shape.MidCode();
  traits.has_zero_0 = *smallest == 0;
  traits.nearest_zeros = decoded.nearest_zeros;
  traits.no_zeros = decoded.no_zeros;
  return {};
}

// v1 or v2 for all GPTQ linears of the model, from the data.
Status SettleGptq(const ModelOptions& options, const std::vector<ZeroSample>& samples, Model* model) {
  model->zero_verdict = JudgeZeros(samples);
  ZeroVerdict& verdict = model->zero_verdict;
  if (options.zeros.has_value()) {
    verdict.convention = *options.zeros;
    verdict.evidence = fmt::format("said by --zeros ({})", verdict.evidence);
  } else if (!verdict.decided) {
    QC_TRY(options.Keep(Refused("zeros-undecided", "the data does not show whether zero points are stored as v1 or v2: {}; give --zeros=v1 or --zeros=v2", verdict.evidence)));
  }
  const bool v2 = verdict.convention == ZeroConvention::kV2;
  const Layout* layout = FindLayout(v2 ? "gptq-v2" : "gptq-v1");
  const std::string label = model->quant.has_value() ? model->quant->checkpoint_format : "";
  model->zero_label_wrong = (label == "gptq_v2") != v2;
  for (auto& [name, linear] : model->linears) {
    if (!linear.quantised() || linear.layout->method != "gptq") continue;
    const ZeroSample& zeros = linear.zeros;
    const uint32_t smallest = zeros.smallest + (v2 ? 0U : 1U);
    linear.layout = layout;
    linear.traits.symmetric = zeros.smallest == zeros.largest && smallest == linear.traits.shape.MidCode();
    linear.traits.has_zero_0 = v2 ? zeros.smallest == 0 : zeros.all_ones > 0;
    linear.wrapped_zeros = v2 ? 0 : zeros.all_ones;
  }
  return {};
}

}  // namespace

Status ReadGroups(const Model& model, const std::string& name, Linear* linear) {
  if (!linear->Part("g_idx").has_value()) {
    const bool claims_order = model.quant.has_value() && model.quant->desc_act.value_or(false);
    if (claims_order && linear->traits.shape.groups > 1) {
      return Malformed("g-idx-missing", "linear '{}' has no g_idx, but {} says desc_act: which group an input belongs to is lost", Escape(name), model.quant->where);
    }
    return {};
  }
  Result<QuantLinear> decoded = DecodeLinear(model, *linear, kGroupIndex);
  if (!decoded.ok()) return std::move(decoded).TakeError();
  const QuantShape& shape = linear->traits.shape;
  linear->traits.act_order = !IsTrivial(decoded.value().group_index, shape.group_size);
  if (!linear->traits.act_order) return {};
  // Scattered: every group must still have its share of inputs.
  std::vector<uint64_t> members(shape.groups);
  for (const int32_t group : decoded.value().group_index) ++members[static_cast<size_t>(group)];
  for (uint64_t g = 0; g < shape.groups; ++g) {
    const uint64_t expected = std::min(shape.group_size, shape.in_features - g * shape.group_size);
    if (members[g] != expected) {
      return Malformed("g-idx", "tensor '{}': group {} has {} inputs, expected {}: it is no reordering of groups of {}", Escape(model.info(*linear->Part("g_idx")).name), g, members[g], expected, shape.group_size);
    }
  }
  return {};
}

Status SettleZeros(const ModelOptions& options, Model* model) {
  // What one linear shows; its errors are looked at in the order of the names, whoever was first.
  struct Seen {
    const std::string* name;
    Linear* linear;
    std::vector<Status> scales;
    Status zeros;
  };
  std::vector<Seen> all;
  for (auto& [name, linear] : model->linears) {
    if (linear.quantised()) all.push_back({&name, &linear, {}, {}});
  }
  QC_TRY(RunParallel(all.size(), options.jobs, [&](size_t i) -> Status {
    Linear& linear = *all[i].linear;
    for (const PartCodec& part : linear.layout->parts) {
      const std::optional<TensorIndex> index = linear.Part(part.suffix);
      if ((part.components & kScales) == 0 || !index.has_value()) continue;
      const TensorInfo& scales = model->info(*index);
      linear.traits.scale_dtype = IsFloat16Or32(scales.dtype) ? scales.dtype : Dtype::kF16;  // blocks hold float16
      if (IsFloat16Or32(scales.dtype)) all[i].scales.push_back(CheckScales(*model, scales));
    }
    all[i].zeros = linear.layout->method == "gptq" ? SampleZeros(*model, &linear) : ReadZeros(*model, &linear);
    return {};
  }));
  std::vector<ZeroSample> samples;
  for (Seen& seen : all) {
    for (Status& status : seen.scales) QC_TRY(options.Keep(std::move(status)));
    if (seen.linear->layout->method == "gptq") {
      QC_TRY(std::move(seen.zeros));
      samples.push_back(seen.linear->zeros);
    } else if (!seen.zeros.ok()) {
      QC_TRY(options.Keep(std::move(seen.zeros).TakeError().Within(fmt::format("linear '{}'", Escape(*seen.name)))));
    }
  }
  if (samples.empty()) return {};
  return SettleGptq(options, samples, model);
}

}  // namespace q2c
