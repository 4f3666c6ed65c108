// The block types of GGUF that hold integer codes: Q4_0, Q4_1, Q8_0; the bits are in gguf_blocks.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 1> kQ40Parts;
extern const std::array<PartCodec, 1> kQ41Parts;
extern const std::array<PartCodec, 1> kQ80Parts;

std::optional<std::string> Q40Refuses(const QuantTraits& traits);
std::optional<std::string> Q41Refuses(const QuantTraits& traits);
std::optional<std::string> Q80Refuses(const QuantTraits& traits);
std::optional<std::string> Q40Rounds(const QuantLinear& linear);
std::optional<std::string> Q41Rounds(const QuantLinear& linear);

Result<std::optional<QuantShape>> DetectQ40(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& hints);
Result<std::optional<QuantShape>> DetectQ41(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& hints);
Result<std::optional<QuantShape>> DetectQ80(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& hints);

}  // namespace q2c
