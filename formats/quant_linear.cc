#include "formats/quant_linear.h"

#include "formats/base/bytes.h"

namespace q2c {
namespace {

// Widths that never straddle a word: a loop the compiler vectorises.
template <uint32_t kBits>
void UnpackWords(const uint32_t* words, uint64_t count, uint8_t* codes) {
  constexpr uint32_t kPerWord = 32 / kBits;
  constexpr auto kMask = static_cast<uint8_t>((1U << kBits) - 1);
  for (uint64_t w = 0; w < count; ++w) {
    for (uint32_t i = 0; i < kPerWord; ++i) codes[w * kPerWord + i] = static_cast<uint8_t>(words[w] >> (kBits * i)) & kMask;
  }
}

template <typename T>
std::vector<T> RepeatRows(const std::vector<T>& rows, uint64_t row, uint64_t groups, uint64_t size, uint64_t old_size) {
  std::vector<T> out(groups * row);
  for (uint64_t g = 0; g < groups; ++g) {
    const auto from = rows.begin() + static_cast<std::ptrdiff_t>(g * size / old_size * row);
    std::copy(from, from + static_cast<std::ptrdiff_t>(row), out.begin() + static_cast<std::ptrdiff_t>(g * row));
  }
  return out;
}

// The same columns of every row; `width` entries a column.
template <typename T>
void CutColumns(uint64_t first, uint64_t count, uint64_t all, uint64_t width, std::vector<T>* rows) {
  if (count == all) return;
  std::vector<T> out;
  out.reserve(rows->size() / all * count);
  for (size_t row = 0; row < rows->size(); row += all * width) {
    const auto from = rows->begin() + static_cast<std::ptrdiff_t>(row + first * width);
    out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(count * width));
  }
  *rows = std::move(out);
}

}  // namespace

void CutOutputs(uint64_t first, uint64_t count, QuantLinear* linear) {
  QuantShape& shape = linear->shape;
  const uint64_t all = shape.out_features;
  if (count == all) return;
  const uint64_t words = linear->codes.size() / all;
  if (words > 0) linear->codes = {linear->codes.begin() + static_cast<std::ptrdiff_t>(first * words), linear->codes.begin() + static_cast<std::ptrdiff_t>((first + count) * words)};
  CutColumns(first, count, all, 1, &linear->zeros);
  CutColumns(first, count, all, 1, &linear->offsets);
  CutColumns(first, count, all, InfoOf(linear->scale_dtype).bits / 8, &linear->scales);
  shape.out_features = count;
}

void SplitGroups(uint64_t group_size, QuantLinear* linear) {
  QuantShape& shape = linear->shape;
  if (group_size == shape.group_size) return;
  const uint64_t groups = CeilDiv(shape.in_features, group_size);
  const uint64_t outputs = shape.out_features;
  if (!linear->offsets.empty()) linear->offsets = RepeatRows(linear->offsets, outputs, groups, group_size, shape.group_size);
  if (!linear->zeros.empty()) linear->zeros = RepeatRows(linear->zeros, outputs, groups, group_size, shape.group_size);
  if (!linear->scales.empty()) {
    linear->scales = RepeatRows(linear->scales, outputs * InfoOf(linear->scale_dtype).bits / 8, groups, group_size, shape.group_size);
  }
  for (size_t k = 0; k < linear->group_index.size(); ++k) linear->group_index[k] = static_cast<int32_t>(k / group_size);
  shape.groups = groups;
  shape.group_size = group_size;
}

void UnpackRow(const QuantLinear& linear, uint64_t output, uint8_t* codes) {
  const QuantShape& s = linear.shape;
  const uint64_t count = s.WordsPerRow();
  const uint32_t* words = linear.codes.data() + output * count;
  if (s.bits == 4) return UnpackWords<4>(words, count, codes);
  if (s.bits == 8) return UnpackWords<8>(words, count, codes);
  if (s.bits == 2) return UnpackWords<2>(words, count, codes);
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint64_t k = 0; k < s.in_features; ++k) {
    if (have < s.bits) {
      pending |= uint64_t{*words++} << have;
      have += 32;
    }
    codes[k] = static_cast<uint8_t>(pending & s.MaxCode());
    pending >>= s.bits;
    have -= s.bits;
  }
}

void PackRow(const uint8_t* codes, uint64_t output, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  uint32_t* words = linear->codes.data() + output * s.WordsPerRow();
  uint64_t pending = 0;
  uint32_t have = 0;
  for (uint64_t k = 0; k < s.in_features; ++k) {
    pending |= uint64_t{codes[k]} << have;
    have += s.bits;
    if (have < 32) continue;
    *words++ = static_cast<uint32_t>(pending);
    pending >>= 32U;
    have -= 32;
  }
}

}  // namespace q2c
