#include "convert/passes/passes.h"

#include <algorithm>
#include <array>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::string_view kFile = "generation_config.json";
constexpr uint64_t kMaxBytes = 1'000'000;

// Keys of generation with what they are if nobody says anything (transformers
// generation/configuration_utils.py): these are lost in config.json from 5.0 on, and refused by save_pretrained there.
struct Setting {
  std::string_view key;
  std::string_view fallback;  // JSON
};
constexpr auto kSettings = std::to_array<Setting>({{"do_sample", "false"}, {"temperature", "1.0"}, {"top_p", "1.0"}, {"top_k", "50"}, {"typical_p", "1.0"}, {"repetition_penalty", "1.0"}, {"length_penalty", "1.0"},
                                                   {"no_repeat_ngram_size", "0"}, {"num_beams", "1"}, {"num_beam_groups", "1"}, {"num_return_sequences", "1"}, {"max_length", "20"}, {"min_length", "0"},
                                                   {"max_new_tokens", "null"}, {"early_stopping", "false"}, {"diversity_penalty", "0.0"}, {"bad_words_ids", "null"}, {"suppress_tokens", "null"},
                                                   {"begin_suppress_tokens", "null"}, {"forced_bos_token_id", "null"}, {"forced_eos_token_id", "null"}, {"exponential_decay_length_penalty", "null"},
                                                   {"encoder_no_repeat_ngram_size", "0"}, {"output_scores", "false"}, {"remove_invalid_values", "false"}, {"return_dict_in_generate", "false"}});

bool Same(const Json& value, std::string_view json) {
  const Result<Json> fallback = ParseJson(json);
  if (!fallback.ok()) return false;
  if (value.is_number() && fallback.value().is_number()) return value.AsDouble() == fallback.value().AsDouble();
  return value == fallback.value();
}

Result<std::optional<Json>> ReadFile(const Plan& plan) {
  const auto& sides = plan.model->checkpoint->side_files();
  if (std::ranges::find(sides, kFile, &SideFile::name) == sides.end()) return std::optional<Json>();
  QC_ASSIGN(const InputFile file, plan.model->checkpoint->location().OpenMember(std::string(kFile)));
  QC_ASSIGN(const std::string text, file.ReadAll(kMaxBytes));
  Result<Json> json = ParseJson(text);
  // It goes along as it is then: what it holds is nothing that the weights depend on.
  if (!json.ok() || !json.value().is_object()) return std::optional<Json>();
  return std::optional(std::move(json).value());
}

}  // namespace

Status MoveGeneration(Plan* plan, ConfigEditor* config) {
  if (plan->target.container == Container::kGguf) return {};  // which has neither file
  QC_ASSIGN(const std::optional<Json> before, ReadFile(*plan));
  const auto& sides = plan->model->checkpoint->side_files();
  if (!before.has_value() && std::ranges::find(sides, kFile, &SideFile::name) != sides.end()) return {};
  Json settings = before.value_or(Json::Object());
  ConfigEditor editor(plan, &settings, std::string(kFile), "", "config-generation");
  for (const Setting& setting : kSettings) {
    const Json* value = config->Find(setting.key);
    if (value == nullptr) continue;
    const std::string key(setting.key);
    const Json moved = *value;
    if (settings.Find(key) == nullptr && !Same(moved, setting.fallback) && !moved.is_null()) editor.Set(key, moved, "moved here from config.json, where transformers 5 drops it");
    config->Erase(key, settings.Find(key) != nullptr ? "generation_config.json says it; transformers 5 takes none of generation here" : "the default; transformers 5 takes none of generation here");
  }
  const Json* sample = settings.Find("do_sample");
  if (sample != nullptr && sample->AsBool() == std::optional(false)) {
    const auto set = [&](const char* key, std::string_view fallback) { return settings.Find(key) != nullptr && !settings.Find(key)->is_null() && !Same(*settings.Find(key), fallback); };
    if (set("temperature", "1.0") || set("top_p", "1.0") || set("top_k", "50")) {
      editor.As("generation-sampling").Set("do_sample", Json::Bool(true), "temperature, top_p or top_k are set, which mean nothing without it; save_pretrained refuses the file as it is");
    }
  }
  if (before.has_value() ? settings == *before : settings.members().empty()) return {};
  plan->texts.push_back({std::string(kFile), settings.Dump() + "\n"});
  return {};
}

}  // namespace q2c
