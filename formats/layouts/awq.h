// AWQ in its three packings; the bits are in awq.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

extern const std::array<PartCodec, 3> kAwqGemmParts;      // AutoAWQ "gemm"
extern const std::array<PartCodec, 3> kAwqGemvParts;      // AutoAWQ "gemv"
extern const std::array<PartCodec, 3> kAwqGemvFastParts;  // AutoAWQ "gemv_fast", llm-awq from 2024

std::optional<std::string> AwqGemmRefuses(const QuantTraits& traits);
std::optional<std::string> AwqGemvRefuses(const QuantTraits& traits);
std::optional<std::string> AwqGemvFastRefuses(const QuantTraits& traits);
std::optional<std::string> AwqGemvFastRounds(const QuantLinear& linear);

Result<std::optional<QuantShape>> DetectAwqGemm(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                std::span<const TensorInfo* const> parts, const LayoutHints& hints);
Result<std::optional<QuantShape>> DetectAwqGemv(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                std::span<const TensorInfo* const> parts, const LayoutHints& hints);
Result<std::optional<QuantShape>> DetectAwqGemvFast(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                    std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> AwqGemmSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> AwqGemvSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> AwqGemvFastSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);

}  // namespace q2c
