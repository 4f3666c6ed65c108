// quantization_config of the layouts that are not GPTQ: the whole text, key by key.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class OthersConfig : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const test::TinyModel& model, const std::string& target, const std::string& layout = "") {
    model.Write(folder_.path());
    JobOptions options = test::TinyJob(folder_.path(), "", target);
    options.allow_rounding = true;
    if (!layout.empty()) options.layout = layout;
    return PlanJob(options);
  }
  std::string Block(const test::TinyModel& model, const std::string& target, const std::string& layout = "", const std::string& key = "quantization_config") {
    const PlannedJob job = Must(Plan(model, target, layout));
    const Json* block = job.plan.config.Find(key);
    return block == nullptr ? "absent" : block->Dump(-1);
  }
  // Gives one linear other bits or groups than the rest have.
  static void Replace(test::TinyModel* model, const std::string& linear, const test::TinyModel& other) {
    for (const char* suffix : {".qweight", ".qzeros", ".scales", ".g_idx"}) model->Add(other.tensors.at(linear + suffix));
    model->quant["dynamic"] = R"({"+:.*up_proj": {}})";
  }
  const test::TempFolder folder_;
};

std::string Same(const std::string& text) { return Must(ParseJson(text)).Dump(-1); }

TEST_F(OthersConfig, CompressedTensors) {
  EXPECT_EQ(Block(test::MakeTiny(), "compressed-tensors"), Same(R"({"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
    "config_groups": {"group_0": {"targets": ["Linear"], "format": "pack-quantized",
      "weights": {"num_bits": 4, "type": "int", "symmetric": true, "strategy": "group", "group_size": 32, "dynamic": false}, "input_activations": null, "output_activations": null}},
    "ignore": ["lm_head"], "kv_cache_scheme": null, "global_compression_ratio": null})"));
  const Json asymmetric = Must(ParseJson(Block(test::MakeTiny({.bits = 3, .symmetric = false}), "compressed-tensors")));
  EXPECT_EQ(asymmetric.Find("config_groups")->Find("group_0")->Find("weights")->Dump(-1),
            Same(R"({"num_bits": 3, "type": "int", "symmetric": false, "strategy": "group", "group_size": 32, "dynamic": false})"));
}

// GPTQModel's `dynamic` is written from the tensors, whatever the config said; optimum's loaders cannot be told.
TEST_F(OthersConfig, GptqNamesWhatDiffersFromTheSettingsOfMost) {
  test::TinyModel model = test::MakeTiny({.bits = 8});
  Replace(&model, "model.layers.0.mlp.up_proj", test::MakeTiny({.bits = 4, .group_size = 16}));
  model.quant["bits"] = "4";
  model.quant["group_size"] = "16";
  model.quant["dynamic"] = R"({"+:.*(self_attn|gate_proj|down_proj).*": {"bits": 8, "group_size": 32}, "-:.*lm_head": {}})";
  model.quant["meta"] = R"({"quantizer": ["gptqmodel:7.7.0"], "damp_percent": 0.05})";
  const Json block = Must(ParseJson(Block(model, "gptqmodel")));
  EXPECT_EQ(block.Find("bits")->Dump(-1), "8");
  EXPECT_EQ(block.Find("group_size")->Dump(-1), "32");
  EXPECT_EQ(block.Find("dynamic")->Dump(-1), Same(R"({"+:^model\\.layers\\.[0-9]+\\.mlp\\.up_proj$": {"bits": 4, "group_size": 16}})"));
  EXPECT_EQ(block.Find("meta")->Dump(-1), Same(model.quant["meta"]));
  ExpectError(Plan(model, "transformers-5.x"), Code::kRefused, "quant-mixed", {"mlp.up_proj", "gptqmodel"});
}

TEST_F(OthersConfig, CompressedTensorsOfOneGroup) {
  test::TinyModel model = test::MakeTiny({.group_size = 512, .wide = true});
  model.quant["group_size"] = "-1";
  const Json block = Must(ParseJson(Block(model, "compressed-tensors")));
  EXPECT_EQ(block.Find("config_groups")->Find("group_0")->Find("weights")->Dump(-1),
            Same(R"({"num_bits": 4, "type": "int", "symmetric": true, "strategy": "channel", "group_size": null, "dynamic": false})"));
}

TEST_F(OthersConfig, CompressedTensorsOfSeveralKindsNamesEachLinear) {
  test::TinyModel model = test::MakeTiny();
  Replace(&model, "model.layers.0.mlp.up_proj", test::MakeTiny({.bits = 8}));
  const Json groups = *Must(ParseJson(Block(model, "compressed-tensors"))).Find("config_groups");
  ASSERT_EQ(groups.members().size(), 2U);
  EXPECT_EQ(groups.Find("group_0")->Find("weights")->Find("num_bits")->text(), "4");
  EXPECT_EQ(groups.Find("group_0")->Find("targets")->items().size(), 6U);
  EXPECT_EQ(groups.Find("group_1")->Find("targets")->Dump(-1), Same(R"(["model.layers.0.mlp.up_proj"])"));
  EXPECT_EQ(groups.Find("group_1")->Find("weights")->Find("num_bits")->text(), "8");
  ExpectError(Plan(model, "awq"), Code::kRefused, "layout-cannot-hold");  // 8 bits
}

