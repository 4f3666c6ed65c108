// The exact comparison between layouts: what is right passes, and every kind of damage to any
// part is found. Both sides are packed here, by the plain packers.
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/verify/packers.h"
#include "verify/compare.h"
#include "verify/rounding.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Fixture;
using test::Logical;
using test::Must;
using test::Pack;
using test::Stored;
using test::StoredTensor;

using Tensors = std::vector<StoredTensor>;

StoredTensor& At(Tensors* tensors, const std::string& name) { return *std::ranges::find(*tensors, name, &StoredTensor::name); }

Manifest ManifestOf(const Tensors& output) {
  Manifest manifest;
  for (const StoredTensor& tensor : output) {
    ManifestTensor entry;
    entry.name = tensor.name;
    entry.dtype = *DtypeNamed(tensor.dtype);
    entry.shape = tensor.shape;
    manifest.tensors.push_back(entry);
  }
  return manifest;
}

bool IsBlocks(const std::string& layout) { return layout.starts_with("gguf-"); }
uint64_t BitsOf(const std::string& layout, uint64_t bits) { return layout.starts_with("dense-") ? 0 : layout == "gguf-q8_0" ? 8 : IsBlocks(layout) ? 4 : bits; }

struct Pair {
  std::string from;
  std::string to;
  std::string exactness;
  Logical source;
  uint64_t size = 0;  // of the output's groups; 0: as in the source

  Logical Output() const {
    Logical l = source;
    if (size == 0 || size == source.group_size) return l;
    l.group_size = size;
    const uint64_t parts = source.group_size / size;
    l.zero = [zero = source.zero, parts](uint64_t g, uint64_t n) { return zero(g / parts, n); };
    l.scale = [scale = source.scale, parts](uint64_t g, uint64_t n) { return scale(g / parts, n); };
    return l;
  }
  ManifestLinear Claim() const {
    const uint64_t group_size = IsBlocks(to) ? 32 : size == 0 ? source.group_size : size;
    return {"l", "l", from, to, source.in, source.out, IsBlocks(from) ? 32 : source.group_size, group_size, BitsOf(from, source.bits), BitsOf(to, source.bits), exactness, {}};
  }
};

Result<Compared> Hold(const Tensors& in, const Tensors& out, const ManifestLinear& claim, unsigned jobs = 1) {
  const Stored source(in);
  const Stored output(out);
  Manifest manifest = ManifestOf(out);
  manifest.linears.push_back(claim);
  return CompareExact(*source, *output, manifest, {jobs, nullptr, nullptr});
}

