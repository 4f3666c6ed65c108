// 16-bit floats as bit patterns. Widening to float32 is always exact; narrowing rounds to the
// nearest value, to the even one of two equally near, and beyond the range to infinity.
#pragma once

#include <bit>
#include <cstdint>

namespace q2c {

// Without branches, so that loops over it are vectorised.
constexpr float HalfToFloat(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000U) << 16U;
  const uint32_t magnitude = static_cast<uint32_t>(half & 0x7FFFU) << 13U;
  // Exponent and fraction stand where float32 has them, 112 too low; the product is exact, also for subnormals.
  const uint32_t scaled = std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112F);
  const uint32_t infinite = magnitude >= 0x0F800000U ? 0x7F800000U : 0U;  // infinity and NaN keep their exponent of all ones
  return std::bit_cast<float>(sign | scaled | infinite);
}

constexpr uint16_t FloatToHalf(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16U) & 0x8000U;
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return static_cast<uint16_t>(sign | 0x7E00U | ((magnitude >> 13U) & 0x3FFU));  // NaN
  if (magnitude >= 0x47800000U) return static_cast<uint16_t>(sign | 0x7C00U);                                 // 2^16 and above
  if (magnitude >= 0x38800000U) {  // normal as a half; the carry of the rounding runs into the exponent, as it should
    const uint32_t rounded = magnitude - 0x38000000U + 0xFFFU + ((magnitude >> 13U) & 1U);
    return static_cast<uint16_t>(sign | (rounded >> 13U));
  }
  // Subnormal: adding 0.5 leaves multiples of 2^-24 in the low bits, rounded by the addition itself.
  const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
  return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3F000000U));
}

constexpr uint16_t FloatToBfloat(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16U) | 0x40U);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16U) & 1U)) >> 16U);
}

constexpr float BfloatToFloat(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16U); }

}  // namespace q2c
