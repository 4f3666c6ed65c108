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

// The pattern of a name, with one for any number in place of those behind `begin`: "^model\\.layers\\.[0-9]+\\.mlp\\.up_proj$".
std::string PatternOf(const std::string& name, size_t begin) {
  std::string pattern = "^";
  for (size_t i = 0; i <= name.size();) {
    const size_t end = std::min(name.find('.', i), name.size());
    const std::string_view piece = std::string_view(name).substr(i, end - i);
    if (i >= begin && !piece.empty() && piece.find_first_not_of("0123456789") == std::string_view::npos) {
      pattern += "[0-9]+";
    } else {
      for (const char c : piece) pattern += (std::string_view("\\^$|?*+()[]{}").find(c) == std::string_view::npos ? "" : "\\") + std::string(1, c);
    }
    if (end < name.size()) pattern += "\\.";
    i = end + 1;
  }
  return pattern + "$";
}

// Null for a linear that is float in the output.
const PlannedLinear* QuantisedIn(const Plan& plan, const std::string& name) {
  const auto planned = plan.linears.find(name);
  return planned != plan.linears.end() && planned->second.quantised() ? &planned->second : nullptr;
}

// What `dynamic` says of the linear: null for what all have, an empty object for a float one.
Json RuleOf(const Plan& plan, const std::string& name, const Survey& usual) {
  const PlannedLinear* planned = QuantisedIn(plan, name);
  if (planned == nullptr) return Json::Object();
  const QuantShape& shape = planned->shape;
  const bool covered = shape.groups == 1 && (usual.group_size < 0 || usual.group_size >= static_cast<int64_t>(shape.in_features));
  const int64_t size = covered ? usual.group_size : SaidGroupSize(*planned, usual.group_size);
  if (shape.bits == usual.bits && size == usual.group_size) return {};
  return Json::Object({{"bits", Json::Integer(uint64_t{shape.bits})}, {"group_size", Json::Integer(size)}});
}

}  // namespace

// GPTQModel takes the first pattern that fits, from the start of the name. One stands for all
// layers, or for all experts of a layer, where these agree; no two fit the same linear.
Json DynamicOf(const Plan& plan, const Survey& usual) {
  // Routers, embedding and head are left float without a word.
  const auto ruled = [&](const auto& entry) { return QuantisedIn(plan, entry.first) != nullptr || (entry.second.expected.in_block && !entry.second.expected.router); };
  const auto& linears = plan.model->linears;
  if (std::ranges::all_of(linears, [&](const auto& entry) { return !ruled(entry) || RuleOf(plan, entry.first, usual).is_null(); })) return Json::Object();
  std::map<std::string, Json> rules;
  for (const auto& entry : linears) {
    if (ruled(entry)) rules.emplace(entry.first, RuleOf(plan, entry.first, usual));
  }
  Json dynamic = Json::Object();
  using Begin = size_t (*)(const std::string&);
  for (const Begin begin : {Begin([](const std::string&) { return size_t{0}; }), Begin([](const std::string& name) { return EndOfBlock(name); }), Begin([](const std::string& name) { return name.size(); })}) {
    std::map<std::string, std::vector<std::string>> alike;
    for (const auto& [name, rule] : rules) alike[PatternOf(name, begin(name))].push_back(name);
    for (const auto& [pattern, names] : alike) {
      const Json rule = rules.at(names.front());
      if (!std::ranges::all_of(names, [&](const std::string& name) { return rules.at(name) == rule; })) continue;
      for (const std::string& name : names) rules.erase(name);
      if (!rule.is_null()) dynamic.Set((rule.members().empty() ? "-:" : "+:") + pattern, rule);
    }
  }
  return dynamic;
}

std::optional<uint64_t> GroupSizeIn(const LayoutRule& rule, const QuantTraits& traits, std::optional<uint64_t> asked, std::string* refusal) {
  const QuantShape& shape = traits.shape;
  const std::vector<uint64_t>& allowed = rule.group_sizes;
  if (!asked.has_value() || rule.layout->IsDense() || *asked == shape.group_size) return rule.layout->GroupSizeFor(shape, allowed);
  const uint64_t wanted[] = {*asked};
  const bool known = allowed.empty() || std::ranges::find(allowed, *asked) != allowed.end();
  if (traits.act_order) *refusal = "its inputs are scattered over the groups (act-order), which cannot be split then";
  else if (shape.group_size % *asked != 0 || shape.in_features % *asked != 0) *refusal = fmt::format("its groups of {} cannot be split into groups of {} (--group-size)", shape.group_size, *asked);
  else if (!known) *refusal = fmt::format("the loader knows groups of {}, not of {} (--group-size)", fmt::join(allowed, ", "), *asked);
  if (!refusal->empty()) return std::nullopt;
  return rule.layout->GroupSizeFor(shape, wanted);
}

std::string TargetsThatHold(const Model& model, std::optional<uint64_t> group_size) {
  std::vector<std::string> names;
  const PerModule need = NeedOf(model);
  for (const std::string& name : TargetNames()) {
    const Result<Target> target = FindTarget(name);
    if (!target.ok()) continue;
    const bool refused = target.value().RefusesArchitecture(model.architecture.model_type) != nullptr;
    const auto takes = [&](const LayoutRule& rule, const Linear& linear) {
      if (!linear.quantised()) return true;
      const bool rounds = rule.layout->rounds != nullptr && !linear.traits.symmetric && rule.layout->method != "gguf";
      std::string refusal;
      return !rule.on_request && !rounds && rule.per_module >= need && !rule.Refuses(linear.traits).has_value() && GroupSizeIn(rule, linear.traits, group_size, &refusal).has_value();
    };
    const std::vector<LayoutRule>& rules = target.value().layouts;
    const bool each = std::ranges::all_of(model.linears, [&](const auto& entry) { return std::ranges::any_of(rules, [&](const LayoutRule& rule) { return takes(rule, entry.second); }); });
    const bool all = std::ranges::any_of(rules, [&](const LayoutRule& rule) { return std::ranges::all_of(model.linears, [&](const auto& entry) { return takes(rule, entry.second); }); });
    if ((target.value().mixed_layouts ? each : all) && !refused && !name.starts_with("dense-")) names.push_back(name);
  }
  if (!names.empty()) return "targets that hold it: " + Join(names, ", ");
  return group_size.has_value() ? fmt::format("no target holds it in groups of {}; leave --group-size out, or choose a size that divides the groups", *group_size) : "no target holds it as it is; --target=dense-fp32 holds its values";
}

Status CheckPerModule(const Plan& plan) {
  if (plan.Method().empty()) return {};
  const Layout* layout = FirstQuantised(plan).layout;
  const PerModule need = NeedOf(plan);
  if (std::ranges::find(plan.target.layouts, layout, &LayoutRule::layout)->per_module >= need) return {};
  return Refused("quant-mixed", "{}, but the loaders of target '{}' take {}; {}", Difference(plan, need), plan.target.name,
                 need == PerModule::kFloats ? fmt::format("in '{}' a module as float only if it is so in every layer", layout->name) : fmt::format("in '{}' one number of bits and one group size for all", layout->name),
                 TargetsThatHold(*plan.model, plan.options.group_size));
}

}  // namespace q2c
