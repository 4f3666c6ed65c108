// The way back: tokenizer.json and tokenizer_config.json from the key-values.
#include <algorithm>
#include <set>

#include "formats/base/text.h"
#include "formats/gguf_tokenizer.h"

namespace q2c {
namespace {

const GgufValue* Find(const GgufValues& values, std::string_view key) { return FindGguf(values, fmt::format("tokenizer.ggml.{}", key)); }

std::string TextAt(const GgufValues& values, std::string_view key) {
  const GgufValue* value = FindGguf(values, key);
  return value != nullptr && !value->is_array() ? std::string(value->AsText().value_or("")) : std::string();
}

Result<const std::vector<std::string>*> Texts(const GgufValues& values, std::string_view key) {
  const GgufValue* value = Find(values, key);
  if (value == nullptr || !value->is_array() || !value->is_string()) return Malformed("gguf-metadata", "'tokenizer.ggml.{}' is absent or no list of texts", key);
  return &value->texts();
}

Json ByteLevel(bool use_regex) {
  return Json::Object({{"type", Json::String("ByteLevel")}, {"add_prefix_space", Json::Bool(false)}, {"trim_offsets", Json::Bool(false)}, {"use_regex", Json::Bool(use_regex)}});
}

Json PreTokenizer(const GgufSplit& split) {
  if (split.builtin) return ByteLevel(true);
  Json step = Json::Object({{"type", Json::String("Split")}, {"pattern", Json::Object({{"Regex", Json::String(split.regex)}})}, {"behavior", Json::String("Isolated")}, {"invert", Json::Bool(false)}});
  return Json::Object({{"type", Json::String("Sequence")}, {"pretokenizers", Json::Array({std::move(step), ByteLevel(false)})}});
}

Json AddedToken(const std::string& text, bool special) {
  return Json::Object({{"content", Json::String(text)}, {"single_word", Json::Bool(false)}, {"lstrip", Json::Bool(false)}, {"rstrip", Json::Bool(false)}, {"normalized", Json::Bool(false)},
                       {"special", Json::Bool(special)}});
}

struct Special {
  std::string text;  // empty: none
  uint64_t id = 0;
};
Result<Special> SpecialToken(const GgufValues& values, std::string_view kind, const std::vector<std::string>& tokens) {
  const GgufValue* value = Find(values, fmt::format("{}_token_id", kind));
  if (value == nullptr) return Special{};
  const std::optional<uint64_t> id = value->is_array() ? std::nullopt : value->AsU64();
  if (!id.has_value() || *id >= tokens.size()) return Malformed("gguf-metadata", "'tokenizer.ggml.{}_token_id' is not one of the {} tokens", kind, tokens.size());
  return Special{tokens[*id], *id};
}
bool Adds(const GgufValues& values, std::string_view kind, bool fallback) {
  const GgufValue* value = Find(values, fmt::format("add_{}_token", kind));
  return value == nullptr ? fallback : value->AsBool().value_or(fallback);
}

// What is put around a text; without anything only offsets are moved.
Json PostProcessor(const Special& first, const Special& last) {
  if (first.text.empty() && last.text.empty()) return ByteLevel(false);
  const auto piece = [](const char* kind, const std::string& id, int type) { return Json::Object({{kind, Json::Object({{"id", Json::String(id)}, {"type_id", Json::Integer(type)}})}}); };
  Json single = Json::Array();
  Json pair = Json::Array();
  for (const auto& [name, type] : {std::pair{"A", 0}, std::pair{"B", 1}}) {
    std::vector<Json> part;
    if (!first.text.empty()) part.push_back(piece("SpecialToken", first.text, type));
    part.push_back(piece("Sequence", name, type));
    if (!last.text.empty()) part.push_back(piece("SpecialToken", last.text, type));
    for (const Json& each : part) {
      if (type == 0) single.items().push_back(each);
      pair.items().push_back(each);
    }
  }
  Json special = Json::Object();
  for (const Special* token : {&first, &last}) {
    if (token->text.empty()) continue;
    special.Set(token->text, Json::Object({{"id", Json::String(token->text)}, {"ids", Json::Array({Json::Integer(token->id)})}, {"tokens", Json::Array({Json::String(token->text)})}}));
  }
  return Json::Object({{"type", Json::String("TemplateProcessing")}, {"single", std::move(single)}, {"pair", std::move(pair)}, {"special_tokens", std::move(special)}});
}

Json ChatTemplate(const GgufValues& values) {
  const std::string usual = TextAt(values, "tokenizer.chat_template");
  const GgufValue* names = FindGguf(values, "tokenizer.chat_templates");
  if (names == nullptr || names->texts().empty()) return usual.empty() ? Json() : Json::String(usual);
  Json list = Json::Array();
  if (!usual.empty()) list.items().push_back(Json::Object({{"name", Json::String("default")}, {"template", Json::String(usual)}}));
  for (const std::string& name : names->texts()) {
    const std::string text = TextAt(values, fmt::format("tokenizer.chat_template.{}", name));
    list.items().push_back(Json::Object({{"name", Json::String(name)}, {"template", Json::String(text)}}));
  }
  return list;
}

// Every token keeps its id in the model's vocabulary, also the added ones: without it the library would number them anew.
struct Vocabulary {
  std::vector<Json::Member> model;
  std::vector<Json> added;
  std::vector<Json::Member> decoder;  // the same by id, for tokenizer_config.json
};
Result<Vocabulary> ReadTokens(const std::vector<std::string>& tokens, const GgufValue* types) {
  if (types != nullptr && (!types->is_array() || types->size() != tokens.size())) {
    return Malformed("gguf-metadata", "'tokenizer.ggml.token_type' is {}, expected one number for each of {} tokens", types->KindName(), tokens.size());
  }
  Vocabulary vocabulary;
  std::set<std::string_view> seen;
  for (size_t id = 0; id < tokens.size(); ++id) {
    const std::string& text = tokens[id];
    if (!IsUtf8(text) || text.empty()) return Malformed("gguf-metadata", "token {} is '{}', expected a text in UTF-8", id, Escape(text));
    if (!seen.insert(text).second) return Malformed("gguf-metadata", "token '{}' is there twice", Escape(text));
    const int64_t type = types == nullptr ? kTokenNormal : types->AsI64(id).value_or(kTokenNormal);
    if (type == kTokenUnused && text == fmt::format("[PAD{}]", id)) continue;  // fills up the rows of the embedding
    vocabulary.model.emplace_back(text, Json::Integer(static_cast<uint64_t>(id)));
    if (type != kTokenControl && type != kTokenUserDefined) continue;
    Json token = AddedToken(text, type == kTokenControl);
    vocabulary.decoder.emplace_back(fmt::format("{}", id), token);
    token.members().insert(token.members().begin(), {"id", Json::Integer(static_cast<uint64_t>(id))});
    vocabulary.added.push_back(std::move(token));
  }
  return vocabulary;
}

}  // namespace

Result<std::vector<std::pair<std::string, std::string>>> TokenizerFromGguf(const GgufValues& values) {
  const std::string model = TextAt(values, "tokenizer.ggml.model");
  const std::string pre = TextAt(values, "tokenizer.ggml.pre");
  const GgufSplit* split = FindGgufPre(pre);
  if (model != "gpt2" || split == nullptr) {
    return Refused("gguf-tokenizer", "the file has a tokenizer '{}' of kind '{}', which cannot be written as tokenizer.json", Escape(model, 60), Escape(pre, 60));
  }
  for (const auto& [key, value] : values) {
    if (key.starts_with("tokenizer.") && std::ranges::any_of(value.texts(), [](const std::string& text) { return !IsUtf8(text); })) {
      return Malformed("gguf-metadata", "'{}' is not in UTF-8", Escape(key));
    }
  }
  QC_ASSIGN(const std::vector<std::string>* tokens, Texts(values, "tokens"));
  QC_ASSIGN(const std::vector<std::string>* merges, Texts(values, "merges"));
  QC_ASSIGN(Vocabulary vocabulary, ReadTokens(*tokens, Find(values, "token_type")));
  QC_ASSIGN(const Special bos, SpecialToken(values, "bos", *tokens));
  QC_ASSIGN(const Special eos, SpecialToken(values, "eos", *tokens));
  QC_ASSIGN(const Special padding, SpecialToken(values, "padding", *tokens));
  const bool add_bos = Adds(values, "bos", split->ignore_merges);  // llama.cpp's own default for this kind
  const bool add_eos = Adds(values, "eos", false);
  Json pairs = Json::Array();
  for (const std::string& merge : *merges) {
    if (std::ranges::count(merge, ' ') != 1 || merge.front() == ' ' || merge.back() == ' ') return Malformed("gguf-metadata", "'{}' is no merge of two tokens", Escape(merge));
    pairs.items().push_back(Json::String(merge));
  }

  Json bpe = Json::Object({{"type", Json::String("BPE")}, {"dropout", Json()}, {"unk_token", Json()}, {"continuing_subword_prefix", Json()}, {"end_of_word_suffix", Json()},
                           {"fuse_unk", Json::Bool(false)}, {"byte_fallback", Json::Bool(false)}, {"ignore_merges", Json::Bool(split->ignore_merges)},
                           {"vocab", Json::Object(std::move(vocabulary.model))}, {"merges", std::move(pairs)}});
  const bool normalised = pre.starts_with("qwen");
  const Json tokenizer = Json::Object({{"version", Json::String("1.0")}, {"truncation", Json()}, {"padding", Json()}, {"added_tokens", Json::Array(std::move(vocabulary.added))},
                                       {"normalizer", normalised ? Json::Object({{"type", Json::String("NFC")}}) : Json()}, {"pre_tokenizer", PreTokenizer(*split)},
                                       {"post_processor", PostProcessor(add_bos ? bos : Special{}, add_eos ? eos : Special{})}, {"decoder", ByteLevel(false)}, {"model", std::move(bpe)}});

  const auto named = [](const Special& token) { return token.text.empty() ? Json() : Json::String(token.text); };
  Json settings = Json::Object({{"add_prefix_space", Json::Bool(false)}, {"added_tokens_decoder", Json::Object(std::move(vocabulary.decoder))}, {"bos_token", named(bos)},
                                {"clean_up_tokenization_spaces", Json::Bool(false)}, {"eos_token", named(eos)}, {"pad_token", named(padding)},
                                {"tokenizer_class", Json::String(pre == "qwen2" ? "Qwen2Tokenizer" : "PreTrainedTokenizerFast")}, {"unk_token", Json()}});
  Json chat = ChatTemplate(values);
  if (!chat.is_null()) settings.Set("chat_template", std::move(chat));
  return std::vector<std::pair<std::string, std::string>>{{"tokenizer.json", tokenizer.Dump() + "\n"}, {"tokenizer_config.json", settings.Dump() + "\n"}};
}

}  // namespace q2c
