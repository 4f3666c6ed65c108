// Models of architectures that are not known (--arch=generic): the linears come out as those of the
// same model whose architecture is known, under the names they had.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "tests/unit/support/converted.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"
#include "verify/fingerprint.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;
using test::StoredTensor;

// "model.layers.0.mlp.up_proj" as nobody names it.
std::string Foreign(std::string name) {
  for (const auto& [ours, theirs] : std::vector<std::pair<std::string, std::string>>{
           {"model.layers.", "stack.body."}, {"self_attn.", "mix."}, {"mlp.", "wide."}, {"_proj", ""}, {"model.embed_tokens", "words"}, {"model.norm", "last"}, {"lm_head", "out"}}) {
    if (const size_t at = name.find(ours); at != std::string::npos) name.replace(at, ours.size(), theirs);
  }
  return name;
}

test::TinyModel AsForeign(const test::TinyModel& model) {
  test::TinyModel foreign = model;
  foreign.tensors.clear();
  for (const auto& [name, tensor] : model.tensors) {
    StoredTensor renamed = tensor;
    renamed.name = Foreign(name);
    foreign.Add(std::move(renamed));
  }
  foreign.config = {{"architectures", R"(["OtherForCausalLM"])"}, {"model_type", "\"other\""}, {"width", "256"}, {"torch_dtype", "\"float16\""}};
  return foreign;
}

// A folder as it is, but of another model type.
void Disguise(const std::string& folder) {
  std::ifstream in(folder + "/config.json");
  std::string text(std::istreambuf_iterator<char>(in), {});
  const std::string known = "\"qwen2\"";
  text.replace(text.find(known), known.size(), "\"other\"");
  std::ofstream(folder + "/config.json") << text;
}

class Generic : public testing::Test {
 protected:
  static JobOptions Job(const std::string& in, const std::string& out, const std::string& target) {
    JobOptions options = test::TinyJob(in, out, target);
    options.allow_rounding = target == "mlx";
    options.generic = true;
    return options;
  }
  const test::TempFolder folder_;
  const std::string known_ = folder_ / "known";
  const std::string foreign_ = folder_ / "foreign";
  const std::string out_ = folder_ / "out";
};

TEST_F(Generic, EqualToTheKnownOneUnderItsOwnNames) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    test::TinyModel model = test::MakeTiny({.bits = bits, .group_size = 64, .symmetric = false, .zero_biases = false, .wide = true});
    std::filesystem::remove_all(known_);
    std::filesystem::remove_all(foreign_);
    model.Write(known_);
    AsForeign(model).Write(foreign_);
    for (const char* target : {"transformers-4.x", "gptqmodel-v2", "compressed-tensors", "awq", "dense-fp32"}) {
      if (bits != 4 && target == std::string("awq")) continue;
      SCOPED_TRACE(fmt::format("{} bits, {}", bits, target));
      std::map<std::string, Bytes> expected;
      for (auto& [name, bytes] : test::Converted(Job(known_, out_, target))) expected[Foreign(name)] = bytes;
      EXPECT_EQ(test::Converted(Job(foreign_, out_, target)), expected);
    }
  }
}

// What this tool writes in each layout, read without knowing the architecture: the sizes of the
// linears then come from their parts.
TEST_F(Generic, ReadsTheSizesOfEveryLayout) {
  test::MakeTiny({.group_size = 128, .zero_biases = false, .wide = true}).Write(known_);
  const std::map<std::string, Bytes> weights = test::Converted(Job(known_, out_, "dense-fp32"));
  struct Case {
    const char* target;
    const char* layout;
  };
  for (const Case& each : {Case{"awq", "awq-gemm"}, Case{"awq", "awq-gemv"}, Case{"awq", "awq-gemv-fast"}, Case{"marlin", "marlin"}, Case{"mlx", "mlx"}, Case{"compressed-tensors", "compressed-tensors"}, Case{"gptqmodel-v2", "gptq-v2"}}) {
    SCOPED_TRACE(each.layout);
    JobOptions options = Job(known_, out_, each.target);
    options.layout = each.layout;
    options.allow_rounding = true;  // of scales that the layout has as floats of its own
    test::Converted(options);
    std::filesystem::remove_all(foreign_);
    std::filesystem::rename(out_, foreign_);
    Disguise(foreign_);
    JobOptions back = Job(foreign_, out_, "dense-fp32");
    back.allow_rounding = true;
    const PlannedJob plan = Must(PlanJob(back));
    EXPECT_EQ(plan.model->skeleton.layers, 1U);
    for (const test::TinyLinear& linear : test::TinyLinears(true)) {
      const Linear& found = plan.model->linears.at(linear.name);
      EXPECT_TRUE(found.quantised() && found.layout->name == each.layout);
      EXPECT_EQ(found.expected.in_features, linear.in);
      EXPECT_EQ(found.expected.out_features, linear.out);
    }
    const std::map<std::string, Bytes> again = test::Converted(back);
    for (const auto& [name, bytes] : weights) {
      if (name.find("_proj.weight") == std::string::npos) continue;
      EXPECT_EQ(again.at(name), bytes) << name;
    }
  }
}