TEST_F(OthersConfig, Awq) {
  for (const auto& [layout, version] : std::vector<std::pair<std::string, std::string>>{{"", "gemm"}, {"awq-gemv", "gemv"}, {"awq-gemv-fast", "gemv_fast"}}) {
    EXPECT_EQ(Block(test::MakeTiny({.wide = true}), "awq", layout), Same(fmt::format(R"({{"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": true, "version": "{0}", "format": "{0}", "modules_to_not_convert": null}})", version)));
  }
  test::TinyModel model = test::MakeTiny();
  Replace(&model, "model.layers.0.mlp.up_proj", test::MakeTiny({.group_size = 64}));
  ExpectError(Plan(model, "awq"), Code::kRefused, "quant-mixed", {"compressed-tensors"});
}

TEST_F(OthersConfig, Marlin) {
  const test::TinyModel model = test::MakeTiny({.group_size = 128, .wide = true});
  const std::string want = Same(R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true, "checkpoint_format": "marlin", "is_marlin_format": true})");
  EXPECT_EQ(Block(model, "marlin"), want);
  const PlannedJob job = Must(Plan(model, "marlin"));
  ASSERT_TRUE(job.plan.quantize_config.has_value());
  EXPECT_EQ(job.plan.quantize_config->Dump(-1), want);  // AutoGPTQ looks there
  EXPECT_TRUE(test::HasNote(job.plan, "target"));
}

TEST_F(OthersConfig, Mlx) {
  for (const char* key : {"quantization", "quantization_config"}) {
    EXPECT_EQ(Block(test::MakeTiny(), "mlx", "", key), Same(R"({"group_size": 32, "bits": 4, "mode": "affine"})"));
    EXPECT_EQ(Block(test::MakeTiny({.group_size = 512, .wide = true}), "mlx", "", key), Same(R"({"group_size": 128, "bits": 4, "mode": "affine"})"));
  }
  test::TinyModel model = test::MakeTiny();
  Replace(&model, "model.layers.0.mlp.up_proj", test::MakeTiny({.bits = 8, .group_size = 64}));
  EXPECT_EQ(Block(model, "mlx"), Same(R"({"group_size": 32, "bits": 4, "mode": "affine", "model.layers.0.mlp.up_proj": {"group_size": 64, "bits": 8, "mode": "affine"}})"));
}

TEST_F(OthersConfig, DenseHasNone) {
  test::TinyModel model = test::MakeTiny();
  model.quantize_config = model.quant;
  for (const char* target : {"dense-fp32", "dense-fp16"}) {
    const PlannedJob job = Must(Plan(model, target));
    EXPECT_EQ(job.plan.config.Find("quantization_config"), nullptr);
    EXPECT_EQ(job.plan.config.Find("quantization"), nullptr);
    EXPECT_FALSE(job.plan.quantize_config.has_value());
  }
}

TEST_F(OthersConfig, TheOldBlockIsNotRepeatedInTheManifest) {
  test::TinyModel model = test::MakeTiny();
  model.quant["dataset"] = R"(["a secret text"])";
  for (const char* target : {"awq", "compressed-tensors", "mlx", "dense-fp32"}) {
    const PlannedJob job = Must(Plan(model, target));
    EXPECT_EQ(EditsJson(job.plan.edits).Dump().find("secret"), std::string::npos) << target;
    EXPECT_EQ(job.plan.config.Dump().find("secret"), std::string::npos) << target;
  }
}

TEST_F(OthersConfig, FloatLinearsAreNamed) {
  const std::string in = std::string(Q2C_FIXTURES) + "/autogptq-0.7.1-moe-int4-g64/checkpoint";
  const PlannedJob ct = test::PlanOf(in, "compressed-tensors");
  EXPECT_EQ(ct.plan.config.Find("quantization_config")->Find("ignore")->Dump(-1),
            Same(R"(["lm_head", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate", "model.layers.1.mlp.gate", "model.layers.1.mlp.shared_expert_gate"])"));
  const PlannedJob awq = test::PlanOf(in, "awq");
  EXPECT_EQ(awq.plan.config.Find("quantization_config")->Find("modules_to_not_convert")->Dump(-1),
            Same(R"(["model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate", "model.layers.1.mlp.gate", "model.layers.1.mlp.shared_expert_gate"])"));
}

}  // namespace
}  // namespace q2c
