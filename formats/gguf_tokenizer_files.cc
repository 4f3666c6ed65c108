#include "formats/gguf_tokenizer.h"

#include <algorithm>
#include <array>
#include <set>

#include "formats/base/text.h"

namespace q2c {
namespace {

constexpr std::array kSplits = {
    GgufSplit{"qwen2", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", false, false},
    GgufSplit{"qwen35", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", false, false},
    GgufSplit{"llama-bpe", R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)", true, false},
    GgufSplit{"gpt-2", R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", false, true},
};

bool Is(const Json& object, std::string_view key, bool fallback) {
  const Json* value = GetSet(object, key);
  return value == nullptr ? fallback : value->AsBool().value_or(!fallback);
}
std::string Shown(const Json& value) { return Escape(value.Dump(-1), 300); }

// Which of llama.cpp's ways to split a text this is.
Result<std::string_view> RecogniseSplit(const Json* pre_tokenizer, bool ignore_merges) {
  if (pre_tokenizer == nullptr) return Refused("gguf-tokenizer", "tokenizer.json has no pre_tokenizer; llama.cpp splits texts by a regular expression it knows");
  std::vector<const Json*> steps = {pre_tokenizer};
  if (TextOf(*pre_tokenizer, "type") == "Sequence") {
    steps.clear();
    const Json* list = GetSet(*pre_tokenizer, "pretokenizers");
    if (list != nullptr) {
      for (const Json& step : list->items()) steps.push_back(&step);
    }
  }
  const GgufSplit* split = nullptr;
  const bool byte_level = !steps.empty() && TextOf(*steps.back(), "type") == "ByteLevel" && !Is(*steps.back(), "add_prefix_space", true);
  if (byte_level && steps.size() == 1 && Is(*steps[0], "use_regex", true)) {
    const auto* const builtin = std::ranges::find(kSplits, true, &GgufSplit::builtin);
    split = FindGgufSplit(builtin->regex, ignore_merges);
  } else if (byte_level && steps.size() == 2 && !Is(*steps[1], "use_regex", true) && TextOf(*steps[0], "type") == "Split" && TextOf(*steps[0], "behavior") == "Isolated" &&
             !Is(*steps[0], "invert", false)) {
    const Json* pattern = GetSet(*steps[0], "pattern");
    if (pattern != nullptr) split = FindGgufSplit(TextOf(*pattern, "Regex"), ignore_merges);
  }
  if (split == nullptr) {
    return Refused("gguf-tokenizer", "tokenizer.json: the pre_tokenizer {}{} is none that llama.cpp is known to have", Shown(*pre_tokenizer), ignore_merges ? " with ignore_merges" : "");
  }
  return split->pre;
}

// llama.cpp normalises nothing; NFC, which every Qwen2 tokenizer asks for, changes only texts that are not in it already.
Status CheckNormalizer(const Json* normalizer) {
  if (normalizer == nullptr || TextOf(*normalizer, "type") == "NFC") return {};
  const Json* list = GetSet(*normalizer, "normalizers");
  const bool harmless = TextOf(*normalizer, "type") == "Sequence" && list != nullptr && std::ranges::all_of(list->items(), [](const Json& step) { return TextOf(step, "type") == "NFC"; });
  if (!harmless) return Refused("gguf-tokenizer", "tokenizer.json: the normalizer {} has no counterpart in llama.cpp", Shown(*normalizer));
  return {};
}

// The tokens that are put around a text.
Status ReadPostProcessor(const Json* post, GgufTokenizerSource* source) {
  if (post == nullptr) return {};
  const std::string type = TextOf(*post, "type");
  if (type == "ByteLevel") return {};  // moves offsets only
  if (type == "Sequence") {
    const Json* list = GetSet(*post, "processors");
    if (list == nullptr) return {};
    for (const Json& step : list->items()) {
      if (TextOf(step, "type") == "Sequence") return Refused("gguf-tokenizer", "tokenizer.json: a post_processor inside a post_processor");
      QC_TRY(ReadPostProcessor(&step, source));
    }
    return {};
  }
  const Json* single = type == "TemplateProcessing" ? GetSet(*post, "single") : nullptr;
  bool understood = single != nullptr;
  bool text_seen = false;
  if (understood) {
    for (const Json& piece : single->items()) {
      const Json* special = GetSet(piece, "SpecialToken");
      if (special == nullptr) {
        understood = understood && !text_seen && GetSet(piece, "Sequence") != nullptr;
        text_seen = true;
        continue;
      }
      std::string& place = text_seen ? source->last : source->first;
      understood = understood && place.empty();
      place = TextOf(*special, "id");
    }
  }
  if (!understood || !text_seen) return Refused("gguf-tokenizer", "tokenizer.json: the post_processor {} has no counterpart in llama.cpp", Shown(*post));
  return {};
}

Result<std::string> ReadMerge(const Json& merge) {
  const auto join = [&](std::string_view left, std::string_view right) -> Result<std::string> {
    if (left.empty() || right.empty() || left.find(' ') != std::string_view::npos || right.find(' ') != std::string_view::npos) {
      return Malformed("gguf-tokenizer", "tokenizer.json: {} is no merge of two byte-level tokens", Shown(merge));
    }
    return fmt::format("{} {}", left, right);
  };
  if (merge.is_string()) {
    const size_t space = merge.text().find(' ');
    if (space == std::string::npos) return join("", "");
    return join(std::string_view(merge.text()).substr(0, space), std::string_view(merge.text()).substr(space + 1));
  }
  if (merge.items().size() != 2 || !merge.items()[0].is_string() || !merge.items()[1].is_string()) return join("", "");
  return join(merge.items()[0].text(), merge.items()[1].text());
}

Status ReadVocabulary(const Json& vocabulary, std::string_view file, GgufTokenizerSource* source) {
  for (const auto& [text, value] : vocabulary.members()) {
    const std::optional<uint64_t> id = value.AsU64();
    if (!id.has_value()) return Malformed("gguf-tokenizer", "{}: token '{}' has the id {}, expected a whole number", file, Escape(text), Shown(value));
    source->vocabulary.emplace_back(text, *id);
  }
  return {};
}

// llama.cpp does not take white space around a token into it, nor looks for whole words.
Status AddToken(const Json& token, uint64_t id, std::string_view file, GgufTokenizerSource* source) {
  GgufAddedToken added{TextOf(token, "content"), Is(token, "special", false)};
  for (const char* key : {"lstrip", "rstrip", "single_word"}) {
    if (Is(token, key, false)) return Refused("gguf-tokenizer", "{}: the added token '{}' has {} set, which has no counterpart in llama.cpp", file, Escape(added.text), key);
  }
  const auto [same, is_new] = source->added.emplace(id, added);
  if (same->second.text != added.text) {
    return Malformed("gguf-tokenizer", "{}: token {} is '{}', elsewhere it is '{}'", file, id, Escape(added.text), Escape(same->second.text));
  }
  same->second.special = same->second.special || added.special;
  return {};
}

// Every byte has its character in a byte-level vocabulary: then no text is unknown.
bool HasEveryByte(const GgufTokenizerSource& source) {
  std::set<std::string> wanted;
  uint32_t next = 256;  // the bytes that are no visible character get the code points from here on
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const uint32_t point = visible ? byte : next++;
    wanted.insert(point < 128 ? std::string(1, static_cast<char>(point)) : std::string{static_cast<char>(0xC0U | (point >> 6U)), static_cast<char>(0x80U | (point & 0x3FU))});
  }
  for (const auto& [text, id] : source.vocabulary) wanted.erase(text);
  return wanted.empty();
}

Result<GgufTokenizerSource> FromTokenizerJson(const Json& tokenizer) {
  GgufTokenizerSource source;
  const Json* model = GetSet(tokenizer, "model");
  if (model == nullptr || TextOf(*model, "type") != "BPE") {
    return Refused("gguf-tokenizer", "tokenizer.json: the model is of type '{}', only byte-level BPE can be written", model == nullptr ? "" : Escape(TextOf(*model, "type"), 60));
  }
  for (const char* key : {"dropout", "continuing_subword_prefix", "end_of_word_suffix"}) {
    const Json* value = GetSet(*model, key);
    if (value != nullptr && !(value->is_string() && value->text().empty())) return Refused("gguf-tokenizer", "tokenizer.json: the model has {} = {}, which llama.cpp does not know", key, Shown(*value));
  }
  if (Is(*model, "byte_fallback", false)) return Refused("gguf-tokenizer", "tokenizer.json: the model has byte_fallback, only byte-level BPE can be written");
  QC_ASSIGN(source.pre, RecogniseSplit(GetSet(tokenizer, "pre_tokenizer"), Is(*model, "ignore_merges", false)));
  QC_TRY(CheckNormalizer(GetSet(tokenizer, "normalizer")));
  QC_TRY(ReadPostProcessor(GetSet(tokenizer, "post_processor"), &source));
  const Json* vocabulary = GetSet(*model, "vocab");
  const Json* merges = GetSet(*model, "merges");
  if (vocabulary == nullptr || !vocabulary->is_object() || merges == nullptr || !merges->is_array()) return Malformed("gguf-tokenizer", "tokenizer.json: vocab or merges are absent");
  QC_TRY(ReadVocabulary(*vocabulary, "tokenizer.json", &source));
  if (!TextOf(*model, "unk_token").empty() && !HasEveryByte(source)) {
    return Refused("gguf-tokenizer", "tokenizer.json: the model has an unk_token and not every byte in its vocabulary, which llama.cpp does not know");
  }
  for (const Json& merge : merges->items()) {
    QC_ASSIGN(std::string joined, ReadMerge(merge));
    source.merges.push_back(std::move(joined));
  }
  if (const Json* added = GetSet(tokenizer, "added_tokens")) {
    for (const Json& token : added->items()) {
      const Json* id = GetSet(token, "id");
      if (id == nullptr || !id->AsU64().has_value()) return Malformed("gguf-tokenizer", "tokenizer.json: an added token has no id: {}", Shown(token));
      QC_TRY(AddToken(token, *id->AsU64(), "tokenizer.json", &source));
    }
  }
  return source;
}

// vocab.json and merges.txt of a Qwen2Tokenizer, which has its regular expression in its code.
Result<GgufTokenizerSource> FromVocabularyAndMerges(const Json& vocabulary, std::string_view merges) {
  GgufTokenizerSource source;
  source.pre = "qwen2";
  QC_TRY(ReadVocabulary(vocabulary, "vocab.json", &source));
  for (size_t start = 0; start < merges.size();) {
    const size_t end = std::min(merges.find('\n', start), merges.size());
    std::string_view line = merges.substr(start, end - start);
    if (line.ends_with('\r')) line.remove_suffix(1);
    const bool title = start == 0 && line.starts_with("#version");
    start = end + 1;
    if (title || line.empty()) continue;
    QC_ASSIGN(std::string joined, ReadMerge(Json::String(line)));
    source.merges.push_back(std::move(joined));
  }
  return source;
}

Result<GgufTokenizerSource> Read(const GgufModelFiles& files, const Json& settings) {
  QC_ASSIGN(const std::optional<Json> tokenizer, ReadSideJson(files, "tokenizer.json"));
  if (tokenizer.has_value()) return FromTokenizerJson(*tokenizer);
  QC_ASSIGN(const std::optional<Json> vocabulary, ReadSideJson(files, "vocab.json"));
  QC_ASSIGN(const std::optional<std::string> merges, files.read("merges.txt"));
  const std::string kind = TextOf(settings, "tokenizer_class");
  if (!vocabulary.has_value() || !merges.has_value()) {
    return Refused("gguf-tokenizer", "the checkpoint has no tokenizer.json{}; copy the tokenizer's files of the original model beside it", vocabulary.has_value() ? " and no merges.txt" : "");
  }
  if (kind != "Qwen2Tokenizer" && kind != "Qwen2TokenizerFast") {
    return Refused("gguf-tokenizer", "the checkpoint has no tokenizer.json, and tokenizer_config.json names the class '{}', expected Qwen2Tokenizer", Escape(kind, 60));
  }
  return FromVocabularyAndMerges(*vocabulary, *merges);
}

// Added tokens that only the other files name, and which of all are special.
Status ReadOtherAddedTokens(const Json& settings, const Json& map, const std::optional<Json>& listed, GgufTokenizerSource* source) {
  if (const Json* decoder = GetSet(settings, "added_tokens_decoder")) {
    for (const auto& [key, token] : decoder->members()) {
      const std::optional<uint64_t> id = Json::Number(key).AsU64();
      if (!id.has_value()) return Malformed("gguf-tokenizer", "tokenizer_config.json: added_tokens_decoder has the key '{}', expected a token id", Escape(key, 60));
      QC_TRY(AddToken(token, *id, "tokenizer_config.json", source));
    }
  }
  if (listed.has_value()) {
    for (const auto& [text, id] : listed->members()) {
      if (!id.AsU64().has_value()) return Malformed("gguf-tokenizer", "added_tokens.json: token '{}' has the id {}", Escape(text), Shown(id));
      QC_TRY(AddToken(Json::Object({{"content", Json::String(text)}}), *id.AsU64(), "added_tokens.json", source));
    }
  }
  std::set<std::string> special;
  for (const Json* object : {&settings, &map}) {
    for (const char* key : {"bos_token", "eos_token", "pad_token", "unk_token"}) special.insert(SpecialText(*object, key));
    for (const char* key : {"additional_special_tokens", "extra_special_tokens"}) {
      const Json* list = GetSet(*object, key);
      if (list == nullptr) continue;
      for (const Json& item : list->items()) special.insert(item.is_object() ? TextOf(item, "content") : item.text());
    }
  }
  for (auto& [id, token] : source->added) token.special = token.special || special.contains(token.text);
  return {};
}

}  // namespace

const GgufSplit* FindGgufSplit(std::string_view regex, bool ignore_merges) {
  const auto* const found = std::ranges::find_if(kSplits, [&](const GgufSplit& split) { return split.regex == regex && split.ignore_merges == ignore_merges; });
  return found == kSplits.end() ? nullptr : &*found;
}

const GgufSplit* FindGgufPre(std::string_view pre) {
  const auto* const found = std::ranges::find(kSplits, pre, &GgufSplit::pre);
  return found == kSplits.end() ? nullptr : &*found;
}

const Json* GetSet(const Json& object, std::string_view key) {
  const Json* value = object.Find(key);
  return value == nullptr || value->is_null() ? nullptr : value;
}
std::string TextOf(const Json& object, std::string_view key) {
  const Json* value = GetSet(object, key);
  return value != nullptr && value->is_string() ? value->text() : std::string();
}

std::string SpecialText(const Json& object, std::string_view key) {
  const Json* value = GetSet(object, key);
  if (value == nullptr) return {};
  return value->is_object() ? TextOf(*value, "content") : value->is_string() ? value->text() : std::string();
}

Result<std::optional<Json>> ReadSideJson(const GgufModelFiles& files, std::string_view name) {
  QC_ASSIGN(const std::optional<std::string> text, files.read(name));
  if (!text.has_value()) return std::optional<Json>();
  Result<Json> json = ParseJson(*text, JsonNumbers::kAllowNan);
  if (!json.ok()) return std::move(json).TakeError().Within(name);
  if (!json.value().is_object()) return Malformed("gguf-tokenizer", "{} is {}, expected an object", name, json.value().KindName());
  return std::optional<Json>(std::move(json).value());
}

Result<GgufTokenizerSource> ReadGgufTokenizer(const GgufModelFiles& files, const Json& settings, const Json& map) {
  QC_ASSIGN(const std::optional<Json> listed, ReadSideJson(files, "added_tokens.json"));
  QC_ASSIGN(GgufTokenizerSource source, Read(files, settings));
  QC_TRY(ReadOtherAddedTokens(settings, map, listed, &source));
  return source;
}

}  // namespace q2c
