// Dense weights against scale·(code − zero) in double, rounded by looking for the nearest value there is.
#include "formats/layouts/dense.h"

#include <cmath>

#include "tests/unit/formats/layouts/content.h"

namespace q2c {
namespace {

using namespace test;  // NOLINT(google-build-using-namespace)

// The nearest 16-bit pattern to a value in range, the even one of two, by comparing distances.
uint16_t Nearest(double value, float (*widen)(uint16_t)) {
  const uint32_t sign = std::signbit(value) ? 0x8000U : 0;
  const double magnitude = std::abs(value);
  uint32_t low = 0;  // the largest pattern that is not above
  for (uint32_t step = 0x4000; step > 0; step /= 2) {
    if (widen(static_cast<uint16_t>(low + step)) <= magnitude) low += step;
  }
  const double below = magnitude - widen(static_cast<uint16_t>(low));
  const double above = static_cast<double>(widen(static_cast<uint16_t>(low + 1))) - magnitude;
  const bool up = above < below || (above == below && low % 2 == 1);
  return static_cast<uint16_t>(sign | (low + (up ? 1 : 0)));
}

TEST(Dense, EveryWeight) {
  for (const uint32_t bits : {2U, 3U, 4U, 8U}) {
    for (const Dtype dtype : {Dtype::kF16, Dtype::kBF16}) {
      for (const auto& [in, out, group, act_order] : std::vector<std::tuple<uint64_t, uint64_t, uint64_t, bool>>{
               {32, 8, 32, false}, {96, 32, 64, false}, {160, 7, 64, true}, {224, 16, 224, false}, {128, 16, 32, true}}) {
        const QuantLinear linear = RandomLinear(ShapeOf(in, out, group, bits), {.dtype = dtype, .act_order = act_order}, in + bits);
        const Bytes f16 = Write("dense-fp16", linear).bytes["weight"];
        const Bytes bf16 = Write("dense-bf16", linear).bytes["weight"];
        const Bytes f32 = Write("dense-fp32", linear).bytes["weight"];
        for (uint64_t n = 0; n < out; ++n) {
          for (uint64_t k = 0; k < in; ++k) {
            const double weight = WeightAt(linear, k, n);
            const uint64_t at = n * in + k;
            ASSERT_EQ(Load<float>(f32.data() + 4 * at), weight);
            ASSERT_EQ(HalfToFloat(Load<uint16_t>(f16.data() + 2 * at)), HalfToFloat(Nearest(weight, HalfToFloat)));
            ASSERT_EQ(BfloatToFloat(Load<uint16_t>(bf16.data() + 2 * at)), BfloatToFloat(Nearest(weight, BfloatToFloat)));
          }
        }
      }
    }
  }
}

TEST(Dense, OneOfTheFixture) {
  // w(17, 5) = 22/1024 · (9 − 8)
  const Written written = Write("dense-fp32", Fixture(ShapeOf(32, 8, 16, 4)));
  EXPECT_EQ(Load<float>(written.bytes.at("weight").data() + 4 * (5 * 32 + 17)), 0.021484375F);
}

TEST(Dense, WrittenOnly) {
  const QuantShape shape = ShapeOf(64, 32, 32, 4);
  for (const char* layout : {"dense-fp16", "dense-bf16", "dense-fp32"}) {
    Written written = Write(layout, Fixture(shape));
    EXPECT_FALSE(Must(Detect(written, shape)));
    ExpectError(DecodeTile(*written.layout, shape, written.Source(), kCodes, WholeOf(shape)), Code::kInternal, "internal");
  }
}

}  // namespace
}  // namespace q2c
