// One sorted set of tensors out of a folder, or a finding that says what is wrong with it.
#include "formats/checkpoint.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>

#include "formats/containers/gguf.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

class CheckpointTest : public testing::Test {
 protected:
  Result<Checkpoint> Open() const { return Checkpoint::Open(folder_.path(), Links::kRefuse); }
  void Shard(const std::string& name, const std::vector<std::string>& tensors, std::byte fill = std::byte{7}) const {
    std::vector<test::StoredTensor> stored;
    for (const std::string& tensor : tensors) stored.push_back({tensor, "U8", {3}, Bytes(3, fill)});
    test::WriteWhole(folder_ / name, test::Safetensors(stored));
  }
  void Index(const std::string& map, const std::string& metadata = R"({"total_size": 9})") const {
    test::WriteWhole(folder_ / "model.safetensors.index.json", "{\"metadata\": " + metadata + ", \"weight_map\": " + map + "}");
  }
  void TwoShards() const {
    Shard("s1.safetensors", {"c", "a"});
    Shard("s2.safetensors", {"b"});
  }
  static bool HasNote(const Checkpoint& checkpoint, const std::string& id) { return std::ranges::find(checkpoint.notes(), id, &Note::id) != checkpoint.notes().end(); }
  const test::TempFolder folder_;
};

constexpr const char* kMap = R"({"a": "s1.safetensors", "b": "s2.safetensors", "c": "s1.safetensors"})";

TEST_F(CheckpointTest, ShardsAreOneSortedSet) {
  TwoShards();
  Index(kMap);
  const Checkpoint checkpoint = Must(Open());
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.tensors()[0].name + checkpoint.tensors()[1].name + checkpoint.tensors()[2].name, "abc");
  EXPECT_EQ(checkpoint.files()[checkpoint.Find("b")->file].name, "s2.safetensors");
  EXPECT_EQ(checkpoint.Find("d"), nullptr);
  EXPECT_EQ(checkpoint.Find(""), nullptr);
  EXPECT_EQ(Must(checkpoint.ReadWhole(*checkpoint.Find("a"))), Bytes(3, std::byte{7}));
  EXPECT_TRUE(checkpoint.notes().empty());
  Must(checkpoint.CheckUnchanged());
}

TEST_F(CheckpointTest, IndexesThatLie) {
  TwoShards();
  const auto expect = [&](const std::string& map, Code code, const std::string& id, const std::vector<std::string>& mentions) {
    Index(map);
    ExpectError(Open(), code, id, mentions);
  };
  for (const char* path : {"../s1.safetensors", "/etc/passwd", "sub/s1.safetensors", "..", "", "a\\\\b", "C:x"}) {
    expect(fmt::format(R"({{"a": "{}"}})", path), Code::kMalformed, "index-path", {"'a'"});
  }
  expect(R"({"a": "s1.safetensors", "b": "s2.safetensors"})", Code::kMalformed, "index-tensor", {"'c'"});
  expect(R"({"a": "s1.safetensors", "b": "s1.safetensors", "c": "s1.safetensors"})", Code::kMalformed, "index-tensor", {"'b'"});
  expect(R"({"a": "s1.safetensors", "b": "s2.safetensors", "c": "s1.safetensors", "d": "s1.safetensors"})", Code::kMalformed, "index-tensor", {"'d'"});
  expect(R"({"a": "s1.safetensors", "b": "s3.safetensors", "c": "s1.safetensors"})", Code::kMalformed, "shard-missing", {"s3.safetensors"});
  expect(R"({"a": "x.bin"})", Code::kRefused, "container-pickle", {"x.bin"});
  expect(R"({"a": 1})", Code::kMalformed, "index-map", {"'a'"});
  expect("[]", Code::kMalformed, "index-map", {});
  expect(R"({"a": "s1.safetensors", "a": "s2.safetensors"})", Code::kMalformed, "json-duplicate-key", {});
}

