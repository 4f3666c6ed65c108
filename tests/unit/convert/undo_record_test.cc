// The undo record: its very text, what is refused, and that damage never goes unnoticed.
#include "convert/undo_record.h"

#include <gtest/gtest.h>

#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/zstd.h"
#include "tests/unit/support/bits.h"
#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

const std::string kA(64, 'a');
const std::string kB(64, 'b');

Bytes BytesOfText(std::string_view text) {
  const ByteView view = AsBytes(text);
  return {view.begin(), view.end()};
}

UndoRecord Example() {
  UndoRecord record;
  record.tool_version = "9.8.7";
  record.outputs = {{"model.safetensors", 500, kA}};
  record.linears = {{"x.q_proj", "awq-gemm", 64, 32, 4, 32, "gptq-v1", 64, ""}, {"y.q_proj", "awq-gemm", 64, 32, 4, 32, "gptq-v1", 32, "BF16"}};
  UndoFile file;
  file.name = "old.safetensors";
  file.mode = 0640;
  file.bytes = 100;
  file.sha256 = kB;
  file.spans = {{UndoSpan::Kind::kBytes, 5, 0, 0, ""}, {UndoSpan::Kind::kZeros, 50, 0, 0, ""}, {UndoSpan::Kind::kCopy, 25, 0, 475, ""}, {UndoSpan::Kind::kPart, 20, 0, 0, "qzeros"}};
  file.patches = {{1, 1}, {60, 2}};
  file.literals = BytesOfText("HEAD\nxyz");
  UndoFile empty;
  empty.name = "empty";
  empty.sha256 = kA;
  record.files = {file, empty};
  return record;
}

