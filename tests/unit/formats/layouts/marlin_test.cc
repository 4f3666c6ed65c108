// Marlin against the formula of its tiles, the worked tile and digests made by its own packer.
#include "formats/layouts/marlin.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::vector<QuantShape> Shapes() { return {ShapeOf(16, 64, 16, 4), ShapeOf(128, 256, 128, 4), ShapeOf(256, 64, 128, 4), ShapeOf(160, 192, 32, 4), ShapeOf(384, 320, 128, 4)}; }

uint64_t CodeBit(const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) {
  const uint64_t lane = n % 8 * 4 + k % 8 / 2;
  const uint64_t column = n / 64 * 128 + lane * 4 + n / 16 % 4;
  const uint64_t nibble = k % 2 * 4 + n / 8 % 2 * 2 + k / 8 % 2;
  return 32 * (k / 16 * 2 * s.out_features + column) + 4 * nibble + b;
}

TEST(Marlin, EveryBitOfCodes) { CheckCodes("marlin", "B", Shapes(), CodeBit); }

TEST(Marlin, ScalesOfSeveralGroups) {
  CheckScales("marlin", "s", {ShapeOf(256, 64, 128, 4), ShapeOf(384, 320, 128, 4)}, {Dtype::kF16}, [](const QuantShape& s, uint64_t g, uint64_t n) {
    return g * s.out_features + n / 64 * 64 + n % 8 * 8 + n / 8 % 8;  // 8 by 8 turned over: its own inverse
  });
}

TEST(Marlin, ScalesOfOneGroup) {
  // The order as it is written down: what stands at position i of a block of 32.
  constexpr uint64_t kStands[32] = {0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27, 4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31};
  CheckScales("marlin", "s", {ShapeOf(128, 64, 128, 4), ShapeOf(256, 320, 256, 4)}, {Dtype::kF16}, [&](const QuantShape&, uint64_t, uint64_t n) {
    return n / 32 * 32 + static_cast<uint64_t>(std::find(kStands, kStands + 32, n % 32) - kStands);
  });
}

TEST(Marlin, DigestsOfFixtureL) {
  const Written several = Write("marlin", Fixture(ShapeOf(256, 256, 128, 4), true));
  EXPECT_EQ(several.Sha("B"), "f185c1e6f6ccf7d2733a87e0fe59ffea3e4c23bdc9347117768e6633e9f5178e");
  EXPECT_EQ(several.Sha("s"), "382098eb3b8afcc7021d1f2932233a7fb56480f0cc8f1567115de385b0a6083d");
  const Written one = Write("marlin", Fixture(ShapeOf(256, 256, 256, 4), true));
  EXPECT_EQ(one.Sha("B"), "f185c1e6f6ccf7d2733a87e0fe59ffea3e4c23bdc9347117768e6633e9f5178e");
  EXPECT_EQ(one.Sha("s"), "29d6983912faaad58bb5727965e67f37f71347855d07e7b85219b56fec3c181f");
}