// The files of real tools: decoded to the same codes, scales and weights as with their architecture.
TEST_F(Generic, FixturesDecodeToTheSame) {
  size_t judged = 0;
  for (const char* home : {"", "/foreign"}) {
    for (const auto& fixture : std::filesystem::directory_iterator(Q2C_FIXTURES + std::string(home))) {
      const std::filesystem::path checkpoint = fixture.path() / "checkpoint";
      const std::string name = fixture.path().filename();
      std::ifstream config(checkpoint / "config.json");
      const std::string text(std::istreambuf_iterator<char>(config), {});
      if (!config || name.find("-vl-") != std::string::npos || name.find("qwen1") != std::string::npos) continue;  // GGUF, or of other names
      SCOPED_TRACE(name);
      std::filesystem::remove_all(foreign_);
      std::filesystem::copy(checkpoint, foreign_);
      Json disguised = Must(ParseJson(text));
      disguised.Set("model_type", Json::String("other"));
      std::ofstream(foreign_ + "/config.json") << disguised.Dump();
      const Checkpoint known = Must(Checkpoint::Open(checkpoint, Links::kRefuse));
      const Checkpoint foreign = Must(Checkpoint::Open(foreign_, Links::kRefuse));
      Result<Model> generic = UnderstandModel(foreign, {{}, {}, false, nullptr, true});
      if (name.find("int3-g128-padded") != std::string::npos) {  // ten codes a word do not show the inputs
        ExpectError(generic, Code::kRefused, "layout", {"do not show"});
        continue;
      }
      const RunOptions run{1, nullptr, nullptr};
      const Fingerprint expected = Must(FingerprintOf(Must(UnderstandModel(known, {})), run));
      const Fingerprint found = Must(FingerprintOf(Must(std::move(generic)), run));
      for (const TensorFingerprint& tensor : expected.tensors) {
        ASSERT_NE(found.Find(tensor.name), nullptr) << tensor.name;
        EXPECT_EQ(found.Find(tensor.name)->qlf1, tensor.qlf1) << tensor.name;
        EXPECT_EQ(found.Find(tensor.name)->values, tensor.values) << tensor.name;
      }
      ++judged;
    }
  }
  EXPECT_GE(judged, 30U);
}

TEST_F(Generic, KeepsWhatItDoesNotKnow) {
  test::TinyModel model = AsForeign(test::MakeTiny({.wide = true}));  // with biases of zeros
  model.Add({"counts", "I64", {3}, Bytes(24, std::byte{7})});
  model.Add({"stack.body.0.table.weight", "I64", {2, 2}, Bytes(32, std::byte{1})});
  model.Add({"stack.body.0.filter.weight", "F16", {2, 3, 4}, Bytes(48, std::byte{2})});
  model.Add({"stack.body.0.gain.weight", "F16", {2, 4}, Bytes(16, std::byte{3})});
  model.Add({"stack.body.0.gain.scales", "F16", {4}, Bytes(8, std::byte{4})});  // no part of a linear
  model.Add({"stack.body.0.mix.q.extra", "F32", {1}, Bytes(4, std::byte{5})});  // beside the parts of one
  model.Write(foreign_);
  const JobOptions options = Job(foreign_, out_, "compressed-tensors");
  const std::map<std::string, Bytes> made = test::Converted(options);
  for (const char* name : {"counts", "stack.body.0.table.weight", "stack.body.0.filter.weight", "stack.body.0.gain.weight", "stack.body.0.gain.scales", "stack.body.0.mix.q.extra", "stack.body.0.mix.o.bias", "words.weight"}) {
    ASSERT_TRUE(made.contains(name)) << name;
    EXPECT_EQ(made.at(name), model.At(name).bytes) << name;
  }
  const PlannedJob planned = Must(PlanJob(options));
  EXPECT_FALSE(planned.model->linears.at("stack.body.0.mix.q").Part("extra").has_value());
  EXPECT_TRUE(test::HasNote(planned.plan, "arch-generic"));
  EXPECT_TRUE(test::HasNote(planned.plan, "arch-generic-biases"));
  EXPECT_TRUE(test::HasNote(planned.plan, "forward-not-run"));
  EXPECT_EQ(planned.plan.config.Find("rope_theta"), nullptr);
  // Which modules are float is told by their own names.
  std::vector<std::string> ignored;
  for (const Json& name : planned.plan.config.Find("quantization_config")->Find("ignore")->items()) ignored.push_back(name.text());
  EXPECT_EQ(ignored, (std::vector<std::string>{"out", "words"}));
}

