// The plan: what the output will be, decided before a byte is written, and printable.
// Passes edit it in order (names, biases, heads, zeros, repack, configs, files); the
// executor then carries it out without deciding anything.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "convert/repairs.h"
#include "formats/model.h"
#include "formats/target.h"

namespace q2c {

// How much of the source an action keeps.
enum class Exactness {
  kSameBytes,   // the bytes themselves
  kSameCodes,   // codes, true zero points, scale bits; packed otherwise
  kSameValues,  // every dequantised weight; the codes may differ
  kRounded,     // some value changes
};
std::string_view NameOf(Exactness exactness);

// A quantised linear in the output.
struct PlannedLinear {
  const Linear* linear = nullptr;  // in the input
  std::string name;                // in the output
  const Layout* layout = nullptr;
  QuantShape shape;                // that of the output: groups may be split, channels added
  Exactness exactness = Exactness::kSameCodes;
  std::string rounds;              // why a value changes, with kRounded
  Dtype scale_dtype = Dtype::kF16;  // of the output
  // The channels between gate/up and down in the order of down's groups: channel i was channel
  // order[i]. They are the inputs of the linear `order_of`, and the outputs of those that feed it.
  std::string order_of = {};
  bool orders_inputs = false;
  std::shared_ptr<const std::vector<uint32_t>> order = {};  // null: as they are

  bool quantised() const { return !layout->IsDense(); }
  bool act_order() const { return linear->traits.act_order && !orders_inputs; }
  bool Padded() const { return shape.in_features != linear->traits.shape.in_features || shape.out_features != linear->traits.shape.out_features; }
};

struct PlannedTensor {
  enum class Source {
    kCopy,    // the bytes of input tensor `input`, or of `rows` of it
    kZeros,   // zero bytes
    kEncode,  // part `part` of linear `linear`, decoded and encoded anew
    kCast,    // the elements of input tensor `input` in another dtype
  };

  std::string name;
  Dtype dtype = Dtype::kF32;
  Shape shape;
  uint64_t bytes = 0;
  Source source = Source::kCopy;
  TensorIndex input = 0;             // kCopy; for the others a tensor of the same linear
  OutputRange rows;                  // kCopy, kCast: of the input, where it holds more
  const PlannedLinear* linear = nullptr;  // kEncode
  const PartCodec* part = nullptr;        // kEncode
  std::string action = "copy";
  std::string reason;
  Exactness exactness = Exactness::kSameBytes;
  // Filled by the files pass.
  size_t file = 0;
  uint64_t offset = 0;  // of the first byte, from the start of the file
  uint64_t padding = 0;  // zero bytes that follow it

  bool HasSource() const { return source != Source::kZeros && action != "make"; }
};

struct DroppedTensor {
  TensorIndex input = 0;
  std::string name;     // canonical, or the input's where there is none
  std::string action;   // "zero-bias", "tied-head", "derived-buffer", "user", "text-only", "implied" (by the new layout)
  std::string reason;
  std::optional<TensorIndex> same_as;  // "tied-head": the tensor it repeats
};

// A shard to be written: its head, then its tensors in order, back to back.
struct PlannedFile {
  std::string name;
  std::string head;
  std::vector<size_t> tensors;  // indexes into Plan::tensors, in the order of their offsets
  uint64_t bytes = 0;
  std::optional<size_t> same_as = {};  // the weight file of the input that holds these very bytes
};

struct TextFile {
  std::string name;
  std::string content;
};

struct ConfigEdit {
  std::string file;
  std::string key;
  std::optional<Json> before;
  std::optional<Json> after;
  std::string reason;
  bool private_value = false;  // `before` is shown to the user, but travels in no file
  std::string repair;          // its id
};

struct PlanOptions {
  std::optional<uint64_t> shard_bytes;  // nothing: the source's shards
  bool allow_rounding = false;
  RepairChoice repairs;
  std::optional<uint64_t> group_size;       // to split groups into
  std::optional<uint64_t> pad_intermediate;  // channels between gate/up and down become a multiple of it
  unsigned jobs = 1;                         // threads that look at the data
};

struct Plan {
  const Model* model = nullptr;
  Target target;
  PlanOptions options;
  std::map<std::string, PlannedLinear> linears;  // by canonical name; the quantised ones
  std::vector<PlannedTensor> tensors;
  std::vector<DroppedTensor> dropped;
  Json config;                     // the new config.json
  std::optional<Json> quantize_config;  // the new quantize_config.json, where the target wants one
  bool tied = false;               // in the output
  std::map<std::string, bool> bias_keys;  // keys of config.json that declare biases, where they are to change
  std::map<std::string, uint64_t> sizes;  // keys of config.json that padding changes
  bool side_files = true;          // tokenizer and the like go along
  std::vector<ConfigEdit> edits;
  std::vector<PlannedFile> files;
  std::vector<TextFile> texts;     // index and configs
  std::vector<Note> notes;
  RepairsDone repairs;             // those that the checkpoint needs, by id

  // Is this repair to be made for the tensor, linear, key or file of this name? Keeps account
  // of it. Errors: kRefused "repair-skipped" where the user does not want it and it cannot be left.
  Result<bool> Wants(std::string_view repair, const std::string& subject);
  // The same for a repair that is left as it is where the user does not want it.
  bool Makes(std::string_view repair, const std::string& subject);

  // Files of the input that go along byte for byte.
  std::vector<SideFile> SideFiles() const;
  uint64_t OutputBytes() const;    // all files, without manifest and sums
  std::vector<std::string> LayoutNames() const;  // of the linears in the output
  Exactness Worst() const;  // of all tensors
  uint64_t InputOffset(const PlannedTensor& tensor) const;  // kCopy, kCast: its first byte in the input tensor
  std::string_view Method() const;  // of the quantised ones among them, "gptq"; they share one. Empty: all are dense
  // Index into `tensors` by name.
  std::map<std::string, size_t, std::less<>> ByName() const;
};

// Errors: kRefused with tensor, reason and what to do; kMalformed for configs that contradict themselves.
Result<Plan> MakePlan(const Model& model, const Target& target, const PlanOptions& options);

// For people and for programs.
std::string PlanText(const Plan& plan, bool every_tensor);
Json PlanJson(const Plan& plan);
// What was found and what is done about it, without naming every tensor: {found, done, repairs, config_edits}.
Json PlanSummaryJson(const Plan& plan);
Json RepairsDoneJson(const Plan& plan);
Json EditsJson(const std::vector<ConfigEdit>& edits);
// What becomes of one tensor, named as in the input or as in the output. kUsage if there is none.
Result<std::string> ExplainTensor(const Plan& plan, const std::string& name);

}  // namespace q2c
