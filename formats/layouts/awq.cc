#include "formats/layouts/awq.h"

#include <algorithm>

#include "formats/layouts/compressed_tensors.h"
#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {
namespace {

// GEMM: word c of a row holds outputs 8c … 8c + 7; nibble p holds output 8c + kOrder[p].
constexpr std::array<uint64_t, 8> kOrder = {0, 2, 4, 6, 1, 3, 5, 7};

// Turns an 8 by 8 square of nibbles over: nibble j of word i becomes nibble i of word j.
void TurnNibbles(std::array<uint32_t, 8>* words) {
  const auto swap = [words](size_t i, size_t j, uint32_t shift, uint32_t mask) {
    const uint32_t moved = (((*words)[i] >> shift) ^ (*words)[j]) & mask;
    (*words)[j] ^= moved;
    (*words)[i] ^= moved << shift;
  };
  for (const size_t i : {0U, 1U, 2U, 3U}) swap(i, i + 4, 16, 0x0000FFFFU);
  for (const size_t i : {0U, 1U, 4U, 5U}) swap(i, i + 2, 8, 0x00FF00FFU);
  for (const size_t i : {0U, 2U, 4U, 6U}) swap(i, i + 1, 4, 0x0F0F0F0FU);
}

Shape GemmCodesShape(const QuantShape& s) { return {s.in_features, s.out_features / 8}; }
Grid GemmCodesGrid(const QuantShape&, uint64_t) { return {{Axis::kInputs, 8, 8}, {Axis::kOutputs, 8, 4}}; }
Status DecodeGemmCodes(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const uint64_t words = s.WordsPerRow();
  const uint64_t columns = s.out_features / 8;
  linear->codes.resize(s.out_features * words);
  std::array<uint32_t, 8> square;
  for (uint64_t c = 0; c < columns; ++c) {
    for (uint64_t w = 0; w < words; ++w) {
      for (uint64_t i = 0; i < 8; ++i) square[i] = Load<uint32_t>(bytes.data() + 4 * ((8 * w + i) * columns + c));
      TurnNibbles(&square);
      for (uint64_t p = 0; p < 8; ++p) linear->codes[(8 * c + kOrder[p]) * words + w] = square[p];
    }
  }
  return {};
}
Status EncodeGemmCodes(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const uint64_t words = s.WordsPerRow();
  const uint64_t columns = s.out_features / 8;
  std::array<uint32_t, 8> square;
  // Runs of columns, so that the rows written side by side stay in cache.
  for (uint64_t w = 0; w < words; ++w) {
    for (uint64_t c = 0; c < columns; ++c) {
      for (uint64_t p = 0; p < 8; ++p) square[p] = linear.codes[(8 * c + kOrder[p]) * words + w];
      TurnNibbles(&square);
      for (uint64_t i = 0; i < 8; ++i) Store(out.data() + 4 * ((8 * w + i) * columns + c), square[i]);
    }
  }
  return {};
}

Shape GemmZerosShape(const QuantShape& s) { return {s.groups, s.out_features / 8}; }
Grid GemmZerosGrid(const QuantShape&, uint64_t) { return {{Axis::kGroups, 1, 1}, {Axis::kOutputs, 8, 4}}; }
Status DecodeGemmZeros(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->zeros.resize(s.groups * s.out_features);
  for (uint64_t i = 0; i < linear->zeros.size(); i += 8) {
    const auto word = Load<uint32_t>(bytes.data() + i / 2);
    for (uint32_t p = 0; p < 8; ++p) linear->zeros[i + kOrder[p]] = static_cast<uint16_t>((word >> (4 * p)) & 0xFU);
  }
  return {};
}
Status EncodeGemmZeros(const QuantLinear& linear, MutableBytes out) {
  for (uint64_t i = 0; i < linear.zeros.size(); i += 8) {
    uint32_t word = 0;
    for (uint32_t p = 0; p < 8; ++p) word |= static_cast<uint32_t>(linear.zeros[i + kOrder[p]]) << (4 * p);
    Store(out.data() + i / 2, word);
  }
  return {};
}

Shape ScalesByGroupShape(const QuantShape& s) { return {s.groups, s.out_features}; }
Grid ScalesByGroupGrid(const QuantShape&, uint64_t bytes) { return {{Axis::kGroups, 1, 1}, {Axis::kOutputs, 1, bytes}}; }
Status DecodeScalesByGroup(ByteView bytes, QuantLinear* linear) {
  linear->scales.assign(bytes.begin(), bytes.end());
  return {};
}
Status EncodeScalesByGroup(const QuantLinear& linear, MutableBytes out) {
  std::ranges::copy(linear.scales, out.begin());
  return {};
}

// GEMV and its fast form pad the groups of a row to a width that depends on the group size:
// this many words of zero points, eight groups a word.
uint64_t ZeroWords(const QuantShape& s) {
  const uint64_t multiple = s.group_size >= 128 ? 1 : s.group_size == 64 ? 2 : 4;
  return CeilDiv(CeilDiv(s.groups, uint64_t{8}), multiple) * multiple;
}

Shape GemvZerosShape(const QuantShape& s) { return {s.out_features, ZeroWords(s)}; }
Shape GemvScalesShape(const QuantShape& s) { return {s.out_features, 8 * ZeroWords(s)}; }
Grid RowsByOutputGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, 1, 1}, {}}; }
Status DecodeGemvZeros(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->zeros.resize(s.groups * s.out_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t g = 0; g < s.groups; ++g) {
      const auto word = Load<uint32_t>(bytes.data() + 4 * (n * ZeroWords(s) + g / 8));
      linear->zeros[g * s.out_features + n] = static_cast<uint16_t>((word >> (4 * (g % 8))) & 0xFU);
    }
  }
  return {};
}
Status EncodeGemvZeros(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  std::ranges::fill(out, std::byte{0});
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t g = 0; g < s.groups; ++g) {
      std::byte* at = out.data() + 4 * (n * ZeroWords(s) + g / 8);
      Store(at, Load<uint32_t>(at) | static_cast<uint32_t>(linear.zeros[g * s.out_features + n]) << (4 * (g % 8)));
    }
  }
  return {};
}
Status DecodeGemvScales(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const uint64_t width = InfoOf(linear->scale_dtype).bits / 8;
  linear->scales.resize(s.groups * s.out_features * width);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t g = 0; g < s.groups; ++g) {
      const ByteView from = bytes.subspan(width * (n * 8 * ZeroWords(s) + g), width);
      std::ranges::copy(from, linear->scales.begin() + static_cast<std::ptrdiff_t>(width * (g * s.out_features + n)));
    }
  }
  return {};
}
Status EncodeGemvScales(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const uint64_t width = InfoOf(linear.scale_dtype).bits / 8;
  std::ranges::fill(out, std::byte{0});
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t g = 0; g < s.groups; ++g) {
      const ByteView from = ByteView(linear.scales).subspan(width * (g * s.out_features + n), width);
      std::ranges::copy(from, out.begin() + static_cast<std::ptrdiff_t>(width * (n * 8 * ZeroWords(s) + g)));
    }
  }
  return {};
}

