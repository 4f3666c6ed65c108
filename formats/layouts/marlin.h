// Serialised Marlin, as AutoGPTQ 0.7 writes it; the bits are in marlin.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 2> kMarlinParts;

std::optional<std::string> MarlinRefuses(const QuantTraits& traits);
std::optional<std::string> MarlinRounds(const QuantLinear& linear);
Result<std::optional<QuantShape>> DetectMarlin(const std::string& name, uint64_t in_features, uint64_t out_features,
                                               std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> MarlinSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);

}  // namespace q2c
