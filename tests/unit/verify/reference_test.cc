// The reference reader against bits.h. It must be right by itself: it is what convicts a codec.
#include "verify/reference.h"

#include <gtest/gtest.h>

#include <bit>
#include <sstream>

#include "formats/base/hash.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"
#include "tests/unit/verify/packers.h"

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
    Must(ReferenceCodes(linear, {first, c.in - first, 0, c.out}, &codes));
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

using test::Fixture;
using test::Logical;
using test::Pack;
using test::Stored;
using test::StoredTensor;

// The code that a layout holds for a code of the linear: GGUF's are moved to its own zero point.
struct Form {
  std::string layout;
  uint64_t bits = 0;       // of the layout
  uint32_t zero = 0;       // 0: the linear's own zero points and codes
};
Form FormOf(const std::string& layout, uint64_t bits) {
  if (layout == "gguf-q4_0") return {layout, 4, 8};
  if (layout == "gguf-q8_0") return {layout, 8, 128};
  if (layout == "gguf-q4_1") return {layout, 4, 0};
  return {layout, bits, 0};
}

void ExpectDecodes(const std::string& layout, const Logical& l) {
  SCOPED_TRACE(fmt::format("{}, {} bits, {} x {}, groups of {}", layout, l.bits, l.in, l.out, l.group_size));
  const Form form = FormOf(layout, l.bits);
  const Stored stored(Pack(layout, l));
  const bool blocks = layout.starts_with("gguf-");
  const StoredLinear linear{stored.get(), "l", layout, l.in, l.out, blocks ? 32 : l.group_size, form.bits};
  const auto code = [&](uint64_t k, uint64_t n) { return form.zero == 0 ? l.code(k, n) : l.code(k, n) - l.zero(k / l.group_size, n) + form.zero; };
  // Whole, and in pieces whose borders are those of no word, block or square.
  std::vector<uint8_t> codes;
  const std::vector<ReferenceTile> tiles = {{0, l.in, 0, l.out}, {1, l.in - 1, 0, l.out}, {0, l.in, 3, l.out - 3}, {l.in - 1, 1, l.out - 1, 1}, {l.in / 3, l.in / 2, l.out / 5, l.out / 3}, {21, 2, 10, 1}, {10, 12, 7, 2}};
  for (const ReferenceTile& tile : tiles) {
    Must(ReferenceCodes(linear, tile, &codes));
    ASSERT_EQ(codes.size(), tile.inputs * tile.outputs);
    for (uint64_t k = 0; k < tile.inputs; ++k) {
      for (uint64_t n = 0; n < tile.outputs; ++n) {
        ASSERT_EQ(codes[k * tile.outputs + n], code(tile.first_input + k, tile.first_output + n)) << tile.first_input + k << ", " << tile.first_output + n;
      }
    }
  }
  for (const auto& [first, count] : std::vector<std::pair<uint64_t, uint64_t>>{{0, l.out}, {1, l.out - 1}, {l.out / 3, l.out / 2}, {10, 1}, {l.out - 1, 1}}) {
    const ReferenceParameters parameters = Must(ReferenceParametersOf(linear, first, count));
    const uint64_t groups = CeilDiv(l.in, linear.group_size);
    ASSERT_EQ(parameters.zeros.size(), groups * count);
    ASSERT_EQ(parameters.scales.size(), groups * count);
    const bool offsets = layout == "mlx" || layout == "gguf-q4_1" || layout == "awq-gemv-fast";
    ASSERT_EQ(parameters.offsets.size(), offsets ? groups * count : 0U);
    for (uint64_t g = 0; g < groups; ++g) {
      const uint64_t source = g * linear.group_size / l.group_size;
      for (uint64_t i = 0; i < count; ++i) {
        const uint64_t n = first + i;
        ASSERT_EQ(parameters.zeros[g * count + i], form.zero == 0 ? l.zero(source, n) : form.zero) << g << ", " << n;
        ASSERT_EQ(parameters.scales[g * count + i], std::bit_cast<uint32_t>(HalfToFloat(l.scale(source, n)))) << g << ", " << n;
        if (offsets) {
          ASSERT_EQ(parameters.offsets[g * count + i], std::bit_cast<uint32_t>(HalfToFloat(test::OffsetOf(l, source, n)))) << g << ", " << n;
        }
      }
    }
    for (uint64_t k = 0; k < l.in; ++k) ASSERT_EQ(parameters.group_index[k], static_cast<int64_t>(k / linear.group_size));
  }
}

