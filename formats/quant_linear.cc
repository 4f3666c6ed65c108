#include "formats/quant_linear.h"

#include <algorithm>
#include <cstring>

#include "formats/base/bytes.h"

namespace q2c {
namespace {

// Eight codes of 4 bits at a time: halves are moved apart until each has a byte.
void UnpackNibbles(const uint32_t* words, uint64_t count, uint8_t* codes) {
  for (uint64_t w = 0; w < count; ++w) {
    uint64_t spread = words[w];
    spread = (spread | (spread << 16U)) & 0x0000FFFF0000FFFFU;
    spread = (spread | (spread << 8U)) & 0x00FF00FF00FF00FFU;
    spread = (spread | (spread << 4U)) & 0x0F0F0F0F0F0F0F0FU;
    Store(reinterpret_cast<std::byte*>(codes + 8 * w), spread);  // NOLINT: codes are bytes
  }
}

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

// [rows][columns] -> the given columns of each row.
template <typename T>
void TakeColumns(const std::vector<uint32_t>& columns, uint64_t width, uint64_t element, std::vector<T>* values) {
  if (values->empty()) return;
  const std::vector<T> old = *values;
  const uint64_t rows = old.size() / (width * element);
  values->resize(rows * columns.size() * element);
  for (uint64_t r = 0; r < rows; ++r) {
    for (uint64_t c = 0; c < columns.size(); ++c) {
      std::copy_n(old.begin() + static_cast<std::ptrdiff_t>((r * width + columns[c]) * element), element, values->begin() + static_cast<std::ptrdiff_t>((r * columns.size() + c) * element));
    }
  }
}

// [rows][old] -> [rows][more], what is new being `value`; `rows` may grow as well.
template <typename T>
void Grow(uint64_t old, uint64_t more, uint64_t rows, T value, std::vector<T>* values) {
  std::vector<T> grown(rows * more, value);
  for (uint64_t r = 0; old > 0 && r < values->size() / old; ++r) {
    std::copy_n(values->begin() + static_cast<std::ptrdiff_t>(r * old), old, grown.begin() + static_cast<std::ptrdiff_t>(r * more));
  }
  *values = std::move(grown);
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

void ReorderInputs(const std::vector<uint32_t>& order, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  if (!linear->codes.empty()) {
    std::vector<uint8_t> row(s.in_features);
    std::vector<uint8_t> ordered(s.in_features);
    for (uint64_t n = 0; n < s.out_features; ++n) {
      UnpackRow(*linear, n, row.data());
      for (uint64_t k = 0; k < s.in_features; ++k) ordered[k] = row[order[k]];
      PackRow(ordered.data(), n, linear);
    }
  }
  TakeColumns(order, s.in_features, 1, &linear->group_index);
}

void ReorderOutputs(const std::vector<uint32_t>& order, QuantLinear* linear) {
  const QuantShape& s = linear->shape;
  if (!linear->codes.empty()) {
    const std::vector<uint32_t> old = linear->codes;
    const uint64_t words = s.WordsPerRow();
    for (uint64_t n = 0; n < s.out_features; ++n) std::copy_n(old.begin() + static_cast<std::ptrdiff_t>(order[n] * words), words, linear->codes.begin() + static_cast<std::ptrdiff_t>(n * words));
  }
  TakeColumns(order, s.out_features, 1, &linear->zeros);
  TakeColumns(order, s.out_features, 1, &linear->offsets);
  TakeColumns(order, s.out_features, InfoOf(linear->scale_dtype).bits / 8, &linear->scales);
}

void Pad(const Padding& padding, const PaddedParts& parts, const std::vector<uint16_t>& last_zeros, QuantLinear* linear) {
  constexpr float kScale = 0x1p-10F;  // a number of every float type
  QuantShape& s = linear->shape;
  const QuantShape old = s;
  const auto middle = static_cast<uint8_t>(old.MidCode());
  if (parts.codes) {
    // Up to here reaches the last group there was.
    const uint64_t completed = CeilDiv(padding.all_inputs, padding.group_size) * padding.group_size;
    const uint64_t end = completed > padding.first_input ? std::min(padding.inputs, completed - padding.first_input) : 0;
    QuantLinear grown;
    grown.shape = old;
    grown.shape.in_features = padding.inputs;
    grown.shape.out_features = padding.outputs;
    grown.codes.resize(grown.shape.WordsPerRow() * padding.outputs);
    std::vector<uint8_t> row(padding.inputs);
    for (uint64_t n = 0; n < padding.outputs; ++n) {
      std::ranges::fill(row, middle);
      if (n < old.out_features && old.in_features > 0) UnpackRow(*linear, n, row.data());
      for (uint64_t k = old.in_features; n < old.out_features && k < end; ++k) row[k] = static_cast<uint8_t>(last_zeros[n]);
      PackRow(row.data(), n, &grown);
    }
    linear->codes = std::move(grown.codes);
  }
  if (parts.zeros) Grow(old.out_features, padding.outputs, padding.groups, static_cast<uint16_t>(middle), &linear->zeros);
  if (parts.zeros && (linear->nearest_zeros || !linear->offsets.empty())) Grow(old.out_features, padding.outputs, padding.groups, -kScale * static_cast<float>(middle), &linear->offsets);
  if (parts.scales) {
    const auto grow = [&](auto value) {
      std::vector<decltype(value)> scales(linear->scales.size() / sizeof(value));
      std::memcpy(scales.data(), linear->scales.data(), linear->scales.size());
      Grow(old.out_features, padding.outputs, padding.groups, value, &scales);
      const ByteView bytes = AsBytes(scales);
      linear->scales.assign(bytes.begin(), bytes.end());
    };
    constexpr uint16_t kHalf = 0x1400;
    constexpr uint16_t kBfloat = 0x3A80;
    if (linear->scale_dtype == Dtype::kF32) grow(kScale);
    else grow(linear->scale_dtype == Dtype::kF16 ? kHalf : kBfloat);
  }
  for (uint64_t k = linear->group_index.size(); parts.group_index && k < padding.inputs; ++k) linear->group_index.push_back(static_cast<int32_t>(k / padding.group_size));
  s.in_features = padding.inputs;
  s.out_features = padding.outputs;
  s.groups = padding.groups;
  s.group_size = padding.group_size;
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
  if (s.bits == 4) return UnpackNibbles(words, count, codes);
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
