#include "convert/passes/passes.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {
namespace {

// The rope type under either of its two names; "default" if none is given.
std::string RopeType(const Json& rope) {
  for (const char* key : {"rope_type", "type"}) {
    const Json* type = rope.Find(key);
    if (type != nullptr && type->is_string()) return type->text();
  }
  return "default";
}

// With sections for the axes of images; for text it is the default one, and both names are in use.
bool IsMultimodal(const Json& rope) { return rope.Find("mrope_section") != nullptr || RopeType(rope) == "mrope"; }
std::string PlainType(const Json& rope) { return RopeType(rope) == "mrope" ? "default" : RopeType(rope); }

// Everything but base and type.
std::vector<Json::Member> RopeFactors(const Json& rope) {
  std::vector<Json::Member> factors;
  for (const Json::Member& member : rope.members()) {
    if (member.first != "rope_theta" && member.first != "rope_type" && member.first != "type") factors.push_back(member);
  }
  std::ranges::sort(factors, {}, &Json::Member::first);
  return factors;
}

bool IsObject(const Json* json) { return json != nullptr && json->is_object(); }

Json AsFloat(const Json& number) {
  const bool integer = number.text().find_first_of(".eE") == std::string::npos;
  return integer ? Json::Number(number.text() + ".0") : number;
}

}  // namespace

// transformers 5 writes the base into rope_parameters only; 4.x reads it from rope_theta only
// and falls back to 10000 without a word (logits off by 1.65 in 14, seen with 4.40.2). Both
// generations ignore the other's form, so both are written.
Status EditRope(const Plan& plan, ConfigEditor* editor) {
  const Json* parameters = editor->Find("rope_parameters");
  const Json* scaling = editor->Find("rope_scaling");
  const Json* top = editor->Find("rope_theta");
  const Json* inner = IsObject(parameters) ? parameters->Find("rope_theta") : nullptr;
  for (const Json* theta : {top, inner}) {
    if (theta != nullptr && !theta->is_null() && !theta->AsDouble().has_value()) {
      return Malformed("config-rope", "config.json: rope_theta is {}, expected a number", theta->KindName());
    }
  }
  if (top != nullptr && top->is_null()) top = nullptr;
  if (top != nullptr && inner != nullptr && top->AsDouble() != inner->AsDouble()) {
    return Malformed("config-rope", "config.json: rope_theta is {} and rope_parameters.rope_theta is {}; loaders of different versions would compute different models", top->text(), inner->text());
  }
  Json theta;
  if (top != nullptr || inner != nullptr) {
    theta = AsFloat(top != nullptr ? *top : *inner);
  } else {
    theta = Json::Number(plan.model->architecture.definition.Find("config")->Find("rope_theta_default")->text());
  }
  // rope_scaling wins in transformers 5 where both say something; they must not differ.
  const bool scaled = IsObject(scaling) && !scaling->members().empty();
  if (scaled && IsObject(parameters) && (PlainType(*scaling) != PlainType(*parameters) || RopeFactors(*scaling) != RopeFactors(*parameters))) {
    return Malformed("config-rope", "config.json: rope_scaling {} and rope_parameters {} contradict each other", Escape(scaling->Dump(-1)), Escape(parameters->Dump(-1)));
  }
  const Json source = scaled ? *scaling : IsObject(parameters) ? *parameters : Json::Object();
  const std::string type = PlainType(source);
  const std::vector<Json::Member> factors = RopeFactors(source);

  Json modern = Json::Object({{"rope_theta", theta}, {"rope_type", Json::String(type)}});
  for (const auto& [key, value] : factors) modern.Set(key, value);
  editor->Set("rope_theta", theta, "transformers before 5 reads the rope base here and falls back to 10000");
  if (type != "default" || !factors.empty()) {
    // transformers before 4.52 wants to see the word mrope.
    const std::string legacy_type = type == "default" && IsMultimodal(source) ? "mrope" : type;
    Json legacy = Json::Object({{"rope_type", Json::String(legacy_type)}, {"type", Json::String(legacy_type)}});
    for (const auto& [key, value] : factors) legacy.Set(key, value);
    editor->Set("rope_scaling", legacy, "transformers before 5 reads the rope scaling here, under either name of its type");
  }
  editor->Set("rope_parameters", modern, "transformers 5 reads the rope base and scaling here");
  return {};
}

}  // namespace q2c
