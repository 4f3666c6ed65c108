// Plans: what is read, and what is refused with the number of its line.
#include "convert/zoo_plan.h"

#include <gtest/gtest.h>

#include "convert/zoo_find.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

class ZooPlanTest : public testing::Test {
 protected:
  ZooPlanTest() {
    std::filesystem::create_directories(root_);
    head_ = R"({"format":"qwen2-zoo-plan","version":"1.0","root":")" + root_ + R"(","out":")" + out_ + R"("})" "\n";
  }
  static std::string Line(const std::string& in, const std::string& out, const std::string& options = R"(["--target=awq"])") {
    return R"({"in":")" + in + R"(","out":")" + out + R"(","bytes":1,"identity":"ends:0","options":)" + options + R"(,"output_bytes":2,"seconds":0.1})" "\n";
  }
  Result<ZooPlan> Read(const std::string& text) const {
    test::WriteWhole(path_, text);
    return ReadZooPlan(path_);
  }
  // One good line and the bad one; the good one must remain.
  void ExpectBadLine(const std::string& line, std::string_view id, const std::vector<std::string>& mentions = {}) const {
    const ZooPlan plan = Must(Read(head_ + Line("good", "good") + line));
    ASSERT_EQ(plan.models.size(), 1U) << line;
    EXPECT_EQ(plan.models[0].in, "good");
    ASSERT_EQ(plan.bad_lines.size(), 1U) << line;
    EXPECT_EQ(plan.bad_lines[0].id, id) << plan.bad_lines[0].Text();
    EXPECT_NE(plan.bad_lines[0].message.find("plan.jsonl:3: "), std::string::npos) << plan.bad_lines[0].message;
    for (const std::string& mention : mentions) EXPECT_NE(plan.bad_lines[0].message.find(mention), std::string::npos) << plan.bad_lines[0].message;
  }

  const test::TempFolder folder_;
  const std::string root_ = folder_ / "zoo";
  const std::string out_ = folder_ / "out";
  const std::string path_ = folder_ / "plan.jsonl";
  std::string head_;
};

TEST_F(ZooPlanTest, IsReadAsItWasWritten) {
  ZooPlan plan;
  plan.path = path_;
  plan.root = root_;
  plan.out = out_;
  plan.models.push_back({2, "org/a", "org/a", "ends:1", 10, 20, 1.5, {"--target=awq", "--allow-rounding"}, std::nullopt});
  plan.models.push_back({3, "b", "b", "", 5, 0, 0, {"--target=awq"}, Refused("dense", "cannot")});
  const ZooPlan read = Must(Read(PlanHeadLine(plan) + PlanLine(plan.models[0]) + PlanLine(plan.models[1])));
  EXPECT_TRUE(read.bad_lines.empty());
  EXPECT_EQ(read.root, root_);
  EXPECT_EQ(read.out, out_);
  ASSERT_EQ(read.models.size(), 2U);
  EXPECT_EQ(PlanLine(read.models[0]), PlanLine(plan.models[0]));
  EXPECT_EQ(PlanLine(read.models[1]), PlanLine(plan.models[1]));
  EXPECT_EQ(read.models[0].line, 2U);
  EXPECT_EQ(read.models[0].Unit(), plan.models[0].Unit());
  EXPECT_NE(PlanHeadLine(plan).find(R"("models": 2, "refused": 1, "bytes": 10, "output_bytes": 20})"), std::string::npos) << PlanHeadLine(plan);
}

TEST_F(ZooPlanTest, TheUnitChangesWithAllThatMayChangeTheOutput) {
  const ZooModel model{2, "a", "a", "ends:1", 10, 20, 1.5, {"--target=awq"}, std::nullopt};
  ZooModel other = model;
  other.bytes = 11;
  other.line = 7;
  EXPECT_EQ(other.Unit(), model.Unit());
  (other = model).in = "b";
  EXPECT_NE(other.Unit(), model.Unit());
  (other = model).out = "b";
  EXPECT_NE(other.Unit(), model.Unit());
  (other = model).identity = "ends:2";
  EXPECT_NE(other.Unit(), model.Unit());
  (other = model).options = {"--target=mlx"};
  EXPECT_NE(other.Unit(), model.Unit());
}