std::vector<Pair> SoundPairs() {
  const Logical asym = Fixture(4, 64, false, 128, 64);
  const Logical sym = Fixture(4, 64, true, 128, 64);
  const Logical one = Fixture(4, 128, true, 128, 64);
  const Logical wide = Fixture(4, 128, false, 256, 64);
  Logical powers = asym;  // products with these need no rounding
  powers.scale = [](uint64_t g, uint64_t n) { return FloatToHalf(std::ldexp(1.0F, -static_cast<int>((g + n) % 8))); };
  Logical rare = asym;    // those with these do
  rare.scale = [](uint64_t g, uint64_t n) { return static_cast<uint16_t>(0x1555 + 37 * n + 11 * g); };
  std::vector<Pair> pairs;
  for (const char* from : {"gptq-v1", "gptq-v2", "compressed-tensors", "awq-gemm", "awq-gemv", "awq-gemv-fast"}) {
    for (const char* to : {"gptq-v1", "gptq-v2", "compressed-tensors", "awq-gemm"}) pairs.push_back({from, to, "same-codes", asym});
  }
  pairs.push_back({"marlin", "gptq-v1", "same-codes", sym});
  pairs.push_back({"marlin", "compressed-tensors", "same-codes", one});
  pairs.push_back({"gptq-v1", "marlin", "same-codes", sym});
  pairs.push_back({"compressed-tensors-2025", "gptq-v2", "same-codes", Fixture(3, 32, false, 96, 64)});
  pairs.push_back({"compressed-tensors-2025", "compressed-tensors", "same-codes", Fixture(3, 32, false, 96, 64)});
  for (const uint64_t bits : {2U, 3U, 8U}) pairs.push_back({"gptq-v1", "compressed-tensors", "same-codes", Fixture(bits, 64, false, 128, 64)});
  pairs.push_back({"gptq-v1", "gguf-q4_0", "same-values", sym});
  pairs.push_back({"gptq-v1", "gguf-q4_0", "same-values", Fixture(2, 64, false, 128, 64)});
  pairs.push_back({"gptq-v1", "gguf-q8_0", "same-values", wide});
  pairs.push_back({"awq-gemv-fast", "gguf-q8_0", "same-values", wide});
  pairs.push_back({"gptq-v2", "gguf-q8_0", "same-values", Fixture(8, 64, true, 128, 64)});
  pairs.push_back({"gguf-q4_0", "gptq-v2", "same-codes", Fixture(4, 32, true, 128, 64)});
  pairs.push_back({"gptq-v1", "compressed-tensors", "same-values", wide, 32});
  pairs.push_back({"gptq-v1", "mlx", "same-codes", powers});
  pairs.push_back({"mlx", "gptq-v1", "same-codes", powers});
  pairs.push_back({"gptq-v1", "gguf-q4_1", "same-values", powers});
  pairs.push_back({"gptq-v1", "mlx", "rounded", rare});
  pairs.push_back({"gptq-v1", "gguf-q4_1", "rounded", rare});
  pairs.push_back({"gptq-v1", "mlx", "same-codes", Fixture(8, 64, true, 128, 64)});
  pairs.push_back({"awq-gemv-fast", "mlx", "same-codes", asym});
  pairs.push_back({"gptq-v1", "dense-fp32", "same-values", rare});
  pairs.push_back({"gptq-v1", "dense-fp16", "rounded", rare});
  pairs.push_back({"awq-gemm", "dense-bf16", "rounded", wide});
  pairs.push_back({"mlx", "dense-fp16", "rounded", rare});
  return pairs;
}

std::string TextOf(const Pair& pair) { return fmt::format("{} to {}, {}, {} bits, groups of {} to {}", pair.from, pair.to, pair.exactness, pair.source.bits, pair.source.group_size, pair.size); }

TEST(CompareLayouts, SoundOnesPass) {
  for (const Pair& pair : SoundPairs()) {
    SCOPED_TRACE(TextOf(pair));
    const Compared compared = Must(Hold(Pack(pair.from, pair.source), Pack(pair.to, pair.Output()), pair.Claim()));
    EXPECT_EQ(compared.weights, pair.source.in * pair.source.out);
    EXPECT_EQ(compared.tensors, 0U);
    EXPECT_EQ(compared.rounded_weights, pair.exactness == "rounded" ? compared.weights : 0);
  }
}

TEST(CompareLayouts, AnyBitOfAnyPart) {
  for (const Pair& pair : SoundPairs()) {
    SCOPED_TRACE(TextOf(pair));
    const Tensors in = Pack(pair.from, pair.source);
    const Tensors sound = Pack(pair.to, pair.Output());
    const Stored source(in);
    test::Random random(5);
    for (size_t part = 0; part < sound.size(); ++part) {
      for (int i = 0; i < 12; ++i) {
        Tensors out = sound;
        Bytes& bytes = out[part].bytes;
        // The ends too.
        const size_t at = i == 0 ? 0 : i == 1 ? bytes.size() - 1 : random.Below(static_cast<uint32_t>(bytes.size()));
        bytes[at] ^= static_cast<std::byte>(1U << random.Below(8));
        const Stored output(out);
        Manifest manifest = ManifestOf(out);
        manifest.linears.push_back(pair.Claim());
        ExpectError(CompareExact(*source, *output, manifest, {}), Code::kFindings, "exact-linear", {"'l"});
      }
    }
  }
}

