// config.json: strict types, dtype, class, and no paths of somebody's machine.
#include <gtest/gtest.h>

#include "convert/passes/passes.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

class ConfigPass : public testing::Test {
 protected:
  ConfigPass() : model_(test::MakeTiny()) {}
  Result<PlannedJob> Plan() {
    model_.Write(folder_.path());
    return PlanJob(test::TinyJob(folder_.path(), "", target_));
  }
  // A key as it comes out; "absent" if it does not.
  std::string Out(const std::string& key) {
    const PlannedJob job = test::Must(Plan());
    const Json* value = job.plan.config.Find(key);
    return value == nullptr ? "absent" : value->Dump(-1);
  }
  std::string Out(const std::string& key, const std::string& given) {
    model_.config[key] = given;
    return Out(key);
  }
  const test::TempFolder folder_;
  test::TinyModel model_;
  std::string target_ = "transformers-4.x";
};

TEST_F(ConfigPass, StrictTypes) {
  EXPECT_EQ(Out("rms_norm_eps", "1e-06"), "1e-06");  // as it was written
  EXPECT_EQ(Out("rms_norm_eps", "1"), "1.0");
  EXPECT_EQ(Out("initializer_range", "0"), "0.0");
  EXPECT_EQ(Out("use_cache", "null"), "true");
  EXPECT_EQ(Out("use_cache", "false"), "true");  // training turned it off
  EXPECT_EQ(Out("use_sliding_window", "null"), "false");
  EXPECT_EQ(Out("max_window_layers", "null"), "28");
  EXPECT_EQ(Out("max_window_layers", "21"), "21");
  EXPECT_EQ(Out("head_dim", "null"), "absent");
  EXPECT_EQ(Out("head_dim", "32"), "32");
}

TEST_F(ConfigPass, HeadsOfKeysAreWrittenOut) {
  model_ = test::MakeTiny();
  model_.config.erase("num_key_value_heads");
  model_.config["num_attention_heads"] = "2";
  // Without the key there are as many as heads: the shapes no longer fit.
  test::ExpectError(Plan(), Code::kMalformed, "tensor-shape");
}

TEST_F(ConfigPass, LayerTypes) {
  EXPECT_EQ(Out("layer_types", R"(["full_attention"])"), R"(["full_attention"])");
  EXPECT_EQ(Out("layer_types", R"(["full_attention", "full_attention"])"), "absent");
  EXPECT_EQ(Out("layer_types", R"(["sliding_attention"])"), "absent");
  model_.config["use_sliding_window"] = "true";
  EXPECT_EQ(Out("layer_types", R"(["sliding_attention"])"), R"(["sliding_attention"])");
}

TEST_F(ConfigPass, DtypeFollowsTheScales) {
  EXPECT_EQ(Out("torch_dtype"), "\"float16\"");
  EXPECT_EQ(Out("dtype"), "\"float16\"");
  model_.config.erase("torch_dtype");
  EXPECT_EQ(Out("dtype", "\"bfloat16\""), "\"float16\"");
  EXPECT_EQ(Out("torch_dtype"), "\"float16\"");
  target_ = "gptqmodel";  // which takes either type
  for (const test::TinyLinear& linear : test::TinyLinears()) model_.At(linear.name + ".scales").dtype = "BF16";
  EXPECT_EQ(Out("torch_dtype"), "\"bfloat16\"");
  model_.config["torch_dtype"] = "\"float32\"";
  test::ExpectError(Plan(), Code::kMalformed, "config-dtype", {"float32", "bfloat16"});
}

TEST_F(ConfigPass, ClassAndTie) {
  EXPECT_EQ(Out("architectures", "[]"), R"(["Qwen2ForCausalLM"])");
  model_.config.erase("architectures");
  EXPECT_EQ(Out("architectures"), R"(["Qwen2ForCausalLM"])");
  model_.config.erase("tie_word_embeddings");
  EXPECT_EQ(Out("tie_word_embeddings"), "false");
}

TEST_F(ConfigPass, PathsCodeAndPropertiesGoUnknownKeysStay) {
  EXPECT_EQ(Out("_name_or_path", "\"/home/me/model\""), "absent");
  EXPECT_EQ(Out("_name_or_path", "\"checkpoint-500\""), "absent");
  EXPECT_EQ(Out("_name_or_path", "\"Qwen/Qwen2-7B\""), "\"Qwen/Qwen2-7B\"");
  EXPECT_EQ(Out("auto_map", R"({"AutoModel": "code.Model"})"), "absent");
  EXPECT_EQ(Out("use_return_dict", "true"), "absent");
  EXPECT_EQ(Out("my_key", R"({"kept": [1e-06, 18446744073709551615]})"), R"({"kept": [1e-06, 18446744073709551615]})");
}

TEST_F(ConfigPass, EveryEditIsListedWithItsReason) {
  model_.config["use_cache"] = "null";
  model_.config["auto_map"] = "{}";
  const PlannedJob job = test::Must(Plan());
  const Json& before = *job.checkpoint->config();
  Json replay = before;
  for (const ConfigEdit& edit : job.plan.edits) {
    EXPECT_FALSE(edit.reason.empty()) << edit.key;
    if (edit.file != "config.json" || edit.key.starts_with("quantization_config")) continue;
    if (edit.before.has_value()) {
      ASSERT_NE(replay.Find(edit.key), nullptr) << edit.key;
      EXPECT_EQ(*replay.Find(edit.key), *edit.before) << edit.key;
    }
    if (edit.after.has_value()) replay.Set(edit.key, *edit.after);
    else replay.Erase(edit.key);
  }
  // The edits, replayed, are the whole difference.
  replay.Erase("quantization_config");
  Json after = job.plan.config;
  after.Erase("quantization_config");
  EXPECT_EQ(replay.Dump(), after.Dump());
}

TEST(LocalPaths, WhatLooksLikeOne) {
  for (const char* local : {"/a/b", "~/model", "./m", "../m", "C:\\models", "D:/models", "\\\\server\\share"}) {
    EXPECT_TRUE(LooksLikeLocalPath(local)) << local;
    EXPECT_TRUE(LooksLikeLocalModel(local)) << local;
  }
  for (const char* other : {"", "gptq", "org/name", "a:b"}) EXPECT_FALSE(LooksLikeLocalPath(other)) << other;
  EXPECT_TRUE(LooksLikeLocalModel("checkpoint-500"));
  EXPECT_TRUE(LooksLikeLocalModel("a/b/c"));
  EXPECT_FALSE(LooksLikeLocalModel("org/name"));
}

}  // namespace
}  // namespace q2c
