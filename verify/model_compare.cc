#include "verify/model_compare.h"

#include <algorithm>
#include <cmath>

#include "formats/base/text.h"
#include "verify/report.h"
#include "verify/rounding.h"

namespace q2c {
namespace {

struct Sum {
  Measure measure;
  double error = 0;
};

// Measures the weights of both sides against each other, as a loader computes them: with the offsets that are stored.
class MeasureStrip final : public TileCheck {
 public:
  explicit MeasureStrip(Sum* sum) : sum_(sum), a_(kProductInputs * kPanelOutputs), b_(a_.size()) {}
  Status Strip(const LinearTiles&, const LinearTiles&) override { return {}; }
  Status Tile(const LinearTiles& a, const LinearTiles& b) override {
    const ReferenceTile& tile = a.tile();
    for (uint64_t first = 0; first < tile.inputs; first += kProductInputs) {
      const uint64_t inputs = std::min(kProductInputs, tile.inputs - first);
      for (uint64_t column = 0; column < tile.outputs; column += kPanelOutputs) {
        a.FillPanel(column, first, inputs, a_.data(), true);
        b.FillPanel(column, first, inputs, b_.data(), true);
        Add(inputs, std::min(kPanelOutputs, tile.outputs - column));
      }
    }
    return {};
  }

 private:
  void Add(uint64_t inputs, uint64_t width) {
    for (uint64_t k = 0; k < inputs; ++k) {
      for (uint64_t n = 0; n < width; ++n) {
        const double x = a_[k * kPanelOutputs + n];
        const double y = b_[k * kPanelOutputs + n];
        sum_->measure.Add(x, y);
        sum_->error += std::abs(x - y);
      }
    }
  }

