#include "formats/manifest.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

Manifest Sample() {
  Manifest manifest;
  manifest.tool_version = "1.2.3";
  manifest.targets = {"transformers-4.x", "é\"\\"};
  manifest.options = Json::Object({{"drop", Json::Array({Json::String("*.x")})}});
  manifest.verify = "exact";
  manifest.verify_read = "cache";
  manifest.publish = "atomic-rename";
  manifest.config_edits = Json::Array();
  manifest.files = {{"model.safetensors", UINT64_MAX, "aa", "bb", 77}, {"empty", 0, "cc", "dd", 0}};
  manifest.linears = {{"out.q", "in.q", "gptq-v2", "gptq-v1", 64, 32, 64, 16, 4, 8, "same-values", {}, {"v1", "q1"}}, {"out.k", "in.qk", "gptq-v1", "gptq-v1", 64, 32, 64, 64, 4, 4, "same-codes", {32, 96}}};
  manifest.tensors = {{"t", Dtype::kBF16, {3, 0, 7}, "model.safetensors", "ee", {"s1", "s2"}, "repack", "same-codes", {}}, {"scalar", Dtype::kF32, {}, "f", "ff", {}, "zero-fill", "same-values", {}},
                      {"bias", Dtype::kF16, {32}, "f", "00", {"in.qk.bias"}, "split", "same-bytes", {32, 96}}};
  manifest.fingerprint = {"vv", "qq"};
  manifest.dropped = {{"a", "tied-head", "b"}, {"c", "user", ""}};
  return manifest;
}

TEST(ManifestTest, ReadsBackAsItWas) {
  const std::string text = WriteManifest(Sample());
  EXPECT_EQ(WriteManifest(Must(ReadManifest(text))), text);
  const Manifest back = Must(ReadManifest(text));
  EXPECT_EQ(back.targets, Sample().targets);
  EXPECT_EQ(back.files[0].bytes, UINT64_MAX);
  EXPECT_EQ(back.files[1].xxh3, "dd");
  EXPECT_EQ(back.linears[0].source_layout, "gptq-v2");
  EXPECT_EQ(back.linears[0].layout, "gptq-v1");
  EXPECT_EQ(back.linears[0].source_group_size, 64U);
  EXPECT_EQ(back.linears[0].group_size, 16U);
  EXPECT_EQ(back.linears[0].source_bits, 4U);
  EXPECT_EQ(back.linears[0].bits, 8U);
  EXPECT_EQ(back.linears[0].exactness, "same-values");
  EXPECT_EQ(back.linears[0].fingerprint.qlf1, "q1");
  EXPECT_EQ(back.fingerprint.values, "vv");
  EXPECT_EQ(back.linears[0].source_outputs.of, 0U);
  EXPECT_EQ(back.linears[1].source_outputs.first, 32U);
  EXPECT_EQ(back.linears[1].source_outputs.of, 96U);
  EXPECT_EQ(back.tensors[0].source_rows.of, 0U);
  EXPECT_EQ(back.tensors[2].source_rows.first, 32U);
  EXPECT_EQ(back.tensors[2].source_rows.of, 96U);
  EXPECT_EQ(back.files[0].head_bytes, 77U);
  EXPECT_EQ(back.tensors[0].dtype, Dtype::kBF16);
  EXPECT_EQ(back.tensors[0].shape, (Shape{3, 0, 7}));
  EXPECT_EQ(back.tensors[0].sources, (std::vector<std::string>{"s1", "s2"}));
  EXPECT_TRUE(back.tensors[1].sources.empty());
  EXPECT_EQ(back.dropped[0].same_as, "b");
  EXPECT_EQ(back.publish, "atomic-rename");
}

TEST(ManifestTest, EmptyListsAreValidJson) {
  Manifest manifest = Sample();
  manifest.files.clear();
  manifest.linears.clear();
  manifest.tensors.clear();
  manifest.dropped.clear();
  Must(ParseJson(WriteManifest(manifest)));
  Must(ReadManifest(WriteManifest(manifest)));
}

TEST(ManifestTest, OthersAreRefused) {
  ExpectError(ReadManifest("{}"), Code::kMalformed, "manifest", {"format"});
  ExpectError(ReadManifest("[]"), Code::kMalformed, "manifest");
  ExpectError(ReadManifest("x"), Code::kMalformed, "json");
  const std::string text = WriteManifest(Sample());
  const auto replaced = [&](const std::string& from, const std::string& to) {
    std::string changed = text;
    changed.replace(changed.find(from), from.size(), to);
    return ReadManifest(changed);
  };
  ExpectError(replaced("\"version\": \"1.3\"", "\"version\": \"2.0\""), Code::kRefused, "manifest-version", {"2.0"});
  for (const char* older_and_newer : {"1.0", "1.7"}) Must(replaced("\"version\": \"1.3\"", fmt::format("\"version\": \"{}\"", older_and_newer)));
  ExpectError(replaced("\"of\": 96", "\"of\": 0"), Code::kMalformed, "manifest", {"source_outputs"});
  ExpectError(replaced("\"first\": 32", "\"first\": []"), Code::kMalformed, "manifest", {"source_outputs"});
  ExpectError(replaced("\"format\": \"qwen2-convert-manifest\"", "\"format\": \"other\""), Code::kMalformed, "manifest");
  ExpectError(replaced("\"BF16\"", "\"B17\""), Code::kMalformed, "manifest");
  ExpectError(replaced("\"bytes\": 0", "\"bytes\": -1"), Code::kMalformed, "manifest", {"bytes"});
  ExpectError(replaced("\"tensors\": [", "\"tensor\": ["), Code::kMalformed, "manifest", {"tensors"});
  ExpectError(replaced("\"shape\": [3", "\"shape\": [-3"), Code::kMalformed, "manifest", {"shape"});
}

}  // namespace
}  // namespace q2c
