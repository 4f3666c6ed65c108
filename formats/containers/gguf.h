// The GGUF container of llama.cpp: key-values, a table of tensors and their bytes, all in one file.
// The format, its limits and where each fact comes from: gguf.md.
#pragma once

#include <string>
#include <vector>

#include "formats/base/file.h"
#include "formats/containers/gguf_value.h"
#include "formats/tensor.h"

namespace q2c {

// A stack of experts, `<x>_exps.weight` of shape [E,N,K], is given as E tensors of shape [N,K]
// named `<x>_exps.<e>.weight`, which lie back to back. All other tensors have one or two dimensions.
struct GgufHeader {
  GgufValues values;
  std::vector<TensorInfo> tensors;  // in file order; shapes outermost first, offsets from the start of the file
  uint64_t alignment = 32;          // of the start of each tensor (of a stack: of its first slice)
};

inline constexpr uint64_t kMaxGgufHeader = 100'000'000;

// Validates the whole header against the file's size; allocates only for bytes that are there.
// `head` is the front of the file and must hold the whole header.
// Errors: kMalformed "gguf-…", "truncated", "trailing-bytes", "file-type"; kRefused "gguf-endian",
// "gguf-version", "gguf-array", "gguf-tensor-type", "gguf-shape", "gguf-name".
Result<GgufHeader> ParseGgufHeader(ByteView head, uint64_t file_bytes);

// The same from a file, read in pieces of a megabyte; messages name it.
Result<GgufHeader> ReadGgufHeader(const InputFile& file);

// One tensor to be written: F32, F16, BF16, Q4_0, Q4_1 or Q8_0; one or two dimensions, none of them 0.
struct GgufEntry {
  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
};

struct GgufHead {
  std::string bytes;              // up to the first byte of the first tensor
  std::vector<uint64_t> offsets;  // of each entry, from the start of the file
  std::vector<uint64_t> padding;  // zero bytes after each entry; 0 inside a stack
  uint64_t file_bytes = 0;
};

// The bytes before the data, and where each entry lies; a function of the arguments alone. Entries `<x>_exps.0.weight`,
// `<x>_exps.1.weight`, … that follow each other become one stack. The alignment is 32 unless `general.alignment` says otherwise.
// Errors: kRefused "gguf-name" (64 bytes or more, not unique, a stack with a gap), "gguf-shape", "gguf-tensor-type";
// kMalformed "gguf-key", "gguf-alignment".
Result<GgufHead> BuildGgufHead(const GgufValues& values, const std::vector<GgufEntry>& entries);

}  // namespace q2c