  Sum* sum_;
  std::vector<float> a_;
  std::vector<float> b_;
};

void Judge(const Sum& sum, TensorLikeness* tensor) {
  const Measure& measure = sum.measure;
  tensor->largest_error = measure.largest;
  tensor->mean_error = measure.count == 0 ? 0 : sum.error / static_cast<double>(measure.count);
  tensor->relative_rms = measure.squared > 0 ? std::sqrt(measure.squared_error / measure.squared) : measure.squared_error > 0 ? INFINITY : 0;
  // Not so where a value is no number.
  tensor->likeness = tensor->relative_rms <= kRoundedLimit ? Likeness::kRounded : Likeness::kDifferent;
}

std::optional<StoredLinear> FindMatrix(const Model& model, const std::string& name) {
  const auto linear = model.linears.find(name);
  if (linear != model.linears.end() && (linear->second.quantised() || linear->second.Part("weight").has_value())) return Stored(model, linear->second);
  const auto tensor = model.tensors.find(name + ".weight");
  if (tensor != model.tensors.end() && model.skeleton.IsMatrix(name + ".weight")) return StoredMatrix(model, tensor->second);
  return std::nullopt;
}

Result<std::vector<uint32_t>> VectorBits(const Model& model, const std::string& name) {
  const auto tensor = model.tensors.find(name);
  if (tensor != model.tensors.end()) return WidenedBits(*model.checkpoint, model.info(tensor->second));
  const auto [linear, part] = SplitPart(name);
  const Linear& found = model.linears.find(linear)->second;
  QC_ASSIGN(const std::vector<uint32_t> bits, WidenedBits(*model.checkpoint, model.info(*found.Part(part))));
  const auto first = bits.begin() + static_cast<std::ptrdiff_t>(found.rows.first);
  return std::vector<uint32_t>{first, first + static_cast<std::ptrdiff_t>(found.expected.out_features)};
}

Status MeasureMatrix(const StoredLinear& x, const StoredLinear& y, const RunOptions& options, TensorLikeness* tensor) {
  std::vector<LinearTask> tasks(1);
  tasks[0].sides.push_back({x});
  tasks[0].sides.push_back({y});
  std::map<uint64_t, Sum> strips;
  tasks[0].begin_strip = [&](uint64_t first) { strips[first] = {}; };
  tasks[0].check = [&](uint64_t first) { return std::make_unique<MeasureStrip>(&strips.at(first)); };
  QC_TRY(RunLinears(&tasks, options));
  Sum all;
  for (const auto& [first, sum] : strips) {
    all.measure.Add(sum.measure);
    all.error += sum.error;
  }
  Judge(all, tensor);
  return {};
}

Status MeasureDifference(const Model& a, const Model& b, const RunOptions& options, TensorLikeness* tensor) {
  tensor->likeness = Likeness::kDifferent;
  const std::optional<StoredLinear> x = FindMatrix(a, tensor->name);
  const std::optional<StoredLinear> y = FindMatrix(b, tensor->name);
  if (x.has_value() != y.has_value()) return {};
  if (x.has_value()) {
    if (x->in_features != y->in_features || x->out_features != y->out_features) return {};
    return MeasureMatrix(*x, *y, options, tensor);
  }
  for (const Model* model : {&a, &b}) {  // integers have no distance
    const auto found = model->tensors.find(tensor->name);
    if (found != model->tensors.end() && !IsFloat16Or32(model->info(found->second).dtype)) return {};
  }
  QC_ASSIGN(const std::vector<uint32_t> left, VectorBits(a, tensor->name));
  QC_ASSIGN(const std::vector<uint32_t> right, VectorBits(b, tensor->name));
  if (left.size() != right.size()) return {};
  Sum sum;
  for (size_t i = 0; i < left.size(); ++i) {
    sum.measure.Add(NumberOf(left[i]), NumberOf(right[i]));
    sum.error += std::abs(NumberOf(left[i]) - NumberOf(right[i]));
  }
  Judge(sum, tensor);
  return {};
}

// Does the model store this linear with offsets, which may be rounded where its zero points are whole?
bool HasOffsets(const Model& model, const std::string& name) {
  const auto linear = model.linears.find(name);
  return linear != model.linears.end() && linear->second.quantised() && linear->second.layout->StoresOffsets();
}

// Of a linear that means the same on both sides: how far apart the weights are that a loader computes.
Status MeasureOffsets(const Model& a, const Model& b, const RunOptions& options, TensorLikeness* tensor) {
  if (HasOffsets(a, tensor->name) == HasOffsets(b, tensor->name)) return {};
  const Likeness likeness = tensor->likeness;
  QC_TRY(MeasureDifference(a, b, options, tensor));
  tensor->likeness = likeness;
  return {};
}

Status CompareWeights(const Model& a, const Model& b, const RunOptions& options, ModelComparison* comparison) {
  const auto add = [&](const std::string& name, Likeness likeness) -> TensorLikeness& {
    comparison->tensors.push_back({name, a.linears.contains(name) || b.linears.contains(name), likeness});
    return comparison->tensors.back();
  };
  for (const TensorFingerprint& x : comparison->a.tensors) {
    const TensorFingerprint* y = comparison->b.Find(x.name);
    if (y == nullptr) {
      add(x.name, Likeness::kOnlyA);
    } else if (x.qlf1 == y->qlf1) {
      QC_TRY(MeasureOffsets(a, b, options, &add(x.name, Likeness::kSameCodes)));
    } else if (x.values == y->values) {
      QC_TRY(MeasureOffsets(a, b, options, &add(x.name, Likeness::kSameValues)));
    } else {
      QC_TRY(MeasureDifference(a, b, options, &add(x.name, Likeness::kDifferent)));
    }
  }
  for (const TensorFingerprint& y : comparison->b.tensors) {
    if (comparison->a.Find(y.name) == nullptr) add(y.name, Likeness::kOnlyB);
  }
  std::ranges::sort(comparison->tensors, {}, &TensorLikeness::name);
  return {};
}

void CompareConfigs(const Model& a, const Model& b, ModelComparison* comparison) {
  const auto left = EffectiveConfig(a);
  const auto right = EffectiveConfig(b);
  for (const auto& [key, value] : left) {
    const auto found = std::ranges::find(right, key, &std::pair<std::string, std::string>::first);
    if (found != right.end() && found->second != value) comparison->config.push_back({key, value, found->second});
  }
}

std::string Number(double value) { return fmt::format("{:.9g}", value); }

}  // namespace

std::string_view NameOf(Likeness likeness) {
  switch (likeness) {
    case Likeness::kSameCodes: return "same-codes";
    case Likeness::kSameValues: return "same-values";
    case Likeness::kRounded: return "rounded";
    case Likeness::kDifferent: return "different";
    case Likeness::kOnlyA: return "only-in-a";
    case Likeness::kOnlyB: return "only-in-b";
  }
  return "different";
}

bool ModelComparison::WeightsMatch() const {
  return std::ranges::all_of(tensors, [](const TensorLikeness& tensor) { return tensor.likeness == Likeness::kSameCodes || tensor.likeness == Likeness::kSameValues; });
}

std::vector<std::pair<std::string, std::string>> EffectiveConfig(const Model& model) {
  std::vector<std::pair<std::string, std::string>> list = {{"class", model.class_name}, {"layers", fmt::format("{}", model.skeleton.layers)}};
  list.emplace_back("tie_word_embeddings", model.tied ? "true" : "false");
  const Json& config = model.config;
  for (const char* key : {"bos_token_id", "eos_token_id", "hidden_act", "max_position_embeddings"}) {
    const Json* value = config.Find(key);
    if (value != nullptr && !value->is_null()) list.emplace_back(key, value->Dump(-1));
  }
  const Result<ForwardConfig> read = ReadForwardConfig(model);
  if (!read.ok()) {  // compared as written
    for (const char* key : {"rope_theta", "rope_scaling", "rope_parameters", "rms_norm_eps", "use_sliding_window", "sliding_window", "num_experts_per_tok", "norm_topk_prob"}) {
      const Json* value = config.Find(key);
      list.emplace_back(key, value == nullptr ? "" : value->Dump(-1));
    }
    return list;
  }
  const ForwardConfig& forward = read.value();
  list.emplace_back("hidden_size", fmt::format("{}", forward.hidden));
  list.emplace_back("num_attention_heads", fmt::format("{}", forward.heads));
  list.emplace_back("num_key_value_heads", fmt::format("{}", forward.kv_heads));
  list.emplace_back("head_dim", fmt::format("{}", forward.head_dim));
  list.emplace_back("rms_norm_eps", Number(double{forward.norm_eps}));
  list.emplace_back("rope_theta", Number(forward.rope_base));
  list.emplace_back("rope frequencies", fmt::format("{:.9g}", fmt::join(forward.inverse_frequencies, " ")));
  list.emplace_back("rope scale", Number(double{forward.rope_scale}));
  list.emplace_back("rope dynamic factor", forward.dynamic_factor.has_value() ? Number(*forward.dynamic_factor) : "none");
  std::string windows;
  for (const std::optional<uint64_t>& window : forward.window) windows += window.has_value() ? fmt::format("{} ", *window) : "all ";
  list.emplace_back("attention window by layer", windows);
  list.emplace_back("num_experts_per_tok", fmt::format("{}", forward.experts_per_token));
  list.emplace_back("norm_topk_prob", forward.normalise_experts ? "true" : "false");
  return list;
}

Result<ModelComparison> CompareModels(const Model& a, const Model& b, const ProofOptions& options) {
  ModelComparison comparison;
  QC_ASSIGN(comparison.a, FingerprintOf(a, options.run));
  QC_ASSIGN(comparison.b, FingerprintOf(b, options.run));
  QC_TRY(CompareWeights(a, b, options.run, &comparison));
  CompareConfigs(a, b, &comparison);
  QC_ASSIGN(TokenizerDifferences differences, CompareTokenizers(a, b));
  comparison.tokenizer = std::move(differences.tokenizer);
  comparison.chat_template = std::move(differences.chat_template);
  if (!comparison.WeightsMatch() || !comparison.config.empty()) {
    Result<ForwardReport> forward = CompareForward(a, b, options);
    if (forward.ok()) {
      comparison.forward = std::move(forward).value();
    } else {
      const Code code = forward.error().code;
      if (code != Code::kNotRun && code != Code::kFindings && code != Code::kMalformed) return std::move(forward).TakeError();
      comparison.forward_not_run = forward.error().message;
    }
  }
  return comparison;
}

}  // namespace q2c
