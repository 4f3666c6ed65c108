// --undo and --restore as functions: what a record holds of a tiny model, records that lie
// about an output, and damage anywhere. tests/undo/run.py goes over whole checkpoints.
#include "convert/undo.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "convert/rebuild.h"
#include "convert/restore.h"
#include "formats/base/hash.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

class UndoTest : public testing::Test {
 protected:
  void Convert(const test::TinyModel& model, const std::string& target) {
    model.Write(in_);
    Convert(target);
  }
  void Convert(const std::string& target) {
    JobOptions job = test::TinyJob(in_, out_, target);
    job.verify = VerifyLevel::kHash;
    job.undo = true;
    const PlannedJob planned = Must(PlanJob(job));
    Must(RunJob(planned, job));
  }
  UndoRecord Record() const { return Must(UnpackUndo(AsBytes(test::ReadWhole(Path())))); }
  // Puts another record into the output; nothing there lists its digest but SHA256SUMS and manifest.
  void Replace(const UndoRecord& record) const {
    const Bytes packed = Must(PackUndo(record));
    test::WriteWhole(Path(), std::string(reinterpret_cast<const char*>(packed.data()), packed.size()));  // NOLINT
  }
  std::string Path() const { return out_ + "/qwen2-convert.undo.zst"; }
  Result<RestoreReport> Back() const {
    RestoreOptions options;
    options.out = out_;
    options.original = back_;
    options.progress = Progress::Show::kNever;
    return Restore(options);
  }
  void ExpectNothing() const { EXPECT_EQ(test::Names(folder_.path()), (std::vector<std::string>{"in", "out"})); }
  void ExpectSame() const {
    ASSERT_EQ(test::Names(back_), test::Names(in_));
    for (const std::string& name : test::Names(in_)) EXPECT_EQ(test::ReadWhole(back_ + "/" + name), test::ReadWhole(in_ + "/" + name)) << name;
  }
  static const UndoFile& File(const UndoRecord& record, std::string_view name) { return *std::ranges::find(record.files, name, &UndoFile::name); }
  static uint64_t Held(const UndoFile& file, UndoSpan::Kind kind) {
    uint64_t bytes = 0;
    for (const UndoSpan& span : file.spans) bytes += span.kind == kind ? span.bytes : 0;
    return bytes;
  }

  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
  const std::string out_ = folder_ / "out";
  const std::string back_ = folder_ / "back";
};

TEST_F(UndoTest, HoldsTheHeaderAndNoWeights) {
  Convert(test::MakeTiny(), "transformers-4.x");
  const UndoRecord record = Record();
  const UndoFile& shard = File(record, "model.safetensors");
  const std::string original = test::ReadWhole(in_ + "/model.safetensors");
  const uint64_t head = 8 + Load<uint64_t>(AsBytes(original).data());
  EXPECT_EQ(shard.bytes, original.size());
  EXPECT_EQ(shard.sha256, Sha256::Of(AsBytes(original)));
  // The header, and the zero biases: those of o (64), gate and up (96), down (64), two bytes each.
  EXPECT_EQ(Held(shard, UndoSpan::Kind::kBytes) + Held(shard, UndoSpan::Kind::kZeros), head + 2 * (64 + 96 + 96 + 64));
  EXPECT_EQ(Held(shard, UndoSpan::Kind::kPart), 0U);
  EXPECT_TRUE(shard.patches.empty());
  EXPECT_TRUE(record.linears.empty());
  Must(Back());
  ExpectSame();
}

