#include "formats/gguf_tokenizer.h"

#include <algorithm>
#include <unordered_map>
#include <unordered_set>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr uint64_t kMaxTokens = 4'000'000;

struct Tokens {
  std::vector<std::string> texts;  // by id
  std::vector<int32_t> types;
  std::unordered_map<std::string, uint64_t> ids;
};

Status Place(uint64_t id, const std::string& text, int32_t type, Tokens* tokens) {
  if (id >= tokens->texts.size()) return Refused("gguf-tokenizer", "token '{}' has the id {}, but the embedding has {} rows", Escape(text), id, tokens->texts.size());
  if (text.empty() || text.find('\0') != std::string::npos) return Refused("gguf-tokenizer", "token {} is '{}', which GGUF cannot hold", id, Escape(text));
  const auto [known, is_new] = tokens->ids.emplace(text, id);
  if (known->second != id || (!tokens->texts[id].empty() && is_new)) {
    return Malformed("gguf-tokenizer", "token '{}' and id {} are not one to one", Escape(text), id);
  }
  tokens->texts[id] = text;
  tokens->types[id] = type;
  return {};
}

Result<Tokens> ArrangeTokens(const GgufTokenizerSource& source, uint64_t rows) {
  if (rows > kMaxTokens) return Refused("gguf-tokenizer", "the embedding has {} rows, expected at most {}", rows, kMaxTokens);
  Tokens tokens;
  tokens.texts.resize(rows);
  tokens.types.resize(rows, kTokenUnused);
  for (const auto& [text, id] : source.vocabulary) QC_TRY(Place(id, text, kTokenNormal, &tokens));
  for (const auto& [id, token] : source.added) {
    // Texts of this form steer a model, whatever the flag says; llama.cpp's own converter treats them so too.
    const bool control = token.special || (token.text.starts_with("<|") && token.text.ends_with("|>"));
    QC_TRY(Place(id, token.text, control ? kTokenControl : kTokenUserDefined, &tokens));
  }
  for (uint64_t id = 0; id < rows; ++id) {
    if (tokens.texts[id].empty()) QC_TRY(Place(id, fmt::format("[PAD{}]", id), kTokenUnused, &tokens));
  }
  std::unordered_set<std::string_view> seen;
  for (const std::string& merge : source.merges) {
    const size_t space = merge.find(' ');
    const std::string left = merge.substr(0, space);
    const std::string right = merge.substr(space + 1);
    if (!tokens.ids.contains(left) || !tokens.ids.contains(right) || !tokens.ids.contains(left + right)) {
      return Malformed("gguf-tokenizer", "the merge '{}' uses or makes a token that is not in the vocabulary", Escape(merge));
    }
    if (!seen.insert(merge).second) return Malformed("gguf-tokenizer", "the merge '{}' is there twice", Escape(merge));
  }
  return tokens;
}

// From the tokenizer's files by text, else from config.json or generation_config.json by id (of several the first).
Result<std::optional<uint64_t>> SpecialId(std::string_view kind, const Tokens& tokens, const std::vector<const Json*>& by_text, const std::vector<const Json*>& by_id) {
  for (const Json* object : by_text) {
    const std::string text = SpecialText(*object, fmt::format("{}_token", kind));
    const auto known = tokens.ids.find(text);
    if (!text.empty() && known != tokens.ids.end()) return std::optional<uint64_t>(known->second);
  }
  for (const Json* object : by_id) {
    const Json* value = GetSet(*object, fmt::format("{}_token_id", kind));
    if (value != nullptr && value->is_array() && !value->items().empty()) value = &value->items()[0];
    const std::optional<uint64_t> id = value != nullptr ? value->AsU64() : std::nullopt;
    if (id.has_value() && *id >= tokens.texts.size()) return Malformed("gguf-tokenizer", "{}_token_id is {}, but there are {} tokens", kind, *id, tokens.texts.size());
    if (id.has_value()) return id;
  }
  return std::optional<uint64_t>();
}

