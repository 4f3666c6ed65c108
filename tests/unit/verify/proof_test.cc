// The proof of whole conversions: what it must accept, and damage that each of its parts must
// find and name.
#include "verify/proof.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "convert/job.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"
#include "verify/report.h"
#include "verify/texts.h"

namespace q2c {
namespace {

using test::Must;

const std::string kUp = "model.layers.0.mlp.up_proj";

class Proving : public testing::Test {
 protected:
  void Convert(const std::string& source, const std::string& target, bool rounding = false) {
    in_ = source;
    JobOptions job = test::TinyJob(in_, out_, target);
    job.verify = VerifyLevel::kNone;
    job.allow_rounding = rounding;
    job.overwrite = Overwrite::kReplace;
    const PlannedJob planned = Must(PlanJob(job));
    Must(RunJob(planned, job));
  }
  Proof Run(const ProofOptions& options = {}) const {
    const Manifest manifest = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
    const Checkpoint source = Must(Checkpoint::Open(in_, Links::kRefuse));
    const Model model = Must(UnderstandModel(source, {}));
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    return Must(Prove(model, output, manifest, options));
  }
  void FlipBit(const std::string& tensor, uint64_t bit) const {
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    const TensorInfo* info = output.Find(tensor);
    const std::string path = out_ + "/" + output.files()[info->file].name;
    std::string file = test::ReadWhole(path);
    file[info->offset + bit / 8] = static_cast<char>(file[info->offset + bit / 8] ^ (1 << (bit % 8)));
    test::WriteWhole(path, file);
  }
  void EditConfig(const std::string& key, const std::string& value) const {
    Json config = Must(ParseJson(test::ReadWhole(out_ + "/config.json")));
    config.Set(key, Must(ParseJson(value)));
    test::WriteWhole(out_ + "/config.json", config.Dump());
  }
  static std::vector<std::string> Ids(const Proof& proof) {
    std::vector<std::string> ids;
    for (const Error& finding : proof.findings) ids.push_back(finding.id);
    return ids;
  }
  static bool Mentions(const Proof& proof, std::string_view id, std::string_view text) {
    return std::ranges::any_of(proof.findings, [&](const Error& finding) { return finding.id == id && finding.message.find(text) != std::string::npos; });
  }