TEST_F(UndoTest, MakesPartsFromAnotherLayout) {
  Convert(test::MakeTiny({.minus = 0, .symmetric = false}), "compressed-tensors");
  const UndoRecord record = Record();
  const UndoFile& shard = File(record, "model.safetensors");
  EXPECT_EQ(record.linears.size(), 7U);
  // Codes, zero fields, scales and group index of all seven; nothing of them is kept.
  uint64_t parts = 0;
  for (const test::TinyLinear& linear : test::TinyLinears()) parts += linear.in * linear.out / 2 + linear.in / 32 * linear.out * 5 / 2 + linear.in * 4;
  EXPECT_EQ(Held(shard, UndoSpan::Kind::kPart), parts);
  EXPECT_TRUE(shard.patches.empty());
  Must(Back());
  ExpectSame();
}

TEST_F(UndoTest, PatchesWhatNoCodecGivesBack) {
  // Ten codes of 3 bits leave two bits of a word unused, which no reader looks at.
  std::filesystem::copy(Q2C_FIXTURES "/foreign/compressed-tensors-0.11-int3-g128-padded/checkpoint", in_);
  const std::string path = in_ + "/model.safetensors";
  std::string bytes = test::ReadWhole(path);
  const Checkpoint source = Must(Checkpoint::Open(in_, Links::kRefuse));
  const TensorInfo* packed = source.Find("model.layers.1.mlp.up_proj.weight_packed");
  for (const uint64_t word : {0U, 1U, 100U}) bytes[packed->offset + 4 * word + 3] = static_cast<char>(bytes[packed->offset + 4 * word + 3] | 0x80);
  test::WriteWhole(path, bytes);
  Convert("gptqmodel-v2");
  const UndoRecord record = Record();
  // Neighbours are taken together: 5 bytes from the first to the second.
  EXPECT_EQ(File(record, "model.safetensors").patches, (std::vector<UndoPatch>{{packed->offset + 3, 5}, {packed->offset + 403, 1}}));
  Must(Back());
  ExpectSame();
}

TEST_F(UndoTest, KeepsModesAndRefusesToOverwrite) {
  test::WriteWhole(in_ + "/run.sh", "#!/bin/sh\n");
  std::filesystem::permissions(in_ + "/run.sh", static_cast<std::filesystem::perms>(0710));
  Convert(test::MakeTiny(), "awq");
  test::WriteWhole(back_ + "/kept", "mine");
  ExpectError(Back(), Code::kUsage, "output-exists");
  EXPECT_EQ(test::Names(back_), std::vector<std::string>{"kept"});
  std::filesystem::remove_all(back_);
  Must(Back());
  EXPECT_EQ(std::filesystem::status(back_ + "/run.sh").permissions(), static_cast<std::filesystem::perms>(0710));
}

TEST_F(UndoTest, RefusesToWriteIntoTheOutput) {
  Convert(test::MakeTiny(), "awq");
  RestoreOptions options;
  options.out = out_;
  options.progress = Progress::Show::kNever;
  for (const std::string& place : {out_, out_ + "/original", folder_.path()}) {
    options.original = place;
    options.overwrite = Overwrite::kReplace;
    ExpectError(Restore(options), Code::kUsage, "output-input");
  }
}

