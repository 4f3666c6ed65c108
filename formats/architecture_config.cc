#include <algorithm>

#include "formats/architecture.h"
#include "formats/base/text.h"

namespace q2c {
namespace {

// The list or object of this name; an empty one where a family needs none.
const Json& Part(const Json& rules, std::string_view key) {
  static const Json kNothing;
  const Json* part = rules.Find(key);
  return part == nullptr ? kNothing : *part;
}

bool Given(const Json* value) { return value != nullptr && !value->is_null(); }

const Json* FirstGiven(const Json& config, const Json& keys) {
  for (const Json& key : keys.items()) {
    if (const Json* value = config.Find(key.text()); Given(value)) return value;
  }
  return nullptr;
}

bool SameValue(const Json& a, const Json& b) {
  if (a.is_number() && b.is_number()) return a.AsDouble() == b.AsDouble();
  return a == b;
}

// Edits a config and remembers what was done.
class Translator {
 public:
  explicit Translator(const Json& config) : out_{config, {}, {}} {}

  const Json& config() const { return out_.config; }
  void Set(const std::string& key, const Json& value, std::string_view reason) {
    const Json* old = out_.config.Find(key);
    if (old != nullptr && *old == value) return;
    out_.changes.push_back({key, old == nullptr ? std::nullopt : std::optional(*old), value, std::string(reason)});
    out_.config.Set(key, value);
  }
  void Erase(const std::string& key, std::string_view reason) {
    const Json* old = out_.config.Find(key);
    if (old == nullptr) return;
    out_.changes.push_back({key, *old, std::nullopt, std::string(reason)});
    out_.config.Erase(key);
  }
  void Note(const std::string& id, const std::string& text) { out_.notes.emplace_back(id, text); }
  TranslatedConfig Take() && { return std::move(out_); }

 private:
  TranslatedConfig out_;
};

// Does the config say something that the other architecture cannot?
Status CheckExpressible(const Json& rules, const Json& before, const Json& after) {
  for (const Json& rule : rules.items()) {
    const std::string& key = rule.Find("key")->text();
    const Json* value = before.Find(key);
    if (!Given(value)) continue;
    const Json* times = rule.Find("times");
    bool fits = false;
    if (times == nullptr) {
      fits = SameValue(*value, *rule.Find("unless"));
    } else {
      const Json* factor = after.Find(times->text());
      const Json* product = after.Find(rule.Find("unless_key")->text());
      fits = factor != nullptr && product != nullptr && value->AsDouble().value_or(0) * factor->AsDouble().value_or(0) == product->AsDouble().value_or(-1);
    }
    if (!fits) return Refused("architecture", "config.json: {} is {}: {}", key, Escape(value->Dump(-1), 40), rule.Find("why")->text());
  }
  return {};
}

Result<Json> Half(const std::string& key, const Json& value) {
  const std::optional<uint64_t> number = value.AsU64();
  if (!number.has_value() || *number % 2 != 0) return Malformed("config-size", "config.json: {} is {}, expected an even number: it counts two halves", key, Escape(value.Dump(-1), 40));
  return Json::Integer(*number / 2);
}

// The text model's config, which newer versions put inside, up to the top. Those versions read
// what is inside, so that is what stays.
void Lift(const Json& rule, Translator* translator) {
  const std::string& from = rule.Find("from")->text();
  const Json* found = translator->config().Find(from);
  if (found == nullptr || !found->is_object()) return;
  const Json inner = *found;
  for (const Json& key : rule.Find("keys")->items()) {
    if (const Json* value = inner.Find(key.text())) translator->Set(key.text(), *value, fmt::format("as {} has it", from));
  }
  for (const char* key : {"torch_dtype", "dtype"}) {
    const bool given = Given(translator->config().Find("torch_dtype")) || Given(translator->config().Find("dtype"));
    if (const Json* value = inner.Find(key); Given(value) && !given) translator->Set(key, *value, fmt::format("as {} has it", from));
  }
  if (const Json* quant = inner.Find("quantization_config"); quant != nullptr && translator->config().Find("quantization_config") == nullptr) {
    translator->Set("quantization_config", *quant, fmt::format("as {} has it", from));
  }
  translator->Erase(from, rule.Find("why")->text());
}

}  // namespace

Result<TranslatedConfig> Architecture::Translate(const Json& config) const {
  Translator translator(config);
  const Json* given = definition.Find("translate");
  if (given == nullptr) return std::move(translator).Take();
  const Json& rules = *given;
  if (const Json* lift = rules.Find("lift")) Lift(*lift, &translator);
  const std::string& family = definition.Find("model_type")->text();
  const std::vector<Json>& keys = Part(rules, "keys").items();

  // All values are read before any key goes.
  std::vector<Json> values;
  for (const Json& rule : keys) {
    const Json* value = FirstGiven(config, *rule.Find("from"));
    values.push_back(value == nullptr ? Json() : *value);
    if (value == nullptr || rule.Find("half") == nullptr) continue;
    QC_ASSIGN(values.back(), Half(rule.Find("key")->text(), *value));
  }
  if (family != model_type) translator.Set("model_type", Json::String(model_type), fmt::format("'{}' is read and written as '{}', which computes the same", family, model_type));
  if (const Json* classes = config.Find("architectures"); classes != nullptr && classes->is_array() && classes->items().size() == 1 && classes->items()[0].is_string()) {
    const Json* name = Part(rules, "classes").Find(classes->items()[0].text());
    if (name != nullptr) translator.Set("architectures", Json::Array({*name}), fmt::format("the class of '{}' that computes the same", model_type));
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const Json* why = keys[i].Find("why");
    if (!values[i].is_null()) translator.Set(keys[i].Find("key")->text(), values[i], why == nullptr ? fmt::format("the name of '{}' for it", model_type) : why->text());
  }
  QC_TRY(CheckExpressible(Part(rules, "refuse"), config, translator.config()));
  const auto kept = [&](const std::string& key) {
    return std::ranges::any_of(keys, [&](const Json& rule) { return rule.Find("key")->text() == key; });
  };
  for (const Json& rule : keys) {
    for (const Json& key : rule.Find("from")->items()) {
      if (!kept(key.text()) && rule.Find("keep") == nullptr) translator.Erase(key.text(), fmt::format("'{}' calls it {}", model_type, rule.Find("key")->text()));
    }
  }
  for (const auto& [key, value] : Part(rules, "set").members()) translator.Set(key, value, fmt::format("what '{}' always does", family));
  for (const Json& note : Part(rules, "notes").items()) {
    const bool applies = std::ranges::any_of(note.Find("if_true")->items(), [&](const Json& key) {
      const Json* value = config.Find(key.text());
      return value != nullptr && value->AsBool().value_or(false);
    });
    if (applies) translator.Note(note.Find("id")->text(), note.Find("text")->text());
  }
  for (const Json& key : Part(rules, "gone").items()) translator.Erase(key.text(), fmt::format("'{}' does not know it", model_type));
  return std::move(translator).Take();
}

}  // namespace q2c
