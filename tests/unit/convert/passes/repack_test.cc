// What is a copy, what is packed anew, and what the result holds.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Must;

TEST(RepackPass, OnlyTheZerosChangeBetweenV1AndV2) {
  const test::TempFolder folder;
  test::MakeTiny({.minus = 0, .symmetric = false}).Write(folder / "in");
  const PlannedJob job = test::PlanOf(folder / "in");
  for (const PlannedTensor& tensor : job.plan.tensors) {
    const bool zeros = tensor.name.ends_with(".qzeros");
    EXPECT_EQ(tensor.action, zeros ? "repack" : "copy") << tensor.name;
    EXPECT_EQ(tensor.exactness, zeros ? Exactness::kSameCodes : Exactness::kSameBytes) << tensor.name;
  }
}

TEST(RepackPass, EveryWidthIsRepackedFieldByField) {
  for (const uint32_t bits : {2U, 3U, 4U}) {
    const test::TempFolder folder;
    const test::TinyModel model = test::MakeTiny({.bits = bits, .minus = 0, .symmetric = false});
    model.Write(folder / "in");
    Must(RunJob(test::PlanOf(folder / "in"), test::TinyJob(folder / "in", folder / "out")));
    const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
    for (const test::TinyLinear& linear : test::TinyLinears()) {
      const test::Bytes& before = model.tensors.at(linear.name + ".qzeros").bytes;
      const test::Bytes after = Must(out.ReadWhole(*out.Find(linear.name + ".qzeros")));
      for (uint64_t g = 0; g < linear.in / 32; ++g) {
        for (uint64_t n = 0; n < linear.out; ++n) {
          ASSERT_EQ(test::GetZeroField(after, bits, linear.out, g, n) + 1, test::GetZeroField(before, bits, linear.out, g, n)) << linear.name;
        }
      }
      EXPECT_EQ(Must(out.ReadWhole(*out.Find(linear.name + ".qweight"))), model.tensors.at(linear.name + ".qweight").bytes);
    }
  }
}

TEST(RepackPass, MissingGroupIndexIsMadeInOrder) {
  const test::TempFolder folder;
  test::TinyModel model = test::MakeTiny();
  model.tensors.erase("model.layers.0.mlp.down_proj.g_idx");
  model.Write(folder / "in");
  Must(RunJob(test::PlanOf(folder / "in"), test::TinyJob(folder / "in", folder / "out")));
  const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
  const auto groups = WordsFrom<int32_t>(Must(out.ReadWhole(*out.Find("model.layers.0.mlp.down_proj.g_idx"))));
  ASSERT_EQ(groups.size(), 96U);
  for (size_t k = 0; k < 96; ++k) EXPECT_EQ(groups[k], static_cast<int32_t>(k / 32));
}