TEST_F(ZooPlanTest, BadLinesAreNumberedAndTheRestIsKept) {
  ExpectBadLine("not json\n", "json");
  ExpectBadLine("\n", "json");
  ExpectBadLine("[]\n", "zoo-plan");
  ExpectBadLine("{\"in\":\"a\"}\n", "zoo-plan", {"\"out\""});
  ExpectBadLine(Line("a", "a").substr(0, 40) + "\n", "json");
  ExpectBadLine(Line("a", "a", "\"--target=awq\""), "zoo-plan", {"options"});
  ExpectBadLine(Line("a", "a", "[3]"), "zoo-plan", {"options"});
  ExpectBadLine(Line("a", "a", "[\"--force\"]"), "usage", {"--force"});
  ExpectBadLine(Line("a", "a", "[\"--target=awq\",\"--report=/etc/passwd\"]"), "usage", {"--report"});
  ExpectBadLine(Line("a", "a", "[\"elsewhere\"]"), "usage", {"elsewhere"});
  ExpectBadLine(Line("a", "a", "[]"), "usage", {"--target"});
  ExpectBadLine(Line("a", "a", "[\"--target=awq\",\"--zeros=v3\"]"), "usage", {"v3"});
  ExpectBadLine(Line("a", "a", "[\"--target=awq\",\"--allow-rounding=x\"]"), "usage");
  for (const char* path : {"..", "../a", "a/../../b", "/etc", "a//b", "a/", "./a", "a/./b", "a\\\\b"}) {
    ExpectBadLine(Line(path, "a"), "zoo-plan-path", {"root"});
    ExpectBadLine(Line("a", path), "zoo-plan-path", {"folder of outputs"});
    // of a refused one as well, although nothing is done with it but to name it
    std::string refused = Line("a", path);
    refused.insert(refused.rfind('}'), R"(, "refused": {"exit": 69, "id": "layout", "message": "m"})");
    ExpectBadLine(refused, "zoo-plan-path", {"folder of outputs"});
  }
  // no newline: cut off
  std::string torn = Line("a", "a");
  torn.pop_back();
  ExpectBadLine(torn, "zoo-plan", {"no end"});
}

TEST_F(ZooPlanTest, OutputsThatCollideAreAllRefused) {
  const ZooPlan plan = Must(Read(head_ + Line("a", "same") + Line("b", "fine") + Line("c", "same") + Line("d", "x/y/z") + Line("e", "x") + Line("f", "xy")));
  ASSERT_EQ(plan.models.size(), 2U);
  EXPECT_EQ(plan.models[0].in, "b");
  EXPECT_EQ(plan.models[1].in, "f");
  ASSERT_EQ(plan.bad_lines.size(), 4U);
  const char* expected[] = {"plan.jsonl:2: the output 'same' is that of line 4, too", "plan.jsonl:4: the output 'same' is that of line 2, too", "plan.jsonl:5: the output 'x/y/z' lies in that of line 6", "plan.jsonl:6: the output of line 5 lies in 'x'"};
  for (size_t i = 0; i < 4; ++i) EXPECT_NE(plan.bad_lines[i].message.find(expected[i]), std::string::npos) << plan.bad_lines[i].message;
}

