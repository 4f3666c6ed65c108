// The keys of quantization_config and quantize_config.json. Whether they are true is held
// against the tensors elsewhere (formats/model.cc, quantisation.cc).
#include <algorithm>
#include <array>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

bool Given(const Json* json) { return json != nullptr && !json->is_null(); }
std::string Shown(const Json& json) { return Escape(json.Dump(-1), 60); }

constexpr std::array<std::string_view, 6> kKnownMethods = {"gptq", "awq", "compressed-tensors", "auto-round", "bitsandbytes", "hqq"};

void CheckLeftovers(const std::string& where, const Json& json, Findings* findings) {
  struct Key {
    const char* name;
    const char* why;
  };
  constexpr std::array<Key, 2> kStop = {Key{"is_marlin_format", "GPTQModel from 6.0 refuses a config that holds it, whatever its value"},
                                        Key{"disable_exllama", "transformers 4.35 to 4.50 refuses it beside use_exllama"}};
  for (const Key& key : kStop) {
    const Json* value = json.Find(key.name);
    const bool meant = value != nullptr && std::string_view(key.name) == "is_marlin_format" && value->AsBool().value_or(false);  // the weights are Marlin's
    if (value != nullptr && !meant) findings->Add("quant-leftovers", fmt::format("{}: {} is {}: {}", where, key.name, Shown(*value), key.why));
  }
  if (const Json* dynamic = json.Find("dynamic"); dynamic != nullptr && dynamic->is_null()) findings->Add("quant-leftovers", fmt::format("{}: dynamic is null, on which some converters crash", where));
}

void CheckPrivate(const std::string& where, const Json& json, Findings* findings) {
  const Json* data = json.Find("dataset");
  if (data != nullptr && data->is_array() && !data->items().empty()) {
    uint64_t bytes = 0;
    for (const Json& text : data->items()) bytes += text.text().size();
    findings->Add("config-private", fmt::format("{}: dataset holds {} calibration texts, {}", where, data->items().size(), HumanBytes(bytes)));
  } else if (data != nullptr && data->is_string()) {
    constexpr std::array<std::string_view, 4> kLegal = {"wikitext2", "c4", "c4-new", "ptb"};
    if (std::ranges::find(kLegal, data->text()) == kLegal.end()) findings->Add("quant-key-value", fmt::format("{}: dataset is {}; transformers takes wikitext2, c4 and c4-new", where, Shown(*data)));
  }
  const std::array<std::initializer_list<std::string_view>, 5> paths = {{{"model_name_or_path"}, {"tokenizer"}, {"model_file_base_name"}, {"meta", "offload_to_disk_path"}, {"offload_to_disk_path"}}};
  for (const auto& path : paths) {
    const Json* value = FindPath(json, path);
    if (value != nullptr && value->is_string() && LooksLikeMakersPath(value->text())) findings->Add("config-path", fmt::format("{}: {} is '{}'", where, *(path.end() - 1), Escape(value->text(), 80)));
  }
}

void CheckValues(const std::string& where, const Json& json, Findings* findings) {
  const auto wrong = [&](const char* key, const Json& value, std::string_view expected) { findings->Add("quant-key-value", fmt::format("{}: {} is {}, expected {}", where, key, Shown(value), expected)); };
  for (const char* key : {"bits", "group_size"}) {
    const Json* value = json.Find(key);
    if (value != nullptr && (!value->is_number() || value->text().find_first_of(".eE") != std::string::npos)) wrong(key, *value, "a whole number");
  }
  if (const Json* damp = json.Find("damp_percent"); damp != nullptr && !(damp->AsDouble().value_or(0) > 0 && damp->AsDouble().value_or(0) < 1)) wrong("damp_percent", *damp, "a number between 0 and 1");
  if (const Json* exllama = json.Find("exllama_config"); Given(exllama)) {
    const Json* version = exllama->Find("version");
    const uint64_t number = version == nullptr ? 0 : version->AsU64().value_or(0);
    if (number != 1 && number != 2) wrong("exllama_config", *exllama, "an object with version 1 or 2");
  }
  if (const Json* modules = json.Find("modules_in_block_to_quantize"); modules != nullptr && modules->is_array() && std::ranges::any_of(modules->items(), &Json::is_string)) {
    wrong("modules_in_block_to_quantize", *modules, "a list of lists");
  }
  const Json* older = json.Find("checkpoint_format");
  const Json* newer = json.Find("format");
  const bool one = Given(older) != Given(newer);
  const Json* said = Given(older) ? older : newer;
  if (one && said->is_string() && said->text() == "gptq_v2") findings->Add("quant-format-key", fmt::format("{}: only {} says gptq_v2", where, Given(older) ? "checkpoint_format" : "format"));
}

void CheckMethod(const std::string& where, const Json& json, Findings* findings) {
  const Json* method = json.Find("quant_method");
  if (!Given(method)) {
    findings->Add("quant-method", fmt::format("{}: quant_method is missing; transformers refuses the config", where));
  } else if (method->is_string() && std::ranges::find(kKnownMethods, method->text()) == kKnownMethods.end()) {
    findings->Add("quant-method", fmt::format("{}: quant_method is '{}', which transformers does not know: it warns and loads the parts as if they were floats", where, Escape(method->text(), 40)));
  }
  if (!Given(method) || !method->is_string() || method->text() != "gptq") return;
  std::vector<std::string> missing;
  for (const char* key : {"bits", "group_size", "desc_act", "sym"}) {
    if (!Given(json.Find(key))) missing.emplace_back(key);
  }
  if (!missing.empty()) findings->Add("quant-keys-missing", fmt::format("{}: {} missing", where, Join(missing, ", ")));
}

}  // namespace

void CheckQuantConfig(const CheckInput& input, Findings* findings) {
  if (input.single_file || input.Gguf()) return;
  const std::optional<Json>& config = input.checkpoint->config();
  const Json* block = config.has_value() ? config->Find("quantization_config") : nullptr;
  const Json* mlx = config.has_value() ? config->Find("quantization") : nullptr;
  const bool is_mlx = Given(mlx) && (!Given(block) || block->Find("quant_method") == nullptr);
  if (block != nullptr && block->is_object() && !is_mlx) {
    CheckMethod("config.json (quantization_config)", *block, findings);
    CheckLeftovers("config.json (quantization_config)", *block, findings);
    CheckPrivate("config.json (quantization_config)", *block, findings);
    CheckValues("config.json (quantization_config)", *block, findings);
  }
  const std::optional<Json>& own = input.checkpoint->quantize_config();
  if (own.has_value()) {
    CheckLeftovers("quantize_config.json", *own, findings);
    CheckPrivate("quantize_config.json", *own, findings);
    CheckValues("quantize_config.json", *own, findings);
  }
  const bool quantised = input.model != nullptr && input.model->AnyQuantised();
  if (!quantised || is_mlx) return;
  if (!Given(block) && own.has_value()) findings->Add("quant-config-place", "config.json has no quantization_config; what quantize_config.json says is unknown to transformers, vLLM and SGLang");
  const bool gptq = std::ranges::any_of(input.model->linears, [](const auto& entry) { return entry.second.quantised() && entry.second.layout->method == "gptq"; });
  if (gptq && Given(block) && !own.has_value()) findings->Add("quantize-config-missing", "there is no quantize_config.json; AutoGPTQ and older servers read it first");
}

}  // namespace q2c
