#include "convert/passes/passes.h"

#include <algorithm>
#include <set>

#include "formats/base/text.h"

namespace q2c {

Status PassBiases(Plan* plan) {
  const Model& model = *plan->model;
  const Checkpoint& checkpoint = *model.checkpoint;
  std::set<std::string> stripped;
  for (const auto& [name, linear] : model.linears) {
    const bool wanted_by_loader = plan->target.biases == BiasPolicy::kEveryQuantised && linear.quantised() && linear.expected.in_block;  // an embedding that MLX quantised becomes float
    const std::optional<TensorIndex> bias = linear.Part("bias");
    const std::string bias_name = name + ".bias";
    if (linear.expected.bias) {
      if (bias.has_value()) continue;
      return Malformed("bias-missing", "tensor '{}' is missing; the architecture needs it and it cannot be invented: take it from the original model", Escape(bias_name));
    }
    if (bias.has_value()) {
      QC_ASSIGN(const Magnitude size, MeasureTensor(checkpoint, model.info(*bias)));
      if (size.nonzero > 0) {
        return Refused("bias-not-zero", "tensor '{}': {} of {} values are not zero (largest {:.3g}), but {} has no bias there; without it the model would compute something else",
                       Escape(bias_name), size.nonzero, linear.expected.out_features, size.largest, model.class_name);
      }
      if (wanted_by_loader || !plan->Makes("zero-bias", bias_name)) continue;
      stripped.insert(bias_name);
      plan->dropped.push_back({*bias, bias_name, "zero-bias", fmt::format("all {} values are zero and {} has no bias there; newer loaders report it as unused", linear.expected.out_features, model.class_name), {}});
    } else if (wanted_by_loader && plan->Makes("zero-fill", bias_name)) {
      PlannedTensor tensor;
      tensor.name = bias_name;
      tensor.dtype = linear.traits.scale_dtype;
      tensor.shape = {linear.expected.out_features};
      tensor.bytes = *BytesOf(tensor.dtype, tensor.shape);
      tensor.source = PlannedTensor::Source::kZeros;
      tensor.input = linear.parts.at(std::string(linear.layout->parts.front().suffix));
      tensor.action = "zero-fill";
      tensor.reason = "this loader builds a bias on every quantised linear and leaves it uninitialised (NaN) where the file has none";
      tensor.exactness = Exactness::kSameValues;
      plan->tensors.push_back(std::move(tensor));
    }
  }
  std::erase_if(plan->tensors, [&](const PlannedTensor& t) { return stripped.contains(t.name); });
  return {};
}

}  // namespace q2c
