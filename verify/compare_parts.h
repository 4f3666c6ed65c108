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
// The channels of the output as the source numbers them: the order taken from the source's own
// groups. Errors: kFindings "exact-order"; those of reading.
Result<ChannelView> ViewOfOutput(const Checkpoint& source, const ManifestLinear& claim, const ManifestLinear* order_of);
// Has every weight that the source does not have the value zero? Errors: kFindings "exact-padding".
Status CheckPadding(const Checkpoint& output, const ManifestLinear& claim);
// How the output stores it.
StoredLinear StoredOutput(const Checkpoint& output, const ManifestLinear& claim);
// Compares a strip of it. Errors: kFindings "exact-linear". Of a rounded linear every weight goes
// into `measure`.
std::unique_ptr<TileCheck> CompareLinear(const ManifestLinear& claim, Measure* measure);
// Errors: kFindings "exact-tensor". Of a rounded tensor every element goes into `measure`.
Status CompareTensor(const Checkpoint& source, const Checkpoint& output, const ManifestTensor& tensor, Measure* measure);

// Is every element zero? −0.0 is.
Result<bool> IsZero(const Checkpoint& checkpoint, const TensorInfo& tensor);

}  // namespace q2c
