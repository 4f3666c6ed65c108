// Which layout each linear gets, with which groups, and what is refused instead.
#include <gtest/gtest.h>

#include "tests/unit/support/converted.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

constexpr const char* kDown = "model.layers.0.mlp.down_proj";

class LayoutsPass : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const test::TinyModel& model, const std::string& target, bool allow_rounding = false, const std::string& layout = "") {
    model.Write(folder_.path());
    JobOptions options = test::TinyJob(folder_.path(), "", target);
    options.allow_rounding = allow_rounding;
    if (!layout.empty()) options.layout = layout;
    return PlanJob(options);
  }
  // A linear of the plan; all have its layout.
  static const PlannedLinear& Down(const PlannedJob& job) {
    for (const auto& [name, linear] : job.plan.linears) EXPECT_EQ(linear.layout, job.plan.linears.at(kDown).layout) << name;
    return job.plan.linears.at(kDown);
  }
  static void Scatter(test::TinyModel* model, const std::string& name) {
    std::vector<std::byte>& bytes = model->At(name + ".g_idx").bytes;
    std::vector<int32_t> groups(bytes.size() / sizeof(int32_t));
    for (size_t k = 0; k < groups.size(); ++k) groups[k] = static_cast<int32_t>(k % (groups.size() / 32));
    bytes = test::BytesOfWords(groups);
  }
  const test::TempFolder folder_;
};

TEST_F(LayoutsPass, ExactnessSaysWhatIsKept) {
  const test::TinyModel model = test::MakeTiny();
  for (const auto& [target, layout, exactness] : std::vector<std::tuple<std::string, std::string, Exactness>>{
           {"transformers-4.x", "gptq-v1", Exactness::kSameCodes}, {"gptqmodel-v2", "gptq-v2", Exactness::kSameCodes}, {"gptqmodel", "gptq-v1", Exactness::kSameCodes},
           {"awq", "awq-gemm", Exactness::kSameCodes}, {"compressed-tensors", "compressed-tensors", Exactness::kSameCodes}, {"vllm", "compressed-tensors", Exactness::kSameCodes},
           {"vllm-gptq", "gptq-v1", Exactness::kSameCodes}, {"mlx", "mlx", Exactness::kSameCodes}, {"dense-fp32", "dense-fp32", Exactness::kSameValues}}) {
    const PlannedJob job = Must(Plan(model, target));
    EXPECT_EQ(Down(job).layout->name, layout) << target;
    EXPECT_EQ(Down(job).exactness, exactness) << target;
    EXPECT_EQ(Down(job).shape.group_size, 32U);
    EXPECT_TRUE(Down(job).rounds.empty());
  }
}

TEST_F(LayoutsPass, PreferenceFollowsTheZeroPoints) {
  EXPECT_EQ(Down(Must(Plan(test::MakeTiny({.symmetric = false}), "gptqmodel"))).layout->name, "gptq-v2");
  EXPECT_EQ(Down(Must(Plan(test::MakeTiny({.symmetric = true}), "gptqmodel"))).layout->name, "gptq-v1");
  const PlannedJob job = Must(Plan(test::MakeTiny({.symmetric = false}), "gptqmodel"));
  EXPECT_TRUE(test::HasNote(job.plan, "layout"));
}

TEST_F(LayoutsPass, NothingIsRoundedUnasked) {
  for (const char* target : {"dense-fp16", "dense-bf16"}) {
    ExpectError(Plan(test::MakeTiny(), target), Code::kRefused, "rounding", {"--allow-rounding", kDown});
    const PlannedJob job = Must(Plan(test::MakeTiny(), target, true));
    EXPECT_EQ(Down(job).exactness, Exactness::kRounded);
    EXPECT_FALSE(Down(job).rounds.empty());
    EXPECT_EQ(job.plan.Worst(), Exactness::kRounded);
  }
  const test::TinyModel asymmetric = test::MakeTiny({.symmetric = false, .wide = true});
  for (const auto& [target, layout] : std::vector<std::pair<std::string, std::string>>{{"mlx", ""}, {"awq", "awq-gemv-fast"}}) {
    ExpectError(Plan(asymmetric, target, false, layout), Code::kRefused, "rounding", {"--allow-rounding"});
    EXPECT_EQ(Down(Must(Plan(asymmetric, target, true, layout))).exactness, Exactness::kRounded);
    // −8·scale is exact; permission alone rounds nothing.
    EXPECT_EQ(Down(Must(Plan(test::MakeTiny({.wide = true}), target, true, layout))).exactness, Exactness::kSameCodes);
  }
}

