#include "convert/passes/passes.h"

#include <algorithm>
#include <numeric>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The source's part that holds the very bytes of this part, if any.
std::optional<TensorIndex> SameBytesAs(const PlannedLinear& planned, const PartCodec& part) {
  const Linear& linear = *planned.linear;
  if (linear.rows.IsPart() && part.components != kGroupIndex) return std::nullopt;
  if ((part.components & (kZeros | kScales | kGroupIndex)) != 0 && planned.shape.group_size != linear.traits.shape.group_size) return std::nullopt;
  if (!part.dtype.has_value() && planned.scale_dtype != linear.traits.scale_dtype) return std::nullopt;
  const bool inputs = planned.orders_inputs || planned.shape.in_features != linear.traits.shape.in_features;
  const bool outputs = (planned.order != nullptr && !planned.orders_inputs) || planned.shape.out_features != linear.traits.shape.out_features;
  if ((inputs && part.components != 0) || (outputs && part.components != kGroupIndex)) return std::nullopt;
  for (const PartCodec& from : linear.layout->parts) {
    if (from.encoding == part.encoding) return linear.Part(from.suffix);
  }
  return std::nullopt;
}

// A tensor of the source that carries some of the same, for messages and for the order of files.
TensorIndex Anchor(const Linear& linear, const PartCodec& part) {
  for (const PartCodec& from : linear.layout->parts) {
    if ((from.components & part.components) != 0 && linear.Part(from.suffix).has_value()) return *linear.Part(from.suffix);
  }
  return *linear.Part(linear.layout->parts.front().suffix);
}

bool CarriedBySource(const Linear& linear, uint8_t components) {
  return std::ranges::any_of(linear.layout->parts, [&](const PartCodec& from) { return (from.components & components) != 0 && linear.Part(from.suffix).has_value(); });
}

std::string Reason(const PlannedLinear& planned, const PartCodec& part, bool carried) {
  if (!carried && part.components == kGroupIndex) return "the loader needs it and the source has none: inputs follow each other in their groups";
  const OutputRange& rows = planned.linear->rows;
  std::string reason;
  if (rows.IsPart()) reason = fmt::format("outputs {} to {} of {} that are stored as one linear: the architecture keeps them apart", rows.first, rows.first + rows.count - 1, rows.of);
  if (planned.linear->layout != planned.layout) reason += fmt::format("{}'{}' becomes '{}', the layout of the target", reason.empty() ? "" : "; ", planned.linear->layout->name, planned.layout->name);
  if (planned.order != nullptr) reason += fmt::format("{}the channels are put in the order of the groups of '{}'", reason.empty() ? "" : "; ", planned.order_of);
  if (planned.Padded()) reason += fmt::format("{}from {} x {} to {} x {} by channels of zeros", reason.empty() ? "" : "; ", planned.linear->traits.shape.out_features, planned.linear->traits.shape.in_features, planned.shape.out_features, planned.shape.in_features);
  if (planned.scale_dtype != planned.linear->traits.scale_dtype) reason += fmt::format("{}the loader takes scales of {}", reason.empty() ? "" : "; ", NameOf(planned.scale_dtype));
  if (planned.shape.group_size != planned.linear->traits.shape.group_size) {
    reason += fmt::format("; groups of {} are split into groups of {}", planned.linear->traits.shape.group_size, planned.shape.group_size);
  }
  if (!planned.rounds.empty()) reason += "; rounded: " + planned.rounds;
  return reason;
}

