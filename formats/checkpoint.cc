#include "formats/checkpoint.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "formats/base/text.h"
#include "formats/containers/file_kind.h"
#include "formats/containers/gguf.h"
#include "formats/containers/safetensors.h"
#include "formats/containers/torch.h"
#include "formats/gguf_metadata.h"
#include "formats/manifest.h"
#include "formats/weight_files.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxConfigBytes = 16'000'000;
// More weight files than this are opened for each read, so that any number of shards works
// with any limit on open files.
constexpr size_t kMaxHeldOpen = 16;

// Files that belong to the old packing of the weights, or to an earlier conversion, and are not carried over.
constexpr std::array<std::string_view, 14> kOtherWeights = {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack", ".onnx", ".gguf", ".ot",
                                                            ".safetensors", ".bin.index.json", ".safetensors.index.json", ".incomplete", ".npz"};
constexpr std::array<std::string_view, 9> kRewritten = {kConfigName, kQuantizeConfigName, kQuantConfigName, kSumsName, kManifestName, kSignatureName, kProvenanceName, kConversionName, kCardName};
// PyTorch files that are no weights of the model.
constexpr std::array<std::string_view, 8> kNoWeights = {"training_args.bin", "optimizer.bin", "scheduler.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth", "adapter_model.bin"};

template <typename Range>
bool EndsWithAny(std::string_view name, const Range& endings) {
  return std::ranges::any_of(endings, [&](std::string_view ending) { return name.ends_with(ending); });
}
template <typename Range>
bool IsAny(std::string_view name, const Range& names) {
  return std::ranges::find(names, name) != std::ranges::end(names);
}

Result<SideFile> ReadSideFile(const Location& location, const std::string& name) {
  QC_ASSIGN(const InputFile file, location.OpenMember(name));
  QC_TRY(CheckDownloaded(file));  // a pointer for a tokenizer makes an output that nobody can use
  constexpr uint32_t kExecutableBits = 0111;
  return SideFile{name, file.bytes(), (file.stamp().mode & kExecutableBits) != 0};
}

}  // namespace

Result<Checkpoint> Checkpoint::Open(const std::string& path, Links links, Defects* defects) {
  QC_ASSIGN(Location location, Location::Open(path, links));
  Checkpoint checkpoint(std::move(location), defects);
  QC_TRY(checkpoint.ReadFolder());
  checkpoint.defects_ = nullptr;
  return checkpoint;
}

Result<Checkpoint> Checkpoint::OpenFile(const std::string& path, Links links, Defects* defects) {
  const std::string whole = AbsolutePath(path);
  QC_ASSIGN(Location location, Location::Open(ParentPath(whole), links));
  Checkpoint checkpoint(std::move(location), defects);
  const std::string name = BaseName(whole);
  QC_TRY(checkpoint.Keep(name.ends_with(".gguf") ? checkpoint.ReadGguf({name}) : checkpoint.ReadShards({name})));
  checkpoint.defects_ = nullptr;
  return checkpoint;
}

