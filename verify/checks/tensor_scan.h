// What one pass over the bytes of a tensor shows.
#pragma once

#include <functional>
#include <vector>

#include "formats/checkpoint.h"

namespace q2c {

// Of float16, bfloat16, float32 and of the scales in GGUF blocks.
struct FloatScan {
  uint64_t count = 0;
  uint64_t not_finite = 0;
  uint64_t zero = 0;
  uint64_t negative = 0;
  uint64_t subnormal = 0;  // not zero
  double low = 0;          // smallest magnitude that is not zero
  double high = 0;         // largest finite magnitude
  uint64_t zero_rows = 0;  // of a matrix: rows of zeros only
};

// Of packed codes.
struct CodeScan {
  std::vector<uint64_t> bytes;  // 256: histogram of a sample
  uint64_t sampled = 0;
  bool constant = false;     // all bytes are equal to the first four, repeated
  uint64_t blank = 0;        // the longest run of bytes 0x00 or 0xFF
  uint64_t blank_at = 0;
};

struct TensorScan {
  FloatScan floats;
  CodeScan codes;
  std::string digest;  // XXH3-128
};

enum class ScanAs { kFloats, kCodes, kOther };
Result<TensorScan> ScanTensor(const Checkpoint& checkpoint, const TensorInfo& tensor, ScanAs kind, const std::function<Status()>& check_stop);

}  // namespace q2c
