// The executor: the same bytes whatever the number of workers, and digests that are those of
// the files as they can be read afterwards.
#include "convert/execute.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <csignal>

#include "formats/base/hash.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;

class ExecuteTest : public testing::Test {
 protected:
  // Writes the plan into a folder of its own and checks every digest against the bytes there.
  std::map<std::string, std::string> Run(const Plan& plan, unsigned jobs) {
    const std::string out = folder_ / fmt::format("out{}", ++runs_);
    std::filesystem::create_directory(out);
    const Dir dir = Must(Dir::Open(out));
    const Written written = Must(Execute(plan, dir, {jobs, nullptr, nullptr}));
    std::map<std::string, std::string> content;
    for (const std::string& name : test::Names(out)) content[name] = test::ReadWhole(out + "/" + name);
    EXPECT_EQ(written.files.size(), content.size());
    for (const ManifestFile& file : written.files) {
      const std::string& bytes = content.at(file.name);
      EXPECT_EQ(file.bytes, bytes.size()) << file.name;
      EXPECT_EQ(file.sha256, Sha256::Of(AsBytes(bytes))) << file.name;
      // That of a shard is of its head: its tensors have theirs, below.
      const bool shard = std::ranges::find(plan.files, file.name, &PlannedFile::name) != plan.files.end();
      EXPECT_EQ(file.xxh3, Xxh3::Of(AsBytes(shard ? bytes.substr(0, file.head_bytes) : bytes))) << file.name;
    }
    for (size_t i = 0; i < plan.tensors.size(); ++i) {
      const PlannedTensor& tensor = plan.tensors[i];
      const std::string_view bytes = std::string_view(content.at(plan.files[tensor.file].name)).substr(tensor.offset, tensor.bytes);
      EXPECT_EQ(written.tensor_digests[i], Xxh3::Of(AsBytes(bytes))) << tensor.name;
    }
    return content;
  }
  // A plan that copies tensors of these sizes and nothing else, in shards of so many.
  Plan CopyPlan(const std::vector<uint64_t>& sizes, size_t per_shard) {
    std::vector<test::StoredTensor> stored;
    test::Random random(11);
    for (size_t i = 0; i < sizes.size(); ++i) stored.push_back({fmt::format("t{:06}", i), "U8", {sizes[i]}, random.Fill(sizes[i])});
    test::WriteWhole(folder_ / "in/model.safetensors", test::Safetensors(stored));
    test::WriteWhole(folder_ / "in/notes.txt", "a side file");
    checkpoint_.emplace(Must(Checkpoint::Open(folder_ / "in", Links::kRefuse)));
    model_.checkpoint = &*checkpoint_;
    Plan plan;
    plan.model = &model_;
    for (size_t i = 0; i < sizes.size(); ++i) {
      if (i % per_shard == 0) plan.files.push_back({fmt::format("shard{}", plan.files.size()), fmt::format("head of shard {}", plan.files.size()), {}, 0});
      PlannedFile& file = plan.files.back();
      if (file.tensors.empty()) file.bytes = file.head.size();
      PlannedTensor tensor;
      tensor.name = stored[i].name;
      tensor.bytes = sizes[i];
      tensor.input = i;
      tensor.file = plan.files.size() - 1;
      tensor.offset = file.bytes;
      file.bytes += sizes[i];
      file.tensors.push_back(i);
      plan.tensors.push_back(std::move(tensor));
    }
    return plan;
  }
  // What CopyPlan must give.
  static std::string Expected(const Plan& plan, size_t file, const Checkpoint& checkpoint) {
    std::string bytes = plan.files[file].head;
    for (const size_t t : plan.files[file].tensors) {
      for (const std::byte byte : Must(checkpoint.ReadWhole(checkpoint.tensors()[plan.tensors[t].input]))) bytes += static_cast<char>(byte);
    }
    return bytes;
  }

  const test::TempFolder folder_;
  int runs_ = 0;
  std::optional<Checkpoint> checkpoint_;
  Model model_;
};

