#include "verify/readback.h"

#include <algorithm>
#include <map>

#include "formats/base/hash.h"
#include "formats/base/text.h"
#include "formats/containers/safetensors.h"
#include "verify/parallel.h"

namespace q2c {
namespace {

constexpr uint64_t kPiece = 1U << 20U;

// A range of a file and the digest that its bytes must have.
struct Expected {
  std::string file;
  uint64_t offset = 0;
  uint64_t bytes = 0;
  std::string xxh3;
  std::string what;  // "tensor 'x'", or empty for a whole file
};

Error Differs(const InputFile& file, std::string_view what) {
  return MakeError(Code::kFindings, "hash", "file '{}'{}{}: the bytes read back are not those that were meant to be written", Escape(file.path()), what.empty() ? "" : ", ", what);
}

// The head must be the one that these tensors have; then every range of data has its digest.
Status ExpectShard(const InputFile& file, const ManifestFile& meant, const std::vector<const ManifestTensor*>& tensors, std::vector<Expected>* expected) {
  std::vector<SafetensorsEntry> entries;
  for (const ManifestTensor* tensor : tensors) entries.push_back({tensor->name, tensor->dtype, tensor->shape});
  SortForSafetensors(&entries);
  const std::string head = BuildSafetensorsHead(entries);
  if (file.bytes() != meant.bytes || file.bytes() < head.size()) return Differs(file, fmt::format("{} bytes instead of {}", file.bytes(), meant.bytes));
  std::vector<std::byte> read(head.size());
  QC_TRY(file.ReadAt(0, read));
  if (!std::ranges::equal(read, AsBytes(head))) return Differs(file, "header");
  std::map<std::string_view, const ManifestTensor*> by_name;
  for (const ManifestTensor* tensor : tensors) by_name[tensor->name] = tensor;
  uint64_t offset = head.size();
  for (const SafetensorsEntry& entry : entries) {
    const uint64_t bytes = BytesOf(entry.dtype, entry.shape).value_or(0);
    expected->push_back({meant.name, offset, bytes, by_name.at(entry.name)->xxh3, fmt::format("tensor '{}'", Escape(entry.name))});
    offset += bytes;
  }
  return {};
}

}  // namespace

Status VerifyHashes(const Dir& dir, const Manifest& manifest, const ReadbackOptions& options) {
  std::map<std::string, std::vector<const ManifestTensor*>> shards;
  for (const ManifestTensor& tensor : manifest.tensors) shards[tensor.file].push_back(&tensor);
  std::vector<Expected> expected;
  for (const ManifestFile& meant : manifest.files) {
    QC_ASSIGN(const InputFile file, InputFile::Open(dir, meant.name));
    if (options.from == ReadFrom::kDevice) file.DropCache();
    const auto shard = shards.find(meant.name);
    if (shard != shards.end()) {
      QC_TRY(ExpectShard(file, meant, shard->second, &expected));
    } else if (file.bytes() != meant.bytes) {
      return Differs(file, fmt::format("{} bytes instead of {}", file.bytes(), meant.bytes));
    } else {
      expected.push_back({meant.name, 0, meant.bytes, meant.xxh3, ""});
    }
  }
  return RunParallel(expected.size(), options.jobs, [&](size_t i) -> Status {
    const Expected& range = expected[i];
    QC_ASSIGN(const InputFile file, InputFile::Open(dir, range.file));
    Xxh3 hash;
    std::vector<std::byte> buffer(std::min(kPiece, range.bytes));
    for (uint64_t at = 0; at < range.bytes; at += kPiece) {
      if (options.check_stop) QC_TRY(options.check_stop());
      const MutableBytes part(buffer.data(), std::min(kPiece, range.bytes - at));
      QC_TRY(file.ReadAt(range.offset + at, part));
      hash.Update(part);
      if (options.progress) options.progress(part.size());
    }
    if (hash.Hex() != range.xxh3) return Differs(file, range.what);
    return {};
  });
}

}  // namespace q2c
