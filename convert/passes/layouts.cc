#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

// What a layout makes of a linear, or why it cannot hold it.
struct Attempt {
  std::optional<PlannedLinear> planned;
  std::string refusal;
  bool only_rounding = false;  // --allow-rounding would do
};

const Layout* FloatLayout(Dtype dtype) {
  return FindLayout(dtype == Dtype::kF16 ? "dense-fp16" : dtype == Dtype::kBF16 ? "dense-bf16" : "dense-fp32");
}

Result<Attempt> Try(const Model& model, const std::string& name, const Linear& linear, const LayoutRule& rule, bool allow_rounding) {
  const Layout& layout = *rule.layout;
  Attempt attempt;
  // Embedding and head are no linears of a block: where the layout changes they become float.
  if (!linear.expected.in_block && &layout != linear.layout && !layout.IsDense()) {
    return Try(model, name, linear, {FloatLayout(linear.traits.scale_dtype), {}, {}}, allow_rounding);
  }
  if (std::optional<std::string> why = rule.Refuses(linear.traits)) {
    attempt.refusal = *std::move(why);
    return attempt;
  }
  const QuantShape& shape = linear.traits.shape;
  const std::optional<uint64_t> size = layout.GroupSizeFor(shape, rule.group_sizes);
  if (!size.has_value()) {
    const auto known = [](std::span<const uint64_t> sizes) { return sizes.empty() ? std::string("any") : fmt::format("{}", fmt::join(sizes, ", ")); };
    attempt.refusal = fmt::format("its groups of {} cannot be split into any that '{}' and the loader know ({}; {}; 0 is one group)", shape.group_size, layout.name, known(layout.group_sizes), known(rule.group_sizes));
    return attempt;
  }
  PlannedLinear planned{&linear, name, &layout, shape, Exactness::kSameCodes, ""};
  planned.shape.group_size = *size;
  planned.shape.groups = CeilDiv(shape.in_features, *size);
  if (!layout.same_codes || *size != shape.group_size) planned.exactness = Exactness::kSameValues;
  if (&layout == linear.layout && *size == shape.group_size) {
    attempt.planned = std::move(planned);  // its bytes as they are
    return attempt;
  }
  const bool any_offset = layout.StoresOffsets() || layout.IsDense();
  if (!linear.traits.no_zeros.empty() && !any_offset) {
    attempt.refusal = linear.traits.no_zeros;
    return attempt;
  }
  if (linear.traits.nearest_zeros && !any_offset) planned.rounds = fmt::format("offsets stored as '{}' are no whole zero points", linear.layout->name);
  if (planned.rounds.empty() && layout.rounds != nullptr) {
    QC_ASSIGN(const QuantLinear parameters, DecodeLinear(model, linear, kZeros | kScales));
    planned.rounds = layout.rounds(parameters).value_or("");
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

// Targets whose loaders could take every linear without rounding.
std::vector<std::string> OtherTargets(const Model& model) {
  std::vector<std::string> names;
  for (const std::string& name : TargetNames()) {
    const Result<Target> target = FindTarget(name);
    if (!target.ok()) continue;
    const bool refused = std::ranges::any_of(target.value().refuses_architectures, [&](const auto& row) { return row.first == model.architecture.model_type; });
    const auto holds = [&](const Linear& linear) {
      return std::ranges::any_of(target.value().layouts, [&](const LayoutRule& rule) {
        const bool rounds = rule.layout->rounds != nullptr && !linear.traits.symmetric && rule.layout->method != "gguf";
        return !rounds && !rule.Refuses(linear.traits).has_value() && rule.layout->GroupSizeFor(linear.traits.shape, rule.group_sizes).has_value();
      });
    };
    const bool all = std::ranges::all_of(model.linears, [&](const auto& entry) { return !entry.second.quantised() || holds(entry.second); });
    if (all && !refused && !name.starts_with("dense-")) names.push_back(name);
  }
  return names;
}

Error CannotHold(const Model& model, const std::string& refusal, bool only_rounding) {
  if (only_rounding) return Refused("rounding", "{}; add --allow-rounding to accept that, the report then says how much", refusal);
  const std::vector<std::string> others = OtherTargets(model);
  return Refused("layout-cannot-hold", "{}; {}", refusal, others.empty() ? "no target holds it as it is; --target=dense-fp32 holds its values" : "targets that hold it: " + Join(others, ", "));
}

// Notes on what the zero points showed.
Status NoteZeros(const Model& model, Plan* plan) {
  if (model.zero_label_wrong) {
    QC_TRY(plan->Wants("zero-label", model.quant.has_value() ? model.quant->where : std::string(kConfigName)));
    const bool v2 = model.zero_verdict.convention == ZeroConvention::kV2;
    plan->notes.push_back({"zero-label", fmt::format("the zero points are stored as {}, although the config says {}: {}", v2 ? "v2" : "v1", v2 ? "v1" : "v2", model.zero_verdict.evidence)});
  }
  uint64_t wrapped = 0;
  std::string where;
  for (const auto& [name, linear] : model.linears) {
    if (linear.wrapped_zeros > 0 && where.empty()) where = name;
    if (linear.wrapped_zeros > 0) QC_TRY(plan->Wants("zero-wrap", name));
    wrapped += linear.wrapped_zeros;
  }
  if (wrapped > 0) {
    plan->notes.push_back({"zero-wrap", fmt::format("{} zero fields are all ones, first in linear '{}': true zero points of 0 that AutoGPTQ could not store; they are read as 0, as its own loader does, but neighbours in the same word were overwritten when the file was made and are lost", wrapped, Escape(where))});
  }
  return {};
}

Status NoteSplits(Plan* plan) {
  for (const auto& [name, linear] : plan->linears) {
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
  const auto refuse = [&](const std::string& name, const LayoutRule& rule, const Attempt& attempt, size_t others) {
    // A layout that would do with rounding is the better advice than one that never will.
    if (!first_refusal.empty() && (only_rounding || !attempt.only_rounding)) return;
    first_refusal = fmt::format("linear '{}' does not fit layout '{}': {}", Escape(name), rule.layout->name, attempt.refusal);
    if (others > 0) first_refusal += fmt::format(" (and {} more linears)", others);
    only_rounding = attempt.only_rounding;
  };

  if (plan->target.mixed_layouts) {
    for (const auto& [name, linear] : model.linears) {
      if (!linear.quantised()) continue;
      first_refusal.clear();
      only_rounding = false;
      for (const LayoutRule& rule : plan->target.layouts) {
        if (rule.on_request) continue;
        QC_ASSIGN(Attempt attempt, Try(model, name, linear, rule, plan->options.allow_rounding));
        if (attempt.planned.has_value()) {
          plan->linears.emplace(name, *std::move(attempt.planned));
          break;
        }
        refuse(name, rule, attempt, 0);
      }
      if (!plan->linears.contains(name)) return CannotHold(model, first_refusal, only_rounding);
    }
    QC_TRY(NoteSplits(plan));
    return NoteZeros(model, plan);
  }

  for (const LayoutRule& rule : plan->target.layouts) {
    if (rule.on_request) continue;
    std::map<std::string, PlannedLinear> all;
    std::optional<std::pair<std::string, Attempt>> refused;
    size_t count = 0;
    for (const auto& [name, linear] : model.linears) {
      if (!linear.quantised()) continue;
      QC_ASSIGN(Attempt attempt, Try(model, name, linear, rule, plan->options.allow_rounding));
      if (attempt.planned.has_value()) {
        all.emplace(name, *std::move(attempt.planned));
      } else if (count++ == 0) {
        refused.emplace(name, std::move(attempt));
      }
    }
    if (!refused.has_value()) {
      plan->linears = std::move(all);
      break;
    }
    refuse(refused->first, rule, refused->second, count - 1);
  }
  if (plan->linears.empty()) return CannotHold(model, first_refusal, only_rounding);
  if (!first_refusal.empty()) {
    plan->notes.push_back({"layout", fmt::format("written as '{}', because {}", plan->linears.begin()->second.layout->name, first_refusal)});
  }
  QC_TRY(NoteSplits(plan));
  return NoteZeros(model, plan);
}

}  // namespace q2c