// Loaders pass over it; what we write has the sum of the tensors.
TEST_F(CheckpointTest, AnyTotalSizeThatIsNotTheSumIsWorthANote) {
  TwoShards();
  for (const char* said : {"10", "null", "-5", "9.5", "\"9\"", "\"abc\"", "[]", "1180591620717411303424"}) {
    Index(kMap, fmt::format(R"({{"total_size": {}}})", said));
    EXPECT_TRUE(HasNote(Must(Open()), "index-total-wrong")) << said;
  }
  for (const char* metadata : {"{}", "null", "[]"}) {
    Index(kMap, metadata);
    EXPECT_TRUE(HasNote(Must(Open()), "index-total-wrong")) << metadata;
  }
  Index(kMap, R"({"total_size": 9})");
  EXPECT_TRUE(Must(Open()).notes().empty());
}

TEST_F(CheckpointTest, FilesBesideTheIndex) {
  TwoShards();
  Index(kMap);
  Shard("stale.safetensors", {"a"});
  EXPECT_TRUE(HasNote(Must(Open()), "stale-shard"));
  Shard("model.safetensors", {"a"});
  ExpectError(Open(), Code::kMalformed, "index-and-single");
  std::filesystem::remove(folder_ / "model.safetensors");
  test::WriteWhole(folder_ / "other.safetensors.index.json", "{}");
  ExpectError(Open(), Code::kMalformed, "index-several");
}

TEST_F(CheckpointTest, WithoutAnIndexTheNumbersSpeak) {
  Shard("model-00001-of-00003.safetensors", {"a"});
  Shard("model-00003-of-00003.safetensors", {"b"});
  ExpectError(Open(), Code::kMalformed, "shard-missing", {"model-00002-of-00003.safetensors"});
  Shard("model-00002-of-00003.safetensors", {"c"});
  EXPECT_EQ(Must(Open()).tensors().size(), 3U);
  Shard("model-00001-of-18446744073709551615.safetensors", {"d"});
  ExpectError(Open(), Code::kMalformed, "shard-missing");
}

TEST_F(CheckpointTest, TensorInTwoFiles) {
  Shard("a.safetensors", {"t", "u"});
  Shard("b.safetensors", {"t"});
  const Checkpoint checkpoint = Must(Open());
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_TRUE(HasNote(checkpoint, "tensor-repeated"));
  Shard("b.safetensors", {"t"}, std::byte{8});
  ExpectError(Open(), Code::kMalformed, "tensor-twice", {"'t'", "a.safetensors", "b.safetensors"});
}

TEST_F(CheckpointTest, NoWeightsOrForeignOnes) {
  ExpectError(Open(), Code::kMalformed, "no-weights");
  test::WriteWhole(folder_ / "training_args.bin", "x");
  ExpectError(Open(), Code::kMalformed, "no-weights");
  test::WriteWhole(folder_ / "pytorch_model.bin", "x");
  ExpectError(Open(), Code::kMalformed, "file-type", {"pytorch_model.bin"});
  ExpectError(Checkpoint::Open(folder_ / "absent", Links::kRefuse), Code::kUsage, "no-folder");
}

TEST_F(CheckpointTest, SideFilesAndWhatIsNotCarriedOver) {
  Shard("model.safetensors", {"a"});
  test::WriteWhole(folder_ / "tokenizer.json", "12345");
  test::WriteWhole(folder_ / "run.sh", "x");
  ASSERT_EQ(::chmod((folder_ / "run.sh").c_str(), 0755), 0);
  for (const char* name : {"config.json", "quantize_config.json"}) test::WriteWhole(folder_ / name, "{}");
  for (const char* name : {"SHA256SUMS", "qwen2-convert.manifest.json", "modeling.py", "old.gguf", "x.onnx", "sub/file"}) test::WriteWhole(folder_ / name, "x");
  const Checkpoint checkpoint = Must(Open());
  ASSERT_EQ(checkpoint.side_files().size(), 2U);
  EXPECT_EQ(checkpoint.side_files()[0].name, "run.sh");
  EXPECT_TRUE(checkpoint.side_files()[0].executable);
  EXPECT_EQ(checkpoint.side_files()[1].name, "tokenizer.json");
  EXPECT_EQ(checkpoint.side_files()[1].bytes, 5U);
  EXPECT_FALSE(checkpoint.side_files()[1].executable);
  EXPECT_TRUE(HasNote(checkpoint, "unmanaged"));
}

