#include "formats/target.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "formats/architecture.h"
#include "formats/layouts/layout.h"
#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

TEST(TargetTest, EveryOneIsCompleteAndNamesWhatExists) {
  EXPECT_EQ(TargetNames(), (std::vector<std::string>{"awq", "compressed-tensors", "dense-bf16", "dense-fp16", "dense-fp32", "gguf", "gptqmodel", "gptqmodel-v2", "marlin", "mlx",
                                                     "optimum-1.19", "transformers-4.x", "transformers-5.x", "vllm", "vllm-gptq"}));
  const std::vector<std::string> known = KnownArchitectures();
  for (const std::string& name : TargetNames()) {
    const Target target = Must(FindTarget(name));
    EXPECT_EQ(target.name, name);
    EXPECT_FALSE(target.summary.empty());
    EXPECT_FALSE(target.versions.empty());
    EXPECT_FALSE(target.verified_with.empty()) << name;
    EXPECT_FALSE(target.layouts.empty());
    // Linears of one output share a config, so they share its method.
    for (const LayoutRule& rule : target.layouts) EXPECT_TRUE(rule.layout->method == target.layouts[0].layout->method || !target.mixed_layouts) << rule.layout->name;
    for (const auto& [type, why] : target.refuses_architectures) {
      EXPECT_NE(std::ranges::find(known, type), known.end()) << type;
      EXPECT_FALSE(why.empty());
    }
  }
  ExpectError(FindTarget("transformers-6"), Code::kUsage, "target", {"transformers-6", "optimum-1.19"});
  ExpectError(CombineTargets({}), Code::kUsage, "target");
}

TEST(TargetTest, CombinedIsWhatBothTake) {
  const Target old = Must(FindTarget("optimum-1.19"));
  const Target four = Must(FindTarget("transformers-4.x"));
  const Target five = Must(FindTarget("transformers-5.x"));
  for (const auto& pair : {std::vector<Target>{four, five}, std::vector<Target>{five, four}}) {
    const Target both = Must(CombineTargets(pair));
    ASSERT_EQ(both.layouts.size(), 1U);
    EXPECT_EQ(both.layouts[0].layout->name, "gptq-v1");
    EXPECT_EQ(both.refuses_architectures.size(), 2U);  // the two with quantised experts
  }
  ExpectError(CombineTargets({four, old}), Code::kRefused, "target-conflict", {"transformers-4.x", "optimum-1.19"});
  Target other = four;
  other.name = "other";
  other.layouts = {{FindLayout("gptq-v2"), {}, {}}};
  ExpectError(CombineTargets({four, other}), Code::kRefused, "target-conflict", {"layout"});
  const Target mlx = Must(FindTarget("mlx"));
  ExpectError(CombineTargets({four, mlx}), Code::kRefused, "target-conflict", {"container"});
}

TEST(TargetTest, CombinedRulesAreTheStricterOnes) {
  const Target vllm = Must(FindTarget("vllm"));
  const Target plain = Must(FindTarget("compressed-tensors"));
  const Target both = Must(CombineTargets({plain, vllm}));
  ASSERT_EQ(both.layouts.size(), 1U);
  EXPECT_EQ(both.layouts[0].layout->name, "compressed-tensors");
  EXPECT_EQ(both.layouts[0].bits, (std::vector<uint32_t>{4, 8}));
  const Target gptq = Must(CombineTargets({Must(FindTarget("transformers-4.x")), vllm}));
  ASSERT_EQ(gptq.layouts.size(), 1U);
  EXPECT_FALSE(gptq.layouts[0].asymmetric);
  EXPECT_FALSE(gptq.layouts[0].act_order);
}

TEST(TargetTest, ALayoutCanBeAskedForWhereTheTargetTakesIt) {
  const Target awq = Must(FindTarget("awq"));
  EXPECT_TRUE(awq.layouts[1].on_request);
  const Target gemv = Must(WithLayout(awq, "awq-gemv"));
  ASSERT_EQ(gemv.layouts.size(), 1U);
  EXPECT_FALSE(gemv.layouts[0].on_request);
  ExpectError(WithLayout(awq, "gptq-v1"), Code::kUsage, "layout", {"gptq-v1", "awq-gemm"});
}

TEST(TargetTest, RulesRefuseWhatTheLoaderCannotTake) {
  const Target vllm = Must(FindTarget("vllm-gptq"));
  QuantTraits traits;
  traits.shape = {256, 256, 2, 128, 4};
  traits.symmetric = true;
  EXPECT_EQ(vllm.layouts[0].Refuses(traits), std::nullopt);
  traits.symmetric = false;
  EXPECT_NE(vllm.layouts[0].Refuses(traits), std::nullopt);
  traits.symmetric = true;
  traits.act_order = true;
  EXPECT_NE(vllm.layouts[0].Refuses(traits), std::nullopt);
  traits.act_order = false;
  traits.shape.bits = 3;
  EXPECT_NE(vllm.layouts[0].Refuses(traits), std::nullopt);
}

