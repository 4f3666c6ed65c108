// The tokenizer's part of gguf_metadata.h; not for others.
#pragma once

#include <map>

#include "formats/gguf_metadata.h"

namespace q2c {

// Appends tokenizer.ggml.* and tokenizer.chat_template*. Errors as MakeGgufMetadata.
Status AddGgufTokenizer(const GgufModelFiles& files, uint64_t embedding_rows, GgufValues* values);

// A regular expression by which a byte-level BPE tokenizer splits a text, and the name of llama.cpp for it.
struct GgufSplit {
  std::string_view pre;
  std::string_view regex;
  bool ignore_merges;  // a word that is a token needs no merges
  bool builtin;        // the one that ByteLevel has built in
};
const GgufSplit* FindGgufSplit(std::string_view regex, bool ignore_merges);  // null: not known
const GgufSplit* FindGgufPre(std::string_view pre);

struct GgufAddedToken {
  std::string text;
  bool special = false;
};

// A byte-level BPE tokenizer, whichever files it came from.
struct GgufTokenizerSource {
  std::vector<std::pair<std::string, uint64_t>> vocabulary;
  std::vector<std::string> merges;  // "a b"
  std::map<uint64_t, GgufAddedToken> added;  // by id
  std::string_view pre;
  std::string first;  // the token put before every text; empty: none
  std::string last;   // and after it
};

// From tokenizer.json, or vocab.json and merges.txt; added tokens from the other files too. `settings` is tokenizer_config.json, `map`
// special_tokens_map.json, each an empty object where it is absent. Errors as MakeGgufMetadata.
Result<GgufTokenizerSource> ReadGgufTokenizer(const GgufModelFiles& files, const Json& settings, const Json& map);

Result<std::optional<Json>> ReadSideJson(const GgufModelFiles& files, std::string_view name);  // an object, or nothing
const Json* GetSet(const Json& object, std::string_view key);         // null where the key is absent or null
std::string TextOf(const Json& object, std::string_view key);         // "" unless a string
std::string SpecialText(const Json& object, std::string_view key);    // of bos_token and the like: a string, or an object with the content

// As llama.cpp numbers them.
inline constexpr int32_t kTokenNormal = 1;
inline constexpr int32_t kTokenControl = 3;
inline constexpr int32_t kTokenUserDefined = 4;
inline constexpr int32_t kTokenUnused = 5;

}  // namespace q2c
