// AWQ's three packings against formulas for single bits, worked examples and digests made by AutoAWQ's packers.
#include "formats/layouts/awq.h"

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

constexpr uint64_t kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // where output n mod 8 lies in a word

std::vector<QuantShape> Shapes() {
  std::vector<QuantShape> shapes;
  for (const auto& [in, out, group] : std::vector<std::array<uint64_t, 3>>{{64, 8, 64}, {64, 32, 32}, {320, 32, 32}, {128, 96, 128}, {192, 160, 64}, {256, 32, 128}, {640, 64, 640}, {1152, 8, 64}, {1088, 16, 32}, {1280, 8, 128}}) {
    shapes.push_back(ShapeOf(in, out, group, 4));
  }
  return shapes;
}
// Words of zero points of GEMV, by the rule as it is written down.
uint64_t ZeroWords(const QuantShape& s) {
  const uint64_t words = (s.in_features / s.group_size + 7) / 8;
  const uint64_t multiple = s.group_size >= 128 ? 1 : s.group_size == 64 ? 2 : 4;
  return (words + multiple - 1) / multiple * multiple;
}

TEST(AwqGemm, EveryBit) {
  CheckCodes("awq-gemm", "qweight", Shapes(), [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return 32 * (k * s.out_features / 8 + n / 8) + 4 * kNibbleOf[n % 8] + b; });
  CheckZeros("awq-gemm", "qzeros", Shapes(), [](const QuantShape& s, uint64_t g, uint64_t n, uint32_t b) { return 32 * (g * s.out_features / 8 + n / 8) + 4 * kNibbleOf[n % 8] + b; });
  CheckScales("awq-gemm", "scales", Shapes(), {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, [](const QuantShape& s, uint64_t g, uint64_t n) { return g * s.out_features + n; });
}

TEST(AwqGemv, EveryBit) {
  CheckCodes("awq-gemv", "qweight", Shapes(), [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) { return 4 * (n * s.in_features + k) + b; });
  CheckZeros("awq-gemv", "qzeros", Shapes(), [](const QuantShape& s, uint64_t g, uint64_t n, uint32_t b) { return 32 * n * ZeroWords(s) + 4 * g + b; });
  CheckScales("awq-gemv", "scales", Shapes(), {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, [](const QuantShape& s, uint64_t g, uint64_t n) { return n * 8 * ZeroWords(s) + g; });
}

TEST(AwqGemvFast, EveryBit) {
  CheckCodes("awq-gemv-fast", "qweight", Shapes(), [](const QuantShape& s, uint64_t k, uint64_t n, uint32_t b) {
    const uint64_t column = k / 64 * 64 + n % 4 * 16 + k / 32 % 2 * 8 + k / 2 % 4 * 2 + k % 2;
    return 16 * (n / 4 * s.in_features + column) + 4 * (k / 8 % 4) + b;
  });
  CheckScales("awq-gemv-fast", "scales", Shapes(), {Dtype::kF16, Dtype::kBF16, Dtype::kF32}, [](const QuantShape& s, uint64_t g, uint64_t n) { return g * s.out_features + n; });
}

// Every zero point comes back from the rounded offset, whatever the scale.
TEST(AwqGemvFast, Offsets) {
  for (const QuantShape& s : Shapes()) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
      const QuantLinear linear = RandomLinear(s, {.dtype = dtype}, s.in_features);
      Written written = Write("awq-gemv-fast", linear);
      EXPECT_EQ(written.Info("qzeros")->shape, (Shape{8 * ZeroWords(s), s.out_features}));
      ExpectSame(ReadAll(&written, s), linear, std::string(NameOf(dtype)));
      const uint64_t width = InfoOf(dtype).bits / 8;
      const Bytes& offsets = written.bytes["qzeros"];
      for (uint64_t at = s.groups * s.out_features * width; at < offsets.size(); ++at) ASSERT_EQ(offsets[at], std::byte{0});
    }
  }
}

