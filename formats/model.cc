#include "formats/model.h"

#include <algorithm>
#include <cmath>

#include "formats/base/half.h"
#include "formats/base/text.h"
#include "formats/layouts/gptq.h"

namespace q2c {
namespace {

// Class and family from config.json.
Status FindFamily(Model* model) {
  const std::optional<Json>& config = model->checkpoint->config();
  if (!config.has_value()) {
    return Malformed("config-missing", "folder '{}' has no config.json; take it from the original model", Escape(model->checkpoint->path()));
  }
  const Json* type = config->Find("model_type");
  if (type == nullptr || !type->is_string()) return Malformed("config-type", "config.json: model_type is missing");
  if (type->text() == "qwen") {
    return Refused("architecture", "model_type 'qwen' is the first generation (transformer.h.N.attn.c_attn …), which this version does not convert");
  }
  QC_ASSIGN(model->architecture, FindArchitecture(type->text()));
  const Json* classes = config->Find("architectures");
  const bool named = classes != nullptr && classes->is_array() && !classes->items().empty() && classes->items()[0].is_string();
  model->class_name = named ? classes->items()[0].text() : model->architecture.Classes().front();
  QC_ASSIGN(model->skeleton, model->architecture.Expand(*config, model->class_name));
  const Json* tie = config->Find("tie_word_embeddings");
  model->tied = tie != nullptr && tie->AsBool().value_or(false);
  return {};
}

// Gives every tensor of the file its place.
Status AssignTensors(const ModelOptions& options, Model* model) {
  const std::vector<TensorInfo>& tensors = model->checkpoint->tensors();
  model->canonical.resize(tensors.size());
  std::map<std::string, TensorIndex> taken;
  std::vector<std::string> unknown;
  for (TensorIndex i = 0; i < tensors.size(); ++i) {
    const std::string& name = tensors[i].name;
    const auto glob = std::ranges::find_if(options.drop, [&](const std::string& pattern) { return GlobMatch(pattern, name); });
    if (glob != options.drop.end()) {
      model->dropped.emplace_back(i, *glob);
      continue;
    }
    if (model->architecture.IsDerived(name)) {
      model->derived.push_back(i);
      continue;
    }
    const std::optional<std::string> canonical = model->architecture.CanonicalName(model->skeleton, name);
    if (!canonical.has_value()) {
      unknown.push_back(name);
      continue;
    }
    if (const auto [other, fresh] = taken.emplace(*canonical, i); !fresh) {
      return Malformed("tensor-twice", "tensors '{}' and '{}' both mean '{}'", Escape(tensors[other->second].name), Escape(name), Escape(*canonical));
    }
    model->canonical[i] = *canonical;
    if (model->skeleton.tensors.contains(*canonical)) {
      model->tensors[*canonical] = i;
    } else {
      const auto [linear, part] = SplitPart(*canonical);
      Linear& entry = model->linears[linear];
      entry.expected = model->skeleton.linears.find(linear)->second;
      entry.parts[part] = i;
    }
  }
  if (!unknown.empty()) {
    return Refused("tensor-unknown", "{} tensors that {} does not know: {}; leave them out with --drop=GLOB if they are of no use", unknown.size(), model->class_name, QuoteSome(unknown, 8));
  }
  return {};
}

Error Missing(const Model& model, const std::string& name, std::string what) {
  for (const auto& [i, glob] : model.dropped) {
    if (model.architecture.CanonicalName(model.skeleton, model.info(i).name) != name) continue;
    return Refused("drop-needed", "--drop={} matches tensor '{}', which {} cannot do without", Escape(glob), Escape(name), model.class_name);
  }
  return Malformed("tensor-missing", "{}; complete the download or take the original checkpoint", what);
}

Status CheckShapes(const Model& model) {
  for (const auto& [name, expected] : model.skeleton.tensors) {
    const auto found = model.tensors.find(name);
    if (found == model.tensors.end()) return Missing(model, name, fmt::format("tensor '{}' is missing", Escape(name)));
    const TensorInfo& info = model.info(found->second);
    if (info.shape != expected.shape) {
      return Malformed("tensor-shape", "tensor '{}': shape {}, expected {} by config.json", Escape(name), ShapeText(info.shape), ShapeText(expected.shape));
    }
    if (!IsFloat16Or32(info.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(name), NameOf(info.dtype));
  }
  for (const auto& [name, expected] : model.skeleton.linears) {
    if (model.linears.contains(name)) continue;
    if (!expected.tied_to.empty() && model.tied) continue;
    return Missing(model, name + ".weight", fmt::format("tensor '{}.weight' (or .qweight and its kin) is missing", Escape(name)));
  }
  return {};
}

// Layout and shape of one linear; the convention of its zeros is settled later.
Status Recognise(const Model& model, const std::string& name, Linear* linear) {
  std::vector<const TensorInfo*> parts;
  for (const auto& [suffix, index] : linear->parts) parts.push_back(&model.info(index));
  const std::string method = model.quant.has_value() ? model.quant->quant_method : "";
  if (const auto bias = linear->Part("bias"); bias.has_value()) {
    const TensorInfo& info = model.info(*bias);
    if (info.shape != Shape{linear->expected.out_features}) {
      return Malformed("tensor-shape", "tensor '{}': shape {}, expected [{}], one for each output", Escape(info.name), ShapeText(info.shape), linear->expected.out_features);
    }
    if (!IsFloat16Or32(info.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(info.name), NameOf(info.dtype));
  }
  for (const Layout& layout : Layouts()) {
    QC_ASSIGN(const std::optional<QuantShape> shape, layout.detect(name, linear->expected.in_features, linear->expected.out_features, parts));
    if (!shape.has_value()) continue;
    linear->layout = &layout;
    linear->traits.shape = *shape;
    break;
  }
  const auto weight = linear->Part("weight");
  if (linear->layout == nullptr) {
    if (const auto foreign = ForeignQuantisation(weight.has_value() ? "" : method, parts)) return Refused("layout", "linear '{}': {}", Escape(name), *foreign);
    if (!weight.has_value()) {
      if (!linear->expected.tied_to.empty() && model.tied) return {};
      return Malformed("tensor-missing", "linear '{}' has neither weight nor qweight", Escape(name));
    }
    const TensorInfo& info = model.info(*weight);
    const Shape expected = {linear->expected.out_features, linear->expected.in_features};
    if (info.shape != expected) {
      return Malformed("tensor-shape", "tensor '{}': shape {}, expected {} by config.json", Escape(info.name), ShapeText(info.shape), ShapeText(expected));
    }
    if (!IsFloat16Or32(info.dtype)) return Malformed("tensor-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32", Escape(info.name), NameOf(info.dtype));
  } else if (weight.has_value()) {
    return Malformed("quant-part", "linear '{}' has both weight and qweight; one of them is stale", Escape(name));
  }
  return {};
}

Status CheckAgainstConfig(const Model& model, const std::string& name, Linear* linear) {
  if (!model.quant.has_value() || !linear->quantised()) return {};
  const QuantConfig& config = *model.quant;
  QuantShape& shape = linear->traits.shape;
  if (config.bits.has_value() && *config.bits != shape.bits && !config.per_module) {
    return Malformed("quant-bits", "linear '{}' is stored with {} bits, {} says {}", Escape(name), shape.bits, config.where, *config.bits);
  }
  if (!config.group_size.has_value()) return {};
  const uint64_t size = *config.group_size < 0 ? shape.in_features : std::min(static_cast<uint64_t>(*config.group_size), shape.in_features);
  if (CeilDiv(shape.in_features, size) == shape.groups) {
    shape.group_size = size;
  } else if (!config.per_module) {
    return Malformed("quant-group-size", "linear '{}' has {} groups for {} inputs, {} says group_size {}, which makes {}", Escape(name), shape.groups, shape.in_features,
                     config.where, *config.group_size, CeilDiv(shape.in_features, size));
  }
  return {};
}

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
  const auto all_ones = static_cast<uint16_t>(s.MaxCode());
  std::vector<std::byte> rows(4 * columns * s.bits);
  double sum = 0;
  uint64_t count = 0;
  for (uint64_t i = 0; i < std::min(kUnits, units); ++i) {
    const uint64_t unit = i * units / std::min(kUnits, units);
    for (uint64_t r = 0; r < s.bits; ++r) {
      const uint64_t word = (unit * s.bits + r) * s.out_features;
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

Status CheckScales(const Model& model, const Linear& linear) {
  const TensorInfo& scales = model.info(*linear.Part("scales"));
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

Status SampleZeros(const Model& model, Linear* linear) {
  const QuantShape& s = linear->traits.shape;
  QC_ASSIGN(const std::vector<std::byte> qzeros, model.checkpoint->ReadWhole(model.info(*linear->Part("qzeros"))));
  const std::vector<uint16_t> fields = ReadZeroFields(qzeros, s);
  const auto [smallest, largest] = std::ranges::minmax_element(fields);
  linear->zeros = {*smallest, *largest, 0, s.bits, 0, 0};
  linear->zeros.all_ones = static_cast<uint64_t>(std::ranges::count(fields, static_cast<uint16_t>(s.MaxCode())));
  const bool constant = *smallest == *largest && (*smallest == s.MidCode() || *smallest + 1U == s.MidCode());
  if (constant) return {};
  return SampleCodes(model, *linear, fields, &linear->zeros);
}

// Decides v1 or v2 for the model, from the data, and fills in what depends on it.
Status SettleZeros(const ModelOptions& options, Model* model) {
  std::vector<ZeroSample> samples;
  for (auto& [name, linear] : model->linears) {
    if (!linear.quantised()) continue;
    QC_TRY(CheckScales(*model, linear));
    QC_TRY(SampleZeros(*model, &linear));
    samples.push_back(linear.zeros);
  }
  if (samples.empty()) return {};
  model->zero_verdict = JudgeZeros(samples);
  ZeroVerdict& verdict = model->zero_verdict;
  if (options.zeros.has_value()) {
    verdict.convention = *options.zeros;
    verdict.evidence = fmt::format("said by --zeros ({})", verdict.evidence);
  } else if (!verdict.decided) {
    return Refused("zeros-undecided", "the data does not show whether zero points are stored as v1 or v2: {}; give --zeros=v1 or --zeros=v2", verdict.evidence);
  }
  const bool v2 = verdict.convention == ZeroConvention::kV2;
  const Layout* layout = FindLayout(v2 ? "gptq-v2" : "gptq-v1");
  const std::string label = model->quant.has_value() ? model->quant->checkpoint_format : "";
  model->zero_label_wrong = (label == "gptq_v2") != v2;
  for (auto& [name, linear] : model->linears) {
    if (!linear.quantised()) continue;
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

std::optional<TensorIndex> Linear::Part(std::string_view suffix) const {
  const auto found = parts.find(std::string(suffix));
  if (found == parts.end()) return std::nullopt;
  return found->second;
}

uint64_t Model::QuantisedCount() const {
  return static_cast<uint64_t>(std::ranges::count_if(linears, [](const auto& entry) { return entry.second.quantised(); }));
}
bool Model::AnyQuantised() const {
  return std::ranges::any_of(linears, [](const auto& entry) { return entry.second.quantised(); });
}

Result<Model> UnderstandModel(const Checkpoint& checkpoint, const ModelOptions& options) {
  Model model;
  model.checkpoint = &checkpoint;
  QC_TRY(FindFamily(&model));
  QC_ASSIGN(model.quant, ReadQuantConfig(checkpoint));
  if (model.quant.has_value() && !model.quant->quant_method.empty() && model.quant->quant_method != "gptq") {
    const auto foreign = ForeignQuantisation(model.quant->quant_method, {});
    if (foreign.has_value()) {
      // Name the tensor that shows it, where there is one.
      const auto& tensors = checkpoint.tensors();
      const auto shows = std::ranges::find_if(tensors, [](const TensorInfo& t) { return t.name.ends_with(".qweight") || t.name.ends_with(".weight_packed"); });
      return Refused("layout", "{}: quant_method is '{}' (tensor '{}'): {}", model.quant->where, Escape(model.quant->quant_method), shows == tensors.end() ? "" : Escape(shows->name), *foreign);
    }
    return Refused("layout", "{}: quant_method '{}' is not known; this version reads 'gptq'", model.quant->where, Escape(model.quant->quant_method));
  }
  QC_TRY(AssignTensors(options, &model));
  QC_TRY(CheckShapes(model));
  for (auto& [name, linear] : model.linears) {
    QC_TRY(Recognise(model, name, &linear));
    QC_TRY(CheckAgainstConfig(model, name, &linear));
    if (linear.quantised()) QC_TRY(ReadGroups(model, name, &linear));
  }
  if (model.quant.has_value() && !model.AnyQuantised()) {
    return Malformed("quant-config", "{} describes a quantised model, but no linear is quantised: there is '{}.weight' instead of qweight; remove it or take the right files", model.quant->where, model.linears.begin()->first);
  }
  if (!model.quant.has_value() && model.AnyQuantised()) {
    const auto first = std::ranges::find_if(model.linears, [](const auto& entry) { return entry.second.quantised(); });
    const QuantShape& shape = first->second.traits.shape;
    return Malformed("quant-config-missing", "linear '{}' is quantised, but neither config.json nor quantize_config.json says how; if these are the right files, write quantize_config.json with what the tensors show: {{\"bits\": {}, \"group_size\": {}}}",
                     Escape(first->first), shape.bits, shape.groups == 1 ? -1 : static_cast<int64_t>(shape.group_size));
  }
  if (!model.AnyQuantised()) return Refused("not-quantised", "no linear is quantised; there is nothing to convert for these targets");
  QC_TRY(SettleZeros(options, &model));
  return model;
}

Result<QuantLinear> DecodeLinear(const Model& model, const Linear& linear, uint8_t components) {
  QuantLinear decoded;
  decoded.shape = linear.traits.shape;
  for (const PartCodec& part : linear.layout->parts) {
    if ((part.components & components) == 0) continue;
    const std::optional<TensorIndex> index = linear.Part(part.suffix);
    if (!index.has_value()) {
      // Only g_idx may be absent, and then the groups follow each other.
      decoded.group_index.resize(decoded.shape.in_features);
      for (uint64_t k = 0; k < decoded.shape.in_features; ++k) decoded.group_index[k] = static_cast<int32_t>(k / decoded.shape.group_size);
      continue;
    }
    const TensorInfo& info = model.info(*index);
    QC_ASSIGN(const std::vector<std::byte> bytes, model.checkpoint->ReadWhole(info));
    if (!part.dtype.has_value()) decoded.scale_dtype = info.dtype;
    if (Status status = part.decode(bytes, &decoded); !status.ok()) {
      return std::move(status).TakeError().Within(fmt::format("tensor '{}'", Escape(info.name)));
    }
  }
  return decoded;
}

Result<Magnitude> MeasureTensor(const Checkpoint& checkpoint, const TensorInfo& tensor) {
  Magnitude magnitude;
  const uint64_t width = InfoOf(tensor.dtype).bits / 8;
  QC_TRY(checkpoint.Stream(tensor, [&](ByteView piece) -> Status {
    for (uint64_t i = 0; i + width <= piece.size(); i += width) {
      const std::byte* at = piece.data() + i;
      const float value = tensor.dtype == Dtype::kF32   ? Load<float>(at)
                          : tensor.dtype == Dtype::kF16 ? HalfToFloat(Load<uint16_t>(at))
                                                        : BfloatToFloat(Load<uint16_t>(at));
      if (value == 0) continue;
      ++magnitude.nonzero;
      magnitude.largest = std::max(magnitude.largest, std::isnan(value) ? INFINITY : std::abs(static_cast<double>(value)));
    }
    return {};
  }));
  return magnitude;
}

}  // namespace q2c
