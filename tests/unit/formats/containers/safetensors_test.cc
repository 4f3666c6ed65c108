// The container against literal bytes and against every rule of the format, one broken file each.
#include "formats/containers/safetensors.h"

#include <algorithm>
#include <gtest/gtest.h>

#include <sys/mman.h>
#include <unistd.h>

#include "formats/base/hash.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

Result<SafetensorsHeader> Parse(const std::string& file) { return ParseSafetensorsHeader(AsBytes(file), file.size()); }
Result<SafetensorsHeader> ParseHeader(const std::string& header, size_t data_bytes) { return Parse(test::RawSafetensors(header, std::string(data_bytes, 'x'))); }

TEST(SafetensorsLiteral, WorkedExample) {
  const std::vector<SafetensorsEntry> entries = {{"l.qweight", Dtype::kI32, {1, 2}}, {"l.scales", Dtype::kF16, {1, 2}}};
  const std::string head = BuildSafetensorsHead(entries);
  const std::string text =
      R"({"__metadata__":{"format":"pt"},"l.qweight":{"dtype":"I32","shape":[1,2],"data_offsets":[0,8]},"l.scales":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}})";
  EXPECT_EQ(head, std::string("\xa0\0\0\0\0\0\0\0", 8) + text + "  ");
  const std::string file = head + std::string("\x50\xfa\x94\x3e\x83\x2d\xd8\x72\x00\x14\x00\x18", 12);
  EXPECT_EQ(file.size(), 180U);
  EXPECT_EQ(Sha256::Of(AsBytes(file)), "b0951895639d9e5688b7ce7dca93e5ef4f64883b6e83e47b95afbfb40a6c91a0");

  const SafetensorsHeader header = Must(Parse(file));
  EXPECT_TRUE(header.warnings.empty());
  EXPECT_EQ(header.metadata, (std::vector<std::pair<std::string, std::string>>{{"format", "pt"}}));
  ASSERT_EQ(header.tensors.size(), 2U);
  EXPECT_EQ(header.tensors[0].name, "l.qweight");
  EXPECT_EQ(header.tensors[0].dtype, Dtype::kI32);
  EXPECT_EQ(header.tensors[0].shape, (Shape{1, 2}));
  EXPECT_EQ(header.tensors[0].offset, 168U);
  EXPECT_EQ(header.tensors[0].bytes, 8U);
  EXPECT_EQ(header.tensors[1].offset, 176U);
}

TEST(SafetensorsWriter, OrderIsThatOfTheReferenceWriter) {
  std::vector<SafetensorsEntry> entries;
  const std::vector<Dtype> dtypes = {Dtype::kBool, Dtype::kU8, Dtype::kF16, Dtype::kBF16, Dtype::kI32, Dtype::kF32, Dtype::kI64};
  for (const Dtype dtype : dtypes) {
    for (const char* name : {"b", "a.10", "a.2", "B"}) entries.push_back({fmt::format("{}{}", name, NameOf(dtype)), dtype, {1}});
  }
  std::ranges::sort(entries, {}, [](const SafetensorsEntry& entry) { return SafetensorsOrder(entry.dtype, entry.name); });
  std::string order;
  for (size_t i = 0; i < entries.size(); i += 4) {
    order += fmt::format("{} ", NameOf(entries[i].dtype));
    const std::string dtype(NameOf(entries[i].dtype));
    EXPECT_EQ(entries[i].name + " " + entries[i + 1].name + " " + entries[i + 2].name + " " + entries[i + 3].name, "B" + dtype + " a.10" + dtype + " a.2" + dtype + " b" + dtype);
  }
  EXPECT_EQ(order, "I64 F32 I32 BF16 F16 U8 BOOL ");
}

TEST(SafetensorsWriter, NamesAreEscapedAndEveryLengthIsPadded) {
  for (size_t length = 1; length < 20; ++length) {
    const std::string name = std::string(length, 'n') + "\"\\\n\x01é";
    const std::string head = BuildSafetensorsHead({{name, Dtype::kU8, {3}}, {"empty", Dtype::kF32, {0, 7}}, {"scalar", Dtype::kF32, {}}});
    EXPECT_EQ(head.size() % 8, 0U);
    const SafetensorsHeader header = Must(Parse(head + "1234567"));
    ASSERT_EQ(header.tensors.size(), 3U);
    EXPECT_EQ(header.tensors[0].name, name);
    EXPECT_EQ(header.tensors[1].bytes, 0U);
    EXPECT_EQ(header.tensors[2].bytes, 4U);
  }
}

