#include "verify/readback.h"

#include <algorithm>
#include <map>

#include "formats/base/hash.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "formats/base/timings.h"
#include "formats/containers/gguf.h"
#include "formats/containers/safetensors.h"

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

// The head must be what was meant, byte for byte; then it says where the tensors lie, and every
// range of data has its digest. What lies between tensors is padding.
Status ExpectShard(const InputFile& file, const ManifestFile& meant, const std::vector<const ManifestTensor*>& tensors, std::vector<Expected>* expected) {
  if (file.bytes() != meant.bytes || meant.head_bytes > meant.bytes) return Differs(file, fmt::format("{} bytes instead of {}", file.bytes(), meant.bytes));
  std::vector<std::byte> head(meant.head_bytes);
  QC_TRY(file.ReadAt(0, head));
  if (Xxh3::Of(head) != meant.xxh3) return Differs(file, "header");
  std::vector<TensorInfo> stored;
  if (meant.name.ends_with(".gguf")) {
    QC_ASSIGN(GgufHeader header, ReadGgufHeader(file));
    stored = std::move(header.tensors);
  } else {
    QC_ASSIGN(SafetensorsHeader header, ReadSafetensorsHeader(file));
    stored = std::move(header.tensors);
  }
  std::map<std::string_view, const TensorInfo*> by_name;
  for (const TensorInfo& tensor : stored) by_name[tensor.name] = &tensor;
  for (const ManifestTensor* tensor : tensors) {
    const auto found = by_name.find(tensor->name);
    if (found == by_name.end()) return Differs(file, fmt::format("tensor '{}' is missing", Escape(tensor->name)));
    expected->push_back({meant.name, found->second->offset, found->second->bytes, tensor->xxh3, fmt::format("tensor '{}'", Escape(tensor->name))});
  }
  std::ranges::sort(stored, {}, &TensorInfo::offset);
  uint64_t end = meant.head_bytes;
  const auto padding = [&](uint64_t next) {
    if (next > end) expected->push_back({meant.name, end, next - end, Xxh3::Of(std::vector<std::byte>(next - end)), "padding"});
  };
  for (const TensorInfo& tensor : stored) {
    padding(tensor.offset);
    end = tensor.offset + tensor.bytes;
  }
  padding(meant.bytes);
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
      {
        const Timed timed(Stage::kHash);
        hash.Update(part);
      }
      if (options.progress) options.progress(part.size());
    }
    if (hash.Hex() != range.xxh3) return Differs(file, range.what);
    return {};
  });
}

}  // namespace q2c