TEST_F(CheckpointTest, LfsPointersAreNoFilesToGoAlong) {
  Shard("model.safetensors", {"a"});
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:" + std::string(64, '4') + "\nsize 7031645\n";
  for (const char* name : {"tokenizer.json", "merges.txt", "vocab.json", "config.json", "quantize_config.json"}) {
    test::WriteWhole(folder_ / name, pointer);
    ExpectError(Open(), Code::kMalformed, "file-type", {name, "git lfs pull", "7031645 bytes"});
    Defects defects;
    Must(Checkpoint::Open(folder_.path(), Links::kRefuse, &defects));
    ASSERT_EQ(defects.size(), 1U) << name;
    EXPECT_EQ(defects[0].id, "file-type") << name;
    std::filesystem::remove(folder_ / name);
  }
  test::WriteWhole(folder_ / "model.safetensors.index.json", pointer);
  ExpectError(Open(), Code::kMalformed, "file-type", {"model.safetensors.index.json", "git lfs pull"});
  std::filesystem::remove(folder_ / "model.safetensors.index.json");
  // What only speaks of one is none.
  test::WriteWhole(folder_ / "notes.txt", "how to read: version https://git-lfs.github.com/spec/v1");
  test::WriteWhole(folder_ / "long.txt", pointer + std::string(300, ' '));
  EXPECT_EQ(Must(Open()).side_files().size(), 2U);
}

TEST_F(CheckpointTest, WhatCannotBeReadAsAFile) {
  Shard("model.safetensors", {"a"});
  std::filesystem::create_directory(folder_ / "config.json");
  ExpectError(Open(), Code::kMalformed, "file-kind", {"config.json"});
  std::filesystem::remove(folder_ / "config.json");
  ASSERT_EQ(::mkfifo((folder_ / "tokenizer.json").c_str(), 0600), 0);
  ExpectError(Open(), Code::kMalformed, "file-kind", {"tokenizer.json"});
  std::filesystem::remove(folder_ / "tokenizer.json");
  std::filesystem::create_symlink("/etc/passwd", folder_ / "tokenizer.json");
  ExpectError(Open(), Code::kMalformed, "link-outside", {"tokenizer.json"});
  std::filesystem::remove(folder_ / "tokenizer.json");
  test::WriteWhole(folder_ / "bad\xff" "name", "x");
  ExpectError(Open(), Code::kMalformed, "file-name");
}

TEST_F(CheckpointTest, ConfigsAreObjectsAndMayHoldNan) {
  Shard("model.safetensors", {"a"});
  test::WriteWhole(folder_ / "config.json", "[]");
  ExpectError(Open(), Code::kMalformed, "config-type", {"config.json"});
  test::WriteWhole(folder_ / "config.json", "{");
  ExpectError(Open(), Code::kMalformed, "json", {"config.json"});
  test::WriteWhole(folder_ / "config.json", "{\"x\": NaN}");
  EXPECT_EQ(Must(Open()).config()->Dump(-1), "{\"x\": NaN}");
}

TEST_F(CheckpointTest, ChangedAndReplacedFilesAreNoticed) {
  for (const int shards : {1, 140}) {  // few are held open, many are opened anew
    for (int i = 0; i < shards; ++i) Shard(fmt::format("m{:03}.safetensors", i), {fmt::format("t{}", i)});
    const Checkpoint checkpoint = Must(Open());
    EXPECT_EQ(checkpoint.files()[0].open.has_value(), shards == 1);
    Must(checkpoint.ReadWhole(*checkpoint.Find("t0")));
    Must(checkpoint.CheckUnchanged());
    std::filesystem::rename(folder_ / "m000.safetensors", folder_ / "away");
    std::filesystem::copy_file(folder_ / "away", folder_ / "m000.safetensors");  // equal content, another file
    ExpectError(checkpoint.CheckUnchanged(), Code::kTryAgain, "changed-during-read", {"m000.safetensors"});
    if (shards == 140) ExpectError(checkpoint.ReadWhole(*checkpoint.Find("t0")), Code::kTryAgain, "changed-during-read");
    std::filesystem::remove(folder_ / "away");
  }
}

