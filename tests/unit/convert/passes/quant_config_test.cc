// quantization_config: what the tensors show, not what the config said.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class QuantConfigPass : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const test::TinyModel& model, const std::string& target = "transformers-4.x") {
    model.Write(folder_.path());
    return PlanJob(test::TinyJob(folder_.path(), "", target));
  }
  std::string Out(const test::TinyModel& model, const std::string& key) {
    const PlannedJob job = Must(Plan(model));
    EXPECT_EQ(*job.plan.config.Find("quantization_config"), (*job.plan.quantize_config));
    const Json* value = (*job.plan.quantize_config).Find(key);
    return value == nullptr ? "absent" : value->Dump(-1);
  }
  static void SetGroups(test::TinyModel* model, const std::string& linear, const std::vector<int32_t>& groups) {
    model->At(linear + ".g_idx").bytes = test::BytesOfWords(groups);
  }
  const test::TempFolder folder_;
};

TEST_F(QuantConfigPass, ActOrderIsWhatGroupIndexShows) {
  test::TinyModel model = test::MakeTiny();
  model.quant["desc_act"] = "true";  // said, but every g_idx is in order
  EXPECT_EQ(Out(model, "desc_act"), "false");
  model.quant["desc_act"] = "false";  // not said, but one is scattered
  std::vector<int32_t> groups(64);
  for (size_t k = 0; k < 64; ++k) groups[k] = static_cast<int32_t>(k % 2);
  SetGroups(&model, "model.layers.0.mlp.up_proj", groups);
  EXPECT_EQ(Out(model, "desc_act"), "true");
  EXPECT_EQ(Out(model, "act_group_aware"), "false");
}

TEST_F(QuantConfigPass, GroupIndexThatIsNoReorderingIsRefused) {
  test::TinyModel model = test::MakeTiny();
  std::vector<int32_t> groups(64, 0);
  groups[0] = 1;
  SetGroups(&model, "model.layers.0.mlp.up_proj", groups);
  ExpectError(Plan(model), Code::kMalformed, "g-idx", {"up_proj.g_idx", "63", "32"});
  groups[0] = 2;
  SetGroups(&model, "model.layers.0.mlp.up_proj", groups);
  ExpectError(Plan(model), Code::kMalformed, "quant-value", {"up_proj.g_idx"});
}

TEST_F(QuantConfigPass, MissingGroupIndexIsMadeUnlessItWasNeeded) {
  test::TinyModel model = test::MakeTiny();
  for (const test::TinyLinear& linear : test::TinyLinears()) model.tensors.erase(linear.name + ".g_idx");
  const PlannedJob job = Must(Plan(model));
  EXPECT_EQ(test::FindPlanned(job.plan, "model.layers.0.mlp.up_proj.g_idx")->action, "make");
  model.quant["desc_act"] = "true";
  ExpectError(Plan(model), Code::kMalformed, "g-idx-missing");
}

TEST_F(QuantConfigPass, SymmetryIsWhatTheZerosShow) {
  test::TinyModel model = test::MakeTiny();
  model.quant["sym"] = "false";
  EXPECT_EQ(Out(model, "sym"), "true");
  test::TinyModel asymmetric = test::MakeTiny({.symmetric = false});
  asymmetric.quant["sym"] = "true";
  EXPECT_EQ(Out(asymmetric, "sym"), "false");
  // Constant, but not in the middle: no symmetry.
  test::TinyModel one = test::MakeTiny({.symmetric = false});
  one.At("model.layers.0.mlp.up_proj.qzeros").bytes = test::Bytes(96, std::byte{0x55});
  EXPECT_EQ(Out(one, "sym"), "false");
}

TEST_F(QuantConfigPass, FormatIsSaidUnderBothNames) {
  EXPECT_EQ(Out(test::MakeTiny(), "checkpoint_format"), "\"gptq\"");
  EXPECT_EQ(Out(test::MakeTiny({.minus = 0}), "format"), "\"gptq\"");  // repacked
  test::TinyModel zero = test::MakeTiny({.minus = 0, .symmetric = false});
  zero.quant["checkpoint_format"] = "\"gptq_v2\"";
  test::PutZeroField(&zero.At("model.layers.0.mlp.up_proj.qzeros").bytes, 4, 96, 1, 50, 0);
  ExpectError(Plan(zero), Code::kRefused, "layout-cannot-hold", {"up_proj", "transformers-5.x"});
  const PlannedJob job = Must(Plan(zero, "transformers-5.x"));
  EXPECT_EQ((*job.plan.quantize_config).Find("format")->text(), "gptq_v2");
  EXPECT_EQ((*job.plan.quantize_config).Find("checkpoint_format")->text(), "gptq_v2");
}