TEST(AwqGemvFast, OffsetsThatAreNone) {
  const QuantShape s = ShapeOf(64, 32, 64, 4);
  const QuantLinear linear = Fixture(s);
  for (const uint16_t bad : {uint16_t{0x3C00} /* 1: below 0 */, uint16_t{0xBC00} /* -1: beyond 15 */, uint16_t{0x7E00}, uint16_t{0xFC00}, uint16_t{0x9401}}) {
    Written written = Write("awq-gemv-fast", linear);
    Store(written.bytes["qzeros"].data(), bad);
    ExpectError(DecodeTile(*written.layout, s, written.Source(), kZeros, WholeOf(s)), Code::kRefused, "quant-offset", {"l.qzeros"});
  }
  // 4096 times 15 is a number, 8192 times 15 is none.
  for (const auto& [scale, fits] : std::vector<std::pair<uint16_t, bool>>{{0x6C00, true}, {0x7000, false}, {0xF000, false}}) {
    QuantLinear wide = linear;
    wide.zeros[5] = 15;
    Store(wide.scales.data() + 10, scale);
    const PartCodec& part = *FindLayout("awq-gemv-fast")->Part("qzeros");
    Bytes out(PartBytes(part, wide));
    EXPECT_EQ(part.encode(wide, out).ok(), fits);
    if (!fits) ExpectError(part.encode(wide, out), Code::kRefused, "quant-offset");
  }
}

TEST(Awq, DigestsOfFixtureL) {
  const QuantLinear linear = Fixture(ShapeOf(256, 256, 128, 4));
  const Written gemm = Write("awq-gemm", linear);
  EXPECT_EQ(gemm.Sha("qweight"), "f2a79ea8d8dbc5465183b043a3c60e7e6b48c119c817043ff44018a2d0897ebb");
  EXPECT_EQ(gemm.Sha("qzeros"), "b2d56406ac363083459c30a8f017129dc798b757f820ebd503759bb5c0b4f413");
  EXPECT_EQ(gemm.Sha("scales"), "4cc22799a18261767898ed4288a02b37b603bd82ffd868a55deee7a1f3242ee4");
  const Written gemv = Write("awq-gemv", linear);
  EXPECT_EQ(gemv.Sha("qweight"), "78ae0e4c47a2b8bca2104991d83e32a4b3bdb67ce73357dc697a10e96305dcfc");
  EXPECT_EQ(gemv.Sha("qzeros"), "7bdc4852449d935376a8843f14d2d9d4a9299fc6f954ab5ac0ad82cbae6d8e61");
  EXPECT_EQ(gemv.Sha("scales"), "f68f511cdc03cd5140d6c5977e9a548cf31aef8105db635213aebdbddc0c66c9");
  const Written fast = Write("awq-gemv-fast", linear);
  EXPECT_EQ(fast.Sha("qweight"), "c07a1dd70ca1cf11fb1d4a4a1855f436986721676f94297dca2febc459a7aee5");
  EXPECT_EQ(fast.Sha("scales"), "57622b037e4685b90735c490a115f89abe96432371fd25637473330f859ee0f3");
  EXPECT_EQ(fast.Sha("qzeros"), "ef74c053fa83e6ff2b5b467092239488efa04105f65402d6ebbf36c8bfe40945");
}

TEST(AwqGemm, WorkedExample) {
  const Written written = Write("awq-gemm", Fixture(ShapeOf(32, 8, 16, 4)));
  EXPECT_EQ(written.Words("qweight"), (std::vector<uint32_t>{0x5f932c60, 0xb5e882b5, 0x2b4df81a, 0x91a25e6f, 0x0808c4c4, 0x6e5d2a19, 0xd4b2907e, 0x4a17f6c3, 0xb17d6c28, 0x17c2c27d, 0x8d2738d2,
                                                             0xf38c9e27, 0x6ae2048c, 0xc0376ad1, 0x369cd036, 0xacf1368b, 0x1357ace0, 0x79ac0235, 0xef01789a, 0x5566deef, 0xcccc4444, 0x2211aa99,
                                                             0x987610fe, 0x0edb7643, 0x7531eca8, 0xdb8642fd, 0x41ebb852, 0xb7401ea7, 0x2ea6840c, 0x84fbea51, 0xfa5050b6, 0x60b5b60b}));
  EXPECT_EQ(written.Words("qzeros"), (std::vector<uint32_t>{0x71a44d71, 0xe82bb5e8}));
}

TEST(AwqGemv, WorkedExample) {
  const Written written = Write("awq-gemv", Fixture(ShapeOf(64, 8, 32, 4)));
  const std::vector<uint32_t> codes = written.Words("qweight");
  EXPECT_EQ(std::vector(codes.begin(), codes.begin() + 16), (std::vector<uint32_t>{0x3e94fa50, 0xb61c72d8, 0x3e94fa50, 0xb61c72d8, 0x3e94fa50, 0xb61c72d8, 0x3e94fa50, 0xb61c72d8, 0x72d82d83,
                                                                                  0x1c72c72d, 0xb61c61c7, 0x50b60b61, 0xfa50a50b, 0x94fa4fa5, 0x3e94e94f, 0xd83e83e9}));
  const std::vector<uint32_t> zeros = written.Words("qzeros");
  ASSERT_EQ(zeros.size(), 8U * 4);
  EXPECT_EQ(std::vector(zeros.begin(), zeros.begin() + 8), (std::vector<uint32_t>{0x81, 0, 0, 0, 0xb4, 0, 0, 0}));
  const std::vector<uint16_t> scales = written.Halves("scales");
  ASSERT_EQ(scales.size(), 8U * 32);
  std::vector<uint16_t> first(32);
  first[0] = 0x1400;
  first[1] = 0x2440;
  EXPECT_EQ(std::vector(scales.begin(), scales.begin() + 32), first);
}