TEST(CompareLayouts, SwappedOutputsInputsAndGroups) {
  for (const Pair& pair : SoundPairs()) {
    SCOPED_TRACE(TextOf(pair));
    const Tensors in = Pack(pair.from, pair.source);
    const auto swap = [](uint64_t i, uint64_t a, uint64_t b) { return i == a ? b : i == b ? a : i; };
    Logical outputs = pair.Output();
    outputs.code = [code = outputs.code, swap](uint64_t k, uint64_t n) { return code(k, swap(n, 6, 7)); };
    ExpectError(Hold(in, Pack(pair.to, outputs), pair.Claim()), Code::kFindings, "exact-linear", {"output 6"});
    Logical inputs = pair.Output();
    inputs.code = [code = inputs.code, swap](uint64_t k, uint64_t n) { return code(swap(k, 40, 41), n); };
    ExpectError(Hold(in, Pack(pair.to, inputs), pair.Claim()), Code::kFindings, "exact-linear", {"input 40"});
    Logical scales = pair.Output();
    scales.scale = [scale = scales.scale, swap](uint64_t g, uint64_t n) { return scale(g, swap(n, 6, 7)); };
    ExpectError(Hold(in, Pack(pair.to, scales), pair.Claim()), Code::kFindings, "exact-linear", {"output 6"});
  }
}

// One zero point up and all of its codes with it: the same steps, other codes and zero points.
TEST(CompareLayouts, MovedZeroPoint) {
  Logical source = Fixture(4, 64, false, 128, 64);
  source.code = [code = source.code](uint64_t k, uint64_t n) { return code(k, n) % 12; };
  Logical moved = source;
  moved.code = [code = source.code](uint64_t k, uint64_t n) { return code(k, n) + (n == 9 ? 1 : 0); };
  moved.zero = [zero = source.zero](uint64_t g, uint64_t n) { return n == 9 ? (zero(g, n) + 1) % 16 : zero(g, n); };
  for (const uint64_t g : {0U, 1U}) ASSERT_LT(source.zero(g, 9), 15U);
  Pair pair = {"gptq-v2", "compressed-tensors", "same-codes", source};
  ExpectError(Hold(Pack(pair.from, source), Pack(pair.to, moved), pair.Claim()), Code::kFindings, "exact-linear", {"zero point of group 0, output 9"});
  pair.exactness = "same-values";
  Must(Hold(Pack(pair.from, source), Pack(pair.to, moved), pair.Claim()));
  moved.code = source.code;
  ExpectError(Hold(Pack(pair.from, source), Pack(pair.to, moved), pair.Claim()), Code::kFindings, "exact-linear", {"code less zero point of input 0, output 9"});
  // A step that an unsigned code cannot take is no other code either.
  Logical low = source;
  low.zero = [](uint64_t, uint64_t) { return 12U; };
  Logical wrapped = low;
  wrapped.zero = [](uint64_t, uint64_t) { return 8U; };
  wrapped.code = [code = source.code](uint64_t k, uint64_t n) { return (code(k, n) + 12) % 16; };
  ExpectError(Hold(Pack(pair.from, low), Pack(pair.to, wrapped), pair.Claim()), Code::kFindings, "exact-linear", {"code less zero point"});
}

TEST(CompareLayouts, GroupIndex) {
  const Pair pair = {"gptq-v1", "compressed-tensors", "same-codes", Fixture(4, 64, false, 128, 64)};
  const Tensors out = Pack(pair.to, pair.source);
  for (const uint64_t input : {0U, 63U, 64U, 127U}) {
    Tensors in = Pack(pair.from, pair.source);
    Bytes& g_idx = At(&in, "l.g_idx").bytes;
    Store<int32_t>(g_idx.data() + 4 * input, input < 64 ? 1 : 0);
    ExpectError(Hold(in, out, pair.Claim()), Code::kFindings, "exact-linear", {fmt::format("input {} is in group", input)});
    // Groups split in four, one input of which lies in another group.
    Pair split = pair;
    split.size = 16;
    split.exactness = "same-values";
    ExpectError(Hold(in, Pack(split.to, split.Output()), split.Claim()), Code::kFindings, "exact-linear", {"is in group"});
    // What is no group at all.
    for (const int32_t none : {-1, 2}) {
      Store<int32_t>(g_idx.data() + 4 * input, none);
      ExpectError(Hold(in, out, pair.Claim()), Code::kMalformed, "quant-group", {fmt::format("input {}", input)});
    }
  }
  // The same scattered index on both sides is carried; a trivial one left out, too.
  Tensors in = Pack("gptq-v1", pair.source);
  std::erase_if(in, [](const StoredTensor& tensor) { return tensor.name == "l.g_idx"; });
  Must(Hold(in, out, pair.Claim()));
  in = Pack("gptq-v1", pair.source);
  Tensors v2 = Pack("gptq-v2", pair.source);
  for (uint64_t k = 0; k < 128; ++k) {
    for (Tensors* tensors : {&in, &v2}) Store<int32_t>(At(tensors, "l.g_idx").bytes.data() + 4 * k, static_cast<int32_t>((7 * k + 3) % 128 / 64));
  }
  Pair carried = pair;
  carried.to = "gptq-v2";
  Must(Hold(in, v2, carried.Claim()));
  Pair dense = pair;  // weights of scattered groups
  dense.to = "dense-fp32";
  dense.exactness = "same-values";
  Logical scattered = pair.source;
  scattered.group_size = 1;
  scattered.zero = [zero = pair.source.zero](uint64_t k, uint64_t n) { return zero((7 * k + 3) % 128 / 64, n); };
  scattered.scale = [scale = pair.source.scale](uint64_t k, uint64_t n) { return scale((7 * k + 3) % 128 / 64, n); };
  Must(Hold(in, Pack("dense-fp32", scattered), dense.Claim()));
  ExpectError(Hold(in, Pack("dense-fp32", pair.source), dense.Claim()), Code::kFindings, "exact-linear", {"weight of input"});
}