TEST_F(CheckpointTest, StreamingAndSameBytes) {
  test::Bytes large = test::Random(4).Fill((2U << 20U) + 12345);
  test::Bytes other = large;
  other.back() ^= std::byte{1};
  test::WriteWhole(folder_ / "model.safetensors", test::Safetensors({{"a", "U8", {large.size()}, large}, {"b", "U8", {large.size()}, large}, {"c", "U8", {large.size()}, other},
                                                                       {"d", "I8", {large.size()}, large}, {"e", "U8", {1, large.size()}, large}, {"f", "U8", {0}, {}}}));
  const Checkpoint checkpoint = Must(Open());
  test::Bytes streamed;
  Must(checkpoint.Stream(*checkpoint.Find("a"), [&](ByteView piece) -> Status {
    EXPECT_LE(piece.size(), 1U << 20U);
    streamed.insert(streamed.end(), piece.begin(), piece.end());
    return {};
  }));
  EXPECT_TRUE(streamed == large);
  const auto same = [&](const char* x, const char* y) { return Must(SameBytes(checkpoint, *checkpoint.Find(x), checkpoint, *checkpoint.Find(y))); };
  EXPECT_TRUE(same("a", "b"));
  EXPECT_TRUE(same("f", "f"));
  EXPECT_FALSE(same("a", "c"));  // the last bit
  EXPECT_FALSE(same("a", "d"));  // another type
  EXPECT_FALSE(same("a", "e"));  // another shape
}

