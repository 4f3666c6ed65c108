// Shards, offsets and index. The heads are read back with the container's reader.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "formats/containers/gguf.h"
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

TEST_F(Files, MetadataNamesTheFormatOfTheTarget) {
  test::MakeTiny().Write(folder_.path());
  for (const auto& [target, format] : std::vector<std::pair<std::string, std::string>>{{"mlx", "mlx"}, {"compressed-tensors", "pt"}, {"dense-fp32", "pt"}}) {
    const PlannedJob job = test::PlanOf(folder_.path(), target);
    ASSERT_EQ(job.plan.files.size(), 1U);
    EXPECT_NE(job.plan.files[0].head.find(R"({"__metadata__":{"format":")" + format + "\"}"), std::string::npos) << target;
    CheckFiles(job.plan);
  }
}

class GgufFiles : public testing::Test {
 protected:
  static PlannedJob Make(const std::string& fixture, std::optional<uint64_t> shard_bytes = {}, bool allow_rounding = false) {
    JobOptions options = test::TinyJob(std::string(Q2C_FIXTURES) + "/" + fixture + "/checkpoint", "", "gguf");
    options.shard_bytes = shard_bytes;
    options.allow_rounding = allow_rounding;
    return Must(PlanJob(options));
  }
  // The head of each file says where its tensors lie, and that is where the plan puts them.
  static void CheckFiles(const Plan& plan) {
    std::set<size_t> seen;
    for (size_t f = 0; f < plan.files.size(); ++f) {
      const PlannedFile& file = plan.files[f];
      const GgufHeader header = Must(ParseGgufHeader(AsBytes(file.head), file.bytes));
      ASSERT_EQ(header.tensors.size(), file.tensors.size());
      uint64_t end = file.head.size();
      for (size_t i = 0; i < file.tensors.size(); ++i) {
        const PlannedTensor& tensor = plan.tensors[file.tensors[i]];
        EXPECT_TRUE(seen.insert(file.tensors[i]).second);
        EXPECT_EQ(tensor.file, f);
        EXPECT_EQ(header.tensors[i].name, tensor.name);
        EXPECT_EQ(header.tensors[i].offset, tensor.offset) << tensor.name;
        EXPECT_EQ(header.tensors[i].dtype, tensor.dtype);
        EXPECT_EQ(header.tensors[i].shape, tensor.shape) << tensor.name;
        EXPECT_EQ(tensor.offset, end) << tensor.name;  // padding and all
        end = tensor.offset + tensor.bytes + tensor.padding;
      }
      EXPECT_EQ(end, file.bytes);
    }
    EXPECT_EQ(seen.size(), plan.tensors.size());
  }
  static std::vector<std::string> Order(const Plan& plan) {
    std::vector<std::string> names;
    for (const PlannedFile& file : plan.files) {
      for (const size_t i : file.tensors) names.push_back(plan.tensors[i].name);
    }
    return names;
  }
  static uint64_t Number(const Plan& plan, size_t file, std::string_view key) {
    const GgufHeader header = Must(ParseGgufHeader(AsBytes(plan.files[file].head), plan.files[file].bytes));
    const GgufValue* value = FindGguf(header.values, key);
    return value == nullptr ? 999 : value->AsU64().value_or(998);
  }
};

TEST_F(GgufFiles, OneFileWithNothingBeside) {
  const PlannedJob job = Make("published-int4-g128-sharded");
  ASSERT_EQ(job.plan.files.size(), 1U);  // although the source has three
  EXPECT_EQ(job.plan.files[0].name, "model.gguf");
  EXPECT_TRUE(job.plan.texts.empty());
  CheckFiles(job.plan);
  EXPECT_EQ(Number(job.plan, 0, "split.count"), 999U);
  EXPECT_EQ(Number(job.plan, 0, "general.quantization_version"), 2U);
}

TEST_F(GgufFiles, FileTypeIsWhatMostWeightsAre) {
  EXPECT_EQ(Number(Make("published-int4-g128-sharded").plan, 0, "general.file_type"), 2U);
  EXPECT_EQ(Number(Make("autogptq-0.7.1-int4-g32-asym-tied").plan, 0, "general.file_type"), 7U);
  EXPECT_EQ(Number(Make("autogptq-0.7.1-int4-g32-asym-tied", {}, true).plan, 0, "general.file_type"), 3U);
}

TEST_F(GgufFiles, BlocksFollowEachOther) {
  const std::vector<std::string> order = Order(Make("published-int4-g128-sharded").plan);
  std::vector<std::string> heads;
  for (const std::string& name : order) {
    const std::string head = name.starts_with("blk.") ? name.substr(0, 6) : name;
    if (heads.empty() || heads.back() != head) heads.push_back(head);
  }
  EXPECT_EQ(heads, (std::vector<std::string>{"blk.0.", "blk.1.", "output.weight", "output_norm.weight", "token_embd.weight"}));
}

TEST_F(GgufFiles, ExpertsAreOneStackInTheirOrder) {
  const PlannedJob job = Make("autogptq-0.7.1-moe-int4-g64", 40'000);
  CheckFiles(job.plan);
  const std::vector<std::string> order = Order(job.plan);
  const auto first = std::ranges::find(order, "blk.0.ffn_down_exps.0.weight");
  ASSERT_NE(first, order.end());
  size_t file = 0;
  for (size_t e = 0; e < 4; ++e) {
    const std::string name = fmt::format("blk.0.ffn_down_exps.{}.weight", e);
    EXPECT_EQ(*(first + static_cast<ptrdiff_t>(e)), name);
    const PlannedTensor* tensor = test::FindPlanned(job.plan, name);
    if (e == 0) file = tensor->file;
    EXPECT_EQ(tensor->file, file);  // a stack is not torn apart
    EXPECT_TRUE(e == 3 || tensor->padding == 0);
  }
}

TEST_F(GgufFiles, SeriesSaysItsNumbers) {
  const PlannedJob job = Make("autogptq-0.7.1-moe-int4-g64", 150'000);
  const size_t count = job.plan.files.size();
  ASSERT_GT(count, 2U);
  CheckFiles(job.plan);
  std::set<std::string> stored;
  for (size_t f = 0; f < count; ++f) {
    EXPECT_EQ(job.plan.files[f].name, fmt::format("model-{:05}-of-{:05}.gguf", f + 1, count));
    EXPECT_EQ(Number(job.plan, f, "split.no"), f);
    EXPECT_EQ(Number(job.plan, f, "split.count"), count);
    EXPECT_EQ(Number(job.plan, f, "general.file_type"), f == 0 ? 2U : 999U);  // the model's own values are in the first
    for (const size_t i : job.plan.files[f].tensors) {
      std::string name = job.plan.tensors[i].name;
      if (const size_t stack = name.find("_exps."); stack != std::string::npos) name.resize(stack);
      stored.insert(name);
    }
  }
  for (size_t f = 0; f < count; ++f) EXPECT_EQ(Number(job.plan, f, "split.tensors.count"), stored.size());
}

}  // namespace
}  // namespace q2c
