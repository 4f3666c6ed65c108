// Families that are stored under other names or with several linears in one: the first
// generation's c_attn, converted, gives the very bytes that the linears stored apart give.
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>

#include "convert/plan.h"
#include "tests/unit/support/converted.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"
#include "verify/compare.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;
using test::StoredTensor;

const std::string kLayer = "model.layers.0.";
const std::string kOldLayer = "transformer.h.0.";

// Rows (of `row` bytes, one a line of the first dimension) side by side.
StoredTensor SideBySide(const std::string& name, const std::vector<StoredTensor>& parts) {
  StoredTensor joined = {name, parts[0].dtype, parts[0].shape, {}};
  const bool vector = joined.shape.size() == 1;
  const uint64_t rows = vector ? 1 : joined.shape[0];
  joined.shape.back() = 0;
  for (const StoredTensor& part : parts) joined.shape.back() += part.shape.back();
  for (uint64_t r = 0; r < rows; ++r) {
    for (const StoredTensor& part : parts) {
      const size_t row = part.bytes.size() / rows;
      joined.bytes.insert(joined.bytes.end(), part.bytes.begin() + static_cast<std::ptrdiff_t>(r * row), part.bytes.begin() + static_cast<std::ptrdiff_t>((r + 1) * row));
    }
  }
  return joined;
}

// The same model as first-generation Qwen writes it. All outputs are multiples of 32 here, so
// the packed zero fields of three linears lie side by side as they are.
test::TinyModel AsFirstGeneration(test::TinyModel model) {
  const std::string attention = kLayer + "self_attn.";
  for (const char* part : {".qweight", ".qzeros", ".scales", ".bias"}) {
    std::vector<StoredTensor> pieces;
    for (const char* linear : {"q_proj", "k_proj", "v_proj"}) {
      pieces.push_back(model.At(attention + linear + part));
      model.tensors.erase(attention + linear + part);
    }
    model.Add(SideBySide(kOldLayer + "attn.c_attn" + part, pieces));
  }
  model.Rename(attention + "q_proj.g_idx", kOldLayer + "attn.c_attn.g_idx");
  for (const char* linear : {"k_proj", "v_proj"}) model.tensors.erase(attention + linear + ".g_idx");
  const std::vector<std::pair<std::string, std::string>> linears = {{"self_attn.o_proj", "attn.c_proj"}, {"mlp.up_proj", "mlp.w1"}, {"mlp.gate_proj", "mlp.w2"}, {"mlp.down_proj", "mlp.c_proj"}};
  for (const auto& [ours, theirs] : linears) {
    for (const char* part : {".qweight", ".qzeros", ".scales", ".g_idx", ".bias"}) model.Rename(kLayer + ours + part, kOldLayer + theirs + part);
  }
  model.Rename(kLayer + "input_layernorm.weight", kOldLayer + "ln_1.weight");
  model.Rename(kLayer + "post_attention_layernorm.weight", kOldLayer + "ln_2.weight");
  model.Rename("model.norm.weight", "transformer.ln_f.weight");
  model.Rename("model.embed_tokens.weight", "transformer.wte.weight");
  auto config = std::move(model.config);
  model.config = {{"architectures", R"(["QWenLMHeadModel"])"}, {"model_type", "\"qwen\""}, {"hidden_size", config["hidden_size"]}, {"intermediate_size", std::to_string(2 * std::stoi(config["intermediate_size"]))},
                  {"num_hidden_layers", "1"}, {"num_attention_heads", config["num_attention_heads"]}, {"kv_channels", "256"}, {"vocab_size", "32"}, {"layer_norm_epsilon", "1e-06"},
                  {"rotary_emb_base", "1000000"}, {"rotary_pct", "1.0"}, {"seq_length", "2048"}, {"max_position_embeddings", "8192"}, {"no_bias", "true"}, {"use_dynamic_ntk", "true"},
                  {"tie_word_embeddings", "false"}, {"torch_dtype", "\"float16\""}};
  return model;
}

class FirstGeneration : public testing::Test {
 protected:
  static JobOptions Job(const std::string& in, const std::string& out, const std::string& target) {
    JobOptions options = test::TinyJob(in, out, target);
    options.allow_rounding = target.starts_with("dense-") || target == "mlx";
    return options;
  }
  const test::TempFolder folder_;
  const std::string apart_ = folder_ / "apart";
  const std::string fused_ = folder_ / "fused";
  const std::string out_ = folder_ / "out";
};

