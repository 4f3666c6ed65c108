// Whole plans: of every checkpoint in fixtures/, and of the tiny model's variants.
#include "convert/plan.h"

#include <gtest/gtest.h>

#include <set>

#include "formats/base/text.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

struct Fixture {
  const char* name;
  const char* target;
  const char* refused;  // the finding, or null if it converts
};
void PrintTo(const Fixture& fixture, std::ostream* out) { *out << fixture.name << " for " << fixture.target; }

class FixturePlan : public testing::TestWithParam<Fixture> {};

TEST_P(FixturePlan, ConvertsOrIsRefused) {
  const std::string in = std::string(Q2C_FIXTURES) + "/" + GetParam().name + "/checkpoint";
  const Result<PlannedJob> job = PlanJob(test::TinyJob(in, "", GetParam().target));
  if (GetParam().refused != nullptr) return ExpectError(job, Code::kRefused, GetParam().refused);
  ASSERT_TRUE(job.ok()) << job.error().Text();
  const Plan& plan = job.value().plan;
  EXPECT_FALSE(plan.tensors.empty());
  // Every tensor of the input is either in the output or left out for a reason; parts that are
  // made anew have the same name.
  const auto names = plan.ByName();
  for (TensorIndex i = 0; i < job.value().checkpoint->tensors().size(); ++i) {
    const bool dropped = std::ranges::any_of(plan.dropped, [&](const DroppedTensor& drop) { return drop.input == i; });
    for (const Place& place : job.value().model->places[i]) EXPECT_NE(dropped, names.contains(place.name)) << job.value().model->info(i).name;
    EXPECT_TRUE(dropped || !job.value().model->places[i].empty()) << job.value().model->info(i).name;
  }
  for (const PlannedTensor& tensor : plan.tensors) EXPECT_FALSE(tensor.reason.empty()) << tensor.name;
}

constexpr const char* k4 = "transformers-4.x";
constexpr const char* k5 = "transformers-5.x";
INSTANTIATE_TEST_SUITE_P(
    All, FixturePlan,
    testing::Values(Fixture{"autogptq-0.3.2-int4-g64", k4, nullptr}, Fixture{"autogptq-0.5.1-int4-g128-bin", k4, nullptr}, Fixture{"autogptq-0.7.1-int2-g64-asym", k4, nullptr},
                    Fixture{"autogptq-0.7.1-int3-g128-sym", k4, nullptr}, Fixture{"autogptq-0.7.1-int4-g128-sym", k4, nullptr}, Fixture{"autogptq-0.7.1-int4-g32-asym-tied", k4, nullptr},
                    Fixture{"autogptq-0.7.1-int4-g32-asym-wrapped-zeros", k4, "layout-cannot-hold"}, Fixture{"autogptq-0.7.1-int4-g32-asym-wrapped-zeros", k5, nullptr},
                    Fixture{"autogptq-0.7.1-int4-g64-actorder", k4, nullptr}, Fixture{"autogptq-0.7.1-int4-g64-static-actorder", k4, nullptr},
                    Fixture{"autogptq-0.7.1-int4-perchannel-actorder", k4, nullptr}, Fixture{"autogptq-0.7.1-int8-g128-sym-tied", k4, nullptr},
                    Fixture{"autogptq-0.7.1-moe-int4-g64", k4, nullptr}, Fixture{"autogptq-0.7.1-moe-int4-g64", k5, "target-architecture"},
                    Fixture{"autogptq-0.7.1-qwen1-int4-g64", k4, nullptr}, Fixture{"gptqmodel-7.7-awq-g64", k4, nullptr}, Fixture{"gptqmodel-7.7-int4-g128", k4, nullptr},
                    Fixture{"gptqmodel-7.7-int4-g64-asym-v2", k4, nullptr}, Fixture{"gptqmodel-7.7-qwen3-int4-g64", k4, nullptr}, Fixture{"gptqmodel-7.7-qwen3-moe-int4-g64", k4, nullptr},
                    Fixture{"gptqmodel-7.7-qwen3-moe-int4-g64", k5, "target-architecture"}, Fixture{"gptqmodel-7.7-qwen2-vl-int4-g64", k4, nullptr}, Fixture{"gptqmodel-7.7-qwen2-vl-int4-g64", "gguf", "vision-gguf"},
                    Fixture{"gptqmodel-7.7-qwen2.5-vl-int4-g128", k5, nullptr}, Fixture{"optimum-2.3-classifier-int4-g128", k4, nullptr}, Fixture{"optimum-1.19.2-int4-g128-sharded", k4, nullptr},
                    Fixture{"published-int4-g128-sharded", k4, nullptr}, Fixture{"published-int8-g128-tied", k4, nullptr}, Fixture{"resaved-transformers-4.57-int4-g32-asym", k4, nullptr},
                    Fixture{"resaved-transformers-5.23-int4-g128", k4, nullptr}));

