// Float tensors in the types a target wants: which are cast, and what is refused.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

PlannedJob Gguf(const std::string& fixture, bool allow_rounding) {
  JobOptions options = test::TinyJob(std::string(Q2C_FIXTURES) + "/" + fixture + "/checkpoint", "", "gguf");
  options.allow_rounding = allow_rounding;
  return Must(PlanJob(options));
}

void ExpectTensor(const Plan& plan, const std::string& name, Dtype dtype, const std::string& action, Exactness exactness) {
  const PlannedTensor* tensor = test::FindPlanned(plan, name);
  ASSERT_NE(tensor, nullptr) << name;
  EXPECT_EQ(tensor->dtype, dtype) << name << " is " << NameOf(tensor->dtype);
  EXPECT_EQ(tensor->action, action) << name;
  EXPECT_EQ(tensor->exactness, exactness) << name;
  EXPECT_EQ(tensor->bytes, *BytesOf(dtype, tensor->shape)) << name;
}

TEST(FloatsPass, EverythingInOneType) {
  const test::TempFolder folder;
  test::MakeTiny().Write(folder.path());
  const PlannedJob wide = test::PlanOf(folder.path(), "dense-fp32");
  for (const PlannedTensor& tensor : wide.plan.tensors) {
    EXPECT_EQ(tensor.dtype, Dtype::kF32) << tensor.name;
    EXPECT_EQ(tensor.exactness, Exactness::kSameValues) << tensor.name;
  }
  ExpectTensor(wide.plan, "model.norm.weight", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(wide.plan, "model.layers.0.self_attn.q_proj.bias", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(wide.plan, "model.layers.0.mlp.up_proj.weight", Dtype::kF32, "repack", Exactness::kSameValues);

  JobOptions options = test::TinyJob(folder.path(), "", "dense-bf16");
  options.allow_rounding = true;
  const PlannedJob brain = Must(PlanJob(options));
  ExpectTensor(brain.plan, "model.norm.weight", Dtype::kBF16, "cast", Exactness::kRounded);
  options.targets = {"dense-fp16"};
  const PlannedJob half = Must(PlanJob(options));
  ExpectTensor(half.plan, "model.norm.weight", Dtype::kF16, "copy", Exactness::kSameBytes);  // it is that already
}

// The config says the type that loaders shall compute in; they cast every tensor to it.
TEST(FloatsPass, ConfigSaysTheTypeOfADenseOutput) {
  const test::TempFolder folder;
  test::MakeTiny().Write(folder.path());  // torch_dtype float16
  JobOptions options = test::TinyJob(folder.path(), "");
  options.allow_rounding = true;
  for (const auto& [target, name] : std::vector<std::pair<std::string, std::string>>{{"dense-fp32", "float32"}, {"dense-bf16", "bfloat16"}, {"dense-fp16", "float16"}, {"mlx", "float16"}}) {
    options.targets = {target};
    const PlannedJob job = Must(PlanJob(options));
    EXPECT_EQ(job.plan.config.Find("dtype")->text(), name) << target;
    EXPECT_EQ(job.plan.config.Find("torch_dtype")->text(), name) << target;
    EXPECT_FALSE(test::HasNote(job.plan, "dtype-mixed")) << target;
  }
}

TEST(FloatsPass, OtherTargetsLeaveFloatsAlone) {
  const test::TempFolder folder;
  test::MakeTiny().Write(folder.path());
  for (const char* target : {"awq", "compressed-tensors", "mlx", "vllm", "gptqmodel-v2"}) {
    const PlannedJob job = test::PlanOf(folder.path(), target);
    for (const char* name : {"model.norm.weight", "model.embed_tokens.weight", "lm_head.weight", "model.layers.0.self_attn.k_proj.bias"}) ExpectTensor(job.plan, name, Dtype::kF16, "copy", Exactness::kSameBytes);
  }
}

TEST(FloatsPass, GgufWantsVectorsAndRoutersInF32) {
  const PlannedJob job = Gguf("autogptq-0.7.1-moe-int4-g64", false);
  ExpectTensor(job.plan, "blk.0.attn_norm.weight", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(job.plan, "blk.1.attn_q.bias", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(job.plan, "blk.0.ffn_gate_inp.weight", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(job.plan, "blk.0.ffn_gate_inp_shexp.weight", Dtype::kF32, "cast", Exactness::kSameValues);
  const PlannedTensor* embedding = test::FindPlanned(job.plan, "token_embd.weight");
  ASSERT_NE(embedding, nullptr);
  EXPECT_EQ(embedding->dtype, Dtype::kF16);
  EXPECT_EQ(embedding->exactness, Exactness::kSameBytes);
}

TEST(FloatsPass, GgufMatricesBecomeQ8WhereRoundingIsAllowed) {
  const PlannedJob job = Gguf("autogptq-0.7.1-moe-int4-g64", true);
  ExpectTensor(job.plan, "token_embd.weight", Dtype::kQ8_0, "quantise", Exactness::kRounded);
  ExpectTensor(job.plan, "output.weight", Dtype::kQ8_0, "quantise", Exactness::kRounded);
  ExpectTensor(job.plan, "blk.0.ffn_gate_inp.weight", Dtype::kF32, "cast", Exactness::kSameValues);
  ExpectTensor(job.plan, "output_norm.weight", Dtype::kF32, "cast", Exactness::kSameValues);
}

TEST(FloatsPass, BlocksAreTakenApartForSafetensors) {
  const test::TempFolder folder;
  JobOptions options = test::TinyJob(std::string(Q2C_FIXTURES) + "/published-int4-g128-sharded/checkpoint", folder / "gguf", "gguf");
  options.allow_rounding = true;
  const PlannedJob there = Must(PlanJob(options));
  Must(RunJob(there, options));
  const PlannedJob back = test::PlanOf(folder / "gguf", "gptqmodel-v2");
  ExpectTensor(back.plan, "model.embed_tokens.weight", Dtype::kF32, "dequantise", Exactness::kSameValues);
  ExpectTensor(back.plan, "model.norm.weight", Dtype::kF32, "rename", Exactness::kSameBytes);
}

TEST(FloatsPass, RoundingIsRefusedByName) {
  const test::TempFolder folder;
  test::TinyModel model = test::MakeTiny();
  test::StoredTensor& norm = model.At("model.norm.weight");
  norm.dtype = "F32";
  norm.bytes.resize(4 * 64);
  model.Write(folder.path());
  JobOptions options = test::TinyJob(folder.path(), "", "dense-fp16");
  ExpectError(PlanJob(options), Code::kRefused, "rounding");
  options.allow_rounding = true;
  ExpectTensor(Must(PlanJob(options)).plan, "model.norm.weight", Dtype::kF16, "cast", Exactness::kRounded);
}

}  // namespace
}  // namespace q2c
