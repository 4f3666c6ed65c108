// A linear and the plainest packer there is for each layout: one formula each, from a place
// to what it holds, where the reference goes from what is sought to its place.
#pragma once

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "formats/base/half.h"
#include "formats/checkpoint.h"
#include "formats/manifest.h"
#include "tests/unit/support/results.h"
#include "tests/unit/support/stored.h"
#include "tests/unit/support/temp_folder.h"

namespace q2c::test {

struct Logical {
  uint64_t in = 256;
  uint64_t out = 256;
  uint64_t group_size = 128;
  uint64_t bits = 4;
  std::function<uint32_t(uint64_t k, uint64_t n)> code;
  std::function<uint32_t(uint64_t g, uint64_t n)> zero;
  std::function<uint16_t(uint64_t g, uint64_t n)> scale;  // a half
  uint64_t groups() const { return CeilDiv(in, group_size); }
  uint32_t middle() const { return 1U << (bits - 1); }
};

// The formulas of the published test vectors.
inline uint16_t FixtureScale(uint64_t g, uint64_t n) { return FloatToHalf(static_cast<float>(1 + n % 61 + 16 * (g % 8)) / 1024); }
inline Logical Fixture(uint64_t bits, uint64_t group_size = 128, bool symmetric = false, uint64_t in = 256, uint64_t out = 256) {
  const uint64_t mask = (1U << bits) - 1;
  Logical linear{in, out, group_size, bits, nullptr, nullptr, FixtureScale};
  linear.code = [bits, mask](uint64_t k, uint64_t n) { return static_cast<uint32_t>(bits == 8 ? (37 * k + 91 * n + k * n) % 256 : (5 * k + 3 * n + k * n / 4) % 16 & mask); };
  linear.zero = [=](uint64_t g, uint64_t n) { return symmetric ? 1U << (bits - 1) : static_cast<uint32_t>(1 + (3 * n + 7 * g) % mask); };
  return linear;
}
// Every value of a code at every input and every output, every zero point with them.
inline Logical Sweep(uint64_t bits, uint64_t group_size, bool symmetric, uint64_t in, uint64_t out) {
  const uint64_t mask = (1U << bits) - 1;
  Logical linear{in, out, group_size, bits, nullptr, nullptr, FixtureScale};
  linear.code = [mask](uint64_t k, uint64_t n) { return static_cast<uint32_t>((k + n) & mask); };
  linear.zero = [=](uint64_t g, uint64_t n) { return symmetric ? 1U << (bits - 1) : static_cast<uint32_t>((g + n) & mask); };
  return linear;
}

inline void PutHalf(Bytes* bytes, uint64_t at, uint16_t half) { Store<uint16_t>(bytes->data() + 2 * at, half); }
inline uint16_t OffsetOf(const Logical& l, uint64_t g, uint64_t n) {
  const uint32_t zero = l.zero(g, n);
  return zero == 0 ? uint16_t{0} : FloatToHalf(-HalfToFloat(l.scale(g, n)) * static_cast<float>(zero));
}

// Floats of every group and output, at place(g, n) of `count`.
template <typename Value, typename Place>
Bytes Halves(const Logical& l, uint64_t count, Value value, Place place) {
  Bytes bytes(2 * count);
  for (uint64_t g = 0; g < l.groups(); ++g) {
    for (uint64_t n = 0; n < l.out; ++n) PutHalf(&bytes, place(g, n), value(g, n));
  }
  return bytes;
}

// [N, words] rows of codes, one bit after another or so many a word.
inline Bytes RowsOfCodes(const Logical& l, uint64_t per_word = 0) {
  const uint64_t words = per_word == 0 ? CeilDiv(l.in * l.bits, 32) : CeilDiv(l.in, per_word);
  Bytes bytes(4 * words * l.out);
  for (uint64_t n = 0; n < l.out; ++n) {
    for (uint64_t k = 0; k < l.in; ++k) {
      const uint64_t bit = per_word == 0 ? k * l.bits : k / per_word * 32 + k % per_word * l.bits;
      PutField(&bytes, bit, l.bits, l.code(k, n), [&](uint64_t word) { return n * words + word; });
    }
  }
  return bytes;
}

inline std::vector<StoredTensor> PackGptq(const Logical& l, uint32_t minus) {
  Bytes qweight(l.in * l.bits / 8 * l.out);
  Bytes qzeros(l.groups() * l.out * l.bits / 8);
  std::vector<int32_t> g_idx;
  for (uint64_t k = 0; k < l.in; ++k) {
    g_idx.push_back(static_cast<int32_t>(k / l.group_size));
    for (uint64_t n = 0; n < l.out; ++n) PutCode(&qweight, l.bits, l.out, k, n, l.code(k, n));
  }
  for (uint64_t g = 0; g < l.groups(); ++g) {
    for (uint64_t n = 0; n < l.out; ++n) PutZeroField(&qzeros, l.bits, l.out, g, n, l.zero(g, n) - minus);
  }
  return {{"l.qweight", "I32", {l.in * l.bits / 32, l.out}, qweight}, {"l.qzeros", "I32", {l.groups(), l.out * l.bits / 32}, qzeros},
          {"l.scales", "F16", {l.groups(), l.out}, Halves(l, l.groups() * l.out, l.scale, [&](uint64_t g, uint64_t n) { return g * l.out + n; })}, {"l.g_idx", "I32", {l.in}, BytesOfWords(g_idx)}};
}

inline std::vector<StoredTensor> PackCompressed(const Logical& l, bool symmetric, uint64_t per_word = 0) {
  const uint64_t words = per_word == 0 ? CeilDiv(l.in * l.bits, 32) : CeilDiv(l.in, per_word);
  const uint64_t rows = per_word == 0 ? CeilDiv(l.out * l.bits, 32) : CeilDiv(l.out, per_word);
  std::vector<StoredTensor> parts = {{"l.weight_packed", "I32", {l.out, words}, RowsOfCodes(l, per_word)},
                                     {"l.weight_scale", "F16", {l.out, l.groups()}, Halves(l, l.groups() * l.out, l.scale, [&](uint64_t g, uint64_t n) { return n * l.groups() + g; })},
                                     {"l.weight_shape", "I64", {2}, BytesOfWords(std::vector<uint64_t>{l.out, l.in})}};
  if (symmetric) return parts;
  Bytes zeros(4 * rows * l.groups());
  for (uint64_t g = 0; g < l.groups(); ++g) {
    for (uint64_t n = 0; n < l.out; ++n) {
      const uint64_t bit = per_word == 0 ? n * l.bits : n / per_word * 32 + n % per_word * l.bits;
      PutField(&zeros, bit, l.bits, l.zero(g, n), [&](uint64_t word) { return word * l.groups() + g; });
    }
  }
  parts.push_back({"l.weight_zero_point", "I32", {rows, l.groups()}, zeros});
  return parts;
}

inline std::vector<StoredTensor> PackAwqGemm(const Logical& l) {
  const std::vector<uint64_t> order = {0, 2, 4, 6, 1, 3, 5, 7};
  const auto words = [&](uint64_t rows, const auto& value) {
    std::vector<uint32_t> out(rows * l.out / 8);
    for (uint64_t i = 0; i < out.size(); ++i) {
      for (uint64_t p = 0; p < 8; ++p) out[i] |= value(i / (l.out / 8), i % (l.out / 8) * 8 + order[p]) << (4 * p);
    }
    return BytesOfWords(out);
  };
  return {{"l.qweight", "I32", {l.in, l.out / 8}, words(l.in, l.code)}, {"l.qzeros", "I32", {l.groups(), l.out / 8}, words(l.groups(), l.zero)},
          {"l.scales", "F16", {l.groups(), l.out}, Halves(l, l.groups() * l.out, l.scale, [&](uint64_t g, uint64_t n) { return g * l.out + n; })}};
}

inline uint64_t ZeroWordsOf(const Logical& l) {
  uint64_t words = (l.groups() + 7) / 8;
  while (words % (l.group_size == 32 ? 4 : l.group_size == 64 ? 2 : 1) != 0) ++words;
  return words;
}

inline std::vector<StoredTensor> PackAwqGemv(const Logical& l) {
  const uint64_t words = ZeroWordsOf(l);
  Bytes zeros(4 * words * l.out);
  for (uint64_t n = 0; n < l.out; ++n) {
    for (uint64_t g = 0; g < l.groups(); ++g) PutField(&zeros, 4 * g, 4, l.zero(g, n), [&](uint64_t word) { return n * words + word; });
  }
  return {{"l.qweight", "I32", {l.out, l.in / 8}, RowsOfCodes(l)}, {"l.qzeros", "I32", {l.out, words}, zeros},
          {"l.scales", "F16", {l.out, 8 * words}, Halves(l, 8 * words * l.out, l.scale, [&](uint64_t g, uint64_t n) { return n * 8 * words + g; })}};
}

inline std::vector<StoredTensor> PackAwqFast(const Logical& l) {
  std::vector<uint16_t> words(l.out / 4 * l.in);
  for (uint64_t i = 0; i < words.size(); ++i) {
    const uint64_t column = i % l.in;
    for (uint64_t p = 0; p < 4; ++p) {
      const uint64_t k = column / 64 * 64 + column / 8 % 2 * 32 + p * 8 + column % 8;
      words[i] = static_cast<uint16_t>(words[i] | l.code(k, i / l.in * 4 + column % 64 / 16) << (4 * p));
    }
  }
  const uint64_t rows = 8 * ZeroWordsOf(l);
  const auto place = [&](uint64_t g, uint64_t n) { return g * l.out + n; };
  return {{"l.qweight", "I16", {l.out / 4, l.in}, BytesOfWords(words)}, {"l.scales", "F16", {rows, l.out}, Halves(l, rows * l.out, l.scale, place)},
          {"l.qzeros", "F16", {rows, l.out}, Halves(l, rows * l.out, [&](uint64_t g, uint64_t n) { return OffsetOf(l, g, n); }, place)}};
}

inline std::vector<StoredTensor> PackMarlin(const Logical& l) {
  std::vector<uint32_t> words(l.in / 16 * 2 * l.out);
  for (uint64_t i = 0; i < words.size(); ++i) {
    const uint64_t row = i / (2 * l.out);
    const uint64_t column = i % (2 * l.out);
    const uint64_t lane = column % 128 / 4;
    for (uint64_t p = 0; p < 8; ++p) {
      const uint64_t k = 16 * row + lane % 4 * 2 + (p < 4 ? 0 : 1) + (p % 2 == 1 ? 8 : 0);
      const uint64_t n = column / 128 * 64 + lane / 4 + column % 4 * 16 + (p % 4 >= 2 ? 8 : 0);
      words[i] |= l.code(k, n) << (4 * p);
    }
  }
  const std::vector<uint64_t> single = {0, 1, 8, 9, 16, 17, 24, 25, 2, 3, 10, 11, 18, 19, 26, 27, 4, 5, 12, 13, 20, 21, 28, 29, 6, 7, 14, 15, 22, 23, 30, 31};
  std::vector<uint16_t> scales;
  for (uint64_t g = 0; g < l.groups(); ++g) {
    for (uint64_t i = 0; i < l.out; ++i) scales.push_back(l.scale(g, l.groups() > 1 ? i / 64 * 64 + i % 8 * 8 + i % 64 / 8 : i / 32 * 32 + single[i % 32]));
  }
  return {{"l.B", "I32", {l.in / 16, 2 * l.out}, BytesOfWords(words)}, {"l.s", "F16", {l.groups(), l.out}, BytesOfWords(scales)}};
}

inline std::vector<StoredTensor> PackMlx(const Logical& l) {
  const auto place = [&](uint64_t g, uint64_t n) { return n * l.groups() + g; };
  return {{"l.weight", "U32", {l.out, l.in * l.bits / 32}, RowsOfCodes(l)}, {"l.scales", "F16", {l.out, l.groups()}, Halves(l, l.groups() * l.out, l.scale, place)},
          {"l.biases", "F16", {l.out, l.groups()}, Halves(l, l.groups() * l.out, [&](uint64_t g, uint64_t n) { return OffsetOf(l, g, n); }, place)}};
}

// Blocks of 32 inputs, as raw bytes: Q4_0, Q4_1 or Q8_0, holding code(k, n) as it is.
inline Bytes PackBlocks(const Logical& l, Dtype dtype, const std::function<int(uint64_t k, uint64_t n)>& code) {
  Bytes bytes;
  const auto half = [&](uint16_t value) {
    bytes.push_back(static_cast<std::byte>(value & 0xFFU));
    bytes.push_back(static_cast<std::byte>(value >> 8U));
  };
  for (uint64_t n = 0; n < l.out; ++n) {
    for (uint64_t k = 0; k < l.in; k += 32) {
      half(l.scale(k / l.group_size, n));
      if (dtype == Dtype::kQ4_1) half(OffsetOf(l, k / l.group_size, n));
      for (uint64_t j = 0; j < (dtype == Dtype::kQ8_0 ? 32U : 16U); ++j) {
        bytes.push_back(static_cast<std::byte>(dtype == Dtype::kQ8_0 ? code(k + j, n) : code(k + j, n) + 16 * code(k + j + 16, n)));
      }
    }
  }
  return bytes;
}

// A checkpoint of these tensors. Blocks are stored as bytes and then called what they are: no
// container of blocks is needed to test what is in them.
class Stored {
 public:
  explicit Stored(const std::vector<StoredTensor>& tensors) {
    std::vector<StoredTensor> plain = tensors;
    for (StoredTensor& tensor : plain) {
      const DtypeInfo& info = InfoOf(*DtypeNamed(tensor.dtype));
      if (info.block == 1) continue;
      tensor.shape = {tensor.bytes.size()};
      tensor.dtype = "U8";
    }
    WriteWhole(folder_ / "model.safetensors", Safetensors(plain));
    checkpoint_ = std::make_unique<Checkpoint>(Must(Checkpoint::Open(folder_.path(), Links::kRefuse)));
    for (const StoredTensor& tensor : tensors) {
      auto& info = const_cast<TensorInfo&>(*checkpoint_->Find(tensor.name));
      info.dtype = *DtypeNamed(tensor.dtype);
      info.shape = tensor.shape;
    }
  }
  const Checkpoint& operator*() const { return *checkpoint_; }
  const Checkpoint* get() const { return checkpoint_.get(); }

