#include "formats/layouts/packing.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <optional>

#include "formats/base/text.h"

namespace q2c {
namespace {

// In blocks of a whole line of the cache along one side and few along the other, whose rows are
// the farther apart: rows whose distance is a power of two throw each other out of the cache.
template <typename T, uint64_t kRows, uint64_t kColumns>
void TransposeBlocks(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns) {
  const auto move = [&](uint64_t r, uint64_t c) { Store(to + sizeof(T) * (c * rows + r), Load<T>(from + sizeof(T) * (r * columns + c))); };
  for (uint64_t c0 = 0; c0 < columns; c0 += kColumns) {
    for (uint64_t r0 = 0; r0 < rows; r0 += kRows) {
      if (c0 + kColumns <= columns && r0 + kRows <= rows) {  // sizes that the compiler knows
        for (uint64_t c = c0; c < c0 + kColumns; ++c) {
          for (uint64_t r = r0; r < r0 + kRows; ++r) move(r, c);
        }
        continue;
      }
      for (uint64_t c = c0; c < std::min(columns, c0 + kColumns); ++c) {
        for (uint64_t r = r0; r < std::min(rows, r0 + kRows); ++r) move(r, c);
      }
    }
  }
}

template <typename T>
void TransposeOf(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns) {
  constexpr uint64_t kLine = 64 / sizeof(T);
  constexpr uint64_t kFew = 8;
  if (columns >= rows) TransposeBlocks<T, kFew, kLine>(from, to, rows, columns);
  else TransposeBlocks<T, kLine, kFew>(from, to, rows, columns);
}

std::optional<std::string> FirstInexact(const QuantLinear& linear, Dtype dtype, std::string_view what, double (*value)(double scale, double zero)) {
  std::byte stored[8];
  const uint64_t count = linear.shape.groups * linear.shape.out_features;
  for (uint64_t i = 0; i < count; ++i) {
    const double exact = value(linear.ScaleAt(i), linear.zeros.empty() ? 0.0 : linear.zeros[i]);
    StoreFloat(exact, dtype, stored);
    if (LoadFloat(stored, dtype) == exact) continue;
    return fmt::format("{} of group {}, output {} is {:.9g}, which {} holds as {:.9g}", what, i / linear.shape.out_features, i % linear.shape.out_features, exact, NameOf(dtype), LoadFloat(stored, dtype));
  }
  return std::nullopt;
}

// A power of two as zero point, which symmetric linears have, moves a scale's exponent and changes nothing else: only the
// range can be short. False where that is not known so cheaply.
bool OffsetsShiftExactly(const QuantLinear& linear, Dtype dtype) {
  if (dtype != linear.scale_dtype || (dtype != Dtype::kF16 && dtype != Dtype::kBF16) || linear.zeros.empty()) return false;
  const uint16_t zero = linear.zeros.front();
  if (!std::has_single_bit(zero) || std::ranges::any_of(linear.zeros, [&](uint16_t other) { return other != zero; })) return false;
  const unsigned fraction_bits = dtype == Dtype::kF16 ? 10 : 7;
  const unsigned infinity = dtype == Dtype::kF16 ? 31 : 255;
  const uint32_t limit = (infinity - static_cast<unsigned>(std::countr_zero(zero))) << fraction_bits;
  uint32_t beyond = 0;
  for (size_t i = 0; i + 2 <= linear.scales.size(); i += 2) beyond |= static_cast<uint32_t>((Load<uint16_t>(linear.scales.data() + i) & 0x7FFFU) >= limit);
  return beyond == 0;
}

}  // namespace

void Transpose(const std::byte* from, std::byte* to, uint64_t rows, uint64_t columns, uint64_t width) {
  if (width == 2) return TransposeOf<uint16_t>(from, to, rows, columns);
  TransposeOf<uint32_t>(from, to, rows, columns);
}

void UnpackFields(const std::byte* words, uint64_t word_stride, uint64_t count, uint32_t bits, uint32_t add, uint16_t* fields) {
  const auto mask = (uint64_t{1} << bits) - 1;
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint64_t i = 0; i < count; ++i) {
    if (have < bits) {
      pending |= uint64_t{Load<uint32_t>(words)} << have;
      words += 4 * word_stride;
      have += 32;
    }
    fields[i] = static_cast<uint16_t>(((pending & mask) + add) & mask);
    pending >>= bits;
    have -= bits;
  }
}

void PackFields(const uint16_t* fields, uint64_t count, uint32_t bits, uint32_t add, std::byte* words, uint64_t word_stride) {
  const auto mask = (uint64_t{1} << bits) - 1;
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint64_t i = 0; i < count; ++i) {
    pending |= ((uint64_t{fields[i]} + add) & mask) << have;
    have += bits;
    if (have < 32) continue;
    Store(words, static_cast<uint32_t>(pending));
    words += 4 * word_stride;
    pending >>= 32U;
    have -= 32;
  }
  if (have > 0) Store(words, static_cast<uint32_t>(pending));
}

