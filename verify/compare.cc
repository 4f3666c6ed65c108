#include "verify/compare.h"

#include <cmath>
#include <set>

#include "formats/base/text.h"
#include "verify/compare_parts.h"
#include "verify/parallel.h"
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
    if (drop.name.find("rotary_emb.") == std::string::npos) return Mismatch("exact-dropped", "tensor '{}' was left out as a buffer, but is none", Escape(drop.name));
  } else if (drop.action != "user") {
    return Mismatch("exact-dropped", "tensor '{}' was left out for a reason that is not known: '{}'", Escape(drop.name), Escape(drop.action));
  }
  return {};
}

void AddParts(std::string_view linear, std::string_view layout, std::set<std::string>* names) {
  for (const std::string_view part : ReferenceParts(layout)) names->insert(fmt::format("{}.{}", linear, part));
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
  for (const TensorInfo& tensor : source.tensors()) {
    if (!used.contains(tensor.name)) return Mismatch("exact-lost", "tensor '{}' of the input is neither in the output nor left out for a reason", Escape(tensor.name));
  }
  for (const TensorInfo& tensor : output.tensors()) {
    if (!written.contains(tensor.name)) return Mismatch("exact-unknown", "tensor '{}' of the output is not in the manifest", Escape(tensor.name));
  }
  return {};
}

}  // namespace

Result<Compared> CompareExact(const Checkpoint& source, const Checkpoint& output, const Manifest& manifest, const CompareOptions& options) {
  QC_TRY(CheckAccounts(source, output, manifest));
  for (const ManifestDrop& drop : manifest.dropped) QC_TRY(CheckDropped(source, drop));

  // The parts of quantised linears are compared decoded, everything else as it is.
  std::set<std::string> decoded;
  Compared compared;
  for (const ManifestLinear& linear : manifest.linears) {
    AddParts(linear.name, linear.layout, &decoded);
    compared.weights += linear.in_features * linear.out_features;
  }
  compared.linears = manifest.linears.size();
  std::vector<const ManifestTensor*> others;
  for (const ManifestTensor& tensor : manifest.tensors) {
    if (!decoded.contains(tensor.name)) others.push_back(&tensor);
  }
  compared.tensors = others.size();
  // One measure each, added up in order: the sums do not depend on who was first.
  std::vector<Measure> measures(manifest.linears.size() + others.size());
  QC_TRY(RunParallel(manifest.linears.size(), options.jobs, [&](size_t i) { return CompareLinear(source, output, manifest.linears[i], options, &measures[i]); }));
  QC_TRY(RunParallel(others.size(), options.jobs, [&](size_t i) -> Status {
    if (options.check_stop) QC_TRY(options.check_stop());
    QC_TRY(CompareTensor(source, output, *others[i], &measures[manifest.linears.size() + i]));
    if (options.progress) options.progress(BytesOf(others[i]->dtype, others[i]->shape).value_or(0));
    return {};
  }));
  Measure all;
  for (const Measure& measure : measures) all.Add(measure);
  compared.rounded_weights = all.count;
  compared.largest_error = all.largest;
  if (all.squared > 0) compared.relative_rms = std::sqrt(all.squared_error / all.squared);
  return compared;
}

}  // namespace q2c