// gemv_fast: 16-bit words, [out / 4, in]. A block of 64 inputs of four outputs lies together;
// the four nibbles of a word are 8 inputs apart.
struct FastPlace {
  uint64_t column;
  uint32_t shift;
};
FastPlace PlaceOf(uint64_t k, uint64_t n) {
  return {k / 64 * 64 + n % 4 * 16 + k / 32 % 2 * 8 + k / 2 % 4 * 2 + k % 2, static_cast<uint32_t>(4 * (k / 8 % 4))};
}
Shape FastCodesShape(const QuantShape& s) { return {s.out_features / 4, s.in_features}; }
Grid FastCodesGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, 4, 1}, {Axis::kInputs, 64, 128}}; }
Status DecodeFastCodes(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->codes.resize(s.out_features * s.WordsPerRow());
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    for (uint64_t k = 0; k < s.in_features; ++k) {
      const auto [column, shift] = PlaceOf(k, n);
      row[k] = static_cast<uint8_t>((Load<uint16_t>(bytes.data() + 2 * (n / 4 * s.in_features + column)) >> shift) & 0xFU);
    }
    PackRow(row.data(), n, linear);
  }
  return {};
}
Status EncodeFastCodes(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  std::ranges::fill(out, std::byte{0});
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    UnpackRow(linear, n, row.data());
    for (uint64_t k = 0; k < s.in_features; ++k) {
      const auto [column, shift] = PlaceOf(k, n);
      std::byte* at = out.data() + 2 * (n / 4 * s.in_features + column);
      Store(at, static_cast<uint16_t>(Load<uint16_t>(at) | row[k] << shift));
    }
  }
  return {};
}
// [8 · ZeroWords, out], of which the first rows are used.
Shape FastRowsShape(const QuantShape& s) { return {8 * ZeroWords(s), s.out_features}; }
Grid FastRowsGrid(const QuantShape&, uint64_t bytes) { return {{Axis::kWhole, 1, 1}, {Axis::kOutputs, 1, bytes}}; }
Status DecodeFastScales(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const ByteView used = bytes.first(s.groups * s.out_features * InfoOf(linear->scale_dtype).bits / 8);
  linear->scales.assign(used.begin(), used.end());
  return {};
}
Status EncodeFastScales(const QuantLinear& linear, MutableBytes out) {
  std::ranges::fill(out, std::byte{0});
  std::ranges::copy(linear.scales, out.begin());
  return {};
}
Status DecodeFastZeros(ByteView bytes, QuantLinear* linear) {
  ZerosFromOffsets(bytes, linear->scale_dtype, linear);
  if (linear->nearest_zeros) {
    return Refused("quant-offset", "{}; AWQ means whole zero points", linear->no_zeros.empty() ? "an offset is not −scale·zero for any whole zero point" : linear->no_zeros);
  }
  return {};
}
Status EncodeFastZeros(const QuantLinear& linear, MutableBytes out) {
  std::ranges::fill(out, std::byte{0});
  return OffsetsFromZeros(linear, linear.scale_dtype, out);
}