TEST(AwqGemv, PaddingByGroupSize) {
  for (const auto& [in, group, words] : std::vector<std::array<uint64_t, 3>>{{64, 32, 4}, {1024, 32, 4}, {1056, 32, 8}, {128, 64, 2}, {1024, 64, 2}, {1088, 64, 4}, {128, 128, 1}, {1024, 128, 1}, {1152, 128, 2}, {2048, 2048, 1}}) {
    const Written written = Write("awq-gemv", Fixture(ShapeOf(in, 8, group, 4)));
    EXPECT_EQ(written.infos[1].shape, (Shape{8, words})) << in << ", " << group;
    EXPECT_EQ(written.infos[2].shape, (Shape{8, 8 * words})) << in << ", " << group;
  }
}

TEST(AwqGemvFast, WorkedExample) {
  const std::vector<uint16_t> codes = {0x8080, 0xd5d5, 0x2a2a, 0x7f7f, 0xc4c4, 0x1919, 0x6e6e, 0xb3b3, 0x8080, 0xd5d5, 0x2a2a, 0x7f7f, 0xc4c4, 0x1919, 0x6e6e, 0xb3b3,
                                       0x17d3, 0x6c28, 0xb17d, 0x06c2, 0x6c28, 0xb17d, 0x06c2, 0x5b17, 0x9f5b, 0xe4a0, 0x39f5, 0x8e4a, 0xe4a0, 0x39f5, 0x8e4a, 0xd39f,
                                       0xae26, 0xf37b, 0x59d1, 0xae26, 0x048c, 0x59d1, 0xbf37, 0x048c, 0xae26, 0xf37b, 0x59d1, 0xae26, 0x048c, 0x59d1, 0xbf37, 0x048c,
                                       0x3579, 0x8ace, 0xe024, 0x468a, 0xace0, 0xf135, 0x579b, 0xbdf1, 0xbdf1, 0x0246, 0x68ac, 0xce02, 0x2468, 0x79bd, 0xdf13, 0x3579};
  EXPECT_EQ(Write("awq-gemv-fast", Fixture(ShapeOf(64, 4, 64, 4))).Halves("qweight"), codes);
  const std::vector<uint16_t> offsets = Write("awq-gemv-fast", Fixture(ShapeOf(64, 8, 32, 4))).Halves("qzeros");
  ASSERT_EQ(offsets.size(), 32U * 8);
  std::vector<uint16_t> expected = {0x9400, 0xa000, 0xa540, 0xa900, 0xac10, 0x9e00, 0xa700, 0xab00, 0xb040, 0xb230, 0xb428, 0xa900, 0xae90, 0xb180, 0xb3e8, 0xb540};
  expected.resize(offsets.size());
  EXPECT_EQ(offsets, expected);
}

TEST(Awq, Detect) {
  for (const char* layout : {"awq-gemm", "awq-gemv", "awq-gemv-fast"}) {
    for (const QuantShape& s : Shapes()) {
      if (layout == std::string("awq-gemv-fast") && s.out_features < 8) continue;
      const Written written = Write(layout, Fixture(s));
      EXPECT_EQ(Must(Detect(written, s, HintsOf(*written.layout, s))), s) << layout << ", " << s.in_features << " by " << s.out_features;
    }
  }
  // A group size of -1 is one group; none at all is AWQ's usual 128.
  const QuantShape one = ShapeOf(256, 32, 256, 4);
  EXPECT_EQ(Must(Detect(Write("awq-gemv", Fixture(one)), one, {"awq", "gemv", 4, -1})), one);
  const QuantShape usual = ShapeOf(256, 32, 128, 4);
  EXPECT_EQ(Must(Detect(Write("awq-gemv", Fixture(usual)), usual)), usual);
}

