#include "formats/generic_architecture.h"

#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "formats/layouts/layout.h"

namespace q2c {
namespace {

// As for architectures that are known: products of three stay below 2^64.
constexpr uint64_t kMaxSize = 1U << 20U;

using Parts = std::vector<const TensorInfo*>;

bool IsInteger(Dtype dtype) { return dtype == Dtype::kI16 || dtype == Dtype::kI32 || dtype == Dtype::kU32 || dtype == Dtype::kI64; }

// Codes, zero points, group maps: integers under a name that a layout has for them. (Scales are
// floats under names that anything may have.)
bool MarksLinear(const TensorInfo& tensor, std::string_view suffix) {
  return IsInteger(tensor.dtype) && std::ranges::any_of(Layouts(), [&](const Layout& layout) {
           const PartCodec* part = layout.sizes == nullptr ? nullptr : layout.Part(suffix);
           return part != nullptr && part->dtype == tensor.dtype;
         });
}

std::optional<LinearSizes> SizesOf(const Parts& parts, const LayoutHints& hints) {
  for (const Layout& layout : Layouts()) {
    const std::optional<LinearSizes> sizes = layout.sizes == nullptr ? std::nullopt : layout.sizes(parts, hints);
    if (!sizes.has_value()) continue;
    const bool sane = std::min(sizes->in_features, sizes->out_features) > 0 && std::max(sizes->in_features, sizes->out_features) <= kMaxSize;
    return sane ? sizes : std::nullopt;
  }
  return std::nullopt;
}

// X.weight of two dimensions, perhaps with its bias, and nothing else. That it is multiplied from
// the right nobody knows; an embedding is one here, too.
std::optional<LinearSizes> SizesOfFloat(const Parts& parts) {
  std::optional<LinearSizes> sizes;
  const TensorInfo* bias = nullptr;
  for (const TensorInfo* tensor : parts) {
    const std::string suffix = SplitPart(tensor->name).second;
    if (!IsFloat16Or32(tensor->dtype)) return std::nullopt;
    if (suffix == "bias") bias = tensor;
    else if (suffix == "weight" && tensor->shape.size() == 2) sizes = {tensor->shape[1], tensor->shape[0]};
    else return std::nullopt;
  }
  if (!sizes.has_value() || std::min(sizes->in_features, sizes->out_features) == 0 || std::max(sizes->in_features, sizes->out_features) > kMaxSize) return std::nullopt;
  if (bias != nullptr && bias->shape != Shape{sizes->out_features}) return std::nullopt;
  return sizes;
}

// "model.layers.7.mlp.up_proj" -> "model.layers.7"; empty where nothing is repeated.
std::string BlockOf(const std::string& name) { return name.substr(0, EndOfBlock(name)); }

std::string SuffixesOf(const Parts& parts) {
  std::vector<std::string> suffixes;
  for (const TensorInfo* part : parts) suffixes.push_back(SplitPart(part->name).second);
  return QuoteSome(suffixes, suffixes.size());
}

}  // namespace

Architecture GenericArchitecture(const std::string& model_type) {
  const Json nothing = Json::Array();
  return {model_type, Json::Object({{"model_type", Json::String(model_type)}, {"generic", Json::Bool(true)}, {"classes", nothing}, {"wrappers", nothing}, {"drop", nothing}, {"gguf", Json::Object()}})};
}

Result<Skeleton> GenericSkeleton(const Checkpoint& checkpoint, const std::optional<QuantConfig>& quant, const std::vector<std::string>& drop) {
  LayoutHints hints;
  if (quant.has_value()) {
    hints = {quant->quant_method, quant->checkpoint_format, {}, {}};
    // Where modules may differ, what the config says of all need not be true of one.
    if (!quant->per_module) hints.bits = quant->bits, hints.group_size = quant->group_size;
  }
  std::map<std::string, Parts> groups;
  for (const TensorInfo& tensor : checkpoint.tensors()) {
    if (std::ranges::any_of(drop, [&](const std::string& glob) { return GlobMatch(glob, tensor.name); })) continue;
    if (InfoOf(tensor.dtype).block > 1) {
      return Refused("architecture", "tensor '{}' is stored in blocks of GGUF, whose names only a known architecture can translate; --arch=generic is for safetensors and PyTorch files", Escape(tensor.name));
    }
    groups[SplitPart(tensor.name).first].push_back(&tensor);
  }
  Skeleton skeleton;
  std::set<std::string> blocks;
  for (const auto& [base, parts] : groups) {
    if (const auto foreign = ForeignQuantisation("", parts)) return Refused("layout", "tensor '{}': {}", Escape(parts.front()->name), *foreign);
    const auto suffix_of = [](const TensorInfo* tensor) { return SplitPart(tensor->name).second; };
    const bool quantised = std::ranges::any_of(parts, [&](const TensorInfo* tensor) { return MarksLinear(*tensor, suffix_of(tensor)); });
    const std::optional<LinearSizes> sizes = quantised ? SizesOf(parts, hints) : SizesOfFloat(parts);
    if (quantised && !sizes.has_value()) {
      return Refused("layout", "linear '{}': its parts ({}) do not show how many inputs and outputs it has, and no architecture says so (--arch=generic)", Escape(base), SuffixesOf(parts));
    }
    ExpectedLinear linear;
    linear.name = base;
    linear.in_block = !BlockOf(base).empty();
    for (const TensorInfo* tensor : parts) {
      const std::string suffix = suffix_of(tensor);
      linear.bias = linear.bias || suffix == "bias";
      if (!sizes.has_value() || !IsLinearPart(suffix)) skeleton.tensors.emplace(tensor->name, ExpectedTensor{tensor->name, tensor->shape, true});
    }
    if (!sizes.has_value()) continue;
    linear.in_features = sizes->in_features;
    linear.out_features = sizes->out_features;
    if (linear.in_block) blocks.insert(BlockOf(base));
    skeleton.linears.emplace(base, std::move(linear));
  }
  skeleton.layers = blocks.size();
  return skeleton;
}

}  // namespace q2c