TEST(FixturePlans, NoneIsForgotten) {
  // Whoever adds a fixture must say above what becomes of it.
  std::set<std::string> named;
  const testing::UnitTest& tests = *testing::UnitTest::GetInstance();
  for (int s = 0; s < tests.total_test_suite_count(); ++s) {
    const testing::TestSuite* suite = tests.GetTestSuite(s);
    for (int t = 0; std::string_view(suite->name()) == "All/FixturePlan" && t < suite->total_test_count(); ++t) {
      const std::string value = suite->GetTestInfo(t)->value_param();
      named.insert(value.substr(0, value.find(' ')));
    }
  }
  for (const std::string& name : test::Names(Q2C_FIXTURES)) {
    const bool checkpoint = test::Exists(std::string(Q2C_FIXTURES) + "/" + name + "/checkpoint");
    EXPECT_TRUE(!checkpoint || named.contains(name)) << name;
  }
}

TEST(FixturePlans, WrappedZerosBecomeV2AndTheLossIsSaid) {
  const PlannedJob job = test::PlanOf(std::string(Q2C_FIXTURES) + "/autogptq-0.7.1-int4-g32-asym-wrapped-zeros/checkpoint", k5);
  EXPECT_EQ(job.plan.LayoutNames(), std::vector<std::string>{"gptq-v2"});
  EXPECT_TRUE(test::HasNote(job.plan, "zero-wrap"));
}

TEST(FixturePlans, ResavedFilesAreRepairedAndTheLabelIsSaid) {
  for (const char* name : {"resaved-transformers-5.23-int4-g128", "resaved-transformers-4.57-int4-g32-asym"}) {
    const PlannedJob job = test::PlanOf(std::string(Q2C_FIXTURES) + "/" + name + "/checkpoint");
    EXPECT_EQ(job.plan.LayoutNames(), std::vector<std::string>{"gptq-v1"});
    EXPECT_TRUE(test::HasNote(job.plan, "zero-label")) << name;
  }
}

class TinyPlan : public testing::Test {
 protected:
  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
};

TEST_F(TinyPlan, TextJsonAndExplainAgree) {
  test::MakeTiny().Write(in_);
  const PlannedJob job = test::PlanOf(in_);
  const std::string text = PlanText(job.plan, true);
  for (const PlannedTensor& tensor : job.plan.tensors) EXPECT_NE(text.find(tensor.name), std::string::npos) << tensor.name;
  for (const DroppedTensor& drop : job.plan.dropped) EXPECT_NE(text.find(drop.name), std::string::npos) << drop.name;
  Must(ParseJson(PlanJson(job.plan).Dump()));
  EXPECT_NE(Must(ExplainTensor(job.plan, "model.layers.0.mlp.up_proj.bias")).find("zero"), std::string::npos);
  Must(ExplainTensor(job.plan, "model.norm.weight"));
  test::ExpectError(ExplainTensor(job.plan, "no.such"), Code::kUsage, "tensor");
}

TEST_F(TinyPlan, ConvertedOutputIsLeftAsItIs) {
  test::MakeTiny({.minus = 0, .symmetric = false}).Write(in_);
  const std::string out = folder_ / "out";
  Must(RunJob(test::PlanOf(in_), test::TinyJob(in_, out)));
  const PlannedJob again = test::PlanOf(out);
  EXPECT_TRUE(again.plan.dropped.empty());
  EXPECT_TRUE(again.plan.edits.empty()) << again.plan.edits[0].key;
  for (const PlannedTensor& tensor : again.plan.tensors) EXPECT_EQ(tensor.action, "copy") << tensor.name;
  Must(RunJob(again, test::TinyJob(out, folder_ / "twice")));
  for (const char* name : {"model.safetensors", "config.json", "quantize_config.json"}) {
    EXPECT_EQ(test::ReadWhole(out + "/" + name), test::ReadWhole((folder_ / "twice/") + name)) << name;
  }
}

TEST_F(TinyPlan, OutputBytesAreThoseOfTheFiles) {
  test::MakeTiny({.minus = 0}).Write(in_);
  test::WriteWhole(in_ + "/tokenizer.json", "12345");
  const PlannedJob job = test::PlanOf(in_);
  Must(RunJob(job, test::TinyJob(in_, folder_ / "out")));
  uint64_t bytes = 0;
  for (const std::string& name : test::Names(folder_ / "out")) {
    if (name != "SHA256SUMS" && name != "qwen2-convert.manifest.json") bytes += std::filesystem::file_size(folder_ / ("out/" + name));
  }
  EXPECT_EQ(job.plan.OutputBytes(), bytes);
}

TEST_F(TinyPlan, ExactnessHasNames) {
  EXPECT_EQ(NameOf(Exactness::kSameBytes), "same-bytes");
  EXPECT_EQ(NameOf(Exactness::kSameCodes), "same-codes");
  EXPECT_EQ(NameOf(Exactness::kSameValues), "same-values");
  EXPECT_EQ(NameOf(Exactness::kRounded), "rounded");
}

}  // namespace
}  // namespace q2c
