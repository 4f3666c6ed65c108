#include "convert/passes/passes.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"

namespace q2c {
namespace {

struct DtypeName {
  Dtype dtype;
  std::string_view name;  // as torch spells it
};
constexpr std::array kDtypeNames = {DtypeName{Dtype::kF16, "float16"}, DtypeName{Dtype::kBF16, "bfloat16"}, DtypeName{Dtype::kF32, "float32"}};

// The computation follows the scales: 4.x forces float16 for GPTQ, 5.x believes the config.
// A target that writes every tensor in one type says that one: loaders cast to it.
Status EditDtype(Plan* plan, ConfigEditor* editor) {
  const Json* old_key = editor->Find("torch_dtype");
  const Json* new_key = editor->Find("dtype");
  const bool both = old_key != nullptr && new_key != nullptr && old_key->is_string() && new_key->is_string();
  if (both && old_key->text() != new_key->text()) {
    return Malformed("config-dtype", "config.json: torch_dtype is '{}' and dtype is '{}'; remove the one that is wrong", Escape(old_key->text()), Escape(new_key->text()));
  }
  std::optional<Dtype> scales;
  bool mixed = false;
  const Model& model = *plan->model;
  for (const auto& [name, linear] : plan->linears) {
    const Dtype dtype = linear.scale_dtype;
    mixed = mixed || (scales.has_value() && *scales != dtype);
    scales = dtype;
  }
  const auto all = std::ranges::find(plan->target.floats, FloatRule::Kind::kAll, &FloatRule::kind);
  const bool one_type = all != plan->target.floats.end();
  if (!scales.has_value() && !one_type) return {};
  const Dtype dtype = one_type ? all->dtype : mixed ? Dtype::kF16 : *scales;
  const auto name = std::ranges::find(kDtypeNames, dtype, &DtypeName::dtype)->name;
  const std::string reason = fmt::format("the {} are {}; transformers before 4.56 reads torch_dtype, newer ones dtype", one_type ? "tensors" : "scales", NameOf(dtype));
  editor->Set("torch_dtype", Json::String(name), reason);
  editor->Set("dtype", Json::String(name), reason);
  if (one_type) return {};
  for (const auto& [tensor, index] : model.tensors) {
    if (model.info(index).dtype == dtype) continue;
    plan->notes.push_back({"dtype-mixed", fmt::format("'{}' and others are {}, the scales are {}: the tensors are kept as they are and the loader casts them", tensor, NameOf(model.info(index).dtype), NameOf(dtype))});
    break;
  }
  return {};
}

// transformers from 5.4 checks types strictly: an int is no float, null is no flag.
void EditTypes(const Plan& plan, ConfigEditor* editor) {
  const Json& rules = *plan.model->architecture.definition.Find("config");
  for (const Json& key : rules.Find("floats")->items()) {
    const Json* value = editor->Find(key.text());
    if (value != nullptr && value->is_number() && value->text().find_first_of(".eEnN") == std::string::npos) {
      editor->Set(key.text(), Json::Number(value->text() + ".0"), "transformers from 5.4 takes no integer where it expects a float");
    }
  }
  for (const auto& [key, fallback] : rules.Find("flags")->members()) {
    const Json* value = editor->Find(key);
    if (value != nullptr && !value->AsBool().has_value()) editor->Set(key, fallback, "transformers from 5.4 wants true or false here; this is the default");
  }
  for (const auto& [key, fallback] : rules.Find("integers")->members()) {
    const Json* value = editor->Find(key);
    if (value != nullptr && value->is_null()) editor->Set(key, fallback, "transformers from 5.4 wants a number here; this is the default");
  }
  if (const Json* head_dim = editor->Find("head_dim"); head_dim != nullptr && head_dim->is_null()) {
    editor->Erase("head_dim", "null breaks the attention of transformers from 4.48; without the key it is hidden_size / num_attention_heads");
  }
  if (editor->Find("num_key_value_heads") == nullptr) {
    editor->Set("num_key_value_heads", *editor->Find("num_attention_heads"), "the default, written out, since loaders differ in it");
  }
  const Json* layer_types = editor->Find("layer_types");
  if (layer_types == nullptr || !layer_types->is_array()) return;
  const bool sliding = std::ranges::any_of(layer_types->items(), [](const Json& t) { return t.is_string() && t.text() == "sliding_attention"; });
  const Json* window = editor->Find("use_sliding_window");
  if (layer_types->items().size() != plan.model->skeleton.layers) {
    editor->As("config-layer-types").Erase("layer_types", fmt::format("it has {} entries for {} layers, which transformers from 4.57 refuses; without it the loader derives them", layer_types->items().size(), plan.model->skeleton.layers));
  } else if (sliding && (window == nullptr || !window->AsBool().value_or(false))) {
    editor->As("config-layer-types").Erase("layer_types", "it names sliding layers although use_sliding_window is false; without it the loader derives them");
  }
}

}  // namespace

void ConfigEditor::Set(const std::string& key, Json value, std::string_view reason) {
  const Json* old = json_->Find(key);
  if ((old != nullptr && *old == value && old->text() == value.text()) || !Makes(key)) return;
  plan_->edits.push_back({file_, prefix_ + key, old == nullptr ? std::nullopt : std::optional(*old), value, std::string(reason), false, std::string(repair_)});
  json_->Set(key, std::move(value));
}

void ConfigEditor::Erase(const std::string& key, std::string_view reason) {
  const Json* old = json_->Find(key);
  if (old == nullptr || !Makes(key)) return;
  plan_->edits.push_back({file_, prefix_ + key, *old, std::nullopt, std::string(reason), false, std::string(repair_)});
  json_->Erase(key);
}

void ConfigEditor::ErasePrivate(const std::string& key, std::string_view reason) {
  const size_t edits = plan_->edits.size();
  Erase(key, reason);
  if (plan_->edits.size() > edits) plan_->edits.back().private_value = true;
}

bool LooksLikeLocalPath(std::string_view text) {
  const bool drive = text.size() > 2 && text[1] == ':' && (text[2] == '\\' || text[2] == '/');
  return drive || text.starts_with('/') || text.starts_with("~/") || text.starts_with("./") || text.starts_with("../") || text.starts_with("\\\\");
}

bool LooksLikeLocalModel(std::string_view text) { return LooksLikeLocalPath(text) || std::ranges::count(text, '/') != 1; }

namespace {

void EditPrivate(ConfigEditor* editor) {
  const Json* name = editor->Find("_name_or_path");
  if (name != nullptr && name->is_string() && LooksLikeLocalModel(name->text())) editor->ErasePrivate("_name_or_path", "a path on the machine that made the file");
}

// vLLM and LMDeploy take a window that is not in use for one that is.
void EditWindow(ConfigEditor* editor) {
  const Json* uses = editor->Find("use_sliding_window");
  const Json* window = editor->Find("sliding_window");
  const bool off = uses != nullptr && uses->AsBool() == std::optional(false);
  if (off && window != nullptr && window->is_number()) editor->Set("sliding_window", Json(), "use_sliding_window is false; some loaders look at this key alone");
}

}  // namespace

Status PassConfig(Plan* plan) {
  ConfigEditor editor(plan, &plan->config, std::string(kConfigName), "", "config-class");
  // Of a model that is not known only what the tensors themselves show, and what is private.
  if (plan->model->architecture.IsGeneric()) {
    EditPrivate(&editor.As("config-private"));
    return EditDtype(plan, &editor.As("config-dtype"));
  }
  const Json* classes = editor.Find("architectures");
  if (classes == nullptr || !classes->is_array() || classes->items().empty()) {
    editor.Set("architectures", Json::Array({Json::String(plan->model->class_name)}), "loaders choose the class by it, and transformers 4.x hides reports without it");
  }
  EditPrivate(&editor.As("config-private"));
  editor.As("config-code").Erase("auto_map", "it asks for code from the repository, which a known architecture does not need");
  editor.As("config-unsettable").Erase("use_return_dict", "transformers cannot set it: it is a read-only property");
  for (const char* key : {"attn_implementation", "_attn_implementation", "_attn_implementation_autoset"}) {
    editor.Erase(key, "a choice of the machine that made the file; where its kernel is not installed, loading fails");
  }
  const Json* cache = editor.Find("use_cache");
  if (cache != nullptr && cache->AsBool() == std::optional(false)) editor.As("config-cache").Set("use_cache", Json::Bool(true), "training turned it off; without it generation computes every token anew");
  EditWindow(&editor.As("config-window"));
  QC_TRY(MoveGeneration(plan, &editor.As("config-generation")));
  for (const auto& [key, declared] : plan->bias_keys) {
    editor.As(declared ? "bias-declared" : "zero-bias").Set(key, Json::Bool(declared), declared ? "the file has such biases, and they are not zero" : "those that it declares are zero, and the loader has none");
  }
  for (const auto& [key, size] : plan->sizes) editor.As("pad-intermediate").Set(key, Json::Integer(size), "as many channels as gate, up and down have now");
  QC_TRY(EditDtype(plan, &editor.As("config-dtype")));
  QC_TRY(EditRope(*plan, &editor.As("config-rope")));
  EditTypes(*plan, &editor.As("config-types"));
  editor.As(plan->tied == plan->model->tied ? "config-tie" : "head-differs").Set("tie_word_embeddings", Json::Bool(plan->tied),
             plan->tied == plan->model->tied ? "the default, written out, since base classes differ in it" : "the head differs from the embedding");
  return {};
}

}  // namespace q2c
