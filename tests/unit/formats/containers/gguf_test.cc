// The container against files of the reference writer and against every rule of the format, one broken file each.
#include "formats/containers/gguf.h"

#include <gtest/gtest.h>

#include "formats/base/hash.h"
#include "tests/unit/formats/containers/gguf_reference.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

Result<GgufHeader> Parse(const std::string& file) { return ParseGgufHeader(AsBytes(file), file.size()); }

std::string FromHex(std::string_view digits) {
  std::string bytes;
  for (size_t i = 0; i + 1 < digits.size(); i += 2) bytes += static_cast<char>(std::stoi(std::string(digits.substr(i, 2)), nullptr, 16));
  return bytes;
}

// Little-endian pieces, apart from the code under test.
std::string Le(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xFFU);
  return bytes;
}
std::string U32(uint64_t value) { return Le(value, 4); }
std::string U64(uint64_t value) { return Le(value, 8); }
std::string Text(const std::string& text) { return U64(text.size()) + text; }
std::string Front(uint64_t tensors, uint64_t values, uint32_t version = 3) { return "GGUF" + U32(version) + U64(tensors) + U64(values); }
std::string Pad(std::string bytes, size_t alignment = 32) {
  bytes.resize((bytes.size() + alignment - 1) / alignment * alignment);
  return bytes;
}
// `dims` as they stand in the file: innermost first.
std::string Tensor(const std::string& name, const std::vector<uint64_t>& dims, uint32_t type, uint64_t offset) {
  std::string bytes = Text(name) + U32(dims.size());
  for (const uint64_t dim : dims) bytes += U64(dim);
  return bytes + U32(type) + U64(offset);
}
// One tensor, no values.
Result<GgufHeader> ParseOne(const std::string& tensor, size_t data_bytes) { return Parse(Pad(Front(1, 0) + tensor) + std::string(data_bytes, 'x')); }
// One value, no tensors.
Result<GgufHeader> ParseValue(const std::string& value) { return Parse(Front(0, 1) + Text("k") + value); }

const std::string kTiny = FromHex(
    "4747554603000000010000000000000001000000000000001400000000000000"
    "67656e6572616c2e617263686974656374757265080000000500000000000000"
    "7177656e321300000000000000626c6b2e302e6174746e5f712e776569676874"
    "0200000020000000000000000200000000000000020000000000000000000000"
    "00140055aaff4499ee3388dd2277cc1166bb001873c81d62c81d62b71d62b70c"
    "62b70c5100000000000000000000000000000000000000000000000000000000");

TEST(GgufLiteral, WorkedExample) {
  EXPECT_EQ(Sha256::Of(AsBytes(kTiny)), "a666d5ea1eea848b034ec8dd688362b3dfcd7655b1b95831f8464a37a3adbae1");
  const GgufHeader header = Must(Parse(kTiny));
  EXPECT_EQ(header.alignment, 32U);
  EXPECT_EQ(header.values, (GgufValues{{"general.architecture", GgufValue::String("qwen2")}}));
  ASSERT_EQ(header.tensors.size(), 1U);
  EXPECT_EQ(header.tensors[0].name, "blk.0.attn_q.weight");
  EXPECT_EQ(header.tensors[0].dtype, Dtype::kQ4_0);
  EXPECT_EQ(header.tensors[0].shape, (Shape{2, 32}));
  EXPECT_EQ(header.tensors[0].offset, 128U);
  EXPECT_EQ(header.tensors[0].bytes, 36U);

  const GgufHead head = Must(BuildGgufHead(header.values, {{"blk.0.attn_q.weight", Dtype::kQ4_0, {2, 32}}}));
  EXPECT_EQ(head.bytes, kTiny.substr(0, 128));
  EXPECT_EQ(head.offsets, (std::vector<uint64_t>{128}));
  EXPECT_EQ(head.padding, (std::vector<uint64_t>{28}));
  EXPECT_EQ(head.file_bytes, 192U);
}

