// The exact comparison of tensors that are no part of a linear and are stored otherwise.
#include <gtest/gtest.h>

#include <limits>

#include "tests/unit/verify/packers.h"
#include "verify/compare.h"

namespace q2c {
namespace {

using test::Bytes;
using test::ExpectError;
using test::Must;
using test::Stored;
using test::StoredTensor;

Result<Compared> Hold(const StoredTensor& from, const StoredTensor& to, const std::string& action, const std::string& exactness) {
  const Stored source({from});
  const Stored output({to});
  Manifest manifest;
  manifest.tensors.push_back({to.name, *DtypeNamed(to.dtype), to.shape, "f", "", {from.name}, action, exactness});
  return CompareExact(*source, *output, manifest, {});
}

std::vector<float> Numbers(size_t count) {
  test::Random random(17);
  std::vector<float> numbers(count);
  for (float& number : numbers) number = (static_cast<float>(random.Below(2'000'001)) - 1'000'000.0F) / 777'777.0F;
  return numbers;
}
StoredTensor Singles(const std::string& name, std::vector<uint64_t> shape, const std::vector<float>& numbers) { return {name, "F32", std::move(shape), test::BytesOfWords(numbers)}; }
template <typename Narrow>
StoredTensor Narrowed(const std::string& name, const char* dtype, std::vector<uint64_t> shape, const std::vector<float>& numbers, Narrow narrow) {
  std::vector<uint16_t> halves;
  for (const float number : numbers) halves.push_back(narrow(number));
  return {name, dtype, std::move(shape), test::BytesOfWords(halves)};
}

// One bit anywhere must be found.
void ExpectFound(const StoredTensor& from, const StoredTensor& to, const std::string& action, const std::string& exactness) {
  test::Random random(3);
  for (int i = 0; i < 12; ++i) {
    StoredTensor wrong = to;
    const size_t at = i == 0 ? 0 : i == 1 ? wrong.bytes.size() - 1 : random.Below(static_cast<uint32_t>(wrong.bytes.size()));
    wrong.bytes[at] ^= static_cast<std::byte>(1U << random.Below(8));
    ExpectError(Hold(from, wrong, action, exactness), Code::kFindings, "exact-tensor", {"'" + to.name + "'"});
  }
}

TEST(CompareTensors, Cast) {
  const std::vector<float> numbers = Numbers(300'000);  // several pieces
  const StoredTensor half = Narrowed("a", "F16", {300'000}, numbers, FloatToHalf);
  std::vector<float> widened;
  for (const float number : numbers) widened.push_back(HalfToFloat(FloatToHalf(number)));
  const StoredTensor wide = Singles("b", {300'000}, widened);
  EXPECT_EQ(Must(Hold(half, wide, "cast", "same-values")).rounded_weights, 0U);
  ExpectFound(half, wide, "cast", "same-values");
  Must(Hold(wide, half, "cast", "same-values"));

  const StoredTensor single = Singles("b", {300'000}, numbers);
  ExpectError(Hold(single, half, "cast", "same-values"), Code::kFindings, "exact-tensor");
  const Compared compared = Must(Hold(single, half, "cast", "rounded"));
  EXPECT_EQ(compared.rounded_weights, 300'000U);
  EXPECT_EQ(compared.tensors, 1U);
  EXPECT_GT(compared.largest_error, 0);
  EXPECT_LE(compared.largest_error, 0x1p-11);
  ExpectFound(single, half, "cast", "rounded");
  Must(Hold(single, Narrowed("a", "BF16", {300'000}, numbers, FloatToBfloat), "cast", "rounded"));
  // Cut off, not rounded.
  const auto cut = [](float number) { return static_cast<uint16_t>(std::bit_cast<uint32_t>(number) >> 16U); };
  ExpectError(Hold(single, Narrowed("a", "BF16", {300'000}, numbers, cut), "cast", "rounded"), Code::kFindings, "exact-tensor");

  // Leading dimensions of 1 may go or come; others may not.
  StoredTensor shaped = half;
  shaped.shape = {1, 1, 300'000};
  Must(Hold(shaped, wide, "cast", "same-values"));
  Must(Hold(wide, shaped, "cast", "same-values"));
  shaped.shape = {300'000, 1};
  ExpectError(Hold(shaped, wide, "cast", "same-values"), Code::kFindings, "exact-tensor", {"shape"});
  shaped.shape = {2, 150'000};
  ExpectError(Hold(shaped, wide, "cast", "same-values"), Code::kFindings, "exact-tensor", {"shape"});
  ExpectError(Hold({"a", "I32", {300'000}, wide.bytes}, wide, "cast", "same-values"), Code::kFindings, "exact-tensor", {"not both floats"});
  // Beyond the range.
  ExpectError(Hold(Singles("a", {1}, {70000}), Narrowed("b", "F16", {1}, {70000}, FloatToHalf), "cast", "rounded"), Code::kFindings, "exact-tensor");
  // Another action does not look into the numbers.
  ExpectError(Hold(half, wide, "copy", "same-bytes"), Code::kFindings, "exact-tensor");
}

// As GGUF's reference quantiser does it, in its own words.
Bytes Quantised(const std::vector<float>& numbers) {
  Bytes bytes;
  for (size_t b = 0; b < numbers.size(); b += 32) {
    float largest = 0;
    for (size_t i = 0; i < 32; ++i) largest = std::max(largest, std::fabs(numbers[b + i]));
    const float d = largest / 127;
    const float id = d != 0 ? 1 / d : 0;
    const uint16_t half = FloatToHalf(d);
    bytes.push_back(static_cast<std::byte>(half & 255U));
    bytes.push_back(static_cast<std::byte>(half >> 8U));
    for (size_t i = 0; i < 32; ++i) bytes.push_back(static_cast<std::byte>(static_cast<int8_t>(std::round(numbers[b + i] * id))));
  }
  return bytes;
}

TEST(CompareTensors, Quantise) {
  std::vector<float> numbers = Numbers(320'000);
  std::fill_n(numbers.begin() + 64, 32, 0.0F);           // a block of nothing
  for (size_t i = 0; i < 32; ++i) numbers[96 + i] = (static_cast<float>(i) - 16) * 0.5F / 127;  // halves of a step
  numbers[96] = 1;
  const StoredTensor from = Singles("a", {1000, 320}, numbers);
  const StoredTensor to = {"b", "Q8_0", {1000, 320}, Quantised(numbers)};
  const Compared compared = Must(Hold(from, to, "quantise", "rounded"));
  EXPECT_EQ(compared.rounded_weights, 320'000U);
  EXPECT_LE(compared.largest_error, 1.3 / 127 * 0.5 * 1.2);
  EXPECT_GT(compared.relative_rms, 1e-4);
  EXPECT_LT(compared.relative_rms, 1e-2);
  ExpectFound(from, to, "quantise", "rounded");
  ExpectError(Hold(from, to, "quantise", "same-values"), Code::kFindings, "exact-tensor");
  StoredTensor away = from;
  Store<float>(away.bytes.data() + 400, std::numeric_limits<float>::infinity());
  ExpectError(Hold(away, to, "quantise", "rounded"), Code::kFindings, "exact-tensor", {"element 100"});
  StoredTensor other = to;
  other.shape = {320, 1000};
  ExpectError(Hold({"a", "F32", {320, 1000}, from.bytes}, {"b", "F16", {320, 1000}, Bytes(640'000)}, "quantise", "rounded"), Code::kFindings, "exact-tensor");
  // From halves.
  std::vector<float> halves;
  for (const float number : numbers) halves.push_back(HalfToFloat(FloatToHalf(number)));
  Must(Hold(Narrowed("a", "F16", {1000, 320}, numbers, FloatToHalf), {"b", "Q8_0", {1000, 320}, Quantised(halves)}, "quantise", "rounded"));
  // So small that the scale is no normal half, or none at all.
  for (const float small : {1e-3F, 1e-5F, 1e-8F, 1e-38F, 1e-42F}) {
    std::vector<float> few(numbers.begin(), numbers.begin() + 640);
    for (float& number : few) number *= small;
    const bool holds = 1 / (small / 127) < 3e38F;
    const Result<Compared> result = Hold(Singles("a", {2, 320}, few), {"b", "Q8_0", {2, 320}, holds ? Quantised(few) : Bytes(680)}, "quantise", "rounded");
    EXPECT_TRUE(result.ok()) << small << (result.ok() ? "" : " " + result.error().Text());
  }
}

TEST(CompareTensors, Dequantise) {
  test::Random random(8);
  for (const auto& [dtype, width] : std::vector<std::pair<const char*, size_t>>{{"Q8_0", 34}, {"Q4_0", 18}, {"Q4_1", 20}}) {
    const std::string kind = dtype;
    constexpr size_t kBlocks = 20'000;
    Bytes blocks = random.Fill(kBlocks * width);
    std::vector<float> numbers;
    for (size_t b = 0; b < kBlocks; ++b) {
      std::byte* block = blocks.data() + b * width;
      Store<uint16_t>(block, static_cast<uint16_t>(0x1000U + random.Below(0x4000)));
      if (kind == "Q4_1") Store<uint16_t>(block + 2, static_cast<uint16_t>(0x9000U + random.Below(0x3000)));
      const float d = HalfToFloat(Load<uint16_t>(block));
      const float m = HalfToFloat(Load<uint16_t>(block + 2));
      for (size_t j = 0; j < 32; ++j) {
        const int nibble = static_cast<int>(std::to_integer<uint32_t>(block[width - 16 + j % 16]) >> (j / 16 * 4)) & 15;
        if (kind == "Q8_0") numbers.push_back(d * static_cast<float>(static_cast<int8_t>(block[2 + j])));
        if (kind == "Q4_0") numbers.push_back(d * static_cast<float>(nibble - 8));
        if (kind == "Q4_1") numbers.push_back(d * static_cast<float>(nibble) + m);
      }
    }
    const StoredTensor from = {"a", kind, {100, kBlocks * 32 / 100}, blocks};
    const StoredTensor to = Singles("b", {100, kBlocks * 32 / 100}, numbers);
    Must(Hold(from, to, "dequantise", "same-values"));
    ExpectFound(from, to, "dequantise", "same-values");
    ExpectError(Hold(to, from, "dequantise", "same-values"), Code::kFindings, "exact-tensor");
  }
}

}  // namespace
}  // namespace q2c
