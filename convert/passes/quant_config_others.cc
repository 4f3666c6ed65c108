// quantization_config for the layouts that are not GPTQ. Each is written from the tensors alone.
#include "convert/passes/passes.h"

#include <algorithm>
#include <map>

#include "formats/base/text.h"

namespace q2c {
namespace {

// Linears that stay float, as a loader's module names; the head is one even where it is tied.
std::vector<std::string> FloatLinears(const Plan& plan) {
  std::vector<std::string> names;
  for (const auto& [name, expected] : plan.model->skeleton.linears) {
    const auto planned = plan.linears.find(name);
    if (planned == plan.linears.end() || !planned->second.quantised()) names.push_back(name);
  }
  return names;
}

// Under every name that a loader of compressed-tensors has for them.
std::vector<std::string> ModuleNames(const Plan& plan, const std::vector<std::string>& linears) {
  std::vector<std::string> names;
  for (const std::string& linear : linears) {
    for (std::string& name : plan.model->architecture.ModuleNames(linear)) names.push_back(std::move(name));
  }
  return names;
}

Json StringList(const std::vector<std::string>& texts) {
  Json list = Json::Array();
  for (const std::string& text : texts) list.items().push_back(Json::String(text));
  return list;
}

// Replaces the whole block: keys of the source's method mean nothing to this one's loader. The
// old block may hold local paths and calibration data, so it is not repeated in the manifest.
void Replace(Plan* plan, const std::string& key, std::optional<Json> block, std::string_view reason) {
  ConfigEditor editor(plan, &plan->config, std::string(kConfigName), "", "quant-config");
  const size_t before = plan->edits.size();
  if (block.has_value()) editor.Set(key, *std::move(block), reason);
  else editor.Erase(key, reason);
  if (plan->edits.size() > before) plan->edits.back().private_value = true;
}

Json Flag(bool value) { return Json::Bool(value); }
Json Text(std::string_view value) { return Json::String(value); }
Json Number(int64_t value) { return Json::Integer(value); }

}  // namespace

Status WriteCompressedTensorsConfig(Plan* plan) {
  const Survey truth = SurveyOf(*plan);
  // One group of the config for every combination of bits, group size and symmetry.
  struct Kind {
    uint32_t bits;
    int64_t group_size;
    bool symmetric;
    auto operator<=>(const Kind&) const = default;
  };
  std::map<Kind, std::vector<std::string>> kinds;
  for (const auto& [name, linear] : plan->linears) {
    if (!linear.quantised()) continue;
    kinds[{linear.shape.bits, SaidGroupSize(linear, truth.group_size), linear.linear->traits.symmetric}].push_back(name);
  }
  Json groups = Json::Object();
  size_t number = 0;
  for (const auto& [kind, names] : kinds) {
    Json weights = Json::Object({{"num_bits", Number(kind.bits)}, {"type", Text("int")}, {"symmetric", Flag(kind.symmetric)}, {"strategy", Text(kind.group_size < 0 ? "channel" : "group")},
                                 {"group_size", kind.group_size < 0 ? Json() : Number(kind.group_size)}, {"dynamic", Flag(false)}});
    groups.Set(fmt::format("group_{}", number++), Json::Object({{"targets", kinds.size() == 1 ? StringList({"Linear"}) : StringList(ModuleNames(*plan, names))}, {"format", Text("pack-quantized")},
                                                                {"weights", std::move(weights)}, {"input_activations", Json()}, {"output_activations", Json()}}));
  }
  Json block = Json::Object({{"quant_method", Text("compressed-tensors")}, {"format", Text("pack-quantized")}, {"quantization_status", Text("compressed")}, {"config_groups", std::move(groups)},
                             {"ignore", StringList(ModuleNames(*plan, FloatLinears(*plan)))}, {"kv_cache_scheme", Json()}, {"global_compression_ratio", Json()}});
  Replace(plan, "quantization_config", std::move(block), "what the linears are stored as; compressed-tensors takes no keys of others");
  return {};
}

Status WriteAwqConfig(Plan* plan) {
  const Survey truth = SurveyOf(*plan);
  std::vector<std::string> floats = FloatLinears(*plan);
  std::erase(floats, "lm_head");  // left out by every loader
  const std::string_view format = FirstQuantised(*plan).layout->format;
  Json block = Json::Object({{"quant_method", Text("awq")}, {"bits", Number(truth.bits)}, {"group_size", Number(truth.group_size)}, {"zero_point", Flag(true)}, {"version", Text(format)},
                             {"format", Text(format)}, {"modules_to_not_convert", floats.empty() ? Json() : StringList(floats)}});
  Replace(plan, "quantization_config", std::move(block), "what the linears are stored as, in AutoAWQ's words; zero_point: the zero points are stored, also where all are 8");
  return {};
}

Status WriteMarlinConfig(Plan* plan) {
  const Survey truth = SurveyOf(*plan);
  Json block = Json::Object({{"quant_method", Text("gptq")}, {"bits", Number(truth.bits)}, {"group_size", Number(truth.group_size)}, {"desc_act", Flag(false)}, {"sym", Flag(true)},
                             {"checkpoint_format", Text("marlin")}, {"is_marlin_format", Flag(true)}});
  plan->quantize_config = block;
  Replace(plan, "quantization_config", std::move(block), "what the linears are stored as, in the words of AutoGPTQ 0.7");
  return {};
}

Status WriteMlxConfig(Plan* plan) {
  const Survey truth = SurveyOf(*plan);
  const auto settings = [](uint32_t bits, int64_t size) { return Json::Object({{"group_size", Number(size)}, {"bits", Number(bits)}, {"mode", Text("affine")}}); };
  // One group of the whole input is one group of that size here.
  const auto size_of = [](const PlannedLinear& linear) { return static_cast<int64_t>(linear.shape.group_size); };
  const int64_t usual = truth.group_size > 0 ? truth.group_size : size_of(FirstQuantised(*plan));
  Json block = settings(truth.bits, usual);
  for (const auto& [name, linear] : plan->linears) {
    if (!linear.quantised()) continue;
    if (linear.shape.bits != truth.bits || size_of(linear) != usual) block.Set(name, settings(linear.shape.bits, size_of(linear)));
  }
  Replace(plan, "quantization", block, "mlx-lm reads it here");
  Replace(plan, "quantization_config", std::move(block), "mlx-lm writes the same here");
  return {};
}

Status EraseQuantConfig(Plan* plan) {
  Replace(plan, "quantization_config", std::nullopt, "the output has no linears that a loader would have to replace");
  Replace(plan, "quantization", std::nullopt, "the output has no linears that a loader would have to replace");
  return {};
}

}  // namespace q2c