TEST(GgufReference, EveryTypeAsGgufPyWritesIt) {
  const std::string file = FromHex(test::kGgufPyFile);
  ASSERT_EQ(Sha256::Of(AsBytes(file)), "fad79c19ac8b080406ef4c1aa40f70ff030ffb24d58df207f2c3f0c7bb7bacf9");
  const GgufHeader header = Must(Parse(file));
  EXPECT_EQ(header.values, (GgufValues{{"general.architecture", GgufValue::String("qwen2")},
                                       {"k.u8", GgufValue::U8(200)},
                                       {"k.i8", GgufValue::I8(-100)},
                                       {"k.u16", GgufValue::U16(60000)},
                                       {"k.i16", GgufValue::I16(-30000)},
                                       {"k.u32", GgufValue::U32(4000000000)},
                                       {"k.i32", GgufValue::I32(-2000000000)},
                                       {"k.f32", GgufValue::F32(0.1F)},
                                       {"k.bool", GgufValue::Bool(true)},
                                       {"k.string", GgufValue::String("é")},
                                       {"k.u64", GgufValue::U64((1ULL << 63U) + 1)},
                                       {"k.i64", GgufValue::I64(-(1LL << 62U))},
                                       {"k.f64", GgufValue::F64(0.1)},
                                       {"k.i32s", GgufValue::I32s({-1, 2})},
                                       {"k.f32s", GgufValue::F32s({0.5F})},
                                       {"k.bools", GgufValue::Raw(GgufType::kBool, true, AsBytes(std::string_view("\1\0", 2)))},
                                       {"k.strings", GgufValue::Strings({"a", "", "bc"})}}));
  std::string seen;
  for (const TensorInfo& tensor : header.tensors) {
    seen += fmt::format("{} {} {} {} {}\n", tensor.name, NameOf(tensor.dtype), fmt::join(tensor.shape, ","), tensor.offset, tensor.bytes);
  }
  EXPECT_EQ(seen,
            "f32 F32 3 832 12\nf16 F16 2,3 864 12\nbf16 BF16 2,2 896 8\nq4_0 Q4_0 2,32 928 36\nq4_1 Q4_1 1,64 992 40\nq8_0 Q8_0 1,32 1056 34\n"
            "blk.0.ffn_up_exps.0.weight F32 2,2 1120 16\nblk.0.ffn_up_exps.1.weight F32 2,2 1136 16\nblk.0.ffn_up_exps.2.weight F32 2,2 1152 16\n");

  std::vector<GgufEntry> entries;
  for (const TensorInfo& tensor : header.tensors) entries.push_back({tensor.name, tensor.dtype, tensor.shape});
  const GgufHead head = Must(BuildGgufHead(header.values, entries));
  EXPECT_EQ(head.bytes, file.substr(0, 832));
  EXPECT_EQ(head.offsets, (std::vector<uint64_t>{832, 864, 896, 928, 992, 1056, 1120, 1136, 1152}));
  EXPECT_EQ(head.padding, (std::vector<uint64_t>{20, 20, 24, 28, 24, 30, 0, 0, 16}));
  EXPECT_EQ(head.file_bytes, file.size());
}

TEST(GgufValues, Access) {
  const GgufValue list = GgufValue::I32s({-1, 7});
  EXPECT_EQ(list.size(), 2U);
  EXPECT_EQ(list.AsI64(0), -1);
  EXPECT_EQ(list.AsU64(0), std::nullopt);
  EXPECT_EQ(list.AsU64(1), 7U);
  EXPECT_EQ(list.AsU64(2), std::nullopt);
  EXPECT_EQ(list.KindName(), "array of 2 i32");
  EXPECT_EQ(GgufValue::U64(UINT64_MAX).AsU64(), UINT64_MAX);
  EXPECT_EQ(GgufValue::U64(UINT64_MAX).AsI64(), std::nullopt);
  EXPECT_EQ(GgufValue::F32(0.5F).AsF64(), 0.5);
  EXPECT_EQ(GgufValue::F32(0.5F).AsU64(), std::nullopt);
  EXPECT_EQ(GgufValue::I8(-3).AsF64(), -3.0);
  EXPECT_EQ(GgufValue::Bool(true).AsBool(), true);
  EXPECT_EQ(GgufValue::Bool(true).AsU64(), std::nullopt);
  EXPECT_EQ(GgufValue::U8(1).AsBool(), std::nullopt);
  EXPECT_EQ(GgufValue::Strings({"a", "b"}).AsText(1), "b");
  EXPECT_EQ(GgufValue::String("a").AsText(1), std::nullopt);
  EXPECT_EQ(GgufValue::String("a").AsF64(), std::nullopt);
  EXPECT_EQ(GgufValue::Strings({}).size(), 0U);
  EXPECT_EQ(GgufValue::Strings({}).KindName(), "array of 0 string");
  const GgufValues values = {{"a", GgufValue::U32(1)}};
  EXPECT_EQ(FindGguf(values, "a"), &values[0].second);
  EXPECT_EQ(FindGguf(values, "b"), nullptr);
}

