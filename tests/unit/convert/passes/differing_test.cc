// Linears that differ: which targets are told of them, which refuse, and the patterns of `dynamic`.
#include <gtest/gtest.h>

#include <regex>

#include "convert/passes/passes.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

// A real plan of which linears are changed afterwards: what is written of them hangs on the plan alone.
class Differing : public testing::Test {
 protected:
  static PlannedJob Of(const std::string& fixture, const std::string& target = "gptqmodel") { return test::PlanOf(Q2C_FIXTURES "/" + fixture + "/checkpoint", target); }
  static void Widen(PlannedJob* job, const std::string& part) {
    for (auto& [name, linear] : job->plan.linears) {
      if (name.find(part) != std::string::npos) linear.shape.bits = 8;
    }
  }
  static void Float(PlannedJob* job, const std::string& part) {
    std::erase_if(job->plan.linears, [&](const auto& entry) { return entry.first.find(part) != std::string::npos; });
  }
  static Json Dynamic(const PlannedJob& job) { return DynamicOf(job.plan, SurveyOf(job.plan)); }
  static std::string Text(const std::string& rule, const std::string& settings) { return "{\"" + rule + "\": " + settings + "}"; }
  // Every linear of the blocks is told what it is by the first pattern that fits, as GPTQModel looks for it.
  static void ExpectTold(const PlannedJob& job, const Json& dynamic) {
    for (const auto& [name, linear] : job.model->linears) {
      if (!linear.expected.in_block || linear.expected.router) continue;
      const auto planned = job.plan.linears.find(name);
      const Json* told = nullptr;
      std::string sign = "+:";
      size_t fitting = 0;
      for (const auto& [pattern, rule] : dynamic.members()) {
        if (!std::regex_search(name, std::regex(pattern.substr(2)), std::regex_constants::match_continuous)) continue;
        if (fitting++ == 0) {
          told = &rule;
          sign = pattern.substr(0, 2);
        }
      }
      EXPECT_LE(fitting, 1U) << name;
      if (planned == job.plan.linears.end()) {
        EXPECT_EQ(sign, "-:") << name;
        continue;
      }
      EXPECT_EQ(sign, "+:") << name;
      const uint64_t bits = told == nullptr ? SurveyOf(job.plan).bits : *told->Find("bits")->AsU64();
      EXPECT_EQ(bits, planned->second.shape.bits) << name;
    }
  }
};

const std::string kExpertsFixture = "gptqmodel-7.7-qwen3-moe-int4-g64";

TEST_F(Differing, WithoutADifferenceThereIsNoDynamic) {
  EXPECT_TRUE(Dynamic(Of(kExpertsFixture)).members().empty());
  EXPECT_TRUE(Dynamic(Of("gptqmodel-7.7-int4-g128")).members().empty());
}

TEST_F(Differing, OnePatternForAllLayersOrForOneLinear) {
  PlannedJob job = Of("gptqmodel-7.7-int4-g128");
  Widen(&job, ".down_proj");
  EXPECT_EQ(Dynamic(job).Dump(-1), Text(R"(+:^model\\.layers\\.[0-9]+\\.mlp\\.down_proj$)", R"({"bits": 8, "group_size": 128})"));
  ExpectTold(job, Dynamic(job));
  job = Of("gptqmodel-7.7-int4-g128");
  Widen(&job, "layers.1.mlp.down_proj");
  EXPECT_EQ(Dynamic(job).Dump(-1), Text(R"(+:^model\\.layers\\.1\\.mlp\\.down_proj$)", R"({"bits": 8, "group_size": 128})"));
  ExpectTold(job, Dynamic(job));
}

TEST_F(Differing, ExpertsOfAllLayers) {
  PlannedJob job = Of(kExpertsFixture);
  Float(&job, ".down_proj");
  EXPECT_EQ(Dynamic(job).Dump(-1), Text(R"(-:^model\\.layers\\.[0-9]+\\.mlp\\.experts\\.[0-9]+\\.down_proj$)", "{}"));
  ExpectTold(job, Dynamic(job));
}

