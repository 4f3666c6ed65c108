#include "convert/rebuild.h"

#include <algorithm>
#include <array>

#include "convert/produce.h"
#include "formats/base/text.h"
#include "formats/cast.h"

namespace q2c {
namespace {

constexpr uint64_t kPiece = 4U << 20U;
// Their codes, zero points and scales are stored as they are; GGUF, MLX and Marlin compute some of
// them anew.
constexpr std::array<std::string_view, 3> kInvertible = {"gptq", "awq", "compressed-tensors"};

Error Unfit(const UndoLinear& linear, std::string_view why) {
  return Malformed("undo-damaged", "the undo record does not fit the output: linear '{}': {}", Escape(linear.name), why);
}

// Takes the bytes of the patches that lie within a piece. `next` and `literal` move along.
struct Patches {
  const UndoFile& file;
  size_t next = 0;
  uint64_t literal = 0;  // of the next patch

  void Apply(uint64_t offset, MutableBytes bytes) {
    for (; next < file.patches.size(); ++next) {
      const UndoPatch& patch = file.patches[next];
      const uint64_t end = offset + bytes.size();
      const uint64_t from = std::max(patch.at, offset);
      const uint64_t to = std::min(patch.at + patch.bytes, end);
      if (from >= to) return;
      std::copy_n(file.literals.begin() + static_cast<std::ptrdiff_t>(literal + from - patch.at), to - from, bytes.begin() + static_cast<std::ptrdiff_t>(from - offset));
      if (patch.at + patch.bytes > end) return;  // the rest comes with the next piece
      literal += patch.bytes;
    }
  }
};

}  // namespace

bool IsInvertible(const Layout& layout) { return std::ranges::find(kInvertible, layout.method) != kInvertible.end(); }

Result<std::unique_ptr<Rebuilder>> Rebuilder::Open(const UndoRecord& record, const std::string& out, Links links) {
  QC_ASSIGN(Location location, Location::Open(out, links));
  std::unique_ptr<Rebuilder> rebuilder(new Rebuilder(record, std::move(location)));  // NOLINT: the constructor is private
  if (!record.linears.empty()) QC_TRY(rebuilder->OpenLinears(out, links));
  QC_TRY(rebuilder->PlanParts());
  return rebuilder;
}

Status Rebuilder::OpenLinears(const std::string& out, Links links) {
  QC_ASSIGN(Checkpoint checkpoint, Checkpoint::Open(out, links));
  checkpoint_ = std::make_unique<const Checkpoint>(std::move(checkpoint));
  model_.checkpoint = checkpoint_.get();
  plan_.model = &model_;
  linears_.resize(record_.linears.size());
  originals_.resize(record_.linears.size());
  for (size_t i = 0; i < record_.linears.size(); ++i) QC_TRY(OpenLinear(record_.linears[i], i));
  return {};
}

// The tensors decide what a linear is; the record only names layouts and group sizes.
Status Rebuilder::OpenLinear(const UndoLinear& said, size_t index) {
  const Layout* layout = FindLayout(said.layout);
  const Layout* source = FindLayout(said.source_layout);
  if (layout == nullptr || source == nullptr || !IsInvertible(*layout) || !IsInvertible(*source)) return Unfit(said, "its layouts are none that can be restored");
  if (said.in_features == 0 || said.out_features == 0 || said.group_size == 0 || said.group_size > said.in_features || said.bits > 8) return Unfit(said, "its sizes are impossible");
  Linear& linear = linears_[index];
  std::vector<const TensorInfo*> parts;
  for (const PartCodec& part : layout->parts) {
    const TensorInfo* info = checkpoint_->Find(fmt::format("{}.{}", said.name, part.suffix));
    if (info == nullptr) continue;
    parts.push_back(info);
    linear.parts[std::string(part.suffix)] = static_cast<TensorIndex>(info - checkpoint_->tensors().data());
    if ((part.components & kScales) != 0) linear.traits.scale_dtype = info->dtype;
  }
  const LayoutHints hints{layout->method, layout->format, static_cast<uint32_t>(said.bits), static_cast<int64_t>(said.group_size)};
  Result<std::optional<QuantShape>> shape = layout->detect(said.name, said.in_features, said.out_features, parts, hints);
  if (!shape.ok()) return Unfit(said, shape.error().message);
  const bool fits = shape.value().has_value() && shape.value()->bits == said.bits && shape.value()->groups == CeilDiv(said.in_features, said.group_size);
  if (!fits) return Unfit(said, fmt::format("its tensors are not those of '{}' with {} bits in groups of {}", layout->name, said.bits, said.group_size));
  linear.layout = layout;
  linear.traits.shape = *shape.value();
  linear.traits.shape.group_size = said.group_size;
  if (const auto why = layout->Refuses(linear.traits)) return Unfit(said, *why);

  PlannedLinear& original = originals_[index];
  original = {&linear, said.name, source, linear.traits.shape, Exactness::kSameCodes, "", linear.traits.scale_dtype};
  if (!said.source_scales.empty()) {
    const std::optional<Dtype> dtype = DtypeNamed(said.source_scales);
    if (!dtype.has_value() || !CanCast(linear.traits.scale_dtype, *dtype) || InfoOf(*dtype).block != 1) return Unfit(said, "its scales cannot have had the type it says");
    original.scale_dtype = *dtype;
  }
  if (said.source_group_size % said.group_size != 0 || said.source_group_size > said.in_features || said.source_group_size == 0) return Unfit(said, "its groups cannot be joined");
  original.shape.group_size = said.source_group_size;
  original.shape.groups = CeilDiv(said.in_features, said.source_group_size);
  QuantTraits traits = linear.traits;
  traits.shape = original.shape;
  traits.scale_dtype = original.scale_dtype;
  if (const auto why = source->Refuses(traits)) return Unfit(said, *why);
  return {};
}

Status Rebuilder::PlanParts() {
  for (const UndoFile& file : record_.files) {
    for (const UndoSpan& span : file.spans) {
      if (span.kind != UndoSpan::Kind::kPart) continue;
      const UndoLinear& said = record_.linears[span.source];
      const PlannedLinear& linear = originals_[span.source];
      const PartCodec* part = linear.layout->Part(span.part);
      if (part == nullptr) return Unfit(said, fmt::format("'{}' has no part '{}'", linear.layout->name, Escape(span.part)));
      PlannedTensor tensor;
      tensor.name = fmt::format("{}.{}", said.name, span.part);
      tensor.shape = part->shape(linear.shape);
      tensor.dtype = part->dtype.value_or(linear.scale_dtype);
      tensor.bytes = BytesOf(tensor.dtype, tensor.shape).value_or(0);
      tensor.source = PlannedTensor::Source::kEncode;
      tensor.linear = &linear;
      tensor.part = part;
      if (tensor.bytes != span.bytes) return Unfit(said, fmt::format("part '{}' has {} bytes, not {}", Escape(span.part), tensor.bytes, span.bytes));
      parts_.emplace(std::pair(span.source, span.part), std::move(tensor));
    }
  }
  return {};
}

Status Rebuilder::Stream(const UndoFile& file, const Piece& piece) const {
  std::vector<std::byte> buffer;
  Patches patches{file};
  for (const UndoSpan& span : file.spans) {
    if (span.kind == UndoSpan::Kind::kBytes) patches.literal += span.bytes;  // the patches' literals follow those of the spans
  }
  uint64_t offset = 0;
  uint64_t literal = 0;
  for (const UndoSpan& span : file.spans) {
    const PlannedTensor* part = span.kind == UndoSpan::Kind::kPart ? &parts_.at({span.source, span.part}) : nullptr;
    const uint64_t unit = part == nullptr ? 1 : UnitBytes(plan_, *part);
    const uint64_t most = std::max(unit, kPiece / unit * unit);
    std::optional<InputFile> from;
    if (span.kind == UndoSpan::Kind::kCopy) {
      QC_ASSIGN(from, location_.OpenMember(record_.outputs[span.source].name));
    }
    for (uint64_t done = 0; done < span.bytes;) {
      buffer.resize(std::min(most, span.bytes - done));
      switch (span.kind) {
        case UndoSpan::Kind::kBytes: std::copy_n(file.literals.begin() + static_cast<std::ptrdiff_t>(literal + done), buffer.size(), buffer.begin()); break;
        case UndoSpan::Kind::kZeros: std::ranges::fill(buffer, std::byte{0}); break;
        case UndoSpan::Kind::kCopy: QC_TRY(from->ReadAt(span.at + done, buffer)); break;
        case UndoSpan::Kind::kPart: QC_TRY(Produce(plan_, *part, done, buffer)); break;
      }
      patches.Apply(offset + done, buffer);
      QC_TRY(piece(offset + done, buffer));
      done += buffer.size();
    }
    offset += span.bytes;
    if (span.kind == UndoSpan::Kind::kBytes) literal += span.bytes;
  }
  return {};
}

}  // namespace q2c