TEST_F(FirstGeneration, SplitIsWhatIsStoredApart) {
  int made = 0;
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    for (const uint32_t minus : {0U, 1U}) {
      test::TinyModel model = test::MakeTiny({.bits = bits, .group_size = 64, .minus = minus, .symmetric = false, .wide = true});
      if (minus == 0) model.quant["checkpoint_format"] = "\"gptq_v2\"";
      std::filesystem::remove_all(apart_);
      std::filesystem::remove_all(fused_);
      model.Write(apart_);
      AsFirstGeneration(model).Write(fused_);
      for (const char* target : {"transformers-4.x", "gptqmodel-v2", "optimum-1.19", "compressed-tensors", "awq", "mlx", "dense-fp16", "dense-fp32"}) {
        if (bits != 4 && target == std::string("awq")) continue;
        SCOPED_TRACE(fmt::format("{} bits, less {}, {}", bits, minus, target));
        const auto expected = test::Converted(Job(apart_, out_ + "a", target));
        const auto split = test::Converted(Job(fused_, out_ + "b", target));
        EXPECT_EQ(expected, split);
        std::filesystem::remove_all(out_ + "a");
        std::filesystem::remove_all(out_ + "b");
        ++made;
      }
    }
  }
  EXPECT_GT(made, 50);
}

TEST_F(FirstGeneration, PlanSaysWhatIsCutAndWhy) {
  AsFirstGeneration(test::MakeTiny({.group_size = 64, .wide = true})).Write(fused_);
  const PlannedJob job = test::PlanOf(fused_);
  const Plan& plan = job.plan;
  EXPECT_EQ(plan.model->class_name, "Qwen2ForCausalLM");
  EXPECT_EQ(plan.model->architecture.model_type, "qwen2");
  const PlannedTensor* bias = test::FindPlanned(plan, kLayer + "self_attn.k_proj.bias");
  ASSERT_NE(bias, nullptr);
  EXPECT_EQ(bias->shape, Shape{256});
  EXPECT_EQ(plan.InputOffset(*bias), 512U);
  EXPECT_EQ(bias->exactness, Exactness::kSameBytes);
  EXPECT_NE(bias->reason.find("rows 256 to 511 of 'transformer.h.0.attn.c_attn.bias'"), std::string::npos) << bias->reason;
  const PlannedTensor* zeros = test::FindPlanned(plan, kLayer + "self_attn.v_proj.qzeros");
  ASSERT_NE(zeros, nullptr);
  EXPECT_EQ(zeros->action, "split");
  EXPECT_EQ(zeros->exactness, Exactness::kSameCodes);
  EXPECT_TRUE(test::HasNote(plan, "first-generation-length"));
  for (const auto& [key, value] : std::map<std::string, std::string>{{"model_type", "\"qwen2\""}, {"architectures", "[\"Qwen2ForCausalLM\"]"}, {"intermediate_size", "512"}, {"num_key_value_heads", "1"},
                                                                     {"rms_norm_eps", "1e-06"}, {"rope_theta", "1000000.0"}, {"max_position_embeddings", "2048"}, {"hidden_act", "\"silu\""}}) {
    ASSERT_NE(plan.config.Find(key), nullptr) << key;
    EXPECT_EQ(plan.config.Find(key)->Dump(-1), value) << key;
  }
  for (const char* gone : {"seq_length", "layer_norm_epsilon", "rotary_emb_base", "kv_channels", "no_bias", "use_dynamic_ntk"}) EXPECT_EQ(plan.config.Find(gone), nullptr) << gone;
  const std::string explained = Must(ExplainTensor(plan, "transformer.h.0.attn.c_attn.qweight"));
  for (const char* name : {"q_proj.qweight", "k_proj.qweight", "v_proj.qweight"}) EXPECT_NE(explained.find(name), std::string::npos) << explained;
}

TEST_F(FirstGeneration, WhatQwen2CannotSayIsRefused) {
  const std::vector<std::tuple<std::string, std::string, Code, std::string>> cases = {
      {"rotary_pct", "0.5", Code::kRefused, "architecture"},     {"no_bias", "false", Code::kRefused, "architecture"},  {"kv_channels", "128", Code::kRefused, "architecture"},
      {"visual", "{\"width\": 1664}", Code::kRefused, "architecture"}, {"intermediate_size", "1023", Code::kMalformed, "config-size"}, {"scale_attn_weights", "false", Code::kRefused, "architecture"}};
  for (const auto& [key, value, code, id] : cases) {
    test::TinyModel model = AsFirstGeneration(test::MakeTiny({.group_size = 64, .wide = true}));
    model.config[key] = value;
    std::filesystem::remove_all(fused_);
    model.Write(fused_);
    ExpectError(PlanJob(test::TinyJob(fused_, "")), code, id, {key});
  }
}

