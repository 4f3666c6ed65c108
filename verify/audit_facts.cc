#include "verify/audit_facts.h"

#include <algorithm>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

Json Text(std::string_view text) { return Json::String(text); }

std::string ContainerOf(const CheckInput& input) {
  if (input.Gguf()) return "gguf";
  const bool safetensors = std::ranges::any_of(input.checkpoint->files(), [](const WeightFile& file) { return file.name.ends_with(".safetensors"); });
  const bool any = std::ranges::any_of(input.entries, [](const DirEntry& entry) { return entry.name.ends_with(".safetensors"); });
  if (safetensors || any) return "safetensors";
  const bool pickle = std::ranges::any_of(input.entries, [](const DirEntry& entry) { return entry.name.ends_with(".bin") || entry.name.ends_with(".pt"); });
  return pickle ? "pickle" : "none";
}

bool StandardNames(const CheckInput& input) {
  for (const char* name : {"model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json"}) {
    if (input.HasEntry(name)) return true;
  }
  return false;
}

// What the linears of the model have in common, or not.
struct Census {
  std::set<std::string> stored;
  std::set<uint64_t> bits;
  bool symmetric = true;
  bool cpu_groups = true;
  bool vllm_groups = true;
  uint64_t quantised = 0;
  uint64_t extra_biases = 0;
  uint64_t missing_biases = 0;
  std::set<std::string> bias_roles;
  bool wrapped = false;
  bool routers = false;
};

Census Count(const Model& model) {
  Census census;
  for (const auto& [name, linear] : model.linears) {
    const bool bias = linear.Part("bias").has_value();
    if (bias && !linear.expected.bias) {
      ++census.extra_biases;
      census.bias_roles.insert(name.substr(name.rfind('.') + 1) + ".bias");
    }
    census.routers = census.routers || linear.expected.router;
    if (!linear.quantised()) continue;
    ++census.quantised;
    const QuantShape& shape = linear.traits.shape;
    census.stored.insert(std::string(linear.layout->method));
    census.bits.insert(shape.bits);
    census.symmetric = census.symmetric && linear.traits.symmetric;
    census.wrapped = census.wrapped || linear.wrapped_zeros > 0;
    census.missing_biases += linear.expected.in_block && !bias && !linear.expected.bias ? 1 : 0;
    const uint64_t size = shape.groups == 1 ? shape.in_features : shape.group_size;
    census.cpu_groups = census.cpu_groups && (size == 32 || size == 64 || size == 128 || size == 256);
    census.vllm_groups = census.vllm_groups && (shape.groups == 1 || size == 32 || size == 64 || size == 128);
  }
  return census;
}

void AddQuantClaims(const CheckInput& input, Json* facts) {
  const std::optional<Json>& config = input.checkpoint->config();
  const Json* block = config.has_value() ? config->Find("quantization_config") : nullptr;
  const Json* method = block == nullptr ? nullptr : block->Find("quant_method");
  const bool mlx = config.has_value() && config->Find("quantization") != nullptr && method == nullptr;
  facts->Set("config_says", Text(mlx ? "mlx" : method != nullptr && method->is_string() ? Escape(method->text(), 40) : block != nullptr && block->is_object() ? "?" : ""));
  facts->Set("quantize_config", Json::Bool(input.checkpoint->quantize_config().has_value()));
  bool marlin_flag = block != nullptr && block->Find("is_marlin_format") != nullptr;
  const std::optional<Json>& own = input.checkpoint->quantize_config();
  marlin_flag = marlin_flag || (own.has_value() && own->Find("is_marlin_format") != nullptr);
  facts->Set("marlin_flag", Json::Bool(marlin_flag));
  if (input.model == nullptr || !input.model->quant.has_value()) return;
  const QuantConfig& quant = *input.model->quant;
  if (quant.sym.has_value()) facts->Set("sym_said", Json::Bool(*quant.sym));
  facts->Set("desc_act_said", Json::Bool(quant.desc_act.value_or(false)));
  facts->Set("label", Text(quant.checkpoint_format));
  if (quant.quant_method == "awq") facts->Set("awq_version", Text(quant.checkpoint_format));
  const Json* modules = quant.json.Find("modules_in_block_to_quantize");
  facts->Set("modules_listed", Json::Bool(modules != nullptr && !modules->items().empty()));
}