TEST(ReferenceLayouts, EveryCodeAtEveryPlace) {
  for (const char* layout : {"gptq-v1", "gptq-v2", "compressed-tensors", "mlx"}) {
    for (const uint64_t bits : {2U, 3U, 4U, 8U}) {
      ExpectDecodes(layout, test::Sweep(bits, 64, false, 256, 256));
      ExpectDecodes(layout, Fixture(bits, 32, false, 96, 64));
    }
  }
  ExpectDecodes("gptq-v1", Fixture(4, 64, false, 96, 64));  // the last group is short
  ExpectDecodes("compressed-tensors", Fixture(4, 32, false, 64, 37));
  ExpectDecodes("compressed-tensors", Fixture(3, 50, false, 50, 21));
  for (const auto& [in, out] : std::vector<std::pair<uint64_t, uint64_t>>{{256, 256}, {96, 33}, {30, 20}, {64, 61}}) ExpectDecodes("compressed-tensors-2025", test::Sweep(3, in, false, in, out));
  ExpectDecodes("compressed-tensors-2025", Fixture(3, 32, false, 96, 64));
  for (const char* layout : {"awq-gemm", "awq-gemv", "awq-gemv-fast", "gguf-q4_1"}) {
    for (const uint64_t size : {32U, 64U, 128U, 256U}) ExpectDecodes(layout, test::Sweep(4, size, false, 256, 64));
    ExpectDecodes(layout, Fixture(4, 64, false, 640, 24));  // more groups than a word of zero points holds
  }
  for (const uint64_t size : {64U, 128U, 256U}) ExpectDecodes("marlin", test::Sweep(4, size, true, 256, 128));
  for (const uint64_t size : {32U, 128U, 256U}) {
    ExpectDecodes("gguf-q4_0", test::Sweep(4, size, true, 256, 100));
    ExpectDecodes("gguf-q4_0", test::Sweep(2, size, false, 256, 16));
    ExpectDecodes("gguf-q8_0", test::Sweep(8, size, true, 256, 256));
    ExpectDecodes("gguf-q8_0", Fixture(4, size));
  }
}

TEST(ReferenceLayouts, CompressedWithoutZeroPointsIsSymmetric) {
  for (const uint64_t bits : {2U, 3U, 4U, 8U}) {
    const Logical l = Fixture(bits, 32, true, 64, 32);
    const Stored stored(test::PackCompressed(l, true));
    const ReferenceParameters parameters = Must(ReferenceParametersOf({stored.get(), "l", "compressed-tensors", 64, 32, 32, bits}));
    EXPECT_EQ(parameters.zeros, std::vector<uint16_t>(64, static_cast<uint16_t>(1U << (bits - 1))));
  }
}

std::string HashOf(const std::vector<StoredTensor>& tensors, const std::string& part) {
  const auto found = std::ranges::find(tensors, "l." + part, &StoredTensor::name);
  return found == tensors.end() ? "missing" : Sha256::Of(found->bytes);
}