TEST(CompareLayouts, OffsetsOfNothing) {
  // The sign of a zero offset means nothing; where the scale is zero an offset layout says nothing of the zero point.
  Logical source = Fixture(4, 64, false, 128, 64);
  source.zero = [](uint64_t, uint64_t n) { return n == 3 ? 0U : 8U; };
  source.scale = [](uint64_t, uint64_t n) { return static_cast<uint16_t>(n == 5 ? 0 : n == 6 ? 0x8000 : 0x2C00); };
  for (const char* to : {"mlx", "gguf-q4_1"}) {
    const Pair pair = {"gptq-v2", to, "same-codes", source};
    Must(Hold(Pack(pair.from, source), Pack(to, source), pair.Claim()));
    Logical away = source;  // −0 for zero point 0
    Tensors out = Pack(to, away);
    if (std::string(to) == "mlx") {
      test::PutHalf(&At(&out, "l.biases").bytes, 3 * 2, 0x8000);
      Must(Hold(Pack(pair.from, source), out, pair.Claim()));
      test::PutHalf(&At(&out, "l.biases").bytes, 3 * 2, 0x8001);  // the smallest number that is not zero
      ExpectError(Hold(Pack(pair.from, source), out, pair.Claim()), Code::kFindings, "exact-linear", {"offset of group 0, output 3"});
    }
  }
  const Pair back = {"mlx", "gptq-v2", "same-codes", source};
  Must(Hold(Pack("mlx", source), Pack("gptq-v2", source), back.Claim()));
}

TEST(CompareLayouts, RoundedIsNotCalledExact) {
  Logical rare = Fixture(4, 64, false, 128, 64);
  rare.scale = [](uint64_t g, uint64_t n) { return static_cast<uint16_t>(0x1555 + 37 * n + 11 * g); };
  for (const char* to : {"mlx", "gguf-q4_1", "dense-fp16", "dense-bf16"}) {
    Pair pair = {"gptq-v1", to, "same-values", rare};
    ExpectError(Hold(Pack(pair.from, rare), Pack(to, rare), pair.Claim()), Code::kFindings, "exact-linear");
    pair.exactness = "rounded";
    Must(Hold(Pack(pair.from, rare), Pack(to, rare), pair.Claim()));
    pair.exactness = "nearly";
    ExpectError(Hold(Pack(pair.from, rare), Pack(to, rare), pair.Claim()), Code::kFindings, "exact-linear", {"nearly"});
  }
  // Offsets that no whole zero point explains.
  Tensors in = Pack("mlx", rare);
  test::PutHalf(&At(&in, "l.biases").bytes, 0, FloatToHalf(-5.4F * HalfToFloat(rare.scale(0, 0))));
  Logical five = rare;
  five.zero = [zero = rare.zero](uint64_t g, uint64_t n) { return g == 0 && n == 0 ? 5U : zero(g, n); };
  Pair pair = {"mlx", "gptq-v2", "same-codes", rare};
  ExpectError(Hold(in, Pack(pair.to, five), pair.Claim()), Code::kFindings, "exact-linear", {"no whole zero point"});
  pair.exactness = "rounded";
  const Compared compared = Must(Hold(in, Pack(pair.to, five), pair.Claim()));
  EXPECT_NEAR(compared.largest_error, 0.4 * HalfToFloat(rare.scale(0, 0)), 1e-5);
  pair = {"mlx", "mlx", "same-codes", rare};  // carried as they are
  Must(Hold(in, in, pair.Claim()));
}

