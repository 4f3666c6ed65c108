// Writes safetensors files byte by byte, apart from the code under test.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tests/unit/support/bits.h"

namespace q2c::test {

struct StoredTensor {
  std::string name;
  std::string dtype;  // "I32"
  std::vector<uint64_t> shape;
  Bytes bytes;
};

// 8 bytes of length, the header text as it is, the data.
std::string RawSafetensors(const std::string& header, const std::string& data);
// A whole file, tensors in the given order, with {"format":"pt"}.
std::string Safetensors(const std::vector<StoredTensor>& tensors);

template <typename T>
Bytes BytesOfWords(const std::vector<T>& words) {
  const ByteView view = std::as_bytes(std::span(words));
  return {view.begin(), view.end()};
}

}  // namespace q2c::test
