#include "formats/quant_config.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

// Reads the claim of a folder with these two files; an empty text means no such file or block.
Result<std::optional<QuantConfig>> Read(const std::string& block, const std::string& separate = "") {
  const test::TempFolder folder;
  test::WriteWhole(folder / "model.safetensors", test::Safetensors({{"t", "U8", {1}, test::Bytes(1)}}));
  test::WriteWhole(folder / "config.json", block.empty() ? "{}" : "{\"quantization_config\": " + block + "}");
  if (!separate.empty()) test::WriteWhole(folder / "quantize_config.json", separate);
  return ReadQuantConfig(Must(Checkpoint::Open(folder.path(), Links::kRefuse)));
}

TEST(QuantConfigTest, NobodySaysAnything) {
  EXPECT_FALSE(Must(Read("")).has_value());
  EXPECT_FALSE(Must(Read("null")).has_value());
}

TEST(QuantConfigTest, EitherFileWillDo) {
  const std::string text = R"({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": false, "sym": true, "checkpoint_format": "GPTQ_v2"})";
  for (const auto& config : {*Must(Read(text)), *Must(Read("", text))}) {
    EXPECT_EQ(config.quant_method, "gptq");
    EXPECT_EQ(config.bits, 4U);
    EXPECT_EQ(config.group_size, 128);
    EXPECT_EQ(config.desc_act, false);
    EXPECT_EQ(config.sym, true);
    EXPECT_EQ(config.checkpoint_format, "gptq_v2");
    EXPECT_FALSE(config.per_module);
  }
}

TEST(QuantConfigTest, BothAreMerged) {
  const QuantConfig config = *Must(Read(R"({"bits": 4, "a": 1})", R"({"bits": 4, "group_size": -1, "a": 2, "b": 3, "dynamic": {"x": {}}})"));
  EXPECT_EQ(config.group_size, -1);
  EXPECT_TRUE(config.per_module);
  EXPECT_EQ(config.json.Find("a")->text(), "1");
  EXPECT_EQ(config.json.Find("b")->text(), "3");
}

TEST(QuantConfigTest, ContradictionsAreRefused) {
  for (const auto& [a, b] : std::vector<std::pair<std::string, std::string>>{{R"({"bits": 4})", R"({"bits": 8})"}, {R"({"group_size": 128})", R"({"group_size": -1})"}, {R"({"sym": true})", R"({"sym": false})"},
                                                                             {R"({"desc_act": true})", R"({"desc_act": false})"}, {R"({"format": "gptq"})", R"({"checkpoint_format": "gptq_v2"})"}}) {
    ExpectError(Read(a, b), Code::kMalformed, "config-disagree", {"quantize_config.json"});
  }
  ExpectError(Read(R"({"format": "gptq", "checkpoint_format": "gptq_v2"})"), Code::kMalformed, "config-disagree");
}

TEST(QuantConfigTest, WrongKindsAndRanges) {
  for (const char* bad : {"[]", "4", "\"gptq\"", R"({"bits": "4"})", R"({"bits": 0})", R"({"bits": -4})", R"({"bits": 4.5})", R"({"bits": null})", R"({"group_size": 0})", R"({"group_size": -2})",
                          R"({"group_size": "128"})", R"({"sym": 1})", R"({"desc_act": "true"})", R"({"quant_method": 4})"}) {
    ExpectError(Read(bad), Code::kMalformed, "quant-config");
  }
  for (const char* bits : {"1", "5", "16"}) ExpectError(Read(fmt::format(R"({{"bits": {}}})", bits)), Code::kRefused, "quant-bits", {bits});
}

}  // namespace
}  // namespace q2c
