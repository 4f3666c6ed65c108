#include <algorithm>
#include <map>

#include "formats/base/text.h"
#include "verify/model_compare.h"
#include "verify/report.h"

namespace q2c {
namespace {

using Counts = std::map<Likeness, uint64_t>;
Counts Count(const ModelComparison& comparison, bool linears) {
  Counts counts;
  for (const TensorLikeness& tensor : comparison.tensors) counts[tensor.likeness] += tensor.linear == linears ? 1 : 0;
  return counts;
}

std::string CountText(const Counts& counts) {
  std::vector<std::string> parts;
  for (const auto& [likeness, count] : counts) {
    if (count > 0) parts.push_back(fmt::format("{} {}", count, NameOf(likeness)));
  }
  return parts.empty() ? "none" : Join(parts, ", ");
}

Json CountJson(const Counts& counts) {
  Json json = Json::Object();
  for (const auto& [likeness, count] : counts) {
    if (count > 0) json.Set(NameOf(likeness), Json::Integer(count));
  }
  return json;
}

Json DifferencesJson(const std::vector<Difference>& differences) {
  Json list = Json::Array();
  for (const Difference& difference : differences) list.items().push_back(Json::Object({{"key", Json::String(difference.key)}, {"a", Json::String(difference.a)}, {"b", Json::String(difference.b)}}));
  return list;
}

std::string DifferencesText(std::string_view what, const std::vector<Difference>& differences) {
  if (differences.empty()) return fmt::format("{}: equal\n", what);
  constexpr size_t kShown = 60;
  std::string text = fmt::format("{}: {} differ\n", what, differences.size());
  for (const Difference& difference : differences) {
    text += fmt::format("  {}: {} | {}\n", Escape(difference.key), difference.a.empty() ? "absent" : Escape(difference.a, kShown), difference.b.empty() ? "absent" : Escape(difference.b, kShown));
  }
  return text;
}

Json DigestsJson(const Fingerprint& fingerprint) { return Json::Object({{"values", Json::String(fingerprint.values)}, {"qlf1", Json::String(fingerprint.qlf1)}}); }

bool Matches(Likeness likeness) { return likeness == Likeness::kSameCodes || likeness == Likeness::kSameValues; }

// Equal linears that one side stores with rounded offsets.
struct RoundedOffsets {
  uint64_t linears = 0;
  double largest_error = 0;
  double relative_rms = 0;  // of the worst
};
RoundedOffsets FindRoundedOffsets(const ModelComparison& comparison) {
  RoundedOffsets rounded;
  for (const TensorLikeness& tensor : comparison.tensors) {
    if (!Matches(tensor.likeness) || tensor.largest_error == 0) continue;
    ++rounded.linears;
    rounded.largest_error = std::max(rounded.largest_error, tensor.largest_error);
    rounded.relative_rms = std::max(rounded.relative_rms, tensor.relative_rms);
  }
  return rounded;
}

Json Real(double value) { return Json::Number(fmt::format("{:.6e}", value)); }

}  // namespace

Json ComparisonJson(const ModelComparison& comparison) {
  Json differing = Json::Array();
  for (const TensorLikeness& tensor : comparison.tensors) {
    if (Matches(tensor.likeness)) continue;
    Json item = Json::Object({{"name", Json::String(tensor.name)}, {"likeness", Json::String(NameOf(tensor.likeness))}});
    if (tensor.largest_error > 0) {
      item.Set("largest_error", Real(tensor.largest_error));
      item.Set("mean_error", Real(tensor.mean_error));
      item.Set("relative_rms", Real(tensor.relative_rms));
    }
    differing.items().push_back(std::move(item));
  }
  Json json = Json::Object({{"same_model", Json::Bool(comparison.AllMatch())},
                            {"same_weights", Json::Bool(comparison.WeightsMatch())},
                            {"a", DigestsJson(comparison.a)},
                            {"b", DigestsJson(comparison.b)},
                            {"linears", CountJson(Count(comparison, true))},
                            {"other_tensors", CountJson(Count(comparison, false))},
                            {"differing", std::move(differing)},
                            {"config", DifferencesJson(comparison.config)},
                            {"tokenizer", DifferencesJson(comparison.tokenizer)},
                            {"chat_template", DifferencesJson(comparison.chat_template)}});
  if (const RoundedOffsets rounded = FindRoundedOffsets(comparison); rounded.linears > 0) {
    json.Set("rounded_offsets", Json::Object({{"linears", Json::Integer(rounded.linears)}, {"largest_error", Real(rounded.largest_error)}, {"relative_rms", Real(rounded.relative_rms)}}));
  }
  if (comparison.forward.has_value()) json.Set("forward", ForwardJson(*comparison.forward));
  if (!comparison.forward_not_run.empty()) json.Set("forward_not_run", Json::String(comparison.forward_not_run));
  return json;
}

std::string ComparisonText(const ModelComparison& comparison, bool weights_only) {
  constexpr size_t kShown = 10;
  std::string text = fmt::format("linears: {}\n", CountText(Count(comparison, true)));
  if (const RoundedOffsets rounded = FindRoundedOffsets(comparison); rounded.linears > 0) {
    text += fmt::format("  of {} equal ones one side stores its zero points as rounded offsets: weights as loaded are off by up to {:.3g}, relative {:.3g} (root mean square)\n", rounded.linears, rounded.largest_error, rounded.relative_rms);
  }
  text += fmt::format("other tensors: {}\n", CountText(Count(comparison, false)));
  size_t shown = 0;
  size_t differing = 0;
  for (const TensorLikeness& tensor : comparison.tensors) {
    if (Matches(tensor.likeness)) continue;
    ++differing;
    if (++shown > kShown) continue;
    text += fmt::format("  '{}': {}", Escape(tensor.name), NameOf(tensor.likeness));
    if (tensor.largest_error > 0) text += fmt::format(", off by up to {:.3g}, mean {:.3g}, relative {:.3g} (root mean square)", tensor.largest_error, tensor.mean_error, tensor.relative_rms);
    text += '\n';
  }
  if (differing > kShown) text += fmt::format("  and {} more\n", differing - kShown);
  if (!weights_only) {
    text += DifferencesText("config after the loader's defaults", comparison.config);
    text += DifferencesText("tokenizer", comparison.tokenizer);
    text += DifferencesText("chat template", comparison.chat_template);
  }
  if (comparison.forward.has_value()) text += ForwardText(*comparison.forward);
  if (!comparison.forward_not_run.empty()) text += fmt::format("no forward pass: {}\n", comparison.forward_not_run);
  const bool match = weights_only ? comparison.WeightsMatch() : comparison.AllMatch();
  text += fmt::format("{}\n", match ? weights_only ? "the same weights" : "the same model" : weights_only ? "not the same weights" : "not the same model");
  return text;
}

}  // namespace q2c
