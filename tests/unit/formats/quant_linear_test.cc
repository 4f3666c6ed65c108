// Rows of codes and split groups against the definition.
#include "formats/quant_linear.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

TEST(QuantLinear, RowsOfEveryWidth) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    for (const uint64_t in : {32U, 64U, 96U, 160U, 224U, 1056U}) {
      const QuantLinear linear = RandomLinear(ShapeOf(in, 5, 32, bits), {}, in + bits);
      QuantLinear packed = linear;
      std::ranges::fill(packed.codes, 0xCDCDCDCDU);
      for (uint64_t n = 0; n < 5; ++n) {
        std::vector<uint8_t> row(in, 0xCD);
        UnpackRow(linear, n, row.data());
        for (uint64_t k = 0; k < in; ++k) ASSERT_EQ(row[k], CodeAt(linear, k, n)) << bits << " bits, input " << k;
        PackRow(row.data(), n, &packed);
      }
      ASSERT_EQ(packed.codes, linear.codes) << bits << " bits, " << in;
    }
  }
}

TEST(QuantLinear, EveryCodeInEveryPlace) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    QuantLinear linear;
    linear.shape = ShapeOf(32, 1, 32, bits);
    for (uint32_t value = 0; value <= linear.shape.MaxCode(); ++value) {
      for (uint64_t at = 0; at < 32; ++at) {
        // Among its complement, so that a neighbour that is touched shows.
        const auto other = static_cast<uint32_t>(linear.shape.MaxCode()) - value;
        SetCodes(&linear, [&](uint64_t k, uint64_t) { return k == at ? value : other; });
        std::vector<uint8_t> row(32);
        UnpackRow(linear, 0, row.data());
        for (uint64_t k = 0; k < 32; ++k) ASSERT_EQ(row[k], k == at ? value : other);
        QuantLinear packed = linear;
        packed.codes.assign(bits, 0);
        PackRow(row.data(), 0, &packed);
        ASSERT_EQ(packed.codes, linear.codes);
      }
    }
  }
}

TEST(CutOutputs, LeavesThoseAsked) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kF32}) {
    QuantLinear linear = RandomLinear(ShapeOf(96, 11, 32, 3), {.dtype = dtype}, 5);
    for (size_t i = 0; i < linear.zeros.size(); ++i) linear.offsets.push_back(static_cast<float>(i));
    for (const auto& [first, count] : std::vector<std::pair<uint64_t, uint64_t>>{{0, 11}, {0, 1}, {3, 5}, {10, 1}}) {
      QuantLinear cut = linear;
      CutOutputs(first, count, &cut);
      EXPECT_EQ(cut.shape, ShapeOf(96, count, 32, 3));
      EXPECT_EQ(cut.group_index, linear.group_index);
      ASSERT_EQ(cut.codes.size(), count * cut.shape.WordsPerRow());
      ASSERT_EQ(cut.zeros.size(), 3 * count);
      ASSERT_EQ(cut.offsets.size(), 3 * count);
      ASSERT_EQ(cut.scales.size(), 3 * count * InfoOf(dtype).bits / 8);
      for (uint64_t n = 0; n < count; ++n) {
        for (uint64_t k = 0; k < 96; ++k) ASSERT_EQ(CodeAt(cut, k, n), CodeAt(linear, k, first + n));
        for (uint64_t g = 0; g < 3; ++g) {
          EXPECT_EQ(ZeroAt(cut, g, n), ZeroAt(linear, g, first + n));
          EXPECT_EQ(cut.Scale(g, n), linear.Scale(g, first + n));
          EXPECT_EQ(cut.offsets[g * count + n], static_cast<float>(g * 11 + first + n));
        }
      }
    }
  }
}

TEST(SplitGroups, RepeatsZerosAndScales) {
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    // The last two are ragged.
    for (const auto& [in, group, size] : std::vector<std::array<uint64_t, 3>>{{256, 128, 32}, {256, 256, 64}, {96, 96, 32}, {192, 64, 64}, {160, 64, 32}, {224, 128, 64}, {192, 128, 64}}) {
      const QuantLinear linear = RandomLinear(ShapeOf(in, 24, group, 4), {.dtype = dtype}, in);
      QuantLinear split = linear;
      SplitGroups(size, &split);
      EXPECT_EQ(split.shape, ShapeOf(in, 24, size, 4));
      EXPECT_EQ(split.codes, linear.codes);
      ASSERT_EQ(split.zeros.size(), split.shape.groups * 24);
      ASSERT_EQ(split.scales.size(), split.shape.groups * 24 * InfoOf(dtype).bits / 8);
      EXPECT_TRUE(IsTrivial(split.group_index, size));
      for (uint64_t k = 0; k < in; ++k) {
        for (uint64_t n = 0; n < 24; ++n) {
          ASSERT_EQ(split.Scale(k / size, n), linear.Scale(k / group, n));
          ASSERT_EQ(ZeroAt(split, k / size, n), ZeroAt(linear, k / group, n));
        }
      }
    }
  }
}

