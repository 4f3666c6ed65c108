// config.json and generation_config.json: values that a loader refuses, misreads or forgets.
#include <algorithm>
#include <array>
#include <cmath>

#include "formats/base/text.h"
#include "verify/checks/checks.h"

namespace q2c {
namespace {

bool Given(const Json* json) { return json != nullptr && !json->is_null(); }
std::string Shown(const Json& json) { return Escape(json.Dump(-1), 60); }

// Numbers that only some readers of JSON know.
bool HoldsNan(const Json& json) {
  if (json.is_number()) return json.text() == "NaN" || json.text().ends_with("Infinity");
  return std::ranges::any_of(json.items(), HoldsNan) || std::ranges::any_of(json.members(), [](const Json::Member& member) { return HoldsNan(member.second); });
}

std::string RopeType(const Json& rope) {
  for (const char* key : {"rope_type", "type"}) {
    const Json* type = rope.Find(key);
    if (type != nullptr && type->is_string()) return type->text() == "mrope" ? "default" : type->text();  // transformers' own translation
  }
  return "default";
}

void CheckRope(const Json& config, Findings* findings) {
  const Json* top = config.Find("rope_theta");
  const Json* scaling = config.Find("rope_scaling");
  const Json* parameters = config.Find("rope_parameters");
  const Json* inner = parameters == nullptr ? nullptr : parameters->Find("rope_theta");
  for (const Json* theta : {top, inner}) {
    if (Given(theta) && !(theta->AsDouble().value_or(-1) > 0)) findings->Add("config-number", fmt::format("config.json: rope_theta is {}, expected a number above 0", Shown(*theta)));
  }
  if (Given(top) && Given(inner) && top->AsDouble() != inner->AsDouble()) {
    findings->Add("config-rope-contradiction", fmt::format("config.json: rope_theta is {} and rope_parameters.rope_theta is {}", Shown(*top), Shown(*inner)));
  } else if (!Given(top) && Given(inner)) {
    findings->Add("config-rope", fmt::format("config.json: the rope base {} stands in rope_parameters only; transformers before 5 reads rope_theta and falls back to 10000 without a word", Shown(*inner)));
  }
  const bool scaled = Given(scaling) && scaling->is_object() && !scaling->members().empty();
  if (scaled && Given(parameters) && parameters->is_object() && RopeType(*scaling) != RopeType(*parameters)) {
    findings->Add("config-rope-contradiction", fmt::format("config.json: rope_scaling is of type '{}' and rope_parameters of type '{}'", Escape(RopeType(*scaling)), Escape(RopeType(*parameters))));
  } else if (!scaled && Given(parameters) && parameters->is_object() && RopeType(*parameters) != "default") {
    findings->Add("config-rope", fmt::format("config.json: the rope scaling '{}' stands in rope_parameters only, which transformers before 5 does not read", Escape(RopeType(*parameters))));
  }
}

void CheckDtype(const CheckInput& input, const Json& config, Findings* findings) {
  const Json* older = config.Find("torch_dtype");
  const Json* newer = config.Find("dtype");
  if (Given(older) && Given(newer) && older->text() != newer->text()) {
    findings->Add("config-dtype", fmt::format("config.json: torch_dtype is {} and dtype is {}", Shown(*older), Shown(*newer)));
    return;
  }
  if (!Given(older)) {
    findings->Add("config-dtype-form", fmt::format("config.json: {}; transformers before 4.56, and servers of its time, read torch_dtype", Given(newer) ? "only dtype is there" : "neither torch_dtype nor dtype is there"));
  }
  if (input.model == nullptr || (!Given(older) && !Given(newer))) return;
  const std::string said = Given(older) ? older->text() : newer->text();
  for (const auto& [name, linear] : input.model->linears) {
    if (!linear.quantised()) continue;
    const Dtype scales = linear.traits.scale_dtype;
    const std::string_view stored = scales == Dtype::kF16 ? "float16" : scales == Dtype::kBF16 ? "bfloat16" : "float32";
    if (said != stored) findings->Add("config-dtype-form", fmt::format("config.json says {}, the scales of linear '{}' are {}; older servers refuse GPTQ in any other type than float16", Escape(said, 40), Escape(name), stored));
    return;
  }
}

// transformers from 5.4 checks the types of its configs strictly.
void CheckTypes(const CheckInput& input, const Json& config, Findings* findings) {
  if (input.model == nullptr) return;
  const Json* rules = input.model->architecture.definition.Find("config");
  if (rules == nullptr) return;
  const auto wrong = [&](const std::string& key, const Json& value, std::string_view expected) {
    findings->Add("config-types", fmt::format("config.json: {} is {}, expected {}", key, Shown(value), expected));
  };
  if (const Json* floats = rules->Find("floats")) {
    for (const Json& key : floats->items()) {
      const Json* value = config.Find(key.text());
      if (value == nullptr) continue;
      if (!value->is_number()) {
        if (!value->is_null()) wrong(key.text(), *value, "a number");
      } else if (value->text().find_first_of(".eEnN") == std::string::npos) {
        wrong(key.text(), *value, "a number with a point");
      }
    }
  }
  if (const Json* flags = rules->Find("flags")) {
    for (const auto& [key, fallback] : flags->members()) {
      const Json* value = config.Find(key);
      if (value != nullptr && !value->AsBool().has_value()) wrong(key, *value, "true or false");
    }
  }
  if (const Json* integers = rules->Find("integers")) {
    for (const auto& [key, fallback] : integers->members()) {
      const Json* value = config.Find(key);
      if (value != nullptr && value->is_null()) wrong(key, *value, "a number");
    }
  }
  for (const char* key : {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "vocab_size", "max_position_embeddings"}) {
    const Json* value = config.Find(key);
    if (value != nullptr && value->is_number() && value->text().find_first_of(".eE") != std::string::npos) wrong(key, *value, "a whole number without a point");
  }
  if (const Json* head = config.Find("head_dim"); head != nullptr && head->is_null()) wrong("head_dim", *head, "a number, or no such key");
}

void CheckLayers(const Json& config, Findings* findings) {
  const Json* layers = config.Find("num_hidden_layers");
  const Json* types = config.Find("layer_types");
  const Json* sliding = config.Find("use_sliding_window");
  const Json* window = config.Find("sliding_window");
  const bool slides = sliding != nullptr && sliding->AsBool().value_or(false);
  if (types != nullptr && types->is_array() && layers != nullptr && layers->AsU64().has_value() && types->items().size() != *layers->AsU64()) {
    findings->Add("config-layer-types", fmt::format("config.json: layer_types has {} entries for {} layers", types->items().size(), *layers->AsU64()));
  } else if (types != nullptr && types->is_array() && !slides && std::ranges::any_of(types->items(), [](const Json& type) { return type.is_string() && type.text() == "sliding_attention"; })) {
    findings->Add("config-layer-types", "config.json: layer_types names sliding layers although use_sliding_window is not true");
  }
  if (Given(window) && !slides) findings->Add("config-window", fmt::format("config.json: sliding_window is {} and use_sliding_window is not true", Shown(*window)));
}

void CheckTokenIds(const std::string& file, const Json& config, uint64_t vocabulary, Findings* findings) {
  for (const char* key : {"bos_token_id", "eos_token_id", "pad_token_id"}) {
    const Json* value = config.Find(key);
    if (!Given(value)) continue;
    const std::vector<Json> single = {*value};
    for (const Json& id : value->is_array() ? value->items() : single) {
      if (!id.AsU64().has_value() || *id.AsU64() >= vocabulary) findings->Add("config-token-ids", fmt::format("{}: {} is {}, expected an id below {}", file, key, Shown(*value), vocabulary));
    }
  }
}

void CheckGeneration(const CheckInput& input, const Json& config, uint64_t vocabulary, Findings* findings) {
  std::vector<std::string> keys;
  for (const char* key : {"temperature", "top_p", "top_k", "do_sample", "repetition_penalty", "num_beams", "max_new_tokens", "max_length", "typical_p"}) {
    if (config.Find(key) != nullptr) keys.emplace_back(key);
  }
  if (!keys.empty()) findings->Add("generation-keys", fmt::format("config.json holds {}", QuoteSome(keys, 9)));
  const std::optional<Json> generation = input.ReadJson("generation_config.json", findings);
  if (!generation.has_value()) return;
  CheckTokenIds("generation_config.json", *generation, vocabulary, findings);
  const Json* sample = generation->Find("do_sample");
  if (sample != nullptr && sample->AsBool().value_or(false)) return;
  struct Neutral {
    const char* key;
    double value;
  };
  constexpr std::array<Neutral, 3> kNeutral = {Neutral{"temperature", 1}, Neutral{"top_p", 1}, Neutral{"top_k", 50}};
  std::vector<std::string> set;
  for (const Neutral& neutral : kNeutral) {
    const Json* value = generation->Find(neutral.key);
    if (Given(value) && value->AsDouble() != neutral.value) set.push_back(fmt::format("{} {}", neutral.key, Shown(*value)));
  }
  if (!set.empty()) findings->Add("generation-config", fmt::format("generation_config.json: do_sample is {} beside {}", sample == nullptr ? "missing" : "false", Join(set, ", ")));
}

}  // namespace

void CheckConfig(const CheckInput& input, Findings* findings) {
  const std::optional<Json>& read = input.checkpoint->config();
  if (!read.has_value() || input.single_file || input.Gguf()) return;
  const Json& config = *read;
  if (HoldsNan(config)) findings->Add("json-number", "config.json holds NaN or Infinity");
  const Json* classes = config.Find("architectures");
  if (classes == nullptr || !classes->is_array() || classes->items().empty()) findings->Add("config-class", "config.json: architectures is missing; loaders choose the class by it");
  if (const Json* map = config.Find("auto_map"); map != nullptr) findings->Add("config-code", fmt::format("config.json: auto_map asks for {}; with trust_remote_code that code runs", Shown(*map)));
  if (const Json* name = config.Find("_name_or_path"); name != nullptr && name->is_string() && LooksLikeMakersPath(name->text())) findings->Add("config-path", fmt::format("config.json: _name_or_path is '{}'", Escape(name->text(), 80)));
  if (config.Find("use_return_dict") != nullptr) findings->Add("config-unsettable", "config.json holds use_return_dict, a read-only property of the config class");
  for (const char* key : {"attn_implementation", "_attn_implementation", "_attn_implementation_internal"}) {
    if (const Json* value = config.Find(key); Given(value)) findings->Add("config-attention", fmt::format("config.json: {} is {}", key, Shown(*value)));
  }
  if (const Json* cache = config.Find("use_cache"); cache != nullptr && !cache->AsBool().value_or(true)) findings->Add("config-cache", "config.json: use_cache is false");
  if (config.Find("tie_word_embeddings") == nullptr) findings->Add("config-tie", "config.json does not say tie_word_embeddings");
  const Json& text = input.TextConfig();
  CheckRope(text, findings);
  CheckDtype(input, config, findings);
  CheckTypes(input, text, findings);
  CheckLayers(text, findings);
  const Json* vocabulary = text.Find("vocab_size");
  const uint64_t ids = vocabulary == nullptr ? UINT64_MAX : vocabulary->AsU64().value_or(UINT64_MAX);
  CheckTokenIds("config.json", text, ids, findings);
  CheckGeneration(input, config, ids, findings);
}

}  // namespace q2c
