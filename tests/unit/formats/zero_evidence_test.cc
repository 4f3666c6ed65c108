// Which convention the numbers show, and where they show none.
#include "formats/zero_evidence.h"

#include <gtest/gtest.h>

#include <set>

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

// Files of the makers themselves; what is stored was found with the makers' own loaders.
TEST(ZeroEvidence, OfEveryFixture) {
  const std::set<std::string> v2 = {"gptqmodel-7.7-int4-g64-asym-v2", "optimum-2.3-classifier-int4-g128", "resaved-transformers-5.23-int4-g128", "resaved-transformers-4.57-int4-g32-asym"};
  size_t seen = 0;
  for (const std::string& name : test::Names(Q2C_FIXTURES)) {
    const std::string folder = std::string(Q2C_FIXTURES) + "/" + name + "/checkpoint";
    if (!test::Exists(folder)) continue;
    const Result<Checkpoint> checkpoint = Checkpoint::Open(folder, Links::kRefuse);
    if (!checkpoint.ok()) continue;  // a container that is not read
    const Result<Model> model = UnderstandModel(checkpoint.value(), {});
    if (!model.ok() || model.value().zero_verdict.evidence.empty()) continue;
    ++seen;
    EXPECT_TRUE(model.value().zero_verdict.decided) << name;
    EXPECT_EQ(model.value().zero_verdict.convention, v2.contains(name) ? ZeroConvention::kV2 : ZeroConvention::kV1) << name << ": " << model.value().zero_verdict.evidence;
    EXPECT_EQ(model.value().zero_label_wrong, name.starts_with("resaved-")) << name;
  }
  EXPECT_GE(seen, 18U);
}

// fixtures/README.md: outputs 40 to 43 of group 1 are true zeros of 0, 44 to 47 were overwritten.
TEST(ZeroEvidence, FieldsThatTheBorrowDestroyedAreNamed) {
  const Checkpoint checkpoint = Must(Checkpoint::Open(std::string(Q2C_FIXTURES) + "/autogptq-0.7.1-int4-g32-asym-wrapped-zeros/checkpoint", Links::kRefuse));
  const Model model = Must(UnderstandModel(checkpoint, {}));
  const Linear& up = model.linears.at("model.layers.1.mlp.up_proj");
  std::vector<uint64_t> outputs;
  for (const Linear::Field& field : up.lost_zeros) {
    EXPECT_EQ(field.group, 1U);
    outputs.push_back(field.output);
  }
  // Of 40 only is it certain: all above it in its word may have been overwritten.
  EXPECT_EQ(outputs, (std::vector<uint64_t>{41, 42, 43, 44, 45, 46, 47}));
  EXPECT_EQ(up.wrapped_zeros, 8U);
  const Linear& q = model.linears.at("model.layers.0.self_attn.q_proj");
  EXPECT_EQ(q.wrapped_zeros, 4U);
  EXPECT_EQ(q.lost_zero_count, 0U);  // output 7 is the last of its word
}

}  // namespace
}  // namespace q2c