TEST(SafetensorsReader, EveryDtypeHasItsSize) {
  for (const auto& [name, bits] : std::vector<std::pair<std::string, uint64_t>>{
           {"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16},
           {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32}, {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}}) {
    const uint64_t bytes = 4 * bits / 8;
    const auto header = [&dtype = name](uint64_t end) { return fmt::format(R"({{"t":{{"dtype":"{}","shape":[2,2],"data_offsets":[0,{}]}}}})", dtype, end); };
    EXPECT_TRUE(ParseHeader(header(bytes), bytes).ok()) << name;
    ExpectError(ParseHeader(header(bytes + 1), bytes + 1), Code::kMalformed, "safetensors-size", {"'t'"});
  }
  ExpectError(ParseHeader(R"({"t":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}})", 2), Code::kMalformed, "safetensors-size");  // a byte and a half
  for (const char* dtype : {"F128", "f16", "", "F16 "}) {
    ExpectError(ParseHeader(fmt::format(R"({{"t":{{"dtype":"{}","shape":[1],"data_offsets":[0,2]}}}})", dtype), 2), Code::kRefused, "dtype-unknown", {"'t'"});
  }
}

struct Bad {
  const char* header;
  size_t data;
  const char* id;
};

class SafetensorsBroken : public testing::TestWithParam<Bad> {};

TEST_P(SafetensorsBroken, IsRefused) { ExpectError(ParseHeader(GetParam().header, GetParam().data), Code::kMalformed, GetParam().id); }

INSTANTIATE_TEST_SUITE_P(
    Headers, SafetensorsBroken,
    testing::Values(
        Bad{"", 0, "safetensors-header"}, Bad{"{", 0, "json"}, Bad{"[]", 0, "json"}, Bad{"null", 0, "json"}, Bad{"{}x", 0, "json"}, Bad{"{\"a\":\"\xff\"}", 0, "json"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "json-duplicate-key"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"\u0074":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "json-duplicate-key"},
        Bad{R"({"__metadata__":{},"__metadata__":{}})", 0, "json-duplicate-key"}, Bad{R"({"__metadata__":[]})", 0, "safetensors-metadata"},
        Bad{R"({"__metadata__":{"a":1}})", 0, "safetensors-metadata"}, Bad{R"({"__metadata__":{"a":null}})", 0, "safetensors-metadata"},
        // entries
        Bad{R"({"t":1})", 0, "safetensors-entry"}, Bad{R"({"t":{}})", 0, "safetensors-entry"}, Bad{R"({"t":{"dtype":"U8","shape":[1]}})", 1, "safetensors-entry"},
        Bad{R"({"t":{"shape":[1],"data_offsets":[0,1]}})", 1, "safetensors-entry"}, Bad{R"({"t":{"dtype":"U8","data_offsets":[0,1]}})", 1, "safetensors-entry"},
        Bad{R"({"t":{"dtype":8,"shape":[1],"data_offsets":[0,1]}})", 1, "safetensors-entry"}, Bad{R"({"t":{"dtype":"U8","shape":1,"data_offsets":[0,1]}})", 1, "safetensors-entry"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0]}})", 1, "safetensors-entry"}, Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}})", 1, "safetensors-entry"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":{}}})", 1, "safetensors-entry"},
        // numbers
        Bad{R"({"t":{"dtype":"U8","shape":[-1],"data_offsets":[0,1]}})", 1, "safetensors-number"}, Bad{R"({"t":{"dtype":"U8","shape":[1.0],"data_offsets":[0,1]}})", 1, "safetensors-number"},
        Bad{R"({"t":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}})", 1, "safetensors-number"}, Bad{R"({"t":{"dtype":"U8","shape":["1"],"data_offsets":[0,1]}})", 1, "safetensors-number"},
        Bad{R"({"t":{"dtype":"U8","shape":[true],"data_offsets":[0,1]}})", 1, "safetensors-number"}, Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[-1,0]}})", 1, "safetensors-number"},
        Bad{R"({"t":{"dtype":"U8","shape":[18446744073709551616],"data_offsets":[0,1]}})", 1, "safetensors-number"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[0,null]}})", 1, "safetensors-number"},
        // sizes
        Bad{R"({"t":{"dtype":"U8","shape":[2],"data_offsets":[0,1]}})", 1, "safetensors-size"}, Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[1,0]}})", 1, "safetensors-size"},
        Bad{R"({"t":{"dtype":"U64","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "safetensors-size"},
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[18446744073709551614,18446744073709551615]}})", 1, "safetensors-size"},
        Bad{R"({"t":{"dtype":"U8","shape":[],"data_offsets":[0,0]}})", 0, "safetensors-size"},
        // coverage
        Bad{R"({"t":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}})", 2, "safetensors-gap"},
        Bad{R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"b":{"dtype":"U8","shape":[1],"data_offsets":[2,3]}})", 3, "safetensors-gap"},
        Bad{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}})", 3, "safetensors-overlap"},
        Bad{R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}})", 2, "safetensors-overlap"},
        Bad{R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})", 4, "safetensors-overlap"},
        Bad{R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 3, "truncated"}, Bad{R"({"t":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}})", 5, "trailing-bytes"},
        Bad{"{}", 1, "trailing-bytes"}));

TEST(SafetensorsReader, AnyOrderInTheHeaderAndEmptyTensors) {
  const SafetensorsHeader header = Must(ParseHeader(
      R"({"c":{"dtype":"U8","shape":[2],"data_offsets":[3,5]},"b":{"dtype":"U8","shape":[0],"data_offsets":[3,3]},"a":{"data_offsets":[0,3],"shape":[3],"dtype":"U8"}})", 5));
  ASSERT_EQ(header.tensors.size(), 3U);
  EXPECT_EQ(header.tensors[0].name + header.tensors[1].name + header.tensors[2].name, "abc");
  // A dimension of zero makes it empty, however large the others.
  Must(ParseHeader(R"({"t":{"dtype":"U64","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[0,0]}})", 0));
}

