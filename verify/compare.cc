#include "verify/compare.h"

#include <array>
#include <cmath>
#include <set>

#include "formats/base/parallel.h"
#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/reference.h"

namespace q2c {
namespace {

// What was left out must not have mattered.
Status CheckDropped(const Checkpoint& source, const ManifestDrop& drop) {
  const TensorInfo* tensor = source.Find(drop.name);
  if (tensor == nullptr) return Mismatch("exact-dropped", "tensor '{}' is said to be left out, but is not in the input", Escape(drop.name));
  if (drop.action == "zero-bias") {
    QC_ASSIGN(const bool zero, IsZero(source, *tensor));
    if (!zero || !drop.name.ends_with(".bias")) return Mismatch("exact-dropped", "tensor '{}' was left out as a zero bias, but is none", Escape(drop.name));
  } else if (drop.action == "tied-head") {
    const TensorInfo* twin = source.Find(drop.same_as);
    if (twin == nullptr) return Mismatch("exact-dropped", "tensor '{}' is said to repeat '{}', which is not in the input", Escape(drop.name), Escape(drop.same_as));
    QC_ASSIGN(const bool same, SameBytes(source, *tensor, source, *twin));
    if (!same) return Mismatch("exact-dropped", "tensor '{}' was left out as a repetition of '{}', but differs from it", Escape(drop.name), Escape(drop.same_as));
  } else if (drop.action == "derived-buffer") {
    constexpr std::array<std::string_view, 3> kBuffers = {"rotary_emb.", ".attn.masked_bias", ".attn.logn_tensor"};
    if (std::ranges::none_of(kBuffers, [&](std::string_view buffer) { return drop.name.find(buffer) != std::string::npos; })) return Mismatch("exact-dropped", "tensor '{}' was left out as a buffer, but is none", Escape(drop.name));
  } else if (drop.action == "text-only") {
    if (drop.name.find("visual.") == std::string::npos) return Mismatch("exact-dropped", "tensor '{}' was left out as a part of the vision tower, but is none", Escape(drop.name));
  } else if (drop.action != "user") {
    return Mismatch("exact-dropped", "tensor '{}' was left out for a reason that is not known: '{}'", Escape(drop.name), Escape(drop.action));
  }
  return {};
}

void AddParts(std::string_view linear, std::string_view layout, std::set<std::string>* names) {
  for (const std::string_view part : ReferenceParts(layout)) names->insert(fmt::format("{}.{}", linear, part));
}

// What the input keeps as one and the output in pieces must be there whole: the pieces follow
// each other without a gap.
Status CheckRanges(const Manifest& manifest) {
  struct Piece {
    uint64_t first;
    uint64_t count;
    uint64_t of;
  };
  std::map<std::string, std::vector<Piece>> pieces;
  for (const ManifestLinear& linear : manifest.linears) {
    if (linear.source_outputs.of > 0) pieces[linear.source].push_back({linear.source_outputs.first, linear.out_features, linear.source_outputs.of});
  }
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (tensor.source_rows.of == 0) continue;
    if (tensor.sources.size() != 1 || tensor.shape.empty()) return Mismatch("exact-tensor", "tensor '{}' is said to be rows of no one tensor", Escape(tensor.name));
    pieces[tensor.sources.front()].push_back({tensor.source_rows.first, tensor.shape.front(), tensor.source_rows.of});
  }
  for (auto& [source, list] : pieces) {
    std::ranges::sort(list, {}, &Piece::first);
    uint64_t next = 0;
    for (const Piece& piece : list) {
      if (piece.first != next || piece.of != list.front().of) return Mismatch("exact-lost", "'{}' of the input is said to be cut at output {}, expected a piece from {} on, all of {}", Escape(source), piece.first, next, list.front().of);
      if (piece.count > piece.of - next) return Mismatch("exact-lost", "'{}' of the input is said to have {} outputs, a piece from {} on has {}", Escape(source), piece.of, next, piece.count);
      next += piece.count;
    }
    if (next != list.front().of) return Mismatch("exact-lost", "outputs {} to {} of '{}' of the input are in no piece of the output", next, list.front().of - 1, Escape(source));
  }
  return {};
}

// Every tensor of the input and of the output must have its place in the manifest. The parts
// of a linear have it in that linear: comparing it shows that none of them lost anything.
Status CheckAccounts(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest) {
  std::set<std::string> used;
  std::set<std::string> written;
  for (const ManifestLinear& linear : manifest.linears) AddParts(linear.source, linear.source_layout, &used);
  for (const ManifestTensor& tensor : manifest.tensors) {
    written.insert(tensor.name);
    used.insert(tensor.sources.begin(), tensor.sources.end());
    const TensorInfo* info = output.Find(tensor.name);
    if (info == nullptr) return Mismatch("exact-tensor", "tensor '{}' was not written", Escape(tensor.name));
    if (info->dtype != tensor.dtype || info->shape != tensor.shape) {
      return Mismatch("exact-tensor", "tensor '{}' was written as {} {}, expected {} {}", Escape(tensor.name), NameOf(info->dtype), ShapeText(info->shape), NameOf(tensor.dtype), ShapeText(tensor.shape));
    }
  }
  for (const ManifestDrop& drop : manifest.dropped) used.insert(drop.name);
  QC_TRY(CheckRanges(manifest));
  for (const TensorInfo& tensor : source.tensors()) {
    if (!used.contains(tensor.name)) return Mismatch("exact-lost", "tensor '{}' of the input is neither in the output nor left out for a reason", Escape(tensor.name));
  }
  for (const TensorInfo& tensor : output.tensors()) {
    if (!written.contains(tensor.name)) return Mismatch("exact-unknown", "tensor '{}' of the output is not in the manifest", Escape(tensor.name));
  }
  return {};
}

}  // namespace

