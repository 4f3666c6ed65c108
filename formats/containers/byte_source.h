// Bytes that can be read at any place: a file, or (for tests) a range of memory.
#pragma once

#include <functional>

#include "formats/base/file.h"

namespace q2c {

struct ByteSource {
  uint64_t bytes = 0;
  // Fills `out` from byte `offset`; what is asked for lies inside.
  std::function<Status(uint64_t offset, MutableBytes out)> read;

  // Does [offset, offset + size) lie inside?
  bool Holds(uint64_t offset, uint64_t size) const { return offset <= bytes && size <= bytes - offset; }
};

// The file or the bytes must outlive what is returned.
inline ByteSource SourceOf(const InputFile& file) {
  return {file.bytes(), [&file](uint64_t offset, MutableBytes out) { return file.ReadAt(offset, out); }};
}
inline ByteSource SourceOf(ByteView bytes) {
  return {bytes.size(), [bytes](uint64_t offset, MutableBytes out) -> Status {
            if (!out.empty()) std::memcpy(out.data(), bytes.data() + offset, out.size());
            return {};
          }};
}

}  // namespace q2c