TEST(RepackPass, PartsThatTheLayoutTakesForGranted) {
  const test::TempFolder folder;
  const auto dropped = [&](const test::TinyOptions& options, const std::string& target) {
    test::MakeTiny(options).Write(folder.path());
    const PlannedJob job = test::PlanOf(folder.path(), target);
    std::vector<std::string> names;
    for (const char* suffix : {"qweight", "qzeros", "scales", "g_idx"}) {
      const DroppedTensor* drop = test::FindDropped(job.plan, std::string("model.layers.0.mlp.down_proj.") + suffix);
      if (drop == nullptr) continue;
      EXPECT_EQ(drop->action, "implied");
      EXPECT_FALSE(drop->reason.empty());
      names.emplace_back(suffix);
    }
    return names;
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(dropped({}, "compressed-tensors"), (Names{"qzeros", "g_idx"}));
  EXPECT_EQ(dropped({.symmetric = false}, "compressed-tensors"), Names{"g_idx"});
  EXPECT_EQ(dropped({}, "awq"), Names{"g_idx"});
  EXPECT_EQ(dropped({}, "mlx"), Names{"g_idx"});
  EXPECT_EQ(dropped({.group_size = 128, .wide = true}, "marlin"), (Names{"qzeros", "g_idx"}));
  EXPECT_EQ(dropped({}, "gptqmodel-v2"), Names{});
  EXPECT_EQ(dropped({}, "dense-fp32"), Names{});  // all of it is in the weight
}

// What is equal in both layouts is copied under its new name: nothing is decoded.
TEST(RepackPass, TheSameBytesAreCopied) {
  const test::TempFolder folder;
  test::MakeTiny({.group_size = 64, .wide = true}).Write(folder / "gptq");
  for (const auto& [name, target, layout] : std::vector<std::tuple<std::string, std::string, std::string>>{{"ct", "compressed-tensors", ""}, {"gemv", "awq", "awq-gemv"}, {"mlx", "mlx", ""}}) {
    JobOptions options = test::TinyJob(folder / "gptq", folder / name, target);
    if (!layout.empty()) options.layout = layout;
    Must(RunJob(Must(PlanJob(options)), options));
  }
  const auto action = [&](const std::string& in, const std::string& target, const std::string& layout, const std::string& part) {
    JobOptions options = test::TinyJob(folder / in, "", target);
    if (!layout.empty()) options.layout = layout;
    const PlannedJob job = Must(PlanJob(options));
    const PlannedTensor* tensor = test::FindPlanned(job.plan, "model.layers.0.mlp.down_proj." + part);
    if (tensor == nullptr) return std::string("absent");
    EXPECT_EQ(tensor->exactness == Exactness::kSameBytes, tensor->source == PlannedTensor::Source::kCopy) << part;
    return tensor->action;
  };
  EXPECT_EQ(action("ct", "mlx", "", "weight"), "rename");
  EXPECT_EQ(action("ct", "mlx", "", "scales"), "rename");
  EXPECT_EQ(action("ct", "mlx", "", "biases"), "repack");
  EXPECT_EQ(action("ct", "awq", "awq-gemv", "qweight"), "rename");
  EXPECT_EQ(action("ct", "awq", "awq-gemv", "scales"), "repack");  // filled up
  EXPECT_EQ(action("gemv", "compressed-tensors", "", "weight_packed"), "rename");
  EXPECT_EQ(action("gemv", "mlx", "", "weight"), "rename");
  EXPECT_EQ(action("mlx", "compressed-tensors", "", "weight_packed"), "rename");
  EXPECT_EQ(action("mlx", "compressed-tensors", "", "weight_scale"), "rename");
  EXPECT_EQ(action("mlx", "compressed-tensors", "", "weight_shape"), "make");
  EXPECT_EQ(action("mlx", "awq", "awq-gemv", "qweight"), "rename");
  EXPECT_EQ(action("mlx", "mlx", "", "biases"), "copy");
  EXPECT_EQ(action("gptq", "compressed-tensors", "", "weight_packed"), "repack");  // turned over
  EXPECT_EQ(action("gptq", "awq", "", "scales"), "copy");
  EXPECT_EQ(action("ct", "gptqmodel-v2", "", "g_idx"), "make");
}

TEST(RepackPass, SplitGroupsRepeatTheirParameters) {
  const test::TempFolder folder;
  const test::TinyModel model = test::MakeTiny({.group_size = 256, .wide = true});
  model.Write(folder / "in");
  const JobOptions options = test::TinyJob(folder / "in", folder / "out", "mlx");
  const PlannedJob job = Must(PlanJob(options));
  const std::string name = "model.layers.0.mlp.down_proj";  // 512 inputs: 2 groups become 4
  const PlannedTensor* scales = test::FindPlanned(job.plan, name + ".scales");
  ASSERT_NE(scales, nullptr);
  EXPECT_EQ(scales->shape, (Shape{256, 4}));
  EXPECT_EQ(scales->action, "repack");
  EXPECT_NE(scales->reason.find("groups of 256 are split into groups of 128"), std::string::npos) << scales->reason;
  Must(RunJob(job, options));
  const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
  const auto before = WordsFrom<uint16_t>(model.tensors.at(name + ".scales").bytes);  // [2, 256]
  const auto after = WordsFrom<uint16_t>(Must(out.ReadWhole(*out.Find(name + ".scales"))));
  const auto biases = WordsFrom<uint16_t>(Must(out.ReadWhole(*out.Find(name + ".biases"))));
  for (size_t n = 0; n < 256; ++n) {
    for (size_t g = 0; g < 4; ++g) {
      ASSERT_EQ(after[n * 4 + g], before[g / 2 * 256 + n]);
      ASSERT_EQ(HalfToFloat(biases[n * 4 + g]), -8 * HalfToFloat(before[g / 2 * 256 + n]));
    }
  }
}

// Zero points of gemv_fast are made from scales that no other part of the tile asks for.
TEST(RepackPass, OffsetsAreMadeWithTheirScales) {
  const test::TempFolder folder;
  const test::TinyModel model = test::MakeTiny({.group_size = 64, .wide = true});
  model.Write(folder / "in");
  JobOptions options = test::TinyJob(folder / "in", folder / "out", "awq");
  options.layout = "awq-gemv-fast";
  Must(RunJob(Must(PlanJob(options)), options));
  const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
  const std::string name = "model.layers.0.mlp.down_proj";  // 8 groups, a whole word of 8, filled up to two
  const auto scales = WordsFrom<uint16_t>(model.tensors.at(name + ".scales").bytes);
  const auto offsets = WordsFrom<uint16_t>(Must(out.ReadWhole(*out.Find(name + ".qzeros"))));
  ASSERT_EQ(offsets.size(), 8U * 2 * 256);
  for (size_t i = 0; i < scales.size(); ++i) ASSERT_EQ(HalfToFloat(offsets[i]), -8 * HalfToFloat(scales[i]));
  for (size_t i = scales.size(); i < offsets.size(); ++i) ASSERT_EQ(offsets[i], 0);
}

}  // namespace
}  // namespace q2c