  const test::TempFolder folder_;
  std::string in_;
  const std::string out_ = folder_ / "out";
  const std::string fixtures_ = Q2C_FIXTURES;
};

TEST_F(Proving, AcceptsExactConversionsBitByBit) {
  for (const char* target : {"transformers-4.x", "optimum-1.19", "gptqmodel-v2", "compressed-tensors", "awq", "gguf", "mlx", "dense-fp32"}) {
    Convert(fixtures_ + "/published-int4-g128-sharded/checkpoint", target);
    const Proof proof = Run();
    EXPECT_EQ(Ids(proof), std::vector<std::string>()) << target << (proof.findings.empty() ? "" : proof.findings[0].message);
    ASSERT_TRUE(proof.forward.has_value()) << target;
    EXPECT_TRUE(proof.forward->equal) << target;
    EXPECT_EQ(proof.forward->states.size(), 3U);
    EXPECT_EQ(proof.forward->logits.largest_error, 0);
    EXPECT_EQ(proof.forward->same_top, 16U);
    EXPECT_EQ(proof.compared.linears, 14U);
  }
}

TEST_F(Proving, MeasuresWhatIsRounded) {
  Convert(fixtures_ + "/published-int4-g128-sharded/checkpoint", "dense-bf16", true);
  const Proof proof = Run();
  EXPECT_EQ(Ids(proof), std::vector<std::string>());
  EXPECT_FALSE(proof.forward->equal);
  EXPECT_GT(proof.forward->logits.largest_error, 1e-4);
  EXPECT_LT(proof.forward->logits.largest_error, 0.1);
  EXPECT_GT(proof.forward->divergence, 0);
  EXPECT_LT(proof.forward->divergence, 1e-3);
  EXPECT_GT(proof.compared.rounded_weights, 491520U - 1);
}

TEST_F(Proving, OneBitOfOneCodeIsFoundByComparisonAndByThePass) {
  Convert(fixtures_ + "/autogptq-0.7.1-int4-g64-actorder/checkpoint", "gptqmodel-v2");
  FlipBit("model.layers.1.mlp.up_proj.qweight", 12345);
  const Proof proof = Run();
  EXPECT_EQ(Ids(proof), (std::vector<std::string>{"exact-linear", "forward-differs"}));
  EXPECT_TRUE(Mentions(proof, "exact-linear", "model.layers.1.mlp.up_proj"));
  EXPECT_TRUE(Mentions(proof, "forward-differs", "layer 1, 'model.layers.1.mlp.up_proj'"));
  EXPECT_EQ(proof.forward->states[1].largest_error, 0) << "layer 0 is sound";
  EXPECT_GT(proof.forward->states[2].largest_error, 0);
}

TEST_F(Proving, NamesWhateverDiffersFirst) {
  struct Damage {
    std::string tensor;
    uint64_t bit;
    std::string where;
  };
  // The sign bits of float16 and a bit of an embedding row that token 16 of the spread reads.
  for (const Damage& damage : {Damage{"model.layers.0.self_attn.k_proj.bias", 15, "layer 0, 'model.layers.0.self_attn.k_proj'"},
                               Damage{"model.layers.1.input_layernorm.weight", 14 + 16 * 7, "layer 1, 'model.layers.1.input_layernorm'"},
                               Damage{"model.norm.weight", 13, "'model.norm'"}, Damage{"model.embed_tokens.weight", 16 * 128 * 16 + 15, "'model.embed_tokens'"},
                               Damage{"model.layers.1.self_attn.v_proj.scales", 9, "layer 1, 'model.layers.1.self_attn.v_proj'"}}) {
    Convert(fixtures_ + "/published-int4-g128-sharded/checkpoint", "transformers-5.x");
    FlipBit(damage.tensor, damage.bit);
    const Proof proof = Run();
    EXPECT_TRUE(Mentions(proof, "forward-differs", "first in " + damage.where)) << damage.tensor << ": " << (proof.findings.empty() ? "nothing" : proof.findings.back().message);
  }
}

TEST_F(Proving, AConfigThatChangesTheModelIsFoundThoughEveryWeightIsEqual) {
  struct Edit {
    std::string key;
    std::string value;
    std::string where;
  };
  for (const Edit& edit : {Edit{"rope_theta", "10000.0", "layer 0, 'model.layers.0.self_attn'"}, Edit{"rms_norm_eps", "0.01", "layer 0, 'model.layers.0.input_layernorm'"}}) {
    Convert(fixtures_ + "/published-int4-g128-sharded/checkpoint", "transformers-4.x");
    EditConfig(edit.key, edit.value);
    const Proof proof = Run();
    EXPECT_EQ(Ids(proof), std::vector<std::string>{"forward-differs"}) << edit.key;
    EXPECT_TRUE(Mentions(proof, "forward-differs", "first in " + edit.where)) << edit.key << (proof.findings.empty() ? "" : proof.findings[0].message);
  }
}

TEST_F(Proving, AWrongLabelIsFoundThoughEveryWeightIsEqual) {
  Convert(fixtures_ + "/published-int4-g128-sharded/checkpoint", "compressed-tensors");
  const Json config = Must(ParseJson(test::ReadWhole(out_ + "/config.json")));
  Json quant = *config.Find("quantization_config");
  std::string text = quant.Dump();
  const size_t at = text.find("\"num_bits\": 4");
  ASSERT_NE(at, std::string::npos);
  text.replace(at, 13, "\"num_bits\": 8");
  EditConfig("quantization_config", text);
  const Proof proof = Run();
  ASSERT_FALSE(proof.findings.empty());
  EXPECT_EQ(proof.findings[0].id, "output-model");
}

// An output that was rounded computes with what it holds, not with what that was rounded from.
TEST_F(Proving, RoundedOffsetsMoveTheLogits) {
  for (const char* target : {"mlx", "gguf"}) {
    Convert(fixtures_ + "/autogptq-0.7.1-int4-g32-asym-tied/checkpoint", target, true);
    const Proof proof = Run();
    EXPECT_EQ(Ids(proof), std::vector<std::string>()) << target;
    EXPECT_GT(proof.compared.rounded_weights, 0U) << target;
    EXPECT_FALSE(proof.forward->equal) << target;
    EXPECT_GT(proof.forward->states[1].largest_error, 0) << target;
    EXPECT_GT(proof.forward->logits.largest_error, 0) << target;
    EXPECT_LT(proof.forward->divergence, 5e-5) << target;
    // The fingerprint is of the zero points that are meant.
    const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
    EXPECT_EQ(proof.fingerprint->values, Must(FingerprintOf(Must(UnderstandModel(output, {})), {})).values) << target;
  }
}

TEST_F(Proving, NanIsAFindingWithLayerAndLinear) {
  const std::string name = "model.layers.0.self_attn.q_proj.bias";
  test::TinyModel model = test::MakeTiny();
  std::vector<std::byte>& bytes = model.At(name).bytes;
  bytes[0] = std::byte{0x00};
  bytes[1] = std::byte{0x7E};  // NaN
  model.Write(folder_ / "in");
  Convert(folder_ / "in", "transformers-4.x");
  const Proof proof = Run();
  ASSERT_EQ(proof.findings.size(), 1U);
  EXPECT_EQ(proof.findings[0].id, "forward-not-finite");
  EXPECT_NE(proof.findings[0].message.find("layer 0, 'model.layers.0.self_attn.q_proj' of the source"), std::string::npos) << proof.findings[0].message;
}

TEST_F(Proving, ATextTellsWhichReadingIsRight) {
  ProofOptions contested;
  contested.contested = true;
  const auto losses = [&](const std::string& name) {
    Convert(fixtures_ + "/" + name + "/checkpoint", "transformers-5.x");
    const Proof proof = Run(contested);
    EXPECT_TRUE(proof.findings.empty()) << name;
    return *proof.forward->text;
  };
  for (const char* name : {"autogptq-0.7.1-int4-g128-sym", "autogptq-0.7.1-int4-g32-asym-tied", "autogptq-0.7.1-int3-g128-sym", "resaved-transformers-5.23-int4-g128"}) {
    const TextScore score = losses(name);
    EXPECT_LT(score.loss + 1, score.other_loss) << name;
    EXPECT_TRUE(score.decides()) << name;
  }
  EXPECT_FALSE(losses("autogptq-0.7.1-int8-g128-sym-tied").decides()) << "8 bits are too fine to tell";
}

TEST_F(Proving, AReadingThatATextContradictsIsAFinding) {
  const std::string source = fixtures_ + "/autogptq-0.7.1-int4-g32-asym-tied/checkpoint";
  JobOptions job = test::TinyJob(source, out_, "gptqmodel-v2");
  job.zeros = ZeroConvention::kV2;  // it is v1
  const JobReport report = Must(RunJob(Must(PlanJob(job)), job));
  ASSERT_EQ(report.findings.size(), 1U);
  EXPECT_EQ(report.findings[0].id, "zeros-contradicted");
  EXPECT_FALSE(test::Exists(out_));
}

TEST_F(Proving, AModelThatGuessesIsNoWitnessAgainstItsOwner) {
  test::TinyModel model = test::MakeTiny();  // random codes
  for (const test::TinyLinear& linear : test::TinyLinears()) {
    test::Bytes& scales = model.At(linear.name + ".scales").bytes;
    for (size_t i = 1; i < scales.size(); i += 2) scales[i] = static_cast<std::byte>(std::to_integer<int>(scales[i]) + 0x28);  // 1024 times as large
  }
  test::Random random(1);
  for (std::byte& byte : model.At("lm_head.weight").bytes) byte = static_cast<std::byte>(random.Below(2) * 0x80 + 0x3c);  // about 1, of either sign
  model.Write(folder_ / "in");
  bool contradicted = false;
  for (const ZeroConvention said : {ZeroConvention::kV1, ZeroConvention::kV2}) {
    JobOptions job = test::TinyJob(folder_ / "in", out_, "gptqmodel-v2");
    job.zeros = said;
    job.tokens = {3, 1, 4, 15, 9, 26, 5, 30, 8};
    job.overwrite = Overwrite::kReplace;
    const JobReport report = Must(RunJob(Must(PlanJob(job)), job));
    EXPECT_TRUE(report.findings.empty()) << report.findings[0].message;
    const TextScore& text = *report.forward->text;
    EXPECT_GT(std::min(text.loss, text.other_loss), std::log(32) - TextScore::kBelowGuessing);
    EXPECT_FALSE(text.decides());
    contradicted = contradicted || text.other_loss + TextScore::kDecisive < text.loss;
  }
  EXPECT_TRUE(contradicted) << "the losses must differ for this to be a test";
}

TEST_F(Proving, ExpertsThatNoTokenReachedAreCompared) {
  Convert(fixtures_ + "/autogptq-0.7.1-moe-int4-g64/checkpoint", "transformers-4.x");
  ProofOptions one;
  one.tokens = {7};
  const Proof sound = Run(one);
  EXPECT_TRUE(sound.findings.empty());
  EXPECT_EQ(sound.forward->experts, 8U);
  for (int expert = 0; expert < 4; ++expert) {
    Convert(fixtures_ + "/autogptq-0.7.1-moe-int4-g64/checkpoint", "transformers-4.x");
    const std::string name = "model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj";
    FlipBit(name + ".qweight", 77);
    EXPECT_TRUE(Mentions(Run(one), "exact-linear", name)) << expert;
  }
}

TEST_F(Proving, WithoutAForwardPassTheWeightsAreStillCompared) {
  Convert(fixtures_ + "/published-int8-g128-tied/checkpoint", "transformers-4.x");
  ProofOptions exact;
  exact.forward = false;
  const Proof sound = Run(exact);
  EXPECT_TRUE(sound.findings.empty());
  EXPECT_FALSE(sound.forward.has_value());
  FlipBit("model.layers.1.mlp.up_proj.qweight", 4);
  EXPECT_EQ(Ids(Run(exact)), std::vector<std::string>{"exact-linear"});
}

TEST(Observe, OneCheckpointAlone) {
  const Checkpoint checkpoint = Must(Checkpoint::Open(std::string(Q2C_FIXTURES) + "/published-int8-g128-tied/checkpoint", Links::kRefuse));
  const Model model = Must(UnderstandModel(checkpoint, {}));
  ProofOptions options;
  options.tokens = {1, 2, 3};
  const Observation seen = Must(Observe(model, options));
  EXPECT_EQ(seen.states.size(), 3U);
  EXPECT_EQ(seen.logits.count, 3U);
  EXPECT_EQ(seen.logits.width, 512U);
  ASSERT_TRUE(seen.report.text.has_value());
  EXPECT_LT(seen.report.text->loss, 3.5);
}

TEST(FindText, KnowsTheVocabularyByItsMerges) {
  const std::string original = std::string(Q2C_FIXTURES) + "/published-int8-g128-tied/checkpoint";
  const KnownText* known = Must(FindText(Must(Checkpoint::Open(original, Links::kRefuse))));
  ASSERT_NE(known, nullptr);
  EXPECT_EQ(known->vocabulary, "fixtures");
  EXPECT_EQ(known->tokens.size(), 64U);
  // Another order of merges is another vocabulary.
  const test::TempFolder folder;
  std::filesystem::copy(original, folder.path(), std::filesystem::copy_options::recursive);
  Json tokenizer = Must(ParseJson(test::ReadWhole(folder / "tokenizer.json")));
  std::vector<Json>& merges = tokenizer.Find("model")->Find("merges")->items();
  std::string lines = "#version: 0.2\n";
  for (const Json& merge : merges) lines += merge.text() + "\n";
  std::swap(merges[0], merges[1]);
  test::WriteWhole(folder / "tokenizer.json", tokenizer.Dump());
  EXPECT_EQ(Must(FindText(Must(Checkpoint::Open(folder.path(), Links::kRefuse)))), nullptr);
  // merges.txt does as well.
  std::filesystem::remove(folder / "tokenizer.json");
  test::WriteWhole(folder / "merges.txt", lines);
  EXPECT_EQ(Must(FindText(Must(Checkpoint::Open(folder.path(), Links::kRefuse)))), known);
}

TEST(Report, OtherVersionsAreRefused) {
  test::ExpectError(ReadReport("{}"), Code::kMalformed, "report");
  test::ExpectError(ReadReport(R"({"format": "qwen2-convert-report", "version": "2.0"})"), Code::kRefused, "report-version", {"2.0"});
  EXPECT_TRUE(ReadReport(R"({"format": "qwen2-convert-report", "version": "1.7", "new": 1})").ok());
}

TEST(Report, IsReplacedInOneStep) {
  const test::TempFolder folder;
  const std::string path = folder / "report.json";
  Must(WriteReport(path, Json::Object({{"a", Json::Integer(1)}})));
  Must(WriteReport(path, Json::Object({{"a", Json::Integer(2)}})));
  EXPECT_EQ(test::ReadWhole(path), "{\n  \"a\": 2\n}\n");
  EXPECT_EQ(test::Names(folder.path()), std::vector<std::string>{"report.json"});
}

}  // namespace
}  // namespace q2c
