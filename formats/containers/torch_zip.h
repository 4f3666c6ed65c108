// PyTorch files since 1.6: a ZIP archive of a pickle and one member for each storage.
// The format and where each fact comes from: torch_zip.md.
#pragma once

#include "formats/containers/byte_source.h"
#include "formats/containers/torch_state.h"

namespace q2c {

// Errors: those of zip.h, pickle.h and torch_state.h; kMalformed "torch-archive", "torch-state", "torch-checksum";
// kRefused "torch-unread" (TorchScript, another byte order or version).
Result<TorchHeader> ReadTorchZip(const ByteSource& file);

}  // namespace q2c
