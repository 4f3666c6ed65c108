// Shards, offsets and index. The heads are read back with the container's reader.
#include <gtest/gtest.h>

#include <set>

#include "formats/containers/safetensors.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Must;

class Files : public testing::Test {
 protected:
  PlannedJob PlanWith(std::optional<uint64_t> shard_bytes, const std::vector<std::string>& first_of_shard = {}) {
    test::MakeTiny({.minus = 0}).Write(folder_.path(), first_of_shard);
    JobOptions options = test::TinyJob(folder_.path(), "");
    options.shard_bytes = shard_bytes;
    return Must(PlanJob(options));
  }
  // Heads, offsets and sizes must tell the same story, and no tensor may be lost or doubled.
  static void CheckFiles(const Plan& plan) {
    std::set<size_t> seen;
    for (size_t f = 0; f < plan.files.size(); ++f) {
      const PlannedFile& file = plan.files[f];
      const SafetensorsHeader header = Must(ParseSafetensorsHeader(AsBytes(file.head), file.bytes));
      ASSERT_EQ(header.tensors.size(), file.tensors.size());
      for (size_t i = 0; i < file.tensors.size(); ++i) {
        const PlannedTensor& tensor = plan.tensors[file.tensors[i]];
        EXPECT_TRUE(seen.insert(file.tensors[i]).second);
        EXPECT_EQ(tensor.file, f);
        EXPECT_EQ(header.tensors[i].name, tensor.name);
        EXPECT_EQ(header.tensors[i].offset, tensor.offset);
        EXPECT_EQ(header.tensors[i].bytes, tensor.bytes);
        EXPECT_EQ(header.tensors[i].shape, tensor.shape);
      }
    }
    EXPECT_EQ(seen.size(), plan.tensors.size());
  }
  static std::optional<Json> Index(const Plan& plan) {
    for (const TextFile& text : plan.texts) {
      if (text.name == "model.safetensors.index.json") return Must(ParseJson(text.content));
    }
    return std::nullopt;
  }
  const test::TempFolder folder_;
};

TEST_F(Files, OneFileHasNoIndex) {
  const PlannedJob job = PlanWith({});
  ASSERT_EQ(job.plan.files.size(), 1U);
  EXPECT_EQ(job.plan.files[0].name, "model.safetensors");
  EXPECT_FALSE(Index(job.plan).has_value());
  CheckFiles(job.plan);
}

TEST_F(Files, ShardSizeIsKeptAndLinearsStayTogether) {
  for (const uint64_t size : {1ULL, 5000ULL, 9000ULL, 20000ULL, 1000000ULL}) {
    const PlannedJob job = PlanWith(size);
    CheckFiles(job.plan);
    std::map<std::string, size_t> linears;
    for (const PlannedTensor& tensor : job.plan.tensors) {
      const auto [linear, part] = SplitPart(tensor.name);
      EXPECT_EQ(linears.emplace(linear, tensor.file).first->second, tensor.file) << tensor.name;
    }
    for (const PlannedFile& file : job.plan.files) {
      std::set<std::string> units;
      for (const size_t t : file.tensors) units.insert(SplitPart(job.plan.tensors[t].name).first);
      const uint64_t data = file.bytes - file.head.size();
      EXPECT_TRUE(data <= size || units.size() == 1) << file.name << " holds " << data;  // only what cannot be split is larger
    }
    if (job.plan.files.size() == 1) continue;
    EXPECT_EQ(job.plan.files[0].name, fmt::format("model-00001-of-{:05}.safetensors", job.plan.files.size()));
    const std::optional<Json> index = Index(job.plan);
    ASSERT_TRUE(index.has_value());
    uint64_t total = 0;
    for (const PlannedTensor& tensor : job.plan.tensors) {
      EXPECT_EQ(index->Find("weight_map")->Find(tensor.name)->text(), job.plan.files[tensor.file].name);
      total += tensor.bytes;
    }
    EXPECT_EQ(index->Find("weight_map")->members().size(), job.plan.tensors.size());
    EXPECT_TRUE(std::ranges::is_sorted(index->Find("weight_map")->members(), {}, &Json::Member::first));
    EXPECT_EQ(index->Find("metadata")->Find("total_size")->AsU64(), total);
  }
}

TEST_F(Files, WithoutASizeTheShardsAreThoseOfTheSource) {
  // The second file begins in the middle of a linear: it moves to where its codes are.
  const PlannedJob job = PlanWith({}, {"model.layers.0.mlp.up_proj.qweight", "model.layers.0.self_attn.o_proj.g_idx"});
  CheckFiles(job.plan);
  ASSERT_EQ(job.plan.files.size(), 3U);
  EXPECT_EQ(test::FindPlanned(job.plan, "lm_head.weight")->file, 0U);
  for (const char* part : {"qweight", "qzeros", "scales", "g_idx"}) {
    EXPECT_EQ(test::FindPlanned(job.plan, std::string("model.layers.0.mlp.up_proj.") + part)->file, 1U) << part;
  }
  EXPECT_EQ(test::FindPlanned(job.plan, "model.norm.weight")->file, 2U);
}

TEST_F(Files, ConfigsAreWrittenBesideThem) {
  const PlannedJob job = PlanWith({});
  ASSERT_EQ(job.plan.texts.size(), 2U);
  EXPECT_EQ(job.plan.texts[0].name, "config.json");
  EXPECT_EQ(Must(ParseJson(job.plan.texts[0].content)), job.plan.config);
  EXPECT_EQ(job.plan.texts[1].name, "quantize_config.json");
  EXPECT_TRUE(job.plan.texts[1].content.ends_with("}\n"));
}

}  // namespace
}  // namespace q2c
