// Linears that differ: what a loader has to be told of single ones, and which loaders can be.
#include "convert/passes/passes.h"

#include <algorithm>
#include <map>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

// A kind of linear of which some layers have a quantised one and others a float one; a layer that has none does not count.
struct Split {
  std::string quantised;  // a linear of either sort
  std::string plain;
};

std::optional<Split> FindSplit(const Model& model) {
  std::map<std::pair<std::string, std::string>, Split> kinds;  // by what stands before the number of the block, and after it
  for (const auto& [name, linear] : model.linears) {
    if (!linear.expected.in_block || linear.expected.router) continue;
    const size_t end = EndOfBlock(name);
    Split& kind = kinds[{name.substr(0, name.find_last_not_of("0123456789", end - 1) + 1), name.substr(end)}];
    std::string& first = linear.quantised() ? kind.quantised : kind.plain;
    if (first.empty()) first = name;
    if (!kind.quantised.empty() && !kind.plain.empty()) return kind;
  }
  return std::nullopt;
}

PerModule NeedOf(const Plan& plan) {
  if (SurveyOf(plan).mixed) return PerModule::kSettings;
  return FindSplit(*plan.model).has_value() ? PerModule::kFloats : PerModule::kNone;
}

// The linears of the model as they are stored.
PerModule NeedOf(const Model& model) {
  Plan stored;
  stored.model = &model;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    PlannedLinear& planned = stored.linears[name];
    planned.linear = &linear;
    planned.layout = linear.layout;
    planned.shape = linear.traits.shape;
  }
  return NeedOf(stored);
}

std::string SettingText(const PlannedLinear& linear) { return fmt::format("{} bits in groups of {}", linear.shape.bits, linear.shape.group_size); }

// Which linears differ, in words.
std::string Difference(const Plan& plan, PerModule need) {
  if (need == PerModule::kFloats) {
    const Split split = *FindSplit(*plan.model);
    return fmt::format("linear '{}' is float and '{}' is quantised", Escape(split.plain), Escape(split.quantised));
  }
  std::map<std::string, std::vector<std::string>> settings;
  for (const auto& [name, linear] : plan.linears) {
    if (linear.quantised()) settings[SettingText(linear)].push_back(name);
  }
  std::vector<std::string> texts;
  for (const auto& [setting, names] : settings) {
    texts.push_back(fmt::format("linear '{}' {} {}", Escape(names.front()), names.size() == 1 ? "has" : fmt::format("and {} more have", names.size() - 1), setting));
  }
  return Join(texts, ", ");
}

}  // namespace

std::string TargetsThatHold(const Model& model) {
  std::vector<std::string> names;
  const PerModule need = NeedOf(model);
  for (const std::string& name : TargetNames()) {
    const Result<Target> target = FindTarget(name);
    if (!target.ok()) continue;
    const bool refused = std::ranges::any_of(target.value().refuses_architectures, [&](const auto& row) { return row.first == model.architecture.model_type; });
    const auto holds = [&](const Linear& linear) {
      return std::ranges::any_of(target.value().layouts, [&](const LayoutRule& rule) {
        const bool rounds = rule.layout->rounds != nullptr && !linear.traits.symmetric && rule.layout->method != "gguf";
        return !rounds && rule.per_module >= need && !rule.Refuses(linear.traits).has_value() && rule.layout->GroupSizeFor(linear.traits.shape, rule.group_sizes).has_value();
      });
    };
    const bool all = std::ranges::all_of(model.linears, [&](const auto& entry) { return !entry.second.quantised() || holds(entry.second); });
    if (all && !refused && !name.starts_with("dense-")) names.push_back(name);
  }
  return names.empty() ? "no target holds it as it is; --target=dense-fp32 holds its values" : "targets that hold it: " + Join(names, ", ");
}

Status CheckPerModule(const Plan& plan) {
  if (plan.Method().empty()) return {};
  const Layout* layout = FirstQuantised(plan).layout;
  const PerModule need = NeedOf(plan);
  if (std::ranges::find(plan.target.layouts, layout, &LayoutRule::layout)->per_module >= need) return {};
  return Refused("quant-mixed", "{}, but the loaders of target '{}' take {}; {}", Difference(plan, need), plan.target.name,
                 need == PerModule::kFloats ? fmt::format("in '{}' a module as float only if it is so in every layer", layout->name) : fmt::format("in '{}' one number of bits and one group size for all", layout->name),
                 TargetsThatHold(*plan.model));
}

}  // namespace q2c
