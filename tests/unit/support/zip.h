// Writes ZIP archives byte by byte, apart from the code under test; every field can be made wrong.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace q2c::test {

inline std::string LittleEndian(uint64_t value, size_t width) {
  std::string bytes;
  for (size_t i = 0; i < width; ++i) bytes += static_cast<char>((value >> (8 * i)) & 0xFFU);
  return bytes;
}

struct ZipPart {
  std::string name;
  std::string content;
  uint16_t flags = 0x0800;
  uint16_t method = 0;
  uint32_t attributes = 0;
  std::string extra = {};        // of the local header
  bool descriptor = false;       // sizes behind the bytes and not before them, as PyTorch does; sets bit 3
  bool wide = false;             // sizes and place as 64 bits in the directory's extra field
  std::string local_name = {};   // where it is not to be the name
  std::string between = {};      // bytes behind the member that belong to nothing
};

inline uint32_t SlowCrc32(const std::string& text) {
  uint32_t crc = ~0U;
  for (const char c : text) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc & 1U) != 0 ? (crc >> 1U) ^ 0xEDB88320U : crc >> 1U;
  }
  return ~crc;
}

struct ZipOptions {
  bool end64 = false;  // as PyTorch writes it
  std::string comment = {};
  std::string before_directory = {};
  std::string prefix = {};  // before everything; places do not count it
};

inline std::string Zip(const std::vector<ZipPart>& parts, const ZipOptions& options = {}) {
  const auto le = LittleEndian;
  std::string file;
  std::string directory;
  for (const ZipPart& part : parts) {
    const uint64_t local = file.size();
    const auto flags = static_cast<uint16_t>(part.flags | (part.descriptor ? 8U : 0U));
    const std::string sizes = le(SlowCrc32(part.content), 4) + le(part.content.size(), 4) + le(part.content.size(), 4);
    const std::string& name = part.local_name.empty() ? part.name : part.local_name;
    file += "PK\3\4" + le(20, 2) + le(flags, 2) + le(part.method, 2) + le(0, 4) + (part.descriptor ? le(0, 12 - 4) + le(0, 4) : sizes) + le(name.size(), 2) + le(part.extra.size(), 2) + name + part.extra;
    file += part.content;
    if (part.descriptor) file += "PK\7\10" + sizes;
    file += part.between;
    std::string extra;
    if (part.wide) extra = le(1, 2) + le(24, 2) + le(part.content.size(), 8) + le(part.content.size(), 8) + le(local, 8);
    const std::string narrow = part.wide ? le(SlowCrc32(part.content), 4) + std::string(8, '\xff') : sizes;
    directory += "PK\1\2" + le(20, 2) + le(20, 2) + le(flags, 2) + le(part.method, 2) + le(0, 4) + narrow + le(part.name.size(), 2) + le(extra.size(), 2) + le(0, 2) + le(0, 2) + le(0, 2) +
                 le(part.attributes, 4) + (part.wide ? le(UINT32_MAX, 4) : le(local, 4)) + part.name + extra;
  }
  file += options.before_directory;
  const uint64_t at = file.size();
  file += directory;
  if (options.end64) {
    const uint64_t end = file.size();
    file += "PK\6\6" + le(44, 8) + le(45, 2) + le(45, 2) + le(0, 4) + le(0, 4) + le(parts.size(), 8) + le(parts.size(), 8) + le(directory.size(), 8) + le(at, 8);
    file += "PK\6\7" + le(0, 4) + le(end, 8) + le(1, 4);
  }
  file += "PK\5\6" + le(0, 4) + le(parts.size(), 2) + le(parts.size(), 2) + le(directory.size(), 4) + le(at, 4) + le(options.comment.size(), 2) + options.comment;
  return options.prefix + file;
}

}  // namespace q2c::test
