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
  for (const char* name : {"qwen", "qwen2", "qwen2_5_vl", "qwen2_moe", "qwen2_vl", "qwen3", "qwen3_moe"}) EXPECT_NE(std::ranges::find(known, name), known.end()) << name;
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

TEST(ArchitectureTest, NamesOfTheFirstGeneration) {
  const Architecture qwen = Must(FindArchitecture("qwen"));
  EXPECT_EQ(qwen.model_type, "qwen2");
  Json config = Config();
  config.Set("num_key_value_heads", Json::Integer(28));  // as many as heads
  const Skeleton skeleton = Must(qwen.Expand(config, "Qwen2ForCausalLM"));
  for (const char* wrapper : {"", "base_model.model.", "module."}) {
    const std::vector<Place> places = qwen.Places(skeleton, std::string(wrapper) + "transformer.h.7.attn.c_attn.qzeros");
    ASSERT_EQ(places.size(), 3U) << wrapper;
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(places[i].name, fmt::format("model.layers.7.self_attn.{}_proj.qzeros", "qkv"[i]));
      EXPECT_EQ(places[i].rows.first, 3584 * i);
      EXPECT_EQ(places[i].rows.count, 3584U);
      EXPECT_EQ(places[i].rows.of, 3 * 3584U);
    }
  }
  for (const auto& [theirs, ours] : std::map<std::string, std::string>{{"transformer.wte.weight", "model.embed_tokens.weight"}, {"transformer.ln_f.weight", "model.norm.weight"}, {"lm_head.weight", "lm_head.weight"},
                                                                       {"transformer.h.0.ln_2.weight", "model.layers.0.post_attention_layernorm.weight"}, {"transformer.h.27.mlp.w1.scales", "model.layers.27.mlp.up_proj.scales"},
                                                                       {"transformer.h.27.mlp.w2.bias", "model.layers.27.mlp.gate_proj.bias"}, {"model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.up_proj.weight"}}) {
    const std::vector<Place> places = qwen.Places(skeleton, theirs);
    ASSERT_EQ(places.size(), 1U) << theirs;
    EXPECT_EQ(places[0].name, ours);
    EXPECT_FALSE(places[0].rows.IsPart());
  }
  for (const char* name : {"transformer.h.28.attn.c_attn.weight", "transformer.h.0.attn.c_attn", "transformer.h.0.attn.c_attn.other", "transformer.visual.proj", "transformer.h.{layer}.ln_1.weight"}) {
    EXPECT_TRUE(qwen.Places(skeleton, name).empty()) << name;
  }
  EXPECT_TRUE(qwen.IsDerived("transformer.h.3.attn.masked_bias"));
  EXPECT_TRUE(qwen.IsDerived("transformer.rotary_emb.inv_freq"));
  EXPECT_TRUE(Must(FindArchitecture("qwen2")).Places(skeleton, "transformer.h.0.attn.bias").empty());
}

TEST(ArchitectureTest, VisionTowers) {
  // As published: Qwen2-VL-7B and Qwen2.5-VL-7B.
  const Architecture first = Must(FindArchitecture("qwen2_vl"));
  const Skeleton two = Must(first.Expand(Config(R"(, "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3, "hidden_size": 3584, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2})"),
                                         "Qwen2VLForConditionalGeneration"));
  const Architecture second = Must(FindArchitecture("qwen2_5_vl"));
  const Skeleton two_and_a_half = Must(second.Expand(Config(R"(, "vision_config": {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "out_hidden_size": 3584})"), "Qwen2_5_VLForConditionalGeneration"));
  const auto shape = [](const Skeleton& skeleton, const std::string& name) { return skeleton.tensors.find(name)->second.shape; };
  const auto linear = [](const Skeleton& skeleton, const std::string& name) { return std::pair(skeleton.linears.find(name)->second.in_features, skeleton.linears.find(name)->second.out_features); };
  EXPECT_EQ(shape(two, "visual.patch_embed.proj.weight"), (Shape{1280, 3, 2, 14, 14}));
  EXPECT_EQ(shape(two_and_a_half, "visual.patch_embed.proj.weight"), (Shape{1280, 3, 2, 14, 14}));
  EXPECT_EQ(linear(two, "visual.blocks.31.attn.qkv"), std::pair(uint64_t{1280}, uint64_t{3840}));
  EXPECT_EQ(linear(two, "visual.blocks.0.mlp.fc2"), std::pair(uint64_t{5120}, uint64_t{1280}));
  EXPECT_EQ(linear(two, "visual.merger.mlp.2"), std::pair(uint64_t{5120}, uint64_t{3584}));
  EXPECT_EQ(linear(two_and_a_half, "visual.blocks.31.mlp.down_proj"), std::pair(uint64_t{3420}, uint64_t{1280}));
  EXPECT_EQ(linear(two_and_a_half, "visual.merger.mlp.0"), std::pair(uint64_t{5120}, uint64_t{5120}));
  EXPECT_FALSE(two.linears.find("visual.merger.mlp.0")->second.in_block);
  EXPECT_FALSE(two.linears.contains("visual.blocks.32.attn.qkv"));
  EXPECT_FALSE(two_and_a_half.tensors.contains("visual.blocks.0.norm1.bias"));
  EXPECT_TRUE(first.IsVision("visual.merger.ln_q.weight"));
  EXPECT_FALSE(first.IsVision("model.norm.weight"));
  EXPECT_FALSE(Must(FindArchitecture("qwen2")).IsVision("visual.merger.ln_q.weight"));
  // Both nestings, as 4.45 to 4.51 and later versions have them in memory.
  for (const auto& [nested, flat] : std::map<std::string, std::string>{{"model.visual.blocks.3.norm1.weight", "visual.blocks.3.norm1.weight"}, {"visual.blocks.3.norm1.weight", "visual.blocks.3.norm1.weight"},
                                                                       {"model.language_model.layers.5.mlp.up_proj.qweight", "model.layers.5.mlp.up_proj.qweight"}, {"model.layers.5.mlp.up_proj.qweight", "model.layers.5.mlp.up_proj.qweight"},
                                                                       {"model.language_model.embed_tokens.weight", "model.embed_tokens.weight"}, {"model.language_model.norm.weight", "model.norm.weight"}, {"lm_head.weight", "lm_head.weight"}}) {
    for (const auto& [architecture, skeleton] : {std::pair(&first, &two), std::pair(&second, &two_and_a_half)}) {
      const std::vector<Place> places = architecture->Places(*skeleton, nested);
      ASSERT_EQ(places.size(), 1U) << nested;
      EXPECT_EQ(places[0].name, flat);
    }
  }
  ExpectError(first.Expand(Config(R"(, "vision_config": {"depth": 1001})"), "Qwen2VLForConditionalGeneration"), Code::kMalformed, "config-size", {"depth", "1001"});
  ExpectError(first.Expand(Config(R"(, "vision_config": {"depth": "many"})"), "Qwen2VLForConditionalGeneration"), Code::kMalformed, "config-size", {"depth"});
}