TEST_F(QuantConfigPass, KeysOfTheMakerGoOthersStay) {
  test::TinyModel model = test::MakeTiny();
  const std::map<std::string, std::string> gone = {{"is_marlin_format", "false"}, {"model_name_or_path", "\"x\""}, {"model_file_base_name", "\"model\""}, {"disable_exllama", "true"},
                                                   {"dataset", "[\"a text\"]"}, {"tokenizer", "\"tok\""}, {"backend", "null"}, {"cache_dir", "\"/home/me/cache\""}};
  for (const auto& [key, value] : gone) model.quant[key] = value;
  model.quant["damp_percent"] = "0.01";
  model.quant["meta"] = R"({"quantizer": ["gptqmodel:7.7.0"], "uri": "https://github.com/x/y", "log": "/tmp/log"})";
  const PlannedJob job = Must(Plan(model));
  for (const auto& [key, value] : gone) EXPECT_EQ((*job.plan.quantize_config).Find(key), nullptr) << key;
  EXPECT_EQ((*job.plan.quantize_config).Find("damp_percent")->text(), "0.01");
  EXPECT_EQ((*job.plan.quantize_config).Find("meta")->Dump(-1), R"({"quantizer": ["gptqmodel:7.7.0"], "uri": "https://github.com/x/y"})");
}

TEST_F(QuantConfigPass, BothFilesSayTheSame) {
  test::TinyModel model = test::MakeTiny();
  model.quant.clear();
  model.quantize_config = {{"bits", "4"}, {"group_size", "32"}, {"desc_act", "true"}, {"sym", "true"}, {"damp_percent", "0.1"}};
  const PlannedJob job = Must(Plan(model));
  std::map<std::string, std::string> texts;
  for (const TextFile& text : job.plan.texts) texts[text.name] = text.content;
  const Json config = Must(ParseJson(texts.at("config.json")));
  const Json separate = Must(ParseJson(texts.at("quantize_config.json")));
  EXPECT_EQ(*config.Find("quantization_config"), separate);
  EXPECT_EQ(separate.Find("quant_method")->text(), "gptq");
  EXPECT_EQ(separate.Find("damp_percent")->text(), "0.1");
}

TEST_F(QuantConfigPass, OneGroupKeepsWhatTheConfigSays) {
  test::TinyModel model = test::MakeTiny({.group_size = 128});  // larger than every linear
  EXPECT_EQ(Out(model, "group_size"), "128");
  model.quant["group_size"] = "-1";
  EXPECT_EQ(Out(model, "group_size"), "-1");
  model.quant.erase("group_size");
  EXPECT_EQ(Out(model, "group_size"), "-1");
}

TEST_F(QuantConfigPass, FloatLinearInABlockGetsAList) {
  test::TinyModel model = test::MakeTiny();
  EXPECT_EQ(Out(model, "modules_in_block_to_quantize"), "absent");
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) model.tensors.erase(std::string("model.layers.0.mlp.down_proj.") + part);
  model.Add({"model.layers.0.mlp.down_proj.weight", "F16", {64, 96}, test::Bytes(2 * 64 * 96)});
  const std::string list = Out(model, "modules_in_block_to_quantize");
  EXPECT_NE(list.find("mlp.up_proj"), std::string::npos);
  EXPECT_EQ(list.find("down_proj"), std::string::npos);
}

TEST(QuantConfigMoe, RoutersAreLeftOutOfTheList) {
  const PlannedJob job = test::PlanOf(std::string(Q2C_FIXTURES) + "/autogptq-0.7.1-moe-int4-g64/checkpoint");
  const Json* list = (*job.plan.quantize_config).Find("modules_in_block_to_quantize");
  ASSERT_NE(list, nullptr);
  std::vector<std::string> names;
  for (const Json& group : list->items()) {
    for (const Json& name : group.items()) names.push_back(name.text());
  }
  const auto has = [&](const std::string& name) { return std::ranges::find(names, name) != names.end(); };
  EXPECT_FALSE(has("mlp.gate"));
  EXPECT_FALSE(has("mlp.shared_expert_gate"));
  EXPECT_TRUE(has("self_attn.q_proj"));
  EXPECT_TRUE(has("mlp.shared_expert.up_proj"));
  for (int expert = 0; expert < 4; ++expert) EXPECT_TRUE(has(fmt::format("mlp.experts.{}.down_proj", expert)));
  EXPECT_EQ(names.size(), 4U + 3U + 4U * 3U);
}

}  // namespace
}  // namespace q2c
