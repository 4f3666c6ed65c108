// The pieces of the exact comparison: one linear, one tensor.
#pragma once

#include <utility>

#include "verify/compare.h"
#include "verify/rounding.h"

namespace q2c {

template <typename... Args>
Error Mismatch(std::string_view id, fmt::format_string<Args...> format, Args&&... args) {
  return MakeError(Code::kFindings, id, format, std::forward<Args>(args)...);
}

// Do the manifest's words on a linear make sense? Errors: kFindings "exact-linear".
Status CheckClaim(const ManifestLinear& claim);
// Compares a strip of it. Errors: kFindings "exact-linear". Of a rounded linear every weight goes
// into `measure`.
std::unique_ptr<TileCheck> CompareLinear(const ManifestLinear& claim, Measure* measure);
// Errors: kFindings "exact-tensor". Of a rounded tensor every element goes into `measure`.
Status CompareTensor(const Checkpoint& source, const Checkpoint& output, const ManifestTensor& tensor, Measure* measure);

// Is every element zero? −0.0 is.
Result<bool> IsZero(const Checkpoint& checkpoint, const TensorInfo& tensor);

}  // namespace q2c
