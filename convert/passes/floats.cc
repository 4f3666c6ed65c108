#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"
#include "formats/cast.h"

namespace q2c {
namespace {

using Kind = FloatRule::Kind;

Kind KindOf(const Model& model, const PlannedTensor& tensor) {
  const auto linear = model.linears.find(SplitPart(tensor.name).first);
  if (linear != model.linears.end() && linear->second.expected.router) return Kind::kRouters;
  return std::ranges::count_if(tensor.shape, [](uint64_t dim) { return dim != 1; }) > 1 ? Kind::kMatrices : Kind::kVectors;
}

const FloatRule* RuleFor(const Plan& plan, const PlannedTensor& tensor) {
  const Kind kind = KindOf(*plan.model, tensor);
  for (const FloatRule& rule : plan.target.floats) {
    if (rule.only_if_rounding && !plan.options.allow_rounding) continue;
    if (rule.kind == Kind::kAll || rule.kind == kind) return &rule;
  }
  return nullptr;
}

bool IsFloat(Dtype dtype) { return IsFloat16Or32(dtype) || InfoOf(dtype).block > 1; }

}  // namespace

Status PassFloats(Plan* plan) {
  for (PlannedTensor& tensor : plan->tensors) {
    if (tensor.source == PlannedTensor::Source::kEncode || !IsFloat(tensor.dtype)) continue;
    const auto quantised = plan->linears.find(SplitPart(tensor.name).first);
    if (quantised != plan->linears.end() && !tensor.name.ends_with(".bias")) continue;  // scales
    const FloatRule* rule = RuleFor(*plan, tensor);
    Dtype dtype = rule == nullptr ? tensor.dtype : rule->dtype;
    // safetensors has no block types.
    if (rule == nullptr && InfoOf(dtype).block > 1 && plan->target.container == Container::kSafetensors) dtype = Dtype::kF32;
    if (InfoOf(dtype).block > 1 && tensor.shape.back() % InfoOf(dtype).block != 0) continue;
    if (dtype == tensor.dtype || !CanCast(tensor.dtype, dtype)) continue;
    const bool exact = CastIsExact(tensor.dtype, dtype);
    if (!exact && !plan->options.allow_rounding) {
      return Refused("rounding", "tensor '{}' would be rounded from {} to {}; add --allow-rounding to accept that, the report then says how much", Escape(tensor.name), NameOf(tensor.dtype), NameOf(dtype));
    }
    tensor.action = InfoOf(dtype).block > 1 ? "quantise" : InfoOf(tensor.dtype).block > 1 ? "dequantise" : "cast";
    tensor.reason = fmt::format("target '{}' wants it as {}, the source has {}", plan->target.name, NameOf(dtype), NameOf(tensor.dtype));
    tensor.exactness = exact ? Exactness::kSameValues : Exactness::kRounded;
    if (tensor.source == PlannedTensor::Source::kCopy) tensor.source = PlannedTensor::Source::kCast;
    tensor.dtype = dtype;
    tensor.bytes = *BytesOf(dtype, tensor.shape);
  }
  return {};
}

}  // namespace q2c