TEST(GgufBroken, StartOfTheFile) {
  ExpectError(Parse("ggjtxxxxxxxxxxxxxxxxxxxxxxxx"), Code::kMalformed, "file-type", {"ggjt"});
  ExpectError(Parse("version https://git-lfs.github.com/spec/v1\noid"), Code::kMalformed, "file-type", {"Git LFS"});
  ExpectError(Parse(Front(0, 0, 0)), Code::kMalformed, "gguf-version");
  ExpectError(Parse(Front(0, 0, 1)), Code::kRefused, "gguf-version", {"anew"});
  ExpectError(Parse(Front(0, 0, 4)), Code::kRefused, "gguf-version");
  ExpectError(Parse(Front(0, 0, 0x03000000)), Code::kRefused, "gguf-endian");
  Must(Parse(Front(0, 0, 2)));
  ExpectError(Parse(""), Code::kMalformed, "truncated");
  ExpectError(Parse("GGUF\3"), Code::kMalformed, "truncated");
  ExpectError(Parse(Front(1, 0)), Code::kMalformed, "truncated", {"tensor 1 of 1"});
  ExpectError(Parse(Front(UINT64_MAX, 0)), Code::kMalformed, "gguf-header", {"tensors"});
  ExpectError(Parse(Front(0, UINT64_MAX)), Code::kMalformed, "gguf-header", {"key-values"});
}

TEST(GgufBroken, Values) {
  ExpectError(Parse(Front(0, 1) + Text("") + U32(0) + "x"), Code::kMalformed, "gguf-key");
  ExpectError(Parse(Front(0, 1) + Text("\xff") + U32(0) + "x"), Code::kMalformed, "gguf-key", {"\\xff"});
  ExpectError(Parse(Front(0, 1) + Text(std::string("a\0b", 3)) + U32(0) + "x"), Code::kMalformed, "gguf-key");
  ExpectError(Parse(Front(0, 2) + Text("k") + U32(0) + "x" + Text("k") + U32(0) + "x"), Code::kMalformed, "gguf-duplicate-key", {"'k'"});
  ExpectError(ParseValue(U32(13)), Code::kMalformed, "gguf-type", {"'k'", "13"});
  ExpectError(ParseValue(U32(9) + U32(13) + U64(0)), Code::kMalformed, "gguf-type");
  ExpectError(ParseValue(U32(9) + U32(9) + U64(0)), Code::kRefused, "gguf-array", {"'k'"});
  ExpectError(ParseValue(U32(7) + "\2"), Code::kMalformed, "gguf-bool", {"'k'"});
  ExpectError(ParseValue(U32(9) + U32(7) + U64(2) + "\1\2"), Code::kMalformed, "gguf-bool");
  ExpectError(ParseValue(U32(4) + "123"), Code::kMalformed, "truncated", {"'k'"});
  ExpectError(ParseValue(U32(8) + U64(UINT64_MAX) + "x"), Code::kMalformed, "truncated");
  ExpectError(ParseValue(U32(9) + U32(8) + U64(UINT64_MAX) + Text("")), Code::kMalformed, "truncated");
  ExpectError(ParseValue(U32(9) + U32(10) + U64(1ULL << 61U)), Code::kMalformed, "truncated");  // 2^64 bytes
  ExpectError(Parse(Front(0, 1) + U64(UINT64_MAX)), Code::kMalformed, "truncated", {"key 1 of 1"});
  // A file that is large enough for what is declared, of which only the front is looked at.
  const std::string texts = Front(0, 1) + Text("k") + U32(9) + U32(8) + U64(4'000'001);
  ExpectError(ParseGgufHeader(AsBytes(texts), uint64_t{1} << 40U), Code::kMalformed, "gguf-array", {"4000001"});
  const std::string number = Front(0, 1) + Text("k") + U32(9) + U32(0) + U64(kMaxGgufHeader);
  ExpectError(ParseGgufHeader(AsBytes(number), uint64_t{1} << 40U), Code::kMalformed, "gguf-header");
}

