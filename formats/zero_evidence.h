// Which zero-point convention the data proves: v1 stores zero − 1, v2 stores the zero.
//
// A symmetric linear says it outright: every field is 2^(bits−1) − 1 or 2^(bits−1). For an
// asymmetric one, weights have a mean near 0 in units of one step, so the mean of
// (code − field) is about 1 for v1 and about 0 for v2. Seen on files of AutoGPTQ 0.3.2 and
// 0.7.1, GPTQModel 7.7 and re-saved ones: 0.98 … 1.03 and 0.00 … 0.02 over a model; one
// 8-bit linear scatters by more than 1, so many decide together, by their standard error.
#pragma once

#include <string>
#include <vector>

#include "formats/base/status.h"
#include "formats/quant_linear.h"

namespace q2c {

enum class ZeroConvention { kV1, kV2 };

// The fields of one linear, and the mean of (code − field) over a sample of it.
struct ZeroSample {
  uint16_t smallest = 0;
  uint16_t largest = 0;
  uint64_t all_ones = 0;  // fields of 2^bits − 1: a v1 zero of 0 (or of 2^bits), a v2 zero of 2^bits − 1
  uint32_t bits = 0;
  double mean = 0;        // of code − field; fields of all ones are left out, since they may have wrapped
  uint64_t codes = 0;     // in the sample
};

struct ZeroVerdict {
  ZeroConvention convention = ZeroConvention::kV1;
  bool decided = false;
  std::string evidence;  // a sentence with the numbers
};

ZeroVerdict JudgeZeros(const std::vector<ZeroSample>& samples);

}  // namespace q2c
