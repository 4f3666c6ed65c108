#include "formats/quant_config.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"

namespace q2c {
namespace {

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
      return Refused("quant-bits", "{}: {} is {}; GPTQ of 2, 3, 4 and 8 bits is supported", config.where, key, *bits);
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
  for (const char* key : {"checkpoint_format", "format"}) {
    const Json* value = json.Find(key);
    if (value == nullptr || !value->is_string()) continue;
    std::string text = value->text();
    std::ranges::transform(text, text.begin(), [](unsigned char c) { return c < 0x80 ? std::tolower(c) : c; });
    if (!config.checkpoint_format.empty() && config.checkpoint_format != text) {
      return Malformed("config-disagree", "{}: checkpoint_format is '{}' and format is '{}'; loaders differ in which they believe", config.where, Escape(config.checkpoint_format), Escape(text));
    }
    config.checkpoint_format = text;
  }
  const Json* dynamic = json.Find("dynamic");
  config.per_module = dynamic != nullptr && dynamic->is_object() && !dynamic->members().empty();
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
    const Json* block = top != nullptr ? top : nested;
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
