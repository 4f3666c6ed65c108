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

PlannedTensor InPlace(const Model& model, TensorIndex i, const Place& place) {
  const TensorInfo& info = model.info(i);
  PlannedTensor tensor = AsItIs(model, i, "the target wants it as it is");
  tensor.name = place.name;
  const bool weight = tensor.name.ends_with(".weight");
  if (weight) {
    const auto linear = model.linears.find(SplitPart(tensor.name).first);
    if (linear != model.linears.end() && !linear->second.quantised()) tensor.shape = {linear->second.expected.out_features, linear->second.expected.in_features};
  }
  if (place.rows.IsPart() && (weight || tensor.name.ends_with(".bias"))) {
    tensor.rows = place.rows;
    tensor.shape.front() = place.rows.count;
    tensor.bytes = info.bytes / place.rows.of * place.rows.count;
    tensor.action = "split";
    tensor.reason = fmt::format("rows {} to {} of '{}': the architecture keeps them apart", place.rows.first, place.rows.first + place.rows.count - 1, Escape(info.name));
  } else if (tensor.name != info.name) {
    tensor.action = "rename";
    tensor.reason = fmt::format("the architecture writes '{}' as '{}'", Escape(info.name), tensor.name);
  }
  return tensor;
}

}  // namespace

Status PassNames(Plan* plan) {
  const Model& model = *plan->model;
  size_t renamed = 0;
  plan->tensors.reserve(model.places.size());
  for (TensorIndex i = 0; i < model.places.size(); ++i) {
    for (const Place& place : model.places[i]) {
      PlannedTensor tensor = InPlace(model, i, place);
      if (place.rows.IsPart()) QC_TRY(plan->Wants("family", model.info(i).name));
      if (tensor.name != model.info(i).name) {
        QC_TRY(plan->Wants("names", model.info(i).name));
        ++renamed;
      }
      plan->tensors.push_back(std::move(tensor));
    }
  }
  for (const TensorIndex i : model.derived) {
    if (!plan->Makes("derived-buffer", model.info(i).name)) {
      plan->tensors.push_back(AsItIs(model, i, "left in the file by the user's choice"));
      continue;
    }
    plan->dropped.push_back({i, model.info(i).name, "derived-buffer", "computed from the config when the model is built; belongs in no checkpoint", {}});
  }
  for (const TensorIndex i : model.vision) {
    plan->dropped.push_back({i, model.info(i).name, "text-only", "a part of the vision tower, left out by --text-only", {}});
  }
  for (const auto& [i, glob] : model.dropped) {
    if (model.info(i).name.ends_with(".bias")) {
      QC_ASSIGN(const Magnitude size, MeasureTensor(*model.checkpoint, model.info(i)));
      if (size.nonzero > 0) return Refused("drop-needed", "--drop={} matches '{}', {} values of which are not zero (largest {}): without it the model is another one", Escape(glob), Escape(model.info(i).name), size.nonzero, size.LargestText());
    }
    plan->dropped.push_back({i, model.info(i).name, "user", fmt::format("left out by --drop={}", Escape(glob)), {}});
  }
  if (renamed > 0) plan->notes.push_back({"names", fmt::format("{} tensors are renamed to what the architecture calls them", renamed)});
  return {};
}

}  // namespace q2c
