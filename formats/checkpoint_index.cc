#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "formats/checkpoint.h"
#include "formats/containers/file_kind.h"
#include "formats/weight_files.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxIndexBytes = 64'000'000;

}  // namespace

// Without a readable index the shards speak for themselves.
Status Checkpoint::ReadIndexed(const std::string& name, const std::vector<std::string>& shards) {
  const size_t before = files_.size();
  Status status = ReadIndex(name, shards);
  if (status.ok()) return status;
  QC_TRY(Keep(std::move(status).TakeError()));
  return files_.size() > before ? Status() : ReadShards(shards);
}

Status Checkpoint::ReadIndex(const std::string& name, const std::vector<std::string>& shards) {
  QC_ASSIGN(const InputFile file, location_.OpenMember(name));
  QC_TRY(CheckDownloaded(file));
  const auto within = [&](Error error) { return std::move(error).Within(fmt::format("index '{}'", Escape(file.path()))); };
  QC_ASSIGN(const std::string text, file.ReadAll(kMaxIndexBytes));
  Result<Json> parsed = ParseJson(text);
  if (!parsed.ok()) return within(std::move(parsed).TakeError());
  const Json& index = parsed.value();
  const Json* map = index.Find("weight_map");
  if (map == nullptr || !map->is_object()) {
    return within(Malformed("index-map", "'weight_map' is {}, expected an object of tensor and file", map == nullptr ? "missing" : map->KindName()));
  }
  std::set<std::string> names;
  for (const auto& [tensor, value] : map->members()) {
    if (!value.is_string()) {
      QC_TRY(Keep(within(Malformed("index-map", "tensor '{}': {}, expected a file name", Escape(tensor), value.KindName()))));
      continue;
    }
    const std::string& target = value.text();
    if (!IsPlainFileName(target) || (target.size() > 1 && target[1] == ':')) {
      QC_TRY(Keep(within(Malformed("index-path", "tensor '{}' is said to lie in '{}'; expected the plain name of a file in this folder", Escape(tensor), Escape(target)))));
      continue;
    }
    if (IsTorchFile(target) && !name.ends_with(kTorchIndexEnding)) {
      return within(Refused("container-pickle", "it names a PyTorch file ('{}'), expected *.safetensors; an index of PyTorch files is called pytorch_model.bin.index.json", Escape(target)));
    }
    names.insert(target);
    weight_map_.emplace_back(tensor, target);
  }
  std::ranges::sort(weight_map_);
  const std::string single = "model.safetensors";
  if (!names.contains(single) && std::ranges::find(shards, single) != shards.end()) {
    QC_TRY(Keep(within(Malformed("index-and-single", "'model.safetensors' lies beside it and is not named by it; loaders disagree on which to read: remove the one that is stale"))));
  }
  for (const std::string& shard : shards) {
    if (!names.contains(shard)) notes_.push_back({"stale-shard", fmt::format("'{}' is not named by the index and is ignored", Escape(shard))});
  }
  std::vector<std::string> there;
  for (const std::string& shard : names) {
    if (std::ranges::find(shards, shard) != shards.end()) there.push_back(shard);
    else QC_TRY(Keep(within(Malformed("shard-missing", "shard '{}' is named but not in the folder; complete the download", Escape(shard)))));
  }
  QC_TRY(ReadShards(there));

  // The index and the headers must tell the same story.
  // Both are sorted by the names of the tensors.
  auto info = tensors_.begin();
  for (const auto& [tensor, target] : weight_map_) {
    while (info != tensors_.end() && info->name < tensor) ++info;
    bool found = false;
    for (auto at = info; at != tensors_.end() && at->name == tensor; ++at) found = found || files_[at->file].name == target;
    if (found) continue;
    const bool readable = std::ranges::find(files_, target, &WeightFile::name) != files_.end();  // else that is the defect
    if (readable) QC_TRY(Keep(within(Malformed("index-tensor", "tensor '{}' is said to lie in '{}', which does not hold it", Escape(tensor), Escape(target)))));
  }
  uint64_t total = 0;
  auto entry = weight_map_.begin();
  for (const TensorInfo& tensor : tensors_) {
    total += tensor.bytes;
    while (entry != weight_map_.end() && entry->first < tensor.name) ++entry;
    if (entry != weight_map_.end() && entry->first == tensor.name) continue;
    QC_TRY(Keep(within(Malformed("index-tensor", "tensor '{}' lies in '{}', but the index does not list it: loaders would not read it", Escape(tensor.name), Escape(files_[tensor.file].name)))));
  }
  const Json* metadata = index.Find("metadata");
  const Json* declared = metadata == nullptr ? nullptr : metadata->Find("total_size");
  // Loaders do not look at the value (transformers 5.23 takes any, as long as there is a metadata).
  if (declared == nullptr) {
    notes_.push_back({"index-total-wrong", "the index lacks metadata.total_size; it is written anew"});
  } else if (declared->AsU64() != total) {
    const std::string said = declared->is_number() ? Escape(declared->text(), 40) : std::string(declared->KindName());
    notes_.push_back({"index-total-wrong", fmt::format("the index says total_size {}, the tensors have {} bytes; it is written anew", said, total)});
  }
  return {};
}

}  // namespace q2c
