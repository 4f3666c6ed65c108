// Offsets and zero points, rounding of scales, transposes and bit streams.
#include "formats/layouts/packing.h"

#include <bit>
#include <cmath>

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// One group of one output.
QuantLinear OneScale(Dtype dtype, double scale, uint32_t bits) {
  QuantLinear linear;
  linear.shape = ShapeOf(32, 1, 32, bits);
  linear.scale_dtype = dtype;
  linear.scales.resize(InfoOf(dtype).bits / 8);
  StoreFloat(scale, dtype, linear.scales.data());
  return linear;
}
void ZeroOf(QuantLinear* linear, Dtype dtype, double offset) {
  Bytes bytes(InfoOf(dtype).bits / 8);
  StoreFloat(offset, dtype, bytes.data());
  ZerosFromOffsets(bytes, dtype, linear);
}

TEST(ZerosFromOffsets, Table) {
  struct Case {
    double scale;
    double offset;
    int zero;  // -1: there is none
    bool nearest;
  };
  const double nan = std::nan("");
  for (const Case& c : std::vector<Case>{{0.5, -4, 8, false}, {0.5, 0, 0, false}, {0.5, -0.0, 0, false}, {0.5, -7.5, 15, false}, {-0.5, 4, 8, false}, {-0.5, -0.0, 0, false},
                                         {0.5, -4.125, 8, true}, {0.5, -3.875, 8, true}, {0.5, 0.125, 0, true}, {0.5, -7.625, 15, true}, {0.5, -7.75, -1, false}, {0.5, -8, -1, false},
                                         {0.5, 0.25, -1, false}, {0.5, 0.5, -1, false}, {-0.5, -0.5, -1, false}, {-0.5, 8, -1, false}, {0.5, nan, -1, false}, {0.5, INFINITY, -1, false},
                                         {0.5, -INFINITY, -1, false}, {0, 0, 8, false}, {-0.0, 0, 8, false}, {0, -0.0, 8, false}, {0, 1, -1, false}, {0, -1, -1, false}, {0, nan, -1, false},
                                         {nan, -4, -1, false}, {nan, 0, -1, false}, {INFINITY, -INFINITY, -1, false}}) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      QuantLinear linear = OneScale(dtype, c.scale, 4);
      ZeroOf(&linear, dtype, c.offset);
      const std::string where = fmt::format("scale {}, offset {}, {}", c.scale, c.offset, NameOf(dtype));
      if (c.zero < 0) {
        SCOPED_TRACE(where);
        for (const char* mention : {"group 0", "output 0", "15"}) EXPECT_NE(linear.no_zeros.find(mention), std::string::npos) << linear.no_zeros;
        EXPECT_TRUE(linear.nearest_zeros);
        continue;
      }
      EXPECT_EQ(linear.no_zeros, "") << where;
      EXPECT_EQ(linear.offsets.size(), 1U) << where;
      EXPECT_EQ(linear.zeros, std::vector<uint16_t>{static_cast<uint16_t>(c.zero)}) << where;
      EXPECT_EQ(linear.nearest_zeros, c.nearest) << where;
    }
  }
}

// For every finite scale and each zero point, the rounded offset is enough to find it again.
TEST(ZerosFromOffsets, FindsEveryZeroPointOfEveryHalf) {
  for (uint32_t pattern = 1; pattern < 0x7C00; ++pattern) {
    for (const uint32_t bits : {4U, 8U}) {
      const uint32_t step = bits == 4 ? 1 : 17;
      QuantLinear linear;
      linear.shape = ShapeOf(32, 16, 32, bits);
      linear.scales.resize(32);
      for (uint32_t n = 0; n < 16; ++n) {
        Store(linear.scales.data() + 2 * n, static_cast<uint16_t>(pattern | (n % 2 == 1 ? 0x8000U : 0U)));
        linear.zeros.push_back(static_cast<uint16_t>(n * step));
      }
      const bool fits = HalfToFloat(static_cast<uint16_t>(pattern)) * static_cast<float>(15 * step) < 65520;
      Bytes offsets(32);
      const Status status = OffsetsFromZeros(linear, Dtype::kF16, offsets);
      ASSERT_EQ(status.ok(), fits) << pattern;
      if (!fits) continue;
      QuantLinear back = linear;
      back.zeros.clear();
      ZerosFromOffsets(offsets, Dtype::kF16, &back);
      ASSERT_EQ(back.no_zeros, "") << pattern;
      ASSERT_EQ(back.zeros, linear.zeros) << pattern;
      ASSERT_FALSE(back.nearest_zeros) << pattern;
    }
  }
}

TEST(OffsetsFromZeros, AZeroPointOf0IsPlusZero) {
  QuantLinear linear = OneScale(Dtype::kF16, 0.5, 4);
  linear.zeros = {0};
  Bytes out(2, std::byte{0xCD});
  ASSERT_TRUE(OffsetsFromZeros(linear, Dtype::kF16, out).ok());
  EXPECT_EQ(Load<uint16_t>(out.data()), 0);
}

