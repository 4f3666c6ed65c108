// What a file that was taken for weights really is.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace q2c {

// Where it is a well-known kind of something that holds no tensors, or has to be unpacked first:
// in words that follow "this is". `head`: the first 256 bytes of the file suffice.
std::optional<std::string> KnownKind(std::string_view head);

}  // namespace q2c
