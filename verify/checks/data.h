// The data checks: every byte of every tensor is read once, in pieces, on several threads.
#pragma once

#include <array>
#include <functional>
#include <string>
#include <vector>

#include "verify/checks/checks.h"

namespace q2c {

struct DataOptions {
  unsigned jobs = 1;
  std::function<Status()> check_stop;
};

constexpr size_t kHistogramBins = 16;

// What was seen of one linear.
struct LinearData {
  std::string name;
  uint32_t bits = 0;      // 0: float
  uint64_t bytes = 0;     // of all its parts
  uint64_t sampled = 0;   // codes in the histogram: of large tensors one piece in sixteen
  std::array<double, kHistogramBins> histogram{};  // shares; of 8-bit codes sixteen in one bin
  double entropy = 0;     // of the codes, in bits; 0 where the codes do not lie in whole bytes (3 bits)
  double mean = 0;        // of the codes
  double scale_low = 0;   // magnitudes of the scales that are not zero
  double scale_high = 0;
  uint64_t zero_scales = 0;
  std::string digest;     // of codes or weight
};

struct DataReport {
  std::vector<LinearData> linears;
  uint64_t bytes = 0;
  uint64_t tensors = 0;
};

// Errors: those of reading that are no property of the input; the rest are findings.
Result<DataReport> CheckData(const CheckInput& input, const DataOptions& options, Findings* findings);

}  // namespace q2c
