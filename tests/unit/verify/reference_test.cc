// The reference reader against bits.h. It must be right by itself: it is what convicts a codec.
#include "verify/reference.h"

#include <gtest/gtest.h>

#include <bit>

#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c {
namespace {

using test::Bytes;
using test::Must;

struct Case {
  uint64_t bits;
  uint64_t in;
  uint64_t out;
  uint64_t group_size;
};

class Reference : public testing::TestWithParam<Case> {};

TEST_P(Reference, EqualsThePlainFormula) {
  const Case c = GetParam();
  const uint64_t groups = CeilDiv(c.in, c.group_size);
  test::Random random(c.bits * 1000 + c.in);
  const Bytes qweight = random.Fill(c.in * c.bits / 8 * c.out);
  const Bytes qzeros = random.Fill(groups * c.out * c.bits / 8);
  std::vector<uint16_t> scales(groups * c.out);
  for (uint16_t& scale : scales) scale = static_cast<uint16_t>(random.Below(0x7C00));
  std::vector<int32_t> g_idx(c.in);
  for (int32_t& group : g_idx) group = static_cast<int32_t>(random.Below(static_cast<uint32_t>(groups)));
  const test::TempFolder folder;
  test::WriteWhole(folder / "model.safetensors", test::Safetensors({{"l.g_idx", "I32", {c.in}, test::BytesOfWords(g_idx)},
                                                                     {"l.qweight", "I32", {c.in * c.bits / 32, c.out}, qweight},
                                                                     {"l.qzeros", "I32", {groups, c.out * c.bits / 32}, qzeros},
                                                                     {"l.scales", "F16", {groups, c.out}, test::BytesOfWords(scales)}}));
  const Checkpoint checkpoint = Must(Checkpoint::Open(folder.path(), Links::kRefuse));
  StoredLinear linear{&checkpoint, "l", "gptq-v1", c.in, c.out, c.group_size, c.bits};

  // In one go, and from the middle.
  for (const uint64_t first : {uint64_t{0}, c.in / 64 * 32}) {
    std::vector<uint8_t> codes;
    Must(ReferenceCodes(linear, first, c.in - first, &codes));
    ASSERT_EQ(codes.size(), (c.in - first) * c.out);
    for (uint64_t k = first; k < c.in; ++k) {
      for (uint64_t n = 0; n < c.out; ++n) ASSERT_EQ(codes[(k - first) * c.out + n], test::GetCode(qweight, c.bits, c.out, k, n)) << k << ", " << n;
    }
  }
  for (const auto& [layout, plus] : std::vector<std::pair<const char*, uint32_t>>{{"gptq-v1", 1}, {"gptq-v2", 0}}) {
    linear.layout = layout;
    const ReferenceParameters parameters = Must(ReferenceParametersOf(linear));
    ASSERT_EQ(parameters.zeros.size(), groups * c.out);
    for (uint64_t g = 0; g < groups; ++g) {
      for (uint64_t n = 0; n < c.out; ++n) {
        ASSERT_EQ(parameters.zeros[g * c.out + n], (test::GetZeroField(qzeros, c.bits, c.out, g, n) + plus) % (1U << c.bits));
      }
    }
    ASSERT_EQ(parameters.group_index, std::vector<int64_t>(g_idx.begin(), g_idx.end()));
  }
}

INSTANTIATE_TEST_SUITE_P(Shapes, Reference,
                         testing::Values(Case{2, 32, 32, 32}, Case{3, 32, 32, 32}, Case{4, 32, 32, 32}, Case{8, 32, 32, 32}, Case{2, 96, 64, 64}, Case{3, 96, 64, 64},
                                         Case{4, 96, 64, 64}, Case{8, 96, 64, 64}, Case{3, 160, 96, 160}, Case{4, 128, 32, 16}));

TEST(ReferenceScales, WidenExactly) {
  // Pairs of a pattern and its float32 bits, from the definition of the two formats.
  const std::vector<std::pair<uint16_t, uint32_t>> halves = {{0x0000, 0x00000000}, {0x8000, 0x80000000}, {0x3C00, 0x3F800000}, {0xC000, 0xC0000000}, {0x0001, 0x33800000},
                                                             {0x03FF, 0x387FC000}, {0x0400, 0x38800000}, {0x7BFF, 0x477FE000}, {0x1400, 0x3A800000}, {0x8001, 0xB3800000}};
  std::vector<uint16_t> patterns;
  std::vector<uint32_t> expected;
  for (const auto& [half, single] : halves) {
    patterns.push_back(half);
    expected.push_back(single);
  }
  const test::TempFolder folder;
  test::WriteWhole(folder / "model.safetensors", test::Safetensors({{"f16", "F16", {10}, test::BytesOfWords(patterns)},
                                                                     {"bf16", "BF16", {2}, test::BytesOfWords(std::vector<uint16_t>{0x3F80, 0x8001})},
                                                                     {"f32", "F32", {1}, test::BytesOfWords(std::vector<uint32_t>{0x3DCCCCCD})},
                                                                     {"i32", "I32", {1}, Bytes(4)}}));
  const Checkpoint checkpoint = Must(Checkpoint::Open(folder.path(), Links::kRefuse));
  EXPECT_EQ(Must(WidenedBits(checkpoint, *checkpoint.Find("f16"))), expected);
  EXPECT_EQ(Must(WidenedBits(checkpoint, *checkpoint.Find("bf16"))), (std::vector<uint32_t>{0x3F800000, 0x80010000}));
  EXPECT_EQ(Must(WidenedBits(checkpoint, *checkpoint.Find("f32"))), (std::vector<uint32_t>{0x3DCCCCCD}));
  test::ExpectError(WidenedBits(checkpoint, *checkpoint.Find("i32")), Code::kMalformed, "tensor-dtype");
}

TEST(ReferenceScales, UnknownLayoutIsNotGuessed) {
  const test::TempFolder folder;
  test::WriteWhole(folder / "model.safetensors", test::Safetensors({{"l.qweight", "I32", {4, 32}, Bytes(512)}}));
  const Checkpoint checkpoint = Must(Checkpoint::Open(folder.path(), Links::kRefuse));
  test::ExpectError(ReferenceParametersOf({&checkpoint, "l", "awq", 32, 32, 32, 4}), Code::kNotRun, "layout", {"awq"});
}

}  // namespace
}  // namespace q2c
