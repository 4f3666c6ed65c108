// A checkpoint: the folder of one model, read as one sorted set of tensors, whatever
// files they lie in, with its configs and the files that go along with them.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "formats/base/json.h"
#include "formats/location.h"
#include "formats/strided.h"
#include "formats/tensor.h"

namespace q2c {

// A file beside the weights that is carried over byte for byte.
struct SideFile {
  std::string name;
  uint64_t bytes = 0;
  bool executable = false;
};

// Something worth saying that is no error.
struct Note {
  std::string id;
  std::string message;
};

struct WeightFile {
  std::string name;
  FileStamp stamp;               // as it was when its header was read
  std::optional<InputFile> open;  // held only where the files are few
  std::vector<std::pair<std::string, std::string>> metadata;  // of a safetensors file
};

class Checkpoint {
 public:
  // Reads the folder's list, all headers, the index and the configs; no tensor data.
  // Errors: kMalformed for anything broken or incomplete; kRefused for containers that
  // are not read; kUsage for a folder that is not there. With `defects` the first two are put
  // there, and what is broken is left out: a shard, an entry of the index, a config.
  static Result<Checkpoint> Open(const std::string& path, Links links, Defects* defects = nullptr);
  // One weight file by itself, without index and configs.
  static Result<Checkpoint> OpenFile(const std::string& path, Links links, Defects* defects = nullptr);

  const std::string& path() const { return location_.dir().path(); }
  const Location& location() const { return location_; }
  const std::vector<WeightFile>& files() const { return files_; }
  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // sorted by name
  const TensorInfo* Find(std::string_view name) const;
  // Tensors that repeat one of tensors() in another file: same name, equal bytes.
  const std::vector<TensorInfo>& duplicates() const { return duplicates_; }
  const std::optional<Json>& config() const { return config_; }
  const std::optional<Json>& quantize_config() const { return quantize_config_; }
  const std::vector<SideFile>& side_files() const { return side_files_; }
  // Files that other containers keep beside the weights and this one keeps inside: name, content.
  const std::vector<std::pair<std::string, std::string>>& inner_files() const { return inner_files_; }
  const std::vector<Note>& notes() const { return notes_; }

  // Bytes [offset, offset + out.size()) of a tensor.
  Status Read(const TensorInfo& tensor, uint64_t offset, MutableBytes out) const;
  Result<std::vector<std::byte>> ReadWhole(const TensorInfo& tensor) const;
  // Hands the tensor over in pieces of at most 1 MiB.
  Status Stream(const TensorInfo& tensor, const std::function<Status(ByteView)>& piece) const;
  // kTryAgain if a weight file is not what it was when it was opened.
  Status CheckUnchanged() const;
  // One of files(). kTryAgain if it is not what it was.
  Result<InputFile> Reopen(const WeightFile& file) const;

 private:
  Checkpoint(Location location, Defects* defects) : location_(std::move(location)), defects_(defects) {}
  Status ReadFolder();
  Status ReadIndexed(const std::string& name, const std::vector<std::string>& shards);
  Status ReadIndex(const std::string& name, const std::vector<std::string>& shards);
  Status ReadTorch(const std::vector<std::string>& names, std::vector<std::string>* others);
  Status ReadShards(const std::vector<std::string>& shards);
  Status ReadShard(const std::string& name, bool hold_open);
  Status ReadGguf(const std::vector<std::string>& names);
  Status ReadGgufFile(const std::string& name, bool hold_open);
  Status SettleDuplicates();
  Status ReadConfigs();

  Status Keep(Error error) const { return KeepOrFail(defects_, std::move(error)); }
  Status Keep(Status status) const { return KeepOrFail(defects_, std::move(status)); }

  Location location_;
  Defects* defects_;  // only while it is opened
  std::vector<WeightFile> files_;
  std::vector<TensorInfo> tensors_;
  std::vector<TensorInfo> duplicates_;
  std::vector<std::pair<std::string, std::string>> weight_map_;  // tensor, file; sorted; empty without an index
  std::optional<Json> config_;
  std::optional<Json> quantize_config_;
  std::vector<SideFile> side_files_;
  std::vector<std::pair<std::string, std::string>> inner_files_;
  std::vector<Note> notes_;
  std::unique_ptr<GatheredTensors> gathered_ = std::make_unique<GatheredTensors>();
};

// Are the bytes of the two tensors equal, whatever their dtypes and shapes say?
Result<bool> SameData(const Checkpoint& a, const TensorInfo& x, const Checkpoint& b, const TensorInfo& y);
// Are the two tensors equal: dtype, shape and bytes? (Not their names.)
Result<bool> SameBytes(const Checkpoint& a, const TensorInfo& x, const Checkpoint& b, const TensorInfo& y);

inline constexpr std::string_view kConfigName = "config.json";
inline constexpr std::string_view kQuantizeConfigName = "quantize_config.json";
inline constexpr std::string_view kQuantConfigName = "quant_config.json";
inline constexpr std::string_view kIndexName = "model.safetensors.index.json";

}  // namespace q2c