TEST(GgufBroken, Alignment) {
  const auto with = [](const std::string& value) { return Parse(Front(0, 1) + Text("general.alignment") + value); };
  ExpectError(with(U32(4) + U32(0)), Code::kMalformed, "gguf-alignment", {"power of two"});
  ExpectError(with(U32(4) + U32(48)), Code::kMalformed, "gguf-alignment", {"48"});
  ExpectError(with(U32(10) + U64(32)), Code::kMalformed, "gguf-alignment", {"u64"});
  ExpectError(with(U32(9) + U32(4) + U64(1) + U32(32)), Code::kMalformed, "gguf-alignment", {"array"});
  EXPECT_EQ(Must(with(U32(4) + U32(64))).alignment, 64U);
}

TEST(GgufBroken, Tensors) {
  const std::string x32(32, 'x');
  Must(ParseOne(Tensor("t", {8}, 0, 0), 32));
  ExpectError(ParseOne(Tensor("", {8}, 0, 0), 32), Code::kMalformed, "gguf-name");
  ExpectError(ParseOne(Tensor("\xc3", {8}, 0, 0), 32), Code::kMalformed, "gguf-name");
  ExpectError(ParseOne(Tensor(std::string("a\0", 2), {8}, 0, 0), 32), Code::kMalformed, "gguf-name");
  Must(ParseOne(Tensor(std::string(63, 'n'), {8}, 0, 0), 32));
  ExpectError(ParseOne(Tensor(std::string(64, 'n'), {8}, 0, 0), 32), Code::kMalformed, "gguf-name", {"64"});
  ExpectError(ParseOne(Tensor("b_exps.0.weight", {2, 4}, 0, 0), 32), Code::kRefused, "gguf-name");
  ExpectError(Parse(Pad(Front(2, 0) + Tensor("t", {8}, 0, 0) + Tensor("t", {8}, 0, 32)) + x32 + x32), Code::kMalformed, "gguf-duplicate-name", {"'t'"});
  ExpectError(ParseOne(Tensor("t", {}, 0, 0), 32), Code::kMalformed, "gguf-shape", {"0 dimensions"});
  ExpectError(ParseOne(Tensor("t", {1, 1, 1, 1, 8}, 0, 0), 32), Code::kMalformed, "gguf-shape", {"5 dimensions"});
  ExpectError(ParseOne(Text("t") + U32(UINT32_MAX) + U64(8) + U32(0) + U64(0), 32), Code::kMalformed, "gguf-shape");
  ExpectError(ParseOne(Tensor("t", {0}, 0, 0), 32), Code::kMalformed, "gguf-shape", {"dimension of 0"});
  ExpectError(ParseOne(Tensor("t", {2, 2, 2}, 0, 0), 32), Code::kRefused, "gguf-shape", {"[2,2,2]"});
  ExpectError(ParseOne(Tensor("t_exps.weight", {2, 2, 1, 2}, 0, 0), 32), Code::kRefused, "gguf-shape");
  ExpectError(ParseOne(Tensor("t_exps.weight", {1, 1, 1025}, 0, 0), 4128), Code::kMalformed, "gguf-shape", {"1025 experts"});
  ExpectError(ParseOne(Tensor("t", {16}, 2, 0), 32), Code::kMalformed, "gguf-shape", {"Q4_0"});  // half a block
  ExpectError(ParseOne(Tensor("t", {1ULL << 32U, 1ULL << 32U}, 0, 0), 32), Code::kMalformed, "gguf-shape", {"too large"});
  for (const auto& [type, name] : std::vector<std::pair<uint32_t, std::string>>{
           {6, "Q5_0"}, {7, "Q5_1"}, {9, "Q8_1"}, {10, "Q2_K"}, {11, "Q3_K"}, {12, "Q4_K"}, {13, "Q5_K"}, {14, "Q6_K"}, {15, "Q8_K"}, {16, "IQ2_XXS"}, {17, "IQ2_XS"},
           {18, "IQ3_XXS"}, {19, "IQ1_S"}, {20, "IQ4_NL"}, {21, "IQ3_S"}, {22, "IQ2_S"}, {23, "IQ4_XS"}, {24, "I8"}, {25, "I16"}, {26, "I32"}, {27, "I64"}, {28, "F64"},
           {29, "IQ1_M"}, {34, "TQ1_0"}, {35, "TQ2_0"}, {39, "MXFP4"}, {40, "NVFP4"}, {41, "Q1_0"}, {42, "Q2_0"}}) {
    ExpectError(ParseOne(Tensor("t", {256}, type, 0), 1024), Code::kRefused, "gguf-tensor-type", {"'t'", "type " + name + ";"});
  }
  for (const auto& [type, name] : std::vector<std::pair<uint32_t, std::string>>{
           {4, "Q4_2"}, {5, "Q4_3"}, {31, "Q4_0_4_4"}, {32, "Q4_0_4_8"}, {33, "Q4_0_8_8"}, {36, "IQ4_NL_4_4"}, {37, "IQ4_NL_4_8"}, {38, "IQ4_NL_8_8"}}) {
    ExpectError(ParseOne(Tensor("t", {256}, type, 0), 1024), Code::kRefused, "gguf-tensor-type", {"type " + name + ",", "removed"});
  }
  ExpectError(ParseOne(Tensor("t", {256}, 43, 0), 1024), Code::kRefused, "gguf-tensor-type", {"43", "newer"});
}

