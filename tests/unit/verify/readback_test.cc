// Reading back must notice one wrong bit, wherever it lies, and say where.
#include "verify/readback.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class Readback : public testing::Test {
 protected:
  Readback() {
    test::MakeTiny().Write(in_);
    test::WriteWhole(in_ + "/tokenizer.json", "{\"tokens\": []}");
    test::WriteWhole(in_ + "/empty.txt", "");
    JobOptions job = test::TinyJob(in_, out_);
    job.verify = VerifyLevel::kNone;
    job.shard_bytes = 8000;
    Must(RunJob(Must(PlanJob(job)), job));
    manifest_ = Must(ReadManifest(test::ReadWhole(out_ + "/qwen2-convert.manifest.json")));
  }
  Status Verify(unsigned jobs = 1, ReadFrom from = ReadFrom::kCache) {
    const Dir dir = Must(Dir::Open(out_));
    return VerifyHashes(dir, manifest_, {jobs, from, nullptr, nullptr});
  }
  void Flip(const std::string& name, size_t byte, unsigned bit) {
    std::string content = test::ReadWhole(out_ + "/" + name);
    content.at(byte) ^= static_cast<char>(1U << bit);
    test::WriteWhole(out_ + "/" + name, content);
  }

  const test::TempFolder folder_;
  const std::string in_ = folder_ / "in";
  const std::string out_ = folder_ / "out";
  Manifest manifest_;
};

TEST_F(Readback, SoundFilesPass) {
  ASSERT_GT(manifest_.files.size(), 4U);
  Must(Verify());
  Must(Verify(4));
  Must(Verify(1, ReadFrom::kDevice));
}

TEST_F(Readback, OneBitInEveryTensorIsNamed) {
  const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
  test::Random random(3);
  for (const TensorInfo& tensor : output.tensors()) {
    const std::string& file = output.files()[tensor.file].name;
    for (const uint64_t at : {uint64_t{0}, tensor.bytes - 1, uint64_t{random.Below(static_cast<uint32_t>(tensor.bytes))}}) {
      const unsigned bit = random.Below(8);
      Flip(file, tensor.offset + at, bit);
      ExpectError(Verify(2), Code::kFindings, "hash", {file, "tensor '" + tensor.name + "'"});
      Flip(file, tensor.offset + at, bit);
    }
  }
  Must(Verify());
}

TEST_F(Readback, OneBitInEveryByteOfAHeader) {
  const Checkpoint output = Must(Checkpoint::Open(out_, Links::kRefuse));
  const std::string shard = output.files()[0].name;
  uint64_t head = UINT64_MAX;
  for (const TensorInfo& tensor : output.tensors()) {
    if (tensor.file == 0) head = std::min(head, tensor.offset);
  }
  for (uint64_t at = 0; at < head; ++at) {
    Flip(shard, at, static_cast<unsigned>(at % 8));
    ExpectError(Verify(), Code::kFindings, "hash", {shard, "header"});
    Flip(shard, at, static_cast<unsigned>(at % 8));
  }
  Must(Verify());
}

TEST_F(Readback, OneBitInEveryOtherFile) {
  for (const ManifestFile& file : manifest_.files) {
    if (file.bytes == 0 || file.name.ends_with(".safetensors")) continue;
    for (const size_t at : {size_t{0}, static_cast<size_t>(file.bytes - 1)}) {
      Flip(file.name, at, 2);
      ExpectError(Verify(), Code::kFindings, "hash", {file.name});
      Flip(file.name, at, 2);
    }
  }
}

TEST_F(Readback, ShorterLongerAndMissingFiles) {
  for (const ManifestFile& file : manifest_.files) {
    const std::string path = out_ + "/" + file.name;
    const std::string content = test::ReadWhole(path);
    test::WriteWhole(path, content + "x");
    ExpectError(Verify(), Code::kFindings, "hash", {file.name});
    if (!content.empty()) {
      test::WriteWhole(path, content.substr(0, content.size() - 1));
      ExpectError(Verify(), Code::kFindings, "hash", {file.name});
      test::WriteWhole(path, "");
      ExpectError(Verify(), Code::kFindings, "hash", {file.name});
    }
    std::filesystem::remove(path);
    EXPECT_FALSE(Verify().ok()) << file.name;
    test::WriteWhole(path, content);
  }
  Must(Verify());
}

TEST_F(Readback, StopEndsIt) {
  const Dir dir = Must(Dir::Open(out_));
  const auto stop = []() -> Status { return MakeError(Code::kInterrupted, "interrupted", "stop"); };
  ExpectError(VerifyHashes(dir, manifest_, {2, ReadFrom::kCache, stop, nullptr}), Code::kInterrupted, "interrupted");
}

}  // namespace
}  // namespace q2c
