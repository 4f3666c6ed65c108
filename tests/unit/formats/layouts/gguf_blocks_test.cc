// The block types of GGUF against their definition, worked blocks and digests.
#include "formats/layouts/gguf_blocks.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

std::vector<QuantShape> Shapes(const std::vector<uint32_t>& widths) {
  std::vector<QuantShape> shapes;
  for (const uint32_t bits : widths) {
    for (const auto& [in, out] : std::vector<std::pair<uint64_t, uint64_t>>{{32, 1}, {32, 32}, {96, 7}, {160, 32}, {224, 64}}) shapes.push_back(ShapeOf(in, out, 32, bits));
  }
  return shapes;
}

// Blocks of 32 inputs: `before` bytes, then nibbles, input j low and input j + 16 high in byte j.
uint64_t NibbleBit(const QuantShape& s, uint64_t k, uint64_t n, uint32_t b, uint64_t before) {
  const uint64_t block = n * (s.in_features / 32) + k / 32;
  return 8 * (block * (before + 16) + before + k % 16) + 4 * (k % 32 / 16) + b;
}
uint16_t HalfAt(const Bytes& bytes, uint64_t at) { return Load<uint16_t>(bytes.data() + at); }

// `value` maps code and zero point to what is stored in `width` bits where bit_of says; the halves
// at the front of a block are scale and, where before is 4, offset.
void CheckBlocks(const char* layout, const std::vector<QuantShape>& shapes, const Content& content, uint32_t width, uint64_t before, const BitOf& bit_of,
                 const std::function<uint64_t(uint32_t code, uint16_t zero)>& value) {
  for (const QuantShape& s : shapes) {
    const QuantLinear random = RandomLinear(s, content, s.in_features + s.bits);
    for (uint32_t turn = 0; turn <= s.MaxCode(); ++turn) {
      QuantLinear linear = random;
      if (turn > 0) SetCodes(&linear, [&](uint64_t k, uint64_t n) { return static_cast<uint32_t>((turn + 5 * k + 3 * n) & s.MaxCode()); });
      const std::string where = fmt::format("{}: {} by {}, {} bits, turn {}", layout, s.in_features, s.out_features, s.bits, turn);
      Bytes bytes = Write(layout, linear).bytes["weight"];
      const uint64_t block_bytes = before + 4 * width;
      ASSERT_EQ(bytes.size(), s.Weights() / 32 * block_bytes);
      for (uint64_t n = 0; n < s.out_features; ++n) {
        for (uint64_t g = 0; g < s.groups; ++g) {
          const uint64_t at = (n * s.groups + g) * block_bytes;
          ASSERT_EQ(HalfAt(bytes, at), Load<uint16_t>(linear.scales.data() + 2 * (g * s.out_features + n))) << where;
          if (before == 4) {
            ASSERT_NEAR(HalfToFloat(HalfAt(bytes, at + 2)), -linear.Scale(g, n) * ZeroAt(linear, g, n), std::abs(linear.Scale(g, n)) * ZeroAt(linear, g, n) * 0x1p-11F) << where;
          }
          std::fill_n(bytes.begin() + static_cast<std::ptrdiff_t>(at), before, std::byte{0});
        }
      }
      ExpectElements(bytes, s, s.in_features, s.out_features, width, bit_of, [&](uint64_t k, uint64_t n) { return value(CodeAt(linear, k, n), ZeroAt(linear, k / 32, n)); }, where);

      Written written = Write(layout, linear);
      const QuantShape stored = *Must(Detect(written, s));
      ASSERT_EQ(stored, ShapeOf(s.in_features, s.out_features, 32, width));
      const QuantLinear back = ReadAll(&written, stored);
      for (uint64_t n = 0; n < s.out_features; ++n) {
        for (uint64_t k = 0; k < s.in_features; ++k) ASSERT_EQ(WeightAt(back, k, n), WeightAt(linear, k, n)) << where;
      }
      ASSERT_EQ(back.scales, linear.scales);
      if (s.bits > 4 && turn > 20) turn += 6;  // every value has been in many places by now
    }
  }
}

TEST(Q40, EveryBit) {
  const BitOf bit_of = [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return NibbleBit(s, k, n, b, 2); };
  CheckBlocks("gguf-q4_0", Shapes({4}), {.symmetric = true}, 4, 2, bit_of, [](uint32_t code, uint16_t) { return uint64_t{code}; });
  CheckBlocks("gguf-q4_0", Shapes({2, 3}), {}, 4, 2, bit_of, [](uint32_t code, uint16_t zero) { return uint64_t{8} + code - zero; });
}
TEST(Q41, EveryBit) {
  CheckBlocks("gguf-q4_1", Shapes({2, 3, 4}), {}, 4, 4, [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return NibbleBit(s, k, n, b, 4); },
              [](uint32_t code, uint16_t) { return uint64_t{code}; });
}
TEST(Q80, EveryBit) {
  const BitOf bit_of = [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return 8 * ((n * (s.in_features / 32) + k / 32) * 34 + 2 + k % 32) + b; };
  const auto value = [](uint32_t code, uint16_t zero) { return uint64_t{static_cast<uint8_t>(static_cast<int32_t>(code) - zero)}; };
  CheckBlocks("gguf-q8_0", Shapes({2, 3, 4}), {}, 8, 2, bit_of, value);
  CheckBlocks("gguf-q8_0", Shapes({8}), {.symmetric = true}, 8, 2, bit_of, value);
}

