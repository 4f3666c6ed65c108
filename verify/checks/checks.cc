#include "verify/checks/checks.h"

#include <algorithm>

#include "formats/base/text.h"

namespace q2c {

bool CheckInput::HasEntry(std::string_view name) const { return std::ranges::find(entries, name, &DirEntry::name) != entries.end(); }

bool CheckInput::Gguf() const { return std::ranges::any_of(checkpoint->files(), [](const WeightFile& file) { return file.name.ends_with(".gguf"); }); }

const Json& CheckInput::TextConfig() const {
  const Json& config = *checkpoint->config();
  const Json* text = config.Find("text_config");
  return text != nullptr && text->Find("num_hidden_layers") != nullptr ? *text : config;
}

std::optional<std::string> CheckInput::ReadText(const std::string& name, uint64_t limit) const {
  if (!HasEntry(name)) return std::nullopt;
  const Result<InputFile> file = checkpoint->location().OpenMember(name);
  if (!file.ok()) return std::nullopt;  // the reader of the folder has said so
  Result<std::string> text = file.value().ReadAll(limit);
  if (!text.ok()) return std::nullopt;
  return std::move(text).value();
}

std::optional<Json> CheckInput::ReadJson(const std::string& name, Findings* findings) const {
  constexpr uint64_t kMaxJson = 64'000'000;
  const std::optional<std::string> text = ReadText(name, kMaxJson);
  if (!text.has_value()) return std::nullopt;
  Result<Json> json = ParseJson(*text, JsonNumbers::kAllowNan);
  if (json.ok()) return std::move(json).value();
  findings->Add(std::move(json).TakeError().Within(fmt::format("file '{}'", Escape(name))));
  return std::nullopt;
}

const Json* FindPath(const Json& json, std::initializer_list<std::string_view> path) {
  const Json* at = &json;
  for (const std::string_view key : path) {
    at = at->Find(key);
    if (at == nullptr) return nullptr;
  }
  return at;
}

bool LooksLikeMakersPath(std::string_view text) {
  const bool drive = text.size() > 2 && text[1] == ':' && (text[2] == '\\' || text[2] == '/');
  return drive || text.starts_with('/') || text.starts_with("~/") || text.starts_with("./") || text.starts_with("../") || text.starts_with("\\\\");
}

}  // namespace q2c
