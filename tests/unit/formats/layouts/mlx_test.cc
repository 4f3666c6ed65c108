// MLX affine against formulas for single bits, the worked example and digests; its offsets.
#include "formats/layouts/mlx.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::vector<QuantShape> Shapes() {
  std::vector<QuantShape> shapes;
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    for (const auto& [in, out, group] : std::vector<std::array<uint64_t, 3>>{{32, 32, 32}, {96, 64, 32}, {160, 32, 32}, {192, 96, 64}, {256, 160, 128}}) shapes.push_back(ShapeOf(in, out, group, bits));
  }
  return shapes;
}

TEST(Mlx, EveryBit) {
  CheckCodes("mlx", "weight", Shapes(), [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return (n * s.in_features + k) * s.bits + b; });
  CheckScales("mlx", "scales", Shapes(), {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, [](const QuantShape& s, uint64_t g, uint64_t n) { return n * s.groups + g; });
}

// biases[n, g] is −scale · zero, rounded once.
TEST(Mlx, Biases) {
  for (const QuantShape& s : Shapes()) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      const QuantLinear linear = RandomLinear(s, {.dtype = dtype}, s.bits + s.in_features);
      Written written = Write("mlx", linear);
      for (uint64_t g = 0; g < s.groups; ++g) {
        for (uint64_t n = 0; n < s.out_features; ++n) {
          // The product of at most 24 and 8 significant bits is exact as a double, and rounded to float32 by the compiler.
          const auto exact = static_cast<float>(-static_cast<double>(linear.Scale(g, n)) * ZeroAt(linear, g, n));
          const std::byte* at = written.bytes["biases"].data() + (n * s.groups + g) * InfoOf(dtype).bits / 8;
          const float stored = dtype == Dtype::kF32 ? Load<float>(at) : dtype == Dtype::kF16 ? HalfToFloat(Load<uint16_t>(at)) : BfloatToFloat(Load<uint16_t>(at));
          const double ulp = dtype == Dtype::kF32 ? 0 : dtype == Dtype::kF16 ? 0x1p-11 : 0x1p-8;
          ASSERT_LE(std::abs(stored - exact), std::abs(exact) * ulp) << NameOf(dtype);
        }
      }
      // bfloat16 has too few bits to tell zero points of 8 bits apart.
      if (dtype == Dtype::kBF16 && s.bits == 8) continue;
      const QuantLinear back = ReadAll(&written, s);
      ExpectSame(back, linear, std::string(NameOf(dtype)));
      EXPECT_FALSE(back.nearest_zeros);  // the rounded offset is the one these zero points come to
    }
  }
}

TEST(Mlx, SymmetricNeverRounds) {
  for (const QuantShape& s : Shapes()) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      const QuantLinear linear = RandomLinear(s, {.dtype = dtype, .symmetric = true}, 3);
      EXPECT_FALSE(MlxRounds(linear).has_value());
      Written written = Write("mlx", linear);
      const QuantLinear back = ReadAll(&written, s);
      ExpectSame(back, linear, std::string(NameOf(dtype)));
      EXPECT_FALSE(back.nearest_zeros);
    }
  }
}

TEST(Mlx, DigestsOfFixtureL) {
  const Written asymmetric = Write("mlx", Fixture(ShapeOf(256, 256, 128, 4)));
  EXPECT_EQ(asymmetric.Sha("weight"), "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc");
  EXPECT_EQ(asymmetric.Sha("scales"), "f9c514a8e2f7003c87fc06c266257291ab37323045d84233e5c1f1a626c830cb");
  EXPECT_EQ(asymmetric.Sha("biases"), "4136b6ff6b858a10df1a0c622290330f2ad8a20c55363b3afd8167f1f6bdca79");
  EXPECT_EQ(Write("mlx", Fixture(ShapeOf(256, 256, 128, 4), true)).Sha("biases"), "2eb87a89e24eb89c733dda289a9a2295a3d084aacc4b0a60b8da180aa3749873");
  // The other widths are the dense streams of compressed-tensors.
  EXPECT_EQ(Write("mlx", Fixture(ShapeOf(256, 256, 128, 2))).Sha("weight"), "542e8ab5a4605aef0b58e7cf86967b46e93c2f7693217520828d3d0042a0cdee");
  EXPECT_EQ(Write("mlx", Fixture(ShapeOf(256, 256, 128, 3))).Sha("weight"), "5150cb2ea38e91407390b94bd5b2c54d5957add03512342e43d082bfe67c5a5f");
  EXPECT_EQ(Write("mlx", Fixture(ShapeOf(256, 256, 128, 8))).Sha("weight"), "83775fcbab0d19506eb4156557d2025019d2a29df412d6ff3fed1b2db38d2ebf");
}

