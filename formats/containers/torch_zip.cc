#include "formats/containers/torch_zip.h"

#include <algorithm>
#include <charconv>

#include "formats/base/text.h"
#include "formats/containers/zip.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxPickle = 64'000'000;
constexpr uint64_t kMaxSmall = 64;     // of a member that holds one word
constexpr unsigned kNewestVersion = 10;  // what PyTorch reads

struct Members {
  const ZipMember* pickle = nullptr;
  const ZipMember* version = nullptr;
  const ZipMember* byte_order = nullptr;
  bool checksums = false;  // PyTorch can be told to store 0 instead of every one
  std::map<std::string_view, const ZipMember*, std::less<>> storages;  // by key
};

// <any>/data.pkl, <any>/data/<key>, <any>/version, <any>/byteorder; names that begin with a dot are notes of the writer.
Result<Members> Sort(const std::vector<ZipMember>& members) {
  constexpr std::string_view kPickle = "/data.pkl";
  const auto top = std::ranges::find_if(members, [&](const ZipMember& member) { return member.name.ends_with(kPickle) && member.name.find('/') == member.name.size() - kPickle.size(); });
  if (top == members.end()) return Malformed("torch-archive", "the archive has no member 'data.pkl' in one folder: it is no PyTorch file");
  const std::string folder = top->name.substr(0, top->name.size() - kPickle.size() + 1);
  Members sorted;
  for (const ZipMember& member : members) {
    const std::string_view name = member.name;
    sorted.checksums = sorted.checksums || member.crc != 0;
    if (!name.starts_with(folder)) return Malformed("torch-archive", "member '{}' lies outside the folder '{}' that all the others share", Escape(name), Escape(folder));
    const std::string_view rest = name.substr(folder.size());
    constexpr std::string_view kStorages = "data/";
    if (rest == "data.pkl") sorted.pickle = &member;
    else if (rest == "version") sorted.version = &member;
    else if (rest == "byteorder") sorted.byte_order = &member;
    else if (rest.starts_with(kStorages) && rest.find('/', kStorages.size()) == std::string_view::npos) sorted.storages[rest.substr(kStorages.size())] = &member;
    else if (rest == "constants.pkl" || rest.starts_with("code/")) return Refused("torch-unread", "the archive holds a TorchScript program ('{}'), not a state dict", Escape(name));
    else if (!rest.starts_with('.')) return Malformed("torch-archive", "the archive has a member '{}', which PyTorch does not write", Escape(name));
  }
  return sorted;
}

Result<std::string> ReadMember(const ByteSource& file, const Members& members, const ZipMember& member, uint64_t limit) {
  if (member.bytes > limit) return Malformed("torch-archive", "member '{}' has {} bytes, expected at most {}", Escape(member.name), member.bytes, limit);
  std::string text(member.bytes, '\0');
  QC_TRY(file.read(member.offset, std::as_writable_bytes(std::span(text))));
  if (members.checksums && Crc32(AsBytes(text)) != member.crc) return Malformed("torch-checksum", "member '{}': its checksum is not the one that was stored with it; download or copy the file again", Escape(member.name));
  return text;
}

Status CheckForm(const ByteSource& file, const Members& members) {
  if (members.byte_order != nullptr) {
    QC_ASSIGN(const std::string order, ReadMember(file, members, *members.byte_order, kMaxSmall));
    if (order != "little") return Refused("torch-unread", "the file was written on a machine with the byte order '{}'; only 'little' is read", Escape(order));
  }
  if (members.version == nullptr) return {};
  QC_ASSIGN(const std::string text, ReadMember(file, members, *members.version, kMaxSmall));
  unsigned version = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, version);
  if (error != std::errc{} || !std::all_of(rest, end, [](char c) { return c == '\n'; })) return Malformed("torch-archive", "member '{}' holds '{}', expected a number", Escape(members.version->name), Escape(text));
  if (version > kNewestVersion) return Refused("torch-unread", "the file has the version {}, which is newer than {}; a newer version may know it", version, kNewestVersion);
  return {};
}

}  // namespace

Result<TorchHeader> ReadTorchZip(const ByteSource& file) {
  QC_ASSIGN(const std::vector<ZipMember> list, ReadZipDirectory(file));
  QC_ASSIGN(const Members members, Sort(list));
  QC_TRY(CheckForm(file, members));
  QC_ASSIGN(const std::string text, ReadMember(file, members, *members.pickle, kMaxPickle));
  QC_ASSIGN(const Pickle pickle, ReadPickle(AsBytes(text), TorchGlobals()));
  if (pickle.bytes != text.size()) return Malformed("torch-pickle", "{} bytes follow the end of the pickle", text.size() - pickle.bytes);
  QC_ASSIGN(TorchStorages storages, CollectStorages(pickle));
  for (auto& [key, storage] : storages) {
    const auto found = members.storages.find(key);
    if (found == members.storages.end()) return Malformed("torch-state", "the pickle refers to storage '{}', which the archive does not hold", Escape(key));
    if (found->second->bytes != storage.bytes) {
      return Malformed("torch-state", "storage '{}' has {} bytes, expected {} by the pickle", Escape(key), found->second->bytes, storage.bytes);
    }
    storage.offset = found->second->offset;
  }
  QC_ASSIGN(TorchHeader header, ReadStateDict(pickle, storages, file.bytes));
  if (!members.checksums) header.warnings.emplace_back("written without checksums");
  return header;
}

}  // namespace q2c
