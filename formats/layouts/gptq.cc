#include "formats/layouts/gptq.h"

#include "formats/base/text.h"

namespace q2c {
namespace {

Shape QweightShape(const QuantShape& s) { return {s.in_features * s.bits / 32, s.out_features}; }
Shape QzerosShape(const QuantShape& s) { return {s.groups, s.out_features * s.bits / 32}; }
Shape ScalesShape(const QuantShape& s) { return {s.groups, s.out_features}; }
Shape GroupIndexShape(const QuantShape& s) { return {s.in_features}; }

// qweight is the canonical stream with its words laid out [words, out] instead of [out, words]:
// a transpose of 32-bit words, whatever the number of bits. Tiles keep both sides in cache.
void TransposeWords(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns) {
  constexpr uint64_t kTile = 32;
  for (uint64_t r0 = 0; r0 < rows; r0 += kTile) {
    for (uint64_t c0 = 0; c0 < columns; c0 += kTile) {
      const uint64_t r1 = std::min(rows, r0 + kTile);
      const uint64_t c1 = std::min(columns, c0 + kTile);
      for (uint64_t c = c0; c < c1; ++c) {
        for (uint64_t r = r0; r < r1; ++r) Store(to + 4 * (c * rows + r), Load<uint32_t>(from + 4 * (r * columns + c)));
      }
    }
  }
}

Status DecodeQweight(ByteView bytes, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  linear->codes.resize(bytes.size() / 4);
  TransposeWords(bytes.data(), std::as_writable_bytes(std::span(linear->codes)).data(), s.WordsPerRow(), s.out_features);
  return {};
}
Status EncodeQweight(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  TransposeWords(AsBytes(linear.codes).data(), out.data(), s.out_features, s.WordsPerRow());
  return {};
}

// v1 stores zero − 1 and v2 the zero itself. A v1 field of all ones means 0, as AutoGPTQ's own
// loader reads it (masked).
template <uint32_t kMinus>
Status DecodeQzeros(ByteView bytes, QuantLinear* linear) {
  linear->zeros = ReadZeroFields(bytes, linear->shape);
  const auto mask = static_cast<uint16_t>(linear->shape.MaxCode());
  for (uint16_t& zero : linear->zeros) zero = static_cast<uint16_t>((zero + kMinus) & mask);
  return {};
}
template <uint32_t kMinus>
Status EncodeQzeros(const QuantLinear& linear, MutableBytes out) {
  const QuantShape& s = linear.shape;
  const uint64_t words = s.out_features * s.bits / 32;
  for (uint64_t g = 0; g < s.groups; ++g) {
    uint64_t pending = 0;  // bits not yet written, lowest first
    uint32_t count = 0;
    std::byte* word = out.data() + 4 * g * words;
    for (uint64_t n = 0; n < s.out_features; ++n) {
      const uint64_t field = (uint64_t{linear.zeros[g * s.out_features + n]} - kMinus) & s.MaxCode();
      pending |= field << count;
      count += s.bits;
      if (count < 32) continue;
      Store(word, static_cast<uint32_t>(pending));
      word += 4;
      pending >>= 32U;
      count -= 32;
    }
  }
  return {};
}

Status DecodeScales(ByteView bytes, QuantLinear* linear) {
  linear->scales.assign(bytes.begin(), bytes.end());
  return {};
}
Status EncodeScales(const QuantLinear& linear, MutableBytes out) {
  std::copy(linear.scales.begin(), linear.scales.end(), out.begin());
  return {};
}

Status DecodeGroupIndex(ByteView bytes, QuantLinear* linear) {
  linear->group_index = WordsFrom<int32_t>(bytes);
  for (size_t k = 0; k < linear->group_index.size(); ++k) {
    const int32_t group = linear->group_index[k];
    if (group < 0 || static_cast<uint64_t>(group) >= linear->shape.groups) {
      return Malformed("quant-value", "g_idx of input {} is {}, expected 0 … {}", k, group, linear->shape.groups - 1);
    }
  }
  return {};
}
Status EncodeGroupIndex(const QuantLinear& linear, MutableBytes out) {
  const ByteView bytes = AsBytes(linear.group_index);
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return {};
}

constexpr PartCodec kQweightPart = {"qweight", kCodes, "words-by-input", Dtype::kI32, QweightShape, DecodeQweight, EncodeQweight};
constexpr PartCodec kScalesPart = {"scales", kScales, "scales-by-group", std::nullopt, ScalesShape, DecodeScales, EncodeScales};
constexpr PartCodec kGroupIndexPart = {"g_idx", kGroupIndex, "group-index", Dtype::kI32, GroupIndexShape, DecodeGroupIndex, EncodeGroupIndex};

}  // namespace

const std::array<PartCodec, 4> kGptqV1Parts = {{
    kQweightPart, {"qzeros", kZeros, "zeros-minus-one", Dtype::kI32, QzerosShape, DecodeQzeros<1>, EncodeQzeros<1>}, kScalesPart, kGroupIndexPart}};
const std::array<PartCodec, 4> kGptqV2Parts = {{
    kQweightPart, {"qzeros", kZeros, "zeros-plain", Dtype::kI32, QzerosShape, DecodeQzeros<0>, EncodeQzeros<0>}, kScalesPart, kGroupIndexPart}};

std::vector<uint16_t> ReadZeroFields(ByteView qzeros, const QuantShape& s) {
  std::vector<uint16_t> fields(s.groups * s.out_features);
  const uint64_t words = s.out_features * s.bits / 32;
  for (uint64_t g = 0; g < s.groups; ++g) {
    const std::byte* word = qzeros.data() + 4 * g * words;
    uint64_t pending = 0;
    uint32_t count = 0;
    for (uint64_t n = 0; n < s.out_features; ++n) {
      if (count < s.bits) {
        pending |= uint64_t{Load<uint32_t>(word)} << count;
        word += 4;
        count += 32;
      }
      fields[g * s.out_features + n] = static_cast<uint16_t>(pending & s.MaxCode());
      pending >>= s.bits;
      count -= s.bits;
    }
  }
  return fields;
}

std::optional<std::string> GptqV2Refuses(const QuantTraits& traits) {
  const QuantShape& s = traits.shape;
  if (s.bits != 2 && s.bits != 3 && s.bits != 4 && s.bits != 8) return fmt::format("GPTQ holds 2, 3, 4 or 8 bits, not {}", s.bits);
  if (s.in_features % 32 != 0 || s.out_features % 32 != 0) {
    return fmt::format("GPTQ needs inputs and outputs in multiples of 32, not {} and {}", s.in_features, s.out_features);
  }
  return std::nullopt;
}

std::optional<std::string> GptqV1Refuses(const QuantTraits& traits) {
  if (std::optional<std::string> why = GptqV2Refuses(traits)) return why;
  if (traits.has_zero_0) return "it has zero points of 0, which GPTQ v1 cannot hold (it stores zero - 1)";
  return std::nullopt;
}

Result<std::optional<QuantShape>> DetectGptq(const std::string& name, uint64_t in_features, uint64_t out_features,
                                             std::span<const TensorInfo* const> parts) {
  const auto find = [&](std::string_view suffix) -> const TensorInfo* {
    for (const TensorInfo* part : parts) {
      if (part->name.ends_with(suffix) && part->name[part->name.size() - suffix.size() - 1] == '.') return part;
    }
    return nullptr;
  };
  const TensorInfo* qweight = find("qweight");
  const TensorInfo* qzeros = find("qzeros");
  const TensorInfo* scales = find("scales");
  const TensorInfo* g_idx = find("g_idx");
  if (qweight == nullptr && qzeros == nullptr && scales == nullptr && g_idx == nullptr) return std::optional<QuantShape>();

  // qweight, qzeros and scales go together; g_idx alone may be absent.
  const auto present = [](const TensorInfo* part) { return part == nullptr ? "missing" : "present"; };
  if (qweight == nullptr || qzeros == nullptr || scales == nullptr) {
    return Malformed("quant-part", "linear '{}': qweight {}, qzeros {}, scales {}; expected all three", Escape(name), present(qweight), present(qzeros), present(scales));
  }
  const auto wrong = [&](const TensorInfo& part, const Shape& expected, std::string_view why) {
    return Malformed("quant-shape", "tensor '{}': shape {}, expected {} ({}); layout 'gptq'", Escape(part.name), ShapeText(part.shape), ShapeText(expected), why);
  };
  for (const TensorInfo* part : {qweight, qzeros, g_idx}) {
    if (part == nullptr) continue;
    // AutoGPTQ and its relatives store int32; a g_idx of int64 was written by some hand-made tools.
    if (part->dtype != Dtype::kI32) {
      return Malformed("quant-dtype", "tensor '{}': dtype {}, expected I32; layout 'gptq'", Escape(part->name), NameOf(part->dtype));
    }
  }
  if (!IsFloat16Or32(scales->dtype)) {
    return Malformed("quant-dtype", "tensor '{}': dtype {}, expected F16, BF16 or F32; layout 'gptq'", Escape(scales->name), NameOf(scales->dtype));
  }
  if (qweight->shape.size() != 2 || qzeros->shape.size() != 2 || scales->shape.size() != 2) {
    const TensorInfo* odd = qweight->shape.size() != 2 ? qweight : qzeros->shape.size() != 2 ? qzeros : scales;
    return Malformed("quant-shape", "tensor '{}': shape {}, expected two dimensions; layout 'gptq'", Escape(odd->name), ShapeText(odd->shape));
  }
  QuantShape s;
  s.in_features = in_features;
  s.out_features = out_features;
  // AWQ packs along the outputs: [in, out/8] where GPTQ has [in/8, out].
  if (qweight->shape[0] == in_features && qweight->shape[1] * 8 == out_features && scales->shape[1] == out_features) {
    return Refused("layout", "linear '{}': qweight {} is packed along the outputs: this is AWQ, which this version does not read; it reads GPTQ (v1 and v2)", Escape(name), ShapeText(qweight->shape));
  }
  if (qweight->shape[1] != out_features || qweight->shape[0] == 0 || qweight->shape[0] * 32 % in_features != 0) {
    return wrong(*qweight, {in_features / 8, out_features}, fmt::format("{} inputs at 4 bits by {} outputs", in_features, out_features));
  }
  const uint64_t bits = qweight->shape[0] * 32 / in_features;
  if (bits != 2 && bits != 3 && bits != 4 && bits != 8) {
    return wrong(*qweight, {in_features / 8, out_features}, fmt::format("{} inputs at 2, 3, 4 or 8 bits; this would be {}", in_features, bits));
  }
  s.bits = static_cast<uint32_t>(bits);
  s.groups = scales->shape[0];
  if (scales->shape[1] != out_features || s.groups == 0 || s.groups > in_features) {
    return wrong(*scales, {s.groups, out_features}, fmt::format("groups by {} outputs", out_features));
  }
  s.group_size = CeilDiv(in_features, s.groups);
  if (out_features * bits % 32 != 0 || qzeros->shape != QzerosShape(s)) {
    return wrong(*qzeros, QzerosShape(s), fmt::format("{} outputs, {} bits a code; '{}' has {} groups", out_features, bits, Escape(scales->name), s.groups));
  }
  if (g_idx != nullptr && g_idx->shape != GroupIndexShape(s)) return wrong(*g_idx, GroupIndexShape(s), "one entry an input");
  return std::optional<QuantShape>(s);
}

}  // namespace q2c
