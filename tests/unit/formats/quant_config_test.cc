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

// The same of a whole config.json, and of AutoAWQ's own file.
Result<std::optional<QuantConfig>> ReadWholeConfig(const std::string& config, const std::string& quant_config = "") {
  const test::TempFolder folder;
  test::WriteWhole(folder / "model.safetensors", test::Safetensors({{"t", "U8", {1}, test::Bytes(1)}}));
  test::WriteWhole(folder / "config.json", config);
  if (!quant_config.empty()) test::WriteWhole(folder / "quant_config.json", quant_config);
  return ReadQuantConfig(Must(Checkpoint::Open(folder.path(), Links::kRefuse)));
}

std::string Packed(const std::string& groups, const std::string& format = "pack-quantized") {
  return R"({"quant_method": "compressed-tensors", "format": ")" + format + R"(", "config_groups": )" + groups + "}";
}

TEST(QuantConfigTest, CompressedTensorsGroups) {
  const QuantConfig one = *Must(Read(Packed(R"({"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": false, "strategy": "group", "group_size": 64}}})")));
  EXPECT_EQ(one.quant_method, "compressed-tensors");
  EXPECT_EQ(one.bits, 4U);
  EXPECT_EQ(one.group_size, 64);
  EXPECT_EQ(one.sym, false);
  EXPECT_FALSE(one.per_module);
  for (const char* size : {"null", "-1"}) {
    const QuantConfig channel = *Must(Read(Packed(fmt::format(R"({{"g": {{"weights": {{"num_bits": 8, "type": "int", "symmetric": true, "strategy": "channel", "group_size": {}}}}}}})", size))));
    EXPECT_EQ(channel.group_size, -1) << size;
    EXPECT_EQ(channel.bits, 8U);
  }
  const QuantConfig two = *Must(Read(Packed(R"({"a": {"weights": {"num_bits": 4}}, "b": {"weights": {"num_bits": 8}}})")));
  EXPECT_TRUE(two.per_module);
  EXPECT_EQ(two.bits, std::nullopt);
  // The older name of the block.
  EXPECT_EQ(Must(ReadWholeConfig(R"({"compression_config": )" + Packed(R"({"g": {"weights": {"num_bits": 4, "group_size": 32}}})") + "}"))->group_size, 32);
}

TEST(QuantConfigTest, CompressedTensorsThatAreNotRead) {
  const std::string good = R"({"g": {"weights": {"num_bits": 4, "type": "int"}}})";
  for (const char* format : {"marlin-24", "float-quantized", "nvfp4-pack-quantized", "int-quantized"}) ExpectError(Read(Packed(good, format)), Code::kRefused, "layout", {format, "pack-quantized"});
  ExpectError(Read(Packed(R"({"g": {"weights": {"num_bits": 4, "type": "float"}}})")), Code::kRefused, "layout", {"float"});
  for (const char* groups : {"{}", "[]", "null", "4", R"({"g": {}})", R"({"g": 4})", R"({"g": {"weights": null}})", R"({"g": {"weights": [4]}})"}) {
    ExpectError(Read(Packed(groups)), Code::kMalformed, "quant-config");
  }
}

TEST(QuantConfigTest, MlxKeepsItsSettingsApart) {
  const QuantConfig plain = *Must(ReadWholeConfig(R"({"quantization": {"group_size": 64, "bits": 4, "mode": "affine"}, "quantization_config": {"group_size": 64, "bits": 4, "mode": "affine"}})"));
  EXPECT_EQ(plain.quant_method, "mlx");
  EXPECT_EQ(plain.bits, 4U);
  EXPECT_EQ(plain.group_size, 64);
  EXPECT_FALSE(plain.per_module);
  EXPECT_TRUE(Must(ReadWholeConfig(R"({"quantization": {"group_size": 64, "bits": 4, "model.layers.0.mlp.up_proj": {"group_size": 32, "bits": 8}}})"))->per_module);
  ExpectError(ReadWholeConfig(R"({"quantization": {"group_size": 32, "bits": 4, "mode": "mxfp4"}})"), Code::kRefused, "layout", {"mxfp4", "affine"});
  // A block that names its method is believed; `quantization` is then somebody else's.
  EXPECT_EQ(Must(ReadWholeConfig(R"({"quantization": {"bits": 8}, "quantization_config": {"quant_method": "gptq", "bits": 4}})"))->quant_method, "gptq");
}

TEST(QuantConfigTest, AutoRoundIsOneOfTwoMethods) {
  for (const auto& [packing, method] : std::vector<std::pair<std::string, std::string>>{{"auto_round:auto_gptq", "gptq"}, {"auto_round:gptqmodel", "gptq"}, {"auto_round", "gptq"}, {"auto_round:auto_awq", "awq"}}) {
    const QuantConfig config = *Must(Read(R"({"quant_method": "auto-round", "bits": 4, "group_size": 128, "sym": true, "packing_format": ")" + packing + "\"}"));
    EXPECT_EQ(config.quant_method, method) << packing;
    EXPECT_EQ(config.checkpoint_format, "");
    EXPECT_EQ(config.bits, 4U);
  }
  EXPECT_TRUE(Must(Read(R"({"quant_method": "auto-round", "bits": 4, "extra_config": {"model.layers.0": {"bits": 8}}})"))->per_module);
  EXPECT_FALSE(Must(Read(R"({"quant_method": "auto-round", "bits": 4, "extra_config": {}})"))->per_module);
}

TEST(QuantConfigTest, AwqVersionIsItsFormat) {
  for (const char* version : {"gemm", "GEMM", "Gemm"}) EXPECT_EQ(Must(Read(fmt::format(R"({{"quant_method": "awq", "bits": 4, "version": "{}"}})", version)))->checkpoint_format, "gemm");
  EXPECT_EQ(Must(Read(R"({"quant_method": "awq", "version": "gemv_fast"})"))->checkpoint_format, "gemv_fast");
  // Elsewhere it is a version of something.
  EXPECT_EQ(Must(Read(R"({"quant_method": "gptq", "version": "1.2"})"))->checkpoint_format, "");
  ExpectError(Read(R"({"quant_method": "awq", "version": "gemm", "format": "gemv"})"), Code::kMalformed, "config-disagree");
}

TEST(QuantConfigTest, AutoAwqsOwnFile) {
  const QuantConfig config = *Must(ReadWholeConfig("{}", R"({"w_bit": 4, "q_group_size": 128, "zero_point": true, "version": "GEMM"})"));
  EXPECT_EQ(config.bits, 4U);
  EXPECT_EQ(config.group_size, 128);
  ExpectError(ReadWholeConfig(R"({"quantization_config": {"quant_method": "awq", "bits": 4, "group_size": 64}})", R"({"w_bit": 4, "q_group_size": 128})"), Code::kMalformed, "config-disagree");
  ExpectError(ReadWholeConfig("{}", R"({"w_bit": "4"})"), Code::kMalformed, "quant-config", {"w_bit"});
}

}  // namespace
}  // namespace q2c