TEST_F(ZooPlanTest, PlansThatCannotBeUsedAtAll) {
  ExpectError(Read(""), Code::kMalformed, "zoo-plan", {"plan.jsonl"});
  ExpectError(Read("{}\n"), Code::kMalformed, "zoo-plan", {"plan.jsonl:1: "});
  ExpectError(Read("hello\n"), Code::kMalformed, "json", {"plan.jsonl:1: "});
  ExpectError(Read(R"({"format":"qwen2-zoo-plan","version":"2.0","root":"/a","out":"/b"})" "\n"), Code::kRefused, "zoo-plan-version", {"plan.jsonl:1: ", "2.0"});
  ExpectError(Read(R"({"format":"qwen2-zoo-plan","version":"1.0","root":"a","out":"/b"})" "\n"), Code::kMalformed, "zoo-plan", {"'a'"});
  ExpectError(Read(R"({"format":"qwen2-zoo-plan","version":"1.0","root":"/a/../b","out":"/b"})" "\n"), Code::kMalformed, "zoo-plan");
  ExpectError(Read(R"({"format":"qwen2-zoo-plan","version":"1.0","root":"/a/b","out":"/a"})" "\n"), Code::kUsage, "output-input");
  ExpectError(ReadZooPlan(folder_ / "absent"), Code::kMalformed, "file-missing");
  // through a link, too
  std::filesystem::create_directory_symlink(root_, folder_ / "link");
  ExpectError(CheckApart(root_, folder_ / "link/not/there/yet"), Code::kUsage, "output-input");
  EXPECT_TRUE(CheckApart(root_, out_).ok());
}

class ZooFindTest : public testing::Test {
 protected:
  ZooFindTest() {
    Copy("published-int4-g128-sharded", "org/plain");
    Copy("published-int4-g128-sharded", "org/copy");
    Copy("autogptq-0.7.1-int4-g128-sym", "deep/er/model");
    test::WriteWhole(folder_ / "zoo/broken/config.json", "{");
    test::WriteWhole(folder_ / "zoo/notes/readme.md", "nothing here");
    test::WriteWhole(folder_ / "zoo/.hidden/config.json", "{");
  }
  void Copy(const std::string& fixture, const std::string& to) const {
    const std::filesystem::path target = folder_ / ("zoo/" + to);
    std::filesystem::create_directories(target.parent_path());
    std::filesystem::copy(std::filesystem::path(Q2C_FIXTURES) / fixture / "checkpoint", target, std::filesystem::copy_options::recursive);
  }
  FoundZoo Find(FindOptions options) const {
    options.options = {"--target=compressed-tensors"};
    options.jobs = 2;
    return Must(FindZoo(folder_ / "zoo", folder_ / "out", options));
  }
  static std::vector<std::string> Paths(const FoundZoo& zoo) {
    std::vector<std::string> paths;
    for (const ZooModel& model : zoo.plan.models) paths.push_back((model.refused.has_value() ? "!" : "") + model.in);
    return paths;
  }
  const test::TempFolder folder_;
};

TEST_F(ZooFindTest, EveryCheckpointHasALineLargestFirst) {
  const FoundZoo zoo = Find({});
  const std::vector<std::string> paths = Paths(zoo);
  EXPECT_EQ(std::set<std::string>(paths.begin(), paths.end()), (std::set<std::string>{"!broken", "deep/er/model", "org/copy", "org/plain"}));
  for (size_t i = 1; i < zoo.plan.models.size(); ++i) EXPECT_GE(zoo.plan.models[i - 1].bytes, zoo.plan.models[i].bytes);
  EXPECT_EQ(zoo.plan.models.back().in, "broken");
  EXPECT_EQ(zoo.plan.models.back().refused->code, Code::kMalformed);
  ASSERT_EQ(zoo.notes.size(), 1U);
  EXPECT_EQ(zoo.notes[0], "1 models are equal to another one; each is written");
  EXPECT_FALSE(test::Exists(folder_ / "out")) << "a plan writes nothing";
}

TEST_F(ZooFindTest, ThePlanIsThatOfADryRun) {
  const FoundZoo zoo = Find({});
  const auto model = std::ranges::find(zoo.plan.models, "deep/er/model", &ZooModel::in);
  const PlannedJob job = Must(PlanJob(Must(ZooJob(folder_ / "zoo/deep/er/model", folder_ / "out/x", {"--target=compressed-tensors"}))));
  EXPECT_EQ(model->output_bytes, job.plan.OutputBytes());
}

