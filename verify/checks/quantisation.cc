// What the tensors of quantised linears show, against what the configs say of them.
#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

// Linears of which something is true, for one finding.
struct Those {
  std::vector<std::string> names;
  uint64_t count = 0;
  void Add(const std::string& name) {
    ++count;
    if (names.size() < Findings::kNames) names.push_back(name);
  }
};

std::string Some(const Those& those) { return QuoteSome(those.names, 3); }

void CheckZeros(const Model& model, Findings* findings) {
  Those wrapped;
  uint64_t fields = 0;
  Those blank;
  Those gptq;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised() || linear.layout->method != "gptq" || !linear.Part("qzeros").has_value()) continue;
    gptq.Add(name);
    if (linear.wrapped_zeros > 0) {
      wrapped.Add(name);
      fields += linear.wrapped_zeros;
    }
    if (linear.zeros.smallest == 0 && linear.zeros.largest == 0 && linear.traits.shape.bits > 2) blank.Add(name);
  }
  if (gptq.count == 0) return;
  const bool v2 = model.zero_verdict.convention == ZeroConvention::kV2;
  if (blank.count > 0) findings->Add("zeros-blank", fmt::format("every zero field of {} linears is 0, such as {}", blank.count, Some(blank)), blank.names, blank.count);
  if (wrapped.count > 0) {
    findings->Add("zero-wrap", fmt::format("{} zero fields of {} linears are all ones, such as in {}: a zero point of 0, stored as 0 - 1; what it overwrote in the same word is lost", fields, wrapped.count, Some(wrapped)), wrapped.names, wrapped.count);
  }
  if (model.zero_label_wrong && model.zero_verdict.decided && model.quant.has_value()) {
    const std::string& label = model.quant->checkpoint_format;
    findings->Add("zero-label", fmt::format("the data prove {}, {} says {}: {}", v2 ? "gptq_v2" : "gptq (v1)", model.quant->where, label.empty() ? "nothing, which means gptq (v1)" : "'" + Escape(label) + "'", model.zero_verdict.evidence), gptq.names, gptq.count);
  }
}

void CheckFlags(const Model& model, Findings* findings) {
  if (!model.quant.has_value()) return;
  const QuantConfig& quant = *model.quant;
  Those symmetric;
  Those asymmetric;
  Those scattered;
  Those no_map;
  std::set<uint32_t> bits;
  std::set<uint64_t> groups;
  uint64_t quantised = 0;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    ++quantised;
    (linear.traits.symmetric ? symmetric : asymmetric).Add(name);
    if (linear.traits.act_order) scattered.Add(name);
    if (linear.layout->method == "gptq" && !linear.Part("g_idx").has_value()) no_map.Add(name);
    bits.insert(linear.traits.shape.bits);
    groups.insert(linear.traits.shape.groups == 1 ? 0 : linear.traits.shape.group_size);
  }
  if (quantised == 0) return;
  const bool gptq = quant.quant_method.empty() || quant.quant_method == "gptq";
  const bool decided = !gptq || model.zero_verdict.decided;
  if (decided && quant.sym.value_or(false) && asymmetric.count > 0) {
    findings->Add("sym-flag", fmt::format("{} says sym, but the zero points of {} of {} linears are not all in the middle, such as {}", quant.where, asymmetric.count, quantised, Some(asymmetric)), asymmetric.names, asymmetric.count);
  }
  if (decided && gptq && quant.sym.has_value() && !*quant.sym && asymmetric.count == 0) findings->Add("sym-flag-idle", fmt::format("{} says sym is false, and all zero points of {} linears are in the middle", quant.where, quantised));
  if (scattered.count > 0 && !quant.desc_act.value_or(false)) {
    findings->Add("desc-act-false", fmt::format("the inputs of {} linears are scattered over the groups, such as {}; {} {}", scattered.count, Some(scattered), quant.where, quant.desc_act.has_value() ? "says desc_act is false" : "does not say desc_act"), scattered.names, scattered.count);
  }
  if (gptq && scattered.count == 0 && quant.desc_act.value_or(false)) findings->Add("desc-act-idle", fmt::format("{} says desc_act, and the groups of all {} linears are in order", quant.where, quantised));
  if (no_map.count > 0) findings->Add("g-idx-absent", fmt::format("{} linears have no g_idx, such as {}", no_map.count, Some(no_map)), no_map.names, no_map.count);
  if (bits.size() > 1) findings->Add("quant-mixed", fmt::format("linears have {} bits", fmt::join(bits, ", ")));
}

// Which linears of the blocks are float, and does the config say so?
void CheckModules(const Model& model, Findings* findings) {
  if (!model.quant.has_value()) return;
  Those plain;
  uint64_t quantised = 0;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.expected.in_block) continue;
    if (linear.quantised()) ++quantised;
    else if (linear.Part("weight").has_value()) plain.Add(name);
  }
  if (quantised == 0 || plain.count == 0 || model.quant->quant_method == "mlx") return;  // mlx-lm sees by the tensors which is which
  for (const char* key : {"modules_in_block_to_quantize", "dynamic", "modules_to_not_convert", "ignore", "extra_config"}) {
    const Json* value = model.quant->json.Find(key);
    if (value != nullptr && (!value->items().empty() || !value->members().empty())) return;
  }
  if (model.quant->per_module) return;
  findings->Add("quant-modules", fmt::format("{} linears of the blocks are float and {} are quantised; no key of {} says which, such as {}", plain.count, quantised, model.quant->where, Some(plain)), plain.names, plain.count);
}

void CheckLabel(const Model& model, Findings* findings) {
  if (!model.quant.has_value() || model.quant->quant_method.empty()) return;
  std::set<std::string_view> methods;
  std::string example;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    methods.insert(linear.layout->method);
    if (example.empty()) example = name;
  }
  const std::string& said = model.quant->quant_method;
  // Marlin goes under GPTQ's name too.
  const bool fits = methods.empty() || methods.contains(said) || methods.contains("gguf") || ((said == "gptq" || said == "marlin") && (methods.contains("marlin") || methods.contains("gptq")));
  if (!fits) findings->Add("layout-label", fmt::format("{} says '{}', linear '{}' is stored as {}", model.quant->where, Escape(said, 40), Escape(example), *methods.begin()), {example});
}

// Parts that say the size of their linear again, and parts of another layout beside its own.
void CheckParts(const Model& model, Findings* findings) {
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    for (const auto& [suffix, index] : linear.parts) {
      if (linear.layout->Part(suffix) != nullptr || suffix == "bias") continue;
      findings->Add("quant-part", fmt::format("linear '{}' is stored as {}, which has no part '{}'", Escape(name), linear.layout->name, Escape(suffix)), {model.info(index).name});
    }
    const bool says = std::ranges::any_of(linear.layout->parts, [&stored = linear](const PartCodec& part) { return (part.components & kSizes) != 0 && stored.Part(part.suffix).has_value(); });
    if (!says) continue;
    Result<QuantLinear> decoded = DecodeLinear(model, linear, kSizes);
    if (!decoded.ok()) findings->Add(std::move(decoded).TakeError().Within(fmt::format("linear '{}'", Escape(name))));
  }
}

}  // namespace

Status CheckQuantisation(const CheckInput& input, Findings* findings) {
  if (input.model == nullptr) return {};
  CheckZeros(*input.model, findings);
  CheckFlags(*input.model, findings);
  CheckModules(*input.model, findings);
  CheckLabel(*input.model, findings);
  CheckParts(*input.model, findings);
  return {};
}

}  // namespace q2c