// The packers above make what the real tools make; the reference reads it back.
TEST(ReferenceLayouts, PublishedVectors) {
  struct Vector {
    const char* layout;
    uint64_t bits;
    uint64_t size;
    bool symmetric;
    const char* part;
    const char* hash;
  };
  const std::vector<Vector> vectors = {
      {"gptq-v1", 2, 128, false, "qweight", "8696349928df94b0cf94e2dbf981e58b4862145781d32169f1ab2befa10dc6a5"},
      {"gptq-v1", 2, 128, false, "qzeros", "4790c6e4b0d18cb8459325208dad8f05b25761fb5e5db41d469d419b17e68393"},
      {"gptq-v2", 2, 128, false, "qzeros", "dd4d917a82c12a610354b78b151725f805134e1c6769ceafba4f9506d79c9c06"},
      {"compressed-tensors", 2, 128, false, "weight_packed", "542e8ab5a4605aef0b58e7cf86967b46e93c2f7693217520828d3d0042a0cdee"},
      {"compressed-tensors", 2, 128, false, "weight_zero_point", "09696c43cf943b9817edf103399e16dd4bd118997bcb82155b3bb7b44a001de8"},
      {"gptq-v1", 3, 128, false, "qweight", "533a33f22d2fabf70d9f1bfddc01aea48c67be8f5a6f63ac8060a8b0668f2688"},
      {"gptq-v1", 3, 128, false, "qzeros", "4bbfd84dd8bb39426cb168ad551a129add90786af2c613eb39bbd88b70cceaf7"},
      {"gptq-v2", 3, 128, false, "qzeros", "02c614533a44db841fea1052f3f4626ba4cf32ab2d38deba71979a29e8345ec1"},
      {"compressed-tensors", 3, 128, false, "weight_packed", "5150cb2ea38e91407390b94bd5b2c54d5957add03512342e43d082bfe67c5a5f"},
      {"compressed-tensors", 3, 128, false, "weight_zero_point", "7f8edee90d65dd6b09634219f2472847995459b61fa289f188f6fe6ce187b275"},
      {"gptq-v1", 4, 128, false, "qweight", "66631db790c05b7004282ea29d1a181229bbdeda5a3a0eb1081eee98c5578e44"},
      {"gptq-v1", 4, 128, false, "qzeros", "5ccf88fbda88d515da48c79bc61d4d941fd1112cc88ce05a35363ad07cdfc2d7"},
      {"gptq-v2", 4, 128, false, "qzeros", "fe7ad7f00c095d602676c5815386c8509a06660837fb4ac7d4268c1e54fb7cc6"},
      {"compressed-tensors", 4, 128, false, "weight_packed", "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc"},
      {"compressed-tensors", 4, 128, false, "weight_zero_point", "6394410056acf11e9c21ade79144eaecf498b6b5fc68add9e32b0af349698433"},
      {"gptq-v1", 8, 128, false, "qweight", "e327e4236ce3dd219868b98cd3936b5ae923cece73df9df1da6c4c46f9ee40ca"},
      {"gptq-v1", 8, 128, false, "qzeros", "6a7971492ebcb66e9e8330d0d1b1549374bf4af88fd67b9a39bef4c5f5987c13"},
      {"gptq-v2", 8, 128, false, "qzeros", "d34f9b6e4f938d9afdefe248bbdcfa98d38276bbdb920e6130ebcafcbbc37797"},
      {"compressed-tensors", 8, 128, false, "weight_packed", "83775fcbab0d19506eb4156557d2025019d2a29df412d6ff3fed1b2db38d2ebf"},
      {"compressed-tensors", 8, 128, false, "weight_zero_point", "00c5986823dbcd79a0d9d1a9c6502bf4be1e8ebb8dd7a68bcac45fb66626cdea"},
      {"gptq-v1", 4, 128, false, "scales", "4cc22799a18261767898ed4288a02b37b603bd82ffd868a55deee7a1f3242ee4"},
      {"gptq-v1", 4, 128, false, "g_idx", "eef6d14ecf895fe41c9af838f896b9b90523adf6f7e091dd7acf70f84b4ebef0"},
      {"awq-gemm", 4, 128, false, "qweight", "f2a79ea8d8dbc5465183b043a3c60e7e6b48c119c817043ff44018a2d0897ebb"},
      {"awq-gemm", 4, 128, false, "qzeros", "b2d56406ac363083459c30a8f017129dc798b757f820ebd503759bb5c0b4f413"},
      {"awq-gemv", 4, 128, false, "qweight", "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc"},
      {"awq-gemv", 4, 128, false, "qzeros", "7bdc4852449d935376a8843f14d2d9d4a9299fc6f954ab5ac0ad82cbae6d8e61"},
      {"awq-gemv", 4, 128, false, "scales", "f68f511cdc03cd5140d6c5977e9a548cf31aef8105db635213aebdbddc0c66c9"},
      {"awq-gemv-fast", 4, 128, false, "qweight", "c07a1dd70ca1cf11fb1d4a4a1855f436986721676f94297dca2febc459a7aee5"},
      {"awq-gemv-fast", 4, 128, false, "scales", "57622b037e4685b90735c490a115f89abe96432371fd25637473330f859ee0f3"},
      {"awq-gemv-fast", 4, 128, false, "qzeros", "ef74c053fa83e6ff2b5b467092239488efa04105f65402d6ebbf36c8bfe40945"},
      {"marlin", 4, 128, true, "B", "f185c1e6f6ccf7d2733a87e0fe59ffea3e4c23bdc9347117768e6633e9f5178e"},
      {"marlin", 4, 128, true, "s", "382098eb3b8afcc7021d1f2932233a7fb56480f0cc8f1567115de385b0a6083d"},
      {"marlin", 4, 256, true, "s", "29d6983912faaad58bb5727965e67f37f71347855d07e7b85219b56fec3c181f"},
      {"gguf-q4_0", 4, 32, true, "weight", "2398cc165360e20c5bbb7d244aac06bcaaffc74c3ce017f6df5dbdcc1567a82e"},
      {"gguf-q4_0", 4, 128, true, "weight", "fa1e4aca47b99cc10bf21b703bc56e21ea666e9d9ce2ad907c3a22d719867034"},
      {"gguf-q4_1", 4, 32, false, "weight", "955297ebbdbe70ce384d9e13e1f629ac056976b194b29be1fa956066e59e48da"},
      {"gguf-q8_0", 4, 32, false, "weight", "69fa2f503316d2e2cac40711b4623efbc4ef5bd94bfe12c61bd8cb7e870c7d6f"},
      {"gguf-q8_0", 8, 32, true, "weight", "ce6ec5723f1960a52122d6817ab749289f47050a5c12ea64b9b4e6498b5db956"},
      {"mlx", 4, 128, false, "weight", "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc"},
      {"mlx", 4, 128, false, "scales", "f9c514a8e2f7003c87fc06c266257291ab37323045d84233e5c1f1a626c830cb"},
      {"mlx", 4, 128, false, "biases", "4136b6ff6b858a10df1a0c622290330f2ad8a20c55363b3afd8167f1f6bdca79"},
      {"mlx", 4, 128, true, "biases", "2eb87a89e24eb89c733dda289a9a2295a3d084aacc4b0a60b8da180aa3749873"},
  };
  for (const Vector& v : vectors) {
    SCOPED_TRACE(fmt::format("{}, {}, {} bits, groups of {}", v.layout, v.part, v.bits, v.size));
    const Logical l = Fixture(v.bits, v.size, v.symmetric);
    EXPECT_EQ(HashOf(Pack(v.layout, l), v.part), v.hash);
    // Where a layout has no zero points the vector holds the codes of a symmetric linear.
    ExpectDecodes(v.layout, l);
  }
}

