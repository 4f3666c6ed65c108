#include "formats/base/half.h"

#include <gtest/gtest.h>

#include <cmath>

namespace q2c {
namespace {

// The definition: sign, exponent − 15, significand of 10 bits.
double Defined(uint16_t half) {
  const int exponent = (half >> 10) & 0x1F;
  const int fraction = half & 0x3FF;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (half & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Half, EveryPattern) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float wide = HalfToFloat(half);
    ASSERT_EQ(std::signbit(wide), (bits & 0x8000) != 0) << bits;
    if ((bits & 0x7C00) != 0x7C00) {
      ASSERT_EQ(static_cast<double>(wide), Defined(half)) << bits;
    } else if ((bits & 0x3FF) == 0) {
      ASSERT_TRUE(std::isinf(wide)) << bits;
    } else {
      ASSERT_TRUE(std::isnan(wide)) << bits;
    }
  }
}

TEST(Bfloat, IsTheUpperHalfOfAFloat) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) ASSERT_EQ(std::bit_cast<uint32_t>(BfloatToFloat(static_cast<uint16_t>(bits))), bits << 16U);
}

}  // namespace
}  // namespace q2c
