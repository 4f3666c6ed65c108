// The codec against the plainest formula (support/bits.h), against words and digests made by
// other people's packers, and against itself for every word there can be.
#include "formats/layouts/gptq.h"

#include <gtest/gtest.h>

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using test::Bytes;

constexpr std::array<uint32_t, 4> kWidths = {2, 3, 4, 8};
// What each layout adds to a stored zero field.
constexpr std::array<std::pair<const char*, uint32_t>, 2> kConventions = {{{"gptq-v1", 1}, {"gptq-v2", 0}}};

using test::ShapeOf;
QuantLinear LinearOf(const QuantShape& shape) {
  QuantLinear linear;
  linear.shape = shape;
  return linear;
}
const PartCodec& PartOf(std::string_view layout, std::string_view suffix) {
  for (const PartCodec& part : FindLayout(layout)->parts) {
    if (part.suffix == suffix) return part;
  }
  throw std::runtime_error("no such part");
}
// Code k of output n in the canonical form, bit by bit.
uint32_t Canonical(const QuantLinear& linear, uint64_t k, uint64_t n) {
  const uint64_t row = n * linear.shape.WordsPerRow();
  return test::GetField(AsBytes(linear.codes), k * linear.shape.bits, linear.shape.bits, [&](uint64_t word) { return row + word; });
}
Bytes Encode(const PartCodec& part, const QuantLinear& linear, size_t bytes) {
  Bytes out(bytes, std::byte{0xCD});  // nothing may be left as it was
  EXPECT_TRUE(part.encode(linear, out).ok());
  return out;
}

TEST(GptqQweight, EveryCodeInEveryPosition) {
  for (const uint32_t bits : kWidths) {
    const QuantShape shape = ShapeOf(64, 32, 32, bits);
    const PartCodec& part = PartOf("gptq-v1", "qweight");
    for (uint32_t code = 0; code <= shape.MaxCode(); ++code) {
      for (uint64_t k = 0; k < 32; ++k) {
        // One code among its complement, so that a neighbour that is touched shows.
        Bytes qweight(shape.in_features * bits / 8 * shape.out_features);
        const uint32_t other = static_cast<uint32_t>(shape.MaxCode()) - code;
        const uint64_t column = (k * 7 + code) % shape.out_features;
        for (uint64_t i = 0; i < shape.in_features; ++i) test::PutCode(&qweight, bits, shape.out_features, i, column, i == k ? code : other);
        QuantLinear linear = LinearOf(shape);
        ASSERT_TRUE(part.decode(qweight, &linear).ok());
        for (uint64_t i = 0; i < shape.in_features; ++i) ASSERT_EQ(Canonical(linear, i, column), i == k ? code : other) << bits << " bits, input " << i;
        ASSERT_EQ(Encode(part, linear, qweight.size()), qweight);
      }
    }
  }
}

TEST(GptqQweight, RandomWordsOfManyShapes) {
  test::Random random(1);
  for (const uint32_t bits : kWidths) {
    for (const auto& [in, out] : std::vector<std::pair<uint64_t, uint64_t>>{{32, 32}, {96, 64}, {64, 96}, {160, 32}, {1056, 160}}) {
      const QuantShape shape = ShapeOf(in, out, 32, bits);
      const PartCodec& part = PartOf("gptq-v2", "qweight");
      const Bytes qweight = random.Fill(in * bits / 8 * out);
      QuantLinear linear = LinearOf(shape);
      ASSERT_TRUE(part.decode(qweight, &linear).ok());
      ASSERT_EQ(linear.codes.size(), out * shape.WordsPerRow());
      for (uint64_t k = 0; k < in; ++k) {
        for (uint64_t n = 0; n < out; ++n) ASSERT_EQ(Canonical(linear, k, n), test::GetCode(qweight, bits, out, k, n));
      }
      ASSERT_EQ(Encode(part, linear, qweight.size()), qweight) << bits << " bits, " << in << " by " << out;
    }
  }
}

