#include "convert/passes/passes.h"

#include <algorithm>

namespace q2c {
namespace {

// Does the file hold, byte for byte, a weight file of the input?
Result<bool> SameAs(const Plan& plan, const PlannedFile& file, size_t source) {
  const Checkpoint& checkpoint = *plan.model->checkpoint;
  const WeightFile& input = checkpoint.files()[source];
  if (input.stamp.bytes != file.bytes) return false;
  const bool in_place = std::ranges::all_of(file.tensors, [&](size_t i) {
    const PlannedTensor& tensor = plan.tensors[i];
    if (tensor.source != PlannedTensor::Source::kCopy || tensor.padding > 0) return false;
    const TensorInfo& info = plan.model->info(tensor.input);
    return info.strides.empty() && info.file == source && info.offset + plan.InputOffset(tensor) == tensor.offset;
  });
  if (!in_place) return false;
  QC_ASSIGN(const InputFile opened, checkpoint.Reopen(input));
  std::vector<std::byte> head(file.head.size());
  QC_TRY(opened.ReadAt(0, head));
  return std::ranges::equal(head, AsBytes(file.head));
}

}  // namespace

Status PassUntouched(Plan* plan) {
  for (PlannedFile& file : plan->files) {
    if (file.tensors.empty() || !plan->tensors[file.tensors.front()].HasSource()) continue;
    const size_t source = plan->model->info(plan->tensors[file.tensors.front()].input).file;
    QC_ASSIGN(const bool same, SameAs(*plan, file, source));
    if (same) file.same_as = source;
  }
  return {};
}

}  // namespace q2c
