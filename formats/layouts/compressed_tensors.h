// compressed-tensors "pack-quantized"; the bits are in compressed_tensors.md.
#pragma once

#include <array>

#include "formats/layouts/layout.h"

namespace q2c {

// Codes packed densely (from 2026; at 2, 4 and 8 bits as ever).
extern const std::array<PartCodec, 4> kCompressedTensorsParts;
// 3 bits as the 2025 versions pack them: ten codes a word.
extern const std::array<PartCodec, 4> kCompressedTensors2025Parts;

Result<std::optional<QuantShape>> DetectCompressedTensors(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                          std::span<const TensorInfo* const> parts, const LayoutHints& hints);
Result<std::optional<QuantShape>> DetectCompressedTensors2025(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                              std::span<const TensorInfo* const> parts, const LayoutHints& hints);
std::optional<LinearSizes> CompressedTensorsSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints);

// Parts that compressed-tensors shares with other layouts: scales [out, groups], and the
// canonical code stream [out, words] as it is.
Shape ScalesByOutputShape(const QuantShape& shape);
Grid ScalesByOutputGrid(const QuantShape& shape, uint64_t scale_bytes);
Status DecodeScalesByOutput(ByteView bytes, QuantLinear* linear);
Status EncodeScalesByOutput(const QuantLinear& linear, MutableBytes out);
Shape WordsByOutputShape(const QuantShape& shape);
Grid WordsByOutputGrid(const QuantShape& shape, uint64_t scale_bytes);
Status DecodeWordsByOutput(ByteView bytes, QuantLinear* linear);
Status EncodeWordsByOutput(const QuantLinear& linear, MutableBytes out);

}  // namespace q2c
