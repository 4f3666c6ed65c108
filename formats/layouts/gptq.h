// GPTQ v1 and v2; the bits are in gptq.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 4> kGptqV1Parts;
extern const std::array<PartCodec, 4> kGptqV2Parts;

std::optional<std::string> GptqV1Refuses(const QuantTraits& traits);
std::optional<std::string> GptqV2Refuses(const QuantTraits& traits);

// Both versions have the same parts; what the zero fields mean is decided by zero_evidence.
Result<std::optional<QuantShape>> DetectGptq(const std::string& name, uint64_t in_features, uint64_t out_features,
                                             std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> GptqSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);

// The zero fields as they are stored, [groups, out_features], before any convention is applied.
std::vector<uint16_t> ReadZeroFields(ByteView qzeros, const QuantShape& shape);

}  // namespace q2c
