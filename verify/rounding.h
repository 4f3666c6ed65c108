// One rounding to a float dtype, from the definition of IEEE 754 and apart from the bit
// arithmetic of formats/base/half.h; and what roundings have cost in sum.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "formats/tensor.h"

namespace q2c {

// The number of F16, BF16 or F32 that is nearest to `value`, of two the even one; infinite
// where it is larger than they hold. A double keeps it exactly.
inline double RoundedTo(double value, Dtype dtype) {
  struct Limits {
    int precision;      // bits of the significand
    int least;          // exponent of the smallest normal number
    double largest;
  };
  constexpr Limits kHalf = {11, -14, 65504.0};
  constexpr Limits kBfloat = {8, -126, 0x1.FEp127};
  constexpr Limits kSingle = {24, -126, 0x1.FFFFFEp127};
  const Limits& limits = dtype == Dtype::kF16 ? kHalf : dtype == Dtype::kBF16 ? kBfloat : kSingle;
  if (!(std::abs(value) < 0x1p128)) return std::isnan(value) ? value : std::copysign(std::numeric_limits<double>::infinity(), value);
  const int exponent = std::max(static_cast<int>((std::bit_cast<uint64_t>(value) >> 52U) & 0x7FFU) - 1023, limits.least);
  // Beside 1.5 · 2^(52 + e) the last bit of a double weighs 2^e: adding it rounds there.
  const uint64_t biased = static_cast<uint64_t>(exponent - (limits.precision - 1) + 52 + 1023);
  const double anchor = std::bit_cast<double>((biased << 52U) | (uint64_t{1} << 51U));
  const double rounded = std::copysign((value + anchor) - anchor, value);
  if (std::abs(rounded) <= limits.largest) return rounded;
  return std::copysign(std::numeric_limits<double>::infinity(), value);
}

inline double NumberOf(uint32_t float_bits) { return std::bit_cast<float>(float_bits); }
inline uint32_t FloatBits(double value) { return std::bit_cast<uint32_t>(static_cast<float>(value)); }

// What rounding did to a set of numbers. Summed in a fixed order, equal runs give equal sums.
struct Measure {
  uint64_t count = 0;
  double largest = 0;
  double squared_error = 0;
  double squared = 0;

  void Add(double exact, double stored) {
    const double error = std::abs(exact - stored);
    ++count;
    largest = std::max(largest, error);
    squared_error += error * error;
    squared += exact * exact;
  }
  void Add(const Measure& other) {
    count += other.count;
    largest = std::max(largest, other.largest);
    squared_error += other.squared_error;
    squared += other.squared;
  }
};

}  // namespace q2c