TEST(ArchitectureTest, ConfigOfATextModelInside) {
  const Architecture vl = Must(FindArchitecture("qwen2_vl"));
  const Json flat = Config(R"(, "vision_config": {"depth": 1})");
  EXPECT_TRUE(Must(vl.Translate(flat)).changes.empty());
  const Json nested = Must(ParseJson(R"({"model_type": "qwen2_vl", "tie_word_embeddings": false, "text_config": {"model_type": "qwen2_vl_text", "hidden_size": 64, "dtype": "float16", "return_dict": true, "tie_word_embeddings": true,
                                         "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [1, 2, 3]}}, "vision_config": {"depth": 1}})"));
  const TranslatedConfig lifted = Must(vl.Translate(nested));
  EXPECT_EQ(lifted.config.Dump(-1), R"({"model_type": "qwen2_vl", "tie_word_embeddings": true, "vision_config": {"depth": 1}, "hidden_size": 64, "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [1, 2, 3]}, "dtype": "float16"})");
  for (const ConfigChange& change : lifted.changes) EXPECT_FALSE(change.reason.empty()) << change.key;
  EXPECT_EQ(lifted.changes.back().key, "text_config");
}

// transformers 5 saves Qwen3-MoE without num_experts, and 4 takes 128 then.
TEST(ArchitectureTest, ExpertsUnderTheNameOfANewerVersion) {
  const Architecture moe = Must(FindArchitecture("qwen3_moe"));
  const TranslatedConfig translated = Must(moe.Translate(Must(ParseJson(R"({"model_type": "qwen3_moe", "num_local_experts": 4})"))));
  EXPECT_EQ(translated.config.Dump(-1), R"({"model_type": "qwen3_moe", "num_local_experts": 4, "num_experts": 4})");
  ASSERT_EQ(translated.changes.size(), 1U);
  EXPECT_EQ(translated.changes[0].key, "num_experts");
  EXPECT_TRUE(Must(moe.Translate(Must(ParseJson(R"({"model_type": "qwen3_moe", "num_experts": 4})")))).changes.empty());
}

TEST(ArchitectureTest, LabelsAreCountedByTheirNames) {
  const Architecture qwen2 = Must(FindArchitecture("qwen2"));
  const auto labels = [&](const char* extra) { return Must(qwen2.Expand(Config(extra), "Qwen2ForTokenClassification")).linears.find("score")->second.out_features; };
  EXPECT_EQ(labels(""), 2U);
  EXPECT_EQ(labels(R"(, "num_labels": 7)"), 7U);
  EXPECT_EQ(labels(R"(, "num_labels": 7, "id2label": {"0": "a", "1": "b", "2": "c"})"), 3U);
  EXPECT_EQ(labels(R"(, "id2label": null)"), 2U);
}

// Every tensor a family expects has a place in a GGUF file, no two the same, and comes back from it.
TEST(ArchitectureTest, NamesOfGgufAndBack) {
  for (const auto& [family, class_name, extra] : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"qwen2", "Qwen2ForCausalLM", ""}, {"qwen3", "Qwen3ForCausalLM", R"(, "head_dim": 128)"},
           {"qwen3_moe", "Qwen3MoeForCausalLM", R"(, "head_dim": 128, "num_experts": 3, "moe_intermediate_size": 64)"},
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
