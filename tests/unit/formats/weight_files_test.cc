// Which files are the weights.
#include "formats/weight_files.h"

#include <gtest/gtest.h>

#include "tests/unit/support/results.h"

namespace q2c {
namespace {

using Names = std::vector<std::string>;
using test::ExpectError;
using test::Must;

TEST(WeightFilesTest, OneModelIsTaken) {
  EXPECT_EQ(Must(ChooseWeights({"model.bin"}, "")), Names({"model.bin"}));
  const Names shards = {"pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"};
  EXPECT_EQ(Must(ChooseWeights(shards, "")), shards);
  EXPECT_EQ(Must(ChooseWeights({"model.bin"}, "other")), Names({"model.bin"}));  // a stale name does no harm
}

TEST(WeightFilesTest, OfSeveralTheNamedOne) {
  const Names names = {"gptq_model-4bit-128g.bin", "mine.bin", "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"};
  EXPECT_EQ(Must(ChooseWeights(names, "mine")), Names({"mine.bin"}));
  EXPECT_EQ(Must(ChooseWeights(names, "")), Names({"gptq_model-4bit-128g.bin"}));
  EXPECT_EQ(Must(ChooseWeights({"pytorch_model.bin", "qwen-7b-4bit-128g.pt"}, "")), Names({"qwen-7b-4bit-128g.pt"}));
  EXPECT_EQ(Must(ChooseWeights({"gptq_model-4bit.bin", "orbit-2.bin", "rabbit.bin"}, "")), Names({"gptq_model-4bit.bin"}));
  ExpectError(ChooseWeights({"a.bin", "b.bin"}, ""), Code::kMalformed, "weights-several", {"'a.bin'", "'b.bin'", "model_file_base_name"});
  ExpectError(ChooseWeights({"x-4bit.bin", "y-8bit.bin"}, ""), Code::kMalformed, "weights-several");
  ExpectError(ChooseWeights({"x-4bit.bin", "x-4bit.pt"}, "x-4bit"), Code::kMalformed, "weights-several");
  ExpectError(ChooseWeights({"a-1-of-2.bin", "a-1-of-3.bin"}, "a"), Code::kMalformed, "weights-several");
}

}  // namespace
}  // namespace q2c
