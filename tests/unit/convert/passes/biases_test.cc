// Which biases go, stay, are made, or end the run.
#include <gtest/gtest.h>

#include <array>

#include "tests/unit/support/converted.h"
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

// Of Qwen3 the config says whether q, k, v and o have biases; here they all are there, and zero.
test::TinyModel DeclaredZeros() {
  test::TinyModel model = test::MakeTiny();
  model.config["architectures"] = R"(["Qwen3ForCausalLM"])";
  model.config["model_type"] = "\"qwen3\"";
  model.config["head_dim"] = "32";
  model.config["max_position_embeddings"] = "64";
  model.config["attention_bias"] = "true";
  for (const char* norm : {"q_norm", "k_norm"}) model.Add({fmt::format("model.layers.0.self_attn.{}.weight", norm), "F16", {32}, test::Bytes(64, std::byte{0x2E})});
  for (const test::TinyLinear& linear : test::TinyLinears()) model.Add({linear.name + ".bias", "F16", {linear.out}, test::Bytes(2 * linear.out)});
  return model;
}

constexpr std::array kDeclared = {"q_proj", "k_proj", "v_proj", "o_proj"};
std::string DeclaredName(const char* linear) { return fmt::format("model.layers.0.self_attn.{}.bias", linear); }

// mlx-lm stops at a tensor that it has no place for.
TEST_F(Biases, DeclaredZerosGoWhereNoLoaderReadsThem) {
  const PlannedJob job = test::Must(Plan(DeclaredZeros(), "mlx"));
  for (const char* linear : kDeclared) {
    const DroppedTensor* dropped = test::FindDropped(job.plan, DeclaredName(linear));
    ASSERT_NE(dropped, nullptr) << linear;
    EXPECT_EQ(dropped->action, "zero-bias");
  }
  EXPECT_EQ(job.plan.config.Find("attention_bias")->AsBool(), std::optional(false));
  test::Converted(test::TinyJob(in_, folder_ / "out", "mlx"));  // and what is left is the same model
  JobOptions kept = test::TinyJob(in_, "", "mlx");
  kept.skip = {"zero-bias"};
  const PlannedJob left = test::Must(PlanJob(kept));
  EXPECT_NE(test::FindPlanned(left.plan, DeclaredName("q_proj")), nullptr);
  EXPECT_EQ(left.plan.config.Find("attention_bias")->AsBool(), std::optional(true));
}

TEST_F(Biases, DeclaredZerosStayWhereALoaderReadsSome) {
  const test::TinyModel model = DeclaredZeros();
  for (const char* target : {"vllm", "awq", "compressed-tensors", "transformers-5.x", "gptqmodel", "dense-fp32"}) {
    const PlannedJob job = test::Must(Plan(model, target));
    for (const char* linear : kDeclared) EXPECT_NE(test::FindPlanned(job.plan, DeclaredName(linear)), nullptr) << target << " " << linear;
    EXPECT_EQ(job.plan.config.Find("attention_bias")->AsBool(), std::optional(true)) << target;
  }
}

// vLLM builds o_proj without a bias, whatever the config says, and passes over the file's in silence.
TEST_F(Biases, NoneOfOprojWhereVllmMayLoadIt) {
  test::TinyModel model = DeclaredZeros();
  model.At(DeclaredName("o_proj")).bytes[1] = std::byte{0x3C};
  for (const char* target : {"vllm", "vllm-gptq", "awq", "compressed-tensors"}) {
    ExpectError(Plan(model, target), Code::kRefused, "bias-not-zero", {DeclaredName("o_proj"), "largest 1", std::string("target '") + target + "'", "read it: dense-bf16", "transformers-5.x"});
  }
  for (const char* target : {"transformers-5.x", "gptqmodel", "dense-fp32"}) test::Must(Plan(model, target));
  model = DeclaredZeros();
  model.At(DeclaredName("v_proj")).bytes[1] = std::byte{0x3C};
  for (const char* target : {"vllm", "vllm-gptq", "awq", "compressed-tensors"}) test::Must(Plan(model, target));
  for (const char* target : {"mlx", "gguf"}) ExpectError(Plan(model, target), Code::kRefused, "bias-not-zero", {DeclaredName("v_proj"), "vllm"});
}

}  // namespace
}  // namespace q2c