TEST(SafetensorsReader, RankAndDepth) {
  const auto ranked = [](size_t rank) {
    std::string shape = "1";
    for (size_t i = 1; i < rank; ++i) shape += ",1";
    return ParseHeader(R"({"t":{"dtype":"U8","shape":[)" + shape + R"(],"data_offsets":[0,1]}})", 1);
  };
  Must(ranked(64));
  ExpectError(ranked(65), Code::kMalformed, "safetensors-rank");
  ExpectError(ParseHeader("{\"t\":" + std::string(100, '[') + std::string(100, ']') + "}", 0), Code::kMalformed, "json-depth");
}

TEST(SafetensorsReader, LengthsThatCannotBe) {
  const auto head = [](uint64_t length) {
    std::string bytes = test::RawSafetensors("", "{}");
    std::memcpy(bytes.data(), &length, 8);
    return bytes;
  };
  ExpectError(Parse(""), Code::kMalformed, "truncated");
  ExpectError(Parse("1234567"), Code::kMalformed, "truncated");
  ExpectError(Parse(head(3)), Code::kMalformed, "truncated", {"claims 3"});
  ExpectError(Parse(head(kMaxSafetensorsHeader)), Code::kMalformed, "truncated");
  ExpectError(Parse(head(kMaxSafetensorsHeader + 1)), Code::kMalformed, "safetensors-header");
  ExpectError(Parse(head(UINT64_MAX)), Code::kMalformed, "safetensors-header");
  ExpectError(Parse(head(UINT64_MAX - 7)), Code::kMalformed, "safetensors-header");
}

TEST(SafetensorsReader, OtherKindsOfFilesAreNamed) {
  for (const auto& [start, word] : std::vector<std::pair<std::string, std::string>>{
           {"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"}, {"PK\x03\x04xxxxxxxx", "ZIP"}, {"\x80\x02}qxxxxxxxx", "pickle"}, {"GGUFxxxxxxxx", "GGUF"},
           {"<!DOCTYPE html>", "web page"}, {"<html>xxxxx", "web page"}}) {
    ExpectError(Parse(start), Code::kMalformed, "file-type", {word});
  }
}

TEST(SafetensorsReader, ReadsNothingBehindTheBytesItIsGiven) {
  // The bytes end where a page that may not be touched begins.
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  auto* memory = static_cast<char*>(::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
  ASSERT_NE(memory, MAP_FAILED);
  ASSERT_EQ(::mprotect(memory + page, page, PROT_NONE), 0);
  const std::string file = test::Safetensors({{"a", "U8", {4}, test::Bytes(4)}, {"b", "F16", {2}, test::Bytes(4)}});
  for (size_t length = 0; length <= file.size(); ++length) {
    char* start = memory + page - length;
    std::memcpy(start, file.data(), length);
    (void)ParseSafetensorsHeader(ByteView(reinterpret_cast<const std::byte*>(start), length), length);      // a file cut short
    (void)ParseSafetensorsHeader(ByteView(reinterpret_cast<const std::byte*>(start), length), file.size());  // or less given than there is
  }
  ::munmap(memory, 2 * page);
}

TEST(SafetensorsReader, EveryCutFileAndEveryFlippedHeaderBitIsHandled) {
  const std::string file = test::Safetensors({{"a", "U8", {4}, test::Bytes(4)}, {"b", "F16", {2}, test::Bytes(4)}});
  for (size_t length = 0; length < file.size(); ++length) EXPECT_FALSE(Parse(file.substr(0, length)).ok()) << length;
  for (size_t bit = 0; bit < 8 * (file.size() - 8); ++bit) {
    std::string broken = file;
    broken[bit / 8] ^= static_cast<char>(1U << (bit % 8));
    const Result<SafetensorsHeader> header = Parse(broken);
    if (!header.ok()) continue;  // where it still parses, the tensors must lie inside the file
    for (const TensorInfo& tensor : header.value().tensors) EXPECT_LE(tensor.offset + tensor.bytes, broken.size());
  }
}

TEST(SafetensorsFile, MessagesNameTheFile) {
  const test::TempFolder folder;
  test::WriteWhole(folder / "x.safetensors", "short");
  test::WriteWhole(folder / "y.safetensors", test::Safetensors({{"a", "U8", {4}, test::Bytes(4)}}));
  const Dir dir = Must(Dir::Open(folder.path()));
  ExpectError(ReadSafetensorsHeader(Must(InputFile::Open(dir, "x.safetensors"))), Code::kMalformed, "truncated", {"x.safetensors"});
  EXPECT_EQ(Must(ReadSafetensorsHeader(Must(InputFile::Open(dir, "y.safetensors")))).tensors.size(), 1U);
}

}  // namespace
}  // namespace q2c
