#include "convert/passes/passes.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/cast.h"

namespace q2c {
namespace {

// What a layout makes of a linear, or why it cannot hold it.
struct Attempt {
  std::optional<PlannedLinear> planned;
  std::string refusal;
  bool only_rounding = false;  // --allow-rounding would do
  bool scattered = false;      // act-order is the reason
};

// The type of the scales that the target's loaders take.
Dtype ScaleDtype(const Plan& plan, const Layout& layout, Dtype dtype) {
  const std::optional<Dtype> wanted = layout.IsDense() || layout.method == "gguf" ? std::nullopt : plan.target.scales;
  const bool settable = std::ranges::any_of(layout.parts, [](const PartCodec& part) { return (part.components & kScales) != 0 && !part.dtype.has_value(); });
  return wanted.has_value() && settable && plan.options.repairs.Wants("scale-dtype") ? *wanted : dtype;
}

const Layout* FloatLayout(Dtype dtype) {
  return FindLayout(dtype == Dtype::kF16 ? "dense-fp16" : dtype == Dtype::kBF16 ? "dense-bf16" : "dense-fp32");
}

// Can the channels that a scattered linear takes in be put in the order of its groups? Only where
// they come from linears of which nobody else takes them: o_proj's cross the heads, and those of
// q, k, v, gate and up are the residual stream.
bool CanFold(const Model& model, const Linear& linear) {
  return linear.traits.act_order && !linear.expected.fed_by.empty() && std::ranges::all_of(linear.expected.fed_by, [&](const std::string& feeder) {
    const auto found = model.linears.find(feeder);
    return found != model.linears.end() && found->second.quantised();
  });
}

// The zero points and scales of a linear, the scales in another type; says which change, and whether one has no place there at all.
Result<QuantLinear> ReadParameters(const Model& model, const Linear& linear, Dtype scale_dtype, std::string* rounds, std::string* refusal) {
  QC_ASSIGN(QuantLinear parameters, DecodeLinear(model, linear, linear.traits.symmetric ? kScales : kZeros | kScales));
  if (linear.traits.symmetric) parameters.zeros.assign(parameters.shape.groups * parameters.shape.out_features, static_cast<uint16_t>(parameters.shape.MidCode()));
  if (scale_dtype == parameters.scale_dtype) return parameters;
  const QuantLinear before = parameters;
  CastScales(scale_dtype, &parameters);
  uint64_t changed = 0;
  const uint64_t count = before.shape.groups * before.shape.out_features;
  for (uint64_t i = 0; i < count; ++i) {
    changed += static_cast<uint64_t>(before.ScaleAt(i) != parameters.ScaleAt(i));
    if (std::isfinite(parameters.ScaleAt(i)) || !refusal->empty()) continue;
    *refusal = fmt::format("its scale of {:.4g} is beyond the range of {}", before.ScaleAt(i), NameOf(scale_dtype));
  }
  if (changed > 0) *rounds = fmt::format("{} of {} scales of {} are no {}", changed, count, NameOf(before.scale_dtype), NameOf(scale_dtype));
  return parameters;
}

Result<Attempt> Try(const Plan& plan, const std::string& name, const Linear& linear, const LayoutRule& rule, bool fold = false) {
  const Model& model = *plan.model;
  const bool allow_rounding = plan.options.allow_rounding;
  const Layout& layout = *rule.layout;
  Attempt attempt;
  // Embedding and head are no linears of a block: where the layout changes they become float.
  // So does a head that the loaders would not find as a linear to replace, and leave uninitialised.
  const bool unread_head = layout.method == "gptq" && !plan.target.quantised_head;
  const bool stays = &layout == linear.layout || (layout.method == "gptq" && linear.layout->method == "gptq");
  if (!linear.expected.in_block && !layout.IsDense() && (!stays || unread_head)) {
    QC_ASSIGN(attempt, Try(plan, name, linear, {FloatLayout(linear.traits.scale_dtype), {}, {}}));
    if (unread_head && &layout == linear.layout && !attempt.refusal.empty()) attempt.refusal = "it is quantised, and the loaders of this target replace only linears inside the blocks; as floats its " + attempt.refusal;
    return attempt;
  }
  QuantTraits traits = linear.traits;
  if (fold) traits.act_order = false;
  traits.scale_dtype = ScaleDtype(plan, layout, traits.scale_dtype);
  if (std::optional<std::string> why = rule.Refuses(traits)) {
    if (!fold && CanFold(model, linear)) {
      QC_ASSIGN(Attempt folded, Try(plan, name, linear, rule, true));
      if (folded.planned.has_value() || folded.only_rounding) return folded;
    }
    attempt.refusal = *std::move(why);
    attempt.scattered = traits.act_order;
    return attempt;
  }
  const QuantShape& shape = linear.traits.shape;
  const std::optional<uint64_t> size = GroupSizeIn(rule, traits, plan.options.group_size, &attempt.refusal);
  if (!attempt.refusal.empty()) return attempt;
  if (!size.has_value()) {
    const auto known = [](std::span<const uint64_t> sizes) { return sizes.empty() ? std::string("any") : fmt::format("{}", fmt::join(sizes, ", ")); };
    attempt.refusal = fmt::format("its groups of {} cannot be split into any that '{}' and the loader know ({}; {}; 0 is one group)", shape.group_size, layout.name, known(layout.group_sizes), known(rule.group_sizes));
    return attempt;
  }
  PlannedLinear planned{&linear, name, &layout, shape, Exactness::kSameCodes, "", traits.scale_dtype, fold ? name : "", fold, nullptr};
  planned.shape.group_size = *size;
  planned.shape.groups = CeilDiv(shape.in_features, *size);
  const bool same_scales = traits.scale_dtype == linear.traits.scale_dtype;
  if (!layout.same_codes || *size != shape.group_size || !same_scales) planned.exactness = Exactness::kSameValues;
  if (&layout == linear.layout && *size == shape.group_size && same_scales) {
    attempt.planned = std::move(planned);  // its bytes as they are
    return attempt;
  }
  const bool any_offset = layout.StoresOffsets() || layout.IsDense();
  if (!linear.traits.no_zeros.empty() && !any_offset) {
    attempt.refusal = linear.traits.no_zeros;
    return attempt;
  }
  if (linear.traits.nearest_zeros && !any_offset) planned.rounds = fmt::format("offsets stored as '{}' are no whole zero points", linear.layout->name);
  if (planned.rounds.empty() && (layout.rounds != nullptr || !same_scales)) {
    QC_ASSIGN(const QuantLinear parameters, ReadParameters(model, linear, traits.scale_dtype, &planned.rounds, &attempt.refusal));
    if (!attempt.refusal.empty()) return attempt;
    if (planned.rounds.empty() && layout.rounds != nullptr) planned.rounds = layout.rounds(parameters).value_or("");
  }
  if (!planned.rounds.empty()) {
    planned.exactness = Exactness::kRounded;
    if (!allow_rounding) {
      attempt.refusal = fmt::format("values would be rounded: {}", planned.rounds);
      attempt.only_rounding = true;
      return attempt;
    }
  }
  attempt.planned = std::move(planned);
  return attempt;
}

using NamedLinear = std::pair<const std::string, Linear>;

// The same of all of them, side by side.
Result<std::vector<Attempt>> TryAll(const Plan& plan, const std::vector<const NamedLinear*>& linears, const LayoutRule& rule) {
  std::vector<Attempt> attempts(linears.size());
  QC_TRY(RunParallel(linears.size(), plan.options.jobs, [&](size_t i) -> Status {
    QC_ASSIGN(attempts[i], Try(plan, linears[i]->first, linears[i]->second, rule));
    return {};
  }));
  return attempts;
}

// "; likewise 11 more (gate_proj, k_proj)"
std::string Likewise(const std::vector<std::string>& names) {
  if (names.size() < 2) return "";
  std::set<std::string> kinds;
  for (const std::string& name : names) kinds.insert(name.substr(name.rfind('.') + 1));
  return fmt::format("; likewise {} more ({})", names.size() - 1, fmt::join(kinds, ", "));
}

constexpr std::string_view kScatteredAdvice =
    " (a scattered down_proj alone could be put in order, its inputs being nothing but outputs of gate_proj and up_proj; for the others keep GPTQ, or quantise again with desc_act false or static groups)";

Error CannotHold(const Plan& plan, const std::string& refusal, bool only_rounding) {
  if (only_rounding) return Refused("rounding", "{}; add --allow-rounding to accept that, the report then says how much", refusal);
  return Refused("layout-cannot-hold", "{}; {}", refusal, TargetsThatHold(*plan.model, plan.options.group_size));
}

// Notes on what the zero points showed.
Status NoteZeros(const Model& model, Plan* plan) {
  if (model.zero_label_wrong) {
    QC_TRY(plan->Wants("zero-label", model.quant.has_value() ? model.quant->where : std::string(kConfigName)));
    const bool v2 = model.zero_verdict.convention == ZeroConvention::kV2;
    plan->notes.push_back({"zero-label", fmt::format("the zero points are stored as {}, although the config says {}: {}", v2 ? "v2" : "v1", v2 ? "v1" : "v2", model.zero_verdict.evidence)});
  }
  uint64_t wrapped = 0;
  uint64_t lost = 0;
  std::string where;
  std::vector<std::string> places;
  constexpr size_t kPlaces = 64;
  for (const auto& [name, linear] : model.linears) {
    if (linear.wrapped_zeros == 0) continue;
    QC_TRY(plan->Wants("zero-wrap", name));
    if (where.empty()) where = name;
    wrapped += linear.wrapped_zeros;
    lost += linear.lost_zero_count;
    for (const Linear::Field& field : linear.lost_zeros) {
      if (places.size() < kPlaces) places.push_back(fmt::format("'{}.qzeros' group {} output {}", Escape(name), field.group, field.output));
    }
  }
  if (wrapped > 0) {
    plan->notes.push_back({"zero-wrap", fmt::format("{} zero fields are all ones, first in linear '{}': true zero points of 0 that AutoGPTQ could not store; they are read as 0, as its own loader does", wrapped, Escape(where))});
  }
  if (lost > 0) {
    plan->notes.push_back({"zero-lost", fmt::format("{} of them lie above another one in the same word, which overwrote them when the file was made: what they were is lost, and they are read as 0 too: {}{}", lost, Join(places, ", "),
                                                    lost > places.size() ? fmt::format(" and {} more", lost - places.size()) : "")});
  }
  return {};
}

Status NoteRepairs(Plan* plan) {
  for (const auto& [name, linear] : plan->linears) {
    if (linear.quantised() && linear.scale_dtype != linear.linear->traits.scale_dtype) plan->Makes("scale-dtype", name);
    if (linear.quantised() && linear.shape.group_size != linear.linear->traits.shape.group_size) QC_TRY(plan->Wants("group-split", name));
  }
  return {};
}

}  // namespace

// The first layout in the target's order of preference that holds a linear, for each linear or
// for all of them together.
Status PassLayouts(Plan* plan) {
  const Model& model = *plan->model;
  if (!model.AnyQuantised()) {
    if (plan->target.layouts.front().layout->IsDense()) return {};
    return Refused("not-quantised", "no linear is quantised; there is nothing to convert for this target (the dense-… targets take float models)");
  }
  std::string first_refusal;
  bool only_rounding = false;
  const auto refuse = [&](const std::string& name, const LayoutRule& rule, const Attempt& attempt, const std::vector<std::string>& all) {
    // A layout that would do with rounding is the better advice than one that never will.
    if (!first_refusal.empty() && (only_rounding || !attempt.only_rounding)) return;
    first_refusal = fmt::format("linear '{}' does not fit layout '{}': {}", Escape(name), rule.layout->name, attempt.refusal);
    first_refusal += Likewise(all);
    if (attempt.scattered) first_refusal += kScatteredAdvice;
    only_rounding = attempt.only_rounding;
  };

  if (plan->target.mixed_layouts) {
    for (const auto& [name, linear] : model.linears) {
      if (!linear.quantised()) continue;
      first_refusal.clear();
      only_rounding = false;
      for (const LayoutRule& rule : plan->target.layouts) {
        if (rule.on_request) continue;
        QC_ASSIGN(Attempt attempt, Try(*plan, name, linear, rule));
        if (attempt.planned.has_value()) {
          plan->linears.emplace(name, *std::move(attempt.planned));
          break;
        }
        refuse(name, rule, attempt, {name});
      }
      if (!plan->linears.contains(name)) return CannotHold(*plan, first_refusal, only_rounding);
    }
    QC_TRY(NoteRepairs(plan));
    return NoteZeros(model, plan);
  }

  std::vector<const NamedLinear*> quantised;
  for (const NamedLinear& entry : model.linears) {
    if (entry.second.quantised()) quantised.push_back(&entry);
  }
  for (const LayoutRule& rule : plan->target.layouts) {
    if (rule.on_request) continue;
    QC_ASSIGN(std::vector<Attempt> attempts, TryAll(*plan, quantised, rule));
    std::map<std::string, PlannedLinear> all;
    std::optional<std::pair<std::string, Attempt>> refused;
    std::vector<std::string> all_refused;
    for (size_t i = 0; i < quantised.size(); ++i) {
      const std::string& name = quantised[i]->first;
      Attempt& attempt = attempts[i];
      if (attempt.planned.has_value()) {
        all.emplace(name, *std::move(attempt.planned));
      } else {
        all_refused.push_back(name);
        if (all_refused.size() == 1) refused.emplace(name, std::move(attempt));
      }
    }
    if (!refused.has_value()) {
      plan->linears = std::move(all);
      break;
    }
    refuse(refused->first, rule, refused->second, all_refused);
  }
  if (plan->linears.empty()) return CannotHold(*plan, first_refusal, only_rounding);
  if (!first_refusal.empty()) {
    plan->notes.push_back({"layout", fmt::format("written as '{}', because {}", plan->linears.begin()->second.layout->name, first_refusal)});
  }
  QC_TRY(NoteRepairs(plan));
  return NoteZeros(model, plan);
}

}  // namespace q2c