TEST(TargetTest, OnlyGgufMixesLayouts) {
  for (const std::string& name : TargetNames()) {
    const Target target = Must(FindTarget(name));
    EXPECT_EQ(target.mixed_layouts, name == "gguf") << name;
    EXPECT_EQ(target.container == Container::kGguf, name == "gguf") << name;
    EXPECT_EQ(target.metadata_format, name == "mlx" ? "mlx" : "pt") << name;
    EXPECT_EQ(target.warning.empty(), name != "marlin") << name;
    EXPECT_EQ(target.biases == BiasPolicy::kEveryQuantised, name == "optimum-1.19") << name;
    EXPECT_FALSE(target.layouts[0].on_request) << name;  // one is always taken unasked
    // What a target says of float tensors ends in a rule, or leaves them alone.
    EXPECT_EQ(target.floats.empty(), name != "gguf" && !name.starts_with("dense-")) << name;
  }
}

TEST(TargetTest, EveryPairCombinesTheSameBothWays) {
  for (const std::string& a : TargetNames()) {
    for (const std::string& b : TargetNames()) {
      const auto one = CombineTargets({Must(FindTarget(a)), Must(FindTarget(b))});
      const auto other = CombineTargets({Must(FindTarget(b)), Must(FindTarget(a))});
      ASSERT_EQ(one.ok(), other.ok()) << a << " " << b;
      if (!one.ok()) {
        ExpectError(one, Code::kRefused, "target-conflict", {a, b});
        EXPECT_NE(a, b);
        continue;
      }
      ASSERT_EQ(one.value().layouts.size(), other.value().layouts.size()) << a << " " << b;
      EXPECT_TRUE(a != b || one.value().layouts.size() == Must(FindTarget(a)).layouts.size()) << a;
    }
  }
}

TEST(TargetTest, NothingInCommonIsAConflict) {
  Target four = Must(FindTarget("vllm-gptq"));
  Target eight = four;
  eight.name = "eight";
  four.layouts[0].bits = {4};
  eight.layouts[0].bits = {8};
  ExpectError(CombineTargets({four, eight}), Code::kRefused, "target-conflict", {"vllm-gptq", "eight"});
  ExpectError(CombineTargets({Must(FindTarget("dense-fp16")), Must(FindTarget("dense-fp32"))}), Code::kRefused, "target-conflict", {"float"});
}

TEST(TargetTest, DeclaredBiasesThatLoadersRead) {
  const auto reads = [](const std::string& target, const char* type, const char* linear) { return Must(FindTarget(target)).ReadsDeclaredBias(type, std::string("model.layers.3.self_attn.") + linear); };
  for (const char* type : {"qwen3", "qwen3_moe"}) {
    // vLLM has none on o_proj; what may be loaded in it must not have one either.
    for (const char* target : {"vllm", "vllm-gptq", "awq", "compressed-tensors"}) {
      for (const char* linear : {"q_proj", "k_proj", "v_proj"}) EXPECT_TRUE(reads(target, type, linear)) << target << " " << linear;
      EXPECT_FALSE(reads(target, type, "o_proj")) << target;
    }
    for (const char* target : {"transformers-4.x", "transformers-5.x", "gptqmodel", "gptqmodel-v2", "marlin", "dense-fp32"}) EXPECT_TRUE(reads(target, type, "o_proj")) << target;
    for (const char* linear : {"q_proj", "o_proj"}) EXPECT_FALSE(reads("gguf", type, linear));
  }
  EXPECT_FALSE(reads("mlx", "qwen3", "q_proj"));
  for (const std::string& target : TargetNames()) EXPECT_TRUE(reads(target, "qwen2_moe", "q_proj")) << target;
}

TEST(TargetTest, CombinedReadsTheBiasesThatBothRead) {
  const Target both = Must(CombineTargets({Must(FindTarget("transformers-4.x")), Must(FindTarget("vllm"))}));
  EXPECT_TRUE(both.ReadsDeclaredBias("qwen3", "model.layers.0.self_attn.q_proj"));
  EXPECT_FALSE(both.ReadsDeclaredBias("qwen3", "model.layers.0.self_attn.o_proj"));
  EXPECT_TRUE(both.ReadsDeclaredBias("qwen2_moe", "model.layers.0.self_attn.o_proj"));
}

}  // namespace
}  // namespace q2c
