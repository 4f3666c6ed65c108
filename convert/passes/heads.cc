#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {

Status PassHeads(Plan* plan) {
  const Model& model = *plan->model;
  for (const auto& [name, linear] : model.linears) {
    if (!model.tied || linear.expected.tied_to.empty()) continue;
    if (linear.quantised()) {
      if (plan->Makes("head-differs", name)) {
        plan->tied = false;
        plan->notes.push_back({"head-differs", fmt::format("'{}' is quantised, so it is not the embedding that config.json ties it to: it is kept and tie_word_embeddings becomes false, since loaders would put the embedding in its place", Escape(name))});
      }
      continue;
    }
    const std::optional<TensorIndex> weight = linear.Part("weight");
    if (!weight.has_value() || !model.tensors.contains(linear.expected.tied_to + ".weight")) continue;
    const std::string weight_name = name + ".weight";
    const TensorInfo& head = model.info(*weight);
    const TensorIndex embedding_index = model.tensors.at(linear.expected.tied_to + ".weight");
    const TensorInfo& embedding = model.info(embedding_index);
    QC_ASSIGN(const bool same, SameBytes(*model.checkpoint, head, *model.checkpoint, embedding));
    if (same) {
      if (!plan->Makes("tied-head", weight_name)) continue;
      std::erase_if(plan->tensors, [&](const PlannedTensor& t) { return t.name == weight_name; });
      plan->dropped.push_back({*weight, weight_name, "tied-head", fmt::format("equal to '{}.weight', with which config.json ties it; transformers 5.0 to 5.3 does not tie when both are present", linear.expected.tied_to), embedding_index});
    } else if (plan->Makes("head-differs", weight_name)) {
      plan->tied = false;
      plan->notes.push_back({"head-differs", fmt::format("'{}' differs from the embedding that config.json ties it to: it is kept and tie_word_embeddings becomes false, since loaders before 5 would overwrite it", weight_name)});
    }
  }
  return {};
}

}  // namespace q2c