std::vector<uint32_t> Words(std::string_view hex) {
  std::vector<uint32_t> words;
  std::istringstream in{std::string(hex)};
  for (std::string word; in >> word;) words.push_back(static_cast<uint32_t>(std::stoul(word, nullptr, 16)));
  return words;
}
std::vector<uint16_t> Shorts(std::string_view hex) {
  const std::vector<uint32_t> words = Words(hex);
  return {words.begin(), words.end()};
}
template <typename T>
StoredTensor OfWords(const char* name, const char* dtype, std::vector<uint64_t> shape, const std::vector<T>& words) {
  return {name, dtype, std::move(shape), test::BytesOfWords(words)};
}
void ExpectCodes(const std::vector<StoredTensor>& tensors, const char* layout, const Logical& l) {
  const Stored stored(tensors);
  std::vector<uint8_t> codes;
  Must(ReferenceCodes({stored.get(), "l", layout, l.in, l.out, l.group_size, l.bits}, {0, l.in, 0, l.out}, &codes));
  for (uint64_t k = 0; k < l.in; ++k) {
    for (uint64_t n = 0; n < l.out; ++n) ASSERT_EQ(codes[k * l.out + n], l.code(k, n)) << layout << " " << k << ", " << n;
  }
}

// Words as the descriptions print them.
TEST(ReferenceLayouts, WorkedExamples) {
  const Logical t = Fixture(4, 16, false, 32, 8);
  const StoredTensor qweight = OfWords("l.qweight", "I32", {4, 8}, Words(
      "3e94fa50 72d82d83 c71c61b6 1b50a4e9 60a4e82c a4e81b5f f92c5f82 4d6092b5 "
      "b61c72d8 1c72c72d 83d82d72 f93e82c7 60a4e82c c60a3d71 3d6093c6 a3c6f81b "
      "3e94fa50 b61c61c7 4f94e93e d71c60a5 60a4e82c e82c5f93 71a4d70a 092c5e71 "
      "b61c72d8 50b60b61 0b50a5fa b5fa4e83 60a4e82c 0a4e71b5 b5e81b4e 6f82b4d7 "));
  ExpectCodes({qweight}, "gptq-v1", t);
  ExpectCodes({OfWords("l.qweight", "I32", {3, 8}, Words(
      "a878cea8 d5ea8543 7a9ccc5e a72e8531 14c14c14 795302ef e6e54bc2 0b97029d "
      "cea878ce cc6733a9 cc5e0e85 cc15e5e0 4c14c14c 4bcb9827 4bc27702 4bb94e6e "
      "78cea878 a1e0f178 0e857a9c 77a983bc c14c14c1 0a6e5dc1 7702e6e5 dc272f05 "))}, "gptq-v1", Fixture(3, 32, false, 32, 8));
  ExpectCodes({OfWords("l.qweight", "I32", {32, 1}, Words(
      "5f932c60 b5e882b5 2b4df81a 91a25e6f 0808c4c4 6e5d2a19 d4b2907e 4a17f6c3 "
      "b17d6c28 17c2c27d 8d2738d2 f38c9e27 6ae2048c c0376ad1 369cd036 acf1368b "
      "1357ace0 79ac0235 ef01789a 5566deef cccc4444 2211aa99 987610fe 0edb7643 "
      "7531eca8 db8642fd 41ebb852 b7401ea7 2ea6840c 84fbea51 fa5050b6 60b5b60b "))}, "awq-gemm", t);
  ExpectCodes({OfWords("l.qweight", "I16", {1, 64}, Shorts(
      "8080 d5d5 2a2a 7f7f c4c4 1919 6e6e b3b3 8080 d5d5 2a2a 7f7f c4c4 1919 6e6e b3b3 "
      "17d3 6c28 b17d 06c2 6c28 b17d 06c2 5b17 9f5b e4a0 39f5 8e4a e4a0 39f5 8e4a d39f "
      "ae26 f37b 59d1 ae26 048c 59d1 bf37 048c ae26 f37b 59d1 ae26 048c 59d1 bf37 048c "
      "3579 8ace e024 468a ace0 f135 579b bdf1 bdf1 0246 68ac ce02 2468 79bd df13 3579 "))}, "awq-gemv-fast", Fixture(4, 64, false, 64, 4));
  ExpectCodes({OfWords("l.B", "I32", {1, 128}, Words(
      "7fd50880 b3190880 f75d0880 3b910880 5d7fe62a 193b6ea2 d5f7e62a 91b36ea2 "
      "3b19c4c4 7f5dc4c4 b391c4c4 f7d5c4c4 19b3a26e d57f2ae6 913ba26e 5df72ae6 "
      "c2285bd3 066c5bd3 4aa05bd3 8ee45bd3 a0c2397d 6c8eb1f5 284a397d e406b1f5 "
      "9f7d2828 d3b12828 17f52828 5b392828 7d1706c2 39d38e4a f59f06c2 b15b8e4a "
      "157bae26 59bfae26 9df3ae26 d137ae26 04269dd1 c0e21559 8cae9dd1 486a1559 "
      "f3d18c8c 37158c8c 7b598c8c bf9d8c8c e28c7b37 ae48f3bf 6a047b37 26c0f3bf "
      "68cef179 ac02f179 e046f179 248af179 688ae024 244668ac e002e024 acce68ac "
      "5735e0e0 9b79e0e0 dfbde0e0 13f1e0e0 57f1df9b 13bd5713 df79df9b 9b355713 "
      "cc2244cc 006644cc 44aa44cc 88ee44cc ccee4488 88aacc00 44664488 0022cc00 "
      "ccaa4444 00ee4444 44224444 88664444 cc664400 8822cc88 44ee4400 00aacc88 "
      "1f75971f 53b9971f 97fd971f db31971f 1f3197db dbfd1f53 97b997db 53751f53 "
      "200ea8a8 6442a8a8 a886a8a8 eccaa8a8 20caa864 ec8620ec a842a864 640e20ec "
      "62c8ea62 a60cea62 ea40ea62 2e84ea62 7395fb3f 3f5173b7 fb1dfb3f b7d973b7 "
      "84620c0c c8a60c0c 0cea0c0c 402e0c0c 953f1dd9 51fb9551 1db71dd9 d9739551 "
      "b51b3db5 f95f3db5 3d933db5 71d73db5 d7f94e82 93b5c60a 5f714e82 1b3dc60a "
      "e8c66060 2c0a6060 604e6060 a4826060 0aa4713d c660f9b5 822c713d 4ee8f9b5 "))}, "marlin", Fixture(4, 16, true, 16, 64));

  // Zero points 1 4 7 10 13 1 4 7 and 8 11 14 2 5 8 11 14.
  const std::vector<uint16_t> zeros = {1, 4, 7, 10, 13, 1, 4, 7, 8, 11, 14, 2, 5, 8, 11, 14};
  const StoredTensor scales = OfWords("l.scales", "F16", {2, 8}, std::vector<uint16_t>(16, 0x3C00));
  for (const auto& [layout, words] : std::vector<std::pair<const char*, const char*>>{{"gptq-v1", "630c9630 da741da7"}, {"gptq-v2", "741da741 eb852eb8"}, {"awq-gemm", "71a44d71 e82bb5e8"}}) {
    const Stored stored({OfWords("l.qzeros", "I32", {2, 1}, Words(words)), scales});
    EXPECT_EQ(Must(ReferenceParametersOf({stored.get(), "l", layout, 32, 8, 16, 4})).zeros, zeros) << layout;
  }
  // Three bits: 1 4 7 3 6 2 5, over and over.
  for (const auto& [layout, words] : std::vector<std::pair<const char*, const char*>>{{"gptq-v1", "b310d598 4356621a 59886acc"}, {"gptq-v2", "fc3567e1 d59f86ac 7e1ab3f0"}}) {
    const Stored stored({OfWords("l.qzeros", "I32", {1, 3}, Words(words)), OfWords("l.scales", "F16", {1, 32}, std::vector<uint16_t>(32, 0x3C00))});
    const std::vector<uint16_t> three = Must(ReferenceParametersOf({stored.get(), "l", layout, 32, 32, 32, 3})).zeros;
    for (size_t n = 0; n < 32; ++n) EXPECT_EQ(three[n], (std::vector<uint16_t>{1, 4, 7, 3, 6, 2, 5})[n % 7]) << layout << " " << n;
  }
  // A field of 15 in v1 is zero point 0, and its neighbours stay what they are.
  const Stored wrapped({OfWords("l.qzeros", "I32", {1, 1}, Words("7777f777")), OfWords("l.scales", "F16", {1, 8}, std::vector<uint16_t>(8, 0x3C00))});
  EXPECT_EQ(Must(ReferenceParametersOf({wrapped.get(), "l", "gptq-v1", 32, 8, 32, 4})).zeros, (std::vector<uint16_t>{8, 8, 8, 0, 8, 8, 8, 8}));
}

