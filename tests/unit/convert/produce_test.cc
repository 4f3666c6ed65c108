// Bytes that are not the input's own: made in tiles of any size they are those made whole.
#include "convert/produce.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

struct Step {
  std::string target;
  std::string layout;  // empty: the target's own
};

JobOptions Job(const std::string& in, const std::string& out, const Step& step) {
  JobOptions options = test::TinyJob(in, out, step.target);
  if (!step.layout.empty()) options.layout = step.layout;
  options.allow_rounding = true;
  return options;
}

// A source of each layout, by way of our own conversion where the test writes GPTQ only.
const std::vector<Step>& Steps() {
  static const std::vector<Step> steps = {{"transformers-4.x", ""}, {"gptqmodel-v2", ""}, {"awq", ""}, {"awq", "awq-gemv"}, {"awq", "awq-gemv-fast"}, {"compressed-tensors", ""},
                                          {"compressed-tensors", "compressed-tensors-2025"}, {"mlx", ""}, {"marlin", ""}, {"dense-fp16", ""}, {"dense-bf16", ""}, {"dense-fp32", ""}};
  return steps;
}

class Produced : public testing::Test {
 protected:
  // Every tensor that is made: whole, and in pieces of one, two and five units. Returns what was made of what.
  static std::set<std::string> Check(const Plan& plan) {
    std::set<std::string> seen;
    for (const PlannedTensor& tensor : plan.tensors) {
      const uint64_t unit = UnitBytes(plan, tensor);
      if (tensor.source != PlannedTensor::Source::kEncode && tensor.source != PlannedTensor::Source::kCast) {
        EXPECT_EQ(unit, 1U);
        continue;
      }
      EXPECT_LE(unit, tensor.bytes) << tensor.name;
      Bytes whole(tensor.bytes, std::byte{0xA5});
      Must(Produce(plan, tensor, 0, whole));
      for (const uint64_t units : {1U, 2U, 5U}) {
        Bytes joined(tensor.bytes, std::byte{0x5A});
        for (uint64_t at = 0; at < tensor.bytes; at += unit * units) {
          Must(Produce(plan, tensor, at, MutableBytes(joined).subspan(at, std::min(unit * units, tensor.bytes - at))));
        }
        EXPECT_EQ(joined, whole) << tensor.name << " in pieces of " << unit * units << " of " << tensor.bytes;
      }
      if (tensor.source == PlannedTensor::Source::kCast) seen.insert("cast");
      else seen.insert(fmt::format("{}: {} {}", tensor.linear->linear->layout->name, tensor.linear->layout->name, tensor.part->suffix));
    }
    return seen;
  }
  // All targets that can be reached from these sources.
  static std::set<std::string> CheckAll(const test::TinyOptions& options) {
    const test::TempFolder folder;
    test::MakeTiny(options).Write(folder / "gptq");
    std::set<std::string> seen;
    size_t number = 0;
    for (const Step& first : Steps()) {
      const std::string source = folder / fmt::format("source{}", ++number);
      const Result<PlannedJob> planned = PlanJob(Job(folder / "gptq", source, first));
      if (!planned.ok()) {
        EXPECT_EQ(planned.error().id, "layout-cannot-hold") << planned.error().Text();
        continue;
      }
      Must(RunJob(planned.value(), Job(folder / "gptq", source, first)));
      if (first.target.starts_with("dense")) continue;  // no quantised linear to go on from
      for (const Step& second : Steps()) {
        const Result<PlannedJob> onward = PlanJob(Job(source, "", second));
        if (onward.ok()) seen.merge(Check(onward.value().plan));
      }
    }
    return seen;
  }
  const test::TempFolder folder_;
};

void ExpectSeen(const std::set<std::string>& seen, const std::string& from, const std::vector<std::string>& made) {
  for (const std::string& part : made) EXPECT_TRUE(seen.contains(from + ": " + part)) << from << ": " << part;
}

TEST_F(Produced, TilesOfEverySourceAndPart) {
  const std::set<std::string> seen = CheckAll({.group_size = 32, .wide = true});
  for (const char* from : {"gptq-v1", "gptq-v2", "awq-gemm", "awq-gemv", "awq-gemv-fast", "compressed-tensors", "mlx"}) {
    if (!std::string(from).starts_with("gptq")) ExpectSeen(seen, from, {"gptq-v1 qweight", "gptq-v2 qzeros"});
    if (std::string(from) != "awq-gemm") ExpectSeen(seen, from, {"awq-gemm qweight", "awq-gemm qzeros"});
    if (std::string(from) != "awq-gemv-fast") ExpectSeen(seen, from, {"awq-gemv-fast qweight", "awq-gemv-fast qzeros", "awq-gemv-fast scales"});
    if (std::string(from) != "compressed-tensors") ExpectSeen(seen, from, {"compressed-tensors weight_shape"});
    if (std::string(from) != "mlx") ExpectSeen(seen, from, {"mlx biases"});
    ExpectSeen(seen, from, {"dense-fp16 weight", "dense-bf16 weight", "dense-fp32 weight"});
  }
  EXPECT_TRUE(seen.contains("cast"));
}