TEST(CompareLayouts, ScalesThatNarrow) {
  const Logical l = Fixture(4, 64, true, 128, 64);
  Tensors in = Pack("gptq-v1", l);
  StoredTensor& scales = At(&in, "l.scales");
  scales.dtype = "F32";
  std::vector<float> single;
  for (uint64_t i = 0; i < 128; ++i) single.push_back(0.001F + 0.0001234567F * static_cast<float>(i));
  scales.bytes = test::BytesOfWords(single);
  Logical narrow = l;
  narrow.scale = [&](uint64_t g, uint64_t n) { return FloatToHalf(single[g * 64 + n]); };
  for (const char* to : {"gptq-v2", "gguf-q4_0", "awq-gemm"}) {
    Pair pair = {"gptq-v1", to, "rounded", l};
    const Compared compared = Must(Hold(in, Pack(to, narrow), pair.Claim()));
    EXPECT_GT(compared.relative_rms, 0);
    EXPECT_LT(compared.relative_rms, 0x1p-11);
    Logical wrong = narrow;
    wrong.scale = [&](uint64_t g, uint64_t n) { return static_cast<uint16_t>(narrow.scale(g, n) + (g == 1 && n == 7 ? 1 : 0)); };
    ExpectError(Hold(in, Pack(to, wrong), pair.Claim()), Code::kFindings, "exact-linear", {"scale (float32 bits)", "output 7"});
    pair.exactness = "same-values";
    ExpectError(Hold(in, Pack(to, narrow), pair.Claim()), Code::kFindings, "exact-linear", {"scale (float32 bits)"});
  }
  single[5] = 70000;
  At(&in, "l.scales").bytes = test::BytesOfWords(single);
  const Pair pair = {"gptq-v1", "gptq-v2", "rounded", l};
  ExpectError(Hold(in, Pack("gptq-v2", narrow), pair.Claim()), Code::kFindings, "exact-linear", {"output 5"});
  Tensors dense = Pack("dense-fp16", narrow);  // a weight beyond the range is lost, not rounded
  ExpectError(Hold(in, dense, Pair{"gptq-v1", "dense-fp16", "rounded", l}.Claim()), Code::kFindings, "exact-linear");
}

TEST(CompareLayouts, MeasureIsWhatItSays) {
  const Logical l = Fixture(4, 64, false, 704, 1056);  // several tiles and strips
  const Pair pair = {"gptq-v1", "dense-bf16", "rounded", l};
  double largest = 0;
  double errors = 0;
  double squares = 0;
  for (uint64_t k = 0; k < l.in; ++k) {
    for (uint64_t n = 0; n < l.out; ++n) {
      const double w = HalfToFloat(l.scale(k / 64, n)) * (static_cast<double>(l.code(k, n)) - l.zero(k / 64, n));
      const double error = std::abs(w - BfloatToFloat(FloatToBfloat(static_cast<float>(w))));
      largest = std::max(largest, error);
      errors += error * error;
      squares += w * w;
    }
  }
  const Tensors in = Pack(pair.from, l);
  const Tensors out = Pack(pair.to, l);
  const Compared one = Must(Hold(in, out, pair.Claim(), 1));
  EXPECT_EQ(one.rounded_weights, l.in * l.out);
  EXPECT_EQ(one.largest_error, largest);
  EXPECT_NEAR(one.relative_rms, std::sqrt(errors / squares), 1e-12);
  const Compared four = Must(Hold(in, out, pair.Claim(), 4));
  EXPECT_EQ(one.relative_rms, four.relative_rms);
  // Beyond the first tile and strip places are still named rightly.
  Logical wrong = l;
  wrong.code = [&](uint64_t k, uint64_t n) { return l.code(k, n) ^ (k == 699 && n == 1041 ? 1U : 0U); };
  ExpectError(Hold(in, Pack("dense-bf16", wrong), pair.Claim()), Code::kFindings, "exact-linear", {"input 699, output 1041"});
  const Pair large = {"gptq-v1", "compressed-tensors", "same-codes", Fixture(2, 128, true, 3968, 1056)};
  wrong = large.source;
  wrong.code = [&](uint64_t k, uint64_t n) { return large.source.code(k, n) ^ (k == 3900 && n == 1041 ? 1U : 0U); };
  ExpectError(Hold(Pack("gptq-v1", large.source), Pack("compressed-tensors", wrong), large.Claim()), Code::kFindings, "exact-linear", {"code of input 3900, output 1041"});
}