TEST(GgufBroken, Places) {
  ExpectError(ParseOne(Tensor("t", {8}, 0, 32), 64), Code::kMalformed, "gguf-offset", {"byte 32", "expected 0"});
  const auto two = [](uint64_t second, size_t data) { return Parse(Pad(Front(2, 0) + Tensor("a", {1}, 0, 0) + Tensor("b", {8}, 0, second)) + std::string(data, 'x')); };
  EXPECT_EQ(Must(two(32, 64)).tensors[1].offset, 128U);
  ExpectError(two(4, 64), Code::kMalformed, "gguf-offset", {"'b'"});
  ExpectError(two(64, 96), Code::kMalformed, "gguf-offset", {"expected 32"});
  ExpectError(two(32, 63), Code::kMalformed, "truncated", {"'b'", "byte 160"});
  ExpectError(two(32, 65), Code::kMalformed, "trailing-bytes");
  // Some writers leave out the padding of the last tensor.
  Must(ParseOne(Tensor("t", {1}, 0, 0), 4));
  Must(ParseOne(Tensor("t", {1}, 0, 0), 31));
  Must(ParseOne(Tensor("t", {1}, 0, 0), 32));
  ExpectError(ParseOne(Tensor("t", {1}, 0, 0), 33), Code::kMalformed, "trailing-bytes");
  ExpectError(ParseOne(Tensor("t", {1}, 0, 0), 3), Code::kMalformed, "truncated");
  ExpectError(Parse(Front(1, 0) + Tensor("t", {1}, 0, 0)), Code::kMalformed, "truncated", {"ends with its header"});
  Must(Parse(Front(0, 0)));
  Must(Parse(Pad(Front(0, 0))));
  ExpectError(Parse(Pad(Front(0, 0)) + "x"), Code::kMalformed, "trailing-bytes");
}