// Written out from the description of the format.
const std::string kJson =
    R"({"tool":"9.8.7","outputs":[{"name":"model.safetensors","bytes":500,"sha256":")" + kA +
    R"("}],"linears":[{"name":"x.q_proj","layout":"awq-gemm","in_features":64,"out_features":32,"bits":4,"group_size":32,"source_layout":"gptq-v1","source_group_size":64},)"
    R"({"name":"y.q_proj","layout":"awq-gemm","in_features":64,"out_features":32,"bits":4,"group_size":32,"source_layout":"gptq-v1","source_group_size":32,"source_scales":"BF16"}],)"
    R"("files":[{"name":"old.safetensors","mode":"640","bytes":100,"sha256":")" + kB +
    R"(","spans":[["bytes",5],["zeros",50],["copy",25,0,475],["part",20,0,"qzeros"]],"patches":[[1,1],[60,2]]},)"
    R"({"name":"empty","mode":"0","bytes":0,"sha256":")" + kA + R"(","spans":[],"patches":[]}]})";
const std::string kLiterals = "HEAD\nxyz";

Bytes File(const std::string& body, const std::string& version = "1.1") {
  const std::string text = "qwen2-convert-undo " + version + " " + Sha256::Of(AsBytes(body)) + "\n" + body;
  return ZstdCompress(AsBytes(text));
}
// The example with one piece of its JSON replaced by another.
Bytes Edited(const std::string& from, const std::string& to) {
  std::string json = kJson;
  const size_t at = json.find(from);
  if (at == std::string::npos) throw std::runtime_error("no " + from);
  json.replace(at, from.size(), to);
  return File(json + "\n" + kLiterals);
}

TEST(UndoRecordTest, IsTheTextThatIsDescribed) {
  const Bytes packed = Must(PackUndo(Example()));
  const Bytes content = Must(ZstdDecompress(packed, 100'000));
  const std::string text(reinterpret_cast<const char*>(content.data()), content.size());  // NOLINT
  const std::string body = text.substr(text.find('\n') + 1);
  const std::string json = body.substr(0, body.find('\n'));
  EXPECT_EQ(text.substr(0, text.find('\n')), "qwen2-convert-undo 1.1 " + Sha256::Of(AsBytes(body)));
  EXPECT_TRUE(Must(ParseJson(json)) == Must(ParseJson(kJson))) << json;
  EXPECT_EQ(body.substr(json.size() + 1), kLiterals);
  EXPECT_EQ(Must(UnpackUndo(File(kJson + "\n" + kLiterals))), Example());
}

TEST(UndoRecordTest, KnowsMinorVersionsAndUnknownKeys) {
  EXPECT_EQ(Must(UnpackUndo(File(kJson + "\n" + kLiterals, "1.7"))), Example());
  EXPECT_EQ(Must(UnpackUndo(Edited("{\"tool\"", "{\"later\":[1],\"tool\""))), Example());
  ExpectError(UnpackUndo(File("whatever", "2.0")), Code::kRefused, "undo-version", {"2.0"});
  ExpectError(UnpackUndo(File("whatever", "10.0")), Code::kRefused, "undo-version", {"10.0"});
}

TEST(UndoRecordTest, RefusesWhatCannotBe) {
  const std::pair<const char*, const char*> edits[] = {
      {"\"tool\":\"9.8.7\"", "\"tool\":9"},
      {"\"model.safetensors\"", "\"../model.safetensors\""},
      {"\"bytes\":500", "\"bytes\":499"},           // the copy ends behind it
      {"\"bytes\":500", "\"bytes\":-500"},
      {"\"old.safetensors\"", "\"a/b\""},
      {"\"old.safetensors\"", "\"..\""},
      {"\"old.safetensors\"", "\"\""},
      {"\"old.safetensors\"", "\"a\\u0000b\""},
      {"\"old.safetensors\"", "\"empty\""},         // twice
      {"\"640\"", "\"6400\""},
      {"\"640\"", "\"648\""},
      {"\"640\"", "\"\""},
      {"\"640\"", "640"},
      {"\"bytes\":100", "\"bytes\":101"},
      {"[\"bytes\",5]", "[\"bytes\",6]"},           // neither sum nor literals fit
      {"[\"bytes\",5],[\"zeros\",50]", "[\"bytes\",6],[\"zeros\",49]"},
      {"[\"bytes\",5],[\"zeros\",50]", "[\"bytes\",4],[\"zeros\",51]"},
      {"[\"zeros\",50]", "[\"ones\",50]"},
      {"[\"zeros\",50]", "[\"zeros\",50,0]"},
      {"[\"zeros\",50]", "[\"zeros\"]"},
      {"[\"zeros\",50]", "[\"zeros\",50],[\"zeros\",0]"},
      {"[\"zeros\",50]", "[\"zeros\",18446744073709551566],[\"zeros\",100]"},
      {"[\"copy\",25,0,475]", "[\"copy\",25,1,475]"},
      {"[\"copy\",25,0,475]", "[\"copy\",25,0,476]"},
      {"[\"copy\",25,0,475]", "[\"copy\",25,0,18446744073709551615]"},
      {"[\"part\",20,0,\"qzeros\"]", "[\"part\",20,2,\"qzeros\"]"},
      {"[\"part\",20,0,\"qzeros\"]", "[\"part\",20,0,7]"},
      {"[[1,1],[60,2]]", "[[60,2],[1,1]]"},
      {"[[1,1],[60,2]]", "[[1,1],[99,2]]"},
      {"[[1,1],[60,2]]", "[[1,1],[60,3]]"},
      {"[[1,1],[60,2]]", "[[1,1],[60]]"},
      {"[[1,1],[60,2]]", "[[1,1],[60,0]]"},
      {"[[1,1],[60,2]]", "[[1,18446744073709551615],[60,2]]"},
      {"\"linears\"", "\"linear\""},
      {"\"files\"", "\"file\""},
      {"\"spans\":[]", "\"spans\":{}"},
  };
  for (const auto& [from, to] : edits) {
    SCOPED_TRACE(fmt::format("{} -> {}", from, to));
    ExpectError(UnpackUndo(Edited(from, to)), Code::kMalformed, "undo-damaged");
  }
  ExpectError(UnpackUndo(File(kJson)), Code::kMalformed, "undo-damaged");
  ExpectError(UnpackUndo(File(kJson + "\n" + kLiterals + "more")), Code::kMalformed, "undo-damaged", {"4 bytes"});
  ExpectError(UnpackUndo(File("{\n")), Code::kMalformed, "undo-damaged");
  ExpectError(UnpackUndo(ZstdCompress(AsBytes("something else"))), Code::kMalformed, "undo-damaged");
  ExpectError(UnpackUndo(AsBytes(kJson)), Code::kMalformed, "undo-damaged");
}

TEST(UndoRecordTest, NoFlippedBitGoesUnnoticed) {
  const Bytes packed = Must(PackUndo(Example()));
  for (size_t bit = 0; bit < packed.size() * 8; ++bit) {
    Bytes flipped = packed;
    flipped[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    const Result<UndoRecord> record = UnpackUndo(flipped);
    // There are bits in a frame that mean nothing; then the content is what it was.
    if (record.ok()) {
      EXPECT_EQ(record.value(), Example()) << bit;
    }
  }
  // Within the content, where no checksum of the frame helps.
  const Bytes content = Must(ZstdDecompress(packed, 100'000));
  for (size_t bit = 0; bit < content.size() * 8; ++bit) {
    Bytes flipped = content;
    flipped[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    const Result<UndoRecord> record = UnpackUndo(ZstdCompress(flipped));
    if (record.ok()) {  // the minor version
      EXPECT_EQ(record.value(), Example()) << bit;
    }
  }
}

}  // namespace
}  // namespace q2c
