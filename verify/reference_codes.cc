// Where each layout keeps its codes.
#include <array>

#include "formats/base/text.h"
#include "verify/reference_parts.h"

namespace q2c {
namespace {

constexpr uint64_t kDense = 0;  // codes follow one another bit by bit, across the borders of words

enum class Words { kDownTheInputs, kAlongTheInputs };  // [words, N] or [N, words]

// The codes of an output fill a column or a row of words, lowest bits first.
Status StreamCodes(const StoredLinear& linear, std::string_view part, Words order, uint64_t per_word, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  const uint64_t bits = linear.bits;
  const uint64_t in = linear.in_features;
  const uint64_t length = per_word == kDense ? CeilDiv(in * bits, 32) : CeilDiv(in, per_word);
  const bool down = order == Words::kDownTheInputs;
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, part, kWordDtypes, down ? Shape{length, linear.out_features} : Shape{linear.out_features, length}));
  const auto bit_of = [&](uint64_t k) { return per_word == kDense ? k * bits : k / per_word * 32 + k % per_word * bits; };
  const uint64_t first = bit_of(tile.first_input) / 32;
  const uint64_t count = CeilDiv(bit_of(tile.first_input + tile.inputs - 1) + bits, 32) - first;
  const uint64_t outputs = tile.outputs;
  const Window window = down ? Window{first, count, tile.first_output, outputs} : Window{tile.first_output, outputs, first, count};
  QC_ASSIGN(std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *tensor, window));
  if (!down) words = Transposed(words, outputs, count);

  codes->resize(tile.inputs * outputs);
  const auto mask = static_cast<uint32_t>((1U << bits) - 1);
  for (uint64_t k = 0; k < tile.inputs; ++k) {
    const uint64_t bit = bit_of(tile.first_input + k);
    const uint32_t* low = words.data() + (bit / 32 - first) * outputs;
    const auto shift = static_cast<uint32_t>(bit % 32);
    uint8_t* out = codes->data() + k * outputs;
    if (shift + bits <= 32) {
      for (uint64_t n = 0; n < outputs; ++n) out[n] = static_cast<uint8_t>((low[n] >> shift) & mask);
    } else {
      const uint32_t* high = low + outputs;
      for (uint64_t n = 0; n < outputs; ++n) out[n] = static_cast<uint8_t>(((low[n] >> shift) | (high[n] << (32 - shift))) & mask);
    }
  }
  return {};
}

Status Unfit(const StoredLinear& linear, std::string_view what) {
  return Malformed("quant-shape", "linear '{}': {} inputs, {} outputs, groups of {}; layout '{}' needs {}", Escape(linear.name), linear.in_features, linear.out_features, linear.group_size, linear.layout, what);
}

// The block rows of a tile: `handle` gets the blocks of up to 64 outputs side by side, which
// stay in the first cache while their bytes are walked over across the outputs.
template <typename Handle>
Status ForBlocks(const StoredLinear& linear, Dtype dtype, const ReferenceTile& tile, std::vector<uint8_t>* codes, Handle handle) {
  constexpr uint64_t kBlock = 32;
  constexpr uint64_t kOutputs = 64;
  if (linear.in_features % kBlock != 0) return Unfit(linear, "a multiple of 32 inputs");
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "weight", {dtype}, {linear.out_features, linear.in_features}));
  const uint64_t width = InfoOf(tensor->dtype).bits / 8;
  const uint64_t first = tile.first_input / kBlock;
  const uint64_t count = CeilDiv(tile.first_input + tile.inputs, kBlock) - first;
  std::vector<std::byte> bytes(tile.outputs * count * width);
  QC_TRY(ReadWindow(linear, *tensor, {tile.first_output, tile.outputs, first, count}, bytes));
  codes->resize(tile.inputs * tile.outputs);
  for (uint64_t b = 0; b < count; ++b) {
    for (uint64_t n = 0; n < tile.outputs; n += kOutputs) {
      const std::byte* blocks = bytes.data() + (n * count + b) * width;
      handle(width, (first + b) * kBlock, blocks, count * width, n, std::min(kOutputs, tile.outputs - n));
    }
  }
  return {};
}

}  // namespace