TEST(GgufStacks, OneExpertMayComeWithTwoDimensions) {
  for (const auto& dims : std::vector<std::vector<uint64_t>>{{4, 2, 1}, {4, 2}}) {
    const GgufHeader header = Must(ParseOne(Tensor("b_exps.weight", dims, 0, 0), 32));
    ASSERT_EQ(header.tensors.size(), 1U);
    EXPECT_EQ(header.tensors[0].name, "b_exps.0.weight");
    EXPECT_EQ(header.tensors[0].shape, (Shape{2, 4}));
  }
  EXPECT_EQ(Must(ParseOne(Tensor("b_exps.weight", {8}, 0, 0), 32)).tensors[0].name, "b_exps.weight");  // no matrix
}

TEST(GgufWriter, Stacks) {
  const auto entry = [](const std::string& name, Dtype dtype = Dtype::kF16, const Shape& shape = {3, 1}) { return GgufEntry{name, dtype, shape}; };
  std::vector<GgufEntry> entries = {entry("a"), entry("x_exps.0.weight"), entry("x_exps.1.weight"), entry("y_exps.0.weight"), entry("b")};
  const GgufHead head = Must(BuildGgufHead({}, entries));
  EXPECT_EQ(head.bytes, Pad(Front(4, 0) + Tensor("a", {1, 3}, 1, 0) + Tensor("x_exps.weight", {1, 3, 2}, 1, 32) + Tensor("y_exps.weight", {1, 3, 1}, 1, 64) + Tensor("b", {1, 3}, 1, 96)));
  const uint64_t start = head.bytes.size();
  EXPECT_EQ(head.offsets, (std::vector<uint64_t>{start, start + 32, start + 38, start + 64, start + 96}));
  EXPECT_EQ(head.padding, (std::vector<uint64_t>{26, 0, 20, 26, 26}));
  EXPECT_EQ(head.file_bytes, start + 128);
  EXPECT_EQ(Must(Parse(head.bytes + std::string(128, '\0'))).tensors[2].name, "x_exps.1.weight");

  ExpectError(BuildGgufHead({}, {entry("x_exps.1.weight")}), Code::kRefused, "gguf-name", {"does not follow"});
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("x_exps.2.weight")}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("a"), entry("x_exps.1.weight")}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("y_exps.1.weight")}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("x_exps.0.weight")}), Code::kRefused, "gguf-name", {"twice"});
  ExpectError(BuildGgufHead({}, {entry("x_exps.weight")}), Code::kRefused, "gguf-name", {"one by one"});
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("x_exps.1.weight", Dtype::kF32)}), Code::kRefused, "gguf-shape", {"equal"});
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight"), entry("x_exps.1.weight", Dtype::kF16, {1, 3})}), Code::kRefused, "gguf-shape", {"equal"});
  ExpectError(BuildGgufHead({}, {entry("x_exps.0.weight", Dtype::kF16, {3})}), Code::kRefused, "gguf-shape");
  entries.clear();
  for (int i = 0; i < 1025; ++i) entries.push_back(entry(fmt::format("x_exps.{}.weight", i)));
  ExpectError(BuildGgufHead({}, entries), Code::kRefused, "gguf-shape", {"1024"});
}

