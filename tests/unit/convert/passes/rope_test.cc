// rope_theta, rope_scaling and rope_parameters: both generations must read the same model.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::ExpectError;

class Rope : public testing::Test {
 protected:
  Result<PlannedJob> Plan(const std::map<std::string, std::string>& keys) {
    test::TinyModel model = test::MakeTiny();
    model.config.erase("rope_theta");
    for (const auto& [key, value] : keys) model.config[key] = value;
    model.Write(folder_.path());
    return PlanJob(test::TinyJob(folder_.path(), ""));
  }
  // The three keys as they come out, one line each.
  std::string Out(const std::map<std::string, std::string>& keys) {
    const PlannedJob job = test::Must(Plan(keys));
    const auto text = [&](const char* key) { return job.plan.config.Find(key) == nullptr ? std::string("absent") : job.plan.config.Find(key)->Dump(-1); };
    return text("rope_theta") + "\n" + text("rope_scaling") + "\n" + text("rope_parameters");
  }
  const test::TempFolder folder_;
};

constexpr const char* kPlain = "1000000.0\nabsent\n{\"rope_theta\": 1000000.0, \"rope_type\": \"default\"}";

TEST_F(Rope, EveryFormOfThePlainBase) {
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}}), kPlain);
  EXPECT_EQ(Out({{"rope_theta", "1000000"}}), kPlain);  // an integer becomes a float
  EXPECT_EQ(Out({{"rope_parameters", R"({"rope_theta": 1000000.0, "rope_type": "default"})"}}), kPlain);
  EXPECT_EQ(Out({{"rope_parameters", R"({"rope_theta": 1000000})"}}), kPlain);
  EXPECT_EQ(Out({{"rope_theta", "null"}, {"rope_parameters", R"({"rope_theta": 1000000.0})"}}), kPlain);
  // No base anywhere is 10000, as both generations take it.
  EXPECT_EQ(Out({}), "10000.0\nabsent\n{\"rope_theta\": 10000.0, \"rope_type\": \"default\"}");
  EXPECT_EQ(Out({{"rope_theta", "1e6"}}), "1e6\nabsent\n{\"rope_theta\": 1e6, \"rope_type\": \"default\"}");
}

TEST_F(Rope, YarnFromEitherSide) {
  const std::string expected =
      "1000000.0\n"
      R"({"rope_type": "yarn", "type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})"
      "\n"
      R"({"rope_theta": 1000000.0, "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768})";
  const std::string factors = R"("factor": 4.0, "original_max_position_embeddings": 32768})";
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"type\": \"yarn\", " + factors}}), expected);
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"rope_type\": \"yarn\", " + factors}}), expected);
  EXPECT_EQ(Out({{"rope_parameters", "{\"rope_theta\": 1000000.0, \"rope_type\": \"yarn\", " + factors}}), expected);
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"type\": \"yarn\", " + factors}, {"rope_parameters", "{\"rope_theta\": 1000000.0, \"rope_type\": \"yarn\", " + factors}}), expected);
}

// Qwen2-VL: older loaders look for the word mrope, newer ones call it default; for text it is the plain one.
TEST_F(Rope, SectionsForImagesUnderEitherName) {
  const std::string expected =
      "1000000.0\n"
      R"({"rope_type": "mrope", "type": "mrope", "mrope_section": [16, 24, 24]})"
      "\n"
      R"({"rope_theta": 1000000.0, "rope_type": "default", "mrope_section": [16, 24, 24]})";
  const std::string sections = R"("mrope_section": [16, 24, 24]})";
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"type\": \"mrope\", " + sections}}), expected);
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"type\": \"default\", \"rope_type\": \"default\", " + sections}}), expected);
  EXPECT_EQ(Out({{"rope_parameters", "{\"rope_theta\": 1000000.0, \"rope_type\": \"default\", \"type\": \"default\", " + sections}}), expected);
  EXPECT_EQ(Out({{"rope_theta", "1000000.0"}, {"rope_scaling", "{\"type\": \"mrope\", " + sections}, {"rope_parameters", "{\"rope_theta\": 1000000.0, \"rope_type\": \"default\", " + sections}}), expected);
  ExpectError(Plan({{"rope_scaling", "{\"type\": \"mrope\", " + sections}, {"rope_parameters", "{\"rope_type\": \"yarn\", " + sections}}), Code::kMalformed, "config-rope");
}

TEST_F(Rope, ScalingThatSaysNothing) {
  for (const char* nothing : {"null", "{}"}) {
    const std::string out = Out({{"rope_theta", "1000000.0"}, {"rope_scaling", nothing}});
    EXPECT_EQ(out, std::string("1000000.0\n") + nothing + "\n{\"rope_theta\": 1000000.0, \"rope_type\": \"default\"}");
  }
}

TEST_F(Rope, ContradictionsAreRefused) {
  ExpectError(Plan({{"rope_theta", "10000.0"}, {"rope_parameters", R"({"rope_theta": 1000000.0})"}}), Code::kMalformed, "config-rope", {"10000.0", "1000000.0"});
  ExpectError(Plan({{"rope_scaling", R"({"type": "yarn", "factor": 4.0})"}, {"rope_parameters", R"({"rope_type": "linear", "factor": 4.0})"}}), Code::kMalformed, "config-rope");
  ExpectError(Plan({{"rope_scaling", R"({"type": "yarn", "factor": 4.0})"}, {"rope_parameters", R"({"rope_type": "yarn", "factor": 2.0})"}}), Code::kMalformed, "config-rope");
  ExpectError(Plan({{"rope_theta", "\"big\""}}), Code::kMalformed, "config-rope", {"a string"});
  ExpectError(Plan({{"rope_parameters", R"({"rope_theta": []})"}}), Code::kMalformed, "config-rope", {"a list"});
}

TEST_F(Rope, SameFactorsInAnotherOrderDoNotContradict) {
  const Result<PlannedJob> job = Plan({{"rope_scaling", R"({"factor": 4.0, "type": "yarn", "beta_fast": 32})"}, {"rope_parameters", R"({"rope_type": "yarn", "beta_fast": 32, "factor": 4.0})"}});
  EXPECT_TRUE(job.ok()) << job.error().Text();
}

TEST_F(Rope, WhatIsRightAlreadyIsNoEdit) {
  const PlannedJob job = test::Must(Plan({{"rope_theta", "1000000.0"}, {"rope_parameters", R"({"rope_theta": 1000000.0, "rope_type": "default"})"}}));
  for (const ConfigEdit& edit : job.plan.edits) EXPECT_FALSE(edit.key.starts_with("rope")) << edit.key;
}

}  // namespace
}  // namespace q2c