// exllama and its kind take half and nothing else.
TEST_F(LayoutsPass, FloatScalesBecomeWhatTheLoadersTake) {
  test::TinyModel model = test::MakeTiny();
  const auto widen = [&](float grain) {
    for (const test::TinyLinear& linear : test::TinyLinears()) {
      test::StoredTensor& scales = model.At(linear.name + ".scales");
      std::vector<float> wide(scales.shape[0] * scales.shape[1], 0.0078125F + grain);
      scales = {scales.name, "F32", scales.shape, test::BytesOfWords(wide)};
    }
  };
  widen(0);
  for (const char* target : {"transformers-4.x", "optimum-1.19"}) {
    const PlannedJob job = Must(Plan(model, target));
    EXPECT_EQ(Down(job).scale_dtype, Dtype::kF16) << target;
    EXPECT_EQ(Down(job).exactness, Exactness::kSameValues) << target;
    EXPECT_TRUE(job.plan.repairs.at("scale-dtype").made) << target;
  }
  for (const char* target : {"transformers-5.x", "compressed-tensors", "mlx"}) EXPECT_EQ(Down(Must(Plan(model, target))).scale_dtype, Dtype::kF32) << target;
  const test::TempFolder out;
  test::Converted(test::TinyJob(folder_.path(), out / "out", "transformers-4.x"));
  widen(1e-6F);
  ExpectError(Plan(model, "transformers-4.x"), Code::kRefused, "rounding", {kDown, "scales of F32 are no F16", "--allow-rounding"});
  EXPECT_EQ(Down(Must(Plan(model, "transformers-4.x", true))).exactness, Exactness::kRounded);
  JobOptions kept = test::TinyJob(folder_.path(), "", "transformers-4.x");
  kept.skip = {"scale-dtype"};
  EXPECT_EQ(Down(Must(PlanJob(kept))).scale_dtype, Dtype::kF32);
}

TEST_F(LayoutsPass, PermissionDoesNotHelpWhatCannotBeHeld) {
  test::TinyModel scattered = test::MakeTiny();
  scattered.quant["desc_act"] = "true";
  const std::string gate = "model.layers.0.mlp.gate_proj";  // its inputs are the residual stream: they cannot be put in order
  Scatter(&scattered, gate);
  for (const char* target : {"awq", "compressed-tensors", "mlx", "vllm", "vllm-gptq"}) {
    const auto result = Plan(scattered, target, true);
    ExpectError(result, Code::kRefused, "layout-cannot-hold", {gate, "gptqmodel"});
  }
  EXPECT_TRUE(Must(Plan(scattered, "gptqmodel-v2")).plan.linears.at(gate).linear->traits.act_order);
  EXPECT_EQ(Must(Plan(scattered, "dense-fp32")).plan.linears.at(gate).exactness, Exactness::kSameValues);

  ExpectError(Plan(test::MakeTiny({.bits = 3}), "awq", true), Code::kRefused, "layout-cannot-hold", {"3 bits"});
  ExpectError(Plan(test::MakeTiny({.bits = 2}), "vllm", true), Code::kRefused, "layout-cannot-hold", {"2 bits"});
  ExpectError(Plan(test::MakeTiny({.symmetric = false}), "vllm-gptq", true), Code::kRefused, "layout-cannot-hold", {"zero points"});
  ExpectError(Plan(test::MakeTiny(), "marlin", true), Code::kRefused, "layout-cannot-hold", {"multiples"});
  ExpectError(Plan(test::MakeTiny(), "compressed-tensors", true, "compressed-tensors-2025"), Code::kRefused, "layout-cannot-hold", {"4 bits"});
}

