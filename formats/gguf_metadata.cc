#include "formats/gguf_metadata.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/base/text.h"
#include "formats/gguf_tokenizer.h"

namespace q2c {
namespace {

struct Family {
  std::string_view model_type;  // config.json
  std::string_view key;         // general.architecture
  std::string_view class_name;
  bool experts;
  bool own_head_size;           // head_dim need not be hidden_size / heads
  bool normalises_router;       // llama.cpp: the weights of the chosen experts sum to 1
};
// The first of a key is the one that a file of that key is read as.
constexpr std::array kFamilies = {
    Family{"qwen2_vl", "qwen2vl", "Qwen2VLForConditionalGeneration", false, false, false},
    Family{"qwen2_5_vl", "qwen2vl", "Qwen2_5_VLForConditionalGeneration", false, false, false},
    Family{"qwen2", "qwen2", "Qwen2ForCausalLM", false, false, false},
    Family{"qwen2_moe", "qwen2moe", "Qwen2MoeForCausalLM", true, false, false},
    Family{"qwen3", "qwen3", "Qwen3ForCausalLM", false, true, false},
    Family{"qwen3_moe", "qwen3moe", "Qwen3MoeForCausalLM", true, true, true},
};
constexpr uint64_t kMaxLayers = 512;    // limits of llama.cpp
constexpr uint64_t kMaxExperts = 1024;
constexpr uint64_t kMaxSize = 1 << 30;  // of anything else: an own limit, so that products fit 64 bits
constexpr uint64_t kQwen3HeadSize = 128;      // what transformers takes where config.json has none
constexpr double kDefaultTheta = 10000.0;

// ---- config.json to key-values

// Reads config.json and appends to the values under the architecture's name.
class ConfigReader {
 public:
  ConfigReader(const Json& config, std::string_view architecture, GgufValues* values) : config_(config), prefix_(architecture), values_(values) {}

  const Json* Find(std::string_view key) const {  // null counts as absent
    const Json* value = config_.Find(key);
    return value == nullptr || value->is_null() ? nullptr : value;
  }
  Result<uint64_t> Count(std::string_view key, uint64_t most = kMaxSize) const {
    const Json* value = Find(key);
    if (value == nullptr) return Malformed("gguf-config", "config.json lacks '{}'", key);
    const std::optional<uint64_t> count = value->AsU64();
    if (!count.has_value() || *count == 0 || *count > most) {
      return Malformed("gguf-config", "config.json: {} is {}, expected a whole number from 1 to {}", key, Shown(*value), most);
    }
    return *count;
  }
  static Result<double> Positive(const Json& value, std::string_view key) {
    const std::optional<double> number = value.AsDouble();
    if (!number.has_value() || !std::isfinite(static_cast<float>(*number)) || static_cast<float>(*number) <= 0) {
      return Malformed("gguf-config", "config.json: {} is {}, expected a number above 0", key, Shown(value));
    }
    return *number;
  }
  static std::string Shown(const Json& value) { return Escape(value.Dump(-1), 60); }

  void Put(std::string_view key, GgufValue value) { values_->emplace_back(fmt::format("{}.{}", prefix_, key), std::move(value)); }
  void Put(std::string_view key, uint64_t count) { Put(key, GgufValue::U32(static_cast<uint32_t>(count))); }
  void Put(std::string_view key, double number) { Put(key, GgufValue::F32(static_cast<float>(number))); }
  Status Copy(std::string_view from, std::string_view to, uint64_t most = kMaxSize) {
    QC_ASSIGN(const uint64_t count, Count(from, most));
    Put(to, count);
    return {};
  }

