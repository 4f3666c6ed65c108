#include "formats/containers/zip.h"

#include <algorithm>
#include <array>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint32_t kEndSignature = 0x06054B50;
constexpr uint32_t kEnd64Signature = 0x06064B50;
constexpr uint32_t kLocatorSignature = 0x07064B50;
constexpr uint32_t kEntrySignature = 0x02014B50;
constexpr uint32_t kLocalSignature = 0x04034B50;
constexpr uint32_t kDescriptorSignature = 0x08074B50;
constexpr uint64_t kEndBytes = 22;
constexpr uint64_t kEnd64Bytes = 56;
constexpr uint64_t kLocatorBytes = 20;
constexpr uint64_t kEntryBytes = 46;
constexpr uint64_t kLocalBytes = 30;
constexpr uint32_t kSaturated32 = 0xFFFFFFFF;
constexpr uint16_t kSaturated16 = 0xFFFF;
constexpr uint16_t kZip64Extra = 1;
constexpr uint16_t kDescriptorFlag = 1U << 3U;
constexpr uint16_t kUtf8Flag = 1U << 11U;
constexpr uint64_t kMaxDirectory = 64'000'000;
constexpr uint64_t kMaxMembers = 400'000;

// A part of the archive that is held in memory, with fields at fixed places.
struct Record {
  std::vector<std::byte> bytes;
  uint16_t U16(size_t at) const { return Load<uint16_t>(bytes.data() + at); }
  uint32_t U32(size_t at) const { return Load<uint32_t>(bytes.data() + at); }
  uint64_t U64(size_t at) const { return Load<uint64_t>(bytes.data() + at); }
};

Result<Record> ReadRecord(const ByteSource& archive, uint64_t offset, uint64_t size) {
  if (!archive.Holds(offset, size)) return Malformed("torch-archive", "the directory points to byte {} of {}, where {} bytes do not fit", offset, archive.bytes, size);
  Record record{std::vector<std::byte>(size)};
  QC_TRY(archive.read(offset, record.bytes));
  return record;
}

struct Directory {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  uint64_t members = 0;
};

// The end of the archive: last of all, without a comment behind it.
Result<Directory> FindDirectory(const ByteSource& archive) {
  if (archive.bytes < kEndBytes) return Malformed("truncated", "the file has {} bytes and begins like a ZIP archive: it is cut short; download or copy it again", archive.bytes);
  const uint64_t end_at = archive.bytes - kEndBytes;
  QC_ASSIGN(const Record end, ReadRecord(archive, end_at, kEndBytes));
  if (end.U32(0) != kEndSignature) {
    return Malformed("truncated", "the file begins like a ZIP archive and does not end like one: it is cut short, or something was appended; download or copy it again");
  }
  if (end.U16(20) != 0) return Malformed("torch-archive", "the archive has a comment of {} bytes, expected none", end.U16(20));
  if (end.U16(4) != 0 || end.U16(6) != 0 || end.U16(8) != end.U16(10)) return Malformed("torch-archive", "the archive is said to be spread over several files");
  Directory directory{end.U32(16), end.U32(12), end.U16(10)};
  uint64_t directory_end = end_at;
  bool has64 = false;
  if (end_at >= kLocatorBytes + kEnd64Bytes) {
    QC_ASSIGN(const Record locator, ReadRecord(archive, end_at - kLocatorBytes, kLocatorBytes));
    has64 = locator.U32(0) == kLocatorSignature;
    if (has64) {
      directory_end = end_at - kLocatorBytes - kEnd64Bytes;
      if (locator.U64(8) != directory_end || locator.U32(4) != 0 || locator.U32(16) > 1) return Malformed("torch-archive", "the 64-bit end of the directory is said to be at byte {}, expected {}", locator.U64(8), directory_end);
      QC_ASSIGN(const Record end64, ReadRecord(archive, directory_end, kEnd64Bytes));
      if (end64.U32(0) != kEnd64Signature || end64.U64(4) != kEnd64Bytes - 12 || end64.U32(16) != 0 || end64.U32(20) != 0 || end64.U64(24) != end64.U64(32)) {
        return Malformed("torch-archive", "the 64-bit end of the directory is damaged");
      }
      const Directory wide{end64.U64(48), end64.U64(40), end64.U64(32)};
      const auto agree = [](uint64_t narrow, uint64_t saturated, uint64_t value) { return narrow == saturated || narrow == value; };
      if (!agree(directory.offset, kSaturated32, wide.offset) || !agree(directory.bytes, kSaturated32, wide.bytes) || !agree(directory.members, kSaturated16, wide.members)) {
        return Malformed("torch-archive", "the two ends of the directory contradict each other");
      }
      directory = wide;
    }
  }
  if (directory.bytes > kMaxDirectory || directory.members > kMaxMembers) {
    return Malformed("torch-archive", "{} members in a directory of {} bytes, expected at most {} in {}", directory.members, directory.bytes, kMaxMembers, kMaxDirectory);
  }
  const std::optional<uint64_t> ends = (CheckedSize(directory.offset) + directory.bytes).value();
  if (!ends.has_value() || *ends != directory_end) {
    return Malformed("torch-archive", "the directory of {} bytes is said to begin at byte {}, expected it to end at byte {}", directory.bytes, directory.offset, directory_end);
  }
  return directory;
}

