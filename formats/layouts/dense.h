// Dense float weights: what a quantised linear comes to. Written only.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 1> kDenseF16Parts;
extern const std::array<PartCodec, 1> kDenseBf16Parts;
extern const std::array<PartCodec, 1> kDenseF32Parts;

std::optional<std::string> DenseF16Rounds(const QuantLinear& linear);
std::optional<std::string> DenseBf16Rounds(const QuantLinear& linear);
std::optional<std::string> DenseF32Rounds(const QuantLinear& linear);

// A float weight is no quantised linear: never recognised here.
Result<std::optional<QuantShape>> DetectDense(const std::string& name, uint64_t in_features, uint64_t out_features,
                                              std::span<const TensorInfo* const> parts, const LayoutHints& hints);

}  // namespace q2c
