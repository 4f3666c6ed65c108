// The packed words of GPTQ by the plainest formula there is: one bit at a time, straight
// from the description "code i occupies bits [i·B, i·B + B) of a little-endian stream".
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "formats/base/bytes.h"

namespace q2c::test {

using Bytes = std::vector<std::byte>;

// Bit `bit` of the stream whose words are at index(0), index(1), … of a table of 32-bit words.
template <typename WordIndex>
uint32_t GetField(ByteView words, uint64_t first_bit, uint64_t bits, WordIndex index) {
  uint32_t value = 0;
  for (uint64_t b = 0; b < bits; ++b) {
    const uint64_t bit = first_bit + b;
    const uint64_t byte = 4 * index(bit / 32) + (bit % 32) / 8;
    value |= ((std::to_integer<uint32_t>(words[byte]) >> (bit % 8)) & 1U) << b;
  }
  return value;
}
template <typename WordIndex>
void PutField(Bytes* words, uint64_t first_bit, uint64_t bits, uint32_t value, WordIndex index) {
  for (uint64_t b = 0; b < bits; ++b) {
    const uint64_t bit = first_bit + b;
    const uint64_t byte = 4 * index(bit / 32) + (bit % 32) / 8;
    const auto mask = static_cast<std::byte>(1U << (bit % 8));
    if (((value >> b) & 1U) != 0) (*words)[byte] |= mask;
    else (*words)[byte] &= ~mask;
  }
}

// qweight: [K·B/32, N] words; the stream of output n runs down column n.
inline uint32_t GetCode(ByteView qweight, uint64_t bits, uint64_t outputs, uint64_t k, uint64_t n) {
  return GetField(qweight, k * bits, bits, [&](uint64_t word) { return word * outputs + n; });
}
inline void PutCode(Bytes* qweight, uint64_t bits, uint64_t outputs, uint64_t k, uint64_t n, uint32_t code) {
  PutField(qweight, k * bits, bits, code, [&](uint64_t word) { return word * outputs + n; });
}

// qzeros: [Ng, N·B/32] words; the stream of group g runs along row g.
inline uint32_t GetZeroField(ByteView qzeros, uint64_t bits, uint64_t outputs, uint64_t g, uint64_t n) {
  return GetField(qzeros, n * bits, bits, [&](uint64_t word) { return g * (outputs * bits / 32) + word; });
}
inline void PutZeroField(Bytes* qzeros, uint64_t bits, uint64_t outputs, uint64_t g, uint64_t n, uint32_t field) {
  PutField(qzeros, n * bits, bits, field, [&](uint64_t word) { return g * (outputs * bits / 32) + word; });
}

// A small generator with a fixed sequence, the same on every machine.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint32_t Next() {
    state_ = state_ * 6364136223846793005U + 1442695040888963407U;
    return static_cast<uint32_t>(state_ >> 32U);
  }
  uint32_t Below(uint32_t limit) { return Next() % limit; }
  Bytes Fill(uint64_t count) {
    Bytes bytes(count);
    for (std::byte& byte : bytes) byte = static_cast<std::byte>(Next());
    return bytes;
  }

 private:
  uint64_t state_;
};

}  // namespace q2c::test