// `same`: the part of the source that holds its very bytes, under another name.
PlannedTensor PlanPart(const std::string& name, const PlannedLinear& planned, const PartCodec& part, std::optional<TensorIndex> same) {
  const Linear& linear = *planned.linear;
  PlannedTensor tensor;
  tensor.name = fmt::format("{}.{}", name, part.suffix);
  tensor.shape = part.shape(planned.shape);
  tensor.dtype = part.dtype.value_or(planned.scale_dtype);
  tensor.bytes = *BytesOf(tensor.dtype, tensor.shape);
  if (same.has_value()) {
    tensor.input = *same;
    tensor.action = "rename";
    tensor.reason = fmt::format("layout '{}' has the same bytes under this name", planned.layout->name);
    return tensor;
  }
  const bool carried = CarriedBySource(linear, part.components);
  tensor.source = PlannedTensor::Source::kEncode;
  tensor.input = Anchor(linear, part);
  tensor.linear = &planned;
  tensor.part = &part;
  tensor.action = !carried ? "make" : linear.rows.IsPart() ? "split" : "repack";
  tensor.reason = Reason(planned, part, carried);
  tensor.exactness = part.components == kSizes ? Exactness::kSameCodes : planned.exactness;
  return tensor;
}

bool IsNamed(std::string_view tensor, std::string_view linear, std::string_view suffix) {
  return tensor.size() == linear.size() + 1 + suffix.size() && tensor.starts_with(linear) && tensor.ends_with(suffix) && tensor[linear.size()] == '.';
}

// By way of their places: they are many, and large.
void SortByName(std::vector<PlannedTensor>* tensors) {
  std::vector<size_t> order(tensors->size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::stable_sort(order, {}, [&](size_t i) -> const std::string& { return (*tensors)[i].name; });
  std::vector<PlannedTensor> sorted;
  sorted.reserve(order.size());
  for (const size_t i : order) sorted.push_back(std::move((*tensors)[i]));
  *tensors = std::move(sorted);
}

// Parts of the source that the new layout takes for granted.
void DropImplied(const Model& model, const std::string& name, const PlannedLinear& planned, const std::vector<const PartCodec*>& written, Plan* plan) {
  uint8_t carried = 0;
  for (const PartCodec* part : written) carried |= part->components;
  for (const PartCodec& part : planned.linear->layout->parts) {
    const std::optional<TensorIndex> index = planned.linear->Part(part.suffix);
    if (!index.has_value() || (part.components & carried) != 0) continue;
    std::string reason = fmt::format("'{}' does not store it: ", planned.layout->name);
    if (part.components == kGroupIndex) reason += "the inputs follow each other in their groups";
    else if (part.components == kZeros) reason += fmt::format("every zero point is {}", planned.linear->traits.shape.MidCode());
    else reason += "the shapes say the same";
    plan->dropped.push_back({*index, model.info(*index).name, "implied", std::move(reason), {}});
    plan->dropped.back().name = fmt::format("{}.{}", name, part.suffix);
  }
}

}  // namespace

// Every part of a quantised linear is planned anew, but for one that stays what it is, where it is.
Status PassRepack(Plan* plan) {
  const Model& model = *plan->model;
  std::vector<bool> replaced(model.places.size());  // by TensorIndex
  std::vector<PlannedTensor> fresh;
  for (const auto& [name, planned] : plan->linears) {
    for (const PartCodec& part : planned.linear->layout->parts) {
      if (const std::optional<TensorIndex> index = planned.linear->Part(part.suffix)) replaced[*index] = true;
    }
    QuantTraits traits = planned.linear->traits;
    traits.shape = planned.shape;
    traits.act_order = planned.act_order();
    std::vector<const PartCodec*> written;
    for (const PartCodec& part : planned.layout->parts) {
      if (part.written != nullptr && !part.written(traits)) continue;
      written.push_back(&part);
      const std::optional<TensorIndex> same = SameBytesAs(planned, part);
      if (same.has_value() && IsNamed(model.info(*same).name, name, part.suffix)) {
        replaced[*same] = false;
        continue;
      }
      fresh.push_back(PlanPart(name, planned, part, same));
      if (fresh.back().action == "make" && part.components == kGroupIndex) QC_TRY(plan->Wants("g-idx", fresh.back().name));
    }
    DropImplied(model, name, planned, written, plan);
  }
  std::erase_if(plan->tensors, [&](const PlannedTensor& t) { return t.HasSource() && replaced[t.input]; });
  std::ranges::move(fresh, std::back_inserter(plan->tensors));
  SortByName(&plan->tensors);
  return {};
}

}  // namespace q2c
