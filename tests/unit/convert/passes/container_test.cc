// Names, shapes and company of tensors in a GGUF file.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

PlannedJob Fixture(const std::string& name, const std::string& target = "gguf") { return test::PlanOf(std::string(Q2C_FIXTURES) + "/" + name + "/checkpoint", target); }

TEST(ContainerPass, EveryTensorHasItsPlace) {
  const PlannedJob job = Fixture("published-int4-g128-sharded");
  std::vector<std::string> names;
  for (const PlannedTensor& tensor : job.plan.tensors) names.push_back(tensor.name);
  std::vector<std::string> want = {"token_embd.weight", "output_norm.weight", "output.weight"};
  for (const char* block : {"blk.0.", "blk.1."}) {
    for (const char* part : {"attn_norm.weight", "ffn_norm.weight", "attn_q.weight", "attn_q.bias", "attn_k.weight", "attn_k.bias", "attn_v.weight", "attn_v.bias", "attn_output.weight",
                             "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}) {
      want.push_back(std::string(block) + part);
    }
  }
  std::ranges::sort(want);
  std::ranges::sort(names);
  EXPECT_EQ(names, want);
  EXPECT_EQ(job.plan.linears.at("model.layers.1.mlp.down_proj").name, "blk.1.ffn_down");
  EXPECT_FALSE(job.plan.side_files);
  EXPECT_TRUE(test::HasNote(job.plan, "gguf"));
}

TEST(ContainerPass, QwenThreeHasNormsOfItsHeads) {
  const PlannedJob job = Fixture("gptqmodel-7.7-qwen3-int4-g64");
  for (const char* name : {"blk.0.attn_q_norm.weight", "blk.1.attn_k_norm.weight"}) {
    const PlannedTensor* tensor = test::FindPlanned(job.plan, name);
    ASSERT_NE(tensor, nullptr) << name;
    EXPECT_EQ(tensor->dtype, Dtype::kF32);
    EXPECT_EQ(tensor->shape, Shape{64});
  }
}

TEST(ContainerPass, LeadingOnesGoAndExpertsAreNumbered) {
  const PlannedJob job = Fixture("autogptq-0.7.1-moe-int4-g64");
  EXPECT_EQ(test::FindPlanned(job.plan, "blk.0.ffn_gate_inp_shexp.weight")->shape, Shape{128});  // [1, 128] in the checkpoint
  for (size_t e = 0; e < 4; ++e) {
    for (const char* part : {"ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"}) EXPECT_NE(test::FindPlanned(job.plan, fmt::format("blk.1.{}.{}.weight", part, e)), nullptr) << part << e;
  }
  EXPECT_EQ(test::FindPlanned(job.plan, "blk.1.ffn_up_exps.4.weight"), nullptr);
  EXPECT_NE(test::FindPlanned(job.plan, "blk.1.ffn_down_shexp.weight"), nullptr);
}

TEST(ContainerPass, TiedModelsHaveNoHead) {
  const PlannedJob job = Fixture("published-int8-g128-tied");
  EXPECT_EQ(test::FindPlanned(job.plan, "output.weight"), nullptr);
  EXPECT_NE(test::FindPlanned(job.plan, "token_embd.weight"), nullptr);
}

TEST(ContainerPass, SafetensorsKeepsNamesAndFiles) {
  const PlannedJob job = Fixture("published-int4-g128-sharded", "compressed-tensors");
  EXPECT_TRUE(job.plan.side_files);
  EXPECT_NE(test::FindPlanned(job.plan, "model.layers.0.mlp.down_proj.weight_packed"), nullptr);
  EXPECT_EQ(test::FindPlanned(job.plan, "blk.0.ffn_down.weight"), nullptr);
}

}  // namespace
}  // namespace q2c
