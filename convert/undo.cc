#include "convert/undo.h"

#include <algorithm>
#include <cstring>
#include <map>

#include "convert/execute.h"
#include "convert/rebuild.h"
#include "formats/base/hash.h"
#include "formats/base/parallel.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

// What may be kept of the input, before compression. Headers and configs of any model are less.
constexpr uint64_t kMaxLiterals = 64U << 20U;
constexpr uint32_t kPermissions = 0777;
constexpr std::string_view kInstead = "convert without --undo and keep the input";

// Where the bytes of an input tensor come from, if the output has them.
using Origins = std::map<TensorIndex, UndoSpan>;

std::map<std::string, size_t> OutputIndexes(const UndoRecord& record) {
  std::map<std::string, size_t> indexes;
  for (size_t i = 0; i < record.outputs.size(); ++i) indexes.emplace(record.outputs[i].name, i);
  return indexes;
}

// The parts of a linear that no tensor of the output repeats, where the codecs can make them.
void AddParts(const Plan& plan, const PlannedLinear& planned, Origins* origins, UndoRecord* record) {
  const Linear& linear = *planned.linear;
  if (!IsInvertible(*planned.layout) || !IsInvertible(*linear.layout)) return;
  const QuantShape& shape = linear.traits.shape;
  QuantTraits traits = linear.traits;
  traits.has_zero_0 = false;  // what was stored can be stored again
  if (linear.layout->Refuses(traits).has_value() || shape.group_size % planned.shape.group_size != 0) return;
  std::optional<size_t> index;
  for (const PartCodec& part : linear.layout->parts) {
    const std::optional<TensorIndex> tensor = linear.Part(part.suffix);
    if (!tensor.has_value() || origins->contains(*tensor)) continue;
    const TensorInfo& info = plan.model->info(*tensor);
    const Dtype dtype = part.dtype.value_or(linear.traits.scale_dtype);
    if (dtype != info.dtype || BytesOf(dtype, part.shape(shape)) != info.bytes) continue;
    if (!index.has_value()) {
      index = record->linears.size();
      record->linears.push_back({planned.name, std::string(planned.layout->name), shape.in_features, shape.out_features, shape.bits, planned.shape.group_size,
                                 std::string(linear.layout->name), shape.group_size, planned.scale_dtype == linear.traits.scale_dtype ? "" : std::string(NameOf(linear.traits.scale_dtype))});
    }
    origins->emplace(*tensor, UndoSpan{UndoSpan::Kind::kPart, info.bytes, *index, 0, std::string(part.suffix)});
  }
}

Origins FindOrigins(const Plan& plan, UndoRecord* record) {
  const std::map<std::string, size_t> outputs = OutputIndexes(*record);
  Origins origins;
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.source != PlannedTensor::Source::kCopy) continue;
    origins.emplace(tensor.input, UndoSpan{UndoSpan::Kind::kCopy, tensor.bytes, outputs.at(plan.files[tensor.file].name), tensor.offset, ""});
  }
  for (const DroppedTensor& dropped : plan.dropped) {
    if (!dropped.same_as.has_value()) continue;
    const auto same = origins.find(*dropped.same_as);
    if (same != origins.end()) origins.emplace(dropped.input, same->second);
  }
  for (const auto& [name, linear] : plan.linears) AddParts(plan, linear, &origins, record);
  return origins;
}

// A tensor's bytes within a file, and where they come from.
struct Claim {
  uint64_t begin = 0;
  UndoSpan span;
};

// Puts the spans of one original file together. What nothing claims is kept: headers, padding,
// tensors that were dropped, whole files that were not carried over.
class FileBuilder {
 public:
  FileBuilder(const InputFile& in, std::string name, uint64_t* left) : in_(in), left_(left) {
    file_.name = std::move(name);
    file_.mode = in.stamp().mode & kPermissions;
    file_.bytes = in.bytes();
  }

