// Key-values against what llama.cpp's own converter writes and its loader reads; each refusal once.
#include "formats/gguf_metadata.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

using Files = std::map<std::string, std::string, std::less<>>;

Result<GgufValues> Make(const Files& files, const std::string& config, uint64_t rows = 8, const std::string& name = "mini") {
  const Json json = Must(ParseJson(config));
  const auto read = [&](std::string_view file) -> Result<std::optional<std::string>> {
    const auto found = files.find(file);
    if (found == files.end()) return std::optional<std::string>();
    return std::optional<std::string>(found->second);
  };
  return MakeGgufMetadata({json, read}, 2, name, rows);
}

constexpr const char* kConfig =
    R"({"model_type":"qwen2","num_hidden_layers":2,"max_position_embeddings":2048,"hidden_size":128,"intermediate_size":512,"num_attention_heads":4,"num_key_value_heads":2,
        "rms_norm_eps":1e-06,"rope_theta":1000000.0,"hidden_act":"silu","use_sliding_window":false,"sliding_window":4096,"bos_token_id":0,"eos_token_id":2})";

// kConfig with keys set (JSON text), or removed ("").
std::string Config(const std::vector<std::pair<std::string, std::string>>& changes) {
  Json config = Must(ParseJson(kConfig));
  for (const auto& [key, text] : changes) {
    if (text.empty()) config.Erase(key);
    else config.Set(key, Must(ParseJson(R"({"v":)" + text + "}")).Find("v")[0]);
  }
  return config.Dump();
}

const std::string kQwenRegex = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
const std::string kGptPre = R"({"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true})";

std::string SplitPre(const std::string& regex) {
  return R"({"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":)" + Json::String(regex).Dump(-1) +
         R"(},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]})";
}

struct TokenizerParts {
  std::string pre = kGptPre;
  std::string normalizer = "null";
  std::string post = "null";
  std::string vocab = R"({"a":0,"b":1,"ab":3,"aba":4})";
  std::string merges = R"(["a b",["ab","a"]])";
  std::string added = R"([{"id":2,"content":"<|end|>","special":true},{"id":5,"content":"<tool>","special":false},{"id":6,"content":"<|fim|>","special":false}])";
  std::string model = R"("unk_token":null,"continuing_subword_prefix":"")";
};
std::string TokenizerJson(const TokenizerParts& parts) {
  return fmt::format(R"({{"added_tokens":{},"normalizer":{},"pre_tokenizer":{},"post_processor":{},"model":{{"type":"BPE",{},"vocab":{},"merges":{}}}}})", parts.added, parts.normalizer, parts.pre,
                     parts.post, parts.model, parts.vocab, parts.merges);
}
Files With(const TokenizerParts& parts, Files more = {}) {
  more.emplace("tokenizer.json", TokenizerJson(parts));
  return more;
}
void Refuses(const TokenizerParts& parts, Code code, const std::string& mention) { ExpectError(Make(With(parts), kConfig), code, "gguf-tokenizer", {mention}); }

const GgufValue* Find(const GgufValues& values, std::string_view key) { return FindGguf(values, key); }

