// Casts: every pair of types, every half and bfloat, and Q8_0 against its formula.
#include "formats/cast.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "tests/unit/support/stored.h"

namespace q2c {
namespace {

using test::Bytes;

constexpr std::array kFloats = {Dtype::kF16, Dtype::kBF16, Dtype::kF32};
constexpr std::array kBlocks = {Dtype::kQ4_0, Dtype::kQ4_1, Dtype::kQ8_0};

Bytes Casted(const Bytes& from, Dtype in, Dtype out) {
  const uint64_t elements = from.size() * 8 / InfoOf(in).bits * InfoOf(in).block;
  Bytes to(elements / InfoOf(out).block * InfoOf(out).bits / 8, std::byte{0xEE});
  Cast(from, in, to, out);
  return to;
}
template <typename T>
std::vector<T> WordsOf(const Bytes& bytes) {
  std::vector<T> words(bytes.size() / sizeof(T));
  if (!bytes.empty()) std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}
// A half by its definition, in double arithmetic.
double HalfValue(uint16_t half) {
  const int exponent = half >> 10 & 31;
  const int fraction = half & 1023;
  const double size = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (half & 0x8000) != 0 ? -size : size;
}
bool IsFinite(uint16_t half) { return (half >> 10 & 31) != 31; }
// The nearest half by search among its neighbours: even where two are as near.
uint16_t NearestHalf(double value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::abs(value);
  if (size >= 65520) return sign | 0x7C00;
  uint32_t low = 0;
  uint32_t high = 0x7BFF;
  while (low < high) {
    const uint32_t middle = (low + high + 1) / 2;
    if (HalfValue(static_cast<uint16_t>(middle)) <= size) low = middle;
    else high = middle - 1;
  }
  if (low == 0x7BFF) return sign | 0x7BFF;
  const double below = size - HalfValue(static_cast<uint16_t>(low));
  const double above = HalfValue(static_cast<uint16_t>(low + 1)) - size;
  const bool up = above < below || (above == below && low % 2 == 1);
  return static_cast<uint16_t>(sign | (up ? low + 1 : low));
}

TEST(CastTest, WhichCanBeAndWhichAreExact) {
  for (const Dtype from : kFloats) {
    for (const Dtype to : kFloats) {
      EXPECT_TRUE(CanCast(from, to));
      EXPECT_EQ(CastIsExact(from, to), from == to || to == Dtype::kF32) << NameOf(from) << " to " << NameOf(to);
    }
    EXPECT_TRUE(CanCast(from, Dtype::kQ8_0));
    EXPECT_FALSE(CastIsExact(from, Dtype::kQ8_0));
    EXPECT_FALSE(CanCast(from, Dtype::kQ4_0));
    EXPECT_FALSE(CanCast(from, Dtype::kQ4_1));
    for (const Dtype other : {Dtype::kI32, Dtype::kU8, Dtype::kF64, Dtype::kBool}) {
      EXPECT_FALSE(CanCast(from, other));
      EXPECT_FALSE(CanCast(other, from));
    }
  }
  for (const Dtype from : kBlocks) {
    for (const Dtype to : kFloats) EXPECT_TRUE(CanCast(from, to));
    for (const Dtype to : kBlocks) EXPECT_EQ(CanCast(from, to), from == to);
    EXPECT_FALSE(CastIsExact(from, Dtype::kF16));
  }
  EXPECT_TRUE(CastIsExact(Dtype::kQ4_0, Dtype::kF32));
  EXPECT_TRUE(CastIsExact(Dtype::kQ8_0, Dtype::kF32));
  EXPECT_FALSE(CastIsExact(Dtype::kQ4_1, Dtype::kF32));  // a sum of two halves may need more than 24 bits
}

TEST(CastTest, EveryHalfToFloatAndBack) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const Bytes halves = test::BytesOfWords(all);
  const Bytes wide = Casted(halves, Dtype::kF16, Dtype::kF32);
  const auto floats = WordsOf<float>(wide);
  for (size_t i = 0; i < all.size(); ++i) {
    if (!IsFinite(all[i])) {
      EXPECT_EQ(std::isnan(floats[i]), (all[i] & 1023) != 0) << i;
      continue;
    }
    ASSERT_EQ(static_cast<double>(floats[i]), HalfValue(all[i])) << i;
    ASSERT_EQ(std::signbit(floats[i]), (all[i] & 0x8000) != 0) << i;
  }
  const auto back = WordsOf<uint16_t>(Casted(wide, Dtype::kF32, Dtype::kF16));
  for (size_t i = 0; i < all.size(); ++i) {
    if (IsFinite(all[i]) || (all[i] & 1023) == 0) ASSERT_EQ(back[i], all[i]);
    else ASSERT_TRUE((back[i] & 0x7C00) == 0x7C00 && (back[i] & 1023) != 0) << i;  // still no number
  }
}

TEST(CastTest, EveryBfloatToFloatAndBack) {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const Bytes wide = Casted(test::BytesOfWords(all), Dtype::kBF16, Dtype::kF32);
  const auto bits = WordsOf<uint32_t>(wide);
  for (size_t i = 0; i < all.size(); ++i) ASSERT_EQ(bits[i], static_cast<uint32_t>(i) << 16U);
  const auto back = WordsOf<uint16_t>(Casted(wide, Dtype::kF32, Dtype::kBF16));
  for (size_t i = 0; i < all.size(); ++i) {
    const bool nan = (i & 0x7F80) == 0x7F80 && (i & 0x7F) != 0;
    if (!nan) ASSERT_EQ(back[i], all[i]);
    else ASSERT_TRUE((back[i] & 0x7F80) == 0x7F80 && (back[i] & 0x7F) != 0) << i;
  }
}

TEST(CastTest, FloatsAreRoundedToTheNearestHalf) {
  std::vector<float> values;
  for (uint32_t half = 0; half < 0x7BFF; half += 37) {
    const double low = HalfValue(static_cast<uint16_t>(half));
    const double high = HalfValue(static_cast<uint16_t>(half + 1));
    for (const double part : {0.25, 0.5, 0.5000001, 0.75}) {
      values.push_back(static_cast<float>(low + (high - low) * part));
      values.push_back(-values.back());
    }
  }
  for (const float edge : {65504.0F, 65519.996F, 65520.0F, 1e6F, 0x1p-25F, 0x1.000002p-25F, 0x1p-26F, 0.0F, -0.0F}) values.push_back(edge);
  const auto halves = WordsOf<uint16_t>(Casted(test::BytesOfWords(values), Dtype::kF32, Dtype::kF16));
  for (size_t i = 0; i < values.size(); ++i) ASSERT_EQ(halves[i], NearestHalf(static_cast<double>(values[i]))) << values[i];
}

TEST(CastTest, FloatsAreRoundedToTheNearestBfloat) {
  const std::vector<std::pair<uint32_t, uint16_t>> rows = {{0x3F800000, 0x3F80}, {0x3F807FFF, 0x3F80}, {0x3F808000, 0x3F80}, {0x3F808001, 0x3F81}, {0x3F818000, 0x3F82}, {0xBF818000, 0xBF82},
                                                           {0x3FFFFFFF, 0x4000}, {0x7F7FFFFF, 0x7F80}, {0x00000001, 0x0000}, {0x00008001, 0x0001}, {0x80000000, 0x8000}, {0x7F800000, 0x7F80}};
  for (const auto& [bits, want] : rows) EXPECT_EQ(WordsOf<uint16_t>(Casted(test::BytesOfWords(std::vector<uint32_t>{bits}), Dtype::kF32, Dtype::kBF16))[0], want) << std::hex << bits;
}

TEST(CastTest, HalfAndBfloatByWayOfFloat) {
  std::vector<uint16_t> all;
  for (uint32_t i = 0; i < 65536; ++i) {
    if ((i >> 10 & 31) != 31) all.push_back(static_cast<uint16_t>(i));
  }
  const Bytes halves = test::BytesOfWords(all);
  EXPECT_EQ(Casted(halves, Dtype::kF16, Dtype::kBF16), Casted(Casted(halves, Dtype::kF16, Dtype::kF32), Dtype::kF32, Dtype::kBF16));
  const Bytes brains = test::BytesOfWords(std::vector<uint16_t>{0x3F80, 0xC1C8, 0x7F00, 0x0080, 0x3380, 0x8000});
  EXPECT_EQ(WordsOf<uint16_t>(Casted(brains, Dtype::kBF16, Dtype::kF16)), (std::vector<uint16_t>{0x3C00, 0xCE40, 0x7C00, 0x0000, 0x0001, 0x8000}));
}

TEST(CastTest, CountsThatAreNoWholeRun) {
  for (const size_t count : {0U, 1U, 31U, 33U, 65U}) {
    const Bytes halves(2 * count, std::byte{0x3C});
    const Bytes floats = Casted(halves, Dtype::kF16, Dtype::kF32);
    ASSERT_EQ(floats.size(), 4 * count);
    for (const float value : WordsOf<float>(floats)) EXPECT_EQ(value, 1.05859375F);  // 0x3C3C
  }
}

// scale = largest / 127 as float16; code = value · (1 / scale before that rounding), half away from zero.
TEST(CastTest, Q8IsTheFormula) {
  test::Random random(9);
  std::vector<float> values;
  for (int block = 0; block < 200; ++block) {
    const int exponent = static_cast<int>(random.Below(24)) - 14;
    for (int i = 0; i < 32; ++i) values.push_back(std::ldexp(static_cast<float>(static_cast<int>(random.Below(20001)) - 10000) / 10000.0F, exponent));
  }
  values.insert(values.end(), 32, 0.0F);
  const Bytes blocks = Casted(test::BytesOfWords(values), Dtype::kF32, Dtype::kQ8_0);
  ASSERT_EQ(blocks.size(), values.size() / 32 * 34);
  for (size_t b = 0; b < values.size() / 32; ++b) {
    float largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::abs(values[32 * b + i]));
    const float step = largest / 127;
    ASSERT_EQ(Load<uint16_t>(blocks.data() + 34 * b), NearestHalf(static_cast<double>(step))) << b;
    const float inverse = step == 0 ? 0 : 1 / step;
    for (size_t i = 0; i < 32; ++i) {
      const float scaled = values[32 * b + i] * inverse;
      const float code = std::copysign(std::floor(std::abs(scaled) + 0.5F), scaled);
      ASSERT_EQ(std::to_integer<int8_t>(blocks[34 * b + 2 + i]), static_cast<int>(code)) << b << " " << i;
    }
  }
}