 private:
  const Json& config_;
  std::string_view prefix_;
  GgufValues* values_;
};

bool IsTrue(const Json* value) { return value != nullptr && value->AsBool().value_or(true); }

// What config.json may ask for and llama.cpp does not do.
Status CheckExpressible(const ConfigReader& config, const Family& family, uint64_t layers) {
  const Json* activation = config.Find("hidden_act");
  if (activation != nullptr && activation->text() != "silu") {
    return Refused("gguf-config", "config.json: hidden_act is {}; llama.cpp computes {} with silu only", ConfigReader::Shown(*activation), family.key);
  }
  const Json* full_layers = config.Find("max_window_layers");
  const bool window = IsTrue(config.Find("use_sliding_window")) && (full_layers == nullptr || full_layers->AsU64().value_or(0) < layers);
  const Json* types = config.Find("layer_types");
  const bool listed = types != nullptr && std::ranges::any_of(types->items(), [](const Json& type) { return type.text() != "full_attention"; });
  if (window || listed) return Refused("gguf-config", "config.json asks for sliding-window attention, which llama.cpp does not compute for {}", family.key);
  if (!family.experts) return {};
  const Json* step = config.Find("decoder_sparse_step");
  const Json* dense = config.Find("mlp_only_layers");
  if ((step != nullptr && step->AsU64() != 1U) || (dense != nullptr && !dense->items().empty())) {
    return Refused("gguf-config", "config.json: some layers have no experts (decoder_sparse_step, mlp_only_layers), llama.cpp expects them in all of {}", family.key);
  }
  if (IsTrue(config.Find("norm_topk_prob")) != family.normalises_router) {
    return Refused("gguf-config", "config.json: norm_topk_prob is {}, llama.cpp computes {} with {}", !family.normalises_router, family.key, family.normalises_router);
  }
  return {};
}

// The base, and linear or yarn scaling. llama.cpp reads neither betas nor a factor for the attention here, so they must be the usual ones.
Status PutRope(const Json& config_json, uint64_t context, ConfigReader* config) {
  const Json* rope = config->Find("rope_parameters");
  const Json* scaling = config->Find("rope_scaling");
  if (rope == nullptr) rope = scaling;
  const auto inner = [&](std::string_view key) -> const Json* {
    const Json* value = rope != nullptr ? rope->Find(key) : nullptr;
    return value == nullptr || value->is_null() ? nullptr : value;
  };
  if (rope != nullptr && std::ranges::any_of(rope->members(), [](const Json::Member& member) { return member.second.is_object(); })) {
    return Refused("gguf-config", "config.json: layers of different kinds have their own rope, which GGUF cannot express for this architecture");
  }
  const Json* base = inner("rope_theta");
  if (base == nullptr) base = config_json.Find("rope_theta");
  double theta = kDefaultTheta;
  if (base != nullptr && !base->is_null()) {
    QC_ASSIGN(theta, ConfigReader::Positive(*base, "rope_theta"));
  }
  config->Put("rope.freq_base", theta);

  const Json* named = inner("rope_type");
  if (named == nullptr) named = inner("type");
  const std::string type = named != nullptr ? named->text() : "default";
  if (const Json* sections = inner("mrope_section"); sections != nullptr) {
    // Four numbers: time, height, width and one that is not used.
    std::vector<int32_t> list;
    for (const Json& item : sections->items()) list.push_back(static_cast<int32_t>(std::min<uint64_t>(item.AsU64().value_or(kMaxSize), kMaxSize)));
    if (list.size() != 3) return Malformed("gguf-config", "config.json: mrope_section is {}, expected three numbers", ConfigReader::Shown(*sections));
    list.push_back(0);
    config->Put("rope.dimension_sections", GgufValue::I32s(list));
  }
  if (type == "default" || type == "mrope") return {};
  if (type != "linear" && type != "yarn") return Refused("gguf-config", "config.json: rope scaling '{}' cannot be expressed in GGUF for this architecture", Escape(type, 60));
  if (inner("factor") == nullptr) return Malformed("gguf-config", "config.json: rope scaling '{}' lacks 'factor'", type);
  QC_ASSIGN(const double factor, ConfigReader::Positive(*inner("factor"), "factor"));
  const double usual_attention = factor > 1 ? 0.1 * std::log(factor) + 1 : 1;
  const bool yarn = type == "yarn";
  for (const auto& [key, value] : rope->members()) {
    if (value.is_null() || key == "rope_theta" || key == "rope_type" || key == "type" || key == "factor") continue;
    if (yarn && key == "original_max_position_embeddings") continue;
    const double found = value.AsDouble().value_or(NAN);
    const bool usual = (yarn && key == "beta_fast" && found == 32) || (yarn && key == "beta_slow" && found == 1) || (key == "partial_rotary_factor" && found == 1) ||
                       (yarn && key == "attention_factor" && std::abs(found - usual_attention) < 1e-6);
    if (!usual) return Refused("gguf-config", "config.json: rope scaling has {} = {}, which llama.cpp does not read for this architecture", Escape(key, 60), ConfigReader::Shown(value));
  }
  config->Put("rope.scaling.type", GgufValue::String(type));
  config->Put("rope.scaling.factor", factor);
  if (!yarn) return {};
  uint64_t original = context;
  const Json* declared = inner("original_max_position_embeddings");
  if (declared != nullptr) {
    if (declared->AsU64().value_or(0) == 0 || *declared->AsU64() > kMaxSize) {
      return Malformed("gguf-config", "config.json: original_max_position_embeddings is {}, expected a whole number", ConfigReader::Shown(*declared));
    }
    original = *declared->AsU64();
  }
  config->Put("rope.scaling.original_context_length", original);
  return {};
}

Status PutExperts(const Family& family, ConfigReader* config) {
  QC_ASSIGN(const uint64_t experts, config->Count("num_experts", kMaxExperts));
  QC_ASSIGN(const uint64_t used, config->Count("num_experts_per_tok", experts));
  config->Put("expert_count", experts);
  config->Put("expert_used_count", used);
  QC_TRY(config->Copy("moe_intermediate_size", "expert_feed_forward_length"));
  if (family.key == "qwen2moe") QC_TRY(config->Copy("shared_expert_intermediate_size", "expert_shared_feed_forward_length"));
  return {};
}

Status PutArchitecture(const Json& config_json, const Family& family, GgufValues* values) {
  ConfigReader config(config_json, family.key, values);
  QC_ASSIGN(const uint64_t layers, config.Count("num_hidden_layers", kMaxLayers));
  QC_TRY(CheckExpressible(config, family, layers));
  QC_ASSIGN(const uint64_t context, config.Count("max_position_embeddings"));
  QC_ASSIGN(const uint64_t hidden, config.Count("hidden_size"));
  QC_ASSIGN(const uint64_t heads, config.Count("num_attention_heads"));
  uint64_t kv_heads = heads;  // null: as many
  if (config_json.Find("num_key_value_heads") == nullptr || config.Find("num_key_value_heads") != nullptr) {
    QC_ASSIGN(kv_heads, config.Count("num_key_value_heads"));
  }
  if (heads % kv_heads != 0) return Malformed("gguf-config", "config.json: {} heads cannot share {} key-value heads", heads, kv_heads);
  uint64_t head_size = family.model_type == "qwen3" ? kQwen3HeadSize : hidden / heads;
  if (config.Find("head_dim") != nullptr) {
    QC_ASSIGN(head_size, config.Count("head_dim"));
  } else if (!family.own_head_size && hidden % heads != 0) {
    return Malformed("gguf-config", "config.json: hidden_size {} is no multiple of {} heads", hidden, heads);
  }
  if (!family.own_head_size && head_size * heads != hidden) {
    return Refused("gguf-config", "config.json: {} heads of {} are not hidden_size {}, which llama.cpp expects of {}", heads, head_size, hidden, family.key);
  }
  config.Put("block_count", layers);
  config.Put("context_length", context);
  config.Put("embedding_length", hidden);
  QC_TRY(config.Copy("intermediate_size", "feed_forward_length"));
  config.Put("attention.head_count", heads);
  config.Put("attention.head_count_kv", kv_heads);
  QC_TRY(PutRope(config_json, context, &config));
  if (config.Find("rms_norm_eps") == nullptr) return Malformed("gguf-config", "config.json lacks 'rms_norm_eps'");
  QC_ASSIGN(const double epsilon, ConfigReader::Positive(*config.Find("rms_norm_eps"), "rms_norm_eps"));
  config.Put("attention.layer_norm_rms_epsilon", epsilon);
  if (family.own_head_size) {
    config.Put("attention.key_length", head_size);
    config.Put("attention.value_length", head_size);
  }
  if (family.experts) QC_TRY(PutExperts(family, &config));
  return {};
}

// llama.cpp changes how it tokenises, or fails to load, where a model is called after one of these.
bool IsSafeName(std::string_view name) {
  std::string lower(name);
  std::ranges::transform(lower, lower.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; });
  return !lower.empty() && IsUtf8(lower) && std::ranges::none_of(std::array{"phi-3", "phi3", "modern-bert"}, [&](const char* part) { return lower.find(part) != std::string::npos; });
}

}  // namespace

