#include "formats/zero_evidence.h"

#include <cmath>

namespace q2c {

ZeroVerdict JudgeZeros(const std::vector<ZeroSample>& samples) {
  // Constant fields speak for themselves.
  uint64_t constant_v1 = 0;
  uint64_t constant_v2 = 0;
  uint64_t linears = 0;
  double sum = 0;
  double squares = 0;
  for (const ZeroSample& sample : samples) {
    const uint32_t middle = 1U << (sample.bits - 1);
    if (sample.smallest == sample.largest && sample.smallest == middle - 1) {
      ++constant_v1;
    } else if (sample.smallest == sample.largest && sample.smallest == middle) {
      ++constant_v2;
    } else if (sample.codes > 0) {
      ++linears;
      sum += sample.mean;
      squares += sample.mean * sample.mean;
    }
  }
  ZeroVerdict verdict;
  if (linears == 0) {
    verdict.decided = (constant_v1 > 0) != (constant_v2 > 0);
    verdict.convention = constant_v2 > constant_v1 ? ZeroConvention::kV2 : ZeroConvention::kV1;
    verdict.evidence = constant_v1 + constant_v2 == 0 ? std::string("no linear has zero fields that show it")
                       : constant_v1 > 0 && constant_v2 > 0
                           ? fmt::format("{} linears have the symmetric zero field of v1 and {} that of v2", constant_v1, constant_v2)
                           : fmt::format("every zero field of {} symmetric linears is {}", constant_v1 + constant_v2,
                                         constant_v2 > 0 ? "2^(bits-1), as v2 stores it" : "2^(bits-1) - 1, as v1 stores it");
    return verdict;
  }
  const auto count = static_cast<double>(linears);
  const double mean = sum / count;
  const double spread = linears < 2 ? 1.0 : std::sqrt(std::max(0.0, (squares - count * mean * mean) / (count - 1)));
  const double error = spread / std::sqrt(count);
  // Decided: within 0.35 of one convention, and the other at least 4 standard errors away.
  constexpr double kNear = 0.35;
  const double to_v1 = std::abs(mean - 1);
  const double to_v2 = std::abs(mean);
  verdict.convention = to_v1 < to_v2 ? ZeroConvention::kV1 : ZeroConvention::kV2;
  verdict.decided = std::min(to_v1, to_v2) < kNear && std::max(to_v1, to_v2) > 4 * error;
  const bool contradicted = verdict.convention == ZeroConvention::kV1 ? constant_v2 > 0 : constant_v1 > 0;
  if (contradicted) verdict.decided = false;
  verdict.evidence = fmt::format("mean of (code - zero field) over {} linears is {:.3f} (standard error {:.3f}); v1 gives about 1, v2 about 0", linears, mean, error);
  return verdict;
}

}  // namespace q2c