// GGUF files with one tensor each, and what llama.cpp needs to know of the model in the first.
class GgufCheckpoint : public CheckpointTest {
 protected:
  static GgufValues Model() {
    GgufValues values = {{"general.architecture", GgufValue::String("qwen2")}};
    for (const char* key : {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv"}) {
      values.emplace_back(std::string("qwen2.") + key, GgufValue::U32(1));
    }
    values.emplace_back("qwen2.attention.layer_norm_rms_epsilon", GgufValue::F32(1e-6F));
    values.emplace_back("qwen2.rope.freq_base", GgufValue::F32(10000));
    values.emplace_back("tokenizer.ggml.tokens", GgufValue::Strings({"a"}));
    return values;
  }
  void Write(const std::string& name, const GgufValues& values, const std::vector<std::string>& tensors, std::byte fill = std::byte{7}) const {
    std::vector<GgufEntry> entries;
    for (const std::string& tensor : tensors) entries.push_back({tensor, Dtype::kF32, {4}});
    const GgufHead head = Must(BuildGgufHead(values, entries));
    std::string bytes = head.bytes;
    for (size_t i = 0; i < entries.size(); ++i) bytes += std::string(16, static_cast<char>(fill)) + std::string(head.padding[i], '\0');
    ASSERT_EQ(bytes.size(), head.file_bytes);
    test::WriteWhole(folder_ / name, bytes);
  }
};

TEST_F(GgufCheckpoint, OneFileIsAWholeCheckpoint) {
  Write("anything.gguf", Model(), {"b", "a", "output.weight"});
  const Checkpoint checkpoint = Must(Open());
  ASSERT_EQ(checkpoint.tensors().size(), 3U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "a");  // sorted
  EXPECT_EQ(Must(checkpoint.ReadWhole(*checkpoint.Find("b"))), Bytes(16, std::byte{7}));
  ASSERT_TRUE(checkpoint.config().has_value());
  EXPECT_EQ(checkpoint.config()->Find("model_type")->text(), "qwen2");
  EXPECT_EQ(checkpoint.config()->Find("tie_word_embeddings")->AsBool(), false);
  EXPECT_TRUE(HasNote(checkpoint, "gguf-tokenizer"));  // it has none
  EXPECT_TRUE(checkpoint.inner_files().empty());
}

TEST_F(GgufCheckpoint, WithoutAHeadItIsTied) {
  Write("model.gguf", Model(), {"token_embd.weight"});
  EXPECT_EQ(Must(Open()).config()->Find("tie_word_embeddings")->AsBool(), true);
}

TEST_F(GgufCheckpoint, AConfigBesideItIsNotBelieved) {
  Write("model.gguf", Model(), {"a"});
  test::WriteWhole(folder_ / "config.json", R"({"model_type": "llama", "hidden_size": 7})");
  EXPECT_EQ(Must(Open()).config()->Find("model_type")->text(), "qwen2");
}

TEST_F(GgufCheckpoint, SeriesIsOneModel) {
  Write("m-00001-of-00003.gguf", Model(), {"c"}, std::byte{1});
  Write("m-00002-of-00003.gguf", {}, {"a"}, std::byte{2});
  Write("m-00003-of-00003.gguf", {}, {"b"}, std::byte{3});
  const Checkpoint checkpoint = Must(Open());
  ASSERT_EQ(checkpoint.files().size(), 3U);
  EXPECT_EQ(Must(checkpoint.ReadWhole(*checkpoint.Find("b"))), Bytes(16, std::byte{3}));
  EXPECT_EQ(checkpoint.files()[checkpoint.Find("a")->file].name, "m-00002-of-00003.gguf");
}

TEST_F(GgufCheckpoint, SeriesWithAGap) {
  Write("m-00001-of-00003.gguf", Model(), {"c"});
  Write("m-00003-of-00003.gguf", {}, {"b"});
  ExpectError(Open(), Code::kMalformed, "shard-missing", {"00002-of-00003"});
}

TEST_F(GgufCheckpoint, SeriesWithoutItsFirst) {
  Write("m-00001-of-00002.gguf", {}, {"c"});
  Write("m-00002-of-00002.gguf", {}, {"b"});
  ExpectError(Open(), Code::kMalformed, "gguf-metadata", {"general.architecture"});
}

TEST_F(GgufCheckpoint, SeveralModelsAreNotGuessedAt) {
  Write("a.gguf", Model(), {"a"});
  Write("b.gguf", Model(), {"a"});
  ExpectError(Open(), Code::kMalformed, "gguf-several", {"a.gguf", "b.gguf"});
}

TEST_F(GgufCheckpoint, TwoSeriesAreNotGuessedAt) {
  Write("a-00001-of-00001.gguf", Model(), {"a"});
  Write("b-00001-of-00001.gguf", Model(), {"a"});
  ExpectError(Open(), Code::kMalformed, "gguf-several", {"a-00001-of-00001.gguf"});
}

TEST_F(GgufCheckpoint, ATensorInTwoParts) {
  Write("m-00001-of-00002.gguf", Model(), {"a"}, std::byte{1});
  Write("m-00002-of-00002.gguf", {}, {"a"}, std::byte{2});
  ExpectError(Open(), Code::kMalformed, "tensor-twice", {"'a'"});
}

TEST_F(GgufCheckpoint, VisionPartsAndSafetensorsComeFirst) {
  Write("model.gguf", Model(), {"a"});
  Write("mmproj-model.gguf", {}, {"v"});
  EXPECT_EQ(Must(Open()).tensors().size(), 1U);
  Shard("model.safetensors", {"s"});
  const Checkpoint checkpoint = Must(Open());
  ASSERT_EQ(checkpoint.tensors().size(), 1U);
  EXPECT_EQ(checkpoint.tensors()[0].name, "s");
  EXPECT_TRUE(HasNote(checkpoint, "unmanaged"));
}

// An audit wants to know all that is wrong, and what is sound.
TEST_F(CheckpointTest, GoesOnAfterDefects) {
  TwoShards();
  Index(R"({"a": "s1.safetensors", "b": "s2.safetensors", "c": "../c", "d": 7, "e": "s3.safetensors"})");
  test::WriteWhole(folder_ / "s2.safetensors", std::string(3, 1));
  test::WriteWhole(folder_ / "config.json", "{");
  Defects defects;
  const Checkpoint checkpoint = Must(Checkpoint::Open(folder_.path(), Links::kRefuse, &defects));
  ASSERT_EQ(checkpoint.tensors().size(), 2U);
  EXPECT_EQ(Must(checkpoint.ReadWhole(*checkpoint.Find("a"))), Bytes(3, std::byte{7}));
  std::vector<std::string> ids;
  for (const Error& defect : defects) ids.push_back(defect.id);
  EXPECT_EQ(ids, (std::vector<std::string>{"json", "index-path", "index-map", "shard-missing", "truncated", "index-tensor"}));  // "c" is stored and not listed
}

TEST_F(CheckpointTest, OneFileByItself) {
  TwoShards();
  Index("[]");
  const Checkpoint checkpoint = Must(Checkpoint::OpenFile(folder_ / "s1.safetensors", Links::kRefuse));
  EXPECT_EQ(checkpoint.tensors().size(), 2U);
  ExpectError(Checkpoint::OpenFile(folder_ / "none.safetensors", Links::kRefuse), Code::kMalformed, "file-missing");
}

}  // namespace
}  // namespace q2c
