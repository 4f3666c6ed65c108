// What the layouts' detect functions share: finding parts and saying what is wrong with them.
#pragma once

#include <algorithm>

#include "formats/base/text.h"
#include "formats/layouts/layout.h"

namespace q2c {

inline const TensorInfo* FindPart(std::span<const TensorInfo* const> parts, std::string_view suffix) {
  for (const TensorInfo* part : parts) {
    const std::string& name = part->name;
    if (name.size() > suffix.size() && name.ends_with(suffix) && name[name.size() - suffix.size() - 1] == '.') return part;
  }
  return nullptr;
}

inline Error WrongShape(const TensorInfo& part, const Shape& expected, std::string_view why, std::string_view layout) {
  return Malformed("quant-shape", "tensor '{}': shape {}, expected {} ({}); layout '{}'", Escape(part.name), ShapeText(part.shape), ShapeText(expected), why, layout);
}

// Holds the parts against a layout whose linear has this shape: presence, dtype and shape of
// each. Suffixes in `optional` may be absent.
inline Status CheckParts(const std::string& linear, std::span<const TensorInfo* const> parts, std::span<const PartCodec> expected, const QuantShape& shape,
                         std::string_view layout, std::span<const std::string_view> optional = {}) {
  for (const PartCodec& codec : expected) {
    const TensorInfo* part = FindPart(parts, codec.suffix);
    if (part == nullptr) {
      if (std::ranges::find(optional, codec.suffix) != optional.end()) continue;
      return Malformed("quant-part", "linear '{}': '{}' is missing; layout '{}'", Escape(linear), codec.suffix, layout);
    }
    if (codec.dtype.has_value() ? part->dtype != *codec.dtype : !IsFloat16Or32(part->dtype)) {
      return Malformed("quant-dtype", "tensor '{}': dtype {}, expected {}; layout '{}'", Escape(part->name), NameOf(part->dtype),
                       codec.dtype.has_value() ? NameOf(*codec.dtype) : "F16, BF16 or F32", layout);
    }
    const Shape want = codec.shape(shape);
    if (part->shape != want) {
      return WrongShape(*part, want, fmt::format("{} inputs, {} outputs, {} bits, {} groups", shape.in_features, shape.out_features, shape.bits, shape.groups), layout);
    }
  }
  // The layout's own float parts agree in their type.
  const TensorInfo* first = nullptr;
  for (const PartCodec& codec : expected) {
    const TensorInfo* part = codec.dtype.has_value() ? nullptr : FindPart(parts, codec.suffix);
    if (part == nullptr) continue;
    if (first != nullptr && first->dtype != part->dtype) {
      return Malformed("quant-dtype", "tensor '{}': dtype {}, but '{}' is {}; layout '{}'", Escape(part->name), NameOf(part->dtype), Escape(first->name), NameOf(first->dtype), layout);
    }
    first = part;
  }
  return {};
}

// The part, if it has two dimensions of some length.
inline const TensorInfo* FindMatrix(std::span<const TensorInfo* const> parts, std::string_view suffix) {
  const TensorInfo* part = FindPart(parts, suffix);
  return part != nullptr && part->shape.size() == 2 && part->shape[0] > 0 && part->shape[1] > 0 ? part : nullptr;
}

// The size of a linear with a row of words and of scales for each output, which shows the inputs
// only together with bits and group size; nothing where these contradict each other.
inline std::optional<LinearSizes> SizesByOutput(const TensorInfo* words, const TensorInfo* scales, const LayoutHints& hints) {
  if (words == nullptr || scales == nullptr || scales->shape[0] != words->shape[0] || hints.bits.value_or(0) == 0) return std::nullopt;
  const uint64_t in_features = words->shape[1] * 32 / *hints.bits;
  const int64_t group_size = hints.group_size.value_or(0);
  const uint64_t groups = scales->shape[1];
  if (group_size > 0 ? groups * static_cast<uint64_t>(group_size) != in_features : groups != 1) return std::nullopt;
  return LinearSizes{in_features, words->shape[0]};
}

// The shape of a linear of so many groups. A group holds `said` inputs, or as the count shows.
inline QuantShape ShapeOf(uint64_t in_features, uint64_t out_features, uint64_t groups, uint32_t bits) {
  return {in_features, out_features, groups, CeilDiv(in_features, std::max<uint64_t>(groups, 1)), bits};
}

}  // namespace q2c
