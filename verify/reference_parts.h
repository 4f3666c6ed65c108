// How the reference gets at the tensors of a linear: checked for dtype and shape, read in
// windows, words and floats as numbers.
#pragma once

#include <algorithm>
#include <initializer_list>

#include "verify/reference.h"

namespace q2c {

struct Columns {
  uint64_t first = 0;
  uint64_t count = 0;
};

// What a description consists of. A function reads what it is asked for and nothing else.
using CodesFn = Status (*)(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
// Fills zeros (or offsets) and scales for a range of outputs; group_index only if it is not trivial.
using ParametersFn = Status (*)(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);

// reference_codes.cc
Status GptqCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status CompressedCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status PaddedCompressedCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status MlxCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status AwqGemmCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status AwqGemvCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status AwqFastCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status MarlinCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status Q4Codes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);
Status Q8Codes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes);

// reference_parameters.cc
Status GptqV1Parameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status GptqV2Parameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status CompressedParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status PaddedCompressedParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status MlxParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status AwqGemmParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status AwqGemvParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status AwqFastParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status MarlinParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);
Status BlockParameters(const StoredLinear& linear, Columns outputs, ReferenceParameters* parameters);

inline uint64_t GroupsOf(const StoredLinear& linear) { return CeilDiv(linear.in_features, linear.group_size); }

// A tensor of the linear, of one of these dtypes and of exactly this shape.
Result<const TensorInfo*> Part(const StoredLinear& linear, std::string_view suffix, std::initializer_list<Dtype> dtypes, const Shape& shape);
const TensorInfo* FindPart(const StoredLinear& linear, std::string_view suffix);

inline constexpr std::initializer_list<Dtype> kWordDtypes = {Dtype::kI32, Dtype::kU32};
inline constexpr std::initializer_list<Dtype> kShortDtypes = {Dtype::kI16, Dtype::kU16};
inline constexpr std::initializer_list<Dtype> kFloatDtypes = {Dtype::kF16, Dtype::kBF16, Dtype::kF32};

// Rows and columns of a two-dimensional tensor, columns in elements, or in blocks of a block type.
struct Window {
  uint64_t row = 0;
  uint64_t rows = 0;
  uint64_t column = 0;
  uint64_t columns = 0;
};
Status ReadWindow(const StoredLinear& linear, const TensorInfo& tensor, const Window& window, MutableBytes out);
template <typename T>
Result<std::vector<T>> ReadWords(const StoredLinear& linear, const TensorInfo& tensor, const Window& window) {
  std::vector<T> words(window.rows * window.columns);
  QC_TRY(ReadWindow(linear, tensor, window, std::as_writable_bytes(std::span(words))));
  return words;
}
// Widened to float32 bit patterns.
Result<std::vector<uint32_t>> ReadFloats(const StoredLinear& linear, const TensorInfo& tensor, const Window& window);
std::vector<uint32_t> WidenBits(ByteView bytes, Dtype dtype);

// [rows][columns] -> [columns][rows], in squares that stay in the cache.
template <typename T>
void Transpose(const T* from, uint64_t rows, uint64_t columns, T* to) {
  constexpr uint64_t kSide = 16;
  for (uint64_t r0 = 0; r0 < rows; r0 += kSide) {
    const uint64_t r1 = std::min(rows, r0 + kSide);
    for (uint64_t c0 = 0; c0 < columns; c0 += kSide) {
      const uint64_t c1 = std::min(columns, c0 + kSide);
      for (uint64_t c = c0; c < c1; ++c) {
        for (uint64_t r = r0; r < r1; ++r) to[c * rows + r] = from[r * columns + c];
      }
    }
  }
}
template <typename T>
std::vector<T> Transposed(const std::vector<T>& from, uint64_t rows, uint64_t columns) {
  std::vector<T> to(from.size());
  Transpose(from.data(), rows, columns, to.data());
  return to;
}

}  // namespace q2c
