#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

// GGUF has names of its own, no leading dimensions of 1, and one file that holds everything.
Status NameForGguf(Plan* plan) {
  const Architecture& architecture = plan->model->architecture;
  const auto place = [&](const std::string& name) -> Result<std::string> {
    std::optional<std::string> theirs = architecture.GgufName(name);
    if (!theirs.has_value()) return Refused("gguf-name", "tensor '{}' has no place in a GGUF file of '{}'; leave it out with --drop if it is of no use", Escape(name), architecture.model_type);
    return *std::move(theirs);
  };
  // Where llama.cpp ties no head to the embedding, the embedding is written twice.
  const Json* own_head = architecture.definition.Find("gguf_needs_head");
  const auto named = [&](std::string_view name) { return std::ranges::find(plan->tensors, name, &PlannedTensor::name); };
  if (own_head != nullptr && named("lm_head.weight") == plan->tensors.end()) {
    PlannedTensor head = *named("model.embed_tokens.weight");
    head.name = "lm_head.weight";
    head.reason = "llama.cpp wants a head of its own for this architecture; it is the embedding, with which config.json ties it";
    plan->tensors.push_back(std::move(head));
  }
  for (PlannedTensor& tensor : plan->tensors) {
    QC_ASSIGN(tensor.name, place(tensor.name));
    while (tensor.shape.size() > 1 && tensor.shape.front() == 1) tensor.shape.erase(tensor.shape.begin());
  }
  for (auto& [name, linear] : plan->linears) {
    QC_ASSIGN(const std::string tensor, place(name + ".weight"));
    linear.name = SplitPart(tensor).first;
  }
  std::ranges::sort(plan->tensors, {}, &PlannedTensor::name);
  plan->side_files = false;
  plan->notes.push_back({"gguf", "tokenizer, chat template and sizes go into the file itself; the input's side files are not copied"});
  return {};
}

}  // namespace

Status PassContainer(Plan* plan) { return plan->target.container == Container::kGguf ? NameForGguf(plan) : Status(); }

}  // namespace q2c
