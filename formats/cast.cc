#include "formats/cast.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/base/half.h"

namespace q2c {
namespace {

constexpr uint64_t kBlock = 32;
using Run = std::array<float, kBlock>;

// Up to 32 elements at a time; a whole block of the block types.
void Widen(const std::byte* from, Dtype dtype, uint64_t count, Run* values) {
  switch (dtype) {
    case Dtype::kF32: std::memcpy(values->data(), from, 4 * count); return;
    case Dtype::kF16:
      for (uint64_t i = 0; i < count; ++i) (*values)[i] = HalfToFloat(Load<uint16_t>(from + 2 * i));
      return;
    case Dtype::kBF16:
      for (uint64_t i = 0; i < count; ++i) (*values)[i] = BfloatToFloat(Load<uint16_t>(from + 2 * i));
      return;
    default: break;
  }
  const float scale = HalfToFloat(Load<uint16_t>(from));
  if (dtype == Dtype::kQ8_0) {
    for (uint64_t i = 0; i < kBlock; ++i) (*values)[i] = scale * static_cast<float>(std::to_integer<int8_t>(from[2 + i]));
    return;
  }
  const bool offset = dtype == Dtype::kQ4_1;
  const float add = offset ? HalfToFloat(Load<uint16_t>(from + 2)) : -0.0F;  // adding −0 changes nothing, not even the sign of a zero
  const int middle = offset ? 0 : 8;
  for (uint64_t i = 0; i < kBlock / 2; ++i) {
    const auto byte = std::to_integer<int>(from[(offset ? 4 : 2) + i]);
    (*values)[i] = scale * static_cast<float>((byte & 0xF) - middle) + add;
    (*values)[i + kBlock / 2] = scale * static_cast<float>((byte >> 4) - middle) + add;
  }
}

void Narrow(const Run& values, uint64_t count, std::byte* to, Dtype dtype) {
  switch (dtype) {
    case Dtype::kF32: std::memcpy(to, values.data(), 4 * count); return;
    case Dtype::kF16:
      for (uint64_t i = 0; i < count; ++i) Store(to + 2 * i, FloatToHalf(values[i]));
      return;
    case Dtype::kBF16:
      for (uint64_t i = 0; i < count; ++i) Store(to + 2 * i, FloatToBfloat(values[i]));
      return;
    default: break;
  }
  float largest = 0;
  for (const float value : values) largest = std::max(largest, std::abs(value));
  const float scale = largest / 127.0F;
  const float inverse = scale == 0 ? 0.0F : 1.0F / scale;
  Store(to, FloatToHalf(scale));
  for (uint64_t i = 0; i < kBlock; ++i) to[2 + i] = static_cast<std::byte>(static_cast<int8_t>(std::lround(values[i] * inverse)));
}

bool IsBlock(Dtype dtype) { return InfoOf(dtype).block > 1; }

}  // namespace

bool CastIsExact(Dtype from, Dtype to) { return from == to || (to == Dtype::kF32 && CanCast(from, to) && from != Dtype::kQ4_1); }

bool CanCast(Dtype from, Dtype to) {
  if (from == to) return true;
  if (IsBlock(from)) return IsFloat16Or32(to);
  return IsFloat16Or32(from) && (IsFloat16Or32(to) || to == Dtype::kQ8_0);
}

void Cast(ByteView from, Dtype from_dtype, MutableBytes to, Dtype to_dtype) {
  const DtypeInfo& in = InfoOf(from_dtype);
  const DtypeInfo& out = InfoOf(to_dtype);
  const uint64_t elements = to.size() * 8 / out.bits * out.block;
  Run values{};
  for (uint64_t at = 0; at < elements; at += kBlock) {
    const uint64_t count = std::min(kBlock, elements - at);
    Widen(from.data() + at / in.block * in.bits / 8, from_dtype, count, &values);
    Narrow(values, count, to.data() + at / out.block * out.bits / 8, to_dtype);
  }
}

void CastScales(Dtype to, QuantLinear* linear) {
  if (linear->scale_dtype == to) return;
  const uint64_t count = linear->scales.size() / (InfoOf(linear->scale_dtype).bits / 8);
  std::vector<std::byte> scales(count * (InfoOf(to).bits / 8));
  Cast(linear->scales, linear->scale_dtype, scales, to);
  linear->scales = std::move(scales);
  linear->scale_dtype = to;
}

}  // namespace q2c