TEST_F(LayoutsPass, GroupsAreSplitWhereTheLoaderKnowsSmallerOnes) {
  // Four groups of 64 inputs are four of 64; two of 256 and one of 512 have to be split for MLX, which knows up to 128.
  const auto sizes = [&](uint64_t size, const std::string& target) {
    const PlannedJob job = Must(Plan(test::MakeTiny({.group_size = size, .wide = true}), target));
    const PlannedLinear& down = Down(job);
    EXPECT_EQ(down.shape.groups, CeilDiv(512, down.shape.group_size));
    EXPECT_EQ(down.linear->traits.shape.group_size, size);  // the input's stay what they are
    EXPECT_EQ(down.exactness, down.shape.group_size == size ? Exactness::kSameCodes : Exactness::kSameValues);
    return down.shape.group_size;
  };
  EXPECT_EQ(sizes(64, "mlx"), 64U);
  EXPECT_EQ(sizes(128, "mlx"), 128U);
  EXPECT_EQ(sizes(256, "mlx"), 128U);
  EXPECT_EQ(sizes(512, "mlx"), 128U);
  EXPECT_EQ(sizes(512, "vllm"), 512U);  // one group of everything
  EXPECT_EQ(sizes(256, "vllm"), 128U);
  EXPECT_EQ(sizes(256, "compressed-tensors"), 256U);
  EXPECT_EQ(sizes(128, "marlin"), 128U);
  EXPECT_EQ(sizes(512, "marlin"), 512U);
  // A group smaller than any that is known cannot be made larger.
  ExpectError(Plan(test::MakeTiny({.group_size = 16, .wide = true}), "mlx", true), Code::kRefused, "layout-cannot-hold", {"groups of 16"});
  ExpectError(Plan(test::MakeTiny({.group_size = 32, .wide = true}), "marlin", true), Code::kRefused, "layout-cannot-hold", {"groups of 32"});
}

TEST_F(LayoutsPass, RaggedGroupsStayInGptq) {
  // 96 inputs in groups of 64: one of 64, one of 32.
  const test::TinyModel model = test::MakeTiny({.group_size = 64});
  EXPECT_EQ(Down(Must(Plan(model, "gptqmodel-v2"))).shape.groups, 2U);
  EXPECT_EQ(Down(Must(Plan(model, "dense-fp32"))).exactness, Exactness::kSameValues);
  for (const char* target : {"awq", "compressed-tensors"}) ExpectError(Plan(model, target), Code::kRefused, "layout-cannot-hold", {kDown});
  // MLX has no shorter group either, but groups of 32 divide both.
  EXPECT_EQ(Must(Plan(model, "mlx")).plan.linears.at(kDown).shape.group_size, 32U);
}

TEST_F(LayoutsPass, GgufChoosesForEachLinear) {
  const auto kinds = [](const std::string& fixture, bool allow_rounding) {
    JobOptions options = test::TinyJob(std::string(Q2C_FIXTURES) + "/" + fixture + "/checkpoint", "", "gguf");
    options.allow_rounding = allow_rounding;
    const PlannedJob job = Must(PlanJob(options));
    for (const auto& [name, linear] : job.plan.linears) EXPECT_EQ(linear.shape.group_size, 32U) << name;
    return fmt::format("{}", fmt::join(job.plan.LayoutNames(), "+"));
  };
  EXPECT_EQ(kinds("published-int4-g128-sharded", false), "gguf-q4_0");
  EXPECT_EQ(kinds("published-int4-g128-sharded", true), "gguf-q4_0");
  EXPECT_EQ(kinds("autogptq-0.7.1-int4-g32-asym-tied", false), "gguf-q8_0");
  EXPECT_EQ(kinds("autogptq-0.7.1-int4-g32-asym-tied", true), "gguf-q4_1");
  EXPECT_EQ(kinds("published-int8-g128-tied", false), "gguf-q8_0");
  EXPECT_EQ(kinds("autogptq-0.7.1-int2-g64-asym", false), "gguf-q4_0");
  EXPECT_EQ(kinds("autogptq-0.7.1-int3-g128-sym", false), "gguf-q4_0");
}

}  // namespace
}  // namespace q2c
