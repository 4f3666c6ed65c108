#include "formats/architecture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

Json Config(const std::string& extra = "") {
  // Qwen2-7B, as published.
  return Must(ParseJson(R"({"hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064)" + extra + "}"));
}

TEST(ArchitectureTest, KnownOnes) {
  const std::vector<std::string> known = KnownArchitectures();
  for (const char* name : {"qwen2", "qwen2_moe", "qwen3"}) EXPECT_NE(std::ranges::find(known, name), known.end()) << name;
  ExpectError(FindArchitecture("llama"), Code::kRefused, "architecture", {"llama", "qwen2"});
  ExpectError(FindArchitecture("../qwen2"), Code::kRefused, "architecture");
}

TEST(ArchitectureTest, SizesOfAPublishedModel) {
  const Skeleton skeleton = Must(Must(FindArchitecture("qwen2")).Expand(Config(), "Qwen2ForCausalLM"));
  EXPECT_EQ(skeleton.layers, 28U);
  EXPECT_EQ(skeleton.tensors.size(), 2U + 2 * 28);
  EXPECT_EQ(skeleton.linears.size(), 1U + 7 * 28);
  const ExpectedLinear& k = skeleton.linears.find("model.layers.27.self_attn.k_proj")->second;
  EXPECT_EQ(k.in_features, 3584U);
  EXPECT_EQ(k.out_features, 512U);
  EXPECT_TRUE(k.bias);
  EXPECT_TRUE(k.in_block);
  const ExpectedLinear& down = skeleton.linears.find("model.layers.0.mlp.down_proj")->second;
  EXPECT_EQ(down.in_features, 18944U);
  EXPECT_FALSE(down.bias);
  const ExpectedLinear& head = skeleton.linears.find("lm_head")->second;
  EXPECT_EQ(head.out_features, 152064U);
  EXPECT_EQ(head.tied_to, "model.embed_tokens");
  EXPECT_FALSE(head.in_block);
  EXPECT_EQ(skeleton.tensors.find("model.embed_tokens.weight")->second.shape, (Shape{152064, 3584}));
}

TEST(ArchitectureTest, OtherClasses) {
  const Architecture qwen2 = Must(FindArchitecture("qwen2"));
  const Skeleton score = Must(qwen2.Expand(Config(R"(, "num_labels": 5)"), "Qwen2ForSequenceClassification"));
  EXPECT_EQ(score.linears.find("score")->second.out_features, 5U);
  EXPECT_FALSE(score.linears.contains("lm_head"));
  ExpectError(qwen2.Expand(Config(), "Qwen2ForSomething"), Code::kRefused, "architecture-class", {"Qwen2ForSomething", "Qwen2ForCausalLM"});
}

TEST(ArchitectureTest, QwenThreeTakesBiasesFromTheConfig) {
  const Architecture qwen3 = Must(FindArchitecture("qwen3"));
  EXPECT_FALSE(Must(qwen3.Expand(Config(), "Qwen3ForCausalLM")).linears.find("model.layers.0.self_attn.q_proj")->second.bias);
  const Skeleton biased = Must(qwen3.Expand(Config(R"(, "attention_bias": true, "head_dim": 64)"), "Qwen3ForCausalLM"));
  EXPECT_TRUE(biased.linears.find("model.layers.0.self_attn.o_proj")->second.bias);
  EXPECT_EQ(biased.linears.find("model.layers.0.self_attn.q_proj")->second.out_features, 28U * 64);
  EXPECT_EQ(biased.tensors.find("model.layers.0.self_attn.q_norm.weight")->second.shape, Shape{64});
}

TEST(ArchitectureTest, ExpertsWhereTheConfigPutsThem) {
  const Architecture moe = Must(FindArchitecture("qwen2_moe"));
  const Skeleton all = Must(moe.Expand(Config(R"(, "num_experts": 3, "moe_intermediate_size": 64)"), "Qwen2MoeForCausalLM"));
  EXPECT_TRUE(all.linears.find("model.layers.0.mlp.gate")->second.router);
  EXPECT_EQ(all.linears.find("model.layers.27.mlp.experts.2.down_proj")->second.in_features, 64U);
  EXPECT_FALSE(all.linears.contains("model.layers.0.mlp.experts.3.down_proj"));
  EXPECT_FALSE(all.linears.contains("model.layers.0.mlp.up_proj"));
  const Skeleton some = Must(moe.Expand(Config(R"(, "decoder_sparse_step": 2, "mlp_only_layers": [3])"), "Qwen2MoeForCausalLM"));
  EXPECT_TRUE(some.linears.contains("model.layers.0.mlp.up_proj"));
  EXPECT_TRUE(some.linears.contains("model.layers.1.mlp.gate"));
  EXPECT_TRUE(some.linears.contains("model.layers.3.mlp.up_proj"));
  EXPECT_FALSE(some.linears.contains("model.layers.3.mlp.gate"));
}

TEST(ArchitectureTest, SizesThatCannotBe) {
  const Architecture qwen2 = Must(FindArchitecture("qwen2"));
  for (const char* bad : {"0", "-1", "1.5", "\"64\"", "true", "[]", "18446744073709551615", "1048577"}) {
    Json config = Config();
    config.Set("hidden_size", Must(ParseJson(bad)));
    ExpectError(qwen2.Expand(config, "Qwen2ForCausalLM"), Code::kMalformed, "config-size", {"hidden_size"});
  }
  for (const auto& [key, value] : std::vector<std::pair<const char*, int>>{{"num_attention_heads", 27}, {"num_key_value_heads", 5}, {"num_key_value_heads", 56}, {"num_hidden_layers", 1001}}) {
    Json config = Config();
    config.Set(key, Json::Integer(value));
    ExpectError(qwen2.Expand(config, "Qwen2ForCausalLM"), Code::kMalformed, "config-size");
  }
  Json config = Config();
  config.Erase("vocab_size");
  ExpectError(qwen2.Expand(config, "Qwen2ForCausalLM"), Code::kMalformed, "config-size", {"vocab_size is missing"});
}