TEST(Mlx, WorkedExample) {
  const Written asymmetric = Write("mlx", Fixture(ShapeOf(32, 2, 32, 4)));
  EXPECT_EQ(asymmetric.Words("weight"), (std::vector<uint32_t>{0x3e94fa50, 0xb61c72d8, 0x3e94fa50, 0xb61c72d8, 0x72d82d83, 0x1c72c72d, 0xb61c61c7, 0x50b60b61}));
  EXPECT_EQ(asymmetric.Halves("scales"), (std::vector<uint16_t>{0x1400, 0x1800}));
  EXPECT_EQ(asymmetric.Halves("biases"), (std::vector<uint16_t>{0x9400, 0xa000}));
  EXPECT_EQ(Write("mlx", Fixture(ShapeOf(32, 2, 32, 4), true)).Halves("biases"), (std::vector<uint16_t>{0xa000, 0xa400}));
}

TEST(Mlx, AnOffsetBeyondTheDtypeIsRefused) {
  QuantLinear linear = Fixture(ShapeOf(32, 32, 32, 8), true);
  const PartCodec& part = *FindLayout("mlx")->Part("biases");
  Bytes out(PartBytes(part, linear));
  Store(linear.scales.data() + 6, uint16_t{0x5FFF});  // 511.75 · 128 = 65504, the largest
  EXPECT_TRUE(part.encode(linear, out).ok());
  for (const uint16_t scale : {uint16_t{0x6000}, uint16_t{0xE000}, uint16_t{0x7C00}, uint16_t{0x7E00}}) {
    Store(linear.scales.data() + 6, scale);
    ExpectError(part.encode(linear, out), Code::kRefused, "quant-offset", {"128"});
    EXPECT_EQ(MlxRounds(linear).has_value(), scale != 0x7C00);  // an infinite scale does not round, it is refused
  }
}

TEST(Mlx, Detect) {
  for (const QuantShape& s : Shapes()) EXPECT_EQ(Must(Detect(Write("mlx", Fixture(s, true)), s)), s) << s.in_features << ", " << s.bits;
  CheckBroken("mlx", Fixture(ShapeOf(160, 64, 32, 4)),
              {Without("weight", ""), WithDtype("weight", Dtype::kF16, ""), WithDtype("weight", Dtype::kI32, ""), Without("scales", "quant-part"), Without("biases", "quant-part"),
               WithDtype("scales", Dtype::kU32, "quant-dtype"), WithDtype("biases", Dtype::kF64, "quant-dtype"), WithDtype("biases", Dtype::kBF16, "quant-dtype"),
               WithShape("weight", {64}, "quant-shape"), WithShape("weight", {63, 20}, "quant-shape"), WithShape("weight", {64, 21}, "quant-shape"), WithShape("weight", {64, 0}, "quant-shape"),
               WithShape("scales", {64}, "quant-part"), WithShape("scales", {64, 0}, "quant-part"), WithShape("scales", {63, 5}, "quant-shape"), WithShape("biases", {64, 4}, "quant-shape"),
               {"5 bits", [](Written* w) { w->Info("weight")->shape = {64, 25}; }, "quant-bits", Code::kRefused},
               {"6 bits", [](Written* w) { w->Info("weight")->shape = {64, 30}; }, "quant-bits", Code::kRefused}});
}

}  // namespace
}  // namespace q2c
