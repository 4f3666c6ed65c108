#include "convert/archive.h"

#include <algorithm>
#include <vector>

#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/base/zstd.h"

namespace q2c {
namespace {

constexpr uint64_t kBlock = 512;
constexpr uint64_t kPiece = 1U << 20U;
constexpr uint64_t kModified = 315'532'800;  // 1980-01-01; GNU tar doubts times near 0
constexpr size_t kNameField = 100;
constexpr uint64_t kSizeLimit = uint64_t{1} << 33U;  // eleven octal digits

// A header block of POSIX.1-1988 (ustar).
struct Member {
  std::string name;
  char kind = '0';
  uint32_t mode = 0644;
  uint64_t bytes = 0;
};
std::vector<std::byte> HeaderBlock(const Member& member) {
  std::string block(kBlock, '\0');
  const auto put = [&](size_t at, std::string_view text) { std::ranges::copy(text, block.begin() + static_cast<std::ptrdiff_t>(at)); };
  put(0, std::string_view(member.name).substr(0, kNameField));
  put(100, fmt::format("{:07o}", member.mode));
  put(108, "0000000");  // user
  put(116, "0000000");  // group
  put(124, fmt::format("{:011o}", member.bytes < kSizeLimit ? member.bytes : 0));
  put(136, fmt::format("{:011o}", kModified));
  put(148, "        ");  // the sum counts itself as blanks
  block[156] = member.kind;
  put(257, "ustar");
  put(263, "00");
  put(329, "0000000");  // device
  put(337, "0000000");
  uint32_t sum = 0;
  for (const char c : block) sum += static_cast<unsigned char>(c);
  put(148, fmt::format("{:06o}", sum));
  block[154] = '\0';
  const ByteView view = AsBytes(block);
  return {view.begin(), view.end()};
}

// "LENGTH key=value\n", where the length counts its own digits (POSIX.1-2001, pax).
std::string PaxRecord(std::string_view key, std::string_view value) {
  const size_t rest = key.size() + value.size() + 3;
  size_t length = rest + 1;
  while (length != rest + fmt::format("{}", length).size()) length = rest + fmt::format("{}", length).size();
  return fmt::format("{} {}={}\n", length, key, value);
}

class Writer {
 public:
  Writer(OutputFile file, const ArchiveOptions& options) : file_(std::move(file)), options_(options) {}

  Status Folder() { return Header({options_.folder + "/", '5', 0755, 0}); }

  Status File(const InputFile& in, const std::string& name) {
    constexpr uint32_t kExecutable = 0111;
    QC_TRY(Header({options_.folder + "/" + name, '0', (in.stamp().mode & kExecutable) != 0 ? 0755U : 0644U, in.bytes()}));
    const bool stored = options_.weights.contains(name);
    if (stored) QC_TRY(Compress());
    std::vector<std::byte> buffer(std::min(kPiece, in.bytes()));
    for (uint64_t at = 0; at < in.bytes(); at += kPiece) {
      if (options_.check_stop) QC_TRY(options_.check_stop());
      const MutableBytes part(buffer.data(), std::min(kPiece, in.bytes() - at));
      QC_TRY(in.ReadAt(at, part));
      QC_TRY(stored ? Put(ZstdStore(part)) : Add(part));
    }
    return Fill(in.bytes());
  }

  Result<ManifestFile> Finish() {
    QC_TRY(Add(std::vector<std::byte>(2 * kBlock)));
    QC_TRY(Compress());
    QC_TRY(file_.Sync());
    return ManifestFile{file_.name(), written_, sha256_.Hex(), xxh3_.Hex(), 0};
  }

 private:
  Status Header(const Member& member) {
    std::string records;
    if (member.name.size() > kNameField) records += PaxRecord("path", member.name);
    if (member.bytes >= kSizeLimit) records += PaxRecord("size", fmt::format("{}", member.bytes));
    if (!records.empty()) {
      QC_TRY(Add(HeaderBlock({"pax", 'x', 0644, records.size()})));
      QC_TRY(Add(AsBytes(records)));
      QC_TRY(Fill(records.size()));
    }
    return Add(HeaderBlock(member));
  }

  // To whole blocks.
  Status Fill(uint64_t bytes) { return Add(std::vector<std::byte>(CeilDiv(bytes, kBlock) * kBlock - bytes)); }

  Status Add(ByteView bytes) {
    pending_.insert(pending_.end(), bytes.begin(), bytes.end());
    return pending_.size() < kPiece ? Status() : Compress();
  }
  Status Compress() {
    if (pending_.empty()) return {};
    QC_TRY(Put(ZstdCompress(pending_, kZstdFast)));
    pending_.clear();
    return {};
  }
  Status Put(ByteView frame) {
    QC_TRY(file_.WriteAt(written_, frame));
    sha256_.Update(frame);
    xxh3_.Update(frame);
    written_ += frame.size();
    return {};
  }

  OutputFile file_;
  const ArchiveOptions& options_;
  uint64_t written_ = 0;
  std::vector<std::byte> pending_;  // not yet compressed
  Sha256 sha256_;
  Xxh3 xxh3_;
};

}  // namespace

Result<ManifestFile> WriteArchive(const Dir& dir, const Dir& archive, const std::string& name, const ArchiveOptions& options) {
  QC_ASSIGN(OutputFile file, OutputFile::Create(archive, name));
  QC_ASSIGN(const std::vector<DirEntry> entries, dir.List());
  Writer writer(std::move(file), options);
  QC_TRY(writer.Folder());
  for (const DirEntry& entry : entries) {
    QC_ASSIGN(const InputFile in, InputFile::Open(dir, entry.name));
    QC_TRY(writer.File(in, entry.name));
  }
  return writer.Finish();
}

uint64_t ArchiveBudget(uint64_t bytes, uint64_t files) {
  constexpr uint64_t kPerFile = 8 * kBlock;  // header, records, what fills the last block
  constexpr uint64_t kFramesPerMille = 1;  // heads of frames and blocks: 41 bytes a MiB
  return bytes + bytes / 1000 * kFramesPerMille + (files + 1) * kPerFile + kPiece;
}

}  // namespace q2c