Status GptqCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  if (linear.in_features * linear.bits % 32 != 0) return Unfit(linear, "inputs that fill whole words");
  return StreamCodes(linear, "qweight", Words::kDownTheInputs, kDense, tile, codes);
}

Status CompressedCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  return StreamCodes(linear, "weight_packed", Words::kAlongTheInputs, kDense, tile, codes);
}

Status PaddedCompressedCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  return StreamCodes(linear, "weight_packed", Words::kAlongTheInputs, 32 / linear.bits, tile, codes);
}

Status MlxCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  if (linear.in_features * linear.bits % 32 != 0) return Unfit(linear, "inputs that fill whole words");
  return StreamCodes(linear, "weight", Words::kAlongTheInputs, kDense, tile, codes);
}

Status AwqGemvCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  if (linear.in_features % 8 != 0) return Unfit(linear, "a multiple of 8 inputs");
  return StreamCodes(linear, "qweight", Words::kAlongTheInputs, kDense, tile, codes);
}

// qweight [K, N/8]: word (k, c) holds outputs 8c + 0, 2, 4, 6, 1, 3, 5, 7 from the lowest nibble up.
Status AwqGemmCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  constexpr std::array<uint8_t, 8> kOutputOfNibble = {0, 2, 4, 6, 1, 3, 5, 7};
  if (linear.out_features % 8 != 0) return Unfit(linear, "a multiple of 8 outputs");
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "qweight", kWordDtypes, {linear.in_features, linear.out_features / 8}));
  const uint64_t first = tile.first_output / 8;
  const uint64_t count = CeilDiv(tile.first_output + tile.outputs, 8) - first;
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *tensor, {tile.first_input, tile.inputs, first, count}));
  codes->resize(tile.inputs * tile.outputs);
  std::vector<uint8_t> row(8 * count);  // the outputs of the whole words
  for (uint64_t k = 0; k < tile.inputs; ++k) {
    const uint32_t* word = words.data() + k * count;
    for (uint64_t c = 0; c < count; ++c) {
      for (uint32_t p = 0; p < 8; ++p) row[8 * c + kOutputOfNibble[p]] = static_cast<uint8_t>((word[c] >> (4 * p)) & 15U);
    }
    std::copy_n(row.data() + tile.first_output % 8, tile.outputs, codes->data() + k * tile.outputs);
  }
  return {};
}

// qweight I16 [N/4, K].
Status AwqFastCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  if (linear.out_features % 4 != 0 || linear.in_features % 64 != 0) return Unfit(linear, "a multiple of 4 outputs and of 64 inputs");
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "qweight", kShortDtypes, {linear.out_features / 4, linear.in_features}));
  const uint64_t first_row = tile.first_output / 4;
  const uint64_t rows = CeilDiv(tile.first_output + tile.outputs, 4) - first_row;
  const uint64_t first_column = tile.first_input / 64 * 64;
  const uint64_t columns = CeilDiv(tile.first_input + tile.inputs, 64) * 64 - first_column;
  QC_ASSIGN(const std::vector<uint16_t> words, ReadWords<uint16_t>(linear, *tensor, {first_row, rows, first_column, columns}));
  codes->resize(tile.inputs * tile.outputs);
  for (uint64_t i = 0; i < tile.inputs; ++i) {
    const uint64_t k = tile.first_input + i;
    const uint64_t nibble = k / 8 % 4;
    for (uint64_t j = 0; j < tile.outputs; ++j) {
      const uint64_t n = tile.first_output + j;
      const uint64_t column = k / 64 * 64 + n % 4 * 16 + k / 32 % 2 * 8 + k / 2 % 4 * 2 + k % 2;
      const uint32_t word = words[(n / 4 - first_row) * columns + column - first_column];
      (*codes)[i * tile.outputs + j] = static_cast<uint8_t>((word >> (4 * nibble)) & 15U);
    }
  }
  return {};
}