TEST(GgufMetadata, AllKeysOfASmallModel) {
  const GgufValues values = Must(Make(With({}, {{"tokenizer_config.json", R"({"pad_token":"<tool>","chat_template":"{{ x }}\n","model_max_length":1000000000000000019884624838656})"}}), kConfig));
  EXPECT_EQ(values, (GgufValues{{"general.architecture", GgufValue::String("qwen2")},
                                {"general.type", GgufValue::String("model")},
                                {"general.name", GgufValue::String("mini")},
                                {"general.file_type", GgufValue::U32(2)},
                                {"general.quantization_version", GgufValue::U32(2)},
                                {"qwen2.block_count", GgufValue::U32(2)},
                                {"qwen2.context_length", GgufValue::U32(2048)},
                                {"qwen2.embedding_length", GgufValue::U32(128)},
                                {"qwen2.feed_forward_length", GgufValue::U32(512)},
                                {"qwen2.attention.head_count", GgufValue::U32(4)},
                                {"qwen2.attention.head_count_kv", GgufValue::U32(2)},
                                {"qwen2.rope.freq_base", GgufValue::F32(1e6F)},
                                {"qwen2.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-6F)},
                                {"tokenizer.ggml.model", GgufValue::String("gpt2")},
                                {"tokenizer.ggml.pre", GgufValue::String("gpt-2")},
                                {"tokenizer.ggml.tokens", GgufValue::Strings({"a", "b", "<|end|>", "ab", "aba", "<tool>", "<|fim|>", "[PAD7]"})},
                                {"tokenizer.ggml.token_type", GgufValue::I32s({1, 1, 3, 1, 1, 3, 3, 5})},  // <tool> is the pad_token: special
                                {"tokenizer.ggml.merges", GgufValue::Strings({"a b", "ab a"})},
                                {"tokenizer.ggml.bos_token_id", GgufValue::U32(0)},
                                {"tokenizer.ggml.eos_token_id", GgufValue::U32(2)},
                                {"tokenizer.ggml.padding_token_id", GgufValue::U32(5)},
                                {"tokenizer.ggml.add_bos_token", GgufValue::Bool(false)},
                                {"tokenizer.chat_template", GgufValue::String("{{ x }}\n")}}));
}

TEST(GgufMetadata, NamesThatLlamaCppWouldReactTo) {
  EXPECT_EQ(Find(Must(Make(With({}), kConfig, 8, "My-Phi3-Qwen")), "general.name"), nullptr);
  EXPECT_EQ(Find(Must(Make(With({}), kConfig, 8, "")), "general.name"), nullptr);
}

TEST(GgufMetadata, Rope) {
  const auto with = [](const std::vector<std::pair<std::string, std::string>>& changes) { return Make(With({}), Config(changes)); };
  EXPECT_EQ(*Find(Must(with({{"rope_theta", ""}})), "qwen2.rope.freq_base"), GgufValue::F32(10000));
  EXPECT_EQ(*Find(Must(with({{"rope_theta", ""}, {"rope_parameters", R"({"rope_theta":5e5,"rope_type":"default"})"}})), "qwen2.rope.freq_base"), GgufValue::F32(5e5F));
  const GgufValues yarn = Must(with({{"rope_scaling", R"({"type":"yarn","factor":4.0,"original_max_position_embeddings":512,"beta_fast":32,"attention_factor":1.1386294361})"}}));
  EXPECT_EQ(*Find(yarn, "qwen2.rope.scaling.type"), GgufValue::String("yarn"));
  EXPECT_EQ(*Find(yarn, "qwen2.rope.scaling.factor"), GgufValue::F32(4));
  EXPECT_EQ(*Find(yarn, "qwen2.rope.scaling.original_context_length"), GgufValue::U32(512));
  EXPECT_EQ(*Find(yarn, "qwen2.rope.freq_base"), GgufValue::F32(1e6F));
  EXPECT_EQ(*Find(Must(with({{"rope_scaling", R"({"type":"yarn","factor":4.0})"}})), "qwen2.rope.scaling.original_context_length"), GgufValue::U32(2048));
  EXPECT_EQ(*Find(Must(with({{"rope_scaling", R"({"rope_type":"linear","factor":2})"}})), "qwen2.rope.scaling.type"), GgufValue::String("linear"));
  for (const char* scaling : {R"({"type":"dynamic","factor":2})", R"({"type":"yarn","factor":2,"beta_slow":2})", R"({"type":"yarn","factor":2,"attention_factor":1.5})",
                              R"({"type":"yarn","factor":2,"mscale":1})", R"({"type":"linear","factor":2,"beta_fast":32})", R"({"full_attention":{"rope_theta":1}})"}) {
    ExpectError(with({{"rope_scaling", scaling}}), Code::kRefused, "gguf-config");
  }
  ExpectError(with({{"rope_scaling", R"({"type":"yarn"})"}}), Code::kMalformed, "gguf-config", {"factor"});
  ExpectError(with({{"rope_scaling", R"({"type":"linear","factor":0})"}}), Code::kMalformed, "gguf-config", {"factor"});
  ExpectError(with({{"rope_scaling", R"({"type":"yarn","factor":2,"original_max_position_embeddings":-1})"}}), Code::kMalformed, "gguf-config");
  ExpectError(with({{"rope_theta", "\"x\""}}), Code::kMalformed, "gguf-config", {"rope_theta"});
}

TEST(GgufMetadata, ConfigsThatLlamaCppWouldComputeDifferently) {
  const auto with = [](const std::vector<std::pair<std::string, std::string>>& changes) { return Make(With({}), Config(changes)); };
  ExpectError(with({{"model_type", "\"llama\""}}), Code::kRefused, "architecture", {"llama"});
  ExpectError(with({{"model_type", ""}}), Code::kRefused, "architecture", {"absent"});
  ExpectError(with({{"hidden_act", "\"gelu\""}}), Code::kRefused, "gguf-config", {"gelu"});
  ExpectError(with({{"use_sliding_window", "true"}, {"max_window_layers", "1"}}), Code::kRefused, "gguf-config", {"sliding"});
  Must(with({{"use_sliding_window", "true"}, {"max_window_layers", "2"}}));  // then no layer has a window
  ExpectError(with({{"layer_types", R"(["full_attention","sliding_attention"])"}}), Code::kRefused, "gguf-config", {"sliding"});
  Must(with({{"layer_types", R"(["full_attention","full_attention"])"}}));
  ExpectError(with({{"head_dim", "64"}}), Code::kRefused, "gguf-config", {"64"});
  Must(with({{"head_dim", "32"}}));
  EXPECT_EQ(*Find(Must(with({{"num_key_value_heads", "null"}})), "qwen2.attention.head_count_kv"), GgufValue::U32(4));
  for (const char* key : {"num_hidden_layers", "max_position_embeddings", "hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads", "rms_norm_eps"}) {
    ExpectError(with({{key, ""}}), Code::kMalformed, "gguf-config", {key});
    ExpectError(with({{key, "0"}}), Code::kMalformed, "gguf-config", {key});
    ExpectError(with({{key, "-1"}}), Code::kMalformed, "gguf-config", {key});
    ExpectError(with({{key, "\"2\""}}), Code::kMalformed, "gguf-config", {key});
  }
  ExpectError(with({{"num_hidden_layers", "513"}}), Code::kMalformed, "gguf-config");
  ExpectError(with({{"num_key_value_heads", "3"}}), Code::kMalformed, "gguf-config", {"share"});
}

TEST(GgufMetadata, ExpertsAndQwen3) {
  const std::vector<std::pair<std::string, std::string>> moe = {{"model_type", "\"qwen2_moe\""}, {"num_experts", "4"}, {"num_experts_per_tok", "2"}, {"moe_intermediate_size", "64"},
                                                                {"shared_expert_intermediate_size", "256"}, {"decoder_sparse_step", "1"}, {"mlp_only_layers", "[]"}, {"norm_topk_prob", "false"}};
  const auto with = [&](std::vector<std::pair<std::string, std::string>> changes) {
    changes.insert(changes.begin(), moe.begin(), moe.end());
    return Make(With({}), Config(changes));
  };
  const GgufValues values = Must(with({}));
  EXPECT_EQ(*Find(values, "general.architecture"), GgufValue::String("qwen2moe"));
  EXPECT_EQ(*Find(values, "qwen2moe.expert_count"), GgufValue::U32(4));
  EXPECT_EQ(*Find(values, "qwen2moe.expert_used_count"), GgufValue::U32(2));
  EXPECT_EQ(*Find(values, "qwen2moe.expert_feed_forward_length"), GgufValue::U32(64));
  EXPECT_EQ(*Find(values, "qwen2moe.expert_shared_feed_forward_length"), GgufValue::U32(256));
  ExpectError(with({{"norm_topk_prob", "true"}}), Code::kRefused, "gguf-config", {"norm_topk_prob"});
  ExpectError(with({{"decoder_sparse_step", "2"}}), Code::kRefused, "gguf-config");
  ExpectError(with({{"mlp_only_layers", "[0]"}}), Code::kRefused, "gguf-config");
  ExpectError(with({{"num_experts_per_tok", "5"}}), Code::kMalformed, "gguf-config");
  ExpectError(with({{"num_experts", "1025"}}), Code::kMalformed, "gguf-config");
  ExpectError(with({{"model_type", "\"qwen3_moe\""}}), Code::kRefused, "gguf-config", {"norm_topk_prob"});
  const GgufValues moe3 = Must(with({{"model_type", "\"qwen3_moe\""}, {"norm_topk_prob", "true"}, {"head_dim", "48"}}));
  EXPECT_EQ(*Find(moe3, "qwen3moe.attention.key_length"), GgufValue::U32(48));
  EXPECT_EQ(Find(moe3, "qwen3moe.expert_shared_feed_forward_length"), nullptr);
  const GgufValues dense3 = Must(Make(With({}), Config({{"model_type", "\"qwen3\""}})));
  EXPECT_EQ(*Find(dense3, "qwen3.attention.value_length"), GgufValue::U32(128));  // the default of transformers

  for (const bool output : {true, false}) {
    const Json back = Must(ConfigFromGguf(moe3, output));
    EXPECT_EQ(back.Find("model_type")->text(), "qwen3_moe");
    EXPECT_EQ(back.Find("architectures")->items()[0].text(), "Qwen3MoeForCausalLM");
    EXPECT_EQ(back.Find("head_dim")->AsU64(), 48U);
    EXPECT_EQ(back.Find("num_experts")->AsU64(), 4U);
    EXPECT_EQ(back.Find("norm_topk_prob")->AsBool(), true);
    EXPECT_EQ(back.Find("tie_word_embeddings")->AsBool(), !output);
  }
}

TEST(GgufTokenizer, WaysToSplit) {
  const auto pre = [](const std::string& json, const std::string& model = R"("ignore_merges":false)") {
    return std::string(*Find(Must(Make(With({.pre = json, .model = model}), kConfig)), "tokenizer.ggml.pre")->AsText());
  };
  EXPECT_EQ(pre(SplitPre(kQwenRegex)), "qwen2");
  EXPECT_EQ(pre(kGptPre), "gpt-2");
  EXPECT_EQ(pre(R"({"type":"ByteLevel","add_prefix_space":false})"), "gpt-2");
  EXPECT_EQ(pre(SplitPre(R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)")), "gpt-2");
  const std::string llama = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  EXPECT_EQ(pre(SplitPre(llama), R"("ignore_merges":true)"), "llama-bpe");
  Refuses({.pre = SplitPre(llama)}, Code::kRefused, "1,3");
  Refuses({.pre = SplitPre(kQwenRegex), .model = R"("ignore_merges":true)"}, Code::kRefused, "ignore_merges");
  Refuses({.pre = "null"}, Code::kRefused, "no pre_tokenizer");
  Refuses({.pre = R"({"type":"ByteLevel","add_prefix_space":true})"}, Code::kRefused, "ByteLevel");
  Refuses({.pre = R"({"type":"ByteLevel","add_prefix_space":false,"use_regex":false})"}, Code::kRefused, "use_regex");
  Refuses({.pre = R"({"type":"Whitespace"})"}, Code::kRefused, "Whitespace");
  Refuses({.pre = R"({"type":"Sequence","pretokenizers":[]})"}, Code::kRefused, "Sequence");
}

TEST(GgufTokenizer, WhatLlamaCppDoesNotKnow) {
  Refuses({.normalizer = R"({"type":"Lowercase"})"}, Code::kRefused, "Lowercase");
  Must(Make(With({.normalizer = R"({"type":"NFC"})"}), kConfig));
  Refuses({.model = R"("byte_fallback":true)"}, Code::kRefused, "byte_fallback");
  Refuses({.model = R"("end_of_word_suffix":"</w>")"}, Code::kRefused, "end_of_word_suffix");
  Refuses({.model = R"("dropout":0.1)"}, Code::kRefused, "dropout");
  Refuses({.model = R"("unk_token":"a")"}, Code::kRefused, "unk_token");
  Refuses({.added = R"([{"id":2,"content":"x","lstrip":true}])"}, Code::kRefused, "lstrip");
  Refuses({.post = R"({"type":"BertProcessing"})"}, Code::kRefused, "BertProcessing");
  ExpectError(Make({{"tokenizer.json", R"({"model":{"type":"Unigram"}})"}}, kConfig), Code::kRefused, "gguf-tokenizer", {"Unigram"});
  ExpectError(Make({{"tokenizer.json", "{"}}, kConfig), Code::kMalformed, "json", {"tokenizer.json"});
  ExpectError(Make({{"tokenizer.json", "[]"}}, kConfig), Code::kMalformed, "gguf-tokenizer", {"tokenizer.json"});
  ExpectError(Make(With({}), kConfig, 7 - 1), Code::kRefused, "gguf-tokenizer", {"6 rows"});
  ExpectError(Make(With({}), kConfig, uint64_t{1} << 40U), Code::kRefused, "gguf-tokenizer", {"rows"});
  ExpectError(Make(With({}), Config({{"eos_token_id", ""}})), Code::kRefused, "gguf-tokenizer", {"eos_token"});
  ExpectError(Make(With({}), Config({{"bos_token_id", "8"}})), Code::kMalformed, "gguf-tokenizer", {"bos_token_id"});
}

TEST(GgufTokenizer, BrokenVocabularies) {
  Refuses({.vocab = R"({"a":0,"b":0,"ab":3,"aba":4})"}, Code::kMalformed, "one to one");
  Refuses({.vocab = R"({"a":-1})"}, Code::kMalformed, "-1");
  Refuses({.vocab = R"({"a":0,"b":1,"ab":3,"aba":4,"[PAD7]":6})", .added = "[]"}, Code::kMalformed, "[PAD7]");
  Refuses({.vocab = R"({"":0})"}, Code::kRefused, "cannot hold");
  Refuses({.vocab = "[]"}, Code::kMalformed, "vocab");
  Refuses({.merges = R"(["a c"])"}, Code::kMalformed, "not in the vocabulary");
  Refuses({.merges = R"(["a b","a b"])"}, Code::kMalformed, "twice");
  for (const char* merge : {R"("ab")", R"("a b c")", R"(["a"])", R"(["a "," b"])", "1", R"("a ")"}) Refuses({.merges = fmt::format("[{}]", merge)}, Code::kMalformed, "no merge");
  Refuses({.added = R"([{"id":0,"content":"x"}])"}, Code::kMalformed, "one to one");
  Refuses({.added = R"([{"content":"x"}])"}, Code::kMalformed, "no id");
}

TEST(GgufTokenizer, AddedTokensOfTheOtherFiles) {
  const GgufValues values = Must(Make(With({.added = "[]"}, {{"tokenizer_config.json", R"({"added_tokens_decoder":{"2":{"content":"<x>","special":true}},"eos_token":{"content":"<x>"},"bos_token":null})"},
                                                             {"added_tokens.json", R"({"<x>":2,"<y>":5})"},
                                                             {"special_tokens_map.json", R"({"additional_special_tokens":["<y>"]})"},
                                                             {"generation_config.json", R"({"pad_token_id":[1,2]})"}}), kConfig));
  EXPECT_EQ(*Find(values, "tokenizer.ggml.token_type"), GgufValue::I32s({1, 1, 3, 1, 1, 3, 5, 5}));
  EXPECT_EQ(*Find(values, "tokenizer.ggml.eos_token_id"), GgufValue::U32(2));
  EXPECT_EQ(*Find(values, "tokenizer.ggml.padding_token_id"), GgufValue::U32(1));
  ExpectError(Make(With({}, {{"added_tokens.json", R"({"<x>":2})"}}), kConfig), Code::kMalformed, "gguf-tokenizer", {"'<x>'"});
  ExpectError(Make(With({}, {{"tokenizer_config.json", R"({"added_tokens_decoder":{"x":{"content":"y"}}})"}}), kConfig), Code::kMalformed, "gguf-tokenizer", {"'x'"});
}

TEST(GgufTokenizer, TokensAroundTheText) {
  const auto post = [](const std::string& single) { return fmt::format(R"({{"type":"TemplateProcessing","single":[{}],"pair":[]}})", single); };
  const std::string text = R"({"Sequence":{"id":"A","type_id":0}})";
  const auto token = [](const std::string& id) { return R"({"SpecialToken":{"id":")" + id + R"(","type_id":0}})"; };
  EXPECT_EQ(*Find(Must(Make(With({.post = post(text)}), kConfig)), "tokenizer.ggml.add_bos_token"), GgufValue::Bool(false));
  const GgufValues both = Must(Make(With({.post = post(token("a") + "," + text + "," + token("<|end|>"))}), kConfig));
  EXPECT_EQ(*Find(both, "tokenizer.ggml.add_bos_token"), GgufValue::Bool(true));
  EXPECT_EQ(*Find(both, "tokenizer.ggml.add_eos_token"), GgufValue::Bool(true));
  Refuses({.post = post(token("b") + "," + text)}, Code::kRefused, "'b'");
  Refuses({.post = post(token("a") + "," + token("a") + "," + text)}, Code::kRefused, "post_processor");
  Refuses({.post = post("")}, Code::kRefused, "post_processor");
  Must(Make(With({.post = R"({"type":"Sequence","processors":[{"type":"ByteLevel"}]})"}), kConfig));
}

TEST(GgufTokenizer, VocabularyAndMergesOfQwen2Tokenizer) {
  const Files slow = {{"vocab.json", R"({"a":0,"b":1,"ab":2})"}, {"merges.txt", "#version: 0.2\r\na b\r\n\n"}, {"tokenizer_config.json", R"({"tokenizer_class":"Qwen2Tokenizer"})"}};
  const GgufValues values = Must(Make(slow, kConfig));
  EXPECT_EQ(*Find(values, "tokenizer.ggml.pre"), GgufValue::String("qwen2"));
  EXPECT_EQ(*Find(values, "tokenizer.ggml.merges"), GgufValue::Strings({"a b"}));
  Files other = slow;
  other["tokenizer_config.json"] = R"({"tokenizer_class":"QWenTokenizer"})";
  ExpectError(Make(other, kConfig), Code::kRefused, "gguf-tokenizer", {"QWenTokenizer"});
  other.erase("merges.txt");
  ExpectError(Make(other, kConfig), Code::kRefused, "gguf-tokenizer", {"merges.txt"});
  ExpectError(Make({}, kConfig), Code::kRefused, "gguf-tokenizer", {"tokenizer.json"});
}

TEST(GgufTokenizer, ChatTemplates) {
  const auto with = [](Files files) { return Make(With({}, std::move(files)), kConfig); };
  const GgufValues file = Must(with({{"chat_template.jinja", "é{% raw %}\r\n"}, {"tokenizer_config.json", R"({"chat_template":"other"})"}}));
  EXPECT_EQ(*Find(file, "tokenizer.chat_template"), GgufValue::String("é{% raw %}\r\n"));
  const GgufValues named = Must(with({{"tokenizer_config.json", R"({"chat_template":[{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]})"}}));
  EXPECT_EQ(*Find(named, "tokenizer.chat_template"), GgufValue::String("d"));
  EXPECT_EQ(*Find(named, "tokenizer.chat_template.tool_use"), GgufValue::String("t"));
  EXPECT_EQ(*Find(named, "tokenizer.chat_templates"), GgufValue::Strings({"tool_use"}));
  ExpectError(with({{"tokenizer_config.json", R"({"chat_template":[{"name":"a.b","template":"d"}]})"}}), Code::kMalformed, "gguf-tokenizer", {"a.b"});
}

TEST(GgufConfig, BackAndForth) {
  const GgufValues values = Must(Make(With({}), Config({{"rope_scaling", R"({"type":"yarn","factor":4.0,"original_max_position_embeddings":512})"}})));
  const Json config = Must(ConfigFromGguf(values, true));
  EXPECT_EQ(config.Find("rms_norm_eps")->text(), "1e-06");
  EXPECT_EQ(config.Find("rope_theta")->text(), "1000000.0");
  EXPECT_EQ(config.Find("rope_scaling")->Find("original_max_position_embeddings")->AsU64(), 512U);
  EXPECT_EQ(config.Find("vocab_size")->AsU64(), 8U);
  EXPECT_EQ(config.Find("eos_token_id")->AsU64(), 2U);
  EXPECT_TRUE(config.Find("pad_token_id")->is_null());
  Files files;
  for (const auto& [name, text] : Must(TokenizerFromGguf(values))) files.emplace(name, text);
  EXPECT_EQ(Must(Make(files, config.Dump())), values);
}

// Tokens put around a text, and templates by name: the tokenizer.json made of them says the same again.
TEST(GgufTokenizerBack, TokensAroundTheTextAndNamedTemplates) {
  const std::string post = R"({"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"a","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"<|end|>","type_id":0}}],"pair":[]})";
  const std::string settings = R"({"chat_template":[{"name":"default","template":"d"},{"name":"tool_use","template":"t"}]})";
  const GgufValues values = Must(Make(With({.post = post}, {{"tokenizer_config.json", settings}}), kConfig));
  Files files;
  for (const auto& [name, text] : Must(TokenizerFromGguf(values))) files.emplace(name, text);
  const Json processor = *Must(ParseJson(files.at("tokenizer.json"))).Find("post_processor");
  const std::string around = R"([{"SpecialToken":{"id":"a","type_id":0}},{"Sequence":{"id":"A","type_id":0}},{"SpecialToken":{"id":"<|end|>","type_id":0}})";
  EXPECT_EQ(*processor.Find("single"), Must(ParseJson(around + "]")));
  EXPECT_EQ(*processor.Find("pair"), Must(ParseJson(around + R"(,{"SpecialToken":{"id":"a","type_id":1}},{"Sequence":{"id":"B","type_id":1}},{"SpecialToken":{"id":"<|end|>","type_id":1}}])")));
  EXPECT_EQ(processor.Find("special_tokens")->Find("<|end|>")->Find("ids")->Dump(-1), "[2]");
  EXPECT_EQ(Must(Make(files, kConfig)), values);
}

TEST(GgufConfig, BrokenMetadata) {
  const GgufValues good = Must(Make(With({}), kConfig));
  const auto with = [&](const std::string& key, std::optional<GgufValue> value) {
    GgufValues values = good;
    std::erase_if(values, [&](const auto& each) { return each.first == key; });
    if (value.has_value()) values.emplace_back(key, *value);
    return ConfigFromGguf(values, true);
  };
  ExpectError(with("general.architecture", {}), Code::kMalformed, "gguf-metadata");
  ExpectError(with("general.architecture", GgufValue::U32(1)), Code::kMalformed, "gguf-metadata");
  ExpectError(with("general.architecture", GgufValue::String("llama")), Code::kRefused, "architecture", {"llama"});
  for (const char* key : {"qwen2.block_count", "qwen2.context_length", "qwen2.embedding_length", "qwen2.feed_forward_length", "qwen2.attention.head_count"}) {
    ExpectError(with(key, {}), Code::kMalformed, "gguf-metadata", {key});
    ExpectError(with(key, GgufValue::U32(0)), Code::kMalformed, "gguf-metadata", {key});
    ExpectError(with(key, GgufValue::U64(UINT64_MAX)), Code::kMalformed, "gguf-metadata", {key});
    ExpectError(with(key, GgufValue::I32s({1, 2})), Code::kMalformed, "gguf-metadata", {key});
    ExpectError(with(key, GgufValue::String("2")), Code::kMalformed, "gguf-metadata", {key});
  }
  ExpectError(with("qwen2.attention.head_count_kv", GgufValue::U32(3)), Code::kMalformed, "gguf-metadata");
  ExpectError(with("qwen2.attention.key_length", GgufValue::U32(64)), Code::kMalformed, "gguf-metadata", {"64"});
  ExpectError(with("qwen2.rope.dimension_count", GgufValue::U32(16)), Code::kMalformed, "gguf-metadata", {"16"});
  for (const float epsilon : {0.0F, -1.0F, NAN, INFINITY}) ExpectError(with("qwen2.attention.layer_norm_rms_epsilon", GgufValue::F32(epsilon)), Code::kMalformed, "gguf-metadata");
  ExpectError(with("qwen2.rope.scaling.type", GgufValue::String("longrope")), Code::kRefused, "gguf-metadata", {"longrope"});
  ExpectError(with("qwen2.rope.scaling.type", GgufValue::String("yarn")), Code::kMalformed, "gguf-metadata", {"factor"});
  ExpectError(with("tokenizer.ggml.tokens", {}), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.eos_token_id", GgufValue::U32(8)), Code::kMalformed, "gguf-metadata");
}

TEST(GgufTokenizerBack, BrokenMetadata) {
  const GgufValues good = Must(Make(With({}), kConfig));
  const auto with = [&](const std::string& key, std::optional<GgufValue> value) {
    GgufValues values = good;
    std::erase_if(values, [&](const auto& each) { return each.first == key; });
    if (value.has_value()) values.emplace_back(key, *value);
    return TokenizerFromGguf(values);
  };
  ExpectError(with("tokenizer.ggml.model", GgufValue::String("llama")), Code::kRefused, "gguf-tokenizer", {"llama"});
  ExpectError(with("tokenizer.ggml.pre", GgufValue::String("falcon")), Code::kRefused, "gguf-tokenizer", {"falcon"});
  ExpectError(with("tokenizer.ggml.tokens", GgufValue::U32(1)), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.merges", {}), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.merges", GgufValue::Strings({"ab"})), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.merges", GgufValue::Strings({""})), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.tokens", GgufValue::Strings({"a", "a"})), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.token_type", GgufValue::I32s({1})), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.ggml.bos_token_id", GgufValue::U32(99)), Code::kMalformed, "gguf-metadata");
  ExpectError(with("tokenizer.chat_template", GgufValue::String("\xff")), Code::kMalformed, "gguf-metadata");
}

// The text model of Qwen2-VL: its graph wants to know how the axes of images share a head's dimensions.
TEST(GgufMetadata, SectionsOfTheRopeOfImages) {
  for (const char* scaling : {R"({"type": "mrope", "mrope_section": [4, 6, 6]})", R"({"rope_type": "default", "mrope_section": [4, 6, 6]})"}) {
    for (const char* family : {"qwen2_vl", "qwen2_5_vl"}) {
      const GgufValues values = Must(Make(With({}), Config({{"model_type", fmt::format("\"{}\"", family)}, {"rope_scaling", scaling}})));
      EXPECT_EQ(*Find(values, "general.architecture"), GgufValue::String("qwen2vl"));
      EXPECT_EQ(*Find(values, "qwen2vl.rope.dimension_sections"), GgufValue::I32s({4, 6, 6, 0}));
      EXPECT_EQ(*Find(values, "qwen2vl.embedding_length"), GgufValue::U32(128));
      const Json back = Must(ConfigFromGguf(values, true));
      EXPECT_EQ(back.Find("model_type")->text(), "qwen2_vl");
      EXPECT_EQ(back.Find("rope_scaling")->Dump(-1), R"({"mrope_section": [4, 6, 6], "rope_type": "mrope", "type": "mrope"})");
    }
  }
  ExpectError(Make(With({}), Config({{"model_type", "\"qwen2_vl\""}, {"rope_scaling", R"({"type": "mrope", "mrope_section": [4, 6]})"}})), Code::kMalformed, "gguf-config", {"mrope_section"});
}

// Every fixture with a tokenizer of its own; that llama.cpp then tokenises alike was tried with llama-cpp-python 0.3.36.
TEST(GgufMetadata, Fixtures) {
  for (const auto& [fixture, pre] : std::vector<std::pair<std::string, std::string>>{
           {"autogptq-0.7.1-int4-g128-sym", "gpt-2"}, {"autogptq-0.7.1-moe-int4-g64", "gpt-2"}, {"gptqmodel-7.7-int4-g128", "qwen2"}, {"gptqmodel-7.7-qwen3-int4-g64", "gpt-2"}}) {
    const std::string folder = std::string(Q2C_FIXTURES) + "/" + fixture + "/checkpoint/";
    Files files;
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"}) {
      if (test::Exists(folder + name)) files.emplace(name, test::ReadWhole(folder + name));
    }
    const GgufValues values = Must(Make(files, test::ReadWhole(folder + "config.json"), 512));
    EXPECT_EQ(*Find(values, "tokenizer.ggml.pre"), GgufValue::String(pre)) << fixture;
    EXPECT_EQ(Find(values, "tokenizer.ggml.tokens")->size(), 512U);
    EXPECT_EQ(Find(values, "tokenizer.ggml.merges")->size(), 253U);
    EXPECT_EQ(*Find(values, "tokenizer.ggml.eos_token_id"), GgufValue::U32(2));
    EXPECT_EQ(Find(values, "tokenizer.ggml.token_type")->AsI64(1), 3);
    EXPECT_EQ(Find(values, "tokenizer.ggml.token_type")->AsI64(3), 1);
    const Json config = Must(ConfigFromGguf(values, true));
    const Json original = Must(ParseJson(test::ReadWhole(folder + "config.json")));
    for (const auto& [key, value] : config.members()) {
      const Json* before = original.Find(key);
      if (before == nullptr || key == "max_window_layers" || key == "sliding_window" || key == "transformers_version") continue;
      EXPECT_EQ(value, *before) << fixture << " " << key;
    }
  }
}

}  // namespace
}  // namespace q2c
