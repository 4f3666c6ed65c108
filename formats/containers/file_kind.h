// What a file that was taken for weights, or for a file beside them, really is.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "formats/base/file.h"

namespace q2c {

// How much of the head of a file KnownKind needs; a Git LFS pointer has no more.
inline constexpr uint64_t kKindBytes = 256;

// Where it is a well-known kind of something that holds no tensors, or has to be unpacked first:
// in words that follow "this is".
std::optional<std::string> KnownKind(std::string_view head);

// Errors: kMalformed "file-type" for a Git LFS pointer.
Status CheckDownloaded(const InputFile& file);

}  // namespace q2c
