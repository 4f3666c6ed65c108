// MLX affine quantisation; the bits are in mlx.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 3> kMlxParts;

std::optional<std::string> MlxRefuses(const QuantTraits& traits);
std::optional<std::string> MlxRounds(const QuantLinear& linear);
Result<std::optional<QuantShape>> DetectMlx(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> MlxSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);

}  // namespace q2c