TEST(GptqQzeros, EveryFieldInEveryPosition) {
  for (const uint32_t bits : kWidths) {
    const QuantShape shape = ShapeOf(96, 64, 64, bits);  // two groups, the last one ragged
    const auto max = static_cast<uint32_t>(shape.MaxCode());
    for (uint32_t field = 0; field <= max; ++field) {
      for (uint64_t n = 0; n < 32; ++n) {
        Bytes qzeros(shape.groups * shape.out_features * bits / 8);
        for (uint64_t g = 0; g < shape.groups; ++g) {
          for (uint64_t i = 0; i < shape.out_features; ++i) test::PutZeroField(&qzeros, bits, shape.out_features, g, i, g == 1 && i == n + 32 ? field : max - field);
        }
        for (const auto& [layout, plus] : kConventions) {
          QuantLinear linear = LinearOf(shape);
          const PartCodec& part = PartOf(layout, "qzeros");
          ASSERT_TRUE(part.decode(qzeros, &linear).ok());
          for (uint64_t g = 0; g < shape.groups; ++g) {
            for (uint64_t i = 0; i < shape.out_features; ++i) {
              const uint32_t stored = g == 1 && i == n + 32 ? field : max - field;
              // A field of all ones is a zero point of 0 in v1, not of 2^bits.
              ASSERT_EQ(linear.zeros[g * shape.out_features + i], (stored + plus) % (max + 1)) << layout << ", " << bits << " bits";
            }
          }
          ASSERT_EQ(Encode(part, linear, qzeros.size()), qzeros) << layout << ", " << bits << " bits, field " << field;
        }
      }
    }
  }
}

TEST(GptqQzeros, RandomWordsOfManyShapes) {
  test::Random random(2);
  for (const uint32_t bits : kWidths) {
    for (const auto& [in, out, group] : std::vector<std::array<uint64_t, 3>>{{32, 32, 32}, {96, 64, 64}, {96, 64, 96}, {160, 352, 32}}) {
      const QuantShape shape = ShapeOf(in, out, group, bits);
      const Bytes qzeros = random.Fill(shape.groups * out * bits / 8);
      const std::vector<uint16_t> fields = ReadZeroFields(qzeros, shape);
      for (uint64_t g = 0; g < shape.groups; ++g) {
        for (uint64_t n = 0; n < out; ++n) ASSERT_EQ(fields[g * out + n], test::GetZeroField(qzeros, bits, out, g, n));
      }
      for (const char* layout : {"gptq-v1", "gptq-v2"}) {
        QuantLinear linear = LinearOf(shape);
        ASSERT_TRUE(PartOf(layout, "qzeros").decode(qzeros, &linear).ok());
        ASSERT_EQ(Encode(PartOf(layout, "qzeros"), linear, qzeros.size()), qzeros) << layout << ", " << bits << " bits";
      }
    }
  }
}

TEST(GptqGroupIndex, OutOfRangeIsRefused) {
  const QuantShape shape = ShapeOf(96, 32, 32, 4);
  const PartCodec& part = PartOf("gptq-v1", "g_idx");
  std::vector<int32_t> groups(96);
  for (size_t k = 0; k < groups.size(); ++k) groups[k] = static_cast<int32_t>((k * 5) % 3);
  QuantLinear linear = LinearOf(shape);
  ASSERT_TRUE(part.decode(AsBytes(groups), &linear).ok());
  EXPECT_EQ(linear.group_index, groups);
  EXPECT_EQ(Encode(part, linear, 4 * groups.size()), test::BytesOfWords(groups));
  for (const int32_t bad : {3, -1, INT32_MAX, INT32_MIN}) {
    std::vector<int32_t> broken = groups;
    broken[95] = bad;
    test::ExpectError(part.decode(AsBytes(broken), &linear), Code::kMalformed, "quant-value", {"95", std::to_string(bad)});
  }
}

using test::Fixture;