// One path of plain components.
bool IsPlainPath(std::string_view name) {
  if (!IsUtf8(name) || std::ranges::any_of(name, [](unsigned char c) { return c < 0x20 || c == 0x7F || c == '\\' || c == ':'; })) return false;
  for (size_t at = 0;;) {
    const size_t slash = std::min(name.find('/', at), name.size());
    const std::string_view part = name.substr(at, slash - at);
    if (part.empty() || part == "." || part == "..") return false;
    if (slash == name.size()) return true;
    at = slash + 1;
  }
}

struct Entry {
  ZipMember member;
  uint16_t flags = 0;
  uint64_t local = 0;  // where its local header lies
};

// Sizes that do not fit 32 bits stand in an extra field, in this order and only where needed.
Status WidenSizes(ByteView extra, uint64_t* bytes, uint64_t* packed, uint64_t* local) {
  while (extra.size() >= 4) {
    const auto id = Load<uint16_t>(extra.data());
    const auto size = Load<uint16_t>(extra.data() + 2);
    if (size > extra.size() - 4) break;
    ByteView field = extra.subspan(4, size);
    if (id == kZip64Extra) {
      for (uint64_t* value : {bytes, packed, local}) {
        if (*value != kSaturated32) continue;
        if (field.size() < 8) return Malformed("torch-archive", "a size of 64 bits is cut short");
        *value = Load<uint64_t>(field.data());
        field = field.subspan(8);
      }
    }
    extra = extra.subspan(4 + size);
  }
  return {};
}

Result<Entry> ReadEntry(const Record& directory, size_t* at) {
  const auto left = [&] { return directory.bytes.size() - *at; };
  if (left() < kEntryBytes || directory.U32(*at) != kEntrySignature) return Malformed("torch-archive", "no entry at byte {} of the directory, where one is expected", *at);
  const size_t start = *at;
  const size_t name_bytes = directory.U16(start + 28);
  const size_t extra_bytes = directory.U16(start + 30);
  *at += kEntryBytes;
  if (left() < name_bytes + extra_bytes) return Malformed("torch-archive", "the directory ends within an entry");
  Entry entry;
  entry.member.name.resize(name_bytes);
  if (name_bytes > 0) std::memcpy(entry.member.name.data(), directory.bytes.data() + *at, name_bytes);
  const std::string shown = Escape(entry.member.name);
  entry.flags = directory.U16(start + 8);
  entry.member.crc = directory.U32(start + 16);
  entry.member.bytes = directory.U32(start + 24);
  entry.local = directory.U32(start + 42);
  uint64_t packed = directory.U32(start + 20);
  QC_TRY(WidenSizes(ByteView(directory.bytes).subspan(*at + name_bytes, extra_bytes), &entry.member.bytes, &packed, &entry.local));
  *at += name_bytes + extra_bytes;
  if (!IsPlainPath(entry.member.name)) return Malformed("torch-archive", "a member is called '{}', expected a plain path", shown);
  if ((entry.flags & ~(kDescriptorFlag | kUtf8Flag)) != 0) return Malformed("torch-archive", "member '{}' has the flags {:#06x}: encrypted, patched or of an unknown kind", shown, entry.flags);
  if (directory.U16(start + 10) != 0 || packed != entry.member.bytes) {
    return Malformed("torch-archive", "member '{}' is compressed (method {}), expected it to be stored as it is; this is not how PyTorch writes", shown, directory.U16(start + 10));
  }
  if (directory.U16(start + 32) != 0 || directory.U16(start + 34) != 0) return Malformed("torch-archive", "member '{}' has a comment or lies in another file", shown);
  constexpr uint32_t kKind = 0170000;
  constexpr uint32_t kRegular = 0100000;
  const uint32_t kind = (directory.U32(start + 38) >> 16U) & kKind;
  if (kind != 0 && kind != kRegular) return Malformed("torch-archive", "member '{}' is a link or something else that is no file", shown);
  return entry;
}