Result<GgufValues> MakeGgufMetadata(const GgufModelFiles& files, uint32_t file_type, const std::string& name, uint64_t embedding_rows) {
  const Json* type = files.config.Find("model_type");
  const auto* const family = std::ranges::find(kFamilies, type != nullptr ? type->text() : "", &Family::model_type);
  if (family == kFamilies.end()) {
    return Refused("architecture", "config.json: model_type is {}; GGUF is written for qwen2, qwen2_moe, qwen2_vl, qwen2_5_vl, qwen3 and qwen3_moe", type != nullptr ? ConfigReader::Shown(*type) : "absent");
  }
  GgufValues values;
  values.emplace_back("general.architecture", GgufValue::String(std::string(family->key)));
  values.emplace_back("general.type", GgufValue::String("model"));
  if (IsSafeName(name)) values.emplace_back("general.name", GgufValue::String(name));
  values.emplace_back("general.file_type", GgufValue::U32(file_type));
  values.emplace_back("general.quantization_version", GgufValue::U32(2));
  QC_TRY(PutArchitecture(files.config, *family, &values));
  QC_TRY(AddGgufTokenizer(files, embedding_rows, &values));
  return values;
}

// ---- key-values to config.json

namespace {

class MetadataReader {
 public:
  MetadataReader(const GgufValues& values, std::string_view architecture) : values_(values), prefix_(architecture) {}