TEST(GptqVectors, DigestsOfFixtureL) {
  struct Vector {
    uint32_t bits;
    const char* qweight;
    const char* zeros_v1;
    const char* zeros_v2;
  };
  for (const Vector& v : {
           Vector{2, "8696349928df94b0cf94e2dbf981e58b4862145781d32169f1ab2befa10dc6a5", "4790c6e4b0d18cb8459325208dad8f05b25761fb5e5db41d469d419b17e68393",
                  "dd4d917a82c12a610354b78b151725f805134e1c6769ceafba4f9506d79c9c06"},
           Vector{3, "533a33f22d2fabf70d9f1bfddc01aea48c67be8f5a6f63ac8060a8b0668f2688", "4bbfd84dd8bb39426cb168ad551a129add90786af2c613eb39bbd88b70cceaf7",
                  "02c614533a44db841fea1052f3f4626ba4cf32ab2d38deba71979a29e8345ec1"},
           Vector{4, "66631db790c05b7004282ea29d1a181229bbdeda5a3a0eb1081eee98c5578e44", "5ccf88fbda88d515da48c79bc61d4d941fd1112cc88ce05a35363ad07cdfc2d7",
                  "fe7ad7f00c095d602676c5815386c8509a06660837fb4ac7d4268c1e54fb7cc6"},
           Vector{8, "e327e4236ce3dd219868b98cd3936b5ae923cece73df9df1da6c4c46f9ee40ca", "6a7971492ebcb66e9e8330d0d1b1549374bf4af88fd67b9a39bef4c5f5987c13",
                  "d34f9b6e4f938d9afdefe248bbdcfa98d38276bbdb920e6130ebcafcbbc37797"},
       }) {
    const QuantLinear linear = Fixture(ShapeOf(256, 256, 128, v.bits));
    const size_t zero_bytes = 2 * 256 * v.bits / 8;
    EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v1", "qweight"), linear, 256 * 256 * v.bits / 8)), v.qweight);
    EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v1", "qzeros"), linear, zero_bytes)), v.zeros_v1);
    EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v2", "qzeros"), linear, zero_bytes)), v.zeros_v2);
  }
}

TEST(GptqVectors, DigestsOfScalesAndGroups) {
  QuantLinear linear = LinearOf(ShapeOf(256, 256, 128, 4));
  std::vector<uint16_t> scales;
  for (uint32_t g = 0; g < 2; ++g) {
    for (uint32_t n = 0; n < 256; ++n) {
      const uint32_t units = 1 + n % 61 + 16 * (g % 8);  // of 1/1024
      uint32_t exponent = 5;
      while (units >> (exponent - 5) > 1) ++exponent;
      scales.push_back(static_cast<uint16_t>((exponent << 10U) | ((units << (10 - (exponent - 5))) & 0x3FFU)));
    }
  }
  // The pattern of 1/1024 is 0x1400: the exponent of the first unit is 5.
  ASSERT_EQ(scales.front(), 0x1400);
  linear.scales = test::BytesOfWords(scales);
  for (int32_t k = 0; k < 256; ++k) linear.group_index.push_back(k / 128);
  EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v1", "scales"), linear, 1024)), "4cc22799a18261767898ed4288a02b37b603bd82ffd868a55deee7a1f3242ee4");
  EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v1", "g_idx"), linear, 1024)), "eef6d14ecf895fe41c9af838f896b9b90523adf6f7e091dd7acf70f84b4ebef0");
  for (int32_t k = 0; k < 256; ++k) linear.group_index[static_cast<size_t>(k)] = ((7 * k + 3) % 256) / 128;
  EXPECT_EQ(Sha256::Of(Encode(PartOf("gptq-v1", "g_idx"), linear, 1024)), "7dd958114844485ecf92f73a2653c62e1a93ac18b6cd0536eabe1f0851263dae");
}