// B [K/16, 2N]: squares of 16 inputs and 64 outputs, dealt out to the lanes of a warp.
Status MarlinCodes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  if (linear.in_features % 16 != 0 || linear.out_features % 64 != 0) return Unfit(linear, "a multiple of 16 inputs and of 64 outputs");
  QC_ASSIGN(const TensorInfo* tensor, Part(linear, "B", kWordDtypes, {linear.in_features / 16, 2 * linear.out_features}));
  const uint64_t first_row = tile.first_input / 16;
  const uint64_t rows = CeilDiv(tile.first_input + tile.inputs, 16) - first_row;
  const uint64_t first_column = tile.first_output / 64 * 128;
  const uint64_t columns = CeilDiv(tile.first_output + tile.outputs, 64) * 128 - first_column;
  QC_ASSIGN(const std::vector<uint32_t> words, ReadWords<uint32_t>(linear, *tensor, {first_row, rows, first_column, columns}));
  codes->resize(tile.inputs * tile.outputs);
  for (uint64_t i = 0; i < tile.inputs; ++i) {
    const uint64_t k = tile.first_input + i;
    for (uint64_t j = 0; j < tile.outputs; ++j) {
      const uint64_t n = tile.first_output + j;
      const uint64_t lane = n % 8 * 4 + k % 8 / 2;
      const uint64_t column = n / 64 * 128 + lane * 4 + n / 16 % 4;
      const uint64_t nibble = k % 2 * 4 + n / 8 % 2 * 2 + k / 8 % 2;
      const uint32_t word = words[(k / 16 - first_row) * columns + column - first_column];
      (*codes)[i * tile.outputs + j] = static_cast<uint8_t>((word >> (4 * nibble)) & 15U);
    }
  }
  return {};
}

// Q4_0: f16 d, Q4_1: f16 d and m; then 16 bytes, byte j holding inputs j and j + 16.
Status Q4Codes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  const Dtype dtype = linear.layout == "gguf-q4_0" ? Dtype::kQ4_0 : Dtype::kQ4_1;
  return ForBlocks(linear, dtype, tile, codes, [&](uint64_t width, uint64_t k, const std::byte* blocks, uint64_t stride, uint64_t n, uint64_t outputs) {
    for (uint64_t j = 0; j < 16; ++j) {
      const std::byte* in = blocks + (width - 16) + j;
      for (uint64_t half = 0; half < 2; ++half) {
        const uint64_t input = k + j + 16 * half - tile.first_input;  // wraps below the tile
        if (input >= tile.inputs) continue;
        uint8_t* out = codes->data() + input * tile.outputs + n;
        for (uint64_t i = 0; i < outputs; ++i) out[i] = static_cast<uint8_t>((std::to_integer<uint32_t>(in[i * stride]) >> (4 * half)) & 15U);
      }
    }
  });
}

// f16 d, then 32 signed bytes; −128 is code 0.
Status Q8Codes(const StoredLinear& linear, const ReferenceTile& tile, std::vector<uint8_t>* codes) {
  return ForBlocks(linear, Dtype::kQ8_0, tile, codes, [&](uint64_t width, uint64_t k, const std::byte* blocks, uint64_t stride, uint64_t n, uint64_t outputs) {
    for (uint64_t j = 0; j < 32; ++j) {
      const uint64_t input = k + j - tile.first_input;  // wraps below the tile
      if (input >= tile.inputs) continue;
      const std::byte* in = blocks + (width - 32) + j;
      uint8_t* out = codes->data() + input * tile.outputs + n;
      for (uint64_t i = 0; i < outputs; ++i) out[i] = static_cast<uint8_t>(std::to_integer<uint32_t>(in[i * stride]) + 128U);
    }
  });
}

}  // namespace q2c
