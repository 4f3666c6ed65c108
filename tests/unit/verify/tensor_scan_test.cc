// What one pass over floats counts, against the C library's own classes of numbers.
#include "verify/checks/tensor_scan.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <numeric>

#include "tests/unit/verify/packers.h"

namespace q2c {
namespace {

using test::Must;
using test::Stored;
using test::StoredTensor;

double F32(uint32_t word) { return std::bit_cast<float>(word); }
double BF16(uint16_t word) { return F32(static_cast<uint32_t>(word) << 16U); }
double F16(uint16_t word) {
  const int exponent = (word >> 10U) & 31;
  const int fraction = word & 1023;
  const double sign = (word >> 15U) != 0 ? -1.0 : 1.0;
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : std::copysign(NAN, sign);
  return sign * (exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25));
}

// One number at a time; `normal` is the dtype's smallest normal number.
template <typename Word>
FloatScan Counted(const std::vector<Word>& words, double (*value)(Word), double normal) {
  FloatScan scan;
  for (const Word word : words) {
    const double number = value(word);
    const double magnitude = std::abs(number);
    ++scan.count;
    scan.negative += std::signbit(number) ? 1 : 0;
    if (!std::isfinite(number)) {
      ++scan.not_finite;
      continue;
    }
    scan.zero += magnitude == 0 ? 1 : 0;
    scan.subnormal += magnitude > 0 && magnitude < normal ? 1 : 0;
    if (magnitude > 0) scan.low = scan.low == 0 ? magnitude : std::min(scan.low, magnitude);
    scan.high = std::max(scan.high, magnitude);
  }
  return scan;
}

template <typename Word>
void ExpectCounted(const char* dtype, const std::vector<Word>& words, double (*value)(Word), double normal) {
  const Stored stored({StoredTensor{"t", dtype, {words.size()}, test::BytesOfWords(words)}});
  const FloatScan seen = Must(ScanTensor(*stored, *(*stored).Find("t"), ScanAs::kFloats, {})).floats;
  const FloatScan want = Counted(words, value, normal);
  EXPECT_EQ(seen.count, want.count) << dtype;
  EXPECT_EQ(seen.not_finite, want.not_finite) << dtype;
  EXPECT_EQ(seen.zero, want.zero) << dtype;
  EXPECT_EQ(seen.negative, want.negative) << dtype;
  EXPECT_EQ(seen.subnormal, want.subnormal) << dtype;
  EXPECT_EQ(seen.low, want.low) << dtype;
  EXPECT_EQ(seen.high, want.high) << dtype;
}

const double kNormalHalf = std::ldexp(1, -14);
const double kNormalSingle = std::ldexp(1, -126);  // of bfloat16 too

TEST(TensorScan, EveryHalf) {
  std::vector<uint16_t> words(65536);
  std::iota(words.begin(), words.end(), uint16_t{0});
  ExpectCounted("F16", words, F16, kNormalHalf);
  ExpectCounted("BF16", words, BF16, kNormalSingle);
}

// More equal words than a 16-bit count can hold, and ends that fill no vector.
TEST(TensorScan, ManyEqualHalves) {
  for (const uint16_t word : std::vector<uint16_t>{0x0000, 0x8000, 0x0001, 0x83FF, 0x0400, 0x3C00, 0xFBFF, 0x7C00, 0xFC00, 0x7FFF, 0xFFFF}) {
    ExpectCounted("F16", std::vector<uint16_t>(200'003, word), F16, kNormalHalf);
    ExpectCounted("BF16", std::vector<uint16_t>(200'003, word), BF16, kNormalSingle);
  }
}

// The extremes may stand anywhere, also where a vector does not reach.
TEST(TensorScan, OneOddHalfAnywhere) {
  for (size_t at = 0; at < 70; ++at) {
    for (const uint16_t word : std::vector<uint16_t>{0x8000, 0x0001, 0x7BFF, 0xFC00}) {
      std::vector<uint16_t> words(70, 0x3C00);
      words[at] = word;
      ExpectCounted("F16", words, F16, kNormalHalf);
    }
  }
}

TEST(TensorScan, Singles) {
  test::Random random(5);
  std::vector<uint32_t> words = {0, 0x80000000U, 1, 0x807FFFFFU, 0x00800000U, 0x7F7FFFFFU, 0x7F800000U, 0xFF800000U, 0x7FFFFFFFU, 0xFFFFFFFFU};
  for (size_t i = 0; i < 100'003; ++i) words.push_back((random.Below(1U << 16U) << 16U) | random.Below(1U << 16U));
  ExpectCounted("F32", words, F32, kNormalSingle);
  for (const uint32_t word : std::vector<uint32_t>(words.begin(), words.begin() + 10)) ExpectCounted("F32", std::vector<uint32_t>(70'001, word), F32, kNormalSingle);
}

// 300,000 blocks are several pieces, none of which ends with a block.
void ExpectBlocks(const char* dtype, size_t width, bool has_offset) {
  constexpr size_t kBlocks = 300'000;
  test::Random random(7);
  std::vector<uint16_t> scales(kBlocks);
  std::vector<uint16_t> offsets(has_offset ? kBlocks : 0);
  test::Bytes bytes(kBlocks * width, std::byte{0xFF});  // codes that would be NaN if they were taken for scales
  for (size_t i = 0; i < kBlocks; ++i) {
    scales[i] = static_cast<uint16_t>(random.Below(1U << 16U));
    test::PutHalf(&bytes, i * width / 2, scales[i]);
    if (!has_offset) continue;
    offsets[i] = static_cast<uint16_t>(random.Below(1U << 16U));
    test::PutHalf(&bytes, i * width / 2 + 1, offsets[i]);
  }
  const Stored stored({StoredTensor{"t", dtype, {kBlocks * 32}, bytes}});
  const FloatScan seen = Must(ScanTensor(*stored, *(*stored).Find("t"), ScanAs::kFloats, {})).floats;
  const FloatScan want = Counted(scales, F16, kNormalHalf);
  EXPECT_EQ(seen.count, kBlocks + offsets.size()) << dtype;
  EXPECT_EQ(seen.not_finite, want.not_finite + Counted(offsets, F16, kNormalHalf).not_finite) << dtype;
  EXPECT_EQ(seen.zero, want.zero) << dtype;
  EXPECT_EQ(seen.negative, want.negative) << dtype;
  EXPECT_EQ(seen.subnormal, want.subnormal) << dtype;
  EXPECT_EQ(seen.low, want.low) << dtype;
  EXPECT_EQ(seen.high, want.high) << dtype;
}

TEST(TensorScan, ScalesAndOffsetsOfBlocks) {
  ExpectBlocks("Q4_0", 18, false);
  ExpectBlocks("Q4_1", 20, true);
  ExpectBlocks("Q8_0", 34, false);
}

}  // namespace
}  // namespace q2c