TEST_F(ExecuteTest, AnyNumberOfWorkersGivesTheSameBytes) {
  test::TinyModel model = test::MakeTiny({.minus = 0, .symmetric = false, .zero_biases = false});
  model.Write(folder_ / "in", {"model.layers.0.mlp.up_proj.g_idx", "model.norm.weight"});
  test::WriteWhole(folder_ / "in/tokenizer.json", std::string(10'000, 't'));
  test::WriteWhole(folder_ / "in/empty.txt", "");
  const PlannedJob job = test::PlanOf(folder_ / "in", "optimum-1.19");  // copies, repacks and fills
  const auto one = Run(job.plan, 1);
  EXPECT_EQ(one.at("tokenizer.json"), std::string(10'000, 't'));
  EXPECT_EQ(one.at("empty.txt"), "");
  for (const unsigned jobs : {2U, 8U, 8U}) EXPECT_EQ(Run(job.plan, jobs), one);
}

TEST_F(ExecuteTest, ManyTinyTensors) {
  std::vector<uint64_t> sizes;
  for (uint64_t i = 0; i < 3000; ++i) sizes.push_back(i % 7);  // some of them empty
  const Plan plan = CopyPlan(sizes, 500);
  for (const unsigned jobs : {1U, 2U, 8U}) {
    const auto content = Run(plan, jobs);
    for (size_t f = 0; f < plan.files.size(); ++f) EXPECT_EQ(content.at(plan.files[f].name), Expected(plan, f, *checkpoint_));
    EXPECT_EQ(content.at("notes.txt"), "a side file");
  }
}

TEST_F(ExecuteTest, TensorsAroundTheSizeOfAChunk) {
  constexpr uint64_t kChunk = 4U << 20U;
  const Plan plan = CopyPlan({0, 1, kChunk - 1, 1, kChunk, kChunk + 1, 0, 3 * kChunk + 5, 7, 0}, 4);
  for (const unsigned jobs : {1U, 8U}) {
    const auto content = Run(plan, jobs);
    for (size_t f = 0; f < plan.files.size(); ++f) EXPECT_TRUE(content.at(plan.files[f].name) == Expected(plan, f, *checkpoint_)) << f;
  }
}

TEST_F(ExecuteTest, HeadLongerThanABuffer) {
  Plan plan = CopyPlan({100, 200}, 2);
  plan.files[0].head.assign(9'000'001, 'h');
  plan.files[0].bytes = 9'000'301;
  plan.tensors[0].offset = 9'000'001;
  plan.tensors[1].offset = 9'000'101;
  EXPECT_TRUE(Run(plan, 8).at("shard0") == Expected(plan, 0, *checkpoint_));
}

TEST_F(ExecuteTest, TensorsInAnotherOrderThanInTheSource) {
  Plan plan = CopyPlan({10, 20, 30, 40}, 4);
  std::swap(plan.tensors[0].input, plan.tensors[3].input);
  std::swap(plan.tensors[1].input, plan.tensors[2].input);
  const std::vector<uint64_t> sizes = {40, 30, 20, 10};
  uint64_t offset = plan.files[0].head.size();
  for (size_t i = 0; i < 4; ++i) {
    plan.tensors[i].bytes = sizes[i];
    plan.tensors[i].offset = offset;
    offset += sizes[i];
  }
  EXPECT_EQ(Run(plan, 2).at("shard0"), Expected(plan, 0, *checkpoint_));
}

TEST_F(ExecuteTest, ZerosAreZeros) {
  Plan plan = CopyPlan({1000, 1000, 1000}, 3);
  plan.tensors[1].source = PlannedTensor::Source::kZeros;
  const std::string shard = Run(plan, 2).at("shard0");
  EXPECT_EQ(shard.substr(plan.tensors[1].offset, 1000), std::string(1000, '\0'));
  EXPECT_EQ(shard.substr(plan.tensors[2].offset), Expected(plan, 0, *checkpoint_).substr(plan.tensors[2].offset));
}

TEST_F(ExecuteTest, SignalStopsIt) {
  const Plan plan = CopyPlan({1000, 5'000'000}, 1);
  for (const auto& [signal, code] : std::vector<std::pair<int, Code>>{{SIGINT, Code::kInterrupted}, {SIGTERM, Code::kTerminated}}) {
    const std::atomic<int> stop = signal;
    for (const unsigned jobs : {1U, 8U}) {
      std::filesystem::remove_all(folder_ / "out");
      std::filesystem::create_directory(folder_ / "out");
      const Dir fresh = Must(Dir::Open(folder_ / "out"));
      ExpectError(Execute(plan, fresh, {jobs, &stop, nullptr}), code, "interrupted");
    }
  }
  Must(CheckStop(nullptr));
}

TEST_F(ExecuteTest, SourceThatShrinksIsNoticed) {
  const Plan plan = CopyPlan({1000, 5'000'000}, 1);
  std::filesystem::resize_file(folder_ / "in/model.safetensors", 2'000'000);
  std::filesystem::create_directory(folder_ / "out");
  const Dir dir = Must(Dir::Open(folder_ / "out"));
  for (const unsigned jobs : {1U, 8U}) {
    ExpectError(Execute(plan, dir, {jobs, nullptr, nullptr}), Code::kTryAgain, "changed-during-read");
    for (const std::string& name : test::Names(folder_ / "out")) std::filesystem::remove(folder_ / ("out/" + name));
  }
}

TEST_F(ExecuteTest, FileInTheWayIsNotReplaced) {
  const Plan plan = CopyPlan({10}, 1);
  test::WriteWhole(folder_ / "out/shard0", "mine");
  const Dir dir = Must(Dir::Open(folder_ / "out"));
  ExpectError(Execute(plan, dir, {1, nullptr, nullptr}), Code::kIo, "io");
  EXPECT_EQ(test::ReadWhole(folder_ / "out/shard0"), "mine");
}

}  // namespace
}  // namespace q2c
