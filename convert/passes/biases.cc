#include "convert/passes/passes.h"

#include <algorithm>
#include <map>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

PlannedTensor ZeroBias(const Linear& linear, const std::string& name, std::string reason) {
  PlannedTensor tensor;
  tensor.name = name;
  tensor.dtype = linear.traits.scale_dtype;
  tensor.shape = {linear.expected.out_features};
  tensor.bytes = *BytesOf(tensor.dtype, tensor.shape);
  tensor.source = PlannedTensor::Source::kZeros;
  tensor.input = linear.parts.begin()->second;
  if (linear.quantised()) tensor.input = linear.parts.at(std::string(linear.layout->parts.front().suffix));
  tensor.action = "zero-fill";
  tensor.reason = std::move(reason);
  tensor.exactness = Exactness::kSameValues;
  return tensor;
}

// Targets whose loaders read a bias there.
std::string TargetsThatRead(const Model& model, const std::string& linear) {
  std::vector<std::string> names;
  for (const std::string& name : TargetNames()) {
    const Result<Target> target = FindTarget(name);
    const std::string& type = model.architecture.model_type;
    if (target.ok() && target.value().ReadsDeclaredBias(type, linear) && target.value().RefusesArchitecture(type) == nullptr) names.push_back(name);
  }
  return Join(names, ", ");
}

// A bias that is not zero where the architecture has one only if a key of the config says so:
// with the key on, loaders read it. That is exact, which no folding into another bias is.
Status DeclareBiases(Plan* plan) {
  const Model& model = *plan->model;
  for (const auto& [name, linear] : model.linears) {
    const std::optional<TensorIndex> bias = linear.Part("bias");
    if (linear.expected.bias_key.empty() || !bias.has_value()) continue;
    const bool read = plan->target.ReadsDeclaredBias(model.architecture.model_type, name);
    if (linear.expected.bias && read) continue;
    QC_ASSIGN(const Magnitude size, MeasureTensor(*model.checkpoint, model.info(*bias)));
    if (size.nonzero == 0) continue;
    if (!read) {
      return Refused("bias-not-zero", "tensor '{}': {} of {} values are not zero (largest {}), but the loaders of target '{}' have no bias there, whatever {} says; without it the model would compute something else; targets that read it: {}",
                     Escape(name + ".bias"), size.nonzero, linear.expected.out_features, size.LargestText(), plan->target.name, linear.expected.bias_key, TargetsThatRead(model, name));
    }
    QC_TRY(plan->Wants("bias-declared", name + ".bias"));
    plan->bias_keys[linear.expected.bias_key] = true;
  }
  return {};
}

// A key that declares biases none of which the loaders read: zeros by now, since others were
// refused. A strict loader stops at each of them, so they go, and what declares them with them.
void TakeBackBiases(Plan* plan) {
  std::map<std::string, bool> read;
  for (const auto& [name, linear] : plan->model->linears) {
    if (linear.expected.bias && !linear.expected.bias_key.empty()) read[linear.expected.bias_key] |= plan->target.ReadsDeclaredBias(plan->model->architecture.model_type, name);
  }
  for (const auto& [key, any] : read) {
    if (!any && plan->options.repairs.Wants("zero-bias")) plan->bias_keys[key] = false;
  }
}

// Of an architecture that is not known every bias stays; that some are zeros is worth a word.
Status NoteZeroBiases(Plan* plan) {
  const Model& model = *plan->model;
  std::vector<std::string> zero;
  for (const auto& [name, linear] : model.linears) {
    const std::optional<TensorIndex> bias = linear.Part("bias");
    if (!bias.has_value() || !linear.quantised()) continue;
    QC_ASSIGN(const Magnitude size, MeasureTensor(*model.checkpoint, model.info(*bias)));
    if (size.nonzero == 0) zero.push_back(name + ".bias");
  }
  if (!zero.empty()) plan->notes.push_back({"arch-generic-biases", fmt::format("{} biases of quantised linears are all zeros: {}; they are kept, since it is not known whether the architecture has them", zero.size(), QuoteSome(zero, 3))});
  return {};
}

}  // namespace

Status PassBiases(Plan* plan) {
  if (plan->model->architecture.IsGeneric()) return NoteZeroBiases(plan);
  const Model& model = *plan->model;
  const Checkpoint& checkpoint = *model.checkpoint;
  std::set<std::string> stripped;
  QC_TRY(DeclareBiases(plan));
  TakeBackBiases(plan);
  for (const auto& [name, linear] : model.linears) {
    const bool wanted_by_loader = plan->target.biases == BiasPolicy::kEveryQuantised && linear.quantised() && linear.expected.in_block;  // an embedding that MLX quantised becomes float
    const std::optional<TensorIndex> bias = linear.Part("bias");
    const std::string bias_name = name + ".bias";
    const auto key = plan->bias_keys.find(linear.expected.bias_key);
    const bool changes = key != plan->bias_keys.end();
    if (changes && key->second) {
      if (!bias.has_value()) plan->tensors.push_back(ZeroBias(linear, bias_name, fmt::format("{} declares one here too, and the source has none", linear.expected.bias_key)));
      continue;
    }
    if (linear.expected.bias && !changes) {
      if (bias.has_value()) continue;
      return Malformed("bias-missing", "tensor '{}' is missing; the architecture needs it and it cannot be invented: take it from the original model", Escape(bias_name));
    }
    if (bias.has_value()) {
      QC_ASSIGN(const Magnitude size, MeasureTensor(checkpoint, model.info(*bias)));
      if (size.nonzero > 0) {
        return Refused("bias-not-zero", "tensor '{}': {} of {} values are not zero (largest {}), but {} has no bias there; without it the model would compute something else",
                       Escape(bias_name), size.nonzero, linear.expected.out_features, size.LargestText(), model.class_name);
      }
      if (wanted_by_loader || !plan->Makes("zero-bias", bias_name)) continue;
      stripped.insert(bias_name);
      const std::string who = changes ? "the loader has no bias there" : fmt::format("{} has no bias there; newer loaders report it as unused", model.class_name);
      plan->dropped.push_back({*bias, bias_name, "zero-bias", fmt::format("all {} values are zero and {}", linear.expected.out_features, who), {}});
    } else if (wanted_by_loader && plan->Makes("zero-fill", bias_name)) {
      plan->tensors.push_back(ZeroBias(linear, bias_name, "this loader builds a bias on every quantised linear and leaves it uninitialised (NaN) where the file has none"));
    }
  }
  std::erase_if(plan->tensors, [&](const PlannedTensor& t) { return stripped.contains(t.name); });
  return {};
}

}  // namespace q2c