  Result<UndoFile> Build(std::vector<Claim> claims) {
    std::ranges::sort(claims, [](const Claim& a, const Claim& b) { return std::pair(a.begin, b.span.bytes) < std::pair(b.begin, a.span.bytes); });
    uint64_t at = 0;
    for (Claim& claim : claims) {
      // Tensors may share bytes; a part can be made whole only.
      const uint64_t end = claim.begin + claim.span.bytes;
      const uint64_t covered = at > claim.begin ? at - claim.begin : 0;
      if (end <= at || (covered > 0 && claim.span.kind == UndoSpan::Kind::kPart)) continue;
      QC_TRY(Keep(at, std::max(at, claim.begin)));
      claim.span.at += covered;
      claim.span.bytes -= covered;
      Add(std::move(claim.span));
      at = end;
    }
    QC_TRY(Keep(at, in_.bytes()));
    return std::move(file_);
  }

 private:
  void Add(UndoSpan span) {
    if (span.bytes == 0) return;
    if (!file_.spans.empty()) {
      UndoSpan& last = file_.spans.back();
      const bool goes_on = span.kind == UndoSpan::Kind::kCopy ? last.source == span.source && last.at + last.bytes == span.at : span.kind != UndoSpan::Kind::kPart;
      if (last.kind == span.kind && goes_on) {
        last.bytes += span.bytes;
        return;
      }
    }
    file_.spans.push_back(std::move(span));
  }

  // Bytes [begin, end) into the record; long runs of zeros are only counted.
  Status Keep(uint64_t begin, uint64_t end) {
    constexpr uint64_t kPiece = 4096;
    std::vector<std::byte> piece;
    for (uint64_t at = begin; at < end; at += piece.size()) {
      piece.resize(std::min(kPiece, end - at));
      QC_TRY(in_.ReadAt(at, piece));
      const bool zeros = std::ranges::all_of(piece, [](std::byte b) { return b == std::byte{0}; });
      Add({zeros ? UndoSpan::Kind::kZeros : UndoSpan::Kind::kBytes, piece.size(), 0, 0, ""});
      if (zeros) continue;
      if (piece.size() > *left_) {
        return Refused("undo-size", "file '{}': more than {} of the input would have to be kept, since the output does not hold it; {}", Escape(in_.path()), HumanBytes(kMaxLiterals), kInstead);
      }
      *left_ -= piece.size();
      file_.literals.insert(file_.literals.end(), piece.begin(), piece.end());
    }
    return {};
  }

  const InputFile& in_;
  uint64_t* left_;  // of kMaxLiterals
  UndoFile file_;
};

std::map<std::string, std::vector<Claim>> ClaimsByFile(const Plan& plan, UndoRecord* record) {
  const Checkpoint& checkpoint = *plan.model->checkpoint;
  const Origins origins = FindOrigins(plan, record);
  std::map<std::string, std::vector<Claim>> claims;
  for (const auto& [index, span] : origins) {
    const TensorInfo& info = checkpoint.tensors()[index];
    if (!info.strides.empty()) continue;  // its bytes do not lie in one run
    claims[checkpoint.files()[info.file].name].push_back({info.offset, span});
  }
  for (const TensorInfo& twin : checkpoint.duplicates()) {
    const TensorInfo* kept = checkpoint.Find(twin.name);
    const auto origin = origins.find(static_cast<TensorIndex>(kept - checkpoint.tensors().data()));
    if (origin != origins.end() && twin.strides.empty()) claims[checkpoint.files()[twin.file].name].push_back({twin.offset, origin->second});
  }
  if (!plan.side_files) return claims;
  const std::map<std::string, size_t> outputs = OutputIndexes(*record);
  for (const SideFile& side : plan.SideFiles()) {
    if (side.bytes > 0) claims[side.name].push_back({0, {UndoSpan::Kind::kCopy, side.bytes, outputs.at(side.name), 0, ""}});
  }
  return claims;
}

