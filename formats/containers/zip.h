// The directory of a ZIP archive whose members are stored as they are. No member is
// unpacked, and an archive that two readers could understand differently is refused.
// The format and the rules: zip.md.
#pragma once

#include <string>
#include <vector>

#include "formats/containers/byte_source.h"

namespace q2c {

struct ZipMember {
  std::string name;
  uint64_t offset = 0;  // of its first byte, from the start of the archive
  uint64_t bytes = 0;
  uint32_t crc = 0;     // CRC-32 as the directory has it
};

// All members, in the order in which they lie. Memory is taken only for bytes that are there.
// Errors: kMalformed "truncated", "torch-archive".
Result<std::vector<ZipMember>> ReadZipDirectory(const ByteSource& archive);

uint32_t Crc32(ByteView bytes);

}  // namespace q2c
