// What is a copy, what is packed anew, and what the result holds.
#include <gtest/gtest.h>

#include "tests/unit/support/results.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/support/tiny_model.h"

namespace q2c {
namespace {

using test::Must;

TEST(RepackPass, OnlyTheZerosChangeBetweenV1AndV2) {
  const test::TempFolder folder;
  test::MakeTiny({.minus = 0, .symmetric = false}).Write(folder / "in");
  const PlannedJob job = test::PlanOf(folder / "in");
  for (const PlannedTensor& tensor : job.plan.tensors) {
    const bool zeros = tensor.name.ends_with(".qzeros");
    EXPECT_EQ(tensor.action, zeros ? "repack" : "copy") << tensor.name;
    EXPECT_EQ(tensor.exactness, zeros ? Exactness::kSameCodes : Exactness::kSameBytes) << tensor.name;
  }
}

TEST(RepackPass, EveryWidthIsRepackedFieldByField) {
  for (const uint32_t bits : {2U, 3U, 4U}) {
    const test::TempFolder folder;
    const test::TinyModel model = test::MakeTiny({.bits = bits, .minus = 0, .symmetric = false});
    model.Write(folder / "in");
    Must(RunJob(test::PlanOf(folder / "in"), test::TinyJob(folder / "in", folder / "out")));
    const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
    for (const test::TinyLinear& linear : test::TinyLinears()) {
      const test::Bytes& before = model.tensors.at(linear.name + ".qzeros").bytes;
      const test::Bytes after = Must(out.ReadWhole(*out.Find(linear.name + ".qzeros")));
      for (uint64_t g = 0; g < linear.in / 32; ++g) {
        for (uint64_t n = 0; n < linear.out; ++n) {
          ASSERT_EQ(test::GetZeroField(after, bits, linear.out, g, n) + 1, test::GetZeroField(before, bits, linear.out, g, n)) << linear.name;
        }
      }
      EXPECT_EQ(Must(out.ReadWhole(*out.Find(linear.name + ".qweight"))), model.tensors.at(linear.name + ".qweight").bytes);
    }
  }
}

TEST(RepackPass, MissingGroupIndexIsMadeInOrder) {
  const test::TempFolder folder;
  test::TinyModel model = test::MakeTiny();
  model.tensors.erase("model.layers.0.mlp.down_proj.g_idx");
  model.Write(folder / "in");
  Must(RunJob(test::PlanOf(folder / "in"), test::TinyJob(folder / "in", folder / "out")));
  const Checkpoint out = Must(Checkpoint::Open(folder / "out", Links::kRefuse));
  const auto groups = WordsFrom<int32_t>(Must(out.ReadWhole(*out.Find("model.layers.0.mlp.down_proj.g_idx"))));
  ASSERT_EQ(groups.size(), 96U);
  for (size_t k = 0; k < 96; ++k) EXPECT_EQ(groups[k], static_cast<int32_t>(k / 32));
}

}  // namespace
}  // namespace q2c
