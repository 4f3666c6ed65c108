// Which convention the numbers show, and where they show none.
#include "formats/zero_evidence.h"

#include <gtest/gtest.h>

#include "formats/model.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

ZeroSample Constant(uint16_t field, uint32_t bits) { return {field, field, 0, bits, 0, 0}; }
ZeroSample Mean(double mean, uint32_t bits = 4) { return {1, 14, 0, bits, mean, 1000}; }

TEST(JudgeZeros, SymmetricFieldsSayItOutright) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    const auto middle = static_cast<uint16_t>(1U << (bits - 1));
    const ZeroVerdict v1 = JudgeZeros({Constant(static_cast<uint16_t>(middle - 1), bits), Constant(static_cast<uint16_t>(middle - 1), bits)});
    EXPECT_TRUE(v1.decided);
    EXPECT_EQ(v1.convention, ZeroConvention::kV1);
    const ZeroVerdict v2 = JudgeZeros({Constant(middle, bits)});
    EXPECT_TRUE(v2.decided);
    EXPECT_EQ(v2.convention, ZeroConvention::kV2);
  }
  EXPECT_FALSE(JudgeZeros({Constant(7, 4), Constant(8, 4)}).decided);
}

TEST(JudgeZeros, MeansNearOneOrNearZero) {
  EXPECT_EQ(JudgeZeros({Mean(0.98), Mean(1.03), Mean(1.01)}).convention, ZeroConvention::kV1);
  EXPECT_TRUE(JudgeZeros({Mean(0.98), Mean(1.03), Mean(1.01)}).decided);
  EXPECT_EQ(JudgeZeros({Mean(0.00), Mean(0.02), Mean(-0.01)}).convention, ZeroConvention::kV2);
  EXPECT_TRUE(JudgeZeros({Mean(0.00), Mean(0.02), Mean(-0.01)}).decided);
}

TEST(JudgeZeros, WhatIsNotDecided) {
  EXPECT_FALSE(JudgeZeros({}).decided);
  EXPECT_FALSE(JudgeZeros({Mean(0.5), Mean(0.5), Mean(0.5)}).decided);     // in the middle
  EXPECT_FALSE(JudgeZeros({Mean(3.0), Mean(3.01), Mean(2.99)}).decided);   // neither
  EXPECT_FALSE(JudgeZeros({Mean(-3.0, 8), Mean(5.0, 8), Mean(1.2, 8)}).decided);  // 8 bits scatter: 1.07 on average by chance
  EXPECT_FALSE(JudgeZeros({Mean(1.0)}).decided);                           // one linear has no scatter to judge by
  EXPECT_FALSE(JudgeZeros({ZeroSample{1, 14, 0, 4, 0, 0}}).decided);       // no codes were sampled
  // Symmetric linears of one convention beside asymmetric ones of the other.
  EXPECT_FALSE(JudgeZeros({Mean(1.0), Mean(1.0), Constant(8, 4)}).decided);
  EXPECT_FALSE(JudgeZeros({Mean(0.0), Mean(0.0), Constant(7, 4)}).decided);
  EXPECT_TRUE(JudgeZeros({Mean(1.0), Mean(1.0), Constant(7, 4)}).decided);
}

TEST(JudgeZeros, ScatterOfEightBitsIsOutweighedByMany) {
  std::vector<ZeroSample> samples;
  for (int i = 0; i < 400; ++i) samples.push_back(Mean(i % 2 == 0 ? -0.5 : 2.5, 8));
  EXPECT_TRUE(JudgeZeros(samples).decided);
  EXPECT_EQ(JudgeZeros(samples).convention, ZeroConvention::kV1);
}

