#include "formats/target.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "formats/architecture.h"
#include "formats/layouts/layout.h"
#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using test::ExpectError;
using test::Must;

TEST(TargetTest, EveryOneIsCompleteAndNamesWhatExists) {
  EXPECT_EQ(TargetNames(), (std::vector<std::string>{"optimum-1.19", "transformers-4.x", "transformers-5.x"}));
  const std::vector<std::string> known = KnownArchitectures();
  for (const std::string& name : TargetNames()) {
    const Target target = Must(FindTarget(name));
    EXPECT_EQ(target.name, name);
    EXPECT_FALSE(target.summary.empty());
    EXPECT_FALSE(target.versions.empty());
    EXPECT_FALSE(target.verified_with.empty()) << name;
    EXPECT_FALSE(target.layouts.empty());
    for (const std::string& layout : target.layouts) EXPECT_NE(FindLayout(layout), nullptr) << layout;
    for (const auto& [type, why] : target.refuses_architectures) {
      EXPECT_NE(std::ranges::find(known, type), known.end()) << type;
      EXPECT_FALSE(why.empty());
    }
  }
  ExpectError(FindTarget("transformers-6"), Code::kUsage, "target", {"transformers-6", "optimum-1.19"});
  ExpectError(CombineTargets({}), Code::kUsage, "target");
}

TEST(TargetTest, CombinedIsWhatBothTake) {
  const Target old = Must(FindTarget("optimum-1.19"));
  const Target four = Must(FindTarget("transformers-4.x"));
  const Target five = Must(FindTarget("transformers-5.x"));
  for (const auto& pair : {std::vector<Target>{four, five}, std::vector<Target>{five, four}}) {
    const Target both = Must(CombineTargets(pair));
    EXPECT_EQ(both.layouts, std::vector<std::string>{"gptq-v1"});
    EXPECT_EQ(both.refuses_architectures.size(), 1U);
  }
  ExpectError(CombineTargets({four, old}), Code::kRefused, "target-conflict", {"transformers-4.x", "optimum-1.19"});
  Target other = four;
  other.name = "other";
  other.layouts = {"gptq-v2"};
  ExpectError(CombineTargets({four, other}), Code::kRefused, "target-conflict", {"layout"});
}

}  // namespace
}  // namespace q2c