// Runs of bytes that differ, few bytes apart taken together.
void Differences(uint64_t offset, ByteView made, ByteView meant, std::vector<UndoPatch>* patches, std::vector<std::byte>* literals) {
  constexpr uint64_t kNear = 16;
  if (std::memcmp(made.data(), meant.data(), made.size()) == 0) return;
  for (uint64_t i = 0; i < made.size(); ++i) {
    if (made[i] == meant[i]) continue;
    uint64_t end = i + 1;
    for (uint64_t j = end; j < made.size() && j < end + kNear; ++j) {
      if (made[j] != meant[j]) end = j + 1;
    }
    patches->push_back({offset + i, end - i});
    literals->insert(literals->end(), meant.begin() + static_cast<std::ptrdiff_t>(i), meant.begin() + static_cast<std::ptrdiff_t>(end));
    i = end - 1;
  }
}

// Makes a file again, takes the digest of the original and keeps what differs.
Status ProveFile(const Plan& plan, const Rebuilder& rebuilder, const UndoOptions& options, uint64_t budget, UndoFile* file) {
  QC_ASSIGN(const InputFile in, plan.model->checkpoint->location().OpenMember(file->name));
  Sha256 sha256;
  std::vector<std::byte> meant;
  std::vector<UndoPatch> patches;
  std::vector<std::byte> literals;
  QC_TRY(rebuilder.Stream(*file, [&](uint64_t offset, MutableBytes made) -> Status {
    QC_TRY(CheckStop(options.stop));
    meant.resize(made.size());
    QC_TRY(in.ReadAt(offset, meant));
    sha256.Update(meant);
    Differences(offset, made, meant, &patches, &literals);
    if (literals.size() > budget) {
      return Refused("undo-size", "file '{}': more than {} are not what the output gives back; {}", Escape(in.path()), HumanBytes(budget), kInstead);
    }
    if (options.progress != nullptr) options.progress->Add(made.size());
    return {};
  }));
  QC_TRY(in.CheckUnchanged());
  if (in.bytes() != file->bytes) return MakeError(Code::kTryAgain, "changed-during-read", "file '{}' changed while it was read; run again when nobody writes to it", Escape(in.path()));
  file->sha256 = sha256.Hex();
  file->patches = std::move(patches);
  file->literals.insert(file->literals.end(), literals.begin(), literals.end());
  return {};
}

// Files that the output does not hold are kept in the record: small ones only.
Status CheckFiles(const Plan& plan) {
  const Checkpoint& checkpoint = *plan.model->checkpoint;
  QC_ASSIGN(const std::vector<DirEntry> entries, checkpoint.location().dir().List());
  const auto named = [](const auto& list, const std::string& name) { return std::ranges::any_of(list, [&](const auto& file) { return file.name == name; }); };
  uint64_t kept = 0;
  for (const DirEntry& entry : entries) {
    if (entry.kind == FileKind::kFolder) {
      if (entry.name.starts_with('.')) continue;  // what download tools and version control leave
      return Refused("undo-files", "sub-folder '{}' is not carried over, so it could not be restored; move it away, or {}", Escape(entry.name), kInstead);
    }
    if (named(checkpoint.files(), entry.name) || named(plan.SideFiles(), entry.name)) continue;
    QC_ASSIGN(const InputFile file, checkpoint.location().OpenMember(entry.name));
    kept += file.bytes();
    if (kept > kMaxLiterals) {
      return Refused("undo-files", "file '{}' ({}) is not carried over and too large for the undo record; move it away, or {}", Escape(entry.name), HumanBytes(file.bytes()), kInstead);
    }
  }
  return {};
}

}  // namespace

uint64_t UndoBudget(uint64_t output_bytes) {
  constexpr uint64_t kLeast = 1U << 20U;  // the headers of a tiny model are no less for it
  constexpr uint64_t kPercent = 100;
  return std::max(kLeast, output_bytes / kPercent);
}