TEST(GgufWriter, WhatCannotBeWritten) {
  Must(BuildGgufHead({}, {{std::string(63, 'n'), Dtype::kF32, {1}}}));
  ExpectError(BuildGgufHead({}, {{std::string(64, 'n'), Dtype::kF32, {1}}}), Code::kRefused, "gguf-name", {"64"});
  // The stack's name counts, not the names of its experts.
  Must(BuildGgufHead({}, {{std::string(51, 'n') + "_exps.0.weight", Dtype::kF32, {1, 1}}}));
  ExpectError(BuildGgufHead({}, {{std::string(52, 'n') + "_exps.0.weight", Dtype::kF32, {1, 1}}}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {{"", Dtype::kF32, {1}}}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {{"\xff", Dtype::kF32, {1}}}), Code::kRefused, "gguf-name");
  ExpectError(BuildGgufHead({}, {{"a", Dtype::kF32, {1}}, {"a", Dtype::kF32, {1}}}), Code::kRefused, "gguf-name", {"twice"});
  for (const Shape& shape : std::vector<Shape>{{}, {0}, {1, 1, 1}, {1ULL << 62U, 8}}) {
    ExpectError(BuildGgufHead({}, {{"a", Dtype::kF32, shape}}), Code::kRefused, "gguf-shape");
  }
  std::vector<GgufEntry> large;
  for (int i = 0; i < 8; ++i) large.push_back({fmt::format("t{}", i), Dtype::kF32, {1ULL << 58U}});
  ExpectError(BuildGgufHead({}, large), Code::kRefused, "gguf-shape", {"'t7'", "too large"});
  ExpectError(BuildGgufHead({}, {{"a", Dtype::kQ4_0, {33}}}), Code::kRefused, "gguf-shape");
  for (const Dtype dtype : {Dtype::kI32, Dtype::kF64, Dtype::kU8, Dtype::kF8E4M3}) ExpectError(BuildGgufHead({}, {{"a", dtype, {32}}}), Code::kRefused, "gguf-tensor-type");
  ExpectError(BuildGgufHead({{"", GgufValue::U8(1)}}, {}), Code::kMalformed, "gguf-key");
  ExpectError(BuildGgufHead({{"a", GgufValue::U8(1)}, {"a", GgufValue::U8(1)}}, {}), Code::kMalformed, "gguf-key", {"twice"});
  ExpectError(BuildGgufHead({{"general.alignment", GgufValue::U32(3)}}, {}), Code::kMalformed, "gguf-alignment");
  EXPECT_EQ(Must(BuildGgufHead({{"general.alignment", GgufValue::U32(1024)}}, {{"a", Dtype::kF32, {1}}})).offsets, (std::vector<uint64_t>{1024}));
}

TEST(GgufReader, EveryCutFileAndEveryFlippedBitIsHandled) {
  for (const std::string& file : {kTiny, FromHex(test::kGgufPyFile)}) {
    const GgufHeader whole = Must(Parse(file));
    const uint64_t end = whole.tensors.back().offset + whole.tensors.back().bytes;
    for (size_t length = 0; length < end; ++length) EXPECT_FALSE(Parse(file.substr(0, length)).ok()) << length;
    for (size_t bit = 0; bit < 8 * whole.tensors[0].offset; ++bit) {
      std::string broken = file;
      broken[bit / 8] ^= static_cast<char>(1U << (bit % 8));
      const Result<GgufHeader> header = Parse(broken);
      if (!header.ok()) continue;  // where it still parses, the tensors must lie inside the file
      for (const TensorInfo& tensor : header.value().tensors) EXPECT_LE(tensor.offset + tensor.bytes, broken.size());
    }
  }
  // A front that is too short to hold the header is our own mistake.
  ExpectError(ParseGgufHeader(AsBytes(kTiny).first(100), kTiny.size()), Code::kInternal, "internal");
}

TEST(GgufFile, LargeHeadersAreReadInPieces) {
  const test::TempFolder folder;
  std::vector<std::string> tokens;
  std::vector<int32_t> types;
  for (int i = 0; i < 150'000; ++i) {
    tokens.push_back(fmt::format("token {}", i));
    types.push_back(i);
  }
  tokens.emplace_back(3'000'000, 'x');  // longer than a piece
  const GgufValues values = {{"tokens", GgufValue::Strings(tokens)}, {"types", GgufValue::I32s(types)}, {"long", GgufValue::String(std::string(2'000'000, 'y'))}};
  const GgufHead head = Must(BuildGgufHead(values, {{"a", Dtype::kF32, {2}}, {"b", Dtype::kQ8_0, {2, 32}}}));
  test::WriteWhole(folder / "large.gguf", head.bytes + std::string(head.file_bytes - head.bytes.size(), '\0'));
  test::WriteWhole(folder / "short.gguf", head.bytes.substr(0, 5'000'000));
  const Dir dir = Must(Dir::Open(folder.path()));
  const GgufHeader header = Must(ReadGgufHeader(Must(InputFile::Open(dir, "large.gguf"))));
  EXPECT_EQ(header.values, values);
  EXPECT_EQ(header.tensors[1].offset, head.offsets[1]);
  ExpectError(ReadGgufHeader(Must(InputFile::Open(dir, "short.gguf"))), Code::kMalformed, "truncated", {"short.gguf", "'tokens'"});
}

}  // namespace
}  // namespace q2c