// The header before the member's bytes and the descriptor behind them say the same as the directory.
// Returns where the next member, or the directory, must begin.
Result<uint64_t> CheckLocal(const ByteSource& archive, uint64_t next, Entry* entry) {
  ZipMember& member = entry->member;
  const std::string shown = Escape(member.name);
  const auto differs = [&](std::string_view what) { return Malformed("torch-archive", "member '{}': {} before its bytes is not what the directory says", shown, what); };
  QC_ASSIGN(const Record local, ReadRecord(archive, entry->local, kLocalBytes + member.name.size()));
  if (local.U32(0) != kLocalSignature) return Malformed("torch-archive", "member '{}' is said to begin at byte {}, where there is none", shown, entry->local);
  if (local.U16(26) != member.name.size() || std::memcmp(local.bytes.data() + kLocalBytes, member.name.data(), member.name.size()) != 0) return differs("the name");
  if (local.U16(6) != entry->flags || local.U16(8) != 0) return differs("the flags or the method");
  const bool deferred = (entry->flags & kDescriptorFlag) != 0;
  const auto fits = [&](uint32_t found, uint64_t value) { return found == value || (found == kSaturated32 && value >= kSaturated32) || (deferred && (found == 0 || found == kSaturated32)); };
  if (!fits(local.U32(18), member.bytes) || !fits(local.U32(22), member.bytes)) return differs("the size");
  if (local.U32(14) != member.crc && !(deferred && local.U32(14) == 0)) return differs("the checksum");
  member.offset = entry->local + kLocalBytes + member.name.size() + local.U16(28);
  if (!archive.Holds(member.offset, member.bytes)) {
    return Malformed("truncated", "member '{}' has {} bytes from byte {} on, more than the file of {} holds", shown, member.bytes, member.offset, archive.bytes);
  }
  const uint64_t end = member.offset + member.bytes;
  if (end == next) return end;
  // Checksum and both sizes, of 32 or 64 bits.
  for (const uint64_t width : {uint64_t{4}, uint64_t{8}}) {
    const uint64_t size = 8 + 2 * width;
    if (!deferred || end > next || next - end != size) continue;
    QC_ASSIGN(const Record descriptor, ReadRecord(archive, end, size));
    const auto number = [&](size_t at) { return width == 4 ? descriptor.U32(at) : descriptor.U64(at); };
    if (descriptor.U32(0) != kDescriptorSignature || descriptor.U32(4) != member.crc || number(8) != member.bytes || number(8 + width) != member.bytes) {
      return Malformed("torch-archive", "member '{}': the sizes behind its bytes are not what the directory says", shown);
    }
    return next;
  }
  return Malformed("torch-archive", "member '{}' ends at byte {}, and the next one begins at byte {}: they overlap, or something lies between them", shown, end, next);
}

}  // namespace

Result<std::vector<ZipMember>> ReadZipDirectory(const ByteSource& archive) {
  QC_ASSIGN(const Directory place, FindDirectory(archive));
  QC_ASSIGN(const Record directory, ReadRecord(archive, place.offset, place.bytes));
  std::vector<Entry> entries;
  std::set<std::string_view> names;
  size_t at = 0;
  for (uint64_t i = 0; i < place.members; ++i) {
    QC_ASSIGN(Entry entry, ReadEntry(directory, &at));
    entries.push_back(std::move(entry));
  }
  if (at != directory.bytes.size()) return Malformed("torch-archive", "{} bytes of the directory belong to no entry", directory.bytes.size() - at);
  for (const Entry& entry : entries) {
    if (!names.insert(entry.member.name).second) return Malformed("torch-archive", "member '{}' is there twice", Escape(entry.member.name));
  }
  std::ranges::sort(entries, {}, &Entry::local);
  uint64_t expected = 0;
  std::vector<ZipMember> members;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].local != expected) return Malformed("torch-archive", "member '{}' begins at byte {}, expected {}: something lies between the members", Escape(entries[i].member.name), entries[i].local, expected);
    QC_ASSIGN(expected, CheckLocal(archive, i + 1 < entries.size() ? entries[i + 1].local : place.offset, &entries[i]));
    members.push_back(entries[i].member);
  }
  if (expected != place.offset) return Malformed("torch-archive", "the directory begins at byte {}, expected {}", place.offset, expected);
  return members;
}

uint32_t Crc32(ByteView bytes) {
  static constexpr auto kTable = [] {
    constexpr uint32_t kPolynomial = 0xEDB88320;
    std::array<uint32_t, 256> table{};
    for (uint32_t i = 0; i < table.size(); ++i) {
      uint32_t value = i;
      for (int bit = 0; bit < 8; ++bit) value = (value >> 1U) ^ ((value & 1U) != 0 ? kPolynomial : 0);
      table[i] = value;
    }
    return table;
  }();
  uint32_t crc = 0xFFFFFFFF;
  for (const std::byte b : bytes) crc = (crc >> 8U) ^ kTable[(crc ^ std::to_integer<uint32_t>(b)) & 0xFFU];
  return ~crc;
}

}  // namespace q2c