TEST(GptqVectors, WorkedExampleOfFourBits) {
  // 32 inputs, 8 outputs: fewer than GPTQ's 32, but the formula is the same.
  const QuantLinear linear = Fixture(ShapeOf(32, 8, 16, 4));
  const std::vector<uint32_t> qweight = {
      0x3e94fa50, 0x72d82d83, 0xc71c61b6, 0x1b50a4e9, 0x60a4e82c, 0xa4e81b5f, 0xf92c5f82, 0x4d6092b5,
      0xb61c72d8, 0x1c72c72d, 0x83d82d72, 0xf93e82c7, 0x60a4e82c, 0xc60a3d71, 0x3d6093c6, 0xa3c6f81b,
      0x3e94fa50, 0xb61c61c7, 0x4f94e93e, 0xd71c60a5, 0x60a4e82c, 0xe82c5f93, 0x71a4d70a, 0x092c5e71,
      0xb61c72d8, 0x50b60b61, 0x0b50a5fa, 0xb5fa4e83, 0x60a4e82c, 0x0a4e71b5, 0xb5e81b4e, 0x6f82b4d7};
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qweight"), linear, 128)), qweight);
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qzeros"), linear, 8)), (std::vector<uint32_t>{0x630c9630, 0xda741da7}));
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v2", "qzeros"), linear, 8)), (std::vector<uint32_t>{0x741da741, 0xeb852eb8}));
}

TEST(GptqVectors, WorkedExamplesOfOtherWidths) {
  const std::vector<uint32_t> two = {0xe4e4e4e4, 0x4e39e493, 0x349e349e, 0xde237489, 0x88888888, 0x22dd8877, 0xd872d872, 0xb2c7186d};
  std::vector<uint32_t> both = two;
  both.insert(both.end(), two.begin(), two.end());
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qweight"), Fixture(ShapeOf(32, 8, 32, 2)), 64)), both);

  const std::vector<uint32_t> three = {0xa878cea8, 0xd5ea8543, 0x7a9ccc5e, 0xa72e8531, 0x14c14c14, 0x795302ef, 0xe6e54bc2, 0x0b97029d,
                                       0xcea878ce, 0xcc6733a9, 0xcc5e0e85, 0xcc15e5e0, 0x4c14c14c, 0x4bcb9827, 0x4bc27702, 0x4bb94e6e,
                                       0x78cea878, 0xa1e0f178, 0x0e857a9c, 0x77a983bc, 0xc14c14c1, 0x0a6e5dc1, 0x7702e6e5, 0xdc272f05};
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qweight"), Fixture(ShapeOf(32, 8, 32, 3)), 96)), three);
  const QuantLinear zeros = Fixture(ShapeOf(32, 32, 32, 3));
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qzeros"), zeros, 12)), (std::vector<uint32_t>{0xb310d598, 0x4356621a, 0x59886acc}));
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v2", "qzeros"), zeros, 12)), (std::vector<uint32_t>{0xfc3567e1, 0xd59f86ac, 0x7e1ab3f0}));

  const std::vector<uint32_t> eight = {0x6f4a2500, 0xcda7815b, 0x2b04ddb6, 0x89613911, 0x03deb994, 0x653f19f3, 0xc7a07952, 0x2901d9b1};
  EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qweight"), Fixture(ShapeOf(8, 4, 8, 8)), 32)), eight);
}

TEST(GptqDetect, EveryWidth) {
  for (const uint32_t bits : kWidths) {
    for (const auto& [in, out, group] : std::vector<std::array<uint64_t, 3>>{{32, 32, 32}, {96, 64, 32}, {256, 32, 256}, {64, 512, 64}, {512, 64, 128}, {1024, 32, 128}}) {
      const QuantShape shape = ShapeOf(in, out, group, bits);
      test::Written written = test::Write("gptq-v2", test::Fixture(shape));
      EXPECT_EQ(test::Must(test::Detect(written, shape)), shape);
      EXPECT_EQ(test::Must(test::Detect(written, shape, {"gptq", "gptq", bits, static_cast<int64_t>(group)})), shape);
      written.Remove("g_idx");
      EXPECT_EQ(test::Must(test::Detect(written, shape)), shape);
    }
  }
}

