// What the fuzz targets share.
#pragma once

#include <cstdlib>
#include <string_view>

#include "formats/base/bytes.h"

// A property that does not hold ends the run, in every build type.
#define FUZZ_CHECK(condition) \
  do {                        \
    if (!(condition)) std::abort(); \
  } while (false)

inline q2c::ByteView FuzzBytes(const uint8_t* data, size_t size) { return std::as_bytes(std::span(data, size)); }
inline std::string_view FuzzText(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};  // NOLINT: bytes as text
}
