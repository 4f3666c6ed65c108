#include "convert/passes/passes.h"

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

// optimum up to 1.x quantises every linear of a block unless told which: routers must be left out.
std::optional<Json> ModulesInBlock(const Model& model) {
  std::map<std::string, std::set<std::string>> groups;  // experts folded to '*' -> names
  bool all = true;
  for (const auto& [name, linear] : model.linears) {
    if (!linear.expected.in_block) continue;
    if (!linear.quantised()) {
      all = false;
      continue;
    }
    // "model.layers.7.mlp.experts.3.up_proj" -> "mlp.experts.3.up_proj"
    const std::string relative = name.substr(EndOfBlock(name) + 1);
    std::string folded;
    for (const char c : relative) folded += c >= '0' && c <= '9' ? '*' : c;
    folded.erase(std::unique(folded.begin(), folded.end(), [](char a, char b) { return a == '*' && b == '*'; }), folded.end());
    groups[folded].insert(relative);
  }
  if (all) return std::nullopt;
  Json list = Json::Array();
  for (const auto& [folded, names] : groups) {
    Json inner = Json::Array();
    for (const std::string& name : names) inner.items().push_back(Json::String(name));
    list.items().push_back(std::move(inner));
  }
  return list;
}

void EraseLocalPaths(const std::string& prefix, Json* json, Plan* plan) {
  std::vector<std::string> keys;
  for (auto& [key, value] : json->members()) {
    if (value.is_object() && key != "dynamic") EraseLocalPaths(prefix + key + ".", &value, plan);
    const bool address = value.is_string() && value.text().find("://") != std::string::npos;
    if (value.is_string() && !address && LooksLikeLocalPath(value.text())) keys.push_back(key);
  }
  ConfigEditor editor(plan, json, std::string(kConfigName), prefix, "config-private");
  for (const std::string& key : keys) editor.ErasePrivate(key, "a path on the machine that made the file");
}

Status WriteGptqConfig(Plan* plan) {
  const Model& model = *plan->model;
  const Survey truth = SurveyOf(*plan);
  // The keys of another method mean nothing to a GPTQ loader.
  const bool was_gptq = model.quant.has_value() && (model.quant->quant_method.empty() || model.quant->quant_method == "gptq") && !model.quant->json.members().empty() &&
                        std::ranges::any_of(plan->linears, [](const auto& entry) { return entry.second.linear->layout->method == "gptq"; });
  Json block = was_gptq ? model.quant->json : Json::Object();
  ConfigEditor editor(plan, &block, std::string(kConfigName), "quantization_config.", "quant-config");
  const std::string_view by_tensors = "as the tensors show";
  if (was_gptq && editor.Find("method") != nullptr) editor.Set("method", Json::String("gptq"), "the same for GPTQModel");
  editor.Set("quant_method", Json::String("gptq"), "loaders choose the quantiser by it");
  editor.Set("bits", Json::Integer(static_cast<uint64_t>(truth.bits)), by_tensors);
  editor.Set("group_size", Json::Integer(truth.group_size), by_tensors);
  const Json* said = editor.Find("dynamic");
  if (Json dynamic = DynamicOf(*plan, truth); !dynamic.members().empty()) editor.Set("dynamic", std::move(dynamic), "which linears differ from that, by their names");
  else if (said != nullptr && !said->is_null()) editor.Erase("dynamic", "no linear differs from that");
  editor.Set("desc_act", Json::Bool(truth.act_order), truth.act_order ? "g_idx is scattered" : "g_idx is in order, whatever the quantiser did meanwhile");
  editor.Set("sym", Json::Bool(truth.symmetric), truth.symmetric ? "every zero point is 2^(bits-1)" : "zero points differ");
  const Json format = Json::String(FirstQuantised(*plan).layout->format);
  editor.Set("checkpoint_format", format, "what the zero fields hold; transformers 4.x and optimum read this key");
  editor.Set("format", format, "the same for GPTQModel, which reads this key first");
  if (truth.act_order) editor.As("quant-order").Set("act_group_aware", Json::Bool(false), "GPTQModel refuses it together with desc_act");
  if (const std::optional<Json> modules = ModulesInBlock(model); modules.has_value()) {
    editor.As("quant-modules").Set("modules_in_block_to_quantize", *modules, "without the list optimum replaces the float linears of a block too");
  }

  const auto head = plan->linears.find("lm_head");
  const bool quantised_head = head != plan->linears.end() && head->second.quantised();
  if (quantised_head || editor.Find("lm_head") != nullptr) editor.As("quant-config").Set("lm_head", Json::Bool(quantised_head), "as the tensors show");
  constexpr std::array<std::pair<const char*, std::string_view>, 5> kGone = {{
      {"is_marlin_format", "GPTQModel from 6.0 refuses a config that has it"},
      {"model_name_or_path", "where the maker had the model"},
      {"model_file_base_name", "the files have the names that transformers looks for"},
      {"disable_exllama", "an old name that loaders warn about"},
      {"use_marlin", "a loader's switch, not a property of the file"},
  }};
  editor.As("quant-leftovers");
  for (const auto& [key, reason] : kGone) editor.ErasePrivate(key, reason);
  for (const char* key : {"dataset", "tokenizer"}) {
    const Json* value = editor.Find(key);
    if (value != nullptr && !value->is_null()) editor.As("config-private").ErasePrivate(key, "calibration data of the maker, of no use to a loader");
  }
  for (const char* key : {"damp_percent", "backend", "meta", "dataset", "tokenizer", "exllama_config", "static_groups", "true_sequential"}) {
    const Json* value = editor.Find(key);
    if (value != nullptr && value->is_null()) editor.As("quant-leftovers").Erase(key, "null says nothing, and some loaders fail on it");
  }
  EraseLocalPaths("quantization_config.", &block, plan);
  if (Json* meta = block.Find("meta"); meta != nullptr && truth.act_order && meta->is_object()) {
    ConfigEditor meta_editor(plan, meta, std::string(kConfigName), "quantization_config.meta.", "quant-order");
    if (meta->Find("act_group_aware") != nullptr) meta_editor.Set("act_group_aware", Json::Bool(false), "GPTQModel refuses it together with desc_act");
  }
  plan->config.Set("quantization_config", block);
  plan->quantize_config = std::move(block);
  if (!model.checkpoint->quantize_config().has_value()) {
    plan->edits.push_back({std::string(kQuantizeConfigName), "", std::nullopt, std::nullopt, "written, since AutoGPTQ and GPTQModel look here first", false, "quant-config"});
    plan->Makes("quant-config", std::string(kQuantizeConfigName));
  }
  return {};
}

}  // namespace