enum class Packing { kGemm, kGemv, kFast };
// Which of the packings a qweight has by its shape and dtype, if any.
std::optional<Packing> PackingOf(const TensorInfo& qweight, const TensorInfo* scales, uint64_t in_features, uint64_t out_features, const LayoutHints& hints) {
  if (qweight.dtype == Dtype::kI16) return Packing::kFast;
  // A square linear has the same qweight in both; GEMV's scales have a row an output.
  const bool by_output = qweight.shape == Shape{out_features, in_features / 8} && scales != nullptr && scales->shape.size() == 2 && scales->shape[0] == out_features && scales->shape[1] != out_features;
  if (qweight.shape == Shape{in_features, out_features / 8} && !by_output) return Packing::kGemm;
  // GPTQ of 4 bits has [in / 8, out], which is the same shape where in = 8 · out; its scales have a row a group.
  const bool gptq_too = qweight.shape == Shape{in_features / 8, out_features} && hints.method != "awq" && scales != nullptr && scales->shape.size() == 2 && scales->shape[1] == out_features;
  if (qweight.shape == Shape{out_features, in_features / 8} && !gptq_too) return Packing::kGemv;
  return std::nullopt;
}

Result<std::optional<QuantShape>> Detect(Packing packing, std::span<const PartCodec> codecs, const std::string& name, uint64_t in_features, uint64_t out_features,
                                         std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  const TensorInfo* qweight = FindPart(parts, "qweight");
  const TensorInfo* scales = FindPart(parts, "scales");
  if (qweight == nullptr) return std::optional<QuantShape>();
  std::optional<Packing> found = PackingOf(*qweight, scales, in_features, out_features, hints);
  if (!found.has_value() && hints.method == "awq") found = Packing::kGemm;  // to say what is wrong
  if (found != packing) return std::optional<QuantShape>();
  const uint64_t multiple = packing == Packing::kFast ? 64 : 8;
  if (in_features % multiple != 0) return Malformed("quant-shape", "linear '{}': {} inputs, expected a multiple of {}; layout 'awq'", Escape(name), in_features, multiple);
  if (scales == nullptr || scales->shape.size() != 2) return Malformed("quant-part", "linear '{}': 'scales' is missing or has no two dimensions; layout 'awq'", Escape(name));
  QuantShape shape = ShapeOf(in_features, out_features, scales->shape[0], 4);
  if (packing != Packing::kGemm) {
    // Padded scales do not show how many groups there are.
    const int64_t said = hints.group_size.value_or(128);
    shape.group_size = said <= 0 ? in_features : static_cast<uint64_t>(said);
    shape.groups = CeilDiv(in_features, shape.group_size);
  }
  if (shape.groups == 0 || out_features % 8 != 0) return WrongShape(*scales, {shape.groups, out_features}, "groups by outputs", "awq");
  QC_TRY(CheckParts(name, parts, codecs, shape, "awq"));
  return std::optional<QuantShape>(shape);
}

}  // namespace

const std::array<PartCodec, 3> kAwqGemmParts = {{
    {"qweight", kCodes, "nibbles-by-input", Dtype::kI32, GemmCodesShape, GemmCodesGrid, DecodeGemmCodes, EncodeGemmCodes},
    {"qzeros", kZeros, "zeros-interleaved", Dtype::kI32, GemmZerosShape, GemmZerosGrid, DecodeGemmZeros, EncodeGemmZeros},
    {"scales", kScales, "scales-by-group", std::nullopt, ScalesByGroupShape, ScalesByGroupGrid, DecodeScalesByGroup, EncodeScalesByGroup}}};
