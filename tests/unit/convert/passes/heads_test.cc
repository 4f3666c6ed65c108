// The head that repeats the embedding, and the one that does not.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

class Heads : public testing::Test {
 protected:
  PlannedJob Plan(const test::TinyModel& model) {
    model.Write(folder_.path());
    return test::PlanOf(folder_.path());
  }
  static test::TinyModel Tied() {
    test::TinyModel model = test::MakeTiny();
    model.config["tie_word_embeddings"] = "true";
    model.At("lm_head.weight").bytes = model.At("model.embed_tokens.weight").bytes;
    return model;
  }
  const test::TempFolder folder_;
};

TEST_F(Heads, EqualToTheEmbeddingItIsTiedToGoes) {
  const PlannedJob job = Plan(Tied());
  EXPECT_EQ(test::FindPlanned(job.plan, "lm_head.weight"), nullptr);
  const DroppedTensor* dropped = test::FindDropped(job.plan, "lm_head.weight");
  ASSERT_NE(dropped, nullptr);
  EXPECT_EQ(dropped->action, "tied-head");
  EXPECT_EQ(job.model->info(*dropped->same_as).name, "model.embed_tokens.weight");
  EXPECT_EQ(job.plan.config.Find("tie_word_embeddings")->AsBool(), true);
}

TEST_F(Heads, DifferentByOneBitStaysAndUnties) {
  test::TinyModel model = Tied();
  model.At("lm_head.weight").bytes.back() ^= std::byte{1};
  const PlannedJob job = Plan(model);
  EXPECT_NE(test::FindPlanned(job.plan, "lm_head.weight"), nullptr);
  EXPECT_EQ(job.plan.config.Find("tie_word_embeddings")->AsBool(), false);
  EXPECT_TRUE(test::HasNote(job.plan, "head-differs"));
}

TEST_F(Heads, OfAnotherDtypeStays) {
  test::TinyModel model = Tied();
  model.At("lm_head.weight").dtype = "BF16";
  EXPECT_NE(test::FindPlanned(Plan(model).plan, "lm_head.weight"), nullptr);
}

TEST_F(Heads, EqualButNotTiedStays) {
  test::TinyModel model = Tied();
  model.config["tie_word_embeddings"] = "false";
  EXPECT_NE(test::FindPlanned(Plan(model).plan, "lm_head.weight"), nullptr);
}

TEST_F(Heads, AbsentIsFineOnlyIfTied) {
  test::TinyModel model = test::MakeTiny({.head = false});
  model.config["tie_word_embeddings"] = "true";
  EXPECT_TRUE(Plan(model).plan.dropped.size() == 4);  // the zero biases only
  model.config.erase("tie_word_embeddings");
  model.Write(folder_.path());
  test::ExpectError(PlanJob(test::TinyJob(folder_.path(), "")), Code::kMalformed, "tensor-missing", {"lm_head.weight"});
}

TEST_F(Heads, QuantisedIsKeptOnlyWhereTheLoaderReadsIt) {
  test::TinyModel model = test::MakeTiny({.head = false});
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    test::StoredTensor tensor = model.At(std::string("model.layers.0.self_attn.k_proj.") + part);  // 64 by 32, as the head
    tensor.name = std::string("lm_head.") + part;
    model.Add(tensor);
  }
  model.Write(folder_.path());
  test::ExpectError(PlanJob(test::TinyJob(folder_.path(), "")), Code::kRefused, "rounding", {"lm_head", "inside the blocks"});
  JobOptions rounding = test::TinyJob(folder_.path(), "");
  rounding.allow_rounding = true;
  const PlannedJob floats = test::Must(PlanJob(rounding));
  EXPECT_EQ(test::FindPlanned(floats.plan, "lm_head.weight")->dtype, Dtype::kF16);
  EXPECT_EQ(floats.plan.config.Find("quantization_config")->Find("lm_head"), nullptr);
  const PlannedJob kept = test::PlanOf(folder_.path(), "gptqmodel");
  EXPECT_EQ(test::FindPlanned(kept.plan, "lm_head.qweight")->source, PlannedTensor::Source::kCopy);
  EXPECT_EQ(kept.plan.config.Find("quantization_config")->Find("lm_head")->AsBool(), true);
}

}  // namespace
}  // namespace q2c