Status Checkpoint::ReadFolder() {
  const Dir& dir = location_.dir();
  QC_ASSIGN(const std::vector<DirEntry> entries, dir.List());
  std::vector<std::string> shards;
  std::vector<std::string> ggufs;
  std::vector<std::string> pickles;
  std::vector<std::string> others;
  std::vector<std::string> indexes;
  std::vector<std::string> pickle_indexes;
  std::map<std::string, std::string> folded;
  for (const DirEntry& entry : entries) {
    const std::string& name = entry.name;
    if (!IsUtf8(name)) {
      QC_TRY(Keep(Malformed("file-name", "the name of file '{}' is not valid UTF-8; rename it", Escape(name))));
      continue;
    }
    if (const auto [same, fresh] = folded.emplace(Lower(name), name); !fresh) {
      notes_.push_back({"name-case", fmt::format("files '{}' and '{}' differ by case only and collide on some file systems", Escape(same->second), Escape(name))});
    }
    if (entry.kind == FileKind::kFolder && (name.ends_with(".json") || name.ends_with(".safetensors"))) {
      QC_TRY(Keep(Malformed("file-kind", "'{}' is a folder, expected a regular file", Escape(dir.PathOf(name)))));
      continue;
    }
    if (entry.kind == FileKind::kFolder) {
      others.push_back(name + "/");
    } else if (name.ends_with(".safetensors.index.json")) {
      indexes.push_back(name);
    } else if (name.ends_with(kTorchIndexEnding)) {
      pickle_indexes.push_back(name);
    } else if (name.ends_with(".safetensors") && !name.starts_with("autogptq_model_")) {
      shards.push_back(name);
    } else if (name.ends_with(".gguf") && !name.starts_with("mmproj")) {
      ggufs.push_back(name);
    } else if (IsTorchFile(name) && !IsAny(name, kNoWeights)) {
      pickles.push_back(name);
    } else if (EndsWithAny(name, kOtherWeights) || name.ends_with(".py") || name == kUndoName) {
      others.push_back(name);
    } else if (!IsAny(name, kRewritten)) {
      Result<SideFile> side = ReadSideFile(location_, name);
      if (side.ok()) side_files_.push_back(std::move(side).value());
      else QC_TRY(Keep(std::move(side).TakeError()));
    }
  }
  QC_TRY(ReadConfigs());

  // The first kind that is there is read, the others are reported.
  const bool torch = shards.empty() && indexes.empty() && ggufs.empty() && (!pickles.empty() || !pickle_indexes.empty());
  if (torch) {
    shards.swap(pickles);
    indexes.swap(pickle_indexes);
  }
  if (indexes.size() > 1) QC_TRY(Keep(Malformed("index-several", "several indexes: {}; expected one", QuoteSome(indexes))));
  if (!indexes.empty()) {
    QC_TRY(ReadIndexed(indexes[0], shards));
  } else if (shards.empty() && !ggufs.empty()) {
    QC_TRY(Keep(CheckNumbering(ggufs)));
    QC_TRY(ReadGguf(ggufs));
    ggufs.clear();
  } else if (torch) {
    QC_TRY(Keep(ReadTorch(shards, &others)));
  } else if (shards.empty()) {
    return Keep(Malformed("no-weights", "folder '{}' holds no *.safetensors, *.bin, *.pt or *.gguf; expected a checkpoint", Escape(path())));
  } else {
    QC_TRY(Keep(CheckNumbering(shards)));
    QC_TRY(ReadShards(shards));
  }
  if (torch && !files_.empty()) notes_.push_back({"torch", fmt::format("the weights are PyTorch files ('{}'{}); what is in them is read as data", Escape(files_.front().name), files_.size() > 1 ? " and more" : "")});
  for (const std::vector<std::string>* unread : {&ggufs, &pickles, &pickle_indexes}) others.insert(others.end(), unread->begin(), unread->end());
  if (!others.empty()) notes_.push_back({"unmanaged", fmt::format("not carried over: {}", QuoteSome(others, 8))});
  return SettleDuplicates();
}

Status Checkpoint::ReadConfigs() {
  const auto read = [&](std::string_view name, std::optional<Json>* out) -> Status {
    QC_ASSIGN(const bool exists, location_.dir().Has(std::string(name)));
    if (!exists) return {};
    QC_ASSIGN(const InputFile file, location_.OpenMember(std::string(name)));
    QC_TRY(CheckDownloaded(file));
    QC_ASSIGN(const std::string text, file.ReadAll(kMaxConfigBytes));
    Result<Json> json = ParseJson(text, JsonNumbers::kAllowNan);
    if (!json.ok()) return std::move(json).TakeError().Within(fmt::format("file '{}'", Escape(file.path())));
    if (!json.value().is_object()) return Malformed("config-type", "file '{}' holds {}, expected an object", Escape(file.path()), json.value().KindName());
    *out = std::move(json).value();
    return {};
  };
  QC_TRY(Keep(read(kConfigName, &config_)));
  QC_TRY(Keep(read(kQuantizeConfigName, &quantize_config_)));
  // AutoAWQ's older name.
  return quantize_config_.has_value() ? Status() : Keep(read(kQuantConfigName, &quantize_config_));
}