Result<Comparison> Comparison::Begin(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest) {
  QC_TRY(CheckAccounts(source, output, manifest));
  for (const ManifestDrop& drop : manifest.dropped) QC_TRY(CheckDropped(source, drop));
  Comparison comparison;
  comparison.source_ = &source;
  comparison.output_ = &output;
  // The parts of quantised linears are compared decoded, everything else as it is.
  std::set<std::string> decoded;
  for (const ManifestLinear& claim : manifest.linears) {
    QC_TRY(CheckClaim(claim));
    AddParts(claim.name, claim.layout, &decoded);
    comparison.compared_.weights += claim.in_features * claim.out_features;
    auto work = std::make_unique<Work>();
    work->claim = &claim;
    if (!comparison.work_.emplace(std::pair(claim.source, claim.source_outputs.first), std::move(work)).second) return Mismatch("exact-linear", "linear '{}' is twice in the manifest", Escape(claim.source));
  }
  comparison.compared_.linears = manifest.linears.size();
  QC_TRY(comparison.SetViews(manifest));
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (!decoded.contains(tensor.name)) comparison.others_.push_back(&tensor);
  }
  comparison.compared_.tensors = comparison.others_.size();
  return comparison;
}

Status Comparison::SetViews(const Manifest& manifest) {
  for (auto& [name, work] : work_) {
    const ManifestLinear& claim = *work->claim;
    const auto by = std::ranges::find_if(manifest.linears, [&](const ManifestLinear& linear) { return linear.source == claim.order_of; });
    QC_ASSIGN(work->view, ViewOfOutput(*source_, claim, by == manifest.linears.end() ? nullptr : &*by));
    compared_.reordered += static_cast<uint64_t>(!claim.order_of.empty());
    compared_.padded += static_cast<uint64_t>(claim.Padded());
    QC_TRY(CheckPadding(*output_, claim));
  }
  return {};
}

LinearTask Comparison::Task(Work* work) {
  work->taken = true;
  const ManifestLinear& claim = *work->claim;
  LinearTask task;
  task.sides.push_back({{source_, claim.source, claim.source_layout, claim.in_features, claim.out_features, claim.source_group_size, claim.source_bits, claim.source_outputs.first, claim.source_outputs.of}});
  task.sides.push_back({StoredOutput(*output_, claim)});
  task.sides.back().view = work->view;
  // Strips run side by side: each has a place of its own before they start.
  task.begin_strip = [work](uint64_t first_output) { work->strips[first_output] = {}; };
  task.check = [work](uint64_t first_output) { return CompareLinear(*work->claim, &work->strips.at(first_output)); };
  return task;
}

std::optional<LinearTask> Comparison::Take(const StoredLinear& linear) {
  const auto found = work_.find({linear.name, linear.first_output});
  if (found == work_.end() || found->second->taken || !found->second->Plain()) return std::nullopt;
  return Task(found->second.get());
}

bool Comparison::Rounds(const StoredLinear& linear) const {
  const auto found = work_.find({linear.name, linear.first_output});
  return found != work_.end() && found->second->claim->exactness == "rounded";
}

Status Comparison::CompareRest(const RunOptions& options, FingerprintPass* fingerprint, std::vector<Error>* findings) {
  // What is reordered is read whole in one direction: few at a time, to bound the memory.
  constexpr unsigned kFew = 2;
  for (const bool reorders : {false, true}) {
    std::vector<LinearTask> tasks;
    for (auto& [name, work] : work_) {
      if (work->taken || work->view.Reorders() != reorders) continue;
      tasks.push_back(Task(work.get()));
      // A fingerprint is of the channels as they were written.
      if (fingerprint != nullptr && work->Plain()) fingerprint->Watch(&tasks.back().sides[1]);
    }
    RunOptions some = options;
    if (reorders) some.jobs = std::min(some.jobs, kFew);
    QC_TRY(RunLinears(&tasks, some));
    for (LinearTask& task : tasks) {
      if (task.mismatch.has_value()) findings->push_back(*std::move(task.mismatch));
    }
  }
  return {};
}

Status Comparison::CompareOthers(const RunOptions& options) {
  other_measures_.resize(others_.size());
  return RunParallel(others_.size(), options.jobs, [&](size_t i) -> Status {
    if (options.check_stop) QC_TRY(options.check_stop());
    QC_TRY(CompareTensor(*source_, *output_, *others_[i], &other_measures_[i]));
    if (options.progress) options.progress(BytesOf(others_[i]->dtype, others_[i]->shape).value_or(0));
    return {};
  });
}

Compared Comparison::Summary() const {
  // Added up in order: the sums do not depend on who was first.
  Measure all;
  for (const auto& [name, work] : work_) {
    for (const auto& [first, measure] : work->strips) all.Add(measure);
  }
  for (const Measure& measure : other_measures_) all.Add(measure);
  Compared compared = compared_;
  compared.rounded_weights = all.count;
  compared.largest_error = all.largest;
  if (all.squared > 0) compared.relative_rms = std::sqrt(all.squared_error / all.squared);
  return compared;
}

Result<Compared> CompareExact(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest, const RunOptions& options) {
  QC_ASSIGN(Comparison comparison, Comparison::Begin(source, output, manifest));
  std::vector<Error> findings;
  QC_TRY(comparison.CompareRest(options, nullptr, &findings));
  if (!findings.empty()) return std::move(findings.front());
  QC_TRY(comparison.CompareOthers(options));
  return comparison.Summary();
}

}  // namespace q2c
