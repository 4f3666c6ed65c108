// Which biases go, stay, are made, or end the run.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;

const std::string kUp = "model.layers.0.mlp.up_proj.bias";
const std::string kQ = "model.layers.0.self_attn.q_proj.bias";

class Biases : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const test::TinyModel& model, const std::string& target = "transformers-4.x") {
    model.Write(in_);
    return PlanJob(test::TinyJob(in_, "", target));
  }
  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
};

TEST_F(Biases, ZeroOnesThatTheArchitectureHasNotAreStripped) {
  const PlannedJob job = test::Must(Plan(test::MakeTiny()));
  EXPECT_EQ(job.plan.dropped.size(), 4U);
  for (const test::TinyLinear& linear : test::TinyLinears()) {
    const PlannedTensor* kept = test::FindPlanned(job.plan, linear.name + ".bias");
    const DroppedTensor* dropped = test::FindDropped(job.plan, linear.name + ".bias");
    EXPECT_EQ(kept != nullptr, linear.bias) << linear.name;
    EXPECT_EQ(dropped != nullptr, !linear.bias) << linear.name;
    EXPECT_TRUE(dropped == nullptr || dropped->action == "zero-bias");
  }
}

TEST_F(Biases, MinusZeroIsZero) {
  test::TinyModel model = test::MakeTiny();
  for (size_t i = 1; i < 192; i += 2) model.At(kUp).bytes[i] = std::byte{0x80};
  EXPECT_NE(test::FindDropped(test::Must(Plan(model)).plan, kUp), nullptr);
}

TEST_F(Biases, OneThatIsNotZeroEndsTheRunForEveryTarget) {
  test::TinyModel model = test::MakeTiny();
  test::Bytes& bytes = model.At(kUp).bytes;
  bytes[2 * 95] = std::byte{0x01};      // the smallest half, in the last place
  bytes[2 * 40 + 1] = std::byte{0xC2};  // -3
  for (const char* target : {"transformers-4.x", "transformers-5.x", "optimum-1.19"}) {
    ExpectError(Plan(model, target), Code::kRefused, "bias-not-zero", {kUp, "2 of 96", "largest 3"});
  }
  bytes = test::Bytes(192);
  bytes[1] = std::byte{0x7E};  // NaN
  ExpectError(Plan(model), Code::kRefused, "bias-not-zero", {kUp, "1 of 96"});
}

TEST_F(Biases, FloatTypesAreMeasuredAsWhatTheyAre) {
  test::TinyModel model = test::MakeTiny();
  for (const auto& [dtype, width] : std::vector<std::pair<std::string, uint64_t>>{{"F16", 2}, {"BF16", 2}, {"F32", 4}}) {
    model.Add({kUp, dtype, {96}, test::Bytes(96 * width)});
    EXPECT_NE(test::FindDropped(test::Must(Plan(model)).plan, kUp), nullptr) << dtype;
    model.At(kUp).bytes[0] = std::byte{1};
    ExpectError(Plan(model), Code::kRefused, "bias-not-zero", {kUp});
  }
}

TEST_F(Biases, RealOnesAreNeverInvented) {
  for (const char* target : {"transformers-4.x", "optimum-1.19"}) {
    test::TinyModel model = test::MakeTiny();
    model.tensors.erase(kQ);
    ExpectError(Plan(model, target), Code::kMalformed, "bias-missing", {kQ});
  }
}

TEST_F(Biases, RealOnesStayEvenIfZero) {
  test::TinyModel model = test::MakeTiny();
  model.At(kQ).bytes = test::Bytes(128);
  EXPECT_NE(test::FindPlanned(test::Must(Plan(model)).plan, kQ), nullptr);
}

TEST_F(Biases, OldOptimumGetsOneOnEveryQuantisedLinear) {
  const PlannedJob kept = test::Must(Plan(test::MakeTiny(), "optimum-1.19"));
  EXPECT_TRUE(kept.plan.dropped.empty());
  EXPECT_EQ(test::FindPlanned(kept.plan, kUp)->action, "copy");

  const PlannedJob made = test::Must(Plan(test::MakeTiny({.zero_biases = false}), "optimum-1.19"));
  for (const test::TinyLinear& linear : test::TinyLinears()) {
    const PlannedTensor* bias = test::FindPlanned(made.plan, linear.name + ".bias");
    ASSERT_NE(bias, nullptr) << linear.name;
    EXPECT_EQ(bias->action, linear.bias ? "copy" : "zero-fill");
    EXPECT_EQ(bias->shape, Shape{linear.out});
    EXPECT_EQ(bias->dtype, Dtype::kF16);
  }
  EXPECT_EQ(test::FindPlanned(made.plan, "lm_head.bias"), nullptr);  // not quantised
  // And the other targets make none.
  EXPECT_EQ(test::FindPlanned(test::Must(Plan(test::MakeTiny({.zero_biases = false}))).plan, kUp), nullptr);
}

TEST_F(Biases, OfTheHeadAreJudgedToo) {
  test::TinyModel model = test::MakeTiny();
  model.Add({"lm_head.bias", "F16", {32}, test::Bytes(64)});
  EXPECT_NE(test::FindDropped(test::Must(Plan(model, "optimum-1.19")).plan, "lm_head.bias"), nullptr);
}

}  // namespace
}  // namespace q2c