// One model of all the files, by their names.
Status Checkpoint::ReadTorch(const std::vector<std::string>& names, std::vector<std::string>* others) {
  const Json* base_name = quantize_config_.has_value() ? quantize_config_->Find("model_file_base_name") : nullptr;
  QC_ASSIGN(const std::vector<std::string> chosen, ChooseWeights(names, base_name != nullptr && base_name->is_string() ? base_name->text() : ""));
  std::ranges::copy_if(names, std::back_inserter(*others), [&](const std::string& name) { return !IsAny(name, chosen); });
  QC_TRY(Keep(CheckNumbering(chosen)));
  return ReadShards(chosen);
}

Status Checkpoint::ReadShards(const std::vector<std::string>& shards) {
  for (const std::string& name : shards) QC_TRY(Keep(ReadShard(name, shards.size() <= kMaxHeldOpen)));
  std::ranges::stable_sort(tensors_, {}, &TensorInfo::name);
  return {};
}

Status Checkpoint::ReadShard(const std::string& name, bool hold_open) {
  QC_ASSIGN(InputFile file, location_.OpenMember(name));
  const bool torch = IsTorchFile(name);
  SafetensorsHeader header;
  if (torch) {
    QC_ASSIGN(TorchHeader read, ReadTorchHeader(file));
    header = {{}, std::move(read.tensors), std::move(read.warnings)};
  } else {
    QC_ASSIGN(header, ReadSafetensorsHeader(file));
  }
  for (const std::string& warning : header.warnings) {
    notes_.push_back({torch ? "torch" : "safetensors", fmt::format("file '{}': {}", Escape(name), warning)});
  }
  for (TensorInfo& tensor : header.tensors) {
    tensor.file = files_.size();
    tensors_.push_back(std::move(tensor));
  }
  const FileStamp stamp = file.stamp();
  std::optional<InputFile> open;
  if (hold_open) open = std::move(file);
  files_.push_back({name, stamp, std::move(open), std::move(header.metadata)});
  return {};
}

// One file, or all files of one series.
Status Checkpoint::ReadGguf(const std::vector<std::string>& names) {
  if (names.size() > 1) {
    std::set<std::string> series;
    for (const std::string& name : names) {
      const std::optional<ShardName> shard = ParseShardName(name);
      series.insert(shard.has_value() ? fmt::format("{}-of-{}", shard->stem, shard->count) : name);
    }
    if (series.size() > 1) return Keep(Malformed("gguf-several", "several models in one folder: {}; put the one to be read into a folder of its own", QuoteSome(names)));
  }
  const size_t defects = defects_ == nullptr ? 0 : defects_->size();
  for (const std::string& name : names) QC_TRY(Keep(ReadGgufFile(name, names.size() <= kMaxHeldOpen)));
  const bool readable = defects_ == nullptr || defects_->size() == defects;
  if (!config_.has_value() && readable) QC_TRY(Keep(Malformed("gguf-metadata", "no file of '{}' says what model it is (general.architecture)", Escape(path()))));
  std::ranges::stable_sort(tensors_, {}, &TensorInfo::name);
  return {};
}

Status Checkpoint::ReadGgufFile(const std::string& name, bool hold_open) {
  QC_ASSIGN(InputFile file, location_.OpenMember(name));
  QC_ASSIGN(GgufHeader header, ReadGgufHeader(file));
  for (TensorInfo& tensor : header.tensors) {
    tensor.file = files_.size();
    tensors_.push_back(std::move(tensor));
  }
  const FileStamp stamp = file.stamp();
  std::optional<InputFile> open;
  if (hold_open) open = std::move(file);
  files_.push_back({name, stamp, std::move(open), {}});
  if (FindGguf(header.values, "general.architecture") == nullptr) return {};  // not the first of a series
  // A config.json that lies beside the file is another tool's idea of it: the file itself is believed.
  const bool head = std::ranges::any_of(tensors_, [](const TensorInfo& tensor) { return tensor.name == "output.weight"; });
  Result<Json> config = ConfigFromGguf(header.values, head);
  if (!config.ok()) return std::move(config).TakeError().Within(fmt::format("file '{}'", Escape(name)));
  config_ = std::move(config).value();
  Result<std::vector<std::pair<std::string, std::string>>> tokenizer = TokenizerFromGguf(header.values);
  if (tokenizer.ok()) inner_files_ = std::move(tokenizer).value();
  else notes_.push_back({"gguf-tokenizer", fmt::format("no tokenizer is written: {}", tokenizer.error().Text())});
  return {};
}