// The file beside the others wins, as transformers has it; several templates have names, and "default" is the one in use.
Status AddChatTemplates(const GgufModelFiles& files, const Json& settings, GgufValues* values) {
  QC_ASSIGN(std::optional<std::string> file, files.read("chat_template.jinja"));
  const Json* inner = GetSet(settings, "chat_template");
  std::vector<std::string> names;
  if (inner != nullptr && inner->is_array()) {
    for (const Json& item : inner->items()) {
      const std::string name = TextOf(item, "name");
      const Json* text = GetSet(item, "template");
      const bool plain = !name.empty() && std::ranges::all_of(name, [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_'; });
      if (!plain || text == nullptr || !text->is_string() || std::ranges::find(names, name) != names.end()) {
        return Malformed("gguf-tokenizer", "tokenizer_config.json: the chat template '{}' has no plain name or no text, or is there twice", Escape(name, 60));
      }
      names.push_back(name);
      if (name == "default" && file.has_value()) continue;
      values->emplace_back(name == "default" ? "tokenizer.chat_template" : fmt::format("tokenizer.chat_template.{}", name), GgufValue::String(text->text()));
    }
    std::erase(names, "default");
    if (!names.empty()) values->emplace_back("tokenizer.chat_templates", GgufValue::Strings(names));
  } else if (inner != nullptr && inner->is_string() && !file.has_value()) {
    file = inner->text();
  }
  if (file.has_value()) values->emplace_back("tokenizer.chat_template", GgufValue::String(std::move(*file)));
  return {};
}

}  // namespace

Status AddGgufTokenizer(const GgufModelFiles& files, uint64_t embedding_rows, GgufValues* values) {
  QC_ASSIGN(std::optional<Json> settings, ReadSideJson(files, "tokenizer_config.json"));
  QC_ASSIGN(std::optional<Json> map, ReadSideJson(files, "special_tokens_map.json"));
  QC_ASSIGN(std::optional<Json> generation, ReadSideJson(files, "generation_config.json"));
  for (std::optional<Json>* json : {&settings, &map, &generation}) {
    if (!json->has_value()) *json = Json::Object();
  }
  QC_ASSIGN(GgufTokenizerSource source, ReadGgufTokenizer(files, *settings, *map));
  QC_ASSIGN(Tokens tokens, ArrangeTokens(source, embedding_rows));

  const std::vector<const Json*> by_text = {&*settings, &*map};
  const std::vector<const Json*> by_id = {&files.config, &*generation};
  QC_ASSIGN(const std::optional<uint64_t> bos, SpecialId("bos", tokens, by_text, by_id));
  QC_ASSIGN(const std::optional<uint64_t> eos, SpecialId("eos", tokens, by_text, by_id));
  QC_ASSIGN(const std::optional<uint64_t> padding, SpecialId("pad", tokens, by_text, by_id));
  // llama.cpp would take token 11.
  if (!eos.has_value()) return Refused("gguf-tokenizer", "neither tokenizer_config.json nor config.json names a token that ends a text (eos_token)");
  const auto is = [&](const std::string& text, const std::optional<uint64_t>& id) { return id.has_value() && tokens.texts[*id] == text; };
  if ((!source.first.empty() && !is(source.first, bos)) || (!source.last.empty() && !is(source.last, eos))) {
    return Refused("gguf-tokenizer", "tokenizer.json puts '{}' before and '{}' after a text, which are not its bos and eos tokens", Escape(source.first), Escape(source.last));
  }

  const auto put = [&](std::string_view key, GgufValue value) { values->emplace_back(fmt::format("tokenizer.ggml.{}", key), std::move(value)); };
  put("model", GgufValue::String("gpt2"));
  put("pre", GgufValue::String(std::string(source.pre)));
  put("tokens", GgufValue::Strings(std::move(tokens.texts)));
  put("token_type", GgufValue::I32s(tokens.types));
  put("merges", GgufValue::Strings(std::move(source.merges)));
  if (bos.has_value()) put("bos_token_id", GgufValue::U32(static_cast<uint32_t>(*bos)));
  put("eos_token_id", GgufValue::U32(static_cast<uint32_t>(*eos)));
  if (padding.has_value()) put("padding_token_id", GgufValue::U32(static_cast<uint32_t>(*padding)));
  put("add_bos_token", GgufValue::Bool(!source.first.empty()));
  if (!source.last.empty()) put("add_eos_token", GgufValue::Bool(true));
  return AddChatTemplates(files, *settings, values);
}

}  // namespace q2c