TEST(ArchitectureTest, NamesThatAreNotKnown) {
  const Architecture qwen2 = Must(FindArchitecture("qwen2"));
  const Skeleton skeleton = Must(qwen2.Expand(Config(), "Qwen2ForCausalLM"));
  EXPECT_EQ(qwen2.CanonicalName(skeleton, "model.layers.3.mlp.up_proj.qzeros"), "model.layers.3.mlp.up_proj.qzeros");
  for (const char* name : {"", ".", "model.", "model.layers.28.mlp.up_proj.qzeros", "model.layers.03.mlp.up_proj.qzeros", "model.layers.3.mlp.up_proj.other", "model.layers.3.mlp.up_proj", "module.", "_orig_mod._orig_mod."}) {
    EXPECT_EQ(qwen2.CanonicalName(skeleton, name), std::nullopt) << name;
  }
  EXPECT_TRUE(qwen2.IsDerived("model.layers.0.self_attn.rotary_emb.inv_freq"));
  EXPECT_FALSE(qwen2.IsDerived("model.norm.weight"));
  EXPECT_EQ(SplitPart("a.b.c"), (std::pair<std::string, std::string>{"a.b", "c"}));
  EXPECT_EQ(SplitPart("a"), (std::pair<std::string, std::string>{"a", ""}));
}

// Every tensor a family expects has a place in a GGUF file, no two the same, and comes back from it.
TEST(ArchitectureTest, NamesOfGgufAndBack) {
  for (const auto& [family, class_name, extra] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"qwen2", "Qwen2ForCausalLM", ""}, {"qwen3", "Qwen3ForCausalLM", R"(, "head_dim": 128)"},
           {"qwen2_moe", "Qwen2MoeForCausalLM", R"(, "num_experts": 3, "moe_intermediate_size": 64, "shared_expert_intermediate_size": 64)"}}) {
    const Architecture architecture = Must(FindArchitecture(family));
    const Skeleton skeleton = Must(architecture.Expand(Config(extra), class_name));
    std::vector<std::string> names;
    for (const auto& [name, tensor] : skeleton.tensors) names.push_back(name);
    for (const auto& [name, linear] : skeleton.linears) {
      names.push_back(name + ".weight");
      if (linear.bias) names.push_back(name + ".bias");
    }
    std::map<std::string, std::string> theirs;
    for (const std::string& name : names) {
      const std::optional<std::string> gguf = architecture.GgufName(name);
      ASSERT_TRUE(gguf.has_value()) << family << ": " << name;
      EXPECT_LT(gguf->size(), 64U);
      EXPECT_TRUE(theirs.emplace(*gguf, name).second) << *gguf << " for " << theirs[*gguf] << " and " << name;
      EXPECT_EQ(architecture.CanonicalName(skeleton, *gguf), name) << *gguf;
    }
  }
}

TEST(ArchitectureTest, NamesOfGgufThatWerePublished) {
  const Architecture qwen2 = Must(FindArchitecture("qwen2"));
  const Architecture moe = Must(FindArchitecture("qwen2_moe"));
  const Architecture qwen3 = Must(FindArchitecture("qwen3"));
  for (const auto& [architecture, name, gguf] : std::vector<std::tuple<const Architecture*, std::string, std::string>>{
           {&qwen2, "model.embed_tokens.weight", "token_embd.weight"}, {&qwen2, "model.norm.weight", "output_norm.weight"}, {&qwen2, "lm_head.weight", "output.weight"},
           {&qwen2, "model.layers.27.self_attn.o_proj.weight", "blk.27.attn_output.weight"}, {&qwen2, "model.layers.3.self_attn.k_proj.bias", "blk.3.attn_k.bias"},
           {&qwen2, "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"}, {&qwen2, "model.layers.0.mlp.gate_proj.weight", "blk.0.ffn_gate.weight"},
           {&moe, "model.layers.1.mlp.gate.weight", "blk.1.ffn_gate_inp.weight"}, {&moe, "model.layers.1.mlp.shared_expert_gate.weight", "blk.1.ffn_gate_inp_shexp.weight"},
           {&moe, "model.layers.1.mlp.shared_expert.down_proj.weight", "blk.1.ffn_down_shexp.weight"}, {&moe, "model.layers.1.mlp.experts.12.up_proj.weight", "blk.1.ffn_up_exps.12.weight"},
           {&qwen3, "model.layers.2.self_attn.q_norm.weight", "blk.2.attn_q_norm.weight"}}) {
    EXPECT_EQ(architecture->GgufName(name), gguf);
  }
  EXPECT_EQ(qwen2.GgufName("model.layers.0.notes"), std::nullopt);
  EXPECT_EQ(qwen2.GgufName(""), std::nullopt);
  const Skeleton skeleton = Must(qwen2.Expand(Config(), "Qwen2ForCausalLM"));
  for (const char* name : {"blk.28.attn_q.weight", "blk.00.attn_q.weight", "blk.0.attn_x.weight", "blk.0.ffn_up_exps.0.weight", "token_embd", "blk..attn_q.weight"}) {
    EXPECT_EQ(qwen2.CanonicalName(skeleton, name), std::nullopt) << name;
  }
}

}  // namespace
}  // namespace q2c
