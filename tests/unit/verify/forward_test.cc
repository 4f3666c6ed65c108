// The forward pass against logits and hidden states that transformers computed.
#include "verify/forward.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "formats/containers/safetensors.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

const std::string kFixtures = Q2C_FIXTURES;
constexpr double kTolerance = 2e-5;

// A file of expected values.
class Expected {
 public:
  explicit Expected(const std::string& folder) : file_(Must(InputFile::Open(Must(Dir::Open(folder)), "expected.safetensors"))), header_(Must(ReadSafetensorsHeader(file_))) {}

  bool Has(const std::string& name) const { return Find(name) != nullptr; }
  std::vector<float> Floats(const std::string& name) const { return Read<float>(name); }
  Tokens Ids() const {
    Tokens tokens;
    for (const int64_t id : Read<int64_t>("input_ids")) tokens.push_back(static_cast<uint32_t>(id));
    return tokens;
  }
  std::string Metadata(const std::string& key) const {
    return std::ranges::find(header_.metadata, key, [](const auto& entry) { return entry.first; })->second;
  }

 private:
  const TensorInfo* Find(const std::string& name) const {
    const auto found = std::ranges::find(header_.tensors, name, &TensorInfo::name);
    return found == header_.tensors.end() ? nullptr : &*found;
  }
  template <typename T>
  std::vector<T> Read(const std::string& name) const {
    const TensorInfo* info = Find(name);
    if (info == nullptr) throw std::runtime_error("no tensor " + name);
    std::vector<T> values(info->bytes / sizeof(T));
    Must(file_.ReadAt(info->offset, std::as_writable_bytes(std::span(values))));
    return values;
  }

  InputFile file_;
  SafetensorsHeader header_;
};

class KeepStates final : public ForwardWatch {
 public:
  Status State(uint64_t, const std::vector<const Rows*>& states) override {
    states_.push_back(*states[0]);
    return {};
  }
  std::vector<Rows> states_;
};

// The largest error against row-major values, which begin at `values`.
double Off(const Rows& rows, const float* values) {
  double largest = 0;
  for (uint64_t t = 0; t < rows.count; ++t) {
    for (uint64_t j = 0; j < rows.width; ++j) {
      const double error = std::abs(double{rows.At(t)[j]} - values[t * rows.width + j]);
      largest = std::isnan(error) ? INFINITY : std::max(largest, error);
    }
  }
  return largest;
}

struct Ran {
  ForwardResult result;
  std::vector<Rows> states;
};
Result<Ran> RunOn(const std::string& folder, const Tokens& tokens, unsigned jobs = 2) {
  QC_ASSIGN(const Checkpoint checkpoint, Checkpoint::Open(folder, Links::kRefuse));
  QC_ASSIGN(const Model model, UnderstandModel(checkpoint, {}));
  KeepStates watch;
  QC_ASSIGN(ForwardResult result, RunForward({{&model, {tokens}, ""}}, {jobs, nullptr, nullptr}, &watch));
  return Ran{std::move(result), std::move(watch.states_)};
}

TEST(Forward, EveryFixtureAgreesWithTransformers) {
  size_t agreed = 0;
  for (const auto& entry : std::filesystem::directory_iterator(kFixtures)) {
    const std::string name = entry.path().filename();
    if (!test::Exists(entry.path() / "expected.safetensors") || !test::Exists(entry.path() / "checkpoint")) continue;
    const Expected expected(entry.path());
    Result<Ran> ran = RunOn(entry.path() / "checkpoint", expected.Ids());
    if (!ran.ok()) {
      EXPECT_EQ(ran.error().code, Code::kRefused) << name << ": " << ran.error().Text();
      continue;
    }
    ++agreed;
    EXPECT_LE(Off(ran.value().result.logits[0], expected.Floats("logits").data()), kTolerance) << name;
    if (!expected.Has("hidden_states")) {  // they were taken from a module that keeps none
      EXPECT_EQ(name, "autogptq-0.7.1-qwen1-int4-g64");
      continue;
    }
    const std::vector<Rows>& states = ran.value().states;
    const std::vector<float> hidden = expected.Floats("hidden_states");
    ASSERT_EQ(hidden.size(), states.size() * states[0].count * states[0].width) << name;
    for (size_t i = 0; i < states.size(); ++i) {
      const float* values = hidden.data() + i * states[i].count * states[i].width;
      double largest = 1;
      for (size_t j = 0; j < states[i].count * states[i].width; ++j) largest = std::max(largest, std::abs(double{values[j]}));
      EXPECT_LE(Off(states[i], values), kTolerance * largest) << name << " state " << i;
    }
  }
  EXPECT_GE(agreed, 21U);  // all but the pickle
}

