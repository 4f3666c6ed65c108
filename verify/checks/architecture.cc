// Tensors against the architecture: names, biases, heads. What is missing, too many or of a
// wrong shape the reader of the model has found (formats/model.cc).
#include <algorithm>
#include <cmath>
#include <map>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

// "model.layers.*.mlp.down_proj": what linears of all layers have in common.
std::string Role(std::string name) {
  for (size_t at = name.find('.'); at != std::string::npos; at = name.find('.', at + 1)) {
    size_t end = at + 1;
    while (end < name.size() && name[end] >= '0' && name[end] <= '9') ++end;
    if (end > at + 1 && (end == name.size() || name[end] == '.')) name.replace(at + 1, end - at - 1, "*");
  }
  return name;
}

struct BiasSeen {
  std::string name;
  Magnitude size;
};

std::vector<std::string> NamesOf(const std::vector<BiasSeen>& biases) {
  std::vector<std::string> names;
  for (const BiasSeen& bias : biases) names.push_back(bias.name);
  return names;
}

// Which roles carry the extra biases, in words.
std::string RolesOf(const std::vector<BiasSeen>& biases) {
  std::vector<std::string> roles;
  for (const BiasSeen& bias : biases) {
    std::string role = Role(bias.name);
    if (std::ranges::find(roles, role) == roles.end()) roles.push_back(std::move(role));
  }
  return QuoteSome(roles, 8);
}

Status CheckBiases(const Model& model, Findings* findings) {
  std::vector<BiasSeen> extra;
  std::map<std::string, std::pair<uint64_t, uint64_t>> per_role;  // of the linears that need none: with, without
  std::map<std::string, std::vector<BiasSeen>> real;              // of one role
  for (const auto& [name, linear] : model.linears) {
    const std::optional<TensorIndex> bias = linear.Part("bias");
    if (!bias.has_value()) {
      if (linear.expected.bias) findings->Add("bias-missing", fmt::format("tensor '{}.bias' is missing, which {} needs", Escape(name), model.class_name), {name + ".bias"});
      else if (linear.quantised()) ++per_role[Role(name)].second;
      continue;
    }
    const TensorInfo& info = model.info(*bias);
    if (!IsFloat16Or32(info.dtype)) continue;
    Result<Magnitude> size = MeasureTensor(*model.checkpoint, info);
    if (!size.ok()) {
      findings->Add(size.error());
      continue;
    }
    const BiasSeen seen{info.name, size.value()};
    if (linear.expected.bias) {
      real[Role(name)].push_back(seen);
    } else if (seen.size.nonzero > 0) {
      findings->Add("bias-not-zero", fmt::format("tensor '{}': {} of {} values are not zero, the largest {:.3g}; {} has no bias there", Escape(info.name), seen.size.nonzero, linear.expected.out_features, seen.size.largest, model.class_name), {info.name});
    } else {
      extra.push_back(seen);
      ++per_role[Role(name)].first;
    }
    if (linear.quantised() && linear.layout->method != "gguf" && info.dtype != linear.traits.scale_dtype) {
      findings->Add("bias-dtype", fmt::format("tensor '{}' is {}, the scales are {}", Escape(info.name), NameOf(info.dtype), NameOf(linear.traits.scale_dtype)), {info.name});
    }
  }
  if (!extra.empty()) {
    findings->Add("extra-zero-bias", fmt::format("{} biases are stored and zero that {} does not have: {}", extra.size(), model.class_name, RolesOf(extra)), NamesOf(extra), extra.size());
  }
  for (const auto& [role, counts] : per_role) {
    if (counts.first > 0 && counts.second > 0) findings->Add("extra-bias-mixed", fmt::format("'{}': {} layers have the extra zero bias, {} have not", Escape(role), counts.first, counts.second));
  }
  for (const auto& [role, biases] : real) {
    std::vector<BiasSeen> zero;
    std::vector<double> sizes;
    for (const BiasSeen& bias : biases) {
      if (bias.size.nonzero == 0) zero.push_back(bias);
      if (!std::isfinite(bias.size.largest)) findings->Add("value-not-finite", fmt::format("tensor '{}' holds NaN or infinity", Escape(bias.name)), {bias.name});
      else sizes.push_back(bias.size.largest);
    }
    if (!zero.empty()) findings->Add("bias-zero", fmt::format("{} of {} biases '{}.bias' are all zero", zero.size(), biases.size(), Escape(role)), NamesOf(zero), zero.size());
    // The first layers of real models have biases some ten times those of the rest.
    constexpr size_t kEnough = 4;
    constexpr double kFar = 1000;
    if (sizes.size() < kEnough) continue;
    std::ranges::nth_element(sizes, sizes.begin() + static_cast<std::ptrdiff_t>(sizes.size() / 2));
    const double median = sizes[sizes.size() / 2];
    for (const BiasSeen& bias : biases) {
      if (median > 0 && std::isfinite(bias.size.largest) && bias.size.largest > kFar * median) {
        findings->Add("bias-large", fmt::format("tensor '{}' reaches {:.3g}, the median of its kind is {:.3g}", Escape(bias.name), bias.size.largest, median), {bias.name});
      }
    }
  }
  return {};
}

