// compressed-tensors against formulas for single bits, worked examples and digests made by its own packer.
#include "formats/layouts/compressed_tensors.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::vector<QuantShape> Shapes(const std::vector<uint32_t>& widths) {
  std::vector<QuantShape> shapes;
  for (const uint32_t bits : widths) {
    for (const auto& [in, out, group] : std::vector<std::array<uint64_t, 3>>{{32, 8, 32}, {64, 96, 32}, {96, 40, 96}, {160, 32, 32}, {224, 160, 32}, {256, 32, 128}, {128, 64, 64}}) {
      shapes.push_back(ShapeOf(in, out, group, bits));
    }
  }
  return shapes;
}

TEST(CompressedTensors, EveryBitOfCodes) {
  CheckCodes("compressed-tensors", "weight_packed", Shapes({2, 3, 4, 8}), [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return (n * s.in_features + k) * s.bits + b; });
  CheckCodes("compressed-tensors-2025", "weight_packed", Shapes({3}),
             [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return 32 * (n * ((s.in_features + 9) / 10) + k / 10) + 3 * (k % 10) + b; });
}

TEST(CompressedTensors, EveryBitOfZeros) {
  CheckZeros("compressed-tensors", "weight_zero_point", Shapes({2, 3, 4, 8}), [](const QuantShape& s, uint64_t g, uint64_t n, uint32_t b) {
    const uint64_t bit = n * s.bits + b;
    return 32 * (bit / 32 * s.groups + g) + bit % 32;
  });
  CheckZeros("compressed-tensors-2025", "weight_zero_point", Shapes({3}), [](const QuantShape& s, uint64_t g, uint64_t n, uint32_t b) { return 32 * (n / 10 * s.groups + g) + 3 * (n % 10) + b; });
}

TEST(CompressedTensors, EveryBitOfScales) {
  for (const char* layout : {"compressed-tensors", "compressed-tensors-2025"}) {
    CheckScales(layout, "weight_scale", Shapes({3}), {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, [](const QuantShape& s, uint64_t g, uint64_t n) { return n * s.groups + g; });
  }
}

TEST(CompressedTensors, DigestsOfFixtureL) {
  struct Vector {
    uint32_t bits;
    const char* codes;
    const char* zeros;
  };
  for (const Vector& v : {Vector{2, "542e8ab5a4605aef0b58e7cf86967b46e93c2f7693217520828d3d0042a0cdee", "09696c43cf943b9817edf103399e16dd4bd118997bcb82155b3bb7b44a001de8"},
                          Vector{3, "5150cb2ea38e91407390b94bd5b2c54d5957add03512342e43d082bfe67c5a5f", "7f8edee90d65dd6b09634219f2472847995459b61fa289f188f6fe6ce187b275"},
                          Vector{4, "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc", "6394410056acf11e9c21ade79144eaecf498b6b5fc68add9e32b0af349698433"},
                          Vector{8, "83775fcbab0d19506eb4156557d2025019d2a29df412d6ff3fed1b2db38d2ebf", "00c5986823dbcd79a0d9d1a9c6502bf4be1e8ebb8dd7a68bcac45fb66626cdea"}}) {
    const Written written = Write("compressed-tensors", Fixture(ShapeOf(256, 256, 128, v.bits)));
    EXPECT_EQ(written.Sha("weight_packed"), v.codes) << v.bits;
    EXPECT_EQ(written.Sha("weight_zero_point"), v.zeros) << v.bits;
    // The same bytes as MLX's scales.
    EXPECT_EQ(written.Sha("weight_scale"), "f9c514a8e2f7003c87fc06c266257291ab37323045d84233e5c1f1a626c830cb") << v.bits;
  }
}

TEST(CompressedTensors, WorkedExample) {
  const Written written = Write("compressed-tensors", Fixture(ShapeOf(32, 8, 16, 4)));
  EXPECT_EQ(written.Words("weight_packed"), (std::vector<uint32_t>{0x3e94fa50, 0xb61c72d8, 0x3e94fa50, 0xb61c72d8, 0x72d82d83, 0x1c72c72d, 0xb61c61c7, 0x50b60b61, 0xc71c61b6, 0x83d82d72, 0x4f94e93e,
                                                                   0x0b50a5fa, 0x1b50a4e9, 0xf93e82c7, 0xd71c60a5, 0xb5fa4e83, 0x60a4e82c, 0x60a4e82c, 0x60a4e82c, 0x60a4e82c, 0xa4e81b5f, 0xc60a3d71,
                                                                   0xe82c5f93, 0x0a4e71b5, 0xf92c5f82, 0x3d6093c6, 0x71a4d70a, 0xb5e81b4e, 0x4d6092b5, 0xa3c6f81b, 0x092c5e71, 0x6f82b4d7}));
  EXPECT_EQ(written.Words("weight_zero_point"), (std::vector<uint32_t>{0x741da741, 0xeb852eb8}));
  EXPECT_EQ(WordsFrom<uint64_t>(written.bytes.at("weight_shape")), (std::vector<uint64_t>{8, 32}));
  EXPECT_EQ(written.Halves("weight_scale"), (std::vector<uint16_t>{0x1400, 0x2440, 0x1800, 0x2480, 0x1a00, 0x24c0, 0x1c00, 0x2500, 0x1d00, 0x2540, 0x1e00, 0x2580, 0x1f00, 0x25c0, 0x2000, 0x2600}));
}

TEST(CompressedTensors, TheWordsOfGptqTurnedOver) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    const QuantLinear linear = RandomLinear(ShapeOf(96, 64, 32, bits), {}, bits);
    const Written gptq = Write("gptq-v2", linear);
    const Written packed = Write("compressed-tensors", linear);
    const uint64_t words = 96 * bits / 32;
    for (uint64_t n = 0; n < 64; ++n) {
      for (uint64_t w = 0; w < words; ++w) ASSERT_EQ(packed.Words("weight_packed")[n * words + w], gptq.Words("qweight")[w * 64 + n]);
    }
  }
}

