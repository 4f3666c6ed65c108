#include "formats/layouts/gguf_blocks.h"

#include <algorithm>

#include "formats/layouts/packing.h"
#include "formats/layouts/parts.h"

namespace q2c {
namespace {

constexpr uint64_t kBlock = 32;  // inputs a block, each with a scale of its own

Shape WeightShape(const QuantShape& s) { return {s.out_features, s.in_features}; }
template <uint64_t kBytes>
Grid BlockGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, 1, 1}, {Axis::kInputs, kBlock, kBytes}}; }

// Calls visit(block's bytes, its 32 codes, index of its scale and zero point) for every block,
// row after row; `codes` is one row.
template <uint64_t kBytes, typename Bytes, typename Visit>
void ForEachBlock(const QuantShape& s, Bytes bytes, std::vector<uint8_t>* codes, const Visit& visit, uint64_t n) {
  for (uint64_t b = 0; b < s.in_features / kBlock; ++b) {
    visit(bytes + kBytes * (n * (s.in_features / kBlock) + b), codes->data() + b * kBlock, b * s.out_features + n);
  }
}

// Nibble j of a block is code j in the low and code j + 16 in the high half.
void LoadNibbles(const std::byte* from, uint8_t* codes) {
  for (size_t j = 0; j < 16; ++j) {
    const auto byte = std::to_integer<uint8_t>(from[j]);
    codes[j] = byte & 0xFU;
    codes[j + 16] = byte >> 4U;
  }
}
void StoreNibbles(const uint8_t* codes, std::byte* to) {
  for (size_t j = 0; j < 16; ++j) to[j] = static_cast<std::byte>(codes[j] | codes[j + 16] << 4U);
}

void Allot(QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->scale_dtype = Dtype::kF16;
  linear->codes.resize(s.out_features * s.WordsPerRow());
  linear->zeros.assign(s.groups * s.out_features, static_cast<uint16_t>(s.MidCode()));
  linear->scales.resize(2 * s.groups * s.out_features);
}

// A block begins with its scale; `code_bytes` follow, and `kSkip` bytes lie between.
template <uint64_t kBytes, uint64_t kSkip, typename LoadCodes>
Status DecodeBlocks(ByteView bytes, QuantLinear* linear, const LoadCodes& load) {
  const QuantShape& s = linear->shape;
  Allot(linear);
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    ForEachBlock<kBytes>(s, bytes.data(), &row, [&](const std::byte* block, uint8_t* codes, uint64_t i) {
      // Of a tile that is cut along the inputs only the codes are wanted.
      if (i < s.groups * s.out_features) Store(linear->scales.data() + 2 * i, Load<uint16_t>(block));
      load(block + 2 + kSkip, codes);
    }, n);
    PackRow(row.data(), n, linear);
  }
  constexpr uint16_t kExponent = 0x7C00;  // all ones: NaN or infinity
  for (uint64_t i = 0; i < s.groups * s.out_features; ++i) {
    if ((Load<uint16_t>(linear->scales.data() + 2 * i) & kExponent) != kExponent) continue;
    return Malformed("scale-not-finite", "the scale of block {}, output {} is NaN or infinite; the file is damaged or the quantisation failed", i / s.out_features, i % s.out_features);
  }
  return {};
}

Status DecodeQ40(ByteView bytes, QuantLinear* linear) {
  return DecodeBlocks<18, 0>(bytes, linear, LoadNibbles);
}
Status DecodeQ41(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  QC_TRY((DecodeBlocks<20, 2>(bytes, linear, LoadNibbles)));
  const uint64_t blocks = s.in_features / kBlock;
  if (blocks != s.groups) return {};  // a tile cut along the inputs: codes only
  std::vector<std::byte> offsets(linear->scales.size());
  for (uint64_t i = 0; i < linear->zeros.size(); ++i) Store(offsets.data() + 2 * i, Load<uint16_t>(bytes.data() + 20 * (i % s.out_features * blocks + i / s.out_features) + 2));
  ZerosFromOffsets(offsets, Dtype::kF16, linear);
  return {};
}
Status DecodeQ80(ByteView bytes, QuantLinear* linear) {
  return DecodeBlocks<34, 0>(bytes, linear, [](const std::byte* from, uint8_t* codes) {
    for (size_t j = 0; j < kBlock; ++j) codes[j] = static_cast<uint8_t>(std::to_integer<uint8_t>(from[j]) ^ 0x80U);
  });
}