TEST_F(Produced, TilesOfMarlinOneGroupAndSeveral) {
  for (const uint64_t size : {128U, 512U}) {
    const std::set<std::string> seen = CheckAll({.group_size = size, .wide = true});
    ExpectSeen(seen, "marlin", {"gptq-v1 qweight", "gptq-v1 scales", "gptq-v1 qzeros", "gptq-v1 g_idx", "awq-gemm qweight", "compressed-tensors weight_packed", "mlx weight", "mlx scales", "dense-fp32 weight"});
    ExpectSeen(seen, "gptq-v1", {"marlin B", "marlin s"});
  }
}

TEST_F(Produced, TilesOfCodesAcrossWords) {
  const std::set<std::string> seen = CheckAll({.bits = 3, .group_size = 64, .symmetric = false, .wide = true});
  ExpectSeen(seen, "compressed-tensors-2025", {"gptq-v1 qweight", "compressed-tensors weight_packed", "mlx weight", "gptq-v2 qzeros"});
  ExpectSeen(seen, "compressed-tensors", {"compressed-tensors-2025 weight_packed", "compressed-tensors-2025 weight_zero_point", "gptq-v1 qweight"});
  ExpectSeen(seen, "gptq-v1", {"compressed-tensors weight_zero_point", "compressed-tensors-2025 weight_packed"});
}

TEST_F(Produced, TilesOfEightAndTwoBits) {
  for (const uint32_t bits : {2U, 8U}) {
    const std::set<std::string> seen = CheckAll({.bits = bits, .group_size = 32, .symmetric = false});
    ExpectSeen(seen, "compressed-tensors", {"gptq-v1 qweight", "gptq-v2 qzeros", "mlx biases"});
  }
}

// Blocks of GGUF, to and from; the bundled checkpoint has the tokenizer that such a file needs.
TEST_F(Produced, TilesOfBlocks) {
  for (const auto& [fixture, exact, rounded] : std::vector<std::tuple<std::string, std::string, std::string>>{{"published-int4-g128-sharded", "gguf-q4_0", "gguf-q4_0"},
                                                                                                              {"autogptq-0.7.1-int4-g32-asym-tied", "gguf-q8_0", "gguf-q4_1"},
                                                                                                              {"published-int8-g128-tied", "gguf-q8_0", "gguf-q8_0"}}) {
    for (const bool rounding : {false, true}) {
      const std::string in = std::string(Q2C_FIXTURES) + "/" + fixture + "/checkpoint";
      const test::TempFolder folder;
      JobOptions options = Job(in, folder / "gguf", {"gguf", ""});
      options.allow_rounding = rounding;
      const PlannedJob job = Must(PlanJob(options));
      const std::string& made = rounding ? rounded : exact;
      std::set<std::string> seen = Check(job.plan);
      EXPECT_TRUE(seen.contains(fmt::format("{}: {} weight", job.model->linears.at("model.layers.0.mlp.up_proj").layout->name, made))) << made;
      Must(RunJob(job, options));
      const PlannedJob back = Must(PlanJob(Job(folder / "gguf", "", {"gptqmodel-v2", ""})));
      seen = Check(back.plan);
      ExpectSeen(seen, made, {"gptq-v2 qweight", "gptq-v2 qzeros", "gptq-v2 scales"});
    }
  }
}

TEST_F(Produced, TheLastTileMayEndWithinAUnit) {
  // 96 outputs are one tile of 64 and a half of one.
  test::MakeTiny().Write(folder_ / "in");
  const PlannedJob job = test::PlanOf(folder_ / "in", "compressed-tensors");
  const PlannedTensor& tensor = *test::FindPlanned(job.plan, "model.layers.0.mlp.up_proj.weight_packed");
  EXPECT_EQ(UnitBytes(job.plan, tensor), 64U * 64 / 2);
  EXPECT_EQ(tensor.bytes, 96U * 64 / 2);
  EXPECT_FALSE(Check(job.plan).empty());
}

TEST_F(Produced, ErrorsNameTheTensor) {
  test::TinyModel model = test::MakeTiny({.symmetric = false});
  const std::string name = "model.layers.0.mlp.up_proj.scales";
  for (size_t i = 0; i < model.At(name).bytes.size(); i += 2) Store(model.At(name).bytes.data() + i, uint16_t{0x7BFF});  // 65504
  model.Write(folder_ / "in");
  const Result<PlannedJob> job = PlanJob(Job(folder_ / "in", "", {"mlx", ""}));
  ASSERT_TRUE(job.ok()) << job.error().Text();
  const PlannedTensor& biases = *test::FindPlanned(job.value().plan, "model.layers.0.mlp.up_proj.biases");
  Bytes out(biases.bytes);
  ExpectError(Produce(job.value().plan, biases, 0, out), Code::kRefused, "quant-offset", {"model.layers.0.mlp.up_proj.biases", "65504"});
}

}  // namespace
}  // namespace q2c