  std::string Key(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }
  const GgufValue* Find(std::string_view key) const { return FindGguf(values_, Key(key)); }
  bool Has(std::string_view key) const { return Find(key) != nullptr; }
  Result<uint64_t> Count(std::string_view key, uint64_t most = kMaxSize) const {
    const GgufValue* value = Find(key);
    if (value == nullptr) return Malformed("gguf-metadata", "'{}' is absent", Key(key));
    const std::optional<uint64_t> count = value->is_array() ? std::nullopt : value->AsU64();
    if (!count.has_value()) return Malformed("gguf-metadata", "'{}' is of kind {}, expected one whole number", Key(key), value->KindName());
    if (*count == 0 || *count > most) return Malformed("gguf-metadata", "'{}' is {}, expected 1 to {}", Key(key), *count, most);
    return *count;
  }
  Result<uint64_t> CountOr(std::string_view key, uint64_t fallback, uint64_t most = kMaxSize) const {
    if (!Has(key)) return fallback;
    return Count(key, most);
  }
  // The shortest decimal number that gives the same float32, as JSON.
  Result<Json> Number(std::string_view key) const {
    const GgufValue* value = Find(key);
    if (value == nullptr) return Malformed("gguf-metadata", "'{}' is absent", Key(key));
    const std::optional<double> number = value->is_array() ? std::nullopt : value->AsF64();
    if (!number.has_value()) return Malformed("gguf-metadata", "'{}' is of kind {}, expected a number", Key(key), value->KindName());
    const auto single = static_cast<float>(*number);
    if (!std::isfinite(single) || single <= 0) return Malformed("gguf-metadata", "'{}' is {}, expected a number above 0", Key(key), *number);
    if (single < 1e15F && single == std::floor(single)) return Json::Number(fmt::format("{:.1f}", single));
    return Json::Number(fmt::format("{}", single));
  }