void AddConfig(const CheckInput& input, Json* facts) {
  const std::optional<Json>& config = input.checkpoint->config();
  if (!config.has_value()) return;
  const Json* type = config->Find("model_type");
  const std::string name = type != nullptr && type->is_string() ? Escape(type->text(), 40) : "";
  facts->Set("model_type", Text(name));
  facts->Set("remote_code_needed", Json::Bool(name == "qwen" && !input.Gguf()));
  const Json* top = input.TextConfig().Find("rope_theta");
  const Json* inner = FindPath(input.TextConfig(), {"rope_parameters", "rope_theta"});
  constexpr double kDefault = 10000;
  const bool modern_only = (top == nullptr || top->is_null()) && inner != nullptr && inner->AsDouble() != kDefault;
  facts->Set("rope", Text(modern_only ? "new-form-only" : "both-or-old"));
}

// A vision model under the names from before transformers 4.52.
bool FlatVision(const Model& model) {
  const auto flat = [](const TensorInfo& tensor) { return tensor.name.starts_with("model.layers."); };
  return model.architecture.HasVision() && std::ranges::any_of(model.checkpoint->tensors(), flat);
}

}  // namespace

Json FactsOf(const CheckInput& input, const Findings& findings, const Maker& maker, const std::string& unreadable) {
  Json facts = Json::Object();
  facts.Set("single_file", Json::Bool(input.single_file && !input.Gguf()));
  facts.Set("container", Text(ContainerOf(input)));
  facts.Set("standard_names", Json::Bool(StandardNames(input)));
  facts.Set("unreadable", Json::Bool(!unreadable.empty()));
  facts.Set("unreadable_why", Text(unreadable));
  facts.Set("metadata_format", Json::Bool(!findings.Has("metadata-format")));
  facts.Set("maker", Text(maker.name));
  AddConfig(input, &facts);
  AddQuantClaims(input, &facts);
  facts.Set("model_type_known", Json::Bool(input.model != nullptr && !input.model->architecture.IsGeneric()));
  if (input.model != nullptr) {
    const Model& model = *input.model;
    const Census census = Count(model);
    std::vector<Json> stored;
    for (const std::string& method : census.stored) stored.push_back(Text(method));
    if (stored.empty()) stored.push_back(Text("dense"));
    std::vector<Json> bits;
    for (const uint64_t each : census.bits) bits.push_back(Json::Integer(each));
    facts.Set("quantised", Json::Bool(census.quantised > 0));
    facts.Set("stored", Json::Array(std::move(stored)));
    facts.Set("bits", Json::Array(std::move(bits)));
    facts.Set("symmetric", Json::Bool(census.symmetric));
    facts.Set("cpu_group_sizes", Json::Bool(census.cpu_groups));
    facts.Set("flat_vision", Json::Bool(FlatVision(model)));
    facts.Set("vllm_group_sizes", Json::Bool(census.vllm_groups));
    facts.Set("zeros", Text(census.stored.contains("gptq") ? model.zero_verdict.convention == ZeroConvention::kV2 ? "v2" : "v1" : ""));
    facts.Set("label_wrong", Json::Bool(findings.Has("zero-label")));
    facts.Set("wrapped", Json::Bool(census.wrapped));
    facts.Set("extra_biases", Json::Integer(census.extra_biases));
    facts.Set("extra_bias_roles", Text(Join({census.bias_roles.begin(), census.bias_roles.end()}, ", ")));
    facts.Set("missing_biases", Json::Integer(census.missing_biases));
    facts.Set("derived_buffers", Json::Integer(uint64_t{model.derived.size()}));
    const Json* listed = facts.Find("modules_listed");
    facts.Set("routers_replaced", Json::Bool(census.routers && census.quantised > 0 && (listed == nullptr || !listed->AsBool().value_or(false))));
  }
  std::set<std::string_view> seen;
  for (const Finding& finding : findings.all()) seen.insert(finding.kind->id);
  std::vector<Json> ids;
  for (const std::string_view id : seen) ids.push_back(Text(id));
  facts.Set("findings", Json::Array(std::move(ids)));
  return facts;
}

}  // namespace q2c