const std::array<PartCodec, 3> kAwqGemvParts = {{
    {"qweight", kCodes, "words-by-output", Dtype::kI32, WordsByOutputShape, WordsByOutputGrid, DecodeWordsByOutput, EncodeWordsByOutput},
    {"qzeros", kZeros, "zeros-by-output-padded", Dtype::kI32, GemvZerosShape, RowsByOutputGrid, DecodeGemvZeros, EncodeGemvZeros},
    {"scales", kScales, "scales-by-output-padded", std::nullopt, GemvScalesShape, RowsByOutputGrid, DecodeGemvScales, EncodeGemvScales}}};
const std::array<PartCodec, 3> kAwqGemvFastParts = {{
    {"qweight", kCodes, "nibbles-by-four-outputs", Dtype::kI16, FastCodesShape, FastCodesGrid, DecodeFastCodes, EncodeFastCodes},
    {"scales", kScales, "scales-by-group-padded", std::nullopt, FastRowsShape, FastRowsGrid, DecodeFastScales, EncodeFastScales},
    {"qzeros", kZeros | kFromScales, "offsets-by-group-padded", std::nullopt, FastRowsShape, FastRowsGrid, DecodeFastZeros, EncodeFastZeros}}};

std::optional<std::string> AwqGemmRefuses(const QuantTraits& traits) {
  if (traits.shape.out_features % 32 == 0) return std::nullopt;
  return fmt::format("AWQ needs outputs in multiples of 32, not {}", traits.shape.out_features);
}
std::optional<std::string> AwqGemvRefuses(const QuantTraits& traits) {
  const uint64_t size = traits.shape.group_size;
  if (size >= 128 || size == 64 || size == 32) return std::nullopt;
  return fmt::format("AWQ gemv knows groups of 32, 64, 128 and more, not {}", size);
}
std::optional<std::string> AwqGemvFastRefuses(const QuantTraits& traits) {
  const QuantShape& s = traits.shape;
  if (s.out_features % 4 != 0 || s.in_features % 64 != 0) return fmt::format("AWQ gemv_fast needs inputs in multiples of 64 and outputs of 4, not {} and {}", s.in_features, s.out_features);
  return AwqGemvRefuses(traits);
}
std::optional<std::string> AwqGemvFastRounds(const QuantLinear& linear) { return OffsetsRound(linear, linear.scale_dtype); }

Result<std::optional<QuantShape>> DetectAwqGemm(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return Detect(Packing::kGemm, kAwqGemmParts, name, in_features, out_features, parts, hints);
}
Result<std::optional<QuantShape>> DetectAwqGemv(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return Detect(Packing::kGemv, kAwqGemvParts, name, in_features, out_features, parts, hints);
}
Result<std::optional<QuantShape>> DetectAwqGemvFast(const std::string& name, uint64_t in_features, uint64_t out_features,
                                                    std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  return Detect(Packing::kFast, kAwqGemvFastParts, name, in_features, out_features, parts, hints);
}

// In GEMM scales have a column an output and eight outputs share a word.
std::optional<LinearSizes> AwqGemmSizes(std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* qweight = FindMatrix(parts, "qweight");
  const TensorInfo* scales = FindMatrix(parts, "scales");
  if (qweight == nullptr || scales == nullptr || qweight->dtype != Dtype::kI32 || scales->shape[1] != 8 * qweight->shape[1]) return std::nullopt;
  return LinearSizes{qweight->shape[0], scales->shape[1]};
}

// A row an output in both. Without the word of a config it could also be GPTQ.
std::optional<LinearSizes> AwqGemvSizes(std::span<const TensorInfo* const> parts, const LayoutHints& hints) {
  const TensorInfo* qweight = FindMatrix(parts, "qweight");
  const TensorInfo* scales = FindMatrix(parts, "scales");
  if (qweight == nullptr || scales == nullptr || qweight->dtype != Dtype::kI32 || hints.method != "awq" || scales->shape[0] != qweight->shape[0]) return std::nullopt;
  return LinearSizes{8 * qweight->shape[1], qweight->shape[0]};
}

std::optional<LinearSizes> AwqGemvFastSizes(std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  const TensorInfo* qweight = FindMatrix(parts, "qweight");
  const TensorInfo* scales = FindMatrix(parts, "scales");
  if (qweight == nullptr || scales == nullptr || qweight->dtype != Dtype::kI16 || scales->shape[1] != 4 * qweight->shape[0]) return std::nullopt;
  return LinearSizes{qweight->shape[1], scales->shape[1]};
}

}  // namespace q2c
