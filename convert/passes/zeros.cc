#include "convert/passes/passes.h"

#include "formats/base/text.h"

namespace q2c {

// The first layout in the target's order of preference that holds every linear.
Status PassZeros(Plan* plan) {
  const Model& model = *plan->model;
  std::string first_refusal;
  for (const std::string& candidate : plan->target.layouts) {
    const Layout* layout = FindLayout(candidate);
    if (layout == nullptr) return Internal("target '{}' names layout '{}', which does not exist", plan->target.name, candidate);
    std::string refusal;
    size_t refused = 0;
    for (const auto& [name, linear] : model.linears) {
      if (!linear.quantised()) continue;
      const std::optional<std::string> why = layout->refuses(linear.traits);
      if (!why.has_value()) continue;
      if (refused++ == 0) refusal = fmt::format("linear '{}' does not fit layout '{}': {}", Escape(name), layout->name, *why);
    }
    if (refused == 0) {
      plan->layout = layout;
      break;
    }
    if (refused > 1) refusal += fmt::format(" (and {} more linears)", refused - 1);
    if (first_refusal.empty()) first_refusal = refusal;
  }
  if (plan->layout == nullptr) {
    return Refused("layout-cannot-hold", "{}; --target=transformers-5.x may take it as GPTQ v2", first_refusal);
  }
  if (!first_refusal.empty()) {
    plan->notes.push_back({"layout", fmt::format("written as '{}', because {}", plan->layout->name, first_refusal)});
  }
  if (model.zero_label_wrong) {
    const bool v2 = model.zero_verdict.convention == ZeroConvention::kV2;
    plan->notes.push_back({"zero-label", fmt::format("the zero points are stored as {}, although the config says {}: {}", v2 ? "v2" : "v1", v2 ? "v1" : "v2", model.zero_verdict.evidence)});
  }
  uint64_t wrapped = 0;
  std::string where;
  for (const auto& [name, linear] : model.linears) {
    if (linear.wrapped_zeros > 0 && where.empty()) where = name;
    wrapped += linear.wrapped_zeros;
  }
  if (wrapped > 0) {
    plan->notes.push_back({"zero-wrap", fmt::format("{} zero fields are all ones, first in linear '{}': true zero points of 0 that AutoGPTQ could not store; they are read as 0, as its own loader does, but neighbours in the same word were overwritten when the file was made and are lost", wrapped, Escape(where))});
  }
  return {};
}

}  // namespace q2c