TEST(CompressedTensors, ZerosOnlyWhereTheyDiffer) {
  const QuantShape shape = ShapeOf(64, 32, 32, 4);
  for (const char* layout : {"compressed-tensors", "compressed-tensors-2025"}) {
    const QuantShape s = {64, 32, 2, 32, layout == std::string("compressed-tensors") ? 4U : 3U};
    Written written = Write(layout, Fixture(s, true));
    EXPECT_EQ(written.Info("weight_zero_point"), nullptr);
    EXPECT_EQ(Must(Detect(written, s)), s);
    ExpectSame(ReadAll(&written, s), Fixture(s, true), layout);
  }
  EXPECT_NE(Write("compressed-tensors", Fixture(shape)).Info("weight_zero_point"), nullptr);
}

TEST(CompressedTensors, SizesMustAgree) {
  const QuantShape shape = ShapeOf(64, 32, 32, 4);
  for (const size_t at : {0U, 8U}) {
    Written written = Write("compressed-tensors", Fixture(shape));
    written.bytes["weight_shape"][at] ^= std::byte{1};
    ExpectError(DecodeTile(*written.layout, shape, written.Source(), kSizes, WholeOf(shape)), Code::kMalformed, "quant-value", {"l.weight_shape"});
  }
}

TEST(CompressedTensors, Detect) {
  for (const QuantShape& s : Shapes({2, 3, 4, 8})) {
    EXPECT_EQ(Must(Detect(Write("compressed-tensors", RandomLinear(s, {}, 1)), s)), s) << s.in_features << ", " << s.bits;
    // 10 codes of 3 bits a word: never taken for the dense form, nor the other way about.
    Written other = Write("compressed-tensors", RandomLinear(s, {}, 1));
    other.layout = FindLayout("compressed-tensors-2025");
    EXPECT_FALSE(Must(Detect(other, s, {"compressed-tensors", "", s.bits, std::nullopt}))) << s.in_features << ", " << s.bits;
  }
  for (const QuantShape& s : Shapes({3})) {
    Written written = Write("compressed-tensors-2025", RandomLinear(s, {}, 1));
    const LayoutHints hints = {"compressed-tensors", "", 3, std::nullopt};
    EXPECT_EQ(Must(Detect(written, s, hints)), s) << s.in_features;
    written.layout = FindLayout("compressed-tensors");
    // Four words for 32 inputs are 4 bits where nobody says otherwise.
    if (s.in_features != 32) {
      EXPECT_FALSE(Must(Detect(written, s))) << s.in_features;
    }
    EXPECT_FALSE(Must(Detect(written, s, hints))) << s.in_features;
  }
}

TEST(CompressedTensors, DetectSaysWhatIsWrong) {
  const QuantLinear linear = Fixture(ShapeOf(160, 64, 32, 3));
  for (const char* layout : {"compressed-tensors", "compressed-tensors-2025"}) {
    const bool ten = layout == std::string("compressed-tensors-2025");
    CheckBroken(layout, linear,
                {Without("weight_packed", ""), Without("weight_scale", "quant-part"), Without("weight_shape", "quant-part"),
                 WithDtype("weight_packed", Dtype::kF32, "quant-dtype"), WithDtype("weight_scale", Dtype::kI32, "quant-dtype"), WithDtype("weight_scale", Dtype::kF64, "quant-dtype"),
                 WithDtype("weight_zero_point", Dtype::kI8, "quant-dtype"), WithDtype("weight_shape", Dtype::kI32, "quant-dtype"),
                 WithShape("weight_packed", {64}, "quant-shape"), WithShape("weight_packed", {63, ten ? 16U : 15U}, "quant-shape"), WithShape("weight_scale", {64}, "quant-shape"),
                 WithShape("weight_scale", {64, 0}, "quant-shape"), WithShape("weight_scale", {63, 5}, "quant-shape"), WithShape("weight_zero_point", {64, 5}, "quant-shape"),
                 WithShape("weight_zero_point", {ten ? 7U : 6U, 4}, "quant-shape"), WithShape("weight_shape", {1}, "quant-shape"),
                 {"a g_idx", [](Written* w) { w->infos.push_back({"l.weight_g_idx", Dtype::kI32, {160}, 0, 0, 640}); }, "layout", Code::kRefused}});
  }
  // 5 bits, and a number of words that is no width at all.
  CheckBroken("compressed-tensors", linear, {WithShape("weight_packed", {64, 25}, "quant-shape"), WithShape("weight_packed", {64, 14}, "quant-shape"), WithShape("weight_packed", {64, 0}, "quant-shape")});
  // Ten codes a word whose stream would end inside a word.
  Written written = Write("compressed-tensors-2025", Fixture(ShapeOf(64, 64, 32, 3)));
  written.Info("weight_packed")->shape = {64, 4};
  ExpectError(Detect(written, ShapeOf(40, 64, 40, 3)), Code::kMalformed, "quant-shape");
}

}  // namespace
}  // namespace q2c