TEST(CastTest, BlocksAsFloats) {
  // d = 1.5, codes 0…31 for Q8_0 less 16; nibbles j and 15 − j for the others.
  Bytes q8(34);
  Bytes q40(18);
  Bytes q41(20);
  for (Bytes* block : {&q8, &q40, &q41}) Store(block->data(), uint16_t{0x3E00});
  Store(q41.data() + 2, uint16_t{0xC000});  // −2
  for (size_t i = 0; i < 32; ++i) q8[2 + i] = static_cast<std::byte>(static_cast<int8_t>(static_cast<int>(i) - 16));
  for (size_t j = 0; j < 16; ++j) q40[2 + j] = q41[4 + j] = static_cast<std::byte>(j | (15 - j) << 4U);
  const auto f8 = WordsOf<float>(Casted(q8, Dtype::kQ8_0, Dtype::kF32));
  const auto f40 = WordsOf<float>(Casted(q40, Dtype::kQ4_0, Dtype::kF32));
  const auto f41 = WordsOf<float>(Casted(q41, Dtype::kQ4_1, Dtype::kF32));
  for (size_t i = 0; i < 32; ++i) {
    const auto index = static_cast<int>(i);
    const int nibble = index < 16 ? index : 31 - index;
    EXPECT_EQ(f8[i], 1.5F * static_cast<float>(index - 16));
    EXPECT_EQ(f40[i], 1.5F * static_cast<float>(nibble - 8));
    EXPECT_EQ(f41[i], 1.5F * static_cast<float>(nibble) - 2.0F);
  }
  EXPECT_EQ(Casted(q40, Dtype::kQ4_0, Dtype::kF16), Casted(Casted(q40, Dtype::kQ4_0, Dtype::kF32), Dtype::kF32, Dtype::kF16));
  // A negative scale times a code of nothing is a negative zero, as a loader computes it.
  Store(q40.data(), uint16_t{0xBE00});
  const auto signs = WordsOf<float>(Casted(q40, Dtype::kQ4_0, Dtype::kF32));
  EXPECT_TRUE(std::signbit(signs[8]));
}

}  // namespace
}  // namespace q2c
