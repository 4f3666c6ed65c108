#include "verify/maker.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

// What a maker may be known by.
struct Traces {
  std::vector<std::pair<std::string, std::string>> metadata;  // of the first safetensors file
  bool gptq_name = false;     // gptq_model-4bit-128g.safetensors
  bool extra_biases = false;
  const Json* block = nullptr;  // quantization_config
  const Json* own = nullptr;    // quantize_config.json
  std::string transformers;     // transformers_version

  const std::string* Metadata(std::string_view key) const {
    const auto found = std::ranges::find(metadata, key, &std::pair<std::string, std::string>::first);
    return found == metadata.end() ? nullptr : &found->second;
  }
  const Json* Quant(std::string_view key) const {
    for (const Json* json : {own, block}) {
      const Json* value = json == nullptr ? nullptr : json->Find(key);
      if (value != nullptr && !value->is_null()) return value;
    }
    return nullptr;
  }
};

Traces Collect(const CheckInput& input) {
  Traces traces;
  const std::vector<WeightFile>& files = input.checkpoint->files();
  if (!files.empty()) traces.metadata = files.front().metadata;
  traces.gptq_name = std::ranges::any_of(input.entries, [](const DirEntry& entry) { return entry.name.starts_with("gptq_model-"); });
  if (input.checkpoint->config().has_value()) {
    const Json& config = *input.checkpoint->config();
    traces.block = config.Find("quantization_config");
    if (const Json* version = config.Find("transformers_version"); version != nullptr && version->is_string()) traces.transformers = Escape(version->text(), 40);
  }
  if (input.checkpoint->quantize_config().has_value()) traces.own = &*input.checkpoint->quantize_config();
  if (input.model != nullptr) {
    traces.extra_biases = std::ranges::any_of(input.model->linears, [](const auto& entry) { return !entry.second.expected.bias && entry.second.Part("bias").has_value(); });
  }
  return traces;
}

void FromQuantizer(const Traces& traces, const Json& quantizer, Maker* maker) {
  const Json& first = quantizer.is_array() && !quantizer.items().empty() ? quantizer.items().front() : quantizer;
  const size_t colon = first.text().find(':');
  maker->name = first.text().starts_with("gptqmodel") ? "GPTQModel" : first.text().starts_with("optimum") ? "optimum" : Escape(first.text().substr(0, colon), 40);
  maker->versions = colon == std::string::npos ? "" : Escape(first.text().substr(colon + 1), 40);
  maker->evidence.push_back(fmt::format("meta.quantizer is '{}'", Escape(first.text(), 60)));
  if (traces.transformers.starts_with("5.")) maker->evidence.push_back("config.json is of transformers " + traces.transformers);
}

// The long list of keys that transformers' GPTQConfig writes.
bool LooksOfTransformers(const Traces& traces) {
  return traces.block != nullptr && traces.block->Find("true_sequential") != nullptr && (traces.block->Find("cache_block_outputs") != nullptr || traces.block->Find("block_name_to_quantize") != nullptr);
}

}  // namespace

Maker FindMaker(const CheckInput& input) {
  Maker maker;
  maker.name = "unknown";
  const Traces traces = Collect(input);
  const auto is = [&](const char* name, const std::string& versions, const std::string& why) {
    maker.name = name;
    maker.versions = versions;
    maker.evidence.push_back(why);
  };
  const Json* quantizer = nullptr;
  for (const Json* json : {traces.own, traces.block}) {
    if (json != nullptr && quantizer == nullptr) quantizer = FindPath(*json, {"meta", "quantizer"});
  }
  const Json* version = traces.Quant("version");
  const Json* method = traces.Quant("quant_method");
  const std::string said = method != nullptr ? method->text() : "";
  if (input.HasEntry("qwen2-convert.manifest.json")) {
    is("qwen2-convert", "", "its manifest lies beside the weights");
  } else if (input.Gguf()) {
    is("llama.cpp or its tools", "", "the container is GGUF");
  } else if (traces.Quant("autoround_version") != nullptr) {
    is("AutoRound", Escape(traces.Quant("autoround_version")->text(), 40), "autoround_version in the config");
  } else if (const std::string* gptq = traces.Metadata("auto_gptq_version")) {
    is("AutoGPTQ", Escape(*gptq, 40), fmt::format("auto_gptq_version '{}' in the metadata of the weights", Escape(*gptq, 40)));
  } else if (quantizer != nullptr && !quantizer->is_null()) {
    FromQuantizer(traces, *quantizer, &maker);
  } else if (traces.Quant("is_marlin_format") != nullptr) {
    is("AutoGPTQ", "0.7.0 to 0.7.1", "is_marlin_format in the config, which only these write");
  } else if (said == "compressed-tensors") {
    is("compressed-tensors", version != nullptr ? Escape(version->text(), 40) : "", "quant_method is 'compressed-tensors'");
  } else if (input.checkpoint->config().has_value() && input.checkpoint->config()->Find("quantization") != nullptr && traces.Quant("quant_method") == nullptr) {
    is("mlx-lm", "", "the settings stand under 'quantization'");
  } else if (said == "awq") {
    is("AutoAWQ", "", "quant_method is 'awq'");
  } else if (traces.gptq_name && traces.block == nullptr) {
    is("AutoGPTQ", "0.2 to 0.6", "the weights are named gptq_model-*, and config.json has no quantization_config");
  } else if (LooksOfTransformers(traces)) {
    is(traces.extra_biases ? "optimum, or AutoGPTQ and then transformers" : "optimum", traces.extra_biases ? "up to 1.19" : "1.20 or newer", fmt::format("quantization_config has the keys of transformers, and extra biases are {}", traces.extra_biases ? "stored" : "absent"));
  } else if (traces.own != nullptr && traces.own->Find("modules_in_block_to_quantize") != nullptr && traces.own->Find("dataset") != nullptr) {
    is("optimum", traces.extra_biases ? "up to 1.19" : "1.20 or newer", fmt::format("quantize_config.json has the keys of optimum, and extra biases are {}", traces.extra_biases ? "stored" : "absent"));
  }
  if (!traces.transformers.empty()) maker.evidence.push_back("transformers_version is " + traces.transformers);
  const bool wrong_label = input.model != nullptr && input.model->zero_label_wrong && input.model->zero_verdict.decided;
  maker.resaved = LooksOfTransformers(traces) && wrong_label && input.model->zero_verdict.convention == ZeroConvention::kV2;
  if (maker.resaved) maker.evidence.push_back("zero points of v2 under a label of v1: transformers loaded the model and saved it again");
  return maker;
}

}  // namespace q2c