TEST(SplitGroups, WhatIsNotThereStaysAway) {
  QuantLinear linear;
  linear.shape = ShapeOf(128, 8, 64, 4);
  linear.zeros.assign(16, 3);
  SplitGroups(32, &linear);
  EXPECT_EQ(linear.zeros, std::vector<uint16_t>(32, 3));
  EXPECT_TRUE(linear.scales.empty() && linear.group_index.empty() && linear.codes.empty());
}

TEST(Reorder, EveryWeightMovesWithItsChannel) {
  const QuantLinear linear = RandomLinear(ShapeOf(64, 8, 32, 4), {}, 3);
  std::vector<uint32_t> inputs(64);
  for (uint32_t k = 0; k < 64; ++k) inputs[k] = (k * 7 + 3) % 64;
  const std::vector<uint32_t> outputs = {3, 0, 7, 1, 6, 2, 5, 4};
  QuantLinear by_input = linear;
  ReorderInputs(inputs, &by_input);
  QuantLinear by_output = linear;
  ReorderOutputs(outputs, &by_output);
  const auto codes = [](const QuantLinear& of, uint64_t n) {
    std::vector<uint8_t> row(64);
    UnpackRow(of, n, row.data());
    return row;
  };
  for (uint64_t n = 0; n < 8; ++n) {
    EXPECT_EQ(codes(by_output, n), codes(linear, outputs[n]));
    for (uint64_t g = 0; g < 2; ++g) {
      EXPECT_EQ(by_output.Scale(g, n), linear.Scale(g, outputs[n]));
      EXPECT_EQ(ZeroAt(by_output, g, n), ZeroAt(linear, g, outputs[n]));
    }
    for (uint64_t k = 0; k < 64; ++k) EXPECT_EQ(codes(by_input, n)[k], codes(linear, n)[inputs[k]]);
  }
  for (uint64_t k = 0; k < 64; ++k) EXPECT_EQ(by_input.group_index[k], linear.group_index[inputs[k]]);
  EXPECT_EQ(by_input.zeros, linear.zeros);
}

TEST(Pad, NewWeightsAreZeroAndOldOnesStay) {
  // 40 inputs in groups of 32: the new inputs 40 to 63 complete group 1, 64 to 95 are a new one.
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    const QuantLinear linear = RandomLinear(ShapeOf(40, 8, 32, 4), {.dtype = dtype}, 4);
    QuantLinear padded = linear;
    Pad({0, 40, 96, 16, 3, 32}, {}, {linear.zeros.begin() + 8, linear.zeros.end()}, &padded);
    EXPECT_EQ(padded.shape, ShapeOf(96, 16, 32, 4));
    EXPECT_TRUE(IsTrivial(padded.group_index, 32));
    std::vector<uint8_t> before(40);
    std::vector<uint8_t> after(96);
    for (uint64_t n = 0; n < 16; ++n) {
      UnpackRow(padded, n, after.data());
      if (n < 8) UnpackRow(linear, n, before.data());
      for (uint64_t k = 0; k < 96; ++k) {
        if (n < 8 && k < 40) ASSERT_EQ(after[k], before[k]);
        else ASSERT_EQ(after[k], ZeroAt(padded, k / 32, n)) << k << " " << n;
      }
      for (uint64_t g = 0; n < 8 && g < 2; ++g) ASSERT_EQ(padded.Scale(g, n), linear.Scale(g, n));
      ASSERT_EQ(padded.Scale(2, n), 0.0009765625F);
    }
  }
}

TEST(IsTrivial, Table) {
  EXPECT_TRUE(IsTrivial({0, 0, 1, 1, 2}, 2));
  EXPECT_TRUE(IsTrivial({0, 0, 0}, 3));
  EXPECT_TRUE(IsTrivial({}, 3));
  EXPECT_FALSE(IsTrivial({0, 1, 0, 1}, 2));
  EXPECT_FALSE(IsTrivial({1, 1, 0, 0}, 2));
  EXPECT_FALSE(IsTrivial({0, -1}, 2));
  EXPECT_FALSE(IsTrivial({0, 0, 0}, 2));
}

}  // namespace
}  // namespace q2c