TEST_F(FirstGeneration, EarlyNamesOfTheConfig) {
  test::TinyModel model = AsFirstGeneration(test::MakeTiny({.group_size = 64, .wide = true}));
  const auto rename = [&](const char* from, const char* to) {
    model.config[to] = model.config.at(from);
    model.config.erase(from);
  };
  rename("hidden_size", "n_embd");
  rename("num_hidden_layers", "n_layer");
  rename("num_attention_heads", "n_head");
  rename("intermediate_size", "ffn_hidden_size");
  rename("vocab_size", "padded_vocab_size");
  model.config["vocab_size"] = "31";
  model.Write(fused_);
  const PlannedJob job = test::PlanOf(fused_);
  EXPECT_EQ(job.plan.config.Find("vocab_size")->text(), "32");
  EXPECT_EQ(job.plan.config.Find("intermediate_size")->text(), "512");
  for (const char* gone : {"n_embd", "n_layer", "n_head", "ffn_hidden_size", "padded_vocab_size"}) EXPECT_EQ(job.plan.config.Find(gone), nullptr) << gone;
}

// A tiny Qwen2-VL: the tiny language model and a vision tower of one block.
test::TinyModel WithVision(const std::string& visual, const std::string& text) {
  test::TinyModel model = test::MakeTiny();
  std::vector<std::string> names;
  for (const auto& [name, tensor] : model.tensors) names.push_back(name);
  for (const std::string& name : names) {
    if (name.starts_with("model.")) model.Rename(name, text + name.substr(6));
  }
  uint16_t value = 0x2100;
  const auto add = [&](const std::string& name, const std::vector<uint64_t>& shape) {
    uint64_t count = 1;
    for (const uint64_t dim : shape) count *= dim;
    model.Add({visual + name, "F16", shape, test::BytesOfWords(std::vector<uint16_t>(count, value++))});
  };
  const auto linear = [&](const std::string& name, uint64_t out, uint64_t in) {
    add(name + ".weight", {out, in});
    add(name + ".bias", {out});
  };
  add("patch_embed.proj.weight", {8, 3, 2, 2, 2});
  for (const char* norm : {"blocks.0.norm1", "blocks.0.norm2", "merger.ln_q"}) {
    add(std::string(norm) + ".weight", {8});
    add(std::string(norm) + ".bias", {8});
  }
  linear("blocks.0.attn.qkv", 24, 8);
  linear("blocks.0.attn.proj", 8, 8);
  linear("blocks.0.mlp.fc1", 16, 8);
  linear("blocks.0.mlp.fc2", 8, 16);
  linear("merger.mlp.0", 32, 32);
  linear("merger.mlp.2", 64, 32);
  model.config["architectures"] = R"(["Qwen2VLForConditionalGeneration"])";
  model.config["model_type"] = "\"qwen2_vl\"";
  model.config["rope_scaling"] = R"({"type": "mrope", "mrope_section": [4, 6, 6]})";
  model.config["vision_config"] = R"({"depth": 1, "embed_dim": 8, "mlp_ratio": 2, "num_heads": 2, "hidden_size": 64, "patch_size": 2})";
  return model;
}

class Vision : public FirstGeneration {};

TEST_F(Vision, BothNestingsComeOutAsTheFirst) {
  WithVision("visual.", "model.").Write(apart_);
  WithVision("model.visual.", "model.language_model.").Write(fused_);
  for (const char* target : {"transformers-4.x", "transformers-5.x", "compressed-tensors", "awq", "dense-fp32"}) {
    SCOPED_TRACE(target);
    const auto flat = test::Converted(test::TinyJob(apart_, out_ + "a", target));
    const auto nested = test::Converted(test::TinyJob(fused_, out_ + "b", target));
    EXPECT_EQ(flat, nested);
    EXPECT_TRUE(flat.contains("visual.blocks.0.attn.qkv.weight") && flat.contains(kLayer + "self_attn.q_proj.bias"));
    if (target == std::string("transformers-4.x")) {
      const Checkpoint source = Must(Checkpoint::Open(apart_, Links::kRefuse));
      for (const auto& [name, bytes] : flat) {
        if (!name.starts_with("visual.")) continue;
        EXPECT_EQ(bytes, Must(source.ReadWhole(*source.Find(name)))) << name;
      }
    }
    std::filesystem::remove_all(out_ + "a");
    std::filesystem::remove_all(out_ + "b");
  }
}

TEST_F(Vision, LoadersAreToldToLeaveTheTowerAlone) {
  WithVision("visual.", "model.").Write(apart_);
  const PlannedJob packed = test::PlanOf(apart_, "compressed-tensors");
  const std::string ignored = packed.plan.config.Find("quantization_config")->Find("ignore")->Dump(-1);
  // Under the flat names and under those of transformers 4.52 and newer, which else takes the tower for packed.
  for (const char* name : {"\"visual.blocks.0.attn.qkv\"", "\"model.visual.blocks.0.attn.qkv\"", "\"visual.merger.mlp.2\"", "\"model.visual.merger.mlp.2\"", "\"lm_head\""}) {
    EXPECT_NE(ignored.find(name), std::string::npos) << name << " in " << ignored;
  }
  const PlannedJob awq = test::PlanOf(apart_, "awq");
  EXPECT_NE(awq.plan.config.Find("quantization_config")->Find("modules_to_not_convert")->Dump(-1).find("visual.blocks.0.mlp.fc1"), std::string::npos);
}