Status CheckUndo(const Plan& plan) {
  const Model& model = *plan.model;
  const bool from_gguf = std::ranges::any_of(model.checkpoint->files(), [](const WeightFile& file) { return file.name.ends_with(".gguf"); });
  if (plan.target.container == Container::kGguf || from_gguf) return Refused("undo-container", "a conversion from or to GGUF cannot be undone: names, configs and tokenizer are translated; {}", kInstead);
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.exactness == Exactness::kRounded) return Refused("undo-rounded", "tensor '{}' is rounded, so what it was is lost; {}", Escape(tensor.name), kInstead);
    if (tensor.source == PlannedTensor::Source::kCast) return Refused("undo-cast", "tensor '{}' is stored in another type, which --undo does not take back; {}", Escape(tensor.name), kInstead);
  }
  for (const auto& [name, linear] : model.linears) {
    if (linear.rows.IsPart()) return Refused("undo-layout", "linear '{}' is one of several that the input keeps as one, which --undo does not join again; {}", Escape(name), kInstead);
  }
  for (const auto& [name, linear] : plan.linears) {
    if (linear.order != nullptr || linear.Padded()) return Refused("undo-layout", "linear '{}' gets its channels in another order or number, which --undo does not take back; {}", Escape(name), kInstead);
  }
  for (const PlannedTensor& tensor : plan.tensors) {
    if (tensor.source != PlannedTensor::Source::kEncode) continue;
    const Layout& from = *tensor.linear->linear->layout;
    const Layout& to = *tensor.linear->layout;
    if (IsInvertible(from) && IsInvertible(to)) continue;
    return Refused("undo-layout", "linear '{}' goes from '{}' to '{}'; --undo takes back GPTQ, AWQ and compressed-tensors only; {}", Escape(tensor.linear->name), from.name, to.name, kInstead);
  }
  uint64_t dropped = 0;
  for (const DroppedTensor& drop : plan.dropped) {
    if (drop.action != "user") continue;
    dropped += model.info(drop.input).bytes;
    if (dropped > kMaxLiterals) return Refused("undo-size", "tensor '{}', which --drop leaves out, has {}: too much for the undo record; {}", Escape(drop.name), HumanBytes(model.info(drop.input).bytes), kInstead);
  }
  return CheckFiles(plan);
}

Result<UndoRecord> BuildUndo(const Plan& plan, const std::vector<ManifestFile>& written, const Dir& out, const UndoOptions& options) {
  const Location& location = plan.model->checkpoint->location();
  UndoRecord record;
  record.tool_version = Q2C_VERSION;
  for (const ManifestFile& file : written) record.outputs.push_back({file.name, file.bytes, file.sha256});
  std::ranges::sort(record.outputs, {}, &UndoOutput::name);
  std::map<std::string, std::vector<Claim>> claims = ClaimsByFile(plan, &record);
  uint64_t left = kMaxLiterals;
  uint64_t total = 0;
  QC_ASSIGN(const std::vector<DirEntry> entries, location.dir().List());
  for (const DirEntry& entry : entries) {
    if (entry.kind == FileKind::kFolder) continue;
    QC_ASSIGN(const InputFile in, location.OpenMember(entry.name));
    QC_ASSIGN(UndoFile file, FileBuilder(in, entry.name, &left).Build(std::move(claims[entry.name])));
    total += file.bytes;
    record.files.push_back(std::move(file));
  }
  if (options.progress != nullptr) options.progress->Begin("recording", total);
  QC_ASSIGN(const std::unique_ptr<Rebuilder> rebuilder, Rebuilder::Open(record, out.path(), Links::kRefuse));
  QC_TRY(RunParallel(record.files.size(), options.jobs, [&](size_t i) { return ProveFile(plan, *rebuilder, options, UndoBudget(plan.OutputBytes()), &record.files[i]); }));
  return record;
}

}  // namespace q2c