TEST(ReferenceLayouts, Dense) {
  const Logical l = Fixture(4, 32, false, 64, 48);
  for (const char* layout : {"dense-fp16", "dense-bf16", "dense-fp32"}) {
    const Stored stored(Pack(layout, l));
    std::vector<float> weights;
    Must(ReferenceWeights({stored.get(), "l", layout, 64, 48, 0, 0}, {5, 59, 7, 40}, &weights));
    for (uint64_t k = 5; k < 64; ++k) {
      for (uint64_t n = 7; n < 47; ++n) {
        const float product = HalfToFloat(l.scale(k / 32, n)) * (static_cast<float>(l.code(k, n)) - static_cast<float>(l.zero(k / 32, n)));
        const float expected = layout == std::string("dense-fp32") ? product : layout == std::string("dense-fp16") ? HalfToFloat(FloatToHalf(product)) : BfloatToFloat(FloatToBfloat(product));
        ASSERT_EQ(weights[(k - 5) * 40 + n - 7], expected) << layout << " " << k << ", " << n;
      }
    }
  }
}

TEST(ReferenceLayouts, OffsetThatIsNoZeroPoint) {
  Logical l = Fixture(4, 32, false, 32, 8);
  l.zero = [](uint64_t, uint64_t) { return 4U; };
  std::vector<StoredTensor> parts = Pack("mlx", l);
  StoredTensor& biases = *std::ranges::find(parts, "l.biases", &StoredTensor::name);
  test::PutHalf(&biases.bytes, 1, 0x3C00);                                              // positive
  test::PutHalf(&biases.bytes, 2, 0x7E00);                                              // no number
  test::PutHalf(&biases.bytes, 3, FloatToHalf(-HalfToFloat(l.scale(0, 3)) * 100));      // beyond the codes
  test::PutHalf(&biases.bytes, 4, FloatToHalf(-HalfToFloat(l.scale(0, 4)) * 5.4F));     // near 5
  const Stored stored(parts);
  const ReferenceParameters parameters = Must(ReferenceParametersOf({stored.get(), "l", "mlx", 32, 8, 32, 4}));
  EXPECT_EQ(parameters.zeros, (std::vector<uint16_t>{4, kNoZero, kNoZero, kNoZero, 5, 4, 4, 4}));
}

