#include "formats/containers/torch_legacy.h"

#include <algorithm>
#include <array>
#include <optional>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxFront = 64'000'000;  // the five pickles
constexpr uint64_t kFirstRead = 1U << 20U;
constexpr uint64_t kVersion = 1001;
// The number 0x1950a86a20f9469cfc6c, as a pickle of protocol 2 holds it.
constexpr std::string_view kMagic("\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19", 10);

// magic, version, what machine wrote it, the object, the keys of the storages
enum Part : size_t { kMagicNumber, kVersionNumber, kSystem, kObject, kKeys, kParts };

struct Front {
  std::vector<std::byte> bytes;  // the pickles refer to these
  std::array<Pickle, kParts> pickles;
  uint64_t end = 0;  // where the storages begin
};

Status ReadPickles(ByteView bytes, Front* front) {
  front->end = 0;
  for (size_t i = 0; i < kParts; ++i) {
    QC_ASSIGN(front->pickles[i], ReadPickle(bytes.subspan(front->end), TorchGlobals()));
    front->end += front->pickles[i].bytes;
    const PickleValue& root = front->pickles[i].root;
    if (i == kMagicNumber && (root.kind != PickleKind::kLong || front->pickles[i].Text(root) != kMagic)) return Malformed("torch-state", "the file does not begin with PyTorch's number: it is a pickle of something else");
    if (i == kVersionNumber && (root.kind != PickleKind::kInt || root.number != kVersion)) return Refused("torch-unread", "the file is of a version that is not {}", kVersion);
  }
  return {};
}

// Nobody says how long the pickles are: more is read until they end.
Result<Front> ReadFront(const ByteSource& file) {
  Front front;
  for (uint64_t size = std::min(kFirstRead, file.bytes);; size = std::min({2 * size, file.bytes, kMaxFront})) {
    front.bytes.resize(size);
    QC_TRY(file.read(0, front.bytes));
    Status status = ReadPickles(front.bytes, &front);
    if (status.ok()) return front;
    if (status.error().id != "truncated" || size == file.bytes || size == kMaxFront) return std::move(status).TakeError();
  }
}

Status CheckSystem(const Pickle& pickle) {
  if (pickle.root.kind != PickleKind::kDict) return Malformed("torch-state", "the third pickle is no dictionary of what machine wrote the file");
  const std::span<const PickleValue> items = pickle.Items(pickle.root);
  for (size_t i = 0; i + 1 < items.size(); i += 2) {
    if (items[i].kind != PickleKind::kText || pickle.Text(items[i]) != "little_endian") continue;
    if (items[i + 1].kind != PickleKind::kBool) break;
    return items[i + 1].number == 1 ? Status() : Refused("torch-unread", "the file was written on a big-endian machine; only little-endian files are read");
  }
  return Malformed("torch-state", "the third pickle does not say in which byte order the file was written");
}

// The storages follow in the order of the keys, each as its number of elements and its bytes.
Status PlaceStorages(const ByteSource& file, const Front& front, TorchStorages* storages) {
  const Pickle& pickle = front.pickles[kKeys];
  if (pickle.root.kind != PickleKind::kList) return Malformed("torch-state", "the fifth pickle is no list of keys");
  uint64_t at = front.end;
  size_t placed = 0;
  for (const PickleValue& item : pickle.Items(pickle.root)) {
    if (item.kind != PickleKind::kText) return Malformed("torch-state", "the list of keys holds something that is no text");
    const std::string_view key = pickle.Text(item);
    const auto found = storages->find(key);
    if (found == storages->end()) return Malformed("torch-state", "storage '{}' is listed, but no tensor says of what type it is", Escape(key, 60));
    TorchStorage& storage = found->second;
    if (storage.offset != 0) return Malformed("torch-state", "storage '{}' is listed twice", Escape(key, 60));
    std::array<std::byte, 8> count{};
    if (!file.Holds(at, count.size())) return Malformed("truncated", "the file has {} bytes and ends before storage '{}': it is cut short; download or copy it again", file.bytes, Escape(key, 60));
    QC_TRY(file.read(at, count));
    const auto elements = Load<uint64_t>(count.data());
    if ((CheckedSize(elements) * storage.item_bytes).value() != storage.bytes) {
      return Malformed("torch-state", "storage '{}' has {} elements, expected {} by the pickle", Escape(key, 60), elements, storage.bytes / storage.item_bytes);
    }
    storage.offset = at + count.size();
    if (!file.Holds(storage.offset, storage.bytes)) {
      return Malformed("truncated", "the file has {} bytes, but storage '{}' ends at byte {}: it is cut short; download or copy it again", file.bytes, Escape(key, 60), (CheckedSize(storage.offset) + storage.bytes).value().value_or(UINT64_MAX));
    }
    at = storage.offset + storage.bytes;
    ++placed;
  }
  if (placed != storages->size()) return Malformed("torch-state", "{} storages are listed, expected {}", placed, storages->size());
  if (at != file.bytes) return Malformed("trailing-bytes", "the file has {} bytes, expected {}: {} bytes follow the last storage", file.bytes, at, file.bytes - at);
  return {};
}

}  // namespace

bool IsTorchLegacy(ByteView head) {
  const std::string_view text(reinterpret_cast<const char*>(head.data()), head.size());  // NOLINT: bytes as text
  return text.starts_with('\x80') && text.substr(0, 32).find(kMagic) != std::string_view::npos;
}

Result<TorchHeader> ReadTorchLegacy(const ByteSource& file) {
  QC_ASSIGN(const Front front, ReadFront(file));
  QC_TRY(CheckSystem(front.pickles[kSystem]));
  QC_ASSIGN(TorchStorages storages, CollectStorages(front.pickles[kObject]));
  QC_TRY(PlaceStorages(file, front, &storages));
  return ReadStateDict(front.pickles[kObject], storages, file.bytes);
}

}  // namespace q2c