TEST_F(Differing, ExpertsOfOneLayer) {
  PlannedJob job = Of(kExpertsFixture);
  Widen(&job, "layers.1.mlp.experts.");
  const Json dynamic = Dynamic(job);
  ASSERT_EQ(dynamic.members().size(), 3U) << dynamic.Dump(-1);
  for (const char* part : {"down_proj", "gate_proj", "up_proj"}) {
    const Json* rule = dynamic.Find(fmt::format(R"(+:^model\.layers\.1\.mlp\.experts\.[0-9]+\.{}$)", part));
    ASSERT_NE(rule, nullptr) << dynamic.Dump(-1);
    EXPECT_EQ(*rule->Find("bits")->AsU64(), 8U);
  }
  ExpectTold(job, dynamic);
}

// Expert 1 and not expert 11; layer 1 and not layer 11.
TEST_F(Differing, OneExpert) {
  PlannedJob job = Of(kExpertsFixture);
  Float(&job, "layers.0.mlp.experts.1.up_proj");
  Widen(&job, "layers.1.mlp.experts.1.gate_proj");
  const Json dynamic = Dynamic(job);
  ASSERT_EQ(dynamic.members().size(), 2U) << dynamic.Dump(-1);
  EXPECT_NE(dynamic.Find(R"(-:^model\.layers\.0\.mlp\.experts\.1\.up_proj$)"), nullptr) << dynamic.Dump(-1);
  EXPECT_NE(dynamic.Find(R"(+:^model\.layers\.1\.mlp\.experts\.1\.gate_proj$)"), nullptr) << dynamic.Dump(-1);
  ExpectTold(job, dynamic);
}

// The router is never quantised, and nobody says so.
TEST_F(Differing, SharedExpertsAndRouters) {
  PlannedJob job = Of("autogptq-0.7.1-moe-int4-g64");
  Float(&job, ".shared_expert.up_proj");
  const Json dynamic = Dynamic(job);
  EXPECT_EQ(dynamic.Dump(-1), Text(R"(-:^model\\.layers\\.[0-9]+\\.mlp\\.shared_expert\\.up_proj$)", "{}"));
  ExpectTold(job, dynamic);
}

TEST_F(Differing, WhoCanBeToldOfSettings) {
  for (const char* target : {"transformers-4.x", "gptqmodel", "gptqmodel-v2", "awq", "vllm-gptq", "compressed-tensors", "vllm", "mlx"}) {
    PlannedJob job = Of("autogptq-0.7.1-int4-g128-sym", target);
    Must(CheckPerModule(job.plan));
    Widen(&job, "layers.1.mlp.down_proj");
    const std::string name = target;
    if (name.starts_with("gptqmodel") || name == "compressed-tensors" || name == "vllm" || name == "mlx") Must(CheckPerModule(job.plan));
    else ExpectError(CheckPerModule(job.plan), Code::kRefused, "quant-mixed", {"'model.layers.1.mlp.down_proj' has 8 bits in groups of 128", "and 12 more have 4 bits", name});
  }
}

TEST_F(Differing, AModuleThatIsFloatInEveryLayerIsNoDifference) {
  PlannedJob job = Of("gptqmodel-7.7-int4-g128", "transformers-4.x");
  // Which linears are float is read off the model, as the plan has made it.
  EXPECT_TRUE(CheckPerModule(job.plan).ok());
  for (auto& [name, linear] : job.model->linears) {
    if (name.ends_with(".o_proj")) linear.layout = nullptr;
  }
  Float(&job, ".o_proj");
  EXPECT_TRUE(CheckPerModule(job.plan).ok());
  job = Of("gptqmodel-7.7-int4-g128", "transformers-4.x");
  job.model->linears.at("model.layers.0.self_attn.o_proj").layout = nullptr;
  Float(&job, "layers.0.self_attn.o_proj");
  ExpectError(CheckPerModule(job.plan), Code::kRefused, "quant-mixed", {"'model.layers.0.self_attn.o_proj' is float", "'model.layers.1.self_attn.o_proj' is quantised", "targets that hold it: awq, compressed-tensors, gguf, gptqmodel, gptqmodel-v2, mlx, vllm"});
}

}  // namespace
}  // namespace q2c
