// Wrappers around names, buffers, and what the user leaves out.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class NamesPass : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const test::TinyModel& model, std::vector<std::string> drop = {}) {
    model.Write(folder_.path());
    JobOptions options = test::TinyJob(folder_.path(), "");
    options.drop = std::move(drop);
    return PlanJob(options);
  }
  // The tiny model with every name put through a function.
  template <typename F>
  static test::TinyModel Renamed(F rename) {
    test::TinyModel model = test::MakeTiny();
    std::vector<std::string> names;
    for (const auto& [name, tensor] : model.tensors) names.push_back(name);
    for (const std::string& name : names) {
      if (rename(name) != name) model.Rename(name, rename(name));
    }
    return model;
  }
  static std::vector<std::string> OutputNames(const PlannedJob& job) {
    std::vector<std::string> names;
    for (const PlannedTensor& tensor : job.plan.tensors) names.push_back(tensor.name);
    return names;
  }
  const test::TempFolder folder_;
};

TEST_F(NamesPass, EveryWrapperComesOff) {
  const std::vector<std::string> expected = OutputNames(Must(Plan(test::MakeTiny())));
  for (const std::string wrapper : {"module.", "base_model.model.", "_orig_mod.", "transformer.", "model.", "module.model.", "module.module.", "_orig_mod.module."}) {
    const PlannedJob job = Must(Plan(Renamed([&](const std::string& name) { return wrapper + name; })));
    EXPECT_EQ(OutputNames(job), expected) << wrapper;
    EXPECT_TRUE(test::HasNote(job.plan, "names"));
    for (const PlannedTensor& tensor : job.plan.tensors) {
      EXPECT_EQ(job.model->info(tensor.input).name, wrapper + tensor.name);
      EXPECT_EQ(tensor.action, "rename");
    }
  }
}

TEST_F(NamesPass, MissingModelPrefixIsAdded) {
  const std::vector<std::string> expected = OutputNames(Must(Plan(test::MakeTiny())));
  const PlannedJob job = Must(Plan(Renamed([](const std::string& name) { return name.starts_with("model.") ? name.substr(6) : name; })));
  EXPECT_EQ(OutputNames(job), expected);
}

TEST_F(NamesPass, TorchCompileInTheMiddle) {
  const std::vector<std::string> expected = OutputNames(Must(Plan(test::MakeTiny())));
  const PlannedJob job = Must(Plan(Renamed([](std::string name) {
    const size_t at = name.find("layers.0.");
    return at == std::string::npos ? name : name.insert(at + 9, "_orig_mod.");
  })));
  EXPECT_EQ(OutputNames(job), expected);
}

TEST_F(NamesPass, TwoNamesForOneThingCollide) {
  test::TinyModel model = test::MakeTiny();
  test::StoredTensor twin = model.At("model.norm.weight");
  twin.name = "module.model.norm.weight";
  model.Add(twin);
  ExpectError(Plan(model), Code::kMalformed, "tensor-twice", {"'model.norm.weight'", "'module.model.norm.weight'"});
}

// Words of an embedding that MLX quantised, and floats: whichever comes first.
TEST_F(NamesPass, TwoFormsOfOneThingCollide) {
  for (const std::string wrapper : {"", "module.model."}) {
    test::TinyModel model = test::MakeTiny();
    model.Add({wrapper + "embed_tokens.weight", "U32", {1}, test::Bytes(4)});
    ExpectError(Plan(model), Code::kMalformed, "tensor-twice", {"'model.embed_tokens.weight'", wrapper + "embed_tokens.weight"});
  }
}

TEST_F(NamesPass, UnknownTensorsAreRefusedAndCanBeDropped) {
  test::TinyModel model = test::MakeTiny();
  model.Add({"value_head.weight", "F16", {1}, test::Bytes(2)});
  model.Add({"model.layers.1.mlp.up_proj.qweight", "I32", {1}, test::Bytes(4)});  // a layer too many
  ExpectError(Plan(model), Code::kRefused, "tensor-unknown", {"value_head.weight", "model.layers.1.mlp.up_proj.qweight", "--drop"});
  const PlannedJob job = Must(Plan(model, {"value_*", "model.layers.1.*"}));
  EXPECT_EQ(test::FindDropped(job.plan, "value_head.weight")->action, "user");
  EXPECT_EQ(job.plan.dropped.size(), 6U);
}

TEST_F(NamesPass, WhatTheModelNeedsCannotBeDropped) {
  for (const char* glob : {"model.norm.weight", "*.input_layernorm.*", "lm_head*"}) {
    ExpectError(Plan(test::MakeTiny(), {glob}), Code::kRefused, "drop-needed", {glob});
  }
}

TEST_F(NamesPass, DerivedBuffersGo) {
  test::TinyModel model = test::MakeTiny();
  model.Add({"model.layers.0.self_attn.rotary_emb.inv_freq", "F32", {16}, test::Bytes(64)});
  EXPECT_EQ(test::FindDropped(Must(Plan(model)).plan, "model.layers.0.self_attn.rotary_emb.inv_freq")->action, "derived-buffer");
}

}  // namespace
}  // namespace q2c
