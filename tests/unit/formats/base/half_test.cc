#include "formats/base/half.h"

#include <gtest/gtest.h>

#include <bit>
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

// The nearest finite pattern, the even one of two, by comparing distances in double; `limit` is where
// the next power of two would begin, and half the last step below it rounds to infinity.
uint16_t Nearest(float value, float (*widen)(uint16_t), uint32_t infinity, double limit) {
  const uint32_t sign = std::signbit(value) ? 0x8000U : 0;
  const double magnitude = std::abs(static_cast<double>(value));
  const auto wide = [&](uint32_t pattern) { return pattern == infinity ? limit : static_cast<double>(widen(static_cast<uint16_t>(pattern))); };
  uint32_t low = 0;
  for (uint32_t step = 0x4000; step > 0; step /= 2) {
    if (low + step < infinity && wide(low + step) <= magnitude) low += step;
  }
  if (magnitude >= limit) return static_cast<uint16_t>(sign | infinity);
  const double below = magnitude - wide(low);
  const double above = wide(low + 1) - magnitude;
  return static_cast<uint16_t>(sign | (low + (above < below || (above == below && low % 2 == 1) ? 1 : 0)));
}

struct Narrowing {
  const char* name;
  uint16_t (*narrow)(float);
  float (*widen)(uint16_t);
  uint32_t infinity;
  double limit;
};
const Narrowing kNarrowings[] = {{"half", FloatToHalf, HalfToFloat, 0x7C00, 0x1p16}, {"bfloat", FloatToBfloat, BfloatToFloat, 0x7F80, 0x1p128}};

TEST(Narrowing, EveryPatternComesBack) {
  for (const Narrowing& type : kNarrowings) {
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const auto pattern = static_cast<uint16_t>(bits);
      const uint16_t back = type.narrow(type.widen(pattern));
      if ((bits & 0x7FFFU) > type.infinity) {  // NaN keeps its sign and payload, and becomes a quiet one
        ASSERT_EQ(back, bits | (type.infinity == 0x7C00 ? 0x200U : 0x40U)) << type.name;
        continue;
      }
      ASSERT_EQ(back, pattern) << type.name;
    }
  }
}

// Each finite pattern, the midpoint to the next one, and the floats beside both.
TEST(Narrowing, NearestOfEveryNeighbourhood) {
  for (const Narrowing& type : kNarrowings) {
    for (uint32_t bits = 0; bits < type.infinity; ++bits) {
      const float at = type.widen(static_cast<uint16_t>(bits));
      const double next = bits + 1 == type.infinity ? type.limit : static_cast<double>(type.widen(static_cast<uint16_t>(bits + 1)));
      const auto middle = static_cast<float>((static_cast<double>(at) + next) / 2);
      for (const float centre : {at, middle}) {
        for (const float value : {std::nextafter(centre, 0.0F), centre, std::nextafter(centre, INFINITY)}) {
          for (const float sign : {1.0F, -1.0F}) ASSERT_EQ(type.narrow(sign * value), Nearest(sign * value, type.widen, type.infinity, type.limit)) << type.name << ": " << sign * value;
        }
      }
    }
  }
}

TEST(Narrowing, EveryScaleOfFloats) {
  // All exponents, and significands with a run of ones or zeros about the cut.
  for (const Narrowing& type : kNarrowings) {
    for (uint32_t exponent = 0; exponent < 255; ++exponent) {
      for (uint32_t low = 0; low < 23; ++low) {
        for (const uint32_t fraction : {1U << low, (1U << low) - 1, 0x7FFFFFU & ~((1U << low) - 1), 0x7FFFFFU ^ (1U << low), 0x400000U | 1U << low}) {
          const auto value = std::bit_cast<float>(exponent << 23U | fraction);
          ASSERT_EQ(type.narrow(value), Nearest(value, type.widen, type.infinity, type.limit)) << type.name << ": " << value;
        }
      }
    }
    EXPECT_EQ(type.narrow(INFINITY), type.infinity);
    EXPECT_EQ(type.narrow(-INFINITY), type.infinity | 0x8000U);
  }
  // By name: the largest half, the tie above it, the smallest subnormal and half of it.
  EXPECT_EQ(FloatToHalf(65519.996F), 0x7BFF);
  EXPECT_EQ(FloatToHalf(65520.0F), 0x7C00);
  EXPECT_EQ(FloatToHalf(0x1p-24F), 0x0001);
  EXPECT_EQ(FloatToHalf(0x1p-25F), 0x0000);
  EXPECT_EQ(FloatToHalf(0x1.000002p-25F), 0x0001);
  EXPECT_EQ(FloatToHalf(-0.0F), 0x8000);
}

}  // namespace
}  // namespace q2c