TEST_F(Generic, KeepsATensorOfTheNameOfALinear) {
  test::TinyModel model = AsForeign(test::MakeTiny({.wide = true}));
  for (const std::string part : {"qweight", "qzeros", "scales", "g_idx"}) {
    test::StoredTensor copy = model.At("stack.body.0.mix.q." + part);
    copy.name = "lone." + part;
    model.Add(copy);
  }
  model.Add({"lone", "F32", {1}, Bytes(4, std::byte{6})});
  model.Write(foreign_);
  const PlannedJob planned = Must(PlanJob(Job(foreign_, out_, "gptqmodel")));
  EXPECT_TRUE(planned.model->linears.at("lone").quantised());
  EXPECT_TRUE(planned.model->tensors.contains("lone"));
  EXPECT_TRUE(planned.plan.ByName().contains("lone"));
}

TEST_F(Generic, SaysWhatItCannotDo) {
  const auto plan = [&](const test::TinyModel& model, const std::string& target, bool generic = true) {
    std::filesystem::remove_all(foreign_);
    model.Write(foreign_);
    JobOptions options = Job(foreign_, out_, target);
    options.generic = generic;
    return PlanJob(options);
  };
  const test::TinyModel model = AsForeign(test::MakeTiny({.wide = true}));
  ExpectError(plan(model, "transformers-4.x", false), Code::kRefused, "architecture", {"'other'", "--arch=generic"});
  for (const char* target : {"gguf", "mlx", "optimum-1.19"}) ExpectError(plan(model, target), Code::kRefused, "arch-generic", {target, "'other'"});
  test::TinyModel lone = model;
  lone.tensors.erase("stack.body.0.mix.q.scales");
  ExpectError(plan(lone, "vllm"), Code::kRefused, "layout", {"'stack.body.0.mix.q'", "'qweight'", "do not show"});
  test::TinyModel odd = model;
  odd.At("stack.body.0.mix.q.g_idx").shape = {128};
  odd.At("stack.body.0.mix.q.g_idx").bytes.resize(512);
  ExpectError(plan(odd, "vllm"), Code::kMalformed, "quant-shape", {"stack.body.0.mix.q.g_idx"});
  test::TinyModel nested = model;
  nested.config["text_config"] = R"({"quantization_config": {"bits": 4}})";
  ExpectError(plan(nested, "vllm"), Code::kRefused, "architecture", {"text_config"});
  // A bias that a quantised linear of other loaders would not have is no fault here, one of another length is.
  test::TinyModel bias = model;
  bias.At("stack.body.0.mix.q.bias").shape = {8};
  bias.At("stack.body.0.mix.q.bias").bytes.resize(16);
  ExpectError(plan(bias, "vllm"), Code::kMalformed, "tensor-shape", {"stack.body.0.mix.q.bias"});
  // Asked for, a forward pass that cannot be is a failure.
  JobOptions asked = Job(foreign_, out_, "vllm");
  asked.verify_given = true;
  std::filesystem::remove_all(foreign_);
  model.Write(foreign_);
  ExpectError(PlanJob(asked), Code::kNotRun, "forward", {"'other'"});
}

TEST_F(Generic, AKnownArchitectureStaysWhatItIs) {
  test::MakeTiny({.wide = true}).Write(known_);
  const PlannedJob planned = Must(PlanJob(Job(known_, out_, "transformers-4.x")));
  EXPECT_FALSE(planned.model->architecture.IsGeneric());
  EXPECT_TRUE(planned.forward_not_run.empty());
}

}  // namespace
}  // namespace q2c