Status CheckHeads(const Model& model, Findings* findings) {
  for (const auto& [name, linear] : model.linears) {
    if (linear.expected.tied_to.empty()) continue;
    if (linear.quantised() && linear.layout->method == "gptq") {
      findings->Add("head-quantised", fmt::format("linear '{}' is quantised", Escape(name)), {name});
      continue;
    }
    const std::optional<TensorIndex> weight = linear.Part("weight");
    const auto embedding = model.tensors.find(linear.expected.tied_to + ".weight");
    if (!model.tied || linear.quantised() || !weight.has_value() || embedding == model.tensors.end()) continue;
    const TensorInfo& head = model.info(*weight);
    const Result<bool> same = SameBytes(*model.checkpoint, head, *model.checkpoint, model.info(embedding->second));
    if (!same.ok()) findings->Add(same.error());
    else if (same.value()) findings->Add("tied-head", fmt::format("tensor '{}' repeats '{}', {}", Escape(head.name), Escape(model.info(embedding->second).name), HumanBytes(head.bytes)), {head.name});
    else findings->Add("head-differs", fmt::format("tensor '{}' differs from '{}', and config.json says tie_word_embeddings", Escape(head.name), Escape(model.info(embedding->second).name)), {head.name});
  }
  return {};
}

// Names that the loaders of the family know too: vision models from transformers 4.52 on keep
// the text model one level deeper, and the first generation had names of its own.
bool IsNative(const Model& model, const std::string& name, const std::string& canonical) {
  if (name == canonical) return true;
  constexpr std::string_view kModel = "model.";
  if (model.architecture.HasVision() && canonical.starts_with(kModel) && name == "model.language_model." + canonical.substr(kModel.size())) return true;
  if (model.architecture.IsVision(canonical) && name == "model." + canonical) return true;
  const Json* type = model.checkpoint->config().has_value() ? model.checkpoint->config()->Find("model_type") : nullptr;
  return type != nullptr && type->is_string() && type->text() == "qwen" && name.starts_with("transformer.");
}

void CheckNames(const Model& model, Findings* findings) {
  std::vector<std::string> renamed;
  std::string example;
  for (TensorIndex i = 0; i < model.places.size(); ++i) {
    if (model.places[i].empty() || IsNative(model, model.info(i).name, model.places[i].front().name)) continue;
    if (renamed.empty()) example = fmt::format("'{}' for '{}'", Escape(model.info(i).name), Escape(model.places[i].front().name));
    renamed.push_back(model.info(i).name);
  }
  if (!renamed.empty()) findings->Add("names", fmt::format("{} tensors are not named as {} names them, such as {}", renamed.size(), model.class_name, example), renamed, renamed.size());
  std::vector<std::string> derived;
  for (const TensorIndex i : model.derived) derived.push_back(model.info(i).name);
  if (!derived.empty()) findings->Add("derived-buffer", fmt::format("{} buffers are stored that loaders compute, such as '{}'", derived.size(), Escape(derived.front())), derived, derived.size());
}

}  // namespace

Status CheckArchitecture(const CheckInput& input, Findings* findings) {
  if (input.model == nullptr) return {};
  if (!input.Gguf()) CheckNames(*input.model, findings);
  if (input.model->architecture.IsGeneric()) return {};  // which biases and heads it has nobody knows
  QC_TRY(CheckBiases(*input.model, findings));
  return CheckHeads(*input.model, findings);
}

}  // namespace q2c
