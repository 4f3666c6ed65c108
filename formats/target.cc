#include "formats/target.h"

#include <algorithm>

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

std::string_view PolicyText(BiasPolicy policy) {
  return policy == BiasPolicy::kEveryQuantised ? "wants a bias on every quantised linear" : "wants biases only where the architecture declares them";
}

}  // namespace

std::vector<std::string> TargetNames() {
  std::vector<std::string> names;
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.folder == "targets") names.emplace_back(file.name);
  }
  return names;
}

Result<Target> FindTarget(const std::string& name) {
  for (const EmbeddedFile& file : EmbeddedFiles()) {
    if (file.folder != "targets" || file.name != name) continue;
    QC_ASSIGN(const Json json, ParseJson(file.text));
    Target target;
    target.name = name;
    target.summary = json.Find("summary")->text();
    target.versions = json.Find("versions")->text();
    target.verified_with = Strings(json.Find("verified_with"));
    target.biases = json.Find("biases")->text() == "every-quantised" ? BiasPolicy::kEveryQuantised : BiasPolicy::kArchitecture;
    target.layouts = Strings(json.Find("layouts"));
    if (const Json* refuses = json.Find("refuses_architectures")) {
      for (const auto& [type, why] : refuses->members()) target.refuses_architectures.emplace_back(type, why.text());
    }
    return target;
  }
  return Usage("target", "target '{}' is not known; known are {}", Escape(name), Join(TargetNames(), ", "));
}

Result<Target> CombineTargets(const std::vector<Target>& targets) {
  if (targets.empty()) return Usage("target", "no target; give --target=NAME, one of {}", Join(TargetNames(), ", "));
  Target all = targets.front();
  for (size_t i = 1; i < targets.size(); ++i) {
    const Target& next = targets[i];
    if (next.biases != all.biases) {
      return Refused("target-conflict", "targets '{}' and '{}' cannot share one output: the first {}, the second {}; convert twice", all.name, next.name, PolicyText(all.biases), PolicyText(next.biases));
    }
    std::erase_if(all.layouts, [&](const std::string& layout) { return std::ranges::find(next.layouts, layout) == next.layouts.end(); });
    if (all.layouts.empty()) return Refused("target-conflict", "targets '{}' and '{}' have no layout in common; convert twice", all.name, next.name);
    all.name += "+" + next.name;
    all.refuses_architectures.insert(all.refuses_architectures.end(), next.refuses_architectures.begin(), next.refuses_architectures.end());
  }
  return all;
}

}  // namespace q2c