TEST_F(UndoTest, RecordsThatDoNotFitTheOutputAreRefused) {
  Convert(test::MakeTiny({.minus = 0, .symmetric = false}), "compressed-tensors");
  const UndoRecord good = Record();
  const auto refused = [&](const std::function<void(UndoLinear*)>& edit) {
    UndoRecord record = good;
    edit(record.linears.data());
    Replace(record);
    ExpectError(Back(), Code::kMalformed, "undo-damaged", {"does not fit the output"});
    ExpectNothing();
  };
  refused([](UndoLinear* linear) { linear->name = "model.layers.7.mlp.up_proj"; });
  refused([](UndoLinear* linear) { linear->layout = "gptq-v1"; });
  refused([](UndoLinear* linear) { linear->layout = "compressed-tensors-2025"; });
  refused([](UndoLinear* linear) { linear->layout = "unknown"; });
  refused([](UndoLinear* linear) { linear->source_layout = "mlx"; });
  refused([](UndoLinear* linear) { linear->source_layout = "awq-gemm"; });  // has no such parts, or of another size
  refused([](UndoLinear* linear) { linear->source_layout = "dense-fp16"; });
  for (const uint64_t wrong : {uint64_t{0}, uint64_t{1}, uint64_t{63}, uint64_t{1} << 32U, UINT64_MAX}) {
    refused([&](UndoLinear* linear) { linear->in_features = wrong; });
    refused([&](UndoLinear* linear) { linear->out_features = wrong; });
    refused([&](UndoLinear* linear) { linear->group_size = wrong; });
    refused([&](UndoLinear* linear) { linear->source_group_size = wrong; });
    refused([&](UndoLinear* linear) { linear->bits = wrong; });
  }
  for (const char* wrong : {"F17", "I32", "F64", "Q8_0"}) refused([&](UndoLinear* linear) { linear->source_scales = wrong; });
  // What fits, but is not the truth, is found by the digest.
  UndoRecord record = good;
  for (UndoLinear& linear : record.linears) linear.source_layout = "gptq-v1";
  Replace(record);
  ExpectError(Back(), Code::kFindings, "undo-differs", {"model.safetensors"});
  ExpectNothing();
  Replace(good);
  Must(Back());
  ExpectSame();
}

TEST_F(UndoTest, NoFlippedBitOfTheRecordRestoresAnythingElse) {
  Convert(test::MakeTiny(), "awq");
  const UndoRecord good = Record();
  const std::string file = test::ReadWhole(Path());
  for (size_t bit = 0; bit < file.size() * 8; bit += 5) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const Result<UndoRecord> record = UnpackUndo(AsBytes(flipped));
    if (record.ok()) {
      EXPECT_TRUE(record.value() == good) << bit;
    }
  }
}

TEST_F(UndoTest, JoinsGroupsThatWereSplit) {
  // A record made by hand: the output has groups of 32 that repeat each other in pairs.
  test::TinyModel model = test::MakeTiny();
  for (auto& [name, tensor] : model.tensors) {
    const bool rows = name.ends_with(".qzeros") || name.ends_with(".scales");
    if (!rows) continue;
    const uint64_t row = tensor.bytes.size() / tensor.shape[0];
    for (uint64_t g = 1; g < tensor.shape[0]; g += 2) std::copy_n(tensor.bytes.begin() + static_cast<std::ptrdiff_t>((g - 1) * row), row, tensor.bytes.begin() + static_cast<std::ptrdiff_t>(g * row));
  }
  model.Write(in_);
  const std::string name = "model.layers.0.self_attn.o_proj";  // 64 inputs: two groups
  const std::string scales(reinterpret_cast<const char*>(model.At(name + ".scales").bytes.data()), 2 * 64);  // NOLINT: of the first
  UndoRecord record;
  record.tool_version = "test";
  record.linears = {{name, "gptq-v1", 64, 64, 4, 32, "gptq-v1", 64, ""}};
  UndoFile file;
  file.name = "scales";
  file.mode = 0644;
  file.bytes = scales.size();
  file.sha256 = Sha256::Of(AsBytes(scales));
  file.spans = {{UndoSpan::Kind::kPart, scales.size(), 0, 0, "scales"}};
  record.files = {file};
  const std::unique_ptr<Rebuilder> rebuilder = Must(Rebuilder::Open(record, in_, Links::kRefuse));
  std::string made;
  Must(rebuilder->Stream(record.files[0], [&](uint64_t offset, MutableBytes bytes) -> Status {
    EXPECT_EQ(offset, made.size());
    made.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());  // NOLINT
    return {};
  }));
  EXPECT_EQ(made, scales);
}

TEST_F(UndoTest, TheBudgetIsAPercent) {
  EXPECT_EQ(UndoBudget(0), 1U << 20U);
  EXPECT_EQ(UndoBudget(5'000'000'000), 50'000'000U);
}

}  // namespace
}  // namespace q2c
