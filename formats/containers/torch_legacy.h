// PyTorch files before 1.6 (and on request since): pickles and storages, one after another.
// The format and where each fact comes from: torch_legacy.md.
#pragma once

#include "formats/containers/byte_source.h"
#include "formats/containers/torch_state.h"

namespace q2c {

// Does a file that begins like this have the legacy form? 16 bytes suffice.
bool IsTorchLegacy(ByteView head);

// Errors: those of pickle.h and torch_state.h; kMalformed "torch-state", "truncated", "trailing-bytes"; kRefused "torch-unread"
// (another byte order or version).
Result<TorchHeader> ReadTorchLegacy(const ByteSource& file);

}  // namespace q2c