// Encodes from groups of 32: scale i and zero point i belong to block i. `shift` maps code − zero
// to what is stored, `store` writes the 32 of them behind the scale.
template <uint64_t kBytes, typename StoreBlock>
void EncodeBlocks(const QuantLinear& linear, MutableBytes out, const StoreBlock& store) {
  const QuantShape& s = linear.shape;
  const std::vector<std::byte> scales = ScalesAs(linear, Dtype::kF16);
  std::vector<uint8_t> row(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    UnpackRow(linear, n, row.data());
    ForEachBlock<kBytes>(s, out.data(), &row, [&](std::byte* block, uint8_t* codes, uint64_t i) {
      Store(block, Load<uint16_t>(scales.data() + 2 * i));
      store(block + 2, codes, i);
    }, n);
  }
}

// The low four bytes, with a zero byte behind each.
uint64_t SpreadBytes(uint64_t bytes) {
  bytes &= 0xFFFFFFFFU;
  bytes = (bytes | bytes << 16U) & 0x0000FFFF0000FFFFU;
  return (bytes | bytes << 8U) & 0x00FF00FF00FF00FFU;
}

// The same for a whole row of 4-bit codes that need no shift, eight bytes at a time: code j and
// code j + 16 meet in a byte, those of even j in one word and those of odd j in another.
void EncodeRowOfNibbles(const uint32_t* words, uint64_t blocks, const std::byte* scales, uint64_t scale_stride, std::byte* to) {
  constexpr uint64_t kLow = 0x0F0F0F0F0F0F0F0FU;
  for (uint64_t b = 0; b < blocks; ++b, words += 4, to += 18) {
    Store(to, Load<uint16_t>(scales + 2 * b * scale_stride));
    const uint64_t first = uint64_t{words[0]} | uint64_t{words[1]} << 32U;
    const uint64_t second = uint64_t{words[2]} | uint64_t{words[3]} << 32U;
    const uint64_t even = (first & kLow) | (second & kLow) << 4U;
    const uint64_t odd = (first >> 4U & kLow) | (second & ~kLow);
    Store(to + 2, SpreadBytes(even) | SpreadBytes(odd) << 8U);
    Store(to + 10, SpreadBytes(even >> 32U) | SpreadBytes(odd >> 32U) << 8U);
  }
}

Status EncodeQ40(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  if (s.bits == 4 && std::ranges::all_of(linear.zeros, [](uint16_t zero) { return zero == 8; })) {
    const std::vector<std::byte> scales = ScalesAs(linear, Dtype::kF16);
    const uint64_t blocks = s.in_features / kBlock;
    for (uint64_t n = 0; n < s.out_features; ++n) {
      EncodeRowOfNibbles(linear.codes.data() + n * s.WordsPerRow(), blocks, scales.data() + 2 * n, s.out_features, out.data() + 18 * n * blocks);
    }
    return {};
  }
  EncodeBlocks<18>(linear, out, [&](std::byte* to, uint8_t* codes, uint64_t i) {
    // 2 and 3 bits, too: code − zero + 8 lies in 0 … 15, as Q40Refuses has made sure.
    const auto shift = static_cast<uint8_t>(8U - linear.zeros[i]);
    for (size_t j = 0; j < kBlock; ++j) codes[j] = static_cast<uint8_t>(codes[j] + shift) & 0xFU;
    StoreNibbles(codes, to);
  });
  return {};
}
Status EncodeQ41(const QuantLinear& linear, MutableBytes out) {
  std::vector<std::byte> offsets(2 * linear.zeros.size());
  QC_TRY(OffsetsFromZeros(linear, Dtype::kF16, offsets));
  EncodeBlocks<20>(linear, out, [&](std::byte* to, const uint8_t* codes, uint64_t i) {
    Store(to, Load<uint16_t>(offsets.data() + 2 * i));
    StoreNibbles(codes, to + 2);
  });
  return {};
}
Status EncodeQ80(const QuantLinear& linear, MutableBytes out) {
  EncodeBlocks<34>(linear, out, [&](std::byte* to, const uint8_t* codes, uint64_t i) {
    const auto zero = static_cast<uint8_t>(linear.zeros[i]);
    for (size_t j = 0; j < kBlock; ++j) to[j] = static_cast<std::byte>(codes[j] - zero);
  });
  return {};
}