TEST(GptqDetect, SaysWhatIsWrong) {
  using test::WithDtype;
  using test::Without;
  using test::WithShape;
  for (const char* layout : {"gptq-v1", "gptq-v2"}) {
    test::CheckBroken(layout, test::Fixture(ShapeOf(160, 64, 32, 4)),
                      {Without("qweight", "quant-part"), Without("qzeros", "quant-part"), Without("scales", "quant-part"), WithDtype("qweight", Dtype::kI16, "quant-dtype"),
                       WithDtype("qzeros", Dtype::kF16, "quant-dtype"), WithDtype("scales", Dtype::kF64, "quant-dtype"), WithDtype("g_idx", Dtype::kI64, "quant-dtype"),
                       WithShape("qweight", {20}, "quant-shape"), WithShape("qweight", {20, 63}, "quant-shape"), WithShape("qweight", {0, 64}, "quant-shape"), WithShape("qweight", {21, 64}, "quant-shape"),
                       WithShape("qweight", {25, 64}, "quant-shape"), WithShape("qweight", {160, 8}, "quant-shape"), WithShape("qzeros", {5}, "quant-shape"), WithShape("qzeros", {5, 64}, "quant-shape"),
                       WithShape("qzeros", {4, 8}, "quant-shape"), WithShape("scales", {5}, "quant-shape"), WithShape("scales", {0, 64}, "quant-shape"), WithShape("scales", {161, 64}, "quant-shape"),
                       WithShape("scales", {5, 63}, "quant-shape"), WithShape("g_idx", {159}, "quant-shape"), WithShape("g_idx", {160, 1}, "quant-shape"),
                       {"none of them", [](test::Written* w) { w->infos.clear(); }, ""}});
  }
  // Words of zero points that would end inside a word.
  test::Written written = test::Write("gptq-v1", test::Fixture(ShapeOf(64, 32, 32, 4)));
  written.Info("qweight")->shape = {8, 20};
  written.Info("scales")->shape = {2, 20};
  test::ExpectError(test::Detect(written, ShapeOf(64, 20, 32, 4)), Code::kMalformed, "quant-shape");
}

// What the packers never write, but the bit stream allows: no multiple of 32.
TEST(GptqDetect, SizesThatEndInsideABlock) {
  const QuantLinear linear = test::RandomLinear(ShapeOf(40, 8, 40, 4), {}, 4);
  test::Written written = test::Write("gptq-v2", linear);
  ASSERT_EQ(test::Must(test::Detect(written, linear.shape)), linear.shape);
  test::ExpectSame(test::ReadAll(&written, linear.shape), linear, "40 by 8");
}

TEST(GptqVectors, WordsOfSymmetricFiles) {
  struct Row {
    uint32_t bits;
    std::vector<uint32_t> v1;
    std::vector<uint32_t> v2;
  };
  for (const Row& row : {Row{2, {0x55555555, 0x55555555}, {0xaaaaaaaa, 0xaaaaaaaa}}, Row{3, {0xdb6db6db, 0xb6db6db6, 0x6db6db6d}, {0x24924924, 0x49249249, 0x92492492}},
                         Row{4, {0x77777777, 0x77777777, 0x77777777, 0x77777777}, {0x88888888, 0x88888888, 0x88888888, 0x88888888}},
                         Row{8, std::vector<uint32_t>(8, 0x7f7f7f7f), std::vector<uint32_t>(8, 0x80808080)}}) {
    QuantLinear linear = LinearOf(ShapeOf(32, 32, 32, row.bits));
    linear.zeros.assign(32, static_cast<uint16_t>(1U << (row.bits - 1)));
    EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v1", "qzeros"), linear, 4 * row.bits)), row.v1);
    EXPECT_EQ(WordsFrom<uint32_t>(Encode(PartOf("gptq-v2", "qzeros"), linear, 4 * row.bits)), row.v2);
  }
}

}  // namespace
}  // namespace q2c
