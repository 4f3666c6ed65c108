#include "formats/layouts/dense.h"

#include "formats/base/text.h"
#include "formats/layouts/packing.h"

namespace q2c {
namespace {

Shape WeightShape(const QuantShape& s) { return {s.out_features, s.in_features}; }
Grid WeightGrid(const QuantShape&, uint64_t) { return {{Axis::kOutputs, 1, 1}, {}}; }

Status DecodeDense(ByteView /*bytes*/, QuantLinear* /*linear*/) { return Internal("a dense weight has no codes"); }

// scale · (code − zero) is exact in float32 for 16-bit scales, and rounded once to what is stored.

// A group has at most 2^bits different weights: they are computed once, then looked up.
template <typename T, typename Narrow>
void EncodeByTable(const QuantLinear& linear, MutableBytes out, const Narrow& narrow) {
  const QuantShape& s = linear.shape;
  const uint64_t values = s.MaxCode() + 1;
  const bool scattered = !linear.group_index.empty() && !IsTrivial(linear.group_index, s.group_size);
  std::vector<T> table(values * s.groups);
  std::vector<uint8_t> codes(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    UnpackRow(linear, n, codes.data());
    for (uint64_t g = 0; g < s.groups; ++g) {
      const float scale = linear.Scale(g, n);
      T* entry = table.data() + g * values;
      const auto zero = static_cast<int32_t>(linear.zeros[g * s.out_features + n]);
      for (uint64_t code = 0; code < values; ++code) {
        // Offsets that are no zero points are added as they are.
        const float value = !linear.nearest_zeros ? scale * static_cast<float>(static_cast<int32_t>(code) - zero)
                                 : static_cast<float>(static_cast<double>(scale) * static_cast<double>(code) + linear.offsets[g * s.out_features + n]);
        entry[code] = narrow(value);
      }
    }
    std::byte* row = out.data() + n * s.in_features * sizeof(T);
    for (uint64_t k = 0; scattered && k < s.in_features; ++k) Store(row + sizeof(T) * k, table[static_cast<uint64_t>(linear.group_index[k]) * values + codes[k]]);
    for (uint64_t g = 0; !scattered && g < s.groups; ++g) {
      const T* of_group = table.data() + g * values;
      const uint8_t* code = codes.data();
      const uint64_t end = std::min(s.in_features, (g + 1) * s.group_size);
      for (uint64_t k = g * s.group_size; k < end; ++k) Store(row + sizeof(T) * k, of_group[code[k]]);
    }
  }
}

// The same where narrowing is a few integer operations: then computing each weight, several at
// once, is faster than looking it up. `narrow` need not know NaN and infinity.
template <typename T, typename Narrow>
void EncodeDirectly(const QuantLinear& linear, MutableBytes out, const Narrow& narrow) {
  const QuantShape& s = linear.shape;
  std::vector<uint8_t> codes(s.in_features);
  for (uint64_t n = 0; n < s.out_features; ++n) {
    UnpackRow(linear, n, codes.data());
    std::byte* row = out.data() + n * s.in_features * sizeof(T);
    for (uint64_t g = 0; g < s.groups; ++g) {
      const float scale = linear.Scale(g, n);
      const auto zero = static_cast<int32_t>(linear.zeros[g * s.out_features + n]);
      const uint8_t* code = codes.data();
      const uint64_t end = std::min(s.in_features, (g + 1) * s.group_size);
      for (uint64_t k = g * s.group_size; k < end; ++k) Store(row + sizeof(T) * k, narrow(scale * static_cast<float>(int32_t{code[k]} - zero)));
    }
  }
}

template <typename T, typename Narrow>
void EncodeRows(const QuantLinear& linear, MutableBytes out, const Narrow& narrow) {
  const QuantShape& s = linear.shape;
  bool direct = !linear.nearest_zeros && (linear.group_index.empty() || IsTrivial(linear.group_index, s.group_size));
  for (uint64_t i = 0; direct && i < s.groups * s.out_features; ++i) direct = std::isfinite(linear.ScaleAt(i) * static_cast<float>(s.MaxCode()));
  if constexpr (std::is_same_v<T, float>) {
    if (direct) return EncodeDirectly<T>(linear, out, narrow);
  } else {
    const auto rounded = [](float value) {
      const auto bits = std::bit_cast<uint32_t>(value);
      return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
    };
    if (direct) return EncodeDirectly<T>(linear, out, rounded);
  }
  EncodeByTable<T>(linear, out, narrow);
}

Status EncodeF16(const QuantLinear& linear, MutableBytes out) {
  EncodeByTable<uint16_t>(linear, out, [](float value) { return FloatToHalf(value); });
  return {};
}
Status EncodeBf16(const QuantLinear& linear, MutableBytes out) {
  EncodeRows<uint16_t>(linear, out, [](float value) { return FloatToBfloat(value); });
  return {};
}
Status EncodeF32(const QuantLinear& linear, MutableBytes out) {
  EncodeRows<float>(linear, out, [](float value) { return value; });
  return {};
}

}  // namespace

constexpr uint8_t kAll = kCodes | kZeros | kScales | kGroupIndex;
const std::array<PartCodec, 1> kDenseF16Parts = {{{"weight", kAll, "dense-f16", Dtype::kF16, WeightShape, WeightGrid, DecodeDense, EncodeF16}}};
const std::array<PartCodec, 1> kDenseBf16Parts = {{{"weight", kAll, "dense-bf16", Dtype::kBF16, WeightShape, WeightGrid, DecodeDense, EncodeBf16}}};
const std::array<PartCodec, 1> kDenseF32Parts = {{{"weight", kAll, "dense-f32", Dtype::kF32, WeightShape, WeightGrid, DecodeDense, EncodeF32}}};

std::optional<std::string> DenseF16Rounds(const QuantLinear&) { return "scale·(code − zero) has up to 20 significant bits, float16 has 11"; }
std::optional<std::string> DenseBf16Rounds(const QuantLinear&) { return "scale·(code − zero) has up to 20 significant bits, bfloat16 has 8"; }
std::optional<std::string> DenseF32Rounds(const QuantLinear& linear) {
  for (uint64_t i = 0; linear.nearest_zeros && i < linear.offsets.size(); ++i) {
    for (uint64_t code = 0; code <= linear.shape.MaxCode(); ++code) {
      const double exact = static_cast<double>(linear.ScaleAt(i)) * static_cast<double>(code) + linear.offsets[i];
      if (static_cast<double>(static_cast<float>(exact)) != exact) return fmt::format("scale·code + offset, such as {:.12g}, is rounded once to float32", exact);
    }
  }
  if (linear.scale_dtype != Dtype::kF32) return std::nullopt;
  return "the scales are float32 themselves, and their products with codes have more bits";
}

Result<std::optional<QuantShape>> DetectDense(const std::string&, uint64_t, uint64_t, std::span<const TensorInfo* const>, const LayoutHints&) {
  return std::optional<QuantShape>();
}

}  // namespace q2c