TEST(Forward, ScaledRopesAndWindowsAgreeWithTransformers) {
  const Expected expected(kFixtures + "/rope");
  const Json cases = Must(ParseJson(expected.Metadata("cases")));
  ASSERT_EQ(cases.members().size(), 6U);
  const std::string original = kFixtures + "/published-int4-g128-sharded/checkpoint";
  for (const auto& [name, edit] : cases.members()) {
    const test::TempFolder folder;
    std::filesystem::copy(original, folder.path(), std::filesystem::copy_options::recursive);
    Json config = Must(ParseJson(test::ReadWhole(folder / "config.json")));
    for (const auto& [key, value] : edit.members()) config.Set(key, value);
    test::WriteWhole(folder / "config.json", config.Dump());
    const Ran ran = Must(RunOn(folder.path(), expected.Ids()));
    EXPECT_LE(Off(ran.result.logits[0], expected.Floats("logits." + name).data()), kTolerance) << name;
    // The plain pass would not pass.
    EXPECT_GT(Off(ran.result.logits[0], Expected(kFixtures + "/rope").Floats(name == "linear" ? "logits.yarn" : "logits.linear").data()), 0.01) << name;
  }
}

TEST(Forward, DoesNotDependOnThreads) {
  for (const std::string name : {"autogptq-0.7.1-int4-g64-actorder", "autogptq-0.7.1-moe-int4-g64"}) {
    const std::string folder = kFixtures + "/" + name + "/checkpoint";
    const Tokens tokens = SpreadTokens(512, 5);
    const Ran one = Must(RunOn(folder, tokens, 1));
    const Ran seven = Must(RunOn(folder, tokens, 7));
    EXPECT_EQ(one.result.logits[0].data, seven.result.logits[0].data) << name;
  }
}

TEST(Forward, SequencesDoNotSeeEachOther) {
  const Checkpoint checkpoint = Must(Checkpoint::Open(kFixtures + "/published-int8-g128-tied/checkpoint", Links::kRefuse));
  const Model model = Must(UnderstandModel(checkpoint, {}));
  ForwardWatch watch;
  const Tokens a = {5, 6, 7, 8, 9};
  const Tokens b = {100, 200, 300};
  const ForwardResult both = Must(RunForward({{&model, {a, b}, ""}}, {}, &watch));
  const ForwardResult alone = Must(RunForward({{&model, {b}, ""}}, {}, &watch));
  for (size_t t = 0; t < b.size(); ++t) {
    for (size_t j = 0; j < 512; ++j) ASSERT_EQ(both.logits[0].At(a.size() + t)[j], alone.logits[0].At(t)[j]) << t << " " << j;
  }
}

TEST(Forward, RefusesWhatItCannotRun) {
  const std::string original = kFixtures + "/published-int8-g128-tied/checkpoint";
  const auto run = [&](const std::string& key, const std::string& value) {
    const test::TempFolder folder;
    std::filesystem::copy(original, folder.path(), std::filesystem::copy_options::recursive);
    Json config = Must(ParseJson(test::ReadWhole(folder / "config.json")));
    config.Set(key, Must(ParseJson(value)));
    test::WriteWhole(folder / "config.json", config.Dump());
    return RunOn(folder.path(), {1, 2});
  };
  ExpectError(run("rope_scaling", R"({"rope_type": "longrope", "factor": 2.0})"), Code::kNotRun, "forward", {"longrope"});
  ExpectError(run("hidden_act", R"("gelu")"), Code::kNotRun, "forward", {"gelu"});
  ExpectError(run("rope_scaling", R"({"rope_type": "linear"})"), Code::kMalformed, "config-number", {"factor"});
  ExpectError(run("rms_norm_eps", "-1"), Code::kMalformed, "config-number", {"rms_norm_eps"});
  ExpectError(RunOn(original, {512}), Code::kUsage, "tokens", {"512"});
}

TEST(ParseTokens, TakesIdsAndNothingElse) {
  EXPECT_EQ(Must(ParseTokens("1,22,333")), (Tokens{1, 22, 333}));
  for (const char* bad : {"", "1,", ",1", "1,,2", "a", "-1", "4294967296", "1.5"}) ExpectError(ParseTokens(bad), Code::kUsage, "tokens");
}

TEST(SpreadTokens, CoversTheVocabulary) {
  EXPECT_EQ(SpreadTokens(512, 4), (Tokens{64, 192, 320, 448}));
  EXPECT_EQ(SpreadTokens(1, 3), (Tokens{0, 0, 0}));
}

}  // namespace
}  // namespace q2c