TEST(ScalesAs, RoundsOnlyWhereItMust) {
  const QuantLinear half = OneScale(Dtype::kF16, 1.0009765625, 4);  // 1 + 2^-10
  EXPECT_FALSE(ScalesRound(half, Dtype::kF16).has_value());
  EXPECT_FALSE(ScalesRound(half, Dtype::kF32).has_value());
  EXPECT_TRUE(ScalesRound(half, Dtype::kBF16).has_value());
  EXPECT_EQ(Load<float>(ScalesAs(half, Dtype::kF32).data()), 1.0009765625F);
  EXPECT_EQ(Load<uint16_t>(ScalesAs(half, Dtype::kBF16).data()), 0x3F80);
  EXPECT_EQ(ScalesAs(half, Dtype::kF16), half.scales);
  const auto why = ScalesRound(OneScale(Dtype::kBF16, 65536, 4), Dtype::kF16);
  ASSERT_TRUE(why.has_value());
  EXPECT_NE(why->find("group 0, output 0"), std::string::npos) << *why;
}

TEST(Transpose, EveryElement) {
  for (const uint64_t width : {2U, 4U}) {
    for (const auto& [rows, columns] : std::vector<std::pair<uint64_t, uint64_t>>{{1, 1}, {1, 300}, {300, 1}, {7, 13}, {128, 16}, {129, 33}, {257, 65}}) {
      const Bytes from = Random(rows * columns).Fill(rows * columns * width);
      Bytes to(from.size());
      Transpose(from.data(), to.data(), rows, columns, width);
      for (uint64_t r = 0; r < rows; ++r) {
        for (uint64_t c = 0; c < columns; ++c) {
          for (uint64_t b = 0; b < width; ++b) ASSERT_EQ(to[(c * rows + r) * width + b], from[(r * columns + c) * width + b]);
        }
      }
    }
  }
}

TEST(Fields, AnyCountStrideAndAddend) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    const uint32_t mask = (1U << bits) - 1;
    for (const uint64_t count : {1U, 5U, 10U, 11U, 21U, 32U, 40U, 77U}) {
      for (const uint64_t stride : {1U, 3U}) {
        for (const uint32_t add : {0U, 1U}) {
          const uint64_t words = (count * bits + 31) / 32;
          const Bytes stream = Random(count + bits).Fill(words * stride * 4);
          std::vector<uint16_t> fields(count);
          UnpackFields(stream.data(), stride, count, bits, add, fields.data());
          for (uint64_t i = 0; i < count; ++i) {
            const uint32_t stored = GetField(stream, i * bits, bits, [&](uint64_t word) { return word * stride; });
            ASSERT_EQ(fields[i], (stored + add) & mask);
          }
          Bytes packed(stream.size(), std::byte{0xCD});
          PackFields(fields.data(), count, bits, 0U - add, packed.data(), stride);
          for (uint64_t bit = 0; bit < words * 32; ++bit) {
            const uint64_t at = bit / 32 * stride * 32 + bit % 32;
            ASSERT_EQ(BitAt(packed, at), bit < count * bits && BitAt(stream, at)) << "the last word is filled up with zeros";
          }
        }
      }
    }
  }
}

// Whether -scale*zero is a number of the type, for every scale there is; zero points that are powers of two have a way of their own.
TEST(OffsetsRound, EveryScale) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
    const int fraction = dtype == Dtype::kF16 ? 10 : 7;
    const int bias = dtype == Dtype::kF16 ? 15 : 127;
    for (const uint16_t zero : std::vector<uint16_t>{0, 1, 2, 4, 7, 8, 128}) {
      for (uint32_t bits = 0; bits < 65536; ++bits) {
        const int exponent = static_cast<int>((bits & 0x7FFFU) >> fraction);
        if (exponent == 2 * bias + 1) continue;  // NaN and infinity are refused before
        QuantLinear linear = OneScale(dtype, 1, 8);
        Store<uint16_t>(linear.scales.data(), static_cast<uint16_t>(bits));
        linear.zeros = {zero};
        // scale * zero = digits * 2^place, the digits odd: so many of them, and so far up.
        uint64_t digits = uint64_t{zero} * ((bits & ((1U << fraction) - 1)) | (exponent > 0 ? 1U << fraction : 0U));
        int place = std::max(exponent, 1) - bias - fraction;
        for (; digits != 0 && digits % 2 == 0; digits /= 2) ++place;
        const auto width = static_cast<int>(std::bit_width(digits));
        const bool fits = digits == 0 || (width <= fraction + 1 && place + width - 1 <= bias);
        ASSERT_EQ(!OffsetsRound(linear, dtype).has_value(), fits) << "scale " << bits << ", zero " << zero;
      }
    }
  }
}

}  // namespace
}  // namespace q2c
