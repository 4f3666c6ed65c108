#include "convert/passes/passes.h"

#include <algorithm>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The part of a layout that carries the same components.
const PartCodec* Counterpart(const Layout& layout, const PartCodec& part) {
  const auto found = std::ranges::find(layout.parts, part.components, &PartCodec::components);
  return found == layout.parts.end() ? nullptr : &*found;
}

std::string Reason(const Plan& plan, const Linear& linear, const PartCodec& part) {
  if (!linear.Part(part.suffix).has_value()) return "the loader needs it and the source has none: inputs follow each other in their groups";
  return fmt::format("'{}' becomes '{}', the layout of the target", linear.layout->name, plan.layout->name);
}

}  // namespace

Status PassRepack(Plan* plan) {
  const Model& model = *plan->model;
  // Every part of a quantised linear is planned anew; what is equal in both layouts stays a copy.
  std::set<std::string> replaced;
  std::vector<PlannedTensor> fresh;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.quantised()) continue;
    const TensorIndex anchor = linear.parts.at(std::string(linear.layout->parts.front().suffix));
    for (const PartCodec& part : plan->layout->parts) {
      const PartCodec* from = Counterpart(*linear.layout, part);
      const std::optional<TensorIndex> input = from == nullptr ? std::nullopt : linear.Part(from->suffix);
      if (input.has_value() && from->encoding == part.encoding) continue;  // the names pass planned the copy
      PlannedTensor tensor;
      tensor.name = fmt::format("{}.{}", name, part.suffix);
      tensor.shape = part.shape(linear.traits.shape);
      tensor.dtype = part.dtype.value_or(input.has_value() ? model.info(*input).dtype : Dtype::kF16);
      tensor.bytes = *BytesOf(tensor.dtype, tensor.shape);
      tensor.source = PlannedTensor::Source::kEncode;
      tensor.input = input.value_or(anchor);
      tensor.linear = &linear;
      tensor.part = &part;
      tensor.action = input.has_value() ? "repack" : "make";
      tensor.reason = Reason(*plan, linear, part);
      tensor.exactness = Exactness::kSameCodes;
      replaced.insert(tensor.name);
      fresh.push_back(std::move(tensor));
    }
  }
  std::erase_if(plan->tensors, [&](const PlannedTensor& t) { return replaced.contains(t.name); });
  std::ranges::move(fresh, std::back_inserter(plan->tensors));
  std::ranges::sort(plan->tensors, {}, &PlannedTensor::name);
  return {};
}

}  // namespace q2c
