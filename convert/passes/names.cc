#include "convert/passes/passes.h"

#include "formats/base/text.h"

namespace q2c {

namespace {

PlannedTensor AsItIs(const Model& model, TensorIndex i, std::string reason) {
  const TensorInfo& info = model.info(i);
  PlannedTensor tensor;
  tensor.name = info.name;
  tensor.dtype = info.dtype;
  tensor.shape = info.shape;
  tensor.bytes = info.bytes;
  tensor.input = i;
  tensor.reason = std::move(reason);
  return tensor;
}

}  // namespace

Status PassNames(Plan* plan) {
  const Model& model = *plan->model;
  size_t renamed = 0;
  for (TensorIndex i = 0; i < model.canonical.size(); ++i) {
    if (model.canonical[i].empty()) continue;
    const TensorInfo& info = model.info(i);
    PlannedTensor tensor;
    tensor.name = model.canonical[i];
    tensor.dtype = info.dtype;
    tensor.shape = info.shape;
    const auto linear = model.linears.find(SplitPart(tensor.name).first);
    if (linear != model.linears.end() && !linear->second.quantised() && tensor.name.ends_with(".weight")) {
      tensor.shape = {linear->second.expected.out_features, linear->second.expected.in_features};
    }
    tensor.bytes = info.bytes;
    tensor.input = i;
    if (tensor.name != info.name) {
      QC_TRY(plan->Wants("names", info.name));
      tensor.action = "rename";
      tensor.reason = fmt::format("the architecture writes '{}' as '{}'", Escape(info.name), tensor.name);
      ++renamed;
    } else {
      tensor.reason = "the target wants it as it is";
    }
    plan->tensors.push_back(std::move(tensor));
  }
  for (const TensorIndex i : model.derived) {
    if (!plan->Makes("derived-buffer", model.info(i).name)) {
      plan->tensors.push_back(AsItIs(model, i, "left in the file by the user's choice"));
      continue;
    }
    plan->dropped.push_back({i, model.info(i).name, "derived-buffer", "computed from the config when the model is built; belongs in no checkpoint", {}});
  }
  for (const auto& [i, glob] : model.dropped) {
    plan->dropped.push_back({i, model.info(i).name, "user", fmt::format("left out by --drop={}", Escape(glob)), {}});
  }
  if (renamed > 0) plan->notes.push_back({"names", fmt::format("{} tensors are renamed to what the architecture calls them", renamed)});
  return {};
}

}  // namespace q2c