 private:
  const GgufValues& values_;
  std::string_view prefix_;
};

Status SetRope(const MetadataReader& reader, Json* config) {
  Json theta = Json::Number("10000.0");
  if (reader.Has("rope.freq_base")) {
    QC_ASSIGN(theta, reader.Number("rope.freq_base"));
  }
  config->Set("rope_theta", std::move(theta));
  const GgufValue* type = reader.Find("rope.scaling.type");
  const std::string named(type != nullptr ? type->AsText().value_or("?") : "none");
  if (const GgufValue* sections = reader.Find("rope.dimension_sections"); sections != nullptr && sections->is_array() && sections->size() >= 3) {
    Json list = Json::Array();
    for (size_t i = 0; i < 3; ++i) list.items().push_back(Json::Integer(sections->AsU64(i).value_or(0)));
    config->Set("rope_scaling", Json::Object({{"mrope_section", std::move(list)}, {"rope_type", Json::String("mrope")}, {"type", Json::String("mrope")}}));
  }
  if (named == "none") return {};
  if (named != "linear" && named != "yarn") return Refused("gguf-metadata", "'{}' is '{}'; linear and yarn can be expressed", reader.Key("rope.scaling.type"), Escape(named, 60));
  QC_ASSIGN(Json factor, reader.Number("rope.scaling.factor"));
  Json scaling = Json::Object({{"factor", std::move(factor)}, {"rope_type", Json::String(named)}, {"type", Json::String(named)}});
  if (named == "yarn") {
    QC_ASSIGN(const uint64_t original, reader.Count("rope.scaling.original_context_length"));
    scaling.Set("original_max_position_embeddings", Json::Integer(original));
  }
  config->Set("rope_scaling", std::move(scaling));
  return {};
}

Status SetExperts(const MetadataReader& reader, const Family& family, uint64_t feed_forward, Json* config) {
  QC_ASSIGN(const uint64_t experts, reader.Count("expert_count", kMaxExperts));
  QC_ASSIGN(const uint64_t used, reader.Count("expert_used_count", experts));
  QC_ASSIGN(const uint64_t each, reader.CountOr("expert_feed_forward_length", std::max<uint64_t>(feed_forward / used, 1)));
  config->Set("num_experts", Json::Integer(experts));
  config->Set("num_experts_per_tok", Json::Integer(used));
  config->Set("moe_intermediate_size", Json::Integer(each));
  if (family.key == "qwen2moe") {
    QC_ASSIGN(const uint64_t shared, reader.CountOr("expert_shared_feed_forward_length", feed_forward));
    config->Set("shared_expert_intermediate_size", Json::Integer(shared));
  }
  config->Set("norm_topk_prob", Json::Bool(family.normalises_router));
  config->Set("decoder_sparse_step", Json::Integer(1));
  config->Set("mlp_only_layers", Json::Array());
  return {};
}

// bos_token_id and so on; null where the file has none.
Status SetTokenIds(const GgufValues& values, uint64_t vocabulary, Json* config) {
  for (const auto& [from, to] : {std::pair{"bos", "bos"}, std::pair{"eos", "eos"}, std::pair{"padding", "pad"}}) {
    const GgufValue* value = FindGguf(values, fmt::format("tokenizer.ggml.{}_token_id", from));
    const std::optional<uint64_t> id = value == nullptr || value->is_array() ? std::nullopt : value->AsU64();
    if (value != nullptr && (!id.has_value() || *id >= vocabulary)) {
      return Malformed("gguf-metadata", "'tokenizer.ggml.{}_token_id' is not one of the {} tokens", from, vocabulary);
    }
    config->Set(fmt::format("{}_token_id", to), id.has_value() ? Json::Integer(*id) : Json());
  }
  return {};
}

}  // namespace