Survey SurveyOf(const Plan& plan) {
  Survey truth;
  std::map<std::pair<uint32_t, int64_t>, uint64_t> votes;
  const bool one_group = std::ranges::all_of(plan.linears, [](const auto& entry) { return !entry.second.quantised() || entry.second.shape.groups == 1; });
  std::optional<int64_t> said = plan.model->quant.has_value() ? plan.model->quant->group_size : std::nullopt;
  if (plan.options.group_size.has_value()) said = static_cast<int64_t>(*plan.options.group_size);
  for (const auto& [name, linear] : plan.linears) {
    if (!linear.quantised()) continue;
    const QuantShape& shape = linear.shape;
    truth.symmetric = truth.symmetric && linear.linear->traits.symmetric;
    truth.act_order = truth.act_order || linear.act_order();
    // A linear with one group fits any size that covers it; what the config says then stands.
    auto size = static_cast<int64_t>(shape.group_size);
    if (shape.groups == 1 && said.has_value() && (*said < 0 || *said >= static_cast<int64_t>(shape.in_features))) size = *said;
    if (one_group && !said.has_value()) size = -1;
    ++votes[{shape.bits, size}];
  }
  if (votes.empty()) return truth;
  const auto most = std::ranges::max_element(votes, {}, [](const auto& vote) { return vote.second; });
  truth.bits = most->first.first;
  truth.group_size = most->first.second;
  truth.mixed = votes.size() > 1;
  return truth;
}

const PlannedLinear& FirstQuantised(const Plan& plan) {
  return std::ranges::find_if(plan.linears, [](const auto& entry) { return entry.second.quantised(); })->second;
}

int64_t SaidGroupSize(const PlannedLinear& linear, int64_t usual) {
  const auto size = static_cast<int64_t>(linear.shape.group_size);
  if (linear.shape.groups == 1 && size != usual) return -1;
  return size;
}

Status PassQuantConfig(Plan* plan) {
  struct Writer {
    std::string_view method;
    Status (*write)(Plan*);
  };
  constexpr std::array<Writer, 7> kWriters = {{{"gptq", WriteGptqConfig}, {"compressed-tensors", WriteCompressedTensorsConfig}, {"awq", WriteAwqConfig}, {"marlin", WriteMarlinConfig},
                                               {"mlx", WriteMlxConfig}, {"gguf", EraseQuantConfig}, {"", EraseQuantConfig}}};
  QC_TRY(CheckPerModule(*plan));
  const std::string_view method = plan->Method();
  return std::ranges::find(kWriters, method, &Writer::method)->write(plan);
}

}  // namespace q2c