TEST(GgufBlocks, DigestsOfFixtureL) {
  EXPECT_EQ(Write("gguf-q4_0", Fixture(ShapeOf(256, 256, 32, 4), true)).Sha("weight"), "2398cc165360e20c5bbb7d244aac06bcaaffc74c3ce017f6df5dbdcc1567a82e");
  QuantLinear wide = Fixture(ShapeOf(256, 256, 128, 4), true);
  SplitGroups(32, &wide);
  EXPECT_EQ(Write("gguf-q4_0", wide).Sha("weight"), "fa1e4aca47b99cc10bf21b703bc56e21ea666e9d9ce2ad907c3a22d719867034");
  EXPECT_EQ(Write("gguf-q4_1", Fixture(ShapeOf(256, 256, 32, 4))).Sha("weight"), "955297ebbdbe70ce384d9e13e1f629ac056976b194b29be1fa956066e59e48da");
  EXPECT_EQ(Write("gguf-q8_0", Fixture(ShapeOf(256, 256, 32, 4))).Sha("weight"), "69fa2f503316d2e2cac40711b4623efbc4ef5bd94bfe12c61bd8cb7e870c7d6f");
  EXPECT_EQ(Write("gguf-q8_0", Fixture(ShapeOf(256, 256, 32, 8), true)).Sha("weight"), "ce6ec5723f1960a52122d6817ab749289f47050a5c12ea64b9b4e6498b5db956");
}

// Output n of the 4-bit fixture, as bytes in hexadecimal.
std::string BlockOf(const char* layout, uint32_t bits, bool symmetric, uint64_t n) {
  const Bytes bytes = Write(layout, Fixture(ShapeOf(32, 2, 32, bits), symmetric)).bytes["weight"];
  std::string text;
  for (size_t i = 0; i < bytes.size() / 2; ++i) text += fmt::format("{:02x}", std::to_integer<unsigned>(bytes[n * bytes.size() / 2 + i]));
  return text;
}
TEST(GgufBlocks, WorkedBlocks) {
  EXPECT_EQ(BlockOf("gguf-q4_0", 4, true, 0), "00140055aaff4499ee3388dd2277cc1166bb");
  EXPECT_EQ(BlockOf("gguf-q4_0", 4, true, 1), "001873c81d62c81d62b71d62b70c62b70c51");
  EXPECT_EQ(BlockOf("gguf-q4_1", 4, false, 1), "001800a073c81d62c81d62b71d62b70c62b70c51");
  EXPECT_EQ(BlockOf("gguf-q8_0", 4, false, 1), "0018ff0409fe0409fe0309fe0308fe0308fd0308fd0208fd0207fd0207fc0207fc01");
  EXPECT_EQ(BlockOf("gguf-q8_0", 8, true, 1), "0018db01274d7399bfe50b31577da3c9ef153b6187add3f91f456b91b7dd03294f75");
}

TEST(GgufBlocks, OffsetsOfQ41) {
  QuantLinear linear = Fixture(ShapeOf(64, 4, 32, 4));
  Written written = Write("gguf-q4_1", linear);
  const QuantLinear back = ReadAll(&written, linear.shape);
  ExpectSame(back, linear, "q4_1");
  EXPECT_FALSE(back.nearest_zeros);
  // In the fourth output's second block: 1, where the scale is positive.
  Store(written.bytes["weight"].data() + 7 * 20 + 2, uint16_t{0x3C00});
  const QuantLinear odd = Must(DecodeTile(*written.layout, linear.shape, written.Source(), kZeros, WholeOf(linear.shape)));
  EXPECT_TRUE(odd.nearest_zeros);
  EXPECT_NE(odd.no_zeros.find("group 1, output 3"), std::string::npos) << odd.no_zeros;
  EXPECT_EQ(odd.offsets[7], 1.0F);
  // 8192 · 15 is no half.
  linear.zeros[6] = 15;
  Store(linear.scales.data() + 12, uint16_t{0x7000});
  const PartCodec& part = *FindLayout("gguf-q4_1")->Part("weight");
  Bytes out(PartBytes(part, linear));
  ExpectError(part.encode(linear, out), Code::kRefused, "quant-offset");
}

TEST(GgufBlocks, Detect) {
  const Written q40 = Write("gguf-q4_0", Fixture(ShapeOf(64, 8, 32, 4), true));
  EXPECT_EQ(Must(Detect(q40, ShapeOf(64, 8, 32, 4))), ShapeOf(64, 8, 32, 4));
  for (const char* layout : {"gguf-q4_0", "gguf-q4_1", "gguf-q8_0"}) {
    const QuantLinear linear = Fixture(ShapeOf(64, 8, 32, layout == std::string("gguf-q8_0") ? 8 : 4), true);
    CheckBroken(layout, linear, {Without("weight", ""), WithDtype("weight", Dtype::kF16, ""), WithShape("weight", {8, 96}, "quant-shape"), WithShape("weight", {9, 64}, "quant-shape"),
                                 WithShape("weight", {512}, "quant-shape"), WithShape("weight", {8, 64, 1}, "quant-shape")});
    for (const char* other : {"gguf-q4_0", "gguf-q4_1", "gguf-q8_0"}) {
      Written written = Write(layout, linear);
      written.layout = FindLayout(other);
      EXPECT_EQ(Must(Detect(written, linear.shape)).has_value(), layout == std::string(other));
    }
  }
}

}  // namespace
}  // namespace q2c