TEST(CompareLayouts, Accounts) {
  const Logical l = Fixture(4, 64, true, 128, 64);
  const Pair pair = {"gptq-v1", "gguf-q4_0", "same-values", l};
  Tensors in = Pack(pair.from, l);
  Tensors out = Pack(pair.to, l);
  Must(Hold(in, out, pair.Claim()));
  Tensors more = in;
  more.push_back({"l.weight_g_idx", "I32", {128}, Bytes(512)});  // no part of this layout
  ExpectError(Hold(more, out, pair.Claim()), Code::kFindings, "exact-lost", {"l.weight_g_idx"});
  ManifestLinear claim = pair.Claim();
  claim.source = "other";
  ExpectError(Hold(in, out, claim), Code::kFindings, "exact-lost", {"l.g_idx"});
  claim = pair.Claim();
  claim.layout = "hqq";
  ExpectError(Hold(in, out, claim), Code::kNotRun, "layout", {"hqq"});
  for (const auto change : std::vector<void (*)(ManifestLinear*)>{[](ManifestLinear* c) { c->group_size = 0; }, [](ManifestLinear* c) { c->group_size = 48; }, [](ManifestLinear* c) { c->source_bits = 0; },
                                                                    [](ManifestLinear* c) { c->bits = 9; }, [](ManifestLinear* c) { c->in_features = 0; }, [](ManifestLinear* c) { c->group_size = 16; },
                                                                    [](ManifestLinear* c) { c->bits = 5; }}) {
    claim = pair.Claim();
    change(&claim);
    ExpectError(Hold(in, out, claim), Code::kFindings, "exact-linear");
  }
}

TEST(Rounding, EqualsTheOtherArithmetic) {
  // Every half, the middles between neighbours and what is just beside them.
  for (uint32_t h = 0; h < 0x7C00; ++h) {
    const float low = HalfToFloat(static_cast<uint16_t>(h));
    const float high = h == 0x7BFF ? 65536 : HalfToFloat(static_cast<uint16_t>(h + 1));
    const float middle = (low + high) / 2;
    for (const float x : {low, std::nextafter(low, high), std::nextafter(middle, low), middle, std::nextafter(middle, high)}) {
      for (const float value : {x, -x}) ASSERT_EQ(FloatBits(RoundedTo(value, Dtype::kF16)), std::bit_cast<uint32_t>(HalfToFloat(FloatToHalf(value)))) << value;
    }
  }
  test::Random random(3);
  for (int i = 0; i < 1'000'000; ++i) {
    const auto value = std::bit_cast<float>(random.Next());
    if (std::isnan(value)) continue;
    ASSERT_EQ(FloatBits(RoundedTo(value, Dtype::kBF16)), std::bit_cast<uint32_t>(BfloatToFloat(FloatToBfloat(value)))) << value;
    ASSERT_EQ(FloatBits(RoundedTo(value, Dtype::kF16)), std::bit_cast<uint32_t>(HalfToFloat(FloatToHalf(value)))) << value;
    const double fine = value * (1 + 1e-9 * random.Below(1000));
    if (std::abs(fine) < 3e38) {
      ASSERT_EQ(RoundedTo(fine, Dtype::kF32), static_cast<double>(static_cast<float>(fine))) << fine;
    }
  }
  for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16, Dtype::kF32}) {
    EXPECT_TRUE(std::isinf(RoundedTo(1e300, dtype)));
    EXPECT_TRUE(std::isnan(RoundedTo(std::numeric_limits<double>::quiet_NaN(), dtype)));
    EXPECT_TRUE(std::signbit(RoundedTo(-0.0, dtype)));
  }
}

}  // namespace
}  // namespace q2c
