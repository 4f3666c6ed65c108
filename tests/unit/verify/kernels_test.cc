// The inner loops against the definition, element by element, in the same order: they must
// agree in every bit, on every vector unit.
#include "verify/kernels.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <random>
#include <vector>

namespace q2c {
namespace {

std::vector<float> Random(size_t count, uint32_t seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

TEST(AddProduct, IsOneChainOfFusedMultiplyAddsInOrder) {
  for (const uint64_t tokens : {1U, 2U, 4U, 7U, 8U, 9U, 16U, 23U}) {
    for (const uint64_t inputs : {uint64_t{1}, uint64_t{31}, kProductInputs}) {
      const uint64_t x_stride = inputs + 5;
      const uint64_t y_stride = kPanelOutputs + 64;
      const std::vector<float> x = Random(tokens * x_stride, 1);
      const std::vector<float> panel = Random(inputs * kPanelOutputs, 2);
      std::vector<float> y = Random(tokens * y_stride, 3);
      std::vector<float> expected = y;
      for (uint64_t t = 0; t < tokens; ++t) {
        for (uint64_t n = 0; n < kPanelOutputs; ++n) {
          float sum = 0;
          for (uint64_t k = 0; k < inputs; ++k) sum = std::fma(x[t * x_stride + k], panel[k * kPanelOutputs + n], sum);
          expected[t * y_stride + n] += sum;
        }
      }
      AddProduct(x.data(), x_stride, tokens, panel.data(), inputs, y.data(), y_stride);
      for (size_t i = 0; i < y.size(); ++i) ASSERT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(expected[i])) << tokens << " tokens, " << inputs << " inputs, element " << i << ", " << VectorUnit();
    }
  }
}

TEST(Dequantise, EveryCodeAgainstEveryZeroPoint) {
  std::vector<uint8_t> codes(kPanelOutputs);
  std::vector<float> zeros(kPanelOutputs);
  std::vector<float> weights(kPanelOutputs);
  const std::vector<float> scales = Random(kPanelOutputs, 4);  // of both signs
  for (unsigned code = 0; code < 256; ++code) {
    for (unsigned zero = 0; zero <= 256; zero += 16) {
      for (size_t n = 0; n < kPanelOutputs; ++n) {
        codes[n] = static_cast<uint8_t>(code + n);
        zeros[n] = static_cast<float>(zero + n % 16);
      }
      Dequantise(codes.data(), scales.data(), zeros.data(), weights.data());
      for (size_t n = 0; n < kPanelOutputs; ++n) {
        float expected = scales[n] * (static_cast<float>(codes[n]) - zeros[n]);
        if (expected == 0) expected = 0;  // never −0
        ASSERT_EQ(std::bit_cast<uint32_t>(weights[n]), std::bit_cast<uint32_t>(expected)) << code << " " << zero << " " << n;
      }
    }
  }
}

TEST(DequantiseOffsets, IsRoundedOnce) {
  std::vector<uint8_t> codes(kPanelOutputs);
  std::vector<float> weights(kPanelOutputs);
  const std::vector<float> scales = Random(kPanelOutputs, 5);
  const std::vector<float> offsets = Random(kPanelOutputs, 6);
  for (unsigned code = 0; code < 256; ++code) {
    for (size_t n = 0; n < kPanelOutputs; ++n) codes[n] = static_cast<uint8_t>(code + n);
    DequantiseOffsets(codes.data(), scales.data(), offsets.data(), weights.data());
    for (size_t n = 0; n < kPanelOutputs; ++n) {
      ASSERT_EQ(std::bit_cast<uint32_t>(weights[n]), std::bit_cast<uint32_t>(std::fma(scales[n], static_cast<float>(codes[n]), offsets[n]) + 0.0F)) << code << " " << n;
    }
  }
}

TEST(VectorUnit, HasANameAndAWidth) {
  EXPECT_FALSE(VectorUnit().empty());
  EXPECT_TRUE(std::has_single_bit(VectorFloats()));
  EXPECT_LE(2 * VectorFloats(), kPanelOutputs);
}

}  // namespace
}  // namespace q2c
