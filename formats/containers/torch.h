// A PyTorch file of weights (.bin, .pt, .pth) in either of its forms, read without running anything.
#pragma once

#include "formats/containers/byte_source.h"
#include "formats/containers/torch_state.h"

namespace q2c {

// Errors: those of torch_zip.h and torch_legacy.h; kMalformed "file-type"; kRefused "torch-unread" (a tar archive).
Result<TorchHeader> ParseTorchHeader(const ByteSource& file);

// The same from a file; messages name it.
Result<TorchHeader> ReadTorchHeader(const InputFile& file);

}  // namespace q2c
