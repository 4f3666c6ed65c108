#include "formats/quant_config.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"

namespace q2c {
namespace {

// compressed-tensors: one group of settings, or several for different linears.
Status ReadConfigGroups(QuantConfig* config) {
  if (config->checkpoint_format != "pack-quantized") {
    return Refused("layout", "{}: format is '{}'; of compressed-tensors only 'pack-quantized' is read", config->where, Escape(config->checkpoint_format));
  }
  const Json* groups = config->json.Find("config_groups");
  if (groups == nullptr || !groups->is_object() || groups->members().empty()) return Malformed("quant-config", "{}: config_groups is missing", config->where);
  config->per_module = groups->members().size() > 1;
  if (config->per_module) return {};
  const Json& group = groups->members().front().second;
  const Json* weights = group.is_object() ? group.Find("weights") : nullptr;
  if (weights == nullptr || !weights->is_object()) return Malformed("quant-config", "{}: '{}' has no weights", config->where, Escape(groups->members().front().first));
  const Json* type = weights->Find("type");
  if (type != nullptr && type->is_string() && type->text() != "int") return Refused("layout", "{}: weights are of type '{}'; integers are read", config->where, Escape(type->text()));
  const Json* bits = weights->Find("num_bits");
  const Json* size = weights->Find("group_size");
  const Json* symmetric = weights->Find("symmetric");
  if (bits != nullptr && bits->AsU64().has_value()) config->bits = static_cast<uint32_t>(std::min<uint64_t>(*bits->AsU64(), 64));
  if (size != nullptr && size->AsI64().has_value() && *size->AsI64() > 0) config->group_size = size->AsI64();
  else config->group_size = -1;
  if (symmetric != nullptr) config->sym = symmetric->AsBool();
  return {};
}

// One file's claim.
Result<QuantConfig> ReadOne(const Json& json, std::string where) {
  QuantConfig config;
  config.json = json;
  config.where = std::move(where);
  const auto wrong = [&](std::string_view key, const Json& value, std::string_view expected) {
    return Malformed("quant-config", "{}: {} is {}, expected {}", config.where, key, Escape(value.Dump(-1), 60), expected);
  };
  for (const char* key : {"quant_method", "method"}) {
    const Json* value = json.Find(key);
    if (value == nullptr || value->is_null()) continue;
    if (!value->is_string()) return wrong(key, *value, "a string");
    if (config.quant_method.empty()) config.quant_method = value->text();
  }
  for (const char* key : {"bits", "w_bit", "wbits"}) {
    const Json* value = json.Find(key);
    if (value == nullptr || config.bits.has_value()) continue;
    const std::optional<int64_t> bits = value->AsI64();
    if (!bits.has_value() || *bits <= 0) return wrong(key, *value, "2, 3, 4 or 8");
    if (*bits != 2 && *bits != 3 && *bits != 4 && *bits != 8) {
      return Refused("quant-bits", "{}: {} is {}; 2, 3, 4 and 8 bits are supported", config.where, key, *bits);
    }
    config.bits = static_cast<uint32_t>(*bits);
  }
  for (const char* key : {"group_size", "q_group_size"}) {
    const Json* value = json.Find(key);
    if (value == nullptr || value->is_null() || config.group_size.has_value()) continue;
    const std::optional<int64_t> size = value->AsI64();
    if (!size.has_value() || *size == 0 || *size < -1) return wrong(key, *value, "-1 or a positive number");
    config.group_size = *size;
  }
  const auto flag = [&](const char* key, std::optional<bool>* out) -> Status {
    const Json* value = json.Find(key);
    if (value == nullptr || value->is_null()) return {};
    *out = value->AsBool();
    if (!out->has_value()) return wrong(key, *value, "true or false");
    return {};
  };
  QC_TRY(flag("sym", &config.sym));
  QC_TRY(flag("desc_act", &config.desc_act));
  // transformers 5 lets checkpoint_format win, GPTQModel lets format win: they must agree.
  // AutoAWQ says 'version', and used to write it in capitals.
  for (const char* key : {"checkpoint_format", "format", "version"}) {
    const Json* value = json.Find(key);
    if (value == nullptr || !value->is_string() || (key == std::string_view("version") && config.quant_method != "awq")) continue;
    const std::string text = Lower(value->text());
    if (!config.checkpoint_format.empty() && config.checkpoint_format != text) {
      return Malformed("config-disagree", "{}: checkpoint_format is '{}' and format is '{}'; loaders differ in which they believe", config.where, Escape(config.checkpoint_format), Escape(text));
    }
    config.checkpoint_format = text;
  }
  // GPTQModel's and AutoRound's words for linears that differ.
  for (const char* key : {"dynamic", "extra_config"}) {
    const Json* overrides = json.Find(key);
    config.per_module = config.per_module || (overrides != nullptr && overrides->is_object() && !overrides->members().empty());
  }
  if (config.quant_method == "compressed-tensors") QC_TRY(ReadConfigGroups(&config));
  if (config.quant_method == "auto-round") {
    const Json* packing = json.Find("packing_format");
    const bool awq = packing != nullptr && packing->is_string() && packing->text().find("awq") != std::string::npos;
    config.quant_method = awq ? "awq" : "gptq";
    config.checkpoint_format.clear();
  }
  return config;
}

// MLX keeps its settings apart, with overrides by module name.
Result<QuantConfig> ReadMlx(const Json& json) {
  const Json* mode = json.Find("mode");
  if (mode != nullptr && mode->is_string() && mode->text() != "affine") {
    return Refused("layout", "config.json: quantization mode is '{}'; of MLX only 'affine' is read", Escape(mode->text()));
  }
  QC_ASSIGN(QuantConfig config, ReadOne(json, "config.json (quantization)"));
  config.quant_method = "mlx";
  config.per_module = std::ranges::any_of(json.members(), [](const auto& member) { return member.second.is_object(); });
  return config;
}

template <typename T>
Status Agree(std::string_view key, const std::optional<T>& a, const QuantConfig& first, const std::optional<T>& b, const QuantConfig& second) {
  if (!a.has_value() || !b.has_value() || *a == *b) return {};
  return Malformed("config-disagree", "{} says {} {}, {} says {}; remove the file that is stale", first.where, key, *a, second.where, *b);
}

}  // namespace

Result<std::optional<QuantConfig>> ReadQuantConfig(const Checkpoint& checkpoint) {
  std::vector<QuantConfig> claims;
  if (checkpoint.config().has_value()) {
    // Vision models may nest it in the text part.
    const Json* text_config = checkpoint.config()->Find("text_config");
    const Json* nested = text_config == nullptr ? nullptr : text_config->Find("quantization_config");
    const Json* top = checkpoint.config()->Find("quantization_config");
    const Json* older = checkpoint.config()->Find("compression_config");
    const Json* block = top != nullptr ? top : nested != nullptr ? nested : older;
    const Json* mlx = checkpoint.config()->Find("quantization");
    if (mlx != nullptr && mlx->is_object() && (block == nullptr || block->is_null() || (block->is_object() && block->Find("quant_method") == nullptr))) {
      QC_ASSIGN(QuantConfig claim, ReadMlx(*mlx));
      return std::optional(std::move(claim));
    }
    if (block != nullptr && !block->is_null()) {
      if (!block->is_object()) return Malformed("quant-config", "config.json: quantization_config is {}, expected an object", block->KindName());
      QC_ASSIGN(QuantConfig claim, ReadOne(*block, "config.json (quantization_config)"));
      claims.push_back(std::move(claim));
    }
  }
  if (checkpoint.quantize_config().has_value()) {
    QC_ASSIGN(QuantConfig claim, ReadOne(*checkpoint.quantize_config(), "quantize_config.json"));
    claims.push_back(std::move(claim));
  }
  if (claims.empty()) return std::optional<QuantConfig>();
  if (claims.size() == 1) return std::optional(std::move(claims[0]));

  QuantConfig& first = claims[0];
  const QuantConfig& second = claims[1];
  QC_TRY(Agree("bits", first.bits, first, second.bits, second));
  QC_TRY(Agree("group_size", first.group_size, first, second.group_size, second));
  QC_TRY(Agree("sym", first.sym, first, second.sym, second));
  QC_TRY(Agree("desc_act", first.desc_act, first, second.desc_act, second));
  if (!first.checkpoint_format.empty() && !second.checkpoint_format.empty() && first.checkpoint_format != second.checkpoint_format) {
    return Malformed("config-disagree", "{} says checkpoint_format '{}', {} says '{}'", first.where, Escape(first.checkpoint_format), second.where, Escape(second.checkpoint_format));
  }
  for (const auto& [key, value] : second.json.members()) {
    if (first.json.Find(key) == nullptr) first.json.Set(key, value);
  }
  if (first.quant_method.empty()) first.quant_method = second.quant_method;
  if (!first.bits.has_value()) first.bits = second.bits;
  if (!first.group_size.has_value()) first.group_size = second.group_size;
  if (!first.sym.has_value()) first.sym = second.sym;
  if (!first.desc_act.has_value()) first.desc_act = second.desc_act;
  if (first.checkpoint_format.empty()) first.checkpoint_format = second.checkpoint_format;
  first.per_module = first.per_module || second.per_module;
  return std::optional(std::move(first));
}

}  // namespace q2c
