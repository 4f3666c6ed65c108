// The engine of the forecast; that its data is right is held against real loaders (tests/audit).
#include "verify/forecast.h"

#include <gtest/gtest.h>

#include "formats/target.h"
#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::Must;

std::string VerdictOf(const std::string& loader, const std::string& facts) { return Must(ForecastFor(loader, Must(ParseJson(facts)))).verdict; }

constexpr const char* kSound =
    R"({"container": "safetensors", "standard_names": true, "unreadable": false, "metadata_format": true, "model_type": "qwen2", "model_type_known": true, "remote_code_needed": false, "rope": "both-or-old",
        "config_says": "gptq", "quantised": true, "stored": ["gptq"], "bits": [4], "symmetric": true, "zeros": "v1", "label_wrong": false, "wrapped": false, "cpu_group_sizes": true, "vllm_group_sizes": true, "flat_vision": false,
        "extra_biases": 0, "missing_biases": 0, "derived_buffers": 0, "routers_replaced": false, "marlin_flag": false, "sym_said": true, "desc_act_said": false, "findings": []})";

std::string With(const std::string& key, const std::string& value) {
  Json facts = Must(ParseJson(kSound));
  facts.Set(key, Must(ParseJson(value)));
  return facts.Dump(-1);
}

TEST(ForecastTest, EveryLoaderDecidesAndNamesATarget) {
  for (const std::string& loader : LoaderNames()) {
    const Forecast forecast = Must(ForecastFor(loader, Must(ParseJson("{}"))));
    EXPECT_FALSE(forecast.reason.empty()) << loader;
    Must(FindTarget(forecast.target));
  }
  EXPECT_EQ(Must(ForecastAll(Must(ParseJson(kSound)))).size(), LoaderNames().size());
}

TEST(ForecastTest, OneFactMakesTheDifference) {
  EXPECT_EQ(VerdictOf("t5", kSound), "clean");
  EXPECT_EQ(VerdictOf("t5", With("extra_biases", "8")), "reports");
  EXPECT_EQ(VerdictOf("gptqmodel", kSound), "clean");
  EXPECT_EQ(VerdictOf("gptqmodel", With("flat_vision", "true")), "refuses");
  EXPECT_EQ(VerdictOf("t4.40-o1.19", With("extra_biases", "8")), "clean");
  EXPECT_EQ(VerdictOf("t4.40-o1.19", With("missing_biases", "8")), "wrong");
  EXPECT_EQ(VerdictOf("t4.57", With("rope", "\"new-form-only\"")), "wrong");
  EXPECT_EQ(VerdictOf("t5", With("rope", "\"new-form-only\"")), "clean");
  EXPECT_EQ(VerdictOf("t4.40-o1.20", With("zeros", "\"v2\"")), "wrong");
  EXPECT_EQ(VerdictOf("t4.57", With("zeros", "\"v2\"")), "clean");
  EXPECT_EQ(VerdictOf("t4.57", With("bits", "[3]")), "wrong");
  EXPECT_EQ(VerdictOf("t5", With("standard_names", "false")), "refuses");
  EXPECT_EQ(VerdictOf("vllm", With("sym_said", "false")), "refuses");
  EXPECT_EQ(VerdictOf("vllm", With("bits", "[3]")), "refuses");
  EXPECT_EQ(VerdictOf("vllm", With("findings", R"(["x", "tensor-missing"])")), "wrong");
  EXPECT_EQ(VerdictOf("llama.cpp", With("container", "\"gguf\"")), "clean");
  EXPECT_EQ(VerdictOf("llama.cpp", kSound), "refuses");
}

TEST(ForecastTest, ReasonsHoldTheFacts) {
  EXPECT_EQ(Must(ForecastFor("t5", Must(ParseJson(With("extra_biases", "8"))))).reason, "8 unexpected: ?");
  test::ExpectError(ForecastFor("no-such-loader", Json::Object()), Code::kInternal, "internal");
}

}  // namespace
}  // namespace q2c
