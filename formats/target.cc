#include "formats/target.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "formats/embedded.h"

namespace q2c {
namespace {

std::vector<std::string> Strings(const Json* list) {
  std::vector<std::string> out;
  if (list == nullptr) return out;
  for (const Json& item : list->items()) out.push_back(item.text());
  return out;
}

template <typename T>
std::vector<T> Numbers(const Json* list) {
  std::vector<T> out;
  if (list == nullptr) return out;
  for (const Json& item : list->items()) out.push_back(static_cast<T>(item.AsU64().value_or(0)));
  return out;
}

bool Flag(const Json& json, std::string_view key, bool fallback) {
  const Json* value = json.Find(key);
  return value == nullptr ? fallback : value->AsBool().value_or(fallback);
}

// "gptq-v1", or an object with the name and what of it is taken.
Result<LayoutRule> ReadLayout(const std::string& target, const Json& json) {
  LayoutRule rule;
  const std::string& name = json.is_string() ? json.text() : json.Find("layout")->text();
  rule.layout = FindLayout(name);
  if (rule.layout == nullptr) return Internal("target '{}' names layout '{}', which does not exist", target, name);
  if (json.is_string()) return rule;
  rule.bits = Numbers<uint32_t>(json.Find("bits"));
  rule.group_sizes = Numbers<uint64_t>(json.Find("group_sizes"));
  rule.asymmetric = Flag(json, "asymmetric", true);
  rule.act_order = Flag(json, "act_order", true);
  rule.on_request = Flag(json, "on_request", false);
  constexpr std::array<std::pair<std::string_view, PerModule>, 2> kPerModule = {{{"floats", PerModule::kFloats}, {"settings", PerModule::kSettings}}};
  if (const Json* differ = json.Find("per_module")) rule.per_module = std::ranges::find(kPerModule, differ->text(), [](const auto& entry) { return entry.first; })->second;
  return rule;
}

FloatRule ReadFloat(const Json& json) {
  constexpr std::array<std::pair<std::string_view, FloatRule::Kind>, 4> kKinds = {{
      {"all", FloatRule::Kind::kAll}, {"vectors", FloatRule::Kind::kVectors}, {"routers", FloatRule::Kind::kRouters}, {"matrices", FloatRule::Kind::kMatrices}}};
  FloatRule rule;
  rule.kind = std::ranges::find(kKinds, json.Find("which")->text(), [](const auto& kind) { return kind.first; })->second;
  rule.dtype = *DtypeNamed(json.Find("dtype")->text());
  rule.only_if_rounding = Flag(json, "only_if_rounding", false);
  return rule;
}

std::string_view PolicyText(BiasPolicy policy) {
  return policy == BiasPolicy::kEveryQuantised ? "wants a bias on every quantised linear" : "wants biases only where the architecture declares them";
}

template <typename T>
void Intersect(std::vector<T>* mine, const std::vector<T>& others) {
  if (mine->empty()) *mine = others;
  else if (!others.empty()) std::erase_if(*mine, [&](const T& value) { return std::ranges::find(others, value) == others.end(); });
}

bool SameFloats(const std::vector<FloatRule>& a, const std::vector<FloatRule>& b) {
  return std::ranges::equal(a, b, [](const FloatRule& x, const FloatRule& y) { return x.kind == y.kind && x.dtype == y.dtype && x.only_if_rounding == y.only_if_rounding; });
}

// What both take of a layout, or nothing.
std::optional<LayoutRule> Common(const LayoutRule& a, const std::vector<LayoutRule>& others) {
  const auto b = std::ranges::find(others, a.layout, &LayoutRule::layout);
  if (b == others.end()) return std::nullopt;
  LayoutRule both = a;
  Intersect(&both.bits, b->bits);
  Intersect(&both.group_sizes, b->group_sizes);
  both.asymmetric = a.asymmetric && b->asymmetric;
  both.act_order = a.act_order && b->act_order;
  both.on_request = a.on_request || b->on_request;
  both.per_module = std::min(a.per_module, b->per_module);
  const bool none = (both.bits.empty() && !(a.bits.empty() && b->bits.empty())) || (both.group_sizes.empty() && !(a.group_sizes.empty() && b->group_sizes.empty()));
  return none ? std::nullopt : std::optional(both);
}

}  // namespace

std::optional<std::string> LayoutRule::Refuses(const QuantTraits& traits) const {
  if (std::optional<std::string> why = layout->Refuses(traits)) return why;
  if (!bits.empty() && std::ranges::find(bits, traits.shape.bits) == bits.end()) return fmt::format("it has {} bits, and the loader takes {}", traits.shape.bits, fmt::join(bits, " or "));
  if (!asymmetric && !traits.symmetric) return fmt::format("its zero points are not all {}, and the loader takes '{}' only symmetric", traits.shape.MidCode(), layout->name);
  if (!act_order && traits.act_order) return "its inputs are scattered over the groups (act-order), which the loader ignores";
  return std::nullopt;
}

const std::string* Target::RefusesArchitecture(std::string_view model_type) const {
  const auto found = std::ranges::find(refuses_architectures, model_type, [](const auto& row) { return row.first; });
  return found == refuses_architectures.end() ? nullptr : &found->second;
}

bool Target::ReadsDeclaredBias(std::string_view model_type, std::string_view linear) const {
  const std::string_view last = linear.substr(linear.rfind('.') + 1);
  return std::ranges::all_of(declared_biases, [&](const auto& row) { return row.first != model_type || std::ranges::find(row.second, last) != row.second.end(); });
}

std::vector<std::string> TargetNames() { return EmbeddedNames("targets"); }

Result<Target> FindTarget(const std::string& name) {
  const std::optional<std::string_view> text = EmbeddedText("targets", name);
  if (!text.has_value()) return Usage("target", "target '{}' is not known; known are {}", Escape(name), Join(TargetNames(), ", "));
  QC_ASSIGN(const Json json, ParseJson(*text));
  Target target;
  target.name = name;
  target.summary = json.Find("summary")->text();
  target.versions = json.Find("versions")->text();
  target.verified_with = Strings(json.Find("verified_with"));
  if (const Json* biases = json.Find("biases"); biases != nullptr && biases->text() == "every-quantised") target.biases = BiasPolicy::kEveryQuantised;
  for (const Json& item : json.Find("layouts")->items()) {
    QC_ASSIGN(LayoutRule rule, ReadLayout(name, item));
    target.layouts.push_back(std::move(rule));
  }
  target.mixed_layouts = Flag(json, "mixed_layouts", false);
  if (const Json* container = json.Find("container"); container != nullptr && container->text() == "gguf") target.container = Container::kGguf;
  if (const Json* format = json.Find("metadata_format")) target.metadata_format = format->text();
  target.quantised_head = Flag(json, "quantised_head", false);
  if (const Json* scales = json.Find("scales")) target.scales = DtypeNamed(scales->text());
  if (const Json* floats = json.Find("floats")) {
    for (const Json& item : floats->items()) target.floats.push_back(ReadFloat(item));
  }
  if (const Json* warning = json.Find("warning")) target.warning = warning->text();
  if (const Json* refuses = json.Find("refuses_architectures")) {
    for (const auto& [type, why] : refuses->members()) target.refuses_architectures.emplace_back(type, why.text());
  }
  if (const Json* declared = json.Find("declared_biases")) {
    for (const auto& [type, linears] : declared->members()) target.declared_biases.emplace_back(type, Strings(&linears));
  }
  return target;
}

Result<Target> CombineTargets(const std::vector<Target>& targets) {
  if (targets.empty()) return Usage("target", "no target; give --target=NAME, one of {}", Join(TargetNames(), ", "));
  Target all = targets.front();
  for (size_t i = 1; i < targets.size(); ++i) {
    const Target& next = targets[i];
    const auto conflict = [&](const std::string& why) { return Refused("target-conflict", "targets '{}' and '{}' cannot share one output: {}; convert twice", all.name, next.name, why); };
    if (next.biases != all.biases) return conflict(fmt::format("the first {}, the second {}", PolicyText(all.biases), PolicyText(next.biases)));
    if (next.container != all.container || next.metadata_format != all.metadata_format) return conflict("they read different containers");
    if (!SameFloats(next.floats, all.floats)) return conflict("they want the float tensors in different types");
    if (next.scales.has_value() && next.scales != all.scales.value_or(*next.scales)) return conflict("they want the scales in different types");
    if (!all.scales.has_value()) all.scales = next.scales;
    std::vector<LayoutRule> common;
    for (const LayoutRule& rule : all.layouts) {
      if (std::optional<LayoutRule> both = Common(rule, next.layouts)) common.push_back(*std::move(both));
    }
    if (common.empty()) return Refused("target-conflict", "targets '{}' and '{}' have no layout in common; convert twice", all.name, next.name);
    all.layouts = std::move(common);
    all.quantised_head = all.quantised_head && next.quantised_head;
    all.mixed_layouts = all.mixed_layouts && next.mixed_layouts;
    all.name += "+" + next.name;
    if (!next.warning.empty()) all.warning += (all.warning.empty() ? "" : "; ") + next.warning;
    all.declared_biases.insert(all.declared_biases.end(), next.declared_biases.begin(), next.declared_biases.end());
    all.refuses_architectures.insert(all.refuses_architectures.end(), next.refuses_architectures.begin(), next.refuses_architectures.end());
  }
  return all;
}

Result<Target> WithLayout(Target target, const std::string& layout) {
  std::vector<std::string> names;
  for (const LayoutRule& rule : target.layouts) names.emplace_back(rule.layout->name);
  if (std::ranges::find(names, layout) == names.end()) {
    return Usage("layout", "--layout={}: target '{}' takes {}", Escape(layout), target.name, Join(names, " or "));
  }
  std::erase_if(target.layouts, [&](const LayoutRule& rule) { return rule.layout->name != layout; });
  target.layouts.front().on_request = false;
  return target;
}

}  // namespace q2c