Status Checkpoint::SettleDuplicates() {
  std::vector<TensorInfo> kept;
  for (TensorInfo& tensor : tensors_) {
    if (kept.empty() || kept.back().name != tensor.name) {
      kept.push_back(std::move(tensor));
      continue;
    }
    const TensorInfo& first = kept.back();
    QC_ASSIGN(const bool same, SameBytes(*this, first, *this, tensor));
    const std::string where = fmt::format("tensor '{}' lies in '{}' and in '{}'", Escape(tensor.name), Escape(files_[first.file].name), Escape(files_[tensor.file].name));
    if (!same) {
      QC_TRY(Keep(Malformed("tensor-twice", "{}, with different content; remove the file that is stale", where)));
      continue;
    }
    notes_.push_back({"tensor-repeated", where + ", equal; one is kept"});
    duplicates_.push_back(std::move(tensor));
  }
  tensors_ = std::move(kept);
  return {};
}

const TensorInfo* Checkpoint::Find(std::string_view name) const {
  const auto found = std::ranges::lower_bound(tensors_, name, {}, &TensorInfo::name);
  return found != tensors_.end() && found->name == name ? &*found : nullptr;
}

Status Checkpoint::Read(const TensorInfo& tensor, uint64_t offset, MutableBytes out) const {
  const auto read = [&](const InputFile& file) -> Status {
    if (tensor.strides.empty()) return file.ReadAt(tensor.offset + offset, out);
    return gathered_->Read(tensor, offset, out, [&](uint64_t at, MutableBytes bytes) { return file.ReadAt(at, bytes); });
  };
  const WeightFile& file = files_[tensor.file];
  if (file.open.has_value()) return read(*file.open);
  QC_ASSIGN(const InputFile opened, Reopen(file));
  return read(opened);
}

Result<InputFile> Checkpoint::Reopen(const WeightFile& file) const {
  QC_ASSIGN(InputFile opened, location_.OpenMember(file.name));
  if (opened.stamp().SameContent(file.stamp)) return opened;
  return MakeError(Code::kTryAgain, "changed-during-read", "file '{}' changed while it was read ({} bytes before, {} now); run again when nobody writes to it",
                   Escape(opened.path()), file.stamp.bytes, opened.bytes());
}

Result<std::vector<std::byte>> Checkpoint::ReadWhole(const TensorInfo& tensor) const {
  std::vector<std::byte> bytes(tensor.bytes);
  QC_TRY(Read(tensor, 0, bytes));
  return bytes;
}

Status Checkpoint::Stream(const TensorInfo& tensor, const std::function<Status(ByteView)>& piece) const {
  constexpr uint64_t kPiece = 1U << 20U;
  std::vector<std::byte> buffer(std::min(kPiece, tensor.bytes));
  for (uint64_t offset = 0; offset < tensor.bytes; offset += kPiece) {
    const MutableBytes part(buffer.data(), std::min(kPiece, tensor.bytes - offset));
    QC_TRY(Read(tensor, offset, part));
    QC_TRY(piece(part));
  }
  return {};
}

Status Checkpoint::CheckUnchanged() const {
  // By name, so that a file that was replaced is noticed too.
  for (const WeightFile& file : files_) QC_TRY(Reopen(file));
  return {};
}

Result<bool> SameBytes(const Checkpoint& a, const TensorInfo& x, const Checkpoint& b, const TensorInfo& y) {
  return x.dtype == y.dtype && x.shape == y.shape ? SameData(a, x, b, y) : Result<bool>(false);
}

Result<bool> SameData(const Checkpoint& a, const TensorInfo& x, const Checkpoint& b, const TensorInfo& y) {
  if (x.bytes != y.bytes) return false;
  uint64_t offset = 0;
  bool same = true;
  std::vector<std::byte> other;
  QC_TRY(a.Stream(x, [&](ByteView piece) -> Status {
    other.resize(piece.size());
    QC_TRY(b.Read(y, offset, other));
    same = same && std::memcmp(piece.data(), other.data(), piece.size()) == 0;
    offset += piece.size();
    return {};
  }));
  return same;
}

}  // namespace q2c