std::optional<std::string> BlocksRefuse(const QuantShape& s) {
  if (s.in_features % kBlock == 0) return std::nullopt;
  return fmt::format("GGUF needs inputs in multiples of 32, not {}", s.in_features);
}

Result<std::optional<QuantShape>> Detect(Dtype dtype, uint32_t bits, std::span<const PartCodec> codecs, const std::string& name, uint64_t in_features, uint64_t out_features,
                                         std::span<const TensorInfo* const> parts) {
  const TensorInfo* weight = FindPart(parts, "weight");
  if (weight == nullptr || weight->dtype != dtype) return std::optional<QuantShape>();
  const QuantShape shape = {in_features, out_features, in_features / kBlock, kBlock, bits};
  QC_TRY(CheckParts(name, parts, codecs, shape, "gguf"));
  return std::optional<QuantShape>(shape);
}

}  // namespace

const std::array<PartCodec, 1> kQ40Parts = {{{"weight", kCodes | kZeros | kScales, "q4_0", Dtype::kQ4_0, WeightShape, BlockGrid<18>, DecodeQ40, EncodeQ40}}};
const std::array<PartCodec, 1> kQ41Parts = {{{"weight", kCodes | kZeros | kScales | kFromScales, "q4_1", Dtype::kQ4_1, WeightShape, BlockGrid<20>, DecodeQ41, EncodeQ41}}};
const std::array<PartCodec, 1> kQ80Parts = {{{"weight", kCodes | kZeros | kScales, "q8_0", Dtype::kQ8_0, WeightShape, BlockGrid<34>, DecodeQ80, EncodeQ80}}};

std::optional<std::string> Q40Refuses(const QuantTraits& traits) {
  if (auto why = BlocksRefuse(traits.shape)) return why;
  // Two bits about any zero point from 0 to 3 give −3 … 3, three bits −7 … 7.
  if (traits.shape.bits < 4 || traits.symmetric) return std::nullopt;
  return "its zero points are not all 8, and Q4_0 stores none";
}
std::optional<std::string> Q41Refuses(const QuantTraits& traits) { return BlocksRefuse(traits.shape); }
std::optional<std::string> Q80Refuses(const QuantTraits& traits) {
  if (auto why = BlocksRefuse(traits.shape)) return why;
  // At 8 bits code − zero fits one byte only about the middle.
  if (traits.shape.bits < 8 || traits.symmetric) return std::nullopt;
  return "its zero points are not all 128: code − zero needs nine bits, and Q8_0 has eight";
}
std::optional<std::string> Q40Rounds(const QuantLinear& linear) { return ScalesRound(linear, Dtype::kF16); }
std::optional<std::string> Q41Rounds(const QuantLinear& linear) {
  if (auto why = ScalesRound(linear, Dtype::kF16)) return why;
  return OffsetsRound(linear, Dtype::kF16);
}

Result<std::optional<QuantShape>> DetectQ40(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  return Detect(Dtype::kQ4_0, 4, kQ40Parts, name, in_features, out_features, parts);
}
Result<std::optional<QuantShape>> DetectQ41(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  return Detect(Dtype::kQ4_1, 4, kQ41Parts, name, in_features, out_features, parts);
}
Result<std::optional<QuantShape>> DetectQ80(const std::string& name, uint64_t in_features, uint64_t out_features,
                                            std::span<const TensorInfo* const> parts, const LayoutHints& /*hints*/) {
  return Detect(Dtype::kQ8_0, 8, kQ80Parts, name, in_features, out_features, parts);
}

}  // namespace q2c