TEST_F(ZooFindTest, GlobsChoose) {
  FindOptions options;
  options.include = {"org/*", "deep/*"};
  options.exclude = {"*copy"};
  EXPECT_EQ(Paths(Find(options)).size(), 2U);
  options.include = {"nothing"};
  EXPECT_TRUE(Paths(Find(options)).empty());
}

TEST_F(ZooFindTest, ACheckpointWithinAnotherIsRefused) {
  Copy("published-int4-g128-sharded", "org/plain/original");
  const FoundZoo zoo = Find({});
  const auto model = std::ranges::find(zoo.plan.models, "org/plain/original", &ZooModel::in);
  ASSERT_NE(model, zoo.plan.models.end());
  EXPECT_EQ(model->refused->id, "zoo-nested");
  test::WriteWhole(folder_ / "plan", PlanHeadLine(zoo.plan) + [&] {
    std::string lines;
    for (const ZooModel& each : zoo.plan.models) lines += PlanLine(each);
    return lines;
  }());
  const ZooPlan plan = Must(ReadZooPlan(folder_ / "plan"));
  EXPECT_TRUE(plan.bad_lines.empty()) << "the outer one is not hurt by it";
  EXPECT_EQ(plan.models.size(), zoo.plan.models.size());
}

TEST_F(ZooFindTest, RootsThatAreNone) {
  FindOptions options;
  options.options = {"--target=awq"};
  ExpectError(FindZoo(folder_ / "zoo", folder_ / "zoo/out", options), Code::kUsage, "output-input");
  ExpectError(FindZoo(folder_ / "zoo", folder_.path(), options), Code::kUsage, "output-input");
  ExpectError(FindZoo(folder_ / "nowhere", folder_ / "out", options), Code::kUsage, "no-folder");
  ExpectError(FindZoo(folder_ / "zoo/org/plain", folder_ / "out", options), Code::kUsage, "zoo-root");
  options.options = {"--target=nothing"};
  EXPECT_FALSE(FindZoo(folder_ / "zoo", folder_ / "out", options).ok());
}

TEST_F(ZooFindTest, IdentitiesSeeWhatTheyShould) {
  const auto of = [&](const std::string& path, bool whole) { return Must(IdentityOf(folder_ / ("zoo/" + path), Links::kRefuse, whole)); };
  for (const bool whole : {false, true}) {
    EXPECT_EQ(of("org/plain", whole), of("org/copy", whole));
    EXPECT_NE(of("org/plain", whole), of("deep/er/model", whole));
    EXPECT_EQ(Must(IdentityLike(of("org/plain", whole), folder_ / "zoo/org/copy", Links::kRefuse)), of("org/plain", whole));
  }
  EXPECT_NE(of("org/plain", false), of("org/plain", true));
  // A byte in the middle of a large file is what only the whole identity sees.
  const std::string big(1 << 20, 'x');
  test::WriteWhole(folder_ / "zoo/org/plain/big.txt", big);
  const std::string ends = of("org/plain", false);
  const std::string whole = of("org/plain", true);
  std::string changed = big;
  changed[big.size() / 2] = 'y';
  test::WriteWhole(folder_ / "zoo/org/plain/big.txt", changed);
  EXPECT_EQ(of("org/plain", false), ends);
  EXPECT_NE(of("org/plain", true), whole);
  changed[big.size() - 1] = 'y';
  test::WriteWhole(folder_ / "zoo/org/plain/big.txt", changed);
  EXPECT_NE(of("org/plain", false), ends);
  ExpectError(IdentityLike("md5:1", folder_ / "zoo/org/plain", Links::kRefuse), Code::kMalformed, "zoo-plan");
}

}  // namespace
}  // namespace q2c
