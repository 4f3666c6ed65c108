#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The channels sorted by the group they belong to, those of a group as they were.
std::vector<uint32_t> ByGroup(const std::vector<int32_t>& group_index) {
  std::vector<uint32_t> order(group_index.size());
  for (uint32_t k = 0; k < order.size(); ++k) order[k] = k;
  std::ranges::stable_sort(order, {}, [&](uint32_t k) { return group_index[k]; });
  return order;
}

Status Order(Plan* plan) {
  const Model& model = *plan->model;
  for (auto& [name, down] : plan->linears) {
    if (!down.orders_inputs) continue;
    QC_TRY(plan->Wants("act-order-fold", name));
    QC_ASSIGN(const QuantLinear groups, DecodeLinear(model, *down.linear, kGroupIndex));
    down.order = std::make_shared<const std::vector<uint32_t>>(ByGroup(groups.group_index));
    for (const std::string& feeder : down.linear->expected.fed_by) {
      PlannedLinear& linear = plan->linears.at(feeder);
      linear.order = down.order;
      linear.order_of = name;
    }
  }
  return {};
}

Error CannotPad(const std::string& name, const std::string& why) { return Refused("padding", "linear '{}' cannot get more channels: {}", Escape(name), why); }

// What does not fit says so here, with the shape that it would have.
Status CheckPadded(const std::string& name, const PlannedLinear& linear) {
  QuantTraits traits = linear.linear->traits;
  traits.shape = linear.shape;
  traits.act_order = linear.act_order();
  if (const std::optional<std::string> why = linear.layout->Refuses(traits)) return CannotPad(name, *why);
  if (!linear.layout->GroupSizeFor(linear.shape, {}).has_value() || (!linear.layout->ragged && linear.shape.Ragged())) {
    return CannotPad(name, fmt::format("{} inputs are no whole number of groups of {}; take a multiple of that", linear.shape.in_features, linear.shape.group_size));
  }
  return {};
}

// A bias of zeros gets longer.
void PadBias(const std::string& name, uint64_t outputs, Plan* plan) {
  const auto bias = std::ranges::find(plan->tensors, name + ".bias", &PlannedTensor::name);
  if (bias == plan->tensors.end()) return;
  if (bias->source == PlannedTensor::Source::kCopy) plan->dropped.push_back({bias->input, bias->name, "zero-bias", "made anew for more channels", {}});
  bias->source = PlannedTensor::Source::kZeros;
  bias->shape = {outputs};
  bias->bytes = *BytesOf(bias->dtype, bias->shape);
  bias->action = "zero-fill";
  bias->reason = "as long as the linear has outputs";
  bias->exactness = Exactness::kSameValues;
}

Status PadBlock(const std::string& name, uint64_t channels, Plan* plan) {
  PlannedLinear& down = plan->linears.at(name);
  QC_TRY(plan->Wants("pad-intermediate", name));
  const bool one_group = down.shape.groups == 1 && down.shape.group_size >= down.shape.in_features;
  if (down.linear->traits.nearest_zeros && down.shape.in_features % down.shape.group_size != 0) return CannotPad(name, "its last group is incomplete and has an offset that is no zero point");
  down.shape.in_features = channels;
  if (one_group) down.shape.group_size = channels;
  down.shape.groups = CeilDiv(channels, down.shape.group_size);
  QC_TRY(CheckPadded(name, down));
  for (const std::string& feeder : down.linear->expected.fed_by) {
    PlannedLinear& linear = plan->linears.at(feeder);
    linear.shape.out_features = channels;
    QC_TRY(CheckPadded(feeder, linear));
    PadBias(feeder, channels, plan);
  }
  const std::string& key = down.linear->expected.channels_key;
  const auto [size, fresh] = plan->sizes.emplace(key, channels);
  if (!fresh && size->second != channels) return Internal("'{}' would be {} and {}", key, size->second, channels);
  return {};
}

Status PadAll(Plan* plan) {
  const uint64_t multiple = *plan->options.pad_intermediate;
  for (const auto& [name, linear] : plan->model->linears) {
    if (linear.expected.fed_by.empty()) continue;
    const uint64_t channels = CeilDiv(linear.expected.in_features, multiple) * multiple;
    if (channels == linear.expected.in_features) continue;
    std::vector<std::string> block = linear.expected.fed_by;
    block.push_back(name);
    for (const std::string& each : block) {
      if (!plan->linears.contains(each)) return CannotPad(each, "it is not quantised");
    }
    QC_TRY(PadBlock(name, channels, plan));
  }
  return {};
}

}  // namespace

Status PassChannels(Plan* plan) {
  QC_TRY(Order(plan));
  return plan->options.pad_intermediate.has_value() ? PadAll(plan) : Status();
}

}  // namespace q2c