// The shapes of qweight alone do not tell these apart.
TEST(Awq, AmbiguousShapes) {
  const auto first = [](const Written& written, const QuantShape& s, const LayoutHints& hints) {
    for (const Layout& layout : Layouts()) {
      if (Must(layout.detect("l", s.in_features, s.out_features, written.Parts(), hints)).has_value()) return std::string(layout.name);
    }
    return std::string();
  };
  // GPTQ's [in / 8, out] is GEMV's [out, in / 8] where in = 8 · out.
  const QuantShape eight = ShapeOf(512, 64, 128, 4);
  ASSERT_EQ(Write("gptq-v1", Fixture(eight)).infos[0].shape, Write("awq-gemv", Fixture(eight)).infos[0].shape);
  for (const char* method : {"", "gptq"}) EXPECT_EQ(first(Write("gptq-v1", Fixture(eight)), eight, {method, "", 4, 128}), "gptq-v1") << method;
  for (const char* method : {"", "awq"}) EXPECT_EQ(first(Write("awq-gemv", Fixture(eight)), eight, {method, "", 4, 128}), "awq-gemv") << method;
  // A square linear, as q_proj and o_proj are: GEMM's [in, out / 8] is GEMV's [out, in / 8].
  for (const uint64_t group : {32U, 64U, 128U}) {
    const QuantShape square = ShapeOf(256, 256, group, 4);
    for (const char* layout : {"awq-gemm", "awq-gemv", "awq-gemv-fast"}) {
      for (const char* method : {"", "awq"}) EXPECT_EQ(first(Write(layout, Fixture(square)), square, {method, "", 4, static_cast<int64_t>(group)}), layout) << group;
    }
    EXPECT_EQ(first(Write("gptq-v1", Fixture(square)), square, {}), "gptq-v1");
  }
  // GPTQ at 2, 3 and 8 bits is never AWQ.
  for (const uint32_t bits : {2U, 3U, 8U}) {
    for (const auto& [in, out] : std::vector<std::pair<uint64_t, uint64_t>>{{64, 64}, {512, 64}, {64, 512}, {256, 64}, {1024, 64}}) {
      const QuantShape s = ShapeOf(in, out, 32, bits);
      EXPECT_EQ(first(Write("gptq-v1", Fixture(s)), s, {}), "gptq-v1") << bits << ", " << in;
    }
  }
}

TEST(Awq, DetectSaysWhatIsWrong) {
  const QuantLinear linear = Fixture(ShapeOf(128, 96, 64, 4));
  for (const char* layout : {"awq-gemm", "awq-gemv", "awq-gemv-fast"}) {
    CheckBroken(layout, linear, {Without("qweight", ""), Without("qzeros", "quant-part"), Without("scales", "quant-part"), WithDtype("scales", Dtype::kF64, "quant-dtype"),
                                 WithDtype("qzeros", Dtype::kI64, "quant-dtype"), WithShape("qzeros", {3, 5}, "quant-shape"), WithShape("scales", {96}, "quant-part"),
                                 WithShape("scales", {3, 95}, "quant-shape")});
  }
  // A qweight of no packing is reported as GEMM's, the first of them.
  CheckBroken("awq-gemm", linear, {WithShape("qweight", {128, 13}, "quant-shape"), WithShape("qweight", {128}, "quant-shape"), WithDtype("qweight", Dtype::kU8, "quant-dtype")});
  CheckBroken("awq-gemv", linear, {WithShape("qweight", {97, 16}, ""), WithDtype("qweight", Dtype::kU8, "quant-dtype")});
  CheckBroken("awq-gemv-fast", linear, {WithShape("qweight", {24, 127}, "quant-shape"), WithDtype("qweight", Dtype::kU8, "")});
  CheckBroken("awq-gemm", linear, {WithShape("scales", {0, 96}, "quant-shape"), WithShape("qzeros", {2, 96}, "quant-shape")});
  // The offsets have the type of the scales.
  CheckBroken("awq-gemv-fast", linear, {WithDtype("qzeros", Dtype::kBF16, "quant-dtype")});
  // Inputs that fill no word: gemv_fast goes in blocks of 64.
  const auto odd = [](std::string_view layout, uint64_t in, uint64_t out, const Shape& qweight) {
    Written written = Write(layout, Fixture(ShapeOf(128, 96, 64, 4)));
    written.Info("qweight")->shape = qweight;
    return written.layout->detect("l", in, out, written.Parts(), {"awq", "", 4, 64});
  };
  ExpectError(odd("awq-gemv-fast", 96, 96, {24, 96}), Code::kMalformed, "quant-shape");
  ExpectError(odd("awq-gemm", 20, 96, {20, 12}), Code::kMalformed, "quant-shape");
  ExpectError(odd("awq-gemv", 20, 96, {96, 2}), Code::kMalformed, "quant-shape");
  ExpectError(odd("awq-gemm", 128, 20, {128, 2}), Code::kMalformed, "quant-shape");
}

}  // namespace
}  // namespace q2c