TEST(Marlin, WorkedTile) {
  const std::vector<uint32_t> tile = {
      0x7fd50880, 0xb3190880, 0xf75d0880, 0x3b910880, 0x5d7fe62a, 0x193b6ea2, 0xd5f7e62a, 0x91b36ea2, 0x3b19c4c4, 0x7f5dc4c4, 0xb391c4c4, 0xf7d5c4c4, 0x19b3a26e, 0xd57f2ae6, 0x913ba26e, 0x5df72ae6,
      0xc2285bd3, 0x066c5bd3, 0x4aa05bd3, 0x8ee45bd3, 0xa0c2397d, 0x6c8eb1f5, 0x284a397d, 0xe406b1f5, 0x9f7d2828, 0xd3b12828, 0x17f52828, 0x5b392828, 0x7d1706c2, 0x39d38e4a, 0xf59f06c2, 0xb15b8e4a,
      0x157bae26, 0x59bfae26, 0x9df3ae26, 0xd137ae26, 0x04269dd1, 0xc0e21559, 0x8cae9dd1, 0x486a1559, 0xf3d18c8c, 0x37158c8c, 0x7b598c8c, 0xbf9d8c8c, 0xe28c7b37, 0xae48f3bf, 0x6a047b37, 0x26c0f3bf,
      0x68cef179, 0xac02f179, 0xe046f179, 0x248af179, 0x688ae024, 0x244668ac, 0xe002e024, 0xacce68ac, 0x5735e0e0, 0x9b79e0e0, 0xdfbde0e0, 0x13f1e0e0, 0x57f1df9b, 0x13bd5713, 0xdf79df9b, 0x9b355713,
      0xcc2244cc, 0x006644cc, 0x44aa44cc, 0x88ee44cc, 0xccee4488, 0x88aacc00, 0x44664488, 0x0022cc00, 0xccaa4444, 0x00ee4444, 0x44224444, 0x88664444, 0xcc664400, 0x8822cc88, 0x44ee4400, 0x00aacc88,
      0x1f75971f, 0x53b9971f, 0x97fd971f, 0xdb31971f, 0x1f3197db, 0xdbfd1f53, 0x97b997db, 0x53751f53, 0x200ea8a8, 0x6442a8a8, 0xa886a8a8, 0xeccaa8a8, 0x20caa864, 0xec8620ec, 0xa842a864, 0x640e20ec,
      0x62c8ea62, 0xa60cea62, 0xea40ea62, 0x2e84ea62, 0x7395fb3f, 0x3f5173b7, 0xfb1dfb3f, 0xb7d973b7, 0x84620c0c, 0xc8a60c0c, 0x0cea0c0c, 0x402e0c0c, 0x953f1dd9, 0x51fb9551, 0x1db71dd9, 0xd9739551,
      0xb51b3db5, 0xf95f3db5, 0x3d933db5, 0x71d73db5, 0xd7f94e82, 0x93b5c60a, 0x5f714e82, 0x1b3dc60a, 0xe8c66060, 0x2c0a6060, 0x604e6060, 0xa4826060, 0x0aa4713d, 0xc660f9b5, 0x822c713d, 0x4ee8f9b5};
  EXPECT_EQ(Write("marlin", Fixture(ShapeOf(16, 64, 16, 4), true)).Words("B"), tile);
}

TEST(Marlin, ScalesBecomeFloat16) {
  // Powers of two are the same number in each.
  for (const Dtype dtype : {Dtype::kBF16, Dtype::kF32}) {
    const QuantLinear linear = RandomLinear(ShapeOf(256, 256, 128, 4), {.dtype = dtype, .symmetric = true, .power_of_two = true}, 7);
    EXPECT_FALSE(MarlinRounds(linear).has_value());
    Written written = Write("marlin", linear);
    const QuantLinear back = ReadAll(&written, linear.shape);
    EXPECT_EQ(back.scale_dtype, Dtype::kF16);
    for (uint64_t i = 0; i < 512; ++i) ASSERT_EQ(back.ScaleAt(i), linear.ScaleAt(i));
    EXPECT_EQ(back.zeros, linear.zeros);
    EXPECT_TRUE(MarlinRounds(RandomLinear(ShapeOf(256, 256, 128, 4), {.dtype = Dtype::kF32, .symmetric = true}, 7)).has_value());
  }
}

TEST(Marlin, Detect) {
  for (const QuantShape& s : {ShapeOf(128, 256, 128, 4), ShapeOf(256, 256, 128, 4), ShapeOf(256, 256, 256, 4), ShapeOf(384, 64, 128, 4)}) {
    EXPECT_EQ(Must(Detect(Write("marlin", Fixture(s, true)), s)), s);
  }
  CheckBroken("marlin", Fixture(ShapeOf(256, 256, 128, 4), true),
              {Without("B", ""), Without("s", "quant-part"), WithDtype("B", Dtype::kF32, "quant-dtype"), WithDtype("s", Dtype::kBF16, "quant-dtype"), WithShape("B", {16, 256}, "quant-shape"),
               WithShape("B", {16}, "quant-shape"), WithShape("s", {256}, "quant-part"), WithShape("s", {0, 256}, "quant-part"), WithShape("s", {2, 255}, "quant-shape")});
  const Written written = Write("marlin", Fixture(ShapeOf(256, 256, 128, 4), true));
  ExpectError(written.layout->detect("l", 250, 256, written.Parts(), {}), Code::kMalformed, "quant-shape");
  ExpectError(written.layout->detect("l", 256, 224, written.Parts(), {}), Code::kMalformed, "quant-shape");
}

}  // namespace
}  // namespace q2c