TEST_F(Vision, GgufTakesTheTextModelAlone) {
  WithVision("visual.", "model.").Write(apart_);
  ExpectError(PlanJob(test::TinyJob(apart_, "", "gguf")), Code::kRefused, "vision-gguf", {"--text-only"});
  JobOptions options = test::TinyJob(apart_, "", "transformers-5.x");
  options.text_only = true;
  ExpectError(PlanJob(options), Code::kRefused, "text-only", {"transformers-5.x"});
  options = test::TinyJob(apart_, "", "dense-fp32");
  EXPECT_TRUE(Must(PlanJob(options)).model->vision.empty());
}

TEST_F(Vision, WhatIsMissingOrQuantisedIsSaid) {
  test::TinyModel model = WithVision("visual.", "model.");
  model.tensors.erase("visual.merger.mlp.0.bias");
  model.Write(apart_);
  ExpectError(PlanJob(test::TinyJob(apart_, "")), Code::kMalformed, "bias-missing", {"visual.merger.mlp.0.bias"});
  std::filesystem::remove_all(apart_);
  model = WithVision("visual.", "model.");
  model.tensors.erase("visual.patch_embed.proj.weight");
  model.Write(apart_);
  ExpectError(PlanJob(test::TinyJob(apart_, "")), Code::kMalformed, "tensor-missing", {"visual.patch_embed.proj.weight"});
}

// The comparison convicts pieces that are not the source's.
class SplitCompared : public FirstGeneration {
 protected:
  void SetUp() override {
    AsFirstGeneration(test::MakeTiny({.group_size = 64, .symmetric = false, .wide = true})).Write(fused_);
    JobOptions job = test::TinyJob(fused_, out_);
    job.verify = VerifyLevel::kNone;
    Must(RunJob(Must(PlanJob(job)), job));
    manifest_ = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
  }
  Result<Compared> Run() {
    const Checkpoint source = Must(Checkpoint::Open(fused_, Links::kRefuse));
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    return CompareExact(source, output, manifest_, {1, nullptr, nullptr});
  }
  ManifestLinear& Linear(const std::string& name) { return *std::ranges::find(manifest_.linears, kLayer + "self_attn." + name, &ManifestLinear::name); }
  ManifestTensor& Tensor(const std::string& name) { return *std::ranges::find(manifest_.tensors, kLayer + "self_attn." + name, &ManifestTensor::name); }
  Manifest manifest_;
};

TEST_F(SplitCompared, SoundOnePasses) {
  const Compared compared = Must(Run());
  EXPECT_EQ(compared.linears, 7U);
  EXPECT_EQ(compared.tensors, 8U);  // embedding, head, three norms, three biases
  EXPECT_EQ(Linear("v_proj").source_outputs.first, 512U);
  EXPECT_EQ(Linear("v_proj").source_outputs.of, 768U);
  EXPECT_EQ(Tensor("k_proj.bias").source_rows.first, 256U);
}

TEST_F(SplitCompared, PiecesInTheWrongPlace) {
  std::swap(Linear("q_proj").source_outputs, Linear("k_proj").source_outputs);
  ExpectError(Run(), Code::kFindings, "exact-linear", {"self_attn.k_proj"});
}

TEST_F(SplitCompared, PiecesThatAreMissing) {
  std::erase_if(manifest_.linears, [](const ManifestLinear& linear) { return linear.name.ends_with("k_proj"); });
  ExpectError(Run(), Code::kFindings, "exact-lost", {"c_attn", "256"});
}

TEST_F(SplitCompared, LastPieceThatIsMissing) {
  std::erase_if(manifest_.linears, [](const ManifestLinear& linear) { return linear.name.ends_with("v_proj"); });
  ExpectError(Run(), Code::kFindings, "exact-lost", {"512 to 767"});
}

TEST_F(SplitCompared, RowsOfABiasInTheWrongPlace) {
  std::swap(Tensor("q_proj.bias").source_rows, Tensor("k_proj.bias").source_rows);
  ExpectError(Run(), Code::kFindings, "exact-tensor", {"bias"});
}

TEST_F(SplitCompared, RowsBeyondTheSource) {
  for (const char* name : {"q_proj.bias", "k_proj.bias", "v_proj.bias"}) Tensor(name).source_rows.of = 1024;
  ExpectError(Run(), Code::kFindings, "exact-lost", {"c_attn.bias"});
}

}  // namespace
}  // namespace q2c