TEST(ReferenceLayouts, PartsAreChecked) {
  const Logical l = Fixture(4, 32, false, 64, 64);
  for (const char* layout : {"gptq-v1", "compressed-tensors", "awq-gemm", "mlx"}) {
    std::vector<std::string> names;
    for (const std::string_view part : ReferenceParts(layout)) names.push_back("l." + std::string(part));
    const auto run = [&](const std::vector<StoredTensor>& parts) -> Status {
      const Stored stored(parts);
      const StoredLinear linear{stored.get(), "l", layout, 64, 64, 32, 4};
      std::vector<uint8_t> codes;
      QC_TRY(ReferenceCodes(linear, {0, 64, 0, 64}, &codes));
      QC_ASSIGN(const ReferenceParameters parameters, ReferenceParametersOf(linear));
      return {};
    };
    const std::vector<StoredTensor> sound = Pack(layout, l);
    Must(run(sound));
    for (size_t i = 0; i < sound.size(); ++i) {
      EXPECT_NE(std::ranges::find(names, sound[i].name), names.end()) << sound[i].name;
      std::vector<StoredTensor> parts = sound;
      std::ranges::reverse(parts[i].shape);
      parts[i].shape.push_back(1);
      test::ExpectError(run(parts), Code::kMalformed, "quant-shape", {parts[i].name});
      parts = sound;
      parts[i].dtype = parts[i].dtype == "I32" || parts[i].dtype == "U32" ? "F32" : parts[i].dtype == "F16" ? "I16" : "F64";
      test::ExpectError(run(parts), Code::kMalformed, "tensor-dtype", {parts[i].name});
      parts = sound;
      const std::string name = parts[i].name;
      parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i));
      if (name != "l.g_idx" && name != "l.weight_zero_point") test::ExpectError(run(parts), Code::kMalformed, "tensor-missing", {name});
    }
  }
  EXPECT_TRUE(ReferenceParts("hqq").empty());
  const Stored stored(Pack("gptq-v1", l));
  std::vector<uint8_t> codes;
  const StoredLinear linear{stored.get(), "l", "gptq-v1", 64, 64, 32, 4};
  for (const ReferenceTile& tile : {ReferenceTile{0, 65, 0, 64}, ReferenceTile{0, 64, 64, 1}, ReferenceTile{1, UINT64_MAX, 0, 64}, ReferenceTile{0, 0, 0, 64}}) test::ExpectError(ReferenceCodes(linear, tile, &codes), Code::kInternal, "internal");
}

}  // namespace
}  // namespace q2c