 private:
  TempFolder folder_;
  std::unique_ptr<Checkpoint> checkpoint_;
};

// A linear in any layout, by its name; symmetric where the layout has no zero points.
inline std::vector<StoredTensor> Pack(const std::string& layout, const Logical& l) {
  if (layout == "gptq-v1") return PackGptq(l, 1);
  if (layout == "gptq-v2") return PackGptq(l, 0);
  if (layout == "compressed-tensors") return PackCompressed(l, false);
  if (layout == "compressed-tensors-2025") return PackCompressed(l, false, 10);
  if (layout == "awq-gemm") return PackAwqGemm(l);
  if (layout == "awq-gemv") return PackAwqGemv(l);
  if (layout == "awq-gemv-fast") return PackAwqFast(l);
  if (layout == "marlin") return PackMarlin(l);
  if (layout == "mlx") return PackMlx(l);
  const auto step = [&](uint64_t k, uint64_t n) { return static_cast<int>(l.code(k, n)) - static_cast<int>(l.zero(k / l.group_size, n)); };
  if (layout == "gguf-q4_0") return {{"l.weight", "Q4_0", {l.out, l.in}, PackBlocks(l, Dtype::kQ4_0, [&](uint64_t k, uint64_t n) { return step(k, n) + 8; })}};
  if (layout == "gguf-q4_1") return {{"l.weight", "Q4_1", {l.out, l.in}, PackBlocks(l, Dtype::kQ4_1, [&](uint64_t k, uint64_t n) { return static_cast<int>(l.code(k, n)); })}};
  if (layout == "gguf-q8_0") return {{"l.weight", "Q8_0", {l.out, l.in}, PackBlocks(l, Dtype::kQ8_0, step)}};
  // Dense, one weight after another.
  const bool half = layout == "dense-fp16";
  const bool single = layout == "dense-fp32";
  Bytes bytes(l.out * l.in * (single ? 4 : 2));
  for (uint64_t n = 0; n < l.out; ++n) {
    for (uint64_t k = 0; k < l.in; ++k) {
      const float weight = HalfToFloat(l.scale(k / l.group_size, n)) * static_cast<float>(step(k, n));
      std::byte* at = bytes.data() + (n * l.in + k) * (single ? 4 : 2);
      if (single) Store<float>(at, weight);
      else Store<uint16_t>(at, half ? FloatToHalf(weight) : FloatToBfloat(weight));
    }
  }
  return {{"l.weight", single ? "F32" : half ? "F16" : "BF16", {l.out, l.in}, bytes}};
}

}  // namespace q2c::test