Result<Json> ConfigFromGguf(const GgufValues& values, bool has_output_tensor) {
  const GgufValue* architecture = FindGguf(values, "general.architecture");
  if (architecture == nullptr || architecture->is_array() || !architecture->is_string()) return Malformed("gguf-metadata", "'general.architecture' is absent or no text");
  const auto* const family = std::ranges::find(kFamilies, *architecture->AsText(), &Family::key);
  if (family == kFamilies.end()) {
    return Refused("architecture", "the file holds a model of architecture '{}'; qwen2, qwen2moe, qwen2vl, qwen3 and qwen3moe can be read", Escape(*architecture->AsText(), 60));
  }
  const MetadataReader reader(values, family->key);
  QC_ASSIGN(const uint64_t layers, reader.Count("block_count", kMaxLayers));
  QC_ASSIGN(const uint64_t context, reader.Count("context_length"));
  QC_ASSIGN(const uint64_t hidden, reader.Count("embedding_length"));
  QC_ASSIGN(const uint64_t feed_forward, reader.Count("feed_forward_length"));
  QC_ASSIGN(const uint64_t heads, reader.Count("attention.head_count", hidden));
  QC_ASSIGN(const uint64_t kv_heads, reader.CountOr("attention.head_count_kv", heads, heads));
  QC_ASSIGN(Json epsilon, reader.Number("attention.layer_norm_rms_epsilon"));
  QC_ASSIGN(const uint64_t head_size, reader.CountOr("attention.key_length", hidden / heads));
  QC_ASSIGN(const uint64_t value_size, reader.CountOr("attention.value_length", hidden / heads));
  QC_ASSIGN(const uint64_t rotated, reader.CountOr("rope.dimension_count", head_size));
  if (heads % kv_heads != 0) return Malformed("gguf-metadata", "{} heads cannot share {} key-value heads", heads, kv_heads);
  const bool fits = family->own_head_size || head_size * heads == hidden;
  if (head_size != value_size || rotated != head_size || !fits) {
    return Malformed("gguf-metadata", "{} heads with keys of {}, values of {} and {} rotated dimensions do not fit an embedding of {}", heads, head_size, value_size, rotated, hidden);
  }
  const GgufValue* tokens = FindGguf(values, "tokenizer.ggml.tokens");
  if (tokens == nullptr || !tokens->is_array() || !tokens->is_string() || tokens->size() == 0) return Malformed("gguf-metadata", "'tokenizer.ggml.tokens' is absent or no list of texts");

  Json config = Json::Object();
  config.Set("architectures", Json::Array({Json::String(family->class_name)}));
  config.Set("attention_dropout", Json::Number("0.0"));
  QC_TRY(SetTokenIds(values, tokens->size(), &config));
  if (family->own_head_size) {
    config.Set("attention_bias", Json::Bool(false));
    config.Set("head_dim", Json::Integer(head_size));
  }
  config.Set("hidden_act", Json::String("silu"));
  config.Set("hidden_size", Json::Integer(hidden));
  config.Set("initializer_range", Json::Number("0.02"));
  config.Set("intermediate_size", Json::Integer(feed_forward));
  config.Set("max_position_embeddings", Json::Integer(context));
  config.Set("max_window_layers", Json::Integer(layers));
  config.Set("model_type", Json::String(family->model_type));
  config.Set("num_attention_heads", Json::Integer(heads));
  config.Set("num_hidden_layers", Json::Integer(layers));
  config.Set("num_key_value_heads", Json::Integer(kv_heads));
  if (family->experts) QC_TRY(SetExperts(reader, *family, feed_forward, &config));
  config.Set("rms_norm_eps", std::move(epsilon));
  QC_TRY(SetRope(reader, &config));
  config.Set("sliding_window", Json());
  config.Set("tie_word_embeddings", Json::Bool(!has_output_tensor));
  // The first that knows every architecture here. Without a version 4.57 takes the tokenizer for a faulty one of another family.
  config.Set("transformers_version", Json::String("4.51.0"));
  config.Set("use_cache", Json::Bool(true));
  config.Set("use_sliding_window", Json::Bool(false));
  config.Set("vocab_size", Json::Integer(static_cast<uint64_t>(tokens->size())));
  return config;
}

}  // namespace q2c
