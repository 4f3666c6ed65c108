// Zstandard frames. Of what a frame declares nothing is believed: output grows only with what
// was really decompressed, up to the caller's limit, and windows above kZstdWindow are refused.
#pragma once

#include <cstdint>
#include <vector>

#include "formats/base/bytes.h"
#include "formats/base/status.h"

namespace q2c {

inline constexpr uint64_t kZstdWindow = 8U << 20U;

// One frame with a checksum of its content. Equal bytes give equal frames of one version of the library.
inline constexpr int kZstdSmallest = 15;  // headers of safetensors: 4 % smaller than level 9, and 19 is no better
inline constexpr int kZstdFast = 3;
std::vector<std::byte> ZstdCompress(ByteView bytes, int level = kZstdSmallest);

// One frame, with its checksum, that holds the bytes as they are. At most kZstdWindow bytes.
// Source of the format: RFC 8878, 3.1.1.
std::vector<std::byte> ZstdStore(ByteView bytes);

// The content of exactly one frame.
// Errors: kMalformed "zstd" if it is damaged, cut off, followed by anything or longer than `limit`.
Result<std::vector<std::byte>> ZstdDecompress(ByteView frame, uint64_t limit);

}  // namespace q2c