// The sampling, through a whole model.
class ZerosOfModel : public testing::Test {
 protected:
  Result<Model> Understand(const test::TinyModel& model, std::optional<ZeroConvention> said = {}) {
    model.Write(folder_.path());
    checkpoint_.emplace(Must(Checkpoint::Open(folder_.path(), Links::kRefuse)));
    return UnderstandModel(*checkpoint_, {{}, said});
  }
  const test::TempFolder folder_;
  std::optional<Checkpoint> checkpoint_;
};

TEST_F(ZerosOfModel, EveryWidthAndConvention) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    for (const uint32_t minus : {0U, 1U}) {
      const Model symmetric = Must(Understand(test::MakeTiny({.bits = bits, .minus = minus})));
      EXPECT_EQ(symmetric.zero_verdict.convention, minus == 1 ? ZeroConvention::kV1 : ZeroConvention::kV2);
      EXPECT_TRUE(symmetric.linears.at("model.layers.0.mlp.down_proj").traits.symmetric);
      EXPECT_EQ(symmetric.zero_label_wrong, minus == 0);  // no label means v1
      if (bits == 8) continue;  // seven small linears of 8 bits scatter too much
      const Model asymmetric = Must(Understand(test::MakeTiny({.bits = bits, .minus = minus, .symmetric = false})));
      EXPECT_EQ(asymmetric.zero_verdict.convention, minus == 1 ? ZeroConvention::kV1 : ZeroConvention::kV2) << bits << " bits";
      EXPECT_FALSE(asymmetric.linears.at("model.layers.0.mlp.down_proj").traits.symmetric);
    }
  }
}

TEST_F(ZerosOfModel, UndecidableIsRefusedUnlessSaid) {
  // Codes drawn evenly, zeros drawn evenly: the mean says nothing.
  test::TinyModel model = test::MakeTiny({.symmetric = false});
  test::Random random(77);
  for (const test::TinyLinear& linear : test::TinyLinears()) {
    for (const char* part : {".qweight", ".qzeros"}) {
      test::Bytes& bytes = model.At(linear.name + part).bytes;
      // Zero fields all 3 or 11: the mean of (code − field) is 4.5 or −3.5.
      bytes = std::string_view(part) == ".qweight" ? random.Fill(bytes.size()) : test::Bytes(bytes.size(), std::byte{0x3B});
    }
  }
  ExpectError(Understand(model), Code::kRefused, "zeros-undecided", {"--zeros"});
  EXPECT_EQ(Must(Understand(model, ZeroConvention::kV1)).linears.at("model.layers.0.mlp.down_proj").layout->name, "gptq-v1");
  EXPECT_EQ(Must(Understand(model, ZeroConvention::kV2)).linears.at("model.layers.0.mlp.down_proj").layout->name, "gptq-v2");
}

TEST_F(ZerosOfModel, WrappedFieldsDoNotEnterTheMean) {
  test::TinyModel model = test::MakeTiny({.symmetric = false});
  const Model before = Must(Understand(model));
  const double mean = before.linears.at("model.layers.0.mlp.down_proj").zeros.mean;
  // Group 0 of output 5 held a true zero point of 0; all its codes are 0, so its field of 15 would shift the mean.
  test::PutZeroField(&model.At("model.layers.0.mlp.down_proj.qzeros").bytes, 4, 64, 0, 5, 15);
  for (uint64_t k = 0; k < 32; ++k) test::PutCode(&model.At("model.layers.0.mlp.down_proj.qweight").bytes, 4, 64, k, 5, 0);
  const Model after = Must(Understand(model));
  const Linear& linear = after.linears.at("model.layers.0.mlp.down_proj");
  EXPECT_EQ(linear.zeros.all_ones, 1U);
  EXPECT_EQ(linear.wrapped_zeros, 1U);
  EXPECT_TRUE(linear.traits.has_zero_0);
  EXPECT_EQ(linear.zeros.codes, 96U * 64 - 32);
  EXPECT_NEAR(linear.zeros.mean, mean, 0.05);  // with the field it would move by 32 · 15 / 6144 = 0.08
}

}  // namespace
}  // namespace q2c