// Every value that comes here is exact in float32 or is meant for float32: a product of a
// 16-bit float and a small integer, or one rounding of a product of a float32 and a small integer.
void StoreFloat(double value, Dtype dtype, std::byte* out) {
  const auto single = static_cast<float>(value);
  if (dtype == Dtype::kF32) return Store(out, single);
  Store(out, dtype == Dtype::kF16 ? FloatToHalf(single) : FloatToBfloat(single));
}

double LoadFloat(const std::byte* at, Dtype dtype) {
  if (dtype == Dtype::kF32) return Load<float>(at);
  return dtype == Dtype::kF16 ? HalfToFloat(Load<uint16_t>(at)) : BfloatToFloat(Load<uint16_t>(at));
}

void ZerosFromOffsets(ByteView offsets, Dtype dtype, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  const uint64_t width = InfoOf(dtype).bits / 8;
  linear->zeros.resize(s.groups * s.out_features);
  linear->offsets.resize(linear->zeros.size());
  for (uint64_t i = 0; i < linear->zeros.size(); ++i) {
    const double scale = linear->ScaleAt(i);
    const double offset = LoadFloat(offsets.data() + width * i, dtype);
    linear->offsets[i] = static_cast<float>(offset);
    // Without a scale every weight of the group is the offset; only 0 is a weight of a grid.
    const double zero = scale == 0 ? static_cast<double>(s.MidCode()) : std::round(-offset / scale);
    const bool in_range = zero >= 0 && zero <= static_cast<double>(s.MaxCode()) && (scale != 0 || offset == 0);
    if (!in_range && linear->no_zeros.empty()) {
      linear->no_zeros = fmt::format("group {}, output {}: the offset {:.6g} with scale {:.6g} is no zero point from 0 to {}", i / s.out_features, i % s.out_features, offset, scale, s.MaxCode());
    }
    linear->zeros[i] = in_range ? static_cast<uint16_t>(zero) : static_cast<uint16_t>(s.MidCode());
    std::byte stored[8];
    StoreFloat(-scale * linear->zeros[i], dtype, stored);
    linear->nearest_zeros = linear->nearest_zeros || !in_range || LoadFloat(stored, dtype) != offset;
  }
}

Status OffsetsFromZeros(const QuantLinear& linear, Dtype dtype, MutableBytes out) {
  const uint64_t width = InfoOf(dtype).bits / 8;
  for (uint64_t i = 0; i < linear.zeros.size(); ++i) {
    // Subtracted from zero, so that a zero point of 0 gives +0. Offsets that are no zero points stay themselves.
    const double offset = linear.nearest_zeros ? linear.offsets[i] : 0.0 - static_cast<double>(linear.ScaleAt(i)) * linear.zeros[i];
    StoreFloat(offset, dtype, out.data() + width * i);
    if (std::isfinite(LoadFloat(out.data() + width * i, dtype))) continue;
    return Refused("quant-offset", "scale {:.6g} times zero point {} is beyond what {} holds", linear.ScaleAt(i), linear.zeros[i], NameOf(dtype));
  }
  return {};
}

std::optional<std::string> OffsetsRound(const QuantLinear& linear, Dtype dtype) {
  if (!linear.offsets.empty()) {
    // They were stored rounded already; the question is whether they stay what they are.
    for (const float offset : linear.offsets) {
      std::byte stored[8];
      StoreFloat(offset, dtype, stored);
      if (LoadFloat(stored, dtype) != offset) return fmt::format("the offset {:.9g} is no number of {}", offset, NameOf(dtype));
    }
    return std::nullopt;
  }
  if (OffsetsShiftExactly(linear, dtype)) return std::nullopt;
  return FirstInexact(linear, dtype, "−scale·zero", [](double scale, double zero) { return 0.0 - scale * zero; });
}

std::optional<std::string> ScalesRound(const QuantLinear& linear, Dtype dtype) {
  if (dtype == linear.scale_dtype) return std::nullopt;
  return FirstInexact(linear, dtype, "the scale", [](double scale, double) { return scale; });
}

std::vector<std::byte> ScalesAs(const QuantLinear& linear, Dtype dtype) {
  if (dtype == linear.scale_dtype) return linear.scales;
  const uint64_t width = InfoOf(dtype).bits / 8;
  const uint64_t count = linear.shape.groups * linear.shape.out_features;
  std::vector<std::byte> out(count * width);
  for (uint64_t i = 0; i < count; ++i) StoreFloat(linear.ScaleAt(i), dtype, out.data() + width * i);
  return out;
}

}  // namespace q2c
